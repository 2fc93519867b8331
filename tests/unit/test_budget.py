"""Which rungs of a ladder a slow source is run on."""

from __future__ import annotations

import numpy as np

from registry_export.budget import LADDER_SECONDS, Budget
from registry_export.dimensions import Group
from registry_export.variations import Variation, variations

BASE = {"ids": np.ones((2, 8), np.int64)}
BATCH = Group("batch", (("ids", 0),), 2)
LENGTH = Group("length", (("ids", 1),), 8)
FOUND = list(variations(BASE, (BATCH, LENGTH)))


def names(found: list[Variation]) -> list[str]:
    return [one.name for one in found]


def test_a_quick_source_is_run_on_all_rungs_in_their_order():
    budget = Budget(BASE, 0.01)
    assert budget.affordable(FOUND) == FOUND
    assert budget.notes == ()


def test_the_costliest_rungs_are_left_out_first_and_named():
    budget = Budget(BASE, LADDER_SECONDS / 10)
    kept = budget.affordable(FOUND)
    assert set(names(FOUND)) - set(names(kept)) == set(budget.dropped)
    assert budget.dropped[0] == "batch 16"
    costs = {one.name: budget.cost(one.inputs) for one in FOUND}
    assert sum(costs[one.name] for one in kept if one.group) <= LADDER_SECONDS
    assert min(costs[name] for name in budget.dropped) >= max(costs[one.name] for one in kept if one.group)
    assert names(kept) == [name for name in names(FOUND) if name not in budget.dropped]
    assert "batch 16" in budget.notes[0]
    assert "24.0 s for its example" in budget.notes[0]


def test_every_dimension_keeps_its_cheapest_other_size_however_slow_the_source_is():
    kept = Budget(BASE, 10 * LADDER_SECONDS).affordable(FOUND)
    assert names(kept) == ["example", "batch 1", "length 1"]


def test_what_is_bought_is_paid_for_once():
    budget = Budget(BASE, 1.0, left=10.0)
    assert budget.pays("drawn", 6.0)
    assert not budget.pays("zeros", 6.0)
    assert budget.pays("tiny", 4.0)
    assert budget.dropped == ["zeros"]
