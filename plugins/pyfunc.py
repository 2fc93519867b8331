"""PyTorch models inside Python functions of MLflow (`mlflow.pyfunc.log_model(python_model=...)`).

A source only. The module is looked for among the attributes of the author's object after `load_context`.
What the author does before and after it stays outside of the export.

Source: https://mlflow.org/docs/latest/model/python_model.html
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from registry_export.entities import Interface
from registry_export.format import Array, ModelSetup
from registry_export_plugins._pyfunc.recognition import TORCH, framework_inside
from registry_export_plugins._torch.source import TorchSource


class PyFunc(TorchSource):
    """The format `pyfunc`; see `registry_export.format.Format` for what its members mean."""

    name = "pyfunc"
    summary = "PyTorch module inside a Python function of MLflow"
    extra = "pyfunc"
    requirements = ("torch", "mlflow")
    filename = "model"
    inside = True
    setup = ("wrapper", "allow_pickle", "pruning")

    def locate(self, folder: Path, flavors: Mapping[str, Mapping[str, Any]]) -> Path | None:
        """Find a Python function that has to do with PyTorch.

        Raises:
            UnsupportedSourceError: It is one that has to do with no framework that can be exported.
        """
        return folder if framework_inside(folder, flavors) == TORCH else None

    def module(self, path: Path, setup: ModelSetup) -> Any:
        """Load the function and return the module in it.

        Raises:
            SourceError: It cannot be loaded, or there is not exactly one.
        """
        from registry_export_plugins._torch.functions import module_inside

        return module_inside(path, setup)

    def declared(self, path: Path, interface: Interface, module: Any) -> Interface:
        """Return what the function calls the module with; its own signature says nothing of that."""
        from registry_export_plugins._torch.functions import called_with

        return called_with(module, interface)

    def example(self, path: Path, module: Any, interface: Interface) -> Mapping[str, Array] | None:
        """Return what the module was called with on the function's input example."""
        from registry_export_plugins._torch.functions import recorded_inputs

        return recorded_inputs(module)

    def notes(self, path: Path, module: Any) -> tuple[str, ...]:
        """Say what is exported and what is not."""
        from registry_export_plugins._torch.functions import place_of

        inside = f"The PyTorch module {place_of(module)} of the Python function is exported"
        return (f"{inside}; what predict() does before and after it stays outside.",)
