import numpy as np
import pytest

from headprobe.errors import InputError
from headprobe.headhunt.identify import identify
from headprobe.metrics.consensus import consensus
from headprobe.metrics.saliency import combine, saliency


def prompted(seed=0, n=24, prompts=3, layers=3, heads=4, d=6):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    z = rng.normal(size=(prompts, n, layers, heads, d))
    z[:, :, 2, 1] += 4 * y[:, None]
    # A head that only some prompts bring out.
    z[0, :, 1, 3] += 8 * y[:, None]
    return z, y


def test_identify_is_made_of_the_generic_parts():
    z, y = prompted()
    found = identify(z, y, k=3, instability_penalty=0.5, random_state=2)
    assert found.saliency.identical(saliency(z, y, random_state=2))
    assert found.combined.identical(combine(found.saliency))
    assert found.heads == consensus(found.saliency, 3)
    assert found.heads.labels[0] == "L2H1"
    assert found.rss.dims == ("layer", "head")


def test_the_penalty_moves_an_unsteady_head_down():
    z, y = prompted()
    steady = identify(z, y, k=12, instability_penalty=2.0).heads.labels
    lenient = identify(z, y, k=12, instability_penalty=0.0).heads.labels
    assert steady.index("L1H3") > lenient.index("L1H3")


def test_z_without_prompts_gets_one():
    z, y = prompted()
    found = identify(z[1], y, k=1)
    assert found.combined.prompt.values.tolist() == ["none"]
    np.testing.assert_array_equal(found.rss.values, found.combined.values[0])


def test_too_many_heads_are_refused():
    z, y = prompted()
    with pytest.raises(InputError, match="k must be a whole number from 1 to 12"):
        identify(z, y, k=13)
