"""`KnownExports`: where verified exports lie, by the digest of everything that went into them.

An index and no store: the bytes are in the artifact store, in the folder of the version that they were published for.
Anybody may write there, so each entry has the digests of the manifest and of the report's entry as its worker wrote
them, and those have the digests of the files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, select
from sqlalchemy.exc import IntegrityError

from registry_export.entities import ModelVersionRef
from registry_export.ledger.database import Database
from registry_export.ledger.tables import known_exports
from registry_export.ledger.vouchers import Vouchers
from registry_export.outbox import database_now_ms, stored_workspace

_MOST = 10_000
"""Entries; one takes about 500 bytes."""

_OLDER_AT_ONCE = 500

_LATEST_FIRST = (known_exports.c.used_at_ms.desc(), known_exports.c.id.desc())


@dataclass(frozen=True)
class KnownExport:
    """A verified export that is published.

    Attributes:
        key: Digest of everything that it depends on (`manifest.export_key`).
        model_version: The version that it is published for.
        variant: Its folder in the version's `exports/`.
        manifest_sha256: Digest of its `manifest.json`, in hex.
        result_sha256: Digest of what the version's report says of it (`report.result_digest`).
    """

    key: str
    model_version: ModelVersionRef
    variant: str
    manifest_sha256: str
    result_sha256: str


class KnownExports:
    """The verified exports that the workers on one ledger have published; the least recently used are forgotten.

    Every method raises `LedgerUnavailableError` when the database does not answer, `LedgerError` when it refuses.

    Args:
        database: The ledger's.
        workspace: The MLflow workspace to work in.
        most: How many are remembered, over all workspaces.
        vouchers: What gates are told of the same exports; None: nothing.
    """

    def __init__(
        self,
        database: Database,
        workspace: str | None = None,
        *,
        most: int = _MOST,
        vouchers: Vouchers | None = None,
    ) -> None:
        self.vouchers = vouchers
        self._database = database
        self._workspace = stored_workspace(workspace)
        self._most = most

    def find(self, keys: Collection[str]) -> dict[str, tuple[KnownExport, ...]]:
        """Return the exports with these keys, by key; the one that was used last comes first."""
        wanted = (known_exports.c.workspace == self._workspace, known_exports.c.key.in_(keys))
        found: dict[str, list[KnownExport]] = {}
        with self._database.read() as connection:
            for row in connection.execute(select(known_exports).where(*wanted).order_by(*_LATEST_FIRST)):
                ref = ModelVersionRef(row.model_name, row.version)
                known = KnownExport(row.key, ref, row.variant, row.manifest_sha256, row.result_sha256)
                found.setdefault(row.key, []).append(known)
        return {key: tuple(known) for key, known in found.items()}

    def remember(self, exports: Iterable[KnownExport]) -> None:
        """Remember exports that are published, or that they were used just now."""
        with self._database.write() as connection:
            inserted = [self._put(connection, known) for known in exports]
            if any(inserted):
                # Two statements: MySQL does not delete from a table that it reads meanwhile.
                query = select(known_exports.c.id).order_by(*_LATEST_FIRST).offset(self._most).limit(_OLDER_AT_ONCE)
                older = list(connection.execute(query).scalars())
                connection.execute(known_exports.delete().where(known_exports.c.id.in_(older)))

    def forget(self, ref: ModelVersionRef, variants: Collection[str]) -> None:
        """Forget exports of a version: their files are about to change, are gone, or are not what they were."""
        with self._database.write() as connection:
            for variant in variants:
                connection.execute(known_exports.delete().where(*self._is(ref, variant)))

    def _put(self, connection: Connection, known: KnownExport) -> bool:
        """Write one entry; whether it is a new one."""
        values = {
            "key": known.key,
            "manifest_sha256": known.manifest_sha256,
            "result_sha256": known.result_sha256,
            "used_at_ms": database_now_ms(),
        }
        mine = self._is(known.model_version, known.variant)
        if connection.execute(known_exports.update().where(*mine).values(values)).rowcount:
            return False
        place = {
            "workspace": self._workspace,
            "model_name": known.model_version.name,
            "version": known.model_version.version,
            "variant": known.variant,
        }
        try:
            with connection.begin_nested():
                connection.execute(known_exports.insert().values(**place, **values))
        except IntegrityError:
            connection.execute(known_exports.update().where(*mine).values(values))
            return False
        return True

    def _is(self, ref: ModelVersionRef, variant: str) -> tuple[ColumnElement[bool], ...]:
        return (
            known_exports.c.workspace == self._workspace,
            known_exports.c.model_name == ref.name,
            known_exports.c.version == ref.version,
            known_exports.c.variant == variant,
        )
