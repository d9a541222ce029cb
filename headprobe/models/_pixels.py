"""Pixels: frames of a clip become the patches that Qwen2-VL's vision tower takes, without torchvision.

Frames are resized, normalised and cut into patches exactly as transformers' Qwen2VLVideoProcessor does
(Wang et al. 2024, arXiv 2409.12191, section 2.1), from the values in the checkpoint's own files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from headprobe.errors import InputError

# PIL's numbers for the filters that preprocessor configurations name.
_FILTERS = {0: "nearest-exact", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True)
class Normalisation:
    """How pixel values become the numbers that a vision tower takes."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    rescale_factor: float
    resample: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any], resample: int = 3) -> Normalisation:
        """Read it from a checkpoint's preprocessor configuration."""
        missing = [key for key in ("image_mean", "image_std") if config.get(key) is None]
        if missing:
            raise InputError(
                f"The preprocessor configuration lacks {', '.join(missing)}; give them, they have no default."
            )
        for key in ("do_resize", "do_rescale", "do_normalize"):
            if config.get(key, True) is not True:
                raise InputError(f"The preprocessor configuration switches {key} off, which is not supported.")
        resample = int(config.get("resample", resample))
        if resample not in _FILTERS:
            raise InputError(f"resample is {resample}; supported are {_FILTERS}.")
        return cls(
            mean=tuple(map(float, config["image_mean"])),
            std=tuple(map(float, config["image_std"])),
            rescale_factor=float(config.get("rescale_factor") or 1 / 255),
            resample=resample,
        )


def to_channels_first(frames: UInt8[np.ndarray, "frame height width 3"]) -> UInt8[Tensor, "frame 3 height width"]:
    """Frames as torch lays out pictures."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)


def resize(
    pixels: UInt8[Tensor, "frame 3 height width"], size: Sequence[int], resample: int = 3
) -> UInt8[Tensor, "frame 3 rows columns"]:
    """Resize with antialiasing, rounding to whole pixel values as torchvision does."""
    if tuple(size) == tuple(pixels.shape[-2:]):
        return pixels
    mode = _FILTERS[resample]
    try:
        return functional.interpolate(pixels, size=tuple(size), mode=mode, antialias=resample != 0)
    except (NotImplementedError, ValueError) as error:
        if mode != "lanczos":
            raise
        raise InputError(f"resample is 1 (Lanczos), which torch {torch.__version__} cannot do: {error}") from error


def normalise(pixels: Tensor, settings: Normalisation) -> Float[Tensor, "frame 3 height width"]:
    """Rescale and standardise pixel values."""
    # Mean and deviation are scaled instead of the pixels, as transformers does; the roundings then agree.
    scale = 1.0 / settings.rescale_factor
    mean = (torch.tensor(settings.mean) * scale)[:, None, None]
    std = (torch.tensor(settings.std) * scale)[:, None, None]
    return (pixels.to(torch.float32) - mean) / std


_BICUBIC = 3


def smart_resize(
    height: int, width: int, factor: int, min_pixels: int, max_pixels: int, n_frames: int = 1, step: int = 1
) -> tuple[int, int]:
    """Frame size that the token grid divides, near the original shape and within the pixel limits."""
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
    """How frames become patches."""

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
        """Read the packing from a checkpoint's preprocessor configuration."""
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
        """Size that frames are resized to."""
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
    """A clip as the vision tower takes it."""

    patches: Float[Tensor, "patch pixel"]
    grid: tuple[int, int, int]

    def n_tokens(self, merge_size: int) -> int:
        """Number of video tokens after merging."""
        return math.prod(self.grid) // merge_size**2


def pack(frames: UInt8[np.ndarray, "frame height width 3"], packing: PixelPacking) -> PackedClip:
    """Resize, normalise and cut a clip into patches."""
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
