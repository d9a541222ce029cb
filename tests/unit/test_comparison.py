"""The comparison: calibration draws, baselines, and paired differences."""

from __future__ import annotations

import numpy as np
import pytest
from equality import close

from headprobe.demo._comparison import paired_differences
from headprobe.detection.benchmark import draw_videos as draws
from headprobe.errors import InputError
from headprobe.evaluation.controls import frame_differences

POOL = {f"n{i}": "normal" for i in range(10)} | {f"{e}{i}": e for e in ("fall", "fight", "bag") for i in range(4)}


def test_draws_are_balanced_seeded_and_differ() -> None:
    a, b = (list(draws(POOL, 6, 8, "normal", 3)) for _ in range(2))
    assert a == b
    assert len({tuple(sorted(d)) for d in a}) > 1
    for videos in a:
        assert len(set(videos)) == 8
        events = [POOL[v] for v in videos]
        assert events.count("normal") == 4
        counts = [events.count(e) for e in ("fall", "fight", "bag")]
        assert max(counts) - min(counts) <= 1


def test_too_small_a_pool_is_said() -> None:
    with pytest.raises(InputError, match=r"a draw needs 20 normal and 20 abnormal videos; the pool has \{'normal': 10"):
        list(draws(POOL, 1, 40, "normal", 0))
    with pytest.raises(InputError, match="7 videos cannot be: give an even number"):
        list(draws(POOL, 1, 7, "normal", 0))


def test_frame_differences_see_motion_but_not_a_still_picture() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (1, 48, 64, 3), dtype=np.uint8)
    still = np.repeat(picture, 8, 0)
    assert close(frame_differences(still), np.zeros(8))
    moving = still.copy()
    moving[4:, 8:20, 8:20] = 255 - moving[4:, 8:20, 8:20]
    assert (frame_differences(moving)[[0, 1, 5, 6, 7]] > 0).all()


def test_one_frame_has_no_difference() -> None:
    with pytest.raises(InputError, match=r"need two frames of at least 8 x 8 pixels, got shape \(1, 48, 64, 3\)"):
        frame_differences(np.zeros((1, 48, 64, 3), np.uint8))


def test_paired_differences_by_hand() -> None:
    keys = ("auc", "ap")
    table = {
        "hunted heads": [dict.fromkeys(keys, v) for v in (0.9, 0.8, 0.7)],
        "random heads": [dict.fromkeys(keys, v) for v in (0.8, 0.6, 0.7)],
        "text": [dict.fromkeys(keys, 0.5)],
    }
    random, text = paired_differences(table)
    assert random["minus"] == "random heads"
    assert random["auc"]["mean"] == pytest.approx(0.1)
    # differences .1, .2, 0: sd .1, t(.975, 2) = 4.3027, half width 4.3027 * .1 / sqrt(3)
    assert random["auc"]["high"] - random["auc"]["mean"] == pytest.approx(0.24841, abs=1e-4)
    assert text["ap"]["mean"] == pytest.approx(0.3)
