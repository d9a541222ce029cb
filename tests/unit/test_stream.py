"""Online detection: the same scores as offline, in order, with drops counted and breaks survived."""

from __future__ import annotations

import base64
import contextlib
import http.server
import io
import socket
import threading

import av
import numpy as np
import pytest
import torch
from detectors import head_detector, layer_detector, model, video
from equality import close

from headprobe.errors import InputError, VideoError
from headprobe.headhunt._detect import detect_video
from headprobe.headhunt._stream import CausalSmoother, _Alarm, _Cutter
from headprobe.headhunt.locate import Locator
from headprobe.video.decode import read_frames, write_video
from headprobe.video.live import ENDED, Frame, _Break, _open_feed, _Reader, _without_secrets


@pytest.fixture(scope="module")
def tiny():
    return model()


@pytest.fixture(scope="module")
def detector(tiny):
    return head_detector(tiny)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("stream") / "street.mp4"
    video(path, 40)
    return path


def test_a_file_gets_the_scores_of_detection(detector, tiny, file) -> None:
    offline = detect_video(detector, tiny, file)
    online = list(detector.stream(tiny, file))
    assert [(p.start_frame, p.end_frame) for p in online] == list(offline.spans) == [(0, 16), (16, 32), (32, 40)]
    assert close([p.score for p in online], list(offline.scores), torch.float32)
    assert [p.start_seconds for p in online] == pytest.approx([0.0, 1.6, 3.2])
    assert [p.end_seconds for p in online] == pytest.approx([1.6, 3.2, 4.0])
    assert [p.index for p in online] == [0, 1, 2]
    assert {p.total_dropped for p in online} == {0}
    assert [p.note for p in online] == ["", "", "the source ended"]
    smoother = CausalSmoother(0.7)
    assert [p.smoothed for p in online] == pytest.approx([smoother(p.score) for p in online])
    assert [p.abnormal for p in online] == [p.smoothed >= 0.5 for p in online]


def test_any_iterable_of_frames_and_a_layer(tiny, file) -> None:
    layered = layer_detector(tiny)
    frames = read_frames(file, range(40))
    offline = detect_video(layered, tiny, file)
    for source in (frames, ((i / 10, f) for i, f in enumerate(frames)), lambda: iter(frames)):
        online = list(layered.stream(tiny, source, fps=10.0))
        assert close([p.score for p in online], list(offline.scores), torch.float32)


def test_only_the_expert_heads_are_read_and_the_pass_ends_early(detector, tiny, file, monkeypatch) -> None:
    from headprobe.trace.tracer import HeadTracer

    asked = []
    real = HeadTracer.capture

    def capture(self, examples, **options):
        asked.append(options)
        return real(self, examples, **options)

    monkeypatch.setattr(HeadTracer, "capture", capture)
    ran = []
    hooks = [
        tiny.module.get_submodule(f"model.language_model.layers.{i}").register_forward_hook(
            lambda *_, i=i: ran.append(i)
        )
        for i in range(6)
    ]
    try:
        next(iter(detector.stream(tiny, file)))
    finally:
        for hook in hooks:
            hook.remove()
    (options,) = asked
    assert options["heads"] == detector.heads_
    assert list(options["prompts"].values()) == [detector.prompt_]
    deepest = max(head.layer for head in detector.heads_)
    # The block of the deepest head is entered and not left.
    assert sorted(set(ran)) == list(range(deepest))


def test_a_score_comes_with_the_last_frame_of_its_segment_and_not_later(detector, tiny, file) -> None:
    frames = read_frames(file, range(40))
    given = []

    def source():
        for i, frame in enumerate(frames):
            given.append(i)
            yield frame

    parts = detector.stream(tiny, source(), fps=10.0)
    assert given == []
    next(parts)
    assert given[-1] == 15
    next(parts)
    assert given[-1] == 31
    parts.close()


def of_size(n: int, height: int, width: int, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 255, (n, height, width, 3), dtype=np.uint8))


def changing_size():
    yield from ((i / 10, frame) for i, frame in enumerate(of_size(24, 48, 64) + of_size(20, 32, 48)))


def clock_that_jumps_back():
    yield from (((i if i < 24 else i - 24) / 10, frame) for i, frame in enumerate(of_size(44, 48, 64)))


@pytest.mark.parametrize(
    ("source", "note"),
    [
        (changing_size, "the picture size changed from 64x48 to 48x32"),
        (clock_that_jumps_back, "the time jumped back by 2.300 s"),
    ],
)
@pytest.mark.parametrize("live", [False, True])
def test_a_change_within_a_connection_is_a_break(detector, tiny, source, note, live) -> None:
    parts = list(
        detector.stream(tiny, source() if not live else source, fps=10.0, live=live, reconnect=0, capacity=1000)
    )
    parts = parts[: 1 + [part.note for part in parts].index(ENDED)]
    assert [(p.connection, p.start_frame, p.end_frame) for p in parts] == [
        (0, 0, 16),
        (0, 16, 24),  # no segment goes beyond the change
        (1, 0, 16),
        (1, 16, 20),
    ]
    assert [p.note for p in parts] == ["", note, "", ENDED]
    assert all(p.score is not None for p in parts)
    starts = [p.start_seconds for p in parts]
    assert starts == sorted(starts)
    if not live:
        assert starts == pytest.approx([0.0, 1.6, 2.4, 4.0])


def test_frames_without_times_go_on_after_a_change_of_size(detector, tiny) -> None:
    parts = list(detector.stream(tiny, of_size(20, 48, 64) + of_size(20, 32, 48), fps=10.0))
    assert [(p.connection, p.start_frame, p.end_frame) for p in parts] == [
        (0, 0, 16),
        (0, 16, 20),
        (1, 0, 16),
        (1, 16, 20),
    ]
    assert [p.start_seconds for p in parts] == pytest.approx([0.0, 1.6, 2.0, 3.6])


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), "soon"])
def test_a_time_that_is_none_is_refused(detector, tiny, seconds) -> None:
    with pytest.raises(InputError, match="the time of a frame must be a"):
        list(detector.stream(tiny, [(seconds, frame) for frame in of_size(3, 48, 64)]))


def transport_stream(n: int, height: int, width: int, seed: int) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mpegts") as container:
        made = container.add_stream("mpeg2video", rate=25)
        made.height, made.width, made.pix_fmt = height, width, "yuv420p"
        for number, pixels in enumerate(of_size(n, height // 8, width // 8, seed)):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels.repeat(8, 0).repeat(8, 1)), format="rgb24")
            frame.pts = number
            container.mux(made.encode(frame))
        container.mux(made.encode(None))
    return buffer.getvalue()


@pytest.fixture
def camera():
    """A server that sends one transport stream after another to whoever knows the password, on this machine alone."""
    first, other = transport_stream(48, 96, 128, 0), transport_stream(48, 64, 96, 1)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Authorization") != "Basic " + base64.b64encode(b"admin:hush").decode():
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="camera"')
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Type", "video/mp2t")
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(first + first + other)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_camera_that_restarts_and_then_changes_its_size(detector, tiny, camera) -> None:
    address = f"http://admin:hush@{camera}/cam"
    parts = []
    for part in detector.stream(tiny, address, live=False, reconnect=None, wait_seconds=0.0):
        if part.connection > 2:
            break
        parts.append(part)
    notes = [part.note for part in parts if part.note]
    assert notes[0].startswith("the time jumped back by ")
    assert notes[1].startswith("the picture size changed from 128x96 to 96x64")
    assert {part.connection for part in parts} == {0, 1, 2}
    assert all(part.score is not None for part in parts)


def test_no_password_is_printed(detector, tiny, camera, caplog, capfd) -> None:
    address = f"http://admin:wrong-hush@{camera}/cam?token=hush-hush"
    with pytest.raises(VideoError) as caught:
        list(detector.stream(tiny, address, reconnect=2, sleep=lambda _: None))
    said = str(caught.value) + caplog.text + "".join(capfd.readouterr())
    assert said.count(f"http://***@{camera}/cam?token=***: ") == 3, said
    assert "hush" not in said
    assert "hush" not in repr(caught.value.args)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://10.0.0.7:554/live", "rtsp://10.0.0.7:554/live"),
        ("rtsp://admin@10.0.0.7/live", "rtsp://***@10.0.0.7/live"),
        ("rtsp://admin:a/b?c@d@10.0.0.7/live", "rtsp://***@10.0.0.7/live"),
        ("http://h/cgi?pwd=hush&user=a#x", "http://h/cgi?pwd=***&user=***"),
        ("http://h/cgi?hush", "http://h/cgi?***"),
        ("rtsp://h:554/user=admin_password=hush_channel=1/av", "rtsp://h:554/user=***/av"),
        ("a folder/x@y=1.mp4", "a folder/x@y=1.mp4"),
    ],
)
def test_addresses_without_what_is_secret(address, shown) -> None:
    assert _without_secrets(address) == shown


def test_memory_holds_one_segment(detector, tiny, file) -> None:
    frames = read_frames(file, range(40))
    feed = _open_feed((frames[i % 40] for i in range(100)), fps=10.0)
    cutter = _Cutter(detector, tiny, feed)
    most = 0
    for _ in cutter.run(feed.items(reconnect=0)):
        most = max(most, len(cutter.window))
    assert most == 16


def test_segments_last_as_long_as_in_calibration(detector, tiny) -> None:
    frames = np.zeros((80, 48, 64, 3), np.uint8)
    parts = list(detector.stream(tiny, frames, fps=20.0))
    assert [(p.start_frame, p.end_frame) for p in parts] == [(0, 32), (32, 64), (64, 80)]
    assert parts[0].end_seconds == pytest.approx(1.6)


# Breaks


def broken(frames, breaks):
    """A source that gives some frames per connection and then fails, and at last ends."""
    calls = iter(breaks)

    def connect():
        n, error = next(calls)
        yield from frames[:n]
        if error is not None:
            raise error

    return connect


def test_a_source_that_breaks_and_returns_goes_on(detector, tiny, file) -> None:
    frames = read_frames(file, range(40))
    waits = []
    source = broken(frames, [(20, OSError("cable")), *[(0, OSError("still out"))] * 2, (16, None), (0, None)])
    stream = detector.stream(tiny, source, fps=10.0, reconnect=None, wait_seconds=1.0, sleep=waits.append)
    parts = [next(stream) for _ in range(3)]
    stream.close()
    assert [(p.connection, p.start_frame, p.end_frame) for p in parts] == [(0, 0, 16), (0, 16, 20), (3, 0, 16)]
    assert "cable" in parts[1].note
    assert waits == [1.0, 2.0, 4.0]  # doubled until a frame came
    assert [(p.start_seconds, p.end_seconds) for p in parts] == [
        pytest.approx(pair) for pair in [(0.0, 1.6), (1.6, 2.0), (2.0, 3.6)]
    ]
    # After the break nothing of before counts: the first segment is scored and smoothed as if it were the first.
    assert close(parts[2].score, parts[0].score, torch.float32)
    assert parts[2].smoothed == parts[2].score


def test_tries_end_and_the_break_is_raised(detector, tiny, file) -> None:
    frames = read_frames(file, range(40))
    source = broken(frames, [(16, OSError("cable"))] + [(0, OSError("still out"))] * 3)
    parts, waits = [], []
    with pytest.raises(VideoError, match="still out"):
        parts.extend(detector.stream(tiny, source, fps=10.0, reconnect=3, sleep=waits.append))
    assert waits == [1.0, 2.0, 4.0]
    with pytest.raises(VideoError, match="there were no frames"):
        list(detector.stream(tiny, [], fps=10.0))


def test_waiting_grows_and_has_an_end() -> None:
    feed = _open_feed(lambda: [], fps=1.0)
    waits = []
    items = feed.items(reconnect=7, wait_seconds=1.0, longest_wait=30.0, sleep=waits.append)
    assert [item.last for item in items] == [False] * 7 + [True]
    assert waits == [1, 2, 4, 8, 16, 30, 30]


@pytest.mark.parametrize("times", [2])
def test_an_address_that_hangs_up_and_answers_again(detector, tiny, tmp_path, times, caplog) -> None:
    """A local server gives the same recording to every caller and hangs up after it, as a camera that restarts."""
    video(tmp_path / "cut.mkv", 32)
    data = (tmp_path / "cut.mkv").read_bytes()
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(30)

    def serve() -> None:
        for _ in range(times):
            caller, _ = server.accept()
            with caller:
                caller.sendall(data)
        server.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
    offline = detect_video(detector, tiny, tmp_path / "cut.mkv")
    parts = []
    with pytest.raises(VideoError, match=r"[Cc]onnection refused"):
        parts.extend(detector.stream(tiny, address, reconnect=1, wait_seconds=0.0, capacity=100))
    thread.join(30)
    spans = [(p.connection, p.start_frame, p.end_frame) for p in parts]
    assert spans == [(0, 0, 16), (0, 16, 32), (1, 0, 16), (1, 16, 32)]
    assert close([p.score for p in parts], list(offline.scores) * 2, torch.float32)
    assert parts[2].start_seconds >= parts[1].end_seconds - 3.2  # live time goes on; it does not start anew
    # Whoever waits is told what for.
    assert any(f"{address}: {ENDED}; trying again in 0 s" in said for said in caplog.messages)
    assert parts[-1].total_dropped == 0


def test_rtsp_asks_for_tcp_first_and_takes_udp(monkeypatch) -> None:
    asked: list[dict[str, str]] = []

    def refuse(name: str, **settings) -> None:
        asked.append(settings["options"])
        raise OSError("nobody there")

    monkeypatch.setattr(av, "open", refuse)
    (end,) = _open_feed("rtsp://camera/stream").items(reconnect=0)
    assert isinstance(end, _Break)
    assert asked == [{"rtsp_flags": "prefer_tcp"}]


# Drops


def test_a_slow_reader_gets_the_newest_frames_and_drops_are_counted(detector, tiny, file) -> None:
    frames = read_frames(file, range(40))
    items = [Frame(i, i / 10, frames[i], 0, 0.0) for i in range(40)] + [_Break(0, "the source ended", True)]
    reader = _Reader(iter(items), capacity=10)
    reader._thread.join(10)  # it has read everything before anyone took a frame
    kept = list(reader)
    assert [item.number for item in kept if isinstance(item, Frame)] == list(range(30, 40))
    assert isinstance(kept[-1], _Break)


def test_without_drops_the_source_waits_for_a_slow_reader() -> None:
    given = []

    def source():
        for i in range(40):
            given.append(i)
            yield Frame(i, i / 10, np.zeros((8, 8, 3), np.uint8), 0, 0.0)
        yield _Break(0, "the source ended", True)

    reader = _Reader(source(), capacity=10, drop=False)
    items = iter(reader)
    numbers = [next(items).number for _ in range(5)]
    assert len(given) <= 16  # five taken, ten kept, one waiting
    numbers += [item.number for item in items if isinstance(item, Frame)]
    assert numbers == list(range(40))


def test_where_a_file_ends_the_stream_ends_whatever_the_tries(detector, tiny, file) -> None:
    assert len(list(detector.stream(tiny, file, reconnect=None))) == 3
    assert len(list(detector.stream(tiny, read_frames(file, range(40)), fps=10.0, reconnect=None))) == 3


def test_segments_of_dropped_frames(detector, tiny, file) -> None:
    frames = read_frames(file, range(40))
    feed = _open_feed(frames, fps=10.0)
    there = [i for i in range(40) if i not in (4, 5) and not 14 <= i < 30]
    items = [Frame(i, i / 10, frames[i], 0, 0.0) for i in there] + [_Break(0, "the source ended", True)]
    parts = list(_Cutter(detector, tiny, feed).run(iter(items)))
    assert [(p.start_frame, p.end_frame, p.n_dropped, p.total_dropped) for p in parts] == [
        (0, 16, 4, 4),
        (16, 32, 14, 18),
        (32, 40, 0, 18),
    ]
    # Neighbours stand in for single frames; nothing stands in for a second that was not seen.
    assert parts[0].score is not None
    assert parts[1].score is None
    assert parts[1].abnormal is None
    assert "too few of its frames were seen" in parts[1].note
    assert parts[2].score is None  # looks back at frames 24 to 40, of which 24 to 30 were not seen
    assert [p.start_seconds for p in parts] == pytest.approx([0, 1.6, 3.2])


def test_a_failing_frame_is_raised_where_the_frames_are_used(detector, tiny) -> None:
    wrong = [np.zeros((48, 64), np.uint8)]
    with pytest.raises(InputError, match=r"a frame must be a uint8 RGB array \[height, width, 3\]"):
        list(detector.stream(tiny, wrong, fps=10.0, live=True))
    with pytest.raises(InputError, match="frames without times need a frame rate"):
        list(detector.stream(tiny, np.zeros((3, 48, 64, 3), np.uint8)))


def test_what_is_no_source(detector, tiny, tmp_path) -> None:
    with pytest.raises(InputError, match="a source is a file, an address, a camera or an iterable of frames"):
        _open_feed(3.5)
    with pytest.raises(InputError, match="got True"):
        _open_feed(True)
    with pytest.raises(InputError, match="fps is 0; it must be a number above 0"):
        _open_feed([], fps=0)
    with pytest.raises(VideoError, match="there is no such file"):
        _open_feed(tmp_path / "none.mp4")
    assert _open_feed("rtsp://camera/1").live
    with pytest.raises(InputError, match="capacity is 0; it must be an integer of at least 1"):
        detector.stream(tiny, [], fps=1.0, capacity=0)
    assert not _open_feed([], fps=1).live


def test_alarm_with_hysteresis_and_duration_knows_no_future() -> None:
    alarm = _Alarm(0.6, 0.5, 2.0)
    scores = [0.2, 0.7, 0.4, 0.4, 0.2, 0.7]
    assert [alarm(s, float(i), i + 1.0) for i, s in enumerate(scores)] == [False, False, True, True, False, False]


def test_without_a_locator_nothing_is_called_abnormal(tiny, file) -> None:
    bare = head_detector(tiny, located=False)
    parts = list(bare.stream(tiny, file))
    assert {p.abnormal for p in parts} == {None}
    assert all(p.smoothed == p.score for p in parts)
    assert parts[0].to_dict()["score"] == parts[0].score


def test_a_named_pipe(detector, tiny, tmp_path) -> None:
    import os

    write_video(tmp_path / "a.mkv", np.zeros((20, 48, 64, 3), np.uint8), fps=10)
    data = (tmp_path / "a.mkv").read_bytes()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def write() -> None:
        with open(pipe, "wb") as out:
            out.write(data)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    parts = list(detector.stream(tiny, pipe))
    thread.join(10)
    assert [(p.start_frame, p.end_frame) for p in parts] == [(0, 16), (16, 20)]


def test_smoothing_with_a_locator_of_zero_width() -> None:
    assert [CausalSmoother(0.0)(s) for s in (0.2, 0.9)] == [0.2, 0.9]
    assert Locator(0.0, 0.5).smooth([0.2]).tolist() == [0.2]
