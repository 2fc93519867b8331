"""A model version as the registry has it, and how MLflow's record of one is read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from registry_export.entities import ModelVersionRef
from registry_export.registry.location import Location, logged_model_in

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

OWN_TAGS = "registry_export."


@dataclass(frozen=True)
class VersionInfo:
    """One model version as the registry has it.

    Attributes:
        source: Where it was registered from (`models:/m-...`, `runs:/...`, a path).
        run_id: The run that logged it, or None.
        logged_model_id: The logged model that it is, or None for the folder of a run.
        stage: `None`, `Staging`, `Production` or `Archived`, as MLflow writes them.
        last_updated_ms: Milliseconds since the epoch; MLflow moves it for stages and descriptions,
            not for aliases and tags.
        created_ms: When the version was made, in milliseconds since the epoch.
        status: MLflow's own (`READY`).
        files_id: The same for all versions that share a folder of files; empty where it was not looked up.
    """

    ref: ModelVersionRef
    source: str
    run_id: str | None = None
    logged_model_id: str | None = None
    stage: str = "None"
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    experiment_id: str | None = None
    last_updated_ms: int = 0
    created_ms: int = 0
    status: str = "READY"
    files_id: str = ""


def ref_of(version: ModelVersion) -> ModelVersionRef:
    """Return which version a record of MLflow's is of."""
    return ModelVersionRef(name=str(version.name), version=str(version.version))


def _files_id(place: Location) -> str:
    return place.logged_model_id or hashlib.sha256(place.uri.encode()).hexdigest()


def info_of(version: ModelVersion, place: Location | None = None) -> VersionInfo:
    """Read a record of MLflow's.

    Args:
        version: The record.
        place: The version's folder, where it was looked up.
    """
    return VersionInfo(
        ref=ref_of(version),
        source=str(version.source or ""),
        run_id=version.run_id or None,
        logged_model_id=place.logged_model_id if place else logged_model_in(version.source),
        stage=str(version.current_stage or "None"),
        aliases=tuple(version.aliases or ()),
        tags={name: value for name, value in (version.tags or {}).items() if value or not name.startswith(OWN_TAGS)},
        description=version.description or "",
        experiment_id=place.experiment_id if place else None,
        files_id=_files_id(place) if place else "",
        last_updated_ms=int(version.last_updated_timestamp or 0),
        created_ms=int(version.creation_timestamp or 0),
        status=str(version.status),
    )
