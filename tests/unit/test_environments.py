"""Environments that toolchains have to themselves, made by the real uv."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
import pytest

from registry_export.discovery import discover_formats
from registry_export.entities import Interface
from registry_export.errors import ChildError, ConfigurationError, ConversionError
from registry_export.format import PythonEnvironment, Toolchain
from registry_export.isolation import ChildPool, Limits, environments
from registry_export.isolation.environments import python_of, requirements_of
from registry_export.isolation.indexes import uv_variables
from registry_export.isolation.warm import key_of
from registry_export.tensors import write_tensors

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
OTHER_NUMPY = "1.26.4" if np.__version__ != "1.26.4" else "2.0.2"
NEEDED = PythonEnvironment(PYTHON, (f"numpy=={OTHER_NUMPY}",))

FORMAT = f"""
    import json
    from registry_export.entities import Description, Interface
    from registry_export.errors import UnsupportedModelError
    from registry_export.format import Conversion, ConversionResult, PythonEnvironment, Toolchain

    OLD = Toolchain("old", ("numpy",), python=PythonEnvironment("{PYTHON}", ("numpy=={OTHER_NUMPY}",)))

    def convert(model, output, request):
        import numpy
        import stranger_helper
        if model == "refuse":
            raise UnsupportedModelError("No such operator.")
        output.write_text(json.dumps({{"numpy": numpy.__version__, "helper": stranger_helper.VALUE}}))
        return ConversionResult()

    class Stranger:
        name, summary, extra, requirements = "stranger", "A stranger's", "", ("uv",)
        toolchain, kind, filename, options = OLD, "stranger_model", "model.json", ()
        conversions = (Conversion("stranger_model", convert, OLD),)
        verified_by = "nobody"
        def locate(self, folder, flavors): return None
        def load(self, path, interface): return path.read_text()
        def open(self, path, interface): raise NotImplementedError
        def describe(self, path): return Description(Interface(()), details=json.loads(path.read_text()))
"""

HELPER = """
    import importlib.util
    import os
    import sys

    VALUE = "found"

    def surroundings(arguments):
        found = [name for name in arguments["modules"] if importlib.util.find_spec(name)]
        return {"prefix": sys.prefix, "found": found, "environment": dict(os.environ)}
"""


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """A cache of ours; uv keeps its own, so that little is fetched twice."""
    return tmp_path_factory.mktemp("environments")


@pytest.fixture(scope="session")
def needed(cache):
    try:
        return python_of(NEEDED, cache)
    except ChildError as error:
        if any(sign in str(error) for sign in ("dns error", "error sending request", "Failed to fetch")):
            pytest.skip(f"no index of packages can be reached: {error}")
        raise


@pytest.fixture
def stranger(tmp_path, monkeypatch, cache, needed):
    """A third party's package with a format, as pip would have installed it."""
    site = tmp_path / "site"
    metadata = site / "stranger_format-1.2.dist-info"
    metadata.mkdir(parents=True)
    (site / "stranger_format.py").write_text(textwrap.dedent(FORMAT))
    (site / "stranger_helper.py").write_text(textwrap.dedent(HELPER))
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger-format\nVersion: 1.2\n")
    (metadata / "entry_points.txt").write_text("[registry_export.formats]\nstranger = stranger_format:Stranger\n")
    (metadata / "top_level.txt").write_text("stranger_format\nstranger_helper\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(environments, "cache_folder", lambda: cache)
    return discover_formats()["stranger"]


def _convert(pool, format_, model, folder):
    work = folder / "work"
    work.mkdir()
    (folder / "model.txt").write_text(model)
    write_tensors(folder / "samples", {})
    interface = msgspec.to_builtins(Interface(()))
    request = {
        "origin": {"format": "stranger", "path": str(folder / "model.txt"), "interface": interface},
        "format": "stranger",
        "conversion": 0,
        "options": {},
        "interface": interface,
        "samples": str(folder / "samples"),
        "output": str(folder / "model.json"),
        "work": str(work),
    }
    toolchain = format_.conversions[0].toolchain
    return pool.call(toolchain, "registry_export.conversion:convert", request, work, writes=(folder,))


def test_a_strangers_conversion_runs_with_a_numpy_that_is_not_ours(stranger, tmp_path):
    with ChildPool(Limits(timeout_s=60)) as pool:
        value = _convert(pool, stranger, "model", tmp_path).value
    assert value["description"]["details"] == {"numpy": OTHER_NUMPY, "helper": "found"}
    assert np.__version__ != OTHER_NUMPY


def test_an_error_raised_there_keeps_its_class(stranger, tmp_path):
    with ChildPool(Limits(timeout_s=60)) as pool, pytest.raises(ConversionError, match="No such operator"):
        _convert(pool, stranger, "refuse", tmp_path)


def test_nothing_of_our_environment_is_found_there_but_the_formats(stranger, tmp_path, monkeypatch, cache):
    monkeypatch.setenv("PYTHONPATH", str(Path(np.__file__).parents[1]))
    asked = ["registry_export", "registry_export_plugins", "stranger_format", "mlflow", "torch", "pytest"]
    with ChildPool(Limits(timeout_s=60)) as pool:
        there = pool.call(stranger.toolchain, "stranger_helper:surroundings", {"modules": asked}, tmp_path).value
    assert there["found"] == asked[:3]
    assert Path(there["prefix"]).parent == cache


def test_what_is_there_is_not_made_again(needed, cache, monkeypatch):
    monkeypatch.setattr(environments, "find_uv", lambda: pytest.fail("uv was asked for"))
    assert python_of(NEEDED, cache) == needed
    same = PythonEnvironment(NEEDED.python, tuple(reversed(NEEDED.requirements)))
    assert python_of(same, cache) == needed


def test_two_that_ask_at_once_make_one(needed, tmp_path, monkeypatch):
    real, made = environments._create, []
    monkeypatch.setattr(environments, "_create", lambda *a: (made.append(1), time.sleep(0.2), real(*a)))
    found = []
    threads = [threading.Thread(target=lambda: found.append(python_of(NEEDED, tmp_path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]
    assert found[0] == found[1]
    assert found[0].is_file()


def test_a_creation_that_was_killed_leaves_nothing_that_is_used(needed, tmp_path):
    digest = environments._digest(NEEDED)
    (tmp_path / f"{digest}.part-killed" / "venv" / "bin").mkdir(parents=True)
    (tmp_path / digest / "bin").mkdir(parents=True)
    (tmp_path / digest / "bin" / "python").symlink_to(tmp_path / "a-python-that-is-gone")
    python = python_of(NEEDED, tmp_path)
    found = subprocess.run([python, "-c", "import numpy; print(numpy.__version__)"], capture_output=True, text=True)
    assert found.stdout.strip() == OTHER_NUMPY
    assert sorted(path.name for path in tmp_path.iterdir()) == [digest, f"{digest}.lock"]


def test_a_requirement_that_nobody_has_is_refused_in_uvs_words(tmp_path):
    environment = PythonEnvironment(PYTHON, ("registry-export-no-such-package==1",))
    with pytest.raises(ChildError, match=r"registry-export-no-such-package") as caught:
        python_of(environment, tmp_path)
    assert "Check its requirements" in caught.value.remedy
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_what_builds_a_package_sees_no_credentials(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("https_proxy", "http://proxy:1")

    def run(command, folder, variables, environment):
        seen.update(variables)
        raise ChildError("stopped here")

    monkeypatch.setattr(environments, "_run", run)
    with pytest.raises(ChildError, match="stopped here"):
        python_of(PythonEnvironment("3.11", ("never-installed",)), tmp_path)
    assert seen["https_proxy"] == "http://proxy:1"
    assert seen["PATH"]
    assert "secret" not in seen.values()


def test_the_remedy_is_named_where_uv_is_absent(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "uv", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(environments, "cache_folder", lambda: tmp_path / "cache")
    with ChildPool() as pool, pytest.raises(ChildError, match=r"pip install uv"):
        pool.call(Toolchain("own", python=NEEDED), "os:getcwd", {}, tmp_path)


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ChildError, match=r"cannot be kept in .*file/environments.*XDG_CACHE_HOME"):
        python_of(NEEDED, tmp_path / "file" / "environments")


@pytest.mark.parametrize("python", ["3.8", "3.10.4", "2.7"])
def test_a_python_that_cannot_run_our_children_is_refused(python):
    with pytest.raises(ConfigurationError, match=r"cannot run registry-export's children: they need 3\.11"):
        PythonEnvironment(python, ())


@pytest.mark.parametrize("python", ["3", "three", ">=3.11", ""])
def test_what_is_no_version_is_refused(python):
    with pytest.raises(ConfigurationError, match="no version of Python"):
        PythonEnvironment(python, ())


def test_our_own_needs_come_at_our_versions_unless_the_format_names_them():
    plain = requirements_of(PythonEnvironment("3.11", ("mxnet==1.9.1",)))
    assert plain == (
        "mxnet==1.9.1",
        f"msgspec=={version('msgspec')}",
        f"platformdirs=={version('platformdirs')}",
        f"psutil=={version('psutil')}",
        f"pyyaml=={version('pyyaml')}",
        "numpy",
    )
    named = requirements_of(PythonEnvironment("3.11", ("NumPy<1.24", "PyYAML>=5", "msgspec[toml]")))
    assert named == ("NumPy<1.24", "PyYAML>=5", "msgspec[toml]", *plain[2:4])


def test_toolchains_of_one_name_in_two_environments_have_a_parent_each():
    assert key_of(Toolchain("a")) != key_of(Toolchain("a", python=NEEDED))


def test_uv_looks_where_pip_looks(tmp_path, monkeypatch):
    config = tmp_path / "pip.conf"
    config.write_text(
        "[global]\nindex-url = https://mirror.example/simple\nextra-index-url = https://one.example\n https://two.example\n"
        "[install]\nfind-links = /wheels\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "https://nearer.example/simple")
    found = uv_variables({})
    assert found["UV_DEFAULT_INDEX"] == "https://nearer.example/simple"
    assert found["UV_INDEX"].split()[-2:] == ["https://one.example", "https://two.example"]
    assert found["UV_FIND_LINKS"] == "/wheels"
    assert uv_variables({"UV_DEFAULT_INDEX": "https://uv.example"}) == {}
