"""InternVL, on each kind of text model that its checkpoints have."""

from __future__ import annotations

import torch
import transformers

from families import MEAN, STD, Family, byte_tokenizer, clips, randomise

NAMED = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
SPECIAL = ["<|im_start|>", "<|im_end|>", *NAMED.values()]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'video' %}"
    "<video>\n{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FRAMING = {
    "size": {"height": 48, "width": 48},
    "do_center_crop": None,
    "crop_size": None,
    "image_mean": MEAN,
    "image_std": STD,
    "rescale_factor": 1 / 255,
    "resample": 3,
}


def tokenizer():
    return byte_tokenizer(SPECIAL, TEMPLATE, eos_token="<|im_end|>", **NAMED)


def text_config(model_type: str) -> dict:
    common = {
        "model_type": model_type,
        "vocab_size": len(tokenizer()),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    if model_type == "gpt_oss":
        # A window shorter than the clips, so that what it hides matters.
        changes = {"sliding_window": 48, "num_local_experts": 2, "num_experts_per_tok": 1, "intermediate_size": 16}
        return common | changes | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
    return common


def internvl(model_type: str):
    def module(seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        vision = {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 24,
            "image_size": [48, 48],
            "patch_size": [8, 8],
            "attention_bias": True,
            "initializer_range": 0.3,
        }
        config = transformers.InternVLConfig(
            text_config=text_config(model_type),
            vision_config=vision,
            image_token_id=tokenizer().context_image_token_id,
            image_seq_length=9,
            tie_word_embeddings=False,
        )
        return randomise(transformers.InternVLForConditionalGeneration(config))

    return module


def still(module: torch.nn.Module) -> None:
    for block in module.model.vision_tower.encoder.layer:
        for parameter in block.attention.projection_layer.parameters():
            torch.nn.init.zeros_(parameter)


def processor(tokenizer):
    return transformers.InternVLProcessor(
        image_processor=transformers.GotOcr2ImageProcessor(),
        tokenizer=tokenizer,
        video_processor=transformers.InternVLVideoProcessor(**FRAMING),
        image_seq_length=9,
        chat_template=tokenizer.chat_template,
    )


def contents(n: int) -> list:
    return clips(n, 32, 48)


FAMILIES = [
    Family("internvl", internvl("qwen2"), tokenizer, FRAMING, contents, still, processor, counts=(4, 4, 4)),
    *(
        Family(f"internvl-{text}", internvl(text), tokenizer, FRAMING, contents, still)
        for text in ("qwen3", "llama", "gpt_oss")
    ),
]
