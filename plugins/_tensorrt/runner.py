"""An engine as a runner, on the GPU that it was built for.

Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/python-api-docs.html
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from registry_export.entities import Interface, TensorSpec
from registry_export.errors import RuntimeAbsentError, VerificationError
from registry_export.format import Array, Tensors
from registry_export_plugins._inputs import in_order
from registry_export_plugins._tensorrt.cuda import Cuda, gpu
from registry_export_plugins._tensorrt.engine import (
    bindings_of,
    check_bindings,
    deserialize,
    interface_of,
    read,
    unfit,
)
from registry_export_plugins._tensorrt.flavour import log, product, tensorrt


@contextmanager
def running(path: Path, interface: Interface) -> Iterator[TensorRTRunner]:
    """Compare an engine's inputs and outputs with an interface, and load it where it can run.

    Raises:
        VerificationError: They differ, or TensorRT refuses the engine.
        RuntimeAbsentError: It cannot run here.
    """
    plan = read(path)
    if plan.bindings:
        check_bindings(interface_of(plan.bindings), interface)
    absent = unfit(plan)
    if absent:
        checked = "Its inputs and outputs are those of the model." if plan.bindings else "Nothing of it was checked."
        raise RuntimeAbsentError(f"{absent} {checked}", remedy="A worker that has one verifies it.")
    with gpu() as cuda:
        engine = deserialize(path)
        own = interface_of(bindings_of(engine))
        check_bindings(own, interface)
        yield TensorRTRunner(engine, own, cuda)


class TensorRTRunner:
    """Runs an engine; inputs are copied to the GPU and outputs back at every call."""

    def __init__(self, engine: Any, interface: Interface, cuda: Cuda) -> None:
        self._engine = engine
        self._interface = interface
        self._cuda = cuda
        self._context = engine.create_execution_context()
        if self._context is None:
            raise VerificationError(f"TensorRT cannot prepare the engine to run: {log().said()}")

    @property
    def interface(self) -> Interface:
        """Inputs and outputs as the engine declares them."""
        return self._interface

    @property
    def runtime(self) -> str:
        """What runs it."""
        return product()

    def infer(self, inputs: Tensors) -> dict[str, Array]:
        """Run once. bfloat16 is given and returned as float32: NumPy has no bfloat16.

        Raises:
            VerificationError: An input is missing, unknown or outside of the engine's profile, or the GPU fails.
        """
        log().clear()
        arrays = [
            _typed(array, spec)
            for array, spec in zip(in_order(inputs, self._interface.inputs), self._interface.inputs, strict=True)
        ]
        held: list[int] = []
        allocators = {spec.name: _allocator(self._cuda) for spec in self._interface.outputs}
        try:
            for spec, array in zip(self._interface.inputs, arrays, strict=True):
                self._give(spec, array, held)
            for name, allocator in allocators.items():
                self._context.set_output_allocator(name, allocator)
            if not self._context.execute_async_v3(self._cuda.stream):
                raise VerificationError(f"TensorRT fails on these inputs: {log().said()}")
            self._cuda.synchronize()
            return {spec.name: self._taken(spec, allocators[spec.name]) for spec in self._interface.outputs}
        finally:
            for address in (*held, *(a.address for a in allocators.values() if a.address)):
                self._cuda.free(address)

    def _give(self, spec: TensorSpec, array: Array, held: list[int]) -> None:
        if not self._context.set_input_shape(spec.name, tuple(array.shape)):
            low, _, high = self._engine.get_tensor_profile_shape(spec.name, 0)
            raise VerificationError(f"{spec.name} has the shape {array.shape}; the engine takes {low} to {high}.")
        if self._engine.get_tensor_location(spec.name) == tensorrt().TensorLocation.HOST:
            self._context.set_tensor_address(spec.name, array.ctypes.data)
            return
        address = self._cuda.allocate(array.nbytes)
        held.append(address)
        self._cuda.upload(address, array)
        self._context.set_tensor_address(spec.name, address)

    def _taken(self, spec: TensorSpec, allocator: Any) -> Array:
        shape = allocator.shape if allocator.shape is not None else tuple(self._context.get_tensor_shape(spec.name))
        array = self._cuda.download(allocator.address, shape, _dtype(spec.dtype))
        return array.astype(np.float32) if spec.dtype == "bfloat16" else array


def _dtype(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def _typed(array: Array, spec: TensorSpec) -> Array:
    typed: Array = np.array(array, dtype=_dtype(spec.dtype), order="C")
    return typed


def _allocator(cuda: Cuda) -> Any:
    """Return what gives an output its memory once its size is known; sizes may depend on the data."""
    trt = tensorrt()

    class Allocator(trt.IOutputAllocator):  # type: ignore[name-defined]
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.address = 0
            self.size = 0
            self.shape: tuple[int, ...] | None = None

        def reallocate_output(self, name: str, memory: int, size: int, alignment: int) -> int:
            if size > self.size or not self.address:
                if self.address:
                    cuda.free(self.address)
                self.address, self.size = cuda.allocate(size), size
            return self.address

        def reallocate_output_async(self, name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            return self.reallocate_output(name, memory, size, alignment)

        def notify_shape(self, name: str, shape: Any) -> None:
            self.shape = tuple(shape)

    return Allocator()
