"""Sites of many architectures: their sizes by hand, and proof from the weights that the slices are heads.

The proof needs no knowledge of how a class arranges its queries, keys and values. One row of the linear map
that makes them belongs to one head; changing it must change the projection's input inside the slices that the
site gives to that head (or to the heads that share the key and value), and nowhere else. A change of a query
must be able to reach the whole slice.
"""

from __future__ import annotations

import dataclasses
import inspect

import pytest
import torch
from architectures import CASES, build, expected

from headprobe.models.sites import HeadSite, block_paths, check, discover

# A norm over all heads together stands in front of the projection: z is read behind it.
COMMON_NORM = {"bitnet": ("softmax", "attn_sub_norm"), "minimax": ("linear", "norm")}
# Queries, keys and values, whatever a class calls what makes them.
INPUTS = {
    *("q_proj", "k_proj", "v_proj", "query_proj", "key_proj", "value_proj", "query", "key", "value", "q", "k", "v"),
    *(
        "qkv_proj",
        "query_key_value",
        "Wqkv",
        "in_proj",
        "in_proj_qkv",
        "in_proj_qkvz",
        "c_attn",
        "q_b_proj",
        "kv_b_proj",
        *("q_lin", "k_lin", "v_lin"),
    ),
}
# Queries and keys are normalised over all heads, so that only values belong to one head.
VALUES_ONLY = {"olmo2", "olmo_hybrid"}


@pytest.mark.parametrize("name", CASES)
def test_sites_have_the_sizes_worked_out_by_hand(name):
    module = build(name)
    sites = discover(module, kinds="all")
    assert sites == expected(name)
    check(module, sites)
    assert discover(module) == tuple(site for site in sites if site.kind == "softmax")
    assert len(block_paths(module, sites)) == module.config.get_text_config().num_hidden_layers


class Stop(Exception):
    pass


def replay_block(module: torch.nn.Module, site: HeadSite):
    """The block of a site, and a function that runs it again on one input and returns [token, feature] of z."""
    block = module.get_submodule(site.path[: site.path.index(f".{site.layer}.")] + f".{site.layer}")
    taken: list = []

    def keep(_, args, kwargs):
        taken.append((args, kwargs))
        raise Stop

    hook = block.register_forward_pre_hook(keep, with_kwargs=True)
    torch.manual_seed(1)
    options = {"use_cache": False} if "use_cache" in inspect.signature(type(module).forward).parameters else {}
    with torch.no_grad(), pytest.raises(Stop):
        module(input_ids=torch.randint(3, 50, (1, 6)), **options)
    hook.remove()
    args, kwargs = taken[0]
    kwargs.pop("cache", None)  # XLM's, which would grow with every run

    def replay() -> torch.Tensor:
        seen: list[torch.Tensor] = []

        def stop(_, args):
            seen.append(args[0].detach().clone().flatten(0, -2))
            raise Stop

        hook = module.get_submodule(site.path).register_forward_pre_hook(stop)
        with torch.no_grad(), pytest.raises(Stop):
            block(*args, **kwargs)
        hook.remove()
        return seen[0]

    return block, replay


def trace_rows(name: str, site: HeadSite) -> None:
    """Fail unless every row of the queries, keys and values stays within the slices of its heads."""
    module = build(name)
    block, replay = replay_block(module, site)
    if COMMON_NORM.get(name, ("",))[0] == site.kind:
        setattr(module.get_submodule(site.path.rpartition(".")[0]), COMMON_NORM[name][1], torch.nn.Identity())
    n_keys = CASES[name][1].get("linear_num_key_heads") if site.kind == "linear" else site.n_kv_heads
    share = site.n_heads // (n_keys or site.n_heads)
    sources = [
        part
        for path, part in block.named_modules()
        if path.rpartition(".")[2] in INPUTS and not {"mamba", "indexer", "mlp"} & set(path.split("."))
        if name not in VALUES_ONLY or path.endswith("v_proj")
    ]
    base = replay()
    reached: set[int] = set()
    whole = False
    for source in sources:
        rows = source.weight.T if type(source).__name__ == "Conv1D" else source.weight
        for row in range(0, len(rows), max(1, len(rows) // 13)):
            before = rows[row].detach().clone()
            with torch.no_grad():
                rows[row] += torch.randn(before.shape, generator=torch.Generator().manual_seed(row))
                changed = (replay() - base).abs().amax(0).view(site.n_heads, site.head_dim) > 1e-5
                rows[row] = before
            heads = changed.any(1).nonzero().flatten().tolist()
            if heads:  # there are rows that nothing reads, such as the key of the only token in a window
                first = heads[0] // share * share
                assert set(heads) <= set(range(first, first + share)), f"row {row} reaches heads {heads}"
                reached |= set(heads)
                whole |= bool(changed[heads[0]].all())
    assert reached == set(range(site.n_heads)), f"only heads {sorted(reached)} are reached"
    assert whole or name in VALUES_ONLY, "no row reaches a whole slice: the slices are wider than the heads"


SITES = [
    pytest.param(name, site, id=f"{name}-{site.kind}-{site.layer}")
    for name in CASES
    for site in {(s.n_heads, s.head_dim, s.kind, s.n_kv_heads): s for s in reversed(expected(name))}.values()
    if site.kind != "cross"
]


@pytest.mark.parametrize(("name", "site"), SITES)
def test_a_row_of_the_weights_reaches_the_slices_of_its_heads_only(name, site):
    trace_rows(name, site)


@pytest.mark.parametrize(
    ("n_heads", "head_dim", "text"), [(8, 4, "reaches heads"), (2, 16, "no row reaches a whole slice")]
)
def test_another_cut_of_the_features_would_be_seen(n_heads, head_dim, text):
    site = dataclasses.replace(expected("bloom")[0], n_heads=n_heads, head_dim=head_dim, n_kv_heads=n_heads)
    with pytest.raises(AssertionError, match=text):
        trace_rows("bloom", site)
