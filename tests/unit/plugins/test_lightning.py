"""The source `lightning`: checkpoints of Lightning's trainer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from registry_export.entities import Interface
from registry_export.errors import SourceError
from registry_export.format import NO_SETUP, ModelSetup
from registry_export_plugins.lightning import Lightning
from registry_export_plugins.onnx import Onnx
from registry_export_plugins.torchscript import TorchScript
from tests.support import lightning_models
from tests.support.torch_models import Settings
from tests.unit.plugins.torch_support import Source, assert_same_numbers, convert

NOTHING = Interface(inputs=())
CLASS = ModelSetup(model_factory="tests.support.lightning_models:LitClassifier")
X = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lightning")
    return lightning_models.save(folder / "epoch=0.ckpt"), folder


def expected(model):
    with torch.no_grad():
        return model(torch.from_numpy(X)).numpy()


@pytest.mark.parametrize("factory", ["LitClassifier", "inner"])
def test_class_and_function_both_serve_as_factory(factory, trained):
    model, folder = trained
    setup = ModelSetup(model_factory=f"tests.support.lightning_models:{factory}")
    with Lightning().open(Lightning().locate(folder, {}), NOTHING, setup) as runner:
        np.testing.assert_allclose(runner.infer({"x": X})["output"], expected(model), atol=1e-6)


def test_example_input_array_becomes_the_runners_example(trained):
    _, folder = trained
    with Lightning().open(Lightning().locate(folder, {}), NOTHING, CLASS) as runner:
        assert list(runner.example) == ["x"]
        assert runner.example["x"].shape == (4, 4)


@pytest.mark.parametrize("target", ["onnx", "torchscript"])
def test_a_lightning_module_is_exported(target, trained, tmp_path):
    _, folder = trained
    format_ = {"onnx": Onnx, "torchscript": TorchScript}[target]()
    path = Lightning().locate(folder, {})
    with Lightning().open(path, NOTHING, CLASS) as runner:
        inputs = tuple(s.__class__(s.name, "float32", ("batch", 4)) for s in runner.interface.inputs)
        runs = ((dict(runner.example), runner.infer(runner.example)), ({"x": X}, runner.infer({"x": X})))
    outputs = (inputs[0].__class__("output", "float32", ("batch", 2)),)
    source = Source(path, NOTHING, Interface(inputs, outputs), runs)
    output, _ = convert(format_, "torch_module", Lightning().load(path, NOTHING, CLASS), source, tmp_path)
    assert_same_numbers(format_, output, source)


def test_without_a_factory_the_remedy_says_where_to_name_it(trained):
    with pytest.raises(SourceError, match="model_factory"):
        Lightning().load(Lightning().locate(trained[1], {}), NOTHING, NO_SETUP)


def test_arguments_that_were_not_saved_are_named(tmp_path):
    lightning_models.save(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=False)
    del checkpoint["hyper_parameters"]
    torch.save(checkpoint, tmp_path / "a.ckpt")
    with pytest.raises(SourceError, match=r"width.*save_hyperparameters"):
        Lightning().load(tmp_path / "a.ckpt", NOTHING, CLASS)


def test_a_class_without_forward_needs_a_wrapper(tmp_path):
    lightning_models.save(tmp_path / "a.ckpt", module=lightning_models.LitClassifier)
    silent = ModelSetup(model_factory="tests.support.lightning_models:Silent")
    with pytest.raises(SourceError, match=r"no forward.*wrapper"):
        Lightning().load(tmp_path / "a.ckpt", NOTHING, silent)


def test_hyper_parameters_that_are_objects_are_unpickled_only_where_that_is_allowed(tmp_path):
    lightning_models.save(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=False)
    checkpoint["hyper_parameters"]["extra"] = Settings()
    torch.save(checkpoint, tmp_path / "a.ckpt")
    Lightning().load(tmp_path / "a.ckpt", NOTHING, CLASS)
    forbidden = ModelSetup(model_factory=CLASS.model_factory, allow_pickle=False)
    with pytest.raises(SourceError, match=r"Settings.*allow_pickle: false"):
        Lightning().load(tmp_path / "a.ckpt", NOTHING, forbidden)


def test_other_weights_are_refused_by_name(tmp_path):
    lightning_models.save(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=False)
    checkpoint["hyper_parameters"]["width"] = 5
    torch.save(checkpoint, tmp_path / "a.ckpt")
    with pytest.raises(SourceError, match=r"model\.encode\.weight \[9, 4\] for \[5, 4\]"):
        Lightning().load(tmp_path / "a.ckpt", NOTHING, CLASS)


def test_the_file_tells_its_precision_and_lightnings_version(trained):
    description = Lightning().describe(Lightning().locate(trained[1], {}))
    assert description.precision == "fp32"
    assert description.details["lightning"]
