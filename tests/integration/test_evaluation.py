"""How good every export is, beside the source: measured in the sandbox, shown, judged, and asked anew."""

from __future__ import annotations

import json
from dataclasses import replace

import mlflow
import numpy as np
import pytest

from registry_export.entities import Status, Tolerance
from registry_export.evaluation_setup import EvaluationSetup
from registry_export.model_setup import ModelSetup
from tests.support.planted_versions import Steps

ANYTHING = Tolerance(1e3, 1e3)
"""Numbers this far off are called verified: what is left to judge is what an export is good for."""

X = np.random.default_rng(3).standard_normal((40, 3)).astype(np.float32)

EVALUATOR = """
import pathlib
import numpy as np

def f1(predict, inputs, labels):
    y = predict(inputs)["y"]
    try:
        reached = float(pathlib.Path({secret!r}).read_text() != "")
    except OSError:
        reached = 0.0
    return {{"f1": np.float32((y.argmax(1) == labels).mean()), "rows": len(y), "reached": reached}}

def broken(predict, inputs, labels):
    raise ValueError("no such column")
"""


@pytest.fixture(scope="module")
def server(mlflow_server):
    """The one that the modules share."""
    return mlflow_server


@pytest.fixture
def samples(tmp_path):
    """Labels of which the source names three quarters, and an export that turns its answers around none."""
    labels = X.argmax(1)
    labels[::4] = (3 - X.argmax(1) - X.argmin(1))[::4]
    path = tmp_path / "samples.npz"
    np.savez(path, x=X, labels=labels)
    return str(path)


@pytest.fixture
def rules(tmp_path):
    """A folder of rules with an evaluator beside them, and a file that is none of the evaluator's business."""
    (tmp_path / "rules").mkdir()
    secret = tmp_path / "secret.txt"
    secret.write_text("a password")
    (tmp_path / "rules" / "measures.py").write_text(EVALUATOR.format(secret=str(secret)))
    return ModelSetup(search=(str(tmp_path / "rules"),))


def test_labelled_samples_give_an_accuracy_for_the_source_and_every_export_that_runs_here(versions, name, samples):
    ref = versions.register(name)
    report = versions.export(ref, "planted, planted:fault=swapped, planted:fault=absent", samples=samples)
    assert report.source.evaluation == {"accuracy": 0.75}
    found = {result.variant: result.evaluation for result in report.targets}
    assert found == {"planted": {"accuracy": 0.75}, "planted-swapped": {"accuracy": 0.0}, "planted-absent": {}}
    told = json.loads(versions.stored(ref, "exports/report.json"))
    assert [told["source"]["evaluation"], told["targets"][0]["evaluation"]] == [{"accuracy": 0.75}] * 2
    metrics = mlflow.MlflowClient(versions.uri).get_run(report.run_id).data.metrics
    assert (metrics["planted/accuracy"], metrics["source/accuracy"]) == (0.75, 0.75)
    assert "accuracy" in versions.registry.version(ref).description
    assert "accuracy 0.75 (the source 0.75)" in versions.stored(ref, "exports/report.md").decode()


def test_an_export_that_lost_too_much_is_a_mismatch_however_small_its_differences(versions, name, samples):
    ref = versions.register(name)
    terms = {"samples": samples, "tolerance": ANYTHING, "evaluation": EvaluationSetup(max_drop={"accuracy": 0.01})}
    report = versions.export(ref, "planted, planted:fault=swapped", **terms)
    assert [result.status for result in report.targets] == [Status.VERIFIED, Status.MISMATCH]
    assert "accuracy fell from 0.75 to 0, by 0.75: the rule allows 0.01" in versions.tags(ref)["planted-swapped"]
    assert versions.tags(ref)["status"] == "mismatch"
    again = versions.verify(ref, **terms)
    assert [result.status for result in again.targets] == [Status.VERIFIED, Status.MISMATCH]


def test_a_small_drop_makes_no_mismatch_of_numbers_good(versions, name, samples):
    terms = {"samples": samples, "evaluation": EvaluationSetup(max_drop={"accuracy": 1.0})}
    report = versions.export(versions.register(name), "planted:fault=wrong", **terms)
    assert report.status is Status.MISMATCH
    assert report.targets[0].evaluation == {"accuracy": 0.75}


def test_a_limit_on_what_nobody_measured_verifies_nothing(versions, name):
    report = versions.export(versions.register(name), evaluation=EvaluationSetup(max_drop={"accuracy": 0.1}))
    assert report.status is Status.UNVERIFIED
    assert "the source's accuracy was not measured: There are no labels" in report.targets[0].evaluation_reason


def test_an_evaluator_runs_in_the_sandbox_with_labels_and_all_rows(versions, name, samples, rules):
    evaluation = EvaluationSetup("measures:f1", max_drop={"f1": 0.0})
    report = versions.export(versions.register(name), samples=samples, setup=rules, evaluation=evaluation)
    assert report.status is Status.VERIFIED
    assert report.targets[0].evaluation == {"f1": 0.75, "rows": 40.0, "reached": 0.0}


def test_an_evaluator_that_fails_costs_the_metric_and_no_export(versions, name, samples, rules):
    evaluation = EvaluationSetup("measures:broken")
    report = versions.export(versions.register(name), samples=samples, setup=rules, evaluation=evaluation)
    assert report.status is Status.VERIFIED
    (note,) = [note for note in report.source.notes if "evaluated" in note]
    assert "ValueError: no such column (measures.py, line 14)" in note


@pytest.mark.slow
def test_another_evaluator_other_labels_and_another_limit_are_asked_and_nothing_is_converted(
    versions, name, samples, rules, index, tmp_path
):
    ref = versions.register(name)
    other = tmp_path / "other.npz"
    np.savez(other, x=X, labels=X.argmax(1))
    terms = {"index": index, "setup": rules, "tolerance": ANYTHING}

    def export(target="planted, planted:fault=swapped", **rest):
        steps = Steps()
        report = versions.export(ref, target, reporter=steps, **(terms | rest))
        assert not [outcome for outcome in steps.outcomes if "None" in outcome]
        return report, steps.names.count("convert"), steps.names.count("evaluate")

    assert export(samples=samples)[1:] == (2, 3)
    report, *counts = export(samples=samples)
    assert counts == [0, 0]
    assert [result.evaluation["accuracy"] for result in report.targets] == [0.75, 0.0]
    report, *counts = export(samples=str(other))
    assert counts == [0, 3]
    assert (report.source.evaluation, report.targets[0].evaluation) == ({"accuracy": 1.0}, {"accuracy": 1.0})
    strict = EvaluationSetup(max_drop={"accuracy": 0.5})
    report, *counts = export(samples=str(other), evaluation=strict)
    assert (counts, report.status) == ([0, 3], Status.MISMATCH)
    assert json.loads(versions.stored(ref, "exports/planted-swapped/manifest.json"))["status"] == "mismatch"
    report, *counts = export(samples=str(other), evaluation=strict)
    assert (counts, report.status) == ([0, 0], Status.MISMATCH)
    report, *counts = export(samples=str(other), evaluation=EvaluationSetup("measures:f1"))
    assert (counts, report.status) == ([0, 3], Status.VERIFIED)
    assert report.targets[1].evaluation["f1"] == 0.0
    report, *counts = export(samples=str(other), evaluation=replace(strict, max_drop={}))
    assert (counts, report.source.max_drop) == ([0, 3], {})


def test_what_is_taken_over_brings_its_metrics(versions, name, samples, index):
    first, second = versions.register(name), versions.register(name)
    versions.export(first, samples=samples, index=index)
    steps = Steps()
    report = versions.export(second, samples=samples, index=index, reporter=steps)
    assert {"convert", "evaluate"}.isdisjoint(steps.names)
    assert report.targets[0].evaluation == report.source.evaluation == {"accuracy": 0.75}
