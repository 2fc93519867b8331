"""Look inside a model, inside a child: a sketch of every tensor of one run, in the order of execution.

Takes and returns plain data. One tensor is held at a time, whatever the model's size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from registry_export.discovery import discover_formats, format_named
from registry_export.errors import RegistryExportError, VerificationError
from registry_export.format import Array, Intermediate, Tensors
from registry_export.inference import Origin, one_line
from registry_export.sketches import Sketch, sketch
from registry_export.tensors import read_tensors

_MOST_TENSORS = 20_000


@dataclass(frozen=True)
class TraceRequest:
    """What the child is given.

    Attributes:
        origin: The source or an export.
        inputs: Folder of the inputs.
        seconds: After so long no further tensor is looked at.
        every_order: See `sketches.sketch`.
    """

    origin: Origin
    inputs: str
    seconds: float
    every_order: bool = False


@dataclass(frozen=True)
class Traced:
    """One tensor of a run.

    Attributes:
        name: Its own.
        module: The module or layer that it belongs to; empty: unknown.
        operator: What made it; empty: unknown.
        after: Positions of the tensors that it was made from.
        sketch: None for what cannot be compared: indices, shapes, masks.
    """

    name: str
    module: str
    operator: str
    after: tuple[int, ...]
    sketch: Sketch | None


@dataclass(frozen=True)
class Trace:
    """One run.

    Attributes:
        tensors: In the order of execution.
        outputs: The run's outputs, by name.
        complete: Whether all of the run was looked at.
        opaque: Why the model cannot be looked into; empty: it was.
    """

    tensors: tuple[Traced, ...] = ()
    outputs: Mapping[str, Sketch] = field(default_factory=dict)
    complete: bool = True
    opaque: str = ""


def trace(arguments: Any) -> Trace:
    """Run a model once and sketch what it computes on the way.

    Raises:
        VerificationError: It cannot be loaded or run.
    """
    request = msgspec.convert(arguments, TraceRequest)
    request.origin.enter()
    format_ = format_named(discover_formats(), request.origin.format)
    inputs = {name: np.array(array) for name, array in read_tensors(Path(request.inputs)).items()}
    try:
        with request.origin.open(format_) as runner:
            outputs = {
                name: sketch(array, request.every_order)
                for name, array in runner.infer(inputs).items()
                if array.dtype.kind == "f"
            }
            look: Callable[[Tensors], Iterator[Intermediate]] | None = getattr(runner, "intermediates", None)
            if look is None:
                return Trace(outputs=outputs, opaque=f"{runner.runtime} does not show what is inside")
            tensors, complete = _traced(look(inputs), request)
            return Trace(tensors, outputs, complete)
    except (RegistryExportError, MemoryError):
        raise
    except Exception as error:
        raise VerificationError(f"The model cannot be looked into: {one_line(error)}") from error


def _traced(found: Iterator[Intermediate], request: TraceRequest) -> tuple[tuple[Traced, ...], bool]:
    ends = time.monotonic() + request.seconds
    places: dict[str, int] = {}
    tensors: list[Traced] = []
    for one in found:
        if time.monotonic() > ends or len(tensors) >= _MOST_TENSORS:
            return tuple(tensors), False
        if one.after is None:
            after = [len(tensors) - 1] if tensors else []
        else:
            after = sorted({places[name] for name in one.after if name in places})
        places[one.name] = len(tensors)
        tensors.append(Traced(one.name, one.module, one.operator, tuple(after), _sketch(one.value, request)))
    return tuple(tensors), True


def _sketch(array: Array | None, request: TraceRequest) -> Sketch | None:
    if array is None or array.dtype.kind != "f" or not array.size:
        return None
    return sketch(array, request.every_order)
