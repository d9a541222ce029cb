from __future__ import annotations

import subprocess
import sys
import threading
import weakref
from collections import Counter
from pathlib import Path

import pytest
import torch
import transformers
from equality import close, same, same_bits, tolerance
from tiny_models import FAMILIES, TEXTS, VOCAB_SIZE, contents, make_clips, make_model, make_module, make_tokenizer

import headprobe
from headprobe import Example, HeadSet, HeadSite, HeadTracer, _validation, positions
from headprobe.errors import (
    HeadprobeError,
    HeadprobeWarning,
    InputError,
    OutOfMemoryError,
    PaddingError,
    PositionError,
    UnsupportedModelError,
    VideoError,
)
from headprobe.models.adapter import ModelInputs, TokenInfo
from headprobe.models.sites import block_paths
from headprobe.trace import attention as trace_attention
from headprobe.trace import edits
from headprobe.trace import tracer as tracing
from headprobe.trace._readout import Wanted
from headprobe.trace.positions import last
from headprobe.trace.tracer import BatchSize

GENERATIVE = [family for family in FAMILIES if family != "bert"]


class Lazy:
    """A clip that counts how often it is decoded, or fails."""

    def __init__(self, frames=None):
        self.frames, self.reads = frames, 0

    def read(self):
        self.reads += 1
        if self.frames is None:
            raise VideoError("broken.mp4", "no video stream")
        return self.frames


def capture(model, examples, **options):
    return HeadTracer(model).capture(examples, progress=False, **options)


def count_calls(model, action) -> Counter:
    """How often each block and each projection ran during an action."""
    counts: Counter = Counter()
    paths = [*block_paths(model.module, model.sites), *(site.path for site in model.sites)]
    hooks = [
        model.module.get_submodule(path).register_forward_hook(lambda *_, path=path: counts.update([path]))
        for path in paths
    ]
    try:
        action()
    finally:
        for hook in hooks:
            hook.remove()
    return counts


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_size", [2, 3, 16])
def test_a_batch_equals_its_single_examples(family, batch_size):
    model = make_model(family)
    examples = contents(family)
    together = capture(model, examples, batch_size=batch_size).values
    alone = torch.cat([capture(model, [example]).values for example in examples], dim=1)
    scale = alone.abs().max()
    assert (together - alone).abs().max() < tolerance(torch.float32) * scale
    assert (alone[:, 0] - alone[:, 1]).abs().max() > 0.05 * scale  # the examples do differ


@pytest.mark.parametrize("family", GENERATIVE)
def test_padding_without_a_mask_would_have_been_wrong(family):
    """The refusal of missing masks guards against something real."""
    model = make_model(family)
    batch = model.adapter.prepare(contents(family, 2), "", model)
    batch.inputs["attention_mask"][:] = 1
    tokens = TokenInfo(torch.ones_like(batch.attention_mask).bool())
    ignored = HeadTracer(model).read(ModelInputs(batch.inputs, tokens, "left", None))
    right = capture(model, contents(family, 2)).values[0]
    short = int(batch.token_info.lengths.argmin())
    assert (ignored.z[short] - right[short]).abs().max() > 1e-3 * right.abs().max()


@pytest.mark.parametrize("family", FAMILIES)
def test_missing_masks_and_wrong_padding_are_refused_not_computed(family):
    model = make_model(family)
    tracer = HeadTracer(model)
    batch = model.adapter.prepare(contents(family, 2), "", model)
    without = {name: value for name, value in batch.inputs.items() if name != "attention_mask"}
    with pytest.raises(PaddingError, match="no attention_mask"):
        tracer.read(ModelInputs(without, batch.token_info, batch.padding_side))
    flipped = {**batch.inputs, "attention_mask": batch.attention_mask.flip(1)}
    with pytest.raises(PaddingError, match=f"this family is padded on the {batch.padding_side}"):
        tracer.read(ModelInputs(flipped, batch.token_info, batch.padding_side))
    everything = {**batch.inputs, "attention_mask": torch.ones_like(batch.attention_mask)}
    with pytest.raises(PaddingError, match="padding tokens"):
        tracer.read(
            ModelInputs(everything, TokenInfo(everything["attention_mask"].bool()), batch.padding_side, batch.pad_id)
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_early_stop_equals_the_full_pass_and_later_layers_do_not_run(family):
    model = make_model(family)
    examples = contents(family)
    blocks = block_paths(model.module, model.sites)
    full = capture(model, examples, resid_post=True)
    early: list = []
    counts = count_calls(model, lambda: early.append(capture(model, examples, heads=model.sites[1].heads)))
    assert close(early[0].values, full.select(model.sites[1].heads))
    assert [counts[path] for path in blocks] == [1, 0, 0]  # block 1 was entered and left inside
    assert [counts[site.path] for site in model.sites] == [1, 0, 0]


@pytest.mark.parametrize("family", GENERATIVE)
def test_the_language_head_runs_only_for_answers(family):
    model = make_model(family)
    calls = []
    hook = model.module.get_output_embeddings().register_forward_hook(lambda *_: calls.append(1))
    capture(model, contents(family), resid_post=True)
    assert not calls
    capture(model, contents(family), answers=["yes", "no"])
    assert calls == [1]
    hook.remove()


@pytest.mark.parametrize("family", FAMILIES)
def test_some_heads_are_slices_of_all_in_the_order_asked_for(family):
    model = make_model(family)
    full = capture(model, contents(family))
    heads = HeadSet(["L2H1", "L0H3", "L2H0"])
    part = capture(model, contents(family), heads=heads)
    assert part.heads == heads
    assert close(part.values, full.values[:, :, [9, 3, 8]])
    assert close(part.values, full.select(heads))
    assert close(full.z[0, :, 2, 1], part.values[0, :, 0])


def test_only_the_layers_asked_for_are_read():
    """A NaN that every later layer would carry on does not hinder reading an earlier one."""
    model = make_model("llama")
    tracer = HeadTracer(model)
    batch = model.adapter.prepare(TEXTS, "", model)
    model.module.model.layers[2].self_attn.q_proj.weight.data.fill_(float("nan"))
    reading = tracer.read(batch, heads=["L0H1", "L1H2"])
    assert reading.z.shape == (4, 2, 8)
    assert reading.z.isfinite().all()
    assert not tracer.read(batch, heads=["L2H2"]).z.isfinite().any()


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2", "bert"])
def test_permuting_heads_permutes_their_outputs(family):
    """Rearranging a layer's heads, in and out, leaves the model as it is and rearranges z."""
    model = make_model(family, **({"num_key_value_heads": 4} if family in ("llama", "qwen2") else {}))
    before = capture(model, contents(family), resid_post=True)
    order = torch.tensor([2, 0, 3, 1])
    site = model.sites[1]
    parent = site.path.removesuffix(".output.dense") if family == "bert" else site.path.rpartition(".")[0]
    attention = model.module.get_submodule(parent + ".self" if family == "bert" else parent)
    with torch.no_grad():
        for name, parameter in attention.named_parameters():
            if name.startswith(("q_proj", "k_proj", "v_proj", "query", "key", "value")):
                parameter.copy_(parameter.unflatten(0, (4, 8))[order].flatten(0, 1))
            elif name.startswith("c_attn"):  # [in, 3 * heads * d_head] or its bias
                parts = parameter.unflatten(-1, (3, 4, 8))
                parameter.copy_(parts[..., order, :].flatten(-3))
        projection = model.module.get_submodule(site.path)
        rows = projection.weight.T if isinstance(projection, torch.nn.Linear) else projection.weight
        permuted = rows.unflatten(0, (4, 8))[order].flatten(0, 1)
        projection.weight.copy_(permuted.T if isinstance(projection, torch.nn.Linear) else permuted)
    after = capture(model, contents(family), resid_post=True)
    scale = before.values.abs().max()
    assert (after.z[:, :, 1] - before.z[:, :, 1][:, :, order]).abs().max() < 1e-5 * scale
    assert (after.z[:, :, 2] - before.z[:, :, 2]).abs().max() < 1e-4 * scale
    assert (after.z[:, :, 1] - before.z[:, :, 1]).abs().max() > 0.05 * scale


@pytest.mark.parametrize("family", FAMILIES)
def test_pooled_positions_average_the_tokens(family):
    model = make_model(family)
    examples = contents(family, 2)
    pooled = capture(model, examples, positions=positions.all().mean()).values
    for i, example in enumerate(examples):
        n = int(model.adapter.prepare([example], "", model).attention_mask.sum())
        each = [capture(model, [example], positions=positions.index(j)).values[:, 0] for j in range(n)]
        mean = torch.stack(each).mean(0)
        assert torch.allclose(pooled[:, i], mean, rtol=0, atol=tolerance(torch.float32) * float(mean.abs().max() + 1))


def test_the_first_and_the_indexed_token_agree():
    model = make_model("bert")
    first = capture(model, TEXTS, positions=positions.first())
    assert close(first.values, capture(model, TEXTS, positions=positions.index(0)).values)
    assert not close(first.values, capture(model, TEXTS).values)
    assert first.provenance.positions == "first()"


@pytest.mark.parametrize(
    ("position", "text"),
    [
        (positions.all(), r"all\(\) selects 3 tokens of example 0"),
        (positions.index(2), r"index\(2\) lies outside example 2 of the batch, which has 1 real tokens"),
        (positions.video_tokens().mean(), "needs a model that takes video"),
    ],
)
def test_positions_that_do_not_fit_are_refused(position, text):
    with pytest.raises(PositionError, match=text):
        capture(make_model("llama"), TEXTS, positions=position)


def test_answers_are_logits_at_the_last_position():
    for family in GENERATIVE:
        model = make_model(family)
        acts = capture(model, contents(family), answers=("yes", "no"))
        ids = model.tokenizer.convert_tokens_to_ids(["yes", "no"])
        for i, example in enumerate(contents(family)):
            batch = model.adapter.prepare([example], "", model)
            with torch.no_grad():
                logits = model.module(**batch.inputs).logits[0, -1, ids]
            assert torch.allclose(acts.answer_logits[0, i], logits, atol=2e-4), family
        assert acts.answers == ("yes", "no")


@pytest.mark.parametrize(
    ("answers", "text"),
    [
        (["yes", "a man"], r"The answer 'a man' is 2 tokens \['a', 'man'\]; an answer must be one token"),
        (["maybe"], "The answer 'maybe' is not in the vocabulary"),
        ("yes", "give a list of texts of one token each"),
        ([], "give a list of texts of one token each"),
    ],
)
def test_bad_answers_are_named(answers, text):
    with pytest.raises(InputError, match=text):
        capture(make_model("llama"), TEXTS, answers=answers)


def test_an_encoder_gives_no_answers():
    with pytest.raises(InputError, match="BertModel has no language head"):
        capture(make_model("bert"), TEXTS, answers=["yes"])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_residual_stream_is_the_output_of_every_block(family):
    model = make_model(family)
    acts = capture(model, contents(family, 1), resid_post=True)
    batch = model.adapter.prepare(contents(family, 1), "", model)
    with torch.no_grad():
        output = model.module(**batch.inputs, output_hidden_states=True)
    # the last of transformers' hidden states has passed the final norm (not in BERT)
    states = output.hidden_states[1:] if family == "bert" else output.hidden_states[1:-1]
    for layer, state in enumerate(states):
        assert close(acts.resid_post[0, :, layer], state[:, -1]), layer
    assert acts.resid_post.shape == (1, 1, 3, 32)


def test_reading_few_heads_does_not_shorten_the_residual_stream():
    model = make_model("llama")
    full = capture(model, TEXTS, resid_post=True)
    part = capture(model, TEXTS, heads=["L0H0"], resid_post=True)
    assert close(part.resid_post, full.resid_post)


def test_each_clip_is_decoded_and_packed_once_for_all_prompts(monkeypatch):
    from headprobe.models.families import qwen_vl

    model = make_model("qwen2_vl")
    packed = []
    original = qwen_vl.pack
    monkeypatch.setattr(qwen_vl, "pack", lambda *a: packed.append(1) or original(*a))
    clips = [Lazy(clip) for clip in make_clips(3)]
    examples = [Example(clip, id=f"c{i}") for i, clip in enumerate(clips)]
    acts = capture(model, examples, prompts=["what happens ?", "does anything odd happens ?"], batch_size=2)
    assert [clip.reads for clip in clips] == [1, 1, 1]
    assert len(packed) == 3
    assert acts.z.shape == (2, 3, 3, 4, 8)
    assert acts.provenance.frames == 4
    single = capture(model, [clips[1].frames], prompts="does anything odd happens ?")
    assert (acts.values[1, 1] - single.values[0, 0]).abs().max() < 1e-5


def test_a_clip_that_fails_to_decode_raises_by_default():
    examples = [Example(Lazy(make_clips(1)[0]), id="good"), Example(Lazy(), id="bad")]
    with pytest.raises(VideoError, match=r"broken.mp4: no video stream"):
        capture(make_model("qwen2_vl"), examples)


def test_skipped_clips_are_listed_and_missing_never_filled_in():
    model = make_model("qwen2_vl")
    clips = make_clips(4)
    examples = [Example(Lazy(clip), id=f"g{i}", label=i % 2) for i, clip in enumerate(clips)]
    bad = [Example(Lazy(), id=f"b{i}") for i in range(3)]
    mixed = [bad[0], examples[0], examples[1], bad[1], bad[2], examples[2], examples[3]]
    acts = capture(model, mixed, on_error="skip", batch_size=2)
    assert acts.examples.id.tolist() == ["g0", "g1", "g2", "g3"]
    assert [name for name, _ in acts.skipped] == ["b0", "b1", "b2"]
    assert acts.skipped[0][1] == "broken.mp4: no video stream"
    assert acts.values.is_contiguous()
    whole = capture(model, examples, batch_size=1)
    assert (acts.values - whole.values).abs().max() < 1e-5


def test_nothing_readable_is_an_error():
    with pytest.raises(InputError, match=r"None of the 2 examples could be read; the first: b0: broken.mp4"):
        capture(make_model("qwen2_vl"), [Example(Lazy(), id=f"b{i}") for i in range(2)], on_error="skip")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"on_error": "ignore"}, "on_error is 'ignore'; choose 'raise' or 'skip'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 2.5}, "batch_size is 2.5"),
        ({"heads": []}, "No heads were asked for"),
        ({"heads": ["L0H0", "L7H1"]}, r"L7H1 not in LlamaForCausalLM, .* layers 0..2, 4 each"),
        ({"positions": -1}, r"give a position such as headprobe.positions.last\(\)"),
    ],
)
def test_bad_options_are_named(options, text):
    with pytest.raises(InputError, match=text):
        capture(make_model("llama"), TEXTS, **options)


def test_a_tracer_needs_a_loaded_model():
    with pytest.raises(InputError, match=r"needs a model from headprobe.load\(...\); got LlamaForCausalLM"):
        HeadTracer(make_module("llama"))


def test_a_process_forked_while_other_threads_capture_can_capture_itself(tmp_path):
    worker = Path(__file__).parents[1] / "fork_worker.py"
    done = subprocess.run(
        [sys.executable, worker, tmp_path / "z"], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["right"] * 6


def test_two_threads_with_one_model_give_right_answers():
    model = make_model("llama")
    expected = [capture(model, [text]).values for text in TEXTS]
    wrong, errors = [], []

    def work(tracer, offset):
        try:
            for i in range(12):
                k = (i + offset) % len(TEXTS)
                if not close(tracer.capture([TEXTS[k]], progress=False).values, expected[k]):
                    wrong.append(k)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(HeadTracer(model), i)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert not wrong


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_in_the_middle_leaves_the_model_usable(error):
    model = make_model("gpt2")
    before = capture(model, TEXTS).values
    with torch.no_grad():
        plain = model.module(**model.adapter.prepare(TEXTS, "", model).inputs).logits

    def interrupt(*_):
        raise error("stop")

    hook = model.module.transformer.h[1].mlp.register_forward_hook(interrupt)
    with pytest.raises(error):
        capture(model, TEXTS)
    hook.remove()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.module.modules())
    assert close(capture(model, TEXTS).values, before)
    with torch.no_grad():
        again = model.module(**model.adapter.prepare(TEXTS, "", model).inputs).logits
    assert close(again, plain)


def test_capturing_leaves_no_gradients_and_no_training_mode():
    model = make_model("gpt2")
    acts = capture(model, TEXTS)
    assert not acts.values.requires_grad
    assert not model.module.training
    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    assert torch.is_grad_enabled()


def test_low_precision_models_give_float32_values():
    model = make_model("llama")
    exact = capture(model, TEXTS).values
    model.module.bfloat16()
    acts = capture(model, TEXTS)
    assert acts.values.dtype == torch.float32
    assert same_bits(acts.values, acts.values.bfloat16().float(), of="values of bfloat16, kept as float32")
    assert (acts.values - exact).abs().max() < 0.1 * exact.abs().max()
    assert acts.provenance.dtype == "bfloat16"


def test_provenance_says_what_was_run():
    model = make_model("llama")
    acts = capture(model, TEXTS, prompts={"ask": "what happens : {text}"})
    again = capture(model, TEXTS, prompts={"ask": "what happens : {text}"})
    assert acts.provenance == again.provenance == HeadTracer(model).provenance(acts.prompts)
    assert acts.provenance.attention == "sdpa"
    assert acts.provenance.adapter == "text-decoder"
    other = make_model("llama", seed=1)
    assert capture(other, TEXTS, prompts=acts.prompts).provenance.differences(acts.provenance) == ["weights_hash"]


def test_provenance_names_the_edits_in_force():
    model = make_model("llama")
    plain = capture(model, TEXTS)
    with edits.zero(model, ["L0H1"]) as edit:
        edited = capture(model, TEXTS)
    assert edited.provenance.edits == (repr(edit),)
    assert edited.provenance.differences(plain.provenance) == ["edits"]
    assert not edited.select(["L0H1"]).any()
    assert capture(model, TEXTS).provenance == plain.provenance


def test_a_traced_module_can_be_copied_and_freed():
    import copy
    import gc

    model = make_model("gpt2")
    values = capture(model, TEXTS).values
    module = copy.deepcopy(model.module)
    module.transformer.h[0].attn.c_proj.weight.data.zero_()
    assert close(capture(model, TEXTS).values, values)
    reference = weakref.ref(model.module)
    del model
    gc.collect()
    assert reference() is None


def test_labels_groups_and_spans_arrive_in_the_table():
    examples = [Example(text, id=f"e{i}", label=i % 2, group="g", span=(i, i + 1)) for i, text in enumerate(TEXTS)]
    acts = capture(make_model("llama"), examples)
    assert acts.labels.tolist() == [0, 1, 0, 1]
    assert acts.examples[["start", "end"]].to_numpy().tolist() == [[i, i + 1] for i in range(4)]
    assert same(acts.groups, ["g"] * 4)


def test_it_works_from_a_command_without_a_source_file(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from tiny_models import *; import headprobe;"
        "acts = headprobe.HeadTracer(make_model('gpt2')).capture(TEXTS, progress=False);"
        "print(tuple(acts.z.shape))"
    )
    from pathlib import Path

    tests = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tests)], capture_output=True, text=True, cwd=tests.parent, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(1, 4, 3, 4, 8)"


def test_nothing_is_printed(capfd):
    capture(make_model("gpt2"), TEXTS)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


@pytest.mark.parametrize("part", ["", "transformer.h.1.mlp"])
def test_a_model_in_training_mode_is_not_read(part):
    model = make_model("gpt2")
    model.module.get_submodule(part).train()
    said = (
        "the model is in training mode" if part == "" else r"parts \(first: transformer.h.1.mlp\) are in training mode"
    )
    with pytest.raises(HeadprobeError, match=rf"{said}.*Call model\.module\.eval\(\)"):
        capture(model, TEXTS)
    with pytest.raises(HeadprobeError, match=said):
        HeadTracer(model).generate(TEXTS, max_new_tokens=2, progress=False)
    model.module.eval()
    assert len(capture(model, TEXTS).examples) == len(TEXTS)


class Listed(torch.nn.ModuleList):
    """A block whose parts are called one by one."""


def test_a_block_that_is_a_list_of_parts_has_no_residual_stream():
    module = make_module("llama")
    layers = module.model.layers
    for i, block in enumerate(layers):
        layers[i] = Listed([block])

    sites = [HeadSite(i, f"model.layers.{i}.0.self_attn.o_proj", 4, 8, n_kv_heads=2) for i in range(3)]
    model = headprobe.load(module, tokenizer=make_tokenizer(), sites=sites, check=False)
    with pytest.raises(UnsupportedModelError, match=r"model\.layers\.0: the block is a list of parts.*resid_post=True"):
        capture(model, TEXTS, resid_post=True)


LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 4,
    "long_factor": [4.0, 3.0, 2.0, 1.5],
    "original_max_position_embeddings": 8,
    "rope_theta": 10000.0,
    "factor": 8.0,
}


def longrope():
    """A model that takes other positions for a batch with a text of more than 8 tokens."""
    torch.manual_seed(0)
    config = transformers.Phi3Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=None,
        rope_parameters=dict(LONGROPE),
        original_max_position_embeddings=8,  # transformers' own default, 4096, would replace that of the parameters
        initializer_range=0.3,
    )
    return headprobe.load(transformers.Phi3ForCausalLM(config), tokenizer=make_tokenizer())


def test_a_text_has_the_same_heads_beside_a_longer_one_where_length_changes_positions():
    model, short, long = longrope(), "a man walks", " ".join(["the road at night"] * 4)
    assert model.rope_limits == (8,)
    examples = [short, long, "a car stops", "woman"]
    alone = torch.cat([capture(model, [text]).z for text in examples], 1)
    together = capture(model, examples).z
    assert (together - alone).abs().max() < 1e-4 * alone.abs().max()
    inputs = model.adapter.prepare([short, long], "", model)
    with pytest.raises(InputError, match=r"texts of 3 to 16 tokens, but .* once a text has more than 8; run shorter"):
        HeadTracer(model).read(inputs)
    patterns = trace_attention.attention(model, examples, progress=False).patterns[0]
    for i, text in enumerate(examples):
        own = trace_attention.attention(model, [text], progress=False).patterns[0][0].weights
        assert (patterns[i].weights - own).abs().max() < 1e-4
    made = HeadTracer(model).generate(examples, max_new_tokens=7, progress=False)
    for i, text in enumerate(examples):
        own = HeadTracer(model).generate([text], max_new_tokens=7, progress=False)
        assert made.texts[i] == own.texts[0]
        assert (made.z[i] - own.z[0]).abs().max() < 1e-4 * own.z[0].abs().max()


def test_a_model_without_such_lengths_runs_one_batch():
    model = make_model("llama")
    assert (model.rope_limits, model.rope_group(5)) == ((), ())


@pytest.fixture
def small_memory():
    """A model of whose memory only two texts at once fit, and the sizes that were tried."""
    model, sizes = make_model("llama"), []

    def limited(module, args, kwargs):
        sizes.append(len(kwargs["input_ids"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    model.module.register_forward_pre_hook(limited, with_kwargs=True)
    return model, sizes


def test_a_batch_size_that_fits_is_found_and_kept(small_memory, caplog):
    model, sizes = small_memory
    size = BatchSize.of("auto", model.device)
    with caplog.at_level("INFO", logger="headprobe"):
        acts = HeadTracer(model).capture(TEXTS, batch_size=size, progress=False)
    assert (sizes, size.size) == ([4, 2, 2], 2)
    assert "out of memory with 4 examples per pass: going on with 2" in caplog.text
    assert close(acts.z, capture(make_model("llama"), TEXTS).z)
    HeadTracer(model).capture(TEXTS, batch_size=size, progress=False)
    assert sizes[3:] == [2, 2]


def test_too_little_memory_is_an_error_of_ours(small_memory):
    model, _ = small_memory
    with pytest.raises(OutOfMemoryError, match=r"for 4 examples at once; give a smaller batch_size or 'auto'") as told:
        HeadTracer(model).capture(TEXTS, batch_size=4, progress=False)
    assert isinstance(told.value, HeadprobeError)
    with pytest.raises(OutOfMemoryError, match=r"does not suffice for text after a pass of 4 rows: .*20\.00 GiB"):
        HeadTracer(model).generate(TEXTS, max_new_tokens=2, progress=False)


def test_a_long_run_is_told_after_its_first_batch_and_what_does_not_fit_is_warned_of(monkeypatch, caplog):
    tracer = HeadTracer(make_model("llama"))
    with caplog.at_level("INFO", logger="headprobe"):
        tracer.capture(TEXTS, batch_size=1, progress=False)
        assert caplog.text == ""
        monkeypatch.setattr(_validation, "LONG_SECONDS", 0.0)
        tracer.capture(TEXTS, batch_size=4, progress=False)
        assert caplog.text == ""
        acts = tracer.capture(TEXTS, batch_size=1, progress=False)
    assert caplog.text.count("capture: 1 of about 4 examples done; about") == 1
    assert tracer._kept_bytes(Wanted(acts.heads, {"last": last()}, False, ()), 1) == acts.z[0, 0].numel() * 4
    monkeypatch.setattr(tracing, "_available_memory", lambda: 10)
    with pytest.warns(HeadprobeWarning, match=r"are still to be kept in memory and 0\.0 GB are free"):
        tracer.capture(TEXTS, batch_size=1, progress=False)
