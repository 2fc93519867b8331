"""TensorFlow Lite: the flatbuffer that LiteRT runs.

Three ways lead here. A TensorFlow function is converted with its dynamic sizes; where TensorFlow Lite
cannot express them (recurrent loops over an open batch), again with fewer of them open, each try
recorded. A Keras model is traced first, with its recurrent layers unrolled when a loop is refused.
A PyTorch model can go through litert-torch, which fixes every size. Only built-in operators are
written: a model that would need TensorFlow's own kernels ("Flex") is refused by name.

Sources: https://ai.google.dev/edge/litert/conversion/tensorflow/convert_tf,
https://github.com/google-ai-edge/litert-torch
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from registry_export.entities import Description, Interface
from registry_export.format import (
    DYNAMIC_DIMENSIONS,
    EXPORTED_PROGRAM,
    KERAS_MODEL,
    TF_FUNCTION,
    TORCH_MODULE,
    Conversion,
    ConversionRequest,
    ConversionResult,
    Runner,
    Toolchain,
)
from registry_export_plugins._tensorflow.functions import TensorFlowFunction
from registry_export_plugins._toolchains import LITERT, TENSORFLOW, TORCH, installed

LITERT_TORCH = Toolchain(
    name="litert_torch",
    # Imported and no more: what it starts (JAX's threads) does not survive the fork into a child.
    modules=("torch", *installed("litert_torch")),
    environment=TORCH.environment,
)
"""PyTorch and its converter to TensorFlow Lite."""

SLOWER = 20.0
"""Seconds that litert-torch takes longer, and the price of its fixed sizes: every other route comes first."""


def from_tf_function(model: TensorFlowFunction, output: Path, request: ConversionRequest) -> ConversionResult:
    """Convert a TensorFlow function, with as many open sizes as TensorFlow Lite can express."""
    from registry_export_plugins._tensorflow.lite import convert_function

    return convert_function(model, output, request)


def from_keras_model(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    """Convert a Keras model, its recurrent layers unrolled where loops are refused."""
    from registry_export_plugins._tensorflow.lite import convert_keras

    return convert_keras(model, output, request)


def from_torch_module(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    """Convert a PyTorch module with litert-torch, every size fixed to that of the samples."""
    from registry_export_plugins._tensorflow.lite_torch import convert_module

    return convert_module(model, output, request)


def from_exported_program(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    """Convert an exported program with litert-torch, every size fixed to that of the samples."""
    from registry_export_plugins._tensorflow.lite_torch import convert_program

    return convert_program(model, output, request)


class TFLite:
    """The format `tflite`; see `registry_export.format.Format` for what its members mean."""

    name = "tflite"
    summary = "TensorFlow Lite (LiteRT) flatbuffer"
    extra = "tflite"
    requirements = ("ai_edge_litert",)
    toolchain = LITERT
    kind = ""
    filename = "model.tflite"
    options = (DYNAMIC_DIMENSIONS,)
    conversions = (
        Conversion(KERAS_MODEL, from_keras_model, TENSORFLOW, cost=1.5, requirements=("tensorflow", "keras")),
        Conversion(TF_FUNCTION, from_tf_function, TENSORFLOW, cost=1.5, requirements=("tensorflow",)),
        Conversion(
            TORCH_MODULE,
            from_torch_module,
            LITERT_TORCH,
            cost=SLOWER,
            label="litert-torch",
            requirements=("torch", "litert_torch"),
        ),
        Conversion(
            EXPORTED_PROGRAM,
            from_exported_program,
            LITERT_TORCH,
            cost=SLOWER,
            label="litert-torch",
            requirements=("torch", "litert_torch"),
        ),
    )
    verified_by = "LiteRT interpreter on the CPU"

    def locate(self, folder: Path, flavors: Mapping[str, Mapping[str, Any]]) -> Path | None:
        """TensorFlow Lite files are never a source: nothing converts from them."""
        return None

    def load(self, path: Path, interface: Interface) -> Path:
        """Return the file's path; nothing converts from it."""
        return path

    @contextmanager
    def open(self, path: Path, interface: Interface) -> Iterator[Runner]:
        """Load a file into the LiteRT interpreter."""
        from registry_export_plugins._tensorflow.lite_runner import LiteRTRunner

        yield LiteRTRunner(path, interface)

    def describe(self, path: Path) -> Description:
        """Read the signature from the file; its sizes are what the file can be resized to."""
        from registry_export_plugins._tensorflow.lite_runner import describe

        return describe(path)
