"""What is read from a model folder, as MLflow itself writes it."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import yaml

from registry_export.entities import Interface, TensorSpec
from registry_export.errors import SourceError
from registry_export.registry import read_model


def identity(model_input):
    return model_input


@pytest.fixture
def save(tmp_path):
    """Save a model with MLflow, from an example or a signature."""
    import mlflow.pyfunc

    def write(example=None, signature=None, code_paths=None):
        folder = tmp_path / "model"
        mlflow.pyfunc.save_model(
            str(folder), python_model=identity, input_example=example, signature=signature, code_paths=code_paths,
            pip_requirements=[],
        )  # fmt: skip
        return read_model(folder)

    return write


def shown(example):
    return [(name, array.dtype.name, array.tolist()) for name, array in example]


def test_an_array_is_one_unnamed_input_with_a_dynamic_batch(save):
    files = save(np.ones((2, 3), np.float32))
    assert files.interface.inputs == (TensorSpec("", "float32", ("batch", 3)),)
    assert shown(files.example) == [("", "float32", [[1.0] * 3] * 2)]
    assert "python_function" in files.flavors
    assert files.signature["inputs"]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int32", "uint8", "bool", "float16"])
def test_an_example_has_the_dtype_that_it_was_logged_with(save, dtype):
    array = np.array([[0, 1], [1, 0]]).astype(dtype)
    files = save(array)
    assert files.example[0][1].dtype.name == dtype
    np.testing.assert_array_equal(files.example[0][1], array)


def test_named_arrays_keep_their_names_dtypes_and_order(save):
    files = save({"ids": np.array([[1, 2]], np.int64), "x": np.ones((1, 4), np.float32), "a": np.zeros((1,), np.int32)})
    assert [(spec.name, spec.dtype) for spec in files.interface.inputs] == [
        ("ids", "int64"),
        ("x", "float32"),
        ("a", "int32"),
    ]
    assert [(name, array.dtype.name) for name, array in files.example] == [
        ("ids", "int64"),
        ("x", "float32"),
        ("a", "int32"),
    ]


def test_nan_and_infinity_in_an_array_survive(save):
    array = np.array([[np.nan, np.inf], [-np.inf, 0.5]], np.float32)
    np.testing.assert_array_equal(save(array).example[0][1], array)


def test_a_table_of_numbers_is_one_float_matrix(save):
    files = save(pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, np.nan]}))
    assert files.interface.inputs == (TensorSpec("", "float32", ("batch", 2)),)
    ((name, matrix),) = files.example
    assert (name, matrix.dtype.name) == ("", "float32")
    np.testing.assert_array_equal(matrix, np.array([[1, 3], [2, np.nan]], np.float32))


def test_a_table_with_text_has_an_input_for_each_column(save):
    files = save(pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]}))
    assert files.interface.inputs == (TensorSpec("a", "float64", ("batch",)), TensorSpec("b", "str", ("batch",)))
    assert files.example is None
    assert "not used" in files.notes[0]


def test_lists_of_token_ids_by_name_are_integers_with_a_batch(save):
    files = save({"input_ids": [[1, 2, 3]], "attention_mask": [[1, 1, 0]]})
    assert files.interface.inputs == (
        TensorSpec("input_ids", "int64", ("batch", "input_ids_1")),
        TensorSpec("attention_mask", "int64", ("batch", "attention_mask_1")),
    )
    assert shown(files.example) == [("input_ids", "int64", [[1, 2, 3]]), ("attention_mask", "int64", [[1, 1, 0]])]


def test_an_example_with_parameters_is_the_example_alone(save):
    files = save((np.ones((1, 2), np.float32), {"temperature": 0.5}))
    assert shown(files.example) == [("", "float32", [[1.0, 1.0]])]


def test_a_signature_alone_names_its_dynamic_dimensions(save):
    from mlflow.models import ModelSignature
    from mlflow.types import Schema
    from mlflow.types import TensorSpec as Spec

    inputs = Schema([Spec(np.dtype("int64"), (-1, -1), "ids"), Spec(np.dtype("float32"), (4, -1, 2), "x")])
    outputs = Schema([Spec(np.dtype("float32"), (-1, 10))])
    files = save(signature=ModelSignature(inputs, outputs))
    assert files.interface == Interface(
        (TensorSpec("ids", "int64", ("batch", "ids_1")), TensorSpec("x", "float32", (4, "x_1", 2))),
        (TensorSpec("", "float32", ("batch", 10)),),
    )
    assert files.example is None


def test_code_of_the_author_is_found(save, tmp_path):
    (tmp_path / "own.py").write_text("a = 1")
    files = save(np.ones((1, 2), np.float32), code_paths=[str(tmp_path / "own.py")])
    (path,) = files.code_paths
    assert (path / "own.py").exists()


def write(folder, **document):
    (folder / "MLmodel").write_text(yaml.safe_dump({"flavors": {"keras": {"data": "data"}}} | document))
    return folder


def test_plain_files_have_no_flavors(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    files = read_model(tmp_path)
    assert files.flavors == {}
    assert files.interface is None


def test_an_example_without_signature_is_float32_or_whole_numbers(tmp_path):
    (tmp_path / "input_example.json").write_text(json.dumps({"x": [[0.5, 1.0]], "ids": [[1, 2]]}))
    info = {"artifact_path": "input_example.json", "type": "json_object"}
    files = read_model(write(tmp_path, saved_input_example_info=info))
    assert [(name, array.dtype.name) for name, array in files.example] == [("x", "float32"), ("ids", "int64")]


@pytest.mark.parametrize("content", ["{", "[[1, 2], [3]]", '"text"', "{}", "null"])
def test_an_example_that_cannot_be_used_is_left_with_a_note(tmp_path, content):
    (tmp_path / "input_example.json").write_text(content)
    info = {"artifact_path": "input_example.json", "type": "json_object"}
    files = read_model(write(tmp_path, saved_input_example_info=info))
    assert files.example is None
    assert len(files.notes) == 1


def test_an_example_whose_file_is_missing_is_left_with_a_note(tmp_path):
    files = read_model(write(tmp_path, saved_input_example_info={"artifact_path": "input_example.json"}))
    assert "missing" in files.notes[0]


def test_an_mlmodel_cannot_name_files_outside_of_its_folder(tmp_path):
    (tmp_path / "secret.json").write_text("[[1.0]]")
    (tmp_path / "model").mkdir()
    flavors = {"python_function": {"code": "../"}}
    info = {"artifact_path": "../secret.json", "type": "ndarray"}
    files = read_model(write(tmp_path / "model", saved_input_example_info=info, flavors=flavors))
    assert files.example is None
    assert files.code_paths == ()


@pytest.mark.parametrize("text", ["a: [", "- 1", "flavors: 3", "flavors: {a: 1}", "signature: {inputs: 'x'}", "\x00"])
def test_a_damaged_mlmodel_is_a_clear_refusal(tmp_path, text):
    (tmp_path / "MLmodel").write_text(text)
    with pytest.raises(SourceError, match="MLmodel") as caught:
        read_model(tmp_path)
    assert "Log the model again" in str(caught.value)


def test_an_mlmodel_cannot_run_code(tmp_path):
    (tmp_path / "MLmodel").write_text("flavors: !!python/object/apply:os.system ['touch /tmp/owned']")
    with pytest.raises(SourceError, match="not YAML"):
        read_model(tmp_path)


def test_a_model_that_is_logged_twice_says_the_same_of_itself(tmp_path):
    """What is in the file besides is the model: none of it may be left out."""

    def digest(**changes):
        own = {"flavors": {"pytorch": {"data": "data"}}, "model_uuid": "m-1", "run_id": "1", "artifact_path": "model"}
        own |= {"utc_time_created": "2026-11-20", "model_id": "m-1", "signature": {"inputs": "[]"}} | changes
        (tmp_path / "MLmodel").write_text(yaml.safe_dump(own))
        return read_model(tmp_path).mlmodel_sha256

    once = digest()
    again = {
        "model_uuid": "m-2",
        "run_id": "2",
        "artifact_path": "other",
        "utc_time_created": "2027",
        "model_id": "m-2",
    }
    assert digest(**again) == once
    changes = {"signature": {}, "flavors": {"pytorch": {"data": "x"}}, "metadata": {"a": 1}, "mlflow_version": "3"}
    assert len({once, *(digest(**{name: value}) for name, value in changes.items())}) == 1 + len(changes)
