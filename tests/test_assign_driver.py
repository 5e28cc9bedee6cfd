"""The k-means steps: nearest centroids and cluster sums."""

import cases
import numpy as np
import pytest
from cases import (
    COUNTS,
    DATA,
    DIMS,
    KINDS,
    METRICS,
    SCALAR,
    THREADS,
    assert_same_bytes,
    codes_beside_scalar,
    draw,
)

from lanewise import _native, oracle

CENTROIDS = (1, 2, 15, 16, 17, 33)


@codes_beside_scalar
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", METRICS)
def test_same_bits(code_kernels, rng, metric, kind, dim):
    for n in COUNTS if dim < 100 else (0, 1, 65):
        for k in CENTROIDS if dim < 100 else (1, 17):
            points, centroids = KINDS[kind](rng, (n, dim)), KINDS[kind](rng, (k, dim))
            if metric == "cosine":
                points, centroids = cases.unit(points), cases.unit(centroids)
            got, expected = (
                cases.assign(one, metric, points, centroids) for one in (code_kernels, SCALAR)
            )
            assert_same_bytes(got, expected, n, k)


@pytest.mark.parametrize("dim", [3, 16, 100])
@pytest.mark.parametrize("metric", METRICS)
def test_same_bits_for_any_threads_and_any_tiles(code_kernels, rng, metric, dim):
    """A point's answer may depend neither on its tile nor on what else is in it."""
    centroids, points = draw(rng, "normal", 20, 1024, dim, metric)
    expected = cases.assign(code_kernels, metric, points, centroids)
    for n_threads in THREADS:
        got = cases.assign(code_kernels, metric, points, centroids, n_threads)
        assert_same_bytes(got, expected, n_threads)
    order = rng.permutation(len(points))
    shuffled = cases.assign(code_kernels, metric, points[order], centroids)
    assert_same_bytes(shuffled, tuple(part[order] for part in expected))
    for begin, end in ((0, 1), (5, 22), (100, 700)):
        some = cases.assign(code_kernels, metric, points[begin:end], centroids)
        assert_same_bytes(some, tuple(part[begin:end] for part in expected), begin)


def test_wide_points_have_small_tiles(kernels, rng):
    # 16 points of this dimension fill more than a tile.
    points, centroids = cases.integers(rng, (40, 9000), 1), cases.integers(rng, (3, 9000), 1)
    labels, distances = cases.assign(kernels, "ip", points, centroids, 2)
    expected_labels, expected_distances = oracle.assign_points(points, centroids, "ip")
    assert np.array_equal(labels, expected_labels)
    assert np.array_equal(distances, expected_distances)


def whole_centroids(rng, k, dim):
    """Whole numbers in opposite pairs, so that their mean, the shift, is zero: all stays exact."""
    half = cases.integers(rng, (k // 2, dim), 2)
    middle = np.zeros((k % 2, dim), dtype=np.float32)
    return rng.permutation(np.concatenate([half, -half, middle]))


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_exact_on_integers(rng, metric, dim):
    ties = 0
    for n in COUNTS if dim < 300 else (1, 17):
        for k in CENTROIDS:
            points, centroids = cases.integers(rng, (n, dim), 3), whole_centroids(rng, k, dim)
            labels, distances = cases.assign(SCALAR, metric, points, centroids)
            expected_labels, expected_distances = oracle.assign_points(points, centroids, metric)
            assert np.array_equal(labels, expected_labels), (n, k)
            assert np.array_equal(distances, expected_distances), (n, k)
            if dim == 1:
                squares = (points - centroids.T) ** 2 if metric == "l2" else -points * centroids.T
                ties += np.count_nonzero((squares == distances[:, None]).sum(axis=1) > 1)
    assert ties > 0 or dim > 1, "points between equally near centroids must be among the cases"


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("metric", METRICS)
def test_answers_are_canonical(code_kernels, rng, metric, data, dim):
    """The tiled products only propose: what counts is the distance of whole rows."""
    for n, k in ((65, 17), (17, 40)) if dim < 300 else ((33, 17),):
        centroids, points = draw(rng, data, k, n, dim, metric)
        labels, distances = cases.assign(code_kernels, metric, points, centroids)
        expected_distances, expected = cases.nearest(SCALAR, metric, points, centroids, 1)
        assert_same_bytes(distances, expected_distances[:, 0], n, k)
        assert np.array_equal(labels, expected[:, 0]), (n, k)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("apart", [16, 5])
def test_a_few_points_between_twins(code_kernels, rng, metric, apart):
    """Twins among the centroids, in one lane or in two, are nearer than codes can tell apart.

    Most points are far from them: those that are not are settled one by one.
    """
    dim, k = 100, 80
    centroids = cases.unit(KINDS["normal"](rng, (k, dim)))
    twins = np.array([3, 20, 41])
    for width in (1e-3, 1e-4, 1e-5, 1e-6):
        C = centroids.copy()
        C[twins + apart] = C[twins] + np.float32(width) * KINDS["normal"](rng, (3, dim))
        owner = rng.integers(0, k, 2000)
        owner[::25] = rng.choice(twins, 80)
        points = C[owner] + np.float32(0.05) * KINDS["normal"](rng, (2000, dim))
        if metric == "cosine":
            C, points = cases.unit(C), cases.unit(points)
        labels, distances = cases.assign(code_kernels, metric, points, C)
        expected_distances, expected = cases.nearest(SCALAR, metric, points, C, 1)
        assert np.array_equal(labels, expected[:, 0]), width
        assert_same_bytes(distances, expected_distances[:, 0], width)
        assert np.count_nonzero(np.isin(labels, [twins, twins + apart])) > 40


def grouped(rng, dim, k, n, kind):
    """Centroids in a few places, points around them, and guesses of which some are foolish."""
    place = rng.integers(-40, 40, (9, dim)).astype(np.float32)
    near = KINDS[kind](rng, (k, dim))
    centroids = place[np.arange(k) % 9] * 64 * np.abs(near).max() + near
    centroids[-1] = centroids[0]
    truth = rng.integers(k, size=n)
    points = centroids[truth] + KINDS[kind](rng, (n, dim)) / 2
    points[:5] = centroids[:5]
    guesses = truth.astype(np.int32)
    foolish = rng.random(n) < 0.01
    guesses[foolish] = rng.integers(k, size=foolish.sum())
    return points.astype(np.float32), centroids.astype(np.float32), guesses


@pytest.mark.parametrize("dim", [4, 40])
@pytest.mark.parametrize("kind", ["normal", "integers", "tiny", "zeros"])
def test_guesses_save_work_and_change_nothing(code_kernels, rng, kind, dim):
    k = 130
    points, centroids, guesses = grouped(rng, dim, k, 48 * k + 5, kind)
    expected = cases.assign(SCALAR, "l2", points, centroids)
    for n_threads in (1, 3):
        *got, share = cases.reassign(code_kernels, points, centroids, guesses, n_threads)
        assert_same_bytes(tuple(got), expected, n_threads)
        assert share < 0.6
    assert not (expected[0] == k - 1).any(), "of twins the smaller number wins"


def test_points_in_the_middle_of_two_panels_meet_both(code_kernels):
    """|a - c| = 2 |x - a| is not far enough: as near as a, the smaller number wins."""
    k, dim = 8 * 16, 24
    # Sixteen centroids in each place, and points half way from the second place to the first.
    places = np.repeat(np.array([0, 4, 16, 28, 40, 52, 64, 76], np.float32), 16)
    centroids = np.zeros((k, dim), dtype=np.float32)
    centroids[:, 0] = places
    centroids[:, 1] = np.tile(np.arange(16, dtype=np.float32) / 4, 8)
    guesses = np.repeat(np.arange(k, dtype=np.int32), 48)
    points = centroids[guesses].copy()
    points[guesses // 16 == 1, 0] = 2
    labels, _, share = cases.reassign(code_kernels, points, centroids, guesses)
    assert share < 0.5
    between = guesses // 16 == 1
    assert np.array_equal(labels[between], guesses[between] - 16)
    assert np.array_equal(labels[~between], guesses[~between])


def test_guesses_that_would_read_elsewhere_are_refused(rng):
    points, centroids, guesses = grouped(rng, 4, 20, 30, "normal")
    for wrong in (guesses - 25, guesses + 20, guesses[1:]):
        with pytest.raises(ValueError, match=r"^native call: assign guesses"):
            cases.reassign(SCALAR, points, centroids, np.ascontiguousarray(wrong))


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("weighted", [False, True])
def test_cluster_sums_exact(kernels, rng, weighted, dim):
    for n in COUNTS:
        for k in (1, 3, 40):
            points = KINDS["normal"](rng, (n, dim)) * np.float32(10) ** rng.integers(-9, 9, (n, 1))
            points = points.astype(np.float32)
            labels = rng.integers(0, k, n).astype(np.int32)
            weights = rng.standard_exponential(n) if weighted else None
            expected = oracle.cluster_sums(points, labels, weights, k)
            for n_threads in THREADS:
                got = cases.cluster_sums(points, labels, weights, k, n_threads, kernels)
                assert_same_bytes(got, expected, n, k, n_threads)


def test_cluster_sums_of_many_points(rng):
    """More than are sorted out at once: a cluster's sum is one chain all the same."""
    points = KINDS["normal"](rng, (150_000, 2))
    labels = rng.integers(0, 3, len(points)).astype(np.int32)
    weights = rng.standard_exponential(len(points))
    for some in (None, weights):
        got = cases.cluster_sums(points, labels, some, 3, 2)
        assert_same_bytes(got, oracle.cluster_sums(points, labels, some, 3))


def test_cluster_sums_refuses_foreign_labels(rng):
    points = KINDS["normal"](rng, (2, 3))
    for wrong in (-1, 2):
        with pytest.raises(ValueError, match="labels"):
            cases.cluster_sums(points, np.array([0, wrong], np.int32), None, 2)


def test_oracle_lloyd_reaches_a_fixed_point(rng):
    X = rng.standard_normal((60, 3)) + rng.integers(0, 3, (60, 1)) * 5
    for metric in ("l2", "ip", "cosine"):
        inertias = [oracle.lloyd(X, X[:4], metric, n)[2] for n in range(12)]
        assert (np.diff(inertias[1:]) <= 1e-9 * np.abs(inertias[1:-1])).all(), metric
        centroids, labels, inertia, n_iter = oracle.lloyd(X, X[:4], metric, 100)
        assert n_iter < 100
        again = oracle.lloyd(X, centroids, metric, 1)
        assert np.array_equal(again[1], labels)
        assert np.allclose(again[2], inertia)


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_driver_runs_lloyd_as_the_oracle(code_kernels, rng, metric):
    """Steps of the two drivers, on clusters so far apart that rounding decides nothing."""
    cluster = np.arange(90) % 3
    X = KINDS["normal"](rng, (90, 5)) + 100 * np.eye(5, dtype=np.float32)[cluster]
    C0 = X[:3].copy()
    if metric == "ip":
        _native.normalize(X[:3], C0)
    C = C0.copy()
    for _ in range(10):
        labels, _ = cases.assign(code_kernels, metric, X, C)
        sums, totals, _ = cases.cluster_sums(X, labels, None, 3)
        if metric == "l2":
            C = (sums / totals[:, None]).astype(np.float32)
        else:
            _native.normalize(sums.astype(np.float32), C)
    centroids, expected, _, _ = oracle.lloyd(X, C0, metric, 10)
    assert np.array_equal(cases.assign(code_kernels, metric, X, C)[0], expected)
    # A centroid was rounded twice: as a sum and when it was divided.
    assert np.allclose(C, centroids, rtol=4 * oracle.UNIT, atol=4 * oracle.UNIT)


@cases.in_foreign_float_modes
@pytest.mark.parametrize("metric", METRICS)
def test_callers_float_mode_changes_nothing(kernels, rng, metric, mode):
    for data in ("normal", "squares vanish"):
        centroids, points = draw(rng, data, 20, 600, 16, metric)
        weights = rng.random(600) * 1e-300

        def answers(n_threads, points=points, centroids=centroids, weights=weights):
            labels, distances = cases.assign(kernels, metric, points, centroids, n_threads)
            return (labels, distances, *cases.cluster_sums(points, labels, weights, 20, n_threads))

        expected = answers(1)
        for n_threads in THREADS:
            with cases.float_mode(mode):
                got = answers(n_threads)
            assert_same_bytes(got, expected, data, n_threads)


def test_bits_are_those_of_every_other_machine(kernels):
    points, centroids = cases.dyadic((50, 31), 1), cases.dyadic((19, 31), 2)
    for metric, expected in (("l2", "cd783af2ffadc61e"), ("ip", "066976428f06c9f8")):
        assert cases.digest(*cases.assign(kernels, metric, points, centroids)) == expected
