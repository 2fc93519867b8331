"""Imports TensorFlow and Keras as if nothing else were installed.

Keras imports pandas (and with it pyarrow, whose allocator has a thread), matplotlib and scikit-learn where it finds
them, for plots, data frames and wrappers that no conversion needs; TensorFlow Lite imports JAX, for functions of
JAX's. That is a third of the time and 100 MB. All of them can still be imported afterwards.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec

from registry_export_plugins._hidden import hidden

with hidden("pandas", "pyarrow", "matplotlib", "sklearn", "jax"):
    for _module in ("tensorflow", "keras"):
        if find_spec(_module) is not None:
            importlib.import_module(_module)
