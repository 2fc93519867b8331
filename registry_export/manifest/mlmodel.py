"""The `MLmodel` file that lets MLflow load and serve an artifact."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from registry_export.discovery import discover_formats, format_named
from registry_export.entities import ExportReport, FileRecord, Interface, TargetResult, TensorSpec
from registry_export.manifest.bundle import SIGNATURE
from registry_export.manifest.files import sha256_of
from registry_export.manifest.record import BESIDE, Manifest, make_manifest, write_manifest
from registry_export.manifest.signature import Signer

if TYPE_CHECKING:
    from registry_export.registry import ModelFiles

LOADER_MODULE = "registry_export.pyfunc"

_BUILT_IN = 1
"""`numpy.dtype.isbuiltin` of the types that NumPy itself has."""


_TEXT = ("str", "bytes", "datetime64[ns]")
"""Dtypes of columns that a pipeline's processors turn into numbers."""


def write_artifact(
    folder: Path, report: ExportReport, result: TargetResult, source: ModelFiles, signer: Signer | None = None
) -> Manifest:
    """Write everything that stands beside the model files: `manifest.json`, what MLflow reads, and the signature.

    Args:
        folder: Holds the model files.
        report: The export that made them.
        result: Which of the report's targets they are.
        source: The source's own account; the export takes its signature, and so the very calls that it takes,
            where that is the model's own.
        signer: Signs all of it; None: nobody does, and a signature of before is taken away.

    Raises:
        ArtifactError: The format's file is not there, or a link is among the files.
    """
    manifest = make_manifest(folder, report, result)
    extra = format_named(discover_formats(), result.format).extra
    write_mlmodel(folder, manifest, extra=extra, signature=_signature(source, manifest.interface))
    beside = tuple(FileRecord(name, sha256_of(folder / name), (folder / name).stat().st_size) for name in BESIDE)
    manifest = replace(manifest, beside=beside)
    write_manifest(folder, manifest)
    (folder / SIGNATURE).unlink(missing_ok=True)
    if signer is not None:
        signer.sign(folder, manifest)
    return manifest


def _signature(source: ModelFiles, interface: Interface) -> Mapping[str, Any] | None:
    """Take over a source's signature where it is that of the model itself: a pipeline's or a function's is not.

    A wrapper takes what the model takes, and may return something else; and who logs a model may call its outputs
    what they are not called (a Keras model's `output_0`).
    """
    declared = source.interface
    if declared is None or source.signature is None or not _fit(declared.inputs, interface.inputs):
        return None
    named = len(interface.outputs) == 1 or {s.name for s in declared.outputs} == {s.name for s in interface.outputs}
    same = named and [spec.dtype for spec in declared.outputs] == [spec.dtype for spec in interface.outputs]
    if same and _fit(declared.outputs, interface.outputs):
        return source.signature
    return {**source.signature, "outputs": (signature_of(interface) or {}).get("outputs")}


def _fit(declared: Sequence[TensorSpec], own: Sequence[TensorSpec]) -> bool:
    return len(declared) == len(own) and all(_same_kind(d, o) for d, o in zip(declared, own, strict=True))


def _same_kind(declared: TensorSpec, own: TensorSpec) -> bool:
    if (declared.dtype in _TEXT) != (own.dtype in _TEXT):
        return False
    if declared.shape is None or own.shape is None:
        return True
    pairs = zip(declared.shape, own.shape, strict=False)
    fixed = [(d, o) for d, o in pairs if isinstance(d, int) and isinstance(o, int)]
    return len(declared.shape) == len(own.shape) and all(d == o for d, o in fixed)


def write_mlmodel(
    folder: Path, manifest: Manifest, *, extra: str = "", signature: Mapping[str, Any] | None = None
) -> None:
    """Write `MLmodel` for `mlflow.pyfunc.load_model` and `mlflow models serve`, with its environment.

    Args:
        folder: The artifact's folder.
        manifest: Its manifest.
        extra: The extra of registry-export that brings the runtime.
        signature: The source's own signature; without one it is made from the manifest's interface.
    """
    environment = {"virtualenv": "python_env.yaml"}
    python = platform.python_version()
    document: dict[str, Any] = {
        "flavors": {
            "python_function": {"loader_module": LOADER_MODULE, "python_version": python, "env": environment},
        },
        "mlflow_version": importlib.metadata.version("mlflow"),
        "model_uuid": uuid.uuid4().hex,
        "utc_time_created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f"),
        "metadata": {"registry_export": {"model_version": manifest.model_version.uri, "variant": manifest.variant}},
    }
    chosen = signature or signature_of(manifest.interface)
    if chosen:
        document["signature"] = dict(chosen)
    (folder / "MLmodel").write_text(yaml.safe_dump(document, sort_keys=True), encoding="utf-8")
    package = f"registry-export[{extra}]" if extra else "registry-export"
    version = importlib.metadata.version("registry-export")
    mlflow_version = document["mlflow_version"]
    (folder / "requirements.txt").write_text(f"mlflow=={mlflow_version}\n{package}=={version}\n", encoding="utf-8")
    # A full path of the file is made by MLflow: it looks beside MLmodel.
    environment_file = {"python": python, "build_dependencies": ["pip"], "dependencies": ["-r requirements.txt"]}
    (folder / "python_env.yaml").write_text(yaml.safe_dump(environment_file), encoding="utf-8")


def signature_of(interface: Interface) -> dict[str, Any] | None:
    """Make MLflow's tensor-based signature; a dynamic dimension is -1.

    A single tensor has no name in it, so that a plain array is accepted, as MLflow's own flavors do.

    Returns:
        None where MLflow cannot express it: a dtype that NumPy does not have, or an unknown rank.
    """
    if not interface.inputs or not all(map(_expressible, (*interface.inputs, *interface.outputs))):
        return None
    outputs = _schema(interface.outputs) if interface.outputs else None
    return {"inputs": _schema(interface.inputs), "outputs": outputs, "params": None}


def _schema(specs: Sequence[TensorSpec]) -> str:
    fields: list[dict[str, Any]] = []
    for spec in specs:
        shape = [size if isinstance(size, int) else -1 for size in spec.shape or ()]
        field: dict[str, Any] = {"type": "tensor", "tensor-spec": {"dtype": spec.dtype, "shape": shape}}
        fields.append(field if len(specs) == 1 else {"name": spec.name, **field})
    return json.dumps(fields)


def _expressible(spec: TensorSpec) -> bool:
    try:
        own = np.dtype(spec.dtype).isbuiltin == _BUILT_IN  # packages add types, bfloat16 say, that MLflow has not
    except TypeError:
        return False
    return own and spec.shape is not None and bool(spec.dtype)
