"""What pip installs is everything that the checkout has, and works where there is no checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.metadata import Metadata

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """A source archive, and the wheel that was built from what is in it."""
    folder = tmp_path_factory.mktemp("packaging")
    for name in ("registry_export", "plugins", "pyproject.toml", "README.md", "LICENSE"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(dist):
    (wheel,) = dist.glob("*.whl")
    return wheel


def test_the_wheel_holds_every_module_template_and_type_marker(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    for folder, package in (("registry_export", "registry_export"), ("plugins", "registry_export_plugins")):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert f"{package}/{path.relative_to(ROOT / folder)}" in held


def test_an_index_would_take_the_metadata_and_has_the_licence(dist, wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        written = Metadata.from_email(archive.read(name), validate=True)
    assert (written.name, written.license_expression) == ("registry-export", "Apache-2.0")
    assert written.description_content_type == "text/markdown"
    assert written.description.startswith("# registry-export")
    (source,) = dist.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        assert any(name.endswith("/LICENSE") for name in archive.getnames())


@pytest.fixture(scope="module")
def clean(wheel, tmp_path_factory):
    """The scripts of an environment with the wheel in it; what it needs is found where the tests find it."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert uv is not None
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    python = folder / "bin" / "python"
    install = [uv, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", python, wheel]
    subprocess.run(install, check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    # Behind its own; an editable installation that is there is not followed from here.
    (site / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def run_in(clean, tmp_path, *command, code=0):
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MLFLOW", "REGIS"))}
    environ |= {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), "PATH": f"{clean}:{environ['PATH']}"}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout


def test_the_installed_command_knows_its_version_and_its_formats(clean, tmp_path):
    version = run_in(clean, tmp_path, "registry-export", "--version")
    assert version.startswith("registry-export, version ")
    code = "import registry_export, registry_export_plugins as plugins; print(registry_export, plugins)"
    where = run_in(clean, tmp_path, "python", "-c", code)
    assert where.count(str(clean.parent)) == 2, "it tests the checkout"
    found = json.loads(run_in(clean, tmp_path, "registry-export", "formats", "--json"))
    assert {record["name"] for record in found} >= {path.stem for path in (ROOT / "plugins").glob("[!_]*.py")}


def test_the_installed_package_makes_its_tables_and_its_command_lists_them(clean, tmp_path):
    (tmp_path / "registry-export").mkdir()
    code = "from registry_export.ledger import Ledger as L; from registry_export.settings import Settings as S\n"
    run_in(clean, tmp_path, "python", "-c", code + "L(S.from_environment().ledger_uri).migrate()")
    assert json.loads(run_in(clean, tmp_path, "registry-export", "jobs", "--json")) == []
    assert (tmp_path / "registry-export" / "ledger.db").stat().st_size > 0


def test_the_installed_report_has_its_template_and_the_server_finds_the_hook(clean, tmp_path):
    code = """
from importlib.metadata import entry_points
from registry_export.entities import ExportReport, ModelVersionRef, Status
from registry_export.report import html
html._template()
(hook,) = [entry for entry in entry_points(group="mlflow.model_registry_store") if "registry_export" in entry.value]
print(hook.value, hook.dist.name)
"""
    assert run_in(clean, tmp_path, "python", "-c", code).split() == [
        "registry_export.hook:attach_to_mlflow",
        "registry-export",
    ]


SNIPPET = """
import registry_export
from registry_export.format import Runner
from registry_export_plugins.onnx import Onnx

report = registry_export.export("models:/digits/3", targets=["onnx"])
reveal_type(report.status)
reveal_type(registry_export.pull("models:/digits/3", "onnx", "build"))
reveal_type(Onnx.name)
registry_export.load(3, "onnx")
"""


def test_a_type_checker_finds_the_types_of_both_packages(clean, tmp_path):
    (tmp_path / "client.py").write_text(SNIPPET)
    # Our configuration says which frameworks are not to be read through.
    checker = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", "cache"]
    said = run_in(clean, tmp_path, *checker, "--python-executable", str(clean / "python"), "client.py", code=1)
    assert 'Revealed type is "registry_export.entities' in said
    assert 'Revealed type is "pathlib.Path"' in said
    assert 'Revealed type is "str"' in said
    assert 'Argument 1 to "load" has incompatible type "int"; expected "str"' in said
    assert "missing library stubs" not in said
