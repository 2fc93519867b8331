"""For a mismatch the report names the place: the module that a fault was planted in, and the hop that is to blame."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from registry_export.bench import Bench, run_reference
from registry_export.config import parse_targets
from registry_export.discovery import discover_formats
from registry_export.entities import Interface, Status, TensorSpec
from registry_export.graph import plan_export
from registry_export.inference import Origin
from registry_export.isolation import ChildPool
from registry_export.targets import export_targets
from registry_export.tensors import write_tensors

FORMATS = discover_formats()
INPUTS = {"pictures": (2, 3, 8, 8), "rows": (2, 7, 6)}
FAULTS = {
    "pictures": {
        "wrong epsilon": "second.bn1",
        "transposed convolution": "first.conv2",
        "changed alpha": "smooth",
        "transposed weight": "hidden",
        "another activation": "gate",
        "activation left out": "second.act2",
    },
    "rows": {
        "another activation": "layers.1.act",
        "transposed weight": "layers.0.out",
        "wrong epsilon": "layers.2.norm2",
    },
}
OTHERS = ["openvino", "saved_model, tflite", "coreml", "frozen_graph"]


class Nets:
    """Nets with the reference outputs of the sound one, made on first need."""

    def __init__(self, folder: Path, pool: ChildPool) -> None:
        self.folder, self.pool = folder, pool
        self._references = {}
        self._count = 0

    def origin(self, net: str, name: str) -> Origin:
        interface = Interface((TensorSpec("x", "float32", ("batch", *INPUTS[net][1:])),))
        return Origin("pytorch", str(self.folder / net / name / "model.pth"), interface)

    def reference(self, net: str):
        if net not in self._references:
            work = self.bench()
            arguments = {"net": net, "folder": str(self.folder / net)}
            toolchain = FORMATS["pytorch"].toolchain
            self.pool.call(toolchain, "tests.support.divergent_nets:write", arguments, work.work, writes=(self.folder,))
            sample = np.random.default_rng(0).standard_normal(INPUTS[net]).astype(np.float32)
            write_tensors(work.work / "sample", {"x": sample})
            self._references[net] = run_reference(
                work, self.origin(net, "sound"), str(work.work / "sample"), "example", ()
            )
        return self._references[net]

    def exported(self, net: str, name: str, targets: str):
        reference = self.reference(net)
        wanted = parse_targets(targets, "test", FORMATS)
        plan = plan_export(FORMATS["pytorch"], wanted, FORMATS)
        made = export_targets(self.bench(), self.origin(net, name), plan, plan.targets, reference)
        return {variant: result for variant, (result, _) in made.items()}

    def bench(self) -> Bench:
        self._count += 1
        work = self.folder / f"work-{self._count}"
        work.mkdir()
        return Bench(FORMATS, self.pool, work)


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path.cwd()), prepend=os.pathsep)
        with ChildPool() as pool:
            yield Nets(tmp_path_factory.mktemp("nets"), pool)


def named(nets, net: str, fault: str, targets: str):
    """Export a faulty copy and check that its place is named in every target."""
    for variant, result in nets.exported(net, fault, targets).items():
        assert result.status is Status.MISMATCH, (variant, result.status, result.error)
        found = result.verification.divergence
        assert FAULTS[net][fault] in found.modules, (variant, found)
        assert len(found.modules) <= 4, (variant, found)
        assert found.hop == f"pytorch → {result.path[1]}", (variant, found)


@pytest.mark.parametrize(
    ("net", "fault"),
    [pytest.param("pictures", "wrong epsilon", marks=pytest.mark.slow), ("rows", "transposed weight")],
)
def test_the_module_that_a_fault_is_in_is_named(nets, net, fault):
    named(nets, net, fault, "onnx, exported_program, torchscript:freeze=true")


@pytest.mark.slow
@pytest.mark.parametrize(("net", "fault"), [(net, fault) for net, faults in FAULTS.items() for fault in faults])
def test_every_fault_is_placed(nets, net, fault):
    named(nets, net, fault, "onnx, exported_program, torchscript")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("net", "fault"),
    [("pictures", "wrong epsilon"), ("pictures", "transposed convolution"), ("rows", "another activation")],
)
@pytest.mark.parametrize("targets", OTHERS)
def test_faults_are_placed_in_every_format_that_can_be_looked_into(nets, net, fault, targets):
    named(nets, net, fault, targets)


def test_a_sound_export_has_no_place_to_name(nets):
    for variant, result in nets.exported("pictures", "sound", "onnx").items():
        assert result.status is Status.VERIFIED, variant
        assert result.verification.divergence is None
