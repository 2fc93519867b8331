"""Gates in a real `mlflow server`: what is refused, what passes, and who may open them."""

from __future__ import annotations

import tempfile
import time
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException, RestException

from registry_export import gate_rules
from registry_export.entities import ExportReport, ModelVersionRef, Status, TargetResult
from registry_export.errors import RegistryError, RegistryUnavailableError
from registry_export.gate_tables import approvals, exists, vouchers
from registry_export.ledger import JobState, Ledger, Vouchers
from registry_export.outbox import outbox
from registry_export.registry import Registry
from registry_export.report import to_html, to_markdown
from registry_export.settings import Settings
from registry_export.worker import run_worker, success
from tests.support.outbox import empty_outbox_of
from tests.support.server import MlflowServer

pytestmark = pytest.mark.filterwarnings("ignore:.*transition_model_version_stage.*:FutureWarning")

RULES = """
rules:
  - models: "approved-*"
    promotions: {stages: [Staging, Production]}
    targets: [onnx, torchscript]
    require: {stages: [Production], targets: [onnx, torchscript], approvals: true}
    on_failure: revert
  - models: "named-*"
    targets: [onnx]
    require: {stages: [Production], targets: [onnx], approvals: [alice]}
  - models: "strict-*"
    targets: [onnx]
    require: {stages: [Production], targets: [onnx]}
    gate: strict
  - models: "prompt-*"
    targets: [onnx]
    require: {stages: [Production], aliases: [production], targets: [onnx]}
  - models: "second-*"
    promotions: {stages: [Staging], aliases: [champion]}
    targets: [onnx, torchscript, "torchscript:freeze=true:required=false"]
    on_success: {set_alias: "{alias}-verified"}
  - models: "second-*"
    promotions: {stages: [Production]}
    targets: [onnx]
    on_success: {set_alias: "{stage}-verified"}
  - models: "plain-*"
    targets: [onnx, torchscript]
    on_failure: revert
    require: {stages: [Production], aliases: ["prod*", Archived], targets: [onnx, torchscript]}
"""


def start(folder, stack_uri=None, **rest):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rules.yaml").write_text(RULES)
    environ = {"REGISTRY_EXPORT_CONFIG": str(folder / "rules.yaml"), **rest.pop("environ", {})}
    return MlflowServer(folder, database_uri=stack_uri, environ=environ, **rest)


@pytest.fixture(scope="module")
def sqlite_server(tmp_path_factory):
    with start(tmp_path_factory.mktemp("gates-sqlite")) as server:
        yield server


@pytest.fixture(scope="module")
def postgres_server(tmp_path_factory, postgres_uri):
    with start(tmp_path_factory.mktemp("gates-postgres"), postgres_uri()) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def server(request):
    return request.getfixturevalue(f"{request.param}_server")


@pytest.fixture
def client(server):
    return MlflowClient(server.uri, server.uri)


@pytest.fixture
def told(server):
    told = Vouchers(server.database_uri, Registry(server.uri).version)
    assert told.prepare() == ""
    yield told
    told.dispose()
    empty_outbox_of(server.database_uri)


def registered(client, prefix="plain"):
    """Register a model with one version."""
    name = f"{prefix}-{uuid.uuid4().hex[:8]}"
    client.create_registered_model(name)
    return version_of(client, name)


def version_of(client, name):
    run = client.create_run("0")
    version = client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id).version
    return ModelVersionRef(name, str(version))


def stage_of(client, ref):
    return client.get_model_version(ref.name, ref.version).current_stage


def to_production(client, ref, **rest):
    return client.transition_model_version_stage(ref.name, ref.version, "Production", **rest)


def refusal(act):
    with pytest.raises(RestException) as caught:
        act()
    assert caught.value.get_http_status_code() == 403
    return caught.value.message


def rows(server, table):
    engine = sqlalchemy.create_engine(server.database_uri)
    try:
        with engine.connect() as connection:
            return connection.execute(sqlalchemy.select(table)).all() if exists(connection, table) else []
    finally:
        engine.dispose()


def triggers_of(server, ref):
    return [row.trigger for row in rows(server, outbox) if row.model_name == ref.name]


DIGESTS = {"onnx": "a" * 64, "torchscript": "b" * 64}


def test_a_version_without_verified_exports_is_refused_in_a_sentence_and_nothing_is_changed(server, client, told):
    ref = registered(client)
    said = refusal(lambda: to_production(client, ref))
    assert f"{ref} was not promoted to Production: that requires verified exports (onnx, torchscript)" in said
    assert "it has no verified onnx and no verified torchscript" in said
    assert f"`registry-export export {ref.uri}`" in said
    assert stage_of(client, ref) == "None"
    assert triggers_of(server, ref) == []
    assert client.get_model_version(ref.name, ref.version).tags == {}


def test_the_others_are_not_archived_by_a_transition_that_is_refused_and_are_by_one_that_passes(server, client, told):
    first = registered(client)
    second = version_of(client, first.name)
    told.settle(first, DIGESTS)
    to_production(client, first)
    refusal(lambda: to_production(client, second, archive_existing_versions=True))
    assert (stage_of(client, first), stage_of(client, second)) == ("Production", "None")
    told.settle(second, DIGESTS)
    to_production(client, second, archive_existing_versions=True)
    assert (stage_of(client, first), stage_of(client, second)) == ("Archived", "Production")


def test_what_is_not_gated_passes_and_so_does_what_stays_where_it_is(server, client, told):
    ref = registered(client)
    client.transition_model_version_stage(ref.name, ref.version, "Staging")
    client.set_registered_model_alias(ref.name, "champion", ref.version)
    told.settle(ref, DIGESTS)
    to_production(client, ref)
    client.set_registered_model_alias(ref.name, "prod", ref.version)
    told.withdraw(ref, ["onnx"])
    to_production(client, ref)
    client.set_registered_model_alias(ref.name, "prod", ref.version)
    assert triggers_of(server, ref)[-2:] == ["stage:Production", "alias:prod"], "asked again, it is exported again"


def test_an_alias_is_gated_when_it_is_new_and_when_it_moves(server, client, told):
    first = registered(client)
    assert "was not promoted to the alias prod-eu" in refusal(
        lambda: client.set_registered_model_alias(first.name, "prod-eu", first.version)
    )
    told.settle(first, DIGESTS)
    client.set_registered_model_alias(first.name, "prod-eu", first.version)
    second = version_of(client, first.name)
    refusal(lambda: client.set_registered_model_alias(first.name, "prod-eu", second.version))
    assert client.get_registered_model(first.name).aliases == {"prod-eu": first.version}


def test_tags_open_no_gate(server, client, told):
    ref = registered(client)
    for name in ("onnx", "torchscript", "status"):
        client.set_model_version_tag(ref.name, ref.version, f"registry_export.{name}", "verified")
    refusal(lambda: to_production(client, ref))


def test_an_export_that_is_replaced_or_no_longer_verified_closes_the_gate_again(server, client, told):
    ref = registered(client)
    told.settle(ref, DIGESTS)
    told.withdraw(ref, ["torchscript"])
    assert "no verified torchscript." in refusal(lambda: to_production(client, ref))
    told.settle(ref, {"torchscript": "c" * 64}, others=["onnx"])
    assert "no verified onnx." in refusal(lambda: to_production(client, ref))
    told.settle(ref, DIGESTS)
    to_production(client, ref)


def test_versions_that_share_a_folder_lose_a_replaced_export_together_and_get_it_back(server, client, told):
    first = registered(client)
    known = client.get_model_version(first.name, first.version)
    second = ModelVersionRef(
        first.name, str(client.create_model_version(first.name, known.source, known.run_id).version)
    )
    told.settle(first, DIGESTS)
    told.settle(second, {"onnx": "a" * 64})
    told.withdraw(second, ["onnx"])
    assert "no verified onnx." in refusal(lambda: to_production(client, first))
    told.withdraw(second, ["onnx"])
    told.settle(second, {"onnx": "c" * 64})
    to_production(client, first)
    told.settle(second, {}, others=["onnx"])
    told.settle(second, {"onnx": "d" * 64})
    assert [row.version for row in rows(server, vouchers) if row.model_name == first.name and row.name == "onnx"] == [
        second.version
    ], "what was found wanting is vouched for again by its own export alone"


def test_the_exports_of_a_deleted_model_open_no_gate_for_its_namesake(server, client, told):
    ref = registered(client)
    told.settle(ref, DIGESTS)
    client.delete_registered_model(ref.name)
    time.sleep(0.01)
    client.create_registered_model(ref.name)
    again = version_of(client, ref.name)
    assert again == ref
    refusal(lambda: to_production(client, again))


def test_a_promotion_of_the_workers_own_passes_once_and_no_other(server, client, told):
    ref = registered(client)
    with told.own_promotion(ref, "stage:Production"):
        refusal(lambda: client.set_registered_model_alias(ref.name, "prod", ref.version))
        to_production(client, ref)
    client.transition_model_version_stage(ref.name, ref.version, "Archived")
    refusal(lambda: to_production(client, ref))


def test_the_word_of_a_worker_that_died_lapses(server, client, told):
    ref = registered(client)
    with told.own_promotion(ref, "stage:Production"):
        engine = sqlalchemy.create_engine(server.database_uri)
        with engine.begin() as connection:
            aged = vouchers.update().where(vouchers.c.model_name == ref.name)
            connection.execute(aged.values(created_at_ms=vouchers.c.created_at_ms - 600_001))
        engine.dispose()
        refusal(lambda: to_production(client, ref))


def test_prompts_pass(server, client, told):
    name = f"prompt-{uuid.uuid4().hex[:8]}"
    client.register_prompt(name, "Say {{word}}.")
    client.set_prompt_alias(name, "production", 1)


def test_a_model_that_is_tagged_as_a_prompt_does_not(server, client, told):
    ref = registered(client, "prompt")
    client.set_model_version_tag(ref.name, ref.version, "mlflow.prompt.is_prompt", "true")
    refusal(lambda: to_production(client, ref))
    refusal(lambda: client.set_registered_model_alias(ref.name, "production", ref.version))


def test_a_client_on_the_database_itself_is_refused_where_it_reads_the_rules(server, client, told, monkeypatch):
    ref = registered(client)
    monkeypatch.setenv("REGISTRY_EXPORT_CONFIG", str(server.folder / "rules.yaml"))
    gate_rules.places.cache_clear()
    try:
        direct = MlflowClient(server.database_uri, server.database_uri)
        with pytest.raises(MlflowException, match="requires verified exports"):
            to_production(direct, ref)
    finally:
        gate_rules.places.cache_clear()
    assert stage_of(client, ref) == "None"


def test_rules_are_read_anew_when_they_change_and_a_mistake_leaves_those_that_stood(server, client, told):
    ref = registered(client)
    path = server.folder / "rules.yaml"
    try:
        path.write_text(RULES + "  - models: [\n")
        refusal(lambda: to_production(client, ref))
        assert "Gates go on with what the file of rules said before" in server.log
        path.write_text('rules: [{models: "*", targets: [onnx]}]')
        to_production(client, ref)
    finally:
        path.write_text(RULES)


# What cannot be found out.


def test_a_database_that_no_worker_has_told_of_any_export_holds_no_verified_one(server, client, told):
    engine = sqlalchemy.create_engine(server.database_uri)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {vouchers.name} RENAME TO elsewhere")
    try:
        ref = registered(client)
        assert "No worker has told this database" in refusal(lambda: to_production(client, ref))
        assert stage_of(client, ref) == "None"
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"ALTER TABLE elsewhere RENAME TO {vouchers.name}")
        engine.dispose()


@pytest.fixture
def broken(server, told):
    """The table as no hook knows it."""
    engine = sqlalchemy.create_engine(server.database_uri)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {vouchers.name} RENAME COLUMN kind TO sort")
    yield
    with engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {vouchers.name} RENAME COLUMN sort TO kind")
    engine.dispose()


def test_a_gate_that_cannot_look_blocks_nobody(server, client, broken):
    ref = registered(client)
    to_production(client, ref)
    assert stage_of(client, ref) == "Production"
    assert triggers_of(server, ref) == ["stage:Production"], "and is queued as ever"
    assert f"could not look up {ref}" in server.log


def test_a_strict_gate_that_cannot_look_refuses_and_says_why(server, client, broken):
    ref = registered(client, "strict")
    said = refusal(lambda: to_production(client, ref))
    assert "could not be looked up" in said
    assert "`gate: strict`" in said
    assert stage_of(client, ref) == "None"


# Approvals.


def approve(client, ref, text="the pilot needs it"):
    client.set_model_version_tag(ref.name, ref.version, "registry_export.approve", text)


def test_an_approval_opens_the_gate_and_is_kept_with_who_and_when(server, client, told):
    ref = registered(client, "approved")
    told.settle(ref, {"onnx": "a" * 64})
    said = refusal(lambda: to_production(client, ref))
    assert "Whoever may approve it as it is sets the tag `registry_export.approve` on it." in said
    approve(client, ref, " ")
    refusal(lambda: to_production(client, ref))
    approve(client, ref)
    to_production(client, ref)
    (row,) = [row for row in rows(server, approvals) if row.model_name == ref.name]
    assert (row.approved_by, row.reason, row.withdrawn_at_ms) == ("", "the pilot needs it", None)
    assert abs(row.created_at_ms / 1000 - time.time()) < 60
    with_details = [row.details for row in rows(server, outbox) if row.model_name == ref.name]
    assert '"lacking": ["torchscript"]' in with_details[0]


def test_an_approval_that_is_taken_back_opens_nothing(server, client, told):
    ref = registered(client, "approved")
    approve(client, ref)
    client.delete_model_version_tag(ref.name, ref.version, "registry_export.approve")
    refusal(lambda: to_production(client, ref))
    approve(client, ref)
    client.set_model_version_tag(ref.name, ref.version, "registry_export.approve", "")
    refusal(lambda: to_production(client, ref))
    mine = [row for row in rows(server, approvals) if row.model_name == ref.name]
    assert [row.withdrawn_at_ms is not None for row in mine] == [True, True], "the history stays"


def test_an_approval_counts_only_where_the_rule_says_so(server, client, told):
    plain, named = registered(client), registered(client, "named")
    for ref in (plain, named):
        approve(client, ref)
        refusal(lambda ref=ref: to_production(client, ref))


def test_a_name_that_nobody_has_checked_is_nobodys(server, client, told, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "alice")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "anything")
    ref = registered(client, "named")
    approve(client, ref)
    refusal(lambda: to_production(client, ref))


def test_a_copy_brings_the_tag_and_not_the_approval(server, client, told):
    ref = registered(client, "approved")
    approve(client, ref)
    copy = client.copy_model_version(ref.uri, f"{ref.name}-copy")
    copied = ModelVersionRef(copy.name, str(copy.version))
    assert "registry_export.approve" in copy.tags
    refusal(lambda: to_production(client, copied))


@pytest.fixture(scope="module")
def guarded_server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gates-auth")
    environ = {"MLFLOW_FLASK_SERVER_SECRET_KEY": "any", "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini")}
    folder.joinpath("auth.ini").write_text(
        f"[mlflow]\ndefault_permission = MANAGE\ndatabase_uri = sqlite:///{folder / 'auth.db'}\n"
        "admin_username = admin\nadmin_password = a-long-password-of-the-admin\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    with start(folder, arguments=["--app-name", "basic-auth"], environ=environ) as server:
        yield server


@pytest.mark.slow
def test_only_the_users_whom_the_rule_names_approve(guarded_server, monkeypatch):
    from mlflow.server.auth.client import AuthServiceClient

    def act_as(user, password):
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)

    act_as("admin", "a-long-password-of-the-admin")
    for user in ("alice", "bob"):
        AuthServiceClient(guarded_server.uri).create_user(user, "password5678")
    client = MlflowClient(guarded_server.uri, guarded_server.uri)
    ref = registered(client, "named")
    told = Vouchers(guarded_server.database_uri, Registry(guarded_server.uri).version)
    assert told.prepare() == ""
    told.dispose()
    act_as("bob", "password5678")
    approve(client, ref, "bob would like it")
    refusal(lambda: to_production(client, ref))
    act_as("alice", "password5678")
    approve(client, ref, "alice would")
    act_as("bob", "password5678")
    to_production(client, ref)
    kept = [(row.approved_by, row.reason) for row in rows(guarded_server, approvals)]
    assert kept == [("bob", "bob would like it"), ("alice", "alice would")]


# The worker.


class Exporter:
    """Publishes verdicts as they were told, by variant, and lets gates know as an export does."""

    def __init__(self, **verdicts):
        self.verdicts = verdicts
        self.approvals = []
        self.reports = {}

    def __call__(self, ref, *, trigger, registry, index, approval, **_rest):
        from registry_export.vouching import forget, remember

        self.approvals.append(approval)
        results = tuple(
            TargetResult(variant, variant.partition("-")[0], {}, status) for variant, status in self.verdicts.items()
        )
        forget(index, ref, self.verdicts)
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "manifest.json").write_text("{}")
            for variant in self.verdicts:
                registry.upload(ref, Path(folder), f"exports/{variant}")
        status = max(self.verdicts.values(), key=list(Status).index)
        registry.set_tags(ref, {f"registry_export.{variant}": line for variant, line in self.verdicts.items()})
        registry.set_tags(ref, {"registry_export.status": status})
        report = ExportReport(ref, trigger, None, results, status, run_id="run", approval=approval)
        remember(index, report, (), dict.fromkeys(self.verdicts, "a" * 64))
        self.reports[ref] = report
        return report


@pytest.fixture
def settings(server, told, tmp_path):
    return Settings(
        server.uri, server.database_uri, f"sqlite:///{tmp_path / 'ledger.db'}", server.folder / "rules.yaml"
    )


def work(settings, **verdicts):
    exporter = Exporter(**verdicts)
    run_worker(settings, once=True, export=exporter)
    return exporter


BOTH = {"onnx": Status.VERIFIED, "torchscript": Status.VERIFIED}


def test_what_a_worker_verifies_opens_the_gate_and_what_it_finds_wrong_closes_it(settings, client):
    ref = registered(client)
    client.transition_model_version_stage(ref.name, ref.version, "Staging")
    work(settings, onnx=Status.VERIFIED, torchscript=Status.UNVERIFIED)
    assert "no verified torchscript." in refusal(lambda: to_production(client, ref))
    client.transition_model_version_stage(ref.name, ref.version, "Staging")
    work(settings, **BOTH)
    to_production(client, ref)
    work(settings, onnx=Status.MISMATCH, torchscript=Status.VERIFIED)
    assert stage_of(client, ref) == "Staging", "`on_failure: revert` has put it back"
    assert "no verified onnx." in refusal(lambda: to_production(client, ref))


@pytest.mark.parametrize("alias", ["prod", "Archived"])
def test_what_a_worker_puts_back_is_not_gated(settings, client, server, alias):
    first = registered(client)
    second = version_of(client, first.name)
    path = server.folder / "rules.yaml"
    path.write_text('rules: [{models: "*", targets: [onnx]}]')
    try:
        client.set_registered_model_alias(first.name, alias, first.version)  # from before there were gates
    finally:
        path.write_text(RULES)
    work(settings, **BOTH)
    client.set_registered_model_alias(first.name, "champion", second.version)
    work(settings, **BOTH)
    client.set_registered_model_alias(first.name, alias, second.version)
    told = Vouchers(server.database_uri, Registry(server.uri).version)
    told.withdraw(first, list(BOTH))
    told.dispose()
    work(settings, onnx=Status.MISMATCH, torchscript=Status.VERIFIED)
    assert client.get_registered_model(first.name).aliases[alias] == first.version
    assert [row for row in rows(server, vouchers) if row.kind == "promotion"] == []


def test_an_approval_is_told_in_the_job_and_the_report_and_its_promotion_stands(settings, client):
    ref = registered(client, "approved")
    approve(client, ref)
    to_production(client, ref)
    exporter = work(settings, onnx=Status.VERIFIED, torchscript=Status.MISMATCH)
    ledger = Ledger(settings.ledger_uri)
    job = next(job for job in ledger.list() if job.model_version == ref)
    ledger.dispose()
    assert job.approval is not None
    assert exporter.approvals.count(job.approval) == 1
    assert (job.approval.promotion, job.approval.lacking) == ("stage:Production", ("onnx", "torchscript"))
    sentence = "Let through to Production without a verified onnx and a verified torchscript: approved "
    for page in (to_html(exporter.reports[ref]), to_markdown(exporter.reports[ref])):
        assert sentence in page
        assert "by unknown (MLflow did not say who): the pilot needs it" in page
    assert stage_of(client, ref) == "Production", "what was approved is not put back"


def test_a_worker_without_the_outbox_says_that_gates_hear_nothing(settings, caplog):
    work(replace(settings, outbox_uri=None), **BOTH)
    assert "gates will not hear of what is verified here. REGISTRY_EXPORT_OUTBOX_URI is not set." in caplog.text


# `on_success`.


def aliases_of(client, ref):
    return client.get_registered_model(ref.name).aliases


def test_the_second_alias_moves_when_all_that_is_demanded_is_verified(settings, client):
    ref = registered(client, "second")
    client.set_registered_model_alias(ref.name, "champion", ref.version)
    work(settings, onnx=Status.VERIFIED, torchscript=Status.UNVERIFIED)
    assert aliases_of(client, ref) == {"champion": "1"}
    client.set_registered_model_alias(ref.name, "champion", ref.version)
    exporter = work(settings, **BOTH, **{"torchscript-frozen": Status.MISMATCH})
    assert aliases_of(client, ref) == {"champion": "1", "champion-verified": "1"}, "what is not required is not asked"
    assert len(exporter.approvals) == 1
    assert work(settings, **BOTH).approvals == [], "it starts nothing"


def test_the_second_alias_stays_with_the_last_good_version(settings, client):
    first = registered(client, "second")
    client.set_registered_model_alias(first.name, "champion", first.version)
    work(settings, **BOTH)
    second = version_of(client, first.name)
    client.set_registered_model_alias(first.name, "champion", second.version)
    work(settings, onnx=Status.MISMATCH, torchscript=Status.VERIFIED)
    assert aliases_of(client, first) == {"champion": "2", "champion-verified": "1"}


def test_an_alias_that_was_moved_meanwhile_moves_no_other(settings, client):
    ref = registered(client, "second")
    client.set_registered_model_alias(ref.name, "champion", ref.version)

    class Moving(Exporter):
        def __call__(self, exported, **rest):
            client.delete_registered_model_alias(ref.name, "champion")
            return super().__call__(exported, **rest)

    run_worker(settings, once=True, export=Moving(**BOTH))
    assert aliases_of(client, ref) == {}


def test_a_second_alias_that_cannot_be_set_is_told_and_fails_no_export(settings, client, monkeypatch, caplog):
    refs = [registered(client, "second") for _ in range(3)]
    for ref in refs:
        client.set_registered_model_alias(ref.name, "champion", ref.version)
    errors = iter([RegistryError("Refused."), RegistryUnavailableError("Still down."), TypeError("A mistake.")])

    def fail(_info):
        raise next(errors)

    monkeypatch.setattr(success, "promotions_of", fail)
    monkeypatch.setattr(Ledger, "is_last_attempt", lambda *_: True)
    work(settings, **BOTH)
    ledger = Ledger(settings.ledger_uri)
    jobs = {job.model_version: job for job in ledger.list()}
    ledger.dispose()
    for ref, why in zip(refs, ("Refused.", "Still down.", "TypeError: A mistake."), strict=True):
        assert (jobs[ref].state, jobs[ref].status) == (JobState.DONE, Status.VERIFIED)
        assert jobs[ref].error == f"No alias of `on_success` was moved. {why}"
        assert f"{ref}: No alias of `on_success` was moved. {why}" in caplog.text
        tags = client.get_model_version(ref.name, ref.version).tags
        assert (tags["registry_export.status"], tags.get("registry_export.error")) == ("verified", None)


def test_a_stage_names_its_alias_in_small_letters(settings, client):
    ref = registered(client, "second")
    to_production(client, ref)
    work(settings, onnx=Status.VERIFIED)
    assert aliases_of(client, ref) == {"production-verified": "1"}
