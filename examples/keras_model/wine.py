"""Train a Keras classifier on scikit-learn's wines, promote it by alias, and predict with its TFLite export."""

import os
import sys
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import mlflow
import numpy as np
from mlflow.models import infer_signature
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split

NAME = "wine"
SAMPLES = Path(__file__).with_name("samples.npz")


def main() -> None:
    features, labels = load_wine(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(features.astype("float32"), labels, random_state=0)
    model = trained(train_x, train_y)
    # MLflow's Keras flavor does not take an input example, so what to verify with comes from the rule's samples.
    np.savez(SAMPLES, features=test_x[:8])
    mlflow.set_experiment(NAME)
    logged = mlflow.keras.log_model(
        model,
        name="model",
        signature=infer_signature(test_x, model.predict(test_x, verbose=0)),
        registered_model_name=NAME,
    )
    version = str(logged.registered_model_version)
    print(f"registered {NAME}, version {version}; setting the alias champion")
    mlflow.MlflowClient().set_registered_model_alias(NAME, "champion", version)
    for tag, line in exported(version).items():
        print(f"  {tag}: {line}")

    served = mlflow.pyfunc.load_model(f"models:/{NAME}/{version}/exports/tflite")
    scores = served.predict(test_x)
    print(
        f"tflite: accuracy {(scores.argmax(1) == test_y).mean():.3f} on {len(test_y)} test wines, through mlflow.pyfunc"
    )


def trained(features: np.ndarray, labels: np.ndarray) -> keras.Model:
    keras.utils.set_random_seed(0)
    scale = keras.layers.Normalization(name="scale")
    scale.adapt(features)
    inputs = keras.Input((13,), name="features")
    hidden = keras.layers.Dense(32, activation="relu")(scale(inputs))
    outputs = keras.layers.Dense(3, activation="softmax", name="scores")(hidden)
    model = keras.Model(inputs, outputs)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(features, labels, epochs=40, verbose=0)
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
