from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from equality import close, same_bits
from tiny_models import contents, make_clips, make_model
from transformers.models.llama import modeling_llama

from headprobe import Example, HeadTracer, positions
from headprobe.errors import InputError, PositionError, UnsupportedModelError, VideoError
from headprobe.trace import attention as module_of_attention
from headprobe.trace.attention import AttentionPattern, attention


def read(model, heads=None, **options):
    return attention(model, contents("llama"), heads, **options)


def pattern(**changes) -> AttentionPattern:
    """Two heads over: text, four video tokens in two steps of a 1 x 2 grid, a video token without a place, text."""
    fields = {
        "weights": torch.arange(14.0).reshape(2, 7),
        "token_ids": torch.arange(7),
        "queries": torch.tensor([6]),
        "video": torch.tensor([False, True, True, True, True, True, False]),
        "frame": torch.tensor([-1, 0, 0, 2, 2, -1, -1]),
        "row": torch.tensor([-1, 0, 0, 0, 0, -1, -1]),
        "column": torch.tensor([-1, 0, 1, 0, 1, -1, -1]),
        "frames_per_token": 2,
    }
    return AttentionPattern(**fields | changes)


def test_video_tokens_go_to_their_places():
    grid = pattern().to_video()
    assert grid.tolist() == [[[[1, 2]], [[3, 4]]], [[[8, 9]], [[10, 11]]]]
    assert pattern().video_share().tolist() == [1 + 2 + 3 + 4 + 5, 8 + 9 + 10 + 11 + 12]


def test_tokens_of_one_place_add_up_and_empty_places_are_nan():
    column = torch.tensor([-1, 1, 1, 0, 1, -1, -1])
    grid = pattern(column=column).to_video()
    assert close(grid, [[[[np.nan, 3]], [[3, 4]]], [[[np.nan, 17]], [[10, 11]]]])


def test_a_pattern_without_video_says_so():
    for ask in (AttentionPattern.to_video, AttentionPattern.video_share):
        with pytest.raises(InputError, match="takes no video"):
            ask(pattern(video=None))


def test_inputs_of_different_lengths_are_padded_with_nan():
    found = read(make_model("llama"), ["L1H0", "L0H2"], batch_size=3, progress=False)
    assert found.values.shape == (1, 4, 2, 9)
    assert found.lengths.tolist() == [[3, 9, 1, 8]]
    for i, length in enumerate(found.lengths[0].tolist()):
        assert same_bits(found.values[0, i, :, :length], found.patterns[0][i].weights, of="one pass")
        assert bool(found.values[0, i, :, length:].isnan().all())
    assert found.patterns[0][2].weights.tolist() == [[1.0], [1.0]]  # a single token sees itself


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_heads_come_in_the_order_asked_for_and_batches_do_not_matter(family):
    model = make_model(family)
    every = read(model, batch_size=4, progress=False)
    some = read(model, ["L2H1", "L0H3", "L2H0"], batch_size=1, progress=False)
    index = [list(every.heads).index(head) for head in some.heads]
    for a, b in zip(every.patterns[0], some.patterns[0], strict=True):
        assert close(a.weights[index], b.weights)


def test_patterns_of_clips_lie_on_grids_of_their_sizes():
    model = make_model("qwen2_vl")
    found = attention(
        HeadTracer(model), contents("qwen2_vl", 3), ["L1H1"], {"a": "what happens ?", "b": "yes"}, progress=False
    )
    grids = found.to_video("b")
    assert [list(grid.shape) for grid in grids] == [[1, 1, 2, 3], [1, 2, 2, 3], [1, 3, 2, 3]]
    for i, grid in enumerate(grids):
        assert torch.allclose(grid.sum((1, 2, 3)), found.video_share()[1, i])
        inside = found.patterns[1][i].video
        assert same_bits(grid.flatten(), found.patterns[1][i].weights[0, inside], of="one pass")
    assert not close(found.video_share()[0], found.video_share()[1])
    with pytest.raises(InputError, match=r"prompt is None; choose one of \['a', 'b'\]"):
        found.to_video()


def test_only_the_language_stack_runs_eagerly_and_only_meanwhile():
    model = make_model("qwen2_vl")
    seen = {}

    def note(name):
        return lambda part, *_: seen.update({name: part.config._attn_implementation})

    blocks = {"vision": model.module.model.visual.blocks[0].attn}
    blocks["text"] = model.module.model.language_model.layers[0].self_attn
    hooks = [part.register_forward_pre_hook(note(name)) for name, part in blocks.items()]
    found = attention(model, contents("qwen2_vl", 2), ["L0H0"], progress=False)
    assert seen == {"vision": "sdpa", "text": "eager"}
    HeadTracer(model).capture(contents("qwen2_vl", 2), progress=False)
    assert seen == {"vision": "sdpa", "text": "sdpa"}
    for hook in hooks:
        hook.remove()
    assert model.config._attn_implementation == "sdpa"
    assert found.provenance.attention == "eager"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_implementation_is_restored_after_an_exception(error, monkeypatch):
    model = make_model("llama")
    before = HeadTracer(model).capture(["a man walks"], progress=False)

    def fail(*_):
        raise error("in the middle of the pass")

    with monkeypatch.context() as patch:
        patch.setattr(module_of_attention, "_weights", fail)
        with pytest.raises(error, match="in the middle"):
            attention(model, ["a man walks"], progress=False)
    assert model.config._attn_implementation == "sdpa"
    after = HeadTracer(model).capture(["a man walks"], progress=False)
    assert close(before.z, after.z)
    assert after.provenance.attention == "sdpa"


def test_captures_of_other_threads_keep_their_implementation():
    model = make_model("llama")
    expected = HeadTracer(model).capture(contents("llama"), progress=False)
    captured, done = [], threading.Event()

    def capture():
        while not done.is_set() or len(captured) < 5:
            captured.append(HeadTracer(model).capture(contents("llama"), progress=False))

    thread = threading.Thread(target=capture)
    thread.start()
    patterns = [read(model, progress=False) for _ in range(10)]
    done.set()
    thread.join()
    assert all(close(acts.z, expected.z) for acts in captured)
    assert {acts.provenance.attention for acts in captured} == {"sdpa"}
    assert all(close(found.values.nan_to_num(), patterns[0].values.nan_to_num()) for found in patterns)


def with_changed(part, change_kwargs):
    return part.register_forward_pre_hook(lambda _, args, kwargs: (args, change_kwargs(kwargs)), with_kwargs=True)


def test_attention_that_returns_no_weights_is_refused(monkeypatch):
    model = make_model("llama")
    eager = modeling_llama.eager_attention_forward
    monkeypatch.setattr(modeling_llama, "eager_attention_forward", lambda *args, **kw: (eager(*args, **kw)[0], None))
    message = r"layers.1.self_attn.o_proj: .* returns \[\[1, 3, 32\], 'NoneType'\].* = \[1, 4, 3, 3\] is needed"
    with pytest.raises(UnsupportedModelError, match=message):
        attention(model, ["a man walks"], ["L1H0"], progress=False)


def test_a_pass_whose_mask_was_not_made_for_it_is_refused():
    model = make_model("llama")
    hook = with_changed(model.module.model.layers[0].self_attn, lambda kwargs: kwargs | {"attention_mask": None})
    with pytest.raises(UnsupportedModelError, match="the first token attends to later ones"):
        attention(model, ["a man walks"], ["L0H0"], progress=False)
    hook.remove()

    def causal_alone(kwargs):
        causal = torch.full((1, 1, 3, 3), torch.finfo(torch.float32).min).triu(1)
        return kwargs | {"attention_mask": causal}

    with_changed(model.module.model.layers[0].self_attn, causal_alone)
    with pytest.raises(UnsupportedModelError, match="padding gets attention"):
        attention(model, ["a man walks", "car"], ["L0H0"], progress=False)


def test_what_cannot_be_read_is_refused():
    model = make_model("llama")
    for bad in (positions.all().each(), "last"):
        with pytest.raises(InputError, match=r"give one query token, or several with .mean\(\)"):
            attention(model, ["a man"], positions=bad, progress=False)
    with pytest.raises(PositionError, match="one is needed"):
        attention(model, ["a man"], positions=positions.all(), progress=False)
    with pytest.raises(InputError, match="L9H0 not in"):
        attention(model, ["a man"], ["L9H0"], progress=False)
    with pytest.raises(InputError, match="on_error"):
        attention(model, ["a man"], on_error="ignore", progress=False)
    with pytest.raises(InputError, match="batch_size"):
        attention(model, ["a man"], batch_size=0, progress=False)


class Broken:
    def read(self):
        raise VideoError("broken.mp4", "no video stream")


def test_clips_that_cannot_be_decoded_are_listed():
    model = make_model("qwen2_vl")
    examples = [Example(make_clips(1)[0], id="good"), Example(Broken(), id="bad")]
    with pytest.raises(VideoError):
        attention(model, examples, ["L0H0"], progress=False)
    found = attention(model, examples, ["L0H0"], on_error="skip", progress=False)
    assert found.skipped == (("bad", "broken.mp4: no video stream"),)
    assert found.examples["id"].tolist() == ["good"]
    assert len(found.patterns[0]) == 1
    with pytest.raises(InputError, match="None of the 1 examples could be read"):
        attention(model, examples[1:], ["L0H0"], on_error="skip", progress=False)
