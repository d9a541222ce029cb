"""Vision transformers on their own: CLIP's and SigLIP's, ViT, DeiT and DINOv2. A picture becomes patches, without text.

Radford et al. 2021 (arXiv 2103.00020), Zhai et al. 2023 (arXiv 2303.15343), Dosovitskiy et al. 2021 (arXiv
2010.11929), Touvron et al. 2021 (arXiv 2012.12877) and Oquab et al. 2024 (arXiv 2304.07193); pixels as the image
processors of transformers make them, from the values in the checkpoint's own files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from headprobe.errors import InputError
from headprobe.examples import Frames, _check_clip
from headprobe.models._pixels import Normalisation, normalise, resize, to_channels_first
from headprobe.models.adapter import ModelInputs, TokenInfo, register
from headprobe.models.video_adapter import grid_places

if TYPE_CHECKING:
    from headprobe.models.model import Model

__all__ = ["Picture", "PictureSettings", "VisionTowerAdapter"]


@dataclass(frozen=True)
class PictureSettings:
    """How a picture becomes the input of a vision tower.

    Parameters
    ----------
    normalisation
        Scale, mean and deviation.
    size
        (height, width) to resize to, or the length of the shorter side.
    crop
        (height, width) to cut from the middle afterwards; None to keep everything.
    """

    normalisation: Normalisation
    size: tuple[int, int] | int
    crop: tuple[int, int] | None

    @classmethod
    def from_config(cls, config: Mapping[str, Any], resample: int = 3, square: bool = False) -> PictureSettings:
        """Read the settings from a checkpoint's preprocessor configuration.

        Parameters
        ----------
        config
            Content of ``preprocessor_config.json``.
        resample
            The filter of a configuration that names none: 2 bilinear, 3 bicubic.
        square
            Whether a size of one number is that of both sides, and not of the shorter one.

        Returns
        -------
        PictureSettings

        Raises
        ------
        InputError
            A key is missing or a setting is not supported; nothing is filled in silently.

        Examples
        --------
        >>> PictureSettings.from_config(
        ...     {"size": {"shortest_edge": 224}, "crop_size": 224, "do_center_crop": True, "resample": 3,
        ...      "image_mean": [0.5] * 3, "image_std": [0.5] * 3}).crop
        (224, 224)
        """
        size = config.get("size")
        if isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
            size = size["shortest_edge"]
        elif isinstance(size, Mapping) and set(size) == {"height", "width"}:
            size = (int(size["height"]), int(size["width"]))
        elif isinstance(size, int) and square:
            size = (size, size)
        if not isinstance(size, (int, tuple)):
            raise InputError(
                f"The preprocessor configuration has size {size!r}; give a number, {{'shortest_edge': ...}} or "
                "{'height': ..., 'width': ...}."
            )
        crop = config.get("crop_size")
        if not config.get("do_center_crop", crop is not None):
            crop = None
        elif isinstance(crop, int):
            crop = (crop, crop)
        elif isinstance(crop, Mapping) and {"height", "width"} <= set(crop):
            crop = (int(crop["height"]), int(crop["width"]))
        else:
            raise InputError(f"The preprocessor configuration crops the middle, but has crop_size {crop!r}.")
        return cls(Normalisation.from_config(config, resample), size, crop)

    def apply(self, frame: UInt8[np.ndarray, "1 height width 3"]) -> Float[Tensor, "3 rows columns"]:
        """Resize, crop and normalise a picture.

        Parameters
        ----------
        frame
            RGB picture.

        Returns
        -------
        Tensor [3, rows, columns]

        Raises
        ------
        InputError
            The picture is smaller than the crop after resizing.
        """
        pixels = to_channels_first(frame)
        height, width = pixels.shape[-2:]
        size = self.size
        if isinstance(size, int):
            long = int(size * max(height, width) / min(height, width))
            size = (size, long) if height <= width else (long, size)
        pixels = resize(pixels, size, self.normalisation.resample)
        if self.crop is not None:
            top, left = (size[0] - self.crop[0]) // 2, (size[1] - self.crop[1]) // 2
            if top < 0 or left < 0:
                raise InputError(f"A picture of {size[0]} x {size[1]} pixels cannot be cropped to {self.crop}.")
            pixels = pixels[..., top : top + self.crop[0], left : left + self.crop[1]]
        return normalise(pixels, self.normalisation)[0]


class _PictureTokens:
    """Stands in for the tokenizer of a model without text: it names what the tokens of a picture are."""

    pad_token_id = None
    chat_template = None
    names = ("<class>", "<patch>")

    def __call__(self, text: str, **_: Any) -> Any:
        """Refuse text."""
        raise InputError(f"A vision tower takes pictures and no text; got {text!r}.")

    def get_vocab(self) -> dict[str, int]:
        """Ids of the two kinds of tokens.

        Returns
        -------
        dict
            Word to id.
        """
        return {name: i for i, name in enumerate(self.names)}

    def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str]:
        """What each token is.

        Parameters
        ----------
        ids
            Ids of tokens.

        Returns
        -------
        list of str
            A word for each.
        """
        return [self.names[i] for i in ids]

    def save_pretrained(self, folder: Any) -> None:
        """Nothing is to be saved.

        Parameters
        ----------
        folder
            Where nothing is written.
        """


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as a vision tower takes it.

    Parameters
    ----------
    pixels
        Normalised, [channel, row, column].
    """

    pixels: Float[Tensor, "3 height width"]


@dataclass(frozen=True)
class VisionTowerAdapter:
    """Feeds pictures to a vision transformer.

    A picture is a clip of one frame, uint8 [1, height, width, 3]. There is no attention between pictures, so a
    clip of several frames is refused; give its frames as examples of their own. The token map covers the
    patches (frame 0, row, column); a class token in front of them is ``positions.first()``.

    Parameters
    ----------
    name
        Name in provenance.
    has_class_token
        Whether a token that stands for the whole picture comes before the patches.
    n_more_tokens
        Tokens between the class token and the patches, such as DeiT's distillation token.
    any_size
        Whether the model interpolates its positions, so that pictures may have another size than it was made for.
    resample, square
        What a preprocessor configuration without a filter, or with a size of one number, means in this family; see
        `PictureSettings.from_config`.
    verified
        What the tests hold for a tiny random model of the family.

    Examples
    --------
    >>> from headprobe.models.adapter import register
    >>> register("my_vit", VisionTowerAdapter("my-vit", has_class_token=True))
    """

    name: str
    has_class_token: bool
    n_more_tokens: int = 0
    any_size: bool = False
    resample: int = 3
    square: bool = False
    modality: Literal["image"] = "image"
    padding_side: None = None
    auto_class: str = "AutoModel"
    verified: tuple[str, ...] = ("hooks", "sum", "batch", "early stop", "bfloat16", "folder", "token map", "pixels")
    tokenizer: ClassVar[_PictureTokens] = _PictureTokens()

    def check_prompt(self, name: str, prompt: str) -> None:
        """Raise InputError for anything but the empty prompt.

        Parameters
        ----------
        name
            Name of the prompt, for the error text.
        prompt
            The prompt.

        Raises
        ------
        InputError
            The prompt is not empty.
        """
        if prompt:
            raise InputError(f"Prompt {name!r} is {prompt!r}, but a vision tower takes no text; leave prompts out.")

    def settings(self, model: Model) -> PictureSettings:
        """How a loaded model wants its pictures.

        Parameters
        ----------
        model
            The model.

        Returns
        -------
        PictureSettings

        Raises
        ------
        InputError
            There is no preprocessor configuration, or one that makes pictures of another size than the model's.
        """
        if model.processor_config is None:
            raise InputError(
                f"{model.name} has no preprocessor configuration; pass processor_config= with the content of "
                "preprocessor_config.json."
            )
        settings = PictureSettings.from_config(model.processor_config, self.resample, self.square)
        made = settings.crop if settings.crop is not None else settings.size
        side = model.config.image_size
        if self.any_size and isinstance(made, tuple) and not any(length % model.config.patch_size for length in made):
            return settings
        if made != (side, side):
            raise InputError(
                f"The preprocessor configuration makes pictures of {made} pixels, but {model.name} takes "
                f"({side}, {side})."
            )
        return settings

    def encode(self, content: Any, name: str, model: Model) -> Picture:
        """Make the pixels of one picture.

        Parameters
        ----------
        content
            A picture, uint8 [1, height, width, 3].
        name
            Id of the example, for the error text.
        model
            The model.

        Returns
        -------
        Picture

        Raises
        ------
        InputError
            The content is not one picture.
        """
        if isinstance(content, Picture):
            return content
        if isinstance(content, str):
            raise InputError(f"Example {name!r} is text, but {model.name} takes pictures [1, height, width, 3].")
        frames = _check_clip(content.pixels if isinstance(content, Frames) else content, name)
        if len(frames) != 1:
            raise InputError(
                f"Example {name!r} has {len(frames)} frames, but {model.name} sees one picture at a time; give every "
                "frame as an example of its own, frames[i : i + 1]."
            )
        return Picture(self.settings(model).apply(frames))

    def prepare(self, contents: Sequence[Any], prompt: str, model: Model) -> ModelInputs:
        """Inputs for pictures.

        Parameters
        ----------
        contents
            Pictures, encoded or not.
        prompt
            The empty prompt.
        model
            The model.

        Returns
        -------
        ModelInputs

        Raises
        ------
        InputError
            A content is not one picture, or the prompt is not empty.
        """
        self.check_prompt("prompt", prompt)
        pictures = [self.encode(content, str(i), model) for i, content in enumerate(contents)]
        pixels = torch.stack([picture.pixels for picture in pictures])
        patch = model.config.patch_size
        places = grid_places(1, pixels.shape[2] // patch, pixels.shape[3] // patch)
        n_before = int(self.has_class_token) + self.n_more_tokens
        places = torch.cat([torch.full((n_before, 3), -1), places])
        frame, row, column = (axis.expand(len(pixels), -1) for axis in places.T)
        video = frame >= 0
        info = TokenInfo(torch.ones_like(video), video, frame, row, column)
        return ModelInputs({"pixel_values": pixels}, info, None, token_ids=video.long())

    def processor_state(self, model: Model) -> dict[str, Any]:
        """How pictures are resized, cropped and normalised.

        Parameters
        ----------
        model
            The model.

        Returns
        -------
        dict
        """
        return asdict(self.settings(model))


register("clip_vision_model", VisionTowerAdapter("clip-vision", has_class_token=True))
register("siglip_vision_model", VisionTowerAdapter("siglip-vision", has_class_token=False))
register("vit", VisionTowerAdapter("vit", has_class_token=True, resample=2, square=True))
register("deit", VisionTowerAdapter("deit", has_class_token=True, n_more_tokens=1, square=True))
register("dinov2", VisionTowerAdapter("dinov2", has_class_token=True, any_size=True))
