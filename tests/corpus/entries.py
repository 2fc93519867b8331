"""What the corpus holds: names, and in a child the models behind them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from registry_export.format import Toolchain
from tests.corpus.transformers_models import ARCHITECTURES
from tests.corpus.transformers_models import build as build_transformer
from tests.support.sources import TENSORFLOW, TORCH
from tests.support.sources.decoders import TRANSFORMERS

Inputs = dict[str, np.ndarray]

KERAS_APPLICATIONS = (
    "MobileNet",
    "MobileNetV2",
    "MobileNetV3Small",
    "EfficientNetB0",
    "EfficientNetV2B0",
    "DenseNet121",
    "NASNetMobile",
    "ResNet50",
    "ResNet50V2",
    "ConvNeXtTiny",
    "Xception",
    "InceptionV3",
)
_LARGER = {"Xception": 71, "InceptionV3": 75}


def _floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _tokens() -> Inputs:
    return {"input_ids": np.random.default_rng(0).integers(1, 50, (2, 6)), "attention_mask": np.ones((2, 6), np.int64)}


_ROW = {"x": _floats(2, 4)}
NETS: dict[str, tuple[str, tuple[Any, ...], Inputs]] = {
    "conv": ("ConvNet", (), {"x": _floats(2, 1, 16, 16)}),
    "residual": ("Residual", (), {"image": _floats(2, 3, 12, 12)}),
    "depthwise": ("Depthwise", (), {"x": _floats(2, 3, 16, 16)}),
    "lstm": ("Recurrent", ("LSTM",), {"sequence": _floats(2, 7, 4)}),
    "gru": ("Recurrent", ("GRU",), {"sequence": _floats(2, 7, 4)}),
    "attention": ("EncoderLayers", (), {"x": _floats(2, 6, 8)}),
    "embedding": ("Transformer", (), _tokens()),
    "multi_input": ("TwoInputs", (), {"image": _floats(2, 6), "table": _floats(2, 3)}),
    "multi_output": ("TupleOutput", (), _ROW),
    "nested_output": ("DictOutput", (), _ROW),
    "data_dependent_branch": ("PythonIf", (), _ROW),
    "cond": ("Cond", (), _ROW),
    "boolean_input": ("BoolInput", (), {**_ROW, "mask": _floats(2, 4) > 0}),
    "passed_through": ("PassThrough", (), _ROW),
}
"""Nets of `tests.models`: class, arguments and inputs."""


@dataclass(frozen=True)
class Entry:
    """One model of the corpus: its name, its family, and what its builder needs."""

    name: str
    family: str
    toolchain: Toolchain


ENTRIES: tuple[Entry, ...] = (
    *(Entry(f"nets/{name}", "tests.models", TORCH) for name in NETS),
    *(Entry(f"transformers/{name}", "transformers", TRANSFORMERS) for name in sorted(ARCHITECTURES)),
    *(Entry(f"keras/{name}", "keras.applications", TENSORFLOW) for name in KERAS_APPLICATIONS),
)


def build(name: str) -> tuple[Any, Inputs]:
    """Build an entry's model and the inputs to log it with; the batch is 2."""
    family, _, rest = name.partition("/")
    builders: dict[str, Callable[[str], tuple[Any, Inputs]]] = {
        "nets": _net,
        "transformers": build_transformer,
        "keras": _application,
    }
    return builders[family](rest)


def _net(name: str) -> tuple[Any, Inputs]:
    from tests import models

    class_name, arguments, inputs = NETS[name]
    return models.seeded(getattr(models, class_name)(*arguments)).eval(), inputs


def _application(name: str) -> tuple[Any, Inputs]:
    import keras

    keras.utils.set_random_seed(0)
    side = _LARGER.get(name, 64)
    model = getattr(keras.applications, name)(weights=None, input_shape=(side, side, 3), classes=10)
    return model, {model.inputs[0].name: _floats(2, side, side, 3)}


def save(arguments: dict[str, str]) -> None:
    """Log an entry as its author would; runs in a child."""
    import mlflow
    from mlflow.models import infer_signature

    model, inputs = build(arguments["name"])
    folder = arguments["folder"]
    if arguments["name"].startswith("keras/"):
        array = next(iter(inputs.values()))
        signature = infer_signature(array, np.asarray(model(array)))
        mlflow.keras.save_model(model, folder, signature=signature, pip_requirements=[])
        np.savez(f"{folder}.npz", **inputs)
        return
    np.savez(f"{folder}.npz", **inputs)
    example: Any = inputs if len(inputs) > 1 else next(iter(inputs.values()))
    try:
        mlflow.pytorch.save_model(
            model, folder, input_example=example, serialization_format="pickle", pip_requirements=["torch"]
        )
    except (RuntimeError, TypeError):  # parametrised weights, and what holds a context variable, cannot be pickled
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(folder)


def fresh_inputs(arguments: dict[str, str]) -> None:
    """Run an entry's model on inputs that no export has seen, and write both; runs in a child."""
    from registry_export.tensors import write_tensors
    from tests.corpus.raw import flat_outputs

    model, inputs = build(arguments["name"])
    generator = np.random.default_rng(99)
    fresh = {name: _like(array, generator) for name, array in inputs.items()}
    write_tensors(Path(arguments["inputs"]), fresh)
    outputs = flat_outputs(model, fresh, numbers=True)
    write_tensors(Path(arguments["expected"]), {str(i): array for i, array in enumerate(outputs)})


def _like(array: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    if array.dtype.kind == "f":
        return generator.standard_normal(array.shape).astype(array.dtype)
    if array.dtype.kind == "b":
        return generator.integers(0, 2, array.shape).astype(bool)
    return generator.integers(int(array.min()), int(array.max()) + 1, array.shape).astype(array.dtype)
