"""Published retrieval-head scores: which heads the models agree on, and whether two families agree at all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import xarray as xr
from scipy.stats import rankdata

from headprobe import consensus, top_heads
from headprobe.metrics.agreement import jaccard, rank_correlation
from headprobe.metrics.consensus import METHODS, robust_rank_aggregation
from headprobe.metrics.stability import mean, nogueira, stack_maps
from headprobe.scores import score_map


def read_trials(data: Path, model: str) -> np.ndarray:
    """Scores [layer, head, trial] as published."""
    listed = json.loads((data / "head_scores" / f"{model}_retrieval.json").read_text(encoding="utf-8"))
    places = {tuple(int(part) for part in name.split("-")): scores for name, scores in listed.items()}
    shape = tuple(1 + max(place[axis] for place in places) for axis in (0, 1))
    values = np.full((*shape, len(next(iter(places.values())))), np.nan)
    for place, scores in places.items():
        values[place] = scores
    return values


def analyse(data: Path, config: dict) -> dict:
    """Everything that README.md says about these scores, and the maps to draw."""
    own, k, seed = config["retrieval"], config["k"], config["seed"]
    models = [*own["mistral"], own["other"]]
    trials = {model: read_trials(data, model) for model in models}
    maps = {model: score_map(values.mean(2), name="retrieval score") for model, values in trials.items()}
    family = stack_maps({model: maps[model] for model in own["mistral"]}, "model")
    mistral, other = mean(family, "model"), maps[own["other"]]
    robust = robust_rank_aggregation(family, "model")
    everything = stack_maps(maps, "model")
    result = {
        "trials": {model: values.shape[2] for model, values in trials.items()},
        "heads_that_never_score": {model: int((values.max(2) == 0).sum()) for model, values in trials.items()},
        "top_five": {model: list(top_heads(one, k).labels) for model, one in maps.items()},
        "consensus": {
            method: list(consensus(family, k, method, config["lambda"], dim="model").labels) for method in METHODS
        },
        "named": own["named"],
        "significant_by_robust_ranks": int((robust.adjusted.values <= 1 - config["level"]).sum()),
        "models": models,
        "spearman": rank_correlation(everything, "spearman", "model").values.tolist(),
        "weighted_tau": rank_correlation(everything, "weighted", "model").values.tolist(),
        "jaccard_at_5": jaccard(everything, k, "model").values.tolist(),
        "pearson": np.corrcoef(everything.values.reshape(len(models), -1)).tolist(),
        "nogueira_of_the_three_at_5": nogueira(family, k, "model").value,
    }
    ks = own["overlap_k"]
    result["chance"] = {
        f"{own['other']} against the Mistral family": chance(mistral, other, ks, own["permutations"], seed),
        "mixtral_8x7b_v0.1 against the two Mistrals": chance(
            mean(family.isel(model=slice(0, 2)), "model"), maps["mixtral_8x7b_v0.1"], ks, own["permutations"], seed + 1
        ),
    }
    result["halves"] = {model: halves(values, own, k, seed) for model, values in trials.items()}
    result["maps"] = {"Mistral family, mean of three": mistral.values.tolist(), own["other"]: other.values.tolist()}
    return result


def chance(one: xr.DataArray, two: xr.DataArray, ks: list[int], n: int, seed: int) -> dict:
    """Agreement of two maps beside that of maps whose heads were put in another order.

    Over the whole model: is there any agreement? Within layers: any beyond which layers score at all? P-values are
    one-sided (agreement at least as high), with one added above and below.
    """
    a, b = one.values, two.values
    observed = _agreement(a, b[None], ks)
    rng = np.random.default_rng(seed)
    drawn: dict[str, dict[str, list]] = {}
    for scheme in ("whole model", "within layers"):
        collected: dict[str, list] = {name: [] for name in observed}
        for start in range(0, n, 1000):
            tiled = np.tile(b, (min(1000, n - start), 1, 1))
            if scheme == "whole model":
                shuffled = rng.permuted(tiled.reshape(len(tiled), -1), axis=1).reshape(tiled.shape)
            else:
                shuffled = rng.permuted(tiled, axis=2)
            for name, values in _agreement(a, shuffled, ks).items():
                collected[name].append(values)
        drawn[scheme] = collected
    result = {}
    for name, value in observed.items():
        row = {"observed": float(value[0])}
        for scheme, collected in drawn.items():
            null = np.concatenate(collected[name])
            reached = null >= value[0] - 1e-10
            row[f"p, {scheme}"] = float((1 + reached.sum()) / (1 + n))
            row[f"mean by chance, {scheme}"] = float(null.mean())
        result[name] = row
    return {"permutations": n, "statistics": result}


def _agreement(a: np.ndarray, b: np.ndarray, ks: list[int]) -> dict[str, np.ndarray]:
    """Pearson, Spearman, and the number of shared best heads, of a [layer, head] and b [draw, layer, head]."""
    flat, many = a.ravel(), b.reshape(len(b), -1)
    values = {"pearson": _correlate(flat, many), "spearman": _correlate(rankdata(flat), rankdata(many, axis=1))}
    own = np.argsort(-flat, kind="stable")
    theirs = np.argsort(-many, axis=1, kind="stable")
    for k in ks:
        values[f"shared of the best {k}"] = np.isin(theirs[:, :k], own[:k]).sum(1).astype(float)
    return values


def _correlate(one: np.ndarray, many: np.ndarray) -> np.ndarray:
    one, many = one - one.mean(), many - many.mean(1, keepdims=True)
    return (many @ one) / (np.linalg.norm(many, axis=1) * np.linalg.norm(one))


def halves(values: np.ndarray, own: dict, k: int, seed: int) -> dict:
    """Agreement of two halves of the trials, for three ways to halve them."""
    n = values.shape[2]
    rng = np.random.default_rng(seed)
    blocks = np.arange(n) * own["blocks"] // n
    ways: dict[str, list[np.ndarray]] = {"random trials": [], "random blocks": [], "first against second": []}
    for _ in range(own["halves"]):
        ways["random trials"].append(np.isin(np.arange(n), rng.permutation(n)[: n // 2]))
        ways["random blocks"].append(np.isin(blocks, rng.permutation(own["blocks"])[: own["blocks"] // 2]))
    ways["first against second"].append(np.arange(n) < n // 2)
    result = {}
    for way, masks in ways.items():
        pairs = [
            stack_maps({i: score_map(values[:, :, part].mean(2)) for i, part in enumerate((mask, ~mask))}, "half")
            for mask in masks
        ]
        spearman = [float(rank_correlation(pair, dim="half")[0, 1]) for pair in pairs]
        result[way] = {
            "splits": len(masks),
            "spearman": _range(spearman),
            "pearson": _range([float(np.corrcoef(pair.values.reshape(2, -1))[0, 1]) for pair in pairs]),
            "jaccard_at_5": _range([float(jaccard(pair, k, "half")[0, 1]) for pair in pairs]),
            "jaccard_at_20": _range([float(jaccard(pair, 20, "half")[0, 1]) for pair in pairs]),
        }
    profile = values.reshape(-1, n)[values.reshape(-1, n).mean(1) > 0.05]
    result["correlation of neighbouring trials"] = float(np.mean(np.diag(np.corrcoef(profile.T), 1)))
    return result


def _range(values: list[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "lowest": float(np.min(values)), "highest": float(np.max(values))}
