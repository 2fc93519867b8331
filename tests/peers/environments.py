"""An environment of its own for each peer, made once by uv under `build/peers`."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from registry_export.isolation.environments import find_uv
from registry_export.isolation.indexes import uv_variables

FOLDER = Path("build/peers")
_TORCH = ("torch==2.13.0+cpu", "onnx==1.23.2", "onnxruntime==1.31.1")


@dataclass(frozen=True)
class Environment:
    """What a peer is installed with.

    Attributes:
        requirements: Pinned, the tools that both sides use at our versions where the peer allows it.
        overrides: Requirements of the peer's that cannot be met on a machine without a GPU, and what stands for them.
    """

    requirements: tuple[str, ...]
    overrides: tuple[str, ...] = ()


ENVIRONMENTS: Mapping[str, Environment] = {
    # It imports requests and does not require it.
    "olive": Environment(("olive-ai==0.13.0", "transformers==5.23.0", "requests", "openvino==2026.4.1", *_TORCH)),
    "optimum": Environment(("optimum-onnx[onnxruntime]==0.1.0", "optimum==2.1.0", "transformers==4.57.6", *_TORCH)),
    # TensorRT itself is on NVIDIA's index alone, and both it and ONNX Runtime's CUDA build want a GPU.
    "navigator": Environment(
        ("triton-model-navigator==0.14.0", "transformers==5.23.0", *_TORCH),
        ("tensorrt ; python_version < '3'", "onnxruntime-gpu ; python_version < '3'", "nvidia-modelopt==0.47.0"),
    ),
}


def folder_of(peer: str) -> Path:
    """Return the environment's folder, making it on first need.

    Raises:
        RuntimeError: It could not be made.
    """
    folder = (FOLDER / peer).resolve()
    ready = folder / ".ready"
    environment = ENVIRONMENTS[peer]
    wanted = "\n".join([*environment.requirements, *environment.overrides])
    if ready.is_file() and ready.read_text() == wanted:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    overrides = FOLDER / f"{peer}-overrides.txt"
    overrides.write_text("\n".join(environment.overrides))
    install = ["pip", "install", "--python", str(folder / "bin" / "python"), "--override", str(overrides)]
    for arguments in (["venv", "--python", "3.11", str(folder)], [*install, *environment.requirements]):
        done = subprocess.run(
            [find_uv(), "--quiet", *arguments],
            env={**os.environ, **uv_variables()}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{peer}: {done.stderr[-2000:]}")
    ready.write_text(wanted)
    return folder
