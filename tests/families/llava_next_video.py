"""LLaVA-NeXT-Video."""

from __future__ import annotations

import torch
import transformers
from tokenizers import processors

from families import MEAN, STD, Family, byte_tokenizer, clips, randomise

SPECIAL = ["<image>", "<video>"]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'].upper() }}: {% for c in m['content'] %}{% if c['type'] == 'video' %}"
    "<video>\n{% else %}{{ c['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
FRAMING = {
    "size": {"shortest_edge": 48},
    "do_center_crop": True,
    "crop_size": {"height": 48, "width": 48},
    "image_mean": MEAN,
    "image_std": STD,
    "rescale_factor": 1 / 255,
    "resample": 3,
}


def tokenizer():
    made = byte_tokenizer(SPECIAL, TEMPLATE, bos_token="<s>")
    # As Llama's tokenizers do, and unlike those of the Qwen models.
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", made.bos_token_id)]
    )
    return made


def text_config() -> dict:
    return {
        "model_type": "llama",
        "vocab_size": len(tokenizer()),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }


def vision_config() -> dict:
    return {
        "model_type": "clip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 48,
        "patch_size": 8,
        "projection_dim": 16,
        "initializer_range": 0.3,
        "initializer_factor": 3.0,
    }


def llava_next_video(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    known = tokenizer()
    config = transformers.LlavaNextVideoConfig(
        text_config=text_config(),
        vision_config=vision_config(),
        image_token_index=known.convert_tokens_to_ids("<image>"),
        video_token_index=known.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=[[48, 96], [96, 48]],
    )
    return randomise(transformers.LlavaNextVideoForConditionalGeneration(config))


def still(module: torch.nn.Module) -> None:
    for block in module.model.vision_tower.encoder.layers:
        for parameter in block.self_attn.out_proj.parameters():
            torch.nn.init.zeros_(parameter)


def processor(tokenizer):
    return transformers.LlavaNextVideoProcessor(
        video_processor=transformers.LlavaNextVideoVideoProcessor(**FRAMING),
        image_processor=transformers.LlavaNextImageProcessor(),
        tokenizer=tokenizer,
        chat_template=tokenizer.chat_template,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def contents(n: int) -> list:
    # Square: of other frames, the sides are cut off and no token sees them.
    return clips(n, 48, 48)


FAMILIES = [
    Family("llava_next_video", llava_next_video, tokenizer, FRAMING, contents, still, processor, counts=(4, 4, 4))
]
