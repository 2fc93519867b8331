"""The source on the rungs of its ladder: what it answers, and which dimensions it refuses to vary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from registry_export.budget import Budget
from registry_export.dimensions import BATCH, Group, Sum
from registry_export.format import Runner
from registry_export.inference import answered, one_line
from registry_export.ladder import drawn, edges
from registry_export.samples import Array
from registry_export.variations import Variation, multiples, variations

_TIMES_RUN = 4
"""How often the source is run on inputs beyond its sample's: plainly, and for the noise floor there."""
_SEVERAL = 2
"""Rows from which a batch of 1 is told apart."""


def climb(
    runner: Runner,
    base: Mapping[str, Array],
    expected: dict[str, Array],
    dimensions: Sequence[Group],
    together: Sequence[Sum],
    budget: Budget,
) -> tuple[list[tuple[Variation, dict[str, Array]]], tuple[Group, ...], list[str]]:
    """Run every variation that the budget allows; a dimension that the source itself refuses to vary is not dynamic."""
    runs: list[tuple[Variation, dict[str, Array]]] = []
    refused: dict[str, str] = {}

    def run(found: Iterable[Variation]) -> None:
        for variation in found:
            try:
                outputs = runner.infer(variation.inputs) if variation.group else expected
            except Exception as error:  # noqa: BLE001  a refusal is the answer to the question asked here
                refused.setdefault(variation.group, f"at {variation.name}: {one_line(error)}")
                continue
            if outputs.keys() == expected.keys():
                runs.append((variation, outputs))
            else:
                others = ", ".join(outputs) or "none"
                refused.setdefault(variation.group, f"at {variation.name}: its outputs are others ({others})")

    run(budget.affordable(list(variations(base, dimensions, together=together))))
    for group in dimensions:
        if group.name in refused and not any(_longer(group, variation) for variation, _ in runs):
            run(multiples(base, group, dimensions, together=together))
    varied = {variation.group for variation, _ in runs}
    kept = tuple(group for group in dimensions if group.name in varied)
    notes = [_static_note(g, refused[g.name]) for g in dimensions if g.name not in varied]
    notes += [f"The source refuses {g.name} {refused[g.name]}." for g in kept if g.name in refused]
    return runs, kept, notes


def _longer(group: Group, variation: Variation) -> bool:
    name, axis = group.axes[0]
    return variation.group == group.name and variation.inputs[name].shape[axis] > group.size


def beyond(
    runner: Runner, base: Mapping[str, Array], expected: Mapping[str, Array], batch: Group | None, budget: Budget
) -> list[tuple[Variation, dict[str, Array]]]:
    """Run the rungs beyond the sample's own values.

    Those that the source refuses, answers with other outputs, or has no time for, are none.
    """

    def pays(name: str, inputs: Mapping[str, Array], times: int) -> bool:
        return budget.pays(name, times * budget.cost(inputs))

    tried = (drawn(base, batch), *edges(base, batch, runner.infer, pays))
    taken = [variation for variation in tried if pays(variation.name, variation.inputs, _TIMES_RUN)]
    found = ((variation, answered(runner.infer, variation.inputs)) for variation in taken)
    return [(variation, outputs) for variation, outputs in found if outputs and outputs.keys() == expected.keys()]


def _static_note(group: Group, why: str) -> str:
    what = "batch" if group.name == BATCH else f"dimension {group.name}"
    if group.name == BATCH and group.size < _SEVERAL:
        advice = "log it with an input example of 2 or more rows (and, for a PyTorch module, in `.eval()` mode)"
    elif group.name == BATCH:
        advice = (
            "let the model take its sizes from its inputs, and log it with an example whose first axis is the batch"
        )
    else:
        advice = "log it with that dimension dynamic"
    return (
        f"The checkpoint itself is static: its {what} is fixed at {group.size} ({why}). To get a dynamic one, {advice}."
    )
