"""Files as all of headprobe writes and reads them: the old one or the complete new one, and nothing read with trust.

What is read may come from a stranger: only regular files are opened, JSON and CSV name nothing twice, and whatever is
wrong with a file is said in one of headprobe's own errors.
"""

from __future__ import annotations

import csv
import errno
import gzip
import io
import json
import os
import secrets
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headprobe.errors import ArtefactError, HeadprobeError, InputError

# How files are opened, where the system knows it: Windows does not.
NOFOLLOW, NONBLOCK, CLOEXEC, _DIRECTORY, _BINARY = (
    getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_DIRECTORY", "O_BINARY")
)
_LARGEST = 1 << 30  # bytes of a file that is read whole
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "'")  # how a cell begins that is not shown as it stands
_DIGITS = 300  # of a whole number, which then still is a finite float


@contextmanager
def replacing(path: str | os.PathLike[str], suffix: str = "") -> Iterator[Path]:
    """A file beside ``path`` to write to, which takes its place if all goes well."""
    path = Path(path)
    part = path.with_name(f".{secrets.token_hex(8)}.part{suffix}")
    try:
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | CLOEXEC, 0o666))
        yield part
        descriptor = os.open(part, os.O_RDWR | CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(part, path)
        sync_folder(path.parent)
    except OSError as error:
        if error.errno is None or error.filename not in (os.fspath(part), part):
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    finally:
        part.unlink(missing_ok=True)


def write_file(path: str | os.PathLike[str], data: str | bytes) -> None:
    """Write a file as `replacing` does."""
    with replacing(path) as part:
        part.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)


def write_json(path: str | os.PathLike[str], data: Any) -> None:
    """Write JSON as `replacing` does; NaN is refused."""
    write_file(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last through a power cut."""
    if not _DIRECTORY:  # Windows opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY | _DIRECTORY | CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_regular(path: Path, kind: type[HeadprobeError] = ArtefactError, follow: bool = False) -> tuple[int, int]:
    """Open a file for reading that must be a regular one, not a pipe or a device."""
    try:
        # Without O_NONBLOCK, opening a pipe would wait for a writer.
        if not (follow or NOFOLLOW) and path.is_symlink():
            raise OSError(errno.ELOOP, "")
        descriptor = os.open(path, os.O_RDONLY | NONBLOCK | CLOEXEC | _BINARY | (0 if follow else NOFOLLOW))
    except OSError as error:
        link = error.errno == errno.ELOOP and not follow
        reason = "it is a link, and links are not followed" if link else error.strerror
        raise kind(f"{path}: the file cannot be read: {reason}.") from error
    except ValueError as error:  # a null character in the name
        raise kind(f"{str(path)!r}: the file cannot be read: {error}.") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise kind(f"{path}: this is not a regular file.")
    return descriptor, status.st_size


def read_regular(
    path: Path, limit: int = _LARGEST, kind: type[HeadprobeError] = ArtefactError, follow: bool = False
) -> bytes:
    descriptor, size = open_regular(path, kind, follow)
    with os.fdopen(descriptor, "rb") as file:
        if size > limit:
            raise kind(f"{path}: the file has {size} bytes; at most {limit} are expected.")
        try:
            return file.read(size)
        except OSError as error:
            raise kind(f"{path}: the file cannot be read: {error.strerror}.") from error


def parse_json(data: bytes | str, what: object, kind: type[HeadprobeError] = ArtefactError, nan: bool = False) -> Any:
    """Read JSON that names nothing twice and holds only finite numbers; `nan`: NaN, which is no JSON, is None."""
    constant = _nothing if nan else _no_number
    try:
        return json.loads(
            data, object_pairs_hook=_unique, parse_constant=constant, parse_float=_finite, parse_int=_whole
        )
    except (ValueError, RecursionError) as error:  # ValueError: also bad UTF-8 and numbers of absurd length
        raise kind(f"{what}: no readable JSON: {str(error)[:200]}.") from error


def read_json(path: str | os.PathLike[str], kind: type[HeadprobeError] = ArtefactError, fix: str = "") -> Any:
    """Read a JSON file as `parse_json` does; a link to a regular file is followed."""
    path = Path(path)
    try:
        return parse_json(read_regular(path, kind=kind, follow=True), path, kind)
    except kind as error:
        if not fix:
            raise
        raise kind(f"{error} {fix}") from error


def read_bytes(path: str | os.PathLike[str], kind: type[HeadprobeError] = InputError) -> bytes:
    """Content of a file that the user named, which may be a pipe."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise kind(f"{os.fspath(path)}: the file cannot be read: {error.strerror}.") from error
    except ValueError as error:  # a null character in the name
        raise kind(f"{os.fspath(path)!r}: the file cannot be read: {error}.") from error


def read_text(path: str | os.PathLike[str], kind: type[HeadprobeError] = InputError) -> str:
    """Content of a text file in UTF-8 that the user named, also one in gzip (.gz), without a mark of its byte order."""
    data = read_bytes(path, kind)
    try:
        return (gzip.decompress(data) if os.fspath(path).endswith(".gz") else data).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise kind(f"{os.fspath(path)}: this is no text in UTF-8 ({error.reason} at byte {error.start}).") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise kind(f"{os.fspath(path)}: this ends in .gz but is no complete gzip file ({error}).") from error


def csv_records(text: str, what: str, delimiter: str = ",") -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Rows of a table with a heading, each cell under the name of its column."""
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), delimiter=delimiter)
    try:
        columns = next(reader, [])
        twice = sorted({name for name in columns if columns.count(name) > 1})
        if twice:
            raise InputError(f"{what}: the column {twice[0]!r} is there twice; name every column once.")
        rows = []
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(columns):
                raise InputError(
                    f"{what}, line {reader.line_num}: it has {len(cells)} cells, the heading has {len(columns)}; "
                    "give every row as many."
                )
            rows.append((reader.line_num, dict(zip(columns, cells, strict=True))))
    except csv.Error as error:
        raise InputError(f"{what}: the table cannot be read: {error}.") from error
    return columns, rows


def table_records(path: Path, sample: str) -> list[tuple[int, dict[str, Any]]]:
    """Rows of a table (.csv, .tsv, else JSON lines), each with its line."""
    text, ending = read_text(path), path.suffix.lower()
    if ending in (".csv", ".tsv"):
        records: list[tuple[int, Any]] = list(csv_records(text, str(path), "\t" if ending == ".tsv" else ",")[1])
    else:
        lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
        records = [(number, parse_json(line, f"{path}, line {number}", InputError)) for number, line in lines]
    if not records:
        raise InputError(f"{path}: the table has no rows.")
    for number, record in records:
        if not isinstance(record, dict):
            raise InputError(f"{path}, line {number}: a line must be an object such as {sample}.")
    return records


def safe_cell(text: Any) -> Any:
    """What a cell of a table of text is to hold so that no spreadsheet takes it for a formula: a "'" before it."""
    return f"'{text}" if isinstance(text, str) and text.startswith(_FORMULA) else text


def plain_cell(text: str) -> str:
    return text[1:] if text.startswith("'") and text[1:].startswith(_FORMULA) else text


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"a name occurs twice in one object: {twice[:80]!r}")
    return result


def _whole(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"the number {text[:40]}... is too large")
    return int(text)


def _nothing(text: str) -> None:
    if text != "NaN":
        _no_number(text)


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:40]} is too large")
    return number
