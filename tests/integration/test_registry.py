"""Model versions on a real server, read and written through HTTP with a proxied artifact store."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import numpy as np
import pytest

from registry_export.entities import ModelVersionRef
from registry_export.errors import (
    ArtifactError,
    ConfigurationError,
    ModelVersionNotFoundError,
    RegistryError,
    RegistryUnavailableError,
    SamplesError,
)
from registry_export.registry import Registry, connection
from registry_export.registry.location import locate
from tests.support.server import MlflowServer, free_port
from tests.support.versions import FILES, KINDS, Versions


@pytest.fixture(scope="module")
def versions(mlflow_server, tmp_path_factory):
    return Versions(mlflow_server.uri, tmp_path_factory.mktemp("versions"))


@pytest.fixture(scope="module")
def registry(mlflow_server):
    return Registry(mlflow_server.uri)


def stored(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module", params=KINDS)
def ref(request, versions):
    return getattr(versions, request.param)(f"kind-{request.param}")


def test_every_kind_of_version_downloads_the_same_files(registry, ref, tmp_path):
    folder = registry.download(ref, tmp_path / "new" / "folder")
    assert stored(folder) == FILES
    assert (folder / "data" / "deep" / "er" / "more.bin").read_bytes() == b"more"


def test_what_is_uploaded_is_downloaded_by_the_version_but_is_no_part_of_its_checkpoint(registry, ref, tmp_path):
    import mlflow

    export = tmp_path / "export"
    (export / "deep").mkdir(parents=True)
    (export / "deep" / "model.bin").write_text("export")
    registry.upload(ref, export, "exports/onnx")
    assert stored(registry.download(ref, tmp_path / "checkpoint")) == FILES
    assert registry.list_artifacts(ref, "exports") == ("exports/onnx/deep/model.bin",)
    assert stored(registry.download_artifact(ref, "exports/onnx", tmp_path / "a")) == {"deep/model.bin"}
    single = registry.download_artifact(ref, "exports/onnx/deep/model.bin", tmp_path / "b")
    assert single.read_text() == "export"
    # The address that the documentation promises to everybody.
    mlflow.set_tracking_uri(registry.tracking_uri)
    fetched = mlflow.artifacts.download_artifacts(f"{ref.uri}/exports/onnx/deep/model.bin", dst_path=str(tmp_path))
    assert Path(fetched).read_text() == "export"
    registry.delete_artifacts(ref, "exports/onnx")
    assert registry.list_artifacts(ref, "exports") == ()


def test_metrics_are_on_the_export_run_and_on_the_logged_model(registry, versions, ref):
    run_id = registry.create_export_run(ref, "alias:champion")
    registry.log_metrics(run_id, ref, {"onnx/size_bytes": 5, "onnx/snr_db": float("inf")})
    registry.finish_run(run_id, "FINISHED")
    run = versions.client.get_run(run_id)
    assert run.data.metrics == {"onnx/size_bytes": 5.0}
    assert run.info.status == "FINISHED"
    place = registry.location(ref)
    assert run.info.experiment_id == place.experiment_id
    if place.logged_model_id is not None:
        metrics = versions.client.get_logged_model(place.logged_model_id).metrics
        assert ("onnx/size_bytes", run_id) in {(metric.key, metric.run_id) for metric in metrics}
        assert [model.model_id for model in run.inputs.model_inputs] == [place.logged_model_id]


def test_the_link_of_a_version_leads_to_its_files(registry, ref):
    place = registry.location(ref)
    link = place.ui_link("exports/report.html")
    assert link.startswith(f"#/experiments/{place.experiment_id}/")
    if place.logged_model_id:
        assert link.endswith(f"/models/{place.logged_model_id}/artifacts")
    else:
        assert link.endswith("exports/report.html")
        assert f"/runs/{place.run_id}/artifacts/" in link
        assert " " not in link


def test_a_runs_source_that_names_a_logged_model_leads_to_it(registry, versions, tmp_path):
    from mlflow.entities import LoggedModelOutput

    run = versions.client.create_run(versions.experiment("outputs"))
    model = versions.client.create_logged_model(run.info.experiment_id, name="net", source_run_id=run.info.run_id)
    versions.client.log_model_artifacts(model.model_id, str(versions.model))
    versions.client.finalize_logged_model(model.model_id, "READY")
    versions.client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=0)])
    ref = versions._register("outputs", f"runs:/{run.info.run_id}/net", run.info.run_id)
    assert registry.version(ref).logged_model_id == model.model_id
    assert stored(registry.download(ref, tmp_path)) == FILES


def test_versions_with_a_tag_are_read_together_and_others_left_to_a_look_at_each(registry, versions):
    plain, tagged, quoted = (versions.logged_model(name) for name in ("glance", "glance", "glance it's"))
    for ref in (tagged, quoted):
        registry.set_tags(ref, {"registry_export.status": "verified"})
    found = registry.glance_at_many([plain, tagged, quoted], "registry_export.status")
    assert found == {tagged: registry.glance(tagged)}
    assert found[tagged].tags["registry_export.status"] == "verified"


def test_the_tag_of_registered_models_is_read_at_once(registry, versions):
    ref, _ = versions.logged_model("override"), versions.logged_model("no override")
    versions.client.set_registered_model_tag(ref.name, "registry_export.targets", "onnx")
    assert registry.models_with_tag("registry_export.targets") == {ref.name: "onnx"}


def test_files_that_are_not_stored_are_named(registry, versions):
    for kind in ("logged_model", "of_run", "by_artifact_uri", "copied"):
        ref = getattr(versions, kind)(f"lacks {kind}")
        paths = ("MLmodel", "data/none", "nowhere/at/all")
        lacks = registry.lacks_files(ref, registry.glance(ref).source, paths)
        assert lacks == ("data/none", "nowhere/at/all"), kind


def test_a_uri_is_resolved_by_number_alias_stage_and_latest(registry, versions):
    first, second = versions.logged_model("re solve"), versions.logged_model("re solve")
    registry.set_alias(first, "champion")
    registry.set_stage(first, "Staging")
    assert registry.resolve("models:/re solve/1") == first
    assert registry.resolve("models:/re solve@champion") == first
    assert registry.resolve("models:/re solve/Staging") == first
    assert registry.resolve("models:/re solve/staging") == first
    assert registry.resolve("models:/re solve/latest") == second
    info = registry.version(first)
    assert (info.stage, info.aliases) == ("Staging", ("champion",))
    assert (first, "champion") in registry.alias_page().aliases
    registry.delete_alias("re solve", "champion")
    assert registry.version(first).aliases == ()


@pytest.mark.parametrize("uri", ["re/1", "models:/m-0123", "models:/", "models:/@a", "runs:/a/b", ""])
def test_a_uri_that_names_no_version_says_what_to_write(registry, uri):
    with pytest.raises(ConfigurationError, match="models:/name/3"):
        registry.resolve(uri)


@pytest.mark.parametrize("uri", ["models:/nobody/1", "models:/nobody@a", "models:/nobody/Staging"])
def test_a_version_that_does_not_exist_is_not_found(registry, uri):
    with pytest.raises(ModelVersionNotFoundError, match="nobody"):
        registry.resolve(uri)


def test_a_stage_without_versions_is_not_found(registry, versions):
    versions.logged_model("unstaged")
    with pytest.raises(ModelVersionNotFoundError, match="stage Production"):
        registry.resolve("models:/unstaged/Production")


def test_a_version_that_was_deleted_is_not_found_whatever_is_asked_of_it(registry, versions, tmp_path):
    ref = versions.logged_model("deleted")
    versions.client.delete_model_version(ref.name, ref.version)
    for call in (
        lambda: registry.version(ref),
        lambda: registry.download(ref, tmp_path),
        lambda: registry.set_tags(ref, {"a": "b"}),
        lambda: registry.set_description(ref, "a"),
        lambda: registry.upload(ref, tmp_path, "exports"),
    ):
        with pytest.raises(ModelVersionNotFoundError, match="deleted"):
            call()


def test_the_folder_of_a_version_is_found_once_for_a_job_and_anew_for_the_next(registry, versions, monkeypatch):
    found = []
    monkeypatch.setattr(connection, "locate", lambda *asked: found.append(asked) or locate(*asked))
    ref = versions.logged_model("remade")
    with registry.keeping_places():
        first = registry.location(ref)
        assert registry.version(ref).logged_model_id == first.logged_model_id
        registry.list_artifacts(ref)
        assert len(found) == 1
        versions.client.delete_model_version(ref.name, ref.version)
        with pytest.raises(ModelVersionNotFoundError):
            registry.version(ref)
    versions.client.delete_registered_model(ref.name)
    assert versions.logged_model("remade") == ref
    with registry.keeping_places():
        assert registry.location(ref).uri != first.uri


def test_a_version_whose_files_are_gone_says_so(registry, versions, mlflow_server, tmp_path):
    ref = versions.of_run("emptied")
    versions_files = registry.list_artifacts(ref)
    assert versions_files
    for path in ("MLmodel", "data"):
        registry.delete_artifacts(ref, path)
    with pytest.raises(RegistryError, match="nothing is stored at mlflow-artifacts:"):
        registry.download(ref, tmp_path)


def test_a_version_of_a_single_file_says_to_register_its_folder(registry, versions, mlflow_server, tmp_path):
    import mlflow

    (tmp_path / "net.pt").write_bytes(b"weights")
    client = mlflow.MlflowClient(mlflow_server.uri)
    run = client.create_run("0")
    client.log_artifact(run.info.run_id, str(tmp_path / "net.pt"))
    client.create_registered_model("single-file")
    for source in (f"runs:/{run.info.run_id}/net.pt", f"{run.info.artifact_uri}/net.pt"):
        client.create_model_version("single-file", source, run.info.run_id)
    for number in "12":
        with pytest.raises(RegistryError, match=r"a single file, net\.pt.*register that folder"):
            registry.download(ModelVersionRef("single-file", number), tmp_path / "copy")


def test_an_artifact_that_is_not_there_is_named(registry, versions, tmp_path):
    ref = versions.logged_model("without-exports")
    with pytest.raises(ArtifactError, match="without-exports/1 has no exports/onnx"):
        registry.download_artifact(ref, "exports/onnx", tmp_path)
    assert registry.list_artifacts(ref, "exports") == ()


def test_tags_are_set_and_removed_even_twice(registry, versions):
    ref = versions.logged_model("tagged")
    registry.set_tags(ref, {"registry_export.onnx": "verified · opset 20", "b": "x" * 5000})
    assert registry.version(ref).tags["registry_export.onnx"] == "verified · opset 20"
    registry.delete_tags(ref, ("registry_export.onnx", "b", "never set"))
    registry.delete_tags(ref, ("registry_export.onnx",))
    assert registry.version(ref).tags == {}


def test_only_versions_changed_since_are_listed_newest_first(registry, versions):
    refs = [versions.logged_model("changed") for _ in range(3)]
    time.sleep(0.01)
    registry.set_stage(refs[0], "Staging")
    moved = registry.version(refs[0]).last_updated_ms
    assert [info.ref for info in registry.versions_changed_since(moved)] == [refs[0]]
    everything = [info.ref for info in registry.versions_changed_since(0) if info.ref.name == "changed"]
    assert everything == [refs[0], refs[2], refs[1]]


def test_samples_are_read_from_disk_and_from_the_artifact_store(registry, versions, tmp_path):
    path = tmp_path / "samples.npz"
    np.savez(path, x=np.ones((2, 3), np.float32), ids=np.zeros((2, 4), np.int64))
    run = versions.client.create_run(versions.experiment("samples"))
    versions.client.log_artifact(run.info.run_id, str(path))
    for place in (str(path), f"runs:/{run.info.run_id}/samples.npz"):
        arrays = registry.read_samples(place, tmp_path / "work")
        assert {name: (array.dtype.name, array.shape) for name, array in arrays.items()} == {
            "x": ("float32", (2, 3)),
            "ids": ("int64", (2, 4)),
        }


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04"])
def test_samples_that_are_no_archive_say_what_to_write(registry, tmp_path, content):
    path = tmp_path / "samples.npz"
    path.write_bytes(content)
    with pytest.raises(SamplesError, match="are no NumPy archive") as caught:
        registry.read_samples(str(path), tmp_path)
    assert "allow_pickle" not in str(caught.value)


def test_samples_that_would_run_code_are_refused(registry, tmp_path):
    path = tmp_path / "samples.npz"
    np.savez(path, x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(SamplesError, match="are no NumPy archive"):
        registry.read_samples(str(path), tmp_path)


def test_samples_that_do_not_exist_are_named(registry, tmp_path):
    with pytest.raises(SamplesError, match=r"absent\.npz do not exist"):
        registry.read_samples(str(tmp_path / "absent.npz"), tmp_path)


def test_a_server_that_is_down_is_noticed_in_seconds_and_is_transient():
    port = free_port()
    began = time.monotonic()
    with pytest.raises(RegistryUnavailableError, match="Connection refused") as caught:
        Registry(f"http://somebody:secret@127.0.0.1:{port}").resolve("models:/digits/1")
    assert time.monotonic() - began < 20
    assert caught.value.transient
    assert "secret" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.slow
def test_a_server_that_stops_while_files_move_is_transient(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with MlflowServer(tmp_path / "server") as server:
        ref = Versions(server.uri, tmp_path).logged_model("stopping")
        registry = Registry(server.uri)
        place = registry.location(ref)
    registry.location = lambda _: place  # what was known before the server stopped
    for call in (lambda: registry.download(ref, tmp_path / "to"), lambda: registry.upload(ref, tmp_path, "exports")):
        with pytest.raises(RegistryUnavailableError):
            call()


def test_a_database_uri_cannot_serve_files_and_says_what_can(versions, mlflow_server, tmp_path):
    ref = versions.logged_model("database-uri")
    with pytest.raises(RegistryError, match="https:// address"):
        Registry(mlflow_server.database_uri).download(ref, tmp_path)


@pytest.mark.slow
def test_a_user_without_rights_is_told_which(tmp_path, monkeypatch):
    pytest.importorskip("flask_wtf", reason="basic-auth needs `pip install flask-wtf`")
    environ = {"MLFLOW_FLASK_SERVER_SECRET_KEY": "key", "MLFLOW_AUTH_ADMIN_PASSWORD": "another1234567"}
    with MlflowServer(tmp_path / "server", arguments=("--app-name", "basic-auth"), environ=environ) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "another1234567")
        ref = Versions(server.uri, tmp_path).logged_model("guarded")
        from mlflow.server.auth.client import AuthServiceClient

        AuthServiceClient(server.uri).create_user("reader", "password12345")
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "reader")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "password12345")
        registry = Registry(server.uri)
        with pytest.raises(RegistryError, match="EDIT on the registered model") as caught:
            registry.set_tags(ref, {"a": "b"})
        assert not caught.value.transient
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
        with pytest.raises(RegistryError, match="refused it"):
            registry.version(ref)


def test_a_server_that_is_called_by_a_name_of_its_own_network_says_what_to_start_it_with(mlflow_server, monkeypatch):
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *rest, **more: resolve({"mlflow": "127.0.0.1"}.get(host, host), *rest, **more),
    )
    registry = Registry(mlflow_server.uri.replace("127.0.0.1", "mlflow"))
    with pytest.raises(RegistryError, match=r"does not answer by that name .* --allowed-hosts 'mlflow:\d+,") as caught:
        registry.version(ModelVersionRef("net", "1"))
    assert not caught.value.transient


def test_a_listing_that_leaves_its_folder_is_refused(tmp_path):
    """A store that lies: the file would land outside of the destination."""
    from mlflow.entities import FileInfo
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    from registry_export.registry.files import fetch, list_folder

    class Lying(LocalArtifactRepository):
        def list_artifacts(self, path=None):
            return [FileInfo("data", True, None)] if path is None else [FileInfo("data/../../stolen", False, 1)]

    repository = Lying(str(tmp_path / "store"))
    with pytest.raises(RegistryError, match="leaves its folder"):
        fetch(repository, list_folder(repository), tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_the_users_own_retries_are_left_alone(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    Registry("http://127.0.0.1:1")
    import os

    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"


def test_a_version_keeps_its_identity(registry, ref):
    assert registry.version(ref).ref == ref
    assert isinstance(ref, ModelVersionRef)
