"""OpenVINO as a target of ONNX, PyTorch and TensorFlow, in every precision."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from registry_export.entities import Interface, TensorSpec
from registry_export.errors import ConversionError, UnsupportedModelError, VerificationError
from registry_export.format import KERAS_MODEL, ONNX_MODEL, TORCH_MODULE, ConversionRequest
from registry_export_plugins._openvino import convert
from registry_export_plugins._openvino.quantize import feeds
from registry_export_plugins.keras import Keras
from registry_export_plugins.onnx import Onnx
from registry_export_plugins.openvino import OpenVINO
from tests import models
from tests.unit.plugins import keras_support, torch_support
from tests.unit.plugins.torch_support import CASES, SIZES, Source, assert_same_numbers, draw, dynamic_axes, make_source

THROUGH_ONNX = ("residual", "lstm", "transformer", "two_inputs", "tuple", "dict", "cond", "bool", "same_as_input")
OPTIONS = {option.name: option.default for option in OpenVINO.options}


@pytest.fixture
def source_of(tmp_path):
    def make(name: str) -> Source:
        case = CASES[name]
        return make_source(models.seeded(case.make()).eval(), case.inputs, tmp_path)

    return make


def to_onnx(source: Source, folder: Path) -> Path:
    return torch_support.convert(Onnx(), TORCH_MODULE, source.load(), source, folder / "onnx")[0]


def to_openvino(source: Source, folder: Path, kind: str = ONNX_MODEL, rows: int = 0, **options):
    model = to_onnx(source, folder) if kind == ONNX_MODEL else source.load()
    work, out = folder / "ov-work", folder / "ov"
    work.mkdir()
    out.mkdir()
    calibration = draw(source.interface.inputs, SIZES[0] | {"batch": rows}, seed=7) if rows else {}
    request = ConversionRequest(OPTIONS | options, source.interface, source.runs[0][0], work, calibration)
    conversion = next(c for c in OpenVINO.conversions if c.kind == kind and not c.accepts(request.options))
    return out / "model.xml", conversion.function(model, out / "model.xml", request)


def noise(path: Path, source: Source) -> float:
    """Worst signal-to-noise ratio over the outputs and runs, in dB."""
    worst = np.inf
    with OpenVINO().open(path, source.interface) as runner:
        for inputs, expected in source.runs:
            for name, actual in runner.infer(inputs).items():
                assert actual.dtype == expected[name].dtype
                power = np.mean(np.square(expected[name], dtype=np.float64))
                error = np.mean(np.square(expected[name] - actual, dtype=np.float64))
                worst = min(worst, 10 * np.log10(power / max(error, 1e-30)))
    return worst


@pytest.mark.parametrize("name", THROUGH_ONNX)
def test_models_keep_names_order_dtypes_and_dynamic_dimensions_through_onnx(name, source_of, tmp_path):
    source = source_of(name)
    path, result = to_openvino(source, tmp_path)
    described = OpenVINO().describe(path)
    assert [s.name for s in described.interface.inputs] == [s.name for s in source.interface.inputs]
    assert [s.name for s in described.interface.outputs] == [s.name for s in source.interface.outputs]
    assert [s.dtype for s in described.interface.outputs] == [s.dtype for s in source.interface.outputs]
    assert dynamic_axes(described.interface) == dynamic_axes(source.interface)
    assert described.precision == "fp32"
    assert described.format_version == "11"
    assert_same_numbers(OpenVINO(), path, source)
    assert result.attempts[-1].error == ""


@pytest.mark.parametrize("name", ["lstm", "transformer", "two_inputs", "tuple", "dict"])
def test_modules_are_converted_directly_where_onnx_fails(name, source_of, tmp_path):
    source = source_of(name)
    path, _ = to_openvino(source, tmp_path, TORCH_MODULE)
    assert dynamic_axes(OpenVINO().describe(path).interface) == dynamic_axes(source.interface)
    assert_same_numbers(OpenVINO(), path, source)


def test_half_precision_is_stored_in_half_the_bytes_and_keeps_float32_at_the_ends(tmp_path):
    source = make_source(models.seeded(Wide()).eval(), CASES["residual"].inputs, tmp_path)
    full, _ = to_openvino(source, tmp_path / "a")
    half, _ = to_openvino(source, tmp_path / "b", precision="fp16")
    described = OpenVINO().describe(half)
    assert described.precision == "fp16"
    assert {s.dtype for s in (*described.interface.inputs, *described.interface.outputs)} == {"float32"}
    assert half.with_suffix(".bin").stat().st_size < 0.6 * full.with_suffix(".bin").stat().st_size
    assert_same_numbers(OpenVINO(), half, source, atol=5e-2)


def Wide():  # noqa: N802
    import torch

    return torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(64, 3, 3))


@pytest.mark.parametrize(
    ("name", "quantization"),
    [("conv", "static"), ("transformer", "static"), ("transformer", "weight_only"), ("conv", "weight_only")],
)
def test_eight_bits_keep_the_signal_and_the_dynamic_batch(name, quantization, source_of, tmp_path):
    source = source_of(name)
    path, _ = to_openvino(source, tmp_path, rows=40, precision="int8", quantization=quantization)
    described = OpenVINO().describe(path)
    assert described.precision == "int8"
    assert dynamic_axes(described.interface) == dynamic_axes(source.interface)
    assert noise(path, source) > 15


def test_eight_bits_are_reached_in_the_way_that_keeps_the_signal_of_every_row(tmp_path):
    from tests.support.sources.flavors import channels_last, keras_net

    net, rows = keras_net(), {"pixels": channels_last()}
    declared = Interface((TensorSpec("pixels", "float32", ("batch", 16, 16, 3)),))
    asked = ConversionRequest(OPTIONS | {"precision": "int8"}, declared, {"pixels": rows["pixels"][:2]}, tmp_path, rows)
    result = convert.from_keras_model(net, tmp_path / "model.xml", asked)
    assert "asymmetric" not in result.notes[0]  # they leave 11 dB in one row
    with OpenVINO().open(tmp_path / "model.xml", declared) as runner:
        for row in rows["pixels"]:
            (actual,) = runner.infer({"pixels": row[None]}).values()
            expected = np.asarray(net(row[None]))
            assert 10 * np.log10(np.square(expected).sum() / np.square(actual - expected).sum()) > 15


@pytest.mark.parametrize("name", ["cnn", "masked", "odd_names", "recurrent"])
def test_tensorflow_functions_are_converted_directly(name, tmp_path):
    source = keras_support.reference(name, tmp_path)
    request = dataclasses.replace(source.request(tmp_path / "work"), options=OPTIONS)
    model = Keras().load(source.path, source.interface)
    (tmp_path / "ov").mkdir()
    path = tmp_path / "ov" / "model.xml"
    conversion = next(c for c in OpenVINO.conversions if c.kind == KERAS_MODEL and not c.accepts(OPTIONS))
    conversion.function(model, path, request)
    with OpenVINO().open(path, source.interface) as runner:
        source.check(runner)


def onnx_file(folder: Path, operator: str) -> Path:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ("batch", 3, 3)) for name in "ab"]
    node = helper.make_node(operator, ["a"], ["b"], name="the_node")
    model = helper.make_model(
        helper.make_graph([node], "graph", ends[:1], ends[1:]), opset_imports=[helper.make_opsetid("", 20)]
    )
    model.ir_version = 9
    onnx.save(model, str(folder / "model.onnx"))
    return folder / "model.onnx"


def request_for(folder: Path, **options) -> ConversionRequest:
    ends = [TensorSpec(name, "float32", ("batch", 3, 3)) for name in "ab"]
    interface = Interface(tuple(ends[:1]), tuple(ends[1:]))
    return ConversionRequest(OPTIONS | options, interface, {"a": np.ones((2, 3, 3), np.float32)}, folder)


def convert_onnx(model: Path, request: ConversionRequest, folder: Path):
    conversion = next(c for c in OpenVINO.conversions if c.kind == ONNX_MODEL and not c.accepts(request.options))
    return conversion.function(model, folder / "model.xml", request)


def test_operators_without_a_form_in_openvino_are_named_with_their_nodes(tmp_path):
    with pytest.raises(UnsupportedModelError, match=r"no form of these operators: Det \(the_node\)"):
        convert_onnx(onnx_file(tmp_path, "Det"), request_for(tmp_path), tmp_path)
    assert not (tmp_path / "model.xml").exists()


def test_a_refused_file_is_tried_again_after_onnxslim(tmp_path, monkeypatch):
    tried = []

    def refusing_the_first(model, **arguments):
        tried.append(Path(model).name)
        if len(tried) == 1:
            raise ConversionError("not yet")
        return really(model, **arguments)

    really = convert._converted
    monkeypatch.setattr(convert, "_converted", refusing_the_first)
    result = convert_onnx(onnx_file(tmp_path, "Neg"), request_for(tmp_path), tmp_path)
    assert tried == ["model.onnx", "slim.onnx"]
    assert [attempt.error for attempt in result.attempts] == ["not yet", ""]


def test_a_refused_model_leaves_the_process_its_log(tmp_path, caplog):
    root = logging.getLogger()

    def state():
        return root.level, list(root.filters), [(handler, handler.level) for handler in root.handlers]

    before = state()
    with pytest.raises(UnsupportedModelError):
        convert_onnx(onnx_file(tmp_path, "Det"), request_for(tmp_path), tmp_path)
    assert state() == before
    logging.getLogger("registry_export.anything").warning("still heard")
    assert "still heard" in caplog.text


def test_a_model_without_weights_has_nothing_to_quantise(tmp_path):
    request = request_for(tmp_path, precision="int8", quantization="weight_only")
    with pytest.raises(UnsupportedModelError, match="no layer to quantise"):
        convert_onnx(onnx_file(tmp_path, "Neg"), request, tmp_path)


def test_calibrated_integers_ask_for_samples_and_weights_alone_do_not(tmp_path):
    int8 = OPTIONS | {"precision": "int8"}
    edges = [c for c in OpenVINO.conversions if not c.accepts(int8)]
    assert {c.label for c in edges} == {"nncf"}
    assert all(c.calibrates(int8) for c in edges)
    assert not any(c.calibrates(int8 | {"quantization": "weight_only"}) for c in edges)
    with pytest.raises(ConversionError, match="there are none"):
        convert_onnx(onnx_file(tmp_path, "Neg"), request_for(tmp_path, precision="int8"), tmp_path)


def test_calibration_feeds_rows_as_the_model_takes_them(tmp_path):
    request = dataclasses.replace(
        request_for(tmp_path), calibration={"a": np.arange(45, dtype=np.float32).reshape(5, 3, 3)}
    )
    assert [feed["a"].shape for feed in feeds(request)] == [(1, 3, 3)] * 5
    fixed = Interface((TensorSpec("a", "float32", (2, 3, 3)),))
    assert [feed["a"].shape for feed in feeds(dataclasses.replace(request, interface=fixed))] == [(2, 3, 3)] * 2


def test_a_file_whose_weights_are_missing_is_refused(source_of, tmp_path):
    path, _ = to_openvino(source_of("conv"), tmp_path)
    path.with_suffix(".bin").unlink()
    with pytest.raises(VerificationError, match=r"model\.xml cannot be read"):
        OpenVINO().describe(path)


def test_a_wrong_call_is_a_verification_error(source_of, tmp_path):
    source = source_of("conv")
    path, _ = to_openvino(source, tmp_path)
    with OpenVINO().open(path, source.interface) as runner:
        with pytest.raises(VerificationError, match="lacks x"):
            runner.infer({})
        with pytest.raises(VerificationError, match="OpenVINO fails on these inputs"):
            runner.infer({"x": np.ones((1, 7, 8, 8), np.float32)})


def test_nothing_is_reported_to_anybody():
    import openvino
    from openvino.tools.ovc import telemetry_utils

    assert openvino
    assert telemetry_utils.tm.__name__.endswith("telemetry_stub")


def test_a_module_that_onnx_cannot_hold_is_quantised_directly(source_of, tmp_path):
    source = source_of("conv")
    path, _ = to_openvino(source, tmp_path, TORCH_MODULE, rows=40, precision="int8")
    assert OpenVINO().describe(path).precision == "int8"
    assert noise(path, source) > 15


def test_a_table_of_integers_is_no_quantised_weight():
    import openvino
    import openvino.opset13 as ops

    from registry_export_plugins._openvino.runner import precision_of

    position = ops.parameter([-1], np.int32)
    table = ops.constant(np.arange(-50, 50, dtype=np.int8))
    picked = ops.gather(table, position, ops.constant(0, np.int32))
    model = openvino.Model([ops.multiply(ops.convert(picked, "f32"), ops.constant(np.float32(2)))], [position])
    assert precision_of(model.get_ordered_ops()) == "fp32"
