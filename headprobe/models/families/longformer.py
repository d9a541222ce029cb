"""Longformer: attention in windows, to which texts are padded (Beltagy et al. 2020, arXiv 2004.05150)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch.nn import functional

from headprobe.models.adapter import ModelInputs, TokenInfo, register
from headprobe.models.text import _CONTRACT, TextAdapter

if TYPE_CHECKING:
    from headprobe.models.model import Model

__all__ = ["LongformerAdapter"]


class LongformerAdapter(TextAdapter):
    """Feeds text to a Longformer, in whole windows.

    The model would pad inputs to whole windows by itself, between the embeddings and the blocks, so that its heads had
    more tokens than its inputs. The same padding is made here, where the mask says that it is padding. No token gets
    global attention but by the class's own default, which is that of the first token in
    `LongformerForSequenceClassification` and none in `LongformerModel`.

    Examples
    --------
    >>> from headprobe.models.adapter import adapter_for
    >>> adapter_for("longformer").padding_side
    'right'
    """

    def pad_rows(self, rows: Sequence[Sequence[int]], model: Model) -> ModelInputs:
        batch = super().pad_rows(rows, model)
        windows = model.config.attention_window
        whole = windows if isinstance(windows, int) else math.lcm(*windows)
        more = -batch.ids.shape[1] % whole
        ids = functional.pad(batch.ids, (0, more), value=model.config.pad_token_id)
        mask = functional.pad(batch.attention_mask, (0, more))
        return dataclasses.replace(
            batch, inputs={"input_ids": ids, "attention_mask": mask}, token_info=TokenInfo(mask.bool())
        )


register("longformer", LongformerAdapter("longformer", "right", "AutoModel", verified=_CONTRACT))
