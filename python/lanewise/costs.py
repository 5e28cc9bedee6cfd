"""What a clustering will cost: multiply-adds, and seconds from rates that are measured."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lanewise import _native, seeding
from lanewise.arrays import check_int
from lanewise.kernels import Kernels, get
from lanewise.lloyd import Floats, nearest
from lanewise.threads import resolve_threads

__all__ = ["Cost", "Plan", "default_n_coarse", "plan"]

# A measurement is repeated for this long; the fastest counts. Its points are no more floats than
# that, and neither are its centroids.
_SECONDS = 0.1
_MOST_FLOATS = 1 << 19
# Products of a few counts up to this are far from the end of doubles.
_MOST = 2**62


@dataclass(frozen=True, slots=True)
class Cost:
    """What one way takes.

    Parameters
    ----------
    multiply_adds : int
        Of the distances and scores: nearly all there is to compute.
    seconds : float
    bytes : int
        Memory beside the points.
    """

    multiply_adds: int
    seconds: float
    bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The costs of both ways to cluster, from `plan`; as a string a table."""

    n: int
    d: int
    k: int
    iterations: int
    flat: Cost
    hierarchical: Cost

    def __str__(self) -> str:
        lines = [
            f"{self.n:,} x {self.d}, k {self.k:,}, {self.iterations} iterations",
            f"{'':<20}{'multiply-adds':>15}{'seconds':>12}{'MB beside':>12}",
        ]
        for name, cost in (
            ("KMeans", self.flat),
            ("HierarchicalKMeans", self.hierarchical),
        ):
            lines.append(
                f"{name:<20}{cost.multiply_adds:>15.2e}{cost.seconds:>12.1f}"
                f"{cost.bytes / 2**20:>12.0f}"
            )
        return "\n".join(lines)


def plan(
    n: int,
    d: int,
    k: int,
    *,
    iterations: int = 25,
    refine: int = 2,
    kernels: str | Kernels | None = None,
    n_threads: int | None = None,
) -> Plan:
    """Say what clustering n points of d dimensions into k clusters will take.

    Parameters
    ----------
    n, d, k : int
        At most 2**62 points, of 2**19 dimensions.
    iterations : int, default 25
        Of `KMeans`, and of every clustering of `HierarchicalKMeans`.
    refine : int, default 2
        Of `HierarchicalKMeans`, over all clusters in the end.
    kernels : str or Kernels, optional
    n_threads : int, optional

    Returns
    -------
    Plan
        With `flat`, the cost of `KMeans`, and `hierarchical`.

    Raises
    ------
    ValueError, TypeError
        If a number is out of its range, or there are more clusters than points.

    Notes
    -----
    Seconds are multiply-adds over rates that are measured in a fraction of a second, on random
    points that fit in cache: an estimate that is good to a factor of two, and says nothing of
    reading points from a disk. A start by ``"k-means++"`` is counted, and one assignment in the
    end.

    Examples
    --------
    >>> costs = plan(1_000_000, 16, 4096, iterations=10)
    >>> costs.flat.multiply_adds > 10 * costs.hierarchical.multiply_adds
    False
    """
    n = check_int(n, "n", low=1, high=_MOST)
    d = check_int(d, "d", low=1, high=_MOST_FLOATS)
    k = check_int(k, "k", low=1, high=min(n, 2**31 - 16))
    iterations = check_int(iterations, "iterations", low=1, high=_MOST)
    refine = check_int(refine, "refine", low=0, high=_MOST)
    row = get(kernels)
    threads = resolve_threads(n_threads)
    n_coarse = default_n_coarse(k)
    n_cell, k_cell = -(-n // n_coarse), -(-k // n_coarse)
    fine = _tile_rate(d, k, row, threads)
    coarse = fine if k == n_coarse else _tile_rate(d, n_coarse, row, threads)
    rows = _row_rate(d, row, threads)

    flat = _start(n, d, k, fine, rows) + _Work(n * k * d * (iterations + 1), fine)
    first = _start(n, d, n_coarse, coarse, rows) + _Work(
        n * n_coarse * d * (iterations + 2), coarse
    )
    cell = _start(n_cell, d, k_cell, coarse, rows)
    cell += _Work(n_cell * k_cell * d * (iterations + 1), coarse)
    last = _Work(n * k * d * (refine + 1), fine)
    both = first + cell.times(n_coarse) + last
    return Plan(
        n,
        d,
        k,
        iterations,
        Cost(flat.multiply_adds, flat.seconds, 20 * n + _centroid_bytes(n, d, k)),
        Cost(
            both.multiply_adds,
            both.seconds,
            (30 * n + 4 * n_cell * d)
            + max(_centroid_bytes(n, d, n_coarse), _centroid_bytes(n, d, k, start=False)),
        ),
    )


class _Work:
    """Multiply-adds and the seconds that they take."""

    def __init__(self, multiply_adds: int, rate: float, seconds: float = 0.0) -> None:
        self.multiply_adds = multiply_adds
        self.seconds = seconds + multiply_adds / rate

    def __add__(self, other: _Work) -> _Work:
        seconds = self.seconds + other.seconds
        return _Work(self.multiply_adds + other.multiply_adds, math.inf, seconds)

    def times(self, n: int) -> _Work:
        return _Work(self.multiply_adds * n, math.inf, self.seconds * n)


def default_n_coarse(k: int) -> int:
    """Return into how many clusters `HierarchicalKMeans` first divides the points."""
    return round(math.sqrt(k))


def _start(n: int, d: int, k: int, tiles: float, rows: float) -> _Work:
    """Return the work of `seeding.plus_plus`."""
    n_candidates = seeding.n_candidates(k)
    trials = _Work(min(n, n_candidates) * k * seeding.n_trials(k) * d, rows)
    if n <= n_candidates:
        return trials
    return trials + _Work(n * n_candidates * d, tiles)


def _centroid_bytes(n: int, d: int, k: int, start: bool = True) -> int:
    """Return the bytes of centroids: as they are and before, packed, as codes, as sums."""
    m = min(n, seeding.n_candidates(k))
    candidates = m * 4 * (2 * d + seeding.n_trials(k)) if start else 0
    return max(k * d * (4 + 4 + 4 + 2 + 8), candidates)


def _tile_rate(d: int, k: int, kernels: Kernels, threads: int) -> float:
    """Return multiply-adds a second of `assign`."""
    centers = _some_rows(max(1, min(k, _MOST_FLOATS // d)), d)

    def call(points: Floats) -> int:
        nearest(points, centers, "l2", kernels, threads)
        return points.size * len(centers)

    return _rate(d, call)


def _row_rate(d: int, kernels: Kernels, threads: int) -> float:
    """Return multiply-adds a second of the greedy choice."""
    trials = 8
    uniforms, chosen = np.linspace(0, 0.99, 1 + trials), np.empty(2, dtype=np.int64)

    def call(points: Floats) -> int:
        found = np.full(len(points), np.inf, dtype=np.float32)
        end = min(2, len(points))
        _native.plus_plus(kernels, points, None, uniforms, trials, 0, end, chosen, found, threads)
        return points.size * (1 + trials * (end - 1))

    return _rate(d, call)


def _rate(d: int, call: Callable[[Floats], int]) -> float:
    """Return multiply-adds a second of a call that says how many it does, with ever more points."""
    most = max(1, _MOST_FLOATS // d)
    n, best = min(64, most), 0.0
    began = time.perf_counter()
    while time.perf_counter() - began < _SECONDS:
        points = _some_rows(n, d)
        started = time.perf_counter()
        multiply_adds = call(points)
        best = max(best, multiply_adds / max(time.perf_counter() - started, 1e-9))
        n = min(4 * n, most)
    return best


def _some_rows(n: int, d: int) -> Floats:
    return np.random.default_rng(0).standard_normal((n, d), dtype=np.float32)
