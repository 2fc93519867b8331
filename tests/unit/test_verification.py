"""Verdicts at the edges: what must never pass for verified."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from registry_export.comparison import compare
from registry_export.entities import Interface, Status, Tolerance
from registry_export.inference import RungFiles
from registry_export.reference import Reference
from registry_export.replay import Replay, ReplayedRung
from registry_export.tensors import write_tensors
from registry_export.verification import judge


def test_a_tolerance_that_is_no_number_allows_nothing():
    one, zero = np.ones(3, np.float32), np.zeros(3, np.float32)
    assert compare(one, zero, Tolerance(float("nan"), 1e-3)).problem
    assert compare(one, zero, Tolerance(1e-5, float("nan"))).problem


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_integers_that_float64_cannot_tell_apart_are_told_apart(dtype):
    expected, actual = np.array([2**53 + 1], dtype), np.array([2**53], dtype)
    assert compare(expected, actual, Tolerance(1e-5, 1e-3)).problem
    assert not compare(expected, expected, Tolerance(1e-5, 1e-3)).problem


@pytest.mark.parametrize(("answer", "status"), [(1, Status.UNVERIFIED), (2, Status.MISMATCH)])
def test_agreement_with_what_answers_in_the_sources_place_is_no_verification(tmp_path, answer, status):
    for name, value in (("inputs", 1), ("expected", 1), ("actual", answer)):
        write_tensors(tmp_path / name, {"x": np.full(3, value, np.float32)})
    rung = RungFiles("example", "", str(tmp_path / "inputs"), str(tmp_path / "expected"))
    source = Reference(Interface(()), (rung,), "", "example", stand_in="a translation answered")
    replayed = Replay((ReplayedRung(actual=str(tmp_path / "actual")),), "")
    verification = judge(source, replayed, Tolerance(1e-5, 1e-3))
    assert verification.status is status
    assert (verification.reason == source.stand_in) is (status is Status.UNVERIFIED)


def test_the_record_says_that_an_evaluator_answered_in_the_runtimes_place(tmp_path):
    for name in ("inputs", "expected", "actual"):
        write_tensors(tmp_path / name, {"x": np.ones(3, np.float32)})
    rung = RungFiles("example", "", str(tmp_path / "inputs"), str(tmp_path / "expected"))
    source = Reference(Interface(()), (rung,), "", "example")
    replayed = Replay((ReplayedRung(actual=str(tmp_path / "actual")),), "an evaluator", by="evaluator")
    verification = judge(source, replayed, Tolerance(1e-5, 1e-3))
    assert (verification.status, verification.by) == (Status.VERIFIED, "evaluator")
    assert (judge(source, replace(replayed, by="runtime"), Tolerance(1e-5, 1e-3))).by == "runtime"


def judged_at_an_edge(folder, actual, group="", **of_rung):
    """A rung that agrees beside an edge on which the export answered `actual`, or refused (None)."""
    x = np.ones(3, np.float32)
    arrays = {"inputs": x, "expected": x, "actual": actual if actual is not None else x}
    for name, array in arrays.items():
        write_tensors(folder / name, {"x": array})
    at = (str(folder / "inputs"), str(folder / "expected"))
    rungs = (RungFiles("example", "", *at), RungFiles("zeros", group, *at, kind="edge", **of_rung))
    source = Reference(Interface(()), rungs, "", "example")
    edge = ReplayedRung(actual=str(folder / "actual")) if actual is not None else ReplayedRung(error="not possible")
    return judge(source, Replay((ReplayedRung(actual=str(folder / "expected")), edge), ""), Tolerance(1e-5, 1e-3))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_where_the_source_jumps_an_export_still_must_answer_with_numbers(tmp_path, value):
    wrong = judged_at_an_edge(tmp_path, np.array([1, value, 1], np.float32), unfit="it jumps")
    assert (wrong.status, wrong.reason) == (Status.MISMATCH, "zeros: output x is not finite where the source is")
    other = judged_at_an_edge(tmp_path, np.array([1, 5, 1], np.float32), unfit="it jumps")
    assert other.status is Status.VERIFIED
    assert not other.rungs[1].judged


def test_values_that_an_export_refuses_are_a_failure_and_sizes_at_the_edge_are_none(tmp_path):
    assert judged_at_an_edge(tmp_path, None).status is Status.FAILED
    assert judged_at_an_edge(tmp_path, None, group="batch").status is Status.VERIFIED
    assert judged_at_an_edge(tmp_path, None, unfit="it jumps").status is Status.VERIFIED


def judged_where_nothing_was_found(folder, kind, answered=0):
    """An example with one result beside a rung on which the source has none and the export `answered` of them."""
    for name, count in (("inputs", 1), ("expected", 1), ("nothing", 0), ("actual", answered)):
        write_tensors(folder / name, {"x": np.ones(count, np.float32)})
    at, one = str(folder / "inputs"), str(folder / "expected")
    rungs = (RungFiles("example", "", at, one), RungFiles("zeros", "", at, str(folder / "nothing"), kind=kind))
    answers = ReplayedRung(actual=one), ReplayedRung(actual=str(folder / "actual"))
    return judge(Reference(Interface(()), rungs, "", "example"), Replay(answers, ""), Tolerance(1e-5, 1e-3))


def test_finding_nothing_where_the_source_finds_nothing_agrees_but_never_on_the_example_itself(tmp_path):
    assert judged_where_nothing_was_found(tmp_path / "edge", "edge").status is Status.VERIFIED
    assert judged_where_nothing_was_found(tmp_path / "batch", "batch").status is Status.VERIFIED
    assert judged_where_nothing_was_found(tmp_path / "example", "example").status is Status.UNVERIFIED
    found = judged_where_nothing_was_found(tmp_path / "found", "edge", answered=2)
    assert (found.status, found.reason) == (Status.MISMATCH, "zeros: output x: shape 2 instead of 0")
