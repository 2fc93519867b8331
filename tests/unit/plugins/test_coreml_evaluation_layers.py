"""The evaluator's layers, against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.unit.plugins.coreml_evaluation_support import Case, assert_agrees, mb, numbers

X1, X2, X3 = numbers(2, 4, 11), numbers(2, 4, 9, 7), numbers(1, 2, 5, 6, 4)
T1, T2, T3 = (torch.from_numpy(x) for x in (X1, X2, X3))
W1, W2, W3 = numbers(6, 4, 3, seed=1), numbers(6, 4, 3, 2, seed=2), numbers(3, 2, 2, 3, 2, seed=3)
GROUPED, DEPTHWISE = numbers(6, 2, 3, 3, seed=4), numbers(8, 1, 3, 3, seed=5)
BIAS = numbers(6, seed=6)
UNEVEN = numbers(2, 3, 8, 5)


def t(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(array))


def conv(name: str, x, weight, expected, **arguments) -> Case:
    return Case(name, lambda x: mb.conv(x=x, weight=weight, **arguments), {"x": x}, expected, atol=1e-4)


def up(name: str, x, weight, expected, **arguments) -> Case:
    return Case(name, lambda x: mb.conv_transpose(x=x, weight=weight, **arguments), {"x": x}, expected, atol=1e-4)


CONVOLUTIONS = [
    conv("1d", X1, W1, functional.conv1d(T1, t(W1), t(BIAS), 2), bias=BIAS, strides=[2], pad_type="valid"),
    conv(
        "2d, custom padding, dilated",
        X2,
        W2,
        functional.conv2d(functional.pad(T2, (1, 0, 2, 1)), t(W2), dilation=(2, 3)),
        pad_type="custom",
        pad=[2, 1, 1, 0],
        dilations=[2, 3],
    ),
    conv("3d", X3, W3, functional.conv3d(T3, t(W3), padding=1), pad_type="custom", pad=[1] * 6),
    conv("groups", X2, GROUPED, functional.conv2d(T2, t(GROUPED), groups=2), pad_type="valid", groups=2),
    conv("depthwise", X2, DEPTHWISE, functional.conv2d(T2, t(DEPTHWISE), groups=4, stride=2), strides=[2, 2], groups=4),
    conv(
        "same",
        X2,
        W2,
        functional.conv2d(functional.pad(T2, (0, 1, 1, 1)), t(W2), stride=(2, 1)),
        strides=[2, 1],
        pad_type="same",
    ),
    conv("same, lower", X2, W2, functional.conv2d(functional.pad(T2, (1, 0, 1, 1)), t(W2)), pad_type="same_lower"),
    up(
        "transposed, 1d",
        X1,
        W1.transpose(1, 0, 2).copy(),
        functional.conv_transpose1d(T1, t(W1).transpose(0, 1), stride=2),
        strides=[2],
    ),
    up(
        "transposed, 2d",
        X2,
        W2.transpose(1, 0, 2, 3).copy(),
        functional.conv_transpose2d(T2, t(W2).transpose(0, 1), t(BIAS), stride=2, padding=1),
        bias=BIAS,
        strides=[2, 2],
        pad_type="custom",
        pad=[1, 1, 1, 1],
    ),
    up(
        "transposed, groups and dilation",
        X2,
        numbers(4, 3, 3, 3, seed=7),
        functional.conv_transpose2d(T2, t(numbers(4, 3, 3, 3, seed=7)), groups=2, dilation=2, stride=(3, 1)),
        groups=2,
        dilations=[2, 2],
        strides=[3, 1],
    ),
    up(
        "transposed, output shape",
        X2,
        W2.transpose(1, 0, 2, 3).copy(),
        functional.conv_transpose2d(T2, t(W2).transpose(0, 1), stride=2, padding=1, output_padding=1),
        strides=[2, 2],
        pad_type="custom",
        pad=[1, 1, 1, 1],
        output_shape=[2, 6, 18, 13],
    ),
]


def pool(name: str, x, expected, **arguments) -> Case:
    operator = name.split(",")[0]
    return Case(name, lambda x: getattr(mb, operator)(x=x, **arguments), {"x": x}, expected)


POOLINGS = [
    pool("max_pool, 1d", X1, functional.max_pool1d(T1, 3, 2), kernel_sizes=[3], strides=[2], pad_type="valid"),
    pool(
        "max_pool, padded",
        X2 - 5,
        functional.max_pool2d(T2 - 5, 3, 2, 1),
        kernel_sizes=[3, 3],
        strides=[2, 2],
        pad_type="custom",
        pad=[1] * 4,
    ),
    pool(
        "max_pool, 3d", X3, functional.max_pool3d(T3, 2, 1), kernel_sizes=[2, 2, 2], strides=[1, 1, 1], pad_type="valid"
    ),
    pool(
        "max_pool, ceil",
        X2,
        functional.max_pool2d(T2, 2, 2, ceil_mode=True),
        kernel_sizes=[2, 2],
        strides=[2, 2],
        pad_type="custom",
        pad=[0] * 4,
        ceil_mode=True,
    ),
    *(
        pool(
            f"avg_pool, counting padding {counts}, ceil {ceil}, {kernel} by {stride}",
            UNEVEN,
            functional.avg_pool2d(t(UNEVEN), kernel, stride, 1, ceil_mode=ceil, count_include_pad=counts),
            kernel_sizes=[kernel] * 2,
            strides=[stride] * 2,
            pad_type="custom",
            pad=[1] * 4,
            ceil_mode=ceil,
            exclude_padding_from_average=not counts,
        )
        for counts in (True, False)
        for ceil in (True, False)
        # With the second, a window that would begin in the padding is left out.
        for kernel, stride in ((3, 2), (2, 3))
    ),
    pool(
        "avg_pool, same",
        X2,
        functional.avg_pool2d(functional.pad(T2, (0, 1, 0, 1)), 2, 1)
        * torch.tensor([1.0] * 6 + [2.0])
        * torch.tensor([[1.0]] * 8 + [[2.0]]),
        kernel_sizes=[2, 2],
        strides=[1, 1],
        pad_type="same",
        exclude_padding_from_average=True,
    ),
    pool(
        "l2_pool",
        X2,
        (functional.avg_pool2d(T2**2, 2, 2) * 4).sqrt(),
        kernel_sizes=[2, 2],
        strides=[2, 2],
        pad_type="valid",
    ),
]

A, B = numbers(2, 3, 4, 5), numbers(3, 5, 6, seed=1)
Q, K, V = numbers(2, 3, 4, 8), numbers(2, 3, 5, 8, seed=1), numbers(2, 3, 5, 6, seed=2)
MASK = np.array([[[[True, False, True, True, False]]]] * 2)
MATRICES = [
    Case("matmul", lambda x, y: mb.matmul(x=x, y=y), {"x": A, "y": B}, A @ B),
    Case(
        "matmul, transposed",
        lambda x, y: mb.matmul(x=x, y=y, transpose_x=True, transpose_y=True),
        {"x": A, "y": numbers(3, 6, 4, seed=1)},
        A.swapaxes(-1, -2) @ numbers(3, 6, 4, seed=1).swapaxes(-1, -2),
    ),
    Case(
        "linear",
        lambda x: mb.linear(x=x, weight=W1[..., 0], bias=BIAS),
        {"x": A[0, ..., :4]},
        functional.linear(t(A[0, ..., :4]), t(W1[..., 0]), t(BIAS)),
    ),
    Case(
        "einsum",
        lambda x, y: mb.einsum(values=(x, y), equation="nchw,nwhu->nchu"),
        {"x": numbers(2, 3, 1, 4), "y": numbers(1, 4, 5, 6, seed=1)},
        np.einsum(
            "nchw,nwhu->nchu",
            np.broadcast_to(numbers(2, 3, 1, 4), (2, 3, 5, 4)),
            np.broadcast_to(numbers(1, 4, 5, 6, seed=1), (2, 4, 5, 6)),
        ),
    ),
    Case(
        "attention",
        lambda q, k, v: mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=MASK),
        {"q": Q, "k": K, "v": V},
        functional.scaled_dot_product_attention(t(Q), t(K), t(V), t(MASK)),
        "iOS18",
    ),
    Case(
        "attention, added mask",
        lambda q, k, v, m: mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=m),
        {"q": Q, "k": K, "v": V, "m": numbers(2, 3, 4, 5, seed=3)},
        functional.scaled_dot_product_attention(t(Q), t(K), t(V), t(numbers(2, 3, 4, 5, seed=3))),
        "iOS18",
    ),
]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolutions_are_those_of_pytorch(case: Case):
    assert_agrees(case)


@pytest.mark.parametrize("case", POOLINGS, ids=str)
def test_poolings_are_those_of_pytorch(case: Case):
    assert_agrees(case)


@pytest.mark.parametrize("case", MATRICES, ids=str)
def test_products_of_matrices_are_those_of_numpy(case: Case):
    assert_agrees(case)


def _cell(kind: str, bidirectional: bool = False) -> torch.nn.Module:
    torch.manual_seed(0)
    return {"lstm": torch.nn.LSTM, "rnn": torch.nn.RNN}[kind](3, 4, bidirectional=bidirectional)


def _weights(cell: torch.nn.Module, suffix: str = "") -> dict[str, np.ndarray]:
    def ordered(tensor: torch.Tensor) -> np.ndarray:
        parts = tensor.detach().numpy().reshape(-1, 4, *tensor.shape[1:])
        # PyTorch's gates are input, forget, cell, output; Core ML's input, forget, output, cell.
        return (parts[[0, 1, 3, 2]] if len(parts) == 4 else parts).reshape(tensor.shape)

    get = lambda name: getattr(cell, f"{name}_l0{suffix}")  # noqa: E731
    return {
        "weight_ih": ordered(get("weight_ih")),
        "weight_hh": ordered(get("weight_hh")),
        "bias": ordered(get("bias_ih") + get("bias_hh")),
    }


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_long_short_term_memory_is_that_of_pytorch(bidirectional: bool):
    cell, x = _cell("lstm", bidirectional), numbers(6, 2, 3)
    ways = 2 if bidirectional else 1
    state = numbers(2, 4 * ways, seed=1), numbers(2, 4 * ways, seed=2)
    back = {f"{n}_back": a for n, a in _weights(cell, "_reverse").items()} if bidirectional else {}
    given = [t(part).reshape(2, ways, 4).transpose(0, 1).contiguous() for part in state]
    sequence, (hidden, memory) = cell(t(x), tuple(given))
    expected = [a.detach() for a in (sequence, *(part.transpose(0, 1).reshape(2, -1) for part in (hidden, memory)))]
    direction = "bidirectional" if bidirectional else "forward"
    build = lambda x, h, c: mb.lstm(  # noqa: E731
        x=x, initial_h=h, initial_c=c, direction=direction, output_sequence=True, **_weights(cell), **back
    )
    assert_agrees(Case("lstm", build, {"x": x, "h": state[0], "c": state[1]}, expected))


def test_a_simple_recurrent_layer_runs_backwards_too():
    cell, x, state = _cell("rnn"), numbers(6, 2, 3), numbers(2, 4, seed=1)
    sequence, hidden = cell(t(x).flip(0), t(state)[None])
    build = lambda x, h: mb.rnn(x=x, initial_h=h, direction="reverse", output_sequence=True, **_weights(cell))  # noqa: E731
    assert_agrees(Case("rnn", build, {"x": x, "h": state}, [sequence.flip(0).detach(), hidden[0].detach()]))


def test_a_gated_recurrent_unit_follows_its_equations():
    x, h = numbers(5, 2, 3), numbers(2, 4, seed=1)
    w, u, b = numbers(12, 3, seed=2), numbers(12, 4, seed=3), numbers(12, seed=4)
    build = lambda x, h: mb.gru(x=x, initial_h=h, weight_ih=w, weight_hh=u, bias=b)  # noqa: E731
    hidden = h.astype(np.float64)
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    for step in x:
        reset = sigmoid(step @ w[:4].T + b[:4] + hidden @ u[:4].T)
        update = sigmoid(step @ w[8:].T + b[8:] + hidden @ u[8:].T)
        new = np.tanh(step @ w[4:8].T + b[4:8] + reset * (hidden @ u[4:8].T))
        hidden = (1 - update) * new + update * hidden
    assert_agrees(Case("gru", build, {"x": x, "h": h}, [hidden[None], hidden]))
