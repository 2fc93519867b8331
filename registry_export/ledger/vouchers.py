"""`Vouchers`: the worker's end of the gates. What it has verified and published, told to the registry's database.

The hook believes these rows and nothing else, so that they are a worker's alone to write: the table is the worker's
own, and the server, which may be another role, is let read it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from sqlalchemy import Connection, and_, or_, select, text

from registry_export.entities import ModelVersionRef
from registry_export.errors import LedgerError, RegistryError
from registry_export.gate_tables import EXPORT, OWN, WITHDRAWN, exists, metadata, vouchers
from registry_export.ledger.database import Database
from registry_export.outbox import database_now_ms, stored_workspace

_OWNER = text(
    "SELECT tableowner FROM pg_tables WHERE tablename = 'model_versions' AND schemaname = current_schema() "
    "AND tableowner <> current_user"
)
_MAY_READ = text("SELECT has_table_privilege(:role, :name, 'SELECT')")

_logger = logging.getLogger(__name__)


class Version(Protocol):
    """What the registry tells of a version."""

    @property
    def created_ms(self) -> int:
        """When it was created, in milliseconds since 1970."""

    @property
    def files_id(self) -> str:
        """The same for all versions that share a folder of files."""


class Vouchers:
    """What one workspace's gates may believe.

    Every method raises `LedgerUnavailableError` when the database does not answer. What it refuses is logged once, and
    no more is told: no export fails for that.

    Args:
        uri: SQLAlchemy URL of the registry's database.
        read_version: Asks the registry for a version.
        workspace: The MLflow workspace to work in.
    """

    def __init__(
        self, uri: str, read_version: Callable[[ModelVersionRef], Version], workspace: str | None = None
    ) -> None:
        self._database = Database(uri, "registry")
        self._read_version = read_version
        self._workspace = stored_workspace(workspace)
        self._refused = ""

    def prepare(self) -> str:
        """Create the table where it is absent, and let the server read it.

        Returns:
            Why gates cannot rely on it, and are told nothing from here on; empty: they can.

        Raises:
            LedgerUnavailableError: The database does not answer.
        """
        try:
            self._create()
            with self._database.write() as connection:
                self._let_read(connection)
        except LedgerError as error:
            if error.transient:
                raise
            self._refused = str(error)
        return self._refused

    def settle(self, ref: ModelVersionRef, verified: Mapping[str, str], others: Collection[str] = ()) -> None:
        """Vouch for what is verified and published, and no longer for what is not.

        An export belongs to its folder of files: the new verdict is that of other versions too, which share the folder
        and were vouched for before it was touched.

        Args:
            ref: The version.
            verified: The digest of the manifest of each verified variant, in hex.
            others: Variants that are not.
        """
        version = self._read_version(ref)

        def write(connection: Connection) -> None:
            told = self._take(connection, ref, version.files_id, [*others, *verified])
            told |= {(ref, variant): self._row(ref, variant, version) for variant in verified}
            for (_, variant), row in told.items():
                if variant in verified:
                    self._put(connection, row, EXPORT, verified[variant])

        self._write(write)

    def withdraw(self, ref: ModelVersionRef, variants: Collection[str]) -> None:
        """No longer vouch for exports: their files are about to change, or are not what they were.

        For which versions it was done is kept until there is a verdict on the new files.
        """
        if not variants:
            return
        try:
            files_id = self._read_version(ref).files_id
        except RegistryError as error:
            if error.transient:
                raise
            files_id = ""  # it was deleted

        def write(connection: Connection) -> None:
            for row in self._take(connection, ref, files_id, variants).values():
                self._put(connection, row, WITHDRAWN)

        self._write(write)

    @contextmanager
    def own_promotion(self, ref: ModelVersionRef, promotion: str) -> Iterator[None]:
        """Let a promotion of the worker's own through every gate while the block runs.

        Args:
            ref: The version that is promoted.
            promotion: `stage:Production`, `alias:champion`.
        """
        try:
            version = self._read_version(ref)
        except RegistryError as error:
            if error.transient:
                raise
            yield  # it was deleted, as the registry will say
            return

        def announce(connection: Connection) -> None:
            self._forget_own(connection, ref, promotion)
            self._put(connection, self._row(ref, promotion, version), OWN)

        self._write(announce)
        try:
            yield
        finally:
            self._write(lambda connection: self._forget_own(connection, ref, promotion))

    def dispose(self) -> None:
        """Close every connection."""
        self._database.dispose()

    def _create(self) -> None:
        with self._database.read() as connection:
            if exists(connection, vouchers):
                return
        try:
            with self._database.write() as connection:
                metadata.create_all(connection, tables=[vouchers])
        except LedgerError:
            with self._database.read() as connection:
                if not exists(connection, vouchers):  # no other worker was faster
                    raise

    def _let_read(self, connection: Connection) -> None:
        """Grant the server's role what it needs, where it is another one: the owner of MLflow's own tables."""
        owner = connection.execute(_OWNER).scalar() if self._database.dialect == "postgresql" else None
        if owner and not connection.execute(_MAY_READ, {"role": owner, "name": vouchers.name}).scalar():
            role = connection.dialect.identifier_preparer.quote(owner)
            connection.execute(text(f"GRANT SELECT ON {vouchers.name} TO {role}"))

    def _write(self, act: Callable[[Connection], None]) -> None:
        if self._refused:
            return
        try:
            with self._database.write() as connection:
                act(connection)
        except LedgerError as error:
            if error.transient:
                raise
            _logger.warning("Gates hear no more of what is verified here, until the next start. %s", error)
            self._refused = str(error)

    def _take(
        self, connection: Connection, ref: ModelVersionRef, files_id: str, variants: Collection[str]
    ) -> dict[tuple[ModelVersionRef, str], Mapping[str, Any]]:
        """Take away what is told of exports in a version's folder, and return it by version and variant."""
        same = and_(vouchers.c.model_name == ref.name, vouchers.c.version == ref.version)
        if files_id:
            same = or_(same, vouchers.c.files_id == files_id)
        exports = (vouchers.c.kind.in_((EXPORT, WITHDRAWN)), vouchers.c.name.in_(variants))
        about = (vouchers.c.workspace == self._workspace, same, *exports)
        # Of a version that was registered anew under its number the later one comes last, and is the one that is there.
        query = select(vouchers).where(*about).order_by(vouchers.c.version_created_ms).with_for_update()
        rows = connection.execute(query).mappings().all()
        connection.execute(vouchers.delete().where(*about))
        return {(ModelVersionRef(row["model_name"], row["version"]), row["name"]): dict(row) for row in rows}

    def _forget_own(self, connection: Connection, ref: ModelVersionRef, promotion: str) -> None:
        row = {"model_name": ref.name, "version": ref.version, "kind": OWN, "name": promotion}
        same = (vouchers.c[name] == value for name, value in row.items())
        connection.execute(vouchers.delete().where(vouchers.c.workspace == self._workspace, *same))

    def _row(self, ref: ModelVersionRef, name: str, version: Version) -> Mapping[str, Any]:
        return {
            "workspace": self._workspace,
            "model_name": ref.name,
            "version": ref.version,
            "name": name,
            "version_created_ms": version.created_ms,
            "files_id": version.files_id,
        }

    def _put(self, connection: Connection, row: Mapping[str, Any], kind: str, digest: str = "") -> None:
        told = {"kind": kind, "manifest_sha256": digest, "created_at_ms": database_now_ms()}
        connection.execute(vouchers.insert().values({**row, **told}))
