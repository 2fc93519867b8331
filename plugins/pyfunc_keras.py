"""Keras models inside Python functions of MLflow (`mlflow.pyfunc.log_model(python_model=...)`).

A source only; see `pyfunc`, which is the same for PyTorch.

Source: https://mlflow.org/docs/latest/model/python_model.html
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from registry_export.entities import Description, Interface
from registry_export.errors import SourceError
from registry_export.format import KERAS_MODEL, NO_SETUP, Array, Conversion, Inside, ModelSetup, Option, Runner
from registry_export_plugins._pyfunc.recognition import KERAS, framework_inside
from registry_export_plugins._toolchains import TENSORFLOW


class PyFuncKeras:
    """The format `pyfunc_keras`; see `registry_export.format.Format` for what its members mean."""

    name = "pyfunc_keras"
    summary = "Keras model inside a Python function of MLflow"
    extra = "pyfunc_keras"
    requirements = ("tensorflow", "keras", "mlflow")
    toolchain = TENSORFLOW
    kind = KERAS_MODEL
    filename = "model"
    options: tuple[Option, ...] = ()
    conversions: tuple[Conversion, ...] = ()
    verified_by = "Keras on TensorFlow"
    setup = ("wrapper", "allow_pickle")

    def locate(self, folder: Path, flavors: Mapping[str, Mapping[str, Any]]) -> Path | None:
        """Find a Python function that has to do with Keras or TensorFlow.

        Raises:
            UnsupportedSourceError: It is one that has to do with no framework that can be exported.
        """
        return folder if framework_inside(folder, flavors) == KERAS else None

    def load(self, path: Path, interface: Interface, setup: ModelSetup = NO_SETUP) -> Any:
        """Load the function and return the model in it, a rule's wrapper around it."""
        return _found(path, setup)[1]

    @contextmanager
    def open(self, path: Path, interface: Interface, setup: ModelSetup = NO_SETUP) -> Iterator[Runner]:
        """Load the model for inference; what the function calls it with on its own example comes along."""
        from registry_export_plugins._tensorflow.keras_runner import KerasRunner

        place, model, example = _found(path, setup)
        runner = _Inside(KerasRunner(model, Interface(inputs=())), example)
        inside = f"The Keras model {place} of the Python function is exported"
        runner.notes = (f"{inside}; what predict() does before and after it stays outside.",)
        yield runner

    def describe(self, path: Path) -> Description:
        """Read the inputs and outputs of the model."""
        from registry_export_plugins._tensorflow.keras_runner import KerasRunner

        return Description(KerasRunner(_found(path, NO_SETUP)[1], Interface(inputs=())).interface)

    def inspect(self, path: Path) -> Inside:
        """Read the variables and layers of the model in the function."""
        from registry_export_plugins._tensorflow.contents import of_keras

        return of_keras(_found(path, NO_SETUP)[1])


class _Inside:
    """A runner with what a source's may have besides."""

    def __init__(self, runner: Runner, example: list[Array]) -> None:
        self._runner = runner
        self.interface, self.runtime = runner.interface, runner.runtime
        names = [spec.name for spec in runner.interface.inputs]
        fits = len(names) == len(example)
        self.example = dict(zip(names, example, strict=True)) if fits else None
        self.inside = True
        self.notes: tuple[str, ...] = ()

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model once."""
        return self._runner.infer(inputs)


def _found(folder: Path, setup: ModelSetup) -> tuple[str, Any, list[Array]]:
    """Load the function; return where its model is, the model, and what it was called with on the example."""
    import keras

    from registry_export_plugins._pyfunc.inner import find, load_function, pickled_object, predict_example
    from registry_export_plugins._tensorflow.keras import wrapped

    if not setup.allow_pickle and (pickled := pickled_object(folder)):
        raise SourceError(
            f"{pickled} is pickled, so loading it runs code, and the rule says allow_pickle: false.",
            remedy="Log the Keras model in it with mlflow.keras.log_model.",
        )
    function = load_function(folder, "Keras model")
    place, model = find(function, lambda value: isinstance(value, keras.Model), "Keras model")
    example: list[Array] = []
    with _recorded(model, example):
        predict_example(function, folder)
    if setup.wrapper:
        return place, wrapped(model, Interface(inputs=()), setup), []
    return place, model, example


@contextmanager
def _recorded(model: Any, example: list[Array]) -> Iterator[None]:
    """Keep the arrays that a model is first called with, directly or through `predict`."""
    import keras
    import numpy as np

    own = {name: getattr(model, name) for name in ("predict", "call")}

    def recording(name: str) -> Any:
        def method(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            leaves = keras.tree.flatten(inputs)
            if not example and all(hasattr(leaf, "__array__") for leaf in leaves):
                example.extend(np.array(leaf) for leaf in leaves)
            return own[name](inputs, *args, **kwargs)

        return method

    for name in own:
        object.__setattr__(model, name, recording(name))
    try:
        yield
    finally:
        for name in own:
            object.__delattr__(model, name)
