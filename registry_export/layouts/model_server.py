"""OpenVINO Model Server: `<name>/<version>/` with the model's files, and `config.json`.

Source: https://docs.openvino.ai/2025/model-server/ovms_docs_models_repository.html
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from registry_export.errors import ConfigurationError
from registry_export.layouts.served import Served, Server
from registry_export.parsing import json_of, read_bounded

CONFIG = "config.json"
_MODELS = "model_config_list"


def write(served: Served, folder: Path, destination: Path) -> None:
    """Write `<name>/` and `config.json`, which keeps the models and the settings that are in it; see `Server.write`.

    Raises:
        ConfigurationError: There is a `config.json` that is none of the server's.
    """
    config = _with_model(_read(destination / CONFIG), served)
    place = folder / served.name / served.version
    place.mkdir(parents=True)
    for record in served.manifest.files:
        target = place / record.path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(served.files / record.path, target)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json_of(read_bounded(path))
    except FileNotFoundError:
        return {_MODELS: []}
    except ValueError as error:
        raise ConfigurationError(f"{path} is no JSON: {error}.", remedy="Correct it, or move it away.") from error
    models = config.get(_MODELS) if isinstance(config, dict) else None
    if not isinstance(models, list) or not all(isinstance(_entry(model), dict) for model in models):
        raise ConfigurationError(
            f"{path} is no configuration of OpenVINO Model Server: it has no {_MODELS}.",
            remedy="Move it away, or give another --output.",
        )
    return dict(config)


def _entry(model: Any) -> Any:
    return model.get("config") if isinstance(model, dict) else None


def _with_model(config: dict[str, Any], served: Served) -> dict[str, Any]:
    """Add the model, or keep its settings; its path is relative to the file, so that both can be moved together."""
    entries = [_entry(model) for model in config[_MODELS]]
    entry = next((entry for entry in entries if entry.get("name") == served.name), None)
    if entry is None:
        entry = {"name": served.name}
        config[_MODELS].append({"config": entry})
    entry["base_path"] = served.name
    return config


MODEL_SERVER = Server(
    "openvino-model-server",
    ("openvino", "onnx", "tflite"),
    write,
    "docker run --rm -p 8000:8000 -v {folder}:{mount} openvino/model_server --config_path {mount}/config.json "
    "--rest_port 8000",
    config=CONFIG,
)
