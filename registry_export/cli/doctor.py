"""`registry-export doctor`."""

from __future__ import annotations

import sys

import click

from registry_export.cli.options import scheduler_option
from registry_export.cli.tables import print_json

_MARKS = {"ok": ("ok   ", "green"), "note": ("note ", "yellow"), "wrong": ("WRONG", "red")}


@click.command(short_help="Check connections, rights, rules, packages, runtimes; say what to mend.")
@scheduler_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(scheduler: str | None, as_json: bool) -> None:
    """Check what a worker would need here: the server, the ledger, the rules, every toolchain that the rules want.

    With --scheduler it looks at the Dask workers and the store too, and starts the toolchains there. A run is made and
    deleted again in the experiment `registry-export`. Exit code 1 where something is wrong.
    """
    from registry_export.doctor import WRONG, examine
    from registry_export.settings import Settings

    found = []
    for finding in examine(Settings.from_environment(), scheduler):
        found.append(finding)
        if not as_json:
            mark, colour = _MARKS[finding.state]
            click.echo(f"{click.style(mark, fg=colour)}  {finding.what}: {finding.said} {finding.remedy}".rstrip())
    if as_json:
        print_json(found)
    sys.exit(any(finding.state == WRONG for finding in found))
