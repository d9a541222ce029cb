"""What the adapters of video language models have in common: template, placeholder, padding and token map.

A family says how one clip becomes the inputs of its vision tower, what stands in the text in place of the
video, and which pixels each of those tokens covers (`VideoAdapter.encode_clip`); everything else is here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from headprobe.errors import InputError, UnsupportedModelError
from headprobe.examples import Frames, _check_clip
from headprobe.models._pixels import Normalisation, normalise, resize, to_channels_first
from headprobe.models.adapter import ModelInputs, TokenInfo, _padded

if TYPE_CHECKING:
    from headprobe.models.model import Model

__all__ = ["CONTRACT", "EncodedClip", "Framing", "PictureAdapter", "VideoAdapter", "centre_crop", "grid_places"]

CONTRACT = (
    "hooks",
    "sum",
    "batch",
    "early stop",
    "token map",
    "prefix",
    "bfloat16",
    "padding",
    "folder",
    "pixels",
)
"""What the tests hold for a tiny random model of every video family of the package."""


@dataclass(frozen=True, eq=False)
class EncodedClip:
    """A clip as its family takes it, before any prompt.

    Parameters
    ----------
    inputs
        The clip's own arguments of the model's forward; those of several clips are joined along the first axis.
    text
        What replaces the placeholder of the video in the prompt.
    places
        (frame, row, column) of every video token in that text, in order; a row of -1 is a token that stands for
        no pixels, such as a separator.
    frames_per_token
        Consecutive frames that one token covers.
    """

    inputs: dict[str, Tensor]
    text: str
    places: Int[Tensor, "token 3"]
    frames_per_token: int = 1
    extra: dict[str, Any] = field(default_factory=dict)


def grid_places(frames: int, rows: int, columns: int, step: int = 1) -> Int[Tensor, "token 3"]:
    """Places of the tokens of a grid that is read time first, then rows, then columns.

    Parameters
    ----------
    frames
        Number of time steps.
    rows, columns
        Size of the token grid.
    step
        Frames per time step.

    Returns
    -------
    Tensor [token, 3]
        First frame, row and column of each token.

    Examples
    --------
    >>> grid_places(2, 1, 2, step=2).tolist()
    [[0, 0, 0], [0, 0, 1], [2, 0, 0], [2, 0, 1]]
    """
    axes = (torch.arange(frames) * step, torch.arange(rows), torch.arange(columns))
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)


class VideoAdapter(ABC):
    """Feeds a clip and a question to a video language model; subclass it for a family.

    A subclass sets ``name`` and writes `encode_clip`. The rest can be overridden where a family differs:
    which token the video becomes (`video_token`), what the chat template is given (`message`), what it writes
    where the video goes (`placeholder`), how the inputs of several clips are joined (`collate`), and explicit
    position ids (`position_ids`).

    Attributes
    ----------
    name
        Name in provenance.
    auto_class
        Name of the transformers auto class that loads the family.
    needs_times
        Whether the time of the frames reaches the model, in the text or in the positions.
    token_type
        What ``mm_token_type_ids`` calls a video token.
    cache_modes
        How the keys and values of a prefix may be used again, best first: ``share`` the tensors, where a pass
        only joins new ones to them, or ``copy`` them for every prompt, where it changes them in place; none if
        the family has to see the whole input at once.
    verified
        What the package's tests hold for the family; empty for one of your own.

    Examples
    --------
    >>> sorted(VideoAdapter.__abstractmethods__)  # what a family has to write
    ['encode_clip']
    """

    name: str
    modality: Literal["text", "video"] = "video"
    padding_side: Literal["left", "right"] = "left"
    auto_class: str = "AutoModelForImageTextToText"
    needs_times: bool = False
    token_type: int = 2
    cache_modes: tuple[Literal["share", "copy"], ...] = ("share", "copy")
    verified: tuple[str, ...] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "verified" not in cls.__dict__:
            cls.verified = ()  # what was tested for a family says nothing about one derived from it

    @abstractmethod
    def encode_clip(self, clip: Frames, model: Model) -> EncodedClip:
        """Turn frames into the inputs of the vision tower and the text that stands for them.

        Parameters
        ----------
        clip
            The frames and, where known, their times.
        model
            The model.

        Returns
        -------
        EncodedClip
        """

    def video_token(self, model: Model) -> int:
        """Id of the token that the vision tower's output replaces.

        Parameters
        ----------
        model
            The model.

        Returns
        -------
        int
        """
        return int(model.config.video_token_id)

    def message(self, n_frames: int) -> list[dict[str, str]]:
        """How the chat template is told that there is a video.

        Parameters
        ----------
        n_frames
            Frames of the clip.

        Returns
        -------
        list of dict
        """
        del n_frames
        return [{"type": "video"}]

    def placeholder(self, model: Model) -> str:
        """What the chat template writes where the video goes; it must occur once.

        Parameters
        ----------
        model
            The model.

        Returns
        -------
        str
        """
        return str(model.tokenizer.convert_ids_to_tokens(self.video_token(model)))

    def chat_template(self, model: Model) -> str | None:
        """The chat template, which must be one that knows videos.

        Parameters
        ----------
        model
            The model.

        Returns
        -------
        str or None
            None for a checkpoint without one.
        """
        return model.tokenizer.chat_template

    def without_template(self, prompt: str, model: Model) -> str:
        """The text for a checkpoint that has no chat template: the video, then the prompt.

        Parameters
        ----------
        prompt
            The question; empty for the clip alone.
        model
            The model.

        Returns
        -------
        str
            With the placeholder in it.
        """
        return self.placeholder(model) + prompt

    def settings(self, model: Model) -> Any:
        """What of the preprocessor configuration shapes the inputs, checked against the model.

        Parameters
        ----------
        model
            The model.

        Returns
        -------
        Any
            JSON values; part of the provenance.

        Raises
        ------
        InputError
            There is no configuration, or it does not go with the model.
        """
        if model.processor_config is None:
            raise InputError(
                f"{model.name} has no preprocessor configuration; pass processor_config= with the content of "
                "preprocessor_config.json."
            )
        return dict(model.processor_config)

    def collate(self, clips: Sequence[EncodedClip], model: Model) -> dict[str, Tensor]:
        """The inputs of several clips as arguments of one forward pass.

        Parameters
        ----------
        clips
            The clips of a batch.
        model
            The model.

        Returns
        -------
        dict
        """
        del model
        return {name: torch.cat([clip.inputs[name] for clip in clips]) for name in clips[0].inputs}

    def position_ids(self, batch: ModelInputs, model: Model) -> Tensor:
        """Position ids of every token, as the language stack uses them.

        Parameters
        ----------
        batch
            Inputs of a full pass.
        model
            The model.

        Returns
        -------
        Tensor [..., batch, token]
        """
        del model
        return (batch.attention_mask.long().cumsum(1) - 1).clamp_min(0)

    def share(self, inputs: ModelInputs, model: Model, turn: AbstractContextManager[Any]) -> dict[str, Any]:
        """Arguments that several prompts about the same clips can share when their text cannot be shared.

        Parameters
        ----------
        inputs
            Inputs of any of the prompts.
        model
            The model.
        turn
            Held while a part of the model runs.

        Returns
        -------
        dict
            Arguments of the forward pass; None replaces an input by nothing. Empty where every pass needs its own.
        """
        del inputs, model, turn
        return {}

    def check_prompt(self, name: str, prompt: str) -> None:
        """Raise InputError for a text template, which a question about a clip is not.

        Parameters
        ----------
        name
            Name of the prompt, for the error text.
        prompt
            The question; empty for the clip alone.

        Raises
        ------
        InputError
            The prompt is a template for texts.
        """
        if "{text}" in prompt:
            raise InputError(f"Prompt {name!r} contains {{text}}; for a video model the prompt is the question itself.")

    def encode(self, content: Any, name: str, model: Model) -> EncodedClip:
        """Do the work on one clip that no prompt changes.

        Parameters
        ----------
        content
            Frames, uint8 [frame, height, width, 3], with or without times; or a clip that is encoded already.
        name
            Id of the example, for the error text.
        model
            The model.

        Returns
        -------
        EncodedClip

        Raises
        ------
        InputError
            The content is not a clip.
        """
        if isinstance(content, EncodedClip):
            return content
        if isinstance(content, str):
            raise InputError(f"Example {name!r} is text, but {model.name} takes clips [frame, height, width, 3].")
        clip = content if isinstance(content, Frames) else Frames(np.asarray(content))
        _check_clip(clip.pixels, name)
        return self.encode_clip(clip, model)

    def prepare(self, contents: Sequence[Any], prompt: str, model: Model) -> ModelInputs:
        """Inputs for clips under one question.

        Parameters
        ----------
        contents
            Clips, encoded or not.
        prompt
            The question; empty for the clip alone.
        model
            The model.

        Returns
        -------
        ModelInputs

        Raises
        ------
        InputError
            The prompt does not leave exactly one place for the video, or the text would hold other video tokens
            than the clip has.
        """
        clips = [self.encode(content, str(i), model) for i, content in enumerate(contents)]
        video_id = self.video_token(model)
        rows = [self._tokens(clip, prompt, model) for clip in clips]
        for row, clip in zip(rows, clips, strict=True):
            if (count := row.count(video_id)) != len(clip.places):
                raise InputError(
                    f"With the prompt {prompt!r} the text has {count} video tokens (id {video_id}), but the clip "
                    f"has {len(clip.places)}; the prompt must not contain the video token, and the tokenizer "
                    "must know it as a special token."
                )
        ids, mask, pad_id = _padded(rows, self.padding_side, model.tokenizer)
        if not bool(mask.all()) and bool(((ids == video_id) & (mask == 0)).any()):
            raise InputError(f"The padding token is the video token (id {video_id}); the tokenizer needs another one.")
        inputs = {"input_ids": ids, "attention_mask": mask, **self.collate(clips, model)}
        if "mm_token_type_ids" in model.accepts:
            inputs["mm_token_type_ids"] = (ids == video_id).int() * self.token_type
        if type(self).position_ids is VideoAdapter.position_ids and "position_ids" in model.accepts:
            # As transformers' generate gives them: a real token's position does not count the padding before it.
            inputs["position_ids"] = (mask.cumsum(1) - 1).clamp_min(0)
        return ModelInputs(inputs, _token_info(ids, mask, video_id, clips), self.padding_side, pad_id)

    def processor_state(self, model: Model) -> dict[str, Any]:
        """The preprocessor settings and the chat template.

        Parameters
        ----------
        model
            The model.

        Returns
        -------
        dict
        """
        return {"settings": self.settings(model), "chat_template": self.chat_template(model)}

    def _tokens(self, clip: EncodedClip, prompt: str, model: Model) -> list[int]:
        """Token ids of a prompt about a clip."""
        tokenizer, mark = model.tokenizer, self.placeholder(model)
        template = self.chat_template(model)
        if template is None:
            text = self.without_template(prompt, model)
        else:
            content = self.message(int(clip.extra.get("n_frames", 0)))
            if prompt:
                content = [*content, {"type": "text", "text": prompt}]
            text = tokenizer.apply_chat_template(
                [{"role": "user", "content": content}],
                chat_template=template,
                tokenize=False,
                add_generation_prompt=True,
            )
        if (count := text.count(mark)) != 1:
            raise InputError(
                f"With the prompt {prompt!r} the text has {count} places for a video ({mark!r}); exactly one is "
                "needed. The prompt itself must not contain it, and the chat template must be the checkpoint's "
                "multimodal one."
            )
        # transformers' processors let the tokenizer add its first token unless the template has written it.
        starts = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
        return list(tokenizer(text.replace(mark, clip.text), add_special_tokens=not starts)["input_ids"])


def _token_info(ids: Tensor, mask: Tensor, video_id: int, clips: Sequence[EncodedClip]) -> TokenInfo:
    steps = {clip.frames_per_token for clip in clips}
    assert len(steps) == 1
    places = torch.full((*ids.shape, 3), -1)
    for i, clip in enumerate(clips):
        places[i, (ids[i] == video_id) & mask[i].bool()] = clip.places.long()
    frame, row, column = places.unbind(-1)
    return TokenInfo(mask.bool(), frame >= 0, frame, row, column, frames_per_token=steps.pop())


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
    """Feeds a video language model whose vision tower takes every frame as a picture of one square size.

    Examples
    --------
    >>> issubclass(PictureAdapter, VideoAdapter)
    True
    """

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
