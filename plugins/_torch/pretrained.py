"""Models of transformers: loading them without a network, and what they are called with.

Source: https://huggingface.co/docs/transformers/main_classes/model
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from registry_export.entities import Dimension, Interface, TensorSpec
from registry_export.errors import SourceError
from registry_export.format import Array, ModelSetup
from registry_export_plugins._torch.factories import build_module
from registry_export_plugins._torch.files import weights_file
from registry_export_plugins._torch.loading import at_rest
from registry_export_plugins._torch.parametrizations import settle
from registry_export_plugins._torch.surroundings import hide_broken
from registry_export_plugins._torch.weights import load_weights, read_state

_LENGTH = 8
_BATCH = 2
_FRAMES = 400
_WAVE = 4000
_IMAGE = 224


def load_pretrained(path: Path, setup: ModelSetup) -> torch.nn.Module:
    """Load a folder of `save_pretrained`; code in it is never run, and nothing is downloaded.

    A `model_factory` takes the place of the architecture, for one that transformers does not know.

    Raises:
        SourceError: The architecture is unknown, or weights are missing.
    """
    if setup.model_factory:
        module = build_module(setup, path.name)
        weights = weights_file(path)
        if weights is None:
            raise SourceError(f"{path.name} holds no PyTorch weights.")
        load_weights(module, read_state(weights), weights.name)
        return module
    transformers = offline()
    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = transformers.AutoConfig.from_pretrained(path, **local)
        loaded, report = _architecture(transformers, config).from_pretrained(
            path, config=config, output_loading_info=True, **{_dtype_argument(transformers): "auto"}, **local
        )
    except (ValueError, OSError, KeyError, ImportError, RuntimeError, TypeError, AttributeError) as error:
        raise SourceError(
            f"transformers {transformers.__version__} cannot load the model: {' '.join(str(error).split())[:300]}",
            remedy="Install the version that saved it; for an architecture of your own name a model_factory.",
        ) from error
    missing = sorted(map(str, report["missing_keys"]))
    if missing:
        raise SourceError(
            f"The files lack weights of {type(loaded).__name__}, which would be random: {', '.join(missing[:5])}.",
            remedy="Save the model with its own save_pretrained(), after training this very class.",
        )
    module = at_rest(loaded)
    settle(module)
    return module


def offline() -> Any:
    """Import transformers so that it stays off the network."""
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        os.environ[variable] = "1"
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    hide_broken("torchvision")
    import transformers

    return transformers


def _architecture(transformers: Any, config: Any) -> Any:
    names = [name for name in config.architectures or () if hasattr(transformers, name)]
    if config.architectures and not names:
        raise SourceError(
            f"transformers {transformers.__version__} has no architecture {config.architectures[0]}.",
            remedy="Install the version that saved it, or name a model_factory that returns it.",
        )
    return getattr(transformers, names[0]) if names else transformers.AutoModel


def _dtype_argument(transformers: Any) -> str:
    major, minor = (int(part) for part in transformers.__version__.split(".")[:2])
    return "dtype" if (major, minor) >= (4, 56) else "torch_dtype"


def own_interface(path: Path, interface: Interface, module: torch.nn.Module) -> Interface:
    """Return a signature if it is the model's; else the inputs that the configuration asks for.

    A pipeline's signature takes text or files: it says nothing of the model inside.
    """
    parameters = inspect.signature(module.forward).parameters
    names = [spec.name for spec in interface.inputs]
    if names and all(name in parameters for name in names):
        return interface
    wanted = _wanted(path, module, list(parameters))
    specs = (_spec(name, module) for name in parameters if name in wanted)
    return Interface(tuple(spec for spec in specs if spec is not None))


def _wanted(path: Path, module: torch.nn.Module, parameters: list[str]) -> set[str]:
    main = str(getattr(module, "main_input_name", "input_ids"))
    config: Any = module.config
    wanted = {main}
    if main in ("input_ids", "inputs"):
        wanted |= {name for name in _tokenizer_names(path) if name in parameters} | {"attention_mask"}
    if hasattr(config, "vision_config") and "pixel_values" in parameters:
        wanted |= {"pixel_values", "input_ids"}
    if getattr(config, "is_encoder_decoder", False):
        wanted.add("decoder_input_ids")
    return wanted & set(parameters)


def _tokenizer_names(path: Path) -> tuple[str, ...]:
    """Return what the tokenizer beside a model makes."""
    files = (path.parent / "components" / "tokenizer" / "tokenizer_config.json", path / "tokenizer_config.json")
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return ()
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return ()
    tokenizer = getattr(offline(), str(settings.get("tokenizer_class")), None)
    return tuple(settings.get("model_input_names") or getattr(tokenizer, "model_input_names", ()))


def _spec(name: str, module: torch.nn.Module) -> TensorSpec | None:
    """Return the dtype and shape of an input; None for one whose shape no configuration says."""
    floating = str(next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32))
    dtype = "float16" if floating == "torch.float16" else "float32"
    shape: tuple[Dimension, ...]
    if name in ("input_ids", "inputs", "attention_mask", "token_type_ids"):
        return TensorSpec(name, "int64", ("batch", "sequence"))
    if name == "decoder_input_ids":
        return TensorSpec(name, "int64", ("batch", "decoder_sequence"))
    if name == "pixel_values":
        return TensorSpec(name, dtype, ("batch", *_image(module.config)))
    if name == "input_values":
        return TensorSpec(name, dtype, ("batch", "samples"))
    if name == "input_features":
        shape = _features(module.config)
        return TensorSpec(name, dtype, ("batch", *shape))
    return None


def _setting(config: Any, *names: str) -> Any:
    places = (config, getattr(config, "vision_config", None), getattr(config, "backbone_config", None))
    found = (getattr(place, name, None) for place in places if place is not None for name in names)
    return next((value for value in found if value is not None), None)


def _image(config: Any) -> tuple[int, ...]:
    size = _setting(config, "image_size")
    height, width = (size if isinstance(size, (list, tuple)) else (size, size)) if size else (_IMAGE, _IMAGE)
    return int(_setting(config, "num_channels", "in_channels") or 3), int(height), int(width)


def _features(config: Any) -> tuple[Dimension, ...]:
    """Return the axes of a spectrogram; Whisper's encoder takes one length alone, bins before frames."""
    positions = getattr(config, "max_source_positions", None)
    bins = getattr(config, "num_mel_bins", None) or getattr(config, "input_feat_per_channel", None)
    if getattr(config, "model_type", "") == "whisper" and positions:
        return int(bins or 80), 2 * int(positions)
    return "frames", int(bins or getattr(config, "feature_projection_input_dim", None) or 160)


def drawn_inputs(module: torch.nn.Module, interface: Interface) -> Mapping[str, Array] | None:
    """Draw a batch of two for the inputs of `own_interface`; None for an interface of another kind."""
    generator = np.random.default_rng(0)
    drawn: dict[str, Array] = {}
    for spec in interface.inputs:
        if spec.shape is None or not spec.dtype:
            return None
        shape = tuple(_size(size, module.config) for size in spec.shape)
        if spec.name.endswith("input_ids") or spec.name == "inputs":
            drawn[spec.name] = _tokens(module.config, shape, generator)
        elif np.dtype(spec.dtype).kind == "i":
            drawn[spec.name] = np.full(shape, spec.name == "attention_mask", dtype=spec.dtype)
        else:
            drawn[spec.name] = generator.standard_normal(shape).astype(spec.dtype)
    return drawn or None


def _size(dimension: Dimension, config: Any) -> int:
    if isinstance(dimension, int):
        return dimension
    longest = getattr(config, "max_position_embeddings", None)
    length = min(_LENGTH, longest) if isinstance(longest, int) and longest > 1 else _LENGTH
    return {"batch": _BATCH, "samples": _WAVE, "frames": _FRAMES}.get(dimension, length)


def _tokens(config: Any, shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    """Draw token ids that are no padding, with the end of the text at the end, where heads look for it."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    vocabulary = int(getattr(text, "vocab_size", None) or 2)
    ids = generator.integers(vocabulary // 2, vocabulary, shape)
    padding, end = getattr(text, "pad_token_id", None), getattr(text, "eos_token_id", None)
    if isinstance(padding, int):
        ids[ids == padding] = vocabulary // 2 if padding != vocabulary // 2 else vocabulary - 1
    if isinstance(end, int) and 0 <= end < vocabulary:
        ids[ids == end] = ids[0, 0] if ids[0, 0] != end else max(vocabulary // 2 - 1, 0)
        ids[:, -1] = end
    return ids.astype(np.int64)
