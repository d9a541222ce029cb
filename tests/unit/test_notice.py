"""Warnings name the line of the user's code, however deep inside they arise."""

import inspect
import threading
import warnings

import numpy as np
import pytest

import headprobe
from headprobe._validation import notice
from headprobe.errors import HeadprobeWarning
from headprobe.headhunt.headhunt import identify
from headprobe.metrics.consensus import combine, consensus, consensus_scores, min_max
from headprobe.metrics.significance import max_statistic, relabellings
from headprobe.metrics.stability import jaccard, kuncheva, nogueira, selection_frequency, stable_selection
from headprobe.probing import HeadSelector
from headprobe.scores import score_map

RNG = np.random.default_rng(0)
OUTLIER = score_map(RNG.random((1, 2, 8, 8)), metrics=["lda"], prompts=["a", "b"])
OUTLIER[0, :, 3, 4] = 1e4
TIED = score_map(np.zeros((3, 2, 3)), prompts=["a", "b", "c"])
RUNS = np.repeat([0, 1, 0, 1], 6)
HALVES = np.repeat([0, 1], 12)
Z = RNG.normal(size=(2, 24, 6, 6, 4))
Z[:, :, 2, 1] += 40 * RUNS[:, None]

# None of them ends in the function that warns; one line each, so that the line tells them apart.
CALLS = [
    lambda: min_max(OUTLIER),
    lambda: combine(OUTLIER),
    lambda: consensus_scores(OUTLIER),
    lambda: consensus(OUTLIER, 3),
    lambda: identify(Z, RUNS, k=1),
    lambda: selection_frequency(TIED, 1, "prompt"),
    lambda: jaccard(TIED, 1),
    lambda: kuncheva(TIED, 1),
    lambda: nogueira(TIED, 1),
    lambda: stable_selection(TIED, 1, dim="prompt"),
    lambda: consensus(TIED, 1, "selection_frequency"),
    lambda: relabellings(RUNS, HALVES),
    lambda: max_statistic(Z[0, :, :1], RUNS, "rsa", HALVES, n_permutations=20),
    lambda: HeadSelector(1, max_fwer=0.5, metric="rsa", n_permutations=20).fit(Z[0, :, :3], RUNS, groups=HALVES),
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: inspect.getsource(call).strip())
def test_the_line_of_the_caller_is_named(call) -> None:
    with pytest.warns(HeadprobeWarning) as caught:
        call()
    assert {(w.filename, w.lineno) for w in caught} == {(__file__, call.__code__.co_firstlineno)}


def test_a_warning_in_a_thread_of_its_own_is_given() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        thread = threading.Thread(target=notice, args=("alone",))
        thread.start()
        thread.join()
    assert [str(w.message) for w in caught] == ["alone"]


def test_a_filter_for_the_package_of_the_user_catches_it() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", module=__name__.replace(".", r"\."))
        headprobe.consensus(OUTLIER, 3)
    assert len(caught) == 1
