"""Where k-means starts: k-means++ with trials, among candidates where there are many points."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt

from lanewise import _native, draws
from lanewise.kernels import Kernels
from lanewise.progress import Progress

__all__ = ["n_candidates", "n_trials", "plus_plus", "total_weights"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]

_ROUNDS = 4
# Candidates drawn in a round, unless there are more clusters.
_FEWEST_DRAWN = 256
# Sums of points are made in steps of this many, so that no array of doubles grows with the points.
_CHUNK = 1 << 16
# What is told of progress, at most.
_REPORTS = 100


def n_candidates(k: int) -> int:
    """Return among how many points k are chosen, at most."""
    return _ROUNDS * max(k, _FEWEST_DRAWN)


def n_trials(k: int) -> int:
    """Return how many points are tried for every centroid, as scikit-learn does."""
    return 2 + int(math.log(k))


def plus_plus(
    points: Floats,
    weights: Doubles | None,
    k: int,
    seed: int,
    kernels: Kernels,
    threads: int,
    report: Progress,
) -> Longs:
    """Choose k points to start from: greedy k-means++ (Arthur & Vassilvitskii 2007).

    Of ``2 + floor(ln k)`` points that are drawn in proportion to their squared distance to the
    nearest one chosen, the one that leaves the least sum of these is chosen next, as in
    scikit-learn. Where there are more than `n_candidates` points, it chooses among candidates, each
    with the weight of the points that are nearest to it. They are drawn in rounds, as by k-means||
    (Bahmani et al. 2012): max(k, 256) at a time, the first by the weights alone.
    """
    n_drawn = n_candidates(k) // _ROUNDS
    if len(points) <= n_candidates(k):
        # In an order of their own, so that the one they come in does not matter, and repeated
        # points are as good as weights.
        order = _order(points)
        ordered = None if weights is None else weights[order]
        return order[_greedy(points[order], ordered, k, seed, kernels, threads, report)]
    candidates = _Candidates(points, weights, kernels, threads)
    for step in itertools.count(1):
        # Fewer distinct points than clusters leave nothing to draw.
        left = candidates.draw(draws.uniforms(seed, "kmeans", n_drawn, stream=step))
        # Some may be equal to others, or a few outweigh all that are not drawn.
        if not left or (step >= _ROUNDS and np.count_nonzero(candidates.mass()) >= k):
            break
    among, m = candidates.ids, min(k, len(candidates.ids))
    rows = points[among]
    chosen = among[_greedy(rows, candidates.mass(), m, seed, kernels, threads, report)]
    unchosen = np.setdiff1d(np.arange(k), chosen)[: k - m]
    return np.concatenate((chosen, unchosen))


def _order(points: Floats) -> Longs:
    """Return an order of the rows that depends on them alone: that of their bytes."""
    rows = np.ascontiguousarray(points, dtype="<f4")
    return np.argsort(rows.view(f"V{rows.itemsize * rows.shape[1]}")[:, 0], kind="stable")


def _greedy(
    points: Floats,
    weights: Doubles | None,
    k: int,
    seed: int,
    kernels: Kernels,
    threads: int,
    report: Progress,
) -> Longs:
    """Choose k points among all of these."""
    m = n_trials(k)
    uniforms = draws.uniforms(seed, "kmeans", 1 + (k - 1) * m)
    chosen = np.empty(k, dtype=np.int64)
    nearest = np.full(len(points), np.inf, dtype=np.float32)
    at_once = (k + _REPORTS - 1) // _REPORTS
    for begin in range(0, k, at_once):
        end = min(begin + at_once, k)
        _native.plus_plus(
            kernels, points, weights, uniforms, m, begin, end, chosen, nearest, threads
        )
        report("starting", end, k)
    return chosen


def total_weights(labels: npt.NDArray[np.int32], weights: Doubles | None, k: int) -> Doubles:
    """Return the weight of the points of every label, added up in their order in fixed chunks."""
    totals = np.zeros(k)
    for begin in range(0, len(labels), _CHUNK):
        chunk = slice(begin, begin + _CHUNK)
        totals += np.bincount(labels[chunk], None if weights is None else weights[chunk], k)
    return totals


class _Candidates:
    """Points drawn so far, and for every point the nearest of them."""

    def __init__(
        self, points: Floats, weights: Doubles | None, kernels: Kernels, threads: int
    ) -> None:
        self.points = points
        self.weights = weights
        self.kernels = kernels
        self.threads = threads
        self.ids = np.empty(0, dtype=np.int64)
        self.nearest: Floats | None = None  # squared distance
        self.owners: npt.NDArray[np.int32] | None = None  # position in ids

    def draw(self, uniforms: Doubles) -> bool:
        """Draw in proportion to weight times distance, one from each of equal shares of the sum.

        Returns False if that sum is zero.
        """
        ends = np.cumsum([self.cumulated(begin)[-1] for begin in self.chunks()])
        if not ends[-1] > 0:
            return False
        levels = (np.arange(len(uniforms)) + uniforms) / len(uniforms) * ends[-1]
        starts = np.concatenate(([0.0], ends[:-1]))
        # Levels in [starts[c], ends[c]) fall into chunk c.
        shares = np.searchsorted(levels, [starts, ends])
        found = [
            begin + np.searchsorted(start + self.cumulated(begin), levels[first:last], "right")
            for begin, start, first, last in zip(self.chunks(), starts, *shares, strict=True)
            if first < last
        ]
        self.include(np.unique(np.concatenate(found)))
        return True

    def include(self, ids: Longs) -> None:
        """Let every point know whether one of these is nearer to it than those before."""
        rows = self.points[ids]
        labels = np.empty(len(self.points), dtype=np.int32)
        distances = np.empty(len(self.points), dtype=np.float32)
        _native.assign(self.kernels, "l2", self.points, rows, labels, distances, self.threads)
        labels += len(self.ids)
        self.ids = np.concatenate((self.ids, ids))
        if self.nearest is None or self.owners is None:
            self.nearest, self.owners = distances, labels
        else:
            nearer = distances < self.nearest
            np.copyto(self.nearest, distances, where=nearer)
            np.copyto(self.owners, labels, where=nearer)

    def mass(self) -> Doubles:
        """Weight of the points that are nearest to each."""
        assert self.owners is not None
        return total_weights(self.owners, self.weights, len(self.ids))

    def chunks(self) -> range:
        return range(0, len(self.points), _CHUNK)

    def cumulated(self, begin: int) -> Doubles:
        """Return what the points of a chunk count with, added up one after another."""
        end = min(begin + _CHUNK, len(self.points))
        weights = np.ones(end - begin) if self.weights is None else self.weights[begin:end]
        chances = weights if self.nearest is None else weights * self.nearest[begin:end]
        return np.cumsum(chances)
