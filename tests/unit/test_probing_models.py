"""Selection, probe and controls on captured heads: an untrained model of the same shape is one of the controls."""

from __future__ import annotations

import headprobe
from headprobe import HeadTracer
from headprobe.probing import HeadProbe, HeadSelector, cross_validate, summarise
from headprobe.video.scenes import labelled_clips


def test_a_trained_model_beside_the_controls() -> None:
    clips = labelled_clips(24, seed=5)
    prompt = "is anything unusual ?"
    acts, bare = (
        HeadTracer(headprobe.load(name)).capture(clips, prompt, progress=False) for name in ("tiny", "tiny-untrained")
    )
    table = cross_validate(
        acts.z[0],
        acts.labels,
        HeadProbe("logistic"),
        HeadSelector(3, metric="lda"),
        acts.groups,
        control=["shuffled_labels", "random_heads", "random_model"],
        untrained=bare.z[0],
        n_splits=4,
        n_draws=4,
    )
    assert (table["n_heads"] == 3).all()
    means = summarise(table).set_index("condition")["mean"]
    assert means["probe"] > 0.8
    assert means["probe"] > means["random_model"]
    assert abs(means["shuffled_labels"] - 0.5) < 0.2
