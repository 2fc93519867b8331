"""pip's indexes for uv, which reads settings of its own: a mirror that serves pip has to serve uv too."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import platformdirs

from registry_export.parsing import PARSER

_SECTIONS = ("global", "install", ":env:")
"""pip's sections, the later ones stronger: https://pip.pypa.io/en/stable/topics/configuration/."""

_SECONDS = 60.0


def uv_variables(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that make uv look where pip looks; none for what uv was told itself.

    uv's settings are at https://docs.astral.sh/uv/reference/environment/.
    """
    if _has_own_indexes(environ):
        return {}
    pip = _pip_settings()
    found = {}
    if pip.get("index-url"):
        found["UV_DEFAULT_INDEX"] = pip["index-url"]
    if pip.get("extra-index-url"):
        found["UV_INDEX"] = " ".join(pip["extra-index-url"].split())
        # uv stops at the first index that has a package; pip takes the best of all.
        found["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    if pip.get("find-links"):
        found["UV_FIND_LINKS"] = ",".join(pip["find-links"].split())
    if pip.get("trusted-host"):
        found["UV_INSECURE_HOST"] = " ".join(pip["trusted-host"].split())
    if pip.get("cert"):
        found["SSL_CERT_FILE"] = pip["cert"]
    return {name: value for name, value in found.items() if name not in environ}


def _has_own_indexes(environ: Mapping[str, str]) -> bool:
    names = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_OFFLINE")
    if any(environ.get(name) for name in names):
        return True
    files = [
        Path(environ.get("UV_CONFIG_FILE") or platformdirs.user_config_path("uv", appauthor=False) / "uv.toml"),
        Path("/etc/uv/uv.toml"),
    ]
    return any("index" in file.read_text(errors="replace") for file in files if file.is_file())


def _pip_settings() -> dict[str, str]:
    """Read `pip config list`, whose lines are `section.key='value'`; empty where there is no pip."""
    command = [sys.executable, "-P", "-m", "pip", "config", "list"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return read_pip_settings(lines)


def read_pip_settings(lines: str) -> dict[str, str]:
    """Read the lines `section.key='value'`; a stronger section's value wins."""
    by_section: dict[str, dict[str, str]] = {section: {} for section in _SECTIONS}
    for line in lines.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if section in by_section:
            by_section[section][name] = _unquoted(value)
    return {name: value for section in _SECTIONS for name, value in by_section[section].items()}


def _unquoted(value: str) -> str:
    try:
        with PARSER:
            return str(ast.literal_eval(value))
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return value
