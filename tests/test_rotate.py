"""The rotation: its matrix, its rounding, its inverse, how it spreads, the same bits everywhere."""

import math

import cases
import numpy as np
import pytest
from cases import COUNTS, DIMS, KINDS, SCALAR, THREADS, assert_same_bytes, beside_scalar

from lanewise import oracle
from lanewise.rotation import rotation_plan


def chunks(dim):
    """Single coordinates, what the package uses, and all at once; the oracle is slow on many."""
    return sorted({1, math.gcd(dim, 16), dim}) if dim < 300 else [math.gcd(dim, 16)]


@beside_scalar
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("back", [False, True])
def test_same_bits(kernels, rng, back, kind, dim):
    plan = cases.rotation_plan(dim)
    for n in COUNTS if dim < 100 else (0, 17):
        x = KINDS[kind](rng, (n, dim))
        got, expected = (cases.rotate(k, plan, x, back=back) for k in (kernels, SCALAR))
        assert_same_bytes(got, expected, n)


@pytest.mark.parametrize("back", [False, True])
def test_same_bits_for_any_threads_and_any_batch(kernels, rng, back):
    plan = cases.rotation_plan(17)
    x = KINDS["normal"](rng, (1000, 17))
    one_by_one = np.concatenate(
        [cases.rotate(kernels, plan, x[i : i + 1], back=back) for i in range(len(x))]
    )
    for n_threads in THREADS:
        got = cases.rotate(kernels, plan, x, back=back, n_threads=n_threads)
        assert_same_bytes(got, one_by_one, n_threads)


@pytest.mark.parametrize("dim", DIMS)
def test_exact_on_integers(rng, dim):
    # With weights of one all values stay whole. None exceeds its vector's length, which a round
    # stretches by the root of the longest transform: 32 * sqrt(512)**3 < 2**24.
    x = rng.integers(-1, 2, (5, dim)).astype(np.float32)
    for chunk in chunks(dim):
        plan = cases.rotation_plan(dim, chunk=chunk, unit_weights=True)
        assert np.array_equal(cases.rotate(SCALAR, plan, x), x @ plan.matrix.T), chunk
        # Backwards is the transpose, whether or not the weights make it the inverse.
        back = cases.rotate(SCALAR, plan, x, back=True)
        assert np.array_equal(back, x @ plan.matrix), chunk


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", ["normal", "huge", "tiny"])
def test_within_bound(rng, kind, dim):
    x = KINDS[kind](rng, (5, dim))
    exact_x = x.astype(np.float64)
    lengths = np.sqrt((exact_x**2).sum(axis=1))
    bound = oracle.rotation_error(dim, lengths)
    for chunk in chunks(dim):
        plan = cases.rotation_plan(dim, chunk=chunk)
        matrix = plan.matrix
        for back, exact in ((False, exact_x @ matrix.T), (True, exact_x @ matrix)):
            error = cases.rotate(SCALAR, plan, x, back=back) - exact
            assert (np.sqrt((error**2).sum(axis=1)) <= bound).all(), (chunk, back)


@pytest.mark.parametrize("dim", DIMS)
def test_there_and_back(kernels, rng, dim):
    plan = cases.rotation_plan(dim)
    x = KINDS["normal"](rng, (5, dim))
    again = cases.rotate(kernels, plan, cases.rotate(kernels, plan, x), back=True)
    length = np.sqrt((x.astype(np.float64) ** 2).sum(axis=1))
    there = oracle.rotation_error(dim, length)
    error = np.sqrt(((again - x.astype(np.float64)) ** 2).sum(axis=1))
    assert (error <= there + oracle.rotation_error(dim, length + there)).all()


@pytest.mark.parametrize("dim", DIMS)
def test_matrix_is_orthogonal(rng, dim):
    for chunk in chunks(dim):
        plan = cases.rotation_plan(dim, chunk=chunk)
        matrix = plan.matrix
        if dim < 300:
            again = oracle.rotate(np.eye(dim), plan.exact_weights, plan.chunk, plan.stride)
            assert np.array_equal(again.T, matrix)
        x = rng.standard_normal((3, dim))
        # Two products, of the length of x at most, and a matrix of a few roundings an entry.
        bound = 2 * (dim + 16) * np.finfo(np.float64).eps * np.sqrt((x**2).sum())
        assert np.abs(x @ matrix @ matrix.T - x).max() <= bound
        assert np.abs(x @ matrix.T @ matrix - x).max() <= bound


@pytest.mark.parametrize("dim", DIMS)
def test_stated_bound_is_right_and_tight(rng, dim):
    """The scan relies on it: too small loses neighbours, too large prunes nothing."""
    stated = cases.rotation_plan(dim).native.error_bound
    needed = float(oracle.rotation_error(dim, 1.0))
    assert needed <= stated <= 1.1 * needed


@pytest.mark.parametrize("dim", [d for d in DIMS if d > 1])
def test_spreads_like_a_random_rotation(dim):
    """No coordinate gets more of a vector's length than in a uniformly random rotation.

    What such a rotation makes of a unit vector is uniform on the sphere, and the cap where one
    coordinate exceeds t fits in half a sphere of radius sqrt(1 - t^2): P(|y_i| > t) <=
    (1 - t^2)^((dim - 1) / 2). The limit makes that one in a million for all coordinates together.
    The vectors are those that transforms alone would leave or make sparse: the axes, and vectors
    that are constant, or alternate at each pace.
    """
    n = np.arange(dim)
    waves = [1.0 - 2.0 * (n // 2**b % 2) for b in range((dim - 1).bit_length() + 1)]
    waves = np.stack(waves) / math.sqrt(dim)
    limit = math.sqrt(1 - (1e-6 / (dim**2 + waves.size)) ** (2 / (dim - 1)))
    for seed in range(5 if dim < 300 else 1):
        chunk, stride, weights = rotation_plan(dim, seed)
        matrix = oracle.rotation_matrix(weights, chunk, stride)
        assert np.abs(matrix).max() <= limit, seed
        assert np.abs(waves @ matrix.T).max() <= limit, seed


def test_seeds_give_different_rotations():
    weights = [rotation_plan(64, seed)[2].tobytes() for seed in range(20)]
    assert len(set(weights)) == len(weights)


@pytest.mark.parametrize("dim", [1, 100, 128, 960])
def test_input_is_left_alone(kernels, rng, dim):
    plan = cases.rotation_plan(dim)
    x = KINDS["normal"](rng, (3, dim))
    before = x.copy()
    x.flags.writeable = False
    for back in (False, True):
        cases.rotate(kernels, plan, x, back=back)
        assert_same_bytes(x, before)


@pytest.mark.parametrize("n_threads", THREADS)
def test_values_that_are_not_finite_are_reported(kernels, rng, n_threads):
    plan = cases.rotation_plan(17)
    x = KINDS["normal"](rng, (1000, 17))
    out = np.empty_like(x)
    for back in (False, True):
        for row in (0, 300, 999):
            for bad in (np.nan, np.inf):
                broken = x.copy()
                broken[row, 16] = bad
                assert plan.native.apply(kernels, broken, out, n_threads, back) is False
        assert plan.native.apply(kernels, x, out, n_threads, back) is True


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("back", [False, True])
def test_no_finite_vector_becomes_infinite(kernels, rng, back, dim):
    plan = cases.rotation_plan(dim)
    signs = rng.choice(np.array([-1, 1], np.float32), (8, dim))
    signs[0] = 1
    signs[1, 1:] = 0
    largest = float(np.finfo(np.float32).max)
    out = np.empty_like(signs)
    for size in largest / 2.0 ** np.arange(0, 12, 0.5):
        x = (signs * size).astype(np.float32)
        accepted = plan.native.apply(kernels, x, out, 1, back)
        assert np.isfinite(out).all() or not accepted, size
        # All partial sums are of dim terms at most.
        assert accepted or size * dim > largest / 4, size


@cases.in_foreign_float_modes
def test_callers_float_mode_changes_nothing(kernels, rng, mode):
    for kind in ("normal", "tiny"):
        x = KINDS[kind](rng, (600, 17))
        plan = cases.rotation_plan(17)
        for back in (False, True):
            expected = cases.rotate(kernels, plan, x, back=back)
            for n_threads in THREADS:
                with cases.float_mode(mode):
                    got = cases.rotate(kernels, plan, x, back=back, n_threads=n_threads)
                assert_same_bytes(got, expected, kind, back, n_threads)


def test_bits_are_those_of_every_other_machine(kernels):
    signs = 1.0 - 2.0 * (cases.dyadic((3, 100), 1) < 0)
    scale = 1.0 / np.sqrt(cases.transform_lengths(100))
    plan = cases.RotationPlan(signs * scale, 4, 11)
    x = cases.dyadic((5, 100), 2)
    assert cases.digest(cases.rotate(kernels, plan, x)) == "76ab94aaff3fbfbc"
    assert cases.digest(cases.rotate(kernels, plan, x, back=True)) == "008679952e38e1d5"
