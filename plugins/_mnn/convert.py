"""From ONNX to MNN: how the converter is called, and what is tried when it fails.

In this order: the model as it is; with inputs in MNN's own format (the converter mistakes some transposed
inputs, as Keras models have, otherwise); where it has recurrent layers, with MNN's own recurrent operator
instead of a loop (the converter ends with a segmentation fault on some of PyTorch's); where it has
operators that MNN lacks and ONNX can write in others, with these rewritten; where it has branches, with
both computed and one chosen.

The converter runs in a process of its own, because it crashes, prints its reasons past Python and
returns 0 when it failed. It is called as the C extension `_tools`: the console scripts of the
package install another package and report to its maker.

Source: https://mnn-docs.readthedocs.io/en/latest/tools/convert.html
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx

from registry_export.entities import Attempt
from registry_export.errors import ConversionError, RegistryExportError, SamplesError, UnsupportedModelError
from registry_export.format import ConversionRequest, ConversionResult
from registry_export_plugins._mnn.flatbuffer import MnnFile
from registry_export_plugins._mnn.quantizing import METHODS, quantize
from registry_export_plugins._mnn.rewriting import (
    with_exact_gelu,
    with_plain_reductions,
    without_branches,
    without_missing,
)
from registry_export_plugins._mnn.runner import MnnRunner
from registry_export_plugins._onnx.files import interface_of, precision_of, read
from registry_export_plugins._onnx.opsets import LARGEST_IN_ONE_FILE, graphs_of, weight_bytes
from registry_export_plugins._onnx.runner import OnnxRunner
from registry_export_plugins._sizes import Found, compare, resized, second_sizes, sizes_of

_CALL = "import sys, _tools; _tools.mnnconvert(sys.argv)"
_PRECISIONS = {
    "fp32": (),
    "fp16": ("--fp16",),
    "int8": ("--weightQuantBits", "8", "--weightQuantAsymmetric"),
}
_TOLERANCES = {"fp32": 1e-3, "fp16": 2e-2, "int8": 2e-1}
_ENOUGH_DB = 20.0
"""Signal to noise on the samples at which no other way to int8 is tried; the verdict asks for 15."""
_RECURRENT = {"LSTM", "GRU", "RNN"}
_SHOWN = 3

Way = tuple[str, Path, tuple[str, ...]]


def convert_onnx(source: Path, output: Path, request: ConversionRequest) -> ConversionResult:
    """Convert; see the module's docstring for the order of the ways.

    Raises:
        UnsupportedModelError: Operators that MNN does not have; names them.
        ConversionError: The converter failed in every way.
    """
    model = read(source)
    if weight_bytes(model) > LARGEST_IN_ONE_FILE:
        raise ConversionError("MNN's converter reads one ONNX file, and these weights do not fit into one.")
    attempts: list[Attempt] = []
    failures: list[RegistryExportError] = []
    best: tuple[tuple[bool, int, float], Path, tuple[str, ...]] | None = None
    enough = -_ENOUGH_DB if request.options["precision"] == "int8" else 0.0
    for way, file, arguments, method in _all_ways(model, request):
        made = file.parent / f"way-{len(attempts)}.mnn"
        try:
            notes = _make(file, made, (arguments, method), model, source, request)
            _check_precision(made, request)
            found = _open_sizes(made, source, request)
        except SamplesError:
            raise
        except RegistryExportError as error:
            attempts.append(Attempt(way, error.message))
            failures.append(error)
            continue
        attempts.append(Attempt(way, found.complaint))
        rank = (found.differs, len(found.fixed), -found.snr_db if enough else 0.0)
        if best is None or rank < best[0]:
            best = rank, made, notes
        if best[0] <= (False, 0, enough) and method in ("", METHODS[-1]):
            break
    if best is None:
        raise _refused(attempts, failures)
    best[1].replace(output)
    return ConversionResult(tuple(attempts), best[2])


def _all_ways(model: Any, request: ConversionRequest) -> Iterator[tuple[str, Path, tuple[str, ...], str]]:
    static = request.options["precision"] == "int8" and request.options["quantization"] == "static"
    for way, file, arguments in _ways(model, request):
        for method in METHODS if static else ("",):
            yield f"{way}, mnnquant with {method}" if method else way, file, arguments, method


def _make(
    file: Path, made: Path, how: tuple[tuple[str, ...], str], model: Any, source: Path, request: ConversionRequest
) -> tuple[str, ...]:
    arguments, method = how
    if not method:
        run_converter(file, made, (*arguments, *_PRECISIONS[str(request.options["precision"])]), model)
        return ()
    whole = made.with_name(f"{made.stem}-fp32.mnn")
    run_converter(file, whole, arguments, model)
    return (quantize(whole, made, _keys(source, request), MnnFile(whole).outputs, method, request),)


def _check_precision(made: Path, request: ConversionRequest) -> None:
    if request.options["precision"] == "int8" and MnnFile(made).precision != "int8":
        raise UnsupportedModelError(
            "MNN holds nothing of this model in int8: no convolution or matrix product with weights came of it.",
            remedy="Ask for precision fp32 or fp16.",
        )


def _keys(source: Path, request: ConversionRequest) -> list[str]:
    """Return the file's names of the interface's inputs: the same, or else those at the same positions."""
    own, wanted = interface_of(read(source, weights=False)).inputs, request.interface.inputs
    same = {spec.name for spec in own} == {spec.name for spec in wanted}
    return [spec.name for spec in (wanted if same else own)]


def _ways(model: Any, request: ConversionRequest) -> Iterator[Way]:
    if precision_of(model) == "fp32":
        with_exact_gelu(model)
    with_plain_reductions(model)
    plain = _saved(model, request.work / "plain.onnx")
    yield "mnnconvert", plain, ()
    yield "mnnconvert with an input format of its own", plain, ("--keepInputFormat", "0")
    operators = {node.op_type for graph in graphs_of(model) for node in graph.node}
    recurrent = ("--useOriginRNNImpl",) if operators & _RECURRENT else ()
    if recurrent:
        yield "mnnconvert with its own recurrent operator", plain, recurrent
    names = without_missing(model)
    if names:
        yield (
            f"mnnconvert after rewriting {', '.join(names)}",
            _saved(model, request.work / "rewritten.onnx"),
            recurrent,
        )
    if without_branches(model):
        branchless = _saved(model, request.work / "branchless.onnx")
        yield "mnnconvert with both branches computed and one chosen", branchless, recurrent


def _saved(model: Any, path: Path) -> Path:
    onnx.save(model, str(path))
    return path


def run_converter(source: Path, made: Path, arguments: Sequence[str], model: Any) -> None:
    """Convert one file beside another.

    Raises:
        UnsupportedModelError: Operators that MNN does not have.
        ConversionError: The converter crashed or wrote nothing.
    """
    command = [sys.executable, "-c", _CALL, "-f", "ONNX", "--modelFile", source.name, "--MNNModel", made.name]
    # GELU as ONNX defines it; the file records a name for the application.
    command += ["--bizCode", "registry-export", "--useGeluApproximation", "0", *arguments]
    done = subprocess.run(command, cwd=source.parent, capture_output=True, text=True, errors="replace", check=False)
    log = done.stdout + done.stderr
    unsupported = re.findall(r"Not Support: *([^\n]+)", log)
    if unsupported:
        raise _unsupported(" ".join(unsupported), model)
    if done.returncode < 0:
        raise ConversionError(f"MNN's converter was ended by signal {-done.returncode}.")
    if done.returncode != 0 or not made.is_file():
        raise ConversionError(f"MNN's converter wrote nothing: {_reason(log)}")


def _unsupported(listed: str, model: Any) -> UnsupportedModelError:
    """Name the operators with the nodes that they are, which PyTorch's exporters name after modules."""
    kinds = sorted({word.rpartition("::")[2] for word in re.split(r"[\s,|]+", listed) if word})
    nodes = [node for graph in graphs_of(model) for node in graph.node]
    named = []
    for kind in kinds:
        places = [node.name or node.output[0] for node in nodes if node.op_type == kind][:_SHOWN]
        named.append(f"{kind} ({', '.join(places)})" if places else kind)
    return UnsupportedModelError(
        f"MNN has no operator for {', '.join(named)}.", remedy="Write these operators in others, or export onnx."
    )


def _reason(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    telling = [
        line for line in lines if re.search(r"error|fail|invalid", line, re.I) and "Converted Failed" not in line
    ]
    return ((telling or lines or ["it said nothing"])[-1])[:300]


def _open_sizes(made: Path, source: Path, request: ConversionRequest) -> Found:
    """Write into a file which of its sizes are open; the converter writes 1 for an open batch.

    Raises:
        ConversionError: The file does not run on the samples.
    """
    keys, wanted = _keys(source, request), request.interface.inputs
    sizes = sizes_of(request)

    def declare(fixed: Sequence[str]) -> None:
        shapes = [
            [(sizes[size] if size in fixed else -1) if isinstance(size, str) else size for size in spec.shape or ()]
            for spec in wanted
        ]
        made.write_bytes(MnnFile(made).set_inputs(dict(zip(keys, shapes, strict=True))))

    declare(())
    original, converted = OnnxRunner(source, request.interface).infer, MnnRunner(made, request.interface).infer
    try:
        converted(resized(request, sizes))
    except RegistryExportError as error:
        raise ConversionError(f"MNN does not run what its converter wrote: {error.message}") from error
    tolerance = _TOLERANCES[str(request.options["precision"])]
    others = second_sizes(original, request, sizes)
    found = compare(original, converted, request, sizes, others, tolerance)
    if found.fixed:
        declare(found.fixed)
    return found


def _refused(attempts: Sequence[Attempt], failures: Sequence[RegistryExportError]) -> RegistryExportError:
    if len({failure.message for failure in failures}) == 1:
        return failures[0]
    reasons = "; ".join(f"{attempt.way}: {attempt.error.rstrip('.')}" for attempt in attempts)
    last = failures[-1]
    kind = UnsupportedModelError if isinstance(last, UnsupportedModelError) else ConversionError
    error = kind(f"No way led to MNN: {reasons}.", remedy=last.remedy)
    error.__cause__ = last
    return error
