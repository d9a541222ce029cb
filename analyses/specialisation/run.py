"""Do heads specialise by the kind of question? One command, everything drawn from config.toml's seed.

    python analyses/specialisation/run.py [--runs runs/specialisation] [--models runs/tiny]

Head outputs are kept in the folder of --runs. Writes results.json, questions.png and the README's numbers.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "causal_heads"))

import study as shared
from asking import Asked  # pyright: ignore[reportMissingImports]  # of analyses/causal_heads
from matplotlib.colors import Normalize, PowerNorm
from scipy.special import expit
from scipy.stats import norm
from study import Study

from headprobe import Example, HeadSet, HeadTracer, edits, positions, top_heads
from headprobe.metrics.resampling import group_resamples
from headprobe.plotting._canvas import floating_figure
from headprobe.probing.probe import HeadProbe
from headprobe.video import scenes

HERE = Path(__file__).resolve().parent
NEUTRAL = "neutral"


def facts_of() -> Any:
    """The module that knows the answers: analyses/tiny_model/questions.py."""
    spec = importlib.util.spec_from_file_location("tiny_questions", HERE.parent / "tiny_model" / "questions.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def label_of(answer: str | None, question: Mapping) -> float:
    """1, 0, or NaN where the clip has no clear answer."""
    if answer is None:
        return np.nan
    if "answers" in question:
        return float(question["answers"].index(answer))
    return float(answer in question["many"]) if "many" in question else float(answer == question["one"])


@lru_cache(maxsize=2)
def footage(n: int, seed: int, split: str) -> tuple[list[Example], list[dict], np.ndarray]:
    """Clips, what is known of each, and the number of its scene."""
    known = facts_of()
    shots = [scenes.clip([seed, 11, i], split=split) for i in range(n)]
    names = [f"{shot.scene.family}-{shot.scene.seed}" for shot in shots]
    listed = [
        Example(shot.frames, id=f"{name}-{i}", group=name)
        for i, (shot, name) in enumerate(zip(shots, names, strict=True))
    ]
    return listed, [known.facts(shot) for shot in shots], np.unique(names, return_inverse=True)[1]


def labels(known: list[dict], questions: Mapping) -> np.ndarray:
    """Labels [question, clip], NaN where unclear."""
    return np.array([[label_of(one.get(q.get("kind", kind)), q) for one in known] for kind, q in questions.items()])


def read(study: Study, name: str, split: str, n: int, prompts: Mapping[str, str]) -> np.ndarray:
    """Head outputs [prompt, clip, layer, head, d_head]."""

    def make() -> dict[str, np.ndarray]:
        listed = footage(n, study.config["seed"], split)[0]
        return {"z": HeadTracer(study.open(name)).capture(listed, prompts, batch_size=32).z.numpy()}

    return study.keep(f"{name} {split}", [study.hashes[name], study.config["seed"], n, dict(prompts)], make)["z"]


def scene_draws(scene: np.ndarray, n: int, seed: int) -> np.ndarray:
    """How often each clip is drawn, [1 + resample, clip]: whole scenes; the first row is all once."""
    drawn = group_resamples(scene, scene.tolist(), n, seed, stratify=False)
    return np.stack([np.ones(len(scene)), *(np.bincount(rows, minlength=len(scene)) for rows in drawn)])


def specific(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spearman of the same question's map and of another question's, between two halves of the data.

    Maps [..., question, head]; means over questions, or over ordered pairs of them.
    """
    a, b = shared.standard_ranks(first), shared.standard_ranks(second)
    table = np.einsum("...qh,...rh->...qr", a, b) / a.shape[-1]
    n = table.shape[-1]
    own = np.trace(table, axis1=-2, axis2=-1) / n
    return own, (table.sum((-2, -1)) - n * own) / (n * (n - 1))


def interaction(values: np.ndarray) -> np.ndarray:
    """What is left of [..., question, head] when the means of questions and of heads are taken off."""
    centred = values - values.mean(-1, keepdims=True)
    return centred - centred.mean(-2, keepdims=True)


def tell(z: np.ndarray, y: np.ndarray, test: np.ndarray, truth: np.ndarray, weights: np.ndarray, config) -> np.ndarray:
    """Area of every head's ridge probe, [1 + resample, draw, head], for one question under one prompt."""
    found, clear = [], ~np.isnan(truth)
    for d in range(config["draws"]):
        rows = slice(d * config["size"], (d + 1) * config["size"])
        keep = ~np.isnan(y[rows])
        flat = [part.reshape(len(part), -1, part.shape[-1]) for part in (z[rows][keep], test[clear])]
        scores = shared.ridge_scores(flat[0], y[rows][keep], flat[1])
        found.append(shared.placements(scores, truth[clear]))
    return shared.areas_to_first_order(np.stack(found), truth[clear], weights[:, clear])


def hunted(z: np.ndarray, y: np.ndarray, config: dict) -> list[HeadSet]:
    """Five heads by the shrunk LDA score on every draw."""
    sets = []
    for d in range(config["draws"]):
        rows = slice(d * config["size"], (d + 1) * config["size"])
        keep = ~np.isnan(y[rows])
        maps = shared.head_maps(z[rows][keep][None], y[rows][keep].astype(int), ["lda"], config["seed"])
        sets.append(top_heads(maps.isel(metric=0, prompt=0, drop=True), config["k"]))
    return sets


def five(z, y, test, truth, weights, config: dict, sets: list[list[HeadSet]]) -> np.ndarray:
    """Area of a logistic probe on heads, the mean over the sets of a draw, [1 + resample, draw]."""
    found, clear = [], ~np.isnan(truth)
    for d, listed in enumerate(sets):
        rows = slice(d * config["size"], (d + 1) * config["size"])
        keep = ~np.isnan(y[rows])
        placed = []
        for heads in listed:
            probe = HeadProbe().fit(shared.of_heads(z[rows][keep], heads), y[rows][keep].astype(int))
            scores = probe.decision_function(shared.of_heads(test[clear], heads))
            placed.append(shared.placements(scores, truth[clear]))
        found.append(np.mean(placed, axis=0))
    return shared.areas_to_first_order(np.stack(found), truth[clear], weights[:, clear])


def costs(study: Study, name: str, known: list[dict], listed: list[Example]) -> tuple[np.ndarray, dict[str, float]]:
    """What the mean of each head costs in P(right answer), [question, half, head], and balanced accuracies."""
    model, config = study.open(name), study.config
    found, right = [], {}
    asked_of = {kind: one for kind, one in config["questions"].items() if "answers" in one}
    for kind, question in shared.progress(asked_of.items(), f"{name}: costs"):
        y = np.array([label_of(one.get(kind), question) for one in known])
        chosen = np.flatnonzero(~np.isnan(y))
        y, clips = y[chosen].astype(int), [listed[i] for i in chosen]
        asked = Asked(model, clips, question["text"], question["answers"][::-1])
        reference = HeadTracer(model).capture(clips, question["text"], batch_size=32, progress=False)
        base = expit(np.where(y == 1, 1, -1) * asked.last())
        half = np.arange(len(y)) * 2 // len(y)
        share = np.where(y == 1, 0.5 / max((y == 1).sum(), 1), 0.5 / max((y == 0).sum(), 1)) * 2
        one = np.empty((2, len(model.heads)))
        for i, head in enumerate(model.heads):
            edit = edits.mean(model, [head], reference, positions.last())
            lost = (base - expit(np.where(y == 1, 1, -1) * asked.last(edit))) * share
            one[:, i] = [lost[half == part].sum() for part in (0, 1)]
        found.append(one)
        right[kind] = float(np.mean([(base[y == label] > 0.5).mean() for label in (0, 1)]))
    return np.stack(found), right


def one_model(study: Study, name: str) -> dict:
    """Everything of one model."""
    config = study.config
    questions, n = config["questions"], config["draws"] * config["size"]
    prompts = {kind: one["text"] for kind, one in questions.items()} | {NEUTRAL: config["neutral"]}
    z, test = read(study, name, "calibration", n, prompts), read(study, name, "test", config["test"], prompts)
    _, known, scene = footage(config["test"], config["seed"], "test")
    truth = labels(known, questions)
    y = labels(footage(n, config["seed"], "calibration")[1], questions)
    weights = scene_draws(scene, config["resamples"], config["seed"])
    shape, draws, kinds = z.shape[2:4], config["draws"], list(questions)
    rng = np.random.default_rng([config["seed"], 4])
    again = np.concatenate(
        [np.ones((1, draws)), rng.multinomial(draws, np.full(draws, 1 / draws), size=config["resamples"])]
    )
    parts = np.arange(draws) % 2 == 0, np.arange(len(scene)) % 2 == 0  # halves of the draws and of the test clips
    told: dict[str, list[np.ndarray]] = {}
    for i, _kind in enumerate(shared.progress(kinds, f"{name}: heads")):
        for under, p in (("asked", i), (NEUTRAL, len(kinds))):
            halves = []
            for half in (0, 1):
                some = weights * (parts[1] == (half == 0))
                some = np.where((some.sum(1) > 0)[:, None], some, parts[1] == (half == 0))
                told_by = tell(z[p], y[i], test[p], np.where(parts[1] == (half == 0), truth[i], np.nan), some, config)
                share = again * (parts[0] == (half == 0))
                halves.append(np.einsum("rdh,rd->rh", told_by, share / np.maximum(share.sum(1, keepdims=True), 1)))
            told.setdefault(under, []).append(np.stack(halves))
    maps = {under: np.stack(listed).transpose(2, 1, 0, 3) for under, listed in told.items()}  # resample, half, question
    claims, facts = {}, {}
    for under, values in maps.items():
        own, other = specific(values[:, 0], values[:, 1])
        claims["order" if under == "asked" else "order_neutral"] = own - other
        facts[f"spearman, {under}"] = {"same question": shared.estimate(own), "another": shared.estimate(other)}
        facts[f"auc, {under}"] = values[0].mean(0).reshape(len(kinds), *shape)
        facts[f"p, {under}"] = permuted(values[0], shape, config)
        both = norm.ppf(values.mean(1).clip(0.001, 0.999))
        left = interaction(both)
        t = left[0] / left[1:].std(0)
        limit = np.quantile(np.abs((left[1:] - left[0]) / left[1:].std(0)).max((1, 2)), 1 - config["alpha"])
        better = t > limit
        facts[f"specialised, {under}"] = {
            "limit": float(limit),
            "cells": int(better.sum()),
            "cells_worse": int((t < -limit).sum()),
            "heads_with_a_specialty": int(better.any(0).sum()),
            "heads_by_question": {
                kind: [f"L{h // shape[1]}H{h % shape[1]}" for h in np.flatnonzero(better[q])]
                for q, kind in enumerate(kinds)
            },
        }
    area: dict[str, list[np.ndarray]] = {}
    matrix = np.zeros((len(kinds), len(kinds)))
    sets = [hunted(z[i], y[i], config) for i in range(len(kinds))]
    at = len(kinds)
    for q in shared.progress(range(len(kinds)), f"{name}: five heads"):
        own = (z[q], y[q], test[q], truth[q], weights, config)
        each = [five(*own, [[one] for one in sets[r]]) for r in range(len(kinds))]
        matrix[:, q] = [one[0].mean() for one in each]
        area.setdefault("own", []).append(each[q])
        area.setdefault("another question's", []).append(np.mean([e for r, e in enumerate(each) if r != q], axis=0))
        random = [
            [
                shared.random_heads(shape, config["k"], np.random.default_rng([config["seed"], 9, q, d, i]))
                for i in (0, 1)
            ]
            for d in range(draws)
        ]
        area.setdefault("random", []).append(five(*own, random))
        elsewhere = []
        for step in range(1, config["other_questions"] + 1):
            p = (q + step) % len(kinds)
            chosen = [[one] for one in hunted(z[p], y[q], config)]
            elsewhere.append(five(z[p], y[q], test[p], truth[q], weights, config, chosen))
        area.setdefault("another asked", []).append(np.mean(elsewhere, axis=0))
        chosen = [[one] for one in hunted(z[at], y[q], config)]
        area.setdefault("neutral prompt", []).append(five(z[at], y[q], test[at], truth[q], weights, config, chosen))
    drawn = {key: shared.resampled(np.mean(each, axis=0), config["seed"]) for key, each in area.items()}
    claims |= {
        "own_heads": drawn["own"] - drawn["another question's"],
        "own_random": drawn["own"] - drawn["random"],
        "asked": drawn["own"] - drawn["another asked"],
        "asked_neutral": drawn["own"] - drawn["neutral prompt"],
    }
    facts["jaccard"] = overlaps(sets, config["k"])
    facts["five_heads"] = {key: shared.estimate(value) for key, value in drawn.items()}
    facts["five_heads_by_question"] = {
        key: {kind: float(one[0].mean()) for kind, one in zip(kinds, each, strict=True)} for key, each in area.items()
    }
    facts["auc_hunted_for_used_for"] = matrix
    facts["clear_answers"] = {
        kind: [int(np.nansum(truth[q])), int((truth[q] == 0).sum())] for q, kind in enumerate(kinds)
    }
    if name != shared.UNTRAINED:
        lost, right = costs(study, name, known, footage(config["test"], config["seed"], "test")[0])
        claims["cost"] = cost_claim(lost, config)
        own, other = specific(lost[:, 0], lost[:, 1])
        facts["cost"] = {
            "questions": list(right),
            "balanced_accuracy": right,
            "of_each_head": lost.mean(1).reshape(-1, *shape),
            "spearman": {"same question": float(own), "another": float(other)},
        }
    return {"claims": claims, **facts}


def permuted(maps: np.ndarray, shape: tuple[int, int], config: dict) -> float:
    """P-value of same less other question's Spearman [half, question, head]: heads permuted within layers."""
    rng = np.random.default_rng([config["seed"], 5])
    own, other = specific(*maps)
    residual = shared.standard_ranks(maps[1])
    count = 0
    for _ in range(config["permutations"]):
        mixed = rng.permuted(residual.reshape(-1, *shape), axis=2).reshape(residual.shape)
        a, b = specific(maps[0], mixed)
        count += (a - b) >= (own - other) - 1e-12
    return (1 + count) / (1 + config["permutations"])


def cost_claim(lost: np.ndarray, config: dict) -> np.ndarray:
    """Same less other question's Spearman of costs [question, half, head], in resamples of the questions."""
    rng = np.random.default_rng([config["seed"], 6])
    n, found = len(lost), []
    for r in range(config["resamples"] + 1):
        rows = np.arange(n) if r == 0 else np.unique(rng.integers(0, n, n))
        if len(rows) < 2:
            rows = np.arange(n)
        own, other = specific(lost[rows, 0], lost[rows, 1])
        found.append(own - other)
    return np.array(found)


def overlaps(sets: list[list[HeadSet]], k: int) -> dict[str, float]:
    """Mean Jaccard index of hunted fives of two draws, for the same question and for two."""
    same, other = [], []
    for q, one in enumerate(sets):
        for r, two in enumerate(sets):
            for d, a in enumerate(one):
                for e, b in enumerate(two):
                    if d != e:
                        shared_heads = len(set(a) & set(b))
                        (same if q == r else other).append(shared_heads / (2 * k - shared_heads))
    return {"same question": float(np.mean(same)), "another": float(np.mean(other))}


def draw(results: Mapping, path: Path) -> None:
    """What every head tells, what losing it costs, and heads of one question used for another."""
    own = results["models"][shared.SHIPPED]
    kinds = list(results["questions"])
    figure = floating_figure(15.0, 7.2)
    top, bottom = figure.subfigures(2, 1, height_ratios=[1, 1])
    first, second = top.subplots(1, 2)
    third, fourth = bottom.subplots(1, 2, width_ratios=[2, 1])
    n_heads = len(own["auc, asked"][0][0])
    panels = (
        (first, own["auc, asked"], kinds, "AUC of each head, question asked", "viridis"),
        (second, results["models"][shared.UNTRAINED]["auc, asked"], kinds, "The same, never trained", "viridis"),
        (third, own["cost"]["of_each_head"], own["cost"]["questions"], "Fall of P(right) without the head", "magma_r"),
    )
    for ax, values, names, title, cmap in panels:
        table = np.array(values).reshape(len(names), -1)
        # The square root, because one head may cost far more than all others.
        norm_of = Normalize(0.5, 1.0) if cmap == "viridis" else PowerNorm(0.5, 0, table.max(), clip=True)
        image = ax.imshow(table, aspect="auto", cmap=cmap, norm=norm_of)
        ax.set_yticks(range(len(names)), labels=list(names), fontsize=8)
        layers = table.shape[1] // n_heads
        ax.set_xticks([i * n_heads + (n_heads - 1) / 2 for i in range(layers)], labels=[f"L{i}" for i in range(layers)])
        for edge in range(1, layers):
            ax.axvline(edge * n_heads - 0.5, color="white", lw=1)
        ax.set_title(title, fontsize="medium")
        ax.figure.colorbar(image, ax=ax)
    image = fourth.imshow(np.array(own["auc_hunted_for_used_for"]), cmap="viridis")
    fourth.set_xticks(range(len(kinds)), labels=kinds, rotation=90, fontsize=8)
    fourth.set_yticks(range(len(kinds)), labels=kinds, fontsize=8)
    fourth.set_xlabel("used for")
    fourth.set_ylabel("hunted for")
    fourth.set_title(f"AUC of {results['k']} heads", fontsize="medium")
    fourth.figure.colorbar(image, ax=fourth)
    figure.savefig(path, dpi=110)


def lines(results: Mapping) -> list[str]:
    """The README's numbers."""
    models = results["models"]
    own, blank = models[shared.SHIPPED], models[shared.UNTRAINED]

    def pair(one: Mapping) -> str:
        values = [v["mean"] if isinstance(v, Mapping) else v for v in (one["same question"], one["another"])]
        return f"{values[0]:.2f} and {values[1]:.2f}"

    trained = [name for name in models if name != shared.UNTRAINED]
    cells = ", ".join(str(models[name]["specialised, asked"]["cells"]) for name in trained)
    plain = ", ".join(str(models[name]["specialised, neutral"]["cells"]) for name in trained)
    special = own["specialised, asked"]
    named = ", ".join(f"{kind} {len(heads)}" for kind, heads in special["heads_by_question"].items())
    five_heads = own["five_heads"]
    total = len(results["questions"]) * 48
    chance = results["by_chance_jaccard"]
    accuracy = ", ".join(f"{kind} {value:.2f}" for kind, value in own["cost"]["balanced_accuracy"].items())
    return [
        f"{len(results['questions'])} kinds of question; {results['draws']} disjoint draws of {results['size']} "
        f"calibration clips, {results['test']} test clips of other scenes. {shared.HOW} Intervals of costs are over "
        "questions.",
        "",
        *shared.claim_rows(results),
        "",
        f"- Spearman of two maps of 48 heads from halves of the data, same question and another one: asked "
        f"{pair(own['spearman, asked'])}, one prompt for all {pair(own['spearman, neutral'])}; never trained "
        f"{pair(blank['spearman, asked'])}, {pair(blank['spearman, neutral'])}. P-values with heads permuted within "
        f"layers: {own['p, asked']:.4f}, {own['p, neutral']:.4f}; never trained {blank['p, asked']:.4f}, "
        f"{blank['p, neutral']:.4f}.",
        f"- Of {total} pairs of question and head, {cells} (by training) lie above what the question and the head give "
        f"alone, by simultaneous intervals at 5 %; under one prompt for all {plain}; never trained "
        f"{blank['specialised, asked']['cells']} and {blank['specialised, neutral']['cells']}. Shipped, "
        f"by question: {named}.",
        f"- Hunted fives of two draws share (Jaccard, chance {chance:.2f}): same question and another "
        f"{pair(own['jaccard'])}; never trained {pair(blank['jaccard'])}.",
        "- AUC of five heads, mean over questions: "
        + ", ".join(f"{key} {value['mean']:.3f}" for key, value in five_heads.items())
        + "; never trained: "
        + ", ".join(f"{key} {value['mean']:.3f}" for key, value in blank["five_heads"].items())
        + ".",
        f"- Cost of losing a head: Spearman between halves of the clips, same question and another one "
        f"{pair(own['cost']['spearman'])}. Balanced accuracy of the answers: {accuracy}.",
    ]


def compute(study: Study) -> dict:
    """Everything, for results.json."""
    config = study.config
    models = {name: one_model(study, name) for name in (*study.names, shared.UNTRAINED)}
    blank = models[shared.UNTRAINED]["claims"]
    for name in study.names:
        models[name]["claims"]["order_trained"] = models[name]["claims"]["order"] - blank["order"]
    found = {
        claim: {name: one["claims"][claim] for name, one in models.items() if claim in one["claims"]}
        for claim in config["claims"]
    }
    return {
        "claims": shared.decide(config["claims"], found),
        "questions": {kind: one["text"] for kind, one in config["questions"].items()},
        **{key: config[key] for key in ("k", "draws", "size", "test")},
        "by_chance_jaccard": shared.chance_jaccard(48, config["k"]),
        "models": {name: {k: v for k, v in one.items() if k != "claims"} for name, one in models.items()},
    }


def main() -> None:
    """Run everything and write it down."""
    study = shared.begin(HERE, __doc__)
    if not study.redraw:
        shared.write(study, compute(study))
    shared.show(study, lines, draw, "questions.png")


if __name__ == "__main__":
    main()
