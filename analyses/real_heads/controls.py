"""All heads beside what needs no trained encoder, by the same probe with the same videos held out."""

from __future__ import annotations

import numpy as np
import torch
from areas import interval, pair_table, video_weights, weighted_auc
from data import Captions, vocabulary, words_of

from headprobe.metrics.linear_probe import fold_index, loo_ridge_scores


def beside_controls(captions: Captions, z: np.ndarray, blank: np.ndarray, config: dict) -> dict:
    """Areas of the heads of the trained and of the untrained encoder, of the words and of the position.

    Intervals resample videos with the held-out scores as given.
    """
    codes = captions.codes
    weights = video_weights(captions.y, codes, config["hunt"]["resamples"], config["seed"])

    def areas(x: np.ndarray) -> np.ndarray:
        """Area [head, 1 + resample] of features [caption, head, dimension]."""
        features = torch.from_numpy(x.astype(np.float64).transpose(1, 0, 2).copy())
        y = torch.from_numpy(captions.y.astype(np.float64))
        scores = loo_ridge_scores(features, y, fold_index(captions.video, len(y))).numpy()
        tables = [pair_table(one, captions.y, codes, weights.shape[1]) for one in scores]
        return np.stack([weighted_auc(won, pairs, weights) for won, pairs in tables])

    held = words_of(captions, vocabulary(captions))
    place = (captions.position - captions.position.mean()) / captions.position.std()
    heads, untrained = (areas(x.reshape(len(x), -1, x.shape[-1])) for x in (z, blank))
    known, position = areas(held[:, None, held.sum(0) >= 2])[0], areas(np.stack([place, place**2], 1)[:, None])[0]
    mean, level = heads.mean(0), config["level"]

    def compare(values: np.ndarray) -> dict:
        return interval(values[None], level, corrected=False)

    best = int(heads[:, 0].argmax())
    low = np.quantile(heads[:, 1:] - position[1:], (1 - level) / 2, axis=1)
    return {
        "auc_untrained": untrained[:, 0].reshape(z.shape[1:3]).tolist(),
        "mean_of_heads": compare(mean),
        "mean_of_untrained_heads": compare(untrained.mean(0)),
        "which_words": compare(known),
        "position": compare(position),
        "mean_of_heads_minus_untrained": compare(mean - untrained.mean(0)),
        "best_head": f"L{best // z.shape[2]}H{best % z.shape[2]}",
        "best_head_minus_words": compare(heads[best] - known),
        "best_head_minus_best_untrained": compare(heads[best] - untrained[untrained[:, 0].argmax()]),
        "heads_above_words": int((heads[:, 0] > known[0]).sum()),
        "heads_above_position": int((heads[:, 0] > position[0]).sum()),
        "heads_whose_interval_is_above_position": int((low > 0).sum()),
        "heads_above_every_untrained": int((heads[:, 0] > untrained[:, 0].max()).sum()),
    }
