"""A causal language model, exported with its key-value cache and verified over several steps."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from registry_export.entities import Status
from registry_export.inference import Origin
from registry_export.isolation import ChildPool, Limits
from registry_export.tensors import read_tensors
from registry_export.tolerances import DEFAULT_TOLERANCES
from registry_export.verification import verify
from tests.support.laboratory import FORMATS, Laboratory
from tests.support.sources import SOURCES
from tests.support.sources.decoders import DECODERS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, ChildPool(Limits(timeout_s=300)) as pool:
        patch.setenv("PYTHONPATH", str(Path.cwd()), prepend=os.pathsep)
        for name, source in DECODERS.items():
            patch.setitem(SOURCES, name, source)
        yield Laboratory(tmp_path_factory.mktemp("decoders"), pool, {name: ["onnx"] for name in DECODERS})


@pytest.mark.parametrize("name", DECODERS)
def test_the_cache_is_an_input_and_an_output_and_every_step_is_verified(laboratory, name):
    exported = laboratory.exported(name)
    result, _ = exported.made["onnx"]
    assert result.status is Status.VERIFIED, (result.error, result.verification)
    interface = result.description.interface
    past = [spec for spec in interface.inputs if spec.name.startswith("past_key_values.")]
    assert [spec.name for spec in past[:2]] == ["past_key_values.0.key", "past_key_values.0.value"]
    assert len(past) == 4
    assert {spec.shape[2] for spec in past} == {"past_sequence_length"}
    assert interface.outputs[0].name == "logits"
    assert {f"present.{i}.{kind}" for i in (0, 1) for kind in ("key", "value")} <= {s.name for s in interface.outputs}
    assert result.dynamic_dimensions["attention_mask"] == {"0": "batch", "1": "past_sequence_length + sequence_length"}
    steps = [rung for rung in result.verification.rungs if rung.name.startswith("step")]
    assert [rung.status for rung in steps] == [Status.VERIFIED] * 4
    assert any("key-value cache" in note for note in exported.reference.notes)


def test_the_exported_file_generates_what_the_source_generates(laboratory):
    """The file alone, driven as an application does, against the tokens that the source chose."""
    import onnxruntime

    exported = laboratory.exported("llama")
    _, folder = exported.made["onnx"]
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    outputs = [o.name for o in session.get_outputs()]
    steps = [rung for rung in exported.reference.rungs if rung.name.startswith("step")]
    inputs = {n: np.array(a) for n, a in read_tensors(Path(steps[0].inputs)).items()}
    assert inputs["past_key_values.0.key"].shape[2] == 0
    for following in steps[1:]:
        answered = dict(zip(outputs, session.run(None, inputs), strict=True))
        chosen = answered["logits"][:, -1:].argmax(-1)
        expected = read_tensors(Path(following.inputs))
        assert np.array_equal(chosen, expected["input_ids"])
        fed = {name: answered[name.replace("past_key_values", "present")] for name in inputs if "past" in name}
        inputs = {name: fed.get(name, np.array(array)) for name, array in expected.items()}


def test_a_file_whose_cache_goes_wrong_is_a_mismatch_in_a_later_step(laboratory, tmp_path):
    """The first step cannot see it: nothing is in the cache yet."""
    import onnx
    from onnx import helper

    exported = laboratory.exported("llama")
    result, folder = exported.made["onnx"]
    model = onnx.load(folder / "model.onnx")
    for node in model.graph.node:
        for i, name in enumerate(node.output):
            if name == "present.1.value":
                node.output[i] = "right_value"
    model.graph.node.append(helper.make_node("Neg", ["right_value"], ["present.1.value"]))
    planted = tmp_path / "model.onnx"
    onnx.save(model, planted)
    origin = Origin("onnx", str(planted), result.description.interface)
    steps = tuple(r for r in exported.reference.rungs if r.name.startswith("step"))
    reference = type(exported.reference)(exported.reference.interface, steps, exported.reference.trace, "example")
    work = tmp_path / "work"
    work.mkdir()
    tolerance = DEFAULT_TOLERANCES["fp32"]
    verification = verify(laboratory.pool, FORMATS["onnx"].toolchain, origin, reference, tolerance, work)
    assert verification.status is Status.MISMATCH
    assert "logits" in verification.rungs[1].reason or "present" in verification.rungs[1].reason
