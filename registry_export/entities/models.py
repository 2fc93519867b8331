"""What a model is and what is wanted of it: versions, tensors, interfaces, targets, descriptions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

OptionValue: TypeAlias = str | int | float | bool | Mapping[str, Mapping[str, str] | str | float] | None
"""A target option's value. A mapping is `dynamic_dimensions` (input name -> axis -> dimension name), or that of an
option of several parts (`pruning`: part -> its value)."""

Dimension: TypeAlias = int | str
"""A fixed size, or the name of a dynamic dimension."""


@dataclass(frozen=True)
class ModelVersionRef:
    """A registered model's name and one of its version numbers, as MLflow writes it."""

    name: str
    version: str

    @property
    def uri(self) -> str:
        """The `models:/name/version` URI."""
        return f"models:/{self.name}/{self.version}"

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    Attributes:
        name: The model's own name for it; empty where a signature does not name its only tensor.
        dtype: NumPy's name of the element type (`float32`, `int64`, `bool`, `bfloat16`).
        shape: Sizes; a dynamic dimension stands as its name. None when not even the rank is known.
    """

    name: str
    dtype: str
    shape: tuple[Dimension, ...] | None


@dataclass(frozen=True)
class Interface:
    """The inputs and outputs of a model, in order. `outputs` is empty while they are unknown."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...] = ()


@dataclass(frozen=True)
class Target:
    """A requested format with its options.

    Attributes:
        format: The format's name.
        options: Every option that the format declares, defaults filled in; of those that all formats have, what is
            asked for.
        variant: The slug that names it everywhere: the format and each option that is not its default.
        required: Whether its verdict counts in the version's status.
    """

    format: str
    options: Mapping[str, OptionValue]
    variant: str
    required: bool = True


@dataclass(frozen=True)
class RuntimeNeed:
    """A runtime that takes an artifact, from which version on.

    Attributes:
        runtime: As rules and `plan --runtime` name it (`onnxruntime`, `ios`).
        text: For people: `ONNX Runtime 1.18 or newer (opset 20)`.
        oldest: The oldest version that takes it; empty where that is not one number.
    """

    runtime: str
    text: str
    oldest: str = ""


@dataclass(frozen=True)
class Outline:
    """What a file holds, in sums; `registry-export inspect` tells the rest.

    Attributes:
        tensors: How many; None where the format does not tell them.
        parameters: As in `Contents`; None likewise.
        dtypes: Element type -> bytes of the tensors of that type.
        operators: How often each operator, layer or call stands in the graph, the most frequent first; empty: not told.
    """

    tensors: int | None = None
    parameters: int | None = None
    dtypes: Mapping[str, int] = field(default_factory=dict)
    operators: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Description:
    """What a format reads back from its own file, never from what was requested.

    Attributes:
        interface: Inputs and outputs as the file declares them.
        opset_version: ONNX's opset of the default domain.
        opset_imports: All of ONNX's opsets by domain (the default domain is `ai.onnx`).
        ir_version: ONNX's IR version.
        format_version: The version of the other formats' own file format.
        precision: `fp32`, `fp16`, `bf16` or `int8`.
        details: Further facts worth showing, by name.
        outline: What the file holds, in sums; added by the core, None where that cannot be told.
    """

    interface: Interface
    opset_version: int | None = None
    opset_imports: Mapping[str, int] = field(default_factory=dict)
    ir_version: int | None = None
    format_version: str | None = None
    precision: str = "fp32"
    details: Mapping[str, str] = field(default_factory=dict)
    outline: Outline | None = None


@dataclass(frozen=True)
class Snippet:
    """The few lines that load a format's file and call it, without this package.

    Attributes:
        language: `Python`, `Swift`, `Kotlin`, `C++`.
        runtime: What they need (`ONNX Runtime`).
        code: The lines; the file has the name that it has in the artifact's folder.
    """

    language: str
    runtime: str
    code: str
