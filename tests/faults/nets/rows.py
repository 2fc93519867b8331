"""Nets over rows of numbers: arithmetic, several inputs and outputs, branches, normalisations, one large matrix."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from tests.faults.mutations import Apply, Fault, Net, after, before, brain, edit, every, floats, half, put, tensor
from tests.models import seeded


class Elementwise(nn.Module):
    """Arithmetic whose corners differ from one framework to the next; what is done is chosen by attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.given = nn.Identity()
        self.divide, self.rest, self.round, self.cast = "floor", "python", "even", "trunc"
        self.length, self.log, self.low, self.power = 1e-6, 1.0, -50.0, "square"

    def _whole(self, x):
        kinds = {"floor": torch.floor, "trunc": torch.trunc, "even": torch.round, "up": lambda v: torch.floor(v + 0.5)}
        return kinds[self.divide](x / 4) + 10 * kinds[self.round](x * 2) + 100 * kinds[self.cast](x)

    def forward(self, x):
        x = self.given(x)
        modulo = torch.remainder(x, 0.5) if self.rest == "python" else torch.fmod(x, 0.5)
        length = torch.sqrt((x * x).sum(1, keepdim=True) + self.length)
        powered = x * x if self.power == "square" else torch.exp(2 * torch.log(x))
        sized = torch.log(x.abs() + self.log) + torch.sign(x)
        return self._whole(x), modulo, x / length, sized, torch.clamp(x, self.low, 50.0), powered


_ELEMENTWISE = (
    Fault("arithmetic", "a floor division rounds to zero", edit("", divide="trunc")),
    Fault("arithmetic", "a remainder has the sign of the dividend", edit("", rest="c")),
    Fault("arithmetic", "halves are rounded up, not to even", edit("", round="up")),
    Fault("arithmetic", "a cast rounds down, not to zero", edit("", cast="floor")),
    Fault("arithmetic", "a cast rounds to the nearest", edit("", cast="even")),
    Fault("NaN", "zeros become NaN for want of an epsilon", edit("", length=0.0)),
    Fault("NaN", "zeros become infinite for want of a one", edit("", log=0.0)),
    Fault("NaN", "negative numbers become NaN", edit("", power="logarithm")),
    Fault("NaN", "zeros become NaN", put("given", Apply("over itself"))),
    Fault("epsilon", "a length with epsilon 1e-3", edit("", length=1e-3)),
    Fault("epsilon", "a length with epsilon 1e-12", edit("", length=1e-12)),
    Fault("saturation", "negative numbers are cut off", edit("", low=0.0)),
    Fault("saturation", "numbers are cut off below -10", edit("", low=-10.0)),
    Fault("saturation", "the input is cast to int8 eighths", put("given", Apply("saturate", 8))),
    Fault("saturation", "the input is clipped to fp16's range of a tenth", put("given", Apply("clamp", -655.0, 655.0))),
    Fault("precision", "the input is rounded to fp16", put("given", Apply("half"))),
    Fault("precision", "the input is rounded to bf16", put("given", Apply("bfloat"))),
)  # fmt: skip


class Outputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.given, self.layer = nn.Identity(), nn.Linear(6, 6)
        self.scores, self.order = nn.Softmax(1), (0, 1, 2, 3)
        self.axis, self.largest, self.by, self.strict = 1, True, 0, True

    def forward(self, x):
        y = self.layer(self.given(x))
        best = y.argmax(self.axis) if self.largest else y.argmin(1)
        above = y > 0 if self.strict else y >= 0
        found = (y, self.scores(y), torch.tanh(y), y.cumsum(1))
        a, b, c, d = (found[position] for position in self.order)
        return a, b, c, d, best + self.by, above


_OUTPUTS = (
    Fault("output order", "the first two outputs are swapped", edit("", order=(1, 0, 2, 3))),
    Fault("output order", "the last two float outputs are swapped", edit("", order=(0, 1, 3, 2))),
    Fault("output order", "the outputs are reversed", edit("", order=(3, 2, 1, 0))),
    Fault("output order", "one output is given twice", edit("", order=(0, 1, 1, 3))),
    Fault("softmax axis", "softmax over the batch", put("scores", nn.Softmax(0))),
    Fault("softmax axis", "logarithms of the softmax", put("scores", Apply("log softmax", 1))),
    Fault("softmax axis", "sigmoid in place of softmax", put("scores", nn.Sigmoid())),
    Fault("NaN", "softmax overflows", put("scores", Apply("naive softmax", 1))),
    Fault("index", "the smallest is taken for the largest", edit("", largest=False)),
    Fault("index", "the index begins at 1", edit("", by=1)),
    Fault("square weight transposed", "the layer is transposed", tensor("layer.weight", lambda w: w.T)),
    Fault("bias dropped", "the layer has lost its bias", tensor("layer.bias", torch.zeros_like)),
    Fault("axes", "the columns are reversed", put("given", Apply("flip", 1))),
    Fault("axes", "the rows are reversed", put("given", Apply("flip", 0))),
    Fault("batch", "all rows get the first row's input", put("given", Apply("first row"))),
    Fault("batch", "rows beyond the second are zero", put("given", Apply("first two rows"))),
    Fault("batch", "each row gets the one before", put("given", Apply("moved", 0, 1))),
    Fault("last row or column", "the last column is lost", put("given", Apply("without last", 1))),
    Fault("last row or column", "the last row is lost", put("given", Apply("without last", 0))),
    Fault("precision", "the weights are rounded to fp16", every(half)),
)  # fmt: skip


class Inputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(5, 5), nn.Bilinear(5, 5, 3)
        self.table = nn.Identity()
        self.alpha, self.beta, self.crossed, self.eps = 0.3, -2.0, False, 1e-6

    def forward(self, image, table, scale):
        if self.crossed:
            image, table = table, image
        image, table = self.left(image), self.table(table)
        joined = torch.add(image, table, alpha=self.alpha)
        return torch.sub(self.right(joined, table), scale, alpha=self.beta), functional.cosine_similarity(
            image, table, dim=1, eps=self.eps
        )


_INPUTS = (
    Fault("input order", "two inputs are swapped", edit("", crossed=True)),
    Fault("alpha ignored", "alpha of an addition is ignored", edit("", alpha=1.0)),
    Fault("alpha ignored", "alpha of a subtraction is ignored", edit("", beta=1.0)),
    Fault("alpha ignored", "alpha of a subtraction has lost its sign", edit("", beta=2.0)),
    Fault("alpha ignored", "alpha is rounded to bf16", edit("", alpha=0.30078125)),
    Fault("input order", "one input is ignored", put("table", Apply("scale", 0.0))),
    Fault("input order", "one input's columns are reversed", put("table", Apply("flip", 1))),
    Fault("batch", "one input counts with its first row only", put("table", Apply("first row"))),
    Fault("square weight transposed", "the layer is transposed", tensor("left.weight", lambda w: w.T)),
    Fault("square weight transposed", "a bilinear form is transposed",
          tensor("right.weight", lambda w: w.transpose(1, 2))),
    Fault("bias dropped", "the bilinear form has lost its bias", tensor("right.bias", torch.zeros_like)),
    Fault("default of an argument", "the cosine has a large epsilon", edit("", eps=3.0)),
)  # fmt: skip


class Branches(nn.Module):
    """Each row takes one of two ways; both ways are computed, so that every format can hold it."""

    def __init__(self) -> None:
        super().__init__()
        self.yes, self.no = nn.Linear(4, 3), nn.Linear(4, 3)
        self.taken, self.limit, self.strict = "", 0.0, True

    def forward(self, x):
        asked = x.sum(1, keepdim=True)
        wanted = asked > self.limit if self.strict else asked >= self.limit
        yes, no = torch.relu(self.yes(x)) + 5, torch.tanh(self.no(x))
        ways = {"": torch.where(wanted, yes, no), "yes": yes, "no": no, "swapped": torch.where(wanted, no, yes)}
        return ways[self.taken]


_BRANCHES = (
    Fault("traced branch", "the trace has kept the positive branch", edit("", taken="yes")),
    Fault("traced branch", "the trace has kept the negative branch", edit("", taken="no")),
    Fault("traced branch", "the branches are swapped", edit("", taken="swapped")),
    Fault("traced branch", "the condition is not strict", edit("", strict=False)),
    Fault("traced branch", "the condition has another limit", edit("", limit=0.5)),
    Fault("traced branch", "the condition is never met by usual numbers", edit("", limit=50.0)),
    Fault("bias dropped", "the negative branch has lost its bias", tensor("no.bias", torch.zeros_like)),
)


class Norms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.given, self.layer = nn.Identity(), nn.LayerNorm(8, eps=1e-3)
        self.mean_square = nn.RMSNorm(8, eps=1e-6)
        self.groups = nn.GroupNorm(4, 8)
        self.instance = nn.InstanceNorm1d(8, affine=True)
        self.unbiased, self.eps, self.order = False, 1e-5, 2.0

    def forward(self, x):
        x = self.given(x)
        spread = x.var(2, keepdim=True, unbiased=self.unbiased)
        own = (x - x.mean(2, keepdim=True)) / torch.sqrt(spread + self.eps)
        unit = x / (x.abs() ** self.order).sum(1, keepdim=True).clamp(min=1e-6) ** (1 / self.order)
        return self.layer(x), self.mean_square(x), self.groups(x), self.instance(x), own, unit


_NORMS = (
    Fault("epsilon", "layer norm with the default epsilon", edit("layer", eps=1e-5)),
    Fault("epsilon", "RMS norm with epsilon 1e-3", edit("mean_square", eps=1e-3)),
    Fault("epsilon", "instance norm with epsilon 1e-3", edit("instance", eps=1e-3)),
    Fault("epsilon", "epsilon is added to the deviation", edit("", eps=3e-3)),
    Fault("normalised twice", "the input is normalised before", put("given", Apply("normalize", 1e-5))),
    Fault("normalised twice", "the result is normalised again", after("groups", Apply("normalize", 1e-5))),
    Fault("groups", "group norm with another number of groups", edit("groups", num_groups=2)),
    Fault("default of an argument", "the variance is divided by n - 1", edit("", unbiased=True)),
    Fault("default of an argument", "the length is the sum of absolute values", edit("", order=1.0)),
    Fault("bias dropped", "layer norm has lost its shift", tensor("layer.bias", torch.zeros_like)),
    Fault("batch norm statistics", "instance norm has lost its scale", tensor("instance.weight", torch.ones_like)),
    Fault("axes", "channels and times are swapped", before("mean_square", Apply("swap", 1, 2))),
    Fault("arithmetic", "RMS norm subtracts the mean",
          lambda net: put("mean_square", _layer_norm(net.mean_square.weight))(net)),
    Fault("precision", "the normalised is rounded to bf16", after("layer", Apply("bfloat"))),
    Fault("precision", "the input is rounded to fp16", put("given", Apply("half"))),
)  # fmt: skip


def _layer_norm(weight) -> nn.Module:
    norm = nn.LayerNorm(8, eps=1e-6, bias=False)
    norm.weight = weight
    return norm


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.matrix, self.small = nn.Linear(1000, 1000), nn.Linear(1000, 4)

    def forward(self, x):
        wide = self.matrix(x)
        return wide, self.small(torch.relu(wide))


def _wide() -> nn.Module:
    net = Wide()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.03)
    return net


def _change(place: float, change: float):
    """Change the weight at a place (0: the smallest, 1: the largest) in the order of their sizes."""

    def changed(held):
        flat = held.flatten()
        flat[flat.abs().argsort()[int(place * (flat.numel() - 1))]] *= change
        return flat.view_as(held)

    return changed


_WIDE = (
    Fault("one weight", "one weight out of a million, a middling one, is 10 % larger",
          tensor("matrix.weight", _change(0.5, 1.1))),
    Fault("one weight", "one weight out of a million, a middling one, is 10 % smaller",
          tensor("matrix.weight", _change(0.6, 0.9))),
    Fault("one weight", "one weight out of a million, a large one, is 10 % larger",
          tensor("matrix.weight", _change(0.95, 1.1))),
    Fault("one weight", "one weight out of a million, a small one, is 10 % larger",
          tensor("matrix.weight", _change(0.05, 1.1))),
    Fault("one weight", "one weight out of a million has lost its sign", tensor("matrix.weight", _change(0.5, -1.0))),
    Fault("one weight", "one weight out of a million is zero", tensor("matrix.weight", _change(0.3, 0.0))),
    Fault("one weight", "one bias out of a thousand is 10 % larger", tensor("matrix.bias", _change(0.5, 1.1))),
    Fault("square weight transposed", "the matrix is transposed", tensor("matrix.weight", lambda w: w.T)),
    Fault("precision", "the matrix is rounded to fp16", tensor("matrix.weight", half)),
    Fault("precision", "the matrix is rounded to bf16", tensor("matrix.weight", brain)),
    Fault("bias dropped", "the last layer has lost its bias", tensor("small.bias", torch.zeros_like)),
    Fault("last row or column", "the last input is ignored", before("matrix", Apply("without last", 1))),
    Fault("saturation", "the input is clipped to -4..4", before("matrix", Apply("clamp", -4.0, 4.0))),
    Fault("order of parts", "two halves of the input are swapped",
          tensor("matrix.weight", lambda w: w.roll(500, 1))),
)  # fmt: skip

NETS = {
    "elementwise": Net(Elementwise, {"x": floats(3, 6)}, _ELEMENTWISE),
    "outputs": Net(lambda: seeded(Outputs()), {"x": floats(3, 6)}, _OUTPUTS),
    "inputs": Net(
        lambda: seeded(Inputs()),
        {"image": floats(3, 5), "table": floats(3, 5, seed=1), "scale": floats(3, 1, seed=2)},
        _INPUTS,
    ),
    "branches": Net(lambda: seeded(Branches()), {"x": floats(3, 4)}, _BRANCHES),
    "norms": Net(lambda: seeded(Norms()), {"x": floats(3, 8, 8)}, _NORMS),
    "wide": Net(_wide, {"x": floats(3, 1000)}, _WIDE),
}
