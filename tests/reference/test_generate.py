"""Generation against transformers' own, with plain hooks for the heads."""

from __future__ import annotations

import pytest
import torch
from equality import close, same
from families import families
from tiny_models import DECODERS, contents, make_model
from torch.multiprocessing.reductions import StorageWeakRef

from headprobe import HeadTracer, positions
from headprobe.errors import UnsupportedModelError
from headprobe.models.sites import all_heads
from headprobe.trace.edits import scale, zero
from headprobe.trace.generate import generate

# Frames without times make some families assume a rate and say so.
pytestmark = pytest.mark.filterwarnings("ignore:.*uses the times of the frames:headprobe.errors.HeadprobeWarning")
GENERATIVE = (*DECODERS, "qwen2_vl")
PROMPTS = {"text": "what happens : {text}", "video": "what happens ?"}
STEPS = 7


def plain(model, examples, prompt, factors=None, steps=STEPS, **options):
    """What transformers generates, and its heads at the last token of every pass, [pass, site][batch, head, d_head]."""
    batch = model.adapter.prepare(examples, prompt, model)
    passes: list[list[torch.Tensor]] = []

    def hook(site):
        def read(_, args):
            z = args[0].unflatten(-1, (site.n_heads, site.head_dim))
            for head, factor in (factors or {}).get(site.layer, {}).items():
                z = torch.cat([z[..., :head, :], z[..., head : head + 1, :] * factor, z[..., head + 1 :, :]], -2)
            if site is model.sites[0]:
                passes.append([])
            passes[-1].append(z[:, -1].float().clone())
            return (z.flatten(-2),)

        return read

    hooks = [model.module.get_submodule(site.path).register_forward_pre_hook(hook(site)) for site in model.sites]
    ids = model.module.generate(**batch.inputs, max_new_tokens=steps, do_sample=False, **options)
    for handle in hooks:
        handle.remove()
    return ids[:, batch.inputs["input_ids"].shape[1] :], passes


def hooked(model, prompt, factors=None):
    """The same for heads of one size, [batch, step, entry, d_head]."""
    ids, passes = plain(model, contents(model.config.model_type), prompt, factors)
    return ids, torch.stack([torch.cat(row, 1) for row in passes], 1)


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_every_family_generates_as_plain_transformers_does(family):
    model, examples, prompt = family.load(), family.contents(2), family.prompts[0]
    if model.adapter.padding_side != "left":
        with pytest.raises(UnsupportedModelError, match="cannot generate"):
            generate(model, examples, progress=False)
        return
    # By default Gemma 4 leaves all but the last token out of some layers, which is the same to rounding only.
    options = {"logits_to_keep": torch.tensor([-1])} if family.name == "gemma4" else {}
    ids, passes = plain(model, examples, prompt, steps=3, **options)
    heads = all_heads(model.sites)
    made = generate(model, examples, prompt, 3, heads, progress=False)
    rows = made.activations.examples
    for i, tokens in enumerate(made.tokens):
        assert same(tokens, ids[i, : len(tokens)]), i
        for step in range(len(tokens)):
            (row,) = ((rows["example"] == str(i)) & (rows["step"] == step)).to_numpy().nonzero()[0]
            for site, z in zip(model.sites, passes[step], strict=True):
                assert close(made.activations.select(site.heads)[0, row], z[i]), (i, step, site.path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", GENERATIVE)
def test_tokens_and_heads_equal_those_of_a_plain_generate(family, dtype):
    model = make_model(family)
    model.module.to(dtype)
    prompt = PROMPTS[model.adapter.modality]
    ids, z = hooked(model, prompt)
    made = generate(model, contents(family), prompt, max_new_tokens=STEPS, progress=False)
    for i, tokens in enumerate(made.tokens):
        assert same(tokens, ids[i, : len(tokens)]), i
        assert close(made.z[i], z[i, : len(tokens)], dtype), i
        assert bool((ids[i, len(tokens) :] == model.module.generation_config.pad_token_id).all())
    captured = HeadTracer(model).capture(contents(family), prompt, progress=False)
    for i in range(len(made.tokens)):
        assert close(made.z[i][0], captured.values[0, i], dtype), i


@pytest.mark.parametrize("family", GENERATIVE)
def test_a_batch_generates_what_its_examples_generate_alone(family):
    model = make_model(family)
    prompt = PROMPTS[model.adapter.modality]
    together = generate(model, contents(family), prompt, STEPS, ["L2H1"], 4, progress=False)
    alone = generate(model, contents(family), prompt, STEPS, ["L2H1"], 1, progress=False)
    for i in range(4):
        assert same(together.tokens[i], alone.tokens[i])
        assert torch.allclose(together.z[i], alone.z[i], atol=1e-5)


@pytest.mark.parametrize("family", GENERATIVE)
def test_every_step_equals_a_capture_of_the_text_so_far(family):
    model = make_model(family)
    prompt = PROMPTS[model.adapter.modality]
    made = generate(model, contents(family)[3:], prompt, max_new_tokens=4, progress=False)
    batch = model.adapter.prepare(contents(family)[3:], prompt, model)
    ids = torch.cat([batch.inputs["input_ids"], made.tokens[0][None, :-1]], 1)
    inputs = batch.inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    inputs.pop("position_ids", None)
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, 3))
    for site in model.sites:
        seen = []
        handle = model.module.get_submodule(site.path).register_forward_pre_hook(
            lambda _, args, seen=seen: seen.append(args[0])
        )
        with torch.no_grad():
            model.module(**inputs)
        handle.remove()
        z = seen[0][0, -4:].unflatten(-1, (site.n_heads, site.head_dim))
        entries = [i for i, head in enumerate(made.activations.heads) if head.layer == site.layer]
        assert torch.allclose(made.z[0][:, entries], z, rtol=1e-5, atol=1e-5), site.layer


@pytest.mark.parametrize("family", GENERATIVE)
def test_edits_hold_at_every_step(family):
    model = make_model(family)
    prompt = PROMPTS[model.adapter.modality]
    ids, z = hooked(model, prompt, {0: {1: 0.0}, 2: {3: 2.0}})
    plain = generate(model, contents(family), prompt, STEPS, progress=False)
    with zero(model, ["L0H1"]), scale(model, ["L2H3"], 2.0):
        made = generate(model, contents(family), prompt, STEPS, progress=False)
    for i, tokens in enumerate(made.tokens):
        assert same(tokens, ids[i, : len(tokens)]), i
        assert close(made.z[i], z[i, : len(tokens)]), i
    assert any(not same(a, b) for a, b in zip(made.tokens, plain.tokens, strict=True))
    assert len(made.activations.provenance.edits) == 2
    again = generate(model, contents(family), prompt, STEPS, progress=False)
    assert all(close(a, b) for a, b in zip(again.z, plain.z, strict=True))


def test_an_edit_at_a_position_of_the_prompt_leaves_generated_tokens_alone():
    model = make_model("llama")
    with zero(model, ["L1H0"], positions.last()):
        made = generate(model, contents("llama"), max_new_tokens=3, heads=["L1H0"], progress=False)
    for z in made.z:
        assert bool((z[0] == 0).all())
        assert bool((z[1:].abs().sum(-1) > 0).all())


def test_a_step_leaves_nothing_in_memory_but_what_is_kept():
    model = make_model("llama")
    storages, most, n_passes = [], 0, 0  # inputs of output projections, of all layers and passes

    def count(_, args):
        nonlocal most, n_passes
        n_passes += 1
        storages[:] = [storage for storage in storages if not storage.expired()]
        most = max(most, len(storages))
        storages.append(StorageWeakRef(args[0].untyped_storage()))

    for site in model.sites:
        model.module.get_submodule(site.path).register_forward_pre_hook(count)
    generate(model, contents("llama"), max_new_tokens=20, progress=False)
    assert n_passes == 20 * len(model.sites)
    assert most == 0
