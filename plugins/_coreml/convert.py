"""What every way into Core ML shares: the program's inputs, the call of coremltools, what is done to its answer."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from registry_export.entities import Interface, OptionValue, TensorSpec
from registry_export.errors import ConversionError, RegistryExportError, UnsupportedModelError
from registry_export.format import ConversionRequest
from registry_export_plugins._coreml.names import (
    NAMES_KEY,
    SCALARS_KEY,
    TYPES_KEY,
    Feature,
    features,
    scalars_metadata,
    to_metadata,
    types_metadata,
)

SMALLEST_COMPRESSED = 64
"""Constants with at least so many elements are compressed; smaller ones would grow by their scales and tables."""


def has_half(options: Mapping[str, OptionValue]) -> bool:
    """Say whether the deployment target knows float16 inputs and outputs."""
    return options["minimum_deployment_target"] != "iOS15"


def input_features(request: ConversionRequest) -> tuple[Feature, ...]:
    """Name the inputs of the package."""
    return features(request.interface.inputs, has_half(request.options))


class Dimensions:
    """Makes the ranges of dynamic dimensions: equal names are one range, with one symbol in the program.

    Core ML needs an upper bound; left out, coremltools silently takes 2 of some models. A range starts
    at 1, and its default, which Core ML prepares for, is 1 for the batch and the sample's size elsewhere.

    Args:
        bound: The largest size, where no sample is larger.
    """

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._ranges: dict[str, Any] = {}

    def of(self, name: str, axis: int, size: int) -> Any:
        """Return the range of a dimension whose sample has `size` elements."""
        import coremltools as ct

        if name not in self._ranges:
            default = 1 if axis == 0 else size
            self._ranges[name] = ct.RangeDim(lower_bound=1, upper_bound=max(self._bound, size), default=default)
        return self._ranges[name]


def input_types(named: Sequence[Feature], request: ConversionRequest) -> list[Any]:
    """Declare the inputs to coremltools, in order; a tensor without axes has one of size 1."""
    import coremltools as ct

    dimensions = Dimensions(int(str(request.options["largest_dimension"])))
    declared = []
    for feature, spec in zip(named, request.interface.inputs, strict=True):
        sample = request.samples[spec.name]
        sizes = spec.shape if spec.shape is not None else tuple(sample.shape)
        shape = [
            dimensions.of(size, axis, int(sample.shape[axis])) if isinstance(size, str) else size
            for axis, size in enumerate(sizes)
        ]
        declared.append(ct.TensorType(name=feature.name, shape=tuple(shape or [1]), dtype=np.dtype(feature.dtype).type))
    return declared


def output_types(named: Sequence[Feature]) -> list[Any]:
    """Declare the outputs to coremltools, so that a program that computes in float16 still gives float32."""
    import coremltools as ct

    return [ct.TensorType(name=feature.name, dtype=np.dtype(feature.dtype).type) for feature in named]


def call_converter(source: Any, framework: str, request: ConversionRequest, **arguments: Any) -> Any:
    """Run coremltools and compress the weights as asked.

    Args:
        source: What it converts.
        framework: `pytorch` or `tensorflow`.
        request: Names the options.
        arguments: Passed on to `coremltools.convert`.

    Raises:
        UnsupportedModelError: coremltools has no translation of an operator.
        ConversionError: It refused for another reason.
    """
    import coremltools as ct

    options = request.options
    half = options["precision"] in ("fp16", "int8")
    try:
        with quiet():
            model = ct.convert(
                source,
                source=framework,
                convert_to="mlprogram",
                compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
                minimum_deployment_target=getattr(ct.target, str(options["minimum_deployment_target"])),
                compute_units=ct.ComputeUnit.CPU_ONLY,
                skip_model_load=True,
                **arguments,
            )
            return _compressed(model, options)
    except RegistryExportError:
        raise
    # A converter raises whatever its translations raise on a model that they did not expect.
    except Exception as error:
        raise explained(error) from error


def _compressed(model: Any, options: Mapping[str, OptionValue]) -> Any:
    """Store the weights in fewer bits: linear int8, one scale for each channel, or indices into a palette."""
    from coremltools.optimize import coreml as optimize

    bits = options["palettize"]
    if options["precision"] != "int8" and bits is None:
        return model
    if options["precision"] == "int8":
        linear = optimize.OpLinearQuantizerConfig(
            mode="linear_symmetric", dtype="int8", weight_threshold=SMALLEST_COMPRESSED
        )
        compressed = optimize.linear_quantize_weights(model, optimize.OptimizationConfig(global_config=linear))
    else:
        palette = optimize.OpPalettizerConfig(mode="kmeans", nbits=bits, weight_threshold=SMALLEST_COMPRESSED)
        compressed = optimize.palettize_weights(model, optimize.OptimizationConfig(global_config=palette))
    program = compressed.get_spec().mlProgram.functions["main"]
    block = program.block_specializations[program.opset]
    if not any(operation.type.startswith("constexpr") for operation in block.operations):
        raise UnsupportedModelError(
            f"The model has no weights to compress: none has {SMALLEST_COMPRESSED} elements or more.",
            remedy="Ask for precision=fp32 or fp16, and no palettize.",
        )
    return compressed


def save(model: Any, output: Path, inputs: Sequence[Feature], outputs: Sequence[Feature]) -> None:
    """Write a converted model with its features named, the same bytes for the same model.

    Args:
        model: What `call_converter` returned.
        output: The `.mlpackage` folder to write.
        inputs: The features in the order of the source.
        outputs: Likewise; the program's own outputs are renamed by position.
    """
    import coremltools as ct

    spec = model.get_spec()
    own = [feature.name for feature in spec.description.output]
    if len(own) != len(outputs) or {f.name for f in spec.description.input} != {f.name for f in inputs}:
        raise ConversionError(
            f"coremltools wrote the inputs {', '.join(f.name for f in spec.description.input)} and {len(own)} outputs "
            f"instead of {', '.join(f.name for f in inputs)} and {len(outputs)}."
        )
    _rename_outputs(spec, own, [feature.name for feature in outputs])
    spec.description.metadata.userDefined[NAMES_KEY] = to_metadata(inputs, outputs)
    spec.description.metadata.userDefined[TYPES_KEY] = types_metadata(outputs)
    spec.description.metadata.userDefined[SCALARS_KEY] = scalars_metadata(outputs)
    with quiet():
        ct.models.MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True).save(str(output))
    _settle_identifiers(output)


def _rename_outputs(spec: Any, own: Sequence[str], names: Sequence[str]) -> None:
    """Rename in two steps: a new name may be another output's old one."""
    from coremltools.models.utils import rename_feature

    for i, old in enumerate(own):
        if old != names[i]:
            rename_feature(spec, old, f"renamed_output_{i}", rename_inputs=False)
    for i, old in enumerate(own):
        if old != names[i]:
            rename_feature(spec, f"renamed_output_{i}", names[i], rename_inputs=False)


def _settle_identifiers(package: Path) -> None:
    """Derive the manifest's identifiers, which are random, from what they stand for."""
    path = package / "Manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    new = {
        old: str(uuid.uuid5(uuid.NAMESPACE_URL, item["path"])).upper()
        for old, item in manifest["itemInfoEntries"].items()
    }
    manifest["itemInfoEntries"] = {new[old]: item for old, item in sorted(manifest["itemInfoEntries"].items())}
    manifest["rootModelIdentifier"] = new[manifest["rootModelIdentifier"]]
    path.write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n", "utf-8")


_MISSING = (
    re.compile(r"PyTorch convert function for op '([^']+)' not implemented"),
    re.compile(r"Conversion for TF op '([^']+)' not implemented"),
    re.compile(r"the lowering for Torch `([^`]+)` op is not supported"),
    re.compile(r"Unsupported fx node ([\w.]+)"),
)


def missing_operator(error: BaseException) -> str:
    """Return the operator that coremltools has no translation of; empty where that is not the reason."""
    found = next((match for pattern in _MISSING if (match := pattern.search(str(error)))), None)
    return found[1] if found else ""


def explained(error: Exception) -> ConversionError:
    """Say in one sentence why coremltools refused."""
    operator = missing_operator(error)
    if operator:
        return UnsupportedModelError(
            f"Core ML's converter has no translation of the operator {operator}.", remedy="Write it in other operators."
        )
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return ConversionError(f"coremltools refused the model: {reason[:300]}")


def refused(failed: Sequence[tuple[str, RegistryExportError]]) -> RegistryExportError:
    """Return the error of the only way that was tried; of several, one that tells how each failed."""
    if len(failed) == 1:
        return failed[0][1]
    unsupported = next((error for _, error in failed if isinstance(error, UnsupportedModelError)), None)
    told = "; ".join(f"{way}: {error.message.rstrip('.')}" for way, error in failed)
    error = (UnsupportedModelError if unsupported else ConversionError)(
        f"No way led to Core ML: {told}.", remedy=unsupported.remedy if unsupported else ""
    )
    error.__cause__ = failed[0][1]
    return error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep coremltools' progress bars and warnings, which no user of an export can act on, to itself."""
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def renamed_interface(request: ConversionRequest, count: int) -> Interface:
    """Return the request's interface with one output for each of `count`, named `output_<i>` where unknown."""
    outputs = request.interface.outputs
    if len(outputs) == count and all(spec.name for spec in outputs):
        return request.interface
    names = ["output"] if count == 1 else [f"output_{i}" for i in range(count)]
    return Interface(request.interface.inputs, tuple(TensorSpec(name, "float32", None) for name in names))
