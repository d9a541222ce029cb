"""Whole frames as pictures of one size, for families whose vision tower looks at one frame at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from headprobe.errors import InputError, UnsupportedModelError
from headprobe.models.imaging import Normalisation, normalise, resize, to_channels_first
from headprobe.models.video_adapter import VideoAdapter

if TYPE_CHECKING:
    from headprobe.models.model import Model

__all__ = ["Framing", "PictureAdapter", "centre_crop"]


def centre_crop(
    pixels: UInt8[Tensor, "frame 3 height width"], size: Sequence[int]
) -> UInt8[Tensor, "frame 3 rows columns"]:
    """Cut out the middle of frames; sides that are too short are filled with black first.

    Parameters
    ----------
    pixels
        Frames.
    size
        (height, width) to reach.

    Returns
    -------
    Tensor [frame, 3, rows, columns]

    Examples
    --------
    >>> import torch
    >>> centre_crop(torch.arange(5).expand(1, 3, 1, 5), (1, 2))[0, 0].tolist()
    [[1, 2]]
    >>> centre_crop(torch.ones(1, 3, 1, 2).byte(), (1, 5))[0, 0].tolist()
    [[0, 1, 1, 0, 0]]
    """
    # An odd pixel is added below and on the right, and cut off there too, as transformers does.
    height, width = (max(wanted - given, 0) for wanted, given in zip(size, pixels.shape[-2:], strict=True))
    filled = functional.pad(pixels, (width // 2, width - width // 2, height // 2, height - height // 2))
    top, left = ((given - wanted) // 2 for wanted, given in zip(size, filled.shape[-2:], strict=True))
    return filled[..., top : top + size[0], left : left + size[1]]


@dataclass(frozen=True)
class Framing:
    """How frames become pictures.

    Parameters
    ----------
    normalisation
        From pixel values to the numbers that the vision tower takes.
    size
        (height, width) that every frame is resized to; None to keep its shape.
    shortest_edge
        Length that the shorter side is resized to; None with a size.
    crop
        (height, width) cut out of the middle afterwards; None for all of it.
    """

    normalisation: Normalisation
    size: tuple[int, int] | None
    shortest_edge: int | None
    crop: tuple[int, int] | None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Framing:
        """Read it from a checkpoint's preprocessor configuration.

        Parameters
        ----------
        config
            Content of the configuration file.

        Returns
        -------
        Framing

        Raises
        ------
        InputError
            A key is missing or a setting is not supported; nothing is filled in silently.

        Examples
        --------
        >>> config = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 48, "width": 48}}
        >>> Framing.from_config(config).picture
        (48, 48)
        """
        size, crop = config.get("size"), None
        if not isinstance(size, Mapping) or {k for k, v in size.items() if v} not in (
            {"height", "width"},
            {"shortest_edge"},
        ):
            raise InputError(
                f"The size in the preprocessor configuration is {size!r}; it must give height and width, or "
                "shortest_edge, in pixels."
            )
        if config.get("do_center_crop"):
            crop = _pair(config.get("crop_size"))
            if crop is None:
                raise InputError(
                    "The preprocessor configuration switches do_center_crop on, but its crop_size is "
                    f"{config.get('crop_size')!r}; it must give height and width."
                )
        edge = size.get("shortest_edge")
        return cls(Normalisation.from_config(config), _pair(size), int(edge) if edge else None, crop)

    @property
    def picture(self) -> tuple[int, int] | None:
        """(height, width) of every picture; None if it depends on the frames."""
        return self.crop or self.size

    def pictures(self, frames: UInt8[np.ndarray, "frame height width 3"]) -> Float[Tensor, "frame 3 rows columns"]:
        """Resize, crop and normalise frames.

        Parameters
        ----------
        frames
            RGB frames.

        Returns
        -------
        Tensor [frame, 3, rows, columns]
            float32.

        Examples
        --------
        >>> settings = Normalisation((0.5,) * 3, (0.5,) * 3, 1 / 255, resample=3)
        >>> Framing(settings, None, 16, (16, 16)).pictures(np.zeros((2, 24, 32, 3), np.uint8)).shape
        torch.Size([2, 3, 16, 16])
        """
        pixels = to_channels_first(frames)
        size = self.size
        if size is None:
            height, width = pixels.shape[-2:]
            edge, short = self.shortest_edge or 0, min(height, width)
            size = (int(edge * height / short), int(edge * width / short))
        pixels = resize(pixels, size, self.normalisation.resample)
        return normalise(pixels if self.crop is None else centre_crop(pixels, self.crop), self.normalisation)


def _pair(size: Any) -> tuple[int, int] | None:
    """Height and width where a size gives both."""
    given = isinstance(size, Mapping) and size.get("height") and size.get("width")
    return (int(size["height"]), int(size["width"])) if given else None


class PictureAdapter(VideoAdapter):
    """Feeds a video language model whose vision tower takes every frame as a picture of one square size."""

    def framing(self, model: Model) -> Framing:
        """How frames become pictures, checked against the vision tower.

        Parameters
        ----------
        model
            The model.

        Returns
        -------
        Framing

        Raises
        ------
        InputError
            There is no preprocessor configuration or it makes pictures that the vision tower does not take.
        """
        framing, side = Framing.from_config(super().settings(model)), _side(model, "image_size")
        if framing.picture != (side, side):
            made = "pictures of different sizes" if framing.picture is None else f"pictures of {framing.picture} pixels"
            raise InputError(
                f"The preprocessor configuration makes {made}; the vision tower of {model.name} takes {(side, side)}."
            )
        return framing

    def settings(self, model: Model) -> dict[str, Any]:
        """The framing as JSON values.

        Parameters
        ----------
        model
            The model.

        Returns
        -------
        dict
        """
        return asdict(self.framing(model))

    def patches(self, model: Model) -> int:
        """Patches per side of a picture.

        Parameters
        ----------
        model
            The model.

        Returns
        -------
        int
        """
        return _side(model, "image_size") // _side(model, "patch_size")


def _side(model: Model, name: str) -> int:
    """A length of the vision tower that is the same in both directions."""
    value = getattr(model.config.vision_config, name)
    sides = set(value) if isinstance(value, Sequence) else {value}
    if len(sides) != 1:
        raise UnsupportedModelError(f"The {name} of the vision tower is {value}; only squares are supported.")
    return int(sides.pop())
