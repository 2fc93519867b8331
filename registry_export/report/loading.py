"""How an export is loaded: through this package, and by its format's own runtime alone."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

from registry_export.discovery import discover_formats
from registry_export.entities import ExportReport, Snippet, TargetResult
from registry_export.report.text import is_usable

_OWN = "registry-export"

_log = logging.getLogger(__name__)


def snippets(report: ExportReport, result: TargetResult) -> tuple[Snippet, ...]:
    """Return the ways to load a target's files, ours first; none where `load` hands nothing out."""
    if not is_usable(result):
        return ()
    return (Snippet("Python", _OWN, "\n".join(_lines(report, result))), *_of_format(result))


def _of_format(result: TargetResult) -> tuple[Snippet, ...]:
    """Ask the format; a stranger's that fails costs the report no more than its lines."""
    tell = getattr(discover_formats().get(result.format), "snippets", None)
    if tell is None or result.description is None:
        return ()
    try:
        return tuple(snippet for snippet in tell(result.description) if isinstance(snippet, Snippet))
    except Exception as error:  # noqa: BLE001  a plugin's, given names and sizes that nobody has foreseen
        _log.warning("The format %s does not say how %s is loaded: %s", result.format, result.variant, error)
        return ()


def _lines(report: ExportReport, result: TargetResult) -> Iterator[str]:
    interface = result.description.interface if result.description is not None else None
    names = [spec.name or "x" for spec in interface.inputs] if interface else ["x"]
    arrays = ", ".join(f"{_quoted(name)}: {_variable(name)}" for name in names)
    yield "import registry_export"
    yield ""
    yield f"with registry_export.load({_quoted(report.model_version.uri)}, {_quoted(result.variant)}) as model:"
    yield f"    outputs = model.predict({{{arrays}}})"


def _quoted(text: str) -> str:
    """A string literal of Python, in the quotes that people write."""
    return json.dumps(text, ensure_ascii=False)


def _variable(name: str) -> str:
    cleaned = "".join(character if character.isalnum() else "_" for character in name)
    return cleaned if cleaned.isidentifier() else f"x_{cleaned}"
