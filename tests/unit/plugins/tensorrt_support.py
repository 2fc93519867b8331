"""Makes an engine of a PyTorch module as the core does: the intermediate that the edge asks for, then the edge."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from registry_export.entities import Interface, TensorSpec
from registry_export.format import TORCH_MODULE, ConversionRequest
from registry_export_plugins.onnx import Onnx
from registry_export_plugins.tensorrt import TensorRT
from tests.unit.plugins.torch_support import SIZES, draw

if TYPE_CHECKING:
    from tests.unit.plugins.torch_support import Source

OPTIONS = {option.name: option.default for option in TensorRT.options}


def make_request(source: Source, work: Path, **options) -> ConversionRequest:
    work.mkdir(exist_ok=True)
    return ConversionRequest(OPTIONS | options, source.interface, source.runs[0][0], work)


def to_onnx(source: Source, folder: Path, **options) -> Path:
    """Make the intermediate that the edge asks for, as the core does."""
    folder.mkdir(exist_ok=True)
    (folder / "onnx-work").mkdir()
    defaults = {option.name: option.default for option in Onnx.options}
    asked = TensorRT.conversions[0].asks(OPTIONS | options)
    assert set(asked) <= set(defaults), "an intermediate is asked for options that it has"
    rows = draw(source.interface.inputs, SIZES[0] | {"batch": 40}, seed=7)
    request = ConversionRequest(defaults | dict(asked), source.interface, source.runs[0][0], folder / "onnx-work", rows)
    conversion = next(c for c in Onnx.conversions if c.kind == TORCH_MODULE and not c.accepts(request.options))
    conversion.function(source.load(), folder / "model.onnx", request)
    return folder / "model.onnx"


def build(model: Path, request: ConversionRequest, folder: Path):
    (folder / "engine").mkdir()
    path = folder / "engine" / "model.engine"
    return path, TensorRT.conversions[0].function(model, path, request)


def from_torch(source: Source, folder: Path, **options):
    model = to_onnx(source, folder / "onnx", **options)
    return build(model, make_request(source, folder / "work", **options), folder)


ROW = TensorSpec("a", "float32", ("batch", 4))


def onnx_file(folder: Path, nodes, inputs, outputs, weights=None, opset: int = 20) -> Path:
    graph = helper.make_graph(
        nodes, "graph", inputs, outputs, [numpy_helper.from_array(v, k) for k, v in (weights or {}).items()]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 9
    folder.mkdir(exist_ok=True)
    onnx.save(model, str(folder / "model.onnx"))
    return folder / "model.onnx"


def one_node(folder: Path, operator: str, kind: int = TensorProto.FLOAT, shape=("batch", 4), opset: int = 20) -> Path:
    ends = [helper.make_tensor_value_info(name, kind, shape) for name in "ab"]
    return onnx_file(
        folder, [helper.make_node(operator, ["a"], ["b"], name="the_node")], ends[:1], ends[1:], opset=opset
    )


def request_for(folder: Path, *inputs: TensorSpec, outputs=(), **options) -> ConversionRequest:
    (folder / "work").mkdir(exist_ok=True)
    samples = {
        spec.name: np.ones([2 if isinstance(size, str) else size for size in spec.shape], spec.dtype) for spec in inputs
    }
    return ConversionRequest(OPTIONS | options, Interface(inputs, outputs), samples, folder / "work")
