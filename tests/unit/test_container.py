"""Declared lengths are read from any bytes without a fault, and are right for real files."""

from __future__ import annotations

import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headprobe.errors import VideoError
from headprobe.video._container import check_file, declared_size, error_text, has_index, why_not_a_video

MP4 = struct.pack(">I4s", 16, b"ftyp") + b"isom\0\0\0\0"
MATROSKA = b"\x1a\x45\xdf\xa3\x84abcd\x18\x53\x80\x67"


def put(tmp_path, data: bytes):
    path = tmp_path / "file"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (MP4 + struct.pack(">I4s", 100, b"mdat"), 116),
        (MP4 + struct.pack(">I4sQ", 1, b"mdat", 1 << 40), 16 + (1 << 40)),
        (MP4 + struct.pack(">I4s", 0, b"mdat") + bytes(50), 74),  # to the end of the file
        (MP4 + struct.pack(">I4s", 8, b"moov") + b"\0\0\0\3tail", 24),  # bytes that are no box
        (b"RIFF" + struct.pack("<I", 8) + b"AVI \0\0\0\0RIFF" + struct.pack("<I", 400) + b"AVIX", 424),
        (MATROSKA + b"\x88" + bytes(8), 22),
        (MATROSKA + b"\x40\x90" + bytes(8), 159),
        (MATROSKA + b"\xff" + bytes(8), None),  # a live recording
        (MATROSKA + b"\x01" + b"\xff" * 7, None),
        (MATROSKA + b"\x01\xff\xff\xff\xff\xff\xff\xf0", (1 << 56) - 16 + 21),
        (b"\x1a\x45\xdf\xa3\x01\x80" + bytes(6), (1 << 55) + 12),  # ends far behind the file
        (b"RIFF\x10\0\0\0WAVEfmt ", None),
        (b"G@\0\x10" * 47, None),
        (b"\0", None),
    ],
)
def test_declared_size(tmp_path, data, size):
    assert declared_size(put(tmp_path, data)) == size


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(
    start=st.sampled_from([b"", MP4, MATROSKA, MATROSKA[:4], b"RIFF\x04\0\0\0AVI ", MP4[:8]]),
    rest=st.binary(max_size=60),
)
def test_any_bytes_are_answered(tmp_path, start, rest):
    path = put(tmp_path, start + rest)
    size = declared_size(path)
    assert size is None or size >= 0
    assert has_index(path) in (True, False)
    assert why_not_a_video(str(path), ValueError("bad"))


def test_index_is_found_between_other_boxes(tmp_path):
    moov = struct.pack(">I4s", 8, b"moov")
    assert has_index(put(tmp_path, MP4 + struct.pack(">I4s", 12, b"free") + bytes(4) + moov))
    assert has_index(put(tmp_path, MP4 + struct.pack(">I4s", 9000, b"moov")))  # cut inside
    assert not has_index(put(tmp_path, MP4 + struct.pack(">I4s", 500, b"mdat") + moov))  # inside the data


def test_reasons(tmp_path):
    error = OSError(5, "Input/output error")
    assert why_not_a_video(str(put(tmp_path, "naïve".encode() * 1000)), error) == ("this is a text file, not a video")
    assert why_not_a_video(str(put(tmp_path, b"\xff\xfe\0")), error) == (
        "this is not a video that can be opened (Input/output error)"
    )
    assert 'the index ("moov" box) is missing' in why_not_a_video(str(put(tmp_path, MP4)), error)
    assert error_text(ValueError()) == "ValueError"
    assert error_text(IndexError("list index out of range")) == "data of an unannounced stream"


def test_a_good_file_passes(tmp_path):
    check_file(str(put(tmp_path, b"x")))
    with pytest.raises(VideoError, match="the file is empty"):
        check_file(str(put(tmp_path, b"")))
