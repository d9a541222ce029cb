"""All heads of the encoder on one data set: scores with whole videos held out, and what chance makes of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from data import Captions, vocabulary, words_of
from scipy.stats import binom

from headprobe import saliency
from headprobe.metrics._labellings import group_halves
from headprobe.metrics.agreement import mean_agreement, rank_correlation
from headprobe.metrics.linear_probe import auroc, fold_index, loo_ridge_auroc
from headprobe.metrics.resampling import stack_maps
from headprobe.metrics.significance import bootstrap_intervals, compare_with_null, relabellings, winners_curse
from headprobe.metrics.stability import icc, nogueira, size_maps, stable_selection
from headprobe.probing.probe import HeadProbe
from headprobe.scores import score_map, top_heads

ALPHA = 0.05
METRICS = ("lda", "kl", "mmd", "nmi")
SCHEMES = {
    "shift": "labels of every video moved round in a circle by a distance of its own",
    "exchange": "whole label series exchanged between the videos of one camera, stretched to their lengths",
}


def exchange(captions: Captions, n: int, rng: np.random.Generator) -> np.ndarray:
    """Labels [draw, caption] that belong to other videos of the same camera, stretched to the length of these.

    What stays: how labels run through a video (mostly normal at first), how often a camera sees something abnormal.
    What goes: everything that ties a caption to its label otherwise.
    """
    rows = [np.flatnonzero(captions.codes == v) for v in range(captions.codes.max() + 1)]
    scene = [captions.scene[r[0]] for r in rows]
    drawn = np.empty((n, len(captions.y)), dtype=int)
    for s in sorted(set(scene)):
        videos = np.array([v for v, name in enumerate(scene) if name == s])
        givers = rng.permuted(np.tile(videos, (n, 1)), axis=1)
        for column, video in enumerate(videos):
            length = len(rows[video])
            for giver in videos:
                series = captions.y[rows[giver]]
                stretched = series[((np.arange(length) + 0.5) * len(series) / length).astype(int)]
                drawn[np.ix_(givers[:, column] == giver, rows[video])] = stretched
    return drawn


def draw_labels(captions: Captions, scheme: str, n: int, seed: int) -> np.ndarray:
    """Relabellings [draw, caption] of one scheme."""
    if scheme == "exchange":
        return exchange(captions, n, np.random.default_rng(seed))
    return relabellings(captions.y, captions.video, n, seed, scheme).labels


def score_heads(z: np.ndarray, labels: np.ndarray, video: np.ndarray) -> np.ndarray:
    """Area under the curve [labelling, layer, head] of probes that leave out the video of the caption they score."""
    x = torch.from_numpy(z.reshape(len(z), -1, z.shape[-1]).astype(np.float64).transpose(1, 0, 2).copy())
    scores = loo_ridge_auroc(x, torch.from_numpy(labels.astype(np.float64)), video).numpy()
    return scores.T.reshape(len(labels), *z.shape[1:3])


def saliencies(captions: Captions, z: np.ndarray, config: dict) -> dict:
    """The paper's four metrics of every head under the first template, and how alike their orders are."""
    maps = saliency(z[0], captions.y, METRICS, random_state=config["seed"])
    area = score_map(score_heads(z[0], captions.y[None], captions.video)[0], name="auroc")
    every = stack_maps({**{name: maps.sel(metric=name, drop=True) for name in METRICS}, "auroc": area}, "which")
    return {
        "maps": {name: every.sel(which=name).values.tolist() for name in (*METRICS, "auroc")},
        "best_five": {name: list(top_heads(every.sel(which=name, drop=True), config["k"]).labels) for name in METRICS},
        "order": [*METRICS, "auroc"],
        "spearman": rank_correlation(every, dim="which").values.tolist(),
    }


def significance(captions: Captions, z: np.ndarray, config: dict, schemes: Sequence[str]) -> dict:
    """Maximum statistic over all heads under the first template."""
    result = {}
    for i, scheme in enumerate(schemes):
        drawn = draw_labels(captions, scheme, config["heads"]["permutations"], config["seed"] + i)
        scores = score_heads(z, np.concatenate([captions.y[None], drawn]), captions.video)
        observed = score_map(scores[0], name="auroc")
        null = xr.DataArray(
            scores[1:],
            dims=("permutation", "layer", "head"),
            coords={"permutation": np.arange(len(drawn)), **observed.coords},
        )
        one = compare_with_null(observed, null, scheme=scheme, random_state=config["seed"] + i)
        alive = one.significant(ALPHA).labels
        counts, edges = np.histogram(one.null_maxima, bins=30)
        result[scheme] = {
            "relabelling": SCHEMES[scheme],
            "permutations": one.n_permutations,
            "survive_familywise": len(alive),
            "survive": list(alive),
            "do_not_survive": [label for label in _labels(observed) if label not in set(alive)],
            "survive_without_correction": len(one.significant(ALPHA, "uncorrected")),
            "threshold": float(one.thresholds(ALPHA).familywise.max()),
            "mean_by_chance": float(null.mean()),
            "largest_p_familywise": float(one.p_step_down.max()),
            "p_familywise": one.p_step_down.values.tolist(),
            "null_maxima": {"counts": counts.tolist(), "edges": edges.tolist()},
        }
    return result


def plain_predictors(captions: Captions, config: dict) -> dict:
    """The same test for what needs no encoder: where in its video a caption stands, how long it is, which words."""
    length = np.array([len(text.split()) for text in captions.text])
    held = words_of(captions, vocabulary(captions))
    given = {
        # With the square: the middle of a video may be unlike both ends.
        "position in the video": _with_square(captions.position),
        "number of words": _with_square(length),
        "which words": held[:, held.sum(0) >= 2],
    }
    result = {name: {"dimensions": x.shape[1]} for name, x in given.items()}
    for i, scheme in enumerate(SCHEMES):
        drawn = draw_labels(captions, scheme, config["heads"]["permutations"], config["seed"] + i)
        labels = torch.from_numpy(np.concatenate([captions.y[None], drawn]).astype(float))
        for name, x in given.items():
            own = torch.from_numpy(x.astype(np.float64)[None])
            areas = loo_ridge_auroc(own, labels, fold_index(captions.video, len(x)))[0].numpy()
            result[name] |= {
                "auroc": float(areas[0]),
                f"p, {scheme}": float((1 + (areas[1:] >= areas[0]).sum()) / len(areas)),
            }
    return result


def _with_square(values: np.ndarray) -> np.ndarray:
    scaled = (values - values.mean()) / values.std()
    return np.stack([scaled, scaled**2], 1)


def false_alarms(captions: Captions, z: np.ndarray, config: dict) -> dict:
    """How often each test finds a head when the labels are those of other videos.

    True of `exchange` by construction; `shift` is tested by it, because a trend in the labels survives.
    """
    own = config["heads"]
    part = np.arange(0, len(captions.y), own["relabelled_every"])
    small = Captions(captions.name, captions.text[part], captions.y[part], captions.video[part], captions.frame[part])
    rng = np.random.default_rng(config["seed"] + 7)
    runs = exchange(small, own["relabelled"], rng)
    alarms = dict.fromkeys(SCHEMES, 0)
    for run, labels in enumerate(runs):
        fake = Captions(small.name, small.text, labels, small.video, small.frame)
        for scheme in SCHEMES:
            drawn = draw_labels(fake, scheme, own["relabelled_permutations"], config["seed"] + 100 + run)
            scores = score_heads(z[part], np.concatenate([labels[None], drawn]), small.video).reshape(
                1 + len(drawn), -1
            )
            p = (1 + (scores[1:].max(1) >= scores[0].max()).sum()) / (1 + len(drawn))
            alarms[scheme] += int(p <= ALPHA)
    allowed = binom.interval(0.95, len(runs), ALPHA)
    return {
        "data_sets": len(runs),
        "captions": len(part),
        "alpha": ALPHA,
        "alarms": alarms,
        "expected_of_a_valid_test": [int(limit) for limit in allowed],
    }


def resampled(captions: Captions, z: np.ndarray, config: dict) -> dict:
    """Intervals of every head's score and rank over resampled videos, the probes fitted to each anew."""
    found = bootstrap_intervals(
        z,
        captions.y,
        groups=captions.video,
        n_resamples=config["heads"]["resamples"],
        level=config["level"],
        random_state=config["seed"],
        refit=True,
    )
    low, high = found["rank_low"].values, found["rank_high"].values
    return {
        **{name: found[name].values.tolist() for name in ("score_low", "score_high", "rank_low", "rank_high")},
        "mean_width_of_rank_intervals": float((high - low).mean()),
        "surely_in_the_better_half": _where(high <= 36, found["score"]),
        "surely_in_the_best_twelve": _where(high <= 12, found["score"]),
        "maybe_the_best": _where(low <= 1, found["score"]),
    }


def curse(captions: Captions, z: np.ndarray, config: dict) -> dict:
    """Score of the five best heads of half the videos there, and on the other half."""
    found = winners_curse(
        z,
        captions.y,
        k=config["k"],
        groups=captions.video,
        n_splits=config["heads"]["halves"],
        level=config["level"],
        random_state=config["seed"],
    )
    return {name: list(getattr(found, name)) for name in ("selection_score", "held_out_score", "gap", "all_heads")}


def stability(captions: Captions, z: np.ndarray, config: dict) -> dict:
    """How much the LDA scores depend on the template and on the videos."""
    own, k, y, video = config["heads"], config["k"], captions.y, captions.video
    lda = saliency(z, y, ("lda",)).isel(metric=0, drop=True).assign_coords(prompt=list(config["captions"]["templates"]))
    half = size_maps(
        lambda part, labels: saliency(part, labels, ("lda",)).isel(metric=0, drop=True),
        z[0],
        y,
        video.tolist(),
        sizes=[len(np.unique(video)) // 2],
        n_repeats=own["halves"],
        random_state=config["seed"],
    ).isel(size=0, drop=True)
    stable = stable_selection(half, k, 0.75, "repeat")
    varying = half.std("repeat") / half.mean("repeat")
    return {
        "templates": {
            "spearman": mean_agreement(rank_correlation(lda)),
            "icc": icc(xr.apply_ufunc(np.log, lda), "3,1").value,
        },
        "half_samples": {
            "spearman": mean_agreement(rank_correlation(half, dim="repeat")),
            "nogueira_at_5": nogueira(half, k, "repeat").value,
            "mean_coefficient_of_variation": float(varying.mean()),
            "frequency_in_the_best_five": stable.frequency.values.tolist(),
            "in_three_quarters_of_them": {
                head.label: float(stable.frequency.sel(layer=head.layer, head=head.head)) for head in stable.heads
            },
            "bound_on_false_ones": stable.expected_false_positives,
        },
    }


def held_out_halves(captions: Captions, z: np.ndarray, config: dict) -> dict:
    """A standardised logistic probe per head, fitted to half of the videos and scored on the others."""
    own, y = config["heads"], captions.y
    pairs = group_halves(y, captions.codes, own["logistic_splits"], config["seed"])
    flat = z.reshape(len(y), -1, z.shape[-1])
    areas = np.empty((len(pairs), flat.shape[1]))
    for split, (first, test) in enumerate(pairs):
        for i in range(flat.shape[1]):
            probe = HeadProbe(C=own["logistic_C"]).fit(flat[first, i], y[first])
            areas[split, i] = auroc(probe.decision_function(flat[test, i]), y[test])
    ranked = score_map(areas.mean(0).reshape(z.shape[1:3]))
    return {
        "splits": len(pairs),
        "auc": ranked.values.tolist(),
        "lowest_head": float(ranked.min()),
        "highest_head": float(ranked.max()),
        "lowest_head_by_split": [float(areas.min(1).min()), float(areas.min(1).max())],
        "highest_head_by_split": [float(areas.max(1).min()), float(areas.max(1).max())],
        "best": list(top_heads(ranked, config["k"]).labels),
    }


def _labels(one: xr.DataArray) -> list[str]:
    return [f"L{i}H{j}" for i in one.coords["layer"].values for j in one.coords["head"].values]


def _where(wanted: np.ndarray, like: xr.DataArray) -> list[str]:
    return [label for label, yes in zip(_labels(like), wanted.ravel(), strict=True) if yes]
