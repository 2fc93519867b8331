"""`on_failure: revert` against a real server: what is put back, what is left, what a worker's own promotion starts."""

from __future__ import annotations

import logging
import tempfile
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from registry_export.entities import ExportReport, ModelVersionRef, Status
from registry_export.errors import RegistryUnavailableError, SourceError
from registry_export.ledger import JobState, Ledger, Reversions
from registry_export.registry import Registry
from registry_export.settings import Settings
from registry_export.worker import run_worker
from tests.support.outbox import empty_outbox_of
from tests.support.server import MlflowServer

pytestmark = pytest.mark.filterwarnings("ignore:.*transition_model_version_stage.*:FutureWarning")

RULES = """
rules:
  - models: "{name}*"
    promotions: {{stages: [Staging, Production], aliases: [champion]}}
    targets: [torchscript]
    on_failure: {on_failure}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with MlflowServer(tmp_path_factory.mktemp("reversion-server")) as server:
        yield server


@pytest.fixture
def client(server):
    return MlflowClient(server.uri)


@pytest.fixture
def name(client):
    name = f"revert-{uuid.uuid4().hex[:8]}"
    client.create_registered_model(name)
    return name


@pytest.fixture
def settings(server, tmp_path, name):
    config = tmp_path / "registry-export.yaml"
    config.write_text(RULES.format(name=name, on_failure="revert"))
    return Settings(server.uri, server.database_uri, f"sqlite:///{tmp_path / 'ledger.db'}", config)


@pytest.fixture(autouse=True)
def empty_outbox(server):
    """Leave no promotions of one test to the next one's worker."""
    yield
    empty_outbox_of(server.database_uri)


@pytest.fixture
def ledger(settings):
    ledger = Ledger(settings.ledger_uri)
    ledger.migrate()
    yield ledger
    ledger.dispose()


class Exporter:
    """Ends as it was told: with a status, or with an error; as the last one once there are no more."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.calls = []

    def __call__(self, ref, *, trigger, registry, **_rest):
        self.calls.append((ref.version, trigger))
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "manifest.json").write_text("{}")
            registry.upload(ref, Path(folder), "exports/torchscript")
        registry.set_tags(ref, {"registry_export.torchscript": outcome, "registry_export.status": outcome})
        return ExportReport(ref, trigger, None, (), outcome, run_id="run")


def version_of(client, name):
    run = client.create_run("0")
    return client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id).version


def tags_of(client, name, version="1"):
    tags = client.get_model_version(name, version).tags
    return {key.removeprefix("registry_export."): value for key, value in tags.items()}


def stage_of(client, name, version="1"):
    return client.get_model_version(name, version).current_stage


def champion_of(client, name):
    return client.get_registered_model(name).aliases.get("champion")


def work(settings, *outcomes):
    """Work until nothing is left to do, then once more; return what was exported."""
    exporter = Exporter(*outcomes)
    for _ in range(2):
        run_worker(settings, once=True, export=exporter)
    return exporter.calls


def make_due(ledger):
    with ledger.database.write() as connection:
        connection.exec_driver_sql("UPDATE registry_export_jobs SET available_at_ms = 0")
        connection.exec_driver_sql(
            "UPDATE registry_export_jobs SET reversion_due_at_ms = 1 WHERE reversion_due_at_ms IS NOT NULL"
        )


def announcements(ledger):
    with ledger.database.read() as connection:
        return connection.exec_driver_sql("SELECT * FROM registry_export_own_promotions").all()


@pytest.mark.parametrize("status", [Status.MISMATCH, Status.FAILED])
def test_the_stage_is_put_back(settings, client, name, ledger, status, caplog):
    caplog.set_level(logging.INFO, "registry_export")
    client.transition_model_version_stage(name, version_of(client, name), "Staging")
    assert work(settings, status) == [("1", "stage:Staging")]
    assert stage_of(client, name) == "None"
    tags = tags_of(client, name)
    assert (tags["status"], tags["torchscript"]) == (status, status), "the verdict stays"
    sentence = "The stage was put back from Staging to None."
    assert tags["error"] == f"The export ended with the status {status}. {sentence}"
    assert f"{name}/1: {sentence}" in caplog.text
    assert len(ledger.list()) == 1


def test_a_job_that_is_given_up_puts_its_stage_back_and_says_both(settings, client, name, ledger):
    client.transition_model_version_stage(name, version_of(client, name), "Staging")
    work(settings, SourceError("The checkpoint is corrupt."))
    assert stage_of(client, name) == "None"
    sentence = "The stage was put back from Staging to None."
    assert tags_of(client, name)["error"] == f"Load: The checkpoint is corrupt. {sentence}"
    assert ledger.list()[0].state is JobState.DEAD


def test_a_job_whose_worker_vanished_for_good_puts_its_stage_back(settings, client, name, ledger):
    client.transition_model_version_stage(name, version_of(client, name), "Staging")

    class Vanishing(Exporter):
        def __call__(self, ref, **rest):
            super().__call__(ref, **rest)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_worker(settings, once=True, export=Vanishing(Status.VERIFIED))
    with ledger.database.write() as connection:
        connection.exec_driver_sql("UPDATE registry_export_jobs SET vanished = 2, lease_expires_at_ms = 1")
    assert work(settings, Status.VERIFIED) == []
    assert stage_of(client, name) == "None"
    assert "put back" in tags_of(client, name)["error"]


def test_an_alias_is_moved_back_and_that_is_ignored_when_it_comes_in(settings, client, name, ledger):
    first, second = version_of(client, name), version_of(client, name)
    client.set_registered_model_alias(name, "champion", first)
    work(settings, Status.VERIFIED)
    client.set_registered_model_alias(name, "champion", second)
    assert work(settings, Status.MISMATCH) == [(second, "alias:champion")]
    assert champion_of(client, name) == first
    assert "The alias champion was put back to version 1." in tags_of(client, name, second)["error"]
    own, failed, _ = ledger.list()
    assert (own.model_version.version, own.state, own.puts_back) == (first, JobState.IGNORED, failed.id)
    assert tags_of(client, name, first)["status"] == "verified", "what the hook wrote is taken back"
    assert announcements(ledger) == []


def test_an_alias_that_was_new_is_removed(settings, client, name, ledger):
    client.set_registered_model_alias(name, "champion", version_of(client, name))
    assert work(settings, Status.FAILED) == [("1", "alias:champion")]
    assert champion_of(client, name) is None
    assert "The alias champion was removed" in tags_of(client, name)["error"]


@pytest.mark.parametrize("status", [Status.VERIFIED, Status.UNVERIFIED])
def test_nothing_is_put_back_when_nothing_failed(settings, client, name, status):
    version = version_of(client, name)
    client.transition_model_version_stage(name, version, "Staging")
    client.set_registered_model_alias(name, "champion", version)
    work(settings, status)
    assert (stage_of(client, name), champion_of(client, name)) == ("Staging", version)
    assert "error" not in tags_of(client, name)


def test_nothing_is_put_back_before_the_last_attempt_or_after_a_cancellation(settings, client, name, ledger):
    client.transition_model_version_stage(name, version_of(client, name), "Staging")
    work(settings, RegistryUnavailableError("Down."))
    assert stage_of(client, name) == "Staging"
    ledger.cancel(ledger.list()[0].id)
    work(settings, Status.FAILED)
    assert stage_of(client, name) == "Staging"


def test_a_rule_that_keeps_keeps(settings, client, name):
    settings.config_path.write_text(RULES.format(name=name, on_failure="keep"))
    client.transition_model_version_stage(name, version_of(client, name), "Staging")
    work(settings, Status.FAILED)
    assert stage_of(client, name) == "Staging"


def test_what_a_person_moved_on_meanwhile_is_left(settings, client, name, caplog):
    caplog.set_level(logging.INFO, "registry_export")
    first, second = version_of(client, name), version_of(client, name)
    client.transition_model_version_stage(name, first, "Staging")
    client.set_registered_model_alias(name, "champion", first)

    class Moving(Exporter):
        def __call__(self, ref, *, trigger, **rest):
            if trigger == "stage:Staging":
                client.transition_model_version_stage(name, first, "Archived")
            elif ref.version == first:
                client.set_registered_model_alias(name, "champion", second)
                self.outcomes = [Status.FAILED, Status.VERIFIED]
            return super().__call__(ref, trigger=trigger, **rest)

    run_worker(settings, once=True, export=Moving(Status.FAILED))
    assert (stage_of(client, name), champion_of(client, name)) == ("Archived", second)
    assert caplog.text.count("is not put back: it has been changed since.") == 2
    assert "put back" not in tags_of(client, name, first).get("error", "")


def test_the_same_promotion_asked_again_while_its_export_runs_is_the_newer_jobs_affair(settings, client, name, ledger):
    client.transition_model_version_stage(name, version_of(client, name), "Staging")

    class Again(Exporter):
        def __call__(self, ref, **rest):
            if not self.calls:
                client.transition_model_version_stage(name, "1", "Staging")
            return super().__call__(ref, **rest)

    exporter = Again(Status.FAILED, Status.VERIFIED)
    run_worker(settings, once=True, export=exporter)
    assert exporter.calls == [("1", "stage:Staging")] * 2
    assert stage_of(client, name) == "Staging"


def test_promotions_that_fail_one_after_the_other_go_back_to_the_last_good_one(settings, client, name, ledger):
    first, second, third = (version_of(client, name) for _ in range(3))
    client.set_registered_model_alias(name, "champion", first)
    work(settings, Status.VERIFIED)
    client.set_registered_model_alias(name, "champion", second)
    client.set_registered_model_alias(name, "champion", third)
    assert work(settings, Status.FAILED) == [(second, "alias:champion"), (third, "alias:champion")]
    assert champion_of(client, name) == first


def test_putting_stages_back_never_goes_round_in_circles(settings, client, name, ledger):
    version = version_of(client, name)
    client.transition_model_version_stage(name, version, "Staging")
    settings.config_path.write_text(RULES.format(name=name, on_failure="keep"))
    work(settings, Status.FAILED)
    rules = RULES.format(name=name, on_failure="keep").replace("[Staging, Production]", "[Staging]")
    settings.config_path.write_text(rules + RULES.format(name=name, on_failure="revert").removeprefix("\nrules:"))
    client.transition_model_version_stage(name, version, "Production")
    exporter = Exporter(Status.FAILED)
    for _ in range(5):
        run_worker(settings, once=True, export=exporter)
    assert exporter.calls == [("1", "stage:Production")]
    assert stage_of(client, name) == "Staging"
    assert [job.state for job in ledger.list()] == [JobState.IGNORED, JobState.DONE, JobState.DONE]
    assert tags_of(client, name)["status"] == "failed", "not queued for ever"


def test_a_promotion_that_the_reconciler_found_is_left_and_the_log_says_why(settings, client, name, caplog):
    caplog.set_level(logging.INFO, "registry_export")
    client.transition_model_version_stage(name, version_of(client, name), "Staging")
    assert work(replace(settings, outbox_uri=None), Status.FAILED) == [("1", "reconciled:stage:Staging")]
    assert stage_of(client, name) == "Staging"
    assert "what was there before is not known" in caplog.text


class Died(BaseException):
    pass


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_worker_that_dies_at_its_own_promotion_is_continued(settings, client, name, ledger, monkeypatch, moment):
    first, second = version_of(client, name), version_of(client, name)
    client.set_registered_model_alias(name, "champion", first)
    work(settings, Status.VERIFIED)
    client.set_registered_model_alias(name, "champion", second)
    set_alias = Registry.set_alias

    def die(self, ref, alias):
        if moment == "after":
            set_alias(self, ref, alias)
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Registry, "set_alias", die)
        with pytest.raises(Died):
            run_worker(settings, once=True, export=Exporter(Status.FAILED))
    assert champion_of(client, name) == (first if moment == "after" else second)
    assert len(announcements(ledger)) == 1
    assert work(settings, Status.FAILED) == [], "nothing to export, whatever comes back"
    make_due(ledger)
    assert work(settings, Status.FAILED) == []
    assert champion_of(client, name) == first
    assert "put back to version 1" in tags_of(client, name, second)["error"]
    assert tags_of(client, name, first)["status"] == "verified"
    own = ledger.list()[0]
    assert (own.state, own.model_version.version) == (JobState.IGNORED, first)
    assert announcements(ledger) == []


def test_a_registry_that_does_not_answer_is_asked_again(settings, client, name, ledger, monkeypatch):
    client.transition_model_version_stage(name, version_of(client, name), "Staging")

    def unavailable(*_arguments):
        raise RegistryUnavailableError("Down.")

    with monkeypatch.context() as patch:
        patch.setattr(Registry, "set_stage", unavailable)
        work(settings, Status.FAILED)
    assert stage_of(client, name) == "Staging"
    make_due(ledger)
    assert work(settings, Status.FAILED) == []
    assert stage_of(client, name) == "None"


def test_a_version_to_go_back_to_that_was_deleted_is_a_clear_sentence(settings, client, name, ledger):
    first, second = version_of(client, name), version_of(client, name)
    client.set_registered_model_alias(name, "champion", first)
    work(settings, Status.VERIFIED)
    client.set_registered_model_alias(name, "champion", second)
    client.delete_model_version(name, first)
    work(settings, Status.FAILED)
    assert champion_of(client, name) == second
    assert "could not be put back: Could not set the alias champion" in tags_of(client, name, second)["error"]
    assert announcements(ledger) == []


def test_a_person_who_asks_for_the_same_in_the_same_moment_is_served(settings, client, name, ledger, monkeypatch):
    first, second = version_of(client, name), version_of(client, name)
    client.set_registered_model_alias(name, "champion", first)
    work(settings, Status.VERIFIED)
    client.set_registered_model_alias(name, "champion", second)
    set_alias = Registry.set_alias

    def both(self, ref, alias):
        client.set_registered_model_alias(name, alias, ref.version)
        set_alias(self, ref, alias)

    monkeypatch.setattr(Registry, "set_alias", both)
    assert work(settings, Status.FAILED, Status.VERIFIED) == [(second, "alias:champion"), (first, "alias:champion")]
    assert champion_of(client, name) == first
    assert tags_of(client, name, first)["status"] == "verified"


def test_once_it_is_done_a_persons_promotion_is_exported_again(settings, client, name, ledger):
    first, second = version_of(client, name), version_of(client, name)
    client.set_registered_model_alias(name, "champion", first)
    work(settings, Status.VERIFIED)
    client.set_registered_model_alias(name, "champion", second)
    work(settings, Status.FAILED)
    client.set_registered_model_alias(name, "champion", first)
    assert work(settings, Status.VERIFIED) == [(first, "alias:champion")]
    assert Reversions(ledger.database).announced(ledger.list()[1]) is None
    assert ledger.list()[0].model_version == ModelVersionRef(name, first)


def test_an_alias_that_a_person_removed_meanwhile_stays_away(settings, client, name, ledger):
    first, second = version_of(client, name), version_of(client, name)
    client.set_registered_model_alias(name, "champion", first)
    work(settings, Status.VERIFIED)
    client.set_registered_model_alias(name, "champion", second)

    class Removing(Exporter):
        def __call__(self, ref, **rest):
            client.delete_registered_model_alias(name, "champion")
            return super().__call__(ref, **rest)

    run_worker(settings, once=True, export=Removing(Status.FAILED))
    assert champion_of(client, name) is None
    assert len(ledger.list()) == 2, "nothing came back"
