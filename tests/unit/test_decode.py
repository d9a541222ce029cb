"""Frames by number, exactly; every kind of broken file is refused with a reason."""

from __future__ import annotations

import gc
import os
import signal
import struct
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import PictureType
from equality import same

from headprobe.errors import HeadprobeWarning, InputError, VideoError
from headprobe.extraction._decoding import Decoder
from headprobe.video import decode
from headprobe.video._container import ONE_THREAD, declared_size
from headprobe.video.decode import VideoReader, probe, read_frames, shared_reader, write_video

N, HEIGHT, WIDTH, BITS = 120, 32, 96, 10
H264 = {"crf": "18", "bf": "3", "b-adapt": "0", "g": "50", "sc_threshold": "0"}


def number_frame(i: int) -> np.ndarray:
    """A frame whose columns of 8 pixels spell i in binary, lowest bit at the left."""
    frame = np.full((HEIGHT, WIDTH, 3), 30, np.uint8)
    for bit in range(BITS):
        if i >> bit & 1:
            frame[:, 8 + 8 * bit : 16 + 8 * bit] = 220
    return frame


def numbers(frames) -> list[int]:
    """What the frames spell; a picture that is not one of ours spells -1."""
    found = []
    for frame in frames:
        bars = [frame[4:-4, 10 + 8 * bit : 14 + 8 * bit].astype(float) for bit in range(BITS)]
        clean = all(bar.std() < 25 and abs(bar.mean() - 125) > 40 for bar in bars)
        found.append(sum(int(bar.mean() > 125) << bit for bit, bar in enumerate(bars)) if clean else -1)
    return found


def make(
    path,
    n=N,
    codec="libx264",
    options=None,
    container=None,
    format=None,
    pts=None,
    time_base=None,
    pixels="yuv420p",
):
    """Encode frames 0 to n - 1 with PyAV; `pts` gives them timestamps of their own."""
    with av.open(str(path), "w", format=format, options=container or {}) as output:
        stream = output.add_stream(codec, rate=10, options=H264 if options is None else options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixels
        if time_base is not None:
            stream.codec_context.time_base = time_base
        for i in range(n):
            frame = av.VideoFrame.from_ndarray(number_frame(i), format="rgb24")
            if pts is not None:
                frame.pts, frame.time_base = int(pts[i]), time_base
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def packets(path):
    with av.open(str(path)) as container:
        return [(p.pos, p.size, p.is_keyframe) for p in container.demux(video=0) if p.size]


def refused(path, *words) -> str:
    """The reason for which probing and reading the file are refused, each in less than ten seconds."""
    reasons = set()
    for attempt in (probe, lambda path: read_frames(path, [0])):
        started = time.perf_counter()
        with pytest.raises(VideoError) as caught:
            attempt(path)
        assert time.perf_counter() - started < 10
        assert caught.value.path == os.fspath(path)
        assert str(caught.value) == f"{os.fspath(path)}: {caught.value.reason}"
        reasons.add(caught.value.reason)
    assert len(reasons) == 1
    reason = reasons.pop()
    for word in words:
        assert word in reason
    return reason


@pytest.fixture(scope="module")
def movie(tmp_path_factory):
    path = make(tmp_path_factory.mktemp("video") / "numbers.mp4", container={"movflags": "faststart"})
    kinds = [key for _, _, key in packets(path)]
    assert [i for i, key in enumerate(kinds) if key] == [0, 50, 100]
    return path


@pytest.fixture(scope="module")
def pictures(movie):
    """Every frame by plain sequential decoding, the reference for exactness."""
    with av.open(str(movie)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


# Exact frames


def test_fixture_has_b_frames(movie):
    with av.open(str(movie)) as container:
        assert any(frame.pict_type == PictureType.B for frame in container.decode(video=0))


@pytest.mark.parametrize(
    "indices",
    [[0], [N - 1], list(range(N)), list(range(N))[::-1], [99, 3, 3, 50, 49, 51, 3, 0], [7, 100, 8, 101, 9]],
    ids=["first", "last", "all", "backwards", "repeats", "far apart"],
)
def test_reads_precisely_the_frames_asked_for(movie, pictures, indices):
    frames = read_frames(movie, indices)
    assert frames.dtype == np.uint8
    assert numbers(frames) == indices
    assert same(frames, pictures[indices])


def test_random_orders_on_one_reader(movie, pictures):
    rng = np.random.default_rng(0)
    with VideoReader(movie) as video:
        for _ in range(25):
            indices = rng.integers(0, N, rng.integers(1, 9))
            assert same(video.read(indices), pictures[indices])


def test_probe_and_iteration(movie):
    info = probe(movie)
    assert (info.n_frames, info.fps, info.width, info.height) == (N, 10.0, WIDTH, HEIGHT)
    assert (info.duration, info.constant_rate, info.path) == (12.0, True, str(movie))
    with VideoReader(movie) as video:
        assert numbers(video) == list(range(N))
        assert len(video) == N
        np.testing.assert_allclose(video.times, np.arange(N) / 10, atol=1e-9)


def test_sequential_segments_decode_each_frame_once(movie, monkeypatch):
    """Going through a video segment by segment costs one pass and no seek."""
    decoded, seeks = [], []
    following, seeking = VideoReader._next, VideoReader._seek
    monkeypatch.setattr(VideoReader, "_next", lambda self: decoded.append(1) or following(self))
    monkeypatch.setattr(VideoReader, "_seek", lambda self, key: seeks.append(key) or seeking(self, key))
    with VideoReader(movie) as video:
        decoded.clear()
        for start in range(0, N, 12):
            video.read(range(start, start + 12, 3))
    assert len(decoded) <= N
    assert seeks == []


def test_far_frame_is_reached_by_its_key_frame(movie, monkeypatch):
    decoded = []
    following = VideoReader._next
    monkeypatch.setattr(VideoReader, "_next", lambda self: decoded.append(1) or following(self))
    with VideoReader(movie) as video:
        decoded.clear()
        assert numbers(video.read([103])) == [103]
    assert len(decoded) == 4


FORMATS = {
    "no header count, mkv": ("a.mkv", {}),
    "no header count, fragments": ("a.mp4", {"container": {"movflags": "frag_keyframe+empty_moov"}}),
    "transport stream": ("a.ts", {}),
    "raw stream without times": ("a.h264", {"format": "h264"}),
    "avi with B-frames": ("a.avi", {}),
    "avi, mpeg4": ("b.avi", {"codec": "mpeg4", "options": {"bf": "2", "qscale": "2", "b": "4M"}}),
    "open groups": ("o.mp4", {"options": {**H264, "x264-params": "open-gop=1:bframes=3:b-adapt=0"}}),
    "vp8 with hidden frames": (
        "a.webm",
        {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "b": "900k"}},
    ),
    "vp9": (
        "b.webm",
        {"codec": "libvpx-vp9", "options": {"lag-in-frames": "16", "b": "900k", "cpu-used": "8"}},
    ),
    "10 bit": ("ten.mp4", {"pixels": "yuv420p10le"}),
    "10 bit, all frames complete": ("ten.mov", {"codec": "prores_ks", "options": {}, "pixels": "yuv422p10le"}),
    "12 bit": ("twelve.mkv", {"codec": "ffv1", "options": {}, "pixels": "yuv444p12le"}),
    "16 bit grey": ("grey.mkv", {"codec": "ffv1", "options": {}, "pixels": "gray16le"}),
    "motion jpeg": ("m.avi", {"codec": "mjpeg", "options": {"qmin": "2", "qmax": "3"}, "pixels": "yuvj420p"}),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_other_formats_are_as_exact(tmp_path, kind):
    name, how = FORMATS[kind]
    path = make(tmp_path / name, **how)
    info = probe(path)
    assert (info.n_frames, info.fps, info.duration) == (N, 10.0, 12.0)
    indices = [119, 0, 55, 54, 54, 100, 3]
    with VideoReader(path) as video:
        assert numbers(video.read(indices)) == indices
        assert numbers(video) == list(range(N))


@pytest.mark.parametrize(("codec", "pixels"), [("ffv1", "yuv444p10le"), ("ffv1", "gbrp12le"), ("ffv1", "gray16le")])
def test_more_than_8_bits_are_scaled_and_not_cut(tmp_path, codec, pixels):
    path = make(tmp_path / "a.mkv", n=9, codec=codec, options={}, pixels=pixels)
    found = read_frames(path, [8, 5])
    assert found.dtype == np.uint8
    expected = np.stack([number_frame(8), number_frame(5)])
    assert np.abs(found.astype(int) - expected).max() <= 3


def test_variable_frame_rate(tmp_path):
    steps = np.random.default_rng(3).integers(20, 400, N)
    pts = np.cumsum(steps)
    path = make(tmp_path / "vfr.mp4", pts=pts, time_base=Fraction(1, 1000))
    with VideoReader(path) as video:
        assert not video.info.constant_rate
        np.testing.assert_allclose(video.times, (pts - pts[0]) / 1000, atol=1e-3)
        assert video.info.fps == pytest.approx((N - 1) / ((pts[-1] - pts[0]) / 1000), rel=1e-3)
        assert numbers(video.read([118, 2, 61])) == [118, 2, 61]
        assert numbers(video) == list(range(N))


def test_times_that_go_backwards(tmp_path):
    """Two transport streams joined end to end: the second starts again at time zero."""
    one = make(tmp_path / "one.ts", n=60)
    path = tmp_path / "joined.ts"
    path.write_bytes(one.read_bytes() * 2)
    with VideoReader(path) as video:
        assert len(video) == 120
        assert numbers(video) == list(range(60)) * 2
        assert numbers(video.read([119, 60, 59])) == [59, 0, 59]
        assert np.all(np.diff(video.times) > 0)


def test_frames_hidden_by_an_edit_list(tmp_path):
    path = make(tmp_path / "edit.mp4", pts=np.arange(N) - 20, time_base=Fraction(1, 10))
    with VideoReader(path) as video:
        assert len(video) == N - 20
        assert numbers(video.read([99, 0, 31])) == [119, 20, 51]


def test_end_hidden_by_an_edit_list(tmp_path):
    """A recording trimmed on a telephone keeps the frames and shows only the first of them."""
    path = make(tmp_path / "trim.mp4")
    data = bytearray(path.read_bytes())
    place = data.find(b"elst") + 12
    assert struct.unpack_from(">I", data, place)[0] == 12_000  # milliseconds
    struct.pack_into(">I", data, place, 6_000)
    path.write_bytes(data)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == N
        shown = len(list(container.decode(video=0)))
    assert 60 <= shown < N
    with VideoReader(path) as video:
        assert len(video) == shown
        assert numbers(video) == list(range(shown))


def test_table_of_frames_that_lost_entries(tmp_path):
    """The table of sizes lists every frame, the table of places only those of the first chunk."""
    path = make(tmp_path / "table.mp4")
    data = bytearray(path.read_bytes())
    sizes, chunks = data.find(b"stsz") + 12, data.find(b"stsc") + 8
    assert struct.unpack_from(">I", data, sizes)[0] == N
    entries, first, in_chunk = struct.unpack_from(">III", data, chunks)
    assert (entries, first, in_chunk) == (1, 1, N)
    struct.pack_into(">I", data, chunks + 8, 75)
    path.write_bytes(data)
    refused(path, f"its table of frames is incomplete): only 75 of {N} frames could be decoded")


MATRICES = {  # a b c d of the display matrix -> what numpy does to the picture
    "quarter turn clockwise": ((0, 1, -1, 0), lambda f: np.rot90(f, -1)),
    "quarter turn back": ((0, -1, 1, 0), lambda f: np.rot90(f, 1)),
    "half turn": ((-1, 0, 0, -1), lambda f: np.rot90(f, 2)),
    "mirrored": ((-1, 0, 0, 1), lambda f: f[:, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda f: f[::-1]),
}


def with_matrix(source, target, a, b, c, d):
    """Copy an mp4 file and write a display matrix into its track header."""
    data = bytearray(source.read_bytes())
    place = data.find(b"tkhd") + 4 + 4 + 5 * 4 + 8 + 8
    one = 1 << 16
    assert struct.unpack(">9i", data[place : place + 36]) == (one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    fixed = [round(value * one) for value in (a, b, 0, c, d, 0, 0, 0)]
    data[place : place + 36] = struct.pack(">9i", *fixed, 1 << 30)
    target.write_bytes(data)
    return target


@pytest.mark.parametrize("kind", MATRICES)
def test_rotation_is_applied(movie, pictures, tmp_path, kind):
    matrix, turn = MATRICES[kind]
    path = with_matrix(movie, tmp_path / "turned.mp4", *matrix)
    expected = np.stack([turn(picture) for picture in pictures[[5, 80]]])
    with VideoReader(path) as video:
        assert (video.info.height, video.info.width) == expected.shape[1:3]
        assert same(video.read([5, 80]), expected)


def test_oblique_rotation_is_refused(movie, tmp_path):
    refused(with_matrix(movie, tmp_path / "oblique.mp4", 0.7, 0.7, -0.7, 0.7), "no quarter turn")


# Broken files


def test_missing_folder_empty_text(tmp_path):
    assert refused(tmp_path / "no.mp4") == "there is no such file"
    assert refused(tmp_path) == "this is a folder, not a video file"
    (tmp_path / "empty.mp4").touch()
    assert refused(tmp_path / "empty.mp4") == "the file is empty"
    (tmp_path / "text.mp4").write_text("Frame 1: nothing happens. Näheres später.\n" * 50)
    assert refused(tmp_path / "text.mp4") == "this is a text file, not a video"
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    refused(tmp_path / "noise.mp4", "this is not a video that can be opened")


def test_playlists_are_not_followed(tmp_path, movie):
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    refused(tmp_path / "list.mp4", "text file")
    (tmp_path / "concat.mp4").write_text(f"ffconcat version 1.0\nfile {movie}\n")
    refused(tmp_path / "concat.mp4", "text file")


def test_broken_link_and_pipe(tmp_path):
    (tmp_path / "link.mp4").symlink_to(tmp_path / "gone.mp4")
    assert refused(tmp_path / "link.mp4").startswith("this is a broken symbolic link to ")
    os.mkfifo(tmp_path / "pipe.mp4")
    refused(tmp_path / "pipe.mp4", "not a regular file")
    refused(tmp_path / "loop\0.mp4", "cannot be reached")


def test_unreadable_file_and_folder(tmp_path_factory, movie):
    folder = tmp_path_factory.mktemp("locked")
    path = folder / "secret.mp4"
    path.write_bytes(movie.read_bytes())
    path.chmod(0)
    uid = os.geteuid()
    if uid != 0:
        refused(path, "cannot be opened (Permission denied)")
        return
    # The superuser reads everything, so ask as somebody else.
    reasons = []
    os.chmod(folder.parent, 0o755)
    os.chmod(folder, 0o755)
    ancestors = list(folder.parents)[1:3]
    modes = [os.stat(ancestor).st_mode for ancestor in ancestors]
    try:
        for ancestor in ancestors:
            os.chmod(ancestor, 0o755)
        os.seteuid(65534)
        reasons.append(refused(path))
    finally:
        os.seteuid(uid)
        for ancestor, mode in zip(ancestors, modes, strict=True):
            os.chmod(ancestor, mode)
        path.chmod(0o600)
    assert reasons == ["the file cannot be opened (Permission denied)"]


def test_index_missing(tmp_path):
    """An ordinary mp4 has its index at the end: cut the end off and nothing can be found."""
    whole = make(tmp_path / "whole.mp4").read_bytes()
    path = tmp_path / "cut.mp4"
    for size in (len(whole) // 2, whole.rfind(b"moov") - 4):
        path.write_bytes(whole[:size])
        refused(path, 'the index ("moov" box) is missing')
    path.write_bytes(whole[: whole.rfind(b"moov") + 200])
    refused(path, "the file was cut short")


@pytest.mark.parametrize("keep", [0.002, 0.4, 0.7, 0.98])
def test_data_cut_behind_the_index(movie, tmp_path, keep):
    """The header promises all frames; the error says how many there are, and the number is right."""
    whole, places = movie.read_bytes(), packets(movie)
    size = int(places[0][0] + keep * (len(whole) - places[0][0]))
    complete = sum(position + length <= size for position, length, _ in places)
    with av.open(str(movie)) as container:
        some = [packet for packet in container.demux(video=0) if packet.size][:complete]
        decoded = sum(len(packet.decode()) for packet in some)
        decoded += len(container.streams.video[0].decode(None)) if some else 0
    assert decoded == complete < N
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole[:size])
    assert refused(path) == (
        f"the file was cut short ({size} of {len(whole)} bytes): only {complete} of {N} frames could be decoded"
    )


def test_only_trailing_bytes_lost(tmp_path):
    """A box behind the pictures is cut: every frame is there, so the file is read."""
    path = make(tmp_path / "a.mp4", container={"movflags": "faststart"})
    path.write_bytes(path.read_bytes() + struct.pack(">I4s", 1000, b"free") + bytes(10))
    assert declared_size(path) > path.stat().st_size
    with VideoReader(path) as video:
        assert numbers(video) == list(range(N))


@pytest.mark.parametrize("name", ["a.mkv", "a.avi", "a.webm"])
def test_other_containers_cut(tmp_path, name):
    how = {"codec": "libvpx", "options": {"b": "900k"}} if name == "a.webm" else {}
    path = make(tmp_path / name, **how)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 6 // 10])
    reason = refused(path, "the file was cut short", "frames could be decoded")
    of = f" of {N} " if name == "a.avi" else f" of about {N} "
    assert of in reason
    assert 20 < int(reason.split(": only ")[1].split()[0]) < 100


def test_header_count_too_high_or_low(tmp_path):
    """The frame count in an AVI header is only a claim: a file that is complete is counted."""
    path = make(tmp_path / "a.avi")
    whole = path.read_bytes()
    place = whole.find(b"strh") + 8 + 32
    assert struct.unpack_from("<I", whole, place)[0] == N
    for claim in (N + 500, N - 70, 0):
        data = bytearray(whole)
        struct.pack_into("<I", data, place, claim)
        path.write_bytes(data)
        with VideoReader(path) as video:
            assert len(video) == N
            assert numbers(video.read([119, 4])) == [119, 4]


def test_damaged_frame_is_never_made_up(movie, tmp_path):
    data = bytearray(movie.read_bytes())
    position, size, _ = packets(movie)[70]
    data[position : position + size] = bytes(size)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    with VideoReader(path) as video:
        assert numbers(video.read([10, 49])) == [10, 49]
        with pytest.raises(VideoError, match=r"the data are damaged .* after \d+ of 120 frames") as caught:
            video.read([80])
        stopped = int(caught.value.reason.split("after ")[1].split()[0])
        assert 60 <= stopped <= 72
        # The reader goes on working on both sides of the damage.
        assert numbers(video.read([110, 20])) == [110, 20]


def test_start_without_a_key_frame(movie, tmp_path):
    path = tmp_path / "headless.ts"
    with av.open(str(movie)) as source, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.dts is not None and number >= 20:
                packet.stream = stream
                output.mux(packet)
    refused(path, "first 30 of 100 frames", "no key frame comes before them")


def test_a_stream_that_begins_in_the_middle(tmp_path):
    """Data of a stream that the tables of a transport stream do not name turn up near the end."""
    path = make(tmp_path / "a.ts", n=60)
    parts = np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 188).copy()
    pid = (parts[:, 1].astype(int) & 0x1F) << 8 | parts[:, 2]
    starts = np.flatnonzero((pid == 0x100) & (parts[:, 1] & 0x40 != 0))
    assert len(starts) == 60
    parts[starts[50], 2] ^= 0x08
    path.write_bytes(parts.tobytes())
    refused(path, "data of an unannounced stream", "frames could be decoded")


def test_audio_only_and_cover_picture(tmp_path):
    for name, codec in (("sound.mp4", "aac"), ("sound.wav", "pcm_s16le")):
        with av.open(str(tmp_path / name), "w") as output:
            stream = output.add_stream(codec, rate=16000)
            stream.layout = "mono"
            tone = np.zeros((1, 1024), np.float32 if codec == "aac" else np.int16)
            frame = av.AudioFrame.from_ndarray(tone, format="fltp" if codec == "aac" else "s16", layout="mono")
            frame.rate = 16000
            output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
    os.rename(tmp_path / "sound.wav", tmp_path / "wav.mp4")
    assert refused(tmp_path / "sound.mp4") == "there is no video stream in the file (streams: audio)"
    assert refused(tmp_path / "wav.mp4") == "there is no video stream in the file (streams: audio)"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("zero.avi", "its video stream holds no frames"),
        ("zero.mp4", "there is no video stream in the file (streams: none)"),
        ("zero.mkv", "this is not a video that can be opened (End of file)"),
    ],
)
def test_no_frames(tmp_path, movie, name, reason):
    with av.open(str(movie)) as source, av.open(str(tmp_path / name), "w") as output:
        output.add_stream_from_template(source.streams.video[0])
        output.start_encoding()
    assert refused(tmp_path / name) == reason


def test_picture_size_changes(tmp_path):
    path = tmp_path / "sizes.h264"
    small = write_stream(64, 32, 5)
    path.write_bytes(write_stream(96, 32, 7) + small)
    refused(path, "the picture size changes from 96x32 to 64x32 at frame 7")


def write_stream(width, height, n):
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base = Fraction(1, 10)
    data = b""
    for i in range(n):
        frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), 40 * i, np.uint8), format="rgb24")
        frame.pts, frame.time_base = i, encoder.time_base
        data += b"".join(bytes(packet) for packet in encoder.encode(frame))
    return data + b"".join(bytes(packet) for packet in encoder.encode(None))


# Asking wrongly


@pytest.mark.parametrize(
    ("indices", "words"),
    [
        ([], "non-empty"),
        ([0.5], "whole numbers, got float64"),
        ([[1, 2]], "one-dimensional"),
        ([True], "got bool"),
        ([-1], "frame -1 was asked"),
        ([3, N], "frame 120 was asked .* which has frames 0 to 119"),
    ],
)
def test_indices_that_are_not_frames(movie, indices, words):
    with pytest.raises(InputError, match=words):
        read_frames(movie, indices)


def test_closed_reader(movie):
    video = VideoReader(movie)
    video.close()
    video.close()
    with pytest.raises(VideoError, match="the reader is closed"):
        video.read([0])


def test_odd_names(tmp_path, movie, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a:b.mp4", "v=x__#1 %03d.mp4", "-y.mp4", "日本.mp4", "concat:a.mp4"):
        (tmp_path / name).write_bytes(movie.read_bytes())
        assert numbers(read_frames(name, [42])) == [42]


# Shared readers


def test_shared_reader_is_one_per_thread(movie, tmp_path):
    first = shared_reader(movie)
    assert shared_reader(str(movie)) is first
    others = []
    worker = threading.Thread(target=lambda: others.append(shared_reader(movie)))
    worker.start()
    worker.join()
    assert others[0] is not first
    other = make(tmp_path / "other.mp4", n=8)
    assert len(shared_reader(other)) == 8
    with pytest.raises(VideoError, match="closed"):
        first.read([0])  # only the last file stays open


def test_shared_reader_notices_a_changed_file(tmp_path):
    path = make(tmp_path / "a.mp4", n=8)
    assert len(shared_reader(path)) == 8
    make(path, n=9)
    assert len(shared_reader(path)) == 9
    path.unlink()
    with pytest.raises(VideoError, match="no such file"):
        shared_reader(path)


def test_shared_reader_after_a_fork(movie):
    parent = shared_reader(movie)
    pid = os.fork()
    if pid == 0:
        good = shared_reader(movie) is not parent and numbers(shared_reader(movie).read([70])) == [70]
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert numbers(parent.read([71])) == [71]


def test_a_child_frees_what_its_parent_left(movie):
    # Readers and frames in a circle wait for the collector, which may come to them in a child that has no threads.
    circle: list = [VideoReader(movie)]
    circle += [circle, circle[0].read([5]), circle[0]._frame(6)]
    circle[3].to_ndarray(format="rgb24", **ONE_THREAD)
    del circle
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        gc.collect()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# Writing


def test_write_then_read(tmp_path):
    frames = np.stack([number_frame(i) for i in range(30)])
    path = write_video(tmp_path / "w.mp4", frames, fps=12.5, crf=8)
    info = probe(path)
    assert (info.n_frames, info.fps, info.height, info.width) == (30, 12.5, HEIGHT, WIDTH)
    got = read_frames(path, range(30))
    assert numbers(got) == list(range(30))
    # Chroma is halved; over 4-pixel squares the picture is the same.
    pooled = [x.reshape(30, HEIGHT // 8, 8, WIDTH // 8, 8, 3).mean((2, 4)) for x in (got, frames)]
    assert np.abs(pooled[0] - pooled[1]).max() < 6
    assert [file.name for file in tmp_path.iterdir()] == ["w.mp4"]


def test_written_files_are_reproducible(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (12, 32, 48, 3), np.uint8)
    one = write_video(tmp_path / "1.mp4", frames, fps=10).read_bytes()
    assert write_video(tmp_path / "2.mp4", iter(frames), fps=10).read_bytes() == one


def test_failed_write_leaves_nothing_and_keeps_the_old(tmp_path):
    old = write_video(tmp_path / "a.mp4", np.zeros((2, 16, 16, 3), np.uint8), fps=5)
    before = old.read_bytes()

    def frames():
        yield np.zeros((16, 16, 3), np.uint8)
        raise RuntimeError("renderer stopped")

    with pytest.raises(RuntimeError, match="renderer stopped"):
        write_video(old, frames(), fps=5)
    assert old.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize(
    ("frames", "fps", "words"),
    [
        ([], 10, "no frames were given"),
        (np.zeros((2, 16, 16, 3), np.uint8), 0, "fps is 0; it must be a number of at least"),
        (np.zeros((2, 16, 16, 3)), 10, r"frame 0 must be a uint8 array .* got float64"),
        (np.zeros((2, 16, 16), np.uint8), 10, r"got uint8 \(16, 16\)"),
        (np.zeros((2, 16, 15, 3), np.uint8), 10, "even width and height, frame 0 is 15x16"),
        (
            [np.zeros((16, 16, 3), np.uint8), np.zeros((16, 32, 3), np.uint8)],
            10,
            "frame 1 is 32x16, the frames before it are 16x16",
        ),
    ],
)
def test_frames_that_cannot_be_written(tmp_path, frames, fps, words):
    with pytest.raises(InputError, match=words):
        write_video(tmp_path / "a.mp4", frames, fps)
    assert list(tmp_path.iterdir()) == []


def test_public_names():
    assert set(decode.__all__) == {
        "VideoInfo",
        "VideoReader",
        "probe",
        "read_frames",
        "shared_reader",
        "write_video",
    }


def test_an_edit_list_that_hides_nearly_all_is_said(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", np.zeros((60, 16, 16, 3), np.uint8), fps=10)
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 12  # after version and flags, and the count: the duration of the first edit
    data[at : at + 4] = (100).to_bytes(4, "big")
    path.write_bytes(data)
    with pytest.warns(HeadprobeWarning, match=r"a\.mp4: only 1 of its 60 frames are shown"):
        video = VideoReader(path)
    video.close()
    assert len(video) == 1
    decoder = Decoder(10.0, stopped=lambda: False)
    job = {"path": str(path), "stretches": [(None, None, False)], "length": 8, "frames": 4, "done": []}
    opened = next(header for header, _ in decoder.messages(job))
    decoder.close()
    assert opened["refused"] == [video.note]  # so that the list of what was skipped has it
