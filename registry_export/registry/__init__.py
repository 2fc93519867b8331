"""The model registry, seen through MLflow's public client: the only place that talks to it.

`Registry` reads versions, moves files and writes tags; `read_model` understands a downloaded model
folder. MLflow is imported inside functions, because importing it takes seconds.
"""

from registry_export.registry.alias_rounds import ROUND_S, AliasRounds
from registry_export.registry.blobs import Blobs
from registry_export.registry.client import Registry
from registry_export.registry.connection import Claim
from registry_export.registry.listings import AliasPage
from registry_export.registry.location import Location
from registry_export.registry.model_files import ModelFiles, read_model
from registry_export.registry.version_files import EXPORTS_FOLDER
from registry_export.registry.version_info import VersionInfo

__all__ = [
    "EXPORTS_FOLDER",
    "ROUND_S",
    "AliasPage",
    "AliasRounds",
    "Blobs",
    "Claim",
    "Location",
    "ModelFiles",
    "Registry",
    "VersionInfo",
    "read_model",
]
