"""`registry-export jobs`: the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from registry_export.cli.tables import print_json, print_table

if TYPE_CHECKING:
    from datetime import datetime

    from registry_export.ledger import Job, Ledger

_STATES = ("queued", "running", "failed", "done", "dead", "cancelled", "ignored")
_ERROR_WIDTH = 60

_ids = click.argument("ids", metavar="JOB...", nargs=-1, required=True, type=click.IntRange(min=1))
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(invoke_without_command=True)
@click.pass_context
def jobs(context: click.Context) -> None:
    """List, show, retry and cancel jobs of the ledger; without a word: list."""
    if context.invoked_subcommand is None:
        context.invoke(list_jobs)


@jobs.command("list")
@click.option("--state", "states", multiple=True, type=click.Choice(_STATES), help="Only these; repeat it for several.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(min=1), help="The newest so many.")
@_json_option
def list_jobs(states: tuple[str, ...] = (), limit: int = 20, as_json: bool = False) -> None:
    """List jobs, the newest first."""
    from registry_export.ledger import JobState

    ledger = _ledger()
    found = ledger.list(states=tuple(JobState(state) for state in states), limit=limit)
    if as_json:
        print_json(found)
        return
    if not found:
        place = ledger.database.engine.url.render_as_string()
        hint = "" if states else " Where yours are is for REGISTRY_EXPORT_OUTBOX_URI or ..._LEDGER_URI to say."
        click.echo(f"{'No such job' if states else 'No job'} in the ledger {place}.{hint}", err=True)
    head = ("job", "model version", "trigger", "state", "status", "attempt", "updated (UTC)", "why")
    print_table(head, [_row(job) for job in found])


@jobs.command()
@_ids
@_json_option
def show(ids: tuple[int, ...], as_json: bool) -> None:
    """Show everything that the ledger knows of jobs."""
    ledger = _ledger()
    found = [ledger.get(job_id) for job_id in ids]
    if as_json:
        print_json(found)
        return
    for job in found:
        _print_job(job)


@jobs.command()
@_ids
def retry(ids: tuple[int, ...]) -> None:
    """Queue jobs again that are dead, cancelled, failed or done."""
    ledger = _ledger()
    for job_id in ids:
        ledger.retry(job_id)
        click.echo(f"Job {job_id} is queued.")


@jobs.command()
@_ids
def cancel(ids: tuple[int, ...]) -> None:
    """Cancel jobs; a running one is stopped by its worker within seconds."""
    ledger = _ledger()
    for job_id in ids:
        job = ledger.cancel(job_id)
        over = job.state not in ("cancelled", "running")
        click.echo(f"Job {job_id} is {_state(job)}{', there is nothing to cancel' if over else ''}.")


def _ledger() -> Ledger:
    from registry_export.ledger import Ledger
    from registry_export.settings import Settings

    ledger = Ledger(Settings.from_environment().ledger_uri)
    ledger.migrate()
    return ledger


def _state(job: Job) -> str:
    return "being stopped by its worker" if job.cancel_requested and job.state == "running" else str(job.state)


def _row(job: Job) -> tuple[str, ...]:
    why = " ".join(job.error.split())
    return (
        str(job.id),
        str(job.model_version),
        job.trigger,
        job.state,
        job.status or "",
        str(job.attempt),
        _time(job.updated_at),
        why if len(why) <= _ERROR_WIDTH else f"{why[: _ERROR_WIDTH - 3]}...",
    )


def _print_job(job: Job) -> None:
    facts = {
        "job": str(job.id),
        "model version": str(job.model_version),
        "trigger": job.trigger,
        "state": _state(job),
        "status": job.status or "",
        "attempts": str(job.attempt),
        "lost workers": str(job.vanished) if job.vanished else "",
        "created": _time(job.created_at),
        "updated": _time(job.updated_at),
        "not before": _time(job.available_at) if job.state in ("queued", "failed") else "",
        "worker": job.worker,
        "lease until": _time(job.lease_expires_at) if job.lease_expires_at else "",
        "run": job.run_id,
        "error": job.error,
    }
    for name, value in facts.items():
        if value:
            click.echo(f"{name + ':':<15}{value}")


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"
