"""The table of the benchmarks: what is missed is shown, and ends `make bench` with a failure."""

from __future__ import annotations

import os
import sys

import msgspec
import pytest

from tests.benchmarks import figures, table
from tests.benchmarks.figures import Figure, record_all
from tests.benchmarks.traces import Trace, profile

PAGE = f"# Benchmarks\n\nA person wrote this.\n\n{table.BEGIN}\nan earlier table\n{table.END}\n\nAnd this.\n"


@pytest.fixture
def page(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "RESULTS", tmp_path / "results")
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    monkeypatch.setattr(sys, "argv", ["table", str(path)])
    return path


def figure(**parts):
    return Figure(**{"name": "own-time", "what": "our own share", "measured": 4.0, "limit": 5.0, "unit": "%"} | parts)


def test_a_missed_figure_is_shown_and_ends_the_run_with_a_failure(page):
    figure(name="other").record()
    assert table.main() == 0
    with pytest.raises(pytest.fail.Exception, match="MISSED"):
        figure(measured=6.0, where=("- hashing: 2 s",)).record()
    assert table.main() == 1
    text = page.read_text()
    assert "| our own share | 6.00 % | 5.00 % | **missed** |" in text
    assert "- hashing: 2 s" in text
    assert "1 of 2 met" in text


def test_what_cannot_be_compared_is_missed():
    assert not figure(measured=float("nan")).met


def test_figures_after_a_missed_one_are_kept_too(page):
    with pytest.raises(pytest.fail.Exception):
        record_all([figure(measured=6.0), figure(name="other")])
    assert [one.name for one in figures.recorded()] == ["other", "own-time"]


def test_the_prose_around_the_table_stays(page):
    figure().record()
    table.main()
    text = page.read_text()
    assert text.startswith("# Benchmarks\n\nA person wrote this.\n")
    assert text.endswith(f"{table.END}\n\nAnd this.\n")
    assert "an earlier table" not in text


def test_figures_that_were_not_measured_are_named(page):
    figure().record()
    table.main()
    assert "Not measured in this run: ten-formats-warm" in page.read_text()


def test_a_run_that_measured_nothing_is_no_success(page):
    assert table.main() == 1


def test_seconds_in_which_two_steps_ran_are_covered_once(tmp_path):
    def step(name, kind, began, seconds):
        return {"name": name, "cat": kind, "ph": "X", "ts": began * 1e6, "dur": seconds * 1e6}

    steps = [step("convert b", "convert", 2, 2), step("convert a", "convert", 1, 2), step("publish", "publish", 6, 1)]
    (tmp_path / "net-3-now.json").write_bytes(msgspec.json.encode({"traceEvents": [*steps, {"ph": "M"}]}))
    os.utime(tmp_path / "net-3-now.json", (0, 0))
    (tmp_path / "net-3-later.json").write_bytes(msgspec.json.encode({"traceEvents": []}))  # promoted again
    trace = Trace.of(tmp_path, "net", 3)
    assert trace.covered_s == pytest.approx(4.0)
    lines = "\n".join(profile(trace, 8.0))
    assert "| convert | 4.00 | 50 % |" in lines
    assert "the ledger | 4.00 | 50 % |" in lines
