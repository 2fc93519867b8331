"""coremltools imports every framework that it finds; a converter needs one."""

from __future__ import annotations

import importlib
import logging

from registry_export_plugins._hidden import hidden

_UNUSED = ("sklearn", "xgboost", "libsvm", "torchao", "executorch", "transformers", "torchaudio")


def import_coremltools(*without: str) -> None:
    """Import coremltools as if some frameworks, and what none of its converters needs, were not installed."""
    # Its warnings are of untested versions and of the predictor that only macOS has; nobody can act on them.
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    with hidden(*without, *_UNUSED):
        importlib.import_module("coremltools")
