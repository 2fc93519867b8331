"""What the command line and Python callers share when they look into models: from a URI or a path to what it holds."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from registry_export.contents import Subject, contents_of, contents_of_two, local_subject, split, stored_subject
from registry_export.contrast import contrast
from registry_export.isolation import ChildPool, Limits
from registry_export.scratch import Scratch
from registry_export.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry_export.entities import Contents, Contrast


def inspect(model: str, target: str = "", *, format_name: str = "") -> tuple[str, Contents]:
    """Read what a checkpoint, an export or a file of one's own holds.

    Args:
        model: As for `registry_export.export`, with `#TARGET` behind it for an export; or a path.
        target: A target or a variant of the version; empty: the checkpoint.
        format_name: The format of a file whose name does not say it.

    Returns:
        What the model is called, and its contents.

    Raises:
        ConfigurationError: A word is not understood, or there is no such file.
        RegistryExportError: It cannot be fetched or read.
    """
    with _looking() as look:
        subject = look.subject(model, target, format_name)
        return subject.name, contents_of(subject, look.session.formats, look.pool)


def diff(one: str, other: str, target: str = "", *, format_name: str = "") -> Contrast:
    """Compare what two models hold. Arguments and errors as for `inspect`."""
    with _looking() as look:
        first, second = (look.subject(model, target, format_name) for model in (one, other))
        mine, theirs, differences = contents_of_two(first, second, look.session.formats, look.pool)
        return contrast((first.name, mine), (second.name, theirs), differences)


@contextmanager
def fetched(model: str, target: str = "", *, format_name: str = "") -> Iterator[Subject]:
    """Fetch a checkpoint or an export while this is entered. Arguments and errors as for `inspect`."""
    with _looking() as look:
        yield look.subject(model, target, format_name)


@dataclass(frozen=True)
class _Look:
    """What is worked with: a session, children, a folder for what is fetched."""

    session: Session
    pool: ChildPool
    folder: Path

    def subject(self, model: str, target: str, format_name: str) -> Subject:
        uri, target = split(model, target)
        if uri.startswith("models:/"):
            work = Path(tempfile.mkdtemp(dir=self.folder))
            return stored_subject(uri, target, self.session.registry, self.session.formats, work)
        return local_subject(uri, format_name, self.session.formats)


@contextmanager
def _looking() -> Iterator[_Look]:
    session = Session()
    limits = Limits(session.settings.child_timeout_s, session.settings.child_memory_bytes)
    with Scratch() as folder, ChildPool(limits) as pool:
        yield _Look(session, pool, folder)
