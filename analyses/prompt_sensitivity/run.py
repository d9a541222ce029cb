"""How much does the prompt decide which heads look good? One command, everything drawn from config.toml's seed.

    python analyses/prompt_sensitivity/run.py [--runs runs/prompt_sensitivity] [--models runs/tiny]

Head outputs are kept in the folder of --runs. Writes results.json, agreement.png and the README's numbers.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import study as shared
from study import Study

from headprobe import top_heads
from headprobe.errors import HeadprobeWarning
from headprobe.metrics.normalisation import combine
from headprobe.metrics.stability import rss
from headprobe.plotting._canvas import floating_figure
from headprobe.probing.probe import HeadProbe

HERE = Path(__file__).resolve().parent
ANOMALY = ("coarse", "detailed")


def prompts_of(config: dict) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Prompt name to text, and kind to names; the words of some prompts in random order are a kind of their own."""
    kinds = {kind: list(named) for kind, named in config["prompts"].items()}
    texts = {name: text for named in config["prompts"].values() for name, text in named.items()}
    rng = np.random.default_rng([config["seed"], 1])
    for name in config["permuted"]:
        texts[f"{name}, permuted"] = " ".join(rng.permutation(texts[name].split()).tolist())
    kinds["permuted"] = [f"{name}, permuted" for name in config["permuted"]]
    return texts, kinds


@dataclass(frozen=True, eq=False)
class Maps:
    """Maps of every draw and prompt, [draw, prompt, head], with the heads chosen from them."""

    scores: np.ndarray
    robust: np.ndarray  # [draw, head]: RSS over the coarse prompts
    shape: tuple[int, int]

    @property
    def layers(self) -> np.ndarray:
        """Layer of every head."""
        return np.repeat(np.arange(self.shape[0]), self.shape[1])


def hunt(z: np.ndarray, y: np.ndarray, coarse: Sequence[int], config: dict) -> Maps:
    """Maps on every draw of [prompt, clip, layer, head, d_head]; draws are neighbouring clips."""
    size, scores, robust = config["size"], [], []
    for start in shared.progress(range(0, config["draws"] * size, size), "hunt"):
        rows = slice(start, start + size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HeadprobeWarning)  # that one head sets a scale; some will, in 1500 maps
            found = combine(shared.head_maps(z[:, rows], y[rows], config["metrics"], config["seed"]))
            robust.append(rss(found.isel(prompt=list(coarse)), config["lambda"]).values.ravel())
        scores.append(found.values.reshape(len(z), -1))
    return Maps(np.stack(scores), np.stack(robust), z.shape[2:4])


def agreement(maps: Maps, kinds: Mapping[str, Sequence[int]], weights: np.ndarray, k: int) -> dict[str, np.ndarray]:
    """Agreements in every resample of the draws, by a name of the comparison."""
    ranks, tops = shared.standard_ranks(maps.scores), shared.top_sets(maps.scores, k)
    n = ranks.shape[-1]
    both = {"spearman": np.einsum("dph,eqh->pqde", ranks, ranks) / n}
    common = np.einsum("dph,eqh->pqde", tops, tops)
    both["jaccard"] = common / (2 * k - common)
    floor = shared.within_layers(ranks[:, None, :, None], ranks[None, :, None, :], maps.layers).transpose(2, 3, 0, 1)
    both["spearman of layers"] = floor
    pairs = {kind: [(p, q) for p in own for q in own if p != q] for kind, own in kinds.items()}
    anomaly = [p for kind in ANOMALY for p in kinds[kind]]
    pairs["coarse and off-topic"] = [(p, q) for p in kinds["coarse"] for q in kinds["off-topic"]]
    pairs["coarse and detailed"] = [(p, q) for p in kinds["coarse"] for q in kinds["detailed"]]
    pairs["all"] = [(p, q) for p in range(len(ranks[0])) for q in range(len(ranks[0])) if p != q]
    pairs["anomaly"] = [(p, q) for p in anomaly for q in anomaly if p != q]
    found = {}
    for measure, values in both.items():
        for name, listed in pairs.items():
            if listed:
                mean = np.mean([values[p, q] for p, q in listed], axis=0)
                found[f"{measure}, {name}, other clips"] = shared.apart(mean, weights)
                found[f"{measure}, {name}, same clips"] = shared.together(mean, weights)
        for name, own in [("all", range(len(ranks[0]))), ("anomaly", anomaly), *kinds.items()]:
            found[f"{measure}, {name}, same prompt, other clips"] = shared.apart(
                np.mean([values[p, p] for p in own], axis=0), weights
            )
    return found


def order_of_words(maps: Maps, texts: Sequence[str], kinds: Mapping[str, Sequence[int]], weights: np.ndarray):
    """Agreement of prompts with the others of their kind, and with their own words in random order, on other clips."""
    ranks = shared.standard_ranks(maps.scores)
    values = np.einsum("dph,eqh->pqde", ranks, ranks) / ranks.shape[-1]
    other, own = [], []
    for q in kinds["permuted"]:
        p = list(texts).index(texts[q].removesuffix(", permuted"))
        kind = next(members for members in kinds.values() if p in members)
        other += [values[p, r] for r in kind if r != p]
        own.append(values[p, q])
    return shared.apart(np.mean(other, axis=0), weights), shared.apart(np.mean(own, axis=0), weights)


def by_chance(maps: Maps, kinds: Mapping[str, Sequence[int]], k: int, n: int, seed: int) -> dict:
    """Do two kinds of prompts share heads beyond layers? Permutations of heads, between two halves of the draws."""
    half = len(maps.scores) // 2
    ranks, tops = shared.standard_ranks(maps.scores), shared.top_sets(maps.scores, k)
    rng, width = np.random.default_rng([seed, 2]), maps.shape[1]
    n_heads = ranks.shape[-1]
    anywhere = np.stack([rng.permutation(n_heads) for _ in range(n)])
    inside = np.stack(
        [np.concatenate([layer * width + rng.permutation(width) for layer in range(maps.shape[0])]) for _ in range(n)]
    )
    rows = []
    names = list(kinds)
    for i, first in enumerate(names):
        for second in names[i:]:
            pairs = [(p, q) for p in kinds[first] for q in kinds[second] if p != q]
            if not pairs:
                continue
            row: dict = {"kinds": [first, second]}
            for measure, values in (("spearman", ranks), ("shared of the best", tops)):
                a, b = values[:half].mean(0), values[half:].mean(0)
                left, right = np.stack([a[p] for p, _ in pairs]), np.stack([b[q] for _, q in pairs])
                scale = n_heads if measure == "spearman" else 1
                observed = (left * right).sum(1).mean() / scale
                row[measure] = observed
                for null, drawn in (("all heads", anywhere), ("within layers", inside)):
                    by_null = np.array([(left * right[:, one]).sum(1).mean() for one in drawn]) / scale
                    row[f"{measure}, p, {null}"] = (1 + (by_null >= observed - 1e-12).sum()) / (1 + n)
            rows.append(row)
    for column in [key for key in rows[0] if ", p, " in key]:
        q = shared.q_values(shared.score_map([[row[column] for row in rows]])).values[0]
        for row, value in zip(rows, q, strict=True):
            row[column.replace(", p, ", ", q, ")] = value
    return {"rows": rows, "halves_of": half, "permutations": n}


def use(maps: Maps, z: np.ndarray, y: np.ndarray, test: np.ndarray, truth: np.ndarray, kinds, config) -> tuple:
    """Areas [hunted under, used under] and tables of won pairs by condition, [draw, abnormal, normal]."""
    k, size, n = config["k"], config["size"], len(z)
    coarse = set(kinds["coarse"])
    total = np.zeros((n, n))
    tables: dict[str, list[np.ndarray]] = {}
    for d in shared.progress(range(len(maps.scores)), "use"):
        rows = slice(d * size, (d + 1) * size)
        rng = np.random.default_rng([config["seed"], 3, d])
        sets = [top_heads(shared.score_map(one.reshape(maps.shape)), k) for one in maps.scores[d]]
        robust = top_heads(shared.score_map(maps.robust[d].reshape(maps.shape)), k)
        drawn = [shared.random_heads(maps.shape, k, rng) for _ in range(config["random_sets"])]
        here: dict[str, list[np.ndarray]] = {}

        def won(heads, q: int, rows=rows) -> np.ndarray:
            probe = HeadProbe().fit(shared.of_heads(z[q][rows], heads), y[rows])
            return shared.pair_wins(probe.decision_function(shared.of_heads(test[q], heads)), truth)

        for q in range(n):
            made: dict = {}
            for p in range(n):
                key = sets[p].labels
                if key not in made:
                    made[key] = won(sets[p], q)
                total[p, q] += made[key].mean()
                if p == q:
                    kind = next(name for name, members in kinds.items() if q in members)
                    here.setdefault(f"{kind}, own", []).append(made[key])
                elif q in coarse and p in coarse:
                    here.setdefault("coarse, other coarse", []).append(made[key])
                elif q in coarse and p in kinds["off-topic"]:
                    here.setdefault("coarse, off-topic", []).append(made[key])
            if q in coarse:
                here.setdefault("coarse, random", []).extend(won(one, q) for one in drawn)
                here.setdefault("coarse, consensus", []).append(won(robust, q))
        for name, listed in here.items():
            tables.setdefault(name, []).append(np.mean(listed, axis=0))
    return total / len(maps.scores), {name: np.stack(listed) for name, listed in tables.items()}


def one_model(study: Study, name: str, texts: dict[str, str], kinds: Mapping[str, Sequence[int]]) -> dict:
    """Everything of one model."""
    config = study.config
    n = config["draws"] * config["size"]
    calibration, test = (
        shared.read(study, name, split, count, texts) for split, count in (("calibration", n), ("test", config["test"]))
    )
    made, asked = (
        shared.clips(count, config["seed"], s) for s, count in (("calibration", n), ("test", config["test"]))
    )
    study.say(f"{name}: hunt")
    maps = hunt(calibration["z"], made.y, kinds["coarse"], config)
    rng = np.random.default_rng([config["seed"], 4])
    draws = config["draws"]
    weights = np.concatenate(
        [np.ones((1, draws)), rng.multinomial(draws, np.full(draws, 1 / draws), size=config["resamples"])]
    )
    agreed = agreement(maps, kinds, weights, config["k"])
    matrix, tables = use(maps, calibration["z"], made.y, test["z"], asked.y, kinds, config)
    scenes = shared.scene_weights(asked.scene, asked.y, config["resamples"], config["seed"])
    area = {
        key: shared.resampled(np.stack([shared.areas(w, asked.y, scenes) for w in listed], 1), config["seed"])
        for key, listed in tables.items()
    }
    others, words = order_of_words(maps, list(texts), kinds, weights)
    coarse = "spearman, coarse"
    claims = {
        "beyond_chance": agreed[f"{coarse}, other clips"] - agreed["spearman of layers, coarse, other clips"],
        "prompt_less_than_clips": agreed[f"{coarse}, same clips"] - agreed[f"{coarse}, same prompt, other clips"],
        "kind_matters": agreed[f"{coarse}, other clips"] - agreed["spearman, coarse and off-topic, other clips"],
        "order_matters": others - words,
        "hunt_elsewhere": area["coarse, other coarse"] - area["coarse, own"],
        "hunt_off_topic": area["coarse, own"] - area["coarse, off-topic"],
        "hunted_random": area["coarse, own"] - area["coarse, random"],
        "consensus": area["coarse, consensus"] - area["coarse, own"],
        "detailed": area["detailed, own"] - area["coarse, own"],
        "off_topic_use": area["coarse, own"] - area["off-topic, own"],
    }
    ranks, tops = shared.standard_ranks(maps.scores), shared.top_sets(maps.scores, config["k"])
    other = 1 - np.eye(draws)
    pairs = np.einsum("dph,eqh->pqde", ranks, ranks) / ranks.shape[-1]
    common = np.einsum("dph,eqh->pqde", tops, tops)
    shares = {}
    for kind in ("anomaly", "all"):
        head = agreed[f"spearman, {kind}, other clips"][0]
        prompt = agreed[f"spearman, {kind}, same prompt, other clips"][0] - head
        clip = agreed[f"spearman, {kind}, same clips"][0] - head
        shares[kind] = {
            "head": head,
            "head and prompt": prompt,
            "head and clips": clip,
            "rest": 1 - head - prompt - clip,
        }
    return {
        "claims": claims,
        "agreement": {key: shared.estimate(value) for key, value in agreed.items()},
        "variance_of_ranks": shares,
        "auc": {key: shared.estimate(value) for key, value in area.items()},
        "auc_hunted_used": matrix,
        "spearman_other_clips": (pairs * other).sum((2, 3)) / other.sum(),
        "jaccard_other_clips": (common / (2 * config["k"] - common) * other).sum((2, 3)) / other.sum(),
        "by_chance": by_chance(maps, kinds, config["k"], config["permutations"], config["seed"]),
    }


def draw(results: Mapping, path: Path) -> None:
    """Three matrices of prompts by prompts for the shipped training."""
    own = results["models"][shared.SHIPPED]
    names, kinds = list(results["prompts"]), results["kinds"]
    figure = floating_figure(15.5, 6.4)
    axes = figure.subplots(1, 3)
    panels = (
        ("spearman_other_clips", "Agreement of the maps (Spearman)", "prompt", "prompt", "viridis"),
        ("jaccard_other_clips", f"Overlap of the best {results['k']} (Jaccard)", "prompt", "prompt", "viridis"),
        ("auc_hunted_used", "AUC on other scenes", "used under", "hunted under", "magma"),
    )
    edges = np.cumsum([len(members) for members in kinds.values()])[:-1] - 0.5
    for ax, (key, title, across, down, cmap) in zip(axes, panels, strict=True):
        values = np.array(own[key])
        image = ax.imshow(values, cmap=cmap)
        ax.set_title(title + (", other clips" if "other" in key else ""), fontsize="medium")
        ax.set_xticks(range(len(names)), labels=names, rotation=90, fontsize=7)
        ax.set_yticks(range(len(names)), labels=names if ax is axes[0] else [], fontsize=7)
        ax.set_xlabel(across)
        ax.set_ylabel(down)
        for edge in edges:
            ax.axhline(edge, color="white", lw=1.2)
            ax.axvline(edge, color="white", lw=1.2)
        figure.colorbar(image, ax=ax, shrink=0.7)
    figure.savefig(path, dpi=110)


def lines(results: Mapping) -> list[str]:
    """The README's numbers."""
    own, blank = results["models"][shared.SHIPPED], results["models"][shared.UNTRAINED]

    def values(*names: str, model: Mapping = own) -> str:
        return ", ".join(f"{model['agreement'][name]['mean']:.2f}" for name in names)

    def three(kind: str, model: Mapping = own) -> str:
        measure = f"spearman, {kind}"
        return values(
            f"{measure}, same prompt, other clips", f"{measure}, same clips", f"{measure}, other clips", model=model
        )

    share, tested, auc = own["variance_of_ranks"]["all"], own["by_chance"]["rows"], own["auc"]
    beyond = sum(row["spearman, q, within layers"] <= 0.05 for row in tested)
    best = sum(row["shared of the best, q, within layers"] <= 0.05 for row in tested)
    alike = ", ".join(f"{name.removesuffix(', own')} {one['mean']:.3f}" for name, one in auc.items() if "own" in name)
    coarse = {name.removeprefix("coarse, "): one["mean"] for name, one in auc.items() if name.startswith("coarse, ")}
    both = ("jaccard, coarse, same clips", "jaccard, coarse, other clips")
    out = [
        f"{len(results['prompts'])} prompts of {len(results['kinds'])} kinds; {results['draws']} disjoint draws of "
        f"{results['size']} calibration clips, {results['test']} test clips of other scenes (which only AUCs depend "
        f"on). {shared.HOW}",
        "",
        *shared.claim_rows(results),
        "",
        f"- Spearman of two maps (same prompt on other clips, another prompt on the same clips, both changed), shipped "
        f"training: all prompts {three('all')}, coarse ones {three('coarse')} (what layers alone give: "
        f"{values('spearman of layers, coarse, other clips')}); never trained, coarse {three('coarse', blank)}.",
        f"- So of the variance of ranks over all prompts {share['head']:.0%} is the head, "
        f"{share['head and prompt']:.0%} its dependence on the prompt, {share['head and clips']:.0%} that on the clips"
        f", {share['rest']:.0%} the rest.",
        f"- Jaccard of the best five (chance {results['by_chance_jaccard']:.3f}), coarse prompts on the same and on "
        f"other clips: {values(*both)}; coarse and off-topic on other clips "
        f"{values('jaccard, coarse and off-topic, other clips')}; never trained, coarse {values(*both, model=blank)}.",
        f"- Of {len(tested)} pairs of kinds, {beyond} agree beyond what the layers give (Spearman, q <= 0.05, heads "
        f"permuted within layers) and {best} share best heads beyond it.",
        f"- AUC, hunted and used under the same prompt: {alike}. Used under coarse prompts: hunted under other coarse "
        f"ones {coarse['other coarse']:.3f}, off-topic ones {coarse['off-topic']:.3f}, by RSS "
        f"{coarse['consensus']:.3f}, random heads {coarse['random']:.3f}.",
    ]
    return out


def compute(study: Study) -> dict:
    """Everything, for results.json."""
    config = study.config
    texts, kinds = prompts_of(config)
    numbers = {kind: [list(texts).index(name) for name in named] for kind, named in kinds.items()}
    models = {name: one_model(study, name, texts, numbers) for name in (*study.names, shared.UNTRAINED)}
    found = {claim: {name: one["claims"][claim] for name, one in models.items()} for claim in config["claims"]}
    return {
        "claims": shared.decide(config["claims"], found),
        "prompts": texts,
        "kinds": kinds,
        **{key: config[key] for key in ("k", "draws", "size", "test")},
        "by_chance_jaccard": shared.chance_jaccard(48, config["k"]),
        "models": {name: {k: v for k, v in one.items() if k != "claims"} for name, one in models.items()},
    }


def main() -> None:
    """Run everything and write it down."""
    study = shared.begin(HERE, __doc__)
    if not study.redraw:
        shared.write(study, compute(study))
    shared.show(study, lines, draw, "agreement.png")


if __name__ == "__main__":
    main()
