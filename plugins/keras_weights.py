"""Keras weights without their architecture, which a rule's `model_factory` builds.

`.weights.h5` and sharded `.weights.json` (Keras 3), weights in plain HDF5 (Keras 2 and 3), and the TensorFlow
checkpoints that Keras 2's `save_weights("cp-0001.ckpt")` wrote. A source only.

Sources: https://keras.io/api/models/model_saving_apis/weights_saving_and_loading/,
https://www.tensorflow.org/tutorials/keras/save_and_load
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from registry_export.entities import Description, Interface
from registry_export.errors import SourceError
from registry_export.format import KERAS_MODEL, NO_SETUP, Conversion, Inside, ModelSetup, Option, Runner
from registry_export_plugins._tensorflow.files import checkpoint_index, is_keras_2_weights, is_weights
from registry_export_plugins._toolchains import TENSORFLOW

_SUFFIXES = (".weights.json", ".weights.h5", ".h5", ".hdf5")


class KerasWeights:
    """The format `keras_weights`; see `registry_export.format.Format` for what its members mean."""

    name = "keras_weights"
    summary = "Keras weights (.weights.h5, .h5, Keras 2 .ckpt), with model_factory"
    extra = "keras_weights"
    requirements = ("tensorflow", "keras")
    toolchain = TENSORFLOW
    kind = KERAS_MODEL
    filename = "model.weights.h5"
    setup = ("model_factory", "wrapper")
    options: tuple[Option, ...] = ()
    conversions: tuple[Conversion, ...] = ()
    verified_by = "Keras on TensorFlow"

    def locate(self, folder: Path, flavors: Mapping[str, Mapping[str, Any]]) -> Path | None:
        """Find the only file of weights among plain files, or a checkpoint of Keras 2."""
        if flavors or not folder.is_dir():
            return None
        for suffix in _SUFFIXES:
            found = [path for path in sorted(folder.glob(f"*{suffix}")) if is_weights(path)]
            if found:
                return found[0] if len(found) == 1 else None
        index = checkpoint_index(folder)
        return index if index is not None and is_keras_2_weights(index) else None

    def load(self, path: Path, interface: Interface, setup: ModelSetup = NO_SETUP) -> Any:
        """Build the model and load its weights, all of them.

        Raises:
            SourceError: There is no factory, it builds something else, or the weights are not the model's.
        """
        from registry_export_plugins._tensorflow.keras import require_tensorflow, wrapped
        from registry_export_plugins._tensorflow.keras_weights import load_weights, model_of

        require_tensorflow()
        model = model_of(setup, path, interface)
        load_weights(model, path)
        return wrapped(model, interface, setup)

    @contextmanager
    def open(self, path: Path, interface: Interface, setup: ModelSetup = NO_SETUP) -> Iterator[Runner]:
        """Load a model for inference."""
        from registry_export_plugins._tensorflow.keras_runner import KerasRunner

        yield KerasRunner(self.load(path, interface, setup), interface)

    def describe(self, path: Path) -> Description:
        """Refuse: weights alone have no inputs and outputs."""
        raise SourceError(f"{path.name} holds weights; only a model has inputs and outputs.")

    def inspect(self, path: Path) -> Inside:
        """Read the weights without the model."""
        from registry_export_plugins._tensorflow.contents import of_weights

        return of_weights(path)
