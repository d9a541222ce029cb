"""The explorer: a score map to click into, in a notebook or as a file."""

from __future__ import annotations

import html
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from headprobe._files import write_file
from headprobe._validation import count
from headprobe.activations import HeadActivations
from headprobe.errors import InputError
from headprobe.examples import Example
from headprobe.heads import Head, HeadSet
from headprobe.plotting.explorer._content import (
    Scores,
    contents,
    describe,
    explorer_page,
    extremes,
    head_view,
    looks,
    packed,
    read_scores,
    shown_rows,
)

if TYPE_CHECKING:
    from xarray import DataArray

__all__ = ["Explorer", "explore"]

_STRONGEST = 5
_PICTURES = 0.25  # of the page, kept free for words and frames where examples are given


class Explorer:
    """A page to look into heads: shown as it is in a notebook, written as a file by `save`.

    Parameters
    ----------
    text
        The page.
    notes
        What it leaves out.

    Examples
    --------
    >>> "<iframe" in Explorer("<p>page</p>", ())._repr_html_()
    True
    """

    def __init__(self, text: str, notes: Sequence[str] = ()) -> None:
        self.text = text
        self.notes = tuple(notes)

    def __repr__(self) -> str:
        return f"Explorer({len(self.text.encode()) / 1e6:.2f} MB; .save('heads.html') writes it)"

    def _repr_html_(self) -> str:
        """The page in a frame of its own, which can neither reach the notebook nor be reached by its styles."""
        return (
            f'<iframe srcdoc="{html.escape(self.text, quote=True)}" sandbox="allow-scripts" title="headprobe explorer" '
            'style="width:100%;height:820px;border:1px solid #c9c9c9" loading="lazy"></iframe>'
        )

    def widget(self) -> Any:
        """The page as a Jupyter widget, whose trait `chosen` is the label of the head clicked last.

        Returns
        -------
        anywidget.AnyWidget
            Shown as the last line of a cell; ``HeadSet([widget.chosen])`` goes on with the head.

        Raises
        ------
        InputError
            anywidget is not installed.
        """
        try:
            import anywidget
            import traitlets
        except ImportError as error:
            raise InputError(
                "a widget needs the package anywidget: pip install 'headprobe[widget]'. Without it, the explorer "
                "shows itself in a notebook and can be saved as a page, but the notebook does not know the head that "
                "was clicked"
            ) from error

        class ExplorerWidget(anywidget.AnyWidget):
            _esm = (files("headprobe.plotting.explorer") / "widget.js").read_text(encoding="utf-8")
            page = traitlets.Unicode().tag(sync=True)
            chosen = traitlets.Unicode().tag(sync=True)

        return ExplorerWidget(page=self.text)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page as one file, which opens in a browser without a server and without the network.

        Parameters
        ----------
        path
            The file; it is replaced only when the new one is complete.

        Returns
        -------
        Path
            The file written.
        """
        path = Path(path)
        write_file(path, self.text)
        return path


def explore(
    acts: HeadActivations,
    score_map: DataArray,
    *,
    examples: Sequence[Example] | Mapping[str, Example] | None = None,
    mark: HeadSet | Iterable[Head | str | tuple[int, int]] = (),
    classes: Mapping[int, str] | None = None,
    positive: int | None = None,
    prompt: str | None = None,
    title: str = "Attention heads",
    center: float | None = None,
    attention: Any = None,
    tokenizer: Any = None,
    max_examples: int = 150,
    max_bytes: int = 5_000_000,
    progress: bool = True,
) -> Explorer:
    """Make a heatmap to look into: each head's scores, its projection, its strongest examples, and where it looks.

    Pointing at a cell, or reaching it with the arrow keys, shows the head's scores under every prompt and metric;
    clicking, or Enter, the distribution of its examples by class, its first two principal components and the examples
    that lie farthest on either side: clips play, with what the head attends to left bright, and tokens of texts are
    coloured. What the page shows of the examples is computed from the very examples that the scores came from: it
    illustrates a head, and tests nothing.

    Parameters
    ----------
    acts
        Outputs of the heads. Heads of several sizes and layers of several head counts are fine; a head with a score
        but without outputs shows its scores alone.
    score_map
        Dims (layer, head), and metric, prompt or both before them. NaN: no such head, or no score.
    examples
        The examples that the activations were captured from: their words or frames are then part of the page. They are
        matched by id and read now.
    mark
        Heads to outline, for example the expert heads.
    classes
        Names of the labels.
    positive
        The class whose side is called strong; the largest label by default.
    prompt
        The prompt to look at examples under, where the page has no room for all; the first by default.
    title
        Heading of the page.
    center
        Score that gets the middle of a diverging colour scale, for scores with a sign.
    attention
        Where heads look in the examples, as from `headprobe.trace.attention.attention`: of some heads or all.
    tokenizer
        Names the tokens of texts (its `decode`); needed with the attention of a model that takes texts.
    max_examples
        Examples to show at most: as many of each class, and all of a smaller one. Projection, silhouette and strength
        are computed from those shown.
    max_bytes
        How large the page may be. What does not fit is left out in this order, and the page says so: attention of the
        heads with the lowest scores, frames of the examples that are least often among the strongest, projections
        under other prompts, and those of the heads with the lowest scores.
    progress
        Whether to show a progress bar.

    Returns
    -------
    Explorer
        ``.save("heads.html")`` writes it; in a notebook it is shown; ``.widget()`` hands clicked heads to the notebook.

    Raises
    ------
    InputError
        The dims do not fit, a marked head, the prompt or the class is not there, there are fewer than three examples,
        an example is missing, the attention is of other clips, heads or prompts, or the scores alone are larger than
        `max_bytes`.
    VideoError
        A clip cannot be read.

    Examples
    --------
    >>> import torch
    >>> from headprobe.activations import example_table
    >>> from headprobe.provenance import Provenance
    >>> from headprobe.scores import score_map
    >>> given = [Example(text, id=text, label=i % 2) for i, text in enumerate(("a", "b", "c", "d"))]
    >>> heads, table = HeadSet(["L0H0", "L0H1"]), example_table(given)
    >>> acts = HeadActivations(torch.randn(1, 4, 2, 8), heads, {"none": ""}, table, Provenance("m"))
    >>> page = explore(acts, score_map([[0.2, 0.9]]), examples=given, progress=False)
    >>> "https:" in page.text, page.notes
    (False, ())
    """
    count(max_examples, "max_examples")
    count(max_bytes, "max_bytes")
    scores = read_scores(score_map, mark, center)
    prompts = list(acts.prompts)
    if prompt is not None and prompt not in prompts:
        raise InputError(f"the activations have the prompts {prompts}: prompt must be one of them, got {prompt!r}")
    y, positive = _labels(acts, positive)
    n = len(acts.examples)
    if n < 3:
        raise InputError(f"a projection needs three examples or more, got {n}")
    rows = shown_rows(y, n, max_examples)
    notes = [f"{len(rows)} of {n} examples are shown, as many of each class."] if len(rows) < n else []

    bare = explorer_page(title, {"scores": scores.packed(), "examples": describe(acts.examples, rows)})
    room = max_bytes - len(bare.encode()) - 4000
    if room < 0:
        raise InputError(
            f"the scores of {scores.there.size} cells and {len(rows)} examples take {len(bare) / 1e6:.1f} MB, but "
            f"max_bytes is {max_bytes / 1e6:g} MB"
        )
    kept, seen = _which(acts, scores, prompts, prompt, len(rows), int(room * (1 - _PICTURES * bool(examples))), notes)
    views = _views(acts, kept, [prompts.index(name) for name in seen], rows, y, positive, progress)
    content: dict[str, Any] = {
        "scores": scores.packed(),
        "examples": describe(acts.examples, rows),
        "classes": {str(key): str(name) for key, name in (classes or {}).items()},
        "positive": positive,
        "grouped": bool(acts.examples["group"].notna().any()),
        "views": {
            "prompts": seen,
            "heads": packed(scores.cells(kept), np.int32),
            "strongest": _STRONGEST,
            **views.packed(),
        },
    }
    if examples is not None:
        room -= len(explorer_page(title, content).encode()) - len(bare.encode())
        wanted = views.by_use(len(rows))
        found = contents(examples, acts.examples, [int(rows[i]) for i in wanted], room)
        for i in wanted:
            content["examples"][i] |= found.get(int(rows[i]), {})
        if len(found) < len(rows):
            notes.append(
                f"{len(found)} of {len(rows)} examples have their words or frames here: there is no more room."
            )
    if attention is not None:
        room = max_bytes - len(explorer_page(title, content).encode()) - 4000
        table = acts.examples.iloc[rows]
        names = table["example" if "example" in table.columns else "id"].astype(str).tolist()
        content["attention"], missing = looks(
            attention, content["examples"], names, views.shown(seen, kept, scores.cells(kept)), tokenizer, room
        )
        if missing:
            notes.append(f"Attention is missing for {missing} of the examples listed: not given, or no more room.")
    content["notes"] = notes
    return Explorer(explorer_page(title, content), notes)


class _Views:
    """Projections and strongest examples of heads under prompts, as arrays."""

    def __init__(self, n_prompts: int, n_heads: int, n_rows: int) -> None:
        self.points = np.zeros((n_prompts, n_heads, n_rows, 2), np.uint8)
        self.shares = np.zeros((n_prompts, n_heads, 2), np.float32)
        self.silhouette = np.zeros((n_prompts, n_heads), np.float32)
        self.strengths = np.zeros((n_prompts, n_heads, n_rows), np.uint8)
        self.range = np.zeros((n_prompts, n_heads, 2), np.float32)
        self.index = np.full((n_prompts, n_heads, 2, _STRONGEST), -1, np.int16)
        self.strength = np.full((n_prompts, n_heads, 2, _STRONGEST), np.nan, np.float32)

    def packed(self) -> dict[str, str]:
        return {name: packed(values, values.dtype) for name, values in vars(self).items()}

    def shown(
        self, prompts: Sequence[str], heads: Sequence[Head], cells: np.ndarray
    ) -> Iterator[tuple[str, Head, int, list[int]]]:
        """Prompt, head, its cell and the examples listed, the first heads first."""
        for number, (head, cell) in enumerate(zip(heads, cells.tolist(), strict=True)):
            for p, prompt in enumerate(prompts):
                listed = self.index[p, number].ravel()
                yield prompt, head, cell, listed[listed >= 0].tolist()

    def by_use(self, n_rows: int) -> list[int]:
        """All rows, those first that are most often among the strongest."""
        counts = np.bincount(self.index[self.index >= 0], minlength=n_rows)
        return np.argsort(-counts, kind="stable").tolist()


def _which(
    acts: HeadActivations,
    scores: Scores,
    prompts: list[str],
    prompt: str | None,
    n_rows: int,
    room: int,
    notes: list[str],
) -> tuple[list[Head], list[str]]:
    """The heads and prompts whose projections there is room for."""
    heads = [head for head in scores.best_first() if head in acts.heads]
    most = int(room // ((3 * n_rows + 8 + 8 + 4 + 2 * _STRONGEST * (2 + 4)) * 4 / 3))  # bytes in base64
    if len(prompts) * len(heads) <= most:
        return heads, prompts
    first = [prompt or prompts[0]]
    if len(prompts) > 1:
        notes.append(
            f"Examples are shown under the prompt {first[0]} only: there is no room for {len(prompts)} prompts."
        )
    if len(heads) > most:
        notes.append(f"Projections are shown of the {most} heads with the highest scores: there is no more room.")
    return heads[:most], first


def _views(
    acts: HeadActivations,
    heads: list[Head],
    prompts: list[int],
    rows: np.ndarray,
    y: np.ndarray | None,
    positive: int | None,
    progress: bool,
) -> _Views:
    views = _Views(len(prompts), len(heads), len(rows))
    groups = _groups(acts, rows)
    shown = None if y is None else y[rows]
    # One copy for each size of head, so that torch is not asked thousands of times.
    place = {}
    for part, tensor in acts.tensors.items():
        values = tensor[:, rows].numpy()
        place |= {head: (values, i) for i, head in enumerate(part)}
    for number, head in enumerate(tqdm(heads, desc="explore", unit="head", disable=not progress)):
        values, at = place[head]
        for p, prompt in enumerate(prompts):
            z = values[prompt, :, at]
            if not np.isfinite(z).all():
                raise InputError(f"{head}: {int((~np.isfinite(z)).sum())} values are NaN or infinite")
            one = head_view(z, shown, positive, groups)
            reach = np.abs(one.points).max() or 1.0
            views.points[p, number] = np.round(127.5 + 127.5 * one.points / reach)
            views.shares[p, number], views.silhouette[p, number] = one.shares, one.silhouette
            low, high = views.range[p, number] = _range(one.strength)
            scaled = np.round(254 * (one.strength - low) / ((high - low) or 1.0))
            views.strengths[p, number] = np.where(np.isfinite(one.strength), scaled, 255)
            views.index[p, number], views.strength[p, number] = extremes(one.strength, _STRONGEST)
    return views


def _range(values: np.ndarray) -> tuple[float, float]:
    there = values[np.isfinite(values)]
    return (float(there.min()), float(there.max())) if there.size else (0.0, 0.0)


def _groups(acts: HeadActivations, rows: np.ndarray) -> np.ndarray:
    """Numbers of the groups of the rows; a row without one, or whose example has several rows, by its example."""
    table = acts.examples.iloc[rows]
    own = table["example" if "example" in table.columns else "id"].astype(str)
    names = table["group"].astype(object).where(table["group"].notna(), "\0" + own)
    return np.unique(names.astype(str).to_numpy(), return_inverse=True)[1]


def _labels(acts: HeadActivations, positive: int | None) -> tuple[np.ndarray | None, int | None]:
    """The labels, where every example has one and there are two classes or more, and the class called strong."""
    known = acts.examples["label"]
    y = None if bool(known.isna().to_numpy().any()) or len(known.unique()) < 2 else acts.labels
    if y is None:
        if positive is not None:
            raise InputError(f"positive is {positive}, but the examples do not all have labels of two classes or more")
        return None, None
    there = np.unique(y).tolist()
    if positive is not None and positive not in there:
        raise InputError(f"positive must be one of the labels {there}, got {positive!r}")
    return y, there[-1] if positive is None else positive
