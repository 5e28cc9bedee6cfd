"""HierarchicalKMeans: two levels made of KMeans itself; and what a plan says."""

import copy
import pickle

import numpy as np
import pytest
from cases import THREADS, assert_same_bytes
from hypothesis import given
from hypothesis import strategies as st
from test_cluster import METRICS, blobs, every_metric, fitted

import lanewise as lw
from lanewise import HierarchicalKMeans, KMeans, costs, draws, hierarchical, seeding
from lanewise.cluster import assign, plan


def in_two_levels(X, weights, k, n_coarse, metric, seed, **options):
    """Centroids of the second level, by the means that users have."""
    seeds = draws.words(seed, "kmeans", n_coarse + 1, stream=2**34).tolist()
    options |= {"metric": metric, "max_iter": 25}
    coarse = KMeans(n_coarse, random_state=seeds[0], **options).fit(X, sample_weight=weights)
    labels = coarse.predict(X)
    sizes = np.bincount(labels, minlength=n_coarse)
    shares = np.bincount(labels, weights, n_coarse).astype(float)
    centers = []
    for cell, quota in enumerate(shared_out(k, shares, sizes)):
        if quota > 0:
            mine = labels == cell
            part = KMeans(quota, random_state=seeds[cell + 1], **options)
            part.fit(X[mine], sample_weight=None if weights is None else weights[mine])
            centers.append(part.cluster_centers_)
    return np.concatenate(centers)


def shared_out(k, shares, sizes):
    """Sainte-Laguë with one for everybody and no more than there are points."""
    parts = [min(1, size) for size in sizes]
    while sum(parts) < k:
        open_ = [i for i in range(len(parts)) if parts[i] < sizes[i]]
        parts[max(open_, key=lambda i: (shares[i] / (2 * parts[i] + 1), -i))] += 1
    return parts


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 20)), min_size=1, max_size=9), st.data()
)
def test_clusters_are_shared_out_exactly(cells, data):
    sizes, shares = np.array([c[0] for c in cells]), np.array([float(c[1]) for c in cells])
    if sizes.sum() == 0:
        return
    k = data.draw(st.integers(np.count_nonzero(sizes), int(sizes.sum())))
    parts = hierarchical._shared_out(k, shares, sizes)
    assert sum(parts) == k
    assert parts == shared_out(k, shares, sizes)


def test_what_has_no_weight_gets_what_is_left():
    assert hierarchical._shared_out(5, np.array([5.0, 0.0]), np.array([2, 5])) == [2, 3]
    assert hierarchical._shared_out(5, np.array([5.0, 0.0]), np.array([7, 5])) == [4, 1]


@every_metric
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("k", "n_coarse"), [(30, None), (30, 4), (7, 1), (12, 12)])
def test_two_levels_are_what_they_are_called(rng, metric, weighted, k, n_coarse):
    X = blobs(rng, 500, 6, 7)
    weights = rng.standard_exponential(500) if weighted else None
    model = HierarchicalKMeans(k, n_coarse=n_coarse, refine=0, metric=metric, random_state=3)
    assert model.fit(X, sample_weight=weights) is model
    used = model.n_coarse
    assert used == (5 if n_coarse is None else n_coarse)
    centers = in_two_levels(X, weights, k, used, metric, 3)
    assert_same_bytes(model.cluster_centers_, centers)
    labels, distances = assign(X, centers, metric)
    assert_same_bytes(model.labels_, model.predict(X))
    if metric == "l2":
        assert_same_bytes(model.labels_, labels)
        distances = distances.astype(np.float64) * (1 if weights is None else weights)
        assert model.inertia_ == float(np.cumsum(distances)[-1])
    assert (model.n_iter_, model.n_features_in_, model.n_steps_) == (0, 6, 0)


def test_the_refinement_is_lloyds(rng):
    X = blobs(rng, 500, 6, 1)
    start = HierarchicalKMeans(30, refine=0).fit(X).cluster_centers_
    for refine in (1, 3, 200):
        told, steps = [], []
        model = HierarchicalKMeans(30, refine=refine)
        model.fit(X, callback=told.append, progress=lambda *step, steps=steps: steps.append(step))
        expected = KMeans(30, init=start, max_iter=refine).fit(X)
        assert_same_bytes(fitted(model), fitted(expected))
        assert [one.iteration for one in told] == [i + 1 for i in range(model.n_iter_)]
        splitting = [step for step in steps if step[0] == "splitting"]
        assert splitting == [("splitting", i, 5) for i in range(6)]
        refining = [("refining", i, refine) for i in range(model.n_iter_)]
        assert steps[steps.index(splitting[-1]) + 1 :] == [*refining, ("refining", refine, refine)]
    assert model.n_iter_ < 200


@every_metric
def test_same_bits_for_everybody(kernels, rng, metric):
    X = blobs(rng, 400, 9, 5)
    options = {"metric": metric, "refine": 1, "max_iter": 4}
    expected = HierarchicalKMeans(24, kernels="scalar", n_threads=1, **options).fit(X)
    for n_threads in THREADS:
        model = HierarchicalKMeans(24, kernels=kernels, n_threads=n_threads, **options).fit(X)
        assert_same_bytes(fitted(model), fitted(expected), n_threads)


def test_samples_on_both_levels(rng):
    X = blobs(rng, 900, 4, 9)
    model = HierarchicalKMeans(20, n_coarse=4, refine=0, max_points_per_centroid=10).fit(X)
    centers = in_two_levels(X, None, 20, 4, "l2", 0, max_points_per_centroid=10)
    assert_same_bytes(model.cluster_centers_, centers)
    assert_same_bytes(model.labels_, assign(X, centers)[0])


@pytest.mark.parametrize("metric", METRICS)
def test_awkward_points(rng, metric):
    X = blobs(rng, 40, 3, 2)
    every = HierarchicalKMeans(40, metric=metric).fit(X)
    assert sorted(every.labels_.tolist()) == list(range(40))
    one = HierarchicalKMeans(1, metric=metric).fit(X)
    assert one.labels_.tolist() == [0] * 40
    equal = HierarchicalKMeans(9, metric=metric, refine=2).fit(np.ones((30, 3)))
    assert set(equal.labels_.tolist()) == {0}
    assert len(equal.cluster_centers_) == 9
    weights = np.zeros(40)
    weights[5] = 2
    lonely = HierarchicalKMeans(4, metric=metric).fit(X, sample_weight=weights)
    assert lonely.cluster_centers_.shape == (4, 3)
    assert abs(lonely.inertia_) < 1e-6


def test_a_coarse_cluster_without_weight_is_split_all_the_same(rng):
    X = blobs(rng, 1501, 2, 1, offset=100)
    X[-1] = 0
    weights = (np.arange(1501) == 1500).astype(float)
    model = HierarchicalKMeans(4, n_coarse=2).fit(X, sample_weight=weights)
    assert model.inertia_ == 0
    assert np.isfinite(model.cluster_centers_).all()


def test_a_stream_starts_from_the_two_levels_of_its_first_batch(rng):
    X, Y = blobs(rng, 300, 5, 7), blobs(rng, 40, 5, 7)
    model = HierarchicalKMeans(16, random_state=3).partial_fit(X)
    start = HierarchicalKMeans(16, random_state=3, refine=0).fit(X).cluster_centers_
    expected = KMeans(16, init=start).partial_fit(X)
    assert_same_bytes(model.cluster_centers_, expected.cluster_centers_)
    assert_same_bytes(
        model.partial_fit(Y).cluster_centers_, expected.partial_fit(Y).cluster_centers_
    )
    assert model.n_steps_ == 2


def test_the_objective_is_near_that_of_one_level(rng):
    """Not a promise, but what it is for: better than centroids that are drawn."""
    X = blobs(rng, 3000, 8, 40, spread=2)
    model = HierarchicalKMeans(60, refine=2).fit(X)
    drawn = -KMeans(60, init="random", max_iter=1).fit(X).score(X)
    assert model.inertia_ < drawn


def test_ctrl_c_and_errors_of_callbacks(rng):
    X, Y = blobs(rng, 300, 5, 1), blobs(rng, 200, 5, 1)

    def raising(error, at):
        def call(*told):
            if at in told or getattr(told[0], "iteration", None) == at:
                raise error

        return call

    for error, options, expected in (
        (KeyboardInterrupt, {"progress": raising(KeyboardInterrupt, "splitting")}, None),
        (RuntimeError, {"progress": raising(RuntimeError, "splitting")}, None),
        (RuntimeError, {"callback": raising(RuntimeError, 2)}, None),
        (KeyboardInterrupt, {"callback": raising(KeyboardInterrupt, 2)}, 2),
    ):
        model = HierarchicalKMeans(16, refine=9, tol=0).fit(Y)
        before = fitted(model)
        with pytest.raises(error):
            model.fit(X, **options)
        if expected is not None:
            before = fitted(HierarchicalKMeans(16, refine=expected, tol=0).fit(X))
        assert_same_bytes(fitted(model), before)


def test_the_object(rng):
    X = blobs(rng, 200, 5, 3)
    model = HierarchicalKMeans(16, n_coarse=3, refine=1).fit(X)
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert_same_bytes(fitted(twin), fitted(model))
        assert_same_bytes(twin.predict(X[:7]), model.predict(X[:7]))
        assert (twin.n_coarse, twin.refine) == (3, 1)
        assert_same_bytes(fitted(twin.fit(X)), fitted(model))
    assert repr(model) == "HierarchicalKMeans(n_clusters=16, metric='l2')"
    assert lw.HierarchicalKMeans is HierarchicalKMeans
    assert model.transform(X[:3]).shape == (3, 16)
    assert model.score(X) == -model.inertia_
    before = model.cluster_centers_
    model.partial_fit(X + 1)
    assert not np.array_equal(model.cluster_centers_, before)


def test_wrong_arguments_are_named(rng):
    for options, error, words in (
        ({"n_clusters": 0}, ValueError, "n_clusters: expected an integer from 1"),
        ({"n_coarse": 0}, ValueError, "n_coarse: expected an integer from 1 to 9, got 0"),
        ({"n_coarse": 10}, ValueError, "n_coarse: expected an integer from 1 to 9, got 10"),
        ({"refine": -1}, ValueError, "refine: expected an integer of at least 0, got -1"),
        ({"refine": 1.0}, TypeError, "refine: expected an integer, got float"),
        ({"init": np.eye(9)}, TypeError, "init: expected 'k-means..' or 'random' for two levels"),
        ({"init": "best"}, ValueError, "init: expected one of"),
        ({"metric": "ip"}, ValueError, "metric: expected one of"),
    ):
        with pytest.raises(error, match=f"^{words}"):
            HierarchicalKMeans(**{"n_clusters": 9, **options})
    model = HierarchicalKMeans(9)
    with pytest.raises(ValueError, match=r"^HierarchicalKMeans: expected a fitted model"):
        model.predict(np.eye(3))
    with pytest.raises(ValueError, match=r"^X: expected at least n_clusters = 9 rows, got 8"):
        model.fit(np.eye(8))
    with pytest.raises(TypeError, match=r"^callback: expected a function, got 1"):
        model.fit(np.eye(9), callback=1)
    assert not hasattr(model, "labels_")


# -------------------------------------------------------------------------------------- the plan


@pytest.fixture
def unit_rates(monkeypatch):
    """A multiply-add a second, so that seconds say what is counted."""
    monkeypatch.setattr(costs, "_tile_rate", lambda *shape: 1.0)
    monkeypatch.setattr(costs, "_row_rate", lambda *shape: 1.0)


@pytest.mark.usefixtures("unit_rates")
def test_what_is_counted():
    n, d, k = 100_000, 7, 400
    start = seeding.n_candidates(k) * d * (n + k * seeding.n_trials(k))
    costs = plan(n, d, k, iterations=3)
    assert costs.flat.multiply_adds == costs.flat.seconds == start + 4 * n * k * d
    # 20 cells of 5,000 points and 20 clusters.
    first = seeding.n_candidates(20) * d * (n + 20 * seeding.n_trials(20)) + 5 * n * 20 * d
    cell = seeding.n_candidates(20) * d * (5000 + 20 * seeding.n_trials(20)) + 4 * 5000 * 20 * d
    total = first + 20 * cell + 3 * n * k * d
    assert costs.hierarchical.multiply_adds == costs.hierarchical.seconds == total
    refined = plan(n, d, k, iterations=3, refine=5)
    assert refined.hierarchical.multiply_adds == total + 3 * n * k * d
    assert refined.flat == costs.flat
    few = plan(500, d, 10, iterations=1)
    assert few.flat.multiply_adds == 500 * 10 * d * seeding.n_trials(10) + 2 * 500 * 10 * d


@pytest.mark.slow
def test_a_plan_measures_and_prints():
    costs = plan(10_000_000, 128, 65_536)
    assert 0 < costs.hierarchical.seconds < costs.flat.seconds < np.inf
    # Labels, before and after, and the sorting of points by cluster; never a matrix of n by k.
    for cost in (costs.flat, costs.hierarchical):
        assert 16 * costs.n <= cost.bytes < costs.n * costs.d * 4 / 5
    lines = str(costs).splitlines()
    assert lines[0] == "10,000,000 x 128, k 65,536, 25 iterations"
    assert [line.split()[0] for line in lines[2:]] == ["KMeans", "HierarchicalKMeans"]
    assert len(set(map(len, lines[1:]))) == 1
    for n, d, k in ((1, 1, 1), (10, 3, 10), (50, 20_000, 4), (2**62, 2**19, 2**31 - 16)):
        assert plan(n, d, k, n_threads=1, kernels="scalar").flat.multiply_adds > 0


def test_wrong_numbers_of_a_plan_are_named():
    for numbers, words in (
        ((0, 1, 1), "n: "),
        ((1, 0, 1), "d: "),
        ((5, 1, 6), "k: expected an integer from 1 to 5, got 6"),
        ((2**62 + 1, 1, 1), "n: expected an integer from 1 to"),
        ((5, 2**19 + 1, 1), "d: expected an integer from 1 to 524288"),
        ((2**40, 1, 2**31), "k: expected an integer from 1 to"),
    ):
        with pytest.raises(ValueError, match=f"^{words}"):
            plan(*numbers)
    for name in ("iterations", "refine", "n_threads"):
        with pytest.raises(ValueError, match=f"^{name}: "):
            plan(10, 2, 3, **{name: -1})
        with pytest.raises(ValueError, match=f"^{name}: "):
            plan(10, 2, 3, **{name: 2**62 + 1})


@pytest.mark.parametrize("d", [1, 100, 2**18, 2**19])
def test_a_measurement_takes_no_more_floats_than_it_says(monkeypatch, d):
    sizes = []

    def call(points):
        sizes.append(points.size)
        return points.size

    monkeypatch.setattr(costs, "_SECONDS", 0.005)
    assert costs._rate(d, call) > 0
    assert 0 < max(sizes) <= costs._MOST_FLOATS


@pytest.mark.usefixtures("unit_rates")
def test_the_largest_numbers_of_a_plan_can_be_told():
    most = 2**62
    largest = plan(most, 2**19, 2**31 - 16, iterations=most, refine=most)
    for cost in (largest.flat, largest.hierarchical):
        assert 0 < cost.seconds < np.inf
    assert "inf" not in str(largest)
