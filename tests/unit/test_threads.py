"""Threads: results in order, settings put back, errors and memory as in a plain loop."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from headprobe.errors import InputError
from headprobe.metrics import _features as threads
from headprobe.metrics._features import Batch, in_threads, read_features, score_heads
from headprobe.metrics.saliency import saliency


@pytest.fixture(params=[1, 3])
def count(request: pytest.FixtureRequest):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_are_in_order_and_every_item_has_one_thread(count: int) -> None:
    seen = set()
    second = threading.Event()

    def work(item: int) -> tuple[int, int, bool]:
        seen.add(threading.get_ident())
        if item == 0 and count > 1:
            assert second.wait(10)  # the first is done after the second, and comes first
        if item == 1:
            second.set()
        return item, torch.get_num_threads(), torch.is_grad_enabled()

    with torch.no_grad():
        done = list(in_threads(work, range(7), count))
    assert done == [(i, 1, False) for i in range(7)]
    assert torch.get_num_threads() == count
    assert (threading.get_ident() in seen) is (count == 1)


def test_no_more_is_read_ahead_than_one_item_per_thread_and_one(count: int) -> None:
    read: list[int] = []

    def items():
        for i in range(20):
            read.append(i)
            yield i

    ahead = [len(read) - done for done in in_threads(lambda item: item + 1, items(), count)]
    assert max(ahead) <= count + 1


def test_an_error_comes_through_and_the_setting_is_put_back(count: int) -> None:
    def work(item: int) -> int:
        if item == 2:
            raise InputError("item 2")
        return item

    results = in_threads(work, range(9), count)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(InputError, match="item 2"):
        next(results)
    assert torch.get_num_threads() == count


def test_all_heads_under_all_prompts_once(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    z = np.random.default_rng(0).normal(size=(2, 5, 3, 4, 6))
    monkeypatch.setattr(threads, "THREADS_BYTES", 1)
    features, _ = read_features(z, np.arange(5))
    seen: list[str] = []

    def squares(batch: Batch) -> np.ndarray:
        seen.extend(batch.names)
        return batch.x.square().sum((1, 2)).numpy()[None]

    found = score_heads(squares, features, lambda n, d: 100, "squares", progress=True)
    assert sorted(seen) == sorted(2 * [f"L{layer}H{head}" for layer in range(3) for head in range(4)])
    centred = z - z.mean(1, keepdims=True)
    np.testing.assert_allclose(found[0], (centred**2).sum((1, 4)))


def test_quick_work_shows_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    features, _ = read_features(np.arange(24.0).reshape(3, 1, 2, 4), [0, 1, 1])
    score_heads(lambda batch: batch.x[:, 0, :1].T.numpy(), features, lambda n, d: 1, "first", progress=True)
    assert capsys.readouterr() == ("", "")


def test_saliency_runs_on_one_thread_and_puts_the_setting_back(count: int) -> None:
    seen: list[int] = []

    def metric(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        return x[:, y == 1].mean((1, 2))

    z = np.random.default_rng(0).normal(size=(6, 2, 3, 4))
    saliency(z, [0, 1] * 3, [metric])
    with pytest.raises(InputError, match="L0H0"):
        saliency(np.ones_like(z), [0, 1] * 3, [metric])
    assert set(seen) == {1}
    assert torch.get_num_threads() == count
