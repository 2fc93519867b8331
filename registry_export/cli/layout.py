"""`registry-export layout`: the folder that an inference server loads."""

from __future__ import annotations

from pathlib import Path

import click

SERVERS = ("triton", "tfserving", "openvino-model-server")
"""Those of `layouts`, which is imported when the command runs."""


@click.command(short_help="Write the folder that an inference server loads.")
@click.argument("model_uri")
@click.option("--target", required=True, metavar="TARGET", help="A target or a variant: onnx, onnx-opset17.")
@click.option("--for", "server", required=True, type=click.Choice(SERVERS), help="The server.")
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="The server's folder of models; models and versions that lie there stay.",
)
@click.option("--name", default="", help="What the server calls the model. Default: as the registry does.")
@click.option(
    "--max-batch-size",
    type=click.IntRange(min=0),
    default=8,
    show_default=True,
    metavar="ROWS",
    help="For Triton: how many rows it may put together where the batch is dynamic; 0: none.",
)
@click.option(
    "--mount",
    default="/models",
    show_default=True,
    metavar="PATH",
    help="Where the server sees the folder; TensorFlow Serving's models.config has it.",
)
@click.option(
    "--verify-key",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="PATH",
    help="As for `pull`.",
)
def layout(
    model_uri: str,
    target: str,
    server: str,
    output: Path,
    name: str,
    max_batch_size: int,
    mount: str,
    verify_key: Path | None,
) -> None:
    """Write the folder that an inference server loads: an export, digests checked, with what belongs beside it.

    The version's number is the registry's. Prints the folder of the version; how it is served, on stderr.
    """
    from registry_export import api

    laid = api.layout(
        model_uri,
        target,
        server,
        output,
        name=name,
        max_batch_size=max_batch_size,
        mount=mount,
        verify_key=verify_key,
    )
    click.echo(laid.path)
    for note in laid.notes:
        click.echo(note, err=True)
    click.echo(f"Serve it: {laid.start}", err=True)
