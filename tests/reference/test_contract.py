"""The contract that every family keeps, on a tiny random model of each."""

from __future__ import annotations

import dataclasses
import functools
import json
import warnings

import numpy as np
import pytest
import torch
from equality import close, same, same_bits, tolerance
from families import Family, families
from tiny_models import by_head, hooked, hooks

import headprobe
from headprobe import HeadTracer, positions
from headprobe.errors import HeadprobeWarning, PaddingError
from headprobe.models.sites import _output_bias, _output_weights, block_paths

FAMILIES = families()
VIDEO = [family for family in FAMILIES if family.still is not None]
each = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
each_video = pytest.mark.parametrize("family", VIDEO, ids=lambda family: family.name)

# Frames without times make some families assume a rate and say so; that is tested once, below.
pytestmark = pytest.mark.filterwarnings("ignore:.*uses the times of the frames:headprobe.errors.HeadprobeWarning")


@functools.cache
def loaded(name: str, dtype: torch.dtype = torch.float32):
    """A model that no test changes."""
    return next(family for family in FAMILIES if family.name == name).load(dtype=dtype)


def by_size(acts):
    """Activations of one head size each."""
    return acts.by_size().values()


def batch_of(family: Family, model, n: int = 3, prompt: int = 0):
    return model.adapter.prepare(family.contents(n), family.prompts[prompt], model)


@each
def test_a_capture_runs_from_raw_examples_and_equals_plain_hooks_bit_for_bit(family):
    model = loaded(family.name)
    contents = family.contents(3)
    with hooks(model) as taken:
        acts = HeadTracer(model).capture(contents, family.asked(), all_heads(model), batch_size=3, progress=False)
    batch = batch_of(family, model)
    other = hooked(model, batch)
    ends = [int(mask.nonzero()[-1]) for mask in batch.token_info.mask]
    seen = 0
    for part in by_size(acts):
        for entry, head in enumerate(part.heads):
            z, plain = by_head(taken, model)[head.layer], by_head(other, model)[head.layer]
            for i, end in enumerate(ends):
                assert same_bits(part.values[0, i, entry], z[i, end, head.head], of="one pass"), (head.label, i)
                assert close(part.values[0, i, entry], plain[i, end, head.head]), (head.label, i)
                seen += 1
        assert not close(part.values[0, 0], part.values[0, 1]), "two examples gave the same activations"
    assert seen == 3 * sum(site.n_heads for site in model.sites)


def all_heads(model):
    from headprobe.models.sites import all_heads

    return all_heads(model.sites)


@each
def test_the_default_heads_are_those_of_softmax_attention(family):
    model = loaded(family.name)
    softmax = {site.layer for site in model.sites if site.kind == "softmax"}
    assert set(model.heads.layers) == softmax
    if family.kinds is not None:
        assert [site.kind for site in model.sites] == list(family.kinds)


@each
def test_the_heads_add_up_to_what_the_projection_computes_in_a_real_pass(family):
    model = loaded(family.name)
    batch = batch_of(family, model)
    written: dict[str, torch.Tensor] = {}
    hooks = [
        model.module.get_submodule(site.path).register_forward_hook(
            lambda module, args, output, path=site.path: written.__setitem__(path, output.detach().clone())
        )
        for site in model.sites
    ]
    read = hooked(model, batch)
    for hook in hooks:
        hook.remove()
    real = batch.token_info.mask
    for site in model.sites:
        z = read[site.path].unflatten(-1, (site.n_heads, site.head_dim))
        total = torch.einsum("bthd,hdm->btm", z.double(), _output_weights(model.module, site).double())
        bias = _output_bias(model.module, site)
        total = total if bias is None else total + bias.double()
        difference = (total - written[site.path].double())[real].abs().max()
        assert difference < 1e-4 * written[site.path][real].abs().max(), site.path


@each
def test_a_batch_equals_its_single_examples(family):
    model = loaded(family.name)
    contents, tracer, prompt = family.contents(3), HeadTracer(model), family.asked()
    together = tracer.capture(contents, prompt, progress=False)
    for i, content in enumerate(contents):
        alone = tracer.capture([content], prompt, progress=False)
        for a, b in zip(by_size(together), by_size(alone), strict=True):
            assert (a.values[:, i] - b.values[:, 0]).abs().max() < 1e-4 * a.values.abs().max(), i


@each
def test_an_early_stop_reads_the_same_and_leaves_later_layers_out(family):
    model = loaded(family.name)
    tracer, contents, prompt = HeadTracer(model), family.contents(2), family.asked()
    full = tracer.capture(contents, prompt, progress=False)
    first = [head for head in model.heads if head.layer == model.heads.layers[0]]
    calls: list[int] = []
    last_block = model.module.get_submodule(block_paths(model.module, model.sites)[-1])
    hook = last_block.register_forward_hook(lambda *_: calls.append(1))
    early = tracer.capture(contents, prompt, heads=first, progress=False)
    hook.remove()
    assert calls == []
    assert close(early.values, full.select(first))


@each_video
def test_the_token_map_covers_exactly_the_tokens_that_pixels_change(family):
    """Every place of the map is changed in the frames, and its token is the one that changes most."""
    model = family.load()
    family.still(model.module)
    clip = family.contents(1)[0]
    base = model.adapter.prepare([clip], family.prompts[0], model)
    tokens = base.token_info
    assert bool(tokens.video.any())
    placed = tokens.video[0] & (tokens.row[0] >= 0)
    assert int((tokens.video[0] & ~placed).sum()) == family.summaries * len(clip)
    grid = torch.stack([tokens.frame, tokens.row, tokens.column], -1)[0][placed]
    assert len({tuple(place) for place in grid.tolist()}) == len(grid), "two tokens share a place"
    assert same((tokens.frame >= 0), tokens.video)
    step = tokens.frames_per_token
    counts = [int(grid[:, 0].max()) // step + 1, int(grid[:, 1].max()) + 1, int(grid[:, 2].max()) + 1]
    assert int(np.prod(counts)) == len(grid), "the map has holes"
    assert -(-len(clip) // step) == counts[0], "the map covers other frames than the clip has"
    block = block_paths(model.module, model.sites)[0]
    before = hooked(model, base, [block])[block][0]
    rounding = tolerance(before.dtype) * float(before.abs().max())  # two passes, even where nothing reaches
    places = [tuple(place) for place in grid.tolist()]
    rng = np.random.default_rng(0)
    for index in rng.choice(len(places), size=min(12, len(places)), replace=False):
        frame, row, column = places[index]
        changed = clip.copy()
        rows = slice(clip.shape[1] * row // counts[1], clip.shape[1] * (row + 1) // counts[1])
        columns = slice(clip.shape[2] * column // counts[2], clip.shape[2] * (column + 1) // counts[2])
        changed[frame : frame + step, rows, columns] = 255 - changed[frame : frame + step, rows, columns]
        batch = model.adapter.prepare([changed], family.prompts[0], model)
        difference = (hooked(model, batch, [block])[block][0] - before).abs().amax(1)
        assert not (difference[~tokens.video[0]] > rounding).any(), "pixels changed a token that is not called video"
        top = int(difference.argmax())
        assert tuple(int(getattr(tokens, name)[0, top]) for name in ("frame", "row", "column")) == places[index]
        others = tokens.video[0] & (tokens.frame[0] != frame)
        assert not (difference[others] > rounding).any(), "a change of one time step reached tokens of another"


@each
def test_bfloat16_stays_within_its_rounding(family):
    exact, rounded = loaded(family.name), loaded(family.name, torch.bfloat16)
    contents, prompt = family.contents(2), family.asked()
    reference = HeadTracer(exact).capture(contents, prompt, progress=False)
    with hooks(rounded) as taken:
        acts = HeadTracer(rounded).capture(contents, prompt, batch_size=2, progress=False)
    batch = rounded.adapter.prepare(contents, family.prompts[0], rounded)
    for a, b in zip(by_size(acts), by_size(reference), strict=True):
        first = a.heads[0].layer
        same_layer = [i for i, head in enumerate(a.heads) if head.layer == first]
        error = (a.values - b.values)[:, :, same_layer].norm() / b.values[:, :, same_layer].norm()
        # 8 bits of mantissa are 0.4 %; a vision tower and a block multiply that a few times.
        assert error < 0.15, (first, float(error))
    end = int(batch.token_info.mask[0].nonzero()[-1])
    for part in by_size(acts):
        head = part.heads[0]
        z = by_head(taken, rounded)[head.layer]
        assert same_bits(part.values[0, 0, 0], z[0, end, head.head].float(), of="one pass")


def model_site(model, layer):
    return next(site for site in model.sites if site.layer == layer)


@each
def test_wrong_padding_and_a_missing_mask_are_refused(family):
    model = loaded(family.name)
    batch = batch_of(family, model)
    if "attention_mask" not in batch.inputs:
        pytest.skip("every input has the same length; nothing is ever padded")
    tracer = HeadTracer(model)
    without = {name: value for name, value in batch.inputs.items() if name != "attention_mask"}
    with pytest.raises(PaddingError, match="no attention_mask"):
        tracer.read(dataclasses.replace(batch, inputs=without))
    flipped = {"input_ids": batch.inputs["input_ids"].flip(1), "attention_mask": batch.attention_mask.flip(1)}
    with pytest.raises(PaddingError, match="wrong side"):
        tracer.read(dataclasses.replace(batch, inputs={**batch.inputs, **flipped}))
    ones = {**batch.inputs, "attention_mask": torch.ones_like(batch.attention_mask)}
    with pytest.raises(PaddingError):
        tracer.read(dataclasses.replace(batch, inputs=ones))


@each_video
def test_prompts_that_share_a_prefix_read_what_full_passes_read(family):
    model = loaded(family.name)
    tracer, contents = HeadTracer(model), family.contents(3)
    where = {"last": positions.last(), "video": positions.video_tokens().mean(), "all": positions.all().mean()}
    prompts = {str(i): text for i, text in enumerate(family.prompts)}
    passes: list[tuple[int, int]] = []
    block = model.module.get_submodule(block_paths(model.module, model.sites)[0])
    hook = block.register_forward_pre_hook(
        lambda module, args, kwargs: passes.append(tuple((args[0] if args else kwargs["hidden_states"]).shape[:2])),
        with_kwargs=True,
    )
    shared = tracer.capture(contents, prompts, positions=where, batch_size=3, progress=False)
    hook.remove()
    if model.adapter.cache_modes:
        (n_examples, width), *own = passes
        widths = [model.adapter.prepare(contents, text, model).attention_mask.shape[1] for text in prompts.values()]
        assert n_examples == len(contents)
        assert sum(rows for rows, _ in own) == len(contents) * len(prompts), "each prompt once per example"
        assert max(columns for _, columns in own) == max(widths) - width, "a pass computes other tokens than its own"
    for name, text in prompts.items():
        for key, position in where.items():
            alone = tracer.capture(contents, {name: text}, positions=position, batch_size=3, progress=False)
            row = list(prompts).index(name)
            for a, b in zip(by_size(shared[key]), by_size(alone), strict=True):
                scale = b.values.abs().max()
                assert (a.values[row] - b.values[0]).abs().max() <= 2e-5 * scale, (name, key)


@each_video
def test_bare_frames_warn_where_the_family_needs_times(family):
    model = loaded(family.name)
    contents = family.contents(1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", HeadprobeWarning)
        model.adapter.prepare(contents, family.prompts[0], model)
    assert family.times == any("uses the times of the frames" in str(w.message) for w in caught)
    assert family.times == model.adapter.needs_times


@each
def test_a_saved_checkpoint_folder_reads_the_same(family, tmp_path):
    model = loaded(family.name)
    model.module.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    if family.processor_config is not None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(family.processor_config))
    again = headprobe.load(tmp_path)
    assert again.sites == model.sites
    contents, prompt = family.contents(2), family.asked()
    a, b = (HeadTracer(m).capture(contents, prompt, progress=False) for m in (model, again))
    for x, y in zip(by_size(a), by_size(b), strict=True):
        assert close(x.values, y.values)


def test_what_is_listed_as_tested_is_tested_here():
    """The command `headprobe models` makes no claim for a family that is not in this contract."""
    from headprobe.models.adapter import adapter_for
    from headprobe.models.adapter import families as registered

    claimed = set(registered())
    video = {name for name in claimed if "prefix" in adapter_for(name).verified}
    here = {family.module(0).config.model_type for family in VIDEO}
    assert video <= here, sorted(video - here)
    assert all(family.processor is not None for family in VIDEO if family.name in video)
