"""Steps against what the published code of LAVAD, VERA and VADTree gives."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from equality import close

from headprobe.detection.composed import Reading, Segmented
from headprobe.detection.method import VideoView
from headprobe.detection.steps import (
    GaussianSmooth,
    Interpolate,
    NodeRefine,
    PaddedGaussian,
    SceneRefine,
    SummaryRefine,
)
from headprobe.video.clips import segments

FOLDER = Path(os.environ.get("HEADPROBE_ORACLES") or Path(__file__).parents[3] / "shared" / "oracles") / "methods"

pytestmark = pytest.mark.skipif(
    not (FOLDER / "vera.npz").is_file(),
    reason=f"no values of methods in {FOLDER}; set HEADPROBE_ORACLES to the folder that has methods/vera.npz",
)


def seen(n: int, stride: int = 16, features=None, texts=(), n_frames: int | None = None) -> Segmented:
    video = VideoView("a", n_frames or n * stride, 30.0)
    return Segmented(video, segments(video.n_frames, stride), Reading(np.zeros(n), texts, features))


def said(name: str):
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def vera():
    with np.load(FOLDER / "vera.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file}


@pytest.mark.parametrize("case", ["middle", "edges"])
def test_gaps_are_filled_as_lavad_fills_them(case) -> None:
    _, given, expected = said("lavad")["interpolation"][case]
    scores = np.array([np.nan if score == -1 else score for score in given])
    assert close(Interpolate()(scores, seen(len(scores))), np.array(expected))


def test_summaries_are_compared_with_the_clip_as_lavad_does() -> None:
    case = said("lavad")["refine"]
    embedded = dict(zip(case["unique"], case["summary_embeddings_in_order_of_first_appearance"], strict=True))

    def embed(texts):
        return np.array([embedded[text] for text in texts])

    given = seen(10, case["step"], np.array(case["video"]), case["summaries"], case["n_frames"])
    found = SummaryRefine(embed, top=case["K"])(np.array(case["raw"]), given)
    assert close(found, np.array(case["refined_per_centre"]), roundings=1e10)  # to 1e-6, as it is stored


@pytest.mark.parametrize("length", ["short", "ten", "medium", "long"])
@pytest.mark.parametrize("script", ["ucf", "xd_ap"])
def test_scenes_and_smoothing_as_vera_has_them_when_asked(vera, length, script) -> None:
    binary, features = vera[f"{length}_binary"], vera[f"{length}_features"]
    given = seen(len(binary), features=features)
    scenes = SceneRefine(compatible=length == "short")(binary, given)  # with ten, its two scripts take one
    assert close(scenes, vera[f"{length}_{script}_scene"])
    smooth = PaddedGaussian()(scenes, given)
    assert close(smooth, vera[f"{length}_{script}_smoothed"][: len(binary)])


@pytest.mark.parametrize("length", ["medium", "long"])
def test_the_frames_of_vera_are_rounded_scores_times_a_prior_of_half_the_video(vera, length) -> None:
    binary, features = vera[f"{length}_binary"], vera[f"{length}_features"]
    expected = vera[f"{length}_ucf_frames"]
    given = seen(len(binary), features=features)
    rounded = PaddedGaussian(decimals=1)(SceneRefine(compatible=True)(binary, given), given)
    n, half = len(expected), len(expected) // 2
    frames = np.repeat(rounded, 16)[:n] * np.exp(-0.5 * ((np.arange(n) - half) / half) ** 2)
    assert close(frames, expected)


def test_ours_is_level_at_the_ends_where_the_reference_is_not(vera) -> None:
    ones, given = np.ones(60), seen(60)
    assert close(PaddedGaussian()(ones, given)[0], said("vera")["kernel"]["constant_1_smoothed_at_edge_n60"])
    assert close(GaussianSmooth(10 * 16 / 30)(ones, given), ones)
    spike = np.zeros(15)
    spike[7] = 1
    assert close(PaddedGaussian()(spike, seen(15)), vera["kernel_15_10"])


@pytest.mark.parametrize(
    ("case", "reach", "top", "sharpness"),
    [
        ("nn=10 top=10 tau=0.1 dyn=None", 5, 10, 10.0),
        ("nn=10 top=3 tau=0.1 dyn=None", 5, 3, 10.0),
        ("nn=5 top=10 tau=1.0 dyn=None", 2, 10, 1.0),
        ("nn=4 top=10 tau=0.1 dyn=0.5", 4, 10, 10.0),  # half of it widens with the 17 nodes
    ],
)
def test_nodes_are_refined_as_vadtree_does(case, reach, top, sharpness) -> None:
    given = said("vadtree")["refine"]
    likeness = np.array(given["similarity"])
    # Features with these cosines.
    values, vectors = np.linalg.eigh(likeness)
    features = vectors * np.sqrt(np.clip(values, 0, None))
    assert np.abs(features @ features.T - likeness).max() < 1e-6
    found = NodeRefine(reach, top, sharpness, compatible=True)(
        np.array(given["scores"]), seen(len(likeness), features=features)
    )
    assert np.abs(found - given["reference"][case]).max() < 1e-5
