"""CoReVAD: replies that begin with a verdict, cleaned by their neighbours, refined over the video, and smoothed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from jaxtyping import Float, Int
from scipy.special import softmax

from headprobe._files import parse_json, read_text
from headprobe._validation import count, number
from headprobe.datasets._annotations import match_names
from headprobe.detection.composed import Composed, Reader, Reading, Segmented, Segmenter, Step
from headprobe.detection.method import Calibration, Needs, VideoView, fingerprint
from headprobe.detection.steps import GaussianSmooth, PaddedGaussian, PositionPrior
from headprobe.errors import InputError
from headprobe.video.clips import Segment, segments

__all__ = [
    "EveryFrames",
    "LocalCleaning",
    "ReplyFile",
    "ReplyRefine",
    "clean_replies",
    "corevad",
    "split_reply",
    "verdict",
]

Embedder = Callable[[Sequence[str]], Float[np.ndarray, "text feature"]]
_VERDICT = re.compile(r"\W*(?:(anomalous|abnormal)|normal)\b", re.IGNORECASE)


def verdict(reply: str, compatible: bool = False) -> float:
    """What a reply begins with: 1 for anomalous or abnormal, 0 for normal.

    Parameters
    ----------
    reply
        What a model said of a segment.
    compatible
        As the reference, which looks for "anomalous scenes" and takes everything else as normal.

    Returns
    -------
    float
        0 or 1; NaN where the reply begins with no verdict.

    Examples
    --------
    >>> [verdict(reply) for reply in ("Anomalous scenes. A man falls.", "Normal scene.", "The scene is anomalous.")]
    [1.0, 0.0, nan]
    """
    if compatible:
        return float(" ".join(reply.split()).lower().startswith("anomalous scenes"))
    found = _VERDICT.match(reply)
    return float("nan") if found is None else float(found[1] is not None)


def split_reply(reply: str) -> tuple[str, str]:
    """The first sentence of a reply, and what follows it; the sentence itself where nothing does.

    Parameters
    ----------
    reply
        What a model said of a segment.

    Returns
    -------
    first : str
        Up to the first full stop before a space or the end.
    body : str
        The rest.

    Examples
    --------
    >>> split_reply("Normal scenes. A road.  Two cars")
    ('Normal scenes.', 'A road. Two cars')
    """
    words = " ".join(reply.split())
    first, stop, body = re.sub(r"\.( |$)", ".\n", words, count=1).partition("\n")
    return (first, body.strip() or first) if stop else (words, words)


def clean_replies(
    segment_features: Float[np.ndarray, "segment feature"],
    reply_features: Float[np.ndarray, "segment feature"],
    reach: int = 1,
) -> Int[np.ndarray, " segment"]:
    """Which reply each segment takes: of its own and its neighbours' the one that fits its frames best.

    Parameters
    ----------
    segment_features
        Of the frames of each segment, in the space of the replies.
    reply_features
        Of each segment's whole reply.
    reach
        Neighbours to either side.

    Returns
    -------
    numpy.ndarray
        Number of the segment whose reply is taken; of equal ones the first.

    Raises
    ------
    InputError
        There is not one reply per segment, or features are zeros.

    Examples
    --------
    >>> clean_replies(np.array([[1.0, 0], [0, 1.0]]), np.array([[0, 1.0], [1.0, 0]])).tolist()
    [1, 0]
    """
    likeness = _cosines(segment_features, reply_features)
    apart = np.abs(np.arange(len(likeness))[:, None] - np.arange(len(likeness)))
    return np.where(apart <= count(reach, "reach", 0), likeness, -np.inf).argmax(1)


@dataclass(frozen=True)
class LocalCleaning:
    """Every segment takes the score of the reply, of its own and its neighbours', that fits its frames best.

    Parameters
    ----------
    embedder
        Texts to features in the space of the segments' features. Two with the same `repr` do the same.
    reach
        Neighbours to either side.

    Examples
    --------
    >>> step = LocalCleaning(embedder=lambda texts: np.eye(len(texts)))
    >>> step.name, step.plain.name
    ('best reply within 1', 'mean of 1 to either side')
    """

    embedder: Embedder
    reach: int = 1

    def __post_init__(self) -> None:
        count(self.reach, "reach")

    @property
    def name(self) -> str:
        """Short, for rows."""
        return f"best reply within {self.reach}"

    @property
    def plain(self) -> Step:
        """The mean of the same neighbours."""
        return _Mean(self.reach)

    def __call__(self, scores: Float[np.ndarray, " segment"], seen: Segmented) -> Float[np.ndarray, " segment"]:
        return scores[clean_replies(seen.features, _embedded(self.embedder, _texts(seen)), self.reach)]


@dataclass(frozen=True)
class ReplyRefine:
    """Every segment takes the mean of all scores of its video, weighted by how well their replies fit its frames.

    Replies are compared without the verdict that they begin with. Unread ones count in no mean.

    Parameters
    ----------
    embedder
        Texts to features in the space of the segments' features. Two with the same `repr` do the same.
    temperature
        Of the softmax of the cosines.
    reach
        Clean the replies first, as `LocalCleaning` with so many neighbours; 0 does not.
    compatible
        As the reference: the segments' features, means of those of frames of length 1, keep their length.

    Examples
    --------
    >>> from headprobe.detection.composed import FixedSegments
    >>> video = VideoView("a", 20, 10.0)
    >>> said = Reading(np.array([0.0, 1.0]), ["Normal. A road.", "Abnormal. A fight."], np.array([[0, 1.0], [1.0, 0]]))
    >>> seen = Segmented(video, FixedSegments(1.0)(video), said)
    >>> fits = ReplyRefine(lambda texts: np.array([[1.0, "fight" in text] for text in texts]))
    >>> fits(said.scores, seen).round(3).tolist()
    [1.0, 0.003]
    """

    embedder: Embedder
    temperature: float = 0.05
    reach: int = 0
    compatible: bool = False

    def __post_init__(self) -> None:
        number(self.temperature, "temperature", above=0)
        count(self.reach, "reach", 0)

    @property
    def name(self) -> str:
        """Short, for rows."""
        return "replies that fit"

    @property
    def plain(self) -> Step:
        """The video's own mean."""
        return _Mean()

    def __call__(self, scores: Float[np.ndarray, " segment"], seen: Segmented) -> Float[np.ndarray, " segment"]:
        texts = _texts(seen)
        if self.reach:
            kept = clean_replies(seen.features, _embedded(self.embedder, texts), self.reach)
            texts, scores = [texts[place] for place in kept], scores[kept]
        there = ~np.isnan(scores)
        if not there.any():
            return np.full(len(scores), np.nan)
        bodies = _embedded(self.embedder, [split_reply(text)[1] for text in texts])
        likeness = _cosines(seen.features, bodies)[:, there]
        if self.compatible:
            likeness = likeness * np.linalg.norm(seen.features, axis=1, keepdims=True)
        return softmax(likeness / self.temperature, axis=1) @ scores[there]


@dataclass(frozen=True)
class _Mean:
    """The mean of a segment and its neighbours, or of the whole video."""

    reach: int | None = None
    plain = None

    @property
    def name(self) -> str:
        return "own mean" if self.reach is None else f"mean of {self.reach} to either side"

    def __call__(self, scores: Float[np.ndarray, " segment"], seen: Segmented) -> Float[np.ndarray, " segment"]:
        reach = len(scores) if self.reach is None else self.reach
        parts = [scores[max(place - reach, 0) : place + reach + 1] for place in range(len(scores))]
        return np.array([np.nan if np.isnan(part).all() else np.nanmean(part) for part in parts])


@dataclass(frozen=True)
class EveryFrames:
    """Segments of a number of frames, for files that were made frame by frame; else `FixedSegments` in seconds.

    Parameters
    ----------
    frames
        Frames of a segment.

    Examples
    --------
    >>> [segment.span for segment in EveryFrames(30)(VideoView("a", 70, 25.0))]
    [(0, 30), (30, 60), (60, 70)]
    """

    frames: int

    def __post_init__(self) -> None:
        count(self.frames, "frames")

    def __call__(self, video: VideoView) -> list[Segment]:
        return segments(video.n_frames, self.frames)


class ReplyFile(Reader):
    """Replies that somebody else's model has given, one for each segment, read for the verdict they begin with.

    Parameters
    ----------
    replies
        A JSON file, also in gzip, or a mapping: video to its replies in order. Videos are matched by the rule for
        score files.
    compatible
        As in `verdict`.
    embedder
        Texts to features: those of the replies without their verdict become features of the segments, for steps that
        compare segments. No features if not given.

    Examples
    --------
    >>> reader = ReplyFile({"a": ["Normal scenes. A road.", "Anomalous scenes. A fight."]})
    >>> video = VideoView("a", 60, 30.0)
    >>> reader.read(video, EveryFrames(30)(video)).scores.tolist()
    [0.0, 1.0]
    """

    needs: Needs = "nothing"

    def __init__(
        self,
        replies: str | os.PathLike[str] | Mapping[str, Sequence[str]],
        compatible: bool = False,
        embedder: Embedder | None = None,
    ) -> None:
        given: Any = replies if isinstance(replies, Mapping) else parse_json(read_text(replies), replies, InputError)
        if not isinstance(given, Mapping) or not all(
            isinstance(said, list | tuple) and all(isinstance(text, str) for text in said) for said in given.values()
        ):
            raise InputError('replies are of another form; they must be {"video": ["reply", ...]}, in order.')
        self.replies = {str(video): list(said) for video, said in given.items()}
        self.compatible, self.embedder = compatible, embedder

    @property
    def fingerprint(self) -> str:
        """Of the replies and of how they are read."""
        return fingerprint("replies", self.replies, self.compatible, repr(self.embedder))

    def fit(self, calibration: Calibration, segmenter: Segmenter) -> Self:
        return self

    def read(self, video: VideoView, cut: Sequence[Segment]) -> Reading:
        """The verdicts of a video; parameters as of `headprobe.detection.composed.Reader.read`.

        Raises
        ------
        InputError
            There are no replies of the video, or another number of them.
        """
        name = self._name(video.name)
        said = self.replies[name]
        if len(said) != len(cut):
            raise InputError(
                f"there are {len(said)} replies of {video.name!r}, which has {len(cut)} segments; cut it as it was cut "
                "for the replies."
            )
        features = None
        if self.embedder is not None:
            features = _embedded(self.embedder, [split_reply(text)[1] for text in said])
        return Reading(np.array([verdict(text, self.compatible) for text in said]), said, features)

    def _name(self, video: str) -> str:
        if video in self.replies:
            return video
        fits = [name for name in self.replies if match_names([name], [video])]
        if len(fits) != 1:
            found = f"those of {', '.join(fits[:3])} could be meant" if fits else "there are none"
            raise InputError(f"replies of {video!r} were asked for and {found}; name videos as the benchmark does.")
        return fits[0]


def corevad(
    replies: str | os.PathLike[str] | Mapping[str, Sequence[str]],
    frames: int = 30,
    smooth: float = 5.0,
    position: bool = False,
    compatible: bool = False,
    embedder: Embedder | None = None,
    name: str = "CoReVAD",
) -> Composed:
    """CoReVAD from a file of replies: verdicts, smoothed, and on demand weighted by position.

    Its `rows` are the verdicts alone, smoothed, with a plain mean instead, and with the position prior. Cleaning and
    refining need features of the frames: `LocalCleaning` and `ReplyRefine` are steps for a reader that has them.

    Parameters
    ----------
    replies
        As in `ReplyFile`.
    frames
        Frames of a segment.
    smooth
        Standard deviation of the Gaussian in seconds; in segments where compatible.
    position
        Whether to multiply by the position prior, which looks at no frame.
    compatible
        As the reference: whatever does not begin with "anomalous scenes" is normal, and the Gaussian of 9 segments
        takes scores beyond the ends of a video to be 0.
    embedder
        As in `ReplyFile`.
    name
        Its row.

    Returns
    -------
    Composed

    Examples
    --------
    >>> method = corevad({"a": ["Normal scenes.", "Anomalous scenes."]}, position=True)
    >>> [row.name for row in method.rows()]
    ['CoReVAD', 'CoReVAD + gaussian 5 s', 'CoReVAD + mean 10 s', 'CoReVAD + position prior']
    """
    steps: list[Any] = [PaddedGaussian(9, smooth) if compatible else GaussianSmooth(smooth)]
    steps += [PositionPrior()] if position else []
    return Composed(name, EveryFrames(frames), ReplyFile(replies, compatible, embedder), steps)


def _texts(seen: Segmented) -> list[str]:
    texts = list(seen.reading.texts)
    if len(texts) != len(seen.cut):
        raise InputError(
            f"the reader said {len(texts)} texts of the {len(seen.cut)} segments of {seen.video.name!r}; comparing "
            "replies needs one of each."
        )
    return texts


def _embedded(embedder: Embedder, texts: Sequence[str]) -> Float[np.ndarray, "text feature"]:
    features = np.asarray(embedder(texts), np.float64)
    if features.ndim != 2 or len(features) != len(texts):
        raise InputError(f"the embedder gave {features.shape} for {len(texts)} texts; it must be [text, feature].")
    return features


def _cosines(
    first: Float[np.ndarray, "segment feature"], second: Float[np.ndarray, "segment feature"]
) -> Float[np.ndarray, "segment segment"]:
    units = []
    for features in (np.asarray(first, np.float64), np.asarray(second, np.float64)):
        lengths = np.linalg.norm(features, axis=1, keepdims=True)
        if not (lengths > 0).all():
            raise InputError(f"features {int(np.argmin(lengths > 0))} are zeros or no numbers; they have no direction.")
        units.append(features / lengths)
    if units[0].shape != units[1].shape:
        raise InputError(f"features are {units[0].shape} and {units[1].shape}; give one row each for every segment.")
    return units[0] @ units[1].T
