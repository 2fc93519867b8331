"""TensorRT as a target of ONNX: engines are built for named devices, and read back without a GPU."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from registry_export.entities import Interface, TensorSpec
from registry_export.errors import RuntimeAbsentError, UnsupportedModelError, VerificationError
from registry_export_plugins._tensorrt import convert, cuda
from registry_export_plugins._tensorrt.bfloat16 import to_bfloat16
from registry_export_plugins._tensorrt.build import BuildRefusedError
from registry_export_plugins._tensorrt.devices import nameable_devices
from registry_export_plugins._tensorrt.flavour import MODULE
from registry_export_plugins.tensorrt import TensorRT
from tests import models
from tests.unit.plugins.tensorrt_support import (
    ROW,
    build,
    from_torch,
    one_node,
    onnx_file,
    request_for,
    to_onnx,
)
from tests.unit.plugins.torch_support import CASES, Source, dynamic_axes, make_source

pytest.importorskip(MODULE)
pytestmark = pytest.mark.skipif(not nameable_devices(), reason="this TensorRT builds for the GPU that is here alone")
BUILDS = ("residual", "lstm", "transformer", "two_inputs", "tuple", "dict", "cond", "bool", "same_as_input")


@pytest.fixture
def source_of(tmp_path):
    def make(name: str) -> Source:
        case = CASES[name]
        return make_source(models.seeded(case.make()).eval(), case.inputs, tmp_path)

    return make


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(cuda, "_LIBRARY", "libcuda-that-is-not-there.so")


@pytest.mark.parametrize("name", BUILDS)
def test_engines_say_the_names_order_types_and_dynamic_dimensions_of_the_source(name, source_of, tmp_path, no_gpu):
    source = source_of(name)
    path, result = from_torch(source, tmp_path, device="sm89")
    described = TensorRT().describe(path)
    assert [s.name for s in described.interface.inputs] == [s.name for s in source.interface.inputs]
    assert [s.name for s in described.interface.outputs] == [s.name for s in source.interface.outputs]
    assert [s.dtype for s in described.interface.outputs] == [s.dtype for s in source.interface.outputs]
    assert dynamic_axes(described.interface) == dynamic_axes(source.interface)
    assert described.precision == "fp32"
    assert described.details["devices"] == "sm89"
    assert described.format_version
    assert "from 1 to 64" in result.notes[0]
    absent = r"^no GPU of compute capability sm89: .*no driver here.*inputs and outputs are those"
    with pytest.raises(RuntimeAbsentError, match=absent):
        TensorRT().open(path, source.interface).__enter__()


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("residual", "fp16"),
        ("transformer", "fp16"),
        ("residual", "bf16"),
        ("transformer", "bf16"),
        ("lstm", "bf16"),
        ("conv", "int8"),
        ("transformer", "int8"),
    ],
)
def test_other_precisions_keep_the_ends_in_the_types_of_the_source(name, precision, source_of, tmp_path, no_gpu):
    source = source_of(name)
    path, _ = from_torch(source, tmp_path, precision=precision, device="sm80+sm120")
    described = TensorRT().describe(path)
    assert described.precision == precision
    assert [s.dtype for s in described.interface.inputs] == [s.dtype for s in source.interface.inputs]
    assert [s.dtype for s in described.interface.outputs] == [s.dtype for s in source.interface.outputs]
    assert described.details["devices"] == "sm80, sm120"


@pytest.mark.parametrize("name", ["residual", "transformer"])
def test_bfloat16_costs_its_rounding_and_no_more(name, source_of, tmp_path):
    source = source_of(name)
    rounded = to_bfloat16(to_onnx(source, tmp_path / "onnx"), tmp_path / "bfloat16.onnx")
    evaluator = ReferenceEvaluator(onnx.load(str(rounded)))
    for inputs, expected in source.runs:
        for actual, (name, array) in zip(evaluator.run(None, inputs), expected.items(), strict=True):
            assert actual.dtype == array.dtype
            signal = 10 * np.log10(np.mean(array**2) / np.mean((array - actual) ** 2))
            assert 30 < signal < 70, name


def test_the_lowest_float32_stays_finite_in_bfloat16(tmp_path):
    lowest = np.full((1, 4), np.finfo(np.float32).min)
    a, b = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ("batch", 4)) for name in "ab")
    path = onnx_file(tmp_path, [helper.make_node("Mul", ["a", "w"], ["b"])], [a], [b], {"w": lowest})
    rounded = onnx.load(str(to_bfloat16(path, tmp_path / "bfloat16.onnx")))
    assert np.isfinite(numpy_helper.to_array(rounded.graph.initializer[0]).astype(np.float32)).all()


def test_the_attention_of_opset_23_is_computed_by_its_parts_where_there_is_no_kernel(tmp_path, no_gpu):
    shape = ("batch", 2, 4, 8)
    names = ("q", "k", "v", "b")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in names]
    node = helper.make_node("Attention", ["q", "k", "v"], ["b"], name="the_node")
    path = onnx_file(tmp_path, [node], ends[:3], ends[3:], opset=23)
    request = request_for(tmp_path, *(TensorSpec(name, "float32", shape) for name in names[:3]))
    made, result = build(path, request, tmp_path)
    assert [attempt.error for attempt in result.attempts] == [""]
    assert TensorRT().describe(made).interface.outputs[0].shape == shape


NOTHING = Interface(inputs=())


def test_only_int8_needs_samples_and_each_precision_asks_for_its_onnx():
    edge = TensorRT.conversions[0]
    assert [p for p in ("fp32", "fp16", "bf16", "int8") if edge.calibrates({"precision": p})] == ["int8"]
    assert edge.asks({"precision": "fp32"}) == edge.asks({"precision": "bf16"}) == {}
    assert edge.asks({"precision": "fp16"}) == {"precision": "fp16"}


def test_turing_without_float32_products_is_refused_with_the_operator(source_of, tmp_path, no_gpu):
    with pytest.raises(UnsupportedModelError, match=r"sm75 \(Turing\) cannot compute .*linear.*FP32 GEMM"):
        from_torch(source_of("conv"), tmp_path, device="sm75")


def test_turing_takes_half_precision(source_of, tmp_path, no_gpu):
    path, _ = from_torch(source_of("conv"), tmp_path, device="sm75", precision="fp16")
    assert TensorRT().describe(path).details["devices"] == "sm75"


def test_without_a_device_the_engine_is_for_all_from_ampere_on(tmp_path, no_gpu):
    path, _ = build(one_node(tmp_path, "Neg"), request_for(tmp_path, ROW), tmp_path)
    assert "newer" in TensorRT().describe(path).details["devices"]


def test_operators_without_a_form_in_tensorrt_are_named_with_their_nodes(tmp_path, no_gpu):
    model = one_node(tmp_path, "Det", shape=("batch", 3, 3))
    spec = TensorSpec("a", "float32", ("batch", 3, 3))
    with pytest.raises(UnsupportedModelError, match=r"no form of these operators: Det \(the_node\)"):
        build(model, request_for(tmp_path, spec), tmp_path)


def test_a_type_that_tensorrt_would_change_in_silence_is_refused(tmp_path, no_gpu):
    model = one_node(tmp_path, "Neg", TensorProto.DOUBLE)
    with pytest.raises(UnsupportedModelError, match="no float64, which a is"):
        build(model, request_for(tmp_path, TensorSpec("a", "float64", ("batch", 4))), tmp_path)


def test_weights_in_a_file_beside_the_model_are_found(tmp_path, no_gpu):
    weight = np.ones((4, 300), np.float32)
    a, b = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ("batch", size)) for n, size in (("a", 4), ("b", 300)))
    path = onnx_file(tmp_path, [helper.make_node("MatMul", ["a", "w"], ["b"])], [a], [b], {"w": weight})
    model = onnx.load(str(path))
    onnx.save(model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").stat().st_size >= weight.nbytes
    made, _ = build(path, request_for(tmp_path, ROW), tmp_path)
    assert [s.shape for s in TensorRT().describe(made).interface.outputs] == [("batch", 300)]


def test_sizes_that_may_not_be_as_small_as_1_start_at_the_samples(tmp_path, no_gpu, monkeypatch):
    shape = ("batch", 1, "height", "width")
    tried = []

    def refusing_the_first(*arguments):
        tried.append(arguments[-1])
        if len(tried) == 1:
            raise BuildRefusedError("too small")
        return really(*arguments)

    really = convert.build
    monkeypatch.setattr(convert, "build", refusing_the_first)
    request = request_for(tmp_path, TensorSpec("a", "float32", shape))
    request = dataclasses.replace(request, samples={"a": np.ones((2, 1, 8, 8), np.float32)})
    _, result = build(one_node(tmp_path, "Neg", shape=shape), request, tmp_path)
    assert [attempt.error for attempt in result.attempts] == ["too small", ""]
    assert "axis 0 of a from 1 to 64, axis 2 of a from 8 to 512" in result.notes[0]


def test_another_models_engine_is_a_verification_error_on_any_machine(source_of, tmp_path, no_gpu):
    source = source_of("two_inputs")
    path, _ = from_torch(source, tmp_path)
    swapped = dataclasses.replace(source.interface, inputs=source.interface.inputs[::-1])
    with pytest.raises(VerificationError, match="engine's inputs are table, image"), TensorRT().open(path, swapped):
        pass
    outputs = tuple(dataclasses.replace(spec, dtype="float16") for spec in source.interface.outputs)
    other = dataclasses.replace(source.interface, outputs=outputs)
    with pytest.raises(VerificationError, match="float32 in the engine and float16"), TensorRT().open(path, other):
        pass


def test_a_file_that_is_no_engine_is_refused(tmp_path):
    path = tmp_path / "model.engine"
    path.write_bytes(b"not an engine" * 20)
    with pytest.raises(VerificationError, match="no TensorRT engine"):
        TensorRT().describe(path)


def test_an_engine_of_an_unknown_layout_says_that_nothing_was_read(tmp_path, no_gpu):
    request = request_for(tmp_path, ROW, outputs=(dataclasses.replace(ROW, name="b"),))
    path, _ = build(one_node(tmp_path, "Neg"), request, tmp_path)
    path.write_bytes(path.read_bytes().replace(b"\x1c\x80\x01\x00", b"\x1c\x80\x02\x00"))
    assert TensorRT().describe(path).interface == NOTHING
    with pytest.raises(RuntimeAbsentError, match="Nothing of it was checked"), TensorRT().open(path, request.interface):
        pass


def test_a_model_quantised_with_zero_points_is_refused_with_the_reason(tmp_path, no_gpu):
    a, b = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ("batch", 4)) for name in "ab")
    nodes = [
        helper.make_node("QuantizeLinear", ["a", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["b"]),
    ]
    weights = {"scale": np.array(0.1, np.float32), "zero": np.array(7, np.int8)}
    path = onnx_file(tmp_path, nodes, [a], [b], weights)
    with pytest.raises(UnsupportedModelError, match="symmetric quantisation only"):
        build(path, request_for(tmp_path, ROW), tmp_path)
