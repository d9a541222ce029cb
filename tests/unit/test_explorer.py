"""The explorer: what its page holds, computed by hand, and what a browser makes of it."""

from __future__ import annotations

import base64
import html
import json
import re

import numpy as np
import pytest
import torch
from browser import look, needs_axe, needs_chromium, violations
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from sklearn.preprocessing import StandardScaler

import headprobe
from headprobe.activations import HeadActivations, example_table
from headprobe.errors import InputError
from headprobe.examples import Example
from headprobe.heads import HeadSet
from headprobe.plotting.explorer._content import contents, extremes, head_view, margins, shown_rows
from headprobe.plotting.explorer.explore import explore
from headprobe.provenance import Provenance
from headprobe.scores import score_map
from headprobe.trace.attention import AttentionPattern, AttentionPatterns

EVIL = '</script><script>document.title="bad"</script><!--.mp4'


def case(shape=(3, 4), n=24, d=5, prompts=("p1", "p2"), metrics=("lda", "kl"), labels=True, frames=False):
    """Activations whose head L1H2 (where there is one) tells the classes apart, their score map, their examples."""
    rng = np.random.default_rng(0)
    heads = HeadSet([(layer, head) for layer in range(shape[0]) for head in range(shape[1])])
    y = np.arange(n) % 2
    z = rng.normal(size=(len(prompts), n, *shape, d)).astype(np.float32)
    if shape[0] > 1 and shape[1] > 2:
        z[:, :, 1, 2] += 6 * y[:, None]
    videos = [EVIL if i < 2 else f"v{i // 2}" for i in range(n)]
    examples = [
        Example(
            rng.integers(0, 255, (6, 20, 30, 3)).astype(np.uint8) if frames else f"<b>text</b> {i}",
            id=f"{videos[i]}:{i}",
            label=int(y[i]) if labels else None,
            group=videos[i],
            span=(8 * i, 8 * i + 8),
        )
        for i in range(n)
    ]
    texts = {name: f"{name}?" for name in prompts}
    acts = HeadActivations(torch.tensor(z.reshape(len(prompts), n, -1, d)), heads, texts, example_table(examples), M)
    values = rng.random((len(metrics), len(prompts), *shape))
    if shape[0] > 1 and shape[1] > 2:
        values[:, :, 1, 2] = 2.0
    return acts, score_map(values, metrics=metrics, prompts=prompts, name="saliency"), examples


M = Provenance("m")


def content_of(page: str) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def array(text: str, dtype: str, *shape: int) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype).reshape(shape)


# What is computed


def test_projection_and_silhouette_equal_scikit_learn():
    rng = np.random.default_rng(1)
    y = np.repeat([0, 1, 2], 10)
    for d in (3, 50):  # fewer and more features than examples
        z = rng.normal(size=(30, d)) * rng.random(d) * 9 + y[:, None]
        z[:, 0] = 7.0  # never changes
        x = StandardScaler().fit_transform(z)
        pca = PCA(2, svd_solver="full").fit(x)
        seen = head_view(z, y, 2, np.arange(30))
        np.testing.assert_allclose(np.abs(seen.points), np.abs(pca.transform(x)), atol=1e-9)
        np.testing.assert_allclose(seen.shares, pca.explained_variance_ratio_, atol=1e-12)
        assert seen.silhouette == pytest.approx(silhouette_score(x, y), abs=1e-12)
    z, y = np.array([[0.0], [1.0], [5.0]]), np.array([0, 0, 1])  # a class of one example
    assert head_view(z, y, 1, np.arange(3)).silhouette == pytest.approx(silhouette_score(z, y))


def test_one_feature_and_two_equal_examples():
    seen = head_view(np.array([[1.0], [1.0], [4.0]]), None, None, np.arange(3))
    assert seen.points[:, 1].tolist() == [0, 0, 0]
    assert seen.shares.tolist() == pytest.approx([1, 0])
    assert np.isnan(seen.silhouette)
    assert seen.strength.tolist() == seen.points[:, 0].tolist()


def test_no_example_votes_for_itself_nor_its_video():
    # On noise with as many features as examples, a mean that holds the example itself always pulls it to its class.
    rng, y = np.random.default_rng(0), np.arange(60) % 2 == 1
    x = rng.normal(size=(60, 200))
    share = ((margins(x, y, np.arange(60)) > 0) == y).mean()
    assert 0.25 < share < 0.75
    # Examples of a video are copies: alone they would find each other.
    copies = np.repeat(rng.normal(size=(20, 200)), 3, 0)
    of_video, video = np.repeat(np.arange(20) % 2 == 1, 3), np.repeat(np.arange(20), 3)
    assert ((margins(copies, of_video, np.arange(60)) > 0) == of_video).all()
    assert ((margins(copies, of_video, video) > 0) == of_video).mean() < 0.75


def test_margins_by_hand_with_a_class_in_one_group():
    x, yes = np.array([[0.0], [2.0], [8.0], [10.0]]), np.array([False, False, True, True])
    # Without group 1, there is no example of the class; without group 0, none of the others.
    assert np.isnan(margins(x, yes, np.array([0, 0, 1, 1]))).all()
    assert margins(x, yes, np.array([0, 1, 2, 3])).tolist() == [-5.5, -2.5, 2.5, 5.5]


def test_extremes_share_no_example():
    index, values = extremes(np.array([1.0, 5.0, np.nan, 3.0]), 5)
    assert index.tolist() == [[1, 3, -1, -1, -1], [0, -1, -1, -1, -1]]
    assert values[:, 0].tolist() == [5, 1]
    assert (extremes(np.full(3, np.nan), 2)[0] == -1).all()


@pytest.mark.parametrize("most", [3, 10, 57, 99])
def test_shown_rows_are_even_over_classes_and_not_too_many(most):
    y = np.array([0] * 80 + [1] * 5 + [2] * 15)
    rows = shown_rows(y, 100, most)
    assert len(rows) <= most
    assert (np.diff(rows) > 0).all()
    assert set(y[rows]) == {0, 1, 2}
    assert (y[rows] == 1).sum() == min(5, most // 3)
    assert shown_rows(None, 10, 4).tolist() == [0, 3, 6, 9]


# What the page holds


def test_the_page_holds_scores_views_and_examples():
    acts, maps, examples = case()
    page = headprobe.explore(acts, maps, examples=examples, mark=["L1H2"], classes={1: "abnormal"}, progress=False)
    data = content_of(page.text)
    assert page.notes == ()
    assert data["notes"] == []
    np.testing.assert_allclose(array(data["scores"]["values"], "<f4", 2, 2, 3, 4), maps.values, rtol=1e-6)
    assert data["scores"]["metrics"] == ["lda", "kl"]
    assert data["scores"]["marked"] == [[1, 2]]
    assert (data["positive"], data["grouped"]) == (1, True)
    views = data["views"]
    assert views["prompts"] == ["p1", "p2"]
    cells = array(views["heads"], "<i4", 12).tolist()
    assert cells[0] == 6  # L1H2, marked and highest
    assert sorted(cells) == list(range(12))
    z = acts.select(["L1H2"])[1, :, 0].double().numpy()
    one = head_view(z, acts.labels, 1, np.arange(24) // 2)
    drawn = array(views["points"], "u1", 2, 12, 24, 2)[1, 0] / 127.5 - 1
    np.testing.assert_allclose(drawn, one.points / np.abs(one.points).max(), atol=1 / 127)
    index = array(views["index"], "<i2", 2, 12, 2, 5)[1, 0]
    assert index.tolist() == extremes(one.strength, 5)[0].tolist()
    assert (acts.labels[index] == [[1] * 5, [0] * 5]).all()
    assert data["examples"][3] == {
        "id": "v1:3",
        "label": 1,
        "group": "v1",
        "start": 24,
        "end": 32,
        "text": "<b>text</b> 3",
    }


def test_texts_cannot_leave_their_place():
    acts, maps, examples = case()
    text = explore(acts, maps, examples=examples, title=EVIL, classes={0: EVIL}, progress=False).text
    assert text.count("<script") == 2
    assert "<!--" not in text
    assert 'title="bad"' not in text.replace("\\u003c", "<").split("<script", 1)[0]
    assert content_of(text)["examples"][0]["group"] == EVIL
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")


def test_a_map_without_prompts_and_examples_without_labels():
    acts, maps, _ = case(labels=False, prompts=("none",), metrics=("lda",))
    data = content_of(explore(acts, maps.isel(metric=0, prompt=0, drop=True), progress=False).text)
    assert (data["scores"]["metrics"], data["scores"]["prompts"]) == ([""], [""])
    assert data["positive"] is None
    assert not any("label" in one or "text" in one for one in data["examples"])
    assert np.isnan(array(data["views"]["silhouette"], "<f4", 1, 12)).all()


def test_layers_and_heads_of_several_sizes():
    sizes = {HeadSet(["L0H0", "L2H0"]): torch.randn(1, 6, 2, 3), HeadSet(["L2H1"]): torch.randn(1, 6, 1, 7)}
    table = example_table([Example("x", id=str(i), label=i % 2) for i in range(6)])
    acts = HeadActivations(sizes, HeadSet(["L0H0", "L2H0", "L2H1"]), {"none": ""}, table, M)
    maps = score_map([[0.1, np.nan], [0.3, 0.2], [0.4, 0.9]], layers=[0, 1, 2])
    data = content_of(explore(acts, maps, progress=False).text)
    # L1 has scores, but its outputs were not captured.
    assert array(data["views"]["heads"], "<i4", 3).tolist() == [5, 4, 0]


def test_frames_are_stored_small_and_matched_by_id():
    acts, maps, examples = case(frames=True)
    data = content_of(explore(acts, maps, examples=examples[::-1], progress=False).text)
    assert all(one["image"].startswith("data:image/jpeg;base64,") for one in data["examples"])
    assert max(len(one["image"]) for one in data["examples"]) < 9000
    assert (data["examples"][0]["at"], data["examples"][0]["frames"]) == (list(range(6)), 6)
    found = contents([Example("a" * 400, id="x")], example_table([Example("a", id="x")]), [0], 1000)
    assert found[0]["text"] == "a" * 279 + "…"


def test_a_page_is_never_larger_than_asked_and_says_what_it_leaves_out():
    acts, maps, examples = case(shape=(8, 8), n=80, frames=True)
    whole = explore(acts, maps, examples=examples, progress=False)
    assert whole.notes == ()
    size = len(whole.text.encode())
    views = len(explore(acts, maps, progress=False).text.encode())
    told = []
    for room in (0.9 * size, 0.5 * size, 1.1 * views, 0.85 * views, 0.6 * views):
        page = explore(acts, maps, examples=examples, max_bytes=int(room), progress=False)
        assert len(page.text.encode()) <= room
        assert content_of(page.text)["notes"] == list(page.notes)
        told.append([re.sub(r"\d+", "n", note).split(":")[0] for note in page.notes])
    frames = "n of n examples have their words or frames here"
    one, few = (
        "Examples are shown under the prompt pn only",
        "Projections are shown of the n heads with the highest scores",
    )
    assert told[:2] == [[frames]] * 2
    assert [one, frames] in told
    assert told[-1] == [one, few, frames]
    fewer = explore(acts, maps, max_examples=30, progress=False)
    assert fewer.notes == ("30 of 80 examples are shown, as many of each class.",)
    assert len(content_of(fewer.text)["examples"]) == 30
    with pytest.raises(InputError, match=r"but max_bytes is 0\.01 MB"):
        explore(acts, maps, max_bytes=10_000, progress=False)


def looking(examples, prompts, clip=True, heads=("L1H2",), skip=0):
    """Patterns of two heads: of 6 frames of 2 x 3 tokens and a word, or of three words."""
    n = 19 if clip else 3
    rng = np.random.default_rng(2)
    places = torch.arange(18)
    video = {
        "video": torch.arange(19) < 18,
        **{
            name: torch.cat([axis, torch.tensor([-1])])
            for name, axis in (("frame", places // 6), ("row", places // 3 % 2), ("column", places % 3))
        },
    }

    def one():
        weights = torch.tensor(rng.dirichlet(np.ones(n), len(heads)), dtype=torch.float32)
        return AttentionPattern(weights, torch.arange(n), torch.tensor([n - 1]), **(video if clip else {}))

    shown = examples[skip:]
    patterns = [[one() for _ in shown] for _ in prompts]
    return AttentionPatterns(patterns, HeadSet(heads), dict.fromkeys(prompts, ""), example_table(shown), M)


class Words:
    def decode(self, ids):
        return ["<b>", " fights", " then"][ids[0]]


def test_attention_is_stored_for_the_examples_that_are_listed():
    acts, maps, examples = case(frames=True)
    clips = [Example(one.content[:3], id=one.id, label=one.label, group=one.group) for one in examples]
    patterns = looking(clips, ["p2"], heads=("L1H2", "L0H1"))
    page = explore(acts, maps, examples=clips, attention=patterns, progress=False)
    stored, views = content_of(page.text)["attention"], content_of(page.text)["views"]
    assert page.notes == ()
    listed = array(views["index"], "<i2", 2, 12, 2, 5)
    place = array(views["heads"], "<i4", 12).tolist().index(1)
    assert {key for key in stored["maps"] if key.startswith("1/")} == {f"1/p2/{i}" for i in listed[1, place].ravel()}
    assert len(stored["maps"]) == 20
    i = int(listed[1, place, 0, 0])
    pattern = patterns.patterns[0][i]
    top, share, weights = stored["maps"][f"1/p2/{i}"]
    np.testing.assert_allclose(
        top * (array(weights, "u1", 3, 2, 3) / 255) ** 2, pattern.to_video()[1].numpy(), atol=top / 127
    )
    assert share == pytest.approx(float(pattern.video_share()[1]))
    assert stored["grids"][f"p2/{i}"] == [3, 2, 3, 1]
    part = explore(acts, maps, examples=clips, attention=looking(clips, ["p2"], skip=3), progress=False)
    assert part.notes[0].startswith("Attention is missing for ")


def test_tokens_of_texts_have_their_words():
    acts, maps, examples = case()
    patterns = looking(examples, ["p1"], clip=False)
    page = explore(acts, maps, examples=examples, attention=patterns, tokenizer=Words(), progress=False)
    stored = content_of(page.text)["attention"]
    assert next(iter(stored["tokens"].values())) == ["<b>", " fights", " then"]
    with pytest.raises(InputError, match="tokenizer is None; attention to texts needs one"):
        explore(acts, maps, attention=patterns, progress=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda e: looking(e, ["p9"]), r"attention is of the heads L1H2 under the prompts \['p9'\]; it must be"),
        (
            lambda e: looking(e, ["p1"]),
            "attention has 3 steps of 1 frames for .*, which has 6 frames; give the examples",
        ),
    ],
)
def test_attention_of_something_else(change, words):
    acts, maps, examples = case(frames=True)
    with pytest.raises(InputError, match=words):
        explore(acts, maps, examples=examples, attention=change(examples), progress=False)


def test_a_page_without_room_leaves_out_attention():
    acts, maps, examples = case()
    patterns = looking(examples, ["p1", "p2"], clip=False)
    given = {"attention": patterns, "tokenizer": Words(), "progress": False}
    whole = len(explore(acts, maps, **given).text.encode())
    page = explore(acts, maps, max_bytes=whole + 3000, **given)
    assert len(page.text.encode()) <= whole + 3000
    assert re.fullmatch(r"Attention is missing for \d+ of the examples listed: .*", page.notes[-1])


def test_the_distribution_is_that_of_all_examples():
    acts, maps, _ = case()
    views = content_of(explore(acts, maps, progress=False).text)["views"]
    one = head_view(acts.select(["L1H2"])[1, :, 0].double().numpy(), acts.labels, 1, np.arange(24) // 2)
    low, high = array(views["range"], "<f4", 2, 12, 2)[1, 0]
    drawn = low + (high - low) * array(views["strengths"], "u1", 2, 12, 24)[1, 0] / 254
    np.testing.assert_allclose(drawn, one.strength, atol=(high - low) / 250)


def test_file_and_notebook_show_one_page(tmp_path):
    acts, maps, _ = case()
    page = explore(acts, maps, progress=False)
    assert page.save(tmp_path / "heads.html").read_text(encoding="utf-8") == page.text
    assert [file.name for file in tmp_path.iterdir()] == ["heads.html"]
    frame = page._repr_html_()
    assert html.unescape(re.search(r'srcdoc="([^"]*)"', frame)[1]) == page.text
    assert 'sandbox="allow-scripts"' in frame
    assert page.text.isascii()  # whatever the notebook says of its encoding


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a, m, e: explore(a, m.rename(prompt="model")), "metric, prompt or both; got"),
        (lambda a, m, e: explore(a, m * np.nan), "no finite score"),
        (lambda a, m, e: explore(a, m, mark=["L9H9"]), "L9H9 is to be marked"),
        (lambda a, m, e: explore(a, m, prompt="p9"), "must be one of them, got 'p9'"),
        (lambda a, m, e: explore(a, m, positive=7), r"one of the labels \[0, 1\], got 7"),
        (lambda a, m, e: explore(a.subset([0, 1]), m), "three examples or more, got 2"),
        (lambda a, m, e: explore(a, m, examples=e[1:], progress=False), "1 of the rows to show have no example"),
    ],
)
def test_what_cannot_be_explored(change, words):
    with pytest.raises(InputError, match=words):
        change(*case())


def test_values_that_are_not_finite():
    acts, maps, _ = case()
    acts.tensors[acts.heads][0, 3, 5] = np.nan
    with pytest.raises(InputError, match="L1H1: 5 values are NaN or infinite"):
        explore(acts, maps, progress=False)


# What a browser makes of it

LOOK = """
const pause = () => new Promise(done => setTimeout(done, 30));
await pause();
const cell = (n) => document.querySelector(`td[data-cell="${n}"]`);
const text = (query) => [...document.querySelectorAll(query)].map(one => one.textContent);
const say = {};
say.ready = document.getElementById('app').dataset.ready;
say.wide = [document.documentElement.scrollWidth, window.innerWidth];
say.first = text('h2');
cell(1).dispatchEvent(new window.PointerEvent('pointerover', {bubbles: true}));
say.hover = [text('h2')[0], text('.numbers tbody tr').length, text('.numbers thead th').join()];
document.querySelector('table.grid').dispatchEvent(new window.PointerEvent('pointerleave'));
say.left = text('h2')[0];
cell(0).click();
say.clicked = [text('h2'), document.querySelectorAll('.plot path[transform]').length,
  cell(0).getAttribute('aria-selected')];
const key = (name) => document.activeElement.dispatchEvent(
  new window.KeyboardEvent('keydown', {key: name, bubbles: true}));
cell(0).focus();
for (const name of ['ArrowRight', 'ArrowRight', 'ArrowUp', 'ArrowLeft', 'ArrowRight', 'Enter']) key(name);
say.keys = text('h2');
say.label = cell(6).getAttribute('aria-label');
say.lists = [...document.querySelectorAll('.sides section')].map(one => [one.querySelector('h3').textContent,
  [...one.querySelectorAll('li button')].map(button => button.textContent.split(' · ')[0])]);
const first = document.querySelector('.sides button');
first.click();
say.pressed = [first.getAttribute('aria-pressed'), document.querySelectorAll('.plot path[stroke-width="3"]').length];
const metric = document.getElementById('metric');
metric.value = '1';
metric.dispatchEvent(new window.Event('change'));
say.metric = text('.bar span').pop();
const field = document.getElementById('go');
field.value = ' l2h3 ';
field.form.requestSubmit();
say.go = text('h2')[1];
key('/');
say.search = [document.activeElement.id, document.querySelectorAll('#known option').length];
document.activeElement.blur();
key('n');
say.next = text('h2')[1];
key('p');
say.before = text('h2')[1];
field.value = '1 2';
field.form.requestSubmit();
say.numbers = text('h2')[1];
await new Promise(done => setTimeout(done, 400));
const canvas = document.querySelector('.sides canvas');
say.canvas = [document.querySelectorAll('.sides canvas').length, canvas.width, canvas.height, canvas.clientHeight];
const pen = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const light = () => {
  pen.drawImage(canvas, 0, 0);
  return pen.getImageData(0, 0, 200, 100).data.reduce((sum, value, i) => sum + (i % 4 < 3 ? value : 0), 0);
};
document.querySelector('.controls button:not([type=submit])').click();
say.play = document.querySelector('.controls button:not([type=submit])').textContent;
const dark = light();
document.getElementById('lit').click();
say.lit = light() > 1.2 * dark;
field.value = 'L7H7';
field.form.requestSubmit();
say.gone = text('.quiet').find(one => one.includes('no head'));
say.scripts = document.scripts.length;
say.title = document.title;
say.tabs = document.querySelectorAll('td[tabindex="0"]').length;
return say;
"""


@needs_chromium
@pytest.mark.parametrize("width", [400, 1100])
def test_in_a_browser_by_pointer_and_by_keyboard(tmp_path, width):
    acts, maps, examples = case(frames=True)
    examples = [Example(one.content[:3], id=one.id, label=one.label, group=one.group) for one in examples]
    told = {"classes": {0: "normal", 1: EVIL}, "attention": looking(examples, ["p1", "p2"])}
    page = explore(acts, maps, examples=examples, mark=["L1H2"], progress=False, **told)
    seen = look(page.text, LOOK, tmp_path, width=width)
    say = seen.result
    assert seen.console == []
    assert say["ready"] == "true"
    assert say["wide"][0] <= say["wide"][1] == width
    assert say["first"] == ["L1H2: scores", "L1H2: examples"]
    assert say["hover"] == ["L0H1: scores", 4, "prompt,lda,kl"]
    assert say["left"] == "L1H2: scores"
    assert say["clicked"] == [["L0H0: scores", "L0H0: examples"], 24, "true"]
    assert say["search"] == ["go", 12]
    assert say["next"] != say["before"]
    assert say["numbers"] == "L1H2: examples"
    assert say["canvas"] == [10, 480, 320, 160]
    assert (say["play"], say["lit"]) == ("Play", True)
    assert say["keys"] == ["L1H2: scores", "L1H2: examples"]
    assert say["label"] == "L1H2: 2.00, marked"
    assert say["lists"] == [[f"Most like {EVIL}", [EVIL] * 5], [f"Least like {EVIL}", ["normal"] * 5]]
    assert say["pressed"] == ["true", 1]
    assert say["metric"] == "kl, mean over 2 prompts"
    assert say["go"] == "L2H3: examples"
    assert say["gone"] == "There is no head L7H7 on this map."
    assert (say["scripts"], say["title"], say["tabs"]) == (2, "Attention heads", 1)


@needs_chromium
def test_ragged_layers_in_a_browser(tmp_path):
    acts, maps, _ = case(shape=(3, 4), prompts=("none",), metrics=("lda",))
    one = maps.isel(metric=0, prompt=0, drop=True).copy()
    one[0, 2:], one[1, :], one[2, 1] = np.nan, np.nan, np.nan
    script = """
    const cell = (n) => document.querySelector(`td[data-cell="${n}"]`);
    const key = (name) => document.activeElement.dispatchEvent(
  new window.KeyboardEvent('keydown', {key: name, bubbles: true}));
    cell(11).focus();
    key('ArrowDown');
    const down = document.activeElement.dataset.cell;
    key('ArrowRight');
    const right = document.activeElement.dataset.cell;
    key('ArrowUp');
    return {cells: [...document.querySelectorAll('td[data-cell]')].map(e => Number(e.dataset.cell)), down, right,
      up: document.activeElement.dataset.cell, crossed: cell(9).textContent, label: cell(9).getAttribute('aria-label')};
    """
    seen = look(explore(acts, one, progress=False).text, script, tmp_path)
    assert seen.console == []
    assert seen.result["cells"] == [8, 9, 10, 11, 0, 1]
    assert (seen.result["down"], seen.result["right"], seen.result["up"]) == ("1", "1", "9")
    assert (seen.result["crossed"], seen.result["label"]) == ("×", "L2H1: no score")


@needs_chromium
def test_eighty_layers_of_sixty_four_heads(tmp_path):
    acts, _, _ = case(shape=(1, 64), n=6, d=2, prompts=("none",), metrics=("lda",))
    maps = score_map(np.random.default_rng(0).random((5, 80, 64)), prompts=[f"p{i}" for i in range(5)])
    page = explore(acts, maps, progress=False)
    assert len(page.text.encode()) < 400_000
    script = """return [document.querySelectorAll('td[data-cell]').length, document.documentElement.scrollWidth,
      [...document.querySelectorAll('tbody th span:not(.hidden)')].length];"""
    seen = look(page.text, script, tmp_path, width=400)
    assert seen.console == []
    cells, wide, numbers = seen.result
    assert cells == 5120
    assert wide <= 400
    assert 20 <= numbers <= 80


@needs_axe
@pytest.mark.parametrize("width", [400, 1100])
def test_axe_finds_nothing_serious(tmp_path, width):
    acts, maps, examples = case(frames=True)
    text = explore(acts, maps, examples=examples, mark=["L1H2"], progress=False).text
    assert violations(text, tmp_path, width) == []
    assert violations(text.replace('<html lang="en">', "<html>"), tmp_path, width) != []
