"""Broken video files, made from whole ones: damaged, cut short, mislabelled, absurd in the header, or no files."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from headprobe.video.decode import write_video

# Kinds of which a file may turn out to be whole after all: a flipped bit may stand where nobody looks, one wrong
# number in a header may be made up for by the others, and the superuser may read everything.
MAY_BE_READ = {"flipped", "header", "timestamps", "unreadable"}


def whole(folder: Path, seed: int, n: int = 30) -> bytes:
    frames = np.random.default_rng(seed).integers(0, 256, (n, 32, 48, 3), dtype=np.uint8)
    path = write_video(folder / "whole.mp4", frames, fps=10, options={"g": "10", "bf": "2"})
    data = path.read_bytes()
    path.unlink()
    return data


def flipped(data: bytes, rng: np.random.Generator) -> bytes:
    """Between one and some hundred bits changed, anywhere."""
    changed = bytearray(data)
    for place in rng.integers(0, len(data), int(2 ** rng.uniform(0, 7))):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def truncated(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(1, len(data) - 1))]


def box(data: bytes, kind: bytes) -> int:
    """Where the content of the first box of a kind begins."""
    return data.index(kind) + 4


def patched(data: bytes, kind: bytes, offset: int, value: bytes) -> bytes:
    at = box(data, kind) + offset
    return data[:at] + value + data[at + len(value) :]


def u32(value: int) -> bytes:
    return struct.pack(">I", value & 0xFFFFFFFF)


def absurd_headers(data: bytes) -> Iterator[bytes]:
    """Sizes, rates, counts and offsets that no video has."""
    big, zero = u32(0xFFFFFFFF), u32(0)
    for size in (b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\xff\xff\x00\x01"):
        yield patched(data, b"avc1", 24, size)  # width and height of the picture
    yield from (patched(data, b"tkhd", 76, value) for value in (big, zero, b"\x7f\xff\xff\xff\x00\x00\x00\x01"))
    yield from (patched(data, b"mdhd", 12, value) for value in (big, zero, u32(1)))  # ticks per second
    yield from (patched(data, b"mvhd", 12, value) for value in (big, zero))
    yield from (patched(data, b"mvhd", 16, value) for value in (big, u32(0x7FFFFFFF)))  # duration
    yield from (patched(data, b"mdhd", 16, value) for value in (big, zero))
    yield from (patched(data, b"stts", 4, value) for value in (big, zero, u32(1 << 24)))  # number of runs
    yield from (patched(data, b"stts", 12, value) for value in (big, zero, u32(0x7FFFFFFF)))  # ticks per frame
    yield from (patched(data, b"stts", 8, value) for value in (big, zero, u32(1)))  # frames of a run
    yield from (patched(data, b"stsz", 8, value) for value in (big, zero, u32(1 << 28), u32(1)))  # number of frames
    yield from (patched(data, b"stsz", 12, value) for value in (big, u32(0x7FFFFFFF), zero))  # bytes of a frame
    yield from (patched(data, b"stco", 8, value) for value in (big, zero, u32(len(data))))  # where they are
    yield from (patched(data, b"stco", 4, value) for value in (big, u32(1 << 24)))
    yield from (patched(data, b"stsc", 4, value) for value in (big, zero))
    yield from (patched(data, b"stsc", 12, value) for value in (big, zero, u32(2)))
    for kind in (b"moov", b"trak", b"stbl", b"mdat", b"ftyp", b"avcC"):
        yield from (patched(data, kind, -8, value) for value in (big, zero, u32(1), u32(8), u32(0x7FFFFFFF)))


def shuffled_times(data: bytes, rng: np.random.Generator) -> bytes:
    """Frames that are shown in no sensible order, some at the same time, some long before the first."""
    at = box(data, b"ctts") + 4
    (n,) = struct.unpack(">I", data[at : at + 4])
    spread = int(rng.choice([500, 100_000, 2**31 - 1]))
    changed = bytearray(data)
    for entry in range(n):
        value = int(rng.integers(-spread, spread))
        changed[at + 8 + 8 * entry : at + 12 + 8 * entry] = u32(value)
    return bytes(changed)


def audio_only(path: Path, rng: np.random.Generator) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = rng.normal(size=(1, 8000)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(sound, format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = 8000, Fraction(1, 8000), 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def no_frames(path: Path, rng: np.random.Generator) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        container.mux(stream.encode(None))


def png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return u32(len(data)) + kind + data + u32(zlib.crc32(kind + data))

    rows = b"".join(b"\x00" + bytes(48) for _ in range(16))
    header = struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def mislabelled(number: int, rng: np.random.Generator) -> bytes:
    contents = [
        png(),
        b"Dear diary, nothing happened today.\n" * 40,
        b"PK\x03\x04" + rng.bytes(3000),
        b"%PDF-1.7\n" + rng.bytes(3000),
        b"<!doctype html><title>404</title>",
        rng.bytes(5000),
        bytes(1 << 20),
        b'{"videos": []}',
        b"\x1a\x45\xdf\xa3" + rng.bytes(3000),
        b"RIFF" + u32(3000) + b"AVI " + rng.bytes(3000),
        b"\x00\x00\x00\x18ftypmp42" + rng.bytes(3000),
        b"#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n",
        b"\x47" + rng.bytes(187 * 30),
        b"ffconcat version 1.0\nfile '/etc/hostname'\n",
    ]
    return contents[number % len(contents)]


def make(folder: Path, n: int, seed: int = 0) -> list[tuple[str, Path]]:
    """Some of each kind, `n` in all: the kind and the path of each."""
    folder.mkdir(parents=True)
    mp4 = [whole(folder, seed=i) for i in range(3)]
    headers = list(absurd_headers(mp4[0]))
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(headers))

    def write(path: Path, data: bytes) -> None:
        path.write_bytes(data)

    def link(path: Path, i: int) -> None:
        path.symlink_to(path if i % 2 else "nowhere.mp4")

    def unreadable(path: Path, i: int) -> None:
        path.write_bytes(mp4[0])
        path.chmod(0)

    kinds: dict[str, Callable[[Path, int], object]] = {
        "flipped": lambda path, i: write(path, flipped(mp4[i % 3], rng)),
        "truncated": lambda path, i: write(path, truncated(mp4[i % 3], rng)),
        "header": lambda path, i: write(path, headers[order[i % len(headers)]]),
        "mislabelled": lambda path, i: write(path, mislabelled(i, rng)),
        "timestamps": lambda path, i: write(path, shuffled_times(mp4[i % 3], rng)),
        "audio": lambda path, i: audio_only(path, rng),
        "no frames": lambda path, i: no_frames(path, rng),
        "empty": lambda path, i: write(path, b""),
        "folder": lambda path, i: path.mkdir(),
        "link": link,
        "pipe": lambda path, i: os.mkfifo(path),
        "unreadable": unreadable,
    }
    # In 40: 10 flipped, 6 cut short, 9 absurd in the header, 4 mislabelled, 2 out of order, and 9 of the others.
    pattern = ["flipped", "header", "truncated", "mislabelled", "flipped", "header", "timestamps", "flipped"]
    pattern += ["audio", "header", "truncated", "flipped", "no frames", "header", "empty", "mislabelled"]
    pattern += ["flipped", "folder", "header", "truncated", "link", "flipped", "pipe", "header", "unreadable"]
    pattern += ["truncated", "flipped", "mislabelled", "header", "flipped", "truncated", "link", "header"]
    pattern += ["timestamps", "flipped", "truncated", "mislabelled", "header", "audio", "flipped"]
    made, counts = [], dict.fromkeys(kinds, 0)
    for number in range(n):
        kind = pattern[number % len(pattern)]
        path = folder / f"{number:03d}-{kind.replace(' ', '-')}.mp4"
        kinds[kind](path, counts[kind])
        counts[kind] += 1
        made.append((kind, path))
    return made
