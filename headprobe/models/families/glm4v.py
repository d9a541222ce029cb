"""GLM-4V: every time step of the video stands in the text like an image, followed by its time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headprobe.models.adapter import register
from headprobe.models.families.qwen3_vl import Qwen3VLAdapter
from headprobe.models.video_adapter import CONTRACT

if TYPE_CHECKING:
    from headprobe.models.model import Model

__all__ = ["Glm4vAdapter", "Glm46vAdapter"]


class Glm4vAdapter(Qwen3VLAdapter):
    """Feeds a clip and a question to GLM-4.1V, or to GLM-4.5V with experts; patches as in Qwen2-VL.

    Examples
    --------
    >>> Glm4vAdapter().name
    'glm4v'
    """

    name = "glm4v"
    verified = CONTRACT
    marks = ("video_start_token_id", "video_end_token_id")

    def video_token(self, model: Model) -> int:
        return int(model.config.image_token_id)

    def placeholder(self, model: Model) -> str:
        return self.words(model, model.config.video_token_id)[0]

    def step_text(self, first: float, last: float, tokens: str, model: Model) -> str:
        del last
        start, end = self.words(model, model.config.image_start_token_id, model.config.image_end_token_id)
        return f"{start}{tokens}{end}{self.time(first)}"

    def time(self, seconds: float) -> str:
        """A time as the model reads it.

        Parameters
        ----------
        seconds
            The time.

        Returns
        -------
        str
            Whole seconds.
        """
        return str(int(seconds))


class Glm46vAdapter(Glm4vAdapter):
    """Feeds a clip and a question to GLM-4.6V, which is told tenths of a second.

    Examples
    --------
    >>> Glm46vAdapter().name
    'glm46v'
    """

    name = "glm46v"
    verified = CONTRACT

    def time(self, seconds: float) -> str:
        return f"{seconds:.1f} seconds"


register("glm4v_moe", Glm4vAdapter())


for _adapter in (Glm4vAdapter(), Glm46vAdapter()):
    register(_adapter.name, _adapter)
