"""The aliases of a registry too large for one turn: nothing is left out, and a round ends within the hour."""

from __future__ import annotations

from typing import Any, cast

import pytest

from registry_export.entities import ModelVersionRef
from registry_export.errors import RegistryUnavailableError
from registry_export.registry import alias_rounds
from registry_export.registry.alias_rounds import ROUND_S, AliasRounds
from registry_export.registry.listings import AliasPage


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class Registry:
    """Pages of ten models, each read in `seconds`."""

    def __init__(self, clock: Clock, pages: int, seconds: float) -> None:
        self.clock, self.pages, self.seconds = clock, pages, seconds
        self.down = False

    def alias_page(self, token: str | None = None) -> AliasPage:
        if self.down:
            raise RegistryUnavailableError("It is down.")
        self.clock.now += self.seconds
        page = int(token or 0)
        names = frozenset(f"model-{page}-{number}" for number in range(10))
        aliases = frozenset((ModelVersionRef(name, "1"), "champion") for name in names)
        return AliasPage(names, aliases, str(page + 1) if page + 1 < self.pages else None)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(alias_rounds, "time", clock)
    return clock


def rounds_of(registry):
    return AliasRounds(cast(Any, registry))


def test_a_small_registry_is_read_in_every_turn(clock):
    rounds = rounds_of(Registry(clock, pages=3, seconds=0.05))
    for _ in range(3):
        page, is_everything = rounds.turn()
        assert is_everything
        assert len(page.models) == len(page.aliases) == 30


def test_turns_go_on_where_the_last_one_ended_until_everything_was_read(clock):
    rounds = rounds_of(Registry(clock, pages=12, seconds=0.1))
    turns = [rounds.turn() for _ in range(4)]
    assert not any(is_everything for _, is_everything in turns), "a part is never taken for the whole"
    read = [name for page, _ in turns for name in page.models]
    assert len(read) == len(set(read)) == 120
    assert rounds.turn()[0].models == turns[0][0].models, "the next round begins"


def test_rare_turns_read_more_so_that_a_round_ends_in_time(clock):
    rounds = rounds_of(Registry(clock, pages=100, seconds=1.0))
    rounds.turn(whole=True)  # how many there are is known from here on
    began, read = clock.now, set()
    while len(read) < 1000:
        read |= rounds.turn()[0].models
        clock.now += ROUND_S / 10
    assert clock.now - began <= 1.2 * ROUND_S


def test_the_whole_is_read_at_once_where_that_is_wanted(clock):
    rounds = rounds_of(Registry(clock, pages=12, seconds=1.0))
    rounds.turn()
    page, is_everything = rounds.turn(whole=True)
    assert is_everything
    assert len(page.models) == 120


def test_a_server_that_was_down_loses_nobody(clock):
    registry = Registry(clock, pages=12, seconds=0.15)
    rounds = rounds_of(registry)
    first = rounds.turn()[0].models
    registry.down = True
    with pytest.raises(RegistryUnavailableError):
        rounds.turn()
    registry.down = False
    assert rounds.turn()[0].models == first
