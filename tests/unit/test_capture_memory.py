"""Many captures and several threads: no memory is kept, and threads do not mix their inputs."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import pytest
from equality import close
from tiny_models import TEXTS, contents, make_model

from headprobe import HeadTracer, positions

STATM = Path("/proc/self/statm")


def resident() -> int:
    """Memory of the process in bytes, after a collection."""
    gc.collect()
    return int(STATM.read_text().split()[1]) * 4096


@pytest.mark.skipif(not STATM.exists(), reason="needs /proc to see the memory of the process")
def test_500_captures_do_not_grow_memory():
    model = make_model("gpt2", n_layer=1)

    def captures(n):
        for i in range(n):
            where = positions.last() if i % 5 else positions.all().each()
            HeadTracer(model).capture([TEXTS[i % 4]], positions=where, progress=False)

    captures(20)
    alive, before = len(gc.get_objects()), resident()
    captures(500)
    # A tracer or a reading that was kept would cost more than 10 KB and 20 objects per capture.
    assert resident() - before < 3_000_000
    assert len(gc.get_objects()) - alive < 1000


@pytest.mark.parametrize("family", ["llama", "qwen2_vl"])
def test_two_threads_with_a_tracer_each_give_what_one_gives_alone(family):
    model = make_model(family)
    examples, prompts = contents(family), ["what happens ?", "yes"] if family == "qwen2_vl" else ["{text} ?", "{text}"]
    several = {"mean": positions.all().mean(), "end": positions.last()}

    def capture(tracer, i):
        acts = tracer.capture(
            examples[i % 4 :][:2], [prompts[i % 2]], positions=several, resid_post=True, progress=False
        )
        return [tensor for part in acts.values() for tensor in (part.values, part.resid_post)]

    expected = [capture(HeadTracer(model), i) for i in range(4)]
    wrong, errors, running = [], [], threading.Barrier(2)

    def work(offset):
        try:
            running.wait()
            for i in range(20):
                # Tracers of a thread take turns too, and a new one comes up in the middle.
                tracer = tracers[offset] if i % 3 else HeadTracer(model)
                k = (i + 2 * offset) % 4
                if not all(close(a, b) for a, b in zip(capture(tracer, k), expected[k], strict=True)):
                    wrong.append(k)
        except Exception as error:
            errors.append(error)

    tracers = [HeadTracer(model), HeadTracer(model)]
    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert not wrong
