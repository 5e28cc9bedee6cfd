"""How rows become byte codes: axes, steps and scales, learned from a sample of the rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from lanewise import _native
from lanewise.arrays import Numbers
from lanewise.kernels import Kernels

__all__ = [
    "CodePlan",
    "centered_sample",
    "learn",
    "measured",
    "packed",
    "principal_axes",
    "worth_axes",
]

Floats = npt.NDArray[np.float32]

_LANES = 16
_MAX_AXES_DIM = 2_048  # learned axes cost dim^2 a row
_SAMPLE = 16_384
_TRIALS = 16
# Cost of work on a row apart from the others, in bytes read in sequence, as measured.
_APART = 1280
_BESIDE = 8  # bytes that the front's bound reads of a row
_LOOK = 64  # what reading on costs a row of a group beside the bytes, as measured
_SHARED = 20  # how much less the front costs in a batch
_UNIT = 2.0**-24
_CERTAIN = np.array([[1.0, 0.0]])


@dataclass(frozen=True, eq=False)
class CodePlan:
    """Axes, steps and scales of byte codes, as the native module takes them.

    Attributes
    ----------
    n_front : int
        Dimensions that every candidate's first pass reads.
    n_front_steps : int
    ends : ndarray of uint32, shape (n_steps,)
        Dimensions after which candidates are dropped; the front's steps first.
    center : ndarray of float32, shape (dim,)
    panels : ndarray of float32, shape (ceil(dim / 16), dim, 16), or None
        Axes, sixteen in a panel; None if they are the coordinates.
    distortion : float
        Bound of the error of a product on the computed axes, relative to the lengths.
    scales : ndarray of float32, shape (dim,)
        Step of each dimension's code.
    front_length, body_length : float
        Lengths of a typical row's codes, in the front and behind it, in lengths of its residual.
    residual : float
        Residual of a typical row.
    neighbors : ndarray of float64, shape (n_steps, 2)
        Mean and standard deviation of the cosine between the tails of a query and a neighbour that
        a likely bound must allow to keep the neighbour; 1 and 0 until it is measured.
    body_bits : {8, 4}
        Bits of a code behind the front.
    """

    n_front: int
    n_front_steps: int
    ends: npt.NDArray[np.uint32]
    center: Floats
    panels: Floats | None
    distortion: float
    scales: Floats
    front_length: float
    body_length: float
    residual: float
    neighbors: npt.NDArray[np.float64]
    body_bits: int

    @cached_property
    def native(self) -> _native.CodePlan:
        """The plan as the drivers take it."""
        return _native.CodePlan(
            self.n_front,
            self.n_front_steps,
            self.ends,
            self.center,
            self.panels,
            self.distortion,
            self.scales,
            self.front_length,
            self.body_length,
            self.residual,
            self.neighbors,
            self.body_bits,
        )

    @property
    def front_widths(self) -> list[int]:
        """Dimensions of each of the front's steps."""
        return [int(width) for width in np.diff(self.ends[: self.n_front_steps], prepend=0)]

    @property
    def rotation(self) -> str | None:
        """Name of the axes."""
        return None if self.panels is None else "pca"

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        arrays = (self.ends, self.center, self.panels, self.scales, self.neighbors)
        return sum(array.nbytes for array in arrays if array is not None)


def learn(
    rows: Numbers, rotation: str | None, body_bits: int, kernels: Kernels, n_threads: int
) -> CodePlan:
    """Choose axes, scales and steps for rows.

    Parameters
    ----------
    rows : ndarray of float32, uint8 or int8, shape (n, dim), n > 0
    rotation : {"auto", "pca", None}
        Principal axes put the largest part of a distance into the first dimensions, so that a scan
        can stop early; where all directions are alike they gain nothing, and "auto" measures that
        on a sample.
    body_bits : {8, 4}
    kernels : Kernels
    n_threads : int

    Returns
    -------
    CodePlan
        Any plan gives the same exact answers; they differ in speed only.
    """
    n, dim = rows.shape
    sample, center = centered_sample(rows)
    candidates: list[tuple[Floats | None, float]] = []
    if rotation != "pca":
        candidates.append((None, 0.0))
    if worth_axes(rotation, n, dim):
        candidates.append(principal_axes(sample, center))
    plans = [_plan(sample, n, center, *axes, body_bits, kernels, n_threads) for axes in candidates]
    return min(plans, key=lambda plan: plan[0])[1]


def centered_sample(rows: Numbers) -> tuple[Floats, Floats]:
    """Return some rows to learn from, and their mean."""
    # Every so-many-th row: rows that were added together lie together.
    some = rows[:: max(1, len(rows) // _SAMPLE)][:_SAMPLE]
    sample = np.ascontiguousarray(some, dtype=np.float32)
    return sample, sample.mean(axis=0, dtype=np.float64).astype(np.float32)


def worth_axes(rotation: str | None, n: int, dim: int) -> bool:
    """Whether to learn axes from n rows, if only to see what they gain."""
    return rotation == "pca" or (rotation == "auto" and dim <= _MAX_AXES_DIM and n >= 256)


def principal_axes(sample: Floats, center: Floats) -> tuple[Floats, float]:
    """Axes of falling variance, and the error bound of products on them."""
    dim = len(center)
    centred = sample.astype(np.float64) - center
    scatter = centred.T @ centred
    _, vectors = np.linalg.eigh(scatter / max(float(np.trace(scatter)), 1e-300))
    axes = np.ascontiguousarray(vectors[:, ::-1].T).astype(np.float32)
    exact = axes.astype(np.float64)
    # Rounded axes are not quite orthonormal: the Frobenius norm bounds what that does to a product.
    defect = float(np.linalg.norm(exact @ exact.T - np.eye(dim)))
    # Sums of kChain products, then of chains (project.cpp), of absolute values whose vector is at
    # most sqrt(dim) |x| long; twice, for the row and for the query.
    chain = (64 + dim / 64 + 3) * _UNIT * math.sqrt(dim) * (1 + defect)
    return axes, (defect + 2.1 * chain + 4 * _UNIT) * 1.01


def _plan(
    sample: Floats,
    n: int,
    center: Floats,
    axes: Floats | None,
    distortion: float,
    body_bits: int,
    kernels: Kernels,
    n_threads: int,
) -> tuple[float, CodePlan]:
    """Return the expected bytes read per row, and the plan."""
    dim = len(center)
    scales = np.ones(dim, dtype=np.float32)
    whole = -(-dim // 4) * 4
    panels = None if axes is None else packed(axes)
    ends = np.array([whole], dtype=np.uint32)
    trivial = _native.CodePlan(
        whole, 1, ends, center, panels, distortion, scales, 1.0, 1.0, 0.0, _CERTAIN
    )
    Y = np.empty_like(sample)
    trivial.project(kernels, sample, Y, n_threads)

    spread = np.sqrt((Y.astype(np.float64) ** 2).mean(axis=0))
    largest = np.abs(Y).max(axis=0)
    length2 = float((Y.astype(np.float64) ** 2).sum(axis=1).mean())
    # Rounding to steps of s leaves a twelfth of s^2.
    expected = np.sqrt((np.minimum(largest, 6 * spread) ** 2).sum() / 127**2 / 12)
    front, body, cost = _steps(
        Y, n, float(expected) + distortion * math.sqrt(length2), whole, body_bits
    )
    n_front = front[-1]
    ends = np.array([*front, *body], dtype=np.uint32)

    # Outliers are clipped, and pay for it by a longer residual: of four bits many are, to keep the
    # steps of all others small.
    scales = np.minimum(largest, 6 * spread) / 127
    top = np.full(dim, 127.0)
    if body_bits == 4:
        scales[n_front:] = np.minimum(largest, 2.7 * spread)[n_front:] / 7
        top[n_front:] = 7
    scales = scales.astype(np.float32)
    scales[~(scales > np.finfo(np.float32).tiny)] = 0.0
    codes = np.zeros_like(Y)
    np.divide(Y, scales, out=codes, where=scales > 0)
    codes = np.clip(np.rint(codes), -top, top)
    residual = np.sqrt(((Y - codes * scales) ** 2).sum(axis=1).mean())
    residual += distortion * math.sqrt(length2)

    def length(part: npt.NDArray[Any]) -> float:
        return max(float(np.sqrt((part**2).sum(axis=1).mean())) / max(float(residual), 1e-30), 1.0)

    plan = CodePlan(
        n_front,
        len(front),
        ends,
        center,
        panels,
        distortion,
        scales,
        length(codes[:, :n_front]),
        length(codes[:, n_front:]),
        float(residual),
        np.repeat(_CERTAIN, len(ends), axis=0),
        body_bits,
    )
    # Projecting a query reads all axes, which counts for each row of a small index.
    return cost + (0.0 if axes is None else axes.nbytes / n), plan


def packed(axes: Floats) -> Floats:
    """Pack the rows of a matrix into panels of sixteen."""
    dim = axes.shape[1]
    padded = np.zeros((-(-len(axes) // _LANES) * _LANES, dim), dtype=np.float32)
    padded[: len(axes)] = axes
    return np.ascontiguousarray(padded.reshape(-1, _LANES, dim).transpose(0, 2, 1))


def _body_steps(n_front: int, whole: int, bits: int) -> list[int]:
    """Return the steps behind the front: one line of 64 bytes, four, sixteen, the rest."""
    steps, line = [], 64 * 8 // bits
    length = line
    # A step saves nothing if what follows it lies in a line that it reads, or in the next.
    while n_front + length + line // 2 < whole:
        steps.append(n_front + length)
        length *= 4
    return [*steps, whole] if n_front < whole else []


def _steps(
    Y: Floats, n: int, residual: float, whole: int, body_bits: int
) -> tuple[list[int], list[int], float]:
    """Choose the steps of the front and behind it: those that make a query read least.

    Some rows of the sample play queries; their nearest rows in the sample give the bound, as
    rare among the others as the ten nearest are in the whole.
    """
    if len(Y) < 5 * _TRIALS:
        return [whole], [], float(whole)
    Z, Y = Y[:: len(Y) // _TRIALS][:_TRIALS], Y[1:]
    m, dim = Y.shape
    grid = sorted({min(whole, 4 * round(d / 4)) for d in _grid(whole)})
    norms = (Y.astype(np.float64) ** 2).sum(axis=1)[:, np.newaxis]
    lengths = (Z.astype(np.float64) ** 2).sum(axis=1)
    exact = norms + lengths - 2 * (Y @ Z.T).astype(np.float64)
    rank = min(m - 1, max(1, round(10 * m / n)))  # the nearest of all is the query itself
    bound = np.partition(exact, rank, axis=0)[rank]
    near = np.argpartition(exact, 11, axis=0)[1:11]
    coded = 2 * residual * np.sqrt(lengths)
    certain, groups, likely_groups = (np.empty(len(grid)) for _ in range(3))
    product = np.zeros_like(exact)
    tail2, query_tail2 = norms.copy(), lengths.copy()
    begin = 0
    for i, end in enumerate(grid):
        y, z = Y[:, begin : min(end, dim)], Z[:, begin : min(end, dim)]
        product += y @ z.T
        tail2 -= (y.astype(np.float64) ** 2).sum(axis=1, keepdims=True)
        query_tail2 -= (z.astype(np.float64) ** 2).sum(axis=1)
        tails = np.sqrt(np.maximum(tail2, 0) * np.maximum(query_tail2, 0))
        distance = norms + lengths - 2 * product
        needed = (distance - bound) / np.maximum(2 * tails, 1e-30)
        needed = np.maximum(np.take_along_axis(needed, near, axis=0), 0)
        cosine = min(1.0, max(0.0, float(needed.mean() + 3 * needed.std())))
        left = (distance - 2 * tails - coded < bound).mean(axis=0)
        likely_left = (distance - 2 * cosine * tails < bound).mean(axis=0)
        # The harder half: what is asked is seldom as near to the rows as they are to each other.
        certain[i] = np.sort(left)[len(Z) // 2 :].mean()
        # A group of rows is read on for any of them.
        groups[i] = (1 - (1 - left) ** _LANES).mean()
        likely_groups[i] = (1 - (1 - likely_left) ** _LANES).mean()
        begin = end

    def behind(i: int) -> float:
        """Bytes a row that survivors of a front up to grid[i] still read, far apart."""
        left, cost, begin = float(certain[i]), 0.0, grid[i]
        for end in _body_steps(grid[i], whole, body_bits):
            cost += left * ((end - begin) * body_bits / 8 + _APART)
            left, begin = float(np.interp(end, grid, certain)), end
        return float(cost + left * (4 * dim + _APART))

    # A batch reads the front once for many queries, and looks at the bound at its end alone. A
    # query by itself looks once before, and reads on what that leaves. None of the three, nor a
    # likely search, shall lose much: the product of what they cost is least.
    ends = np.array(grid)
    rest = np.array([behind(i) for i in range(len(grid))])
    batch = (ends + _BESIDE) / _SHARED + rest

    def alone(share: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Cost by the ends of the first look (rows) and the last; the diagonal has but one."""
        more = np.maximum(ends - ends[:, np.newaxis], 0)
        looks = np.where(more > 0, share[:, np.newaxis] * (more + _LOOK), 0)
        return np.where(
            ends >= ends[:, np.newaxis], ends[:, np.newaxis] + _BESIDE + looks + rest, np.inf
        )

    exact = alone(groups)
    first, last = np.unravel_index(np.argmin(batch * exact * alone(likely_groups)), exact.shape)
    front = sorted({grid[first], grid[last]})
    return front, _body_steps(front[-1], whole, body_bits), float(exact[first, last])


def _grid(whole: int) -> list[int]:
    """Fronts to try: every 8 dimensions first, then ever coarser."""
    grid: list[int] = []
    d = 8
    while d < whole:
        grid.append(d)
        d += 8 if d < 64 else 16 if d < 256 else d // 8
    return [*grid, whole]


def measured(
    plan: CodePlan, Z: Floats, Y: Floats, distances: Floats, factor: float
) -> npt.NDArray[np.float64]:
    """Measure the tail cosines of neighbours.

    Parameters
    ----------
    plan : CodePlan
    Z : ndarray of float32, shape (m, dim)
        Queries on the plan's axes.
    Y : ndarray of float32, shape (m, k, dim)
        The nearest rows of each, on the same axes.
    distances : ndarray of float32, shape (m, k)
        Ascending.
    factor : float
        Products in a distance: 2 for inner products, 1 for squared L2, which holds twice one.

    Returns
    -------
    ndarray of float64, shape (n_steps, 2)
        What `CodePlan.neighbors` is.
    """
    # A neighbour nearer than the last one may lose that much more before it is dropped.
    slack = factor * (distances[:, -1:] - distances).astype(np.float64)
    found = []
    for end in plan.ends:
        z, y = Z[:, np.newaxis, end:].astype(np.float64), Y[:, :, end:].astype(np.float64)
        lengths = 2 * np.sqrt((z**2).sum(axis=2) * (y**2).sum(axis=2))
        needed = (2 * (z * y).sum(axis=2) - slack)[lengths > 0] / lengths[lengths > 0]
        # What is below zero says how near a neighbour is, not how unlike its tail.
        needed = np.maximum(needed, 0)
        found.append([needed.mean(), needed.std()] if needed.size > 0 else [1.0, 0.0])
    return np.array(found)
