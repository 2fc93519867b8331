"""Finding a model's PyTorch file, the same one for every format, without importing PyTorch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from registry_export.errors import SourceError
from registry_export.parsing import json_of, read_bounded
from registry_export_plugins._torch.archives import Content, content_of

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".pt2", ".safetensors", ".tar", ".pkl", ".torchscript", ".ts", ".jit")
"""Which files are looked into. `.tar` is what PyTorch's tutorials call a training checkpoint, and is none."""
INDEX_SUFFIXES = (".bin.index.json", ".pt.index.json", ".pth.index.json", ".safetensors.index.json")
_NAMED_FIRST = (
    "model",
    "pytorch_model",
    "state_dict",
    "weights",
    "best",
    "model_best",
    "best_model",
    "checkpoint",
    "last",
    "latest_checkpoint",
)
_ADAPTER = "adapter_config.json"
_OURS_ALONE = (".pt", ".pth", ".pt2")
_TEXTS = ("", ".cfg", ".csv", ".json", ".md", ".py", ".toml", ".txt", ".yaml", ".yml")
_NOT_THE_MODEL = ("exports", "code")
"""Folders beside a version's files that hold no checkpoint: our own exports, the author's code."""


def pytorch_file(folder: Path, flavors: Mapping[str, Mapping[str, Any]], name: str) -> Path | None:
    """Find a file of MLflow's `pytorch` flavor.

    Args:
        folder: The downloaded model folder.
        flavors: The `flavors` of its MLmodel file; empty for a plain folder.
        name: The file's name.
    """
    if flavors and "pytorch" not in flavors:
        return None
    data = str(flavors["pytorch"].get("model_data", "data")) if flavors else "."
    path = folder / data / name
    return path if path.is_file() else None


def checkpoint_file(folder: Path, flavors: Mapping[str, Mapping[str, Any]], *contents: Content) -> Path | None:
    """Find the one PyTorch file of a model, if it holds one of the contents asked for.

    Every format that reads such files asks here, and so they agree on which file it is: that of MLflow's
    `pytorch` flavor, or of a plain folder the only one, else the one whose name says that it is the model's.

    Args:
        folder: The downloaded model folder.
        flavors: The `flavors` of its MLmodel file; empty for plain files.
        contents: What the format reads.

    Returns:
        The file; the index of a sharded one. None when the model has none, or it holds something else.

    Raises:
        SourceError: There are several, and nothing says which is meant; or weights of an adapter alone.
    """
    if not flavors and (folder / _ADAPTER).is_file():
        raise SourceError(
            "The folder holds a PEFT adapter, which is no model without the one that it adapts.",
            remedy="Log the merged one: model.merge_and_unload().save_pretrained(folder).",
        )
    if flavors:
        pickled = pytorch_file(folder, flavors, "model.pth")
        path = pickled or pytorch_file(folder, flavors, "model.pt2")
    else:
        path = None if hugging_face_folder(folder) else _only(_candidates(folder), folder)
    return path if path is not None and _content(path) in contents else None


def hugging_face_folder(folder: Path) -> Path | None:
    """Find a folder as `save_pretrained` of transformers writes it: a configuration beside weights."""
    for place in (folder, *_folders(folder)):
        if _model_type(place / "config.json") and weights_file(place) is not None:
            return place
    return None


def weights_file(folder: Path) -> Path | None:
    """Find the weights of a Hugging Face folder: safetensors before pickles, an index before its shards."""
    names = ("model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin")
    return next((folder / name for name in names if (folder / name).is_file()), None)


def left_out(path: Path) -> tuple[str, ...]:
    """Name the other PyTorch files with models in them beside the plain one that was taken."""
    if (path.parent.parent / "MLmodel").is_file():
        return ()  # MLflow's own folder, where its MLmodel says which
    return tuple(other.name for other in _holding_models(path.parent.iterdir()) if other != path)


def unreadable_file(folder: Path, flavors: Mapping[str, Mapping[str, Any]]) -> Path | None:
    """Find the only file of a plain folder where its suffix is PyTorch's alone, and what it holds is not."""
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() and not flavors else []
    others = [path for path in files if path.suffix not in _TEXTS]
    if len(others) != 1 or others[0].suffix not in _OURS_ALONE:
        return None
    return others[0] if _content(others[0]) is Content.OTHER else None


def _model_type(path: Path) -> str:
    try:
        settings = json_of(read_bounded(path)) if path.is_file() else None
    except (OSError, ValueError):
        return ""
    return str(settings.get("model_type", "")) if isinstance(settings, Mapping) else ""


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if path.is_dir() and path.name not in _NOT_THE_MODEL)
    return sorted(path for path in found if not path.name.startswith("."))


def _candidates(folder: Path) -> list[Path]:
    """Return the files that hold a model: those at the top of a folder, else those one folder below."""
    top = list(_holding_models(folder.iterdir() if folder.is_dir() else ()))
    return top or [path for below in _folders(folder) for path in _holding_models(below.iterdir())]


def _holding_models(paths: Iterable[Path]) -> list[Path]:
    files = sorted(path for path in paths if path.is_file())
    indices = [path for path in files if path.name.endswith(INDEX_SUFFIXES)]
    shards = {name for index in indices for name in shards_of(index)}
    single = [path for path in files if path.suffix in SUFFIXES and path.name not in shards]
    return [*indices, *(path for path in single if content_of(path).content is not Content.OTHER)]


def shards_of(index: Path) -> tuple[str, ...]:
    """Return the names of the files that an index (`model.safetensors.index.json`) spreads the weights over."""
    try:
        weights = json_of(read_bounded(index))["weight_map"]
        return tuple(sorted({str(name) for name in weights.values()}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ()


def _only(paths: list[Path], folder: Path) -> Path | None:
    if len(paths) <= 1:
        return paths[0] if paths else None
    stems = {path: path.name.partition(".")[0] for path in paths}
    for name in _NAMED_FIRST:
        named = [path for path in paths if stems[path] == name]
        if len(named) == 1:
            return named[0]
        if named:
            return min(named, key=lambda path: _PREFERRED.index(_content(path)))
    raise SourceError(
        f"There are {len(paths)} PyTorch files here, and none of them is named as the model: "
        f"{', '.join(str(path.relative_to(folder)) for path in paths[:5])}.",
        remedy="Register a folder with one of them, or name that one model.pt (its suffix is its own).",
    )


_PREFERRED = (
    Content.SAFETENSORS,
    Content.PROGRAM,
    Content.TORCHSCRIPT,
    Content.MODULE,
    Content.LIGHTNING,
    Content.STATE_DICT,
    Content.CHECKPOINT,
    Content.OTHER,
)
"""Among files of one name the first is taken: what needs neither code nor a factory, then what needs less."""


def _content(path: Path) -> Content:
    if path.name.endswith(".safetensors.index.json"):
        return Content.SAFETENSORS
    if path.name.endswith(INDEX_SUFFIXES):
        return Content.STATE_DICT
    return content_of(path).content
