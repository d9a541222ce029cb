# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 5. HeadHunt-VAD, from videos to events
#
# **The question:** with a frozen model and a few labelled videos, can abnormal events
# be found in other videos, and when?
#
# The method is HeadHunt-VAD ([arXiv 2512.17601](https://arxiv.org/abs/2512.17601)):
# hunt for a few robust heads, fit a logistic regression on them, smooth its scores over
# time, and call what stays above a threshold an event. Nothing in the model is trained.

# %%
import tempfile
from pathlib import Path

import headprobe
import numpy as np
import pandas as pd
from headprobe.evaluation import constant_per_video, evaluate, position_prior, to_frames
from headprobe.video.clips import clip_examples
from headprobe.video.scenes import write_videos

folder = Path(tempfile.mkdtemp())
kinds = {"normal": 5, "running": 2, "fall": 2, "fight": 2, "vehicle": 2, "bag": 2}
calibration = write_videos(folder / "calibration", "calibration", kinds, seed=0, progress=False)
tests = write_videos(
    folder / "test", "test", {**dict.fromkeys(kinds, 1), "normal": 2}, seed=1, progress=False
)
print(f"{len(calibration)} videos to calibrate on, {len(tests)} of other scenes to report on")

# %% [markdown]
# ## Calibration
#
# Videos are cut into segments of 16 frames, and the model sees 8 of each: calibration
# and use have to look the same. A segment is labelled by the frames in it; its group is
# its video, which no split takes apart.


# %%
def segments(video):
    """Labelled segments of one video."""
    cut = clip_examples(video.path, 16, 8, group=video.name, name=video.name)
    return [
        headprobe.Example(
            e.content, e.id, int(video.truth[slice(*e.span)].mean() >= 0.5), e.group, e.span
        )
        for e in cut
    ]


model = headprobe.load("tiny")
clips = [clip for video in calibration for clip in segments(video)]
detector = headprobe.HeadHunt(k=5, segment_frames=16, sample_frames=8, n_permutations=1000)
detector.fit(
    model, clips, frame_truth={video.name: video.truth for video in calibration}, progress=False
)
detector

# %% [markdown]
# What speaks for each of the five, on the videos that they were chosen on: how often
# parts of the videos choose it too (`in_folds`), and how likely it is that any of the 48
# heads reaches its `auroc` when the labels are shifted along their videos (`p`). Shifted,
# not shuffled, because the segments of a video are a series; even so, `p` can be trusted
# only as far as the heads' outputs do not drift from a video's beginning to its end.

# %%
print(detector.experts_.sentence())
detector.experts_.table.drop(columns="in_resamples").round(3)

# %% [markdown]
# The held-out AUC above is of scores of videos that a fold had not seen, heads and
# regression included; on these, smoothing and threshold were chosen too.
#
# ## Detection
#
# Only the five heads are read, and the forward pass ends at the deepest of them.

# %%
found = {
    result.path.stem: result
    for result in detector.detect(model, [v.path for v in tests], progress=False)
}
shown = next(video for video in tests if video.event == "running")
result = found[shown.name]
headprobe.timeline(
    result.scores,
    result.spans,
    fps=result.info.fps,
    smoothed=result.smoothed,
    events=result.events,
    truth=shown.truth,
    tau=detector.locator_.tau,
    thumbnails=6,
    video=result.path,
    title=f"{shown.name}: {shown.event}",
    label="probability",
)

# %%
rows = []
for video in tests:
    frames = np.flatnonzero(video.truth) / 10  # ten frames a second
    rows.append(
        {
            "video": video.name,
            "what happens": video.event,
            "true (s)": f"{frames[0]:.1f} to {frames[-1] + 0.1:.1f}" if len(frames) else "",
            "found (s)": ", ".join(
                f"{e.start_seconds:.1f} to {e.end_seconds:.1f}" for e in found[video.name].events
            ),
        }
    )
pd.DataFrame(rows)

# %% [markdown]
# ## How good is that, and compared with what?
#
# Frame by frame, beside two scores that look at no frame. `within_auc` is the mean over
# videos of the AUC inside one video, which is what finding the moment means.

# %%
truth = {video.name: video.truth for video in tests}
methods = {
    "HeadHunt-VAD": {
        name: to_frames(r.smoothed, r.spans, len(truth[name])) for name, r in found.items()
    },
    "blind: 1 for every frame of an abnormal video": constant_per_video(truth),
    "blind: middle of the video": {
        name: position_prior(len(labels)) for name, labels in truth.items()
    },
}
table = pd.DataFrame({name: evaluate(scores, truth) for name, scores in methods.items()}).T
table[["auc", "ap", "within_auc"]].astype(float).round(3)

# %% [markdown]
# ## Keep it
#
# A detector is a folder of JSON and safetensors; loading it runs no code. It refuses
# another model than the one it was fitted on.

# %%
detector.save_pretrained(folder / "detector")
again = headprobe.HeadHunt.from_pretrained(folder / "detector")
same = np.array_equal(next(again.detect(model, shown.path, progress=False)).scores, result.scores)
print(sorted(path.name for path in (folder / "detector").iterdir()), "same scores:", same)

# %% [markdown]
# ## What was shown, and what was not
#
# - The whole method, from video files to events in seconds, with everything chosen on calibration
#   videos and reported on videos of other scenes.
# - The numbers stand on seven videos and one draw of calibration videos. `headprobe demo` does the
#   same on 65, with ten draws, random heads, all heads, the never-trained model and the model's own
#   answers beside it; there, all heads together do better than the hunted five.
# - Not shown: anything about real surveillance video ([notebook 8](08_real_video.ipynb)), or about
#   the published numbers, which need the published model and data.
