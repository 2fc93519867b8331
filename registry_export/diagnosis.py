"""For a mismatch: which hop of the path is at fault, and the first place where its result leaves the source.

Only after a verdict, and never a part of it: whatever goes wrong here ends in a sentence.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from registry_export.divergence import Place, locate
from registry_export.entities import Divergence, Hop, Rung, Status, Tolerance, Verification, WorstElement
from registry_export.errors import ENDS_THE_EXPORT, RegistryExportError
from registry_export.format import Format
from registry_export.inference import Origin, RungFiles
from registry_export.isolation import Limits
from registry_export.pools import Children
from registry_export.reference import Reference
from registry_export.tracing import Trace, Traced, TraceRequest
from registry_export.verification import verify

_SECONDS = 300.0
_LOOKING_SECONDS = 120.0
_MOST_NAMED = 4

DIAGNOSING = "diagnose"
"""The name of a search in what is learnt of steps."""


@dataclass
class Diagnosis:
    """Looks for the places where exports of one source go wrong. Safe to use from several threads.

    Attributes:
        formats: Every installed format, by name.
        pool: Runs the children.
        source: What the reference outputs came from.
        reference: These.
        folder: Where children work; made on first need.
    """

    formats: Mapping[str, Format]
    pool: Children
    source: Origin
    reference: Reference
    folder: Path
    _traces: dict[str, Trace] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _count: int = 0

    def explained(self, verification: Verification, way: Sequence[Origin], precision: str) -> Verification:
        """Add the place to a mismatch; any other verdict stays as it is.

        Args:
            verification: The verdict on the last artifact of the way.
            way: The artifacts from the source's first to the target's own.
            precision: The target's.

        Raises:
            ExportCancelledError: A person stopped the export.
        """
        if verification.status is not Status.MISMATCH:
            return verification
        found = self._first_breach(verification)
        if found is None:
            return verification
        rung, files = found
        try:
            divergence = self._explain(verification, rung, files, way, precision)
        except ENDS_THE_EXPORT:
            raise
        except (RegistryExportError, MemoryError, OSError, ValueError) as error:
            sentence = f"The search for the first place where it goes wrong ended early: {error}"
            divergence = Divergence(sentence, rung.name)
        return replace(verification, divergence=divergence)

    def _first_breach(self, verification: Verification) -> tuple[Rung, RungFiles] | None:
        pairs = zip(verification.rungs, self.reference.rungs, strict=False)
        return next(((r, f) for r, f in pairs if r.status is Status.MISMATCH and r.judged), None)

    def _explain(
        self, verification: Verification, rung: Rung, files: RungFiles, way: Sequence[Origin], precision: str
    ) -> Divergence:
        tolerance = verification.tolerance or Tolerance(1e-5, 1e-3)
        hops = tuple(self._hops(files, way, tolerance, precision, rung.reason))
        at = len(hops) - 1
        known = hops[at].agrees is False and all(hop.agrees for hop in hops[:at])
        hop = hops[at].conversion if known else ""
        blank = Divergence("", rung.name, hops, hop)
        ours = self._trace(self.source, files)
        base = "the source"
        if ours.opaque and at > 0:  # what it was made from, and agrees, tells as much
            ours, base = self._trace(way[at - 1], files), way[at - 1].format
        theirs = self._trace(way[at], files, every_order=False)
        opaque = ours.opaque or theirs.opaque
        if opaque:
            return replace(blank, sentence=_sentence(hops, hop, len(way), f"The place inside is unknown: {opaque}."))
        place = locate(ours, theirs, _allowed(tolerance))
        told = f"{_told(place, way[at].format, base)}{_cut(ours, theirs)}{_worst(rung)}"
        first = place.source
        return replace(
            blank,
            sentence=_sentence(hops, hop, len(way), told),
            module=place.within[-1].module if place.within else "",
            operator=place.within[-1].operator if place.within else "",
            modules=tuple(dict.fromkeys(_name(one) for one in place.within)) if first else (),
            before=_name(place.before) if place.before else "",
            tensor=place.export.name if place.export else "",
            difference=place.difference,
        )

    def _hops(
        self, files: RungFiles, way: Sequence[Origin], tolerance: Tolerance, precision: str, reason: str
    ) -> Iterator[Hop]:
        """Run what was made on the way, up to the first that does not agree; the last is known not to."""
        before = self.source.format
        only = replace(self.reference, rungs=(replace(files, feeds={}),))
        for artifact in way[:-1]:
            conversion, before = f"{before} → {artifact.format}", artifact.format
            toolchain = self.formats[artifact.format].toolchain
            try:
                found = verify(self.pool, toolchain, artifact, only, tolerance, self._work(), precision)
            except ENDS_THE_EXPORT:
                raise
            except RegistryExportError as error:
                yield Hop(conversion, None, str(error))
                continue
            if found.status in (Status.MISMATCH, Status.FAILED):
                yield Hop(conversion, False, found.reason)
                return
            yield Hop(conversion, True if found.status is Status.VERIFIED else None, found.reason)
        yield Hop(f"{before} → {way[-1].format}", False, f"{files.name}: {reason}")

    def _trace(self, origin: Origin, files: RungFiles, every_order: bool = True) -> Trace:
        """Look into a model; into the source only once for the same inputs."""
        key = f"{origin.format}:{origin.path}:{files.inputs}:{every_order}"
        with self._lock:
            known = self._traces.get(key)
        if known is not None:
            return known
        request = TraceRequest(origin, files.inputs, _LOOKING_SECONDS, every_order)
        limits = Limits(min(_SECONDS, self.pool.limits.timeout_s), self.pool.limits.memory_bytes)
        toolchain = self.formats[origin.format].toolchain
        arguments = msgspec.to_builtins(request)
        reads = (*origin.reads, Path(files.inputs))
        outcome = self.pool.call(toolchain, "registry_export.tracing:trace", arguments, self._work(), limits, reads)
        made = outcome.of(Trace)
        if origin == self.source:
            with self._lock:
                self._traces[key] = made
        return made

    def _work(self) -> Path:
        with self._lock:
            self._count += 1
            folder = self.folder / f"look-{self._count}"
        folder.mkdir(parents=True)
        return folder


def _allowed(tolerance: Tolerance) -> float:
    """Return the relative difference that a tolerance allows."""
    if tolerance.snr_db is not None and not tolerance.by_element:
        return float(10 ** (-tolerance.snr_db / 20))
    return tolerance.rtol if tolerance.rtol > 0 else 1e-3


def _sentence(hops: Sequence[Hop], hop: str, steps: int, told: str) -> str:
    fine = [one.conversion for one in hops if one.agrees]
    unknown = [one.conversion for one in hops if one.agrees is None]
    parts = []
    if fine:
        parts.append(f"{', '.join(fine)} {'agrees' if len(fine) == 1 else 'agree'}, {hops[-1].conversion} does not.")
    elif hop and len(hops) < steps:
        parts.append(f"{hop} does not agree already.")
    if unknown:
        parts.append(f"Whether {', '.join(unknown)} agrees could not be told.")
    return " ".join([*parts, told])


def _told(place: Place, format_: str, base: str) -> str:
    at = f" at its tensor {place.export.name}" if place.export else ""
    if place.source is None:
        if place.export is None:
            return (
                f"Every tensor inside agrees with {base} when {format_} runs unfused: the fault is in how the outputs "
                "are assigned, or in what the runtime makes of the graph."
            )
        return f"All {place.agreeing} tensors of {base} are found again; {format_} goes wrong after them{at}."
    if not place.agreeing:
        found = f"{format_}{at}" if at else f"{format_} has none like it"
        return f"No tensor inside agrees, from the first on: {_called(place.source)}, {found}."
    said = _within(place.within)
    by = f", off by {place.difference:.2g} of what varies in it" if place.difference is not None else ""
    after = f"; {_called(place.before)} before it still agrees" if place.before else ""
    return f"The first difference from {base} is in {said}{at and f', in {format_}{at}'}{by}{after}."


def _within(within: Sequence[Traced]) -> str:
    names = list(dict.fromkeys(_called(one) for one in within))
    if len(names) == 1:
        return names[0]
    shown = (
        names
        if len(names) <= _MOST_NAMED
        else [*names[: _MOST_NAMED - 1], f"{len(names) - _MOST_NAMED} more", names[-1]]
    )
    return f"{', '.join(shown[:-1])} or {shown[-1]}, which the export computes in one"


def _name(one: Traced) -> str:
    return one.module or one.name


def _called(one: Traced) -> str:
    operator = f" ({one.operator})" if one.operator else ""
    return f"{one.module}{operator}" if one.module else one.name


def _cut(ours: Trace, theirs: Trace) -> str:
    return "" if ours.complete and theirs.complete else " Not all of it was looked at: it took too long."


def _worst(rung: Rung) -> str:
    found = [m.worst for m in rung.outputs.values() if m.worst is not None]
    worst: WorstElement | None = max(found, key=_off, default=None)
    if worst is None or worst.expected is None or worst.actual is None or worst.expected == worst.actual:
        return ""
    index = ", ".join(map(str, worst.index))
    return (
        f" On {rung.name} it ends in {worst.output}[{index}] being {worst.actual:.6g} where the source has "
        f"{worst.expected:.6g}."
    )


def _off(worst: WorstElement) -> float:
    return abs((worst.actual or 0.0) - (worst.expected or 0.0))
