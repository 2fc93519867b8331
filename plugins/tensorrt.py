"""TensorRT: an engine for NVIDIA GPUs, by `tensorrt` or `tensorrt_rtx`.

A `tensorrt` that the user installed from NVIDIA is used first. `tensorrt_rtx`, which the extra installs,
builds engines for named compute capabilities without a GPU. ONNX is the way in, and holds the precision:
the network is strongly typed, so a layer computes in the types of its tensors.

Sources: https://docs.nvidia.com/deeplearning/tensorrt/latest/, https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from registry_export.entities import Description, Interface, OptionValue, RuntimeNeed, Snippet, TensorSpec
from registry_export.format import (
    DYNAMIC_DIMENSIONS,
    ONNX_MODEL,
    Conversion,
    ConversionRequest,
    ConversionResult,
    Inside,
    Option,
    Runner,
    Toolchain,
    precision_option,
)
from registry_export_plugins._snippets import each, listed, quoted, sizes, snippet, tensor
from registry_export_plugins._target_only import TargetOnly
from registry_export_plugins._tensorrt.flavour import MODULE
from registry_export_plugins._toolchains import installed, ours

TENSORRT = Toolchain(
    name="tensorrt",
    modules=installed(MODULE, "onnx"),
    late=ours("_tensorrt.convert", "_tensorrt.engine", "_onnx.opsets", "_compatibility"),
    resource="cuda",
)
"""TensorRT or TensorRT-RTX; importing them starts nothing on a GPU, so a child may be forked."""

PRECISION = precision_option("fp32", "fp16", "bf16", "int8")
DEVICE = Option(
    "device",
    str,
    None,
    "{value}",
    pattern=r"sm\d{2,3}(\+sm\d{2,3})*",
    form="a compute capability, as sm89, or several, as sm80+sm89",
    help="what to build for; by default sm80 and newer, or the GPU that is here",
)


def _from_onnx_model(model: Path, output: Path, request: ConversionRequest) -> ConversionResult:
    from registry_export_plugins._tensorrt.convert import convert

    return convert(model, output, request)


def _intermediate(options: Mapping[str, OptionValue]) -> Mapping[str, OptionValue]:
    """Ask for an ONNX in the engine's precision; bfloat16 is made from float32, because ONNX's tools lack it."""
    precision = options.get(PRECISION.name)
    if precision == "int8":
        return {"precision": "int8", "quantization": "static", "qdq": "symmetric"}
    return {"precision": "fp16"} if precision == "fp16" else {}


def _calibrates(options: Mapping[str, OptionValue]) -> bool:
    return options.get(PRECISION.name) == "int8"


class TensorRT(TargetOnly):
    """The format `tensorrt`; see `registry_export.format.Format` for what its members mean."""

    name = "tensorrt"
    summary = "TensorRT engine (.engine)"
    extra = "tensorrt"
    requirements = (MODULE,)
    toolchain = TENSORRT
    filename = "model.engine"
    options = (PRECISION, DEVICE, DYNAMIC_DIMENSIONS)
    conversions = (
        Conversion(
            ONNX_MODEL,
            _from_onnx_model,
            TENSORRT,
            cost=2.0,
            requirements=("onnx",),
            intermediate=_intermediate,
            calibrates=_calibrates,
        ),
    )
    verified_by = "TensorRT on the GPU it was built for; elsewhere its inputs and outputs are checked"

    @contextmanager
    def open(self, path: Path, interface: Interface) -> Iterator[Runner]:
        """Check the engine's inputs and outputs, and load it onto the GPU.

        Raises:
            VerificationError: The engine's inputs or outputs are not those of the interface.
            RuntimeAbsentError: There is no GPU here that it was built for.
        """
        from registry_export_plugins._tensorrt.runner import running

        with running(path, interface) as runner:
            yield runner

    def describe(self, path: Path) -> Description:
        """Read inputs, outputs, precision and devices from the engine, by TensorRT where there is a GPU."""
        from registry_export_plugins._tensorrt.engine import describe

        return describe(path)

    def inspect(self, path: Path) -> Inside:
        """Say what an engine keeps to itself; its inputs, outputs and devices are in its description."""
        return Inside(
            unsaid=(
                "Tensors: an engine holds its weights in a form of the GPU's own, which nothing but TensorRT reads.",
                "Operators: its layers are those that TensorRT made of the model's; look into the ONNX export instead.",
            )
        )

    def needs(
        self, options: Mapping[str, OptionValue], kind: str, description: Description | None
    ) -> tuple[RuntimeNeed, ...]:
        """Say that an engine runs in the version that built it, on the GPUs that it was built for."""
        from registry_export_plugins._compatibility import installed_version
        from registry_export_plugins._tensorrt.flavour import PRODUCTS
        from registry_export_plugins._tensorrt.plan import AMPERE_AND_NEWER

        version = installed_version(MODULE.replace("_", "-"))
        device = str(options.get(DEVICE.name) or "").replace("+", ", ")
        by_default = (
            ", ".join(AMPERE_AND_NEWER) if MODULE == "tensorrt_rtx" else "the GPU of the machine that builds it"
        )
        if description is not None:
            version, device = description.format_version or version, description.details.get("devices", device)
        runtime = RuntimeNeed("tensorrt", f"{PRODUCTS[MODULE]} {version} itself, on the same system".replace("  ", " "))
        return runtime, RuntimeNeed("gpu", f"GPUs of compute capability {device or by_default}")

    def runs_here(self, description: Description) -> str:
        """Say why no GPU here can run an engine; empty where one can."""
        from registry_export_plugins._tensorrt.engine import unfit_description

        return unfit_description(description)

    def snippets(self, description: Description) -> tuple[Snippet, ...]:
        """Show TensorRT in Python, with PyTorch for the memory of the GPU, and in C++."""
        inputs, outputs = description.interface.inputs, description.interface.outputs
        rtx = "RTX" in description.details.get("builder", "")
        python = """
            import «package» as trt
            import torch

            engine = trt.Runtime(trt.Logger()).deserialize_cuda_engine(open("model.engine", "rb").read())
            context = engine.create_execution_context()
            «inputs»
            «outputs»
            context.execute_async_v3(torch.cuda.current_stream().cuda_stream)
        """
        cpp = """
            #include <NvInfer.h>

            std::ifstream file("model.engine", std::ios::binary);
            std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
            std::unique_ptr<nvinfer1::IRuntime> runtime(nvinfer1::createInferRuntime(logger));
            std::unique_ptr<nvinfer1::ICudaEngine> engine(runtime->deserializeCudaEngine(bytes.data(), bytes.size()));
            std::unique_ptr<nvinfer1::IExecutionContext> context(engine->createExecutionContext());
            «inputs»
            «outputs»
            context->enqueueV3(stream);
        """

        def given(_: int, name: str, spec: TensorSpec) -> str:
            shape = f"context.set_input_shape({quoted(spec.name)}, tuple({name}.shape))"
            return f"{name} = {tensor(spec)}.cuda()\n{shape}\n{bound(name, spec)}"

        def taken(_: int, name: str, spec: TensorSpec) -> str:
            shape, kind = f"tuple(context.get_tensor_shape({quoted(spec.name)}))", spec.dtype or "float32"
            return f'{name} = torch.empty({shape}, dtype=torch.{kind}, device="cuda")\n{bound(name, spec)}'

        def bound(name: str, spec: TensorSpec) -> str:
            return f"context.set_tensor_address({quoted(spec.name)}, {name}.data_ptr())"

        def given_in_cpp(i: int, name: str, spec: TensorSpec) -> str:
            shape = f"nvinfer1::Dims{{{len(sizes(spec))}, {{{listed(sizes(spec))}}}}}"
            return f"context->setInputShape({quoted(spec.name)}, {shape});\n{taken_in_cpp(i, name, spec)}"

        def taken_in_cpp(_: int, name: str, spec: TensorSpec) -> str:
            return f"context->setTensorAddress({quoted(spec.name)}, {name});  // memory of the GPU"

        lines = {"inputs": each(inputs, given), "outputs": each(outputs, taken)}
        lines_in_cpp = {"inputs": each(inputs, given_in_cpp), "outputs": each(outputs, taken_in_cpp)}
        return (
            snippet("Python", "TensorRT", python, package="tensorrt_rtx" if rtx else "tensorrt", **lines),
            snippet("C++", "TensorRT", cpp, **lines_in_cpp),
        )
