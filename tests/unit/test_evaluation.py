"""How good a model is: what labels fit, what an evaluator may return, and when an export lost too much."""

from __future__ import annotations

import math

import numpy as np
import pytest

from registry_export.entities import Interface, Status, TensorSpec
from registry_export.errors import EvaluationError, SamplesError, SourceError
from registry_export.evaluation import _predict, checked
from registry_export.evaluation_setup import EvaluationSetup
from registry_export.inputs import _name_of_labels
from registry_export.labels import compared
from registry_export.scoring import verdict


def labelled(*arguments):
    return checked(compared(*arguments).metrics, "the comparison")


SCORES = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]], np.float32)


def test_whole_labels_are_classes_of_the_first_output_that_has_scores():
    outputs = {"embedding": np.zeros((4, 2, 3), np.float32), "scores": SCORES}
    assert labelled(outputs, np.array([1, 0, 0, 0])) == {"accuracy": 0.75}


def test_labels_of_every_token_are_compared_token_by_token():
    scores = np.eye(3, dtype=np.float32)[[[0, 1], [2, 2]]]
    assert labelled({"y": scores}, np.array([[0, 1], [2, 0]], np.int32)) == {"accuracy": 0.75}


def test_a_model_that_names_the_class_itself_is_compared_as_it_answers():
    assert labelled({"y": np.array([3, 1, 2])}, np.array([3, 1, 0])) == {"accuracy": pytest.approx(2 / 3)}


def test_values_of_an_outputs_own_shape_give_the_mean_absolute_error():
    assert labelled({"y": np.array([1.0, 2.0, 4.0], np.float32)}, np.array([1.0, 2.5, 4.5])) == {
        "mae": pytest.approx(1 / 3)
    }


def test_of_two_outputs_that_fit_the_first_is_named_and_the_labels_name_chooses_another():
    outputs = {"price": np.array([1.0, 2.0]), "days": np.array([3.0, 4.0])}
    labels = np.array([3.0, 4.0])
    first = compared(outputs, labels)
    assert (first.output, first.metrics) == ("price", {"mae": 2.0})
    assert "with price, the first output that they fit; they fit days too" in first.note
    named = compared(outputs, labels, name="days")
    assert (named.output, named.metrics, named.note) == ("days", {"mae": 0.0}, "")
    assert compared(dict(reversed(outputs.items())), labels, first.output).metrics == first.metrics
    with pytest.raises(EvaluationError, match="fit not the output days"):
        compared(outputs, np.array([[3.0]]), name="days")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.array([1, 0]), "fit no output (y float32 (4, 2))"),
        (np.array([1.0, 0.0, 0.0, 1.0]), "fit no output"),
        (np.array([1, 0, 2, 0]), "beyond the 2 of output y"),
        (np.array([1, 0, -1, 0]), "beyond the 2"),
    ],
)
def test_labels_that_fit_nothing_are_refused_and_not_guessed_at(labels, words):
    with pytest.raises(EvaluationError, match=words.replace("(", r"\(").replace(")", r"\)")):
        labelled({"y": SCORES}, labels)


def test_one_column_of_scores_is_no_classifier():
    with pytest.raises(EvaluationError, match="fit no output"):
        labelled({"y": np.zeros((4, 1), np.float32)}, np.array([0, 1, 0, 1]))


def test_an_answer_that_is_not_a_number_is_no_error_of_zero():
    with pytest.raises(EvaluationError, match="no finite number"):
        labelled({"y": np.array([np.nan, 1.0])}, np.array([1.0, 1.0]))


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (0.97, "returns a float"),
        ({}, "0 entries"),
        ({"accuracy": math.nan}, "no finite number"),
        ({"accuracy": "0.9"}, "no finite number"),
        ({"top 1": 1.0}, "use letters"),
        ({"latency_ms": 1.0}, "another name"),
        ({str(n): n for n in range(21)}, "21 entries"),
    ],
)
def test_an_evaluator_that_returns_no_metrics_is_refused_in_a_sentence(returned, words):
    with pytest.raises(EvaluationError, match=words):
        checked(returned, "evaluate x:y")


def test_what_numpy_calls_a_number_is_one():
    assert checked({"f1": np.float32(0.5), "n": np.array([3])}, "evaluate x:y") == {"f1": 0.5, "n": 3.0}


@pytest.mark.parametrize(
    ("own", "limit", "status", "words"),
    [
        (0.97, 0.01, Status.VERIFIED, ""),
        (0.96, 0.01, Status.VERIFIED, ""),
        (0.9599, 0.01, Status.MISMATCH, "accuracy fell from 0.97 to 0.9599, by 0.0101: the rule allows 0.01"),
        (0.99, 0.0, Status.VERIFIED, ""),
        (0.969, 0.0, Status.MISMATCH, "the rule allows 0"),
        (1.01, -0.04, Status.VERIFIED, ""),
        (1.02, -0.04, Status.MISMATCH, "accuracy rose from 0.97 to 1.02, by 0.05: the rule allows 0.04"),
        (0.5, -0.04, Status.VERIFIED, ""),
    ],
)
def test_a_limit_allows_so_much_of_a_fall_and_with_a_minus_of_a_rise(own, limit, status, words):
    judged, reason = verdict({"accuracy": own}, {"accuracy": 0.97}, EvaluationSetup(max_drop={"accuracy": limit}))
    assert judged is status
    assert words in reason
    assert bool(reason) == (status is not Status.VERIFIED)


def test_a_limit_on_what_was_not_measured_verifies_nothing():
    status, reason = verdict({"f1": 1.0}, {"f1": 1.0}, EvaluationSetup(max_drop={"accuracy": 0.01}))
    assert (status, reason) == (
        Status.UNVERIFIED,
        "max_drop limits accuracy, which was not measured (measured: f1)",
    )


class Rows:
    """Answers with its input's rows and their sum, and takes so many at a time as its file says."""

    interface = Interface((TensorSpec("x", "float32", (3, 2)),))

    def __init__(self):
        self.sizes = []

    def infer(self, inputs):
        self.sizes.append(inputs["x"].shape[0])
        return {"y": inputs["x"] * 2, "sum": inputs["x"].sum()}


def test_a_model_with_a_fixed_batch_answers_any_number_of_rows():
    rows, x = Rows(), np.arange(14, dtype=np.float64).reshape(7, 2)
    answers = _predict(rows, 3)({"x": x})
    assert rows.sizes == [3, 3, 3]
    assert np.array_equal(answers["y"], x * 2)


def test_what_has_no_rows_stands_in_no_ones_way_and_is_not_put_together():
    answers = _predict(Rows(), 3)({"x": np.ones((7, 2))})
    assert list(answers) == ["y"]
    with pytest.raises(SourceError, match="takes 3 rows at a time, and its output sum has none"):
        answers["sum"]
    with pytest.raises(KeyError):
        answers["z"]


@pytest.mark.parametrize(
    ("arrays", "inputs", "asked", "found"),
    [
        ({"x": 0, "labels": 0}, {"x"}, "", "labels"),
        ({"x": 0, "labels": 0}, {"x", "labels"}, "", ""),
        ({"labels": 0}, set(), "", ""),
        ({"x": 0, "y": 0}, {"x"}, "", ""),
        ({"x": 0, "y": 0}, {"x"}, "y", "y"),
    ],
)
def test_the_labels_are_the_array_that_says_so_unless_it_is_an_input(arrays, inputs, asked, found):
    assert _name_of_labels(arrays, inputs, asked) == found


@pytest.mark.parametrize(("asked", "words"), [("x", "which is an input"), ("z", r"no array z .*they have x, y")])
def test_labels_that_are_named_and_cannot_be_are_refused(asked, words):
    with pytest.raises(SamplesError, match=words):
        _name_of_labels({"x": 0, "y": 0}, {"x"}, asked)
