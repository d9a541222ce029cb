"""Several positions in one pass, and positions that make several rows of an example."""

from __future__ import annotations

import numpy as np
import pytest
from equality import close
from tiny_models import FAMILIES, TEXTS, contents, make_clips, make_model

from headprobe import Example, HeadTracer, positions, saliency
from headprobe.activations import concatenate
from headprobe.errors import InputError, PositionError

PROMPTS = {"ask": "what happens : {text}", "short": "{text} ?"}
THREE = {"end": positions.last(), "mean": positions.all().mean(), "tokens": positions.all().each()}


def capture(model, examples, **options):
    return HeadTracer(model).capture(examples, progress=False, **options)


def labelled(n, offset=0):
    return [Example(TEXTS[i % 4], id=f"e{i + offset}", label=i % 2, group=f"g{i % 3}") for i in range(n)]


@pytest.mark.parametrize("family", FAMILIES)
def test_several_positions_are_read_in_one_pass_per_batch_and_prompt(family):
    model = make_model(family)
    several = THREE | ({"frames": positions.per_frame()} if family == "qwen2_vl" else {})
    passes = []
    hook = model.module.get_submodule(model.sites[0].path).register_forward_hook(lambda *_: passes.append(1))
    prompts = ["what happens ?"] if family == "qwen2_vl" else None
    together = capture(model, contents(family), positions=several, prompts=prompts, batch_size=2, resid_post=True)
    hook.remove()
    assert len(passes) == 2
    assert list(together) == list(several)
    for name, position in several.items():
        alone = capture(model, contents(family), positions=position, prompts=prompts, batch_size=2, resid_post=True)
        assert close(together[name].values, alone.values), name
        assert close(together[name].resid_post, alone.resid_post), name
        assert together[name].examples.equals(alone.examples)
        assert together[name].read.equals(alone.read)
        assert together[name].provenance == alone.provenance
        assert together[name].provenance.positions == repr(position)


def test_a_list_of_positions_is_named_as_it_prints():
    model = make_model("llama")
    tracer = HeadTracer(model)
    assert list(capture(model, TEXTS, positions=[positions.first(), positions.index(-1)])) == ["first()", "index(-1)"]
    assert list(capture(model, TEXTS, positions=[positions.last()])) == ["last()"]
    batch = model.adapter.prepare(TEXTS, "", model)
    both = tracer.read(batch, positions={"a": positions.first(), "b": positions.last()})
    assert close(both["b"].z, tracer.read(batch).z)
    assert close(both["a"].z, tracer.read(batch, positions=positions.first()).z)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"end": "last"}, r"positions is 'last'; give a position such as headprobe.positions.last\(\)"),
        ("last()", "positions is 'last"),
        ([], "The positions are empty"),
        ({}, "The positions are empty"),
        ({"": positions.last()}, "name of a position must be a non-empty string; got ''"),
        ([positions.last(), positions.last()], r"given twice among \['last\(\)', 'last\(\)'\]"),
    ],
)
def test_bad_positions_are_named(given, text):
    with pytest.raises(InputError, match=text):
        capture(make_model("llama"), TEXTS, positions=given)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_token_is_read_as_if_it_were_read_alone(family):
    model = make_model(family)
    examples = contents(family)
    acts = capture(model, examples, positions=positions.all().each(), batch_size=3, resid_post=True)
    lengths = [int(model.adapter.prepare([e], "", model).attention_mask.sum()) for e in examples]
    assert acts.values.shape[1] == sum(lengths) == len(acts.examples)
    assert acts.examples["token"].tolist() == [token for n in lengths for token in range(n)]
    assert acts.examples["example"].tolist() == [str(i) for i, n in enumerate(lengths) for _ in range(n)]
    start = 0
    for i, n in enumerate(lengths):
        batch = examples[:3] if i < 3 else examples[3:]  # as in the batches of three
        for token in sorted({0, n // 2, n - 1}):
            if all(token < length for length in lengths[:3] if i < 3):
                alone = capture(model, batch, positions=positions.index(token), resid_post=True)
                assert close(acts.values[:, start + token], alone.values[:, i % 3])
                assert close(acts.resid_post[:, start + token], alone.resid_post[:, i % 3])
        start += n


def test_rows_have_ids_labels_and_groups_so_that_they_can_be_scored():
    acts = capture(make_model("llama"), labelled(6), positions=positions.all().each())
    assert acts.examples["id"].tolist()[:4] == ["e0@0", "e0@1", "e0@2", "e1@0"]
    assert acts.examples["id"].is_unique
    counts = acts.examples.groupby("example", sort=False).size().tolist()
    assert counts == [3, 9, 1, 8, 3, 9]
    assert acts.labels.tolist() == np.repeat([i % 2 for i in range(6)], counts).tolist()
    assert acts.groups.tolist() == np.repeat([f"g{i % 3}" for i in range(6)], counts).tolist()
    scores = saliency(acts, groups=acts.groups, metrics=("lda",))
    assert scores.shape == (1, 1, 3, 4)
    assert np.isfinite(scores.values).all()
    first = acts.subset((acts.examples["token"] == 0).to_numpy(bool))
    assert first.examples["example"].tolist() == [f"e{i}" for i in range(6)]
    more = capture(make_model("llama"), labelled(3, offset=6), positions=positions.all().each())
    assert len(concatenate([acts, more]).examples) == sum(counts) + 13


def test_per_frame_has_a_row_for_every_step_of_every_clip():
    model = make_model("qwen2_vl")
    clips = [make_clips(1, seed=i, frames=frames)[0] for i, frames in enumerate((2, 6, 4))]
    acts = capture(model, clips, positions=positions.per_frame(), prompts=["what happens ?", "yes"], batch_size=2)
    assert acts.examples["example"].tolist() == ["0", "1", "1", "1", "2", "2"]
    assert acts.examples["frame"].tolist() == [0, 0, 2, 4, 0, 2]
    assert acts.examples["frame_end"].tolist() == [2, 2, 4, 6, 2, 4]
    assert acts.values.shape[:2] == (2, 6)
    third = capture(model, clips[:2], positions=positions.frame(0).mean(), prompts=["what happens ?", "yes"])
    assert close(acts.values[:, [0, 1]], third.values)
    assert acts.read["count"].tolist() == [6] * 12  # 2 x 3 tokens per step
    assert acts.provenance.read["p1"] == {"reads": 6, "pooled": [6, 6]}


def test_rows_that_differ_between_prompts_are_refused_and_say_what_to_do():
    model = make_model("llama")
    with pytest.raises(
        InputError,
        match=r"all\(\)\.each\(\) selects different numbers of rows of the example 'e0': 6 under 'ask', 4 under "
        r"'short'.*capture one prompt at a time",
    ):
        capture(model, labelled(2), prompts=PROMPTS, positions=positions.all().each())


def test_equal_numbers_of_rows_at_different_tokens_stand_side_by_side():
    model = make_model("llama")
    acts = capture(model, labelled(2), prompts=PROMPTS, positions=positions.span(-2, None).each())
    assert acts.examples["id"].tolist() == ["e0@0", "e0@1", "e1@0", "e1@1"]
    assert acts.examples["token"].isna().all()  # 4 and 5 under one prompt, 2 and 3 under the other
    assert acts.read["index"].tolist() == [4, 5, 10, 11, 2, 3, 8, 9]
    single = capture(model, labelled(2), prompts=PROMPTS["short"], positions=positions.last())
    assert close(acts.values[1, 1::2], single.values[0])


def test_what_was_read_names_the_token():
    model = make_model("llama")
    acts = capture(model, labelled(3), prompts=PROMPTS)
    assert acts.read.columns.tolist() == [
        *("prompt", "id", "index", "first", "last", "count", "n_tokens", "token_id", "token")
    ]
    assert acts.read["prompt"].tolist() == ["ask"] * 3 + ["short"] * 3
    assert acts.read["id"].tolist() == ["e0", "e1", "e2"] * 2
    assert acts.read["index"].tolist() == [5, 11, 3, 3, 9, 1]
    assert (acts.read["n_tokens"] == acts.read["index"] + 1).all()
    assert acts.read["token"].tolist() == ["walks", "park", "car", "?", "?", "?"]
    assert acts.read["token_id"].tolist() == model.tokenizer.convert_tokens_to_ids(acts.read["token"].tolist())
    assert acts.provenance.read == {
        "ask": {"reads": 3, "tokens": {"car": 1, "park": 1, "walks": 1}},
        "short": {"reads": 3, "tokens": {"?": 3}},
    }


def test_what_was_read_of_a_mean_is_its_extent():
    acts = capture(make_model("bert"), TEXTS, positions=positions.span(1, -1).mean())
    assert acts.read[["index", "token_id", "token"]].isna().all(axis=None)
    assert acts.read[["first", "last", "count", "n_tokens"]].to_numpy().tolist() == [
        [1, 3, 3, 5],
        [1, 9, 9, 11],
        [1, 1, 1, 3],
        [1, 8, 8, 10],
    ]
    assert acts.provenance.read == {"none": {"reads": 4, "pooled": [1, 9]}}


def test_answers_belong_to_one_row_per_example():
    model = make_model("llama")
    with pytest.raises(InputError, match=r"all\(\)\.each\(\) has several rows per example; capture the answers at"):
        capture(model, TEXTS, positions=THREE, answers=["yes", "no"])
    both = capture(model, TEXTS, positions=[positions.first(), positions.all().mean()], answers=["yes", "no"])
    for acts in both.values():
        assert close(acts.answer_logits, capture(model, TEXTS, answers=["yes", "no"]).answer_logits)


def test_a_position_that_does_not_fit_stops_all():
    with pytest.raises(PositionError, match=r"index\(2\) lies outside example 2"):
        capture(make_model("llama"), TEXTS, positions={"end": positions.last(), "third": positions.index(2)})


def test_only_the_rows_and_heads_asked_for_are_kept():
    """Nothing that is kept during a pass holds all tokens or all heads."""
    model = make_model("llama")
    batch = model.adapter.prepare(TEXTS, "", model)
    full = HeadTracer(model).read(batch, positions=positions.all().each())
    part = HeadTracer(model).read(batch, ["L1H3", "L0H2", "L1H0"], positions.all().each())
    assert close(part.z, full.z[:, [7, 2, 4]])
    assert part.z.untyped_storage().nbytes() == part.z.numel() * 4
    both = HeadTracer(model).read(batch, positions={"end": positions.last(), "all": positions.all().each()})
    assert both["end"].z.untyped_storage().nbytes() == both["end"].z.numel() * 4
