"""Gemma 4: frames of any shape in a budget of soft tokens, each introduced by its time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from headprobe.errors import InputError
from headprobe.examples import Frames
from headprobe.models._pixels import Normalisation, normalise, resize, to_channels_first
from headprobe.models.adapter import register
from headprobe.models.frame_times import frame_seconds
from headprobe.models.video_adapter import CONTRACT, EncodedClip, VideoAdapter, grid_places

if TYPE_CHECKING:
    from headprobe.models.model import Model

__all__ = [
    "Gemma4Adapter",
]


def _fitted_size(height: int, width: int, side: int, max_tokens: int) -> tuple[int, int]:
    """The largest frame size of about the same shape that is cut into at most so many tokens."""
    # Whether a side that fits exactly is rounded down depends on the order of these operations.
    scale = math.sqrt(max_tokens * side**2 / (height * width))
    rows, columns = math.floor(scale * height / side), math.floor(scale * width / side)
    if not rows:
        rows, columns = 1, min(width // height, max_tokens)
    elif not columns:
        rows, columns = min(height // width, max_tokens), 1
    return rows * side, columns * side


class Gemma4Adapter(VideoAdapter):
    """Feeds a clip and a question to Gemma 4.

    Examples
    --------
    >>> Gemma4Adapter().name
    'gemma4'
    """

    name = "gemma4"
    verified = CONTRACT
    needs_times = True
    # The keys and values that sliding layers have dropped do not come back by cropping.
    cache_modes = ("copy",)

    def settings(self, model: Model) -> dict[str, Any]:
        config, vision = super().settings(model), model.config.vision_config
        names = ("patch_size", "pooling_kernel_size", "max_soft_tokens")
        if missing := [name for name in names if config.get(name) is None]:
            raise InputError(f"The preprocessor configuration lacks {', '.join(missing)}.")
        settings = {name: int(config[name]) for name in names}
        for name in names[:2]:
            if settings[name] != getattr(vision, name):
                raise InputError(
                    f"The preprocessor configuration has {name} {settings[name]}, the model {getattr(vision, name)}."
                )
        return settings | {"normalisation": vars(Normalisation.from_config(config))}

    def encode_clip(self, clip: Frames, model: Model) -> EncodedClip:
        settings, n = self.settings(model), len(clip)
        normalisation = Normalisation(**settings["normalisation"])
        patch, pool, budget = (settings[name] for name in ("patch_size", "pooling_kernel_size", "max_soft_tokens"))
        _, height, width, _ = clip.pixels.shape
        height, width = _fitted_size(height, width, patch * pool, budget)
        pixels = resize(to_channels_first(clip.pixels), (height, width), normalisation.resample)
        rows, columns = height // patch, width // patch
        video = normalise(pixels, normalisation)
        patches = video.reshape(n, 3, rows, patch, columns, patch).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        # Positions are (column, row); the frames of all clips get room for the whole budget.
        positions = grid_places(1, rows, columns)[:, [2, 1]].expand(n, -1, -1)
        room = (0, 0, 0, budget * pool**2 - rows * columns)
        inputs = {
            "pixel_values_videos": functional.pad(patches, room),
            "video_position_ids": functional.pad(positions, room, value=-1),
            "num_frames_per_video": torch.tensor([n]),
        }
        places = grid_places(n, rows // pool, columns // pool)
        ids = [model.config.boi_token_id, model.config.eoi_token_id]
        begin, end = model.tokenizer.convert_ids_to_tokens(ids)
        soft = self.placeholder(model) * (len(places) // n)
        times = map(int, frame_seconds(clip, self.name, default_fps=24.0))
        text = " ".join(f"{time // 60:02d}:{time % 60:02d} {begin}{soft}{end}" for time in times)
        return EncodedClip(inputs, text, places)


register(Gemma4Adapter.name, Gemma4Adapter())
