"""XLM and FlauBERT: languages, and blocks that are an attention module alone."""

from __future__ import annotations

import warnings

import pytest
import torch
from equality import close
from families import randomise
from families.text import tokenizer
from families.xlm import FAMILIES

import headprobe
from headprobe import HeadTracer
from headprobe.errors import HeadprobeWarning, InputError, UnsupportedModelError
from headprobe.models import adapter
from headprobe.models.families.xlm import XLMAdapter
from headprobe.trace.attention import attention

FLAUBERT, XLM = FAMILIES
LANGUAGES = {"en": 0, "fr": 1}
each = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


@pytest.fixture
def register(monkeypatch):
    """Registers an adapter for the length of a test."""
    adapter.families()
    return lambda language: monkeypatch.setitem(
        adapter._registry, "xlm", XLMAdapter("xlm", "right", "AutoModel", language=language)
    )


def bilingual(**changes) -> torch.nn.Module:
    config = XLM.module(0).config
    for name, value in ({"n_langs": 2, "lang2id": LANGUAGES} | changes).items():
        setattr(config, name, value)
    torch.manual_seed(0)
    return randomise(type(XLM.module(0))(config))


@each
def test_it_loads_without_a_warning_from_the_list_of_attention_modules(family):
    with warnings.catch_warnings():
        warnings.simplefilter("error", HeadprobeWarning)
        model = family.load()
    assert [site.path for site in model.sites] == [f"attentions.{i}.out_lin" for i in range(3)]
    assert {(site.n_heads, site.head_dim) for site in model.sites} == {(4, 8)}


@each
def test_what_enters_the_projection_is_weights_times_values(family):
    """By hand, from the module's own linear maps."""
    model, text = family.load(), "a man walks"
    acts = HeadTracer(model).capture([text], progress=False)
    ids = torch.tensor([model.tokenizer(text)["input_ids"]])
    seen: list[torch.Tensor] = []
    part = model.module.attentions[0]
    handle = part.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model.module(input_ids=ids)
        handle.remove()
        q, k, v = (linear(seen[0])[0].unflatten(-1, (4, 8)) for linear in (part.q_lin, part.k_lin, part.v_lin))
        weights = torch.einsum("thd,shd->hts", q, k).div(8**0.5).softmax(-1)
        z = torch.einsum("hts,shd->thd", weights, v)
    assert close(acts.z[0, 0, 0], z[-1])


def test_a_language_adds_its_embedding(register):
    module, text = bilingual(), "a man walks"
    read = {}
    for language in LANGUAGES:
        register(language)
        model = headprobe.load(module, tokenizer=tokenizer())
        read[language] = HeadTracer(model).capture([text], progress=False)
        seen: list[torch.Tensor] = []
        hook = module.attentions[2].out_lin.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        ids = torch.tensor([model.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            module(input_ids=ids, langs=torch.full_like(ids, LANGUAGES[language]))
        hook.remove()
        assert close(read[language].z[0, 0, 2].flatten(), seen[0][0, -1])
    assert not close(read["en"].values, read["fr"].values)
    assert read["en"].provenance.processor != read["fr"].provenance.processor


def test_a_model_with_languages_needs_one_that_it_knows(register):
    for language in (None, "de"):
        register(language)
        with pytest.raises(InputError, match=rf"is {language!r}; it must be one of \['en', 'fr'\], which .*register"):
            headprobe.load(bilingual(), tokenizer=tokenizer())


@pytest.mark.parametrize("changes", [{"use_lang_emb": False}, {"n_langs": 1}])
def test_a_model_without_languages_takes_none(register, changes):
    headprobe.load(bilingual(**changes), tokenizer=tokenizer())
    register("en")
    with pytest.raises(InputError, match=r"language is 'en'; it must be None: .* has no embeddings of languages"):
        headprobe.load(bilingual(**changes), tokenizer=tokenizer())


@each
def test_there_is_no_block_whose_output_is_the_residual_stream(family):
    with pytest.raises(UnsupportedModelError, match=r"attentions.0: the block is an attention module alone"):
        HeadTracer(family.load()).capture(["a man walks"], resid_post=True, progress=False)


def test_its_attention_returns_no_weights_and_says_so():
    with pytest.raises(UnsupportedModelError, match=r"attentions.0.out_lin: .* its weights cannot be read"):
        attention(XLM.load(), ["a man walks"], progress=False)
