from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from registry_export.entities import Interface, TensorSpec
from registry_export.errors import ConversionError, UnsupportedModelError
from registry_export.format import ConversionRequest
from registry_export_plugins._onnx_to_tf.translator import translate_model
from registry_export_plugins.saved_model import SavedModel, from_onnx_model

# What ONNX's own test cases hold that is not translated, each with the reason.
EXCLUDED = {
    r"_expanded|cast|_bf16|float8|_e4m3fn|_e5m2|float4|int4|int2|quantizelinear|qlinear": "types "
    "that no exporter of float models writes, and cases that repeat others",
    r"attention|_sce_|nllloss|causal_conv|linear_attention|flexattention": "expanded by ONNX's definitions; "
    "some of them are run by name below",
    r"bitshift.*(ge_width|negative)": "shifts that C leaves undefined",
    r"sequence|optional|loop13_seq|loop16|string|regex|tfidf|image_decoder": "values that are no tensors",
    r"training|dropout.*(mask|train)|bernoulli|random": "training, and results that are drawn at random",
    r"adagrad|adam|momentum|gradient|ai_onnx_ml|preview": "other domains",
}
TRANSLATED_AT_LEAST = 700


def _cases() -> list[Any]:
    from onnx.backend.test.case.node import collect_testcases

    excluded = re.compile("|".join(EXCLUDED))
    return [case for case in collect_testcases() if case.model is not None and not excluded.search(case.name)]


@pytest.mark.slow
def test_onnx_s_own_cases_give_its_numbers_or_are_refused_by_name():
    passed, refused, wrong = 0, [], []
    for case in _cases():
        try:
            _run_case(case)
            passed += 1
        except UnsupportedModelError:
            refused.append(case.name)
        except (ConversionError, AssertionError) as error:
            wrong.append(f"{case.name}: {str(error)[:200]}")
    assert not wrong, "\n".join(wrong)
    assert passed >= TRANSLATED_AT_LEAST, (passed, refused)


@pytest.mark.parametrize(
    "name", ["test_attention_4d_causal", "test_attention_3d_gqa_attn_mask", "test_nllloss_NC", "test_sce_mean"]
)
def test_an_operator_that_onnx_defines_by_others_is_expanded(name: str):
    from onnx.backend.test.case.node import collect_testcases

    (case,) = [case for case in collect_testcases() if case.name == name]
    _run_case(case)


def test_a_product_of_integers_takes_a_zero_point_for_each_row_and_column():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 300)).astype(np.uint8), rng.integers(-128, 128, (300, 3)).astype(np.int8)
    zero_of_a, zero_of_b = np.array([3, 200], np.uint8), np.array([-5, 0, 7], np.int8)
    given = {"a": a, "b": b, "za": zero_of_a, "zb": zero_of_b}
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape) for n, x in given.items()
    ]
    output = helper.make_tensor_value_info("y", TensorProto.INT32, (2, 3))
    graph = helper.make_graph([helper.make_node("MatMulInteger", list(given), ["y"])], "graph", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    expected = (a.astype(np.int32) - zero_of_a[:, None]) @ (b.astype(np.int32) - zero_of_b)
    _compare(translate_model(model), list(given.values()), [expected])


def _run_case(case: Any) -> None:
    data = [[_array(value) for value in side] for side in case.data_sets[0]]
    try:
        _compare(translate_model(case.model), data[0], data[1])
    except (UnsupportedModelError, ConversionError):
        if len(data[0]) < 2:
            raise
        # Many cases feed axes, sizes and the like, which real models hold as constants.
        _compare(translate_model(_with_constants(case.model, data[0])), data[0][:1], data[1])


def _array(value: Any) -> np.ndarray:
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def _with_constants(model: Any, arrays: list[np.ndarray]) -> Any:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value, array in list(zip(copy.graph.input, arrays, strict=True))[1:]:
        copy.graph.initializer.append(numpy_helper.from_array(array, value.name))
        copy.graph.input.remove(value)
    return copy


def _compare(function: Any, inputs: list[np.ndarray], expected: list[np.ndarray]) -> None:
    import tensorflow as tf

    given = [tf.constant(x, spec.dtype) for x, spec in zip(inputs, function.interface.inputs, strict=True)]
    for actual, wanted in zip(function(*given), expected, strict=True):
        assert actual.shape == wanted.shape
        assert actual.numpy().dtype == wanted.dtype
        np.testing.assert_allclose(
            actual.numpy().astype(np.float64), wanted.astype(np.float64), rtol=2e-3, atol=1e-4, equal_nan=True
        )


def _model(nodes: list, inputs: dict, outputs: dict, weights: dict | None = None, opset: int = 18, **more) -> Any:
    """Make a model of float tensors; shapes by name."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9, **more)


def _runtime(model: Any, inputs: dict) -> list[np.ndarray]:
    import onnxruntime

    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, inputs)


def test_a_net_keeps_its_layout_names_and_open_batch(tmp_path: Path):
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(size=(8, 3, 3, 3)).astype(np.float32),
        "b": rng.normal(size=8).astype(np.float32),
        "d": rng.normal(size=(8, 1, 3, 3)).astype(np.float32),
        "dense": rng.normal(size=(8 * 4 * 4, 5)).astype(np.float32),
        "shape": np.array([0, -1], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["x.1", "w", "b"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "d"], ["e"], pads=[1, 1, 1, 1], group=8),
        helper.make_node("Add", ["e", "r"], ["s"]),
        helper.make_node("MaxPool", ["s"], ["p"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Reshape", ["p", "shape"], ["f"]),
        helper.make_node("MatMul", ["f", "dense"], ["out.0"]),
    ]
    model = _model(nodes, {"x.1": ["n", 3, 16, 16]}, {"out.0": ["n", 5]}, weights)
    onnx.save(model, tmp_path / "model.onnx")
    interface = Interface(
        (TensorSpec("x.1", "float32", ("batch", 3, 16, 16)),), (TensorSpec("out.0", "float32", ("batch", 5)),)
    )
    request = ConversionRequest({}, interface, {}, tmp_path)
    from_onnx_model(tmp_path / "model.onnx", tmp_path / "saved", request)
    with SavedModel().open(tmp_path / "saved", interface) as runner:
        for batch in (1, 2, 5):
            x = rng.normal(size=(batch, 3, 16, 16)).astype(np.float32)
            np.testing.assert_allclose(runner.infer({"x.1": x})["out.0"], _runtime(model, {"x.1": x})[0], atol=1e-4)


@pytest.mark.parametrize("form", ["torch", "keras"])
def test_gelu_is_found_in_the_forms_that_exporters_write(form: str):
    weights = {"s": np.float32(2**0.5), "one": np.float32(1), "h": np.float32(0.5), "k": np.float32(2**-0.5)}
    if form == "torch":
        nodes = [
            helper.make_node("Div", ["x", "s"], ["a"]),
            helper.make_node("Erf", ["a"], ["b"]),
            helper.make_node("Add", ["b", "one"], ["c"]),
            helper.make_node("Mul", ["x", "c"], ["d"]),
            helper.make_node("Mul", ["d", "h"], ["y"]),
        ]
    else:
        nodes = [
            helper.make_node("Mul", ["k", "x"], ["a"]),
            helper.make_node("Erf", ["a"], ["b"]),
            helper.make_node("Add", ["one", "b"], ["c"]),
            helper.make_node("Mul", ["h", "x"], ["d"]),
            helper.make_node("Mul", ["d", "c"], ["y"]),
        ]
    model = _model(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, weights)
    from registry_export_plugins._onnx_to_tf.graph import prepare

    assert [node.op_type for node in prepare(model).graph.node] == ["Gelu"]
    x = np.linspace(-3, 3, 12, dtype=np.float32).reshape(3, 4)
    _compare(translate_model(model), [x], _runtime(model, {"x": x}))


def test_softmax_before_opset_13_is_over_everything_from_the_axis_on():
    model = _model(
        [helper.make_node("Softmax", ["x"], ["y"], axis=1)], {"x": ["n", 3, 4]}, {"y": ["n", 3, 4]}, opset=11
    )
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    _compare(translate_model(model), [x], _runtime(model, {"x": x}))


def test_a_loop_whose_length_the_model_computes_collects_every_step():
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["still"]),
            helper.make_node("Add", ["state", "x"], ["next"]),
            helper.make_node("Identity", ["next"], ["seen"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, ["n", 3]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, ["n", 3]),
            helper.make_tensor_value_info("seen", TensorProto.FLOAT, ["n", 3]),
        ],
    )
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["trips"]),
        helper.make_node("Loop", ["trips", "", "x"], ["last", "all"], body=body),
    ]
    model = _model(nodes, {"x": ["n", 3]}, {"last": ["n", 3], "all": ["t", "n", 3]}, {"zero": np.int64(0)})
    function = translate_model(model)
    for batch in (1, 4):
        x = np.random.default_rng(batch).normal(size=(batch, 3)).astype(np.float32)
        _compare(function, [x], _runtime(model, {"x": x}))


def test_both_branches_of_an_if_are_kept():
    def branch(name: str, operator: str) -> Any:
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2])
        return helper.make_graph([helper.make_node(operator, ["x"], [name])], name, [], [value])

    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], then_branch=branch("a", "Exp"), else_branch=branch("b", "Neg")),
    ]
    model = _model(nodes, {"x": ["n", 2]}, {"y": ["n", 2]}, {"zero": np.float32(0)})
    function = translate_model(model)
    for sign in (1, -1):
        x = sign * np.ones((3, 2), np.float32)
        _compare(function, [x], _runtime(model, {"x": x}))


def test_a_local_function_is_inlined():
    function = helper.make_function(
        "local", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 18)]
    )
    model = _model([helper.make_node("Twice", ["x"], ["y"], domain="local")], {"x": ["n"]}, {"y": ["n"]})
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("local", 1))
    _compare(translate_model(model), [np.arange(3, dtype=np.float32)], [np.arange(0, 6, 2, dtype=np.float32)])


def test_what_cannot_be_translated_is_named_with_its_node():
    node = helper.make_node("Col2Im", ["x", "image", "block"], ["y"], name="fold")
    weights = {"image": np.array([4, 4], np.int64), "block": np.array([2, 2], np.int64)}
    model = _model([node], {"x": ["n", 4, 9]}, {"y": ["n", 1, 4, 4]}, weights)
    with pytest.raises(UnsupportedModelError, match=r"Col2Im \(fold\)"):
        translate_model(model)


def test_a_loop_that_collects_a_sequence_of_unknown_length_is_refused_with_its_node():
    grown = [helper.make_tensor_sequence_value_info(name, TensorProto.FLOAT, None) for name in ("so far", "grown")]
    go = [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("go", "still")]
    position = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    steps = [
        helper.make_node("Identity", ["go"], ["still"]),
        helper.make_node("SequenceInsert", ["so far", "x"], ["grown"]),
    ]
    body = helper.make_graph(steps, "body", [position, go[0], grown[0]], [go[1], grown[1]])
    nodes = [
        helper.make_node("SequenceEmpty", [], ["none"]),
        helper.make_node("Size", ["x"], ["trips"]),
        helper.make_node("Loop", ["trips", "", "none"], ["all"], body=body, name="collect"),
        helper.make_node("ConcatFromSequence", ["all"], ["y"], axis=0),
    ]
    with pytest.raises(UnsupportedModelError, match=r"Loop \(collect\) cannot be translated: it carries a sequence"):
        translate_model(_model(nodes, {"x": ["n", 3]}, {"y": ["m", 3]}))


def test_erf_is_within_float32_of_the_exact_one():
    import math

    import tensorflow as tf

    model = _model([helper.make_node("Erf", ["x"], ["y"])], {"x": ["n"]}, {"y": ["n"]})
    x = np.linspace(-6, 6, 2001, dtype=np.float32)
    (actual,) = translate_model(model)(tf.constant(x))
    assert np.abs(actual.numpy() - np.array([math.erf(value) for value in x])).max() < 1e-6
