"""What the tests of Core ML run in children, where TensorFlow and coremltools meet."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from registry_export.entities import Interface
from registry_export.format import ConversionRequest


def loaded_modules(arguments: Mapping[str, Any]) -> dict[str, bool]:
    """Say which of the modules named are in memory."""
    return {name: name in sys.modules for name in arguments["names"]}


def convert_keras(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a Keras sample as it is, or as a TensorFlow function; check its numbers, return what its package says."""
    from registry_export_plugins._tensorflow.keras import to_function
    from registry_export_plugins.coreml import CoreML, from_keras_model, from_tf_function
    from registry_export_plugins.keras import Keras
    from tests.unit.plugins.keras_support import reference

    folder = Path(arguments["folder"])
    made = reference(arguments["name"], folder)
    model = Keras().load(made.path, Interface(inputs=()))
    (folder / "work").mkdir()
    output = folder / "model.mlpackage"
    options = {option.name: option.default for option in CoreML.options}
    request = ConversionRequest(options, made.interface, made.sample.inputs(2), folder / "work")
    if arguments["through"] == "tf_function":
        result = from_tf_function(to_function(model, made.interface), output, request)
    else:
        result = from_keras_model(model, output, request)
    with CoreML().open(output, made.interface) as runner:
        made.check(runner)
    description = CoreML().describe(output)
    return {
        "source": [(s.name, s.dtype, s.shape) for s in (*made.interface.inputs, *made.interface.outputs)],
        "package": [
            (s.name, s.dtype, s.shape) for s in (*description.interface.inputs, *description.interface.outputs)
        ],
        "operators": description.details["operators"],
        "ways": [attempt.way for attempt in result.attempts],
        "notes": result.notes,
    }
