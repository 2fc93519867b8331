"""TensorFlow checkpoints (`.index` and `.data-*`), restored into what a rule's `model_factory` builds.

The factory returns a `tf.Module` or a Keras model; what was saved with `tf.train.Checkpoint(model=...)` finds its
place whatever the keyword was. A source only.

Source: https://www.tensorflow.org/guide/checkpoint
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from registry_export.entities import Description, Interface
from registry_export.errors import SourceError
from registry_export.format import NO_SETUP, TF_FUNCTION, Conversion, Inside, ModelSetup, Option, Runner
from registry_export_plugins._tensorflow.files import checkpoint_index, is_keras_2_weights
from registry_export_plugins._tensorflow.functions import TensorFlowFunction
from registry_export_plugins._toolchains import TENSORFLOW


class TFCheckpoint:
    """The format `tf_checkpoint`; see `registry_export.format.Format` for what its members mean."""

    name = "tf_checkpoint"
    summary = "TensorFlow checkpoint (.index, .data-*), with model_factory"
    extra = "tf_checkpoint"
    requirements = ("tensorflow",)
    toolchain = TENSORFLOW
    kind = TF_FUNCTION
    filename = "model.ckpt.index"
    setup = ("model_factory", "wrapper")
    options: tuple[Option, ...] = ()
    conversions: tuple[Conversion, ...] = ()
    verified_by = "TensorFlow on the CPU"

    def locate(self, folder: Path, flavors: Mapping[str, Mapping[str, Any]]) -> Path | None:
        """Find the newest checkpoint of a plain folder; the weights of a Keras 2 model are `keras_weights`."""
        if flavors or (folder / "saved_model.pb").is_file():
            return None
        index = checkpoint_index(folder)
        return index if index is not None and not is_keras_2_weights(index) else None

    def load(self, path: Path, interface: Interface, setup: ModelSetup = NO_SETUP) -> TensorFlowFunction:
        """Build the model, restore its variables, and trace it.

        Raises:
            SourceError: There is no factory, or the checkpoint and the model do not match.
        """
        from registry_export_plugins._tensorflow.checkpoints import load

        return load(path, interface, setup)

    @contextmanager
    def open(self, path: Path, interface: Interface, setup: ModelSetup = NO_SETUP) -> Iterator[Runner]:
        """Load the model for inference."""
        from registry_export_plugins._tensorflow.runner import FunctionRunner

        yield FunctionRunner(self.load(path, interface, setup))

    def describe(self, path: Path) -> Description:
        """Refuse: variables alone have no inputs and outputs."""
        raise SourceError(f"{path.name} holds variables; only a model has inputs and outputs.")

    def inspect(self, path: Path) -> Inside:
        """Read the variables without the model."""
        from registry_export_plugins._tensorflow.contents import of_checkpoint

        return of_checkpoint(path.with_suffix(""))
