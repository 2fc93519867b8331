"""PyTorch modules, pickled whole: MLflow's `pytorch` flavor with `serialization_format="pickle"`, or a plain file.

A source only. Loading one runs its author's code.

Source: https://pytorch.org/docs/stable/notes/serialization.html
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from registry_export.format import ModelSetup
from registry_export_plugins._torch.archives import Content
from registry_export_plugins._torch.files import checkpoint_file, unreadable_file
from registry_export_plugins._torch.source import TorchSource


class PyTorch(TorchSource):
    """The format `pytorch`; see `registry_export.format.Format` for what its members mean."""

    name = "pytorch"
    summary = "pickled PyTorch module (.pth .pt .bin)"
    extra = "pytorch"
    filename = "model.pth"
    setup = ("wrapper", "allow_pickle", "pruning")

    def locate(self, folder: Path, flavors: Mapping[str, Mapping[str, Any]]) -> Path | None:
        """Find the pickled module of the flavor `pytorch`, or of plain files."""
        # What MLflow logged as a module, or nothing but PyTorch calls so, and cannot be recognised is damaged
        # or something else: loading it will say.
        contents = (Content.MODULE, Content.OTHER) if flavors else (Content.MODULE,)
        path = checkpoint_file(folder, flavors, *contents) or unreadable_file(folder, flavors)
        return path if path is None or path.suffix != ".pt2" or not flavors else None

    def module(self, path: Path, setup: ModelSetup) -> Any:
        """Unpickle the module.

        Raises:
            SourceError: It cannot be, or the rule forbids it.
        """
        from registry_export_plugins._torch.loading import load_module, refuse_damaged, refuse_pickle

        refuse_damaged(path)
        if not setup.allow_pickle:
            raise refuse_pickle(path.name)
        return load_module(path)
