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
from registry_export_plugins._coreml.runner import CoreMLRunner
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
