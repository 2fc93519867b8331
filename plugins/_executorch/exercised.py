"""Lowers one small model, so that children forked afterwards lower theirs at once.

ExecuTorch builds its operator dialect on first use, which takes seconds. No thread may be started here: none
survives the fork, and a child whose OpenMP believes in a pool that is gone waits for it for ever. So PyTorch
computes on one thread while it exercises, and nothing runs in ExecuTorch's runtime.
"""

from __future__ import annotations

from importlib.util import find_spec


def exercise() -> None:
    """Lower one small model, where ExecuTorch is installed."""
    if find_spec("executorch") is None:
        return
    import torch
    from executorch.exir import to_edge_transform_and_lower

    from registry_export_plugins._executorch.lowering import partitioners
    from registry_export_plugins._exercises import one_thread

    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8, 2))
    with one_thread():
        program = torch.export.export(module.eval(), (torch.zeros(1, 1, 4, 4),))
        to_edge_transform_and_lower(program, partitioner=partitioners("xnnpack")).to_executorch()
