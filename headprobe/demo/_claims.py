"""What a comparison says about each claim, in plain sentences that the numbers decide."""

from __future__ import annotations

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


def _gap(gap: Mapping[str, float]) -> str:
    return f"{gap['mean']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}]"
