"""The converter calls that a careful user would write, without this package: one for each target and framework.

Each converts once, loads what came out and runs it on the inputs that it was converted with. Batches are
dynamic where one argument of the call makes them so.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Arrays = list[np.ndarray]


def flat_outputs(model: Any, inputs: dict[str, np.ndarray], *, numbers: bool = False) -> Arrays:
    """Run a model of any framework here and return its tensors in order, nested ones flattened.

    With `numbers` also its Python numbers, which an export returns as tensors.
    """
    if type(model).__module__.startswith("keras"):
        return [np.asarray(model(next(iter(inputs.values())), training=False))]
    import torch

    with torch.no_grad():
        leaves = flattened(model, tuple(inputs), numbers=numbers)(*map(torch.from_numpy, inputs.values()))
        return [torch.as_tensor(leaf).numpy() for leaf in leaves]


def flattened(model: Any, names: tuple[str, ...], *, numbers: bool = False) -> Any:
    """Put the wrapper around a PyTorch module that everybody writes: positional in, a tuple of tensors out."""
    import torch
    from torch.utils import _pytree

    kinds = (torch.Tensor, int, float) if numbers else torch.Tensor

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            out = self.model(**dict(zip(names, tensors, strict=True)))
            out = out.to_tuple() if hasattr(out, "to_tuple") else out
            return tuple(leaf for leaf in _pytree.tree_leaves(out) if isinstance(leaf, kinds))

    return Flat().eval()


def convert(arguments: dict[str, str]) -> dict[str, Any]:
    """Make one raw call; runs in a child. Returns the largest difference relative to the output's size."""
    from tests.corpus.entries import build

    model, inputs = build(arguments["name"])
    folder = Path(arguments["folder"])
    family = "keras" if arguments["name"].startswith("keras/") else "torch"
    expected = flat_outputs(model, inputs)
    actual = CALLS[family][arguments["target"]](model, inputs, folder)
    if actual is None:
        return {"ran": False}
    worst = 0.0
    for e, a in zip(expected, actual, strict=True):
        a = np.asarray(a)
        rows = min(len(e), len(a)) if e.ndim else None  # a format without a batch runs one row
        e, a = (e[:rows], a[:rows]) if e.ndim else (e, a)
        size = max(float(np.abs(e.astype(np.float64)).max(initial=0)), 1e-2)
        worst = max(worst, float(np.abs(a.astype(np.float64) - e).max(initial=0)) / size)
    return {"ran": True, "relative": worst}


def _torch_parts(model: Any, inputs: dict[str, np.ndarray]) -> tuple[Any, tuple[Any, ...]]:
    import torch

    return flattened(model, tuple(inputs)), tuple(map(torch.from_numpy, inputs.values()))


def _numpy(outputs: Any) -> Arrays:
    return [t.detach().numpy() for t in (outputs if isinstance(outputs, (tuple, list)) else (outputs,))]


def _batch(args: tuple[Any, ...]) -> Any:
    import torch

    return (tuple({0: torch.export.Dim.DYNAMIC} for _ in args),)


def torch_onnx(model: Any, inputs: dict[str, np.ndarray], folder: Path) -> Arrays:
    import onnx
    import onnxruntime
    import torch

    flat, args = _torch_parts(model, inputs)
    path = folder / "model.onnx"
    torch.onnx.export(flat, args, path, dynamo=True, dynamic_shapes=_batch(args), external_data=False, verbose=False)
    onnx.checker.check_model(path)
    session = onnxruntime.InferenceSession(path)
    names = [i.name for i in session.get_inputs()]
    return session.run(None, dict(zip(names, inputs.values(), strict=True)))


def torch_torchscript(model: Any, inputs: dict[str, np.ndarray], folder: Path) -> Arrays:
    import torch

    flat, args = _torch_parts(model, inputs)
    torch.jit.trace(flat, args).save(str(folder / "model.pt"))
    return _numpy(torch.jit.load(str(folder / "model.pt"))(*args))


def torch_exported_program(model: Any, inputs: dict[str, np.ndarray], folder: Path) -> Arrays:
    import torch

    flat, args = _torch_parts(model, inputs)
    torch.export.save(torch.export.export(flat, args, dynamic_shapes=_batch(args)), folder / "model.pt2")
    return _numpy(torch.export.load(folder / "model.pt2").module()(*args))


def torch_openvino(model: Any, inputs: dict[str, np.ndarray], folder: Path) -> Arrays:
    import openvino

    torch_onnx(model, inputs, folder)
    openvino.save_model(openvino.convert_model(folder / "model.onnx"), folder / "model.xml", compress_to_fp16=False)
    compiled = openvino.Core().compile_model(folder / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    result = compiled(list(inputs.values()))
    return [result[i] for i in range(len(compiled.outputs))]


def torch_tflite(model: Any, inputs: dict[str, np.ndarray], folder: Path) -> Arrays:
    import litert_torch

    flat, args = _torch_parts(model, inputs)
    edge = litert_torch.convert(flat, args)
    edge.export(str(folder / "model.tflite"))
    result = edge(*args)
    return [np.asarray(r) for r in (result if isinstance(result, (tuple, list)) else (result,))]


def torch_coreml(model: Any, inputs: dict[str, np.ndarray], folder: Path) -> Arrays:
    import coremltools
    import torch

    flat, args = _torch_parts(model, inputs)
    shapes = [
        coremltools.TensorType(shape=(coremltools.RangeDim(1, 64), *a.shape[1:]), dtype=_coreml_dtype(a))
        for a in inputs.values()
    ]
    precision = coremltools.precision.FLOAT32
    coremltools.convert(torch.jit.trace(flat, args), inputs=shapes, compute_precision=precision).save(
        str(folder / "model.mlpackage")
    )
    return _evaluated(folder / "model.mlpackage", inputs)


def _evaluated(package: Path, inputs: dict[str, np.ndarray]) -> Arrays:
    """Run a package with the evaluator of ML programs, which stands in for Core ML."""
    from registry_export_plugins._coreml.evaluation.runner import EvaluatedModel
    from registry_export_plugins._coreml.package import Package

    opened = Package(package)
    description = opened.spec.description
    given = zip(description.input, inputs.values(), strict=True)
    outputs = EvaluatedModel(opened).predict({f.name: a.astype(_coreml_dtype(a)) for f, a in given})
    return [outputs[feature.name] for feature in description.output]


def _coreml_dtype(array: np.ndarray) -> Any:
    return np.float32 if array.dtype.kind == "f" else np.int32


def torch_ncnn(model: Any, inputs: dict[str, np.ndarray], folder: Path) -> Arrays:
    import ncnn
    import torch

    flat, args = _torch_parts(model, inputs)
    single = tuple(a[:1] for a in args)
    torch.jit.trace(flat, single).save(str(folder / "model.pt"))
    kinds = {"float32": "f32", "int64": "i64", "int32": "i32", "bool": "i8"}
    shapes = ",".join(f"[{','.join(map(str, a.shape))}]{kinds[str(a.dtype).removeprefix('torch.')]}" for a in single)
    binary = str(Path(sys.executable).parent / "pnnx")
    subprocess.run([binary, "model.pt", f"inputshape={shapes}", "fp16=0"], check=True, cwd=folder, capture_output=True)
    net = ncnn.Net()
    if net.load_param(str(folder / "model.ncnn.param")) or net.load_model(str(folder / "model.ncnn.bin")):
        raise RuntimeError("ncnn cannot load what pnnx wrote")
    extractor = net.create_extractor()
    for name, array in zip(net.input_names(), inputs.values(), strict=True):
        row = array[0].astype(np.float32) if array.dtype.kind == "f" else array[0].astype(np.int32)
        extractor.input(name, ncnn.Mat(np.ascontiguousarray(row)).clone())
    outputs = []
    for name in net.output_names():
        code, mat = extractor.extract(name)
        if code:
            raise RuntimeError(f"ncnn cannot compute {name}")
        outputs.append(np.array(mat)[None])
    return outputs


def torch_mnn(model: Any, inputs: dict[str, np.ndarray], folder: Path) -> Arrays:
    import MNN
    import MNN.expr
    import onnx

    torch_onnx(model, inputs, folder)
    script = "import sys, MNN, _tools; _tools.mnnconvert(sys.argv)"
    paths = ["--modelFile", "model.onnx", "--MNNModel", "model.mnn", "--bizCode", "x"]
    subprocess.run([sys.executable, "-c", script, "-f", "ONNX", *paths], check=True, cwd=folder, capture_output=True)
    graph = onnx.load(folder / "model.onnx").graph
    names = [i.name for i in graph.input], [o.name for o in graph.output]
    net = MNN.nn.load_module_from_file(str(folder / "model.mnn"), *names)
    kinds = {"f": MNN.expr.float, "i": MNN.expr.int, "b": MNN.expr.int}
    given = [
        MNN.expr.const(
            a.astype(np.float32 if a.dtype.kind == "f" else np.int32), list(a.shape), MNN.expr.NCHW, kinds[a.dtype.kind]
        )
        for a in inputs.values()
    ]
    return [np.array(MNN.expr.convert(o, MNN.expr.NCHW).read()) for o in net.forward(given)]


def torch_executorch(model: Any, inputs: dict[str, np.ndarray], folder: Path) -> Arrays:
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime

    flat, args = _torch_parts(model, inputs)
    program = to_edge_transform_and_lower(torch.export.export(flat, args), partitioner=[XnnpackPartitioner()])
    (folder / "model.pte").write_bytes(program.to_executorch().buffer)
    method = Runtime.get().load_program(folder / "model.pte").load_method("forward")
    return _numpy(method.execute(list(args)))


def torch_tensorrt(model: Any, inputs: dict[str, np.ndarray], folder: Path) -> None:
    torch_onnx(model, inputs, folder)
    _engine(folder, {name: array.shape for name, array in zip(_onnx_inputs(folder), inputs.values(), strict=True)})


def _onnx_inputs(folder: Path) -> list[str]:
    import onnx

    return [i.name for i in onnx.load(folder / "model.onnx").graph.input]


def _engine(folder: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    import tensorrt_rtx as trt

    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(folder / "model.onnx")):
        raise RuntimeError(str(parser.get_error(0)))
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for name, shape in shapes.items():
        profile.set_shape(name, (1, *shape[1:]), shape, (64, *shape[1:]))
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise RuntimeError("no engine was built")
    (folder / "model.engine").write_bytes(engine)


def keras_keras(model: Any, inputs: dict[str, np.ndarray], folder: Path) -> Arrays:
    import keras

    model.save(folder / "model.keras")
    return flat_outputs(keras.models.load_model(folder / "model.keras"), inputs)


def keras_saved_model(model: Any, inputs: dict[str, np.ndarray], folder: Path) -> Arrays:
    import tensorflow as tf

    model.export(folder / "model", verbose=False)
    return [tf.saved_model.load(folder / "model").serve(next(iter(inputs.values()))).numpy()]


def _concrete(model: Any) -> Any:
    import tensorflow as tf

    shape = (None, *model.inputs[0].shape[1:])
    return tf.function(lambda x: model(x, training=False)).get_concrete_function(tf.TensorSpec(shape, tf.float32))


def keras_frozen_graph(model: Any, inputs: dict[str, np.ndarray], folder: Path) -> Arrays:
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    frozen = convert_variables_to_constants_v2(_concrete(model))
    tf.io.write_graph(frozen.graph, str(folder), "model.pb", as_text=False)
    return [np.asarray(frozen(tf.constant(next(iter(inputs.values()))))[0])]


def keras_tflite(model: Any, inputs: dict[str, np.ndarray], folder: Path) -> Arrays:
    import tensorflow as tf

    content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    (folder / "model.tflite").write_bytes(content)
    from ai_edge_litert.interpreter import Interpreter

    array = next(iter(inputs.values()))
    interpreter = Interpreter(model_content=content)
    place = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(place, array.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(place, array)
    interpreter.invoke()
    return [interpreter.get_tensor(interpreter.get_output_details()[0]["index"])]


def keras_onnx(model: Any, inputs: dict[str, np.ndarray], folder: Path) -> Arrays:
    import onnxruntime
    import tensorflow as tf
    import tf2onnx

    signature = [tf.TensorSpec((None, *model.inputs[0].shape[1:]), tf.float32, name="x")]
    function = tf.function(lambda x: model(x, training=False), input_signature=signature)
    tf2onnx.convert.from_function(function, signature, opset=18, output_path=str(folder / "model.onnx"))
    return onnxruntime.InferenceSession(folder / "model.onnx").run(None, {"x": next(iter(inputs.values()))})


def keras_openvino(model: Any, inputs: dict[str, np.ndarray], folder: Path) -> Arrays:
    import openvino

    model.export(folder / "model", verbose=False)
    compiled = openvino.Core().compile_model(
        openvino.convert_model(folder / "model"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    return [compiled([next(iter(inputs.values()))])[0]]


def keras_coreml(model: Any, inputs: dict[str, np.ndarray], folder: Path) -> Arrays:
    import coremltools

    coremltools.convert(model, compute_precision=coremltools.precision.FLOAT32).save(str(folder / "model.mlpackage"))
    return _evaluated(folder / "model.mlpackage", inputs)


def keras_tensorrt(model: Any, inputs: dict[str, np.ndarray], folder: Path) -> None:
    keras_onnx(model, inputs, folder)
    _engine(folder, {"x": next(iter(inputs.values())).shape})


_Call = Callable[[Any, dict[str, np.ndarray], Path], "Arrays | None"]
CALLS: dict[str, dict[str, _Call]] = {
    family: {
        name.removeprefix(f"{family}_"): value for name, value in globals().items() if name.startswith(f"{family}_")
    }
    for family in ("torch", "keras")
}
"""Framework -> target -> the call. A call that returns None makes a file that cannot run here."""
