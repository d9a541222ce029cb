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
# # 1. Trace heads
#
# **The question:** what exactly is "a head's output", and how do I know that it was
# read right?
#
# Everything in this notebook runs offline on the embedded model, in a few seconds.
# Replace `"tiny"` by the folder or the name of a checkpoint, and the rendered clips by
# your own arrays of frames, and the same code holds.

# %%
import headprobe
import numpy as np
import torch
from headprobe.video import scenes
from matplotlib import pyplot as plt

model = headprobe.load("tiny")
print(model.sites[0])
model

# %% [markdown]
# Its heads are called `L0H0` to `L5H7`; `L3H1` is head 1 of layer 3, and both count from
# 0. A *site* says where the heads of a layer are: the module named there is the output
# projection of the attention block, and what headprobe reads is its **input**, cut into
# heads.
#
# ## Something to look at
#
# Clips are arrays `[frame, height, width, 3]`. These are rendered; label 1 means that
# something happens that should not.

# %%
clips = scenes.labelled_clips(6, seed=1)
figure, axes = plt.subplots(2, 1, figsize=(9, 2.6), layout="constrained")
for ax, clip in zip(axes, clips[2:4], strict=True):
    ax.imshow(np.concatenate(list(clip.content), axis=1), interpolation="nearest")
    ax.set(xticks=[], yticks=[], ylabel=f"label {clip.label}")

# %% [markdown]
# ## Capture
#
# One call runs every clip under every prompt and keeps each head's output at the last
# token of the prompt: the place from which the model predicts the first word of its
# answer.

# %%
prompts = {"fight": "is there a fight ?", "car": "is there a car on the path ?"}
tracer = headprobe.HeadTracer(model)
acts = tracer.capture(clips, prompts, progress=False)
print("prompt, example, layer, head, d_head:", tuple(acts.z.shape))
acts

# %% [markdown]
# How the numbers came about travels with them. A store or a result with another
# fingerprint is another measurement.

# %%
acts.provenance.fingerprint, acts.provenance.positions, acts.provenance.dtype

# %% [markdown]
# ## Was it read right?
#
# Two checks. First, the same layer read with a plain PyTorch hook, without headprobe's
# tracing. Both look at the same pass, so that the numbers must be equal bit for bit; another
# pass would agree to rounding, since its last bits depend on how the processor was used.

# %%
seen = {}
site = model.sites[3]
projection = model.module.get_submodule(site.path)


def keep(module, args):
    seen["in"] = args[0].detach().clone()


def keep_out(module, args, output):
    seen["out"] = output.detach().clone()


hooks = [projection.register_forward_pre_hook(keep), projection.register_forward_hook(keep_out)]
# One prompt and one batch: one pass.
alone = tracer.capture(clips, prompts["fight"], batch_size=len(clips), progress=False)
for hook in hooks:
    hook.remove()

by_hand = seen["in"][:, -1].view(len(clips), site.n_heads, site.head_dim)
equal = torch.equal(by_hand, alone.z[0, :, 3])
print("equal to a plain hook of the same pass, bit for bit:", equal)
assert equal

# %% [markdown]
# Second, the identity that makes "a head's output" mean something: what the heads
# write, added up, is what the projection puts out. headprobe checks it whenever a model
# is loaded and refuses a model that fails it.

# %%
weight = projection.weight.view(-1, site.n_heads, site.head_dim)  # out, head, d_head
written = torch.einsum("bhd,ohd->bho", by_hand, weight)
out = seen["out"][:, -1]
largest = (written.sum(1) - out).abs().max()
print(f"sum of the heads against the projection's output: largest difference {largest:.1e}")
assert largest < 1e-5

# %% [markdown]
# The classic mistake is to cut the projection's *output* into equal pieces and call
# those heads. The shapes agree and nothing fails; but every piece is a mixture of all
# heads. How much of a "head" of that kind is really that head's own doing?

# %%
pieces = out.view(len(clips), site.n_heads, site.head_dim)
own = torch.stack([written[:, h].view(pieces.shape)[:, h] for h in range(site.n_heads)], 1)
left_over = (pieces - own).norm() / pieces.norm()
print(f"what the head of that number did not write, relative to the piece: {left_over:.2f}")

# %% [markdown]
# ## Other places to read
#
# A position says at which tokens to read; several are read in one pass. Here: at the
# last token, and at every time step of the video.

# %%
from headprobe import positions

several = tracer.capture(
    clips,
    prompts["fight"],
    positions={"last": positions.last(), "steps": positions.per_frame()},
    progress=False,
)
several["steps"].examples.head(4)

# %% [markdown]
# ## Where a head looks
#
# Attention shows from which tokens a head takes what it passes on. At the last token,
# most heads of this model take nearly everything from the video, a few next to nothing.
# Here is the clip with a fight, and the three heads that look at the video most.

# %%
from headprobe.plotting.frames import frames
from headprobe.trace.attention import attention

looks = attention(model, [clips[3]], prompts=prompts["fight"], progress=False)
share = looks.video_share()[0, 0]
print(f"share to the video: {share.min():.2f} to {share.max():.2f}, median {share.median():.2f}")
print(f"heads that give it less than a tenth: {(share < 0.1).sum()} of {len(share)}")
order = share.argsort(descending=True)[:3].tolist()
frames(
    clips[3],
    looks.patterns[0][0].to_video()[order],
    [looks.heads[i] for i in order],
    frames_per_token=2,
)

# %% [markdown]
# ## What was shown, and what was not
#
# - A head's output `z` is the input of the output projection. What headprobe reads equals a plain
#   hook of the same pass bit for bit, and the heads add up to what the block writes. Cutting the
#   output instead gives pieces that belong to no head.
# - Not shown: that any of these heads carries anything in particular. A picture of attention says
#   where a head reads, not what it does with what it reads. [Notebook 2](02_find_heads.ipynb) asks
#   which heads carry a concept, and [notebook 4](04_causal.ipynb) which of them the model uses.
