"""LLaVA-OneVision."""

from __future__ import annotations

import torch
import transformers

from families import MEAN, STD, Family, byte_tokenizer, clips, randomise

SPECIAL = ["<|im_start|>", "<|im_end|>", "<image>", "<video>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }} {% for c in m['content'] %}{% if c['type'] == 'video' %}"
    "<video>{% endif %}{% endfor %}{% for c in m['content'] %}{% if c['type'] == 'text' %}\n{{ c['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# 5 x 5 patches: an odd number, which is halved upwards.
FRAMING = {
    "size": {"height": 40, "width": 40},
    "image_mean": MEAN,
    "image_std": STD,
    "rescale_factor": 1 / 255,
    "resample": 3,
}


def tokenizer():
    return byte_tokenizer(SPECIAL, TEMPLATE, eos_token="<|im_end|>")


def llava_onevision(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    known = tokenizer()
    text = {
        "model_type": "qwen2",
        "vocab_size": len(known),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 40,
        "patch_size": 8,
        "vision_use_head": False,
    }
    config = transformers.LlavaOnevisionConfig(
        text_config=text,
        vision_config=vision,
        image_token_index=known.convert_tokens_to_ids("<image>"),
        video_token_index=known.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=[[40, 40]],
    )
    return randomise(transformers.LlavaOnevisionForConditionalGeneration(config))


def still(module: torch.nn.Module) -> None:
    for block in module.model.vision_tower.encoder.layers:
        for parameter in block.self_attn.out_proj.parameters():
            torch.nn.init.zeros_(parameter)


def processor(tokenizer):
    return transformers.LlavaOnevisionProcessor(
        image_processor=transformers.LlavaOnevisionImageProcessor(),
        tokenizer=tokenizer,
        video_processor=transformers.LlavaOnevisionVideoProcessor(**FRAMING),
        num_image_tokens=25,
        vision_feature_select_strategy="full",
        chat_template=tokenizer.chat_template,
    )


def contents(n: int) -> list:
    return clips(n, 32, 48)


FAMILIES = [
    Family("llava_onevision", llava_onevision, tokenizer, FRAMING, contents, still, processor, counts=(4, 4, 4))
]
