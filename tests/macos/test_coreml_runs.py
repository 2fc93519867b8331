"""Runs Core ML packages where Core ML is: `python -m pytest tests/macos` on a Mac.

The environment needs `registry-export[coreml,pytorch,test]`.
"""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest

if platform.system() != "Darwin":
    pytest.skip("Core ML runs on macOS only", allow_module_level=True)

import registry_export_plugins._coreml.without_tensorflow  # noqa: F401
from registry_export.errors import UnsupportedModelError
from registry_export_plugins._coreml.runner import CoreMLRunner, EvaluatorRunner
from registry_export_plugins.coreml import CoreML
from tests import models
from tests.unit.plugins.torch_support import CASES, Source, convert, make_source

TOLERANCES = {"fp32": 1e-4, "fp16": 5e-3, "int8": 0.1}


def source_of(name: str, folder: Path) -> Source:
    case = CASES[name]
    return make_source(models.seeded(case.make()).eval(), case.inputs, folder)


def assert_close(runner: CoreMLRunner, source: Source, atol: float) -> None:
    for inputs, expected in source.runs:
        actual = runner.infer(inputs)
        assert list(actual) == list(expected)
        for name, array in expected.items():
            assert (actual[name].shape, actual[name].dtype) == (array.shape, array.dtype), name
            np.testing.assert_allclose(actual[name], array, atol=atol, rtol=1e-2, err_msg=name)


@pytest.mark.parametrize("units", ["CPU_ONLY", "ALL"])
@pytest.mark.parametrize("name", CASES)
def test_core_ml_gives_the_sources_numbers_at_every_size(name: str, units: str, tmp_path: Path):
    source = source_of(name, tmp_path / "source")
    path, _ = convert(CoreML(), "torch_module", source.load(), source, tmp_path)
    with CoreML().open(path, source.interface):
        assert_close(CoreMLRunner(path, source.interface, units), source, TOLERANCES["fp32"])


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("name", ["conv", "lstm", "transformer"])
def test_core_ml_gives_nearly_the_same_in_less_precision(name: str, precision: str, tmp_path: Path):
    source = source_of(name, tmp_path / "source")
    path, _ = convert(CoreML(), "torch_module", source.load(), source, tmp_path, precision=precision)
    assert_close(CoreMLRunner(path, source.interface), source, TOLERANCES[precision])


@pytest.mark.parametrize("asked", [{}, {"precision": "fp16"}, {"precision": "int8"}, {"palettize": 4}], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_the_evaluator_agrees_with_core_ml(name: str, asked: dict[str, object], tmp_path: Path):
    source = source_of(name, tmp_path / "source")
    try:
        path, _ = convert(CoreML(), "torch_module", source.load(), source, tmp_path, **asked)
    except UnsupportedModelError as error:
        pytest.skip(str(error))
    evaluator, core_ml = EvaluatorRunner(path, source.interface), CoreMLRunner(path, source.interface)
    # Both have the same weights, whatever was done to these: what differs is arithmetic alone.
    atol = TOLERANCES["fp16"] if asked else TOLERANCES["fp32"]
    for inputs, _ in source.runs:
        evaluated, expected = evaluator.infer(inputs), core_ml.infer(inputs)
        assert list(evaluated) == list(expected)
        for output, array in expected.items():
            assert (evaluated[output].shape, evaluated[output].dtype) == (array.shape, array.dtype), output
            np.testing.assert_allclose(evaluated[output], array, atol=atol, rtol=1e-2, err_msg=output)
