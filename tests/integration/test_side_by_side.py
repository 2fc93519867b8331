"""The steps of one export side by side: on which core each ran, what was stored meanwhile, and what was learnt."""

from __future__ import annotations

import itertools
import json
import threading
from collections import defaultdict

import pytest

from registry_export.costs import StepCost
from registry_export.entities import Status
from registry_export.errors import ExportCancelledError, RegistryUnavailableError, StepTooLargeError
from registry_export.exports import load
from registry_export.isolation import ChildPool, Limits
from registry_export.ledger import LearntCosts, Ledger
from registry_export.registry import Registry
from registry_export.reporter import Reporter
from registry_export.timeline import traced
from tests.support.planted_versions import planted_versions

TARGETS = "planted, planted_next, planted_after, planted_after:fault=wrong_before, planted:fault=refuse"


@pytest.fixture(scope="module")
def versions(mlflow_server, tmp_path_factory):
    with planted_versions(mlflow_server.uri, tmp_path_factory.mktemp("planted-site")) as versions:
        yield versions


@pytest.fixture
def costs(tmp_path):
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    ledger.migrate()
    yield LearntCosts(ledger.database)
    ledger.dispose()


@pytest.fixture
def ref(versions, request):
    return versions.register(request.node.name[:60])


def by_variant(report):
    return {result.variant: result for result in report.targets}


def test_a_trace_shows_every_step_and_no_lane_does_two_things_at_once(versions, ref, tmp_path):
    with traced(Reporter(), tmp_path / "traces", str(ref)) as reporter:
        report = versions.export(ref, TARGETS, reporter=reporter, latency=False)
    assert by_variant(report)["planted-refuse"].status is Status.FAILED
    [path] = (tmp_path / "traces").iterdir()
    assert path.name.startswith(f"{ref.name}-1-")
    events = json.loads(path.read_text())["traceEvents"]
    lanes = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            lanes[event["tid"]].append((event["ts"], event["ts"] + event["dur"], event["name"]))
    named = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert set(named) == set(lanes)
    assert {"registry", "uploads", "core 0"} <= set(named.values())
    for slices in lanes.values():
        for (_, end, name), (start, _, after) in itertools.pairwise(sorted(slices)):
            assert end <= start, (name, after)
    seen = {name for slices in lanes.values() for _, _, name in slices}
    assert {
        "download", "start planted", "reference", "convert planted", "convert planted_between", "convert planted_after",
        "verify planted", "verify planted_after", "diagnose", "upload planted", "upload planted_after", "publish",
    } <= seen  # fmt: skip
    assert "upload planted-refuse" not in seen
    assert sum(name == "convert planted_between" for slices in lanes.values() for _, _, name in slices) == 1


class Watch(Reporter):
    """Keeps the steps in the order of their beginnings and ends."""

    def __init__(self):
        self.heard = []

    def step_started(self, step, variant):
        self.heard.append(f"{step} {variant}".strip())

    def step_finished(self, step, variant, outcome, seconds):
        self.heard.append(f"{step} {variant}".strip() + f": {outcome}")


class Held(Registry):
    """A registry whose uploads of one target's files take until it is let go."""

    def __init__(self, uri, at):
        super().__init__(uri)
        self.at, self.go, self.seen = at, threading.Event(), []

    def upload(self, ref, folder, path):
        self.seen.append((path, sorted(entry.name for entry in folder.iterdir())))
        if path == self.at:
            assert self.go.wait(60)
        super().upload(ref, folder, path)


class PlantedFirst:
    """Remembers of every size that one conversion takes long, which so goes first."""

    def known(self):
        return {("convert planted_numbers to planted", number): StepCost(999.0, 1, 1) for number in range(64)}

    def learn(self, *what):
        pass


def test_files_are_stored_while_other_targets_are_made_and_the_promises_come_last(versions, ref, monkeypatch):
    registry = Held(versions.uri, "exports/planted")

    storing = threading.Event()

    class LetGo(Watch):
        def step_started(self, step, variant):
            super().step_started(step, variant)
            if (step, variant) == ("upload", "planted"):
                storing.set()
            if (step, variant) == ("verify", "planted_after"):
                assert storing.wait(60)  # on a busy machine the second may be as fast as the first

        def step_finished(self, step, variant, outcome, seconds):
            super().step_finished(step, variant, outcome, seconds)
            if (step, variant) == ("verify", "planted_after"):
                registry.go.set()  # a verdict that comes although the files of another target are on their way

    monkeypatch.setattr(versions, "registry", registry)
    watch = LetGo()
    report = versions.export(ref, "planted, planted_after", reporter=watch, latency=False, costs=PlantedFirst())
    assert report.status is Status.VERIFIED
    assert watch.heard.index("upload planted") < watch.heard.index("verify planted_after: verified")
    paths = [path for path, _ in registry.seen]
    assert paths.index("exports/planted") < paths.index("exports/planted_after") < paths.index("exports")
    assert dict(registry.seen)["exports/planted"] == ["model.planted"], "no manifest before there is a report"
    with load(ref.uri, "planted_after", registry=registry):
        pass


class Breaking(Registry):
    """A registry whose store breaks off uploads of one folder."""

    def __init__(self, uri, at, times):
        super().__init__(uri)
        self.at, self.times = at, times

    def upload(self, ref, folder, path):
        super().upload(ref, folder, path)
        if path == self.at and self.times:
            self.times -= 1
            raise RegistryUnavailableError("down")


def stored_tags(versions, ref):
    return {name for name in versions.tags(ref) if name.startswith("planted")}


def test_an_upload_that_breaks_off_once_is_done_again_at_the_end(versions, ref, monkeypatch):
    monkeypatch.setattr(versions, "registry", Breaking(versions.uri, "exports/planted", 1))
    assert versions.export(ref, "planted, planted_after", latency=False).status is Status.VERIFIED
    assert stored_tags(versions, ref) == {"planted", "planted_after"}
    with load(ref.uri, "planted", registry=Registry(versions.uri)):
        pass


def test_a_store_that_stays_away_leaves_nothing_promised(versions, ref, monkeypatch):
    versions.export(ref, "planted", latency=False)
    monkeypatch.setattr(versions, "registry", Breaking(versions.uri, "exports/planted", 99))
    with pytest.raises(RegistryUnavailableError):
        versions.export(ref, "planted, planted_after", latency=False, force=True)
    tags = versions.tags(ref)
    assert stored_tags(versions, ref) == set()
    assert tags["status"] == "running"
    assert json.loads(versions.stored(ref, "exports/report.json"))["targets"] == []


def test_an_export_that_is_cancelled_leaves_what_it_had_not_replaced(versions, ref, monkeypatch):
    versions.export(ref, "planted, planted_after", latency=False)

    class Cancel(Watch):
        def step_started(self, step, variant):
            super().step_started(step, variant)
            if step == "reference":
                pool.cancel()

    with ChildPool(Limits(timeout_s=60)) as pool:
        monkeypatch.setattr(versions, "pool", pool)
        with pytest.raises(ExportCancelledError):
            versions.export(ref, "planted, planted_after", latency=False, force=True, reporter=Cancel())
    assert stored_tags(versions, ref) == {"planted", "planted_after"}
    with load(ref.uri, "planted", registry=versions.registry):
        pass


def test_what_steps_took_is_learnt_and_known_to_the_next_export(versions, ref, costs):
    versions.export(ref, "planted, planted_after", latency=False, costs=costs)
    learnt = costs.known()
    names = {work for work, _ in learnt}
    assert {
        "reference planted_source", "convert planted_numbers to planted", "verify planted",
        "convert planted_numbers_between to planted_after",
    } <= names  # fmt: skip
    assert len({number for _, number in learnt}) == 1
    assert all(cost.seconds > 0 and cost.peak_bytes > 10_000_000 for cost in learnt.values())
    versions.verify(ref)
    assert costs.known() == learnt, "nobody gave it the book"


def test_a_model_that_cannot_fit_the_machine_is_not_begun_and_says_so(versions, ref, monkeypatch):
    monkeypatch.setattr("registry_export.costs.Expectations.size_bytes", 10**15)
    with pytest.raises(StepTooLargeError, match=r"1000000\.0 GB .* larger machine"):
        versions.export(ref, "planted", latency=False)


def test_what_another_machine_learnt_refuses_nothing_here(versions, ref, costs):
    for number in range(64):
        costs.learn("convert planted_numbers to planted", number, 1.0, 10**15)
    report = versions.export(ref, "planted, planted_after", latency=False, costs=costs)
    assert {result.status for result in report.targets} == {Status.VERIFIED}
