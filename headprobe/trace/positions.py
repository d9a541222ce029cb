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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from headprobe.errors import PositionError
from headprobe.models.adapter import TokenInfo
from headprobe.trace._rows import Rows

__all__ = ["Position", "TokenInfo", "all", "first", "frame", "index", "last", "per_frame", "span", "video_tokens"]


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
        >>> positions.all().each().rows(TokenInfo(mask)).first.tolist()
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

    def rows(self, tokens: TokenInfo) -> Rows:
        """The rows that this position makes of a batch.

        Parameters
        ----------
        tokens
            The tokens of the batch.

        Returns
        -------
        Rows

        Raises
        ------
        PositionError
            As for `select`.

        Examples
        --------
        >>> from headprobe import positions
        >>> mask = torch.tensor([[False, True, True], [True, True, True]])
        >>> positions.all().mean().rows(TokenInfo(mask)).count.tolist()
        [2, 3]
        """
        selected = self.select(tokens)
        if self.pooling == "mean":
            return Rows.of_examples(selected, tokens)
        if self.pooling == "per_frame":
            return Rows.of_steps(selected, tokens)
        return Rows.of_tokens(selected, tokens, several=self.several)

    def reader(self, tokens: TokenInfo) -> Callable[[Tensor], Tensor]:
        """A function that reads values at this position.

        Parameters
        ----------
        tokens
            The tokens of a batch.

        Returns
        -------
        callable
            From [batch, token, feature] to a copy [row, feature], as `Rows.reader`; without ``.each()`` and
            ``.per_frame()`` the rows are the examples.

        Raises
        ------
        PositionError
            As for `select`.

        Examples
        --------
        >>> from headprobe import positions
        >>> tokens = TokenInfo(torch.tensor([[False, True, True]]))
        >>> values = torch.tensor([[[9.0], [1.0], [3.0]]])
        >>> [p.reader(tokens)(values).tolist() for p in (positions.last(), positions.all().mean())]
        [[[3.0]], [[2.0]]]
        """
        return self.rows(tokens).reader()


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
    >>> per_frame().rows(tokens).frame.tolist()
    [0, 2]
    """
    return video_tokens().per_frame()
