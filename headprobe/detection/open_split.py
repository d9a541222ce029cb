"""What a detector finds of events of classes that it was never shown: any method, fitted on base classes only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from headprobe.detection.benchmark import BenchmarkVideos
from headprobe.detection.method import AnnotatedVideo
from headprobe.errors import InputError
from headprobe.evaluation.frames import evaluate

__all__ = ["OpenSplit", "leave_one_class_out"]


@dataclass(frozen=True)
class OpenSplit:
    """Classes of events that calibration may show, and classes that it must not (OVVAD, arXiv 2311.07042).

    A video with events of both counts as novel: it is in no calibration.

    Parameters
    ----------
    base
        Classes that may be shown.
    novel
        Classes that are kept back.

    Raises
    ------
    InputError
        A class is in both, or there is no novel one.

    Examples
    --------
    >>> videos = [
    ...     AnnotatedVideo("a", np.array([0, 1]), 10.0, classes=("fall",)),
    ...     AnnotatedVideo("b", np.array([0, 1]), 10.0, classes=("fire",)),
    ...     AnnotatedVideo("c", np.array([0, 0]), 10.0),
    ... ]
    >>> split = OpenSplit(["fall"], ["fire"])
    >>> [video.name for video in split.calibration(videos)], split.subsets(videos)
    (['a', 'c'], {'base': ['a', 'c'], 'novel': ['b', 'c']})
    """

    base: Sequence[str]
    novel: Sequence[str]

    def __post_init__(self) -> None:
        for name in ("base", "novel"):
            given = getattr(self, name)
            if isinstance(given, str) or not all(isinstance(one, str) and one for one in given):
                raise InputError(f"{name} is {given!r}; it must be a list of classes.")
            object.__setattr__(self, name, tuple(dict.fromkeys(given)))
        both = sorted(set(self.base) & set(self.novel))
        if both or not self.novel:
            raise InputError(
                f"the class {both[0]!r} is base and novel; put it into one."
                if both
                else "novel is empty; name a class that calibration does not show."
            )

    def calibration(self, videos: Sequence[AnnotatedVideo]) -> list[AnnotatedVideo]:
        """The videos that a method may be fitted on: normal ones, and those with events of base classes alone.

        Parameters
        ----------
        videos
            Of a calibration pool.

        Returns
        -------
        list of AnnotatedVideo
            In their order.

        Raises
        ------
        InputError
            The class of an abnormal video is not known, or in neither list.
        """
        return [video for video in videos if self._part(video) != "novel"]

    def subsets(self, videos: Sequence[AnnotatedVideo]) -> dict[str, list[str]]:
        """The test videos by what calibration has shown of their events, each part with all normal videos.

        Parameters
        ----------
        videos
            Test videos.

        Returns
        -------
        dict
            `base` and `novel`, those that have an event, to names in the order of the videos.

        Raises
        ------
        InputError
            As in `calibration`.
        """
        parts = {video.name: self._part(video) for video in videos}
        there = [part for part in ("base", "novel") if part in parts.values()]
        return {part: [name for name, own in parts.items() if own in (part, "normal")] for part in there}

    def restrict(self, videos: BenchmarkVideos) -> BenchmarkVideos:
        """The same benchmark with a pool without novel classes, and numbers of their own for both parts.

        Parameters
        ----------
        videos
            With a pool.

        Returns
        -------
        BenchmarkVideos
            All test videos, with the subsets `base` and `novel` before those there were.

        Raises
        ------
        InputError
            As in `calibration`; or there is no pool: folds of the test videos would show novel classes.

        Examples
        --------
        >>> fall, fire = (AnnotatedVideo(x, np.array([0, 1]), 10.0, classes=(x,)) for x in ("fall", "fire"))
        >>> calm = AnnotatedVideo("calm", np.array([0, 0]), 10.0)
        >>> pool = [AnnotatedVideo("other fire", np.array([0, 1]), 10.0, classes=("fire",))]
        >>> made = OpenSplit(["fall"], ["fire"]).restrict(BenchmarkVideos("mine", [fall, fire, calm], pool))
        >>> len(made.pool), list(made.subsets)
        (0, ['base', 'novel'])
        """
        if not videos.pool:
            raise InputError(
                f"{videos.name} has no calibration pool, and folds of its test videos would show novel classes; give a "
                "pool, or take `subsets` alone for methods that need nothing."
            )
        pool, parts = self.calibration(videos.pool), self.subsets(videos.test)
        return replace(videos, pool=pool, subsets=parts | dict(videos.subsets))

    def evaluate(
        self, scores: Mapping[str, Float[np.ndarray, " frame"]], videos: Sequence[AnnotatedVideo]
    ) -> dict[str, dict[str, Any]]:
        """Frame-level numbers of scores that are there already, such as those of a file.

        Parameters
        ----------
        scores
            Video to scores `[frame]`.
        videos
            Test videos.

        Returns
        -------
        dict
            `all`, `base` and `novel` to what `headprobe.evaluation.evaluate` gives.

        Raises
        ------
        InputError
            As in `calibration` and `headprobe.evaluation.evaluate`.

        Examples
        --------
        >>> videos = [AnnotatedVideo("a", np.array([0, 1]), 10.0, classes=("fire",))]
        >>> OpenSplit([], ["fire"]).evaluate({"a": np.array([0.1, 0.2])}, videos)["novel"]["auc"]
        1.0
        """
        truth = {video.name: video.truth for video in videos}
        parts = {"all": list(truth)} | self.subsets(videos)
        found = {}
        for part, names in parts.items():
            own = {name: scores[name] for name in names if name in scores}
            found[part] = evaluate(own, {name: truth[name] for name in names})
        return found

    def _part(self, video: AnnotatedVideo) -> str:
        if not video.abnormal:
            return "normal"
        unknown = [name for name in video.classes if name not in self.base and name not in self.novel]
        if unknown or not video.classes:
            known = ", ".join((*self.base, *self.novel))
            raise InputError(
                f"video {video.name!r} is of the class {unknown[0]!r}, neither base nor novel; put it into one."
                if unknown
                else f"video {video.name!r} is abnormal and of no class; say which of {known} it shows."
            )
        return "novel" if set(video.classes) & set(self.novel) else "base"


def leave_one_class_out(videos: Sequence[AnnotatedVideo] | BenchmarkVideos) -> dict[str, OpenSplit]:
    """A split for every class of the test videos that keeps this class back, and shows all others.

    Parameters
    ----------
    videos
        Test videos, or a benchmark, whose pool may have classes that no test video shows.

    Returns
    -------
    dict
        Class to split, in the order in which classes come.

    Raises
    ------
    InputError
        No test video has a class.

    Examples
    --------
    >>> videos = [AnnotatedVideo(x, np.array([0, 1]), 10.0, classes=(x,)) for x in ("fall", "fire")]
    >>> {name: split.base for name, split in leave_one_class_out(videos).items()}
    {'fall': ('fire',), 'fire': ('fall',)}
    """
    test, pool = (videos.test, videos.pool) if isinstance(videos, BenchmarkVideos) else (videos, ())
    of_test = list(dict.fromkeys(name for video in test for name in video.classes))
    if not of_test:
        raise InputError("no test video has a class; an open split needs classes of events.")
    known = list(dict.fromkeys([*of_test, *(name for video in pool for name in video.classes)]))
    return {name: OpenSplit([other for other in known if other != name], [name]) for name in of_test}
