"""`registry-export check`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Check files with rules, without a server.")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
def check(files: tuple[Path, ...]) -> None:
    """Check files with rules: what a worker would refuse to start with is told with file, line, key and choices.

    It asks no server and loads no model. As a hook of pre-commit: `registry-export-check`.
    """
    from registry_export.config import load_configuration
    from registry_export.discovery import discover_formats

    formats = discover_formats()
    for file in files:
        rules = load_configuration(file, formats).rules
        click.echo(f"{file}: {len(rules)} {'rule' if len(rules) == 1 else 'rules'}, understood.")
