"""A loaded model that infers, and the tensors inside one run of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from registry_export.entities import Interface
from registry_export.format.arrays import Array, Tensors


@dataclass(frozen=True)
class Intermediate:
    """One tensor inside a model's run.

    Attributes:
        name: Its name in the file, or what made it, numbered; no two of a run have the same.
        value: None where there is nothing to compare (indices, shapes): it then only links others.
        module: Path of the module or layer that made it, as the model's author knows it; empty: unknown.
        operator: What made it (`relu`, `Conv`); empty: unknown.
        after: Names of those that it was made from; None: of the one before it.
    """

    name: str
    value: Array | None
    module: str = ""
    operator: str = ""
    after: tuple[str, ...] | None = None


class Runner(Protocol):
    """A loaded model that infers. Used as a context manager's value; usable until that closes.

    A source's runner may have a further attribute `example`: arrays by input name that the checkpoint
    itself recommends, or None. They are used where nobody logged an input example. Another one, `notes`,
    holds sentences on the source for the report. `inside` is true where the model is called by something
    of its author's: a logged example is then that one's, and `example` goes before it. `stand_in` says why
    its answers are not the checkpoint's own, where something else answers in its place: no export is verified
    against it. `variants` holds functions like `infer` by name that compute the same in another way (`float64`,
    `one thread`), from which the source's own noise is measured, and `precision` what it computes in. `decisions`
    maps the place of each decision on data to the sides that it has taken since the model was opened. `sparsity` is
    the share of its parameters that are zero, where it was asked to be pruned.

    An export's runner may have an attribute `by`: `evaluator` where something computes what the format's own
    runtime, which is not here, would; `runtime` where there is none. An `infer` that finds only then that it
    lacks an operator raises `RuntimeAbsentError`.

    Any runner may have a method `intermediates(inputs) -> Iterator[Intermediate]`: it runs the model once more and
    yields every floating tensor that depends on the inputs, in the order of execution, each usable until the next
    one is asked for. It is called for a mismatch, to name the place where an export leaves its source.

    Attributes:
        interface: Inputs and outputs by the model's own names, in order. A source whose outputs are
            not known before a call leaves `outputs` empty.
        runtime: What runs it, with its version (`onnxruntime 1.31.0`).
    """

    @property
    def interface(self) -> Interface:
        """Inputs and outputs."""
        ...

    @property
    def runtime(self) -> str:
        """What runs the model, with its version."""
        ...

    def infer(self, inputs: Tensors) -> dict[str, Array]:
        """Run the model once in evaluation mode.

        Args:
            inputs: Arrays by input name, with the dtypes of `interface`.

        Returns:
            Arrays by output name, in order; nested outputs are flattened, a nested name joined by `.`.
        """
        ...
