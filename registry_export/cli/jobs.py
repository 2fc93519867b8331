"""`registry-export jobs`: the ledger."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from registry_export.cli.tables import print_json, print_table

if TYPE_CHECKING:
    from datetime import datetime

    from registry_export.ledger import Count, Job, Ledger

_STATES = ("queued", "running", "failed", "done", "dead", "cancelled", "ignored")
_ENDED = ("failed", "done", "dead", "cancelled")
_WAITING = ("queued", "failed")
_ERROR_WIDTH = 60
_MOST = 10_000
_WHERE = "If your worker has another one, set REGISTRY_EXPORT_OUTBOX_URI or REGISTRY_EXPORT_LEDGER_URI as it has them."
_NO_LEDGER = "There is no ledger {}: no worker has written there."
_ALL_OF = "All that are in this state, in place of their numbers."

_model_option = click.option("--model", metavar="NAME[/VERSION]", help="Only jobs of this model, or of one version.")
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_ids = click.argument("ids", metavar="JOB...", nargs=-1, required=True, type=click.IntRange(min=1))
_ids_or_none = click.argument("ids", metavar="[JOB]...", nargs=-1, type=click.IntRange(min=1))


@click.group(invoke_without_command=True, short_help="List, show, retry and cancel jobs.")
@_json_option
@click.pass_context
def jobs(context: click.Context, as_json: bool) -> None:
    """List, show, retry and cancel jobs of the ledger; without a word: list."""
    if context.invoked_subcommand is None:
        context.invoke(list_jobs, as_json=as_json)
    elif as_json:
        raise click.UsageError(f"--json goes behind the word: jobs {context.invoked_subcommand} --json.")


@jobs.command("list")
@click.option("--state", "states", multiple=True, type=click.Choice(_STATES), help="Only these; repeat it for several.")
@_model_option
@click.option("--limit", default=20, show_default=True, type=click.IntRange(min=1), help="The newest so many.")
@_json_option
def list_jobs(states: tuple[str, ...] = (), model: str | None = None, limit: int = 20, as_json: bool = False) -> None:
    """List jobs, the newest first.

    `queued` waits for a worker, `failed` for its next attempt. `dead` was given up, and waits for a person: correct
    what its error says, then `jobs retry`. `ignored`: no rule wants the promotion.
    """
    missing = _missing_file()
    if missing is not None:
        if as_json:
            print_json(())
        else:
            click.echo(f"{_NO_LEDGER.format(missing)} {_WHERE}", err=True)
            _print_outbox()
        return
    ledger = _opened()
    found = _found(ledger, states, model, limit)
    if as_json:
        print_json(found)
        return
    count = _count(ledger)
    if not found or not _is_named():
        what = "Jobs of" if found else "No such job in" if states or model else "No job in"
        hint = "" if states or model else f" {_WHERE}"
        click.echo(f"{what} the ledger {ledger.database.engine.url.render_as_string()}.{hint}", err=True)
    head = ("job", "model version", "trigger", "state", "status", "attempt", "age", "updated (UTC)", "why")
    print_table(head, [_row(job, count.taken_at) for job in found])
    _print_summary(count)


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
    now = _count(ledger).taken_at
    for position, job in enumerate(found):
        if position:
            click.echo()
        _print_job(job, now)


@jobs.command()
@_ids_or_none
@click.option("--state", type=click.Choice(_ENDED), help=_ALL_OF)
@_model_option
def retry(ids: tuple[int, ...], state: str | None, model: str | None) -> None:
    """Queue jobs again that are dead, cancelled, failed or done, with all their attempts."""
    ledger = _ledger()
    for job_id in _chosen(ledger, ids, state, model):
        ledger.retry(job_id)
        click.echo(f"Job {job_id} is queued.")


@jobs.command()
@_ids_or_none
@click.option("--state", type=click.Choice((*_WAITING, "running")), help=_ALL_OF)
@_model_option
def cancel(ids: tuple[int, ...], state: str | None, model: str | None) -> None:
    """Cancel jobs; a running one is stopped by its worker within 15 seconds."""
    ledger = _ledger()
    for job_id in _chosen(ledger, ids, state, model):
        job = ledger.cancel(job_id)
        over = job.state not in ("cancelled", "running")
        said = "being stopped by its worker" if job.state == "running" else str(job.state)
        click.echo(f"Job {job_id} is {said}{', there is nothing to cancel' if over else ''}.")


def _missing_file() -> str | None:
    """Return the path of a SQLite ledger that nobody has made yet; None where there is one, or a server keeps it."""
    from registry_export.ledger import missing_file
    from registry_export.settings import Settings

    return missing_file(Settings.from_environment().ledger_uri)


def _is_named() -> bool:
    """Whether the environment says which ledger is meant."""
    from registry_export.settings import LEDGER_URI, OUTBOX_URI

    return bool(os.environ.get(LEDGER_URI) or os.environ.get(OUTBOX_URI))


def _ledger() -> Ledger:
    from registry_export.errors import ConfigurationError

    missing = _missing_file()
    if missing is not None:  # a mistyped path must not become a new ledger
        raise ConfigurationError(_NO_LEDGER.format(missing), remedy=_WHERE)
    return _opened()


def _opened() -> Ledger:
    from registry_export.ledger import Ledger
    from registry_export.settings import Settings

    ledger = Ledger(Settings.from_environment().ledger_uri)
    ledger.migrate()
    return ledger


def _found(ledger: Ledger, states: tuple[str, ...], model: str | None, limit: int) -> tuple[Job, ...]:
    from registry_export.entities import ModelVersionRef
    from registry_export.ledger import JobState

    named = tuple(JobState(state) for state in states)
    name, slash, version = (model or "").partition("/")
    ref = ModelVersionRef(name, version) if slash else None
    return ledger.list(states=named, ref=ref, limit=limit, model=name or None)


def _chosen(ledger: Ledger, ids: tuple[int, ...], state: str | None, model: str | None) -> tuple[int, ...]:
    """Return the numbers of the jobs that were meant, the oldest first where a state names them."""
    if bool(ids) == bool(state) or (ids and model):
        raise click.UsageError("Name jobs by their numbers, or all of a state: --state dead [--model NAME[/VERSION]].")
    return ids or tuple(job.id for job in reversed(_found(ledger, (str(state),), model, _MOST)))


def _count(ledger: Ledger) -> Count:
    from registry_export.ledger import Census

    return Census(ledger.database).take()


def _print_summary(count: Count) -> None:
    """Say what the ledger holds in all, and what has not even come into it."""
    held = [f"{number} {state}" for state, number in count.states.items() if number]
    if held:
        waiting = f"; the oldest that waits was asked for {_span(count.oldest_waiting_s)} ago"
        click.echo(f"{', '.join(held)}{waiting if count.oldest_waiting_s else ''}.", err=True)
    _print_outbox()


def _print_outbox() -> None:
    if in_outbox := _in_outbox():
        click.echo(f"Promotions in the outbox that no worker has fetched yet: {in_outbox}.", err=True)


def _in_outbox() -> int:
    from registry_export.errors import RegistryExportError
    from registry_export.ledger import OutboxReader
    from registry_export.settings import Settings

    uri = Settings.from_environment().outbox_uri
    if uri is None:
        return 0
    reader = OutboxReader(uri)
    try:
        return len(reader.read(_MOST)) if reader.exists() else 0
    except RegistryExportError as error:
        click.echo(str(error), err=True)
        return 0
    finally:
        reader.dispose()


def _state(job: Job, now: datetime) -> str:
    """Say the state, and what comes next."""
    left = (job.available_at - now).total_seconds()
    if job.state in _WAITING and left > 0:
        return f"{job.state}, again in {_span(left)}"
    if job.state != "running":
        return str(job.state)
    if job.lease_expires_at is not None and job.lease_expires_at < now:
        return f"running, its worker is silent for {_span((now - job.lease_expires_at).total_seconds())}"
    return "running, being stopped" if job.cancel_requested else "running"


def _row(job: Job, now: datetime) -> tuple[str, ...]:
    why = " ".join(job.error.split())
    return (
        str(job.id),
        str(job.model_version),
        job.trigger,
        _state(job, now),
        job.status or "",
        str(job.attempt),
        _span((now - job.created_at).total_seconds()),
        _time(job.updated_at),
        why if len(why) <= _ERROR_WIDTH else f"{why[: _ERROR_WIDTH - 3]}...",
    )


def _print_job(job: Job, now: datetime) -> None:
    from registry_export.report import approval_text

    def ago(moment: datetime) -> str:
        return f"{_time(moment)} UTC, {_span((now - moment).total_seconds())} ago"

    facts = {
        "job": str(job.id),
        "model version": str(job.model_version),
        "workspace": job.workspace or "",
        "trigger": job.trigger,
        "targets": job.targets,
        "state": _state(job, now),
        "status": job.status or "",
        "attempts": str(job.attempt),
        "lost workers": str(job.vanished) if job.vanished else "",
        "asked for": ago(job.created_at),
        "updated": ago(job.updated_at),
        "next attempt": f"{_time(job.available_at)} UTC" if job.state in _WAITING else "",
        "worker": job.worker,
        "lease until": f"{_time(job.lease_expires_at)} UTC" if job.lease_expires_at else "",
        "run": job.run_id,
        "error": job.error,
        "gate": approval_text(job.approval),
    }
    for name, value in facts.items():
        if value:
            click.echo(f"{name + ':':<15}{value}")


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def _span(seconds: float) -> str:
    """Write a time in its largest unit: `40 s`, `3 min`, `5 h`, `12 d`."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
