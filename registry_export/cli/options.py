"""Options that several commands have."""

from __future__ import annotations

import click

scheduler_option = click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Run the steps on the Dask cluster of this scheduler (tcp://host:8786), through the store "
    "REGISTRY_EXPORT_BLOBS; by default they run here.",
)
