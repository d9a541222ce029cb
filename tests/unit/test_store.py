"""A store keeps what it is given, reads it back head by head, and refuses what does not belong to it."""

from __future__ import annotations

import dataclasses
import json
import pickle
import time
import zlib

import numpy as np
import pandas as pd
import pytest
import torch
from equality import same_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from tiny_models import contents, make_model

from headprobe import HeadTracer, positions, saliency
from headprobe.activations import _READ_COLUMNS, HeadActivations, _read_summary, _row_table, concatenate, example_table
from headprobe.errors import FingerprintError, InputError, StoreError
from headprobe.examples import Example
from headprobe.heads import HeadSet
from headprobe.provenance import Provenance
from headprobe.store import Store

HEADS = HeadSet([(layer, head) for layer in range(2) for head in range(3)])
PROMPTS = {"p1": "what happens?", "p2": "is anything wrong?"}
MADE = Provenance("m", weights_hash="abc", dtype="float32", prompts=PROMPTS, positions="last()", frames=16)


def make(ids, prompts=PROMPTS, heads=HEADS, d_head=4, seed=0, scale=1.0, **more):
    """Activations with values, labels, groups and spans that depend on the id and the prompt only."""
    n = len(ids)
    examples = [
        Example("x", id=name, label=i % 2 if i % 3 else None, group=f"v{name[:1]}", span=(0, 48) if i % 2 else None)
        for i, name in enumerate(ids)
    ]
    values = torch.empty(len(prompts), n, len(heads), d_head)
    for p, prompt in enumerate(prompts):
        for i, name in enumerate(ids):
            generator = torch.Generator().manual_seed(
                seed + zlib.crc32(f"{prompt} {name}".encode("utf-8", "surrogateescape"))
            )
            values[p, i] = scale * torch.randn(len(heads), d_head, generator=generator)
    made = dataclasses.replace(MADE, prompts=dict(prompts))
    return HeadActivations(values, heads, dict(prompts), example_table(examples), made, **more)


def ragged(ids):
    """Heads of size 2 and 3, by turns."""
    acts = make(ids)
    small, large = HEADS[::2], HEADS[1::2]
    values = {small: acts.values[:, :, ::2, :2].clone(), large: acts.values[:, :, 1::2, :3].clone()}
    return dataclasses.replace(acts, values=values)


def read_of(acts):
    """A table of what was read, as a capture makes it."""
    n, names = len(acts.examples), list(acts.prompts)
    rows = len(names) * n
    return pd.DataFrame(
        {
            "prompt": pd.array([name for name in names for _ in range(n)], dtype="string"),
            "id": pd.array([*acts.examples["id"]] * len(names), dtype="string"),
            "index": pd.array(range(rows), dtype="Int64"),
            "first": np.arange(rows),
            "last": np.arange(rows),
            "count": np.ones(rows, np.int64),
            "n_tokens": np.full(rows, 40),
            "token_id": pd.array([7, 9] * (rows // 2), dtype="Int64"),
            "token": pd.array(["</s>", "é"] * (rows // 2), dtype="string"),
        }
    )


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "z"


@pytest.fixture
def store(folder):
    return Store.create(folder, MADE, HEADS, PROMPTS, dtype="float32")


def same(found: HeadActivations, expected: HeadActivations) -> None:
    assert found.heads == expected.heads
    assert list(found.tensors) == list(expected.tensors)
    for heads, values in expected.tensors.items():
        assert same_bits(found.tensors[heads], values, of="the arrays that were stored")
        assert found.tensors[heads].dtype == torch.float32
    assert list(found.prompts.items()) == list(expected.prompts.items())
    assert found.provenance == expected.provenance
    pd.testing.assert_frame_equal(found.examples, expected.examples)


# What is written is read


@pytest.mark.parametrize("build", [make, ragged])
def test_activations_come_back_as_they_were(store, folder, build):
    a, b = build(["a", "b", "c"]), build(["d", "e"])
    store.append(a)
    store.append(b)
    for opened in (store, Store.open(folder)):
        same(opened.activations(), concatenate([a, b]))
        assert len(opened) == 5
        assert opened.keys() == [(i, p) for i in "abcde" for p in PROMPTS]


def test_a_part_of_a_store(store):
    whole = make([f"{i}" for i in range(11)])
    store.append(whole, shard_examples=4)
    assert [entry.rows for entry in store.files] == [4, 4, 3]
    heads = HeadSet(["L1H2", "L0H1", "L0H2"])
    some = store.activations(heads, ["p2"], ["10", "0", "5"])
    assert same_bits(some.values[0], whole.select(heads)[1][[10, 0, 5]], of="the arrays that were stored")
    assert some.examples["id"].tolist() == ["10", "0", "5"]
    assert some.prompts == {"p2": PROMPTS["p2"]} == some.provenance.prompts
    assert same_bits(
        store.activations(prompts=["p2", "p1"]).values, whole.values[[1, 0]], of="the arrays that were stored"
    )
    assert same_bits(store.head("L1H0"), whole.values[:, :, 3], of="the arrays that were stored")
    assert same_bits(
        store.heads(heads, examples=slice(2, 9)), whole.select(heads)[:, 2:9], of="the arrays that were stored"
    )
    assert same_bits(store.z("p1"), whole.z[0], of="the arrays that were stored")
    assert same_bits(store.z("p1", examples=["3"]), whole.z[0, 3:4], of="the arrays that were stored")
    mask = np.arange(11) % 3 == 0
    assert same_bits(store.activations(examples=mask).values, whole.values[:, mask], of="the arrays that were stored")
    assert store.activations(examples=[]).values.shape == (2, 0, 6, 4)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_part_in_any_order(tmp_path_factory, data):
    ids = [str(i) for i in range(data.draw(st.integers(1, 9)))]
    whole = ragged(ids)
    store = Store.create(tmp_path_factory.mktemp("any") / "z", MADE, HEADS, dtype="float32")
    store.append(whole, shard_examples=data.draw(st.integers(1, 9)))
    if data.draw(st.booleans()):
        store.pack(examples_per_file=data.draw(st.integers(1, 9)), remove_shards=data.draw(st.booleans()))
    heads = data.draw(st.lists(st.sampled_from(list(HEADS)), min_size=1, unique=True))
    prompts = data.draw(st.lists(st.sampled_from(list(PROMPTS)), min_size=1, unique=True))
    rows = data.draw(st.lists(st.integers(0, len(ids) - 1), unique=True))
    found = store.activations(heads, prompts, [ids[row] for row in rows])
    places = [list(PROMPTS).index(prompt) for prompt in prompts]
    assert found.heads == HeadSet(heads)
    for head in heads:
        assert same_bits(found.select([head]), whole.select([head])[places][:, rows], of="the arrays that were stored")


def test_the_parts_of_a_ragged_store(store):
    acts = ragged(["a", "b"])
    store.append(acts)
    assert store.head("L0H1").shape == (2, 2, 3)
    assert {d for d in store.head_sizes.values()} == {2, 3}
    assert same_bits(store.heads(["L1H1", "L0H0"]), acts.select(["L1H1", "L0H0"]), of="the arrays that were stored")
    with pytest.raises(InputError, match=r"different sizes \(L0H0 has 2, L0H1 has 3\)"):
        store.heads(["L0H0", "L0H1"])
    with pytest.raises(InputError, match="L0H0 has size 2 in the store and 4 here"):
        store.append(make(["c"]))


def test_what_was_read_and_skipped_comes_back(store, folder):
    a, b = (make(ids, skipped=[("x", "no frames")]) for ids in (["a", "b"], ["c", "d"]))
    a, b = (dataclasses.replace(acts, read=read_of(acts)) for acts in (a, b))
    store.append(a)
    store.append(b)
    both = concatenate([a, b])
    opened = Store.open(folder)
    for acts in (opened.activations(), opened.activations(prompts=["p1", "p2"], examples=["a", "b", "c", "d"])):
        pd.testing.assert_frame_equal(acts.read, both.read)
        assert acts.provenance.read == _read_summary(both.read)
        assert acts.skipped == (("x", "no frames"),)
    part = opened.activations(prompts="p2", examples=["d", "a"]).read
    expected = pd.concat([both.read.iloc[[7]], both.read.iloc[[4]]], ignore_index=True)
    pd.testing.assert_frame_equal(part, expected)
    assert list(part.columns) == list(_READ_COLUMNS)


def test_means_over_tokens_have_no_index(store):
    acts = make(["a", "b"])
    read = read_of(acts)
    for name in ("index", "token_id", "token"):
        read[name] = pd.array([pd.NA] * len(read), dtype=read[name].dtype)
    store.append(dataclasses.replace(acts, read=read))
    pd.testing.assert_frame_equal(store.activations().read, read)


def test_an_example_is_no_longer_skipped_once_it_is_there(store):
    store.append(make(["a"], skipped=[("b", "no frames")]))
    store.append(make(["b"]))
    assert store.activations().skipped == ()


def test_extra_columns_of_many_types(store, folder):
    acts = make(["a", "b", "c"])
    acts.examples["seconds"] = [0.5, float("nan"), 2.0]
    acts.examples["path"] = ["x/é.mp4", None, "y.mp4"]
    acts.examples["night"] = [True, False, True]
    acts.examples["frame"] = pd.array([1, None, 3], dtype="Int64")
    store.append(acts)
    table = Store.open(folder).examples
    expected = acts.examples.astype({"path": "string"})
    pd.testing.assert_frame_equal(table, expected)
    more = dataclasses.replace(acts, examples=acts.examples.assign(id=["d", "e", "f"]))
    more.examples["path"] = pd.Series(["a", "b", "\udce9"], dtype=object)
    with pytest.raises(InputError, match=r"The column 'path' of type string cannot be stored; .* text \(as UTF-8\)"):
        store.append(more)
    acts.examples["when"] = pd.Timestamp(0)
    with pytest.raises(InputError, match="The column 'when' of type datetime64"):
        store.append(dataclasses.replace(acts, examples=acts.examples.assign(id=["d", "e", "f"])))


def test_any_safetensors_reader_can_open_a_shard(store, folder):
    acts = ragged(["a", "b"])
    (name,) = store.append(acts)
    with safe_open(folder / name, "pt") as file:
        assert file.metadata()["format"] == "headprobe.store/1"
        assert json.loads(file.metadata()["rows"])["columns"]["id"]["values"] == ["a", "b"]
        for heads, values in acts.tensors.items():
            assert same_bits(
                file.get_tensor(f"z.{len(heads)}x{values.shape[-1]}").permute(1, 2, 0, 3),
                values,
                of="the arrays that were stored",
            )


def test_one_head_stands_together_in_a_shard(store, folder):
    acts = make(["a", "b", "c"])
    (name,) = store.append(acts)
    head = acts.values[:, :, 4].contiguous().numpy().tobytes()
    assert (folder / name).read_bytes().count(head) == 1


def test_a_capture_of_every_token_comes_back(tmp_path):
    model = make_model("llama")
    texts = [Example(text, id=name, label=1) for text, name in zip(contents("llama", 2), "ab", strict=True)]
    acts = HeadTracer(model).capture(texts, positions=positions.all().each())
    store = Store.create(tmp_path / "z", acts.provenance, acts.heads, dtype="float32")
    store.append(acts)
    found = Store.open(tmp_path / "z").activations()
    same(found, acts)
    pd.testing.assert_frame_equal(found.read, acts.read)
    assert found.provenance.read == acts.provenance.read
    assert store.missing(["a", "b", "c"]) == ["c"]


# Numbers


@pytest.mark.parametrize(("dtype", "relative"), [("float16", 2**-11), ("bfloat16", 2**-8), ("float32", 0.0)])
def test_rounding_is_as_stated(folder, dtype, relative):
    store = Store.create(folder, MADE, HEADS, PROMPTS, dtype=dtype)
    acts = make([str(i) for i in range(20)], scale=30.0)
    store.append(acts)
    found = store.activations().values
    assert same_bits(found, acts.values.to(getattr(torch, dtype)).float(), of="the arrays that were stored")
    worst = float(((found - acts.values).abs() / acts.values.abs().clamp(min=6.2e-5)).max())
    assert worst <= relative
    assert worst > relative / 2 or relative == 0
    assert f"{dtype}"[:4] in store.dtype
    assert next(store.folder.glob("shard-*")).stat().st_size < 2 * 20 * 6 * 4 * (4 if dtype == "float32" else 2) + 5000


def test_small_numbers_keep_the_stated_absolute_error(folder):
    store = Store.create(folder, MADE, HEADS)
    acts = make(["a", "b", "c"], scale=2e-5)
    store.append(acts)
    worst = float((store.activations().values - acts.values).abs().max())
    assert 2**-27 < worst <= 2**-25


def test_float16_is_the_default_and_never_becomes_infinite(folder):
    store = Store.create(folder, MADE, HEADS, PROMPTS)
    acts = make(["a", "b"])
    acts.values[1, 1, 4, 2] = -65504.0
    store.append(acts)
    assert store.activations().values.abs().max() == 65504.0
    more = make(["c", "d"])
    more.values[1, 0, 4, 2] = -65505.0
    with pytest.raises(InputError, match="L1H1 of example 'c' under prompt 'p2' has the value -65505, beyond 65504"):
        store.append(more)
    assert store.missing(["a", "b", "c", "d"]) == ["c", "d"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_values_that_are_not_finite_are_refused(folder, bad, dtype):
    store = Store.create(folder, MADE, HEADS, dtype=dtype)
    acts = make(["a", "b"])
    acts.values[0, 1, 5, 3] = bad
    with pytest.raises(InputError, match=r"L1H2 of example 'b' under prompt 'p1' has the value .*, which the model"):
        store.append(acts)
    assert len(store) == 0


def test_bfloat16_cannot_overflow_quietly_either(folder):
    store = Store.create(folder, MADE, HEADS, dtype="bfloat16")
    acts = make(["a"])
    acts.values[0, 0, 0, 0] = torch.finfo(torch.float32).max
    with pytest.raises(InputError, match="L0H0 of example 'a'"):
        store.append(acts)


# What does not belong


def test_another_fingerprint_is_refused_with_the_differences(store, folder):
    other = dataclasses.replace(
        MADE, dtype="bfloat16", frames=8, versions={**MADE.versions, "torch": "0.1"}, prompts={**PROMPTS, "p2": "why?"}
    )
    acts = dataclasses.replace(make(["a"]), provenance=other)
    for attempt in (
        lambda: Store.open(folder, other),
        lambda: Store.resume(folder, other, HEADS),
        lambda: store.append(acts),
    ):
        with pytest.raises(FingerprintError) as caught:
            attempt()
        text = str(caught.value)
        assert "dtype: 'float32', now 'bfloat16'" in text
        assert "frames: 16, now 8" in text
        assert f"versions, torch: '{MADE.versions['torch']}', now '0.1'" in text
        assert "prompts, p2: 'is anything wrong?', now 'why?'" in text
        assert "p1" not in text
        assert "model" not in text
    assert len(Store.open(folder, MADE)) == 0


def test_the_order_of_prompts_belongs_to_the_fingerprint(store, folder):
    turned = dataclasses.replace(MADE, prompts=dict(reversed(PROMPTS.items())))
    with pytest.raises(FingerprintError, match=r"prompts, their order: \['p1', 'p2'\], now \['p2', 'p1'\]"):
        Store.open(folder, turned)


def test_clips_of_several_lengths(tmp_path):
    def clip(name, frames):
        made = dataclasses.replace(MADE, frames=frames)
        return dataclasses.replace(make([name]), provenance=made)

    several = Store.create(tmp_path / "several", dataclasses.replace(MADE, frames=None), HEADS)
    for name, frames in (("a", 4), ("b", 16), ("c", None)):
        several.append(clip(name, frames))
    assert len(Store.resume(tmp_path / "several", dataclasses.replace(MADE, frames=8), HEADS)) == 3
    one = Store.create(tmp_path / "one", dataclasses.replace(MADE, frames=4), HEADS)
    one.append(clip("a", 4))
    for frames in (8, None):
        with pytest.raises(FingerprintError, match=f"frames: 4, now {frames}"):
            one.append(clip("b", frames))


def test_resume_makes_and_continues(folder):
    first = Store.resume(folder, MADE, HEADS)
    first.append(make(["a"]))
    again = Store.resume(folder, MADE, HEADS, PROMPTS, "float16")
    assert again.missing(["a", "b"]) == ["b"]
    again.append(make(["b"]))
    with pytest.raises(InputError, match=r"6 heads; these are 2, without L0H2, L1H0, L1H1, L1H2"):
        Store.resume(folder, MADE, HEADS[:2])
    with pytest.raises(InputError, match="in another order"):
        Store.resume(folder, MADE, HEADS[::-1])
    with pytest.raises(FingerprintError, match="keeps float16, not float32"):
        Store.resume(folder, MADE, HEADS, dtype="float32")
    with pytest.raises(StoreError, match="there is a store already"):
        Store.create(folder, MADE, HEADS)


def test_keys_that_are_there_are_refused(store):
    store.append(make(["a", "b"]))
    with pytest.raises(StoreError, match=r"1 of these 2 examples are in the store already \(first: 'b' under 'p1'\)"):
        store.append(make(["b", "c"]))
    assert store.keys() == [("a", "p1"), ("a", "p2"), ("b", "p1"), ("b", "p2")]
    with pytest.raises(InputError, match="'c' is empty or occurs twice"):
        store.append(make(["c", "c"]))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"resid_post": torch.zeros(2, 1, 2, 8)}, "not resid_post; append dataclasses.replace"),
        ({"answer_logits": torch.zeros(2, 1, 1), "answers": ("yes",)}, "not answer_logits"),
        ({"heads": HEADS[::-1]}, "in another order"),
    ],
)
def test_what_a_store_does_not_keep_is_refused(store, change, text):
    with pytest.raises(InputError, match=text):
        store.append(dataclasses.replace(make(["a"]), **change))


def test_a_read_table_in_another_order_is_refused(store):
    acts = make(["a", "b"])
    with pytest.raises(InputError, match="all rows of the first prompt, then of the next"):
        store.append(dataclasses.replace(acts, read=read_of(acts).iloc[::-1].reset_index(drop=True)))


def test_wrong_questions(store, folder):
    with pytest.raises(InputError, match="holds no examples yet"):
        store.head("L0H0")
    assert repr(store).endswith("0 examples, 2 prompts, 6 heads, float32, 'm')")
    store.append(make(["a", "b"]))
    for question, text in [
        (lambda: store.head("L9H9"), "L9H9 asked for, but the store has 6 heads, L0H0 to L1H2"),
        (lambda: store.head("nine"), "'nine' is not a head label"),
        (lambda: store.heads([]), "None of the heads asked for"),
        (lambda: store.z(), r"several prompts; name one of \['p1', 'p2'\]"),
        (lambda: store.z("p3"), r"asked for are \['p3'\]; the store has"),
        (lambda: store.z("p1", heads=["L0H0", "L1H1"]), "z needs the same heads in every layer"),
        (lambda: store.activations(examples="a"), "is one id; give a list"),
        (lambda: store.activations(examples=["a", "q"]), r"1 of the examples .* not in the store \(first: 'q'\)"),
        (lambda: store.activations(examples=[0, 0]), "asked for twice"),
        (lambda: store.activations(examples=[7]), "lies outside the 2 examples"),
        (lambda: store.missing([("a", "p3")]), r"\('a', 'p3'\) is no key"),
        (lambda: store.append(make(["c"]), shard_examples=0), "shard_examples is 0"),
        (lambda: Store.create(folder / "b", MADE, HEADS, dtype="float64"), "got dtype='float64'"),
        (lambda: Store.create(folder / "b", MADE, HEADS, {"p1": "?"}), "those of the provenance"),
        (lambda: Store.create(folder / "b", Provenance("m"), HEADS), "needs prompts"),
        (lambda: Store.create(folder / "b", MADE, []), "at least one head"),
    ]:
        with pytest.raises(InputError, match=text):
            question()
    with pytest.raises(StoreError, match="no such folder"):
        Store.open(folder / "nowhere")
    (folder / "bare").mkdir()
    with pytest.raises(StoreError, match=r"has no manifest\.json; it is no store"):
        Store.open(folder / "bare")


# Keys by example and prompt


def test_prompts_can_come_one_after_another(store, folder):
    one, two = {"p1": PROMPTS["p1"]}, {"p2": PROMPTS["p2"]}
    store.append(make(["a", "b", "c"], two))
    store.append(make(["a"], one))
    assert store.keys() == [("a", "p2"), ("b", "p2"), ("c", "p2"), ("a", "p1")]
    wanted = [(i, p) for i in "abc" for p in PROMPTS]
    assert store.missing(wanted) == [("b", "p1"), ("c", "p1")]
    assert store.missing(["a", "b", "d"]) == ["b", "d"]
    with pytest.raises(StoreError, match="'a' under 'p1'"):
        store.append(make(["a"], one))
    with pytest.raises(InputError, match=r"2 of 3 rows lack a prompt \(first: 'b' lacks 'p1'\)"):
        store.activations()
    opened = Store.open(folder)
    same(opened.activations(prompts="p2"), make(["a", "b", "c"], two))
    assert same_bits(opened.head("L0H1", examples=["a"]), make(["a"]).values[:, :, 1], of="the arrays that were stored")
    opened.append(dataclasses.replace(make(["a", "b", "c"], one).subset([1, 2])))
    same(opened.activations(), make(["a", "b", "c"]))


def test_a_row_is_described_in_one_way(store):
    store.append(make(["a"], {"p1": PROMPTS["p1"]}))
    other = make(["a"], {"p2": PROMPTS["p2"]})
    other.examples["label"] = pd.array([7], dtype="Int64")
    with pytest.raises(InputError, match=r"'a' is .*'label': 7.* in the store"):
        store.append(other)


def rows(names, counts, prompts=PROMPTS):
    """Activations with several rows per example."""
    example = np.repeat(np.arange(len(names)), counts)
    table = _row_table([Example("x", id=name) for name in names], example, {"token": list(range(len(example)))})
    return dataclasses.replace(make(table["id"].tolist(), prompts), examples=table)


def test_rows_of_one_example_stay_together_and_are_one_key(store, folder):
    acts = rows(["a", "b", "c"], [3, 2, 4])
    store.append(acts, shard_examples=4)
    assert [entry.rows for entry in store.files] == [3, 2, 4]
    assert [entry.examples for entry in store.files] == [("a",), ("b",), ("c",)]
    assert store.missing(["a", "d", "a@0"]) == ["d", "a@0"]
    assert len(store) == 3
    opened = Store.open(folder)
    same(opened.activations(), acts)
    assert opened.activations(examples=["c", "a@1"]).examples["id"].tolist() == ["c@0", "c@1", "c@2", "c@3", "a@1"]
    with pytest.raises(StoreError, match="'b' under 'p1'"):
        store.append(rows(["b"], [1]))


# Files


def test_what_another_object_writes_is_seen(store, folder):
    other = Store.open(folder)
    store.append(make(["a"]))
    assert other.missing(["a"]) == ["a"]
    other.refresh()
    assert other.missing(["a"]) == []
    assert same_bits(other.head("L0H0"), store.head("L0H0"), of="the arrays that were stored")
    with pytest.raises(StoreError, match="'a' under 'p1'"):
        other.append(make(["a"]))
    assert pickle.loads(pickle.dumps(other)).keys() == store.keys()


def test_the_manifest_may_lag_or_be_behind_by_all(store, folder):
    before = (folder / "manifest.json").read_bytes()
    for i in range(42):
        store.append(make([str(i)]))
    listed = len(json.loads((folder / "manifest.json").read_text())["shards"])
    assert 35 <= listed < 42
    assert len(Store.open(folder)) == 42
    store.write_index()
    assert len(json.loads((folder / "manifest.json").read_text())["shards"]) == 42
    (folder / "manifest.json").write_bytes(before)
    opened = Store.open(folder)
    assert opened.keys() == store.keys()
    same(opened.activations(), store.activations())


def test_opening_reads_no_shard(store, folder, monkeypatch):
    store.append(make(["a", "b"]))
    store.write_index()
    monkeypatch.setattr("headprobe.store._manifest.read_shard", lambda _path: pytest.fail("a shard was read"))
    assert Store.open(folder).missing(["a", "c"]) == ["c"]


def test_metrics_take_what_a_store_gives(store):
    acts = make([str(i) for i in range(40)])
    acts.examples["label"] = pd.array([i % 2 for i in range(40)], dtype="Int64")
    store.append(acts)
    direct, stored = (saliency(given, metrics=("lda",)) for given in (acts, store.activations()))
    np.testing.assert_allclose(stored.to_numpy(), direct.to_numpy(), rtol=1e-5)


def test_one_head_of_many_is_read_without_the_others(folder):
    """2000 examples, 784 heads: read from maps, so that the time is that of one head, not of the store."""
    heads = HeadSet([(layer, head) for layer in range(28) for head in range(28)])
    made = dataclasses.replace(MADE, prompts={"p1": "?"})
    store = Store.create(folder, made, heads)
    for begin in range(0, 2000, 250):
        examples = example_table([Example("x", id=str(i)) for i in range(begin, begin + 250)])
        values = torch.full((1, 250, 784, 8), float(begin))
        store.append(HeadActivations(values, heads, {"p1": "?"}, examples, made))
    whole, few = [], []
    for _ in range(5):
        start = time.process_time()
        store.head("L18H4")
        few.append(time.process_time() - start)
        start = time.process_time()
        store.activations()
        whole.append(time.process_time() - start)
    assert min(few) < min(whole) / 5
