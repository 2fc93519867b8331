"""State dicts and training checkpoints: weights whose architecture comes from `model_factory`.

A source only. Files are read with `weights_only=True`, which runs none of their code.

Source: https://pytorch.org/tutorials/beginner/saving_loading_models.html
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from registry_export.entities import Description, Interface
from registry_export.format import Inside, ModelSetup
from registry_export_plugins._torch.archives import Content
from registry_export_plugins._torch.files import checkpoint_file
from registry_export_plugins._torch.source import TorchSource


class StateDict(TorchSource):
    """The format `state_dict`; see `registry_export.format.Format` for what its members mean."""

    name = "state_dict"
    summary = "PyTorch state dict or training checkpoint (.pt .pth .bin), with model_factory"
    extra = "state_dict"
    filename = "model.pt"

    def locate(self, folder: Path, flavors: Mapping[str, Mapping[str, Any]]) -> Path | None:
        """Find a file that holds a state dict, a checkpoint with one, or the index of a sharded one."""
        return checkpoint_file(folder, flavors, Content.STATE_DICT, Content.CHECKPOINT)

    def module(self, path: Path, setup: ModelSetup) -> Any:
        """Build the architecture and put the weights into it.

        Raises:
            SourceError: No architecture is named, or the weights do not fit it.
        """
        from registry_export_plugins._torch.factories import build_module
        from registry_export_plugins._torch.weights import load_weights, read_state

        module = build_module(setup, path.name)
        load_weights(module, read_state(path), path.name)
        return module

    def notes(self, path: Path, module: Any) -> tuple[str, ...]:
        """Say which of several files and of several sets of weights it is (averaged ones beside the others, say)."""
        from registry_export_plugins._torch.weights import sets_of_weights

        taken, *others = sets_of_weights(path) or ("",)
        said = f"The weights are those under {taken!r}; not looked at beside them: {', '.join(map(repr, others))}."
        return (*super().notes(path, module), *((said,) if others else ()))

    def describe(self, path: Path) -> Description:
        """Read the precision of the weights, and how many there are."""
        from registry_export_plugins._torch.modules import precision_of
        from registry_export_plugins._torch.weights import read_state

        state = read_state(path)
        details = {"tensors": str(len(state))}
        return Description(Interface(inputs=()), precision=precision_of(state.values()), details=details)

    def inspect(self, path: Path) -> Inside:
        """Read the weights, and the plain facts beside them, without an architecture."""
        from registry_export_plugins._torch.contents import of_state
        from registry_export_plugins._torch.weights import facts_of, read_state

        return of_state(read_state(path), "a file of weights", facts_of(path))
