"""The three figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from headprobe import heatmap, top_heads

BLUE, VERMILION, GREEN, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#767676", "#222222"
NAMES = {"ped2": "UCSD Ped2 (12 videos)", "shanghaitech": "ShanghaiTech (107 videos)"}


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _clean(ax) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)


def draw_retrieval(maps: dict[str, xr.DataArray], result: dict, file: Path) -> None:
    """Both maps, and every head in both."""
    figure = _figure(13, 4.4)
    axes = figure.subplots(1, 3, width_ratios=[1, 1, 0.8])
    (first, mistral), (second, other) = maps.items()
    for ax, name, one in ((axes[0], first, mistral), (axes[1], second, other)):
        heatmap(
            one, mark=top_heads(one, 5), ax=ax, title=name, label="retrieval score, mean over trials", vmin=0, vmax=1
        )
    ax = axes[2]
    named = top_heads(mistral, 5), top_heads(other, 5)
    ax.scatter(mistral.values.ravel(), other.values.ravel(), s=9, color=GREY, alpha=0.5, linewidths=0)
    for heads, color, marker in zip(named, (BLUE, VERMILION), ("s", "^"), strict=True):
        x, y = ([float(one.sel(layer=h.layer, head=h.head)) for h in heads] for one in (mistral, other))
        ax.scatter(x, y, s=34, color=color, marker=marker, label=f"five best of {first if color == BLUE else second}")
    key = next(key for key in result["chance"] if key.startswith(second))
    row = result["chance"][key]["statistics"]
    text = "\n\n".join(
        f"{name.capitalize()} {row[name]['observed']:.3f}\np {row[name]['p, whole model']:.2g}, all heads permuted\n"
        f"p {row[name]['p, within layers']:.2g}, within layers only"
        for name in ("pearson", "spearman")
    )
    ax.text(0.98, 0.55, text, transform=ax.transAxes, ha="right", va="center", fontsize=8, color=INK)
    ax.set_xlabel(first, fontsize=9)
    ax.set_ylabel(second, fontsize=9)
    ax.set_title("every head in both", fontsize=10)
    ax.legend(fontsize=7.5, frameon=False, loc="upper right")
    _clean(ax)
    figure.savefig(file, dpi=110)


def draw_heads(maps: dict[str, dict[str, xr.DataArray]], results: dict[str, dict], file: Path) -> None:
    """Scores with whole videos held out, how often a head is chosen, and what chance reaches."""
    figure = _figure(13, 7)
    axes = figure.subplots(2, 3, width_ratios=[1, 1, 1.1])
    for row, (name, one) in zip(axes, maps.items(), strict=True):
        heatmap(
            one["auroc"],
            mark=top_heads(one["auroc"], 5),
            ax=row[0],
            title=f"{NAMES[name]}: AUC, videos held out",
            label="AUC",
        )
        heatmap(
            one["frequency"],
            mark=[head for head in results[name]["lda_over_half_samples"]["in_three_quarters_of_them"]],
            ax=row[1],
            title="among the five best LDA scores of half the videos",
            label="share of the half-samples",
            cmap="cividis",
            vmin=0,
            vmax=1,
        )
        ax = row[2]
        for scheme, color, style in (("shift", VERMILION, "--"), ("exchange", BLUE, "-")):
            maxima = one[f"null {scheme}"].max(("layer", "head")).values
            words = {"shift": "labels moved round in their video", "exchange": "labels of other videos"}[scheme]
            ax.hist(
                maxima,
                bins=30,
                density=True,
                histtype="step",
                color=color,
                ls=style,
                lw=1.6,
                label=f"best head, {words}",
            )
        scores = one["auroc"].values
        top = ax.get_ylim()[1]
        for layer, values in enumerate(scores):
            height = -top * (0.08 + 0.07 * layer)
            ax.plot(values, np.full(len(values), height), "|", color=INK, ms=7, mew=1)
            ax.text(scores.max() + 0.012, height, f"layer {layer}", fontsize=7.5, va="center", color=INK)
        limit = results[name]["tests"]["exchange"]["threshold"]
        ax.axvline(limit, color=BLUE, lw=0.9, ls=":")
        place = results[name]["plain_predictors"]["position in the video"]["auroc"]
        ax.axvline(place, color=GREEN, lw=1.2, ls="-.", label="position in the video alone")
        ax.set_ylim(-top * 0.52, top * 1.35)
        ax.set_yticks([])
        ax.set_xlabel("AUC; ticks: the 72 heads", fontsize=9)
        ax.set_title("against chance (dotted: family-wise 5 %)", fontsize=10)
        ax.legend(fontsize=7.5, frameon=False, loc="upper left")
        _clean(ax)
    figure.savefig(file, dpi=110)


ORDER = (
    ("random five", "five random heads"),
    ("same layers", "random, same layers"),
    ("worst five", "five worst heads"),
    ("LDA alone", "LDA, one template"),
    ("hunted, four metrics", "RSS of four metrics"),
    ("probe AUC", "probe AUC"),
    ("hunted on the other data", "hunted on the other data"),
    ("all heads", "all 72 heads"),
    ("last hidden", "last hidden state"),
    ("best layer", "best layer"),
    ("words", "words, no encoder"),
    ("untrained, all heads", "untrained encoder"),
    ("position", "position in the video"),
)


def draw_comparison(results: dict[str, dict], file: Path) -> None:
    """Hunted heads less every other choice, with intervals."""
    figure = _figure(12, 6.6)
    axes = figure.subplots(1, 2, sharey=True)
    styles = {"40": (GREEN, "o"), "100": (BLUE, "s"), "300": (VERMILION, "D")}
    for ax, (name, one) in zip(axes, results.items(), strict=True):
        sizes = [n for n in styles if n in one]
        for i, n in enumerate(sizes):
            color, marker = styles[n]
            for j, (key, _) in enumerate(ORDER):
                value = one[n]["hunted_minus"][key]
                y = -j - 0.22 * (i - (len(sizes) - 1) / 2)
                ax.plot(value["over_splits_corrected"], [y, y], color=color, lw=0.8, alpha=0.8)
                ax.plot(value["over_test_videos"], [y, y], color=color, lw=3.2, solid_capstyle="butt")
                ax.plot(value["mean"], y, marker, color=color, ms=5.5, mec="white", mew=0.7)
            auc = one[n]["auc"]["hunted"]["mean"]
            ax.plot([], [], marker, color=color, ms=5.5, label=f"{n} captions (hunted heads: AUC {auc:.3f})")
        ax.axvline(0, color=INK, lw=0.8)
        ax.set_yticks([-j for j in range(len(ORDER))], [text for _, text in ORDER], fontsize=9)
        ax.set_title(NAMES[name], fontsize=10)
        ax.set_xlabel(
            "AUC of five hunted heads less AUC of ...\nthick: over test videos, thin: over splits, corrected",
            fontsize=9,
        )
        ax.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.12))
        ax.grid(axis="x", color="#dddddd", lw=0.6)
        ax.set_axisbelow(True)
        _clean(ax)
    figure.savefig(file, dpi=110)
