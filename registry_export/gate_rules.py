"""What the server's file of rules requires: read again when it has changed, and kept for a start that cannot read it.

A file that somebody breaks must open no gate. A process goes on with what it has read; one that starts with a broken
file goes by what the registry's database keeps of it, which every server writes there with its promotions.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from registry_export.config import Requirements, read_requirements
from registry_export.errors import ConfigurationError
from registry_export.gate_tables import create, exists, kept_rules
from registry_export.outbox import database_now_ms
from registry_export.settings import CONFIG, config_places

if TYPE_CHECKING:
    from sqlalchemy import Connection

_logger = logging.getLogger(__name__)

_Stamp = tuple[str, int, int]


class GateRules:
    """What this process knows of the file."""

    def __init__(self) -> None:
        self._stamp: _Stamp | None = None
        self._requirements = Requirements()
        self._is_known = False
        self._why_unknown = ""
        self._is_kept = True

    def now(self, connection: Connection | None = None) -> Requirements:
        """Return what is required now; of a file that cannot be read, what was before.

        Args:
            connection: One to the registry's database, in a transaction, which goes on whatever happens here; without
                it nothing is kept and nothing looked up.
        """
        stamp = _stamp()
        if stamp != self._stamp:
            self._read(stamp)
        if connection is not None and stamp is not None:
            if self._why_unknown:
                self._recall(connection, stamp[0])
            elif not self._is_kept:
                self._keep(connection, stamp[0])
        return self._requirements

    def _read(self, stamp: _Stamp | None) -> None:
        try:
            requirements = _requirements_of(stamp)
        except (OSError, UnicodeDecodeError, ConfigurationError) as error:
            why = f"{stamp[0] if stamp else ''} cannot be read. {error}"
            if self._is_known:
                _logger.error("Gates go on with what the file of rules said before: %s", why)
            else:
                _logger.error("Gates do not know what is required: %s", why)
                self._why_unknown = why
            if isinstance(error, OSError):
                return  # which may pass while the file stays as it is
        else:
            self._requirements, self._is_known, self._why_unknown = requirements, stamp is not None, ""
            self._is_kept = stamp is None
        self._stamp = stamp

    def _recall(self, connection: Connection, place: str) -> None:
        kept = None
        try:
            with connection.begin_nested():
                told = _told(connection, place)
                kept = None if told is None else msgspec.json.decode(told, type=Requirements)
        except Exception:
            _logger.exception("What the registry's database keeps of %s could not be looked up.", place)
        if kept is None:
            _logger.error("NO GATE IS CLOSED: nobody knows what the file of rules said before. %s", self._why_unknown)
            return
        _logger.error("Gates go by what was kept of the file of rules: %s", self._why_unknown)
        self._requirements, self._is_known, self._why_unknown = kept, True, ""

    def _keep(self, connection: Connection, place: str) -> None:
        """Keep what the file says now. It is done once this is seen in a later transaction: this one may roll back."""
        requirements = self._requirements
        text = msgspec.json.encode(requirements).decode()
        try:
            with connection.begin_nested():
                told = _told(connection, place)
                if told == text or (told is None and not requirements.by_models):
                    self._is_kept = self._requirements is requirements  # else another thread has read a change
                else:
                    _tell(connection, place, text, is_new=told is None)
        except IntegrityError:
            _logger.debug("Another server was faster.", exc_info=True)
        except Exception:
            _logger.warning(
                "What %s requires could not be kept in the registry's database: a server that starts when the file "
                "cannot be read will have no gates.",
                place,
                exc_info=True,
            )
            self._is_kept = True  # not asked for again before the file changes


def _told(connection: Connection, place: str) -> str | None:
    if not exists(connection, kept_rules):
        return None
    query = select(kept_rules.c.requirements).where(kept_rules.c.place_sha256 == _digest(place))
    return connection.execute(query).scalar()


def _tell(connection: Connection, place: str, text: str, *, is_new: bool) -> None:
    create(connection, kept_rules)
    values = {"requirements": text, "read_at_ms": database_now_ms()}
    if is_new:
        connection.execute(kept_rules.insert().values(place_sha256=_digest(place), **values))
    else:
        connection.execute(kept_rules.update().where(kept_rules.c.place_sha256 == _digest(place)).values(values))


def _digest(place: str) -> str:
    return hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()


@functools.cache
def places() -> tuple[str, ...]:
    """Where the file may be; the first that is there counts."""
    return tuple(str(place.absolute()) for place in config_places(os.environ))


def _stamp() -> _Stamp | None:
    """Name the file as it is now; None: there is none."""
    for place in places():
        try:
            found = os.stat(place)  # noqa: PTH116 - a Path costs more than the look itself
        except (FileNotFoundError, NotADirectoryError, PermissionError):  # of a home that is another user's, too
            continue
        except OSError:
            return place, 0, 0  # a disk that does not answer: reading it says why, and takes nobody's gates away
        return place, found.st_mtime_ns, found.st_size
    return (places()[0], 0, 0) if os.environ.get(CONFIG) else None


def _requirements_of(stamp: _Stamp | None) -> Requirements:
    if stamp is None:
        return Requirements()
    return read_requirements(Path(stamp[0]).read_bytes().decode("utf-8-sig"), stamp[0])


rules = GateRules()
