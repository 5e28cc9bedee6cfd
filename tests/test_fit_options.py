"""What a fit can be asked for: callbacks, warm starts, samples, sizes; and what a model tells."""

import doctest
import functools
import itertools

import cases
import numpy as np
import pytest
from cases import THREADS, assert_same_bytes
from test_cluster import METRICS, blobs, every_metric, fitted, mean_rows

from lanewise import KMeans, cluster, costs, draws, hierarchical, lloyd, oracle
from lanewise.cluster import assign


class EnoughError(Exception):
    pass


@pytest.mark.parametrize("module", [cluster, costs, hierarchical])
def test_examples(module):
    result = doctest.testmod(module)
    assert result.attempted > 1
    assert result.failed == 0


# --------------------------------------------------------------------------------------- callback


@every_metric
def test_the_callback_is_told_every_iteration(rng, metric):
    X = blobs(rng, 300, 5, 1)
    told = []
    model = KMeans(12, metric=metric, tol=0).fit(X, callback=told.append)
    assert_same_bytes(fitted(model), fitted(KMeans(12, metric=metric, tol=0).fit(X)))
    assert [(one.run, one.iteration) for one in told] == [(0, i + 1) for i in range(model.n_iter_)]
    assert model.n_iter_ > 4
    runs = [KMeans(12, metric=metric, tol=0, max_iter=i + 1).fit(X) for i in range(len(told))]
    for one, run in zip(told, runs, strict=True):
        assert_same_bytes(one.cluster_centers, run.cluster_centers_)
        assert not one.cluster_centers.flags.writeable
    for (before, run), one in zip(itertools.pairwise(runs), told[1:], strict=True):
        assert one.n_changed == np.count_nonzero(before.labels_ != run.labels_)
        steps = run.cluster_centers_.astype(np.float64) - before.cluster_centers_
        assert one.shift == float(np.cumsum(steps.ravel() ** 2)[-1])
    assert told[-1].n_changed == 0
    with pytest.raises(AttributeError):
        told[0].shift = 0.0


def ending(one, n, true, told):
    told.append(one)
    return true(one.iteration == n)


def test_the_callback_can_end_the_fit(rng):
    X = blobs(rng, 300, 5, 1)
    for n, true in ((1, bool), (3, np.bool_)):
        told = []
        model = KMeans(12, tol=0, n_init=3)
        model.fit(X, callback=functools.partial(ending, n=n, true=true, told=told))
        assert len(told) == n, "no further run is made"
        assert_same_bytes(fitted(model), fitted(KMeans(12, tol=0, max_iter=n).fit(X)))
    told = []
    model = KMeans(12, max_iter=2, n_init=3).fit(X, callback=lambda one: told.append(one) or 1)
    assert [(one.run, one.iteration) for one in told] == [(r, i) for r in range(3) for i in (1, 2)]
    assert len(set(told)) == 6, "told to be kept: each is itself, and has a hash"
    assert_same_bytes(fitted(model), fitted(KMeans(12, max_iter=2, n_init=3).fit(X)))


def test_what_the_callback_raises_ends_the_fit_and_the_model_stays_as_it_was(rng):
    X, Y = blobs(rng, 300, 5, 1), blobs(rng, 200, 5, 1)

    def raising(one):
        if one.iteration == 2:
            raise EnoughError

    model = KMeans(12, tol=0)
    with pytest.raises(EnoughError):
        model.fit(X, callback=raising)
    assert not hasattr(model, "labels_")
    before = fitted(model.fit(Y))
    with pytest.raises(EnoughError):
        model.fit(X, callback=raising)
    assert_same_bytes(fitted(model), before)
    with pytest.raises(TypeError, match=r"^callback: expected a function, got 5"):
        model.fit(X, callback=5)


# ----------------------------------------------------------------------------------------- Ctrl-C


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("at", [(0, 1), (0, 3), (1, 1), (2, 2)])
def test_ctrl_c_leaves_the_best_so_far(rng, at, sampled):
    """That of the runs that are done, or of the iterations of the one that runs."""
    X = blobs(rng, 300, 5, 1)
    options = {"tol": 0, "max_iter": 4}

    def ctrl_c(one):
        if (one.run, one.iteration) == at:
            raise KeyboardInterrupt

    model = KMeans(12, n_init=3, max_points_per_centroid=20 if sampled else None, **options)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, callback=ctrl_c)
    some = np.sort(draws.permutation(0, "kmeans", 300, stream=2**33)[: 240 if sampled else 300])
    runs = []
    for number, seed in enumerate(itertools.islice(draws.seeds(0, 3), at[0] + 1)):
        runs.append(KMeans(12, random_state=seed, **options))
        if number == at[0]:
            runs[-1].max_iter = at[1]
        runs[-1].fit(X[some])
    best = runs[int(np.argmin([run.inertia_ for run in runs]))]
    assert_same_bytes(model.cluster_centers_, best.cluster_centers_)
    assert model.n_iter_ == best.n_iter_
    labels, distances = assign(X, model.cluster_centers_)
    assert_same_bytes(model.labels_, labels)
    assert model.inertia_ == float(np.cumsum(distances.astype(np.float64))[-1])


def test_ctrl_c_before_the_first_iteration_changes_nothing(rng):
    X = blobs(rng, 300, 5, 1)

    def ctrl_c(what, done, total):
        raise KeyboardInterrupt

    model = KMeans(12)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, progress=ctrl_c)
    assert not hasattr(model, "labels_")


# ------------------------------------------------------------------------------------- warm starts


@every_metric
def test_a_warm_start_goes_on(rng, metric):
    X, Y = blobs(rng, 300, 5, 1), blobs(rng, 200, 5, 1)
    model = KMeans(12, metric=metric, warm_start=True, max_iter=2, tol=0, n_init=2).fit(X)
    assert_same_bytes(
        fitted(model), fitted(KMeans(12, metric=metric, max_iter=2, tol=0, n_init=2).fit(X))
    )
    for Z in (X, Y):
        given = KMeans(12, metric=metric, init=model.cluster_centers_, max_iter=2, tol=0).fit(Z)
        assert_same_bytes(fitted(model.fit(Z)), fitted(given))
    before = fitted(model)
    with pytest.raises(ValueError, match=r"^warm_start: expected dimension 4, got 5"):
        model.fit(X[:, :4])
    model.n_clusters = 11
    with pytest.raises(ValueError, match=r"^warm_start: expected 11 rows, got 12"):
        model.fit(X)
    assert_same_bytes(fitted(model), before)
    with pytest.raises(TypeError, match=r"^warm_start: expected a bool, got int 1"):
        KMeans(warm_start=1)


# ----------------------------------------------------------------------------------------- samples


def test_a_sample_is_fitted_and_all_points_are_labelled(rng):
    X = blobs(rng, 400, 3, 4)
    weights = rng.standard_exponential(400)
    for w in (None, weights):
        model = KMeans(4, max_points_per_centroid=20, random_state=7)
        model.fit(X, sample_weight=w)
        ids = np.sort(draws.permutation(7, "kmeans", 400, stream=2**33)[:80])
        some = KMeans(4, random_state=7).fit(X[ids], sample_weight=None if w is None else w[ids])
        assert_same_bytes(model.cluster_centers_, some.cluster_centers_)
        assert model.n_iter_ == some.n_iter_
        labels, distances = assign(X, some.cluster_centers_)
        assert_same_bytes(model.labels_, labels)
        distances = distances.astype(np.float64) * (1 if w is None else w)
        assert model.inertia_ == float(np.cumsum(distances)[-1])
        everyone = KMeans(4, max_points_per_centroid=100, random_state=7)
        assert_same_bytes(
            fitted(everyone.fit(X, sample_weight=w)),
            fitted(KMeans(4, random_state=7).fit(X, sample_weight=w)),
        )


def test_a_sample_is_of_points_that_count(rng):
    X = blobs(rng, 400, 3, 4)
    weights = np.zeros(400)
    weights[rng.permutation(400)[:6]] = 1
    model = KMeans(2, max_points_per_centroid=3).fit(X, sample_weight=weights)
    without = KMeans(2).fit(X[weights > 0])
    assert_same_bytes(model.cluster_centers_, without.cluster_centers_)


# ------------------------------------------------------------------------------------------- sizes


def assign_with_room(table, max_size):
    """The rule as it is written down, one asker after another."""
    n, k = table.shape
    labels, room = np.full(n, -1), np.full(k, max_size)
    while (labels < 0).any():
        open_ = [j for j in range(k) if room[j] > 0]
        asked = {i: min(open_, key=lambda j: (table[i, j], j)) for i in np.flatnonzero(labels < 0)}
        for j in open_:
            askers = sorted((i for i in asked if asked[i] == j), key=lambda i: (table[i, j], i))
            for i in askers[: room[j]]:
                labels[i] = j
            room[j] -= min(room[j], len(askers))
    return labels


@pytest.mark.parametrize("max_size", [20, 23, 40, 120])
@pytest.mark.parametrize("chunk", [7, 1 << 16])
def test_points_are_assigned_in_rounds(rng, monkeypatch, max_size, chunk):
    monkeypatch.setattr(lloyd, "_CHUNK", chunk)
    X = cases.integers(rng, (120, 2), 9)
    start = X[:6]
    table = ((X[:, None] - start) ** 2).sum(axis=2)
    labels = assign_with_room(table, max_size)
    model = KMeans(6, init=start, max_iter=1, max_cluster_size=max_size).fit(X)
    assert_same_bytes(model.cluster_centers_, mean_rows(X, labels, None, 6))
    centers = model.cluster_centers_
    everyone = np.tile(np.arange(6), (120, 1))
    table = cases.score_lists(cases.SCALAR, "l2", X, centers, everyone)
    assert model.labels_.tolist() == assign_with_room(table, max_size).tolist()
    found = table[np.arange(120), model.labels_].astype(np.float64)
    assert model.inertia_ == float(np.cumsum(found)[-1])
    if max_size == 20:
        assert model.inertia_ > -model.score(X), "not all are with the nearest"
    if max_size == 120:
        assert_same_bytes(fitted(model), fitted(KMeans(6, init=start, max_iter=1).fit(X)))


def test_of_equal_askers_the_smaller_numbers_are_taken(rng):
    """In every round, whomever they have asked before."""
    for _ in range(20):
        X = cases.integers(rng, (40, 1), 3)
        start = np.array([[-3], [-1], [0], [1], [3]], dtype=np.float32)
        labels = assign_with_room((X - start.T) ** 2, 8)
        model = KMeans(5, init=start, max_iter=1, max_cluster_size=8).fit(X)
        assert_same_bytes(model.cluster_centers_, mean_rows(X, labels, None, 5))


@every_metric
def test_no_cluster_is_larger(kernels, rng, metric):
    X = blobs(rng, 300, 6, 5)
    options = {"metric": metric, "max_cluster_size": 33, "max_iter": 20}
    expected = fitted(KMeans(10, kernels="scalar", n_threads=1, **options).fit(X))
    assert np.bincount(KMeans(10, metric=metric).fit(X).labels_).max() > 33
    assert np.bincount(expected[1]).max() <= 33
    for n_threads in THREADS:
        model = KMeans(10, kernels=kernels, n_threads=n_threads, **options).fit(X)
        assert_same_bytes(fitted(model), expected, n_threads)
        assert_same_bytes(model.predict(X), assign(X, model.cluster_centers_, metric)[0])


def test_sizes_that_cannot_be(rng):
    X = blobs(rng, 31, 3, 2)
    with pytest.raises(
        ValueError, match=r"^X: expected at most n_clusters \* max_cluster_size = 30 rows, got 31"
    ):
        KMeans(3, max_cluster_size=10).fit(X)
    assert np.bincount(KMeans(3, max_cluster_size=10).fit(X[:30]).labels_).tolist() == [10] * 3
    for name in ("max_cluster_size", "max_points_per_centroid"):
        with pytest.raises(ValueError, match=f"^{name}: expected an integer from 1 to"):
            KMeans(3, **{name: 0})
        with pytest.raises(TypeError, match=f"^{name}: expected an integer, got float"):
            KMeans(3, **{name: 2.0})
    with pytest.raises(ValueError, match=r"^max_cluster_size: expected None beside"):
        KMeans(3, max_cluster_size=5, max_points_per_centroid=5)


# --------------------------------------------------------------------------------- what it tells


@pytest.mark.parametrize("tile", [1, 50, 1 << 20])
def test_transform(kernels, rng, monkeypatch, tile):
    monkeypatch.setattr(cluster, "_TILE", tile)
    X, Q = blobs(rng, 120, 7, 3), blobs(rng, 30, 7, 3)
    for metric in METRICS:
        model = KMeans(5, metric=metric, kernels=kernels).fit(X)
        found = model.transform(Q)
        assert found.shape == (30, 5)
        assert found.dtype == np.float32
        points = Q if metric == "l2" else cases.unit(Q)
        everyone = np.tile(np.arange(5), (30, 1))
        table = cases.score_lists(kernels, metric, points, model.cluster_centers_, everyone)
        if metric == "l2":
            table = np.sqrt(table)
        assert_same_bytes(found, table)
        assert np.array_equal(found.argmin(axis=1), model.predict(Q))
        assert_same_bytes(KMeans(5, metric=metric).fit_transform(X), model.transform(X))
        assert model.transform(np.empty((0, 7))).shape == (0, 5)
    model = KMeans(2, init=[[3.0, 4.0], [0.0, 0.0]], kernels=kernels).fit([[3.0, 4.0], [0.0, 0.0]])
    assert model.transform([[0.0, 0.0], [6.0, 0.0]]).tolist() == [[5, 0], [5, 6]]


@every_metric
def test_score_is_minus_the_inertia(rng, metric):
    X, Q = blobs(rng, 120, 7, 3), blobs(rng, 30, 7, 3)
    weights = rng.standard_exponential(30)
    model = KMeans(5, metric=metric).fit(X)
    assert model.score(X) == -model.inertia_
    labels, distances = assign(Q, model.cluster_centers_, metric)
    distances = distances.astype(np.float64)
    error = np.zeros(30)
    if metric == "cosine":
        # Of float64's unit vectors: ours are rounded once, and the difference from one once more.
        x, c = Q.astype(np.float64), model.cluster_centers_[labels].astype(np.float64)
        x /= np.sqrt((x**2).sum(axis=1, keepdims=True))
        distances, products = 1 - (x * c).sum(axis=1), np.abs(x * c).sum(axis=1)
        error = oracle.row_error(7, products, "ip") + oracle.gamma(2) * products
        error += oracle.UNIT * (distances + error)
    for w in (None, weights):
        each = distances * (1 if w is None else w)
        found = model.score(Q, sample_weight=w)
        if metric == "l2":
            assert found == -float(np.cumsum(each)[-1])
        else:
            bound = np.sum(error * (1 if w is None else w)) + 60 * 2.0**-53 * np.sum(each)
            assert abs(found + np.sum(each)) <= bound < 1e-4
    assert model.score(Q[:0]) == model.score(Q[:0], sample_weight=[]) == 0
    with pytest.raises(ValueError, match=r"^sample_weight: expected shape"):
        model.score(Q, sample_weight=weights[1:])


def test_only_a_fitted_model_tells():
    for name in ("predict", "transform", "score"):
        with pytest.raises(ValueError, match=r"^KMeans: expected a fitted model, call fit first"):
            getattr(KMeans(2), name)(np.eye(3))
        model = KMeans(2).fit(np.eye(3))
        with pytest.raises(ValueError, match=r"^X: expected dimension 3, got 2"):
            getattr(model, name)(np.eye(2))
