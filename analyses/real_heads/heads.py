"""All heads of the encoder on one data set: scores with whole videos held out, and what chance makes of them."""

from __future__ import annotations

import json

import numpy as np
import torch
import xarray as xr
from data import Captions, Features

from headprobe import saliency
from headprobe.metrics.agreement import mean_agreement, rank_correlation
from headprobe.metrics.linear_probe import fold_index, loo_ridge_auroc
from headprobe.metrics.permutation import relabellings
from headprobe.metrics.ranks import best_heads
from headprobe.metrics.significance import MaxStatistic, bootstrap_intervals, compare_with_null, winners_curse
from headprobe.metrics.stability import icc, nogueira, size_maps, stable_selection
from headprobe.scores import score_map, to_json

ALPHA = 0.05
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


def tests(captions: Captions, z: np.ndarray, config: dict) -> dict[str, MaxStatistic]:
    """Maximum statistic over all heads under the first template, for both ways to relabel."""
    results = {}
    for i, scheme in enumerate(SCHEMES):
        drawn = draw_labels(captions, scheme, config["heads"]["permutations"], config["seed"] + i)
        scores = score_heads(z, np.concatenate([captions.y[None], drawn]), captions.video)
        null = xr.DataArray(
            scores[1:],
            dims=("permutation", "layer", "head"),
            coords={"permutation": np.arange(len(drawn)), "layer": np.arange(6), "head": np.arange(12)},
        )
        results[scheme] = compare_with_null(
            score_map(scores[0], name="auroc"), null, scheme=scheme, random_state=config["seed"] + i
        )
    return results


def plain_predictors(captions: Captions, config: dict) -> dict:
    """The same test for what needs no encoder: where in its video a caption stands, and how long it is."""
    length = np.array([len(text.split()) for text in captions.text])
    given = {"position in the video": captions.position, "words in the caption": length}
    result = {}
    for i, scheme in enumerate(SCHEMES):
        drawn = draw_labels(captions, scheme, config["heads"]["permutations"], config["seed"] + i)
        labels = torch.from_numpy(np.concatenate([captions.y[None], drawn]).astype(float))
        for name, values in given.items():
            # With its square: the middle of a video may be unlike both ends.
            scaled = (values - values.mean()) / values.std()
            x = torch.from_numpy(np.stack([scaled, scaled**2], 1)[None])
            areas = loo_ridge_auroc(x, labels, fold_index(captions.video, len(values)))[0].numpy()
            row = result.setdefault(name, {"auroc": float(areas[0])})
            row[f"p, {scheme}"] = float((1 + (areas[1:] >= areas[0]).sum()) / len(areas))
    return result


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
    return {"data_sets": len(runs), "captions": len(part), "alpha": ALPHA, "alarms": alarms}


def analyse(captions: Captions, features: Features, config: dict) -> tuple[dict, dict[str, xr.DataArray]]:
    """Scores, significance, stability of all heads."""
    own, k, seed = config["heads"], config["k"], config["seed"]
    z, y, video = features.z, captions.y, captions.video
    found = tests(captions, z[0], config)
    shift, swap = found["shift"], found["exchange"]
    intervals = bootstrap_intervals(
        z[0], y, groups=video, n_resamples=own["resamples"], level=config["level"], random_state=seed, refit=True
    )
    curse = winners_curse(z[0], y, k=k, groups=video, n_splits=own["halves"], level=config["level"], random_state=seed)
    n_videos = len(np.unique(video))
    lda = saliency(z, y, ("lda",)).isel(metric=0, drop=True).assign_coords(prompt=list(config["captions"]["templates"]))
    half = size_maps(
        lambda part, labels: saliency(part, labels, ("lda",)).isel(metric=0, drop=True),
        z[0],
        y,
        video,
        sizes=[n_videos // 2],
        n_repeats=own["halves"],
        random_state=seed,
    ).isel(size=0, drop=True)
    stable = stable_selection(half, k, 0.75, "repeat")
    ranks = (intervals["rank_low"].values, intervals["rank_high"].values)
    result = {
        "scores": _json(shift.scores),
        "best": list(best_heads(shift.scores, k).labels),
        "score_range": [float(shift.scores.min()), float(shift.scores.max())],
        "tests": {
            scheme: {
                "relabelling": SCHEMES[scheme],
                "permutations": one.n_permutations,
                "survive_familywise": len(one.significant(ALPHA)),
                "do_not_survive": sorted(
                    set(_labels(one.p_step_down)) - set(one.significant(ALPHA).labels), key=_labels(one.scores).index
                ),
                "survive_without_correction": len(one.significant(ALPHA, "uncorrected")),
                "threshold": float(one.thresholds(ALPHA).familywise.max()),
                "mean_by_chance": float(one.null.mean()),
                "p_step_down": _json(one.p_step_down),
            }
            for scheme, one in found.items()
        },
        "survive_both_tests": len(set(shift.significant(ALPHA)) & set(swap.significant(ALPHA))),
        "plain_predictors": plain_predictors(captions, config),
        "false_alarms": false_alarms(captions, z[0], config),
        "score_low": _json(intervals["score_low"]),
        "score_high": _json(intervals["score_high"]),
        "rank_low": _json(intervals["rank_low"]),
        "rank_high": _json(intervals["rank_high"]),
        "mean_width_of_rank_intervals": float((ranks[1] - ranks[0]).mean()),
        "surely_in_the_better_half": int((ranks[1] <= 36).sum()),
        "surely_in_the_best_twelve": int((ranks[1] <= 12).sum()),
        "maybe_the_best": int((ranks[0] <= 1).sum()),
        "winners_curse": {
            name: list(getattr(curse, name)) for name in ("selection_score", "held_out_score", "gap", "all_heads")
        },
        "lda_over_templates": {
            "spearman": mean_agreement(rank_correlation(lda)),
            "icc": icc(np.log(lda), "3,1").value,
        },
        "lda_over_half_samples": {
            "spearman": mean_agreement(rank_correlation(half, dim="repeat")),
            "nogueira_at_5": nogueira(half, k, "repeat").value,
            "in_three_quarters_of_them": {
                head.label: float(stable.frequency.sel(layer=head.layer, head=head.head)) for head in stable.heads
            },
            "bound_on_false_ones": stable.expected_false_positives,
        },
    }
    maps = {
        "auroc": shift.scores,
        "p shift": shift.p_step_down,
        "p exchange": swap.p_step_down,
        "lda": lda.mean("prompt"),
        "null shift": shift.null,
        "null exchange": swap.null,
        "frequency": stable.frequency,
    }
    return result, maps


def _labels(one: xr.DataArray) -> list[str]:
    return [f"L{i}H{j}" for i in one.coords["layer"].values for j in one.coords["head"].values]


def _json(one: xr.DataArray) -> list:
    return json.loads(to_json(one.astype(float)))["values"]
