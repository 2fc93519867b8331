"""What keeps a large model's weights from being there twice; small models and lowered thresholds stand in for it."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from registry_export.entities import Interface
from registry_export.format import TORCH_MODULE
from registry_export_plugins import _links
from registry_export_plugins._links import link_file
from registry_export_plugins._onnx import exporters, files, runner
from registry_export_plugins._onnx.files import gathered
from registry_export_plugins._torch import otherwise, programs
from registry_export_plugins._torch.loading import load_module
from registry_export_plugins._torch.modules import adapt
from registry_export_plugins._torch.otherwise import variants
from registry_export_plugins._torch.scripts import outlined
from registry_export_plugins._torch.tracing import constants
from registry_export_plugins.exported_program import ExportedProgram
from registry_export_plugins.onnx import Onnx
from registry_export_plugins.pytorch import PyTorch
from registry_export_plugins.torchscript import TorchScript
from tests.unit.plugins.torch_support import Source, assert_same_numbers, convert, make_source, spec

MEGABYTE = 1 << 20


@pytest.fixture
def wide(tmp_path: Path) -> Source:
    module = torch.nn.Sequential(torch.nn.Linear(4, 600), torch.nn.ReLU(), torch.nn.Linear(600, 600)).eval()
    return make_source(module, (spec("x", "float32", "batch", 4),), tmp_path)


@pytest.fixture
def low_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry_export_plugins._onnx.opsets.LARGEST_IN_ONE_FILE", MEGABYTE)


def convert_wide(wide: Source, folder: Path, **options: object) -> Path:
    path, result = convert(Onnx(), TORCH_MODULE, wide.load(), wide, folder / "made", **options)
    assert [attempt.error for attempt in result.attempts if attempt.error] == [], "the first way is taken"
    return path


def is_apart(path: Path) -> bool:
    model = onnx.load(str(path), load_external_data=False)
    return any(tensor.data_location for tensor in model.graph.initializer)


@pytest.mark.usefixtures("low_threshold")
def test_weights_beyond_the_threshold_are_written_once_and_moved_from_there(wide, tmp_path, monkeypatch):
    written = []
    real = torch.onnx.ONNXProgram.save

    def save(program, path, **arguments):
        real(program, path, **arguments)
        written.append(Path(f"{path}.data").stat().st_ino)

    monkeypatch.setattr(torch.onnx.ONNXProgram, "save", save)
    path = convert_wide(wide, tmp_path)
    assert sorted(file.name for file in path.parent.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert is_apart(path)
    data = path.parent / "model.onnx.data"
    assert written == [data.stat().st_ino], "the exporter's own file, not a copy"
    assert data.stat().st_nlink == 1, "ONNX takes weights with two names for an attack"
    assert list((tmp_path / "made" / "work").rglob("*.data")) == []
    onnx.load(str(path))
    assert_same_numbers(Onnx(), path, wide)


def test_weights_below_the_threshold_stay_in_the_file(wide, tmp_path):
    path = convert_wide(wide, tmp_path)
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    assert not is_apart(path)


@pytest.mark.parametrize(
    "options",
    [{}, {"opset_version": 17}, {"precision": "fp16"}, {"precision": "int8", "quantization": "dynamic"}],
    ids=str,
)
def test_weights_that_lay_apart_for_the_works_sake_alone_end_in_one_file(options, wide, tmp_path, monkeypatch):
    monkeypatch.setattr("registry_export_plugins._onnx.opsets.LARGEST_IN_MEMORY", MEGABYTE)
    apart = []
    monkeypatch.setattr(exporters, "read_in_part", lambda path: apart.append(path) or files.read_in_part(path))
    path = convert_wide(wide, tmp_path, **options)
    assert apart, "the graph was worked on without its weights"
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    assert not is_apart(path)
    assert Onnx().describe(path).precision == options.get("precision", "fp32")
    with Onnx().open(path, wide.interface) as opened:
        for inputs, expected in wide.runs:
            for name, array in opened.infer(inputs).items():
                np.testing.assert_allclose(array, expected[name], atol=5e-2 if options.get("precision") else 1e-5)


@pytest.mark.usefixtures("low_threshold")
@pytest.mark.parametrize("options", [{"opset_version": 20}, {"opset_version": 17}, {"precision": "fp16"}], ids=str)
def test_a_large_model_reaches_other_opsets_and_precisions(options, wide, tmp_path):
    path = convert_wide(wide, tmp_path, **options)
    described = Onnx().describe(path)
    assert described.opset_version == options.get("opset_version", 20)
    assert described.precision == options.get("precision", "fp32")
    with Onnx().open(path, wide.interface) as opened:
        for inputs, expected in wide.runs:
            for name, array in opened.infer(inputs).items():
                np.testing.assert_allclose(array, expected[name], atol=1e-2)


@pytest.mark.usefixtures("low_threshold")
def test_a_large_model_is_loaded_beside_its_source_without_laying_its_weights_out_anew(wide, tmp_path, monkeypatch):
    seen = []
    real = onnxruntime.InferenceSession

    def watched(path, options, **arguments):
        seen.append((options.graph_optimization_level, options.get_session_config_entry("session.disable_prepacking")))
        return real(path, options, **arguments)

    path = convert_wide(wide, tmp_path)
    monkeypatch.setattr(runner.onnxruntime, "InferenceSession", watched)
    assert runner.problem_when_loaded(path) == ""
    assert seen == [(onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL, "1")]


def test_weights_in_many_files_are_gathered_in_one_tensor_by_tensor(wide, tmp_path):
    path = convert_wide(wide, tmp_path)
    whole = onnx.load(str(path))
    (tmp_path / "many").mkdir()
    many = tmp_path / "many" / "model.onnx"
    onnx.save(whole, str(many), save_as_external_data=True, all_tensors_to_one_file=False, size_threshold=0)
    assert len(list(many.parent.iterdir())) > len(["the model", "its weights"])
    one = gathered(many, tmp_path / "one" / "model.onnx")
    assert sorted(file.name for file in one.parent.iterdir()) == ["model.onnx", "model.onnx.data"]
    again = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(str(one)).graph.initializer}
    for tensor in onnx.load(str(path)).graph.initializer:
        np.testing.assert_array_equal(again[tensor.name], onnx.numpy_helper.to_array(tensor))
    assert_same_numbers(Onnx(), one, wide)


def test_small_weights_are_read_in_part_only_up_to_a_sum(wide, tmp_path, monkeypatch):
    path = convert_wide(wide, tmp_path, external_data=True)
    monkeypatch.setattr(files, "_MOST_IN_PART", 3000)
    model = files.read_in_part(path)
    held = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    assert 0 < held <= files._MOST_IN_PART


def test_a_link_is_the_same_file_and_replaces_what_was_there(tmp_path):
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"weights")
    target.write_bytes(b"old")
    link_file(source, target)
    link_file(source, target)
    assert target.samefile(source)


@pytest.mark.parametrize("clones", [True, False])
def test_where_no_link_can_be_made_the_bytes_are_copied(clones, tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"weights")
    monkeypatch.setattr(os, "link", refused)
    if not clones:
        monkeypatch.setattr(_links, "_cloned", lambda *_: False)
    link_file(source, target)
    assert target.read_bytes() == b"weights"
    assert not target.samefile(source)


@pytest.mark.skipif(sys.platform != "linux", reason="maps are read from /proc")
def test_weights_of_a_pickled_module_are_mapped_from_its_file(wide):
    module = load_module(wide.path)
    place = module[2].weight.data_ptr()
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(wide.path.name)]
    ranges = [tuple(int(end, 16) for end in line.split()[0].split("-")) for line in mapped]
    assert any(low <= place < high for low, high in ranges)


def test_a_pickled_module_in_the_older_layout_is_read_all_the_same(tmp_path):
    path = tmp_path / "model.pth"
    torch.save(torch.nn.Linear(3, 2), path, _use_new_zipfile_serialization=False)
    assert load_module(path).weight.shape == (2, 3)


def test_a_script_is_described_without_its_weights(wide, tmp_path, monkeypatch):
    path, _ = convert(TorchScript(), TORCH_MODULE, wide.load(), wide, tmp_path / "made", freeze=True)
    with outlined(path) as outline:
        assert {tensor.device.type for tensor in constants(outline)} == {"meta"}
    monkeypatch.setattr(TorchScript, "load", None)
    described = TorchScript().describe(path)
    assert [own.name for own in described.interface.inputs] == ["x"]
    assert described.precision == "fp32"
    with pytest.raises(NotImplementedError):  # what let it load is gone again
        torch.equal(torch.empty(1, device="meta"), torch.empty(1, device="meta"))


def test_a_script_with_equal_constants_is_described_without_its_weights(tmp_path, monkeypatch):
    class Masked(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.tensor([0.0, 1.0]) + torch.tensor([0.0, 1.0])

    inner = torch.nn.Sequential(Masked(), Masked())
    path = tmp_path / "model.pt"
    torch.jit.save(torch.jit.trace(inner, torch.ones(3, 2)), path)
    monkeypatch.setattr(TorchScript, "load", None)
    assert TorchScript().describe(path).format_version


def test_a_program_is_described_without_its_weights(wide, tmp_path, monkeypatch):
    path, _ = convert(ExportedProgram(), TORCH_MODULE, wide.load(), wide, tmp_path / "made")
    whole = programs.load_program(path)
    outline = programs.load_outline(path)
    assert {name for name, tensor in outline.state_dict.items() if tensor.device.type == "meta"} == {"wrapped.2.weight"}
    assert programs.program_interface(outline) == programs.program_interface(whole)
    assert ExportedProgram().describe(path).precision == "fp32"
    monkeypatch.setattr(programs, "_without_device", lambda content, names: b"{}")
    assert programs.load_outline(path).state_dict["wrapped.2.weight"].device.type == "cpu", "of another layout: whole"


class Texts(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(50, 16)
        self.layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.norm = torch.nn.BatchNorm1d(16)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        mask = torch.zeros(ids.shape, dtype=torch.float32)
        hidden = self.layer(self.table(ids) + mask[..., None])
        return self.norm(hidden.transpose(1, 2)).softmax(1)


def in_float64(module: torch.nn.Module, largest_copy: int, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, bool]:
    monkeypatch.setattr(otherwise, "_LARGEST_COPY", largest_copy)
    adapter = adapt(module, Interface((spec("ids", "int64", "batch", 7),)))

    def infer(inputs, call):
        with torch.no_grad():
            return {"y": call([torch.from_numpy(inputs["ids"])]).numpy()}

    answer = variants(infer, adapter.call, adapter)["float64"]({"ids": np.arange(14).reshape(2, 7)})
    return answer["y"], "_in_float64" in adapter.__dict__


def test_a_large_module_is_computed_in_float64_without_a_copy_of_it(monkeypatch):
    torch.manual_seed(0)
    module = Texts().eval()
    copied, has_copy = in_float64(module, 1 << 30, monkeypatch)
    widened, has_second = in_float64(module, 0, monkeypatch)
    assert (has_copy, has_second) == (True, False)
    assert widened.dtype == np.float64
    with torch.no_grad():
        single = module(torch.arange(14).reshape(2, 7)).numpy()
    error = np.abs(single - copied).max()
    assert np.abs(widened - copied).max() < error / 1000, "as exact as the copy, which float32 is not"
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


def test_an_operator_that_writes_into_a_large_modules_own_floats_has_no_float64(monkeypatch):
    class Counts(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(7))

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            self.seen.add_(1.0)
            return ids * self.seen

    with pytest.raises(TypeError, match="writes into a float32 tensor"):
        in_float64(Counts().eval(), 0, monkeypatch)


def test_the_source_still_opens_after_a_conversion_that_linked_its_files(wide, tmp_path):
    before = wide.path.read_bytes()
    convert_wide(wide, tmp_path)
    assert wide.path.read_bytes() == before
    with PyTorch().open(wide.path, wide.declared) as opened:
        assert opened.infer(wide.runs[0][0])
