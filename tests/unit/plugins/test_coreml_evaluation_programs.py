"""Whole ML programs: compressed weights, quantized values, loops, lists and states."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from registry_export.errors import VerificationError
from registry_export_plugins._coreml.evaluation.execution import MOST_TURNS
from registry_export_plugins._coreml.evaluation.runner import EvaluatedModel
from registry_export_plugins._coreml.package import Package
from tests.unit.plugins.coreml_evaluation_support import ct, evaluated, mb, numbers, packaged, types

X = numbers(3, 4)


COMPRESSED: dict[str, tuple[str, Callable[..., Any], np.ndarray]] = {
    "affine": (
        "iOS16",
        lambda: mb.constexpr_affine_dequantize(
            quantized_data=np.array([[1, 2], [3, 250]], np.uint8),
            zero_point=np.array([1, 2], np.uint8),
            scale=np.array([0.5, 2], np.float32),
            axis=np.int32(0),
        ),
        np.array([[0, 0.5], [2, 496]]),
    ),
    "blocks": (
        "iOS18",
        lambda: mb.constexpr_blockwise_shift_scale(
            data=np.array([[-8, 7, 3, 1]]).astype(types.np_int4_dtype),
            scale=np.array([[0.5, 2]], np.float32),
            offset=np.array([[1, -1]]).astype(types.np_int4_dtype),
        ),
        np.array([[-4.5, 3, 8, 4]]),
    ),
    "sparse": (
        "iOS16",
        lambda: mb.constexpr_sparse_to_dense(
            nonzero_data=np.array([3, 5, 7], np.float32),
            mask=np.array([0b10010010, 0], np.uint8),
            shape=np.array([3, 3], np.uint32),
        ),
        np.array([[0, 3, 0], [0, 5, 0], [0, 7, 0]]),
    ),
    "sparse since iOS 18": (
        "iOS18",
        lambda: mb.constexpr_sparse_to_dense(
            nonzero_data=np.array([3, 5], np.float32), mask=np.array([[0, 1], [1, 0]]).astype(types.np_uint1_dtype)
        ),
        np.array([[0, 3], [5, 0]]),
    ),
    "vectors": (
        "iOS18",
        lambda: mb.constexpr_lut_to_dense(
            indices=np.array([[0, 1], [1, 1]]).astype(types.np_uint1_dtype),
            lut=np.array([[1, 2, 3], [7, 8, 9]], np.float32).reshape(1, 1, 2, 3),
            vector_axis=np.int32(0),
        ),
        np.array([[1, 7], [2, 8], [3, 9], [7, 7], [8, 8], [9, 9]]),
    ),
    "groups": (
        "iOS18",
        lambda: mb.constexpr_lut_to_dense(
            indices=np.array([[0, 1], [1, 1], [0, 0], [1, 0]]).astype(types.np_uint1_dtype),
            lut=np.array([[1, 2], [7, 8]], np.float32).reshape(2, 1, 2, 1),
        ),
        np.array([[1, 2], [2, 2], [7, 7], [8, 7]]),
    ),
    "cast": (
        "iOS16",
        lambda: mb.constexpr_cast(source_val=np.array([0.1, 3], np.float16), output_dtype="fp32"),
        np.array([0.1, 3], np.float16),
    ),
}


@pytest.mark.parametrize("name", COMPRESSED)
def test_every_form_of_compressed_weights_is_read(name: str):
    target, build, expected = COMPRESSED[name]
    values = {"x": np.ones(expected.shape, np.float32)}
    (result,) = evaluated(packaged(lambda x: mb.mul(x=x, y=build()), values, target), values)
    np.testing.assert_array_equal(result, expected.astype(np.float32))


def test_sparse_palettes_and_sparse_scales_are_chained():
    mask = np.array([[1, 0, 1], [0, 1, 1]]).astype(types.np_uint1_dtype)
    lut = np.array([2, 5], np.float32).reshape(1, 1, 2, 1)

    def build(x):
        held, looked_up = mb.constexpr_lut_to_sparse(
            indices_mask=mask, indices_nonzero_data=np.array([0, 1, 1, 0]).astype(types.np_uint1_dtype), lut=lut
        )
        held_too, scaled = mb.constexpr_sparse_blockwise_shift_scale(
            data_mask=mask, nonzero_data=np.array([1, 2, 3, 4], np.int8), scale=np.array([[1, 10, 100]], np.float32)
        )
        dense = mb.constexpr_sparse_to_dense(nonzero_data=looked_up, mask=held)
        return mb.add(x=mb.mul(x=x, y=dense), y=mb.constexpr_sparse_to_dense(nonzero_data=scaled, mask=held_too))

    values = {"x": np.ones((2, 3), np.float32)}
    (result,) = evaluated(packaged(build, values, "iOS18"), values)
    np.testing.assert_array_equal(result, [[3, 0, 205], [0, 35, 402]])


def test_values_are_quantized_and_dequantized():
    scale, zero = np.array([0.1, 0.2, 0.05], np.float32), np.array([1, -2, 3], np.int8)

    def build(x):
        small = mb.quantize(input=x, scale=scale, zero_point=zero, axis=0, output_dtype="int8")
        return mb.dequantize(input=small, scale=scale, zero_point=zero, axis=0)

    (result,) = evaluated(packaged(build, {"x": X * 5}), {"x": X * 5})
    expected = torch.fake_quantize_per_channel_affine(
        torch.from_numpy(X * 5), torch.from_numpy(scale), torch.from_numpy(zero.astype(np.int32)), 0, -128, 127
    )
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_a_loop_turns_until_its_condition_is_false():
    def build(x):
        turn = lambda i, v: (mb.add(x=i, y=1.0), mb.mul(x=v, y=2.0))  # noqa: E731
        return mb.while_loop(_cond=lambda i, v: mb.less(x=i, y=5.0), _body=turn, loop_vars=(0.0, x))[1]

    (result,) = evaluated(packaged(build, {"x": X}), {"x": X})
    np.testing.assert_allclose(result, X * 32)


def test_a_loop_without_end_is_an_error_and_no_hang(monkeypatch):
    monkeypatch.setattr("registry_export_plugins._coreml.evaluation.execution.MOST_TURNS", 50)
    build = lambda x: mb.while_loop(  # noqa: E731
        _cond=lambda v: mb.less(x=mb.reduce_min(x=mb.mul(x=v, y=0.0)), y=1.0),
        _body=lambda v: mb.add(x=v, y=1.0),
        loop_vars=(x,),
    )
    assert MOST_TURNS > 50
    with pytest.raises(VerificationError, match="does not end"):
        evaluated(packaged(build, {"x": X}), {"x": X})


def test_lists_are_written_read_and_grow():
    def build(x):
        made = mb.make_list(init_length=2, dynamic_length=True, elem_shape=(np.int32(4),), dtype="fp32")
        rows = mb.list_scatter(ls=made, indices=[2, 0], value=mb.slice_by_size(x=x, begin=[0, 0], size=[2, -1]))
        rows = mb.list_write(
            ls=rows, index=3, value=mb.squeeze(x=mb.slice_by_size(x=x, begin=[2, 0], size=[1, -1]), axes=[0])
        )
        length = mb.cast(x=mb.list_length(ls=rows), dtype="fp32")
        return mb.list_gather(ls=rows, indices=[3, 2, 1, 0]), mb.list_read(ls=rows, index=2), length

    gathered, read, length = evaluated(packaged(build, {"x": X}), {"x": X})
    np.testing.assert_array_equal(gathered, [X[2], X[0], np.zeros(4), X[1]])
    np.testing.assert_array_equal(read, X[0])
    assert length == 4


def test_a_state_is_written_and_read():
    @mb.program(
        input_specs=[mb.TensorSpec((3, 4)), mb.StateTensorSpec((3, 4), dtype=types.fp16)],
        opset_version=ct.target.iOS18,
    )
    def program(x, memory):
        half = mb.cast(x=x, dtype="fp16")
        once = mb.coreml_update_state(state=memory, value=mb.add(x=mb.read_state(input=memory), y=half))
        twice = mb.coreml_update_state(state=memory, value=mb.add(x=once, y=half))
        return mb.cast(x=twice, dtype="fp32")

    model = ct.convert(program, minimum_deployment_target=ct.target.iOS18, skip_model_load=True)
    package = Path(model.package_path)
    held = EvaluatedModel(Package(package))
    for _ in range(2):  # each call begins anew
        (result,) = held.predict({"x": X}).values()
        np.testing.assert_allclose(result, 2 * X, rtol=2e-3)
