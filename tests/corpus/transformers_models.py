"""Architectures of `transformers`, tiny, from configurations with random weights: nothing is downloaded."""

from __future__ import annotations

from typing import Any

_COMMON = {
    "vocab_size": 64,
    "hidden_size": 16,
    "d_model": 16,
    "n_embd": 16,
    "dim": 16,
    "embedding_size": 16,
    "word_embed_proj_dim": 16,
    "num_hidden_layers": 2,
    "num_layers": 2,
    "n_layers": 2,
    "n_layer": 2,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "num_decoder_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_heads": 2,
    "n_heads": 2,
    "n_head": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "intermediate_size": 32,
    "ffn_dim": 32,
    "d_ff": 32,
    "d_kv": 8,
    "hidden_dim": 32,
    "n_inner": 32,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "n_positions": 64,
    "type_vocab_size": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "use_cache": False,
    "image_size": 32,
    "patch_size": 8,
    "num_channels": 3,
}
"""Applied to every configuration that has the attribute."""

_TEXT = {"input_ids": "ids", "attention_mask": "mask"}
_IMAGE = {"pixel_values": "image"}
_BOTH_SIDES = {"input_ids": "ids", "attention_mask": "mask", "decoder_input_ids": "ids"}
_SOUND = {"input_values": "sound"}

_SMALL_CONV = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
_SMALL_STAGES = {"depths": [1, 1], "hidden_sizes": [8, 16], "num_stages": 2}
_WAV = {
    "conv_dim": [16, 16],
    "conv_stride": [4, 2],
    "conv_kernel": [8, 4],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_prob": 0.0,
}

ARCHITECTURES: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    # encoders of text
    "albert": ("AlbertModel", {}, _TEXT),
    "bert": ("BertForSequenceClassification", {}, _TEXT),
    "camembert": ("CamembertModel", {}, _TEXT),
    "convbert": ("ConvBertModel", {}, _TEXT),
    "data2vec_text": ("Data2VecTextModel", {}, _TEXT),
    "deberta": ("DebertaModel", {}, _TEXT),
    "deberta_v2": ("DebertaV2Model", {}, _TEXT),
    "distilbert": ("DistilBertModel", {}, _TEXT),
    "electra": ("ElectraForTokenClassification", {}, _TEXT),
    "ernie": ("ErnieModel", {}, _TEXT),
    "esm": ("EsmModel", {"position_embedding_type": "rotary"}, _TEXT),
    "fnet": ("FNetModel", {}, {"input_ids": "ids"}),
    "funnel": (
        "FunnelModel",
        {"num_hidden_layers": None, "block_sizes": [1, 1], "num_decoder_layers": 1, "d_inner": 32},
        _TEXT,
    ),
    "ibert": ("IBertModel", {}, _TEXT),
    "layoutlm": ("LayoutLMModel", {}, _TEXT),
    "megatron_bert": ("MegatronBertModel", {}, _TEXT),
    "mobilebert": (
        "MobileBertModel",
        {"true_hidden_size": 16, "intra_bottleneck_size": 16, "hidden_size": 16, "num_feedforward_networks": 1},
        _TEXT,
    ),
    "modernbert": ("ModernBertModel", {}, _TEXT),
    "mpnet": ("MPNetModel", {}, _TEXT),
    "nystromformer": ("NystromformerModel", {"num_landmarks": 4, "segment_means_seq_len": 4}, _TEXT),
    "rembert": ("RemBertModel", {"input_embedding_size": 16, "output_embedding_size": 16}, _TEXT),
    "roberta": ("RobertaForMaskedLM", {}, _TEXT),
    "roformer": ("RoFormerModel", {}, _TEXT),
    "splinter": ("SplinterModel", {}, _TEXT),
    "squeezebert": ("SqueezeBertModel", {"q_groups": 1, "k_groups": 1, "v_groups": 1}, _TEXT),
    "xlm_roberta": ("XLMRobertaModel", {}, _TEXT),
    # decoders of text
    "biogpt": ("BioGptForCausalLM", {}, _TEXT),
    "bloom": ("BloomForCausalLM", {}, _TEXT),
    "codegen": ("CodeGenForCausalLM", {"rotary_dim": 4, "n_head": 4, "num_attention_heads": 4}, _TEXT),
    "falcon": ("FalconForCausalLM", {"head_dim": None}, _TEXT),
    "gemma": ("GemmaForCausalLM", {}, _TEXT),
    "gemma2": ("Gemma2ForCausalLM", {}, _TEXT),
    "gpt2": ("GPT2LMHeadModel", {}, _TEXT),
    "gpt_bigcode": ("GPTBigCodeForCausalLM", {}, _TEXT),
    "gpt_neo": ("GPTNeoForCausalLM", {"attention_types": [[["global", "local"], 1]]}, _TEXT),
    "gpt_neox": ("GPTNeoXForCausalLM", {}, _TEXT),
    "gptj": ("GPTJForCausalLM", {"rotary_dim": 4}, _TEXT),
    "granite": ("GraniteForCausalLM", {}, _TEXT),
    "llama": ("LlamaForCausalLM", {}, _TEXT),
    "mistral": ("MistralForCausalLM", {}, _TEXT),
    "mixtral": ("MixtralForCausalLM", {"num_local_experts": 2}, _TEXT),
    "mpt": ("MptForCausalLM", {}, _TEXT),
    "olmo": ("OlmoForCausalLM", {}, _TEXT),
    "opt": ("OPTForCausalLM", {}, _TEXT),
    "phi": ("PhiForCausalLM", {}, _TEXT),
    "qwen2": ("Qwen2ForCausalLM", {}, _TEXT),
    "qwen3": ("Qwen3ForCausalLM", {}, _TEXT),
    "stablelm": ("StableLmForCausalLM", {}, _TEXT),
    "starcoder2": ("Starcoder2ForCausalLM", {}, _TEXT),
    "xglm": ("XGLMForCausalLM", {}, _TEXT),
    # both sides
    "bart": ("BartModel", {}, _BOTH_SIDES),
    "blenderbot_small": ("BlenderbotSmallModel", {}, _BOTH_SIDES),
    "m2m_100": ("M2M100Model", {}, _BOTH_SIDES),
    "marian": ("MarianModel", {}, _BOTH_SIDES),
    "pegasus": ("PegasusModel", {}, _BOTH_SIDES),
    "t5": ("T5Model", {}, _BOTH_SIDES),
    # images
    "beit": ("BeitForImageClassification", {}, _IMAGE),
    "bit": ("BitModel", {"depths": [1, 1], "hidden_sizes": [8, 16], "embedding_size": 8, "num_groups": 2}, _IMAGE),
    "convnext": ("ConvNextModel", _SMALL_STAGES, _IMAGE),
    "convnextv2": ("ConvNextV2Model", _SMALL_STAGES, _IMAGE),
    "data2vec_vision": ("Data2VecVisionModel", {}, _IMAGE),
    "deit": ("DeiTModel", {}, _IMAGE),
    "dinov2": ("Dinov2Model", {}, _IMAGE),
    "efficientnet": (
        "EfficientNetModel",
        {
            "depth_coefficient": 0.5,
            "width_coefficient": 0.25,
            "kernel_sizes": [3, 3],
            "in_channels": [8, 8],
            "out_channels": [8, 16],
            "depthwise_padding": [],
            "strides": [1, 2],
            "num_block_repeats": [1, 1],
            "expand_ratios": [1, 2],
            "hidden_dim": 320,
        },
        _IMAGE,
    ),
    "focalnet": ("FocalNetModel", {"depths": [1, 1], "hidden_sizes": [8, 16], "embed_dim": 8}, _IMAGE),
    "mobilenet_v1": ("MobileNetV1Model", {"depth_multiplier": 0.25, "min_depth": 4}, _IMAGE),
    "mobilenet_v2": ("MobileNetV2ForImageClassification", {"depth_multiplier": 0.35, "min_depth": 4}, _IMAGE),
    "mobilevit": (
        "MobileViTModel",
        {"hidden_sizes": [8, 8, 8], "neck_hidden_sizes": [4, 4, 8, 8, 8, 8, 16], "patch_size": 2, "image_size": 64},
        _IMAGE,
    ),
    "poolformer": (
        "PoolFormerModel",
        {
            "depths": [1, 1],
            "hidden_sizes": [8, 16],
            "patch_sizes": [7, 3],
            "strides": [4, 2],
            "padding": [2, 1],
            "num_encoder_blocks": 2,
        },
        _IMAGE,
    ),
    "pvt": (
        "PvtModel",
        {
            "num_encoder_blocks": 2,
            "depths": [1, 1],
            "sequence_reduction_ratios": [2, 1],
            "hidden_sizes": [8, 16],
            "patch_sizes": [4, 2],
            "strides": [4, 2],
            "num_attention_heads": [1, 2],
            "mlp_ratios": [2, 2],
        },
        _IMAGE,
    ),
    "regnet": ("RegNetModel", {**_SMALL_CONV, "layer_type": "y", "groups_width": 8}, _IMAGE),
    "resnet": ("ResNetForImageClassification", _SMALL_CONV, _IMAGE),
    "segformer": (
        "SegformerForSemanticSegmentation",
        {
            "num_encoder_blocks": 2,
            "depths": [1, 1],
            "sr_ratios": [2, 1],
            "hidden_sizes": [8, 16],
            "patch_sizes": [7, 3],
            "strides": [4, 2],
            "num_attention_heads": [1, 2],
            "mlp_ratios": [2, 2],
            "decoder_hidden_size": 8,
        },
        _IMAGE,
    ),
    "swin": (
        "SwinModel",
        {
            "num_attention_heads": None,
            "num_hidden_layers": None,
            "num_layers": None,
            "hidden_size": None,
            "depths": [1, 1],
            "num_heads": [1, 2],
            "embed_dim": 8,
            "window_size": 2,
            "patch_size": 2,
        },
        _IMAGE,
    ),
    "swinv2": (
        "Swinv2Model",
        {
            "num_attention_heads": None,
            "num_hidden_layers": None,
            "num_layers": None,
            "hidden_size": None,
            "depths": [1, 1],
            "num_heads": [1, 2],
            "embed_dim": 8,
            "window_size": 2,
            "patch_size": 2,
        },
        _IMAGE,
    ),
    "vit": ("ViTForImageClassification", {}, _IMAGE),
    "vit_msn": ("ViTMSNModel", {}, _IMAGE),
    "yolos": ("YolosForObjectDetection", {"image_size": [32, 32], "num_detection_tokens": 4}, _IMAGE),
    # sound
    "audio_spectrogram_transformer": ("ASTModel", {"num_mel_bins": 16, "max_length": 32}, {"input_values": "mel"}),
    "hubert": ("HubertModel", _WAV, _SOUND),
    "sew": ("SEWModel", {**_WAV, "squeeze_factor": 2}, _SOUND),
    "unispeech": ("UniSpeechModel", _WAV, _SOUND),
    "wav2vec2": ("Wav2Vec2ForCTC", _WAV, _SOUND),
    "wavlm": ("WavLMModel", {**_WAV, "num_buckets": 8, "max_bucket_distance": 16}, _SOUND),
}
"""Name -> class, what its configuration needs beside the common attributes (None: not that one), and its inputs."""


def build(name: str) -> tuple[Any, dict[str, Any]]:
    """Build one architecture with random weights, and inputs with a batch of 2.

    Returns:
        The module in evaluation mode, and NumPy arrays by argument name.
    """
    import numpy as np
    import torch
    import transformers

    class_name, special, inputs = ARCHITECTURES[name]
    torch.manual_seed(0)
    model_class = getattr(transformers, class_name)
    config_class = model_class.config_class
    plain = config_class()
    known = {key: value for key, value in _COMMON.items() if hasattr(plain, key)}
    arguments = {key: value for key, value in {**known, **special}.items() if value is not None}
    config = config_class(**arguments)
    model = model_class(config).eval()
    generator = np.random.default_rng(0)
    size = getattr(config, "image_size", 32)
    side = size if isinstance(size, int) else 32
    drawn = {
        "ids": lambda: generator.integers(3, 60, (2, 8)),
        "mask": lambda: np.ones((2, 8), np.int64),
        "image": lambda: generator.standard_normal((2, 3, side, side)).astype(np.float32),
        "sound": lambda: generator.standard_normal((2, 400)).astype(np.float32),
        "mel": lambda: generator.standard_normal((2, 32, 16)).astype(np.float32),
    }
    return model, {argument: drawn[kind]() for argument, kind in inputs.items()}
