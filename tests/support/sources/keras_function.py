"""A Keras model inside a Python function of MLflow."""

from __future__ import annotations

import numpy as np

from tests.support.sources.source import TENSORFLOW, Source

SOURCES = {"pyfunc_keras": Source("pyfunc_keras", TENSORFLOW, f"{__name__}:keras_function")}


def keras_function(arguments):
    import keras
    import mlflow

    class Ranking(mlflow.pyfunc.PythonModel):
        def load_context(self, context):
            import keras

            self.model = keras.saving.load_model(context.artifacts["net"])

        def predict(self, context, model_input, params=None):
            rows = (np.asarray(model_input)[:, :4] / 10).astype(np.float32)
            return self.model.predict(rows, verbose=0).argsort(-1)

    keras.utils.set_random_seed(0)
    rows = keras.Input((4,), name="rows")
    hidden = keras.layers.Dense(8, activation="relu")(rows)
    path = arguments["folder"] + ".keras"
    keras.Model(rows, keras.layers.Dense(3, name="scores")(hidden)).save(path)
    table = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    mlflow.pyfunc.save_model(
        arguments["folder"],
        python_model=Ranking(),
        artifacts={"net": path},
        input_example=table,
        pip_requirements=["keras"],
    )
