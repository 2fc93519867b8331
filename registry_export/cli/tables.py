"""Plain tables for terminals, and the words in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registry_export.entities import TargetResult


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows in aligned columns; a cell's line breaks become spaces."""
    cells = [tuple(head), *(tuple(" ".join(cell.split()) or "-" for cell in row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for row in cells:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_json(value: object) -> None:
    """Print any of our records as JSON."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2).decode())


def print_targets(targets: Sequence[TargetResult]) -> None:
    """Print what became of each target, and below the table why some are not verified."""
    head = ("variant", "status", "version", "size", "max abs diff", "seconds")
    print_table(head, [_target_row(target) for target in targets])
    for target in targets:
        reason = _reason(target)
        if reason:
            click.echo(f"{target.variant}: {' '.join(reason.split())}")


def _target_row(target: TargetResult) -> tuple[str, ...]:
    from registry_export.report.text import number_text, size_text, version_text

    metrics = target.verification.metrics if target.verification else None
    difference = metrics.max_abs_diff if metrics else None
    return (
        target.variant,
        f"{target.status}{' (kept)' if target.reused else ''}",
        version_text(target),
        "" if target.size_bytes is None else size_text(target.size_bytes),
        "" if difference is None else number_text(difference),
        "" if target.convert_seconds is None else f"{target.convert_seconds:.1f}",
    )


def _reason(target: TargetResult) -> str:
    if target.error:
        return f"{target.error.step}: {target.error.message}"
    return target.verification.reason if target.verification else ""
