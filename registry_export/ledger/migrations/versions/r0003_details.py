"""Keep what the promotion's own transaction knew of it: who let it through a gate."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add a column that older workers leave empty."""
    op.add_column("registry_export_jobs", sa.Column("details", sa.Text, nullable=True))
