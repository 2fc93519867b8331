"""Keras models: `.keras` and `.h5` files, as MLflow's `keras` and `tensorflow` flavors log them.

A source only. Keras runs on its TensorFlow backend here, whichever backend trained the model.

Source: https://keras.io/guides/serialization_and_saving/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from registry_export.entities import Description, Interface
from registry_export.errors import SourceError
from registry_export.format import KERAS_MODEL, Array, Conversion, Option, Runner, Tensors
from registry_export_plugins._toolchains import TENSORFLOW

_SUFFIXES = (".keras", ".h5", ".hdf5")
_CUSTOM_OBJECTS = ("global_custom_objects.cloudpickle", "custom_objects.cloudpickle")


class Keras:
    """The format `keras`; see `registry_export.format.Format` for what its members mean."""

    name = "keras"
    summary = "Keras model (.keras, .h5)"
    extra = "keras"
    requirements = ("tensorflow", "keras")
    toolchain = TENSORFLOW
    kind = KERAS_MODEL
    filename = "model.keras"
    options: tuple[Option, ...] = ()
    conversions: tuple[Conversion, ...] = ()
    verified_by = "Keras on TensorFlow"

    def locate(self, folder: Path, flavors: Mapping[str, Mapping[str, Any]]) -> Path | None:
        """Find the `.keras` or `.h5` file that a flavor points to, or the only one of a plain folder."""
        if flavors:
            flavor = flavors.get("keras") or flavors.get("tensorflow")
            if flavor is None:
                return None
            place = folder / str(flavor.get("data", "data"))
        else:
            place = folder
        if place.is_file():
            return place if place.suffix in _SUFFIXES else None
        for suffix in _SUFFIXES:
            if (named := place / f"model{suffix}").is_file():
                return named
        found = [path for suffix in _SUFFIXES for path in sorted(place.glob(f"*{suffix}"))]
        return found[0] if len(found) == 1 else None

    def load(self, path: Path, interface: Interface) -> Any:
        """Load a `keras.Model`, built where the file or the signature tells its inputs."""
        from registry_export_plugins._tensorflow.keras import KerasCall, build

        model = _load(path)
        if not model.built and interface.inputs:
            call = KerasCall(model, interface)
            build(call, call.inputs)
        return model

    @contextmanager
    def open(self, path: Path, interface: Interface) -> Iterator[Runner]:
        """Load a model for inference."""
        yield _KerasRunner(self.load(path, interface), interface)

    def describe(self, path: Path) -> Description:
        """Read the inputs and outputs of a functional model; those of a subclass are unknown."""
        from registry_export_plugins._tensorflow.keras import KerasCall, outputs_of

        model = _load(path)
        try:
            call = KerasCall(model, Interface(inputs=()))
        except SourceError:
            return Description(interface=Interface(inputs=()))
        return Description(interface=Interface(call.inputs, outputs_of(call)))


class _KerasRunner:
    """Calls the model in inference mode."""

    def __init__(self, model: Any, interface: Interface) -> None:
        import keras

        from registry_export_plugins._tensorflow.keras import KerasCall, outputs_of

        self._call = KerasCall(model, interface)
        self.interface = Interface(self._call.inputs, outputs_of(self._call))
        self.runtime = f"keras {keras.__version__} on {keras.backend.backend()}"

    def infer(self, inputs: Tensors) -> dict[str, Array]:
        """Run once; arrays are given the dtypes of the model's inputs."""
        import keras
        import tensorflow as tf

        tensors = [
            tf.constant(np.asarray(inputs[spec.name]), dtype=tf.as_dtype(spec.dtype)) for spec in self.interface.inputs
        ]
        return {name: np.asarray(keras.ops.convert_to_numpy(tensor)) for name, tensor in self._call(*tensors)}


def _load(path: Path) -> Any:
    """Load the file with the custom objects that MLflow saved beside it.

    Raises:
        SourceError: It is damaged, or needs classes that are not here.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise SourceError(
            f"Keras runs on its {keras.backend.backend()} backend here, and TensorFlow's is needed.",
            remedy="Set KERAS_BACKEND=tensorflow.",
        )
    objects: dict[str, Any] = {}
    for name in _CUSTOM_OBJECTS:
        objects.update(_unpickled(path.parent / name))
    try:
        # A Lambda layer is its author's code, as every pickled checkpoint is; it is run in a confined child.
        return keras.saving.load_model(path, custom_objects=objects, compile=False, safe_mode=False)
    except (TypeError, ImportError, AttributeError) as error:
        raise SourceError(
            f"The Keras model {path.name} cannot be loaded: {_cause(error)}",
            remedy="Log it with mlflow.tensorflow.log_model, which keeps classes registered with "
            "keras.saving.register_keras_serializable, and name the files that define them in code_paths.",
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError, EOFError) as error:
        raise SourceError(f"The Keras model {path.name} cannot be loaded: {_cause(error)}") from error


def _cause(error: Exception) -> str:
    """Return what Keras says without the configuration that it prints behind it and the advice for its author."""
    innermost = str(error).split("Exception encountered:")[-1]
    text = innermost.split("Full object config:")[0].split("Make sure custom classes")[0]
    return " ".join(text.split()) or type(error).__name__


def _unpickled(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    import cloudpickle  # type: ignore[import-untyped]

    with path.open("rb") as file:
        loaded: dict[str, Any] = cloudpickle.load(file)
    return loaded
