"""What callers hand to a loaded export, and what reaches the model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from registry_export.binding import bind_inputs, exact_inputs
from registry_export.entities import TensorSpec
from registry_export.errors import VerificationError

X = TensorSpec("x", "float32", ("batch", 3))
IDS = TensorSpec("ids", "int64", ("batch", "seq"))
MASK = TensorSpec("mask", "bool", ("batch", "seq"))
SCALE = TensorSpec("scale", "float32", ())
ROWS = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
NUMBERS = [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    "data",
    [
        ROWS,
        np.array(ROWS),
        np.array(ROWS, np.float32),
        np.array(ROWS, np.int64),
        {"x": ROWS},
        {"input_1": ROWS},
        pd.DataFrame(ROWS),
        pd.DataFrame(ROWS, columns=["a", "b", "c"]),
        pd.DataFrame({"x": ROWS}),
    ],
)
def test_a_single_input_takes_whatever_holds_its_numbers(data):
    (array,) = bind_inputs(data, [X]).values()
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, ROWS)


@pytest.mark.parametrize(
    "data",
    [
        {"ids": NUMBERS, "x": ROWS},
        {"x": np.array(ROWS), "ids": np.array(NUMBERS, np.int32)},
        (ROWS, NUMBERS),
        pd.DataFrame({"ids": NUMBERS, "x": ROWS}),
    ],
)
def test_several_inputs_are_matched_by_name_and_come_in_the_models_order(data):
    arrays = bind_inputs(data, [X, IDS])
    assert list(arrays) == ["x", "ids"]
    assert arrays["ids"].dtype == np.int64
    np.testing.assert_array_equal(arrays["ids"], NUMBERS)


def test_columns_of_numbers_are_inputs_of_one_dimension():
    specs = [TensorSpec("a", "float32", ("batch",)), TensorSpec("b", "int64", ("batch",))]
    arrays = bind_inputs(pd.DataFrame({"b": [1, 2], "a": [0.5, 1.5]}), specs)
    assert arrays["a"].shape == (2,)
    assert arrays["b"].dtype == np.int64


@pytest.mark.parametrize(
    ("value", "spec"),
    [
        ([[0.5, 1.0]], IDS),
        ([[float("nan"), 1.0]], IDS),
        (np.array([[2**40]]), TensorSpec("ids", "int32", (1, 1))),
        (np.array([[2**40 + 1]]), TensorSpec("x", "float32", (1, 1))),
        (np.array([[-1]]), TensorSpec("x", "uint8", (1, 1))),
        ([[2]], MASK),
    ],
)
def test_a_cast_that_would_change_numbers_is_refused_by_name(value, spec):
    with pytest.raises(VerificationError, match=f"Input {spec.name} takes {spec.dtype}"):
        bind_inputs(value, [spec])


@pytest.mark.parametrize(
    ("value", "spec"),
    [
        ([[1.0, 0.0]], IDS),
        ([[0, 1]], MASK),
        ([[True]], IDS),
        ([[1e300, float("inf")]], TensorSpec("x", "float32", None)),
    ],
)
def test_a_cast_that_loses_nothing_or_is_between_floats_is_made(value, spec):
    assert bind_inputs(value, [spec])[spec.name].dtype.name == spec.dtype


@pytest.mark.parametrize("value", ["text", [["a"]], [None], [[1], [1, 2]], [b"a"]])
def test_what_is_no_array_of_numbers_is_refused(value):
    with pytest.raises(VerificationError, match="Input x"):
        bind_inputs(value, [X])


@pytest.mark.parametrize("data", [ROWS, {"x": ROWS}, {"x": ROWS, "ids": NUMBERS, "more": 1}, {}, (ROWS,)])
def test_the_wrong_inputs_are_answered_with_the_right_names(data):
    with pytest.raises(VerificationError, match="x, ids"):
        bind_inputs(data, [X, IDS])


def exact(value, spec):
    return exact_inputs({spec.name: value}, [spec])[spec.name]


@pytest.mark.parametrize("value", [ROWS, [[1, 2, 3]], np.array(ROWS, np.float32)])
def test_predict_takes_lists_and_arrays_of_the_declared_dtype(value):
    assert exact(value, X).dtype == np.float32


def test_predict_takes_an_integer_of_another_width_where_its_values_fit():
    array = exact(np.array([[1, 2]], np.int64), TensorSpec("ids", "int32", ("batch", "seq")))
    assert array.dtype == np.int32
    with pytest.raises(VerificationError, match="takes int32; int64 values would be changed"):
        exact(np.array([[2**40]]), TensorSpec("ids", "int32", ("batch", "seq")))


@pytest.mark.parametrize(
    ("value", "spec", "said"),
    [
        (np.array(ROWS), X, "Input x takes float32, and was given float64. Cast it"),
        (np.array(ROWS, np.float16), X, "takes float32, and was given float16"),
        (np.array([[1, 2, 3]]), X, "takes float32, and was given int64"),
        (np.array([[1.0, 2.0]], np.float32), IDS, "takes int64, and was given float32"),
        (np.array([[1, 0]]), MASK, "takes bool, and was given int64"),
        (np.array([["a", "b"]]), IDS, "takes int64, and was given <U1"),
        ([[0.5, 1.0]], IDS, "takes int64; float64 values would be changed"),
        (np.float64(0.1), SCALE, "takes float32, and was given float64. Cast it"),
    ],
)
def test_predict_casts_no_array_and_says_what_is_expected(value, spec, said):
    with pytest.raises(VerificationError, match=said):
        exact(value, spec)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([1.0, 2.0, 3.0], r"Input x takes the shape \(batch, 3\), and was given \(3,\)"),
        ([[1.0, 2.0]], r"takes the shape \(batch, 3\), and was given \(1, 2\)"),
        (np.zeros((2, 3, 1), np.float32), r"was given \(2, 3, 1\)"),
    ],
)
def test_predict_refuses_another_shape_and_writes_both(value, said):
    with pytest.raises(VerificationError, match=said):
        exact(value, X)


@pytest.mark.parametrize("value", [0.1, 1, np.float32(0.1)])
def test_predict_takes_a_number_that_has_no_dtype_or_the_declared_one(value):
    assert exact(value, SCALE) == np.float32(value)


def test_predict_casts_a_list_whatever_it_holds():
    assert exact([np.float64(0.1), np.float64(0.2)], TensorSpec("x", "float32", ("batch",))).dtype == np.float32


def test_predict_takes_any_shape_where_the_rank_is_unknown():
    assert exact([[[1.0]]], TensorSpec("x", "float32", None)).shape == (1, 1, 1)


@pytest.mark.parametrize("data", [ROWS, {"y": ROWS}, {"x": ROWS, "y": ROWS}, {}])
def test_predict_takes_a_mapping_with_exactly_the_models_names(data):
    with pytest.raises(VerificationError, match=r"The model takes x; it was given .* Give a mapping"):
        exact_inputs(data, [X])


def test_predict_leaves_a_dtype_that_numpy_has_not_to_the_runtime():
    half = np.array(ROWS, np.float32)
    assert exact(half, TensorSpec("x", "bfloat16", ("batch", 3))) is half
