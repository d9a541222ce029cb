"""Ratings of the nodes of videos from a file: somebody else's segments, scores and words."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from jaxtyping import Float

from headprobe._files import parse_json, read_text
from headprobe._validation import count
from headprobe.datasets._annotations import match_names
from headprobe.detection.composed import Composed, Reading, Segmenter, Step
from headprobe.detection.method import Calibration, Needs, VideoView, fingerprint
from headprobe.errors import InputError
from headprobe.video.clips import Segment

__all__ = ["FileRatings", "node_ratings"]

Given = str | os.PathLike[str] | Mapping[str, Any]
Embedder = Callable[[Sequence[str]], Float[np.ndarray, "text feature"]]
_NODE = re.compile(r"\s*(\d+)\s*,\s*(\d+)\s*")
_UNDER = ("vid_score", "vid_captions")  # where VADTree's files have the videos


class _Node(NamedTuple):
    first: int
    last: int
    score: float
    text: str


class FileRatings:
    """Segmenter and reader at once: the nodes of a file as segments, their ratings as scores, what was said as texts.

    Parameters
    ----------
    ratings
        A JSON file, also in gzip (.gz), or what it holds: video to nodes, ``"first, last"`` to ``[score, ...]``,
        both frames included; a text in the list is what was said. A frame that two nodes share belongs to the later
        one. The videos may stand under ``vid_score``, as in the files of VADTree, and are matched by the rule for score
        files. A score below 0, null and NaN are unread.
    column
        Which number of a node is its score; in VADTree's refined files 0 is the refined and 1 the raw one.
    texts
        Texts of the same nodes, where they are in another file: ``"first, last"`` to text, perhaps under
        ``vid_captions``.
    embedder
        Texts to features of the segments `[text, feature]`, for steps that compare them; two with the same `repr` do
        the same.
    short
        Frames by which the last node of a video may end too early; they get its score. The published trees of VADTree
        for UCF-Crime need 0, some of MSAD 1.

    Raises
    ------
    InputError
        The file is damaged, or the nodes of a video do not follow one another from its first frame.

    Examples
    --------
    >>> both = FileRatings({"a.mp4": {"0, 3": [0.2, "a road"], "3, 9": [-1, "a car"]}})
    >>> video = VideoView("a", 10, 10.0)
    >>> [one.span for one in both(video)], both.read(video, both(video)).scores.tolist()
    ([(0, 3), (3, 10)], [0.2, nan])
    """

    needs: Needs = "nothing"

    def __init__(
        self,
        ratings: Given,
        column: int = 0,
        texts: Given | None = None,
        embedder: Embedder | None = None,
        short: int = 0,
    ) -> None:
        self.column, self.short = count(column, "column", 0), count(short, "short", 0)
        self.embedder = embedder
        named, self._videos = _videos(ratings)
        said, self._texts = _videos(texts) if texts is not None else (None, {})
        self._said = [named, said]

    @property
    def fingerprint(self) -> str:
        """Of what the files hold and of the settings."""
        embedder = None if self.embedder is None else repr(self.embedder)
        return fingerprint("ratings", self._said, self.column, embedder, self.short)

    def __repr__(self) -> str:
        return f"FileRatings({self.fingerprint})"

    def __call__(self, video: VideoView) -> list[Segment]:
        return [Segment(first, end, (first, end)) for first, end in self._spans(video, self._nodes(video))]

    def fit(self, calibration: Calibration, segmenter: Segmenter) -> Self:
        """Without effect; parameters as in `headprobe.detection.composed.Reader.fit`."""
        return self

    def read(self, video: VideoView, cut: Sequence[Segment]) -> Reading:
        """Scores and texts of the nodes; parameters as in `headprobe.detection.composed.Reader`.

        Raises
        ------
        InputError
            The segments are not the nodes of the file, or it does not have the video.
        """
        nodes = self._nodes(video)
        if [one.span for one in cut] != self._spans(video, nodes):
            raise InputError(
                f"the segments of {video.name!r} are not the nodes that were rated; use the same ratings as segmenter."
            )
        texts = [node.text for node in nodes]
        features = None if self.embedder is None else np.asarray(self.embedder(texts), np.float64)
        return Reading(np.array([node.score for node in nodes]), texts if any(texts) else (), features)

    def _nodes(self, video: VideoView) -> list[_Node]:
        rated, said = _of(self._videos, video, "ratings"), {}
        if self._texts:
            said = {_ends(key, video): text for key, text in _of(self._texts, video, "texts").items()}
        nodes = []
        for key, value in rated.items():
            values = value if isinstance(value, list) else [value]
            numbers = [one for one in values if not isinstance(one, str)]
            score = numbers[self.column] if self.column < len(numbers) else ""
            if isinstance(score, bool) or not isinstance(score, int | float | None):
                raise InputError(
                    f"node {key!r} of {video.name!r} is {str(value)[:60]}; its number {self.column} must be a score or "
                    "null."
                )
            first, last = _ends(key, video)
            if said and not isinstance(said.get((first, last)), str):
                raise InputError(
                    f"node {key!r} of {video.name!r} has no text; give texts of the nodes that were rated."
                )
            own = next((one for one in reversed(values) if isinstance(one, str)), "")
            rating = np.nan if score is None or score < 0 else float(score)
            nodes.append(_Node(first, last, rating, said.get((first, last), own)))
        return sorted(nodes)

    def _spans(self, video: VideoView, nodes: Sequence[_Node]) -> list[tuple[int, int]]:
        follow = all(b.first in (a.last, a.last + 1) and b.first > a.first for a, b in pairwise(nodes))
        end = nodes[-1].last + 1 if nodes else 0
        if not nodes or nodes[0].first != 0 or not follow or not video.n_frames - self.short <= end <= video.n_frames:
            shown = ", ".join(f"{node.first}-{node.last}" for node in nodes[:4])
            raise InputError(
                f"the {len(nodes)} nodes of {video.name!r} ({shown} ... {end - 1}) do not follow one another over its "
                f"{video.n_frames} frames; where the last one ends too early, set short."
            )
        return list(pairwise([*(node.first for node in nodes), video.n_frames]))


def node_ratings(
    ratings: Given,
    column: int = 0,
    texts: Given | None = None,
    short: int = 0,
    steps: Sequence[Step] = (),
    name: str = "",
) -> Composed:
    """Published ratings of nodes as a method.

    Parameters
    ----------
    ratings, column, texts, short
        As in `FileRatings`.
    steps
        What is done to the ratings.
    name
        Its row; that of the file if not given.

    Returns
    -------
    Composed

    Examples
    --------
    >>> node_ratings({"a": {"0, 9": [0.2]}}, name="theirs").score(VideoView("a", 10, 10.0)).scores.tolist()
    [0.2]
    """
    both = FileRatings(ratings, column, texts, short=short)
    name = name or ("given ratings" if isinstance(ratings, Mapping) else Path(ratings).name)
    return Composed(name, both, both, list(steps))


def _videos(given: Given) -> tuple[str, dict[str, Mapping[str, Any]]]:
    """A fingerprint of the content, and the nodes of each video."""
    if isinstance(given, Mapping):
        content, what = given, "the ratings"
    else:
        what = os.fspath(given)
        content = parse_json(
            read_text(given), what, InputError, nan=True
        )  # VADTree's files have NaN in their summaries
    found = next((content[key] for key in _UNDER if isinstance(content, Mapping) and key in content), content)
    if not isinstance(found, Mapping) or not found or not all(isinstance(one, Mapping) for one in found.values()):
        raise InputError(f'{what} must map videos to nodes, such as {{"video": {{"0, 99": [0.2, "text"]}}}}.')
    return fingerprint(found), {str(name): nodes for name, nodes in found.items()}


def _of(videos: Mapping[str, Mapping[str, Any]], video: VideoView, what: str) -> Mapping[str, Any]:
    if video.name in videos:
        return videos[video.name]
    fits = list(match_names(videos, [video.name]))
    if len(fits) != 1:
        raise InputError(f"there are no {what} of {video.name!r}; there are those of {sorted(videos)[:3]} and others.")
    return videos[fits[0]]


def _ends(key: str, video: VideoView) -> tuple[int, int]:
    match = _NODE.fullmatch(key)
    if match is None:
        raise InputError(f'a node of {video.name!r} is {key!r}; it must be "first, last" in frames.')
    return int(match[1]), int(match[2])
