"""Time the source and its exports, one after another, once nothing is converted any more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import msgspec

from registry_export.bench import Bench
from registry_export.entities import Latency, Status, TargetResult, Verification
from registry_export.errors import ENDS_THE_EXPORT, RegistryExportError
from registry_export.inference import Origin
from registry_export.latency import TIMED, LatencyRequest
from registry_export.reference import Reference

_STEP = "time"


def time_exports(
    bench: Bench, source: Origin, reference: Reference, exports: Mapping[str, tuple[TargetResult, Origin]]
) -> tuple[Latency | None, dict[str, TargetResult]]:
    """Time the source and every export that answers, on the same inputs.

    A time that cannot be taken changes no verdict: it is not there, and a note says why.

    Args:
        bench: What to work with.
        source: The checkpoint.
        reference: Its answers, with the inputs.
        exports: By variant: the result, and how the files are loaded.

    Returns:
        The source's time on the example, and the results with their times.

    Raises:
        ExportCancelledError: A person stopped it.
    """
    if not bench.latency:
        return None, {variant: result for variant, (result, _) in exports.items()}
    watch = _Watch(bench, source, reference)
    return watch.of_source(0), {v: watch.timed(result, origin) for v, (result, origin) in exports.items()}


class _Watch:
    def __init__(self, bench: Bench, source: Origin, reference: Reference) -> None:
        self._bench, self._source, self._reference = bench, source, reference
        self._of_source: dict[int, Latency | None] = {}
        self._count = 0

    def of_source(self, rung: int) -> Latency | None:
        """Time the source on a rung's inputs, once; not what answers in its place."""
        if rung not in self._of_source:
            taken = None
            if not self._reference.stand_in:
                try:
                    taken = self._take(self._source, rung, "")
                except ENDS_THE_EXPORT:
                    raise
                except RegistryExportError as error:
                    self._bench.reporter.note(f"The source could not be timed: {error}")
            self._of_source[rung] = taken
        return self._of_source[rung]

    def timed(self, result: TargetResult, origin: Origin) -> TargetResult:
        rung = _first_answered(result, self._reference)
        if rung is None or result.verification is None:
            return result
        beside = self.of_source(rung)
        try:
            taken = self._take(origin, rung, result.variant)
        except ENDS_THE_EXPORT:
            raise
        except RegistryExportError as error:
            return replace(result, notes=(*result.notes, f"Its latency could not be measured: {error}"))
        return replace(result, verification=_with(result.verification, taken, beside))

    def _take(self, origin: Origin, rung: int, variant: str) -> Latency:
        self._count += 1
        work = Path(self._bench.work, f"time-{self._count}")
        work.mkdir()
        request = LatencyRequest(origin, self._reference.rungs[rung].inputs)
        toolchain = self._bench.formats[origin.format].toolchain
        with self._bench.step(_STEP, variant) as end:
            children = self._bench.children(_STEP, variant, f"{_STEP} {origin.format}")
            reads = (*origin.reads, Path(request.inputs))
            outcome = children.call(toolchain, TIMED, msgspec.to_builtins(request), work, reads=reads)
            taken = outcome.of(Latency)
            end.outcome = f"{taken.median_ms:.3g} ms"
        return taken


def _with(verification: Verification, taken: Latency, source: Latency | None) -> Verification:
    return replace(
        verification,
        latency_ms=taken.median_ms,
        latency_p90_ms=taken.p90_ms,
        latency_runs=taken.runs,
        threads=taken.threads,
        source_latency_ms=source.median_ms if source is not None else None,
    )


def _first_answered(result: TargetResult, reference: Reference) -> int | None:
    """Find the first inputs that an export has answered: the example, unless its sizes are fixed at others."""
    verification = result.verification
    if verification is None or verification.absent or verification.by != "runtime" or result.status is Status.FAILED:
        return None
    pairs = zip(verification.rungs, reference.rungs, strict=False)
    return next((n for n, (rung, files) in enumerate(pairs) if rung.outputs and not files.feeds), None)
