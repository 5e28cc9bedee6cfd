"""KMeans.partial_fit: running means of a stream, and points that stay where they are."""

import copy
import tracemalloc

import numpy as np
import pytest
from cases import THREADS, assert_same_bytes
from test_cluster import blobs, every_metric, fitted

from lanewise import KMeans, lloyd, oracle
from lanewise.cluster import assign


def state(model):
    return *fitted_of_batch(model), model._sums, model._totals, np.array(model.n_steps_)


def fitted_of_batch(model):
    return model.cluster_centers_, model.labels_, np.array(model.inertia_)


def batches(rng, n_batches=6, n=50):
    return [blobs(np.random.default_rng([3, i]), n, 4, 3) for i in range(n_batches)]


@every_metric
@pytest.mark.parametrize("weighted", [False, True])
def test_centroids_are_the_means_of_all_they_were_given(rng, metric, weighted):
    """In float64, over the whole stream; the labels are ours, those of the centroids before."""
    stream = batches(rng)
    weights = [rng.standard_exponential(50) if weighted else None for _ in stream]
    model = KMeans(6, metric=metric, init=stream[0][:6])
    centers, points, labels = stream[0][:6], [], []
    for i, (X, w) in enumerate(zip(stream, weights, strict=True)):
        labels.append(assign(X, centers, metric)[0])
        points.append(X.astype(np.float64))
        if metric == "cosine":
            points[-1] /= np.sqrt((points[-1] ** 2).sum(axis=1, keepdims=True))
        assert model.partial_fit(X, sample_weight=w) is model
        every = np.concatenate(points), np.concatenate(labels)
        weight = None if w is None else np.concatenate(weights[: i + 1])
        sums, totals, _ = oracle.cluster_sums(*every, weight, 6)
        assert (totals > 0).all()
        means = sums / totals[:, None]
        # A mean is rounded once; sums of at most 300 doubles on both sides. Unit vectors were
        # rounded before, and are divided by their length and rounded once more.
        lengths = np.sqrt((means**2).sum(axis=1, keepdims=True))
        error = oracle.gamma(1) * np.abs(means) + 600 * 2.0**-53 * np.abs(every[0]).max()
        if metric == "cosine":
            means, error = means / lengths, (oracle.gamma(3) + oracle.gamma(1)) / lengths
        assert (np.abs(model.cluster_centers_ - means) <= error).all()
        centers = model.cluster_centers_
        found, distances = assign(X, centers, metric)
        assert_same_bytes(model.labels_, found)
        distances = distances.astype(np.float64) * (1 if w is None else w)
        if metric == "l2":
            assert model.inertia_ == float(np.cumsum(distances)[-1])
        assert model.n_steps_ == i + 1
        assert model.n_features_in_ == 4


@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_the_first_batch_gives_the_start(init):
    X, Y = batches(None, 2)
    model = KMeans(7, init=init, random_state=5).partial_fit(X)
    one = KMeans(7, init=init, random_state=5, max_iter=1).fit(X)
    assert_same_bytes(model.cluster_centers_, one.cluster_centers_)
    assert_same_bytes(fitted_of_batch(model), (*fitted(one)[:2], np.array(one.inertia_)))
    with pytest.raises(ValueError, match=r"^X: expected at least n_clusters = 7 rows, got 6"):
        KMeans(7).partial_fit(X[:6])
    assert model.partial_fit(Y[:1]).n_steps_ == 2
    before = model.cluster_centers_
    model.partial_fit(Y[:0]).partial_fit(Y[:0], sample_weight=[])
    assert model.n_steps_ == 4
    assert_same_bytes(model.cluster_centers_, before)
    assert model.inertia_ == 0
    assert model.labels_.shape == (0,)


def test_after_a_fit_centroids_count_as_much_as_their_points(rng):
    X = np.array([[0], [2], [10], [12], [14]], dtype=np.float32)
    model = KMeans(2, init=[[0], [12]]).fit(X)
    assert model.n_steps_ == 0
    model.partial_fit([[4.0], [20.0], [20.0], [20.0]])
    assert model.cluster_centers_.tolist() == [[2], [16]]
    weighted = KMeans(2, init=[[0], [12]]).fit(X, sample_weight=[1, 1, 2, 0, 2])
    weighted.partial_fit([[24.0]], sample_weight=[4])
    assert weighted.cluster_centers_.tolist() == [[1], [18]]
    model.fit(X)
    assert model.n_steps_ == 0
    assert model.cluster_centers_.tolist() == [[1], [12]]


def test_a_model_from_before_there_were_batches_learns_them(rng):
    """Its pickle is without the newer options, and the weight of its centroids: that is counted."""
    X, Y = batches(rng, 2)
    model = KMeans(4).fit(X)
    state_then = model.__getstate__()
    for name in ("warm_start", "max_points_per_centroid", "max_cluster_size", "n_steps_"):
        del state_then[name]
    del state_then["_sums"], state_then["_totals"]
    old, again = KMeans.__new__(KMeans), KMeans.__new__(KMeans)
    old.__setstate__(state_then)
    again.__setstate__(state_then)
    assert_same_bytes(state(old.partial_fit(Y)), state(model.partial_fit(Y)))
    assert_same_bytes(fitted(again.fit(Y)), fitted(KMeans(4).fit(Y)))


def test_a_centroid_without_points_stays():
    model = KMeans(3, init=[[0], [50], [9]]).partial_fit([[1.0], [10.0], [12.0]])
    assert model.cluster_centers_.tolist() == [[1], [50], [11]]
    assert model.partial_fit([[50.0]]).cluster_centers_.tolist() == [[1], [50], [11]]
    assert model.partial_fit([[60.0]]).cluster_centers_.tolist() == [[1], [55], [11]]


@every_metric
def test_same_bits_for_everybody(kernels, rng, metric):
    reference = KMeans(6, metric=metric, kernels="scalar", n_threads=1)
    models = [KMeans(6, metric=metric, kernels=kernels, n_threads=t) for t in THREADS]
    for X in batches(rng):
        expected = state(reference.partial_fit(X))
        for model in models:
            assert_same_bytes(state(model.partial_fit(X)), expected)
        models[0] = copy.deepcopy(models[0])


def test_a_batch_that_fails_leaves_the_model_as_it_was(rng):
    X, Y = batches(rng, 2)
    model = KMeans(4).partial_fit(X)
    before = state(model)
    for wrong, options in (
        (Y[:, :3], {}),
        (Y * np.nan, {}),
        (Y, {"sample_weight": [1.0]}),
        (Y, {"sample_weight": np.zeros(50)}),
    ):
        with pytest.raises(ValueError, match=r"^(X|sample_weight): expected"):
            model.partial_fit(wrong, **options)
        assert_same_bytes(state(model), before)
    with pytest.raises(ValueError, match=r"^max_cluster_size: expected None for partial_fit"):
        KMeans(4, max_cluster_size=50).partial_fit(X)


# --------------------------------------------------------------------------- points on a disk


def numpys_peak(call):
    """The most memory that NumPy's arrays took during a call."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "most"), [({}, 24), ({"init": "empty"}, 24), ({"max_cluster_size": 2000}, 66)]
)
def test_bytes_a_point(rng, monkeypatch, options, most):
    """As documented, whatever the dimension; also where clusters become empty."""
    monkeypatch.setattr(lloyd, "_CHUNK", 1 << 10)
    X = rng.standard_normal((60_000, 2), dtype=np.float32)
    start = X[:40].copy()
    if options.pop("init", None):
        start[0] = 1e4
    model = KMeans(40, init=start, max_iter=2, n_threads=1, **options)
    model.fit(X[:2000])  # what is imported late is not counted
    assert numpys_peak(lambda: model.fit(X)) <= most * len(X)


@pytest.mark.slow
@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_mapped_points_are_read_where_they_are(rng, tmp_path, init):
    """Beside the points a fit needs a tenth of them, and the centroids a few times."""
    X = rng.standard_normal((60_000, 96), dtype=np.float32)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    model = KMeans(20, init=init, max_iter=2, n_threads=1)
    peak = numpys_peak(lambda: model.fit(mapped))
    # Candidates are rows too.
    centroids = 4 * max(20, 256) * 96 * 4 * 2
    assert peak <= X.nbytes / 10 + centroids
    assert_same_bytes(fitted(model), fitted(KMeans(20, init=init, max_iter=2).fit(X)))
    assert numpys_peak(lambda: model.fit(X.astype(np.float16))) > X.nbytes, "that is a copy"
    assert_same_bytes(model.transform(mapped[:5]), model.transform(X[:5]))
