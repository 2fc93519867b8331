"""Factories and wrappers as a user would write them; rules name them `tests.support.torch_models:name`."""

from __future__ import annotations

import torch
from torch import nn


def conv_net():
    """Return the net of the suite's sources, with other weights than theirs."""
    from tests.support.sources.flavors import conv_net as seeded

    net = seeded()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    return net


class Classifier(nn.Module):
    def __init__(self, width: int = 6, classes: int = 3) -> None:
        super().__init__()
        self.encode = nn.Linear(4, width)
        self.norm = nn.BatchNorm1d(width)
        self.decide = nn.Linear(width, classes)

    def forward(self, x):
        return self.decide(torch.relu(self.norm(self.encode(x))))


def classifier():
    return Classifier()


def wider_classifier():
    return Classifier(width=7)


class WithProbabilities(nn.Module):
    """Takes bytes and returns probabilities and the best class."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixels):
        scores = self.model(pixels / 255.0).softmax(-1)
        return {"probabilities": scores, "best": scores.argmax(-1)}


def no_module():
    return 3


def fails():
    raise KeyError("width")


class Settings:
    """What some training scripts keep beside the weights: an object of a class of their own."""


class Doubled(nn.Module):
    """Keeps the model's input."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, *inputs, **keywords):
        return 2 * self.model(*inputs, **keywords)


def as_list(model):
    return [model]


def function_class():
    """Return a class as users write them around a module: it scales its table before the net and ranks after."""
    import mlflow

    class Ranking(mlflow.pyfunc.PythonModel):
        def load_context(self, context):
            if "net" in context.artifacts:
                self.model = torch.load(context.artifacts["net"], weights_only=False)

        def predict(self, context, model_input, params=None):
            rows = torch.as_tensor(model_input.to_numpy() if hasattr(model_input, "to_numpy") else model_input)
            with torch.no_grad():
                return self.model(rows.float()[:, :4] / 10).argsort(-1).numpy()

    return Ranking
