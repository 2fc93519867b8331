"""Where the authors of models work: children like any other, without walls, for they talk to servers.

`python -m tests.support.authors` is the warm parent of such children.
"""

from __future__ import annotations

import atexit
import functools
import os
import sys
from pathlib import Path

import msgspec
import pytest

from registry_export.isolation import ChildPool, Limits, WarmParents, parent, sandbox
from registry_export.isolation.protocol import Preparation


class _Parents(WarmParents):
    parent_module = "tests.support.authors"

    def _started(self, *arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)
            return super()._started(*arguments)


class AuthorPool(ChildPool):
    """Children that read, write and connect as the tests themselves do."""

    def __init__(self, limits: Limits | None = None) -> None:
        super().__init__(limits, _Parents())


@functools.cache
def authors() -> AuthorPool:
    """Return the one pool of this process; it is closed with it."""
    pool = AuthorPool(Limits(timeout_s=300))
    atexit.register(pool.close)
    return pool


if __name__ == "__main__":
    sandbox.enter = lambda room: None
    sandbox.walls = lambda: ()
    parent.leave_the_network = lambda: False
    parent.main(int(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=Preparation))
