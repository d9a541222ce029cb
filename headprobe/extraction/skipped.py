"""The list of what was skipped, beside the store: ``skipped.jsonl``."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TextIO

from headprobe._files import NOFOLLOW, parse_json, read_regular
from headprobe.errors import StoreError
from headprobe.extraction.events import Skipped

__all__ = ["FILE", "SkippedList", "read_skipped", "summary"]

FILE = "skipped.jsonl"
_LIMIT = 1 << 30


class SkippedList:
    """Writes down what is skipped as it happens, so that a killed run leaves the list too.

    What an earlier run skipped of other videos stays in the list; the videos of this run are listed anew. So does what
    another run adds that fills the store at the same time.

    Parameters
    ----------
    folder
        The store.
    names
        Names of the videos of this run.

    Attributes
    ----------
    items : list of Skipped
        What was skipped in this run.

    Raises
    ------
    StoreError
        The file cannot be written, or the one that is there cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with SkippedList(Path(folder), ["a"]) as skipped:
    ...         skipped.add(Skipped("a.mp4", "a", None, "the file is empty"))
    ...     read_skipped(Path(folder))[0].reason
    'the file is empty'
    """

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self.path = folder / FILE
        self.items: list[Skipped] = []
        mine = set(names)
        kept = [item for item in read_skipped(folder) if item.name not in mine]
        try:
            self.path.unlink(missing_ok=True)  # rather than through a link to somewhere else
            self._file = _appending(self.path, os.O_EXCL)
            for item in kept:
                self._write(item)
        except OSError as error:
            raise StoreError(f"{self.path}: the list of skipped clips cannot be written: {error.strerror}.") from error

    def add(self, item: Skipped) -> None:
        """Put something on the list.

        Parameters
        ----------
        item
            What was skipped.

        Raises
        ------
        StoreError
            The file cannot be written.
        """
        self.items.append(item)
        try:
            if self._is_mine():
                self._write(item)
            else:
                self._join()
        except OSError as error:
            raise StoreError(f"{self.path}: the list of skipped clips cannot be written: {error.strerror}.") from error

    def __enter__(self) -> SkippedList:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _is_mine(self) -> bool:
        """Whether the file is still the one that was begun; another run that starts begins a new one."""
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), os.lstat(self.path))
        except FileNotFoundError:
            return False

    def _join(self) -> None:
        """Add what was skipped here to the list that another run has begun."""
        self._file.close()
        self._file = _appending(self.path, 0)
        there = read_skipped(self.path.parent)
        for item in dict.fromkeys(self.items):
            if item not in there:
                self._write(item)

    def _write(self, item: Skipped) -> None:
        self._file.write(json.dumps(asdict(item), ensure_ascii=False) + "\n")
        self._file.flush()


def read_skipped(folder: Path) -> list[Skipped]:
    """What is on the list of a store.

    Parameters
    ----------
    folder
        The store.

    Returns
    -------
    list of Skipped
        Empty where there is no list; a last line that a killed process left unfinished is left out.

    Raises
    ------
    StoreError
        The file cannot be read or holds something else.
    """
    path = folder / FILE
    if not path.is_file():
        return []
    items: list[Skipped] = []
    lines = read_regular(path, _LIMIT, StoreError).split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):
        data = parse_json(line, f"{path}, line {number}", StoreError)
        texts = isinstance(data, dict) and set(data) == {"path", "name", "id", "reason"}
        if not texts or not all(isinstance(v, str) or (v is None and k == "id") for k, v in data.items()):
            raise StoreError(f"{path}, line {number}: not a skipped clip; move the file away.")
        items.append(Skipped(**data))
    return items


def _appending(path: Path, flags: int) -> TextIO:
    """Open for writing at the end, wherever another run has moved it; never through a link."""
    number = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | NOFOLLOW | flags, 0o666)
    return os.fdopen(number, "a", encoding="utf-8")


def summary(items: Sequence[Skipped], most: int = 8) -> list[str]:
    """What was skipped and why, in a few lines.

    Parameters
    ----------
    items
        What was skipped.
    most
        Most lines.

    Returns
    -------
    list of str

    Examples
    --------
    >>> summary([Skipped("a.mp4", "a", None, "the file is empty"), Skipped("b.mp4", "b", None, "the file is empty")])
    ['2 x the file is empty (a.mp4, ...)']
    """
    counts = Counter(item.reason for item in items)
    first = {item.reason: item.id or item.path for item in reversed(items)}
    lines = [f"{n} x {reason} ({first[reason]}{', ...' if n > 1 else ''})" for reason, n in counts.most_common(most)]
    if len(counts) > most:
        rest = sum(counts.values()) - sum(n for _, n in counts.most_common(most))
        lines.append(f"{rest} x other reasons")
    return lines
