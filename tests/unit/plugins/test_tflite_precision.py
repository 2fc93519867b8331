from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from registry_export.entities import Interface, TensorSpec
from registry_export.errors import ConversionError
from registry_export.format import ConversionRequest
from registry_export_plugins.keras import Keras
from registry_export_plugins.tflite import TFLite, from_keras_model, from_keras_model_by_tensorflow
from tests.unit.plugins.keras_support import Reference, reference

UNKNOWN = Interface(inputs=())
ROWS = 16
INT8 = {"precision": "int8", "quantization": "static", "integer_io": False}


def decibels(expected: np.ndarray, actual: np.ndarray) -> float:
    exact = expected.astype(np.float64)
    return float(10 * np.log10((exact**2).sum() / max(((exact - actual) ** 2).sum(), 1e-30)))


def converted(folder: Path, made: Reference, options: dict, convert=from_keras_model):
    folder.mkdir(exist_ok=True)
    work = folder / "precise"
    work.mkdir()
    request = ConversionRequest(options, made.interface, made.sample.inputs(2), work, made.sample.inputs(ROWS))
    path = folder / "model.tflite"
    result = convert(Keras().load(made.path, UNKNOWN), path, request)
    return path, result


def worst(path: Path, made: Reference) -> float:
    with TFLite().open(path, made.interface) as runner:
        assert runner.interface.inputs[0].shape[0] == "batch"
        levels = []
        for batch in (2, 5):
            actual = runner.infer(made.sample.inputs(batch))
            assert list(actual) == list(made.expected[batch])
            for name, expected in made.expected[batch].items():
                assert actual[name].dtype == expected.dtype
                levels.append(decibels(expected, actual[name]))
    return min(levels)


@pytest.mark.parametrize(
    ("name", "least"), [("cnn", 20), pytest.param("attention", 20, marks=pytest.mark.slow), ("masked", 15)]
)
def test_static_int8_keeps_a_good_signal_and_float_edges(tmp_path: Path, name: str, least: float):
    made = reference(name, tmp_path)
    path, result = converted(tmp_path, made, INT8)
    description = TFLite().describe(path)
    assert description.precision == "int8"
    assert not any(key.startswith("quantized") for key in description.details)
    assert worst(path, made) >= least
    assert "dB" in result.notes[-1]
    assert result.attempts[-1].error == ""


@pytest.mark.parametrize("name", ["mixed"])
def test_integer_edges_are_served_by_the_files_own_scales(tmp_path: Path, name: str):
    made = reference(name, tmp_path)
    path, _ = converted(tmp_path, made, INT8 | {"integer_io": True})
    description = TFLite().describe(path)
    assert "int8, scale" in description.details["quantized image"]
    assert {spec.dtype for spec in description.interface.inputs} <= {"float32", "int32"}
    assert worst(path, made) >= 15


@pytest.mark.parametrize(
    ("name", "quantization"), [("cnn", "weight_only"), pytest.param("recurrent", "dynamic", marks=pytest.mark.slow)]
)
def test_int8_without_calibration_keeps_floats_outside(tmp_path: Path, name: str, quantization: str):
    made = reference(name, tmp_path)
    path, _ = converted(tmp_path, made, {"precision": "int8", "quantization": quantization})
    assert TFLite().describe(path).precision == "int8"
    assert worst(path, made) >= 30


@pytest.mark.parametrize("name", ["cnn", "masked"])
def test_half_precision_halves_the_weights_and_keeps_float_edges(tmp_path: Path, name: str):
    made = reference(name, tmp_path)
    path, _ = converted(tmp_path, made, {"precision": "fp16"})
    assert TFLite().describe(path).precision == "fp16"
    assert worst(path, made) >= 50


@pytest.mark.slow
def test_a_recurrent_model_is_quantized_with_its_layers_unrolled_and_tells_what_failed_before(tmp_path: Path):
    made = reference("recurrent", tmp_path)
    path, result = converted(tmp_path, made, INT8)
    ways = [attempt.way for attempt in result.attempts if not attempt.error]
    assert ways[0] == "recurrent layers unrolled to the samples' length"
    assert any("AI Edge Quantizer" in attempt.error for attempt in result.attempts)
    assert worst(path, made) >= 15


def test_tensorflows_own_quantizer_is_a_route_of_its_own(tmp_path: Path):
    made = reference("cnn", tmp_path)
    path, result = converted(tmp_path, made, INT8, from_keras_model_by_tensorflow)
    assert result.attempts[-1].way == "TensorFlow's quantizer"
    assert worst(path, made) >= 20


def test_static_int8_without_samples_says_what_to_do(tmp_path: Path):
    made = reference("cnn", tmp_path)
    request = ConversionRequest(INT8, made.interface, made.sample.inputs(2), tmp_path)
    with pytest.raises(ConversionError, match=r"quantization: dynamic"):
        from_keras_model(Keras().load(made.path, UNKNOWN), tmp_path / "model.tflite", request)


def test_only_static_int8_needs_samples_and_has_integer_edges():
    edges = TFLite().conversions
    assert all(edge.calibrates(INT8) for edge in edges)
    assert not any(edge.calibrates(INT8 | {"quantization": "dynamic"}) for edge in edges)
    assert not any(edge.calibrates({"precision": "fp16", "quantization": "static"}) for edge in edges)
    assert all(edge.accepts({"precision": "fp16", "quantization": "static", "integer_io": True}) for edge in edges)


def test_a_table_of_integers_is_no_quantized_weight(tmp_path: Path):
    import tensorflow as tf

    from registry_export_plugins._tensorflow.functions import trace
    from registry_export_plugins._tensorflow.lite import to_flatbuffer

    table, inputs = tf.constant([1, -2, 3, -4], tf.int8), [TensorSpec("position", "int32", ("batch",))]
    function = trace(lambda position: [tf.gather(table, position)], inputs, ["picked"], tf.Module())
    path = tmp_path / "model.tflite"
    path.write_bytes(to_flatbuffer(function, tmp_path / "work"))
    assert TFLite().describe(path).precision == "fp32"


def test_calibration_gives_a_number_without_axes_to_every_row(tmp_path: Path):
    import tensorflow as tf

    from registry_export_plugins._tensorflow.functions import trace
    from registry_export_plugins._tensorflow.lite import to_flatbuffer
    from registry_export_plugins._tensorflow.lite_rows import calibration_rows

    inputs = [TensorSpec("x", "float32", ("batch", 3)), TensorSpec("factor", "float32", ())]
    function = trace(lambda x, factor: [x * factor], inputs, ["scaled"], tf.Module())
    path = tmp_path / "model.tflite"
    path.write_bytes(to_flatbuffer(function, tmp_path / "work"))
    samples = {"x": np.ones((4, 3), np.float32), "factor": np.array(2, np.float32)}
    rows = calibration_rows(path, function.interface, samples)
    assert [row["factor"].shape for row in rows] == [()] * 4
