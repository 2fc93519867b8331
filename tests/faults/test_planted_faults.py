"""Whatever goes wrong in a converter or a runtime is named for what it is, and never called verified."""

from __future__ import annotations

import importlib
import os
import sys

import numpy as np
import pytest

from registry_export.bench import Bench, run_reference
from registry_export.checkpoint import read_checkpoint
from registry_export.config import parse_targets
from registry_export.dimensions import assumed_batch
from registry_export.discovery import discover_formats
from registry_export.entities import Interface, Status, TensorSpec
from registry_export.errors import SourceError
from registry_export.graph import plan_export
from registry_export.inference import first_run
from registry_export.isolation import ChildPool, Limits
from registry_export.targets import export_targets
from registry_export.tensors import write_tensors
from tests.support import planted

SAMPLE = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    path = planted.install(tmp_path_factory.mktemp("planted"))
    os.environ["PYTHONPATH"] = path
    sys.path.insert(0, path.split(os.pathsep)[0])
    importlib.invalidate_caches()
    with ChildPool(Limits(timeout_s=5, memory_bytes=400_000_000)) as pool:
        yield discover_formats(), pool
    sys.path.pop(0)
    del os.environ["PYTHONPATH"]


def export(workshop, folder, targets: str, *, unstable: bool = False, sample=SAMPLE):
    formats, pool = workshop
    planted.save(folder / "model", unstable)
    checkpoint = read_checkpoint(folder / "model", formats)
    bench = Bench(formats, pool, folder)
    write_tensors(folder / "sample", {"x": sample})
    wanted = parse_targets(targets, "test", formats)
    reference = run_reference(bench, checkpoint.origin, str(folder / "sample"), "example", wanted)
    plan = plan_export(checkpoint.format, wanted, formats)
    return export_targets(bench, checkpoint.origin, plan, plan.targets, reference)


def one(workshop, folder, fault: str):
    made = export(workshop, folder, f"planted:fault={fault}" if fault != "none" else "planted")
    (result, _) = next(iter(made.values()))
    return result


def test_a_faithful_conversion_is_verified(workshop, tmp_path):
    result = one(workshop, tmp_path, "none")
    assert result.status is Status.VERIFIED
    assert [rung.name for rung in result.verification.rungs][:3] == ["example", "batch 1", "batch 3"]
    assert result.dynamic_dimensions == {"x": {"0": "batch"}}


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ("crash", "ChildCrashedError", "SIGSEGV"),
        ("hang", "ChildTimeoutError", "5 s"),
        ("memory", "ChildOutOfMemoryError", "memory limit"),
        ("refuse", "UnsupportedModelError", "Foo"),
        ("explode", "ConversionError", "ZeroDivisionError: inside the converter"),
        ("nothing", "ConversionError", "wrote no model.planted"),
        ("unreadable", "ConversionError", "cannot be read back"),
        ("input_changed", "ConversionError", "changed its own input|Permission denied"),  # where walls stand
        ("link", "ArtifactError|ConversionError", "symbolic link|Permission denied"),
        ("crash_at_run", "ChildCrashedError", "SIGSEGV"),
        ("hang_at_run", "ChildTimeoutError", "5 s"),
        ("memory_at_run", "ChildOutOfMemoryError", "memory limit"),
        ("fails_at_one", "VerificationError", "batch 1: ValueError: a batch of one"),
    ],
)
def test_what_does_not_work_is_failed_and_named(workshop, tmp_path, fault, kind, words):
    result = one(workshop, tmp_path, fault)
    assert result.status is Status.FAILED
    assert result.error.type in kind.split("|")
    assert any(word in result.error.message for word in words.split("|"))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("wrong", "breach the tolerance"),
        ("nan", "nan where the source has"),
        ("missing", "output z is missing"),
        ("extra", "output w is not the source's"),
        ("shape", "shape 1x4x3 instead of 4x3"),
        ("dtype", "dtype float64 instead of float32"),
        ("swapped", "breach the tolerance"),
        ("first_row_only", "breach the tolerance"),
    ],
)
def test_what_answers_wrongly_is_a_mismatch(workshop, tmp_path, fault, words):
    result = one(workshop, tmp_path, fault)
    assert result.status is Status.MISMATCH
    assert words in result.verification.reason
    assert result.error is None


def test_one_row_repeated_shows_even_when_the_example_has_one_row(workshop, tmp_path):
    made = export(workshop, tmp_path, "planted:fault=first_row_only", sample=SAMPLE[:1])
    assert made["planted-first_row_only"][0].status is Status.MISMATCH


def test_an_absent_runtime_is_unverified_by_name(workshop, tmp_path):
    result = one(workshop, tmp_path, "absent")
    assert result.status is Status.UNVERIFIED
    assert "accelerator of generation 9" in result.verification.reason


def test_a_static_file_is_verified_at_its_size_and_says_so(workshop, tmp_path):
    result = one(workshop, tmp_path, "static")
    assert result.status is Status.VERIFIED
    assert result.dynamic_dimensions == {}
    assert "batch of x is fixed at 3" in result.notes[-1]


def test_zero_samples_are_unverified(workshop, tmp_path):
    result = one(workshop, tmp_path, "static_nowhere")
    assert result.status is Status.UNVERIFIED
    assert "no sample fits" in result.verification.reason


def test_an_unstable_source_is_unverified_whatever_the_converter_did(workshop, tmp_path):
    made = export(workshop, tmp_path, "planted", unstable=True)
    result = made["planted"][0]
    assert result.status is Status.UNVERIFIED
    assert "source is unstable" in result.verification.reason


def test_an_unstable_source_does_not_excuse_an_artifact_that_cannot_be_run(workshop, tmp_path):
    made = export(workshop, tmp_path, "planted:fault=fails_at_one", unstable=True)
    assert made["planted-fails_at_one"][0].status is Status.FAILED


def test_a_sample_without_rows_verifies_nothing(workshop, tmp_path):
    result = export(workshop, tmp_path, "planted", sample=SAMPLE[:0])["planted"][0]
    assert result.status is Status.UNVERIFIED
    assert "the sample is empty" in result.verification.reason


@pytest.mark.parametrize(
    ("shapes", "batch"),
    [
        ({"x": (4, 3), "k": (1, 3)}, ("x",)),  # a constant that is broadcast
        ({"x": (4, 3), "k": ()}, ("x",)),
        ({"a": (4, 3), "b": (6, 3), "c": (4,)}, ("a", "c")),
        ({"k": ()}, None),
    ],
)
def test_without_a_signature_the_inputs_that_agree_share_the_batch(shapes, batch):
    base = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    found = assumed_batch(base, Interface(inputs=()))
    assert [tuple(name for name, _ in group.axes) for group in found] == ([batch] if batch else [])


@pytest.mark.parametrize(
    ("evidence", "words"), [("samples", "its samples"), ("example", "own input example"), ("random", "its signature")]
)
def test_inputs_on_which_the_source_fails_are_named_as_what_they_are(evidence, words):
    class Narrow:
        interface = Interface((TensorSpec("x", "float32", None),))

        def infer(self, inputs):
            return {"y": inputs["x"] @ np.eye(7)}

    with pytest.raises(SourceError, match=f"{words}: ValueError"):
        first_run(Narrow(), {"x": SAMPLE}, evidence)


def test_a_failed_branch_leaves_its_siblings_alive(workshop, tmp_path):
    made = export(workshop, tmp_path, "planted:fault=crash, planted:fault=link, planted")
    assert made["planted"][0].status is Status.VERIFIED
    assert made["planted-crash"][0].status is Status.FAILED


def test_the_next_route_is_tried_and_told(workshop, tmp_path):
    result, folder = export(workshop, tmp_path, "planted_next")["planted_next"]
    assert result.status is Status.VERIFIED
    assert folder is not None
    assert result.attempts[0].error == "The first way is closed."
    assert "The second way was taken." in result.notes


def test_a_dimension_that_was_asked_for_and_not_delivered_is_a_failure(workshop, tmp_path):
    made = export(workshop, tmp_path, "planted:dynamic_dimensions=x.1=width")
    (result, _) = next(iter(made.values()))
    assert result.status is Status.FAILED
    assert "Axis 1 of x was to be dynamic" in result.error.message
