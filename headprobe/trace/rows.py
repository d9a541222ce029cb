"""Rows: which tokens of a batch every row of a reading is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from headprobe.models.adapter import TokenInfo

__all__ = ["Rows", "read_together"]


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows that a position makes of the tokens of a batch.

    Parameters
    ----------
    example
        Index of the example in the batch, ascending, [row].
    columns
        Columns in the batch of the tokens of a row, ascending, [row, member]; from ``count`` on the first is
        repeated.
    count
        Number of tokens of a row, [row].
    first, last
        Index of a row's first and last token among the real tokens of its example, [row].
    n_tokens
        Number of real tokens of the row's example, [row].
    pooled
        Whether a row is the mean of its tokens; otherwise it is its only token.
    several
        Whether an example has a row for each of its tokens or steps, even if that is one row.
    frame
        First sampled frame that the row covers, [row]; None unless rows are steps of a clip.
    frames_per_row
        Number of sampled frames that a row covers where rows are steps of a clip.

    Examples
    --------
    >>> mask = torch.tensor([[False, True, True], [True, True, True]])
    >>> rows = Rows.of_tokens(mask, TokenInfo(mask))
    >>> rows.example.tolist(), rows.first.tolist(), rows.n_tokens.tolist()
    ([0, 0, 1, 1, 1], [0, 1, 0, 1, 2], [2, 2, 3, 3, 3])
    """

    example: Int[Tensor, " row"]
    columns: Int[Tensor, "row member"]
    count: Int[Tensor, " row"]
    first: Int[Tensor, " row"]
    last: Int[Tensor, " row"]
    n_tokens: Int[Tensor, " row"]
    pooled: bool = False
    several: bool = False
    frame: Int[Tensor, " row"] | None = None
    frames_per_row: int = 1

    def __len__(self) -> int:
        return len(self.example)

    @classmethod
    def of_tokens(cls, selected: Bool[Tensor, "batch token"], tokens: TokenInfo, several: bool = True) -> Rows:
        """A row for every selected token.

        Parameters
        ----------
        selected
            The selected tokens, [batch, token].
        tokens
            The tokens of the batch.
        several
            Whether an example may have more than one row.

        Returns
        -------
        Rows
        """
        example, column = selected.nonzero(as_tuple=True)
        index = tokens.rank[example, column]
        return cls(
            example=example,
            columns=column[:, None],
            count=torch.ones_like(example),
            first=index,
            last=index,
            n_tokens=tokens.lengths[example],
            several=several,
        )

    @classmethod
    def of_examples(cls, selected: Bool[Tensor, "batch token"], tokens: TokenInfo) -> Rows:
        """One row for every example, the mean of its selected tokens.

        Parameters
        ----------
        selected
            The selected tokens, at least one of every example, [batch, token].
        tokens
            The tokens of the batch.

        Returns
        -------
        Rows
        """
        return cls._pooled(torch.arange(len(selected), device=selected.device), selected, tokens)

    @classmethod
    def of_steps(cls, selected: Bool[Tensor, "batch token"], tokens: TokenInfo) -> Rows:
        """A row for every step of a clip's token grid that has a selected token: the mean of those.

        Parameters
        ----------
        selected
            The selected video tokens, [batch, token].
        tokens
            The tokens of the batch; ``frame`` says which step a token belongs to.

        Returns
        -------
        Rows

        Examples
        --------
        >>> frame = torch.tensor([[-1, 0, 0, 2, 2]])
        >>> tokens = TokenInfo(frame >= -1, frame >= 0, frame, frames_per_token=2)
        >>> rows = Rows.of_steps(frame >= 0, tokens)
        >>> rows.frame.tolist(), rows.count.tolist(), rows.first.tolist()
        ([0, 2], [2, 2], [1, 3])
        """
        assert tokens.frame is not None
        example, column = selected.nonzero(as_tuple=True)
        steps = torch.unique(torch.stack([example, tokens.frame[example, column]], 1), dim=0)
        example, frame = steps[:, 0], steps[:, 1]
        members = selected[example] & (tokens.frame[example] == frame[:, None])
        return cls._pooled(example, members, tokens, True, frame, tokens.frames_per_token)

    @classmethod
    def _pooled(
        cls,
        example: Int[Tensor, " row"],
        members: Bool[Tensor, "row token"],
        tokens: TokenInfo,
        several: bool = False,
        frame: Tensor | None = None,
        frames_per_row: int = 1,
    ) -> Rows:
        count = members.sum(1)
        # A stable sort puts the columns of a row's tokens in front, in their order.
        columns = (~members).int().argsort(dim=1, stable=True)[:, : int(count.max())]
        columns = torch.where(_inside(columns, count), columns, columns[:, :1])
        index = tokens.rank[example[:, None], columns]
        return cls(
            example=example,
            columns=columns,
            count=count,
            first=index[:, 0],
            last=index.amax(1),
            n_tokens=tokens.lengths[example],
            pooled=True,
            several=several,
            frame=frame,
            frames_per_row=frames_per_row,
        )

    def reader(self) -> Callable[[Tensor], Tensor]:
        """A function that reads these rows from values of the batch.

        Returns
        -------
        callable
            From [batch, token, feature] to a copy [row, feature]: a row's only token exactly, in its dtype; or
            the mean over its tokens, taken in float32 (float64 for float64 values).

        Examples
        --------
        >>> mask = torch.tensor([[False, True, True]])
        >>> values = torch.tensor([[[9.0], [1.0], [3.0]]])
        >>> Rows.of_tokens(mask, TokenInfo(mask)).reader()(values).tolist()
        [[1.0], [3.0]]
        """
        placed: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = {}

        def indices(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
            if device not in placed:  # a reader is used once per layer
                placed[device] = (self.example.to(device), self.columns.to(device), self.count.to(device))
            return placed[device]

        def token(values: Tensor) -> Tensor:
            example, columns, _ = indices(values.device)
            return values[example, columns[:, 0]]

        def mean(values: Tensor) -> Tensor:
            example, columns, count = indices(values.device)
            exact = torch.float64 if values.dtype == torch.float64 else torch.float32
            # Only selected tokens are gathered: some attention backends leave NaN at padding.
            members = values[example[:, None], columns].to(exact)
            return members.masked_fill_(~_inside(columns, count)[..., None], 0).sum(1) / count[:, None]

        return mean if self.pooled else token


def _inside(columns: Int[Tensor, "row member"], count: Int[Tensor, " row"]) -> Bool[Tensor, "row member"]:
    return torch.arange(columns.shape[1], device=columns.device) < count[:, None]


def read_together(several: Sequence[Rows]) -> Callable[[Tensor], Tensor]:
    """A function that reads the rows of several positions, one position after another.

    Parameters
    ----------
    several
        The rows of each position, of one batch.

    Returns
    -------
    callable
        From [batch, token, feature] to [row, feature]; if the positions give different dtypes, in the widest.

    Examples
    --------
    >>> mask = torch.tensor([[True, True]])
    >>> tokens = TokenInfo(mask)
    >>> read = read_together([Rows.of_tokens(mask, tokens), Rows.of_examples(mask, tokens)])
    >>> read(torch.tensor([[[1.0], [3.0]]])).tolist()
    [[1.0], [3.0], [2.0]]
    """
    readers = [rows.reader() for rows in several]
    if len(readers) == 1:
        return readers[0]
    return lambda values: torch.cat([reader(values) for reader in readers])
