"""VideoLLaMA3."""

from __future__ import annotations

from dataclasses import replace

import torch
import transformers

from families import MEAN, STD, Family, byte_tokenizer, clips, randomise

SPECIAL = ["<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|video_pad|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'video' %}"
    "<|video_pad|>\n{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PACKING = {
    "patch_size": 8,
    "temporal_patch_size": 1,
    "merge_size": 2,
    "image_mean": MEAN,
    "image_std": STD,
    "rescale_factor": 1 / 255,
    "resample": 3,
    # The upper limit is for all frames of a clip together.
    "size": {"shortest_edge": 16 * 16, "longest_edge": 6 * 32 * 48},
    "use_token_compression": True,
}


def tokenizer():
    return byte_tokenizer(SPECIAL, TEMPLATE, eos_token="<|im_end|>")


def module(seed: int) -> torch.nn.Module:
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
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": 8,
        "initializer_range": 0.3,
    }
    image_id, video_id = known.convert_tokens_to_ids(SPECIAL[2:])
    config = transformers.VideoLlama3Config(
        text_config=text, vision_config=vision, image_token_id=image_id, video_token_id=video_id
    )
    return randomise(transformers.VideoLlama3ForConditionalGeneration(config))


def still(module: torch.nn.Module) -> None:
    for layer in module.model.vision_model.encoder.layers:
        for parameter in layer.self_attn.out_proj.parameters():
            torch.nn.init.zeros_(parameter)


def processor(settings):
    def make(tokenizer):
        from transformers import VideoLlama3ImageProcessor, VideoLlama3Processor, VideoLlama3VideoProcessor

        return VideoLlama3Processor(
            image_processor=VideoLlama3ImageProcessor(),
            tokenizer=tokenizer,
            video_processor=VideoLlama3VideoProcessor(**settings),
            chat_template=tokenizer.chat_template,
        )

    return make


def halted(frames):
    """Frames whose left half does not change, and of which the last is as the one before; such tokens are dropped."""
    pixels = frames.pixels.copy()
    half = pixels.shape[2] // 2
    pixels[1:, :, :half] = pixels[0, :, :half]
    pixels[-1] = pixels[max(len(pixels) - 2, 0)]
    return replace(frames, pixels=pixels)


def contents(n: int) -> list:
    return clips(n, 32, 48, counts=(2, 4, 5))


FAMILY = Family("video_llama_3", module, tokenizer, PACKING, contents, still, processor(PACKING), times=True)
WHOLE = PACKING | {"use_token_compression": False}
VARIANTS = [
    replace(FAMILY, extra={"change": halted}, counts=(1, 2, 5)),
    replace(FAMILY, processor_config=WHOLE, processor=processor(WHOLE), extra={"change": halted}, counts=(3,)),
]
FAMILIES = [replace(FAMILY, extra={"variants": VARIANTS})]
