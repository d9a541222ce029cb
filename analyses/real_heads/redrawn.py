"""The planned comparisons again on resampled videos: how far other videos would move them, choice and fit included."""

from __future__ import annotations

import numpy as np
from hunt import PRIMARY, Bench, balanced

from headprobe.metrics._labellings import group_halves
from headprobe.metrics.linear_probe import auroc
from headprobe.metrics.resampling import group_resamples
from headprobe.probing.probe import HeadProbe


def redrawn(bench: Bench, sizes: list[int]) -> dict:
    """Spread of each planned difference over resamples of the videos and over splits within them.

    Every resample is split anew a few times, copies of a video in one half; heads are hunted and probes fitted in each.
    """
    captions, config, own = bench.captions, bench.config, bench.config["redrawn"]
    y, codes, seed = captions.y, captions.codes, config["seed"]
    values = np.empty((len(sizes), len(PRIMARY), own["resamples"], own["splits"]))
    everything = bench.z[0].reshape(len(y), -1)
    for b, drawn in enumerate(group_resamples(y, codes.tolist(), own["resamples"], seed)):
        fold = np.unique(codes[drawn], return_inverse=True)[1]
        for s, (first, test) in enumerate(group_halves(y[drawn], fold, own["splits"], seed + b)):
            rng = np.random.default_rng([seed, b, s])
            for i, rows in enumerate(balanced(y, drawn[first], sizes, rng)):
                hunted = bench.hunt(rows)
                features = [("hunted", bench.heads(hunted)), ("all heads", everything)]
                features += [(name, bench.heads(heads)) for name, heads in bench.draws(hunted, own["draws"], rng)]
                areas: dict[str, list[float]] = {}
                for name, x in features:
                    probe = HeadProbe(C=bench.C).fit(x[rows], y[rows])
                    area = auroc(probe.decision_function(x[drawn[test]]), y[drawn[test]])
                    areas.setdefault(name, []).append(float(area))
                values[i, :, b, s] = [areas["hunted"][0] - np.mean(areas[name]) for name in PRIMARY]
    # Standard deviations of the means over the splits of a resample, and of the splits within one.
    means, within = values.mean(-1).std(-1, ddof=1), np.sqrt(values.var(-1, ddof=1).mean(-1))
    result: dict = {}
    for i, n in enumerate(sizes):
        for j, name in enumerate(PRIMARY):
            result.setdefault(str(n), {})[name] = {
                "mean_on_resamples": float(values[i, j].mean()),
                "sd_of_resamples": float(means[i, j]),
                "sd_of_splits_in_a_resample": float(within[i, j]),
            }
    return result
