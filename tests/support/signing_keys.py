"""Keys made by openssl, and model-signing in an environment of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path

from registry_export.format import PythonEnvironment
from registry_export.isolation.environments import python_of

MODEL_SIGNING = PythonEnvironment("3.11", ("model-signing==1.1.1", "pyopenssl"))
"""It needs typing_extensions of a version that TFLite's converter refuses, and does not declare pyOpenSSL."""


def key_pair(folder: Path, name: str = "worker", curve: str = "prime256v1") -> tuple[Path, Path]:
    """Make a private key and its public one; returns their files."""
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    _openssl("ecparam", "-name", curve, "-genkey", "-noout", "-out", str(private))
    _openssl("ec", "-in", str(private), "-pubout", "-out", str(public))
    private.chmod(0o600)
    return private, public


def encrypted(private: Path, password: str) -> Path:
    """Write a private key anew, encrypted."""
    path = private.with_suffix(".encrypted")
    _openssl("pkcs8", "-topk8", "-in", str(private), "-passout", f"pass:{password}", "-out", str(path))
    return path


def model_signing(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run model-signing's own command line."""
    command = [str(python_of(MODEL_SIGNING)), "-m", "model_signing", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
