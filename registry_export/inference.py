"""What the two runs of a model share: the source's, in `reference`, and an export's, in `replay`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from registry_export.comparison import NUMBERS
from registry_export.entities import Interface, TensorSpec
from registry_export.errors import RegistryExportError, SourceError
from registry_export.format import NO_SETUP, Array, Format, ModelSetup, Runner, Tensors
from registry_export.model_setup import Pruning
from registry_export.samples import first_rows, in_single_precision

_EVIDENCE = {"samples": "its samples", "example": "its own input example", "random": "inputs drawn from its signature"}


@dataclass(frozen=True)
class Origin:
    """A checkpoint or an artifact that a child loads.

    Attributes:
        format: The format that loads it.
        path: Its file or folder.
        interface: The declared signature of a source, or the interface that an artifact was made with.
        code_paths: Folders of the author's code that the checkpoint needs to load.
        setup: What a rule says of how it is loaded.
        folder: The folder that belongs to it; empty: what lies beside its file.
    """

    format: str
    path: str
    interface: Interface
    code_paths: tuple[str, ...] = ()
    setup: ModelSetup = NO_SETUP
    folder: str = ""

    def enter(self) -> None:
        """Make the author's code importable."""
        sys.path[:0] = self.code_paths
        self.setup.enter()

    @property
    def reads(self) -> tuple[Path, ...]:
        """What a child must be able to read to load it: its file with what lies beside, and the author's code."""
        path = Path(self.folder or self.path)
        own = path if path.is_dir() else path.parent
        return (own, *map(Path, self.code_paths), *self.setup.modules)

    def pruned(self, pruning: Pruning | None) -> Origin:
        """Return how the same checkpoint is loaded with some of its weights made zero."""
        return replace(self, setup=replace(self.setup, pruning=pruning)) if pruning is not None else self

    def load(self, format_: Format) -> Any:
        """Load the object that the format's kind promises."""
        return format_.load(Path(self.path), self.interface, *self._setup_for(format_))

    def open(self, format_: Format) -> AbstractContextManager[Runner]:
        """Load it for inference."""
        return format_.open(Path(self.path), self.interface, *self._setup_for(format_))

    def _setup_for(self, format_: Format) -> tuple[ModelSetup, ...]:
        return (self.setup,) if heeded(format_) else ()


def heeded(format_: Format) -> tuple[str, ...]:
    """Return the fields of `ModelSetup` that a source format heeds."""
    return tuple(getattr(format_, "setup", ()))


EXAMPLE = "example"
"""The kind of rung that is the samples' own."""
EDGE, DRAWN = "edge", "drawn"
"""Kinds of rungs that are not the samples' own values: see `RungFiles`."""


@dataclass(frozen=True)
class RungFiles:
    """One set of inputs with the source's outputs, in folders that `tensors` reads.

    Attributes:
        name: What the inputs are.
        group: The dimension that they vary; empty for the example.
        inputs: Folder of the inputs.
        expected: Folder of the source's outputs.
        kind: `example`, `batch`, `length`, `step`, `drawn`, or `edge`: beyond what the samples hold.
        noise: The source's own noise floor on them, by output.
        unfit: Why no export can be judged on them (the source gives no finite answer, say); empty: it can.
        feeds: Input -> output of the rung before: an artifact is given its own answer there, as in use
            (a key-value cache goes from step to step).
    """

    name: str
    group: str
    inputs: str
    expected: str
    kind: str = EXAMPLE
    noise: Mapping[str, float] = field(default_factory=dict)
    unfit: str = ""
    feeds: Mapping[str, str] = field(default_factory=dict)


def first_run(
    runner: Runner, base: dict[str, Array], evidence: str
) -> tuple[dict[str, Array], dict[str, Array], tuple[str, ...]]:
    """Run a source on its first inputs.

    Args:
        runner: The source.
        base: The inputs, by name.
        evidence: Where they came from: `samples`, `example` or `random`.

    Returns:
        The inputs as the model takes them: with floats in place of doubles, and the first rows alone, where it refuses
        what was given and fixes its batch; the outputs; notes for the report.

    Raises:
        SourceError: The model fails on them, or returns nothing, or what is neither number nor boolean.
    """
    notes: tuple[str, ...] = ()
    try:
        outputs = runner.infer(base)
    except MemoryError:
        raise
    except Exception as error:
        ways = ((*way, answered(runner.infer, way[0])) for way in _instead(base, runner.interface.inputs))
        found = next(((taken, notes, outputs) for taken, notes, outputs in ways if outputs is not None), None)
        if found is None:
            if isinstance(error, RegistryExportError):
                raise
            raise SourceError(
                f"The model fails on {_EVIDENCE[evidence]}: {one_line(error).rstrip('.')}.",
                remedy="Check names, order, dtypes and shapes; a checkpoint that is static takes its own sizes alone.",
            ) from error
        base, notes, outputs = found
    if not outputs:
        raise SourceError("The model returns no tensor.")
    _refuse_text(outputs)
    return base, outputs, notes


def _refuse_text(outputs: Mapping[str, Array]) -> None:
    for name, array in outputs.items():
        if array.dtype.kind not in NUMBERS:
            said = "text" if array.dtype.kind in "OSU" else array.dtype.name
            raise SourceError(
                f"Output {name} holds {said}; only outputs of numbers and booleans can be exported and verified.",
                remedy="Take what makes it of numbers out of the model, and log the model again.",
            )


def _instead(
    base: dict[str, Array], inputs: Sequence[TensorSpec]
) -> Iterator[tuple[dict[str, Array], tuple[str, ...]]]:
    """Yield what a model that refuses its inputs may take of them, with what the report says of it."""
    single, rows = in_single_precision(base, inputs), first_rows(base, inputs)
    narrowed = [name for name, array in single.items() if array.dtype != base[name].dtype]
    in_floats = f"The model refuses float64, in which {', '.join(narrowed)} was given; it got float32."
    if narrowed:
        yield single, (in_floats,)
    if rows is None:
        return
    size = next(len(array) for array in rows.values())
    fewer = (
        f"The checkpoint takes {size} row{'s'[: size > 1]} at a time: exports are compared with it on the first of "
        "those that were given."
    )
    yield rows, (fewer,)
    if narrowed:
        yield in_single_precision(rows, inputs), (in_floats, fewer)


def answered(infer: Callable[[Tensors], dict[str, Array]], inputs: Tensors) -> dict[str, Array] | None:
    """Run a model on inputs that it may refuse; None where it does.

    Raises:
        MemoryError: What they need says nothing of the model.
    """
    try:
        return infer(inputs)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  a refusal is the answer to the question asked here
        return None


def one_sided(runner: Runner) -> tuple[str, ...]:
    """Name the decisions of a model of which all of its inputs have taken the same side."""
    decisions: Mapping[str, Collection[bool]] = getattr(runner, "decisions", {})
    return tuple(
        f"All inputs took the same side of a decision on data ({place}): of the other one nothing is shown. "
        "Give the rule samples that take both."
        for place, sides in decisions.items()
        if len(sides) == 1
    )


def one_line(error: BaseException, limit: int = 400) -> str:
    """Fold an exception of somebody else's into one line that starts with its class."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = f"{type(error).__name__}: {text}" if not text.startswith(type(error).__name__) else text
    return text if len(text) <= limit else text[: limit - 1] + "…"
