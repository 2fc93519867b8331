"""`registry-export export`, `verify`, `plan` and `pull`: one model version, now."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from registry_export.cli.completion import complete_formats, complete_model_uri
from registry_export.cli.options import scheduler_option
from registry_export.cli.tables import print_json, print_table, print_targets

if TYPE_CHECKING:
    from registry_export.entities import ErrorRecord, ExportReport, TargetResult, Tolerance
    from registry_export.graph import ExportPlan, PlannedTarget, Step

_target_option = click.option(
    "--target",
    "targets",
    metavar="TARGET",
    multiple=True,
    shell_complete=complete_formats,
    help="A format, or one with options: onnx:opset_version=17. Repeat it, or separate by commas. "
    "Default: the tag registry_export.targets, then the rules.",
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command(short_help="Export one model version now.")
@click.argument("model_uri", shell_complete=complete_model_uri)
@_target_option
@click.option("--force", is_flag=True, help="Convert and verify anew even what is verified already.")
@click.option("--samples", metavar="PATH", help=".npz file or artifact URI with inputs to verify with.")
@click.option("--atol", type=click.FloatRange(min=0), help="Allowed absolute difference; goes with --rtol.")
@click.option("--rtol", type=click.FloatRange(min=0), help="Allowed relative difference; goes with --atol.")
@scheduler_option
@_json_option
def export(
    model_uri: str,
    targets: tuple[str, ...],
    force: bool,
    samples: str | None,
    atol: float | None,
    rtol: float | None,
    scheduler: str | None,
    as_json: bool,
) -> int:
    """Export one model version now, verify every format, publish the results on its page.

    MODEL_URI is models:/name/3, models:/name@alias or models:/name/Staging.
    """
    from registry_export import api
    from registry_export.cli.progress import TerminalReporter

    tolerance = _tolerance(atol, rtol)
    reporter = TerminalReporter(to_stderr=as_json)
    exported = api.export(
        model_uri,
        targets,
        samples=samples or None,
        tolerance=tolerance,
        force=force,
        reporter=reporter,
        scheduler=scheduler,
    )
    if as_json:
        print_json(exported.report)
    else:
        _print_report(exported.report, exported.page)
    return _exit_code(exported.report)


@click.command(short_help="Verify stored exports again, with today's runtimes.")
@click.argument("model_uri", shell_complete=complete_model_uri)
@click.option(
    "--target",
    "targets",
    metavar="TARGET",
    multiple=True,
    shell_complete=complete_formats,
    help="A target or a variant: onnx, tflite:precision=int8, tflite-int8. Repeat it, or separate by commas. "
    "Default: all that are stored.",
)
@scheduler_option
@_json_option
def verify(model_uri: str, targets: tuple[str, ...], scheduler: str | None, as_json: bool) -> int:
    """Verify the stored exports of a version against its source again, without converting.

    Digests come first: a file that was changed or is gone makes its export `failed`. Then the source and every
    export run again, and the new verdicts take the place of the old ones. MODEL_URI as for `export`.
    """
    from registry_export import api
    from registry_export.cli.progress import TerminalReporter

    reporter = TerminalReporter(to_stderr=as_json)
    verified = api.verify(model_uri, targets, reporter=reporter, scheduler=scheduler)
    if as_json:
        print_json(verified.report)
    else:
        _print_report(verified.report, verified.page)
    return _exit_code(verified.report) or int(any(map(_is_torn, verified.report.targets)))


@click.command(short_help="Print what `export` would run, and why not.")
@click.argument("model_uri", shell_complete=complete_model_uri)
@_target_option
@click.option(
    "--runtime",
    "runtimes",
    metavar="NAME=VERSION",
    multiple=True,
    help="The oldest runtime that must read the exports, as onnxruntime=1.16 or ios=16: warn of what it cannot.",
)
@_json_option
def plan(model_uri: str, targets: tuple[str, ...], runtimes: tuple[str, ...], as_json: bool) -> int:
    """Print what `export` would run, why a target can't be, and which runtimes take what would be made."""
    from registry_export import api

    planned = api.plan(model_uri, targets, runtimes=dict(map(_runtime, runtimes)))
    if as_json:
        print_json(planned)
    else:
        _print_plan(planned)
    return int(any(target.error and target.target.required for target in planned.targets))


@click.command(short_help="Fetch one published export, digests checked.")
@click.argument("model_uri", shell_complete=complete_model_uri)
@click.option(
    "--target",
    required=True,
    metavar="TARGET",
    shell_complete=complete_formats,
    help="A target or a variant: onnx, onnx-opset17.",
)
@click.option("--output", required=True, type=click.Path(path_type=Path), help="The folder to put it in.")
@click.option(
    "--verify-key",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="PATH",
    help="Public key in PEM: refuse what it has not signed. Default: REGISTRY_EXPORT_VERIFY_KEY.",
)
def pull(model_uri: str, target: str, output: Path, verify_key: Path | None) -> None:
    """Fetch one published export into a folder, its digests checked, and its signature where a key is given."""
    from registry_export import api

    click.echo(api.pull(model_uri, target, output, verify_key=verify_key))


def _runtime(text: str) -> tuple[str, str]:
    name, equals, version = text.partition("=")
    if not equals or not name.strip() or not version.strip():
        raise click.UsageError(f"--runtime takes NAME=VERSION, as in onnxruntime=1.16, not {text!r}.")
    return name.strip(), version.strip()


def _tolerance(atol: float | None, rtol: float | None) -> Tolerance | None:
    from registry_export.entities import Tolerance

    if atol is None and rtol is None:
        return None
    if atol is None or rtol is None:
        raise click.UsageError("--atol and --rtol go together: atol + rtol * |expected| is allowed.")
    return Tolerance(atol, rtol)


def _exit_code(report: ExportReport) -> int:
    from registry_export.entities import Status

    return int(report.status not in (Status.VERIFIED, Status.UNVERIFIED))


def _is_torn(result: TargetResult) -> bool:
    """Whether the stored files are not those that were verified; that is no matter of being required."""
    return result.error is not None and result.error.type == "ArtifactError"


def _print_report(report: ExportReport, page: str) -> None:
    click.echo()
    print_targets(report.targets)
    click.echo(f"\n{report.model_version}: {report.status}{f' - {page}' if page else ''}")


def _print_plan(planned: ExportPlan) -> None:
    click.echo(f"source: {planned.source_format} ({planned.source_kind})")
    click.echo(f"targets from: {planned.targets_from}")
    rows = [_plan_row(planned, target) for target in planned.targets]
    print_table(("target", "runs", "else"), rows)
    needed = [(t.target.variant, "; ".join(need.text for need in t.needs)) for t in planned.targets if t.needs]
    if needed:
        click.echo()
        print_table(("target", "runs on"), needed)
    for target in planned.targets:
        if target.error:
            click.echo(f"{target.target.variant}: {_sentence(target.error)}")
        for warning in target.warnings:
            click.echo(f"{target.target.variant}: Warning: {warning}")


def _plan_row(planned: ExportPlan, target: PlannedTarget) -> tuple[str, str, str]:
    ways = [_way(planned.steps[route]) for route in target.routes]
    optional = "" if target.target.required else " (not required)"
    return f"{target.target.variant}{optional}", ways[0] if ways else "can't be made", "; ".join(ways[1:])


def _way(step: Step) -> str:
    """Write the chain of formats, with the converter where one kind has several."""
    return " -> ".join(step.path) + (f" ({step.label})" if step.label else "")


def _sentence(error: ErrorRecord) -> str:
    return f"{error.step}: {error.message}"
