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

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from registry_export.entities import Attempt, Description, Interface, OptionValue

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.generic]
    Tensors: TypeAlias = Mapping[str, Array]
else:
    Array = Any
    Tensors = Mapping

TORCH_MODULE = "torch_module"
EXPORTED_PROGRAM = "exported_program"
TORCHSCRIPT = "torchscript"
KERAS_MODEL = "keras_model"
TF_FUNCTION = "tf_function"
ONNX_MODEL = "onnx_model"


@dataclass(frozen=True)
class Toolchain:
    """Modules that a child needs; children that share a toolchain are forked from one warm parent.

    Attributes:
        name: What the parent is called in logs.
        modules: Imported by the parent before any checkpoint is near, in this order.
        environment: Environment variables that must be set before the imports.
    """

    name: str
    modules: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Option:
    """One option of a target.

    Attributes:
        name: As a user types it.
        type: `int`, `float`, `bool`, `str`, or `dict` (`dynamic_dimensions` only).
        default: Used when the user says nothing; None means that the format decides.
        short: The option's short form in a variant, with `{value}` for the value (`opset{value}`).
        choices: The only values allowed; empty for any.
        minimum: Smallest number allowed.
        maximum: Largest number allowed.
        help: One line for `registry-export formats`.
    """

    name: str
    type: type
    default: OptionValue
    short: str
    choices: tuple[OptionValue, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    help: str = ""


DYNAMIC_DIMENSIONS = Option(
    name="dynamic_dimensions",
    type=dict,
    default=None,
    short="dyn-{value}",
    help="input name -> axes that may vary, beyond the batch and what the signature says",
)
"""The option that every format with dynamic shapes declares, so that it reads the same everywhere."""


@dataclass(frozen=True)
class ConversionRequest:
    """What a conversion is given besides the model.

    Attributes:
        options: The target's options, defaults filled in.
        interface: Inputs and outputs to keep, in order, with the names the source gives them. A
            dimension that stands as a name should be dynamic in the result where the format can;
            equal names are equal sizes.
        samples: Inputs to trace with, by name. A dynamic dimension has size 2 or more here.
        work: An empty private folder for temporary files; the current folder too.
    """

    options: Mapping[str, OptionValue]
    interface: Interface
    samples: Tensors
    work: Path


@dataclass(frozen=True)
class ConversionResult:
    """What a conversion says of itself.

    Attributes:
        attempts: What was tried, in order; the last one worked.
        notes: Sentences that a reader of the report should see.
    """

    attempts: tuple[Attempt, ...] = ()
    notes: tuple[str, ...] = ()


class Convert(Protocol):
    """Write `model` to `output`, in the format that the conversion belongs to.

    Raises:
        UnsupportedModelError: The format cannot express a part of the model; names that part.
        ConversionError: The converter refused, or wrote something that is not valid.
    """

    def __call__(self, model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
        """Convert; the arguments are described on the class."""
        ...


@dataclass(frozen=True)
class Conversion:
    """An edge of the graph of formats: from a kind into the format that declares it.

    Attributes:
        kind: The kind it consumes.
        function: Does it, in a child.
        toolchain: What the child needs, the loader of `kind` included.
        cost: Routes with the smallest sum are tried first; about the seconds it takes on a small model.
        label: Names the edge where one kind has several edges into the same format.
        requirements: Packages needed beyond the format's own, by import name.
        accepts: Says why it cannot serve these options (a sentence), or returns an empty string.
        intermediate: Options asked of the source of this edge when that source is an intermediate
            artifact (int8 needs its ONNX at opset 13 or higher, say).
    """

    kind: str
    function: Convert
    toolchain: Toolchain
    cost: float = 1.0
    label: str = ""
    requirements: tuple[str, ...] = ()
    accepts: Callable[[Mapping[str, OptionValue]], str] = lambda _: ""
    intermediate: Mapping[str, OptionValue] = field(default_factory=dict)


class Runner(Protocol):
    """A loaded model that infers. Used as a context manager's value; usable until that closes.

    Attributes:
        interface: Inputs and outputs by the model's own names, in order. A source whose outputs are
            not known before a call leaves `outputs` empty.
        runtime: What runs it, with its version (`onnxruntime 1.31.0`).
    """

    @property
    def interface(self) -> Interface:
        """Inputs and outputs."""
        ...

    @property
    def runtime(self) -> str:
        """What runs the model, with its version."""
        ...

    def infer(self, inputs: Tensors) -> dict[str, Array]:
        """Run the model once in evaluation mode.

        Args:
            inputs: Arrays by input name, with the dtypes of `interface`.

        Returns:
            Arrays by output name, in order; nested outputs are flattened, a nested name joined by `.`.
        """
        ...


@runtime_checkable
class Format(Protocol):
    """One format. Instances are stateless; the class is called without arguments.

    Attributes:
        name: As a user types it: lower case, digits and underscores.
        summary: One line for `registry-export formats`.
        extra: The extra of `registry-export[...]` that installs what it needs; empty: none needed.
        requirements: Packages needed to load, run and describe it, by import name.
        toolchain: What a child needs for `load`, `open` and `describe`.
        kind: What `load` yields; empty when nothing can be converted from it.
        filename: Name of the deployable file or folder inside the artifact's folder (`model.onnx`).
        options: In the order in which they enter a variant.
        conversions: Edges into this format; empty for a format that is only ever a source.
        verified_by: How an artifact is verified here, for people (`ONNX Runtime on the CPU`).
    """

    name: str
    summary: str
    extra: str
    requirements: tuple[str, ...]
    toolchain: Toolchain
    kind: str
    filename: str
    options: tuple[Option, ...]
    conversions: tuple[Conversion, ...]
    verified_by: str

    def locate(self, folder: Path, flavors: Mapping[str, Mapping[str, Any]]) -> Path | None:
        """Find this format's checkpoint in a downloaded model; runs in the supervisor, imports nothing.

        Args:
            folder: The downloaded model folder.
            flavors: The `flavors` of its MLmodel file; empty for plain files.

        Returns:
            The checkpoint's file or folder, or None when the model is not of this format.
        """
        ...

    def load(self, path: Path, interface: Interface) -> Any:
        """Load a checkpoint or an artifact and return the object that `kind` promises.

        Args:
            path: What `locate` returned, or `filename` inside an artifact's folder.
            interface: A source's declared signature (names may be empty, outputs unknown), or the
                interface that an artifact was made with.
        """
        ...

    def open(self, path: Path, interface: Interface) -> AbstractContextManager[Runner]:
        """Load a checkpoint or an artifact for inference. Arguments as for `load`.

        Raises:
            RuntimeAbsentError: The runtime cannot run it on this machine.
        """
        ...

    def describe(self, path: Path) -> Description:
        """Read an artifact's own account of itself from its file."""
        ...
