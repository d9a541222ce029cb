"""Writing and reading files: complete or not at all, one mode for all, and nothing from a stranger goes unchecked."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from headprobe import _files
from headprobe._files import csv_records, parse_json, read_json, read_text, replacing, write_file, write_json
from headprobe.errors import ArtefactError, InputError, StoreError

PACKAGE = Path(_files.__file__).parent


def test_an_error_or_a_kill_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_file(path, "old")
    with pytest.raises(TypeError), replacing(path) as part:
        part.write_text(3)  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == ["a.json"]
    code = (
        "import os, sys; from headprobe._files import replacing\n"
        "with replacing(sys.argv[1]) as part:\n part.write_text('half'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    assert path.read_text() == "old"


def test_a_failed_write_names_the_file_and_not_the_one_beside_it(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere/a"):
        write_file(tmp_path / "nowhere" / "a", "x")

    def full(path: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", os.fspath(path))

    monkeypatch.setattr(_files.os, "replace", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/b\.csv'"):
        write_file(tmp_path / "b.csv", "x")
    assert os.listdir(tmp_path) == []


def test_a_name_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    write_file(tmp_path / ("n" * 255), "x")
    assert (tmp_path / ("n" * 255)).read_text() == "x"


def test_a_link_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("kept")
    (tmp_path / "a").symlink_to("elsewhere")
    write_file(tmp_path / "a", "new")
    assert [(tmp_path / name).read_text() for name in ("elsewhere", "a")] == ["kept", "new"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_every_file_has_the_mode_of_the_users_mask(tmp_path: Path, mask: int) -> None:
    import numpy as np

    from headprobe.heads import HeadSet
    from headprobe.report._html import Section, write_report
    from headprobe.scores import score_map, to_csv
    from headprobe.video.decode import write_video

    before = os.umask(mask)
    try:
        write_video(tmp_path / "a.mp4", np.zeros((2, 16, 16, 3), np.uint8), fps=5)
        write_json(tmp_path / "events.json", {"videos": {}})
        HeadSet(["L0H0"]).save(tmp_path / "heads.json")
        to_csv(score_map([[0.5]]), tmp_path / "map.csv")
        write_report(tmp_path / "report.html", "A run", [Section("Result", ["It ran."])])
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 5
    assert set(modes.values()) == {0o666 & ~mask}, modes


def test_no_other_code_puts_a_file_in_the_place_of_another() -> None:
    # Finished files get a new name: under the lock of the store, and out of the folder in which a demo was staged.
    elsewhere = ("store/_manifest.py", "store/check.py", "demo/_run.py")
    calls = ("os.replace(", ".write_text(", ".write_bytes(", "os.rename(")
    found = []
    for source in sorted(PACKAGE.rglob("*.py")):
        name = source.relative_to(PACKAGE).as_posix()
        if name == "_files.py" or name in elsewhere:
            continue
        lines = source.read_text(encoding="utf-8").splitlines()
        code = [line for line in lines if not line.strip().startswith(("...", ">>>"))]
        code = [line for line in code if any(call in line for call in calls) and "replacing(" not in line]
        found += [f"{name}: {line.strip()}" for line in code]
    assert found == []


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('{"a": 1, "a": 2}', "a name occurs twice in one object: 'a'"),
        ("[NaN]", "NaN is no JSON number"),
        ("[-1e999]", "the number -1e999 is too large"),
        ("[" * 100_000, "recursion"),
        ("1" * 5000, "is too large"),
        (b"\xff\xfe{", "no readable JSON"),
        ("", "no readable JSON"),
    ],
)
def test_json_that_is_not_plain(text: str | bytes, error: str) -> None:
    with pytest.raises(InputError, match=rf"x\.json: no readable JSON.*{error}|{error}"):
        parse_json(text, "x.json", InputError)


def test_only_regular_files_are_read_as_json(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArtefactError, match="not a regular file"):
        read_json(tmp_path / "pipe")
    with pytest.raises(StoreError, match=r"not a regular file\. Save it again\."):
        read_json(tmp_path, StoreError, "Save it again.")
    (tmp_path / "a.json").write_text("[1]")
    (tmp_path / "link").symlink_to("a.json")  # as in a cache of downloads
    assert read_json(tmp_path / "link") == [1]
    (tmp_path / "loop").symlink_to("loop")
    for name in ("loop", "gone", "a\0b"):
        with pytest.raises(ArtefactError, match="the file cannot be read"):
            read_json(tmp_path / name)


def test_text_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"ab\xff")
    with pytest.raises(InputError, match=r"no text in UTF-8 .* at byte 2"):
        read_text(tmp_path / "a")
    with pytest.raises(InputError, match="cannot be read"):
        read_text(tmp_path)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a,b,a\n1,2,3\n", "t.csv: the column 'a' is there twice; name every column once."),
        ("a,b\n1\n", "t.csv, line 2: it has 1 cells, the heading has 2; give every row as many."),
        ('a,b\n"x\ny",2\n1,2,3\n', "t.csv, line 4: it has 3 cells"),
        (f"a\n{'x' * 200_000}\n", "t.csv: the table cannot be read: field larger"),
    ],
)
def test_tables_that_do_not_fit_their_heading(text: str, error: str) -> None:
    with pytest.raises(InputError) as caught:
        csv_records(text, "t.csv")
    assert error in str(caught.value)
