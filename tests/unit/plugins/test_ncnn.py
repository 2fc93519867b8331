"""The format `ncnn`: what pnnx makes of PyTorch, TorchScript, programs and ONNX, run by ncnn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from registry_export.entities import Interface
from registry_export.errors import UnsupportedModelError, VerificationError
from registry_export_plugins._ncnn.layout import with_rank
from registry_export_plugins.exported_program import ExportedProgram
from registry_export_plugins.ncnn import Ncnn
from registry_export_plugins.onnx import Onnx
from registry_export_plugins.torchscript import TorchScript
from tests import models
from tests.models import seeded
from tests.unit.plugins.torch_support import (
    CASES,
    Case,
    assert_same_numbers,
    convert,
    dynamic_axes,
    make_source,
    spec,
)

NCNN = Ncnn()
CONVERTIBLE = ("conv", "residual", "lstm", "gru", "layers", "two_inputs", "dict", "same_as_input", "keyword_only")


def made(case: Case, folder: Path, **options):
    source = make_source(seeded(case.make()).eval(), case.inputs, folder / "source")
    path, result = convert(NCNN, "torch_module", source.load(), source, folder / "ncnn", **options)
    return source, path, result


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_gives_the_modules_numbers_under_its_names_at_every_batch_and_size(name, tmp_path):
    source, path, _ = made(CASES[name], tmp_path)
    assert_same_numbers(NCNN, path, source)
    assert dynamic_axes(NCNN.describe(path).interface) == dynamic_axes(source.interface)


def test_halves_are_stored_and_said_and_stay_close(tmp_path):
    source, path, _ = made(CASES["residual"], tmp_path, precision="fp16")
    assert NCNN.describe(path).precision == "fp16"
    assert_same_numbers(NCNN, path, source, atol=5e-3)
    whole = made(CASES["residual"], tmp_path / "whole")[1]
    assert NCNN.describe(whole).precision == "fp32"
    assert path.with_suffix(".bin").stat().st_size < whole.with_suffix(".bin").stat().st_size


def test_says_which_blob_is_which_tensor(tmp_path):
    _, path, _ = made(CASES["two_inputs"], tmp_path)
    details = NCNN.describe(path).details
    assert details["inputs"] == "in0 = table, in1 = image"
    assert details["outputs"] == "out0 = output"
    assert details["converter"].startswith("pnnx 20")
    assert NCNN.describe(path).format_version == "7767517"


class Tokens(nn.Module):
    """Takes integers, and uses one weight twice."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(20, 6)
        self.head = nn.Linear(6, 20, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids):
        return self.head(self.tokens(ids)).mean(1)


def test_takes_integers_and_weights_that_two_layers_share(tmp_path):
    source, path, _ = made(Case(Tokens, (spec("ids", "int64", "batch", "seq"),)), tmp_path)
    assert_same_numbers(NCNN, path, source)
    with NCNN.open(path, source.interface) as runner, pytest.raises(VerificationError, match="do not fit ncnn's int32"):
        runner.infer({"ids": np.full((1, 5), 2**40)})


class SequenceFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(4, 6)

    def forward(self, x):
        return self.cell(x)[0]


def test_a_batch_that_is_not_the_first_axis_stays_where_it_is(tmp_path):
    source, path, _ = made(Case(SequenceFirst, (spec("x", "float32", 5, "batch", 4),)), tmp_path)
    described = NCNN.describe(path).interface
    assert described.inputs[0].shape is not None
    open_ = described.inputs[0].shape[1] == "batch"
    assert described.inputs[0].shape[0] == 5
    assert_same_numbers(NCNN, path, source, sizes=slice(None) if open_ else slice(0, 1))


def test_a_batch_that_the_model_fixes_at_another_size_than_one(tmp_path):
    source, path, _ = made(Case(models.ConvNet, (spec("x", "float32", 4, 1, 8, 8),)), tmp_path)
    assert NCNN.describe(path).interface.inputs[0].shape == (4, 1, 8, 8)
    assert_same_numbers(NCNN, path, source)


class MixesRows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 3)

    def forward(self, x):
        y = self.layer(x).mean((2, 3))
        return y - y.mean(0, keepdim=True) + 1


def test_what_pnnx_writes_although_it_says_that_it_cannot_is_refused(tmp_path):
    with pytest.raises(UnsupportedModelError, match="mean along batch axis is not supported"):
        made(Case(MixesRows, (spec("x", "float32", "batch", 1, 8, 8),)), tmp_path)


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 5)
        self.choose = Chooser()

    def forward(self, x):
        return self.choose(self.first(x))


class Chooser(nn.Module):
    def forward(self, x):
        return x.argmax(1)


def test_a_layer_that_ncnn_lacks_is_named_with_its_module(tmp_path):
    with pytest.raises(UnsupportedModelError, match=r"torch\.argmax \(in choose\)"):
        made(Case(Nested, CASES["tuple"].inputs), tmp_path)


def test_a_trace_that_fixed_a_decision_says_so(tmp_path):
    _, _, result = made(CASES["python_if"], tmp_path)
    assert "fixed the decision" in " ".join(result.notes)


def test_from_onnx_torchscript_and_a_program(tmp_path):
    case = CASES["residual"]
    source = make_source(seeded(case.make()).eval(), case.inputs, tmp_path / "source")
    for number, (format_, kind) in enumerate(
        ((Onnx(), "onnx_model"), (TorchScript(), "torchscript"), (ExportedProgram(), "exported_program"))
    ):
        between, _ = convert(format_, "torch_module", source.load(), source, tmp_path / f"between-{number}")
        model = format_.load(between, source.interface)
        path, _ = convert(NCNN, kind, model, source, tmp_path / f"ncnn-{number}")
        assert_same_numbers(NCNN, path, source)


def test_an_embedding_in_onnx_is_not_tried_on_integers_that_nobody_wrote(tmp_path):
    layers = (nn.Embedding(11, 8), nn.Linear(8, 3))
    case = Case(lambda: nn.Sequential(*layers), (spec("input", "int64", "batch", 6),))
    source = make_source(seeded(case.make()).eval(), case.inputs, tmp_path / "source")
    between, _ = convert(Onnx(), "torch_module", source.load(), source, tmp_path / "between")
    # Tried on what lay in memory, pnnx ended with a segmentation fault, and the reason was an index out of bounds.
    with pytest.raises(UnsupportedModelError, match="no layer for Gather"):
        convert(NCNN, "onnx_model", Onnx().load(between, source.interface), source, tmp_path / "ncnn")


def test_files_without_a_sound_layout_are_refused(tmp_path):
    source, path, _ = made(CASES["conv"], tmp_path)
    layout = path.with_suffix(".json")
    kept = json.loads(layout.read_text())
    kept["inputs"][0]["blob"] = "in7"
    layout.write_text(json.dumps(kept))
    with pytest.raises(VerificationError, match="no blob in7"):
        NCNN.describe(path)
    layout.unlink()
    with pytest.raises(VerificationError, match="does not say"), NCNN.open(path, source.interface):
        pass


def test_lost_axes_of_size_one_come_back():
    assert with_rank(np.zeros((3,)), (1, 3)).shape == (1, 3)
    assert with_rank(np.zeros((2, 3)), ("batch", 1, 3)).shape == (2, 1, 3)
    assert with_rank(np.zeros((1,)), ()).shape == ()


def test_is_never_a_source(tmp_path):
    assert NCNN.locate(tmp_path, {}) is None
    assert NCNN.load(tmp_path, Interface(())) == tmp_path


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_a_model_that_computes_in_another_float_is_refused_by_that_name(dtype):
    from registry_export_plugins._ncnn.pnnx import refuse_dtypes

    with pytest.raises(UnsupportedModelError, match=rf"input x is {dtype}.*\.float\(\)"):
        refuse_dtypes(["x"], [dtype])
