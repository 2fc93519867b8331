"""The machines that engines are built and run on: named devices, GPUs that are not here, stand-ins for them."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from registry_export.config import make_target
from registry_export.entities import Interface
from registry_export.errors import ConfigurationError, ConversionError, VerificationError
from registry_export_plugins._tensorrt import build as building
from registry_export_plugins._tensorrt import cuda, devices, engine
from registry_export_plugins._tensorrt.devices import nameable_devices
from registry_export_plugins._tensorrt.flavour import MODULE
from registry_export_plugins._tensorrt.plan import read_plan
from registry_export_plugins._tensorrt.runner import TensorRTRunner
from registry_export_plugins.tensorrt import TensorRT
from tests.unit.plugins.tensorrt_support import (
    ROW,
    build,
    one_node,
    request_for,
)

pytest.importorskip(MODULE)
pytestmark = pytest.mark.skipif(not nameable_devices(), reason="this TensorRT builds for the GPU that is here alone")


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(cuda, "_LIBRARY", "libcuda-that-is-not-there.so")


def test_a_device_that_the_builder_lacks_is_refused_by_name_with_the_choices(tmp_path, no_gpu):
    model = one_node(tmp_path, "Neg")
    with pytest.raises(ConversionError, match=r"cannot build for sm90; it builds for sm75, sm80"):
        build(model, request_for(tmp_path, ROW, device="sm80+sm90"), tmp_path)


def test_a_device_that_is_none_is_refused_with_the_rules():
    assert make_target(TensorRT(), {"device": "sm80+sm120"}).variant == "tensorrt-sm80_sm120"
    with pytest.raises(ConfigurationError, match=r"device: must be .* as sm89, .*, not 'rtx4090'"):
        make_target(TensorRT(), {"device": "rtx4090"})


@pytest.mark.parametrize(
    ("here", "device", "problem"),
    [
        ("sm89", "sm89", ""),
        ("sm86", "sm89", "no GPU of compute capability sm89.*here is sm86"),
        ("sm90", None, "here is sm90"),
        ("sm120", None, ""),
        ("sm75", None, "here is sm75"),
    ],
)
def test_an_engine_is_run_only_on_a_gpu_that_it_was_built_for(here, device, problem, tmp_path, monkeypatch):
    path, _ = build(one_node(tmp_path, "Neg"), request_for(tmp_path, ROW, device=device), tmp_path)
    plan, described = read_plan(path), engine.describe(path)
    monkeypatch.setattr(cuda, "problem", lambda: "")
    monkeypatch.setattr(cuda, "compute_capability", lambda: here)
    assert re.search(problem or "^$", engine.unfit(plan))
    assert TensorRT().runs_here(described) == engine.unfit(plan), "from the report alone as from the file"


class HostMemory:
    """Stands in for a GPU: memory is the host's, and every call is done when it returns."""

    stream = 1

    def __init__(self) -> None:
        self.held: dict[int, np.ndarray] = {}

    def allocate(self, size: int) -> int:
        block = np.zeros(max(size, 1), np.uint8)
        self.held[block.ctypes.data] = block
        return block.ctypes.data

    def free(self, address: int) -> None:
        del self.held[address]

    def upload(self, address: int, array: np.ndarray) -> None:
        self.held[address][: array.nbytes] = np.frombuffer(array.tobytes(), np.uint8)

    def download(self, address: int, shape, dtype) -> np.ndarray:
        size = int(np.prod(shape)) * dtype.itemsize
        return np.frombuffer(self.held[address][:size].tobytes(), dtype).reshape(shape)

    def synchronize(self) -> None:
        pass


class DoublingContext:
    """Computes b = 2 a, for at most 64 rows, in memory that the output's allocator gives it."""

    def __init__(self, memory: HostMemory) -> None:
        self.memory = memory

    def set_input_shape(self, name, shape) -> bool:
        self.shape = tuple(shape)
        return shape[0] <= 64

    def set_tensor_address(self, name, address) -> None:
        self.address = address

    def set_output_allocator(self, name, allocator) -> None:
        self.allocator = allocator

    def execute_async_v3(self, stream) -> bool:
        doubled = 2 * self.memory.download(self.address, self.shape, np.dtype(np.float32))
        address = self.allocator.reallocate_output_async("b", 0, doubled.nbytes, 256, stream)
        self.memory.upload(address, doubled)
        self.allocator.notify_shape("b", doubled.shape)
        return True


class DoublingEngine:
    def __init__(self, memory: HostMemory) -> None:
        self.memory = memory

    def create_execution_context(self):
        return DoublingContext(self.memory)

    def get_tensor_location(self, name):
        return None

    def get_tensor_profile_shape(self, name, profile):
        return (1, 4), (2, 4), (64, 4)


def test_the_runner_moves_inputs_and_outputs_and_gives_all_memory_back():
    memory = HostMemory()
    runner = TensorRTRunner(DoublingEngine(memory), Interface((ROW,), (dataclasses.replace(ROW, name="b"),)), memory)
    for rows in (2, 5, 1):
        given = np.random.default_rng(rows).standard_normal((rows, 4)).astype(np.float32)
        np.testing.assert_array_equal(runner.infer({"a": given})["b"], 2 * given)
        assert not memory.held
    with pytest.raises(VerificationError, match=r"shape \(65, 4\); the engine takes \(1, 4\) to \(64, 4\)"):
        runner.infer({"a": np.ones((65, 4), np.float32)})
    assert not memory.held


class WithoutNames:
    """Stands in for `tensorrt`, which knows no compute capabilities and needs a GPU to build."""

    __version__ = "10.13.0"

    @staticmethod
    def Builder(log):  # noqa: N802
        raise TypeError("factory function returned nullptr")


def test_a_builder_that_needs_a_gpu_says_so(tmp_path, monkeypatch):
    for module in (devices, building):
        monkeypatch.setattr(module, "tensorrt", lambda: WithoutNames)
    with pytest.raises(ConversionError, match=r"cannot build here.*tensorrt-rtx"):
        build(one_node(tmp_path, "Neg"), request_for(tmp_path, ROW), tmp_path)


def test_a_builder_without_names_of_devices_builds_for_the_gpu_that_is_here(monkeypatch):
    monkeypatch.setattr(devices, "tensorrt", lambda: WithoutNames)
    monkeypatch.setattr(cuda, "problem", lambda: "")
    monkeypatch.setattr(cuda, "compute_capability", lambda: "sm90")
    assert devices.chosen_devices("sm90") == ("sm90",)
    with pytest.raises(ConversionError, match="cannot build for sm89; it builds for the GPU that is here alone: sm90"):
        devices.chosen_devices("sm89")
