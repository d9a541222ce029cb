"""EXAONE 4.5, whose adapter is the example of the how-to and is kept by the same contract."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
import transformers

from families import Family, randomise
from families.qwen_vl import PACKING, contents, ids, still, tokenizer

HOW_TO = Path(__file__).resolve().parents[2] / "docs" / "howto" / "exaone4_5.py"
_spec = importlib.util.spec_from_file_location("howto_exaone4_5", HOW_TO)
_spec.loader.exec_module(importlib.util.module_from_spec(_spec))


def exaone4_5(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    vision = {
        "depth": 2,
        "hidden_size": 16,
        "out_hidden_size": 32,
        "num_heads": 2,
        "num_key_value_heads": 2,
        "intermediate_size": 24,
        "patch_size": 8,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 32,
        "fullatt_block_indexes": [1],
        "initializer_range": 0.3,
    }
    text = {
        "model_type": "exaone4",
        "vocab_size": len(tokenizer()),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "initializer_range": 0.3,
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    known = {name: value for name, value in ids().items() if name in ("image_token_id", "video_token_id")}
    config = transformers.Exaone4_5_Config(text_config=text, vision_config=vision, **known)
    return randomise(transformers.Exaone4_5_ForConditionalGeneration(config))


def processor(tokenizer):
    from transformers import Exaone4_5_Processor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    settings = {k: v for k, v in PACKING.items() if k != "resample"}
    image = {k: v for k, v in settings.items() if k != "cap_pixels_per_frame"}
    return Exaone4_5_Processor(
        image_processor=Qwen2VLImageProcessor(**image),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**settings),
        chat_template=tokenizer.chat_template,
    )


FAMILIES = [Family("exaone4_5", exaone4_5, tokenizer, PACKING, contents, still, processor)]
