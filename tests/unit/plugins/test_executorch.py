"""ExecuTorch programs on XNNPACK and on the portable kernels, run in ExecuTorch's own runtime."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from registry_export.entities import Interface
from registry_export.errors import UnsupportedModelError, VerificationError
from registry_export.format import EXPORTED_PROGRAM, TORCH_MODULE, TORCHSCRIPT, ConversionRequest
from registry_export_plugins._torch.export import export_program
from registry_export_plugins.executorch import ExecuTorch
from registry_export_plugins.exported_program import ExportedProgram
from registry_export_plugins.torchscript import TorchScript
from tests import models
from tests.unit.plugins.torch_support import (
    CASES,
    ROW,
    SIZES,
    Case,
    assert_same_numbers,
    convert,
    draw,
    dynamic_axes,
    make_source,
    spec,
)

FORMAT = ExecuTorch()


def make(name, folder):
    case = CASES[name]
    return make_source(models.seeded(case.make()).eval(), case.inputs, folder)


@pytest.mark.parametrize(
    "name",
    ["conv", *(pytest.param(name, marks=pytest.mark.slow) for name in ("residual", "transformer")), "dict", "bool"],
)
def test_every_dynamic_dimension_stays_dynamic_on_xnnpack(name, tmp_path):
    source = make(name, tmp_path)
    path, result = convert(FORMAT, TORCH_MODULE, source.load(), source, tmp_path)
    assert result.attempts[-1].way == "XNNPACK"
    assert_same_numbers(FORMAT, path, source)
    described = FORMAT.describe(path)
    assert dynamic_axes(described.interface) == dynamic_axes(source.interface)
    assert [s.name for s in described.interface.inputs] == [s.name for s in source.interface.inputs]
    assert [s.name for s in described.interface.outputs] == [s.name for s in source.interface.outputs]
    assert described.format_version == "12"
    assert described.precision == "fp32"


def test_a_batch_may_be_as_large_as_the_file_says_and_no_larger(tmp_path):
    source = make("conv", tmp_path)
    path, result = convert(FORMAT, TORCH_MODULE, source.load(), source, tmp_path, max_batch=40)
    assert FORMAT.describe(path).details["bounds"] == "batch <= 40"
    assert any("batch up to 40" in note for note in result.notes)
    with FORMAT.open(path, source.interface) as runner:
        inputs = draw(source.interface.inputs, {"batch": 40})
        expected = source.load()(torch.from_numpy(inputs["x"]))[0]
        np.testing.assert_allclose(runner.infer(inputs)["output"], expected, atol=1e-5)
        with pytest.raises(VerificationError, match="runtime refused"):
            runner.infer(draw(source.interface.inputs, {"batch": 41}))


def test_a_program_is_lowered_with_its_names(tmp_path):
    source = make("two_inputs", tmp_path)
    request = ConversionRequest({}, source.interface, source.runs[0][0], tmp_path)
    program = export_program(source.load(), request).program
    path, _ = convert(FORMAT, EXPORTED_PROGRAM, program, source, tmp_path)
    assert_same_numbers(FORMAT, path, source)


def test_a_program_that_was_a_script_is_lowered_to_xnnpack(tmp_path):
    source = make("conv", tmp_path)
    torch.jit.save(torch.jit.script(models.seeded(models.ConvNet()).eval()), tmp_path / "model.pt")
    scripted = TorchScript().load(tmp_path / "model.pt", source.interface)
    between, _ = convert(ExportedProgram(), TORCHSCRIPT, scripted, source, tmp_path)
    program = ExportedProgram().load(between, source.interface)
    path, result = convert(FORMAT, EXPORTED_PROGRAM, program, source, tmp_path)
    assert result.attempts[-1].way == "XNNPACK"
    assert_same_numbers(FORMAT, path, source)


def test_branches_fall_back_to_the_portable_kernels_and_that_is_told(tmp_path):
    source = make("cond", tmp_path)
    path, result = convert(FORMAT, TORCH_MODULE, source.load(), source, tmp_path)
    ways = [attempt.way for attempt in result.attempts if not attempt.way.startswith("torch.export")]
    assert ways == ["XNNPACK", "XNNPACK, after decomposition", "portable kernels"]
    assert any("no part of the model" in note for note in result.notes)
    assert FORMAT.describe(path).details["backend"] == "portable"
    assert_same_numbers(FORMAT, path, source)


def test_portable_when_asked(tmp_path):
    source = make("conv", tmp_path)
    path, _ = convert(FORMAT, TORCH_MODULE, source.load(), source, tmp_path, backend="portable")
    assert "aten::convolution" in FORMAT.describe(path).details["portable operators"]
    assert_same_numbers(FORMAT, path, source)


def test_a_length_that_lowering_fixes_is_described_as_fixed_and_refused_elsewhere(tmp_path):
    module = torch.nn.GRU(4, 3, batch_first=True)
    source = make_source(module.eval(), (spec("x", "float32", "batch", "seq", 4),), tmp_path)
    path, result = convert(FORMAT, TORCH_MODULE, source.load(), source, tmp_path, backend="portable")
    assert FORMAT.describe(path).interface.inputs[0].shape == ("batch", SIZES[0]["seq"], 4)
    assert any("fixed seq of x at 5" in note for note in result.notes)
    assert_same_numbers(FORMAT, path, source, sizes=slice(2))
    with FORMAT.open(path, source.interface) as runner, pytest.raises(VerificationError, match="shape"):
        runner.infer(source.runs[2][0])


def quantize(name, folder, **options):
    """Convert with calibration samples, and return the worst signal-to-noise ratio over all outputs."""
    source = make(name, folder)
    rows = [draw(source.interface.inputs, SIZES[0], seed) for seed in range(8)]
    # What lies outside the calibrated range is clipped: both signs are shown.
    rows += [{key: -row[key] if row[key].dtype.kind == "f" else row[key] for key in row} for row in rows]
    calibration = {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}
    values = {option.name: option.default for option in FORMAT.options} | {"precision": "int8"} | options
    path = folder / FORMAT.filename
    request = ConversionRequest(values, source.interface, source.runs[0][0], folder, calibration)
    FORMAT.conversions[0].function(source.load(), path, request)
    ratios = []
    with FORMAT.open(path, source.interface) as runner:
        for inputs, expected in source.runs:
            for key, actual in runner.infer(inputs).items():
                noise = np.square(actual - expected[key]).sum()
                ratios.append(10 * np.log10(np.square(expected[key]).sum() / max(noise, 1e-30)))
    return path, source, min(ratios)


@pytest.mark.parametrize(
    ("name", "quantization"), [("conv", "static"), pytest.param("transformer", "dynamic", marks=pytest.mark.slow)]
)
def test_int8_is_int8_in_the_file_and_close_at_every_size(name, quantization, tmp_path):
    path, source, ratio = quantize(name, tmp_path, quantization=quantization)
    assert ratio > 15
    described = FORMAT.describe(path)
    assert described.precision == "int8"
    assert dynamic_axes(described.interface) == dynamic_axes(source.interface)
    assert [s.dtype for s in described.interface.outputs] == [s.dtype for s in source.interface.outputs]


class Shifted(torch.nn.Module):
    """Looks its table up at sums of integers."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(6, 3)

    def forward(self, x):
        table = self.layer(x)
        return table[torch.arange(x.shape[0]) * 1 + 0]


def test_indices_stay_integers_when_the_rest_is_quantised(tmp_path):
    specs = (spec("x", "float32", "batch", 6),)
    CASES["shifted"] = Case(Shifted, specs)
    try:
        _, _, ratio = quantize("shifted", tmp_path)
    finally:
        del CASES["shifted"]
    assert ratio > 15


class Waves(torch.nn.Module):
    """Has nothing that the quantiser knows."""

    def forward(self, x):
        return torch.sin(x)


class Table(torch.nn.Module):
    """Holds 8-bit integers of its own."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.tensor([1, -2, 3, -4], dtype=torch.int8))

    def forward(self, x):
        return torch.sin(x), self.table[(x[:, 0] > 0).long()]


def test_int8_of_which_nothing_came_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(CASES, "waves", Case(Waves, (spec("x", "float32", "batch", 6),)))
    with pytest.raises(UnsupportedModelError, match="nothing in this model that it holds in int8"):
        quantize("waves", tmp_path)


def test_integers_of_the_models_own_are_no_quantisation(tmp_path, monkeypatch):
    monkeypatch.setitem(CASES, "table", Case(Table, (spec("x", "float32", "batch", 6),)))
    source = make("table", tmp_path)
    path, _ = convert(FORMAT, TORCH_MODULE, source.load(), source, tmp_path)
    assert_same_numbers(FORMAT, path, source)
    assert FORMAT.describe(path).precision == "fp32"


@pytest.mark.parametrize(("precision", "atol"), [("fp16", 5e-3), ("bf16", 4e-2)])
@pytest.mark.parametrize("name", ["conv", pytest.param("transformer", marks=pytest.mark.slow)])
def test_half_precision_keeps_single_inputs_and_outputs(name, precision, atol, tmp_path):
    source = make(name, tmp_path)
    path, _ = convert(FORMAT, TORCH_MODULE, source.load(), source, tmp_path, precision=precision)
    assert FORMAT.describe(path).precision == precision
    assert_same_numbers(FORMAT, path, source, atol=atol)


def test_a_program_of_open_sizes_is_made_half_precision(tmp_path):
    source = make("conv", tmp_path)
    request = ConversionRequest({}, source.interface, source.runs[0][0], tmp_path)
    program = export_program(source.load(), request).program
    path, _ = convert(FORMAT, EXPORTED_PROGRAM, program, source, tmp_path, precision="fp16")
    assert FORMAT.describe(path).precision == "fp16"
    assert_same_numbers(FORMAT, path, source, atol=5e-3)


def test_int8_asks_for_samples_only_when_static_and_for_xnnpack():
    conversion = FORMAT.conversions[0]
    options = {option.name: option.default for option in FORMAT.options}
    assert not conversion.calibrates(options)
    assert conversion.calibrates(options | {"precision": "int8"})
    assert not conversion.calibrates(options | {"precision": "int8", "quantization": "dynamic"})
    assert "xnnpack" in conversion.accepts(options | {"precision": "int8", "backend": "portable"})


class Spectrum(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.filter = Inner()

    def forward(self, x):
        return self.filter(x)


class Inner(torch.nn.Module):
    def forward(self, x):
        return torch.linalg.eigvalsh(x @ x.transpose(0, 1))


def test_an_operator_without_kernel_is_named_with_its_place(tmp_path):
    specs = (spec("x", "float32", 4, 4),)
    module = Spectrum()
    interface = Interface(specs, (spec("output", "float32", 4),))
    source = dataclasses.replace(make_source(torch.nn.Identity(), specs, tmp_path), interface=interface)
    from registry_export_plugins._torch.modules import adapt

    with pytest.raises(UnsupportedModelError, match=r"linalg_eig\w+.*\(filter\)"):
        convert(FORMAT, TORCH_MODULE, adapt(module, interface), source, tmp_path)


def test_control_flow_on_data_is_refused_with_what_to_do(tmp_path):
    source = make_source(models.PythonIf(), ROW, tmp_path)
    with pytest.raises(UnsupportedModelError, match=r"torch\.cond"):
        convert(FORMAT, TORCH_MODULE, source.load(), source, tmp_path)


def test_what_is_no_program_is_told(tmp_path):
    path = tmp_path / "model.pte"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(VerificationError, match="no ExecuTorch program"):
        FORMAT.describe(path)
