"""SmolVLM: every frame is a square picture of its own, introduced by its time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from headprobe import _torchvision
from headprobe.errors import InputError
from headprobe.examples import Frames
from headprobe.models._pixels import Normalisation, normalise, resize, to_channels_first
from headprobe.models.adapter import register
from headprobe.models.frame_times import frame_seconds
from headprobe.models.video_adapter import CONTRACT, EncodedClip, VideoAdapter, grid_places

if TYPE_CHECKING:
    from headprobe.models.model import Model

__all__ = [
    "SmolVLMAdapter",
]

# fmt: off
_ONES = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]

# fmt: on
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_LARGEST_SIDE = 4096
_LANCZOS = 1  # the class default of transformers, for a file that names no filter
_TEXTS = ("DEFAULT_VIDEO_INTRO", "FRAME_TIMESTAMP_MESSAGE", "DEFAULT_MEDIA_OUTTRO")


def _number_words(n: int) -> str:
    """A whole number below a million in English words, as the package num2words writes it."""
    if not 0 <= n < 1_000_000:
        raise InputError(f"{n} is not written in words; give a number from 0 to 999999.")
    if n < 20:
        return _ONES[n]
    if n < 100:
        tens, rest = divmod(n, 10)
        return _TENS[tens - 2] + (f"-{_ONES[rest]}" if rest else "")
    size, name = (100, "hundred") if n < 1000 else (1000, "thousand")
    count, rest = divmod(n, size)
    link = " and " if rest < 100 else ", "
    return f"{_number_words(count)} {name}" + (link + _number_words(rest) if rest else "")


class SmolVLMAdapter(VideoAdapter):
    """Feeds a clip and a question to SmolVLM.

    Examples
    --------
    >>> SmolVLMAdapter().name
    'smolvlm'
    """

    name = "smolvlm"
    verified = CONTRACT
    needs_times = True

    def video_token(self, model: Model) -> int:
        return int(model.config.image_token_id)

    def placeholder(self, model: Model) -> str:
        return str(getattr(model.tokenizer, "video_token", "<video>"))

    def chat_template(self, model: Model) -> str | None:
        own = model.tokenizer.chat_template
        return own if own is None or self.placeholder(model) in own else _texts().DEFAULT_CHAT_TEMPLATE

    def settings(self, model: Model) -> dict[str, Any]:
        config = super().settings(model)
        sampling = config.get("video_sampling") or {}
        longest = (config.get("size") or sampling.get("video_size") or {}).get("longest_edge")
        side = (config.get("max_image_size") or {}).get("longest_edge")
        if longest is None or side is None:
            raise InputError("The preprocessor configuration lacks size or max_image_size, each with a longest_edge.")
        vision = model.config.vision_config
        if side != vision.image_size:
            raise InputError(
                f"The preprocessor configuration makes frames {side} pixels wide (max_image_size), but the model "
                f"takes {vision.image_size}."
            )
        return {
            "normalisation": vars(Normalisation.from_config(config, resample=_LANCZOS)),
            "longest_edge": min(int(longest), _LARGEST_SIDE),
            "side": int(side),
            "tokens_per_side": int(side) // vision.patch_size // model.config.scale_factor,
            "texts": [getattr(_texts(), name) for name in _TEXTS],
        }

    def encode_clip(self, clip: Frames, model: Model) -> EncodedClip:
        settings = self.settings(model)
        intro, stamp, end = settings["texts"]
        normalisation, side, n = Normalisation(**settings["normalisation"]), settings["side"], len(clip)
        pixels = to_channels_first(clip.pixels)
        # Twice, as the pictures of the checkpoints were made: to the longer side, then to a square.
        height, width = pixels.shape[-2:]
        for size in (_fit(height, width, settings["longest_edge"]), (side, side)):
            pixels = resize(pixels, size, normalisation.resample)
        places = grid_places(n, settings["tokens_per_side"], settings["tokens_per_side"])
        picture = str(model.tokenizer.convert_ids_to_tokens(self.video_token(model))) * (len(places) // n)
        around = getattr(model.tokenizer, "fake_image_token", "<fake_token_around_image>")
        begin = getattr(model.tokenizer, "global_image_token", "<global-img>")
        times = frame_seconds(clip, self.name, default_fps=24.0)
        length = str(timedelta(seconds=int(times[-1])))
        text = intro.format(frame_count=_number_words(n), video_duration=length)
        for time in map(int, times):
            text += stamp.format(timestamp=f"{time // 60:02d}:{time % 60:02d}") + around + begin + picture + around
        inputs = {"pixel_values": normalise(pixels, normalisation)}
        return EncodedClip(inputs, text + end, places)

    def collate(self, clips: Sequence[EncodedClip], model: Model) -> dict[str, Tensor]:
        del model
        frames = [clip.inputs["pixel_values"] for clip in clips]
        longest = max(map(len, frames))
        pixels = torch.stack([functional.pad(f, (0, 0) * 3 + (0, longest - len(f))) for f in frames])
        return {"pixel_values": pixels, "pixel_attention_mask": torch.ones_like(pixels[:, :, 0], dtype=torch.long)}


def _fit(height: int, width: int, longest: int) -> tuple[int, int]:
    """Size with this longer side; the shorter one follows and is made even."""
    # The shape is kept by way of the quotient of the sides, whose rounding decides where the result is whole.
    ratio = width / height
    if width >= height:
        short = int(longest / ratio)
        return max(short + short % 2, 1), longest
    short = int(longest * ratio)
    return longest, max(short + short % 2, 1)


def _texts() -> Any:
    """The module of transformers with the texts around a video; the model was trained with exactly these."""
    _torchvision.guard()
    from transformers.models.smolvlm import processing_smolvlm

    return processing_smolvlm


register(SmolVLMAdapter.name, SmolVLMAdapter())
