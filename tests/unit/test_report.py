"""The report is one valid page that loads nothing, runs nothing and shows every text as it is."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.image import imread, imsave

from headprobe.errors import InputError
from headprobe.report.report import Bullets, Facts, Figure, Paragraph, Section, Table, write_report

EVIL = '<script>alert("x")</script>\'&.mp4'
VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Elements, texts and attributes of a page; unclosed or crossed elements fail."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and data.strip():
            self.texts.append((self.open[-1], data))

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def of(self, tag):
        return [text for name, text in self.texts if name == tag]


def page_of(tmp_path, *blocks, title="Run", **how) -> Page:
    path = write_report(tmp_path / "report.html", title, [Section("Part", list(blocks))], **how)
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture
def plot():
    figure = MatplotlibFigure(figsize=(4, 2), layout="constrained")
    figure.subplots().plot([0, 1], [1, 0])
    return figure


def test_headings_language_and_policy(tmp_path):
    path = write_report(
        tmp_path / "r.html", "Lauf 1", [Section("Daten", ["Zwei."]), Section("Zahlen", [])], language="de-CH"
    )
    page = Page(path.read_text(encoding="utf-8"))
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>\n")
    assert page.all("html") == [{"lang": "de-CH"}]
    assert page.of("title") == page.of("h1") == ["Lauf 1"]
    assert page.of("h2") == ["Daten", "Zahlen"]
    (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert [section["aria-labelledby"] for section in page.all("section")] == ["s1", "s2"]
    assert [heading["id"] for heading in page.all("h2")] == ["s1", "s2"]
    assert page.all("nav") == []


def test_long_reports_have_a_list_of_their_sections(tmp_path):
    path = write_report(tmp_path / "r.html", "Run", [Section(f"Part {i}", []) for i in range(1, 6)])
    page = Page(path.read_text(encoding="utf-8"))
    assert [link["href"] for link in page.all("a")] == ["#s1", "#s2", "#s3", "#s4", "#s5"]
    assert page.of("a") == page.of("h2")


def test_every_text_is_escaped_everywhere(tmp_path, plot):
    blocks = [
        EVIL,
        Paragraph(EVIL),
        Table([EVIL], [[EVIL]], caption=EVIL),
        Figure(plot, alt=EVIL, caption=EVIL),
        Facts({EVIL: EVIL, "list": [EVIL], "map": {EVIL: EVIL}}),
        Bullets([EVIL]),
    ]
    sections = [Section(EVIL, blocks)] + [Section(EVIL, [])] * 3
    path = write_report(tmp_path / "r.html", EVIL, sections, summary=EVIL)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert "<script" not in text
    assert page.all("script") == []
    for tag in ("title", "h1", "a", "h2", "p", "span", "th", "figcaption", "dt", "dd", "li"):
        assert EVIL in page.of(tag), tag
    assert page.all("img")[0]["alt"] == EVIL
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)


def test_nothing_is_loaded(tmp_path, plot):
    path = write_report(tmp_path / "r.html", "Run", [Section("Part", [Figure(plot, alt="A line")])])
    page = Page(path.read_text(encoding="utf-8"))
    addresses = [attributes[name] for _, attributes in page.elements for name in ("src", "href") if name in attributes]
    assert len(addresses) == 1
    assert addresses[0].startswith("data:image/png;base64,")
    (style,) = page.of("style")
    assert "url(" not in style
    assert "@import" not in style


def test_names_that_are_no_text(tmp_path):
    page = page_of(tmp_path, "bad\udcff name", "bell\x07 and nul\x00", title="日本 ±")
    assert page.of("p") == ["bad\\udcff name", "bell\ufffd and nul\ufffd"]
    assert page.of("h1") == ["日本 ±"]


def test_paragraphs_are_split_at_empty_lines(tmp_path):
    page = page_of(tmp_path, "One.\n\n  Two,\nstill two.\n\n\n", summary="In short.")
    assert page.of("p") == ["In short.", "One.", "Two,\nstill two."]


def test_table_cells(tmp_path):
    rows = [
        ["hunted", 0.91449, 8, None, "x", True],
        ["random", np.float32(-0.5), np.int64(8), float("nan"), "y", False],
    ]
    table = Table(["name", "AUC", "draws", "SD", "note", "flag"], rows, caption="Test split")
    page = page_of(tmp_path, table, Table(["a"], [[0.25]], caption="short", digits=1))
    assert page.of("td") == ["0.914", "8", "–", "x", "True", "-0.500", "8", "–", "y", "False"]
    assert page.of("span") == ["Test split", "short"]  # in the captions
    assert page.of("th")[:8] == ["name", "AUC", "draws", "SD", "note", "flag", "hunted", "random"]
    assert page.of("th")[-1] == "0.2"
    heads = [cell for cell in page.all("th") if cell["scope"] == "col"]
    assert [cell.get("class") for cell in heads[:6]] == [None, "n", "n", "n", None, None]
    regions = [box for box in page.all("div") if box.get("role") == "region"]
    captions = [caption["id"] for caption in page.all("caption")]
    assert [(box["class"], box["tabindex"], box["aria-labelledby"]) for box in regions] == [
        ("scroll", "0", captions[0]),
        ("scroll", "0", captions[1]),
    ]
    assert len(set(captions)) == 2


def test_empty_table(tmp_path):
    page = page_of(tmp_path, Table(["video", "events"], [], caption="Nothing was detected"))
    assert page.of("th") == ["video", "events"]
    assert page.of("td") == []


def test_figures_from_matplotlib_and_from_a_file(tmp_path, plot):
    imsave(tmp_path / "p.png", np.random.default_rng(0).random((30, 45, 3)))
    page = page_of(
        tmp_path,
        Figure(plot, alt="A falling line", caption="Figure 1.", dpi=100),
        Figure(plot.axes[0], alt="The same"),
        Figure(tmp_path / "p.png", alt="Noise", dpi=96),
    )
    images = page.all("img")
    assert [image["alt"] for image in images] == ["A falling line", "The same", "Noise"]
    assert page.of("figcaption") == ["Figure 1."]
    data = [base64.b64decode(image["src"].split(",", 1)[1]) for image in images]
    assert data[2] == (tmp_path / "p.png").read_bytes()
    assert (images[2]["width"], images[2]["height"]) == ("45", "30")
    height, width = imread(io.BytesIO(data[0])).shape[:2]
    assert (int(images[0]["width"]), int(images[0]["height"])) == (round(width * 0.96), round(height * 0.96))
    # Shown at the size of the drawing: 4 inches are 384 CSS pixels, give or take the margins cut off.
    assert 340 < int(images[0]["width"]) < 400


def test_wide_figures_scroll_in_a_frame_of_their_own(tmp_path):
    narrow, wide = MatplotlibFigure(figsize=(4, 1)), MatplotlibFigure(figsize=(9, 1))
    for figure in (narrow, wide):
        figure.subplots().plot([0, 1])
    page = page_of(tmp_path, Figure(narrow, alt="narrow"), Figure(wide, alt="wide"))
    frames = [box for box in page.all("div") if box["class"] == "scroll wide"]
    assert [frame["aria-label"] for frame in frames] == ["wide"]


def test_facts_and_lists(tmp_path):
    page = page_of(
        tmp_path,
        Facts({"seed": 0, "tau": 0.450000001, "prompts": ["a?", "b?"], "versions": {"torch": "2"}, "none": None}),
        Bullets(["one", "two"]),
        Bullets(["first"], ordered=True),
    )
    assert page.of("dt") == ["seed", "tau", "prompts", "versions", "none"]
    assert page.of("dd") == ["0", "0.45", "a?, b?", "torch: 2", "–"]
    assert page.of("li") == ["one", "two", "first"]
    assert (len(page.all("ul")), len(page.all("ol"))) == (1, 1)


def test_the_same_run_gives_the_same_page(tmp_path):
    def write(name):
        figure = MatplotlibFigure(figsize=(3, 2))
        figure.subplots().plot([0, 1])
        blocks = [Figure(figure, alt="line"), Facts({"seed": 1})]
        return write_report(tmp_path / name, "Run", [Section("Part", blocks)]).read_bytes()

    assert write("a.html") == write("b.html")


def test_a_failed_report_keeps_the_old_one(tmp_path):
    path = write_report(tmp_path / "r.html", "Old", [Section("Part", ["text"])])
    before = path.read_bytes()
    with pytest.raises(InputError, match="got int"):
        write_report(path, "New", [Section("Part", [3])])
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["r.html"]


@pytest.mark.parametrize(
    ("blocks", "how", "words"),
    [
        ([Table(["a", "b"], [[1, 2], [3]], caption="T")], {}, "row 1 of the table 'T' must have 2 cells"),
        ([Table(["a"], ["x"], caption="T")], {}, "row 0 of the table 'T' must have 1 cells, got 'x'"),
        ([Figure(MatplotlibFigure(), alt=" ", caption="F")], {}, "the figure 'F' needs an alternative text"),
        ([Figure(__file__, alt="this file")], {}, "is not a PNG file"),
        ([Figure(3, alt="three")], {}, "must be a matplotlib Figure or Axes or the path .* got int"),
        ([Bullets("text")], {}, "must be a sequence of texts, got the text 'text'"),
        ([{"a": 1}], {}, "a report is made of Paragraph, Table, .* got dict"),
        ([], {"language": 'en"><script>'}, "the language must be a tag"),
    ],
)
def test_reports_that_cannot_be_written(tmp_path, blocks, how, words):
    with pytest.raises(InputError, match=words):
        page_of(tmp_path, *blocks, **how)
    assert list(tmp_path.iterdir()) == []


def test_a_report_needs_sections(tmp_path):
    with pytest.raises(InputError, match="the report 'Run' has no sections"):
        write_report(tmp_path / "r.html", "Run", [])
