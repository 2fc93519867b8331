"""A server into which no plugin can be installed: MLflow passes over an entry point that cannot be imported."""

from __future__ import annotations

from pathlib import Path

from tests.support.server import MlflowServer


def hookless_server(folder: Path, environ: dict[str, str] | None = None) -> MlflowServer:
    """Make a server that finds a package without the hook in the place of ours.

    Args:
        folder: Where it lives.
        environ: Further environment variables.
    """
    empty = folder / "empty"
    (empty / "registry_export").mkdir(parents=True)
    (empty / "registry_export" / "__init__.py").touch()
    (empty / "registry_export" / "hook.py").write_text('raise ImportError("It is not installed here.")\n')
    return MlflowServer(folder, environ={"PYTHONPATH": str(empty), **(environ or {})})
