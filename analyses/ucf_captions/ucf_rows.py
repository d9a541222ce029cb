"""From kept scores to rows: frame-level areas over all 290 videos, intervals over videos, paired differences."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from study import chance_jaccard
from ucf_folds import LABELS, METRICS, SHAPE, SUPERVISIONS, HeadRows, best, folds, hunt, split, window_mean
from ucf_text import POSITIONS, Nodes

from headprobe.errors import InputError
from headprobe.evaluation.bootstrap import bootstrap, pair_wins
from headprobe.evaluation.controls import position_prior
from headprobe.evaluation.frames import _Counts, _merge, _precision_recall
from headprobe.metrics.ranks import from_head_sets, selection_frequency
from headprobe.metrics.stability import nogueira
from headprobe.scores import score_map

NOTHING, TRUTH = "no labels", "the truth"
PUBLISHED = "no labels; settings of its authors"
SEEN = {
    "video": "labels of the training videos",
    "segment": "labels of the training segments",
    "video shuffled": "shuffled labels of the training videos",
    "segment shuffled": "shuffled labels of the training segments",
}
CHOSEN = "hunted, LDA, position and K chosen"
TEXT_ROWS = (
    "embedding",
    "last hidden state, first token",
    "last hidden state, last token",
    "words, no encoder",
    "node, no text",
)
# What is compared beside the planned differences, in every position and supervision: row less rival.
FURTHER = (
    *((f"hunted, LDA|{k}", f"hunted, mixture|{k}") for k in (1, 2, 3, 5, 10, 20, 40)),
    *((f"hunted, LDA|{k}", rival) for k in (5, 20) for rival in (f"never trained, hunted, LDA|{k}", f"shuffled|{k}")),
    ("all heads|72", "never trained, all heads|72"),
    *((f"hunted, LDA|{k}", rival) for k in (5, 20) for rival in ("words, no encoder", "node, no text", "raw rating")),
    *((f"hunted, LDA|{k}|with raw rating", "raw rating") for k in (5, 20)),
    *((f"hunted, LDA|{k}|window mean with refined rating", "refined rating") for k in (5, 20)),
    *((f"hunted, LDA|{k}|window mean", "refined rating") for k in (5, 20)),
)


@dataclass(eq=False)
class Table:
    """Frame pairs won between videos, the mean over seeds and random sets, and the average precision of each."""

    wins: np.ndarray
    each: list[float]
    seeds: np.ndarray
    ap: list[float]
    within: float


class Bench:
    """Frame-level numbers of node scores, without making frames: a node counts as often as it has frames."""

    def __init__(self, nodes: Nodes, level: float) -> None:
        self.nodes, self.level = nodes, level
        n = len(nodes.videos)
        self.abnormal = np.bincount(nodes.video, nodes.abnormal, n)
        self.normal = np.bincount(nodes.video, nodes.frames - nodes.abnormal, n)
        self.rows = [np.flatnonzero(nodes.video == v) for v in range(n)]
        self.pairs = 2 * self.abnormal * self.normal

    def counts(self, scores: np.ndarray) -> list[_Counts]:
        """Frames of every video by score."""
        out = []
        for video, rows in enumerate(self.rows):
            score, at = np.unique(scores[rows], return_inverse=True)
            abnormal = np.bincount(at, self.nodes.abnormal[rows]).astype(int)
            frames = np.bincount(at, self.nodes.frames[rows]).astype(int)
            out.append(_Counts(score, abnormal, frames - abnormal, np.full(len(score), video)))
        return out

    def table(self, scores: Iterable[np.ndarray], per_seed: int = 1) -> Table:
        """Of several scores of a kind, such as seeds: means of their pairs, which give the mean of their areas."""
        wins, each, ap, within, once = 0.0, [], [], [], np.ones(len(self.rows))
        both = self.pairs > 0
        for one in scores:
            counted = self.counts(one)
            won = pair_wins(counted)
            wins = wins + won
            each.append(self.area(won, once))
            merged = _merge(counted)
            ap.append(_precision_recall(merged.abnormal, merged.normal)[0])
            within.append(float((np.diag(won)[both] / self.pairs[both]).mean()))
        seeds = np.reshape(each, (-1, per_seed)).mean(1)
        return Table(np.asarray(wins) / len(each), each, seeds, ap, float(np.mean(within)))

    def area(self, wins: np.ndarray, weight: np.ndarray) -> float:
        """Area under the curve over all frames, with so many copies of each video."""
        w = weight.astype(float)
        return float(w @ wins @ w) / (2 * float(w @ self.abnormal) * float(w @ self.normal))

    def interval(self, wins: np.ndarray, level: float, *, difference: bool = False) -> tuple[float, float] | None:
        """T interval over videos, of an area or of a difference; None where it has no spread."""
        try:
            found = bootstrap(
                lambda w: self.area(wins, w), len(self.rows), confidence=level, kind="t", strata=self.nodes.kinds,
                bounded=not difference,
            )  # fmt: skip
        except InputError:
            return None
        return found.low, found.high

    def row(self, table: Table, seen: str) -> dict[str, Any]:
        """Numbers of a row; the spread is over the seeds of the folds."""
        interval = self.interval(table.wins, self.level)
        seeds = table.seeds
        return {
            "seen": seen,
            "auc": float(seeds.mean()),
            "low": None if interval is None else interval[0],
            "high": None if interval is None else interval[1],
            "sd_of_seeds": float(seeds.std(ddof=1)) if len(seeds) > 1 else None,
            "ap": float(np.mean(table.ap)),
            "within_auc": table.within,
        }

    def difference(self, one: Table, other: Table, strict: float) -> dict[str, Any]:
        """One row less another, with a 95 % interval, and a verdict at the level corrected for all comparisons."""
        wins = one.wins - other.wins
        interval, wide = (self.interval(wins, level, difference=True) for level in (self.level, strict))
        assert interval is not None
        assert wide is not None
        verdict = "above" if wide[0] > 0 else "below" if wide[1] < 0 else "not decided"
        once = np.ones(len(self.rows))
        by_seed = one.seeds - other.seeds
        return {
            "difference": self.area(wins, once),
            "low": interval[0],
            "high": interval[1],
            "verdict": verdict,
            "seeds_above": int((by_seed > 0).sum()),
            "sd_of_seeds": float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None,
        }

    def weighted_area(self, scores: np.ndarray) -> float:
        """Area over all frames alone, for many rows."""
        levels, at = np.unique(scores, return_inverse=True)
        abnormal = np.bincount(at, self.nodes.abnormal, len(levels))
        normal = np.bincount(at, self.nodes.frames - self.nodes.abnormal, len(levels))
        return float(abnormal @ (np.cumsum(normal) - normal / 2) / (abnormal.sum() * normal.sum()))


Parts = Mapping[tuple[str, int], Mapping[str, np.ndarray]]


def analyse(nodes: Nodes, parts: Parts, config: Mapping) -> dict[str, Any]:
    """Rows, differences and stability of all positions."""
    bench, seeds = Bench(nodes, config["level"]), range(config["fold_seeds"])
    tables: dict[str, Table] = {}
    rows: dict[str, dict] = {}

    def put(name: str, scores: Sequence[np.ndarray], seen: str, per_seed: int = 1) -> None:
        tables[name] = bench.table(scores, per_seed)
        rows[name] = bench.row(tables[name], seen)

    for name, scores, seen in unfitted(nodes, config["window"]):
        put(name, [scores], seen)
    for label in LABELS:
        for position in ("texts", *POSITIONS):
            for name, n in _names(parts[position, 0], label).items():
                per_seed = 1 if n is None else n
                listed = [
                    parts[position, s][f"score|{label}|{name}" + ("" if n is None else f"|{i}")]
                    for s in seeds
                    for i in range(per_seed)
                ]
                put(f"{position}|{label}|{name}", listed, SEEN[label], per_seed)
    for label in SUPERVISIONS:
        scores, picked = chosen_rows(nodes, parts, config, label)
        put(f"any|{label}|{CHOSEN}", scores, SEEN[label])
        rows[f"any|{label}|{CHOSEN}"]["picked"] = picked
    single = {
        f"{p}|{label}": np.array([bench.weighted_area(parts[p, 0][f"score|{label}|single|{i}"]) for i in range(72)])
        for p in POSITIONS
        for label in SUPERVISIONS
    }
    return {
        "data": facts(nodes),
        "rows": rows,
        "planned": planned(bench, tables, config),
        "further": further(bench, tables),
        "stability": {
            f"{p}|{label}|{metric}": stability([parts[p, s][f"map|{label}|hunted, {metric}"] for s in seeds])
            | {
                "rank_correlation_with_held_out_auc": float(
                    np.mean(
                        [
                            spearman(one, single[f"{p}|{label}"])
                            for s in seeds
                            for one in parts[p, s][f"map|{label}|hunted, {metric}"]
                        ]
                    )
                )
            }
            for p in POSITIONS
            for label in SUPERVISIONS
            for metric in METRICS
        },
        "single_heads": {name: values.reshape(SHAPE) for name, values in single.items()},
        "penalties": penalties(parts, config),
    }


def facts(nodes: Nodes) -> dict[str, Any]:
    """What has to be known of the data before a number is believed."""
    per_video = np.bincount(nodes.video)
    return {
        "videos": len(nodes.videos),
        "abnormal_videos": int(nodes.kinds.sum()),
        "captions": len(nodes.text),
        "different_captions": len(set(nodes.text.tolist())),
        "frames": int(nodes.frames.sum()),
        "abnormal_frames": int(nodes.abnormal.sum()),
        "abnormal_captions": int(nodes.labels("segment").sum()),
        "captions_of_abnormal_videos": int(nodes.labels("video").sum()),
        "captions_per_video": [int(per_video.min()), float(np.median(per_video)), int(per_video.max())],
        "captions_of_the_ten_longest_lists": int(np.sort(per_video)[-10:].sum()),
    }


def unfitted(nodes: Nodes, half: int) -> list[tuple[str, np.ndarray, str]]:
    """Rows without a fit: published ratings, and controls that look at no caption. Controls by node, not by frame."""
    lengths = np.bincount(nodes.video, nodes.frames).astype(int)
    prior = np.concatenate(
        [
            np.add.reduceat(position_prior(n), np.cumsum(f) - f) / f
            for n, f in zip(lengths, np.split(nodes.frames, np.flatnonzero(np.diff(nodes.video)) + 1), strict=True)
        ]
    )
    constant = nodes.kinds[nodes.video].astype(float)
    return [
        ("raw rating", nodes.raw, PUBLISHED),
        ("raw rating, window mean", window_mean(nodes.raw, nodes.video, half), PUBLISHED),
        ("refined rating", nodes.refined, PUBLISHED),
        ("constant per video", constant, TRUTH),
        ("position prior", prior, NOTHING),
        ("constant times position prior", constant * prior, TRUTH),
    ]


def _names(part: Mapping[str, np.ndarray], label: str) -> dict[str, int | None]:
    """Rows under a labelling, and how many random sets each has (None: it is no random row)."""
    out: dict[str, int | None] = {}
    for key in part:
        found = re.fullmatch(rf"score\|{re.escape(label)}\|(?!single)(.+)", key)
        if found is None:
            continue
        drawn = re.fullmatch(r"((?:random|same layers)\|\d+)\|\d+", found[1])
        if drawn is None:
            out[found[1]] = None
        else:
            out[drawn[1]] = (out.get(drawn[1]) or 0) + 1
    return out


def chosen_rows(nodes: Nodes, parts: Parts, config: Mapping, label: str) -> tuple[list[np.ndarray], dict[str, int]]:
    """In every fold the position and the number of heads with the highest area on inner folds."""
    sizes = [k for k in config["sizes"] if k < 72]
    names = [(p, f"{label}|hunted, LDA|{k}") for p in POSITIONS for k in sizes]
    out, picked = [], {}
    for s in range(config["fold_seeds"]):
        inner = np.array([parts[p, s][f"inner|{name}"] for p, name in names])
        scores = np.full(len(nodes.text), np.nan)
        for number, videos in enumerate(split(nodes, config["folds"], config["seed"] + s)):
            position, name = names[int(inner[:, number].argmax())]
            rows = np.isin(nodes.video, videos)
            scores[rows] = parts[position, s][f"score|{name}"][rows]
            key = f"{position}, {name.rsplit('|', 1)[1]}"
            picked[key] = picked.get(key, 0) + 1
        out.append(scores)
    return out, dict(sorted(picked.items(), key=lambda item: -item[1]))


def rival(position: str, label: str, name: str, size: str) -> str:
    """The full name of a rival of a row with so many heads."""
    if name in ("raw rating", "refined rating"):
        return name
    if name in TEXT_ROWS:
        return f"texts|{label}|{name}"
    if name.startswith("shuffled"):
        return f"{position}|{label} shuffled|hunted, LDA|{size}"
    if name == "all heads":
        return f"{position}|{label}|all heads|72"
    return f"{position}|{label}|{name}" + (f"|{size}" if name in ("random", "same layers") else "")


def planned(bench: Bench, tables: Mapping[str, Table], config: Mapping) -> dict[str, dict]:
    """Hunted heads less random heads, random heads of the same layers, all heads and the sentence embedding."""
    own = config["planned"]
    listed = [
        (f"{p}|{label}|{row}", rival(p, label, other, row.split("|")[1]))
        for p in POSITIONS
        for label in SUPERVISIONS
        for row in own["rows"]
        for other in own["rivals"]
    ]
    return _differences(bench, tables, listed)


def further(bench: Bench, tables: Mapping[str, Table]) -> dict[str, dict]:
    """Other differences of interest, with a correction over all of them."""
    listed = [
        (f"{p}|{label}|{row}", rival(p, label, other, row.split("|")[1]))
        for p in POSITIONS
        for label in SUPERVISIONS
        for row, other in FURTHER
    ]
    return _differences(bench, tables, listed)


def _differences(bench: Bench, tables: Mapping[str, Table], listed: Sequence[tuple[str, str]]) -> dict[str, dict]:
    strict = 1 - (1 - bench.level) / len(listed)
    return {f"{one} - {other}": bench.difference(tables[one], tables[other], strict) for one, other in listed}


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Rank correlation of two maps over the heads."""
    return float(spearmanr(one.ravel(), other.ravel()).statistic)


def stability(maps: Sequence[np.ndarray], sizes: Sequence[int] = (5, 20)) -> dict[str, Any]:
    """How alike the choices of the folds are; training videos of two folds are three quarters the same."""
    every = [one for fold_maps in maps for one in fold_maps]
    out: dict[str, Any] = {
        "spearman": float(np.mean([spearman(a, b) for m in maps for a, b in combinations(m, 2)])),
        "mean_map": np.mean(every, 0),
    }
    for size in sizes:
        out[f"at_{size}"] = _overlap([[best(one, size) for one in m] for m in maps], size)
    return out


def _overlap(sets: Sequence[Sequence], size: int) -> dict[str, Any]:
    """Overlap of sets within each group, and how often each head is in one."""
    shared = [len(set(a) & set(b)) / len(set(a) | set(b)) for group in sets for a, b in combinations(group, 2)]
    marked = from_head_sets(dict(enumerate(one for group in sets for one in group)), score_map(np.zeros(SHAPE)))
    frequency = selection_frequency(marked).values
    order = np.argsort(-frequency.ravel(), kind="stable")
    return {
        "jaccard": float(np.mean(shared)),
        "jaccard_by_chance": chance_jaccard(72, size),
        "nogueira": float(nogueira(marked, dim="resample").value),
        "frequency": frequency,
        "most_often": {
            f"L{i // 12}H{i % 12}": float(frequency.ravel()[i]) for i in order[:size] if frequency.ravel()[i]
        },
        "never_chosen": int((frequency == 0).sum()),
    }


def halves(nodes: Nodes, z: np.ndarray, config: Mapping, label: str, metric: str) -> dict[str, float]:
    """Agreement of score maps of halves of the videos, which share none."""
    y = nodes.labels(label)
    correlations, sets = [], []
    for i in range(config["halves"]):
        parts = [np.flatnonzero(np.isin(nodes.video, part)) for part in split(nodes, 2, config["seed"] + 500 + i)]
        a, b = (hunt(z[rows], y[rows], metric, config["seed"]) for rows in parts)
        correlations.append(spearman(a, b))
        sets.append([best(one, 5) for one in (a, b)])
    shared = [len(set(a) & set(b)) / len(set(a) | set(b)) for a, b in sets]
    return {"spearman": float(np.mean(correlations)), "jaccard_at_5": float(np.mean(shared))}


def check(nodes: Nodes, z: np.ndarray, config: Mapping) -> dict[str, Any]:
    """Five heads hunted by LDA with labels of videos, on the videos of few captions, over the folds of one seed."""
    rows = HeadRows(nodes, z, z, {**config, "combined": []})
    for number, fold in folds(nodes, config, 0):
        rows.start(number, fold)
        rows.hunted("LDA", 0, [5])
    area = Bench(nodes, config["level"]).weighted_area(rows.kept.scores["video|hunted, LDA|5"])
    return {"videos": len(nodes.videos), "captions": len(nodes.text), "auc": area}


def penalties(parts: Parts, config: Mapping) -> dict[str, dict[str, int]]:
    """How often each penalty was chosen, by kind of row."""
    out: dict[str, dict[str, int]] = {}
    for name in ("hunted, LDA|5", "hunted, LDA|20", "all heads|72"):
        for label in SUPERVISIONS:
            used = np.concatenate(
                [parts[p, s][f"penalty|{label}|{name}"] for p in POSITIONS for s in range(config["fold_seeds"])]
            )
            out[f"{label}|{name}"] = {str(p): int((used == p).sum()) for p in config["penalties"]}
    return out
