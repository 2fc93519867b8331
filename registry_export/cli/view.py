"""`registry-export view`: the graph of a model file in a browser, drawn by Netron."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import click

from registry_export.cli.completion import complete_formats
from registry_export.errors import ConfigurationError

_IN_FOLDERS = ("saved_model.pb", "*.mlmodel", "*.keras", "*.onnx", "*.safetensors", "*.bin")
"""What of a model that is a folder Netron opens, the first that is there."""


@click.command(short_help="Open a model's graph with Netron.")
@click.argument("model")
@click.option(
    "--target",
    default="",
    metavar="TARGET",
    shell_complete=complete_formats,
    help="A target or a variant: onnx. Default: the checkpoint.",
)
@click.option("--port", type=click.IntRange(1, 65535), help="Where to serve it on this machine; by default a free one.")
@click.option("--browser/--no-browser", default=True, help="Open a browser.", show_default=True)
def view(model: str, target: str, port: int | None, browser: bool) -> None:
    """Draw a model's graph in a browser, with Netron, until Ctrl-C.

    MODEL as for `inspect`. The file is served to this machine alone; the browser reads it, and none of its code runs.
    Netron's page reports its own use to its maker, once that is accepted; the model is not sent.
    """
    from registry_export import looking

    if importlib.util.find_spec("netron") is None:
        raise ConfigurationError("Netron is not installed.", remedy="Run `pip install 'registry-export[view]'`.")
    import netron

    with looking.fetched(model, target) as subject:
        file = _file_of(Path(subject.origin.path))
        address = netron.start(str(file), address=("127.0.0.1", port), browse=browser)
        click.echo(f"{subject.name} is at http://{address[0]}:{address[1]}. Ctrl-C stops it.")
        try:
            netron.wait()
        finally:
            netron.stop(address)


def _file_of(path: Path) -> Path:
    """Return the file of a model that Netron opens.

    Raises:
        ConfigurationError: The model is a folder without one.
    """
    if path.is_file():
        return path
    found = (file for pattern in _IN_FOLDERS for file in sorted(path.rglob(pattern)) if file.is_file())
    first = next(found, None)
    if first is None:
        raise ConfigurationError(f"There is no file in {path.name} that Netron opens.")
    return first
