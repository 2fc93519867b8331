"""Environments of their own for toolchains that cannot share ours: made once by uv, kept by content.

An environment lies in the user's cache folder under the digest of all that went into it. It is made
beside its place, under a lock, and moved there when it is whole: two workers make one, and a creation
that is killed leaves nothing that anyone would use.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import logging
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from registry_export.errors import ChildError
from registry_export.format import PythonEnvironment
from registry_export.isolation.indexes import uv_variables

_RECIPE = 1
"""Raised when an environment is made differently, so that those made before are not used."""

_OURS = ("msgspec", "platformdirs", "psutil", "pyyaml")
"""What our modules import in a child, besides NumPy; at the versions that are installed here."""

_PASSED_ON = re.compile(r"PATH|HOME|LANG|LC_\w+|TMPDIR|XDG_\w+|UV_\w+|SSL_CERT_\w+|REQUESTS_CA_BUNDLE|(?i:\w+_proxy)")
"""What uv may know of its surroundings: a package's build script runs there, and must not see our credentials."""

_CREATION_SECONDS = 1800.0
_MESSAGE_LINES = 8

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where environments are kept; the whole folder may be deleted at any time when no worker runs."""
    return platformdirs.user_cache_path("registry-export", appauthor=False) / "environments"


def python_of(environment: PythonEnvironment, cache: Path | None = None) -> Path:
    """Return the interpreter of an environment; it is created on first need, which may take minutes.

    Args:
        environment: What it holds.
        cache: Where environments are kept; `cache_folder()` by default.

    Raises:
        ChildError: uv is not installed or could not create it, or the cache cannot be written.
    """
    cache = cache or cache_folder()
    place = cache / _digest(environment)
    try:
        if not _is_whole(place):
            cache.mkdir(parents=True, exist_ok=True)
            with _locked(place.with_suffix(".lock")):
                if not _is_whole(place):  # another process may have made it meanwhile
                    _create(environment, place)
    except OSError as error:
        raise ChildError(
            f"An environment cannot be kept in {cache}: {error}.",
            remedy="Make it writable, or set XDG_CACHE_HOME to a folder that is.",
        ) from error
    return place / "bin" / "python"


def requirements_of(environment: PythonEnvironment) -> tuple[str, ...]:
    """Return what is installed: the format's requirements, and ours where it does not name them.

    NumPy's version is left to the format's packages, since it is what they disagree on.
    """
    named = {_name(requirement) for requirement in environment.requirements}
    ours = [f"{name}=={importlib.metadata.version(name)}" for name in _OURS if name not in named]
    return (*environment.requirements, *ours, *(() if "numpy" in named else ("numpy",)))


def find_uv() -> str:
    """Return uv's program: the Python package's, else the one on the path.

    Raises:
        ChildError: There is neither.
    """
    with contextlib.suppress(ImportError, FileNotFoundError):
        from uv import find_uv_bin

        return str(find_uv_bin())
    found = shutil.which("uv")
    if found is None:
        raise ChildError("uv, which creates environments, is not installed.", remedy="Run `pip install uv`.")
    return found


def _name(requirement: str) -> str:
    """Return the normalized name of a requirement (`Foo_Bar[x]>=1` is `foo-bar`), as PEP 503 has it."""
    found = re.match(r"[\w.-]+", requirement.strip())
    return re.sub(r"[-_.]+", "-", found[0]).lower() if found else ""


def _digest(environment: PythonEnvironment) -> str:
    content = json.dumps([_RECIPE, environment.python, sorted(requirements_of(environment))])
    return hashlib.sha256(content.encode()).hexdigest()[:24]


def _is_whole(place: Path) -> bool:
    """Whether it is there, and its interpreter too: that is a link, which an update of Python may break."""
    return (place / "bin" / "python").is_file()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that the system takes back when this process ends, however it ends."""
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _create(environment: PythonEnvironment, place: Path) -> None:
    uv = find_uv()
    for left in (place, *place.parent.glob(f"{place.name}.part-*")):
        shutil.rmtree(left, ignore_errors=True)  # no longer whole, or left by a creation that was killed
    part = Path(tempfile.mkdtemp(prefix=f"{place.name}.part-", dir=place.parent))
    wanted = requirements_of(environment)
    _log.info("creating an environment with Python %s and %s", environment.python, ", ".join(wanted))
    variables = {n: value for n, value in os.environ.items() if _PASSED_ON.fullmatch(n)} | uv_variables()
    try:
        venv = part / "venv"
        # Relocatable: it is moved when it is whole.
        install = ["pip", "install", "--python", str(venv / "bin" / "python"), *wanted]
        for arguments in (["venv", "--relocatable", "--python", environment.python, str(venv)], install):
            _run([uv, *arguments], part, variables, environment)
        venv.rename(place)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _run(command: list[str], folder: Path, variables: dict[str, str], environment: PythonEnvironment) -> None:
    what = f"Python {environment.python} with {', '.join(environment.requirements)}"
    remedy = "Check its requirements and the index that uv reads (UV_DEFAULT_INDEX, else pip's settings)."
    try:
        done = subprocess.run(
            command,
            cwd=folder,  # away from any project, whose settings uv would read
            env=variables,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_CREATION_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ChildError(f"The environment ({what}) could not be created: {error}.", remedy=remedy) from error
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()][-_MESSAGE_LINES:]
        raise ChildError(f"The environment ({what}) could not be created: {' '.join(lines)}", remedy=remedy)
