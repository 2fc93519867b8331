"""ONNX Runtime as a runner."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from registry_export.entities import Dimension, Interface, TensorSpec
from registry_export.errors import RuntimeAbsentError, SourceError, VerificationError
from registry_export.format import Array, Intermediate, Tensors
from registry_export_plugins._inputs import in_order
from registry_export_plugins._onnx.decisions import Decisions
from registry_export_plugins._onnx.files import size_of
from registry_export_plugins._onnx.libraries import library_of, place_to_load
from registry_export_plugins._onnx.opsets import too_large

_DTYPES = {"float": "float32", "double": "float64"}
_ONLY_ERRORS = 3
_SEVERAL = 2
_NOT_REGISTERED = "is not a registered function/op"
_OLDER_FILE = (
    "Lower the file's ir_version (model.ir_version = 13; onnx.save) and log it again, or install a newer onnxruntime."
)
_OTHER_OPERATORS = "Ask for an older opset_version, install a newer onnxruntime, or log the model in float32."
_DAMAGED = "Log the file again: it is none of ONNX's, or damaged."
_REMEDIES = {
    _NOT_REGISTERED: "Give the target custom_ops_library.",
    "External data path does not exist": "Log the model with all of its files.",
    "External initializer": "Log the model with all of its files, whole.",
    "Protobuf parsing failed": _DAMAGED,
    "No graph was found": _DAMAGED,
}
_TOO_NEW = ("under development", "Unsupported model IR version", "NOT_IMPLEMENTED", "Could not find an implementation")


class OnnxRunner:
    """Runs a model on the CPU. A bfloat16 input is given, and an output returned, as float32: NumPy has no bfloat16."""

    def __init__(self, path: Path, interface: Interface) -> None:
        self._path = path
        self._session = open_session(path)
        _refuse_containers(self._session)
        self._decisions = _decisions(path)
        own = session_interface(self._session)
        self._keys = [spec.name for spec in own.inputs]
        self._types = {value.name: value.type for value in self._session.get_inputs()}
        self._names = _names(self._keys, [spec.name for spec in interface.inputs])
        outputs = [spec.name for spec in own.outputs]
        self._outputs = _names(outputs, [spec.name for spec in interface.outputs])
        self._interface = Interface(_under(self._names, own.inputs), _under(self._outputs, own.outputs))

    @property
    def interface(self) -> Interface:
        """Inputs and outputs as the file declares them."""
        return self._interface

    @property
    def runtime(self) -> str:
        """What runs it."""
        return f"onnxruntime {onnxruntime.__version__}"

    def infer(self, inputs: Tensors) -> dict[str, Array]:
        """Run once.

        Raises:
            VerificationError: An input is missing or unknown, or ONNX Runtime fails on them.
        """
        return self._run(inputs, self._session)

    @property
    def decisions(self) -> Mapping[str, set[bool]]:
        """The sides that its `If` nodes have taken, by node."""
        return self._decisions.taken if self._decisions is not None else {}

    @property
    def variants(self) -> Mapping[str, Callable[[Tensors], dict[str, Array]]]:
        """The same model computed another way, by name."""
        if (os.cpu_count() or 1) < _SEVERAL:
            return {}
        session = functools.cache(lambda: open_session(self._path, threads=1))
        return {"one thread": lambda inputs: self._run(inputs, session())}

    def _run(self, inputs: Tensors, session: Any) -> dict[str, Array]:
        feed = self._feed(inputs)
        if self._decisions is not None:
            self._decisions.note(feed)
        try:
            results = session.run_with_ort_values(None, feed)
        except Exception as error:  # its exceptions have no public base class
            raise VerificationError(f"ONNX Runtime fails on these inputs: {_without_place(str(error))}") from error
        return {name: _array(value) for name, value in zip(self._outputs, results, strict=True)}

    def intermediates(self, inputs: Tensors) -> Iterator[Intermediate]:
        """Run once more, unfused, and yield the results of every node."""
        from registry_export_plugins._onnx.intermediates import watched

        return watched(self._path, self._feed(inputs), _array)

    def _feed(self, inputs: Tensors) -> dict[str, Any]:
        arrays = dict(zip(self._names, in_order(inputs, self._interface.inputs), strict=True))
        return {key: self._value(key, arrays[name]) for key, name in zip(self._keys, self._names, strict=True)}

    def _value(self, key: str, array: Array) -> Any:
        array = np.ascontiguousarray(array) if array.ndim else np.array(array)
        if self._types[key] == "tensor(bfloat16)":
            import ml_dtypes

            bits = array.astype(ml_dtypes.bfloat16).view(np.uint16)
            return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, onnx_element_type=16)
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def _decisions(path: Path) -> Decisions | None:
    """Watch a model's decisions; one that cannot be watched (its operators are in a library) runs all the same."""
    try:
        return Decisions(path)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  its exceptions have no public base class
        return None


def _refuse_containers(session: Any) -> None:
    """Refuse what is no tensor.

    Raises:
        SourceError: An input or an output is a sequence, a map or optional.
    """
    for value in (*session.get_inputs(), *session.get_outputs()):
        if not value.type.startswith("tensor("):
            raise SourceError(
                f"{value.name} of the ONNX model is a {value.type}, not a tensor.",
                remedy="Convert the model without it (skl2onnx: options={'zipmap': False}) and log it again.",
            )


def _array(value: Any) -> Array:
    if value.data_type() == "tensor(bfloat16)":
        import ml_dtypes

        bits = np.from_dlpack(value._ortvalue) if hasattr(value._ortvalue, "__dlpack__") else value.numpy()
        return np.asarray(bits).view(ml_dtypes.bfloat16).astype(np.float32)
    array: Array = value.numpy()
    return array


def problem_when_loaded(path: Path) -> str:
    """Load a model and return why that fails; empty when it works, or when it is too new for this ONNX Runtime.

    The weights of one that is too large for a single file stay on the disk: whoever asks has the model that it was
    made from in memory, and another copy may not fit beside it.
    """
    try:
        open_session(path, lean=too_large(size_of(path)))
    except RuntimeAbsentError:
        return ""
    except VerificationError as error:
        return error.message
    return ""


def open_session(path: Path, threads: int = 0, *, lean: bool = False) -> Any:
    """Load a model, with the library of custom operators that its metadata name where it needs one.

    Args:
        path: The model's file.
        threads: How many compute one operator; 0: as many as there are cores.
        lean: Whether weights beside the file stay there: nothing is fused, and nothing laid out anew for speed.

    Raises:
        RuntimeAbsentError: This ONNX Runtime is too old for it.
        VerificationError: It cannot be loaded.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ONLY_ERRORS
    options.intra_op_num_threads = threads
    if os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE":  # its threads wait as OpenMP's do, which it has not
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if lean:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        return _session(path, options)
    except Exception as error:  # its exceptions have no public base class
        text = _without_place(str(error)).replace(f"{path.parent}/", "").replace(str(path.parent), "its folder")
        library = library_of(path) if _NOT_REGISTERED in text else None
        if library is not None:
            return _with_library(path, options, library)
        raise _refusal(text) from error


def _session(path: Path, options: Any) -> Any:
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _with_library(path: Path, options: Any, library: Path) -> Any:
    try:
        options.register_custom_ops_library(place_to_load(library))
        return _session(path, options)
    except Exception as error:  # its exceptions have no public base class
        raise _refusal(_without_place(str(error)).replace(str(path.parent), "").strip("/")) from error


def _refusal(text: str) -> VerificationError:
    if any(sign in text for sign in _TOO_NEW):
        return RuntimeAbsentError(
            f"onnxruntime {onnxruntime.__version__} cannot run this model: {text.rstrip('.')}.",
            remedy=_OLDER_FILE if "IR version" in text else _OTHER_OPERATORS,
        )
    remedy = next((remedy for sign, remedy in _REMEDIES.items() if sign in text), "")
    return VerificationError(f"ONNX Runtime cannot load the model: {text.rstrip('.')}.", remedy=remedy)


def _without_place(text: str) -> str:
    """Cut the C++ function and file out of an error of ONNX Runtime's."""
    for place in (r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", r"/onnxruntime_src/\S+ .*?\) ", r"\w+\.cc:\d+ \w+ "):
        text = re.sub(place, "", text)
    return text.strip()


def session_interface(session: Any) -> Interface:
    """Read inputs and outputs of a session; a dimension without a size and a name is called after its tensor."""
    return Interface(tuple(map(_spec, session.get_inputs())), tuple(map(_spec, session.get_outputs())))


def _spec(value: Any) -> TensorSpec:
    dtype = value.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(_dimension(size, value.name, axis) for axis, size in enumerate(value.shape))
    return TensorSpec(value.name, _DTYPES.get(dtype, dtype), shape)


def _dimension(size: Any, name: str, axis: int) -> Dimension:
    if isinstance(size, int) and size > 0:
        return size
    return size if isinstance(size, str) and size else "batch" if axis == 0 else f"{name}_{axis}"


def _names(own: list[str], wanted: list[str]) -> list[str]:
    """Return the name of each of the file's values: the interface's by position, where the file's are other names."""
    if len(own) != len(wanted) or not all(wanted) or set(own) == set(wanted):
        return own
    return wanted


def _under(names: list[str], specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, spec.dtype, spec.shape) for name, spec in zip(names, specs, strict=True))
