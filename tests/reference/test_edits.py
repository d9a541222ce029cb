"""Edits against plain PyTorch hooks and against changed weights, to rounding."""

from __future__ import annotations

import contextlib
import copy
import functools

import numpy as np
import pytest
import torch
from equality import close, same, same_bits
from families import families
from tiny_models import DECODERS, FAMILIES, contents, make_model

import headprobe
from headprobe import HeadSet, HeadSite, HeadTracer, positions
from headprobe.models.sites import _output_bias, _output_weights, block_paths
from headprobe.trace import edits
from headprobe.trace._forward import Batch, ReadPoint, run, run_steps

HEADS = HeadSet(["L1H2", "L0H1", "L1H0"])
PROMPTS = {
    "text": {"a": "{text} ?", "b": "what happens : {text} yes"},
    "video": {"a": "what happens ?", "b": "yes"},
}


@functools.cache
def model_of(family, dtype=torch.float32):
    model = make_model(family)
    model.module.to(dtype)
    return model


@functools.cache
def reference_of(family, dtype=torch.float32):
    model = model_of(family, dtype)
    return HeadTracer(model).capture(contents(family), positions=positions.all().mean(), progress=False)


@contextlib.contextmanager
def hooks(model, batch, changes, selected):
    """Plain hooks that change z of heads, [batch, token, d_head] of each, at the selected tokens."""
    handles = []
    for site in model.sites:
        here = [(head, change) for head, change in changes if head.layer == site.layer]

        def hook(module, args, here=here, site=site):
            z = args[0].clone().unflatten(-1, (site.n_heads, site.head_dim))
            for head, change in here:
                mask = selected(batch) if z.shape[1] > 1 else torch.zeros(z.shape[:2], dtype=torch.bool)
                z[:, :, head.head] = torch.where(mask[..., None], change(head, z[:, :, head.head]), z[:, :, head.head])
            return (z.flatten(-2),)

        handles.append(model.module.get_submodule(site.path).register_forward_pre_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def plain(model, batch, changes, selected):
    """Everything a capture can read, without headprobe's tracer: z and residual stream by layer, logits."""
    z, resid, handles = {}, {}, []

    def keep_z(layer, site):
        return lambda _, args: z.update({layer: args[0].clone().unflatten(-1, (site.n_heads, site.head_dim))})

    def keep_resid(layer):
        return lambda _, args, out: resid.update({layer: (out[0] if isinstance(out, tuple) else out).clone()})

    with hooks(model, batch, changes, selected):
        for site in model.sites:  # registered later, so called later: these see the edits
            module = model.module.get_submodule(site.path)
            handles.append(module.register_forward_pre_hook(keep_z(site.layer, site)))
        for layer, path in enumerate(block_paths(model.module, model.sites)):
            handles.append(model.module.get_submodule(path).register_forward_hook(keep_resid(layer)))
        with torch.no_grad():
            out = model.module(**batch.inputs)
        for handle in handles:
            handle.remove()
    return z, resid, getattr(out, "logits", None)


def last_column(batch):
    lengths = batch.attention_mask.sum(1)
    return [-1 if batch.padding_side == "left" else int(length) - 1 for length in lengths]


def real(batch):
    return batch.attention_mask.bool()


def final(batch):
    mask = torch.zeros_like(batch.attention_mask, dtype=torch.bool)
    for row, column in enumerate(last_column(batch)):
        mask[row, column] = True
    return mask


def first_two(batch):
    return real(batch) & (batch.attention_mask.cumsum(1) <= 2)


def video(batch):
    return batch.token_info.video


WHERE = {
    "everywhere": (None, real),  # the hooks leave padding alone, the edits do not: real tokens cannot tell
    "last": (positions.last(), final),
    "span": (positions.span(0, 2), first_two),
    "video": (positions.video_tokens(), video),
}


def edit_and_change(kind, model, reference, place):
    """An edit, and the same change of one head written out; its third argument is rows of the reference."""
    dtype = model.dtype
    values = {head: reference.select([head])[0, :, 0] for head in HEADS}
    directions = {head: torch.from_numpy(np.linspace(-1, 2, 8) * (1 + i)) for i, head in enumerate(HEADS)}
    if kind == "zero":
        return edits.zero(model, HEADS, place), lambda head, z: torch.zeros_like(z)
    if kind == "scale":
        return edits.scale(model, HEADS, 1.7, place), lambda head, z: (z.float() * 1.7).to(dtype)
    if kind == "mean":
        means = {head: torch.from_numpy(value.numpy().astype(np.float64).mean(0)) for head, value in values.items()}
        return edits.mean(model, HEADS, reference, place), lambda head, z: means[head].to(dtype).expand_as(z)
    if kind == "steer":
        shift = {head: (-2.5 * vector).float() for head, vector in directions.items()}
        edit = edits.steer(model, HEADS, directions, -2.5, place)
        return edit, lambda head, z: (z.float() + shift[head]).to(dtype)
    if kind == "patch":
        return edits.patch(model, HEADS, reference, place), lambda head, z: values[head].to(dtype)[:, None].expand_as(z)
    one = reference.subset([2])
    return edits.patch(model, HEADS, one, place), lambda head, z: values[head][2].to(dtype).expand_as(z)


KINDS = ("zero", "scale", "mean", "steer", "patch", "patch one")
CASES = [
    pytest.param(family, dtype, kind, where, id=f"{family}-{kind}-{where}-{str(dtype)[6:]}")
    for family in FAMILIES
    for kind in KINDS
    for where in WHERE
    for dtype in (torch.float32, torch.bfloat16)
    if (where != "video" or family == "qwen2_vl") and (where in ("everywhere", "last") or dtype == torch.float32)
]


@pytest.mark.parametrize(("family", "dtype", "kind", "where"), CASES)
def test_an_edit_equals_plain_hooks(family, dtype, kind, where):
    model = model_of(family, dtype)
    place, selected = WHERE[where]
    edit, change = edit_and_change(kind, model, reference_of(family, dtype), place)
    prompt = PROMPTS[model.adapter.modality]["b"]
    answers = None if family == "bert" else ["yes", "no"]
    acts = capture(model, edit, prompts=prompt, resid_post=True, answers=answers)
    batch = model.adapter.prepare(contents(family), prompt, model)
    z, resid, logits = plain(model, batch, [(head, change) for head in HEADS], selected)
    for i, column in enumerate(last_column(batch)):
        for layer in range(3):
            assert close(acts.z[0, i, layer], z[layer][i, column].float(), dtype=dtype), (i, layer)
            assert close(acts.resid_post[0, i, layer], resid[layer][i, column].float(), dtype=dtype), (i, layer)
        if answers:
            ids = [model.tokenizer.convert_tokens_to_ids(answer) for answer in answers]
            assert close(acts.answer_logits[0, i], logits[i, -1, ids].float(), dtype)
    assert not close(acts.z[:, :, 2], untouched(family, dtype).z[:, :, 2])  # the last layer is not edited


@functools.cache
def untouched(family, dtype):
    model = model_of(family, dtype)
    return capture(model, prompts=PROMPTS[model.adapter.modality]["b"])


def capture(model, edit=None, family=None, **options):
    family = family or model.config.model_type
    with edit or contextlib.nullcontext():
        return HeadTracer(model).capture(contents(family), progress=False, **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_examples_are_matched_by_id_whatever_the_batches_and_prompts(family):
    """Patch and resample with batches smaller than the examples, in another order, under several prompts."""
    model, reference = model_of(family), reference_of(family)
    prompts = PROMPTS[model.adapter.modality]
    shown = [headprobe.Example(content, id=str(i)) for i, content in enumerate(contents(family))][::-1]
    rows = {head: reference.select([head])[0, :, 0] for head in HEADS}
    resampled = edits.resample(model, HEADS, reference, random_state=3)
    with resampled:
        drawn = HeadTracer(model).capture(shown, prompts, batch_size=3, progress=False)
    # The edited z are rows of the reference; which, is read off here.
    source = {}
    for i, example in enumerate(shown):
        found = [
            j
            for j in range(4)
            if same_bits(drawn.select([HEADS[1]])[0, i, 0], rows[HEADS[1]][j], of="rows of one reference")
        ]
        assert len(found) == 1
        assert found != [int(example.id)]
        source[example.id] = found[0]
    with edits.patch(model, HEADS, reference):
        patched = HeadTracer(model).capture(shown, prompts, batch_size=3, progress=False)
    for acts, row_of in ((drawn, source), (patched, {str(i): i for i in range(4)})):
        for start in (0, 3):
            chunk = shown[start : start + 3]
            index = [row_of[example.id] for example in chunk]
            changes = [
                (head, lambda head, z, index=index: rows[head][index][:, None].expand_as(z).contiguous())
                for head in HEADS
            ]
            for p, prompt in enumerate(prompts.values()):
                batch = model.adapter.prepare([example.content for example in chunk], prompt, model)
                z, _, _ = plain(model, batch, changes, real)
                for i, column in enumerate(last_column(batch)):
                    for layer in range(3):
                        assert close(acts.z[p, start + i, layer], z[layer][i, column]), (p, start + i, layer)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("factor", [0.0, 0.5, 1.7])
def test_zero_and_scale_equal_changed_output_weights(family, factor):
    """W_O is changed instead of z: rows of the head times the factor."""
    model = model_of(family)
    edit = edits.zero(model, HEADS) if factor == 0 else edits.scale(model, HEADS, factor)
    surgery = headprobe.load(
        copy.deepcopy(model.module), tokenizer=model.tokenizer, processor_config=model.processor_config
    )
    for site in surgery.sites:
        for head in HEADS:
            if head.layer == site.layer:
                _output_weights(surgery.module, site)[head.head] *= factor
    edited, expected = capture(model, edit, resid_post=True), capture(surgery, resid_post=True)
    untouched = capture(model, resid_post=True)
    assert close(edited.resid_post, expected.resid_post)
    assert close(edited.z[:, :, 2], expected.z[:, :, 2])
    assert not torch.allclose(untouched.resid_post, expected.resid_post, atol=1e-2)


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_steer_and_mean_equal_a_changed_output_bias(family):
    """What an edit adds to z reaches the residual stream through W_O; the bias of the projection can carry it."""
    model = model_of(family)
    reference = reference_of(family)
    direction = torch.linspace(-1, 1, 8)
    for kind in ("steer", "mean"):
        module = copy.deepcopy(model.module)
        surgery = headprobe.load(module, tokenizer=model.tokenizer)
        for site in surgery.sites:
            weights, bias = _output_weights(module, site), _output_bias(module, site)
            for head in HEADS:
                if head.layer == site.layer:
                    added = 3 * direction if kind == "steer" else reference.select([head]).mean((0, 1))[0]
                    bias += added @ weights[head.head]
                    weights[head.head] *= kind == "steer"
        edit = edits.steer(model, HEADS, direction, 3) if kind == "steer" else edits.mean(model, HEADS, reference)
        edited, expected = capture(model, edit, resid_post=True), capture(surgery, resid_post=True)
        assert torch.allclose(edited.resid_post, expected.resid_post, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(capture(model, resid_post=True).resid_post, expected.resid_post, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_edits_fit_between_reads_of_any_modules(family):
    """Inputs and outputs of every module of the stack, read in the order in which they occur, under edits."""
    model = model_of(family)
    batch = model.adapter.prepare(contents(family), "", model)
    order: list[tuple[str, str]] = []
    values: list[torch.Tensor] = []
    handles = []

    def keep(path, side, value):
        value = value[0] if isinstance(value, tuple) and value else value
        if isinstance(value, torch.Tensor):
            order.append((path, side))
            values.append(value.clone())

    inner = block_paths(model.module, model.sites)[0].rpartition(".")[0]
    with hooks(model, batch, [(head, lambda _, z: torch.zeros_like(z)) for head in HEADS], real):
        for path, module in model.module.named_modules():
            if path.startswith(f"{inner}.") and type(module) is not torch.nn.ModuleList:
                handles.append(module.register_forward_pre_hook(lambda _, args, p=path: keep(p, "input", args)))
                handles.append(module.register_forward_hook(lambda _, args, out, p=path: keep(p, "output", out)))
        with torch.no_grad():
            model.module(**batch.inputs)
    for handle in handles:
        handle.remove()
    assert len(order) == len(set(order)) > 30
    points = [ReadPoint(path, side, torch.clone) for path, side in order]
    with edits.zero(model, HEADS, positions.all()):
        kept, _ = run(model.module, dict(batch.inputs), points, batch=Batch(batch.token_info))
    for point, value, expected in zip(order, kept, values, strict=True):
        assert close(value, expected), point


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("where", ["everywhere", "last", "prompt"])
def test_generation_under_an_edit_equals_generation_under_hooks(family, where):
    model = model_of(family)
    batch = model.adapter.prepare(contents(family), "", model)
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "return_dict_in_generate": False}
    site = model.sites[2]
    inputs = {name: value for name, value in batch.inputs.items() if name != "position_ids"}
    direction = torch.linspace(-3, 3, 8)
    read: list[torch.Tensor] = []

    def steer(module, args):
        z = args[0].clone().unflatten(-1, (4, 8))
        at = slice(-1, None) if where == "last" else slice(None)
        if where == "everywhere" or z.shape[1] > 1:
            z[:, at, 2] = z[:, at, 2] + 5 * direction
        return (z.flatten(-2),)

    handles = [
        model.module.get_submodule(model.sites[1].path).register_forward_pre_hook(steer),
        model.module.get_submodule(site.path).register_forward_pre_hook(lambda _, args: read.append(args[0][:, -1])),
    ]
    with torch.no_grad():
        expected = model.module.generate(**inputs, **options)
    for handle in handles:
        handle.remove()
    point = ReadPoint(site.path, "input", lambda value: value[:, -1].clone())
    place = {"everywhere": None, "last": positions.last(), "prompt": positions.all()}[where]
    with edits.steer(model, ["L1H2"], direction, 5, place):
        kept, ids = run_steps(model.module, inputs, [point], lambda row: row[0], options, Batch(batch.token_info))
    plain_kept, _ = run_steps(model.module, inputs, [point], lambda row: row[0], options)
    assert same(ids, expected)
    assert len(kept) == len(read) == 4
    for step in range(4):
        assert close(kept[step], read[step])
    assert not close(kept[0], plain_kept[0])


def test_heads_of_different_sizes_in_one_model():
    """The same projections described as 2 heads of 16, 4 of 8 and 8 of 4."""
    whole = model_of("llama")
    sites = [HeadSite(site.layer, site.path, n, 32 // n) for site, n in zip(whole.sites, (2, 4, 8), strict=True)]
    model = headprobe.load(whole.module, tokenizer=whole.tokenizer, sites=sites, check=False)
    heads = HeadSet(["L2H7", "L0H1", "L1H3"])
    directions = {head: torch.full((sites[head.layer].head_dim,), 2.0) for head in heads}
    tracer = HeadTracer(model)
    batch = model.adapter.prepare(contents("llama"), "", model)
    parts = [tracer.capture(contents("llama"), heads=[head], progress=False) for head in heads]
    patches = [edits.patch(model, [head], part.subset([0])) for head, part in zip(heads, parts, strict=True)]
    source = {head: part.values[0, 0, 0] for head, part in zip(heads, parts, strict=True)}
    for steps, change in (
        ([edits.zero(model, heads)], lambda head, z: torch.zeros_like(z)),
        ([edits.steer(model, heads, directions, 0.5)], lambda head, z: z + 1),
        (patches, lambda head, z: source[head].expand_as(z)),
    ):
        expected, resid, _ = plain(model, batch, [(head, change) for head in heads], real)
        with contextlib.ExitStack() as stack:
            for edit in steps:
                stack.enter_context(edit)
            for site in sites:
                acts = tracer.capture(contents("llama"), heads=site.heads, resid_post=True, progress=False)
                assert close(acts.values[0], expected[site.layer][:, -1])
                assert close(acts.resid_post[0, :, 2], resid[2][:, -1])


@pytest.mark.filterwarnings("ignore:.*uses the times of the frames:headprobe.errors.HeadprobeWarning")
@pytest.mark.parametrize("name", ["gemma4", "qwen3_5"])
def test_families_with_heads_of_several_sizes_and_kinds(name):
    """Sliding and full layers of different sizes; linear and gated layers, and padding that they must not see."""
    family = next(family for family in families() if family.name == name)
    model, shown = family.load(), family.contents(3)
    every = HeadSet(head for site in model.sites for head in site.heads)
    heads = HeadSet(head for head in every if head.head in (1, 2))
    assert len({site.head_dim for site in model.sites}) == 2

    def read(edit=None, **options):
        with edit or contextlib.nullcontext():
            acts = HeadTracer(model).capture(
                shown, family.prompts[0], every, resid_post=True, progress=False, **options
            )
        return [acts.resid_post, *(part.values for part in acts.by_size().values())]

    batch = model.adapter.prepare([model.adapter.encode(one, "x", model) for one in shown], family.prompts[0], model)
    with hooks(model, batch, [(head, lambda _, z: torch.zeros_like(z)) for head in heads], real):
        expected = read(positions=positions.all().mean())
    for place in (None, positions.all()):
        found = read(edits.zero(model, heads, place), positions=positions.all().mean())
        assert all(close(a, b) for a, b in zip(found, expected, strict=True))
    source = HeadTracer(model).capture(shown, family.prompts[0], every, progress=False)
    before, after = read(), read(edits.patch(model, every, source, positions.last()))
    assert all(close(a, b) for a, b in zip(before, after, strict=True))
    assert not any(close(a, b) for a, b in zip(before, read(edits.mean(model, every, source)), strict=True))
