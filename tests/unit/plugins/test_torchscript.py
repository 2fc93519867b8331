"""TorchScript by trace and by compilation, from modules and from programs."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from registry_export.entities import Interface
from registry_export.errors import SourceError, UnsupportedModelError
from registry_export.format import EXPORTED_PROGRAM, TORCH_MODULE, TORCHSCRIPT
from registry_export_plugins._torch.export import export_program
from registry_export_plugins.torchscript import TorchScript
from tests import models
from tests.unit.plugins.torch_support import (
    CASES,
    ConversionRequest,
    assert_computes_in,
    assert_same_numbers,
    convert,
    make_source,
    spec,
)

TRACEABLE = [name for name in CASES if name != "cond"]


@pytest.mark.parametrize("name", TRACEABLE)
def test_modules_are_traced_without_fixing_their_sizes(name, tmp_path):
    case = CASES[name]
    source = make_source(models.seeded(case.make()).eval(), case.inputs, tmp_path)
    path, _ = convert(TorchScript(), TORCH_MODULE, source.load(), source, tmp_path)
    assert_same_numbers(TorchScript(), path, source)
    inputs = TorchScript().describe(path).interface.inputs
    assert {s.name for s in inputs} == {s.name for s in source.interface.inputs}


@pytest.mark.parametrize("name", ["conv", "residual", "lstm", "python_if", "bool"])
def test_source_is_compiled_when_asked(name, tmp_path):
    case = CASES[name]
    source = make_source(models.seeded(case.make()).eval(), case.inputs, tmp_path)
    path, result = convert(TorchScript(), TORCH_MODULE, source.load(), source, tmp_path, method="script")
    assert [attempt.way for attempt in result.attempts] == ["torch.jit.script"]
    assert_same_numbers(TorchScript(), path, source)


def test_a_trace_that_would_keep_one_branch_is_given_up_for_the_source(tmp_path):
    source = make_source(models.seeded(models.PythonIf()), CASES["python_if"].inputs, tmp_path)
    _, result = convert(TorchScript(), TORCH_MODULE, source.load(), source, tmp_path)
    assert [attempt.way for attempt in result.attempts] == ["torch.jit.trace", "torch.jit.script"]
    assert "models.py" in result.attempts[0].error


def test_what_cannot_be_compiled_is_refused_with_the_other_method(tmp_path):
    source = make_source(models.DataclassOutput(), CASES["dataclass"].inputs, tmp_path)
    with pytest.raises(UnsupportedModelError, match="method=trace"):
        convert(TorchScript(), TORCH_MODULE, source.load(), source, tmp_path, method="script")


def test_freezing_inlines_the_weights(tmp_path):
    source = make_source(models.seeded(models.ConvNet()), CASES["conv"].inputs, tmp_path)
    path, _ = convert(TorchScript(), TORCH_MODULE, source.load(), source, tmp_path, freeze=True)
    assert list(TorchScript().load(path, source.interface).parameters()) == []
    assert_same_numbers(TorchScript(), path, source)


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("cond", "python_if")])
def test_programs_are_traced_without_fixing_their_sizes(name, tmp_path):
    case = CASES[name]
    source = make_source(models.seeded(case.make()).eval(), case.inputs, tmp_path)
    request = ConversionRequest({}, source.interface, source.runs[0][0], tmp_path)
    program = export_program(source.load(), request).program
    path, _ = convert(TorchScript(), EXPORTED_PROGRAM, program, source, tmp_path)
    assert_same_numbers(TorchScript(), path, source)


def test_a_program_with_branches_is_refused(tmp_path):
    source = make_source(models.Cond(), CASES["cond"].inputs, tmp_path)
    request = ConversionRequest({}, source.interface, source.runs[0][0], tmp_path)
    program = export_program(source.load(), request).program
    with pytest.raises(UnsupportedModelError, match=r"torch\.cond.*no word"):
        convert(TorchScript(), EXPORTED_PROGRAM, program, source, tmp_path)


def test_a_module_with_cond_is_refused_by_that_name(tmp_path):
    source = make_source(models.Cond(), CASES["cond"].inputs, tmp_path)
    with pytest.raises(UnsupportedModelError, match=r"torch\.cond.*no word"):
        convert(TorchScript(), TORCH_MODULE, source.load(), source, tmp_path)


@pytest.mark.parametrize("nested", [True, False])
def test_zeros_that_only_fused_layers_write_at_padded_positions_are_told(nested, tmp_path):
    specs = (spec("x", "float32", "batch", "seq", 8),)
    source = make_source(models.seeded(models.Padded(nested=nested)), specs, tmp_path)
    _, result = convert(TorchScript(), TORCH_MODULE, source.load(), source, tmp_path)
    assert any("enable_nested_tensor=False" in note for note in result.notes) is nested


def test_a_program_cannot_be_compiled_and_says_why():
    conversion = next(c for c in TorchScript().conversions if c.kind == EXPORTED_PROGRAM)
    assert "no source" in conversion.accepts({"method": "script"})
    assert conversion.accepts({"method": "trace"}) == ""


def test_torchscript_is_kept_as_it_is(tmp_path):
    source = make_source(models.seeded(models.PythonIf()), CASES["python_if"].inputs, tmp_path)
    scripted = torch.jit.script(source.load().wrapped)
    path, _ = convert(TorchScript(), TORCHSCRIPT, scripted, source, tmp_path)
    assert_same_numbers(TorchScript(), path, source)


def test_what_is_no_torchscript_is_an_error_of_the_checkpoint(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(SourceError, match="cannot be read"):
        TorchScript().load(path, Interface(inputs=()))


def test_optimising_is_saved_where_it_can_be(tmp_path):
    source = make_source(models.seeded(models.TwoInputs()), CASES["two_inputs"].inputs, tmp_path)
    path, result = convert(TorchScript(), TORCH_MODULE, source.load(), source, tmp_path, optimize_for_inference=True)
    assert result.attempts[-1].way == "torch.jit.optimize_for_inference, saved"
    assert TorchScript().describe(path).details["optimize_for_inference"] == "saved"
    assert_same_numbers(TorchScript(), path, source)


def test_what_optimising_makes_of_convolutions_is_made_when_the_file_is_loaded(tmp_path):
    source = make_source(models.seeded(models.ConvNet()).eval(), CASES["conv"].inputs, tmp_path)
    path, result = convert(TorchScript(), TORCH_MODULE, source.load(), source, tmp_path, optimize_for_inference=True)
    assert [a.way for a in result.attempts][-1] == "torch.jit.optimize_for_inference at load"
    assert any("once it is loaded" in note for note in result.notes)
    assert TorchScript().describe(path).details["optimize_for_inference"] == "at load"
    with TorchScript().open(path, source.interface) as runner:
        module = runner.call.__self__.wrapped
        assert any("mkldnn" in node.kind() for node in module.graph.nodes())
    assert_same_numbers(TorchScript(), path, source)


def quantized_script():
    module = torch.ao.quantization.quantize_dynamic(models.seeded(models.TwoInputs()).eval(), {torch.nn.Linear})
    return torch.jit.trace(module, (torch.ones(2, 6), torch.ones(2, 3)), check_trace=False)


def test_quantised_torchscript_stays_what_it_is(tmp_path):
    scripted = quantized_script()
    checkpoint = tmp_path / "model.pt"
    torch.jit.save(scripted, checkpoint)
    source = make_source(models.TwoInputs(), CASES["two_inputs"].inputs, tmp_path / "floats")
    path, _ = convert(TorchScript(), TORCHSCRIPT, TorchScript().load(checkpoint, source.interface), source, tmp_path)
    described = TorchScript().describe(path)
    assert described.precision == "int8"
    assert "quantized::linear_dynamic" in described.details["quantised operators"]
    inputs = source.runs[0][0]
    with TorchScript().open(checkpoint, source.interface) as a, TorchScript().open(path, source.interface) as b:
        np.testing.assert_array_equal(a.infer(inputs)["output"], b.infer(inputs)["output"])


def test_a_half_precision_module_that_was_frozen_says_so(tmp_path):
    half = torch.jit.freeze(torch.jit.script(torch.nn.Linear(4, 3).half().eval()))
    torch.jit.save(half, tmp_path / "model.pt")
    assert TorchScript().describe(tmp_path / "model.pt").precision == "fp16"


class Decides(torch.nn.Module):
    """Decides on its data in words that TorchScript cannot compile."""

    def forward(self, x, **unused):
        return x + 1 if x.sum().item() > 0 else x - 1


def test_a_decision_that_a_trace_has_to_keep_is_told_with_what_to_do(tmp_path):
    source = make_source(Decides(), CASES["python_if"].inputs, tmp_path)
    _, result = convert(TorchScript(), TORCH_MODULE, source.load(), source, tmp_path)
    assert [attempt.way for attempt in result.attempts] == ["torch.jit.script", "torch.jit.trace"]
    assert any("x.sum().item()" in note and "torch.cond" in note and "torch.where" in note for note in result.notes)


class Steps(torch.nn.Module):
    """Goes through its sequence in a Python loop, as hand-written recurrent nets do."""

    def __init__(self):
        super().__init__()
        self.cell = torch.nn.GRUCell(4, 3)

    def forward(self, x):
        state = torch.zeros(x.shape[0], 3)
        for step in range(x.shape[1]):
            state = self.cell(x[:, step], state)
        return state


def test_a_loop_over_a_sequence_is_compiled_where_a_trace_would_keep_its_length(tmp_path):
    source = make_source(models.seeded(Steps()).eval(), (spec("x", "float32", "batch", "seq", 4),), tmp_path)
    path, result = convert(TorchScript(), TORCH_MODULE, source.load(), source, tmp_path)
    assert_same_numbers(TorchScript(), path, source)
    assert "one size of seq" in result.attempts[0].error
    assert "Compiled from its source" in result.notes[0]


_LOOK_INSIDE = """
import os, sys, threading, time
from pathlib import Path
from registry_export_plugins._torch.scripts import outlined
from tests.benchmarks.memory import allocated
peak, before = 0, allocated(os.getpid())
def watch():
    global peak
    while True:
        peak = max(peak, allocated(os.getpid()))
        time.sleep(0.002)
threading.Thread(target=watch, daemon=True).start()
with outlined(Path(sys.argv[1])):
    print(max(peak, allocated(os.getpid())) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_looking_into_a_file_does_not_hold_the_weights_that_are_passed_over(tmp_path):
    layers = [torch.nn.Sequential(torch.nn.Linear(2048, 2048), torch.nn.ReLU()) for _ in range(12)]
    torch.jit.trace(torch.nn.Sequential(*layers), torch.zeros(1, 2048)).save(str(tmp_path / "model.pt"))
    command = [sys.executable, "-c", _LOOK_INSIDE, str(tmp_path / "model.pt")]
    taken = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": "."})
    one = 2048 * 2048 * 4
    assert int(taken.stdout) < 3 * one


@pytest.mark.parametrize(("precision", "atol"), [("fp16", 5e-3), ("bf16", 4e-2)])
@pytest.mark.parametrize("name", ["conv", pytest.param("transformer", marks=pytest.mark.slow)])
def test_traces_compute_in_the_half_precision_that_is_asked_for(name, precision, atol, tmp_path):
    case = CASES[name]
    source = make_source(models.seeded(case.make()).eval(), case.inputs, tmp_path)
    assert_computes_in(TorchScript(), precision, source, tmp_path, atol=atol)


def test_what_is_compiled_keeps_its_types_and_says_so():
    accepted = {c.kind: c.accepts for c in TorchScript.conversions}
    assert "precision=bf16 needs a module" in accepted[TORCHSCRIPT]({"precision": "bf16"})
    assert "method=trace" in accepted[TORCH_MODULE]({"precision": "bf16", "method": "script"})
    assert not accepted[TORCH_MODULE]({"precision": "bf16", "method": "trace"})
    assert not accepted[TORCHSCRIPT]({"precision": "fp32", "method": "trace"})
