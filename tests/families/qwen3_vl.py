"""Qwen3-VL, dense and with experts: vision features enter several layers, heads are wider than hidden / heads."""

from __future__ import annotations

import torch
import transformers

from families import Family, randomise
from families.qwen_vl import PACKING, contents, ids, processor, still, text_config, tokenizer, variants

# The limits are those of all frames of a clip together.
CLIP_PACKING = PACKING | {"size": {"shortest_edge": 8 * 256, "longest_edge": 4 * 64 * 64}}
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
VISION = {
    "depth": 3,
    "hidden_size": 16,
    "out_hidden_size": 32,
    "num_heads": 2,
    "intermediate_size": 24,
    "patch_size": 8,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "num_position_embeddings": 16,
    "initializer_range": 0.3,
}
# Vision features are added behind the first two blocks, so a prefix has to carry them.
DEEPSTACK = {"deepstack_visual_indexes": [0, 1]}
MOE = {
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "num_experts": 4,
    "num_experts_per_tok": 2,
}


def text(**changes):
    settings = text_config(head_dim=16, rope_parameters=ROPE) | changes
    return {name: value for name, value in settings.items() if name != "bos_token_id"}


def qwen3_vl(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    config = transformers.Qwen3VLConfig(text_config=text(), vision_config=VISION | DEEPSTACK, **ids())
    return randomise(transformers.Qwen3VLForConditionalGeneration(config))


def qwen3_vl_moe(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    experts = {name: value for name, value in MOE.items() if "shared" not in name}
    config = transformers.Qwen3VLMoeConfig(text_config=text(**experts), vision_config=VISION | DEEPSTACK, **ids())
    return randomise(transformers.Qwen3VLMoeForConditionalGeneration(config))


def family(name: str, module) -> Family:
    options = {"video": "Qwen3VLVideoProcessor"}
    made = processor("Qwen3VLProcessor", CLIP_PACKING, **options)
    plain = Family(name, module, tokenizer, CLIP_PACKING, contents, still, made, times=True, counts=(2, 5, 8))
    return variants(
        plain,
        "Qwen3VLProcessor",
        CLIP_PACKING,
        {"size": {"shortest_edge": 128 * 256, "longest_edge": 768 * 256}},
        # The number of frames is rounded to time steps, 5 to 4.
        {"size": {"shortest_edge": 8 * 256, "longest_edge": 26 * 256}},
        {
            "cap_pixels_per_frame": True,
            "max_video_tokens": 4,
            "size": {"shortest_edge": 15 * 256, "longest_edge": 64 * 64},
        },
        {"cap_pixels_per_frame": True, "max_video_tokens": 768},
        **options,
    )


FAMILIES = [family("qwen3_vl", qwen3_vl), family("qwen3_vl_moe", qwen3_vl_moe)]
