"""Operators that coremltools 9 lacks, or gets wrong beside newer PyTorch and NumPy.

Registered in coremltools' own registries when a conversion starts, in the child that converts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np


def register_torch_operators() -> None:
    """Add to the operators that coremltools translates from PyTorch."""
    from coremltools.converters.mil import register_torch_op
    from coremltools.converters.mil.frontend.torch import ops

    correct_select()
    # coremltools 9 converts arrays of one element by `int(array)`, which NumPy 2.4 refuses.
    register_torch_op(_bool, torch_alias=["bool"], override=True)
    register_torch_op(_int, torch_alias=["int"], override=True)
    # Quantised TorchScript reads its scales with it.
    register_torch_op(_float, torch_alias=["float"], override=True)
    # torch.jit.trace of PyTorch 2.13 records it where masks are made; coremltools 9 has new_zeros and new_full only.
    register_torch_op(new_ones, override=True)
    # coremltools 9 writes the sizes of its input into a constant, which has no place for an open batch.
    ops._group_norm_impl = group_norm


def correct_select() -> None:
    """Let `select` give the sizes of its condition too.

    coremltools 9 infers them from the two values alone, and writes that the selection between two numbers is a
    number, whatever the condition.
    """
    from coremltools.converters.mil.mil import types
    from coremltools.converters.mil.mil.ops.defs.iOS15.control_flow import select

    of_values = select.type_inference
    if hasattr(of_values, "__wrapped__"):
        return

    @functools.wraps(of_values)
    def of_all(operation: Any) -> Any:
        inferred = of_values(operation)
        given = list(inferred.get_shape()) if types.is_tensor(inferred) else []
        condition = list(operation.cond.shape or ())
        missing = condition[: max(len(condition) - len(given), 0)]
        whole = missing + given
        for axis in range(1, len(given) + 1):
            if whole[-axis] == 1 and axis <= len(condition):
                whole[-axis] = condition[-axis]
        element = inferred.get_primitive() if types.is_tensor(inferred) else inferred
        return types.tensor(element, tuple(whole)) if whole else inferred

    select.type_inference = of_all


def _bool(context: Any, node: Any) -> None:
    _to_scalar(context, node, bool, "bool")


def _int(context: Any, node: Any) -> None:
    _to_scalar(context, node, int, "int32")


def _float(context: Any, node: Any) -> None:
    _to_scalar(context, node, np.float32, "fp32")


def _to_scalar(context: Any, node: Any, python_type: Callable[[Any], Any], dtype: str) -> None:
    """Translate `int(tensor)` and its like, of a tensor of one element."""
    from coremltools.converters.mil import Builder as mb  # noqa: N813  as coremltools calls it
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs

    x = _get_inputs(context, node, expected=1)[0]
    if any(size != 1 for size in x.shape):
        raise ValueError("input to cast must be either a scalar or a length 1 tensor")
    if x.can_be_folded_to_const():
        result = mb.const(val=python_type(np.asarray(x.val).item()), name=node.name)
    else:
        scalar = mb.squeeze(x=x, name=f"{node.name}_item") if x.shape else x
        result = mb.cast(x=scalar, dtype=dtype, name=node.name)
    context.add(result, node.name)


_TORCH_INTEGERS = (0, 1, 2, 3, 4)
_TORCH_BOOL = 11


def new_ones(context: Any, node: Any) -> None:
    """Translate `tensor.new_ones(size, dtype)`; dtype is PyTorch's number of it, or None for the tensor's own."""
    from coremltools.converters.mil import Builder as mb  # noqa: N813
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs
    from coremltools.converters.mil.mil import types

    inputs = _get_inputs(context, node)
    size, given = inputs[1], inputs[2].val if len(inputs) > 2 and inputs[2] is not None else None
    if given is None:
        given = _TORCH_BOOL if types.is_bool(inputs[0].dtype) else 3 if types.is_int(inputs[0].dtype) else 6
    one = np.int32(1) if given in (*_TORCH_INTEGERS, _TORCH_BOOL) else np.float32(1)
    if isinstance(size, list | tuple):
        parts = [mb.expand_dims(x=part, axes=[0]) if not part.shape else part for part in size]
        size = mb.concat(values=parts, axis=0) if parts else None
    if size is None or tuple(size.shape) == (0,):
        filled = mb.const(val=one)
    else:
        filled = mb.fill(shape=mb.cast(x=size, dtype="int32"), value=one)
    dtype = "bool" if given == _TORCH_BOOL else None
    result = mb.cast(x=filled, dtype=dtype, name=node.name) if dtype else mb.identity(x=filled, name=node.name)
    context.add(result, node.name)


def group_norm(x: Any, num_groups: int, weight: Any, bias: Any, eps: float) -> Any:
    """Normalize groups of channels, whatever sizes of `x` beside its channels are open."""
    from coremltools.converters.mil import Builder as mb  # noqa: N813

    channels, sizes = x.shape[1], mb.shape(x=x)
    batch = mb.slice_by_size(x=sizes, begin=[0], size=[1])
    groups = np.array([min(num_groups, channels), -1], np.int32)
    grouped = mb.reshape(x=x, shape=mb.concat(values=[batch, groups], axis=0))
    centred = mb.sub(x=grouped, y=mb.reduce_mean(x=grouped, axes=[2], keep_dims=True))
    variance = mb.reduce_mean(x=mb.mul(x=centred, y=centred), axes=[2], keep_dims=True)
    result = mb.reshape(x=mb.real_div(x=centred, y=mb.sqrt(x=mb.add(x=variance, y=eps))), shape=sizes)
    of_channels = [1, channels, *[1] * (len(x.shape) - 2)]
    if weight is not None:
        result = mb.mul(x=result, y=mb.reshape(x=weight, shape=of_channels))
    return result if bias is None else mb.add(x=result, y=mb.reshape(x=bias, shape=of_channels))


def register_tensorflow_operators() -> None:
    """Add to the operators that coremltools translates from TensorFlow."""
    from coremltools.converters.mil import register_tf_op

    correct_select()
    # Keras's exact GELU computes it; coremltools 9 has Erf only.
    register_tf_op(Erfc, override=True)
    # Quantised models clip to bytes, which coremltools 9 does not cast to.
    register_tf_op(Cast, override=True)


def Erfc(context: Any, node: Any) -> None:  # noqa: N802  named after TensorFlow's operator
    """Translate `Erfc(x)` to `1 - Erf(x)`."""
    from coremltools.converters.mil import Builder as mb  # noqa: N813

    x = context[node.inputs[0]]
    context.add(node.name, mb.sub(x=np.float32(1), y=mb.erf(x=x), name=node.name))


_NARROW = {"uint8": (8, 0), "int8": (8, 128), "uint16": (16, 0), "int16": (16, 32768)}
"""Bits, and the distance of the smallest value from zero."""


def Cast(context: Any, node: Any) -> None:  # noqa: N802  named after TensorFlow's operator
    """Translate `Cast`; integers narrower than int32 stay int32, wrapped around to their range."""
    from coremltools.converters.mil import Builder as mb  # noqa: N813
    from coremltools.converters.mil.mil import types

    wanted = types.builtin_to_string(node.attr["DstT"])
    x = context[node.inputs[0]]
    if wanted in _NARROW:
        bits, offset = _NARROW[wanted]
        whole = mb.add(x=mb.cast(x=x, dtype="int32"), y=np.int32(offset))
        wrapped = mb.mod(x=whole, y=np.int32(2**bits))
        result = mb.sub(x=wrapped, y=np.int32(offset), name=node.name)
    else:
        dtype = {"fp64": "fp32", "int64": "int32"}.get(wanted, wanted)
        if dtype not in ("fp16", "fp32", "int32", "bool"):
            raise NotImplementedError(f"Cast: Provided destination type {wanted} not supported.")
        result = mb.cast(x=x, dtype=dtype, name=node.name)
    context.add(node.name, result)
