"""`registry-export worker`, `server` and `demo`: the commands that keep running."""

from __future__ import annotations

import os

import click

from registry_export.cli.options import scheduler_option

_HOUR_S = 3600.0


@click.command(short_help="Export what is promoted, until stopped.")
@click.option("--once", is_flag=True, help="Do what is queued, then exit.")
@click.option(
    "--reverify-every",
    "hours",
    type=click.FloatRange(min=0, min_open=True),
    metavar="HOURS",
    help="Verify the exports of every promoted version again when so many hours have passed; off by default.",
)
@click.option(
    "--warm", is_flag=True, help="Start what the rules' targets need before the first job, not on first need."
)
@click.option(
    "--grace",
    "grace_s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="When stopped, give the running export so long before its job is handed back; 20 by default.",
)
@click.option(
    "--listen",
    metavar="[HOST:]PORT",
    envvar="REGISTRY_EXPORT_LISTEN",
    show_envvar=True,
    help="Answer /metrics, /healthz and /readyz there, and take /webhook if REGISTRY_EXPORT_WEBHOOK_SECRET is set; "
    "without HOST from this machine alone. Off by default.",
)
@scheduler_option
def worker(
    once: bool, hours: float | None, warm: bool, grace_s: float | None, listen: str | None, scheduler: str | None
) -> None:
    """Export what is promoted, until stopped by Ctrl-C.

    Reads MLFLOW_TRACKING_URI, REGISTRY_EXPORT_OUTBOX_URI, REGISTRY_EXPORT_LEDGER_URI and
    REGISTRY_EXPORT_CONFIG from the environment; with --scheduler also REGISTRY_EXPORT_BLOBS.
    """
    from registry_export.logs import log_as_a_service
    from registry_export.settings import Settings
    from registry_export.worker import GRACE_S, run_worker

    settings = Settings.from_environment()
    log_as_a_service()
    every_s = None if hours is None else hours * _HOUR_S
    grace_s = grace_s or GRACE_S
    run_worker(settings, once=once, reverify_s=every_s, warm=warm, grace_s=grace_s, listen=listen, scheduler=scheduler)


@click.command(
    short_help="`mlflow server` and a worker in one.",
    context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]},
    options_metavar="",
)
@click.argument("arguments", metavar="[MLFLOW SERVER OPTIONS]...", nargs=-1, type=click.UNPROCESSED)
def server(arguments: tuple[str, ...]) -> None:
    """Run `mlflow server` and a worker in one, for a laptop; Ctrl-C stops both.

    Every option is `mlflow server`'s own: registry-export server --port 5001
    """
    from registry_export.cli.processes import run_server_and_worker

    run_server_and_worker(arguments, os.environ)


@click.command(short_help="Watch a small model being exported.")
@click.option("--keep/--no-keep", default=True, help="Leave the server running until Ctrl-C.", show_default=True)
def demo(keep: bool) -> int:
    """Train a small classifier, promote it, and show what appears: a server, a worker and a model of its own."""
    from registry_export.demo import run_demo

    return run_demo(keep=keep)
