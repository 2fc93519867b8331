"""From ONNX to ONNX: a copy, or another opset, a simpler graph, another precision."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from registry_export.entities import Attempt, Interface
from registry_export.format import ConversionResult
from registry_export_plugins._onnx.candidates import Wanted
from registry_export_plugins._onnx.files import read
from registry_export_plugins._onnx.finishing import deliver, settle_and_deliver
from registry_export_plugins._onnx.libraries import library_of
from registry_export_plugins._onnx.opsets import opset_of

_QUANTIZABLE_OPSET = 17


def from_onnx_model(model: Path, output: Path, interface: Interface, wanted: Wanted) -> ConversionResult:
    """Deliver a source; byte for byte where neither opset nor simplification is asked for.

    A source whose opset is too old for int8 is raised to one that has it.

    Args:
        model: The source's file.
        output: The file to write.
        interface: Names, order and dimension names to give where the file is written anew.
        wanted: What it is to be; an opset of None keeps the source's own.

    Raises:
        SourceError: The file cannot be read, or its weights are missing.
        ConversionError: What is asked for is out of reach.
    """
    wanted = replace(wanted, library=wanted.library or library_of(model))
    opset = wanted.opset
    if opset is None and wanted.precision == "int8":
        from registry_export_plugins._onnx.quantizing import LOWEST_OPSETS

        too_old = opset_of(read(model, weights=False)) < LOWEST_OPSETS[wanted.quantization]
        opset = _QUANTIZABLE_OPSET if too_old else None
    if opset is None and not wanted.optimize and wanted.precision == "fp32":
        return deliver(model, output, wanted, ConversionResult((Attempt("copy"),)))
    result = ConversionResult((Attempt("onnx"),))
    return settle_and_deliver(model, output, interface, replace(wanted, opset=opset), result)
