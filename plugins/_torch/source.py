"""What the sources share whose loader yields a `torch_module`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry_export.entities import Description, Interface
from registry_export.format import NO_SETUP, TORCH_MODULE, Array, Conversion, Inside, ModelSetup, Option, Runner
from registry_export_plugins._toolchains import TORCH
from registry_export_plugins._torch.files import left_out

if TYPE_CHECKING:
    from registry_export_plugins._torch.pruning import Pruned


class TorchSource:
    """Base of formats that load a `torch.nn.Module`; see `registry_export.format.Format` for its members."""

    name = ""
    summary = ""
    extra = ""
    requirements: tuple[str, ...] = ("torch",)
    toolchain = TORCH
    kind = TORCH_MODULE
    filename = ""
    options: tuple[Option, ...] = ()
    conversions: tuple[Conversion, ...] = ()
    verified_by = "PyTorch on the CPU"
    setup: tuple[str, ...] = ("model_factory", "wrapper", "pruning")
    inside = False
    """Whether something of the author's calls the module, so that the logged example is not the module's."""

    def module(self, path: Path, setup: ModelSetup) -> Any:
        """Return the author's `torch.nn.Module` with its weights."""
        raise NotImplementedError

    def declared(self, path: Path, interface: Interface, module: Any) -> Interface:
        """Return the interface to call a module with, given the version's signature."""
        del path, module
        return interface

    def example(self, path: Path, module: Any, interface: Interface) -> Mapping[str, Array] | None:
        """Return inputs that the checkpoint brings along, by the interface's names; None where there are none."""
        del path, module, interface
        return None

    def notes(self, path: Path, module: Any) -> tuple[str, ...]:
        """Return sentences on the source that the report shows: which of several files it is."""
        del module
        others = left_out(path) if path.is_file() else ()
        return (f"The checkpoint is {path.name}; not looked at beside it: {', '.join(others)}.",) if others else ()

    def load(self, path: Path, interface: Interface, setup: ModelSetup = NO_SETUP) -> Any:
        """Load the module, in evaluation mode, wrapped as `torch_module` promises."""
        return self._adapted(path, interface, setup)[1]

    def _adapted(self, path: Path, interface: Interface, setup: ModelSetup) -> tuple[Any, Any, Pruned | None]:
        from registry_export_plugins._torch.modules import adapt_wrapped

        module, pruned = self.module(path, setup), None
        if setup.pruning is not None:
            from registry_export_plugins._torch.pruning import prune_module

            pruned = prune_module(module, setup.pruning)
        declared = self.declared(path, interface, module)
        return module, adapt_wrapped(module, declared, setup), pruned

    @contextmanager
    def open(self, path: Path, interface: Interface, setup: ModelSetup = NO_SETUP) -> Iterator[Runner]:
        """Load the module for inference."""
        from registry_export_plugins._torch.caching import CachedDecoder
        from registry_export_plugins._torch.modules import TorchRunner
        from registry_export_plugins._torch.stepping import SteppingRunner

        module, adapter, pruned = self._adapted(path, interface, setup)
        outputs = () if setup.wrapper else self.declared(path, interface, module).outputs
        runner = TorchRunner(adapter.call, replace(interface, inputs=adapter.inputs, outputs=outputs), module=adapter)
        runner.notes = self.notes(path, module)
        runner.tell_pruned(pruned)
        runner.inside = self.inside
        if isinstance(adapter.wrapped, CachedDecoder):
            yield SteppingRunner(adapter.wrapped, runner)
            return
        if not setup.wrapper:
            runner.example = self.example(path, module, runner.interface)
        yield runner

    def describe(self, path: Path) -> Description:
        """Read the precision and the parameters of `forward`; a module knows no shapes."""
        from registry_export_plugins._torch.modules import adapt, precision

        adapter = adapt(self.module(path, NO_SETUP), Interface(inputs=()))
        details = {"class": type(adapter.wrapped).__qualname__}
        return Description(Interface(adapter.inputs), precision=precision(adapter.wrapped), details=details)

    def inspect(self, path: Path) -> Inside:
        """Read the module's parameters, buffers and layers."""
        from registry_export_plugins._torch.contents import of_module

        return of_module(self.module(path, NO_SETUP))
