"""Runs a model with MNN on the CPU.

`import MNN` opens no connection and installs nothing; `MNN.tools`, which does both, is never imported.

Source: https://mnn-docs.readthedocs.io/en/latest/pymnn/nn.html
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from registry_export.entities import Description, Dimension, Interface, TensorSpec
from registry_export.errors import VerificationError
from registry_export.format import Array, Tensors
from registry_export_plugins._inputs import in_order
from registry_export_plugins._mnn.flatbuffer import MnnFile

_INT32 = np.iinfo(np.int32)


class MnnRunner:
    """Runs a model under the interface's names.

    Attributes:
        interface: Inputs and outputs, in the interface's order.
        runtime: What runs it.
    """

    def __init__(self, path: Path, interface: Interface) -> None:
        file = MnnFile(path)
        own = described(file)
        self._inputs = _matched(own.inputs, interface.inputs)
        self._outputs = _matched(own.outputs, interface.outputs)
        self._module = _load(path, [key for key, _ in self._inputs], [key for key, _ in self._outputs])
        self._types = {key: dtype for key, (dtype, _) in file.inputs.items()}
        self.interface = Interface(tuple(spec for _, spec in self._inputs), tuple(spec for _, spec in self._outputs))
        self.runtime = f"MNN {version('MNN')}"

    def infer(self, inputs: Tensors) -> dict[str, Array]:
        """Run once.

        Raises:
            VerificationError: An input does not fit, or an operator failed.
        """
        from MNN import expr

        arrays = in_order(inputs, self.interface.inputs)
        values = [
            _variable(spec, np.asarray(array), self._types.get(key, spec.dtype))
            for (key, spec), array in zip(self._inputs, arrays, strict=True)
        ]
        results = self._module.forward(values)
        results = results if isinstance(results, (list, tuple)) else [results]
        if len(results) != len(self._outputs):
            raise VerificationError(f"MNN gave {len(results)} outputs; the model has {len(self._outputs)}.")
        found = {}
        for (_, spec), value in zip(self._outputs, results, strict=True):
            array = expr.convert(value, expr.NCHW).read() if value.valid else None
            if array is None:
                raise VerificationError(f"MNN could not compute the output {spec.name}.")
            found[spec.name] = np.array(array).astype(spec.dtype or array.dtype)
        return found


def _load(path: Path, inputs: list[str], outputs: list[str]) -> Any:
    import MNN

    settings = ({"backend": "CPU", "precision": "high", "numThread": 1},)
    try:
        manager = MNN.nn.create_runtime_manager(settings)
        module = MNN.nn.load_module_from_file(str(path), inputs, outputs, runtime_manager=manager)
    except (RuntimeError, SystemError, ValueError, TypeError) as error:
        raise VerificationError(f"MNN cannot load {path.name}: {error}") from error
    if module is None:
        raise VerificationError(f"MNN cannot load {path.name}.")
    return module


def _variable(spec: TensorSpec, array: Array, dtype: str) -> Any:
    """Copy an array into a variable; MNN's integers have 32 bits."""
    from MNN import expr

    if dtype.startswith("float"):
        return expr.const(np.ascontiguousarray(array, np.float32), list(array.shape), expr.NCHW, expr.float)
    if array.size and (array.min() < _INT32.min or array.max() > _INT32.max):
        raise VerificationError(f"The input {spec.name} holds values that do not fit MNN's int32.")
    return expr.const(np.ascontiguousarray(array, np.int32), list(array.shape), expr.NCHW, expr.int)


def described(file: MnnFile) -> Interface:
    """Return inputs and outputs as a file says them; of outputs it says the names."""
    inputs = tuple(TensorSpec(name, dtype, _shape(name, sizes)) for name, (dtype, sizes) in file.inputs.items())
    return Interface(inputs, tuple(TensorSpec(name, "", None) for name in file.outputs))


def _shape(name: str, sizes: Sequence[int]) -> tuple[Dimension, ...]:
    return tuple(size if size >= 0 else "batch" if axis == 0 else f"{name}_{axis}" for axis, size in enumerate(sizes))


def _matched(own: Sequence[TensorSpec], wanted: Sequence[TensorSpec]) -> list[tuple[str, TensorSpec]]:
    """Pair the file's names with specs, in the interface's order: by name where they are the same, else by position."""
    if not wanted:
        return [(spec.name, spec) for spec in own]
    if not own:  # the quantizer forgets the names of outputs, not the outputs
        return [(spec.name, spec) for spec in wanted]
    if {spec.name for spec in own} == {spec.name for spec in wanted}:
        return [(spec.name, spec) for spec in wanted]
    if len(own) != len(wanted):
        raise VerificationError(
            f"The MNN file has {', '.join(spec.name for spec in own)}; the model has "
            f"{', '.join(spec.name for spec in wanted)}."
        )
    return [(spec.name, other) for spec, other in zip(own, wanted, strict=True)]


def describe(path: Path) -> Description:
    """Read names, sizes, precision and MNN's version from a file."""
    file = MnnFile(path)
    return Description(
        described(file),
        format_version=file.version or None,
        precision=file.precision,
        details={"operators": str(file.size)},
    )
