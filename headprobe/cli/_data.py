"""The commands ``headprobe data check``, ``headprobe data sample`` and ``headprobe evaluate``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from headprobe.cli._run import App, AsJson, run, say, width

app = App(
    help="Data sets: what is there, what is missing, and which videos to calibrate on.",
)
Root = Annotated[Path, typer.Argument(help="Folder that holds the videos, anywhere beneath it.", show_default=False)]
Name = Annotated[
    str,
    typer.Option(
        "--dataset",
        help="ucf-crime, xd-violence, ped2, shanghaitech, tad, folder, table or temporal.",
        show_default=False,
    ),
]
Annotations = Annotated[
    Path | None, typer.Option(help="Folder with the annotation files, if they are elsewhere.", show_default=False)
]
Table = Annotated[
    Path | None, typer.Option(help="For --dataset table: a CSV file of videos, events or frames.", show_default=False)
]
Normal = Annotated[str, typer.Option(help="For --dataset folder: the folder of the normal videos.")]
WeakSplit = Annotated[
    bool, typer.Option("--weak-split", help="For --dataset shanghaitech: the weakly supervised split.")
]


@app.command()
def check(
    root: Root,
    dataset: Name,
    annotations: Annotations = None,
    table: Table = None,
    normal: Normal = "Normal",
    weak_split: WeakSplit = False,
    open_files: Annotated[
        bool, typer.Option("--open", help="Also open every video file and count its frames.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say which videos of a data set are there and missing, and what every number would be computed on."""
    from headprobe.datasets import Check, check_dataset, list_folder, load_dataset

    def work() -> Check:
        listing = list_folder(root)
        data = load_dataset(
            dataset,
            root,
            annotations=annotations,
            table=table,
            normal=normal,
            weak_split=weak_split,
            listing=listing,
        )
        return check_dataset(data, listing, open_files=open_files)

    found = run(work)
    say(json.dumps(found.to_dict(), indent=2) if as_json else "\n".join(found.lines()))
    if not found.complete:
        raise typer.Exit(1)


@app.command()
def sample(
    root: Root,
    dataset: Name,
    out: Annotated[Path, typer.Option(help="JSON file for the list.", show_default=False)],
    fraction: Annotated[float, typer.Option(help="Share of the training videos.")] = 0.01,
    n_videos: Annotated[int, typer.Option(help="How many videos to draw instead; 0 for the fraction.")] = 0,
    balance: Annotated[
        str, typer.Option(help="'pool': normal and abnormal as in the training set; 'equal': half and half.")
    ] = "pool",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw.")] = 0,
    annotations: Annotations = None,
    table: Table = None,
    normal: Normal = "Normal",
    weak_split: WeakSplit = False,
) -> None:
    """Draw the calibration videos from the training set, every class in proportion, and write their list."""
    from headprobe.datasets import load_dataset
    from headprobe.headhunt.calibration import CalibrationSample, _class_counts, sample_videos

    def work() -> CalibrationSample:
        data = load_dataset(
            dataset, root, annotations=annotations, table=table, normal=normal, weak_split=weak_split
        ).split("train")
        drawn = sample_videos(
            data.class_names(),
            fraction=fraction,
            n_videos=n_videos or None,
            balance=balance,  # pyright: ignore[reportArgumentType]
            random_state=seed,
            dataset=data.name,
        )
        drawn.save(out)
        return drawn

    drawn = run(work)
    counts = ", ".join(f"{name} {count}" for name, count in _class_counts(drawn).items())
    say(f"{len(drawn.videos)} of {drawn.n_pool} training videos ({counts}); list in {out}")


def evaluate(
    scores: Annotated[
        Path,
        typer.Option(
            help="JSON, by video a list of scores, one per frame, or of spans (first frame, last frame, score); CSV "
            "with the columns video and score, and frame or first and last; a folder with a .npy array per video; or "
            "one .npy array of all, with --order.",
            show_default=False,
        ),
    ],
    ground_truth: Annotated[
        Path,
        typer.Option(
            help="The data set's temporal annotation, a table, or the folder with a folder per class.",
            show_default=False,
        ),
    ],
    dataset: Annotated[
        str,
        typer.Option(
            help="ucf-crime, xd-violence, ped2, shanghaitech, tad, folder, table or temporal (any data set in the "
            "grammar of UCF-Crime).",
            show_default=False,
        ),
    ],
    frame_counts: Annotated[
        Path | None, typer.Option(help="Lines 'name first last class', both ends inclusive.", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write all numbers here (.json).", show_default=False)] = None,
    frames_per_score: Annotated[
        int, typer.Option(min=0, help="Frames that one score of a list stands for; 0 for one.")
    ] = 0,
    rest: Annotated[
        str,
        typer.Option(
            help="Frames behind the last whole stretch of a score: exact (they have one of their own), last (the last "
            "score stands for them too), or spread (scores stand for equal parts of the video)."
        ),
    ] = "exact",
    order: Annotated[
        str, typer.Option(help="For one .npy array: a text file with the videos in their order, or truth.")
    ] = "",
    by_class: Annotated[bool, typer.Option("--by-class", help="Also each class with all normal videos.")] = False,
    tau: Annotated[
        float | None, typer.Option(help="Threshold for event-level numbers; needs --fps.", show_default=False)
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Frames per second of the videos.", show_default=False)] = None,
    bootstrap: Annotated[
        int, typer.Option(min=0, help="Resamples of the videos, for --interval percentile and bca.")
    ] = 0,
    interval: Annotated[
        str,
        typer.Option(
            help="Intervals over videos: t, percentile or bca (both with --bootstrap), or none; by default t, and "
            "percentile with --bootstrap."
        ),
    ] = "",
    normal: Normal = "Normal",
    seed: Annotated[int, typer.Option(min=0, help="Seed of resamples and random controls.")] = 0,
    sigmoid: Annotated[
        bool,
        typer.Option("--sigmoid", help="Put scores through a sigmoid first, to repeat numbers that were made so."),
    ] = False,
    decimals: Annotated[
        int | None, typer.Option(min=0, help="Round scores to so many decimals, likewise.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate the scores of any method, beside controls that look at no frame."""
    from headprobe._files import write_json
    from headprobe.datasets import read_truth
    from headprobe.errors import InputError
    from headprobe.evaluation import evaluate_by_label, full_evaluation, read_scores, read_video_scores
    from headprobe.provenance import versions

    def work() -> dict[str, Any]:
        if tau is not None and fps is None:
            raise InputError("events are counted in seconds: --tau needs --fps, the frame rate of the videos")
        if out is not None and not out.parent.is_dir():
            raise InputError(f"there is no folder {out.parent} to write {out.name} into")
        kind = interval or ("percentile" if bootstrap else "t")
        if kind not in ("t", "percentile", "bca", "none"):
            raise InputError(f"--interval must be t, percentile, bca or none, got {interval!r}")
        if (kind in ("percentile", "bca")) != bool(bootstrap):
            raise InputError(
                f"--interval {kind} and --bootstrap {bootstrap} do not go together: percentile and bca resample the "
                "videos, the others do not"
            )
        resampling: Any = {
            "n_resamples": bootstrap,
            "kind": None if kind == "none" else kind,
            "random_state": seed,
        }
        data = read_truth(dataset, ground_truth, frame_counts, normal)
        untimed = [video.name for video in data.videos if video.events is None]
        if untimed:
            if tau is not None or by_class or frames_per_score:
                raise InputError(
                    f"no file says when the events of {len(untimed)} of {len(data)} videos happen, such as "
                    f"{untimed[0]!r}, so only numbers over videos can be given: leave out --tau, --by-class and "
                    "--frames-per-score"
                )
            of_videos = read_video_scores(scores, [video.name for video in data.videos], order or None)
            of_videos = {video: _transformed(values, sigmoid, decimals) for video, values in of_videos.items()}
            numbers = evaluate_by_label(of_videos, data.labels(), **resampling) | {"n_untimed": len(untimed)}
        else:
            truth = data.truth()
            lengths = {v: len(t) for v, t in truth.items()}
            given = read_scores(scores, lengths, frames_per_score or None, rest, order or None)
            given = {video: _transformed(values, sigmoid, decimals) for video, values in given.items()}
            classes = data.classes() if by_class else None
            numbers = full_evaluation(given, truth, classes=classes, tau=tau, fps=fps, **resampling)
        files = {"scores": scores, "ground_truth": ground_truth, "frame_counts": frame_counts}
        numbers["dataset"] = data.name
        numbers["inputs"] = {role: _file(path) for role, path in files.items() if path is not None}
        numbers["settings"] = {
            "sigmoid": sigmoid,
            "decimals": decimals,
            "frames_per_score": frames_per_score,
            "rest": rest,
            "order": order or None,
            "seed": seed,
        }
        numbers["versions"] = versions()
        if out is not None:
            write_json(out, numbers)
        return numbers

    numbers = run(work)
    if as_json:
        say(json.dumps(numbers, indent=2))
        return
    say(_report(scores.name, numbers))
    if out is not None:
        say(f"\nAll numbers: {out}")


def _transformed(values: Any, sigmoid: bool, decimals: int | None) -> Any:
    import numpy as np
    from scipy.special import expit

    values = expit(values) if sigmoid else values
    return values if decimals is None else np.round(values, decimals)


def _file(path: Path) -> dict[str, Any]:
    from headprobe.evaluation.score_files import content_of

    if path.is_dir():  # the truth is how it is filed
        if any(path.rglob("*.npy")):
            return {"name": path.name, "sha256": content_of(path)}
        names = sorted(one.relative_to(path).as_posix() for one in path.rglob("*") if one.is_file())
        return {"name": path.name, "sha256_of_names": hashlib.sha256("\n".join(names).encode()).hexdigest()}
    return {"name": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _report(name: str, numbers: Mapping[str, Any]) -> str:
    from headprobe._validation import counted
    from headprobe.evaluation import VIDEO_ROWS
    from headprobe.models.inspection import _text_table

    if "n_untimed" in numbers:
        level = numbers["video_level"].items()
        rows = [("", "AUC", "AP"), *((VIDEO_ROWS[row], _shown(of["auc"]), _shown(of["ap"])) for row, of in level)]
        n, untimed = counted(numbers["n_videos"], "video"), counted(numbers["n_untimed"], "video")
        return "\n".join(
            [
                f"{numbers['dataset']}: {n}, {numbers['n_abnormal_videos']} abnormal",
                f"Frame level: not possible, as no file says when the events of {untimed} happen",
                "",
                _text_table(rows, width()),
                *_interval_lines(numbers),
            ]
        )
    keys = ("auc", "ap", "pr_auc_trapezoid", "within_auc", "anomaly_videos_auc")
    header = ("", "AUC", "AP", "PR-AUC trapezoid", "within-video AUC", "AUC in abnormal videos")
    rows = [header, (name, *(_shown(numbers[key]) for key in keys))]
    for control, row in numbers["controls"].items():
        rows.append((control.replace("_", " "), *(_shown(row[key]) for key in keys)))
    for title, row in numbers.get("by_class", {}).items():
        rows.append((f"{name}, {title}", *(_shown(row[key]) for key in keys)))
    share = numbers["within_weight"]
    n_within = numbers["n_within_videos"]
    lines = [
        f"{numbers['dataset']}: {counted(numbers['n_videos'], 'video')}, {counted(numbers['n_frames'], 'frame')}, "
        f"{numbers['n_abnormal_frames']:,} abnormal; {counted(n_within, 'video')} {'has' if n_within == 1 else 'have'} "
        "both kinds of frames",
        "",
        _text_table(rows, width()),
        "",
        f"AUC = {share:.5f} x {_shown(numbers['within_auc_pairs'])} (pairs within a video) + {1 - share:.5f} x "
        f"{_shown(numbers['cross_auc'])} (pairs across videos)",
    ]
    if numbers["video_level"]:
        level = numbers["video_level"]
        best, mean, length = (_shown(level[how]["auc"]) for how in ("max", "mean", "length"))
        lines.append(
            f"Video level: AUC {best} by the highest score, {mean} by the mean, {length} by the video's length"
        )
    if "events" in numbers:
        rows, last = _event_lines(numbers["events"])
        lines += ["", _text_table(rows, width()), last]
    return "\n".join([*lines, *_interval_lines(numbers)])


def _interval_lines(numbers: Mapping[str, Any]) -> list[str]:
    out = []
    for metric, found in numbers.get("intervals", {}).items():
        name = metric.replace("_", " ")
        if isinstance(found, str):
            out.append(f"{name}: no interval over videos: {found}")
            continue
        out.append(
            f"{name}: {found['estimate']:.4f}, {found['confidence']:.0%} {found['kind']} interval over videos "
            f"{found['low']:.4f} to {found['high']:.4f}"
        )
    if out and numbers["n_videos"] <= 20:
        out.append(COVERAGE["t" if any("t interval" in line for line in out) else "percentile"])
    return out


COVERAGE = {
    "t": "Of 20 videos or fewer, these intervals hold an AUC as often as they say, and an average precision in about "
    "91 %.",
    "percentile": "Of 20 videos or fewer, resampled intervals of 95 % hold the number in 88 to 92 %: --interval t is "
    "nearer.",
}
"""What was measured of intervals on few videos (`analyses/benchmarks/coverage.py`)."""


def _event_lines(events: Mapping[str, Any]) -> tuple[list[tuple[str, ...]], str]:
    rows = [
        (f"{row['iou']:.1f}", *(_shown(row[key]) for key in ("precision", "recall", "f1"))) for row in events["by_iou"]
    ]
    return (
        [("events, IoU at least", "precision", "recall", "F1"), *rows],
        f"{events['n_found']} events found, {events['n_true']} true; {events['n_missed']} missed altogether; "
        f"delay {_shown(events['delay_mean'])} s on average; {events['n_false_alarms']} false alarms, "
        f"{_shown(events['false_alarms_per_hour'])} per hour",
    )


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"
