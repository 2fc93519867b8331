"""Keras models: `.keras` and `.h5` files, as MLflow's flavors log them or plain, and `.keras` as a target.

Keras runs on its TensorFlow backend here, whichever backend trained the model. Files of Keras 2 load as far
as Keras 3 reads them.

Source: https://keras.io/guides/serialization_and_saving/
"""

from __future__ import annotations

import json
import math
import sys
import sysconfig
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from registry_export.entities import Description, Interface, Snippet
from registry_export.errors import ConversionError, SourceError
from registry_export.format import (
    KERAS_MODEL,
    NO_SETUP,
    Conversion,
    ConversionRequest,
    ConversionResult,
    Inside,
    ModelSetup,
    Option,
    Runner,
)
from registry_export_plugins._snippets import in_a_row, snippet
from registry_export_plugins._tensorflow.files import is_weights
from registry_export_plugins._toolchains import TENSORFLOW

_SUFFIXES = (".keras", ".h5", ".hdf5")
_CUSTOM_OBJECTS = ("global_custom_objects.cloudpickle", "custom_objects.cloudpickle")

_CLASSES = (
    "Log it with mlflow.tensorflow.log_model, which keeps classes registered with "
    "keras.saving.register_keras_serializable, and name the files that define them in code_paths."
)

_KERAS_2 = (
    "It is a file of Keras 2 that Keras 3 does not read: load it with tf_keras and log its SavedModel, or log its "
    "weights alone (model.save_weights) and name a model_factory that builds it with Keras 3."
)


def from_keras_model(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    """Save a Keras model as a `.keras` file, the classes that are not Keras's own beside it."""
    from registry_export_plugins._tensorflow.keras import as_functional

    objects = _own_classes(model)
    notes = []
    try:
        model.save(output)
        if _loses_weights(model, output, objects):
            as_functional(model, request.interface).save(output)
            notes.append(
                f"The file holds a functional model around {type(model).__name__}: of the class alone Keras would load "
                "a part of the weights and draw the rest at random."
            )
    except (ValueError, TypeError, NotImplementedError, OSError) as error:
        raise ConversionError(f"Keras cannot save the model {model.name}: {_cause(error)}") from error
    if objects:
        (output.parent / _CUSTOM_OBJECTS[1]).write_bytes(_pickled(objects))
        named = ", ".join(sorted(type_.__name__ for type_ in objects.values()))
        notes.append(f"The model needs classes of its own ({named}); {_CUSTOM_OBJECTS[1]} beside the file holds them.")
    return ConversionResult(notes=tuple(notes))


def _loses_weights(model: Any, path: Path, objects: Mapping[str, Any]) -> bool:
    """Say whether Keras, loading the file of a subclass, makes fewer weights than were saved."""
    import keras

    from registry_export_plugins._tensorflow.keras_call import is_subclass

    if not is_subclass(model):
        return False
    loaded = keras.saving.load_model(path, custom_objects=dict(objects), compile=False, safe_mode=False)
    return len(loaded.weights) < len(model.weights)


def _own_classes(model: Any) -> dict[str, Any]:
    """Find the layers' and models' classes that Keras itself does not bring, by their registered names."""
    import keras

    classes = {type(part) for part in (model, *model._flatten_layers())}
    return {
        keras.saving.get_registered_name(type_): type_
        for type_ in classes
        if type_.__module__.partition(".")[0] != "keras"
    }


def _pickled(classes: Mapping[str, Any]) -> bytes:
    """Pickle classes with their source: a model's own code (`code_paths`) is not where its export is loaded."""
    import cloudpickle  # type: ignore[import-untyped]

    packages = {type_.__module__.partition(".")[0] for type_ in classes.values()} - {"__main__"}
    own = [sys.modules[name] for name in sorted(packages) if not _is_installed(sys.modules[name])]
    for module in own:
        cloudpickle.register_pickle_by_value(module)
    try:
        content: bytes = cloudpickle.dumps(classes)
    finally:
        for module in own:
            cloudpickle.unregister_pickle_by_value(module)
    return content


def _is_installed(module: Any) -> bool:
    places = [Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib", "stdlib")]
    found = [*getattr(module, "__path__", ()), getattr(module, "__file__", None) or ""]
    return any(place in Path(path).parents for path in found for place in places)


class Keras:
    """The format `keras`; see `registry_export.format.Format` for what its members mean."""

    name = "keras"
    summary = "Keras model (.keras, .h5)"
    extra = "keras"
    requirements = ("tensorflow", "keras")
    toolchain = TENSORFLOW
    kind = KERAS_MODEL
    filename = "model.keras"
    setup = ("wrapper", "allow_pickle")
    options: tuple[Option, ...] = ()
    conversions = (Conversion(KERAS_MODEL, from_keras_model, TENSORFLOW, cost=1.0, requirements=("cloudpickle",)),)
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
            if (named := place / f"model{suffix}").is_file() and not is_weights(named):
                return named
        found = [path for suffix in _SUFFIXES for path in sorted(place.glob(f"*{suffix}")) if not is_weights(path)]
        return found[0] if len(found) == 1 else None

    def load(self, path: Path, interface: Interface, setup: ModelSetup = NO_SETUP) -> Any:
        """Load a `keras.Model`, built where the file or the signature tells its inputs."""
        from registry_export_plugins._tensorflow.keras import built, completed, wrapped

        model = _load(path, setup.allow_pickle)
        # The old formats hold a subclass's weights only.
        model = completed(model, path, interface) if path.suffix == ".keras" else built(model, interface)
        return wrapped(model, interface, setup)

    @contextmanager
    def open(self, path: Path, interface: Interface, setup: ModelSetup = NO_SETUP) -> Iterator[Runner]:
        """Load a model for inference."""
        from registry_export_plugins._tensorflow.keras_runner import KerasRunner

        yield KerasRunner(self.load(path, interface, setup), interface)

    def describe(self, path: Path) -> Description:
        """Read the inputs and outputs of a functional model; those of a subclass are unknown."""
        from registry_export_plugins._tensorflow.keras_call import KerasCall, outputs_of

        model = _load(path)
        version, precision = _written_by(path), _precision(model)
        try:
            call = KerasCall(model, Interface(inputs=()))
        except SourceError:
            return Description(Interface(inputs=()), format_version=version, precision=precision)
        return Description(Interface(call.inputs, outputs_of(call)), format_version=version, precision=precision)

    def snippets(self, description: Description) -> tuple[Snippet, ...]:
        """Show Keras in Python."""
        python = """
            import keras
            import numpy as np

            model = keras.saving.load_model("model.keras", compile=False)
            outputs = model.predict(«inputs»)
        """
        given = in_a_row(description.interface)
        several = len(description.interface.inputs) > 1
        return (snippet("Python", "Keras", python, inputs=f"[{given}]" if several else given),)

    def inspect(self, path: Path) -> Inside:
        """Read the model's variables and layers."""
        from registry_export_plugins._tensorflow.contents import of_keras

        return of_keras(_load(path))


def _written_by(path: Path) -> str | None:
    """Read from a `.keras` file which Keras wrote it."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        version = json.loads(archive.read("metadata.json")).get("keras_version")
    return str(version) if version else None


def _precision(model: Any) -> str:
    """Return the type in which most of the weights are held."""
    held = Counter[str]()
    for weight in model.weights:
        held[str(weight.dtype)] += math.prod(weight.shape)
    most = max(held, key=lambda dtype: held[dtype], default="float32")
    return {"float16": "fp16", "bfloat16": "bf16", "int8": "int8"}.get(most, "fp32")


def _load(path: Path, allow_pickle: bool = True) -> Any:
    """Load the file with the custom objects that MLflow saved beside it.

    Raises:
        SourceError: It is damaged, needs classes that are not here, or pickled code that is not allowed.
    """
    import keras

    from registry_export_plugins._tensorflow.keras import require_tensorflow

    require_tensorflow()
    pickles = [name for name in _CUSTOM_OBJECTS if (path.parent / name).is_file()]
    if pickles and not allow_pickle:
        raise SourceError(
            f"{path.name} comes with pickled code ({pickles[0]}), which the rule forbids.",
            remedy="Set allow_pickle: true in the rule, or log the model without custom objects.",
        )
    if path.suffix == ".keras" and not zipfile.is_zipfile(path):
        raise SourceError(
            f"{path.name} is no Keras archive (a zip file), or its end is not there.", remedy="Save and log it again."
        )
    objects: dict[str, Any] = {}
    for name in _CUSTOM_OBJECTS:
        objects.update(_unpickled(path.parent / name))
    try:
        # A Lambda layer is its author's code, as every pickled checkpoint is; it is run in a confined child.
        return keras.saving.load_model(path, custom_objects=objects, compile=False, safe_mode=not allow_pickle)
    except (TypeError, ImportError, AttributeError, OSError, ValueError, KeyError, RuntimeError, EOFError) as error:
        if not allow_pickle and "safe_mode" in str(error):
            raise _refused_code(path) from error
        raise SourceError(
            f"The Keras model {path.name} cannot be loaded: {_cause(error)}", remedy=_remedy(path, error)
        ) from error


def _refused_code(path: Path) -> SourceError:
    return SourceError(
        f"{path.name} has a Lambda layer or the like, so loading it runs pickled code, and the rule says allow_pickle: "
        "false.",
        remedy="Write the layer as a class, or with keras.ops, and log the model again.",
    )


def _remedy(path: Path, error: Exception) -> str:
    if path.suffix != ".keras" and "Unrecognized keyword" in str(error):
        return _KERAS_2
    return _CLASSES if isinstance(error, TypeError | ImportError | AttributeError) else ""


def _cause(error: Exception) -> str:
    """Return what Keras says without the configuration that it prints behind it and the advice for its author."""
    innermost = str(error).split("Exception encountered:")[-1]
    text = innermost.split("Full object config:")[0].split("Make sure custom classes")[0]
    return " ".join(text.split()) or type(error).__name__


def _unpickled(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    import cloudpickle

    with path.open("rb") as file:
        loaded: dict[str, Any] = cloudpickle.load(file)
    return loaded
