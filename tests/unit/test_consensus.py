import numpy as np
import pytest

from headprobe.errors import InputError
from headprobe.metrics.consensus import consensus
from headprobe.metrics.saliency import combine
from headprobe.metrics.stability import rss
from headprobe.scores import score_map, top_heads


def test_a_steady_head_beats_one_with_the_same_mean():
    m = score_map([[[1.0, 0.6, 0.1]], [[0.2, 0.6, 0.1]]], prompts=["a", "b"])
    assert consensus(m, 2).labels == ("L0H1", "L0H0")
    assert consensus(m, 2, instability_penalty=0.0).labels == ("L0H0", "L0H1")


def test_metrics_are_combined_first():
    m = score_map(np.random.default_rng(0).random((3, 2, 4, 5)), metrics=["a", "b", "c"], prompts=["p", "q"])
    assert consensus(m, 6) == top_heads(rss(combine(m)), 6)
    assert consensus(m, 6) == consensus(combine(m), 6)


def test_unknown_methods_are_refused():
    with pytest.raises(InputError, match="unknown consensus method 'borda'"):
        consensus(score_map(np.zeros((1, 1, 1)), prompts=["a"]), 1, method="borda")
