"""Engines run on the GPU that is here, next to PyTorch on the CPU: `make gpu`.

Needs nothing but this checkout's environment and an NVIDIA driver.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from registry_export.config import parse_targets
from registry_export.discovery import discover_formats
from registry_export.entities import ModelVersionRef, Status
from registry_export.errors import VerificationError
from registry_export.export import export_model_version
from registry_export.isolation import ChildPool, Limits
from registry_export.registry import Registry
from registry_export.replay import RUNS_HERE
from registry_export.reverification import reverify_model_version
from registry_export.tolerances import DEFAULT_TOLERANCES
from registry_export_plugins._tensorrt import cuda
from registry_export_plugins._tensorrt.flavour import MODULE
from registry_export_plugins.tensorrt import TensorRT
from tests import models
from tests.support.authors import authors
from tests.support.registered import TORCH
from tests.unit.plugins.tensorrt_support import from_torch
from tests.unit.plugins.torch_support import CASES, Source, dynamic_axes, make_source, spec


def _absent() -> str:
    """Say why nothing can be run here; empty where it can."""
    problem = cuda.problem()
    if problem:
        return problem
    from registry_export_plugins._tensorrt.devices import nameable_devices

    here, named = cuda.compute_capability(), nameable_devices()
    return f"{MODULE} runs on {', '.join(named)}, and the GPU here is {here}" if named and here not in named else ""


pytest.importorskip(MODULE)
ABSENT = _absent()
pytestmark = pytest.mark.skipif(bool(ABSENT), reason=ABSENT)
ENOUGH_SIGNAL = 15.0
"""Decibels."""


class Block(nn.Module):
    """A residual block, halving the image and doubling the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(2 * channels)
        self.second = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(2 * channels)
        self.shortcut = nn.Conv2d(channels, 2 * channels, 1, stride=2)

    def forward(self, x):
        y = self.second_norm(self.second(torch.relu(self.first_norm(self.first(x)))))
        return torch.relu(y + self.shortcut(x))


class SmallResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 7, stride=2, padding=3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.blocks = nn.Sequential(Block(8), Block(16))
        self.head = nn.Linear(32, 10)

    def forward(self, image):
        return self.head(self.blocks(self.stem(image)).mean((2, 3)))


def resnet(folder) -> Source:
    torch.manual_seed(0)
    return make_source(SmallResNet().eval(), (spec("image", "float32", "batch", 3, 64, 64),), folder)


def other(name: str, folder) -> Source:
    case = CASES[name]
    return make_source(models.seeded(case.make()).eval(), case.inputs, folder)


def close(actual, expected, precision: str) -> None:
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    if precision == "int8":
        power, error = np.mean(np.square(expected)), np.mean(np.square(expected - actual))
        assert 10 * np.log10(power / max(error, 1e-30)) >= ENOUGH_SIGNAL
        return
    tolerance = DEFAULT_TOLERANCES[precision]
    np.testing.assert_allclose(actual, expected, atol=tolerance.atol, rtol=tolerance.rtol)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_a_residual_net_computes_what_pytorch_does_at_every_batch(precision, tmp_path):
    source = resnet(tmp_path)
    path, _ = from_torch(source, tmp_path, precision=precision)
    described = TensorRT().describe(path)
    assert described.details["read by"] == "TensorRT"
    assert described.precision == precision
    assert dynamic_axes(described.interface) == {"image": [0]}
    with TensorRT().open(path, source.interface) as runner:
        for inputs, expected in source.runs:
            for name, actual in runner.infer(inputs).items():
                close(actual, expected[name], precision)


@pytest.mark.parametrize("name", ["transformer", "lstm", "two_inputs", "tuple", "dict", "cond", "bool"])
def test_other_nets_keep_names_order_types_and_both_branches(name, tmp_path):
    source = other(name, tmp_path)
    path, _ = from_torch(source, tmp_path)
    with TensorRT().open(path, source.interface) as runner:
        for inputs, expected in source.runs:
            actual = runner.infer(inputs)
            assert list(actual) == list(expected)
            for key, array in expected.items():
                close(actual[key], array, "fp32")


def test_an_engine_for_this_gpu_alone_runs_and_refuses_sizes_outside_of_its_profile(tmp_path):
    source = other("conv", tmp_path)
    path, _ = from_torch(source, tmp_path, device=cuda.compute_capability())
    with TensorRT().open(path, source.interface) as runner:
        inputs, expected = source.runs[0]
        for name, actual in runner.infer(inputs).items():
            close(actual, expected[name], "fp32")
        with pytest.raises(VerificationError, match="the engine takes"):
            runner.infer({"x": np.ones((65, 1, 8, 8), np.float32)})


def test_what_the_file_says_without_a_gpu_is_what_tensorrt_says(tmp_path, monkeypatch):
    source = other("tuple", tmp_path)
    path, _ = from_torch(source, tmp_path)
    told = TensorRT().describe(path)
    monkeypatch.setattr(cuda, "_LIBRARY", "libcuda-that-is-not-there.so")
    read = TensorRT().describe(path)
    assert read.interface in (told.interface, type(told.interface)(inputs=())), "the same, or nothing"
    assert (read.precision if read.interface.inputs else told.precision) == told.precision


def test_an_engine_from_a_machine_without_a_gpu_is_verified_here_without_building_it_again(
    mlflow_server, tmp_path, monkeypatch
):
    """What a worker does about `unverified: no GPU ...`, for real: only the GPU is taken away, at the export."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")]))
    registry, formats = Registry(mlflow_server.uri), discover_formats()
    common = {"registry": registry, "formats": formats}
    with monkeypatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")  # the driver hides its devices; every child inherits that
        with ChildPool(Limits(timeout_s=600)) as pool:
            arguments = {"uri": mlflow_server.uri, "name": "engine"}
            ref = ModelVersionRef(
                "engine", authors().call(TORCH, "tests.support.registered:pickled", arguments, tmp_path).value
            )
            targets = parse_targets(f"tensorrt:device={cuda.compute_capability()}", "test", formats)
            report = export_model_version(ref, targets=targets, trigger="manual", pool=pool, **common)
    (engine,) = report.targets
    assert engine.status is Status.UNVERIFIED
    assert f"no GPU of compute capability {cuda.compute_capability()}" in engine.verification.reason
    with ChildPool(Limits(timeout_s=600)) as pool:
        work = tmp_path / "runs-here"
        work.mkdir()
        question = {"format": "tensorrt", "description": engine.description}
        assert pool.call(formats["tensorrt"].toolchain, RUNS_HERE, question, work).value == ""
        verified = reverify_model_version(ref, pool=pool, **common).targets[0]
    assert verified.status is Status.VERIFIED, verified
    assert verified.sha256 == engine.sha256
    assert verified.verification.latency_ms > 0
