"""Product quantisation: kernels beside scalar and the oracle, training, codes, and refusals."""

import pickle
import re

import cases
import numpy as np
import pytest
from cases import KINDS, LANES, SCALAR, THREADS, assert_same_bytes, codes_beside_scalar

import lanewise as lw
from lanewise import _native, oracle
from lanewise.pq import ProductQuantizer

SCREEN_GROUPS = 64
SHAPES = [(16, 1), (16, 2), (16, 16), (64, 3), (256, 1), (256, 5), (256, 8), (256, 9), (256, 17)]
SHAPES += [(256, 24)]


def blobs(rng, n, dim, n_blobs=40):
    centers = rng.standard_normal((n_blobs, dim)) * 3
    return (centers[rng.integers(0, n_blobs, n)] + rng.standard_normal((n, dim))).astype(np.float32)


# ------------------------------------------------------------------------------- nearest_words


def nearest_words(kernels, points, words, bias):
    n = len(points)
    labels = np.empty(-(-n // LANES) * LANES, np.int32)
    kernels.nearest_words(cases.pack(points), words, bias, labels)
    return labels[:n]


def half_norms(words):
    with np.errstate(over="ignore"):
        return (-0.5 * (words.astype(np.float64) ** 2).sum(axis=1)).astype(np.float32)


@codes_beside_scalar
@pytest.mark.parametrize("kind", KINDS)
def test_nearest_words_same_bits(code_kernels, rng, kind):
    for n_words, dim in SHAPES:
        for n in (1, 16, 17, 80, 1500):
            points, words = (KINDS[kind](rng, (m, dim)) for m in (n, n_words))
            case = points, words, half_norms(words)
            got, expected = (nearest_words(k, *case) for k in (code_kernels, SCALAR))
            assert_same_bytes(got, expected, n_words, dim, n)


@codes_beside_scalar
def test_nearest_words_in_doubt(code_kernels, rng):
    """Points about as far from two words: what a first look cannot tell, floats decide."""
    for n_words, dim in ((256, 4), (64, 8), (256, 8), (128, 12), (256, 16)):
        words = rng.standard_normal((n_words, dim), dtype=np.float32)
        pairs = rng.integers(0, n_words, (2000, 2))
        middle = words[pairs].astype(np.float64).mean(axis=1)
        off = rng.choice([0, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4], (2000, 1))
        points = (middle + off * rng.standard_normal((2000, dim))).astype(np.float32)
        # With too many in doubt floats would do all.
        points[::2] = words[rng.integers(0, n_words, 1000)]
        case = points, words, half_norms(words)
        got, expected = (nearest_words(k, *case) for k in (code_kernels, SCALAR))
        assert_same_bytes(got, expected, n_words, dim)


@pytest.mark.parametrize("dim", [1, 2, 3, 4, 8, 16, 17])
def test_add_to_words_exact(kernels, rng, dim):
    for n in (1, 5, 300):
        rows = KINDS["normal"](rng, (n, dim)) * np.float32(10) ** rng.integers(-9, 9, (n, 1))
        rows = rows.astype(np.float32)
        labels = rng.integers(0, 7, n).astype(np.int32)
        sums = rng.standard_normal((7, dim))
        expected = sums.copy()
        for row, label in zip(rows, labels, strict=True):
            expected[label] += row.astype(np.float64)
        kernels.add_to_words(rows, labels, sums)
        assert_same_bytes(sums, expected, n)


@pytest.mark.parametrize(("n_words", "dim"), SHAPES)
def test_nearest_words_exact_on_integers(code_kernels, rng, n_words, dim):
    points, words = cases.integers(rng, (600, dim), 3), cases.integers(rng, (n_words, dim), 3)
    labels = nearest_words(code_kernels, points, words, half_norms(words))
    assert np.array_equal(labels, oracle.assign(points, words, half_norms(words))[0])


@pytest.mark.parametrize(("n_words", "dim"), SHAPES)
@pytest.mark.parametrize("kind", ["normal", "tiny"])
def test_nearest_words_within_bound(rng, kind, n_words, dim):
    points, words = KINDS[kind](rng, (300, dim)), KINDS[kind](rng, (n_words, dim))
    bias = half_norms(words)
    labels = nearest_words(SCALAR, points, words, bias)
    magnitude = (
        np.abs(bias) + np.abs(points.astype(np.float64)) @ np.abs(words.astype(np.float64)).T
    )
    error = oracle.chain_error(dim, magnitude.max(axis=1))
    _, best, _ = oracle.assign(points, words, bias)
    taken = bias[labels] + (points.astype(np.float64) * words[labels]).sum(axis=1)
    assert (taken >= best - 2 * error).all()


# ---------------------------------------------------------------------------- codes as numbers


def code_words(rng, shape):
    """Whole numbers that words are coded by, the least and the largest among them."""
    words = rng.integers(0, 128, shape, dtype=np.uint8)
    words.flat[:2] = 0, 127
    return words


def nibble_tables(words):
    """Tables of words (2 * n_bytes, 16, length), one for each coordinate of a byte's quads."""
    n_bytes, length = len(words) // 2, words.shape[2]
    tables = np.zeros((n_bytes, (2 * length + 3) // 4 * 4, 16), np.uint8)
    tables[:, : 2 * length] = words.swapaxes(1, 2).reshape(n_bytes, 2 * length, 16)
    return np.ascontiguousarray(tables.reshape(n_bytes // 4, 4, -1, 16).swapaxes(1, 2))


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 8, 16])
def test_decode_nibbles(kernels, rng, length):
    quads = (2 * length + 3) // 4
    for n_groups, n_bytes in ((1, 8), (5, 16), (3, 4)):
        words = code_words(rng, (2 * n_bytes, 16, length))
        codes = rng.integers(0, 256, (n_groups, n_bytes, LANES), dtype=np.uint8)
        out = np.full((n_groups, n_bytes * quads + 2, LANES, 4), -1, np.int8)
        kernels.decode_nibbles(codes, nibble_tables(words), length, out)
        halves = np.stack([codes & 15, codes >> 4], axis=2).reshape(n_groups, 2 * n_bytes, LANES)
        expected = np.zeros((n_groups, LANES, n_bytes, 4 * quads), np.int8)
        decoded = words[np.arange(2 * n_bytes), halves.swapaxes(1, 2)]
        decoded = decoded.reshape(n_groups, LANES, n_bytes, 2 * length)
        expected[..., : 2 * length] = decoded
        expected = expected.reshape(n_groups, LANES, -1, 4).swapaxes(1, 2)
        assert np.array_equal(out[:, : n_bytes * quads], expected)
        assert (out[:, n_bytes * quads :] == -1).all()


@pytest.mark.parametrize("quads", [1, 2, 5])
def test_decode_bytes(kernels, rng, quads):
    for n_groups, n_bytes in ((1, 1), (5, 16), (3, 7)):
        tables = rng.integers(-(2**31), 2**31, (n_bytes, quads, 256)).astype(np.int32)
        codes = rng.integers(0, 256, (n_groups, n_bytes, LANES), dtype=np.uint8)
        out = np.full((n_groups, n_bytes * quads + 3, LANES), -1, np.int32)
        kernels.decode_bytes(codes, tables, out)
        expected = tables[np.arange(n_bytes)[:, np.newaxis], :, codes]
        assert np.array_equal(
            out[:, : n_bytes * quads].reshape(n_groups, n_bytes, quads, LANES),
            expected.swapaxes(2, 3),
        )
        assert (out[:, n_bytes * quads :] == -1).all()


def beside_products(rng, n_groups):
    """What is stored beside the codes of so many groups."""
    n = n_groups * LANES
    base = 1000 * rng.standard_normal(n, dtype=np.float32)
    base[rng.random(n) < 0.1] = np.inf
    return base, rng.integers(0x3F00, 0x4000, n, dtype=np.uint16)


def asked_for(rng, shape):
    alive = rng.integers(0, 1 << 16, shape, dtype=np.uint16)
    alive[rng.random(shape) < 0.2] = 0
    return alive


@pytest.mark.parametrize("n_quads", [16, 32, 48])
def test_screen_decoded_equals_the_oracle(code_kernels, rng, n_quads):
    dropped = 0
    for n_groups, n in ((1, 1), (5, 3), (4, 16), (7, 17), (64, 64)):
        rows = code_words(rng, (n_groups * LANES, 4 * n_quads)).astype(np.int8)
        rows[0], rows[-1] = 127, 0
        base, factors = beside_products(rng, n_groups)
        queries = rng.integers(-127, 128, (n, 4 * n_quads), dtype=np.int8)
        queries[0], queries[-1] = 127, -127
        totals = (64 * queries.sum(axis=1, dtype=np.int64)).astype(np.int32)
        steps = rng.random(n, dtype=np.float32)
        case = rows, base, factors, queries, totals, steps
        asked = asked_for(rng, (n, n_groups))
        estimates = oracle.screen_decoded(*case, np.zeros(n), asked)[1]
        limits = np.array([rng.choice(own[np.isfinite(own)]) for own in estimates])
        expected, expected_estimates = oracle.screen_decoded(*case, limits, asked)

        alive = np.zeros((n, SCREEN_GROUPS), np.uint16)
        alive[:, :n_groups] = asked
        quads = np.ascontiguousarray(rows.reshape(n_groups, LANES, n_quads, 4).swapaxes(1, 2))
        room = np.zeros((-(-n // LANES) * LANES, 4 * n_quads), np.int8)
        room[:n] = queries
        got = np.zeros((n_groups, n, LANES), np.float32)
        code_kernels.screen_decoded(quads, base, factors, room, totals, steps, limits, alive, got)
        assert_same_bytes(np.ascontiguousarray(alive[:, :n_groups]), expected, n_groups, n)
        assert not alive[:, n_groups:].any()
        by_query = got.swapaxes(0, 1).reshape(n, -1)
        assert_same_bytes(np.ascontiguousarray(by_query), expected_estimates, n_groups, n)
        dropped += np.count_nonzero(expected != asked)
    assert dropped > 0


@pytest.mark.parametrize("n_bytes", [4, 8, 48, 128, 132, 264])
def test_screen_nibbles_equals_the_oracle(kernels, rng, n_bytes):
    dropped = 0
    for n_groups in (1, 5, 64):
        codes = rng.integers(0, 256, (n_groups, n_bytes, LANES), dtype=np.uint8)
        base, factors = beside_products(rng, n_groups)
        tables = rng.integers(0, 256, (n_bytes // 4, 2, 2, 4, 16), dtype=np.uint8)
        tables[:, :, 1] &= 127
        # All entries the largest that there are.
        tables[..., 0], tables[:, :, 1, :, 0] = 255, 127
        codes[0, :, 0] = 0
        case = codes, base, factors, tables, int(rng.integers(0, 10**6)), 0.37
        asked = asked_for(rng, n_groups)
        _, estimates = oracle.screen_nibbles(*case, 0, asked)
        limit = rng.choice(estimates[np.isfinite(estimates)])
        expected, all_estimates = oracle.screen_nibbles(*case, limit, asked)
        alive, estimates = asked.copy(), np.zeros(n_groups * LANES, np.float32)
        kernels.screen_nibbles(*case, limit, alive, estimates)
        assert_same_bytes(alive, expected, n_groups)
        seen = np.repeat(expected != 0, LANES)
        assert_same_bytes(estimates, np.where(seen, all_estimates, np.float32(0)), n_groups)
        dropped += np.count_nonzero(alive != asked)
    assert dropped > 0


# -------------------------------------------------------------------------------------- training


def split(X, m):
    return X.reshape(len(X), m, -1).transpose(1, 0, 2)


def train_words(kernels, X, words, n_iterations, n_threads=1):
    trained = words.copy()
    _native.train_words(kernels, X, trained, n_iterations, n_threads)
    return trained


@pytest.mark.parametrize("n_words", [16, 256])
def test_one_iteration_is_the_mean_of_the_nearest(kernels, rng, n_words):
    """On points whose nearest word is clear, the words are the means in float64, once rounded."""
    centers = 100 * cases.integers(rng, (n_words, 6), 50)
    X = np.repeat(centers, 3, axis=0) + cases.integers(rng, (3 * n_words, 6), 2)
    words = np.ascontiguousarray(split(centers, 2))
    got = train_words(kernels, X, words, 1)
    for s, part in enumerate(split(X.astype(np.float64), 2)):
        d2 = ((part[:, None] - words[s]) ** 2).sum(axis=2)
        labels = d2.argmin(axis=1)
        shift = part.mean(axis=0).astype(np.float32)
        for j in np.unique(labels):
            own = part[labels == j]
            # Points and words are seen from the mean, which rounds each of them once.
            error = 2 * oracle.UNIT * (np.abs(own).max() + np.abs(shift).max())
            assert (np.abs(got[s, j] - own.mean(axis=0)) <= error).all()


@pytest.mark.parametrize(("n_bits", "m"), [(4, 8), (4, 3), (8, 4)])
def test_same_words_and_codes_for_everybody(kernels, rng, n_bits, m):
    X = blobs(rng, 400, 24)
    reference = ProductQuantizer(24, m, n_bits, kernels="scalar", n_threads=1).train(X)
    codes = reference.encode(X)
    for n_threads in THREADS:
        other = ProductQuantizer(24, m, n_bits, kernels=kernels, n_threads=n_threads).train(X)
        assert_same_bytes(other.words, reference.words, n_threads)
        assert_same_bytes(other.encode(X), codes, n_threads)
        assert_same_bytes(other.encode(X[7:9]), codes[7:9])
    assert_same_bytes(reference.decode(codes), other.decode(codes))
    again = ProductQuantizer(24, m, n_bits, seed=1).train(X)
    assert not np.array_equal(again.words, reference.words)


@pytest.mark.parametrize("n_words", [16, 256])
def test_no_iteration_makes_it_worse(rng, n_words):
    X = blobs(rng, 1500, 4, n_blobs=60)
    words = np.ascontiguousarray(X[:n_words].reshape(1, n_words, 4))
    # Points and words are seen from the mean and scores are chains: so much may a label be off.
    largest = 2 * np.abs(X).max()
    slack = 4 * len(X) * oracle.chain_error(4, 8 * largest**2, roundings=3)
    before = np.inf
    for n_iterations in range(12):
        now = train_words(SCALAR, X, words, n_iterations)[0].astype(np.float64)
        inertia = ((X[:, None] - now) ** 2).sum(axis=2).min(axis=1).sum()
        assert inertia <= before + slack
        before = inertia
    # Lloyd's algorithm in float64 goes the same way, but leaves an empty word where it is.
    assert before <= oracle.lloyd(X, words[0], "l2", 11)[2] + slack


def test_an_empty_word_takes_the_farthest_point(kernels):
    X = np.zeros((40, 2), np.float32)
    X[:20, 0] = np.arange(20)
    words = np.zeros((1, 16, 2), np.float32)
    words[0, :, 0] = 1000
    words[0, 0] = 0
    got = train_words(kernels, X, words, 1)[0]
    # The nearest word of all is the first; 15 points leave it, the farthest ones.
    assert sorted(got[1:, 0].tolist()) == list(range(5, 20))
    assert got[0, 0] == np.float32(X[X[:, 0] < 5, 0].mean())


def test_equal_points_leave_words_alone(kernels):
    X = np.full((50, 4), 7.5, np.float32)
    quantizer = ProductQuantizer(4, 2, 4, kernels=kernels).train(X)
    assert (quantizer.words == 7.5).all()
    assert not quantizer.encode(X).any()
    assert_same_bytes(quantizer.decode(quantizer.encode(X)), X)


@pytest.mark.parametrize("n_bits", [4, 8])
def test_codes_are_those_of_the_nearest_words(kernels, rng, n_bits):
    X = blobs(rng, 700, 12) + np.float32(300)  # an offset costs digits if nobody takes it off
    quantizer = ProductQuantizer(12, 4, n_bits, kernels=kernels).train(X)
    codes = quantizer.encode(X)
    for s, (part, words) in enumerate(zip(split(X, 4), quantizer.words, strict=True)):
        exact = words.astype(np.float64)
        d2 = ((part[:, None].astype(np.float64) - exact) ** 2).sum(axis=2)
        middle = exact.mean(axis=0)
        spread = (np.abs(part - middle).max() + np.abs(exact - middle).max()) ** 2 * 3
        error = 2 * oracle.chain_error(3, spread, roundings=3)
        chosen = d2[np.arange(len(d2)), codes[:, s]]
        assert (chosen <= d2.min(axis=1) + error).all()
    assert_same_bytes(
        quantizer.decode(codes),
        np.concatenate([w[c] for w, c in zip(quantizer.words, codes.T, strict=True)], axis=1),
    )


def test_a_learned_rotation_is_one_and_helps(rng):
    # Four directions hold nearly everything, and lie across all sub-spaces.
    turn = np.linalg.qr(rng.standard_normal((16, 16)))[0]
    spread = np.repeat([5.0, 0.1], [4, 12])
    X = ((rng.standard_normal((2000, 16)) * spread) @ turn).astype(np.float32)

    def error(quantizer):
        return ((quantizer.decode(quantizer.encode(X)) - X) ** 2).mean()

    plain = ProductQuantizer(16, 8, 4).train(X)
    turned = ProductQuantizer(16, 8, 4, rotation="opq").train(X)
    # Orthonormal in float64, then rounded: each product of two axes is off by two roundings.
    assert np.abs(turned.axes @ turned.axes.T - np.eye(16)).max() <= oracle.gamma(16 + 2)
    assert error(turned) < 0.9 * error(plain)
    assert plain.axes is None


def test_pickle(rng):
    X = blobs(rng, 300, 8)
    for rotation in (None, "opq"):
        quantizer = ProductQuantizer(8, 4, 4, rotation=rotation)
        assert not hasattr(pickle.loads(pickle.dumps(quantizer)), "words")
        copy = pickle.loads(pickle.dumps(quantizer.train(X)))
        assert_same_bytes(copy.encode(X), quantizer.encode(X))
    assert repr(copy) == "ProductQuantizer(dim=8, n_subspaces=4, n_bits=4)"


def test_nothing_is_encoded_as_nothing(rng):
    quantizer = ProductQuantizer(8, 4, 4).train(blobs(rng, 300, 8))
    assert quantizer.encode(np.empty((0, 8))).shape == (0, 4)
    assert quantizer.decode(np.empty((0, 4), np.uint8)).shape == (0, 8)


@pytest.mark.parametrize("kind", ["uint8", "float16", "strided", "read-only"])
def test_other_arrays_are_their_float32(rng, kind):
    X = rng.integers(0, 100, (300, 8)).astype(np.float32)
    other = {"uint8": X.astype(np.uint8), "float16": X.astype(np.float16), "read-only": X.copy()}
    other["strided"] = np.asfortranarray(np.repeat(X, 2, axis=0))[::2]
    other["read-only"].flags.writeable = False
    one, two = (ProductQuantizer(8, 2, 4).train(V) for V in (X, other[kind]))
    assert_same_bytes(one.words, two.words)
    assert_same_bytes(one.encode(X), two.encode(other[kind]))


def test_longest_vectors(rng):
    X = cases.longest(rng, (300, 8))
    quantizer = ProductQuantizer(8, 2, 4).train(X)
    assert np.isfinite(quantizer.words).all()
    error = ((quantizer.decode(quantizer.encode(X)).astype(np.float64) - X) ** 2).sum()
    assert error < (X.astype(np.float64) ** 2).sum() / 2


# -------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((10, 3), ValueError, "n_subspaces: expected a divisor of dim = 10, got 3"),
        ((10, 11), ValueError, "n_subspaces"),
        ((0, 1), ValueError, "dim"),
        ((10, 5, 6), ValueError, "n_bits: expected 8 or 4, got 6"),
        ((10, 5, "8"), TypeError, "n_bits"),
    ],
)
def test_wrong_shapes_are_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        ProductQuantizer(*arguments)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="rotation: expected None or 'opq', got 'pca'"):
        ProductQuantizer(8, 2, rotation="pca")
    with pytest.raises(ValueError, match="rotation: 'opq' takes at most 4096"):
        ProductQuantizer(8192, 2, rotation="opq")
    with pytest.raises(ValueError, match="train_iterations"):
        ProductQuantizer(8, 2, train_iterations=0)


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (np.full((20, 6), np.nan), ValueError, "finite"),
        (np.full((20, 6), 1e19), ValueError, "no longer than"),
        (np.ones((20, 5)), ValueError, "dimension 6, got 5"),
        (np.ones(6), ValueError, "2-D"),
        (np.ones((20, 6), dtype=int), TypeError, "int64"),
        (np.ones((15, 6)), ValueError, "at least 16 rows, one for each code word, got 15"),
    ],
)
def test_wrong_vectors_are_refused(rng, value, error, words):
    quantizer = ProductQuantizer(6, 3, 4)
    with pytest.raises(error, match=f"^X: .*{words}"):
        quantizer.train(value)
    with pytest.raises(ValueError, match="expected a trained quantiser"):
        quantizer.encode(value)
    with pytest.raises(ValueError, match="expected a trained quantiser"):
        quantizer.decode(np.zeros((2, 3), np.uint8))
    quantizer.train(blobs(rng, 50, 6))
    if len(value) != 15:
        with pytest.raises(error, match=f"^X: .*{words}"):
            quantizer.encode(value)


@pytest.mark.parametrize(
    ("codes", "error", "words"),
    [
        (np.zeros((2, 3)), TypeError, "expected uint8, got float64"),
        (np.zeros((2, 4), np.uint8), ValueError, "expected shape (n, n_subspaces = 3), got (2, 4)"),
        (np.zeros(3, np.uint8), ValueError, "expected shape"),
        (np.full((2, 3), 16, np.uint8), ValueError, "expected codes of 4 bits, got 16"),
    ],
)
def test_wrong_codes_are_refused(rng, codes, error, words):
    quantizer = ProductQuantizer(6, 3, 4).train(blobs(rng, 50, 6))
    with pytest.raises(error, match="^codes: " + re.escape(words)):
        quantizer.decode(codes)


def test_it_is_public():
    assert lw.ProductQuantizer is ProductQuantizer
