"""Results on a real server: files, metrics, tags, description; and the way back through `pull`, `load` and MLflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from registry_export.entities import ErrorRecord, SourceRecord, Status
from registry_export.errors import (
    ArtifactError,
    ConfigurationError,
    ConversionError,
    ModelVersionNotFoundError,
    RegistryUnavailableError,
    VerificationError,
)
from registry_export.exports import load, pull
from registry_export.page import publish_failure, read_report
from registry_export.publishing import publish, publish_verdicts
from registry_export.recorded import _tagged_as_running
from registry_export.registry import Registry
from registry_export.reporter import SILENT
from registry_export.reuse import Shelf
from tests.support import affine
from tests.support.versions import KINDS, Versions

X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture(scope="module", autouse=True)
def plugin(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        affine.install(tmp_path_factory.mktemp("site"), patch)
        yield


@pytest.fixture(scope="module")
def versions(mlflow_server, tmp_path_factory):
    return Versions(mlflow_server.uri, tmp_path_factory.mktemp("versions"))


@pytest.fixture(scope="module")
def registry(mlflow_server):
    return Registry(mlflow_server.uri)


class Exporter:
    """Makes results with files, and publishes them."""

    def __init__(self, registry, folder: Path) -> None:
        self.registry, self.folder, self.count = registry, folder, 0

    def prepare(self, ref, *results, scale=2.0, **changes):
        folders, made = {}, []
        for outcome in results:
            if outcome.status is Status.FAILED:
                made.append(outcome)
                continue
            self.count += 1
            folder = self.folder / f"{outcome.variant}-{self.count}"
            made.append(affine.made(folder, ref, outcome, scale))
            folders[outcome.variant] = folder
        return affine.report(ref, *made, **changes), folders

    def __call__(self, ref, *results, scale=2.0, **changes):
        return publish(self.registry, *self.prepare(ref, *results, scale=scale, **changes))


@pytest.fixture
def export(registry, tmp_path):
    return Exporter(registry, tmp_path / "made")


FAILED = affine.result(
    "affine-d9", Status.FAILED, verification=None, error=ErrorRecord("Convert", "ConversionError", "no\nway")
)


@pytest.mark.parametrize("kind", KINDS)
def test_a_person_finds_everything_whatever_kind_of_version_it_is(registry, versions, export, kind, tmp_path):
    ref = getattr(versions, kind)(f"publish-{kind}")
    registry.set_tags(ref, {"registry_export.error": "of an earlier attempt", "mine": "stays"})
    registry.set_description(ref, "Mine.")
    report = export(ref, affine.result())

    stored = registry.list_artifacts(ref, "exports")
    assert {f"exports/report.{suffix}" for suffix in ("html", "md", "json")} <= set(stored)
    assert {f"exports/affine/{name}" for name in ("model.npz", "MLmodel", "manifest.json")} <= set(stored)

    info = registry.version(ref)
    tags = dict(info.tags)
    assert tags.pop("mine") == "stays"
    assert tags == {
        "registry_export.status": "verified",
        "registry_export.trigger": "stage:Staging",
        "registry_export.run_id": report.run_id,
        "registry_export.affine": f"verified · version 1 · {report.targets[0].size_bytes} B · max abs diff 2.4e-07",
    }
    assert info.description.startswith("Mine.\n\n<!-- registry-export:begin -->")
    assert "| verified | version 1 |" in info.description
    assert registry.location(ref).ui_link("exports/report.html") in info.description

    run = versions.client.get_run(report.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["affine/max_abs_diff"] == 2.4e-07
    assert run.data.metrics["affine/size_bytes"] == report.targets[0].size_bytes
    assert run.data.metrics["affine/convert_seconds"] == 1.5

    document = json.loads((pull_report(registry, ref, tmp_path)).read_text())
    assert document["run_id"] == report.run_id
    assert document["targets"][0]["sha256"] == report.targets[0].sha256

    assert pull(ref.uri, "affine", tmp_path / "out", registry=registry).read_bytes()
    with load(ref.uri, "affine", registry=registry) as model:
        np.testing.assert_array_equal(model.infer({"x": X})["y"], 2 * X + 1)


def pull_report(registry, ref, folder):
    return registry.download_artifact(ref, "exports/report.json", folder / "report")


@pytest.fixture
def ref(versions, request):
    return versions.logged_model(request.node.name[:60])


def test_publishing_again_changes_nothing_but_the_run(registry, export, ref):
    report, folders = export.prepare(ref, affine.result(), FAILED)
    first = publish(registry, report, folders)
    description = registry.version(ref).description
    second = publish(registry, report, folders)
    assert replace(second, run_id="") == replace(first, run_id="")
    info = registry.version(ref)
    assert info.description == description
    assert info.description.count("registry-export:begin") == 1
    assert info.tags["registry_export.run_id"] == second.run_id


def test_targets_of_different_rules_add_up_and_the_worst_required_one_decides(registry, export, ref):
    export(ref, affine.result(), affine.result("affine-d3", Status.MISMATCH, required=False))
    assert registry.version(ref).tags["registry_export.status"] == "verified"
    report = export(ref, affine.result("affine-d5", Status.UNVERIFIED), trigger="alias:champion")
    assert [result.variant for result in report.targets] == ["affine", "affine-d3", "affine-d5"]
    tags = registry.version(ref).tags
    assert tags["registry_export.status"] == "unverified"
    assert tags["registry_export.trigger"] == "alias:champion"
    assert tags["registry_export.affine"].startswith("verified")
    report = export(ref, affine.result("affine-d5"))
    assert report.status is Status.VERIFIED
    assert registry.version(ref).tags["registry_export.status"] == "verified"


def test_a_failed_target_has_a_tag_and_no_files_and_leaves_its_siblings(registry, export, ref, tmp_path):
    report, folders = export.prepare(ref, affine.result(), FAILED)
    folders["affine-d9"] = folders["affine"]  # whatever is lying there
    publish(registry, report, folders)
    tags = registry.version(ref).tags
    assert tags["registry_export.status"] == "failed"
    assert tags["registry_export.affine-d9"] == "failed · Convert: no way"
    assert not [path for path in registry.list_artifacts(ref, "exports") if "affine-d9" in path]
    assert pull(ref.uri, "affine", tmp_path / "out", registry=registry).exists()
    with pytest.raises(ArtifactError, match=r"not handed out: failed\. Convert: no way"):
        pull(ref.uri, "affine-d9", tmp_path / "out", registry=registry)


def test_a_mismatch_can_be_looked_at_but_is_not_handed_out(registry, export, ref, tmp_path):
    export(ref, affine.result(status=Status.MISMATCH))
    assert "exports/affine/model.npz" in registry.list_artifacts(ref, "exports")
    with pytest.raises(ArtifactError, match=r"not handed out: mismatch\. the reason of affine"):
        pull(ref.uri, "affine", tmp_path / "out", registry=registry)
    with pytest.raises(ArtifactError, match="not handed out"):
        load(ref.uri, "affine", registry=registry)


class Breaking(Registry):
    """A registry that stops answering at one call."""

    at = ""

    def upload(self, ref, folder, path):
        if path == self.at:
            super().upload(ref, folder, path)
            raise RegistryUnavailableError("down")
        super().upload(ref, folder, path)

    def log_metrics(self, run_id, ref, metrics):
        if self.at == "metrics":
            raise RegistryUnavailableError("down")
        super().log_metrics(run_id, ref, metrics)


@pytest.mark.parametrize("at", ["exports/affine", "exports/affine-d3", "exports", "metrics"])
def test_publishing_that_breaks_off_promises_nothing_that_is_not_there(registry, versions, export, ref, at, tmp_path):
    export(ref, affine.result())
    breaking = Breaking(registry.tracking_uri)
    breaking.at = at
    report, folders = export.prepare(ref, affine.result(), affine.result("affine-d3"), scale=5.0)
    with pytest.raises(RegistryUnavailableError):
        publish(breaking, report, folders)
    tags = registry.version(ref).tags
    assert "registry_export.affine" not in tags
    assert "registry_export.affine-d3" not in tags
    assert tags["registry_export.status"] == "running"
    if at != "metrics":
        with pytest.raises(ArtifactError):
            pull(ref.uri, "affine", tmp_path / "out", registry=registry)
        assert kept(registry, ref, tmp_path, affine="key of affine") == {}
    runs = versions.client.search_runs([registry.location(ref).experiment_id])
    assert {run.info.status for run in runs} <= {"FINISHED", "FAILED"}

    publish(registry, report, folders)
    assert registry.version(ref).tags["registry_export.status"] == "verified"
    with load(ref.uri, "affine", registry=registry) as model:
        np.testing.assert_array_equal(model.infer({"x": X})["y"], 5 * X + 1)


def kept(registry, ref, folder, **keys):
    """What would not be made again."""
    return Shelf(registry, ref, None, folder / "kept", SILENT).look_up(keys).results


def test_what_was_verified_is_found_again_by_its_key(registry, export, ref, tmp_path):
    published = export(ref, affine.result(), affine.result("affine-d3", Status.MISMATCH), FAILED)
    keys = {"affine": "key of affine", "affine-d3": "key of affine-d3", "affine-d9": "key of affine-d9"}
    assert kept(registry, ref, tmp_path, **keys) == {"affine": replace(published.targets[0], reused=True)}
    assert kept(registry, ref, tmp_path, affine="another key") == {}
    assert kept(registry, ref, tmp_path) == {}


def test_a_copy_of_the_version_has_the_exports_of_its_checkpoint(registry, versions, export, ref, tmp_path):
    published = export(ref, affine.result())
    copy = versions.client.copy_model_version(ref.uri, f"{ref.name}-copy")
    copied = replace(ref, name=copy.name, version=str(copy.version))
    known = kept(registry, copied, tmp_path, affine="key of affine")
    assert known == {"affine": replace(published.targets[0], reused=True)}
    report = affine.report(copied, *known.values(), trigger=f"copied:{ref}")
    publish(registry, report, {})
    assert registry.version(copied).tags["registry_export.affine"].startswith("verified")
    with load(copied.uri, "affine", registry=registry) as model:
        assert model.manifest.model_version == ref


def test_an_export_deleted_by_hand_is_not_taken_for_verified(registry, export, ref, tmp_path):
    export(ref, affine.result())
    registry.delete_artifacts(ref, "exports/affine")
    assert kept(registry, ref, tmp_path, affine="key of affine") == {}


def test_files_of_an_earlier_export_do_not_stay_among_the_new_ones(registry, export, ref, tmp_path):
    report, folders = export.prepare(ref, affine.result())
    (folders["affine"] / "weights.data").write_text("old")
    publish(registry, report, folders)
    export(ref, affine.result())
    assert not [path for path in registry.list_artifacts(ref, "exports") if "weights" in path]
    pull(ref.uri, "affine", tmp_path / "out", registry=registry)
    assert not (tmp_path / "out" / "weights.data").exists()


def test_a_damaged_report_is_replaced(registry, export, ref, tmp_path):
    (tmp_path / "report.json").write_text("{")
    registry.upload(ref, tmp_path, "exports")
    assert read_report(registry, ref) is None
    assert export(ref, affine.result()).status is Status.VERIFIED
    assert read_report(registry, ref) is not None


@pytest.mark.parametrize("change", ["tampered", "torn", "swapped"])
def test_files_that_are_not_the_verified_ones_are_refused(registry, export, ref, change, tmp_path):
    export(ref, affine.result())
    other = affine.made(tmp_path / "other", ref, affine.result(), scale=7.0)
    assert other.sha256
    if change == "tampered":
        (tmp_path / "only").mkdir()
        (tmp_path / "only" / "model.npz").write_bytes((tmp_path / "other" / "model.npz").read_bytes())
        registry.upload(ref, tmp_path / "only", "exports/affine")
    elif change == "torn":
        registry.delete_artifacts(ref, "exports/affine/model.npz")
    else:  # with a manifest that fits them
        registry.upload(ref, tmp_path / "other", "exports/affine")
    out = tmp_path / "out"
    with pytest.raises(ArtifactError, match="affine"):
        pull(ref.uri, "affine", out, registry=registry)
    assert not out.exists()
    with pytest.raises(ArtifactError, match="affine"):
        load(ref.uri, "affine", registry=registry)


def test_pull_replaces_what_an_earlier_pull_left(registry, export, ref, tmp_path):
    export(ref, affine.result())
    first = pull(ref.uri, "affine", tmp_path / "out", registry=registry).read_bytes()
    export(ref, affine.result(), scale=9.0)
    path = pull(ref.uri, "affine:digits=7", tmp_path / "out", registry=registry)
    assert path == tmp_path / "out" / "model.npz"
    assert path.read_bytes() != first
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == [
        "MLmodel", "manifest.json", "model.npz", "provenance.intoto.json", "python_env.yaml", "requirements.txt"
    ]  # fmt: skip


@pytest.mark.parametrize("replacing", [False, True])
def test_an_export_that_is_stopped_leaves_a_status_that_is_true(registry, export, ref, replacing):
    export(ref, affine.result())

    @_tagged_as_running(registry, registry.version(ref))
    def stopped():
        if replacing:
            registry.delete_tags(ref, ("registry_export.affine",))  # as `publish` does before it replaces files
        raise RegistryUnavailableError("The store went away.")

    with pytest.raises(RegistryUnavailableError):
        stopped()
    tags = registry.version(ref).tags
    assert tags["registry_export.status"] == ("failed" if replacing else "verified")
    assert ("stopped while it replaced files" in tags.get("registry_export.error", "")) is replacing


def test_pull_says_that_an_export_is_not_verified(registry, export, ref, tmp_path, caplog):
    export(ref, affine.result(status=Status.UNVERIFIED))
    assert pull(ref.uri, "affine", tmp_path / "out", registry=registry).is_file()
    assert f"affine of {ref} is unverified: the reason of affine" in caplog.text


def test_pull_refuses_a_place_that_is_no_folder_in_words(registry, export, ref, tmp_path):
    export(ref, affine.result())
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigurationError, match="cannot be used as a folder"):
        pull(ref.uri, "affine", tmp_path / "file", registry=registry)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_target_that_was_never_exported_is_refused_with_what_there_is(registry, export, ref, tmp_path):
    with pytest.raises(ArtifactError, match=r"it has: none"):
        pull(ref.uri, "affine", tmp_path, registry=registry)
    export(ref, affine.result())
    with pytest.raises(ArtifactError, match=r"no export 'affine-d3'; did you mean 'affine'\? \(it has: affine\)"):
        pull(ref.uri, "affine:digits=3", tmp_path, registry=registry)
    with pytest.raises(ConfigurationError):
        pull(ref.uri, "affine:nonsense=3", tmp_path, registry=registry)


def test_load_leaves_no_temporary_files(registry, export, ref, tmp_path, monkeypatch):
    import tempfile

    export(ref, affine.result())
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    model = load(ref.uri, "affine", registry=registry)
    np.testing.assert_array_equal(model.predict({"x": X})["y"], 2 * X + 1)
    model.close()
    assert not list((tmp_path / "temporary").iterdir())
    model.close()
    with pytest.raises(VerificationError, match="affine is closed"):
        model.predict({"x": X})


def test_an_export_that_nobody_closes_is_closed_at_the_end(registry, export, ref, tmp_path):
    export(ref, affine.result())
    script = (
        "import os, sys, registry_export\n"
        "model = registry_export.load(sys.argv[1], 'affine')\n"
        "print(model.predict({'x': [[1, 2, 3]]})['y'].tolist(), os.listdir(os.environ['TMPDIR']))"
    )
    path = os.pathsep.join([entry for entry in sys.path if entry] + [str(Path.cwd())])
    (tmp_path / "temporary").mkdir()
    environ = {"TMPDIR": str(tmp_path / "temporary"), "MLFLOW_TRACKING_URI": registry.tracking_uri}
    done = subprocess.run(
        [sys.executable, "-c", script, ref.uri],
        capture_output=True, text=True, check=True, env={**os.environ, **environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.stdout.startswith("[[3.0, 5.0, 7.0]] ['registry-export-"), done.stdout
    assert not list((tmp_path / "temporary").iterdir())


def test_mlflow_loads_an_export_as_a_python_function(registry, export, ref, monkeypatch):
    import mlflow
    import pandas as pd

    export(ref, affine.result())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.tracking_uri)
    mlflow.set_tracking_uri(registry.tracking_uri)
    model = mlflow.pyfunc.load_model(f"{ref.uri}/exports/affine")
    np.testing.assert_array_equal(model.predict(X), 2 * X + 1)
    assert model.metadata.signature.inputs.inputs[0].shape == (-1, 3)
    np.testing.assert_array_equal(model.predict(pd.DataFrame(X)), 2 * X + 1)


def test_mlflow_serves_an_export(registry, export, ref, tmp_path):
    export(ref, affine.result())
    pull(ref.uri, "affine", tmp_path / "out", registry=registry)
    script = (
        "import sys, json, mlflow.pyfunc.scoring_server as s, mlflow; from starlette.testclient import TestClient\n"
        "app = s.init(mlflow.pyfunc.load_model(sys.argv[1]))\n"
        "answer = TestClient(app).post('/invocations', json={'inputs': [[1, 2, 3]]})\n"
        "print(answer.text)"
    )
    path = os.pathsep.join([entry for entry in sys.path if entry] + [str(Path.cwd())])
    answer = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "out")],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert json.loads(answer.stdout.splitlines()[-1]) == {"predictions": [[3.0, 5.0, 7.0]]}


def test_a_job_that_failed_as_a_whole_says_why_and_keeps_what_was_there(registry, export, ref):
    export(ref, affine.result())
    error = ConversionError("the checkpoint is\ncorrupt.", remedy="Log it again.")
    publish_failure(registry, ref, "alias:champion", error)
    tags = registry.version(ref).tags
    assert tags["registry_export.status"] == "failed"
    assert tags["registry_export.error"] == "Convert: the checkpoint is corrupt. Log it again."
    assert tags["registry_export.trigger"] == "alias:champion"
    assert tags["registry_export.affine"].startswith("verified")
    export(ref, affine.result())
    assert "registry_export.error" not in registry.version(ref).tags


def page_of(registry, ref, folder):
    return registry.download_artifact(ref, "exports/report.html", folder).read_text()


def test_the_report_does_not_say_verified_of_an_export_that_failed_as_a_whole(registry, export, ref, tmp_path):
    before = export(ref, affine.result())
    assert "The target is verified." in page_of(registry, ref, tmp_path / "before")
    publish_failure(registry, ref, "manual", ConversionError("the checkpoint is corrupt."))
    page = page_of(registry, ref, tmp_path / "failed")
    assert "The export failed. Convert: the checkpoint is corrupt." in page
    assert "The target is verified." not in page
    report = read_report(registry, ref)
    assert (report.status, report.trigger, report.error.step) == (Status.FAILED, "manual", "Convert")
    assert report.targets == before.targets, "what was verified before can still be loaded"
    with load(ref.uri, "affine", registry=registry) as model:
        np.testing.assert_array_equal(model.predict({"x": X.tolist()})["y"], 2 * X + 1)
    after = export(ref, affine.result("affine-d3"))
    assert (after.status, after.error) == (Status.VERIFIED, None)
    assert "The export failed" not in page_of(registry, ref, tmp_path / "after")


def test_a_first_export_that_fails_stores_nothing_and_links_to_no_report(registry, ref):
    publish_failure(registry, ref, "manual", ConversionError("the checkpoint is corrupt."))
    assert registry.list_artifacts(ref, "exports") == ()
    description = registry.version(ref).description
    assert "the checkpoint is corrupt" in description
    assert "report.html" not in description


def test_new_verdicts_say_no_more_that_an_export_failed_once_the_tags_say_so_no_more(registry, export, ref, tmp_path):
    export(ref, affine.result())
    publish_failure(registry, ref, "manual", ConversionError("the checkpoint is corrupt."))
    again = replace(affine.result(), convert_seconds=1.0)
    failed = replace(read_report(registry, ref), status=Status.VERIFIED)
    assert publish_verdicts(registry, failed, {"affine": again}, {}).status is Status.FAILED
    assert "The export failed" in page_of(registry, ref, tmp_path / "failed")
    registry.delete_tags(ref, ("registry_export.error",))
    assert publish_verdicts(registry, failed, {"affine": again}, {}).error is None
    assert "The target is verified." in page_of(registry, ref, tmp_path / "verified")


def test_a_version_deleted_while_its_job_runs_is_not_found(versions, registry, export, ref):
    report, folders = export.prepare(ref, affine.result())
    versions.client.delete_model_version(ref.name, ref.version)
    with pytest.raises(ModelVersionNotFoundError):
        publish(registry, report, folders)
    with pytest.raises(ModelVersionNotFoundError):
        publish_failure(registry, ref, "manual", ValueError("a"))


def test_a_long_description_of_a_person_survives_and_the_whole_stays_within_the_limit(registry, export, ref):
    for length in (100, 4400, 4800, 4950, 5000):
        mine = "ä" * length
        registry.set_description(ref, mine)
        export(ref, affine.result(), affine.result("affine-d3"))
        description = registry.version(ref).description
        assert description.startswith(mine)
        assert len(description) <= 5000
        assert ("registry-export:begin" in description) == (length <= 4800), length


def test_the_export_of_a_version_without_an_active_experiment_gets_one(versions, registry, export, ref):
    place = registry.location(ref)
    versions.client.delete_experiment(place.experiment_id)
    try:
        report = export(ref, affine.result())
        experiment = versions.client.get_experiment(versions.client.get_run(report.run_id).info.experiment_id)
        assert experiment.name == "registry-export"
    finally:
        versions.client.restore_experiment(place.experiment_id)


def test_a_reused_target_logs_no_files_and_stays_loadable(registry, export, ref):
    first = export(ref, affine.result())
    again = affine.report(ref, replace(first.targets[0], reused=True), trigger="alias:b")
    published = publish(registry, again, {})
    assert published.targets[0].reused
    with load(ref.uri, "affine", registry=registry) as model:
        np.testing.assert_array_equal(model.predict({"x": X.tolist()})["y"], 2 * X + 1)


def test_a_new_source_that_could_not_be_read_keeps_the_old_account(registry, export, ref):
    first = export(ref, affine.result())
    assert isinstance(first.source, SourceRecord)
    assert export(ref, affine.result("affine-d3"), source=None).source == first.source


def test_wrong_input_to_a_loaded_export_names_the_input(registry, export, ref):
    export(ref, affine.result())
    with load(ref.uri, "affine", registry=registry) as model, pytest.raises(VerificationError, match="takes x"):
        model.predict({"x": X, "y": X})
