"""What gates go by: three tables in the registry's database, beside the outbox and with schemas as final as its own.

`vouchers` are a worker's to write and the hook's to read, `approvals` and `kept_rules` the hook's alone. None can be
written through MLflow, as tags can: who has no account on the database cannot open a gate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, String, Table, Text, inspect
from sqlalchemy.exc import SQLAlchemyError

if TYPE_CHECKING:
    from sqlalchemy import Connection

APPROVE_TAG = "registry_export.approve"
"""The tag by which a person lets a version through a gate, where the rule has them for that."""

EXPORT, OWN = "export", "promotion"
"""What a worker vouches for: that an export is verified and published; that a promotion is its own."""

WITHDRAWN = "withdrawn"
"""An export for which a worker has vouched, and whose files have been touched since; it opens no gate."""

OWN_LASTS_MS = 600_000
"""A worker that died at its own promotion leaves its word behind; after so long it is nobody's any more."""

LONGEST_APPROVAL = 1000
"""So many characters of an approval are kept."""

metadata = MetaData()

vouchers = Table(
    "registry_export_vouchers",
    metadata,
    Column("workspace", String(63), primary_key=True),
    Column("model_name", String(256), primary_key=True),
    Column("version", String(32), primary_key=True),
    Column("kind", String(16), primary_key=True),
    # The variant; of a promotion its trigger.
    Column("name", String(300), primary_key=True),
    # When MLflow created the version: that of a model that was deleted and registered anew is another one.
    Column("version_created_ms", BigInteger, nullable=False),
    # Versions may share a folder of files: an export that is replaced is replaced for all of them.
    Column("files_id", String(64), nullable=False, index=True),
    Column("manifest_sha256", String(64), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
)

approvals = Table(
    "registry_export_approvals",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("workspace", String(63), nullable=False),
    Column("model_name", String(256), nullable=False),
    Column("version", String(32), nullable=False),
    Column("version_created_ms", BigInteger, nullable=False),
    # As MLflow's basic-auth knows them; empty: it did not say.
    Column("approved_by", String(256), nullable=False),
    Column("reason", Text, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    # When the tag was changed or removed. Rows stay, to be read by whoever asks who let what through.
    Column("withdrawn_at_ms", BigInteger, nullable=True),
    Index("registry_export_approvals_by_version", "model_name", "version"),
    sqlite_autoincrement=True,
)


kept_rules = Table(
    "registry_export_gate_rules",
    metadata,
    # Of the path of the file of rules, as the server knows it.
    Column("place_sha256", String(64), primary_key=True),
    # What its rules require, in JSON, as it was when the file was last understood.
    Column("requirements", Text, nullable=False),
    Column("read_at_ms", BigInteger, nullable=False),
)


def exists(connection: Connection, table: Table) -> bool:
    """Whether a table is there."""
    return bool(inspect(connection).has_table(table.name))


def create(connection: Connection, table: Table) -> None:
    """Create one of the hook's own tables where it is absent: as the outbox is created, and as its owner.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: the database refused; what was done before in the transaction stands.
    """
    if exists(connection, table):
        return
    if connection.dialect.name in ("mysql", "mariadb"):  # which commit at DDL
        metadata.create_all(connection.engine, tables=[table])
        return
    try:
        with connection.begin_nested():
            metadata.create_all(connection, tables=[table])
    except SQLAlchemyError:
        if not exists(connection, table):  # another server was not faster: it is refused
            raise
