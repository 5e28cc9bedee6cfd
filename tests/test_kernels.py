"""Every kernel: the same bits as `scalar` on every kernel set, and `scalar` as the oracle says.

Where all arithmetic is exact (small whole numbers) the oracle must be met exactly, elsewhere
within the error bound that follows from the order of operations.
"""

import dataclasses
import doctest
import pickle
from fractions import Fraction

import cases
import numpy as np
import pytest
from cases import (
    COUNTS,
    DIMS,
    KINDS,
    SCALAR,
    assert_same_bytes,
    beside_scalar,
    codes_beside_scalar,
)
from hypothesis import given
from hypothesis import strategies as st

from lanewise import _native, oracle

# -------------------------------------------------------------------------------- kernel sets


def test_scalar_is_always_there():
    names = [name for name, _ in _native.kernel_names()]
    assert names[-1] == "scalar"
    assert len(set(names)) == len(names)


def test_kernel_set_knows_its_name_and_survives_pickle(code_kernels):
    assert _native.kernels_by_name(code_kernels.name).name == code_kernels.name
    assert pickle.loads(pickle.dumps(code_kernels)).name == code_kernels.name


def test_unknown_kernel_set_is_refused():
    with pytest.raises(KeyError):
        _native.kernels_by_name("sse2")


def test_oracle_examples():
    result = doctest.testmod(oracle)
    assert result.attempted > 20
    assert result.failed == 0


# --------------------------------------------------------------------------------- all_finite


@pytest.mark.parametrize("n", sorted({*COUNTS, *DIMS}))
def test_all_finite(kernels, rng, n):
    for kind in KINDS:
        x = KINDS[kind](rng, (n,))
        assert kernels.all_finite(x)
        assert oracle.all_finite(x)
    largest = np.full(n, np.finfo(np.float32).max)
    assert kernels.all_finite(largest)
    for bad in (np.nan, -np.nan, np.inf, -np.inf):
        for i in range(n):
            x = largest.copy()
            x[i] = bad
            assert not kernels.all_finite(x), (bad, i)
            # Several of them may not cancel out, nor hide behind each other.
            x[n // 2] = -bad
            assert not kernels.all_finite(x), (bad, i)
        assert n == 0 or not oracle.all_finite(x)
    for scale in (2.0, 3.0, 2.0 * 384, 2.0**24):
        edge = (np.finfo(np.float32).max / scale) * (1 + np.arange(-4, 5) * 2.0**-25)
        for value in edge.astype(np.float32).tolist():
            x = KINDS["normal"](rng, (n,))
            x[n // 2 : n // 2 + 1] = -value
            assert kernels.all_finite(x, scale) == oracle.all_finite(x, scale), (scale, value)


# --------------------------------------------------------------------------------------- fwht


@beside_scalar
@pytest.mark.parametrize("log2_dim", range(17))
@pytest.mark.parametrize("kind", KINDS)
def test_fwht_same_bits(kernels, rng, kind, log2_dim):
    dim = 2**log2_dim
    for n in COUNTS if log2_dim <= 5 else (0, 2):
        x = KINDS[kind](rng, (n, dim))
        weights = rng.standard_normal(dim, dtype=np.float32)
        got, expected = (cases.fwht(k, x, weights) for k in (kernels, SCALAR))
        assert_same_bytes(got, expected, kind, dim, n)


@pytest.mark.parametrize("log2_dim", range(17))
def test_fwht_exact_on_integers(rng, log2_dim):
    dim = 2**log2_dim
    x = cases.integers(rng, (2, dim))
    weights = rng.choice(np.array([-2, -1, -0.5, 0.5, 1, 2], np.float32), dim)
    assert np.array_equal(cases.fwht(SCALAR, x, weights), oracle.fwht(x, weights))


@pytest.mark.parametrize("log2_dim", range(17))
@pytest.mark.parametrize("kind", ["normal", "huge", "tiny"])
def test_fwht_within_bound(rng, kind, log2_dim):
    dim = 2**log2_dim
    x = KINDS[kind](rng, (2, dim))
    weights = (rng.choice([-1, 1], dim) / np.sqrt(dim)).astype(np.float32)
    error = np.abs(cases.fwht(SCALAR, x, weights) - oracle.fwht(x, weights))
    magnitude = np.abs(x.astype(np.float64) * weights).sum(axis=1, keepdims=True)
    assert (error <= oracle.fwht_error(log2_dim, magnitude)).all()


def test_oracle_hadamard_is_its_own_inverse():
    for n in (1, 2, 16, 256):
        matrix = oracle.hadamard(n)
        assert np.array_equal(matrix @ matrix, n * np.eye(n))
        assert np.array_equal(matrix, np.kron(oracle.hadamard(2), matrix)[:n, :n])


# -------------------------------------------------------------------------------------- prune


def prune_arguments(rng, kind, dim, width, scale):
    """A block in the middle of a scan; some limits are just what their candidate will reach."""
    block = KINDS[kind](rng, (dim, width))
    query = KINDS[kind](rng, (dim,))
    begin, end = sorted(rng.integers(0, dim + 1, 2).tolist())
    partial = ((query[:, None] - block)[:begin] ** 2).sum(axis=0, dtype=np.float32)
    reached = ((query[:, None] - block)[:end] ** 2).sum(axis=0, dtype=np.float32)
    middle = np.float32(np.median(reached))
    norms = (reached / scale - middle).astype(np.float32)
    norms += rng.choice(np.array([-1, 0, 0, 1], np.float32), width) * np.float32(0.5) * middle
    return block, query, begin, end, partial, norms, middle, scale


def masks(rng, width):
    everybody = 2**width - 1
    yield 0
    yield everybody
    yield 1
    yield 1 << (width - 1)
    yield int(rng.integers(0, 2**64, dtype=np.uint64)) & everybody
    yield 0xFFFF << int(rng.integers(width // 16)) * 16  # one group
    yield everybody & 0x8000_0001_0000_FFFF  # groups of all, none and few


@beside_scalar
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", KINDS)
def test_prune_same_bits(kernels, rng, kind, dim):
    for width in (16, 32, 48, 64):
        for scale in (np.float32(1), np.float32(0.9)):
            arguments = prune_arguments(rng, kind, dim, width, scale)
            for alive in masks(rng, width):
                got, expected = (cases.prune(k, *arguments, alive) for k in (kernels, SCALAR))
                assert_same_bytes(got, expected, kind, dim, width, scale, hex(alive))


@pytest.mark.parametrize("dim", DIMS)
def test_prune_exact_on_integers(rng, dim):
    ties = 0
    for width in (16, 32, 48, 64):
        for scale in (1.0, 0.5):
            arguments = prune_arguments(rng, "integers", dim, width, scale)
            *_, norms, offset, _ = arguments
            for alive in masks(rng, width):
                sums, survivors = cases.prune(SCALAR, *arguments, alive)
                expected_sums, expected = oracle.prune(*arguments, alive)
                assert np.array_equal(sums, expected_sums), (width, scale, hex(alive))
                assert int(survivors) == expected, (width, scale, hex(alive))
                ties += np.count_nonzero(expected_sums == scale * (offset + norms))
    assert ties > 0, "a limit that is met exactly must be among the cases"


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", ["normal", "huge", "tiny"])
def test_prune_within_bound(rng, kind, dim):
    width = 64
    arguments = prune_arguments(rng, kind, dim, width, np.float32(1))
    *_, begin, end, _, norms, offset, _ = arguments
    alive = 2**width - 1
    sums, survivors = cases.prune(SCALAR, *arguments, alive)
    exact, expected = oracle.prune(*arguments, alive)
    error = oracle.chain_error(end - begin, exact, roundings=2)
    assert (np.abs(sums - exact) <= error).all()
    # The limit is one addition and one multiplication by 1; whoever is clear of it is decided.
    limit = norms.astype(np.float64) + offset
    clear = np.abs(exact - limit) > error + oracle.gamma(1) * np.abs(limit)
    for c in np.flatnonzero(clear).tolist():
        assert int(survivors) >> c & 1 == expected >> c & 1


# --------------------------------------------------------------------------------------- rows


def rows_with_gaps(rng, kind, n_rows, dim, n):
    """Rows and ids, some of them twice. Rows that are not named are NaN: nobody may touch them."""
    rows = KINDS[kind](rng, (n_rows, dim))
    ids = rng.integers(0, n_rows, n)
    unnamed = np.ones(n_rows, dtype=bool)
    unnamed[ids] = False
    rows[unnamed] = np.nan
    return rows, ids


@beside_scalar
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_rows_same_bits(kernels, rng, metric, kind, dim):
    query = KINDS[kind](rng, (dim,))
    for n in COUNTS:
        rows, ids = rows_with_gaps(rng, kind, 2 * n + 1, dim, n)
        got, expected = (cases.row_scores(k, metric, query, rows, ids) for k in (kernels, SCALAR))
        assert_same_bytes(got, expected, n)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_rows_exact_on_integers(rng, metric, dim):
    truth = oracle.l2_rows if metric == "l2" else oracle.dot_rows
    query = cases.integers(rng, (dim,))
    for n in COUNTS:
        rows, ids = rows_with_gaps(rng, "integers", 2 * n + 1, dim, n)
        scores = cases.row_scores(SCALAR, metric, query, rows, ids)
        assert np.array_equal(scores, truth(query, rows, ids)), n


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", ["normal", "huge", "tiny"])
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_rows_within_bound(rng, metric, kind, dim):
    truth = oracle.l2_rows if metric == "l2" else oracle.dot_rows
    query = KINDS[kind](rng, (dim,))
    rows = KINDS[kind](rng, (40, dim))
    rows[::4] = query * np.float32(1 + 2**-20)  # nearly the query: expanded norms would fail
    ids = np.arange(40)
    exact = truth(query, rows, ids)
    magnitude = exact if metric == "l2" else np.abs(rows.astype(np.float64)) @ np.abs(query)
    error = np.abs(cases.row_scores(SCALAR, metric, query, rows, ids) - exact)
    assert (error <= oracle.row_error(dim, magnitude, metric)).all()


def test_rows_beyond_float32_are_infinite(kernels):
    query = np.full(20, 2e19, dtype=np.float32)
    scores = cases.row_scores(kernels, "l2", query, -query[None], np.zeros(1, np.int64))
    assert scores.tolist() == [np.inf]


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_within_are_the_rows_or_certainly_beyond(kernels, rng, kind, dim):
    query, rows = KINDS[kind](rng, (dim,)), KINDS[kind](rng, (65, dim))
    # One that is beyond from the first dimensions on, and one in the last.
    rows[7, 0] += np.float32(3) * np.abs(rows).max()
    rows[9], rows[9, -1] = query, rows[7, 0]
    for n in (0, 1, 2, 3, 65):
        ids = rng.integers(0, 65, n)
        scores = cases.row_scores(kernels, "l2", query, rows, ids)
        bounds = [0.0, np.inf, *scores[:3]]
        bounds += [np.nextafter(score, np.float32(-np.inf)) for score in scores[:3]]
        for bound in bounds:
            got = np.full(n, np.nan, dtype=np.float32)
            bounds = np.full(n, bound, dtype=np.float32)
            kernels.l2_rows_within(query, rows, ids, bounds, 128, None, got)
            left = np.isinf(got)
            assert_same_bytes(got[~left], scores[~left], n, bound)
            assert (scores[left] > bound).all()


def test_rows_within_are_left_early(kernels, rng):
    """Behind what puts a row beyond the bound there may be anything."""
    rows = np.zeros((3, 300), dtype=np.float32)
    rows[:, 0], rows[1:, 299] = 2, np.nan
    out = np.empty(3, dtype=np.float32)
    bounds = np.full(3, 3, dtype=np.float32)
    kernels.l2_rows_within(rows[0] * 0, rows, np.arange(3), bounds, 128, None, out)
    assert out.tolist() == [np.inf] * 3


def sampled(rng, kind, dim, n, step):
    """Rows, a bound for each near its distance, and factors that leave some at every look."""
    query, rows = KINDS[kind](rng, (dim,)), KINDS[kind](rng, (n + 3, dim))
    ids = rng.integers(0, n + 3, n)
    scores = cases.row_scores(SCALAR, "l2", query, rows, ids)
    bounds = scores * rng.choice([0.25, 1, 4], n).astype(np.float32)
    bounds[::5] = rng.choice(np.array([-1, 0, np.inf], dtype=np.float32), len(bounds[::5]))
    whole = dim // 16 * 16
    ends = np.minimum(np.arange(step, whole + step, step), whole)
    factors = ((ends / dim) * rng.choice([0.5, 1, 1.5], len(ends))).astype(np.float32)
    return query, rows, ids, bounds, ends, factors


def rows_within(kernels, query, rows, ids, bounds, step, factors):
    out = np.full(len(ids), np.nan, dtype=np.float32)
    kernels.l2_rows_within(query, rows, ids, bounds, step, factors, out)
    return out


@beside_scalar
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_within_factors_same_bits(kernels, rng, kind, dim):
    for n in COUNTS:
        for step in (16, 32, 128):
            query, rows, ids, bounds, _, factors = sampled(rng, kind, dim, n, step)
            got, expected = (
                rows_within(k, query, rows, ids, bounds, step, factors) for k in (kernels, SCALAR)
            )
            assert_same_bytes(got, expected, n, step)


@pytest.mark.parametrize("dim", DIMS)
def test_rows_within_factors_exact_on_integers(rng, dim):
    """Sums are exact, and so are products with powers of two."""
    n_left = 0
    for step in (16, 32, 128):
        query, rows, ids, bounds, ends, factors = sampled(rng, "integers", dim, 40, step)
        factors = np.exp2(np.rint(np.log2(factors)))
        got = rows_within(SCALAR, query, rows, ids, bounds, step, factors)
        expected = oracle.l2_rows_within(query, rows, ids, bounds, ends, factors)
        assert np.array_equal(got, expected), step
        n_left += np.isinf(got).sum()
    assert 0 < n_left < 120 or dim < 16


# ------------------------------------------------------------------------------------- assign

PANEL_SIZES = (1, 2, 15, 16, 17, 33, 47, 80)


@beside_scalar
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", KINDS)
def test_assign_same_bits(kernels, rng, kind, dim):
    for n in (0, 1, 17, 64):
        for k in PANEL_SIZES:
            points, centroids = KINDS[kind](rng, (n, dim)), KINDS[kind](rng, (k, dim))
            bias = KINDS[kind](rng, (k,))
            got, expected = (
                cases.kernel_assign(one, points, centroids, bias) for one in (kernels, SCALAR)
            )
            assert_same_bytes(got, expected, n, k)


def some_panels(rng, k):
    """Numbers of some panels of k centroids, and which centroids stand in them."""
    n_panels = -(-k // 16)
    ids = np.flatnonzero(rng.random(n_panels) < 0.5)
    ids = (ids if len(ids) > 0 else rng.integers(n_panels, size=1)).astype(np.uint32)
    return ids, np.isin(np.arange(k) // 16, ids)


def test_assign_meets_the_panels_that_are_named(kernels, rng):
    for k in (1, 16, 40, 80, 130):
        points, centroids = KINDS["normal"](rng, (33, 20)), KINDS["normal"](rng, (k, 20))
        bias = KINDS["normal"](rng, (k,))
        ids, met = some_panels(rng, k)
        got = cases.kernel_assign(kernels, points, centroids, bias, ids)
        only = np.where(met, bias, np.float32(-np.inf))
        assert_same_bytes(got, cases.kernel_assign(SCALAR, points, centroids, only), k)


@pytest.mark.parametrize("dim", DIMS)
def test_assign_exact_on_integers(rng, dim):
    ties = 0
    for n in (0, 1, 17, 64) if dim < 300 else (17,):
        for k in PANEL_SIZES:
            points = cases.integers(rng, (n, dim))
            # Half of the centroids stand elsewhere once more: the smaller number must win.
            centroids = cases.integers(rng, (k, dim), 2)[rng.integers(0, -(-k // 2), k)]
            bias = -0.5 * (centroids**2).sum(axis=1)
            labels, scores, runner_ups = cases.kernel_assign(SCALAR, points, centroids, bias)
            expected_labels, expected_scores, seconds = oracle.assign(points, centroids, bias)
            assert np.array_equal(labels, expected_labels), (n, k)
            assert np.array_equal(scores, expected_scores), (n, k)
            assert np.array_equal(runner_ups, seconds), (n, k)
            table = points.astype(np.float64) @ centroids.T + bias
            ties += np.count_nonzero((table == expected_scores[:, None]).sum(axis=1) > 1)
    assert ties > 0, "points between equally good centroids must be among the cases"


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", ["normal", "huge", "tiny"])
def test_assign_within_bound(rng, kind, dim):
    points, centroids = KINDS[kind](rng, (33, dim)), KINDS[kind](rng, (40, dim))
    bias = KINDS[kind](rng, (40,))
    labels, scores, _ = cases.kernel_assign(SCALAR, points, centroids, bias)
    x, c = points.astype(np.float64), centroids.astype(np.float64)
    table = x @ c.T + bias
    error = oracle.chain_error(dim, np.abs(x) @ np.abs(c).T + np.abs(bias))
    chosen = np.arange(33), labels
    assert (np.abs(scores - table[chosen]) <= error[chosen]).all()
    # Nobody's score, at its worst, beats the winner's at its best.
    assert ((table - error).max(axis=1) <= table[chosen] + error[chosen]).all()


def test_assign_without_a_finite_score_takes_the_first(kernels):
    points = np.ones((1, 3), dtype=np.float32)
    centroids = np.zeros((40, 3), dtype=np.float32)
    best = cases.kernel_assign(kernels, points, centroids, np.full(40, -np.inf))
    assert [array.tolist() for array in best] == [[0], [-np.inf], [-np.inf]]


def test_assign_says_no_negative_zero(kernels):
    points = np.full((9, 5), -1.0, dtype=np.float32)
    for k in (1, 2, 17, 40):
        centroids = np.zeros((k, 5), dtype=np.float32)
        bias = np.full(k, -0.0)
        bias[1::2] = 0.0
        labels, scores, runner_ups = cases.kernel_assign(kernels, points, centroids, bias)
        assert not labels.any()
        expected = np.float32(0.0 if k > 1 else -np.inf)
        assert_same_bytes((scores, runner_ups), (np.zeros_like(scores), np.full(9, expected)), k)


# ------------------------------------------------------------------------------- assign, of codes

# Dimensions below, at and above a stretch of 64.
CODED_DIMS = (1, 15, 16, 17, 63, 64, 65, 200)


@beside_scalar
@pytest.mark.parametrize("dim", CODED_DIMS)
@pytest.mark.parametrize("kind", KINDS)
def test_code_rows_same_bits(kernels, rng, kind, dim):
    for n in (1, 16, 33):
        rows, shift = KINDS[kind](rng, (n, dim)), KINDS[kind](rng, (dim,))
        for least in (0.0, 3.0):
            got, expected = (cases.code_rows(one, rows, shift, least) for one in (kernels, SCALAR))
            assert_same_bytes(got, expected, n, least)


@pytest.mark.parametrize("dim", CODED_DIMS)
@pytest.mark.parametrize("kind", ["normal", "huge", "tiny", "zeros"])
def test_code_rows_say_what_they_leave(rng, kind, dim):
    rows, shift = KINDS[kind](rng, (20, dim)), KINDS[kind](rng, (dim,))
    rows[3] = shift
    for least in (0.0, np.abs(rows).max() * 4):
        codes, facts = cases.code_rows(SCALAR, rows, shift, least)
        assert (np.abs(codes.astype(int)) <= 127).all()
        assert (codes[:, :, dim:] == 0).all()
        scale, norm2, coarse2, residual2 = facts.astype(np.float64).T
        x = (rows - shift).astype(np.float64)
        largest = np.maximum(np.abs(x).max(axis=1), np.float32(least)).astype(np.float32)
        expected = np.where(largest > 2.0**-100, largest / np.float32(127), 0)
        assert np.array_equal(scale, expected.astype(np.float64))
        coded = scale > 0
        left = x[coded] / scale[coded, None] - codes[0, coded, :dim]
        rest = left - codes[1, coded, :dim] / 254
        assert (codes[:, ~coded] == 0).all()
        # The operations that find a code round, so that it may be one that is as near.
        slack = 300 * oracle.UNIT
        assert (np.abs(left) <= 0.5 + slack).all()
        assert (np.abs(rest) <= (0.5 + slack) / 254 + slack).all()
        for found, part in ((coarse2[coded], left), (residual2[coded], rest)):
            lengths = np.sqrt((part**2).sum(axis=1))
            assert (np.abs(np.sqrt(found) - lengths) <= 300 * oracle.UNIT * np.sqrt(dim)).all()
        assert np.allclose(norm2, (x**2).sum(axis=1), rtol=(dim + 4) * oracle.UNIT, atol=1e-40)


def coded(rng, n, dim, largest=127):
    codes = rng.integers(-largest, largest + 1, (2, n, -(-dim // 64) * 64)).astype(np.int8)
    codes[:, :, dim:] = 0
    return codes


@codes_beside_scalar
@pytest.mark.parametrize("dim", [1, 64, 65, 200])
def test_assign_codes_same_bits(code_kernels, rng, dim):
    for n in (1, 16, 33):
        for k in (1, 15, 16, 17, 33, 64, 80, 100):
            points, centroids = coded(rng, n, dim), coded(rng, k, dim)
            weights = rng.random(n, dtype=np.float32) * 1000
            doubts = rng.random(n, dtype=np.float32) * 3e5
            bias = -rng.random(k, dtype=np.float32) * 1000
            got, expected = (
                cases.assign_codes(one, points, centroids, weights, doubts, bias)
                for one in (code_kernels, SCALAR)
            )
            assert_same_bytes(got, expected, n, k)


def test_assign_codes_meets_the_panels_that_are_named(code_kernels, rng):
    for k in (1, 16, 40, 80, 130):
        points, centroids = coded(rng, 33, 70), coded(rng, k, 70)
        weights = rng.random(33, dtype=np.float32) * 1000
        doubts = rng.random(33, dtype=np.float32) * 3e5
        bias = -rng.random(k, dtype=np.float32) * 1000
        ids, met = some_panels(rng, k)
        got = cases.assign_codes(code_kernels, points, centroids, weights, doubts, bias, ids)
        only = np.where(met, bias, np.float32(-np.inf))
        expected = cases.assign_codes(SCALAR, points, centroids, weights, doubts, only)
        assert_same_bytes(got, expected, k)


def test_assign_codes_exact_on_small_codes(rng):
    """With equal scores and doubt: who is not ahead of all others by more has no label."""
    without = 0
    for k in (1, 17, 32, 40):  # of 32, twins share a lane
        points, centroids = coded(rng, 50, 100, 3), coded(rng, k, 100, 3)
        centroids[:, k // 2 :] = centroids[:, : k - k // 2]
        bias = rng.integers(-9, 9, k).astype(np.float32)
        for doubt in (0.0, 700.0):
            labels, *_ = cases.assign_codes(
                SCALAR,
                points,
                centroids,
                np.full(50, 2, np.float32),
                np.full(50, doubt, np.float32),
                bias,
            )
            x, c = points.astype(int), centroids.astype(int)
            scores = 254 * x[0] @ c[0].T + x[0] @ c[1].T + x[1] @ c[0].T + 2 * bias
            ordered = np.sort(np.concatenate([scores, np.full((50, 1), -np.inf)], axis=1), axis=1)
            ahead = ordered[:, -1] - ordered[:, -2] > doubt
            assert np.array_equal(labels, np.where(ahead, scores.argmax(axis=1), -1))
            without += np.count_nonzero(~ahead)
    assert without > 0


def test_assign_codes_extremes(code_kernels):
    """Codes of one sign over the most dimensions that there may be: nothing may overflow."""
    dim = 65_536
    for sign in (1, -1):
        points = np.full((2, 1, dim), 127, dtype=np.int8)
        centroids = np.full((2, 2, dim), 127 * sign, dtype=np.int8)
        centroids[:, 1] = 0
        one, bias = np.ones(1, np.float32), np.zeros(2, np.float32)
        labels, scores, *_ = cases.assign_codes(code_kernels, points, centroids, one, 0 * one, bias)
        assert labels[0] == (0 if sign > 0 else 1)
        assert scores[0, 0] == sign * np.float32(256) * 127 * 127 * dim


# ------------------------------------------------------------------------------------ project

# Axes below, at and above a panel of 16, and above the four panels that one vector alone takes.
AXES = (1, 15, 16, 17, 33, 80)


@beside_scalar
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", KINDS)
def test_project_same_bits(kernels, rng, kind, dim):
    for n_axes in AXES:
        axes = KINDS["normal"](rng, (n_axes, dim))
        for n in (1, 2, 7, 8, 9, 29):
            x = KINDS[kind](rng, (n, dim))
            got, expected = (cases.project(k, x, axes) for k in (kernels, SCALAR))
            assert_same_bytes(got, expected, n_axes, n)


@pytest.mark.parametrize("dim", DIMS)
def test_project_exact_on_integers(rng, dim):
    for n_axes in AXES:
        axes = cases.integers(rng, (n_axes, dim))
        for n in (1, 5):
            x = cases.integers(rng, (n, dim))
            got = cases.project(SCALAR, x, axes)
            assert np.array_equal(got[:, :n_axes], oracle.project(x, axes)), (n_axes, n)
            assert not got[:, n_axes:].any()


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", ["normal", "huge", "tiny"])
def test_project_within_bound(rng, kind, dim):
    axes, x = KINDS["normal"](rng, (40, dim)), KINDS[kind](rng, (9, dim))
    error = np.abs(cases.project(SCALAR, x, axes)[:, :40] - oracle.project(x, axes))
    magnitude = oracle.project(np.abs(x), np.abs(axes))
    assert (error <= oracle.project_error(dim, magnitude)).all()


# --------------------------------------------------------------------------------- byte codes


def test_oracle_fused_rounds_once(rng):
    """Against fractions, which round never: sums that cancel, ties, and what is subnormal."""
    wide = np.ldexp(rng.integers(1, 2**24, (3, 300)), rng.integers(-30, 6, (3, 300)))
    small = np.ldexp(rng.integers(1, 2**24, (3, 300)), rng.integers(-100, -80, (3, 300)))
    small[2] = np.ldexp(rng.integers(1, 2**24, 300), -149)
    # Products of 25 bits, between two float32, and next to them something that float64 forgets.
    ties = 2.0 * rng.integers(2**11, 2**12, (3, 300)) + 1
    ties[2] = rng.choice([-1, 0, 1], 300) * 2.0**-40
    a, b, c = np.concatenate([wide, small, ties], axis=1).astype(np.float32)
    c[:600:3] = -a[:600:3] * b[:600:3]
    rounded_twice = 0
    for x, y, z, got in zip(*(v.tolist() for v in (a, b, c, oracle.fused(a, b, c))), strict=True):
        exact = Fraction(x) * Fraction(y) + Fraction(z)
        below, above = (
            float(np.nextafter(np.float32(got), np.float32(s))) for s in (-np.inf, np.inf)
        )
        error = abs(exact - Fraction(got))
        nearest = min(abs(exact - Fraction(other)) for other in (below, above))
        even = np.float32(got).view(np.uint32) & 1 == 0
        assert error < nearest or (error == nearest and even), (x, y, z)
        rounded_twice += np.float32(x * y + z) != np.float32(got)
    assert rounded_twice > 0, (
        "float64 alone must go wrong somewhere, or the oracle need not be so odd"
    )


def screening(rng, n_groups, quads, n_queries, *, values="any"):
    """Codes and queries, some of whose limits are just the lower bound of a candidate.

    `quads` are the ends of the steps; `values` may be "extreme" for products next to 2^31.
    """
    n, n_steps = 16 * n_groups, len(quads)
    shape, query_shape = (n_groups, quads[-1], 16, 4), (n_queries, 4 * quads[-1])
    if values == "extreme":
        codes = np.full(shape, -128, dtype=np.int8)
        codes[:, :, 1::2] = 127
        queries = np.full(query_shape, 127, dtype=np.int8)
        queries[1::2] = -127
    else:
        codes = rng.integers(-128, 128, shape, dtype=np.int8)
        queries = rng.integers(-127, 128, query_shape, dtype=np.int8)
    width = np.float32(quads[-1] * 4) ** np.float32(0.5) * 6000
    # All bfloat16 from nothing over the smallest to the products' own size, as they may be stored.
    largest = int(np.float32(width).view(np.uint32)) >> 16
    # As far as products of the largest codes stay below 2^31.
    room = int(np.log2(2**31 / (4 * quads[-1] * 128 * 127 + 1))) // max(n_steps - 1, 1)
    case = cases.Screening(
        codes,
        rng.standard_normal(n, dtype=np.float32) * width,
        rng.integers(0, largest, n, dtype=np.uint16),
        rng.integers(0, largest, (n_steps, n), dtype=np.uint16),
        np.array(quads, dtype=np.uint32),
        queries,
        rng.integers(0, min(room, 4) + 1, (n_queries, n_steps), dtype=np.int32),
        np.float32(10.0) ** rng.integers(-3, 1, (n_queries, n_steps)).astype(np.float32),
        rng.random((n_queries, n_steps), dtype=np.float32),
        rng.random(n_queries, dtype=np.float32),
        np.full(n_queries, np.inf, dtype=np.float32),
        rng.integers(0, 2**16, (n_queries, n_groups), dtype=np.uint16),
    )
    case.alive[rng.random(case.alive.shape) < 0.3] = 0
    case.alive[rng.random(case.alive.shape) < 0.3] = 0xFFFF
    case.alive[rng.random(case.alive.shape) < 0.1] = 0x8000
    case.tail_weights[:, -1] = 0  # nothing is left behind the last step, as a rule
    for q in range(n_queries):
        # Some limits are met exactly, and that is not below.
        _, estimates, _ = screened(case, q)
        c = int(rng.integers(n))
        lower = oracle.fused(
            -case.residual_weights[q], oracle.bfloat16(case.residuals[c]), estimates[c]
        )
        case.limits[q] = lower if q % 4 else np.inf if q % 8 else -np.inf
    return case


def screened(case, q, first_look=0):
    """What the oracle says of one query."""
    return oracle.screen_codes(
        case.codes,
        case.base,
        case.residuals,
        case.tails,
        case.ends,
        case.queries[q],
        case.shifts[q],
        case.scales[q],
        case.tail_weights[q],
        case.residual_weights[q],
        case.limits[q],
        case.alive[q],
        first_look,
    )


def all_screened(case, first_look=0):
    """Survivors and estimates, and with them all that the kernel promises."""
    answers = [screened(case, q, first_look) for q in range(len(case.queries))]
    alive, estimates, quads_read = (np.stack(parts) for parts in zip(*answers, strict=True))
    truth = alive, cases.of_live_groups(alive, estimates), quads_read.astype(np.uint64)
    return alive, estimates, truth


STEPS = [
    (1,),
    (2, 3),
    (16,),
    (1, 2, 15),
    (15, 16, 17, 33),
    (8, 32, 64),
    (4, 100),
    # More stretches of 64 dimensions than a matrix unit keeps queries for.
    (16 * 20 + 3, 16 * 33 + 5, 16 * 36),
]


@pytest.mark.parametrize("steps", STEPS, ids=str)
def test_screen_codes_exact(rng, steps):
    met = dropped = 0
    for n_groups in (1, 3, 4, 9) if steps[-1] < 200 else (5,):
        case = screening(rng, n_groups, steps, 6)
        for first_look in range(len(steps)):
            alive, estimates, truth = all_screened(case, first_look)
            for tile in (False, True):
                got = cases.screen_codes(SCALAR, case, tile=tile, first_look=first_look)
                assert_same_bytes(got, truth, n_groups, tile, first_look)
        for q in range(6):
            weight = -case.residual_weights[q]
            lower = oracle.fused(weight, oracle.bfloat16(case.residuals), estimates[q])
            met += np.count_nonzero(lower == case.limits[q])
        dropped += np.count_nonzero(alive != case.alive)
    assert met > 0, "a limit that is met exactly must be among the cases"
    assert dropped > 0


@codes_beside_scalar
@pytest.mark.parametrize("steps", STEPS, ids=str)
def test_screen_codes_same_bits(code_kernels, rng, steps):
    for n_groups in (1, 3, 4, 5, 9, 64) if steps[-1] < 200 else (1, 6):
        for n_queries in (1, 2, 5, 17, 64) if n_groups < 64 else (3, 64):
            case = screening(rng, n_groups, steps, n_queries)
            for first_look in {0, len(steps) - 1}:
                expected = cases.screen_codes(SCALAR, case, tile=False, first_look=first_look)
                for tile in (False, True):
                    got = cases.screen_codes(code_kernels, case, tile=tile, first_look=first_look)
                    assert_same_bytes(got, expected, n_groups, n_queries, tile, first_look)


def test_screen_codes_extremes(code_kernels, rng):
    """Codes of one sign over the most dimensions that there may be: nothing may overflow."""
    for steps in ((3,), (16,), (4, 40), (16_384,), (5_000, 16_384)):
        case = screening(rng, 1, steps, 3, values="extreme")
        *_, truth = all_screened(case)
        for tile in (False, True):
            assert_same_bytes(cases.screen_codes(code_kernels, case, tile=tile), truth, steps)


def dot_arguments(rng, n, n_positions, bits):
    """Codes of a query and of rows in any order, some of them twice."""
    query = rng.integers(-127, 128, n, dtype=np.int8)
    half = 1 << bits - 1
    rows = rng.integers(-half, half, (n_positions + 3, n), dtype=np.int8)
    return query, rows, rng.integers(0, len(rows), n_positions, dtype=np.int64)


@pytest.mark.parametrize("n", [64, 128, 192, 256, 384, 1024])
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_dot_codes_exact(code_kernels, rng, bits, n):
    # Below, at and above the rows that are taken together, and what is asked for ahead.
    n *= 8 // bits
    for n_positions in (0, 1, 2, 3, 4, 5, 7, 8, 9, 13, 100):
        arguments = dot_arguments(rng, n, n_positions, bits)
        got = cases.dot_codes(code_kernels, *arguments, bits=bits)
        assert np.array_equal(got, oracle.dot_codes(*arguments)), n_positions


def test_dot_codes_extremes(code_kernels):
    positions = np.arange(5, dtype=np.int64)
    for bits in (8, 4, 2):
        half = 1 << bits - 1
        values = (-half, -1, 0, 1, half - 1)
        for n in (256, 65_536):
            rows = np.stack([np.full(n, value, np.int8) for value in values])
            for sign in (-1, 1):
                query = np.full(n, 127 * sign, dtype=np.int8)
                got = cases.dot_codes(code_kernels, query, rows, positions, bits=bits)
                assert got.tolist() == [127 * sign * n * v for v in values]


@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 16), st.integers(0, 2**32 - 1))
def test_screen_codes_any_shape(n_quads, n_groups, n_queries, seed):
    rng = np.random.default_rng(seed)
    ends = np.unique(np.append(rng.integers(1, n_quads + 1, rng.integers(0, 4)), n_quads))
    case = screening(rng, n_groups, tuple(ends.tolist()), n_queries)
    expected = cases.screen_codes(SCALAR, case, tile=False)
    for name in cases.RUNNABLE:
        for tile in (False, True):
            got = cases.screen_codes(_native.kernels_by_name(name), case, tile=tile)
            assert_same_bytes(got, expected, name, tile)


# -------------------------------------------------------------------------------------- peak


def test_multiply_adds_counts(kernels, rng):
    x, y = cases.integers(rng, (16,)), cases.integers(rng, (16,))
    out = np.empty(16, dtype=np.float32)
    for n in (0, 48, 4800):
        kernels.multiply_adds(n, x, y, out)
        assert np.array_equal(out, n * x * y)


def test_multiply_add_codes_counts(code_kernels, rng):
    codes = rng.integers(-128, 128, (16, 4), dtype=np.int8)
    query = rng.integers(-127, 128, 4, dtype=np.int8)
    out = np.empty(16, dtype=np.int32)
    for n in (0, 3072, 3072 * 50):
        code_kernels.multiply_add_codes(n, codes, query, out)
        expected = n * (codes.astype(np.int64) @ query.astype(np.int64))
        assert np.array_equal(out, expected.astype(np.int32))


# ---------------------------------------------------------------------------- across machines


def test_bits_are_those_of_every_other_machine(code_kernels):
    """Recorded once: what Arm and x86 compute is compared through this file."""
    kernels = code_kernels
    x, weights = cases.dyadic((3, 1024), 1), cases.dyadic((1024,), 2)
    assert cases.digest(cases.fwht(kernels, x, weights)) == "e7824683b6387ffe"
    block, query = cases.dyadic((100, 48), 3), cases.dyadic((100,), 4)
    zeros = np.zeros(48, dtype=np.float32)
    pruned = cases.prune(kernels, block, query, 3, 97, zeros, zeros, 2000.0, 1.0, 2**48 - 1)
    assert cases.digest(*pruned) == "7e3f3323c2524c31"
    rows, ids = cases.dyadic((33, 100), 5), np.arange(32, -1, -1)
    assert cases.digest(cases.row_scores(kernels, "l2", query, rows, ids)) == "9c9315a89932408d"
    assert cases.digest(cases.row_scores(kernels, "ip", query, rows, ids)) == "b195bd0bde220dff"
    best = cases.kernel_assign(kernels, rows, cases.dyadic((37, 100), 6), cases.dyadic((37,), 7))
    assert cases.digest(*best) == "63fa118ad0a121d5"
    projected = cases.project(kernels, rows, cases.dyadic((40, 100), 8))
    assert cases.digest(projected) == "9350e9117bc541d6"
    out = np.empty(33, dtype=np.float32)
    bounds = np.full(33, 4200, dtype=np.float32)
    kernels.l2_rows_within(query, rows, ids, bounds, 128, None, out)
    assert cases.digest(out) == "294a70d6ff198e57"
    factors = np.array([0.25, 0.5, 0.75], dtype=np.float32)
    sampled_rows = rows_within(kernels, query, rows, ids, bounds, 32, factors)
    assert cases.digest(sampled_rows) == "8c2e112fa3b2f689"
    codes, code_query = cases.dyadic_codes((9, 256), 9), cases.dyadic_codes((256,), 10, -127)
    positions = np.array([8, 0, 3, 3, 7, 1], dtype=np.int64)
    assert (
        cases.digest(cases.dot_codes(kernels, code_query, codes, positions)) == "8ad9ee21f7345420"
    )
    nibbles = codes >> 4
    found = cases.dot_codes(kernels, code_query, nibbles, positions, bits=4)
    assert cases.digest(found) == "0760fd8efb48d360"
    found = cases.dot_codes(kernels, code_query, codes >> 6, positions, bits=2)
    assert cases.digest(found) == "634c4bca939e2116"
    case = cases.Screening(
        cases.dyadic_codes((5, 40, 16, 4), 11),
        cases.dyadic((80,), 12) * 4096,
        cases.dyadic_codes((80,), 13).astype(np.uint16) % 64 + 0x4400,
        cases.dyadic_codes((3, 80), 14).astype(np.uint16) % 64 + 0x4400,
        np.array([4, 20, 40], dtype=np.uint32),
        cases.dyadic_codes((6, 160), 15, -127),
        np.zeros((6, 3), dtype=np.int32),
        np.full((6, 3), 0.0625, dtype=np.float32),
        np.full((6, 3), 0.75, dtype=np.float32),
        np.full(6, 1.25, dtype=np.float32),
        np.arange(6, dtype=np.float32) * 2000 - 6000,
        np.full((6, 5), 0x7FFF, dtype=np.uint16),
    )
    for tile in (False, True):
        assert cases.digest(*cases.screen_codes(kernels, case, tile=tile)) == "a209d62f145cdcfd"
    finer = dataclasses.replace(
        case,
        shifts=np.array([[0, 2, 1]] * 6, dtype=np.int32),
        scales=np.full((6, 3), 2.0**-7, dtype=np.float32),
    )
    for tile in (False, True):
        assert cases.digest(*cases.screen_codes(kernels, finer, tile=tile)) == "afedfd9cf246d2a6"
