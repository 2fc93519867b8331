from __future__ import annotations

from pathlib import Path

import pytest

from registry_export.errors import ConfigurationError
from registry_export.settings import Settings


@pytest.fixture(autouse=True)
def empty_home(tmp_path, monkeypatch):
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def test_an_empty_environment_has_its_ledger_in_the_users_data_folder(tmp_path):
    settings = Settings.from_environment({})
    assert (settings.tracking_uri, settings.outbox_uri, settings.config_path) == (None, None, None)
    assert settings.ledger_uri == f"sqlite:///{tmp_path / 'home' / 'registry-export' / 'ledger.db'}"
    assert (settings.child_timeout_s, settings.child_memory_bytes) == (1800.0, None)


def test_the_ledger_goes_where_the_outbox_is_unless_it_is_named():
    outbox = {"REGISTRY_EXPORT_OUTBOX_URI": "postgresql://a/b"}
    assert Settings.from_environment(outbox).ledger_uri == "postgresql://a/b"
    assert (
        Settings.from_environment({**outbox, "REGISTRY_EXPORT_LEDGER_URI": "sqlite:///c"}).ledger_uri == "sqlite:///c"
    )


def test_an_empty_variable_counts_as_absent():
    settings = Settings.from_environment({"MLFLOW_TRACKING_URI": "", "REGISTRY_EXPORT_CONFIG": ""})
    assert (settings.tracking_uri, settings.config_path) == (None, None)


def test_the_configuration_is_the_named_one_then_the_working_folders_then_the_users(tmp_path):
    user = tmp_path / "home" / "registry-export" / "registry-export.yaml"
    user.parent.mkdir(parents=True)
    user.touch()
    assert Settings.from_environment({}).config_path == user
    Path("registry-export.yaml").touch()
    assert Settings.from_environment({}).config_path == Path.cwd() / "registry-export.yaml"
    named = tmp_path / "named.yaml"
    named.touch()
    assert Settings.from_environment({"REGISTRY_EXPORT_CONFIG": str(named)}).config_path == named


def test_a_named_configuration_that_does_not_exist_is_refused():
    with pytest.raises(ConfigurationError, match=r"nowhere\.yaml does not exist.*REGISTRY_EXPORT_CONFIG"):
        Settings.from_environment({"REGISTRY_EXPORT_CONFIG": "nowhere.yaml"})


@pytest.mark.parametrize(
    ("text", "size"),
    [("1024", 1024), ("4K", 4096), ("1.5M", 1572864), ("2G", 2**31), ("2GB", 2**31), ("2GiB", 2**31), ("1t", 2**40)],
)
def test_memory_is_bytes_or_has_a_suffix(text, size):
    assert Settings.from_environment({"REGISTRY_EXPORT_CHILD_MEMORY": text}).child_memory_bytes == size


@pytest.mark.parametrize("text", ["much", "-1G", "0", "G", "1X", "nan", "inf"])
def test_a_memory_limit_that_is_no_size_is_refused(text):
    with pytest.raises(ConfigurationError, match="REGISTRY_EXPORT_CHILD_MEMORY"):
        Settings.from_environment({"REGISTRY_EXPORT_CHILD_MEMORY": text})


@pytest.mark.parametrize("text", ["soon", "0", "-5", "nan", "inf"])
def test_a_timeout_that_is_no_time_is_refused(text):
    with pytest.raises(ConfigurationError, match="REGISTRY_EXPORT_CHILD_TIMEOUT"):
        Settings.from_environment({"REGISTRY_EXPORT_CHILD_TIMEOUT": text})
    assert Settings.from_environment({"REGISTRY_EXPORT_CHILD_TIMEOUT": "2.5"}).child_timeout_s == 2.5


def test_timing_is_on_unless_it_is_switched_off_and_no_other_word_is_taken():
    assert Settings.from_environment({}).latency
    assert Settings.from_environment({"REGISTRY_EXPORT_LATENCY": "ON"}).latency
    assert not Settings.from_environment({"REGISTRY_EXPORT_LATENCY": "off"}).latency
    with pytest.raises(ConfigurationError, match="REGISTRY_EXPORT_LATENCY='0' is neither on nor off"):
        Settings.from_environment({"REGISTRY_EXPORT_LATENCY": "0"})


def test_a_trace_is_written_where_a_folder_is_named() -> None:
    assert Settings.from_environment({"REGISTRY_EXPORT_TRACE": ""}).trace_folder is None
    assert Settings.from_environment({"REGISTRY_EXPORT_TRACE": "/tmp/traces"}).trace_folder == Path("/tmp/traces")
