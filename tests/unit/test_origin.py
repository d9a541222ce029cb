from dataclasses import replace

import numpy as np
import pytest
import torch
from equality import same_bits

from headprobe.activations import HeadActivations, example_table
from headprobe.errors import InputError
from headprobe.examples import Example
from headprobe.heads import HeadSet
from headprobe.metrics._labellings import read_data, score_parts
from headprobe.metrics.consensus import (
    METHODS,
    borda,
    consensus_scores,
    kemeny,
    median_rank,
    reciprocal_rank_fusion,
    robust_rank_aggregation,
)
from headprobe.metrics.normalisation import combine, min_max, rank_scale
from headprobe.metrics.ranks import from_head_sets, ranks, selection_frequency
from headprobe.metrics.resampling import bootstrap_maps, size_maps, stack_maps
from headprobe.metrics.saliency import METRICS, saliency
from headprobe.metrics.stability import coefficient_of_variation, mean, rss, standard_deviation
from headprobe.provenance import Provenance
from headprobe.scores import ORIGIN, _check_same_model, _keep_origin, _origin_of, from_json, score_map, to_json

OWN = {"model": "small", "revision": "main", "weights_hash": "9f2c"}


def activations(seed=0, **origin):
    rng = np.random.default_rng(seed)
    table = example_table([Example("x", id=str(i), label=i % 2) for i in range(12)])
    values = torch.from_numpy(rng.normal(size=(2, 12, 4, 5))).float()
    heads = HeadSet([(layer, head) for layer in range(2) for head in range(2)])
    return HeadActivations(
        values, heads, {"ask": "", "tell": ""}, table, replace(Provenance("small"), **(OWN | origin))
    )


def test_maps_of_activations_say_which_model_they_are_of():
    acts = activations()
    scores = saliency(acts)
    assert scores.attrs == OWN
    assert _origin_of(Provenance("small")) == {"model": "small"}
    parts = score_parts(read_data(acts), METRICS["lda"], [np.arange(12), np.arange(6)])
    assert parts.attrs == OWN
    assert saliency(acts.z.numpy(), acts.labels).attrs == {}


def test_every_step_from_saliency_to_consensus_keeps_the_model():
    scores = saliency(activations())
    for one in (min_max(scores), rank_scale(scores), combine(scores), ranks(scores)):
        assert one.attrs == OWN
    maps = combine(scores).assign_attrs(units="nats")
    for function in (mean, standard_deviation, rss):
        assert function(maps).attrs == OWN | {"units": "nats"}
    for function in (coefficient_of_variation, borda, median_rank, reciprocal_rank_fusion, ranks, min_max, rank_scale):
        assert function(maps).attrs == OWN, function
    assert kemeny(maps).scores.attrs == OWN
    assert robust_rank_aggregation(maps).adjusted.attrs == OWN
    assert selection_frequency(maps, 1, "prompt").attrs == OWN
    assert from_head_sets({"a": HeadSet(["L0H0"])}, rss(maps)).attrs == OWN
    for method in METHODS:
        assert {k: v for k, v in consensus_scores(scores, method, k=2).attrs.items() if k in ORIGIN} == OWN


def test_repeats_of_one_model_keep_it():
    def score(acts, y):
        return combine(saliency(acts, y, ["lda", "rsa"]))

    acts = activations()
    assert bootstrap_maps(score, acts, n_resamples=2).attrs == OWN
    assert size_maps(score, acts, sizes=[8], n_repeats=2).attrs == OWN
    assert stack_maps({0: score(acts, None), 1: score(acts, None)}, "seed").attrs == OWN


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ({"model": "large"}, r"different models \(model: large, small\): they are no repeats along 'dataset'"),
        ({"revision": "v2"}, r"different models \(revision: main, v2\)"),
        ({"weights_hash": "0000"}, r"different models \(weights_hash: 0000, 9f2c\)"),
    ],
)
def test_maps_of_different_models_are_not_stacked_but_as_models(other, text):
    maps = {"a": saliency(activations()), "b": saliency(activations(1, **other))}
    with pytest.raises(InputError, match=text):
        stack_maps(maps, "dataset")
    stacked = stack_maps(maps, "model")
    assert stacked.attrs == {name: value for name, value in OWN.items() if name not in other}
    assert stacked["model"].values.tolist() == ["a", "b"]


def test_maps_that_do_not_say_are_taken_as_they_are():
    known, unknown = saliency(activations()), saliency(activations())
    unknown.attrs = {}
    _check_same_model([known, unknown, known], "")
    assert stack_maps({0: unknown, 1: known}, "seed").sizes["seed"] == 2


def test_only_the_origin_is_kept():
    source = score_map([[1.0]]).assign_attrs(OWN, units="nats")
    result = score_map([[2.0]]).assign_attrs(units="bits")
    assert _keep_origin(result, source).attrs == OWN
    assert _keep_origin(score_map([[2.0]]), score_map([[1.0]])).attrs == {}


def test_a_file_of_a_map_keeps_the_model():
    scores = saliency(activations())
    assert same_bits(from_json(to_json(scores)), scores, of="a map and its copy in JSON")
    with pytest.raises(InputError, match="different models"):
        stack_maps({"a": from_json(to_json(scores)), "b": saliency(activations(1, model="large"))}, "dataset")
    for wrong in ('["small"]', '{"model": 3}', '{"units": "nats"}'):
        with pytest.raises(InputError, match=r"the origin must be texts under some of the names \('model', 'revision'"):
            from_json(to_json(score_map([[1.0]]))[:-1] + f', "origin": {wrong}}}')
