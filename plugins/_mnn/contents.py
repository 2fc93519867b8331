"""What an MNN file holds: operators by type, and the weights that it stores as plain numbers.

Source: https://github.com/alibaba/MNN/tree/master/schema/default (`MNN.fbs`, `CaffeOp.fbs`, `Tensor.fbs`).
"""

from __future__ import annotations

import math
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np

from registry_export.format import Array, Held, Inside
from registry_export_plugins._mnn.flatbuffer import MnnFile, Stored


def inside(path: Path) -> Inside:
    """Read a file's operators, constants and weights.

    Raises:
        VerificationError: It is no MNN model.
    """
    file = MnnFile(path)
    packed = sum(1 for stored in file.stored() if not stored.dtype)
    unsaid = (
        (f"The elements of {packed} quantized weights: MNN packs them in a form of its own; their bytes are counted.",)
        if packed
        else ()
    )
    return Inside(
        (_held(stored) for stored in file.stored()),
        Counter(file.operator_types()),
        {"converter": file.version},
        unsaid,
    )


def _held(stored: Stored) -> Held:
    if not stored.dtype:
        return Held(stored.name, None, stored.shape, "packed", len(stored.data))
    is_whole = len(stored.data) == math.prod(stored.shape) * np.dtype(stored.dtype).itemsize
    shape = stored.shape if is_whole else (len(stored.data) // np.dtype(stored.dtype).itemsize,)
    return Held(stored.name, partial(_array, stored, shape), shape, stored.dtype, len(stored.data))


def _array(stored: Stored, shape: tuple[int, ...]) -> Array:
    return np.frombuffer(stored.data, stored.dtype, math.prod(shape)).reshape(shape)
