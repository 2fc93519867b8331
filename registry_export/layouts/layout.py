"""From a published export to a server's folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from registry_export.errors import ConfigurationError
from registry_export.exports import beside, published, pull, replace, variant_named
from registry_export.format import Format
from registry_export.layouts.example import first_inputs
from registry_export.layouts.model_server import MODEL_SERVER
from registry_export.layouts.served import Served, Server
from registry_export.layouts.tfserving import TFSERVING
from registry_export.layouts.triton import TRITON
from registry_export.manifest import Verifier, read_manifest
from registry_export.registry import Registry

SERVERS: Mapping[str, Server] = {server.name: server for server in (TRITON, TFSERVING, MODEL_SERVER)}

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
"""What is a folder's name everywhere, and needs no quoting in an address."""


@dataclass(frozen=True)
class Laid:
    """A folder that a server loads.

    Attributes:
        path: Of the version in it.
        start: The command that serves it.
        notes: What a person should know.
    """

    path: Path
    start: str
    notes: tuple[str, ...]


def lay_out(
    model_uri: str,
    target: str,
    server: str,
    output: Path,
    *,
    registry: Registry,
    formats: Mapping[str, Format],
    verifier: Verifier | None = None,
    name: str = "",
    max_batch_size: int = 8,
    mount: str = "/models",
) -> Laid:
    """Write the folder that an inference server loads; models and versions that lie there already stay.

    Args:
        model_uri: As for `exports.pull`.
        target: As for `exports.pull`.
        server: One of `SERVERS`.
        output: The server's folder of models; made if absent.
        registry: The registry.
        formats: The installed formats.
        verifier: As for `exports.pull`.
        name: What the server calls the model; empty: what the registry does.
        max_batch_size: Rows that Triton may put together; 0: none.
        mount: Where the server sees `output`.

    Raises:
        ArtifactError: As for `exports.pull`, or the server cannot load this very export.
        ConfigurationError: The server does not load the format, or cannot call the model so.
    """
    chosen = SERVERS[server]
    ref = registry.resolve(model_uri)
    called = name or ref.name
    _check_name(called, chosen, output)
    _check_format(chosen, published(registry, ref, variant_named(target, formats)).format)
    with beside(output) as work:
        pulled, made = work / "pulled", work / "made"
        pull(ref.uri, target, pulled, registry=registry, formats=formats, verifier=verifier)
        manifest = read_manifest(pulled)
        _check_format(chosen, manifest.format)  # the report is not signed
        inputs = first_inputs(registry, ref, manifest.interface, work / "source")
        made.mkdir()
        chosen.write(Served(called, ref.version, manifest, pulled, inputs, max_batch_size, mount), made, output)
        _put(made, output, called, ref.version)
    notes = [chosen.notes[manifest.format]] if manifest.format in chosen.notes else []
    if not inputs and chosen is not MODEL_SERVER:
        notes.append("It is not warmed up: the version has no input example that fits, and its sizes are open.")
    start = chosen.start.format(folder=output.absolute(), mount=mount)
    return Laid(output / called / ref.version, start, tuple(notes))


def _check_name(name: str, server: Server, output: Path) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} is no name for a server's model.", remedy="Give one of letters, digits, _, . and - by --name."
        )
    if name.lower() == server.config:
        raise ConfigurationError(
            f"{name} is the file from which {server.name} reads its models.", remedy="Give another --name."
        )
    if (output / name).is_file():
        raise ConfigurationError(f"{output / name} is a file.", remedy="Give another --name, or another --output.")


def _check_format(server: Server, format_: str) -> None:
    if format_ not in server.formats:
        raise ConfigurationError(f"{server.name} loads no {format_}.", remedy=f"It loads: {', '.join(server.formats)}.")


def _put(made: Path, output: Path, name: str, version: str) -> None:
    """Move what was made into its place: a server that is looking finds a version with all that it needs."""
    if (output / name).is_dir():
        for path in sorted((made / name).iterdir(), key=lambda path: path.name == version):
            replace(path, output / name / path.name)
    else:
        replace(made / name, output / name)
    for path in (path for path in list(made.iterdir()) if path.is_file()):
        replace(path, output / path.name)
