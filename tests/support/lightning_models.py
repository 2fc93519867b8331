"""A LightningModule as a user would write it; rules name it `tests.support.lightning_models:LitClassifier`."""

from __future__ import annotations

import lightning
import torch
from torch import nn

from tests.support.torch_models import Classifier


class LitClassifier(lightning.LightningModule):
    """Keeps its own arguments, as Lightning's documentation advises."""

    def __init__(self, width: int, classes: int, learning_rate: float = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = Classifier(width, classes)
        self.loss = nn.CrossEntropyLoss()
        self.example_input_array = torch.linspace(-1, 1, 16).reshape(4, 4)

    def forward(self, x):
        return self.model(x)

    def training_step(self, batch, index):
        x, y = batch
        return self.loss(self(x), y)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), self.hparams.learning_rate)


class Silent(LitClassifier):
    forward = lightning.LightningModule.forward


def inner():
    """Return the net inside, as somebody does who wants no Lightning where the model is exported."""
    return Classifier(9, 2)


def save(path, width=9, classes=2, module=LitClassifier):
    """Train for one step and save, as a callback would."""
    trainer = lightning.Trainer(
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    torch.manual_seed(0)
    model = module(width, classes)
    rows = torch.utils.data.TensorDataset(torch.randn(8, 4), torch.randint(0, classes, (8,)))
    trainer.fit(model, torch.utils.data.DataLoader(rows, 4))
    trainer.save_checkpoint(path)
    return model.eval()
