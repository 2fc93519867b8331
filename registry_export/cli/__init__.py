"""The command `registry-export`: argument parsing and printing, nothing else.

Commands import what they need when they run, so that `--help` answers at once. Exit codes: 0 verified
or unverified, 1 mismatch or failed, 2 usage or configuration (a version that does not exist is usage),
130 stopped by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import warnings

import click

from registry_export.cli.check import check
from registry_export.cli.completion import completion
from registry_export.cli.doctor import doctor
from registry_export.cli.export import export, plan, pull, verify
from registry_export.cli.formats import formats
from registry_export.cli.jobs import jobs
from registry_export.cli.layout import layout
from registry_export.cli.look import diff, inspect
from registry_export.cli.serve import demo, server, worker
from registry_export.cli.view import view
from registry_export.errors import ConfigurationError, JobNotFoundError, ModelVersionNotFoundError, RegistryExportError
from registry_export.logs import JSON, TEXT, configure_logging, logs_json
from registry_export.redaction import redact

_FAILED, _USAGE, _INTERRUPTED = 1, 2, 130

_logger = logging.getLogger("registry_export")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--debug", is_flag=True, help="Show stack traces, warnings and the log.")
@click.option(
    "--log",
    "style",
    type=click.Choice((TEXT, JSON)),
    default=TEXT,
    envvar="REGISTRY_EXPORT_LOG",
    show_envvar=True,
    help="How log lines are written: for people, or one JSON object per line.",
)
@click.version_option(package_name="registry-export")
@click.pass_context
def cli(context: click.Context, debug: bool, style: str) -> None:
    """Promote a model in MLflow, get verified deployment formats on its page."""
    if os.environ.get("NO_COLOR"):
        context.color = False
    configure_logging(style, debug=debug)
    if not debug:
        logging.getLogger("urllib3").setLevel(logging.ERROR)  # its retries end in a sentence of ours
        warnings.simplefilter("ignore")


_OF_VERSIONS = (export, verify, plan, pull, layout, inspect, diff, view)
_OF_SITES = (jobs, formats, check, doctor, worker, server, demo, completion)
for _command in (*_OF_VERSIONS, *_OF_SITES):
    cli.add_command(_command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit; every error that is foreseen becomes one sentence on stderr."""
    given = sys.argv[1:] if arguments is None else arguments
    with contextlib.suppress(ValueError):  # only the main thread may
        # Whatever stops us, temporary folders and processes of ours go too. A worker has a handler of its own.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(cli.main(given, prog_name="registry-export", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(_USAGE)
    except (KeyboardInterrupt, click.Abort):
        _tell("Stopped. What was published stays; run it again to go on.", logging.WARNING)
        sys.exit(_INTERRUPTED)
    except RegistryExportError as error:
        _tell(f"Error: {error}", logging.CRITICAL, error if _debugs() else None)
        # A version or a job that is not there was named by the caller, like an unknown format.
        misused = isinstance(error, (ConfigurationError, ModelVersionNotFoundError, JobNotFoundError))
        sys.exit(_USAGE if misused else _FAILED)
    except BrokenPipeError:  # the reader of our output (`head`) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_FAILED)
    except Exception as error:  # noqa: BLE001 - the last place where a fault of our own can become a sentence
        said = f"Error: {type(error).__name__}: {error}"
        if not _debugs():
            said += "\nThis should not have happened; `registry-export --debug ...` shows where it did."
        _tell(said, logging.CRITICAL, error if _debugs() or logs_json() else None)
        sys.exit(_FAILED)


def _debugs() -> bool:
    return _logger.level == logging.DEBUG


def _tell(text: str, level: int, error: Exception | None = None) -> None:
    """Say a last word on stderr, in the log where that is what stderr carries."""
    if logs_json():
        _logger.log(level, "%s", text.removeprefix("Error: "), exc_info=error)
        return
    if error is not None:
        import traceback

        click.echo(redact("".join(traceback.format_exception(error))), nl=False, err=True)
    click.echo(redact(text), err=True)
