from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from equality import same_bits

from headprobe.activations import _READ_COLUMNS, HeadActivations, concatenate, example_table
from headprobe.errors import FingerprintError, InputError
from headprobe.examples import Example
from headprobe.heads import HeadSet
from headprobe.provenance import Provenance

RECTANGLE = [(layer, head) for layer in (1, 4) for head in (0, 2, 3)]
EXAMPLES = [
    Example("x", id="a", label=0, group="v1", span=(0, 8)),
    Example("y", id="b", label=1, group="v2", span=(8, 16)),
    Example("z", id="c", label=1, group="v2"),
]


def make(heads=RECTANGLE, examples=EXAMPLES, prompts=("p1", "p2"), seed=0, **more):
    heads = HeadSet(heads)
    generator = torch.Generator().manual_seed(seed)
    shape = (len(prompts), len(examples))
    values = torch.randn(*shape, len(heads), 5, generator=generator)
    named = {name: f"question {name}" for name in prompts}
    provenance = Provenance(model="m", prompts=named)
    return HeadActivations(values, heads, named, example_table(examples), provenance, **more)


def test_z_is_the_rectangle_without_a_copy():
    acts = make()
    assert acts.z.shape == (2, 3, 2, 3, 5)
    assert acts.layers == (1, 4)
    assert acts.z.data_ptr() == acts.values.data_ptr()
    assert same_bits(acts.z[1, 2, 1, 0], acts.select(["L4H0"])[1, 2, 0], of="copies of one array")


@pytest.mark.parametrize("heads", [RECTANGLE[:-1], RECTANGLE[::-1], [(0, 0), (1, 1)]])
def test_z_refuses_what_is_no_rectangle(heads):
    with pytest.raises(InputError, match=r"z needs the same heads in every layer.*Use \.select\(heads\) or \.values"):
        _ = make(heads).z


def test_select_keeps_the_order_asked_for():
    acts = make()
    picked = acts.select(HeadSet(["L4H3", "L1H0"]))
    assert same_bits(picked, acts.values[:, :, [5, 0]], of="copies of one array")


def test_select_names_heads_that_were_not_read():
    with pytest.raises(InputError, match="L9H9 not among the 6 heads that were read"):
        make().select(["L1H0", "L9H9"])


def test_labels_and_groups():
    acts = make()
    assert acts.labels.tolist() == [0, 1, 1]
    assert acts.labels.dtype == np.int64
    assert acts.groups.tolist() == ["v1", "v2", "v2"]


def test_missing_labels_and_groups_are_named():
    acts = make(examples=[*EXAMPLES[:2], Example("z", id="odd one")])
    with pytest.raises(InputError, match=r"1 of 3 examples have no label \(first: 'odd one'\)"):
        _ = acts.labels
    with pytest.raises(InputError, match=r"1 of 3 examples have no group \(first: 'odd one'\)"):
        _ = acts.groups


def test_the_table_keeps_unknown_values_missing():
    table = example_table([EXAMPLES[0], Example("z", id="c")])
    assert table.columns.tolist() == ["id", "label", "group", "start", "end"]
    assert table.loc[0].tolist() == ["a", 0, "v1", 0, 8]
    assert table.loc[1, ["label", "group", "start", "end"]].isna().all()


@pytest.mark.parametrize(
    "index", [[2, 0], np.array([True, False, True]), slice(1, None), [-1], np.array([], dtype=int)]
)
def test_a_subset_takes_everything_along(index):
    resid, logits = torch.randn(2, 3, 4, 6), torch.randn(2, 3, 2)
    acts = make(resid_post=resid, answer_logits=logits, answers=("yes", "no"))
    rows = np.arange(3)[index]
    part = acts.subset(index)
    assert same_bits(part.values, acts.values[:, rows], of="copies of one array")
    assert same_bits(part.resid_post, resid[:, rows], of="copies of one array")
    assert same_bits(part.answer_logits, logits[:, rows], of="copies of one array")
    assert part.examples.id.tolist() == np.array(["a", "b", "c"])[rows].tolist()
    assert part.examples.index.tolist() == list(range(len(rows)))


@pytest.mark.parametrize(
    ("index", "text"),
    [
        ([True, False], "must have length 3"),
        ([3], "lies outside the 3 examples"),
        ([0.5], "must be a list of integers or a mask"),
    ],
)
def test_a_subset_refuses_a_bad_index(index, text):
    with pytest.raises(InputError, match=text):
        make().subset(index)


def test_concatenating_the_parts_gives_the_whole():
    acts = make(skipped=(), resid_post=torch.randn(2, 3, 4, 6))
    again = concatenate([acts.subset([0]), acts.subset([1, 2])])
    assert same_bits(again.values, acts.values, of="copies of one array")
    assert same_bits(again.resid_post, acts.resid_post, of="copies of one array")
    assert again.examples.equals(acts.examples)


def test_concatenate_keeps_what_was_skipped():
    first = dataclasses.replace(make().subset([0]), skipped=(("s", "broken"),))
    assert concatenate([first, make().subset([1])]).skipped == (("s", "broken"),)


def test_concatenate_refuses_what_does_not_belong_together():
    acts = make()
    first, second = acts.subset([0]), acts.subset([1])
    other = dataclasses.replace(second, provenance=Provenance(model="other", prompts=acts.prompts))
    with pytest.raises(FingerprintError, match="made differently: model differ"):
        concatenate([first, other])
    with pytest.raises(InputError, match="example 'a' occurs in more than one part"):
        concatenate([first, first])
    with pytest.raises(InputError, match="different heads or prompts"):
        concatenate([first, dataclasses.replace(second, heads=HeadSet([(9, i) for i in range(6)]))])
    with pytest.raises(InputError, match="Only some of the activations have resid_post"):
        concatenate([dataclasses.replace(first, resid_post=torch.zeros(2, 1, 4, 6)), second])
    with pytest.raises(InputError, match="Nothing to concatenate"):
        concatenate([])


def test_shapes_must_agree():
    acts = make()
    with pytest.raises(InputError, match=r"\[2, 3, 6, d_head\]; got \[2, 2, 6, 5\]"):
        dataclasses.replace(acts, values=acts.values[:, :2])
    with pytest.raises(InputError, match="resid_post must start with"):
        dataclasses.replace(acts, resid_post=torch.zeros(1, 3, 4, 6))
    with pytest.raises(InputError, match="answer_logits has 2 answers; expected 1"):
        dataclasses.replace(acts, answer_logits=torch.zeros(2, 3, 2), answers=("yes",))
    with pytest.raises(InputError, match=r"lacks the columns \['group'\]"):
        dataclasses.replace(acts, examples=acts.examples.drop(columns="group"))


# Layer 1 has three heads of size 5, layer 4 two of size 7.
RAGGED = ["L1H0", "L4H0", "L1H1", "L4H1", "L1H2"]
SMALL, LARGE = HeadSet(["L1H0", "L1H1", "L1H2"]), HeadSet(["L4H0", "L4H1"])


def ragged(examples=EXAMPLES, prompts=("p1", "p2"), **more):
    generator = torch.Generator().manual_seed(0)
    shape = (len(prompts), len(examples))
    values = {
        heads: torch.randn(*shape, len(heads), size, generator=generator) for heads, size in ((SMALL, 5), (LARGE, 7))
    }
    named = {name: f"question {name}" for name in prompts}
    table = example_table(examples)
    return HeadActivations(values, HeadSet(RAGGED), named, table, Provenance(model="m", prompts=named), **more)


def read_table(acts):
    ids = [(prompt, name) for prompt in acts.prompts for name in acts.examples.id]
    rows = [
        {**dict.fromkeys(_READ_COLUMNS, i), "prompt": p, "id": name, "token": "x"} for i, (p, name) in enumerate(ids)
    ]
    return pd.DataFrame(rows)


def test_heads_of_several_sizes_have_no_common_tensor():
    acts = ragged()
    for name in ("values", "z"):
        with pytest.raises(
            InputError, match=r"sizes \(3 of size 5, 2 of size 7\).* Use \.select\(heads\) .*by_size\(\)"
        ):
            getattr(acts, name)
    assert acts.tensors[SMALL].shape == (2, 3, 3, 5)
    assert acts.layers == (1, 4)
    assert repr(acts) == "HeadActivations(2 prompts, 3 examples, 5 heads of size 5/7, 'm', )"
    with pytest.raises(AttributeError, match="no attribute 'valves'"):
        _ = acts.valves


def test_heads_of_one_size_are_selected_and_taken_apart():
    acts = ragged(resid_post=torch.randn(2, 3, 4, 6))
    assert same_bits(acts.select(["L4H1"]), acts.tensors[LARGE][:, :, [1]], of="copies of one array")
    with pytest.raises(InputError, match=r"L1H2 has 5, L4H0 has 7"):
        acts.select(["L1H2", "L4H0"])
    parts = acts.by_size()
    assert {size: part.heads for size, part in parts.items()} == {5: SMALL, 7: LARGE}
    assert same_bits(parts[7].values, acts.tensors[LARGE], of="copies of one array")
    assert parts[5].z.shape == (2, 3, 1, 3, 5)
    assert parts[5].resid_post is acts.resid_post
    assert {size: part.heads for size, part in make().by_size().items()} == {5: HeadSet(RECTANGLE)}


def test_a_subset_and_its_parts_keep_heads_of_every_size():
    acts = ragged()
    part = acts.subset([2, 0])
    for heads, values in acts.tensors.items():
        assert same_bits(part.tensors[heads], values[:, [2, 0]], of="copies of one array")
    again = concatenate([acts.subset([0]), acts.subset([1, 2])])
    assert again.heads == acts.heads
    for heads, values in acts.tensors.items():
        assert same_bits(again.tensors[heads], values, of="copies of one array")
    copied = copy.deepcopy(acts)
    assert same_bits(copied.tensors[LARGE], acts.tensors[LARGE], of="copies of one array")
    again = dataclasses.replace(acts, values=acts.tensors, provenance=Provenance(model="n"))
    assert again.provenance.model == "n"


def test_heads_of_other_sizes_do_not_join():
    acts = ragged()
    other = dataclasses.replace(acts.subset([1]), values=torch.zeros(2, 1, 5, 5))
    with pytest.raises(InputError, match="heads of different sizes: 5/7 and 5"):
        concatenate([acts.subset([0]), other])


def test_what_was_read_goes_along():
    acts = make()
    acts = dataclasses.replace(acts, read=read_table(acts))
    part = acts.subset([2, 0])
    assert part.read[["prompt", "id"]].to_numpy().tolist() == [["p1", "c"], ["p1", "a"], ["p2", "c"], ["p2", "a"]]
    assert part.read["index"].tolist() == [2, 0, 5, 3]
    again = concatenate([acts.subset([0]), acts.subset([1, 2])])
    assert again.read.equals(acts.read)
    assert again.provenance.read == {"p1": {"reads": 3, "tokens": {"x": 3}}, "p2": {"reads": 3, "tokens": {"x": 3}}}
    assert concatenate([make().subset([0]), acts.subset([1])]).read is None
    with pytest.raises(InputError, match="what was read must have 2 x 3 rows"):
        dataclasses.replace(acts, read=acts.read.iloc[:5])
