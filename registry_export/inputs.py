"""The first inputs of an export, and the labels that belong to them, where children can read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry_export.errors import SamplesError
from registry_export.evaluation_setup import LABELS
from registry_export.tensors import write_tensors

if TYPE_CHECKING:
    from registry_export.checkpoint import Checkpoint
    from registry_export.registry import Registry


@dataclass(frozen=True)
class FirstInputs:
    """What the source is run on first.

    Attributes:
        sample: Folder that `tensors` reads; empty where nothing was given.
        evidence: What is in it: `samples`, `example`, or nothing (`random`).
        labels: Folder with the one array of the labels, called as in the samples; empty where there are none.
    """

    sample: str = ""
    evidence: str = "random"
    labels: str = ""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The folders."""
        return tuple(Path(folder) for folder in (self.sample, self.labels) if folder)


def first_inputs(
    registry: Registry, samples: str | None, checkpoint: Checkpoint, work: Path, labels: str = ""
) -> FirstInputs:
    """Write the rule's samples, with the labels apart, or the input example.

    Args:
        registry: Where samples are read that lie in an artifact store.
        samples: Path of an `.npz` file or an artifact URI; None: the version's input example.
        checkpoint: Has the example, and the inputs that its signature names.
        work: A folder of one's own.
        labels: The array that holds the labels; empty: the one called `labels`, unless an input is called so.

    Raises:
        SamplesError: There is no such array, or it is an input.
    """
    folder = work / "sample"
    if samples:
        arrays = dict(registry.read_samples(samples, work))
        name = _name_of_labels(arrays, {spec.name for spec in checkpoint.origin.interface.inputs}, labels)
        if name:
            write_tensors(work / LABELS, {name: arrays.pop(name)})
        write_tensors(folder, arrays)
        return FirstInputs(str(folder), "samples", str(work / LABELS) if name else "")
    if checkpoint.write_example(folder):
        return FirstInputs(str(folder), "example")
    return FirstInputs()


def _name_of_labels(arrays: Mapping[str, Any], inputs: set[str], asked: str) -> str:
    if not asked:
        return LABELS if LABELS in arrays and LABELS not in inputs and len(arrays) > 1 else ""
    if asked in inputs:
        raise SamplesError(f"The samples' labels are to be the array {asked}, which is an input of the model.")
    if asked not in arrays:
        raise SamplesError(f"The samples have no array {asked} for the labels (they have {', '.join(arrays)}).")
    return asked
