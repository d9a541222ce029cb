"""What a report says of a fitted detector: what it reads, how far that can be relied on, and what it was made from."""

from __future__ import annotations

from typing import Any

import numpy as np

from headprobe.report import Facts, Figure, Report, Table
from headprobe.report_heads import heads_figures

__all__ = ["counted", "describe_detector", "detector_facts", "read_by"]

CALIBRATION = "the calibration videos"


def counted(n: int, noun: str) -> str:
    """A number of things in words, in the singular where there is one.

    Parameters
    ----------
    n
        How many.
    noun
        What they are, in the singular; its plural ends in s.

    Returns
    -------
    str

    Examples
    --------
    >>> counted(1, "video"), counted(0, "video"), counted(1200, "clip")
    ('1 video', '0 videos', '1,200 clips')
    """
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def read_by(hunter: Any) -> str:
    """What a detector reads, in a few words.

    Parameters
    ----------
    hunter
        Fitted `HeadHunt` or `LayerHunt`.

    Returns
    -------
    str

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> read_by(SimpleNamespace(kind="layer", layer_=3, provenance_=SimpleNamespace(model="tiny")))
    'layer 3 of tiny'
    """
    where = f"the heads {', '.join(hunter.heads_.labels)}" if hunter.kind == "heads" else f"layer {hunter.layer_}"
    return f"{where} of {hunter.provenance_.model}"


def detector_facts(hunter: Any) -> Facts:
    """Settings of a detector and what it was calibrated on.

    Parameters
    ----------
    hunter
        Fitted `HeadHunt` or `LayerHunt`.

    Returns
    -------
    Facts
    """
    balance, held_out, locator = hunter.balance_, hunter.held_out_, hunter.locator_
    facts: dict[str, Any] = {
        "Reads": read_by(hunter),
        "Prompt": hunter.prompt_,
        "Segments": f"{hunter.segment_frames} frames, {hunter.sample_frames} of them shown to the model"
        + ("" if hunter.fps_ is None else f", at {hunter.fps_:g} frames per second"),
        "Calibration": f"{balance['normal']} normal and {balance['abnormal']} abnormal clips of "
        f"{counted(balance['videos'], 'video')} ({balance['videos_with_abnormal']} with abnormal clips)",
        "Scorer": f"{hunter.scorer_.kind}, "
        + ("classes weighted to count the same" if hunter.class_weight else "clips weighted alike"),
        "Probabilities": "calibrated on held-out calibration videos"
        if hunter.scorer_.platt_ is not None
        else "not calibrated",
    }
    if held_out:
        facts["Held-out calibration videos"] = (
            f"AUC {held_out['auc']:.3f}, Brier score {held_out['brier']:.3f}, calibration error {held_out['ece']:.3f} "
            f"over {counted(int(held_out['n']), 'clip')}"
        )
    facts["Locator"] = (
        "none: no threshold was calibrated"
        if locator is None
        else f"threshold {locator.tau:g}, smoothing {locator.sigma:g} segments, release {locator.release:g}, at least "
        f"{locator.min_seconds:g} s"
    )
    return Facts(facts)


def describe_detector(report: Report, hunter: Any) -> Report:
    """Put provenance, heatmap and chosen heads (or layer) of a detector into a report.

    Parameters
    ----------
    report
        The report.
    hunter
        Fitted `HeadHunt` or `LayerHunt`.

    Returns
    -------
    Report
        The same.
    """
    fitted = hunter.provenance_
    prompts = fitted.prompts.values()
    report.provenance(
        {
            "Model": fitted.model,
            "Revision": fitted.revision or "none",
            "Weights": fitted.weights_hash,
            "Number type": fitted.dtype,
            **{f"Prompt {number} of the hunt": text for number, text in enumerate(prompts, 1)},
            "Fingerprint of the calibration": fitted.fingerprint,
            "Seed": hunter.random_state,
            "Versions": fitted.versions,
        }
    )
    if hunter.kind == "layer":
        return _layer(report, hunter)
    experts = hunter.experts_
    report.heatmaps(
        hunter.rss_,
        split=CALIBRATION,
        mark=hunter.heads_,
        p_values=experts.p_values,
        label="Stability-adjusted saliency (RSS)",
    )
    columns = {
        "rank": "rank",
        "head": "head",
        "rss": "RSS",
        "mean": "mean",
        "sd": "sd over prompts",
        "in_folds": "in folds",
        "in_resamples": "in resamples",
        "auroc": "AUROC",
        "p": "p (family-wise)",
    }
    shown = [key for key in columns if not experts.table[key].isna().all()]
    rows = [[None if _missing(value) else value for value in row] for row in experts.table[shown].values.tolist()]
    report.add(
        "heads",
        Table(
            [columns[key] for key in shown],
            rows,
            f"The expert heads on {CALIBRATION}.",
        ),
        " ".join(text for key, text in _COLUMN_TEXTS.items() if key in shown),
        experts.sentence() or "Stability and significance were not computed.",
    )
    found = hunter.identification_
    if found is not None and found.combined.sizes["prompt"] > 1:
        report.add("heads", *heads_figures(hunter.heads_, found.combined, CALIBRATION, hunter.instability_penalty))
    return report


_COLUMN_TEXTS = {
    "rss": "RSS is the mean saliency over the prompts less the instability penalty times its sd.",
    "in_folds": "In folds: share of the choices without one fold of the videos each that chose the head too.",
    "in_resamples": "In resamples: share of the choices on videos drawn with replacement that chose the head too.",
    "auroc": "AUROC: of a linear probe on the head alone, on videos that it was not fitted to.",
    "p": "p: the chance that any head at all reaches its AUROC when labels mean nothing.",
}
"""What the columns of the table of heads mean; only those that are there are explained."""


def _layer(report: Report, hunter: Any) -> Report:
    folds = ", ".join(map(str, hunter.fold_layers_)) or "none"
    names = ", ".join(hunter.curves_.metric.values)
    report.add("heatmaps", "The detector reads one layer and no heads, so there is no map of heads.")
    return report.add(
        "heads",
        Figure(
            hunter.plot(),
            alt=f"Curves of {names} over layers; layer {hunter.layer_} is chosen.",
            caption=f"Each figure over the layers, brought to 0 to 1, on {CALIBRATION}. Their combination is this "
            "project's choice.",
            dpi=110,
        ),
        f"Layer {hunter.layer_} was chosen. Layers chosen without one fold of the videos each: {folds}. Significance "
        "is not computed for layers.",
    )


def _missing(value: Any) -> bool:
    return isinstance(value, float) and np.isnan(value)
