"""Saliency against values computed once with scikit-learn and numpy, independently of this project."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from headprobe.metrics.nmi import two_means
from headprobe.metrics.saliency import saliency
from headprobe.metrics.stability import rss
from headprobe.scores import score_map, top_heads

FOLDER = Path(os.environ.get("HEADPROBE_ORACLES") or Path(__file__).parents[3] / "shared" / "oracles")

pytestmark = pytest.mark.skipif(
    not (FOLDER / "saliency.npz").is_file(),
    reason=f"no oracle arrays in {FOLDER}; set HEADPROBE_ORACLES to the folder with saliency.npz",
)

CASES = ("n_above_d", "n_below_d")
NAMES = {"lda": "lda_shrunk", "lda_plain": "lda_plain", "kl": "kl", "mmd": "mmd2"}


@pytest.fixture(scope="module")
def arrays():
    with np.load(FOLDER / "saliency.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file}


@pytest.fixture(scope="module")
def expected():
    return json.loads((FOLDER / "saliency.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("case", "metric"),
    [(case, metric) for case in CASES for metric in NAMES if (case, metric) != ("n_below_d", "lda_plain")],
)
def test_closed_form_metrics(arrays, expected, case, metric):
    scores = saliency(arrays[f"{case}_z"], arrays[f"{case}_y"], metrics=(metric,)).sel(metric=metric)
    np.testing.assert_allclose(scores.values, expected[case][NAMES[metric]], rtol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_two_means_is_as_good_and_where_equal_gives_the_same_nmi(arrays, expected, case):
    z, y = arrays[f"{case}_z"], arrays[f"{case}_y"]
    x = torch.from_numpy(z).double().flatten(1, 2).transpose(0, 1).contiguous()
    inertia = two_means(x)[1].numpy().reshape(2, 3)
    reference = np.array(expected[case]["kmeans_inertia"])
    assert (inertia <= reference * (1 + 1e-9)).all()
    equal = np.isclose(inertia, reference, rtol=1e-7)
    assert equal.any()
    scores = saliency(z, y, metrics=("nmi",)).values[0]
    np.testing.assert_allclose(scores[equal], np.array(expected[case]["nmi_geometric"])[equal], rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("metric", ["lda", "kl", "mmd", "nmi"])
def test_the_small_real_signal_ranks_above_the_large_noise(arrays, case, metric):
    scores = saliency(arrays[f"{case}_z"], arrays[f"{case}_y"], metrics=(metric,)).values[0]
    assert scores[1, 2] > scores[1, 0]


def test_rss_and_its_five_best_heads(arrays, expected):
    stable = rss(score_map(arrays["rss_scores"], prompts=[f"p{i}" for i in range(5)]), expected["rss"]["lambda"])
    np.testing.assert_allclose(stable.values, expected["rss"]["rss"], rtol=1e-12)
    assert [[h.layer, h.head] for h in top_heads(stable, 5)] == expected["rss"]["top5"]
