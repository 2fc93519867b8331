"""The block that we keep in a version's description, among what people wrote."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from registry_export.entities import ExportReport, Status, TargetResult
from registry_export.report.text import (
    MISSING,
    approval_text,
    escaped,
    number_text,
    reason_text,
    shortened,
    size_text,
    verdict_sentence,
    version_text,
)

BEGIN = "<!-- registry-export:begin -->"
END = "<!-- registry-export:end -->"

_BLOCK = re.compile(re.escape(BEGIN) + r"(?:(?!" + re.escape(BEGIN) + r").)*?" + re.escape(END), re.DOTALL)
_LONGEST_REASON = 200
_REPORT = "exports/report.html"
_HEAD = ("target", "status", "version", "size", "max abs diff")
_SPACE = "&emsp;"
_EM_PER_CHARACTER = 0.55

Link = Callable[[str], str | None]
"""From a path in the version's folder to a link that MLflow's UI follows; None where there is none."""


def description_block(report: ExportReport, link: Link, limit: int) -> str:
    """Write the table of targets, with its markers, in no more characters than there are.

    Args:
        report: What the version has.
        link: Makes the links to files.
        limit: The most characters that the block may have. A line with a link takes the table's place
            when it does not fit, and an empty text the line's.
    """
    full = _full(report, link)
    for body in (full, *_without_reasons(report, link), _line(report, link), _line(report, link, named=False)):
        block = f"{BEGIN}\n{body}\n{END}"
        if len(block) <= limit:
            return block
    return ""


def with_block(description: str, block: str) -> str:
    """Put a block in the place of an earlier one, else at the end; an empty block only removes that.

    Whatever stands outside the markers stays as it is.
    """
    before, found, after = _split(description)
    if found:
        return f"{before}{block}{after}" if block else (before.rstrip("\n") + after)
    if not block:
        return description
    return f"{description}\n\n{block}" if description.strip() else block


def text_around(description: str) -> int:
    """Count the characters that a description has, or would get, besides a block."""
    before, found, after = _split(description)
    return len(before) + len(after) if found else len(description) + 2 * bool(description.strip())


def _split(description: str) -> tuple[str, bool, str]:
    match = _BLOCK.search(description)
    if match is None:
        return description, False, ""
    return description[: match.start()], True, description[match.end() :]


def _full(report: ExportReport, link: Link) -> str:
    reasons = [
        f"- **{escaped(result.variant)}** {result.status}: {escaped(shortened(reason, _LONGEST_REASON))}"
        for result in report.targets
        if (reason := reason_text(result))
    ]
    return "\n".join([_table(report, link), *(["", *reasons] if reasons else [])])


def _without_reasons(report: ExportReport, link: Link) -> tuple[str, ...]:
    return (_table(report, link), _table(report, lambda _: None))


def _table(report: ExportReport, link: Link) -> str:
    if not report.targets:
        return _line(report, link)
    metric = next((name for result in report.targets for name in result.evaluation), "")
    rows = [(*_cells(result), *_measured(result, metric)) for result in report.targets]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    names = (*_HEAD, *([escaped(metric)] if metric else []))
    head = [_padded(name, width) for name, width in zip(names, widths, strict=True)]
    linked = [
        [_linked(cells[0], link(f"exports/{result.variant}") if _has_files(result) else None), *cells[1:]]
        for result, cells in zip(report.targets, rows, strict=True)
    ]
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *linked)]
    return "\n".join([_line(report, link), "", lines[0], "|" + ":---|" * len(names), *lines[1:]])


def _cells(result: TargetResult) -> tuple[str, ...]:
    metrics = result.verification.metrics if result.verification is not None else None
    return (
        result.variant,
        str(result.status),
        version_text(result) or MISSING,
        size_text(result.size_bytes),
        number_text(metrics.max_abs_diff if metrics else None),
    )


def _measured(result: TargetResult, metric: str) -> tuple[str, ...]:
    if not metric:
        return ()
    value = result.evaluation.get(metric)
    return (MISSING if value is None else f"{value:.4g}",)


def _has_files(result: TargetResult) -> bool:
    return result.size_bytes is not None and result.status is not Status.FAILED


def _padded(name: str, width: int) -> str:
    """Make a column wider than its cells: MLflow shows tables without any space between columns."""
    return name + _SPACE * (1 + math.ceil(max(0, width - len(name)) * _EM_PER_CHARACTER))


def _line(report: ExportReport, link: Link, *, named: bool = True) -> str:
    sentence = escaped(shortened(verdict_sentence(report), _LONGEST_REASON))
    approval = escaped(shortened(approval_text(report.approval), _LONGEST_REASON))
    line = f"**Exports: {report.status}.** {sentence} {_report_link(link, named=named)}".rstrip()
    return f"{line}\n\n{approval}" if approval else line


def _report_link(link: Link, *, named: bool = True) -> str:
    target = link(_REPORT)
    if target is None:
        return ""
    # The page of a logged model has no address for one of its files: there its name is the way to it.
    return f"[Report]({target}){f': {escaped(_REPORT)}' if named and not target.endswith(_REPORT) else ''}"


def _linked(text: str, target: str | None) -> str:
    return f"[{escaped(text)}]({target})" if target else escaped(text)
