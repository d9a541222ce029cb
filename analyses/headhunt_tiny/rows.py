"""The rows of the table and the curves: how heads are chosen, what is fitted on them, and how it ranks test frames."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import xarray as xr
from footage import NORMAL, Footage
from scipy.special import expit
from sklearn.model_selection import StratifiedKFold

from headprobe import HeadSet, saliency, top_heads
from headprobe.errors import HeadprobeWarning
from headprobe.evaluation import evaluate_events, position_prior, to_frames
from headprobe.evaluation.bootstrap import pair_wins
from headprobe.evaluation.frames import _count_videos, _merge, _precision_recall
from headprobe.headhunt.layerhunt import choose_layer
from headprobe.headhunt.locate import Locator, calibrate_locator, smooth
from headprobe.metrics.normalisation import combine
from headprobe.metrics.stability import rss
from headprobe.probing.probe import HeadProbe
from headprobe.video.scenes import FPS, SEGMENT_FRAMES
from headprobe.video.spans import stretches

FIVE = ("describe", "actions", "deviate", "dangerous", "wrong")
FULL = "full"


@dataclass(frozen=True)
class Row:
    """One way to score segments. `source`: which model, labels and clips it is calibrated on."""

    source: str = "video labels"
    heads: str = "rss"  # or lda, worst, random, same layers, last layer, all, last hidden, layer, motion
    prompts: tuple[str, ...] = FIVE
    scored: str = "describe"
    probe: str = "logistic"
    k: int = 5
    penalty: float = 0.5
    draw: int = 0


SEGMENT = ", segment labels"
"""What the names of rows end in whose calibration knows which segments hold the event."""

SAME: dict[str, Row] = {
    FULL: Row(),
    "all heads of the last layer": Row(heads="last layer"),
    "random heads": Row(heads="random"),
    "one coarse prompt": Row(prompts=("coarse",), scored="coarse"),
    "one detailed prompt": Row(prompts=("detailed",), scored="detailed"),
    "linear SVM": Row(probe="svm"),
    "two-layer MLP": Row(probe="mlp"),
    "hunted under the coarse prompt, scored as full": Row(prompts=("coarse",)),
    "hunted under the detailed prompt, scored as full": Row(prompts=("detailed",)),
    "hunted by the LDA term alone": Row(heads="lda"),
    "random heads of the same layers": Row(heads="same layers"),
    "worst heads by RSS": Row(heads="worst"),
    "all heads": Row(heads="all"),
    "last hidden state": Row(heads="last hidden"),
    "frame differences": Row(heads="motion"),
    "never trained": Row(source="never trained"),
    "never trained, all heads": Row(source="never trained", heads="all"),
}
TABLE: dict[str, Row] = (
    SAME
    | {"whole-video clips": Row(source="whole-video clips"), "shuffled labels": Row(source="shuffled labels")}
    | {
        name + SEGMENT: replace(row, source=row.source.replace("video labels", "") + SEGMENT)
        for name, row in SAME.items()
    }
)
RANDOM = ("random", "same layers")
LAYER = "LayerHunt (HiProbe-VAD)"
CONSTANT, PRIOR = "constant per video (knows the truth)", "position prior"
LATER: dict[str, Row] = {
    name + ending: replace(row, source=row.source.replace("video labels", "") + ending if ending else row.source)
    for ending in ("", SEGMENT)
    for name, row in {
        LAYER: Row(heads="layer"),
        "never trained, LayerHunt": Row(source="never trained", heads="layer"),
        "shuffled labels": Row(source="shuffled labels"),
    }.items()
}
"""Rows that were added when the table was there; `shuffled labels` with labels of videos is in both, the same."""
EVENTS = (FULL, "random heads", LAYER, "frame differences", "never trained", "shuffled labels")
"""Rows whose events are counted, with both kinds of labels."""


def curves(config: dict) -> dict[str, Row]:
    """Rows for the curves over K and lambda, unsmoothed."""
    own = config["draws"]
    rows = {f"k={k}": Row(k=k) for k in own["ks"]}
    rows |= {f"random k={k}": Row(heads="random", k=k) for k in own["ks"]}
    rows |= {f"lambda={p:g}": Row(penalty=p) for p in own["lambdas"]}
    rows |= {name + SEGMENT: replace(row, source=SEGMENT) for name, row in rows.items()}
    rows |= {f"never trained k={k}": Row(source="never trained", k=k) for k in own["ks"]}
    return rows | {f"never trained lambda={p:g}": Row(source="never trained", penalty=p) for p in own["lambdas"]}


SIZED = (
    FULL,
    "random heads",
    "all heads",
    "all heads of the last layer",
    "last hidden state",
    "never trained",
    FULL + SEGMENT,
    "all heads" + SEGMENT,
)


ELSEWHERE = tuple(
    name + ending
    for ending in ("", SEGMENT)
    for name in (FULL, "random heads", "all heads of the last layer", "all heads", "last hidden state")
)
"""Rows that are made for other trainings of the model, unsmoothed."""


@dataclass(frozen=True, eq=False)
class Part:
    """Segments to fit on or to score."""

    z: torch.Tensor  # [prompt, row, layer, head, d_head]
    hidden: torch.Tensor  # [row, layer, d_model]
    motion: np.ndarray  # [row, feature]


def part(footage: Footage, videos: Sequence[int] | np.ndarray | slice) -> Part:
    """All segments of some videos, video by video."""
    return Part(footage.z[:, videos].flatten(1, 2), footage.hidden[videos].flatten(0, 1), _flat(footage.motion[videos]))


def whole(footage: Footage, videos: Sequence[int] | np.ndarray) -> Part:
    """One clip per video, its frames from all over the video, as in the published code."""
    z = footage.whole[:, videos]
    return Part(z, torch.zeros(z.shape[1], 1, 1), np.zeros((z.shape[1], 1)))


def _flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, values.shape[-1])


class Fit:
    """Heads chosen and probes fitted on one set of calibration segments; what is asked for twice is made once."""

    def __init__(
        self, train: Part, y: np.ndarray, hunt_on: np.ndarray, config: dict, seed: int, all_prompts: bool = False
    ) -> None:
        self.train, self.y, self.hunt_on, self.config, self.seed = train, y, hunt_on, config, seed
        self.names = list(config["prompts"]) if all_prompts else list(FIVE)
        self.left_out: list[str] = []
        self._maps: xr.DataArray | None = None
        self._layer: int | None = None
        self._probes: dict[tuple, HeadProbe] = {}

    @property
    def maps(self) -> xr.DataArray:
        """Saliency (metric, prompt, layer, head) on the segments that heads are hunted on."""
        if self._maps is None:
            z, y = self.train.z[: len(self.names), self.hunt_on], self.y[self.hunt_on]
            # A head that gives all clips of a class the same output has no score. Noise in its place lets the
            # others be scored; it is ranked with the last of them.
            classes = [z[:, y == label] for label in (0, 1)]
            dead = np.any([(one.amax(1) == one.amin(1)).all(3).any(0).numpy() for one in classes], axis=0)
            if dead.any():
                noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
                z = torch.where(torch.from_numpy(dead)[None, None, :, :, None], noise, z)
            maps = saliency(z, y, self.config["method"]["metrics"], random_state=self.config["seed"])
            places = {name: maps[name] for name in ("layer", "head")}
            alive = maps.where(xr.DataArray(~dead, dims=tuple(places), coords=places))
            maps = alive.fillna(alive.min(("layer", "head")))
            # On few segments all heads of a bad model may cluster alike; such a metric ranks nothing and is left out.
            flat = (maps.max(("layer", "head")) == maps.min(("layer", "head"))).any("prompt")
            self.left_out = [str(name) for name in maps.metric.values[flat.values]]
            self._maps = maps.isel(metric=~flat.values)
        return self._maps

    def robust(self, row: Row) -> xr.DataArray:
        """RSS over the prompts of a row."""
        maps = self.maps.isel(prompt=[self.names.index(name) for name in row.prompts])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HeadprobeWarning)  # that one head sets a scale; some will, in 500 maps
            return rss(combine(maps.sel(metric=["lda"]) if row.heads == "lda" else maps), row.penalty)

    def heads(self, row: Row) -> HeadSet:
        """The heads of a row."""
        n_layers, n_heads = self.train.z.shape[2:4]
        everything = [(layer, head) for layer in range(n_layers) for head in range(n_heads)]
        rng = np.random.default_rng([self.seed, row.draw, RANDOM.index(row.heads) if row.heads in RANDOM else 9])
        if row.heads in ("all", "last hidden", "layer", "motion"):
            return HeadSet(everything)
        if row.heads == "last layer":
            return HeadSet([place for place in everything if place[0] == n_layers - 1])
        if row.heads == "random":
            return HeadSet([everything[int(i)] for i in rng.choice(len(everything), row.k, replace=False)])
        if row.heads == "same layers":
            return self.heads(replace(row, heads="rss")).random_of_same_layers(everything, rng)
        return top_heads(-self.robust(row) if row.heads == "worst" else self.robust(row), row.k)

    @property
    def layer(self) -> int:
        """The layer that LayerHunt chooses, by the hidden states under the first prompt."""
        if self._layer is None:
            hidden, y = self.train.hidden[self.hunt_on].double().numpy(), self.y[self.hunt_on]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", HeadprobeWarning)
                self._layer = choose_layer(hidden[None], y, random_state=self.config["seed"]).layer
        return self._layer

    def scores(self, row: Row, rows: Part) -> np.ndarray:
        """Scores from 0 to 1 of segments; the margin of the support vector machine goes through a logistic curve."""
        chosen = self.heads(row)
        key = (row.heads in ("last hidden", "layer", "motion") and row.heads, chosen.labels, row.scored, row.probe)
        if key not in self._probes:
            probe = HeadProbe(row.probe, random_state=self.config["seed"])
            self._probes[key] = probe.fit(self._features(row, chosen, self.train), self.y)
        x = self._features(row, chosen, rows)
        probe = self._probes[key]
        return expit(probe.decision_function(x)) if row.probe == "svm" else probe.predict_proba(x)[:, 1]

    def _features(self, row: Row, chosen: HeadSet, rows: Part) -> np.ndarray:
        if row.heads == "motion":
            return rows.motion
        if row.heads == "last hidden":
            return rows.hidden[:, -1].double().numpy()
        if row.heads == "layer":
            return rows.hidden[:, self.layer].double().numpy()
        z = rows.z[self.names.index(row.scored)]
        return z[:, [h.layer for h in chosen], [h.head for h in chosen]].double().numpy()


def even(n_videos: int, n_segments: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """Segments of all videos, at most so many, and of no video two more than of another; row numbers, ascending."""
    if n_videos * n_segments <= most:
        return np.arange(n_videos * n_segments)
    order = np.stack([rng.permutation(n_segments) for _ in range(n_videos)])
    turn = order.argsort(1) * n_videos + rng.permutation(n_videos)[:, None]
    return np.flatnonzero(turn.ravel() < most)


@dataclass(eq=False)
class Bench:
    """Calibration and test footage of the trained and the never-trained model."""

    config: dict
    calibration: Mapping[str, Footage]
    test: Mapping[str, Footage]
    found: dict[str, dict] = field(default_factory=dict)

    def __post_init__(self) -> None:
        test = self.test["trained"]
        self.truth = {f"v{i}": row.astype(int) for i, row in enumerate(test.truth)}
        self.n_segments = test.motion.shape[1]
        self.spans = [(s * SEGMENT_FRAMES, (s + 1) * SEGMENT_FRAMES) for s in range(self.n_segments)]
        self.seen = np.flatnonzero(~np.isin(test.events, ("explosion", "panic")))
        self.held_out = np.flatnonzero(np.isin(test.events, (NORMAL, "explosion", "panic")))

    def fit(self, source: str, videos: np.ndarray, seed: int, all_prompts: bool = True) -> Fit:
        """Fit on some calibration videos; labels are those of the videos but with segment labels."""
        all_prompts = all_prompts and _model(source) == "trained" and not source.startswith("shuffled labels")
        footage = self.calibration[_model(source)]
        labels = (footage.events[videos] != NORMAL).astype(int)
        rng = np.random.default_rng([seed, 77])
        if source == "shuffled labels":
            labels = rng.permutation(labels)
        if source == "whole-video clips":
            return Fit(whole(footage, videos), labels, np.arange(len(videos)), self.config, seed)
        y = labels.repeat(self.n_segments)
        if source.endswith(SEGMENT):
            y = (footage.segment_truth[videos] >= 0.5).astype(int).ravel()
            y = rng.permutation(y) if source.startswith("shuffled labels") else y
        most = max(self.config["method"]["identify_segments"], len(videos))
        hunt_on = even(len(videos), self.n_segments, most, rng)
        return Fit(part(footage, videos), y, hunt_on, self.config, seed, all_prompts)

    def measure(self, scores: np.ndarray) -> tuple[np.ndarray, list[float]]:
        """Pairwise wins of all test videos, and average precision on seen and held-out events."""
        frames = {f"v{i}": to_frames(row, self.spans, len(self.truth[f"v{i}"])) for i, row in enumerate(scores)}
        return self.measure_frames(frames)

    def measure_frames(self, frames: Mapping[str, np.ndarray]) -> tuple[np.ndarray, list[float]]:
        """The same from scores per frame."""
        counted = _count_videos(frames, self.truth)
        aps = []
        for subset in (self.seen, self.held_out):
            pooled = _merge([counted[i] for i in subset])
            aps.append(_precision_recall(pooled.abnormal, pooled.normal)[0])
        return pair_wins(counted).astype(np.float32), aps

    def draw(self, number: int, videos: np.ndarray, say: Callable[[str], None]) -> dict[str, dict]:
        """Everything of one draw: the table with and without smoothing, and the curves over K and lambda."""
        seed = self.config["seed"] + number
        out: dict[str, dict] = {}
        for source in dict.fromkeys(row.source for row in TABLE.values()):
            say(f"draw {number}: {source}")
            rows = {name: row for name, row in TABLE.items() if row.source == source}
            held_out = self._held_out(source, rows, videos, seed)
            fit = self.fit(source, videos, seed)
            test = part(self.test[_model(source)], slice(None))
            for name, row in rows.items():
                found = []
                for one in self._sets(row):
                    raw = fit.scores(one, test).reshape(-1, self.n_segments)
                    locator = self._locator(held_out[one], videos)
                    smoothed = np.stack([smooth(video, locator.sigma) for video in raw])
                    found.append((raw, smoothed, locator))
                out[name] = _mean([self.measure(smoothed) for _, smoothed, _ in found])
                out[f"{name}, unsmoothed"] = _mean([self.measure(raw) for raw, _, _ in found])
                out[name] |= {"sigma": [f[2].sigma for f in found], "tau": [f[2].tau for f in found]}
                out[name] |= {
                    "heads": [list(fit.heads(one).labels) for one in self._sets(row)],
                    "left_out": fit.left_out,
                }
                if name in (FULL, FULL + SEGMENT):
                    extra = self._thresholds(*found[0])
                    out |= {other + name.removeprefix(FULL): one for other, one in extra.items()}
            for name, row in curves(self.config).items():
                if row.source == source:
                    out[name] = _mean([self.measure(fit.scores(row, test).reshape(-1, self.n_segments))])
        return out

    def later(self, number: int, videos: np.ndarray, say: Callable[[str], None]) -> dict[str, dict]:
        """The rows of LATER, with and without smoothing, and the events of those of EVENTS and of two controls."""
        seed = self.config["seed"] + number
        counted = {name + ending: (TABLE | LATER)[name + ending] for ending in ("", SEGMENT) for name in EVENTS}
        listed = LATER | counted
        out: dict[str, dict] = {}
        for source in dict.fromkeys(row.source for row in listed.values()):
            say(f"draw {number}, added rows: {source}")
            rows = {name: row for name, row in listed.items() if row.source == source}
            held_out, fit = self._held_out(source, rows, videos, seed), self.fit(source, videos, seed)
            test = part(self.test[_model(source)], slice(None))
            for name, row in rows.items():
                found = []
                for one in self._sets(row):
                    raw = fit.scores(one, test).reshape(-1, self.n_segments)
                    found.append((raw, self._locator(held_out[one], videos)))
                smoothed = [np.stack([smooth(video, locator.sigma) for video in raw]) for raw, locator in found]
                out[name] = _mean([self.measure(one) for one in smoothed])
                out[name]["layer"] = fit.layer if row.heads == "layer" else None
                if name in LATER:
                    out[f"{name}, unsmoothed"] = _mean([self.measure(raw) for raw, _ in found])
                if name in counted:
                    out[name]["events"] = [self.events(raw, locator) for raw, locator in found]
        prior = [position_prior(len(truth)) for truth in self.truth.values()]
        raw = np.stack([np.add.reduceat(one, [a for a, _ in self.spans]) / SEGMENT_FRAMES for one in prior])
        locator = self._locator({v: raw[0] for v in videos.tolist()}, videos)
        out[PRIOR] = _mean([self.measure(raw)]) | {"events": [self.events(raw, locator)]}
        return out

    def events(self, raw: np.ndarray, locator: Locator) -> dict:
        """Event-level numbers on normal videos and seen events of what a locator finds."""
        names = list(self.truth)
        found = {
            names[i]: [(e.start_seconds, e.end_seconds) for e in locator.events(raw[i], self.spans, FPS)]
            for i in self.seen
        }
        return self._count(found)

    def whole_video_events(self) -> dict:
        """The same where each abnormal video is one event, all of it: this knows which videos, and no time."""
        names = list(self.truth)
        lengths = {names[i]: len(self.truth[names[i]]) / FPS for i in self.seen}
        return self._count({name: [(0.0, end)] if self.truth[name].any() else [] for name, end in lengths.items()})

    def _count(self, found: Mapping[str, list[tuple[float, float]]]) -> dict:
        true = {name: [(a / FPS, b / FPS) for a, b in stretches(self.truth[name])] for name in found}
        numbers = evaluate_events(found, true, {name: len(self.truth[name]) / FPS for name in found})
        return {
            "f1": [row["f1"] for row in numbers["by_iou"]],
            "precision": [row["precision"] for row in numbers["by_iou"]],
            "recall": [row["recall"] for row in numbers["by_iou"]],
            "mean_f1": numbers["mean_f1"],
            "detected": numbers["n_detected"] / numbers["n_true"],
            "delay": numbers["delay_mean"],
            "false_alarms_per_hour": numbers["false_alarms_per_hour"],
        }

    def sized(self, number: int, videos: np.ndarray, names: Sequence[str] = SIZED) -> dict[str, dict]:
        """Some rows, unsmoothed: those of the curve over calibration size if not others."""
        seed = self.config["seed"] + number
        fits: dict[str, Fit] = {}
        out = {}
        for name in names:
            row = TABLE[name]
            fit = fits[row.source] if row.source in fits else self.fit(row.source, videos, seed, all_prompts=False)
            fits[row.source] = fit
            test = part(self.test[_model(row.source)], slice(None))
            scored = [fit.scores(one, test).reshape(-1, self.n_segments) for one in self._sets(row)]
            out[name] = _mean([self.measure(raw) for raw in scored])
            out[name] |= {"heads": [list(fit.heads(row).labels)], "left_out": fit.left_out}
        return out

    def _sets(self, row: Row) -> list[Row]:
        """The row, or as many as there are random sets."""
        n = self.config["draws"]["random_sets"] if row.heads in RANDOM else 1
        return [replace(row, draw=i) for i in range(n)]

    def _held_out(
        self, source: str, rows: Mapping[str, Row], videos: np.ndarray, seed: int
    ) -> dict[Row, dict[int, np.ndarray]]:
        """Scores of the calibration segments by heads and probes that never saw their video, by row and video."""
        footage = self.calibration[_model(source)]
        labels = (footage.events[videos] != NORMAL).astype(int)
        folds = StratifiedKFold(self.config["method"]["folds"], shuffle=True, random_state=seed)
        out: dict[Row, dict[int, np.ndarray]] = {one: {} for row in rows.values() for one in self._sets(row)}
        for train, held in folds.split(videos, labels):
            fit, rest = self.fit(source, videos[train], seed), part(footage, videos[held])
            for one, scores in out.items():
                found = fit.scores(one, rest).reshape(-1, self.n_segments)
                scores.update(zip(videos[held].tolist(), found, strict=True))
        return out

    def _locator(self, scores: Mapping[int, np.ndarray], videos: np.ndarray) -> Locator:
        method, truth = self.config["method"], self.calibration["trained"].truth
        names = {v: str(v) for v in videos.tolist()}
        return calibrate_locator(
            {names[v]: scores[v] for v in names},
            {names[v]: self.spans for v in names},
            {names[v]: truth[v].astype(int) for v in names},
            method["sigmas"],
            method["taus"],
        )

    def _thresholds(self, raw: np.ndarray, smoothed: np.ndarray, locator: Locator) -> dict[str, dict]:
        """The full row at the published smoothing, and cut at thresholds; and two controls made of its own scores."""
        method = self.config["method"]
        out = {}
        fixed = np.stack([smooth(video, method["published_sigma"]) for video in raw])
        out["smoothing as published"] = _mean([self.measure(fixed)])
        for tau in (*method["fixed_taus"], method["published_tau"]):
            out[f"cut at {tau:g}"] = _mean([self.measure((smoothed >= tau).astype(float))])
        out["cut at the calibrated threshold"] = _mean([self.measure((smoothed >= locator.tau).astype(float))])
        means = np.broadcast_to(smoothed.mean(1, keepdims=True), smoothed.shape)
        out["its own mean per video"] = _mean([self.measure(means)])
        return out


def _model(source: str) -> str:
    return "untrained" if source.startswith("never trained") else "trained"


def _mean(measured: Sequence[tuple[np.ndarray, list[float]]]) -> dict:
    """Wins are linear in the table, so their mean is that of the AUCs."""
    return {
        "wins": np.mean([wins for wins, _ in measured], axis=0, dtype=np.float64).astype(np.float32),
        "ap": np.mean([ap for _, ap in measured], axis=0).tolist(),
    }
