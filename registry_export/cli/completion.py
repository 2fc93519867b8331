"""`registry-export completion`: what a shell needs to complete our words, and the words that are no option."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence

import click
from click.shell_completion import CompletionItem, get_completion_class

_VARIABLE = "_REGISTRY_EXPORT_COMPLETE"
_GROUP = "registry_export.formats"
_MODELS = "models:/"
_HELP = """Print the script by which SHELL completes commands, options and formats. Where it goes:

\b
bash  registry-export completion bash > ~/.local/share/bash-completion/completions/registry-export
fish  registry-export completion fish > ~/.config/fish/completions/registry-export.fish
zsh   in .zshrc, behind compinit: source <(registry-export completion zsh)
"""


@click.command(help=_HELP, short_help="Print the script by which a shell completes our words.")
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what click writes for a shell."""
    kind = get_completion_class(shell)
    root = context.find_root()
    if kind is None or root.info_name is None:
        raise click.UsageError(f"click knows no completion for {shell}.")
    click.echo(kind(root.command, {}, root.info_name, _VARIABLE).source())


def complete_formats(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> Sequence[CompletionItem]:
    """Complete the name of a format, the last one where they are separated by commas; no format is imported."""
    before, comma, last = incomplete.rpartition(",")
    names = {entry.name for entry in importlib.metadata.entry_points(group=_GROUP)}
    return [CompletionItem(f"{before}{comma}{name}") for name in sorted(names) if name.startswith(last)]


def complete_model_uri(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> Sequence[CompletionItem]:
    """Complete what every model URI begins with; names are the server's, which would have to be asked."""
    return [CompletionItem(_MODELS)] if _MODELS.startswith(incomplete) else []
