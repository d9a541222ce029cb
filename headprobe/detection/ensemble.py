"""Two methods as one, frame by frame: their mean, or weighted by how much the finer one varies."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Generic, Self, TypeVar

import numpy as np

from headprobe._validation import number
from headprobe.detection.method import Calibration, Method, Needs, SegmentScores, VideoView, fingerprint
from headprobe.detection.steps import _level
from headprobe.errors import InputError

__all__ = ["VarianceEnsemble"]

M = TypeVar("M", bound=Method)
_LEVEL = 1e-8  # the reference's, which keeps roundings of equal scores from counting as variance


class VarianceEnsemble(Generic[M]):
    """The mean of a coarse and a fine method, leaning to one of them where the fine scores vary (VADTree).

    The weight of a coarse segment is .5 - `beta` v / 2, and the fine ones in it have the rest, where v is the variance
    of the scores of the fine segments whose middle it holds, scaled from 0 to 1 within the video. A frame is unread
    where either of its two scores is. VADTree chose `beta` on its test videos, .2 for UCF-Crime and -.4 for MSAD;
    0, the plain mean, did as well (`analyses/published_systems`).

    Parameters
    ----------
    coarse, fine
        Methods whose scores have one unit. They need the same, or one of them needs nothing.
    beta
        From -1 (the coarse scores alone where the fine ones vary most) to 1 (the fine ones).
    name
        Its row.

    Raises
    ------
    InputError
        The two methods need different things, or `beta` is out of range.

    Examples
    --------
    >>> from headprobe.detection.blind import ScoreFile
    >>> coarse, fine = ScoreFile({"a": [0.4] * 4}, "coarse"), ScoreFile({"a": [0.0, 0.0, 0.8, 0.8]}, "fine")
    >>> both = VarianceEnsemble(coarse, fine)
    >>> found = both.score(VideoView("a", 4, 10.0))
    >>> found.spans, found.scores.round(3).tolist()
    ([(0, 2), (2, 4)], [0.2, 0.6])
    """

    def __init__(self, coarse: M, fine: M, beta: float = 0.0, name: str = "mean of two granularities") -> None:
        number(beta, "beta", least=-1, most=1)
        needs: list[Needs] = [one.needs for one in (coarse, fine) if one.needs != "nothing"]
        if len(set(needs)) > 1:
            raise InputError(
                f"{coarse.name!r} needs {coarse.needs} and {fine.name!r} needs {fine.needs}; give two methods that "
                "need the same, or one that needs nothing."
            )
        self.coarse: M = coarse
        self.fine: M = fine
        self.beta, self.name = beta, name
        self.needs: Needs = needs[0] if needs else "nothing"
        self.causal = bool(coarse.causal and fine.causal and not beta)

    @property
    def fingerprint(self) -> str:
        """Of both methods and the weight."""
        return fingerprint("variance ensemble", self.coarse.fingerprint, self.fine.fingerprint, self.beta)

    def prepare(self, videos: Sequence[VideoView], folder: Path | None = None) -> None:
        """Have the two methods do what they do once for all videos.

        Parameters
        ----------
        videos
            All videos of the benchmark.
        folder
            Where they may keep something.
        """
        for one in (self.coarse, self.fine):
            own = getattr(one, "prepare", None)
            if own is not None:
                own(videos, folder)

    def fit(self, calibration: Calibration) -> Self:
        """Fit the two methods.

        Parameters
        ----------
        calibration
            Videos, with what the methods need to know of them.

        Returns
        -------
        VarianceEnsemble
            Itself.
        """
        untold = Calibration([], "nothing")
        for part in ("coarse", "fine"):
            one = copy.copy(getattr(self, part))
            setattr(self, part, one.fit(untold if one.needs == "nothing" else calibration))
        return self

    def score(self, video: VideoView) -> SegmentScores:
        """Score by both, and put the scores together between all borders of either.

        Parameters
        ----------
        video
            What can be seen of it.

        Returns
        -------
        SegmentScores
            With what was said of the fine segments.
        """
        coarse, fine = self.coarse.score(video), self.fine.score(video)
        spread = _variances(coarse, fine)
        weights = 0.5 - self.beta * (spread - spread.min()) / (np.ptp(spread) + _LEVEL) / 2
        spans = list(pairwise(sorted({edge for found in (coarse, fine) for span in found.spans for edge in span})))
        in_coarse, in_fine = (_holding(found, [first for first, _ in spans]) for found in (coarse, fine))
        weight = weights[in_coarse]
        pairs = [(coarse.windows[i], fine.windows[j]) for i, j in zip(in_coarse, in_fine, strict=True)]
        return SegmentScores(
            spans,
            _level(weight * coarse.scores[in_coarse] + (1 - weight) * fine.scores[in_fine]),
            [(min(a[0], b[0]), max(a[1], b[1])) for a, b in pairs],
            [str(fine.texts[i]) for i in in_fine] if fine.texts else (),
            coarse.seconds + fine.seconds,
            coarse.calls + fine.calls,
        )

    def rows(self) -> list[Method]:
        """The coarse and the fine method, their plain mean, and itself where it is not that.

        Returns
        -------
        list of Method

        Examples
        --------
        >>> from headprobe.detection.blind import Position
        >>> both = VarianceEnsemble(Position(3.2, "coarse"), Position(1.6, "fine"), beta=0.2, name="leaning")
        >>> [row.name for row in both.rows()]
        ['coarse', 'fine', 'leaning, plain mean', 'leaning']
        """
        if not self.beta:
            return [self.coarse, self.fine, self]
        return [
            self.coarse,
            self.fine,
            VarianceEnsemble(self.coarse, self.fine, 0.0, f"{self.name}, plain mean"),
            self,
        ]


def _holding(found: SegmentScores, frames: Sequence[int]) -> np.ndarray:
    """Numbers of the segments that hold these frames."""
    return np.searchsorted([start for start, _ in found.spans], frames, side="right") - 1


def _variances(coarse: SegmentScores, fine: SegmentScores) -> np.ndarray:
    """Of the read fine scores within each coarse segment; 0 where there is none."""
    inside = _holding(coarse, [(first + end - 1) // 2 for first, end in fine.spans])
    there = ~np.isnan(fine.scores)
    parts = [fine.scores[(inside == i) & there] for i in range(len(coarse.spans))]
    return np.array([part.var() if len(part) else 0.0 for part in parts])
