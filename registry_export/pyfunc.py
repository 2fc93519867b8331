"""What MLflow calls to load an export: the `loader_module` of its `MLmodel`.

`mlflow.pyfunc.load_model` and `mlflow models serve` arrive here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from registry_export.binding import bind_inputs
from registry_export.loaded import LoadedExport
from registry_export.manifest import Verifier, verify_files
from registry_export.settings import Settings


class ServedExport:
    """An export as MLflow calls it: with data in any of MLflow's forms.

    Args:
        loaded: The export.
    """

    def __init__(self, loaded: LoadedExport) -> None:
        self._loaded = loaded

    def predict(self, data: Any, params: Mapping[str, Any] | None = None) -> Any:  # noqa: ARG002
        """Run the model once, on whatever MLflow and people hand over.

        Args:
            data: As `bind_inputs` takes it.
            params: Takes none; MLflow passes it.

        Returns:
            An array for a model with one output, else arrays by output name.

        Raises:
            VerificationError: The data do not fit the inputs; names the input.
        """
        outputs = self._loaded.infer(bind_inputs(data, self._loaded.interface.inputs))
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs


def _load_pyfunc(path: str) -> ServedExport:
    """Open the export in a folder; MLflow's name for it.

    Raises:
        ArtifactError: `REGISTRY_EXPORT_VERIFY_KEY` is set, and this is not what was signed with that key.
    """
    folder = Path(path)
    key = Settings.from_environment().verify_key
    if key is not None:
        Verifier.read(key).check(folder, verify_files(folder))
    return ServedExport(LoadedExport(folder))
