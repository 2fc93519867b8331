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
