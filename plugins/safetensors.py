"""safetensors, in one file or sharded: weights whose architecture comes from `model_factory`.

A source only; never a pickle. A folder that transformers saved (`config.json` with a `model_type`) is the
format `transformers` instead, which needs no factory.

Source: https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from registry_export_plugins._torch.archives import Content
from registry_export_plugins._torch.files import checkpoint_file
from registry_export_plugins.state_dict import StateDict


class Safetensors(StateDict):
    """The format `safetensors`; see `registry_export.format.Format` for what its members mean."""

    name = "safetensors"
    summary = "safetensors weights, sharded too, with model_factory"
    extra = "safetensors"
    requirements = ("torch", "safetensors")
    filename = "model.safetensors"

    def locate(self, folder: Path, flavors: Mapping[str, Mapping[str, Any]]) -> Path | None:
        """Find a `.safetensors` file, or the index of a sharded one."""
        return checkpoint_file(folder, flavors, Content.SAFETENSORS)
