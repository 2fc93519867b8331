"""A module whose path through the code depends on its input; logged with a model as its code."""

import torch


class Branch(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.up = torch.nn.Linear(4, 3)
        self.down = torch.nn.Linear(4, 3)

    def forward(self, x):
        if x.sum() > 0:
            return torch.relu(self.up(x))
        return torch.tanh(self.down(x))
