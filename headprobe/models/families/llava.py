"""LLaVA-OneVision, LLaVA-NeXT-Video and Video-LLaVA: every frame is a picture, and its patches are pooled or not."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional

from headprobe.examples import Frames
from headprobe.models.adapter import ModelInputs, register
from headprobe.models.video_adapter import CONTRACT, EncodedClip, PictureAdapter, grid_places

if TYPE_CHECKING:
    from headprobe.models.model import Model

__all__ = ["LlavaNextVideoAdapter", "LlavaOnevisionAdapter", "VideoLlavaAdapter"]


class _LlavaAdapter(PictureAdapter):
    """What the families share: clips as [clip, frame, 3, height, width], and one placeholder for each token."""

    @abstractmethod
    def places(self, n_frames: int, model: Model) -> Int[Tensor, "token 3"]:
        """Place of every token that a clip becomes.

        Parameters
        ----------
        n_frames
            Frames of the clip.
        model
            The model.

        Returns
        -------
        Tensor [token, 3]
            Frame, row and column; -1 where a token has no place.
        """

    def encode_clip(self, clip: Frames, model: Model) -> EncodedClip:
        pixels, places = self.framing(model).pictures(clip.pixels), self.places(len(clip), model)
        return EncodedClip({"pixel_values_videos": pixels[None]}, self.placeholder(model) * len(places), places)

    def collate(self, clips: Sequence[EncodedClip], model: Model) -> dict[str, Tensor]:
        del model
        pixels = [clip.inputs["pixel_values_videos"] for clip in clips]
        longest = max(clip.shape[1] for clip in pixels)
        added = [(0,) * 6 + (longest - clip.shape[1], 0) for clip in pixels]
        return {"pixel_values_videos": torch.cat([functional.pad(*pair) for pair in zip(pixels, added, strict=True)])}

    def prepare(self, contents: Sequence[Any], prompt: str, model: Model) -> ModelInputs:
        batch = super().prepare(contents, prompt, model)
        # The model hands out the tokens of all frames in order, so those of frames that were added need places.
        # A row lacks exactly these tokens, and its padding, which the mask hides, has their number.
        batch.inputs["input_ids"].masked_fill_(batch.attention_mask == 0, self.video_token(model))
        return batch


class LlavaOnevisionAdapter(_LlavaAdapter):
    """Feeds a clip and a question to LLaVA-OneVision, which halves the grid of patches and ends with a newline.

    Examples
    --------
    >>> LlavaOnevisionAdapter().name
    'llava_onevision'
    """

    name = "llava_onevision"
    verified = CONTRACT

    def places(self, n_frames: int, model: Model) -> Int[Tensor, "token 3"]:
        side = -(-self.patches(model) // 2)
        return torch.cat([grid_places(n_frames, side, side), torch.full((1, 3), -1)])


class LlavaNextVideoAdapter(_LlavaAdapter):
    """Feeds a clip and a question to LLaVA-NeXT-Video, which pools squares of patches.

    Examples
    --------
    >>> LlavaNextVideoAdapter().name
    'llava_next_video'
    """

    name = "llava_next_video"
    verified = CONTRACT

    def places(self, n_frames: int, model: Model) -> Int[Tensor, "token 3"]:
        side = self.patches(model) // model.config.spatial_pool_stride
        return grid_places(n_frames, side, side)


class VideoLlavaAdapter(_LlavaAdapter):
    """Feeds a clip and a question to Video-LLaVA, which keeps all patches, and of every frame a summary before them.

    It was trained with clips of 8 frames; it takes any number.

    Examples
    --------
    >>> VideoLlavaAdapter().name
    'video_llava'
    """

    name = "video_llava"
    verified = CONTRACT

    def places(self, n_frames: int, model: Model) -> Int[Tensor, "token 3"]:
        side = self.patches(model)
        patches = grid_places(n_frames, side, side).unflatten(0, (n_frames, side**2))
        summary = torch.full((n_frames, 1, 3), -1)
        summary[:, 0, 0] = torch.arange(n_frames)
        return torch.cat([summary, patches], 1).flatten(0, 1)


for _adapter in (LlavaOnevisionAdapter(), LlavaNextVideoAdapter(), VideoLlavaAdapter()):
    register(_adapter.name, _adapter)
