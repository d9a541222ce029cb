"""VAD-LLaMA's context: what came before a clip, recent and long ago, as features beside its own."""

from __future__ import annotations

import copy
import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from sklearn.model_selection import StratifiedGroupKFold

from headprobe._validation import choice, count, number
from headprobe.baselines.answers import AnswerReader, text_answers
from headprobe.detection.composed import Composed, FixedSegments, Reader, Reading, Segmenter
from headprobe.detection.method import NEEDS, Calibration, Needs, VideoView, fingerprint
from headprobe.errors import InputError
from headprobe.probing.probe import HeadProbe
from headprobe.video.clips import Segment

if TYPE_CHECKING:
    from headprobe.models.model import Model

__all__ = ["ContextMemory", "ContextReader", "vad_llama"]


class ContextMemory:
    """What a clip is like that came before: of long ago the surest clips, and the last few.

    Long ago are the clips with the highest probability of being abnormal among those at or above the threshold, and
    those with the lowest among the others. Both memories are read as the sum of their clips' directions u, each times
    its cosine with the clip, `sum_u cos(x, u) u`; the recent one holds the clip itself. Clips to come are never read.

    Parameters
    ----------
    top
        Clips of each kind that are remembered for long.
    recent
        Clips before the current one in the recent memory.
    threshold
        Probability from which on a clip counts as abnormal.
    compatible
        As the reference, which, once `top` clips are there, reads those that are surer than the last of them.

    References
    ----------
    Lv and Sun, "Video Anomaly Detection and Explanation via Large Language Models" (arXiv 2401.05702).

    Examples
    --------
    >>> memory = ContextMemory(recent=1)
    >>> memory([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]], [0.1, 0.9, 0.2])[2].tolist()  # itself, long ago, recent
    [[3.0, 0.0], [1.0, 0.0], [1.0, 0.0]]
    >>> memory.abnormal, memory.normal
    ((1,), (0, 2))
    """

    def __init__(self, top: int = 3, recent: int = 2, threshold: float = 0.5, compatible: bool = False) -> None:
        self.top, self.recent = count(top, "top"), count(recent, "recent", 0)
        self.threshold, self.compatible = number(threshold, "threshold", 0, 1), compatible
        self._n = 0
        self._long: dict[bool, list[tuple[float, int, np.ndarray]]] = {True: [], False: []}
        self._recent: deque[np.ndarray] = deque(maxlen=self.recent)

    @property
    def abnormal(self) -> tuple[int, ...]:
        """Numbers of the clips, from 0, that the next one reads as abnormal."""
        return tuple(sorted(place for _, place, _ in self._read(True)))

    @property
    def normal(self) -> tuple[int, ...]:
        """Numbers of the clips, from 0, that the next one reads as normal."""
        return tuple(sorted(place for _, place, _ in self._read(False)))

    def __call__(
        self, features: Float[ArrayLike, "clip feature"], probability: Float[ArrayLike, " clip"]
    ) -> Float[np.ndarray, "clip 3 feature"]:
        """Take the next clips, one or many, and read what came before each.

        Parameters
        ----------
        features
            Of the clips, in order, none of zeros.
        probability
            Of each being abnormal; a clip with NaN is not remembered for long.

        Returns
        -------
        numpy.ndarray
            The clip itself, what it reads of long ago, and of the recent past.

        Raises
        ------
        InputError
            There is not one probability per clip, it is none, or features have no direction.
        """
        rows, likely = np.asarray(features, np.float64), np.asarray(probability, np.float64)
        if rows.ndim != 2 or likely.shape != rows.shape[:1] or (likely < 0).any() or (likely > 1).any():
            raise InputError(
                f"features are {rows.shape} and probabilities {likely.shape}; give [clip, feature] and one from 0 to 1 "
                "per clip."
            )
        return np.stack([self._next(*one) for one in zip(rows, likely.tolist(), strict=True)])

    def _next(self, row: np.ndarray, likely: float) -> np.ndarray:
        length = float(np.linalg.norm(row))
        if not 0 < length < np.inf:
            raise InputError(f"features of clip {self._n} are zeros or no numbers; they have no direction.")
        unit = row / length
        long = [u for abnormal in (True, False) for _, _, u in self._read(abnormal)]
        found = np.stack([row, _sum(unit, long), _sum(unit, [unit, *self._recent])])
        self._recent.append(unit)
        if not np.isnan(likely):
            abnormal = likely >= self.threshold
            held = [*self._long[abnormal], (likely if abnormal else 1 - likely, self._n, unit)]
            self._long[abnormal] = sorted(held, key=lambda one: (-one[0], one[1]))[: self.top]
        self._n += 1
        return found

    def _read(self, abnormal: bool) -> list[tuple[float, int, np.ndarray]]:
        held = self._long[abnormal]
        if self.compatible and len(held) == self.top:
            return [one for one in held if one[0] > held[-1][0]]
        return held


def _sum(unit: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    return sum((float(unit @ u) * u for u in others), np.zeros_like(unit))


class ContextReader(Reader):
    """A probe on what a reader sees of a segment and of what came before it; knows no future.

    A first probe, on the segment's own features, says how likely it is abnormal, for the memory; on calibration videos
    it is one fitted without them. A second one scores the segment with its context.

    Parameters
    ----------
    reader
        Gives features of the segments; its scores are not looked at.
    kind
        Of both probes: `"mil"`, which needs labels of videos, or `"logistic"`, which needs those of segments.
    memory
        Settings of `ContextMemory`.
    C
        Inverse strength of the penalty of both.

    Raises
    ------
    InputError
        There is no such kind, or a setting of the memory is out of range.

    Examples
    --------
    >>> ContextReader(text_answers(features="hidden").reader).needs
    'video labels'
    """

    def __init__(self, reader: Reader, kind: str = "mil", C: float = 0.1, **memory: Any) -> None:
        self.reader, self.kind, self.C, self.memory = reader, choice(kind, "kind", ("mil", "logistic")), C, memory
        ContextMemory(**memory)
        own: Needs = "video labels" if kind == "mil" else "segment labels"
        self.needs: Needs = own if NEEDS.index(own) > NEEDS.index(reader.needs) else reader.needs

    @property
    def fingerprint(self) -> str:
        """Of its settings and of the reader."""
        return fingerprint("context", self.reader.fingerprint, self.kind, self.C, self.memory)

    def fit(self, calibration: Calibration, segmenter: Segmenter) -> Self:
        self.reader = copy.copy(self.reader).fit(calibration, segmenter)
        rows, labels = [], []
        of_videos = calibration.labels()
        for video in calibration.videos:
            cut = segmenter(video)
            rows.append(self._features(video, self.reader.read(video, cut)))
            if self.kind == "mil":
                labels.append(np.full(len(cut), of_videos[video.name]))
            else:
                labels.append(calibration.segment_labels(video.name, [one.window for one in cut]))
        X, y = np.concatenate(rows), np.concatenate(labels)
        groups = np.repeat(np.arange(len(rows)), [len(part) for part in rows])
        self.first_ = HeadProbe(self.kind, C=self.C).fit(X, y, groups=groups)
        likely = self._held_out(X, y, groups)
        contexts = [ContextMemory(**self.memory)(X[groups == g], likely[groups == g]) for g in range(len(rows))]
        self.probe_ = HeadProbe(self.kind, C=self.C).fit(np.concatenate(contexts), y, groups=groups)
        return self

    def read(self, video: VideoView, cut: Sequence[Segment]) -> Reading:
        reading = self.reader.read(video, cut)
        X = self._features(video, reading)
        context = ContextMemory(**self.memory)(X, self.first_.predict_proba(X)[:, 1])
        return Reading(self.probe_.decision_function(context), reading.texts, reading.features, reading.calls)

    def follow(self) -> Callable[[Float[ArrayLike, " feature"]], float]:
        """Score a stream clip by clip.

        Returns
        -------
        callable
            Takes the features of the next clip, and gives its score.
        """
        memory = ContextMemory(**self.memory)

        def score(features: Float[ArrayLike, " feature"]) -> float:
            X = np.asarray(features, np.float64)[None]
            return float(self.probe_.decision_function(memory(X, self.first_.predict_proba(X)[:, 1]))[0])

        return score

    def _features(self, video: VideoView, reading: Reading) -> Float[np.ndarray, "segment feature"]:
        if reading.features is None:
            raise InputError(f"the reader gave no features of {video.name!r}; context is made of them.")
        return np.asarray(reading.features, np.float64)

    def _held_out(
        self, X: np.ndarray, y: Int[np.ndarray, " segment"], groups: Int[np.ndarray, " segment"]
    ) -> Float[np.ndarray, " segment"]:
        """Probabilities by first probes that were fitted without the video, where there are videos enough."""
        abnormal = np.array([y[groups == g].max() for g in range(groups[-1] + 1)])
        folds = min(5, int(abnormal.sum()), int((1 - abnormal).sum()))
        if folds < 2:
            return self.first_.predict_proba(X)[:, 1]
        likely = np.empty(len(X))
        by_video = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
        for train, test in by_video.split(X, abnormal[groups], groups):
            probe = HeadProbe(self.kind, C=self.C).fit(X[train], y[train], groups=groups[train])
            likely[test] = probe.predict_proba(X[test])[:, 1]
        return likely


def vad_llama(
    model: Model | str | os.PathLike[str] = "tiny",
    question: str | None = None,
    kind: str = "mil",
    seconds: float = 1.6,
    compatible: bool = False,
    name: str = "VAD-LLaMA's context",
    **more: Any,
) -> Composed:
    """A probe on the hidden state of a model that looks at a segment, and on those of what came before.

    A component of the published system: its memory and its learning from labels of videos, without its trained
    language model.

    Parameters
    ----------
    model, question
        As in `headprobe.baselines.answers.text_answers`; what is answered is not looked at.
    kind
        As in `ContextReader`.
    seconds
        Length of a segment.
    compatible
        As in `ContextMemory`.
    name
        Its row.
    more
        Further settings of `headprobe.baselines.answers.AnswerReader`.

    Returns
    -------
    Composed

    Examples
    --------
    >>> method = vad_llama()
    >>> method.needs, method.causal
    ('video labels', True)
    """
    asked: Any = text_answers(model, question, features="hidden", **more).reader
    assert isinstance(asked, AnswerReader)
    return Composed(name, FixedSegments(seconds), ContextReader(asked, kind, compatible=compatible), causal=True)
