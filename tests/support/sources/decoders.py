"""A causal language model that hands itself its key-value cache."""

from __future__ import annotations

import numpy as np

from registry_export.format import Toolchain
from tests.support.sources.source import Source

TRANSFORMERS = Toolchain("build-transformers", ("torch", "mlflow.pytorch", "transformers"))

DECODERS = {
    "llama": Source("pytorch", TRANSFORMERS, f"{__name__}:llama"),
    "gpt2": Source("pytorch", TRANSFORMERS, f"{__name__}:gpt2"),
}


def _save(model, folder):
    import mlflow

    tokens = np.random.default_rng(0).integers(3, 60, (2, 7))
    mlflow.pytorch.save_model(
        model.eval(),
        folder,
        input_example={"input_ids": tokens, "attention_mask": np.ones_like(tokens)},
        serialization_format="pickle",
        pip_requirements=["torch"],
    )


def llama(arguments):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
    )
    _save(LlamaForCausalLM(config), arguments["folder"])


def gpt2(arguments):
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    _save(
        GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=64)), arguments["folder"]
    )
