"""A pickled PyTorch model with its interface and its own answers, ready to be converted and compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import torch

from registry_export.entities import Interface, TensorSpec
from registry_export.format import EXPORTED_PROGRAM, TORCH_MODULE, ConversionRequest, ConversionResult
from registry_export_plugins._torch.export import export_program
from registry_export_plugins.pytorch import PyTorch
from tests import models

FLAVORS = {"pytorch": {"model_data": "data"}}
SIZES = (
    {"batch": 2, "seq": 5, "height": 8, "width": 10},
    {"batch": 1, "seq": 5, "height": 8, "width": 10},
    {"batch": 3, "seq": 9, "height": 12, "width": 6},
)
"""The first is traced with; a dynamic dimension has another size in one of the others."""


def spec(name: str, dtype: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name, dtype, shape)


@dataclass(frozen=True)
class Case:
    make: Callable[[], torch.nn.Module]
    inputs: tuple[TensorSpec, ...]


IDS = (spec("input_ids", "int64", "batch", "seq"), spec("attention_mask", "int64", "batch", "seq"))
ROW = (spec("x", "float32", "batch", 4),)
CASES = {
    "conv": Case(models.ConvNet, (spec("x", "float32", "batch", 1, 8, 8),)),
    "residual": Case(models.Residual, (spec("image", "float32", "batch", 3, "height", "width"),)),
    "lstm": Case(models.Recurrent, (spec("sequence", "float32", "batch", "seq", 4),)),
    "gru": Case(lambda: models.Recurrent("GRU"), (spec("sequence", "float32", "batch", "seq", 4),)),
    "transformer": Case(models.Transformer, IDS),
    "layers": Case(models.EncoderLayers, (spec("x", "float32", "batch", "seq", 8),)),
    "two_inputs": Case(models.TwoInputs, (spec("table", "float32", "batch", 3), spec("image", "float32", "batch", 6))),
    "keyword_only": Case(models.KeywordOnly, ROW),
    "dict_input": Case(models.DictInput, (spec("a", "float32", "batch", 4), spec("b", "float32", "batch", 4))),
    "tuple": Case(models.TupleOutput, ROW),
    "dict": Case(models.DictOutput, ROW),
    "dataclass": Case(models.DataclassOutput, ROW),
    "same_as_input": Case(models.PassThrough, ROW),
    "python_if": Case(models.PythonIf, ROW),
    "cond": Case(models.Cond, ROW),
    "bool": Case(models.BoolInput, (*ROW, spec("mask", "bool", "batch", 4))),
}


def save(module: torch.nn.Module, folder: Path) -> Path:
    """Lay a module where MLflow lays it; classes are pickled by reference to `tests.models`."""
    path = folder / "data" / "model.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(module, path, pickle_module=cloudpickle)
    return path


def draw(specs: Sequence[TensorSpec], sizes: Mapping[str, int], seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {item.name: _draw(item, sizes, generator) for item in specs}


def _draw(item: TensorSpec, sizes: Mapping[str, int], generator: np.random.Generator) -> np.ndarray:
    shape = [sizes[size] if isinstance(size, str) else size for size in item.shape or ()]
    if item.dtype == "bool":
        return generator.random(shape) > 0.5
    if item.dtype == "int64":
        drawn = generator.integers(0, 2, shape)
        drawn[:, 0] = 1  # a mask that hides everything has no answer
        return drawn
    return np.asarray(generator.standard_normal(shape)).astype(item.dtype)


@dataclass(frozen=True)
class Source:
    """A checkpoint with everything that a conversion's request needs."""

    path: Path
    declared: Interface
    interface: Interface
    runs: tuple[tuple[dict[str, np.ndarray], dict[str, np.ndarray]], ...]

    def load(self) -> Any:
        return PyTorch().load(self.path, self.declared)


def make_source(module: torch.nn.Module, inputs: tuple[TensorSpec, ...], folder: Path) -> Source:
    path = save(module, folder)
    declared = Interface(inputs)
    with PyTorch().open(path, declared) as runner:
        resolved = runner.interface.inputs
        drawn = [draw(resolved, sizes, seed) for seed, sizes in enumerate(SIZES)]
        # Both branches of a decision on the data are taken.
        drawn += [{n: -a if a.dtype.kind == "f" else a for n, a in drawn[-1].items()}]
        runs = tuple((values, runner.infer(values)) for values in drawn)
    outputs = tuple(_output(name, runs) for name in runs[0][1])
    return Source(path, declared, Interface(resolved, outputs), runs)


def _output(name: str, runs: Any) -> TensorSpec:
    arrays = [outputs[name] for _, outputs in runs[:3]]
    dims = [
        array_sizes[0]
        if len(set(array_sizes)) == 1
        else next((dim for dim in SIZES[0] if [s[dim] for s in SIZES] == list(array_sizes)), f"{name}_dim")
        for array_sizes in zip(*(array.shape for array in arrays), strict=True)
    ]
    return TensorSpec(name, arrays[0].dtype.name, tuple(dims))


def convert(
    format_: Any, kind: str, model: Any, source: Source, folder: Path, **options: Any
) -> tuple[Path, ConversionResult]:
    """Run a format's conversion from a kind, as the core does."""
    folder.mkdir(parents=True, exist_ok=True)
    work = folder / "work"
    work.mkdir(exist_ok=True)
    (folder / "out").mkdir(exist_ok=True)
    output = folder / "out" / format_.filename
    conversion = next(c for c in format_.conversions if c.kind == kind)
    values = {option.name: option.default for option in format_.options} | options
    request = ConversionRequest(values, source.interface, source.runs[0][0], work)
    return output, conversion.function(model, output, request)


def assert_same_numbers(
    format_: Any, path: Path, source: Source, *, atol: float = 1e-5, sizes: slice = slice(None)
) -> None:
    """Compare an artifact with its source on every set of inputs: names, order, dtypes, shapes, values."""
    with format_.open(path, source.interface) as runner:
        for inputs, expected in source.runs[sizes]:
            actual = runner.infer(inputs)
            assert list(actual) == list(expected)
            for name, array in expected.items():
                assert actual[name].dtype == array.dtype, name
                assert actual[name].shape == array.shape, name
                np.testing.assert_allclose(actual[name], array, atol=atol, rtol=1e-3, err_msg=name)


def assert_computes_in(format_: Any, precision: str, source: Source, folder: Path, *, atol: float) -> None:
    """Make a half-precision file of a module and of its program: both say their precision, and answer as the source."""
    request = ConversionRequest({}, source.interface, source.runs[0][0], folder)
    for kind, load in (
        (TORCH_MODULE, source.load),
        (EXPORTED_PROGRAM, lambda: export_program(source.load(), request).program),
    ):
        path, _ = convert(format_, kind, load(), source, folder / kind, precision=precision)
        assert_same_numbers(format_, path, source, atol=atol)
        assert format_.describe(path).precision == precision


def dynamic_axes(interface: Interface) -> dict[str, list[int]]:
    return {
        item.name: [axis for axis, size in enumerate(item.shape or ()) if isinstance(size, str)]
        for item in interface.inputs
    }


def renamed(interface: Interface, **names: str) -> Interface:
    return Interface(tuple(dataclasses.replace(s, name=names.get(s.name, s.name)) for s in interface.inputs))
