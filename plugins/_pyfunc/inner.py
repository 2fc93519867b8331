"""The model inside a Python function: found among its attributes, and called as the function calls it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from registry_export.errors import SourceError

_DEPTH = 3
_PREFERRED = ("model", "net", "network", "module")


def load_function(folder: Path, needed_by: str) -> Any:
    """Load a Python function as MLflow does, its context included.

    Raises:
        SourceError: It cannot be loaded here.
    """
    import mlflow

    try:
        return mlflow.pyfunc.load_model(str(folder))
    except MemoryError:
        raise
    except Exception as error:  # the author's load_context raises whatever it likes
        raise SourceError(
            f"The Python function cannot be loaded for the {needed_by} in it: {type(error).__name__}: {error}.",
            remedy="Log that model with its own flavor, or make mlflow.pyfunc.load_model work in this environment.",
        ) from error


def pickled_object(folder: Path) -> str:
    """Return the file that the author's object was pickled into, compressed or not; empty for a model from code."""
    import mlflow

    flavor = mlflow.models.Model.load(str(folder)).flavors["python_function"]
    return "" if flavor.get("model_code_path") else str(flavor.get("python_model", ""))


def find(function: Any, is_model: Callable[[Any], bool], what: str) -> tuple[str, Any]:
    """Find the one model among the attributes of the author's object, and of what those hold.

    Args:
        function: What `load_function` returned.
        is_model: Tells a model of the framework.
        what: What it is called, for messages.

    Returns:
        Where it is (`self.pipeline.model`), and the model.

    Raises:
        SourceError: There is none, or several and nothing says which is meant.
    """
    places: dict[int, tuple[str, Any]] = {}
    for place, value in _walk(function.unwrap_python_model(), "self", _DEPTH, set(), is_model):
        if is_model(value):
            places.setdefault(id(value), (place, value))
    found = list(places.values())
    named = [entry for entry in found if entry[0].rpartition(".")[2].strip("_") in _PREFERRED]
    chosen = found if len(found) == 1 else named
    if len(chosen) == 1:
        return chosen[0]
    listed = f"several ({', '.join(place for place, _ in found)})" if found else "none"
    raise SourceError(
        f"Of the {what}s that the Python function may hold in its attributes there are {listed}.",
        remedy="Load one in load_context into self.model, or log that model with its own flavor.",
    )


def _walk(
    value: Any, place: str, depth: int, seen: set[int], is_model: Callable[[Any], bool]
) -> Iterator[tuple[str, Any]]:
    if id(value) in seen or isinstance(value, (str, bytes, int, float, type(None), type)):
        return
    seen.add(id(value))
    yield place, value
    if depth and not is_model(value):  # what is inside of a model is no model of its own
        for name, part in _parts(value):
            yield from _walk(part, f"{place}{name}", depth - 1, seen, is_model)


def _parts(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [(f"[{key!r}]", part) for key, part in value.items()]
    if isinstance(value, (list, tuple)):
        return [(f"[{position}]", part) for position, part in enumerate(value)]
    return [(f".{name}", part) for name, part in getattr(value, "__dict__", {}).items()]


def predict_example(function: Any, folder: Path) -> bool:
    """Run the function on the input example that it was logged with; say whether it had one and took it."""
    example = function.metadata.load_input_example(str(folder))
    if example is None:
        return False
    try:
        function.predict(example)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  what it was called with until then is all that is wanted
        return False
    return True
