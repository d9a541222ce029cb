"""Scores and significance of features that lie on a GPU: those of the processor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from equality import close

from headprobe.metrics.saliency import METRICS, saliency
from headprobe.metrics.significance import bootstrap_intervals, max_statistic

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
GROUPS = np.arange(32) // 2
Y = GROUPS % 2


def features() -> torch.Tensor:
    z = np.random.default_rng(0).normal(size=(2, 32, 3, 4, 6)) + 1
    z[:, :, 1, 2, 0] += 2 * Y
    return torch.from_numpy(z).float()


@pytest.mark.parametrize("metric", sorted(METRICS))
def test_saliency_and_significance_on_cuda_equal_those_of_the_cpu(metric: str) -> None:
    z = features()
    y = Y if "binary" in METRICS[metric].targets else np.random.default_rng(1).normal(size=32)
    expected, found = (saliency(x, y, [metric], GROUPS) for x in (z, z.cuda()))
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-6, atol=1e-9)
    groups = GROUPS if y is Y else None
    on_cpu, on_gpu = (max_statistic(x, y, metric, groups, n_permutations=19) for x in (z, z.cuda()))
    np.testing.assert_allclose(on_gpu.scores.values, on_cpu.scores.values, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(on_gpu.null.values, on_cpu.null.values, rtol=1e-6, atol=1e-9)
    assert close(on_gpu.p_step_down.values, on_cpu.p_step_down.values)


def test_intervals_on_cuda_equal_those_of_the_cpu() -> None:
    z = features()
    on_cpu, on_gpu = (bootstrap_intervals(x, Y, groups=GROUPS, n_resamples=10) for x in (z, z.cuda()))
    for name in on_cpu:
        np.testing.assert_allclose(on_gpu[name].values, on_cpu[name].values, rtol=1e-6, atol=1e-9)
