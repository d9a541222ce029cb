"""Intervals over videos from the spread that `redrawn` has measured."""

from __future__ import annotations

import numpy as np
from scipy.stats import chi2, norm


def intervals(spread: dict, found: dict, config: dict, strict: float) -> dict:
    """Intervals about the differences `found` in the main run, at the level of all intervals and a stricter one.

    The variance over resamples, less what the splits within them explain, is that of the videos; the mean over all
    splits of the main run adds the variance of one split over their number. The variance over resamples is taken at
    its upper 95 % limit, because little is left of it once the splits are taken off.
    """
    own = config["redrawn"]
    free = own["resamples"] - 1
    result: dict = {}
    for n, rows in spread.items():
        for name, row in rows.items():
            mean = found[n]["hunted_minus"][name]["mean"]
            split = row["sd_of_splits_in_a_resample"] ** 2
            highest = row["sd_of_resamples"] ** 2 * free / chi2.ppf(0.05, free)
            error = float(np.sqrt(max(highest - split / own["splits"], 0) + split / config["hunt"]["splits"]))
            result.setdefault(n, {})[name] = row | {"mean": mean, "standard_error": error}
            for key, level in (("interval", config["level"]), ("interval_strict", strict)):
                reach = float(norm.ppf((1 + level) / 2)) * error
                result[n][name][key] = [mean - reach, mean + reach]
    return result
