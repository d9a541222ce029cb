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
# # 6. A probing task of one's own
#
# **The question:** does a language model carry the number of a sentence's subject to
# the place where it needs it for the verb, and through which heads? Forty lines from
# the idea to the heatmap.
#
# *the dogs near the cat* ... *run*, but *the dog near the cats* ... *runs*. The noun
# beside the verb is a trap: what counts is the first noun. So that the notebook needs
# no download, the first cell trains a decoder of two layers on such sentences, which
# takes seconds; with a checkpoint, `headprobe.load("path")` replaces all of it.

# %%
import headprobe
import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

nouns = ["dog", "cat", "boy", "girl", "bird", "horse", "king", "guest", "artist", "judge"]
verbs = [["runs", "sings", "sleeps", "waits"], ["run", "sing", "sleep", "wait"]]
links = ["near", "behind", "with"]
words = ["<pad>", "the", *nouns, *(noun + "s" for noun in nouns), *links, *verbs[0], *verbs[1]]
numbered = {word: i for i, word in enumerate(words)}
splitter = Tokenizer(models.WordLevel(numbered, unk_token="<pad>"))
splitter.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=splitter, pad_token="<pad>", unk_token="<pad>")


def sentence(rng):
    """A sentence without its verb, its number (0 or 1), and the noun that is its subject."""
    (subject, other), (number, trap) = rng.choice(nouns, 2, replace=False), rng.integers(2, size=2)
    text = f"the {subject}{'s' * number} {rng.choice(links)} the {other}{'s' * trap}"
    return text, int(number), str(subject)


def train(steps, rng):
    """A decoder that has learned to say a verb of the right number."""
    torch.manual_seed(0)
    size = {"n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 8, "vocab_size": len(words)}
    module = GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0, **size))
    optimiser = torch.optim.AdamW(module.parameters(), lr=2e-3)
    for _ in range(steps):
        texts, numbers, _ = zip(*(sentence(rng) for _ in range(64)), strict=True)
        verb = torch.tensor([numbered[rng.choice(verbs[number])] for number in numbers])
        logits = module(tokenizer(list(texts), return_tensors="pt")["input_ids"]).logits[:, -1]
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(logits, verb).backward()
        optimiser.step()
    return module


trained = headprobe.load(train(300, np.random.default_rng(0)), tokenizer=tokenizer)

# %% [markdown]
# The task itself: labelled examples, a capture, a score for every head. The *group* of
# a sentence is its subject: the probe behind the score is tested on nouns that it was
# not fitted to, so that it has to find number, and cannot learn that "dogs" and "boys"
# are two words.

# %%
rng = np.random.default_rng(1)
drawn = [sentence(rng) for _ in range(240)]
examples = [headprobe.Example(text, f"s{i}", y, group) for i, (text, y, group) in enumerate(drawn)]
acts = headprobe.HeadTracer(trained).capture(examples, progress=False)
scores = headprobe.saliency(acts, metrics=["auroc"]).squeeze(drop=True).rename("AUC on other nouns")
headprobe.heatmap(scores, title="number of the subject", vmin=0.5, vmax=1.0)

# %% [markdown]
# ## Is it the model, or the words?
#
# The same decoder before training. A random network also mixes the words into its last
# token, and a probe that may be tested on the nouns it has seen will read them there.
# Tested on other nouns, it should find nothing.

# %%
random_model = headprobe.load(train(0, np.random.default_rng(0)), tokenizer=tokenizer)
before = headprobe.HeadTracer(random_model).capture(examples, progress=False)
for name, some in (("trained", acts), ("random", before)):
    new = headprobe.saliency(some, metrics=["auroc"]).max().item()
    seen = headprobe.saliency(some, metrics=["auroc"], groups=False).max().item()
    print(f"{name:8} best head: AUC {new:.2f} on other nouns, {seen:.2f} on fitted nouns")

# %% [markdown]
# ## Is it the subject, or any noun?
#
# The same heads and the same sentences, with the number of the *other* noun as the
# label.

# %%
from headprobe.plotting.heatmap import heatmap_grid

trap = [int(text.endswith("s")) for text, _, _ in drawn]
others = [text.split()[-1].removesuffix("s") for text, _, _ in drawn]
of_other = headprobe.saliency(acts, trap, metrics=["auroc"], groups=others).squeeze(drop=True)
both = {"number of the subject": scores, "number of the other noun": of_other}
heatmap_grid(both, label="AUC on other nouns", vmin=0.5, vmax=1.0)

# %% [markdown]
# Layer 0 passes on both, by different heads. In layer 1 every head knows the subject's
# number, and the trap is gone.
#
# ## Does the model use them?
#
# Replace heads by their means over these sentences, and see how often the model still
# prefers a verb of the right number.

# %%
import pandas as pd
from headprobe import edits

forms = [form for pair in zip(*verbs, strict=True) for form in pair]  # runs, run, sings, sing, ...


def right(heads):
    """Share of sentences with more weight on right verbs, with these heads replaced."""
    with edits.mean(trained, heads, acts):
        logits = (
            headprobe.HeadTracer(trained)
            .capture(examples, answers=forms, progress=False)
            .answer_logits[0]
        )
    plural = logits[:, 1::2].logsumexp(1) > logits[:, 0::2].logsumexp(1)
    return (plural.numpy() == acts.labels).mean()


layers = {n: [head for head in trained.heads if head.layer == n] for n in range(2)}
rows = {"one head, the worst choice": min(right([head]) for head in trained.heads)}
rows |= {f"all heads of layer {n}": right(heads) for n, heads in layers.items()}
rows["all heads of both layers"] = right(trained.heads)
pd.Series(rows, name="right without them").round(2).to_frame()

# %% [markdown]
# ## What was shown, and what was not
#
# - A task is examples with labels and groups; the rest is three calls. In the trained decoder the
#   number of the subject can be read at the last token from some heads, also for nouns on which no
#   probe was fitted; in the same decoder before training it hardly can.
# - To be readable is not to be needed: from every head of layer 1 the number can be read, and
#   without all of them the model answers as well as before. In layer 0 no single head is needed
#   either, because each has a stand-in; all together are.
# - The choice of groups matters: on nouns that the probe has seen, a random network looks better
#   than it is.
# - Not shown: that the heads *compute* number. A head may pass on what an embedding holds.
# - Not shown: anything about a real language model. Replace the first cell and see.
