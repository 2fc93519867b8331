from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from registry_export.conversion import merged
from registry_export.entities import Interface, TensorSpec
from registry_export.format import ConversionRequest
from registry_export_plugins.tflite import TFLite, from_torch_module

INTERFACE = Interface((TensorSpec("x", "float32", ("batch", 5, 4)),), (TensorSpec("y", "float32", None),))


class Last(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.states, self.head = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.states(x)[0][:, -1])


@pytest.mark.parametrize(
    ("options", "precision", "least"),
    [({"precision": "fp16"}, "fp16", 50), ({"precision": "int8", "quantization": "static"}, "int8", 20)],
)
def test_a_recurrent_pytorch_module_gets_its_precision_from_litert_torchs_file(
    tmp_path: Path, options: dict, precision: str, least: float
):
    torch.manual_seed(0)
    module = Last().eval()
    x = np.random.default_rng(0).normal(size=(16, 5, 4)).astype(np.float32)
    path = tmp_path / "model.tflite"
    result = from_torch_module(module, path, ConversionRequest(options, INTERFACE, {"x": x[:2]}, tmp_path, {"x": x}))
    assert next(attempt.way for attempt in result.attempts if not attempt.error) == "litert-torch"
    assert TFLite().describe(path).precision == precision
    with torch.no_grad():
        expected = module(torch.from_numpy(x[3:4])).numpy()
    with TFLite().open(path, INTERFACE) as runner:
        noise = runner.infer({"x": x[3:4]})["y"] - expected
    assert 10 * np.log10((expected**2).sum() / (noise**2).sum()) > least


class Best(nn.Module):
    def forward(self, x):
        return x.argmax(-1)


def test_integers_that_litert_torch_narrows_are_answered_as_the_source_has_them(tmp_path: Path):
    interface = Interface(INTERFACE.inputs, (TensorSpec("y", "int64", ("batch", 5)),))
    x = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
    path = tmp_path / "model.tflite"
    from_torch_module(Best(), path, ConversionRequest({}, interface, {"x": x}, tmp_path))
    with TFLite().open(path, merged(TFLite().describe(path).interface, interface)) as runner:
        answer = runner.infer({"x": x[:1]})["y"]
    assert answer.dtype == np.int64
    np.testing.assert_array_equal(answer, x[:1].argmax(-1))
