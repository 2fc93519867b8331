"""What must hold when everything has come to rest: each promotion exported once, whole, and said so."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mlflow import MlflowClient

from registry_export.entities import ModelVersionRef
from registry_export.errors import RegistryExportError
from registry_export.exports import pull
from registry_export.format import Format
from registry_export.ledger import Job, JobState
from registry_export.page import read_report
from registry_export.registry import Registry
from registry_export.report.description import BEGIN
from tests.torture.bed import LIGHT, REAL
from tests.torture.promoting import Promotion


@dataclass
class Findings:
    """What is wrong, a sentence for each.

    Attributes:
        lost: Promotions without an export.
        twice: Promotions with more than one export that counts.
        half: Promotions whose export is not whole.
        left: What else should not be there: unsettled jobs, temporary folders, processes.
    """

    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    half: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def all(self) -> list[str]:
        """Every sentence."""
        return [f"{name}: {text}" for name in ("lost", "twice", "half", "left") for text in getattr(self, name)]


def look(uri: str, formats: Mapping[str, Format], promotions: Sequence[Promotion], jobs: Sequence[Job]) -> Findings:
    """Look at every promotion's version, its runs, its files and its jobs."""
    found = Findings()
    registry, client = Registry(uri), MlflowClient(uri)
    by_version: dict[ModelVersionRef, list[Job]] = {}
    for job in jobs:
        by_version.setdefault(job.model_version, []).append(job)
    for promotion in promotions:
        of_version = by_version.get(promotion.ref, [])
        told = ", ".join(f"job {job.id} {job.state} {job.error}".strip() for job in of_version) or "no job"
        done = [job for job in of_version if job.state is JobState.DONE]
        if promotion.deleted:
            if not of_version:
                found.lost.append(f"{promotion.ref} ({promotion.trigger}) was deleted and has no job")
            continue
        tags = _tags(registry, promotion.ref)
        if not done or tags.get("status") not in ("verified", "unverified"):
            found.lost.append(f"{promotion.ref} ({promotion.trigger}) is {tags.get('status')}: {told}")
            continue
        runs = _runs(client, promotion.ref)
        counting = runs.pop("FINISHED", [])
        if len(done) > 1 or len(counting) > 1:
            found.twice.append(f"{promotion.ref}: {told}; runs that count: {counting}")
        if counting != [tags.get("run_id")]:
            found.half.append(f"{promotion.ref}: its tag names the run {tags.get('run_id')}, and {counting} count")
        if runs.get("RUNNING"):
            found.half.append(f"{promotion.ref}: runs that never end: {runs['RUNNING']}")
        found.half += [f"{promotion.ref}: {text}" for text in _torn(registry, formats, promotion, tags)]
    return found


def _tags(registry: Registry, ref: ModelVersionRef) -> dict[str, str]:
    try:
        tags = registry.version(ref).tags
    except RegistryExportError as error:
        return {"status": str(error)}
    return {name.removeprefix("registry_export."): value for name, value in tags.items()}


def _runs(client: MlflowClient, ref: ModelVersionRef) -> dict[str, list[str]]:
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    query = (
        f"tags.`registry_export.model_name` = '{ref.name}' AND tags.`registry_export.model_version` = '{ref.version}'"
    )
    runs: dict[str, list[str]] = {}
    for run in client.search_runs(experiments, query):
        runs.setdefault(run.info.status, []).append(run.info.run_id)
    return runs


def _torn(
    registry: Registry, formats: Mapping[str, Format], promotion: Promotion, tags: Mapping[str, str]
) -> Iterator[str]:
    """Yield what of an export is not whole."""
    ref = promotion.ref
    report = read_report(registry, ref)
    if report is None:
        yield "it has no report"
        return
    if report.run_id != tags.get("run_id"):
        yield f"its report names the run {report.run_id}, its tag {tags.get('run_id')}"
    if tags.get("trigger") != promotion.trigger:
        yield f"its trigger is {tags.get('trigger')}, not {promotion.trigger}"
    if BEGIN not in registry.version(ref).description:
        yield "its description has no table"
    for variant in REAL if ref.name.startswith("real") else LIGHT:
        if not tags.get(variant, "").startswith("verified"):
            yield f"{variant} is {tags.get(variant)!r}"
        with tempfile.TemporaryDirectory() as folder:
            try:
                pull(ref.uri, variant, folder, registry=registry, formats=formats)
            except RegistryExportError as error:
                yield f"{variant} cannot be pulled: {error}"
