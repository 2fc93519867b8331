"""Lightning checkpoints (`.ckpt`), with their `LightningModule` class, or a function, as `model_factory`.

A source only. The class is built from the checkpoint's hyper-parameters, as `load_from_checkpoint` does.

Source: https://lightning.ai/docs/pytorch/stable/common/checkpointing_basic.html
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from registry_export.entities import Description, Interface
from registry_export.format import Array, Inside, ModelSetup
from registry_export_plugins._torch.archives import Content
from registry_export_plugins._torch.files import checkpoint_file
from registry_export_plugins._torch.source import TorchSource


class Lightning(TorchSource):
    """The format `lightning`; see `registry_export.format.Format` for what its members mean."""

    name = "lightning"
    summary = "Lightning checkpoint (.ckpt), with its LightningModule class as model_factory"
    extra = "lightning"
    filename = "model.ckpt"
    setup = ("model_factory", "wrapper", "allow_pickle", "pruning")

    def locate(self, folder: Path, flavors: Mapping[str, Mapping[str, Any]]) -> Path | None:
        """Find a file that Lightning's trainer wrote, whatever its suffix."""
        return checkpoint_file(folder, flavors, Content.LIGHTNING)

    def module(self, path: Path, setup: ModelSetup) -> Any:
        """Build the class from the hyper-parameters in the file, and load its weights.

        Raises:
            SourceError: No class is named, it needs other arguments, or the weights do not fit it.
        """
        from registry_export_plugins._torch.checkpoints import load_lightning

        return load_lightning(path, setup)

    def example(self, path: Path, module: Any, interface: Interface) -> Mapping[str, Array] | None:
        """Return the class's `example_input_array`."""
        from registry_export_plugins._torch.checkpoints import example_inputs

        return example_inputs(module, interface)

    def describe(self, path: Path) -> Description:
        """Read the precision of the weights and the version of Lightning that wrote them."""
        from registry_export_plugins._torch.checkpoints import read_lightning
        from registry_export_plugins._torch.modules import precision_of
        from registry_export_plugins._torch.weights import state_of

        checkpoint = read_lightning(path, allow_pickle=True)
        state = state_of(checkpoint, path.name)
        details = {"tensors": str(len(state)), "lightning": str(checkpoint.get("pytorch-lightning_version"))}
        return Description(Interface(inputs=()), precision=precision_of(state.values()), details=details)

    def inspect(self, path: Path) -> Inside:
        """Read the weights, and the trainer's plain facts, without the class."""
        from registry_export_plugins._torch.checkpoints import read_lightning
        from registry_export_plugins._torch.contents import of_state
        from registry_export_plugins._torch.weights import plain_facts, state_of

        checkpoint = read_lightning(path, allow_pickle=True)
        return of_state(state_of(checkpoint, path.name), "a Lightning checkpoint", plain_facts(checkpoint))
