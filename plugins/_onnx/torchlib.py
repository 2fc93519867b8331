"""What `torch.onnx.export` reads anew for every export, and which is the same each time: torchlib's functions.

How each of PyTorch's operators is written in ONNX stands in some 500 functions of onnxscript's. The exporter parses the
source of all of them, and their annotations, whenever it is called: two fifths of what a small net takes.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any


def remember_torchlib() -> None:
    """Have this process, and its forks, read each function once; which of them there are is still asked each time.

    It rests on private parts of PyTorch and onnxscript: a release that has not got one of them reads that as ever.
    """
    for keep in (_parsed_source, _signatures):
        with contextlib.suppress(ImportError, AttributeError):
            keep()


def _parsed_source() -> None:
    from onnxscript._internal.values import TracedOnnxFunction

    kept = functools.cached_property(TracedOnnxFunction.function_ir.fget)
    kept.__set_name__(TracedOnnxFunction, "function_ir")
    TracedOnnxFunction.function_ir = kept


def _signatures() -> None:
    """Take a function's signature from where the exporter leaves it, and looks for it too when it writes a call."""
    from torch.onnx._internal.exporter import _schemas

    read = _schemas.op_signature_from_function

    @functools.wraps(read)
    def signature_of(function: Any, *args: Any, **kwargs: Any) -> Any:
        known = getattr(function, "_pt_onnx_signature", None)
        return read(function, *args, **kwargs) if known is None else known

    _schemas.op_signature_from_function = signature_of
