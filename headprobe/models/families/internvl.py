"""InternVL: every frame is a numbered picture of square patches, merged two by two by a pixel shuffle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headprobe.errors import InputError
from headprobe.examples import Frames
from headprobe.models.adapter import register
from headprobe.models.video_adapter import CONTRACT, EncodedClip, PictureAdapter, grid_places

if TYPE_CHECKING:
    from headprobe.models.model import Model

__all__ = ["InternVLAdapter"]


class InternVLAdapter(PictureAdapter):
    """Feeds a clip and a question to InternVL, in the form that transformers loads (names ending in -hf).

    Examples
    --------
    >>> InternVLAdapter().name
    'internvl'
    """

    name = "internvl"
    verified = CONTRACT

    def encode_clip(self, clip: Frames, model: Model) -> EncodedClip:
        # The pixel shuffle leaves the tokens in reading order.
        side = int(self.patches(model) * model.config.downsample_ratio)
        picture = model.tokenizer.convert_ids_to_tokens(self.video_token(model)) * side**2
        start, end = (_named_token(model, f"{name}_image_token") for name in ("start", "end"))
        lines = [f"Frame{i}: {start}{picture}{end}" for i in range(1, len(clip) + 1)]
        pixels = self.framing(model).pictures(clip.pixels)
        return EncodedClip({"pixel_values": pixels}, "\n".join(lines), grid_places(len(clip), side, side))

    def video_token(self, model: Model) -> int:
        return int(model.config.image_token_id)

    def placeholder(self, model: Model) -> str:
        return _named_token(model, "video_token")


def _named_token(model: Model, name: str) -> str:
    token = getattr(model.tokenizer, name, None)
    if token is None:
        raise InputError(
            f"The tokenizer of {model.name} has no {name}; InternVL needs the tokens that its tokenizer names "
            "start_image_token, end_image_token and video_token."
        )
    return str(token)


register(InternVLAdapter.name, InternVLAdapter())
