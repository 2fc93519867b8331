"""What arrays are in signatures: NumPy is imported by whoever makes some."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.generic]
    Tensors: TypeAlias = Mapping[str, Array]
else:
    Array = Any
    Tensors = Mapping
