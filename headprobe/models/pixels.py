"""Pixels: frames of a clip become the patches that Qwen2-VL's vision tower takes, without torchvision.

Frames are resized, normalised and cut into patches exactly as transformers' Qwen2VLVideoProcessor does
(Wang et al. 2024, arXiv 2409.12191, section 2.1), from the values in the checkpoint's own files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from headprobe.errors import InputError
from headprobe.models.imaging import Normalisation, normalise, resize, to_channels_first

__all__ = ["PackedClip", "PixelPacking", "pack", "smart_resize"]

_BICUBIC = 3


def smart_resize(
    height: int, width: int, factor: int, min_pixels: int, max_pixels: int, n_frames: int = 1, step: int = 1
) -> tuple[int, int]:
    """Frame size that the token grid divides, near the original shape and within the pixel limits.

    Parameters
    ----------
    height, width
        Size of the frames in pixels.
    factor
        Side of one merged token in pixels; both sides become multiples of it.
    min_pixels, max_pixels
        Bounds on height times width, or on frames times height times width.
    n_frames
        Frames that the bounds cover together; 1 for bounds on single frames.
    step
        Frames per time step, to which their number is rounded.

    Returns
    -------
    (int, int)
        Height and width.

    Raises
    ------
    InputError
        One side is more than 200 times the other.

    Notes
    -----
    The rule is that of Qwen2-VL's published preprocessing, and with several frames that of Qwen3-VL's.

    Examples
    --------
    >>> smart_resize(240, 320, factor=28, min_pixels=3136, max_pixels=50000)
    (168, 252)
    """
    if max(height, width) > 200 * min(height, width):
        raise InputError(f"A frame of {height} x {width} pixels is too elongated; the model allows a ratio of 200.")
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    shown = round(n_frames / step) * step
    if shown * rows * columns > max_pixels:
        shrink = math.sqrt(n_frames * height * width / max_pixels)
        rows = max(factor, math.floor(height / shrink / factor) * factor)
        columns = max(factor, math.floor(width / shrink / factor) * factor)
    elif shown * rows * columns < min_pixels:
        grow = math.sqrt(min_pixels / (n_frames * height * width))
        rows, columns = math.ceil(height * grow / factor) * factor, math.ceil(width * grow / factor) * factor
    return rows, columns


@dataclass(frozen=True)
class PixelPacking:
    """How frames become patches.

    Parameters
    ----------
    patch_size
        Side of a patch in pixels.
    temporal_patch_size
        Frames per patch.
    merge_size
        Patches per side of a merged token.
    mean, std
        Of the colour channels, on the scale 0..1.
    rescale_factor
        From pixel values to that scale.
    fixed_size
        (height, width) that every clip is resized to; None to follow the pixel limits.
    min_pixels, max_pixels
        Limits on height times width of a frame; used when there is no fixed size.
    whole_clip
        Whether the limits are on the pixels of all frames of a clip together (Qwen3-VL, GLM-4V), not of each.
    max_video_tokens
        Tokens whose pixels limit a frame further, the configuration's ``cap_pixels_per_frame``: those of a clip,
        shared by its frames, or with `whole_clip` those of a frame. None for no such limit.
    """

    patch_size: int
    temporal_patch_size: int
    merge_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rescale_factor: float
    fixed_size: tuple[int, int] | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    whole_clip: bool = False
    max_video_tokens: int | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any], whole_clip: bool = False) -> PixelPacking:
        """Read the packing from a checkpoint's preprocessor configuration.

        Parameters
        ----------
        config
            Content of ``video_preprocessor_config.json`` or ``preprocessor_config.json``. The key
            ``headprobe_fixed_size`` ({"height": 48, "width": 64}) fixes the frame size.
        whole_clip
            Whether its pixel limits are those of a whole clip.

        Returns
        -------
        PixelPacking

        Raises
        ------
        InputError
            A key is missing or a setting is not supported; nothing is filled in silently.

        Examples
        --------
        >>> PixelPacking.from_config(
        ...     {"patch_size": 8, "temporal_patch_size": 2, "merge_size": 2, "image_mean": [0.5] * 3,
        ...      "image_std": [0.5] * 3, "headprobe_fixed_size": {"height": 48, "width": 64}}).fixed_size
        (48, 64)
        """
        needed = ("patch_size", "temporal_patch_size", "merge_size", "image_mean", "image_std")
        missing = [key for key in needed if config.get(key) is None]
        if missing:
            raise InputError(
                f"The preprocessor configuration lacks {', '.join(missing)}; give them, they have no default."
            )
        for key in ("do_resize", "do_rescale", "do_normalize"):
            if config.get(key, True) is not True:
                raise InputError(f"The preprocessor configuration switches {key} off, which is not supported.")
        if config.get("resample", _BICUBIC) != _BICUBIC:
            raise InputError(f"resample is {config['resample']}; only bicubic ({_BICUBIC}) is supported.")
        fixed = config.get("headprobe_fixed_size")
        limits: dict[str, Any] = {"whole_clip": whole_clip}
        if fixed is None:
            size = config.get("size") or {}
            # The older spelling is read by the processors of Qwen2-VL only.
            older = {} if whole_clip else config
            limits["min_pixels"] = older.get("min_pixels") or size.get("shortest_edge")
            limits["max_pixels"] = older.get("max_pixels") or size.get("longest_edge")
            if None in limits.values():
                raise InputError("The preprocessor configuration lacks min_pixels and max_pixels (or size).")
            if config.get("cap_pixels_per_frame"):
                if config.get("max_video_tokens") is None:
                    raise InputError("The preprocessor configuration lacks max_video_tokens for cap_pixels_per_frame.")
                limits["max_video_tokens"] = int(config["max_video_tokens"])
        else:
            limits["fixed_size"] = (int(fixed["height"]), int(fixed["width"]))
        packing = cls(
            patch_size=int(config["patch_size"]),
            temporal_patch_size=int(config["temporal_patch_size"]),
            merge_size=int(config["merge_size"]),
            mean=tuple(map(float, config["image_mean"])),
            std=tuple(map(float, config["image_std"])),
            rescale_factor=float(config.get("rescale_factor") or 1 / 255),
            **limits,
        )
        if packing.fixed_size and any(side % packing.factor for side in packing.fixed_size):
            raise InputError(
                f"headprobe_fixed_size {packing.fixed_size} must be a multiple of {packing.factor} pixels "
                "on both sides."
            )
        return packing

    @property
    def normalisation(self) -> Normalisation:
        """How pixel values become the numbers that the vision tower takes."""
        return Normalisation(self.mean, self.std, self.rescale_factor, _BICUBIC)

    @property
    def factor(self) -> int:
        """Side of a merged token in pixels."""
        return self.patch_size * self.merge_size

    def frame_size(self, height: int, width: int, n_frames: int) -> tuple[int, int]:
        """Size that frames are resized to.

        Parameters
        ----------
        height, width
            Size of the frames in pixels.
        n_frames
            Frames of the clip.

        Returns
        -------
        (int, int)
            Height and width in pixels.

        Raises
        ------
        InputError
            The frames are too elongated, or fewer than one time step where the limits are those of a clip.
        """
        if self.fixed_size is not None:
            return self.fixed_size
        assert self.min_pixels is not None
        assert self.max_pixels is not None
        low, high, factor, step = self.min_pixels, self.max_pixels, self.factor, self.temporal_patch_size
        tokens = self.max_video_tokens
        if not self.whole_clip:
            if tokens is not None:
                # Nine tenths of the tokens are for the frames; a token covers a whole time step.
                share = int(tokens * factor**2 * 0.9) * step // n_frames
                high = max(min(high, share), int(low * 1.05))
            return smart_resize(height, width, factor, low, high)
        if n_frames < step:
            raise InputError(f"The clip has {n_frames} frames; the model takes {step} at a time and needs as many.")
        if tokens is not None:
            high = max(min(tokens * factor**2, high // n_frames), int(low * 1.05)) * n_frames
        if min(height, width) < factor:
            scale = max(factor / height, factor / width)
            height, width = int(height * scale), int(width * scale)
        return smart_resize(height, width, factor, low, high, n_frames, step)


@dataclass(frozen=True, eq=False)
class PackedClip:
    """A clip as the vision tower takes it.

    Parameters
    ----------
    patches
        float32 [patch, channel * temporal_patch_size * patch_size ** 2], those of one merged token together.
    grid
        (time, height, width) in patches.
    """

    patches: Float[Tensor, "patch pixel"]
    grid: tuple[int, int, int]

    def n_tokens(self, merge_size: int) -> int:
        """Number of video tokens after merging.

        Parameters
        ----------
        merge_size
            Patches per side of a merged token.

        Returns
        -------
        int
        """
        return math.prod(self.grid) // merge_size**2


def pack(frames: UInt8[np.ndarray, "frame height width 3"], packing: PixelPacking) -> PackedClip:
    """Resize, normalise and cut a clip into patches.

    Parameters
    ----------
    frames
        RGB frames; an incomplete last time step is filled by repeating the last frame.
    packing
        How to do it.

    Returns
    -------
    PackedClip

    Examples
    --------
    >>> packing = PixelPacking(8, 2, 2, (0.5,) * 3, (0.5,) * 3, 1 / 255, fixed_size=(48, 64))
    >>> clip = pack(np.zeros((8, 48, 64, 3), np.uint8), packing)
    >>> clip.grid, tuple(clip.patches.shape), clip.n_tokens(2)
    ((4, 6, 8), (192, 384), 48)
    """
    size = packing.frame_size(frames.shape[1], frames.shape[2], len(frames))
    video = normalise(resize(to_channels_first(frames), size), packing.normalisation)
    height, width = size
    step, patch, merge = packing.temporal_patch_size, packing.patch_size, packing.merge_size
    if short := -len(video) % step:
        video = torch.cat([video, video[-1:].expand(short, -1, -1, -1)])
    t, h, w = len(video) // step, height // patch, width // patch
    blocks = video.reshape(t, step, 3, h // merge, merge, patch, w // merge, merge, patch)
    blocks = blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return PackedClip(blocks.reshape(t * h * w, 3 * step * patch * patch), (t, h, w))
