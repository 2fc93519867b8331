"""What each cell of source x target must give. A format that the table does not know fails the suite."""

from __future__ import annotations

from registry_export.format import (
    EXPORTED_PROGRAM,
    KERAS_MODEL,
    ONNX_MODEL,
    TF_FUNCTION,
    TORCH_MODULE,
    TORCHSCRIPT,
)
from tests.support.laboratory import FORMATS, TARGETS
from tests.support.sources import SOURCES

_FROM_TORCH = {TORCH_MODULE, EXPORTED_PROGRAM, TORCHSCRIPT}
_TO_TORCH = "no maintained way leads from TensorFlow, Keras or ONNX into PyTorch"
_TO_KERAS = "a Keras file holds Keras layers; nothing makes these from another framework's graph"

UNREACHABLE: dict[tuple[str, str], str] = {
    **{(kind, "torchscript"): _TO_TORCH for kind in (KERAS_MODEL, TF_FUNCTION, ONNX_MODEL)},
    **{(kind, "exported_program"): _TO_TORCH for kind in (KERAS_MODEL, TF_FUNCTION, ONNX_MODEL)},
    **{(kind, "executorch"): _TO_TORCH for kind in (KERAS_MODEL, TF_FUNCTION, ONNX_MODEL)},
    **{(kind, "keras"): _TO_KERAS for kind in (*_FROM_TORCH, TF_FUNCTION, ONNX_MODEL)},
}
"""(kind of the source, target) -> why there is no route."""

_QUANTIZED = "torchscript/quantized"
REFUSED: dict[tuple[str, str], str] = {
    **{
        (_QUANTIZED, target): "the converter knows no quantized operators of PyTorch"
        for target in ("exported_program", "executorch", "ncnn", "mnn")
    },
    (_QUANTIZED, "tensorrt"): "TensorRT takes symmetric quantization only",
    ("transformers", "ncnn"): "BERT does with its mask what ncnn has no layers for",
    ("transformers/folder", "ncnn"): "BERT does with its mask what ncnn has no layers for",
    ("saved_model", "ncnn"): "the model returns an argmax, which ncnn cannot load as pnnx writes it",
}
"""(source, target) -> why the converter refuses this very model. The route exists."""

UNVERIFIED = {
    "tensorrt": "an engine runs only where its GPU is",
}
"""Targets that are made and checked everywhere, but run only on hardware that may not be here."""

_HOME = {"keras": "keras", "frozen_graph": "saved_model"}
QUICK_SOURCES = tuple(source for source in SOURCES if "/" not in source)
"""One form of every source format; its other forms (`transformers/folder`) are slow."""
_FIRST = [(source, "onnx") for source in QUICK_SOURCES] + [(_HOME.get(target, "pytorch"), target) for target in TARGETS]
_INTEGERS = [("saved_model", "coreml")]
"""An argmax of 64 bits, for which the format has no word."""
QUICK = tuple(dict.fromkeys((*_FIRST, *_INTEGERS)))
"""Every source format once and every target once; the other cells are slow."""

CELLS = tuple((source, target) for source in SOURCES for target in TARGETS)


def why_unreachable(source: str, target: str) -> str:
    """Why a cell has no route; empty when it has one."""
    return UNREACHABLE.get((FORMATS[SOURCES[source].format].kind, target), "")


def why_not(source: str, target: str) -> str:
    """Why a cell gives no file: there is no route, or the converter refuses the model; empty where it gives one."""
    return why_unreachable(source, target) or REFUSED.get((source, target), "")
