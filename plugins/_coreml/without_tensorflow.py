"""Imports coremltools as if only PyTorch were installed.

coremltools imports every framework that it finds: with TensorFlow beside PyTorch that is 23 seconds and
1161 MB, without it 8 seconds and 416 MB. A warm parent that will convert PyTorch models lists this module
in place of `coremltools`; the frameworks can still be imported afterwards.
"""

from __future__ import annotations

import importlib
import logging
import sys

_UNUSED = ("tensorflow", "sklearn", "xgboost", "libsvm", "torchao", "executorch", "transformers", "torchaudio")


def _import_coremltools() -> None:
    # Its warnings are of untested versions and of the predictor that only macOS has; nobody can act on them.
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    hidden = [name for name in _UNUSED if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # an import of it fails
    try:
        importlib.import_module("coremltools")
    finally:
        for name in hidden:
            if sys.modules.get(name) is None:
                sys.modules.pop(name, None)


_import_coremltools()
