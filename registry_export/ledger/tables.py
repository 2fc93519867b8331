"""The ledger's tables as they are now; `migrations/` leads to them, and a test compares the two."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData()

_ID = BigInteger().with_variant(Integer, "sqlite")

jobs = Table(
    "registry_export_jobs",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    # The outbox row it came from: a row that is read twice becomes one job.
    Column("event", String(32), nullable=True, unique=True),
    Column("workspace", String(63), nullable=True),
    Column("model_name", String(256), nullable=False),
    Column("version", String(32), nullable=False),
    Column("trigger", String(320), nullable=False),
    Column("targets", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempt", Integer, nullable=False),
    # How many of the attempts ended because their worker vanished.
    Column("vanished", Integer, nullable=False, server_default=text("0")),
    Column("status", String(16), nullable=True),
    Column("error", Text, nullable=False),
    Column("run_id", String(64), nullable=False),
    Column("previous_status", String(64), nullable=True),
    Column("previous", String(32), nullable=True),
    Column("puts_back", _ID, nullable=True),
    # The outbox row's.
    Column("details", Text, nullable=True),
    # Set when the promotion of a settled job is to be put back: not before this time. Whoever takes it in hand moves it
    # on, and who has done it clears it, so that another worker takes it up again after a death.
    Column("reversion_due_at_ms", BigInteger, nullable=True),
    Column("worker", String(256), nullable=False),
    Column("lease", String(32), nullable=False),
    Column("lease_expires_at_ms", BigInteger, nullable=True),
    Column("cancel_requested", Boolean, nullable=False),
    # Set while running, and unique: two jobs that would publish into the same folder never run at once, whoever
    # claims them. NULL, which is never equal to NULL, otherwise.
    Column("running_version", String(360), nullable=True, unique=True),
    Column("running_checkpoint", String(360), nullable=True, unique=True),
    Column("available_at_ms", BigInteger, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("updated_at_ms", BigInteger, nullable=False),
    Index("registry_export_jobs_by_state", "state", "available_at_ms"),
    Index("registry_export_jobs_by_version", "model_name", "version"),
    sqlite_autoincrement=True,
)

promotions = Table(
    "registry_export_promotions",
    metadata,
    Column("workspace", String(63), primary_key=True),
    Column("model_name", String(256), primary_key=True),
    Column("promotion", String(300), primary_key=True),
    Column("version", String(32), primary_key=True),
    Column("missing", String(64), nullable=False),
    Column("checked_at_ms", BigInteger, nullable=False),
    Index("registry_export_promotions_by_check", "workspace", "checked_at_ms"),
)
"""What the reconciler has seen promoted. `missing`: digest of what it queued an export for; empty: all was there."""

own_promotions = Table(
    "registry_export_own_promotions",
    metadata,
    # The job whose failed promotion is being put back.
    Column("job_id", _ID, primary_key=True, autoincrement=False),
    Column("workspace", String(63), nullable=False),
    Column("model_name", String(256), nullable=False),
    Column("version", String(32), nullable=False),
    Column("trigger", String(300), nullable=False),
    # Whether it has come back through the hook.
    Column("seen", Boolean, nullable=False),
)
"""What a worker is about to promote itself, from before it asks the registry until the reversion has ended."""

known_exports = Table(
    "registry_export_known_exports",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    # Digest of everything that the export depends on; several versions may have exports of one key.
    Column("key", String(64), nullable=False, index=True),
    Column("workspace", String(63), nullable=False),
    Column("model_name", String(256), nullable=False),
    Column("version", String(32), nullable=False),
    Column("variant", String(256), nullable=False),
    Column("manifest_sha256", String(64), nullable=False),
    Column("result_sha256", String(64), nullable=False),
    Column("used_at_ms", BigInteger, nullable=False, index=True),
    UniqueConstraint("workspace", "model_name", "version", "variant"),
)
"""Verified exports that are published; see `known_exports.py`."""

cursors = Table(
    "registry_export_cursors",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("value_ms", BigInteger, nullable=False),
)

step_costs = Table(
    "registry_export_step_costs",
    metadata,
    # A step's name among all of its kind, and the class of the checkpoint's size.
    Column("work", String(255), primary_key=True),
    Column("size_class", Integer, primary_key=True, autoincrement=False),
    Column("seconds", Float, nullable=False),
    Column("peak_bytes", BigInteger, nullable=False),
    Column("times", Integer, nullable=False),
    Column("updated_at_ms", BigInteger, nullable=False),
)
"""What steps took, for the scheduler of the next export."""

schema = Table("registry_export_schema", metadata, Column("version", Integer, primary_key=True, autoincrement=False))
"""What workers from before alembic compare with the version that they know. It says 2 since, so that they refuse."""
