"""The figures, drawn from results.json."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from ucf_readme import COLUMNS, LABELLED, SERIES, WHERE, key

from headprobe import heatmap
from headprobe.plotting._canvas import BLUE, GREEN, GREY, VERMILION, floating_figure, plain_frame
from headprobe.scores import score_map, top_heads

STYLES = {
    "hunted, LDA": (BLUE, "o", "-"),
    "hunted, mixture": (GREEN, "s", "--"),
    "random": (VERMILION, "^", "-"),
    "same layers": (GREY, "v", ":"),
}
LEVELS = {"embedding": ("sentence embedding", "#A0527E", "-"), "node, no text": ("node, no text", "#B8860B", "--")}


def draw_curves(results: Mapping, file: Path) -> None:
    """Areas against the number of heads, with t intervals of hunted and of random heads."""
    rows, sizes = results["rows"], [k for k in results["config"]["sizes"] if k < 72]
    figure = floating_figure(10.5, 5.6)
    axes = figure.subplots(2, 3, sharex=True, sharey=True)
    for ax, (label, p) in zip(axes.ravel(), COLUMNS, strict=True):
        for i, (name, words) in enumerate(SERIES.items()):
            color, marker, style = STYLES[name]
            found = [rows[key(label, p, f"{name}|{k}")] for k in sizes]
            x = np.array(sizes) * 1.04 ** (i - 1.5)
            y = np.array([one["auc"] for one in found])
            ax.plot(x, y, color=color, marker=marker, ls=style, ms=4, lw=1.3, label=words)
            if name in ("hunted, LDA", "random"):
                ends = np.array([[one["low"], one["high"]] for one in found]).T
                ax.errorbar(x, y, np.abs(ends - y), fmt="none", ecolor=color, elinewidth=0.8, alpha=0.6)
        every = rows[key(label, p, "all heads|72")]
        ax.errorbar(
            [72], [every["auc"]], [[every["auc"] - every["low"]], [every["high"] - every["auc"]]],
            fmt="D", color="#3B3B3B", ms=5, elinewidth=0.8, label="all 72 heads",
        )  # fmt: skip
        for name, (words, color, style) in LEVELS.items():
            ax.axhline(rows[f"texts|{label}|{name}"]["auc"], color=color, ls=style, lw=1, label=words)
        ax.axhline(rows["raw rating"]["auc"], color="#2F9BD6", ls=":", lw=1.2, label="the caption's raw rating")
        ax.set_xscale("log")
        ax.set_xticks(results["config"]["sizes"], [str(k) for k in results["config"]["sizes"]])
        ax.minorticks_off()
        plain_frame(ax)
        ax.set_title(f"{LABELLED[label]}, {WHERE[p]}", fontsize=10)
    for ax in axes[1]:
        ax.set_xlabel("heads")
    for ax in axes[:, 0]:
        ax.set_ylabel("frame AUC, 290 videos")
    handles, words = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, words, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    save(figure, file, 100)


def draw_heads(results: Mapping, file: Path) -> None:
    """How often each head is among the five, and what each head tells alone."""
    figure = floating_figure(13.5, 9.2)
    axes = figure.subplots(4, 3)
    scores = [np.array(results["single_heads"][f"{p}|{label}"]) for label, p in COLUMNS]
    low, high = min(one.min() for one in scores), max(one.max() for one in scores)
    for i, (label, p) in enumerate(COLUMNS):
        row, column = 2 * (i // 3), i % 3
        often = np.array(results["stability"][f"{p}|{label}|LDA"]["at_5"]["frequency"])
        where = f"{LABELLED[label]}, {WHERE[p]}"
        heatmap(
            often,
            ax=axes[row, column],
            title=f"chosen: {where}",
            label="share of folds",
            cmap="cividis",
            vmin=0,
            vmax=1,
        )
        best = top_heads(score_map(scores[i]), 5)
        heatmap(
            scores[i],
            mark=best,
            ax=axes[row + 1, column],
            title=f"alone: {where}",
            label="frame AUC",
            vmin=low,
            vmax=high,
        )
    save(figure, file, 75)


def save(figure: Any, file: Path, dpi: int) -> None:
    """A file of few colours, which is small."""
    held = BytesIO()
    figure.savefig(held, dpi=dpi)
    Image.open(held).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
