"""From the draws to numbers, intervals, and a verdict on every claim of the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided"


@dataclass(frozen=True, eq=False)
class Ranked:
    """How a row ranks the frames of the test videos, draw by draw."""

    wins: np.ndarray  # [draw, video, video]: twice the won pairs (abnormal frame of the first, normal of the second)
    ap: np.ndarray  # [draw, 2]: average precision on seen and on held-out events


class Table:
    """All rows on the same test videos, with their resamples."""

    def __init__(
        self, rows: Mapping[str, Ranked], truth: np.ndarray, seen: np.ndarray, held_out: np.ndarray, config: dict
    ) -> None:
        own = config["intervals"]
        self.rows, self.seen, self.held_out = rows, seen, held_out
        self.abnormal = truth.sum(1).astype(float)
        self.normal = truth.shape[1] - self.abnormal
        self.level, self.margin = own["level"], own["margin"]
        rng = np.random.default_rng([config["seed"], 99])
        n = len(seen)
        once = np.ones((1, n))
        drawn = rng.multinomial(n, np.full(n, 1 / n), size=own["resamples"])
        self.weights = np.concatenate([once, drawn]).astype(float)
        self.draw_rng = rng
        self._cache: dict[str, np.ndarray] = {}

    def auc(self, name: str) -> np.ndarray:
        """Frame AUC on normal videos and seen events, [resample, draw]; the first resample takes each video once."""
        if name not in self._cache:
            self._cache[name] = self._resampled(self.rows[name].wins, self.seen, self.weights)
        return self._cache[name]

    def held_out_auc(self, name: str) -> np.ndarray:
        """Frame AUC on normal videos and held-out events, [draw]."""
        return self._resampled(self.rows[name].wins, self.held_out, np.ones((1, len(self.held_out))))[0]

    def within(self, name: str) -> np.ndarray:
        """Mean AUC inside the videos of seen events, [draw]."""
        own = np.array([np.diag(wins) for wins in self.rows[name].wins])[:, self.seen]
        pairs = (2 * self.abnormal * self.normal)[self.seen]
        return (own[:, pairs > 0] / pairs[pairs > 0]).mean(1)

    def _resampled(self, wins: np.ndarray, videos: np.ndarray, weights: np.ndarray) -> np.ndarray:
        pairs = 2 * (weights @ self.abnormal[videos]) * (weights @ self.normal[videos])
        part = wins[:, videos][:, :, videos].astype(np.float64)
        return np.stack([((weights @ one) * weights).sum(1) / pairs for one in part], 1)

    def spread(self, values: np.ndarray) -> dict:
        """Mean over draws, the interval that holds the middle 95 % of them, and the draws."""
        out: dict = {"mean": float(values.mean())}
        if len(values) > 1:
            out |= {"low": self._quantiles(values)[0], "high": self._quantiles(values)[1]}
        return out

    def row(self, name: str) -> dict:
        """The numbers of a row."""
        ranked, auc = self.rows[name], self.auc(name)
        mean = auc.mean(1)
        return {
            "auc": self.spread(auc[0]) | {"over_videos": self._quantiles(mean[1:])},
            "within_auc": self.spread(self.within(name)),
            "ap": self.spread(ranked.ap[:, 0]),
            "held_out_auc": self.spread(self.held_out_auc(name)),
            "held_out_ap": self.spread(ranked.ap[:, 1]),
            "auc_of_each_draw": [round(float(v), 5) for v in auc[0]],
        }

    def difference(self, first: str, second: str) -> dict:
        """AUC of one row minus another's, with three intervals.

        `over_draws`: the middle 95 % of the draws on these test videos. `over_videos`: resampled test videos, the mean
        over these draws. `interval`: both resampled; the verdicts go by it.
        """
        gap = self.auc(first) - self.auc(second)
        n = gap.shape[1]
        again = self.draw_rng.multinomial(n, np.full(n, 1 / n), size=len(gap) - 1) / n
        out: dict = {"mean": float(gap[0].mean()), "interval": self._quantiles((gap[1:] * again).sum(1))}
        out["over_videos"] = self._quantiles(gap[1:].mean(1))
        if n > 1:
            out["over_draws"] = self._quantiles(gap[0])
            out["draws_above_0"] = float((gap[0] > 0).mean())
        return out

    def _quantiles(self, values: np.ndarray) -> list[float]:
        tail = (1 - self.level) / 2
        return [float(v) for v in np.quantile(values, [tail, 1 - tail])]


@dataclass(frozen=True)
class Claim:
    """What the paper says, and how it is decided here.

    `kind`: `above` (the first beats the second), `no worse` (not by the margin or more) or `same` (within the margin).
    """

    text: str
    first: str
    second: str
    paper: str = ""
    kind: str = "above"


def claims() -> list[Claim]:
    """The paper's claims, each with its numbers on UCF-Crime (AUC) and XD-Violence (AP), then our own controls."""
    return [
        Claim("beat all heads of the last layer", "full", "all heads of the last layer", "87.03 to 80.15"),
        Claim("beat as many random heads", "full", "random heads", "87.03 to 66.65"),
        Claim("of five prompts beat those of one coarse prompt", "full", "one coarse prompt", "87.03 to 81.86"),
        Claim(
            "of five prompts come up to those of one detailed prompt",
            "full",
            "one detailed prompt",
            "87.03 to 87.11",
            "no worse",
        ),
        Claim("with logistic regression beat those with a linear SVM", "full", "linear SVM", "87.03 to 84.95"),
        Claim("with an MLP gain next to nothing", "two-layer MLP", "full", "87.25 to 87.03", "same"),
        Claim("gain from smoothing", "full", "full, unsmoothed", "87.03 to 82.44"),
        Claim(
            "cut at the calibrated threshold beat a fixed one of 0.25",
            "cut at the calibrated threshold",
            "cut at 0.25",
            "87.03 to 70.91",
        ),
        Claim(
            "cut at the calibrated threshold beat a fixed one of 0.5",
            "cut at the calibrated threshold",
            "cut at 0.5",
            "87.03 to 80.32",
        ),
        Claim(
            "cut at the calibrated threshold beat a fixed one of 0.75",
            "cut at the calibrated threshold",
            "cut at 0.75",
            "87.03 to 71.15",
        ),
        Claim("are better than all heads together, which dilute them", "full", "all heads"),
        Claim("are chosen better with the penalty on instability (0.5) than without", "lambda=0.5", "lambda=0"),
        Claim("need no more calibration: 16 videos (1 %) do as well as 200", "size 16", "size 200", "", "no worse"),
        Claim("beat the text answer to the coarse prompt", "full", "text P(yes), coarse prompt"),
    ]


def own_claims() -> list[Claim]:
    """What must hold beside, and what the paper does not ask."""
    return [
        Claim("beat the same in the never-trained model", "full", "never trained"),
        Claim("beat those found with shuffled labels", "full", "shuffled labels"),
        Claim("beat frame differences", "full", "frame differences"),
        Claim("beat the position within the video alone", "full", "position prior"),
        Claim("beat a constant per video that knows the truth", "full", "constant per video (knows the truth)"),
        Claim(
            "beat the text answers to direct questions on the trained events", "full", "text P(yes), direct questions"
        ),
        Claim("beat as many random heads of the same layers", "full", "random heads of the same layers"),
        Claim("beat the worst heads by RSS", "full", "worst heads by RSS"),
        Claim("beat the last hidden state", "full", "last hidden state"),
        Claim("chosen by four metrics beat those chosen by the LDA term alone", "full", "hunted by the LDA term alone"),
        Claim("calibrated on labels of segments beat those on labels of videos", "full, segment labels", "full"),
        *(
            Claim(f"calibrated on {n} videos beat {what}", f"size {n}", f"size {n}: {what}")
            for n in (64, 200)
            for what in ("random heads", "all heads", "all heads of the last layer", "last hidden state")
        ),
        Claim("calibrated on the segments of detection beat those on whole-video clips", "full", "whole-video clips"),
    ]


def added_claims() -> list[Claim]:
    """What was asked when the table was there."""
    return [
        Claim("beat LayerHunt, the hidden state of one chosen layer", "full", "LayerHunt (HiProbe-VAD)"),
        Claim("beat the expected rating in number words", "full", "text, expected rating in number words"),
        Claim("beat the graded ask", "full", "text, graded ask with isotonic regression"),
        Claim("beat the greedy answer to the detailed prompt", "full", "text, greedy answer, detailed prompt"),
        Claim(
            "beat the greedy answers to direct questions on the trained events",
            "full",
            "text, greedy answer, direct questions",
        ),
    ]


def verdict(kind: str, low: float, high: float, margin: float) -> str:
    """What an interval of the difference says."""
    if kind == "above":
        return HOLDS if low > 0 else FAILS if high < 0 else OPEN
    if kind == "no worse":
        return HOLDS if low > -margin else FAILS if high < -margin else OPEN
    return HOLDS if -margin < low and high < margin else FAILS if low > margin or high < -margin else OPEN


def decide(table: Table, listed: Sequence[Claim], ending: str = "") -> list[dict]:
    """Every claim with its numbers, verdict and sentence; `ending` chooses the rows of other labels."""
    out = []
    for claim in listed:
        if ending:
            names = [name + ending if name + ending in table.rows else name for name in (claim.first, claim.second)]
            if names[0] == claim.first or ": " in claim.second:
                continue
            claim = replace(claim, first=names[0], second=names[1])
        gap = table.difference(claim.first, claim.second)
        low, high = gap["interval"]
        said = verdict(claim.kind, low, high, table.margin)
        a, b = (float(table.auc(name)[0].mean()) for name in (claim.first, claim.second))
        against = ", the opposite does" if claim.kind == "above" and said == FAILS else ""
        against = ", though they are worse" if claim.kind == "no worse" and said == OPEN and high < 0 else against
        paper = f"; paper: {claim.paper} on UCF-Crime" if claim.paper else ""
        one = {"claim": claim.text, "first": claim.first, "second": claim.second}
        one |= {"kind": claim.kind, "paper": claim.paper, "difference": gap, "verdict": said}
        bare = [f"{name}, unsmoothed" for name in (claim.first, claim.second)]
        raw = ""
        if all(name in table.rows for name in bare):
            one["unsmoothed"] = table.difference(*bare)
            least, most = one["unsmoothed"]["interval"]
            one["unsmoothed_verdict"] = verdict(claim.kind, least, most, table.margin)
            raw = f"; unsmoothed {one['unsmoothed']['mean']:+.3f} [{least:+.3f}, {most:+.3f}]"
            raw += f", {one['unsmoothed_verdict']}" if one["unsmoothed_verdict"] != said else ""
        one["sentence"] = (
            f"Hunted heads {claim.text}: **{said}**{against} "
            f"(AUC {a:.3f} to {b:.3f}, {gap['mean']:+.3f} [{low:+.3f}, {high:+.3f}]{raw}{paper})."
        )
        out.append(one)
    return out
