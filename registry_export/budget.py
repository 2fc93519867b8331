"""How long a source may be run for its ladder: where a run takes seconds, the costliest rungs go first.

A run of a large model on a long text takes minutes, and sixteen texts take sixteen times as long. What a rung costs
is guessed from what the example took, by the number of elements. As long as the sum is too much, the costliest
rung is left out; never the example, nor the cheapest other size of a dimension, without which nothing would be shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from registry_export.samples import Array
from registry_export.variations import Variation

LADDER_SECONDS = 240.0
"""What the plain runs of a source on its ladder may take. Its noise floor costs about as much again, and so does
every export's run on the same rungs; a child has 1800 s by default."""


@dataclass
class Budget:
    """What is left for a ladder, and what was left out.

    Attributes:
        example: The first inputs.
        seconds: What the source took for them.
        left: Seconds.
        dropped: Names of what was left out, the costliest first.
    """

    example: Mapping[str, Array]
    seconds: float
    left: float = LADDER_SECONDS
    dropped: list[str] = field(default_factory=list)

    def cost(self, inputs: Mapping[str, Array]) -> float:
        """Guess the seconds of a run."""
        return self.seconds * max(1, _elements(inputs)) / max(1, _elements(self.example))

    def affordable(self, found: Sequence[Variation]) -> list[Variation]:
        """Leave the costliest out until the rest can be paid, and pay for it."""
        costs = {id(one): self.cost(one.inputs) if one.group else 0.0 for one in found}
        cheapest: dict[str, Variation] = {}
        for one in sorted(found, key=lambda one: costs[id(one)]):
            cheapest.setdefault(one.group, one)
        needed = {id(one) for one in cheapest.values()}
        kept = list(found)
        for one in sorted(found, key=lambda one: -costs[id(one)]):
            if sum(costs[id(other)] for other in kept) <= self.left:
                break
            if one.group and id(one) not in needed:
                kept.remove(one)
                self.dropped.append(one.name)
        self.left -= sum(costs[id(one)] for one in kept)
        return kept

    def pays(self, what: str, seconds: float) -> bool:
        """Pay for something else, or note that it is left out."""
        if seconds > self.left:
            self.dropped.append(what)
            return False
        self.left -= seconds
        return True

    @property
    def notes(self) -> tuple[str, ...]:
        """Say what was left out, and why; nothing where all was run."""
        if not self.dropped:
            return ()
        names = ", ".join(dict.fromkeys(self.dropped))
        why = f"the source takes {self.seconds:.1f} s for its example, and {LADDER_SECONDS:.0f} s are all there is"
        return (f"Not run, because {why} for other inputs, the costliest of which are left out first: {names}.",)


def _elements(inputs: Mapping[str, Array]) -> int:
    return sum(int(array.size) for array in inputs.values())
