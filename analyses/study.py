"""What the five analyses of the field's questions share: models, clips, kept features, resamples, claims, README."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from readme_block import replace_block
from rounding import rounded
from safetensors.numpy import load_file, save_file
from scipy.stats import rankdata
from tqdm.auto import tqdm

from headprobe import Example, HeadSet, HeadTracer, load, saliency
from headprobe.metrics.null import q_values
from headprobe.metrics.resampling import group_resamples
from headprobe.models.model import Model
from headprobe.provenance import versions
from headprobe.scores import score_map
from headprobe.video.scenes import labelled_clips

if TYPE_CHECKING:
    import xarray as xr

ROOT = Path(__file__).resolve().parents[1]
SHIPPED, UNTRAINED = "seed0", "never trained"
HOLDS, REVERSED, OPEN = "holds", "reversed", "not decided"
HOW = (
    "Differences with 95 % intervals over draws and test scenes. Verdicts are corrected for all claims and trainings "
    "(Benjamini-Hochberg) and ask for the same in every training; a cell that differs says so."
)


@dataclass(eq=False)
class Study:
    """One analysis: its folder, its settings, and what is kept between runs."""

    here: Path
    config: dict
    runs: Path
    models: Path
    out: Path
    names: list[str] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)
    redraw: bool = False
    start: float = field(default_factory=time.process_time)

    def say(self, text: str) -> None:
        """A line about what is done."""
        print(f"[{time.process_time() - self.start:5.0f} s] {text}", file=sys.stderr, flush=True)

    def open(self, name: str) -> Model:
        """A model: `seed0` is the embedded one, `never trained` its control, others lie in the folder of models."""
        if name == SHIPPED:
            return load("tiny")
        if name == UNTRAINED:
            return load("tiny-untrained", seed=self.config["model_seed"])
        return load(str(self.models / name / "model"), dtype="float32")

    def keep(self, name: str, made_from: Any, make: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Arrays made once; a file per name and everything they are made from."""
        key = hashlib.sha256(json.dumps([name, made_from], sort_keys=True).encode()).hexdigest()[:12]
        file = self.runs / f"{name.replace(' ', '_')}-{key}.safetensors"
        if not file.exists():
            self.say(f"{name} ...")
            self.runs.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(".part")
            save_file({k: np.ascontiguousarray(v) for k, v in make().items()}, part)
            os.replace(part, file)
        return load_file(file)


def begin(here: Path, document: str | None) -> Study:
    """Read the command line and config.toml; one thread, so that the same numbers come out again to rounding."""
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / here.name, help="kept features")
    parser.add_argument("--models", type=Path, default=ROOT / "runs" / "tiny", help="further trainings, if there are")
    parser.add_argument("--out", type=Path, default=here, help="where results.json and the figures go")
    parser.add_argument("--redraw", action="store_true", help="only the figure and the README, from results.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = tomllib.loads((here / "config.toml").read_text(encoding="utf-8"))
    study = Study(here, config, arguments.runs, arguments.models, arguments.out, redraw=arguments.redraw)
    if study.redraw:
        return study
    others = [f"seed{n}" for n in config["other_trainings"]]
    study.names = [SHIPPED, *(n for n in others if (study.models / n / "model" / "model.safetensors").exists())]
    for name in (*study.names, UNTRAINED):
        study.hashes[name] = study.open(name).weights_hash
    return study


@dataclass(frozen=True, eq=False)
class Clips:
    """Rendered clips of one split, every second one with an event."""

    examples: list[Example]
    y: np.ndarray
    scene: np.ndarray


def clips(n: int, seed: int, split: str) -> Clips:
    """`n` clips; the same seed gives the same pixels, other splits have other scenes."""
    listed = labelled_clips(n, seed=seed, split=split)
    return Clips(listed, np.array([one.label for one in listed]), np.array([one.group for one in listed]))


def read(
    study: Study, name: str, split: str, n: int, prompts: Mapping[str, str], hidden: bool = False
) -> dict[str, np.ndarray]:
    """Head outputs `z` [prompt, clip, layer, head, d_head]; `yes` [prompt, clip]; `hidden` [clip, layer, d_model]."""
    seed = study.config["seed"]

    def make() -> dict[str, np.ndarray]:
        model = study.open(name)
        unknown = {w for text in prompts.values() for w in text.split()} - set(model.tokenizer.get_vocab())
        if unknown:
            raise SystemExit(f"words that the model does not know: {sorted(unknown)}")
        acts = HeadTracer(model).capture(
            clips(n, seed, split).examples, prompts, batch_size=32, resid_post=hidden, answers=("yes", "no")
        )
        assert acts.answer_logits is not None
        found = {"z": acts.z.numpy(), "yes": acts.answer_logits.double().softmax(-1)[..., 0].numpy()}
        if hidden:
            assert acts.resid_post is not None
            found["hidden"] = acts.resid_post[0].numpy()
        return found

    return study.keep(f"{name} {split}", [study.hashes[name], seed, n, dict(prompts), hidden], make)


def scene_weights(scene: np.ndarray, y: np.ndarray, n: int, seed: int) -> np.ndarray:
    """How often each clip is drawn, [1 + resample, clip]: whole scenes, within classes; the first row is all once."""
    drawn = group_resamples(y, scene.tolist(), n, seed)
    return np.stack([np.ones(len(y)), *(np.bincount(rows, minlength=len(y)) for rows in drawn)])


def pair_wins(scores: np.ndarray, y: np.ndarray) -> np.ndarray:
    """1 where an abnormal clip scores above a normal one, a half for ties, [..., abnormal, normal].

    Areas under the curve are linear in it, so the mean area of several scorers is the area of their mean table.
    """
    above, below = scores[..., y == 1, None], scores[..., None, y == 0]
    return ((above > below) + 0.5 * (above == below)).astype(np.float32)


def areas(wins: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the curve in every resample, [1 + resample]."""
    ones, zeros = weights[:, y == 1], weights[:, y == 0]
    return ((ones @ wins) * zeros).sum(1) / (ones.sum(1) * zeros.sum(1))


def resampled(values: np.ndarray, seed: int) -> np.ndarray:
    """Mean over draws of [1 + resample, draw], the draws resampled too; the first entry is the observed mean."""
    n = values.shape[1]
    again = np.random.default_rng([seed, 31]).multinomial(n, np.full(n, 1 / n), size=len(values) - 1) / n
    return np.concatenate([[values[0].mean()], (values[1:] * again).sum(1)])


def estimate(values: np.ndarray, level: float = 0.95) -> dict:
    """Observed value and interval of [1 + resample]."""
    low, high = np.quantile(values[1:], [(1 - level) / 2, (1 + level) / 2])
    return {"mean": float(values[0]), "low": float(low), "high": float(high)}


def evidence(values: np.ndarray, margin: float = 0.0) -> tuple[float, str]:
    """P-value from resamples [1 + resample] of a difference, and which verdict it is for.

    Without a margin: is the difference above 0 (holds) or below (reversed)? With one: does it lie within the margin
    (holds) or outside (reversed)?
    """
    if not np.isfinite(values).all():
        raise SystemExit("a resample has no value: more clips of the rarer class, or more draws, are needed")
    drawn, n = values[1:], len(values)

    def tail(hit: np.ndarray) -> float:
        return float(1 + hit.sum()) / n

    if margin == 0:
        holds, against = tail(drawn <= 0), tail(drawn >= 0)
    else:
        holds = max(tail(drawn >= margin), tail(drawn <= -margin))
        against = min(tail(drawn <= margin), tail(drawn >= -margin))
    return min(1.0, 2 * min(holds, against)), HOLDS if holds <= against else REVERSED


def decide(claims: Mapping[str, Mapping], found: Mapping[str, Mapping[str, np.ndarray]], alpha: float = 0.05) -> dict:
    """Every claim with its difference in every model, and a verdict in words.

    `found`: claim to model to [1 + resample]. Benjamini and Hochberg's correction is over all claims and trained models
    of the analysis. A claim holds (or is reversed) if it is so in every training at hand; else it is not decided.
    """
    rows = [(claim, model) for claim, by_model in found.items() for model in by_model if model != UNTRAINED]
    each = [evidence(found[c][m], claims[c].get("margin", 0.0)) for c, m in rows]
    q = q_values(score_map([[p for p, _ in each]])).values[0]
    out: dict = {}
    for (claim, model), (p, side), corrected in zip(rows, each, q, strict=True):
        one = out.setdefault(claim, dict(claims[claim]) | {"models": {}})
        said = side if corrected <= alpha else OPEN
        one["models"][model] = estimate(found[claim][model]) | {"p": p, "q": float(corrected), "verdict": said}
    for claim, one in out.items():
        said = [row["verdict"] for row in one["models"].values()]
        one["verdict"] = said[0] if len(set(said)) == 1 else OPEN
        if UNTRAINED in found[claim]:
            one[UNTRAINED] = estimate(found[claim][UNTRAINED])
    return out


def claim_rows(results: Mapping, beside: str | None = None) -> list[str]:
    """A table of claims, for the README: one column per model, and one for `beside`, whose verdicts are its own."""
    models = list(next(iter(results["claims"].values()))["models"])
    listed = [*models, *([UNTRAINED] if any(UNTRAINED in one for one in results["claims"].values()) else [])]
    extra = results[beside]["differences"] if beside is not None and results[beside] is not None else {}
    listed += [beside] if extra else []
    lines = [f"| claim | expected | verdict | {' | '.join(listed)} |", "|---" * (3 + len(listed)) + "|"]
    for key, one in results["claims"].items():
        cells = []
        for model in listed:
            row = one["models"].get(model) or one.get(model) or (extra.get(key) if model == beside else None)
            mark = "" if row is None or row.get("verdict") in (None, one["verdict"]) else f" ({row['verdict']})"
            cells.append("" if row is None else f"{row['mean']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]{mark}")
        lines.append(f"| {one['text']} | {one['expect']} | **{one['verdict']}** | {' | '.join(cells)} |")
    return lines


def head_maps(z: np.ndarray, y: np.ndarray, metrics: Sequence[str], seed: int) -> xr.DataArray:
    """Saliency (metric, prompt, layer, head) of [prompt, clip, layer, head, d_head].

    A head that says the same of every clip of a class (some say nothing of the clip under a prompt) has no score; it
    gets the lowest of its map. Noise stands in its place while the others are scored.
    """
    spread = np.min([np.ptp(z[:, y == label], axis=1).max(-1) for label in np.unique(y)], axis=0)
    silent = spread < 1e-6 * np.median(spread)
    noise = np.random.default_rng(seed).normal(size=z.shape).astype(np.float32)
    filled = np.where(silent[:, None, :, :, None], noise, z)
    maps = saliency(torch.from_numpy(filled), y, metrics, random_state=seed)
    scored = maps.where(~maps.isel(metric=0, drop=True).copy(data=silent))
    return scored.fillna(scored.min(("layer", "head")))


def standard_ranks(maps: np.ndarray) -> np.ndarray:
    """Ranks over the last axis with mean 0 and mean square 1: the mean product of two is Spearman's correlation."""
    ranks = rankdata(maps, axis=-1)
    ranks -= ranks.mean(-1, keepdims=True)
    return ranks / np.sqrt((ranks**2).mean(-1, keepdims=True))


def top_sets(maps: np.ndarray, k: int) -> np.ndarray:
    """1 for the k highest of the last axis."""
    chosen = np.zeros(maps.shape)
    np.put_along_axis(chosen, np.argsort(-maps, axis=-1, kind="stable")[..., :k], 1, axis=-1)
    return chosen


def apart(pairs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean of [draw, draw] over different draws, [resample], each draw taken as often as it was drawn."""
    off = 1 - np.eye(len(pairs))
    return ((weights @ (pairs * off)) * weights).sum(1) / ((weights @ off) * weights).sum(1)


def together(pairs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean of [draw, draw] over each draw with itself, [resample]."""
    return weights @ np.diag(pairs) / weights.sum(1)


def within_layers(one: np.ndarray, two: np.ndarray, layers: np.ndarray) -> np.ndarray:
    """Expected mean product of two maps [..., head] with heads permuted within layers: that of the layers' means."""
    total: np.ndarray = np.zeros(np.broadcast_shapes(one.shape, two.shape)[:-1])
    for layer in np.unique(layers):
        here = layers == layer
        total = total + here.sum() * one[..., here].mean(-1) * two[..., here].mean(-1)
    return total / one.shape[-1]


def placements(scores: np.ndarray, y: np.ndarray) -> np.ndarray:
    """What every example adds to the area under the curve, [..., example]; ties count a half.

    For a positive example the share of negative ones below it, for a negative one that of positive ones above it. The
    weighted means over both classes, added, less the area, are the area of a resample to first order (DeLong et al.,
    Biometrics 44, 1988).
    """
    ones = y == 1
    ranks = rankdata(scores, axis=-1)
    found = np.empty(scores.shape)
    n_ones, n_zeros = ones.sum(), (~ones).sum()
    found[..., ones] = (ranks[..., ones] - rankdata(scores[..., ones], axis=-1)) / n_zeros
    found[..., ~ones] = 1 - (ranks[..., ~ones] - rankdata(scores[..., ~ones], axis=-1)) / n_ones
    return found


def areas_to_first_order(placed: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the curve in every resample, [1 + resample, ...], from `placements` [..., example]."""
    means = []
    for label in (0, 1):
        w = weights[:, y == label]
        means.append(np.tensordot(w / w.sum(1, keepdims=True), placed[..., y == label], (1, -1)))
    return means[0] + means[1] - placed[..., y == 1].mean(-1)


def ridge_scores(train: np.ndarray, y: np.ndarray, test: np.ndarray, penalty: float = 0.1) -> np.ndarray:
    """Scores [head, test example] of a ridge probe per head, fitted on [example, head, d]; features standardised.

    The penalty is in units of the mean eigenvalue of the scatter matrix, as in `headprobe.metrics.linear_probe`.
    """
    x, new = (np.ascontiguousarray(part.transpose(1, 0, 2)).astype(np.float64) for part in (train, test))
    mean, spread = x.mean(1, keepdims=True), x.std(1, keepdims=True)
    spread = np.where(spread > 1e-9 * spread.max(), spread, np.inf)
    x, new = (x - mean) / spread, (new - mean) / spread
    gram = x.transpose(0, 2, 1) @ x
    size = gram.shape[-1]
    ridge = penalty * np.trace(gram, axis1=1, axis2=2)[:, None, None] / size * np.eye(size)
    slope = np.linalg.solve(gram + ridge, x.transpose(0, 2, 1) @ (y - y.mean())[:, None])
    return (new @ slope)[..., 0]


def random_heads(shape: tuple[int, int], k: int, rng: np.random.Generator) -> HeadSet:
    """`k` heads out of [layer, head]."""
    return HeadSet.random(np.ndindex(*shape), k, rng)


def same_layer_heads(heads: Iterable, shape: tuple[int, int], rng: np.random.Generator) -> HeadSet:
    """As many random heads of every layer as are given of it."""
    return HeadSet(heads).random_of_same_layers(np.ndindex(*shape), rng)


def of_heads(z: np.ndarray, heads: Iterable) -> np.ndarray:
    """Outputs [clip, k * d_head] of some heads of [clip, layer, head, d_head]."""
    listed = list(heads)
    return z[:, [h.layer for h in listed], [h.head for h in listed]].reshape(len(z), -1)


def chance_jaccard(n: int, k: int) -> float:
    """Expected overlap of two random sets of k out of n: intersection over union."""
    from scipy.stats import hypergeom

    shared = np.arange(k + 1)
    return float((hypergeom.pmf(shared, n, k, k) * shared / (2 * k - shared)).sum())


def write(study: Study, results: Mapping) -> None:
    """Write results.json with its provenance."""
    made = {
        "command": f"python analyses/{study.here.name}/run.py",
        "weights_hash": study.hashes,
        "versions": dict(versions()) | {name: version(name) for name in ("numpy", "scipy", "scikit-learn", "xarray")},
        "config": study.config,
    }
    study.out.mkdir(parents=True, exist_ok=True)
    text = compact(rounded(dict(results) | {"provenance": made}))
    (study.out / "results.json").write_text(text + "\n", encoding="utf-8")


def show(study: Study, lines: Callable[[Mapping], Sequence[str]], draw: Callable[[Mapping, Path], None], name: str):
    """The figure and, in place, the README's numbers, from results.json alone."""
    results = json.loads((study.out / "results.json").read_text(encoding="utf-8"))
    draw(results, study.out / name)
    if study.out == study.here:
        replace_block("results", "\n".join(lines(results)), study.here / "README.md")
    study.say("done")


def compact(value: Any, indent: int = 0) -> str:
    """JSON with one line for every list or table of plain values."""
    pad = " " * (indent + 1)
    inside = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    if not any(isinstance(one, dict | list) for one in inside):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict):
        rows = [f"{pad}{json.dumps(key, ensure_ascii=False)}: {compact(v, indent + 1)}" for key, v in value.items()]
        return "{\n" + ",\n".join(rows) + "\n" + " " * indent + "}"
    return "[\n" + ",\n".join(pad + compact(one, indent + 1) for one in inside) + "\n" + " " * indent + "]"


def progress(items: Iterable, what: str) -> Any:
    """A progress bar."""
    return tqdm(items, desc=what, mininterval=1)
