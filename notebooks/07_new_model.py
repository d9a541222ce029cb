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
# # 7. A new model
#
# **The question:** I have a checkpoint that headprobe may not know. Where are its
# heads, can it be fed, and how do I know that what comes out is right?

# %%
import tempfile
from pathlib import Path

import headprobe
import torch
from headprobe.errors import SiteError, UnsupportedModelError
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

# %% [markdown]
# ## A checkpoint of a known family
#
# In place of a download, a small random Llama with grouped queries, saved as a
# checkpoint folder.

# %%
folder = Path(tempfile.mkdtemp()) / "checkpoint"
vocabulary = {
    word: i
    for i, word in enumerate(["<pad>", "the", "a", "dog", "cat", "runs", "sleeps", "in", "park"])
}
words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<pad>")
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=len(vocabulary),
    hidden_size=48,
    intermediate_size=64,
    num_hidden_layers=4,
    num_attention_heads=6,
    num_key_value_heads=2,
    pad_token_id=0,
)
LlamaForCausalLM(config).save_pretrained(folder)
_ = tokenizer.save_pretrained(folder)

# %% [markdown]
# `inspect_model` reads the configuration alone, so it also works on a `config.json` of
# a model that would not fit into memory. On the command line it is `headprobe inspect
# FOLDER`.

# %%
found = headprobe.inspect_model(folder)
print(
    f"{found.model_class}: {found.n_layers} layers of width {found.d_model}, fed {found.modality}"
)
print(found.groups[0])

# %%
model = headprobe.load(folder)
texts = ["the dog runs in the park", "a cat sleeps", "the cat runs"]
acts = headprobe.HeadTracer(model).capture(texts, progress=False)
tuple(acts.z.shape)

# %% [markdown]
# At load, two things were checked on the weights themselves: that the heads add up to
# what the projection puts out, and, for a family without an adapter of its own, that a
# padded batch equals its single examples. The second is worth seeing once. The texts
# differ in length, so the short ones were padded:

# %%
alone = [headprobe.HeadTracer(model).capture([text], progress=False).z[:, 0] for text in texts]
difference = max((one - acts.z[:, i]).abs().max().item() for i, one in enumerate(alone))
print(f"largest difference between a batch and single examples: {difference:.1e}")
assert difference < 1e-5

# %% [markdown]
# ## A model of one's own
#
# Its attention is written in a way that nothing in its structure says what a head is:
# one matrix for queries, keys and values, and names that no family uses.


# %%
class MyConfig(PretrainedConfig):
    model_type = "my_model"

    def __init__(self, width=32, depth=2, count=4, vocab_size=10, **kwargs):
        super().__init__(**kwargs)
        self.width, self.depth, self.count, self.vocab_size = width, depth, count, vocab_size


class Mixing(nn.Module):
    """Causal attention under other names."""

    def __init__(self, config):
        super().__init__()
        self.count = config.count
        self.three = nn.Linear(config.width, 3 * config.width)
        self.back = nn.Linear(config.width, config.width)

    def forward(self, x, allowed):
        q, k, v = self.three(x).view(*x.shape[:2], 3, self.count, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        return self.back(mixed.transpose(1, 2).flatten(2))


class MyModel(PreTrainedModel):
    config_class = MyConfig

    def __init__(self, config):
        super().__init__(config)
        self.words = nn.Embedding(config.vocab_size, config.width)
        self.steps = nn.ModuleList([Mixing(config) for _ in range(config.depth)])
        self.post_init()

    def forward(self, input_ids, attention_mask, position_ids=None, **_):
        n = input_ids.shape[1]
        causal = torch.ones(n, n, dtype=torch.bool).tril()
        # A padding token may look at itself, so that no row of the softmax is empty.
        allowed = (causal & attention_mask[:, None, None].bool()) | torch.eye(n, dtype=torch.bool)
        x = self.words(input_ids)
        for step in self.steps:
            x = x + step(x, allowed)
        return x


mine = MyModel(MyConfig())
try:
    headprobe.load(mine, tokenizer=tokenizer)
except UnsupportedModelError as error:
    print(error)

# %% [markdown]
# headprobe does not guess. It has to be told where the output projections are and how
# many heads their inputs hold, and on which side the model wants its padding, because
# it cannot see that attention looks to the left only.

# %%
from headprobe.models.adapter import register
from headprobe.models.text import TextAdapter

register("my_model", TextAdapter("my_model", "left", "AutoModel"))
sites = [
    headprobe.HeadSite(layer=n, path=f"steps.{n}.back", n_heads=4, head_dim=8) for n in range(2)
]
model = headprobe.load(mine, tokenizer=tokenizer, sites=sites)
acts = headprobe.HeadTracer(model).capture(texts, progress=False)
print(*model.heads.labels)
tuple(acts.z.shape)

# %% [markdown]
# A description that contradicts the module is refused:

# %%
wrong = [
    headprobe.HeadSite(layer=n, path=f"steps.{n}.back", n_heads=4, head_dim=4) for n in range(2)
]
try:
    headprobe.load(mine, tokenizer=tokenizer, sites=wrong)
except SiteError as error:
    print(error)

# %% [markdown]
# But eight heads of four numbers would also fill the 32 inputs of the projection, and
# add up. That the cut is right has to be shown in another way: take away the values of
# one head inside the attention, and see whose output is gone.

# %%
with torch.no_grad():
    mine.steps[0].three.weight.view(3, 4, 8, 32)[2, 1] = 0  # the values of head 1
    mine.steps[0].three.bias.view(3, 4, 8)[2, 1] = 0
after = headprobe.HeadTracer(model).capture(texts, progress=False)
changed = (after.z[0, :, 0] - acts.z[0, :, 0]).abs().amax((0, 2))
print(
    "change in the output of each head of layer 0:", [round(value, 3) for value in changed.tolist()]
)
assert after.z[0, :, 0, 1].abs().max() == 0
assert changed[[0, 2, 3]].max() < 1e-6

# %% [markdown]
# The same should be done for padding, now that an adapter of one's own vouches for it:
# a batch against single examples.

# %%
tracer = headprobe.HeadTracer(model)
alone = torch.cat([tracer.capture([text], progress=False).z for text in texts], 1)
print(
    f"largest difference of a batch to single examples: {(alone - after.z).abs().max().item():.1e}"
)
assert torch.allclose(alone, after.z, atol=1e-5)

# %% [markdown]
# ## What was shown, and what was not
#
# - What `inspect_model` finds, what `load` checks, and what has to be said about a model that is
#   not recognised: sites and an adapter. A model whose heads cannot be told for sure is refused
#   instead of read wrongly.
# - The check at load cannot see a wrong cut of the right size. Taking one head away can.
# - Not shown: video models. Their adapters also pack frames; the page [Add a model
#   family](../docs/howto/add_a_family.md) goes through one from beginning to end.
# - Not shown: that the heads of these random models carry anything. They do not.
