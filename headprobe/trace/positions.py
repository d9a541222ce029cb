"""Which tokens of the input an activation is read at.

A position selects tokens among the REAL ones; padding never counts. Positions compose with ``|``, ``&`` and
``~``. A position that selects one token reads it bit for bit; one that selects several says what becomes of
them: ``.mean()`` averages, ``.each()`` gives every token a row of its own, ``.per_frame()`` averages the video
tokens of every step of the clip.

>>> last()
last()
>>> (video_tokens() & frame(0)).mean()
(video_tokens() & frame(0)).mean()
>>> per_frame()
video_tokens().per_frame()
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headprobe.errors import PositionError
from headprobe.models.adapter import TokenInfo

__all__ = ["Position", "TokenInfo", "all", "first", "frame", "index", "last", "per_frame", "span", "video_tokens"]


@dataclass(frozen=True, eq=False)
class _Rows:
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
    def of_tokens(cls, selected: Bool[Tensor, "batch token"], tokens: TokenInfo, several: bool = True) -> _Rows:
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
    def of_examples(cls, selected: Bool[Tensor, "batch token"], tokens: TokenInfo) -> _Rows:
        """One row for every example, the mean of its selected tokens."""
        return cls._pooled(torch.arange(len(selected), device=selected.device), selected, tokens)

    @classmethod
    def of_steps(cls, selected: Bool[Tensor, "batch token"], tokens: TokenInfo) -> _Rows:
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
    ) -> _Rows:
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


def _read_together(several: Sequence[_Rows]) -> Callable[[Tensor], Tensor]:
    """A function that reads the rows of several positions, one position after another."""
    readers = [rows.reader() for rows in several]
    if len(readers) == 1:
        return readers[0]
    return lambda values: torch.cat([reader(values) for reader in readers])


@dataclass(frozen=True, eq=False)
class _RowPart:
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

    def moved(self, examples: int, columns: int) -> _RowPart:
        """The same tokens in a batch in which they stand further down or to the right."""
        return replace(self, example=self.example + examples, column=self.column + columns)

    def nothing(self, like: Tensor) -> Tensor:
        """What `take` gives where no token lies in this part."""
        return torch.zeros_like(like) if self.pooled else like[:0]

    def same(self, other: _RowPart) -> bool:
        """Whether two parts are the same tokens."""
        return (self.n_rows, self.pooled) == (other.n_rows, other.pooled) and builtins.all(
            torch.equal(getattr(self, name), getattr(other, name)) for name in ("row", "example", "column")
        )


def _split(rows: _Rows, width: int) -> tuple[_RowPart, _RowPart]:
    """The tokens of rows before a column and from it on."""
    inside = torch.arange(rows.columns.shape[1]) < rows.count[:, None]
    row, member = inside.nonzero(as_tuple=True)
    column, example = rows.columns[row, member], rows.example[row]
    early = column < width
    parts = []
    for keep, offset in ((early, 0), (~early, width)):
        parts.append(_RowPart(row[keep], example[keep], column[keep] - offset, len(rows), rows.pooled))
    return parts[0], parts[1]


def _join(
    rows: _Rows,
    halves: tuple[_RowPart, _RowPart],
    before: Float[Tensor, "row feature"],
    own: Float[Tensor, "row feature"],
) -> Float[Tensor, "row feature"]:
    """The values of rows from what was read of their parts."""
    if rows.pooled:
        return (before + own.to(before.device)) / rows.count.to(before.device)[:, None]
    joined = torch.cat([before, own.to(before.device)])
    order = torch.cat([halves[0].row, halves[1].row]).argsort()
    return joined[order.to(joined.device)]


Selection = Bool[Tensor, "batch token"]
Pooling = Literal["one", "mean", "each", "per_frame"]


@dataclass(frozen=True, repr=False, eq=False)
class Position:
    """A rule that selects tokens; made by the functions of `headprobe.positions`.

    Parameters
    ----------
    text
        How the position prints; also its identity in provenance.
    rule
        From the tokens of a batch to a selection [batch, token].
    pooling
        What becomes a row: ``one`` selected token per example, the ``mean`` of the selected tokens of an
        example, ``each`` selected token, or the mean of the selected video tokens ``per_frame``.
    """

    text: str
    rule: Callable[[TokenInfo], Selection]
    pooling: Pooling = "one"

    def __repr__(self) -> str:
        return f"{self.text}.{self.pooling}()" if self.pooled else self.text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Position) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    @property
    def pooled(self) -> bool:
        """Whether it says what becomes of several selected tokens."""
        return self.pooling != "one"

    @property
    def averages(self) -> bool:
        """Whether a row is a mean over tokens."""
        return self.pooling in ("mean", "per_frame")

    @property
    def several(self) -> bool:
        """Whether an example can have several rows."""
        return self.pooling in ("each", "per_frame")

    def _combine(self, other: object, sign: str, rule: Callable[[Tensor, Tensor], Tensor]) -> Position:
        if not isinstance(other, Position):
            return NotImplemented
        if self.pooled or other.pooled:
            pooling = self.pooling if self.pooled else other.pooling
            raise PositionError(
                f"{self!r} {sign} {other!r}: compose positions first and pool last, as in (a {sign} b).{pooling}()."
            )
        return Position(
            f"({self.text} {sign} {other.text})", lambda tokens: rule(self.rule(tokens), other.rule(tokens))
        )

    def __or__(self, other: Position) -> Position:
        return self._combine(other, "|", torch.logical_or)

    def __and__(self, other: Position) -> Position:
        return self._combine(other, "&", torch.logical_and)

    def __invert__(self) -> Position:
        if self.pooled:
            raise PositionError(f"~{self!r}: compose positions first and pool last, as in (~a).{self.pooling}().")
        return Position(f"(~{self.text})", lambda tokens: ~self.rule(tokens))

    def _pool(self, pooling: Pooling) -> Position:
        if self.pooling not in ("one", pooling):
            raise PositionError(
                f"{self!r} is pooled already; write {self.text}.{pooling}() for .{pooling}() instead of "
                f".{self.pooling}()."
            )
        return Position(self.text, self.rule, pooling)

    def mean(self) -> Position:
        """Average the selected tokens instead of requiring exactly one.

        Returns
        -------
        Position

        Examples
        --------
        >>> from headprobe import positions
        >>> positions.all().mean()
        all().mean()
        """
        return self._pool("mean")

    def each(self) -> Position:
        """Give every selected token a row of its own.

        Returns
        -------
        Position

        Examples
        --------
        >>> from headprobe import positions
        >>> mask = torch.tensor([[False, True, True]])
        >>> positions.all().each()._rows(TokenInfo(mask)).first.tolist()
        [0, 1]
        """
        return self._pool("each")

    def per_frame(self) -> Position:
        """Average the selected video tokens of every step of the clip, one row per step.

        A step is what one token covers in time: one sampled frame, or several where the model merges them (two
        in Qwen2-VL). A row per sampled frame would repeat rows there, and statistics would count each twice.
        Selected tokens of the text are left out, and so are steps without a selected token.

        Returns
        -------
        Position

        Examples
        --------
        >>> from headprobe import positions
        >>> (positions.video_tokens() & positions.span(0, 9)).per_frame()
        (video_tokens() & span(0, 9)).per_frame()
        """
        return self._pool("per_frame")

    def select(self, tokens: TokenInfo) -> Selection:
        """The selected tokens of every example.

        Parameters
        ----------
        tokens
            The tokens of a batch.

        Returns
        -------
        Tensor [batch, token]
            True where selected.

        Raises
        ------
        PositionError
            An example has no selected token, or several and the position does not say what becomes of them.

        Examples
        --------
        >>> from headprobe import positions
        >>> mask = torch.tensor([[False, True, True], [True, True, True]])
        >>> positions.last().select(TokenInfo(mask)).int().tolist()
        [[0, 0, 1], [0, 0, 1]]
        """
        selected = self.rule(tokens) & tokens.mask
        video = ""
        if self.pooling == "per_frame":
            selected, video = selected & _video_selection(tokens, repr(self)), "video "
        counts = selected.sum(1)
        if bool((counts == 0).any()):
            row = int((counts == 0).nonzero()[0])
            raise PositionError(
                f"{self!r} selects no {video}token of example {row} of the batch, "
                f"which has {int(tokens.lengths[row])} real tokens."
            )
        if not self.pooled and bool((counts > 1).any()):
            row = int((counts > 1).nonzero()[0])
            raise PositionError(
                f"{self!r} selects {int(counts[row])} tokens of example {row} of the batch, and one is needed; "
                f"write {self!r}.mean() to average them, or {self!r}.each() for a row each."
            )
        return selected

    def _rows(self, tokens: TokenInfo) -> _Rows:
        """The rows that this position makes of a batch."""
        selected = self.select(tokens)
        if self.pooling == "mean":
            return _Rows.of_examples(selected, tokens)
        if self.pooling == "per_frame":
            return _Rows.of_steps(selected, tokens)
        return _Rows.of_tokens(selected, tokens, several=self.several)

    def _reader(self, tokens: TokenInfo) -> Callable[[Tensor], Tensor]:
        """From `[batch, token, feature]` to a copy `[row, feature]` at this position; as `_Rows.reader`."""
        return self._rows(tokens).reader()


def _video_selection(tokens: TokenInfo, position: str) -> Selection:
    """The video tokens of a batch."""
    if tokens.video is None:
        raise PositionError(f"{position} needs a model that takes video; these inputs have no video tokens.")
    return tokens.video


def last() -> Position:
    """The last real token: in a decoder, where the first generated token is predicted.

    Returns
    -------
    Position

    Examples
    --------
    >>> last().mean() == last()
    False
    """
    return Position("last()", lambda tokens: tokens.rank == (tokens.lengths - 1)[:, None])


def first() -> Position:
    """The first real token, for example BERT's [CLS].

    Returns
    -------
    Position

    Examples
    --------
    >>> mask = torch.tensor([[False, True, True]])
    >>> first().select(TokenInfo(mask)).int().tolist()
    [[0, 1, 0]]
    """
    return Position("first()", lambda tokens: tokens.rank == 0)


def index(i: int) -> Position:
    """The i-th real token.

    Parameters
    ----------
    i
        From 0; negative values count from the last real token.

    Returns
    -------
    Position

    Raises
    ------
    PositionError
        When read: an example has too few real tokens.

    Examples
    --------
    >>> mask = torch.tensor([[False, True, True]])
    >>> index(-2).select(TokenInfo(mask)).int().tolist()
    [[0, 1, 0]]
    """

    def rule(tokens: TokenInfo) -> Selection:
        target = i if i >= 0 else tokens.lengths + i
        wanted = torch.as_tensor(target, device=tokens.mask.device).expand(tokens.mask.shape[0])
        outside = (wanted < 0) | (wanted >= tokens.lengths)
        if bool(outside.any()):
            row = int(outside.nonzero()[0])
            raise PositionError(
                f"index({i}) lies outside example {row} of the batch, which has {int(tokens.lengths[row])} real tokens."
            )
        return tokens.rank == wanted[:, None]

    return Position(f"index({i})", rule)


def span(start: int | None, stop: int | None) -> Position:
    """Real tokens from start to stop, with the meaning of a Python slice.

    Parameters
    ----------
    start
        First token; negative values count from the end, None is the beginning.
    stop
        One past the last token; negative values count from the end, None is the end.

    Returns
    -------
    Position

    Examples
    --------
    >>> mask = torch.tensor([[False, True, True, True]])
    >>> span(-2, None).mean().select(TokenInfo(mask)).int().tolist()
    [[0, 0, 1, 1]]
    """

    def rule(tokens: TokenInfo) -> Selection:
        bounds = [slice(start, stop).indices(int(length)) for length in tokens.lengths]
        low = torch.tensor([bound[0] for bound in bounds], device=tokens.mask.device)[:, None]
        high = torch.tensor([bound[1] for bound in bounds], device=tokens.mask.device)[:, None]
        return (tokens.rank >= low) & (tokens.rank < high)

    return Position(f"span({start}, {stop})", rule)


def all() -> Position:
    """Every real token.

    Returns
    -------
    Position

    Examples
    --------
    >>> mask = torch.tensor([[False, True, True]])
    >>> all().mean().select(TokenInfo(mask)).int().tolist()
    [[0, 1, 1]]
    """
    return Position("all()", lambda tokens: tokens.mask)


def video_tokens() -> Position:
    """Every video token.

    Returns
    -------
    Position

    Raises
    ------
    PositionError
        When read: the inputs have no video tokens.

    Examples
    --------
    >>> video_tokens().mean()
    video_tokens().mean()
    """
    return Position("video_tokens()", lambda tokens: _video_selection(tokens, "video_tokens()"))


def frame(i: int) -> Position:
    """Video tokens that cover one sampled frame.

    Parameters
    ----------
    i
        Index of the sampled frame, from 0; negative values count from the last one. A token that covers
        two frames belongs to both.

    Returns
    -------
    Position

    Raises
    ------
    PositionError
        When read: the inputs have no video tokens, or a clip has too few frames.

    Examples
    --------
    >>> frame(0).mean()
    frame(0).mean()
    """

    def rule(tokens: TokenInfo) -> Selection:
        video = _video_selection(tokens, f"frame({i})")
        assert tokens.frame is not None
        step = tokens.frames_per_token
        n_frames = torch.where(video, tokens.frame, -step).amax(1) + step
        wanted = torch.full_like(n_frames, i) if i >= 0 else n_frames + i
        outside = (wanted < 0) | (wanted >= n_frames)
        if builtins.any(outside.tolist()):
            row = int(outside.nonzero()[0])
            raise PositionError(
                f"frame({i}) lies outside example {row} of the batch, whose clip has {int(n_frames[row])} frames."
            )
        start = tokens.frame
        return video & (start <= wanted[:, None]) & (wanted[:, None] < start + step)

    return Position(f"frame({i})", rule)


def per_frame() -> Position:
    """The mean over the video tokens of every step of the clip, short for ``video_tokens().per_frame()``.

    Returns
    -------
    Position
        One row per step; see `Position.per_frame` for what a step is.

    Examples
    --------
    >>> frames = torch.tensor([[0, 0, 2, 2, -1]])
    >>> tokens = TokenInfo(frames >= -1, frames >= 0, frames, frames_per_token=2)
    >>> per_frame()._rows(tokens).frame.tolist()
    [0, 2]
    """
    return video_tokens().per_frame()
