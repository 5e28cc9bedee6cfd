"""Flat: exact answers, the same bits for everybody, and nothing changed by what fails."""

import copy
import functools
import itertools
import math
import pickle
import sys
import threading

import cases
import numpy as np
import pytest
from cases import THREADS, assert_same_bytes
from hypothesis import given
from hypothesis import strategies as st

import lanewise as lw
from lanewise import oracle

METRICS = ("l2", "ip", "cosine")
every_metric = pytest.mark.parametrize("metric", METRICS)

# What certifies exact answers in its own way.
PLANES = {
    "f32": {"storage": "f32"},
    "sq8-pca": {"storage": "sq8", "rotation": "pca"},
    "sq8-none": {"storage": "sq8", "rotation": None},
    "sq4-pca": {"storage": "sq4", "rotation": "pca"},
    "sq4-none": {"storage": "sq4", "rotation": None},
}
all_planes = pytest.mark.parametrize("planes", PLANES.values(), ids=PLANES)
# One of a kind, where axes and bits make no difference.
SOME_PLANES = ("f32", "sq8-pca", "sq4-none")
some_planes = pytest.mark.parametrize(
    "planes", [PLANES[name] for name in SOME_PLANES], ids=SOME_PLANES
)


def near_duplicates(rng, shape):
    noise = rng.standard_normal(shape, dtype=np.float32) * np.float32(2.0**-20)
    return rng.standard_normal(shape[1], dtype=np.float32) + noise


def tight_clusters(rng, shape):
    """Neighbours a few units in the last place apart, far from the centre of all rows.

    What rounding does to rotated rows and to inner products is larger than their distances.
    """
    centers = rng.standard_normal((4, shape[1]), dtype=np.float32)
    noise = rng.standard_normal(shape, dtype=np.float32) * np.float32(2.0**-23)
    return centers[np.arange(shape[0]) % 4] + noise


def constant_dimension(rng, shape):
    X = rng.standard_normal(shape, dtype=np.float32)
    X[:, shape[1] // 2] = 1e4
    return X


def zero_vectors(rng, shape):
    X = rng.standard_normal(shape, dtype=np.float32)
    X[rng.random(shape[0]) < 0.4] = 0
    return X


KINDS = {
    **cases.KINDS,
    "near duplicates": near_duplicates,
    "tight clusters": tight_clusters,
    "far away": lambda rng, shape: rng.standard_normal(shape, dtype=np.float32) + np.float32(1000),
    "constant dimension": constant_dimension,
    "zero vectors": zero_vectors,
    "heavy tails": lambda rng, shape: rng.standard_cauchy(shape).astype(np.float32),
    "longest": cases.longest,
}


def queries_for(rng, kind, X):
    """Rows themselves, what is next to one, the middle of everything, and others like the rows."""
    beside = np.nextafter(X[:1], np.float32(0))
    others = KINDS[kind](rng, (3, X.shape[1]))
    return np.concatenate([X[:2], beside, np.zeros_like(X[:1]), others])


def settled(index, Q, k, ids=None):
    """The answer that the scores give: all rows (or those named) by (distance, id)."""
    ids = np.arange(len(index)) if ids is None else ids
    table = np.ascontiguousarray(np.broadcast_to(ids, (len(Q), len(ids))), dtype=np.int64)
    scores = index.score(Q, table)
    order = np.lexsort((table, scores), axis=1)[:, :k]
    distances = np.full((len(Q), k), np.inf, dtype=np.float32)
    found = np.full((len(Q), k), -1, dtype=np.int64)
    distances[:, : order.shape[1]] = np.take_along_axis(scores, order, axis=1)
    found[:, : order.shape[1]] = np.take_along_axis(table, order, axis=1)
    return distances, found


def true_table(X, Q, metric):
    """Distances of all queries to all rows in float64."""
    distances, ids = oracle.search(X, Q, len(X), metric)
    table = np.empty_like(distances)
    np.put_along_axis(table, ids, distances, axis=1)
    return table


def score_error(X, Q, metric, table):
    """Bound of |float32 score - float64 table|, see `oracle.row_error`.

    One rounding more than the arithmetic has covers the errors of the float64 table, which are
    2**-29 of a float32 rounding for each of at most 2**20 terms. A coordinate of a unit vector is
    rounded once, or underflows by 2**-150; both factors of a product are unit vectors'. One minus
    the cosine is rounded once more.
    """
    X, Q = X.astype(np.float64), Q.astype(np.float64)
    spare = oracle.gamma(1)
    if metric == "l2":
        return oracle.row_error(X.shape[1], table, "l2") + spare * table
    if metric == "cosine":
        lengths = [np.sqrt((V**2).sum(axis=1, keepdims=True)) for V in (X, Q)]
        X, Q = (
            np.divide(V, length, out=np.zeros_like(V), where=length > 0)
            for V, length in zip((X, Q), lengths, strict=True)
        )
        spare = oracle.gamma(4)
    magnitude = np.abs(Q) @ np.abs(X).T
    error = oracle.row_error(X.shape[1], magnitude, "ip") + spare * magnitude
    if metric == "cosine":
        error += X.shape[1] * 2.0**-148
        error += oracle.UNIT * (np.abs(table) + error)
    return error


SHAPES = [(1, 65), (7, 64), (16, 200), (33, 63), (100, 130)]  # dim, rows


# ---------------------------------------------------------------------------------- the answers


@every_metric
@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_float64_up_to_rounding(rng, metric, kind):
    for dim, n in SHAPES:
        X = KINDS[kind](rng, (n, dim))
        Q = queries_for(rng, kind, X)
        index = lw.Flat(dim, metric).add(X)
        table = true_table(X, Q, metric)
        error = score_error(X, Q, metric, table)
        ids = np.broadcast_to(np.arange(n), (len(Q), n))
        assert (np.abs(index.score(Q, ids) - table) <= error).all(), dim
        k = 10
        distances, found = index.search(Q, k)
        at = np.arange(len(Q))[:, None], found
        assert (np.abs(distances - table[at]) <= error[at]).all(), dim
        assert all(len(set(row)) == k for row in found.tolist())
        # Whoever is not in the answer is no nearer than the last one who is.
        left_out = np.ones(table.shape, dtype=bool)
        left_out[at] = False
        assert ((table + error >= distances[:, -1:]) | ~left_out).all(), dim


@every_metric
@all_planes
@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_brute_force_bit_for_bit(rng, metric, planes, kind):
    """No scan may lose a candidate, however near the bound it is."""
    for dim, n in SHAPES:
        X = KINDS[kind](rng, (n, dim))
        Q = queries_for(rng, kind, X)
        index = lw.Flat(dim, metric, **planes).add(X)
        for k in (1, 10, n, n + 3):
            for delta in (1, 32, 10**9) if planes["storage"] == "f32" else (32,):
                got = tuple(index.search(Q, k, delta=delta))
                assert_same_bytes(got, settled(index, Q, k), dim, k, delta)


@every_metric
@all_planes
@pytest.mark.parametrize("dim", [1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 100, 127, 128, 200])
def test_any_dimension(rng, metric, planes, dim):
    """Rows whose first dimensions say most, so that steps of all kinds pay off."""
    n = 400
    X, Q = KINDS["normal"](rng, (n, dim)), KINDS["normal"](rng, (5, dim))
    falling = np.float32(0.97) ** np.arange(dim, dtype=np.float32)
    X, Q = X * falling, np.concatenate([Q, X[:2]]) * falling
    index = lw.Flat(dim, metric, **planes).add(X)
    assert index.rotation == planes.get("rotation", "fwht")
    for k in (1, 10, 100, n):
        assert_same_bytes(tuple(index.search(Q, k)), settled(index, Q, k), k)


@all_planes
@pytest.mark.parametrize("dim", [384, 1000])
def test_many_dimensions(rng, planes, dim):
    X = KINDS["near duplicates"](rng, (200, dim))
    Q = queries_for(rng, "near duplicates", X)
    index = lw.Flat(dim, **planes).add(X)
    for k in (1, 10, 200):
        assert_same_bytes(tuple(index.search(Q, k)), settled(index, Q, k), k)


@every_metric
@some_planes
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "uint8", "int8"])
def test_ties_are_in_the_order_of_ids_exactly(rng, metric, planes, dtype):
    """Whole numbers, or powers of four of equal coordinates: nothing is rounded anywhere."""
    low = 0 if dtype == "uint8" else -2
    for dim, n in ((1, 100), (2, 100), (3, 130), (16, 300)):
        if metric == "cosine":
            X = np.concatenate([units(rng, n, dim, low), np.zeros((5, dim))])
        else:
            X = rng.integers(low, 3, (n, dim))
        X = rng.permutation(X).astype(dtype)
        Q = np.concatenate([X[:5], X[-5:]])
        for k in (1, 7, len(X) + 2):
            distances, ids = oracle.search(X, Q, k, metric)
            got = lw.Flat(dim, metric, **planes).add(X).search(Q, k)
            assert np.array_equal(got.ids, ids), (dim, k)
            assert np.array_equal(got.distances, distances), (dim, k)
        assert (np.diff(distances[:, :-2], axis=1) == 0).any(), "ties must be among the cases"


def units(rng, n, dim, low):
    """Multiples of vectors whose normalised coordinates are 0 and plus or minus 1, 1/2 or 1/4."""
    counts = [c for c in (1, 4, 16) if c <= dim]
    X = np.zeros((n, dim))
    for row in X:
        chosen = rng.choice(dim, rng.choice(counts), replace=False)
        row[chosen] = rng.choice([1, 2, 3]) * rng.choice([1] if low == 0 else [-1, 1], len(chosen))
    return X


def test_cosines_that_differ_by_less_than_the_distance_can_show_are_ties():
    """What is reported decides: 1 - cos rounds to the same for cosines near 0."""
    X = np.array([[1e-9, 1], [2e-9, 1], [0, 1], [-3e-9, 1]], dtype=np.float32)
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        distances, ids = lw.Flat(2, "cosine").add(X[order]).search([1.0, 0.0], 3)
        assert distances.tolist() == [[1, 1, 1]]
        assert ids.tolist() == [[0, 1, 2]]


@every_metric
@pytest.mark.parametrize("dtype", ["float16", "float64", "uint8", "int8"])
def test_other_types_give_the_answers_of_float32(rng, metric, dtype):
    low = 0 if dtype == "uint8" else -100
    X, Q = (rng.integers(low, 100, (n, 20)).astype(dtype) for n in (90, 4))
    got, expected = (
        lw.Flat(20, metric).add(V).search(W, 9)
        for V, W in ((X, Q), (X.astype(np.float32), Q.astype(np.float32)))
    )
    assert_same_bytes(tuple(got), tuple(expected))


def test_zero_vectors_are_at_distance_one_of_all_for_the_cosine(rng):
    X = np.concatenate([np.zeros((2, 7)), rng.standard_normal((3, 7))])
    index = lw.Flat(7, "cosine").add(X)
    assert index.score(X[:1], [[0, 1, 2, 3, 4]]).tolist() == [[1] * 5]
    assert index.score(X[2:], [[0, 1]] * 3).tolist() == [[1, 1]] * 3
    assert index.search(np.zeros(7), 5).ids.tolist() == [[0, 1, 2, 3, 4]]


def test_the_cosine_does_not_know_lengths(rng):
    X = KINDS["normal"](rng, (80, 12))
    scale = np.ldexp(np.float32(1), rng.integers(-100, 100, (80, 1))).astype(np.float32)
    got, expected = (lw.Flat(12, "cosine").add(V).search(V[:5], 6) for V in (X * scale, X))
    assert_same_bytes(tuple(got), tuple(expected))


@given(
    st.integers(1, 5),
    st.lists(st.integers(-3, 3), min_size=5, max_size=200),
    st.integers(0, 12),
    st.sampled_from(["l2", "ip"]),
    st.sampled_from(sorted(PLANES)),
)
def test_any_small_set_of_whole_numbers(dim, numbers, k, metric, planes):
    X = np.array(numbers[: len(numbers) // dim * dim], dtype=np.float32).reshape(-1, dim)
    got = lw.Flat(dim, metric, **PLANES[planes]).add(X).search(X[:3], k)
    distances, ids = oracle.search(X, X[:3], k, metric)
    assert np.array_equal(got.ids, ids)
    assert np.array_equal(got.distances, distances)


# ------------------------------------------------------------------------- the same for everybody


@every_metric
@some_planes
def test_same_bits_for_everybody(code_kernels, rng, metric, planes):
    """Kernel set, threads, batches, the way of adding and the rotation: none may show."""
    dim, n = 5, 9000  # several pieces of a scan
    X = KINDS["normal"](rng, (n, dim))
    Q = queries_for(rng, "normal", X)
    expected = tuple(lw.Flat(dim, metric, kernels="scalar", n_threads=1).add(X).search(Q, 20))
    index = lw.Flat(dim, metric, kernels=code_kernels, **planes)
    for begin, end in ((0, 1), (1, 3), (3, 63), (63, 64), (64, 200), (200, 5000), (5000, n)):
        index.add(X[begin:end], n_threads=3)
    other = lw.Flat(dim, metric, seed=2**64 - 1, kernels=code_kernels, n_threads=2, **planes)
    other.add(X)
    for n_threads in THREADS:
        for one in (index, other):
            got = tuple(one.search(Q, 20, n_threads=n_threads))
            assert_same_bytes(got, expected, n_threads)
            alone = [one.search(q, 20, n_threads=n_threads) for q in Q]
            together = tuple(np.concatenate(parts) for parts in zip(*alone, strict=True))
            assert_same_bytes(together, expected, n_threads, "alone")
            assert_same_bytes(one.score(Q, expected[1], n_threads=n_threads), expected[0])


@every_metric
@all_planes
def test_same_statistics_for_everybody(code_kernels, rng, metric, planes):
    X = KINDS["normal"](rng, (5000, 5))
    Q = X[:3] + np.float32(0.1)
    plain = lw.Flat(5, metric, kernels="scalar", n_threads=1, **planes).add(X)
    index = lw.Flat(5, metric, kernels=code_kernels, n_threads=3, **planes).add(X)
    for eps0 in (1.0, np.inf):
        expected = plain.search(Q, 4, eps0=eps0).stats
        for n_threads in THREADS:
            got = index.search(Q, 4, eps0=eps0, n_threads=n_threads).stats
            for name, values in expected.items():
                assert_same_bytes(got[name], values, name, n_threads)
            alone = index.search(Q[1], 4, eps0=eps0, n_threads=n_threads).stats
            assert alone["dimensions"][0] == expected["dimensions"][1]


@every_metric
@all_planes
def test_rows_that_move_the_centre_change_nothing(rng, metric, planes):
    """Few rows at the origin, then many far away, then single ones at both places."""
    near, far = KINDS["normal"](rng, (40, 20)), KINDS["far away"](rng, (300, 20))
    X = np.concatenate([near[:30], far[:290], near[30:31], far[290:291], near[31:], far[291:]])
    index = lw.Flat(20, metric, **planes)
    for part in np.split(X, [30, 320, 321, 322, 331]):
        index.add(part)
        expected = lw.Flat(20, metric, **planes).add(X[: len(index)])
        for query in (near[:3], far[:3]):
            got = tuple(index.search(query, 15))
            assert_same_bytes(got, tuple(expected.search(query, 15)), len(index))
            assert_same_bytes(got, settled(index, query, 15), len(index))
    assert len(index) == len(X)


@every_metric
@all_planes
def test_the_bound_knows_the_longest_rows(rng, metric, planes):
    """Also if they came long ago, and only short ones were added since."""
    X = tight_clusters(rng, (300, 20)) * np.float32(100)
    short = KINDS["normal"](rng, (10, 20)) * np.float32(2.0**-10)
    index = lw.Flat(20, metric, **planes).add(X)
    for row in short:
        index.add(row[None])
    for k in (1, 10, 100):
        assert_same_bytes(tuple(index.search(X[:6], k)), settled(index, X[:6], k), k)


@every_metric
@all_planes
def test_the_scan_terminates_early(rng, metric, planes):
    """Otherwise the tests above would test nothing but the scores."""
    X = KINDS["normal"](rng, (2000, 128))
    stats = lw.Flat(128, metric, **planes).add(X).search(X[:4], 1).stats
    assert (stats["candidates"] == 2000).all()
    assert (stats["settled"] < 1000).all()
    assert (stats["settled"] >= 1).all()
    assert (stats["dimensions"] >= 128 * stats["settled"]).all()


# ------------------------------------------------------------------------------- the statistics


@every_metric
@all_planes
def test_a_finite_eps0_is_as_reproducible(code_kernels, rng, metric, planes):
    X = KINDS["normal"](rng, (5000, 32))
    Q = KINDS["normal"](rng, (4, 32))
    options = {"k": 10, "eps0": 0.7, "delta": 8}
    plain = lw.Flat(32, metric, kernels="scalar", n_threads=1, **planes).add(X)
    expected = plain.search(Q, **options)
    index = lw.Flat(32, metric, kernels=code_kernels, **planes).add(X)
    for n_threads in THREADS:
        got = index.search(Q, n_threads=n_threads, **options)
        assert_same_bytes(tuple(got), tuple(expected), n_threads)
        assert_same_bytes(got.stats["dimensions"], expected.stats["dimensions"])
        alone = index.search(Q[2], n_threads=n_threads, **options)
        assert_same_bytes(tuple(alone), (expected.distances[2:3], expected.ids[2:3]))


@every_metric
@all_planes
def test_a_finite_eps0_reports_canonical_distances_for_less_work(rng, metric, planes):
    X = KINDS["normal"](rng, (6000, 128))
    Q = KINDS["normal"](rng, (5, 128))
    index = lw.Flat(128, metric, **planes).add(X)
    exact = index.search(Q, 10)
    # Codes have further looks at the bound then, which cost.
    work = "dimensions" if planes["storage"] == "f32" else "settled"
    for eps0 in (0, 0.5, 2.1, 8.0):
        got = index.search(Q, 10, eps0=eps0)
        assert_same_bytes(got.distances, index.score(Q, got.ids), eps0)
        pairs = list(zip(got.distances.tolist(), got.ids.tolist(), strict=True))
        assert all(list(zip(d, i, strict=True)) == sorted(zip(d, i, strict=True)) for d, i in pairs)
        assert (got.distances >= exact.distances).all()
        assert (got.stats["candidates"] == 6000).all()
        assert got.stats[work].sum() <= exact.stats[work].sum(), eps0
    cheap = index.search(Q, 10, eps0=0.5).stats[work].sum()
    assert cheap < exact.stats[work].sum(), "the dial must turn something"
    assert_same_bytes(tuple(index.search(Q, 10, eps0=1e9)), tuple(exact))


# -------------------------------------------------------------------------------------- shapes


@every_metric
def test_k_from_nothing_to_more_than_there_is(rng, metric):
    X = KINDS["normal"](rng, (3, 4))
    index = lw.Flat(4, metric).add(X)
    for k in (0, 1, 3, 4, 50):
        distances, ids = index.search(X[:2], k)
        assert distances.shape == ids.shape == (2, k)
        assert distances.dtype == np.float32
        assert ids.dtype == np.int64
        assert (ids[:, 3:] == -1).all()
        assert (distances[:, 3:] == np.inf).all()
        assert np.isfinite(distances[:, :3]).all()
        assert (np.sort(ids[:, :3]) == np.arange(min(k, 3))).all() or k < 3
    assert index.search(X, 4).stats["candidates"].tolist() == [3, 3, 3]


@every_metric
def test_an_empty_index_finds_nothing(metric):
    index = lw.Flat(4, metric)
    index.add(np.empty((0, 4), dtype=np.float32))
    assert len(index) == 0
    result = index.search(np.ones((2, 4)), 3)
    assert result.ids.tolist() == [[-1] * 3] * 2
    assert result.distances.tolist() == [[math.inf] * 3] * 2
    assert result.stats["candidates"].tolist() == [0, 0]
    assert index.score(np.ones(4), [-1, -1]).tolist() == [[math.inf] * 2]
    assert index.rows.shape == (0, 4)


def test_no_queries(rng):
    index = lw.Flat(4).add(KINDS["normal"](rng, (10, 4)))
    result = index.search(np.empty((0, 4), dtype=np.float32), 3)
    assert result.ids.shape == result.distances.shape == (0, 3)
    assert result.stats["settled"].shape == (0,)
    assert index.score(np.empty((0, 4)), np.empty((0, 2), dtype=np.int64)).shape == (0, 2)


def test_one_query_is_a_batch_of_one(rng):
    X = KINDS["normal"](rng, (70, 9))
    index = lw.Flat(9).add(X)
    assert_same_bytes(tuple(index.search(X[3], 5)), tuple(index.search(X[3:4], 5)))
    assert_same_bytes(tuple(index.search(X[3].tolist(), 5)), tuple(index.search(X[3:4], 5)))
    assert_same_bytes(index.score(X[3], [5, -1]), index.score(X[3:4], [[5, -1]]))
    assert index.pool(X[:2], 4).tolist() == index.search(X[:2], 4).ids.tolist()


def test_any_layout_of_the_same_numbers(rng):
    X = KINDS["normal"](rng, (70, 9))
    read_only = X.copy()
    read_only.flags.writeable = False
    wide = np.zeros((140, 18), dtype=np.float32)
    wide[::2, ::2] = X
    layouts = [
        read_only,
        np.asfortranarray(X),
        wide[::2, ::2],
        X[::-1].copy()[::-1],
        X.astype(">f4"),
        X.tolist(),
    ]
    expected = tuple(lw.Flat(9).add(X).search(X, 5))
    for layout in layouts:
        index = lw.Flat(9).add(layout)
        assert_same_bytes(tuple(index.search(layout, 5)), expected)
    assert (read_only == X).all()


def test_the_index_keeps_no_hold_on_what_it_was_given(rng):
    X = KINDS["normal"](rng, (70, 9))
    mine = X.copy()
    index = lw.Flat(9).add(mine)
    mine[:] = 0
    assert_same_bytes(tuple(index.search(X, 5)), tuple(lw.Flat(9).add(X).search(X, 5)))


def test_properties(rng):
    X = KINDS["normal"](rng, (70, 9))
    index = lw.Flat(9, "cosine").add(X)
    assert (index.dim, index.metric, len(index)) == (9, "cosine", 70)
    assert repr(index) == "Flat(dim=9, metric='cosine', n=70)"
    assert not index.rows.flags.writeable
    lengths = (index.rows.astype(np.float64) ** 2).sum(axis=1)
    # Each coordinate was rounded once.
    assert (np.abs(lengths - 1) <= oracle.gamma(3)).all()
    assert_same_bytes(lw.Flat(9).add(X).rows, X)
    assert index.nbytes >= 2 * X.nbytes


# -------------------------------------------------------------------------------------- refusals


def with_value(value, row=1, column=2):
    X = np.ones((3, 4), dtype=np.float32)
    X[row, column] = value
    return X


NOT_VECTORS = [
    (with_value(np.nan), ValueError, "finite values, got nan at row 1, column 2"),
    (with_value(np.inf), ValueError, "finite values, got inf at row 1, column 2"),
    (with_value(-np.inf), ValueError, "finite values"),
    (with_value(np.nan).astype(np.float16), ValueError, "finite values"),
    (np.full((2, 4), 1e300), ValueError, "float32's range"),
    (np.ones((2, 3), np.float32), ValueError, "dimension 4, got 3"),
    (np.ones((2, 5), np.float32), ValueError, "dimension 4, got 5"),
    (np.ones((2, 2, 4), np.float32), ValueError, "2-D"),
    (np.float32(1), ValueError, "2-D"),
    ([[1, 2, 3, 4], [1, 2]], ValueError, "equal length"),
    (np.ones((2, 4), dtype=np.int64), TypeError, "int64"),
    (np.ones((2, 4), dtype=bool), TypeError, "bool"),
    (np.ones((2, 4), dtype=complex), TypeError, "complex"),
    (None, TypeError, "NoneType"),
    ("abcd", TypeError, "str"),
]


def unchanged(index, Q, expected):
    __tracebackhide__ = True
    assert_same_bytes(tuple(index.search(Q, 6)), expected)
    return True


@every_metric
@pytest.mark.parametrize("wrong", NOT_VECTORS, ids=lambda wrong: wrong[2])
def test_what_is_no_matrix_is_refused_and_nothing_added(rng, metric, wrong):
    value, error, words = wrong
    X = KINDS["normal"](rng, (5, 4))
    index = lw.Flat(4, metric).add(X)
    expected = tuple(index.search(X, 6))
    with pytest.raises(error, match=rf"^X: .*{words}"):
        index.add(value)
    with pytest.raises(error, match=rf"^queries: .*{words}"):
        index.search(value, 6)
    with pytest.raises(error, match=rf"^queries: .*{words}"):
        index.score(value, [[0], [0], [0]])
    assert len(index) == 5
    assert unchanged(index, X, expected)
    index.add(X[:1])
    assert_same_bytes(tuple(index.search(X, 6)), settled(index, X, 6))


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_vectors_so_long_that_distances_overflow_are_refused(metric):
    too_long = with_value(1e19)
    index = lw.Flat(4, metric).add(np.ones((2, 4)))
    with pytest.raises(ValueError, match=r"^X: .*length 1e\+19 in row 1"):
        index.add(too_long)
    with pytest.raises(ValueError, match=r"^queries: .*length 1e\+19 in row 1"):
        index.search(too_long)
    with pytest.raises(ValueError, match=r"^queries: .*length"):
        index.score(too_long, [[0]] * 3)
    assert len(index) == 2
    # The longest that are accepted, in opposite directions: still finite.
    long = np.array([[6.5e18, 0, 0, 0], [-6.5e18, 0, 0, 0]], dtype=np.float32)
    distances, ids = index.add(long).search(long, 4)
    assert np.isfinite(distances).all()
    assert (np.sort(ids) == np.arange(4)).all()


def test_the_cosine_takes_any_length():
    long = with_value(3e38)
    assert lw.Flat(4, "cosine").add(long).search(long[1], 1).ids.tolist() == [[1]]


OPTIONS = [
    ({"k": -1}, ValueError, "k"),
    ({"k": 2.0}, TypeError, "k"),
    ({"k": True}, TypeError, "k"),
    ({"eps0": -0.1}, ValueError, "eps0"),
    ({"eps0": math.nan}, ValueError, "eps0"),
    ({"eps0": "2"}, TypeError, "eps0"),
    ({"delta": 0}, ValueError, "delta"),
    ({"delta": 1.5}, TypeError, "delta"),
    ({"n_threads": 0}, ValueError, "n_threads"),
    ({"n_threads": 1.0}, TypeError, "n_threads"),
]


@pytest.mark.parametrize(("options", "error", "name"), OPTIONS)
def test_wrong_options_are_named(options, error, name):
    index = lw.Flat(2).add([[1.0, 2.0]])
    with pytest.raises(error, match=f"^{name}: expected"):
        index.search([1.0, 2.0], **{"k": 1, **options})
    if name == "n_threads":
        with pytest.raises(error, match=r"^n_threads: expected"):
            index.add([[1.0, 2.0]], **options)
        with pytest.raises(error, match=r"^n_threads: expected"):
            index.score([1.0, 2.0], [0], **options)
        with pytest.raises(error, match=r"^n_threads: expected"):
            lw.Flat(2, **options)
        assert len(index) == 1


CONSTRUCTION = [
    ({"dim": 0}, ValueError, "dim"),
    ({"dim": 2**24 + 1}, ValueError, "dim"),
    ({"dim": 1.5}, TypeError, "dim"),
    ({"metric": "L2"}, ValueError, "metric"),
    ({"metric": None}, TypeError, "metric"),
    ({"seed": -1}, ValueError, "seed"),
    ({"seed": 2**64}, ValueError, "seed"),
    ({"storage": "sq2"}, ValueError, "storage"),
    ({"storage": None}, ValueError, "storage"),
    ({"storage": "sq8", "dim": 65_537}, ValueError, "storage"),
    ({"rotation": "fft"}, ValueError, "rotation"),
    ({"rotation": "fwht"}, ValueError, "rotation"),
    ({"rotation": "pca", "storage": "f32"}, ValueError, "rotation"),
    ({"rotation": None, "storage": "f32"}, ValueError, "rotation"),
    ({"rotation": "pca", "dim": 4097}, ValueError, "rotation"),
    ({"kernels": "sse9"}, ValueError, "kernels"),
    ({"kernels": 3}, TypeError, "kernels"),
]


@pytest.mark.parametrize(("options", "error", "name"), CONSTRUCTION)
def test_wrong_construction_is_named(options, error, name):
    with pytest.raises(error, match=f"^{name}: "):
        lw.Flat(**{"dim": 3, **options})


def test_ids_that_nobody_has_are_refused(rng):
    X = KINDS["normal"](rng, (5, 4))
    index = lw.Flat(4).add(X)
    with pytest.raises(ValueError, match=r"^ids: 5 is not in the index$"):
        index.score(X[:2], [[0], [5]])
    with pytest.raises(ValueError, match=r"^ids: expected 0 <= id.*got -2"):
        index.score(X[0], [-2])
    with pytest.raises(ValueError, match=r"^ids: "):
        index.score(X[0], np.array([2**63 + 1], dtype=np.uint64))
    with pytest.raises(ValueError, match=r"^ids: expected 2 rows, one for each query, got 3"):
        index.score(X[:2], [[0], [1], [2]])
    with pytest.raises(ValueError, match=r"^ids: expected 2 rows"):
        index.score(X[:2], [0, 1])
    with pytest.raises(TypeError, match=r"^ids: "):
        index.score(X[0], [0.0])
    with pytest.raises(ValueError, match=r"^ids: .*2-D"):
        index.score(X[0], np.zeros((1, 1, 1), dtype=np.int64))


@every_metric
def test_scores_of_named_rows(rng, metric):
    X = KINDS["normal"](rng, (300, 17))
    index = lw.Flat(17, metric).add(X)
    full = index.search(X[:4], 300)
    assert_same_bytes(index.score(X[:4], full.ids), full.distances)
    ids = rng.integers(-1, 300, (4, 1100))  # more than one piece of a list
    for n_threads in THREADS:
        got = index.score(X[:4], ids.astype(np.int32), n_threads=n_threads)
        assert (got[ids < 0] == np.inf).all()
        for q in range(4):
            by_id = dict(zip(full.ids[q].tolist(), full.distances[q].tolist(), strict=True))
            assert [by_id.get(i, math.inf) for i in ids[q].tolist()] == got[q].tolist()
    assert index.score(X[:4], np.empty((4, 0), dtype=np.int64)).shape == (4, 0)
    assert index.score(X[0], []).shape == (1, 0)


# ------------------------------------------------------------------------------------- lifetimes


@every_metric
@all_planes
def test_pickles_and_copies_answer_the_same(code_kernels, rng, metric, planes):
    X = KINDS["normal"](rng, (150, 10))
    index = lw.Flat(10, metric, seed=4, kernels=code_kernels, **planes)
    index.add(X[:100]).add(X[100:120])
    expected = index.search(X, 7, eps0=1.0, delta=2)
    after = tuple(lw.Flat(10, metric).add(X).search(X, 7))
    pickles = [
        pickle.loads(pickle.dumps(index, protocol))
        for protocol in range(2, 1 + pickle.HIGHEST_PROTOCOL)
    ]
    for twin in [*pickles, copy.deepcopy(index)]:
        assert (len(twin), twin.dim, twin.metric) == (120, 10, metric)
        # With a finite eps0 the answer depends on centre and rotation too.
        got = twin.search(X, 7, eps0=1.0, delta=2)
        assert_same_bytes(tuple(got), tuple(expected))
        assert_same_bytes(got.stats["dimensions"], expected.stats["dimensions"])
        assert_same_bytes(
            twin.score(X[:2], [[0, 119], [-1, 3]]), index.score(X[:2], [[0, 119], [-1, 3]])
        )
        assert_same_bytes(tuple(twin.add(X[120:]).search(X, 7)), after)
    assert len(index) == 120, "a copy is no window"


def test_an_empty_index_can_be_pickled():
    twin = pickle.loads(pickle.dumps(lw.Flat(3)))
    assert twin.add([[1.0, 2.0, 3.0]]).search([1.0, 2.0, 3.0], 1).ids.tolist() == [[0]]


@all_planes
def test_a_pickle_holds_what_the_index_holds_and_no_more(rng, planes):
    """Room to grow is memory that nobody has written."""
    X = KINDS["normal"](rng, (1000, 32))
    index = lw.Flat(32, **planes).add(X)
    index.add(X[:1])
    at_once = lw.Flat(32, **planes).add(np.concatenate([X, X[:1]]))
    grown, whole = (len(pickle.dumps(one, pickle.HIGHEST_PROTOCOL)) for one in (index, at_once))
    assert grown <= whole


@pytest.mark.parametrize("metric", ["l2", "ip"])
@some_planes
def test_searches_during_adds_see_all_or_nothing(rng, metric, planes):
    """Every answer is that of some number of whole additions, and never of fewer than before."""
    X = KINDS["normal"](rng, (640, 6))
    Q = X[[0, 639, 100]]
    ends = [10, 11, 40, 64, 130, 131, 300, 301, 500, 640]
    states = [tuple(lw.Flat(6, metric, **planes).add(X[:end]).search(Q, 40)) for end in ends]
    known = {tuple(part.tobytes() for part in state): i for i, state in enumerate(states)}
    index = lw.Flat(6, metric, n_threads=2, **planes).add(X[: ends[0]])
    cases.assert_changes_are_seen_whole(
        lambda: tuple(part.tobytes() for part in index.search(Q, 40)),
        known,
        [functools.partial(index.add, X[begin:end]) for begin, end in itertools.pairwise(ends)],
    )
    assert_same_bytes(tuple(index.search(Q, 40)), states[-1])


def test_adds_at_once_are_one_after_another(rng):
    """Batches keep together, and none is lost."""
    X = np.repeat(np.arange(40, dtype=np.float32), 7)[:, None]
    index = lw.Flat(1)
    barrier = threading.Barrier(4)

    def add(lane):
        barrier.wait(timeout=60)
        for batch in range(lane, 40, 4):
            index.add(X[7 * batch : 7 * batch + 7])

    threads = [threading.Thread(target=add, args=(lane,)) for lane in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    batches = index.rows.reshape(40, 7)
    assert (batches == batches[:, :1]).all()
    assert sorted(batches[:, 0].tolist()) == list(range(40))
    assert_same_bytes(tuple(index.search(X[:3], 50)), settled(index, X[:3], 50))
