"""Imports coremltools as if only TensorFlow were installed: 7 seconds of computing and 4000 modules less."""

from registry_export_plugins._coreml.importing import import_coremltools

import_coremltools("torch")
