"""The parts of a report: their order, what they must say, how large the page may be, what a browser makes of it."""

from __future__ import annotations

import functools
import html

import numpy as np
import pytest
from browser import look, needs_axe, needs_chromium, violations
from matplotlib.figure import Figure as MatplotlibFigure

from headprobe.errors import InputError
from headprobe.metrics.significance import max_statistic
from headprobe.metrics.stability import rss
from headprobe.plotting._pictures import frame_jpeg, within
from headprobe.provenance import Provenance
from headprobe.report._heads import heads_figures, heads_table, map_figures
from headprobe.report.report import (
    PARTS,
    Bullets,
    Facts,
    Figure,
    Link,
    Pictures,
    Quote,
    Report,
    Section,
    Table,
    write_report,
)
from headprobe.scores import score_map

EVIL = '<script>alert("x")</script>.mp4'
RNG = np.random.default_rng(0)
MAPS = score_map(RNG.random((3, 3, 4)), prompts=["p1", "p2", "p3"], name="LDA")


def frame(height=40, width=60):
    return RNG.integers(0, 255, (height, width, 3)).astype(np.uint8)


def noise(width=6.0, height=2.0):
    """A figure that does not compress."""
    figure = MatplotlibFigure(figsize=(width, height))
    figure.add_subplot().imshow(RNG.random((80, 240)), interpolation="nearest", aspect="auto")
    return figure


def bare() -> Report:
    return Report("Run").failed({}).limits(["Rendered videos."])


@functools.cache  # drawn once: the tests write it and change nothing
def full(n_videos=1) -> Report:
    report = Report("Hunt " + EVIL, summary="AUC 0.91 on test videos.")
    report.limits(["Rendered videos.", EVIL]).failed({EVIL: "no video stream", "b.mp4": EVIL})
    for number in range(n_videos):
        name = EVIL if number == 0 else f"v{number}.mp4"
        report.explanation(
            f"{name}, 1.0 to 2.0 s",
            f"two people fight {EVIL}",
            prompt="what happens here ?",
            frames=[("1.0 s", frame()), (EVIL, frame())],
            facts={"score": 0.91, EVIL: -0.2},
            figures=[Figure(noise(9, 2), alt="Where L0H1 looks", caption="Attention.")],
            note="The description may be wrong.",
        )
        report.timeline(name, noise(9, 2))
    hunted = {"name": "hunted", "auc": 0.9144, "auc_sd": 0.02, "ap": 0.5, "ap_low": 0.4, "ap_high": 0.61}
    report.controls(
        [hunted, {"name": EVIL, "auc": None, "auc_sd": None, "ap": np.float64(0.25)}],
        {"name": "method", "auc": "frame AUC", "ap": "frame AP"},
        split="test videos",
        highlight="hunted",
    )
    report.heads(["L0H1", "L2H3"], MAPS, split="calibration videos", chosen_in={"L0H1": 0.9})
    report.heatmaps(MAPS, split="calibration videos", mark=["L0H1"])
    report.provenance(Provenance("tiny", prompts={"p1": EVIL}), seed=3)
    return report.question("Do two heads do?", Facts({"videos": 2})).found("They do.")


def headings(text: str, level: int) -> list[str]:
    return [part.split("</h")[0].split(">", 1)[1] for part in text.split(f"<h{level} ")[1:]]


def test_the_parts_stand_in_their_order_whatever_the_calls(tmp_path):
    text = full(3).write(tmp_path / "r.html").read_text(encoding="utf-8")
    assert headings(text, 2) == list(PARTS.values())
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;.mp4, 1.0 to 2.0 s" in headings(text, 3)
    assert "Not part of this run" not in text
    assert "<script" not in text
    assert "0.914\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.020" in text
    assert "0.500 [0.400,\N{NO-BREAK SPACE}0.610]" in text
    assert '<tr class="off"><th scope="row">hunted</th>' in text
    assert "2 failed." in text
    assert "prompt p1" in text
    assert Provenance("tiny", prompts={"p1": EVIL}).fingerprint in text
    assert "The significance of these heads was not tested in this run." in text


def test_what_is_not_there_is_said(tmp_path):
    text = bare().write(tmp_path / "r.html").read_text(encoding="utf-8")
    assert headings(text, 2) == [PARTS["failed"], PARTS["limits"]]
    absent = [heading for part, heading in PARTS.items() if part not in ("failed", "limits")]
    assert f"<p>Not part of this run: {', '.join(absent)}.</p>" in text
    assert "Nothing failed." in text
    once = bare().failed({"a.mp4": "no video stream"}).write(tmp_path / "r.html").read_text(encoding="utf-8")
    assert "One failed." in once
    assert "Nothing failed." not in once


def test_what_did_not_hold_stands_apart_from_what_could_not_be_run(tmp_path):
    report = bare().failed({"a.mp4": "no video stream"}, [(EVIL, "the event was missed")])
    text = report.write(tmp_path / "r.html").read_text(encoding="utf-8")
    assert headings(text, 3) == ["What did not hold", "What could not be run"]
    held, run = text.split("What could not be run")
    assert "the event was missed" in held
    assert "no video stream" in run
    assert "no video stream" not in held
    text = bare().failed({}, {}).write(tmp_path / "r.html").read_text(encoding="utf-8")
    assert ("All of it held." in text, "Nothing failed." in text) == (True, True)


def test_of_many_videos_the_first_timelines_are_open_and_a_table_leads_to_all(tmp_path):
    report = full_of_timelines(9)
    report.found(Table(["video"], [[Link(f"{EVIL} {n}", f"timeline-{n + 1}")] for n in range(9)], "Videos."))
    text = report.write(tmp_path / "r.html").read_text(encoding="utf-8")
    assert headings(text, 3) == ["v0.mp4", "v1.mp4", "v2.mp4"]
    assert "<summary>6 more timelines</summary>" in text
    assert [f'id="timeline-{n + 1}"' in text for n in range(9)] == [True] * 9
    assert text.count("<details") == text.count("</details>") == 7
    assert f'<a href="#timeline-9">{html.escape(EVIL).replace("&quot;", "&#34;")} 8</a>' in text
    few = full_of_timelines(3).write(tmp_path / "few.html").read_text(encoding="utf-8")
    assert "<details" not in few


def full_of_timelines(n):
    report = bare()
    for number in range(n):
        report.timeline(f"v{number}.mp4", noise(2, 1))
    return report


@needs_chromium
def test_a_link_opens_the_timeline_it_leads_to(tmp_path):
    report = full_of_timelines(9).found(Table(["video"], [[Link("last", "timeline-9")]], "Videos."))
    script = """const image = [...document.images].pop();
      const before = image.checkVisibility({contentVisibilityAuto: true});
      window.location.hash = "timeline-9";
      await new Promise(done => setTimeout(done, 300));
      return [before, image.checkVisibility({contentVisibilityAuto: true}),
        [...document.querySelectorAll("details")].filter(one => one.open).length];"""
    seen = look(report.write(tmp_path / "r.html").read_text(encoding="utf-8"), script, tmp_path)
    assert seen.result == [False, True, 2]


def test_a_report_says_what_failed_and_its_limits(tmp_path):
    with pytest.raises(InputError, match=r"call failed\(\{\}\) and limits\(\[\.\.\.\]\) first"):
        Report("Run").question("Why?").write(tmp_path / "r.html")
    with pytest.raises(InputError, match="every run has some"):
        Report("Run").limits([])
    assert list(tmp_path.iterdir()) == []


def test_a_figure_is_taken_as_it_was_when_it_was_given(tmp_path):
    figure = MatplotlibFigure(figsize=(2, 1))
    report = bare().add("found", Figure(figure, alt="Nothing yet."), Section("Part", [Figure(figure, alt="Nor here.")]))
    before = report.write(tmp_path / "a.html").read_bytes()
    figure.add_subplot().plot([0, 1])
    assert report.write(tmp_path / "b.html").read_bytes() == before


def test_heads_with_their_stability_and_significance_by_hand():
    maps = score_map([[[1.0, 0.8, 0.9]], [[0.0, 0.6, 0.1]]], prompts=["p1", "p2"], name="LDA")
    table = heads_table(["L0H1", "L0H2"], maps, "calibration videos", chosen_in={"L0H1": 0.875})
    assert table.columns[-1] == "chosen in"
    assert [round(x, 3) if isinstance(x, float) else x for x in table.rows[0]] == [
        *("L0H1", 0.65, 0.7, 0.1, 1, "3, 1", "88 %"),
    ]
    assert table.rows[1][4:] == [2, "2, 2", "0 %"]
    assert table.rows[1][1] == pytest.approx(float(rss(maps).sel(layer=0, head=2)))
    assert table.caption.startswith("The 2 chosen of 3 heads; scores from calibration videos.")
    one = heads_table(["L0H2"], maps.isel(prompt=0, drop=True), "test", p_values=score_map([[0.5, 0.5, 0.01]]))
    assert (one.columns, one.rows) == (["head", "LDA", "rank", "p (family-wise)"], [["L0H2", 0.9, 2, 0.01]])


def test_significance_of_several_prompts_is_that_of_the_best():
    y = np.arange(24) % 2
    z = RNG.normal(size=(2, 24, 2, 2, 3))
    z[1, :, 1, 0] += 5 * y[:, None]
    tested = max_statistic(z, y, metric="lda", n_permutations=99)
    table = heads_table(["L1H0"], tested.scores, "noise", significance=tested)
    assert table.rows[0][-1] == pytest.approx(0.01)
    figures = heads_figures(["L1H0"], tested.scores, "noise", significance=tested)
    assert len(figures) == 3
    assert "under the prompt " + str(tested.scores.coords["prompt"].values[1]) in figures[-1].caption


def test_heatmaps_of_maps_grids_and_names():
    one, grid = MAPS.isel(prompt=0, drop=True), MAPS
    both = score_map(RNG.random((2, 3, 3, 4)), metrics=["lda", "kl"], prompts=["p1", "p2", "p3"], name="saliency")
    figures = map_figures({"a": one, "b": grid, "c": both}, "calibration videos", ["L0H1"])
    assert [figure.caption for figure in figures] == [
        "a, calibration videos.",
        "b by prompt, calibration videos.",
        "c by metric and prompt, calibration videos.",
    ]
    assert all(figure.alt.endswith("Marked: L0H1.") for figure in figures)
    assert "Highest: L" in figures[0].alt


def test_a_page_that_is_too_large_leaves_out_the_last_pictures_and_says_so(tmp_path):
    report = full(3)
    whole = len(report.write(tmp_path / "whole.html").read_bytes())
    assert whole < 5_000_000
    lossy = report.write(tmp_path / "lossy.html", max_bytes=whole - 1).read_text(encoding="utf-8")
    assert "data:image/webp" in lossy
    assert "left out" not in lossy
    few = report.write(tmp_path / "few.html", max_bytes=len(lossy.encode()) - 1000)
    text = few.read_text(encoding="utf-8")
    assert len(text.encode()) <= len(lossy.encode()) - 1000
    assert text.count("(Left out: the page would be too large.)") == 1
    assert "1 of 9 pictures of this page are left out: it would be too large." in text
    # The last explanation's attention is what goes.
    assert text.index("(Left out") > text.index("v2.mp4, 1.0")
    none = report.write(tmp_path / "none.html", max_bytes=len(lossy.encode()) // 3).read_text(encoding="utf-8")
    assert len(none.encode()) <= len(lossy.encode()) // 3
    assert none.count("data:image/webp") < 3
    assert "Timeline of v2.mp4: scores over seconds. (Left out" in none
    with pytest.raises(InputError, match=r"more than the 0\.01 MB"):
        report.write(tmp_path / "no.html", max_bytes=10_000)
    assert not (tmp_path / "no.html").exists()


def test_any_section_can_shed_its_pictures(tmp_path):
    sections = [Section("A", [Figure(noise(), alt="first")]), Section("B", [Figure(noise(), alt="second"), "Words."])]
    size = write_report(tmp_path / "r.html", "Run", sections).stat().st_size
    text = write_report(tmp_path / "r.html", "Run", sections, max_bytes=size // 6).read_text(encoding="utf-8")
    assert "second (Left out" in text
    assert "Words." in text
    with pytest.raises(InputError, match="the report 'Run' would have"):
        write_report(tmp_path / "r.html", "Run", sections, max_bytes=size // 6, shed=[])


def write(report):
    report.failed({}).limits(["x"]).write("report.html")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda r: r.add("results", "x"), r"a report has the parts \['timelines'"),
        (lambda r: r.controls([], {"name": "method"}, split="test"), "needs rows and columns"),
        (lambda r: r.controls([{"name": "a"}], {"name": "m", "auc": "AUC"}, split="t"), r"row 0 of the controls lacks"),
        (lambda r: r.controls([{"n": "a"}], {"n": "m"}, split="t", highlight="b"), "'b' is to be set off"),
        (lambda r: r.heads([], MAPS, split="t"), "no head is chosen"),
        (lambda r: r.heads(["L9H0"], MAPS, split="t"), "L9H0 is among the chosen heads, but the scores have no"),
        (lambda r: r.timeline("a", 3), "must be a matplotlib Figure or Axes .* got int"),
        (
            lambda r: r.add("found", Table(["a"], [[1]], "T", highlight=[1])).failed({}).limits(["x"]).write("no"),
            "row 1",
        ),
        (
            lambda r: r.explanation("e", "w", frames=[("1 s", np.zeros((2, 2)))]).failed({}).limits(["x"]).write("no"),
            "RGB",
        ),
    ],
)
def test_what_a_report_does_not_take(tmp_path, monkeypatch, call, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words):
        call(Report("Run"))
    assert list(tmp_path.iterdir()) == []


def test_frames_are_made_smaller_by_whole_factors():
    picture = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
    small = within(picture, 3)
    assert small.shape == (3, 2, 3)
    assert small[0, 0].tolist() == picture[:2, :2].mean((0, 1)).round().astype(int).tolist()
    assert small[2, 1].tolist() == picture[4, 2:].mean(0).round().astype(int).tolist()
    assert within(picture, 5) is picture
    assert len(frame_jpeg(np.zeros((900, 1600, 3), np.uint8), 240)) < 8000


def test_quotations_strips_and_sections_within_sections(tmp_path):
    blocks = [
        Quote("a\n\nb", source="the model"),
        Pictures([(EVIL, frame(480, 640))], alt="One frame."),
        Bullets(["x"]),
    ]
    text = write_report(tmp_path / "r.html", "Run", [Section("A", [Section("B", [Section("C", blocks)])])]).read_text()
    assert "<blockquote><p>a</p><p>b</p><footer>the model</footer></blockquote>" in text
    assert 'role="group" aria-label="One frame."' in text
    assert 'width="160" height="120" alt=""' in text
    assert headings(text, 4) == ["C"]
    with pytest.raises(InputError, match="frames need an alternative text"):
        write_report(tmp_path / "s.html", "Run", [Section("A", [Pictures([], alt=" ")])])


@needs_chromium
@pytest.mark.parametrize("width", [400, 1000])
def test_no_console_errors_and_no_horizontal_scroll(tmp_path, width):
    text = full(3).write(tmp_path / "r.html").read_text(encoding="utf-8")
    script = """return [document.documentElement.scrollWidth, document.scripts.length, document.title,
      [...document.images].every(image => image.complete && image.naturalWidth > 0),
      Math.max(...[...document.querySelectorAll('caption span')].map(one => one.getBoundingClientRect().right)),
      Math.max(...[...document.querySelectorAll('th, td')].map(one => one.getBoundingClientRect().right)),
      Math.max(...[...document.images].map(one => one.getBoundingClientRect().right))];"""
    seen = look(text, script, tmp_path, width=width)
    wide, scripts, title, loaded, captions, tables, pictures = seen.result
    assert seen.console == []
    assert wide <= width
    # On a narrow screen the rows of a table stand one above the other, so that nothing of it is cut off.
    assert captions <= width
    assert tables <= width
    assert pictures <= width
    assert (scripts, title, loaded) == (0, "Hunt " + EVIL, True)


@needs_axe
@pytest.mark.parametrize("width", [400, 1000])
def test_axe_finds_nothing_serious(tmp_path, width):
    text = full(3).write(tmp_path / "r.html").read_text(encoding="utf-8")
    assert violations(text, tmp_path, width) == []
