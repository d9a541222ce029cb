from __future__ import annotations

import functools
import gc
import threading
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from equality import close, same, same_bits
from tiny_models import FAMILIES, TEXTS, contents, make_model, make_module, make_tokenizer

import headprobe
from headprobe import Example, Head, HeadSet, HeadSite, HeadTracer, positions
from headprobe.errors import FingerprintError, InputError, PositionError, SiteError
from headprobe.models.adapter import TokenInfo
from headprobe.trace import edits
from headprobe.trace._forward import Batch, ReadPoint, draw, run, uniform

HEADS = HeadSet(["L1H2", "L0H1"])


@functools.cache
def model_of(family="llama", dtype=torch.float32):
    model = make_model(family)
    model.module.to(dtype)
    return model


def capture(model, examples=TEXTS, **options):
    return HeadTracer(model).capture(examples, progress=False, **options)


@functools.cache
def base(family="llama"):
    return capture(model_of(family), contents(family))


# What an edit does to the values that are read


@pytest.mark.parametrize("family", FAMILIES)
def test_zeroed_heads_read_zero_and_their_neighbours_do_not(family):
    with edits.zero(model_of(family), HEADS):
        acts = capture(model_of(family), contents(family))
    assert close(acts.select(HEADS), torch.zeros(1, 4, 2, 8))
    assert close(acts.z[:, :, 0, [0, 2, 3]], base(family).z[:, :, 0, [0, 2, 3]])
    assert bool((acts.z[:, :, 1:, 3] != base(family).z[:, :, 1:, 3]).any(-1).all())  # later layers feel it


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["scale by one", "steer by nothing", "patch with itself"])
def test_edits_that_change_nothing(family, dtype, kind):
    model = model_of(family, dtype)
    prompts = {"a": "{text} ?", "b": "yes {text}"} if model.adapter.modality == "text" else {"a": "what ?", "b": "yes"}
    if kind == "patch with itself" and family == "qwen2_vl":
        prompts = "what ?"  # several share a prefix, unless an edit may tell them apart
    wanted = {"prompts": prompts, "batch_size": 3, "resid_post": True}
    before = capture(model, contents(family), **wanted)
    edit = {
        "scale by one": lambda: edits.scale(model, model.heads, 1),
        "steer by nothing": lambda: edits.steer(model, model.heads, torch.ones(8), 0.0),
        "patch with itself": lambda: edits.patch(model, model.heads, before, positions.last()),
    }[kind]()
    with edit:
        after = capture(model, contents(family), **wanted)
    assert close(after.values, before.values, dtype)
    assert close(after.resid_post, before.resid_post, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_values_are_rounded_once_to_the_type_of_the_model(dtype):
    model = model_of("llama", dtype)
    z = torch.randn(2, 3, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)
    direction = torch.linspace(0.1, 0.9, 8, dtype=torch.float64)
    heads = ["L0H3"]
    computed = torch.float64 if dtype == torch.float64 else torch.float32
    reference = capture(model, TEXTS)
    for edit, expected in (
        (edits.scale(model, heads, 1.1), (z[..., 24:].to(computed) * 1.1).to(dtype)),
        (
            edits.steer(model, heads, direction, 0.3),
            (z[..., 24:].to(computed) + (0.3 * direction).to(computed)).to(dtype),
        ),
        (
            edits.mean(model, heads, reference),
            reference.select(heads)[0, :, 0].double().mean(0).to(dtype).expand(2, 3, 8),
        ),
    ):
        with edit:
            [(path, function)] = edits.plan(model.module)
        edited = function(z, 0)
        assert path == model.sites[0].path
        assert edited.dtype == dtype
        assert close(edited[..., 24:], expected, roundings=1)
        assert same_bits(edited[..., :24], z[..., :24], of="heads that the edit leaves")


def test_the_value_handed_to_an_edit_stays_as_it_is():
    z = torch.ones(1, 2, 32)
    with edits.zero(model_of(), ["L0H0"]):
        [(_, function)] = edits.plan(model_of().module)
    assert function(z, 0).sum() == 48
    assert z.sum() == 64


def test_zero_removes_nan():
    z = torch.full((1, 1, 32), float("nan"))
    with edits.zero(model_of(), [("L0H0")]):
        [(_, function)] = edits.plan(model_of().module)
    assert close(function(z, 0)[0, 0, :8], torch.zeros(8))


# Where


def test_positions_select_real_tokens_and_everywhere_is_every_token():
    model = model_of()
    tokens = TokenInfo(torch.tensor([[False, True, True], [True, True, True]]))
    z = torch.ones(2, 3, 32)
    for place, expected in (
        (None, [[0, 0, 0], [0, 0, 0]]),
        (positions.all(), [[1, 0, 0], [0, 0, 0]]),
        (positions.all().each(), [[1, 0, 0], [0, 0, 0]]),
        (positions.last(), [[1, 1, 0], [1, 1, 0]]),
        (positions.span(0, 2), [[1, 0, 0], [0, 0, 1]]),
    ):
        with edits.zero(model, ["L0H0"], place):
            [(_, function)] = edits.plan(model.module, Batch(tokens))
        assert function(z, 0)[..., 0].tolist() == expected, place


def test_a_pass_may_begin_within_the_prompt_or_behind_it():
    """After a cached prefix, and in generation: what was generated is at no position, but is a token."""
    model = model_of()
    batch = Batch(TokenInfo(torch.ones(1, 4, dtype=torch.bool)))
    z = torch.ones(1, 3, 32)
    seen = {}
    for name, place in (("everywhere", None), ("last", positions.last()), ("span", positions.span(0, 3))):
        with edits.zero(model, ["L0H0"], place):
            [(_, function)] = edits.plan(model.module, batch)
        seen[name] = [function(z, start)[0, :, 0].int().tolist() for start in (0, 2, 4, 9)]
    assert seen == {
        "everywhere": [[0, 0, 0]] * 4,
        "last": [[1, 1, 1], [1, 0, 1], [1, 1, 1], [1, 1, 1]],
        "span": [[0, 0, 0], [0, 1, 1], [1, 1, 1], [1, 1, 1]],
    }


@pytest.mark.parametrize("kind", ["zero", "zero somewhere", "patch"])
def test_prompts_that_share_a_video_are_edited_as_each_alone(kind):
    model, prompts = model_of("qwen2_vl"), {"a": "what happens ?", "b": "yes"}
    edit = {
        "zero": lambda: edits.zero(model, HEADS),
        "zero somewhere": lambda: edits.zero(model, HEADS, positions.index(-3)),  # another token for each prompt
        "patch": lambda: edits.patch(model, HEADS, capture(model, contents("qwen2_vl"), prompts=prompts)),
    }[kind]()
    with edit:
        together = capture(model, contents("qwen2_vl"), prompts=prompts, positions=positions.all().mean())
        for row, name in enumerate(prompts):
            options = {"prompts": {name: prompts[name]}, "positions": positions.all().mean()}
            alone = capture(model, contents("qwen2_vl"), **options)
            assert torch.allclose(together.values[row], alone.values[0], rtol=1e-4, atol=1e-5), name
    unedited = capture(model, contents("qwen2_vl"), prompts=prompts, positions=positions.all().mean())
    assert not torch.allclose(together.values, unedited.values, atol=1e-3)


# Several edits


def test_nested_edits_apply_in_the_order_entered():
    model = model_of()
    z = base().z[0, :, 0, 0]
    up, double = edits.steer(model, ["L0H0"], torch.ones(8), 1.5), edits.scale(model, ["L0H0"], 2)
    with double, up:
        assert close(capture(model).z[0, :, 0, 0], 2 * z + 1.5)
    with up, double:
        assert close(capture(model).z[0, :, 0, 0], 2 * (z + 1.5))
        with double:
            assert close(capture(model).z[0, :, 0, 0], 4 * (z + 1.5))
        with edits.zero(model, ["L0H1"]), edits.steer(model, ["L0H1"], torch.ones(8), 3, positions.last()):
            acts = capture(model)
            assert close(acts.z[0, :, 0, 0], 2 * (z + 1.5))
            assert close(acts.z[0, :, 0, 1], torch.full((4, 8), 3.0))
    assert close(capture(model).values, base().values)


def test_plan_gives_each_projection_once_in_forward_order():
    model = model_of()
    with edits.zero(model, ["L2H0", "L1H0"]), edits.scale(model, ["L0H3"], 2), edits.scale(model, ["L2H0"], 2):
        assert [path for path, _ in edits.plan(model.module)] == [site.path for site in model.sites]
    assert edits.plan(model.module) == []


def test_edits_of_one_model_leave_another_alone():
    other = make_model("llama", seed=1)
    before = capture(other).values
    with edits.zero(model_of(), ["L0H0"]):
        assert edits.active(other.module) == ()
        assert close(capture(other).values, before)


# How far an edit reaches


def test_layers_that_are_not_read_are_edited_and_deeper_ones_do_not_run():
    model = model_of()
    with edits.zero(model, ["L0H1", "L1H2", "L2H0"]):
        everything = capture(model)
        counts: Counter = Counter()
        hooks = [
            model.module.get_submodule(site.path).register_forward_hook(lambda *_, i=site.layer: counts.update([i]))
            for site in model.sites
        ]
        deep = capture(model, heads=["L2H3"])
        assert close(deep.values, everything.select(["L2H3"]))
        assert dict(counts) == {0: 1, 1: 1}  # the pass stops before the last projection
        first = capture(model, heads=["L0H2"])
        assert close(first.values, base().select(["L0H2"]))
        assert dict(counts) == {0: 1, 1: 1}
        for hook in hooks:
            hook.remove()
    assert not close(deep.values, base().select(["L2H3"]))


@pytest.mark.parametrize("family", ["gpt2", "qwen2_vl"])
def test_answers_are_those_of_the_edited_model(family):
    model = model_of(family)
    before = capture(model, contents(family), answers=["yes", "no"]).answer_logits
    with edits.zero(model, ["L2H1"]):
        after = capture(model, contents(family), heads=["L0H0"], answers=["yes", "no"]).answer_logits
    module, h = make_module(family), 1
    weight = module.get_submodule(model.sites[2].path).weight.data
    (weight if family == "gpt2" else weight.T)[8 * h : 8 * h + 8] = 0
    cut = headprobe.load(module, tokenizer=model.tokenizer, processor_config=model.processor_config)
    assert close(after, capture(cut, contents(family), answers=["yes", "no"]).answer_logits)
    assert not close(after, before)


def test_an_edit_that_the_pass_never_reaches_is_reported():
    module = make_module("llama")
    module.unused = torch.nn.Linear(32, 32)
    model = headprobe.load(module, tokenizer=make_tokenizer())
    model = headprobe.load(
        module, tokenizer=make_tokenizer(), sites=[*model.sites, HeadSite(3, "unused", 4, 8)], check=False
    )
    with edits.zero(model, ["L3H0"]), pytest.raises(SiteError, match="unused: the model ran to its end without"):
        capture(model, heads=["L0H0"], answers=["yes"])
    assert close(capture(model, heads=["L0H0"]).values, base().select(["L0H0"]))


# In force, and not any longer


def test_an_exception_inside_the_block_ends_the_edit():
    model = model_of()
    with pytest.raises(RuntimeError, match="of the user"), edits.zero(model, HEADS), edits.scale(model, HEADS, 2):
        raise RuntimeError("of the user")
    assert edits.active(model.module) == ()
    assert close(capture(model).values, base().values)


def test_an_exception_inside_a_pass_ends_with_it():
    model = model_of()
    batch = model.adapter.prepare(TEXTS[:2], "", model)
    with edits.zero(model, ["L0H1"]):
        expected = capture(model)
        with (
            edits.patch(model, ["L0H0"], base()),
            pytest.raises(InputError, match="has 4 examples, but the batch has 2"),
        ):
            HeadTracer(model).read(batch)
        assert close(capture(model).values, expected.values)
    assert close(capture(model).values, base().values)


def test_an_edit_can_be_entered_again_and_twice():
    model, twice = model_of(), edits.scale(model_of(), ["L0H0"], 2)
    up = edits.steer(model, ["L0H0"], torch.ones(8), 1)
    z = base().z[0, :, 0, 0]
    for _ in range(2):
        with twice as same:
            assert same is twice
            assert close(capture(model).z[0, :, 0, 0], 2 * z)
            with up:
                with twice:
                    assert edits.active(model.module) == (repr(twice), repr(up), repr(twice))
                    assert close(capture(model).z[0, :, 0, 0], 2 * (2 * z + 1))
                assert edits.active(model.module) == (repr(twice), repr(up))
                assert close(capture(model).z[0, :, 0, 0], 2 * z + 1)
    assert edits.active(model.module) == ()


def test_two_threads_one_editing_and_one_not():
    model, n = model_of(), 6
    with edits.zero(model, HEADS):
        expected = capture(model).values
    both = threading.Barrier(2, timeout=30)
    results: dict[bool, list[torch.Tensor]] = {True: [], False: []}

    def work(editing: bool) -> None:
        for _ in range(n):
            both.wait()
            if editing:
                with edits.zero(model, HEADS):
                    both.wait()  # the other one captures while the edit is in force here
                    results[True].append(capture(model).values)
            else:
                both.wait()
                results[False].append(capture(model).values)

    threads = [threading.Thread(target=work, args=(editing,)) for editing in (True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [len(values) for values in results.values()] == [n, n]
    assert all(close(values, expected) for values in results[True])
    assert all(close(values, base().values) for values in results[False])


def test_passes_under_edits_leave_nothing_behind():
    model = model_of()

    def tensors() -> int:
        gc.collect()
        return sum(issubclass(type(item), torch.Tensor) for item in gc.get_objects())

    def passes(n: int) -> None:
        for _ in range(n):
            with edits.zero(model, ["L0H1", "L2H2"]):
                capture(model, TEXTS[:2], heads=["L1H0"])

    passes(3)
    before = tensors()
    passes(20)
    assert tensors() <= before


# Edits by example


def test_resample_takes_another_example_whatever_the_batches_and_prompts():
    model = model_of()
    examples = [f"{word} {verb}" for word in ("man", "dog", "car", "woman") for verb in ("walks", "runs", "stops")]
    reference = capture(model, examples)
    rows = reference.select(["L0H1"])[0, :, 0]

    def drawn(seed, **options):
        with edits.resample(model, ["L0H1", "L1H0"], reference, seed):
            acts = capture(model, examples, **options)
        index = (acts.select(["L0H1"])[:, :, 0, None] == rows).all(-1).int()
        assert bool((index.sum(-1) == 1).all())
        index = index.argmax(-1)
        # All heads of an example come from the same other example.
        assert close(acts.select(["L1H0"])[:, :, 0], reference.select(["L1H0"])[0, :, 0][index])
        return index

    index = drawn(0)
    assert bool((index != torch.arange(12)).all())
    assert len(index.unique()) > 3
    assert same(drawn(0, batch_size=5), index)
    assert same(drawn(0, prompts=["{text} ?", "yes : {text}"], batch_size=1), index.expand(2, 12))
    assert not same(drawn(1), index)


def test_resample_draws_every_other_example_equally_often():
    ids = [str(i) for i in range(5)]
    counts = Counter(draw(seed, "2", ids) for seed in range(4000))
    assert sorted(counts) == [0, 1, 3, 4]
    assert all(abs(count - 1000) < 5 * np.sqrt(4000 * 0.25 * 0.75) for count in counts.values())


def test_resample_needs_ids_and_another_example():
    model = model_of()
    batch = model.adapter.prepare(TEXTS, "", model)
    with edits.resample(model, HEADS, base()), pytest.raises(InputError, match=r"needs the ids .* HeadTracer.capture"):
        HeadTracer(model).read(batch)
    alone = base().subset([1])
    with edits.resample(model, HEADS, alone):
        capture(model, [Example("car", id="other")])
        with pytest.raises(InputError, match="no other example than '1'; resample needs at least two"):
            capture(model, [Example("car", id="1")])
    for seed in (-1, True, 0.5, None):
        with pytest.raises(InputError, match="random_state is"):
            edits.resample(model, HEADS, base(), seed)


def test_patch_finds_the_source_of_an_example():
    model = model_of()
    rows = base().select(HEADS)[0]
    place = positions.last()

    def patched(source, examples, **options):
        with edits.patch(model, HEADS, source, place, **options):
            return capture(model, examples, batch_size=2).select(HEADS)[0]

    corrupted = ["car stops", "dog runs", "a woman", "man"]
    assert close(patched(base(), corrupted), rows)  # by number, which is the id of a bare text
    assert close(patched(base(), corrupted[:3]), rows[:3])
    assert close(patched(base().subset([2, 0, 3, 1]), corrupted), rows)  # by id, not by row
    assert close(patched(base().subset([2]), corrupted), rows[[2, 2, 2, 2]])  # one for all
    named = [Example(text, id=name) for text, name in zip(corrupted, "abcd", strict=True)]
    pairs = {"a": "3", "b": "0", "c": "3", "d": "1", "unused": "2"}
    assert close(patched(base(), named, pairs=pairs), rows[[3, 0, 3, 1]])
    batch = model.adapter.prepare(corrupted, "", model)
    with edits.patch(model, HEADS, base(), place):  # without ids, by row
        assert close(HeadTracer(model).read(batch, HEADS).z, rows)


def test_patch_reports_an_example_without_source():
    model = model_of()
    two = base().subset([0, 1])
    with (
        edits.patch(model, HEADS, two),
        pytest.raises(InputError, match=r"'2' has no counterpart among the 2 examples"),
    ):
        capture(model)
    with edits.patch(model, HEADS, two, pairs={"0": "1"}), pytest.raises(InputError, match="'1' has no counterpart"):
        capture(model)
    with pytest.raises(InputError, match="pairs names 'x', which is not among the 2 examples of the source"):
        edits.patch(model, HEADS, two, pairs={"0": "x"})
    batch = model.adapter.prepare(TEXTS, "", model)
    with (
        edits.patch(model, HEADS, two, pairs={"0": "1"}),
        pytest.raises(InputError, match="patch with pairs needs the ids"),
    ):
        HeadTracer(model).read(batch)


def test_a_source_of_several_prompts_is_matched_by_name():
    model = model_of()
    clean = capture(model, prompts={"a": "{text} ?", "b": "yes : {text}"})
    with edits.patch(model, HEADS, clean, positions.last()):
        acts = capture(model, ["car"] * 4, prompts={"b": "no {text}", "a": "{text}"})
        assert close(acts.select(HEADS), clean.select(HEADS)[[1, 0]])
        with pytest.raises(InputError, match=r"has the prompts \['a', 'b'\], and the pass runs under 'c'"):
            capture(model, prompts={"c": "{text}"})
        with pytest.raises(InputError, match="the pass runs under None"):
            HeadTracer(model).read(model.adapter.prepare(TEXTS, "", model))


def test_mean_is_over_all_examples_and_prompts():
    model = model_of()
    reference = capture(model, prompts=["{text} ?", "yes : {text}"])
    expected = np.asarray(reference.select(HEADS), dtype=np.float64).mean((0, 1)).astype(np.float32)
    with edits.mean(model, HEADS, reference):
        acts = capture(model)
    assert close(acts.select(HEADS)[0], np.broadcast_to(expected, (4, 2, 8)))


def test_sources_with_several_rows_per_example():
    model = model_of()
    tokens = capture(model, positions=positions.all().each())
    for make in (edits.patch, edits.resample):
        with pytest.raises(InputError, match=r"read at all\(\).each\(\) and has several rows per example"):
            make(model, HEADS, tokens)
    with edits.mean(model, HEADS, tokens):
        acts = capture(model)
    assert close(acts.select(HEADS)[0, 0], tokens.select(HEADS)[0].mean(0))


# Directions


def test_directions_for_all_heads_for_each_and_by_name_agree():
    model = model_of()
    one = torch.arange(8.0)
    each = {Head(0, 1): one, Head(1, 2): 2 * one, Head(2, 2): float("nan") * one}
    z0 = base().select(["L0H1"])[0, :, 0]
    for direction in (each, torch.stack([2 * one, one]), np.stack([2 * one, one])):
        with edits.steer(model, HEADS, direction, -0.5):
            acts = capture(model)
        assert close(acts.select(["L0H1"])[0, :, 0], z0 - 0.5 * one)
    with edits.steer(model, HEADS, one, -0.5):
        assert close(capture(model).select(["L0H1"])[0, :, 0], z0 - 0.5 * one)


def test_mean_difference_points_from_the_lower_to_the_higher_class():
    model = model_of()
    labels = [5, 1, 5, 1]
    shown = [Example(text, id=str(i), label=label) for i, (text, label) in enumerate(zip(TEXTS, labels, strict=True))]
    acts = capture(model, shown, prompts=["{text} ?", "yes : {text}"])
    directions = edits.mean_difference(acts)
    assert tuple(directions) == tuple(acts.heads)
    z = np.asarray(acts.select(["L1H2"]), dtype=np.float64)[:, :, 0]
    assert np.allclose(directions[Head(1, 2)], z[:, [0, 2]].mean((0, 1)) - z[:, [1, 3]].mean((0, 1)), atol=1e-12)
    unit = edits.mean_difference(acts, HEADS, unit=True)
    assert tuple(unit) == tuple(HEADS)
    for head, vector in unit.items():
        assert torch.allclose(vector * directions[head].norm(), directions[head])
    # Strength 1 on the lower class moves its mean onto the other.
    lower = replace(acts, examples=acts.examples.assign(label=0)).subset([1, 3])
    with edits.steer(model, ["L0H1"], directions, 1, positions.last()):
        moved = capture(model, shown, prompts=["{text} ?", "yes : {text}"]).subset([1, 3]).select(["L0H1"])
    assert close(moved.mean((0, 1)), acts.subset([0, 2]).select(["L0H1"]).mean((0, 1)))
    with pytest.raises(InputError, match=r"needs two classes; the labels have 1: \[0\]"):
        edits.mean_difference(lower)
    with pytest.raises(InputError, match="no label"):
        edits.mean_difference(base())
    same = replace(acts, values=torch.ones_like(acts.values))
    with pytest.raises(InputError, match="L0H0: the class means do not differ"):
        edits.mean_difference(same, unit=True)


# What is refused


def test_heads_and_models_that_are_refused():
    model = model_of()
    with pytest.raises(InputError, match="at least one head; the head set is empty"):
        edits.zero(model, [])
    with pytest.raises(InputError, match=r"L0H4, L7H0 not in LlamaForCausalLM, which has heads in layers 0..2, 4 each"):
        edits.zero(model, ["L0H0", "L0H4", "L7H0"])
    with pytest.raises(InputError, match=r"model from headprobe.load\(...\); got LlamaForCausalLM"):
        edits.zero(model.module, HEADS)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "2", None, True])
def test_numbers_that_are_refused(value):
    with pytest.raises(InputError, match="factor is"):
        edits.scale(model_of(), HEADS, value)
    with pytest.raises(InputError, match="strength is"):
        edits.steer(model_of(), HEADS, torch.ones(8), value)


def test_directions_that_are_refused():
    model = model_of()
    with pytest.raises(InputError, match=r"L1H2: the direction has shape \[7\], but the head has size 8"):
        edits.steer(model, HEADS, torch.ones(7), 1)
    with pytest.raises(InputError, match=r"shape \[3, 8\]; give \[d_head\], or \[2, d_head\] for 2 heads"):
        edits.steer(model, HEADS, torch.ones(3, 8), 1)
    with pytest.raises(InputError, match="The direction lacks L0H1; it has 1 heads"):
        edits.steer(model, HEADS, {Head(1, 2): torch.ones(8)}, 1)
    with pytest.raises(InputError, match="L0H1: the direction holds NaN or infinity"):
        edits.steer(model, HEADS, torch.tensor([[1.0] * 8, [float("nan")] * 8]), 1)


@pytest.mark.parametrize("make", [edits.mean, edits.resample, edits.patch])
def test_references_that_are_refused(make):
    model = model_of()
    with pytest.raises(InputError, match="is a Tensor; give the HeadActivations of a capture"):
        make(model, HEADS, torch.ones(8))
    with pytest.raises(InputError, match="L1H2 not among the 4 heads that were read"):
        make(model, HEADS, capture(model, heads=model.sites[0].heads))
    other = capture(make_model("llama", seed=1))
    with pytest.raises(
        FingerprintError, match=f"weights {other.provenance.weights_hash}, but .* has {model.weights_hash}"
    ):
        make(model, HEADS, other)
    with pytest.raises(FingerprintError, match="weights unknown"):
        make(model, HEADS, replace(base(), provenance=replace(base().provenance, weights_hash="")))
    broken = replace(base(), values=base().values.clone())
    broken.values[0, 2, 1, 5] = float("nan")  # L0H1
    with pytest.raises(InputError, match=r"L0H1: the .* has NaN or infinity at example '2'"):
        make(model, HEADS, broken)
    make(model, ["L1H2"], broken)


def test_positions_that_are_refused():
    model = model_of()
    with pytest.raises(InputError, match="positions is 'last'"):
        edits.zero(model, HEADS, "last")
    for pooled in (positions.all().mean(), positions.per_frame()):
        with pytest.raises(PositionError, match=r"pools tokens to read them; .* give (all|video_tokens)"):
            edits.zero(model, HEADS, pooled)
    with edits.zero(model, HEADS, positions.video_tokens()), pytest.raises(PositionError, match="no video tokens"):
        capture(model)
    with edits.zero(model, HEADS, positions.index(5)), pytest.raises(PositionError, match=r"index\(5\) lies outside"):
        capture(model)
    with edits.zero(model, HEADS, positions.last()), pytest.raises(InputError, match="needs to know the tokens"):
        run(
            model.module,
            {"input_ids": torch.ones(1, 2, dtype=torch.long)},
            [ReadPoint(model.sites[0].path, "input", torch.clone)],
        )


# What is written down


def test_descriptions_tell_edits_apart():
    model = model_of()
    reference, other = base(), capture(model, TEXTS[::-1])
    renamed = replace(base(), examples=base().examples.assign(id=list("abcd")))
    made = [
        edits.zero(model, HEADS),
        edits.zero(model, ["L1H2"]),
        edits.zero(model, HEADS, positions.last()),
        edits.scale(model, HEADS, 0.5),
        edits.scale(model, HEADS, 0.25),
        *(edits.mean(model, HEADS, source) for source in (reference, other)),
        *(edits.patch(model, HEADS, source) for source in (reference, other, renamed, reference.subset([0]))),
        *(edits.patch(model, HEADS, reference, pairs={str(i): str(j) for i in range(4)}) for j in range(2)),
        *(edits.resample(model, HEADS, reference, seed) for seed in (0, 1)),
        edits.steer(model, HEADS, torch.ones(8), 1),
        edits.steer(model, HEADS, torch.ones(8), 2),
        edits.steer(model, HEADS, -torch.ones(8), 1),
        edits.steer(model, HEADS, 2 * torch.ones(8), 1),
    ]
    texts = [repr(edit) for edit in made]
    assert len(set(texts)) == len(texts)
    assert texts[2] == "zero(['L1H2', 'L0H1'], positions=last())"
    assert texts[3] == "scale(['L1H2', 'L0H1'], factor=0.5)"
    assert texts[5].startswith("mean(['L1H2', 'L0H1'], reference=")
    assert repr(edits.mean(model, HEADS, reference)) == texts[5]
    # Captured again, perhaps on another processor: the same to rounding, and the same edit.
    rounded = replace(reference, values=reference.values * (1 + 1e-6))
    assert repr(edits.mean(model, HEADS, rounded)) == texts[5]
    nearly_one = torch.full((8,), 1 + 1e-6)
    assert repr(edits.steer(model, HEADS, nearly_one, 1)) == repr(edits.steer(model, HEADS, torch.ones(8), 1))
    prints = set()
    for edit in made:
        with edit:
            assert edits.active(model.module) == (repr(edit),)
            made_from = HeadTracer(model).provenance({"none": ""})
        assert made_from.edits == (repr(edit),)
        prints.add(made_from.fingerprint)
    assert len(prints | {base().provenance.fingerprint}) == len(made) + 1


def test_which_edits_do_the_same_everywhere():
    model = model_of()
    one, several = base().subset([0]), capture(model, TEXTS[:1], prompts=["{text} ?", "{text}"])
    same = [edits.zero(model, HEADS), edits.mean(model, HEADS, base()), edits.patch(model, HEADS, one)]
    differing = [
        edits.zero(model, HEADS, positions.all()),
        edits.patch(model, HEADS, base()),
        edits.patch(model, HEADS, several),
        edits.patch(model, HEADS, one, pairs={"0": "0"}),
        edits.resample(model, HEADS, base()),
    ]
    assert uniform(model.module)
    for edit in same:
        with edit:
            assert uniform(model.module), edit
            assert edits.plan(model.module)
    for edit in differing:
        with same[0], edit:
            assert not uniform(model.module), edit
