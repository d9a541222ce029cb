"""VADTree and EventVAD composed of their parts, ratings from files, and the ensemble of two granularities."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from equality import close, same

from headprobe.baselines.eventvad import eventvad
from headprobe.baselines.ratings import FileRatings, node_ratings
from headprobe.baselines.vadtree import vadtree, vadtree_published
from headprobe.detection.blind import Motion, Position, ScoreFile
from headprobe.detection.boundaries import BoundaryTree
from headprobe.detection.composed import FixedSegments
from headprobe.detection.ensemble import VarianceEnsemble
from headprobe.detection.method import AnnotatedVideo, Calibration, Method, VideoView, make_method
from headprobe.detection.steps import Interpolate, NodeRefine
from headprobe.errors import InputError
from headprobe.video.scenes import FPS, write_videos

COARSE = {"a": {"0, 4": [0.2], "4, 9": [0.6]}}
FINE = {"a.mp4": {"0, 2": [0.0], "2, 4": [0.0], "4, 7": [0.2], "7, 9": [0.8]}}
VIDEO = VideoView("a", 10, 10.0)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    (made,) = write_videos(tmp_path_factory.mktemp("v"), "test", {"vehicle": 1}, seed=3, n_frames=72, progress=False)
    return VideoView(made.name, len(made.truth), FPS, made.path)


def test_a_file_is_segmenter_and_reader_and_minus_one_is_unread(tmp_path) -> None:
    nodes = {"config": {}, "vid_score": {"a.mp4": {"4, 9": [-1, "a car"], "0, 4": [0.25, 0.5, "a road"]}}}
    plain, packed = tmp_path / "r.json", tmp_path / "r.json.gz"
    plain.write_text(json.dumps(nodes))
    packed.write_bytes(gzip.compress(json.dumps(nodes).encode()))
    for given in (plain, packed, nodes):
        found = node_ratings(given, name="theirs").score(VIDEO)
        assert found.spans == [(0, 4), (4, 10)]
        assert close(found.scores, np.array([0.25, np.nan]))
        assert found.texts == ("a road", "a car")
        assert found.unread == 0.5
    assert FileRatings(plain).fingerprint == FileRatings(packed).fingerprint
    assert FileRatings(plain).fingerprint != FileRatings(plain, short=1).fingerprint
    raw = node_ratings({"a": {"0, 9": [0.25, 0.5]}}, column=1).score(VIDEO)
    assert close(raw.scores, np.array([0.5]))


def test_texts_may_be_in_another_file_and_become_features() -> None:
    texts = {"vid_captions": {"a.mp4": {"0, 4": "a road", "4, 9": "two cars"}}}

    class Lengths:
        def __repr__(self):
            return "Lengths()"

        def __call__(self, given):
            return np.array([[len(text), 1.0] for text in given])

    both = FileRatings(COARSE, texts=texts, embedder=Lengths())
    read = both.read(VIDEO, both(VIDEO))
    assert read.texts == ["a road", "two cars"]
    assert close(read.features, np.array([[6.0, 1], [8, 1]]))
    with pytest.raises(InputError, match="node '4, 9' of 'a' has no text"):
        FileRatings(COARSE, texts={"a": {"0, 4": "a road"}})(VIDEO)


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ({"0, 4": [0.1]}, "do not follow one another over its 10 frames"),
        ({"1, 9": [0.1]}, "do not follow"),
        ({"0, 3": [0.1], "5, 9": [0.1]}, "do not follow"),
        ({"0, 5": [0.1], "3, 9": [0.1]}, "do not follow"),
        ({"0, 12": [0.1]}, "do not follow"),
        ({}, "do not follow"),
        ({"0-9": [0.1]}, 'it must be "first, last"'),
        ({"0, 9": ["high"]}, "must be a score or null"),
        ({"0, 9": [True]}, "must be a score or null"),
    ],
)
def test_nodes_that_do_not_fit_are_refused(nodes, said) -> None:
    with pytest.raises(InputError, match=said):
        node_ratings({"a": nodes}).score(VIDEO)


def test_files_that_hold_no_ratings_are_refused(tmp_path) -> None:
    broken, cut = tmp_path / "b.json", tmp_path / "b.json.gz"
    broken.write_text("[1, 2]")
    cut.write_bytes(gzip.compress(b"{}" * 100)[:20])
    with pytest.raises(InputError, match="must map videos to nodes"):
        FileRatings(broken)
    with pytest.raises(InputError, match="no complete gzip file"):
        FileRatings(cut)
    with pytest.raises(InputError, match="both mean"):
        FileRatings({"b/a": {"0, 9": [1]}, "a.mp4": {"0, 9": [1]}})(VIDEO)
    with pytest.raises(InputError, match="no ratings of 'b'"):
        FileRatings(COARSE)(VideoView("b", 10, 10.0))
    with pytest.raises(InputError, match="not the nodes that were rated"):
        FileRatings(COARSE).read(VIDEO, FixedSegments(1.0)(VIDEO))


def test_a_last_node_that_ends_early_is_said_unless_expected() -> None:
    early = {"a": {"0, 8": [0.5]}}
    with pytest.raises(InputError, match="set short"):
        node_ratings(early).score(VIDEO)
    assert node_ratings(early, short=1).score(VIDEO).spans == [(0, 10)]


def test_the_ensemble_is_the_mean_and_leans_where_the_fine_scores_vary() -> None:
    plain = vadtree_published(COARSE, FINE).score(VIDEO)
    assert plain.spans == [(0, 2), (2, 4), (4, 7), (7, 10)]
    assert close(plain.scores, np.array([0.1, 0.1, 0.4, 0.7]))
    # The second coarse node has all the variance: with beta 1 its weight is 0, with -1 it is 1.
    to_fine = vadtree_published(COARSE, FINE, beta=1.0).score(VIDEO).scores
    to_coarse = vadtree_published(COARSE, FINE, beta=-1.0).score(VIDEO).scores
    assert np.abs(to_fine - [0.1, 0.1, 0.2, 0.8]).max() < 1e-6
    assert np.abs(to_coarse - [0.1, 0.1, 0.6, 0.6]).max() < 1e-6


def test_a_frame_is_unread_where_either_score_is() -> None:
    fine = {"a": {"0, 2": [0.0], "2, 9": [-1]}}
    found = vadtree_published(COARSE, fine, beta=0.5).score(VIDEO)
    assert np.isnan(found.scores).tolist() == [False, True, True]


def test_parts_of_an_ensemble_are_told_what_they_need_and_no_more() -> None:
    class Told(Position):
        told: Calibration

        def fit(self, calibration):
            self.told = calibration
            return self

    videos = [AnnotatedVideo("b", np.arange(40) > 20, 10.0), AnnotatedVideo("c", np.zeros(40, bool), 10.0)]
    learns = Told()
    learns.needs = "video labels"
    both = VarianceEnsemble(Told(), learns)
    assert both.needs == "video labels"
    fitted = both.fit(Calibration(videos, "video labels"))
    assert fitted.coarse.told.names == []
    assert fitted.fine.told.labels() == {"b": 1, "c": 0}
    assert not hasattr(learns, "told")
    normal = Told()
    normal.needs = "normal videos"
    with pytest.raises(InputError, match="give two methods that need the same"):
        VarianceEnsemble(normal, learns)
    with pytest.raises(InputError, match="beta is 2"):
        VarianceEnsemble(Position(), Position(), beta=2)


def test_an_ensemble_prepares_its_parts_and_is_causal_only_as_a_plain_mean() -> None:
    file = ScoreFile({"a": np.linspace(0, 1, 10)})
    both = VarianceEnsemble(file, Position())
    both.prepare([VIDEO])
    assert len(both.score(VIDEO).spans) == 10
    assert not both.causal
    assert VarianceEnsemble(Motion(), Motion(0.8)).causal
    assert not VarianceEnsemble(Motion(), Motion(0.8), beta=0.1).causal


def test_vadtree_and_eventvad_run_on_the_embedded_model(film) -> None:
    for name in ("vadtree", "eventvad"):
        method = make_method(name)
        assert isinstance(method, Method)
        assert method.needs == "nothing"
        found = method.fit(Calibration([], "nothing")).score(film)
        assert found.spans[0][0] == 0
        assert found.spans[-1][1] == film.n_frames
        assert found.unread == 0
        assert found.calls > 0


def test_every_part_of_vadtree_is_a_row(film) -> None:
    curve = {film.name: np.where(np.arange(24) % 6 == 3, 0.6, 0.1) + np.where(np.arange(24) == 9, 0.3, 0)}
    whole = vadtree(curve=curve, beta=0.2, batch_size=16)
    assert [row.name for row in whole.rows()][2:] == ["VADTree, plain mean", "VADTree"]
    assert len(whole.coarse.segmenter(film)) == 2
    assert len(whole.fine.segmenter(film)) == 5
    scores = {row.name: row.score(film).scores for row in whole.fine.rows()}
    assert same([len(one) for one in scores.values()], [5, 5, 5])
    _, alike, plain = scores.values()
    assert not close(alike, plain)  # likeness is not the plain mean
    prints = {row.fingerprint for row in [*whole.rows(), *whole.fine.rows()]}
    assert len(prints) == 6  # the fine method is in both


def test_a_reader_of_ratings_serves_as_well_as_a_model() -> None:
    both = FileRatings(COARSE)
    assert eventvad(reader=both, features={"a": np.ones((10, 2))}).reader is both
    tree = vadtree(reader=both, curve={"a": np.zeros(10)})
    assert isinstance(tree.coarse.segmenter, BoundaryTree)
    assert tree.coarse.steps == [NodeRefine()]
    filled = node_ratings({"a": {"0, 4": [0.5], "5, 9": [None]}}, steps=[Interpolate()])
    assert close(filled.score(VIDEO).scores, np.array([0.5, 0.5]))
