"""Several prompts about one clip share the vision tower, and read the same bits as separate full passes."""

from __future__ import annotations

import torch
from tiny_models import contents, make_model

from headprobe import HeadTracer

PROMPTS = {"a": "what happens ?", "b": "yes", "c": "what"}


def test_shared_vision_equals_full_passes_and_runs_the_tower_once() -> None:
    model = make_model("qwen2_vl")
    clips, tracer = contents("qwen2_vl"), HeadTracer(model)
    alone = [
        tracer.capture(clips, prompts={name: text}, resid_post=True, answers=["yes"], progress=False)
        for name, text in PROMPTS.items()
    ]
    calls: list[int] = []
    hook = model.module.model.visual.register_forward_hook(lambda *_: calls.append(1))
    together = tracer.capture(clips, prompts=PROMPTS, resid_post=True, answers=["yes"], batch_size=4, progress=False)
    hook.remove()
    assert len(calls) == -(-len(clips) // 4)
    assert torch.equal(together.values, torch.cat([a.values for a in alone]))
    assert torch.equal(together.resid_post, torch.cat([a.resid_post for a in alone]))
    assert torch.equal(together.answer_logits, torch.cat([a.answer_logits for a in alone]))


def test_where_the_library_cannot_take_features_the_tower_runs_in_every_pass() -> None:
    model = make_model("qwen2_vl")
    clips, tracer = contents("qwen2_vl"), HeadTracer(model)
    expected = tracer.capture(clips, prompts=PROMPTS, progress=False)
    model.__dict__["accepts"] = frozenset(model.accepts - {"mm_encoder_outputs"})
    calls: list[int] = []
    hook = model.module.model.visual.register_forward_hook(lambda *_: calls.append(1))
    got = tracer.capture(clips, prompts=PROMPTS, progress=False)
    hook.remove()
    assert len(calls) == 3
    assert torch.equal(got.values, expected.values)
