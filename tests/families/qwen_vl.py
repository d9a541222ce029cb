"""Qwen2-VL and Qwen2.5-VL."""

from __future__ import annotations

from dataclasses import replace

import torch
import transformers

from families import MEAN, STD, Family, byte_tokenizer, clips, randomise

SPECIAL = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'video' %}"
    "<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PACKING = {
    "patch_size": 8,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": MEAN,
    "image_std": STD,
    "rescale_factor": 1 / 255,
    "resample": 3,
    "size": {"shortest_edge": 16 * 16, "longest_edge": 64 * 64},
    "cap_pixels_per_frame": False,
}


def tokenizer():
    return byte_tokenizer(SPECIAL, TEMPLATE, eos_token="<|im_end|>")


def ids() -> dict[str, int]:
    known = tokenizer()
    names = {"image_token_id": 4, "video_token_id": 5, "vision_start_token_id": 2, "vision_end_token_id": 3}
    return {name: known.convert_tokens_to_ids(SPECIAL[i]) for name, i in names.items()}


def text_config(**changes):
    return {
        "vocab_size": len(tokenizer()),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": 0,
    } | changes


def qwen2_vl(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    vision = {
        "depth": 2,
        "embed_dim": 16,
        "hidden_size": 32,
        "num_heads": 2,
        "mlp_ratio": 2,
        "patch_size": 8,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "initializer_range": 0.3,
    }
    config = transformers.Qwen2VLConfig(text_config=text_config(), vision_config=vision, **ids())
    return randomise(transformers.Qwen2VLForConditionalGeneration(config))


def qwen2_5_vl(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    vision = {
        "depth": 2,
        "hidden_size": 16,
        "out_hidden_size": 32,
        "num_heads": 2,
        "intermediate_size": 24,
        "patch_size": 8,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 32,
        "fullatt_block_indexes": [1],
        "tokens_per_second": 4,
        "initializer_range": 0.3,
    }
    config = transformers.Qwen2_5_VLConfig(text_config=text_config(), vision_config=vision, **ids())
    return randomise(transformers.Qwen2_5_VLForConditionalGeneration(config))


def still(module: torch.nn.Module) -> None:
    for block in module.model.visual.blocks:
        for parameter in block.attn.proj.parameters():
            torch.nn.init.zeros_(parameter)


def processor(kind, settings=PACKING, video="Qwen2VLVideoProcessor"):
    def make(tokenizer):
        image = {k: v for k, v in settings.items() if k not in ("resample", "cap_pixels_per_frame", "max_video_tokens")}
        return getattr(transformers, kind)(
            image_processor=transformers.Qwen2VLImageProcessor(**image),
            tokenizer=tokenizer,
            video_processor=getattr(transformers, video)(**{k: v for k, v in settings.items() if k != "resample"}),
            chat_template=tokenizer.chat_template,
        )

    return make


def variants(family: Family, kind: str, settings: dict, *changes: dict, **options) -> Family:
    """The family, to be compared with transformers under changed settings too."""
    found = []
    for change in changes:
        changed = settings | change
        found.append(replace(family, processor_config=changed, processor=processor(kind, changed, **options)))
    return replace(family, extra={"variants": found})


def contents(n: int) -> list:
    return clips(n, 32, 48)


QWEN2 = Family(
    "qwen2_vl", qwen2_vl, tokenizer, PACKING, contents, still, processor("Qwen2VLProcessor"), counts=(2, 5, 8)
)
FAMILIES = [
    variants(
        QWEN2,
        "Qwen2VLProcessor",
        PACKING,
        {"size": {"shortest_edge": 128 * 256, "longest_edge": 768 * 256}},
        {"min_pixels": 40 * 256, "max_pixels": 60 * 256},
        # 2 * 0.9 * 40 tokens of 256 pixels for all frames, but never less than 1.05 times the lower limit.
        {"cap_pixels_per_frame": True, "max_video_tokens": 40},
        {
            "cap_pixels_per_frame": True,
            "max_video_tokens": 4,
            "size": {"shortest_edge": 15 * 256, "longest_edge": 64 * 64},
        },
    ),
    Family(
        "qwen2_5_vl",
        qwen2_5_vl,
        tokenizer,
        PACKING,
        contents,
        still,
        processor("Qwen2_5_VLProcessor"),
        times=True,
        counts=(2, 5, 8),
    ),
]
