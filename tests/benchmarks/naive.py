"""The yardstick: what a careful user scripts. `python -m tests.benchmarks.naive FORMAT CHECKPOINT FOLDER`.

One format in one fresh process: load the checkpoint (a pickled module), convert it once, run the file once and compare.
Core ML and TensorRT files cannot be run here and are not. Formats that are made of ONNX use the file of the format
`onnx` where it is there already. Nothing is done that the user would not need: no manifest, no other inputs, no limits.
Formats are made one after another (`run_all`), as by a shell's loop.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

FORMATS = (
    "torchscript", "exported_program", "onnx", "openvino", "tensorrt", "mnn", "ncnn", "tflite", "coreml", "executorch",
)  # fmt: skip
"""In this order, so that the file that others are made of is there."""

_LARGEST_BATCH = 64


class Job:
    """A model, two batches of one size and another, and a place for the file."""

    def __init__(self, checkpoint: Path, folder: Path, name: str) -> None:
        import torch

        torch.set_num_threads(os.cpu_count() or 1)
        self.folder = folder / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.onnx = folder / "onnx" / "model.onnx"
        self.model = torch.load(checkpoint, weights_only=False).eval()
        generator = torch.Generator().manual_seed(0)
        shape = json.loads((checkpoint.parent / "shape.json").read_text())
        self.example, self.other = (torch.randn(batch, *shape, generator=generator) for batch in (2, 4))

    def path(self, name: str) -> str:
        return str(self.folder / name)

    @cached_property
    def dynamic_batch(self) -> tuple[dict[int, Any]]:
        import torch

        return ({0: torch.export.Dim("batch", min=1, max=_LARGEST_BATCH)},)

    def existing_onnx(self) -> str:
        if not self.onnx.exists():
            self.onnx.parent.mkdir(exist_ok=True)
            write_onnx(self, str(self.onnx))
        return str(self.onnx)


Checked = tuple[Any, Any] | None
"""The tensor that went in and the array that came out; None where the file cannot be run here."""


def write_onnx(job: Job, path: str) -> None:
    import torch

    with contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(
            job.model,
            (job.example,),
            path,
            dynamo=True,
            input_names=["input"],
            output_names=["output"],
            dynamic_shapes=job.dynamic_batch,
            external_data=False,
            verbose=False,
        )


def onnx(job: Job) -> Checked:
    path = job.path("model.onnx")
    write_onnx(job, path)
    import onnx as onnx_
    import onnxruntime

    onnx_.checker.check_model(path)
    return job.other, onnxruntime.InferenceSession(path).run(None, {"input": job.other.numpy()})[0]


def torchscript(job: Job) -> Checked:
    import torch

    path = job.path("model.pt")
    torch.jit.trace(job.model, job.example).save(path)
    return job.other, torch.jit.load(path)(job.other).numpy()


def exported_program(job: Job) -> Checked:
    import torch

    path = job.path("model.pt2")
    torch.export.save(torch.export.export(job.model, (job.example,), dynamic_shapes=job.dynamic_batch), path)
    return job.other, torch.export.load(path).module()(job.other).numpy()


def openvino(job: Job) -> Checked:
    import openvino as ov

    path = job.path("model.xml")
    ov.save_model(ov.convert_model(job.existing_onnx()), path, compress_to_fp16=False)
    compiled = ov.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return job.other, compiled(job.other.numpy())[0]


def tensorrt(job: Job) -> Checked:
    source = job.existing_onnx()
    import tensorrt_rtx as trt

    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    if not trt.OnnxParser(network, logger).parse_from_file(source):
        raise SystemExit("TensorRT cannot parse it")
    config = builder.create_builder_config()
    shape = tuple(job.example.shape[1:])
    profile = builder.create_optimization_profile()
    profile.set_shape("input", (1, *shape), (2, *shape), (_LARGEST_BATCH, *shape))
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    Path(job.path("model.engine")).write_bytes(builder.build_serialized_network(network, config))
    return None


def mnn(job: Job) -> Checked:
    source, path = job.existing_onnx(), job.path("model.mnn")
    convert = "import sys, MNN, _tools; _tools.mnnconvert(sys.argv)"
    arguments = ["-f", "ONNX", "--modelFile", source, "--MNNModel", path, "--bizCode", "x"]
    subprocess.run([sys.executable, "-c", convert, *arguments], check=True, stdout=subprocess.DEVNULL)
    import MNN
    from MNN import expr, nn

    net = nn.load_module_from_file(path, ["input"], ["output"])
    given = expr.const(job.other.numpy(), list(job.other.shape), expr.NCHW, MNN.expr.float)
    (answer,) = net.forward([given])
    return job.other, expr.convert(answer, expr.NCHW).read()


def ncnn(job: Job) -> Checked:
    import torch

    one = job.example[:1]
    torch.jit.trace(job.model, one).save(job.path("model.pt"))
    shape = ",".join(map(str, one.shape))
    pnnx = Path(sys.executable).with_name("pnnx")
    subprocess.run(
        [pnnx, "model.pt", f"inputshape=[{shape}]", "fp16=0"],
        check=True, cwd=job.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    import ncnn as runtime
    import numpy as np

    net = runtime.Net()
    net.load_param(job.path("model.ncnn.param"))
    net.load_model(job.path("model.ncnn.bin"))
    extractor = net.create_extractor()
    extractor.input(net.input_names()[0], runtime.Mat(one[0].numpy()).clone())
    return one, np.array(extractor.extract(net.output_names()[0])[1])[None]


def tflite(job: Job) -> Checked:
    import litert_torch

    path = job.path("model.tflite")
    litert_torch.convert(job.model, (job.example,)).export(path)
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], job.example.numpy())
    interpreter.invoke()
    return job.example, interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def coreml(job: Job) -> Checked:
    import coremltools as ct
    import torch

    shape = (ct.RangeDim(1, _LARGEST_BATCH), *job.example.shape[1:])
    converted = ct.convert(
        torch.jit.trace(job.model, job.example),
        inputs=[ct.TensorType(shape=shape)],
        compute_precision=ct.precision.FLOAT32,
    )
    converted.save(job.path("model.mlpackage"))
    return None


def executorch(job: Job) -> Checked:
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    exported = torch.export.export(job.model, (job.example,))
    program = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
    path = job.path("model.pte")
    Path(path).write_bytes(program.buffer)
    from executorch.runtime import Runtime

    return job.example, Runtime.get().load_program(path).load_method("forward").execute([job.example])[0].numpy()


CONVERTERS: Mapping[str, Callable[[Job], Checked]] = {
    function.__name__: function
    for function in (
        torchscript, exported_program, onnx, openvino, tensorrt, mnn, ncnn, tflite, coreml, executorch,
    )
}  # fmt: skip


@dataclass(frozen=True)
class Took:
    """What one format took: wall and processor time of its process, from its start to its end, in seconds."""

    seconds: float
    cpu_seconds: float
    max_abs_diff: float | None


def run(name: str, checkpoint: Path, folder: Path) -> Took:
    """Make one format in a fresh process.

    Raises:
        RuntimeError: It failed, or what it made answers otherwise.
    """
    began, before = time.perf_counter(), os.times()
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.naive", name, str(checkpoint), str(folder)],
        capture_output=True, text=True, check=False, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    seconds, after = time.perf_counter() - began, os.times()
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
    said = json.loads(done.stdout.splitlines()[-1])
    if said["difference"] is not None and not said["difference"] <= 1e-3 * said["largest"]:
        raise RuntimeError(f"{name} answers otherwise by {said['difference']}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Took(seconds, cpu, said["difference"])


def run_all(checkpoint: Path, folder: Path, names: Sequence[str] = FORMATS) -> dict[str, Took]:
    """Make formats one after another, each in a fresh process."""
    return {name: run(name, checkpoint, folder) for name in names}


def main(name: str, checkpoint: str, folder: str) -> None:
    """Make one format in this process, and print how far it is from the model."""
    import numpy as np
    import torch

    job = Job(Path(checkpoint), Path(folder), name)
    with torch.no_grad():
        checked = CONVERTERS[name](job)
        difference, expected = None, job.model(job.other).numpy()
        if checked is not None:
            given, got = checked
            expected = expected if given is job.other else job.model(given).numpy()
            difference = float(np.abs(np.array(got).reshape(expected.shape) - expected).max())
    print(json.dumps({"difference": difference, "largest": float(np.abs(expected).max())}))


if __name__ == "__main__":
    main(*sys.argv[1:])
