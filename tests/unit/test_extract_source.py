"""Sources and tables: which videos are meant, what they are called, and what a bad table is told."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from headprobe.activations import example_table
from headprobe.errors import InputError
from headprobe.examples import Example
from headprobe.extraction._sources import Stretch, Video, find_sources


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("day1/a.mp4", "day1/b.AVI", "day2/a.mp4", "day2/notes.txt", "day2/.hidden.mp4", "c.mp4"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


def names(sources: object) -> list[str]:
    return [video.name for video in find_sources(sources)]


def test_a_folder_names_its_videos_by_their_path_in_it(folder: Path) -> None:
    assert names(".") == ["c", "day1/a", "day1/b", "day2/a"]
    assert names("day1") == names(["day1"]) == names(Path("day1")) == ["a", "b"]


def test_files_and_globs_are_named_by_the_file_and_each_file_comes_once(folder: Path) -> None:
    assert names(["c.mp4", "day1/*", "./c.mp4"]) == ["c", "a", "b"]
    assert [video.path for video in find_sources(["day1/*"])] == ["day1/a.mp4", "day1/b.AVI"]


def test_a_missing_file_is_left_to_whoever_reads_it(folder: Path) -> None:
    assert find_sources("nowhere/x.y.mp4") == [Video("nowhere/x.y.mp4", "x.y")]


def test_only_the_ending_of_a_video_is_left_out_of_a_name(folder: Path) -> None:
    (folder / "Film.2001__#01-14").write_bytes(b"")
    assert names(["Film.2001__#01-14", "v=x_label_G-0-0.mkv"]) == ["Film.2001__#01-14", "v=x_label_G-0-0"]


@pytest.mark.parametrize(
    ("sources", "text"),
    [
        ([], "No videos were given"),
        ("*.mov", r"No file matches '\*.mov'"),
        ("day3", None),
        (["day1", "day2"], "Two files have the name 'a': .*Give the folder that holds both"),
        ([3], "A source is a path, a glob or a table; got int"),
        (None, "The sources are None; give files, folders, globs"),
        (3, "The sources are 3; give files, folders, globs"),
        ("", "A source is ''; give a path \\('.' is the working directory\\)"),
        (["day1", " "], "A source is ' '; give a path"),
        ("list.txt", "the file cannot be read: No such file"),
        ("day4", "There is no file or folder 'day4'"),
    ],
)
def test_what_makes_no_sense_is_refused(folder: Path, sources: object, text: str | None) -> None:
    if text is None:
        (folder / "day3").mkdir()
        text = "holds no video file"
    with pytest.raises(InputError, match=text):
        find_sources(sources)


def test_a_list_file_is_relative_to_itself(folder: Path) -> None:
    (folder / "day1" / "list.txt").write_text("a.mp4\n\n  ../c.mp4\n")
    found = find_sources("day1/list.txt")
    assert [(os.path.normpath(video.path), video.name) for video in found] == [("day1/a.mp4", "a"), ("c.mp4", "../c")]
    (folder / "empty.txt").write_text("\n")
    with pytest.raises(InputError, match="the list is empty"):
        find_sources("empty.txt")


CSV = """path,label,group,start,end,note
day1/a.mp4,1,scene1,0,48,x
c.mp4,,,,,y
day1/a.mp4,0,scene1,48,,z
"""


def test_a_table_gives_stretches_and_a_file_comes_once(folder: Path) -> None:
    (folder / "t.csv").write_text(CSV)
    a, c = find_sources("t.csv")
    assert (a.path, a.name) == ("day1/a.mp4", "day1/a")
    assert a.stretches == (Stretch(0, 48, False, 1, "scene1"), Stretch(48, None, False, 0, "scene1"))
    assert c.stretches == (Stretch(),)


def test_json_lines_in_seconds_with_names(folder: Path) -> None:
    row = {"path": "c.mp4", "name": "street", "start_seconds": 1.5, "end_seconds": 4, "label": 2}
    (folder / "t.jsonl").write_text(json.dumps(row) + "\n\n")
    assert find_sources("t.jsonl") == [Video("c.mp4", "street", (Stretch(1.5, 4.0, True, 2),))]


def test_a_table_from_pandas(folder: Path) -> None:
    table = pd.DataFrame({"path": ["c.mp4", "day1/a.mp4"], "label": pd.array([1, None], dtype="Int64")})
    table["start"] = [0.0, float("nan")]
    assert [video.stretches[0] for video in find_sources(table)] == [Stretch(start=0, label=1), Stretch()]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("video,label\na.mp4,1\n", "there is no column 'path'; the columns are 'video', 'label'"),
        ("path,Label\na.mp4,1\n", "the column 'Label' must be written 'label'"),
        ("path,start,start_seconds\na.mp4,1,1\n", "'start' is in frames and 'start_seconds' in seconds"),
        ("path,start,end_seconds\na.mp4,1,1\n", "both in frames, or both in seconds"),
        ("path,label\na.mp4,normal\n", "row 1: label is 'normal'; it must be a whole number"),
        ("path,start\na.mp4,1.5\n", "row 1: start is '1.5'; it must be a whole number"),
        ("path,end_seconds\na.mp4,soon\n", "row 1: end_seconds is 'soon'; it must be a number of seconds"),
        ("path,start,end\na.mp4,5,5\n", "row 1: start is 5 and end is 5; it needs 0 <= start < end"),
        ("path,start,end\na.mp4,-1,5\n", "start is -1"),
        ("path,label\n,1\n", "row 1: path is None"),
        ("path,label\na.mp4\n", "line 2: it has 1 cells, the heading has 2"),
        ("path,label\na.mp4,1,2\n", "line 2: it has 3 cells, the heading has 2"),
        ("path,label\n", "t.csv: the table has no rows"),
        ("path,name\na.mp4,x\na.mp4,y\n", "is called 'x' and 'y'; give a file one name"),
    ],
)
def test_a_bad_table_is_told_what_is_wrong_with_it(folder: Path, text: str, error: str) -> None:
    (folder / "t.csv").write_text(text)
    with pytest.raises(InputError, match=error):
        find_sources("t.csv")


@pytest.mark.parametrize("label", [9007199254740993, 2**63 - 1, -(2**63 - 1), 7])
def test_labels_keep_all_their_digits(folder: Path, label: int) -> None:
    (folder / "t.csv").write_text(f"path,label\nc.mp4, {label} \n")
    (folder / "t.jsonl").write_text(json.dumps({"path": "c.mp4", "label": label}))
    frame = pd.DataFrame({"path": ["c.mp4"], "label": [label]})
    for source in ("t.csv", "t.jsonl", frame):
        assert [stretch.label for video in find_sources(source) for stretch in video.stretches] == [label]
    assert example_table([Example("x", id="a", label=label)])["label"].tolist() == [label]


@pytest.mark.parametrize(
    "label", ["99999999999999999999999", "1e23", "1e999999999", "9223372036854775808", "inf", "1.5"]
)
def test_labels_of_more_than_64_bits_are_refused_by_row(folder: Path, label: str) -> None:
    (folder / "t.csv").write_text(f"path,label\nday1/a.mp4,1e2\nc.mp4,{label}\n")
    with pytest.raises(
        InputError, match=rf"t\.csv, row 2: label is '{label}'; it must be a whole number of at most 9223"
    ):
        find_sources("t.csv")


def test_a_float_that_may_have_been_rounded_is_no_label() -> None:
    for label in (2.0**53 + 2, 1e23):
        with pytest.raises(InputError, match=r"a float, and floats beyond 9007199254740992 are rounded"):
            find_sources(pd.DataFrame({"path": ["c.mp4"], "label": [label]}))
    with pytest.raises(InputError, match=r"Example 'a': the label is 1\.000e\+23; it must have at most 64 bits"):
        Example("x", id="a", label=10**23)


@pytest.mark.parametrize("text", ["[1]\n", "{broken\n", "\x00"])
def test_bad_json_lines(folder: Path, text: str) -> None:
    (folder / "t.jsonl").write_text(text)
    with pytest.raises(InputError, match=r"must be an object|no readable JSON"):
        find_sources("t.jsonl")


class FakeDataset:
    """The part of a data set of `datasets` that is used."""

    def __init__(self, columns: dict[str, list]) -> None:
        self.columns = columns
        self.column_names = list(columns)
        self.read: list[str] = []

    def to_dict(self) -> dict[str, list]:
        raise AssertionError("would decode everything")

    def select_columns(self, names: list[str]) -> FakeDataset:
        self.read += names
        return FakeDataset({name: self.columns[name] for name in names})

    def __getitem__(self, name: str) -> list:
        return self.columns[name]


def test_a_data_set_of_the_hub_is_loaded_lazily_and_only_what_is_needed_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = FakeDataset({"path": ["c.mp4", {"path": "day1/a.mp4", "bytes": None}], "label": [1, 0], "pixels": [0, 0]})
    asked = []
    fake = SimpleNamespace(load_dataset=lambda name, split: asked.append((name, split)) or made)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    assert names("hf:me/crime@test") == ["c", "day1/a"]
    assert names("hf:me/crime") == ["c", "day1/a"]
    assert asked == [("me/crime", "test"), ("me/crime", "train")]
    assert set(made.read) == {"path", "label"}


def test_without_the_package_it_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"need the package datasets: pip install 'headprobe\[datasets\]'"):
        find_sources("hf:me/crime")


def test_a_saved_data_set(folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"path": ["x/c.mp4"], "label": [1], "start": [0], "end": [48]})
    table.save_to_disk(str(folder / "saved"))
    assert find_sources("saved") == [Video("saved/x/c.mp4", "x/c", (Stretch(0, 48, False, 1),))]
    assert find_sources(table)[0] == Video("x/c.mp4", "x/c", (Stretch(0, 48, False, 1),))


def test_a_name_that_is_no_text_can_be_stored(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9.mp4"
    with open(path, "wb"):
        pass
    assert find_sources(tmp_path)[0].name == "caf\\xe9"
