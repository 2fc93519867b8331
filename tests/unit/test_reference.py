"""The source's first run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from registry_export.entities import Interface, TensorSpec
from registry_export.errors import SourceError, VerificationError
from registry_export.evaluation import EvaluationRequest, evaluated
from registry_export.inference import Origin, first_run
from registry_export.reference import Reference, ReferenceRequest, reference
from registry_export.tensors import read_tensors, write_tensors


def run(folder: Path, sample: np.ndarray) -> Reference:
    import torch

    torch.save(torch.nn.Linear(4, 3), folder / "net.pt")
    write_tensors(folder / "sample", {"input": sample})
    origin = Origin("pytorch", str(folder / "net.pt"), Interface(inputs=()))
    return reference(ReferenceRequest(origin, str(folder / "rungs"), str(folder / "sample"), "samples"))


def test_samples_that_numpy_made_in_double_precision_are_given_to_the_model_as_floats(tmp_path: Path):
    found = run(tmp_path, np.linspace(-1, 1, 20).reshape(5, 4))
    assert found.interface.inputs[0].dtype == "float32"
    assert read_tensors(Path(found.calibration))["input"].dtype == np.float32
    assert found.notes[0] == "The model refuses float64, in which input was given; it got float32."


@pytest.mark.parametrize("content", [b"", b"no model"])
def test_a_damaged_checkpoint_is_an_error_of_loading_it_and_not_of_verifying_an_export(content, tmp_path: Path):
    (tmp_path / "model.onnx").write_bytes(content)
    origin = Origin("onnx", str(tmp_path / "model.onnx"), Interface(inputs=()))
    with pytest.raises(SourceError, match=r"cannot load the model: .*Log the file again") as caught:
        reference(ReferenceRequest(origin, str(tmp_path / "rungs")))
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("words", [np.array(["<b>"]), np.array(["cat"], object), np.array([b"cat"])])
def test_a_model_that_answers_in_words_is_refused_with_the_output_and_what_to_do(words):
    runner = SimpleNamespace(infer=lambda inputs: {"label": words}, interface=Interface(inputs=()))
    with pytest.raises(SourceError, match=r"Output label holds text; .* Take what makes it of numbers out"):
        first_run(runner, {"x": np.zeros(1)}, "example")


@pytest.mark.parametrize(
    ("evidence", "declared", "said"), [("example", "", 1), ("samples", "", 0), ("example", "int64", 0)]
)
def test_whole_numbers_of_an_example_that_no_signature_describes_are_named(evidence, declared, said, tmp_path: Path):
    import torch

    torch.jit.script(torch.nn.Embedding(9, 2)).save(str(tmp_path / "net.pt"))
    write_tensors(tmp_path / "sample", {"input": np.array([[1, 2], [3, 4]])})
    interface = Interface((TensorSpec("input", declared, ("batch", 2)),) if declared else ())
    origin = Origin("torchscript", str(tmp_path / "net.pt"), interface)
    found = reference(ReferenceRequest(origin, str(tmp_path / "rungs"), str(tmp_path / "sample"), evidence))
    assert sum("which integers input holds; int64 was taken" in note for note in found.notes) == said


def test_samples_that_fit_in_no_precision_are_refused_with_the_first_reason(tmp_path: Path):
    with pytest.raises(SourceError, match=r"fails on its samples: RuntimeError: .*\. Check names"):
        run(tmp_path, np.zeros((5, 7)))


def test_a_source_that_fixes_its_batch_is_compared_on_its_first_rows_and_calibrated_and_evaluated_on_all(tmp_path):
    import torch

    torch.export.save(torch.export.export(torch.nn.Linear(4, 3), (torch.zeros(1, 4),)), str(tmp_path / "net.pt2"))
    rows = np.eye(4)  # doubles, which it refuses too
    write_tensors(tmp_path / "sample", {"input": rows})
    origin = Origin("exported_program", str(tmp_path / "net.pt2"), Interface(inputs=()))
    found = reference(ReferenceRequest(origin, str(tmp_path / "rungs"), str(tmp_path / "sample"), "samples"))
    assert found.interface.inputs[0].shape == (1, 4)
    assert [len(array) for array in read_tensors(Path(found.calibration)).values()] == [4]
    assert found.calibration in found.paths
    assert any("takes 1 row at a time" in note for note in found.notes)
    write_tensors(tmp_path / "labels", {"labels": np.zeros((4, 3), np.float32)})
    request = EvaluationRequest(
        origin, "", str(tmp_path / "sample"), "samples", str(tmp_path / "labels"), folder=str(tmp_path)
    )
    assert evaluated(request).metrics["mae"] > 0


def test_fewer_rows_are_tried_after_a_refusal_in_our_own_words_too():
    class One:
        interface = Interface((TensorSpec("x", "float32", (1, 2)),))

        def infer(self, inputs):
            if len(inputs["x"]) != 1 or np.isnan(inputs["x"]).any():
                raise VerificationError("It takes one row.")
            return {"y": inputs["x"]}

    taken, _, notes = first_run(One(), {"x": np.ones((3, 2), np.float32)}, "samples")
    assert (taken["x"].shape, len(notes)) == ((1, 2), 1)
    with pytest.raises(VerificationError, match="It takes one row"):
        first_run(One(), {"x": np.full((3, 2), np.nan, np.float32)}, "samples")


def hourglass(path: Path) -> None:
    """Save a net that halves its picture twice and doubles it again, as a U-Net does."""
    import torch

    class Net(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.interpolate(torch.nn.functional.max_pool2d(x, 4), scale_factor=4.0) + x

    torch.jit.script(Net()).save(str(path))


def test_a_model_whose_outputs_are_as_many_as_its_rows_is_static_and_no_crash(tmp_path: Path):
    import torch

    class Rows(torch.nn.Module):
        def forward(self, x):
            return [2 * x[i] for i in range(x.size(0))]

    torch.jit.script(Rows()).save(str(tmp_path / "net.pt"))
    write_tensors(tmp_path / "sample", {"x": np.ones((3, 4), np.float32)})
    origin = Origin("torchscript", str(tmp_path / "net.pt"), Interface(inputs=()))
    found = reference(ReferenceRequest(origin, str(tmp_path / "rungs"), str(tmp_path / "sample"), "samples"))
    assert found.interface.inputs[0].shape == (3, 4)
    assert "its batch is fixed at 3 (at batch 1: its outputs are others (output_0))" in found.notes[0]


def test_a_height_that_varies_in_steps_alone_is_dynamic(tmp_path: Path):
    hourglass(tmp_path / "net.pt")
    write_tensors(tmp_path / "sample", {"x": np.ones((2, 3, 8, 8), np.float32)})
    origin = Origin("torchscript", str(tmp_path / "net.pt"), Interface(inputs=()))
    folders = str(tmp_path / "rungs"), str(tmp_path / "sample")
    found = reference(ReferenceRequest(origin, *folders, "samples", dynamic={"x": {"2": "height"}}))
    assert found.interface.inputs[0].shape == ("batch", 3, "height", 8)
    assert [rung.name for rung in found.rungs if rung.group == "height"] == ["height 16", "height 24"]
    assert found.notes[0].startswith("The source refuses height at height 1: ")
