"""`python -m tests.fuzz.make_seeds`: writes the valid files that others mutate and that only frameworks can write."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

SEEDS = Path(__file__).parent / "seeds"


def main() -> None:
    """Write them anew."""
    SEEDS.mkdir(exist_ok=True)
    _torch_files()
    _core_ml()


def _torch_files() -> None:
    import torch
    from torch import nn

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    torch.save(net, SEEDS / "module.pt")
    torch.save(net.state_dict(), SEEDS / "state.pt")
    torch.save({"epoch": 3, "state_dict": net.state_dict()}, SEEDS / "training.ckpt")
    torch.save(net.state_dict(), SEEDS / "legacy.pt", _use_new_zipfile_serialization=False)


def _core_ml() -> None:
    from tests.unit.plugins.coreml_evaluation_support import mb, numbers, packaged

    weight = numbers(3, 4, 2, 2)

    def convolved(x):
        y = mb.relu(x=mb.conv(x=x, weight=weight, pad_type="valid"))
        looped = mb.while_loop(
            _cond=lambda i, a: mb.less(x=i, y=np.int32(2)),
            _body=lambda i, a: (mb.add(x=i, y=np.int32(1)), mb.mul(x=a, y=np.float32(0.5))),
            loop_vars=(np.int32(0), y),
        )
        chosen = mb.cond(
            pred=mb.greater(x=mb.reduce_sum(x=y, axes=[0, 1, 2, 3]), y=np.float32(0)),
            _true_fn=lambda: mb.softmax(x=looped[1], axis=1),
            _false_fn=lambda: mb.reshape(x=mb.transpose(x=looped[1], perm=[0, 2, 3, 1]), shape=[1, 3, 4, 4]),
        )
        return mb.concat(values=[chosen, y], axis=1)

    def compressed(x):
        scale = np.array([0.5, 2], np.float32)
        table = mb.constexpr_affine_dequantize(
            quantized_data=np.array([[1, 2], [3, 250]], np.uint8),
            zero_point=np.array([1, 2], np.uint8),
            scale=scale,
            axis=np.int32(0),
        )
        return mb.gather(x=mb.matmul(x=x, y=table), indices=np.array([1, 0], np.int32), axis=1)

    for name, build, inputs in (
        ("convolved", convolved, {"x": numbers(1, 4, 5, 5)}),
        ("compressed", compressed, {"x": numbers(3, 2)}),
    ):
        target = SEEDS / f"{name}.mlpackage"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(packaged(build, inputs), target)


if __name__ == "__main__":
    main()
