"""Imports coremltools as if only PyTorch were installed.

With TensorFlow beside PyTorch that is 23 seconds and 1161 MB, without it 8 seconds and 416 MB. A warm parent that will
convert PyTorch models lists this module in place of `coremltools`; the frameworks can still be imported afterwards.
"""

from registry_export_plugins._coreml.importing import import_coremltools

import_coremltools("tensorflow")
