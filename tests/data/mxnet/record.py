"""Record what MXNet 1.9.1 computes: small nets with random weights, their inputs, and its outputs.

    uv venv --python 3.11 /tmp/mxnet-1.9.1
    uv pip install --python /tmp/mxnet-1.9.1/bin/python mxnet==1.9.1 numpy==1.23.5
    /tmp/mxnet-1.9.1/bin/python tests/data/mxnet/record.py

For each net: `NAME-symbol.json`, `NAME-0000.params` and `NAME.npz` (inputs as `in:NAME`, outputs as
`out:NAME` in the order and by the names of `Symbol.list_outputs`).
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ |= {
    "MXNET_MKLDNN_ENABLED": "0",
    "MXNET_STORAGE_FALLBACK_LOG_VERBOSE": "0",
}  # oneDNN has no deconvolution with a target shape

import mxnet as mx
import numpy as np
from mxnet import gluon, nd, sym
from mxnet.gluon import nn, rnn

HERE = Path(__file__).resolve().parent
NETS = {}
RANDOM = np.random.RandomState(7)


def net(function):
    NETS[function.__name__] = function
    return function


def values(*shape):
    return RANDOM.normal(size=shape).astype("f4")


def integers(high, *shape):
    return RANDOM.randint(0, high, size=shape).astype("f4")


def parameter(name, shape):
    """Weights of the size that keeps activations near one; statistics that are no identity."""
    if name.endswith(("_var", "running_var")):
        return RANDOM.uniform(0.5, 2.0, shape).astype("f4")
    if name.endswith("gamma"):
        return RANDOM.uniform(0.5, 1.5, shape).astype("f4")
    fan = int(np.prod(shape[1:])) or 1
    return (RANDOM.normal(size=shape) / np.sqrt(fan if len(shape) > 1 else 4)).astype("f4")


@net
def convolutions():
    x = sym.var("data")
    x = sym.Convolution(x, kernel=(3, 3), num_filter=8, pad=(1, 1), stride=(2, 1), name="strided")
    x = sym.BatchNorm(x, fix_gamma=False, eps=1e-4, name="scaled")
    x = sym.Activation(x, act_type="relu")
    x = sym.Convolution(
        x, kernel=(3, 3), num_filter=8, num_group=4, dilate=(2, 2), pad=(2, 2), no_bias=True, name="dilated"
    )
    x = sym.BatchNorm(x, name="gamma_fixed")
    x = sym.Activation(x, act_type="softrelu")
    x = sym.Convolution(x, kernel=(1, 1), num_filter=6, name="pointwise")
    y = sym.BatchNorm(x, fix_gamma=False, axis=3, name="last_axis")
    x = sym.Pooling(x, kernel=(3, 3), stride=(2, 2), pool_type="max", pooling_convention="full")
    x = sym.FullyConnected(x, num_hidden=5, name="dense")
    label = sym.var("softmax_label")
    return sym.Group([sym.SoftmaxOutput(x, label, name="softmax"), y]), {"data": values(2, 3, 11, 10)}


@net
def poolings():
    x = sym.var("data")
    made = [
        sym.Pooling(x, kernel=(3, 2), stride=(2, 2), pad=(1, 0), pool_type=kind, pooling_convention=convention, **extra)
        for kind, extra in (
            ("max", {}),
            ("avg", {}),
            ("avg", {"count_include_pad": False}),
            ("sum", {}),
        )
        for convention in ("valid", "full", "same")
        if not (kind == "sum" and convention == "full") and convention != "same"
    ]
    made += [sym.Pooling(x, global_pool=True, pool_type=kind, kernel=(1, 1)) for kind in ("max", "avg", "sum")]
    made += [sym.Pooling(x, kernel=(2, 2), pool_type="lp", p_value=2)]
    made += [
        sym.contrib.AdaptiveAvgPooling2D(x, output_size=1),
        sym.contrib.AdaptiveAvgPooling2D(x, output_size=(5, 2)),
    ]
    return sym.Group(made), {"data": values(2, 3, 10, 8)}


@net
def activations():
    x = sym.var("data")
    made = [sym.Activation(x, act_type=kind) for kind in ("relu", "sigmoid", "tanh", "softrelu", "softsign")]
    made += [sym.LeakyReLU(x, act_type=kind, slope=0.3) for kind in ("leaky", "elu", "selu", "gelu")]
    made += [sym.LeakyReLU(x, act_type="rrelu")[0]]
    made += [sym.LeakyReLU(x, sym.var("slopes_gamma"), act_type="prelu", name="prelu")]
    made += [sym.hard_sigmoid(x, alpha=0.3, beta=0.4), sym.relu(x), sym.sigmoid(x), sym.softsign(x)]
    made += [sym.softmax(x, axis=1), sym.softmax(x, temperature=2.0), sym.log_softmax(x, axis=2), sym.softmin(x)]
    made += [sym.SoftmaxActivation(x, mode="channel"), sym.SoftmaxActivation(sym.Flatten(x))]
    made += [sym.SoftmaxOutput(x, multi_output=True), sym.SoftmaxOutput(x), sym.SoftmaxOutput(x, preserve_shape=True)]
    made += [sym.LogisticRegressionOutput(sym.Flatten(x)), sym.LinearRegressionOutput(sym.Flatten(x))]
    made += [sym.Dropout(x, p=0.5), sym.BlockGrad(x), sym.smooth_l1(x, scalar=2.0), sym.erf(x)]
    return sym.Group(made), {"data": values(2, 4, 5)}, {"slopes_gamma": values(4)}


@net
def upscaling():
    x = sym.var("data")
    a = sym.Deconvolution(x, kernel=(4, 4), stride=(2, 2), pad=(1, 1), num_filter=6, name="doubled")
    b = sym.Deconvolution(
        x,
        kernel=(3, 3),
        stride=(2, 2),
        pad=(1, 1),
        adj=(1, 1),
        num_filter=6,
        num_group=2,
        no_bias=False,
        name="adjusted",
    )
    c = sym.Deconvolution(x, kernel=(4, 4), stride=(2, 2), target_shape=(13, 13), num_filter=3, name="targeted")
    d = sym.UpSampling(x, scale=2, sample_type="nearest")
    joined = sym.Concat(a, b, d, dim=1)
    cropped = sym.Crop(joined, x, offset=(1, 2), num_args=2)
    centered = sym.Crop(joined, h_w=(5, 6), center_crop=True, num_args=1)
    resized = sym.contrib.BilinearResize2D(x, height=13, width=9)
    padded = [
        sym.Pad(x, mode="constant", pad_width=(0, 0, 0, 0, 1, 2, 3, 4), constant_value=1.5),
        sym.Pad(x, mode="edge", pad_width=(0, 0, 0, 0, 1, 2, 3, 4)),
        sym.Pad(x, mode="reflect", pad_width=(0, 0, 0, 0, 1, 2, 3, 4)),
    ]
    return sym.Group([joined, cropped, centered, c, resized, *padded]), {"data": values(2, 4, 7, 7)}


@net
def normalizations():
    x = sym.var("data")
    made = [
        sym.LayerNorm(x, sym.var("last_gamma"), sym.var("last_beta"), eps=1e-3),
        sym.LayerNorm(x, sym.var("middle_gamma"), sym.var("middle_beta"), axis=1),
        sym.InstanceNorm(x, sym.var("instance_gamma"), sym.var("instance_beta"), eps=1e-3),
        sym.GroupNorm(x, sym.var("group_gamma"), sym.var("group_beta"), num_groups=2),
        sym.L2Normalization(x, mode="instance"),
        sym.L2Normalization(x, mode="channel"),
        sym.L2Normalization(x, mode="spatial"),
        sym.LRN(x, nsize=3, alpha=0.1, beta=0.75, knorm=2.0),
    ]
    sizes = {"last": 3, "middle": 4, "instance": 4, "group": 2}
    extra = {f"{name}_{kind}": values(size) for name, size in sizes.items() for kind in ("gamma", "beta")}
    return sym.Group(made), {"data": values(2, 4, 5, 3)}, extra


@net
def elementwise():
    a, b = sym.var("a"), sym.var("b")
    c = sym.slice_axis(b, axis=1, begin=0, end=1)
    made = [a + b, a - b, a * b, a / (sym.abs(b) + 1), sym.broadcast_add(a, c), sym.broadcast_sub(a, c)]
    made += [sym.broadcast_mul(a, c), sym.broadcast_div(a, sym.abs(c) + 1), sym.broadcast_maximum(a, c)]
    made += [sym.broadcast_minimum(a, c), sym.broadcast_power(sym.abs(a), c), sym.maximum(a, b), sym.minimum(a, b)]
    made += [a + 1.5, 1.5 - a, a - 2, a * 3, a / 4, 2 / (sym.abs(a) + 1), sym.abs(a) ** 1.5, 2**a, a % 0.7]
    made += [sym.maximum(a, 0.1), sym.minimum(a, 0.1), sym.clip(a, -0.5, 0.6), -a]
    made += [a > b, a < b, sym.broadcast_equal(a, a), sym.broadcast_not_equal(a, c), sym.broadcast_lesser_equal(a, c)]
    made += [a > 0.2, a < 0.2, a >= 0.2, a <= 0.2, a == 0.2, a != 0.2]
    made += [sym.broadcast_logical_and(a > 0, b > 0), sym.logical_not(a > 0), sym.where(a > 0, a, b)]
    made += [sym.broadcast_logical_or(a > 0, b > 0), sym.broadcast_logical_xor(a > 0, b > 0)]
    made += [getattr(sym, name)(a) for name in ("exp", "square", "abs", "sign", "floor", "ceil", "sin", "cos", "tan")]
    made += [
        getattr(sym, name)(a) for name in ("arctan", "sinh", "cosh", "tanh", "arcsinh", "expm1", "negative", "cbrt")
    ]
    positive = sym.abs(a) + 0.1
    made += [
        getattr(sym, name)(positive)
        for name in ("log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal", "rcbrt")
    ]
    made += [sym.arcsin(sym.tanh(a)), sym.arccos(sym.tanh(a)), sym.arctanh(sym.tanh(a)), sym.arccosh(positive + 1)]
    made += [sym.rint(a * 3), sym.fix(a * 3), sym.trunc(a * 3), sym.round(a * 3 + 0.01), sym.add_n(a, b, a)]
    made += [sym.zeros_like(a), sym.ones_like(b), sym.cast(a * 3, dtype="int32"), sym.cast(a > 0, dtype="float64")]
    made += [sym.broadcast_hypot(a, c), sym.broadcast_mod(a, sym.abs(c) + 0.3)]
    return sym.Group(made), {"a": values(2, 3, 4), "b": values(2, 3, 4)}


@net
def shapes():
    x = sym.var("data")  # (2, 4, 6, 5)
    made = [
        sym.reshape(x, shape=shape)
        for shape in ((0, -1), (-1, 5), (0, 0, -3), (-3, -2), (0, -4, 2, -1, -2), (-2, 1), (0, 0, 30))
    ]
    made += [
        sym.reshape(x, shape=(-4, 1, -1, 0, -2)),
        sym.reshape(x, shape=(-1, 0), reverse=True),
        sym.Reshape(x, shape=(0, -3, 5)),
    ]
    made += [sym.reshape_like(x, sym.transpose(x, axes=(1, 0, 3, 2))), sym.Flatten(x)]
    made += [sym.transpose(x), sym.transpose(x, axes=(0, 2, 3, 1)), sym.SwapAxis(x, dim1=1, dim2=3)]
    made += [
        sym.slice(x, begin=(None, 1), end=(None, 3)),
        sym.slice(x, begin=(0, 3, None), end=(2, 0, None), step=(1, -1, 2)),
    ]
    made += [sym.slice_axis(x, axis=2, begin=1, end=None), sym.slice_axis(x, axis=-1, begin=-3, end=-1)]
    made += [sym.slice_like(x, sym.slice_axis(x, axis=3, begin=0, end=2), axes=(3,))]
    made += list(sym.SliceChannel(x, num_outputs=2, axis=1)) + list(
        sym.SliceChannel(x, num_outputs=5, axis=3, squeeze_axis=True)
    )
    made += [sym.expand_dims(x, axis=2), sym.squeeze(sym.slice_axis(x, axis=1, begin=0, end=1), axis=1)]
    made += [
        sym.squeeze(sym.slice_axis(x, axis=1, begin=0, end=1)),
        sym.tile(x, reps=(2, 1, 3)),
        sym.tile(x, reps=(2, 1, 1, 1, 2)),
    ]
    made += [
        sym.repeat(x, repeats=3, axis=1),
        sym.stack(x, x, axis=1),
        sym.reverse(x, axis=2),
        sym.concat(x, x, dim=-1),
    ]
    made += [
        sym.depth_to_space(x, block_size=2),
        sym.space_to_depth(sym.slice_axis(x, axis=3, begin=0, end=4), block_size=2),
    ]
    one = sym.slice_axis(x, axis=2, begin=0, end=1)
    made += [
        sym.broadcast_to(one, shape=(0, 0, 3, 0)),
        sym.broadcast_like(one, x),
        sym.broadcast_axis(one, axis=2, size=4),
    ]
    made += [
        sym.shape_array(x),
        sym.size_array(x),
        sym.diag(sym.reshape(sym.slice_axis(x, axis=0, begin=0, end=1), shape=(4, 30))),
    ]
    made += [sym.contrib.arange_like(x, axis=2, start=1.0, step=0.5), sym.broadcast_add(x, sym.arange(0, 5))]
    made += [
        sym.broadcast_add(x, sym.zeros((1, 1, 1, 5))),
        sym.broadcast_mul(x, sym.ones((5,))),
        sym.split_v2(x, (1, 3), axis=1)[1],
    ]
    return sym.Group(made), {"data": values(2, 4, 6, 5)}


@net
def reductions():
    x, index = sym.var("data"), sym.var("index")
    made = [getattr(sym, name)(x, axis=1) for name in ("sum", "mean", "max", "min", "prod", "nansum")]
    made += [sym.sum(x), sym.mean(x, axis=(1, 2), keepdims=True), sym.max(x, axis=1, exclude=True), sym.sum(x, axis=-1)]
    made += [sym.norm(x, axis=1), sym.norm(x, ord=1, axis=2, keepdims=True), sym.norm(x)]
    made += [sym.argmax(x, axis=1), sym.argmin(x, axis=2, keepdims=True), sym.argmax_channel(sym.Flatten(x))]
    made += [
        *sym.topk(x, k=2, axis=1, ret_typ="both"),
        sym.topk(x, k=3),
        sym.topk(x, k=2, axis=2, ret_typ="value", is_ascend=True),
    ]
    made += [sym.sort(x, axis=1), sym.argsort(x, axis=2, is_ascend=False), sym.cumsum(x, axis=1)]
    made += [
        sym.take(x, index, axis=1),
        sym.take(x, index - 3, axis=2, mode="wrap"),
        sym.batch_take(sym.reshape(x, shape=(0, -1)), sym.cast(index, dtype="int32")),
    ]
    made += [sym.pick(sym.reshape(x, shape=(0, -1)), index)]
    made += [
        sym.one_hot(index, 5),
        sym.one_hot(index, 4, on_value=2.0, off_value=-1.0),
        sym.gather_nd(x, sym.stack(index, index, axis=0)),
    ]
    made += [sym.dot(sym.reshape(x, shape=(0, -1)), sym.reshape(x, shape=(0, -1)), transpose_b=True)]
    made += [sym.batch_dot(x, x, transpose_b=True), sym.batch_dot(x, x, transpose_a=True)]
    made += [sym.linalg.gemm2(x, x, transpose_b=True, alpha=0.5)]
    made += [sym.SequenceMask(sym.SwapAxis(x, dim1=0, dim2=1), index + 1, use_sequence_length=True, value=-2.0)]
    made += [sym.SequenceReverse(x), sym.SequenceLast(x)]
    return sym.Group(made), {"data": values(3, 4, 5), "index": np.array([0, 2, 1], "f4")}


class Attention(gluon.HybridBlock):
    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.embedding = nn.Embedding(23, 16)
            self.query, self.key, self.value = (nn.Dense(16, flatten=False) for _ in range(3))
            self.norm, self.out = nn.LayerNorm(), nn.Dense(9)

    def hybrid_forward(self, F, tokens):  # noqa: N803
        x = self.embedding(tokens)

        def heads(y):
            return F.reshape(F.transpose(F.reshape(y, shape=(0, 0, -4, 4, -1)), axes=(0, 2, 1, 3)), shape=(-3, 0, -1))

        query, key, value = heads(self.query(x)), heads(self.key(x)), heads(self.value(x))
        scores = F.softmax(F.batch_dot(query, key, transpose_b=True) * 0.5, axis=-1)
        mixed = F.reshape(F.batch_dot(scores, value), shape=(-4, -1, 4, 0, 0))
        mixed = F.reshape(F.transpose(mixed, axes=(0, 2, 1, 3)), shape=(0, 0, -1))
        return self.out(F.mean(self.norm(x + mixed), axis=1))


@net
def attention():
    return Attention(), {"data": integers(23, 2, 7)}


def _recurrent(layer, size=10):
    block = nn.HybridSequential()
    block.add(layer, nn.Dense(4, flatten=False))
    return block


@net
def lstm():
    return _recurrent(rnn.LSTM(6, num_layers=2, bidirectional=True, layout="NTC")), {"data": values(3, 5, 8)}


@net
def gru():
    return _recurrent(rnn.GRU(6, num_layers=2)), {"data": values(5, 3, 8)}


@net
def rnn_tanh():
    return _recurrent(rnn.RNN(6, activation="tanh", bidirectional=True)), {"data": values(5, 3, 8)}


@net
def stateful_lstm():
    """States as inputs and outputs; the packed parameters as one vector."""
    size = 4 * 6 * (8 + 6 + 2)
    made = sym.RNN(
        sym.var("data"),
        sym.var("weights"),
        sym.var("h"),
        sym.var("c"),
        state_size=6,
        num_layers=1,
        mode="lstm",
        state_outputs=True,
        name="rnn",
    )
    inputs = {"data": values(5, 3, 8), "h": values(1, 3, 6), "c": values(1, 3, 6)}
    return sym.Group(list(made)), inputs, {"weights": values(size) * np.float32(0.3)}


@net
def lstm_cell():
    """An unrolled cell: SliceChannel, Activation and arithmetic."""
    cell = mx.rnn.LSTMCell(6, prefix="cell_")
    outputs, _ = cell.unroll(
        4, sym.var("data"), begin_state=[sym.var("h"), sym.var("c")], layout="NTC", merge_outputs=True
    )
    return outputs, {"data": values(3, 4, 5), "h": values(3, 6), "c": values(3, 6)}


@net
def residual():
    def block(channels):
        inner = nn.HybridSequential()
        inner.add(nn.Conv2D(channels, 3, padding=1, use_bias=False), nn.BatchNorm(), nn.PReLU())
        inner.add(
            nn.Conv2D(channels, 3, padding=1, groups=channels, use_bias=False), nn.BatchNorm(scale=False), nn.Swish()
        )
        return inner

    class Net(gluon.HybridBlock):
        def __init__(self):
            super().__init__()
            with self.name_scope():
                self.stem = nn.Conv2D(8, 3, 2, 1)
                self.one, self.two = block(8), block(8)
                self.head = nn.HybridSequential()
                self.head.add(nn.GlobalAvgPool2D(), nn.Flatten(), nn.Dropout(0.5), nn.Dense(10))

        def hybrid_forward(self, F, x):  # noqa: N803
            x = self.stem(x)
            x = F.relu(x + self.one(x))
            return self.head(F.clip(x + self.two(x), 0, 6))

    return Net(), {"data": values(2, 3, 12, 12)}


@net
def one_dimensional():
    x = sym.var("data")
    x = sym.Convolution(x, kernel=(3,), num_filter=6, pad=(1,), name="conv")
    x = sym.Pooling(sym.Activation(x, act_type="tanh"), kernel=(2,), stride=(2,), pool_type="max")
    return sym.FullyConnected(sym.transpose(x, axes=(0, 2, 1)), num_hidden=3, flatten=False, name="dense"), {
        "data": values(2, 4, 9)
    }


@net
def half():
    """float16 input; MXNet's CPU build has no matrix product of that type."""
    x = sym.BatchNorm(sym.var("data"), fix_gamma=False, name="scaled")
    x = sym.Pooling(sym.Activation(x, act_type="relu"), kernel=(2, 2), stride=(2, 2), pool_type="avg")
    return sym.Flatten(x * 0.5 + 1), {"data": values(2, 3, 6, 6).astype("f2")}


@net
def double():
    x = sym.Convolution(sym.var("data"), kernel=(3, 3), num_filter=4, name="conv")
    x = sym.FullyConnected(sym.Activation(x, act_type="relu"), num_hidden=3, name="dense")
    return x, {"data": values(2, 3, 6, 6).astype("f8")}


def symbol_of(made, inputs):
    if isinstance(made, gluon.HybridBlock):
        made.initialize()
        made.hybridize()
        made(*map(nd.array, inputs.values()))
        with tempfile.TemporaryDirectory() as folder:
            made.export(f"{folder}/traced")
            made = sym.load(f"{folder}/traced-symbol.json")
    return made


def record(name, function):
    made, inputs, *given = function()
    symbol = symbol_of(made, inputs)
    given = given[0] if given else {}
    dtype = np.dtype("f4") if name == "half" else next(iter(inputs.values())).dtype  # statistics stay float32
    sizes = {key: value.shape for key, value in inputs.items()}
    shapes, _, aux_shapes = symbol.infer_shape_partial(**sizes, **{k: v.shape for k, v in given.items()})
    arguments = dict(zip(symbol.list_arguments(), shapes, strict=True))
    known = [key for key in arguments if key not in inputs and not key.endswith("_label")]
    parameters = {
        key: given.get(key, parameter(key, arguments[key])).astype(dtype)
        for key in known
        if key in given or arguments[key]
    }
    aux = {key: parameter(key, shape) for key, shape in zip(symbol.list_auxiliary_states(), aux_shapes, strict=True)}
    saved = {f"arg:{k}": nd.array(v, dtype=v.dtype) for k, v in parameters.items()} | {
        f"aux:{k}": nd.array(v) for k, v in aux.items()
    }
    symbol.save(str(HERE / f"{name}-symbol.json"))
    nd.save(str(HERE / f"{name}-0000.params"), saved)

    labels = {key: nd.zeros(shape) for key, shape in arguments.items() if key.endswith("_label")}
    feed = {k: nd.array(v, dtype=v.dtype) for k, v in {**inputs, **parameters}.items()} | labels
    states = {k: nd.array(v) for k, v in aux.items()}
    executor = symbol.bind(mx.cpu(), feed, grad_req="null", aux_states=states)
    outputs = executor.forward(is_train=False)
    arrays = {f"in:{k}": v for k, v in inputs.items()}
    arrays |= {f"out:{k}": v.asnumpy() for k, v in zip(symbol.list_outputs(), outputs, strict=True)}
    assert len(arrays) == len(inputs) + len(outputs), "two outputs have one name"
    np.savez_compressed(str(HERE / f"{name}.npz"), **arrays)


def main(names):
    """Record the nets, each in a process of its own."""
    if names[:1] == ["--here"]:
        record(names[1], NETS[names[1]])
        return
    for name in names or NETS:
        # oneDNN has no deconvolution with a target shape, and its recurrent operator crashes in some processes.
        own = {"MXNET_USE_MKLDNN_RNN": "0"} | ({"MXNET_MKLDNN_ENABLED": "0"} if name == "upscaling" else {})
        subprocess.run([sys.executable, __file__, "--here", name], env=os.environ | own, check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
