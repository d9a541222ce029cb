"""What a comparison says about each claim, in plain sentences that the numbers decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["CLAIMS", "Finding", "findings"]

HOLDS, REVERSED, OPEN = "holds", "reversed", "not decided"

CLAIMS: dict[str, str] = {
    "frame differences": "look at more than motion: they beat logistic regression on frame differences",
    "never-trained model, hunted heads": "read what was learned: they beat heads hunted in the never-trained model",
    "worst heads by RSS": "are ranked sensibly: they beat the five heads with the lowest RSS",
    "random heads": "beat as many random heads",
    "random heads of the same layers": "beat as many random heads of the same layers",
    "all heads": "beat all heads together (representation dilution)",
    "last hidden state": "beat the last layer's hidden state",
    "best hidden state (layer chosen on calibration)": "beat the best layer's hidden state",
    "hunted by the LDA term alone": "chosen by four metrics beat those chosen by the LDA term alone",
    "text P(yes), vague prompt": "beat the model's own answer to a vague question",
    "text P(yes), direct event questions": "beat the model's own answers to direct questions on the trained events",
}


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


def _verdict(low: float, high: float) -> str:
    return HOLDS if low > 0 else REVERSED if high < 0 else OPEN


def findings(paired: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Verdicts on :data:`CLAIMS` from :func:`~headprobe.headhunt.comparison.paired_differences`.

    >>> gap = {"mean": 0.1, "low": 0.05, "high": 0.15}
    >>> findings([{"minus": "random heads", "auc": gap, "held_out_auc": gap}])[0].verdict
    'holds'
    """
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
