"""One decoding process, from the side of whoever starts it: jobs in, clips out, or why it was lost."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import UInt8

from headprobe.errors import HeadprobeError
from headprobe.extraction.worker import PREFIX

__all__ = ["Decoder", "Lost", "Stopped", "memory_limit"]

_STARTS = 3
_START_SECONDS = 120.0
_STEP_SECONDS = 0.2
_READ_RATE = 50e6  # bytes per second at which a file is read at least, on slow network storage
_HEADER_LIMIT = 1 << 28
_PIPE_BYTES = 1 << 20
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from headprobe.extraction.worker import main; "


class Lost(Exception):
    """The process died or hangs; it has been ended. The text says which."""


class Stopped(Exception):
    """The caller does not want to wait any longer."""


def memory_limit() -> int:
    """Bytes of address space that a decoding process may take: a quarter of the memory, at least 8 GiB.

    Returns
    -------
    int

    Examples
    --------
    >>> memory_limit() >= 8 << 30
    True
    """
    try:
        physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        physical = 0
    return max(8 << 30, physical // 4)


class Decoder:
    """A process that decodes; started when it is first needed, and again after it was lost.

    It is a fresh interpreter that runs `headprobe.extraction.worker` and nothing of the caller's script, so it does
    not matter how that script is written or whether this is a notebook.

    Parameters
    ----------
    timeout
        Seconds without a sign of life after which a file is taken to make the process hang; opening a file may take
        a second more for each 50 MB of it.
    stopped
        Asked now and then while waiting; True gives up.

    Examples
    --------
    >>> decoder = Decoder(10.0, stopped=lambda: False)
    >>> job = {"path": "nowhere.mp4", "stretches": [], "length": 48, "frames": 8, "done": []}
    >>> [header["kind"] for header, _ in decoder.messages(job)]
    ['failed']
    >>> decoder.close()
    """

    def __init__(self, timeout: float, stopped: Callable[[], bool]) -> None:
        self.timeout = timeout
        self.stopped = stopped
        self.process: subprocess.Popen[bytes] | None = None
        self.n_started = 0

    def messages(self, job: dict[str, Any]) -> Iterator[tuple[dict[str, Any], UInt8[np.ndarray, " byte"]]]:
        """Do a job.

        Parameters
        ----------
        job
            ``path``, ``stretches`` (start, end, in_seconds), ``length`` of a clip in frames or None, ``frames``
            sampled of each, and the spans that are ``done``.

        Yields
        ------
        (dict, ndarray)
            ``video`` with the clips that there are, then a ``clip`` with its frames or a ``skip`` for each of those
            that were not done, or ``failed``.

        Raises
        ------
        Lost
            The process died or hangs over this file.
        Stopped
            The caller gave up.
        HeadprobeError
            No process can be started.
        """
        process = self._started()
        limit = self.timeout + _size(job["path"]) / _READ_RATE
        line = json.dumps({**job, "limit": limit}).encode() + b"\n"
        assert process.stdin is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
        except OSError as error:
            raise self._lost(process) from error
        while True:
            header, payload = self._message(process, limit)
            if header["kind"] == "end":
                return
            if header["kind"] == "video":
                limit = self.timeout
            if header["kind"] != "alive":
                yield header, payload

    def close(self) -> None:
        """End the process; a second call does nothing."""
        process, self.process = self.process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except OSError:  # what was still to be sent to it
                continue
        self._errors.close()

    def _started(self) -> subprocess.Popen[bytes]:
        """The process, ready. One that is lost while it starts, as when memory is short, is started anew."""
        tries = 0
        while self.process is None:
            tries += 1
            try:
                self._start()
            except Lost as error:
                if tries == _STARTS:
                    raise HeadprobeError(
                        f"No decoding process can be started, in {_STARTS} tries: starting {error}."
                    ) from error
        return self.process

    def _start(self) -> None:
        command = [sys.executable, "-c", f"{_BOOT}main({memory_limit()})", json.dumps(sys.path)]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115, as long as the process
        try:
            self.process = subprocess.Popen(
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env={**os.environ, **dict.fromkeys(_ONE_THREAD, "1")},
                start_new_session=True,  # Ctrl-C in a terminal is for the caller alone
            )
        except OSError as error:
            self._errors.close()
            raise HeadprobeError(f"No decoding process can be started: {error}.") from error
        assert self.process.stdout is not None
        _widen(self.process.stdout.fileno())
        self.n_started += 1
        self._message(self.process, _START_SECONDS)  # ready

    def _message(
        self, process: subprocess.Popen[bytes], limit: float
    ) -> tuple[dict[str, Any], UInt8[np.ndarray, " byte"]]:
        header_size, payload_size = PREFIX.unpack(self._bytes(process, PREFIX.size, limit).tobytes())
        if header_size > _HEADER_LIMIT:
            raise self._lost(process, "the decoder sent what is no message")
        header = json.loads(self._bytes(process, header_size, limit).tobytes())
        return header, self._bytes(process, payload_size, limit)

    def _bytes(self, process: subprocess.Popen[bytes], n: int, limit: float) -> UInt8[np.ndarray, " byte"]:
        assert process.stdout is not None
        data = np.empty(n, np.uint8)
        left = data.data
        descriptor = process.stdout.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        since = time.monotonic()
        while left:
            if self.stopped():
                raise Stopped
            if not poll.poll(_STEP_SECONDS * 1000):
                if time.monotonic() - since > limit:
                    raise self._lost(process, f"it makes the decoder hang (no sign of life for {limit:.0f} s)")
                continue
            count = os.readv(descriptor, [left])
            if not count:
                raise self._lost(process)
            left, since = left[count:], time.monotonic()
        return data

    def _lost(self, process: subprocess.Popen[bytes], why: str = "") -> Lost:
        """End the process and say why it was lost."""
        if not why:
            try:
                code = process.wait(5)
            except subprocess.TimeoutExpired:
                code = None
            self._errors.seek(0)
            said = self._errors.read()[-2000:].decode("utf-8", "replace").strip().splitlines()
            why = f"it made the decoder {_ending(code)}" + (f": {said[-1]}" if said and (code or 0) > 0 else "")
        self.close()
        return Lost(why)


def _widen(descriptor: int) -> None:
    """Let a pipe hold more than the usual 64 KiB, where that can be asked for: fewer turns for the same frames."""
    if sys.platform == "linux":
        import fcntl

        try:
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        except OSError:  # more than this user may have; it works without
            return


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return 0  # reading it will say why


def _ending(code: int | None) -> str:
    if code is None:
        return "close its output"
    if code < 0:
        return f"crash ({signal.Signals(-code).name})" if -code != signal.SIGKILL else "end by SIGKILL (out of memory?)"
    return f"end with code {code}"
