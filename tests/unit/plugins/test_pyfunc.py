"""The source `pyfunc`: PyTorch modules inside Python functions of MLflow."""

from __future__ import annotations

import mlflow
import numpy as np
import pytest
import torch
import yaml

from registry_export.discovery import discover_formats
from registry_export.entities import Interface, TensorSpec
from registry_export.errors import SourceError, UnsupportedSourceError
from registry_export.format import ModelSetup
from registry_export_plugins._pyfunc.recognition import KERAS, framework_inside
from registry_export_plugins.pyfunc import PyFunc
from tests import models
from tests.support.torch_models import Classifier, function_class

NOTHING = Interface(inputs=())
TABLE = np.random.default_rng(0).standard_normal((3, 6)).astype(np.float32)


def net():
    return models.seeded(Classifier()).eval()


def logged(folder, **arguments):
    given = {"pip_requirements": ["torch"], **arguments}
    if "python_model" not in given:
        given["python_model"] = function_class()()
    mlflow.pyfunc.save_model(str(folder), **given)
    return folder, yaml.safe_load((folder / "MLmodel").read_text())["flavors"]


def with_attribute(**attributes):
    model = function_class()()
    vars(model).update(attributes)
    return model


def test_the_module_is_run_on_what_predict_gave_it(tmp_path):
    folder, flavors = logged(tmp_path / "m", python_model=with_attribute(model=net()), input_example=TABLE)
    path = PyFunc().locate(folder, flavors)
    signature = Interface((TensorSpec("", "float32", ("batch", 6)),))
    with PyFunc().open(path, signature) as runner:
        assert [(spec.name, spec.dtype) for spec in runner.interface.inputs] == [("x", "float32")]
        np.testing.assert_allclose(runner.example["x"], TABLE[:, :4] / 10)
        assert runner.inside
        assert "self.model" in runner.notes[0]
        assert "outside" in runner.notes[0]
        outputs = runner.infer(runner.example)
    with torch.no_grad():
        np.testing.assert_allclose(outputs["output"], net()(torch.from_numpy(TABLE[:, :4] / 10)), atol=1e-6)


def test_an_artifact_that_load_context_reads_is_found_where_it_was_put(tmp_path):
    torch.save(net(), tmp_path / "net.pt")
    folder, flavors = logged(tmp_path / "m", artifacts={"net": str(tmp_path / "net.pt")}, pip_requirements=[])
    loaded = PyFunc().load(PyFunc().locate(folder, flavors), NOTHING)
    torch.testing.assert_close(loaded.wrapped.state_dict(), net().state_dict())


def test_a_module_is_found_inside_of_what_the_object_holds(tmp_path):
    folder, _ = logged(tmp_path / "m", python_model=with_attribute(parts={"encoder": [net()]}))
    assert type(PyFunc().load(folder, NOTHING).wrapped) is Classifier


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"first": net(), "second": net()}, r"several \(self\.first, self\.second\).*self\.model"),
        ({"late": "loaded in predict"}, "there are none"),
    ],
)
def test_where_not_one_module_can_be_found_the_refusal_says_what_to_do(attributes, said, tmp_path):
    folder, _ = logged(tmp_path / "m", python_model=with_attribute(**attributes))
    with pytest.raises(SourceError, match=said):
        PyFunc().load(folder, NOTHING)


def test_among_several_the_one_called_model_is_taken(tmp_path):
    folder, _ = logged(tmp_path / "m", python_model=with_attribute(model=net(), teacher=models.DictOutput()))
    assert type(PyFunc().load(folder, NOTHING).wrapped) is Classifier


class Plain(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input


def test_a_function_without_a_framework_is_refused_with_what_to_log(tmp_path):
    folder, flavors = logged(tmp_path / "m", python_model=Plain(), pip_requirements=[])
    with pytest.raises(UnsupportedSourceError, match=r"neither a PyTorch nor a Keras.*flavor of its framework"):
        PyFunc().locate(folder, flavors)


def test_frameworks_are_told_by_files_before_imports_before_requirements(tmp_path):
    (tmp_path / "net.keras").write_bytes(b"keras")
    folder, flavors = logged(tmp_path / "m", artifacts={"net": str(tmp_path / "net.keras")})
    assert framework_inside(folder, flavors) == KERAS
    assert PyFunc().locate(folder, flavors) is None


def test_exactly_one_format_claims_a_function(tmp_path):
    folder, flavors = logged(tmp_path / "m", python_model=with_attribute(model=net()))
    assert [name for name, f in discover_formats().items() if f.locate(folder, flavors)] == ["pyfunc"]


def test_other_flavors_are_not_located(tmp_path):
    assert PyFunc().locate(tmp_path, {"python_function": {"loader_module": "mlflow.sklearn"}, "sklearn": {}}) is None
    assert PyFunc().locate(tmp_path, {}) is None


def test_a_pickle_is_refused_where_the_rule_forbids_it(tmp_path):
    folder, _ = logged(tmp_path / "m", python_model=with_attribute(model=net()))
    with pytest.raises(SourceError, match="allow_pickle: false"):
        PyFunc().load(folder, NOTHING, ModelSetup(allow_pickle=False))


def test_a_compressed_pickle_is_refused_too(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_LOG_MODEL_COMPRESSION", "gzip")
    folder, _ = logged(tmp_path / "m", python_model=with_attribute(model=net()))
    with pytest.raises(SourceError, match=r"python_model\.pkl\.gz is pickled"):
        PyFunc().load(folder, NOTHING, ModelSetup(allow_pickle=False))


def test_what_fails_in_load_context_is_named(tmp_path):
    torch.save(net(), tmp_path / "net.pt")
    folder, _ = logged(tmp_path / "m", artifacts={"net": str(tmp_path / "net.pt")})
    (folder / "artifacts" / "net.pt").write_bytes(b"torn")
    with pytest.raises(SourceError, match=r"cannot be loaded for the PyTorch module.*mlflow\.pyfunc\.load_model"):
        PyFunc().load(folder, NOTHING)


def test_a_model_from_code_is_recognised_by_what_its_code_imports(tmp_path):
    code = tmp_path / "function.py"
    code.write_text(
        "import mlflow, torch\n"
        "class Function(mlflow.pyfunc.PythonModel):\n"
        "    def load_context(self, context):\n"
        "        torch.manual_seed(0)\n"
        "        self.net = torch.nn.Linear(6, 2)\n"
        "    def predict(self, context, model_input, params=None):\n"
        "        return self.net(torch.as_tensor(model_input)).detach().numpy()\n"
        "mlflow.models.set_model(Function())\n"
    )
    folder, flavors = logged(tmp_path / "m", python_model=str(code), pip_requirements=[])
    path = PyFunc().locate(folder, flavors)
    with PyFunc().open(path, NOTHING, ModelSetup(allow_pickle=False)) as runner:
        assert runner.infer({runner.interface.inputs[0].name: TABLE})["output"].shape == (3, 2)
