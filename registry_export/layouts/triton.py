"""NVIDIA Triton Inference Server: `<name>/config.pbtxt` and `<name>/<version>/model.*`.

Sources: https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html,
https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from registry_export.entities import Interface, TensorSpec
from registry_export.errors import ArtifactError
from registry_export.layouts.messages import as_text, declare
from registry_export.layouts.served import Served, Server, is_batched, shape_of
from registry_export.manifest import Manifest

_PLATFORMS = {
    "onnx": ("platform", "onnxruntime_onnx", "model.onnx"),
    "torchscript": ("platform", "pytorch_libtorch", "model.pt"),
    "tensorrt": ("platform", "tensorrt_plan", "model.plan"),
    "saved_model": ("platform", "tensorflow_savedmodel", "model.savedmodel"),
    "openvino": ("backend", "openvino", "model.xml"),
}
"""Format -> the key and the word that name its backend, and the file that this looks for."""

_BATCHING = ("onnx", "torchscript", "saved_model")
"""Formats whose backend may choose the batch: an engine has a profile of its own, and OpenVINO's backend fails on any
batch but the largest."""

_TYPES = {
    "bool": "TYPE_BOOL",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "bfloat16": "TYPE_BF16",
    "string": "TYPE_STRING",
    **{f"{sign}int{bits}": f"TYPE_{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}

_WARMUP = "warmup"
"""The folder in which Triton looks for `input_data_file`."""

_POSITIONS = "{side}__{position}"
"""How the PyTorch backend knows tensors: TorchScript has no names for its outputs."""

_MESSAGES = declare(
    "inference",
    {
        "ModelConfig": {
            "name": (1, "string"),
            "platform": (2, "string"),
            "backend": (17, "string"),
            "max_batch_size": (4, "int32"),
            "input": (5, "ModelInput*"),
            "output": (6, "ModelOutput*"),
            "dynamic_batching": (11, "ModelDynamicBatching"),
            "model_warmup": (16, "ModelWarmup*"),
        },
        "ModelInput": {
            "name": (1, "string"),
            "data_type": (2, "DataType"),
            "dims": (4, "int64*"),
            "reshape": (5, "ModelTensorReshape"),
        },
        "ModelOutput": {
            "name": (1, "string"),
            "data_type": (2, "DataType"),
            "dims": (3, "int64*"),
            "reshape": (5, "ModelTensorReshape"),
        },
        "ModelTensorReshape": {"shape": (1, "int64*")},
        "ModelDynamicBatching": {"max_queue_delay_microseconds": (2, "uint64")},
        "ModelWarmup": {"name": (1, "string"), "batch_size": (2, "uint32"), "inputs": (3, "InputsEntry*")},
        "InputsEntry": {"key": (1, "string"), "value": (2, "Input")},
        "Input": {"data_type": (1, "DataType"), "dims": (2, "int64*"), "input_data_file": (5, "string")},
    },
    {
        "DataType": (
            "TYPE_INVALID",
            "TYPE_BOOL",
            *(f"TYPE_UINT{bits}" for bits in (8, 16, 32, 64)),
            *(f"TYPE_INT{bits}" for bits in (8, 16, 32, 64)),
            "TYPE_FP16",
            "TYPE_FP32",
            "TYPE_FP64",
            "TYPE_STRING",
            "TYPE_BF16",
        )
    },
)


def write(served: Served, folder: Path, destination: Path) -> None:  # noqa: ARG001 - nothing of other models is read
    """Write `<name>/`; see `Server.write`.

    Raises:
        ArtifactError: Triton's backend cannot load this very export.
    """
    manifest = served.manifest
    _refuse_other_engines(manifest)
    model = folder / served.name
    place = model / served.version
    place.mkdir(parents=True)
    for record in manifest.files:
        target = place / record.path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(served.files / record.path, target)
    (place / manifest.filename).rename(place / _PLATFORMS[manifest.format][2])
    config = _config(served)
    _write_warmup(served, config, model)
    (model / "config.pbtxt").write_text(as_text(config), encoding="utf-8")


def _refuse_other_engines(manifest: Manifest) -> None:
    builder = manifest.details.get("builder", "")
    if manifest.format == "tensorrt" and "RTX" in builder:
        raise ArtifactError(
            f"Triton loads engines of TensorRT; {manifest.variant} was built by {builder}, whose engines it refuses.",
            remedy="Install NVIDIA's tensorrt where the worker runs and export it again, or lay out onnx.",
        )


def _config(served: Served) -> Any:
    key, word, _ = _PLATFORMS[served.manifest.format]
    config = _MESSAGES["ModelConfig"](name=served.name, **{key: word})
    interface = _named(served.manifest)
    if _rows(served):
        config.max_batch_size = _rows(served)
        config.dynamic_batching.SetInParent()
    for spec in interface.inputs:
        _fill(config.input.add(), spec, batched=bool(config.max_batch_size))
    for spec in interface.outputs:
        _fill(config.output.add(), spec, batched=bool(config.max_batch_size))
    return config


def _rows(served: Served) -> int:
    """How many rows Triton may put together; with 0, which it may not, `dims` have the batch in them."""
    manifest = served.manifest
    return served.max_batch_size if manifest.format in _BATCHING and is_batched(manifest.interface) else 0


def _named(manifest: Manifest) -> Interface:
    """The tensors under the names that the backend knows them by."""
    if manifest.format != "torchscript":
        return manifest.interface
    sides = (("INPUT", manifest.inputs), ("OUTPUT", manifest.outputs))
    named = [
        tuple(
            TensorSpec(_POSITIONS.format(side=side, position=n), spec.dtype, spec.shape) for n, spec in enumerate(specs)
        )
        for side, specs in sides
    ]
    return Interface(*named)


def _fill(tensor: Any, spec: TensorSpec, *, batched: bool) -> None:
    tensor.name = spec.name
    _set_type(tensor, spec)
    dims = shape_of(spec.name, spec.shape, "Triton")[1 if batched else 0 :]
    tensor.dims.extend(dims or (1,))
    if not dims:  # Triton has no tensor without a dimension
        tensor.reshape.SetInParent()


def _set_type(message: Any, spec: TensorSpec) -> None:
    if spec.dtype not in _TYPES:
        raise ArtifactError(f"Triton has no type for {spec.name}, which is {spec.dtype or 'of an unknown type'}.")
    # By number: protocol buffers written in Python, which onnxruntime-extensions asks for, take no names.
    known = message.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_name
    message.data_type = known[_TYPES[spec.dtype]].number


def _write_warmup(served: Served, config: Any, model: Path) -> None:
    """Have the model run once before it is said to be ready; where Triton adds the batch, on the only row."""
    specs = served.manifest.inputs
    if not served.inputs or any(served.inputs[spec.name].dtype.name != spec.dtype for spec in specs):
        return  # of strings and bfloat16 an array's bytes are not what Triton reads
    batched = bool(config.max_batch_size)
    warmup = config.model_warmup.add(name="example", batch_size=1)
    (model / _WARMUP).mkdir()
    names = _named(served.manifest).inputs
    for position, (spec, own) in enumerate(zip(names, served.manifest.inputs, strict=True)):
        array = served.inputs[own.name]
        array = array[0] if batched else array
        file = f"input_{position}.bin"  # a tensor's name may be no file's, or too long for one
        (model / _WARMUP / file).write_bytes(array.tobytes())
        _set_type(warmup.inputs[spec.name], spec)
        warmup.inputs[spec.name].dims.extend(array.shape or (1,))
        warmup.inputs[spec.name].input_data_file = file


TRITON = Server(
    "triton",
    tuple(_PLATFORMS),
    write,
    "docker run --rm -p 8000:8000 -v {folder}:{mount} nvcr.io/nvidia/tritonserver:<release>-py3 "
    "tritonserver --model-repository={mount}",
    {
        "saved_model": "Newer releases of Triton come without the TensorFlow backend.",
        "torchscript": "The PyTorch backend takes a module that returns a tensor or a tuple of tensors. It knows "
        "inputs and outputs by position: INPUT__0, OUTPUT__0.",
    },
)
