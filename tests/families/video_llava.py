"""Video-LLaVA."""

from __future__ import annotations

import torch
import transformers

from families import Family, clips, randomise
from families.llava_next_video import FRAMING, text_config, tokenizer, vision_config

SMALL = FRAMING | {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}}


def video_llava(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    known = tokenizer()
    config = transformers.VideoLlavaConfig(
        text_config=text_config(),
        vision_config=vision_config() | {"image_size": 24},
        image_token_index=known.convert_tokens_to_ids("<image>"),
        video_token_index=known.convert_tokens_to_ids("<video>"),
    )
    return randomise(transformers.VideoLlavaForConditionalGeneration(config))


def still(module: torch.nn.Module) -> None:
    for block in module.model.video_tower.encoder.layers:
        for parameter in block.self_attn.out_proj.parameters():
            torch.nn.init.zeros_(parameter)


def processor(tokenizer):
    return transformers.VideoLlavaProcessor(
        image_processor=transformers.VideoLlavaImageProcessor(),
        video_processor=transformers.VideoLlavaVideoProcessor(**SMALL),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=tokenizer.chat_template,
        num_additional_image_tokens=1,
    )


def contents(n: int) -> list:
    return clips(n, 24, 24)


FAMILIES = [
    Family("video_llava", video_llava, tokenizer, SMALL, contents, still, processor, counts=(4, 4, 4), summaries=1)
]
