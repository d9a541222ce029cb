"""Five hunted heads against other choices: chosen and fitted on half of the videos, scored on the other half."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import torch
import xarray as xr
from areas import compared, interval, pair_table, video_weights, weighted_auc, within_auc
from data import Captions, Features, vocabulary, words_of
from heads import METRICS, score_heads
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold

from headprobe import HeadSet, consensus, saliency, top_heads
from headprobe.errors import HeadprobeWarning
from headprobe.metrics._labellings import group_halves
from headprobe.metrics.agreement import rank_correlation
from headprobe.metrics.consensus import consensus_scores
from headprobe.metrics.linear_probe import fold_index, loo_ridge_auroc
from headprobe.metrics.ranks import from_head_sets, selection_frequency
from headprobe.metrics.resampling import stack_maps
from headprobe.metrics.stability import nogueira
from headprobe.probing.probe import HeadProbe
from headprobe.scores import score_map

PRIMARY = ("random five", "same layers", "all heads")
CONDITIONS = {
    "hunted": "five heads by RSS of the shrunk LDA score over the templates",
    "hunted, four metrics": "five heads by RSS of the mean of four normalised metrics, as in the paper",
    "LDA alone": "five heads by the LDA score under the first template",
    "probe AUC": "five heads by the AUC of their probe on videos left out of the calibration captions",
    "hunted on the other data": "five heads by RSS of the LDA score on all captions of the other data set",
    "random five": "five of all heads at random",
    "same layers": "as many random heads of every layer as are hunted there",
    "worst five": "the five lowest RSS",
    "all heads": "all 72 heads",
    "last hidden": "the hidden state after the last layer",
    "best layer": "the hidden state of the layer with the best held-out AUC on the calibration captions",
    "words": "which words the caption holds, no encoder",
    "position": "where in its video the caption stands and the square of it, no text",
    "untrained, hunted": "hunted as above, in the encoder with random weights (one template)",
    "untrained, all heads": "all heads of the encoder with random weights",
}


class Bench:
    """One data set, and everything that a split needs."""

    def __init__(
        self,
        captions: Captions,
        trained: Features,
        untrained: Features,
        config: dict,
        other: HeadSet | None = None,
        lexicon: list[str] | None = None,
    ) -> None:
        self.captions, self.config = captions, config
        self.z, self.hidden, self.blank = trained.z, trained.hidden, untrained.z
        self.other = HeadSet() if other is None else other
        self.k, self.C = config["k"], config["hunt"]["C"]
        self.position = np.stack([captions.position, captions.position**2], 1)
        self.words = words_of(captions, vocabulary(captions) if lexicon is None else lexicon)

    def heads(self, chosen: HeadSet, untrained: bool = False) -> np.ndarray:
        """Features [caption, k * d_head] of some heads under the first template."""
        z = self.blank[0] if untrained else self.z[0]
        return z[:, [h.layer for h in chosen], [h.head for h in chosen]].reshape(len(z), -1)

    def hunt(self, rows: np.ndarray) -> HeadSet:
        """The five heads with the highest RSS of the LDA score on some captions."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HeadprobeWarning)
            maps = saliency(self.z[:, rows], self.captions.y[rows], ("lda",))
            return consensus(maps, self.k, "rss", self.config["lambda"])

    def hunt_everything(self) -> HeadSet:
        """The heads hunted on all captions, for use on other data."""
        return self.hunt(np.arange(len(self.captions.y)))

    def choose(self, rows: np.ndarray) -> tuple[dict[str, HeadSet], dict[str, np.ndarray]]:
        """Head sets chosen on the calibration captions alone, and the maps they come from."""
        y, z = self.captions.y[rows], self.z[:, rows]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HeadprobeWarning)  # that one head sets a scale; some will, in 900 maps
            maps = saliency(z, y, METRICS, random_state=self.config["seed"])
            robust = consensus_scores(maps.sel(metric=["lda"]), "rss", self.config["lambda"])
            four = consensus(maps, self.k, "rss", self.config["lambda"])
            blank = saliency(self.blank[0][rows], y, ("lda",)).isel(metric=0, drop=True)
        probe = score_map(score_heads(z[0], y[None], self.captions.video[rows])[0])
        sets = {
            "hunted": top_heads(robust, self.k),
            "hunted, four metrics": four,
            "LDA alone": top_heads(maps.sel(metric="lda").isel(prompt=0, drop=True), self.k),
            "probe AUC": top_heads(probe, self.k),
            "hunted on the other data": self.other,
            "worst five": top_heads(-robust, self.k),
            "untrained, hunted": top_heads(blank, self.k),
        }
        single = {name: maps.sel(metric=name).isel(prompt=0).values for name in METRICS}
        return sets, {**single, "RSS of LDA": robust.values, "probe AUC": probe.values}

    def best_layer(self, rows: np.ndarray) -> int:
        """Layer whose hidden state has the best AUC on videos left out, all within the calibration captions."""
        x = torch.from_numpy(self.hidden[rows].astype(np.float64).transpose(1, 0, 2).copy())
        y = torch.from_numpy(self.captions.y[rows].astype(float))
        return int(loo_ridge_auroc(x, y, fold_index(self.captions.video[rows], len(rows))).argmax())

    def draws(self, hunted: HeadSet, n: int, rng: np.random.Generator) -> Iterator[tuple[str, HeadSet]]:
        """Random head sets: of the whole model, and of the layers of the hunted ones."""
        for _ in range(n):
            places = rng.choice(72, len(hunted), replace=False)
            yield "random five", HeadSet([(int(i) // 12, int(i) % 12) for i in places])
            yield "same layers", hunted.random_of_same_layers(np.ndindex(6, 12), rng)

    def features(self, rows: np.ndarray, rng: np.random.Generator, draws: int) -> Iterator[tuple[str, np.ndarray]]:
        """Every condition with its features; the random ones several times."""
        sets, _ = self.chosen = self.choose(rows)
        for name, chosen in sets.items():
            yield name, self.heads(chosen, name.startswith("untrained"))
        for name, chosen in self.draws(sets["hunted"], draws, rng):
            yield name, self.heads(chosen)
        yield "all heads", self.z[0].reshape(len(self.captions.y), -1)
        yield "last hidden", self.hidden[:, -1]
        self.layer = self.best_layer(rows)
        yield "best layer", self.hidden[:, self.layer]
        yield "words", self.words[:, self.words[rows].sum(0) >= 2]
        yield "position", self.position
        yield "untrained, all heads", self.blank[0].reshape(len(self.captions.y), -1)


def balanced(y: np.ndarray, rows: np.ndarray, sizes: list[int], rng: np.random.Generator) -> list[np.ndarray]:
    """Nested calibration sets out of `rows`, half of each class."""
    mixed = [rng.permutation(rows[y[rows] == label]) for label in (0, 1)]
    if min(len(part) for part in mixed) < sizes[-1] // 2:
        raise SystemExit(f"{sizes[-1]} balanced captions asked for, but a half has {[len(part) for part in mixed]}")
    return [np.sort(np.concatenate([part[: n // 2] for part in mixed])) for n in sizes]


def experiment(bench: Bench, sizes: list[int], unit: np.ndarray, n_splits: int) -> dict:
    """Repeated splits of the units (videos, or cameras) into calibration and test.

    All choices and fits see calibration captions only; what `areas.interval` gives is paired over conditions.
    """
    captions, own = bench.captions, bench.config["hunt"]
    y, seed = captions.y, bench.config["seed"]
    codes = np.unique(unit, return_inverse=True)[1]
    weights = video_weights(y, codes, own["resamples"], seed)
    kept = {n: Kept() for n in sizes}
    reliable = []
    for split, (first, test) in enumerate(group_halves(y, codes, n_splits, seed)):
        rng = np.random.default_rng([seed, split])
        held_out, calibration = (
            score_map(score_heads(bench.z[0][part], y[part][None], captions.video[part])[0]) for part in (test, first)
        )
        reliable.append(spearman(held_out, calibration))
        for n, rows in zip(sizes, balanced(y, first, sizes, rng), strict=True):
            seen = np.isin(captions.text[test], captions.text[rows])
            kept[n].shares.append([float(seen.mean()), len(set(captions.text[rows])) / n])
            tables: dict[str, list] = {}
            for name, x in bench.features(rows, np.random.default_rng([seed, split, n]), own["draws"]):
                scores = HeadProbe(C=bench.C).fit(x[rows], y[rows]).decision_function(x[test])
                tables.setdefault(name, []).append(
                    [
                        *pair_table(scores, y[test], codes[test], weights.shape[1]),
                        *pair_table(scores[~seen], y[test][~seen], codes[test][~seen], weights.shape[1]),
                    ]
                )
            kept[n].add(tables, weights)
            chosen, maps = bench.chosen
            for name, heads in chosen.items():
                kept[n].sets.setdefault(name, []).append(heads)
            for name, values in maps.items():
                kept[n].predicts.setdefault(name, []).append(spearman(score_map(values), held_out))
            kept[n].layers.append(bench.layer)
    result: dict = {str(n): kept[n].summary(bench.config) for n in sizes}
    result["rank_correlation_of_the_probe_auc_of_both_halves"] = float(np.mean(reliable))
    return result


class Kept:
    """What the splits of one calibration size left behind, by condition."""

    def __init__(self) -> None:
        self.areas: dict[str, list] = {}
        self.inside: dict[str, list] = {}
        self.novel: dict[str, list] = {}
        self.sets: dict[str, list] = {}
        self.predicts: dict[str, list] = {}
        self.layers: list[int] = []
        self.shares: list[list[float]] = []
        self.beaten: list[float] = []

    def add(self, tables: dict[str, list], weights: np.ndarray) -> None:
        """Areas of one split."""
        for name, drawn in tables.items():
            # Draws of random heads share their pairs, so the mean of their tables gives the mean area.
            won, pairs, won_new, pairs_new = (np.mean([t[i] for t in drawn], axis=0) for i in range(4))
            self.areas.setdefault(name, []).append(weighted_auc(won, pairs, weights))
            self.inside.setdefault(name, []).append(within_auc(won, pairs, weights))
            self.novel.setdefault(name, []).append(weighted_auc(won_new, pairs_new, weights[:1])[0])
        hunted = self.areas["hunted"][-1][0]
        drawn = [weighted_auc(t[0], t[1], weights[:1])[0] for t in tables["random five"]]
        self.beaten += [float(area < hunted) for area in drawn]

    def summary(self, config: dict) -> dict:
        """Means, intervals, and how stable the choices are."""
        level = config["level"]
        strict: dict[str, float] = {name: 1 - (1 - level) / comparisons(config) for name in PRIMARY}
        areas = {name: np.array(self.areas[name]) for name in CONDITIONS}
        inside = compared({name: np.array(self.inside[name]) for name in CONDITIONS}, level, {})
        template = score_map(np.zeros((6, 12)))
        marked = {
            name: from_head_sets(dict(enumerate(listed)), template)
            for name, listed in self.sets.items()
            if name != "hunted on the other data"
        }
        return {
            **compared(areas, level, strict),
            "all_heads_minus_random": interval(areas["all heads"] - areas["random five"], level),
            "share_of_random_fives_below_hunted": float(np.mean(self.beaten)),
            "auc_within_videos": inside["auc"],
            "hunted_minus_within_videos": inside["hunted_minus"],
            "auc_on_captions_not_fitted_on": {name: float(np.nanmean(self.novel[name])) for name in CONDITIONS},
            "share_of_test_captions_fitted_on": float(np.mean(self.shares, axis=0)[0]),
            "share_of_different_calibration_captions": float(np.mean(self.shares, axis=0)[1]),
            "layers_chosen": np.bincount(self.layers, minlength=6).tolist(),
            "nogueira_at_5": {name: nogueira(one, dim="resample").value for name, one in marked.items()},
            "frequency_of_hunted": selection_frequency(marked["hunted"]).values.tolist(),
            "rank_correlation_with_held_out_auc": {name: float(np.mean(v)) for name, v in self.predicts.items()},
        }


def comparisons(config: dict) -> int:
    """How many comparisons the strict level is for: all that were planned, of all sizes and both data sets."""
    return len(PRIMARY) * sum(len(sizes) for sizes in config["hunt"]["sizes"].values())


def spearman(one: xr.DataArray, two: xr.DataArray) -> float:
    """Rank correlation of two maps over the heads."""
    return float(rank_correlation(stack_maps({0: one, 1: two}, "map"), dim="map")[0, 1])


def mean_table(drawn: list, weights: np.ndarray) -> np.ndarray:
    """Area [weighting] of one condition, the mean over its draws."""
    won, pairs = (np.mean([t[i] for t in drawn], axis=0) for i in (0, 1))
    return weighted_auc(won, pairs, weights)


def tuned(bench: Bench) -> dict:
    """The main comparison with the strength of the penalty chosen for each condition on calibration captions."""
    captions, config, own = bench.captions, bench.config, bench.config["hunt"]
    y, seed, n = captions.y, config["seed"], own["tuned_size"]
    codes = captions.codes
    weights = video_weights(y, codes, own["resamples"], seed)
    areas: dict[str, list] = {}
    used: dict[str, list] = {}
    for split, (first, test) in enumerate(group_halves(y, codes, own["tuned_splits"], seed)):
        rows = balanced(y, first, [n], np.random.default_rng([seed, split]))[0]
        hunted = bench.hunt(rows)
        listed = [("hunted", bench.heads(hunted))]
        draws = bench.draws(hunted, own["tuned_draws"], np.random.default_rng([seed, split, n]))
        listed += [(name, bench.heads(chosen)) for name, chosen in draws]
        listed += [("all heads", bench.z[0].reshape(len(y), -1)), ("last hidden", bench.hidden[:, -1])]
        listed += [("best layer", bench.hidden[:, bench.best_layer(rows)])]
        listed += [("words", bench.words[:, bench.words[rows].sum(0) >= 2])]
        tables: dict[str, list] = {}
        for name, x in listed:
            C = choose_C(x[rows], y[rows], captions.video[rows], own["tuned_C"], own["tuned_folds"], seed)
            used.setdefault(name, []).append(C)
            scores = HeadProbe(C=C).fit(x[rows], y[rows]).decision_function(x[test])
            tables.setdefault(name, []).append(pair_table(scores, y[test], codes[test], weights.shape[1]))
        for name, drawn in tables.items():
            areas.setdefault(name, []).append(mean_table(drawn, weights))
    return {
        "fitted_on": n,
        **compared({name: np.array(values) for name, values in areas.items()}, config["level"], {}),
        "C": {name: {str(C): values.count(C) for C in own["tuned_C"]} for name, values in used.items()},
    }


def choose_C(x: np.ndarray, y: np.ndarray, video: np.ndarray, options: list[float], folds: int, seed: int) -> float:
    """Penalty with the smallest log loss on videos left out of the calibration captions."""
    loss = np.zeros(len(options))
    for train, test in StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(x, y, video):
        if len(set(y[train].tolist())) < 2 or not len(test):
            continue
        for i, C in enumerate(options):
            p = HeadProbe(C=C).fit(x[train], y[train]).predict_proba(x[test])
            loss[i] += log_loss(y[test], p, labels=[0, 1]) * len(test)
    return options[int(loss.argmin())]


def transfer(source: Bench, target: Bench) -> dict:
    """Heads chosen and probes fitted on one data set, scored on all captions of the other."""
    config, own = source.config, source.config["hunt"]
    y, codes, n = target.captions.y, target.captions.codes, own["transfer_size"]
    weights = video_weights(y, codes, own["resamples"], config["seed"])
    areas: dict[str, list] = {}
    for draw in range(own["transfer_draws"]):
        rng = np.random.default_rng([config["seed"], draw, 3])
        rows = balanced(source.captions.y, np.arange(len(source.captions.y)), [n], rng)[0]
        hunted = source.hunt(rows)
        listed = [("hunted", hunted), *source.draws(hunted, own["tuned_draws"], rng)]
        pairs = [(name, source.heads(chosen), target.heads(chosen)) for name, chosen in listed]
        common = source.words[rows].sum(0) >= 2
        pairs += [("all heads", *(b.z[0].reshape(len(b.z[0]), -1) for b in (source, target)))]
        pairs += [("last hidden", source.hidden[:, -1], target.hidden[:, -1])]
        pairs += [("words", source.words[:, common], target.words[:, common])]
        pairs += [("position", source.position, target.position)]
        pairs += [("untrained, all heads", *(b.blank[0].reshape(len(b.blank[0]), -1) for b in (source, target)))]
        tables: dict[str, list] = {}
        for name, x, there in pairs:
            probe = HeadProbe(C=source.C).fit(x[rows], source.captions.y[rows])
            tables.setdefault(name, []).append(pair_table(probe.decision_function(there), y, codes, weights.shape[1]))
        for name, drawn in tables.items():
            areas.setdefault(name, []).append(mean_table(drawn, weights))
    # Draws of calibration captions are no splits: their spread says nothing about other videos.
    stacked = {name: np.array(values) for name, values in areas.items()}
    return {"fitted_on": n, **compared(stacked, config["level"], {}, corrected=False)}
