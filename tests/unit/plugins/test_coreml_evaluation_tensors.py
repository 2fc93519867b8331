"""The evaluator's operators that move, make and order elements, against NumPy and PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.unit.plugins.coreml_evaluation_support import Case, assert_agrees, mb, numbers

X = numbers(3, 4, 5)
T = torch.from_numpy(X)
ROWS = np.array([2, 0, 2, 1], np.int32)
IMAGE = numbers(2, 8, 4, 6)
TI = torch.from_numpy(IMAGE)


def one(name: str, expected, values=X, target: str = "iOS17", **arguments) -> Case:
    operator = name.split(",")[0]
    return Case(name, lambda x: getattr(mb, operator)(x=x, **arguments), {"x": values}, expected, target)


ALONG = np.array([[[1, 0, 3, 2, 1]], [[0, 0, 1, 3, 3]], [[2, 2, 2, 1, 0]]], np.int32)
PAIRS = np.array([[[0, 3], [2, 1]], [[1, 1], [2, 2]]], np.int32)
BATCHED = np.array([[1, 3], [0, 0], [2, 1]], np.int32)
NEGATIVE = np.array([-1, 1], np.int32)
GATHERED = [
    one("gather", X[:, ROWS], indices=ROWS, axis=1),
    one("gather, scalar", X[:, 2], indices=np.int32(2), axis=-2),
    one("gather, matrix", X[:, :, PAIRS], indices=PAIRS, axis=2),
    one("gather, batch", np.stack([X[i][:, BATCHED[i]] for i in range(3)]), indices=BATCHED, axis=2, batch_dims=1),
    one("gather, negative until iOS 16", X[NEGATIVE], target="iOS16", indices=NEGATIVE, axis=0),
    one("gather_along_axis", np.take_along_axis(X, ALONG, 1), indices=ALONG, axis=1),
    one("gather_nd", X[PAIRS[..., 0], PAIRS[..., 1]], indices=PAIRS),
    one(
        "gather_nd, batch",
        np.stack([X[i][BATCHED[i, 0], BATCHED[i, 1]] for i in range(3)]),
        indices=BATCHED,
        batch_dims=1,
    ),
]

_UFUNCS = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
}


def scattered(mode: str, place, updates) -> np.ndarray:
    result = X.copy()
    if mode == "update":
        result[place] = updates
    else:
        _UFUNCS[mode].at(result, place, updates)
    return result


def scatter(name: str, mode: str, expected, updates, **arguments) -> Case:
    build = lambda x, u: getattr(mb, name)(data=x, updates=u, mode=mode, **arguments)  # noqa: E731
    return Case(f"{name}, {mode}", build, {"x": X, "u": updates}, expected, atol=1e-4)


UPDATES, ALONG_UPDATES, ND_UPDATES = numbers(3, 4, 5, seed=1), numbers(3, 1, 5, seed=1), numbers(2, 2, 5, seed=1)
REPEATED = np.array([2, 0, 2, 1], np.int32)
GRID = np.indices((3, 1, 5), sparse=True)
SCATTERED = [
    *(
        scatter("scatter", mode, scattered(mode, (slice(None), REPEATED), UPDATES), UPDATES, indices=REPEATED, axis=1)
        for mode in (*_UFUNCS, "update")
    ),
    scatter(
        "scatter_along_axis",
        "add",
        torch.scatter_add(T, 1, torch.from_numpy(ALONG).long(), torch.from_numpy(ALONG_UPDATES)),
        ALONG_UPDATES,
        indices=ALONG,
        axis=1,
    ),
    scatter(
        "scatter_along_axis",
        "update",
        torch.scatter(T, 1, torch.from_numpy(ALONG).long(), torch.from_numpy(ALONG_UPDATES)),
        ALONG_UPDATES,
        indices=ALONG,
        axis=1,
    ),
    *(
        scatter(
            "scatter_nd", mode, scattered(mode, (PAIRS[..., 0], PAIRS[..., 1]), ND_UPDATES), ND_UPDATES, indices=PAIRS
        )
        for mode in ("add", "update", "max")
    ),
]

SLICED = [
    one(
        "slice_by_index",
        X[1:3, ::-2, 4],
        begin=[1, 3, 4],
        end=[3, 0, 0],
        stride=[1, -2, 1],
        end_mask=[False, True, False],
        squeeze_mask=[False, False, True],
    ),
    one(
        "slice_by_index, masks",
        X[:2, 1:, -3:-1],
        begin=[9, 1, -3],
        end=[2, 0, -1],
        begin_mask=[True, False, False],
        end_mask=[False, True, False],
    ),
    one("slice_by_size", X[1:, 1:3, 1:2], begin=[1, -3, 1], size=[-1, 2, 1]),
    one("split", [X[..., :1], X[..., 1:3], X[..., 3:]], split_sizes=[1, 2, 2], axis=2),
    one("split, even", np.split(X, 2, 1), num_splits=2, axis=-2),
    one("crop", IMAGE[..., 1:3, 2:5], IMAGE, crop_height=[1, 1], crop_width=[2, 1]),
    one("sliding_windows", T.unfold(2, 3, 2), axis=2, size=3, stride=2),
    Case(
        "slice_update",
        lambda x, u: mb.slice_update(
            x=x,
            update=u,
            begin=[0, 1, 0],
            end=[0, 3, 5],
            stride=[1, 1, 2],
            begin_mask=[True, False, False],
            end_mask=[True, False, False],
        ),
        {"x": X, "u": numbers(3, 2, 3, seed=1)},
        np.stack(
            [
                np.concatenate(
                    [
                        X[i, :1],
                        np.stack(
                            [
                                np.stack(
                                    [
                                        numbers(3, 2, 3, seed=1)[i, j, k // 2] if k % 2 == 0 else X[i, j + 1, k]
                                        for k in range(5)
                                    ]
                                )
                                for j in range(2)
                            ]
                        ),
                        X[i, 3:],
                    ]
                )
                for i in range(3)
            ]
        ),
        "iOS18",
    ),
]

LENGTHS = np.array([2, 4, 1], np.int32)
SHAPED = [
    one("reshape", X.reshape(4, 15), shape=[4, -1]),
    one("reshape, zero from the right", X.reshape(12, 5), shape=[-1, 0]),
    one("reshape, zero from the left", X.reshape(3, 20, 1), target="iOS15", shape=[0, -1, 1]),
    one("transpose", X.transpose(2, 0, 1), perm=[-1, 0, 1]),
    one("expand_dims", X[:, None, :, :, None], axes=[1, -1]),
    one("squeeze", X[:, 0], X[:, :1], axes=[1]),
    one("flatten2d", X.reshape(12, 5), axis=2),
    one("reverse", X[::-1, :, ::-1], axes=[0, -1]),
    one(
        "reverse_sequence",
        np.stack([np.concatenate([X[i, :n][::-1], X[i, n:]]) for i, n in enumerate(LENGTHS)]),
        lengths=LENGTHS,
        seq_axis=1,
        batch_axis=0,
    ),
    one("tile", np.tile(X, (2, 1, 3)), reps=[2, 1, 3]),
    one("shape", np.array(X.shape)),
    Case(
        "concat",
        lambda x, y: mb.concat(values=(x, y), axis=-1),
        {"x": X, "y": X[..., :2]},
        np.concatenate([X, X[..., :2]], -1),
    ),
    Case(
        "concat, interleaved",
        lambda x, y: mb.concat(values=(x, y), axis=1, interleave=True),
        {"x": X, "y": -X},
        np.stack([X, -X], 2).reshape(3, 8, 5),
    ),
    Case("stack", lambda x, y: mb.stack(values=(x, y), axis=1), {"x": X, "y": -X}, np.stack([X, -X], 1)),
    Case(
        "reshape_like",
        lambda x, y: mb.reshape_like(x=x, ref_tensors=(y, y), begins=(0, 1), ends=(1, 0), end_masks=(False, True)),
        {"x": X, "y": numbers(4, 5, 3)},
        X.reshape(4, 5, 3),
    ),
    one("pixel_shuffle", functional.pixel_shuffle(TI, 2), IMAGE, upscale_factor=2),
    one("pixel_unshuffle", functional.pixel_unshuffle(TI, 2), IMAGE, downscale_factor=np.uint32(2)),
    one(
        "depth_to_space",
        IMAGE.reshape(2, 2, 2, 2, 4, 6).transpose(0, 3, 4, 1, 5, 2).reshape(2, 2, 8, 12),
        IMAGE,
        block_size=2,
    ),
    one(
        "space_to_depth",
        np.concatenate([IMAGE[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], 1),
        IMAGE,
        block_size=2,
    ),
    one(
        "space_to_batch",
        np.concatenate(
            [np.pad(IMAGE, [(0, 0), (0, 0), (1, 1), (2, 1)])[:, :, i::2, j::3] for i in (0, 1) for j in (0, 1, 2)]
        ),
        IMAGE,
        block_shape=[2, 3],
        paddings=[[1, 1], [2, 1]],
    ),
    Case(
        "batch_to_space",
        lambda x: mb.batch_to_space(
            x=mb.space_to_batch(x=x, block_shape=[2, 3], paddings=[[1, 1], [2, 1]]),
            block_shape=[2, 3],
            crops=[[1, 1], [2, 1]],
        ),
        {"x": IMAGE},
        IMAGE,
    ),
]

MADE = [
    Case("fill", lambda x: mb.fill(shape=mb.shape(x=x), value=2.5), {"x": X}, np.full(X.shape, 2.5)),
    Case("fill_like", lambda x: mb.fill_like(ref_tensor=x, value=2.5), {"x": X}, np.full(X.shape, 2.5)),
    Case(
        "range_1d",
        lambda x: mb.range_1d(start=x, end=10.0, step=2.5),
        {"x": np.array([1], np.float32)},
        np.array([1, 3.5, 6, 8.5]),
    ),
    Case(
        "one_hot",
        lambda x: mb.one_hot(indices=x, one_hot_vector_size=3, axis=0, on_value=2.0, off_value=-1.0),
        {"x": np.array([0, 2, 3, -1], np.int32)},
        np.where(np.arange(3)[:, None] == [0, 2, 3, -1], 2, -1),
    ),
    one("pad", np.pad(X, [(0, 0), (1, 2), (3, 0)], constant_values=7), pad=[1, 2, 3, 0], constant_val=7.0),
    one("pad, reflect", functional.pad(T, (2, 3), "reflect"), pad=[2, 3], mode="reflect"),
    one("pad, replicate", functional.pad(T, (2, 3), "replicate"), pad=[2, 3], mode="replicate"),
    one("band_part", np.triu(X, -1) - np.triu(X, 3), lower=1, upper=2),
    one("cumsum", np.cumsum(X, 1), axis=1),
    one("cumsum, exclusive", np.cumsum(X, 1) - X, axis=1, exclusive=True),
    one("cumsum, reverse", np.cumsum(X[:, ::-1], 1)[:, ::-1], axis=1, reverse=True),
]

TIES = np.array([[3, 1, 3, 2, 1], [0, 0, 5, 5, 4]], np.float32)
ORDERED = [
    one("argsort", np.argsort(X, 1), axis=1, ascending=True),
    one("argsort, descending and stable", np.argsort(-TIES, 1, kind="stable"), TIES, axis=1),
    one("topk", [v.numpy() for v in torch.topk(T, 2, 1)], k=2, axis=1),
    one("topk, smallest", [v.numpy() for v in torch.topk(T, 3, 2, largest=False)], k=3, axis=2, ascending=True),
    one("non_zero", np.argwhere(TIES != 0), TIES),
]


@pytest.mark.parametrize("case", GATHERED, ids=str)
def test_elements_are_picked_as_by_numpy(case: Case):
    assert_agrees(case)


@pytest.mark.parametrize("case", SCATTERED, ids=str)
def test_elements_are_written_in_every_mode(case: Case):
    assert_agrees(case)


@pytest.mark.parametrize("case", [*SLICED, *SHAPED], ids=str)
def test_tensors_are_cut_and_shaped_as_by_numpy(case: Case):
    assert_agrees(case)


@pytest.mark.parametrize("case", [*MADE, *ORDERED], ids=str)
def test_tensors_are_made_and_ordered_as_by_numpy(case: Case):
    assert_agrees(case)
