"""The sources `state_dict` and `safetensors`: weights without an architecture."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from registry_export.entities import Interface, TensorSpec
from registry_export.errors import SourceError
from registry_export.format import NO_SETUP, ModelSetup
from registry_export_plugins._torch.parametrizations import settle
from registry_export_plugins._torch.weights import load_weights
from registry_export_plugins.safetensors import Safetensors
from registry_export_plugins.state_dict import StateDict
from tests import models
from tests.support.torch_models import Classifier
from tests.unit.plugins.test_torch_files import Bomb, training_checkpoint

FACTORY = ModelSetup(model_factory="tests.support.torch_models:classifier")
ROWS = Interface((TensorSpec("x", "float32", ("batch", 4)),))
X = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)


def trained():
    return models.seeded(Classifier()).eval()


def answers(module):
    with torch.no_grad():
        return module.eval()(torch.from_numpy(X)).numpy()


def infer(format_, folder, setup=FACTORY, interface=ROWS):
    path = format_.locate(folder, {})
    with format_.open(path, interface, setup) as runner:
        return runner.infer({runner.interface.inputs[0].name: X})


@pytest.mark.parametrize(
    "held",
    [
        lambda net: net.state_dict(),
        lambda net: {"epoch": 1, "model_state_dict": net.state_dict(), "optimizer_state_dict": {"state": {}}},
        lambda net: {"state_dict": net.state_dict()},
        lambda net: {"model": net.state_dict(), "args": {"lr": 0.1}},
        lambda net: nn.DataParallel(net).state_dict(),
        lambda net: torch.compile(net).state_dict(),
        lambda net: {"state_dict": nn.DataParallel(torch.compile(net)).state_dict()},
        lambda net: {f"backbone.{name}": tensor for name, tensor in net.state_dict().items()},
        lambda net: dict(net.half().state_dict()),
    ],
    ids=["plain", "checkpoint", "state_dict", "model", "parallel", "compiled", "both", "prefix", "half"],
)
def test_weights_find_their_places_whatever_they_were_saved_in(held, tmp_path):
    torch.save(held(trained()), tmp_path / "model.pt")
    np.testing.assert_allclose(infer(StateDict(), tmp_path)["output"], answers(trained()), atol=2e-3)


def test_numbers_of_numpy_and_arguments_beside_the_weights_are_no_reason_to_refuse(tmp_path):
    beside = {"best": np.float64(0.5), "curve": np.arange(3), "args": argparse.Namespace(lr=1), "path": tmp_path}
    torch.save({"state_dict": trained().state_dict(), **beside}, tmp_path / "model.pt")
    np.testing.assert_allclose(infer(StateDict(), tmp_path)["output"], answers(trained()), atol=1e-6)


def test_a_legacy_file_is_read_too(tmp_path):
    torch.save(training_checkpoint(), tmp_path / "last.pth", _use_new_zipfile_serialization=False)
    assert infer(StateDict(), tmp_path)["output"].shape == (3, 3)


def test_without_a_factory_the_remedy_says_where_to_name_it(tmp_path):
    torch.save(trained().state_dict(), tmp_path / "model.pt")
    with pytest.raises(SourceError, match=r"model\.pt.*architecture.*model_factory.*registry_export\.model_factory"):
        infer(StateDict(), tmp_path, NO_SETUP)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tests.support.torch_models:wider_classifier", r"of another shape: encode\.weight \[6, 4\] for \[7, 4\]"),
        ("tests.support.torch_models:conv_net", r"missing: 0\.weight.*unexpected: encode\.weight"),
        ("tests.support.torch_models:no_module", "returns a int"),
        ("tests.support.torch_models:fails", "fails: KeyError"),
        ("tests.support.torch_models:absent", "has no absent"),
        ("tests.support.no_such:absent", "no module"),
    ],
)
def test_what_does_not_fit_is_named_in_one_sentence(name, said, tmp_path):
    torch.save(trained().state_dict(), tmp_path / "model.pt")
    with pytest.raises(SourceError, match=said):
        infer(StateDict(), tmp_path, ModelSetup(model_factory=name))


def test_a_file_with_code_in_it_is_refused_without_running_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": trained().state_dict(), "extra": Bomb()}, tmp_path / "model.pt")
    with pytest.raises(SourceError, match=r"more than tensors.*system.*torch\.save\(model\.state_dict"):
        infer(StateDict(), tmp_path)
    assert not (tmp_path / "exploded").exists()


def test_a_wrapper_names_the_inputs_and_outputs_and_is_the_reference(tmp_path):
    torch.save(trained().state_dict(), tmp_path / "model.pt")
    setup = ModelSetup(FACTORY.model_factory, "tests.support.torch_models:WithProbabilities")
    declared = Interface(ROWS.inputs, (TensorSpec("a", "float32", None), TensorSpec("b", "int64", None)))
    with StateDict().open(tmp_path / "model.pt", declared, setup) as runner:
        assert [(spec.name, spec.shape) for spec in runner.interface.inputs] == [("pixels", ("batch", 4))]
        outputs = runner.infer({"pixels": X * 255})
    assert list(outputs) == ["probabilities", "best"]
    np.testing.assert_array_equal(outputs["best"], answers(trained()).argmax(-1))


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_shards_are_joined_and_a_missing_one_is_named(kind, tmp_path):
    state = list(trained().state_dict().items())
    parts = {f"model-0000{i}-of-00002.{kind}": dict(part) for i, part in enumerate((state[:3], state[3:]), 1)}
    for name, part in parts.items():
        (save_file if kind == "safetensors" else torch.save)(part, tmp_path / name)
    index = {"weight_map": {key: name for name, part in parts.items() for key in part}}
    (tmp_path / f"model.{kind}.index.json").write_text(json.dumps(index))
    format_ = Safetensors() if kind == "safetensors" else StateDict()
    np.testing.assert_allclose(infer(format_, tmp_path)["output"], answers(trained()), atol=1e-6)
    (tmp_path / f"model-00002-of-00002.{kind}").unlink()
    with pytest.raises(SourceError, match="model-00002-of-00002"):
        infer(format_, tmp_path)


def test_an_index_reaches_no_file_outside_of_its_folder(tmp_path):
    (tmp_path / "in").mkdir()
    save_file(trained().state_dict(), tmp_path / "secret.safetensors")
    (tmp_path / "in" / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../secret.safetensors"}}')
    with pytest.raises(SourceError, match="outside"):
        infer(Safetensors(), tmp_path / "in")


def test_safetensors_give_the_same_answers_and_a_damaged_file_is_named(tmp_path):
    save_file(trained().state_dict(), tmp_path / "weights.safetensors")
    np.testing.assert_allclose(infer(Safetensors(), tmp_path)["output"], answers(trained()), atol=1e-6)
    assert Safetensors().describe(tmp_path / "weights.safetensors").precision == "fp32"
    (tmp_path / "weights.safetensors").write_bytes(b"torn")
    with pytest.raises(SourceError, match="cannot be read as safetensors"):
        infer(Safetensors(), tmp_path)


def parametrized():
    from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm

    return nn.Sequential(weight_norm(nn.Linear(4, 4)), spectral_norm(nn.Linear(4, 4)), orthogonal(nn.Linear(4, 4)))


def test_weights_that_are_computed_are_computed_once_and_give_the_same_answers():
    source, module = parametrized().eval(), parametrized().train().requires_grad_(False)
    source[1].parametrizations.weight.original.data.add_(torch.eye(4))  # as the last step of a training does
    load_weights(module, source.state_dict(), "net.pt")
    np.testing.assert_allclose(answers(module.eval()), answers(source), atol=1e-6)
    assert not any("parametrizations" in name for name in module.state_dict())


def test_a_weight_that_is_used_beside_its_parametrization_keeps_it():
    module = parametrized()[2:].eval()
    other = nn.Linear(4, 4)
    other.weight = module[0].parametrizations.weight.original
    module.append(other)
    expected = answers(module)
    settle(module)
    np.testing.assert_array_equal(answers(module), expected)


def test_a_tied_weight_that_the_file_keeps_once_is_not_missing(tmp_path):
    net = models.seeded(models.Transformer())
    state = {name: tensor for name, tensor in net.state_dict().items() if name != "head.weight"}
    save_file(state, tmp_path / "model.safetensors")
    setup = ModelSetup(model_factory="tests.models:Transformer")
    path = Safetensors().locate(tmp_path, {})
    loaded = Safetensors().load(path, Interface(inputs=()), setup).wrapped
    torch.testing.assert_close(loaded.head.weight, net.head.weight)


def test_a_half_precision_file_is_described_as_such(tmp_path):
    torch.save(trained().half().state_dict(), tmp_path / "model.pt")
    assert StateDict().describe(tmp_path / "model.pt").precision == "fp16"


def notes(folder):
    with StateDict().open(StateDict().locate(folder, {}), ROWS, FACTORY) as runner:
        return runner.notes


def test_of_several_sets_of_weights_the_report_says_which_was_taken(tmp_path):
    net = trained()
    held = {"model": net.state_dict(), "ema_state_dict": net.state_dict(), "optimizer": {"state": {0: {"step": 1}}}}
    torch.save(held, tmp_path / "last.pt")
    assert notes(tmp_path) == ("The weights are those under 'model'; not looked at beside them: 'ema_state_dict'.",)


def test_of_several_files_the_report_says_which_was_taken(tmp_path):
    for name in ("best.pt", "last.pt", "weights.txt"):
        torch.save(trained().state_dict(), tmp_path / name)
    torch.save({"lr": 1}, tmp_path / "arguments.pt")
    assert notes(tmp_path) == ("The checkpoint is best.pt; not looked at beside it: last.pt.",)


def test_one_set_of_weights_in_one_file_needs_no_note(tmp_path):
    torch.save({"model": trained().state_dict(), "epoch": 3}, tmp_path / "last.pt")
    assert notes(tmp_path) == ()
