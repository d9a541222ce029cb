"""What lies in a folder: video files, folders of frames, and annotation files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from headprobe.errors import InputError, VideoError
from headprobe.video.clips import VIDEO_SUFFIXES

__all__ = ["Found", "Listing", "count_frames", "list_folder"]

_IMAGES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff"})


@dataclass(frozen=True)
class Found:
    """A video on disk.

    Parameters
    ----------
    path
        A video file, or a folder of numbered frames.
    n_images
        Frames in the folder; None for a video file.
    """

    path: Path
    n_images: int | None = None


@dataclass(frozen=True)
class Listing:
    """Everything of use beneath a folder.

    Parameters
    ----------
    root
        The folder.
    videos
        Sorted by path.
    files
        All other files.
    """

    root: Path
    videos: tuple[Found, ...]
    files: tuple[Path, ...]

    def named(self, names: Iterable[str]) -> Path | None:
        """The one file that has one of these names, None if there is none.

        Parameters
        ----------
        names
            Names of files, without folders.

        Returns
        -------
        Path or None
            The file.

        Raises
        ------
        InputError
            If there are several.
        """
        wanted = set(names)
        found = [path for path in self.files if path.name in wanted]
        if len(found) > 1:
            raise InputError(
                f"{len(found)} files could be the same annotation: {', '.join(map(str, found[:4]))}; "
                "name the folder that holds the right one (--annotations)"
            )
        return found[0] if found else None


def list_folder(root: str | os.PathLike[str]) -> Listing:
    """List the videos and other files beneath a folder; links are followed, names with a leading dot left out.

    Parameters
    ----------
    root
        The folder. A folder beneath it that holds images is one video, its images are not listed.

    Returns
    -------
    Listing
        No file is opened.

    Raises
    ------
    InputError
        If there is no such folder.
    VideoError
        If a folder beneath it cannot be listed.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("b.mp4", "notes.txt"):
    ...         _ = (Path(folder) / name).write_bytes(b"")
    ...     listing = list_folder(folder)
    >>> [video.path.name for video in listing.videos], [path.name for path in listing.files]
    (['b.mp4'], ['notes.txt'])
    """
    top = Path(root)
    if not top.is_dir():
        raise InputError(f"{top} is no folder: name the one that holds the data set")

    def refuse(error: OSError) -> None:
        where = error.filename or os.fspath(root)
        raise VideoError(where, f"the folder cannot be listed ({error.strerror})") from error

    videos: list[Found] = []
    files: list[Path] = []
    seen: set[str] = set()
    for here, folders, names in os.walk(top, onerror=refuse, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        images = 0
        for name in sorted(names):
            ending = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                continue
            if ending in _IMAGES:
                images += 1
            elif ending in VIDEO_SUFFIXES:
                videos.append(Found(Path(here, name)))
            else:
                files.append(Path(here, name))
        if images:
            videos.append(Found(Path(here), images))
    return Listing(top, tuple(sorted(videos, key=lambda found: found.path)), tuple(files))


def count_frames(videos: Sequence[Found]) -> tuple[list[int | None], dict[str, str]]:
    """Number of frames of every video, counted in the file; and the reasons of those that cannot be read.

    Parameters
    ----------
    videos
        Files are opened, their packets are counted and not decoded.

    Returns
    -------
    list
        One number per video, None if it cannot be read.
    dict
        Path to the reason.
    """
    from headprobe.video.decode import probe

    counts: list[int | None] = []
    failed: dict[str, str] = {}
    for video in videos:
        if video.n_images is not None:
            counts.append(video.n_images)
            continue
        try:
            counts.append(probe(video.path).n_frames)
        except VideoError as error:
            failed[os.fspath(video.path)] = error.reason
            counts.append(None)
    return counts, failed
