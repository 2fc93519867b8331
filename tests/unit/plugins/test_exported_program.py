"""`torch.export` programs, as a source and as a target."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from registry_export.entities import Interface
from registry_export.errors import SourceError, UnsupportedModelError
from registry_export.format import EXPORTED_PROGRAM, TORCH_MODULE, TORCHSCRIPT
from registry_export_plugins.exported_program import ExportedProgram
from tests import models
from tests.unit.plugins.torch_support import (
    CASES,
    FLAVORS,
    assert_computes_in,
    assert_same_numbers,
    convert,
    dynamic_axes,
    make_source,
    save,
    spec,
)

NOTHING = Interface(inputs=())
CONVERTIBLE = [name for name in CASES if name != "python_if"]


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_modules_become_programs_that_are_dynamic_where_asked(name, tmp_path):
    case = CASES[name]
    source = make_source(models.seeded(case.make()).eval(), case.inputs, tmp_path)
    path, _ = convert(ExportedProgram(), TORCH_MODULE, source.load(), source, tmp_path)
    assert_same_numbers(ExportedProgram(), path, source)
    described = ExportedProgram().describe(path).interface
    assert dynamic_axes(described) == dynamic_axes(source.interface)
    assert [s.dtype for s in described.outputs] == [s.dtype for s in source.interface.outputs]


def test_control_flow_on_data_is_refused_with_what_to_do(tmp_path):
    source = make_source(models.PythonIf(), CASES["python_if"].inputs, tmp_path)
    with pytest.raises(UnsupportedModelError, match=r"depends on data.*torch\.cond"):
        convert(ExportedProgram(), TORCH_MODULE, source.load(), source, tmp_path)


def test_what_was_tried_for_a_recurrent_layer_is_recorded(tmp_path):
    case = CASES["lstm"]
    source = make_source(case.make(), case.inputs, tmp_path)
    _, result = convert(ExportedProgram(), TORCH_MODULE, source.load(), source, tmp_path)
    assert "specialized" in result.attempts[0].error
    assert result.attempts[-1].error == ""
    assert "loops" in result.attempts[-1].way


def _logged(module, arguments, folder, dynamic_shapes=None, **keywords):
    path = folder / "data" / "model.pt2"
    path.parent.mkdir()
    program = torch.export.export(module, arguments, keywords, dynamic_shapes=dynamic_shapes)
    torch.export.save(program, path)
    return path


def test_a_program_logged_from_a_slice_says_what_to_log_instead(tmp_path):
    path = _logged(torch.nn.Linear(8, 4), (torch.ones(4, 5, 8)[:, 0],), tmp_path, ({0: torch.export.Dim.AUTO},))
    with ExportedProgram().open(path, NOTHING) as runner, pytest.raises(AssertionError, match="ascontiguousarray"):
        runner.infer({"input": np.ones((4, 8), np.float32)})


def test_a_program_logged_from_a_batch_of_one_is_seen_to_be_static(tmp_path):
    path = _logged(models.DictOutput().eval(), (torch.ones(1, 4),), tmp_path, ({0: torch.export.Dim.AUTO},))
    described = ExportedProgram().describe(path)
    assert described.interface.inputs[0].shape == (1, 4)
    assert re.fullmatch(r"\d+\.\d+", described.format_version)
    declared = Interface((spec("", "float32", "batch", 4),))
    with ExportedProgram().open(path, declared) as runner:
        assert runner.interface.inputs == (spec("x", "float32", 1, 4),)
        with pytest.raises((RuntimeError, AssertionError)):
            runner.infer({"x": np.ones((2, 4), np.float32)})


def test_names_of_keyword_arguments_and_of_nested_outputs_are_kept(tmp_path):
    path = _logged(
        models.seeded(models.TwoInputs()).eval(),
        (torch.ones(2, 6), torch.ones(2, 3)),
        tmp_path,
        scale=torch.full((), 2.0),
    )
    inputs = {"image": np.ones((2, 6), np.float32), "table": np.ones((2, 3), np.float32)}
    with ExportedProgram().open(path, NOTHING) as runner:
        assert [s.name for s in runner.interface.inputs] == ["image", "table", "scale"]
        once = runner.infer(inputs | {"scale": np.float32(1)})["output"]
        twice = runner.infer(inputs | {"scale": np.float32(2)})["output"]
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-6)


def test_outputs_of_a_logged_program_have_the_names_that_forward_gave_them(tmp_path):
    path = _logged(models.DictOutput().eval(), (torch.ones(2, 4),), tmp_path)
    assert [s.name for s in ExportedProgram().describe(path).interface.outputs] == ["zeta", "alpha.sum", "alpha.copy"]
    with ExportedProgram().open(path, NOTHING) as runner:
        assert list(runner.infer({"x": np.ones((2, 4), np.float32)})) == ["zeta", "alpha.sum", "alpha.copy"]


def test_a_program_with_dropout_baked_in_runs_and_differs_from_itself(tmp_path):
    path = _logged(models.NoisyDropout(), (torch.ones(2, 64),), tmp_path)
    x = np.ones((2, 64), np.float32)
    with ExportedProgram().open(path, NOTHING) as runner:
        assert not np.array_equal(runner.infer({"x": x})["output"], runner.infer({"x": x})["output"])


def test_a_logged_program_is_its_own_export(tmp_path):
    module = models.seeded(models.ConvNet()).eval()
    source = make_source(module, CASES["conv"].inputs, tmp_path / "pickled")
    (tmp_path / "logged").mkdir()
    auto = ({0: torch.export.Dim.AUTO},)
    logged = _logged(module, (torch.ones(2, 1, 8, 8),), tmp_path / "logged", auto)
    program = ExportedProgram().load(logged, source.interface)
    path, _ = convert(ExportedProgram(), EXPORTED_PROGRAM, program, source, tmp_path)
    assert_same_numbers(ExportedProgram(), path, source)


def test_the_same_module_gives_the_same_bytes(tmp_path):
    made = []
    for attempt in ("a", "b"):
        source = make_source(models.seeded(models.DictOutput()), CASES["dict"].inputs, tmp_path / attempt)
        path, _ = convert(ExportedProgram(), TORCH_MODULE, source.load(), source, tmp_path / attempt)
        made.append(path.read_bytes())
    assert made[0] == made[1]


def test_a_damaged_program_is_an_error_of_the_checkpoint(tmp_path):
    path = _logged(models.DictOutput(), (torch.ones(2, 4),), tmp_path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(SourceError, match="cannot be read"):
        ExportedProgram().load(path, NOTHING)


def test_a_pickle_beside_a_program_is_not_two_sources(tmp_path):
    path = _logged(models.DictOutput(), (torch.ones(2, 4),), tmp_path)
    assert ExportedProgram().locate(tmp_path, FLAVORS) == path
    save(models.DictOutput(), tmp_path)
    assert ExportedProgram().locate(tmp_path, FLAVORS) is None


class Plain(torch.nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.cell = torch.nn.RNN(4, 6, batch_first=True, **options)

    def forward(self, sequence):
        states, last = self.cell(sequence)
        return states, last[-1]


@pytest.mark.parametrize(
    "options",
    [{"num_layers": 2, "bidirectional": True}, {"nonlinearity": "relu", "bias": False}],
    ids=["tanh", "relu"],
)
def test_the_length_of_a_plain_recurrent_layer_stays_dynamic(options, tmp_path):
    source = make_source(models.seeded(Plain(**options)).eval(), CASES["lstm"].inputs, tmp_path)
    path, _ = convert(ExportedProgram(), TORCH_MODULE, source.load(), source, tmp_path)
    assert ExportedProgram().describe(path).interface.inputs[0].shape == ("batch", "sequence_1", 4)
    assert_same_numbers(ExportedProgram(), path, source)


class Outer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.decide = models.PythonIf()

    def forward(self, x):
        return self.decide(x * 2)


def test_a_branch_on_data_is_refused_with_its_module_and_its_line(tmp_path):
    source = make_source(Outer(), CASES["python_if"].inputs, tmp_path)
    with pytest.raises(
        UnsupportedModelError, match=r"in module decide, line \d+ of models\.py \(`if x\.sum\(\) > 0:`\)"
    ):
        convert(ExportedProgram(), TORCH_MODULE, source.load(), source, tmp_path)


@pytest.mark.parametrize("name", ["conv", "python_if", "two_inputs"])
def test_a_script_becomes_a_program_with_its_branches(name, tmp_path):
    case = CASES[name]
    source = make_source(models.seeded(case.make()).eval(), case.inputs, tmp_path)
    adapter = source.load()
    tensors = tuple(torch.from_numpy(source.runs[0][0][item.name]) for item in source.interface.inputs)
    scripted = torch.jit.script(adapter.wrapped) if name == "python_if" else torch.jit.trace(adapter, tensors)
    path, result = convert(ExportedProgram(), TORCHSCRIPT, scripted, source, tmp_path)
    assert result.attempts[0].way == "PyTorch's converter from TorchScript"
    assert dynamic_axes(ExportedProgram().describe(path).interface) == dynamic_axes(source.interface)
    assert_same_numbers(ExportedProgram(), path, source)


def test_a_quantised_script_is_refused_by_its_operator(tmp_path):
    module = torch.ao.quantization.quantize_dynamic(models.TupleOutput().eval(), {torch.nn.Linear})
    scripted = torch.jit.trace(module.layer, (torch.ones(2, 4),))
    source = make_source(torch.nn.Linear(4, 5), (spec("input", "float32", "batch", 4),), tmp_path)
    with pytest.raises(UnsupportedModelError, match=r"quantized::linear_dynamic"):
        convert(ExportedProgram(), TORCHSCRIPT, scripted, source, tmp_path)


class CausalDecoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Transformer(8, 2, 1, 1, 16, batch_first=True)

    def forward(self, source, target):
        mask = torch.nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.layers(source, target, tgt_mask=mask)


def test_whether_a_mask_is_causal_is_no_decision_on_data(tmp_path):
    inputs = (spec("source", "float32", "batch", "seq", 8), spec("target", "float32", "batch", "seq", 8))
    source = make_source(models.seeded(CausalDecoder()).eval(), inputs, tmp_path)
    path, _ = convert(ExportedProgram(), TORCH_MODULE, source.load(), source, tmp_path)
    assert_same_numbers(ExportedProgram(), path, source)
    assert dynamic_axes(ExportedProgram().describe(path).interface) == dynamic_axes(source.interface)


@pytest.mark.parametrize(("precision", "atol"), [("fp16", 5e-3), ("bf16", 4e-2)])
@pytest.mark.parametrize("name", ["conv", pytest.param("transformer", marks=pytest.mark.slow)])
def test_programs_compute_in_the_half_precision_that_is_asked_for(name, precision, atol, tmp_path):
    case = CASES[name]
    source = make_source(models.seeded(case.make()).eval(), case.inputs, tmp_path)
    assert_computes_in(ExportedProgram(), precision, source, tmp_path, atol=atol)
