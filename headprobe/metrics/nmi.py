"""Agreement of the classes with clusters found without labels, all heads at once."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headprobe.metrics._features import CLASSES, Batch, is_large
from headprobe.metrics.metric import Metric

__all__ = ["RESTARTS", "k_means", "nmi", "two_means"]

RESTARTS = 24
"""Default number of starts."""

# Of so many starts, the best that differ, examples are moved one at a time.
KEPT = 8

# Of a step's possible moves, those that gain at least this share of what the best one gains are made together.
TOGETHER = 0.1

# Values this close are the same up to the rounding of float32, relative to the larger.
SAME = 1e-6

# Gains below this share of the between-cluster scatter are rounding.
ROUNDING = 1e-12

# Single moves of one start, as a multiple of the number of examples.
MOST_MOVES = 20

# Sides of as many heads at a time as stay near the processor.
TOGETHER_BYTES = 2**19

# Of many examples, starts are tried on so many of them, for so many steps; so many that differ are gone on with on all,
# as long as a step takes off so much of the inertia.
TRIED_ON = 400
STEPS_TRIED = 5
GONE_ON_WITH = 2
ENOUGH = 1e-5
MOST_STEPS = 100

# Working memory of k-means for the heads it takes at a time.
K_MEANS_BYTES = 2**25


def two_means(
    x: Float[Tensor, "head example d"] | Batch,
    random_state: int = 0,
    restarts: int = RESTARTS,
    exact: bool | None = None,
) -> tuple[Bool[Tensor, "head example"], Float[Tensor, " head"]]:
    """Split the examples of every head into two clusters of small inertia.

    Starts from k-means++ seeds (Arthur and Vassilvitskii 2007), and some from the example farthest from the mean
    against the rest. From each, examples move to the other cluster while that lowers the inertia, the change of both
    means counted (Hartigan and Wong 1979), which leaves the many poor optima of Lloyd's steps in high dimensions;
    first moves of similar gain together, in float32, then from the best of the starts one move at a time, in float64,
    until none helps. The best is kept.

    More than 400 examples, if they are more than twice the dimensions, would have too many pairs: there the starts are
    tried on 400 of them, drawn at random, and the two best are gone on with on all, all moves that help at once, in
    float32, while the inertia falls. The cost is then linear in the examples. On 1200 made clips `nmi` with these
    clusters differed by 0.0003 in the mean and at most 0.013 (`analyses/benchmarks/selection.py --exact`).

    Parameters
    ----------
    x
        `[head, example, d]`, float64, or a batch; each head needs two different examples.
    random_state
        Seed of the starts.
    restarts
        Number of starts.
    exact
        True: in the way for few examples, whatever their number; False: in that for many. Default: as said above.

    Returns
    -------
    clusters, inertia
        `[head, example]` bool, and `[head]`, the sum of squared distances to the cluster means.

    Examples
    --------
    >>> clusters, inertia = two_means(torch.tensor([[[0.0], [2.0], [9.0]]], dtype=torch.float64))
    >>> (clusters[0] == clusters[0, 0]).tolist(), inertia.tolist()
    ([True, True, False], [2.0])
    """
    batch = Batch.of(x)
    if is_large(batch.n, batch.d) if exact is None else not exact:
        clusters, inertia = _of_many(batch, 2, random_state, restarts)
        return clusters > 0, inertia
    # About the mean the two cluster sums are S and -S: S and the cluster sizes say everything.
    gram = batch.gram
    n = gram.shape[1]
    some = max(1, TOGETHER_BYTES // (4 * n * restarts))
    # The first moves only look for good starts: half of the digits, at one size for all heads, and twice the speed.
    small = (gram / gram.diagonal(dim1=1, dim2=2).amax(1)[:, None, None]).to(torch.float32)
    starts = [_move_together(part, _starts(part, random_state, restarts)) for part in small.split(some)]
    sides, between = _move_singly(gram, torch.cat(starts).to(gram.dtype))
    # Equal solutions differ by rounding: take the first within it, so that the choice is stable.
    top = between.amax(1, keepdim=True)
    choice = (between >= top * (1 - ROUNDING)).to(torch.uint8).argmax(1)
    clusters = sides[torch.arange(len(sides), device=sides.device), :, choice] > 0
    return clusters, gram.diagonal(dim1=1, dim2=2).sum(1) - top[:, 0] * n


def k_means(
    x: Float[Tensor, "head example d"] | Batch,
    k: int,
    random_state: int = 0,
    restarts: int = RESTARTS,
    exact: bool | None = None,
) -> tuple[Int[Tensor, "head example"], Float[Tensor, " head"]]:
    """Split the examples of every head into k clusters of small inertia.

    As `two_means`, for any number of clusters: k-means++ seeds, then moves that lower the inertia, of similar gain
    together at first and one at a time at last; many examples as there.

    Parameters
    ----------
    x
        `[head, example, d]`, float64, or a batch; each head needs two different examples.
    k
        Number of clusters, 2 or more; fewer are used where fewer examples differ.
    random_state
        Seed of the starts.
    restarts
        Number of starts.
    exact
        True: in the way for few examples, whatever their number; False: in that for many. Default: as said above.

    Returns
    -------
    clusters, inertia
        `[head, example]` cluster numbers from 0, and `[head]`, the sum of squared distances to the cluster means.

    Examples
    --------
    >>> x = torch.tensor([[[0.0], [2.0], [9.0], [30.0]]], dtype=torch.float64)
    >>> k_means(x, 3)[1].tolist()
    [2.0]
    """
    batch = Batch.of(x)
    if is_large(batch.n, batch.d) if exact is None else not exact:
        return _of_many(batch, k, random_state, restarts)
    gram = batch.gram
    some = max(1, K_MEANS_BYTES // (gram.element_size() * 8 * gram.shape[1] * restarts * k))
    parts = [_k_means(part, k, random_state, restarts) for part in gram.split(some)]
    return torch.cat([clusters for clusters, _ in parts]), torch.cat([inertia for _, inertia in parts])


def _k_means(gram: Tensor, k: int, random_state: int, restarts: int) -> tuple[Tensor, Tensor]:
    heads, n, _ = gram.shape
    number = _nearest_of_seeds(gram, k, random_state, restarts)
    labels, inertia = number.clone(), gram.new_empty(heads, restarts)
    active = torch.arange(heads, device=gram.device)
    for step in itertools.count():
        gain, to, value = _gains(gram, number, k)
        best, place = gain.max(1)
        rising = (best > ROUNDING * gram.diagonal(dim1=1, dim2=2).sum(1, keepdim=True)) & (step < MOST_MOVES * n)
        inertia[active], labels[active] = value, number
        still = rising.any(1)
        if not still.any():
            break
        if step < math.isqrt(n):
            chosen = (gain >= TOGETHER * best[:, None]) & rising[:, None]
            number = torch.where(chosen, to, number)
        else:
            at = place[:, None]
            number = number.scatter(1, at, torch.where(rising[:, None], to.gather(1, at), number.gather(1, at)))
        active, gram, number = active[still], gram[still], number[still]
    # The first of the best up to rounding.
    lowest = inertia.amin(1, keepdim=True)
    choice = (inertia <= lowest + ROUNDING * inertia.amax(1, keepdim=True)).to(torch.uint8).argmax(1)
    return labels[torch.arange(heads, device=labels.device), :, choice], lowest[:, 0]


def _of_many(batch: Batch, k: int, random_state: int, restarts: int) -> tuple[Tensor, Tensor]:
    """Clusters of many examples and their inertia: starts on some of them, the best of which go on with all."""
    some = torch.from_numpy(np.random.default_rng([random_state, 3]).permutation(batch.n)[:TRIED_ON]).to(batch.device)
    clusters, left = [], []
    for x in batch.single:
        # What one product with the examples of a cluster sums up: themselves, their number and their squared lengths.
        rows = torch.cat([x, torch.ones_like(x[:, :1]), x.square().sum(1, keepdim=True)], 1)
        few = x.index_select(0, some)
        number = _nearest_of_seeds((few @ few.mT)[None], k, random_state, restarts)[0].mT
        tried, value = _descend(rows.index_select(0, some), number, k, STEPS_TRIED)
        # Between-cluster scatter, about the mean of all.
        chosen = tried[_best_different((rows[some, -1].sum() - value)[None], ENOUGH)[0, :GONE_ON_WITH]]
        member = torch.stack([chosen == c for c in range(k)]).to(few.dtype)
        centres = (member @ few) / member.sum(2, keepdim=True).clamp(min=1)
        number = (centres.square().sum(2)[:, :, None] - 2 * (centres @ x.mT)).argmin(0)
        # And the example farthest from the mean against the rest, which a sample may lack.
        alone = torch.zeros_like(number[:1])
        alone[0, rows[:, -1].argmax()] = 1
        found, value = _descend(rows, torch.cat([number, alone]), k, MOST_STEPS)
        best = int((value <= value.min() * (1 + ENOUGH)).to(torch.uint8).argmax())
        clusters.append(found[best])
        left.append((value[best] / rows[:, -1].sum()).double())
    return torch.stack(clusters), torch.stack(left) * torch.linalg.vector_norm(batch.x, dim=(1, 2)).square()


def _descend(rows: Tensor, number: Tensor, k: int, steps: int) -> tuple[Tensor, Tensor]:
    """Move all examples that gain by it at once, while that lowers a start's inertia; its best clusters and inertia."""
    whole, across = rows.sum(0), rows.mT.contiguous()
    kept, lowest = number.clone(), torch.full((len(number),), torch.inf, dtype=rows.dtype, device=rows.device)
    going = torch.arange(len(number), device=rows.device)
    for _ in range(steps):
        others = torch.stack([number == c for c in range(1, k)])
        sums = (others.flatten(0, 1).to(rows.dtype) @ rows).unflatten(0, others.shape[:2])
        sums = torch.cat([(whole - sums.sum(0))[None], sums])
        sizes = sums[:, :, -2].round()
        centres = sums[:, :, :-2] / sizes[:, :, None].clamp(min=1)
        squares = centres.square().sum(2)
        value = (whole[-1] - (squares * sizes).sum(0)).clamp(min=0)
        better = (value < lowest[going] * (1 - ENOUGH)).nonzero()[:, 0]
        if not len(better):
            break
        if len(better) < len(going):
            going, number, value = going[better], number[better], value[better]
            sizes, centres, squares = sizes[:, better], centres[:, better], squares[:, better]
        kept[going], lowest[going] = number, value
        table = torch.cat([-2 * centres, squares[:, :, None], torch.ones_like(squares)[:, :, None]], 2)
        distance = (table.flatten(0, 1) @ across).unflatten(0, squares.shape)
        # An example takes its mean with it: its own cluster without it, and the others with it.
        leave, join = torch.where(sizes > 1, sizes / (sizes - 1).clamp(min=1), 0.0), sizes / (sizes + 1)
        for c in range(k):
            own = (number == c).to(rows.dtype)
            distance[c] *= own.mul_((leave[c] - join[c])[:, None]).add_(join[c, :, None])
        number = (distance[1] < distance[0]).long() if k == 2 else distance.argmin(0)
    return kept, lowest


def _starts(gram: Tensor, random_state: int, restarts: int) -> Tensor:
    """Sides +1 and -1, [head, example, restart]: k-means++ seeds, the last fifth single examples far from the mean."""
    n = gram.shape[1]
    alone = min(restarts // 5, n)
    pairs = restarts - alone
    draws = torch.from_numpy(np.random.default_rng(random_state).random((2, pairs))).to(gram.device)
    first = (draws[0] * n).long()
    norms = gram.diagonal(dim1=1, dim2=2)
    distance = norms[:, None].add(norms[:, first, None]).sub_(gram.index_select(1, first), alpha=2).clamp_(min=0)
    rows = torch.arange(pairs, device=gram.device)
    distance[:, rows, first] = 0
    reached = distance.cumsum_(2)
    drawn = draws[1].to(gram.dtype)[:, None] * reached[:, :, -1:]
    second = torch.searchsorted(reached, drawn, right=True).clamp_(max=n - 1).mT
    sides = gram.new_zeros(len(gram), n, restarts)
    apart = gram.new_zeros(len(gram), n, pairs)
    apart[:, first, rows] = -1.0
    apart.scatter_(1, second, 1.0)
    middle = (norms.gather(1, second[:, 0]) - norms[:, first])[:, None] / 2
    torch.gt(torch.bmm(gram, apart), middle, out=sides[:, :, :pairs])
    if alone:
        sides[:, :, pairs:].scatter_(1, norms.topk(alone, 1).indices[:, None], 1.0)
    return sides.mul_(2).sub_(1)


def _nearest_of_seeds(gram: Tensor, k: int, random_state: int, restarts: int) -> Tensor:
    """Number of the nearest of k seeds of k-means++, [head, example, restart]."""
    n = gram.shape[1]
    draws = torch.from_numpy(np.random.default_rng(random_state).random((k, restarts))).to(gram)
    norms = gram.diagonal(dim1=1, dim2=2)
    seed = (draws[0] * n).long().expand(len(gram), -1)
    nearest = torch.full((len(gram), restarts, n), torch.inf, dtype=gram.dtype, device=gram.device)
    number = torch.zeros(nearest.shape, dtype=torch.long, device=gram.device)
    for c in range(k):
        if c:
            reached = nearest.cumsum(2)
            drawn = draws[c][:, None] * reached[:, :, -1:]
            seed = torch.searchsorted(reached, drawn, right=True).clamp_(max=n - 1)[:, :, 0]
        products = gram.gather(1, seed[:, :, None].expand(-1, -1, n))
        distance = (norms[:, None] + norms.gather(1, seed)[:, :, None]).sub_(products, alpha=2).clamp_(min=0)
        distance.scatter_(2, seed[:, :, None], 0.0)
        number = torch.where(distance < nearest, c, number)
        nearest = torch.minimum(distance, nearest)
    return number.mT.contiguous()


def _gains(gram: Tensor, number: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """What moving each example to its best other cluster takes off the inertia, that cluster, and the inertia."""
    shape = (*number.shape, k)
    member = torch.zeros(shape, dtype=gram.dtype, device=gram.device).scatter_(3, number[:, :, :, None], 1.0)
    sizes = member.sum(1)
    filled = sizes.clamp(min=1)
    products = torch.bmm(gram, member.flatten(2)).view(shape).div_(filled[:, None])
    squares = member.mul_(products).sum(1).div_(filled)
    norms = gram.diagonal(dim1=1, dim2=2)
    value = (norms.sum(1)[:, None] - (squares * sizes).sum(2)).clamp_(min=0)
    distance = products.mul_(-2).add_(norms[:, :, None, None]).add_(squares[:, None]).clamp_(min=0)
    own = number[:, :, :, None]
    size = sizes[:, None].expand(-1, number.shape[1], -1, -1).gather(3, own)
    # A cluster of one cannot be left; an empty one is joined for nothing.
    leave = torch.where(size > 1, distance.gather(3, own) * size / (size - 1).clamp(min=1), -torch.inf)
    join = distance.mul_((sizes / (sizes + 1))[:, None]).scatter_(3, own, torch.inf)
    cost, to = join.min(3)
    return leave[:, :, :, 0] - cost, to, value


def _move_together(gram: Tensor, sides: Tensor) -> Tensor:
    """A few steps of several moves at once, which need not raise the scatter; the best starts that differ."""
    n = gram.shape[1]
    trace = gram.diagonal(dim1=1, dim2=2).sum(1, keepdim=True)
    apart = gram.clone()
    apart.diagonal(dim1=1, dim2=2).zero_()
    average, difference = _inverse_sizes_after(n, gram)
    # Two buffers for all large arrays: fresh memory costs as much time as the arithmetic.
    pull, after = torch.empty_like(sides), torch.empty_like(sides)
    for step in itertools.count():
        # With centred examples the sum S over side +1 is half of the sum of s_i x_i. This is 2 s_i x_i S - |x_i|^2.
        torch.bmm(apart, sides, out=pull).mul_(sides)
        length = pull.sum(1).add_(trace).div_(4)
        size = sides.sum(1).add_(n).div_(2)
        # Several moves at once may empty a cluster; the scatter is 0 then.
        value = length / (size * (n - size)).clamp_(min=0.5)
        if step == math.isqrt(n):
            place = _best_different(value)
            return sides.gather(2, place[:, None].expand(-1, n, -1))
        # The scatter after moving one example.
        torch.sub(length[:, None], pull, out=after)
        number = size.long()
        after.mul_(torch.addcmul(average[number][:, None], difference[number][:, None], sides, out=pull))
        gain = _largest(after).sub_(value)
        threshold = torch.where(gain > SAME * value, value + TOGETHER * gain, torch.inf)
        # Arithmetic instead of conditions, because this is where the time goes.
        sides.addcmul_(sides, torch.ge(after, threshold[:, None], out=pull), value=-2)
    raise AssertionError("unreachable")


def _largest(x: Tensor) -> Tensor:
    """Largest over the middle axis, by halves: several times as fast as `amax` over an axis that is not the last."""
    while x.shape[1] > 1:
        half, odd = divmod(x.shape[1], 2)
        top = torch.maximum(x[:, :half], x[:, half : 2 * half])
        if odd:
            top[:, 0] = torch.maximum(top[:, 0], x[:, -1])
        x = top
    return x[:, 0]


def _best_different(value: Tensor, same: float = SAME) -> Tensor:
    """Places of the `KEPT` largest values of every row; one that is there again comes after all others."""
    ordered, order = value.sort(dim=1, descending=True, stable=True)
    again = torch.zeros_like(ordered, dtype=torch.bool)
    again[:, 1:] = ordered[:, :-1] - ordered[:, 1:] <= same * ordered[:, :-1]
    return order.gather(1, again.to(torch.uint8).sort(dim=1, stable=True).indices[:, :KEPT])


def _move_singly(gram: Tensor, sides: Tensor) -> tuple[Tensor, Tensor]:
    """The best single move of every start until none raises the scatter; sides, and the scatter over n."""
    n = gram.shape[1]
    average, difference = _inverse_sizes_after(n, gram)
    norms = gram.diagonal(dim1=1, dim2=2)
    # For every head and start: the inner products of the examples with twice the sum S of the cluster +1, the squared
    # length of S, the number of examples in it, the scatter, and the scatter after moving one example.
    drawn = torch.bmm(gram, sides)
    pull = drawn * sides
    length, size = pull.sum(1).div_(4), sides.sum(1).add_(n).div_(2).long()
    between = length / (size * (n - size)).clamp(min=1)
    after = (norms[:, :, None] + length[:, None]).sub_(pull)
    after.mul_(torch.addcmul(average[size][:, None], difference[size][:, None], sides, out=pull))
    # On with those that have not come to an end, one row for each.
    head, restart = (_largest(after) > between * (1 + ROUNDING)).nonzero(as_tuple=True)
    old, drawn, own = sides.mT[head, restart], drawn.mT[head, restart], norms[head]
    length, size = length[head, restart], size[head, restart]
    for moves in itertools.count():
        if not len(head):
            return sides, between
        after = (own + length[:, None]).addcmul_(old, drawn, value=-1)
        after.mul_(torch.addcmul(average[size, None], difference[size, None], old))
        top, place = after.max(1)
        value = length / (size * (n - size)).clamp(min=1)
        # Every move raises the scatter, so this ends; the bound is for rounding that might say otherwise.
        rising = (top > value * (1 + ROUNDING)) & (moves < MOST_MOVES * n)
        still = rising.nonzero()[:, 0]
        if len(still) < len(old):
            gone = (~rising).nonzero()[:, 0]
            sides[head[gone], :, restart[gone]] = old[gone]
            between[head[gone], restart[gone]] = value[gone]
            head, restart, old, drawn, length, size, own, place = (
                v.index_select(0, still) for v in (head, restart, old, drawn, length, size, own, place)
            )
        at = place[:, None]
        side = old.gather(1, at)
        length = length + (own.gather(1, at) - side * drawn.gather(1, at))[:, 0]
        size = size - side[:, 0].long()
        drawn.addcmul_(gram[head, place], side, value=-2)
        old.scatter_(1, at, -side)
    raise AssertionError("unreachable")


def _inverse_sizes_after(n: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """1 / (n_1 n_0) after moving an example of side s, as `a + b s`, by the size n_1 before; 0 if that empties one."""
    size = torch.arange(n + 1, dtype=like.dtype, device=like.device)
    leave, join = (size - 1) * (n + 1 - size), (size + 1) * (n - 1 - size)
    leave, join = (torch.where(v > 0, 1 / v, 0.0) for v in (leave, join))
    return (leave + join) / 2, (leave - join) / 2


def nmi(
    x: Float[Tensor, "head example d"] | Batch,
    y: Bool[Tensor, " example"] | Int[Tensor, " example"],
    random_state: int = 0,
    exact: bool | None = None,
) -> Float[Tensor, " head"]:
    """Normalised mutual information of the classes and of as many k-means clusters as there are classes.

    `I(Y, Yhat) / sqrt(H(Y) H(Yhat))` (arXiv 2512.17601, section 3, S_NMI, with two classes), `Yhat` the clusters of
    `two_means`, or of `k_means` with more classes.

    Parameters
    ----------
    x
        `[head, example, d]`, float64, not constant; or a batch.
    y
        `[example]`, True for class 1 of two; or class numbers from 0.
    random_state
        Seed of the starts. All heads use the same draws, so a head's score does not depend on its place.
    exact
        As in `two_means`, which finds the clusters of many examples in a quicker way.

    Returns
    -------
    Tensor
        `[head]`, 0 to 1, higher where the clusters are the classes. Free of shift, scale and rotation.

    Examples
    --------
    >>> x = torch.tensor([[[-0.6], [-0.5], [0.5], [0.6]]], dtype=torch.float64)
    >>> nmi(x, torch.tensor([False, False, True, True])).tolist()
    [1.0]
    """
    return _nmi_together(x, y[None], random_state, exact)[:, 0]


def _nmi_together(
    x: Tensor | Batch, labels: Tensor, random_state: int = 0, exact: bool | None = None
) -> Float[Tensor, "head labelling"]:
    k = int(labels.max()) + 1
    clusters, _ = two_means(x, random_state, exact=exact) if k == 2 else k_means(x, k, random_state, exact=exact)
    return torch.stack([_contingency_nmi(clusters, y) for y in labels], 1)


def _contingency_nmi(
    clusters: Bool[Tensor, "head example"] | Int[Tensor, "head example"],
    y: Bool[Tensor, " example"] | Int[Tensor, " example"],
) -> Float[Tensor, " head"]:
    """Normalised mutual information, geometric mean of the entropies, of clusterings and one labelling."""
    n = y.shape[0]
    classes = torch.nn.functional.one_hot(y.long()).double()
    joint = torch.nn.functional.one_hot(clusters.long()).double().mT @ classes / n
    h_joint = torch.special.entr(joint).sum((1, 2))
    h_clusters = torch.special.entr(joint.sum(2)).sum(1)
    h_y = torch.special.entr(classes.mean(0)).sum()
    information = (h_y + h_clusters - h_joint).clamp(min=0)
    # Differences of entropies carry rounding of this size; scikit-learn cuts at the same place.
    information = torch.where(information > 4 * torch.finfo(torch.float64).eps, information, 0.0)
    return (information / (h_y * h_clusters).sqrt()).clamp(max=1)


def _numbers(n: int, d: int) -> int:
    return 2 * n * d if is_large(n, d) else n * n + 6 * n * RESTARTS


METRICS = (Metric("nmi", nmi, CLASSES, ("random_state",), rows=False, numbers=_numbers, together=_nmi_together),)
"""What this file adds to `headprobe.metrics.saliency.METRICS`."""
