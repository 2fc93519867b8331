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

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from registry_export.entities import Attempt, Description, Interface, OptionValue
from registry_export.errors import ConfigurationError
from registry_export.model_setup import NO_SETUP as NO_SETUP
from registry_export.model_setup import PRUNING as _PRUNING
from registry_export.model_setup import ModelSetup as ModelSetup
from registry_export.model_setup import Pruning as Pruning

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


RUNTIMES = ("onnxruntime", "ios", "macos", "openvino", "executorch", "tflite")
"""The runtimes of which a rule or `plan --runtime` may name the oldest version in use."""

LOWEST_PYTHON = (3, 11)
"""The oldest Python that runs our own modules, which every child imports."""


@dataclass(frozen=True)
class PythonEnvironment:
    """Packages that cannot share our environment, and the Python that they need.

    A toolchain that declares one runs in it: uv creates it on first need and keeps it for all that ask
    for the same. Its children find our packages and every package with formats there, so the modules of
    such a format must import without the packages of our environment, NumPy apart.

    Attributes:
        python: The version, as `3.11` or `3.11.9`; uv fetches one that is not installed.
        requirements: As pip takes them (`mxnet==1.9.1`); pin them, or the environment is not the same everywhere.

    Raises:
        ConfigurationError: The version is none, or older than what our own modules need.
    """

    python: str
    requirements: tuple[str, ...]

    def __post_init__(self) -> None:
        numbers = self.python.split(".")
        lowest = ".".join(map(str, LOWEST_PYTHON))
        if not 2 <= len(numbers) <= 3 or not all(number.isdecimal() for number in numbers):
            raise ConfigurationError(f"{self.python!r} is no version of Python.", remedy=f"Write {lowest!r}.")
        if tuple(map(int, numbers[:2])) < LOWEST_PYTHON:
            raise ConfigurationError(
                f"An environment with Python {self.python} cannot run registry-export's children: "
                f"they need {lowest} or newer.",
                remedy="Call the older Python as a program from the conversion instead.",
            )


@dataclass(frozen=True)
class Toolchain:
    """Modules that a child needs; children that share a toolchain are forked from one warm parent.

    Attributes:
        name: What the parent is called in logs.
        modules: Imported by the parent before any checkpoint is near, in this order.
        environment: Environment variables that must be set before the imports.
        python: The environment of its own that it needs; None: it runs in ours. A format whose toolchain
            has one names `uv` among its requirements, and of the rest only what is needed in ours.
        fallback: Used instead where this one cannot be started, with a warning; a format that declares it
            tells by `sys.modules` where it runs.
        late: Modules that conversions and runners import late: the parent has them before. One that cannot be imported
            there is left to the child that needs it.
        exercise: `package.module:name` of a function without arguments that the parent calls after all imports, so
            that no child pays for what a framework does at its first use. It must leave no thread behind: none
            survives a fork, and a child waits for ever for a pool that is gone. Empty: there is none.
        resource: What a machine should have for it, as Dask workers name it: `cuda`, `macos`. On a cluster its steps
            go to a worker that has it where there is one; elsewhere the format itself says what is missing.
    """

    name: str
    modules: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    python: PythonEnvironment | None = None
    fallback: Toolchain | None = None
    late: tuple[str, ...] = ()
    exercise: str = ""
    resource: str = ""


@dataclass(frozen=True)
class Option:
    """One option of a target.

    Attributes:
        name: As a user types it.
        type: `int`, `float`, `bool`, `str`, or `dict` (`dynamic_dimensions`, and what has `parts`).
        default: Used when the user says nothing; None means that the format decides.
        short: The option's short form in a variant, with `{value}` for the value (`opset{value}`).
        choices: The only values allowed; empty for any.
        minimum: Smallest number allowed.
        maximum: Largest number allowed.
        help: One line for `registry-export formats`.
        code: Whether the value names code, as `package.module:NAME` or by a file's path: what is exported
            depends on its content too.
        parts: Of a mapping with fixed keys, what each of them is; all of them must be given.
    """

    name: str
    type: type
    default: OptionValue
    short: str
    choices: tuple[OptionValue, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    help: str = ""
    code: bool = False
    parts: tuple[Option, ...] = ()


DYNAMIC_DIMENSIONS = Option(
    name="dynamic_dimensions",
    type=dict,
    default=None,
    short="dyn-{value}",
    help="input name -> axes that may vary, beyond the batch and what the signature says",
)
"""The option that every format with dynamic shapes declares, so that it reads the same everywhere."""


def dimensions_of(options: Mapping[str, OptionValue]) -> dict[str, Mapping[str, str]]:
    """Return the dimensions that a target's options ask to be dynamic: input name -> axis -> name."""
    asked = options.get(DYNAMIC_DIMENSIONS.name)
    pairs = asked.items() if isinstance(asked, Mapping) else ()
    return {name: axes for name, axes in pairs if isinstance(axes, Mapping)}


PRUNING = Option(
    name=_PRUNING,
    type=dict,
    default=None,
    short="{value}",
    help="of a PyTorch checkpoint: the share of its weights that is made zero before the export",
    parts=(
        Option("method", str, None, "{value}", ("l1_unstructured", "ln_structured", "global")),
        Option("amount", float, None, "{value}", minimum=0.01, maximum=0.99),
    ),
)
"""What is done to the checkpoint, and not by a format: every target takes it, and none declares it."""


def options_of(format: Format) -> tuple[Option, ...]:  # noqa: A002
    """Return the options of targets of a format: its own, and those that all targets have."""
    return (*format.options, PRUNING) if format.conversions else format.options


def pruning_of(options: Mapping[str, OptionValue]) -> Pruning | None:
    """Return what a target's options ask to be done to the weights; None: nothing."""
    asked = options.get(PRUNING.name)
    return Pruning(str(asked["method"]), float(str(asked["amount"]))) if isinstance(asked, Mapping) else None


def precision_option(*choices: str, default: str = "fp32") -> Option:
    """Declare `precision`, as every format that has several does.

    Args:
        choices: Of `fp32`, `fp16`, `bf16`, `int8`.
        default: The one that a variant does not name.
    """
    return Option("precision", str, default, "{value}", choices, help="of the weights and the arithmetic")


def quantization_option(*choices: str, default: str = "static") -> Option:
    """Declare `quantization`, which says how `precision: int8` is reached; it means nothing with another precision.

    Args:
        choices: Of `static` (activations calibrated on samples), `dynamic` (activations measured at run
            time), `weight_only` (activations stay floats).
        default: The one that a variant does not name.
    """
    return Option("quantization", str, default, "{value}", choices, help="how int8 is reached")


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
        calibration: The rule's samples, or else the model's input example, by name, with all their rows
            on axis 0; may be mapped from disk. Empty where there are neither, only random inputs.
    """

    options: Mapping[str, OptionValue]
    interface: Interface
    samples: Tensors
    work: Path
    calibration: Tensors = field(default_factory=dict)


FIXED_DECISION = "The trace has fixed the decision"
"""How a note begins that says of a file that it has kept one side of a decision on data.

Inputs that take this side alone prove nothing of the other, so the core calls such a file verified never."""


@dataclass(frozen=True)
class ConversionResult:
    """What a conversion says of itself.

    Attributes:
        attempts: What was tried, in order; the last one worked.
        notes: Sentences that a reader of the report should see; see `FIXED_DECISION`.
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
            artifact, or a function of the target's options that returns them (int8 needs an int8 ONNX, say).
        calibrates: Whether it needs real samples to serve these options.
    """

    kind: str
    function: Convert
    toolchain: Toolchain
    cost: float = 1.0
    label: str = ""
    requirements: tuple[str, ...] = ()
    accepts: Callable[[Mapping[str, OptionValue]], str] = lambda _: ""
    intermediate: Mapping[str, OptionValue] | Callable[[Mapping[str, OptionValue]], Mapping[str, OptionValue]] = field(
        default_factory=dict
    )
    calibrates: Callable[[Mapping[str, OptionValue]], bool] = lambda _: False

    def asks(self, options: Mapping[str, OptionValue]) -> Mapping[str, OptionValue]:
        """Return the options asked of the intermediate artifact for a target's options."""
        return self.intermediate(options) if callable(self.intermediate) else self.intermediate


@dataclass(frozen=True)
class Intermediate:
    """One tensor inside a model's run.

    Attributes:
        name: Its name in the file, or what made it, numbered; no two of a run have the same.
        value: None where there is nothing to compare (indices, shapes): it then only links others.
        module: Path of the module or layer that made it, as the model's author knows it; empty: unknown.
        operator: What made it (`relu`, `Conv`); empty: unknown.
        after: Names of those that it was made from; None: of the one before it.
    """

    name: str
    value: Array | None
    module: str = ""
    operator: str = ""
    after: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Held:
    """One tensor that a file holds.

    Attributes:
        name: As the file has it.
        value: Its elements, read when they are asked for; None: they cannot be. What NumPy lacks comes as float32.
        shape: Its sizes; empty where the value is an array, which has them.
        dtype: The element type as it is stored; empty: the value's, which is an array.
        size_bytes: As it is stored; None likewise.
        same_as: The name of a tensor before it with which it shares its memory.
    """

    name: str
    value: Array | Callable[[], Array] | None = None
    shape: tuple[int, ...] = ()
    dtype: str = ""
    size_bytes: int | None = None
    same_as: str = ""


@dataclass(frozen=True)
class Inside:
    """What a file holds, as its format reads it.

    Attributes:
        tensors: One after the other, each usable until the next one is asked for; None: the file does not tell.
        operators: How often each operator, layer or call stands in the graph; None: the file does not tell.
        metadata: What it says of itself beyond what `Format.describe` returns.
        unsaid: Why something is None, or not all of it: a sentence each.
    """

    tensors: Iterable[Held] | None = None
    operators: Mapping[str, int] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    unsaid: tuple[str, ...] = ()


class Runner(Protocol):
    """A loaded model that infers. Used as a context manager's value; usable until that closes.

    A source's runner may have a further attribute `example`: arrays by input name that the checkpoint
    itself recommends, or None. They are used where nobody logged an input example. Another one, `notes`,
    holds sentences on the source for the report. `inside` is true where the model is called by something
    of its author's: a logged example is then that one's, and `example` goes before it. `stand_in` says why
    its answers are not the checkpoint's own, where something else answers in its place: no export is verified
    against it. `variants` holds functions like `infer` by name that compute the same in another way (`float64`,
    `one thread`), from which the source's own noise is measured, and `precision` what it computes in. `decisions`
    maps the place of each decision on data to the sides that it has taken since the model was opened. `sparsity` is
    the share of its parameters that are zero, where it was asked to be pruned.

    An export's runner may have an attribute `by`: `evaluator` where something computes what the format's own
    runtime, which is not here, would; `runtime` where there is none. An `infer` that finds only then that it
    lacks an operator raises `RuntimeAbsentError`.

    Any runner may have a method `intermediates(inputs) -> Iterator[Intermediate]`: it runs the model once more and
    yields every floating tensor that depends on the inputs, in the order of execution, each usable until the next
    one is asked for. It is called for a mismatch, to name the place where an export leaves its source.

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

    A source that can be completed by a rule, or pruned, declares a further attribute `setup`, the names of the
    fields of `ModelSetup` that it heeds; its `load` and `open` then take a `ModelSetup` as third argument, with
    the default `NO_SETUP`.

    A format whose artifacts run on some machines only declares a further method `runs_here(description) ->
    str`: why this machine cannot run an artifact, told from its `Description` alone, or an empty string. It is called
    in a child with the format's `toolchain` and must be quick. A worker finishes the verification of what
    `open` has refused elsewhere with a `RuntimeAbsentError` where `runs_here` has nothing against it.

    A format that is a target may declare a further method `snippets(description) -> Sequence[Snippet]`: how its
    file is loaded and called by its own runtime alone, in the languages that its users write, Python first. It is
    called outside of children, imports no framework, and fills in the names and sizes of the artifact's `Description`.

    A format may declare a further method `needs(options, kind, description) -> tuple[RuntimeNeed, ...]`: which runtimes
    take an artifact that is made with these options from this kind, from which version on; `description` is None
    before it is made. It is called in the supervisor and imports no framework.

    A format may declare a further method `inspect(path) -> Inside`: the tensors, operators and metadata of a
    checkpoint or an artifact, for `registry-export inspect`; without it only what `describe` says is shown. It is
    called in a child with the format's `toolchain`, or that one's `fallback`; no architecture, setup or GPU is needed.

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
