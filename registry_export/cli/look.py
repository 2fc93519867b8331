"""`registry-export inspect`, `diff` and `view`: what a model file holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from registry_export.cli.completion import complete_formats
from registry_export.cli.tables import print_json, print_table
from registry_export.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from registry_export.entities import Contents, Contrast, TensorContents, TensorContrast

_DEEPEST = 2
_MOST_OPERATORS = 20
_MOST_METADATA = 20
_LONGEST = 100

_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, complete.")
_target_option = click.option(
    "--target",
    default="",
    metavar="TARGET",
    shell_complete=complete_formats,
    help="A target or a variant: onnx, tflite-int8. Default: the checkpoint. models:/name/3#onnx says the same.",
)
_format_option = click.option(
    "--format",
    "format_name",
    default="",
    metavar="FORMAT",
    shell_complete=complete_formats,
    help="Of a file whose name does not say it.",
)


@click.command("inspect", short_help="Tell what a model file holds.")
@click.argument("model")
@_target_option
@_format_option
@click.option("--top", default=10, show_default=True, type=click.IntRange(min=0), help="Largest tensors to print.")
@click.option("--all", "everything", is_flag=True, help="Print every tensor, module and operator.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write a page instead.")
@_json_option
def inspect(
    model: str, target: str, format_name: str, top: int, everything: bool, html: Path | None, as_json: bool
) -> None:
    """Tell what a model file holds: tensors with their statistics, parameters by module, operators, metadata.

    MODEL is models:/name/3, models:/name@alias or models:/name/Staging, or the path of a file or folder. The file is
    read in a sandboxed process. What its format does not tell is said.
    """
    from registry_export import looking

    name, contents = looking.inspect(model, target, format_name=format_name)
    if html is not None:
        from registry_export.report import contents_page

        try:
            html.write_text(contents_page(name, contents), encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(f"{html} cannot be written: {error.strerror}.") from error
        click.echo(html)
    elif as_json:
        print_json(contents)
    else:
        _print_contents(name, contents, None if everything else top)


@click.command(short_help="Tell what two models differ in.")
@click.argument("one")
@click.argument("other")
@_target_option
@_format_option
@click.option("--all", "everything", is_flag=True, help="Print every tensor that differs.")
@_json_option
def diff(one: str, other: str, target: str, format_name: str, everything: bool, as_json: bool) -> int:
    """Tell what two versions, formats or files differ in: tensors, operators, opset, metadata, sizes.

    ONE and OTHER as MODEL of `inspect`: models:/digits/3#onnx models:/digits/4#onnx. The exit code is 0 where they hold
    the same, and 1 where they do not; the sizes of the files alone make no difference.
    """
    from registry_export import looking

    found = looking.diff(one, other, target, format_name=format_name)
    if as_json:
        print_json(found)
    else:
        _print_contrast(found, everything)
    return int(not found.same)


def _print_contents(name: str, contents: Contents, top: int | None) -> None:
    from registry_export.report import size_text

    version = f", version {contents.format_version}" if contents.format_version else ""
    click.echo(f"{name}: {contents.format}{version}, {size_text(contents.size_bytes)}")
    _print_facts(contents, top is None)
    if contents.tensors is not None:
        _print_tensors(contents, contents.tensors, top)
        _print_modules(contents, top is None)
    if contents.operators:
        _print_operators(contents, top is None)
    for sentence in contents.unsaid:
        click.echo(f"Not told. {sentence}")


def _print_facts(contents: Contents, everything: bool) -> None:
    from registry_export.report.text import shape_text

    imports = ", ".join(f"{domain} {version}" for domain, version in contents.opset_imports.items())
    facts = {
        "precision": contents.precision,
        "opset": "" if contents.opset_version is None else str(contents.opset_version),
        "opset imports": imports,
        "IR version": "" if contents.ir_version is None else str(contents.ir_version),
    }
    for side in ("inputs", "outputs") if contents.interface else ():
        specs = getattr(contents.interface, side)
        facts[side] = ", ".join(f"{spec.name} {spec.dtype} {shape_text(spec)}" for spec in specs)
    shown = list(contents.metadata.items())
    left = 0 if everything else max(0, len(shown) - _MOST_METADATA)
    for key, text in [*facts.items(), *shown[: len(shown) - left]]:
        line = " ".join(text.split())
        if line:
            click.echo(f"  {key}: {line if everything or len(line) <= _LONGEST else f'{line[: _LONGEST - 1]}…'}")
    if left:
        click.echo(f"  ... {left} more of its metadata (--all)")


def _print_tensors(contents: Contents, tensors: Sequence[TensorContents], top: int | None) -> None:
    from registry_export.report import size_text

    parameters, size = f"{contents.parameters:,}", size_text(contents.tensor_bytes)
    click.echo(f"\n{contents.tensor_count} tensors, {parameters} parameters, {size}")
    shown = tensors if top is None else sorted(tensors, key=lambda t: -t.size_bytes)[:top]
    if shown:
        head = ("largest tensors" if top is not None and len(shown) < len(tensors) else "tensor", "shape", "dtype")
        rows = [_tensor_row(tensor) for tensor in shown]
        width = 9 if any(row[-1] for row in rows) else 8
        print_table((*head, "size", "min", "max", "mean", "std", "remark")[:width], [row[:width] for row in rows])


def _tensor_row(tensor: TensorContents) -> tuple[str, ...]:
    from registry_export.report import size_text

    numbers = (tensor.minimum, tensor.maximum, tensor.mean, tensor.std)
    remarks = [f"= {tensor.same_as}"] if tensor.same_as else []
    remarks += [f"{tensor.nonfinite} not finite"] if tensor.nonfinite else []
    return (
        tensor.name,
        _shape(tensor.shape),
        tensor.dtype,
        size_text(tensor.size_bytes),
        *("" if number is None else f"{number:.4g}" for number in numbers),
        ", ".join(remarks),
    )


def _shape(shape: Iterable[int] | None) -> str:
    return "" if shape is None else "×".join(map(str, shape)) or "scalar"


def _print_modules(contents: Contents, everything: bool) -> None:
    from registry_export.report import size_text

    shown = [module for module in contents.modules if everything or module.depth <= _DEEPEST]
    if len(shown) < 2:
        return
    click.echo()
    rows = [
        (f"{'. ' * module.depth}{module.path or 'all'}", f"{module.parameters:,}", size_text(module.size_bytes))
        for module in shown
    ]
    print_table(("module", "parameters", "size"), rows)
    if len(shown) < len(contents.modules):
        click.echo(f"... {len(contents.modules) - len(shown)} more, inside of these (--all)")


def _print_operators(contents: Contents, everything: bool) -> None:
    operators = contents.operators or {}
    click.echo(f"\n{sum(operators.values()):,} operators of {len(operators)} kinds")
    shown = list(operators.items())[: None if everything else _MOST_OPERATORS]
    print_table(("operator", "count"), [(name, str(count)) for name, count in shown])
    if len(shown) < len(operators):
        click.echo(f"... {len(operators) - len(shown)} more kinds (--all)")


def _print_contrast(found: Contrast, everything: bool) -> None:
    click.echo(f"{found.one} and {found.other}: {'hold the same' if found.same else 'differ'}")
    if found.facts:
        click.echo()
        print_table(("fact", found.one, found.other), [(name, *pair) for name, pair in found.facts.items()])
    if found.operators:
        click.echo()
        rows = [(name, str(pair[0]), str(pair[1])) for name, pair in found.operators.items()]
        print_table(("operator", found.one, found.other), rows)
    _print_contrasts(found, everything)
    for sentence in found.unsaid:
        click.echo(sentence)


def _print_contrasts(found: Contrast, everything: bool) -> None:
    shown = found.tensors if everything else found.tensors[:_MOST_OPERATORS]
    if shown:
        click.echo()
        rows = [_contrast_row(tensor) for tensor in shown]
        print_table(("tensor", "change", found.one, found.other, "max abs diff"), rows)
    if len(shown) < len(found.tensors):
        click.echo(f"... {len(found.tensors) - len(shown)} more (--all)")
    click.echo(f"{found.equal_tensors} tensors are equal, {len(found.tensors)} are not.")


def _contrast_row(tensor: TensorContrast) -> tuple[str, ...]:
    from registry_export.report.text import number_text

    mine = f"{tensor.dtype} {_shape(tensor.shape)}" if tensor.shape is not None else ""
    theirs = f"{tensor.other_dtype} {_shape(tensor.other_shape)}" if tensor.other_shape is not None else ""
    change = f"{tensor.change}: {tensor.other_name}" if tensor.other_name else tensor.change
    difference = "" if tensor.max_abs_diff is None else number_text(tensor.max_abs_diff)
    return tensor.name, change, mine, theirs, difference
