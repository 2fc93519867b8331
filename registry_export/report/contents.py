"""What a model holds, as one HTML page without scripts and without anything to fetch."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from registry_export.report import text
from registry_export.report.templating import template

if TYPE_CHECKING:
    from jinja2 import Template

    from registry_export.entities import Contents


def contents_page(name: str, contents: Contents) -> str:
    """Write a model's contents as a self-contained HTML page; every text is escaped.

    Args:
        name: What the model is called.
        contents: What it holds.
    """
    return _template().render(name=name, contents=contents)


def _short(value: float | None) -> str:
    return text.MISSING if value is None else f"{value:.4g}"


@functools.cache
def _template() -> Template:
    return template("contents.html.j2", size=text.size_text, shape=text.shape_text, short=_short)
