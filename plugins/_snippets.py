"""Words for the few lines that show how a format's file is loaded: literals, sizes and arrays in each language.

A snippet's text is a template; `«name»` stands for a value, so that the braces and dollars of all languages are free.
"""

from __future__ import annotations

import json
import keyword
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from textwrap import dedent

from registry_export.entities import Interface, Snippet, TensorSpec

_SMALL, _IMAGE = 8, 64
_IMAGE_RANK = 4
_RESERVED = frozenset(
    [
        "in",
        "out",
        "val",
        "var",
        "fun",
        "let",
        "func",
        "int",
        "float",
        "double",
        "char",
        "bool",
        "auto",
        "new",
        "delete",
        "env",
        "model",
        "module",
        "outputs",
    ]
)
_CPP = {"float32": "float", "float64": "double", "bool": "bool"}
_WIDTH = 88


def snippet(language: str, runtime: str, template: str, **values: str) -> Snippet:
    """Fill a template in; a value of several lines keeps the indentation of its place.

    Args:
        language: As people write it.
        runtime: What has to be installed for it.
        template: The code.
        values: What stands for `«name»`.
    """
    code = dedent(template).strip("\n")
    for name, value in values.items():
        code = re.sub(
            rf"^([ \t]*)(.*?)«{name}»",
            lambda found, value=value: found[1] + found[2] + value.replace("\n", f"\n{found[1]}"),  # type: ignore[misc]
            code,
            flags=re.MULTILINE,
        )
    return Snippet(language, runtime, code)


def quoted(text: str, language: str = "Python") -> str:
    """Write a string literal."""
    literal = json.dumps(re.sub(r"[\x00-\x1f\x7f]", " ", text), ensure_ascii=False)
    return literal.replace("$", "\\$") if language == "Kotlin" else literal


def variables(specs: Iterable[TensorSpec]) -> list[str]:
    """Make a distinct variable of each tensor's name, which every language takes."""
    made: list[str] = []
    for spec in specs:
        name = re.sub(r"[^0-9A-Za-z_]", "_", spec.name) or "x"
        name = name if name[0].isalpha() else f"x_{name}"
        name += "_" * (keyword.iskeyword(name) or name in _RESERVED)
        made.append(name if name not in made else f"{name}_{len(made)}")
    return made


def sizes(spec: TensorSpec) -> tuple[int, ...]:
    """Return sizes to call with: a batch of one, and for other open sizes something that a model can take."""
    shape = spec.shape or ()
    free = _IMAGE if len(shape) >= _IMAGE_RANK else _SMALL
    return tuple(size if isinstance(size, int) else free if axis else 1 for axis, size in enumerate(shape))


def listed(numbers: Sequence[int], separator: str = ", ") -> str:
    """Write sizes: `1, 3, 8, 8`, or with another separator `1 * 3 * 8 * 8`; `1` for the product of none."""
    return separator.join(map(str, numbers)) or ("1" if separator != ", " else "")


def count(spec: TensorSpec) -> int:
    """Count the elements of a tensor of these sizes."""
    return math.prod(sizes(spec))


def zeros(spec: TensorSpec, dtype: str = "") -> str:
    """Write an array for an input in Python; `dtype` is an expression in the place of NumPy's own name."""
    own = {"": "np.float32", "bool": "bool", "bfloat16": "ml_dtypes.bfloat16"}.get(spec.dtype, f"np.{spec.dtype}")
    return f"np.zeros({sizes(spec)}, {dtype or own})"


def tensor(spec: TensorSpec) -> str:
    """Write a tensor of PyTorch's for an input."""
    return f"torch.zeros({sizes(spec)}, dtype=torch.{spec.dtype or 'float32'})"


def tf_zeros(spec: TensorSpec) -> str:
    """Write a tensor of TensorFlow's for an input."""
    return f"tf.zeros({sizes(spec)}, tf.{spec.dtype or 'float32'})"


def without_batch(spec: TensorSpec) -> TensorSpec:
    """Leave the first of several axes out."""
    return replace(spec, shape=spec.shape[1:]) if spec.shape and len(spec.shape) > 1 else spec


def item_bytes(spec: TensorSpec) -> int:
    """Return the bytes of one element."""
    bits = re.search(r"\d+$", spec.dtype)
    return int(bits[0]) // 8 if bits else 1 if spec.dtype == "bool" else 4


def arrays(interface: Interface, names: Sequence[str] = (), make: Callable[[TensorSpec], str] = zeros) -> str:
    """Write a dict of all inputs in Python, by the names of the interface or by those given."""
    called = names or [spec.name for spec in interface.inputs]
    items = [f"{quoted(name)}: {make(spec)}" for name, spec in zip(called, interface.inputs, strict=True)]
    return in_lines("{", items, "}")


def in_a_row(interface: Interface, make: Callable[[TensorSpec], str] = zeros) -> str:
    """Write all inputs as arguments in Python, in order."""
    return ", ".join(make(spec) for spec in interface.inputs)


def names_of(specs: Iterable[TensorSpec], language: str = "Python") -> str:
    """Write the names of tensors as literals with commas between them."""
    return ", ".join(quoted(spec.name, language) for spec in specs)


def each(specs: Sequence[TensorSpec], line: Callable[[int, str, TensorSpec], str]) -> str:
    """Write one line, or a few, for each tensor: from its position, its variable and itself."""
    return "\n".join(line(i, name, spec) for i, (name, spec) in enumerate(zip(variables(specs), specs, strict=True)))


def cpp_type(spec: TensorSpec) -> str:
    """Name an element type in C++."""
    return _CPP.get(spec.dtype, f"{spec.dtype}_t" if re.fullmatch(r"u?int\d+", spec.dtype) else "float")


def in_lines(begin: str, items: Sequence[str], end: str) -> str:
    """Write items between brackets: on one line, or each on its own where that would be long."""
    line = begin + ", ".join(items) + end
    return line if len(line) <= _WIDTH else "\n    ".join([begin, *(f"{item}," for item in items)]) + f"\n{end}"
