"""Vision transformers on their own: CLIP's and SigLIP's, ViT, DeiT and DINOv2."""

from __future__ import annotations

import numpy as np
import torch
import transformers

from families import MEAN, STD, Family, randomise
from headprobe.models.vision_tower import _PictureTokens

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
    "initializer_range": 0.3,
}
CLIP = {
    "size": {"shortest_edge": 32},
    "do_center_crop": True,
    "crop_size": {"height": 32, "width": 32},
    "resample": 3,
    "rescale_factor": 1 / 255,
    "image_mean": MEAN,
    "image_std": STD,
}
SIGLIP = {
    "size": {"height": 32, "width": 32},
    "resample": 3,
    "rescale_factor": 1 / 255,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}


def make(kind: str, part: str = "Vision"):
    def module(seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        config = getattr(transformers, f"{kind}{part}Config")(**SIZES)
        return randomise(getattr(transformers, f"{kind}{part}Model")(config))

    return module


def contents(n: int) -> list[np.ndarray]:
    """Pictures of different sizes."""
    rng = np.random.default_rng(0)
    sizes = [(48, 37), (32, 32), (20, 61)]
    return [rng.integers(0, 256, (1, *sizes[i % 3], 3), dtype=np.uint8) for i in range(n)]


def family(name: str, kind: str, settings, part: str = "Vision", processor: str = "", variants=()) -> Family:
    return Family(
        name,
        make(kind, part),
        _PictureTokens,
        settings,
        contents,
        processor=lambda tokenizer: getattr(transformers, f"{processor or kind}ImageProcessor")(**settings),
        prompts=("",),
        counts=(1, 1, 1),
        reference=lambda processor, clips, prompt: processor(
            images=[torch.from_numpy(clip.pixels[0]).permute(2, 0, 1) for clip in clips], return_tensors="pt"
        ),
        extra={"variants": [family(name, kind, changed, part, processor) for changed in variants]},
    )


# As older checkpoints have them: one number for a size, and no filter.
PLAIN = {"size": 32, "image_mean": MEAN, "image_std": STD}
CROPPED = PLAIN | {"size": 40, "crop_size": 32, "do_center_crop": True}


FAMILIES = [
    family("clip_vision_model", "CLIP", CLIP, variants=[CROPPED]),
    family("siglip_vision_model", "Siglip", SIGLIP),
    family("vit", "ViT", SIGLIP, part="", variants=[PLAIN]),
    family("deit", "DeiT", CLIP, part="", variants=[CROPPED]),
    family("dinov2", "Dinov2", CLIP, part="", processor="Bit", variants=[CROPPED]),
]
