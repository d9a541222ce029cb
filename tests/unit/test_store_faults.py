"""A store under kill -9, a full disk, several writers at once, and a writer that hangs."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import store_worker
from equality import same_bits
from store_worker import HEADS, KEYS, MADE, make

from headprobe.errors import HeadprobeWarning, StoreError
from headprobe.store import Store, verify
from headprobe.store import _io as lock_module
from headprobe.store._io import exclusive

RUNS = 50


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    """All that needs processes, in one program that forks its children: torch is imported once."""
    folder = tmp_path_factory.mktemp("faults")
    command = [sys.executable, store_worker.__file__, str(folder), str(RUNS), "0.05", "1"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def intact(seen):
    return seen["once"] and seen["values"] and seen["problems"] == []


def test_fifty_kills_lose_nothing_and_write_nothing_twice(faults):
    seen = faults["killed"]
    assert seen["kills"] == RUNS
    assert intact(seen), seen
    assert seen["examples"] > 20  # they did get somewhere,
    assert seen["with_part"] > 2  # and were killed while they wrote a shard,
    assert seen["manifest_behind"] > 2  # and between a shard and the manifest
    assert seen["parts_left"] == 0


def test_kills_while_packing(faults):
    seen = faults["packing"]
    assert seen["kills"] == RUNS // 2
    assert intact(seen), seen
    assert seen["packs"] > 2


def test_several_processes_append_the_same_keys_at_once(faults):
    seen = faults["together"]
    assert seen["ends"] == [0, 0]
    assert seen["examples"] == 60
    assert intact(seen), seen


def test_a_limit_on_file_sizes(faults):
    seen = faults["limited"]
    assert "the file would be larger than this process or file system allows: 41024 bytes are needed" in seen["text"]
    assert "These 256 rows were not stored; the 3 examples that were are intact." in seen["text"]
    assert intact(seen["after"])
    assert seen["after"]["examples"] == 3
    assert seen["names"] == []
    assert intact(seen)
    assert seen["examples"] == 400


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 200 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small disk needs root; the limit on file sizes and the faked errors are tested")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)  # maps of the store may still be there


@pytest.mark.filterwarnings("default:shard-.* is stored, but the index:headprobe.errors.HeadprobeWarning")
def test_a_full_disk(tiny_disk):
    store = Store.create(tiny_disk / "z", MADE, HEADS)
    done = 0
    error = ""
    while not error:
        try:
            store.append(make(KEYS[done : done + 50]))
            done += 50
        except StoreError as full:
            error = str(full)
    assert 200 <= done < 1500
    assert "the disk is full: " in error
    assert " bytes are needed, " in error
    assert f"These 50 rows were not stored; the {done} examples that were are intact." in error
    assert list(tiny_disk.glob("z/.*.part")) == []
    again = Store.open(tiny_disk / "z")
    assert len(again) == done
    assert verify(tiny_disk / "z").ok
    with pytest.raises(StoreError, match="the disk is full"):
        again.pack()
    assert same_bits(again.activations().values, make(KEYS[:done]).values, of="the arrays that were stored")
    subprocess.run(["mount", "-o", "remount,size=2m", str(tiny_disk)], check=True)
    again.append(make(again.missing(KEYS[: done + 50])))
    assert store_worker.checked(tiny_disk / "z", KEYS[: done + 50])["once"]


@pytest.fixture
def store(tmp_path):
    store = Store.create(tmp_path / "z", MADE, HEADS)
    store.append(make(KEYS[:2]))
    return store


@pytest.mark.parametrize("step", ["write_file", "os.fsync", "os.replace", "mark"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_an_error_at_any_step_leaves_the_store_as_it_was(store, monkeypatch, step, number):
    def refuse(*_arguments):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(f"headprobe.store._manifest.{step}", refuse)
        with pytest.raises(StoreError) as caught:
            store.append(make(KEYS[2:5]))
    told = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota is used up", errno.EIO: "Input/output error"}
    assert told[number] in str(caught.value)
    assert "These 3 rows were not stored; the 2 examples that were are intact." in str(caught.value)
    assert sorted(path.name[:5] for path in store.folder.iterdir()) == [".lock", "manif", "shard"]
    store.append(make(store.missing(KEYS[:5])))
    assert store_worker.checked(store.folder, KEYS[:5]) == {
        "examples": 5,
        "shards": 2,
        "once": True,
        "values": True,
        "problems": [],
    }


def test_a_manifest_that_cannot_be_written_costs_nothing(store, monkeypatch):
    def refuse(*_arguments):
        raise StoreError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("headprobe.store._manifest.write_manifest", refuse)
        with pytest.warns(HeadprobeWarning, match=r"shard-000002.* is stored, but the index .* the disk is full"):
            store.append(make(KEYS[2:4]))
    assert Store.open(store.folder).missing(KEYS[:5]) == [KEYS[4]]
    assert verify(store.folder).notes == ["1 files are not in manifest.json yet, which is in order."]


def test_a_folder_that_cannot_be_synced_is_told(store, monkeypatch):
    def refuse(_folder):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("headprobe.store._manifest.sync_folder", refuse)
        with pytest.raises(StoreError, match=r"shard-000002-\w+\.safetensors is stored, but may not outlast"):
            store.append(make(KEYS[2:4]))
    assert store.missing(KEYS[:4]) == KEYS[2:4]
    store.refresh()
    assert store.missing(KEYS[:4]) == []


def test_a_store_that_cannot_be_made(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StoreError, match="taken: there is a file of this name; a store is a folder"):
        Store.create(tmp_path / "taken", MADE, HEADS)


def test_a_dead_process_does_not_keep_the_lock(store):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        with exclusive(store.folder):
            os.write(writer, b".")
            time.sleep(60)
        os._exit(0)
    os.read(reader, 1)
    try:
        changing = r"another process has been changing this store for 0\.05 seconds"
        with pytest.raises(StoreError, match=changing), exclusive(store.folder, 0.05):
            pytest.fail("two processes held the lock")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)
    start = time.monotonic()
    store.append(make(KEYS[2:4]))
    assert time.monotonic() - start < 5


def test_threads_take_turns(store):
    def work(number):
        other = store if number % 2 else Store.open(store.folder)
        for begin in range(10 + 20 * number, 30 + 20 * number, 4):
            other.append(make(KEYS[begin : begin + 4]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = store_worker.checked(store.folder, KEYS[:2] + KEYS[10:90])
    assert found["once"]
    assert found["values"]
    assert found["problems"] == []


def test_unfinished_files_of_the_living_stay(store):
    dead, living = (store.folder / f".{digit * 16}.part" for digit in "ab")
    dead.write_bytes(b"half a shard")
    descriptor = os.open(living, os.O_CREAT | os.O_WRONLY)
    lock_module.mark(descriptor)
    try:
        Store.open(store.folder).append(make(KEYS[2:4]))
        assert not dead.exists()
        assert living.exists()
    finally:
        os.close(descriptor)
    Store.open(store.folder).append(make(KEYS[4:6]))
    assert not living.exists()


def test_a_store_on_a_read_only_medium_is_read(store, monkeypatch):
    def refuse(*_arguments, **_options):
        raise OSError(errno.EROFS, "Read-only file system")

    for name in ("headprobe._files.os.fsync", "headprobe._files.os.replace"):
        monkeypatch.setattr(name, refuse)
    opened = Store.open(store.folder)
    assert same_bits(opened.activations().values, make(KEYS[:2]).values, of="the arrays that were stored")
    assert verify(store.folder).ok
    with pytest.raises(StoreError, match="Read-only file system"):
        opened.append(make(KEYS[2:3]))


def test_a_file_that_shrinks_or_goes_is_told(store):
    opened = Store.open(store.folder)
    assert opened.examples["id"].tolist() == KEYS[:2]
    (path,) = store.folder.glob("shard-*")
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(StoreError, match=r"has .* now; open the store again"):
        opened.head("L0H0")
    with pytest.raises(StoreError, match=r"manifest\.json says that the file has"):
        Store.open(store.folder)
    path.unlink()
    with pytest.raises(StoreError, match=r"is gone, and with it 2 examples.*headprobe store repair"):
        Store.open(store.folder)
    with pytest.raises(StoreError, match="is gone, and with it 2 examples"):
        opened.append(make(KEYS[2:3]))
