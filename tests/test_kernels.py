"""Every kernel: the same bits as `scalar` on every kernel set, and `scalar` as the oracle says.

Where all arithmetic is exact (small whole numbers) the oracle must be met exactly, elsewhere
within the error bound that follows from the order of operations.
"""

import doctest
import pickle

import cases
import numpy as np
import pytest
from cases import COUNTS, DIMS, KINDS, SCALAR, assert_same_bytes, beside_scalar

from lanewise import _native, oracle

# -------------------------------------------------------------------------------- kernel sets


def test_scalar_is_always_there():
    names = [name for name, _ in _native.kernel_names()]
    assert names[-1] == "scalar"
    assert len(set(names)) == len(names)


def test_kernel_set_knows_its_name_and_survives_pickle(kernels):
    assert _native.kernels_by_name(kernels.name).name == kernels.name
    assert pickle.loads(pickle.dumps(kernels)).name == kernels.name


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


# ---------------------------------------------------------------------------- across machines


def test_bits_are_those_of_every_other_machine(kernels):
    """Recorded once: what Arm and x86 compute is compared through this file."""
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
