"""Between rows of the tables and values in Python."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from sqlalchemy import Row

from registry_export.entities import Approval, ModelVersionRef, Status
from registry_export.ledger.jobs import Job, JobState
from registry_export.outbox import database_now_ms, stored_workspace

_LAST_MS = 253_402_300_799_000
"""The last second of the year 9999, in milliseconds since 1970: `datetime` knows no later one."""


def milliseconds(seconds: float) -> int:
    """Return whole milliseconds."""
    return round(seconds * 1000)


def exclusive_key(workspace: str | None, name: str) -> str:
    """Return what the unique columns hold while a job runs."""
    return f"{stored_workspace(workspace)}|{name}"


def settled(state: JobState) -> dict[str, Any]:
    """Return the columns of a job that nobody holds."""
    return {
        "state": state.value,
        "lease": "",
        "lease_expires_at_ms": None,
        "running_version": None,
        "running_checkpoint": None,
        "cancel_requested": False,
        "reversion_due_at_ms": None,
        "updated_at_ms": database_now_ms(),
    }


def held(workspace: str | None, ref: ModelVersionRef, worker: str, lease: str, lease_s: float) -> dict[str, Any]:
    """Return the columns of a job that a worker holds."""
    now = database_now_ms()
    return {
        "state": JobState.RUNNING.value,
        "worker": worker,
        "lease": lease,
        "lease_expires_at_ms": now + milliseconds(lease_s),
        "running_version": exclusive_key(workspace, str(ref)),
        "running_checkpoint": None,
        "updated_at_ms": now,
    }


def abandoned(job: Job, vanished: int) -> str:
    """Return why a job is dead whose workers vanished."""
    return (
        f"Its worker ended without a word {vanished} times while it ran, the last time {job.worker}: it is not tried "
        "again, because it may be what takes workers down (memory, a crash). See the log of that machine; "
        f"`registry-export jobs retry {job.id}` queues it anew."
    )


def job_from(row: Row[Any]) -> Job:
    """Read a row of the jobs' table."""
    return Job(
        id=row.id,
        model_version=ModelVersionRef(row.model_name, row.version),
        trigger=row.trigger,
        state=JobState(row.state),
        attempt=row.attempt,
        vanished=row.vanished,
        created_at=_time(row.created_at_ms),
        updated_at=_time(row.updated_at_ms),
        available_at=_time(row.available_at_ms),
        targets=row.targets,
        status=None if row.status is None else Status(row.status),
        error=row.error,
        run_id=row.run_id,
        workspace=row.workspace or None,
        previous_status=row.previous_status,
        previous=row.previous,
        puts_back=row.puts_back,
        approval=_approval(row.details, row.trigger),
        worker=row.worker,
        lease=row.lease,
        lease_expires_at=None if row.lease_expires_at_ms is None else _time(row.lease_expires_at_ms),
        cancel_requested=bool(row.cancel_requested),
    )


def _time(milliseconds_since_1970: int) -> datetime:
    return datetime.fromtimestamp(milliseconds_since_1970 / 1000, UTC)


def _approval(details: str | None, promotion: str) -> Approval | None:
    """Read who let a promotion through its gate; a later hook may write more than is read here.

    What no hook can have written, a time that no calendar has among it, tells of nobody: the job goes on without it.
    """
    try:
        told = msgspec.json.decode(details or "{}", type=_Details).approval
    except msgspec.MsgspecError:
        return None
    if told is None:
        return None
    at = _time(told.at_ms).isoformat(timespec="seconds")
    return Approval(promotion, told.by, at, told.reason, told.lacking)


class _Told(msgspec.Struct):
    by: str
    at_ms: Annotated[int, msgspec.Meta(ge=0, le=_LAST_MS)]
    reason: str
    lacking: tuple[str, ...]


class _Details(msgspec.Struct):
    approval: _Told | None = None
