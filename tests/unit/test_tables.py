from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from headprobe.activations import _READ_COLUMNS, _join_read, _read_summary, _row_table, example_table
from headprobe.examples import Example

EXAMPLES = [
    Example("x", id="a", label=0, group="v1", span=(0, 8)),
    Example("y", id="b@0", label=1),
    Example("z", id="b", label=1, group="v2"),
]


def read_table(prompts, ids, tokens, pooled=False):
    n = len(ids)
    table = pd.DataFrame({"prompt": np.repeat(prompts, n), "id": np.tile(ids, len(prompts))})
    for name in _READ_COLUMNS[2:]:
        table[name] = pd.array([pd.NA if pooled and name == "index" else 1] * len(table), dtype="Int64")
    table["token"] = tokens
    table["count"] = range(1, len(table) + 1)
    return table


def test_rows_copy_what_is_known_of_their_example_and_have_ids_of_their_own():
    table = _row_table(EXAMPLES, np.array([0, 0, 1, 2, 2, 2]), {"token": [4, 5, 0, None, 1, 2]})
    assert table["id"].tolist() == ["a@0", "a@1", "b@0@0", "b@0", "b@1", "b@2"]
    assert table["example"].tolist() == ["a", "a", "b@0", "b", "b", "b"]
    assert table["id"].is_unique
    assert table["label"].tolist() == [0, 0, 1, 1, 1, 1]
    assert table["group"].isna().tolist() == [False, False, True, False, False, False]
    assert table.loc[:1, ["start", "end"]].to_numpy().tolist() == [[0, 8]] * 2
    assert table["token"].isna().tolist() == [False, False, False, True, False, False]
    assert table.columns.tolist() == [*example_table(EXAMPLES).columns, "example", "token"]


def test_the_summary_counts_the_tokens_of_every_prompt():
    table = read_table(["p", "q"], ["a", "b", "c"], ["</s>", "car", "</s>", "b", "c", "a"])
    assert _read_summary(table) == {
        "p": {"reads": 3, "tokens": {"</s>": 2, "car": 1}},
        "q": {"reads": 3, "tokens": {"a": 1, "b": 1, "c": 1}},
    }


def test_the_summary_is_short_and_does_not_depend_on_the_order():
    tokens = [f"t{i}" for i in range(12)] + ["t11"] * 3
    table = read_table(["p"], [str(i) for i in range(15)], tokens)
    summary = _read_summary(table)
    assert list(summary["p"]["tokens"].items())[:3] == [("t11", 4), ("t0", 1), ("t1", 1)]
    assert len(summary["p"]["tokens"]) == 8
    assert summary["p"]["reads"] == 15
    assert _read_summary(table.iloc[::-1]) == summary


def test_the_summary_of_means_says_how_many_tokens():
    table = read_table(["p", "q"], ["a", "b"], pd.NA, pooled=True)
    assert _read_summary(table) == {"p": {"reads": 2, "pooled": [1, 2]}, "q": {"reads": 2, "pooled": [3, 4]}}


def test_what_was_read_of_several_parts_stays_in_the_order_of_prompts():
    first = read_table(["p", "q"], ["a", "b"], list("abcd"))
    second = read_table(["p", "q"], ["c"], list("ef"))
    joined = _join_read([(first, 2), (second, 1)], 2)
    assert joined is not None
    assert joined["id"].tolist() == ["a", "b", "c", "a", "b", "c"]
    assert joined["token"].tolist() == ["a", "b", "e", "c", "d", "f"]
    assert _join_read([(first, 2), (None, 1)], 2) is None


def test_a_column_of_another_length_is_no_table():
    with pytest.raises(ValueError, match="Length of values"):
        _row_table(EXAMPLES, np.array([0, 1]), {"token": [1]})
