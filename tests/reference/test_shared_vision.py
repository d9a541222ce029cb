"""Where prompts cannot share their prefix they share the vision tower, and read what separate passes read."""

from __future__ import annotations

import pytest
import torch
from equality import close, same_bits
from tiny_models import contents, make_model

from headprobe import HeadTracer, positions
from headprobe.errors import HeadprobeWarning
from headprobe.models.families.qwen_vl import QwenVLAdapter
from headprobe.trace import _passes as shared_passes
from headprobe.trace import edits
from headprobe.trace._passes import find_prefix

PROMPTS = {"a": "what happens ?", "b": "yes", "c": "what"}


class NoCache(QwenVLAdapter):
    """A family whose keys and values cannot be used again."""

    cache_modes = ()


def model_without_cache():
    model = make_model("qwen2_vl")
    model.adapter = NoCache()
    return model


def tower_calls(model):
    calls: list[int] = []
    model.module.model.visual.register_forward_hook(lambda *_: calls.append(1))
    return calls


def capture(model, prompts, **options):
    return HeadTracer(model).capture(contents("qwen2_vl"), prompts, batch_size=4, progress=False, **options)


def test_without_a_shared_prefix_the_tower_still_runs_once_and_a_warning_says_so():
    model = model_without_cache()
    wanted = {"resid_post": True, "answers": ["yes"]}
    alone = [capture(model, {name: text}, **wanted) for name, text in PROMPTS.items()]
    calls = tower_calls(model)
    with pytest.warns(HeadprobeWarning, match="every prompt takes a full pass over the video, because qwen2_vl does"):
        together = capture(model, PROMPTS, **wanted)
    assert len(calls) == 1
    assert close(together.values, torch.cat([a.values for a in alone]))
    assert close(together.resid_post, torch.cat([a.resid_post for a in alone]))
    assert close(together.answer_logits, torch.cat([a.answer_logits for a in alone]))
    assert close(capture(model, PROMPTS).values, together.values)  # and no second warning


def test_where_the_library_cannot_take_features_the_tower_runs_in_every_pass():
    model = model_without_cache()
    model.__dict__["_said_not_shared"] = {"qwen2_vl does not allow keys and values to be used again"}
    expected = capture(model, PROMPTS)
    model.__dict__["accepts"] = frozenset(model.accepts - {"mm_encoder_outputs"})
    calls = tower_calls(model)
    got = capture(model, PROMPTS)
    assert len(calls) == 3
    assert close(got.values, expected.values)


def test_a_shared_prefix_gives_residual_stream_and_answers_too():
    model = make_model("qwen2_vl")
    wanted = {"resid_post": True, "answers": ["yes", "no"]}
    calls = tower_calls(model)
    together = capture(model, PROMPTS, **wanted)
    assert len(calls) == 1
    for row, (name, text) in enumerate(PROMPTS.items()):
        alone = capture(model, {name: text}, **wanted)
        for field in ("values", "resid_post", "answer_logits"):
            a, b = getattr(together, field)[row], getattr(alone, field)[0]
            assert (a - b).abs().max() < 2e-5 * b.abs().max(), (name, field)


def test_under_an_edit_every_prompt_takes_a_full_pass():
    model = make_model("qwen2_vl")
    with edits.zero(model, ["L0H1"]):
        alone = [capture(model, {name: text}) for name, text in PROMPTS.items()]
        together = capture(model, PROMPTS)
    assert close(together.values, torch.cat([a.values for a in alone]))


def test_prompts_that_put_text_before_the_video_take_full_passes():
    model = make_model("qwen2_vl")
    model.tokenizer.chat_template = (
        "{% for c in messages[0]['content'] if c['type'] == 'text' %}{{ c['text'] }} {% endfor %}"
        "<|vision_start|><|video_pad|><|vision_end|> </s>"
    )
    alone = [capture(model, {name: text}) for name, text in PROMPTS.items()]
    with pytest.warns(HeadprobeWarning, match="because the text before the video differs"):
        together = capture(model, PROMPTS)
    assert close(together.values, torch.cat([a.values for a in alone]))


@pytest.mark.parametrize("limit", [0, 2**40])
def test_prompts_run_together_as_far_as_memory_allows_and_read_the_same(limit, monkeypatch):
    model = make_model("qwen2_vl")
    monkeypatch.setattr(shared_passes, "_REPEATED_BYTES", limit)
    batches: list[int] = []
    block = model.module.model.language_model.layers[0]
    block.register_forward_pre_hook(lambda module, args: batches.append(len(args[0])))
    together = capture(model, PROMPTS, positions=positions.all().mean())
    n = len(contents("qwen2_vl"))
    assert batches == ([n, n, n, n] if limit == 0 else [n, 3 * n])
    for row, (name, text) in enumerate(PROMPTS.items()):
        alone = capture(model, {name: text}, positions=positions.all().mean()).values[0]
        assert (together.values[row] - alone).abs().max() < 2e-5 * alone.abs().max()


def test_positions_within_the_video_need_no_pass_of_their_own():
    model = make_model("qwen2_vl")
    calls: list[int] = []
    model.module.model.language_model.layers[0].register_forward_pre_hook(lambda *_: calls.append(1))
    together = capture(model, PROMPTS, positions=positions.per_frame())
    assert len(calls) == 1
    assert same_bits(together.values[0], together.values[2], of="one pass")
    alone = capture(model, {"b": PROMPTS["b"]}, positions=positions.per_frame()).values[0]
    assert (together.values[1] - alone).abs().max() < 2e-5 * alone.abs().max()


class MarksQuestions(QwenVLAdapter):
    """A family that marks a word of the question as part of the video."""

    def prepare(self, contents, prompt, model):
        batch = super().prepare(contents, prompt, model)
        word = model.tokenizer.convert_tokens_to_ids("what")
        batch.inputs["mm_token_type_ids"][batch.ids == word] = 2
        return batch


def test_a_question_that_is_marked_as_video_is_not_shared():
    model = make_model("qwen2_vl")
    batches = [MarksQuestions().prepare(contents("qwen2_vl"), text, model) for text in PROMPTS.values()]
    assert "marked as part of the video" in find_prefix(batches, model)
