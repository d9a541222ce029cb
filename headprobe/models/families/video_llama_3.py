"""VideoLLaMA3: frames with their times, of which only the tokens stay that differ from the frame before.

Zhang et al. 2025, arXiv 2501.13106, section 3.1; the numbers are those of transformers' VideoLlama3VideoProcessor.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool
from torch import Tensor

from headprobe.errors import InputError
from headprobe.examples import Frames
from headprobe.models._pixels import PackedClip, PixelPacking, pack
from headprobe.models.adapter import register
from headprobe.models.frame_times import frame_seconds
from headprobe.models.video_adapter import CONTRACT, EncodedClip, VideoAdapter, grid_places

if TYPE_CHECKING:
    from headprobe.models.model import Model

__all__ = [
    "VideoLlama3Adapter",
]

# Mean change of the normalised pixels of a token, times 255, above which it is kept.
_THRESHOLD = 0.1


def _changed_tokens(clip: PackedClip, merge_size: int) -> Bool[Tensor, "frame token"]:
    """Which tokens of a clip are kept: all of the first frame, then those whose pixels change."""
    frames = clip.patches.reshape(clip.grid[0], clip.n_tokens(merge_size) // clip.grid[0], -1)
    change = (frames[1:] - frames[:-1]).abs().mean(-1) * 255
    kept = torch.cat([torch.ones_like(frames[:1, :, 0], dtype=torch.bool), change > _THRESHOLD])
    kept[~kept.any(1), 0] = True
    return kept


class VideoLlama3Adapter(VideoAdapter):
    """Feeds a clip and a question to VideoLLaMA3.

    Examples
    --------
    >>> VideoLlama3Adapter().name
    'video_llama_3'
    """

    name = "video_llama_3"
    verified = CONTRACT
    needs_times = True

    def packing(self, model: Model, n_frames: int = 1) -> PixelPacking:
        """The pixel packing of a clip, checked against the model's configuration.

        Parameters
        ----------
        model
            The model.
        n_frames
            Frames of the clip, which share the upper limit of pixels.

        Returns
        -------
        PixelPacking

        Raises
        ------
        InputError
            There is no preprocessor configuration, or it contradicts the vision tower, whose patches are single
            frames.
        """
        packing = PixelPacking.from_config({"temporal_patch_size": 1} | super().settings(model))
        expected = (model.config.vision_config.patch_size, 1)
        if (packing.patch_size, packing.temporal_patch_size) != expected:
            raise InputError(
                f"The preprocessor configuration has (patch, temporal patch) sizes "
                f"{(packing.patch_size, packing.temporal_patch_size)}, the model {expected}."
            )
        return packing if packing.max_pixels is None else replace(packing, max_pixels=packing.max_pixels // n_frames)

    def settings(self, model: Model) -> dict[str, Any]:
        compress = bool(super().settings(model).get("use_token_compression", True))
        return asdict(self.packing(model)) | {"use_token_compression": compress}

    def encode_clip(self, clip: Frames, model: Model) -> EncodedClip:
        packing = self.packing(model, len(clip))
        packed = pack(clip.pixels, packing)
        t, h, w = packed.grid
        places = grid_places(t, h // packing.merge_size, w // packing.merge_size)
        kept = _changed_tokens(packed, packing.merge_size)
        if not self.settings(model)["use_token_compression"]:
            kept = torch.ones_like(kept)
        inputs = {
            "pixel_values_videos": packed.patches,
            "video_grid_thw": torch.tensor([packed.grid]),
            "video_merge_sizes": torch.tensor([packing.merge_size]),
            "video_compression_mask": kept.flatten(),
        }
        times = frame_seconds(clip, self.name, default_fps=1.0)
        mark = self.placeholder(model)
        parts = [f"Time {time:.1f}s:{mark * int(n)}" for time, n in zip(times, kept.sum(1), strict=True)]
        return EncodedClip(inputs, ",".join(parts), places[kept.flatten()])


register(VideoLlama3Adapter.name, VideoLlama3Adapter())
