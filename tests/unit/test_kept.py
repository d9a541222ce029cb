"""A fit that is stopped goes on where it was, and gives what it would have given."""

from __future__ import annotations

import detectors
import numpy as np
import pytest
import torch
from equality import close

import headprobe
from headprobe.errors import FingerprintError, InputError
from headprobe.headhunt._calibration_set import labelled_examples
from headprobe.headhunt._fitting import kept_activations
from headprobe.headhunt.headhunt import HeadHunt
from headprobe.store import Store
from headprobe.trace.tracer import HeadTracer

SETTINGS = {"k": 2, "n_permutations": 0} | detectors.SETTINGS


@pytest.fixture(scope="module")
def tiny():
    return detectors.model()


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    files = [folder / f"v{i}.mp4" for i in range(6)]
    for i, file in enumerate(files):
        detectors.video(file, 32, seed=i)
    return labelled_examples(files, [i % 2 for i in range(6)], None, 16, 8)


@pytest.mark.filterwarnings("ignore::headprobe.errors.HeadprobeWarning")
def test_a_fit_that_is_stopped_goes_on_and_ends_the_same(tiny, examples, tmp_path, monkeypatch) -> None:
    capture, read = HeadTracer.capture, []

    def counted(tracer, clips, *more, **options):
        clips = list(clips)
        if len(read) == 4 and stop:
            raise KeyboardInterrupt
        read.extend(clip.id for clip in clips)
        return capture(tracer, clips, *more, **options)

    monkeypatch.setattr(HeadTracer, "capture", counted)
    detector = HeadHunt(**SETTINGS)
    stop = True
    with pytest.raises(KeyboardInterrupt):
        kept_activations(detector, tiny, examples, tmp_path / "z", progress=False)
    assert len(read) == 4  # two videos of two segments
    stop = False
    acts = kept_activations(detector, tiny, examples, tmp_path / "z", progress=False)
    assert sorted(read) == sorted(example.id for example in examples)
    again = kept_activations(detector, tiny, examples[::-1], tmp_path / "z", progress=False)
    assert len(read) == len(examples)
    assert again.examples["id"].tolist() == [example.id for example in examples[::-1]]
    assert acts.labels.tolist() == [example.label for example in examples]
    whole = HeadHunt(**SETTINGS).fit(tiny, examples, progress=False)
    kept = detector.fit(acts)
    assert kept.heads_ == whole.heads_
    assert (kept.fps_, kept.calibration_groups_) == (whole.fps_, whole.calibration_groups_)
    assert close(kept.score(acts), whole.score(acts), torch.float32)
    assert kept.provenance_.weights_hash == whole.provenance_.weights_hash


def test_what_other_prompts_or_another_model_gave_is_refused(tiny, examples, tmp_path) -> None:
    kept_activations(HeadHunt(**SETTINGS), tiny, examples[:2], tmp_path / "z", progress=False)
    other = HeadHunt(**SETTINGS | {"prompts": ["what happens here ?"]})
    with pytest.raises(FingerprintError, match="made in another way: prompts differ; name another folder"):
        kept_activations(other, tiny, examples[:2], tmp_path / "z", progress=False)
    with pytest.raises(FingerprintError, match="frames differ"):
        kept_activations(HeadHunt(**SETTINGS | {"sample_frames": 4}), tiny, examples[:2], tmp_path / "z")


def test_a_run_killed_before_its_first_append_does_not_block_the_folder(tiny, examples, tmp_path, monkeypatch) -> None:
    detector = HeadHunt(**SETTINGS)

    def killed(*more, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "append", killed)
        with pytest.raises(KeyboardInterrupt):
            kept_activations(detector, tiny, examples[:2], tmp_path / "z", progress=False)
    assert len(Store.open(tmp_path / "z")) == 0
    acts = kept_activations(detector, tiny, examples[:2], tmp_path / "z", progress=False)
    assert acts.examples["id"].tolist() == [example.id for example in examples[:2]]


def test_a_store_of_an_extraction_takes_the_place_of_reading(tiny, examples, tmp_path, monkeypatch) -> None:
    folder = examples[0].content.path.rpartition("/")[0]
    options = {"segments": 16, "frames": 8, "store_dtype": "float32", "progress": False}
    headprobe.extract(folder, "tiny", detectors.PROMPTS, tmp_path / "z", **options)
    detector = HeadHunt(**SETTINGS)
    expected = detector.capture(tiny, examples, progress=False)
    with monkeypatch.context() as patch:
        patch.delattr(HeadTracer, "capture")
        acts = kept_activations(detector, tiny, examples[::-1], tmp_path / "z", progress=False)
    assert acts.labels.tolist() == [example.label for example in examples[::-1]]
    assert acts.groups.tolist() == [example.group for example in examples[::-1]]
    np.testing.assert_allclose(acts.values.flip(1), expected.values, atol=1e-5)
    with pytest.raises(FingerprintError, match=r"sampling \(segments of 16 frames, .*; wanted are segments of 24"):
        kept_activations(HeadHunt(**SETTINGS | {"segment_frames": 24}), tiny, examples, tmp_path / "z")
    other = HeadHunt(**SETTINGS | {"prompts": ["what happens here ?"]})
    with pytest.raises(FingerprintError, match="prompts differ"):
        kept_activations(other, tiny, examples, tmp_path / "z")
    lone = tmp_path / "lone.mp4"
    detectors.video(lone, 32, seed=9)
    more = [*examples, *labelled_examples([lone], [1], None, 16, 8)]
    with pytest.raises(InputError, match="lacks 2 of 14 calibration clips, the first is 'lone:0-16'; extract all"):
        kept_activations(detector, tiny, more, tmp_path / "z", progress=False)
    headprobe.extract(folder, "tiny", detectors.PROMPTS, tmp_path / "few", heads=["L0H0"], **options)
    with pytest.raises(FingerprintError, match=r"heads .*of the model's are not there"):
        kept_activations(detector, tiny, examples, tmp_path / "few")


def test_heads_that_are_given_are_taken_and_nothing_is_said_of_their_stability(tiny, examples) -> None:
    detector = HeadHunt(**SETTINGS | {"heads": ["L5H3", "L0H0", "L2H1"], "n_resamples": 3, "calibrate": False})
    acts = detector.capture(tiny, examples, progress=False)
    fitted = detector.fit(acts, progress=False)
    assert fitted.heads_.labels == ("L5H3", "L0H0", "L2H1")
    assert fitted.rss_.size == len(tiny.heads)
    assert "folds" not in fitted.experts_.stability
    assert fitted.experts_.table[["in_folds", "in_resamples"]].isna().to_numpy().all()
    with pytest.raises(InputError, match=r"heads must be one or more of the 48 heads .* L99H0 are given"):
        HeadHunt(**SETTINGS | {"heads": ["L99H0"]}).fit(acts)
