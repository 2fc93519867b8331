"""For a mismatch at the end of a path: which of its hops is to blame, and where in the source it begins."""

from __future__ import annotations

import pytest

from registry_export.entities import Status
from tests.faults.test_planted_faults import export
from tests.faults.test_planted_faults import workshop as workshop

FIRST, SECOND = "planted_source → planted_between", "planted_between → planted_after"


def explained(workshop, folder, target: str):
    made = export(workshop, folder, target)
    (result, _) = next(iter(made.values()))
    assert result.status is Status.MISMATCH
    return result.verification.divergence


def test_the_last_hop_is_named_where_what_it_started_from_agrees(workshop, tmp_path):
    found = explained(workshop, tmp_path, "planted_after:fault=wrong")
    assert found.hop == SECOND
    assert [(hop.conversion, hop.agrees) for hop in found.hops] == [(FIRST, True), (SECOND, False)]
    assert f"{FIRST} agrees, {SECOND} does not." in found.sentence


def test_the_first_hop_is_named_where_its_result_is_wrong_already(workshop, tmp_path):
    found = explained(workshop, tmp_path, "planted_after:fault=wrong_before")
    assert found.hop == FIRST
    assert [hop.conversion for hop in found.hops] == [FIRST]
    assert found.sentence.startswith(f"{FIRST} does not agree already.")


def test_the_place_in_the_source_and_the_tensor_of_the_export_are_named(workshop, tmp_path):
    found = explained(workshop, tmp_path, "planted_after:fault=wrong")
    assert (found.module, found.modules, found.operator) == ("shift", ("shift",), "add")
    assert (found.before, found.tensor) == ("scale", "y")
    assert found.difference == pytest.approx(0.01, rel=0.5)
    assert "shift (add)" in found.sentence
    assert "y[" in found.sentence


def test_outputs_in_the_wrong_order_are_no_fault_of_any_place_inside(workshop, tmp_path):
    found = explained(workshop, tmp_path, "planted:fault=swapped")
    assert not found.module
    assert "how the outputs are assigned" in found.sentence


def test_a_search_that_fails_changes_no_verdict(workshop, tmp_path, monkeypatch):
    monkeypatch.setattr("registry_export.diagnosis._LOOKING_SECONDS", "soon")  # the child refuses it
    found = explained(workshop, tmp_path, "planted:fault=wrong")
    assert found.sentence.startswith("The search for the first place where it goes wrong ended early")


def test_what_agrees_and_what_fails_is_not_looked_into(workshop, tmp_path):
    for fault in ("none", "fails_at_one"):
        target = "planted" if fault == "none" else f"planted:fault={fault}"
        (result, _) = next(iter(export(workshop, tmp_path / fault, target).values()))
        assert result.verification.divergence is None
