"""Qwen3-VL and Qwen3.5: every time step of the video has its time written before it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from headprobe.examples import Frames
from headprobe.models.adapter import register
from headprobe.models.families.qwen_vl import QwenVLAdapter
from headprobe.models.frame_times import frame_seconds
from headprobe.models.video_adapter import CONTRACT, EncodedClip

if TYPE_CHECKING:
    from headprobe.models.model import Model

__all__ = ["Qwen3VLAdapter", "Qwen35Adapter"]


class Qwen3VLAdapter(QwenVLAdapter):
    """Feeds a clip and a question to Qwen3-VL, dense or with experts; patches as in Qwen2-VL.

    As in transformers from 5.10 on, the start and end tokens that the chat template puts around the video stay, and
    every time step has its own inside them.

    Examples
    --------
    >>> Qwen3VLAdapter().name
    'qwen3_vl'
    """

    name = "qwen3_vl"
    verified = CONTRACT
    needs_times = True
    whole_clip = True

    def encode_clip(self, clip: Frames, model: Model) -> EncodedClip:
        encoded = super().encode_clip(clip, model)
        seconds, step = frame_seconds(clip, self.name, default_fps=24.0), encoded.frames_per_token
        firsts = range(0, len(seconds), step)
        # The last time step may be short; its last frame is then repeated.
        times = [(seconds[first], seconds[min(first + step, len(seconds)) - 1]) for first in firsts]
        tokens = encoded.text[: len(encoded.text) // len(times)]
        text = "".join(self.step_text(first, last, tokens, model) for first, last in times)
        return dataclasses.replace(encoded, text=text)

    def step_text(self, first: float, last: float, tokens: str, model: Model) -> str:
        """The text of one time step.

        Parameters
        ----------
        first, last
            Times of its first and its last frame in seconds.
        tokens
            Its video tokens.
        model
            The model.

        Returns
        -------
        str
        """
        start, end = self.words(model, model.config.vision_start_token_id, model.config.vision_end_token_id)
        return f"<{(first + last) / 2:.1f} seconds>{start}{tokens}{end}"


class Qwen35Adapter(Qwen3VLAdapter):
    """Feeds a clip and a question to Qwen3.5, most of whose layers keep a state that cannot be cropped.

    Examples
    --------
    >>> Qwen35Adapter().name
    'qwen3_5'
    """

    name = "qwen3_5"
    verified = CONTRACT
    cache_modes = ("copy",)


for _adapter in (Qwen3VLAdapter(), Qwen35Adapter()):
    register(_adapter.name, _adapter)
    register(f"{_adapter.name}_moe", _adapter)
