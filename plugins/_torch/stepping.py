"""Running a decoder whose key-value cache goes from step to step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from registry_export.format import Array
from registry_export_plugins._torch.caching import CachedDecoder
from registry_export_plugins._torch.modules import TorchRunner, to_array, to_tensor

CACHE_NOTE = (
    "The key-value cache is part of the model: past_key_values.* are inputs, present.* outputs. To export it without, "
    "set config.use_cache = False and log it again."
)
_ROWS, _LENGTH = 2, 8


class SteppingRunner(TorchRunner):
    """Runs a decoder, and knows how its steps follow each other.

    Attributes:
        feeds: Input -> output of the step before.
    """

    def __init__(self, decoder: CachedDecoder, runner: TorchRunner) -> None:
        super().__init__(runner.call, runner.interface, module=runner.module)
        self.example, self.notes, self.inside = runner.example, (*runner.notes, CACHE_NOTE), runner.inside
        self.sparsity = runner.sparsity
        self._decoder = decoder
        self.feeds = decoder.feeds
        if self.example is None:
            self.example = self.complete(self._drawn())

    def complete(self, sample: Sequence[tuple[str, Array]]) -> dict[str, Array]:
        """Give a sample of the decoder's own inputs the cache that belongs to it.

        Args:
            sample: Arrays by input name; by position where a name is unknown. One that has a cache is left as it is.
        """
        names = [spec.name for spec in self.interface.inputs]
        given = dict(sample)
        if set(given) == set(names):
            return {name: given[name] for name in names}
        own = names[: len(names) - len(self.feeds)]
        arrays = [given[name] for name in own] if set(own) <= set(given) else [array for _, array in sample]
        tensors = [to_tensor(array).to(torch.int64) for array in arrays[: len(own)]]
        return {n: to_array(t) for n, t in zip(names, self._decoder.completed(tensors), strict=True)}

    def steps(self, inputs: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
        """Yield the inputs of a short generation that starts with a sample's tokens and an empty cache."""
        tensors = [to_tensor(inputs[spec.name]) for spec in self.interface.inputs]
        for step in self._decoder.steps(tensors):
            yield {s.name: to_array(t) for s, t in zip(self.interface.inputs, step, strict=True)}

    def _drawn(self) -> list[tuple[str, Array]]:
        vocabulary = int(getattr(self._decoder.decoder.config, "vocab_size", 2))
        tokens = torch.randint(0, vocabulary, (_ROWS, _LENGTH), generator=torch.Generator().manual_seed(0))
        made = {
            "input_ids": tokens,
            "attention_mask": torch.ones_like(tokens),
            "position_ids": torch.arange(_LENGTH).repeat(_ROWS, 1),
        }
        return [(s.name, to_array(made[s.name])) for s in self.interface.inputs if s.name in made]
