"""The report says of which side of a decision nothing was shown."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from registry_export.entities import Interface, TensorSpec
from registry_export.inference import one_sided
from registry_export_plugins._onnx.runner import OnnxRunner
from registry_export_plugins._torch.modules import TorchRunner, adapt
from tests import models

X = Interface((TensorSpec("x", "float32", ("batch", 4)),))
POSITIVE, NEGATIVE = np.ones((2, 4), np.float32), -np.ones((2, 4), np.float32)


@pytest.mark.parametrize("net", [models.PythonIf, models.Cond])
def test_a_side_that_no_input_took_is_named_with_its_place(net):
    adapter = adapt(net().eval(), X)
    runner = TorchRunner(adapter.call, X, module=adapter)
    runner.infer({"x": POSITIVE})
    (sentence,) = one_sided(runner)
    assert "models.py:" in sentence
    runner.infer({"x": NEGATIVE})
    assert one_sided(runner) == ()


def test_watching_leaves_pytorch_as_it_was():
    before = torch.Tensor.__bool__, torch.cond
    TorchRunner(adapt(models.PythonIf().eval(), X).call, X).infer({"x": POSITIVE})
    assert (torch.Tensor.__bool__, torch.cond) == before


def test_a_net_without_decisions_has_none_to_tell_of():
    adapter = adapt(torch.nn.Linear(4, 2).eval(), X)
    runner = TorchRunner(adapter.call, X, module=adapter)
    runner.infer({next(iter(s.name for s in adapter.inputs)): POSITIVE})
    assert one_sided(runner) == ()


def test_an_if_of_an_onnx_file_is_watched(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(with_if(), str(path))
    runner = OnnxRunner(path, Interface(()))
    np.testing.assert_array_equal(runner.infer({"x": POSITIVE})["y"], POSITIVE)
    assert "the If node choose" in one_sided(runner)[0]
    np.testing.assert_array_equal(runner.infer({"x": NEGATIVE})["y"], -NEGATIVE)
    assert one_sided(runner) == ()


def with_if() -> onnx.ModelProto:
    def branch(operator: str) -> onnx.GraphProto:
        output = helper.make_tensor_value_info("of_" + operator, TensorProto.FLOAT, ["batch", 4])
        return helper.make_graph([helper.make_node(operator, ["x"], ["of_" + operator])], operator, [], [output])

    zero = helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0])
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node(
            "If", ["positive"], ["y"], "choose", then_branch=branch("Identity"), else_branch=branch("Neg")
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [zero],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
