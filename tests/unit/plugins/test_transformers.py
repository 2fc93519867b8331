"""The source `transformers`: models inside MLflow's flavor and in folders of save_pretrained."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from registry_export.entities import Interface, TensorSpec
from registry_export.errors import SourceError
from registry_export.format import ModelSetup
from registry_export_plugins._torch.pretrained import offline
from registry_export_plugins.safetensors import Safetensors
from registry_export_plugins.transformers import Transformers

transformers = offline()
NOTHING = Interface(inputs=())
TEXT = Interface((TensorSpec("", "str", ("batch",)),))
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def bert(name="BertForSequenceClassification"):
    torch.manual_seed(0)
    return getattr(transformers, name)(transformers.BertConfig(**SMALL, vocab_size=60)).eval()


def flavored(folder, model=None, **flavor):
    (model or bert()).save_pretrained(folder / "model")
    tokenizer = folder / "components" / "tokenizer"
    tokenizer.mkdir(parents=True)
    (tokenizer / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    return {"python_function": {}, "transformers": {"model_binary": "model", "components": ["tokenizer"], **flavor}}


def test_the_model_inside_a_pipeline_is_called_with_what_its_tokenizer_makes(tmp_path):
    flavors = flavored(tmp_path)
    with Transformers().open(Transformers().locate(tmp_path, flavors), TEXT) as runner:
        names = [spec.name for spec in runner.interface.inputs]
        assert names == ["input_ids", "attention_mask", "token_type_ids"]
        assert runner.interface.inputs[0] == TensorSpec("input_ids", "int64", ("batch", "sequence"))
        assert "without its tokenizer" in runner.notes[0]
        logits = runner.infer(runner.example)["logits"]
    with torch.no_grad():
        expected = bert()(**{name: torch.from_numpy(array) for name, array in runner.example.items()}).logits
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-6)


def test_a_signature_of_the_models_own_inputs_is_kept(tmp_path):
    flavors = flavored(tmp_path)
    declared = Interface((TensorSpec("input_ids", "int64", ("batch", 7)),))
    with Transformers().open(Transformers().locate(tmp_path, flavors), declared) as runner:
        assert runner.interface.inputs == declared.inputs


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_a_plain_folder_is_claimed_by_transformers_alone(safe, tmp_path):
    bert().save_pretrained(tmp_path)
    if not safe:
        torch.save(bert().state_dict(), tmp_path / "pytorch_model.bin")
        (tmp_path / "model.safetensors").unlink()
    assert Transformers().locate(tmp_path, {}) == tmp_path
    assert Safetensors().locate(tmp_path, {}) is None
    assert type(Transformers().load(tmp_path, NOTHING).wrapped).__name__ == "BertForSequenceClassification"
    assert Transformers().describe(tmp_path).precision == "fp32"


def test_a_sharded_folder_in_half_precision_is_loaded_as_it_is(tmp_path):
    bert().half().save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    assert Transformers().load(tmp_path, NOTHING).wrapped.dtype == torch.float16
    assert Transformers().describe(tmp_path).precision == "fp16"


def vit():
    config = transformers.ViTConfig(**SMALL, image_size=8, patch_size=4, num_channels=1)
    return transformers.ViTForImageClassification(config)


def t5():
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(d_model=16, d_ff=32, num_layers=1, num_heads=2, d_kv=8, vocab_size=60)
    )


def clip():
    text = {**SMALL, "vocab_size": 60, "max_position_embeddings": 16}
    vision = {**SMALL, "image_size": 8, "patch_size": 4}
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))


def whisper():
    config = transformers.WhisperConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=32, decoder_ffn_dim=32, vocab_size=60, num_mel_bins=8, max_source_positions=20,
        max_target_positions=16, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        begin_suppress_tokens=None,
    )  # fmt: skip
    return transformers.WhisperForConditionalGeneration(config)


@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        (vit, {"pixel_values": ("batch", 1, 8, 8)}),
        (t5, {"input_ids": ("batch", "sequence"), "attention_mask": ("batch", "sequence"),
              "decoder_input_ids": ("batch", "decoder_sequence")}),
        (clip, {"input_ids": ("batch", "sequence"), "pixel_values": ("batch", 3, 8, 8),
                "attention_mask": ("batch", "sequence")}),
        (whisper, {"input_features": ("batch", 8, 40), "decoder_input_ids": ("batch", "decoder_sequence")}),
    ],
    ids=["vit", "t5", "clip", "whisper"],
)  # fmt: skip
def test_inputs_are_those_that_the_configuration_asks_for(make, inputs, tmp_path):
    make().eval().save_pretrained(tmp_path)
    with Transformers().open(tmp_path, NOTHING) as runner:
        assert {spec.name: spec.shape for spec in runner.interface.inputs} == inputs
        assert all(np.isfinite(output).all() for output in runner.infer(runner.example).values())


def test_weights_that_would_be_random_are_refused_by_name(tmp_path):
    bert("BertModel").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["architectures"] = ["BertForSequenceClassification"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SourceError, match=r"lack weights.*classifier\.bias"):
        Transformers().load(tmp_path, NOTHING)


def test_code_in_the_folder_is_never_run(tmp_path):
    bert().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "mine", "architectures": ["Mine"], "auto_map": {"AutoConfig": "mine.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "mine.py").write_text("raise SystemExit('ran')")
    with pytest.raises(SourceError, match="cannot load the model"):
        Transformers().load(tmp_path, NOTHING)


def test_an_architecture_of_ones_own_comes_from_a_factory(tmp_path):
    bert().save_pretrained(tmp_path)
    setup = ModelSetup(model_factory="tests.unit.plugins.test_transformers:bert")
    assert Transformers().load(tmp_path, NOTHING, setup).wrapped.config.vocab_size == 60


def test_a_model_logged_by_reference_is_refused_with_what_to_call(tmp_path):
    flavors = flavored(tmp_path, source_model_name="bert-base")
    del flavors["transformers"]["model_binary"]
    shutil.rmtree(tmp_path / "model")
    with pytest.raises(SourceError, match=r"bert-base.*persist_pretrained_model"):
        Transformers().locate(tmp_path, flavors)


def test_other_flavors_and_folders_are_not_located(tmp_path):
    assert Transformers().locate(tmp_path, {"sklearn": {}}) is None
    (tmp_path / "config.json").write_text('{"architecture": "resnet18"}')
    assert Transformers().locate(tmp_path, {}) is None
