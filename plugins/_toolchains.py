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
    ),
    # The converters run on the CPU; a visible GPU would only cost time and memory.
    environment={"CUDA_VISIBLE_DEVICES": "", **_ANY_OPSET},
)
"""PyTorch and, where they are installed, the packages on the way from it to ONNX."""

TENSORFLOW = Toolchain(
    name="tensorflow",
    modules=("tensorflow", "keras"),
    environment={
        "CUDA_VISIBLE_DEVICES": "-1",
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # oneDNN reorders sums: results would differ from one machine to the next.
        "TF_ENABLE_ONEDNN_OPTS": "0",
    },
)
"""TensorFlow and Keras; for what is loaded or written by them."""

ONNX = Toolchain(name="onnx", modules=("onnx", "onnxruntime"), environment=_ANY_OPSET)
"""ONNX and ONNX Runtime, without a training framework."""

LITERT = Toolchain(name="litert", modules=("ai_edge_litert.interpreter",))
"""The TFLite interpreter alone."""

NCNN = Toolchain(name="ncnn", modules=installed("ncnn"))
"""ncnn's runtime alone."""

MNN = Toolchain(name="mnn", modules=installed("MNN", "onnx", "onnxruntime"), environment=_ANY_OPSET)
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
        ),
        "registry_export_plugins._executorch.exercised",
    ),
    environment={"CUDA_VISIBLE_DEVICES": ""},
)
"""PyTorch and ExecuTorch; its first lowering, which takes seconds, is done before the fork."""
