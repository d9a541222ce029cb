"""Do hunted heads matter to the model's own answers? One command, everything drawn from config.toml's seed.

    python analyses/causal_heads/run.py [--runs runs/causal_heads] [--models runs/tiny]

Head outputs are kept in the folder of --runs. Writes results.json, causal.png and the README's numbers.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import study as shared
from asking import Asked, every_token, write
from matplotlib.lines import Line2D
from scipy.special import expit
from scipy.stats import rankdata
from study import Study

from headprobe import Example, HeadSet, HeadTracer, edits, positions, top_heads
from headprobe.errors import HeadprobeWarning
from headprobe.metrics.normalisation import combine
from headprobe.metrics.stability import rss
from headprobe.plotting._canvas import SERIES, floating_figure, legend_below, plain_frame
from headprobe.video.scenes import labelled_clips

HERE = Path(__file__).resolve().parent
SETS = ("hunted", "hunted under the question", "needed", "random", "random, same layers", "worst")
LAST = ("mean", "zero", "resample", "patch")
EVERYWHERE = ("mean everywhere", "patch everywhere")


def clips_of(event: str, n: int, seed: int, split: str) -> list[Example]:
    """Clips of which every second one shows an event of one kind, the others nothing."""
    return labelled_clips(n, seed=seed + sum(map(ord, event)), split=split, events=[event])


def right(difference: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether each answer is right, and the probability of the right one, from logit(yes) - logit(no)."""
    towards = np.where(y == 1, difference, -difference)
    return (towards > 0).astype(float), expit(towards)


def balanced(values: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean of the means of both classes in every resample of the clips, [..., clip] to [resample, ...]."""
    means = []
    for label in (0, 1):
        w = weights[:, y == label]
        means.append(np.tensordot(w / w.sum(1, keepdims=True), values[..., y == label], (1, -1)))
    return np.mean(means, axis=0)


def restored(patched: np.ndarray, y: np.ndarray, clean: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Share of the way from the answer without the event to that with it, [resample, ...].

    `patched` [..., clip without the event], `clean` [clip]; a pair is drawn as often as its clip without the event.
    """
    w = weights[:, y == 0]
    w = w / w.sum(1, keepdims=True)
    base, goal = w @ clean[y == 0], w @ clean[y == 1]
    moved = np.tensordot(w, patched, (1, -1))
    extra = (slice(None), *[None] * (moved.ndim - 1))
    return (moved - base[extra]) / (goal - base)[extra]


class Question:
    """One question to one model: references from calibration clips, answers of test clips under interventions."""

    def __init__(self, study: Study, name: str, event: str) -> None:
        config = study.config
        n = config["draws"] * config["size"]
        self.model, self.config = study.open(name), config
        calibration = clips_of(event, n, config["seed"], "calibration")
        self.test = clips_of(event, config["test"], config["seed"], "test")
        self.y = np.array([one.label for one in self.test])
        scene = np.array([one.group for one in self.test])
        self.weights = shared.scene_weights(scene, self.y, config["resamples"], config["seed"])
        text = config["questions"][event]
        self.calibration_y = np.array([one.label for one in calibration])
        tracer = HeadTracer(self.model)
        self.reference = tracer.capture(calibration, text, batch_size=32, progress=False)
        self.source = tracer.capture(self.test, text, batch_size=32, progress=False)
        self.asked, self.practised = Asked(self.model, self.test, text), Asked(self.model, calibration, text)
        self.clean = self.asked.last()
        some = calibration[: config["everywhere_test"]]
        self.tokens = every_token(self.model, some, text)
        self.own_tokens = every_token(self.model, self.test[: config["everywhere_test"]], text)
        pairs = [(self.test[i].id, self.test[i + 1].id) for i in range(0, len(self.test), 2)]
        self.pairs = {str(without): str(event_clip) for without, event_clip in pairs}
        self.pairs |= {str(event_clip): str(event_clip) for _, event_clip in pairs}
        self._made: dict[tuple[str, frozenset], np.ndarray] = {}

    def needed(self) -> np.ndarray:
        """What the mean of each head costs in P(right) on every calibration clip, [clip, layer, head]."""
        base = right(self.practised.last(), self.calibration_y)[1]
        sites = self.model.sites
        cost = np.empty((len(base), len(sites), sites[0].n_heads))
        for head in self.model.heads:
            edit = edits.mean(self.model, [head], self.reference, positions.last())
            cost[:, head.layer, head.head] = base - right(self.practised.last(edit), self.calibration_y)[1]
        return cost

    def changed(self, kind: str, heads: HeadSet) -> np.ndarray:
        """Logit difference [clip] of the test clips under an intervention."""
        key = (kind, frozenset(heads))
        if key not in self._made:
            model, last, n = self.model, positions.last(), self.config["everywhere_test"]
            if kind == "mean":
                found = self.asked.last(edits.mean(model, heads, self.reference, last))
            elif kind == "zero":
                found = self.asked.last(edits.zero(model, heads, last))
            elif kind == "resample":
                found = self.asked.last(edits.resample(model, heads, self.reference, self.config["seed"], last))
            elif kind == "patch":
                found = self.asked.last(edits.patch(model, heads, self.source, last, pairs=self.pairs))
            elif kind == "mean everywhere":
                mean = self.tokens.mean(0, keepdim=True)
                found = self.asked.everywhere(write(model, heads, lambda _: mean, "token means"), n)
            else:
                row = {str(one.id): i for i, one in enumerate(self.test[:n])}
                edit = write(
                    model, heads, lambda ids: self.own_tokens[[row[self.pairs[i]] for i in ids]], "other clips"
                )
                found = self.asked.everywhere(edit, n)
            self._made[key] = found
        return self._made[key]


def hunt(study: Study, name: str) -> np.ndarray:
    """RSS over the probing prompts on every draw, [draw, layer, head]."""
    config = study.config
    n = config["draws"] * config["size"]
    z = shared.read(study, name, "calibration", n, config["prompts"])["z"]
    y = shared.clips(n, config["seed"], "calibration").y
    return np.stack([rss(maps_of(z, y, d, config), config["lambda"]).values for d in range(config["draws"])])


def maps_of(z: np.ndarray, y: np.ndarray, draw: int, config: dict):
    """The paper's map (prompt, layer, head) on one draw of [prompt, clip, layer, head, d_head]."""
    rows = slice(draw * config["size"], (draw + 1) * config["size"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HeadprobeWarning)  # that one head sets a scale
        return combine(shared.head_maps(z[:, rows], y[rows], config["metrics"], config["seed"]))


def orders(scores: Mapping[str, np.ndarray], draw: int, seed: int) -> dict[str, list]:
    """All heads in the order in which each way of choosing takes them, for one draw; random ones of layers apart."""
    shape = scores["hunted"].shape[1:]
    total = shape[0] * shape[1]
    found = {name: list(top_heads(shared.score_map(scores[name][draw]), total)) for name in SETS[:3]}
    rng = np.random.default_rng([seed, 5, draw])
    found["random"] = [list(shared.random_heads(shape, total, rng))[i] for i in rng.permutation(total)]
    found["worst"] = found["hunted"][::-1]
    return found


def chosen(order: Mapping[str, list], name: str, k: int, shape: tuple[int, int], seed: Sequence[int]) -> HeadSet:
    """The k heads of one way of choosing."""
    if name == "random, same layers":
        return shared.same_layer_heads(order["hunted"][:k], shape, np.random.default_rng([*seed, k]))
    return HeadSet(order[name][:k])


def one_model(study: Study, name: str) -> dict:
    """Everything of one model."""
    config = study.config
    k, draws, seed = config["k"], config["draws"], config["seed"]
    generic = hunt(study, name)
    shape = generic.shape[1:]
    values: dict[tuple[str, str, int], dict[str, list]] = {}
    facts: dict[str, dict] = {}
    few = slice(0, config["everywhere_test"])
    for event in shared.progress(config["questions"], name):
        one = Question(study, name, event)
        cost = one.needed()
        z = one.reference.z.numpy()
        own = np.stack([maps_of(z, one.calibration_y, d, config).values[0] for d in range(draws)])
        parts = cost.reshape(draws, config["size"], *shape)
        scores = {"hunted": generic, "hunted under the question": own, "needed": parts.mean(1)}
        listed = [orders(scores, d, seed) for d in range(draws)]
        jobs = [(kind, what, k, draws) for kind in LAST for what in SETS]
        jobs += [(kind, what, k, config["everywhere_draws"]) for kind in EVERYWHERE for what in SETS]
        jobs += [
            (kind, what, other, config["curve_draws"])
            for kind in ("mean", "patch")
            for what in SETS
            for other in config["ks"]
            if other != k
        ]
        jobs += [(kind, "all", shape[0] * shape[1], 1) for kind in ("mean", "patch")]
        base = right(one.clean, one.y)
        for kind, what, size, n in shared.progress(jobs, event):
            y, weights, clean = one.y, one.weights, one.clean
            if kind in EVERYWHERE:
                y, clean = y[few], clean[few]
                weights = one.weights[:, few]
                both = (weights[:, y == 0].sum(1) > 0) & (weights[:, y == 1].sum(1) > 0)
                weights = np.where(both[:, None], weights, 1.0)
            sets = [
                HeadSet(one.model.heads) if what == "all" else chosen(listed[d], what, size, shape, [seed, 6, d])
                for d in range(n)
            ]
            found = np.stack([one.changed(kind, heads) for heads in sets])
            kept = values.setdefault((kind, what, size), {})
            if kind.startswith("patch"):
                kept.setdefault("restored", []).append(restored(found[:, y == 0], y, clean, weights))
            else:
                for measure, now, before in zip(("accuracy", "p"), right(found, y), right(clean, y), strict=True):
                    kept.setdefault(measure, []).append(balanced(before - now, y, weights))
        alone = np.stack([right(one.changed("mean", HeadSet([head])), one.y)[1] for head in one.model.heads])
        lost = (base[1] - alone).mean(1)
        saliency, trained = own.mean(0).ravel(), parts.mean((0, 1)).ravel()
        facts[event] = {
            "balanced_accuracy": float(balanced(base[0], one.y, one.weights[:1])[0]),
            "p_right": float(balanced(base[1], one.y, one.weights[:1])[0]),
            "decodable_and_causal": correlation(saliency, lost, shape, seed),
            "causal_on_calibration_and_test": correlation(trained, lost, shape, seed),
            "fall_of_p": {what: float(values["mean", what, k]["p"][-1][0].mean()) for what in SETS},
            "cost_of_each_head": lost.reshape(shape),
            "saliency_of_each_head": saliency.reshape(shape),
            "largest_error_of_the_short_way": float(
                np.abs(one.clean[few] - one.asked.everywhere(None, config["everywhere_test"])).max()
            ),
        }
        study.say(f"{name}, {event}")
    effect = {
        key: {m: shared.resampled(np.mean(each, axis=0), seed) for m, each in kept.items()}
        for key, kept in values.items()
    }

    def gap(kind: str, first: str, second: str, measure: str = "p") -> np.ndarray:
        return effect[kind, first, k][measure] - effect[kind, second, k][measure]

    question = "hunted under the question"
    claims = {
        "hunted_random": gap("mean", "hunted", "random"),
        "hunted_same_layers": gap("mean", "hunted", "random, same layers"),
        "hunted_random_accuracy": gap("mean", "hunted", "random", "accuracy"),
        "hunted_random_zero": gap("zero", "hunted", "random"),
        "hunted_random_resample": gap("resample", "hunted", "random"),
        "question_random": gap("mean", question, "random"),
        "question_same_layers": gap("mean", question, "random, same layers"),
        "question_random_accuracy": gap("mean", question, "random", "accuracy"),
        "question_hunted": gap("mean", question, "hunted"),
        "needed_random": gap("mean", "needed", "random"),
        "needed_question": gap("mean", "needed", question),
        "restore_hunted": gap("patch", "hunted", "random", "restored"),
        "restore_question": gap("patch", question, "random", "restored"),
        "everywhere_hunted": gap("mean everywhere", "hunted", "random"),
        "everywhere_question": gap("mean everywhere", question, "random"),
    }
    tables: dict = {}
    for (kind, what, size), measured in effect.items():
        for measure, drawn in measured.items():
            tables.setdefault(kind, {}).setdefault(what, {}).setdefault(str(size), {})[measure] = shared.estimate(drawn)
    often = Counter(head for one in generic for head in top_heads(shared.score_map(one), k).labels)
    return {"claims": claims, "effects": tables, "questions": facts, "draws_that_hunt": dict(often.most_common())}


def correlation(one: np.ndarray, two: np.ndarray, shape: tuple[int, int], seed: int, n: int = 2000) -> dict:
    """Spearman's correlation over heads, and its p-value with heads permuted within layers."""
    rng = np.random.default_rng([seed, 8])
    a, b = (rankdata(values) - (len(values) + 1) / 2 for values in (one, two))
    drawn = [a @ np.concatenate([rng.permutation(part) for part in b.reshape(shape)]) for _ in range(n)]
    return {
        "spearman": float((shared.standard_ranks(one) * shared.standard_ranks(two)).mean()),
        "p_within_layers": float((1 + (np.array(drawn) >= a @ b - 1e-9).sum()) / (1 + n)),
    }


def draw(results: Mapping, path: Path) -> None:
    """What each way of choosing costs, over kinds of intervention, and over k."""
    own = results["models"][shared.SHIPPED]["effects"]
    k = str(results["k"])
    figure = floating_figure(14.0, 5.6)
    left, middle, right_side = figure.subplots(1, 3)
    kinds = ("mean", "zero", "resample", "mean everywhere")
    for number, what in enumerate(SETS):
        style = SERIES[number]
        for place, kind in enumerate(kinds):
            one, x = own[kind][what][k]["p"], place + 0.12 * (number - 2.5)
            left.plot([x, x], [one["low"], one["high"]], color=style.color, lw=1.6)
            left.plot([x], [one["mean"]], style.marker, color=style.color, ms=5)
        for ax, kind, measure in ((middle, "mean", "p"), (right_side, "patch", "restored")):
            points = {int(n): row[measure] for n, row in own[kind][what].items()}
            points |= {int(n): row[measure] for n, row in own[kind]["all"].items()}
            xs = sorted(points)
            ax.plot(
                xs, [points[x]["mean"] for x in xs], color=style.color, marker=style.marker, ls=style.linestyle, ms=4
            )
            ax.fill_between(
                xs, [points[x]["low"] for x in xs], [points[x]["high"] for x in xs], color=style.color, alpha=0.12, lw=0
            )
    left.set_xticks(range(len(kinds)), labels=["mean", "zero", "resample", "mean,\nevery token"])
    left.set_ylabel("fall of P(right answer)")
    left.set_title(f"Without {k} heads", fontsize="medium")
    for ax, title, label in (
        (middle, "Mean at the last token", "fall of P(right answer)"),
        (right_side, "Patched in from clips with the event", "share of the answer brought back"),
    ):
        ax.set_xscale("log")
        ax.set_xticks([1, 2, 5, 10, 20, 48], labels=["1", "2", "5", "10", "20", "48"])
        ax.minorticks_off()
        ax.set_xlabel("number of heads k")
        ax.set_ylabel(label)
        ax.set_title(title, fontsize="medium")
    for ax in (left, middle, right_side):
        ax.axhline(0, color="#999999", lw=0.8, zorder=0)
        plain_frame(ax)
    handles = [
        Line2D([], [], color=SERIES[i].color, marker=SERIES[i].marker, ls=SERIES[i].linestyle, label=what)
        for i, what in enumerate(SETS)
    ]
    legend_below(middle, handles, columns=3)
    figure.savefig(path, dpi=110)


def lines(results: Mapping) -> list[str]:
    """The README's numbers."""
    own, k = results["models"][shared.SHIPPED], str(results["k"])
    effects, asked = own["effects"], own["questions"]
    table = [
        f"| {k} heads, shipped training | P(right), mean | zero | resample | every token | accuracy, mean | brought "
        "back | every token |",
        "|---" * 8 + "|",
    ]
    for what in SETS:
        cells = [f"{-effects[kind][what][k]['p']['mean']:+.3f}" for kind in (*LAST[:3], EVERYWHERE[0])]
        cells.append(f"{-effects['mean'][what][k]['accuracy']['mean']:+.3f}")
        cells += [f"{effects[kind][what][k]['restored']['mean']:.2f}" for kind in ("patch", "patch everywhere")]
        table.append(f"| {what} | {' | '.join(cells)} |")
    accuracy = ", ".join(f"{event} {one['balanced_accuracy']:.2f}" for event, one in asked.items())
    curve = {what: effects["mean"][what] for what in SETS}
    sizes = results["ks"]
    over = "; ".join(
        f"{what} " + ", ".join(f"{-curve[what][str(n)]['p']['mean']:+.2f}" for n in sizes)
        for what in ("hunted", "hunted under the question", "needed", "random")
    )
    linked = "; ".join(
        f"{event} {one['spearman']:+.2f} (p {one['p_within_layers']:.3f})"
        for event, one in ((event, each["decodable_and_causal"]) for event, each in asked.items())
    )
    split = "; ".join(
        f"{event} "
        + " | ".join(
            ", ".join(f"{-one['questions'][event]['fall_of_p'][what]:+.3f}" for one in results["models"].values())
            for what in ("hunted", "hunted under the question", "random")
        )
        for event in asked
    )
    alone = []
    for event, one in asked.items():
        cost = {f"L{i}H{j}": value for i, row in enumerate(one["cost_of_each_head"]) for j, value in enumerate(row)}
        most = max(cost, key=lambda head: cost[head])
        alone.append(f"{event} {most} {cost[most]:.3f} (hunted in {own['draws_that_hunt'].get(most, 0)} draws)")
    again = ", ".join(f"{one['causal_on_calibration_and_test']['spearman']:.2f}" for one in asked.values())
    everything = effects["mean"]["all"]["48"]
    return [
        f"{results['draws']} disjoint draws of {results['size']} calibration clips; {results['test']} test clips of "
        f"other scenes for each of five questions, whose means these are. {shared.HOW}",
        "",
        *shared.claim_rows(results),
        "",
        *table,
        "",
        f"- Balanced accuracy of the direct answers, untouched: {accuracy}; never trained "
        f"{results['never_trained_accuracy']:.2f}.",
        f"- Change of P(right) without {', '.join(str(n) for n in sizes)} heads (mean, last token): {over}; all 48 "
        f"{-everything['p']['mean']:+.2f} (accuracy falls by {everything['accuracy']['mean']:.2f}). All 48 patched "
        f"bring back {effects['patch']['all']['48']['restored']['mean']:.2f}.",
        "- Change of P(right) by question, all trainings in their order (hunted; hunted under the question; random): "
        f"{split}.",
        f"- The one head that costs most, by question: {', '.join(alone)}.",
        f"- Saliency under the question and cost of each head alone, Spearman over the 48 heads (p within layers): "
        f"{linked}. The costs themselves repeat on other scenes: {again}.",
    ]


def never_trained(study: Study) -> float:
    """Mean balanced accuracy of the never-trained control's answers."""
    found = []
    model = study.open(shared.UNTRAINED)
    for event, question in study.config["questions"].items():
        listed = clips_of(event, study.config["test"], study.config["seed"], "test")
        asked = Asked(model, listed, question)
        y = np.array([one.label for one in listed])
        found.append(balanced(right(asked.last(), y)[0], y, np.ones((1, len(y))))[0])
    return float(np.mean(found))


def compute(study: Study) -> dict:
    """Everything, for results.json."""
    config = study.config
    torch.manual_seed(config["seed"])
    models = {name: one_model(study, name) for name in study.names}
    found = {claim: {name: one["claims"][claim] for name, one in models.items()} for claim in config["claims"]}
    return {
        "claims": shared.decide(config["claims"], found),
        **{key: config[key] for key in ("k", "ks", "draws", "size", "test")},
        "never_trained_accuracy": never_trained(study),
        "models": {name: {k: v for k, v in one.items() if k != "claims"} for name, one in models.items()},
    }


def main() -> None:
    """Run everything and write it down."""
    study = shared.begin(HERE, __doc__)
    if not study.redraw:
        shared.write(study, compute(study))
    shared.show(study, lines, draw, "causal.png")


if __name__ == "__main__":
    main()
