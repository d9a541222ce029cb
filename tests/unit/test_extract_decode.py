"""Decoding ahead: what comes out, in which batches, and what happens when a process dies, hangs or has too much."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from broken_videos import png
from equality import same

from headprobe.errors import HeadprobeError, InputError
from headprobe.extraction import _decoding as decoder_module
from headprobe.extraction._decoding import Batch, DecodeAhead, Decoder, Finished, Lost, Opened, Skipped, Stopped
from headprobe.extraction._sources import Progress, Settings, Stretch, Unit, Video, units_of
from headprobe.video.decode import read_frames, write_video

LENGTH, FRAMES = 8, 4


def write(path: Path, n: int, seed: int = 0, **options) -> Path:
    frames = np.random.default_rng(seed).integers(0, 256, (n, 16, 24, 3), dtype=np.uint8)
    return write_video(path, frames, fps=10, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos")
    for i, n in enumerate((20, 8, 30, 5, 17)):
        write(path / f"v{i}.mp4", n, seed=i)
    (path / "bad.mp4").write_bytes(b"no video")
    return path


def videos(folder: Path, names: str) -> list[Video]:
    return [Video(str(folder / f"{name}.mp4"), name) for name in names.split()]


def run(units: list[Unit], **settings) -> list:
    settings = {"length": LENGTH, "frames": FRAMES, "batch_size": 4, "workers": 1} | settings
    with DecodeAhead(units, Settings(**settings)) as ahead:
        return list(ahead)


def batches(events: list) -> list[tuple[int, list[str]]]:
    return [(e.unit, [clip.example.id for clip in e.clips]) for e in events if isinstance(e, Batch)]


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run some code in every decoding process before it starts; its folder is in the variable HERE."""

    def use(code: str) -> Path:
        path = tmp_path / "script.py"
        path.write_text(f"HERE = {str(tmp_path)!r}\n{code}\nfrom headprobe.extraction._worker import main\n")
        boot = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
        monkeypatch.setattr(decoder_module, "_BOOT", f"{boot}exec(open({str(path)!r}).read()); ")
        return tmp_path

    return use


# What comes out


def test_clips_are_the_frames_that_reading_the_file_gives(folder: Path) -> None:
    [opened, batch, finished] = run(units_of(videos(folder, "v0")))
    assert opened == Opened(videos(folder, "v0")[0], 3, 3)
    assert finished == Finished(0)
    assert [clip.example.id for clip in batch.clips] == ["v0:0-8", "v0:8-16", "v0:16-20"]
    for clip, window in zip(batch.clips, [(0, 8), (8, 16), (12, 20)], strict=True):
        assert clip.indices == tuple(window[0] + i for i in (1, 3, 5, 7))
        assert clip.times == pytest.approx([i / 10 for i in clip.indices])
        assert same(clip.example.content.pixels, read_frames(clip.path, list(clip.indices)))
        assert clip.example.content.seconds == pytest.approx([0.1, 0.3, 0.5, 0.7])
        assert (clip.n_frames, clip.example.group, clip.example.label) == (20, "v0", None)
    assert [clip.seconds for clip in batch.clips] == [(0.0, 0.8), (0.8, 1.6), (1.6, 2.0)]


def test_stretches_carry_their_labels_and_groups(folder: Path) -> None:
    path = str(folder / "v2.mp4")
    parts = (Stretch(0.8, 2.4, True, 1, "g"), Stretch(2.4, 3.0, True), Stretch(2.0, 9.0, True))
    opened, skipped, batch, _ = run(units_of([Video(path, "v2", parts)]), length=None)
    assert opened.n_clips == 2
    assert [(c.example.id, c.example.label, c.example.group) for c in batch.clips] == [
        ("v2:8-24", 1, "g"),
        ("v2:24-30", None, "v2"),
    ]
    assert skipped.reason == "seconds 2 to 9 were asked for, but the video has 3 seconds"


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_processes(folder: Path, workers: int) -> None:
    units = units_of(videos(folder, "v0 v1 bad v2 v3 v4"), 4)
    events = run(units, workers=workers)
    assert sorted(batches(events)) == [
        (0, ["v0:0-8", "v0:8-16", "v0:16-20", "v1:0-8"]),
        (0, ["v2:0-8", "v2:8-16", "v2:16-24", "v2:24-30"]),
        (1, ["v3:0-5", "v4:0-8", "v4:8-16", "v4:16-17"]),
    ]
    assert [e.reason for e in events if isinstance(e, Skipped)] == ["this is a text file, not a video"]


@pytest.mark.parametrize("name", ["still.mp4", "still.png"])
def test_a_picture_is_no_video_of_one_frame(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(png())
    events = run(units_of([Video(str(tmp_path / name), "still")]))
    assert [e.reason for e in events if isinstance(e, Skipped)] == ["this is a picture, not a video"]
    assert batches(events) == []


def test_what_is_done_leaves_holes_and_moves_no_border(folder: Path) -> None:
    first, second = videos(folder, "v0 v2")
    progress = (Progress(frozenset({(8, 16)})), Progress(frozenset({(0, 8), (24, 30)})))
    events = run([Unit(0, (first, second), progress)])
    assert batches(events) == [(0, ["v0:0-8", "v0:16-20"]), (0, ["v2:8-16", "v2:16-24"])]
    assert [(e.n_clips, e.n_wanted) for e in events if isinstance(e, Opened)] == [(3, 2), (4, 2)]


def test_a_video_that_is_done_is_not_opened(tmp_path: Path) -> None:
    video = Video(str(tmp_path / "gone.mp4"), "gone")
    spans = frozenset({(0, 8), (8, 16), (16, 20)})
    assert run([Unit(0, (video,), (Progress(spans, 20),))])[0] == Opened(video, 3, 0)
    assert isinstance(run([Unit(0, (video,), (Progress(spans, 21),))])[0], Skipped)


def test_each_file_is_opened_once(folder: Path, script) -> None:
    here = script(
        "import headprobe.extraction._worker as w\n"
        "class Counting(w._Reader):\n"
        "    def __init__(self, path, alive):\n"
        "        open(HERE + '/opened', 'a').write(path + '\\n')\n"
        "        super().__init__(path, alive)\n"
        "w._Reader = Counting"
    )
    run(units_of(videos(folder, "v0 v1 v2"), 2), batch_size=2)
    opened = (here / "opened").read_text().split()
    assert sorted(opened) == [str(folder / f"v{i}.mp4") for i in range(3)]


def test_the_process_loads_neither_torch_nor_the_callers_script(folder: Path, script) -> None:
    here = script(
        "import atexit, sys, signal\n"
        "import headprobe.extraction._worker as w\n"
        "real = w._do\n"
        "def do(job, speaker):\n"
        "    real(job, speaker)\n"
        "    open(HERE + '/modules', 'w').write(' '.join(sys.modules))\n"
        "w._do = do"
    )
    run(units_of(videos(folder, "v0")))
    modules = set((here / "modules").read_text().split())
    assert {"av", "numpy", "headprobe.video.decode"} <= modules
    assert not modules & {"torch", "transformers", "pandas", "pytest", "headprobe.models", Path(__file__).stem}


def test_what_a_library_prints_does_not_disturb(folder: Path, script) -> None:
    script(
        "import headprobe.extraction._worker as w, os\n"
        "real = w._do\n"
        "def do(job, speaker):\n"
        "    print('chatter', flush=True); os.write(1, b'more')\n"
        "    real(job, speaker)\n"
        "w._do = do"
    )
    assert len(batches(run(units_of(videos(folder, "v0 v1"), 2)))) == 1


# When it goes wrong

NAUGHTY = """
import os, time, signal
import headprobe.extraction._worker as w
class Naughty(w._Reader):
    def __init__(self, path, alive):
        if 'v1' in path: {opening}
        super().__init__(path, alive)
    def read(self, indices):
        if 'v2' in self.path and indices[0] > 8: {reading}
        return super().read(indices)
w._Reader = Naughty
"""


@pytest.mark.parametrize(
    ("opening", "reading", "reasons"),
    [
        (
            "os.kill(os.getpid(), signal.SIGSEGV)",
            "os.kill(os.getpid(), signal.SIGKILL)",
            ["crash (SIGSEGV)", "end by SIGKILL (out of memory?), after 1 of 4 clips"],
        ),
        ("time.sleep(100)", "time.sleep(100)", ["hang (no sign of life for 2 s)", "for 2 s), after 1 of 4 clips"]),
        ("os._exit(3)", "raise ValueError('odd')", ["end with code 3", "ValueError: odd"]),
    ],
    ids=["dies", "hangs", "exits"],
)
def test_a_process_that_is_lost_is_replaced_and_its_file_listed(
    folder: Path, script, opening: str, reading: str, reasons: list[str]
) -> None:
    script(NAUGHTY.format(opening=opening, reading=reading))
    start = time.monotonic()
    with DecodeAhead(units_of(videos(folder, "v0 v1 v2 v3"), 4), Settings(LENGTH, FRAMES, 4, 1, 2.0)) as ahead:
        events = list(ahead)
    assert time.monotonic() - start < 30
    skipped = {e.name: e.reason for e in events if isinstance(e, Skipped) and e.id is None}
    listed = [e for e in events if isinstance(e, Skipped)]
    assert reasons[0] in skipped["v1"]
    assert any(reasons[1] in e.reason for e in listed if e.name == "v2")
    ids = [name for _, batch in batches(events) for name in batch]
    assert ids == ["v0:0-8", "v0:8-16", "v0:16-20", "v2:0-8", "v3:0-5"]
    assert isinstance(events[-1], Finished)


def test_a_file_of_which_no_clip_can_be_decoded_is_given_up(folder: Path, script) -> None:
    script("import headprobe.extraction._worker as w\nw._Reader.read = lambda self, indices: 1 / 0")
    events = run(units_of(videos(folder, "v2")), length=4)
    assert [(e.id, e.reason) for e in events if isinstance(e, Skipped)] == [
        *((f"v2:{i}-{i + 4}", "ZeroDivisionError: division by zero") for i in (0, 4, 8)),
        (None, "3 clips in a row cannot be decoded, the 5 after them were not tried"),
    ]


def test_slow_progress_is_no_hang(tmp_path: Path, script) -> None:
    script(
        "import time\nimport headprobe.video.decode as r\n"
        "real = r.VideoReader._next\n"
        "def slow(self):\n    time.sleep(0.06)\n    return real(self)\n"
        "r.VideoReader._next = slow"
    )
    write(tmp_path / "one.avi", 30)  # its frames are counted by decoding all: 1.8 s without a clip
    events = run(units_of([Video(str(tmp_path / "one.avi"), "one")]), length=30, timeout=1.5)
    assert [name for _, batch in batches(events) for name in batch] == ["one:0-30"]


def test_a_stopped_process_is_found_out(folder: Path) -> None:
    decoder = Decoder(0.5, stopped=lambda: False)
    job = {"path": str(folder / "v0.mp4"), "stretches": [(None, None, False)], "length": 8, "frames": 4, "done": []}
    try:
        assert [header["kind"] for header, _ in decoder.messages(job)] == ["video", "clip", "clip", "clip"]
        assert decoder.process is not None
        os.kill(decoder.process.pid, signal.SIGSTOP)
        with pytest.raises(Lost, match="makes the decoder hang"):
            list(decoder.messages(job))
        assert decoder.process is None
        assert len(list(decoder.messages(job))) == 4
        assert decoder.n_started == 2
    finally:
        decoder.close()


def test_an_abandoned_process_ends_itself(folder: Path, script) -> None:
    script("import time\nimport headprobe.extraction._worker as w\nw.cut = lambda *a: time.sleep(100)")
    decoder = Decoder(0.3, stopped=lambda: False)
    try:
        process = decoder._started()
        assert process.stdin is not None
        process.stdin.write(
            b'{"path": "%s", "stretches": [], "length": 8, "frames": 4, "done": [], "limit": 0.3}\n'
            % str(folder / "v0.mp4").encode()
        )
        assert process.wait(10) == 1
    finally:
        decoder.close()


def test_a_process_ends_when_its_caller_is_killed(folder: Path) -> None:
    code = (
        "import os, signal, sys\nfrom headprobe.extraction._decoding import Decoder\n"
        "d = Decoder(10.0, lambda: False)\nprint(d._started().pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    pid = int(done.stdout)
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]:
            return
        time.sleep(0.05)
    pytest.fail("the decoding process is still there")


def test_no_process_can_be_started(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_module, "_BOOT", "raise SystemError('no such thing'); ")
    with pytest.raises(HeadprobeError, match=r"No decoding process can be started, in 3 tries: .*no such thing"):
        run(units_of(videos(folder, "v0")))
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(HeadprobeError, match="No decoding process can be started"):
        run(units_of(videos(folder, "v0")))


@pytest.mark.parametrize("losses", [1, 2, 3])
def test_a_process_lost_while_it_starts_is_started_anew(folder: Path, monkeypatch, losses: int) -> None:
    started = []

    def popen(*given, **options):
        started.append(real(*given, **options))
        if len(started) <= losses:
            started[-1].kill()  # as when memory is short
        return started[-1]

    real = subprocess.Popen
    monkeypatch.setattr(decoder_module.subprocess, "Popen", popen)
    if losses == 3:
        with pytest.raises(HeadprobeError, match=r"can be started, in 3 tries: .* SIGKILL"):
            run(units_of(videos(folder, "v1")))
        return
    assert [name for _, batch in batches(run(units_of(videos(folder, "v1")))) for name in batch] == ["v1:0-8"]
    assert len(started) == losses + 1


# Limits


def test_no_more_bytes_wait_than_allowed_and_nobody_waits_for_ever(folder: Path) -> None:
    one = FRAMES * 16 * 24 * 3
    units = units_of(videos(folder, "v0 v1 v2 v3 v4 bad"), 1)
    with DecodeAhead(units, Settings(LENGTH, FRAMES, 4, 3, 10.0, ahead_bytes=2 * one)) as ahead:
        most, names = 0, []
        for event in ahead:
            time.sleep(0.02)
            most = max(most, ahead._waiting)
            names += [clip.example.id for clip in event.clips] if isinstance(event, Batch) else []
    assert len(names) == len(set(names)) == 12
    assert most <= (2 + 4 + 3) * one  # what is allowed, a batch, and a clip in the hands of each process
    assert ahead._waiting == 0


def test_no_more_batches_wait_than_a_model_can_want(folder: Path) -> None:
    units = units_of(videos(folder, "v0 v1 v2 v3 v4 bad"), 1)
    with DecodeAhead(units, Settings(2, 1, 1, 3, ahead_batches=2)) as ahead:
        most, n = 0, 0
        for event in ahead:
            time.sleep(0.005)
            most = max(most, ahead._n_ready)
            n += isinstance(event, Batch)
    assert n > 30
    assert 0 < most <= 2 + 3  # what is allowed, and what each process had in its hands


def test_it_ends_at_once_when_it_is_stopped_or_closed(folder: Path) -> None:
    flag = threading.Event()
    with DecodeAhead(units_of(videos(folder, "v0 v1 v2"), 1), Settings(2, 1, 1), stopped=flag.is_set) as ahead:
        for _ in ahead:
            flag.set()
    assert not any(thread.is_alive() for thread in ahead._threads)
    with DecodeAhead(units_of(videos(folder, "v2"), 1), Settings(2, 1, 1, ahead_bytes=0)) as ahead:
        next(iter(ahead))
    assert not any(thread.is_alive() for thread in ahead._threads)


def test_waiting_for_a_process_can_be_stopped(folder: Path) -> None:
    decoder = Decoder(100.0, stopped=lambda: True)
    with pytest.raises(Stopped):
        list(decoder.messages({"path": str(folder / "v0.mp4")}))
    decoder.close()


def test_units_can_come_later(folder: Path) -> None:
    one, two = units_of(videos(folder, "v1 v3"), 1)
    with DecodeAhead([], Settings(LENGTH, FRAMES, 4), more=True) as ahead:
        ahead.add(one)
        events = iter(ahead)
        assert [type(next(events)).__name__ for _ in range(3)] == ["Opened", "Batch", "Finished"]
        ahead.add(two)
        assert next(events).video.name == "v3"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"length": 0}, "segments is 0"),
        ({"frames": True}, "frames is True"),
        ({"workers": 0}, "workers is 0"),
        ({"timeout": 0}, "timeout is 0"),
        ({"batch_size": 1.5}, "batch_size is 1.5"),
    ],
)
def test_numbers_that_make_no_sense(change: dict, text: str) -> None:
    with pytest.raises(InputError, match=text):
        Settings(**change)
