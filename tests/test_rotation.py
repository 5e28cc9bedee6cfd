"""RandomRotation: what users can do with it. Its arithmetic is tested in test_rotate.py."""

import copy
import hashlib
import math
import pickle

import cases
import numpy as np
import pytest
from cases import THREADS, assert_same_bytes

from lanewise import RandomRotation, oracle
from lanewise.rotation import rotation_plan

FROZEN = "f91b6add3b352bcc0fe0a37f51c741452f0af7fa2cf9278fe331afea9d34f5cf"
DIMS = (1, 2, 3, 7, 16, 48, 100, 384)


def vectors(rng, dim, n=5):
    return rng.standard_normal((n, dim), dtype=np.float32)


def lengths(X):
    return np.sqrt((X.astype(np.float64) ** 2).sum(axis=1))


@pytest.mark.parametrize("dim", DIMS)
def test_is_the_rotation_of_its_seed_and_its_inverse(kernels, rng, dim):
    """Against the matrix of weights in full precision, up to the rounding of float32."""
    X = vectors(rng, dim)
    for seed in (0, 1, 2**64 - 1):
        rotation = RandomRotation(dim, seed=seed, kernels=kernels)
        chunk, stride, weights = rotation_plan(dim, seed)
        exact_weights = np.sign(weights) / np.sqrt(cases.transform_lengths(dim))
        matrix = oracle.rotation_matrix(exact_weights, chunk, stride)
        bound = oracle.rotation_error(dim, lengths(X))
        there, back = rotation.transform(X), rotation.inverse_transform(X)
        assert (lengths(there - X.astype(np.float64) @ matrix.T) <= bound).all()
        assert (lengths(back - X.astype(np.float64) @ matrix) <= bound).all()
        again = rotation.inverse_transform(there)
        error = lengths(again.astype(np.float64) - X)
        assert (error <= bound + oracle.rotation_error(dim, lengths(X) + bound)).all()


@pytest.mark.parametrize("dim", [1, 2, 3, 7, 15, 16, 17, 48, 100, 384, 768, 960, 1000, 1536])
def test_plans_are_what_the_driver_wants(dim):
    chunk, stride, weights = rotation_plan(dim, 3)
    assert weights.shape == (3, dim)
    assert weights.dtype == np.float32
    assert dim % chunk == 0
    assert 16 % chunk == 0
    assert 0 < stride <= dim // chunk
    assert math.gcd(stride, dim // chunk) == 1, "the permutation must reach every chunk"
    scale = (1 / np.sqrt(cases.transform_lengths(dim))).astype(np.float32)
    assert_same_bytes(np.abs(weights), np.tile(scale, (3, 1)))
    negative = np.count_nonzero(weights < 0)
    # Fair coins: six standard deviations.
    assert abs(negative - 1.5 * dim) <= 6 * math.sqrt(3 * dim / 4)


def test_weights_of_a_seed_are_frozen():
    """A stored seed must mean the same rotation in ten years."""
    state = hashlib.sha256()
    for dim, seed in ((100, 7), (64, 0), (960, 2**64 - 1)):
        chunk, stride, weights = rotation_plan(dim, seed)
        state.update(f"{chunk} {stride} ".encode())
        state.update(weights.astype("<f4").tobytes())
    assert state.hexdigest() == FROZEN


def test_seeds_decide(rng):
    X = vectors(rng, 20)
    one, again, other = (RandomRotation(20, seed=seed).transform(X) for seed in (5, 5, 6))
    assert_same_bytes(one, again)
    assert not np.array_equal(one, other)
    assert_same_bytes(RandomRotation(20).transform(X), RandomRotation(20, seed=0).transform(X))


@pytest.mark.parametrize("back", [False, True])
def test_same_bits_for_everybody(kernels, rng, back):
    X = vectors(rng, 31, 600)
    reference = RandomRotation(31, seed=2, kernels="scalar")
    expected = turn(reference, X, back, n_threads=1)
    rotation = RandomRotation(31, seed=2, kernels=kernels)
    for n_threads in THREADS:
        assert_same_bytes(turn(rotation, X, back, n_threads=n_threads), expected, n_threads)
    assert_same_bytes(turn(rotation, X[7:8], back), expected[7:8])


def turn(rotation, X, back, **options):
    return (rotation.inverse_transform if back else rotation.transform)(X, **options)


@pytest.mark.parametrize("back", [False, True])
def test_out_is_filled_and_returned(rng, back):
    X = vectors(rng, 20, 40)
    rotation = RandomRotation(20)
    expected = turn(rotation, X, back)
    out = np.full((40, 20), np.nan, dtype=np.float32)
    assert turn(rotation, X, back, out=out) is out
    assert_same_bytes(out, expected)
    room = np.zeros((60, 20), dtype=np.float32)
    part = room[10:50]
    assert turn(rotation, X, back, out=part) is part
    assert_same_bytes(part, expected)
    assert not room[:10].any()
    assert not room[50:].any()


@pytest.mark.parametrize("back", [False, True])
def test_what_out_may_not_be(rng, back):
    X = vectors(rng, 20, 4)
    rotation = RandomRotation(20)
    read_only = np.zeros((4, 20), dtype=np.float32)
    read_only.flags.writeable = False
    room = np.zeros((8, 20), dtype=np.float32)
    room[2:6] = X
    wrong = [
        (X, np.zeros((4, 20)), r"expected float32 \(4, 20\), got float64 \(4, 20\)"),
        (X, np.zeros((3, 20), np.float32), r"got float32 \(3, 20\)"),
        (X, np.zeros((20, 4), np.float32).T, "C-contiguous"),
        (X, np.zeros((4, 40), np.float32)[:, ::2], "C-contiguous"),
        (X, np.zeros((4, 20), np.float32).astype(">f4"), "float32"),
        (X, read_only, "writable"),
        (X, X.tolist(), "got list"),
        (X, X, "memory apart"),
        (room[2:6], room[:4], "memory apart"),
    ]
    for given, out, words in wrong:
        with pytest.raises(ValueError, match=f"^out: .*{words}"):
            turn(rotation, given, back, out=out)
    assert_same_bytes(room[2:6], X)
    converted = X.astype(np.float64)
    assert_same_bytes(turn(rotation, converted, back, out=room[:4]), turn(rotation, X, back))


@pytest.mark.parametrize("back", [False, True])
def test_wrong_vectors_are_named(rng, back):
    """By the parameter's own name: X there, Y back."""
    rotation = RandomRotation(4)
    name = "Y" if back else "X"
    for value, error, words in (
        (np.ones((2, 5)), ValueError, "dimension 4, got 5"),
        (np.ones(4), ValueError, "2-D"),
        (np.ones((2, 4), dtype=int), TypeError, "int64"),
        (np.array([[1, 2, 3, 4], [1, 2, np.nan, 4]]), ValueError, "finite .* row 1, column 2"),
        (np.array([[1, 2, 3, 4], [-np.inf, 2, 3, 4]]), ValueError, "finite .* row 1, column 0"),
    ):
        with pytest.raises(error, match=f"^{name}: .*{words}"):
            turn(rotation, value, back)


@pytest.mark.parametrize("n_threads", THREADS)
@pytest.mark.parametrize("back", [False, True])
def test_no_value_is_overlooked(kernels, rng, back, n_threads):
    X = vectors(rng, 7, 700)
    rotation = RandomRotation(7, kernels=kernels)
    for row, column in ((0, 0), (255, 6), (256, 3), (699, 6)):
        for value in (np.nan, np.inf, -np.inf):
            spoiled = X.copy()
            spoiled[row, column] = value
            with pytest.raises(ValueError, match=f"finite .* row {row}, column {column}$"):
                turn(rotation, spoiled, back, n_threads=n_threads)


@pytest.mark.parametrize("back", [False, True])
def test_vectors_too_long_to_be_rotated_are_refused(back):
    """A coordinate may become as long as the vector, and that may be too much for float32."""
    for dim in (8, 24, 100):
        with pytest.raises(ValueError, match=r"^[XY]: "):
            turn(RandomRotation(dim), np.full((1, dim), 3e38, dtype=np.float32), back)


@pytest.mark.parametrize("back", [False, True])
def test_no_vectors_and_other_types(rng, back):
    rotation = RandomRotation(6)
    assert turn(rotation, np.empty((0, 6)), back).shape == (0, 6)
    X = cases.integers(rng, (9, 6), 100)
    expected = turn(rotation, X, back)
    assert expected.dtype == np.float32
    for same in (
        X.astype(np.int8),
        X.astype(np.float16),
        X.astype(np.float64),
        np.asfortranarray(X),
        X.tolist(),
    ):
        assert_same_bytes(turn(rotation, same, back), expected)
    X.flags.writeable = False
    assert_same_bytes(turn(rotation, X, back), expected)


def test_pickles_and_copies_turn_the_same(kernels, rng):
    X = vectors(rng, 20)
    rotation = RandomRotation(20, seed=9, kernels=kernels)
    for twin in (pickle.loads(pickle.dumps(rotation)), copy.deepcopy(rotation)):
        assert (twin.dim, twin.seed) == (20, 9)
        assert_same_bytes(twin.transform(X), rotation.transform(X))
    assert len(pickle.dumps(RandomRotation(4000))) < 1000, "the seed says it all"
    assert repr(rotation) == "RandomRotation(dim=20, seed=9)"


CONSTRUCTION = [
    ({"dim": 0}, ValueError, "dim"),
    ({"dim": 2**24 + 1}, ValueError, "dim"),
    ({"dim": 2.0}, TypeError, "dim"),
    ({"seed": -1}, ValueError, "seed"),
    ({"seed": 2**64}, ValueError, "seed"),
    ({"seed": None}, TypeError, "seed"),
    ({"kernels": "sse9"}, ValueError, "kernels"),
]


@pytest.mark.parametrize(("options", "error", "name"), CONSTRUCTION)
def test_wrong_construction_is_named(options, error, name):
    with pytest.raises(error, match=f"^{name}: "):
        RandomRotation(**{"dim": 3, **options})


def test_wrong_numbers_of_threads_are_named():
    with pytest.raises(ValueError, match=r"^n_threads: "):
        RandomRotation(3).transform(np.eye(3), n_threads=0)
