"""A job as the ledger hands it out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from registry_export.entities import Approval, ModelVersionRef, Status


class JobState(StrEnum):
    """Where a job stands. `FAILED` waits for its next attempt; `DEAD` needs a person, and says why."""

    QUEUED = "queued"
    RUNNING = "running"
    FAILED = "failed"
    DONE = "done"
    DEAD = "dead"
    CANCELLED = "cancelled"
    IGNORED = "ignored"


WAITING = (JobState.QUEUED, JobState.FAILED)
"""A worker may claim these."""

SETTLED = (JobState.DONE, JobState.DEAD, JobState.CANCELLED, JobState.IGNORED)
"""Nothing happens to these unless a person retries them."""


VERIFY = "verify"
"""The trigger of a job that verifies stored exports again and exports nothing; why may follow (`verify:schedule`)."""


@dataclass(frozen=True)
class Job:
    """One export that was asked for. Times are the ledger database's, in UTC.

    Attributes:
        id: Its number in the ledger.
        model_version: What to export; written once, when the promotion happened.
        trigger: What asked for it (`stage:Staging`, `alias:champion`, `manual`, ...; `VERIFY`: no export).
        state: Where it stands.
        attempt: How many times it was claimed; 0 before the first.
        vanished: How many of the attempts ended because their worker vanished: its lease lapsed while it ran.
        created_at: When it was asked for: the time of the promotion, where the hook saw it.
        updated_at: When its state changed last.
        available_at: Before this time nobody claims it.
        targets: Targets that were asked for with the job, as they are typed; empty: those of the rule.
        status: The verdict on the version, once done.
        error: Why the latest attempt failed, why nothing was done, or what could not be done after the export.
        run_id: The export run.
        workspace: MLflow's workspace; None where the server has none.
        previous_status: What the version's status tag said before the hook wrote `queued`.
        previous: What the promotion replaced: the earlier stage, or the version that the alias pointed to
            (`outbox.ABSENT`: there was no such alias). None: not known, or nothing to put back.
        puts_back: The job whose failed promotion a worker undid with this one; None: a person's promotion.
        approval: Who let the promotion through its gate without the exports that were required; None: nobody had to.
        worker: Who claimed it last.
        lease: Proof of the claim, which settling asks for; empty when nobody holds it.
        lease_expires_at: When the claim lapses unless it is renewed.
        cancel_requested: Whether a person wants the running export to stop.
        first_claim: Whether nobody had claimed it before whoever was handed this; giving it back resets `attempt`.
    """

    id: int
    model_version: ModelVersionRef
    trigger: str
    state: JobState
    attempt: int
    created_at: datetime
    updated_at: datetime
    available_at: datetime
    targets: str = ""
    status: Status | None = None
    error: str = ""
    run_id: str = ""
    workspace: str | None = None
    previous_status: str | None = None
    previous: str | None = None
    puts_back: int | None = None
    approval: Approval | None = None
    worker: str = ""
    lease: str = ""
    lease_expires_at: datetime | None = None
    cancel_requested: bool = False
    vanished: int = 0
    first_claim: bool = False

    @property
    def verifies(self) -> bool:
        """Whether it verifies stored exports again; else it exports."""
        return self.trigger.partition(":")[0] == VERIFY
