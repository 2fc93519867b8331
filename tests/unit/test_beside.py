"""Sentences on an export beside its source, and beside the version before."""

from __future__ import annotations

from dataclasses import replace

import pytest

from registry_export.entities import (
    ComparedWith,
    EarlierExport,
    Latency,
    Metrics,
    ModelVersionRef,
    SourceRecord,
    Status,
)
from registry_export.report import to_html, to_json, to_markdown
from registry_export.report.beside import against_earlier, against_source, latency_text, source_latency_text
from tests.support import affine

REF = ModelVersionRef("digits", "8")
SOURCE = SourceRecord("pytorch", "torch_module", size_bytes=1100, checkpoint_bytes=1000)


def result(latency=None, source=None, size=None, snr=None, difference=1e-3, status=Status.VERIFIED, **more):
    made = affine.result("coreml", status, size_bytes=size)
    verification = replace(
        made.verification,
        latency_ms=latency,
        source_latency_ms=source,
        metrics=Metrics(max_abs_diff=difference, snr_db=snr),
        **more,
    )
    return replace(made, verification=verification)


def earlier(**values):
    return ComparedWith(ModelVersionRef("digits", "7"), "alias:champion", (before(**values),))


def before(status=Status.VERIFIED, max_abs_diff=1e-3, **values):
    return EarlierExport("coreml", status, max_abs_diff=max_abs_diff, **values)


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (result(2.0, 4.2, 260), "2.1 times faster than the source, 74 % smaller"),
        (result(4.2, 2.0, 3000), "2.1 times slower than the source, 3 times larger"),
        (result(4.0, 4.1, 1120), "as fast as the source, 12 % larger"),
        (result(size=1000), "of the same size as the source"),
        (result(2.0, None, 500), "50 % smaller than the source"),
        (result(2.0, 4.0), "2 times faster than the source"),
        (result(), ""),
    ],
)
def test_speed_and_size_are_told_beside_the_source(made, sentence):
    assert against_source(made, SOURCE) == sentence


def test_a_source_of_unknown_size_is_compared_by_what_is_known():
    assert against_source(result(size=550), replace(SOURCE, checkpoint_bytes=0)) == "50 % smaller than the source"
    assert against_source(result(size=550), None) == ""


@pytest.mark.parametrize(
    ("made", "compared", "sentence"),
    [
        (result(size=114, snr=40.0), earlier(size_bytes=100, snr_db=46.0), "6 dB worse and 14 % larger than version 7"),
        (
            result(size=86, snr=46.0),
            earlier(size_bytes=100, snr_db=40.0),
            "6 dB better and 14 % smaller than version 7",
        ),
        (
            result(3.0, size=114, snr=40.0),
            earlier(size_bytes=100, snr_db=46.0, latency_ms=1.5),
            "6 dB worse, 14 % larger and 2 times slower than version 7",
        ),
        (
            result(size=100, snr=140.0),
            earlier(size_bytes=100, snr_db=150.0),
            "no worse, no larger and no slower than version 7",
        ),
        (result(snr=None, difference=0.0), earlier(snr_db=40.0), "exact, so better than version 7"),
        (result(snr=40.0), earlier(snr_db=None, max_abs_diff=0.0), "no longer exact, so worse than version 7"),
        (result(1.1), earlier(latency_ms=1.0), "no worse, no larger and no slower than version 7"),
        (
            result(size=114, status=Status.MISMATCH),
            earlier(size_bytes=100),
            "14 % larger than version 7, which was verified",
        ),
    ],
)
def test_what_has_changed_since_the_version_before_is_told(made, compared, sentence):
    assert against_earlier(made, compared) == sentence


def test_a_variant_that_the_version_before_had_not_is_not_compared():
    assert against_earlier(affine.result("onnx"), earlier(size_bytes=1)) == ""
    assert against_earlier(result(), None) == ""


def test_a_time_is_told_with_what_it_rests_on():
    made = result(0.4204, latency_p90_ms=0.51, latency_runs=500, threads=2)
    assert latency_text(made.verification) == "0.42 ms (p90 0.51 ms, 500 calls, 2 threads busy)"
    slow = result(2100.0, latency_runs=3, threads=1)
    assert latency_text(slow.verification) == "2.1e+03 ms (3 calls, 1 thread busy)"
    assert latency_text(result().verification) == ""
    assert source_latency_text(replace(SOURCE, latency=Latency(1.5, None, 4, None))) == "1.5 ms (4 calls)"


def test_the_reports_show_all_of_it():
    made = result(2.0, 4.2, 260, 40.0, latency_p90_ms=2.5, latency_runs=100, threads=2)
    source = replace(SOURCE, latency=Latency(4.2, 4.4, 100, 2))
    compared = earlier(size_bytes=200, snr_db=46.0)
    report = replace(affine.report(REF, made), source=source, compared_with=compared)
    for page in (to_html(report), to_markdown(report)):
        assert "2 ms (p90 2.5 ms, 100 calls, 2 threads busy)" in page
        assert "2.1 times faster than the source, 74 % smaller" in page
        assert "6 dB worse and 30 % larger than version 7" in page
        assert "4.2 ms" in page
        assert "alias:champion" in page
    assert '"compared_with"' in to_json(report)


def test_a_report_says_when_and_with_what_it_was_verified_again():
    made = result(verified_at="2026-11-20T20:00:00+00:00", tools={"onnxruntime": "1.31.0"})
    for page in (to_html(affine.report(REF, made)), to_markdown(affine.report(REF, made))):
        assert "2026-11-20 20:00:00 UTC, with onnxruntime 1.31.0" in page
