"""A worker with the rights of docs/operations.md, and no others, does its work and gives no credentials away."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest

from registry_export.doctor import examine
from registry_export.entities import ModelVersionRef
from registry_export.ledger import JobState, Ledger
from registry_export.settings import Settings
from registry_export.worker import run_worker
from tests.support.planted_versions import PlantedVersions, planted_versions
from tests.support.recipes import Rights, blocks
from tests.support.server import MlflowServer

pytest.importorskip("flask_wtf", reason="basic-auth needs `pip install flask-wtf`")

ADMIN, WORKER, READER = "admin", "registry-export", "reader"
PASSWORDS = {ADMIN: "of-the-administrator", WORKER: "mlflow secret/7f3a", READER: "of-the-reader-7f3a"}
IN_DATABASE = "pg@secret:91ce"
SECRETS = {
    spelling
    for secret in (PASSWORDS[WORKER], IN_DATABASE)
    for spelling in (secret, quote(secret), quote(secret, safe=""))
}
RULES = """
rules:
  - models: "*"
    promotions: {{aliases: [champion]}}
    targets: [planted]
    tolerance: {{atol: {atol}, rtol: 1.0e-3}}
"""
AUTH = """
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = sqlite:///{folder}/auth.db
admin_username = admin
auth_cache_ttl_seconds = 3600
"""


@dataclass
class Place:
    """A server with basic-auth on PostgreSQL, its users, and the worker's role."""

    server: MlflowServer
    rights: Rights
    versions: PlantedVersions
    folder: Path
    seen: list[str] = field(default_factory=list)

    def environment(self, user: str = WORKER) -> dict[str, str]:
        return {
            "MLFLOW_TRACKING_URI": self.server.uri,
            "MLFLOW_TRACKING_USERNAME": user,
            "MLFLOW_TRACKING_PASSWORD": PASSWORDS[user],
            "REGISTRY_EXPORT_OUTBOX_URI": self.rights.worker,
            "REGISTRY_EXPORT_LEDGER_URI": self.rights.worker,
            "REGISTRY_EXPORT_CONFIG": str(self.folder / "rules.yaml"),
            "REGISTRY_EXPORT_LATENCY": "off",
        }

    def rules(self, atol: str = "1.0e-5") -> None:
        (self.folder / "rules.yaml").write_text(RULES.format(atol=atol))

    def promote(self, ref: ModelVersionRef) -> None:
        self.versions.client.set_registered_model_alias(ref.name, "champion", ref.version)

    def work(self, log: str, **environment: str) -> str:
        """Run a worker until nothing is left to do, look at its processes meanwhile, and return its log."""
        self.rules("1.0e-5" if log == "first.log" else "2.0e-5")
        settings = {name: value for name, value in {**os.environ, **self.environment(), **environment}.items() if value}
        path = self.folder / log
        command = [sys.executable, "-m", "registry_export.cli", "worker", "--once"]
        with path.open("wb") as stream:
            worker = subprocess.Popen(command, env=settings, stdout=stream, stderr=stream)
        try:
            deadline = time.monotonic() + 180
            while worker.poll() is None:
                assert time.monotonic() < deadline, path.read_text()
                self._look_at(worker.pid)
                time.sleep(0.1)
        finally:
            worker.kill()
            worker.wait()
        return path.read_text()

    def _look_at(self, pid: int) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            worker = psutil.Process(pid)
            self.seen.append(f"{worker.cmdline()}")
            for process in worker.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    self.seen.append(f"{process.cmdline()} {process.environ()}")


@pytest.fixture(scope="module")
def place(tmp_path_factory, postgres_uri):
    folder = tmp_path_factory.mktemp("rights")
    (folder / "auth.ini").write_text(AUTH.format(folder=folder))
    environ = {
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORDS[ADMIN],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "key",
    }
    with contextlib.ExitStack() as stack:
        rights = stack.enter_context(Rights(postgres_uri(), worker_password=IN_DATABASE))
        rights.prepare()
        basic_auth = ("--app-name", "basic-auth")
        server = MlflowServer(folder / "s", database_uri=rights.server, arguments=basic_auth, environ=environ)
        stack.enter_context(server)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in {
            "MLFLOW_TRACKING_URI": server.uri,
            "MLFLOW_TRACKING_USERNAME": ADMIN,
            "MLFLOW_TRACKING_PASSWORD": PASSWORDS[ADMIN],
            "WORKER_PASSWORD": PASSWORDS[WORKER],
        }.items():
            patch.setenv(name, value)
        made: dict[str, object] = {}
        exec(blocks("python")[0], made)
        patch.delenv("WORKER_PASSWORD")
        let_read(made["auth"])
        versions = stack.enter_context(planted_versions(server.uri, folder / "site"))
        yield Place(server, rights, versions, folder)


def let_read(auth):
    auth.create_user(READER, PASSWORDS[READER])
    role = auth.create_role("default", READER)
    for kind in ("experiment", "registered_model"):
        auth.add_role_permission(role.id, kind, "*", "READ")
    auth.assign_role(READER, role.id)


@pytest.fixture(scope="module")
def promoted(place):
    """A version that is promoted twice: with credentials in the environment, then with some in the server's address."""
    ref = place.versions.register("numbers")
    place.promote(ref)
    first = place.work("first.log")
    tags = place.versions.tags(ref)
    place.promote(ref)
    named = f"http://{WORKER}:{quote(PASSWORDS[WORKER], safe='')}@{place.server.uri.partition('://')[2]}"
    second = place.work(
        "second.log", MLFLOW_TRACKING_URI=named, MLFLOW_TRACKING_USERNAME="", MLFLOW_TRACKING_PASSWORD=""
    )
    return ref, first, tags, second


@pytest.fixture
def ledger(place):
    ledger = Ledger(place.rights.worker)
    yield ledger
    ledger.dispose()


def test_a_user_with_edit_and_a_role_that_owns_its_tables_alone_do_a_whole_promotion(place, promoted, ledger):
    ref, log, tags, _ = promoted
    first = min(ledger.list(ref=ref), key=lambda job: job.id)
    assert (first.state, first.status, first.trigger) == (JobState.DONE, "verified", "alias:champion"), log
    assert (tags["status"], tags["trigger"]) == ("verified", "alias:champion"), "found by comparing, not by the hook"
    assert tags["planted"].startswith("verified")
    assert b'"status":"verified"' in place.versions.stored(ref, "exports/report.json").replace(b" ", b"")


def test_an_export_is_replaced_where_neither_tags_nor_files_may_be_removed(place, promoted, ledger):
    ref, _, before, log = promoted
    latest = ledger.list(ref=ref)[0]
    assert (latest.state, latest.status, latest.attempt) == (JobState.DONE, "verified", 1), log
    after = place.versions.tags(ref)
    assert after["run_id"] != before["run_id"], "nothing was made anew, so that no tag had to be taken away"
    assert after["planted"].startswith("verified")
    assert "Traceback" not in log


def test_a_tag_that_may_not_be_removed_reads_as_none(place, promoted, monkeypatch):
    ref, registry = promoted[0], place.versions.registry
    registry.set_tags(ref, {"registry_export.error": "Down."})
    for name, value in place.environment().items():
        monkeypatch.setenv(name, value)
    registry.delete_tags(ref, ("registry_export.error",))
    assert "registry_export.error" not in registry.version(ref).tags
    assert "registry_export.error" in place.versions.client.get_model_version(ref.name, ref.version).tags


def test_a_user_who_may_only_read_is_told_so_in_one_sentence(place, promoted, ledger, monkeypatch, caplog):
    ref = place.versions.register("unwritable")
    place.promote(ref)
    place.rules()
    for name, value in place.environment(READER).items():
        monkeypatch.setenv(name, value)
    caplog.set_level(logging.INFO, "registry_export")
    run_worker(Settings.from_environment(), once=True)
    (job,) = ledger.list(ref=ref)
    assert (job.state, job.attempt) == (JobState.DEAD, 1), "trying again gives nobody a right"
    assert f"{place.server.uri} refused it" in job.error
    assert "Give the worker's user EDIT on the registered model" in job.error
    assert sum(record.levelno >= logging.ERROR for record in caplog.records) == 1, caplog.text
    assert "Traceback" not in caplog.text


def findings(place, monkeypatch, user, **environment):
    """What doctor finds, up to the rights."""
    place.rules()
    for name, value in (place.environment(user) | environment).items():
        monkeypatch.setenv(name, value)
    found = {}
    for finding in examine(Settings.from_environment()):
        found[finding.what] = finding
        if finding.what == "rights":
            return found
    raise AssertionError(f"nothing was said of rights: {found}")


def test_doctor_finds_the_rights_of_the_recipe_enough(place, promoted, monkeypatch):
    found = findings(place, monkeypatch, WORKER)
    assert {finding.state for finding in found.values()} <= {"ok", "note"}, found
    assert found["rights"].state == "ok"


def test_doctor_names_the_right_that_a_reader_lacks_and_writes_nothing(place, promoted, monkeypatch):
    ref = promoted[0]
    before = place.versions.client.get_model_version(ref.name, ref.version).tags
    rights = findings(place, monkeypatch, READER)["rights"]
    assert (rights.state, "EDIT on the registered model" in rights.remedy) == ("wrong", True)
    assert "refused it" in rights.said
    monkeypatch.undo()
    assert place.versions.client.get_model_version(ref.name, ref.version).tags == before


def test_doctor_names_the_right_that_the_role_lacks_on_the_outbox(place, promoted, monkeypatch):
    place.rights.run(place.rights.server, "REVOKE DELETE ON registry_export_outbox FROM registry_export")
    try:
        outbox = findings(place, monkeypatch, WORKER)["outbox"]
    finally:
        place.rights.run(place.rights.server, "GRANT DELETE ON registry_export_outbox TO registry_export")
    assert outbox.state == "wrong"
    assert "permission denied for table registry_export_outbox" in outbox.said
    assert "docs/operations.md" in outbox.remedy


# Credentials.


def assert_free_of_credentials(text, where):
    for secret in SECRETS:
        assert secret not in text, f"{where} holds a password: {text[max(0, text.find(secret) - 200) :][:300]}"


def test_no_process_has_a_password_in_its_arguments_and_no_child_in_its_environment(place, promoted):
    assert len(set(place.seen)) > 2, "nobody looked while children ran"
    for line in set(place.seen):
        assert_free_of_credentials(line, "the process list")


def test_no_log_line_holds_a_password(place, promoted):
    _, first, _, second = promoted
    assert place.server.uri.partition("://")[2] in second
    for log in (first, second):
        assert_free_of_credentials(log, "the log")


def test_nothing_that_is_published_holds_a_password(place, promoted, ledger):
    ref = promoted[0]
    stored = [path for path in (place.server.folder / "artifacts").rglob("*") if path.is_file()]
    assert {"report.html", "report.json", "report.md", "manifest.json"} <= {path.name for path in stored}
    for path in stored:
        assert_free_of_credentials(path.read_bytes().decode("latin-1"), path)
    version = place.versions.client.get_model_version(ref.name, ref.version)
    runs = [place.versions.client.get_run(job.run_id).to_dictionary() for job in ledger.list(ref=ref)]
    assert runs
    assert_free_of_credentials(f"{version.tags} {version.description} {runs} {ledger.list()}", "the registry")


def test_a_database_or_server_that_refuses_is_named_without_its_password(place, promoted):
    away = f"postgresql+psycopg2://registry_export:{quote(IN_DATABASE, safe='')}@127.0.0.1:1/away"
    said = place.work("third.log", REGISTRY_EXPORT_LEDGER_URI=away)
    assert "127.0.0.1:1" in said
    assert_free_of_credentials(said, "the log")
