from __future__ import annotations

import numpy as np

from registry_export.dimensions import BATCH, groups, tied
from registry_export.entities import Interface, TensorSpec

IDS = TensorSpec("ids", "int64", ("batch", "ids_1"))
MASK = TensorSpec("mask", "int64", ("batch", "mask_1"))


def test_the_batch_is_one_dimension_and_equal_lengths_another():
    base = {"ids": np.zeros((2, 7), np.int64), "mask": np.ones((2, 7), np.int64)}
    found = groups(base, [Interface((IDS, MASK))])
    assert [g.name for g in found] == [BATCH, "ids_1"]
    assert found[1].axes == (("ids", 1), ("mask", 1))


def test_lengths_that_differ_are_different_dimensions():
    base = {"ids": np.zeros((2, 7), np.int64), "mask": np.ones((2, 5), np.int64)}
    assert [g.name for g in groups(base, [Interface((IDS, MASK))])] == [BATCH, "ids_1", "mask_1"]


def test_the_sides_of_a_square_picture_are_two_dimensions():
    picture = TensorSpec("x", "float32", ("batch", 3, "x_2", "x_3"))
    found = groups({"x": np.zeros((2, 3, 8, 8), np.float32)}, [Interface((picture,))])
    assert [(group.name, group.axes) for group in found] == [
        (BATCH, (("x", 0),)),
        ("x_2", (("x", 2),)),
        ("x_3", (("x", 3),)),
    ]


def test_the_sides_of_a_square_mask_are_tied_once_the_model_refuses_them_alone():
    square = TensorSpec("mask", "int64", ("batch", "mask_1", "mask_2"))
    base = {"ids": np.zeros((2, 7), np.int64), "mask": np.ones((2, 7, 7), np.int64)}
    found = groups(base, [Interface((IDS, square))])
    assert [group.name for group in found] == [BATCH, "ids_1", "mask_2"]
    together = tied(found, {"ids_1", "mask_2"})
    assert [group.axes for group in together][1:] == [(("ids", 1), ("mask", 1), ("mask", 2))]
    assert tied(found, {"ids_1"}) == found


def test_a_dimension_that_is_first_in_one_input_and_second_in_another_is_one():
    base = {"src": np.zeros((5, 2, 8), np.float32), "mask": np.zeros((2, 5), bool)}
    shapes = TensorSpec("src", "float32", ("S", "N", 8)), TensorSpec("mask", "bool", ("N", "S"))
    assert [(group.name, group.axes) for group in groups(base, [Interface(shapes)])] == [
        ("S", (("src", 0), ("mask", 1))),
        ("N", (("src", 1), ("mask", 0))),
    ]


def test_a_name_that_says_nothing_ties_no_batch_to_a_width():
    base = {"x": np.zeros((2, 3, 8, 8), np.float32)}
    found = groups(base, [Interface((TensorSpec("x", "float32", ("?", 3, "?", "?")),))])
    assert [(group.name, group.axes) for group in found] == [(BATCH, (("x", 0),)), ("?", (("x", 2), ("x", 3)))]


def test_what_is_called_the_batch_is_the_batch_on_whatever_axis():
    base = {"sequence": np.zeros((5, 2, 8), np.float32), "state": np.zeros((1, 2, 4), np.float32)}
    shapes = TensorSpec("sequence", "float32", ("T", BATCH, 8)), TensorSpec("state", "float32", (1, BATCH, 4))
    assert [(group.name, group.axes) for group in groups(base, [Interface(shapes)])] == [
        (BATCH, (("sequence", 1), ("state", 1))),
        ("T", (("sequence", 0),)),
    ]


def test_a_first_axis_that_no_name_ties_to_another_is_tied_by_its_size():
    base = {"src": np.zeros((5, 2, 8), np.float32), "mask": np.zeros((2, 5), bool)}
    shapes = TensorSpec("src", "float32", (BATCH, "src_1", 8)), TensorSpec("mask", "bool", (BATCH, "mask_1"))
    found = groups(base, [Interface(shapes)])
    assert sorted(group.axes for group in tied(found, {group.name for group in found})) == [
        (("src", 0), ("mask", 1)),
        (("src", 1), ("mask", 0)),
    ]


def test_fixed_sizes_are_not_varied():
    assert groups({"x": np.zeros((1, 4))}, [Interface((TensorSpec("x", "float32", (1, 4)),))]) == ()
