"""The truth, slowly: what the kernels and drivers compute, in float64 and plain integers.

Nothing here calls the compiled module. Wherever there is one, another algorithm than the fast
one is used (a dense Hadamard matrix instead of butterflies, a sort instead of a heap, a matrix
instead of a rotation in place), so that the two can hardly share a mistake. The functions of the
first part have the names of the kernels, those of the second the names of what the package does
with them. The third part bounds how far float32 may be from this truth: tests compare with these
bounds, never with a tolerance that happens to pass.

Distances are what `lanewise.SearchResult` reports, smaller is nearer: squared L2, the negated
inner product, or one minus the cosine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "adsampling",
    "all_finite",
    "assign",
    "assign_points",
    "bfloat16",
    "chain_error",
    "cluster_sums",
    "distortion",
    "dot_codes",
    "dot_rows",
    "fused",
    "fwht",
    "fwht_error",
    "gamma",
    "graph_search",
    "hadamard",
    "k_dedicated",
    "l2_rows",
    "l2_rows_within",
    "lloyd",
    "max_dots",
    "maxsim",
    "maxsim_error",
    "merge",
    "mway_jaccard",
    "pairwise_jaccard",
    "plan",
    "product_bounds",
    "project",
    "project_error",
    "prune",
    "query_codes",
    "recall",
    "rotate",
    "rotation_error",
    "rotation_matrix",
    "row_error",
    "screen_bits",
    "screen_codes",
    "screen_decoded",
    "screen_nibbles",
    "search",
    "share_below",
    "sign_bits",
    "sign_tables",
    "threefry",
    "within",
    "word_codes",
]

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Longs = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

UNIT = 2.0**-24
"""Largest relative error of one float32 operation, rounded to nearest."""

UNDERFLOW = 2.0**-150
"""Largest absolute error of one float32 operation whose result is subnormal."""

_LANES = 16
_CHAIN = 64
_DENSE = 32
_WORD = 2**64 - 1


# ------------------------------------------------------------------------------------- kernels


def hadamard(n: int) -> Doubles:
    """Return the Walsh-Hadamard matrix in natural (Sylvester) order.

    Parameters
    ----------
    n : int
        A power of two.

    Returns
    -------
    ndarray of float64, shape (n, n)
        Entry (i, j) is 1 where i and j share an even number of one bits, -1 elsewhere. Symmetric,
        and n times the identity when multiplied by itself.

    References
    ----------
    J. J. Sylvester, "Thoughts on inverse orthogonal matrices" (1867): H_2n = H_2 (x) H_n, whose
    entries are the parities of ``i & j``.

    Examples
    --------
    >>> hadamard(4).astype(int).tolist()
    [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]
    """
    if n < 1 or n & (n - 1):
        raise ValueError(f"n: expected a power of two, got {n}")
    index = np.arange(n)
    parity = index[:, None] & index
    for shift in (32, 16, 8, 4, 2, 1):
        parity ^= parity >> shift
    return np.where(parity & 1, -1.0, 1.0)


def all_finite(x: npt.ArrayLike, scale: float = 1.0) -> bool:
    """Return whether no number is NaN or infinite, nor would be as a float32 times `scale`.

    Parameters
    ----------
    x : array-like of float
    scale : float, default 1.0

    Returns
    -------
    bool

    Examples
    --------
    >>> all_finite([0.0, -1e38]), all_finite([0.0, float("nan")]), all_finite([1e38], 4.0)
    (True, False, False)
    """
    # Halfway from the largest float32 to the next power of two, rounding goes to infinity.
    limit = 2.0**128 - 2.0**103
    values = np.asarray(x, np.float64).ravel().tolist()
    return all(abs(scale * value) < limit for value in values)


def fwht(x: npt.ArrayLike, weights: npt.ArrayLike) -> Doubles:
    """Return the Walsh-Hadamard transform of weighted vectors.

    Parameters
    ----------
    x : array-like of float, shape (n, 2**m) or (2**m,)
    weights : array-like of float, shape (2**m,)
        Multiplied into `x` first: signs, scaling or ones.

    Returns
    -------
    ndarray of float64, shape of `x`
        ``H (weights * x)`` for every vector, H unnormalised. Exact while all sums of magnitudes
        stay below 2**53.

    Notes
    -----
    Up to 32 dimensions the matrix is built and multiplied. Beyond, H_ab = H_a (x) H_b turns a
    vector into a table of a rows and b columns whose columns and rows are transformed in turn.

    Examples
    --------
    >>> fwht([[1, 2, 3, 4]], [1, 1, 1, -1]).tolist()
    [[2.0, 6.0, 4.0, -8.0]]
    """
    return _hadamard_product(np.asarray(x, np.float64) * np.asarray(weights, np.float64))


def _hadamard_product(x: Doubles) -> Doubles:
    dim = x.shape[-1]
    if dim <= _DENSE:
        return x @ hadamard(dim)
    rows = (x.reshape(-1, _DENSE) @ hadamard(_DENSE)).reshape(-1, dim // _DENSE, _DENSE)
    columns = _hadamard_product(np.swapaxes(rows, 1, 2).reshape(-1, dim // _DENSE))
    return np.swapaxes(columns.reshape(-1, _DENSE, dim // _DENSE), 1, 2).reshape(x.shape)


def prune(
    block: npt.ArrayLike,
    query: npt.ArrayLike,
    begin: int,
    end: int,
    partial: npt.ArrayLike,
    norms: npt.ArrayLike,
    offset: float,
    scale: float,
    alive: int,
) -> tuple[Doubles, int]:
    """Return the partial distances and the survivors of one step of an early-terminated scan.

    Parameters
    ----------
    block : array-like of float, shape (dim, width)
        Dimension-major candidates, one in each column.
    query : array-like of float, shape (dim,)
    begin, end : int
        Dimensions to add in this step.
    partial : array-like of float, shape (width,)
        Sums of the earlier steps.
    norms : array-like of float, shape (width,)
    offset, scale : float
        A candidate survives if its sum is below ``scale * (offset + norms[c])``.
    alive : int
        Bit c is set if candidate c is still in the race.

    Returns
    -------
    partial : ndarray of float64, shape (width,)
        Grown for every group of 16 candidates that has one alive; as it was for the others.
    survivors : int
        Bits of the candidates that were alive and stay so.

    References
    ----------
    J. Gao and C. Long, "High-dimensional approximate nearest neighbor search: with reliable and
    efficient distance comparison operations" (2023).

    Examples
    --------
    >>> block = np.zeros((2, 16))
    >>> block[:, 1] = 3
    >>> sums, survivors = prune(block, [0, 0], 0, 2, np.zeros(16), np.zeros(16), 10, 1, 0b11)
    >>> float(sums[1]), bin(survivors)
    (18.0, '0b1')
    """
    columns = np.asarray(block, np.float64)
    target = np.asarray(query, np.float64)
    sums = np.array(partial, np.float64)
    length = np.asarray(norms, np.float64)
    survivors = 0
    for c in range(columns.shape[1]):
        group = alive >> (c // _LANES * _LANES) & (1 << _LANES) - 1
        if group == 0:
            continue
        sums[c] += ((target[begin:end] - columns[begin:end, c]) ** 2).sum()
        if alive >> c & 1 and sums[c] < scale * (offset + length[c]):
            survivors |= 1 << c
    return sums, survivors


def l2_rows(query: npt.ArrayLike, rows: npt.ArrayLike, ids: npt.ArrayLike) -> Doubles:
    """Return the squared L2 distances of named rows to a query.

    Parameters
    ----------
    query : array-like of float, shape (dim,)
    rows : array-like of float, shape (n_rows, dim)
    ids : array-like of int, shape (n,)

    Returns
    -------
    ndarray of float64, shape (n,)
        From differences, never from expanded norms.

    Examples
    --------
    >>> l2_rows([0, 0], [[3, 4], [1, 0]], [1, 0]).tolist()
    [1.0, 25.0]
    """
    chosen = np.asarray(rows, np.float64)[np.asarray(ids, np.int64)]
    return np.asarray(((np.asarray(query, np.float64) - chosen) ** 2).sum(axis=1), np.float64)


def l2_rows_within(
    query: npt.ArrayLike,
    rows: npt.ArrayLike,
    ids: npt.ArrayLike,
    bounds: npt.ArrayLike,
    ends: npt.ArrayLike,
    factors: npt.ArrayLike,
) -> Doubles:
    """Return the squared L2 distances of named rows, inf where a row is left half-way.

    Parameters
    ----------
    query, rows, ids
        As for `l2_rows`.
    bounds : array-like of float, shape (n,)
    ends : array-like of int, shape (n_looks,)
        Dimensions that each look has seen.
    factors : array-like of float, shape (n_looks,)
        A row is left if at one of the looks its distance so far exceeds bound times factor.

    Returns
    -------
    ndarray of float64, shape (n,)

    Examples
    --------
    >>> l2_rows_within([0, 0], [[3, 4], [1, 5]], [0, 1], [10, 10], [1], [0.5]).tolist()
    [inf, 26.0]
    """
    exact = l2_rows(query, rows, ids)
    for end, factor in zip(np.asarray(ends), np.asarray(factors), strict=True):
        seen = l2_rows(np.asarray(query)[:end], np.asarray(rows)[:, :end], ids)
        exact[seen > np.asarray(bounds, np.float64) * factor] = np.inf
    return exact


def dot_rows(query: npt.ArrayLike, rows: npt.ArrayLike, ids: npt.ArrayLike) -> Doubles:
    """Return the inner products of named rows with a query.

    Parameters and result are those of `l2_rows`.

    Examples
    --------
    >>> dot_rows([1, 2], [[3, 4], [1, 0]], [1, 0]).tolist()
    [1.0, 11.0]
    """
    chosen = np.asarray(rows, np.float64)[np.asarray(ids, np.int64)]
    return np.asarray(chosen @ np.asarray(query, np.float64), np.float64)


def project(x: npt.ArrayLike, axes: npt.ArrayLike) -> Doubles:
    """Return the coordinates of vectors on given axes.

    Parameters
    ----------
    x : array-like of float, shape (n, dim)
    axes : array-like of float, shape (n_axes, dim)

    Returns
    -------
    ndarray of float64, shape (n, n_axes)

    Examples
    --------
    >>> project([[1, 2]], [[1, 1], [1, -1], [0, 3]]).tolist()
    [[3.0, -1.0, 6.0]]
    """
    return np.asarray(np.asarray(x, np.float64) @ np.asarray(axes, np.float64).T, np.float64)


def bfloat16(words: npt.ArrayLike) -> Doubles:
    """Return the numbers that bfloat16 words stand for: the upper halves of float32 words.

    Parameters
    ----------
    words : array-like of uint16

    Returns
    -------
    ndarray of float64, shape of `words`

    Examples
    --------
    >>> bfloat16([0x3F80, 0x4049, 0x7F80]).tolist()
    [1.0, 3.140625, inf]
    """
    wide = np.asarray(words, np.uint16).astype(np.uint32) << np.uint32(16)
    return wide.view(np.float32).astype(np.float64)


def fused(a: npt.ArrayLike, b: npt.ArrayLike, c: npt.ArrayLike) -> Floats:
    """Return the fused multiply-add ``a * b + c`` of float32, rounded once.

    Parameters
    ----------
    a, b, c : array-like of float32, broadcast against each other

    Returns
    -------
    ndarray of float32

    Notes
    -----
    The product of two float32 is exact in float64. Their sum is rounded to odd there: if it is
    not exact and its last bit is 0, it is moved to its neighbour on the side of the error. What
    is then rounded to float32 is rounded as if the sum had been exact, because float64 has more
    than two bits to spare.

    References
    ----------
    S. Boldo and G. Melquiond, "Emulation of a FMA and correctly rounded sums" (2008), theorem 1;
    O. Moller, "Quasi double-precision in floating point addition" (1965), for the error of a sum.

    Examples
    --------
    >>> float(fused(1 + 2.0**-12, 1 + 2.0**-12, -1)) == 2.0**-11 + 2.0**-24
    True
    """
    singles = (np.asarray(v, np.float32).astype(np.float64) for v in (a, b, c))
    first, second, third = np.broadcast_arrays(*singles)
    product = first * second
    total = np.asarray(product + third)
    with np.errstate(invalid="ignore", over="ignore"):  # beyond float32 all is infinite anyway
        back = total - product
        error = (product - (total - back)) + (third - back)
        even = np.asarray(total.view(np.int64) & 1 == 0)
        odd = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
        exact = even & np.isfinite(total) & (error != 0)
        return np.asarray(np.where(exact, odd, total)).astype(np.float32)


def screen_codes(
    codes: npt.ArrayLike,
    base: npt.ArrayLike,
    residuals: npt.ArrayLike,
    tails: npt.ArrayLike,
    ends: npt.ArrayLike,
    query: npt.ArrayLike,
    shifts: npt.ArrayLike,
    scales: npt.ArrayLike,
    tail_weights: npt.ArrayLike,
    residual_weight: float,
    limit: float,
    alive: npt.ArrayLike,
    first_look: int = 0,
) -> tuple[npt.NDArray[np.uint16], Floats, int]:
    """Return who survives the steps of a screening of byte codes, the estimates, and the work.

    Parameters
    ----------
    codes : array-like of int8, shape (n_groups, n_quads, 16, 4)
        Code ``4 j + i`` of member l of group g is ``codes[g, j, l, i]``.
    base : array-like of float32, shape (16 * n_groups,)
    residuals : array-like of uint16, shape (16 * n_groups,)
        bfloat16, as `tails`.
    tails : array-like of uint16, shape (n_steps, 16 * n_groups)
    ends : array-like of int, shape (n_steps,)
        Quads after which candidates are dropped.
    query : array-like of int8, shape (4 * n_quads,)
    shifts : array-like of int, shape (n_steps,)
        How many times finer, in bits, the query's codes of a step are than those of the one before.
    scales : array-like of float32, shape (n_steps,)
        Of the products up to each step.
    tail_weights : array-like of float32, shape (n_steps,)
    residual_weight, limit : float
        float32.
    alive : array-like of uint16, shape (n_groups,)
        Bit l of word g is set if member l of group g is still in the race.
    first_look : int, default 0
        Steps before it drop nobody.

    Returns
    -------
    alive : ndarray of uint16, shape (n_groups,)
        Those whose lower bound is below the limit after every step.
    estimates : ndarray of float32, shape (16 * n_groups,)
        Of the last step.
    quads_read : int
        Quads of candidates in the steps behind `first_look`, up to which all of them read.

    Notes
    -----
    The integer products are exact, and each of the three operations on floats is `fused`, so that
    a kernel must give these bits.

    Examples
    --------
    >>> codes = np.zeros((1, 1, 16, 4), np.int8)
    >>> codes[0, 0, 1] = 2
    >>> none, ends = np.zeros(16, np.uint16), [1]
    >>> alive, estimates, quads_read = screen_codes(
    ...     codes, np.ones(16), none, [none], ends, [1, 1, 1, 1], [0], [0.5], [1], 1, 0, [0b11]
    ... )
    >>> alive.tolist(), estimates[:2].tolist(), quads_read
    ([2], [1.0, -3.0], 0)
    """
    groups = np.asarray(codes, np.int64)
    n_groups, n_quads = groups.shape[:2]
    rows = groups.transpose(0, 2, 1, 3).reshape(n_groups * _LANES, 4 * n_quads)
    target = np.asarray(query, np.int64)
    lane = np.uint16(1) << np.arange(_LANES, dtype=np.uint16)
    survivors = (np.asarray(alive, np.uint16)[:, None] & lane).ravel() > 0
    estimates = np.zeros(n_groups * _LANES, np.float32)
    # What a step's products weigh at the end of the last.
    finer = np.cumsum(np.asarray(shifts, np.int64))
    steps_of = np.searchsorted(np.asarray(ends), np.arange(n_quads), side="right").repeat(4)
    steps = zip(
        np.asarray(ends, np.int64).tolist(),
        finer,
        np.asarray(scales, np.float32),
        np.asarray(tail_weights, np.float32),
        np.asarray(tails, np.uint16),
        strict=True,
    )
    begin = quads_read = 0
    for step, (end, bits, scale, tail_weight, tail) in enumerate(steps):
        quads_read += int(survivors.sum()) * (end - begin if step > first_look else 0)
        begin = end
        weighted = target[: 4 * end] << bits - finer[steps_of[: 4 * end]]
        products = rows[:, : 4 * end] @ weighted
        estimates = fused(-scale, products.astype(np.float32), base)
        coded = fused(-np.float32(residual_weight), bfloat16(residuals), estimates)
        lower = fused(-tail_weight, bfloat16(tail), coded)
        if step >= first_look:
            survivors &= lower < np.float32(limit)
    words = (survivors.reshape(n_groups, _LANES) * lane).sum(axis=1)
    return words.astype(np.uint16), estimates, quads_read


def dot_codes(query: npt.ArrayLike, rows: npt.ArrayLike, positions: npt.ArrayLike) -> Longs:
    """Return the products of the codes of named rows with those of a query.

    Parameters
    ----------
    query : array-like of int8, shape (n,)
    rows : array-like of int8, shape (n_rows, n)
    positions : array-like of int, shape (m,)

    Returns
    -------
    ndarray of int64, shape (m,)

    Examples
    --------
    >>> dot_codes([1, -2], [[3, 4], [-128, 127]], [1, 0]).tolist()
    [-382, -5]
    """
    chosen = np.asarray(rows, np.int64)[np.asarray(positions, np.int64)]
    return np.asarray(chosen @ np.asarray(query, np.int64), np.int64)


def sign_bits(y: npt.ArrayLike) -> tuple[npt.NDArray[np.uint8], Doubles]:
    """Return the signs of vectors as bits, and the factors that make products of signs unbiased.

    Parameters
    ----------
    y : array-like, shape (n, m)
        m is a multiple of 8.

    Returns
    -------
    bits : ndarray of uint8, shape (n, m / 8)
        Bit i of byte j is set if coordinate 8j + i is positive.
    factors : ndarray of float64, shape (n,)
        ``|y|^2 / sum |y_d|``; 0 for a zero vector.

    References
    ----------
    J. Gao and C. Long, "RaBitQ: quantizing high-dimensional vectors with a theoretical error
    bound for approximate nearest neighbor search", SIGMOD 2024, theorem 3.2.

    Examples
    --------
    >>> bits, factors = sign_bits([[1, -1, 2, 0, 0, 0, 0, 0]])
    >>> bits.tolist(), factors.tolist()
    ([[5]], [1.5])
    """
    rows = np.asarray(y, np.float64)
    lengths = np.abs(rows).sum(axis=1)
    squares = (rows**2).sum(axis=1)
    factors = np.divide(squares, lengths, out=np.zeros(len(rows)), where=lengths > 0)
    return np.packbits(rows > 0, axis=1, bitorder="little"), factors


def fine_codes(y: npt.ArrayLike, bits: int) -> tuple[npt.NDArray[np.int8], Doubles]:
    """Return vectors in codes of a few bits, and the factors that make products of codes unbiased.

    Parameters
    ----------
    y : array-like, shape (n, m)
    bits : {2, 4}

    Returns
    -------
    codes : ndarray of int8, shape (n, m)
        From ``-2**(bits - 1)`` to ``2**(bits - 1) - 1``. A code c stands for 2 c + 1.
    factors : ndarray of float64, shape (n,)
        ``|y|^2 / <2 c + 1, y>``; 0 for a zero vector.

    Notes
    -----
    The step between codes is that which loses least of a normal distribution with the vector's mean
    square: 0.9957 or 0.3352 standard deviations.

    References
    ----------
    J. Max, "Quantizing for minimum distortion", IRE Transactions on Information Theory, 1960, table
    II. J. Gao et al., "Practical and asymptotically optimal quantization of high-dimensional
    vectors in Euclidean space for approximate nearest neighbor search", SIGMOD 2025.

    Examples
    --------
    >>> codes, factors = fine_codes([[1, -1, 2, 0], [0, 0, 0, 0]], 2)
    >>> codes.tolist(), factors.tolist()
    ([[0, -1, 1, 0], [0, 0, 0, 0]], [0.75, 0.0])
    """
    rows = np.asarray(y, np.float64)
    steps = {2: 0.9957, 4: 0.3352}[bits] * np.sqrt((rows**2).mean(axis=1, keepdims=True))
    scaled = np.divide(rows, steps, out=np.zeros_like(rows), where=steps > 0)
    half = 1 << bits - 1
    codes = np.clip(np.floor(scaled), -half, half - 1)
    products = (rows * (2 * codes + 1)).sum(axis=1)
    factors = np.divide(
        (rows**2).sum(axis=1), products, out=np.zeros(len(rows)), where=products > 0
    )
    return codes.astype(np.int8), factors


def sign_tables(z: npt.ArrayLike) -> tuple[npt.NDArray[np.uint8], int, np.float32]:
    """Return the tables in which `screen_bits` looks up what sign bits add to a product with z.

    Parameters
    ----------
    z : array-like of float32, shape (m,)
        m is a multiple of 32.

    Returns
    -------
    tables : ndarray of uint8, shape (m / 32, 2, 4, 16)
        Entry e of table [j, h, i] is what bits 4h to 4h + 3 of byte 4j + i add if they are e.
    total : int
    step : float32
        The product with signs s is about ``step * (2 * sum of entries - total)``.

    Notes
    -----
    Coordinates are coded by whole numbers from -15 to 15. An entry adds up the absolute codes
    that agree with their bits in sign.

    Examples
    --------
    >>> tables, total, step = sign_tables([15, -30] + [0] * 30)
    >>> tables[0, 0, 0, :4].tolist(), total, float(step)
    ([15, 23, 0, 8], 23, 2.0)
    """
    target = np.asarray(z, np.float32).astype(np.float64)
    step = np.float32(np.abs(target).max() / 15)
    codes = np.rint(target / np.float64(step)) if step > 0 else np.zeros_like(target)
    codes = np.clip(codes, -15, 15).astype(np.int64).reshape(-1, 4, 2, 1, 4)
    bits = np.arange(16)[:, np.newaxis] >> np.arange(4) & 1
    entries = np.where((codes > 0) == (bits > 0), np.abs(codes), 0).sum(axis=-1)
    tables = np.ascontiguousarray(entries.swapaxes(1, 2), np.uint8)
    return tables, int(np.abs(codes).sum()), step


def screen_bits(
    bits: npt.ArrayLike,
    base: npt.ArrayLike,
    factors: npt.ArrayLike,
    tables: npt.ArrayLike,
    total: int,
    step: float,
    limit: float,
    alive: npt.ArrayLike,
) -> tuple[npt.NDArray[np.uint16], Floats]:
    """Return whose estimate from sign bits is below a limit, and the estimates.

    Parameters
    ----------
    bits : array-like of uint8, shape (n_groups, m / 8, 16)
        Byte j of member l of group g is ``bits[g, j, l]``, as `sign_bits` makes them.
    base : array-like of float32, shape (16 * n_groups,)
    factors : array-like of uint16, shape (16 * n_groups,)
        bfloat16.
    tables, total, step
        As `sign_tables` makes them.
    limit : float
    alive : array-like of uint16, shape (n_groups,)
        Bit l of word g is set if member l of group g is asked for.

    Returns
    -------
    alive : ndarray of uint16, shape (n_groups,)
    estimates : ndarray of float32, shape (16 * n_groups,)
        ``base - factors * (step * (2 * sum of entries - total))``.

    Notes
    -----
    The sums are exact, and the operations on floats are one product and one that is `fused`.

    Examples
    --------
    >>> tables, total, step = sign_tables([15, -30] + [0] * 30)
    >>> bits = np.zeros((1, 4, 16), np.uint8)
    >>> bits[0, 0, 1] = 0b01
    >>> one = np.full(16, 0x3F80, np.uint16)
    >>> alive, estimates = screen_bits(bits, np.zeros(16), one, tables, total, step, -20, [3])
    >>> alive.tolist(), estimates[:2].tolist()
    ([2], [-14.0, -46.0])
    """
    codes = np.asarray(bits, np.int64)
    n_bytes = codes.shape[1]
    by_byte = np.asarray(tables, np.int64).swapaxes(1, 2).reshape(n_bytes, 2, 16)
    j = np.arange(n_bytes)[:, np.newaxis]
    entries = (by_byte[j, 0, codes & 15] + by_byte[j, 1, codes >> 4]).sum(axis=1).ravel()
    products = (2 * entries - total).astype(np.float32)
    scaled = bfloat16(factors).astype(np.float32)
    with np.errstate(over="ignore"):
        estimates = fused(scaled, -np.float32(step) * products, base)
    return _below_limit(estimates, limit, alive), estimates


def word_codes(words: npt.ArrayLike) -> tuple[npt.NDArray[np.uint8], Floats]:
    """Return code words as whole numbers of a step for each dimension, and the steps.

    Parameters
    ----------
    words : array-like of float32, shape (n_subspaces, n_words, length)

    Returns
    -------
    codes : ndarray of uint8, shape (n_subspaces, n_words, length)
        From 1 to 127: a coordinate is about ``(code - 64) * step``.
    steps : ndarray of float32, shape (n_subspaces, length)

    Examples
    --------
    >>> codes, steps = word_codes([[[63, 1], [-31.4, 0]]])
    >>> codes.tolist(), (63 * steps).round(4).tolist()
    ([[[127, 127], [33, 64]]], [[63.0, 1.0]])
    """
    target = np.asarray(words, np.float32)
    steps = np.abs(target).max(axis=1) / np.float32(63)
    scaled = target / np.where(steps > 0, steps, np.float32(np.inf))[:, np.newaxis]
    return (np.clip(np.rint(scaled), -63, 63) + 64).astype(np.uint8), steps


def query_codes(
    z: npt.ArrayLike, steps: npt.ArrayLike, largest: int
) -> tuple[npt.NDArray[np.int8], np.float32]:
    """Return a query as whole numbers that meet those of `word_codes`, and the step of a product.

    Parameters
    ----------
    z : array-like of float32, shape (dim,)
    steps : array-like of float32, shape (dim,)
    largest : int
        Of the whole numbers.

    Returns
    -------
    codes : ndarray of int8, shape (dim,)
    step : float32
        A product of z with coordinates (code - 64) * steps is about ``step * codes @ (code - 64)``.

    Examples
    --------
    >>> codes, step = query_codes([2, -1], [1, 0.5], 127)
    >>> codes.tolist(), round(float(step) * 127, 4)
    ([127, -32], 2.0)
    """
    scaled = np.asarray(z, np.float32) * np.asarray(steps, np.float32)
    step = np.abs(scaled).max() / np.float32(largest)
    codes = np.rint(scaled / step) if step > 0 else np.zeros_like(scaled)
    return np.clip(codes, -largest, largest).astype(np.int8), step


def screen_decoded(
    rows: npt.ArrayLike,
    base: npt.ArrayLike,
    factors: npt.ArrayLike,
    queries: npt.ArrayLike,
    totals: npt.ArrayLike,
    steps: npt.ArrayLike,
    limits: npt.ArrayLike,
    alive: npt.ArrayLike,
) -> tuple[npt.NDArray[np.uint16], Floats]:
    """Return whose estimates from decoded product codes are below a limit, and the estimates.

    Parameters
    ----------
    rows : array-like of int, shape (16 * n_groups, m)
    base : array-like of float32, shape (16 * n_groups,)
    factors : array-like of uint16, shape (16 * n_groups,)
        bfloat16.
    queries : array-like of int, shape (n, m)
    totals : array-like of int, shape (n,)
    steps, limits : array-like of float32, shape (n,)
    alive : array-like of uint16, shape (n, n_groups)
        Bit l of word (q, g) is set if query q asks for member l of group g.

    Returns
    -------
    alive : ndarray of uint16, shape (n, n_groups)
    estimates : ndarray of float32, shape (n, 16 * n_groups)
        ``base - factors * (steps * (product - totals))``.

    Notes
    -----
    Products are whole numbers; the last product and the difference are `fused`.

    Examples
    --------
    >>> one = np.full(16, 0x3F80, np.uint16)
    >>> alive, estimates = screen_decoded(
    ...     np.arange(32).reshape(16, 2), np.zeros(16), one, [[1, 1]], [1], [0.5], [-13], [[0xFFFF]]
    ... )
    >>> alive.tolist(), estimates[0, :3].tolist()
    ([[65408]], [0.0, -2.0, -4.0])
    """
    products = np.asarray(queries, np.int64) @ np.asarray(rows, np.int64).T
    products = products - np.asarray(totals, np.int64)[:, np.newaxis]
    negated, scaled = -np.asarray(steps, np.float32), bfloat16(factors).astype(np.float32)
    below, asked = np.asarray(limits, np.float32), np.asarray(alive, np.uint16)
    words, estimates = [], []
    with np.errstate(over="ignore"):
        for q, product in enumerate(products.astype(np.float32)):
            estimates.append(fused(scaled, negated[q] * product, base))
            words.append(_below_limit(estimates[q], below[q], asked[q]))
    return np.stack(words), np.stack(estimates)


def screen_nibbles(
    codes: npt.ArrayLike,
    base: npt.ArrayLike,
    factors: npt.ArrayLike,
    tables: npt.ArrayLike,
    total: int,
    step: float,
    limit: float,
    alive: npt.ArrayLike,
) -> tuple[npt.NDArray[np.uint16], Floats]:
    """Return whose estimate from product codes of four bits is below a limit, and the estimates.

    Parameters
    ----------
    codes : array-like of uint8, shape (n_groups, n_bytes, 16)
        The halves of byte (g, j, l) are the codes 2j and 2j + 1 of member l of group g.
    base : array-like of float32, shape (16 * n_groups,)
    factors : array-like of uint16, shape (16 * n_groups,)
        bfloat16.
    tables : array-like of uint8, shape (n_bytes / 4, 2, 2, 4, 16)
        What code 2(4j + i) + h adds to the product if it is e: the low byte [j, h, 0, i, e] and the
        high one [j, h, 1, i, e].
    total : int
    step : float
    limit : float
    alive : array-like of uint16, shape (n_groups,)

    Returns
    -------
    alive : ndarray of uint16, shape (n_groups,)
    estimates : ndarray of float32, shape (16 * n_groups,)
        ``base - factors * (step * (sum of entries - total))``, as from `screen_decoded`.

    Examples
    --------
    >>> tables = np.zeros((1, 2, 2, 4, 16), np.uint8)
    >>> tables[0, 0, 1, 0], tables[0, 1, 0, 0] = 1, np.arange(16)
    >>> codes = np.zeros((1, 4, 16), np.uint8)
    >>> codes[0, 0] = 16 * np.arange(16)
    >>> one = np.full(16, 0x3F80, np.uint16)
    >>> alive, estimates = screen_nibbles(codes, np.zeros(16), one, tables, 256, 1, -13, [0xFFFF])
    >>> alive.tolist(), estimates[:3].tolist()
    ([49152], [0.0, -1.0, -2.0])
    """
    numbers, both = np.asarray(codes, np.int64), np.asarray(tables, np.int64)
    n_bytes = numbers.shape[1]
    entries = (both[:, :, 0] + 256 * both[:, :, 1]).swapaxes(1, 2).reshape(n_bytes, 2, 16)
    j = np.arange(n_bytes)[:, np.newaxis]
    sums = (entries[j, 0, numbers & 15] + entries[j, 1, numbers >> 4]).sum(axis=1).reshape(-1, 1)
    words, estimates = screen_decoded(
        sums, base, factors, [[1]], [total], [step], [limit], np.asarray(alive)[np.newaxis]
    )
    return words[0], estimates[0]


def _below_limit(estimates: Floats, limit: float, alive: npt.ArrayLike) -> npt.NDArray[np.uint16]:
    """Masks of those asked for whose estimate is below the limit."""
    lane = np.uint16(1) << np.arange(_LANES, dtype=np.uint16)
    asked = np.asarray(alive, np.uint16)[:, np.newaxis] & lane
    words = np.where((estimates < np.float32(limit)).reshape(-1, _LANES), asked, 0)
    return np.asarray(words.sum(axis=1), np.uint16)


def assign(
    points: npt.ArrayLike, centroids: npt.ArrayLike, bias: npt.ArrayLike
) -> tuple[npt.NDArray[np.int32], Doubles, Doubles]:
    """Return the centroid of the largest ``bias[j] + x . c_j`` for every point.

    Parameters
    ----------
    points : array-like of float, shape (n, dim)
    centroids : array-like of float, shape (k, dim)
    bias : array-like of float, shape (k,)

    Returns
    -------
    labels : ndarray of int32, shape (n,)
        The smallest j among equals.
    scores : ndarray of float64, shape (n,)
    runner_ups : ndarray of float64, shape (n,)
        The second largest, -inf if there is but one centroid.

    Examples
    --------
    >>> labels, scores, runner_ups = assign([[1, 0], [0, 1]], [[2, 0], [2, 0], [0, 1]], [0, 0, 1])
    >>> labels.tolist(), scores.tolist(), runner_ups.tolist()
    ([0, 2], [2.0, 2.0], [2.0, 0.0])
    """
    products = np.asarray(points, np.float64) @ np.asarray(centroids, np.float64).T
    scores = np.asarray(bias, np.float64) + products
    labels = np.argmax(scores, axis=1)  # the first of equal ones
    ordered = np.sort(np.column_stack((np.full(len(scores), -np.inf), scores)), axis=1)
    return labels.astype(np.int32), ordered[:, -1], ordered[:, -2]


_ROTATIONS = (16, 42, 12, 31, 16, 32, 24, 21)
_PARITY = 0x1BD11BDAA9FC1A22
_ROUNDS = 13


def max_dots(rows: npt.ArrayLike, vectors: npt.ArrayLike) -> Doubles:
    """Return the largest inner product of each vector with any of the rows.

    Parameters
    ----------
    rows : array-like of float, shape (n, dim)
    vectors : array-like of float, shape (m, dim)

    Returns
    -------
    ndarray of float64, shape (m,)
        -inf if there are no rows.

    Examples
    --------
    >>> max_dots([[1, 0], [0, 2]], [[3, 1], [-1, 5]]).tolist()
    [3.0, 10.0]
    """
    products = np.asarray(vectors, np.float64) @ np.asarray(rows, np.float64).T
    return np.asarray(products.max(axis=1, initial=-np.inf), np.float64)


def threefry(
    key: Sequence[int] | Words, counter0: npt.ArrayLike, counter1: npt.ArrayLike
) -> tuple[Words, Words]:
    """Return Threefry2x64-13 of many counters under one key.

    Parameters
    ----------
    key : array-like of uint64, shape (2,)
    counter0, counter1 : array-like of uint64, shape (n,) or ()
        The two words of each counter; broadcast against each other.

    Returns
    -------
    word0, word1 : ndarray of uint64, shape (n,)

    References
    ----------
    J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011), section 4.1 and
    table 2: 13 rounds pass BigCrush; the parity is that of Skein 1.3.

    Examples
    --------
    >>> word0, word1 = threefry([0, 0], [0], 0)
    >>> hex(int(word0[0])), hex(int(word1[0]))
    ('0xf167b032c3b480bd', '0xe91f9fee4b7a6fb5')
    """
    x0, x1 = np.broadcast_arrays(
        np.atleast_1d(np.asarray(counter0, np.uint64)),
        np.atleast_1d(np.asarray(counter1, np.uint64)),
    )
    word0, word1 = _threefry(int(key[0]), int(key[1]), x0, x1)
    return word0, word1


def _threefry(key0: int, key1: int, x0: Any, x1: Any) -> tuple[Any, Any]:
    """Run the cipher on two integers, or on two arrays of uint64, which wrap by themselves."""
    schedule = (key0, key1, _PARITY ^ key0 ^ key1)
    x0 = (x0 + schedule[0]) & _WORD
    x1 = (x1 + schedule[1]) & _WORD
    for i in range(_ROUNDS):
        left = _ROTATIONS[i % 8]
        x0 = (x0 + x1) & _WORD
        x1 = ((x1 << left) & _WORD | x1 >> (64 - left)) ^ x0
        injection, rest = divmod(i + 1, 4)
        if rest == 0:
            x0 = (x0 + schedule[injection % 3]) & _WORD
            x1 = (x1 + ((schedule[(injection + 1) % 3] + injection) & _WORD)) & _WORD
    return x0, x1


# ------------------------------------------------------------------------------------ rotation


def rotation_matrix(weights: npt.ArrayLike, chunk: int, stride: int) -> Doubles:
    """Return the matrix of a rotation by signs and Walsh-Hadamard transforms.

    Parameters
    ----------
    weights : array-like of float, shape (n_rounds, dim)
        Sign over the square root of the transform's length for every coordinate of every round;
        with these the result is orthogonal.
    chunk : int
        Coordinates that travel together between rounds; divides dim.
    stride : int
        Coprime to ``dim / chunk``: chunk i comes from chunk ``(i * stride) % (dim / chunk)``.

    Returns
    -------
    ndarray of float64, shape (dim, dim)
        R such that the rotated vector is R x: in each round a diagonal matrix of weights, then one
        Hadamard matrix for each binary digit of dim (384 = 256 + 128), largest first; between two
        rounds the permutation, except if dim is a power of two.

    References
    ----------
    N. Ailon and B. Chazelle, "The fast Johnson-Lindenstrauss transform" (2009); A. Andoni et al.,
    "Practical and optimal LSH for angular distance" (2015), for three rounds.

    Examples
    --------
    >>> R = rotation_matrix(np.full((3, 4), 0.5), 4, 1)
    >>> np.array_equal(R @ R.T, np.eye(4))
    True
    """
    scales = np.asarray(weights, np.float64)
    n_rounds, dim = scales.shape
    n_chunks = dim // chunk
    source = [(i // chunk * stride) % n_chunks * chunk + i % chunk for i in range(dim)]
    matrix = np.eye(dim)
    for r in range(n_rounds):
        if r > 0 and dim & (dim - 1):
            matrix = matrix[source]
        matrix *= scales[r][:, None]
        begin = 0
        for digit in range(dim.bit_length() - 1, -1, -1):
            end = begin + (dim & 1 << digit)
            if end > begin:
                matrix[begin:end] = _hadamard_product(matrix[begin:end].T).T
            begin = end
    return matrix


def rotate(x: npt.ArrayLike, weights: npt.ArrayLike, chunk: int, stride: int) -> Doubles:
    """Return rotated vectors, by the matrix of the rotation.

    Parameters
    ----------
    x : array-like of float, shape (n, dim) or (dim,)
    weights, chunk, stride
        As for `rotation_matrix`.

    Returns
    -------
    ndarray of float64, shape of `x`

    Examples
    --------
    >>> rotate([1, 0], np.full((3, 2), 0.5**0.5), 2, 1).round(6).tolist()
    [0.707107, 0.707107]
    """
    matrix = rotation_matrix(weights, chunk, stride)
    return np.asarray(np.asarray(x, np.float64) @ matrix.T, np.float64)


# -------------------------------------------------------------------------------------- search


def search(X: npt.ArrayLike, Q: npt.ArrayLike, k: int, metric: str) -> tuple[Doubles, Longs]:
    """Return the nearest rows of every query, by looking at all of them.

    Parameters
    ----------
    X : array-like of float, shape (n, dim)
    Q : array-like of float, shape (n_queries, dim)
    k : int
    metric : {"l2", "ip", "cosine"}
        Squared L2, the negated inner product, or one minus the cosine; the cosine with a zero
        vector is 0.

    Returns
    -------
    distances : ndarray of float64, shape (n_queries, k)
        Nearest first, infinite where there are not k rows.
    ids : ndarray of int64, shape (n_queries, k)
        Equal distances in the order of their ids, -1 where there are not k rows.

    Examples
    --------
    >>> distances, ids = search([[0, 0], [3, 4], [0, 0]], [[0, 1]], 4, "l2")
    >>> distances.tolist(), ids.tolist()
    ([[1.0, 1.0, 18.0, inf]], [[0, 2, 1, -1]])
    """
    table = _distance_table(X, Q, metric)
    distances = np.full((len(table), k), np.inf)
    ids = np.full((len(table), k), -1, dtype=np.int64)
    for q, row in enumerate(table):
        order = np.argsort(row, kind="stable")[:k]  # stable: equal distances in id order
        distances[q, : len(order)] = row[order]
        ids[q, : len(order)] = order
    return distances, ids


def _distance_table(X: npt.ArrayLike, Q: npt.ArrayLike, metric: str) -> Doubles:
    """Return the distances of all queries (rows) to all vectors (columns)."""
    vectors, queries = np.asarray(X, np.float64), np.asarray(Q, np.float64)
    table = np.empty((len(queries), len(vectors)))
    if metric == "cosine":
        np.maximum(0.0, 1.0 - _unit(queries) @ _unit(vectors).T, out=table)
    elif metric == "ip":
        np.negative(queries @ vectors.T, out=table)
    elif metric == "l2":
        for q, query in enumerate(queries):
            table[q] = ((query - vectors) ** 2).sum(axis=1)
    else:
        raise ValueError(f"metric: expected 'l2', 'ip' or 'cosine', got {metric!r}")
    return table


def _unit(vectors: Doubles) -> Doubles:
    lengths = np.sqrt((vectors**2).sum(axis=1, keepdims=True))
    unit: Doubles = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return unit


def within(
    X: npt.ArrayLike, Q: npt.ArrayLike, radius: float, metric: str
) -> tuple[Longs, Doubles, Longs]:
    """Return all rows no farther than a radius from every query.

    Parameters
    ----------
    X, Q, metric
        As for `search`.
    radius : float

    Returns
    -------
    limits : ndarray of int64, shape (n_queries + 1,)
        The rows of query q are those from ``limits[q]`` up to ``limits[q + 1]``.
    distances : ndarray of float64, shape (limits[-1],)
        Nearest first for each query, equal ones in the order of their ids.
    ids : ndarray of int64, shape (limits[-1],)

    Examples
    --------
    >>> limits, distances, ids = within([[0], [3], [1]], [[0], [9]], 4.0, "l2")
    >>> limits.tolist(), distances.tolist(), ids.tolist()
    ([0, 2, 2], [0.0, 1.0], [0, 2])
    """
    distances, ids = search(X, Q, len(np.asarray(X)), metric)
    near = distances <= radius
    limits = np.concatenate(([0], np.cumsum(near.sum(axis=1))))
    return limits.astype(np.int64), distances[near], ids[near]


def product_bounds(
    codes: npt.ArrayLike,
    scales: npt.ArrayLike,
    residuals: npt.ArrayLike,
    tails: npt.ArrayLike,
    z: npt.ArrayLike,
    length: float,
) -> tuple[Doubles, Doubles]:
    """Bound the products of a query with rows of which some codes are known.

    Parameters
    ----------
    codes : array-like of int, shape (n, end)
        Of the first dimensions of every row.
    scales : array-like of float, shape (dim,)
        What a code of one stands for in each dimension.
    residuals : array-like of float, shape (n,)
        Not less than the length of what codes of all dimensions leave of a row, plus whatever
        else may be off, relative to the query's length.
    tails : array-like of float, shape (n,)
        Not less than the lengths of the rows behind their first `end` dimensions.
    z : array-like of float, shape (dim,)
        The query.
    length : float
        Not less than that of `z`.

    Returns
    -------
    lower, upper : ndarray of float64, shape (n,)

    Notes
    -----
    Let y be a row, s its coded part, r = y - s. In the dimensions read so far (h) and the others
    (t), <z, y> = <z_h, s_h> + <z_h, r_h> + <z_t, y_t>, and the last two are at most |z| |r| and
    |z_t| |y_t| in absolute value, by Cauchy and Schwarz.

    Examples
    --------
    >>> lower, upper = product_bounds([[2]], [0.5, 1], [0.25], [3], [4, 0.5], 5)
    >>> lower.tolist(), upper.tolist()
    ([1.25], [6.75])
    """
    known = np.asarray(codes, np.float64)
    query = np.asarray(z, np.float64)
    end = known.shape[1]
    products = known @ (np.asarray(scales, np.float64)[:end] * query[:end])
    rest = math.sqrt(float((query[end:] ** 2).sum()))
    width = length * np.asarray(residuals, np.float64) + rest * np.asarray(tails, np.float64)
    return products - width, products + width


def adsampling(
    X_rotated: npt.ArrayLike, q_rotated: npt.ArrayLike, k: int, eps0: float, delta: int
) -> tuple[Doubles, Longs, int]:
    """Return the nearest rows of one query as ADSampling finds them, one candidate after another.

    Parameters
    ----------
    X_rotated : array-like of float, shape (n, dim)
        Rows after a random rotation.
    q_rotated : array-like of float, shape (dim,)
        The query after the same rotation.
    k : int
    eps0 : float
        The larger, the fewer mistakes; infinite for none.
    delta : int
        Dimensions between two tests.

    Returns
    -------
    distances : ndarray of float64, shape (k,)
        Squared L2, nearest first, infinite where there are not k rows.
    ids : ndarray of int64, shape (k,)
    n_dimensions : int
        Dimensions looked at.

    Notes
    -----
    With d of D dimensions seen, ``sqrt(D / d)`` times the distance over those d estimates the
    whole; a candidate is given up when its estimate exceeds ``(1 + eps0 / sqrt(d)) r``, where r is
    the k-th best distance so far. By the paper's lemma the estimate of a candidate within r
    exceeds that with probability at most ``2 exp(-c eps0**2)``, for some constant c.

    References
    ----------
    J. Gao and C. Long, "High-dimensional approximate nearest neighbor search: with reliable and
    efficient distance comparison operations" (2023), algorithm 1.

    Examples
    --------
    >>> distances, ids, n_dimensions = adsampling([[0, 0], [9, 9], [1, 0]], [0, 0], 1, 0.0, 1)
    >>> distances.tolist(), ids.tolist(), n_dimensions
    ([0.0], [0], 4)
    """
    vectors, query = np.asarray(X_rotated, np.float64), np.asarray(q_rotated, np.float64)
    n, dim = vectors.shape
    best: list[tuple[float, int]] = []
    n_dimensions = 0
    for i in range(n):
        radius = math.sqrt(best[-1][0]) if len(best) == k else math.inf
        squares = (vectors[i] - query) ** 2
        seen, kept = 0, True
        while seen < dim and kept:
            seen = min(seen + delta, dim)
            estimate = math.sqrt(dim / seen * math.fsum(squares[:seen]))
            # Once all is seen the estimate is the distance itself, and no margin is needed.
            margin = 1.0 + eps0 / math.sqrt(seen) if seen < dim else 1.0
            kept = math.isinf(radius) or math.isinf(margin) or estimate <= margin * radius
        n_dimensions += seen
        if kept:
            best = sorted([*best, (math.fsum(squares), i)])[:k]
    distances, ids = np.full(k, np.inf), np.full(k, -1, dtype=np.int64)
    for place, (distance, row) in enumerate(best):
        distances[place], ids[place] = distance, row
    return distances, ids, n_dimensions


# ------------------------------------------------------------------------------------ clusters


def assign_points(
    X: npt.ArrayLike, C: npt.ArrayLike, metric: str
) -> tuple[npt.NDArray[np.int32], Doubles]:
    """Return the nearest centroid of every point, and how far it is.

    Parameters
    ----------
    X : array-like of float, shape (n, dim)
    C : array-like of float, shape (k, dim)
    metric : {"l2", "ip", "cosine"}
        As for `search`.

    Returns
    -------
    labels : ndarray of int32, shape (n,)
        The smallest number among equals.
    distances : ndarray of float64, shape (n,)

    Examples
    --------
    >>> labels, distances = assign_points([[0, 0], [4, 0]], [[1, 0], [3, 0]], "l2")
    >>> labels.tolist(), distances.tolist()
    ([0, 1], [1.0, 1.0])
    """
    table = _distance_table(C, X, metric)
    labels = np.argmin(table, axis=1)  # the first of equal ones
    return labels.astype(np.int32), table[np.arange(len(labels)), labels]


def cluster_sums(
    X: npt.ArrayLike, labels: npt.ArrayLike, weights: npt.ArrayLike | None, k: int
) -> tuple[Doubles, Doubles, Longs]:
    """Return the weighted sum, the total weight and the number of the points of every cluster.

    Parameters
    ----------
    X : array-like of float, shape (n, dim)
    labels : array-like of int, shape (n,)
    weights : array-like of float, shape (n,), optional
        1 for every point if None.
    k : int

    Returns
    -------
    sums : ndarray of float64, shape (k, dim)
        Point by point in their order, each product and each sum rounded once to float64.
    totals : ndarray of float64, shape (k,)
    counts : ndarray of int64, shape (k,)

    Examples
    --------
    >>> sums, totals, counts = cluster_sums([[1, 2], [3, 4]], [1, 1], [0.5, 2], 2)
    >>> sums.tolist(), totals.tolist(), counts.tolist()
    ([[0.0, 0.0], [6.5, 9.0]], [0.0, 2.5], [0, 2])
    """
    points = np.asarray(X, np.float64)
    sums, totals, counts = np.zeros((k, points.shape[1])), np.zeros(k), np.zeros(k, np.int64)
    share = np.ones(len(points)) if weights is None else np.asarray(weights, np.float64)
    for point, label, weight in zip(points, np.asarray(labels).tolist(), share, strict=True):
        sums[label] += weight * point
        totals[label] += weight
        counts[label] += 1
    return sums, totals, counts


def lloyd(
    X: npt.ArrayLike, C0: npt.ArrayLike, metric: str, max_iter: int
) -> tuple[Doubles, npt.NDArray[np.int32], float, int]:
    """Return the k-means clustering that Lloyd's iteration reaches from given centroids.

    Parameters
    ----------
    X : array-like of float, shape (n, dim)
    C0 : array-like of float, shape (k, dim)
        Centroids to start from.
    metric : {"l2", "ip", "cosine"}
        For ``"l2"`` a centroid is the mean of its points. For ``"ip"`` and ``"cosine"`` it is
        their sum scaled to length one (spherical k-means), without which the objective has no
        bound; ``"cosine"`` scales the points first.
    max_iter : int
        Updates of the centroids, at most.

    Returns
    -------
    centroids : ndarray of float64, shape (k, dim)
        A cluster without points, or whose points cancel out, keeps its centroid.
    labels : ndarray of int32, shape (n,)
        The nearest of `centroids` for every point.
    inertia : float
        Sum of the distances to them.
    n_iter : int
        Updates made; less than `max_iter` if the labels stopped changing.

    References
    ----------
    S. P. Lloyd, "Least squares quantization in PCM" (1982); I. S. Dhillon and D. S. Modha,
    "Concept decompositions for large sparse text data using clustering" (2001).

    Examples
    --------
    >>> centroids, labels, inertia, n_iter = lloyd([[0], [1], [9]], [[0], [1]], "l2", 10)
    >>> centroids.tolist(), labels.tolist(), inertia, n_iter
    ([[0.5], [9.0]], [0, 0, 1], 0.5, 2)
    """
    points, centroids = np.array(X, np.float64), np.array(C0, np.float64)
    if metric == "cosine":
        points, centroids = _unit(points), _unit(centroids)
    labels, distances = assign_points(points, centroids, metric)
    n_iter = 0
    while n_iter < max_iter:
        n_iter += 1
        for j in range(len(centroids)):
            members = points[labels == j]
            if len(members) == 0:
                continue
            if metric == "l2":
                centroids[j] = members.mean(axis=0)
            else:
                total = members.sum(axis=0)
                length = math.sqrt(float(total @ total))
                centroids[j] = total / length if length > 0 else centroids[j]
        before = labels
        labels, distances = assign_points(points, centroids, metric)
        if np.array_equal(labels, before):
            break
    return centroids, labels, math.fsum(distances), n_iter


# --------------------------------------------------------------------------------------- lanes


_TAGS = {"permute": 1, "stratified": 2, "owner": 3}


def k_dedicated(alpha: float, k_lane: int) -> int:
    """Return how many of a lane's candidates no other lane has.

    Parameters
    ----------
    alpha : float
        From 0, all lanes score the same, to 1, no two lanes score the same.
    k_lane : int
        Candidates of a lane.

    Returns
    -------
    int
        ``alpha * k_lane`` rounded to nearest, halves up.

    Examples
    --------
    >>> k_dedicated(0.5, 5)
    3
    """
    return math.floor(alpha * k_lane + 0.5)


def share_below(alpha: float, n_lanes: int) -> int:
    """Return the threshold on a PRF word under which the owner scheme shares a candidate.

    Parameters
    ----------
    alpha : float
        As for `k_dedicated`.
    n_lanes : int

    Returns
    -------
    int
        From 0 to 2**64. A share p of the candidates goes to every lane and the rest to one of
        n_lanes each, so a lane's dedicated part is ``alpha = ((1 - p) / n_lanes) / (p + (1 - p) /
        n_lanes)``; solved for p.

    Examples
    --------
    >>> share_below(1.0, 4), share_below(0.0, 4) == 2**64, share_below(0.5, 1) == 2**63
    (0, True, True)
    """
    p = (1.0 - alpha) / (1.0 - alpha + alpha * n_lanes)
    return int(p * 2**64)


def plan(
    pool: npt.ArrayLike,
    keys: npt.ArrayLike,
    scheme: str,
    n_lanes: int,
    k_lane: int,
    alpha: float = 1.0,
    head: int = 0,
) -> tuple[Longs, npt.NDArray[np.int32]]:
    """Return which lane scores which candidate, in plain Python.

    Parameters
    ----------
    pool : array-like of int64, shape (n_queries, k_pool)
        Candidates of each query in rank order; -1 is none.
    keys : array-like of uint64, shape (n_queries, 2)
    scheme : {"permute", "stratified", "owner"}
        ``"permute"``: the candidates within the total budget in the order of (PRF, id); the first
        ``k_lane - k_dedicated`` go to every lane, the rest round the lanes. ``"stratified"``: the
        best ranks go to every lane, each further run of `n_lanes` ranks is dealt in a random order
        of its own. ``"owner"``: each candidate's PRF names its lane, or all lanes.
    n_lanes, k_lane : int
        Lanes, and candidates of a lane at most.
    alpha : float, default 1.0
        As for `k_dedicated`.
    head : int, default 0
        Ranks below this are scored by the next lane too.

    Returns
    -------
    lanes : ndarray of int64, shape (n_queries, n_lanes, k_lane)
        Each lane's candidates, best rank first, then -1. A full lane takes no more.
    counts : ndarray of int32, shape (n_queries, n_lanes)

    Raises
    ------
    ValueError
        If a pool holds an id twice.

    Examples
    --------
    >>> lanes, counts = plan([[7, 5, 3, 1, -1]], [[1, 2]], "stratified", 2, 2)
    >>> lanes.tolist(), counts.tolist()
    ([[[5, 1], [7, 3]]], [[2, 2]])
    """
    pools = np.asarray(pool, np.int64).tolist()
    key_words = np.asarray(keys, np.uint64).tolist()
    lanes = np.full((len(pools), n_lanes, k_lane), -1, dtype=np.int64)
    counts = np.zeros((len(pools), n_lanes), dtype=np.int32)
    for q, (candidates, key) in enumerate(zip(pools, key_words, strict=True)):
        ids = [i for i in candidates if i >= 0]
        if len(set(ids)) < len(ids):
            raise ValueError(f"pool: an id stands twice in row {q}")
        for r, lane in enumerate(_plan_one(ids, key, scheme, n_lanes, k_lane, alpha, head)):
            lanes[q, r, : len(lane)] = lane
            counts[q, r] = len(lane)
    return lanes, counts


def _plan_one(
    ids: list[int],
    key: Sequence[int],
    scheme: str,
    n_lanes: int,
    k_lane: int,
    alpha: float,
    head: int,
) -> list[list[int]]:
    dedicated = k_dedicated(alpha, k_lane)
    shared = k_lane - dedicated
    if scheme == "permute":
        owner = _permute(ids[: n_lanes * k_lane], key, n_lanes, shared, dedicated)
    elif scheme == "stratified":
        owner = _stratify(ids, key, n_lanes, shared, dedicated)
    elif scheme == "owner":
        owner = _own(ids, key, n_lanes, share_below(alpha, n_lanes))
    else:
        raise ValueError(f"scheme: expected one of {', '.join(_TAGS)}, got {scheme!r}")
    lanes: list[list[int]] = [[] for _ in range(n_lanes)]
    for rank, i in enumerate(ids):
        if i not in owner:
            continue
        first = owner[i]
        if first is None:
            takers = list(range(n_lanes))
        elif rank < head and n_lanes > 1:
            takers = [first, (first + 1) % n_lanes]
        else:
            takers = [first]
        for lane in takers:
            if len(lanes[lane]) < k_lane:
                lanes[lane].append(i)
    return lanes


# The three schemes: id -> lane, or None for all lanes; an id that nobody scores is left out.


def _permute(
    ids: list[int], key: Sequence[int], n_lanes: int, shared: int, dedicated: int
) -> dict[int, int | None]:
    order = sorted(ids, key=lambda i: (_threefry(key[0], key[1], i, _TAGS["permute"])[0], i))
    owner: dict[int, int | None] = dict.fromkeys(order[:shared])
    for turn, i in enumerate(order[shared : shared + n_lanes * dedicated]):
        owner[i] = turn % n_lanes
    return owner


def _stratify(
    ids: list[int], key: Sequence[int], n_lanes: int, shared: int, dedicated: int
) -> dict[int, int | None]:
    owner: dict[int, int | None] = dict.fromkeys(ids[:shared])
    dealt = ids[shared : shared + n_lanes * dedicated]
    for begin in range(0, len(dealt), n_lanes):
        # Fisher-Yates from the last place down, with 32 bits of the PRF for each step.
        lanes = list(range(n_lanes))
        words: list[int] = []
        for step, last in enumerate(range(n_lanes - 1, 0, -1)):
            if step % 4 == 0:
                tag = _TAGS["stratified"] | step // 4 << 8
                word0, word1 = _threefry(key[0], key[1], begin // n_lanes, tag)
                words = [word0 % 2**32, word0 >> 32, word1 % 2**32, word1 >> 32]
            other = words[step % 4] * (last + 1) >> 32
            lanes[last], lanes[other] = lanes[other], lanes[last]
        owner.update(zip(dealt[begin : begin + n_lanes], lanes, strict=False))
    return owner


def _own(ids: list[int], key: Sequence[int], n_lanes: int, threshold: int) -> dict[int, int | None]:
    owner: dict[int, int | None] = {}
    for i in ids:
        word0, word1 = _threefry(key[0], key[1], i, _TAGS["owner"])
        owner[i] = None if word1 < threshold else word0 * n_lanes >> 64
    return owner


def graph_search(
    links: Sequence[Sequence[Sequence[int]]],
    enter: int,
    distances: npt.ArrayLike,
    k: int,
    ef: int,
    allowed: Collection[int] | None = None,
    left: Callable[[int, float], bool] = lambda element, bound: False,
) -> tuple[list[int], dict[str, int]]:
    """Search an HNSW graph as its paper has it (Malkov & Yashunin 2018, algorithms 2 and 5).

    Parameters
    ----------
    links : sequence of sequences of sequences of int
        ``links[i][l]`` are the neighbours of element i on level l; it has as many levels as lists.
    enter : int
        Element where the search begins, on its own highest level.
    distances : array-like of float, shape (n,)
        Of every element to the query, all different.
    k, ef : int
    allowed : collection of int, optional
        Elements that may be answered; all are walked through.
    left : callable, optional
        Whether an element is given up as beyond a bound: the nearest so far above level 0, and on
        it the ef-th when a list is read, if there are as many.

    Returns
    -------
    ids : list of int
        At most k, nearest first.
    stats : dict
        ``hops``, lists read above level 0; ``expanded``, those read on it; ``distances`` asked for.

    Examples
    --------
    >>> graph_search([[[1]], [[0, 2]], [[1]]], 0, [3.0, 2.0, 1.0], k=1, ef=2)
    ([2], {'hops': 0, 'expanded': 3, 'distances': 3})
    """
    far = np.asarray(distances).tolist()
    now, hops, asked = enter, 0, 1
    for level in range(len(links[enter]) - 1, 0, -1):
        while True:
            around = links[now][level]
            hops, asked = hops + 1, asked + len(around)
            kept = [i for i in around if not left(i, far[now])]
            nearest = min([now, *kept], key=far.__getitem__)
            if nearest == now:
                break
            now = nearest
    seen = {now}
    waiting = [now]
    found = [i for i in waiting if allowed is None or i in allowed]
    expanded = 0
    while waiting:
        now = min(waiting, key=far.__getitem__)
        if len(found) == ef and far[now] > far[found[-1]]:
            break
        waiting.remove(now)
        expanded += 1
        fresh = [i for i in links[now][0] if i not in seen]
        asked += len(fresh)
        seen.update(fresh)
        if len(found) == ef:
            bound = far[found[-1]]
            fresh = [i for i in fresh if not left(i, bound)]
        for i in fresh:
            if len(found) < ef or far[i] < far[found[-1]]:
                waiting.append(i)
                if allowed is None or i in allowed:
                    found = sorted([*found, i], key=far.__getitem__)[:ef]
    return found[:k], {"hops": hops, "expanded": expanded, "distances": asked}


def maxsim(query: npt.ArrayLike, document: npt.ArrayLike) -> float:
    """Return the late-interaction distance of a document to a query.

    Parameters
    ----------
    query : array-like of float, shape (n_query_tokens, dim)
    document : array-like of float, shape (n_tokens, dim)

    Returns
    -------
    float
        Minus the sum, over the tokens of the query, of the largest inner product with a token of
        the document.

    References
    ----------
    O. Khattab and M. Zaharia, "ColBERT: efficient and effective passage search via contextualized
    late interaction over BERT", SIGIR 2020, equation 3.

    Examples
    --------
    >>> maxsim([[3, 1], [-1, 5]], [[1, 0], [0, 2]])
    -13.0
    """
    total = 0.0
    for token in np.asarray(query, np.float64):
        total += max(math.fsum(token * other) for other in np.asarray(document, np.float64))
    return -total


def merge(distances: npt.ArrayLike, ids: npt.ArrayLike, k: int) -> tuple[Doubles, Longs]:
    """Return the k best of what several lanes found.

    Parameters
    ----------
    distances : array-like of float, shape (n_queries, ...)
    ids : array-like of int, shape of `distances`
        Any number of lists for each query, in any order; -1 is none. An id may stand in several
        lists and then counts once, with the smallest of its distances.
    k : int

    Returns
    -------
    distances : ndarray of float64, shape (n_queries, k)
        Nearest first, infinite where there are not k.
    ids : ndarray of int64, shape (n_queries, k)
        Equal distances in the order of their ids, -1 where there are not k.

    Examples
    --------
    >>> distances, ids = merge([[[1, 3], [1, 2]]], [[[4, 5], [4, 6]]], 4)
    >>> distances.tolist(), ids.tolist()
    ([[1.0, 2.0, 3.0, inf]], [[4, 6, 5, -1]])
    """
    values, names = np.asarray(distances, np.float64), np.asarray(ids, np.int64)
    merged = np.full((len(values), k), np.inf)
    merged_ids = np.full((len(values), k), -1, dtype=np.int64)
    for q in range(len(values)):
        best: dict[int, float] = {}
        for value, i in zip(values[q].ravel().tolist(), names[q].ravel().tolist(), strict=True):
            if i >= 0:
                best[i] = min(value, best.get(i, math.inf))
        order = sorted(best, key=lambda i: (best[i], i))[:k]
        merged[q, : len(order)] = [best[i] for i in order]
        merged_ids[q, : len(order)] = order
    return merged, merged_ids


def pairwise_jaccard(sets: Sequence[Collection[int]]) -> float:
    """Return the mean Jaccard index over all pairs of sets.

    Parameters
    ----------
    sets : sequence of collections of int
        What each lane scored; -1 is none.

    Returns
    -------
    float
        From 0, no two lanes have a candidate in common, to 1, all have the same. Two empty sets
        have nothing in common; without a pair it is 0.

    References
    ----------
    P. Jaccard, "The distribution of the flora in the Alpine zone" (1912).

    Examples
    --------
    >>> pairwise_jaccard([{1, 2}, {2, 3}, {3, 1}])
    0.3333333333333333
    """
    clean = [set(s) - {-1} for s in sets]
    pairs = [(a, b) for i, a in enumerate(clean) for b in clean[:i]]
    if not pairs:
        return 0.0
    return math.fsum(len(a & b) / max(1, len(a | b)) for a, b in pairs) / len(pairs)


def mway_jaccard(sets: Sequence[Collection[int]]) -> float:
    """Return the share of all candidates that every lane has.

    Parameters
    ----------
    sets : sequence of collections of int
        What each lane scored; -1 is none.

    Returns
    -------
    float
        Size of the intersection over the size of the union of all sets; 0 if all are empty or
        there are fewer than two.

    Examples
    --------
    >>> mway_jaccard([{1, 2}, {2, 3}, {3, 1}]), mway_jaccard([{1, 2}, {2, 3}])
    (0.0, 0.3333333333333333)
    """
    clean = [set(s) - {-1} for s in sets]
    if len(clean) < 2:
        return 0.0
    return len(set.intersection(*clean)) / max(1, len(set.union(*clean)))


def recall(found_ids: npt.ArrayLike, true_ids: npt.ArrayLike, k: int) -> float:
    """Return the share of the true k nearest neighbours that were found among k.

    Parameters
    ----------
    found_ids : array-like of int, shape (n_queries, at least k)
    true_ids : array-like of int, shape (n_queries, at least k)
        -1 is none, in both.
    k : int

    Returns
    -------
    float
        Over all queries together; 1 if there is nothing to find.

    Examples
    --------
    >>> recall([[1, 2, 9]], [[2, 3, 1]], 2)
    0.5
    """
    hits = wanted = 0
    found_rows, true_rows = np.asarray(found_ids, np.int64), np.asarray(true_ids, np.int64)
    for found, true in zip(found_rows[:, :k].tolist(), true_rows[:, :k].tolist(), strict=True):
        hits += len((set(found) & set(true)) - {-1})
        wanted += len(set(true) - {-1})
    return hits / wanted if wanted else 1.0


# -------------------------------------------------------------------------------- error bounds


def gamma(n: int) -> float:
    """Return Higham's gamma_n: how far a product of n roundings may be from 1.

    Parameters
    ----------
    n : int
        Number of factors (1 + delta) or 1 / (1 + delta), each ``|delta| <= 2**-24``.

    Returns
    -------
    float
        ``n u / (1 - n u)``.

    References
    ----------
    N. J. Higham, "Accuracy and stability of numerical algorithms" (2002), lemma 3.1.

    Examples
    --------
    >>> gamma(1) == 2**-24 / (1 - 2**-24)
    True
    """
    return n * UNIT / (1.0 - n * UNIT)


def chain_error(n_terms: int, magnitude: npt.ArrayLike, *, roundings: int = 0) -> Doubles:
    """Bound the error of one chain of fused multiply-adds in float32.

    Parameters
    ----------
    n_terms : int
        Length of the chain.
    magnitude : array-like of float
        ``|start| + sum |a_i b_i|``, in exact arithmetic.
    roundings : int, default 0
        Roundings that each term's operands carry already, together: 2 for the square of a rounded
        difference.

    Returns
    -------
    ndarray of float64, shape of `magnitude`

    Notes
    -----
    A step is s_i = (s_(i-1) + a_i b_i)(1 + delta_i) + eta_i, with ``|delta_i| <= 2**-24``, and
    ``|eta_i| <= 2**-150`` if the result is subnormal (then delta_i = 0). Unrolled, the start and
    every term carry at most n_terms factors (1 + delta), and a term `roundings` more: that is at
    most ``gamma(n_terms + roundings)`` times the magnitude. Every eta is carried by fewer than
    n_terms factors, less than 2 together.

    Examples
    --------
    >>> bool(chain_error(10, 1.0) >= 10 * 2**-24)
    True
    """
    relative = gamma(n_terms + roundings) * np.asarray(magnitude, np.float64)
    return np.asarray(relative + 2 * n_terms * UNDERFLOW, np.float64)


def row_error(dim: int, magnitude: npt.ArrayLike, metric: str) -> Doubles:
    """Bound the error of the canonical distance of a row.

    Parameters
    ----------
    dim : int
    magnitude : array-like of float
        Sum over the dimensions of ``(q_d - x_d)**2`` for ``"l2"``, of ``|q_d x_d|`` for ``"ip"``.
    metric : {"l2", "ip"}

    Returns
    -------
    ndarray of float64, shape of `magnitude`

    Notes
    -----
    Sixteen chains of ``ceil(dim / 16)`` fused multiply-adds, then a tree of four additions: every
    term passes at most ``ceil(dim / 16) + 4`` roundings; for L2 the difference is rounded once
    and enters twice. (Multiplying by zeros behind the last dimension is exact.) A sum of floats
    never underflows, so only the chains add absolute errors, at most dim + 16 of them.

    Examples
    --------
    >>> bool(row_error(960, 1.0, "ip") < 65 * 2**-24)
    True
    """
    depth = -(-dim // _LANES) + 4 + (2 if metric == "l2" else 0)
    relative = gamma(depth) * np.asarray(magnitude, np.float64)
    return np.asarray(relative + 2 * (dim + _LANES) * UNDERFLOW, np.float64)


def project_error(dim: int, magnitude: npt.ArrayLike) -> Doubles:
    """Bound the error of each coordinate on given axes.

    Parameters
    ----------
    dim : int
    magnitude : array-like of float
        ``sum |axis_d x_d|``.

    Returns
    -------
    ndarray of float64, shape of `magnitude`

    Notes
    -----
    A chain of fused multiply-adds over 64 dimensions, then one addition for each further chain:
    every term passes at most ``min(dim, 64) + ceil(dim / 64) - 1`` roundings. A sum of floats
    never underflows, so only the chains add absolute errors.

    Examples
    --------
    >>> bool(project_error(960, 1.0) < 80 * 2**-24)
    True
    """
    roundings = min(dim, _CHAIN) + -(-dim // _CHAIN) - 1
    relative = gamma(roundings) * np.asarray(magnitude, np.float64)
    return np.asarray(relative + 2 * dim * UNDERFLOW, np.float64)


def maxsim_error(query: npt.ArrayLike, document: npt.ArrayLike) -> float:
    """Bound the error of a late-interaction distance.

    Parameters
    ----------
    query : array-like of float, shape (n_query_tokens, dim)
    document : array-like of float, shape (n_tokens, dim)

    Returns
    -------
    float

    Notes
    -----
    A product is one chain over the dimensions, and a maximum is no farther off than the worst of
    what it is taken of. Maxima are added up in double, which is off by less than a float32
    rounding of their magnitudes as long as there are fewer than 2**28 tokens, and the sum is
    rounded to float32.

    Examples
    --------
    >>> maxsim_error([[1.0, 0.0]], [[1.0, 0.0]]) < 5 * 2**-24
    True
    """
    magnitudes = np.abs(np.asarray(query, np.float64)) @ np.abs(np.asarray(document, np.float64)).T
    errors = chain_error(np.shape(query)[1], magnitudes).max(axis=1)
    total = float(magnitudes.max(axis=1).sum() + errors.sum())
    return float(errors.sum()) + 2 * UNIT * total + UNDERFLOW


def distortion(axes: npt.ArrayLike) -> float:
    """Bound how far axes that are not quite orthonormal, and rounding, distort products.

    Parameters
    ----------
    axes : array-like of float32, shape (dim, dim)

    Returns
    -------
    float
        For any a and b whose differences from a centre are rounded to float32 and then projected,
        the product of the results is off by at most this times ``|a| |b|``, unless something
        underflows.

    Notes
    -----
    Rounding moves a by at most ``u |a|``. The axes M multiply products by ``M^T M``, whose
    distance from the identity is at most its Frobenius norm F, the same for ``M M^T``, and lengths
    by at most ``sqrt(1 + F)``. By `project_error`, projecting moves a by no more than
    ``g |M| |a|``, of length at most ``g sqrt(dim (1 + F)) |a|``, because the Frobenius norm of M
    is the square root of the trace of ``M M^T``.

    Examples
    --------
    >>> 0 < distortion(np.eye(4)) < 20 * 2**-24
    True
    """
    matrix = np.asarray(axes, np.float32).astype(np.float64)
    dim = len(matrix)
    defect = float(np.linalg.norm(matrix @ matrix.T - np.eye(dim)))
    stretch = math.sqrt(1.0 + defect)
    moved = float(project_error(dim, 1.0)) * math.sqrt(dim) * stretch
    rounded = (1.0 + UNIT) ** 2
    return rounded * (defect + 2.0 * moved * stretch + moved**2) + rounded - 1.0


def fwht_error(log2_dim: int, magnitude: npt.ArrayLike) -> Doubles:
    """Bound the error of each coordinate of a Walsh-Hadamard transform.

    Parameters
    ----------
    log2_dim : int
    magnitude : array-like of float
        ``sum |weights_d x_d|``.

    Returns
    -------
    ndarray of float64, shape of `magnitude`

    Notes
    -----
    Each output is a sum of all products with signs. A term is rounded once when multiplied, and
    once in each of the log2_dim stages of additions. The 2**log2_dim products may underflow.

    Examples
    --------
    >>> bool(fwht_error(0, 1.0) >= 2**-24)
    True
    """
    relative = gamma(log2_dim + 1) * np.asarray(magnitude, np.float64)
    return np.asarray(relative + 2 * 2**log2_dim * UNDERFLOW, np.float64)


def rotation_error(dim: int, norm: npt.ArrayLike, *, n_rounds: int = 3) -> Doubles:
    """Bound the length of the error of a rotated vector.

    Parameters
    ----------
    dim : int
    norm : array-like of float
        Length of the vector.
    n_rounds : int, default 3

    Returns
    -------
    ndarray of float64, shape of `norm`
        Of the vector (computed - exact), where exact means the orthogonal matrix whose weights are
        exactly sign over the square root of the transform's length.

    Notes
    -----
    An operation on all coordinates that rounds each once moves the vector by at most 2**-24 of its
    length. In a round the weights were rounded when they were stored and the products are rounded
    when they are made; then each of the ``floor(log2(dim))`` stages of the longest transform is
    such an operation. All in between is orthogonal up to a known scale and passes relative errors
    on as they are: together ``gamma(n_rounds * (floor(log2(dim)) + 2))``. Products may underflow:
    ``2**-150`` in each of dim coordinates, of length ``sqrt(dim) 2**-150``, which the transform
    behind the multiplication stretches by no more than ``sqrt(dim)``.

    Examples
    --------
    >>> bool(rotation_error(128, 1.0) < 28 * 2**-24)
    True
    """
    roundings = n_rounds * (dim.bit_length() - 1 + 2)
    absolute = 2 * n_rounds * dim * UNDERFLOW
    return np.asarray(gamma(roundings) * np.asarray(norm, np.float64) + absolute, np.float64)
