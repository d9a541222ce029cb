"""Longformer: whole windows, positions of the real tokens, and a load check that follows chunks of attention."""

from __future__ import annotations

import warnings

import pytest
import torch
import transformers
from equality import close
from families import randomise
from families.longformer import FAMILIES, tokenizer
from families.text import SIZES

import headprobe
from headprobe import HeadTracer, positions
from headprobe.errors import HeadprobeWarning, InputError, SiteError, UnsupportedModelError
from headprobe.trace.attention import attention

(FAMILY,) = FAMILIES


def load(kind: str = "LongformerModel", windows=8, **options):
    torch.manual_seed(0)
    words = tokenizer()
    sizes = SIZES | {"vocab_size": len(words), "pad_token_id": 1, "attention_window": windows}
    module = getattr(transformers, kind)(transformers.LongformerConfig(**sizes))
    return headprobe.load(randomise(module), tokenizer=words, **options)


def with_the_models_own_padding(model, text: str) -> list[torch.Tensor]:
    """What enters every projection where the model gets a text as it is."""
    taken: list[torch.Tensor] = []
    handles = [
        model.module.get_submodule(site.path).register_forward_pre_hook(lambda _, args: taken.append(args[0]))
        for site in model.sites
    ]
    with torch.no_grad():
        model.module(input_ids=torch.tensor([model.tokenizer(text)["input_ids"]]))
    for handle in handles:
        handle.remove()
    return taken


def test_it_loads_without_a_warning_and_every_layer_is_followed():
    with warnings.catch_warnings():
        warnings.simplefilter("error", HeadprobeWarning)
        model = FAMILY.load()
    assert (model.adapter.name, model.adapter.padding_side, len(model.heads)) == ("longformer", "right", 12)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 23, 100])
@pytest.mark.parametrize("kind", ["LongformerModel", "LongformerForSequenceClassification"])
def test_a_text_of_any_length_reads_what_the_model_computes_with_its_own_padding(kind, n):
    model = load(kind)
    text = "".join("abcdefghijk"[i % 11] for i in range(n))
    batch = model.adapter.prepare([text], "", model)
    assert (batch.ids.shape[1], batch.token_info.lengths.tolist()) == (-(-n // 8) * 8, [n])
    acts = HeadTracer(model).capture([text], positions=positions.all().each(), progress=False)
    assert acts.read["index"].tolist() == list(range(n))
    assert acts.read["n_tokens"].tolist() == [n] * n
    for layer, own in enumerate(with_the_models_own_padding(model, text)):
        assert own.shape[1] == batch.ids.shape[1]
        assert close(acts.z[0, :, layer].flatten(1), own[0, :n])


@pytest.mark.parametrize(("windows", "whole"), [(8, 8), ([8, 8, 8], 8), ([8, 12, 8], 24), ([4, 8, 8], 8)])
def test_inputs_are_whole_windows_of_every_layer(windows, whole):
    model = load(windows=windows)
    texts = ["x", "y" * (whole + 1)]
    batch = model.adapter.prepare(texts, "", model)
    assert batch.ids.shape == (2, 2 * whole)
    assert batch.token_info.lengths.tolist() == [1, whole + 1]
    assert batch.token_info.rank[0].tolist() == [0, *[-1] * (2 * whole - 1)]
    acts = HeadTracer(model).capture(texts, progress=False)
    assert acts.read["index"].tolist() == [0, whole]


def test_hidden_states_are_those_of_the_model():
    model, text = load(), "a man walks"
    acts = HeadTracer(model).capture([text], resid_post=True, progress=False)
    ids = torch.tensor([model.tokenizer(text)["input_ids"]])
    with torch.no_grad():
        states = model.module(input_ids=ids, output_hidden_states=True).hidden_states[1:]
    assert close(acts.resid_post[0, 0], torch.stack([state[0, -1] for state in states]))


def test_the_longest_text_runs_and_one_token_more_is_refused():
    model = load()  # 128 places, of which two are never used
    acts = HeadTracer(model).capture(["x" * 126], progress=False)
    assert torch.isfinite(acts.values).all()
    with pytest.raises(InputError, match=r"A text has 127 tokens, but .* has 126 positions; shorten it"):
        HeadTracer(model).capture(["x" * 127], progress=False)


def test_heads_in_another_order_are_refused_at_load():
    module = FAMILY.module(0)
    module.encoder.layer[1].attention.self.register_forward_hook(
        lambda _, args, output: (output[0].unflatten(-1, (4, 8)).transpose(-1, -2).flatten(-2),)
    )
    with pytest.raises(SiteError, match=r"layer.1.attention.output.dense: .* the heads are interleaved"):
        headprobe.load(module, tokenizer=tokenizer())


def test_its_attention_has_no_row_over_all_tokens_and_says_so():
    with pytest.raises(UnsupportedModelError, match=r"\[batch, head, query, token\] = .* its weights cannot be read"):
        attention(load(), ["a man walks"], progress=False)
