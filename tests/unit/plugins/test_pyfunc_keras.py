"""The source `pyfunc_keras`: Keras models inside Python functions of MLflow."""

from __future__ import annotations

import keras
import mlflow
import numpy as np
import pytest
import yaml

from registry_export.discovery import discover_formats
from registry_export.entities import Interface
from registry_export.errors import SourceError
from registry_export.format import ModelSetup
from registry_export_plugins.pyfunc_keras import PyFuncKeras

NOTHING = Interface(inputs=())
TABLE = np.random.default_rng(0).standard_normal((3, 6)).astype(np.float32)


def function_class(by_predict):
    class Ranking(mlflow.pyfunc.PythonModel):
        def load_context(self, context):
            import keras

            self.model = keras.saving.load_model(context.artifacts["net"])

        def predict(self, context, model_input, params=None):
            rows = (np.asarray(model_input)[:, :4] / 10).astype(np.float32)
            scores = self.model.predict(rows, verbose=0) if by_predict else self.model(rows).numpy()
            return scores.argsort(-1)

    return Ranking


@pytest.fixture(params=[True, False], ids=["predict", "call"])
def logged(request, tmp_path):
    keras.utils.set_random_seed(0)
    rows = keras.Input((4,), name="rows")
    model = keras.Model(rows, keras.layers.Dense(3, name="scores")(rows))
    model.save(tmp_path / "net.keras")
    function = function_class(request.param)()
    artifacts = {"net": str(tmp_path / "net.keras")}
    mlflow.pyfunc.save_model(
        str(tmp_path / "m"), python_model=function, artifacts=artifacts, input_example=TABLE, pip_requirements=["keras"]
    )
    return model, tmp_path / "m", yaml.safe_load((tmp_path / "m" / "MLmodel").read_text())["flavors"]


def test_the_model_is_run_on_what_predict_gave_it(logged):
    model, folder, flavors = logged
    assert [name for name, f in discover_formats().items() if f.locate(folder, flavors)] == ["pyfunc_keras"]
    with PyFuncKeras().open(folder, NOTHING) as runner:
        assert [spec.name for spec in runner.interface.inputs] == ["rows"]
        np.testing.assert_allclose(runner.example["rows"], TABLE[:, :4] / 10)
        assert runner.inside
        assert "self.model" in runner.notes[0]
        np.testing.assert_allclose(runner.infer(runner.example)["scores"], model(TABLE[:, :4] / 10), atol=1e-6)
    assert isinstance(PyFuncKeras().load(folder, NOTHING), keras.Model)


def test_a_pickle_is_refused_where_the_rule_forbids_it(logged):
    with pytest.raises(SourceError, match="allow_pickle: false"):
        PyFuncKeras().load(logged[1], NOTHING, ModelSetup(allow_pickle=False))
