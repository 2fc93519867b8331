"""Which ways led to a target, and where the others ended."""

from __future__ import annotations

from registry_export.entities import Attempt, Status
from registry_export.report import to_html
from registry_export.report.routes import routes_given_up, taken_route, tries_within
from tests.support import affine
from tests.unit.test_report import REF, page


def states(route):
    return [(stop.name, stop.state) for stop in route.stops]


def made(status=Status.VERIFIED, path=("pytorch", "onnx", "affine"), **changes):
    return affine.result("affine-d3", status, path=path, **changes)


def test_a_path_leads_through_what_was_made_to_the_targets_verdict():
    route = taken_route(made(attempts=(Attempt("dynamo"),)))
    assert states(route) == [("pytorch", "made"), ("onnx", "made"), ("affine-d3", "verified")]
    assert taken_route(made(path=())) is None


def test_a_route_that_was_given_up_says_at_which_step():
    tried = (
        Attempt("pytorch → onnx → saved_model → affine", "no such operator", "saved_model"),
        Attempt("pytorch → onnx → affine"),
    )
    result = made(attempts=tried)
    (given_up,) = routes_given_up(result)
    assert given_up.error == "no such operator"
    assert states(given_up) == [
        ("pytorch", "made"), ("onnx", "made"), ("saved_model", "failed"), ("affine-d3", "never"),
    ]  # fmt: skip
    assert states(taken_route(result))[-1] == ("affine-d3", "verified")
    assert not tries_within(result)


def test_a_route_whose_result_was_wrong_ends_in_a_mismatch():
    tried = (Attempt("pytorch → affine", "12 of 40 elements breach"), Attempt("pytorch → onnx → affine"))
    (given_up,) = routes_given_up(made(attempts=tried))
    assert states(given_up) == [("pytorch", "made"), ("affine-d3", "mismatch")]


def test_the_path_of_a_failed_target_ends_at_the_step_that_failed():
    tried = (
        Attempt("pytorch → onnx → affine", "refused", "onnx"),
        Attempt("pytorch → affine", "refused too", "affine"),
    )
    result = made(Status.FAILED, attempts=tried, verification=None)
    assert states(taken_route(result)) == [("pytorch", "made"), ("onnx", "failed"), ("affine-d3", "never")]
    assert [route.error for route in routes_given_up(result)] == ["refused too"]


def test_what_a_converter_tried_itself_is_no_route():
    tried = (Attempt("dynamo → 23", "a guard"), Attempt("dynamo, strict"))
    result = made(attempts=tried)
    assert not routes_given_up(result)
    assert tries_within(result) == tried
    assert not tries_within(made(attempts=(Attempt("torch.export"),)))


def test_the_page_draws_each_route_and_what_was_said_of_it():
    error = "it has <no> such operator"
    tried = (Attempt("pytorch → onnx → affine", error, "onnx"), Attempt("pytorch → affine"))
    report = affine.report(REF, made(path=("pytorch", "affine"), attempts=tried))
    text = " ".join(page(report).text.split())
    assert "What was tried and given up" in text
    assert error in text
    assert "<span>onnx ✕</span>" in to_html(report)
    assert "What was tried and given up" not in to_html(affine.report(REF, made()))
