"""The figures, drawn from results.json alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.lines import Line2D

from headprobe.plotting._canvas import BLUE, GREY, VERMILION, floating_figure, legend_below, plain_frame
from headprobe.plotting.curves import sweep


def draw_rows(results: Mapping, names: Sequence[str], once: Sequence[str], ending: str, path: Path) -> None:
    """Frame AUC of every row with labels of videos and of segments: mean, the middle 95 % of the draws, the draws."""
    rows = results["rows"]
    listed = (*names, *once)
    figure = floating_figure(9.0, 0.26 * len(listed) + 1.2)
    ax = figure.subplots()
    for place, name in enumerate(listed):
        shown = [(name, VERMILION, "o", -0.16), (name + ending, BLUE, "s", 0.16)]
        for number, (key, colour, marker, down) in enumerate(shown if name in names else [(name, GREY, "D", 0.0)]):
            auc, y = rows[key]["auc"], place + down
            if "low" in auc:
                ax.plot([auc["low"], auc["high"]], [y, y], color=colour, lw=1.8, zorder=2)
                each = rows[key]["auc_of_each_draw"]
                ax.scatter(each, [y] * len(each), s=5, color=colour, alpha=0.3, lw=0, zorder=1)
            ax.plot([auc["mean"]], [y], marker=marker, color=colour, ms=5, mec="white", mew=0.6, ls="", zorder=3)
            ax.annotate(
                f"{auc['mean']:.3f}", (1.0, place), xycoords=("axes fraction", "data"), xytext=(6 + 36 * number, 0),
                textcoords="offset points", va="center", fontsize="small", color=colour, annotation_clip=False,
            )  # fmt: skip
    ax.axvline(0.5, color=GREY, lw=0.8, ls=(0, (4, 3)), zorder=0)
    ax.set_yticks(range(len(listed)), labels=list(listed))
    ax.set_ylim(len(listed) - 0.4, -0.6)
    ax.set_xlabel("frame AUC, normal videos and seen events (dashed: chance)")
    legend = [
        Line2D([], [], color=VERMILION, marker="o", label="labels of videos"),
        Line2D([], [], color=BLUE, marker="s", label="labels of segments"),
        Line2D([], [], color=GREY, marker="D", label="one kind, or none"),
    ]
    plain_frame(ax)
    legend_below(ax, legend, columns=3)
    figure.savefig(path, dpi=120)


def draw_curves(results: Mapping, path: Path) -> None:
    """Calibration size, number of heads, and penalty."""
    curves = results["curves"]
    figure = floating_figure(12.6, 4.6)
    axes = figure.subplots(1, 3)
    for ax, over, title, chosen in zip(
        axes,
        ("calibration_size", "k", "lambda"),
        ("Calibration size", "Number of heads", "Penalty on instability"),
        (results["config"]["draws"]["videos"], results["config"]["method"]["k"], results["config"]["method"]["lambda"]),
        strict=True,
    ):
        named = {name: {float(x): each for x, each in one.items()} for name, one in curves[over].items()}
        sweep(named, ax, title, over=over, label="frame AUC", chosen=chosen)
    figure.savefig(path, dpi=110)
