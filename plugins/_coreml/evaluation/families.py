"""All operators: importing this module declares them."""

from __future__ import annotations

from registry_export_plugins._coreml.evaluation import (
    activation,
    attention,
    compression,
    convolution,
    cropping,
    detection,
    elementwise,
    gathering,
    linear,
    lists,
    making,
    normalization,
    pooling,
    rearranging,
    recurrent,
    reduction,
    resizing,
    sampling,
    scattering,
    shaping,
    slicing,
    sorting,
)
from registry_export_plugins._coreml.evaluation.registry import OPERATORS

__all__ = ["FAMILIES", "OPERATORS"]

FAMILIES = (
    activation,
    attention,
    compression,
    convolution,
    cropping,
    detection,
    elementwise,
    gathering,
    linear,
    lists,
    making,
    normalization,
    pooling,
    rearranging,
    recurrent,
    reduction,
    resizing,
    sampling,
    scattering,
    shaping,
    slicing,
    sorting,
)
