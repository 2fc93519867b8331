from __future__ import annotations

import numpy as np

from registry_export.dimensions import groups, output_specs, sums, with_dynamic
from registry_export.entities import Interface, TensorSpec
from registry_export.variations import variations

X = TensorSpec("x", "float32", ("batch", 4))
IDS = TensorSpec("ids", "int64", ("batch", "ids_1"))
MASK = TensorSpec("mask", "int64", ("batch", "mask_1"))


def test_the_ladder_has_batch_one_and_another_and_other_lengths():
    base = {"ids": np.arange(14).reshape(2, 7), "mask": np.ones((2, 7), np.int64)}
    rungs = list(variations(base, groups(base, [Interface((IDS, MASK))])))
    batches = ["batch 1", "batch 3", "batch 16", "batch 1, row 2"]
    lengths = ["ids_1 1", "ids_1 2", "ids_1 10", "ids_1 11"]
    assert [r.name for r in rungs] == ["example", *batches, *lengths]
    assert [r.kind for r in rungs] == ["example", *["batch"] * 4, "edge", *["length"] * 3]
    for rung in rungs:
        assert rung.inputs["ids"].shape == rung.inputs["mask"].shape
        assert rung.inputs["ids"].max() <= 13


def test_what_has_a_batch_of_one_for_ever_is_judged_by_more_than_the_first_row():
    base = {"x": np.arange(20, dtype=np.float32).reshape(5, 4)}
    rungs = {rung.name: rung.inputs["x"] for rung in variations(base, groups(base, [Interface((X,))]))}
    rows = [rungs[name] for name in ("batch 1", "batch 1, row 2", "batch 1, row 5")]
    assert all(np.array_equal(row, base["x"][[i]]) for row, i in zip(rows, (0, 1, 4), strict=True))


def test_a_sample_without_rows_can_still_be_varied():
    base = {"x": np.zeros((0, 4), np.float32), "ids": np.zeros((0, 7), np.int64)}
    rungs = {rung.name: rung.inputs for rung in variations(base, groups(base, [Interface((X, IDS))]))}
    assert [rungs["batch 3"][name].shape for name in base] == [(3, 4), (3, 7)]
    assert np.isfinite(rungs["batch 3"]["x"]).all()


def test_infinities_of_a_mask_do_not_spread_to_new_rows():
    base = {"x": np.array([[0, -np.inf, 0, 1]], np.float32)}
    rungs = {rung.name: rung.inputs["x"] for rung in variations(base, groups(base, [Interface((X,))]))}
    assert (np.isfinite(rungs["batch 3"]) == [True, False, True, True]).all()


def test_new_rows_are_not_copies_of_old_ones():
    base = {"x": np.ones((1, 4), np.float32)}
    rungs = {rung.name: rung.inputs["x"] for rung in variations(base, groups(base, [Interface((X,))]))}
    longer = rungs["batch 3"]
    assert longer.dtype == np.float32
    assert not np.array_equal(longer[1], longer[0])
    assert np.array_equal(longer[0], base["x"][0])


def test_the_ladder_is_the_same_every_time():
    base = {"x": np.ones((1, 4), np.float32)}
    one, two = ([r.inputs["x"] for r in variations(base, groups(base, [Interface((X,))]))] for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def test_outputs_carry_the_dimension_that_they_follow():
    base = {"x": np.zeros((2, 4), np.float32)}
    dimensions = groups(base, [Interface((X,))])
    runs = [(v.inputs, {"y": v.inputs["x"] @ np.zeros((4, 3), np.float32)}) for v in variations(base, dimensions)]
    assert output_specs(runs, dimensions) == (TensorSpec("y", "float32", ("batch", 3)),)
    assert with_dynamic(Interface((X,)), dimensions, base).inputs == (X,)


CACHED = Interface(
    inputs=(
        TensorSpec("ids", "int64", ("batch", "new")),
        TensorSpec("mask", "int64", ("batch", "past + new")),
        TensorSpec("past", "float32", ("batch", 2, "past", 4)),
    )
)


def test_an_axis_that_is_a_sum_follows_its_parts():
    base = {
        "ids": np.ones((2, 3), np.int64),
        "mask": np.ones((2, 7), np.int64),
        "past": np.ones((2, 2, 4, 4), np.float32),
    }
    found = groups(base, [CACHED])
    assert {group.name: group.axes for group in found} == {
        "batch": (("ids", 0), ("mask", 0), ("past", 0)),
        "new": (("ids", 1),),
        "past": (("past", 2),),
    }
    runs = list(variations(base, found, together=sums(CACHED)))
    for run in runs:
        assert run.inputs["mask"].shape[1] == run.inputs["ids"].shape[1] + run.inputs["past"].shape[2], run.name
    assert with_dynamic(CACHED, found, base).inputs[1].shape == ("batch", "past + new")
    whole = [(r.inputs, {"present": np.zeros((len(r.inputs["ids"]), 2, r.inputs["mask"].shape[1], 4))}) for r in runs]
    assert output_specs(whole, found, sums(CACHED))[0].shape == ("batch", 2, "past + new", 4)
