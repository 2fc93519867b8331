"""Weights made zero before the export: by which method, of what, for good, and without touching the file."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from registry_export.entities import Interface, TensorSpec
from registry_export.errors import SourceError
from registry_export.format import ModelSetup, Pruning
from registry_export_plugins._torch.pruning import prune_module, prune_program
from registry_export_plugins.exported_program import ExportedProgram
from registry_export_plugins.pytorch import PyTorch
from registry_export_plugins.torchscript import TorchScript

HALF = Pruning("l1_unstructured", 0.5)
X = torch.arange(12, dtype=torch.float32).reshape(2, 6)
SIGNATURE = Interface((TensorSpec("x", "float32", (-1, 6)),))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).eval()


def zeros(tensor) -> float:
    return float((tensor == 0).float().mean())


def test_the_smallest_weights_of_every_layer_become_zero_for_good():
    module = net()
    kept = module[0].weight.detach().abs().flatten().sort().values[24:]
    pruned = prune_module(module, HALF)
    assert [zeros(module[0].weight), zeros(module[2].weight), zeros(module[0].bias)] == [0.5, 0.5, 0.0]
    assert torch.equal(module[0].weight.detach().abs().flatten().sort().values[24:], kept)
    assert set(dict(module.named_parameters())) == {"0.weight", "0.bias", "2.weight", "2.bias"}, "no mask is left"
    assert not list(module.buffers())
    assert pruned.sparsity == pytest.approx((24 + 16) / (48 + 8 + 32 + 4))
    assert "50.0 % of the weights of 2 layers and 43.5 % of all parameters" in pruned.note


def test_rows_are_pruned_whole_where_that_is_asked():
    module = net()
    prune_module(module, Pruning("ln_structured", 0.25))
    whole = (module[0].weight == 0).all(dim=1)
    assert int(whole.sum()) == 2
    assert zeros(module[0].weight) == 0.25


def test_globally_the_layer_with_small_weights_loses_more():
    module = net()
    with torch.no_grad():
        module[2].weight.mul_(0.01)
    prune_module(module, Pruning("global", 0.4))
    assert zeros(module[2].weight) > 0.9
    assert zeros(module[0].weight) < 0.1


def test_weights_without_elements_keep_their_shapes():
    module = nn.ModuleList([nn.Linear(6, 8), nn.Module(), nn.Module()])
    for part, size in zip(module[1:], (5, 7), strict=True):
        part.weight = nn.Parameter(torch.zeros(0, size))  # both are at no address
    prune_module(module, HALF)
    assert [tuple(part.weight.shape) for part in module] == [(8, 6), (0, 5), (0, 7)]


def test_embedding_tables_norms_and_tied_weights_are_left_as_they_are():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.norm, self.head = nn.Embedding(9, 4), nn.LayerNorm(4), nn.Linear(4, 9, bias=False)
            self.inner = nn.Linear(4, 4)
            self.head.weight = self.table.weight

        def forward(self, ids):
            return self.head(self.inner(self.norm(self.table(ids))))

    module = Tied()
    prune_module(module, HALF)
    assert [zeros(module.head.weight), zeros(module.norm.weight), zeros(module.inner.weight)] == [0.0, 0.0, 0.5]
    program = torch.export.export(Tied().eval(), (torch.tensor([[1, 2]]),))
    prune_program(program, HALF)
    found = {name: zeros(tensor) for name, tensor in program.state_dict.items()}
    assert (found["table.weight"], found["inner.weight"]) == (0.0, 0.5)


def test_recurrent_layers_compute_with_their_pruned_weights():
    lstm = nn.LSTM(3, 4, batch_first=True)
    prune_module(lstm, Pruning("l1_unstructured", 0.99))
    assert zeros(lstm.weight_hh_l0) > 0.9
    x = torch.randn(1, 5, 3)
    by_hand = nn.LSTM(3, 4, batch_first=True)
    by_hand.load_state_dict(lstm.state_dict())
    assert torch.equal(lstm(x)[0], by_hand(x)[0])


def test_a_model_without_weights_is_refused():
    with pytest.raises(SourceError, match="no weights to prune"):
        prune_module(nn.ReLU(), HALF)


@pytest.mark.parametrize("kind", ["module", "program", "script"])
def test_every_kind_of_file_is_pruned_alike_and_stays_as_it_is(kind, tmp_path):
    module, path = net(), tmp_path / "model"
    if kind == "module":
        torch.save(module, path)
        format_ = PyTorch()
    elif kind == "program":
        batch = torch.export.Dim("batch")
        torch.export.save(torch.export.export(module, (X,), dynamic_shapes=({0: batch},)), path.with_suffix(".pt2"))
        path, format_ = path.with_suffix(".pt2"), ExportedProgram()
    else:
        torch.jit.script(module).save(path)
        format_ = TorchScript()
    before = path.read_bytes()
    prune_module(module, HALF)
    with format_.open(path, SIGNATURE, ModelSetup(pruning=HALF)) as runner:
        (name,) = [spec.name for spec in runner.interface.inputs]
        (answer,) = runner.infer({name: X.numpy()}).values()
        assert runner.sparsity == pytest.approx(40 / 92)
        assert any("Pruned by l1_unstructured" in note for note in runner.notes)
    torch.testing.assert_close(torch.from_numpy(answer), module(X).detach())
    assert path.read_bytes() == before
    with format_.open(path, SIGNATURE) as runner:
        assert runner.sparsity is None
