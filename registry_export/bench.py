"""What every step of one export works with, and the two steps that run a model: the source's, and an artifact's."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import msgspec

from registry_export.admission import Admission
from registry_export.children import PlacedChildren
from registry_export.costs import Expectations
from registry_export.entities import Target, Tolerance, Verification
from registry_export.errors import ENDS_THE_EXPORT, RegistryExportError, SandboxError
from registry_export.format import Format, Pruning, dimensions_of, pruning_of
from registry_export.inference import Origin
from registry_export.isolation import check_within, left_open
from registry_export.pools import Pool
from registry_export.reference import Reference, ReferenceRequest
from registry_export.reporter import SILENT, Reporter
from registry_export.schedule import verifying
from registry_export.starts import Starts
from registry_export.verification import default_tolerance, verify


@dataclass
class StepEnd:
    """How a step ended: in a word, and after how many seconds where that is not the time since it began."""

    outcome: str = "done"
    seconds: float | None = None


@dataclass(frozen=True)
class Bench:
    """What every step of one export works with.

    Attributes:
        formats: Every installed format, by name.
        pool: Runs the children.
        work: A private folder.
        tolerance: In place of the precision's default.
        reporter: Hears of every step.
        explain: Whether the place is looked for where an export does not match.
        latency: Whether calls are timed.
        expected: What steps take.
        queue: Where children wait for their places.
        runtimes: Runtime -> the oldest version of it that is to read the exports.
    """

    formats: Mapping[str, Format]
    pool: Pool
    work: Path
    tolerance: Tolerance | None = None
    reporter: Reporter = SILENT
    explain: bool = True
    latency: bool = True
    expected: Expectations = field(default_factory=Expectations)
    queue: Admission = field(default_factory=Admission)
    runtimes: Mapping[str, str] = field(default_factory=dict)

    @contextlib.contextmanager
    def step(self, name: str, variant: str = "") -> Iterator[StepEnd]:
        """Report a step's beginning and its end, the failed one too; what it yields may say how it ended.

        What a thread waits in the queue is no part of its step's time.
        """
        began = time.monotonic() - self.queue.waited
        end = StepEnd()
        self.reporter.step_started(name, variant)
        try:
            yield end
        except RegistryExportError as error:
            self.reporter.step_finished(name, variant, f"failed: {error}", self._since(began))
            raise
        seconds = self._since(began) if end.seconds is None else end.seconds
        self.reporter.step_finished(name, variant, end.outcome, seconds)

    def _since(self, began: float) -> float:
        return time.monotonic() - self.queue.waited - began

    def children(
        self, step: str, variant: str, work: str, seconds: float | None = None, effort: float = 1.0
    ) -> PlacedChildren:
        """Return who runs the children of a step; arguments as for `PlacedChildren`."""
        placed = self.pool, self.queue, self.starts, self.expected, self.reporter
        return PlacedChildren(*placed, step, variant, work, seconds, effort)

    @cached_property
    def starts(self) -> Starts:
        """The starts of warm parents."""
        return Starts(self.pool, self.queue, self.reporter)


Pruned = Mapping[Pruning, Reference | RegistryExportError]
"""The answers of a source with some of its weights made zero, or why there are none."""


def run_pruned(
    bench: Bench, source: Origin, sample: str, evidence: str, targets: Sequence[Target]
) -> dict[Pruning, Reference | RegistryExportError]:
    """Run the source once for every pruning that a target asks for: what is exported is compared with that.

    Arguments as for `run_reference`. One that cannot be run takes its own targets down and no others.

    Raises:
        ExportCancelledError: A person stopped it.
    """
    found: dict[Pruning, Reference | RegistryExportError] = {}
    for pruning in dict.fromkeys(pruning_of(target.options) for target in targets):
        if pruning is None:
            continue
        try:
            origin, alike = source.pruned(pruning), [t for t in targets if pruning_of(t.options) == pruning]
            found[pruning] = run_reference(bench, origin, sample, evidence, alike, str(pruning))
        except ENDS_THE_EXPORT:
            raise
        except RegistryExportError as error:
            found[pruning] = error
    return found


def run_reference(
    bench: Bench, source: Origin, sample: str, evidence: str, targets: Sequence[Target], pruned: str = ""
) -> Reference:
    """Run the source once, on its samples and their variations.

    Args:
        bench: What to work with.
        source: The checkpoint.
        sample: Folder of the samples, as `tensors` writes it; empty: draw from the signature.
        evidence: What the samples are: `samples`, `example` or `random`.
        targets: Tell which further dimensions to vary.
        pruned: What was done to its weights, in a word.

    Raises:
        RegistryExportError: The source cannot be loaded or run.
    """
    folder = bench.work / "-".join(filter(None, ("reference", pruned)))
    folder.mkdir()
    request = ReferenceRequest(source, str(folder), sample, evidence, _asked(targets))
    toolchain = bench.formats[source.format].toolchain
    children = bench.children("reference", "", f"reference {source.format}")
    with bench.step("reference", pruned):
        walls = _walls(bench, source)
        outcome = children.call(
            toolchain,
            "registry_export.reference:reference",
            msgspec.to_builtins(request),
            folder,
            reads=(*source.reads, *([Path(sample)] if sample else [])),
        )
        reference = replace(outcome.of(Reference), origin=source, sandbox="+".join(walls))
        check_within(reference.paths, (folder, *source.reads))
    for note in (*reference.notes, *filter(None, [reference.unstable, reference.noisy, reference.stand_in])):
        bench.reporter.note(note)
    return reference


def _walls(bench: Bench, source: Origin) -> tuple[str, ...]:
    """Name the walls that children have, before any of them loads a checkpoint.

    Raises:
        SandboxError: A rule demands more.
    """
    toolchain = bench.formats[source.format].toolchain
    bench.starts.ensure(toolchain, 0.0, bench.pool.cancelled)  # in its place, like every other start
    walls = bench.pool.walls(toolchain)
    reach = left_open(walls)
    if reach and source.setup.walls_required:
        raise SandboxError(
            f"The rule says sandbox: required, and on this system a checkpoint's code can reach {reach}.",
            remedy="Run the worker on Linux 5.13 or later with Landlock, or trust the model and leave that line out.",
        )
    return walls


def _asked(targets: Sequence[Target]) -> dict[str, dict[str, str]]:
    """Union of the dimensions that the targets ask to be dynamic."""
    union: dict[str, dict[str, str]] = {}
    for target in targets:
        for name, axes in dimensions_of(target.options).items():
            union.setdefault(name, {}).update(axes)
    return union


def verify_artifact(
    bench: Bench, variant: str, artifact: Origin, precision: str, reference: Reference, work: Path
) -> Verification:
    """Run an artifact on the source's inputs and judge it.

    Args:
        bench: What to work with.
        variant: The target's.
        artifact: The exported files.
        precision: The coarsest on the way to them.
        reference: The source's answers.
        work: An empty folder for the child.

    Raises:
        VerificationError: The artifact cannot be loaded.
        ChildError: The child crashed, hung or ran out of memory.
    """
    tolerance = bench.tolerance or default_tolerance(precision)
    toolchain = bench.formats[artifact.format].toolchain
    children = bench.children("verify", variant, verifying(variant))
    verification = verify(children, toolchain, artifact, reference, tolerance, work, precision)
    return replace(verification, verified_at=now())


def now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
