"""Count the attempts whose worker vanished, apart from all others."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the count, and tell workers from before alembic that the tables are no longer theirs to use."""
    op.add_column(
        "registry_export_jobs", sa.Column("vanished", sa.Integer, nullable=False, server_default=sa.text("0"))
    )
    op.execute("UPDATE registry_export_schema SET version = 2")
