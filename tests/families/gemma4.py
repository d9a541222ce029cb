"""Gemma 4: the small models, whose last layers share keys and values, and the large ones with experts."""

from __future__ import annotations

from functools import partial

import torch
import transformers

from families import MEAN, STD, Family, byte_tokenizer, clips, randomise

NAMED = {
    "image_token": "<|image|>",
    "boi_token": "<|image>",
    "eoi_token": "<image|>",
    "audio_token": "<|audio|>",
    "boa_token": "<|audio>",
    "eoa_token": "<audio|>",
}
SPECIAL = ["<bos>", "<|turn>", "<turn|>", "<|video|>", *NAMED.values()]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|turn>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'video' %}\n\n<|video|>\n\n{% else %}{{ c['text'] }}{% endif %}{% endfor %}<turn|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|turn>model\n{% endif %}"
)
PATCHES = {
    "patch_size": 4,
    "pooling_kernel_size": 2,
    "max_soft_tokens": 70,
    "image_mean": MEAN,
    "image_std": STD,
    "rescale_factor": 1 / 255,
    "resample": 3,
}


def tokenizer():
    return byte_tokenizer(SPECIAL, TEMPLATE, bos_token="<bos>", eos_token="<turn|>", **NAMED)


SMALL = {
    "hidden_size_per_layer_input": 8,
    "num_hidden_layers": 4,
    # The last two layers have no keys and values of their own.
    "num_kv_shared_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
LARGE = {
    "hidden_size_per_layer_input": 0,
    "num_hidden_layers": 3,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "num_global_key_value_heads": 1,
    "attention_k_eq_v": True,
    # The tokens of a frame see each other in the sliding layers.
    "use_bidirectional_attention": "vision",
    "enable_moe_block": True,
    "num_experts": 2,
    "top_k_experts": 1,
    "moe_intermediate_size": 16,
}


def module(seed: int, kind: dict) -> torch.nn.Module:
    torch.manual_seed(seed)
    known = tokenizer()
    text = kind | {
        "vocab_size": len(known),
        "vocab_size_per_layer_input": len(known),
        "hidden_size": 32,
        "intermediate_size": 48,
        "sliding_window": 16,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "global_head_dim": 16,
        "max_position_embeddings": 1024,
        "initializer_range": 0.3,
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "patch_size": 4,
        "pooling_kernel_size": 2,
        "position_embedding_size": 140,
        "initializer_range": 0.3,
    }
    ids = {f"{name}_id": known.convert_tokens_to_ids(token) for name, token in NAMED.items() if name != "eoa_token"}
    config = transformers.Gemma4Config(
        text_config=text,
        vision_config=vision,
        video_token_id=known.convert_tokens_to_ids("<|video|>"),
        eoa_token_index=known.convert_tokens_to_ids("<audio|>"),
        initializer_range=0.3,
        **ids,
    )
    return randomise(transformers.Gemma4ForConditionalGeneration(config))


def still(module: torch.nn.Module) -> None:
    for layer in module.model.vision_tower.encoder.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.linear.weight)


def processor(tokenizer):
    from transformers import Gemma4AudioFeatureExtractor, Gemma4ImageProcessor, Gemma4Processor, Gemma4VideoProcessor

    return Gemma4Processor(
        feature_extractor=Gemma4AudioFeatureExtractor(),
        image_processor=Gemma4ImageProcessor(),
        tokenizer=tokenizer,
        video_processor=Gemma4VideoProcessor(**PATCHES),
        chat_template=tokenizer.chat_template,
    )


def contents(n: int) -> list:
    # 7 x 10 tokens: no smaller frame has fewer, because every frame is resized to the budget.
    return clips(n, 56, 80, counts=(1, 2, 3))


FAMILIES = [
    Family("gemma4", partial(module, kind=SMALL), tokenizer, PATCHES, contents, still, processor, times=True),
    Family("gemma4-large", partial(module, kind=LARGE), tokenizer, PATCHES, contents, still, times=True),
]
