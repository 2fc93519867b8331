"""What a model's file holds: tensors, modules, operators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from registry_export.entities.models import Interface


@dataclass(frozen=True)
class TensorContents:
    """One tensor of a file. The statistics are computed in float64 over its finite elements.

    Attributes:
        name: As the file has it.
        shape: Sizes; empty for a scalar.
        dtype: NumPy's name of the element type; the library's own where NumPy has none (`bfloat16`, `int4`).
        size_bytes: As it is stored.
        minimum: Smallest element; None where there is no finite one, or the elements are no numbers, or not readable.
        maximum: Largest element; None likewise.
        mean: None likewise.
        std: Standard deviation of all elements (not of a sample); None likewise.
        nonfinite: How many elements are NaN or infinite.
        same_as: The tensor before it in the file whose memory this one shares; sums count both once.
        sha256: Of its elements; None where they were not read.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    size_bytes: int
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    std: float | None = None
    nonfinite: int = 0
    same_as: str = ""
    sha256: str | None = None


@dataclass(frozen=True)
class ModuleContents:
    """A module, or what the names of its tensors say is one, with all that is below it.

    Attributes:
        path: Its path, as its tensors' names begin; empty for the whole model.
        parameters: As in `Contents`.
        size_bytes: Bytes of its tensors.
        depth: How many modules it is in.
    """

    path: str
    parameters: int
    size_bytes: int
    depth: int


@dataclass(frozen=True)
class Contents:
    """What one model's file, or files, hold.

    Attributes:
        format: The format that read it.
        size_bytes: Of its files.
        tensors: In the file's order; None where the format does not tell them. The first ones of very many.
        tensor_count: Of all of them; None likewise.
        parameters: Elements of those of floats and of integers of up to 8 bits, which stand for floats; wider integers
            are sizes, positions and counters. None likewise.
        tensor_bytes: Bytes of all of them; None likewise.
        modules: The tree of modules in depth-first order, the whole model first.
        operators: How often each operator, layer or call stands in the graph, subgraphs included; None: not told.
        interface: Inputs and outputs; None: not told.
        opset_version: ONNX's opset of the default domain.
        opset_imports: Every opset by domain.
        ir_version: ONNX's.
        format_version: The file's own version of its format, where it has one.
        precision: As in `Description`; empty: not told.
        metadata: What else the file says of itself, by name: its producer, versions of frameworks, its author's words.
        unsaid: What the file does not tell, or could not be read, and why: a sentence each.
    """

    format: str
    size_bytes: int
    tensors: tuple[TensorContents, ...] | None = None
    tensor_count: int | None = None
    parameters: int | None = None
    tensor_bytes: int | None = None
    modules: tuple[ModuleContents, ...] = ()
    operators: Mapping[str, int] | None = None
    interface: Interface | None = None
    opset_version: int | None = None
    opset_imports: Mapping[str, int] = field(default_factory=dict)
    ir_version: int | None = None
    format_version: str | None = None
    precision: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    unsaid: tuple[str, ...] = ()


@dataclass(frozen=True)
class TensorContrast:
    """A tensor that two models do not have in common.

    Attributes:
        name: In the first model; of one that was added, in the second.
        change: `added`, `removed`, `changed`, or `renamed` where the same elements have another name.
        shape: In the first model; None for one that was added.
        other_shape: In the second; None for one that was removed.
        dtype: In the first model; empty for one that was added.
        other_dtype: In the second; empty for one that was removed.
        max_abs_diff: Of one that has the same shape in both, in float64; None where that cannot be told.
        other_name: Of a renamed one, its name in the second.
    """

    name: str
    change: str
    shape: tuple[int, ...] | None = None
    other_shape: tuple[int, ...] | None = None
    dtype: str = ""
    other_dtype: str = ""
    max_abs_diff: float | None = None
    other_name: str = ""


@dataclass(frozen=True)
class Contrast:
    """What two models differ in.

    Attributes:
        one: The first model.
        other: The second.
        same: Whether nothing below is.
        facts: Name -> what it is in the first, and in the second; empty where one does not tell it.
        operators: Name -> how many the first has, and the second.
        tensors: Those that differ, in the first model's order, then the added ones.
        equal_tensors: How many have one name, one shape and the same elements in both.
        unsaid: What could not be compared, and why: a sentence each.
    """

    one: str
    other: str
    same: bool
    facts: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    operators: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    tensors: tuple[TensorContrast, ...] = ()
    equal_tensors: int = 0
    unsaid: tuple[str, ...] = ()
