"""PyTorch models of Hugging Face transformers: MLflow's `transformers` flavor, and folders of `save_pretrained`.

A source only. What is exported is the model inside a pipeline: tokenizers and other processors stay outside,
and inputs are the model's own (`input_ids`, `attention_mask`, `pixel_values`, ...).

Source: https://huggingface.co/docs/transformers/main_classes/model
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from registry_export.entities import Description, Interface
from registry_export.errors import SourceError
from registry_export.format import Array, Inside, ModelSetup
from registry_export_plugins._torch.files import hugging_face_folder, weights_file
from registry_export_plugins._torch.source import TorchSource


class Transformers(TorchSource):
    """The format `transformers`; see `registry_export.format.Format` for what its members mean."""

    name = "transformers"
    summary = "PyTorch model of transformers: the MLflow flavor, or a folder of save_pretrained"
    extra = "transformers"
    requirements = ("torch", "transformers")
    filename = "model"
    inside = True

    def locate(self, folder: Path, flavors: Mapping[str, Mapping[str, Any]]) -> Path | None:
        """Find the folder with `config.json` and PyTorch weights.

        Raises:
            SourceError: MLflow's flavor has only a reference to the weights.
        """
        if not flavors:
            return hugging_face_folder(folder)
        flavor = flavors.get("transformers")
        if flavor is None:
            return None
        if flavor.get("peft_adaptor"):
            raise SourceError(
                "The model is an adapter (PEFT) on a base model that is not logged with it.",
                remedy="Merge it (model.merge_and_unload()) and log the merged model.",
            )
        if not flavor.get("model_binary"):
            name = flavor.get("source_model_name") or "a hub"
            raise SourceError(
                f"The model was logged as a reference to {name}, without weights.",
                remedy="Call mlflow.transformers.persist_pretrained_model on it, or log it with save_pretrained=True.",
            )
        place = folder / str(flavor["model_binary"])
        return place if (place / "config.json").is_file() and weights_file(place) is not None else None

    def module(self, path: Path, setup: ModelSetup) -> Any:
        """Load the architecture that the configuration names, from its own files only.

        Raises:
            SourceError: transformers does not know it, or weights are missing.
        """
        from registry_export_plugins._torch.pretrained import load_pretrained

        return load_pretrained(path, setup)

    def declared(self, path: Path, interface: Interface, module: Any) -> Interface:
        """Return the model's own inputs, unless the signature is theirs."""
        from registry_export_plugins._torch.pretrained import own_interface

        return own_interface(path, interface, module)

    def example(self, path: Path, module: Any, interface: Interface) -> Mapping[str, Array] | None:
        """Draw inputs as the configuration says: token ids of its vocabulary, images of its size."""
        from registry_export_plugins._torch.pretrained import drawn_inputs

        return drawn_inputs(module, interface)

    def notes(self, path: Path, module: Any) -> tuple[str, ...]:
        """Say what stays outside."""
        components = path.parent / "components"
        outside = sorted(part.name for part in components.iterdir()) if components.is_dir() else []
        return (f"The model inside the pipeline is exported, without its {' and '.join(outside)}.",) if outside else ()

    def describe(self, path: Path) -> Description:
        """Read the precision of the weights."""
        from registry_export_plugins._torch.modules import precision_of
        from registry_export_plugins._torch.weights import read_state

        weights = weights_file(path)
        state = read_state(weights) if weights is not None else {}
        return Description(Interface(inputs=()), precision=precision_of(state.values()))

    def inspect(self, path: Path) -> Inside:
        """Read the weights, and the configuration's plain facts, without the model's code."""
        from registry_export.parsing import json_of, read_bounded
        from registry_export_plugins._torch.contents import of_state
        from registry_export_plugins._torch.weights import plain_facts, read_state

        weights = weights_file(path)
        if weights is None:
            raise SourceError(f"{path.name} holds no weights of PyTorch.")
        configuration = json_of(read_bounded(path / "config.json"))
        return of_state(read_state(weights), "a folder of transformers", plain_facts(configuration))
