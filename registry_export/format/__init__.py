"""The contract between the core and a format.

A *format* is one file that knows everything about one way of storing a model: the conversions into
it, how to load it, how to run it, how to describe it. Formats are found through the entry-point group
`registry_export.formats`; the built-in ones come in through the same door.

A format's module imports without its framework. Everything below that takes a path is called inside
a child process in which the format's toolchain has been imported, with a private folder as the
working folder, and without the registry's credentials.

Kinds are what loaders yield and conversions consume, so that eight kinds of file need one conversion:

================== =====================================================================================
kind               the object that `Format.load` returns
================== =====================================================================================
`torch_module`     `torch.nn.Module` in evaluation mode on the CPU, called with the interface's inputs in
                   order, positionally; returns a tuple of tensors in the order of the interface's outputs.
                   Its attribute `wrapped` is the module as its author wrote it.
`exported_program` `torch.export.ExportedProgram`
`torchscript`      `torch.jit.ScriptModule` in evaluation mode
`keras_model`      `keras.Model`
`tf_function`      an object whose `function` is a TensorFlow `ConcreteFunction` that takes the
                   interface's inputs as keyword arguments and returns a dict of outputs by name
`onnx_model`       `pathlib.Path` of an ONNX file
================== =====================================================================================

A third-party format may bring a kind of its own.
"""

from registry_export.format.arrays import Array, Tensors
from registry_export.format.conversion import FIXED_DECISION, Conversion, ConversionRequest, ConversionResult, Convert
from registry_export.format.inside import Held, Inside
from registry_export.format.kinds import (
    EXPORTED_PROGRAM,
    KERAS_MODEL,
    ONNX_MODEL,
    TF_FUNCTION,
    TORCH_MODULE,
    TORCHSCRIPT,
)
from registry_export.format.options import (
    DYNAMIC_DIMENSIONS,
    PRUNING,
    Option,
    dimensions_of,
    precision_option,
    pruning_of,
    quantization_option,
)
from registry_export.format.protocol import RUNTIMES, Format, options_of
from registry_export.format.runner import Intermediate, Runner
from registry_export.format.toolchain import LOWEST_PYTHON, PythonEnvironment, Toolchain
from registry_export.model_setup import NO_SETUP, ModelSetup, Pruning

__all__ = [
    "DYNAMIC_DIMENSIONS",
    "EXPORTED_PROGRAM",
    "FIXED_DECISION",
    "KERAS_MODEL",
    "LOWEST_PYTHON",
    "NO_SETUP",
    "ONNX_MODEL",
    "PRUNING",
    "RUNTIMES",
    "TF_FUNCTION",
    "TORCHSCRIPT",
    "TORCH_MODULE",
    "Array",
    "Conversion",
    "ConversionRequest",
    "ConversionResult",
    "Convert",
    "Format",
    "Held",
    "Inside",
    "Intermediate",
    "ModelSetup",
    "Option",
    "Pruning",
    "PythonEnvironment",
    "Runner",
    "Tensors",
    "Toolchain",
    "dimensions_of",
    "options_of",
    "precision_option",
    "pruning_of",
    "quantization_option",
]
