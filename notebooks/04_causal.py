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
# # 4. Does the model use them?
#
# **The question:** the heads that tell classes apart best: are they the heads that the
# model's answer depends on?
#
# A score is a correlation. To see what a head does, change its output and watch the
# answer.

# %%
import headprobe
import numpy as np
import pandas as pd
import torch
import xarray as xr
from headprobe import contribution, edits, positions
from headprobe.video import scenes
from matplotlib import pyplot as plt
from scipy.stats import spearmanr

model = headprobe.load("tiny")
tracer = headprobe.HeadTracer(model)
prompt, answers = "is there a car on the path ?", ["yes", "no"]
clips = scenes.labelled_clips(16, seed=2, events=["vehicle"])
plain = tracer.capture(clips, prompt, answers=answers, progress=False)
labels = torch.as_tensor(plain.labels)


def preference(acts):
    """For each clip, the logit of the right answer less that of the wrong one."""
    yes_over_no = acts.answer_logits[0, :, 0] - acts.answer_logits[0, :, 1]
    return torch.where(labels == 1, yes_over_no, -yes_over_no)


right = preference(plain)
print(f"{(right > 0).float().mean():.0%} of answers are right; mean preference {right.mean():.2f}")

# %% [markdown]
# ## Decodable: the map of scores
#
# The separation of the two classes in each head's output. (The AUC of a probe would be
# 1 for half of the heads, and could not rank them.)

# %%
score = headprobe.saliency(plain, metrics=["lda"]).isel(metric=0, prompt=0, drop=True)
best = headprobe.top_heads(score, 5)
headprobe.heatmap(score, mark=best, label="separation (LDA)", title="which heads know of the car")

# %% [markdown]
# ## Causal: the map of damage
#
# One head after the other is replaced by its mean over these clips, at every token. It
# then says the same about every clip, and nothing else is changed. The number is what
# the right answer loses.

# %%
reference = tracer.capture(clips, prompt, progress=False, positions=positions.all().mean())
loss = xr.zeros_like(score).rename("lost preference")
for head in model.heads:
    with edits.mean(model, [head], reference):
        without = tracer.capture(clips, prompt, heads=[head], answers=answers, progress=False)
    loss.loc[{"layer": head.layer, "head": head.head}] = (right - preference(without)).mean().item()
needed = headprobe.top_heads(loss, 5)
headprobe.heatmap(
    loss,
    mark=needed,
    center=0,
    label="lost preference (logits)",
    title="which heads the answer needs",
)

# %%
flat_score, flat_loss = score.values.ravel(), loss.values.ravel()
correlation = spearmanr(flat_score, flat_loss)
print(
    f"rank correlation of the two maps: {correlation.statistic:.2f} (p = {correlation.pvalue:.2f})"
)
print("know best: ", *best.labels)
print("need most: ", *needed.labels)

# %% [markdown]
# ## Five at a time, against chance
#
# Ablate the five best-scoring heads together, the five heads that cost most alone, and
# ten sets of five random heads. The five of the second row were chosen on these clips
# for what they cost: for them, this is not a test.


# %%
def ablated(heads):
    """Lost preference and share of right answers when the heads are replaced by their means."""
    with edits.mean(model, heads, reference):
        after = preference(
            tracer.capture(clips, prompt, heads=list(heads)[:1], answers=answers, progress=False)
        )
    return {
        "lost preference": (right - after).mean().item(),
        "right answers": (after > 0).float().mean().item(),
    }


draws = pd.DataFrame(
    [ablated(headprobe.HeadSet.random(model.heads, 5, seed)) for seed in range(10)]
)
rows = {
    "nothing": {"lost preference": 0.0, "right answers": (right > 0).float().mean().item()},
    "five best scores": ablated(best),
    "five of the largest single loss": ablated(needed),
    "five random, mean of ten draws": draws.mean().to_dict(),
    "five random, worst of ten draws": {
        "lost preference": draws.max().iloc[0],
        "right answers": draws.min().iloc[1],
    },
}
pd.DataFrame(rows).T.round(2)

# %% [markdown]
# ## Patching
#
# Ablation asks whether a head is needed. Patching asks whether it is enough: a clip
# without a car is shown, and the heads' outputs at the last token are those of a clip
# with one. If the answer moves from "no" to "yes", the heads carried it there.

# %%
with_car = plain.subset(np.flatnonzero(plain.labels == 1))
no_car = [clip for clip in clips if clip.label == 0]
pairs = {clip.id: with_car.examples["id"].iloc[i] for i, clip in enumerate(no_car)}
by_layer = {
    f"all of layer {n}": [head for head in model.heads if head.layer == n] for n in range(6)
}
before = tracer.capture(no_car, prompt, answers=answers, progress=False).answer_logits[0]
moved = {}
for name, heads in {
    "five best scores": best,
    "five of the largest single loss": needed,
    **by_layer,
}.items():
    with edits.patch(model, heads, with_car, positions.last(), pairs=pairs):
        after = tracer.capture(
            no_car, prompt, heads=list(heads)[:1], answers=answers, progress=False
        ).answer_logits[0]
    moved[name] = {
        "moved towards yes (logits)": ((after - before)[:, 0] - (after - before)[:, 1])
        .mean()
        .item(),
        "answers yes": (after[:, 0] > after[:, 1]).float().mean().item(),
    }
pd.DataFrame(moved).T.round(2)

# %% [markdown]
# ## Straight to the answer
#
# Direct logit attribution says what each head writes into the answer itself, without
# what later layers make of it. A head can matter without writing directly, by feeding
# other heads; so this is a third map, not a proof of the second.

# %%
attribution = contribution.logit_attribution(
    model,
    [c for c in clips if c.label == 1],
    answers,
    prompts=prompt,
    difference=True,
    progress=False,
)
direct = contribution.attribution_map(attribution).squeeze(drop=True)
figure, axes = plt.subplots(1, 2, figsize=(7.5, 3.2), layout="constrained")
for ax, other, name in zip(
    axes, (flat_score, direct.values.ravel()), ("separation (LDA)", "direct (logits)"), strict=True
):
    ax.scatter(other, flat_loss, s=18)
    ax.set(xlabel=name, ylabel="lost preference (logits)")

# %% [markdown]
# ## What was shown, and what was not
#
# - Which heads the car can be read from, and which heads the model's answer to this question
#   depends on, are two questions with two maps. Here they meet in two heads of layer 3, which
#   separate well, cost most when they are gone, and write into the answer. Over all heads the maps
#   hardly go together: most heads that know of the car are not needed.
# - Ablating one head at a time misses heads that stand in for each other: the loss of five together
#   is not the sum of five losses.
# - Replacing a head by its mean takes away what it says about the clip, and also shifts what later
#   layers are used to; some of the damage may be of the second kind. Patching at the last token
#   does not see what was carried at earlier tokens.
# - Not shown: anything about another question, other clips, or another model. The five "needed"
#   heads were chosen on the clips that they are reported on.
