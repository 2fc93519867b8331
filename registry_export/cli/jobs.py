"""`registry-export jobs`: the ledger."""

from __future__ import annotations

import click


@click.group()
def jobs() -> None:
    """List, show, retry and cancel jobs of the ledger."""
