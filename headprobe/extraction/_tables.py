"""Tables of videos: CSV, JSON lines, pandas and Hugging Face `datasets`, row by row and checked."""

from __future__ import annotations

import importlib
import math
import operator
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from headprobe._files import table_records
from headprobe.errors import InputError

COLUMNS = ("path", "name", "label", "group", "start", "end", "start_seconds", "end_seconds")
"""Columns that mean something; others are left alone."""

_LARGEST = 2**63 - 1  # a column of whole numbers has 64 bits
_EXACT = 2**53  # up to here floats hold every whole number
_MISSING = ("", "<NA>", "NaT", "nan")  # an empty cell, and how pandas prints a missing value


@dataclass(frozen=True)
class Stretch:
    """A part of a video, with what is known about it."""

    start: float | None = None
    end: float | None = None
    in_seconds: bool = False
    label: int | None = None
    group: str | None = None


@dataclass(frozen=True)
class Row:
    """A row of a table, or a file named in another way."""

    path: str
    name: str = ""
    named: bool = False
    part: Stretch = Stretch()


def is_table(source: Any) -> bool:
    """Whether something is a table in memory: pandas, or a data set of `datasets`."""
    return hasattr(source, "to_dict") and (hasattr(source, "columns") or hasattr(source, "column_names"))


def rows_of_file(path: Path) -> list[Row]:
    records = [record for _, record in table_records(path, "{'path': 'a.mp4'}")]
    names = list(dict.fromkeys(name for record in records for name in record))
    return _rows(records, names, str(path))


def rows_of_table(table: Any, what: str) -> list[Row]:
    names = [str(name) for name in getattr(table, "column_names", None) or table.columns]
    kept = [name for name in names if name in COLUMNS]
    if hasattr(table, "select_columns"):  # of a data set, not the videos themselves, which it would decode
        columns = {name: list(table.select_columns([name])[name]) for name in kept}
    else:
        columns = {name: table[name].tolist() for name in kept}
    length = len(next(iter(columns.values()), []))
    records = [{name: columns[name][i] for name in kept} for i in range(length)]
    return _rows(records, names, what)


def rows_of_hub(name: str) -> list[Row]:
    """Rows of a data set of the Hugging Face hub or of a folder written by ``Dataset.save_to_disk``."""
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise InputError(
            f"{name}: Hugging Face data sets need the package datasets: pip install 'headprobe[datasets]'."
        ) from error
    folder = Path(name).is_dir()
    repository, _, split = name.partition("@")
    try:
        table = datasets.load_from_disk(name) if folder else datasets.load_dataset(repository, split=split or "train")
    except Exception as error:  # whatever the package and its readers raise
        raise InputError(f"{name}: the data set cannot be loaded: {error}.") from error
    if isinstance(table, dict):
        raise InputError(f"{name}: this folder holds the splits {sorted(table)}; give the folder of one of them.")
    return rows_of_table(table, name)


def _rows(records: Iterable[Mapping[str, Any]], names: Iterable[str], what: str) -> list[Row]:
    names = list(names)
    for name in names:
        plain = str(name).strip().lower().replace(" ", "_")
        if plain in COLUMNS and name not in COLUMNS:
            raise InputError(f"{what}: the column {name!r} must be written {plain!r}.")
    if "path" not in names:
        raise InputError(f"{what}: there is no column 'path'; the columns are {', '.join(map(repr, names)) or 'none'}.")
    for frames, seconds in (("start", "start_seconds"), ("end", "end_seconds")):
        if frames in names and seconds in names:
            raise InputError(f"{what}: {frames!r} is in frames and {seconds!r} in seconds; give one of them.")
    if ("start" in names and "end_seconds" in names) or ("start_seconds" in names and "end" in names):
        raise InputError(f"{what}: give start and end both in frames, or both in seconds.")
    rows = [_row(record, f"{what}, row {number}") for number, record in enumerate(records, start=1)]
    if not rows:
        raise InputError(f"{what}: the table has no rows.")
    return rows


def _row(record: Mapping[str, Any], where: str) -> Row:
    given = {name: record.get(name) for name in COLUMNS}
    given = {name: None if _is_missing(value) else value for name, value in given.items()}
    path = given["path"]
    if isinstance(path, dict):  # a video column of a data set that is not decoded
        path = path.get("path")
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise InputError(f"{where}: path is {path!r}; give the path of a video file.")
    in_seconds = given["start_seconds"] is not None or given["end_seconds"] is not None
    bounds = ("start_seconds", "end_seconds") if in_seconds else ("start", "end")
    start, end = (_number(given[name], f"{where}: {name}", not in_seconds) for name in bounds)
    if (start is not None and start < 0) or (end is not None and end <= (start or 0)):
        raise InputError(f"{where}: {bounds[0]} is {start} and {bounds[1]} is {end}; it needs 0 <= start < end.")
    label = None if given["label"] is None else _whole(given["label"], f"{where}: label")
    name, group = (None if given[key] is None else str(given[key]) for key in ("name", "group"))
    return Row(os.fspath(path), name or "", name is not None, Stretch(start, end, in_seconds, label, group))


def _is_missing(value: Any) -> bool:
    return value is None or (not isinstance(value, dict) and str(value).strip() in _MISSING)


def _number(value: Any, what: str, whole: bool) -> float | None:
    if value is None or whole:
        return None if value is None else _whole(value, what)
    try:
        number = float(value)
    except (OverflowError, TypeError, ValueError) as error:
        raise InputError(f"{what} is {value!r:.80}; it must be a number of seconds.") from error
    if not math.isfinite(number):
        raise InputError(f"{what} is {value!r:.80}; it must be a number of seconds.")
    return number


def _whole(value: Any, what: str) -> int:
    """A whole number as it was given, digit for digit: a float would round it beyond 2**53."""
    try:
        exact = Decimal(value.strip() if isinstance(value, str) else operator.index(value))
    except (ArithmeticError, ValueError) as error:
        raise InputError(f"{what} is {value!r:.80}; it must be a whole number.") from error
    except TypeError as error:
        if not isinstance(value, float | np.floating) or not math.isfinite(value):
            raise InputError(f"{what} is {value!r:.80}; it must be a whole number.") from error
        exact = Decimal(float(value))
        if exact.copy_abs() > _EXACT:
            raise InputError(
                f"{what} is {value!r}, a float, and floats beyond {_EXACT} are rounded; give whole numbers as such."
            ) from error
    if not exact.is_finite() or exact.copy_abs() > _LARGEST or exact != int(exact):
        raise InputError(f"{what} is {value!r:.80}; it must be a whole number of at most {_LARGEST}.")
    return int(exact)
