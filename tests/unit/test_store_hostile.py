"""A store from a stranger: whatever its files say, an error or the right values, and nothing outside its folder."""

from __future__ import annotations

import copy
import json
import os
import resource
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_worker import HEADS, KEYS, MADE, make

from headprobe.errors import InputError, StoreError
from headprobe.store import Store, repair, verify
from headprobe.store._columns import Columns

# What is opened while WATCHED is a list; a hook cannot be taken off again.
WATCHED: list[str] | None = None


def _hook(event, arguments):
    if event in ("open", "os.listdir", "os.rename", "os.remove") and WATCHED is not None:
        WATCHED.extend(os.fspath(path) for path in arguments[:2] if isinstance(path, (str, bytes, Path)) and path)


sys.addaudithook(_hook)


@contextmanager
def watched(folder):
    """Nothing outside the folder is opened, and no memory is asked for beyond what small files need."""
    global WATCHED
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else 0
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + (256 << 20)
    WATCHED = seen = []
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        WATCHED = None
    modes = {"r", "rb", "w", "wb", "rt"}
    outside = [path for path in seen if path not in modes and not str(path).startswith(f"{folder}")]
    assert [path for path in outside if not str(path).endswith((".py", ".pyc", ".so"))] == []


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    """The files of a good store: two shards, a pack of them with the shards kept, and a shard after it."""
    folder = tmp_path_factory.mktemp("good")
    store = Store.create(folder, MADE, HEADS)
    store.append(make(KEYS[:3]))
    store.append(make(KEYS[3:5]))
    store.pack()
    store.append(make(KEYS[5:9]))
    Store.open(folder).activations()
    verify(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".json", ".safetensors")}


def build(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def use(folder: Path) -> None:
    """Do with a store what a user does: right values or a StoreError, and a repair that makes a store in order."""
    with watched(folder):
        with suppress(StoreError):
            read(Store.open(folder))
        try:
            found = verify(folder)
            assert not found.ok or len(Store.open(folder)) == found.n_examples
            repair(folder)
        except StoreError:
            return
        after = verify(folder)
        assert after.ok, after.problems
        store = Store.open(folder)
        assert len(store) == after.n_examples
        if len(store):
            read(store)


def read(store: Store) -> None:
    try:
        acts = store.activations()
    except InputError as error:
        # A header may give rows other names and prompts, as long as it is one header that says so.
        if "holds no examples yet" not in str(error) and "lack a prompt" not in str(error):
            raise
        return
    assert acts.values.numel() <= sum(entry.n_bytes for entry in store.files)
    assert acts.values.shape[:3] == (len(store.prompts), len(acts.examples), len(store.headset))
    store.keys()
    store.head(store.headset[-1])


VALUES = st.one_of(
    st.sampled_from(
        [
            "../../etc/passwd",
            "/etc/passwd",
            "shard-000001-0000000000000000.safetensors",
            "../shard-000001-0000000000000000.safetensors",
            "shard-000001-0000000000000000.safetensors/../../x",
            "L0H0",
            "L99999999999999999999H1",
            "float64",
            "F64",
            "\ud800",
            "",
            "p1",
            "v00001",
            0,
            1,
            -1,
            2**31,
            2**63,
            10**12,
            10**40,
            1e308,
            0.5,
            True,
            None,
            [],
            {},
            [[8, 10**9]],
            [0, 10**15],
            [10**6, 10**6, 10**6],
        ]
    ),
    st.integers(),
    st.text(max_size=5),
    st.lists(st.integers(0, 9), max_size=3),
)


def places(data, path=()):
    """All places in a JSON value."""
    yield path
    for key in data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ():
        yield from places(data[key], (*path, key))


def spoil(draw, data):
    """Change, drop or repeat something anywhere in a JSON value."""
    data = copy.deepcopy(data)
    *above, last = draw(st.sampled_from([path for path in places(data) if path]))
    holder = data
    for key in above:
        holder = holder[key]
    kind = draw(st.sampled_from(["change", "drop", "repeat", "move"]))
    if kind == "drop":
        del holder[last]
    elif kind == "repeat" and isinstance(holder, list):
        holder.append(copy.deepcopy(holder[last]))
    elif kind == "move" and isinstance(holder, dict):
        holder[draw(st.text(max_size=4))] = holder.pop(last)
    else:
        holder[last] = draw(VALUES)
    return data


def header_of(data: bytes) -> tuple[dict, bytes]:
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    for name in ("record", "rows"):
        header["__metadata__"][name] = json.loads(header["__metadata__"][name])
    return header, data[8 + length :]


def with_header(header: dict, rest: bytes, size: int) -> bytes:
    """The file, of the old size if the new header is not longer than the old one."""
    header = copy.deepcopy(header)
    metadata = header.get("__metadata__")
    if isinstance(metadata, dict):
        for name in ("record", "rows"):
            if name in metadata:
                metadata[name] = json.dumps(metadata[name])
    text = json.dumps(header).encode().ljust(size - 8 - len(rest))
    return len(text).to_bytes(8, "little") + text + rest


FUZZ = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(data=st.data())
def test_a_manifest_that_says_anything(files, tmp_path_factory, data):
    manifest = json.loads(files["manifest.json"])
    for _ in range(data.draw(st.integers(1, 2))):
        manifest = spoil(data.draw, manifest)
    use(build(tmp_path_factory.mktemp("hostile") / "z", {**files, "manifest.json": json.dumps(manifest).encode()}))


@FUZZ
@given(data=st.data())
def test_a_shard_that_says_anything(files, tmp_path_factory, data):
    name = data.draw(st.sampled_from([name for name in sorted(files) if name != "manifest.json"]))
    header, rest = header_of(files[name])
    for _ in range(data.draw(st.integers(1, 2))):
        header = spoil(data.draw, header)
    changed = {**files, name: with_header(header, rest, len(files[name]))}
    if data.draw(st.booleans()):  # the shards alone, so that their headers are believed
        manifest = json.loads(files["manifest.json"])
        changed["manifest.json"] = json.dumps({**manifest, "shards": []}).encode()
    use(build(tmp_path_factory.mktemp("hostile") / "z", changed))


@FUZZ
@given(data=st.data())
def test_files_with_other_bytes(files, tmp_path_factory, data):
    name = data.draw(st.sampled_from(sorted(files)))
    old = files[name]
    kind = data.draw(st.sampled_from(["cut", "grow", "flip", "length", "empty", "swap"]))
    at = data.draw(st.integers(0, len(old) - 1))
    new = {
        "cut": old[:at],
        "grow": old + bytes(at % 99 + 1),
        "flip": old[:at] + bytes([old[at] ^ (1 << data.draw(st.integers(0, 7)))]) + old[at + 1 :],
        "length": data.draw(st.sampled_from([0, 1, 2**31, 2**40, 2**63, 2**64 - 1])).to_bytes(8, "little") + old[8:],
        "empty": b"",
        "swap": files[data.draw(st.sampled_from(sorted(files)))],
    }[kind]
    use(build(tmp_path_factory.mktemp("hostile") / "z", {**files, name: new}))


@settings(FUZZ, max_examples=60)
@given(data=st.data())
def test_every_flipped_bit_is_found(files, tmp_path_factory, data):
    name = data.draw(st.sampled_from([name for name in sorted(files) if name != "manifest.json"]))
    at, bit = data.draw(st.integers(0, len(files[name]) - 1)), data.draw(st.integers(0, 7))
    new = bytearray(files[name])
    new[at] ^= 1 << bit
    folder = build(tmp_path_factory.mktemp("flip") / "z", {**files, name: bytes(new)})
    report = verify(folder)
    assert not report.ok
    assert name in report.problems[0]


@pytest.mark.parametrize(
    "name",
    ["../outside.safetensors", "/etc/passwd", "sub/shard-000001-0123456789abcdef.safetensors", "shard.safetensors"],
)
def test_names_with_a_path_are_refused(files, tmp_path, name):
    manifest = json.loads(files["manifest.json"])
    manifest["shards"][0]["name"] = name
    folder = build(tmp_path / "z", {**files, "manifest.json": json.dumps(manifest).encode()})
    with watched(folder), pytest.raises(StoreError, match="is no name of a shard"):
        Store.open(folder)


def test_links_are_not_followed(files, tmp_path):
    folder = build(tmp_path / "z", files)
    shard = next(folder.glob("pack-*"))
    outside = tmp_path / "outside.safetensors"
    shard.rename(outside)
    shard.symlink_to(outside)
    with watched(folder), pytest.raises(StoreError, match="no regular file"):
        Store.open(folder)
    (folder / "manifest.json").write_bytes(json.dumps({**json.loads(files["manifest.json"]), "shards": []}).encode())
    with pytest.raises(StoreError, match="it is a link, and links are not followed"):
        Store.open(folder)
    target = tmp_path / "manifest.json"
    (folder / "manifest.json").rename(target)
    (folder / "manifest.json").symlink_to(target)
    with pytest.raises(StoreError, match=r"manifest\.json: .* it is a link"):
        Store.open(folder)


def test_a_lock_that_is_a_link_is_refused(files, tmp_path):
    folder = build(tmp_path / "z", files)
    (folder / ".lock").symlink_to(tmp_path / "made")
    with pytest.raises(StoreError, match="cannot be changed here"):
        Store.open(folder).append(make(KEYS[20:21]))
    assert not (tmp_path / "made").exists()


def test_pipes_and_folders_do_not_hang(files, tmp_path):
    folder = build(tmp_path / "z", files)
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")
    with pytest.raises(StoreError, match="not a regular file"):
        Store.open(folder)
    other = build(tmp_path / "y", files)
    os.mkfifo(other / "shard-000009-0123456789abcdef.safetensors")
    with pytest.raises(StoreError, match="not a regular file"):
        Store.open(other)
    (other / "shard-000009-0123456789abcdef.safetensors").unlink()
    (other / "shard-000009-0123456789abcdef.safetensors").mkdir()
    with pytest.raises(StoreError, match="not a regular file"):
        Store.open(other)


def test_sizes_that_nothing_has(files, tmp_path):
    """Files with a terabyte of holes: nothing of that size is read or asked for."""
    folder = build(tmp_path / "z", files)
    sparse = folder / "shard-000009-0123456789abcdef.safetensors"
    sparse.write_bytes((2**39).to_bytes(8, "little"))
    os.truncate(sparse, 2**40)
    with watched(folder), pytest.raises(StoreError, match="does not fit a file of 1099511627776"):
        Store.open(folder)
    sparse.unlink()
    os.truncate(folder / "manifest.json", 2**40)
    with watched(folder), pytest.raises(StoreError, match=r"has 1099511627776 bytes; at most"):
        Store.open(folder)


@pytest.mark.parametrize("text", [b"[" * 200_000, b'{"format": ' * 200_000, b"9" * 100_000, b"NaN", b"\xff\xfe{}"])
def test_json_that_breaks_parsers(files, tmp_path, text):
    folder = build(tmp_path / "z", {**files, "manifest.json": text})
    with pytest.raises(StoreError, match="no readable JSON"):
        Store.open(folder)


def test_names_that_occur_twice_in_json(files, tmp_path):
    text = files["manifest.json"].replace(b'"shards"', b'"shards": [], "shards"')
    with pytest.raises(StoreError, match="a name occurs twice"):
        Store.open(build(tmp_path / "z", {**files, "manifest.json": text}))


def test_two_files_with_the_same_keys(files, tmp_path):
    shard = sorted(name for name in files if name.startswith("shard"))[-1]
    twin = "shard-000009-0123456789abcdef.safetensors"
    folder = build(tmp_path / "z", {**files, twin: files[shard]})
    with pytest.raises(StoreError, match=f"is both in {twin} and in .*headprobe store repair"):
        Store.open(folder)
    assert repair(folder).actions[0] == f"{twin} is set aside as {twin}.duplicate."
    assert sorted(Store.open(folder).keys()) == [(key, prompt) for key in KEYS[:9] for prompt in MADE.prompts]


@pytest.mark.parametrize("change", [-1, 1, -300])
def test_a_shard_that_is_cut_or_longer_than_it_says(files, tmp_path, change):
    """Found by the header alone, without a manifest that knows the size."""
    manifest = {**json.loads(files["manifest.json"]), "shards": []}
    folder = build(tmp_path / "z", {**files, "manifest.json": json.dumps(manifest).encode()})
    path = next(folder.glob("pack-*"))
    os.truncate(path, path.stat().st_size + change)
    with watched(folder), pytest.raises(StoreError, match=r"bytes, but what it says it holds takes \d+"):
        Store.open(folder)


@pytest.mark.parametrize(
    "column",
    [
        {"dtype": "Int64", "values": [1, "2"]},
        {"dtype": "Int64", "values": [1, 2**63]},
        {"dtype": "Int64", "values": [1, True]},
        {"dtype": "int64", "values": [1, None]},
        {"dtype": "Int64", "values": [1]},
        {"dtype": "Float64", "values": [0.5, "1"]},
        {"dtype": "boolean", "values": [True, 1]},
        {"dtype": "string", "values": ["a", 1]},
        {"dtype": "string", "values": ["a", "\ud800"]},
        {"dtype": "string", "levels": ["a"], "codes": [0, 1]},
        {"dtype": "string", "levels": ["a"], "codes": [0, -1]},
        {"dtype": "string", "levels": ["a"], "codes": [0, True]},
        {"dtype": "string", "levels": ["a"], "codes": [0, 0], "values": ["a", "a"]},
        {"dtype": "object", "values": ["a", "b"]},
        {"dtype": ["string"], "values": ["a", "b"]},
        {"values": ["a", "b"]},
        ["a", "b"],
    ],
)
def test_columns_with_values_of_other_types(column):
    with pytest.raises(StoreError, match="the column 'x' does not hold 2 values of a known type"):
        Columns.from_json({"x": column}, 2, "here")


@pytest.mark.parametrize("what", ["examples", "prompts", "itself in a circle"])
def test_a_pack_that_hides_what_it_does_not_hold(files, tmp_path, what):
    manifest = json.loads(files["manifest.json"])
    shard, other, last, pack = sorted(manifest["shards"], key=lambda entry: (entry["name"][0] == "p", entry["name"]))
    assert pack["replaces"] == [shard["name"], other["name"]]
    if what == "examples":
        pack["replaces"].append(last["name"])
    elif what == "prompts":
        pack["prompts"] = ["p1"]
    else:
        last["replaces"], pack["replaces"] = [pack["name"]], [*pack["replaces"], last["name"]]
    folder = build(tmp_path / "z", {**files, "manifest.json": json.dumps(manifest).encode()})
    with pytest.raises(StoreError, match="is said to be replaced, but no file holds all its rows"):
        Store.open(folder)


def test_a_manifest_that_lies_about_a_shard_is_found_when_it_is_read(files, tmp_path):
    manifest = json.loads(files["manifest.json"])
    entry = max(manifest["shards"], key=lambda entry: (entry["name"][0] == "s", entry["name"]))
    entry["examples"][0] = "another"
    folder = build(tmp_path / "z", {**files, "manifest.json": json.dumps(manifest).encode()})
    store = Store.open(folder)
    with pytest.raises(StoreError, match=r"the file is not what manifest\.json says of it"):
        store.head("L0H0")
    assert not verify(folder).ok
