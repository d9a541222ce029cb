"""GLM-4.1V, GLM-4.5V with experts and GLM-4.6V: each time step of a video is an image in the text."""

from __future__ import annotations

import torch
import transformers

from families import Family, byte_tokenizer, randomise
from families.qwen3_vl import CLIP_PACKING
from families.qwen_vl import contents, still, text_config

MARKS = [f"<|{edge}_of_{what}|>" for what in ("image", "video") for edge in ("begin", "end")]
SPECIAL = ["<sop>", "<|user|>", "<|assistant|>", *MARKS, "<|image|>", "<|video|>"]
TEMPLATE = (
    "<sop>{% for m in messages %}<|{{ m['role'] }}|>\n{% for c in m['content'] %}{% if c['type'] == 'video' %}"
    "<|begin_of_video|><|video|><|end_of_video|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
PACKING = {name: value for name, value in CLIP_PACKING.items() if name != "cap_pixels_per_frame"}
VISION = {
    "depth": 2,
    "hidden_size": 16,
    "out_hidden_size": 32,
    "num_heads": 2,
    "intermediate_size": 24,
    "image_size": 32,
    "patch_size": 8,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "initializer_range": 0.3,
}
MOE = {
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "attention_bias": True,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [1, 1, 0],
        "partial_rotary_factor": 0.5,
    },
}


def tokenizer():
    return byte_tokenizer(SPECIAL, TEMPLATE, eos_token="<|user|>")


def ids() -> dict[str, int]:
    known = tokenizer()
    names = {"image_token_id": "<|image|>", "video_token_id": "<|video|>"}
    for what in ("image", "video"):
        names[f"{what}_start_token_id"] = f"<|begin_of_{what}|>"
        names[f"{what}_end_token_id"] = f"<|end_of_{what}|>"
    return {name: known.convert_tokens_to_ids(token) for name, token in names.items()}


def make(kind: str, **changes):
    def module(seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        text = text_config(vocab_size=len(tokenizer())) | changes
        text = {name: value for name, value in text.items() if name not in ("bos_token_id", "eos_token_id")}
        config = getattr(transformers, f"{kind}Config")(text_config=text, vision_config=VISION, **ids())
        return randomise(getattr(transformers, f"{kind}ForConditionalGeneration")(config))

    return module


def processor(kind: str):
    def make(tokenizer):
        settings = {name: value for name, value in PACKING.items() if name != "resample"}
        return getattr(transformers, f"{kind}Processor")(
            image_processor=getattr(transformers, f"{kind}ImageProcessor")(**settings),
            tokenizer=tokenizer,
            video_processor=getattr(transformers, f"{kind}VideoProcessor")(**settings),
            chat_template=tokenizer.chat_template,
        )

    return make


def family(name: str, module, kind: str) -> Family:
    return Family(name, module, tokenizer, PACKING, contents, still, processor(kind), times=True, counts=(2, 5, 8))


FAMILIES = [
    family("glm4v", make("Glm4v"), "Glm4v"),
    family("glm4v_moe", make("Glm4vMoe", **MOE), "Glm4v"),
    family("glm46v", make("Glm46V"), "Glm46V"),
]
