"""Heads hunted and ridge probes fitted on four fifths of the videos, scored on the others."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.stats import rankdata
from sklearn.model_selection import StratifiedKFold
from study import random_heads, same_layer_heads
from ucf_text import HEADS, LAYERS, Nodes

from headprobe import HeadSet, saliency, top_heads
from headprobe.errors import HeadprobeWarning
from headprobe.headhunt.headhunt import identify
from headprobe.probing.probe import HeadProbe
from headprobe.scores import score_map

SUPERVISIONS = ("video", "segment")
LABELS = ("video", "segment", "video shuffled", "segment shuffled")
METRICS = {"LDA": ("lda",), "mixture": ("lda", "kl", "mmd", "nmi")}
SHAPE = (LAYERS, HEADS)


def split(nodes: Nodes, n: int, seed: int, videos: np.ndarray | None = None) -> list[np.ndarray]:
    """Parts of the videos, normal and abnormal ones shared out evenly; every video lies in one part."""
    videos = np.arange(len(nodes.videos)) if videos is None else videos
    parts = StratifiedKFold(n, shuffle=True, random_state=seed).split(videos, nodes.kinds[videos])
    return [np.sort(videos[held]) for _, held in parts]


def exchanged(nodes: Nodes, y: np.ndarray, videos: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Labels [node] in which every one of the videos has the series of another one, stretched to its nodes."""
    ring = rng.permutation(videos)
    out = y.copy()
    for own, other in zip(ring, np.roll(ring, 1), strict=True):
        here, there = np.flatnonzero(nodes.video == own), np.flatnonzero(nodes.video == other)
        out[here] = y[there[np.arange(len(here)) * len(there) // len(here)]]
    return out


def label_table(nodes: Nodes, train: np.ndarray, seed: int) -> np.ndarray:
    """All labellings of the training videos, [label, node]; the shuffled ones move labels between these videos."""
    true = [nodes.labels(name) for name in SUPERVISIONS]
    rng = np.random.default_rng([seed, 5])
    return np.stack([*true, *(exchanged(nodes, y, train, rng) for y in true)])


def areas(scores: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Area under the curve over captions of scores [..., node]; ties count a half."""
    n = int(y.sum())
    return (rankdata(scores, axis=-1)[..., y == 1].sum(-1) - n * (n + 1) / 2) / (n * (len(y) - n))


@dataclass(eq=False)
class Moments:
    """Sums that ridge regressions on some examples need, for any columns and all labellings."""

    n: int
    mean: np.ndarray
    scale: np.ndarray
    correlation: np.ndarray
    slope: np.ndarray

    @classmethod
    def from_sums(cls, n: int, mean: np.ndarray, scatter: np.ndarray, cross: np.ndarray, y: np.ndarray) -> Moments:
        """From sums over the examples; a column that does not vary gets no weight."""
        spread = np.sqrt(np.maximum(np.diag(scatter) / n - mean**2, 0))
        scale = np.where(spread > 1e-6 * spread.max(), spread, np.inf).astype(mean.dtype)
        scatter = scatter / n
        scatter -= np.outer(mean, mean)
        scatter /= scale
        scatter /= scale[:, None]
        return cls(n, mean, scale, scatter, (cross / n - np.outer(y / n, mean)).T / scale[:, None])


@dataclass(eq=False)
class Fold:
    """One fold: its videos are scored; penalties and weights come from inner folds of the other videos."""

    nodes: Nodes
    test_videos: np.ndarray
    inner: list[np.ndarray]
    y: np.ndarray
    penalties: Sequence[float]

    def __post_init__(self) -> None:
        self.test = np.flatnonzero(np.isin(self.nodes.video, self.test_videos))
        self.held = [np.flatnonzero(np.isin(self.nodes.video, part)) for part in self.inner]
        self.train = np.concatenate(self.held)

    def without(self, i: int) -> np.ndarray:
        """Training nodes outside of an inner fold."""
        return np.concatenate([rows for j, rows in enumerate(self.held) if j != i])

    def without_each(self) -> list[np.ndarray]:
        """Training nodes outside of every inner fold in turn."""
        return [self.without(i) for i in range(len(self.held))]


@dataclass(eq=False)
class Row:
    """What a probe says: of the scored videos, and of every training video while it was held out."""

    test: np.ndarray
    held_out: np.ndarray
    inner_area: float
    penalty: float


def evened(x: np.ndarray) -> np.ndarray:
    """Features [node, column] with mean 0 and spread 1 over all nodes, in single precision.

    Every fit centres and scales anew by its own training nodes, so this changes no score; it keeps the digits.
    """
    x = x.reshape(len(x), -1).astype(np.float64)
    spread = x.std(0)
    return ((x - x.mean(0)) / np.where(spread > 1e-9 * spread.max(), spread, np.inf)).astype(np.float32)


class Ridge:
    """Ridge probes on columns of one feature table within a fold."""

    def __init__(self, fold: Fold, x: np.ndarray) -> None:
        self.fold, self.x = fold, x
        sums = []
        for rows in fold.held:
            part = x[rows]
            y = fold.y[:, rows].astype(x.dtype)
            sums.append((len(rows), part.sum(0), part.T @ part, y @ part, y.sum(1)))

        def moments(leave_out: int | None) -> Moments:
            n, mean, scatter, cross, y = (sum(one[k] for i, one in enumerate(sums) if i != leave_out) for k in range(5))
            return Moments.from_sums(n, mean / n, scatter, cross, y)

        self.inner = [moments(i) for i in range(len(fold.held))]
        self.outer = moments(None)

    def scores(
        self, m: Moments, columns: np.ndarray, rows: np.ndarray, penalties: Sequence[float], labels: Sequence[int]
    ) -> np.ndarray:
        """Scores [penalty, label, row]; penalties are in units of the mean eigenvalue of the features."""
        system = m.correlation[np.ix_(columns, columns)]
        slope = m.slope[np.ix_(columns, labels)]
        x = (self.x[np.ix_(rows, columns)] - m.mean[columns]) / m.scale[columns]
        weights = []
        for penalty in penalties:
            shifted = system.copy()
            shifted[np.diag_indices_from(shifted)] += penalty
            weights.append(cho_solve(cho_factor(shifted, overwrite_a=True, check_finite=False), slope))
        return (x @ np.hstack(weights)).T.reshape(len(penalties), len(labels), len(rows))

    def fit(
        self, columns: np.ndarray, labels: Sequence[int], inner_columns: Sequence[np.ndarray] | None = None
    ) -> list[Row]:
        """One row per labelling, each with the penalty of the highest mean area over the inner folds.

        `inner_columns`: columns that were chosen anew without each inner fold, where columns are chosen by labels.
        """
        fold = self.fold
        found = [
            self.scores(m, columns if inner_columns is None else inner_columns[i], rows, fold.penalties, labels)
            for i, (m, rows) in enumerate(zip(self.inner, fold.held, strict=True))
        ]
        return chosen(
            fold, found, labels, lambda penalty, k: self.scores(self.outer, columns, fold.test, [penalty], [k])[0, 0]
        )


def chosen(
    fold: Fold, found: Sequence[np.ndarray], labels: Sequence[int], score: Callable[[float, int], np.ndarray]
) -> list[Row]:
    """Choose a penalty for every labelling from held-out scores [penalty, label, node] of each inner fold."""
    out = []
    for at, k in enumerate(labels):
        by_fold = [areas(s[:, at], fold.y[k, rows]) for s, rows in zip(found, fold.held, strict=True)]
        mean = np.mean(by_fold, axis=0)
        best = int(mean.argmax())
        held = np.concatenate([s[best, at] for s in found]).astype(np.float64)
        # Probes of several folds are ranked together, so each is put on the scale of what it says of videos held out.
        middle, spread = held.mean(), held.std()
        test = (score(fold.penalties[best], k) - middle) / spread
        out.append(Row(test, (held - middle) / spread, float(mean[best]), fold.penalties[best]))
    return out


def kernel_rows(fold: Fold, x: np.ndarray, labels: Sequence[int], standardise: bool = True) -> list[Row]:
    """As `Ridge.fit` of all columns, by inner products of examples, which is quicker with more columns than these."""

    def score(train: np.ndarray, test: np.ndarray, penalties: Sequence[float], ks: Sequence[int]) -> np.ndarray:
        mean, spread = x[train].mean(0), x[train].std(0) if standardise else np.ones(x.shape[1], x.dtype)
        spread = np.where(spread > 1e-6 * spread.max(), spread, np.inf).astype(x.dtype)
        a, b = ((x[rows] - mean) / spread for rows in (train, test))
        gram = a @ a.T
        unit = np.trace(gram) / int(np.isfinite(spread).sum())
        y = fold.y[np.ix_(ks, train)].astype(x.dtype)
        y = (y - y.mean(1, keepdims=True)).T
        weights = []
        for penalty in penalties:
            shifted = gram.copy()
            shifted[np.diag_indices_from(shifted)] += penalty * unit
            weights.append(cho_solve(cho_factor(shifted, overwrite_a=True, check_finite=False), y))
        return (b @ (a.T @ np.hstack(weights))).T.reshape(len(penalties), len(ks), len(test))

    found = [score(fold.without(i), rows, fold.penalties, labels) for i, rows in enumerate(fold.held)]
    whole = score(fold.train, fold.test, fold.penalties, labels)
    at = list(fold.penalties)
    return chosen(fold, found, labels, lambda penalty, k: whole[at.index(penalty), list(labels).index(k)])


def hunt(z: np.ndarray, y: np.ndarray, metric: str, seed: int) -> np.ndarray:
    """Saliency [layer, head] of training nodes: the LDA term, or the paper's mixture of four as `identify` makes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HeadprobeWarning)  # that one head sets a scale
        if len(METRICS[metric]) == 1:
            return saliency(z, y, METRICS[metric]).isel(metric=0, drop=True).values.reshape(SHAPE)
        return identify(z, y, metrics=METRICS[metric], random_state=seed).rss.values


def best(scores: np.ndarray, k: int) -> HeadSet:
    """The k heads with the highest score."""
    return top_heads(score_map(scores), k)


def columns_of(heads: HeadSet, d: int) -> np.ndarray:
    """Columns of [layer, head, d_head] flattened, of some heads."""
    places = np.array([h.layer * HEADS + h.head for h in heads])
    return (places[:, None] * d + np.arange(d)).ravel()


def window_mean(values: np.ndarray, video: np.ndarray, half: int) -> np.ndarray:
    """Mean of the nodes i - half to i + half - 1 of the same video, as many as there are."""
    out = np.empty(len(values))
    for start, stop in _runs(video):
        part = values[start:stop]
        total = np.concatenate([[0.0], np.cumsum(part)])
        i = np.arange(len(part))
        low, high = np.maximum(i - half, 0), np.minimum(i + half, len(part))
        out[start:stop] = (total[high] - total[low]) / (high - low)
    return out


def _runs(video: np.ndarray) -> Iterator[tuple[int, int]]:
    borders = np.flatnonzero(np.diff(video)) + 1
    yield from zip([0, *borders.tolist()], [*borders.tolist(), len(video)], strict=True)


def combined(fold: Fold, row: Row, rating: np.ndarray, label: int, half: int) -> np.ndarray:
    """Scores of the fold's videos by a probe of head score and rating, its weights fitted on the training videos.

    The head scores that it is fitted on are those of videos held out. `half` above 0: of head scores averaged over
    neighbouring nodes.
    """
    nodes = fold.nodes
    pairs = []
    for rows, values in ((fold.train, row.held_out), (fold.test, row.test)):
        order = np.argsort(rows)
        smoothed = np.empty(len(rows))
        smoothed[order] = window_mean(values[order], nodes.video[rows[order]], half) if half else values[order]
        pairs.append(np.stack([smoothed, rating[rows]], 1))
    return HeadProbe().fit(pairs[0], fold.y[label, fold.train]).decision_function(pairs[1])


class Kept:
    """Scores [node] of every row over all folds, with what was chosen in each."""

    def __init__(self, nodes: Nodes, n_folds: int) -> None:
        self.n, self.n_folds = len(nodes.text), n_folds
        self.scores: dict[str, np.ndarray] = {}
        self.inner: dict[str, np.ndarray] = {}
        self.penalty: dict[str, np.ndarray] = {}

    def add(self, name: str, fold: Fold, number: int, test: np.ndarray, row: Row | None = None) -> None:
        """The scores of one fold."""
        self.scores.setdefault(name, np.full(self.n, np.nan))[fold.test] = test
        if row is not None:
            self.inner.setdefault(name, np.full(self.n_folds, np.nan))[number] = row.inner_area
            self.penalty.setdefault(name, np.full(self.n_folds, np.nan))[number] = row.penalty

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything as arrays by name."""
        missing = [name for name, values in self.scores.items() if np.isnan(values).any()]
        if missing:
            raise SystemExit(f"not every node has a score: {missing}")
        out = {f"score|{name}": values for name, values in self.scores.items()}
        out |= {f"inner|{name}": values for name, values in self.inner.items()}
        return out | {f"penalty|{name}": values for name, values in self.penalty.items()}


def folds(nodes: Nodes, config: Mapping, seed: int) -> Iterator[tuple[int, Fold]]:
    """The folds of one seed."""
    everything = np.arange(len(nodes.videos))
    for number, test in enumerate(split(nodes, config["folds"], config["seed"] + seed)):
        train = np.setdiff1d(everything, test)
        inner = split(nodes, config["inner_folds"], config["seed"] + 100 * seed + number, train)
        y = label_table(nodes, train, config["seed"] + 1000 * seed + number)
        yield number, Fold(nodes, test, inner, y, config["penalties"])


class HeadRows:
    """All rows of heads at one position, fold after fold."""

    def __init__(self, nodes: Nodes, z: np.ndarray, blank: np.ndarray, config: Mapping) -> None:
        self.kept, self.config = Kept(nodes, config["folds"]), config
        self.z, self.blank = z, blank
        self.flat, self.flat_blank = evened(z), evened(blank)
        self.maps: dict[str, list[np.ndarray]] = {}
        self.sizes = [k for k in config["sizes"] if k < LAYERS * HEADS]

    def add(self, name: str, rows: Sequence[Row], labels: Sequence[int]) -> None:
        """Rows under some labellings, and those that are made of them."""
        for k, row in zip(labels, rows, strict=True):
            full = f"{LABELS[k]}|{name}"
            self.kept.add(full, self.fold, self.number, row.test, row)
            if name in self.config["combined"] and k < 2:
                for suffix, scores in joined(self.fold, row, k, self.config["window"]):
                    self.kept.add(f"{full}|{suffix}", self.fold, self.number, scores)

    def columns(self, heads: HeadSet) -> np.ndarray:
        """Columns of some heads."""
        return columns_of(heads, self.z.shape[-1])

    def hunt(self, z: np.ndarray, rows: np.ndarray, metric: str, k: int) -> np.ndarray:
        """Score map of some training nodes."""
        return hunt(z[rows], self.fold.y[k, rows], metric, self.config["seed"])

    def hunted(self, metric: str, k: int, sizes: Sequence[int]) -> dict[int, HeadSet]:
        """Sets by size. LDA is scored again without each inner fold, and those heads choose the penalty there."""
        name, outer = f"hunted, {metric}", self.hunt(self.z, self.fold.train, metric, k)
        self.maps.setdefault(f"{LABELS[k]}|{name}", []).append(outer)
        sets = {size: best(outer, size) for size in sizes}
        again = metric == "LDA" and k < 2
        inner = [self.hunt(self.z, rows, metric, k) for rows in self.fold.without_each()] if again else []
        for size, heads in sets.items():
            within = [self.columns(best(one, size)) for one in inner] if again else None
            self.add(f"{name}|{size}", self.probe.fit(self.columns(heads), [k], within), [k])
        return sets

    def hunted_untrained(self, k: int) -> None:
        """The same in the never-trained encoder, scored once."""
        scores = self.hunt(self.blank, self.fold.train, "LDA", k)
        for size in self.config["control_sizes"]:
            own = self.flat_blank[:, self.columns(best(scores, size))]
            self.add(f"never trained, hunted, LDA|{size}", Ridge(self.fold, own).fit(np.arange(own.shape[1]), [k]), [k])

    def start(self, number: int, fold: Fold) -> None:
        """Turn to a fold."""
        self.number, self.fold, self.probe = number, fold, Ridge(fold, self.flat)

    def run(self, number: int, fold: Fold, rng: np.random.Generator, single: bool) -> None:
        """All rows of a fold."""
        self.start(number, fold)
        for k in (0, 1):
            sets = self.hunted("LDA", k, self.sizes)
            for size, heads in sets.items():
                for i in range(self.config["same_layer_sets"][str(size)]):
                    other = self.columns(same_layer_heads(heads, SHAPE, rng))
                    self.add(f"same layers|{size}|{i}", self.probe.fit(other, [k]), [k])
            self.hunted("mixture", k, self.sizes)
            self.hunted_untrained(k)
        for k in (2, 3):
            self.hunted("LDA", k, self.config["control_sizes"])
        for size in self.sizes:
            for i in range(self.config["random_sets"][str(size)]):
                columns = self.columns(random_heads(SHAPE, size, rng))
                self.add(f"random|{size}|{i}", self.probe.fit(columns, [0, 1]), [0, 1])
        self.add("all heads|72", kernel_rows(fold, self.flat, [0, 1, 2, 3]), [0, 1, 2, 3])
        self.add("never trained, all heads|72", kernel_rows(fold, self.flat_blank, [0, 1]), [0, 1])
        if single:
            for i, head in enumerate(np.ndindex(*SHAPE)):
                self.add(f"single|{i}", self.probe.fit(self.columns(HeadSet([head])), [0, 1]), [0, 1])


def run_heads(nodes: Nodes, z: np.ndarray, blank: np.ndarray, config: Mapping, seed: int) -> dict[str, np.ndarray]:
    """All rows of heads at one position, over the folds of one seed; every head alone under the first seed."""
    rows = HeadRows(nodes, z, blank, config)
    for number, fold in folds(nodes, config, seed):
        rows.run(number, fold, np.random.default_rng([config["seed"], seed, number]), seed == 0)
    return rows.kept.arrays() | {f"map|{name}": np.stack(values) for name, values in rows.maps.items()}


def joined(fold: Fold, row: Row, label: int, half: int) -> Iterator[tuple[str, np.ndarray]]:
    """The scores with the caption's rating beside them, and averaged over neighbouring nodes."""
    nodes = fold.nodes
    yield "window mean", window_mean(row.test, nodes.video[fold.test], half)
    yield "with raw rating", combined(fold, row, nodes.raw, label, 0)
    yield "window mean with refined rating", combined(fold, row, nodes.refined, label, half)


def run_texts(nodes: Nodes, hidden: Mapping[str, np.ndarray], config: Mapping, seed: int) -> dict[str, np.ndarray]:
    """Rows that have no position or no heads: the sentence embedding, hidden states, words, and nodes without text."""
    kept = Kept(nodes, config["folds"])
    embedding = hidden["mean"].astype(np.float64)
    embedding = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    words = nodes.words(config["word_in_captions"])
    for number, fold in folds(nodes, config, seed):
        tables = {"embedding": evened(embedding), "node, no text": evened(nodes.blind())}
        tables |= {f"last hidden state, {p} token": evened(hidden[p]) for p in ("first", "last")}
        listed = [(name, Ridge(fold, x).fit(np.arange(x.shape[1]), [0, 1, 2, 3])) for name, x in tables.items()]
        listed.append(("words, no encoder", kernel_rows(fold, words, [0, 1], standardise=False)))
        for name, rows in listed:
            for k, row in enumerate(rows):
                kept.add(f"{LABELS[k]}|{name}", fold, number, row.test, row)
                if name == "embedding" and k < 2:
                    for suffix, scores in joined(fold, row, k, config["window"]):
                        kept.add(f"{LABELS[k]}|{name}|{suffix}", fold, number, scores)
    return kept.arrays()
