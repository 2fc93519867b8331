"""A trace as it is written: lanes, slices, and that no trace costs an export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from registry_export.reporter import ChildRun, Reporter
from registry_export.timeline import Timeline, traced


class Heard(Reporter):
    def __init__(self) -> None:
        self.said: list[tuple[str, ...]] = []

    def step_started(self, step: str, variant: str) -> None:
        self.said.append(("started", step))

    def step_finished(self, step: str, variant: str, outcome: str, seconds: float) -> None:
        self.said.append(("finished", step, outcome))

    def child_ended(self, run: ChildRun) -> None:
        self.said.append(("child", run.step))

    def note(self, text: str) -> None:
        self.said.append(("note", text))


def child(step: str, core: int, began: float, started: float, ended: float) -> ChildRun:
    return ChildRun(step, "onnx", "torch", core, began, started, ended, 2_000_000, 3.0)


def slices(path: Path) -> dict[str, tuple[int, int, int]]:
    events = json.loads(path.read_text())["traceEvents"]
    return {event["name"]: (event["tid"], event["ts"], event["dur"]) for event in events if event["ph"] == "X"}


def test_a_child_and_the_start_of_its_toolchain_follow_each_other_on_its_core(tmp_path: Path) -> None:
    line = Timeline(began=100.0)
    line.child_ended(child("convert", 1, 101.0, 103.5, 104.0))
    line.child_ended(child("verify", 0, 101.0, 101.001, 102.0))
    line.write(tmp_path / "new folder" / "trace.json")
    found = slices(tmp_path / "new folder" / "trace.json")
    assert found["start torch"][1:] == (1_000_000, 2_500_000)
    assert found["convert onnx"][1:] == (3_500_000, 500_000)
    assert found["start torch"][0] == found["convert onnx"][0] != found["verify onnx"][0]
    assert found["verify onnx"][1:] == (1_000_000, 1_000_000), "a moment's wait is no start"


def test_whoever_heard_of_the_steps_still_does() -> None:
    heard = Heard()
    line = Timeline(heard)
    line.step_started("download", "")
    line.step_finished("download", "", "done", 1.0)
    line.child_ended(child("convert", 0, 0.0, 0.0, 1.0))
    line.note("a note")
    assert heard.said == [("started", "download"), ("finished", "download", "done"), ("child", "convert"),
                          ("note", "a note")]  # fmt: skip


def test_an_export_that_fails_leaves_its_trace_under_a_name_that_every_file_system_takes(tmp_path: Path) -> None:
    @traced(Reporter(), tmp_path, "nets/ä b/3")
    def export() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        export()
    [path] = tmp_path.iterdir()
    assert path.name.startswith("nets-b-3-")
    assert slices(path) == {}


def test_a_trace_that_cannot_be_written_costs_no_export(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    with traced(Reporter(), tmp_path / "file", "digits/1"):
        pass
    assert "could not be written" in caplog.text


def test_without_a_folder_there_is_no_trace() -> None:
    reporter = Reporter()
    with traced(reporter, None, "digits/1") as given:
        assert given is reporter
