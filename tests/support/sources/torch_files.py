"""PyTorch's files as people log them without a flavor, and what needs a factory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from registry_export.format import ModelSetup, Toolchain
from tests.support.sources.flavors import conv_net, example
from tests.support.sources.source import TORCH, Source

FACTORY = ModelSetup(model_factory="tests.support.torch_models:conv_net")
LIGHTNING = ModelSetup(model_factory="tests.support.lightning_models:LitClassifier")
HUGGING_FACE = Toolchain("build-transformers", ("torch",), {"HF_HUB_OFFLINE": "1"})

SOURCES = {
    "pytorch/file": Source("pytorch", TORCH, f"{__name__}:module_file", samples=True),
    "torchscript": Source("torchscript", TORCH, f"{__name__}:torchscript_file", samples=True),
    "torchscript/quantized": Source("torchscript", TORCH, f"{__name__}:quantized_file", samples=True),
    "exported_program/file": Source("exported_program", TORCH, f"{__name__}:program_file", samples=True),
    "state_dict": Source("state_dict", TORCH, f"{__name__}:state_dict_file", FACTORY, samples=True),
    "state_dict/checkpoint": Source("state_dict", TORCH, f"{__name__}:checkpoint_file", FACTORY, samples=True),
    "safetensors": Source("safetensors", TORCH, f"{__name__}:safetensors_file", FACTORY, samples=True),
    "safetensors/sharded": Source("safetensors", TORCH, f"{__name__}:safetensors_shards", FACTORY, samples=True),
    "lightning": Source("lightning", TORCH, f"{__name__}:lightning_checkpoint", LIGHTNING),
    "transformers": Source("transformers", HUGGING_FACE, f"{__name__}:transformers_flavor"),
    "pyfunc": Source("pyfunc", TORCH, f"{__name__}:python_function"),
    "transformers/folder": Source("transformers", HUGGING_FACE, f"{__name__}:transformers_folder"),
}


def _place(arguments) -> Path:
    folder = Path(arguments["folder"])
    folder.mkdir(parents=True)
    np.savez(f"{folder}.npz", pixels=example())
    return folder


def module_file(arguments):
    import torch

    torch.save(conv_net(), _place(arguments) / "best.pt")


def torchscript_file(arguments):
    import torch

    torch.jit.script(conv_net()).save(_place(arguments) / "net.pt")


def quantized_file(arguments):
    """A net with `quantized::` operators, statically quantised with calibrated activations."""
    import torch
    from torch.ao import quantization

    net = quantization.QuantWrapper(
        torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
            torch.nn.Linear(8, 5),
        )
    ).eval()  # fmt: skip
    engine = next(name for name in ("x86", "fbgemm", "qnnpack") if name in torch.backends.quantized.supported_engines)
    torch.backends.quantized.engine = engine
    net.qconfig = quantization.get_default_qconfig(engine)
    prepared = quantization.prepare(net)
    prepared(torch.from_numpy(example()))
    torch.jit.script(quantization.convert(prepared)).save(_place(arguments) / "net.pt")


def program_file(arguments):
    import torch

    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(conv_net(), (torch.from_numpy(example()),), dynamic_shapes=shapes)
    torch.export.save(program, _place(arguments) / "net.pt2")


def state_dict_file(arguments):
    import torch

    torch.save(torch.nn.DataParallel(conv_net()).state_dict(), _place(arguments) / "weights.pth")


def checkpoint_file(arguments):
    import torch

    net = conv_net()
    optimizer = torch.optim.AdamW(net.parameters())
    held = {"epoch": 7, "model_state_dict": net.state_dict(), "optimizer_state_dict": optimizer.state_dict()}
    torch.save(held, _place(arguments) / "checkpoint-7.pt")


def safetensors_file(arguments):
    from safetensors.torch import save_file

    save_file(conv_net().state_dict(), _place(arguments) / "model.safetensors")


def safetensors_shards(arguments):
    import json

    from safetensors.torch import save_file

    folder = _place(arguments)
    state = list(conv_net().state_dict().items())
    parts = {"model-00001-of-00002.safetensors": dict(state[:5]), "model-00002-of-00002.safetensors": dict(state[5:])}
    for name, part in parts.items():
        save_file(part, folder / name)
    index = {"weight_map": {key: name for name, part in parts.items() for key in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def lightning_checkpoint(arguments):
    from tests.support import lightning_models

    folder = Path(arguments["folder"])
    folder.mkdir(parents=True)
    lightning_models.save(folder / "epoch=0-step=1.ckpt")


def _bert():
    import torch

    from registry_export_plugins._torch.pretrained import offline

    transformers = offline()
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=7
    )
    return transformers, transformers.BertForSequenceClassification(config).eval()


def transformers_flavor(arguments):
    import mlflow

    transformers, model = _bert()
    vocabulary = Path(arguments["folder"] + "-vocab.txt")
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world"]))
    tokenizer = transformers.BertTokenizer(str(vocabulary))
    mlflow.transformers.save_model(
        {"model": model, "tokenizer": tokenizer},
        arguments["folder"],
        task="text-classification",
        input_example=["hello world"],
        pip_requirements=["transformers"],
    )


def transformers_folder(arguments):
    _bert()[1].save_pretrained(arguments["folder"])


def python_function(arguments):
    """A Python function whose net is called with other numbers than the function is."""
    import mlflow

    from tests.support.torch_models import Classifier, function_class

    function = function_class()()
    function.model = Classifier().eval()
    rows = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    mlflow.pyfunc.save_model(arguments["folder"], python_model=function, input_example=rows, pip_requirements=["torch"])
