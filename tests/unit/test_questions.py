"""The analyses of the field's questions: what they compute, on cases made by hand, and READMEs that are their JSON."""

from __future__ import annotations

import importlib.util
import itertools
import json
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

import headprobe
from headprobe import Head, HeadSet
from headprobe.metrics.linear_probe import _resampled_auroc, auroc
from headprobe.metrics.normalisation import combine
from headprobe.scores import score_map
from headprobe.trace import edits, positions
from headprobe.video.scenes import labelled_clips

ANALYSES = Path(__file__).resolve().parents[2] / "analyses"
FIVE = {
    "prompt_sensitivity": "agreement.png",
    "dilution": "dilution.png",
    "causal_heads": "causal.png",
    "specialisation": "questions.png",
    "metric_agreement": "metrics.png",
}


@pytest.fixture(scope="module")
def runs():
    before = list(sys.path)
    loaded = {}
    for name in FIVE:
        spec = importlib.util.spec_from_file_location(f"{name}_run", ANALYSES / name / "run.py")
        assert spec is not None
        assert spec.loader is not None
        loaded[name] = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = loaded[name]  # dataclasses look their module up
        spec.loader.exec_module(loaded[name])
    yield loaded
    sys.path[:] = before
    for name in FIVE:
        del sys.modules[f"{name}_run"]


@pytest.fixture(scope="module")
def study(runs):
    return runs["dilution"].shared


@pytest.fixture(scope="module")
def tiny():
    return headprobe.load("tiny", check=False)


def results_of(name: str) -> dict:
    return json.loads((ANALYSES / name / "results.json").read_text(encoding="utf-8"))


# What is committed


@pytest.mark.parametrize("name", FIVE)
def test_the_readme_says_what_the_json_says(runs, name):
    page = (ANALYSES / name / "README.md").read_text(encoding="utf-8")
    block = page.split("<!-- results:start -->\n")[1].split("\n<!-- results:end -->")[0]
    assert block == "\n".join(runs[name].lines(results_of(name)))
    assert f"]({FIVE[name]})" in page
    assert (ANALYSES / name / FIVE[name]).read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("name", FIVE)
def test_results_come_from_the_committed_settings_and_the_shipped_model(name, tiny):
    results = results_of(name)
    config = tomllib.loads((ANALYSES / name / "config.toml").read_text(encoding="utf-8"))
    made = results["provenance"]
    assert made["config"] == config
    assert made["weights_hash"]["seed0"] == tiny.weights_hash
    assert made["weights_hash"]["never trained"] != made["weights_hash"]["seed0"]
    assert set(made["versions"]) >= {"headprobe", "torch", "transformers"}
    assert config["draws"] >= 20
    assert config["resamples"] >= 1000
    assert list(results["claims"]) == list(config["claims"])
    for key, claim in results["claims"].items():
        assert claim["expect"] == config["claims"][key]["expect"]
        said = {row["verdict"] for row in claim["models"].values()}
        assert claim["verdict"] == (said.pop() if len(said) == 1 else "not decided")
        for row in claim["models"].values():
            assert row["low"] <= row["high"]
            assert (row["verdict"] == "not decided") == (row["q"] > 0.05)


# What they share


def test_areas_are_those_of_the_library_also_in_resamples(study):
    rng = np.random.default_rng(0)
    y = np.arange(12) % 2
    scores = (rng.normal(size=(2, 12)) + y).round(1)
    weights = study.scene_weights(np.array(list("aabbccddeeff")), np.repeat([0, 1], 6), 20, 0)
    weights[:, :2] += 1  # both classes in every resample
    weights[0] = 1
    wins = study.pair_wins(scores, y)
    exact = np.stack([study.areas(one, y, weights) for one in wins])
    assert exact == pytest.approx(_resampled_auroc(scores, y, weights), abs=1e-6)
    assert study.areas(wins.mean(0), y, weights) == pytest.approx(exact.mean(0), abs=1e-6)
    placed = study.areas_to_first_order(study.placements(scores, y), y, weights)
    assert placed[0] == pytest.approx(auroc(scores, np.tile(y, (2, 1))))
    assert np.corrcoef(placed[1:, 0], exact[0, 1:])[0, 1] > 0.9


def test_what_an_example_adds_to_the_area_by_hand(study):
    # Positives 0.4 and 0.8, negatives 0.1 and 0.4: 1.5 and 2 of 2 pairs won; the negatives are below 2 and 1.5 of 2.
    placed = study.placements(np.array([0.1, 0.4, 0.4, 0.8]), np.array([0, 1, 0, 1]))
    assert placed.tolist() == [1.0, 0.75, 0.75, 1.0]


def test_whole_scenes_are_drawn(study):
    scene = np.array(["a", "a", "b", "b", "c", "d", "d", "e"])
    weights = study.scene_weights(scene, np.array([0, 0, 0, 0, 0, 1, 1, 1]) * 0 + np.arange(8) % 2, 30, 1)
    assert weights[0].tolist() == [1] * 8
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 5] == weights[:, 6]).all()


def test_a_verdict_needs_the_resamples_on_one_side(study):
    up, mixed = np.linspace(0.01, 0.2, 200), np.linspace(-0.1, 0.1, 200)
    assert study.evidence(up)[1] == "holds"
    assert study.evidence(up)[0] == pytest.approx(2 / 200)
    assert study.evidence(-up)[1] == "reversed"
    assert study.evidence(mixed)[0] > 0.5
    assert study.evidence(mixed, margin=0.2)[1] == "holds"
    assert study.evidence(up + 0.3, margin=0.2)[1] == "reversed"
    assert study.evidence(up, margin=0.1)[0] > 0.5
    with pytest.raises(SystemExit, match="no value"):
        study.evidence(np.array([0.1, np.nan, 0.2]))


def test_a_claim_holds_only_if_it_holds_in_every_training(study):
    up, mixed = np.linspace(0.01, 0.2, 400), np.linspace(-0.1, 0.1, 400)
    claims = {"a": {"text": "A", "expect": "holds"}, "b": {"text": "B", "expect": "holds"}}
    found = {"a": {"seed0": up, "seed1": up, "never trained": mixed}, "b": {"seed0": up, "seed1": mixed}}
    decided = study.decide(claims, found)
    assert [decided[key]["verdict"] for key in claims] == ["holds", "not decided"]
    assert decided["b"]["models"]["seed0"]["verdict"] == "holds"
    p = sorted(row["p"] for one in decided.values() for row in one["models"].values())
    assert decided["a"]["models"]["seed0"]["q"] == pytest.approx(p[2] * 4 / 3)  # Benjamini-Hochberg: third of four
    table = study.claim_rows({"claims": decided})
    assert table[0].split(" | ")[3:] == ["seed0", "seed1", "never trained |"]
    assert "+0.010 [" in table[3]
    assert "(holds)" in table[3]


def test_agreement_of_maps_by_hand(study):
    ranks = study.standard_ranks(np.array([[1.0, 2.0, 3.0, 9.0], [2.0, 1.0, 3.0, 4.0]]))
    assert (ranks[0] * ranks[1]).mean() == pytest.approx(1 - 6 * 2 / (4 * 15))  # Spearman's formula
    assert study.top_sets(np.array([0.1, 0.9, 0.9, 0.3]), 2).tolist() == [0, 1, 1, 0]
    pairs = np.array([[1.0, 0.2, 0.4], [0.2, 1.0, 0.6], [0.4, 0.6, 1.0]])
    weights = np.array([[1, 1, 1], [2, 1, 0], [0, 0, 3]])
    apart = study.apart(pairs, weights[:2])
    assert apart.tolist() == pytest.approx([0.4, 0.2])
    assert study.together(pairs, weights).tolist() == pytest.approx([1, 1, 1])
    assert study.chance_jaccard(3, 2) == pytest.approx(1 / 3 * 1 + 2 / 3 * 1 / 3)


def test_what_layers_give_is_the_mean_over_all_permutations_within_them(study):
    rng = np.random.default_rng(3)
    one, two = rng.normal(size=(2, 6))
    layers = np.array([0, 0, 0, 1, 1, 1])
    orders = [(*a, *b) for a in itertools.permutations(range(3)) for b in itertools.permutations(range(3, 6))]
    assert study.within_layers(one, two, layers) == pytest.approx(
        np.mean([(one * two[list(o)]).mean() for o in orders])
    )


def test_the_ridge_probe_is_that_of_scikit_learn(study):
    rng = np.random.default_rng(4)
    train, test, y = rng.normal(size=(20, 3, 4)), rng.normal(size=(7, 3, 4)), np.arange(20) % 2
    found = study.ridge_scores(train, y, test)
    for head in range(3):
        scaler = StandardScaler().fit(train[:, head])
        fitted = Ridge(alpha=0.1 * 20).fit(
            scaler.transform(train[:, head]), y
        )  # scatter of standardised: n per feature
        assert found[head] == pytest.approx(fitted.predict(scaler.transform(test[:, head])) - 0.5)


def test_a_head_that_says_nothing_is_ranked_last(study):
    rng = np.random.default_rng(5)
    y = np.arange(16) % 2
    z = rng.normal(size=(1, 16, 2, 2, 3)).astype(np.float32)
    z[:, :, 1, 0] = 0.25
    z[:, :, 0, 1] += 3 * y[None, :, None]
    maps = study.head_maps(z, y, ["lda", "kl"], 0).isel(prompt=0)
    assert headprobe.top_heads(maps.sel(metric="lda"), 1).labels == ("L0H1",)
    assert bool((maps.min(("layer", "head")) == maps.isel(layer=1, head=0)).all())


def test_random_heads_of_the_same_layers(study):
    rng = np.random.default_rng(0)
    drawn = study.same_layer_heads(HeadSet(["L0H1", "L2H0", "L2H3"]), (3, 4), rng)
    assert [head.layer for head in drawn] == [0, 2, 2]
    z = np.arange(2 * 3 * 4 * 2).reshape(2, 3, 4, 2)
    assert study.of_heads(z, HeadSet(["L2H3", "L0H0"]))[0].tolist() == [22, 23, 0, 1]


def test_json_with_short_numbers(study):
    plain = study.rounded({"a": np.float64(1 / 3), 2: [np.arange(2), True], "b": {"c": np.array([[0.5], [1.0]])}})
    assert plain == {"a": 0.33333, "2": [[0, 1], True], "b": {"c": [[0.5], [1.0]]}}
    assert json.loads(study.compact(plain)) == plain


# Each of the five


def test_permuted_prompts_keep_their_words(runs, tiny):
    config = tomllib.loads((ANALYSES / "prompt_sensitivity" / "config.toml").read_text(encoding="utf-8"))
    texts, kinds = runs["prompt_sensitivity"].prompts_of(config)
    assert len(texts) >= 12
    assert sorted(name for named in kinds.values() for name in named) == sorted(texts)
    for name in config["permuted"]:
        assert sorted(texts[f"{name}, permuted"].split()) == sorted(texts[name].split())
        assert texts[f"{name}, permuted"] != texts[name]
    known = set(tiny.tokenizer.get_vocab())
    assert {word for text in texts.values() for word in text.split()} <= known


def test_maps_that_share_heads_within_layers_are_beyond_chance(runs):
    rng = np.random.default_rng(9)
    truth = rng.normal(size=32)
    alike, apart = truth + 0.3 * rng.normal(size=(8, 2, 32)), rng.normal(size=(8, 2, 32))
    for scores, found in ((alike, True), (apart, False)):
        maps = runs["prompt_sensitivity"].Maps(scores, scores[:, 0], (4, 8))
        row = runs["prompt_sensitivity"].by_chance(maps, {"one": [0, 1]}, 5, 99, 0)["rows"][0]
        assert (row["spearman, p, within layers"] <= 0.05) == found
        assert (row["spearman, p, all heads"] <= 0.05) == found


def test_between_share_and_sums_by_hand(runs):
    dilution = runs["dilution"]
    x, y = np.array([[0.0], [2.0], [5.0], [7.0]]), np.array([0, 0, 1, 1])
    share = dilution.between_share(x, y, np.array([[1, 1, 1, 1], [0, 1, 1, 1]]))
    assert share.tolist() == pytest.approx([25 / 2, 16 / 1])
    rng = np.random.default_rng(7)
    z, out = rng.normal(size=(3, 2, 2, 4)), rng.normal(size=(2, 2, 4, 8))
    bench = dilution.Bench(z, out, np.zeros((3, 2, 8)), y[:3], y[:3])
    whole = np.concatenate([z[:, 1, 0], z[:, 1, 1]], 1) @ out[1].reshape(8, 8)
    assert bench.written(bench.of_layer(1)) == pytest.approx(whole)


def test_the_sum_of_a_layer_is_what_its_projection_gives(runs, tiny):
    model = tiny
    acts = headprobe.HeadTracer(model).capture(
        labelled_clips(2, seed=3), "is anyone running ?", resid_post=True, progress=False
    )
    out = runs["dilution"].weights_of(model)
    bench = runs["dilution"].Bench(acts.z[0].numpy(), out, np.zeros((2, 6, 128)), np.zeros(2), np.zeros(2))
    module = model.module.get_submodule(model.sites[2].path)
    expected = module(acts.z[0, :, 2].flatten(1)).detach().numpy()
    assert bench.written(bench.of_layer(2)) == pytest.approx(expected, abs=1e-5)


def test_falls_and_restoration_by_hand(runs):
    causal = runs["causal_heads"]
    y, ones = np.array([0, 1, 0, 1]), np.ones((1, 4))
    hit, p = causal.right(np.array([-2.0, 2.0, 1.0, 0.0]), y)
    assert hit.tolist() == [1, 1, 0, 0]
    assert p == pytest.approx(1 / (1 + np.exp([-2.0, -2.0, 1.0, 0.0])))
    assert causal.balanced(np.array([0.2, 0.4, 0.0, 0.8]), y, np.array([[1, 1, 1, 1], [2, 1, 0, 1]])).tolist() == (
        pytest.approx([0.35, 0.4])
    )
    clean = np.array([-1.0, 3.0, -3.0, 5.0])
    assert causal.restored(clean[y == 0], y, clean, ones).tolist() == [0.0]
    assert causal.restored(clean[y == 1], y, clean, ones).tolist() == [1.0]
    assert causal.restored(np.array([[0.0, 0.0]]), y, clean, ones)[0].tolist() == pytest.approx([2 / 6])


def test_questions_asked_the_short_way_are_answered_as_by_the_tracer(runs, tiny):
    causal = runs["causal_heads"]
    model, question = tiny, "is anyone running ?"
    clips = labelled_clips(4, seed=5, split="test", events=["running"])
    tracer, last, heads = headprobe.HeadTracer(model), positions.last(), ["L2H1", "L4H3"]
    source = tracer.capture(clips, question, answers=("yes", "no"), progress=False)
    asked = causal.Asked(model, clips, question)

    def difference(edit=None) -> np.ndarray:
        with edit or edits.scale(model, ["L0H0"], 1.0):
            read = tracer.capture(clips, question, heads=["L0H0"], answers=("yes", "no"), progress=False)
        assert read.answer_logits is not None
        return (read.answer_logits[0, :, 0] - read.answer_logits[0, :, 1]).double().numpy()

    clean = asked.last()
    assert clean == pytest.approx(difference(), abs=1e-4)
    assert asked.everywhere() == pytest.approx(clean, abs=1e-4)
    mean = edits.mean(model, heads, source, last)
    assert asked.last(mean) == pytest.approx(difference(mean), abs=1e-4)
    assert asked.everywhere(edits.zero(model, heads)) == pytest.approx(difference(edits.zero(model, heads)), abs=1e-4)
    swap = {str(clips[i].id): str(clips[i ^ 1].id) for i in range(4)}
    everything = edits.patch(model, model.heads, source, last, pairs=swap)
    assert asked.last(everything) == pytest.approx(clean[[1, 0, 3, 2]], abs=1e-4)  # nothing else tells clips apart
    tokens = causal.every_token(model, clips, question)
    row = {str(one.id): i for i, one in enumerate(clips)}
    same = causal.write(model, model.heads, lambda ids: tokens[[row[i] for i in ids]], "itself")
    assert asked.everywhere(same) == pytest.approx(clean, abs=1e-4)
    zeros = causal.write(model, HeadSet(heads), lambda _: torch.zeros_like(tokens[:1]), "nothing")
    assert asked.everywhere(zeros) == pytest.approx(asked.everywhere(edits.zero(model, heads)), abs=1e-4)


def test_specialisation_by_hand(runs):
    specialisation = runs["specialisation"]
    first = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    own, other = specialisation.specific(first, first * 2)
    assert (own, other) == (pytest.approx(1.0), pytest.approx(-1.0))
    left = specialisation.interaction(np.array([[0.5, 0.7], [0.6, 1.0]]))
    assert left.tolist() == [pytest.approx([0.05, -0.05]), pytest.approx([-0.05, 0.05])]
    yes = {"answers": ["no", "yes"]}
    assert [specialisation.label_of(one, yes) for one in ("yes", "no")] == [1.0, 0.0]
    assert np.isnan(specialisation.label_of(None, yes))
    assert specialisation.label_of("many", {"many": ["three", "many"]}) == 1.0
    assert specialisation.label_of("plaza", {"one": "park"}) == 0.0
    sets = [[HeadSet(["L0H0", "L0H1"]), HeadSet(["L0H0", "L0H2"])], [HeadSet(["L1H0", "L1H1"])] * 2]
    assert specialisation.overlaps(sets, 2) == {"same question": pytest.approx((1 / 3 + 1) / 2), "another": 0.0}
    held = np.array([[[5.0, 1.0, 2.0, 0.0]] * 2, [[0.0, 2.0, 1.0, 5.0]] * 2]).transpose(1, 0, 2)
    assert specialisation.permuted(held, (1, 4), {"seed": 0, "permutations": 99}) <= 0.05


def test_mixtures_are_those_of_the_library(runs):
    metrics = runs["metric_agreement"]
    config = {"metrics": ["lda", "nmi", "entropy"], "paper": ["lda", "nmi"], "seed": 0}
    rng = np.random.default_rng(8)
    y, group = np.arange(24) % 2, np.arange(24)
    z = rng.normal(size=(24, 2, 3, 4)).astype(np.float32)
    z[:, 1, 1] += 2 * y[:, None]
    maps = metrics.maps_of(z, y, group, config)
    names = metrics.names_of(config)
    assert maps.shape == (len(names), 6) == (5, 6)
    four = score_map(maps[:2].reshape(2, 2, 3), metrics=["lda", "nmi"])
    assert maps[names.index("mixture")] == pytest.approx(combine(four).values.ravel())
    assert headprobe.top_heads(score_map(maps[0].reshape(2, 3)), 1)[0] == Head(1, 1)
    assert metrics.pairs_of(names) == [(0, 1)]
    rows = metrics.by_chance(np.stack([maps] * 4), names, (2, 3), 49, 0)
    assert rows[0]["metrics"] == ["lda", "lda"]
    assert rows[0]["spearman"] == pytest.approx(1.0)
