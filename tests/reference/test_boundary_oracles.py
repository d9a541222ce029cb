"""Borders and cuts against the published trees of VADTree, and against cuts that were planted."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from headprobe.baselines.vadtree import vadtree_published
from headprobe.detection.boundaries import BoundaryTree, EventCuts
from headprobe.detection.method import VideoView

FOLDER = Path(os.environ.get("HEADPROBE_ORACLES") or Path(__file__).parents[3] / "shared" / "oracles") / "methods"
VADTREE, EVENTVAD = FOLDER / "vadtree.json", FOLDER / "eventvad.npz"

pytestmark = pytest.mark.skipif(
    not (VADTREE.is_file() and EVENTVAD.is_file()),
    reason=f"no values of methods in {FOLDER}; set HEADPROBE_ORACLES to the folder that has methods/vadtree.json",
)


def trees():
    return json.loads(VADTREE.read_text(encoding="utf-8"))["videos"] if VADTREE.is_file() else {}


@pytest.mark.parametrize("name", list(trees()))
def test_the_tree_of_a_video_of_msad_is_the_published_one(name) -> None:
    given = trees()[name]
    video = VideoView(name, given["frames"], given["fps"])
    fine = BoundaryTree({name: given["boundary"]}, 0.3, compatible=True)
    coarse = BoundaryTree({name: given["boundary"]}, 0.3, "coarse", compatible=True)
    assert [[one.frame, one.height] for one in fine.borders(video)] == given["peaks"]
    for segmenter, expected in ((fine, given["fine"]), (coarse, given["coarse"])):
        # The published scenes share their borders, and the last one ends at the last frame.
        spans = [[first, min(end, video.n_frames - 1)] for first, end in (one.span for one in segmenter(video))]
        assert spans == expected


@pytest.mark.parametrize("name", ["two_cuts", "one_cut", "short", "none"])
def test_planted_cuts_are_found_and_none_in_noise_where_the_reference_fails_both(name) -> None:
    with np.load(EVENTVAD, allow_pickle=False) as file:
        features = file[name]
    case = json.loads(EVENTVAD.with_suffix(".json").read_text(encoding="utf-8"))[name]
    found = EventCuts({name: features})(VideoView(name, case["n"], case["fps"]))
    starts = [one.start for one in found][1:]
    assert len(starts) == len(case["true_cuts_frames"])
    assert all(abs(a - b) <= 0.3 * case["fps"] for a, b in zip(starts, case["true_cuts_frames"], strict=True))


@pytest.mark.parametrize("name", list(trees()))
def test_the_ensemble_of_a_video_of_msad_is_the_published_one(name) -> None:
    given = trees()[name]
    video = VideoView(name, given["frames"], given["fps"])
    both = vadtree_published({name: given["coarse_refined_raw"]}, {name: given["fine_refined_raw"]}, beta=-0.4, short=1)
    found = both.score(video).frames(video.n_frames)
    starts, values = zip(*given["ensemble_runs"], strict=True)
    expected = np.repeat(values, np.diff([*starts, video.n_frames]))
    last = max(int(node.split(", ")[1]) for node in given["fine_refined_raw"])
    assert (expected[last + 1 :] == 0).all()  # the reference leaves out frames after the last node
    # Both inputs and the result are kept to four decimals; variances of nearly equal scores magnify that.
    assert np.abs(found - expected)[: last + 1].max() < 2e-4
