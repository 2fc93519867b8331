from __future__ import annotations

import gc
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from registry_export.entities import TensorSpec
from registry_export.errors import SamplesError
from registry_export.samples import bind, draw, in_single_precision
from registry_export.tensors import read_tensors, write_tensors

X = TensorSpec("x", "float32", ("batch", 4))
IDS = TensorSpec("ids", "int64", ("batch", "ids_1"))
MASK = TensorSpec("mask", "int64", ("batch", "mask_1"))


def test_names_decide_the_order():
    a, b = np.zeros((2, 4), np.float32), np.ones((2, 4), np.float32)
    bound = bind([("b", b), ("a", a)], [TensorSpec("a", "float32", None), TensorSpec("b", "float32", None)])
    assert list(bound) == ["a", "b"]
    assert bound["b"][0, 0] == 1


def test_position_decides_where_names_are_strange():
    assert list(bind([("", np.zeros((2, 4)))], [X])) == ["x"]


def test_a_sample_takes_the_models_dtype():
    assert bind([("x", np.zeros((2, 4)))], [X])["x"].dtype == np.float32


def test_fractions_for_an_integer_input_are_refused():
    with pytest.raises(SamplesError, match="fractions"):
        bind([("ids", np.array([[0.5]]))], [IDS])


@pytest.mark.parametrize("dtype", ["float32", ""])
def test_words_in_place_of_numbers_are_refused_with_the_input(dtype):
    with pytest.raises(SamplesError, match="The sample of input x holds text; only inputs of numbers"):
        bind([("x", np.array([["a", "b"]]))], [TensorSpec("x", dtype, None)])


def test_too_few_arrays_are_refused_with_the_names():
    with pytest.raises(SamplesError, match="ids, mask"):
        bind([("x", np.zeros(3))], [IDS, MASK])


def test_random_samples_follow_the_signature():
    drawn = draw([X, IDS, TensorSpec("flag", "bool", ())])
    assert drawn["x"].shape == (2, 4)
    assert drawn["x"].dtype == np.float32
    assert set(np.unique(drawn["ids"])) <= {0, 1}
    assert drawn["flag"].shape == ()


def test_an_unknown_shape_says_what_to_log():
    with pytest.raises(SamplesError, match="input_example="):
        draw([TensorSpec("x", "float32", None)])


@pytest.mark.parametrize("dtype", ["string", "str", "object"])
def test_text_is_refused_in_words(dtype):
    with pytest.raises(SamplesError, match="only inputs of numbers"):
        draw([TensorSpec("text", dtype, ("batch", 1))])


def test_tensors_come_back_as_they_went(tmp_path):
    tensors = {"a/b:0": np.arange(6).reshape(2, 3), "": np.array(True), "empty": np.zeros((0, 2), np.float16)}
    write_tensors(tmp_path / "t", tensors)
    back = read_tensors(tmp_path / "t")
    assert list(back) == list(tensors)
    assert all(np.array_equal(back[n], tensors[n]) and back[n].dtype == tensors[n].dtype for n in tensors)


def test_threads_read_tensors_at_once_though_pythons_parser_serves_one_thread_at_a_time(tmp_path):
    write_tensors(tmp_path / "t", {str(number): np.ones((2, 3), np.float32) for number in range(100)})
    thresholds = gc.get_threshold()

    def let_others_run(*_):
        time.sleep(0)

    gc.callbacks.append(let_others_run)
    gc.set_threshold(10)  # so that most parses are interrupted
    try:
        with ThreadPoolExecutor(4) as executor:
            found = list(executor.map(read_tensors, [tmp_path / "t"] * 8))
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(let_others_run)
    assert all(len(tensors) == 100 for tensors in found)


def test_objects_never_travel(tmp_path):
    with pytest.raises(ValueError, match=r"[Oo]bject"):
        write_tensors(tmp_path / "t", {"a": np.array([object()])})


def test_doubles_become_floats_where_no_dtype_is_declared():
    declared = [TensorSpec("a", "", None), TensorSpec("b", "float64", None), TensorSpec("ids", "", None)]
    sample = {"a": np.zeros(2), "b": np.zeros(2), "ids": np.zeros(2, np.int64)}
    dtypes = [array.dtype.name for array in in_single_precision(sample, declared).values()]
    assert dtypes == ["float32", "float64", "int64"]
