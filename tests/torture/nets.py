"""A tiny net, logged in a child."""

from __future__ import annotations

from tests.support.registered import rows


def log_net(arguments):
    """Log and register a net of its own content; returns the version's number."""
    import mlflow
    import torch

    torch.manual_seed(arguments["seed"])
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
    mlflow.set_tracking_uri(arguments["uri"])
    logged = mlflow.pytorch.log_model(
        net,
        name="model",
        registered_model_name=arguments["name"],
        input_example=rows(4),
        serialization_format="pickle",
        pip_requirements=["torch"],
    )
    return str(logged.registered_model_version)
