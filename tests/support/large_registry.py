"""A registry of ten thousand models in the tables of a real server, written in bulk."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy
from sqlalchemy import insert

from tests.support.server import MlflowServer

_FIRST_MS = 1_700_000_000_000
_STEP_MS = 60_000


def fill(server: MlflowServer, models: int, versions: int) -> None:
    """Write models with versions: the last one of each in `Production` and exported to ONNX, every other with an alias.

    All share one folder of files; no two versions were updated within the same minute.
    """
    from mlflow.store.model_registry.dbmodels import models as tables

    manifest = Path(server.folder) / "artifacts/shared/model/exports/onnx/manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    names = [f"model-{number:05}" for number in range(models)]
    pairs = [(name, version) for name in names for version in range(1, versions + 1)]
    promoted = [(name, versions) for name in names]
    tags = (("registry_export.onnx", "verified · opset 20"), ("registry_export.status", "verified"), ("owner", "me"))
    engine = sqlalchemy.create_engine(server.database_uri)
    with engine.begin() as connection:
        connection.execute(
            insert(tables.SqlRegisteredModel.__table__),
            [{"name": name, "creation_time": _FIRST_MS, "last_updated_time": _FIRST_MS} for name in names],
        )
        connection.execute(
            insert(tables.SqlModelVersion.__table__),
            [
                {
                    "name": name,
                    "version": version,
                    "creation_time": _FIRST_MS,
                    "last_updated_time": _FIRST_MS + number * _STEP_MS,
                    "current_stage": "Production" if version == versions else "None",
                    "source": "mlflow-artifacts:/shared/model",
                    "status": "READY",
                }
                for number, (name, version) in enumerate(pairs)
            ],
        )
        connection.execute(
            insert(tables.SqlModelVersionTag.__table__),
            [{"name": n, "version": v, "key": key, "value": value} for n, v in promoted for key, value in tags],
        )
        connection.execute(
            insert(tables.SqlRegisteredModelAlias.__table__),
            [{"name": name, "alias": "champion", "version": versions} for name in names[::2]],
        )
    engine.dispose()
