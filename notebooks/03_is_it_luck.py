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
# # 3. Is it luck?
#
# **The question:** the best of many heads looks good on noise too. Which heads score
# higher than the best of 48 would by chance, how much of their score is the luck of
# having been picked, and do chosen heads beat heads that were not chosen?
#
# In [notebook 2](02_find_heads.ipynb), the hunt for one kind of event paid. This is the
# broader question, anything abnormal, where it is not plain that it does. The example is
# small on purpose: 24 clips. With a hundred clips of this kind, everything is
# significant.

# %%
import headprobe
import pandas as pd
from headprobe import significance
from headprobe.plotting.ranks import null_plot
from headprobe.probing import HeadProbe, HeadSelector, cross_validate, summarise
from headprobe.video import scenes

prompt = "is there a fight ?"
clips = scenes.labelled_clips(24, seed=5)
model = headprobe.load("tiny")
acts = headprobe.HeadTracer(model).capture(clips, prompt, progress=False)
n_heads = len(model.heads)

# %% [markdown]
# ## First, nothing to find
#
# The same activations with labels that were shuffled, sixty times, so there is nothing
# to find. The score is the AUC of a linear probe on clips that it was not fitted to.

# %%
shuffled = significance.relabellings(acts.labels, acts.groups, 60, random_state=1).labels
rows = []
for labels in shuffled:
    nothing = significance.max_statistic(acts.z[0], labels, groups=acts.groups, n_permutations=199)
    found = {
        method: len(nothing.significant(0.05, method)) for method in ("uncorrected", "step_down")
    }
    rows.append({"best AUC": nothing.scores.max().item(), **found})
rows = pd.DataFrame(rows)
print(f"best of {n_heads} heads on shuffled labels: AUC {rows['best AUC'].mean():.2f} on average")
counts = rows[["uncorrected", "step_down"]]
pd.DataFrame(
    {"heads found, on average": counts.mean(), "share of shuffles with a find": (counts > 0).mean()}
).round(2)

# %% [markdown]
# A p-value below 0.05 for each head by itself means that about one head in twenty is
# "found" in noise. The heads of one model have much in common, so when one is found by
# chance, others are with it. The maximum statistic (`step_down`) asks how high the
# *best* head gets when labels are shuffled. It promises a find in one shuffle of
# twenty, which for sixty shuffles means 0.00 to 0.12 of them.
#
# ## The true labels

# %%
result = significance.max_statistic(acts.z[0], acts.labels, groups=acts.groups, n_permutations=500)
found = result.significant(0.05)
print(result)
print(f"{len(found)} of {n_heads} heads:", *found.labels)
null_plot(result, title="held-out AUC of every head, and what chance gives")

# %%
headprobe.heatmap(result.scores, mark=found[:5], p_values=result.p_step_down, label="held-out AUC")

# %% [markdown]
# More than five heads have the highest AUC there is, so which five are outlined says
# nothing; headprobe warns of that, and of heads that vary more in one class than in the
# other, which this test takes for a difference too.
#
# The hatched heads are not shown to carry anything at this number of clips. That is not
# the same as shown to carry nothing. (The dashed line above is where the best of 48 gets
# in one shuffle of twenty. Fewer heads lie beyond it than are found here, because the
# step-down test sets the bar lower for the others once the best are found.)
#
# What is permuted matters. Here each clip shows a scene of its own, so clips can be
# exchanged. Where several clips come from one video, whole videos have to be: give
# `groups=`, and headprobe chooses the scheme and says which.

# %%
(
    result.scheme,
    result.n_permutations,
    f"smallest p that is possible: {1 / (1 + result.n_permutations):.4f}",
)

# %% [markdown]
# ## The winner's curse
#
# Significant or not, the score of a head that was picked for its score is too high. How
# much? Pick the best five on one half of the clips, score the same five on the other
# half, and repeat.

# %%
curse = significance.winners_curse(
    acts.z[0], acts.labels, "auroc", k=5, groups=acts.groups, n_splits=30
)
rows = {
    "the five, where they were picked": curse.selection_score,
    "the same five, on the other half": curse.held_out_score,
    "all heads, on the other half": curse.all_heads,
    "lost by having been picked": curse.gap,
}
pd.DataFrame(rows, index=["mean AUC", "from", "to"]).T.round(3)

# %% [markdown]
# The score to report is the one of the second row. The interval of the last row holds 0:
# halves of 24 clips are too few to say how much is lost by having been picked.
#
# ## Controls
#
# A detector built from the best five heads, inside a cross-validation in which the test
# part chooses nothing. Beside it: the same with shuffled labels, five random heads,
# five random heads of the layers that were chosen, and the best five heads of a copy of
# the model that was never trained.

# %%
untrained = headprobe.HeadTracer(headprobe.load("tiny-untrained")).capture(
    clips, prompt, progress=False
)
table = cross_validate(
    acts.z[0],
    acts.labels,
    HeadProbe(C=0.1),
    HeadSelector(5),
    groups=acts.groups,
    control=["shuffled_labels", "random_heads", "same_layer_heads", "random_model"],
    untrained=untrained.z[0],
    n_splits=4,
    n_repeats=2,
    n_draws=5,
)
summary = summarise(table).set_index("condition")
summary.round(2)

# %% [markdown]
# `difference` is the probe less the control, in the same split. An interval from below
# 0 to above 0 decides nothing. With five shuffles `p` cannot be below 1/6. The intervals
# are symmetric, so near the end of the scale they reach beyond 1.
#
# ## What was shown, and what was not
#
# - Uncorrected p-values find heads in noise. The maximum statistic keeps the chance of a single
#   false find at 5 %, whatever the heads have in common.
# - Some heads of the trained model carry the label beyond chance, and the never-trained copy says
#   how much a random network already gives away. The score of a picked head is too high; by how
#   much, 24 clips do not say.
# - Not shown: that the chosen heads are better than five random ones, of the same layers or of any.
#   In this small model, which was trained on one domain, most heads carry something of every event,
#   so random heads are a strong baseline. Being significant says that a head is not noise, and
#   nothing about its being special.
# - Not shown: what the heads carry. A fight also changes how many people stand close together. The
#   [page on head scores](../docs/concepts/head_scores.md) lists what a score does not say.
