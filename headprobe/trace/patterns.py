"""Attention patterns of heads, and the part of them that goes to video, on the token grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headprobe.errors import InputError
from headprobe.heads import HeadSet
from headprobe.provenance import Provenance

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["AttentionPattern", "AttentionPatterns"]


@dataclass(frozen=True, eq=False)
class AttentionPattern:
    """Attention of some heads to the real tokens of one input.

    Parameters
    ----------
    weights
        float32 on the CPU, [head, token]; padding is left out.
    token_ids
        The tokens, [token].
    queries
        Index of the query token among the tokens; of all that were averaged, if there were several, [query].
    video
        True for video tokens, [token]; None for a model without video.
    frame, row, column
        As in `headprobe.models.adapter.TokenInfo`, [token].
    frames_per_token
        Number of consecutive sampled frames that one video token covers.

    Examples
    --------
    >>> pattern = AttentionPattern(
    ...     weights=torch.tensor([[0.1, 0.2, 0.3, 0.4]]), token_ids=torch.arange(4), queries=torch.tensor([3]),
    ...     video=torch.tensor([False, True, True, False]),
    ...     frame=torch.tensor([-1, 0, 2, -1]), row=torch.tensor([-1, 0, 0, -1]), column=torch.tensor([-1, 0, 0, -1]),
    ...     frames_per_token=2,
    ... )
    >>> pattern.to_video().tolist()
    [[[[0.20000000298023224]], [[0.30000001192092896]]]]
    >>> pattern.video_share().tolist()
    [0.5]
    """

    weights: Float[Tensor, "head token"]
    token_ids: Int[Tensor, " token"]
    queries: Int[Tensor, " query"]
    video: Bool[Tensor, " token"] | None = None
    frame: Int[Tensor, " token"] | None = None
    row: Int[Tensor, " token"] | None = None
    column: Int[Tensor, " token"] | None = None
    frames_per_token: int = 1

    def to_video(self) -> Float[Tensor, "head frame row column"]:
        """The attention to video tokens on the token grid.

        Returns
        -------
        Tensor [head, frame, row, column]
            Axis ``frame`` counts time steps of the grid, each ``frames_per_token`` sampled frames long. A place
            that no token has is NaN; tokens that share a place add up; video tokens without a place (a
            summary token of a frame) are left out.

        Raises
        ------
        InputError
            The model takes no video.
        """
        video = self._video_tokens()
        assert self.frame is not None
        assert self.row is not None
        assert self.column is not None
        placed = video & (self.row >= 0) & (self.column >= 0) & (self.frame >= 0)
        place = (self.frame[placed] // self.frames_per_token, self.row[placed], self.column[placed])
        shape = [int(axis.max()) + 1 if len(axis) else 0 for axis in place]
        grid = torch.zeros(len(self.weights), *shape)
        heads = torch.arange(len(self.weights))[:, None]
        grid.index_put_((heads, *(axis[None] for axis in place)), self.weights[:, placed], accumulate=True)
        taken = torch.zeros(shape, dtype=torch.bool)
        taken[place] = True
        return torch.where(taken, grid, torch.nan)

    def video_share(self) -> Float[Tensor, " head"]:
        """Share of the attention that goes to video tokens, those without a place on the grid included.

        Returns
        -------
        Tensor [head]

        Raises
        ------
        InputError
            The model takes no video.
        """
        return self.weights[:, self._video_tokens()].sum(1)

    def _video_tokens(self) -> Bool[Tensor, " token"]:
        if self.video is None:
            raise InputError("This pattern comes from a model that takes no video, so it has no video tokens.")
        return self.video


@dataclass(frozen=True, eq=False)
class AttentionPatterns:
    """Attention of some heads, one pattern per prompt and example.

    Inputs differ in length, so every pattern has its own tokens; ``values`` is one padded tensor.

    Parameters
    ----------
    patterns
        Indexed [prompt][example].
    heads
        The heads, in the order of the patterns' first axis.
    prompts
        Prompt name to text.
    examples
        Table with columns id, label, group, start, end.
    provenance
        What the patterns were made from.
    skipped
        (id, reason) of examples that could not be read.
    """

    patterns: Sequence[Sequence[AttentionPattern]]
    heads: HeadSet
    prompts: Mapping[str, str]
    examples: pd.DataFrame
    provenance: Provenance
    skipped: Sequence[tuple[str, str]] = ()

    @property
    def lengths(self) -> Int[Tensor, "prompt example"]:
        """Number of real tokens of every input."""
        return torch.tensor([[len(pattern.token_ids) for pattern in row] for row in self.patterns])

    @property
    def values(self) -> Float[Tensor, "prompt example head token"]:
        """All weights in one tensor, from the first real token on, with NaN after the last one."""
        width = int(self.lengths.max())
        values = torch.full((len(self.prompts), len(self.examples), len(self.heads), width), torch.nan)
        for p, row in enumerate(self.patterns):
            for i, pattern in enumerate(row):
                values[p, i, :, : len(pattern.token_ids)] = pattern.weights
        return values

    def to_video(self, prompt: str | None = None) -> list[Float[Tensor, "head frame row column"]]:
        """The attention to video tokens on the token grid, for each example.

        Parameters
        ----------
        prompt
            Name of the prompt; None is the only one.

        Returns
        -------
        list of Tensor [head, frame, row, column]
            See `AttentionPattern.to_video`; clips can differ in the size of their grids.

        Raises
        ------
        InputError
            The model takes no video, the prompt is unknown, or there are several and none is named.
        """
        names = list(self.prompts)
        if prompt is None and len(names) == 1:
            prompt = names[0]
        if prompt not in names:
            raise InputError(f"prompt is {prompt!r}; choose one of {names}.")
        return [pattern.to_video() for pattern in self.patterns[names.index(prompt)]]

    def video_share(self) -> Float[Tensor, "prompt example head"]:
        """Share of the attention that goes to video tokens.

        Returns
        -------
        Tensor [prompt, example, head]

        Raises
        ------
        InputError
            The model takes no video.
        """
        return torch.stack([torch.stack([pattern.video_share() for pattern in row]) for row in self.patterns])
