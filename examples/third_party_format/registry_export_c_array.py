"""The format `c_array`: an ONNX model as a C header, to compile into firmware or a single binary.

    #include "model.h"
    ...
    ort->CreateSessionFromArray(env, model_onnx, model_onnx_len, options, &session);

The conversion consumes the kind `onnx_model`. Since every source can become an ONNX model, the plan
leads from each of them to here, and the ONNX file is made once when it is a target too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from registry_export.entities import Description, Dimension, Interface, OptionValue, TensorSpec
from registry_export.errors import UnsupportedModelError, VerificationError
from registry_export.format import (
    DYNAMIC_DIMENSIONS,
    ONNX_MODEL,
    Conversion,
    ConversionRequest,
    ConversionResult,
    Option,
    Runner,
    Tensors,
    Toolchain,
)

TOOLCHAIN = Toolchain(name="c_array", modules=("onnx", "onnxruntime"))
"""Imported once by the parent from which the children below are forked."""

SYMBOL = Option(
    name="symbol",
    type=str,
    default="model_onnx",
    short="{value}",
    help="C name of the array; its length is called <symbol>_len",
)

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ARRAY = re.compile(r"static const unsigned char [A-Za-z_]\w*\[\] = \{([^}]*)\};")
_PER_LINE = 24

_HEADER = """\
/* An ONNX model, written by registry-export. ONNX opset {opset}, {size} bytes. */
#ifndef {guard}
#define {guard}

static const unsigned char {symbol}[] = {{
{numbers}
}};
static const unsigned int {symbol}_len = {size}u;

#endif
"""


def refuse(options: Mapping[str, OptionValue]) -> str:
    """Say why these options cannot be served; the plan shows the sentence before anything is run."""
    symbol = str(options["symbol"])
    return "" if _IDENTIFIER.fullmatch(symbol) else f"the symbol {symbol!r} is not a C identifier"


def from_onnx_model(model: Path, output: Path, request: ConversionRequest) -> ConversionResult:
    """Write the model's bytes as a C array.

    Raises:
        UnsupportedModelError: The model is too large for one protobuf message.
    """
    import onnx

    loaded = onnx.load(model)  # weights in a second file come in here: the header must stand alone
    try:
        content = loaded.SerializeToString()
    except ValueError as error:
        raise UnsupportedModelError("The model has 2 GB or more, which one array cannot hold.") from error
    symbol = str(request.options["symbol"])
    lines = (content[at : at + _PER_LINE] for at in range(0, len(content), _PER_LINE))
    text = _HEADER.format(
        opset=_opset_imports(loaded)["ai.onnx"],
        guard=f"{symbol.upper()}_H",
        symbol=symbol,
        size=len(content),
        numbers="\n".join(",".join(map(str, line)) + "," for line in lines),
    )
    output.write_text(text, encoding="ascii")
    return ConversionResult()


def read_header(path: Path) -> bytes:
    """Return the model's bytes from a header that `from_onnx_model` wrote.

    Raises:
        VerificationError: There is no array in the file.
    """
    found = _ARRAY.search(path.read_text(encoding="ascii"))
    if found is None:
        raise VerificationError(f"{path.name} holds no array of unsigned char.")
    return bytes(int(number) for number in found[1].replace("\n", "").split(",") if number)


class CArray:
    """The format `c_array`; see `registry_export.format.Format` for what its members mean."""

    name = "c_array"
    summary = "ONNX model as a C header, to compile into a program"
    extra = ""  # an extra of registry-export; this package brings its own requirements
    requirements = ("onnx", "onnxruntime")
    toolchain = TOOLCHAIN
    kind = ""  # nothing is converted from a header
    filename = "model.h"
    options = (SYMBOL, DYNAMIC_DIMENSIONS)
    conversions = (Conversion(ONNX_MODEL, from_onnx_model, TOOLCHAIN, cost=0.5, accepts=refuse),)
    verified_by = "ONNX Runtime on the CPU, from the bytes in the header"

    def locate(self, folder: Path, flavors: Mapping[str, Mapping[str, Any]]) -> Path | None:
        """Return None: nobody logs a header as a model."""
        return None

    def load(self, path: Path, interface: Interface) -> Path:
        """Return the file's path; nothing is converted from it."""
        return path

    @contextmanager
    def open(self, path: Path, interface: Interface) -> Iterator[Runner]:
        """Run what the compiler would see: the bytes in the header, not the ONNX file they came from."""
        yield _Session(read_header(path))

    def describe(self, path: Path) -> Description:
        """Read the model's own account of itself out of the header."""
        import onnx

        model = onnx.load_from_string(read_header(path))
        imports = _opset_imports(model)
        return Description(
            interface=_interface(model),
            opset_version=imports["ai.onnx"],
            opset_imports=imports,
            ir_version=model.ir_version,
            precision=_precision(model),
        )


class _Session:
    """A runner: an ONNX Runtime session on bytes in memory."""

    def __init__(self, content: bytes) -> None:
        import onnx
        import onnxruntime

        self._session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        self.interface = _interface(onnx.load_from_string(content))
        self.runtime = f"onnxruntime {onnxruntime.__version__}"

    def infer(self, inputs: Tensors) -> dict[str, Any]:
        names = [spec.name for spec in self.interface.outputs]
        return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))


def _opset_imports(model: Any) -> dict[str, int]:
    return {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}


def _interface(model: Any) -> Interface:
    weights = {tensor.name for tensor in model.graph.initializer}  # old models list them among the inputs
    inputs = [value for value in model.graph.input if value.name not in weights]
    return Interface(tuple(map(_spec, inputs)), tuple(map(_spec, model.graph.output)))


def _spec(value: Any) -> TensorSpec:
    from onnx.helper import tensor_dtype_to_np_dtype

    tensor = value.type.tensor_type
    shape: tuple[Dimension, ...] | None = None
    if tensor.HasField("shape"):
        shape = tuple(
            axis.dim_value if axis.HasField("dim_value") else axis.dim_param or f"{value.name}_{position}"
            for position, axis in enumerate(tensor.shape.dim)
        )
    return TensorSpec(value.name, str(tensor_dtype_to_np_dtype(tensor.elem_type).name), shape)


def _precision(model: Any) -> str:
    from onnx import TensorProto

    if any(node.op_type == "DequantizeLinear" for node in model.graph.node):
        return "int8"
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    return "fp16" if TensorProto.FLOAT16 in kinds else "bf16" if TensorProto.BFLOAT16 in kinds else "fp32"
