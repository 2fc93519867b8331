"""Models registered on a real server, built and logged in children so that the tests import no framework.

Every builder takes `{"uri": ..., "name": ...}` and returns the new version's number.
"""

from __future__ import annotations

import numpy as np

from tests.support.sources import TENSORFLOW, TORCH

__all__ = ["TENSORFLOW", "TORCH"]


def _log_torch(arguments, net, **rest):
    import mlflow

    mlflow.set_tracking_uri(arguments["uri"])
    rest["pip_requirements"] = ["torch"]  # else MLflow loads the model once more to find out
    logged = mlflow.pytorch.log_model(net, name="model", registered_model_name=arguments["name"], **rest)
    return str(logged.registered_model_version)


def _mlp():
    import torch

    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()


def rows(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32)


def pickled(arguments):
    return _log_torch(arguments, _mlp(), input_example=rows(4), serialization_format="pickle")


def without_signature(arguments):
    return _log_torch(arguments, _mlp(), serialization_format="pickle")


def static_pt2(arguments):
    """A pt2 logged from a batch of 1 has that batch for ever."""
    return _log_torch(arguments, _mlp(), input_example=rows(1))


def training_pt2(arguments):
    """A pt2 logged in training mode has its dropout baked in."""
    import torch

    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 3))
    return _log_torch(arguments, net.train(), input_example=rows(4))


def quantisation_aware(arguments):
    """A program that was trained with rounded weights and activations, and holds int8 weights now."""
    import tempfile
    from pathlib import Path

    import mlflow
    import torch
    from torchao.quantization.pt2e import move_exported_model_to_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_qat_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    batch = ({0: torch.export.Dim("batch", min=2, max=64)},)
    rows_of_four = (torch.from_numpy(rows(4)),)
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config(is_qat=True))
    prepared = prepare_qat_pt2e(
        torch.export.export(_mlp().train(), rows_of_four, dynamic_shapes=batch).module(), quantizer
    )
    optimizer = torch.optim.SGD(prepared.parameters(), 1e-2)
    for seed in range(5):
        optimizer.zero_grad()
        prepared(torch.from_numpy(rows(8, seed))).square().mean().backward()
        optimizer.step()
    converted = convert_pt2e(prepared)
    move_exported_model_to_eval(converted)
    mlflow.set_tracking_uri(arguments["uri"])
    client = mlflow.MlflowClient()
    client.create_registered_model(arguments["name"])
    run = client.create_run(client.create_experiment(arguments["name"]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.pt2")
        torch.export.save(torch.export.export(converted, rows_of_four, dynamic_shapes=batch), path)
        client.log_artifact(run.info.run_id, str(path), "model")
    source = f"{run.info.artifact_uri}/model"
    return str(client.create_model_version(arguments["name"], source, run.info.run_id).version)


def branching(arguments):
    """A Python `if` on data: a trace keeps only the branch that it saw."""
    import sys
    from pathlib import Path

    here = Path(__file__).parent
    sys.path.insert(0, str(here))
    from branch import Branch  # as it will be called where only the logged code is

    code = [str(here / "branch.py")]
    return _log_torch(arguments, Branch().eval(), input_example=rows(4), serialization_format="pickle", code_paths=code)


def from_a_run(arguments):
    """A version of MLflow 2's kind: its files are a folder among a run's artifacts."""
    import tempfile
    from pathlib import Path

    import mlflow

    mlflow.set_tracking_uri(arguments["uri"])
    client = mlflow.MlflowClient()
    experiment = client.create_experiment(arguments["name"])
    run = client.create_run(experiment)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "classifier")
        mlflow.pytorch.save_model(
            _mlp(), path, input_example=rows(4), serialization_format="pickle", pip_requirements=["torch"]
        )
        client.log_artifacts(run.info.run_id, str(path), "classifier")
    client.set_terminated(run.info.run_id)
    client.create_registered_model(arguments["name"])
    source = f"{run.info.artifact_uri}/classifier"
    return str(client.create_model_version(arguments["name"], source, run.info.run_id).version)


def corrupt(arguments):
    """A checkpoint whose bytes are noise."""
    import tempfile
    from pathlib import Path

    import mlflow

    mlflow.set_tracking_uri(arguments["uri"])
    client = mlflow.MlflowClient()
    run = client.create_run(client.create_experiment(arguments["name"]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model")
        mlflow.pytorch.save_model(
            _mlp(), path, input_example=rows(4), serialization_format="pickle", pip_requirements=["torch"]
        )
        (path / "data" / "model.pth").write_bytes(b"noise" * 100)
        client.log_artifacts(run.info.run_id, str(path), "model")
    client.create_registered_model(arguments["name"])
    return str(
        client.create_model_version(arguments["name"], f"{run.info.artifact_uri}/model", run.info.run_id).version
    )


def keras_without_signature(arguments):
    import keras
    import mlflow

    mlflow.set_tracking_uri(arguments["uri"])
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, activation="gelu"), keras.layers.Dense(3)])
    logged = mlflow.keras.log_model(
        model, name="model", registered_model_name=arguments["name"], pip_requirements=["keras"]
    )
    return str(logged.registered_model_version)
