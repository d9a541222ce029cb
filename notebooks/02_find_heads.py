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
# **The question:** which heads of the model tell clips in which something abnormal
# happens from clips in which nothing does, whatever the wording of the prompt?
#
# This is the hunt of HeadHunt-VAD ([arXiv
# 2512.17601](https://arxiv.org/abs/2512.17601)): score every head under several
# prompts, and keep the few that score well under all of them.

# %%
# %matplotlib inline
import headprobe
import numpy as np
import pandas as pd
from headprobe.metrics.consensus import combine, consensus_scores
from headprobe.plotting.heatmap import heatmap_grid
from headprobe.plotting.ranks import consensus_plot, rank_plot, stability_plot
from headprobe.video import scenes
from sklearn.metrics import roc_auc_score

model = headprobe.load("tiny")
tracer = headprobe.HeadTracer(model)
prompts = {
    "describe": "describe the scene and say if anything abnormal happens .",
    "deviate": "are there any abnormal events that deviate from the normal scene ?",
    "fight": "is there a fight ?",
    "open": "what happens here ?",
}
found_on = scenes.labelled_clips(60, seed=0)
acts = tracer.capture(found_on, prompts, progress=False)
tuple(acts.z.shape)

# %% [markdown]
# ## Saliency
#
# Four metrics compare the two classes, head by head: the separation of the means
# (`lda`), two Gaussians (`kl`), whole distributions (`mmd`) and a clustering that does
# not see the labels (`nmi`). Their units differ, so every panel has a scale of its own.

# %%
scores = headprobe.saliency(acts)
axes = heatmap_grid(scores.mean("prompt"), scale="each", columns=2)
axes["lda"].figure

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
# of layer 0 hardly varies within a class, and its divergence is so large that it would
# set the scale of all others. (headprobe warns of it.)

# %%
kl = scores.sel(metric="kl", prompt="fight")
print(
    "the three largest divergences:",
    *(f"{value:,.0f}" for value in np.sort(kl.values.ravel())[-3:]),
)

# %% [markdown]
# So the ranks of the heads are averaged instead. One map for each prompt is left:

# %%
by_prompt = combine(scores, "rank")
axes = heatmap_grid(by_prompt, annotate_top=2, columns=2, label="saliency")
axes["open"].figure

# %% [markdown]
# ## Stability
#
# A head that answers to one wording only is of little use. The robust score takes half
# a standard deviation over the prompts off the mean. The grey lines join heads of equal
# robust score.

# %%
heads = headprobe.consensus(by_prompt, k=5)
ax = stability_plot(by_prompt, mark=heads, k=5)
ax.figure

# %% [markdown]
# ## Consensus
#
# The five heads of the highest robust score, and the rank that each of them has under
# every single prompt.

# %%
rss = headprobe.rss(by_prompt)
print(*heads.labels)
ax = consensus_plot(by_prompt, heads, final=rss, k=5)
ax.figure

# %%
ax = headprobe.heatmap(rss, mark=heads, marginals=True, title="robust saliency of all heads")
ax.figure

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
# Is there a cliff behind the fifth head? If not, "the five heads" is a convenience, and
# six or four would do as well.

# %%
ax = rank_plot(consensus_scores(by_prompt), mark=heads, k=5, spread=by_prompt.std("prompt"))
ax.figure

# %% [markdown]
# ## On clips that did not choose
#
# The heads were chosen on these 60 clips, so on these clips they look good. On 80 clips
# of other scenes, with a logistic regression that was fitted on the first 60, the five
# heads stand beside five random ones, all 48, and the last layer's hidden state.

# %%
held_out = tracer.capture(
    scenes.labelled_clips(80, seed=1, split="test"), prompts, resid_post=True, progress=False
)
again = tracer.capture(found_on, prompts, resid_post=True, progress=False)


def auc(train, test):
    """AUC on the held-out clips, averaged over the prompts."""
    values = []
    for p in range(len(prompts)):
        probe = headprobe.HeadProbe(C=0.1).fit(train[p].flatten(1), acts.labels)
        values.append(roc_auc_score(held_out.labels, probe.decision_function(test[p].flatten(1))))
    return float(np.mean(values))


random_auc = [
    auc(acts.select(some), held_out.select(some))
    for some in (headprobe.HeadSet.random(model.heads, 5, random_state=seed) for seed in range(10))
]
results = {
    "five hunted heads": auc(acts.select(heads), held_out.select(heads)),
    "five random heads, mean of ten draws": float(np.mean(random_auc)),
    "five random heads, best of ten draws": float(np.max(random_auc)),
    "all 48 heads": auc(acts.z, held_out.z),
    "last hidden state": auc(again.resid_post[:, :, -1], held_out.resid_post[:, :, -1]),
}
pd.Series(results, name="AUC on held-out clips").round(3).to_frame()

# %% [markdown]
# ## What was shown, and what was not
#
# - The map of scores, its stability over wordings, and five heads that several ways of agreeing
#   choose. On clips of other scenes they tell the classes apart.
# - Not shown: that five is the right number, or that the five are much better than others. In this
#   small model, which was trained on one domain, most heads carry the event, so random heads are a
#   strong baseline and all heads together are at least as good. Look at the table above before you
#   believe a heatmap.
# - Not shown: that the scores beat chance ([notebook 3](03_is_it_luck.ipynb)), or that the model
#   uses these heads ([notebook 4](04_causal.ipynb)).
