"""Does everything that a worker needs answer: connections, rights, rules, packages, runtimes, walls, room on disk?

Every examination ends in a finding, whatever happens in it; what is wrong comes with what mends it.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from registry_export.config import Configuration, is_artifact_uri, load_configuration
from registry_export.discovery import discover_formats, install_command, missing_requirements
from registry_export.errors import ModelVersionNotFoundError, RegistryError, RegistryExportError
from registry_export.format import Format, Toolchain
from registry_export.isolation import left_open
from registry_export.ledger import JobState, Ledger, OutboxReader, Vouchers
from registry_export.pools import Pool
from registry_export.redaction import redact
from registry_export.registry import Registry
from registry_export.scratch import Scratch
from registry_export.settings import CONFIG, LEDGER_URI, OUTBOX_URI, TRACKING_URI, Settings
from registry_export.signing import signer_of
from registry_export.worker import open_cluster, open_pool

OK, NOTE, WRONG = "ok", "note", "wrong"

_LEAST_ROOM = 5 * 1024**3
_LEAST_MEMORY = 4 * 1024**3
_MANY = 10_000
_MODELS_TRIED = 20
_DASK_WORKER = "Dask worker"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: Its name.
        state: `ok`, `note` (works, and a person should know) or `wrong`.
        said: What was found, in a sentence.
        remedy: What mends it; empty where nothing is to be mended.
    """

    what: str
    state: str
    said: str
    remedy: str = ""


def examine(settings: Settings, scheduler: str | None = None) -> Iterator[Finding]:
    """Look at everything in turn; yields as it goes, because toolchains take seconds each.

    Args:
        settings: Where things are. A run is made and deleted in the experiment `registry-export` to see that it can be.
        scheduler: Address of the Dask scheduler on whose cluster steps would run; None: they would run here.
    """
    formats = discover_formats()
    mlflow = tuple(_guarded("MLflow", lambda: _registry(settings)))
    yield from mlflow
    answers = all(finding.state != WRONG for finding in mlflow)
    if answers:
        yield from _guarded("artifact store", lambda: _artifact_store(settings))
    yield from _guarded("outbox", lambda: _outbox(settings))
    yield from _guarded("ledger", lambda: _ledger(settings))
    configuration = None
    try:
        configuration = load_configuration(settings.config_path, formats)
    except RegistryExportError as error:
        yield _wrong("rules", error)
    if configuration is not None:
        yield from _guarded("rules", lambda: _rules(configuration))
        yield from _guarded("gates", lambda: _gates(settings, configuration))
        if answers:
            yield from _guarded("rights", lambda: _rights(settings, configuration))
    yield from _guarded("signing key", lambda: _signing_key(settings, configuration))
    yield from _room()
    wanted = _targets_of(configuration, formats)
    yield from _packages(wanted, formats)
    cluster = [] if scheduler is None else list(_guarded("cluster", lambda: _cluster(settings, scheduler)))
    yield from cluster
    if all(finding.state != WRONG or finding.what.startswith(_DASK_WORKER) for finding in cluster):
        yield from _guarded("sandbox", lambda: _children(settings, scheduler, configuration, wanted))


def _children(
    settings: Settings, scheduler: str | None, configuration: Configuration | None, wanted: Mapping[str, Format]
) -> Iterator[Finding]:
    """Look at what stands around the children of exports, and whether their toolchains start."""
    with contextlib.closing(open_pool(settings, scheduler)) as pool:
        yield from _guarded("sandbox", lambda: _sandbox(pool, configuration))
        for toolchain in _toolchains_of(wanted):
            yield from _guarded(f"toolchain {toolchain.name}", lambda: _toolchain(pool, toolchain))  # noqa: B023


def _cluster(settings: Settings, scheduler: str) -> Iterator[Finding]:
    with contextlib.closing(open_cluster(settings, scheduler)) as pool:
        for worker in pool.workers():
            offers = ", ".join(f"{name} {amount:g}" for name, amount in worker.resources.items())
            said = f"It takes {worker.threads} steps at a time{f' and offers {offers}' if offers else ''}."
            remedy = "Install the same versions on the worker and on every Dask worker." if worker.unfit else ""
            yield Finding(
                f"{_DASK_WORKER} {worker.name}",
                WRONG if worker.unfit else OK,
                f"It gets no steps: {worker.unfit}." if worker.unfit else said,
                remedy,
            )
        pool.check()
        pool.try_store()
        yield Finding("cluster", OK, f"{scheduler} answers, and what is stored at {redact(pool.blobs_uri)} comes back.")


def _guarded(what: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from look()
    except RegistryExportError as error:
        yield _wrong(what, error)


def _wrong(what: str, error: RegistryExportError) -> Finding:
    return Finding(what, WRONG, error.message, error.remedy)


def _registry(settings: Settings) -> Iterator[Finding]:
    if settings.tracking_uri is None:
        yield Finding("MLflow", WRONG, f"{TRACKING_URI} is not set.", f"Set {TRACKING_URI}=http://127.0.0.1:5000, say.")
        return
    registry = Registry(settings.tracking_uri, settings.registry_uri)
    registry.alias_page()
    yield Finding("MLflow", OK, f"{redact(registry.tracking_uri)} answers.")


def _artifact_store(settings: Settings) -> Iterator[Finding]:
    if Registry(settings.tracking_uri, settings.registry_uri).try_out():
        yield Finding("artifact store", OK, "A run was made, written to and deleted again.")
    else:
        said = "A run was made and written to; the server did not let it be deleted, which no export needs."
        yield Finding("artifact store", NOTE, said, "Delete `registry-export doctor` by hand, or let it be.")


def _rights(settings: Settings, configuration: Configuration) -> Iterator[Finding]:
    """Look whether versions may be written to, of some of the models that the rules want."""
    registry = Registry(settings.tracking_uri, settings.registry_uri)
    wanted = [name for name in sorted(registry.alias_page().models) if configuration.rule_behind(name, "") is not None]
    refused, tried = [], 0
    for name in wanted[:_MODELS_TRIED]:
        try:
            registry.try_writing(registry.resolve(f"models:/{name}/latest"))
            tried += 1
        except ModelVersionNotFoundError:
            continue  # no version is there to be promoted
        except RegistryError as error:
            if error.transient:
                raise
            refused.append(error)
    if refused:
        more = f" So it is with {len(refused) - 1} more." if len(refused) > 1 else ""
        yield Finding("rights", WRONG, refused[0].message + more, refused[0].remedy)
    else:
        yield Finding(
            "rights", OK, f"Of {tried or 'no'} registered models that the rules want, exports may be written."
        )


def _outbox(settings: Settings) -> Iterator[Finding]:
    if settings.outbox_uri is None:
        said = f"{OUTBOX_URI} is not set: promotions are found through HTTP, within seconds to minutes."
        remedy = "Where the plugin is installed in the server, set it to the registry's database to hear at once."
        yield Finding("outbox", NOTE, said, remedy)
        return
    reader = OutboxReader(settings.outbox_uri)
    if not reader.exists():
        said = "The hook has made no table: it does so when a server with the plugin sees the first promotion."
        remedy = "Where there were promotions, install registry-export beside `mlflow server` and start that anew."
        yield Finding("outbox", NOTE, said, remedy)
        return
    waiting = len(reader.read(_MANY))
    reader.delete(())
    yield Finding("outbox", OK, f"The hook's table is there; {waiting or 'no'} promotions wait to be fetched.")


def _ledger(settings: Settings) -> Iterator[Finding]:
    ledger = Ledger(settings.ledger_uri)
    ledger.migrate()
    url = ledger.database.engine.url.render_as_string()
    counts = {state: len(ledger.list(states=(state,), limit=_MANY)) for state in (JobState.QUEUED, JobState.RUNNING)}
    yield Finding("ledger", OK, f"{url}: {counts[JobState.QUEUED]} jobs wait, {counts[JobState.RUNNING]} run.")
    dead = len(ledger.list(states=(JobState.DEAD,), limit=_MANY))
    if dead:
        yield Finding("ledger", NOTE, f"{dead} jobs are dead.", "`registry-export jobs list --state dead` says why.")
    if settings.ledger_uri.startswith("sqlite") and settings.outbox_uri is None:
        yield Finding("ledger", NOTE, "It is a file: no worker of another machine can share it.", f"Set {LEDGER_URI}.")


def _rules(configuration: Configuration) -> Iterator[Finding]:
    place = configuration.source or "the default rule"
    yield Finding("rules", OK, f"{place}: {len(configuration.rules)} can be read.")
    for rule in configuration.rules:
        if rule.samples and not is_artifact_uri(rule.samples) and not Path(rule.samples).is_file():
            said = f"The samples {rule.samples} of {rule.models!r} are not there."
            yield Finding("rules", WRONG, said, "Correct `samples`.")


def _gates(settings: Settings, configuration: Configuration) -> Iterator[Finding]:
    """Look whether the gates of the rules would hear of what is verified here."""
    require = ", ".join(repr(rule.models) for rule in configuration.rules if rule.requires is not None)
    if not require:
        return
    if settings.outbox_uri is None:
        said = (
            f"The rules for {require} require verified exports, and no gate will hear of any: {OUTBOX_URI} is not set."
        )
        yield Finding("gates", WRONG, said, "Set it to the registry's database.")
        return
    registry = Registry(settings.tracking_uri, settings.registry_uri)
    vouchers = Vouchers(settings.outbox_uri, registry.version, settings.workspace)
    if refused := vouchers.prepare():
        yield Finding("gates", WRONG, f"The gates of the rules for {require} hear nothing: {refused}")
        return
    said = f"What is verified here is heard by the gates of the rules for {require}."
    remedy = f"The server asks by the file that {CONFIG} names in its own environment: give it the same."
    yield Finding("gates", OK, said, remedy)


def _signing_key(settings: Settings, configuration: Configuration | None) -> Iterator[Finding]:
    signer = signer_of(settings, [rule.setup for rule in configuration.rules] if configuration is not None else [])
    if signer is None or settings.signing_key is None:
        return
    yield Finding("signing key", OK, f"Exports are signed with {signer.place}.")
    if settings.signing_key.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        yield Finding("signing key", NOTE, "Other users may read it.", f"Run `chmod 600 {settings.signing_key}`.")


def _room() -> Iterator[Finding]:
    folder = tempfile.gettempdir()
    free, memory = psutil.disk_usage(folder).free, psutil.virtual_memory().total
    disk = Finding("disk", OK, f"{free / 1e9:.0f} GB are free in {folder}.")
    if free < _LEAST_ROOM:
        disk = Finding("disk", NOTE, disk.said, "Set TMPDIR to a disk with more: every job needs a copy of its model.")
    yield disk
    said = f"{memory / 1e9:.0f} GB of memory, {os.cpu_count()} cores."
    yield Finding("machine", OK if memory >= _LEAST_MEMORY else NOTE, said)


def _targets_of(configuration: Configuration | None, formats: Mapping[str, Format]) -> Mapping[str, Format]:
    """Return the formats that the rules want; all that can be made where no rule says."""
    named = {target.format for rule in configuration.rules for target in rule.targets} if configuration else set()
    return {name: f for name, f in formats.items() if f.conversions and (not named or name in named)}


def _packages(wanted: Mapping[str, Format], formats: Mapping[str, Format]) -> Iterator[Finding]:
    for name, format_ in wanted.items():
        if missing := missing_requirements(format_.requirements):
            remedy = f"Run `{command}`." if (command := install_command(format_)) else ""
            yield Finding("packages", WRONG, f"{name} is wanted and needs {', '.join(missing)}.", remedy)
    absent = [name for name, f in formats.items() if name not in wanted and missing_requirements(f.requirements)]
    if absent:
        yield Finding("packages", NOTE, f"Not installed, and in no rule: {', '.join(absent)}.")


def _toolchains_of(wanted: Mapping[str, Format]) -> Iterator[Toolchain]:
    """Yield what the formats' own conversions run in, each once."""
    toolchains = [f.toolchain for f in wanted.values() if not missing_requirements(f.requirements)]
    yield from {toolchain.name: toolchain for toolchain in toolchains}.values()


def _sandbox(pool: Pool, configuration: Configuration | None) -> Iterator[Finding]:
    walls = pool.walls(Toolchain("plain", ()))
    if reach := left_open(walls):
        said = f"Only {'+'.join(walls) or 'limits'}: a checkpoint's code can reach {reach}."
        remedy = "Use Linux 5.13 or later with Landlock, or export only what you trust."
        rules = configuration.rules if configuration is not None else ()
        demanded = [repr(rule.models) for rule in rules if rule.setup.walls_required]
        if demanded:
            said += f" The rules for {', '.join(demanded)} demand a sandbox: nothing of theirs will be exported."
        yield Finding("sandbox", WRONG if demanded else NOTE, said, remedy)
    else:
        yield Finding("sandbox", OK, f"{'+'.join(walls)} stand around every checkpoint.")


def _toolchain(pool: Pool, toolchain: Toolchain) -> Iterator[Finding]:
    with Scratch() as work:
        pool.call(toolchain, "builtins:len", {}, work)
    yield Finding(f"toolchain {toolchain.name}", OK, f"{', '.join(toolchain.modules) or 'nothing'} can be imported.")
