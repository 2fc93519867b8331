"""What of a plan is on the way to what, and how long that takes: the longest path goes first."""

from __future__ import annotations

from collections.abc import Mapping

from registry_export.costs import Expectations
from registry_export.format import Format
from registry_export.graph import ExportPlan, PlannedTarget, Step


class Schedule:
    """The routes that a plan's targets take now, with what their steps are expected to take.

    Args:
        plan: The plan.
        formats: Every installed format, by name.
        expected: What steps take.
    """

    def __init__(self, plan: ExportPlan, formats: Mapping[str, Format], expected: Expectations) -> None:
        self._plan = plan
        self._formats = formats
        self._expected = expected
        self._ways: dict[str, tuple[Step, ...]] = {}

    def follow(self, variant: str, route: str) -> None:
        """Say that a target takes this route from now on."""
        self._ways = {**self._ways, variant: self._plan.way(route)}

    def longest_first(self, targets: list[PlannedTarget]) -> list[PlannedTarget]:
        """Order targets by what their first routes take; those without one come last."""
        for target in targets:
            if target.routes:
                self.follow(target.target.variant, target.routes[0])
        return sorted(targets, key=lambda one: -self._seconds(one.target.variant, 0) if one.routes else 0.0)

    def way(self, variant: str) -> tuple[Step, ...]:
        """Return the steps of a target's route, from the source on; none where it follows none."""
        return self._ways.get(variant, ())

    def seconds_from(self, step: Step) -> float:
        """Return how long the longest chain takes that begins with a step and ends in a verdict."""
        chains = ((variant, way.index(step)) for variant, way in self._ways.items() if step in way)
        return max((self._seconds(variant, at) for variant, at in chains), default=self._converting(step))

    def effort(self, step: Step) -> float:
        """Return a step's work beside other steps', where it was never measured."""
        return self._formats[step.format].conversions[step.conversion].cost

    def work(self, step: Step) -> str:
        """Return a step's name in what is learnt."""
        kind = self._formats[step.format].conversions[step.conversion].kind
        return f"convert {kind} to {step.id.rpartition('/')[2]}"

    def _seconds(self, variant: str, start: int) -> float:
        rest = self._ways[variant][start:]
        return sum(map(self._converting, rest)) + self._expected.of(verifying(variant)).seconds

    def _converting(self, step: Step) -> float:
        return self._expected.of(self.work(step), self.effort(step)).seconds


def verifying(variant: str) -> str:
    """Return the name of a verification in what is learnt."""
    return f"verify {variant}"
