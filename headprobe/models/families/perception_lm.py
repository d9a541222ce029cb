"""PerceptionLM: square frames of one size through a vision tower of the package timm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from headprobe.errors import InputError
from headprobe.examples import Frames
from headprobe.models._pixels import Normalisation, normalise, resize, to_channels_first
from headprobe.models.adapter import register
from headprobe.models.video_adapter import CONTRACT, EncodedClip, VideoAdapter, grid_places

if TYPE_CHECKING:
    from headprobe.models.model import Model

__all__ = ["PerceptionLMAdapter"]


class PerceptionLMAdapter(VideoAdapter):
    """Feeds a clip and a question to PerceptionLM; the checkpoints need ``pip install headprobe[checkpoints]``.

    Examples
    --------
    >>> PerceptionLMAdapter().name
    'perception_lm'
    """

    name = "perception_lm"
    verified = CONTRACT

    def settings(self, model: Model) -> dict[str, Any]:
        config = super().settings(model)
        size = config.get("size") or {}
        module: Any = model.module
        embed = module.model.vision_tower.timm_model.patch_embed
        if (size.get("height"), size.get("width")) != tuple(embed.img_size):
            raise InputError(
                f"The preprocessor configuration has frames of size {size}, the model takes height and width "
                f"{tuple(embed.img_size)}."
            )
        if config.get("do_center_crop"):
            raise InputError("The preprocessor configuration switches do_center_crop on, which is not supported.")
        side = int(embed.grid_size[0])
        if side != embed.grid_size[1]:
            raise InputError(f"The model's frames are not square: {tuple(embed.grid_size)} patches.")
        return {
            "normalisation": vars(Normalisation.from_config(config)),
            "side": int(embed.img_size[0]),
            "tokens_per_side": side // int(model.config.projector_pooling_ratio),
        }

    def encode_clip(self, clip: Frames, model: Model) -> EncodedClip:
        settings = self.settings(model)
        normalisation = Normalisation(**settings["normalisation"])
        pixels = resize(to_channels_first(clip.pixels), (settings["side"],) * 2, normalisation.resample)
        places = grid_places(len(clip), settings["tokens_per_side"], settings["tokens_per_side"])
        inputs = {"pixel_values_videos": normalise(pixels, normalisation)}
        return EncodedClip(inputs, self.placeholder(model) * len(places), places)

    def collate(self, clips: Sequence[EncodedClip], model: Model) -> dict[str, Tensor]:
        frames = [clip.inputs["pixel_values_videos"] for clip in clips]
        shape = (len(frames), -1) if len(set(map(len, frames))) == 1 else (1, -1)
        # The model flattens clips and frames; clips of different lengths can therefore stand as one.
        joined = torch.cat(frames)
        return {"pixel_values_videos": joined.reshape(*shape, *joined.shape[1:]).to(model.dtype)}


register(PerceptionLMAdapter.name, PerceptionLMAdapter())
