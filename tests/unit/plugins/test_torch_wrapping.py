"""A rule's wrapper around scripts and programs, and quantised scripts as sources."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from registry_export.entities import Interface, TensorSpec
from registry_export.errors import ConversionError, SourceError
from registry_export.format import ModelSetup
from registry_export_plugins.exported_program import ExportedProgram
from registry_export_plugins.onnx import Onnx
from registry_export_plugins.torchscript import TorchScript
from tests import models
from tests.support.torch_models import Classifier
from tests.unit.plugins.torch_support import Source, assert_same_numbers, convert

WRAPPED = ModelSetup(wrapper="tests.support.torch_models:WithProbabilities")
DECLARED = Interface((TensorSpec("x", "float32", ("batch", 4)),), (TensorSpec("scores", "float32", ("batch", 3)),))
X = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)


def net():
    return models.seeded(Classifier()).eval()


def saved(kind, folder):
    folder.mkdir(exist_ok=True)
    if kind == "torchscript":
        torch.jit.script(net()).save(folder / "net.pt")
        return TorchScript(), folder / "net.pt"
    shapes = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(net(), (torch.ones(2, 4),), dynamic_shapes=shapes), folder / "net.pt2")
    return ExportedProgram(), folder / "net.pt2"


@pytest.mark.parametrize("kind", ["torchscript", "exported_program"])
def test_a_wrapper_is_the_reference_and_is_exported(kind, tmp_path):
    format_, path = saved(kind, tmp_path)
    assert format_.locate(tmp_path, {}) == path
    inputs = (TensorSpec("pixels", "float32", ("batch", 4)),)
    with format_.open(path, DECLARED, WRAPPED) as runner:
        assert [spec.name for spec in runner.interface.inputs] == ["pixels"]
        runs = tuple(({"pixels": X[:rows] * 255}, runner.infer({"pixels": X[:rows] * 255})) for rows in (2, 1, 3))
    with torch.no_grad():
        expected = net()(torch.from_numpy(X)).softmax(-1).numpy()
    np.testing.assert_allclose(runs[2][1]["probabilities"], expected, atol=1e-5)
    outputs = (TensorSpec("probabilities", "float32", ("batch", 3)), TensorSpec("best", "int64", ("batch",)))
    source = Source(path, DECLARED, Interface(inputs, outputs), runs)
    target = Onnx() if kind == "exported_program" else TorchScript()
    output, _ = convert(target, kind, format_.load(path, DECLARED, WRAPPED), source, tmp_path / "out")
    assert_same_numbers(target, output, source)


@pytest.mark.parametrize("kind", ["torchscript", "exported_program"])
def test_a_wrapper_that_makes_no_module_is_named(kind, tmp_path):
    format_, path = saved(kind, tmp_path)
    with pytest.raises(SourceError, match=r"as_list returns a list"):
        format_.load(path, DECLARED, ModelSetup(wrapper="tests.support.torch_models:as_list"))


def test_a_dynamically_quantised_script_is_kept_and_onnx_names_the_operator_it_lacks(tmp_path):
    quantized = torch.ao.quantization.quantize_dynamic(net(), {nn.Linear}, torch.qint8)
    torch.jit.script(quantized).save(tmp_path / "net.pt")
    path = TorchScript().locate(tmp_path, {})
    with TorchScript().open(path, DECLARED) as runner:
        runs = (({"x": X}, runner.infer({"x": X})),)
    source = Source(path, DECLARED, DECLARED, runs)
    kept, _ = convert(TorchScript(), "torchscript", TorchScript().load(path, DECLARED), source, tmp_path / "script")
    assert_same_numbers(TorchScript(), kept, source, atol=0)
    with pytest.raises(ConversionError, match=r"quantized\.linear"):
        convert(Onnx(), "torchscript", TorchScript().load(path, DECLARED), source, tmp_path / "onnx")
