"""Awkward shapes and values that every kernel and driver goes through, and how to call them."""

import contextlib
import ctypes
import functools
import hashlib
import math
import platform
from dataclasses import dataclass

import numpy as np
import pytest

from lanewise import _native, oracle

SCALAR = _native.kernels_by_name("scalar")

# For tests that compare with `scalar`, which would pass against itself whatever it did.
beside_scalar = pytest.mark.parametrize(
    "kernels",
    [name for name, runnable in _native.kernel_names() if runnable and name != "scalar"],
    indirect=True,
)
LANES = 16
BLOCK = 64

# One below, at and above the logical vector; powers of two, their sums, and primes.
DIMS = (1, 2, 3, 7, 15, 16, 17, 31, 64, 100, 128, 384, 960, 1000)
# None, one, and the borders of a group of 16 and of a block of 64.
COUNTS = (0, 1, 15, 16, 17, 63, 64, 65, 200)
THREADS = (1, 2, 3)
METRICS = ("l2", "ip", "cosine")


# -------------------------------------------------------------------------------------- values


def integers(rng, shape, largest=8):
    """Whole numbers so small that all arithmetic on them is exact."""
    return rng.integers(-largest, largest + 1, shape).astype(np.float32)


KINDS = {
    "normal": lambda rng, shape: rng.standard_normal(shape, dtype=np.float32),
    "integers": integers,
    # Squares of differences, summed over 1000 dimensions, come close to overflow.
    "huge": lambda rng, shape: rng.standard_normal(shape, dtype=np.float32) * np.float32(1e17),
    # Subnormal numbers, and normal ones whose products are subnormal or nothing.
    "tiny": lambda rng, shape: np.ldexp(
        rng.standard_normal(shape), rng.integers(-149, -60, shape)
    ).astype(np.float32),
    "zeros": lambda rng, shape: rng.choice(np.array([0.0, -0.0, 1.0, -1.0], np.float32), shape),
}


def _half_constant(rng, shape):
    rows = KINDS["normal"](rng, shape)
    rows[:, ::2] = 3.7
    return rows


def _with_zero_rows(rng, shape):
    rows = KINDS["normal"](rng, shape)
    rows[rng.random(shape[0]) < 0.5] = 0
    return rows


# What breaks searches: see the comments.
DATA = {
    **KINDS,
    # Distances far smaller than the vectors: expanded norms would lose them.
    "near duplicates": lambda rng, shape: (
        KINDS["normal"](np.random.default_rng(1), (1, shape[1]))
        + np.float32(1e-4) * KINDS["normal"](rng, shape)
    ),
    "far away": lambda rng, shape: KINDS["normal"](rng, shape) + np.float32(1000),
    "half constant": _half_constant,
    "heavy tails": lambda rng, shape: np.exp(3 * rng.standard_normal(shape)).astype(np.float32),
    "zero rows": _with_zero_rows,
    "equal rows": lambda rng, shape: np.full(shape, 0.1, dtype=np.float32),
    "many ties": lambda rng, shape: integers(rng, shape, 1),
    # Squared distances among the subnormal numbers.
    "squares vanish": lambda rng, shape: KINDS["normal"](rng, shape) * np.float32(1e-22),
}


def unit(rows):
    """Rows of length one, as the cosine wants them."""
    out = np.empty_like(rows)
    _native.normalize(rows, out)
    return out


def draw(rng, name, n_rows, n_queries, dim, metric):
    """Rows and queries of one kind; one of the rows, and zero, are among the queries."""
    rows = DATA[name](rng, (n_rows, dim))
    queries = DATA[name](rng, (n_queries, dim))
    if n_rows > 0:
        queries[0] = rows[n_rows // 2]
    queries[1] = 0
    return (unit(rows), unit(queries)) if metric == "cosine" else (rows, queries)


def dyadic(shape, seed):
    """Floats of 24 random bits that are the same on every machine, whatever NumPy does."""
    n = math.prod(shape)
    words, _ = oracle.threefry([seed, 0], np.arange(n, dtype=np.uint64), 0)
    signed = (words >> np.uint64(40)).astype(np.int64) - 2**23
    return np.ldexp(signed.astype(np.float32), -20).reshape(shape)


def digest(*arrays):
    """Fingerprint of the bytes of little-endian arrays."""
    state = hashlib.sha256()
    for array in arrays:
        state.update(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes())
    return state.hexdigest()[:16]


def assert_same_bytes(got, expected, *where):
    """NaN, the sign of zero and the last bit count."""
    __tracebackhide__ = True
    if not isinstance(got, tuple):
        got, expected = (got,), (expected,)
    for part, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert a.dtype == b.dtype, (*where, part)
        assert a.shape == b.shape, (*where, part)
        if a.tobytes() != b.tobytes():
            differs = a != b
            raise AssertionError(
                f"{where}, part {part}: {np.count_nonzero(differs)} of {a.size} values differ, "
                f"first {a[differs][:3]} instead of {b[differs][:3]}"
            )


# ------------------------------------------------------------------------------------- kernels


def fwht(kernels, x, weights):
    out = x.copy()
    kernels.fwht(out, weights)
    return out


def prune(kernels, block, query, begin, end, partial, norms, offset, scale, alive):
    sums = partial.copy()
    survivors = kernels.prune(block, query, begin, end, sums, norms, offset, scale, alive)
    return sums, np.uint64(survivors)


def row_scores(kernels, metric, query, rows, ids):
    out = np.empty(len(ids), dtype=np.float32)
    score = kernels.l2_rows if metric == "l2" else kernels.dot_rows
    score(query, rows, ids, out)
    return out


def pack(rows):
    """Rows as the assign kernel wants them: groups of 16, dimension-major, the last one padded."""
    n, dim = rows.shape
    n_groups = -(-n // LANES)
    padded = np.zeros((n_groups * LANES, dim), dtype=np.float32)
    padded[:n] = rows
    return np.ascontiguousarray(padded.reshape(n_groups, LANES, dim).transpose(0, 2, 1))


def kernel_assign(kernels, points, centroids, bias):
    """Labels, scores and runners-up of points (n, dim) among centroids (k, dim), by the kernel."""
    groups, panels = pack(points), pack(centroids)
    n_points = len(groups) * LANES
    padded_bias = np.full(len(panels) * LANES, -np.inf, dtype=np.float32)
    padded_bias[: len(bias)] = bias
    scratch = np.full((n_points, 3 * LANES), np.nan, dtype=np.float32)
    labels = np.empty(n_points, dtype=np.int32)
    scores = np.empty(n_points, dtype=np.float32)
    runner_ups = np.empty(n_points, dtype=np.float32)
    kernels.assign(groups, panels, padded_bias, scratch, labels, scores, runner_ups)
    n = len(points)
    return labels[:n], scores[:n], runner_ups[:n]


def threefry(kernels, key, counter0, counter1):
    out0, out1 = np.empty_like(counter0), np.empty_like(counter0)
    kernels.threefry(key, counter0, counter1, out0, out1)
    return out0, out1


# ------------------------------------------------------------------------------------- drivers


def _float_modes():
    """Upward rounding and flush-to-zero, as (fields of fenv_t, place of the mode, its bits)."""
    machine = platform.machine().lower()
    if platform.libc_ver()[0] == "glibc" and machine in ("x86_64", "amd64"):
        return {"upward": (8, 7, 0x4000), "flush": (8, 7, 0x8040)}  # MXCSR: RC = up; FTZ and DAZ
    if platform.libc_ver()[0] == "glibc" and machine == "aarch64":
        return {"upward": (2, 0, 1 << 22), "flush": (2, 0, 1 << 24)}  # FPCR: RMode = up; FZ
    return {}


FLOAT_MODES = _float_modes()


@contextlib.contextmanager
def float_mode(name):
    """Compute as a thread does that some other library has switched to another mode."""
    n_words, place, bits = FLOAT_MODES[name]
    libm = ctypes.CDLL("libm.so.6")
    before = (ctypes.c_uint32 * n_words)()
    libm.fegetenv(before)
    switched = (ctypes.c_uint32 * n_words)(*before)
    switched[place] |= bits
    libm.fesetenv(switched)
    try:
        yield
    finally:
        libm.fesetenv(before)


in_foreign_float_modes = pytest.mark.parametrize("mode", FLOAT_MODES)


@dataclass
class RotationPlan:
    """A rotation with its weights in full precision, and as the driver gets them."""

    exact_weights: np.ndarray
    chunk: int
    stride: int

    def __post_init__(self):
        self.weights = self.exact_weights.astype(np.float32)
        self.native = _native.Rotation(self.weights, self.chunk, self.stride)

    @property
    def dim(self):
        return self.weights.shape[1]

    @functools.cached_property
    def matrix(self):
        """What it multiplies vectors by, in float64."""
        return oracle.rotation_matrix(self.exact_weights, self.chunk, self.stride)


def transform_lengths(dim):
    """Length of the transform that each coordinate is in: the binary digits, largest first."""
    digits = [1 << b for b in reversed(range(dim.bit_length())) if dim >> b & 1]
    return np.repeat(digits, digits)


@functools.cache
def rotation_plan(dim, *, chunk=None, unit_weights=False, seed=0):
    """Random signs and a random stride; weights of length one if the arithmetic shall be exact."""
    chunk = math.gcd(dim, LANES) if chunk is None else chunk
    rng = np.random.default_rng([dim, chunk, seed])
    n_chunks = dim // chunk
    strides = [s for s in range(1, n_chunks + 1) if math.gcd(s, n_chunks) == 1]
    scale = np.ones(dim) if unit_weights else 1.0 / np.sqrt(transform_lengths(dim))
    signs = rng.choice([-1.0, 1.0], (3, dim))
    return RotationPlan(signs * scale, chunk, int(rng.choice(strides)))


def rotate(kernels, plan, x, *, back=False, n_threads=1):
    out = np.full_like(x, np.nan)
    assert plan.native.apply(kernels, x, out, n_threads, back), "values must be finite"
    return out


def score_lists(kernels, metric, queries, rows, ids, n_threads=1):
    out = np.full(ids.shape, np.nan, dtype=np.float32)
    _native.score_lists(kernels, metric, queries, rows, ids, out, n_threads)
    return out


def nearest(kernels, metric, queries, rows, k, ids=None):
    """The canonical answer: all rows (or those named) scored and sorted by (distance, id)."""
    ids = np.arange(len(rows), dtype=np.int64) if ids is None else ids
    table = np.ascontiguousarray(np.broadcast_to(ids, (len(queries), len(ids))))
    scores = score_lists(kernels, metric, queries, rows, table)
    order = np.lexsort((table, scores), axis=1)[:, :k]
    distances = np.full((len(queries), k), np.inf, dtype=np.float32)
    found = np.full((len(queries), k), -1, dtype=np.int64)
    distances[:, : order.shape[1]] = np.take_along_axis(scores, order, axis=1)
    found[:, : order.shape[1]] = np.take_along_axis(table, order, axis=1)
    return distances, found


@dataclass
class Lists:
    """Which rows stand in which list, and where: positions are padded to groups of 16."""

    begin: np.ndarray
    size: np.ndarray
    ids: np.ndarray

    def rows_of(self, i):
        return self.ids[self.begin[i] : self.begin[i] + self.size[i]]


def one_list(n, *, order=None):
    return many_lists([n], order=order)


def many_lists(sizes, *, order=None, padding=0):
    """Rows in the given order, cut in lists; `padding` groups more than needed behind each."""
    sizes = np.asarray(sizes, dtype=np.int64)
    order = np.arange(sizes.sum()) if order is None else order
    room = (-(-sizes // LANES) + padding) * LANES
    begin = np.concatenate(([0], np.cumsum(room))).astype(np.int64)
    ids = np.full(begin[-1], -1, dtype=np.int64)
    taken = 0
    for first, size in zip(begin, sizes, strict=False):
        ids[first : first + size] = order[taken : taken + size]
        taken += size
    return Lists(begin, sizes, ids)


@dataclass
class Store:
    """A native store with the arrays it was made of."""

    native: _native.Store
    plan: RotationPlan
    lists: Lists
    rows: np.ndarray
    center: np.ndarray
    blocks: np.ndarray
    norms: np.ndarray
    max_centered_norm2: float


def make_store(kernels, plan, metric, rows, lists, *, center=None, n_threads=1):
    n_positions, dim = len(lists.ids), plan.dim
    if center is None:
        center = np.empty(dim, dtype=np.float32)
        _native.mean(rows, center)
    blocks = np.full(n_positions * dim, np.nan, dtype=np.float32)
    norms = np.zeros(n_positions, dtype=np.float32)
    max_centered_norm2 = _native.fill_blocks(
        kernels,
        plan.native,
        center,
        rows,
        lists.begin,
        lists.ids,
        0,
        None if metric == "l2" else norms,
        blocks,
        n_threads,
    )
    max_norm2 = _native.squared_norms(rows, np.empty(len(rows)))
    native = _native.Store(
        metric,
        lists.begin,
        lists.size,
        lists.ids,
        norms,
        blocks,
        rows,
        center,
        math.sqrt(max_norm2),
        math.sqrt(max_centered_norm2),
    )
    return Store(native, plan, lists, rows, center, blocks, norms, max_centered_norm2)


def scan(kernels, store, queries, k, *, probes=None, eps0=np.inf, delta=32, n_threads=1):
    """Distances, ids and stats (candidates, dimensions, settled) of a scan."""
    n = len(queries)
    distances = np.full((n, k), np.nan, dtype=np.float32)
    ids = np.full((n, k), -2, dtype=np.int64)
    stats = np.zeros((n, 3), dtype=np.uint64)
    store.native.scan(
        kernels,
        store.plan.native,
        queries,
        probes,
        k,
        eps0,
        delta,
        distances,
        ids,
        stats,
        n_threads,
    )
    return distances, ids, stats


def assign(kernels, metric, points, centroids, n_threads=1):
    labels = np.full(len(points), -1, dtype=np.int32)
    distances = np.full(len(points), np.nan, dtype=np.float32)
    _native.assign(kernels, metric, points, centroids, labels, distances, n_threads)
    return labels, distances


def cluster_sums(points, labels, weights, k, n_threads=1):
    sums = np.full((k, points.shape[1]), np.nan)
    totals, counts = np.full(k, np.nan), np.full(k, -1, dtype=np.int64)
    _native.cluster_sums(points, labels, weights, sums, totals, counts, n_threads)
    return sums, totals, counts


def plan(kernels, pool, keys, scheme, n_lanes, k_lane, alpha=1.0, head=0, n_threads=1):
    """Lanes and counts, or the number of the query whose pool holds an id twice."""
    lanes = np.full((len(pool), n_lanes, k_lane), -2, dtype=np.int64)
    counts = np.full((len(pool), n_lanes), -2, dtype=np.int32)
    duplicate = _native.plan(
        kernels,
        scheme,
        pool,
        keys,
        oracle.k_dedicated(alpha, k_lane),
        head,
        oracle.share_below(alpha, n_lanes),
        lanes,
        counts,
        n_threads,
    )
    return (lanes, counts) if duplicate < 0 else duplicate
