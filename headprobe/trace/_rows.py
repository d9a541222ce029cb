"""Rows: which tokens of a batch every row of a reading is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headprobe.models.adapter import TokenInfo


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows that a position makes of the tokens of a batch."""

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
        """A row for every selected token."""
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
        """One row for every example, the mean of its selected tokens."""
        return cls._pooled(torch.arange(len(selected), device=selected.device), selected, tokens)

    @classmethod
    def of_steps(cls, selected: Bool[Tensor, "batch token"], tokens: TokenInfo) -> Rows:
        """A row for every step of a clip's token grid that has a selected token: the mean of those."""
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
        """A function that reads these rows from values of the batch."""
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
    """A function that reads the rows of several positions, one position after another."""
    readers = [rows.reader() for rows in several]
    if len(readers) == 1:
        return readers[0]
    return lambda values: torch.cat([reader(values) for reader in readers])


@dataclass(frozen=True, eq=False)
class RowPart:
    """Tokens of rows that lie in one part of the inputs."""

    row: Int[Tensor, " token"]
    example: Int[Tensor, " token"]
    column: Int[Tensor, " token"]
    n_rows: int
    pooled: bool

    def take(self, values: Float[Tensor, "batch token feature"]) -> Float[Tensor, "row feature"]:
        """Copies of the tokens; of pooled rows their sum, in float32 at least."""
        row, example, column = (index.to(values.device) for index in (self.row, self.example, self.column))
        tokens = values[example, column]
        if not self.pooled:
            return tokens
        exact = torch.float64 if values.dtype == torch.float64 else torch.float32
        total = tokens.new_zeros((self.n_rows, values.shape[-1]), dtype=exact)
        return total.index_add_(0, row, tokens.to(exact))

    def moved(self, examples: int, columns: int) -> RowPart:
        """The same tokens in a batch in which they stand further down or to the right."""
        return replace(self, example=self.example + examples, column=self.column + columns)

    def nothing(self, like: Tensor) -> Tensor:
        """What `take` gives where no token lies in this part."""
        return torch.zeros_like(like) if self.pooled else like[:0]

    def same(self, other: RowPart) -> bool:
        """Whether two parts are the same tokens."""
        return (self.n_rows, self.pooled) == (other.n_rows, other.pooled) and all(
            torch.equal(getattr(self, name), getattr(other, name)) for name in ("row", "example", "column")
        )


def split(rows: Rows, width: int) -> tuple[RowPart, RowPart]:
    """The tokens of rows before a column and from it on."""
    inside = torch.arange(rows.columns.shape[1]) < rows.count[:, None]
    row, member = inside.nonzero(as_tuple=True)
    column, example = rows.columns[row, member], rows.example[row]
    early = column < width
    parts = []
    for keep, offset in ((early, 0), (~early, width)):
        parts.append(RowPart(row[keep], example[keep], column[keep] - offset, len(rows), rows.pooled))
    return parts[0], parts[1]


def join(
    rows: Rows, halves: tuple[RowPart, RowPart], before: Float[Tensor, "row feature"], own: Float[Tensor, "row feature"]
) -> Float[Tensor, "row feature"]:
    """The values of rows from what was read of their parts."""
    if rows.pooled:
        return (before + own.to(before.device)) / rows.count.to(before.device)[:, None]
    joined = torch.cat([before, own.to(before.device)])
    order = torch.cat([halves[0].row, halves[1].row]).argsort()
    return joined[order.to(joined.device)]
