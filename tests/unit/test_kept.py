"""A fit that is stopped goes on where it was, and gives what it would have given."""

from __future__ import annotations

import hunters
import numpy as np
import pytest

from headprobe.errors import FingerprintError
from headprobe.headhunt.kept import kept_activations
from headprobe.headhunt.material import labelled_examples
from headprobe.headhunt.pipeline import HeadHunt
from headprobe.trace.tracer import HeadTracer

SETTINGS = {"k": 2, "n_permutations": 0} | hunters.SETTINGS


@pytest.fixture(scope="module")
def tiny():
    return hunters.model()


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    files = [folder / f"v{i}.mp4" for i in range(6)]
    for i, file in enumerate(files):
        hunters.video(file, 32, seed=i)
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
    hunter = HeadHunt(**SETTINGS)
    stop = True
    with pytest.raises(KeyboardInterrupt):
        kept_activations(hunter, tiny, examples, tmp_path / "z", progress=False)
    assert len(read) == 4  # two videos of two segments
    stop = False
    acts = kept_activations(hunter, tiny, examples, tmp_path / "z", progress=False)
    assert sorted(read) == sorted(example.id for example in examples)
    again = kept_activations(hunter, tiny, examples[::-1], tmp_path / "z", progress=False)
    assert len(read) == len(examples)
    assert again.examples["id"].tolist() == [example.id for example in examples[::-1]]
    assert acts.labels.tolist() == [example.label for example in examples]
    whole = HeadHunt(**SETTINGS).fit(tiny, examples, progress=False)
    kept = hunter.fit(acts)
    assert kept.heads_ == whole.heads_
    assert (kept.fps_, kept.calibration_groups_) == (whole.fps_, whole.calibration_groups_)
    np.testing.assert_allclose(kept.score(acts), whole.score(acts), atol=1e-6)
    assert kept.provenance_.weights_hash == whole.provenance_.weights_hash


def test_what_other_prompts_or_another_model_gave_is_refused(tiny, examples, tmp_path) -> None:
    kept_activations(HeadHunt(**SETTINGS), tiny, examples[:2], tmp_path / "z", progress=False)
    other = HeadHunt(**SETTINGS | {"prompts": ["what happens here ?"]})
    with pytest.raises(FingerprintError, match="made in another way: prompts differ; name another folder"):
        kept_activations(other, tiny, examples[:2], tmp_path / "z", progress=False)
    with pytest.raises(FingerprintError, match="frames differ"):
        kept_activations(HeadHunt(**SETTINGS | {"sample_frames": 4}), tiny, examples[:2], tmp_path / "z")
