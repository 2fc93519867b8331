"""Nothing is made twice: what is taken over from other versions, what is kept, and what is made anew all the same."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from typing import ClassVar

import mlflow
import numpy as np
import pytest
import requests

from registry_export.entities import ModelVersionRef, Status, Tolerance
from registry_export.errors import RegistryUnavailableError
from registry_export.exports import load
from registry_export.ledger import KnownExports, Vouchers
from registry_export.ledger.tables import known_exports
from registry_export.model_setup import ModelSetup
from registry_export.page import read_report
from tests.support import planted
from tests.support.planted_versions import count

_MOST_CALLS = 25
"""It is 23 with two variants; each further one costs the listing of its folder."""


@pytest.fixture(scope="module")
def server(mlflow_server):
    """The one that the modules share."""
    return mlflow_server


@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_waits_for_a_runtime_is_not_made_again(versions, name, index, elsewhere):
    ref = versions.register(name)
    target = "planted:fault=absent"
    assert versions.export(ref, target, index=index).status is Status.UNVERIFIED
    report, conversions, _ = count(versions, versions.register(name) if elsewhere else ref, target, index=index)
    assert (conversions, report.status) == (0, Status.UNVERIFIED)
    assert report.targets[0].reused


def test_what_the_ledger_does_not_vouch_for_is_kept_and_not_taken_over(versions, name, index):
    first, second = versions.register(name), versions.register(name)
    versions.export(first, "planted")
    assert count(versions, first, "planted", index=index)[1] == 0
    report, conversions, _ = count(versions, second, "planted", index=index)
    assert conversions == 1
    assert not report.targets[0].reused


def test_a_store_of_another_version_that_does_not_answer_stops_no_export(versions, name, index, monkeypatch):
    first, second = versions.register(name), versions.register(name)
    versions.export(first, "planted", index=index)

    fetch = versions.registry.download_artifact

    def unless_it_is_the_first(ref, path, destination):
        if ref == first:
            raise RegistryUnavailableError("The bucket does not answer.")
        return fetch(ref, path, destination)

    monkeypatch.setattr(versions.registry, "download_artifact", unless_it_is_the_first)
    report, conversions, _ = count(versions, second, "planted", index=index)
    assert (conversions, report.status) == (1, Status.VERIFIED)


def test_another_version_with_the_same_bytes_converts_and_runs_nothing(versions, name, index):
    first, second = versions.register(name), versions.register(name)
    before = versions.export(first, "planted, planted_next", index=index)
    report, conversions, steps = count(versions, second, "planted, planted_next", index=index)
    assert (conversions, report.status) == (0, Status.VERIFIED)
    assert "reference" not in steps.names
    for result, made in zip(report.targets, before.targets, strict=True):
        assert (result.reused, result.taken_from) == (True, first)
        assert result == replace(made, reused=True, taken_from=first)
    assert replace(report.source, sha256=before.source.sha256, size_bytes=before.source.size_bytes) == before.source
    assert read_report(versions.registry, second) == report
    tags = versions.tags(second)
    assert tags["status"] == "verified"
    assert tags["planted"] == versions.tags(first)["planted"]
    assert mlflow.MlflowClient(versions.uri).get_run(report.run_id).data.metrics["planted/cosine"] == 1


def test_what_is_taken_over_speaks_of_its_new_version_and_can_be_used_there(versions, name, index):
    first, second = versions.register(name), versions.register(name)
    versions.export(first, index=index)
    versions.export(second, index=index)
    manifest = json.loads(versions.stored(second, "exports/planted/manifest.json"))
    assert manifest["model_version"] == {"name": name, "version": "2"}
    assert manifest["taken_from"] == {"name": name, "version": "1"}
    assert f"models:/{name}/2" in manifest["command"]
    assert f"models:/{name}/2" in versions.stored(second, "exports/planted/MLmodel").decode()
    assert f"models:/{name}/1" not in versions.stored(second, "exports/planted/MLmodel").decode()
    with load(second.uri, "planted", registry=versions.registry, formats=versions.formats) as model:
        x = np.ones((2, 3), np.float32)
        np.testing.assert_array_equal(model.infer({"x": x})["y"], 2 * x + np.float32(0.5))


def test_another_model_takes_over_and_a_third_names_the_version_that_it_was_made_for(versions, name, index):
    first, second, third = (versions.register(f"{name}-{letter}") for letter in "abc")
    versions.export(first, index=index)
    for ref in (second, third):
        report, conversions, _ = count(versions, ref, index=index)
        assert conversions == 0
        assert report.targets[0].taken_from == first
    back, conversions, _ = count(versions, first, index=index)
    assert (conversions, back.targets[0].taken_from) == (0, None)


def test_other_bytes_other_terms_and_force_are_made_anew(versions, name, index, tmp_path):
    samples = tmp_path / "samples.npz"
    np.savez(samples, x=np.ones((2, 3), np.float32))
    versions.export(versions.register(name), index=index)
    other = versions.register(name, scale=3.0)
    assert count(versions, other, index=index)[1] == 1
    same = versions.register(name)
    for terms in (
        {"targets": "planted:fault=static"},
        {"tolerance": Tolerance(1.0, 1.0)},
        {"samples": str(samples)},
        {"setup": ModelSetup(allow_pickle=False)},
        {"index": None},
        {"force": True},
    ):
        assert count(versions, same, **({"index": index} | terms))[1] == 1, terms
    assert count(versions, same, index=index)[1] == 0, "all of it is kept beside each other"


@pytest.mark.parametrize("file", ["model.planted", "manifest.json"])
def test_a_changed_byte_is_never_taken_over(versions, name, index, file):
    first, second = versions.register(name), versions.register(name)
    versions.export(first, index=index)
    whole = versions.stored(first, f"exports/planted/{file}")
    changed = whole.replace(b'"verified"', b'"verifieD"') if file == "manifest.json" else whole[:-1] + b"!"
    assert len(changed) == len(whole)
    assert changed != whole
    versions.store(first, f"exports/planted/{file}", changed)
    report, conversions, steps = count(versions, second, index=index)
    assert (conversions, report.status) == (1, Status.VERIFIED)
    assert report.targets[0].taken_from is None
    assert any(f"planted of {first} is not used again" in note for note in steps.notes), steps.notes
    (known,) = index.find([report.targets[0].key])[report.targets[0].key]
    assert known.model_version == second, "the doubtful one is forgotten"


def test_a_manifest_that_fits_forged_files_is_not_believed(versions, name, index):
    """Whoever may write into the store may write a manifest as well; the ledger has the digest of ours."""
    first, forged, second = versions.register(name), versions.register(f"{name}-forged", scale=7.0), None
    versions.export(first, index=index)
    versions.export(forged)
    own = json.loads(versions.stored(first, "exports/planted/manifest.json"))
    theirs = json.loads(versions.stored(forged, "exports/planted/manifest.json"))
    theirs |= {"key": own["key"], "model_version": own["model_version"]}
    versions.store(first, "exports/planted/manifest.json", json.dumps(theirs).encode())
    versions.store(first, "exports/planted/model.planted", versions.stored(forged, "exports/planted/model.planted"))
    second = versions.register(name)
    assert count(versions, second, index=index)[1] == 1


@pytest.mark.parametrize("gone", ["version", "files"])
def test_what_is_gone_is_made_anew(versions, name, index, gone):
    first, second = versions.register(name), versions.register(name)
    versions.export(first, index=index)
    if gone == "version":
        versions.client.delete_model_version(first.name, first.version)
    else:
        versions.registry.delete_artifacts(first, "exports/planted")
    report, conversions, _ = count(versions, second, index=index)
    assert (conversions, report.status) == (1, Status.VERIFIED)
    third = versions.register(name)
    assert count(versions, third, index=index)[1] == 0


def test_what_is_not_verified_is_made_anew(versions, name, index):
    first, second = versions.register(name), versions.register(name)
    versions.export(first, "planted:fault=wrong, planted", index=index)
    report, conversions, _ = count(versions, second, "planted:fault=wrong, planted", index=index)
    assert conversions == 1
    assert [(result.status, result.reused) for result in report.targets] == [
        (Status.MISMATCH, False),
        (Status.VERIFIED, True),
    ]


def test_a_version_that_is_promoted_again_keeps_its_own_files(versions, name, index, ledger):
    ref = versions.register(name)
    first = versions.export(ref, index=index)
    uploaded = versions.registry.list_artifacts(ref, "exports/planted"), versions.stored(ref, "exports/planted/MLmodel")
    again, conversions, _ = count(versions, ref, index=index, trigger="alias:champion")
    assert conversions == 0
    assert again.targets == (replace(first.targets[0], reused=True),)
    assert again.source == first.source
    now = versions.registry.list_artifacts(ref, "exports/planted"), versions.stored(ref, "exports/planted/MLmodel")
    assert now == uploaded
    assert versions.tags(ref)["trigger"] == "alias:champion"


def test_promoting_again_asks_the_server_little(versions, name, index, monkeypatch):
    ref = versions.register(name)
    versions.export(ref, "planted, planted_next", index=index)
    asked = []
    send = requests.Session.send
    monkeypatch.setattr(
        requests.Session, "send", lambda self, request, **rest: asked.append(request.url) or send(self, request, **rest)
    )
    with versions.registry.keeping_places():
        assert count(versions, ref, "planted, planted_next", index=index)[1] == 0
    assert not [url for url in asked if "/exports/planted" in url.partition("?")[0]], "no file of an export is fetched"
    assert len(asked) <= _MOST_CALLS, asked


class Told(Vouchers):
    """Keeps whose gates were closed, for a while at least."""

    closed: ClassVar[list[str]] = []

    def withdraw(self, ref, variants):
        self.closed.extend(variants)
        super().withdraw(ref, variants)


def test_gates_hear_of_exports_that_a_copy_shares_with_its_original(versions, name, ledger, tmp_path, monkeypatch):
    monkeypatch.setattr(Told, "closed", [])
    told = Told(f"sqlite:///{tmp_path / 'registry.db'}", versions.registry.version)
    assert told.prepare() == ""
    index = KnownExports(ledger.database, vouchers=told)
    first = versions.register(name)
    versions.export(first, index=index)
    copied = mlflow.MlflowClient(versions.uri).copy_model_version(first.uri, f"{name}-copy")
    copy = ModelVersionRef(copied.name, str(copied.version))
    report, conversions, _ = count(versions, copy, index=index)
    assert (conversions, report.status) == (0, Status.VERIFIED)

    def vouched():
        with sqlite3.connect(tmp_path / "registry.db") as registry:
            query = "SELECT model_name FROM registry_export_vouchers WHERE kind = 'export' AND name = 'planted'"
            return sorted(model_name for (model_name,) in registry.execute(query))

    assert vouched() == [first.name, copy.name]
    told.closed.clear()
    versions.verify(first, index=index)
    assert (vouched(), told.closed) == ([first.name, copy.name], []), "no byte of a model has changed"
    versions.export(first, index=index, force=True)
    assert vouched() == [first.name, copy.name]
    assert "planted" in told.closed, "while its files are replaced"
    versions.store(first, "exports/planted/model.planted", b"torn")
    versions.verify(first, index=index)
    assert vouched() == []
    told.dispose()


@pytest.mark.parametrize("known_here", [True, False])
def test_a_torn_export_of_the_version_itself_is_made_anew(versions, name, index, ledger, known_here):
    ref = versions.register(name)
    versions.export(ref, index=index)
    whole = versions.stored(ref, "exports/planted/model.planted")
    # A manifest that the ledger does not know has every byte looked at; one that it knows has the sizes compared.
    versions.store(ref, "exports/planted/model.planted", whole + b"!" if known_here else whole[:-1] + b"!")
    if not known_here:
        with ledger.database.write() as connection:
            connection.execute(known_exports.delete())
    report, conversions, _ = count(versions, ref, index=index)
    assert (conversions, report.status) == (1, Status.VERIFIED)
    assert versions.stored(ref, "exports/planted/model.planted") == whole


def test_what_the_ledger_had_forgotten_is_kept_and_made_anew_for_others_once(versions, name, index, ledger):
    ref = versions.register(name)
    versions.export(ref, index=index)
    with ledger.database.write() as connection:
        connection.execute(known_exports.delete())
    assert count(versions, ref, index=index)[1] == 0
    assert count(versions, versions.register(name), index=index)[1] == 1
    assert count(versions, versions.register(name), index=index)[1] == 0


def test_an_export_that_was_verified_again_is_taken_over_with_its_new_date(versions, name, index):
    first, second = versions.register(name), versions.register(name)
    versions.export(first, index=index)
    again = versions.verify(first, index=index)
    report, conversions, _ = count(versions, second, index=index)
    assert conversions == 0
    assert report.targets[0].verification == again.targets[0].verification


def test_an_export_that_fails_when_verified_again_is_not_taken_over(versions, name, index):
    first, second = versions.register(name), versions.register(name)
    versions.export(first, "planted:fault=drifts", index=index)
    planted.switch("drifted")
    try:
        assert versions.verify(first, index=index).status is Status.MISMATCH
    finally:
        planted.switch("drifted", on=False)
    assert count(versions, second, "planted:fault=drifts", index=index)[1] == 1


def test_a_ledger_that_does_not_answer_costs_a_conversion_and_no_export(versions, name, ledger):
    ref = versions.register(name)
    with ledger.database.write() as connection:
        known_exports.drop(connection)
    report, conversions, steps = count(versions, ref, index=KnownExports(ledger.database))
    assert (conversions, report.status) == (1, Status.VERIFIED)
    assert any("not known" in note for note in steps.notes)
