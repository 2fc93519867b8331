"""What every step of one export works with, and the two steps that run a model: the source's, and an artifact's."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from registry_export.entities import Target, Tolerance, Verification
from registry_export.errors import RegistryExportError
from registry_export.format import DYNAMIC_DIMENSIONS, Format
from registry_export.inference import Origin
from registry_export.isolation import ChildPool
from registry_export.reference import Reference, ReferenceRequest
from registry_export.reporter import SILENT, Reporter
from registry_export.verification import default_tolerance, verify


@dataclass
class StepEnd:
    """How a step ended, in a word."""

    outcome: str = "done"


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
    """

    formats: Mapping[str, Format]
    pool: ChildPool
    work: Path
    tolerance: Tolerance | None = None
    reporter: Reporter = SILENT
    explain: bool = True
    latency: bool = True

    @contextlib.contextmanager
    def step(self, name: str, variant: str = "") -> Iterator[StepEnd]:
        """Report a step's beginning and its end, the failed one too; what it yields may say how it ended."""
        began = time.monotonic()
        end = StepEnd()
        self.reporter.step_started(name, variant)
        try:
            yield end
        except RegistryExportError as error:
            self.reporter.step_finished(name, variant, f"failed: {error}", time.monotonic() - began)
            raise
        self.reporter.step_finished(name, variant, end.outcome, time.monotonic() - began)


def run_reference(bench: Bench, source: Origin, sample: str, evidence: str, targets: Sequence[Target]) -> Reference:
    """Run the source once, on its samples and their variations.

    Args:
        bench: What to work with.
        source: The checkpoint.
        sample: Folder of the samples, as `tensors` writes it; empty: draw from the signature.
        evidence: What the samples are: `samples`, `example` or `random`.
        targets: Tell which further dimensions to vary.

    Raises:
        RegistryExportError: The source cannot be loaded or run.
    """
    folder = bench.work / "reference"
    folder.mkdir()
    request = ReferenceRequest(source, str(folder), sample, evidence, _asked(targets))
    toolchain = bench.formats[source.format].toolchain
    with bench.step("reference"):
        outcome = bench.pool.call(
            toolchain, "registry_export.reference:reference", msgspec.to_builtins(request), folder
        )
        reference = msgspec.convert(outcome.value, Reference)
    for note in (*reference.notes, *filter(None, [reference.unstable, reference.noisy, reference.stand_in])):
        bench.reporter.note(note)
    return reference


def _asked(targets: Sequence[Target]) -> dict[str, dict[str, str]]:
    """Union of the dimensions that the targets ask to be dynamic."""
    union: dict[str, dict[str, str]] = {}
    for target in targets:
        asked = target.options.get(DYNAMIC_DIMENSIONS.name)
        if isinstance(asked, Mapping):
            for name, axes in asked.items():
                union.setdefault(name, {}).update(axes)
    return union


def verify_artifact(bench: Bench, artifact: Origin, precision: str, reference: Reference, work: Path) -> Verification:
    """Run an artifact on the source's inputs and judge it.

    Args:
        bench: What to work with.
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
    verification = verify(bench.pool, toolchain, artifact, reference, tolerance, work, precision)
    return replace(verification, verified_at=now())


def now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
