"""pnnx, the converter: how it is called, what it wrote, and which layers it could not convert.

pnnx leaves what it cannot express in the network under PyTorch's name (`torch.fft_rfft`,
`Tensor.to`, `pnnx.Expression`) and reports success.

Source: https://github.com/pnnx/pnnx, https://github.com/Tencent/ncnn/tree/master/tools/pnnx
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from registry_export.errors import ConversionError, RuntimeAbsentError, UnsupportedModelError
from registry_export_plugins._ncnn.layout import NO_BATCH, layers_of

_TYPES = {
    "float32": "f32",
    "float64": "f64",
    "float16": "f16",
    "bfloat16": "bf16",
    "int64": "i64",
    "int32": "i32",
    "int16": "i16",
    "int8": "i8",
    "uint8": "u8",
    "bool": "bool",
}
_NAME = "model"
_ZEROED = {"MALLOC_PERTURB_": "255"}
"""Makes glibc hand out memory full of zeros. pnnx runs an ONNX model once on inputs that it never filled: an
embedding's integers are then far outside of its table, and it ends with a segmentation fault."""


@dataclass(frozen=True)
class Network:
    """What pnnx wrote.

    Attributes:
        param: The `.param` file; its `.bin` stands beside it.
        inputs: Batch axis of `in0`, `in1`, ..., or `NO_BATCH`.
        outputs: Batch axis of `out0`, `out1`, ..., or `NO_BATCH`.
        remarks: What pnnx said it does not support, and left out or wrote all the same.
    """

    param: Path
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    remarks: tuple[str, ...]


def converter() -> str:
    """Return the name and version of the converter."""
    return f"pnnx {version('pnnx')}"


def run_pnnx(
    model: Path,
    dtypes: Sequence[str],
    shapes: Sequence[Sequence[int]],
    others: Sequence[Sequence[int]] | None,
    *,
    half: bool,
    scopes: Mapping[str, Sequence[str]],
) -> Network:
    """Convert a TorchScript or ONNX file in the folder where it stands.

    Args:
        model: The file; pnnx writes a dozen others beside it.
        dtypes: NumPy's names of the inputs' dtypes.
        shapes: One shape for each input.
        others: A second shape for each: sizes that differ stay open. None fixes every size.
        half: Whether weights are stored as fp16.
        scopes: Operator -> modules that call it, to say where an unsupported one comes from.

    Raises:
        UnsupportedModelError: Layers that ncnn does not have are left; names them.
        ConversionError: pnnx failed.
    """
    command = [_executable(), model.name, f"inputshape={_shapes(dtypes, shapes)}", f"fp16={int(half)}"]
    command += [f"inputshape2={_shapes(dtypes, others)}"] if others is not None else []
    done = subprocess.run(
        command,
        cwd=model.parent,
        env={**os.environ, **_ZEROED},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    param = model.parent / f"{model.stem}.ncnn.param"
    if done.returncode != 0 or not param.is_file() or not param.with_suffix(".bin").is_file():
        raise ConversionError(f"pnnx failed with the exit status {done.returncode}: {_reason(done.stderr)}")
    _refuse_unsupported(param, scopes)
    usage = (model.parent / f"{model.stem}_ncnn.py").read_text()
    return Network(
        param, _batch_axes(usage, r"ex\.input\("), _batch_axes(usage, r"out\.append\("), _remarks(done.stderr)
    )


def _remarks(log: str) -> tuple[str, ...]:
    lines = (line.strip() for line in log.splitlines())
    return tuple(dict.fromkeys(line for line in lines if re.search(r"not supported|unsupported", line)))


def _executable() -> str:
    # The package's __init__ imports torch; the ONNX route needs only the program beside it.
    spec = find_spec("pnnx")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        program = Path(place) / ("pnnx.exe" if sys.platform == "win32" else "pnnx")
        if program.is_file():
            return str(program)
    raise RuntimeAbsentError("The package pnnx has no program for this platform.", remedy="Install pnnx on Linux.")


def _shapes(dtypes: Sequence[str], shapes: Sequence[Sequence[int]]) -> str:
    return ",".join(
        f"[{','.join(map(str, shape))}]{_TYPES[dtype]}" for dtype, shape in zip(dtypes, shapes, strict=True)
    )


def refuse_dtypes(names: Sequence[str], dtypes: Sequence[str]) -> None:
    """Refuse inputs whose dtype pnnx has no word for.

    Raises:
        UnsupportedModelError: Names the input.
    """
    for name, dtype in zip(names, dtypes, strict=True):
        if dtype in ("float16", "float64"):
            raise UnsupportedModelError(
                f"ncnn computes in float32, and the input {name} is {dtype}.",
                remedy="Log the model in float32 (`.float()`); `precision: fp16` is a target's option.",
            )
        if dtype not in _TYPES:
            raise UnsupportedModelError(f"pnnx has no type for the input {name}, which is {dtype}.")


def _batch_axes(usage: str, call: str) -> tuple[int, ...]:
    """Read the batch axes from the example program that pnnx writes; nothing else tells them."""
    lines = [line for line in usage.splitlines() if re.search(call, line)]
    found = [re.search(r"batch_index=(\d+)", line) for line in lines]
    return tuple(int(match[1]) if match else NO_BATCH for match in found)


def _refuse_unsupported(param: Path, scopes: Mapping[str, Sequence[str]]) -> None:
    import ncnn

    unknown = {layer.type: layer.name for layer in layers_of(param) if ncnn.layer_to_index(layer.type) < 0}
    if unknown:
        listed = ", ".join(f"{kind}{_where(kind, name, scopes)}" for kind, name in unknown.items())
        raise UnsupportedModelError(
            f"ncnn has no layer for {listed}.", remedy="Write these operators in others, or export onnx or mnn."
        )


def _where(kind: str, name: str, scopes: Mapping[str, Sequence[str]]) -> str:
    """Say which modules call an operator; pnnx names a layer after its module where it knows it."""
    modules = scopes.get(kind.rpartition(".")[2].lower(), ())
    return f" (in {', '.join(modules)})" if modules else "" if name.startswith(kind) else f" ({name})"


def _reason(text: str) -> str:
    """Return the line of pnnx's log that tells most: an error, else the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip(" #-")]
    lines = [line for line in lines if " = " not in line and not line.startswith("pass_")]
    telling = [line for line in lines if re.search(r"error|what\(\)|not supported|failed|unsupported", line, re.I)]
    return ((telling or lines or ["it said nothing"])[-1])[:300]
