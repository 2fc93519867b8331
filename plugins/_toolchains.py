"""The toolchains that the built-in formats share, so that their children are forked from the same warm parents.

Each parent imports its modules before any checkpoint is near. A child inherits them, and starts to
convert at once instead of after 3 to 25 seconds of imports.
"""

from __future__ import annotations

from importlib.util import find_spec

from registry_export.format import Toolchain


def installed(*modules: str) -> tuple[str, ...]:
    """Return the modules whose top package is installed: a parent must start without an optional one."""
    return tuple(module for module in modules if find_spec(module.partition(".")[0]) is not None)


def ours(*modules: str) -> tuple[str, ...]:
    """Return the names of modules beside this one that conversions and runners import late."""
    return tuple(f"{__package__}.{module}" for module in modules)


# ONNX Runtime refuses an opset that it implements but has not declared final; what it computes is compared anyway.
_ANY_OPSET = {"ALLOW_RELEASED_ONNX_OPSET_ONLY": "0"}

TORCH = Toolchain(
    name="torch",
    # torch.export imports torch._dynamo, and onnxscript its converter, when first called: seconds in each child.
    modules=(
        "torch",
        "torch._dynamo",
        "torch.export",
        "torch.onnx",
        *installed("onnx", "onnx.version_converter", "onnxscript", "onnxscript.version_converter", "onnxruntime"),
        *installed("ncnn"),
    ),
    late=ours(
        "_ncnn.convert",
        "_ncnn.sources",
        "_ncnn.runner",
        "_onnx.runner",
        "_torch.loading",
        "_torch.caching",
        "_torch.stepping",
        "_torch.otherwise",
        "_torch.contents",
        "_torch.rounding",
        "_onnx.contents",
        "_ncnn.contents",
        "_compatibility",
    ),
    # The converters run on the CPU; a visible GPU would only cost time and memory.
    environment={"CUDA_VISIBLE_DEVICES": "", **_ANY_OPSET},
    exercise="registry_export_plugins._exercises:torch",
)
"""PyTorch and, where they are installed, the packages on the way from it to ONNX."""

_OPERATORS = (
    "activation", "control", "convolution", "elementwise", "indexing", "making", "normalization", "padding",
    "pooling", "quantization", "recurrent", "reduction", "resize", "sequence", "shape", "slicing", "window",
)  # fmt: skip

TENSORFLOW = Toolchain(
    name="tensorflow",
    modules=(
        "registry_export_plugins._tensorflow.alone",
        "tensorflow",
        "keras",
        *installed("onnx", "ai_edge_litert.interpreter"),
    ),
    late=(
        *ours(
            "_onnx_to_tf.translator",
            "_tensorflow.lite",
            "_tensorflow.lite_check",
            "_tensorflow.runner",
            "_tensorflow.keras_runner",
            "_tensorflow.keras_tracing",
            "_tensorflow.contents",
            "_tensorflow.lite_contents",
            "_compatibility",
        ),
        # The translator imports the operators that a graph has.
        *ours(*(f"_onnx_to_tf.{family}" for family in _OPERATORS)),
        *("onnx.inliner", "ai_edge_litert.schema_py_generated"),
    ),
    environment={
        "CUDA_VISIBLE_DEVICES": "-1",
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # oneDNN reorders sums: results would differ from one machine to the next.
        "TF_ENABLE_ONEDNN_OPTS": "0",
    },
)
"""TensorFlow and Keras; for what is loaded or written by them."""

ONNX = Toolchain(
    name="onnx",
    modules=("onnx", "onnxruntime"),
    environment=_ANY_OPSET,
    late=ours("_onnx.runner", "_onnx.decisions", "_onnx.contents", "_compatibility"),
)
"""ONNX and ONNX Runtime, without a training framework."""

LITERT = Toolchain(name="litert", modules=("ai_edge_litert.interpreter",))
"""The TFLite interpreter alone."""

NCNN = Toolchain(name="ncnn", modules=installed("ncnn"), late=ours("_ncnn.runner"))
"""ncnn's runtime alone."""

MNN = Toolchain(
    name="mnn",
    modules=installed("MNN", "onnx", "onnxruntime", "flatbuffers"),
    environment=_ANY_OPSET,
    late=ours("_mnn.convert", "_mnn.runner", "_mnn.contents", "_onnx.runner", "_onnx.decisions", "_compatibility"),
)
"""MNN's runtime and converter, which are one package, and ONNX."""

EXECUTORCH = Toolchain(
    name="executorch",
    modules=(
        "torch",
        "torch._dynamo",
        "torch.export",
        *installed(
            "executorch.exir",
            "executorch.backends.xnnpack.partition.xnnpack_partitioner",
            "executorch.backends.xnnpack.quantizer.xnnpack_quantizer",
            "torchao.quantization.pt2e.quantize_pt2e",
            "executorch.runtime",
            "sympy.tensor.tensor",
        ),
    ),
    late=ours(
        *("_executorch.quantizing", "_executorch.contents", "_compatibility"),
        *("_torch.export", "_torch.loading", "_torch.contents", "_torch.rounding"),
    ),
    environment={"CUDA_VISIBLE_DEVICES": ""},
    exercise="registry_export_plugins._executorch.exercised:exercise",
)
"""PyTorch and ExecuTorch; its first lowering, which takes seconds, is done before the fork."""
