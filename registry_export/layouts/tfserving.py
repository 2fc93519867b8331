"""TensorFlow Serving: `<name>/<version>/saved_model.pb`, requests to warm up with, and `models.config`.

Sources: https://www.tensorflow.org/tfx/serving/saved_model_warmup, https://www.tensorflow.org/tfx/serving/serving_config
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from registry_export.errors import ConfigurationError
from registry_export.layouts.messages import as_text, declare
from registry_export.layouts.served import Served, Server
from registry_export.layouts.tfrecord import records

CONFIG = "models.config"
_WARMUP = Path("assets.extra", "tf_serving_warmup_requests")
_SIGNATURE = "serving_default"

_TYPES = {
    "float32": 1,
    "float64": 2,
    "int32": 3,
    "uint8": 4,
    "int16": 5,
    "int8": 6,
    "int64": 9,
    "bool": 10,
    "uint16": 17,
    "float16": 19,
    "uint32": 22,
    "uint64": 23,
}
"""`tensorflow.DataType` of what a `TensorProto` may hold as bytes."""

_MESSAGES = declare(
    "tensorflow.serving",
    {
        "PredictionLog": {"predict_log": (6, "PredictLog")},
        "PredictLog": {"request": (1, "PredictRequest")},
        "PredictRequest": {"model_spec": (1, "ModelSpec"), "inputs": (2, "InputsEntry*")},
        "InputsEntry": {"key": (1, "string"), "value": (2, "TensorProto")},
        "ModelSpec": {"name": (1, "string"), "signature_name": (3, "string")},
        "TensorProto": {"dtype": (1, "int32"), "tensor_shape": (2, "TensorShapeProto"), "tensor_content": (4, "bytes")},
        "TensorShapeProto": {"dim": (2, "Dim*")},
        "Dim": {"size": (1, "int64")},
        "ModelServerConfig": {"model_config_list": (1, "ModelConfigList")},
        "ModelConfigList": {"config": (1, "ModelConfig*")},
        "ModelConfig": {"name": (1, "string"), "base_path": (2, "string"), "model_platform": (4, "string")},
    },
)


def write(served: Served, folder: Path, destination: Path) -> None:
    """Write `<name>/` and `models.config`; see `Server.write`.

    Raises:
        ConfigurationError: A `models.config` is there already that holds more than we can keep.
    """
    config = _with_model(_read(destination / CONFIG), served)
    place = folder / served.name / served.version
    place.parent.mkdir(parents=True)
    shutil.move(served.model, place)
    request = _request(served)
    if request is not None:
        (place / _WARMUP).parent.mkdir(exist_ok=True)
        (place / _WARMUP).write_bytes(records([request.SerializeToString()]))
    (folder / CONFIG).write_text(as_text(config), encoding="utf-8")


def _request(served: Served) -> Any:
    """Return the log of a request with the inputs; None where there are none, or of a type that has no bytes."""
    if not served.inputs or not all(array.dtype.name in _TYPES for array in served.inputs.values()):
        return None
    log = _MESSAGES["PredictionLog"]()
    request = log.predict_log.request
    request.model_spec.name, request.model_spec.signature_name = served.name, _SIGNATURE
    for name, array in served.inputs.items():
        tensor = request.inputs[name]
        tensor.dtype, tensor.tensor_content = _TYPES[array.dtype.name], array.tobytes()
        tensor.tensor_shape.SetInParent()
        for size in array.shape:
            tensor.tensor_shape.dim.add(size=size)
    return log


def _read(path: Path) -> Any:
    config = _MESSAGES["ModelServerConfig"]()
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), config)
    except FileNotFoundError:
        return config
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{path} holds more than names and paths of models ({error}), and would lose it.",
            remedy="Move it away, or give another --output, and put the two together by hand.",
        ) from error


def _with_model(config: Any, served: Served) -> Any:
    listed = config.model_config_list.config
    entry = next((entry for entry in listed if entry.name == served.name), None) or listed.add(name=served.name)
    entry.base_path, entry.model_platform = f"{served.mount.rstrip('/')}/{served.name}", "tensorflow"
    return config


TFSERVING = Server(
    "tfserving",
    ("saved_model",),
    write,
    "docker run --rm -p 8501:8501 -v {folder}:{mount} tensorflow/serving --model_config_file={mount}/models.config",
    config=CONFIG,
)
