"""Causal language models with their key-value cache as inputs and outputs.

A decoder that generates text token by token hands itself the keys and values of all earlier tokens. In
`transformers` they travel in an object; in an exported file they must be tensors. Inputs and outputs are
named as everybody's runtimes expect them since Optimum: `past_key_values.0.key`, `present.0.key`, ...

Source: https://huggingface.co/docs/optimum-onnx/onnx/usage_guides/export_a_model
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from registry_export.entities import Interface, TensorSpec

BATCH = "batch"
SEQUENCE = "sequence_length"
PAST = "past_sequence_length"
TOTAL = f"{PAST} + {SEQUENCE}"
"""Names of the dynamic dimensions; the attention mask covers the cache and the new tokens."""

_OWN = ("input_ids", "attention_mask", "position_ids")
_TOKENS = 4
_STEPS = 3


@dataclass(frozen=True)
class Layer:
    """One layer's cache: heads and sizes of a key and of a value."""

    key: tuple[int, int]
    value: tuple[int, int]


class CachedDecoder(torch.nn.Module):
    """A decoder that takes its cache as tensors after its own inputs, and returns it after its own outputs.

    Attributes:
        decoder: The model as its author wrote it.
        specs: The inputs: the declared ones, then keys and values, each [batch, heads, past, size].
    """

    def __init__(self, decoder: Any, own: Sequence[TensorSpec], layers: Sequence[Layer], dtype: str) -> None:
        super().__init__()
        self.decoder = decoder
        self._names = tuple(spec.name for spec in own)
        self.specs = (*map(_with_lengths, own), *_past(layers, dtype))
        self.training = False

    def forward(self, *tensors: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run on the new tokens and the cache of the earlier ones."""
        from transformers import DynamicCache

        own = dict(zip(self._names, tensors, strict=False))
        rest = tensors[len(own) :]
        cache = DynamicCache(list(zip(rest[::2], rest[1::2], strict=True)))
        output = self.decoder(**own, past_key_values=cache, use_cache=True)
        named = {name: value for name, value in output.items() if isinstance(value, torch.Tensor)}
        for i, layer in enumerate(output.past_key_values.layers):
            named |= {f"present.{i}.key": layer.keys, f"present.{i}.value": layer.values}
        return named

    @property
    def feeds(self) -> dict[str, str]:
        """Which output of one step is which input of the next."""
        return {s.name: s.name.replace("past_key_values", "present") for s in self.specs[len(self._names) :]}

    def completed(self, own: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Turn inputs without a cache into a later step: the first half of the tokens becomes the cache."""
        given = {name: self._long_enough(name, tensor) for name, tensor in zip(self._names, own, strict=True)}
        length = given["input_ids"].shape[1]
        half = length // 2
        first = {name: tensor[:, :half] for name, tensor in given.items()}
        past = self._presents(self._run(first, self._empty(first)))
        later = {n: t if n == "attention_mask" else t[:, half:] for n, t in given.items()}
        return (*later.values(), *past)

    def steps(self, inputs: Sequence[torch.Tensor]) -> Iterator[tuple[torch.Tensor, ...]]:
        """Yield the inputs of a generation: the tokens with an empty cache, then the likeliest one after another.

        Args:
            inputs: Inputs of one step; the cache among them is dropped.
        """
        own = dict(zip(self._names, inputs, strict=False))
        tokens = own["input_ids"]
        own = {n: t[:, -tokens.shape[1] :] for n, t in own.items()}
        past = self._empty(own)
        for _ in range(_STEPS + 1):
            yield (*own.values(), *past)
            output = self._run(own, past)
            past = self._presents(output)
            own = self._next(own, output["logits"][:, -1:].argmax(-1).to(tokens.dtype))

    def _next(self, own: dict[str, torch.Tensor], tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        following = {"input_ids": tokens}
        if "attention_mask" in own:
            mask = own["attention_mask"]
            following["attention_mask"] = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        if "position_ids" in own:
            following["position_ids"] = own["position_ids"][:, -1:] + 1
        return {name: following[name] for name in own}

    def _run(self, own: dict[str, torch.Tensor], past: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            return self.forward(*own.values(), *(tensor.clone() for tensor in past))

    def _presents(self, output: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        return tuple(output[name] for name in self.feeds.values())

    def _empty(self, own: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        batch = own["input_ids"].shape[0]
        dtype = next(self.decoder.parameters()).dtype
        shapes = ((batch, int(s.shape[1]), 0, int(s.shape[3])) for s in self.specs[len(self._names) :] if s.shape)
        return tuple(torch.zeros(shape, dtype=dtype) for shape in shapes)

    @staticmethod
    def _long_enough(name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Repeat tokens until both halves have two: exporters take a size of 1 for a constant."""
        if tensor.shape[1] >= _TOKENS:
            return tensor
        if name == "position_ids":
            return torch.arange(_TOKENS, dtype=tensor.dtype).expand(tensor.shape[0], -1)
        return tensor.repeat(1, -(-_TOKENS // tensor.shape[1]))[:, :_TOKENS]


def _with_lengths(spec: TensorSpec) -> TensorSpec:
    lengths = (BATCH, TOTAL if spec.name == "attention_mask" else SEQUENCE)
    return TensorSpec(spec.name, spec.dtype or "int64", lengths)


def _past(layers: Sequence[Layer], dtype: str) -> Iterator[TensorSpec]:
    for i, layer in enumerate(layers):
        for name, (heads, size) in (("key", layer.key), ("value", layer.value)):
            yield TensorSpec(f"past_key_values.{i}.{name}", dtype, (BATCH, heads, PAST, size))


def cached_decoder(module: torch.nn.Module, interface: Interface) -> CachedDecoder | None:
    """Return a decoder with its cache spread out; None for whatever is no such model.

    Models whose layers keep something else than all keys and values (a sliding window, a state space)
    are left as they are: their cache is dropped from the outputs, which the report says.
    """
    names = [spec.name for spec in interface.inputs]
    if not _generates(module) or "input_ids" not in names or not set(names) <= set(_OWN):
        return None
    layers = _layers(module)
    if not layers:
        return None
    own = sorted(interface.inputs, key=lambda spec: _OWN.index(spec.name))
    half = next(module.parameters()).dtype
    dtype = {torch.float16: "float16", torch.float64: "float64"}.get(half, "float32")
    return CachedDecoder(module, own, layers, dtype)


def _generates(module: Any) -> bool:
    transformers = sys.modules.get("transformers")
    if transformers is None or not isinstance(module, transformers.PreTrainedModel) or not module.can_generate():
        return False
    config = module.config
    return bool(getattr(config, "use_cache", False)) and not getattr(config, "is_encoder_decoder", False)


def _layers(module: Any) -> tuple[Layer, ...]:
    """Ask the model for the cache of two tokens, and read its layers' sizes."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    try:
        with torch.no_grad():
            cache = module(input_ids=torch.zeros((1, 2), dtype=torch.int64), use_cache=True).past_key_values
    except Exception:  # noqa: BLE001  whatever it needs beside tokens, it is no plain decoder
        return ()
    if not isinstance(cache, DynamicCache) or any(type(layer) is not DynamicLayer for layer in cache.layers):
        return ()
    tensors = [(layer.keys, layer.values) for layer in cache.layers]
    if any(t.shape[2] != 2 for pair in tensors for t in pair):
        return ()
    return tuple(Layer((k.shape[1], k.shape[3]), (v.shape[1], v.shape[3])) for k, v in tensors)
