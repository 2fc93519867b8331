"""What the command line and Python callers share: from a model URI and the user's words to an export."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from registry_export.recorded import run_recorded, verify_recorded
from registry_export.scratch import Scratch
from registry_export.session import Session

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from registry_export.entities import ExportReport, ModelVersionRef, Tolerance
    from registry_export.graph import ExportPlan
    from registry_export.layouts import Laid
    from registry_export.loaded import LoadedExport
    from registry_export.reporter import Reporter


@dataclass(frozen=True)
class Exported:
    """What an export left.

    Attributes:
        report: The published report.
        page: Address of the version's page; empty where the tracking URI serves none.
    """

    report: ExportReport
    page: str


def export(
    model_uri: str,
    targets: str | Sequence[str] | None = None,
    *,
    samples: str | PathLike[str] | None = None,
    tolerance: Tolerance | None = None,
    force: bool = False,
    reporter: Reporter | None = None,
    scheduler: str | None = None,
) -> Exported:
    """Export one model version now, as a job of the ledger where that can be reached.

    Arguments and errors as for `registry_export.export`; with `scheduler` its steps run on that Dask cluster.
    """
    from registry_export.reporter import SILENT

    session = Session()
    request = session.request(model_uri, targets, samples=samples, tolerance=tolerance)
    report = run_recorded(
        session.settings, session.registry, session.formats, request, force, reporter or SILENT, scheduler
    )
    return Exported(report, page_of(session.registry.registry_uri or "", request.version.ref))


def verify(
    model_uri: str,
    targets: str | Sequence[str] | None = None,
    *,
    reporter: Reporter | None = None,
    scheduler: str | None = None,
) -> Exported:
    """Verify the stored exports of a version again, as a job of the ledger where that can be reached.

    Args:
        model_uri: As for `registry_export.export`.
        targets: Targets or variants; None: all that are stored.
        reporter: Hears of every step.
        scheduler: Address of the Dask scheduler on whose cluster the steps run; None: they run here.

    Raises:
        ArtifactError: There are none, or not the one that is named.
        RegistryExportError: The source cannot be run, or the registry refused.
    """
    from registry_export.reporter import SILENT

    session = Session()
    request = session.verification(model_uri, targets)
    report = verify_recorded(
        session.settings, session.registry, session.formats, request, reporter or SILENT, scheduler
    )
    return Exported(report, page_of(session.registry.registry_uri or "", request.version.ref))


def pull(
    model_uri: str, target: str, output: str | PathLike[str], *, verify_key: str | PathLike[str] | None = None
) -> Path:
    """Fetch a published export. Arguments and errors as for `registry_export.pull`."""
    from registry_export import exports

    return exports.pull(model_uri, target, Path(output), **Session().access(verify_key))


def load(model_uri: str, target: str, *, verify_key: str | PathLike[str] | None = None) -> LoadedExport:
    """Open a published export. Arguments and errors as for `registry_export.load`."""
    from registry_export import exports

    return exports.load(model_uri, target, **Session().access(verify_key))


def layout(
    model_uri: str,
    target: str,
    server: str,
    output: str | PathLike[str],
    *,
    name: str = "",
    max_batch_size: int = 8,
    mount: str = "/models",
    verify_key: str | PathLike[str] | None = None,
) -> Laid:
    """Write the folder that an inference server loads. Arguments and errors as for `layouts.lay_out`."""
    from registry_export.layouts import lay_out

    access = Session().access(verify_key)
    return lay_out(
        model_uri, target, server, Path(output), **access, name=name, max_batch_size=max_batch_size, mount=mount
    )


def plan(
    model_uri: str, targets: str | Sequence[str] | None = None, *, runtimes: Mapping[str, str] | None = None
) -> ExportPlan:
    """Plan an export without running it; the checkpoint is downloaded to see what it is.

    Args:
        model_uri: As for `registry_export.export`.
        targets: As for `registry_export.export`.
        runtimes: Runtime -> the oldest version of it that must read the exports, besides those of the rule; the plan
            warns of what it cannot.

    Raises:
        RegistryExportError: The version or its checkpoint cannot be read.
    """
    from registry_export.checkpoint import read_checkpoint
    from registry_export.compatibility import with_needs
    from registry_export.graph import plan_export

    session = Session()
    request = session.request(model_uri, targets)
    with Scratch() as folder:
        model = session.registry.download(request.version.ref, folder)
        checkpoint = read_checkpoint(model, session.formats, request.setup)
        samples = bool(request.samples or checkpoint.files.example)
        planned = plan_export(checkpoint.format, request.targets, session.formats, samples=samples)
        planned = with_needs(planned, session.formats, {**request.runtimes, **(runtimes or {})})
        return replace(planned, targets_from=request.targets_from)


def page_of(tracking_uri: str, ref: ModelVersionRef) -> str:
    """The version's page, without a user's name and password; empty where the tracking URI serves none."""
    if not tracking_uri.startswith(("http://", "https://")):
        return ""
    parts = urlsplit(tracking_uri.rstrip("/"))
    server = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return f"{server}/#/models/{quote(ref.name, safe='')}/versions/{ref.version}"
