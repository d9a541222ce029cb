"""What objects show of themselves in a notebook, and what they say where there is nothing to save."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from detectors import head_detector, layer_detector
from detectors import model as tiny_video_model
from equality import same, same_bits
from PIL import Image
from tiny_models import TEXTS, make_clips, make_model

import headprobe
from headprobe import Example, Frames, HeadActivations, HeadSet, HeadTracer, Store, positions
from headprobe.errors import ArtefactError, InputError
from headprobe.examples import Film

PNG = b"\x89PNG"


class Words(HTMLParser):
    """The text of a page, and its tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.feed(page)

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)


@pytest.fixture(scope="module")
def model():
    return make_model("gpt2")


@pytest.fixture(scope="module")
def acts(model) -> HeadActivations:
    examples = [Example(text, id=f"{i}", label=i % 2 if i else None, group="g") for i, text in enumerate(TEXTS)]
    return HeadTracer(model).capture(
        examples, {"a": "{text} ?", "b": "yes : {text}"}, resid_post=True, answers=["yes", "no"], progress=False
    )


def test_what_the_package_lists_is_what_users_call() -> None:
    assert dir(headprobe) == sorted(headprobe.__all__)
    assert {"probing", "load", "HeadTracer", "saliency"} <= set(dir(headprobe))
    assert not {"annotations", "Any", "importlib", "TYPE_CHECKING"} & set(dir(headprobe))
    assert headprobe.probing.HeadProbe is headprobe.HeadProbe


@pytest.mark.parametrize(
    "content",
    [
        np.zeros((64, 240, 320, 3), np.uint8),
        Frames(np.zeros((64, 240, 320, 3), np.uint8), np.arange(64) / 8),
        "a long story " * 1000,
    ],
)
def test_an_example_prints_in_a_line(content) -> None:
    example = Example(content, id="v1", label=1, group="v", span=(0, 64))
    assert len(repr(example)) < 200
    assert "id='v1', label=1, group='v', span=(0, 64)" in repr(example)
    assert ("64 x 240 x 320 frames" in repr(example)) == (not isinstance(content, str))
    assert "0 to 7.875 s" in repr(example) or not isinstance(content, Frames)
    assert len(repr([example] * 3).splitlines()) == 1
    assert len(example._repr_html_()) < 200_000


def test_nothing_that_is_shown_is_taken_for_html() -> None:
    page = Example("<script>alert(1)</script>", id="<b>bold</b>")._repr_html_()
    assert "script" not in Words(page).tags
    assert "b" not in Words(page).tags
    assert any("<b>bold</b>" in word for word in Words(page).words)


def test_a_clip_plays_and_is_tiled() -> None:
    frames = np.zeros((20, 30, 400, 3), np.uint8)
    frames[:, :, :, 0] = 12 * np.arange(20)[:, None, None]
    film = Example(frames, id="clip").show(frames=5)
    assert repr(film) == "Film(5 of 20 frames)"
    assert film.frames.shape == (5, 10, 134, 3)  # every third pixel: at most 160 wide
    assert same(film.frames[:, 0, 0, 0], 12 * np.array([0, 5, 10, 14, 19]))
    with Image.open(io.BytesIO(film._repr_png_())) as tiles:
        assert tiles.size == (5 * 136, 12)
    assert 'src="data:image/gif;base64,' in film._repr_html_()
    with pytest.raises(InputError, match="is a text and has no frames to show"):
        Example("a man", id="text").show()
    with pytest.raises(InputError, match="frames is 0; it must be an integer of at least 1"):
        Example(frames, id="clip").show(0)
    assert Film(make_clips(1, seed=0, frames=4)[0].pixels if hasattr(make_clips(1, seed=0)[0], "pixels") else frames)


def test_models_activations_and_head_sets_say_what_they_are(model, acts) -> None:
    assert "12 in 3 layers, of size 8" in " ".join(Words(model._repr_html_()).words)
    words = " ".join(Words(acts._repr_html_()).words)
    assert "1 labelled 0, 2 labelled 1, 1 without a label" in words
    assert "1 groups" in words
    assert "12 of size 8 in 3 layers" in words
    words = Words(HeadSet(["L2H1", "L0H3", "L2H0"], tied=["L1H1"])._repr_html_()).words
    assert {"3 heads", "layer 0", "L0H3", "layer 2", "L2H1, L2H0", "tied, left out", "L1H1"} <= set(words)
    for one in (model, acts, acts.heads, acts.provenance):
        assert len(repr(one).splitlines()) <= 20


def test_a_store_says_what_is_in_it(acts, tmp_path) -> None:
    store = Store.create(tmp_path / "<z>", acts.provenance, acts.heads)
    words = Words(store._repr_html_()).words
    assert {f"Store {tmp_path}/<z>", "12 in 3 layers", "float16", acts.provenance.fingerprint, "0"} <= set(words)
    assert len(repr(store).splitlines()) == 1


@pytest.mark.parametrize("make", [head_detector, layer_detector])
def test_a_fitted_detector_shows_what_it_found(make) -> None:
    tiny = tiny_video_model()
    detector = make(tiny)
    page = detector._repr_mimebundle_()["text/html"]
    assert page == detector._repr_html_()
    words, tags = Words(page).words, Words(page).tags
    assert f"{type(detector).__name__}, fitted" in words
    assert f"{detector.held_out_['auc']:.3f}" in page
    assert (", ".join(detector.heads_.labels) if make is head_detector else str(detector.layer_)) in words
    assert detector.prompt_ in words
    assert tags.count("img") == 1
    picture = base64.b64decode(re.findall(r"base64,([\w+/=]+)", page)[0])
    assert picture.startswith(PNG)
    assert len(picture) < 50_000
    assert len(repr(detector).splitlines()) <= 20
    detector.held_out_ = {}
    assert "not measured: fitted without folds" in Words(detector._repr_html_()).words


def test_a_detector_before_fitting_shows_its_settings() -> None:
    page = headprobe.HeadHunt(k=3)._repr_html_()
    assert "fitted on" not in page
    assert "sk-" in page


def test_results_with_arrays_print_in_a_line() -> None:
    from headprobe.headhunt.headhunt import identify
    from headprobe.metrics.consensus import kemeny, robust_rank_aggregation
    from headprobe.metrics.significance import relabellings
    from headprobe.video.scenes import clip

    rng = np.random.default_rng(0)
    y, z = np.arange(40) % 2, rng.normal(size=(2, 40, 20, 30, 4))
    found = identify(z, y, metrics=["lda"])
    assert repr(found).startswith("Identification(heads=HeadSet(")
    assert "rss=<DataArray 20x30>" in repr(found)
    for one in (
        found,
        kemeny(found.combined[:, :2, :4]),
        robust_rank_aggregation(found.combined),
        relabellings(y, None, 20),
        clip(0),
        HeadSet([(layer, head) for layer in range(28) for head in range(28)]),
    ):
        assert len(repr(one).splitlines()) == 1, type(one)
        assert len(repr(one)) < 1000, type(one)


def test_what_is_not_saved_says_so_and_not_what_nnsight_would(model) -> None:
    for one, instead in (
        (model, "save_pretrained"),
        (Example("a", id="a"), "computed from it"),
        (HeadTracer(model), r"acts\.save\(folder\)"),
    ):
        with pytest.raises(InputError, match=f"A {type(one).__name__} is not saved.*{instead}"):
            one.save("folder")


def test_activations_come_back_as_they_were_saved(acts, tmp_path) -> None:
    acts.save(tmp_path / "one")
    again = HeadActivations.load(tmp_path / "one")
    assert same_bits(again.values, acts.values, of="the file")
    assert same_bits(again.resid_post, acts.resid_post, of="the file")
    assert same_bits(again.answer_logits, acts.answer_logits, of="the file")
    assert (again.heads, dict(again.prompts), tuple(again.answers)) == (acts.heads, dict(acts.prompts), ("yes", "no"))
    assert again.provenance == acts.provenance
    assert again.provenance.fingerprint == acts.provenance.fingerprint
    assert again.examples.equals(acts.examples)
    assert list(again.examples.dtypes) == list(acts.examples.dtypes)
    assert again.read.equals(acts.read)
    again.save(tmp_path / "one")  # over itself


def test_rows_of_tokens_and_heads_of_several_sizes_are_saved_too(model, tmp_path) -> None:
    rows = HeadTracer(model).capture(TEXTS, positions=positions.all().each(), heads=["L2H1", "L0H0"], progress=False)
    rows.save(tmp_path)
    assert HeadActivations.load(tmp_path).examples.equals(rows.examples)
    table = headprobe.activations.example_table([Example("x", id="a"), Example("y", id="b")])
    values = {HeadSet(["L0H0"]): torch.ones(1, 2, 1, 2), HeadSet(["L1H0"]): torch.zeros(1, 2, 1, 3)}
    mixed = HeadActivations(values, HeadSet(["L0H0", "L1H0"]), {"none": ""}, table, rows.provenance)
    mixed.save(tmp_path)  # in the place of the others
    again = HeadActivations.load(tmp_path)
    assert {size: part.heads.labels for size, part in again.by_size().items()} == {2: ("L0H0",), 3: ("L1H0",)}


def test_a_save_that_was_cut_short_and_damaged_files_are_refused(acts, tmp_path) -> None:
    acts.save(tmp_path)
    state = json.loads((tmp_path / "activations.json").read_text(encoding="utf-8"))
    for change, said in (
        ({"format": "other"}, "does not say format"),
        ({"tensors": "0" * 64}, "a save was cut short"),
        ({"order": ["L0H0"]}, "cannot be read"),
        ({"examples": {"id": ["category", ["a"]]}}, "column 'id' is of type 'category'"),
        ({"prompts": 3}, "cannot be read"),
        ({"provenance": {"model": 3}}, "provenance does not fit"),
    ):
        (tmp_path / "activations.json").write_text(json.dumps(state | change), encoding="utf-8")
        with pytest.raises(ArtefactError, match=said):
            HeadActivations.load(tmp_path)
    (tmp_path / "activations.json").write_text(json.dumps(state), encoding="utf-8")
    (tmp_path / "activations.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ArtefactError, match="a save was cut short"):
        HeadActivations.load(tmp_path)
    with pytest.raises(ArtefactError, match=r"Give a folder that HeadActivations\.save wrote"):
        HeadActivations.load(tmp_path / "nowhere")


def figures() -> dict[str, object]:
    """One of each kind of picture, as a user gets it."""
    from headprobe.plotting.curves import layers, roc
    from headprobe.plotting.embedding import embedding
    from headprobe.plotting.heatmap import heatmap_grid

    rng = np.random.default_rng(0)
    maps, z, y = rng.random((2, 3, 4)), rng.normal(size=(12, 2, 3, 4)), np.arange(12) % 2
    return {
        "heatmap": headprobe.heatmap(maps[0]),
        "grid": heatmap_grid({"one": maps[0], "two": maps[1]}),
        "timeline": headprobe.timeline(rng.random(5), [(i * 8, i * 8 + 8) for i in range(5)], fps=8.0),
        "roc": roc(rng.random(20), np.arange(20) % 2),
        "layers": layers(rng.random((3, 4))),
        "embedding": embedding(z, ["L0H1"], y),
    }


@pytest.mark.parametrize("name", ["heatmap", "grid", "timeline", "roc", "layers", "embedding"])
def test_a_figure_shows_itself_and_is_still_axes(name) -> None:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    shown = figures()[name]
    assert shown._repr_png_().startswith(PNG)
    if isinstance(shown, Axes):
        shown.set_title("mine")
        assert isinstance(shown.figure, Figure)
        assert shown.figure._repr_png_().startswith(PNG)


def test_axes_of_a_users_own_figure_are_shown_by_whoever_made_them() -> None:
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    assert headprobe.heatmap(np.ones((2, 2)), ax=ax) is ax
    assert not hasattr(ax, "_repr_png_")


@pytest.mark.parametrize("magic", ["", "%matplotlib inline\n"])
def test_a_kernel_shows_a_figure_once(magic) -> None:
    pytest.importorskip("ipykernel", reason="needs the extra docs")
    from nbclient import NotebookClient
    from nbformat.v4 import new_code_cell, new_notebook

    code = f"{magic}import headprobe, numpy as np\nheadprobe.heatmap(np.eye(3))"
    notebook = new_notebook(cells=[new_code_cell(code)])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    pictures = [out for out in notebook.cells[0].outputs if "image/png" in out.get("data", {})]
    assert len(pictures) == 1
