"""Workers that verify stored exports again while nobody waits: for a runtime that is here, and by schedule."""

from __future__ import annotations

from dataclasses import replace

import pytest

from registry_export.ledger import Ledger
from registry_export.page import read_report
from registry_export.settings import Settings
from registry_export.worker import run_worker
from tests.support import planted
from tests.support.outbox import empty_outbox_of
from tests.support.planted_versions import planted_versions
from tests.support.server import MlflowServer

RULES = """
rules:
  - models: "{name}"
    promotions: {{aliases: [champion]}}
    targets: [planted, planted: {{fault: {fault}, required: false}}]
"""


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    with (
        MlflowServer(tmp_path_factory.mktemp("rounds-server")) as server,
        planted_versions(server.uri, tmp_path_factory.mktemp("rounds-site")) as versions,
    ):
        versions.server = server
        yield versions


@pytest.fixture
def fleet(versions, tmp_path):
    """Workers that share a ledger; each promotion of a test is of its own model."""
    with_hook = Settings(
        versions.uri, versions.server.database_uri, f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path / "rules.yaml"
    )
    fleet = Fleet(versions, with_hook)
    yield fleet
    fleet.ledger.dispose()
    planted.switch("accelerator", on=False)
    empty_outbox_of(versions.server.database_uri)


class Fleet:
    def __init__(self, versions, settings):
        self.versions, self.settings = versions, settings
        self.ledger = Ledger(settings.ledger_uri)
        self.ledger.migrate()

    def promote(self, name, fault):
        self.settings.config_path.write_text(RULES.format(name=name, fault=fault))
        ref = self.versions.register(name)
        self.versions.client.set_registered_model_alias(name, "champion", ref.version)
        return ref

    def work(self, settings=None, **rest):
        """Let a worker do all there is to do; returns the triggers of the jobs so far, oldest first."""
        run_worker(settings or self.settings, once=True, **rest)
        return [job.trigger for job in reversed(self.ledger.list())]


def test_a_worker_that_has_the_runtime_finishes_what_another_could_not_verify_and_converts_nothing(fleet):
    ref = fleet.promote("finished", "elsewhere")
    assert fleet.work() == ["alias:champion"]
    assert fleet.versions.tags(ref)["planted-elsewhere"].startswith("unverified · ")
    before = read_report(fleet.versions.registry, ref)
    assert fleet.work() == ["alias:champion"], "it cannot run here yet"
    planted.switch("accelerator")
    assert fleet.work() == ["alias:champion", "verify:runtime"]
    assert fleet.versions.tags(ref)["planted-elsewhere"].startswith("verified · ")
    after = {result.variant: result for result in read_report(fleet.versions.registry, ref).targets}
    assert [r.exported_at for r in before.targets] == [r.exported_at for r in after.values()]
    assert after["planted"] == before.targets[0], "only what could not run is verified"
    assert fleet.ledger.list()[0].targets == "planted-elsewhere"
    assert len(fleet.work()) == 2, "once it is done it is done"


def test_a_worker_without_the_hook_finds_it_too(fleet):
    fleet.promote("over-http", "elsewhere")
    over_http = replace(fleet.settings, outbox_uri=None)
    assert fleet.work(over_http) == ["reconciled:alias:champion"]
    planted.switch("accelerator")
    assert fleet.work(over_http) == ["reconciled:alias:champion", "verify:runtime"]


def test_a_format_that_promises_too_much_is_asked_once_and_not_for_ever(fleet):
    ref = fleet.promote("promising", "absent")
    assert fleet.work() == ["alias:champion", "verify:runtime"]
    assert fleet.versions.tags(ref)["planted-absent"].startswith("unverified")


def test_the_schedule_verifies_everything_promoted_and_remembers_it_over_restarts(fleet):
    ref = fleet.promote("scheduled", "drifts")
    fleet.work()
    assert fleet.work(reverify_s=3600) == ["alias:champion"], "it was verified when it was exported"
    assert fleet.work(reverify_s=0.001)[:2] == ["alias:champion", "verify:schedule"]
    count = len(fleet.ledger.list())
    assert len(fleet.work(reverify_s=3600)) == count, "a new worker knows that it was done"
    assert read_report(fleet.versions.registry, ref).targets[0].verification.verified_at


def test_an_old_promotion_of_a_version_without_exports_is_no_job_for_the_schedule(fleet, monkeypatch):
    fleet.promote("nothing-there", "drifts")
    fleet.work()
    ref = fleet.ledger.list()[0].model_version
    for name in ("planted", "planted-drifts"):
        fleet.versions.registry.delete_tags(ref, (f"registry_export.{name}",))
    monkeypatch.setattr("registry_export.reconcile.Reconciler.sweep", lambda *_, **__: 0)
    assert fleet.work(reverify_s=0.001) == ["alias:champion"]


def test_without_the_option_nothing_is_verified_again(fleet):
    fleet.promote("unscheduled", "drifts")
    fleet.work()
    assert fleet.work() == ["alias:champion"]


def test_a_verification_that_cannot_be_done_leaves_the_page_and_is_told_in_the_ledger(fleet):
    ref = fleet.promote("broken-source", "drifts")
    fleet.work()
    before = fleet.versions.tags(ref)
    fleet.versions.store(ref, "planted.npz", b"noise")
    fleet.work(reverify_s=0.001)
    job = fleet.ledger.list()[0]
    assert (job.trigger, job.state) == ("verify:schedule", "dead")
    assert job.error
    assert fleet.versions.tags(ref) == before


def test_a_version_is_compared_with_the_one_that_was_exported_before_for_the_same_alias(fleet):
    fleet.promote("compared", "drifts")
    fleet.work()
    assert read_report(fleet.versions.registry, fleet.ledger.list()[0].model_version).compared_with is None
    ref = fleet.versions.register("compared", scale=3.0)
    fleet.versions.client.set_registered_model_alias("compared", "champion", ref.version)
    fleet.work()
    report = read_report(fleet.versions.registry, ref)
    assert report.compared_with.model_version.version == "1"
    assert report.compared_with.trigger == "alias:champion"
    assert {export.variant for export in report.compared_with.targets} == {"planted", "planted-drifts"}
    assert all(export.size_bytes for export in report.compared_with.targets)
    assert "than version 1" in fleet.versions.stored(ref, "exports/report.html").decode()
    fleet.versions.verify(ref)
    assert read_report(fleet.versions.registry, ref).compared_with == report.compared_with


def test_the_same_checkpoint_under_a_new_number_is_not_compared_with_itself(fleet):
    fleet.promote("twice", "drifts")
    fleet.work()
    ref = fleet.promote("twice", "drifts")
    fleet.work()
    assert read_report(fleet.versions.registry, ref).compared_with is None
