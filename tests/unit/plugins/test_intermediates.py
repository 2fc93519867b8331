"""What the runners show of a run: the values, what they were made from, and the places that they come from."""

from __future__ import annotations

import numpy as np
import pytest

from registry_export.entities import Interface

X = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
W = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
RELU = np.maximum(X @ W, 0)


def shown(runner, inputs):
    return {one.name: (None if one.value is None else np.array(one.value), one) for one in runner.intermediates(inputs)}


def test_an_onnx_file_shows_its_nodes_with_weights_beside_it(tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    from registry_export_plugins._onnx import intermediates
    from registry_export_plugins._onnx.runner import OnnxRunner

    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Transpose", ["w"], ["t"]),
        helper.make_node("Relu", ["m"], ["r"]),
        helper.make_node("Shape", ["r"], ["s"]),
        helper.make_node("Split", ["r"], ["a", "b"], axis=1, num_outputs=2),
        helper.make_node("MatMul", ["r", "t"], ["y"]),
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", "a")]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [onnx.numpy_helper.from_array(W, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path = tmp_path / "model.onnx"
    onnx.save_model(model, path, save_as_external_data=True, size_threshold=0, location="weights.bin")
    before = path.read_bytes()
    monkeypatch.setattr(intermediates, "_FIRST", 1)  # in several runs
    found = shown(OnnxRunner(path, Interface(())), {"x": X})
    assert list(found) == ["m", "r", "s", "a", "b", "y"]  # not "t", which depends on no input
    np.testing.assert_allclose(found["r"][0], RELU, rtol=1e-5, atol=1e-6)
    assert found["s"][0] is None
    assert found["b"][1].after == ("r",)
    assert found["y"][1].operator == "MatMul"
    assert path.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "weights.bin"]


def test_an_openvino_model_shows_its_operations(tmp_path, monkeypatch):
    ov = pytest.importorskip("openvino")
    from openvino import opset13

    from registry_export_plugins._openvino import intermediates
    from registry_export_plugins._openvino.runner import OpenVINORunner

    x = opset13.parameter([-1, 3], np.float32, name="x")
    product = opset13.matmul(x, opset13.constant(W), False, False, name="product")
    kept = opset13.relu(product, name="kept")
    halves = opset13.split(kept, opset13.constant(np.int64(1)), 2, name="halves")
    model = ov.Model([opset13.result(halves.output(0)), opset13.result(halves.output(1))], [x], "m")
    ov.save_model(model, tmp_path / "model.xml", compress_to_fp16=False)
    monkeypatch.setattr(intermediates, "_FIRST", 2)
    runner = OpenVINORunner(tmp_path / "model.xml", Interface(()))
    found = shown(runner, {runner.interface.inputs[0].name: X})
    assert list(found) == ["product", "kept", "halves", "halves.1"]
    np.testing.assert_allclose(found["halves.1"][0], RELU[:, 2:], rtol=1e-5, atol=1e-6)
    assert found["halves.1"][1].after == ("kept",)
    assert found["product"][1].after == ()


@pytest.fixture(scope="module")
def net():
    torch = pytest.importorskip("torch")

    class Inner(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.line = torch.nn.Linear(3, 4)
            self.act = torch.nn.ReLU(inplace=True)

        def forward(self, x):
            return {"a": self.act(self.line(x)), "rest": (x * 2,)}

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Inner()

        def forward(self, x):
            found = self.inner(x)
            filled = torch.zeros(x.shape[0], 6)
            filled[:, :4] = found["a"]  # written through a view
            return filled + 1 - found["rest"][0].sum()

    return Net().eval()


def runner_of(net, call=None, interface=None):
    from registry_export_plugins._torch.modules import TorchRunner, adapt

    adapter = adapt(net, Interface(()))
    return TorchRunner(call or adapter.call, interface or Interface(adapter.inputs), module=None if call else adapter)


def test_a_torch_module_shows_its_operators_with_the_modules_that_call_them(net):
    found = shown(runner_of(net), {"x": X})
    modules = {one.operator: one.module for _, one in found.values()}
    assert modules["addmm"] == "inner.line"
    assert modules["relu_"] == "inner.act"
    assert modules["mul"] == "inner"
    assert modules["add"] == ""
    names = {one.operator: one.name for _, one in found.values()}
    last = found[names["sub"]]
    np.testing.assert_allclose(last[0], runner_of(net).infer({"x": X})["output"], rtol=1e-6)
    assert found[names["add"]][1].after == (names["copy_"],)
    assert names["relu_"] in found[names["copy_"]][1].after


@pytest.mark.parametrize("frozen", [False, True])
def test_torchscript_shows_its_operators(net, frozen):
    import torch

    script = torch.jit.trace(net, torch.from_numpy(X))
    script = torch.jit.freeze(script.eval()) if frozen else script
    from registry_export_plugins._torch.modules import adapt

    found = shown(runner_of(net, adapt(script, Interface(())).call), {"x": X})
    assert [one.operator for _, one in found.values() if one.operator in ("addmm", "sub", "rsub")] == ["addmm", "sub"]
    np.testing.assert_allclose(list(found.values())[-1][0], runner_of(net).infer({"x": X})["output"], rtol=1e-6)


def test_a_program_shows_its_nodes_with_the_modules_that_they_were_traced_in(net):
    import torch

    from registry_export_plugins._torch.programs import ProgramCall

    call = ProgramCall(torch.export.export(net, (torch.from_numpy(X),)), Interface(()))
    found = shown(runner_of(net, call, Interface(call.inputs)), {"x": X})
    assert found["linear"][1].module == "inner.line"
    assert found["relu_"][1].after == ("linear",)
    assert found["relu_"][1].module == "inner.act"
    np.testing.assert_allclose(list(found.values())[-1][0], runner_of(net).infer({"x": X})["output"], rtol=1e-6)


def test_what_goes_wrong_inside_the_watched_call_is_raised(net):
    def call(tensors):
        net(tensors[0])
        raise ArithmeticError("inside")

    with pytest.raises(ArithmeticError, match="inside"):
        shown(runner_of(net, call), {"x": X})
