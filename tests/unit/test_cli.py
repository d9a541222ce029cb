"""The command line as a user meets it: results, broken files, wrong arguments, Ctrl-C."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import typer
from rich.text import Text
from typer.testing import CliRunner

import headprobe
from headprobe.cli.app import app
from headprobe.demo._run import Size, run_demo
from headprobe.errors import InputError
from headprobe.headhunt import _detect as detect_module
from headprobe.headhunt.headhunt import HeadHunt
from headprobe.video.decode import write_video

run = CliRunner().invoke


@pytest.fixture(scope="module")
def detector(demo_run) -> str:
    return str(demo_run.folder / "detector")


@pytest.fixture
def good(tmp_path):
    rng = np.random.default_rng(0)
    return write_video(tmp_path / "good.mp4", rng.integers(0, 255, (37, 48, 64, 3), dtype=np.uint8), fps=12.5)


def parameters(command) -> list:
    """All options and arguments of a command and of the commands below it."""
    below = getattr(command, "commands", {}).values()
    return [*command.params, *(one for child in below for one in parameters(child))]


def test_no_help_text_loses_its_square_brackets() -> None:
    # Help texts are rich markup, in which "[one, two]" is a tag and is not shown.
    shown = parameters(typer.main.get_command(app))
    assert len(shown) > 50
    for one in shown:
        text = getattr(one, "help", None) or ""
        assert Text.from_markup(text).plain == text, one.name


def test_version_and_help() -> None:
    assert run(app, ["--version"]).output == f"headprobe {headprobe.__version__}\n"
    shown = run(app, ["--help"]).output
    assert "demo" in shown
    assert "detect" in shown


def test_python_dash_m_is_the_same_command_line() -> None:
    done = subprocess.run([sys.executable, "-m", "headprobe", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"headprobe {headprobe.__version__}\n"


def test_detect_writes_every_segment_once(detector, good, tmp_path) -> None:
    result = run(app, ["detect", str(good), "--detector", detector, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "1 of 1 video processed" in result.output
    record = json.loads((tmp_path / "out" / "events.json").read_text())
    video = record["videos"][str(good)]
    assert (video["fps"], video["n_frames"]) == (12.5, 37)
    spans = [(s["start_frame"], s["end_frame"]) for s in video["segments"]]
    # 20 frames last as long at 12.5 frames per second as the 16 of the calibration at 10.
    assert spans == [(0, 20), (20, 37)]
    assert all(0 <= s["score"] <= 1 for s in video["segments"])
    assert len({s["score"] for s in video["segments"]}) == 2
    assert [s["end_seconds"] for s in video["segments"]] == pytest.approx([20 / 12.5, 37 / 12.5])
    for event in video["events"]:
        assert event["end_seconds"] == pytest.approx(event["end_frame"] / 12.5)
    assert record["run"]["weights_hash"] == record["detector"]["calibration"]["weights_hash"]
    assert record["interrupted"] is False
    picture = (tmp_path / "out" / video["timeline"]).read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"


def test_broken_files_are_named_and_the_good_ones_still_done(detector, good, tmp_path) -> None:
    folder = good.parent
    whole = good.read_bytes()
    (folder / "truncated.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("this is no video\n" * 50)
    result = run(app, ["detect", str(folder), "--detector", detector, "--out", str(tmp_path / "out")])
    assert result.exit_code == 1, result.output
    for name in ("truncated", "empty", "text"):
        (line,) = [x for x in result.output.splitlines() if x.startswith("FAILED") and f"{name}.mp4" in x]
        assert len(line) > len(f"FAILED {folder}/{name}.mp4: ")
    assert "1 of 4 videos processed" in result.output
    assert "3 failed" in result.output
    record = json.loads((tmp_path / "out" / "events.json").read_text())
    assert set(record["videos"]) == {str(good)}
    assert {p.rsplit("/", 1)[1] for p in record["failed"]} == {"truncated.mp4", "empty.mp4", "text.mp4"}


def test_wrong_arguments_give_one_line_and_exit_code_2(detector, good, tmp_path) -> None:
    missing = run(app, ["detect", str(good), "--detector", str(tmp_path / "nowhere")])
    assert missing.exit_code == 2
    assert "no readable detector" in missing.output
    assert "Traceback" not in missing.output
    (tmp_path / "bare").mkdir()
    empty = run(app, ["detect", str(tmp_path / "bare"), "--detector", detector, "--out", str(tmp_path / "out")])
    assert empty.exit_code == 2
    assert "holds no video file" in empty.output
    other = run(app, ["detect", str(good), "--detector", detector, "--model", "tiny-untrained"])
    assert other.exit_code == 2
    assert "the detector was fitted on tiny" in other.output


def test_an_interrupted_run_keeps_what_it_has(detector, good, tmp_path, monkeypatch) -> None:
    write_video(good.parent / "later.mp4", np.zeros((20, 48, 64, 3), np.uint8), fps=10)
    real, calls = detect_module.detect_video, []

    def once(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(detect_module, "detect_video", once)
    result = run(app, ["detect", str(good.parent), "--detector", detector, "--out", str(tmp_path / "out")])
    assert result.exit_code == 130
    assert "interrupted" in result.output
    record = json.loads((tmp_path / "out" / "events.json").read_text())
    assert list(record["videos"]) == [str(good)]
    assert record["interrupted"] is True


def test_files_of_one_name_do_not_overwrite_each_other(detector, good, tmp_path) -> None:
    twin = tmp_path / "other" / "good.mp4"
    twin.parent.mkdir()
    twin.write_bytes(good.read_bytes())
    result = run(app, ["detect", str(good), str(twin), "--detector", detector, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0
    record = json.loads((tmp_path / "out" / "events.json").read_text())
    pictures = {v["timeline"] for v in record["videos"].values()}
    assert len(pictures) == 2
    assert all((tmp_path / "out" / p).exists() for p in pictures)


def test_an_unusable_output_folder_is_found_before_any_work(detector, good, tmp_path, monkeypatch) -> None:
    (tmp_path / "taken").write_text("a file")

    def never(*_args, **_kwargs):
        raise AssertionError("work was done before the output folder was tried")

    monkeypatch.setattr(detect_module, "detect_video", never)
    result = run(app, ["detect", str(good), "--detector", detector, "--out", str(tmp_path / "taken")])
    assert result.exit_code == 2
    assert "cannot write results into" in result.output


@pytest.mark.parametrize(
    "name", ["cost $\\bad{$ 5.mp4", "x" * 240 + ".mp4", "<script>.mp4", os.fsdecode(b"caf\xe9.mp4")]
)
def test_odd_file_names(detector, good, tmp_path, name) -> None:
    odd = tmp_path / "odd" / name
    odd.parent.mkdir()
    odd.write_bytes(good.read_bytes())
    result = run(app, ["detect", str(odd), str(good), "--detector", detector, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "out" / "events.json").read_text())
    assert len(record["videos"]) == 2
    assert all((tmp_path / "out" / v["timeline"]).exists() for v in record["videos"].values())


def test_variable_frame_rate_gives_true_seconds(detector, tmp_path) -> None:
    path = tmp_path / "vfr.mp4"
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "20"})
        stream.width, stream.height, stream.pix_fmt, stream.time_base = 64, 48, "yuv420p", Fraction(1, 30)
        stream.codec_context.time_base = Fraction(1, 30)
        for i in range(48):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8), format="rgb24")
            frame.pts, frame.time_base = (i if i < 32 else 32 + (i - 32) * 15), Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    result = run(app, ["detect", str(path), "--detector", detector, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    (video,) = json.loads((tmp_path / "out" / "events.json").read_text())["videos"].values()
    assert video["constant_rate"] is False
    true = np.array([i if i < 32 else 32 + (i - 32) * 15 for i in range(48)]) / 30
    starts = [s["start_frame"] for s in video["segments"]]
    assert starts == list(range(0, 48, video["segment_frames"]))
    assert [s["start_seconds"] for s in video["segments"]] == pytest.approx(true[starts], abs=1e-3)


def test_the_demo_command_prints_its_table(tmp_path, monkeypatch, demo_run) -> None:
    asked = {}

    def instead(out, *, seed, size, **more):
        asked.update(out=str(out), seed=seed, draws=size.n_draws)
        assert more == {"device": "auto", "batch_size": "auto"}
        return demo_run

    monkeypatch.setattr("headprobe.demo._run.run_demo", instead)
    result = run(app, ["demo", "--out", str(tmp_path / "d"), "--seed", "4", "--quick"])
    assert result.exit_code == 0, result.output
    assert asked == {"out": str(tmp_path / "d"), "seed": 4, "draws": 3}
    told, table = result.output.split("frame AUC on test videos")
    for beginning in (
        "Hunted: in each of 2 draws",
        "Detection: on test videos",
        "What did not hold: ",
        "--quick is too",
    ):
        assert beginning in told
    assert "Chosen again when the videos are drawn again (2 draws): L" in told
    assert "docs/concepts/choosing_heads.md" in told
    rows, paths = table.split("\n\n")
    assert len(rows.splitlines()) == 6
    assert max(map(len, table.splitlines())) <= 80
    assert rows.splitlines()[1].startswith("hunted heads  ")
    for name in ("report.html", "table.csv", "results.json"):
        assert str(demo_run.folder / name) in paths


def test_warnings_of_ours_name_no_line_of_typer_s() -> None:
    program = (
        "import sys, warnings; from headprobe.cli import app as cli; from headprobe.errors import HeadprobeWarning\n"
        "@cli.app.command()\n"
        "def careful() -> None:\n"
        "    warnings.warn('one head sets the scale', HeadprobeWarning, stacklevel=2)\n"
        "    warnings.warn('of another', UserWarning, stacklevel=2)\n"
        "sys.argv = ['headprobe', 'careful']; cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    ours, others = done.stderr.split("\n", 1)
    assert ours == "Warning: one head sets the scale"
    assert "UserWarning: of another" in others


def record_of(folder) -> dict:
    return json.loads((folder / "events.json").read_text())


@pytest.fixture
def films(tmp_path):
    rng = np.random.default_rng(1)
    folder = tmp_path / "films"
    folder.mkdir()
    for name in "abc":
        write_video(folder / f"{name}.mp4", rng.integers(0, 255, (40, 48, 64, 3), dtype=np.uint8), fps=10)
    return folder


def test_results_of_an_earlier_run_stay_until_a_new_one_works(detector, films, tmp_path, monkeypatch) -> None:
    command = ["detect", str(films), "--detector", detector, "--out", str(tmp_path / "out"), "--no-timelines"]
    assert run(app, command).exit_code == 0
    before = (tmp_path / "out" / "events.json").read_bytes()
    assert not list((tmp_path / "out").glob("*.png"))
    assert run(app, [*command, "--model", "nope"]).exit_code == 2
    assert run(app, [*command, "--model", "tiny-untrained"]).exit_code == 2
    (tmp_path / "cut.mp4").write_bytes(b"")
    done = run(app, ["detect", str(tmp_path / "cut.mp4"), *command[2:]])
    assert done.exit_code == 1
    assert "0 of 1 video processed" in done.output
    assert "events.json is of an earlier run" in done.output

    def stopped(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(detect_module, "detect_video", stopped)
    assert run(app, command).exit_code == 130
    assert (tmp_path / "out" / "events.json").read_bytes() == before


def test_a_killed_detection_is_not_a_finished_one_and_goes_on(detector, films, tmp_path) -> None:
    out, kill = tmp_path / "out", "import os; from headprobe.headhunt import _detect as d; real = d.detect_video\n"
    kill += "def once(*a, **k):\n    if str(a[2]).endswith('b.mp4'): os._exit(9)\n    return real(*a, **k)\n"
    kill += "d.detect_video = once\nfrom headprobe.cli import main; main()\n"
    command = ["detect", str(films), "--detector", detector, "--out", str(out)]
    assert subprocess.run([sys.executable, "-c", kill, *command], capture_output=True).returncode == 9
    record = record_of(out)
    names = [str(films / f"{name}.mp4") for name in "abc"]
    assert (record["interrupted"], record["asked"], list(record["videos"])) == (True, names, names[:1])
    truth = tmp_path / "truth.csv"
    truth.write_text("video,abnormal,start,end\na,1,8,24\nb,0,,\nc,0,,\n")
    report = ["report", str(out), "--detector", detector, "--no-explain", "--dataset", "table"]
    told = run(app, [*report, "--ground-truth", str(truth)])
    assert told.exit_code == 0, told.output
    assert "2 of 3 videos asked for have no result" in told.output
    page = (out / "report.html").read_text()
    assert page.count("2 of 3 videos asked for have no result, and no number here covers them") >= 2
    assert f"{names[1]}" in page.split("What failed")[-1]
    first = record["videos"][names[0]]
    done = run(app, [*command, "--resume"])
    assert done.exit_code == 0, done.output
    assert "3 of 3 videos processed" in done.output
    record = record_of(out)
    assert (record["interrupted"], list(record["videos"])) == (False, names)
    assert record["videos"][names[0]] == first
    assert run(app, report[:-2]).output.count("asked for") == 0


def test_resume_locates_anew_keeps_what_cannot_be_read_and_refuses_another_detector(
    detector, films, tmp_path, monkeypatch
) -> None:
    command = ["detect", str(films), "--detector", detector, "--out", str(tmp_path / "out")]
    assert run(app, [*command, "--tau", "0.0"]).exit_code == 0
    before = record_of(tmp_path / "out")
    assert before["detector"]["tau"] == 0.0
    assert all(len(one["events"]) == 1 for one in before["videos"].values())

    def never(*_args, **_kwargs):
        raise AssertionError("a video was scored again")

    with monkeypatch.context() as patch:
        patch.setattr(detect_module, "detect_video", never)
        done = run(app, [*command, "--resume", "--sigma", "0", "--tau", "1.1"])
        assert done.exit_code == 0, done.output
    after = record_of(tmp_path / "out")
    assert (after["detector"]["sigma"], after["detector"]["tau"]) == (0.0, 1.1)
    for name, one in after["videos"].items():
        assert one["events"] == []
        assert [s["score"] for s in one["segments"]] == [s["score"] for s in before["videos"][name]["segments"]]
        assert [s["smoothed"] for s in one["segments"]] == [s["score"] for s in one["segments"]]
    gone = films / "a.mp4"
    aside = gone.rename(tmp_path / "aside.mp4")
    again = [*command, "--resume", "--sigma", "0"]
    done = run(app, ["detect", str(films / "b.mp4"), *again[2:], "--tau", "1.1"])
    assert done.exit_code == 0, done.output
    assert record_of(tmp_path / "out")["videos"][str(gone)] == after["videos"][str(gone)]
    refused = run(app, [*again, "--tau", "0.5"])
    assert (refused.exit_code, "1 of its videos cannot be read to be located" in refused.output) == (2, True)
    aside.rename(gone)
    state = record_of(tmp_path / "out")
    state["detector"]["scorer_digest"] = "0"
    (tmp_path / "out" / "events.json").write_text(json.dumps(state))
    refused = run(app, [*again, "--tau", "1.1"])
    assert refused.exit_code == 2
    assert "was made by another detector: scorer_digest differ" in refused.output
    assert record_of(tmp_path / "out") == state


def test_a_detector_without_a_locator_is_given_one(detector, films, tmp_path) -> None:
    bare = tmp_path / "bare"
    fitted = HeadHunt.from_pretrained(detector)
    fitted.locator_ = None
    fitted.save_pretrained(bare)
    command = ["detect", str(films / "a.mp4"), "--detector", str(bare), "--out", str(tmp_path / "out")]
    for more in ([], ["--tau", "0.5"]):
        refused = run(app, [*command, *more, "--model", "not loaded"])
        assert refused.exit_code == 2
        assert "the detector has no locator" in refused.output
        assert "--sigma" in refused.output
    done = run(app, [*command, "--sigma", "0.5", "--tau", "0.0"])
    assert done.exit_code == 0, done.output
    assert len(record_of(tmp_path / "out")["videos"][str(films / "a.mp4")]["events"]) == 1
    told = run(app, ["report", str(tmp_path / "out"), "--detector", str(bare), "--no-explain"])
    assert told.exit_code == 0, told.output
    assert "smoothing 0.5 segments" in (tmp_path / "out" / "report.html").read_text()


# What names may hold


def test_nothing_that_a_terminal_obeys_is_printed(tmp_path: Path, capfd) -> None:
    from headprobe.cli._run import printable, say
    from headprobe.cli.app import _Shown

    evil = "a\x1b]0;owned\x07\x1b[2J\r\x9b31m\u202egpj.mp4\udce9"
    assert printable(evil) == r"a\x1b]0;owned\x07\x1b[2J\r\x9b31m\u202egpj.mp4\udce9"
    say(f"{evil}\tkept\nand this: é")
    assert capfd.readouterr().out == f"{printable(evil)}\tkept\nand this: é\n"
    record = logging.LogRecord("headprobe", logging.WARNING, __file__, 1, "%s is gone", (evil,), None)
    assert _Shown().format(record) == f"{printable(evil)} is gone"
    (tmp_path / "a\x1b[2J.mp4").write_bytes(b"no video")
    detector = str(tmp_path / "none\x1b[2J")
    code = "from headprobe.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "detect", str(tmp_path), "--detector", detector], capture_output=True, check=False
    )
    assert done.returncode == 2
    assert b"\x1b" not in done.stdout + done.stderr
    assert rb"none\x1b[2J/detector.json: the file cannot be read" in done.stderr


def test_commands_print_by_the_one_way_that_escapes() -> None:
    commands = [path for path in Path(headprobe.__file__).parent.glob("cli*.py") if path.name != "cli_work.py"]
    assert [path.name for path in commands if "typer.echo(" in path.read_text(encoding="utf-8")] == []


def test_every_command_that_loads_a_model_has_the_same_options() -> None:
    commands = typer.main.get_command(app).commands
    for name in ("demo", "detect", "extract", "fit", "report", "watch"):
        options = {option: one for one in commands[name].params for option in one.opts}
        assert {"--device", "--dtype", "--device-map", "--attention", "--batch-size"} <= set(options), name
        assert (options["--device"].default, options["--batch-size"].default) == ("auto", "auto"), name


def test_detect_says_where_its_model_is_and_takes_its_options(detector, films, tmp_path) -> None:
    command = ["detect", str(films / "a.mp4"), "--detector", detector, "--out", str(tmp_path / "out"), "--no-timelines"]
    done = run(app, [*command, "--device", "cpu", "--attention", "eager", "--batch-size", "1"])
    assert done.exit_code == 0, done.output
    assert "headprobe: model tiny: 0.01 GB in float32 on cpu, attention eager, 48 heads" in done.output
    assert record_of(tmp_path / "out")["run"]["attention"] == "eager"
    logger = logging.getLogger("headprobe")
    assert (logger.level, logger.handlers) == (logging.NOTSET, [])  # whoever goes on in this process is not spoken to
    before = (tmp_path / "out" / "events.json").read_bytes()
    for more, text in (
        (["--device", "nowhere"], "device is 'nowhere', which torch cannot use here"),
        (["--batch-size", "0"], "--batch-size is '0'; give a whole number or 'auto'"),
        (["--attention", "org/kernel"], "is not built into transformers"),
        (["--device-map", "auto"], "device_map is for a checkpoint that transformers loads"),
        (["--dtype", "bfloat16"], "the detector was fitted on tiny in float32, but tiny runs in bfloat16"),
    ):
        refused = run(app, [*command, *more])
        assert refused.exit_code == 2, more
        assert text in refused.output, refused.output
    assert (tmp_path / "out" / "events.json").read_bytes() == before


def test_an_earlier_demo_stays_until_a_new_one_is_complete(tmp_path, demo_run) -> None:
    for name in ("results.json", "report.html"):
        (tmp_path / name).write_bytes((demo_run.folder / name).read_bytes())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    refused = run(app, ["demo", "--out", str(tmp_path), "--device", "nowhere"])
    assert (refused.exit_code, "device is 'nowhere'" in refused.output) == (2, True)
    few = Size(1, 0, 1, 0, 0, n_frames=32, n_draws=1, videos_per_draw=10)
    with pytest.raises(InputError):
        run_demo(tmp_path, size=few, progress=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "results.json").write_text("{}")
    refused = run(app, ["demo", "--out", str(tmp_path)])
    assert (refused.exit_code, "holds results.json and report.html that no demo wrote" in refused.output) == (2, True)
    assert (tmp_path / "report.html").read_bytes() == before["report.html"]
    assert not list(demo_run.folder.glob(".demo-*"))
    assert all(video.path.is_file() and video.path.is_relative_to(demo_run.folder) for video in demo_run.test_videos)
