"""Looking a store over, repairing, packing and exporting it, from Python and from the command line."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from equality import same_bits
from store_worker import HEADS, KEYS, MADE, make
from typer.testing import CliRunner

from headprobe.activations import HeadActivations
from headprobe.cli.app import app
from headprobe.errors import InputError, StoreError
from headprobe.heads import HeadSet
from headprobe.provenance import Provenance
from headprobe.store import Store, export, repair, verify
from headprobe.store import _manifest as manifest
from headprobe.store import check as pack_module

run = CliRunner().invoke


@pytest.fixture
def store(tmp_path):
    """Nine examples in three shards."""
    store = Store.create(tmp_path / "z", MADE, HEADS)
    store.append(make(KEYS[:9]), shard_examples=3)
    return store


def shards(store):
    return sorted(store.folder.glob("shard-*.safetensors"))


def right(folder, n=9):
    store = Store.open(folder)
    ids = store.examples["id"].tolist()
    assert sorted(ids) == KEYS[:n]
    assert same_bits(store.activations().values, make(ids).values, of="the arrays that were stored")
    report = verify(folder)
    assert report.ok, report.problems
    assert report.n_examples == n
    return store


# Verify and repair


def test_a_good_store_is_in_order(store):
    report = verify(store.folder)
    assert (report.problems, report.notes) == ([], [])
    assert (report.n_files, report.n_examples) == (3, 9)
    assert report.n_bytes == sum(path.stat().st_size for path in shards(store))


@pytest.mark.parametrize("what", ["lost", "garbage", "of another format", "empty"])
def test_the_manifest_is_rebuilt_from_the_shards(store, what):
    manifest = store.folder / "manifest.json"
    before = json.loads(manifest.read_text())
    store.write_index()
    if what == "lost":
        manifest.unlink()
    else:
        manifest.write_text(
            {"garbage": "{x", "empty": "", "of another format": '{"format": "headprobe.store/9"}'}[what]
        )
    with pytest.raises(StoreError, match=r"format is 'headprobe\.store/9'|no readable JSON|headprobe store repair"):
        Store.open(store.folder)
    assert not verify(store.folder).ok
    report = repair(store.folder)
    assert report.actions[-1] == "manifest.json is rebuilt from 3 files."
    assert (store.folder / "manifest.json.damaged").exists() == (what != "lost")
    after = json.loads(manifest.read_text())
    assert after["record"] == before["record"]
    assert [entry["name"] for entry in after["shards"]] == [path.name for path in shards(store)]
    right(store.folder)


def test_a_damaged_shard_is_set_aside_and_its_examples_are_missing(store):
    first, second, third = shards(store)
    second.write_bytes(second.read_bytes()[:-1])
    data = bytearray(third.read_bytes())
    data[-1] ^= 1
    third.write_bytes(data)
    quick = verify(store.folder, digests=False)
    assert [second.name in problem for problem in quick.problems] == [True]
    report = verify(store.folder)
    assert len(report.problems) == 2
    assert f"{third}: the file is not as it was written: its digest differs." in report.problems
    done = repair(store.folder)
    assert f"{second.name} is set aside as {second.name}.damaged." in done.actions
    again = Store.open(store.folder)
    assert again.missing(KEYS[:9]) == KEYS[3:9]
    again.append(make(again.missing(KEYS[:9])))
    right(store.folder)
    assert first.exists()


def test_a_shard_that_is_gone(store):
    shards(store)[1].unlink()
    report = verify(store.folder)
    assert report.problems == [f"{shards(store)[0].parent / store.files[1].name}: the file is gone, with 3 examples."]
    repair(store.folder)
    again = Store.open(store.folder)
    assert again.missing(KEYS[:9]) == KEYS[3:6]


def test_a_shard_of_another_store(store, tmp_path):
    other = Store.create(tmp_path / "other", MADE, HEADS, dtype="bfloat16")
    (name,) = other.append(make(KEYS[20:22]))
    (other.folder / name).rename(store.folder / name)
    with pytest.raises(StoreError, match="the shard is of another store: other heads or another number type"):
        Store.open(store.folder)
    assert f"{name} is set aside as {name}.foreign." in repair(store.folder).actions
    right(store.folder)
    (store.folder / f"{name}.foreign").rename(store.folder / name)
    (store.folder / "manifest.json").unlink()
    with pytest.raises(StoreError, match="the shards are of different stores"):
        repair(store.folder)


def test_stores_made_in_the_same_way_can_be_merged_by_copying(store, tmp_path):
    other = Store.create(tmp_path / "other", MADE, HEADS)
    other.append(make(KEYS[9:12]))
    for path in shards(other):
        (store.folder / path.name).write_bytes(path.read_bytes())
    right(store.folder, 12)


def test_parts_of_killed_processes_are_noted_and_deleted(store):
    part = store.folder / ".0123456789abcdef.part"
    part.write_bytes(b"x")
    assert verify(store.folder).notes == ["1 unfinished files of running or killed processes."]
    assert f"{part.name}, left by a killed process, is deleted." in repair(store.folder).actions
    assert not part.exists()


def test_nothing_to_repair_from(tmp_path):
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(StoreError, match="nothing to rebuild from"):
        repair(tmp_path)
    with pytest.raises(StoreError, match="no such folder"):
        verify(tmp_path / "nowhere")


def test_a_lost_manifest_is_told_before_anything_is_made(store):
    (store.folder / "manifest.json").unlink()
    for attempt in (Store.create, Store.resume):
        with pytest.raises(StoreError, match=r"there are shards, but no manifest\.json"):
            attempt(store.folder, MADE, HEADS)


# Pack


@pytest.mark.parametrize("remove", [False, True])
def test_a_pack_holds_all_and_is_used(store, remove):
    (name,) = store.pack(remove_shards=remove)
    assert name.startswith("pack-000001-")
    assert [entry.name for entry in store.files] == [name]
    assert len(shards(store)) == (0 if remove else 3)
    assert store.keys() == [(key, prompt) for key in KEYS[:9] for prompt in MADE.prompts]
    assert right(store.folder).files[0].name == name
    store.append(make(KEYS[9:11]))
    right(store.folder, 11)
    assert store.pack(remove_shards=remove) != ()
    assert len(list(store.folder.glob("pack-*"))) == 1
    assert store.pack() == ()
    right(store.folder, 11)


def test_a_pack_that_is_lost_or_damaged_gives_way_to_its_shards(store):
    (name,) = store.pack()
    (store.folder / name).write_bytes((store.folder / name).read_bytes()[:-1])
    assert not verify(store.folder).ok
    repair(store.folder)
    assert [entry.name for entry in right(store.folder).files] == [path.name for path in shards(store)]


def test_a_damaged_shard_is_not_packed(store):
    path = shards(store)[1]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match="its digest differs"):
        store.pack()
    assert list(store.folder.glob("pack-*")) == []


def test_two_processes_that_pack_do_not_both_win(store, monkeypatch):
    other, real = Store.open(store.folder), pack_module._blocks

    def late(*arguments):
        monkeypatch.setattr(pack_module, "_blocks", real)
        other.pack()
        return real(*arguments)

    monkeypatch.setattr(pack_module, "_blocks", late)
    with pytest.raises(StoreError, match="was packed by another process meanwhile"):
        store.pack()
    assert len(list(store.folder.glob("pack-*"))) == 1
    right(store.folder)


def test_a_reader_goes_on_while_the_shards_go(store):
    reader = Store.open(store.folder)
    before = reader.activations().values
    store.pack(remove_shards=True)
    assert same_bits(reader.activations().values, before, of="the arrays that were stored")
    reader.refresh()
    assert [entry.name[:4] for entry in reader.files] == ["pack"]
    assert same_bits(reader.activations().values, before, of="the arrays that were stored")


def test_shards_that_go_while_a_store_is_opened(store, monkeypatch):
    names = [path.name for path in shards(store)]
    store.pack(remove_shards=True)
    real, before = manifest.listing, [names]
    monkeypatch.setattr(manifest, "listing", lambda folder: before.pop() if before else real(folder))
    assert [entry.name[:4] for entry in right(store.folder).files] == ["pack"]
    assert before == []


def test_files_of_a_pack_have_a_largest_size(store):
    names = store.pack(examples_per_file=6)
    assert [entry.rows for entry in store.files] == [6, 3]
    assert len(names) == 1
    right(store.folder)
    with pytest.raises(InputError, match="examples_per_file is 0"):
        store.pack(examples_per_file=0)


def test_prompts_that_came_apart_are_packed_apart(tmp_path):
    store = Store.create(tmp_path / "z", MADE, HEADS)
    whole = make(KEYS[:4])
    for i, prompt in enumerate(MADE.prompts):
        for begin in (0, 2):
            acts = whole.subset(slice(begin, begin + 2))
            store.append(
                HeadActivations(acts.values[i : i + 1], HEADS, {prompt: MADE.prompts[prompt]}, acts.examples, MADE)
            )
    assert len(store.pack(remove_shards=True)) == 2
    right(tmp_path / "z", 4)


# Export


def test_export_as_numpy(store, tmp_path):
    files = export(store, tmp_path / "out", ["L1H0", "L0H1"], ["p2"], KEYS[2:5])
    assert [path.name for path in files] == ["z.npy", "examples.csv", "about.json"]
    values = np.load(tmp_path / "out" / "z.npy")
    assert values.dtype == np.float32
    assert same_bits(values, make(KEYS[2:5]).select(["L1H0", "L0H1"])[1:].numpy(), of="the arrays that were stored")
    about = json.loads((tmp_path / "out" / "about.json").read_text())
    assert about["files"] == {"z.npy": {"heads": ["L1H0", "L0H1"], "d_head": 8}}
    assert about["axes"] == ["prompt", "example", "head", "d_head"]
    assert about["prompts"] == {"p2": "b?"}
    assert about["fingerprint"] == MADE.fingerprint
    with (tmp_path / "out" / "examples.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["id"] for row in table] == KEYS[2:5]
    assert table[0]["label"] == "1"
    assert table[0]["group"] == ""
    with pytest.raises(InputError, match=r"z\.npy exists; name another folder"):
        export(store, tmp_path / "out")


def test_an_export_holds_no_formula(tmp_path):
    keys = ["=cmd|' /C calc'!A0", "+1", "-2+3", "@SUM(A1)", "'x", "plain=1"]
    store = Store.create(tmp_path / "z", MADE, HEADS)
    store.append(make(keys))
    export(store, tmp_path / "out")
    with (tmp_path / "out" / "examples.csv").open(newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == [*(f"'{key}" for key in keys[:5]), "plain=1"]


def test_export_in_blocks(store, tmp_path, monkeypatch):
    monkeypatch.setattr("headprobe.store.check._BLOCK_BYTES", 4 * 4 * 8 * 2)
    export(store, tmp_path / "out")
    assert same_bits(
        np.load(tmp_path / "out" / "z.npy"), make(KEYS[:9]).values.numpy(), of="the arrays that were stored"
    )


def test_export_of_heads_of_several_sizes(tmp_path):
    small, large = HEADS[::2], HEADS[1::2]
    acts = make(KEYS[:3])
    values = {small: acts.values[:, :, ::2, :2].clone(), large: acts.values[:, :, 1::2, :3].clone()}
    store = Store.create(tmp_path / "z", MADE, HEADS)
    store.append(HeadActivations(values, HEADS, MADE.prompts, acts.examples, MADE))
    names = [path.name for path in export(store, tmp_path / "out")]
    assert names == ["z_2.npy", "z_3.npy", "examples.csv", "about.json"]
    for heads, expected in values.items():
        assert same_bits(
            np.load(tmp_path / "out" / f"z_{expected.shape[-1]}.npy"),
            expected.numpy(),
            of="the arrays that were stored",
        )
        about = json.loads((tmp_path / "out" / "about.json").read_text())
        assert HeadSet(about["files"][f"z_{expected.shape[-1]}.npy"]["heads"]) == heads


# The command line


def test_info(store):
    shown = run(app, ["store", "info", str(store.folder)])
    assert shown.exit_code == 0
    for text in ("model        m\n", "heads        4, L0H0 to L1H1", "float16: to nearest", "files        3\n"):
        assert text in shown.output
    facts = json.loads(run(app, ["store", "info", str(store.folder), "--json"]).output)
    assert facts["examples"] == 9
    assert facts["labels"] == {"1": 9}
    assert facts["fingerprint"] == MADE.fingerprint
    assert facts["keys"] == 18


def test_info_on_an_empty_store(tmp_path):
    Store.create(tmp_path / "z", MADE, HEADS)
    facts = json.loads(run(app, ["store", "info", str(tmp_path / "z"), "--json"]).output)
    assert (facts["examples"], facts["rows"], facts["head size"]) == (0, 0, "unknown while the store is empty")


def test_info_says_all_that_the_fingerprint_is_made_of(tmp_path):
    made = Provenance(
        "m",
        revision="main",
        weights_hash="1a2b",
        dtype="bfloat16",
        attention="sdpa",
        adapter="qwen2_vl",
        processor="3c4d",
        prompts=MADE.prompts,
        positions="last()",
        frames=4,
        versions={"torch": "9.9"},
        edits=("zero L0H1",),
        sampling="segments of 8 frames",
    )
    Store.create(tmp_path / "z", made, HEADS)
    shown = run(app, ["store", "info", str(tmp_path / "z")]).output
    for name in ("revision", "weights_hash", "dtype", "attention", "adapter", "processor", "positions", "sampling"):
        assert f"  {getattr(made, name)}\n" in shown, name
    assert "versions     torch: 9.9\n" in shown
    assert "edits        zero L0H1\n" in shown
    facts = json.loads(run(app, ["store", "info", str(tmp_path / "z"), "--json"]).output)
    assert facts["versions"] == {"torch": "9.9"}


def test_verify_and_repair_commands(store):
    folder = str(store.folder)
    good = run(app, ["store", "verify", folder])
    assert (good.exit_code, good.output.splitlines()[-1][:21]) == (0, "3 files, 9 examples, ")
    shards(store)[0].write_bytes(b"")
    bad = run(app, ["store", "verify", folder, "--json", "--quick"])
    assert bad.exit_code == 1
    assert len(json.loads(bad.output)["problems"]) == 1
    done = run(app, ["store", "repair", folder])
    assert done.exit_code == 0
    assert "WRONG: " in done.output
    assert "done: manifest.json is rebuilt from 2 files.\n" in done.output
    assert run(app, ["store", "verify", folder]).exit_code == 0


def test_pack_and_export_commands(store, tmp_path):
    folder = str(store.folder)
    assert run(app, ["store", "pack", folder, "--remove-shards"]).output.startswith("pack-000001-")
    assert run(app, ["store", "pack", folder]).output == "There is nothing to join.\n"
    out = tmp_path / "out"
    shown = run(app, ["store", "export", folder, str(out), "--heads", "L0H0, L1H1", "--prompt", "p1"])
    assert shown.output.splitlines() == [str(out / name) for name in ("z.npy", "examples.csv", "about.json")]
    assert np.load(out / "z.npy").shape == (1, 9, 2, 8)


def test_errors_are_one_line(tmp_path):
    for command in ("info", "verify", "repair", "pack"):
        shown = run(app, ["store", command, str(tmp_path / "nowhere")])
        assert shown.exit_code == 2
        assert shown.output.startswith("headprobe: ")
        assert "no such folder" in shown.output
        assert len(shown.output.splitlines()) == 1
