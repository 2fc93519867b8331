"""The tables as they were before alembic kept their version.

A ledger from that time has them, perhaps without the youngest: what is there stays, what is absent is made.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create what is absent."""
    _create_jobs()
    _create_promotions()
    _create_known_exports()
    _create_figures()
    _create_schema()


def _create_jobs() -> None:
    name = "registry_export_jobs"
    op.create_table(
        name,
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("event", sa.String(32), nullable=True, unique=True),
        sa.Column("workspace", sa.String(63), nullable=True),
        sa.Column("model_name", sa.String(256), nullable=False),
        sa.Column("version", sa.String(32), nullable=False),
        sa.Column("trigger", sa.String(320), nullable=False),
        sa.Column("targets", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("status", sa.String(16), nullable=True),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("previous_status", sa.String(64), nullable=True),
        sa.Column("previous", sa.String(32), nullable=True),
        sa.Column("puts_back", _ID, nullable=True),
        sa.Column("reversion_due_at_ms", sa.BigInteger, nullable=True),
        sa.Column("worker", sa.String(256), nullable=False),
        sa.Column("lease", sa.String(32), nullable=False),
        sa.Column("lease_expires_at_ms", sa.BigInteger, nullable=True),
        sa.Column("cancel_requested", sa.Boolean, nullable=False),
        sa.Column("running_version", sa.String(360), nullable=True, unique=True),
        sa.Column("running_checkpoint", sa.String(360), nullable=True, unique=True),
        sa.Column("available_at_ms", sa.BigInteger, nullable=False),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.Column("updated_at_ms", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
        if_not_exists=True,
    )
    op.create_index("registry_export_jobs_by_state", name, ["state", "available_at_ms"], if_not_exists=True)
    op.create_index("registry_export_jobs_by_version", name, ["model_name", "version"], if_not_exists=True)


def _create_promotions() -> None:
    name = "registry_export_promotions"
    op.create_table(
        name,
        sa.Column("workspace", sa.String(63), primary_key=True),
        sa.Column("model_name", sa.String(256), primary_key=True),
        sa.Column("promotion", sa.String(300), primary_key=True),
        sa.Column("version", sa.String(32), primary_key=True),
        sa.Column("missing", sa.String(64), nullable=False),
        sa.Column("checked_at_ms", sa.BigInteger, nullable=False),
        if_not_exists=True,
    )
    op.create_index("registry_export_promotions_by_check", name, ["workspace", "checked_at_ms"], if_not_exists=True)
    op.create_table(
        "registry_export_own_promotions",
        sa.Column("job_id", _ID, primary_key=True, autoincrement=False),
        sa.Column("workspace", sa.String(63), nullable=False),
        sa.Column("model_name", sa.String(256), nullable=False),
        sa.Column("version", sa.String(32), nullable=False),
        sa.Column("trigger", sa.String(300), nullable=False),
        sa.Column("seen", sa.Boolean, nullable=False),
        if_not_exists=True,
    )


def _create_known_exports() -> None:
    name = "registry_export_known_exports"
    op.create_table(
        name,
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("workspace", sa.String(63), nullable=False),
        sa.Column("model_name", sa.String(256), nullable=False),
        sa.Column("version", sa.String(32), nullable=False),
        sa.Column("variant", sa.String(256), nullable=False),
        sa.Column("manifest_sha256", sa.String(64), nullable=False),
        sa.Column("result_sha256", sa.String(64), nullable=False),
        sa.Column("used_at_ms", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("workspace", "model_name", "version", "variant"),
        if_not_exists=True,
    )
    op.create_index(f"ix_{name}_key", name, ["key"], if_not_exists=True)
    op.create_index(f"ix_{name}_used_at_ms", name, ["used_at_ms"], if_not_exists=True)


def _create_figures() -> None:
    op.create_table(
        "registry_export_cursors",
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("value_ms", sa.BigInteger, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "registry_export_step_costs",
        sa.Column("work", sa.String(255), primary_key=True),
        sa.Column("size_class", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("peak_bytes", sa.BigInteger, nullable=False),
        sa.Column("times", sa.Integer, nullable=False),
        sa.Column("updated_at_ms", sa.BigInteger, nullable=False),
        if_not_exists=True,
    )


def _create_schema() -> None:
    name = "registry_export_schema"
    op.create_table(name, sa.Column("version", sa.Integer, primary_key=True, autoincrement=False), if_not_exists=True)
    op.execute(f"INSERT INTO {name} (version) SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM {name})")  # noqa: S608
