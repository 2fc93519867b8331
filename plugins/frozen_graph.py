"""TensorFlow frozen graphs (`.pb`): as a source and as a target.

Sources: https://www.tensorflow.org/api_docs/python/tf/Graph#as_graph_def, `plugins/_tensorflow/frozen.py`
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from registry_export.entities import Description, Interface, Snippet
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
from registry_export_plugins._snippets import in_a_row, names_of, snippet, tf_zeros
from registry_export_plugins._tensorflow.functions import TensorFlowFunction, requested, retrace
from registry_export_plugins._toolchains import TENSORFLOW


def from_keras_model(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    """Trace a Keras model in inference mode and freeze it."""
    from registry_export_plugins._tensorflow.frozen import freeze
    from registry_export_plugins._tensorflow.keras import to_function

    freeze(to_function(model, request.interface), output)
    return ConversionResult()


def from_onnx_model(model: Path, output: Path, request: ConversionRequest) -> ConversionResult:
    """Translate every operator of an ONNX file to TensorFlow and freeze the result."""
    from registry_export_plugins._onnx_to_tf.translator import translate
    from registry_export_plugins._tensorflow.frozen import freeze

    freeze(translate(model, request.interface), output)
    return ConversionResult()


def from_tf_function(model: TensorFlowFunction, output: Path, request: ConversionRequest) -> ConversionResult:
    """Freeze a loaded function, with the sizes asked for."""
    from registry_export_plugins._tensorflow.frozen import freeze

    freeze(retrace(model, requested(model.interface.inputs, request.interface)), output)
    return ConversionResult(notes=model.notes)


LAST = 30.0
"""Every other route comes before those through here: a SavedModel is the better intermediate, it says its signature."""


class FrozenGraph:
    """The format `frozen_graph`; see `registry_export.format.Format` for what its members mean."""

    name = "frozen_graph"
    summary = "TensorFlow frozen graph (.pb)"
    extra = "frozen_graph"
    requirements = ("tensorflow",)
    toolchain = TENSORFLOW
    kind = TF_FUNCTION
    filename = "model.pb"
    setup = ("wrapper",)
    options = (DYNAMIC_DIMENSIONS,)
    conversions = (
        Conversion(KERAS_MODEL, from_keras_model, TENSORFLOW, cost=LAST, requirements=("keras",)),
        Conversion(TF_FUNCTION, from_tf_function, TENSORFLOW, cost=LAST),
        Conversion(ONNX_MODEL, from_onnx_model, TENSORFLOW, cost=LAST, requirements=("onnx",)),
    )
    verified_by = "TensorFlow on the CPU"

    def locate(self, folder: Path, flavors: Mapping[str, Mapping[str, Any]]) -> Path | None:
        """Find the only graph among plain files; a SavedModel's `saved_model.pb` is none."""
        if flavors or not folder.is_dir():
            return None
        found = [p for pattern in ("*.pb", "*.pbtxt") for p in sorted(folder.glob(pattern))]
        graphs = [path for path in found if path.stem != "saved_model"]
        if (folder / self.filename) in graphs:
            return folder / self.filename
        return graphs[0] if len(graphs) == 1 and len(found) == 1 else None

    def load(self, path: Path, interface: Interface, setup: ModelSetup = NO_SETUP) -> TensorFlowFunction:
        """Load the graph as a function of its placeholders."""
        from registry_export_plugins._tensorflow.frozen import load
        from registry_export_plugins._tensorflow.wrapping import wrapped

        return wrapped(load(path, interface), setup)

    @contextmanager
    def open(self, path: Path, interface: Interface, setup: ModelSetup = NO_SETUP) -> Iterator[Runner]:
        """Load the graph for inference."""
        from registry_export_plugins._tensorflow.runner import FunctionRunner

        yield FunctionRunner(self.load(path, interface, setup))

    def describe(self, path: Path) -> Description:
        """Read placeholders, sinks and the producer version from the file."""
        from registry_export_plugins._tensorflow.frozen import load, read

        return Description(
            interface=load(path, Interface(inputs=())).interface, format_version=str(read(path).versions.producer)
        )

    def snippets(self, description: Description) -> tuple[Snippet, ...]:
        """Show TensorFlow in Python."""
        python = """
            import tensorflow as tf

            graph = tf.compat.v1.GraphDef.FromString(open("model.pb", "rb").read())
            loaded = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(graph, name=""), [])
            model = loaded.prune([«inputs»], [«outputs»])
            outputs = model(«zeros»)
        """
        interface = description.interface
        names = {
            "inputs": names_of(replace(spec, name=f"{spec.name}:0") for spec in interface.inputs),
            "outputs": names_of(replace(spec, name=f"{spec.name}:0") for spec in interface.outputs),
        }
        return (snippet("Python", "TensorFlow", python, zeros=in_a_row(interface, tf_zeros), **names),)

    def inspect(self, path: Path) -> Inside:
        """Read constants and nodes."""
        from registry_export_plugins._tensorflow.contents import of_graph
        from registry_export_plugins._tensorflow.frozen import read

        return of_graph(read(path))
