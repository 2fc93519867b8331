"""Put a promotion back whose export failed, where its rule says `on_failure: revert`.

A job is settled first, with a note that its promotion is to be put back; this comes after. Whoever dies in between
leaves the note, and another worker goes on. What a worker promotes here comes back through the hook: it is announced in
the ledger beforehand, and settled without an export.

The registry has no "move it if it is still there": a person who moves the same alias within the milliseconds between
the look and the move is overruled. MLflow records neither.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext

from registry_export.config import REVERT
from registry_export.entities import ModelVersionRef, Status
from registry_export.errors import ModelVersionNotFoundError, RegistryError
from registry_export.ledger import Job, JobState, Reversions
from registry_export.missed import PREFIX
from registry_export.outbox import ABSENT, UNPROMOTED_STAGES
from registry_export.page import ERROR_TAG
from registry_export.worker.parts import Parts, about_job

_logger = logging.getLogger(__name__)

_STAGE, _ALIAS = "stage", "alias"
_FAILURES = (Status.MISMATCH, Status.FAILED)
_UNGATED = frozenset(f"{_STAGE}:{stage}" for stage in UNPROMOTED_STAGES)


def wants_reversion(parts: Parts, job: Job, status: Status) -> bool:
    """Whether a job's promotion is to be put back when the job ends with this status.

    Who approved one knew that its exports are not as they should be: it stands.

    Args:
        parts: What the worker works with.
        job: The job.
        status: The export's verdict; `FAILED` for a job that is given up.
    """
    if status not in _FAILURES or job.approval is not None:
        return False
    if job.puts_back is not None or _kind_and_name(job)[0] not in (_STAGE, _ALIAS):
        return False
    rule = parts.configuration.rule_for(job.model_version.name, job.trigger)
    return rule is not None and rule.on_failure == REVERT


class Reverter:
    """Puts back what the ledger says is to be put back.

    Args:
        parts: What it works with.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._registry = parts.registry
        self._reversions = Reversions(parts.ledger.database, parts.workspace)

    def run_due(self) -> bool:
        """Put back everything that is due; whether there was anything."""
        worked = False
        while (job := self._reversions.take(self._parts.lease_s)) is not None:
            worked = True
            with about_job(job):
                self._run(job)
        return worked

    def _run(self, job: Job) -> None:
        try:
            self._put_back(job)
        except RegistryError as error:
            if error.transient:
                _logger.warning("%s: %s was not put back yet. %s", job.model_version, job.trigger, error)
                return
            self._tell(job, f"It could not be put back: {error}")
        self._finish(job)

    def _put_back(self, job: Job) -> None:
        self._drain()
        now, before = self._value_now(job), self._value_before(job)
        announced = self._reversions.announced(job)
        if announced is not None and _value(*announced) == now:
            before = now  # a worker that died did it, and told nobody
        elif (reason := self._reason_to_leave(job, now, before)) is not None:
            _logger.info("%s: %s is not put back: %s", job.model_version, job.trigger, reason)
            return
        assert before is not None, "a reason to leave it otherwise"
        if now != before:
            own = _promotion(job, before)
            self._reversions.announce(job, *own)
            with self._let_through(*own):
                self._set(job, before)
        self._tell(job, _sentence(job, before))

    def _reason_to_leave(self, job: Job, now: str, before: str | None) -> str | None:
        if now != _promoted(job):
            return "it has been changed since."
        if any(other.id > job.id and not _has_failed(other) for other in self._reversions.same_kind(job)):
            return "it was promoted again since."
        if before is None:
            return "what was there before is not known, because the hook did not see the promotion."
        if before == now:
            return "the same was there before."
        return None

    def _value_now(self, job: Job) -> str:
        kind, name = _kind_and_name(job)
        if kind == _ALIAS:
            return self._registry.alias_version(job.model_version.name, name) or ABSENT
        try:
            return self._registry.version(job.model_version).stage
        except ModelVersionNotFoundError:
            return ABSENT

    def _value_before(self, job: Job) -> str | None:
        """What the promotion replaced; of promotions that failed one after the other, what the first replaced."""
        value, position = job.previous, job.id
        others = self._reversions.same_kind(job)
        while value is not None:
            made_by = next((other for other in others if other.id < position and _promoted(other) == value), None)
            if made_by is None or made_by.previous is None or not _has_failed(made_by):
                break
            if not wants_reversion(self._parts, made_by, Status.FAILED):
                break
            value, position = made_by.previous, made_by.id
        return value

    def _set(self, job: Job, value: str) -> None:
        kind, name = _kind_and_name(job)
        model = job.model_version.name
        if kind == _STAGE:
            self._registry.set_stage(job.model_version, value)
        elif value == ABSENT:
            self._registry.delete_alias(model, name)
        else:
            self._registry.set_alias(ModelVersionRef(model, value), name)

    def _let_through(self, ref: ModelVersionRef, promotion: str) -> AbstractContextManager[None]:
        """Open the gates for what is put back: it was there before, whatever is required of it since."""
        vouchers = self._parts.vouchers
        if vouchers is None or ref.version == ABSENT or promotion in _UNGATED:
            return nullcontext()
        return vouchers.own_promotion(ref, promotion)

    def _tell(self, job: Job, sentence: str) -> None:
        """Say it in the log and on the version's page; a version that was deleted has none."""
        _logger.info("%s: %s", job.model_version, sentence)
        try:
            tag = self._registry.version(job.model_version).tags.get(ERROR_TAG, job.error)
            why = tag if job.state is JobState.DEAD else f"The export ended with the status {job.status}."
            if sentence not in why:
                self._registry.set_tags(job.model_version, {ERROR_TAG: f"{why} {sentence}"})
        except RegistryError as error:
            if error.transient:
                raise
            _logger.warning("%s: its page does not say so: %s", job.model_version, error)

    def _finish(self, job: Job) -> None:
        # The hook's row of what was promoted here is in the outbox by now. Once it is moved, no announcement is left
        # that could swallow a person's promotion.
        self._drain()
        self._reversions.finish(job)

    def _drain(self) -> None:
        if self._parts.outbox is not None:
            self._parts.ledger.drain_outbox(self._parts.outbox)


def _kind_and_name(job: Job) -> tuple[str, str]:
    kind, _, name = job.trigger.removeprefix(PREFIX).partition(":")
    return kind, name


def _promoted(job: Job) -> str:
    """What the promotion made of the stage, or of the alias: a stage, or a version."""
    kind, name = _kind_and_name(job)
    return job.model_version.version if kind == _ALIAS else name


def _promotion(job: Job, value: str) -> tuple[ModelVersionRef, str]:
    """How the hook will call it when a job's stage or alias is put back."""
    kind, name = _kind_and_name(job)
    if kind == _ALIAS:
        return ModelVersionRef(job.model_version.name, value), f"{_ALIAS}:{name}"
    return job.model_version, f"{_STAGE}:{value}"


def _value(ref: ModelVersionRef, trigger: str) -> str:
    kind, _, name = trigger.partition(":")
    return ref.version if kind == _ALIAS else name


def _has_failed(job: Job) -> bool:
    return job.state is JobState.DEAD or (job.state is JobState.DONE and job.status in _FAILURES)


def _sentence(job: Job, value: str) -> str:
    kind, name = _kind_and_name(job)
    if kind == _STAGE:
        return f"The stage was put back from {name} to {value}."
    if value == ABSENT:
        return f"The alias {name} was removed; there was none before."
    return f"The alias {name} was put back to version {value}."
