"""The figures, drawn from results.json."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from headprobe import heatmap, top_heads

BLUE, VERMILION, GREEN, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#767676", "#222222"
NAMES = {"ped2": "UCSD Ped2 (12 videos)", "shanghaitech": "ShanghaiTech (107 videos)"}


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _clean(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)


def draw_retrieval(result: dict, file: Path) -> None:
    """Both maps, and every head in both."""
    maps = {
        name: xr.DataArray(values, dims=("layer", "head")).assign_coords(layer=np.arange(32), head=np.arange(32))
        for name, values in result["maps"].items()
    }
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


def draw_saliency(found: dict[str, dict], file: Path) -> None:
    """The paper's four metrics of all heads."""
    figure = _figure(13, 6.4)
    axes = figure.subplots(2, 4)
    words = {"lda": "shrunk LDA", "kl": "symmetric KL", "mmd": "MMD", "nmi": "NMI of 2-means"}
    for row, (name, one) in zip(axes, found.items(), strict=True):
        order = one["saliency"]["order"]
        for ax, (metric, text) in zip(row, words.items(), strict=True):
            heatmap(
                np.array(one["saliency"]["maps"][metric]), mark=one["saliency"]["best_five"][metric], ax=ax, label=""
            )
            agreed = one["saliency"]["spearman"][order.index(metric)][order.index("auroc")]
            ax.set_title(f"{text} (Spearman with AUC {agreed + 0.0:.2f})".replace("-0.00", "0.00"), fontsize=10)
        row[0].set_ylabel(f"{NAMES[name]}\nlayer", fontsize=10)
    figure.savefig(file, dpi=100)


def draw_heads(found: dict[str, dict], file: Path) -> None:
    """Scores with whole videos held out and what chance reaches, their uncertainty, how often a head is chosen."""
    figure = _figure(16, 7.2)
    axes = figure.subplots(2, 4, width_ratios=[1, 1, 1, 1.1])
    for row, (name, one) in zip(axes, found.items(), strict=True):
        tested = one["tests"]["exchange"]
        p = xr.DataArray(tested["p_familywise"], dims=("layer", "head"), name="family-wise p")
        p = p.assign_coords(layer=np.arange(6), head=np.arange(12))
        scores = xr.DataArray(one["saliency"]["maps"]["auroc"], dims=("layer", "head"), coords=p.coords)
        heatmap(scores, mark=top_heads(scores, 5), ax=row[0], p_values=p, label="AUC")
        row[0].set_title(f"{tested['survive_familywise']} of 72 significant (p at most {p.max():.3f})", fontsize=10)
        row[0].set_ylabel(f"{NAMES[name]}\nlayer", fontsize=10)
        spread = one["resampled_videos"]
        width = np.array(spread["rank_high"]) - np.array(spread["rank_low"])
        heatmap(width, ax=row[1], label="ranks", cmap="magma", vmin=0, vmax=71)
        row[1].set_title("rank over resampled videos: width of 95 %", fontsize=10)
        half = one["stability"]["half_samples"]
        chosen = np.array(half["frequency_in_the_best_five"])
        heatmap(
            chosen,
            mark=[*half["in_three_quarters_of_them"]],
            ax=row[2],
            label="share of half-samples",
            cmap="cividis",
            vmin=0,
            vmax=1,
        )
        row[2].set_title("among the best five in half the videos", fontsize=10)
        _draw_null(row[3], one)
    figure.savefig(file, dpi=100)


def _draw_null(ax: Axes, one: dict) -> None:
    """Distribution of the best head under relabelling, the heads, and what needs no encoder."""
    words = {"shift": "best head, labels moved round", "exchange": "best head, labels of other videos"}
    top = 0.0
    for scheme, color, style in (("shift", VERMILION, "--"), ("exchange", BLUE, "-")):
        maxima = one["tests"][scheme]["null_maxima"]
        counts, edges = np.array(maxima["counts"]), np.array(maxima["edges"])
        density = counts / counts.sum() / np.diff(edges)
        top = max(top, density.max())
        ax.stairs(density, edges, color=color, ls=style, lw=1.6, label=words[scheme])
    scores = np.array(one["saliency"]["maps"]["auroc"])
    for layer, values in enumerate(scores):
        height = -top * (0.12 + 0.13 * layer)
        ax.plot(values, np.full(len(values), height), "|", color=INK, ms=7, mew=1)
        ax.text(scores.max() + 0.01, height, f"layer {layer}", fontsize=7, va="center", color=INK)
    ax.axvline(one["tests"]["exchange"]["threshold"], color=BLUE, lw=0.9, ls=":")
    for name, style in (("position in the video", "-."), ("which words", (0, (1, 1)))):
        ax.axvline(one["plain_predictors"][name]["auroc"], color=GREEN, lw=1.4, ls=style, label=f"{name} alone")
    ax.set_ylim(-top * 0.9, top * 1.05)
    ax.set_xlim(right=scores.max() + 0.06)
    ax.set_yticks([])
    ax.set_xlabel("AUC; ticks: the 72 heads", fontsize=9)
    ax.set_title("against chance (blue dots: family-wise 5 %)", fontsize=10)
    ax.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2)
    _clean(ax)


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
)


def draw_comparison(results: dict[str, dict], again: dict, file: Path) -> None:
    """Hunted heads less every other choice, with intervals."""
    figure = _figure(12, 6.6)
    figure.suptitle(
        "thick: over test videos; thin: over splits, corrected; black ends: choice and fit redone on resampled videos",
        fontsize=9,
    )
    axes = figure.subplots(1, 2, sharey=True)
    styles: dict[str, tuple[str, str]] = {"40": (GREEN, "o"), "100": (BLUE, "s"), "300": (VERMILION, "D")}
    for ax, (name, one) in zip(axes, results.items(), strict=True):
        sizes = [n for n in styles if n in one]
        for i, n in enumerate(sizes):
            color, marker = styles[n]
            for j, (key, _) in enumerate(ORDER):
                value = one[n]["hunted_minus"][key]
                y = -j - 0.22 * (i - (len(sizes) - 1) / 2)
                ax.plot(value["over_splits"], [y, y], color=color, lw=0.8, alpha=0.8)
                ax.plot(value["over_test_videos"], [y, y], color=color, lw=3.2, solid_capstyle="butt")
                redone = again.get(n, {}).get(key) if name == "shanghaitech" else None
                if redone:
                    ax.plot(redone["interval"], [y, y], "|", color=INK, ms=6, mew=1.1)
                ax.plot(value["mean"], y, marker, color=color, ms=5.5, mec="white", mew=0.7)
            auc = one[n]["auc"]["hunted"]["mean"]
            ax.plot([], [], marker, color=color, ms=5.5, label=f"{n} captions (hunted heads: AUC {auc:.3f})")
        ax.axvline(0, color=INK, lw=0.8)
        ax.set_yticks([-j for j in range(len(ORDER))], [text for _, text in ORDER], fontsize=9)
        ax.set_title(NAMES[name], fontsize=10)
        ax.set_xlabel("AUC of five hunted heads less AUC of ...", fontsize=9)
        ax.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.12))
        ax.grid(axis="x", color="#dddddd", lw=0.6)
        ax.set_axisbelow(True)
        _clean(ax)
    figure.savefig(file, dpi=110)


def draw_all(results: dict, folder: Path) -> None:
    """All figures, from results.json."""
    draw_retrieval(results["retrieval"], folder / "retrieval.png")
    draw_saliency(results["heads"], folder / "saliency.png")
    draw_heads(results["heads"], folder / "heads.png")
    hunted = {name: results["hunt"][name] for name in NAMES}
    draw_comparison(hunted, results["hunt"]["shanghaitech, videos redrawn"], folder / "comparison.png")
