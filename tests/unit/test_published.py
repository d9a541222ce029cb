"""Published head lists, and how a score map agrees with them beyond chance."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import hypergeom

from headprobe.errors import ArtefactError, InputError
from headprobe.headhunt.published import compare_heads, published, published_names, read_heads
from headprobe.headhunt.published.heads import FORMAT
from headprobe.scores import score_map

NAME = "internvl3_8b_xd_violence"
GOOD = {
    "format": FORMAT,
    "model": "m",
    "task": "t",
    "source": "s",
    "n_layers": 4,
    "n_heads": 3,
    "heads": ["L1H2", "L3H0"],
}


def test_the_published_heads_with_their_source() -> None:
    assert published_names() == (NAME,)
    found = published(NAME)
    assert found.heads.labels == ("L18H4", "L18H13", "L20H4", "L23H24", "L23H27")
    assert (found.model, found.n_layers, found.n_heads) == ("InternVL3-8B", 28, 28)
    assert "2512.17601" in found.source


def test_a_map_that_has_them_on_top() -> None:
    values = np.random.default_rng(0).random((28, 28))
    given = published(NAME)
    for i, head in enumerate(given.heads):
        values[head.layer, head.head] = 2 - i / 10
    found = compare_heads(score_map(values), given)
    assert found.overlap == 5
    assert found.shared == given.heads.labels
    assert list(found.ranks.values()) == [1, 2, 3, 4, 5]
    assert found.mean_percentile == 1.0
    assert found.p_overlap == pytest.approx(1 / 2467938494592.0, rel=0.2)  # one of C(784, 5) draws
    assert found.p_rank < 1e-3


def test_p_values_are_uniform_when_list_and_map_have_nothing_to_do_with_each_other() -> None:
    rng, given = np.random.default_rng(1), published(NAME)
    found = [compare_heads(score_map(rng.random((28, 28))), given, k=100) for _ in range(300)]
    p_rank, p_overlap = (np.array([getattr(one, name) for one in found]) for name in ("p_rank", "p_overlap"))
    assert abs((p_rank <= 0.1).mean() - 0.1) < 0.05
    assert (p_overlap <= 0.1).mean() < 0.15
    assert np.mean([one.mean_percentile for one in found]) == pytest.approx(0.5, abs=0.03)
    one = found[0]
    assert one.p_overlap == pytest.approx(hypergeom.sf(one.overlap - 1, 784, 5, 100))


def test_a_map_of_another_model_is_refused() -> None:
    with pytest.raises(InputError, match="28 layers of 28 heads; the map has 6 layers of 8"):
        compare_heads(score_map(np.ones((6, 8))), published(NAME))
    values = np.ones((28, 28))
    values[18, 4] = np.nan
    with pytest.raises(InputError, match="no score for L18H4"):
        compare_heads(score_map(values), published(NAME))


def test_a_list_of_one_s_own(tmp_path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(GOOD))
    values = np.arange(12.0).reshape(4, 3)
    found = compare_heads(score_map(values), published(file))
    assert (found.name, found.ranks) == ("mine", {"L1H2": 7, "L3H0": 3})
    assert found.to_dict()["shared"] == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"format": "other"}, "a list of heads is an object"),
        ({"heads": ["x"]}, "x"),
        ({"heads": ["L9H0"]}, r"the heads \['L9H0'\] are not in a model of this size"),
        ({"heads": []}, "or there is none"),
        ({"heads": "L1H1"}, "missing or of a wrong type"),
        ({"n_layers": True}, "missing or of a wrong type: n_layers"),
        ({"source": ""}, "missing or of a wrong type: source"),
    ],
)
def test_damaged_lists(tmp_path, change, text) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(GOOD | change))
    with pytest.raises(ArtefactError, match=text):
        published(file)


def test_unknown_lists(tmp_path) -> None:
    with pytest.raises(InputError, match=f"'none' is neither a published list \\({NAME}\\) nor a file"):
        published("none")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ArtefactError, match="must be JSON"):
        published(tmp_path / "bad.json")


def test_a_map_with_holes_where_a_layer_has_fewer_heads(tmp_path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(GOOD))
    values = np.arange(12.0).reshape(4, 3)
    values[0, 0] = np.nan
    found = compare_heads(score_map(values), published(file))
    assert (found.n_heads, found.ranks) == (11, {"L1H2": 7, "L3H0": 3})


def test_heads_as_a_user_names_them(tmp_path) -> None:
    (tmp_path / "reference.json").write_text('{"head_indices": [[18, 4], [18, 13]]}')
    assert read_heads(str(tmp_path / "reference.json")).labels == ("L18H4", "L18H13")
    assert read_heads("L1H0, L0H2").labels == ("L1H0", "L0H2")
    assert read_heads("internvl3_8b_xd_violence") == published("internvl3_8b_xd_violence").heads
    with pytest.raises(InputError, match=r"neither labels .* nor a file, nor a published list \(internvl3_8b"):
        read_heads("internvl")
    with pytest.raises(InputError, match="names no head"):
        read_heads(",")
