"""Recurrent layers as loops over time, so that capturing them does not fix the sequence's length."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

RECURRENT = ("aten.lstm.input", "aten.gru.input", "aten.rnn_tanh.input", "aten.rnn_relu.input")
"""The operators of a captured graph that fix the length of a sequence unless they are seen as loops."""


@contextlib.contextmanager
def loops() -> Iterator[None]:
    """Let `torch.export` see `nn.LSTM`, `nn.GRU` and `nn.RNN` as loops.

    PyTorch has loops of its own for the first two; https://pytorch.org/docs/stable/export.html.
    """
    from torch.export import _patches

    cells = [cell for cell in ("lstm", "gru") if hasattr(_patches, f"register_{cell}_while_loop_decomposition")]
    operators = [getattr(torch.ops.aten, cell).input for cell in cells]
    with contextlib.ExitStack() as stack:
        for cell in cells:
            stack.enter_context(getattr(_patches, f"register_{cell}_while_loop_decomposition")())
        stack.enter_context(_kernel(torch.ops.aten.rnn_tanh.input, _network(torch.tanh)))
        stack.enter_context(_kernel(torch.ops.aten.rnn_relu.input, _network(torch.relu)))
        # An operator that has been called before keeps the kernel that it found then.
        for operator in operators:
            operator._dispatch_cache.clear()
        try:
            yield
        finally:
            for operator in operators:
                operator._dispatch_cache.clear()


@contextlib.contextmanager
def _kernel(operator: Any, function: Callable[..., Any]) -> Iterator[None]:
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    before = operator.py_kernels.pop(key, None)
    operator.py_kernels[key] = function
    operator._dispatch_cache.clear()
    try:
        yield
    finally:
        operator.py_kernels.pop(key)
        if before is not None:
            operator.py_kernels[key] = before
        operator._dispatch_cache.clear()


def _network(activation: Callable[[Tensor], Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return `aten::rnn_tanh.input` or `aten::rnn_relu.input`, written with `torch.while_loop`."""

    def network(  # the operator's own signature
        input: Tensor,  # noqa: A002
        hx: Tensor,
        params: Sequence[Tensor],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> tuple[Tensor, Tensor]:
        del dropout, train  # an export is in evaluation mode
        directions, weights = 2 if bidirectional else 1, 4 if has_biases else 2
        hidden = input.transpose(0, 1) if batch_first else input
        finals = []
        for layer in range(num_layers):
            outputs = []
            for index in range(layer * directions, (layer + 1) * directions):
                own = params[index * weights : (index + 1) * weights]
                output, final = _layer(activation, hidden, hx[index], own, backwards=index % directions == 1)
                outputs.append(output)
                finals.append(final)
            hidden = torch.cat(outputs, -1)
        return hidden.transpose(0, 1) if batch_first else hidden, torch.stack(finals)

    return network


def _layer(
    activation: Callable[[Tensor], Tensor], inputs: Tensor, first: Tensor, weights: Sequence[Tensor], *, backwards: bool
) -> tuple[Tensor, Tensor]:
    """Run one direction of one layer.

    Args:
        activation: The cell's nonlinearity.
        inputs: [length, batch, size].
        first: The state before the first step, [batch, hidden].
        weights: Of the input and the state, then their biases if there are any.
        backwards: Whether time runs from the end.

    Returns:
        [length, batch, hidden] and the last state.
    """
    biases = tuple(weights[2:]) or (None, None)
    given = torch.nn.functional.linear(inputs, weights[0], biases[0])
    given = given.flip(0) if backwards else given
    recurrent = weights[1]

    def unfinished(step: Tensor, outputs: Tensor, state: Tensor) -> Any:
        return step < given.size(0)

    def advance(step: Tensor, outputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        now = torch.index_select(given, 0, step.reshape(1)).squeeze(0)
        state = activation(now + torch.nn.functional.linear(state, recurrent, biases[1]))
        return step + 1, torch.index_copy(outputs, 0, step.reshape(1), state.unsqueeze(0)), state

    empty = torch.zeros(given.size(0), *first.shape, dtype=first.dtype, device=first.device)
    start = torch.zeros((), dtype=torch.int64)
    _, outputs, last = while_loop(unfinished, advance, (start, empty, first.clone()))
    return outputs.flip(0) if backwards else outputs, last
