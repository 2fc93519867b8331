"""PyTorch modules, pickled whole, as MLflow's `pytorch` flavor logs them with `serialization_format="pickle"`.

A source only. Loading one runs its author's code.

Source: https://pytorch.org/docs/stable/notes/serialization.html
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from registry_export.entities import Description, Interface
from registry_export.format import TORCH_MODULE, Conversion, Option, Runner
from registry_export_plugins._toolchains import TORCH
from registry_export_plugins._torch.files import is_torchscript, pytorch_file


class PyTorch:
    """The format `pytorch`; see `registry_export.format.Format` for what its members mean."""

    name = "pytorch"
    summary = "pickled PyTorch module (.pth)"
    extra = "pytorch"
    requirements = ("torch",)
    toolchain = TORCH
    kind = TORCH_MODULE
    filename = "model.pth"
    options: tuple[Option, ...] = ()
    conversions: tuple[Conversion, ...] = ()
    verified_by = "PyTorch on the CPU"

    def locate(self, folder: Path, flavors: Mapping[str, Mapping[str, Any]]) -> Path | None:
        """Find the pickled module of the flavor `pytorch`; a TorchScript file in its place is not one."""
        path = pytorch_file(folder, flavors, "model.pth")
        return path if path is not None and not is_torchscript(path) else None

    def load(self, path: Path, interface: Interface) -> Any:
        """Load the module and wrap it as `torch_module` promises."""
        from registry_export_plugins._torch.loading import load_module
        from registry_export_plugins._torch.modules import adapt

        return adapt(load_module(path), interface)

    @contextmanager
    def open(self, path: Path, interface: Interface) -> Iterator[Runner]:
        """Load the module for inference."""
        from registry_export_plugins._torch.modules import TorchRunner

        adapter = self.load(path, interface)
        yield TorchRunner(adapter.call, replace(interface, inputs=adapter.inputs))

    def describe(self, path: Path) -> Description:
        """Read the precision and the parameters of `forward`; a module knows no shapes."""
        from registry_export_plugins._torch.loading import load_module
        from registry_export_plugins._torch.modules import adapt, precision

        adapter = adapt(load_module(path), Interface(inputs=()))
        details = {"class": type(adapter.wrapped).__qualname__}
        return Description(Interface(adapter.inputs), precision=precision(adapter.wrapped), details=details)
