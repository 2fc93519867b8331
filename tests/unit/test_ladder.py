"""The rungs beyond a sample's own values."""

from __future__ import annotations

import numpy as np
import pytest

from registry_export.dimensions import Group
from registry_export.ladder import drawn, edges, highest_number, is_mask

IMAGE = np.random.default_rng(0).normal(3, 2, (6, 4)).astype(np.float32)
TOKENS = np.array([[5, 1, 7], [2, 9, 4]], np.int64)
BATCH = Group("batch", (("x", 0),), 6)


def takes_all(inputs):
    return dict(inputs)


def vocabulary(size):
    def infer(inputs):
        if inputs["ids"].max() >= size or inputs["ids"].min() < 0:
            raise IndexError("index out of range")
        return {}

    return infer


def by_name(base, batch=None, infer=takes_all):
    return {edge.name: edge.inputs for edge in edges(base, batch, infer)}


def test_floats_are_tried_at_zero_large_tiny_and_negative():
    found = by_name({"x": IMAGE}, BATCH)
    assert list(found) == ["zeros", "large", "tiny", "negative"]
    assert not found["zeros"]["x"].any()
    np.testing.assert_allclose(found["large"]["x"], IMAGE[:2] * 100, rtol=1e-6)
    np.testing.assert_allclose(found["tiny"]["x"], IMAGE[:2] * 1e-3, rtol=1e-6)
    assert (found["negative"]["x"] <= 0).all()
    assert {array.dtype for edge in found.values() for array in edge.values()} == {np.dtype(np.float32)}


def test_of_large_rows_one_is_enough_at_the_edges():
    picture = np.ones((3, 3, 160, 160), np.float32) * 2
    group = Group("batch", (("x", 0),), 3)
    assert by_name({"x": picture}, group)["large"]["x"].shape == (1, 3, 160, 160)


def test_a_fixed_batch_keeps_its_rows_at_the_edges():
    assert all(edge["x"].shape == IMAGE.shape for edge in by_name({"x": IMAGE}).values())


@pytest.mark.parametrize("size", [10, 11, 1000, 30522])
def test_the_last_word_of_a_vocabulary_is_found(size):
    assert highest_number({"ids": TOKENS}, "ids", vocabulary(size)) == size - 1
    found = by_name({"ids": TOKENS}, infer=vocabulary(size))
    assert found["highest numbers"]["ids"].max() == size - 1
    assert found["highest numbers"]["ids"].min() == size - 4
    assert found["lowest numbers"]["ids"].tolist() == [[0, 1, 2], [3, 0, 1]]


def test_an_input_that_looks_nothing_up_has_no_highest_number():
    assert highest_number({"ids": TOKENS}, "ids", takes_all) is None
    assert "highest numbers" not in by_name({"ids": TOKENS})


def test_numbers_of_any_size_are_tried_where_narrower_integers_end():
    found = by_name({"n": TOKENS})["large numbers"]["n"]
    assert found.tolist() == [[32768, 128, 256], [32767, 127, 255]]
    assert by_name({"n": TOKENS.astype(np.int16)})["large numbers"]["n"].max() == 32767
    assert by_name({"n": TOKENS.astype(np.int8)})["large numbers"]["n"].tolist() == [[127] * 3] * 2


def test_small_integers_are_not_asked_beyond_their_type():
    assert highest_number({"ids": TOKENS.astype(np.int8)}, "ids", vocabulary(100)) == 99


@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.bool_])
def test_a_mask_of_ones_loses_its_later_half(dtype):
    mask = np.ones((2, 5), dtype)
    found = by_name({"mask": mask, "x": IMAGE[:2]})
    assert found["half masked"]["mask"].tolist() == [[1, 1, 1, 0, 0]] * 2
    assert found["half masked"]["mask"].dtype == mask.dtype
    assert (found["large"]["mask"] == mask).all()


def test_an_additive_mask_keeps_its_infinities():
    mask = np.where(np.eye(3, dtype=bool), 0, -np.inf).astype(np.float32)
    assert by_name({"mask": mask, "x": IMAGE})["zeros"]["mask"] is mask
    assert drawn({"mask": mask}, None).inputs["mask"] is mask


def test_drawn_values_stay_within_the_samples_range_and_differ_from_them():
    values = drawn({"x": IMAGE, "ids": TOKENS}, None).inputs
    assert IMAGE.min() <= values["x"].min()
    assert values["x"].max() <= IMAGE.max()
    assert not np.array_equal(values["x"], IMAGE)
    assert set(values["ids"].reshape(-1)) <= set(range(1, 10))
    assert abs(values["x"].mean() - IMAGE.mean()) < 1.5


def test_a_state_of_zeros_is_drawn_so_that_one_that_is_ignored_shows():
    assert drawn({"h": np.zeros((1, 2, 8), np.float32)}, None).inputs["h"].any()


def test_what_is_drawn_is_the_same_each_time():
    one, two = (drawn({"x": IMAGE}, BATCH).inputs["x"] for _ in range(2))
    assert np.array_equal(one, two)
    assert one.shape == (4, 4)


def test_only_zeros_and_ones_are_a_mask():
    assert is_mask(np.array([0, 1]))
    assert is_mask(np.array([True]))
    assert not is_mask(np.array([0, 2]))
    assert not is_mask(np.zeros((0, 3)))


def test_the_last_word_is_not_looked_for_where_there_is_no_time_for_it():
    asked = []

    def pays(name, inputs, times):
        asked.append((name, times))
        return False

    def infer(inputs):
        raise AssertionError("the source was run")

    found = [edge.name for edge in edges({"ids": TOKENS}, None, infer, pays)]
    assert found == ["lowest numbers"]
    assert asked[0][0] == "highest numbers"
    assert asked[0][1] >= np.log2(1 << 18), "a bisection of a vocabulary's range"
