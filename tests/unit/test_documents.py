"""A reader who follows a link in the checkout arrives somewhere."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_to_its_heading(page):
    astray = [link for link in links_of(page) if not arrives(page, link)]
    assert not astray


def arrives(page: Path, link: str) -> bool:
    """Whether a link leads elsewhere on the net, or to something in the checkout."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return True
    there = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not (there.is_relative_to(ROOT) and there.exists()):
        return False
    return not parts.fragment or parts.fragment in anchors_of(there)


def links_of(page: Path) -> list[str]:
    tokens = [inner for token in tokens_of(page) for inner in token.children or []]
    found = [token.attrGet("href") or token.attrGet("src") for token in tokens if token.type in ("link_open", "image")]
    return [str(link) for link in found]


def anchors_of(page: Path) -> list[str]:
    """What the headings of a page are called in addresses, as GitHub does it."""
    tokens = list(tokens_of(page))
    headings = [after.content for before, after in itertools.pairwise(tokens) if before.type == "heading_open"]
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def tokens_of(page: Path) -> Iterator[Token]:
    yield from MarkdownIt("commonmark").enable("table").parse(page.read_text())
