"""Pixels of single frames: resized, cropped and normalised as transformers' processors do, without torchvision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from headprobe.errors import InputError

__all__ = ["Normalisation", "normalise", "resize", "to_channels_first"]

# PIL's numbers for the filters that preprocessor configurations name.
_FILTERS = {0: "nearest-exact", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True)
class Normalisation:
    """How pixel values become the numbers that a vision tower takes.

    Parameters
    ----------
    mean, std
        Of the colour channels, on the scale that ``rescale_factor`` leads to.
    rescale_factor
        From pixel values to that scale, usually 1 / 255.
    resample
        PIL's number of the resize filter: 0 nearest, 1 Lanczos, 2 bilinear, 3 bicubic.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    rescale_factor: float
    resample: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any], resample: int = 3) -> Normalisation:
        """Read it from a checkpoint's preprocessor configuration.

        Parameters
        ----------
        config
            Content of the configuration file.
        resample
            The family's own filter, for a file that names none. Such files also leave out ``rescale_factor`` (then
            1 / 255) and the switches ``do_resize``, ``do_rescale`` and ``do_normalize`` (then on), which is what
            the classes of the supported families fill in.

        Returns
        -------
        Normalisation

        Raises
        ------
        InputError
            Mean or deviation is missing, or a setting is not supported.

        Examples
        --------
        >>> Normalisation.from_config({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3}).mean
        (0.5, 0.5, 0.5)
        """
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
    """Frames as torch lays out pictures.

    Parameters
    ----------
    frames
        RGB frames.

    Returns
    -------
    Tensor [frame, 3, height, width]
    """
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)


def resize(
    pixels: UInt8[Tensor, "frame 3 height width"], size: Sequence[int], resample: int = 3
) -> UInt8[Tensor, "frame 3 rows columns"]:
    """Resize with antialiasing, rounding to whole pixel values as torchvision does.

    Parameters
    ----------
    pixels
        Frames.
    size
        (height, width) to reach.
    resample
        PIL's number of the filter: 0 nearest, 1 Lanczos, 2 bilinear, 3 bicubic.

    Returns
    -------
    Tensor [frame, 3, rows, columns]

    Raises
    ------
    InputError
        The installed torch has no Lanczos filter.

    Examples
    --------
    >>> resize(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), (4, 6)).shape
    torch.Size([2, 3, 4, 6])
    """
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
    """Rescale and standardise pixel values.

    Parameters
    ----------
    pixels
        Frames, [frame, 3, height, width].
    settings
        Mean, deviation and scale.

    Returns
    -------
    Tensor [frame, 3, height, width]
        float32.
    """
    # Mean and deviation are scaled instead of the pixels, as transformers does; the roundings then agree.
    scale = 1.0 / settings.rescale_factor
    mean = (torch.tensor(settings.mean) * scale)[:, None, None]
    std = (torch.tensor(settings.std) * scale)[:, None, None]
    return (pixels.to(torch.float32) - mean) / std
