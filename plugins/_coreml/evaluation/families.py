"""All operators: importing this module declares them."""

from __future__ import annotations

from registry_export_plugins._coreml.evaluation import (  # noqa: F401  their import declares
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

__all__ = ["OPERATORS"]
