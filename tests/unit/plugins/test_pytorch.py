"""The source `pytorch`: what a pickled module is called with, what its outputs are called."""

from __future__ import annotations

import importlib
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn

from registry_export.entities import Interface, TensorSpec
from registry_export.errors import SourceError, VerificationError
from registry_export.format import ModelSetup
from registry_export_plugins._torch.calls import first_line, flatten
from registry_export_plugins._torch.surroundings import hide_broken
from registry_export_plugins.pytorch import PyTorch
from registry_export_plugins.torchscript import TorchScript
from tests import models
from tests.support.torch_models import Classifier
from tests.unit.plugins.torch_support import FLAVORS, ROW, save

NOTHING = Interface(inputs=())
X = np.ones((2, 4), np.float32)


def _infer(module, folder, inputs, interface=NOTHING):
    with PyTorch().open(save(module, folder), interface) as runner:
        return runner.infer(inputs)


def test_a_module_logged_in_training_mode_is_run_in_evaluation_mode(tmp_path):
    module = models.seeded(models.ConvNet()).train()
    x = np.random.default_rng(0).standard_normal((3, 1, 8, 8)).astype(np.float32)
    with PyTorch().open(save(module, tmp_path), NOTHING) as runner:
        first, second = runner.infer({"x": x}), runner.infer({"x": x})
    np.testing.assert_array_equal(first["output"], second["output"])
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(first["output"], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (models.ConvNet(), ["output"]),
        (models.TupleOutput(), ["output_0", "output_1.0", "output_1.2.0", "output_1.2.1"]),
        (models.DictOutput(), ["zeta", "alpha.sum", "alpha.copy"]),
        (models.DataclassOutput(), ["scores", "bounds.low", "bounds.high"]),
        (models.PassThrough(), ["same", "double", "again"]),
    ],
)
def test_outputs_are_named_by_their_place_in_what_forward_returns(module, names, tmp_path):
    x = np.ones((2, 1, 8, 8), np.float32) if isinstance(module, models.ConvNet) else X
    assert list(_infer(module, tmp_path, {"x": x})) == names


def test_an_exporters_reason_is_told_without_what_it_asks_of_its_own_developers():
    asked = "Unsupported: ONNX export of Sort. Please feel free to request support on PyTorch GitHub: https://x.org/y"
    assert first_line(RuntimeError(asked)) == "RuntimeError: Unsupported: ONNX export of Sort."


def test_a_key_of_no_characters_is_named_so_that_every_format_can_hold_it():
    assert flatten({"": torch.zeros(1), "y": torch.zeros(1)}).names == ("output", "y")


def test_none_is_left_out_and_a_python_number_becomes_an_array_without_axes(tmp_path):
    outputs = _infer(models.TupleOutput(), tmp_path, {"x": X})
    assert outputs["output_1.2.1"].shape == ()
    assert outputs["output_1.2.1"] == 3


def test_names_of_a_signature_win_when_it_names_as_many_outputs(tmp_path):
    declared = Interface(ROW, tuple(TensorSpec(name, "float32", None) for name in "abcd"))
    assert list(_infer(models.TupleOutput(), tmp_path, {"x": X}, declared)) == list("abcd")
    fewer = Interface(ROW, (TensorSpec("a", "float32", None),))
    assert next(iter(_infer(models.TupleOutput(), tmp_path, {"x": X}, fewer))) == "output_0"


@pytest.mark.parametrize(
    ("module", "declared", "resolved"),
    [
        (models.TwoInputs(), ["table", "image"], ["table", "image"]),
        (models.TwoInputs(), ["", ""], ["image", "table"]),
        (models.TwoInputs(), ["first", "second"], ["first", "second"]),
        (models.TwoInputs(), ["anything", "image"], ["anything", "image"]),
        (models.TwoInputs(), [], ["image", "table"]),
        (models.KeywordOnly(), [""], ["x"]),
        (models.DictInput(), ["a", "b"], ["a", "b"]),
    ],
)
def test_inputs_are_bound_by_name_where_they_are_parameters_and_by_position_elsewhere(
    module, declared, resolved, tmp_path
):
    interface = Interface(tuple(TensorSpec(name, "float32", None) for name in declared))
    with PyTorch().open(save(module, tmp_path), interface) as runner:
        assert [spec.name for spec in runner.interface.inputs] == resolved


def test_order_of_a_signature_does_not_swap_the_arguments(tmp_path):
    module = models.seeded(models.TwoInputs()).eval()
    image, table = np.ones((2, 6), np.float32), np.zeros((2, 3), np.float32)
    interface = Interface((TensorSpec("table", "float32", None), TensorSpec("image", "float32", None)))
    outputs = _infer(module, tmp_path, {"image": image, "table": table}, interface)
    with torch.no_grad():
        expected = module(torch.from_numpy(image), torch.from_numpy(table)).numpy()
    np.testing.assert_allclose(outputs["output"], expected, atol=1e-6)


@pytest.mark.parametrize(("inputs", "said"), [({}, "lacks x"), ({"x": X, "y": X}, "no input y"), ({"z": X}, "lacks x")])
def test_missing_and_unknown_inputs_are_named(inputs, said, tmp_path):
    with pytest.raises(VerificationError, match=said):
        _infer(models.DictOutput(), tmp_path, inputs)


def test_more_inputs_than_parameters_are_refused(tmp_path):
    specs = tuple(TensorSpec(name, "float32", None) for name in ("a", "b", "c", "d"))
    with pytest.raises(SourceError, match="declares 4 inputs"):
        PyTorch().load(save(models.TwoInputs(), tmp_path), Interface(specs))


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile, lambda module: module])
def test_what_surrounds_a_module_for_training_is_taken_off(wrap, tmp_path):
    adapter = PyTorch().load(save(wrap(models.DictOutput()), tmp_path), NOTHING)
    assert type(adapter.wrapped) is models.DictOutput


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_other_precisions_keep_their_dtype(dtype, tmp_path):
    module = models.KeywordOnly().to(getattr(torch, dtype))
    outputs = _infer(module, tmp_path, {"x": X.astype(dtype)})
    assert outputs["output"].dtype == dtype


def test_bfloat16_is_shown_as_float32_because_numpy_has_none(tmp_path):
    outputs = _infer(models.KeywordOnly().bfloat16(), tmp_path, {"x": X})
    assert outputs["output"].dtype == np.float32
    assert PyTorch().describe(tmp_path / "data" / "model.pth").precision == "bf16"


def test_inputs_are_not_changed_by_a_model_that_works_in_place(tmp_path):
    x = X.copy()
    x.flags.writeable = False
    _infer(models.InPlace(), tmp_path, {"x": x})
    np.testing.assert_array_equal(x, X)


def test_a_state_dict_is_refused_with_what_to_log(tmp_path):
    path = save(models.DictOutput(), tmp_path)
    torch.save(models.DictOutput().state_dict(), path)
    with pytest.raises(SourceError, match=r"not a module.*Log the module itself"):
        PyTorch().load(path, NOTHING)


def test_a_damaged_file_is_an_error_of_the_checkpoint(tmp_path):
    path = save(models.DictOutput(), tmp_path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(SourceError, match="cannot be read"):
        PyTorch().load(path, NOTHING)


class RaisesWhenLoaded(nn.Module):
    raised: Exception

    def __setstate__(self, state):
        raise self.raised


@pytest.mark.parametrize(
    "raised", [RuntimeError("no channels"), AttributeError("no channels"), TypeError("no channels")]
)
def test_what_the_authors_code_raises_is_told_as_theirs_and_with_its_place(raised, tmp_path, monkeypatch):
    path = save(RaisesWhenLoaded(), tmp_path)
    monkeypatch.setattr(RaisesWhenLoaded, "raised", raised, raising=False)
    with pytest.raises(SourceError) as refused:
        PyTorch().load(path, NOTHING)
    place = r"\(test_pytorch\.py, line \d+, in __setstate__\)"
    refused.match(rf"runs its author's code .* raised {type(raised).__name__}: no channels {place}\. Correct that code")


def test_missing_code_names_the_module(tmp_path, monkeypatch):
    path = save(models.DictOutput(), tmp_path)
    path.write_bytes(path.read_bytes().replace(b"tests.models", b"absent.model"))
    with pytest.raises(SourceError, match=r"absent.*code_paths"):
        PyTorch().load(path, NOTHING)


def test_a_scripted_module_in_the_pickles_place_is_torchscript(tmp_path):
    path = tmp_path / "data" / "model.pth"
    path.parent.mkdir()
    torch.jit.script(models.PythonIf()).save(path)
    assert PyTorch().locate(tmp_path, FLAVORS) is None
    assert TorchScript().locate(tmp_path, FLAVORS) == path


def test_other_flavors_are_not_located(tmp_path):
    path = save(models.DictOutput(), tmp_path)
    assert PyTorch().locate(tmp_path, FLAVORS) == path
    assert PyTorch().locate(tmp_path, {"sklearn": {}}) is None


def test_a_plain_file_holds_a_module_or_a_checkpoint_with_one(tmp_path):
    net = models.seeded(models.DictOutput())
    for name, held in (("a", net), ("b", {"epoch": 3, "model": net.half(), "optimizer": None})):
        (tmp_path / name).mkdir()
        torch.save(held, tmp_path / name / "best.pt")
        path = PyTorch().locate(tmp_path / name, {})
        assert path == tmp_path / name / "best.pt"
        assert type(PyTorch().load(path, NOTHING).wrapped) is models.DictOutput


def test_a_pickle_is_refused_where_the_rule_forbids_it(tmp_path):
    path = save(models.DictOutput(), tmp_path)
    with pytest.raises(SourceError, match=r"model\.pth is pickled.*allow_pickle: false.*Log the model"):
        PyTorch().load(path, NOTHING, ModelSetup(allow_pickle=False))


def test_a_wrapper_is_what_is_loaded_and_run(tmp_path):
    path = save(models.seeded(Classifier()), tmp_path)
    setup = ModelSetup(wrapper="tests.support.torch_models:Doubled")
    with PyTorch().open(path, Interface(ROW), setup) as runner, PyTorch().open(path, Interface(ROW)) as plain:
        np.testing.assert_allclose(runner.infer({"x": X})["output"], 2 * plain.infer({"x": X})["output"])
    assert type(PyTorch().load(path, NOTHING, setup).wrapped).__name__ == "Doubled"


@pytest.mark.parametrize("name", ["tests.support.torch_models:as_list", "tests.support.torch_models:absent"])
def test_a_wrapper_that_returns_no_module_is_named(name, tmp_path):
    path = save(models.DictOutput(), tmp_path)
    with pytest.raises(SourceError, match=r"wrapper tests\.support\.torch_models:"):
        PyTorch().load(path, NOTHING, ModelSetup(wrapper=name))


def test_a_package_that_is_broken_here_is_absent_to_a_model_that_can_do_without(tmp_path, monkeypatch):
    (tmp_path / "brokenpackage.py").write_text("raise RuntimeError('operator does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    hide_broken("brokenpackage")
    assert find_spec("brokenpackage") is None
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("brokenpackage")
