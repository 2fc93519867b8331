"""From an ONNX file to an engine.

Tried in this order, until one builds: the file as it is; at opset 22, where it is newer; with what is
constant in it folded by onnxslim. Each first with sizes from 1 up, then with sizes from the sample's up.

Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/python-api-docs.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from registry_export.entities import Attempt
from registry_export.errors import ConversionError, UnsupportedModelError, VerificationError
from registry_export.format import ConversionRequest, ConversionResult
from registry_export_plugins._tensorrt.build import BuildRefusedError, build
from registry_export_plugins._tensorrt.devices import chosen_devices
from registry_export_plugins._tensorrt.engine import check_bindings, describe
from registry_export_plugins._tensorrt.flavour import product

_LARGER = ", sizes from the samples' up"
HIGHEST_OPSET = 22
"""Where a file of a newer opset is taken when TensorRT refuses it as it is."""


def convert(model: Path, output: Path, request: ConversionRequest) -> ConversionResult:
    """Write an engine for the devices asked for, and check its inputs and outputs.

    Raises:
        UnsupportedModelError: TensorRT has no form of an operator or an element type; names it.
        ConversionError: No way led to an engine, or a device cannot be built for.
    """
    devices = chosen_devices(request.options.get("device"))
    attempts: list[Attempt] = []
    failures: list[ConversionError] = []
    for way, prepare in _ways(model, request):
        for smallest_is_sample in (False, True):
            name = f"{product()}{way}{_LARGER if smallest_is_sample else ''}"
            try:
                built = build(prepare(), request, devices, smallest_is_sample)
            except ConversionError as error:
                failures.append(error)
                attempts.append(Attempt(name, error.message))
                if not isinstance(error, BuildRefusedError):
                    break  # other sizes would be refused too
                continue
            output.write_bytes(built.engine)
            _check(output, request)
            return ConversionResult((*attempts, Attempt(name)), (*built.notes, *_notes(request)))
    named = [error for error in failures if isinstance(error, UnsupportedModelError)]
    raise (named or failures)[0]  # about the model as it came, and if possible what it is in it


def _ways(model: Path, request: ConversionRequest) -> Iterator[tuple[str, Callable[[], Path]]]:
    """Yield what the file may be made into first: a name, and what makes it."""
    import onnx

    from registry_export_plugins._onnx.opsets import opset_of

    def prepared(path: Path) -> Path:
        if request.options.get("precision") != "bf16":
            return path
        from registry_export_plugins._tensorrt.bfloat16 import to_bfloat16

        return to_bfloat16(path, request.work / "bfloat16.onnx")

    yield "", lambda: prepared(model)
    if opset_of(onnx.load(str(model), load_external_data=False)) > HIGHEST_OPSET:
        yield f", at opset {HIGHEST_OPSET}", lambda: prepared(_lowered(model, request.work))
    if find_spec("onnxslim") is not None:
        yield ", after onnxslim", lambda: prepared(_slimmed(model, request.work))


def _lowered(model: Path, work: Path) -> Path:
    from registry_export_plugins._onnx.files import read, write
    from registry_export_plugins._onnx.opsets import to_opset

    lowered = work / "lowered.onnx"
    write(to_opset(read(model), HIGHEST_OPSET), lowered)
    return lowered


def _slimmed(model: Path, work: Path) -> Path:
    import onnxslim

    slimmed = work / "slim.onnx"
    try:
        onnxslim.slim(str(model), str(slimmed))
    except Exception as error:  # it raises whatever a pattern or a shape inference raises
        raise ConversionError(f"onnxslim could not simplify the model: {error}") from error
    return slimmed


def _check(output: Path, request: ConversionRequest) -> None:
    try:
        described = describe(output)
        if described.interface.inputs:
            check_bindings(described.interface, request.interface)
    except VerificationError as error:
        raise ConversionError(f"The engine is not the model's: {error.message}") from error


def _notes(request: ConversionRequest) -> tuple[str, ...]:
    if request.options.get("precision") == "bf16":
        return ("Weights and arithmetic were rounded from float32 to bfloat16; inputs and outputs stay float32.",)
    return ()
