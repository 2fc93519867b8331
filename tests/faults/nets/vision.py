"""Nets over pictures, and what converters get wrong about them."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from tests.faults.mutations import (
    Apply,
    Fault,
    Net,
    after,
    before,
    both,
    brain,
    edit,
    every,
    floats,
    half,
    one_weight,
    put,
    tensor,
    twice,
)
from tests.models import seeded


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.given = nn.Identity()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.active = nn.GELU()
        self.pool = nn.MaxPool2d(3, 2, padding=1)
        self.second = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.flatten = nn.Flatten()
        self.classify = nn.Linear(72, 6)
        self.last = nn.Identity()

    def forward(self, image):
        x = self.pool(self.active(self.norm(self.first(self.given(image)))))
        return self.last(self.classify(self.flatten(self.second(x))))


def _permute_linear(weight):
    """Read the flattened picture as (height, width, channel)."""
    return weight.view(-1, 8, 3, 3).permute(0, 2, 3, 1).reshape(weight.shape)


_CONVOLUTION = (
    Fault("bias dropped", "the first convolution has lost its bias", tensor("first.bias", torch.zeros_like)),
    Fault("bias dropped", "the classifier has lost its bias", tensor("classify.bias", torch.zeros_like)),
    Fault("batch norm statistics", "the running mean is 0", tensor("norm.running_mean", torch.zeros_like)),
    Fault("batch norm statistics", "the running variance is 1", tensor("norm.running_var", torch.ones_like)),
    Fault("batch norm statistics", "scale and shift of batch norm are lost", edit("norm", weight=None, bias=None)),
    Fault("epsilon", "batch norm with epsilon 1e-3 instead of 1e-5", edit("norm", eps=1e-3)),
    Fault("epsilon", "batch norm with epsilon 1e-6 instead of 1e-5", edit("norm", eps=1e-6)),
    Fault("normalised twice", "batch norm is fused and applied again", twice("norm")),
    Fault("padding", "all padding of the first convolution is at the end",
          both(edit("first", padding=(0, 0)), before("first", Apply("pad", (0, 2, 0, 2), "constant")))),
    Fault("padding", "the first convolution reflects its border",
          both(edit("first", padding=(0, 0)), before("first", Apply("pad", (1, 1, 1, 1), "reflect")))),
    Fault("padding", "max pooling pads with zeros",
          both(edit("pool", padding=0), before("pool", Apply("pad", (1, 1, 1, 1), "constant")))),
    Fault("stride phase", "the strided convolution begins at another pixel",
          both(edit("second", padding=(0, 0)), before("second", Apply("crop", (0, 2, 0, 2))))),
    Fault("activation", "GELU by tanh", edit("active", approximate="tanh")),
    Fault("activation", "SiLU in place of GELU", put("active", nn.SiLU())),
    Fault("axes", "height and width of the kernel are swapped",
          tensor("first.weight", lambda w: w.transpose(2, 3).contiguous())),
    Fault("axes", "height and width of the picture are swapped", put("given", Apply("swap", 2, 3))),
    Fault("axes", "the picture is flattened with channels last", tensor("classify.weight", _permute_linear)),
    Fault("axes", "blue is taken for red", put("given", Apply("flip", 1))),
    Fault("axes", "input and output channels of a convolution are swapped",
          tensor("second.weight", lambda w: w.transpose(0, 1).contiguous())),
    Fault("axes", "the kernel is turned round", tensor("second.weight", lambda w: torch.flip(w, (2, 3)))),
    Fault("one weight", "one weight of the convolution is 10 % larger", tensor("second.weight", one_weight)),
    Fault("one weight", "one weight of the classifier is 10 % larger", tensor("classify.weight", one_weight)),
    Fault("precision", "all weights are rounded to fp16", every(half)),
    Fault("precision", "all weights are rounded to bf16", every(brain)),
    Fault("precision", "activations are kept in fp16", after("norm", Apply("half"))),
    Fault("batch", "all rows get the first row's answer", put("last", Apply("first row"))),
    Fault("batch", "rows beyond the second are zero", put("last", Apply("first two rows"))),
    Fault("last row or column", "the last column of the picture is lost", put("given", Apply("without last", 3))),
    Fault("saturation", "the input is clipped to 0..1", put("given", Apply("clamp", 0.0, 1.0))),
    Fault("saturation", "the input is clipped to -100..100", put("given", Apply("clamp", -100.0, 100.0))),
)  # fmt: skip


class Mobile(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.given = nn.Identity()
        self.expand = nn.Conv2d(3, 12, 1)
        self.norm = nn.BatchNorm2d(12, eps=1e-3)
        self.active = nn.Hardswish()
        self.depthwise = nn.Conv2d(12, 12, 3, stride=2, padding=1, groups=12)
        self.six = nn.ReLU6()
        self.squeeze = nn.AdaptiveAvgPool2d(1)
        self.gate = nn.Sequential(nn.Conv2d(12, 12, 1), nn.Hardsigmoid())
        self.grouped = nn.Conv2d(12, 12, 1, groups=3)
        self.shuffle = Apply("shuffle", 3)
        self.project = nn.Conv2d(12, 4, 3, padding=2, dilation=2)
        self.leaky = nn.LeakyReLU(0.1)

    def forward(self, x):
        x = self.active(self.norm(self.expand(self.given(x))))
        x = self.six(self.depthwise(x) * 4)
        x = x * self.gate(self.squeeze(x))
        return self.leaky(self.project(self.shuffle(self.grouped(x)))).mean((2, 3))


_MOBILE = (
    Fault("activation", "SiLU in place of hard swish", put("active", nn.SiLU())),
    Fault("activation", "the sigmoid in place of the hard one", put("gate.1", nn.Sigmoid())),
    Fault("activation", "Keras's old hard sigmoid in place of PyTorch's", put("gate.1", Apply("keras hard sigmoid"))),
    Fault("activation", "ReLU6 does not stop at 6", put("six", nn.ReLU())),
    Fault("activation", "ReLU6 stops at 1", put("six", nn.Hardtanh(0.0, 1.0))),
    Fault("default of an argument", "leaky ReLU with the default slope", edit("leaky", negative_slope=0.01)),
    Fault("default of an argument", "leaky ReLU without a slope", put("leaky", nn.ReLU())),
    Fault("epsilon", "batch norm with the default epsilon", edit("norm", eps=1e-5)),
    Fault("batch norm statistics", "the variance is taken for the deviation", tensor("norm.running_var", torch.square)),
    Fault("batch norm statistics", "batch norm is left out", put("norm", nn.Identity())),
    Fault("stride phase", "the depthwise convolution begins at another pixel",
          both(edit("depthwise", padding=(0, 0)), before("depthwise", Apply("crop", (0, 2, 0, 2))))),
    Fault("padding", "the depthwise convolution repeats its border",
          both(edit("depthwise", padding=(0, 0)), before("depthwise", Apply("pad", (1, 1, 1, 1), "replicate")))),
    Fault("groups", "the depthwise kernels are in another order", tensor("depthwise.weight", lambda w: w.roll(1, 0))),
    Fault("groups", "the channels are not shuffled", put("shuffle", nn.Identity())),
    Fault("groups", "the channels are shuffled by 4", put("shuffle", Apply("shuffle", 4))),
    Fault("groups", "the groups of a convolution are in another order", before("grouped", Apply("flip", 1))),
    Fault("dilation", "the dilation is ignored", edit("project", dilation=(1, 1), padding=(1, 1))),
    Fault("bias dropped", "the gate has lost its bias", tensor("gate.0.bias", torch.zeros_like)),
    Fault("square weight transposed", "the 1x1 convolution of the gate is transposed",
          tensor("gate.0.weight", lambda w: w.transpose(0, 1).contiguous())),
    Fault("one weight", "one weight of the projection is 10 % larger", tensor("project.weight", one_weight)),
    Fault("precision", "all weights are rounded to bf16", every(brain)),
    Fault("reduction", "the gate looks at the largest value", put("squeeze", nn.AdaptiveMaxPool2d(1))),
)  # fmt: skip


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.active = nn.ReLU()
        self.skip = nn.Identity()
        self.add_alpha, self.sub_alpha, self.late = 0.5, 2.0, False

    def forward(self, image):
        inner = self.second(self.active(self.norm(self.first(image))))
        if self.late:
            return torch.add(self.active(inner), self.skip(image), alpha=self.add_alpha) - self.sub_alpha
        summed = torch.add(inner, self.skip(image), alpha=self.add_alpha)
        return self.active(torch.sub(summed, inner.mean((2, 3), keepdim=True), alpha=self.sub_alpha))


_RESIDUAL = (
    Fault("alpha ignored", "alpha of an addition is ignored", edit("", add_alpha=1.0)),
    Fault("alpha ignored", "alpha of a subtraction is ignored", edit("", sub_alpha=1.0)),
    Fault("alpha ignored", "alpha is taken for its reciprocal", edit("", sub_alpha=0.5)),
    Fault("residual", "the residual is missing", put("skip", Apply("scale", 0.0))),
    Fault("residual", "the residual is added after the activation", edit("", late=True)),
    Fault("residual", "the residual has the wrong sign", put("skip", Apply("scale", -1.0))),
    Fault("residual", "the residual comes from a flipped picture", put("skip", Apply("flip", 3))),
    Fault("axes", "height and width of the residual are swapped", put("skip", Apply("swap", 2, 3))),
    Fault("square weight transposed", "input and output channels are swapped",
          tensor("first.weight", lambda w: w.transpose(0, 1).contiguous())),
    Fault("batch norm statistics", "mean and shift of batch norm have the wrong sign",
          both(tensor("norm.running_mean", torch.neg), tensor("norm.bias", torch.neg))),
    Fault("batch norm statistics", "batch norm without its scale", tensor("norm.weight", torch.ones_like)),
    Fault("activation", "the activation is leaky", put("active", nn.LeakyReLU(0.01))),
    Fault("normalised twice", "the picture is normalised once more", before("first", Apply("normalize", 1e-5))),
    Fault("NaN", "zeros become NaN", put("skip", Apply("over itself"))),
    Fault("NaN", "zeros become NaN in the first layer", before("first", Apply("by logarithm"))),
    Fault("one weight", "one weight of the first convolution is 10 % larger", tensor("first.weight", one_weight)),
    Fault("precision", "the residual is kept in bf16", put("skip", Apply("bfloat"))),
    Fault("precision", "the weights are rounded to fp16", every(half)),
)  # fmt: skip


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.given = nn.Conv2d(2, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 8, 3, stride=2, padding=1, output_padding=1)
        self.resize = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.near = nn.Upsample(scale_factor=2, mode="nearest")
        self.join = nn.Conv2d(12, 8, 1)
        self.shuffle = nn.PixelShuffle(2)
        self.swapped = False

    def forward(self, x):
        hidden = torch.relu(self.given(x))
        parts = [self.up(hidden), self.resize(x), self.near(x)]
        joined = torch.cat(parts[::-1] if self.swapped else parts, 1)
        return self.shuffle(self.join(joined))


class Resize(nn.Module):
    """An interpolation that a converter may take for another one."""

    def __init__(self, mode: str, **arguments) -> None:
        super().__init__()
        self.mode, self.arguments = mode, arguments

    def forward(self, x):
        return functional.interpolate(x, scale_factor=2, mode=self.mode, **self.arguments)


class Phase(nn.Module):
    """Nearest neighbours, rounded to the next pixel."""

    def forward(self, x):
        return functional.interpolate(functional.pad(x, (0, 1, 0, 1), "replicate"), scale_factor=2)[:, :, 1:-1, 1:-1]


class Unshuffled(nn.Module):
    """Depth to space with the channels in TensorFlow's order (DCR)."""

    def forward(self, x):
        x = x.unflatten(1, (2, 2, -1)).permute(0, 3, 4, 1, 5, 2)
        return x.flatten(4, 5).flatten(2, 3)


_DECODER = (
    Fault("interpolation", "bilinear with aligned corners", put("resize", Resize("bilinear", align_corners=True))),
    Fault("interpolation", "bicubic in place of bilinear", put("resize", Resize("bicubic", align_corners=False))),
    Fault("interpolation", "nearest in place of bilinear", put("resize", Resize("nearest"))),
    Fault("interpolation", "bilinear in place of nearest", put("near", Resize("bilinear", align_corners=False))),
    Fault("interpolation", "nearest with another rounding", put("near", Phase())),
    Fault("transposed convolution", "the output padding is at the beginning",
          both(edit("up", output_padding=(0, 0)), after("up", Apply("pad", (1, 0, 1, 0), "constant")))),
    Fault("transposed convolution", "the output padding is zeros",
          both(edit("up", output_padding=(0, 0)), after("up", Apply("pad", (0, 1, 0, 1), "constant")))),
    Fault("transposed convolution", "the kernel is turned round", tensor("up.weight", lambda w: torch.flip(w, (2, 3)))),
    Fault("transposed convolution", "input and output channels are swapped",
          tensor("up.weight", lambda w: w.transpose(0, 1).contiguous())),
    Fault("bias dropped", "the transposed convolution has lost its bias", tensor("up.bias", torch.zeros_like)),
    Fault("order of parts", "what is joined is in another order", edit("", swapped=True)),
    Fault("order of parts", "depth to space with channels in another order", put("shuffle", Unshuffled())),
    Fault("padding", "the first convolution pads at the end",
          both(edit("given", padding=(0, 0)), before("given", Apply("pad", (0, 2, 0, 2), "constant")))),
    Fault("last row or column", "the last row of the picture is lost", before("given", Apply("without last", 2))),
    Fault("one weight", "one weight of the transposed convolution is 10 % larger", tensor("up.weight", one_weight)),
    Fault("precision", "the weights are rounded to bf16", every(brain)),
)  # fmt: skip


class Pooling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.average = nn.AvgPool2d(3, 2, padding=1)
        self.most = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.open = nn.AvgPool2d(2, 2)
        self.parts = nn.AdaptiveAvgPool2d((2, 3))
        self.mix = nn.Conv2d(2, 4, 1)

    def forward(self, x):
        x = self.mix(x)
        return self.average(x).flatten(1), self.most(x).flatten(1), self.open(x).flatten(1), self.parts(x).flatten(1)


_POOLING = (
    Fault("pooling", "padding does not count in the average", edit("average", count_include_pad=False)),
    Fault("pooling", "the average over its border by zeros at the end",
          both(edit("average", padding=0), before("average", Apply("pad", (0, 2, 0, 2), "constant")))),
    Fault("pooling", "ceil_mode is ignored, and zeros fill in",
          both(edit("most", ceil_mode=False), before("most", Apply("pad", (0, 1, 0, 1), "constant")))),
    Fault("pooling", "the average in place of the largest", put("most", nn.AvgPool2d(2, 2, ceil_mode=True))),
    Fault("pooling", "the largest in place of the average", put("open", nn.MaxPool2d(2, 2))),
    Fault("pooling", "adaptive pooling has height and width swapped",
          put("parts", nn.Sequential(Apply("swap", 2, 3), nn.AdaptiveAvgPool2d((2, 3))))),
    Fault("stride phase", "pooling begins at the second pixel",
          put("open", nn.Sequential(Apply("crop", (-1, 1, -1, 1)), nn.AvgPool2d(2, 2)))),
    Fault("output order", "the picture's average is given upside down", after("parts", Apply("flip", 2))),
    Fault("bias dropped", "the convolution has lost its bias", tensor("mix.bias", torch.zeros_like)),
    Fault("square weight transposed", "two channels of the convolution are swapped",
          tensor("mix.weight", lambda w: w.flip(1))),
)  # fmt: skip

NETS = {
    "convolution": Net(lambda: seeded(Convolution()), {"image": floats(3, 3, 12, 12)}, _CONVOLUTION),
    "mobile": Net(lambda: seeded(Mobile()), {"x": floats(3, 3, 12, 12)}, _MOBILE),
    "residual": Net(lambda: seeded(Residual()), {"image": floats(3, 4, 8, 8)}, _RESIDUAL),
    "decoder": Net(lambda: seeded(Decoder()), {"x": floats(3, 2, 6, 6)}, _DECODER),
    "pooling": Net(lambda: seeded(Pooling()), {"x": floats(3, 2, 9, 9)}, _POOLING),
}
