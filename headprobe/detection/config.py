"""A benchmark from a file: which videos, which draws, which rows."""

from __future__ import annotations

import inspect
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headprobe._files import read_json, read_text
from headprobe._validation import choice, count
from headprobe.datasets import frame_labels, list_folder, match_videos, read_truth
from headprobe.detection.benchmark import Benchmark, BenchmarkVideos
from headprobe.detection.method import AnnotatedVideo, Method, _find_maker, make_method
from headprobe.detection.open_split import OpenSplit
from headprobe.errors import InputError

__all__ = ["RENDERED", "read_benchmark", "rendered_videos", "truth_videos"]

RENDERED = Path(__file__).parent / "rendered.toml"
"""The benchmark that comes with the package: rendered videos, and every method that runs on the embedded model."""
_BENCHMARK = ("draws", "videos_per_draw", "folds", "reference", "false_alarms", "random_state")


def read_benchmark(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> Benchmark:
    """Read a file that describes a benchmark.

    Parameters
    ----------
    path
        TOML with a table ``videos`` (``kind = "rendered"`` with the settings of `rendered_videos`, or ``"truth"`` with
        those of `truth_videos`; ``novel`` lists classes that no calibration shows, see `OpenSplit`), a table
        ``benchmark`` with settings of `Benchmark`, a table ``common`` with settings for all methods that know them,
        and a list ``method``: ``use`` is a name for `make_method`, the rest its settings; with ``rows = true`` the
        parts that it is composed of are rows too. Paths are relative to the file. ``"rendered"`` is `RENDERED`.
    folder
        Where rendered videos are written.

    Returns
    -------
    Benchmark

    Raises
    ------
    InputError
        The file cannot be read, or names what there is not; the part is said.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as here:
    ...     file = Path(here) / "mine.toml"
    ...     _ = file.write_text('''
    ... videos = {kind = "rendered", normal = 1, per_event = 1, frames = 32}
    ... method = [{use = "position"}]
    ... ''')
    ...     len(read_benchmark(file, here).videos.test)
    6
    """
    file = RENDERED if os.fspath(path) == "rendered" else Path(path)
    if not file.is_file():
        raise InputError(f"There is no file {os.fspath(file)!r}; check the name, or write 'rendered'.")
    try:
        given = tomllib.loads(read_text(file))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{file} is no benchmark: {error}.") from error
    _known(given, ("videos", "benchmark", "common", "method"), f"{file}")
    videos = dict(given.get("videos") or {})
    novel = videos.pop("novel", [])
    kind = choice(videos.pop("kind", None), f"{file}: [videos] kind", ("rendered", "truth"))
    rows = given.get("method")
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{file} names no method; write [[method]] with use = 'headhunt' or another name.")
    common = dict(given.get("common") or {})
    methods = [one for place, row in enumerate(rows, start=1) for one in _methods(row, common, place, file.parent)]
    settings = dict(given.get("benchmark") or {})
    _known(settings, _BENCHMARK, f"{file}: [benchmark]")
    makers = {"rendered": rendered_videos, "truth": truth_videos}
    names = tuple(inspect.signature(makers[kind]).parameters)
    _known(videos, [name for name in names if name not in ("out", "root")], f"{file}: [videos]")
    place = {"out": Path(folder) / "videos"} if kind == "rendered" else {"root": file.parent}
    found = makers[kind](**videos, **place)
    if novel:
        shown = {name for video in (*found.pool, *found.test) for name in video.classes}
        found = OpenSplit(sorted(shown - set(novel)), novel).restrict(found)
    return Benchmark(found, methods, **settings)


def rendered_videos(
    out: str | os.PathLike[str],
    normal: int = 20,
    per_event: int = 4,
    held_out_per_event: int = 0,
    pool_normal: int = 0,
    pool_per_event: int = 0,
    frames: int = 160,
    seed: int = 0,
) -> BenchmarkVideos:
    """Rendered surveillance footage with frame-exact truth: test videos, and a pool of other scenes for calibration.

    Parameters
    ----------
    out
        Folder for the videos; those that are there are taken.
    normal, per_event, held_out_per_event
        Test videos without an event, of each kind of event, and of each kind that no pool shows.
    pool_normal, pool_per_event
        Videos of the pool; none where test videos are calibration of one another.
    frames
        Frames of a video, 10 in a second.
    seed
        Of the footage.

    Returns
    -------
    BenchmarkVideos
        With the subsets `seen`, `held out` and each kind of event, each with all normal videos.

    Raises
    ------
    InputError
        A number is out of range.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = rendered_videos(folder, normal=1, per_event=1, frames=32)
    >>> len(found.test), list(found.subsets)
    (6, ['running', 'fall', 'fight', 'vehicle', 'bag'])
    """
    from headprobe.video.scenes import HELD_OUT_EVENTS, NORMAL, SEEN_EVENTS

    for name, value in (("normal", normal), ("per_event", per_event), ("frames", frames)):
        count(value, name)
    counts = {NORMAL: normal, **dict.fromkeys(SEEN_EVENTS, per_event)}
    counts |= dict.fromkeys(HELD_OUT_EVENTS, held_out_per_event) if held_out_per_event else {}
    test = _rendered(Path(out), "test", counts, seed * 10 + 1, frames)
    pool: list[AnnotatedVideo] = []
    if pool_normal or pool_per_event:
        counts = {NORMAL: pool_normal, **dict.fromkeys(SEEN_EVENTS, pool_per_event)}
        pool = _rendered(Path(out), "calibration", counts, seed * 10, frames)
    calm = [video.name for video in test if not video.abnormal]
    of_kind = {kind: [v.name for v in test if kind in v.classes] for kind in (*SEEN_EVENTS, *HELD_OUT_EVENTS)}
    subsets = {kind: [*calm, *names] for kind, names in of_kind.items() if names}
    if held_out_per_event:
        parts = {"seen": SEEN_EVENTS, "held out": HELD_OUT_EVENTS}
        subsets = {
            name: [*calm, *(v for kind in kinds for v in of_kind[kind])] for name, kinds in parts.items()
        } | subsets
    return BenchmarkVideos(f"rendered (seed {seed})", test, pool, subsets)


def _rendered(folder: Path, split: str, counts: Mapping[str, int], seed: int, frames: int) -> list[AnnotatedVideo]:
    """The videos of a split, rendered unless the folder has them."""
    from headprobe.video.scenes import FPS, NORMAL, write_videos

    place = folder / split
    kept = read_json(place / "annotations.json") if (place / "annotations.json").exists() else {}
    there = kept.get("videos", {})
    found: dict[str, int] = {}
    for one in there.values():
        found[one["event"]] = found.get(one["event"], 0) + 1
    same = found == {kind: n for kind, n in counts.items() if n} and kept.get("seed") == seed
    if not same or any(one["n_frames"] != frames or not (place / name).exists() for name, one in there.items()):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        write_videos(
            place, split, counts, seed=seed, n_frames=frames, workers=max(min(cores, sum(counts.values()) // 20), 1)
        )
        there = read_json(place / "annotations.json")["videos"]
    videos = []
    for name, one in there.items():
        truth = frame_labels([(first, end) for first, end in one["intervals"]], one["n_frames"])
        kinds = () if one["event"] == NORMAL else (one["event"],)
        videos.append(AnnotatedVideo(Path(name).stem, truth, FPS, place / name, kinds, f"{split} {one['scene']}"))
    return videos


def truth_videos(
    dataset: str,
    truth: str | os.PathLike[str],
    frame_counts: str | os.PathLike[str] | None = None,
    folder: str | os.PathLike[str] | None = None,
    pool: str | os.PathLike[str] | None = None,
    fps: float = 0.0,
    normal: str = "Normal",
    root: str | os.PathLike[str] = ".",
) -> BenchmarkVideos:
    """Videos of a data set by its annotation, with or without their files.

    Parameters
    ----------
    dataset, truth, frame_counts, normal
        As `dataset`, `ground_truth`, `frame_counts` and `normal` of `headprobe.datasets.read_truth`.
    folder
        Folder with the video files; not needed for score files, captions and ratings.
    pool
        Annotation of other videos, of the same kind, for calibration; without it test videos are calibration of one
        another, by folds.
    fps
        Frames per second, needed where there are no files.
    root
        What paths are relative to.

    Returns
    -------
    BenchmarkVideos
        Every class of events is a subset, with all normal videos.

    Raises
    ------
    InputError
        As in `read_truth`; or a file is missing, or neither files nor a frame rate are given.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as here:
    ...     _ = Path(here, "truth.csv").write_text("video,abnormal,n_frames,start,end\\na,1,20,5,9\\nb,0,20,,\\n")
    ...     [video.abnormal for video in truth_videos("table", "truth.csv", fps=10.0, root=here).test]
    [True, False]
    """
    here = Path(root)

    def read(given: str | os.PathLike[str]) -> list[AnnotatedVideo]:
        counts = None if frame_counts is None else here / frame_counts
        known = read_truth(dataset, here / given, counts, normal)
        names = {video.name for video in known.videos if video.events is not None and video.n_frames is not None}
        known = known.only(names) if names else known
        paths: dict[str, Path] = {}
        if folder is not None:
            found, _ = match_videos(known, list_folder(here / folder))
            missing = [video.name for video in known.videos if video.name not in found]
            if missing:
                raise InputError(
                    f"{here / folder} has no file of {len(missing)} of {len(known)} videos, of {missing[0]!r} for one."
                )
            paths = {name: places[0].path for name, places in found.items()}
        elif not fps:
            raise InputError(f"[videos] fps is missing; without files nothing says the frame rate of {dataset}.")
        classes = known.classes()
        return [
            AnnotatedVideo(name, labels, _rate(paths[name]) if name in paths else fps, paths.get(name), classes[name])
            for name, labels in known.truth().items()
        ]

    test = read(truth)
    kinds = sorted({kind for video in test for kind in video.classes})
    calm = [video.name for video in test if not video.abnormal]
    subsets = {kind: [*calm, *(v.name for v in test if kind in v.classes)] for kind in kinds} if len(kinds) > 1 else {}
    return BenchmarkVideos(dataset, test, [] if pool is None else read(pool), subsets)


def _rate(path: Path) -> float:
    from headprobe.video.decode import probe

    return probe(path).fps


def _methods(row: Any, common: Mapping[str, Any], place: int, here: Path) -> list[Method]:
    """The method of a table, or the rows of its parts; settings for all go where they are known."""
    if not isinstance(row, dict) or not isinstance(row.get("use"), str):
        raise InputError(f"method {place} has no use; write use = 'headhunt' or another name.")
    given = {key: value for key, value in row.items() if key not in ("use", "rows")}
    for key in ("path", "ratings", "replies", "coarse", "fine", "texts", "order"):
        if isinstance(given.get(key), str) and (key, given[key]) != ("order", "truth"):
            given[key] = here / given[key]
    known = inspect.signature(_find_maker(row["use"])).parameters
    inner = inspect.signature(_find_maker(given["method"])).parameters if isinstance(given.get("method"), str) else {}
    shared = {key: value for key, value in common.items() if key in known or key in inner}
    made: Any = make_method(row["use"], **(shared | given))
    if not row.get("rows"):
        return [made]
    if not hasattr(made, "rows"):
        raise InputError(f"method {place}, {row['use']!r}, is not made of parts; leave rows out.")
    return list(made.rows())


def _known(given: Mapping[str, Any], names: Any, where: str) -> None:
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise InputError(f"{where} has {unknown[0]!r}; known are {', '.join(names)}.")
