"""Runs `.pte` programs in ExecuTorch's own runtime."""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from registry_export.entities import Interface, TensorSpec
from registry_export.errors import RuntimeAbsentError, VerificationError
from registry_export.format import Array, Tensors
from registry_export_plugins._inputs import in_order
from registry_export_plugins._torch.modules import to_array, to_tensor


def runtime() -> Any:
    """Return ExecuTorch's runtime.

    Raises:
        RuntimeAbsentError: The installed package has none for this machine.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the bindings call themselves experimental
            from executorch.runtime import Runtime
    except ImportError as error:
        raise RuntimeAbsentError(
            f"The installed executorch brings no runtime for this machine: {error}",
            remedy="Install executorch from PyPI on Linux x86-64, Linux arm64 or macOS arm64.",
        ) from error
    return Runtime.get()


def without_kernel(operators: Iterable[tuple[str, str]]) -> list[str]:
    """Return those of some operators, given as name and overload, that the runtime here cannot run."""
    known = set(runtime().operator_registry.operator_names)
    full = (f"{name}.{overload}" if overload else name for name, overload in operators)
    return sorted({name for name in full if name not in known and not name.startswith("executorch_prim::")})


class Runner:
    """Runs a program's method `forward`.

    The runtime checks only that an input fits the memory planned for it, and computes something else than
    the model where a fixed dimension has another size. Such inputs are refused here.
    """

    def __init__(self, content: bytes, interface: Interface) -> None:
        self._interface = interface
        self._runtime = runtime()
        self._program = self._runtime.load_program(content)
        self._method = self._program.load_method("forward")

    @property
    def interface(self) -> Interface:
        """Inputs and outputs, by the source's names."""
        return self._interface

    @property
    def runtime(self) -> str:
        """What runs it, with its version."""
        return f"ExecuTorch {importlib.metadata.version('executorch')}"

    def infer(self, inputs: Tensors) -> dict[str, Array]:
        """Run once.

        Raises:
            VerificationError: An input is missing, unknown or of a size that the file has fixed, or the
                runtime refused the call.
        """
        arrays = in_order(inputs, self._interface.inputs)
        for spec, array in zip(self._interface.inputs, arrays, strict=True):
            _check(spec, array.shape)
        try:
            outputs = self._method.execute([to_tensor(array) for array in arrays])
        except RuntimeError as error:
            raise VerificationError(f"The ExecuTorch runtime refused the call: {error}") from error
        names = [spec.name for spec in self._interface.outputs]
        # The runtime may reuse the memory of an output at the next call.
        return {name: to_array(_tensor(value)).copy() for name, value in zip(names, outputs, strict=True)}


def _tensor(value: Any) -> torch.Tensor:
    return value if isinstance(value, torch.Tensor) else torch.as_tensor(value)


def _check(spec: TensorSpec, shape: Sequence[int]) -> None:
    fixed = spec.shape or ()
    if len(fixed) != len(shape) or any(isinstance(d, int) and d != s for d, s in zip(fixed, shape, strict=True)):
        raise VerificationError(
            f"{spec.name} has the shape {tuple(shape)}, but the program takes ({', '.join(map(str, fixed))})."
        )
