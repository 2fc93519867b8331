"""ONNX: from PyTorch, TorchScript, `torch.export` programs, Keras, TensorFlow, and ONNX at another opset.

Source: https://onnx.ai/onnx/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from registry_export.entities import Description, Interface, OptionValue, RuntimeNeed, Snippet, TensorSpec
from registry_export.format import (
    DYNAMIC_DIMENSIONS,
    EXPORTED_PROGRAM,
    KERAS_MODEL,
    ONNX_MODEL,
    TF_FUNCTION,
    TORCH_MODULE,
    TORCHSCRIPT,
    Conversion,
    ConversionRequest,
    ConversionResult,
    Convert,
    Inside,
    Option,
    Runner,
    Toolchain,
    precision_option,
    quantization_option,
)
from registry_export_plugins._snippets import arrays, count, cpp_type, each, listed, names_of, sizes, snippet
from registry_export_plugins._toolchains import ONNX, TENSORFLOW, TORCH

DEFAULT_OPSET = 20
LOWEST_OPSET = 7
HIGHEST_OPSET = 28
"""The newest that any supported `onnx` knows; the installed one may know fewer, and then says so."""
_LOWEST_TENSORFLOW_OPSET = 9

OPSET_VERSION = Option(
    "opset_version",
    int,
    None,
    "opset{value}",
    minimum=LOWEST_OPSET,
    maximum=HIGHEST_OPSET,
    help=f"opset of the file; {DEFAULT_OPSET} when exporting, an ONNX source keeps its own",
)
OPTIMIZE = Option("optimize", bool, False, "optimized", help="simplify the graph with onnxslim")
QDQ = Option(
    "qdq",
    str,
    "full",
    "{value}",
    choices=("full", "symmetric"),
    help="of static int8: quantize all that ONNX Runtime can, or as accelerators (TensorRT) take it: Conv, MatMul and "
    "Gemm alone, zero points of 0, float biases",
)
EXTERNAL_DATA = Option(
    "external_data", bool, False, "external", help="weights in model.onnx.data; beyond 1.5 GB they are there anyway"
)
TRANSLATION_TABLE = Option(
    "custom_translation_table",
    str,
    None,
    "table-{value}",
    help="package.module:TABLE, passed to torch.onnx.export: PyTorch operator -> function that writes ONNX",
    code=True,
)
LIBRARY = Option(
    "custom_ops_library",
    str,
    None,
    "library-{value}",
    help="shared library with custom operators for ONNX Runtime: a path, or package.module:callable that returns it",
    code=True,
)


_OF_TORCH = (TORCH_MODULE, EXPORTED_PROGRAM)
_TORCH_OPSET, _TORCH_IR = 18, 10
"""From this opset on PyTorch's newer exporter comes first, which writes this IR version for every opset; the older one
and tf2onnx write none that is newer than the opset's own."""


def _opset(request: ConversionRequest) -> int:
    value = request.options.get(OPSET_VERSION.name)
    return value if isinstance(value, int) else DEFAULT_OPSET


def _wanted(request: ConversionRequest, opset: int | None) -> Any:
    from registry_export_plugins._onnx.candidates import wanted_of
    from registry_export_plugins._onnx.libraries import library_file

    return wanted_of(request, opset, library_file(request.options.get(LIBRARY.name)))


def _from_torch_module(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    from registry_export_plugins._onnx.torch import from_torch_module

    return from_torch_module(model, output, request, _wanted(request, _opset(request)))


def _from_exported_program(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    from registry_export_plugins._onnx.torch import from_exported_program

    return from_exported_program(model, output, request, _wanted(request, _opset(request)))


def _from_torchscript(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    from registry_export_plugins._onnx.torch import from_torchscript

    return from_torchscript(model, output, request, _wanted(request, _opset(request)))


def _from_keras_model(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    from registry_export_plugins._tensorflow.to_onnx import convert_keras

    made = request.work / "converted.onnx"
    result = convert_keras(model, made, max(_opset(request), _LOWEST_TENSORFLOW_OPSET), request.interface)
    return _finished(made, output, request, result)


def _from_tf_function(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    from registry_export_plugins._tensorflow.to_onnx import convert_tf_function

    made = request.work / "converted.onnx"
    result = convert_tf_function(model, made, max(_opset(request), _LOWEST_TENSORFLOW_OPSET), request.interface)
    return _finished(made, output, request, result)


def _finished(made: Path, output: Path, request: ConversionRequest, result: ConversionResult) -> ConversionResult:
    from registry_export_plugins._onnx.finishing import settle_and_deliver

    return settle_and_deliver(made, output, request.interface, _wanted(request, _opset(request)), result)


def _from_onnx_model(model: Path, output: Path, request: ConversionRequest) -> ConversionResult:
    """Copy the files as they are, or bring the model to another opset, simplify it, change its precision."""
    from registry_export_plugins._onnx.source import from_onnx_model

    opset = request.options.get(OPSET_VERSION.name)
    return from_onnx_model(
        model, output, request.interface, _wanted(request, opset if isinstance(opset, int) else None)
    )


def _for_pytorch_only(options: Mapping[str, OptionValue]) -> str:
    return "custom_translation_table is for PyTorch's exporter" if options.get(TRANSLATION_TABLE.name) else ""


def _calibrates(options: Mapping[str, OptionValue]) -> bool:
    return options.get("precision") == "int8" and options.get("quantization", "static") == "static"


def _edge(kind: str, function: Convert, toolchain: Toolchain, cost: float, *requirements: str) -> Conversion:
    accepts = (lambda _: "") if kind in (TORCH_MODULE, EXPORTED_PROGRAM) else _for_pytorch_only
    return Conversion(
        kind, function, toolchain, cost, requirements=requirements, accepts=accepts, calibrates=_calibrates
    )


class Onnx:
    """The format `onnx`; see `registry_export.format.Format` for what its members mean."""

    name = "onnx"
    summary = "ONNX model (.onnx)"
    extra = "onnx"
    requirements = ("onnx", "onnxruntime")
    toolchain = ONNX
    kind = ONNX_MODEL
    filename = "model.onnx"
    options = (
        OPSET_VERSION,
        OPTIMIZE,
        precision_option("fp32", "fp16", "bf16", "int8"),
        quantization_option("static", "dynamic"),
        QDQ,
        EXTERNAL_DATA,
        TRANSLATION_TABLE,
        LIBRARY,
        DYNAMIC_DIMENSIONS,
    )
    conversions = (
        _edge(TORCH_MODULE, _from_torch_module, TORCH, 2.0, "torch", "onnxscript"),
        _edge(EXPORTED_PROGRAM, _from_exported_program, TORCH, 1.5, "torch", "onnxscript"),
        _edge(TORCHSCRIPT, _from_torchscript, TORCH, 1.5, "torch"),
        _edge(KERAS_MODEL, _from_keras_model, TENSORFLOW, 1.5, "tensorflow", "tf2onnx"),
        _edge(TF_FUNCTION, _from_tf_function, TENSORFLOW, 1.5, "tensorflow", "tf2onnx"),
        _edge(ONNX_MODEL, _from_onnx_model, ONNX, 0.5),
    )
    verified_by = "ONNX Runtime on the CPU"

    def locate(self, folder: Path, flavors: Mapping[str, Mapping[str, Any]]) -> Path | None:
        """Find the file of the flavor `onnx`, or the only `.onnx` file of a plain folder."""
        if flavors and "onnx" not in flavors:
            return None
        place = folder / str(flavors["onnx"].get("data", self.filename)) if flavors else folder
        if place.is_file():
            return place
        if (place / self.filename).is_file():
            return place / self.filename
        found = sorted(place.glob("*.onnx")) if place.is_dir() else []
        return found[0] if len(found) == 1 else None

    def load(self, path: Path, interface: Interface) -> Path:
        """Return the path: an ONNX model is its file."""
        return path

    @contextmanager
    def open(self, path: Path, interface: Interface) -> Iterator[Runner]:
        """Load a model into ONNX Runtime."""
        from registry_export_plugins._onnx.runner import OnnxRunner

        yield OnnxRunner(path, interface)

    def describe(self, path: Path) -> Description:
        """Read opsets, inputs, outputs and precision from the file; its weights stay where they are."""
        from registry_export_plugins._onnx import files
        from registry_export_plugins._onnx.opsets import opset_of

        model = files.read(path, weights=False)
        producer = f"{model.producer_name} {model.producer_version}".strip()
        return Description(
            interface=files.interface_of(model),
            opset_version=opset_of(model),
            opset_imports=files.opset_imports(model),
            ir_version=int(model.ir_version),
            precision=files.precision_of(model),
            details={"producer": producer or "unknown", "nodes": str(files.count_nodes(model))},
        )

    def snippets(self, description: Description) -> tuple[Snippet, ...]:
        """Show ONNX Runtime in Python and C++."""
        inputs, outputs = description.interface.inputs, description.interface.outputs
        python = """
            import numpy as np
            import onnxruntime

            session = onnxruntime.InferenceSession("model.onnx")
            outputs = session.run(None, «inputs»)
        """
        cpp = """
            #include <onnxruntime_cxx_api.h>

            Ort::Env env;
            Ort::Session session(env, "model.onnx", Ort::SessionOptions{});
            auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
            std::vector<Ort::Value> tensors;
            «tensors»
            const char* inputs[] = {«inputs»};
            const char* outputs[] = {«outputs»};
            auto results = session.Run(
                Ort::RunOptions{}, inputs, tensors.data(), tensors.size(), outputs, std::size(outputs));
        """

        def line(_: int, name: str, spec: TensorSpec) -> str:
            kind, shape = cpp_type(spec), listed(sizes(spec))
            return (
                f"std::array<{kind}, {count(spec)}> {name}{{}};\n"
                f"std::array<int64_t, {len(sizes(spec))}> {name}_shape{{{shape}}};\n"
                f"tensors.push_back(Ort::Value::CreateTensor<{kind}>(\n"
                f"    memory, {name}.data(), {name}.size(), {name}_shape.data(), {name}_shape.size()));"
            )

        names = {"inputs": names_of(inputs), "outputs": names_of(outputs)}
        return (
            snippet("Python", "ONNX Runtime", python, inputs=arrays(description.interface)),
            snippet("C++", "ONNX Runtime", cpp, tensors=each(inputs, line), **names),
        )

    def needs(
        self, options: Mapping[str, OptionValue], kind: str, description: Description | None
    ) -> tuple[RuntimeNeed, ...]:
        """Say which ONNX Runtime reads the opset and the IR version; a copy of an ONNX source keeps its own."""
        from registry_export_plugins._compatibility import need, oldest

        asked = options.get(OPSET_VERSION.name)
        opset = asked if isinstance(asked, int) else None if kind == ONNX_MODEL else DEFAULT_OPSET
        ir_version = None
        if description is not None:
            opset, ir_version = description.opset_version, description.ir_version
        elif opset is not None and opset >= _TORCH_OPSET and kind in _OF_TORCH:
            ir_version = max(_TORCH_IR, int(oldest("onnx_ir", opset) or _TORCH_IR))
        by_opset = () if opset is None else (need("onnxruntime", opset, what="opset"),)
        by_ir = () if ir_version is None else (need("onnxruntime", ir_version, table="onnxruntime_ir"),)
        return (*by_opset, *by_ir)

    def inspect(self, path: Path) -> Inside:
        """Read initializers, nodes and the author's words."""
        from registry_export_plugins._onnx.contents import inside

        return inside(path)
