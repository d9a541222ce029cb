"""What a comparison says about each claim, in plain sentences that the numbers decide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headprobe.demo._comparison import HUNTED, NEVER_TRAINED, RANDOM, SAME_LAYERS, SHUFFLED

HOLDS, REVERSED, OPEN = "holds", "reversed", "not decided"
CLAIMS: dict[str, str] = {
    "frame differences": "look at more than motion: they beat logistic regression on frame differences",
    NEVER_TRAINED: "read what was learned: they beat heads hunted in the never-trained model",
    SHUFFLED: "read the labels: they beat heads hunted and fitted with shuffled labels",
    "worst heads by RSS": "are ranked sensibly: they beat as many heads with the lowest RSS",
    RANDOM: "beat as many random heads",
    SAME_LAYERS: "beat as many random heads of the same layers",
    "all heads": "beat all heads together (representation dilution)",
    "last hidden state": "beat the last layer's hidden state",
    "best hidden state (layer chosen on calibration)": "beat the best layer's hidden state",
    "hunted by the LDA term alone": "chosen by four metrics beat those chosen by the LDA term alone",
    "text P(yes), vague prompt": "beat the model's own answer to a vague question in words it was never trained on",
    "text P(yes), direct event questions": "beat the model's own answers to direct questions on the trained events",
}

# Equal areas, summed in another order, differ by less; one changed example moves an area by more.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Finding:
    """One claim with its verdict: ``holds``, ``reversed`` or ``not decided`` (the interval contains 0)."""

    claim: str
    minus: str
    seen: str
    verdict: str
    held_out: str
    held_out_verdict: str

    @property
    def sentence(self) -> str:
        """The finding in one sentence."""
        return (
            f"Hunted heads {self.claim}: {self.verdict} on seen events ({self.seen}), "
            f"{self.held_out_verdict} on held-out events ({self.held_out})."
        )


@dataclass(frozen=True)
class Bar:
    """A number that was required before the run, what was measured, and whether it was met."""

    name: str
    required: str
    measured: float
    met: bool


def bars(rows: Sequence[Mapping[str, Any]], reference: str = HUNTED) -> list[Bar]:
    """What a run must show to count: the model sees more than motion, and its never-trained copy sees nothing."""
    by_name = {row["name"]: row for row in rows}
    hunted, motion = by_name[reference], by_name["frame differences"]
    untrained = by_name[NEVER_TRAINED]
    out: list[Bar] = []
    for prefix, events in (("", "seen events"), ("held_out_", "held-out events")):
        gap = hunted[f"{prefix}auc"] - motion[f"{prefix}auc"]
        out.append(Bar(f"frame AUC above frame differences, {events}", "at least 0.15", gap, gap >= 0.15 - ROUNDING))
        gap = hunted[f"{prefix}ap"] - motion[f"{prefix}ap"]
        out.append(Bar(f"average precision above frame differences, {events}", "above 0", gap, gap > ROUNDING))
        blind = untrained[f"{prefix}auc"]
        out.append(Bar(f"frame AUC of the never-trained model, {events}", "0.45 to 0.60", blind, 0.45 <= blind <= 0.60))
    return out


def _verdict(low: float, high: float) -> str:
    return HOLDS if low > ROUNDING else REVERSED if high < -ROUNDING else OPEN


def findings(paired: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Verdicts on :data:`CLAIMS` from :func:`~headprobe.demo._comparison.paired_differences`."""
    out = []
    for row in paired:
        name = row["minus"]
        if name not in CLAIMS:
            continue
        seen, held = row["auc"], row["held_out_auc"]
        verdict, held_verdict = _verdict(seen["low"], seen["high"]), _verdict(held["low"], held["high"])
        out.append(Finding(CLAIMS[name], name, _gap(seen), verdict, _gap(held), held_verdict))
    return sorted(out, key=lambda f: list(CLAIMS).index(f.minus))


SHORT = {
    HUNTED: "hunted heads",
    SAME_LAYERS: "random heads, same layers",
    "all heads": "all heads",
    NEVER_TRAINED: "hunted, never-trained model",
    "frame differences": "frame differences",
}
"""The rows that a first look needs, and what they are called there."""
_IN_WORDS = {
    "frame differences": "frame differences",
    NEVER_TRAINED: "heads of a never-trained model",
    SHUFFLED: "heads hunted with shuffled labels",
    "worst heads by RSS": "the heads with the lowest scores",
    RANDOM: "random heads",
    SAME_LAYERS: "random heads of the same layers",
    "all heads": "all heads together",
    "last hidden state": "the last hidden state",
    "best hidden state (layer chosen on calibration)": "the best hidden state",
    "hunted by the LDA term alone": "heads hunted by one metric alone",
    "text P(yes), vague prompt": "the model's answer to a vague question",
    "text P(yes), direct event questions": "the model's answers to direct questions",
}


def chosen_in(per_draw: Sequence[Sequence[str]]) -> dict[str, float]:
    """Share of the draws in which each head was chosen."""
    counts = Counter(label for labels in per_draw for label in labels)
    return {label: count / len(per_draw) for label, count in counts.items()}


def sentences(results: Mapping[str, Any]) -> list[str]:
    """What was hunted, how well that detects beside the controls, and what did not hold."""
    size, rows = results["provenance"]["size"], {row["name"]: row for row in results["rows"]}
    beside = [f"{rows[name]['auc']:.2f} of {_IN_WORDS[name]}" for name in SHORT if name != HUNTED]
    hunted = rows[HUNTED]
    told = findings(results["paired_differences"])
    worse = [f for f in told if REVERSED in (f.verdict, f.held_out_verdict)]
    equal = [f for f in told if OPEN in (f.verdict, f.held_out_verdict) and f not in worse]
    missed = sum(not bar["met"] for bar in results["bars"])
    failed = [f"on known or on new events the hunted heads are worse than {_listed(worse)}"] if worse else []
    failed += [f"they are not shown to be better than {_listed(equal)}"] if equal else []
    failed += [f"{missed} of {len(results['bars'])} bars set before the run were missed"] if missed else []
    return [
        f"Hunted: in each of {size['n_draws']} draws of {size['videos_per_draw']} videos, the {size['k']} of "
        f"{results['n_heads']} attention heads whose outputs best tell abnormal from normal segments; from all "
        f"{sum(results['data']['calibration']['videos'].values())} videos, {', '.join(results['experts'])}.",
        f"Detection: on test videos of other scenes these heads find the abnormal frames with an AUC of "
        f"{hunted['auc']:.2f} (1 is perfect, 0.5 is chance), against {', '.join(beside)}; on kinds of event that were "
        f"never shown before, {hunted['held_out_auc']:.2f}.",
        f"What did not hold: {'; '.join(failed)}." if failed else "Every claim about the hunted heads held.",
    ]


def _listed(told: Sequence[Finding]) -> str:
    """What the hunted heads were compared with."""
    *first, last = [_IN_WORDS[one.minus] for one in told]
    return f"{', '.join(first)} or {last}" if first else last


def _gap(gap: Mapping[str, float]) -> str:
    return f"{gap['mean']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}]"
