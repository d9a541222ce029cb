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

import torch

from headprobe.errors import PositionError
from headprobe.models.adapter import TokenInfo
from headprobe.trace.selection import Position, Selection, video_selection

__all__ = ["Position", "TokenInfo", "all", "first", "frame", "index", "last", "per_frame", "span", "video_tokens"]


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
    return Position("video_tokens()", lambda tokens: video_selection(tokens, "video_tokens()"))


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
        video = video_selection(tokens, f"frame({i})")
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
