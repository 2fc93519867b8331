"""Core ML: ML programs (`.mlpackage`) for Apple's systems.

A PyTorch model is traced and translated by coremltools; compiled, or captured by `torch.export`, where that
does not serve. A TensorFlow function is frozen first. Core ML runs on macOS only: elsewhere a package's
program is evaluated by our own means.

Sources: https://apple.github.io/coremltools/docs-guides/, https://github.com/apple/coremltools
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from registry_export.entities import Description, Interface, OptionValue, RuntimeNeed, Snippet
from registry_export.format import (
    DYNAMIC_DIMENSIONS,
    EXPORTED_PROGRAM,
    KERAS_MODEL,
    TF_FUNCTION,
    TORCH_MODULE,
    TORCHSCRIPT,
    Conversion,
    ConversionRequest,
    ConversionResult,
    Inside,
    Option,
    Runner,
    Toolchain,
    precision_option,
    quantization_option,
)
from registry_export_plugins._coreml.names import features
from registry_export_plugins._snippets import arrays, listed, quoted, sizes, snippet, variables
from registry_export_plugins._target_only import TargetOnly
from registry_export_plugins._toolchains import TENSORFLOW, TORCH, ours

COREML = Toolchain(
    name="coreml",
    # Reading a package and evaluating it need its protocol buffers alone; Core ML, on macOS, needs coremltools.
    modules=("registry_export_plugins._coreml.without_tensorflow",)
    if sys.platform == "darwin"
    else ("google.protobuf", "numpy"),
    late=ours("_coreml.runner", "_coreml.structure", "_coreml.contents", "_coreml.evaluation.runner", "_compatibility"),
    exercise=f"{__package__}._coreml.package:messages",
    resource="macos",
)
"""What reads a package."""

TORCH_COREML = Toolchain(
    name="torch_coreml",
    modules=("torch", "torch._dynamo", "torch.export", "registry_export_plugins._coreml.without_tensorflow"),
    environment=TORCH.environment,
    late=ours(
        *("_coreml.convert", "_coreml.torch", "_coreml.contents", "_compatibility"),
        *("_torch.loading", "_torch.caching", "_torch.otherwise", "_torch.contents"),
    ),
    exercise="registry_export_plugins._exercises:coreml",
)
"""PyTorch and coremltools; TensorFlow is kept out, which coremltools would import."""

TENSORFLOW_COREML = Toolchain(
    name="tensorflow_coreml",
    modules=(*TENSORFLOW.modules, "registry_export_plugins._coreml.without_torch"),
    late=(*TENSORFLOW.late, *ours("_coreml.convert", "_coreml.tensorflow", "_coreml.contents")),
    environment=TENSORFLOW.environment,
)
"""TensorFlow and coremltools."""

PRECISION = precision_option("fp32", "fp16", "int8", lacks={"bf16": "Core ML computes in no bf16"})
QUANTIZATION = quantization_option("weight_only", default="weight_only")
PALETTIZE = Option(
    "palettize",
    int,
    None,
    "palettized{value}",
    choices=(1, 2, 3, 4, 6, 8),
    help="bits of the weights' indices into a palette (3 needs minimum_deployment_target=iOS18)",
)
DEPLOYMENT_TARGET = Option(
    "minimum_deployment_target",
    str,
    "iOS17",
    "{value}",
    choices=("iOS15", "iOS16", "iOS17", "iOS18"),
    help="oldest iOS that must read the package, and the macOS of the same year",
)
SPECIFICATIONS = {"iOS15": 6, "iOS16": 7, "iOS17": 8, "iOS18": 9}
"""The specification version that each of these reads; a program without anything new may be of an older one."""
LARGEST_DIMENSION = Option(
    "largest_dimension",
    int,
    1024,
    "upto{value}",
    minimum=2,
    help="upper bound of every dynamic dimension; Core ML needs one",
)


def from_torch_module(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    """Convert a PyTorch module."""
    from registry_export_plugins._coreml.torch import from_torch_module

    return from_torch_module(model, output, request)


def from_exported_program(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    """Convert a `torch.export` program."""
    from registry_export_plugins._coreml.torch import from_exported_program

    return from_exported_program(model, output, request)


def from_torchscript(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    """Convert TorchScript."""
    from registry_export_plugins._coreml.torch import from_torchscript

    return from_torchscript(model, output, request)


def from_keras_model(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    """Convert a Keras model."""
    from registry_export_plugins._coreml.tensorflow import from_keras_model

    return from_keras_model(model, output, request)


def from_tf_function(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    """Convert a TensorFlow function."""
    from registry_export_plugins._coreml.tensorflow import from_tf_function

    return from_tf_function(model, output, request)


def accepts(options: Mapping[str, OptionValue]) -> str:
    """Say why options exclude each other."""
    bits = options.get(PALETTIZE.name)
    release = options.get(DEPLOYMENT_TARGET.name)
    eight = options.get(PRECISION.name) == "int8"
    if bits is not None and eight:
        return "palettize and precision=int8 both compress the weights; ask for one of them"
    if (bits is not None or eight) and release == "iOS15":
        return "compressed weights need minimum_deployment_target=iOS16 or later"
    if bits == 3 and release != "iOS18":
        return "palettize=3 needs minimum_deployment_target=iOS18"
    return ""


class CoreML(TargetOnly):
    """The format `coreml`; see `registry_export.format.Format` for what its members mean."""

    name = "coreml"
    summary = "Core ML program (.mlpackage)"
    extra = "coreml"
    requirements = ("coremltools",)
    toolchain = COREML
    filename = "model.mlpackage"
    options = (PRECISION, QUANTIZATION, PALETTIZE, DEPLOYMENT_TARGET, LARGEST_DIMENSION, DYNAMIC_DIMENSIONS)
    conversions = (
        Conversion(TORCH_MODULE, from_torch_module, TORCH_COREML, cost=2.0, requirements=("torch",), accepts=accepts),
        Conversion(TORCHSCRIPT, from_torchscript, TORCH_COREML, cost=2.0, requirements=("torch",), accepts=accepts),
        Conversion(
            EXPORTED_PROGRAM, from_exported_program, TORCH_COREML, cost=2.5, requirements=("torch",), accepts=accepts
        ),
        Conversion(
            KERAS_MODEL,
            from_keras_model,
            TENSORFLOW_COREML,
            cost=4.0,
            requirements=("tensorflow", "keras"),
            accepts=accepts,
        ),
        Conversion(
            TF_FUNCTION, from_tf_function, TENSORFLOW_COREML, cost=5.0, requirements=("tensorflow",), accepts=accepts
        ),
    )
    verified_by = "Core ML on macOS; elsewhere an evaluator of ML programs"

    @contextmanager
    def open(self, path: Path, interface: Interface) -> Iterator[Runner]:
        """Check a package's structure and load it into Core ML, or into the evaluator where that is not.

        Raises:
            VerificationError: The structure is wrong.
            RuntimeAbsentError: It is sound, and the evaluator lacks an operator.
        """
        from registry_export_plugins._coreml.runner import open_package

        yield open_package(path, interface)

    def describe(self, path: Path) -> Description:
        """Read names, sizes, precision and the specification version from the package."""
        from registry_export_plugins._coreml.description import describe

        return describe(path)

    def inspect(self, path: Path) -> Inside:
        """Read the program's constants and operations, and the author's words."""
        from registry_export_plugins._coreml.contents import inside

        return inside(path)

    def needs(
        self, options: Mapping[str, OptionValue], kind: str, description: Description | None
    ) -> tuple[RuntimeNeed, ...]:
        """Say which iOS and macOS read the specification version that the deployment target asks for."""
        from registry_export_plugins._compatibility import need

        asked = SPECIFICATIONS[str(options.get(DEPLOYMENT_TARGET.name, DEPLOYMENT_TARGET.default))]
        version = asked if description is None else int(description.format_version or asked)
        return need("ios", version), need("macos", version)

    def runs_here(self, description: Description) -> str:
        """Say where Core ML is; what the evaluator could not run elsewhere can be run there."""
        return "" if platform.system() == "Darwin" else "Core ML is on macOS alone."

    def snippets(self, description: Description) -> tuple[Snippet, ...]:
        """Show Core ML in Python and Swift, on a Mac."""
        interface = description.interface
        inputs = features(interface.inputs, half=True)
        outputs = features(interface.outputs, True, [feature.name for feature in inputs])
        python = """
            import coremltools
            import numpy as np

            model = coremltools.models.MLModel("model.mlpackage")
            outputs = model.predict(«inputs»)
        """
        swift = """
            import CoreML

            let compiled = try await MLModel.compileModel(at: URL(fileURLWithPath: "model.mlpackage"))
            let model = try MLModel(contentsOf: compiled)
            let inputs = try MLDictionaryFeatureProvider(dictionary: [
                «inputs»
            ])
            let outputs = try await model.prediction(from: inputs)
            «outputs»
        """
        kinds = {"float16": ".float16", "int32": ".int32"}
        arrays_in_swift = [
            f"MLMultiArray(shape: [{listed(sizes(spec))}], dataType: {kinds.get(f.dtype, '.float32')})"
            for f, spec in zip(inputs, interface.inputs, strict=True)
        ]
        given = [f"{quoted(f.name)}: {array}," for f, array in zip(inputs, arrays_in_swift, strict=True)]
        taken = [
            f"let {name} = outputs.featureValue(for: {quoted(f.name)})!.multiArrayValue!"
            for name, f in zip(variables(interface.outputs), outputs, strict=True)
        ]
        names = [feature.name for feature in inputs]
        return (
            snippet("Python", "Core ML Tools on macOS", python, inputs=arrays(interface, names)),
            snippet("Swift", "Core ML", swift, inputs="\n".join(given), outputs="\n".join(taken)),
        )
