"""Builds small ML programs with coremltools' own builder and evaluates them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import registry_export_plugins._coreml.without_tensorflow  # noqa: F401  before anything imports coremltools whole
from registry_export_plugins._coreml.evaluation.runner import EvaluatedModel
from registry_export_plugins._coreml.package import Package

import coremltools as ct  # isort: skip
from coremltools.converters.mil import Builder as mb  # noqa: N813  isort: skip
from coremltools.converters.mil.mil import types  # isort: skip

_TYPES = {"float32": types.fp32, "float16": types.fp16, "int32": types.int32, "bool": types.bool}


@dataclass(frozen=True)
class Case:
    """One operator with its inputs, and what something else says that it gives."""

    name: str
    build: Callable[..., Any]
    inputs: Mapping[str, np.ndarray]
    expected: Any
    target: str = "iOS17"
    atol: float = 1e-5

    def __str__(self) -> str:
        return self.name


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def packaged(
    build: Callable[..., Any],
    inputs: Mapping[str, np.ndarray],
    target: str = "iOS17",
    precision: str = "FLOAT32",
    dynamic: bool = False,
) -> Path:
    """Write a program that takes tensors like `inputs`, of open sizes where `dynamic`."""
    specs = [mb.TensorSpec(shape=array.shape, dtype=_TYPES[array.dtype.name]) for array in inputs.values()]
    release = getattr(ct.target, target)
    program = mb.program(input_specs=specs, opset_version=release)(build)
    path = Path(tempfile.mkdtemp()) / "model.mlpackage"
    # No pass: what is tested must reach the file.
    model = ct.convert(
        program,
        convert_to="mlprogram",
        compute_precision=getattr(ct.precision, precision),
        minimum_deployment_target=release,
        pass_pipeline=ct.PassPipeline.EMPTY if precision == "FLOAT32" else ct.PassPipeline.DEFAULT,
        skip_model_load=True,
    )
    model.save(str(path))
    return path


def evaluated(path: Path, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Evaluate a package; return its outputs in order."""
    package = Package(path)
    return [np.asarray(array) for array in EvaluatedModel(package).predict(inputs).values()]


def assert_agrees(case: Case) -> None:
    path = packaged(case.build, case.inputs, case.target)
    results = evaluated(path, case.inputs)
    expected = case.expected if isinstance(case.expected, tuple | list) else [case.expected]
    assert len(results) == len(expected)
    for actual, wanted in zip(results, expected, strict=True):
        wanted = np.asarray(wanted)
        assert actual.shape == wanted.shape
        np.testing.assert_allclose(actual.astype(np.float64), wanted.astype(np.float64), atol=case.atol, rtol=1e-4)
