"""Weights of a checkpoint made zero before it is exported, by PyTorch's own `torch.nn.utils.prune`.

Source: https://pytorch.org/tutorials/intermediate/pruning_tutorial.html
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch.nn.utils import prune

from registry_export.errors import SourceError
from registry_export.format import Pruning

_LEAST_RANK = 2
"""Biases and the scales of normalisations have one dimension."""


@dataclass(frozen=True)
class Pruned:
    """What a pruning came to.

    Attributes:
        note: A sentence on it.
        sparsity: The share of all parameters that are zero.
    """

    note: str
    sparsity: float


def prune_module(module: torch.nn.Module, pruning: Pruning) -> Pruned:
    """Prune a module, in place and for good: all weights of two dimensions or more, but embedding tables.

    Raises:
        SourceError: It has none.
    """
    tables = {
        id(parameter)
        for part in module.modules()
        if isinstance(part, torch.nn.Embedding | torch.nn.EmbeddingBag)
        for parameter in part.parameters(recurse=False)
    }
    named = dict(module.named_parameters())
    return _prune({name: p for name, p in named.items() if id(p) not in tables}, named.values(), pruning)


def prune_program(program: torch.export.ExportedProgram, pruning: Pruning) -> Pruned:
    """Prune a program, as `prune_module` a module.

    Raises:
        SourceError: It has no weights.
    """
    parameters = program.graph_signature.inputs_to_parameters
    tables = {
        parameters.get(getattr(node.args[0], "name", ""))
        for node in program.graph.nodes
        if node.op == "call_function" and str(node.target).startswith("aten.embedding")
    }
    named = {name: program.state_dict[name] for name in dict.fromkeys(parameters.values())}
    of_tables = {program.state_dict[name].data_ptr() for name in tables if name is not None}
    return _prune({name: p for name, p in named.items() if p.data_ptr() not in of_tables}, named.values(), pruning)


def _prune(candidates: Mapping[str, torch.Tensor], all_of_them: Iterable[torch.Tensor], pruning: Pruning) -> Pruned:
    places: dict[int, list[torch.Tensor]] = {}  # a weight with several names is one weight
    for tensor in candidates.values():
        if tensor.ndim >= _LEAST_RANK and tensor.is_floating_point() and tensor.numel():
            places.setdefault(tensor.data_ptr(), []).append(tensor)
    weights = [tensors[0] for tensors in places.values()]
    if not weights:
        raise SourceError("The checkpoint has no weights to prune.", remedy="Leave `pruning` out.")
    holders = [_holder(weight) for weight in weights]
    if pruning.method == "global":
        everywhere = [(holder, "weight") for holder in holders]
        prune.global_unstructured(everywhere, pruning_method=prune.L1Unstructured, amount=pruning.amount)
    for holder, same in zip(holders, places.values(), strict=True):
        if pruning.method == "l1_unstructured":
            prune.l1_unstructured(holder, "weight", pruning.amount)
        elif pruning.method == "ln_structured":
            prune.ln_structured(holder, "weight", pruning.amount, n=2, dim=0)
        prune.remove(holder, "weight")
        for weight in same:  # not in place: a checkpoint's file may be mapped, and is not ours to write
            weight.data = holder.weight.data
    everything = list(all_of_them)
    sparsity, of_layers = _zeros(everything), _zeros(weights)
    note = (
        f"Pruned by {pruning.method}, amount {pruning.amount:g}: {of_layers:.1%} of the weights of {len(weights)} "
        f"layers and {sparsity:.1%} of all parameters are zero. Its answers are compared with the pruned checkpoint's; "
        "how good it is, with the checkpoint as it was logged."
    )
    return Pruned(note.replace("%", " %"), sparsity)


def _holder(weight: torch.Tensor) -> torch.nn.Module:
    """Put a weight into a module of its own: recurrent layers and programs keep theirs where `prune` finds none."""
    holder = torch.nn.Module()
    holder.register_parameter("weight", torch.nn.Parameter(weight.detach().clone(), requires_grad=False))
    return holder


def _zeros(tensors: Iterable[torch.Tensor]) -> float:
    kept = list(tensors)
    return sum(int((t == 0).sum()) for t in kept) / max(1, sum(t.numel() for t in kept))
