"""Build a nearest-mean classifier as an ONNX graph, promote it by alias, and run its exports."""

import os
import sys
import time

import mlflow
import numpy as np
import onnx
from mlflow.models import infer_signature
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import registry_export

NAME = "nearest-mean"


def main() -> None:
    pixels, labels = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(pixels.astype("float32") / 16, labels, random_state=0)
    means = np.stack([train_x[train_y == digit].mean(0) for digit in range(10)])
    example = {"pixels": test_x[:4]}
    signature = infer_signature(example, {"scores": np.zeros((4, 10), "float32"), "digit": np.zeros(4, "int64")})
    mlflow.set_experiment(NAME)
    logged = mlflow.onnx.log_model(
        classifier(means), name="model", signature=signature, input_example=example, registered_model_name=NAME
    )
    version = str(logged.registered_model_version)
    print(f"registered {NAME}, version {version}; setting the alias champion")
    mlflow.MlflowClient().set_registered_model_alias(NAME, "champion", version)
    for tag, line in exported(version).items():
        print(f"  {tag}: {line}")

    for target in ("onnx:opset_version=21", "saved_model"):
        with registry_export.load(f"models:/{NAME}@champion", target) as runner:
            digits = runner.predict({"pixels": test_x})["digit"]
            print(f"{target}: accuracy {(digits == test_y).mean():.3f}, run by {runner.runtime}")


def classifier(means: np.ndarray) -> onnx.ModelProto:
    """The nearest mean has the largest 2 x.m - m.m, since x.x is the same for all."""
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["pixels", "weight"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["scores"]),
            helper.make_node("ArgMax", ["scores"], ["digit"], axis=1, keepdims=0),
        ],
        "nearest_mean",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 64])],
        [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10]),
            helper.make_tensor_value_info("digit", TensorProto.INT64, ["batch"]),
        ],
        [
            numpy_helper.from_array(2 * means.T.copy(), "weight"),
            numpy_helper.from_array(-(means**2).sum(1), "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def exported(version: str) -> dict[str, str]:
    """Wait until the export has ended, and return its tags."""
    for _ in range(600):
        tags = mlflow.MlflowClient().get_model_version(NAME, version).tags
        if tags.get("registry_export.status", "queued") not in ("queued", "running"):
            return {tag: value for tag, value in sorted(tags.items()) if tag.startswith("registry_export.")}
        time.sleep(1)
    sys.exit("No export within 10 minutes: is a worker running, with the rules of examples/registry-export.yaml?")


if __name__ == "__main__":
    if "MLFLOW_TRACKING_URI" not in os.environ:
        sys.exit("Set MLFLOW_TRACKING_URI first, as in MLFLOW_TRACKING_URI=http://127.0.0.1:5000.")
    main()
