"""What a detector is: what it may be told, what it may look at, and the scores it gives."""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from headprobe._validation import check_spans, check_truth, choice
from headprobe.datasets.videos import NORMAL
from headprobe.errors import InputError
from headprobe.evaluation.frames import to_frames
from headprobe.video.spans import Span

if TYPE_CHECKING:
    from headprobe.models.model import Model

__all__ = [
    "NEEDS",
    "AnnotatedVideo",
    "Calibration",
    "Method",
    "SegmentScores",
    "VideoView",
    "fingerprint",
    "make_method",
    "method_names",
    "register",
    "shared_model",
]

Needs = Literal["nothing", "normal videos", "video labels", "segment labels", "frame truth"]
NEEDS: tuple[Needs, ...] = ("nothing", "normal videos", "video labels", "segment labels", "frame truth")
"""What a method is told about the calibration videos, each with all that stands before it."""
_TRUTH = frozenset({"truth", "label", "labels", "abnormal", "events", "event", "classes", "class_name", "annotation"})


@dataclass(frozen=True, eq=False)
class VideoView:
    """What a method sees of a video: its frames and how long it is, and nothing of the truth.

    Parameters
    ----------
    name
        Unique in its benchmark.
    n_frames
        Frames of the video.
    fps
        Frames per second.
    path
        The file; None where only scores, captions or ratings of the video are at hand.

    Examples
    --------
    >>> view = VideoView("a", 250, 25.0)
    >>> view.seconds
    10.0
    >>> view.truth
    Traceback (most recent call last):
    ...
    headprobe.errors.InputError: video 'a' was asked for its 'truth'; a method that scores a video is not told it.
    """

    name: str
    n_frames: int
    fps: float
    path: Path | None = None

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.n_frames / self.fps

    def frames(self, indices: Sequence[int] | Int[np.ndarray, " frame"]) -> UInt8[np.ndarray, "frame height width 3"]:
        """Decode frames by number.

        Parameters
        ----------
        indices
            Numbers of frames.

        Returns
        -------
        numpy.ndarray
            RGB frames.

        Raises
        ------
        InputError
            There is no file.
        VideoError
            The file cannot be read.
        """
        from headprobe.video.decode import shared_reader

        return shared_reader(self.file).read(indices)

    @property
    def file(self) -> Path:
        """The file; an error where there is none."""
        if self.path is None:
            raise InputError(
                f"video {self.name!r} has no file in this benchmark; use a method that needs none, or give a folder "
                "of videos."
            )
        return self.path

    def __getattr__(self, name: str) -> Any:
        if name in _TRUTH:
            raise InputError(
                f"video {self.name!r} was asked for its {name!r}; a method that scores a video is not told it."
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


@dataclass(frozen=True, eq=False)
class AnnotatedVideo:
    """A video of a benchmark with its truth.

    Parameters
    ----------
    name
        Unique in its benchmark.
    truth
        `[frame]`, 1 while it is abnormal.
    fps
        Frames per second.
    path
        The file, or None.
    classes
        Classes of its events; none for a normal video.
    group
        What must not be split between calibration and test, such as the scene; the name where not given.

    Examples
    --------
    >>> AnnotatedVideo("a", np.array([0, 1, 1, 0]), 10.0, classes=("fall",)).abnormal
    True
    """

    name: str
    truth: Bool[np.ndarray, " frame"]
    fps: float
    path: Path | None = None
    classes: tuple[str, ...] = ()
    group: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "truth", check_truth(self.truth, self.name))
        object.__setattr__(self, "group", self.group or self.name)
        if bool(self.classes) and not self.abnormal:
            raise InputError(f"video {self.name!r} has the class {self.classes[0]!r} but no abnormal frame.")

    @property
    def abnormal(self) -> bool:
        """Whether any of its frames is."""
        return bool(self.truth.any())

    @property
    def class_name(self) -> str:
        """The leading class, `abnormal` where none is known, or `Normal`."""
        return self.classes[0] if self.classes else "abnormal" if self.abnormal else NORMAL

    @property
    def view(self) -> VideoView:
        """What a method sees of it."""
        return VideoView(self.name, len(self.truth), self.fps, self.path)


class Calibration:
    """The videos that a method is fitted on, with as much of the truth as it needs.

    Parameters
    ----------
    videos
        Calibration videos of one draw. Only the normal ones are handed on where that is what the method needs.
    needs
        One of `NEEDS`. Whatever asks for more raises.

    Examples
    --------
    >>> both = [AnnotatedVideo("a", np.array([0, 1, 1, 0]), 10.0), AnnotatedVideo("b", np.array([0, 0]), 10.0)]
    >>> given = Calibration(both, "video labels")
    >>> given.labels(), Calibration(both, "normal videos").names
    ({'a': 1, 'b': 0}, ['b'])
    >>> given.truth("a")
    Traceback (most recent call last):
    ...
    headprobe.errors.InputError: the truth of frames was asked for; this method is told video labels.
    """

    def __init__(self, videos: Sequence[AnnotatedVideo], needs: Needs) -> None:
        choice(needs, "needs", NEEDS)
        told = list(videos) if needs != "nothing" else []
        if needs == "normal videos":
            told = [video for video in told if not video.abnormal]
        self.needs: Needs = needs
        self._videos = {video.name: video for video in told}

    @property
    def videos(self) -> list[VideoView]:
        """What can be seen of them."""
        return [video.view for video in self._videos.values()]

    @property
    def names(self) -> list[str]:
        """Their names."""
        return list(self._videos)

    def labels(self) -> dict[str, int]:
        """Video to 0 (normal) or 1 (abnormal).

        Returns
        -------
        dict
            Name to label.
        """
        self._asked("video labels", "labels of videos")
        return {name: int(video.abnormal) for name, video in self._videos.items()}

    def classes(self) -> dict[str, tuple[str, ...]]:
        """Video to the classes of its events.

        Returns
        -------
        dict
            Name to classes.
        """
        self._asked("video labels", "classes of videos")
        return {name: video.classes for name, video in self._videos.items()}

    def segment_labels(self, name: str, windows: Sequence[Span]) -> Int[np.ndarray, " segment"]:
        """Labels of stretches of a video: 1 where at least half of the frames are abnormal.

        Parameters
        ----------
        name
            A calibration video.
        windows
            (first, end) in frames, end exclusive.

        Returns
        -------
        numpy.ndarray
            0 or 1 `[segment]`.
        """
        self._asked("segment labels", "labels of segments")
        truth = self._videos[name].truth
        return np.array([int(truth[first:end].mean() >= 0.5) for first, end in windows], int)

    def truth(self, name: str) -> Bool[np.ndarray, " frame"]:
        """Labels of the frames of a video.

        Parameters
        ----------
        name
            A calibration video.

        Returns
        -------
        numpy.ndarray
            `[frame]`.
        """
        self._asked("frame truth", "the truth of frames")
        return self._videos[name].truth

    def shuffled(self, random_state: int = 0) -> Calibration:
        """The same videos with their truths dealt out anew and turned in time: what labels said is lost.

        Parameters
        ----------
        random_state
            Seed.

        Returns
        -------
        Calibration

        Examples
        --------
        >>> both = [AnnotatedVideo("a", np.array([0, 1, 1, 0]), 10.0), AnnotatedVideo("b", np.array([0, 0]), 10.0)]
        >>> Calibration(both, "video labels").shuffled(3).labels()
        {'a': 0, 'b': 1}
        """
        rng, videos = np.random.default_rng(random_state), list(self._videos.values())
        given = []
        # Any video may come up, itself too: were it always another, labels would say the opposite of the truth.
        for own, place in zip(videos, rng.permutation(len(videos)), strict=True):
            other = videos[int(place)]
            stretched = other.truth[np.arange(len(own.truth)) * len(other.truth) // len(own.truth)]
            truth = np.roll(stretched, int(rng.integers(len(stretched))))
            given.append(replace(own, truth=truth, classes=other.classes if truth.any() else ()))
        return Calibration(given, self.needs)

    def _asked(self, needs: Needs, what: str) -> None:
        if NEEDS.index(self.needs) < NEEDS.index(needs):
            raise InputError(f"{what} was asked for; this method is told {self.needs}.")


@dataclass(frozen=True, eq=False)
class SegmentScores:
    """Scores of the segments of one video.

    Parameters
    ----------
    spans
        (start, end) of the frames that each score belongs to; together every frame of the video once, in order.
    scores
        `[segment]`, any monotone unit, higher is more abnormal; NaN where a segment could not be read.
    windows
        (first, end) of the frames that were looked at; the spans where not given.
    texts
        What was said about each segment, where anything was.
    seconds
        How long it took to read the video.
    calls
        Passes of a model.

    Examples
    --------
    >>> found = SegmentScores([(0, 2), (2, 5)], np.array([0.25, np.nan]))
    >>> found.unread, found.frames(5).tolist()
    (0.5, [0.25, 0.25, nan, nan, nan])
    """

    spans: Sequence[Span]
    scores: Float[np.ndarray, " segment"]
    windows: Sequence[Span] = ()
    texts: Sequence[str] = ()
    seconds: float = 0.0
    calls: int = 0

    def __post_init__(self) -> None:
        values = np.asarray(self.scores, np.float64)
        if values.ndim != 1 or not len(values) or np.isinf(values).any():
            raise InputError(
                f"scores are {values.tolist()[:5]}; they must be one number per segment, NaN where it is unread."
            )
        spans = check_spans(self.spans, len(values), n_frames=int(self.spans[-1][1]) if len(self.spans) else None)
        windows = [(int(a), int(b)) for a, b in self.windows] or spans
        if len(windows) != len(values) or (self.texts and len(self.texts) != len(values)):
            raise InputError(
                f"there are {len(values)} scores, {len(windows)} windows and {len(self.texts)} texts; give one each."
            )
        for name, value in (("scores", values), ("spans", spans), ("windows", windows), ("texts", tuple(self.texts))):
            object.__setattr__(self, name, value)

    @property
    def unread(self) -> float:
        """Share of the segments that could not be read."""
        return float(np.isnan(self.scores).mean())

    def frames(self, n_frames: int) -> Float[np.ndarray, " frame"]:
        """Give every frame the score of its segment.

        Parameters
        ----------
        n_frames
            Frames of the video, where the last span must end.

        Returns
        -------
        numpy.ndarray
            `[frame]`, NaN where unread.
        """
        return to_frames(self.scores, self.spans, n_frames)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for files.

        Returns
        -------
        dict
            What `from_dict` takes; unread scores are None.
        """
        return {
            "spans": [list(span) for span in self.spans],
            "scores": [None if np.isnan(score) else float(score) for score in self.scores],
            "windows": [list(window) for window in self.windows],
            "texts": list(self.texts),
            "seconds": self.seconds,
            "calls": self.calls,
        }

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> SegmentScores:
        """What `to_dict` gave.

        Parameters
        ----------
        given
            Plain values.

        Returns
        -------
        SegmentScores
        """
        scores = np.array([np.nan if score is None else score for score in given["scores"]], np.float64)
        pairs = {name: [(int(a), int(b)) for a, b in given[name]] for name in ("spans", "windows")}
        return cls(
            scores=scores,
            texts=tuple(given["texts"]),
            seconds=float(given["seconds"]),
            calls=int(given["calls"]),
            **pairs,
        )


@runtime_checkable
class Method(Protocol):
    """A detector: what it needs, how it is fitted, and how it scores a video.

    Attributes
    ----------
    name
        Its row.
    needs
        One of `NEEDS`.
    causal
        Whether the score of a segment depends on nothing after its window.
    fingerprint
        Of its settings and of all that it reads with: other scores, another fingerprint.

    Examples
    --------
    >>> issubclass(type(make_method("position")), Method)
    Traceback (most recent call last):
    ...
    TypeError: Protocols with non-method members don't support issubclass()
    >>> isinstance(make_method("position"), Method)
    True
    """

    name: str
    needs: Needs
    causal: bool

    @property
    def fingerprint(self) -> str:
        """Of its settings and of all that it reads with."""
        ...

    def fit(self, calibration: Calibration) -> Self:
        """Learn from the calibration videos; without effect where nothing is needed.

        Parameters
        ----------
        calibration
            Videos, with what the method needs to know of them.

        Returns
        -------
        Method
            Itself.
        """
        ...

    def score(self, video: VideoView) -> SegmentScores:
        """Score a video.

        Parameters
        ----------
        video
            What can be seen of it.

        Returns
        -------
        SegmentScores
        """
        ...


def fingerprint(*parts: Any) -> str:
    """A short text that is another one where any of these settings is.

    Parameters
    ----------
    parts
        Plain values, lists and mappings of them.

    Returns
    -------
    str
        16 hexadecimal digits.

    Raises
    ------
    InputError
        For what has no plain form.

    Examples
    --------
    >>> fingerprint("lda", {"k": 5}) == fingerprint("lda", {"k": 5}), fingerprint(1) == fingerprint(2)
    (True, False)
    """
    try:
        text = json.dumps(parts, sort_keys=True, allow_nan=True, default=_plain)
    except TypeError as error:
        raise InputError(f"a fingerprint is made of plain values; {error}.") from error
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.lru_cache(maxsize=4)
def shared_model(name: str, loading: tuple[tuple[str, Any], ...] = ()) -> Model:
    """A model by name, the same one for all rows that ask for it, as a large one fits into memory once.

    Parameters
    ----------
    name
        As for `headprobe.load`.
    loading
        Its options, as pairs.

    Returns
    -------
    Model

    Examples
    --------
    >>> shared_model("tiny") is shared_model("tiny")
    True
    """
    from headprobe.models.loading import load

    return load(name, **dict(loading))


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [str(value.dtype), list(value.shape), hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    own = getattr(value, "fingerprint", None)
    if isinstance(own, str):
        return own
    raise TypeError(f"{type(value).__name__} has none")


# By name, loaded when asked for, so that this room imports no method.
_REGISTERED: dict[str, str | Callable[..., Method]] = {
    "headhunt": "headprobe.headhunt.methods:HeadMethod",
    "layerhunt": "headprobe.headhunt.methods:LayerMethod",
    "probe": "headprobe.headhunt.methods:ProbeMethod",
    "position": "headprobe.detection.blind:Position",
    "motion": "headprobe.detection.blind:Motion",
    "score file": "headprobe.detection.blind:ScoreFile",
    "text answers": "headprobe.baselines.answers:text_answers",
    "direct questions": "headprobe.baselines.answers:direct_questions",
    "probe-vad": "headprobe.baselines.answers:probe_vad",
    "shuffled labels": "headprobe.detection.blind:ShuffledLabels",
    "corevad": "headprobe.baselines.corevad:corevad",
    "vadtree": "headprobe.baselines.vadtree:vadtree",
    "vadtree published": "headprobe.baselines.vadtree:vadtree_published",
    "node ratings": "headprobe.baselines.ratings:node_ratings",
    "eventvad": "headprobe.baselines.eventvad:eventvad",
    "vad-llama": "headprobe.baselines.vad_llama:vad_llama",
}


def register(name: str, maker: str | Callable[..., Method]) -> None:
    """Give a method a name for configuration files, contract tests and `make_method`.

    Parameters
    ----------
    name
        Free, or that of the same maker.
    maker
        A class or function that takes the method's settings; or `"package.module:name"` of one, loaded when asked for.

    Raises
    ------
    InputError
        The name is taken.

    Examples
    --------
    >>> register("position", "headprobe.detection.blind:Position")
    """
    if _REGISTERED.setdefault(name, maker) != maker:
        raise InputError(f"the method name {name!r} is taken; choose another.")


def method_names() -> list[str]:
    """Names of all registered methods.

    Returns
    -------
    list of str

    Examples
    --------
    >>> "position" in method_names()
    True
    """
    return list(_REGISTERED)


def make_method(name: str, /, **settings: Any) -> Method:
    """A method by its registered name, or by `"package.module:name"` of anybody's.

    Parameters
    ----------
    name
        One of `method_names`, or module and name of a class or function.
    settings
        What it takes.

    Returns
    -------
    Method

    Raises
    ------
    InputError
        Nothing has this name, it does not take these settings, or what it gives is no method.

    Examples
    --------
    >>> make_method("position").needs
    'nothing'
    """
    maker = _find_maker(name)
    try:
        made = maker(**settings)
    except TypeError as error:
        raise InputError(f"the method {name!r} was given {sorted(settings) or 'nothing'}: {error}.") from error
    if not isinstance(made, Method):
        lacks = [one for one in ("name", "needs", "causal", "fingerprint", "fit", "score") if not hasattr(made, one)]
        raise InputError(f"{name!r} gave a {type(made).__name__}, which is no method: it lacks {', '.join(lacks)}.")
    return made


def _find_maker(name: str) -> Callable[..., Any]:
    """The class or function behind a name, loaded."""
    maker = _REGISTERED.get(name)
    if maker is None and ":" not in name:
        raise InputError(
            f"there is no method {name!r}; registered are {', '.join(sorted(_REGISTERED))}. For your own, write "
            "package.module:name."
        )
    maker = name if maker is None else maker
    if isinstance(maker, str):
        module, _, attribute = maker.partition(":")
        try:
            maker = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise InputError(f"the method {name!r} cannot be loaded: {error}.") from error
    return maker
