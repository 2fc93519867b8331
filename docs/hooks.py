"""What the site needs beyond docs/: the pages that lie elsewhere in the checkout, and links that lead to them.

README.md, ARCHITECTURE.md and the like stay where people look for them, and links between all pages are those that
a reader of the checkout follows. On the site the pages of other folders are under `project/`; a link to what is no
page keeps its words alone.
"""

from __future__ import annotations

import os.path
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from griffe import Extension, Function, Module
from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

_ROOT = Path(__file__).parents[1]
_DOCS = PurePosixPath("docs")
_ELSEWHERE = ("*.md", "examples/**/*.md")
_LINK = re.compile(r"\[(?P<words>[^][]*)\]\((?P<path>[^()#:\s]+)(?P<anchor>#[^()\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside of docs/."""
    for pattern in _ELSEWHERE:
        for path in sorted(_ROOT.glob(pattern)):
            uri = _uri_of(PurePosixPath(path.relative_to(_ROOT)))
            files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Turn the checkout's links into the site's."""
    here = PurePosixPath(Path(page.file.abs_src_path or "").relative_to(_ROOT))

    def replaced(link: re.Match[str]) -> str:
        there = PurePosixPath(os.path.normpath(here.parent / link["path"]))
        uri = _uri_of(there / "README.md" if (_ROOT / there).is_dir() else there)
        if uri in files.src_uris:
            path = os.path.relpath(uri, PurePosixPath(page.file.src_uri).parent)
            return f"[{link['words']}]({path}{link['anchor'] or ''})"
        return link["words"] if (_ROOT / there).exists() else link[0]

    return _LINK.sub(replaced, markdown)


def _uri_of(path: PurePosixPath) -> str:
    """Where the site has a file of the checkout."""
    if _DOCS in path.parents:
        return str(path.relative_to(_DOCS))
    return str(PurePosixPath("project", *path.parts[:-1], path.name.replace("README", "index")))


class FunctionsFirst(Extension):
    """Shows `registry_export.export` as the function that importers get, not as the module of that name."""

    def __init__(self) -> None:
        self._functions: list[Function] = []

    def on_function_instance(self, *, func: Function, **_rest: object) -> None:
        """Remember the functions of packages: loading a submodule replaces them."""
        if isinstance(func.parent, Module) and func.parent.is_package:
            self._functions.append(func)

    def on_package(self, *, pkg: Module, **_rest: object) -> None:
        """Put them back, once everything is loaded."""
        for function in self._functions:
            if function.parent is pkg:
                pkg.set_member(function.name, function)
