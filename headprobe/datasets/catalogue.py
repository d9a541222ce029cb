"""Data sets by name: which annotation files each has, and how they are put together."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from headprobe._files import read_text
from headprobe._validation import choice
from headprobe.datasets._annotations import (
    Found,
    Listing,
    count_frames,
    list_folder,
    match_names,
    one_each,
    parse_frame_counts,
)
from headprobe.datasets._tables import from_folders, from_table
from headprobe.datasets.pedestrians import _load_mask, _ped2_name, _shanghaitech_name, ped2, shanghaitech
from headprobe.datasets.tad import tad
from headprobe.datasets.ucf_crime import temporal, ucf_crime
from headprobe.datasets.videos import NORMAL, Dataset
from headprobe.datasets.xd_violence import xd_violence
from headprobe.errors import InputError

__all__ = ["DATASETS", "load_dataset", "match_videos", "read_truth"]

DATASETS = ("ucf-crime", "xd-violence", "ped2", "shanghaitech", "tad", "folder", "table", "temporal")

# Names under which the files of each role are passed around, our own first.
_FILES: dict[str, dict[str, tuple[str, ...]]] = {
    "ucf-crime": {
        "temporal": (
            "ucf_crime_temporal.txt",
            "Temporal_Anomaly_Annotation_for_Testing_Videos.txt",
            "Temporal_Anomaly_Annotation.txt",
        ),
        "frame_counts": ("ucf_crime_frame_counts.txt",),
        "train_list": ("ucf_crime_train_list.txt", "Anomaly_Train.txt"),
        "test_list": ("ucf_crime_test_list.txt", "Anomaly_Test.txt"),
    },
    "xd-violence": {
        "temporal": ("xd_violence_temporal.txt", "annotations.txt"),
        "frame_counts": ("xd_violence_frame_counts.txt",),
        "train_list": ("xd_violence_train_list.txt",),
        "test_list": ("xd_violence_test_list.txt",),
    },
    "ped2": {"ground_truth": ("ped2_ground_truth.m", "UCSDped2.m", "ground_truth.m")},
    "shanghaitech": {
        "frame_table": ("shanghaitech.csv", "shanghaitech.csv.gz"),
        "train_list": ("SHANGHAI_train.txt",),
        "test_list": ("SHANGHAI_test.txt",),
    },
    "tad": {"test_list": ("tad_test.txt", "tad_test.txt.gz", "TAD_test.txt")},
}
_MASKS = "test_frame_mask"
RENAMED = {"ped2": _ped2_name, "shanghaitech": _shanghaitech_name}
"""Data sets whose clips have a name of their own, made from that of the file."""


def load_dataset(
    dataset: str,
    root: str | os.PathLike[str],
    *,
    annotations: str | os.PathLike[str] | None = None,
    table: str | os.PathLike[str] | None = None,
    normal: str = NORMAL,
    weak_split: bool = False,
    listing: Listing | None = None,
) -> Dataset:
    """Read the annotation of a data set from the files beneath a folder.

    Parameters
    ----------
    dataset
        One of `DATASETS`.
    root
        Folder with the videos, anywhere beneath it.
    annotations
        Folder with the annotation files; `root` if not given. They are found by the names under which they are
        published, in any folder beneath.
    table
        For `"table"` and `"temporal"`: the file, as for `from_table` and `headprobe.datasets.ucf_crime.temporal`.
    normal
        For `"folder"`: the folder of the normal videos, as for `from_folders`; for `"temporal"` their class.
    weak_split
        For `"shanghaitech"`: take the weakly supervised split, from the lists `SHANGHAI_train.txt` and
        `SHANGHAI_test.txt`.
    listing
        Of `root`, where it has been made already.

    Returns
    -------
    Dataset
        Its `sources` say which file was read for what.

    Raises
    ------
    InputError
        If the data set is not known, a file that it needs is missing or there twice, or its content does not
        follow the grammar.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = Path(folder) / "truth.csv"
    ...     _ = table.write_text("video,abnormal,start,end\\na,1,2,5\\nb,0,,\\n")
    ...     data = load_dataset("table", folder, table=table)
    >>> data.labels()
    {'a': 1, 'b': 0}
    """
    choice(dataset, "the data set", DATASETS)
    listing = list_folder(root) if listing is None else listing
    if dataset in ("table", "temporal"):
        if table is None:
            raise InputError(f"the data set {dataset!r} needs the table's file (--table).")
        if dataset == "temporal":
            return temporal(read_text(table), normal=normal, sources={"temporal": os.fspath(table)})
        return from_table(read_text(table), source=os.fspath(table))
    if dataset == "folder":
        return from_folders([video.path for video in listing.videos], root, normal=normal)
    held = listing if annotations is None else list_folder(annotations)
    found = {role: path for role, names in _FILES[dataset].items() if (path := held.named(names)) is not None}
    sources = {role: os.fspath(path) for role, path in found.items()}
    if dataset in ("ucf-crime", "xd-violence"):
        build = ucf_crime if dataset == "ucf-crime" else xd_violence
        _need(dataset, "temporal", found, held)
        return build(**_texts(found), sources=sources)
    if dataset == "tad":
        _need(dataset, "test_list", found, held)
        return tad(read_text(found["test_list"]), sources)
    if dataset == "ped2":
        _need(dataset, "ground_truth", found, held)
        lengths = _lengths(_located(listing, _ped2_name))
        return ped2(read_text(found["ground_truth"]), lengths, sources)
    return _shanghaitech(listing, held, found, sources, weak_split)


def read_truth(
    dataset: str,
    ground_truth: str | os.PathLike[str],
    frame_counts: str | os.PathLike[str] | None = None,
    normal: str = NORMAL,
) -> Dataset:
    """The test videos of a data set from its annotation files, without opening any video.

    Parameters
    ----------
    dataset
        One of `DATASETS`.
    ground_truth
        The temporal annotation (`"ucf-crime"`, `"xd-violence"`; of any data set in the grammar of the first and with
        any classes, `"temporal"`), the `.m` file (`"ped2"`), a table of frames
        (`"shanghaitech"`), the list of test videos (`"tad"`), any table (`"table"`, as for `from_table`), or the folder
        whose folders are the classes (`"folder"`, as for `from_folders`).
    normal
        For `"folder"`: the folder of the normal videos; for `"temporal"` their class.
    frame_counts
        Lines `name first last class`, both ends inclusive. A table needs none where it has the numbers itself.

    Returns
    -------
    Dataset
        Test videos only.

    Raises
    ------
    InputError
        If a file does not follow its grammar, or the frame counts are missing.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = Path(folder) / "truth.csv"
    ...     _ = table.write_text("video,abnormal,n_frames,start,end\\na,1,9,2,5\\n")
    ...     int(read_truth("table", table).truth()["a"].sum())
    3
    """
    if dataset == "folder":
        listing = list_folder(ground_truth)
        return from_folders([video.path for video in listing.videos], listing.root, normal=normal).split("test")
    if os.path.isdir(ground_truth):
        raise InputError(
            f"{os.fspath(ground_truth)} is a folder: the ground truth of {dataset!r} is a file (a folder with a folder "
            "per class is the data set 'folder')."
        )
    text = read_text(ground_truth)
    counts = None if frame_counts is None else read_text(frame_counts)
    sources = {"ground_truth": os.fspath(ground_truth)}
    if frame_counts is not None:
        sources["frame_counts"] = os.fspath(frame_counts)
    if dataset in ("ucf-crime", "xd-violence", "ped2", "temporal") and counts is None:
        raise InputError(
            f"the annotation of {dataset} does not say how many frames videos have: give the frame counts."
        )
    if dataset == "ucf-crime":
        return ucf_crime(text, counts, sources=sources)
    if dataset == "temporal":
        return temporal(text, counts, normal, sources)
    if dataset == "xd-violence":
        return xd_violence(text, counts, sources=sources)
    if dataset == "ped2":
        lengths = {_ped2_name(name) or name: n for name, n in parse_frame_counts(counts or "").items()}
        return ped2(text, lengths, sources).split("test")
    choice(dataset, "the data set", DATASETS)
    if dataset == "tad":
        test = tad(text, sources)
    else:
        test = Dataset(dataset, from_table(text, dataset).split("test").videos, 0, sources)
    if counts is None:
        return test
    known, lengths = [video.name for video in test.videos], parse_frame_counts(counts)
    named = one_each(match_names(list(lengths), known), known, "the frame counts")
    return test._with_frames({known[place]: lengths[name] for place, name in named.items()})


def match_videos(dataset: Dataset, listing: Listing) -> tuple[dict[str, tuple[Found, ...]], list[Path]]:
    """Find the videos of a data set among those of a folder, by name.

    A name is a path beneath the folder, with or without ending; less of it will do where no other file ends with it.

    Parameters
    ----------
    dataset
        What should be there.
    listing
        What is there.

    Returns
    -------
    dict
        Video of the data set to what lies under its name, for those that are there; several entries where one is
        there twice.
    list of Path
        Videos that belong to none.

    Raises
    ------
    InputError
        Two names of the data set mean the same file.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from headprobe.datasets._annotations import list_folder
    >>> from headprobe.datasets.videos import Video
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("a.mp4", "other.mp4"):
    ...         _ = (Path(folder) / name).write_bytes(b"")
    ...     there, rest = match_videos(Dataset("mine", (Video("a", "test", False),)), list_folder(folder))
    >>> list(there), [path.name for path in rest]
    (['a'], ['other.mp4'])
    """
    known = [video.name for video in dataset.videos]
    paths = [one.path for one in listing.videos]
    rename = RENAMED.get(dataset.name)
    if rename is None:
        fits = match_names(known, paths, listing.root)
    else:
        fits = {name: [i for i, path in enumerate(paths) if rename(path.name) == name] for name in known}
    located = {name: tuple(listing.videos[i] for i in places) for name, places in fits.items() if places}
    used = {i for places in fits.values() for i in places}
    return located, [path for i, path in enumerate(paths) if i not in used]


def _located(listing: Listing, rename: Callable[[str], str | None]) -> dict[str, Found]:
    """The videos under their names in the data set, those that have one; twice is an error."""
    found: dict[str, Found] = {}
    for one in listing.videos:
        name = rename(one.path.name)
        if name is None:
            continue
        if name in found:
            raise InputError(f"two videos are the clip {name!r}: {found[name].path} and {one.path}; keep one of them.")
        found[name] = one
    return found


def _lengths(located: Mapping[str, Found]) -> dict[str, int]:
    counts, failed = count_frames(list(located.values()))
    if failed:
        path, reason = next(iter(failed.items()))
        raise InputError(f"{len(failed)} clips cannot be read, and no file lists their frames: {path}: {reason}.")
    return {name: count for name, count in zip(located, counts, strict=True) if count is not None}


def _shanghaitech(
    listing: Listing, held: Listing, found: Mapping[str, Path], sources: dict[str, str], weak_split: bool
) -> Dataset:
    files = [path for path in held.files if path.suffix == ".npy" and path.parent.name == _MASKS]
    if files:
        masks = {path.stem: _load_mask(os.fspath(path)) for path in files}
        sources = {"masks": os.fspath(files[0].parent)} | {k: v for k, v in sources.items() if k != "frame_table"}
    elif "frame_table" in found:
        masks = from_table(read_text(found["frame_table"]), "shanghaitech").truth()
    else:
        raise InputError(
            f"{held.root} holds neither a folder {_MASKS} with the test clips' labels nor one of "
            f"{', '.join(_FILES['shanghaitech']['frame_table'])}."
        )
    train = {name: one for name, one in _located(listing, _shanghaitech_name).items() if len(name) == len("01_001")}
    lists = {}
    if weak_split:
        for role in ("train_list", "test_list"):
            _need("shanghaitech", role, found, held)
            lists[role] = read_text(found[role])
    else:
        sources = {role: path for role, path in sources.items() if role not in ("train_list", "test_list")}
    # Only the frames of clips that are evaluated are needed; in the weak split those of any may be.
    counts = _lengths(train) if weak_split else {name: one.n_images for name, one in train.items()}
    return shanghaitech(masks, counts, **lists, sources=sources)


def _need(dataset: str, role: str, found: Mapping[str, Path], held: Listing) -> None:
    if role not in found:
        raise InputError(
            f"{held.root} holds no annotation of {dataset}: none of {', '.join(_FILES[dataset][role])} is in it or in "
            "a folder beneath; name the folder that has it (--annotations)."
        )


def _texts(found: Mapping[str, Path]) -> dict[str, str]:
    return {role: read_text(path) for role, path in found.items()}
