"""Puts weights into Keras models that a factory built, those of Keras 2's TensorFlow checkpoints too.

Keras 2 numbered the layers that have weights (`layer_with_weights-3/cell/kernel`). Keras 3 has other names
inside its layers, so a value is matched to a variable of the same layer by its own name, its shape, and the words
that both paths share.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry_export.entities import Interface
from registry_export.errors import SourceError
from registry_export.format import ModelSetup
from registry_export_plugins._tensorflow.files import require_values

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_NUMBERED = re.compile(r"layer_with_weights-(\d+)/")
_OTHERS = ("optimizer/", "save_counter", "keras_api/", "_CHECKPOINTABLE")


@dataclass(frozen=True)
class _Slot:
    """A variable of the model that waits for its value."""

    path: str
    words: frozenset[str]
    variable: Any


def model_of(setup: ModelSetup, path: Path, interface: Interface) -> Any:
    """Call the factory; return a Keras model that has its variables.

    Raises:
        SourceError: There is no factory, or it returned something else, or a model of unknown inputs.
    """
    import keras

    from registry_export_plugins._tensorflow.keras import built

    model = setup.build(path.name)
    if not isinstance(model, keras.Model):
        raise SourceError(
            f"The model_factory {setup.model_factory} returned a {type(model).__name__}, not a keras.Model."
        )
    built(model, interface)
    if not model.built:
        raise SourceError(
            f"The model that {setup.model_factory} returned is not built, so it has no variables to load.",
            remedy="Begin it with keras.Input, call build() in the factory, or log the version with a signature.",
        )
    return model


def load_weights(model: Any, path: Path) -> None:
    """Load a file of weights into a built model.

    Raises:
        SourceError: The file cannot be read, or holds other weights than the model's.
    """
    if path.suffix == ".index":
        load_keras_2(model, path.with_suffix(""))
        return
    try:
        model.load_weights(path)
    except OSError as error:
        text = " ".join(str(error).split())
        raise SourceError(f"{path.name} cannot be read: {text}.", remedy="Log the file again.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        text = " ".join(str(error).split("Target variable:")[0].split())
        raise SourceError(
            f"The weights in {path.name} are not those of the model that the factory builds: {text[:400]}",
            remedy="Let model_factory build the model as it was when the weights were saved.",
        ) from error


def load_keras_2(model: Any, prefix: Path) -> None:
    """Load the checkpoint that Keras 2 wrote of a model, functional or subclassed, into one of Keras 3.

    Raises:
        SourceError: The file cannot be read, or its values are not the model's.
    """
    import tensorflow as tf

    require_values(prefix)
    try:
        reader = tf.train.load_checkpoint(str(prefix))
    except (ValueError, tf.errors.OpError) as error:
        raise SourceError(f"The checkpoint {prefix.name} cannot be read: {error}") from error
    shapes = {
        key.removesuffix(VALUE): tuple(shape)
        for key, shape in reader.get_variable_to_shape_map().items()
        if key.endswith(VALUE) and not key.startswith(_OTHERS) and ".OPTIMIZER_SLOT" not in key
    }
    pairs = _paired(model, shapes, prefix.name)
    for key, slot in pairs:
        slot.variable.assign(reader.get_tensor(key + VALUE))


def _paired(model: Any, shapes: Mapping[str, tuple[int, ...]], name: str) -> list[tuple[str, _Slot]]:
    """Match the values of a model's checkpoint with its variables, layer by layer where they are numbered."""
    numbered: dict[int, dict[str, tuple[int, ...]]] = {}
    rest: dict[str, tuple[int, ...]] = {}
    for key, shape in shapes.items():
        found = _NUMBERED.match(key)
        if found:
            numbered.setdefault(int(found[1]), {})[key] = shape
        else:
            rest[key] = shape
    if not numbered:
        return _matched(rest, _slots(model), name)
    layers = [layer for layer in model.layers if layer.weights]
    if len(layers) != len(numbered):
        raise SourceError(
            f"The checkpoint {name} has weights for {len(numbered)} layers, and the model that the factory builds has "
            f"{len(layers)} layers with weights.",
            remedy="Let model_factory build the model as it was when the weights were saved.",
        )
    pairs: list[tuple[str, _Slot]] = []
    for position, keys in sorted(numbered.items()):
        prefix = f"layer_with_weights-{position}/"
        inner = {key.removeprefix(prefix): shape for key, shape in keys.items()}
        layer = layers[position]
        nested = any(_NUMBERED.match(key) for key in inner)
        found_pairs = _paired(layer, inner, name) if nested else _matched(inner, _slots(layer), f"{name}, {layer.name}")
        pairs += [(prefix + key, slot) for key, slot in found_pairs]
    return pairs


def _slots(layer: Any) -> list[_Slot]:
    """List a layer's variables with the words of their paths, and of the attributes that lead to them."""
    attributes = {id(variable): path for path, variable in _walk(layer, "", set())}
    slots = []
    for variable in layer.weights:
        words = _words(variable.path) | _words(attributes.get(id(variable), ""))
        slots.append(_Slot(variable.path, words, variable))
    return slots


def _walk(part: Any, path: str, seen: set[int]) -> Iterable[tuple[str, Any]]:
    import keras

    if id(part) in seen:
        return
    seen.add(id(part))
    if isinstance(part, keras.Variable):
        yield path, part
        return
    items: Iterable[tuple[str, Any]] = ()
    if isinstance(part, keras.layers.Layer):
        # Public attributes first: they bear their author's names, and `_layers` only numbers.
        items = sorted(vars(part).items(), key=lambda item: item[0].startswith("_"))
    elif isinstance(part, dict):
        items = [(str(key), value) for key, value in part.items()]
    elif isinstance(part, list | tuple):
        items = [(str(i), value) for i, value in enumerate(part)]
    for key, value in items:
        if isinstance(value, keras.Variable | keras.layers.Layer | dict | list | tuple):
            yield from _walk(value, f"{path}/{key}", seen)


def _words(path: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9]+", path.lower()))


def _matched(shapes: Mapping[str, tuple[int, ...]], slots: Sequence[_Slot], place: str) -> list[tuple[str, _Slot]]:
    """Pair each variable with the value of its name and shape whose path shares most words with it.

    Raises:
        SourceError: A variable has no value, or two values that cannot be told apart; or a value is left over.
    """
    free = dict(shapes)
    pairs = []
    for slot in sorted(slots, key=lambda s: -len(s.words)):
        leaf, shape = slot.variable.name, tuple(slot.variable.shape)
        scores = sorted(
            ((len(slot.words & _words(key)), key) for key, own in free.items() if own == shape and _leaf(key) == leaf),
            reverse=True,
        )
        if not scores:
            continue
        if len(scores) > 1 and scores[0][0] == scores[1][0]:
            raise SourceError(f"In {place}, {scores[0][1]} and {scores[1][1]} could both be {slot.path}.")
        del free[scores[0][1]]
        pairs.append((scores[0][1], slot))
    paired = {id(slot) for _, slot in pairs}
    missing = [slot.path for slot in slots if id(slot) not in paired and "seed_generator" not in slot.path]
    if missing or free:
        sizes = {slot.path: tuple(slot.variable.shape) for slot in slots}
        lacks = f"has no value for {_listed(missing, sizes)}" if missing else ""
        left = f"holds {_listed(sorted(free), free)}, which the model has not" if free else ""
        raise SourceError(
            f"The checkpoint {place} {' and '.join(part for part in (lacks, left) if part)}.",
            remedy="Let model_factory build the model as it was when the weights were saved.",
        )
    return pairs


def _listed(names: Sequence[str], shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {list(shapes[name])}" for name in names[:5])


def _leaf(key: str) -> str:
    return key.rsplit("/", 1)[-1].lstrip("_")
