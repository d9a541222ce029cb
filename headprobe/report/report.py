"""One self-contained HTML page for a run: text, tables and figures, readable on a telephone and on paper.

The page loads nothing from anywhere: figures are inside it, there is no script, and a content security policy
says so to the browser. Every text is escaped, whatever a video is called. `Report` puts the parts of a run into their
order; `write_report` writes any sections.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from headprobe.errors import InputError
from headprobe.heads import Head, HeadSet
from headprobe.report._blocks import (
    Block,
    Bullets,
    Facts,
    Figure,
    Link,
    Paragraph,
    Pictures,
    Quote,
    Section,
    Table,
)
from headprobe.report._heads import heads_figures, heads_table, map_figures
from headprobe.report._html import MAX_BYTES, drawn, write_report

if TYPE_CHECKING:
    from xarray import DataArray

    from headprobe.metrics.significance import MaxStatistic
    from headprobe.provenance import Provenance

__all__ = [
    "MAX_BYTES",
    "PARTS",
    "Block",
    "Bullets",
    "Facts",
    "Figure",
    "Link",
    "Paragraph",
    "Pictures",
    "Quote",
    "Report",
    "Section",
    "Table",
    "write_report",
]

PARTS: dict[str, str] = {
    "timelines": "Timelines",
    "question": "Question and data",
    "found": "What was found",
    "heatmaps": "Heatmaps",
    "heads": "The chosen heads",
    "controls": "Controls",
    "explanations": "Explanations",
    "failed": "What failed",
    "limits": "Limits",
    "provenance": "Provenance",
}
"""The parts of a `Report` in their order, with their headings."""

_MUST = {"failed": "failed({})", "limits": "limits([...])"}
_SHED = ("timelines", "explanations")  # whose pictures are left out of a page that is too large
_OPEN = 3  # timelines that are not folded


class Report:
    """The parts of a run in a fixed order, whatever the order in which they are given.

    Every method but `write` returns the report itself. The page ends with the parts that were never given.

    Parameters
    ----------
    title
        Title and first heading.
    summary
        A sentence or two under the title: the main number, and its split.
    language
        Language of the texts as a BCP 47 tag.

    Examples
    --------
    >>> import tempfile
    >>> report = Report("Hunt", summary="AUC 0.91 on test videos.")
    >>> report = report.question("Do five heads beat all of them?").failed({"<script>.mp4": "no video stream"})
    >>> report = report.limits(["Rendered videos."])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     text = report.write(f"{folder}/report.html").read_text(encoding="utf-8")
    >>> "<script>" in text, "&lt;script&gt;.mp4" in text
    (False, True)
    """

    def __init__(self, title: str, summary: str = "", language: str = "en") -> None:
        self.title = title
        self.summary = summary
        self.language = language
        self._blocks: dict[str, list[Block | str]] = {part: [] for part in PARTS}
        self._given: set[str] = set()
        self._failures: list[list[str]] = []
        self._claims: list[list[str]] | None = None

    def add(self, part: str, *blocks: Block | str) -> Self:
        """Put blocks at the end of a part.

        Parameters
        ----------
        part
            One of `PARTS`.
        blocks
            Plain strings are paragraphs. Figures are drawn now, so what is done to them later does not count.

        Raises
        ------
        InputError
            There is no such part, or a figure is none.
        """
        if part not in PARTS:
            raise InputError(f"a report has the parts {list(PARTS)}, got {part!r}")
        self._blocks[part] += [drawn(block) for block in blocks]
        self._given.add(part)
        return self

    def question(self, text: str, *data: Block | str) -> Self:
        """Say what was asked, and of which data.

        Parameters
        ----------
        text
            The question.
        data
            Tables and facts about the data: sizes, splits, labels.
        """
        return self.add("question", text, *data)

    def found(self, *blocks: Block | str) -> Self:
        """Say what came out.

        Parameters
        ----------
        blocks
            Sentences and tables, with intervals and splits.
        """
        return self.add("found", *blocks)

    def provenance(self, given: Provenance | Mapping[str, Any], **more: Any) -> Self:
        """Say what the numbers were made from.

        Parameters
        ----------
        given
            A `Provenance`, with its fingerprint, or names and values.
        more
            Further names and values, such as ``seed=0``.
        """
        if isinstance(given, Mapping):
            facts = dict(given)
        else:
            facts = {name: value for name, value in given.to_dict().items() if value not in (None, "", {}, [], ())}
            # Prompts one by one, as there can be many words in each.
            facts |= {f"prompt {name}": text for name, text in facts.pop("prompts", {}).items()}
            facts.pop("read", None)
            facts["fingerprint"] = given.fingerprint
        facts |= more
        return self.add("provenance", Facts({str(k).replace("_", " "): v for k, v in facts.items()}))

    def heatmaps(
        self,
        maps: DataArray | Mapping[str, DataArray],
        *,
        split: str,
        mark: HeadSet | Iterable[Head | str | tuple[int, int]] = (),
        p_values: DataArray | None = None,
        alpha: float = 0.05,
        label: str | None = None,
    ) -> Self:
        """Show score maps; parameters and errors as in `headprobe.report._heads.map_figures`."""
        return self.add("heatmaps", *map_figures(maps, split, mark, p_values, alpha, label))

    def heads(
        self,
        heads: HeadSet | Iterable[Head | str | tuple[int, int]],
        scores: DataArray,
        *,
        split: str,
        instability_penalty: float = 0.5,
        significance: MaxStatistic | None = None,
        significance_note: str = "",
        p_values: DataArray | None = None,
        chosen_in: Mapping[str, float] | None = None,
    ) -> Self:
        """Show the chosen heads with their stability and significance.

        Parameters
        ----------
        heads, scores, split, instability_penalty, significance, p_values, chosen_in
            As in `headprobe.report._heads.heads_table`.
        significance_note
            What the test is of: metric, split, what was permuted.

        Raises
        ------
        InputError
            As in `headprobe.report._heads.heads_table` and `headprobe.report._heads.heads_figures`.
        """
        chosen = HeadSet(heads)
        blocks: list[Block | str] = [
            heads_table(chosen, scores, split, instability_penalty, significance, chosen_in, p_values),
            *heads_figures(chosen, scores, split, instability_penalty, significance),
        ]
        if significance is None and p_values is None:
            blocks.append("The significance of these heads was not tested in this run.")
        if significance_note:
            blocks.append(significance_note)
        return self.add("heads", *blocks)

    def controls(
        self,
        rows: Sequence[Mapping[str, Any]],
        columns: Mapping[str, str],
        *,
        split: str,
        caption: str = "",
        highlight: str | None = None,
        digits: int = 3,
    ) -> Self:
        """Show a method beside its controls.

        Parameters
        ----------
        rows
            One mapping for each method. Beside a number ``auc`` its spread ``auc_sd`` or its interval ``auc_low`` and
            ``auc_high`` are printed with it, where they are there and not None.
        columns
            Key to heading, the names of the methods first.
        split
            What the numbers were computed on.
        caption
            More about them.
        highlight
            Name of the row to set off.
        digits
            Decimals.

        Raises
        ------
        InputError
            There are no rows, a row lacks a key, or no row has the name to set off.
        """
        if not rows or not columns:
            raise InputError("a table of controls needs rows and columns")
        first = next(iter(columns))
        for number, row in enumerate(rows):
            missing = [key for key in columns if key not in row]
            if missing:
                raise InputError(f"row {number} of the controls lacks {missing}; give None for what was not measured")
        names = [row[first] for row in rows]
        if highlight is not None and highlight not in names:
            raise InputError(f"{highlight!r} is to be set off, but the rows are {names}")
        cells = [[row[first], *(_measured(row, key, digits) for key in list(columns)[1:])] for row in rows]
        words = " ".join(part for part in (f"Numbers from {split}.", caption) if part)
        off = [names.index(highlight)] if highlight is not None else []
        return self.add("controls", Table(list(columns.values()), cells, words, digits, off))

    def timeline(self, name: str, figure: Any, caption: str = "", alt: str | None = None, dpi: int = 110) -> Self:
        """Show a video's scores over time; of many videos, those after the third are folded.

        A `Link` to ``timeline-1`` leads to the first that was given, and so on.

        Parameters
        ----------
        name
            The video.
        figure
            As from `headprobe.plotting.timeline.timeline`, or a PNG file.
        caption
            More words beneath.
        alt
            What it shows; by default that it is the timeline of the video.
        dpi
            Dots per inch at which it is drawn, or the PNG file was.

        Raises
        ------
        InputError
            It is no figure.
        """
        shown = Figure(figure, alt or f"Timeline of {name}: scores over seconds.", caption, dpi)
        n = sum(isinstance(block, Section) for block in self._blocks["timelines"])
        return self.add("timelines", Section(name, [shown], anchor=f"timeline-{n + 1}"))

    def explanation(
        self,
        title: str,
        words: str,
        *,
        prompt: str = "",
        frames: Sequence[tuple[str, Any]] = (),
        facts: Mapping[str, Any] | None = None,
        figures: Sequence[Figure] = (),
        note: str = "",
    ) -> Self:
        """Show what a model says of an event, beside its frames, its scores and where heads look.

        Parameters
        ----------
        title
            Video and time.
        words
            What the model said.
        prompt
            What it was asked.
        frames
            (words, RGB frame uint8 [height, width, 3]) of each frame that it was shown.
        facts
            Scores, of the event and of single heads.
        figures
            Where heads look (`headprobe.plotting.frames.frames`).
        note
            What to think of it.

        Raises
        ------
        InputError
            A frame or a figure is none.
        """
        blocks: list[Block | str] = []
        if frames:
            blocks.append(Pictures(list(frames), f"Frames of {title}."))
        blocks.append(Quote(words, f"The model, asked: {prompt}" if prompt else "The model"))
        if facts:
            blocks.append(Facts(facts))
        blocks += figures
        if note:
            blocks.append(note)
        return self.add("explanations", Section(title, blocks))

    def failed(
        self,
        what: Mapping[str, str] | Iterable[tuple[str, str]],
        claims: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
    ) -> Self:
        """Say what failed; a report is not written without.

        Parameters
        ----------
        what
            Name and reason of each video, model or test that failed; empty if none did.
        claims
            What did not hold, and how far: reversed claims, missed events. Empty if all of it held; None if the run
            had nothing that could fail to hold.
        """
        self._failures += _pairs(what)
        if claims is not None:
            self._claims = (self._claims or []) + _pairs(claims)
        return self.add("failed")

    def limits(self, texts: Sequence[str]) -> Self:
        """Say what the numbers do not show; a report is not written without.

        Parameters
        ----------
        texts
            One sentence or two each.

        Raises
        ------
        InputError
            There are none.
        """
        if not texts or isinstance(texts, str):
            raise InputError(f"limits are a list of texts, one or more: every run has some; got {texts!r}")
        return self.add("limits", Bullets(list(texts)))

    @property
    def sections(self) -> list[Section]:
        """The parts as sections, in order."""
        blocks = {part: self._blocks[part] for part in PARTS if part in self._given}
        if "failed" in self._given:
            count = len(self._failures)
            table = Table(["what", "why"], self._failures, f"{count} failed." if count > 1 else "One failed.")
            blocks["failed"] = [table if count else "Nothing failed.", *blocks["failed"]]
            if self._claims is not None:
                table = Table(
                    ["what", "how far"], self._claims, "What the run did not show, or showed to be otherwise."
                )
                held = Section("What did not hold", [table if self._claims else "All of it held."])
                blocks["failed"] = [held, Section("What could not be run", blocks["failed"])]
        if "timelines" in blocks:
            blocks["timelines"] = _folded(blocks["timelines"])
        absent = [heading for part, heading in PARTS.items() if part not in blocks]
        if blocks and absent:
            blocks[[*blocks][-1]] = [*[*blocks.values()][-1], f"Not part of this run: {', '.join(absent)}."]
        return [Section(PARTS[part], some) for part, some in blocks.items()]

    def write(self, path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> Path:
        """Write the page.

        A page that is too large gets the figures of timelines and explanations with some loss; if that is not enough,
        the last of them are left out, and the page names them. Text and tables stay.

        Parameters
        ----------
        path
            The file to write; it is replaced only when the new one is complete.
        max_bytes
            How large it may be.

        Returns
        -------
        Path
            The file written.

        Raises
        ------
        InputError
            What failed or the limits were not given, or the page is too large without those figures, too.
        """
        missing = [call for part, call in _MUST.items() if part not in self._given]
        if missing:
            raise InputError(f"a report says what failed and what its limits are: call {' and '.join(missing)} first")
        shed = [PARTS[part] for part in _SHED]
        return write_report(
            path, self.title, self.sections, self.language, summary=self.summary, max_bytes=max_bytes, shed=shed
        )


def _pairs(given: Mapping[str, str] | Iterable[tuple[str, str]]) -> list[list[str]]:
    pairs = given.items() if isinstance(given, Mapping) else given
    return [[str(name), str(reason)] for name, reason in pairs]


def _folded(blocks: Sequence[Block | str]) -> list[Block | str]:
    """Timelines of many videos: the first ones open, each of the others folded, and all of these within one fold."""
    each = [block for block in blocks if isinstance(block, Section)]
    rest = [block for block in blocks if not isinstance(block, Section)] + each[:_OPEN]
    more = [replace(block, folded=True) for block in each[_OPEN:]]
    return [*rest, Section(f"{len(more)} more timelines", more, folded=True)] if more else [*blocks]


def _measured(row: Mapping[str, Any], key: str, digits: int) -> Any:
    """A number, with its spread or its interval where the row has one."""
    value, spread = row[key], row.get(f"{key}_sd")
    low, high = row.get(f"{key}_low"), row.get(f"{key}_high")
    if isinstance(value, float | np.floating):
        if spread is not None:
            return f"{value:.{digits}f}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{spread:.{digits}f}"
        if low is not None and high is not None:
            return f"{value:.{digits}f} [{low:.{digits}f},\N{NO-BREAK SPACE}{high:.{digits}f}]"
    return value
