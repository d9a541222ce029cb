"""Parts of rows: the tokens of rows that lie before and after a column, read apart and put together."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headprobe.trace.rows import Rows

__all__ = ["RowPart", "join", "split"]


@dataclass(frozen=True, eq=False)
class RowPart:
    """Tokens of rows that lie in one part of the inputs.

    Parameters
    ----------
    row
        The row that a token belongs to, [token].
    example
        Its example in the batch, [token].
    column
        Its column within the part, [token].
    n_rows
        Number of rows of the whole.
    pooled
        Whether a row is the mean of its tokens; otherwise it is its only token.

    Examples
    --------
    >>> from headprobe.models.adapter import TokenInfo
    >>> from headprobe.trace.rows import Rows
    >>> mask = torch.tensor([[True, True, True]])
    >>> rows, values = Rows.of_examples(mask, TokenInfo(mask)), torch.tensor([[[1.0], [2.0], [6.0]]])
    >>> early, late = split(rows, 2)
    >>> join(rows, (early, late), early.take(values[:, :2]), late.take(values[:, 2:])).tolist()
    [[3.0]]
    """

    row: Int[Tensor, " token"]
    example: Int[Tensor, " token"]
    column: Int[Tensor, " token"]
    n_rows: int
    pooled: bool

    def take(self, values: Float[Tensor, "batch token feature"]) -> Float[Tensor, "row feature"]:
        """Copies of the tokens; of pooled rows their sum, in float32 at least.

        Parameters
        ----------
        values
            Values `[batch, token, feature]` of this part.

        Returns
        -------
        Tensor
            `[row, feature]`.
        """
        row, example, column = (index.to(values.device) for index in (self.row, self.example, self.column))
        tokens = values[example, column]
        if not self.pooled:
            return tokens
        exact = torch.float64 if values.dtype == torch.float64 else torch.float32
        total = tokens.new_zeros((self.n_rows, values.shape[-1]), dtype=exact)
        return total.index_add_(0, row, tokens.to(exact))

    def moved(self, examples: int, columns: int) -> RowPart:
        """The same tokens in a batch in which they stand further down or to the right.

        Parameters
        ----------
        examples, columns
            By how much.

        Returns
        -------
        RowPart
        """
        return replace(self, example=self.example + examples, column=self.column + columns)

    def nothing(self, like: Tensor) -> Tensor:
        """What `take` gives where no token lies in this part.

        Parameters
        ----------
        like
            Values `[batch, token, feature]`, for the type and the device.

        Returns
        -------
        Tensor
            `[row, feature]`.
        """
        return torch.zeros_like(like) if self.pooled else like[:0]

    def same(self, other: RowPart) -> bool:
        """Whether two parts are the same tokens.

        Parameters
        ----------
        other
            Another part.

        Returns
        -------
        bool
        """
        return (self.n_rows, self.pooled) == (other.n_rows, other.pooled) and all(
            torch.equal(getattr(self, name), getattr(other, name)) for name in ("row", "example", "column")
        )


def split(rows: Rows, width: int) -> tuple[RowPart, RowPart]:
    """The tokens of rows before a column and from it on.

    Parameters
    ----------
    rows
        The rows, by columns of the whole.
    width
        First column of the second part.

    Returns
    -------
    (RowPart, RowPart)
        By the columns of each part.
    """
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
    """The values of rows from what was read of their parts.

    Parameters
    ----------
    rows
        The rows.
    halves
        Their parts.
    before, own
        What `RowPart.take` gave of each part.

    Returns
    -------
    Tensor [row, feature]
    """
    if rows.pooled:
        return (before + own.to(before.device)) / rows.count.to(before.device)[:, None]
    joined = torch.cat([before, own.to(before.device)])
    order = torch.cat([halves[0].row, halves[1].row]).argsort()
    return joined[order.to(joined.device)]
