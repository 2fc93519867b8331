"""The aliases of a large registry, read in rounds: some pages at a time, all within an hour.

MLflow moves no time stamp when an alias is set and lists aliases with the registered models alone, so each has to be
read again and again.
"""

from __future__ import annotations

import time

from registry_export.entities import ModelVersionRef
from registry_export.registry.client import Registry
from registry_export.registry.listings import AliasPage

ROUND_S = 3000.0
"""What a round over everything may take, in seconds; with what may come in between it ends within the hour."""

_TURN_S = 0.25


class AliasRounds:
    """Goes round the registered models.

    Args:
        registry: What is read.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._token: str | None = None
        self._began = time.monotonic()
        self._read = 0
        self._known = 0

    def turn(self, *, whole: bool = False) -> tuple[AliasPage, bool]:
        """Read on where the last turn ended: for a quarter of a second, longer where the round would come too late.

        Args:
            whole: Read everything.

        Returns:
            What was read, and whether it is the whole registry.

        Raises:
            RegistryError: The server does not answer; the round begins anew with the next turn.
        """
        if whole:
            self._token = None
        from_start, token = self._token is None, self._token
        if from_start:
            self._began, self._read = time.monotonic(), 0
        until = time.monotonic() + _TURN_S
        models: set[str] = set()
        aliases: set[tuple[ModelVersionRef, str]] = set()
        self._token = None
        while True:
            page = self._registry.alias_page(token)
            models |= page.models
            aliases |= page.aliases
            self._read += len(page.models)
            token = page.next_token
            if token is None:
                self._known = self._read
                break
            if not whole and time.monotonic() >= until and self._read >= self._due():
                break
        self._token = token
        return AliasPage(frozenset(models), frozenset(aliases), token), from_start and token is None

    def _due(self) -> float:
        """How many models the round should have read by now, for as many as the last one met."""
        return self._known * (time.monotonic() - self._began) / ROUND_S
