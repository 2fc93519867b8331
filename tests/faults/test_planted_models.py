"""A dozen of the planted faults of `make faults`: a mutated net, converted for real, must not be verified."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from registry_export.entities import Status
from registry_export.isolation import ChildPool, Limits
from tests.faults import spoiled
from tests.faults.plant import Workbench


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted-models")
    before = os.environ.get("PYTHONPATH")
    places = (spoiled.install(folder / "formats"), str(Path.cwd()), before)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, places))
    with ChildPool(Limits(timeout_s=120)) as pool:
        yield Workbench("convolution", pool, folder, ("onnx", "torchscript"))
    os.environ.pop("PYTHONPATH")
    if before is not None:
        os.environ["PYTHONPATH"] = before


@pytest.mark.parametrize("format_", ["onnx", "torchscript"])
def test_the_sound_net_is_verified(bench, format_):
    assert bench.controls[format_].status == Status.VERIFIED


@pytest.mark.parametrize(
    ("fault", "format_"),
    [
        ("the first convolution has lost its bias", "onnx"),
        ("the running mean is 0", "torchscript"),
        ("batch norm with epsilon 1e-3 instead of 1e-5", "torchscript"),
        ("all padding of the first convolution is at the end", "onnx"),
        ("max pooling pads with zeros", "torchscript"),
        ("the strided convolution begins at another pixel", "onnx"),
        ("height and width of the kernel are swapped", "torchscript"),
        ("the picture is flattened with channels last", "torchscript"),
        ("all weights are rounded to bf16", "torchscript"),
        ("all rows get the first row's answer", "onnx"),
        ("the input is clipped to -100..100", "torchscript"),
    ],
)
def test_a_net_with_this_fault_is_not_verified(bench, fault, format_):
    assert bench.controls[format_].status == Status.VERIFIED
    number = next(i for i, one in enumerate(bench.catalogue["faults"]) if one["name"] == fault)
    (record,) = bench.plant(number, [format_])
    assert record.verdict == Status.MISMATCH
    assert record.rung


@pytest.mark.parametrize(
    "fault",
    ["rows beyond the third are zero", "the last element is NaN", "the first answer is given again", "file cut short"],
)
def test_an_artifact_with_this_fault_is_not_verified(bench, fault):
    assert bench.controls["onnx"].status == Status.VERIFIED
    assert spoiled.plant(bench, "onnx", fault).verdict in (Status.MISMATCH, Status.FAILED)
