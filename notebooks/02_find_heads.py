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
# # 2. Find heads
#
# **The question:** somebody leaves a bag on the ground. Which heads of the model tell
# such clips from clips in which nothing happens, whatever the wording of the prompt?
# Twenty-four labelled clips are all there is to find them.
#
# This is the hunt of HeadHunt-VAD ([arXiv
# 2512.17601](https://arxiv.org/abs/2512.17601)): score every head under several
# prompts, and keep the few that score well under all of them.

# %%
import headprobe
import numpy as np
import pandas as pd
from headprobe import edits, positions
from headprobe.metrics.consensus import combine, consensus_scores
from headprobe.plotting.heatmap import heatmap_grid
from headprobe.plotting.ranks import consensus_plot, rank_plot, stability_plot
from headprobe.video import scenes
from sklearn.metrics import roc_auc_score

model = headprobe.load("tiny")
tracer = headprobe.HeadTracer(model)
prompts = {
    "ground": "is there a bag on the ground ?",
    "left": "is a bag left on the ground ?",
    "open": "what happens here ?",
    "describe": "describe the scene and say if anything abnormal happens .",
}
found_on = scenes.labelled_clips(24, seed=0, events=["bag"])
acts = tracer.capture(found_on, prompts, resid_post=True, progress=False)
acts

# %% [markdown]
# ## Saliency
#
# Four metrics compare the two classes, head by head: the separation of the means
# (`lda`), two Gaussians (`kl`), whole distributions (`mmd`) and a clustering that does
# not see the labels (`nmi`). Their units differ, so every panel has a scale of its own.

# %%
scores = headprobe.saliency(acts)
heatmap_grid(scores.mean("prompt"), scale="each", columns=2)

# %% [markdown]
# How far the metrics agree on the order of the 48 heads, in rank correlations:

# %%
means = scores.mean("prompt")
pd.DataFrame(
    means.stack(place=("layer", "head")).transpose("place", "metric").values,
    columns=[str(name) for name in means["metric"].values],
).corr("spearman").round(2)

# %% [markdown]
# To be added up, each metric has to come to the range 0 to 1 over all heads. The paper
# does so by the smallest and the largest score. Here that would be a mistake: one head
# hardly varies within a class, and its divergence is so large that it would set the
# scale of all others. (headprobe warns of it.)

# %%
kl = scores.sel(metric="kl", prompt="ground")
print(
    "the three largest divergences:",
    *(f"{value:,.0f}" for value in np.sort(kl.values.ravel())[-3:]),
)

# %% [markdown]
# So the ranks of the heads are averaged instead. One map for each prompt is left:

# %%
by_prompt = combine(scores, "rank")
heatmap_grid(by_prompt, annotate_top=2, columns=2, label="saliency")

# %% [markdown]
# ## Stability
#
# A head that answers to one wording only is of little use. The robust score takes half
# a standard deviation over the prompts off the mean. The grey lines join heads of equal
# robust score.

# %%
heads = headprobe.consensus(by_prompt, k=5)
stability_plot(by_prompt, mark=heads, k=5)

# %% [markdown]
# ## Consensus
#
# The five heads of the highest robust score, and the rank that each of them has under
# every single prompt. The first is among the best two whatever is asked.

# %%
rss = headprobe.rss(by_prompt)
print(*heads.labels)
consensus_plot(by_prompt, heads, final=rss, k=5)

# %%
headprobe.heatmap(rss, mark=heads, marginals=True, title="robust saliency of all heads")

# %% [markdown]
# The robust score is one way to bring rankings together. Others use the ranks alone, or
# expect that a minority of the prompts is wrong. If they chose quite other heads, the
# choice would say more about the method than about the model.

# %%
methods = (
    "rss",
    "borda",
    "median_rank",
    "robust_rank_aggregation",
    "kemeny",
    "reciprocal_rank_fusion",
)
chosen = {name: headprobe.consensus(by_prompt, 5, name) for name in methods}
pd.DataFrame(
    {
        name: {"heads": " ".join(h.labels), "shared with rss": len(h & heads)}
        for name, h in chosen.items()
    }
).T

# %% [markdown]
# All of them put the same head first; about the others they differ. Is there a cliff
# behind the fifth head? If not, "the five heads" is a convenience, and six or four would
# do as well.

# %%
rank_plot(consensus_scores(by_prompt), mark=heads, k=5, spread=by_prompt.std("prompt"))

# %% [markdown]
# ## On clips that did not choose
#
# The heads were chosen on these 24 clips, so on these clips they look good. What counts
# is other clips, of other scenes: 120 of them, told apart by a logistic regression that
# was fitted on the first 24. First on every head alone, so that the best of the hunted
# heads stands on the map among all others:

# %%
new_clips = scenes.labelled_clips(120, seed=1, split="test", events=["bag"])
held_out = tracer.capture(new_clips, prompts, resid_post=True, progress=False)


def auc(train, test):
    """AUC on the held-out clips, averaged over the prompts."""
    values = []
    for p in range(len(prompts)):
        probe = headprobe.HeadProbe(C=0.1).fit(train[p].flatten(1), acts.labels)
        values.append(roc_auc_score(held_out.labels, probe.decision_function(test[p].flatten(1))))
    return float(np.mean(values))


def auc_of(some):
    """The same, from the outputs of some heads."""
    return auc(acts.select(some), held_out.select(some))


first = heads[0]
alone = {head: auc_of([head]) for head in model.heads}
grid = np.reshape(list(alone.values()), rss.shape)
headprobe.heatmap(grid, mark=[first], label="held-out AUC", title="each head alone, on other clips")

# %% [markdown]
# Then against what could be had without a hunt: heads drawn at random, from all and from
# the layers of the hunted ones; all heads together; and the last layer's hidden state.

# %%
others = [head for head in model.heads if head != first]
same_layer = [head for head in others if head.layer == first.layer]
random_fives = [headprobe.HeadSet.random(model.heads, 5, seed) for seed in range(10)]
fives_of_layers = [heads.random_of_same_layers(model.heads, seed) for seed in range(10)]
results = {
    "the first hunted head": [alone[first]],
    "another head, each of 47": [alone[head] for head in others],
    "another head of its layer, each of 7": [alone[head] for head in same_layer],
    "the five hunted heads": [auc_of(heads)],
    "five random heads, ten draws": [auc_of(some) for some in random_fives],
    "five random heads of the same layers": [auc_of(some) for some in fives_of_layers],
    "all 48 heads": [auc(acts.z, held_out.z)],
    "last hidden state": [auc(acts.resid_post[:, :, -1], held_out.resid_post[:, :, -1])],
}
table = pd.DataFrame({name: [np.mean(v), min(v), max(v)] for name, v in results.items()})
table.set_axis(["mean AUC on held-out clips", "lowest", "highest"]).T.round(3)

# %% [markdown]
# ## Does the model use it?
#
# The model can be asked for the bag directly. How often is its answer right if one
# head's output, at the last token, is replaced by its mean over the first clips?

# %%
question, answers = prompts["ground"], ["yes", "no"]
reference = tracer.capture(found_on, question, progress=False)


def right_without(some):
    """Share of right answers on the held-out clips without what these heads say."""
    with edits.mean(model, some, reference, positions.last()):
        after = tracer.capture(new_clips, question, answers=answers, progress=False)
    yes, no = after.answer_logits[0].T
    return float(((yes > no).numpy() == after.labels).mean())


untouched = tracer.capture(new_clips, question, answers=answers, progress=False)
yes, no = untouched.answer_logits[0].T
answered = {
    "nothing": float(((yes > no).numpy() == untouched.labels).mean()),
    f"{first}, the first hunted head": right_without([first]),
    "another head of its layer, the worst choice": min(
        right_without([head]) for head in same_layer
    ),
    "the other four hunted heads together": right_without(heads[1:]),
}
pd.Series(answered, name="right answers without it").round(3).to_frame()

# %% [markdown]
# ## What was shown, and what was not
#
# - Out of 48 heads, 24 clips find one that tells a left bag on clips of other scenes better than
#   any other head alone, better than heads drawn at random, and no worse than all heads together.
#   Without it the model's own answer falls towards a coin's; without the others it stays.
# - Hunting paid for the first head. Five hunted heads are hardly better than five random ones: in
#   this small model most heads carry some of the event, and five of them add up to enough. Choose
#   k by what held-out clips say.
# - Not shown: that this holds for every question. Asked for anything abnormal, random heads of the
#   same layers do as well as the hunted ones: [notebook 3](03_is_it_luck.ipynb) has that case, and
#   asks which scores beat chance. For a car on the path, [notebook 4](04_causal.ipynb) finds that
#   most heads that know of it are not needed.
# - Not shown: that other clips would choose the same five. Of three draws of clips, which the
#   test of this notebook makes, all have the same first head; the others change
#   ([why](../docs/concepts/choosing_heads.md#why-other-clips-choose-other-heads)).
