"""The table of a benchmark: as text, as files, as a picture and as a page."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headprobe._files import read_json, safe_cell, write_file, write_json
from headprobe._validation import counted, rows_as_html
from headprobe.errors import InputError
from headprobe.provenance import versions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from headprobe.report.report import Section

__all__ = ["Comparison"]

_SEEN = {
    "nothing": "nothing",
    "normal videos": "normal videos",
    "video labels": "labels of videos",
    "segment labels": "labels of segments",
    "frame truth": "truth of frames",
}
_COLUMNS = {
    "name": "method",
    "seen": "has seen",
    "auc": "AUC",
    "interval": "95 % interval",
    "ap": "AP",
    "within_auc": "AUC within videos",
    "events_found": "events found",
    "unread": "unread",
    "seconds_per_hour": "s per hour",
    "calls_per_hour": "passes per hour",
}


@dataclass(frozen=True, eq=False)
class Comparison:
    """What a benchmark found.

    Parameters
    ----------
    rows
        One for each method in the order given, then the controls that look at no frame. `auc`, `ap` and `within_auc`
        are means over the draws, each with `_sd` over draws and `_low`, `_high`, a 95 % t interval over test videos
        (for these draws; `_no_interval` says why there is none); `events_found` is the share of events of which a
        frame is flagged where `false_alarms` of the normal frames are; `own_mean_auc`, `own_shifted_auc` and
        `own_of_another_auc` are what is left when every frame has the mean of its video, scores are turned in time,
        or come from another video; `unread` is the share of segments without a score, which are filled from their
        neighbours, `silent_videos` those without any, which are in no number of the row; `seconds_per_hour` and
        `calls_per_hour` are per hour of video; `subsets` has the numbers of parts.
    differences
        The reference minus every other row, on the videos that both read, with intervals that hold together for all
        rows (Bonferroni).
    settings
        Of the benchmark.
    failed
        Methods without a row, and why.
    lost
        Methods, and the videos that could not be read, with the reasons.

    Examples
    --------
    >>> found = Comparison([{"name": "a", "needs": "nothing", "auc": 0.75}], [], {"reference": "a"})
    >>> print(found.markdown().splitlines()[2])
    | a | nothing | .750 | – | – | – | – | – | – | – |
    """

    rows: Sequence[Mapping[str, Any]]
    differences: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any]
    failed: Mapping[str, str] = field(default_factory=dict)
    lost: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def row(self, name: str) -> Mapping[str, Any]:
        """One row.

        Parameters
        ----------
        name
            Of the method.

        Returns
        -------
        mapping

        Raises
        ------
        InputError
            There is none of this name, or it failed; the reason is said.
        """
        for one in self.rows:
            if one["name"] == name:
                return one
        why = f": {self.failed[name]}" if name in self.failed else f"; there are {[one['name'] for one in self.rows]}."
        raise InputError(f"the table has no row {name!r}{why}")

    def cells(self) -> list[list[str]]:
        """The table as texts, the heading first.

        Returns
        -------
        list of list of str
        """
        return [list(_COLUMNS.values()), *([_cell(one, key) for key in _COLUMNS] for one in self.rows)]

    def markdown(self) -> str:
        """The table in Markdown.

        Returns
        -------
        str
        """
        head, *body = self.cells()
        rule = ["---" if key in ("name", "seen") else "---:" for key in _COLUMNS]
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in (head, rule, *body)]
        return "\n".join(lines) + "\n"

    def lines(self, width: int = 80) -> list[str]:
        """The table for a terminal: method, AUC with its interval, AUC within videos, events found.

        Parameters
        ----------
        width
            Columns of the terminal; names that are too long are cut.

        Returns
        -------
        list of str

        Examples
        --------
        >>> found = Comparison([{"name": "a", "needs": "nothing", "auc": 0.75}], [], {"reference": "a"})
        >>> [len(line) <= 80 for line in found.lines()]
        [True, True]
        """
        keys = ("auc", "interval", "within_auc", "events_found")
        heads = ("AUC", "95 % interval", "within", "events")
        room = max(width - 39, 10)
        wide = min(max(len(str(one["name"])) for one in self.rows), room)
        out = [f"{'method':{wide}}  {heads[0]:>5}  {heads[1]:>14}  {heads[2]:>6}  {heads[3]:>6}"]
        for one in self.rows:
            name = str(one["name"])
            name = name if len(name) <= wide else name[: wide - 1] + "…"
            a, b, c, d = (_cell(one, key) for key in keys)
            out.append(f"{name:{wide}}  {a:>5}  {b:>14}  {c:>6}  {d:>6}")
        return out

    def csv(self) -> str:
        """All plain numbers of all rows.

        Returns
        -------
        str
            With a heading; formulas of table programs are defused.
        """
        names = list(dict.fromkeys(key for one in self.rows for key in one if key not in ("subsets", "silent_videos")))
        parts = list(
            dict.fromkeys(f"{s}_{k}" for one in self.rows for s, p in (one.get("subsets") or {}).items() for k in p)
        )
        out = io.StringIO()
        writer = csv.DictWriter(out, [*names, *parts], extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for one in self.rows:
            inner = {f"{s}_{k}": v for s, p in (one.get("subsets") or {}).items() for k, v in p.items()}
            writer.writerow({key: safe_cell(value) for key, value in (dict(one) | inner).items()})
        return out.getvalue()

    def plot(self, ax: Axes | None = None, value: str = "auc", title: str | None = None) -> Axes:
        """Draw a number of all rows with its interval.

        Parameters
        ----------
        ax
            Where to draw; a figure of its own if not given.
        value
            `auc`, `ap` or `within_auc`.
        title
            Of the Axes.

        Returns
        -------
        Axes
        """
        from headprobe.plotting.curves import comparison

        words = {"auc": "frame AUC", "ap": "average precision", "within_auc": "AUC within videos"}
        return comparison(
            self.rows,
            ax,
            title,
            value=value,
            names=words,
            chance=None if value == "ap" else 0.5,
            highlight=[self.settings["reference"]],
        )

    def sections(self) -> list[Section]:
        """The table as parts of a report.

        Returns
        -------
        list of Section
        """
        from headprobe.report.report import Bullets, Facts, Figure, Section, Table

        head, *body = self.cells()
        blind = [place for place, one in enumerate(self.rows) if one["name"] == self.settings["reference"]]
        parts: list[Any] = [
            Table(head, body, self.caption(), highlight=blind),
            Figure(
                self.plot(), "Frame AUC of every row with its interval", "Frame AUC with 95 % intervals over videos."
            ),
        ]
        made = [Section("All detectors on the same videos", parts)]
        subsets = list(dict.fromkeys(name for one in self.rows for name in one.get("subsets") or {}))
        if subsets:
            lines = [
                [one["name"], *(one["subsets"].get(name, {}).get("auc") for name in subsets)]
                for one in self.rows
                if one.get("subsets")
            ]
            made.append(
                Section("By part", [Table(["method", *subsets], lines, "Frame AUC of parts of the test videos.")])
            )
        if self.differences:
            lines = [
                [one["minus"], one["auc"], _span(one, "auc"), one["within_auc"], _span(one, "within_auc")]
                for one in self.differences
            ]
            columns = [f"{self.settings['reference']} minus", "AUC", "interval", "AUC within videos", "interval"]
            words = "Differences on the same videos; the intervals hold together for all rows (Bonferroni)."
            made.append(Section("Differences", [Table(columns, lines, words)]))
        problems = [f"{name}: {why}" for name, why in self.failed.items()]
        problems += [f"{name}: {video}: {why}" for name, one in self.lost.items() for video, why in one.items()]
        problems += [
            f"{one['name']}: nothing was read of {counted(len(one['silent_videos']), 'video')}, which are in none of "
            f"its numbers: {', '.join(one['silent_videos'][:5])}"
            for one in self.rows
            if one.get("silent_videos")
        ]
        if problems:
            made.append(Section("What failed", [Bullets(problems)]))
        made.append(Section("Settings", [Facts(dict(self.settings) | {"versions": versions()})]))
        return made

    def caption(self) -> str:
        """What the table was made of, in one or two sentences.

        Returns
        -------
        str
        """
        given = self.settings
        made = (
            f"{given.get('videos', '')}: {counted(given.get('n_test', 0), 'test video')}, "
            f"{given.get('n_abnormal_test', 0)} abnormal, {given.get('hours', 0):.2f} hours."
        )
        drawn = (
            f"{counted(given['draws'], 'calibration draw')} of {given['videos_per_draw']} videos."
            if given.get("videos_per_draw")
            else f"Scored in {given.get('folds')} folds by video, drawn {given.get('draws')} times."
        )
        return (
            f"{made} {drawn} Intervals are over test videos; events are found at "
            f"{100 * given.get('false_alarms', 0.05):g} % false alarms."
        )

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `table.md`, `table.csv`, `results.json`, `table.png` and `report.html`.

        Parameters
        ----------
        folder
            Created if missing.

        Returns
        -------
        Path
            The folder.
        """
        from headprobe.plotting._pictures import figure_png
        from headprobe.report.report import write_report

        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        write_file(place / "table.md", f"{self.markdown()}\n{self.caption()}\n")
        write_file(place / "table.csv", self.csv())
        write_json(place / "results.json", asdict(self) | {"versions": versions()})
        write_file(place / "table.png", figure_png(self.plot(), 110))
        title = f"Detectors on {self.settings.get('videos', 'the same videos')}"
        write_report(place / "report.html", title, self.sections())
        return place

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Comparison:
        """What `save` wrote.

        Parameters
        ----------
        folder
            The folder.

        Returns
        -------
        Comparison

        Raises
        ------
        ArtefactError
            There is no table in it.
        """
        given = read_json(Path(folder) / "results.json")
        return cls(*(given[name] for name in ("rows", "differences", "settings", "failed", "lost")))

    def _repr_html_(self) -> str:
        head, *body = self.cells()
        return rows_as_html("Comparison", {line[0]: " · ".join(line[1:]) for line in (head, *body)})


def _cell(row: Mapping[str, Any], key: str) -> str:
    if key == "name":
        return str(row["name"])
    if key == "seen":
        return _SEEN[row["needs"]]
    if key == "interval":
        return _span(row, "auc")
    value = row.get(key)
    if value is None or value != value:
        return "–"
    if key == "unread":
        return f"{100 * value:.1f} %"
    if key in ("seconds_per_hour", "calls_per_hour"):
        return f"{value:,.0f}"
    return _short(value)


def _span(row: Mapping[str, Any], key: str) -> str:
    low, high = row.get(f"{key}_low"), row.get(f"{key}_high")
    return "–" if low is None or high is None else f"{_short(low)} to {_short(high)}"


def _short(value: float) -> str:
    """Three digits, without the nought before the point."""
    text = f"{value:.3f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text
