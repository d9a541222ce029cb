from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from headprobe.activations import HeadActivations, concatenate, example_table
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
    assert torch.equal(acts.z[1, 2, 1, 0], acts.select(["L4H0"])[1, 2, 0])


@pytest.mark.parametrize("heads", [RECTANGLE[:-1], RECTANGLE[::-1], [(0, 0), (1, 1)]])
def test_z_refuses_what_is_no_rectangle(heads):
    with pytest.raises(InputError, match=r"z needs the same heads in every layer.*Use \.select\(heads\) or \.values"):
        _ = make(heads).z


def test_select_keeps_the_order_asked_for():
    acts = make()
    picked = acts.select(HeadSet(["L4H3", "L1H0"]))
    assert torch.equal(picked, acts.values[:, :, [5, 0]])


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
    assert torch.equal(part.values, acts.values[:, rows])
    assert torch.equal(part.resid_post, resid[:, rows])
    assert torch.equal(part.answer_logits, logits[:, rows])
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
    assert torch.equal(again.values, acts.values)
    assert torch.equal(again.resid_post, acts.resid_post)
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
