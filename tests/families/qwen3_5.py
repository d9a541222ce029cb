"""Qwen3.5, dense and with experts: linear attention in most layers, softmax attention with a gate in the others."""

from __future__ import annotations

from dataclasses import replace

import torch
import transformers

from families import Family, randomise
from families.qwen3_vl import CLIP_PACKING, MOE, ROPE, VISION, family, text
from families.qwen_vl import ids

KINDS = ("linear", "softmax", "linear", "softmax")
HYBRID = {
    "num_hidden_layers": 4,
    "layer_types": [f"{'full' if kind == 'softmax' else kind}_attention" for kind in KINDS],
    # Larger weights let the norm behind linear attention blow bfloat16's rounding up.
    "initializer_range": 0.1,
    "linear_conv_kernel_dim": 3,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 12,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    # Half of each head's features turn with the position.
    "rope_parameters": ROPE | {"mrope_section": [2, 1, 1], "partial_rotary_factor": 0.5},
}


def qwen3_5(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    config = transformers.Qwen3_5Config(text_config=text(**HYBRID), vision_config=VISION, **ids())
    return randomise(transformers.Qwen3_5ForConditionalGeneration(config))


def qwen3_5_moe(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    config = transformers.Qwen3_5MoeConfig(text_config=text(**HYBRID, **MOE), vision_config=VISION, **ids())
    return randomise(transformers.Qwen3_5MoeForConditionalGeneration(config))


def hybrid(name: str, module) -> Family:
    # The processor is Qwen3-VL's, compared there under more settings.
    return replace(family(name, module), kinds=KINDS, extra={}, processor_config=CLIP_PACKING)


FAMILIES = [hybrid("qwen3_5", qwen3_5), hybrid("qwen3_5_moe", qwen3_5_moe)]
