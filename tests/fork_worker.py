"""Forks while other threads use a model and a store; prints what each child could do, for test_tracer.py."""

from __future__ import annotations

import os
import sys
import threading
import time

import torch
from tiny_models import contents, make_model

import headprobe

PATIENCE = 60.0


def ended(child: int) -> str:
    """How a child ended, or that it did not."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "right" if status == 0 else f"status {status}"
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return "hangs"


def main(folder: str) -> None:
    model = make_model("gpt2")
    tracer = headprobe.HeadTracer(model)

    def capture() -> headprobe.HeadActivations:
        return tracer.capture(contents("gpt2"), progress=False)

    expected = capture()
    store = headprobe.Store.create(folder, expected.provenance, expected.heads, dtype="float32")
    store.append(expected)
    stop = threading.Event()

    def use() -> None:
        while not stop.is_set():
            capture()
            store.z()

    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    found = []
    for _ in range(6):
        time.sleep(0.02)
        child = os.fork()
        if child == 0:
            same = (
                torch.allclose(capture().values, expected.values, atol=1e-5) and store.z().shape == expected.z.shape[1:]
            )
            os._exit(0 if same else 1)
        found.append(ended(child))
        if found[-1] == "hangs":
            break
    stop.set()
    for thread in threads:
        thread.join()
    print(*found)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1])
