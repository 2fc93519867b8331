"""What a rule says of how a checkpoint becomes a model: its architecture's factory, and what is put around it.

Both are named `package.module:callable` and are run inside the child that loads the checkpoint.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry_export.errors import SourceError
from registry_export.parsing import MOST_CODE_BYTES, PARSER, read_bounded

_MODULES = (".py", ".so", ".pyd")

MODEL_FACTORY = "model_factory"
WRAPPER = "wrapper"
PRUNING = "pruning"
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass(frozen=True)
class Pruning:
    """Which weights of a checkpoint are made zero before it is exported.

    Attributes:
        method: `l1_unstructured` (of every layer the smallest ones), `ln_structured` (of every layer the rows of
            the smallest norm), or `global` (of all layers together the smallest ones).
        amount: The share of them, between 0 and 1.
    """

    method: str
    amount: float

    def __str__(self) -> str:
        return f"{self.method}{100 * self.amount:g}"


@dataclass(frozen=True)
class ModelSetup:
    """What a source needs beside its files.

    Attributes:
        model_factory: `package.module:callable` that returns a model whose weights are not loaded yet.
        wrapper: `package.module:callable` that takes the loaded model and returns the one to export.
        allow_pickle: Whether pickled code may be loaded at all.
        search: Folders in which the modules are looked for, after the model's own code.
        walls_required: Whether it may be loaded only where nothing of the worker's is within its reach.
        pruning: What a target asks to be done to its weights; None: nothing.
    """

    model_factory: str = ""
    wrapper: str = ""
    allow_pickle: bool = True
    search: tuple[str, ...] = ()
    walls_required: bool = False
    pruning: Pruning | None = None

    def enter(self) -> None:
        """Make the modules importable, those too that a pickled model of plain files was made with."""
        sys.path.extend(folder for folder in self.search if folder not in sys.path)

    @property
    def modules(self) -> tuple[Path, ...]:
        """What Python can import from the folders searched: no other file of theirs is a model's business."""
        return tuple(found for folder in map(Path, self.search) if folder.is_dir() for found in importable_in(folder))

    def factory(self, needed_by: str) -> Callable[..., Any]:
        """Return the factory itself (a class, where its class is what a checkpoint needs).

        Args:
            needed_by: The file that needs it, for the refusal.

        Raises:
            SourceError: None is named, or it cannot be imported.
        """
        if not self.model_factory:
            raise SourceError(
                f"{needed_by} holds weights without an architecture.",
                remedy="Name a function that returns the model: `model_factory: package.module:callable` in the rule, "
                "or the same as the tag registry_export.model_factory of the version.",
            )
        found: Callable[..., Any] = resolve(self.model_factory, MODEL_FACTORY)
        return found

    def build(self, needed_by: str) -> Any:
        """Call the factory, without arguments, and return what it returns.

        Raises:
            SourceError: As `factory`, or the factory fails, or returns nothing.
        """
        return called(self.factory(needed_by), (), f"{MODEL_FACTORY} {self.model_factory}")

    def wrap(self, model: Any) -> Any:
        """Return what the wrapper makes of a model; the model itself where there is no wrapper.

        Raises:
            SourceError: The wrapper cannot be imported, fails, or returns nothing.
        """
        if not self.wrapper:
            return model
        return called(resolve(self.wrapper, WRAPPER), (model,), f"{WRAPPER} {self.wrapper}")


NO_SETUP = ModelSetup()
"""A checkpoint that is complete in itself."""


def importable_in(folder: Path) -> tuple[Path, ...]:
    """List what Python can import from a folder: modules, and folders that have some."""
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return ()
    return tuple(e for e in entries if e.suffix in _MODULES or (e.is_dir() and any(e.glob("*.py"))))


def is_callable_name(text: str) -> bool:
    """Whether a text is written `package.module:callable`."""
    return _NAME.fullmatch(text) is not None


def resolve(name: str, what: str) -> Any:
    """Import `package.module:attribute`; what is at fault is told apart.

    Args:
        name: The name.
        what: What it is called in the configuration.

    Raises:
        SourceError: It is not written so, its module cannot be imported, or has no such attribute.
    """
    if not is_callable_name(name):
        raise SourceError(f"{what} must be written package.module:callable, not {name!r}.")
    module_name, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise SourceError(
            f"{what} {name}: there is no module {error.name}.",
            remedy="Log it with the model (code_paths=[...]), put it beside registry-export.yaml, or install it "
            "where the worker runs.",
        ) from error
    except SystemExit as error:
        raise SourceError(
            f"{what} {name}: importing its module ends the process (exit status {error.code}).",
            remedy='Put what the script does under `if __name__ == "__main__":`.',
        ) from error
    except Exception as error:
        raise SourceError(f"{what} {name}: its module fails: {_told(error)}.") from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise SourceError(f"{what} {name}: {module_name} has no {path}.")
        found = getattr(found, part)
    return found


def called(function: Any, arguments: tuple[Any, ...], what: str, returns: str = "the model") -> Any:
    """Call what a rule names; what goes wrong in it is told as a rule's author needs it.

    Args:
        function: What `resolve` returned.
        arguments: For it, in order.
        what: What refusals call it.
        returns: What it should return.

    Raises:
        SourceError: It cannot be called, fails, or returns nothing.
    """
    if not callable(function):
        raise SourceError(f"{what} is a {type(function).__name__}, and cannot be called.")
    try:
        made = function(*arguments)
    except (SourceError, MemoryError):
        raise
    except SystemExit as error:
        raise SourceError(f"{what} ends the process (exit status {error.code}).", remedy="Let it return.") from error
    except Exception as error:
        raise SourceError(f"{what} fails: {_told(error)}.") from error
    if made is None:
        raise SourceError(f"{what} returns nothing.", remedy=f"Let it return {returns}.")
    return made


def _told(error: Exception) -> str:
    """Fold somebody else's exception into one line, with the place in their code where it was raised."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    theirs = frame.filename != __file__ and not isinstance(error, SyntaxError)  # which names its place itself
    place = f" ({Path(frame.filename).name}, line {frame.lineno})" if theirs else ""
    text = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {text}{place}"


def code_files(name: str, search: Sequence[str], own: Sequence[str] = ()) -> tuple[Path, ...]:
    """Find the files behind `package.module:callable`, or behind the path of one file, without importing them.

    Args:
        name: The name or the path.
        search: Folders to look in, in the order in which the child imports from them.
        own: Those that hold the author's code: what a module there imports from there belongs to it.

    Returns:
        The files of the module's top-level package, or its one file, and of what it imports; nothing where it is
        not found.
    """
    if not is_callable_name(name):
        return tuple(path for folder in search if (path := Path(folder, name)).is_file())[:1]
    tops = [name.partition(":")[0].partition(".")[0]]
    followed = {Path(folder) for folder in own}
    found: dict[Path, None] = {}
    for position, top in enumerate(tops):  # which grows meanwhile
        for place in _places_of(top, search):
            is_own = place.parent in followed
            for path in _python_files(place) if is_own or position == 0 else ():
                found[path] = None
                tops.extend(imported for imported in (_imported(path) if is_own else ()) if imported not in tops)
    return tuple(found)


def _places_of(top: str, search: Sequence[str]) -> list[Path]:
    """Find a top-level module as Python does: a package or a module first, mere folders only where there is none."""
    folders = [Path(folder) for folder in search]
    for folder in folders:
        if (folder / top / "__init__.py").is_file():
            return [folder / top]
        if (folder / f"{top}.py").is_file():
            return [folder / f"{top}.py"]
    return [folder / top for folder in folders if (folder / top).is_dir()]


def _python_files(place: Path) -> list[Path]:
    return [place] if place.is_file() else sorted(place.rglob("*.py"))


def _imported(path: Path) -> list[str]:
    """Name the top-level modules that a file imports anywhere; none where it is no Python."""
    try:
        with PARSER:
            nodes = list(ast.walk(ast.parse(read_bounded(path, MOST_CODE_BYTES))))
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return []
    modules = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    modules += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    return list(dict.fromkeys(module.partition(".")[0] for module in modules))
