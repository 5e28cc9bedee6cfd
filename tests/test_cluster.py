"""KMeans and assign: float64's Lloyd, the same bits for everybody, awkward clusters."""

import copy
import functools
import itertools
import math
import pickle

import cases
import numpy as np
import pytest
from cases import THREADS, assert_same_bytes
from hypothesis import assume, given
from hypothesis import strategies as st

import lanewise as lw
from lanewise import KMeans, _native, draws, lloyd, oracle
from lanewise.cluster import assign

METRICS = ("l2", "cosine")
every_metric = pytest.mark.parametrize("metric", METRICS)


def blobs(rng, n, dim, n_blobs, *, spread=4, offset=0):
    """Points around a few centres, overlapping a little."""
    centers = rng.standard_normal((n_blobs, dim)) * spread + offset
    noise = rng.standard_normal((n, dim))
    return (centers[rng.integers(0, n_blobs, n)] + noise).astype(np.float32)


def fitted(model):
    """Everything that a fit leaves behind."""
    numbers = np.array([model.inertia_, model.n_iter_])
    return model.cluster_centers_, model.labels_, numbers


def mean_rows(X, labels, weights, k):
    """Means as documented: summed in the order of the points in double, then rounded once."""
    sums, totals, _ = oracle.cluster_sums(X, labels, weights, k)
    return (sums / totals[:, None]).astype(np.float32)


# ------------------------------------------------------------------------- against float64 Lloyd


def unit(V):
    lengths = np.sqrt((V**2).sum(axis=1, keepdims=True))
    return np.divide(V, lengths, out=np.zeros_like(V), where=lengths > 0)


def clear(X, centroids, metric):
    """Whether each point prefers its nearest centroid by more than float32 can hide.

    For L2 the score is x.c - |c|^2 / 2, both shifted by the mean centroid: three roundings in the
    operands, and half of it in units of the distance. The float32 centroids are the exact ones
    with each coordinate rounded; two roundings cover the errors of the float64 means as well.
    For the cosine, a point was rounded once and a centroid twice when they were normalised, and
    the mean once before that.
    """
    dim = X.shape[1]
    if metric == "l2":
        table = ((X[:, None] - centroids) ** 2).sum(axis=2)
        shift = centroids.mean(axis=0)
        x, c = np.abs(X - shift), np.abs(centroids - shift)
        magnitude = x @ c.T + 0.5 * (c**2).sum(axis=1)
        moved = oracle.gamma(2) * np.sqrt((centroids**2).sum(axis=1))
        error = 2 * oracle.chain_error(dim, magnitude, roundings=3)
        error += 2 * np.sqrt(table) * moved + moved**2
    else:
        X, centroids = unit(X), unit(centroids)
        table = 1 - X @ centroids.T
        error = oracle.chain_error(dim, np.abs(X) @ np.abs(centroids).T) + oracle.gamma(6)
    best = table.argmin(axis=1)
    points = np.arange(len(X))
    rivals = table - error
    rivals[points, best] = np.inf
    return (table[points, best] + error[points, best] < rivals.min(axis=1)).all()


@functools.cache
def clear_data(metric, dim, k, offset):
    """Points and a start from which float64's Lloyd meets no near tie and no empty cluster."""
    for seed in range(100):
        rng = np.random.default_rng([seed, dim])
        X = blobs(rng, 240, dim, k, offset=offset)
        start = X[rng.permutation(240)[:k]]
        steps = [oracle.lloyd(X, start, metric, 0)]
        while len(steps) < 3 or steps[-1][3] > steps[-2][3]:
            steps.append(oracle.lloyd(X, start, metric, len(steps)))
        x = X.astype(np.float64)
        if len(steps) > 4 and all(
            len(set(labels.tolist())) == k and clear(x, centroids, metric)
            for centroids, labels, _, _ in steps
        ):
            return X, start, steps[-1]
    raise AssertionError("no such data")


@pytest.mark.parametrize(("dim", "k"), [(2, 3), (6, 8), (33, 17)])
@pytest.mark.parametrize(("metric", "offset"), [("l2", 0), ("l2", 1000), ("cosine", 0)])
def test_follows_lloyd_in_float64(kernels, metric, offset, dim, k):
    """Same labels after the same number of iterations, centroids and inertia up to rounding."""
    X, start, (centroids, labels, inertia, n_iter) = clear_data(metric, dim, k, offset)
    model = KMeans(k, metric=metric, init=start, tol=0, max_iter=50, kernels=kernels).fit(X)
    assert np.array_equal(model.labels_, labels)
    assert model.n_iter_ == n_iter < 50
    assert model.n_features_in_ == dim
    distances = oracle.assign_points(X, centroids, metric)[1]
    if metric == "l2":
        assert_same_bytes(model.cluster_centers_, mean_rows(X, labels, None, k))
        moved = oracle.gamma(2) * np.sqrt((centroids**2).sum(axis=1))
        error = oracle.row_error(dim, distances, "l2")
        error += 2 * np.sqrt(distances) * moved[labels] + moved[labels] ** 2
    else:
        # A point's rounding counts for more where the cluster's points cancel out.
        points = unit(X.astype(np.float64))
        means = np.stack([points[labels == j].mean(axis=0) for j in range(k)])
        moved = oracle.gamma(3) / np.sqrt((means**2).sum(axis=1)) + oracle.gamma(3)
        error = oracle.row_error(dim, 1.0, "ip") + moved[labels] + oracle.gamma(4)
    difference = np.sqrt(((model.cluster_centers_ - centroids) ** 2).sum(axis=1))
    assert (difference <= moved).all()
    # Sums of 240 doubles on both sides.
    assert abs(model.inertia_ - inertia) <= np.sum(error) + 480 * 2.0**-53 * inertia


@every_metric
def test_weights_follow_lloyd_step_by_step(rng, metric):
    """Fractional weights: each iteration is one weighted mean of the labels before it."""
    X = blobs(rng, 150, 5, 4)
    weights = rng.standard_exponential(150)
    start = X[:4]
    before = assign(X, start, metric)[0]
    for n in range(1, 6):
        model = KMeans(4, metric=metric, init=start, tol=0, max_iter=n)
        model.fit(X, sample_weight=weights)
        if model.n_iter_ < n:
            break
        points = X if metric == "l2" else lengthless(X)
        means = mean_rows(points, before, weights, 4)
        expected = means if metric == "l2" else lengthless(means)
        assert_same_bytes(model.cluster_centers_, expected, n)
        distances = assign(X, model.cluster_centers_, metric)[1].astype(np.float64)
        if metric == "l2":
            assert model.inertia_ == float(np.cumsum(distances * weights)[-1])
        before = model.labels_
    assert n > 1


def lengthless(V):
    """Rows divided by their length, as documented: in double, rounded once."""
    V = V.astype(np.float64)
    norms = np.array([math.sqrt(sum(x * x for x in row)) for row in V.tolist()])
    return (V / norms[:, None]).astype(np.float32)


def test_a_converged_fit_is_a_fixed_point(rng):
    X = blobs(rng, 300, 7, 6)
    model = KMeans(6, tol=0).fit(X)
    assert model.n_iter_ < 300
    assert_same_bytes(model.cluster_centers_, mean_rows(X, model.labels_, None, 6))
    labels, distances = assign(X, model.cluster_centers_)
    assert_same_bytes(model.labels_, labels)
    assert_same_bytes(model.predict(X), labels)
    assert model.inertia_ == float(np.cumsum(distances.astype(np.float64))[-1])


def test_the_offset_of_all_points_costs_nothing(rng):
    """Whole numbers around 2**20: the differences to centroids are exact there too."""
    X = np.repeat([[0, 0], [9, 0], [0, 17]], 16, axis=0) + cases.integers(rng, (48, 2), 3)
    start = X[[0, 16, 32]]
    offset = np.float32(2**20)
    here, there = (KMeans(3, init=start + o, tol=0).fit(X + o) for o in (0, offset))
    assert_same_bytes(there.labels_, here.labels_)
    assert there.n_iter_ == here.n_iter_
    assert_same_bytes(there.cluster_centers_, mean_rows(X + offset, here.labels_, None, 3))


# ------------------------------------------------------------------------- the same for everybody


@every_metric
@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_same_bits_for_everybody(kernels, rng, metric, init):
    X = blobs(rng, 700, 19, 5, spread=0.5)
    weights = rng.standard_exponential(700)
    options = {"metric": metric, "init": init, "max_iter": 6, "random_state": 3, "n_init": 2}
    reference = KMeans(20, kernels="scalar", n_threads=1, **options)
    expected = [fitted(reference.fit(X, sample_weight=w)) for w in (None, weights)]
    Q = blobs(rng, 50, 19, 5)
    labels = reference.predict(Q)
    for n_threads in THREADS:
        model = KMeans(20, kernels=kernels, n_threads=n_threads, **options)
        for w, e in zip((None, weights), expected, strict=True):
            assert_same_bytes(fitted(model.fit(X, sample_weight=w)), e, n_threads)
        assert_same_bytes(model.predict(Q), labels, n_threads)


@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_random_state_decides(rng, init):
    X = blobs(rng, 200, 3, 2, spread=0)
    one, again, other = (KMeans(8, init=init, random_state=s, max_iter=2).fit(X) for s in (5, 5, 6))
    assert_same_bytes(fitted(again), fitted(one))
    assert not np.array_equal(one.cluster_centers_, other.cluster_centers_)
    assert_same_bytes(
        fitted(KMeans(8, init=init, random_state=2**64 - 1).fit(X)),
        fitted(KMeans(8, init=init, random_state=2**64 - 1, n_threads=1).fit(X)),
    )


def test_of_several_runs_the_best_is_kept(rng):
    X = blobs(rng, 200, 3, 9)
    runs = [KMeans(9, random_state=s).fit(X) for s in draws.seeds(11, 5)]
    inertias = [run.inertia_ for run in runs]
    assert len(set(inertias)) > 1
    best = runs[int(np.argmin(inertias))]
    assert_same_bytes(fitted(KMeans(9, random_state=11, n_init=5).fit(X)), fitted(best))


# --------------------------------------------------------------------------------------- weights


@every_metric
def test_whole_weights_are_repeated_points(rng, metric):
    """Exactly: sums of whole numbers are, and the distances are multiples of one small power."""
    X = cases.integers(rng, (60, 4), 6)
    if metric == "cosine":
        X = np.array([[3, 0, 0, 0], [0, 2, 0, 0], [1, 1, 1, 1], [2, -2, 2, 2]], np.float32)
        X = X[rng.integers(0, 4, 60)]
    start = np.unique(X, axis=0)[:4]
    weights = rng.integers(1, 5, 60)
    options = {"metric": metric, "init": start, "tol": 0, "max_iter": 4}
    weighted = KMeans(4, **options).fit(X, sample_weight=weights)
    repeated = KMeans(4, **options).fit(np.repeat(X, weights, axis=0))
    assert_same_bytes(weighted.cluster_centers_, repeated.cluster_centers_)
    assert_same_bytes(np.repeat(weighted.labels_, weights), repeated.labels_)
    assert weighted.n_iter_ == repeated.n_iter_
    distances = assign(X, weighted.cluster_centers_, metric)[1].astype(np.float64)
    grid = distances * 2.0**36
    assert (grid == np.rint(grid)).all()
    assert grid.sum() * 5 < 2**53
    assert weighted.inertia_ == repeated.inertia_


def test_points_without_weight_decide_nothing(rng):
    X = blobs(rng, 120, 3, 3)
    weights = rng.integers(0, 2, 120).astype(float)
    X[weights == 0] *= 50
    start = X[weights > 0][:3]
    weighted = KMeans(3, init=start, tol=0).fit(X, sample_weight=weights)
    without = KMeans(3, init=start, tol=0).fit(X[weights > 0])
    assert_same_bytes(weighted.cluster_centers_, without.cluster_centers_)
    assert_same_bytes(weighted.labels_[weights > 0], without.labels_)
    assert weighted.inertia_ == without.inertia_
    assert_same_bytes(weighted.labels_, weighted.predict(X))


def test_the_scale_of_weights_does_not_matter(rng):
    X = blobs(rng, 120, 3, 3)
    weights = rng.standard_exponential(120)
    one, other = (KMeans(5, tol=0).fit(X, sample_weight=weights * s) for s in (1, 2.0**-30))
    assert_same_bytes(one.cluster_centers_, other.cluster_centers_)
    assert_same_bytes(one.labels_, other.labels_)
    assert one.inertia_ == other.inertia_ * 2.0**30


# ------------------------------------------------------------------------------------------ start


def test_random_start_is_distinct_points(rng):
    X = blobs(rng, 50, 4, 3)
    for seed in (0, 7):
        start = X[draws.permutation(seed, "kmeans", 50)[:10]]
        got = KMeans(10, init="random", random_state=seed, max_iter=1).fit(X)
        assert_same_bytes(fitted(got), fitted(KMeans(10, init=start, max_iter=1).fit(X)))
    every = KMeans(50, init="random").fit(X)
    assert every.inertia_ == 0
    assert sorted(every.labels_.tolist()) == list(range(50))


def test_the_given_start_is_left_alone(rng):
    X = blobs(rng, 50, 4, 3)
    for metric in METRICS:
        start = X[:3].copy()
        KMeans(3, metric=metric, init=start).fit(X)
        assert_same_bytes(start, X[:3])
    listed = KMeans(3, init=X[:3].tolist()).fit(X.astype(np.float64))
    assert_same_bytes(fitted(listed), fitted(KMeans(3, init=X[:3]).fit(X)))


# -------------------------------------------------------------------------------- awkward clusters


def test_an_empty_cluster_gets_the_farthest_point():
    X = np.array([[0], [2], [4], [100], [102], [110]], dtype=np.float32)
    model = KMeans(3, init=[[0], [100], [5000]], max_iter=1).fit(X)
    assert model.cluster_centers_.ravel().tolist() == [2, 101, 110]
    assert model.labels_.tolist() == [0, 0, 0, 1, 1, 2]
    assert model.inertia_ == 4 + 0 + 4 + 1 + 1 + 0


def test_farthest_points_of_equal_distance_go_by_their_number():
    X = np.array([[1], [-1], [0], [1], [-1]], dtype=np.float32)
    model = KMeans(2, init=[[0], [9]], max_iter=1).fit(X)
    assert model.cluster_centers_.ravel().tolist() == [-0.25, 1]


def test_empty_clusters_get_points_from_several_homes():
    """The two farthest share a home that can spare one of them only."""
    X = np.array([[10, 0], [-10, 0], [101, 0], [100, 0], [99, 0]], dtype=np.float32)
    start = [[0, 0], [100, 0], [1e4, 0], [2e4, 0]]
    model = KMeans(4, init=start, max_iter=1).fit(X)
    assert model.cluster_centers_.tolist() == [[-10, 0], [99.5, 0], [10, 0], [101, 0]]


def test_what_is_left_of_a_weight_is_no_cluster():
    """0.1 + 0.2 - 0.2 is more than 0.1: no centroid may be made of that difference."""
    X = np.array([[3, 1], [7, 5], [1, 1]], dtype=np.float32)
    start = [[0, 0], [1000, 1000], [2000, 2000]]
    model = KMeans(3, init=start, max_iter=1).fit(X, sample_weight=[0.1, 0.2, 0])
    rows = {tuple(row) for row in X.tolist()}
    assert {tuple(row) for row in model.cluster_centers_.tolist()} <= rows


@given(st.lists(st.tuples(*[st.integers(-4, 4)] * 2), min_size=1, max_size=14), st.data())
def test_no_cluster_stays_empty_while_there_are_points_for_it(points, data):
    X = np.array(points, dtype=np.float32)
    k = data.draw(st.integers(1, len(set(points))))
    coordinate = st.integers(-9, 9)
    start = data.draw(st.lists(st.tuples(coordinate, coordinate), min_size=k, max_size=k))
    model = KMeans(k, init=np.array(start, np.float32), tol=0, max_iter=100).fit(X)
    assume(model.n_iter_ < 100)
    assert set(model.labels_.tolist()) == set(range(k))
    # Sums of whole numbers are exact in any order.
    assert_same_bytes(model.cluster_centers_, mean_rows(X, model.labels_, None, k))


@every_metric
@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_equal_points(metric, init):
    X = np.full((6, 3), 2, dtype=np.float32)
    for k in (1, 3, 6):
        model = KMeans(k, metric=metric, init=init).fit(X)
        assert model.labels_.tolist() == [0] * 6
        center = X[0] if metric == "l2" else lengthless(X[:1])[0]
        assert (model.cluster_centers_ == center).all()
        assert model.n_iter_ == 1
        assert model.inertia_ == 0 or metric == "cosine"


def test_fewer_distinct_points_than_clusters():
    X = np.array([[1], [1], [5], [5], [5]], dtype=np.float32)
    for init in ("k-means++", "random"):
        model = KMeans(4, init=init).fit(X)
        assert model.inertia_ == 0
        assert set(model.cluster_centers_.ravel().tolist()) == {1, 5}


def test_one_cluster_is_the_mean(rng):
    X = blobs(rng, 101, 3, 2)
    for init in ("k-means++", "random"):
        model = KMeans(1, init=init).fit(X)
        assert_same_bytes(model.cluster_centers_, mean_rows(X, [0] * 101, None, 1))
        assert model.labels_.tolist() == [0] * 101
    assert KMeans(1).fit(X[:1]).inertia_ == 0


def test_as_many_clusters_as_points(rng):
    X = blobs(rng, 30, 3, 2)
    model = KMeans(30).fit(X)
    assert model.inertia_ == 0
    assert sorted(model.labels_.tolist()) == list(range(30))
    assert_same_bytes(model.cluster_centers_[model.labels_], X)


def test_spherical_clusters_with_zero_rows(rng):
    X = np.concatenate([np.zeros((3, 4)), np.eye(4)[[0, 0, 1, 1]] * [[1], [7], [2], [3]]])
    model = KMeans(2, metric="cosine", init=np.eye(4)[:2]).fit(X)
    assert model.labels_.tolist() == [0, 0, 0, 0, 0, 1, 1]
    assert model.cluster_centers_.tolist() == np.eye(4)[:2].tolist()
    assert model.inertia_ == 3, "a zero vector is at distance one of everything"
    assert model.predict(np.zeros((2, 4))).tolist() == [0, 0]
    zeros = KMeans(2, metric="cosine").fit(np.zeros((5, 4)))
    assert zeros.inertia_ == 5
    assert (zeros.cluster_centers_ == 0).all()


def test_spherical_clusters_do_not_know_lengths(rng):
    X = blobs(rng, 90, 5, 4)
    scale = np.ldexp(np.float32(1), rng.integers(-60, 60, (90, 1))).astype(np.float32)
    one, other = (KMeans(4, metric="cosine").fit(V) for V in (X, X * scale))
    assert_same_bytes(fitted(other), fitted(one))
    lengths = (one.cluster_centers_.astype(np.float64) ** 2).sum(axis=1)
    assert (np.abs(lengths - 1) <= oracle.gamma(3)).all()


def test_when_to_stop(rng):
    X = 8 * blobs(rng, 400, 3, 1)
    whole = KMeans(12, tol=0).fit(X)
    assert whole.n_iter_ > 4
    runs = [KMeans(12, tol=0, max_iter=n).fit(X) for n in range(1, whole.n_iter_ + 3)]
    counts = [run.n_iter_ for run in runs]
    assert counts == [min(n, whole.n_iter_) for n in range(1, whole.n_iter_ + 3)]
    assert_same_bytes(fitted(runs[-1]), fitted(whole))
    inertias = [run.inertia_ for run in runs]
    assert inertias == sorted(inertias, reverse=True)
    assert KMeans(12, tol=1e30).fit(X).n_iter_ == 1
    # The shift of iteration n, summed, beside tol times the mean variance.
    centers = [run.cluster_centers_.astype(np.float64) for run in runs]
    shifts = [((b - a) ** 2).sum() for a, b in itertools.pairwise(centers)]
    tol = 2 * shifts[2] / X.astype(np.float64).var(axis=0).mean()
    expected = next(n for n, shift in enumerate(shifts, 2) if shift <= 2 * shifts[2])
    assert KMeans(12, tol=tol).fit(X).n_iter_ == expected


# ------------------------------------------------------------------------------------- the object


def test_predict_and_fit_predict(rng):
    X, Q = blobs(rng, 120, 4, 3), blobs(rng, 30, 4, 3)
    for metric in METRICS:
        model = KMeans(3, metric=metric)
        assert model.fit(X) is model
        assert_same_bytes(model.predict(X), model.labels_)
        assert_same_bytes(model.predict(Q), assign(Q, model.cluster_centers_, metric)[0])
        assert_same_bytes(KMeans(3, metric=metric).fit_predict(X), model.labels_)
        weights = np.arange(120)
        assert_same_bytes(
            KMeans(3, metric=metric).fit_predict(X, sample_weight=weights),
            KMeans(3, metric=metric).fit(X, sample_weight=weights).labels_,
        )
        assert model.predict(np.empty((0, 4))).shape == (0,)
    assert model.labels_.dtype == np.int32
    assert model.cluster_centers_.dtype == np.float32
    assert isinstance(model.inertia_, float)
    assert repr(model) == "KMeans(n_clusters=3, metric='cosine')"


@pytest.mark.parametrize("dtype", ["float16", "float64", "uint8", "int8"])
def test_other_types_are_their_float32(rng, dtype):
    X = rng.integers(0, 100, (80, 5)).astype(dtype)
    assert_same_bytes(fitted(KMeans(4).fit(X)), fitted(KMeans(4).fit(X.astype(np.float32))))
    assert_same_bytes(fitted(KMeans(4).fit(np.asfortranarray(X))), fitted(KMeans(4).fit(X)))


@every_metric
def test_pickles_and_copies_predict_the_same(kernels, rng, metric):
    X = blobs(rng, 90, 5, 4)
    model = KMeans(4, metric=metric, random_state=2, tol=0.5, kernels=kernels, n_threads=2).fit(X)
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert_same_bytes(fitted(twin), fitted(model))
        assert_same_bytes(twin.predict(X[:7]), model.predict(X[:7]))
        assert (twin.n_clusters, twin.metric, twin.random_state, twin.tol) == (4, metric, 2, 0.5)
        assert_same_bytes(fitted(twin.fit(X[:50])), fitted(copy.deepcopy(model).fit(X[:50])))
    unfitted = pickle.loads(pickle.dumps(KMeans(3)))
    assert not hasattr(unfitted, "labels_")
    unfitted.fit(X)


# --------------------------------------------------------------------------------------- refusals


CONSTRUCTION = [
    ({"n_clusters": 0}, ValueError, "n_clusters"),
    ({"n_clusters": 2.0}, TypeError, "n_clusters"),
    ({"n_clusters": 2**31}, ValueError, "n_clusters"),
    ({"metric": "ip"}, ValueError, "metric"),
    ({"init": "best"}, ValueError, "init"),
    ({"n_init": 0}, ValueError, "n_init"),
    ({"n_init": "auto"}, TypeError, "n_init"),
    ({"max_iter": 0}, ValueError, "max_iter"),
    ({"tol": -1e-9}, ValueError, "tol"),
    ({"tol": math.nan}, ValueError, "tol"),
    ({"tol": math.inf}, ValueError, "tol"),
    ({"random_state": -1}, ValueError, "random_state"),
    ({"random_state": None}, TypeError, "random_state"),
    ({"kernels": "sse9"}, ValueError, "kernels"),
    ({"n_threads": 0}, ValueError, "n_threads"),
]


@pytest.mark.parametrize(("options", "error", "name"), CONSTRUCTION)
def test_wrong_construction_is_named(options, error, name):
    with pytest.raises(error, match=f"^{name}: "):
        KMeans(**options)


POINTS = [
    (np.array([[1, np.nan], [0, 0], [0, 0]]), ValueError, "finite"),
    (np.array([[1, np.inf], [0, 0], [0, 0]]), ValueError, "finite"),
    (np.full((3, 2), 1e19), ValueError, "no longer than"),
    (np.ones(3), ValueError, "2-D"),
    (np.ones((3, 2), dtype=int), TypeError, "int64"),
    (np.ones((1, 2)), ValueError, "at least n_clusters = 2 rows, got 1"),
    (np.ones((0, 2)), ValueError, "at least n_clusters = 2 rows, got 0"),
]


@pytest.mark.parametrize(
    ("X", "error", "words"), POINTS, ids=lambda p: p if isinstance(p, str) else ""
)
def test_a_fit_that_fails_leaves_the_model_as_it_was(X, error, words):
    model = KMeans(2).fit([[0.0, 1.0], [2.0, 3.0], [4.0, 0.0]])
    before = fitted(model)
    with pytest.raises(error, match=f"^X: .*{words}"):
        model.fit(X)
    assert_same_bytes(fitted(model), before)


WEIGHTS = [
    ([1, 1], "shape"),
    ([[1], [1], [1]], "shape"),
    (1.0, "shape"),
    ([1, -1, 1], "not negative"),
    ([0, 0, 0], "not all zero"),
    ([1, np.nan, 1], "finite"),
    ([1, np.inf, 1], "finite"),
    (["a", "b", "c"], ""),
    ([[1], [1, 2], [1]], ""),
    ([1j, 1, 1], ""),
]


@pytest.mark.parametrize(("weights", "words"), WEIGHTS)
def test_wrong_weights_are_named(weights, words):
    with pytest.raises((ValueError, TypeError), match=f"^sample_weight: .*{words}"):
        KMeans(2).fit(np.eye(3), sample_weight=weights)


def test_weights_whose_sum_overflows_are_refused():
    with pytest.raises(ValueError, match=r"^sample_weight: "):
        KMeans(2, init=[[0], [10]]).fit([[0], [1], [10], [11]], sample_weight=[1e308] * 4)


def test_weights_that_would_lose_a_mean_are_refused():
    X = [[1.25], [1.75], [9.25], [9.75]]
    for least in (1e-250, 1e-251):
        model = KMeans(2, init=[[1], [9]], max_iter=1)
        if least < 1e-250:
            with pytest.raises(
                ValueError, match=r"^sample_weight: expected weights of zero or at least 1e-250"
            ):
                model.fit(X, sample_weight=[least, least, 0, 1])
        else:
            model.fit(X, sample_weight=[least, least, 0, 1])
            assert model.cluster_centers_.tolist() == [[1.5], [9.75]]


def test_a_wrong_start_is_named():
    X = np.eye(3)
    for init, words in (
        (np.eye(3)[:1], "expected 2 rows, got 1"),
        (np.eye(4)[:2], "dimension 3, got 4"),
        (np.full((2, 3), np.nan), "finite"),
        (np.full((2, 3), 1e19), "no longer than"),
        (np.ones(3), "2-D"),
    ):
        with pytest.raises(ValueError, match=f"^init: .*{words}"):
            KMeans(2, init=init).fit(X)


def test_predict_wants_a_fitted_model_and_its_dimension():
    model = KMeans(2)
    with pytest.raises(ValueError, match="KMeans: expected a fitted model"):
        model.predict(np.eye(3))
    model.fit(np.eye(3))
    with pytest.raises(ValueError, match=r"^X: expected dimension 3, got 2"):
        model.predict(np.eye(2))
    with pytest.raises(ValueError, match=r"^X: expected finite"):
        model.predict([[0, np.nan, 0]])
    with pytest.raises(ValueError, match=r"^X: expected vectors no longer"):
        model.predict([[0, 1e19, 0]])


# ----------------------------------------------------------------------------------------- assign

CENTROIDS = (1, 2, 15, 16, 17, 31, 32, 33, 49)


def pairs(rng, k, dim):
    """Whole numbers in opposite pairs: their mean is zero, so that the scores stay exact."""
    half = cases.integers(rng, (k // 2, dim), 2)
    return rng.permutation(np.concatenate([half, -half, np.zeros((k % 2, dim), np.float32)]))


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("dim", [1, 2, 7, 16, 33, 1000])
def test_assign_is_exact_on_whole_numbers(kernels, rng, metric, dim):
    """And the smallest number wins a tie, wherever the tied ones stand."""
    ties = 0
    for k in CENTROIDS if dim < 100 else (1, 17, 33):
        X, C = cases.integers(rng, (70 if dim < 100 else 17, dim), 2), pairs(rng, k, dim)
        labels, distances = assign(X, C, metric, kernels=kernels)
        expected, exact = oracle.assign_points(X, C, metric)
        assert labels.dtype == np.int32
        assert distances.dtype == np.float32
        assert np.array_equal(labels, expected), k
        assert np.array_equal(distances, exact), k
        table = oracle.search(C, X, 2, metric)[0]
        ties += np.count_nonzero(table[:, 0] == table[:, -1]) if k > 1 else 0
    assert ties > 0 or dim > 20


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_of_equal_centroids_the_first_is_chosen(kernels, rng, metric):
    """Equal centroids have equal scores, whatever the rounding."""
    C = blobs(rng, 7, 12, 3)
    X = blobs(rng, 60, 12, 3)
    alone = assign(X, C, metric, kernels=kernels)[0]
    for repeats in (2, 3, 7):
        labels = assign(X, np.tile(C, (repeats, 1)), metric, kernels=kernels)[0]
        assert labels.max() < 7
        if metric != "l2":  # for L2 the mean centroid, the shift, may be rounded in another way
            assert_same_bytes(labels, alone)
    back = assign(X, np.repeat(C, 20, axis=0), metric, kernels=kernels)[0]
    assert (back % 20 == 0).all()


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("dim", [1, 7, 16, 100, 1000])
def test_assign_same_bits_for_everybody(kernels, rng, metric, dim):
    for k in (1, 16, 17, 48) if dim < 1000 else (17,):
        X, C = blobs(rng, 90, dim, 4, offset=100), blobs(rng, k, dim, 4, offset=100)
        expected = assign(X, C, metric, kernels="scalar", n_threads=1)
        for n_threads in THREADS:
            got = assign(X, C, metric, kernels=kernels, n_threads=n_threads)
            assert_same_bytes(got, expected, k, n_threads)
        alone = [assign(x[None], C, metric, kernels=kernels) for x in X[:5]]
        parts = zip(*alone, strict=True)
        assert_same_bytes(tuple(map(np.concatenate, parts)), tuple(e[:5] for e in expected), k)


@pytest.mark.parametrize("dim", [1, 7, 16, 100])
def test_assign_of_the_cosine(rng, dim):
    X, C = blobs(rng, 80, dim, 5), blobs(rng, 18, dim, 5)
    X[::9] = 0
    labels, distances = assign(X, C, "cosine")
    assert (labels[::9] == 0).all()
    assert (distances[::9] == 1).all()
    x, c = unit(X.astype(np.float64)), unit(C.astype(np.float64))
    table = 1 - x @ c.T
    products = np.abs(x) @ np.abs(c).T
    chosen, best = (np.arange(80), labels), (np.arange(80), table.argmin(axis=1))
    # Scores are one chain; two of the three extra roundings are the unit vectors', the last covers
    # the errors of float64.
    error = oracle.chain_error(dim, products, roundings=3)
    assert (table[chosen] - table[best] <= error[chosen] + error[best]).all()
    reported = oracle.row_error(dim, products, "ip") + oracle.gamma(3) * products
    reported += oracle.UNIT * (np.abs(table) + reported)
    assert (np.abs(distances - table[chosen]) <= reported[chosen]).all()


def test_assign_takes_any_number_of_points():
    labels, distances = assign(np.empty((0, 3)), np.eye(3))
    assert labels.shape == distances.shape == (0,)
    assert assign(np.eye(3), np.eye(3), n_threads=1000)[0].tolist() == [0, 1, 2]


ARGUMENTS = [
    ({"X": np.ones(3)}, ValueError, "X: .*2-D"),
    ({"X": np.full((1, 3), np.nan)}, ValueError, "X: .*finite"),
    ({"X": np.full((1, 3), 1e19)}, ValueError, "X: .*no longer than"),
    ({"X": np.ones((1, 3), int)}, TypeError, "X: "),
    ({"centroids": np.ones((2, 2))}, ValueError, "centroids: .*dimension 3, got 2"),
    ({"centroids": np.ones((0, 3))}, ValueError, "centroids: .*at least one row"),
    ({"centroids": np.full((1, 3), np.inf)}, ValueError, "centroids: .*finite"),
    ({"centroids": np.full((1, 3), 1e19)}, ValueError, "centroids: .*no longer than"),
    ({"metric": "l1"}, ValueError, "metric: "),
    ({"kernels": "sse9"}, ValueError, "kernels: "),
    ({"n_threads": 0}, ValueError, "n_threads: "),
]


@pytest.mark.parametrize(("argument", "error", "words"), ARGUMENTS)
def test_wrong_arguments_of_assign_are_named(argument, error, words):
    with pytest.raises(error, match=f"^{words}"):
        assign(**{"X": np.eye(3), "centroids": np.eye(3), **argument})


# Data on which x.c - |c|^2 / 2 in float32 cannot tell neighbours apart.
SPREADS = {
    "one outlier": lambda rng: np.concatenate((rng.normal(size=(299, 9)), np.full((1, 9), 1e5))),
    "two far modes": lambda rng: rng.normal(size=(300, 9)) + rng.choice([-1e4, 1e4], (300, 1)),
    "far from the origin": lambda rng: rng.normal(size=(300, 9)) + 1e6,
    "one direction": lambda rng: rng.normal(size=(300, 1)) * np.full(9, 1e3) + 1e-3,
    "equal rows": lambda rng: rng.normal(size=(10, 9))[rng.integers(0, 10, 300)],
}


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("spread", SPREADS)
def test_labels_are_those_of_canonical_distances(rng, kernels, spread, metric):
    """Whatever the tiled products round away: the least canonical distance, the smallest number."""
    X = SPREADS[spread](rng).astype(np.float32)
    centroids = np.concatenate((X[::13], X[-1:], X[:1]))
    labels, distances = assign(X, centroids, metric, kernels=kernels)
    everyone = np.tile(np.arange(len(centroids)), (len(X), 1))
    table = lw.Flat(9, metric, kernels=kernels).add(centroids).score(X, everyone)
    assert np.array_equal(labels, table.argmin(axis=1))
    assert np.array_equal(distances, table.min(axis=1))


def test_data_with_gaps_is_fitted_as_any_other(rng, monkeypatch):
    """Points that meet few of the centroids get the labels of those that meet all."""
    k, dim = 130, 16
    place = rng.integers(-40, 40, (9, dim)).astype(np.float32) * 50
    X = place[rng.integers(9, size=50 * k)] + rng.standard_normal((50 * k, dim), dtype=np.float32)
    native, shares = _native.assign, []

    def assign(*arguments):
        shares.append(native(*arguments))
        return shares[-1]

    def plain(*arguments):
        return native(*arguments[:7])

    fits = []
    for function in (assign, plain):
        monkeypatch.setattr(_native, "assign", function)
        fits.append(KMeans(k, init=X[:k], max_iter=7, tol=0).fit(X))
    assert min(shares) < 0.5
    for name in ("cluster_centers_", "labels_"):
        assert getattr(fits[0], name).tobytes() == getattr(fits[1], name).tobytes()


def test_the_shift_is_summed_in_the_order_of_the_coordinates(rng, monkeypatch):
    monkeypatch.setattr(lloyd, "_COORDINATES", 16)
    X = blobs(rng, 300, 7, 9)
    told = []
    KMeans(9, init=X[:9], max_iter=3, tol=0).fit(X, callback=told.append)
    centers = [X[:9], *(iteration.cluster_centers for iteration in told)]
    assert len(told) == 3
    for iteration, before, after in zip(told, centers[:-1], centers[1:], strict=True):
        steps = (after.astype(np.float64) - before).ravel()
        assert iteration.shift == np.cumsum(steps * steps)[-1]
