"""Awkward shapes and values that every kernel and driver goes through, and how to call them."""

import contextlib
import ctypes
import functools
import hashlib
import math
import platform
import threading
from dataclasses import dataclass

import numpy as np
import pytest
from conftest import EXTENSIONS, RUNNABLE

import lanewise as lw
from lanewise import _native, oracle
from lanewise.graph import NO_LINK, GraphArrays, padded_dim

SCALAR = _native.kernels_by_name("scalar")
BEST = _native.kernels_by_name(RUNNABLE[0])

# For tests that compare with `scalar`, which would pass against itself whatever it did.
beside_scalar = pytest.mark.parametrize(
    "kernels",
    [name for name in RUNNABLE if name != "scalar" and name not in EXTENSIONS],
    indirect=True,
)
codes_beside_scalar = pytest.mark.parametrize(
    "code_kernels", [name for name in RUNNABLE if name != "scalar"], indirect=True
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


def longest(rng, shape):
    """Rows as long as they may be."""
    rows = rng.standard_normal(shape)
    rows *= 6.5e18 / np.sqrt((rows**2).sum(axis=1, keepdims=True))
    return rows.astype(np.float32)


def _offset(rng, shape):
    middle = 1000 * KINDS["normal"](np.random.default_rng(2), (1, shape[1]))
    return middle + KINDS["normal"](rng, shape) * (np.arange(shape[1]) % 3 > 0).astype(np.float32)


# What breaks codes: see the comments.
CODE_DATA = {
    **DATA,
    "longest": longest,
    # Nothing is left of such numbers if they are multiplied by less than a half.
    "subnormal": lambda rng, shape: np.ldexp(rng.integers(-9, 10, shape), -149).astype(np.float32),
    # What lies off the centre is a thousandth, and where a coordinate does not move, nothing.
    "offset": _offset,
    # Where all point the same way, a product is as large as lengths allow.
    "on a line": lambda rng, shape: (
        rng.standard_normal((shape[0], 1)) * np.random.default_rng(3).standard_normal(shape[1])
    ).astype(np.float32),
}


def octets(rng, shape, dtype):
    """Whole numbers of a byte, the smallest and the largest among them."""
    limits = np.iinfo(dtype)
    rows = rng.integers(limits.min, limits.max + 1, shape, dtype=dtype)
    rows[0], rows[-1] = limits.min, limits.max
    return rows


def unit(rows):
    """Rows of length one, as the cosine wants them."""
    out = np.empty_like(rows)
    _native.normalize(rows, out)
    return out


def draw(rng, name, n_rows, n_queries, dim, metric):
    """Rows and queries of one kind; one of the rows, and zero, are among the queries."""
    rows = CODE_DATA[name](rng, (n_rows, dim))
    queries = CODE_DATA[name](rng, (n_queries, dim))
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


def dyadic_codes(shape, seed, smallest=-128):
    """Bytes of random bits that are the same on every machine."""
    n = math.prod(shape)
    words, _ = oracle.threefry([seed, 1], np.arange(n, dtype=np.uint64), 0)
    codes = (words >> np.uint64(56)).astype(np.int16) - 128
    return np.maximum(codes, smallest).astype(np.int8).reshape(shape)


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


def project(kernels, x, axes):
    panels = pack(axes)
    out = np.full((len(x), len(panels) * LANES), np.nan, dtype=np.float32)
    kernels.project(x, panels, out)
    return out


SCREEN_GROUPS = 64


@dataclass
class Screening:
    """What screen_codes is asked: codes of some groups, and some queries."""

    codes: np.ndarray  # (n_groups, n_quads, 16, 4), n_quads the last of ends
    base: np.ndarray  # (n_groups * 16,)
    residuals: np.ndarray  # (n_groups * 16,)
    tails: np.ndarray  # (n_steps, n_groups * 16)
    ends: np.ndarray  # (n_steps,)
    queries: np.ndarray  # (n_queries, 4 * n_quads)
    shifts: np.ndarray  # (n_queries, n_steps)
    scales: np.ndarray  # (n_queries, n_steps)
    tail_weights: np.ndarray  # (n_queries, n_steps)
    residual_weights: np.ndarray  # (n_queries,)
    limits: np.ndarray  # (n_queries,)
    alive: np.ndarray  # (n_queries, n_groups)


def screen_codes(kernels, case, *, tile, first_look=0):
    """Survivors, the estimates of groups that have one (NaN for the others), and quads read."""
    n_queries, n_groups = case.alive.shape
    # What lies behind the last group may be read, but not count.
    planes = np.split(case.codes, case.ends[:-1], axis=1)
    codes = np.concatenate([*map(np.ravel, planes), np.full(1024, 77, np.int8)])
    begins = np.concatenate(([0], case.ends[:-1]))
    sums = [
        [query[4 * b : 4 * e].sum(dtype=np.int32) for b, e in zip(begins, case.ends, strict=True)]
        for query in case.queries
    ]
    alive = np.full((n_queries, SCREEN_GROUPS), 0x5A5A, dtype=np.uint16)
    alive[:, :n_groups] = case.alive
    estimates = np.full((n_queries, SCREEN_GROUPS * LANES), np.nan, dtype=np.float32)
    quads_read = np.full(n_queries, 5, dtype=np.uint64)  # counted on
    kernels.screen_codes(
        codes,
        case.base,
        case.residuals,
        case.tails,
        case.ends,
        case.queries,
        np.array(sums, np.int32),
        case.shifts,
        case.scales,
        case.tail_weights,
        case.residual_weights,
        case.limits,
        alive,
        estimates,
        quads_read,
        tile,
        first_look,
    )
    assert (alive[:, n_groups:] == 0x5A5A).all()
    assert np.isnan(estimates[:, n_groups * LANES :]).all()
    quads_read -= np.uint64(5)
    return alive[:, :n_groups], of_live_groups(alive[:, :n_groups], estimates), quads_read


def of_live_groups(alive, estimates):
    """Estimates of groups that have a candidate left: what the others hold, nobody promises."""
    live = np.repeat(alive > 0, LANES, axis=1)
    return np.where(live, estimates[:, : live.shape[1]], np.float32(np.nan))


def dot_codes(kernels, query, rows, positions, *, bits=8):
    """Products with whole codes; the rows are packed first if that is what the kernel wants."""
    out = np.full(len(positions), -1, dtype=np.int32)
    kernels.dot_codes(query, packed_codes(rows, bits), positions, out, bits)
    return out


def packed_codes(rows, bits):
    """Codes of 4 or 2 bits as kernels take them: stretches of 64 bytes, each field 64 codes."""
    if bits == 8:
        return rows
    stored = (rows.astype(np.int16) + (1 << bits - 1)).astype(np.uint8)
    fields = stored.reshape(len(rows), -1, 8 // bits, 64)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, np.newaxis]
    return np.bitwise_or.reduce(fields << shifts, axis=2).reshape(len(rows), -1).view(np.int8)


def pack(rows):
    """Rows as matrices and centroids lie: groups of 16, dimension-major, the last one padded."""
    n, dim = rows.shape
    n_groups = -(-n // LANES)
    padded = np.zeros((n_groups * LANES, dim), dtype=np.float32)
    padded[:n] = rows
    return np.ascontiguousarray(padded.reshape(n_groups, LANES, dim).transpose(0, 2, 1))


def kernel_assign(kernels, points, centroids, bias, ids=None):
    """Labels, scores and runners-up of points (n, dim) among centroids (k, dim), by the kernel.

    Points meet all panels of sixteen centroids, or those that `ids` names.
    """
    panels, n = pack(centroids), len(points)
    padded_bias = np.full(len(panels) * LANES, -np.inf, dtype=np.float32)
    padded_bias[: len(bias)] = bias
    scratch = np.full((n, 3 * LANES), np.nan, dtype=np.float32)
    labels = np.empty(n, dtype=np.int32)
    scores, runner_ups = np.empty(n, dtype=np.float32), np.empty(n, dtype=np.float32)
    points = np.ascontiguousarray(points, dtype=np.float32)
    kernels.assign(points, panels, padded_bias, scratch, labels, scores, runner_ups, ids)
    return labels, scores, runner_ups


def code_rows(kernels, rows, shift, least=0.0):
    """Coarse and fine codes (2, n, stride) of rows less a shift, and what is known of each row."""
    n, dim = rows.shape
    groups, stretches = -(-n // LANES), -(-dim // 64)
    codes = np.full((groups, stretches, 2, LANES, 64), 77, dtype=np.int8)
    facts = np.full((n, 4), np.nan, dtype=np.float32)
    kernels.code_rows(rows, shift, least, codes, facts)
    planes = codes.transpose(2, 0, 3, 1, 4).reshape(2, groups * LANES, stretches * 64)
    assert (planes[:, n:] == 77).all()
    return planes[:, :n], facts


def assign_codes(kernels, points, centroids, weights, doubts, bias, ids=None):
    """Labels, best scores of each lane, their panels and the best beside them, of coded vectors.

    `points` (2, n, stride) and `centroids` (2, k, stride) are coarse and fine codes.
    """
    _, n, stride = points.shape
    groups, panels = -(-n // LANES), -(-len(bias) // LANES)
    n_points = groups * LANES
    padded = np.zeros((2, n_points, stride), dtype=np.int8)
    padded[:, :n] = points
    points = padded.reshape(2, groups, LANES, -1, 64).transpose(1, 3, 0, 2, 4)
    padded = np.zeros((2, panels * LANES, stride), dtype=np.int8)
    padded[:, : len(bias)] = centroids
    centroids = padded.reshape(2, panels, LANES, -1, 4).transpose(1, 0, 3, 2, 4)
    padded_bias = np.full(panels * LANES, -np.inf, dtype=np.float32)
    padded_bias[: len(bias)] = bias
    scratch = np.full((3, n_points, LANES), np.nan, dtype=np.float32)
    near = np.full(n_points, -2, dtype=np.int32)
    kernels.assign_codes(
        np.ascontiguousarray(points),
        np.resize(weights, n_points),
        np.resize(doubts, n_points),
        np.ascontiguousarray(centroids),
        padded_bias,
        scratch.reshape(-1, LANES),
        near,
        ids,
    )
    scores, won, seconds = scratch[:, :n]
    return near[:n], scores, won.view(np.int32), seconds


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


def nearest(kernels, metric, queries, rows, k, ids=None, labels=None):
    """The canonical answer: all rows (or those named) scored and sorted by (distance, id)."""
    ids = np.arange(len(rows), dtype=np.int64) if ids is None else ids
    table = np.ascontiguousarray(np.broadcast_to(ids, (len(queries), len(ids))))
    scores = score_lists(kernels, metric, queries, rows, table)
    table = table if labels is None else labels[table]
    order = np.lexsort((table, scores), axis=1)[:, :k]
    distances = np.full((len(queries), k), np.inf, dtype=np.float32)
    found = np.full((len(queries), k), -1, dtype=np.int64)
    distances[:, : order.shape[1]] = np.take_along_axis(scores, order, axis=1)
    found[:, : order.shape[1]] = np.take_along_axis(table, order, axis=1)
    return distances, found


def near(kernels, metric, queries, rows, radius, ids=None, labels=None):
    """The canonical answer to a radius: limits, distances and ids of all that are no farther."""
    n = len(rows) if ids is None else len(ids)
    distances, found = nearest(kernels, metric, queries, rows, n, ids, labels)
    inside = distances <= np.float32(radius)
    limits = np.concatenate(([0], np.cumsum(inside.sum(axis=1))))
    return limits, distances[inside], found[inside]


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
    """A native store and its planes, with the arrays that they were made of."""

    native: _native.Store
    planes: _native.Blocks | _native.Codes
    plan: "RotationPlan | CodePlan"
    lists: Lists
    rows: np.ndarray
    center: np.ndarray
    arrays: dict

    def again(self, kernels, metric, n_threads):
        """The same made once more."""
        make = code_store if isinstance(self.plan, CodePlan) else make_store
        return make(kernels, self.plan, metric, self.rows, self.lists, n_threads=n_threads)


def native_store(metric, rows, lists, labels=None):
    max_norm2 = _native.squared_norms(rows, np.empty(len(rows)))
    return _native.Store(
        metric, lists.begin, lists.size, lists.ids, labels, rows, math.sqrt(max_norm2)
    )


def mean(rows):
    center = np.empty(rows.shape[1], dtype=np.float32)
    _native.mean(rows, center)
    return center


def make_store(kernels, plan, metric, rows, lists, *, center=None, labels=None, n_threads=1):
    """Rows in rotated blocks."""
    n_positions, dim = len(lists.ids), plan.dim
    center = mean(rows) if center is None else center
    native = native_store(metric, rows, lists, labels)
    blocks = np.full(n_positions * dim, np.nan, dtype=np.float32)
    norms = np.zeros(n_positions, dtype=np.float32)
    max_centered_norm2 = _native.fill_blocks(
        kernels,
        plan.native,
        center,
        native,
        0,
        n_positions,
        None if metric == "l2" else norms,
        blocks,
        n_threads,
    )
    planes = _native.Blocks(plan.native, center, norms, blocks, math.sqrt(max_centered_norm2))
    arrays = {"blocks": blocks, "norms": norms, "max_centered_norm2": max_centered_norm2}
    return Store(native, planes, plan, lists, rows, center, arrays)


@dataclass
class CodePlan:
    """Axes and steps of byte codes, made by hand.

    Steps are dimensions: those of the front, then those behind it.
    """

    center: np.ndarray
    scales: np.ndarray
    front: tuple
    body: tuple = ()
    axes: np.ndarray | None = None
    distortion: float = 0.0
    front_length: float = 1.0
    body_length: float = 1.0
    residual: float = 0.0
    neighbor: tuple = (1.0, 0.0)
    body_bits: int = 8

    def __post_init__(self):
        self.ends = np.array([*self.front, *self.body], dtype=np.uint32)
        self.panels = None if self.axes is None else pack(self.axes)
        self.native = _native.CodePlan(
            self.front[-1],
            len(self.front),
            self.ends,
            self.center,
            self.panels,
            self.distortion,
            self.scales,
            self.front_length,
            self.body_length,
            self.residual,
            np.tile(np.array(self.neighbor, np.float64), (len(self.ends), 1)),
            self.body_bits,
        )

    @property
    def dim(self):
        return len(self.center)

    @property
    def whole(self):
        """Dimensions with the padding to a multiple of four."""
        return int(self.ends[-1])

    @property
    def largest(self):
        """The largest code of each dimension."""
        front = np.arange(self.dim) < self.front[-1]
        return np.where(front | (self.body_bits == 8), 127, 7).astype(np.float32)

    def codes_of(self, y):
        """Codes of projected rows as the driver makes them: in float32, to the nearest even."""
        quotient = np.divide(y, self.scales, out=np.zeros_like(y), where=self.scales > 0)
        return np.clip(np.rint(quotient), -self.largest, self.largest)

    def projected(self, x):
        """What the scan takes for M (x - center), bit for bit, with any kernels."""
        y = np.full_like(x, np.nan)
        self.native.project(BEST, x, y, 1)
        return y


@functools.cache
def random_axes(dim):
    """Orthonormal axes, rounded, and how far they may distort products."""
    rng = np.random.default_rng(dim)
    axes = np.linalg.qr(rng.standard_normal((dim, dim)))[0].astype(np.float32)
    return axes, oracle.distortion(axes)


def steps(dim):
    """Fronts and bodies of all kinds: one step or many, without a body, in one or many pieces.

    The third number is the bits of a code of the body.
    """
    whole = -(-dim // 4) * 4
    yield (whole,), (), 8
    if whole >= 12:
        yield (4, 8, whole), (), 4
        yield (4, whole - 4), (whole,), 8
    for bits in (8, 4) if whole >= 8 else ():
        read = 512 // bits
        yield (4,), (whole,), bits
        if whole > 4 + read:
            yield (4,), (4 + read, whole), bits
        if whole > 12 + 3 * read:
            yield (4, 8, 12), (12 + read, 12 + 3 * read, whole), bits


def code_plan(rows, *, steps=None, axes=None, center=None, coarse=1.0, neighbor=(1.0, 0.0)):
    """A plan whose codes reach as far as the rows do, with the lengths that they have.

    Codes of coarse > 1 say less about the rows than they could, those of coarse < 1 are clipped.
    `axes` may be "random"; how far others distort products is for the oracle to say.
    """
    dim = rows.shape[1]
    if isinstance(axes, str):
        axes, distortion = random_axes(dim)
    else:
        distortion = 0.0 if axes is None else oracle.distortion(axes)
    front, body, body_bits = ((-(-dim // 4) * 4,), (), 8) if steps is None else steps
    center = mean(rows) if center is None else center
    options = {"front": front, "body": body, "body_bits": body_bits, "neighbor": neighbor}
    options |= {"axes": axes, "distortion": distortion}
    plain = CodePlan(center, np.ones(dim, np.float32), **options)
    y = plain.projected(rows)
    reach = np.abs(y).max(axis=0, initial=0).astype(np.float64)
    scales = (reach / plain.largest * coarse).astype(np.float32)
    codes = CodePlan(center, scales, **options).codes_of(y).astype(np.float64)
    left = np.sqrt(((y - codes * scales) ** 2).sum(axis=1))
    left += (distortion + oracle.UNIT) * np.sqrt(((rows.astype(np.float64) - center) ** 2).sum(1))
    options["residual"] = float(left.sum() / max(len(left), 1))
    for name, part in (("front", codes[:, : front[-1]]), ("body", codes[:, front[-1] :])):
        length = np.sqrt((part**2).sum(axis=1)).sum() / max(left.sum(), 1e-300)
        options[f"{name}_length"] = length or 1.0
    return CodePlan(center, scales, **options)


def code_store(kernels, plan, metric, rows, lists, *, labels=None, n_threads=1):
    """Rows in byte codes. What nobody has written is not zero."""
    n = len(lists.ids)
    fronts = np.diff(plan.front, prepend=0)
    arrays = {
        "body": np.full(n * plan.native.body_stride + 64, 55, np.int8),
        "base": np.full(n, np.nan, np.float32),
        "residuals": np.full(n, 0x7FC0, np.uint16),
        "tails": np.full((plan.native.n_tails, n), 0x7FC0, np.uint16),
        **{f"front-{i}": np.full(n * m + 1024, 55, np.int8) for i, m in enumerate(fronts)},
    }
    native = native_store(metric, rows, lists, labels)
    planes = _native.Codes(plan.native, *arrays.values())
    planes.fill(kernels, native, 0, n, n_threads)
    return Store(native, planes, plan, lists, rows, plan.center, arrays)


def stored_codes(store):
    """Codes of all positions and dimensions, with padding, as cpp/drive/codes.h lays them out."""
    n = len(store.lists.ids)
    fronts = []
    for step, _ in enumerate(store.plan.front):
        groups = store.arrays[f"front-{step}"][:-1024].reshape(n // LANES, -1, LANES, 4)
        fronts.append(groups.transpose(0, 2, 1, 3).reshape(n, -1))
    body = store.arrays["body"][:-64].reshape(n, -1)
    if store.plan.body_bits == 4:
        stretches = body.view(np.uint8).reshape(n, -1, 1, 64)
        halves = np.concatenate([stretches & 15, stretches >> 4], axis=2)
        body = halves.reshape(n, -1).astype(np.int8) - np.int8(8)
    return np.concatenate([*fronts, body], axis=1)


def bit_mask(allowed):
    """Booleans as one bit a row, in words of 64."""
    padded = np.zeros(-(-len(allowed) // 64) * 64, dtype=bool)
    padded[: len(allowed)] = allowed
    return np.packbits(padded, bitorder="little").view("<u8").astype(np.uint64)


def scan(
    kernels,
    store,
    queries,
    k,
    *,
    probes=None,
    allowed=None,
    eps0=np.inf,
    delta=32,
    n_threads=1,
):
    """Distances, ids and stats (candidates, dimensions, settled) of a scan."""
    n = len(queries)
    distances = np.full((n, k), np.nan, dtype=np.float32)
    ids = np.full((n, k), -2, dtype=np.int64)
    stats = np.zeros((n, 3), dtype=np.uint64)
    _native.scan(
        kernels,
        store.native,
        store.planes,
        queries,
        probes,
        None if allowed is None else bit_mask(allowed),
        k,
        eps0,
        delta,
        distances,
        ids,
        stats,
        n_threads,
    )
    return distances, ids, stats


def scan_within(kernels, store, queries, radius, *, probes=None, allowed=None, n_threads=1):
    """Limits, distances, ids and stats of a scan for all rows no farther than the radius."""
    stats = np.zeros((len(queries), 3), dtype=np.uint64)
    sizes = np.full(len(queries), -1, dtype=np.int64)
    found = _native.scan_within(
        kernels,
        store.native,
        store.planes,
        queries,
        probes,
        None if allowed is None else bit_mask(allowed),
        radius,
        np.inf,
        32,
        stats,
        n_threads,
    )
    found.sizes(sizes)
    limits = np.concatenate(([0], np.cumsum(sizes)))
    distances, ids = np.empty(limits[-1], np.float32), np.empty(limits[-1], np.int64)
    found.copy(distances, ids)
    return limits, distances, ids, stats


def assign(kernels, metric, points, centroids, n_threads=1):
    labels = np.full(len(points), -1, dtype=np.int32)
    distances = np.full(len(points), np.nan, dtype=np.float32)
    _native.assign(kernels, metric, points, centroids, labels, distances, n_threads)
    return labels, distances


def reassign(kernels, points, centroids, guesses, n_threads=1):
    """Labels, distances, and the share of the centroids that points have met."""
    labels = np.full(len(points), -1, dtype=np.int32)
    distances = np.full(len(points), np.nan, dtype=np.float32)
    share = _native.assign(kernels, "l2", points, centroids, labels, distances, n_threads, guesses)
    return labels, distances, share


def cluster_sums(points, labels, weights, k, n_threads=1, kernels=SCALAR):
    sums = np.full((k, points.shape[1]), np.nan)
    totals, counts = np.full(k, np.nan), np.full(k, -1, dtype=np.int64)
    _native.cluster_sums(kernels, points, labels, weights, sums, totals, counts, n_threads)
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


def assert_changes_are_seen_whole(ask, known, changes):
    """Threads ask while an index changes: every answer is that of a whole state, in their order.

    `ask()` returns an answer, `known` maps those that can be to the number of changes before them,
    and `changes` are calls that change the index, one after another.
    """
    done, passed = threading.Event(), threading.Semaphore(0)
    seen = [[] for _ in range(3)]

    def keep_asking(mine):
        while not done.is_set():
            mine.append(known.get(ask(), "torn"))
            passed.release()

    threads = [threading.Thread(target=keep_asking, args=(mine,)) for mine in seen]
    for thread in threads:
        thread.start()
    try:
        for change in changes:
            change()
            # The first answer from now on may have been begun before, the second was not.
            enough = [len(mine) + 2 for mine in seen]
            while any(len(mine) < n for mine, n in zip(seen, enough, strict=True)):
                assert passed.acquire(timeout=60)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    for mine in seen:
        assert "torn" not in mine
        assert mine == sorted(mine)
        assert mine[-1] == len(changes)


# -------------------------------------------------------------------------------------- graphs


def nearest_graph(rows, metric="l2", M=6, **parts):
    """Link every row with its nearest, on level 0, and every 20th with those of its kind above it.

    Nothing in it depends on hnswlib, whose roundings differ from machine to machine.
    """
    n = len(rows)

    def nearest(some, m):
        found = lw.Flat(rows.shape[1], metric).add(rows[some]).search(rows[some], m + 1).ids
        kept = [[some[j] for j in near if j not in (i, -1)][:m] for i, near in enumerate(found)]
        table = np.full((len(some), m), NO_LINK)
        for i, near in enumerate(kept):
            table[i, : len(near)] = near
        return table

    high = np.arange(0, n, 20)
    padded = np.zeros((n, padded_dim(rows.shape[1])), dtype=np.float32)
    padded[:, : rows.shape[1]] = rows
    whole = {
        "metric": metric,
        "dim": rows.shape[1],
        "M": M,
        "ef_construction": 9,
        "mult": 0.5,
        "seed": 1,
        "ef": 10,
        "enter": 0 if n > 0 else -1,
        "rows": padded,
        "links": nearest(np.arange(n), 2 * M),
        "upper_begin": np.searchsorted(high, np.arange(n + 1)).astype(np.uint32),
        "upper": nearest(high, M),
        "labels": None,
        "deleted": None,
    }
    return GraphArrays(**{**whole, **parts})


def links_of(graph):
    """Links as `oracle.graph_search` takes them."""

    def named(row):
        return [int(i) for i in row if i != NO_LINK]

    begin = graph.upper_begin.astype(int)
    return [
        [named(graph.links[i]), *(named(row) for row in graph.upper[begin[i] : begin[i + 1]])]
        for i in range(len(graph))
    ]
