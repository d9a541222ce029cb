"""What of a data set is on disk, and what every number would be computed on."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headprobe.datasets._annotations import Found, Listing, count_frames
from headprobe.datasets.catalogue import match_videos
from headprobe.datasets.videos import Dataset, _sample_size

__all__ = [
    "Check",
    "check_dataset",
]

_SHOWN = 8


@dataclass(frozen=True)
class Check:
    """What `check_dataset` found.

    Parameters
    ----------
    dataset
        The annotation.
    root
        The folder that was searched.
    present
        Video to its path, for those that are there once.
    missing
        Videos of the data set that are not there.
    extra
        Videos that are there and belong to no split.
    twice
        Video to its paths, where there are several.
    empty
        Paths of files without a byte.
    opened
        Whether the files were opened and their frames counted.
    lengths
        Video to (frames in the annotation, or that its events need at least; frames in the file), where they differ.
    unreadable
        Path to the reason.
    annotated, there
        What the numbers would be computed on, by `scope`: of all videos, and of those that are there.
    """

    dataset: Dataset
    root: Path
    present: Mapping[str, Path]
    missing: tuple[str, ...]
    extra: tuple[Path, ...]
    twice: Mapping[str, tuple[Path, ...]]
    empty: tuple[Path, ...]
    opened: bool
    lengths: Mapping[str, tuple[int, int]]
    unreadable: Mapping[str, str]
    annotated: Mapping[str, Any] = field(default_factory=dict)
    there: Mapping[str, Any] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every video is there once, and nothing found is wrong with it."""
        return not (self.missing or self.twice or self.empty or self.lengths or self.unreadable)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON.

        Returns
        -------
        dict
        """
        return {
            "dataset": self.dataset.name,
            "root": os.fspath(self.root),
            "sources": dict(self.dataset.sources),
            "complete": self.complete,
            "opened": self.opened,
            "n_present": len(self.present),
            "missing": list(self.missing),
            "extra": [os.fspath(path) for path in self.extra],
            "twice": {name: [os.fspath(path) for path in paths] for name, paths in self.twice.items()},
            "empty": [os.fspath(path) for path in self.empty],
            "lengths": {name: list(pair) for name, pair in self.lengths.items()},
            "unreadable": dict(self.unreadable),
            "annotated": dict(self.annotated),
            "there": dict(self.there),
        }

    def lines(self) -> list[str]:
        """The report as text: what was read, what is there and missing, what every number stands on.

        Returns
        -------
        list of str
            One line of text each.
        """
        from headprobe._validation import counted

        annotated = counted(len(self.dataset), "video")
        out = [f"{self.dataset.name}: {annotated} annotated, {len(self.present)} of them in {self.root}"]
        out += [f"  {role.replace('_', ' ')}: {path}" for role, path in self.dataset.sources.items()]
        parts: list[tuple[str, Sequence[str]]] = [
            ("missing", self.missing),
            ("in no split (extra)", [os.fspath(path.relative_to(self.root)) for path in self.extra]),
            ("there more than once", [f"{n}: {', '.join(map(str, paths))}" for n, paths in self.twice.items()]),
            ("empty files", [os.fspath(path) for path in self.empty]),
            ("unreadable", [f"{path}: {reason}" for path, reason in self.unreadable.items()]),
            (
                "of another length",
                [f"{n}: {file} frames, {noted} annotated" for n, (noted, file) in self.lengths.items()],
            ),
        ]
        for title, names in parts:
            if names:
                more = [f"    ... and {len(names) - _SHOWN} more (--json lists all)"] if len(names) > _SHOWN else []
                out += [f"  {title}: {len(names)}", *(f"    {name}" for name in names[:_SHOWN]), *more]
        if not self.opened:
            out.append("  no video file was opened: --open counts their frames and finds those that cannot be read")
        for title, numbers in (("Annotated", self.annotated), ("Of the videos that are there", self.there)):
            out += ["", f"{title}, numbers are computed on:", *(f"  {line}" for line in _scope_lines(numbers))]
        return out


def check_dataset(dataset: Dataset, listing: Listing, *, open_files: bool = False) -> Check:
    """Compare an annotation with what lies in a folder.

    Parameters
    ----------
    dataset
        The annotation.
    listing
        The folder.
    open_files
        Also open every video file and count its frames.

    Returns
    -------
    Check
        Nothing is left out: a video of the data set is present, missing, twice or empty.

    Examples
    --------
    >>> import tempfile
    >>> from headprobe.datasets import Video, list_folder
    >>> data = Dataset("mine", (Video("a", "test", False), Video("b", "test", True)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("a.mp4", "c.mp4"):
    ...         _ = (Path(folder) / name).write_bytes(b"?")
    ...     found = check_dataset(data, list_folder(folder))
    >>> list(found.present), found.missing, [path.name for path in found.extra]
    (['a'], ('b',), ['c.mp4'])
    """
    located, extra = match_videos(dataset, listing)
    twice = {
        name: tuple(found.path for found in all_found) for name, all_found in located.items() if len(all_found) > 1
    }
    single = {name: all_found[0] for name, all_found in located.items() if len(all_found) == 1}
    empty = [name for name, found in single.items() if found.n_images is None and not found.path.stat().st_size]
    usable = {name: found for name, found in single.items() if name not in empty}
    lengths, unreadable, counted = _opened(dataset, usable) if open_files else ({}, {}, {})
    dataset = dataset._with_frames(counted)
    readable = [name for name, found in usable.items() if os.fspath(found.path) not in unreadable]
    return Check(
        dataset=dataset,
        root=listing.root,
        present={name: found.path for name, found in usable.items()},
        missing=tuple(video.name for video in dataset.videos if video.name not in located),
        extra=tuple(extra),
        twice=twice,
        empty=tuple(single[name].path for name in empty),
        opened=open_files,
        lengths=lengths,
        unreadable=unreadable,
        annotated=_scope(dataset),
        there=_scope(dataset.only(readable)),
    )


def _scope(dataset: Dataset) -> dict[str, Any]:
    """What the numbers on these videos would be computed on."""
    out: dict[str, Any] = {}
    for split in ("test", "train"):
        videos = [video for video in dataset.videos if video.split == split]
        abnormal = [video for video in videos if video.abnormal]
        out[split] = {
            "videos": len(videos),
            "normal": len(videos) - len(abnormal),
            "abnormal": len(abnormal),
            "classes": dict(sorted(Counter(v.class_name for v in videos).items())),
        }
        if split == "train":
            out[split]["one_percent"] = _sample_size(len(videos), 0.01) if videos else 0
            continue
        events = None if any(v.events is None for v in videos) else sum(len(v.events or ()) for v in videos)
        out[split] |= {"events": events} | _frame_scope(dataset.only(v.name for v in videos))
    return out


def _frame_scope(test: Dataset) -> dict[str, Any]:
    known = all(v.n_frames is not None and v.events is not None for v in test.videos)
    if not known:
        return dict.fromkeys(("frames", "abnormal_frames", "within_videos", "within_weight"))
    counts = [(int(labels.sum()), int((~labels).sum())) for labels in test.truth().values()]
    abnormal, normal = (sum(pair[i] for pair in counts) for i in (0, 1))
    inside = sum(a * n for a, n in counts)
    return {
        "frames": abnormal + normal,
        "abnormal_frames": abnormal,
        "within_videos": sum(a > 0 and n > 0 for a, n in counts),
        "within_weight": inside / (abnormal * normal) if abnormal and normal else None,
    }


def _opened(
    dataset: Dataset, usable: Mapping[str, Found]
) -> tuple[dict[str, tuple[int, int]], dict[str, str], dict[str, int]]:
    """Lengths that differ, files that cannot be read, and lengths that no annotation has."""
    noted = {video.name: video for video in dataset.videos}
    counts, unreadable = count_frames(list(usable.values()))
    differ: dict[str, tuple[int, int]] = {}
    new: dict[str, int] = {}
    for name, count in zip(usable, counts, strict=True):
        expected = noted[name].n_frames
        if count is None:
            continue
        end = max((end for _, end in noted[name].events or ()), default=0)
        if expected is not None:
            if count != expected:
                differ[name] = (expected, count)
        elif end - count > dataset.max_overrun:
            differ[name] = (end, count)  # the annotation needs so many frames at least
        else:
            new[name] = count
    return differ, unreadable, new


def _scope_lines(numbers: Mapping[str, Any]) -> list[str]:
    from headprobe._validation import counted

    test, train = numbers["test"], numbers["train"]
    if not test["videos"]:
        rows = [("test", "no video")]
    elif test["frames"] is None:
        unknown = "when the events happen" if test["events"] is None else "how many frames the videos have"
        rows = [("frame level", f"not possible: no file says {unknown} ({counted(test['videos'], 'video')})")]
    else:
        share = test["abnormal_frames"] / test["frames"]
        pairs = test["within_weight"]
        rows = [
            (
                "frame level (auc, ap, pr_auc_trapezoid)",
                f"{counted(test['videos'], 'video')}, {counted(test['frames'], 'frame')}, "
                f"{test['abnormal_frames']:,} abnormal ({share:.1%})",
            ),
            ("within-video AUC", f"{counted(test['within_videos'], 'video')} with both kinds of frames"),
            ("pairs of frames within one video", "none" if pairs is None else f"{pairs:.3%} of all"),
            ("event level", f"{counted(test['events'], 'event')} in {counted(test['abnormal'], 'video')}"),
        ]
    if test["videos"]:
        rows.append(("video level", f"{test['abnormal']} abnormal and {counted(test['normal'], 'normal video')}"))
        rows.append(("by class, test", _classes(test)))
    if train["videos"]:
        counts = f"{train['abnormal']} abnormal and {counted(train['normal'], 'normal video')}"
        rows.append(("calibration pool", f"{counts}; 1 % of them is {train['one_percent']}"))
        rows.append(("by class, training", _classes(train)))
    else:
        rows.append(("calibration pool", "no training video"))
    width = max(len(title) for title, _ in rows)
    return [f"{title:<{width}}  {text}" for title, text in rows]


def _classes(numbers: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {count}" for name, count in numbers["classes"].items())
