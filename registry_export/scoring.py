"""How good the source and its exports are, measured once they are made; and whether an export has lost too much."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from registry_export.bench import Bench
from registry_export.checkpoint import Checkpoint
from registry_export.entities import SourceRecord, Status, TargetResult, worst
from registry_export.errors import ENDS_THE_EXPORT, RegistryExportError
from registry_export.evaluation import EVALUATED, Evaluated, EvaluationRequest, checked
from registry_export.evaluation_setup import EvaluationSetup
from registry_export.inference import Origin
from registry_export.inputs import FirstInputs
from registry_export.isolation import check_within
from registry_export.labels import CHOICE
from registry_export.manifest import combined_digest, file_records

_STEP = "evaluate"
_NOT_EVALUATED, _NOT_MEASURED = "The source could not be evaluated", "It could not be evaluated"
_ROUNDING = 1e-12
"""0.97 - 0.96 is more than 0.01 in binary."""
_RECIPE_VERSION = 2
"""Raised when the same question would be answered otherwise."""


@dataclass(frozen=True)
class Scores:
    """What was measured of the source and of exports.

    Attributes:
        results: The exports, by variant, with their metrics and the verdict that follows.
        source: The source's metrics.
        problem: Why the source has none; empty: it has, or nothing was asked.
        note: What a person should know of how they were measured; empty: nothing.
    """

    results: Mapping[str, TargetResult]
    source: Mapping[str, float] = field(default_factory=dict)
    problem: str = ""
    note: str = ""


@dataclass(frozen=True)
class Scoring:
    """What is asked about one version.

    Attributes:
        setup: What the rule says.
        source: How the checkpoint is loaded.
        inputs: What it is evaluated on.
        key: Digest of all of it but the model: results with one key compare. Empty: nothing is asked.
    """

    setup: EvaluationSetup
    source: Origin
    inputs: FirstInputs
    key: str

    @classmethod
    def of(cls, setup: EvaluationSetup, checkpoint: Checkpoint, inputs: FirstInputs) -> Scoring:
        """Ask what a rule asks about a checkpoint."""
        if not (setup.evaluate or inputs.labels or setup.max_drop):
            return cls(setup, checkpoint.origin, inputs, "")
        content = {
            "recipe": _RECIPE_VERSION,
            "evaluate": setup.evaluate,
            "code": checkpoint.code_digest([setup.evaluate]) if setup.evaluate else "",
            "inputs": [combined_digest(file_records(path)) for path in inputs.paths],
            "labels": bool(inputs.labels),
            "max_drop": setup.max_drop,
        }
        key = hashlib.sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()
        return cls(setup, checkpoint.origin, inputs, key)

    def stale(self, results: Mapping[str, TargetResult]) -> set[str]:
        """Name the exports whose metrics answer another question."""
        return {variant for variant, result in results.items() if result.evaluation_key != self.key and _ran(result)}

    def recorded(self, source: SourceRecord, scores: Scores) -> SourceRecord:
        """Add to a source's record what was measured of it."""
        notes = tuple(note for note in source.notes if not note.startswith((_NOT_EVALUATED, CHOICE)))
        notes += (f"{_NOT_EVALUATED}: {scores.problem}",) if scores.problem else ()
        notes += (scores.note,) if scores.note else ()
        return replace(
            source,
            evaluation=scores.source,
            evaluation_key=self.key,
            max_drop=self.setup.max_drop if self.key else {},
            notes=notes,
        )


def score_exports(
    bench: Bench, scoring: Scoring, exports: Mapping[str, tuple[TargetResult, Origin]], stand_in: str = ""
) -> Scores:
    """Measure the source and every export that runs here, and judge what these have lost.

    Args:
        bench: What to work with.
        scoring: What is asked.
        exports: By variant: the result, and how the files are loaded.
        stand_in: Why something else answers in the source's place; empty: it answers itself.

    Raises:
        ExportCancelledError: A person stopped it.
    """
    if not scoring.key:
        return Scores({variant: judged(cleared(result)) for variant, (result, _) in exports.items()})
    try:
        if stand_in:
            return _unscored(scoring, exports, stand_in)
        own = _measure(bench, scoring, scoring.source, "")
    except ENDS_THE_EXPORT:
        raise
    except RegistryExportError as error:
        return _unscored(scoring, exports, str(error))
    results = {v: _scored(bench, scoring, result, origin, own) for v, (result, origin) in exports.items()}
    return Scores(results, own.metrics, note=own.note)


def _unscored(scoring: Scoring, exports: Mapping[str, tuple[TargetResult, Origin]], problem: str) -> Scores:
    asked = ", ".join(scoring.setup.max_drop)
    reason = f"the source's {asked} was not measured: {problem}" if asked else ""
    results = {v: judged(_marked(result, scoring, reason)) for v, (result, _) in exports.items()}
    return Scores(results, problem=problem)


def _marked(result: TargetResult, scoring: Scoring, reason: str) -> TargetResult:
    result = cleared(result)
    return replace(result, evaluation_key=scoring.key, evaluation_reason=reason) if _ran(result) else result


def _scored(bench: Bench, scoring: Scoring, result: TargetResult, origin: Origin, own: Evaluated) -> TargetResult:
    result = cleared(result)
    if not _ran(result):
        return judged(result)
    try:
        metrics = _measure(bench, scoring, origin, result.variant, own).metrics
        status, reason = verdict(metrics, own.metrics, scoring.setup)
    except ENDS_THE_EXPORT:
        raise
    except RegistryExportError as error:
        told = f"{_NOT_MEASURED}: {error}"
        result = replace(result, evaluation_key=scoring.key, notes=(*result.notes, told))
        asked = ", ".join(scoring.setup.max_drop)
        reason = f"its {asked} was not measured: {error}" if asked else ""
        return judged(replace(result, evaluation_reason=reason))
    result = replace(result, evaluation=metrics, evaluation_key=scoring.key, evaluation_reason=reason)
    return judged(result, status)


def _measure(bench: Bench, scoring: Scoring, origin: Origin, variant: str, own: Evaluated | None = None) -> Evaluated:
    source, setup, inputs = scoring.source, scoring.setup, own.inputs if own else ""
    work = Path(bench.work, f"{_STEP}-{variant or 'source'}")
    work.mkdir()
    request = EvaluationRequest(
        origin=origin,
        inputs=inputs,
        sample=scoring.inputs.sample,
        evidence=scoring.inputs.evidence,
        labels=scoring.inputs.labels,
        evaluate=setup.evaluate,
        search=(*source.code_paths, *source.setup.search),
        folder=str(work),
        output=own.output if own else "",
    )
    code = (*map(Path, source.code_paths), *source.setup.modules)
    given = (*scoring.inputs.paths, *([Path(inputs)] if inputs else []))
    with bench.step(_STEP, variant) as end:
        children = bench.children(_STEP, variant, f"{_STEP} {origin.format}")
        outcome = children.call(
            bench.formats[origin.format].toolchain,
            EVALUATED,
            msgspec.to_builtins(request),
            work,
            reads=(*origin.reads, *code, *given),
        )
        found = outcome.of(Evaluated)
        checked(found.metrics, "The evaluation")  # here too: what runs there is the checkpoint's code as well
        check_within([found.inputs], (work, *given))
        measured = ", ".join(f"{name} {value:.4g}" for name, value in found.metrics.items())
        end.outcome = f"{measured} of {found.output}, the first output that fits" if found.note else measured
    return found


def verdict(own: Mapping[str, float], source: Mapping[str, float], setup: EvaluationSetup) -> tuple[Status, str]:
    """Judge what an export has lost.

    Args:
        own: The export's metrics.
        source: The source's.
        setup: Has what may be lost.

    Returns:
        `verified` and nothing; `mismatch` and a sentence where more is lost; `unverified` and a sentence where a
        metric that the rule limits was not measured.
    """
    lost, absent = [], []
    for name, limit in setup.max_drop.items():
        if name not in own or name not in source:
            has = ", ".join(source) or "nothing"
            absent.append(f"max_drop limits {name}, which was not measured (measured: {has})")
            continue
        before, now = source[name], own[name]
        loss, way = (before - now, "fell") if setup.falls(name) else (now - before, "rose")
        if loss > abs(limit) + _ROUNDING * max(abs(before), abs(now)):
            told = f"{name} {way} from {before:.6g} to {now:.6g}, by {loss:.4g}"
            lost.append(f"{told}: the rule allows {abs(limit):g}")
    status = Status.MISMATCH if lost else Status.UNVERIFIED if absent else Status.VERIFIED
    return status, "; ".join((*lost, *absent))


def judged(result: TargetResult, status: Status | None = None) -> TargetResult:
    """Give a result the worse of two verdicts: that of its numbers, and that of its metrics.

    Args:
        result: With the verdict of its numbers in its verification.
        status: That of its metrics; None: `unverified` where there is a reason, else they say nothing.
    """
    if result.verification is None:
        return result
    told = status or (Status.UNVERIFIED if result.evaluation_reason else Status.VERIFIED)
    return replace(result, status=worst((result.verification.status, told)))


def cleared(result: TargetResult) -> TargetResult:
    """Take the metrics of another question out of a result."""
    notes = tuple(note for note in result.notes if not note.startswith(_NOT_MEASURED))
    return replace(result, evaluation={}, evaluation_key="", evaluation_reason="", notes=notes)


def _ran(result: TargetResult) -> bool:
    """Whether an export has run here, so that it can be evaluated."""
    verification = result.verification
    return verification is not None and not verification.absent and verification.status is not Status.FAILED
