"""What warm parents do once, so that no child pays for what a framework does at its first use.

Each function converts one tiny net with a toolchain's own conversions and reads the files back: this imports what
they import late, fills their registries and compiles what they compile. No thread may be left behind, none survives a
fork: PyTorch computes on one thread meanwhile, and nothing here runs in a runtime that has threads of its own.
"""

from __future__ import annotations

import contextlib
import importlib
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from registry_export.entities import Interface, TensorSpec
from registry_export.format import TORCH_MODULE, ConversionRequest, Format

_INTERFACE = Interface(
    (TensorSpec("image", "float32", ("batch", 1, 8, 8)),), (TensorSpec("scores", "float32", ("batch", 3)),)
)


def torch() -> None:
    """Trace, capture and export to ONNX; run what PyTorch itself runs."""
    from registry_export_plugins.exported_program import ExportedProgram
    from registry_export_plugins.onnx import Onnx
    from registry_export_plugins.torchscript import TorchScript

    _convert(TorchScript(), runs=True)
    _convert(ExportedProgram(), runs=True)
    if find_spec("onnxscript"):
        from registry_export_plugins._onnx.torchlib import remember_torchlib

        remember_torchlib()
    _convert(Onnx())


def coreml() -> None:
    """Convert with coremltools."""
    from registry_export_plugins.coreml import CoreML

    _convert(CoreML())


def _convert(format_: Format, *, runs: bool = False) -> None:
    """Convert a tiny net into a format, where that is installed, and read it back; `runs`: and run it."""
    conversion = next(c for c in format_.conversions if c.kind == TORCH_MODULE)
    if not all(find_spec(name) for name in (*format_.requirements, *conversion.requirements)):
        return
    options = {option.name: option.default for option in format_.options}
    images = np.zeros((2, 1, 8, 8), np.float32)
    with one_thread(), tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("scratch").mkdir()
        output = Path(folder, format_.filename)
        request = ConversionRequest(options, _INTERFACE, {"image": images}, Path(folder, "scratch"))
        conversion.function(_tiny_net(), output, request)
        description = format_.describe(output)
        if runs:
            with format_.open(output, description.interface) as runner:
                runner.infer({spec.name: images for spec in runner.interface.inputs})


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Keep PyTorch, and the watcher over progress bars, from starting threads, which would not survive a fork."""
    import torch

    with contextlib.suppress(ImportError):
        importlib.import_module("tqdm").tqdm.monitor_interval = 0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _tiny_net() -> Any:
    """Return a net of what most image models are made of, as a source's loader yields it."""
    from torch import nn

    from registry_export_plugins._torch.modules import adapt

    stem = (nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    return adapt(nn.Sequential(*stem, *head).eval(), _INTERFACE)
