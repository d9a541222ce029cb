"""Every detector on the same videos: the same calibration draws, what each may be told, nothing done twice."""

from __future__ import annotations

import copy
import json
import math
import os
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.model_selection import StratifiedKFold

from headprobe._files import write_file
from headprobe._validation import count, number, seed
from headprobe.detection.method import NEEDS, AnnotatedVideo, Calibration, Method, SegmentScores, fingerprint
from headprobe.detection.table import Comparison
from headprobe.errors import HeadprobeError, HeadprobeWarning, InputError, VideoError
from headprobe.evaluation.bootstrap import _kinds, _number, bootstrap
from headprobe.evaluation.controls import blind_scores, of_another_video, shifted_in_time, video_means
from headprobe.evaluation.frames import _count_videos, _Counts, evaluate
from headprobe.video.spans import stretches

__all__ = ["Benchmark", "BenchmarkVideos", "draw_videos"]

METRICS = ("auc", "ap", "within_auc")
"""Numbers of a row that have an interval and differences."""
_WRITTEN = "scores"
BLIND = {
    "constant_per_video": "oracle: one value per video",
    "position_prior": "position prior",
    "constant_times_position_prior": "oracle: one value per video x position prior",
}


def draw_videos(
    kinds: Mapping[str, str], n_draws: int, n_videos: int, normal: str, random_state: int = 0
) -> Iterator[list[str]]:
    """Calibration videos of each draw: half normal, half abnormal, the kinds of event as even as they can be.

    Parameters
    ----------
    kinds
        Video of the pool to its kind of event.
    n_draws
        How many draws.
    n_videos
        Videos of a draw, an even number.
    normal
        The kind of videos without an event.
    random_state
        Seed.

    Yields
    ------
    list of str
        Names.

    Raises
    ------
    InputError
        The number is odd, or the pool too small.

    Examples
    --------
    >>> pool = {"a": "fall", "b": "fight", "c": "normal", "d": "normal"}
    >>> [sorted(names) for names in draw_videos(pool, 1, 4, "normal")]
    [['a', 'b', 'c', 'd']]
    """
    by_kind: dict[str, list[str]] = {}
    for video, kind in kinds.items():
        by_kind.setdefault(kind, []).append(video)
    events = [kind for kind in by_kind if kind != normal]
    if n_videos < 2 or n_videos % 2:
        raise InputError(f"a draw is half normal and half abnormal; {n_videos} videos cannot be: give an even number")
    half = n_videos // 2
    if len(by_kind.get(normal, [])) < half or sum(len(by_kind[kind]) for kind in events) < half:
        there = {kind: len(videos) for kind, videos in by_kind.items()}
        raise InputError(f"a draw needs {half} normal and {half} abnormal videos; the pool has {there}")
    for draw in range(n_draws):
        rng = np.random.default_rng([random_state, draw])
        chosen = rng.choice(by_kind[normal], half, replace=False).tolist()
        queues = {kind: rng.permutation(by_kind[kind]).tolist() for kind in events}
        order = rng.permutation(events).tolist()
        while len(chosen) < 2 * half:
            for kind in order:
                if queues[kind] and len(chosen) < 2 * half:
                    chosen.append(queues[kind].pop())
        yield chosen


@dataclass(frozen=True, eq=False)
class BenchmarkVideos:
    """The videos of a benchmark.

    Parameters
    ----------
    name
        Of the data.
    test
        Videos that all methods are compared on.
    pool
        Videos that calibration is drawn from; empty where the test videos are calibration of one another, by folds.
    subsets
        Parts of the test videos that have numbers of their own, such as the events that no calibration video shows.

    Raises
    ------
    InputError
        A name occurs twice, a video or its group is in both parts, or all videos are of one kind.

    Examples
    --------
    >>> fall, calm = AnnotatedVideo("a", np.array([0, 1]), 10.0), AnnotatedVideo("b", np.array([0, 0]), 10.0)
    >>> len(BenchmarkVideos("mine", [fall, calm]).test)
    2
    """

    name: str
    test: Sequence[AnnotatedVideo]
    pool: Sequence[AnnotatedVideo] = ()
    subsets: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        twice = [name for name, n in Counter(v.name for v in (*self.pool, *self.test)).items() if n > 1]
        if twice:
            raise InputError(
                f"{self.name}: the video {twice[0]!r} is there twice; a video is calibration or test, once."
            )
        both = sorted({v.group for v in self.pool} & {v.group for v in self.test})
        if both:
            raise InputError(
                f"{self.name}: {both[0]!r} is in the calibration pool and in the test videos; keep it in one."
            )
        kinds = {video.abnormal for video in self.test}
        if len(kinds) < 2:
            raise InputError(
                f"{self.name}: the test videos are {'all of one kind' if kinds else 'none'}; give both kinds."
            )
        known = {video.name for video in self.test}
        for subset, names in self.subsets.items():
            unknown = sorted(set(names) - known)
            if unknown:
                raise InputError(f"{self.name}: the subset {subset!r} has {unknown[0]!r}, which is no test video.")

    @property
    def hours(self) -> float:
        """Hours of test video."""
        return sum(video.view.seconds for video in self.test) / 3600


@dataclass(frozen=True)
class _Round:
    """One fit: which method with which seed, on which videos, and which it scores."""

    row: int
    draw: int
    repeat: int
    calibration: tuple[str, ...]
    scored: tuple[str, ...]


@dataclass(eq=False)
class Benchmark:
    """Methods side by side on the same videos.

    Parameters
    ----------
    videos
        Test videos and the pool for calibration.
    methods
        The rows, with names of their own. One that has ``repeats`` is fitted so often in each draw, with seeds from
        ``seeded(number)``, and its numbers are means over them. One that has ``prepare(videos, folder)`` is given all
        videos once before anything is scored, for work that all draws share.
    draws
        Calibration draws; with `folds`, how often the folds are drawn.
    videos_per_draw
        Videos of a draw, half of them normal. All methods get the same ones, restricted to what each needs.
    folds
        With an empty pool: parts of the test videos; each is scored by what was fitted on the others.
    reference
        Name of the row that the others are compared with; the first where not given.
    false_alarms
        Share of normal frames that may be flagged when events found are counted.
    random_state
        Seed of the draws.

    Raises
    ------
    InputError
        Two rows have one name, or a setting is out of range.

    Examples
    --------
    >>> from headprobe.detection.blind import Position, ScoreFile
    >>> rng = np.random.default_rng(0)
    >>> videos = [AnnotatedVideo(f"v{i}", (np.arange(40) // 10 == 2) & (i % 2 == 0), 10.0) for i in range(8)]
    >>> seen = ScoreFile({v.name: v.truth + rng.normal(size=40) for v in videos}, name="seen", needs="frame truth")
    >>> found = Benchmark(BenchmarkVideos("made", videos), [seen, Position()], folds=2).run(progress=False)
    >>> [row["name"] for row in found.rows][:2], found.rows[0]["auc"] > 0.6
    (['seen', 'position in the video'], True)
    """

    videos: BenchmarkVideos
    methods: Sequence[Method]
    draws: int = 5
    videos_per_draw: int = 16
    folds: int = 5
    reference: str = ""
    false_alarms: float = 0.05
    random_state: int = 0

    def __post_init__(self) -> None:
        count(self.draws, "draws")
        count(self.videos_per_draw, "videos_per_draw", 2)
        count(self.folds, "folds", 2)
        number(self.false_alarms, "false_alarms", above=0, below=1)
        seed(self.random_state)
        names = [method.name for method in self.methods]
        twice = [name for name, n in Counter(names).items() if n > 1]
        if not names or twice:
            raise InputError(
                f"two rows are named {twice[0]!r}; give each its own." if twice else "there are no methods."
            )
        self.reference = self.reference or names[0]
        if self.reference not in names:
            raise InputError(
                f"reference is {self.reference!r}; it must be one of the rows {', '.join(map(repr, names))}."
            )
        wrong = [method for method in self.methods if method.needs not in NEEDS]
        if wrong:
            raise InputError(f"{wrong[0].name!r} needs {wrong[0].needs!r}; it must be one of {', '.join(NEEDS)}.")

    def run(self, folder: str | os.PathLike[str] | None = None, progress: bool = True) -> Comparison:
        """Fit and score everything that is not there yet, and make the table.

        Parameters
        ----------
        folder
            Where scores are kept, video by video; a run that was stopped goes on there. None keeps nothing.
        progress
            Whether to show a progress bar.

        Returns
        -------
        Comparison

        Raises
        ------
        InputError
            No method could score anything.
        """
        from tqdm.auto import tqdm

        place = None if folder is None else Path(folder)
        if place is not None:
            (place / _WRITTEN).mkdir(parents=True, exist_ok=True)
        rounds, failed = self._rounds(), {}
        kept: dict[int, list[dict[str, SegmentScores]]] = {}
        lost: dict[str, dict[str, str]] = {}
        with tqdm(
            total=sum(len(one.scored) for one in rounds), desc="benchmark", unit="video", disable=not progress
        ) as bar:
            for one in rounds:
                method = self.methods[one.row]
                if method.name in failed:
                    bar.update(len(one.scored))
                    continue
                bar.set_postfix_str(method.name[:30], refresh=False)
                try:
                    found, unreadable = self._scores(method, one, place, bar)
                except HeadprobeError as error:
                    failed[method.name] = str(error)
                    continue
                lost.setdefault(method.name, {}).update(unreadable)
                sets = kept.setdefault(one.row, [])
                number_ = one.draw * self._repeats(method) + one.repeat
                sets.extend({} for _ in range(number_ + 1 - len(sets)))
                sets[number_] |= found
        return self._table(kept, failed, lost)

    # Within

    def _repeats(self, method: Method) -> int:
        return int(getattr(method, "repeats", 1))

    def _rounds(self) -> list[_Round]:
        """All fits, row by row; a method that needs nothing is not fitted again in other draws."""
        test = tuple(video.name for video in self.videos.test)
        plan = list(self._plan())
        rounds = []
        for row, method in enumerate(self.methods):
            if method.needs == "nothing":
                rounds += [_Round(row, 0, repeat, (), test) for repeat in range(self._repeats(method))]
                continue
            for draw, parts in enumerate(plan):
                for calibration, scored in parts:
                    for repeat in range(self._repeats(method)):
                        rounds.append(_Round(row, draw, repeat, calibration, scored))
        return rounds

    def _plan(self) -> Iterator[list[tuple[tuple[str, ...], tuple[str, ...]]]]:
        """For each draw, what is fitted on and what is scored by it."""
        test = self.videos.test
        names = tuple(video.name for video in test)
        if all(method.needs == "nothing" for method in self.methods):
            return
        if self.videos.pool:
            kinds = {video.name: video.class_name for video in self.videos.pool}
            normal = next((v.class_name for v in self.videos.pool if not v.abnormal), "")
            for chosen in draw_videos(kinds, self.draws, self.videos_per_draw, normal, self.random_state):
                yield [(tuple(chosen), names)]
            return
        groups = {video.group: video.abnormal for video in test}
        for video in test:
            groups[video.group] = groups[video.group] or video.abnormal
        labels = np.array(list(groups.values()), int)
        if np.bincount(labels, minlength=2).min() < self.folds:
            raise InputError(
                f"folds is {self.folds}; it must be at most {np.bincount(labels, minlength=2).min()}, the videos of "
                "the rarer kind."
            )
        for draw in range(self.draws):
            split = StratifiedKFold(self.folds, shuffle=True, random_state=self.random_state + draw)
            parts = []
            for _, held in split.split(labels[:, None], labels):
                out = {list(groups)[i] for i in held}
                parts.append(
                    (
                        tuple(video.name for video in test if video.group not in out),
                        tuple(video.name for video in test if video.group in out),
                    )
                )
            yield parts

    def _scores(
        self, method: Method, one: _Round, place: Path | None, bar: Any
    ) -> tuple[dict[str, SegmentScores], dict[str, str]]:
        """Scores of the videos of a round, read from the folder where they are there, and what could not be read."""
        known = {video.name: video for video in (*self.videos.pool, *self.videos.test)}
        told = [known[name] for name in one.calibration]
        if one.repeat or self._repeats(method) > 1:
            method = method.seeded(one.repeat)  # pyright: ignore[reportAttributeAccessIssue]
        key = fingerprint(
            method.fingerprint,
            method.needs,
            sorted((v.name, v.truth) for v in told) if method.needs != "nothing" else [],
        )
        file = None if place is None else place / _WRITTEN / f"{key}.jsonl"
        found, lost = {}, {}
        for name, line in _lines(file).items():
            if name in one.scored and line["video"] == _identity(known[name]):
                if "error" in line:
                    lost[name] = line["error"]
                else:
                    found[name] = SegmentScores.from_dict(line)
        bar.update(len(found) + len(lost))
        missing = [name for name in one.scored if name not in found and name not in lost]
        if not missing:
            return found, lost
        prepare = getattr(method, "prepare", None)
        if prepare is not None:
            prepare([video.view for video in known.values()], None if place is None else place / "parts")
        fitted = copy.copy(method).fit(Calibration(told, method.needs))
        for name in missing:
            video = known[name]
            began = time.perf_counter()
            try:
                scores = fitted.score(video.view)
                scores.frames(len(video.truth))
            except VideoError as error:
                lost[name] = str(error)
                line = {"video": _identity(video), "error": str(error)}
            except InputError as error:
                raise InputError(f"video {name!r}: {error}") from error
            else:
                if not scores.seconds:
                    object.__setattr__(scores, "seconds", time.perf_counter() - began)
                found[name] = scores
                line = {"video": _identity(video), **scores.to_dict()}
            if file is not None:
                with file.open("a", encoding="utf-8") as out:
                    out.write(json.dumps({"name": name, **line}) + "\n")
            bar.update(1)
        return found, lost

    def _table(
        self,
        kept: Mapping[int, list[dict[str, SegmentScores]]],
        failed: dict[str, str],
        lost: Mapping[str, Mapping[str, str]],
    ) -> Comparison:
        truth = {video.name: video.truth for video in self.videos.test}
        rows, counts = [], {}
        for number_, method in enumerate(self.methods):
            if method.name in failed or number_ not in kept:
                continue
            row, counted_ = self._row(method, kept[number_], truth)
            if row is None:
                failed[method.name] = "no video could be read"
                continue
            row["unreadable_videos"] = len(lost.get(method.name, {}))
            rows.append(row)
            counts[method.name] = counted_
        if not rows:
            raise InputError(f"no method gave a score: {'; '.join(f'{k}: {v}' for k, v in failed.items())}.")
        for name, frames in blind_scores(truth).items():
            row = {"name": BLIND[name], "needs": "frame truth" if "constant" in name else "nothing", "blind": True}
            counts[row["name"]] = [_by_name(frames, truth)]
            rows.append(
                row
                | self._numbers(counts[row["name"]])
                | {"events_found": _events_found(frames, truth, self.false_alarms)}
            )
        return Comparison(
            rows,
            self._differences(counts),
            {
                "videos": self.videos.name,
                "n_test": len(truth),
                "n_abnormal_test": sum(bool(t.any()) for t in truth.values()),
                "n_pool": len(self.videos.pool),
                "hours": self.videos.hours,
                "draws": self.draws,
                "videos_per_draw": self.videos_per_draw if self.videos.pool else None,
                "folds": None if self.videos.pool else self.folds,
                "false_alarms": self.false_alarms,
                "reference": self.reference,
                "random_state": self.random_state,
            },
            failed,
            {name: dict(one) for name, one in lost.items() if one},
        )

    def _row(
        self, method: Method, sets: Sequence[Mapping[str, SegmentScores]], truth: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, Any] | None, list[dict[str, _Counts]]]:
        each: list[dict[str, _Counts]] = []
        more: dict[str, list[float]] = {}
        subsets: dict[str, dict[str, list[float]]] = {}
        unread, silent = [], set()
        for scores in sets:
            frames = {}
            for name, one in scores.items():
                unread.append(one.unread)
                filled = _filled(one, len(truth[name]))
                if filled is None:
                    silent.add(name)
                else:
                    frames[name] = filled
            true = {name: truth[name] for name in frames}
            if len({bool(t.any()) for t in true.values()}) < 2:
                return None, []
            each.append(_by_name(frames, true))
            found = {"events_found": _events_found(frames, true, self.false_alarms)}
            moved = {"own_mean_auc": video_means(frames), "own_shifted_auc": shifted_in_time(frames, self.random_state)}
            moved["own_of_another_auc"] = of_another_video(frames, self.random_state)
            found |= {key: float(evaluate(given, true)["auc"] or math.nan) for key, given in moved.items()}
            for key, value in found.items():
                more.setdefault(key, []).append(math.nan if value is None else value)
            for subset, names in self.videos.subsets.items():
                part = [name for name in names if name in frames]
                result = _subset({n: frames[n] for n in part}, {n: true[n] for n in part})
                for key, value in result.items():
                    subsets.setdefault(subset, {}).setdefault(key, []).append(value)
        hours = self.videos.hours
        spent = [sum(one.seconds for one in scores.values()) for scores in sets]
        calls = [sum(one.calls for one in scores.values()) for scores in sets]
        return {
            "name": method.name,
            "needs": method.needs,
            "causal": bool(method.causal),
            "blind": False,
            **self._numbers(each),
            **{key: float(np.mean(values)) for key, values in more.items()},
            "subsets": {name: {k: float(np.mean(v)) for k, v in part.items()} for name, part in subsets.items()},
            "unread": float(np.mean(unread)),
            "silent_videos": sorted(silent),
            "seconds_per_hour": float(np.mean(spent)) / hours,
            "calls_per_hour": float(np.mean(calls)) / hours,
        }, each

    def _numbers(self, each: Sequence[Mapping[str, _Counts]]) -> dict[str, Any]:
        """Means over draws with t intervals over videos, and the spread over draws."""
        out: dict[str, Any] = {"n_draws": len(each)}
        for metric in METRICS:
            of_draw = [_number(list(one.values()), metric) for one in each]
            ones = [np.ones(len(one)) for one in each]
            values = [value(weight) for value, weight in zip(of_draw, ones, strict=True)]
            known = [value for value in values if value is not None]
            out[metric] = float(np.mean(known)) if len(known) == len(values) else None
            out[f"{metric}_sd"] = float(np.std(known, ddof=1)) if len(known) > 1 else None
            low, high, why = self._interval(metric, [each])
            out |= {f"{metric}_low": low, f"{metric}_high": high} | ({f"{metric}_no_interval": why} if why else {})
        return out

    def _interval(
        self, metric: str, sides: Sequence[Sequence[Mapping[str, _Counts]]], confidence: float = 0.95
    ) -> tuple[float | None, float | None, str]:
        """The t interval over videos of a mean over draws, or of the difference of two; or why there is none."""
        shared = [name for name in sides[0][0] if all(name in one for side in sides for one in side)]
        if len(shared) < 2:
            return None, None, "fewer than two videos are read by all."
        means = [[_number([one[name] for name in shared], metric) for one in side] for side in sides]

        def value(weight: np.ndarray) -> float | None:
            found = [[number_(weight) for number_ in side] for side in means]
            if any(one is None for side in found for one in side):
                return None
            first, *rest = (float(np.mean(side)) for side in found)  # pyright: ignore[reportArgumentType, reportCallIssue]
            return first - rest[0] if rest else first

        strata = _kinds([sides[0][0][name] for name in shared])
        try:
            found = bootstrap(
                value, len(shared), confidence=confidence, kind="t", strata=strata, bounded=len(sides) == 1
            )
        except InputError as error:
            return None, None, str(error)
        return found.low, found.high, ""

    def _differences(self, counts: Mapping[str, list[dict[str, _Counts]]]) -> list[dict[str, Any]]:
        """The reference minus every other row on the videos both read, with intervals corrected for their number."""
        base = counts.get(self.reference)
        others = [name for name in counts if name != self.reference]
        if base is None:
            return []
        confidence, out = 1 - 0.05 / max(len(others), 1), []
        for name in others:
            other = counts[name]
            # A row that was fitted once stands against every draw of the reference, and the other way round.
            n = max(len(base), len(other))
            paired = [side * n if len(side) == 1 else side for side in (base, other)]
            if len(paired[0]) != len(paired[1]):
                times = math.lcm(len(paired[0]), len(paired[1]))
                paired = [[one for one in side for _ in range(times // len(side))] for side in paired]
            row: dict[str, Any] = {"minus": name}
            for metric in METRICS:
                shared = [v for v in paired[0][0] if all(v in one for side in paired for one in side)]
                each = [
                    [_number([one[v] for v in shared], metric)(np.ones(len(shared))) for one in side] for side in paired
                ]
                known = all(value is not None for side in each for value in side)
                row[metric] = float(np.mean(each[0]) - np.mean(each[1])) if known else None  # pyright: ignore
                low, high, why = self._interval(metric, paired, confidence)
                row |= {f"{metric}_low": low, f"{metric}_high": high} | ({f"{metric}_no_interval": why} if why else {})
            out.append(row)
        return out


def _lines(file: Path | None) -> dict[str, dict[str, Any]]:
    """Lines of a file of scores by video; the last one may be torn."""
    if file is None or not file.exists():
        return {}
    out: dict[str, dict[str, Any]] = {}
    text = file.read_text(encoding="utf-8")
    whole, torn = text[: text.rfind("\n") + 1], text[text.rfind("\n") + 1 :]
    if torn:  # a run was killed while it wrote
        write_file(file, whole)
    for line in whole.splitlines():
        try:
            given = json.loads(line)
            out[given["name"]] = given
        except (ValueError, KeyError, TypeError):
            warnings.warn(f"{file} has a damaged line; its video is scored again.", HeadprobeWarning, stacklevel=2)
    return out


def _identity(video: AnnotatedVideo) -> list[Any]:
    """What must be the same for kept scores to be those of this video."""
    state = None if video.path is None else video.path.stat() if video.path.exists() else None
    return [len(video.truth), video.fps, None if state is None else [state.st_size, state.st_mtime_ns]]


def _filled(scores: SegmentScores, n_frames: int) -> Float[np.ndarray, " frame"] | None:
    """Scores of all frames, unread ones between their neighbours in time; None where nothing was read."""
    frames = scores.frames(n_frames)
    there = np.flatnonzero(~np.isnan(frames))
    if not len(there):
        return None
    return frames if len(there) == n_frames else np.interp(np.arange(n_frames), there, frames[there])


def _by_name(frames: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> dict[str, _Counts]:
    return dict(zip(frames, _count_videos(frames, {name: truth[name] for name in frames}), strict=True))


def _subset(frames: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> dict[str, float]:
    try:
        found = evaluate(frames, truth)
    except InputError:  # frames of one kind only: no number is defined
        return dict.fromkeys(METRICS, math.nan)
    return {metric: math.nan if found[metric] is None else float(found[metric]) for metric in METRICS}  # pyright: ignore


def _events_found(
    frames: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray], false_alarms: float
) -> float | None:
    """Share of events of which a frame is flagged, with the threshold that flags this share of the normal frames."""
    normal = np.concatenate([frames[name][~truth[name].astype(bool)] for name in frames])
    threshold = np.quantile(normal, 1 - false_alarms, method="higher")
    hits = [
        bool((frames[name][first:end] > threshold).any()) for name in frames for first, end in stretches(truth[name])
    ]
    return float(np.mean(hits)) if hits else None
