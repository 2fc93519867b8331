"""The templates of the pages, with what all of them are rendered by."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template


def template(name: str, **filters: Callable[..., Any]) -> Template:
    """Load a template whose every text is escaped and in which an unknown name is an error.

    Args:
        name: Its file in `templates/`.
        filters: What it may call, by name.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("registry_export", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    return environment.get_template(name)
