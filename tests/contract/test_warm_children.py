"""What children of each toolchain still import themselves, and whether their parents may be forked."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from registry_export.entities import Status
from registry_export.isolation import ChildPool, Limits
from registry_export_plugins._toolchains import EXECUTORCH, ONNX, TENSORFLOW, TORCH
from registry_export_plugins.coreml import TENSORFLOW_COREML, TORCH_COREML
from registry_export_plugins.openvino import OPENVINO
from tests.support.laboratory import Laboratory

TARGETS = (
    "torchscript", "exported_program", "onnx", "openvino", "tensorrt", "mnn", "ncnn", "saved_model", "tflite", "coreml",
    "executorch",
)  # fmt: skip

ALLOWED = re.compile(
    r"tests\.|tests$"  # the author's code
    r"|__autograph_generated_file"  # TensorFlow's, made of the model
    r"|torch\.(package|utils)\b|_cython_|encodings\.|cython_runtime$"  # small, and only for some checkpoints
)

KEPT_OUT = (
    (TORCH, ("tensorflow", "jax", "pandas", "mlflow", "sklearn")),
    (TORCH_COREML, ("tensorflow", "jax", "pandas", "mlflow", "sklearn", "xgboost")),
    (EXECUTORCH, ("tensorflow", "jax", "pandas", "mlflow", "sklearn")),
    (TENSORFLOW, ("torch", "jax", "pandas", "pyarrow", "matplotlib", "mlflow", "sklearn")),
    (TENSORFLOW_COREML, ("torch", "jax", "pandas", "matplotlib", "transformers", "sklearn", "executorch")),
    (ONNX, ("torch", "tensorflow", "pandas")),
    (OPENVINO, ("torch", "tensorflow", "pandas", "nncf")),
)

STANDING_THREADS = {"onnxruntime": 1}
"""ONNX Runtime starts one thread when it is imported, which waits; children have run sessions without it since ever."""


class RecordingPool(ChildPool):
    def __init__(self, limits):
        super().__init__(limits)
        self.imported = []

    def call(self, toolchain, function, *rest, **options):
        outcome = super().call(toolchain, function, *rest, **options)
        if not toolchain.name.startswith("build"):
            self.imported.append((toolchain.name, function.rpartition(":")[2], outcome.imported))
        return outcome


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, RecordingPool(Limits(timeout_s=300)) as pool:
        patch.setenv("PYTHONPATH", str(Path.cwd()), prepend=os.pathsep)
        yield pool, Laboratory(tmp_path_factory.mktemp("warm"), pool, {"pytorch": list(TARGETS)}).exported("pytorch")


def test_every_target_is_made_by_children_of_exercised_parents(exported):
    _, made = exported
    wrong = {v: r for v, (r, _) in made.made.items() if r.status not in (Status.VERIFIED, Status.UNVERIFIED)}
    assert not wrong


def test_children_import_nothing_that_their_parent_could_have_had(exported):
    pool, _ = exported
    late = {
        (toolchain, function): left
        for toolchain, function, imported in pool.imported
        if (left := [module for module in imported if not ALLOWED.match(module)])
    }
    assert len(pool.imported) > 15
    assert late == {}


def test_parents_have_no_thread_that_a_child_would_miss(exported):
    pool, _ = exported
    threads = {
        parent.toolchain.name: parent.ready.threads - sum(STANDING_THREADS.get(m, 0) for m in parent.toolchain.modules)
        for parent in pool._parents
        if not parent.toolchain.name.startswith("build")
    }
    assert len(threads) > 5
    assert set(threads.values()) == {1}, threads


def test_no_exercise_fails(exported):
    pool, _ = exported
    assert [problem for parent in pool._parents for problem in parent.ready.problems] == []


def test_children_do_not_read_the_functions_of_torchlib_once_more(exported, tmp_path):
    pool, _ = exported
    assert pool.call(TORCH, "tests.unit.child_functions:count_reads_of_torchlib", {}, tmp_path).value == [0, 0]


def test_parents_leave_out_what_their_frameworks_import_only_because_it_is_there(exported, tmp_path):
    pool, _ = exported
    there = []
    for toolchain, modules in KEPT_OUT:
        for module in modules:
            work = tmp_path / toolchain.name / module
            work.mkdir(parents=True)
            if pool.call(toolchain, "tests.unit.child_functions:imported", {"module": module}, work).value:
                there.append((toolchain.name, module))
    assert there == []
