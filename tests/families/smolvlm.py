"""SmolVLM."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
import transformers

from families import MEAN, STD, Family, byte_tokenizer, clips, randomise

SPECIAL = ["<|im_start|>", "<end_of_utterance>", "<image>", "<fake_token_around_image>", "<global-img>"]
# As in the checkpoints, the template knows pictures only; for a video transformers' processor takes another one.
TEMPLATE = (
    "<|im_start|>{% for m in messages %}{{ m['role'] }}: {% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "<image>{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
PICTURES = {
    "size": {"longest_edge": 40},
    "max_image_size": {"longest_edge": 32},
    "video_sampling": {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": 36}},
    "image_mean": MEAN,
    "image_std": STD,
    "rescale_factor": 1 / 255,
    "resample": 1,
    "do_pad": True,
}
TOKENS_PER_FRAME = 4


def tokenizer():
    return byte_tokenizer(SPECIAL, TEMPLATE, bos_token="<|im_start|>", eos_token="<end_of_utterance>")


def module(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    known = tokenizer()
    text = {
        "model_type": "llama",
        "vocab_size": len(known),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
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
        "image_size": 32,
        "patch_size": 8,
        "initializer_range": 0.3,
    }
    image_id = known.convert_tokens_to_ids("<image>")
    config = transformers.SmolVLMConfig(text_config=text, vision_config=vision, image_token_id=image_id, scale_factor=2)
    return randomise(transformers.SmolVLMForConditionalGeneration(config))


def still(module: torch.nn.Module) -> None:
    for layer in module.model.vision_model.encoder.layers:
        for parameter in layer.self_attn.out_proj.parameters():
            torch.nn.init.zeros_(parameter)


def processor(settings):
    def make(tokenizer):
        from transformers import SmolVLMImageProcessor, SmolVLMProcessor, SmolVLMVideoProcessor

        return SmolVLMProcessor(
            image_processor=SmolVLMImageProcessor(),
            tokenizer=tokenizer,
            video_processor=SmolVLMVideoProcessor(**copy.deepcopy(settings)),  # which it would change
            image_seq_len=TOKENS_PER_FRAME,
        )

    return make


def reference(processor, clips, prompt):
    """Without the length of the video, which the frames do not tell; transformers then takes the last time."""
    content = [{"type": "video"}, {"type": "text", "text": prompt}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    seconds = [None if clip.seconds is None else clip.seconds.tolist() for clip in clips]
    known = [
        {"total_num_frames": len(clip), "fps": None if times is None else 1.0, "duration": None}
        | {"frames_indices": list(range(len(clip))) if times is None else times}
        for clip, times in zip(clips, seconds, strict=True)
    ]
    return processor(
        text=[text] * len(clips),
        videos=[torch.from_numpy(clip.pixels).permute(0, 3, 1, 2) for clip in clips],
        # The template has written the first token.
        text_kwargs={"padding": True, "padding_side": "left", "add_special_tokens": False},
        videos_kwargs={"do_sample_frames": False, "video_metadata": known},
        return_tensors="pt",
    )


def contents(n: int) -> list:
    return clips(n, 32, 48, counts=(2, 3, 4))


FAMILY = Family(
    "smolvlm",
    module,
    tokenizer,
    PICTURES,
    contents,
    still,
    processor(PICTURES),
    times=True,
    # For clips of different lengths in one batch, transformers writes the number of frames of the longest.
    counts=(13, 13, 13),
    reference=reference,
)
BICUBIC = {name: value for name, value in PICTURES.items() if name != "size"} | {"resample": 3}
FAMILIES = [
    replace(
        FAMILY,
        extra={
            "processor_needs": ("num2words",),
            "variants": [replace(FAMILY, processor_config=BICUBIC, processor=processor(BICUBIC), counts=(1, 120))],
        },
    )
]
