"""Which TensorRT is here, and what it says while it works."""

from __future__ import annotations

import functools
import importlib
from importlib.util import find_spec
from typing import Any

MODULE = "tensorrt" if find_spec("tensorrt") is not None else "tensorrt_rtx"
"""What is used: what the user installed from NVIDIA, else what the extra installs."""

PRODUCTS = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}


def tensorrt() -> Any:
    """Return the module."""
    return importlib.import_module(MODULE)


def product() -> str:
    """Name what is here with its version (`TensorRT-RTX 1.7.1.116`)."""
    return f"{PRODUCTS[MODULE]} {tensorrt().__version__}"


@functools.cache
def log() -> Any:
    """Return the logger, one for the process: TensorRT keeps the first that it is given.

    Its attribute `lines` holds warnings and errors since it was last cleared.
    """
    trt = tensorrt()

    class Log(trt.ILogger):  # type: ignore[name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.WARNING:
                self.lines.append(message)
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)

        def clear(self) -> None:
            self.lines.clear()
            self.errors.clear()

        def said(self) -> str:
            """Return the last errors in a line."""
            return " ".join(" ".join(self.errors[-2:]).split())[-500:] or "it gave no reason"

    return Log()
