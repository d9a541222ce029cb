"""One pass over a video serves many prompts: the keys and values of what the prompts share are computed once.

In a causal model the tokens before a prompt's own text do not see it, so their activations, keys and values are
those of every prompt. How much is shared is found from the token ids; positions are those of the full inputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from headprobe.errors import HeadprobeWarning
from headprobe.models.adapter import ModelInputs

if TYPE_CHECKING:
    from headprobe.models.model import Model

__all__ = ["SharedPrefix", "find_prefix", "shared_prefix"]


@dataclass(frozen=True, eq=False)
class SharedPrefix:
    """What the inputs of several prompts about the same examples have in common.

    Parameters
    ----------
    batches
        Full inputs of every prompt, padded on the left.
    width
        Columns of the prefix, padding included; it is the same in every batch.
    position_ids
        Position ids of every prompt's full inputs.
    mode
        How its keys and values are used again.
    """

    batches: tuple[ModelInputs, ...]
    width: int
    position_ids: tuple[Tensor, ...]
    mode: Literal["share", "copy"]


def find_prefix(batches: Sequence[ModelInputs], model: Model) -> SharedPrefix | str:
    """Find what several prompts share, or say why nothing can be.

    Parameters
    ----------
    batches
        Inputs of every prompt about the same examples.
    model
        The model.

    Returns
    -------
    SharedPrefix or str
        The prefix; or the reason, as a sentence, why every prompt needs a full pass.
    """
    modes = getattr(model.adapter, "cache_modes", ())
    if not modes:
        return f"{model.adapter.name} does not allow keys and values to be used again"
    if any(batch.padding_side != "left" for batch in batches):
        return "the inputs are not padded on the left"
    rows = [_real_rows(batch) for batch in batches]
    n_examples = len(rows[0])
    lengths = torch.tensor([[len(row) for row in prompt] for prompt in rows])
    common = torch.tensor([_common([prompt[i] for prompt in rows]) for i in range(n_examples)])
    for batch in batches:
        tokens = batch.token_info
        if tokens.video is None or bool((tokens.video & (tokens.rank >= common[:, None])).any()):
            return "the text before the video differs from prompt to prompt"
    # Every prompt's own text needs a token, and the same number of tokens in every example.
    common = torch.minimum(common, lengths.amin(0) - 1)
    common = lengths[0] - int((lengths[0] - common).max())
    own = lengths - common
    if bool((own != own[:, :1]).any()) or int(common.min()) < 1:
        return "the prompts' own text has other lengths from one example to the next"
    width = int(common.max())
    if any(bool((batch.inputs.get("mm_token_type_ids", batch.ids[:, :0])[:, width:] != 0).any()) for batch in batches):
        return "the prompts' own text has tokens that are marked as part of the video"
    position_ids = tuple(model.adapter.position_ids(batch, model) for batch in batches)  # type: ignore[attr-defined]
    real = batches[0].attention_mask[:, :width].bool()
    first = position_ids[0][..., :width]
    if any(bool((ids[..., :width] != first)[..., real].any()) for ids in position_ids[1:]):
        return "the prompts give the shared tokens different positions"
    return SharedPrefix(tuple(batches), width, position_ids, modes[0])


def shared_prefix(batches: Sequence[ModelInputs], model: Model) -> SharedPrefix | None:
    """What several prompts share; None, with a warning once per model and reason, where a video cannot be shared.

    Parameters
    ----------
    batches
        Inputs of every prompt about the same examples.
    model
        The model.

    Returns
    -------
    SharedPrefix or None
    """
    if model.adapter.modality != "video" or any(batch.token_info.video is None for batch in batches):
        return None
    found = find_prefix(batches, model)
    if isinstance(found, SharedPrefix):
        return found
    said = model.__dict__.setdefault("_said_not_shared", set())
    if found not in said:
        said.add(found)
        warnings.warn(
            f"{model.name}: every prompt takes a full pass over the video, because {found}.",
            HeadprobeWarning,
            stacklevel=2,
        )
    return None


def _real_rows(batch: ModelInputs) -> list[list[int]]:
    mask = batch.attention_mask.bool()
    return [ids[keep].tolist() for ids, keep in zip(batch.inputs["input_ids"], mask, strict=True)]


def _common(rows: list[list[int]]) -> int:
    """Length of the longest common prefix."""
    shortest, longest = min(rows), max(rows)  # in lexical order, these two differ first
    for i, (a, b) in enumerate(zip(shortest, longest, strict=False)):
        if a != b:
            return i
    return min(len(shortest), len(longest))
