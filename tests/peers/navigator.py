"""Runs in Triton Model Navigator's environment, as its documentation has it: `navigator.py MODEL FORMAT FOLDER`."""

import pathlib
import sys

import model_navigator as nav
import torch
from transformers import AutoModelForImageClassification

FORMATS = {
    "onnx": (nav.Format.ONNX, "OnnxCPU"),
    "torchscript": (nav.Format.TORCHSCRIPT, "TorchScriptCPU"),
    "tensorrt": (nav.Format.TENSORRT, "TensorRT"),
}


class Logits(torch.nn.Module):
    """Navigator wants tensors out of the model, and transformers returns records."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values):
        return self.model(pixel_values).logits


def main(model, name, folder):
    target, runner = FORMATS[name]
    package = nav.torch.optimize(
        model=Logits(AutoModelForImageClassification.from_pretrained(model).eval()),
        dataloader=[torch.randn(2, 3, 224, 224) for _ in range(2)],
        target_formats=(target,),
        # By default it also compiles the source with torch.compile, to compare speeds: that is no export.
        runners=("TorchCPU", runner),
        target_device=nav.DeviceKind.CUDA if name == "tensorrt" else nav.DeviceKind.CPU,
        input_names=("pixel_values",),
        output_names=("logits",),
        workspace=pathlib.Path(folder),
    )
    if package.is_empty():
        raise SystemExit("Navigator made nothing")


if __name__ == "__main__":
    main(*sys.argv[1:])
