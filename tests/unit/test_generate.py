from __future__ import annotations

import logging
import warnings

import pytest
import torch
from equality import close, same, same_bits
from tiny_models import contents, make_clips, make_model, make_module, make_tokenizer
from transformers import LlamaModel, LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

import headprobe
from headprobe import Example, HeadTracer
from headprobe.errors import InputError, UnsupportedModelError, VideoError
from headprobe.trace.generate import _Draw, _Sampling, _Stop, generate

TEXTS = contents("gpt2")


def made(model, examples=TEXTS, **options):
    return generate(model, examples, progress=False, **{"max_new_tokens": 6} | options)


@pytest.fixture(scope="module")
def model():
    return make_model("gpt2")


def test_steps_are_rows_that_name_the_tokens_read(model):
    result = made(model, ["a man walks", "car"], max_new_tokens=3)
    table, read = result.activations.examples, result.activations.read
    assert table["id"].tolist() == ["0@0", "0@1", "0@2", "1@0", "1@1", "1@2"]
    assert table["example"].tolist() == ["0"] * 3 + ["1"] * 3
    assert table["step"].tolist() == [0, 1, 2] * 2
    assert table["token"].tolist() == [2, 3, 4, 0, 1, 2]  # prompts of 3 and 1 tokens, then what was generated
    assert table["generated"].tolist() == torch.cat(list(result.tokens)).tolist()
    prompt_ends = [model.tokenizer.convert_tokens_to_ids(word) for word in ("walks", "car")]
    for i, last in enumerate(prompt_ends):
        assert read["token_id"].tolist()[3 * i : 3 * i + 3] == [last, *result.tokens[i][:2].tolist()]
    assert read["n_tokens"].tolist() == [6] * 3 + [4] * 3
    assert result.examples["id"].tolist() == ["0", "1"]
    assert [z.shape for z in result.z] == [(3, 12, 8)] * 2
    assert same_bits(torch.cat(result.z), result.activations.values[0], of="one run's tensors, held twice")
    assert result.activations.provenance.positions.startswith("generate(max_new_tokens=3, sampling=None")
    assert result.texts == tuple(model.tokenizer.decode(t, skip_special_tokens=True) for t in result.tokens)
    assert result.finished == (False, False)


def test_a_tracer_generates_the_same(model):
    options = {"do_sample": True, "temperature": 1.5, "top_k": 9, "top_p": 0.9, "random_state": 3, "stop": ["car"]}
    ours = made(model, heads=["L1H1"], batch_size=3, **options)
    other = HeadTracer(model).generate(TEXTS, None, 6, ["L1H1"], 3, progress=False, **options)
    assert ours.texts == other.texts
    assert ours.activations.provenance == other.activations.provenance
    assert all(close(a, b) for a, b in zip(ours.z, other.z, strict=True))


def test_heads_come_in_the_order_asked_for(model):
    every, some = made(model), made(model, heads=["L2H0", "L0H3", "L2H1"])
    index = [list(every.activations.heads).index(head) for head in some.activations.heads]
    assert all(close(a[:, index], b) for a, b in zip(every.z, some.z, strict=True))


def test_an_end_token_ends_one_example(model):
    plain = made(model)
    end = int(plain.tokens[0][2])
    assert not any(end in tokens for tokens in plain.tokens[1:])
    ended = make_model("gpt2")
    ended.module.generation_config.eos_token_id = [3, end]
    result = made(ended)
    assert same(result.tokens[0], plain.tokens[0][:3])
    assert close(result.z[0], plain.z[0][:3])
    assert all(same(a, b) for a, b in zip(result.tokens[1:], plain.tokens[1:], strict=True))
    assert result.finished == (True, False, False, False)


def test_all_examples_can_end_before_max_new_tokens(model):
    ended = make_model("gpt2")
    ended.module.generation_config.eos_token_id = list(range(ended.config.vocab_size))
    result = made(ended)
    assert [len(tokens) for tokens in result.tokens] == [1] * 4
    assert result.finished == (True,) * 4
    captured = HeadTracer(ended).capture(TEXTS, progress=False)
    assert close(torch.stack(result.z)[:, 0], captured.values[0])


def test_a_stop_text_ends_one_example(model):
    plain = made(model)
    words = [model.tokenizer.decode(tokens).split() for tokens in plain.tokens]
    stop = " ".join(words[0][2:4])  # two tokens together
    assert not any(stop in " ".join(other) for other in words[1:])
    result = made(model, stop=["never generated", stop])
    assert same(result.tokens[0], plain.tokens[0][:4])
    assert result.texts[0].endswith(stop)
    assert [len(z) for z in result.z] == [4, 6, 6, 6]
    assert result.finished == (True, False, False, False)
    own = make_model("gpt2")
    own.module.generation_config.stop_strings = stop
    assert [len(tokens) for tokens in made(own).tokens] == [4, 6, 6, 6]


def test_stop_looks_at_generated_text_only():
    tokenizer = make_tokenizer()
    stop = _Stop(["man"], tokenizer, n_prompt=2)
    word = tokenizer.convert_tokens_to_ids
    ids = torch.tensor([[word("a"), word("man"), word("runs")], [word("a"), word("car"), word("man")]])
    assert stop(ids, None).tolist() == [False, True]
    more = torch.cat([ids, torch.full((2, 1), word("man"))], 1)
    assert stop(more, None).tolist() == [True, True]
    assert stop.lengths == {0: 2, 1: 1}


def test_the_settings_of_the_checkpoint_count_except_those_of_other_searches(caplog):
    model = make_model("gpt2")
    module = model.module
    settings = {"num_beams": 3, "early_stopping": True, "temperature": 0.3, "top_k": 5, "do_sample": True}
    settings |= {"max_length": 7, "penalty_alpha": 0.6, "prompt_lookup_num_tokens": 2, "num_return_sequences": 2}
    settings |= {"repetition_penalty": 1.7, "suppress_tokens": [20], "prefill_chunk_size": 2, "use_cache": False}
    for name, value in settings.items():
        setattr(module.generation_config, name, value)
    before = module.generation_config
    logging.getLogger("transformers").addHandler(caplog.handler)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = made(model)
    logging.getLogger("transformers").removeHandler(caplog.handler)
    assert caplog.records == []
    assert module.generation_config is before
    assert all(getattr(before, name) == value for name, value in settings.items())
    batch = model.adapter.prepare(TEXTS, "", model)
    ids = make_module("gpt2").generate(
        **batch.inputs, do_sample=False, max_new_tokens=6, repetition_penalty=1.7, suppress_tokens=[20]
    )
    assert same(torch.stack(list(result.tokens)), ids[:, -6:])
    assert not same(torch.stack(list(made(make_model("gpt2")).tokens)), ids[:, -6:])


def test_two_passes_per_token_are_refused():
    model = make_model("gpt2")
    model.module.generation_config.guidance_scale = 1.5
    with pytest.raises(UnsupportedModelError, match=r"guidance_scale=1.5, which runs the model twice per token"):
        made(model)


def test_draws_depend_on_the_seed_and_the_example_alone(model):
    options = {"do_sample": True, "temperature": 2.0, "random_state": 5}
    state = torch.random.get_rng_state()
    result = made(model, [Example(text, id=text) for text in TEXTS], **options)
    assert same(torch.random.get_rng_state(), state)
    reordered = made(model, [Example(text, id=text) for text in reversed(TEXTS)], batch_size=3, **options)
    for tokens, other in zip(result.tokens, reversed(reordered.tokens), strict=True):
        assert same(tokens, other)
    other_seed = made(model, [Example(text, id=text) for text in TEXTS], **options | {"random_state": 6})
    assert result.texts != other_seed.texts != made(model).texts
    twice = made(model, [Example("car", id="x"), Example("car", id="y")], **options)
    assert not same(*twice.tokens)
    assert "random_state=5" in result.activations.provenance.positions


def test_drawing_among_one_token_is_taking_the_most_likely(model):
    result, greedy = made(model, do_sample=True, top_k=1), made(model)
    assert all(same(a, b) for a, b in zip(result.tokens, greedy.tokens, strict=True))
    result = made(model, do_sample=True, top_p=1e-6)
    assert all(same(a, b) for a, b in zip(result.tokens, greedy.tokens, strict=True))


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(0.7, 5, 0.6), (1.0, None, 0.9), (2.5, 3, None)])
def test_probabilities_are_those_of_transformers(temperature, top_k, top_p):
    scores = torch.randn((6, 40), generator=torch.Generator().manual_seed(0)).double() * 2
    steps = [TemperatureLogitsWarper(temperature)] if temperature != 1.0 else []
    steps += [TopKLogitsWarper(top_k)] if top_k else []
    steps += [TopPLogitsWarper(top_p)] if top_p else []
    expected = LogitsProcessorList(steps)(torch.zeros(6, 1, dtype=torch.long), scores).softmax(-1)
    found = _Sampling(temperature, top_k, top_p).probabilities(scores)
    assert torch.allclose(found, expected, atol=1e-12)
    assert bool(((found > 0) == (expected > 0)).all())


def test_draws_follow_the_probabilities():
    n = 4000
    shares = torch.tensor([0.5, 0.0, 0.3, 0.2])
    scores = shares.log().expand(n, 4)
    chosen = _Draw(_Sampling(), [str(i) for i in range(n)])(torch.zeros(n, 1), scores).argmax(-1)
    counts = chosen.bincount(minlength=4)
    assert counts[1] == 0
    # Four standard deviations of a binomial count; the seed is fixed, so this cannot fail by chance.
    assert bool(((counts - n * shares).abs() <= 4 * (n * shares * (1 - shares)).sqrt()).all())


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_leaves_the_model_as_it_was(error):
    model = make_model("qwen2_vl")
    clips = contents("qwen2_vl")
    captured = HeadTracer(model).capture(clips, "what happens ?", progress=False)
    expected = made(model, clips, prompt="what happens ?")
    settings, calls = model.module.generation_config, []

    def interrupt(_, args):
        calls.append(args)
        if len(calls) == 3:
            raise error("stop that")

    hook = model.module.get_submodule(model.sites[1].path).register_forward_pre_hook(interrupt)
    with pytest.raises(error, match="stop that"):
        made(model, clips, prompt="what happens ?")
    hook.remove()
    assert model.module.generation_config is settings
    again = made(model, clips, prompt="what happens ?")
    assert all(close(a, b) for a, b in zip(again.z, expected.z, strict=True))
    assert close(HeadTracer(model).capture(clips, "what happens ?", progress=False).z, captured.z)


def test_models_that_cannot_generate_are_refused():
    with pytest.raises(UnsupportedModelError, match=r"BertModel cannot generate: BertModel has no language head"):
        made(make_model("bert"))
    headless = headprobe.load(LlamaModel(make_module("llama").config), tokenizer=make_tokenizer())
    with pytest.raises(UnsupportedModelError, match=r"LlamaModel has no language head"):
        made(headless)


def test_wrong_settings_are_refused(model):
    wrong = [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": True}, "max_new_tokens is True"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"on_error": "ignore"}, "on_error is 'ignore'"),
        ({"temperature": 0.5}, "temperature given without do_sample=True"),
        ({"top_p": 0.0}, "top_p given without do_sample=True"),
        ({"do_sample": True, "temperature": 0}, "temperature is 0; it must be positive"),
        ({"do_sample": True, "top_k": 0}, "top_k is 0; it must be an integer of at least 1"),
        ({"do_sample": True, "top_k": 2.5}, "top_k is 2.5"),
        ({"do_sample": True, "top_p": 1.5}, r"top_p is 1.5; it must lie in \(0, 1\]"),
        ({"do_sample": True, "random_state": -1}, "random_state is -1"),
        ({"stop": "road"}, "stop is 'road'; give a list"),
        ({"stop": [""]}, "give a list of texts that are not empty"),
        ({"prompt": ["{text} a", "{text} b"]}, "generation takes one prompt"),
        ({"prompt": "a"}, r"must contain {text}"),
        ({"heads": ["L9H9"]}, "L9H9 not in"),
        ({"max_new_tokens": 57}, "9 tokens and max_new_tokens is 57, but GPT2LMHeadModel has 64 positions"),
    ]
    for options, message in wrong:
        with pytest.raises(InputError, match=message):
            made(model, **options)
    assert len(made(model, max_new_tokens=56).tokens[1]) == 56  # the last token needs no position


class Broken:
    def read(self):
        raise VideoError("broken.mp4", "no video stream")


def test_clips_that_cannot_be_decoded_are_listed():
    model = make_model("qwen2_vl")
    examples = [Example(Broken(), id="bad"), Example(make_clips(1)[0], id="good", label=1)]
    with pytest.raises(VideoError):
        made(model, examples)
    result = made(model, examples, on_error="skip")
    assert result.skipped == (("bad", "broken.mp4: no video stream"),)
    assert set(result.activations.examples["example"]) == {"good"}
    assert result.activations.labels.tolist() == [1] * len(result.tokens[0])
    with pytest.raises(InputError, match="None of the 1 examples could be read"):
        made(model, examples[:1], on_error="skip")
