"""TensorFlow SavedModel: as a source (MLflow's `tensorflow` flavor) and as a target.

What is written has one signature, `serving_default`. Its arguments are the source's input names where
TensorFlow can take them (Python identifiers; other characters become underscores), its outputs are
the source's output names as they are.

Source: https://www.tensorflow.org/guide/saved_model
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from registry_export.entities import Description, Interface, Snippet, TensorSpec
from registry_export.errors import SourceError
from registry_export.format import (
    DYNAMIC_DIMENSIONS,
    KERAS_MODEL,
    NO_SETUP,
    ONNX_MODEL,
    TF_FUNCTION,
    Conversion,
    ConversionRequest,
    ConversionResult,
    Inside,
    ModelSetup,
    Runner,
)
from registry_export_plugins._snippets import snippet, tf_zeros
from registry_export_plugins._tensorflow.functions import (
    TensorFlowFunction,
    chosen_signature,
    dimensions,
    load,
    requested,
    retrace,
    save,
)
from registry_export_plugins._tensorflow.names import identifiers
from registry_export_plugins._tensorflow.wrapping import wrapped
from registry_export_plugins._toolchains import TENSORFLOW


def from_keras_model(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    """Trace a Keras model in inference mode and save it."""
    from registry_export_plugins._tensorflow.keras import to_function

    save(to_function(model, request.interface), output)
    return ConversionResult()


def from_onnx_model(model: Path, output: Path, request: ConversionRequest) -> ConversionResult:
    """Translate every operator of an ONNX file to TensorFlow, layouts at the interface kept, and save it."""
    from registry_export_plugins._onnx_to_tf.translator import translate

    save(translate(model, request.interface), output)
    return ConversionResult()


def from_tf_function(model: TensorFlowFunction, output: Path, request: ConversionRequest) -> ConversionResult:
    """Save a loaded function again, with the sizes asked for."""
    save(retrace(model, requested(model.interface.inputs, request.interface)), output)
    return ConversionResult(notes=model.notes)


class SavedModel:
    """The format `saved_model`; see `registry_export.format.Format` for what its members mean."""

    name = "saved_model"
    summary = "TensorFlow SavedModel"
    extra = "saved_model"
    requirements = ("tensorflow",)
    toolchain = TENSORFLOW
    kind = TF_FUNCTION
    filename = "model.savedmodel"
    setup = ("wrapper",)
    options = (DYNAMIC_DIMENSIONS,)
    conversions = (
        Conversion(KERAS_MODEL, from_keras_model, TENSORFLOW, cost=1.0, requirements=("keras",)),
        Conversion(TF_FUNCTION, from_tf_function, TENSORFLOW, cost=1.0),
        Conversion(ONNX_MODEL, from_onnx_model, TENSORFLOW, cost=1.5, requirements=("onnx",)),
    )
    verified_by = "TensorFlow on the CPU"

    def locate(self, folder: Path, flavors: Mapping[str, Mapping[str, Any]]) -> Path | None:
        """Find the folder that holds `saved_model.pb`: what a flavor points to, or the only one of plain files."""
        candidates = [folder, folder / self.filename]
        if not flavors and folder.is_dir() and not (folder / "saved_model.pb").is_file():
            nested = sorted(folder.glob("*/saved_model.pb")) or sorted(folder.glob("*/*/saved_model.pb"))
            candidates += [path.parent for path in nested] if len(nested) == 1 else []
        if flavors:
            flavor = flavors.get("tensorflow") or flavors.get("keras")
            if flavor is None:
                return None
            data = folder / str(flavor.get("data", "data"))
            candidates = [folder / str(flavor.get("saved_model_dir", "tf2model")), data / "model", data]
        return next((path for path in candidates if (path / "saved_model.pb").is_file()), None)

    def load(self, path: Path, interface: Interface, setup: ModelSetup = NO_SETUP) -> TensorFlowFunction:
        """Load the serving function."""
        return wrapped(load(path, interface), setup)

    @contextmanager
    def open(self, path: Path, interface: Interface, setup: ModelSetup = NO_SETUP) -> Iterator[Runner]:
        """Load the serving function for inference."""
        from registry_export_plugins._tensorflow.runner import FunctionRunner

        yield FunctionRunner(self.load(path, interface, setup))

    def describe(self, path: Path) -> Description:
        """Read the signature and the producer version from `saved_model.pb`."""
        from tensorflow.core.protobuf import saved_model_pb2

        proto = saved_model_pb2.SavedModel()
        proto.ParseFromString((path / "saved_model.pb").read_bytes())
        graph = proto.meta_graphs[0]
        signatures = {name: value for name, value in graph.signature_def.items() if not name.startswith("__")}
        if not signatures:
            raise SourceError(f"The SavedModel {path.name} has no signature.")
        signature = signatures[chosen_signature(signatures)]
        return Description(
            interface=Interface(_specs(signature.inputs), _specs(signature.outputs)),
            format_version=str(graph.graph_def.versions.producer),
            details={"tensorflow": graph.meta_info_def.tensorflow_version},
        )

    def snippets(self, description: Description) -> tuple[Snippet, ...]:
        """Show TensorFlow in Python."""
        python = """
            import tensorflow as tf

            model = tf.saved_model.load("model.savedmodel")
            outputs = model.signatures["serving_default"](
                «inputs»
            )
        """
        inputs = description.interface.inputs
        keys = identifiers(spec.name for spec in inputs)
        given = [f"{key}={tf_zeros(spec)}," for key, spec in zip(keys, inputs, strict=True)]
        return (snippet("Python", "TensorFlow", python, inputs="\n".join(given)),)

    def inspect(self, path: Path) -> Inside:
        """Read variables, constants and the nodes of every function."""
        from registry_export_plugins._tensorflow.contents import of_saved_model

        return of_saved_model(path)


def _specs(tensors: Mapping[str, Any]) -> tuple[TensorSpec, ...]:
    """Read one side of a signature; a protobuf map has no order, so its names are sorted."""
    import tensorflow as tf

    return tuple(_spec(name, tensors[name], tf) for name in sorted(tensors))


def _spec(name: str, info: Any, tf: Any) -> TensorSpec:
    unknown = info.tensor_shape.unknown_rank
    shape = None if unknown else dimensions(name, [size.size for size in info.tensor_shape.dim])
    return TensorSpec(name, tf.dtypes.as_dtype(info.dtype).name, shape)
