"""Where k-means starts: greedy k-means++ in plain integers, and candidates for many points."""

import cases
import numpy as np
import pytest
from cases import SCALAR, THREADS, assert_same_bytes

from lanewise import KMeans, _native, draws, seeding


def first_above(chances, level):
    """The first point up to which there is more than a level; chances are whole numbers."""
    return int(np.searchsorted(np.cumsum(chances), level, side="right"))


def squared(X, c):
    return ((X.astype(np.int64) - X[c].astype(np.int64)) ** 2).sum(axis=1)


def greedy(X, weights, k, seed):
    """The rule in whole numbers; only u * total is a float."""
    n_trials = 2 + int(np.log(k))
    uniforms = draws.uniforms(seed, "kmeans", 1 + (k - 1) * n_trials).tolist()
    first = first_above(weights, uniforms[0] * int(weights.sum()))
    chosen, nearest = [first], squared(X, first)
    for j in range(1, k):
        total = int((weights * nearest).sum())
        if total == 0:
            chosen.append(next(i for i in range(len(X)) if i not in chosen))
            continue
        drawn = uniforms[1 + (j - 1) * n_trials :][:n_trials]
        trials = [first_above(weights * nearest, u * total) for u in drawn]
        left = [int((weights * np.minimum(nearest, squared(X, c))).sum()) for c in trials]
        chosen.append(trials[int(np.argmin(left))])
        nearest = np.minimum(nearest, squared(X, chosen[-1]))
    return chosen


def all_points(X, weights, k, seed):
    """The rule over all points, in the order of their bytes."""
    order = np.array(sorted(range(len(X)), key=lambda i: X[i].astype("<f4").tobytes()))
    return order[greedy(X[order], weights[order], k, seed)].tolist()


def candidates(X, weights, k, seed):
    """Ids and weights of what is drawn in rounds."""
    n_drawn, ids = max(k, 256), []
    table = np.empty((len(X), 0), dtype=np.int64)
    chances = weights
    for step in range(4):
        if chances.sum() == 0:
            break
        u = draws.uniforms(seed, "kmeans", n_drawn, stream=step + 1)
        levels = (np.arange(n_drawn) + u) / n_drawn * int(chances.sum())
        new = sorted({first_above(chances, level) for level in levels.tolist()})
        ids += new
        table = np.concatenate([table, *(squared(X, c)[:, None] for c in new)], axis=1)
        chances = weights * table.min(axis=1)
    return np.array(ids), np.bincount(table.argmin(axis=1), weights, len(ids)).astype(np.int64)


def start(X, weights, k, seed, kernels=SCALAR, threads=1):
    doubles = None if weights is None else weights.astype(np.float64)
    return seeding.plus_plus(X, doubles, k, seed, kernels, threads, lambda *step: None)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("k", [1, 2, 9])
def test_greedy_start_is_the_rule_in_whole_numbers(rng, k, seed):
    X = cases.integers(rng, (600, 3), 20)
    for weights in (None, rng.integers(0, 4, 600)):
        expected = all_points(X, np.ones(600, int) if weights is None else weights, k, seed)
        assert start(X, weights, k, seed).tolist() == expected
        model = KMeans(k, random_state=seed, max_iter=1).fit(X, sample_weight=weights)
        given = KMeans(k, init=X[expected], max_iter=1).fit(X, sample_weight=weights)
        assert_same_bytes(model.cluster_centers_, given.cluster_centers_)


@pytest.mark.parametrize("chunk", [100, 1 << 16])
@pytest.mark.parametrize("k", [1, 260])
def test_many_points_start_from_candidates(rng, monkeypatch, k, chunk):
    """Drawn, weighted and chosen as the rule in whole numbers says, whatever the chunks."""
    monkeypatch.setattr(seeding, "_CHUNK", chunk)
    X = cases.integers(rng, (1350, 3), 40)
    for weights in (None, rng.integers(0, 4, 1350)):
        ids, mass = candidates(X, np.ones(1350, int) if weights is None else weights, k, 3)
        assert 600 < len(ids) < 1350
        assert mass.sum() == (1350 if weights is None else weights.sum())
        expected = ids[greedy(X[ids], mass, k, 3)]
        assert np.array_equal(start(X, weights, k, 3), expected)


@pytest.mark.parametrize("n", [300, 1100])
def test_same_bits_for_everybody(kernels, rng, n):
    X = rng.standard_normal((n, 9), dtype=np.float32)
    for weights in (None, rng.standard_exponential(n)):
        expected = start(X, weights, 20, 5)
        assert len(set(expected.tolist())) == 20
        for threads in THREADS:
            assert_same_bytes(start(X, weights, 20, 5, kernels, threads), expected, threads)


@pytest.mark.parametrize("n", [40, 1500])
@pytest.mark.parametrize("n_distinct", [1, 5, 29])
def test_no_point_twice_while_others_are_left(rng, n, n_distinct):
    """Distinct points come first, then any that are left."""
    distinct = rng.standard_normal((n_distinct, 4), dtype=np.float32)
    X = distinct[rng.permutation(np.arange(n) % n_distinct)]
    for k in (n_distinct, n_distinct + 3, 40):
        chosen = start(X, None, k, 1)
        assert len(set(chosen.tolist())) == k
        assert len(np.unique(X[chosen[:n_distinct]], axis=0)) == n_distinct


def test_few_points_may_come_in_any_order_and_repeated(rng):
    X = rng.standard_normal((90, 4), dtype=np.float32)
    weights = rng.integers(0, 4, 90)
    expected = X[start(X, weights, 10, 6)]
    assert_same_bytes(X[start(X, weights * 8, 10, 6)], expected)
    shuffled = rng.permutation(90)
    assert_same_bytes(X[shuffled][start(X[shuffled], weights[shuffled], 10, 6)], expected)
    repeated = np.repeat(X, weights, axis=0)
    assert_same_bytes(repeated[start(repeated, None, 10, 6)], expected)


def test_points_without_weight_are_not_drawn(rng):
    for n in (60, 1500):
        X = rng.standard_normal((n, 4), dtype=np.float32)
        weights = (np.arange(n) % 5 == 0).astype(float)
        assert (weights[start(X, weights, 10, 0)] == 1).all()


def test_a_few_points_that_outweigh_all_are_all_found(rng):
    """Each round finds but a few of them: there are rounds until there are candidates enough."""
    X = np.zeros((2000, 1), dtype=np.float32)
    X[:300, 0] = 2.0 ** np.linspace(0, 40, 300)
    chosen = start(X, None, 300, 0)
    assert len(set(X[chosen, 0].tolist())) == 300


def test_what_a_draw_may_not_trust(rng):
    """A driver is called in parts with the same answer, and refuses what would read elsewhere."""
    X = rng.standard_normal((300, 5), dtype=np.float32)
    uniforms = draws.uniforms(0, "kmeans", 1 + 8 * 4)
    whole, parts = np.empty(9, np.int64), np.empty(9, np.int64)
    found = [np.full(300, np.inf, np.float32) for _ in range(2)]
    _native.plus_plus(SCALAR, X, None, uniforms, 4, 0, 9, whole, found[0], 1)
    for begin, end in ((0, 1), (1, 4), (4, 9)):
        _native.plus_plus(SCALAR, X, None, uniforms, 4, begin, end, parts, found[1], 2)
    assert_same_bytes((parts, found[1]), (whole, found[0]))
    wrong = ((4, 0, 10, whole), (4, 5, 5, whole), (0, 0, 9, whole), (5, 0, 9, whole))
    for n_trials, begin, end, chosen in (*wrong, (4, 2, 9, whole - 300)):
        with pytest.raises(ValueError, match="plus plus"):
            _native.plus_plus(SCALAR, X, None, uniforms, n_trials, begin, end, chosen, found[0], 1)
