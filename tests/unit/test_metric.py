from pathlib import Path

import numpy as np
import pytest
import torch
from equality import close

import headprobe.metrics
from headprobe.errors import InputError
from headprobe.metrics._features import Batch
from headprobe.metrics.saliency import METRICS, Metric, _find_metrics, saliency


def spread(x, y):
    return x.square().sum((1, 2))


def test_metrics_are_known_by_their_names_and_say_what_they_return():
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.function.__doc__
        assert "Returns" in metric.function.__doc__


def test_names_metrics_and_functions_are_found():
    own = Metric("own", lambda heads, y: heads.x.sum((1, 2)))
    assert [m.name for m in _find_metrics(["kl", own, spread], "binary")] == ["kl", "own", "spread"]


@pytest.mark.parametrize(
    ("metrics", "text"),
    [
        ([], "different names out of"),
        (["lda", "lda"], r"got \['lda', 'lda'\]"),
        (["lda", "auc"], r"got \['lda', 'auc'\]"),
        ([spread, spread], r"got \['spread', 'spread'\]"),
        ("lda", r"write \('lda',\)"),
    ],
)
def test_metrics_that_cannot_be_used(metrics, text):
    with pytest.raises(InputError, match=text):
        _find_metrics(metrics)


def test_a_metric_that_is_not_defined_for_a_target_names_those_that_are():
    with pytest.raises(
        InputError, match=r"\['kl', 'auroc'\] .* continuous target; these are: \['entropy', 'cka', 'r2'\]"
    ):
        _find_metrics(["kl", "cka", "auroc"], "continuous")
    with pytest.raises(InputError, match=r"\['r2'\] are not defined for a multiclass target; these are: \['lda',"):
        _find_metrics(["r2"], "multiclass")


def test_a_metric_takes_bare_features_or_a_batch():
    x = torch.randn(2, 12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.arange(12) % 2 == 0
    bare = METRICS["kl"](x, y, ["L0H0", "L0H1"], 0)
    assert close(bare, METRICS["kl"](Batch.of(x), y))
    assert close(METRICS["nmi"](x, y, random_state=3), METRICS["nmi"](x, y, ["a", "b"], 3))


def test_groups_reach_the_metrics_that_take_them():
    x = torch.randn(2, 12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y, groups = torch.arange(12) % 2 == 0, torch.arange(12) // 3
    assert not close(METRICS["auroc"](x, y), METRICS["auroc"](x, y, groups=groups))
    assert close(METRICS["lda"](x, y), METRICS["lda"](x, y, groups=groups))


def test_functions_get_features_of_size_1_and_whole_class_numbers():
    seen = {}

    def look(x, y):
        seen.update(x=x, y=y)
        return x[:, 0, 0]

    x = 7 * torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 5
    (metric,) = _find_metrics([look])
    metric(x, torch.tensor([False, True, True, False]))
    assert seen["y"].tolist() == [0, 1, 1, 0]
    torch.testing.assert_close(seen["x"].abs().amax((1, 2)), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(seen["x"].mean(1), torch.zeros(2, 3, dtype=torch.float64), atol=1e-14, rtol=0)


def test_results_that_are_not_one_finite_number_per_head_are_refused():
    x, y = torch.randn(2, 4, 3), torch.tensor([False, True, True, False])
    with pytest.raises(InputError, match=r"the metric 'bad' is nan for 1 heads, the first is L0H1"):
        Metric("bad", lambda heads, y: torch.tensor([0.0, torch.nan]))(x, y, ["L0H0", "L0H1"])
    with pytest.raises(InputError, match=r"'bad' must return a tensor \[2\], got \(1,\)"):
        Metric("bad", lambda heads, y: torch.zeros(1))(x, y)
    with pytest.raises(InputError, match=r"'bad' must return a tensor \[2\], got float"):
        Metric("bad", lambda heads, y: 0.5)(x, y)


def test_general_tools_speak_of_the_classes_at_hand():
    """Only the detector of anomalies knows a normal and an abnormal class."""
    with pytest.raises(InputError, match=r"labels of two classes must be 0 or 1, got 'cat' .*label == 'dog'"):
        saliency(np.zeros((4, 1, 1, 2)), ["cat", "dog"] * 2)
    rooms = Path(headprobe.metrics.__file__).parent
    speaking = [path.name for path in sorted(rooms.glob("*.py")) if "abnormal" in path.read_text("utf-8")]
    assert speaking == []
