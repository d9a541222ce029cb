"""Which tokens of the input an activation is read at.

A position selects tokens among the REAL ones; padding never counts. Positions compose with ``|`` and
``&``. A position that selects one token reads it bit for bit; one that selects several must be
pooled with ``.mean()``.

>>> last()
last()
>>> (video_tokens() & frame(0)).mean()
(video_tokens() & frame(0)).mean()
"""

from __future__ import annotations

import builtins
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from headprobe.errors import PositionError
from headprobe.models.adapter import TokenInfo

__all__ = ["Position", "TokenInfo", "all", "first", "frame", "index", "last", "span", "video_tokens"]

Selection = Bool[Tensor, "batch token"]


@dataclass(frozen=True, repr=False, eq=False)
class Position:
    """A rule that selects tokens; made by the functions of this module.

    Parameters
    ----------
    text
        How the position prints; also its identity in provenance.
    rule
        From the tokens of a batch to a selection [batch, token].
    pooled
        Whether several selected tokens are averaged.
    """

    text: str
    rule: Callable[[TokenInfo], Selection]
    pooled: bool = False

    def __repr__(self) -> str:
        return f"{self.text}.mean()" if self.pooled else self.text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Position) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    def _combine(self, other: object, sign: str, rule: Callable[[Tensor, Tensor], Tensor]) -> Position:
        if not isinstance(other, Position):
            return NotImplemented
        if self.pooled or other.pooled:
            raise PositionError(
                f"{self!r} {sign} {other!r}: compose positions first and pool last, as in (a {sign} b).mean()."
            )
        return Position(
            f"({self.text} {sign} {other.text})", lambda tokens: rule(self.rule(tokens), other.rule(tokens))
        )

    def __or__(self, other: Position) -> Position:
        return self._combine(other, "|", torch.logical_or)

    def __and__(self, other: Position) -> Position:
        return self._combine(other, "&", torch.logical_and)

    def mean(self) -> Position:
        """Average the selected tokens instead of requiring exactly one.

        Returns
        -------
        Position

        Examples
        --------
        >>> all().mean()
        all().mean()
        """
        return Position(self.text, self.rule, pooled=True)

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
            An example has no selected token, or several and the position is not pooled.

        Examples
        --------
        >>> mask = torch.tensor([[False, True, True], [True, True, True]])
        >>> last().select(TokenInfo(mask)).int().tolist()
        [[0, 0, 1], [0, 0, 1]]
        """
        selected = self.rule(tokens) & tokens.mask
        counts = selected.sum(1)
        if bool((counts == 0).any()):
            row = int((counts == 0).nonzero()[0])
            raise PositionError(
                f"{self!r} selects no token of example {row} of the batch, "
                f"which has {int(tokens.lengths[row])} real tokens."
            )
        if not self.pooled and bool((counts > 1).any()):
            row = int((counts > 1).nonzero()[0])
            raise PositionError(
                f"{self!r} selects {int(counts[row])} tokens of example {row} of the batch, and one is "
                "needed; "
                f"write {self!r}.mean() to average them."
            )
        return selected

    def reader(self, tokens: TokenInfo) -> Callable[[Tensor], Tensor]:
        """A function that reads values at this position.

        Parameters
        ----------
        tokens
            The tokens of a batch.

        Returns
        -------
        callable
            From [batch, token, feature] to a copy [batch, feature]: the one token exactly, in its dtype; or
            the mean over tokens, taken in float32 (float64 for float64 values).

        Raises
        ------
        PositionError
            As for `select`.

        Examples
        --------
        >>> tokens = TokenInfo(torch.tensor([[False, True, True]]))
        >>> values = torch.tensor([[[9.0], [1.0], [3.0]]])
        >>> last().reader(tokens)(values).tolist(), all().mean().reader(tokens)(values).tolist()
        ([[3.0]], [[2.0]])
        """
        selected = self.select(tokens)
        if not self.pooled:
            chosen = selected.int().argmax(1)
            rows = torch.arange(len(chosen))

            def one(values: Tensor) -> Tensor:
                return values[rows.to(values.device), chosen.to(values.device)]

            return one

        def mean(values: Tensor) -> Tensor:
            exact = torch.float64 if values.dtype == torch.float64 else torch.float32
            weights = selected.to(values.device)[..., None]
            # Some attention backends leave NaN at padding, which a weight of 0 would not remove.
            return torch.where(weights, values.to(exact), 0).sum(1) / weights.sum(1)

        return mean


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


def _video(tokens: TokenInfo, position: str) -> Selection:
    if tokens.video is None:
        raise PositionError(f"{position} needs a model that takes video; these inputs have no video tokens.")
    return tokens.video


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
    return Position("video_tokens()", lambda tokens: _video(tokens, "video_tokens()"))


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
        video = _video(tokens, f"frame({i})")
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
