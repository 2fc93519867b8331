"""From PyTorch, TorchScript and ONNX to ncnn: which sizes can stay open, found by trying.

In this order: every dimension that the model leaves open besides the batch is given to pnnx with two
sizes; then with the size of the samples alone. What comes out runs here at once, next to the model it
was made from, at the sizes of the samples, at others, and at another batch: a dimension is called
dynamic where that gave the model's answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from registry_export.entities import Attempt, Dimension, Interface, TensorSpec
from registry_export.errors import ConversionError, RegistryExportError, UnsupportedModelError
from registry_export.format import ConversionRequest, ConversionResult
from registry_export_plugins._links import link_file
from registry_export_plugins._ncnn.layout import Blob, Layout, weights_of, write_layout
from registry_export_plugins._ncnn.pnnx import Network, converter, refuse_dtypes, run_pnnx
from registry_export_plugins._ncnn.runner import NcnnRunner
from registry_export_plugins._sizes import (
    Found,
    Infer,
    answers,
    batch_names,
    compare,
    resized,
    second_sizes,
    sizes_of,
)

_ROWS = 3
"""Batch at which a network is tried besides 1."""
_TOLERANCE = 1e-3
_FP16_TOLERANCE = 2e-2


@dataclass(frozen=True)
class Prepared:
    """A model as pnnx takes it.

    Attributes:
        file: TorchScript or ONNX.
        inputs: Its inputs in its own order.
        outputs: Its outputs in its own order.
        reference: The model itself, to compare with; raises where it does not take a size.
        scopes: Operator -> modules that call it.
        notes: What the report should say.
    """

    file: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    reference: Infer
    scopes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Made:
    network: Network
    sizes: Mapping[str, int]
    found: Found

    @property
    def rank(self) -> tuple[bool, int]:
        """Order the ways: the smallest is the best."""
        return self.found.differs, len(self.found.fixed)


def convert_prepared(prepared: Prepared, output: Path, request: ConversionRequest) -> ConversionResult:
    """Convert; see the module's docstring for the order of the ways.

    Raises:
        UnsupportedModelError: A layer, a type or a rank that ncnn does not have.
        ConversionError: pnnx failed in every way.
    """
    _refuse(prepared)
    batch = batch_names(request)
    attempts: list[Attempt] = []
    failures: list[RegistryExportError] = []
    best: _Made | None = None
    for number, (way, others) in enumerate(_ways(prepared, request, traced_sizes(request))):
        try:
            made = _try(prepared, request, others, request.work / f"way-{number}")
        except RegistryExportError as error:
            attempts.append(Attempt(way, error.message))
            failures.append(error)
            continue
        attempts.append(Attempt(way, made.found.complaint))
        if best is None or made.rank < best.rank:
            best = made
        if not made.found.differs and not set(made.found.fixed) - batch:
            break
    if best is None:
        raise _refused(attempts, failures)
    _deliver(best, prepared, output, request)
    return ConversionResult(tuple(attempts), prepared.notes)


def _refuse(prepared: Prepared) -> None:
    refuse_dtypes([spec.name for spec in prepared.inputs], [spec.dtype for spec in prepared.inputs])
    for spec in (*prepared.inputs, *prepared.outputs):
        if spec.dtype.startswith("complex"):
            raise UnsupportedModelError(f"ncnn has no complex numbers, as {spec.name} holds.")
    for spec in prepared.inputs:
        if spec.shape is not None and not 1 <= len(spec.shape) <= 5:
            raise UnsupportedModelError(
                f"The input {spec.name} has {len(spec.shape)} axes; ncnn takes one to four, and a batch."
            )


def _ways(
    prepared: Prepared, request: ConversionRequest, sizes: Mapping[str, int]
) -> Iterator[tuple[str, Mapping[str, int]]]:
    """Yield the ways: a name, and the second sizes of the dimensions that stay open."""
    batch = batch_names(request)
    open_ = {name: size for name, size in sizes.items() if name not in batch}
    others = second_sizes(prepared.reference, request, sizes) if open_ else {}
    together = {name: size for name, size in others.items() if name not in batch}
    if together and answers(prepared.reference, resized(request, {**sizes, **together})) is not None:
        yield "pnnx with two sizes of each dynamic dimension", together
    yield "pnnx at the sizes of the samples" if open_ else "pnnx", {}


def traced_sizes(request: ConversionRequest) -> dict[str, int]:
    """Return the size of every dynamic dimension in the samples; 1 for a batch, whose axis ncnn keeps apart."""
    return {**sizes_of(request), **dict.fromkeys(batch_names(request), 1)}


def _try(prepared: Prepared, request: ConversionRequest, others: Mapping[str, int], folder: Path) -> _Made:
    folder.mkdir(parents=True)
    model = folder / f"model{prepared.file.suffix}"
    link_file(prepared.file, model)
    sizes = traced_sizes(request)
    half = request.options.get("precision") == "fp16"

    def shapes(values: Mapping[str, int]) -> list[tuple[int, ...]]:
        arrays = resized(request, values)
        return [arrays[spec.name].shape for spec in prepared.inputs]

    network = run_pnnx(
        model,
        [spec.dtype for spec in prepared.inputs],
        shapes(sizes),
        shapes({**sizes, **others}) if others else None,
        half=half,
        scopes=prepared.scopes,
    )
    if (len(network.inputs), len(network.outputs)) != (len(prepared.inputs), len(prepared.outputs)):
        raise ConversionError(
            f"pnnx wrote {len(network.inputs)} inputs and {len(network.outputs)} outputs; "
            f"the model has {len(prepared.inputs)} and {len(prepared.outputs)}."
        )
    runner = NcnnRunner(network.param, _layout(network, prepared, request.interface))
    tried = {**others, **dict.fromkeys(batch_names(request), _ROWS)}
    tolerance = _FP16_TOLERANCE if half else _TOLERANCE
    found = compare(prepared.reference, runner.infer, request, sizes, tried, tolerance)
    if found.differs and network.remarks:
        raise UnsupportedModelError(f"ncnn would answer otherwise than the model: {'; '.join(network.remarks)}.")
    return _Made(network, sizes, found)


def _layout(
    network: Network, prepared: Prepared, interface: Interface, fixed: Mapping[str, int] | None = None
) -> Layout:
    def blobs(
        specs: Sequence[TensorSpec], axes: Sequence[int], what: str, order: Sequence[TensorSpec]
    ) -> tuple[Blob, ...]:
        made = {
            spec.name: Blob(f"{what}{i}", spec.name, spec.dtype, _sized(spec.shape, fixed or {}), axis)
            for i, (spec, axis) in enumerate(zip(specs, axes, strict=True))
        }
        return tuple(made[spec.name] for spec in order or specs)

    return Layout(
        blobs(prepared.inputs, network.inputs, "in", interface.inputs),
        blobs(prepared.outputs, network.outputs, "out", interface.outputs),
        converter(),
    )


def _sized(shape: tuple[Dimension, ...] | None, fixed: Mapping[str, int]) -> tuple[Dimension, ...] | None:
    return shape and tuple(fixed.get(size, size) if isinstance(size, str) else size for size in shape)


def _deliver(made: _Made, prepared: Prepared, output: Path, request: ConversionRequest) -> None:
    link_file(made.network.param, output)
    link_file(weights_of(made.network.param), weights_of(output))
    fixed = {name: made.sizes[name] for name in made.found.fixed}
    layout = _layout(made.network, prepared, request.interface, fixed)
    if len(fixed) == len(made.sizes):
        expected = answers(prepared.reference, resized(request, made.sizes)) or {}
        sizes = {name: array.shape for name, array in expected.items()}
        outputs = tuple(replace(blob, shape=sizes.get(blob.name, blob.shape)) for blob in layout.outputs)
        layout = replace(layout, outputs=outputs)
    write_layout(layout, output)


def _refused(attempts: Sequence[Attempt], failures: Sequence[RegistryExportError]) -> RegistryExportError:
    reasons = "; ".join(f"{attempt.way}: {attempt.error.rstrip('.')}" for attempt in attempts)
    unsupported = next((f for f in failures if isinstance(f, UnsupportedModelError)), None)
    if unsupported is not None and (len(failures) == 1 or len({f.message for f in failures}) == 1):
        return unsupported
    error = (UnsupportedModelError if unsupported else ConversionError)(
        f"No way led to ncnn: {reasons}.", remedy=failures[0].remedy
    )
    error.__cause__ = failures[0]
    return error
