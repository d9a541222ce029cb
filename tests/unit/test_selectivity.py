import numpy as np
import torch
from equality import same

from headprobe.metrics.probe_scores import _control_labels, probe_auroc, selectivity


def test_a_head_that_tells_the_videos_apart_is_not_selective_and_one_of_the_classes_is():
    rng = np.random.default_rng(0)
    videos = torch.arange(48) // 4
    y = torch.from_numpy(rng.permutation(12) < 6)[videos]
    x = rng.normal(size=(2, 48, 16))
    x[0] += 4 * rng.normal(size=(12, 16))[videos]
    x[1, :, 0] += 3 * y.numpy()
    knows_videos, knows_classes = selectivity(torch.from_numpy(x), y, videos).tolist()
    assert probe_auroc(torch.from_numpy(x), y)[0] > 0.9
    assert knows_videos < 0.1
    assert knows_classes > 0.3


def test_it_is_the_area_less_the_mean_area_of_the_controls():
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 20, 5)))
    y, groups = torch.arange(20) % 2 == 0, torch.arange(20) // 4
    drawn = _control_labels(y, groups, 7, 3)
    controls = torch.stack([probe_auroc(x, task == 1) for task in drawn]).mean(0)
    found = selectivity(x, y, groups, random_state=7, controls=3)
    torch.testing.assert_close(found, probe_auroc(x, y) - controls)
    several = torch.arange(20) % 3
    drawn = _control_labels(several, groups, 7, 3)
    controls = torch.stack([probe_auroc(x, task) for task in drawn]).mean(0)
    torch.testing.assert_close(
        selectivity(x, several, groups, random_state=7, controls=3), probe_auroc(x, several) - controls
    )


def test_control_labels_are_constant_in_groups_random_and_seeded():
    y, groups = torch.arange(30) % 3, torch.arange(30) // 3
    drawn = _control_labels(y, groups, 0, 50)
    assert drawn.shape == (50, 30)
    assert all(len(set(task[groups == g].tolist())) == 1 for task in drawn for g in range(10))
    # Ten groups for three equal classes: 3, 4 and 3.
    assert {tuple(np.bincount(task[::3]).tolist()) for task in drawn} == {(3, 4, 3)}
    assert len({tuple(task.tolist()) for task in drawn}) > 40
    assert same(drawn, _control_labels(y, groups, 0, 50))
    assert not same(drawn, _control_labels(y, groups, 1, 50))


def test_every_class_gets_a_group_however_rare():
    y = torch.tensor([0] * 20 + [1] * 2 + [2] * 2)
    drawn = _control_labels(y, torch.arange(24) % 4, 0, 10)
    assert all(set(task.tolist()) == {0, 1, 2} for task in drawn)


def test_without_groups_the_controls_know_nothing():
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(200, 24, 6)))
    y = torch.arange(24) % 2 == 0
    assert abs(selectivity(x, y).mean().item()) < 0.02
