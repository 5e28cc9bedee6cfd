"""Lloyd's iterations over fixed points."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lanewise import _native, draws
from lanewise.canonical import normalized
from lanewise.kernels import Kernels
from lanewise.progress import Progress
from lanewise.seeding import plus_plus

__all__ = ["Callback", "Iteration", "Run", "Solution", "Tell", "nearest"]

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]
Doubles = npt.NDArray[np.float64]

# What is needed of every point for a moment is made for this many at a time.
_CHUNK = 1 << 16
# And of the centroids' coordinates, for this many.
_COORDINATES = 1 << 14


@dataclass(frozen=True, slots=True, eq=False)
class Iteration:
    """What `KMeans.fit` tells its callback after an iteration.

    Parameters
    ----------
    run : int
        Which of the `n_init` runs, from 0.
    iteration : int
        Iterations done in this run, from 1.
    shift : float
        How far the centroids moved: the sum of their squared shifts.
    n_changed : int
        Points whose label changed.
    cluster_centers : ndarray of float32, shape (n_clusters, d)
        The centroids, as a read-only view.

    Notes
    -----
    The inertia is not told: labels are found without distances, and it would cost a pass over the
    points.
    """

    run: int
    iteration: int
    shift: float
    n_changed: int
    cluster_centers: Floats = field(repr=False)


Callback = Callable[[Iteration], object]
"""Called after every iteration; True ends the fit."""

Tell = Callable[[int, float, int, Floats], bool]
"""Told iterations done, shift, labels changed and centroids; returns whether that is enough."""


class Solution(NamedTuple):
    """Centroids, and the labels of the points for them."""

    centers: Floats
    labels: Labels
    n_iter: int


class Run:
    """Fixed points and settings of a fit; what it has come to."""

    def __init__(
        self,
        points: Floats,
        weights: Doubles | None,
        metric: str,
        kernels: Kernels,
        threads: int,
        max_size: int | None = None,
    ) -> None:
        self.points = points
        self.weights = weights
        self.metric = metric
        self.kernels = kernels
        self.threads = threads
        self.max_size = max_size
        # The best of the runs that are done, with its inertia, and how far the one that runs is.
        self.best: tuple[Solution, float] | None = None
        self.current: Solution | None = None

    def settle(self) -> None:
        """Let the current run take part in the choice of the best."""
        if self.current is None:
            return
        inertia = self.inertia(self.current.labels, self.current.centers)
        if self.best is None or inertia < self.best[1]:
            self.best = self.current, inertia
        self.current = None

    def mean_variance(self) -> float:
        """Mean over the dimensions of the points' variance."""
        center = np.empty((1, self.points.shape[1]), dtype=np.float32)
        _native.mean(self.points, center[0])
        everyone = np.zeros(len(self.points), dtype=np.int32)
        return self._summed("l2", everyone, center, None) / self.points.size

    def inertia(self, labels: Labels, centers: Floats) -> float:
        """Sum of the distances to the centroids that labels name, times the weights."""
        return self._summed(self.metric, labels, centers, self.weights)

    def _summed(
        self, metric: str, labels: Labels, centers: Floats, weights: Doubles | None
    ) -> float:
        """Sum in index order: NumPy's own sum may add in another order on another CPU."""
        total = 0.0
        for chunk in _chunks(len(labels), _CHUNK):
            found = self._distances(metric, chunk, labels, centers).astype(np.float64)
            if weights is not None:
                found *= weights[chunk]
            total = _added(total, found)
        return total

    def _distances(self, metric: str, chunk: slice, labels: Labels, centers: Floats) -> Floats:
        """Distance of each point to the centroid that its label names."""
        named = labels[chunk].astype(np.int64)[:, np.newaxis]
        found = np.empty(named.shape, dtype=np.float32)
        points = self.points[chunk]
        _native.score_lists(self.kernels, metric, points, centers, named, found, self.threads)
        return found[:, 0]

    def start(self, k: int, init: str, seed: int, report: Progress) -> Floats:
        """Points to start from."""
        if init == "random":
            return self.points[draws.permutation(seed, "kmeans", len(self.points))[:k]]
        chosen = plus_plus(self.points, self.weights, k, seed, self.kernels, self.threads, report)
        return self.points[chosen]

    def lloyd(
        self,
        centers: Floats,
        max_iter: int,
        tolerance: float,
        report: Progress,
        tell: Tell,
    ) -> bool:
        """Alternate assignment and means; `current` is the last iteration that is complete.

        Returns whether to go on with other runs: False if `tell` has returned True.
        """
        labels = self.assign(centers)
        go_on = True
        n_iter = guess_at = 0
        while go_on and n_iter < max_iter:
            report("iterating", n_iter, max_iter)
            moved = self.means(labels, centers)
            shift = _squared_shift(moved, centers)
            before = labels
            if n_iter < guess_at or self.max_size is not None or self.metric != "l2":
                labels = self.assign(moved)
            else:
                labels, share = self._assign_with_guesses(moved, before)
                # Data without gaps is asked again, but ever more seldom.
                guess_at = 2 * n_iter + 2 if share == 1 else 0
            centers = moved
            n_iter += 1
            self.current = Solution(centers, labels, n_iter)
            n_changed = int(np.count_nonzero(labels != before))
            go_on = not tell(n_iter, shift, n_changed, centers)
            if n_changed == 0 or shift <= tolerance:
                break
        report("iterating", max_iter, max_iter)
        self.settle()
        return go_on

    def assign(self, centers: Floats) -> Labels:
        """Label every point, as far as the clusters have room."""
        if self.max_size is None:
            return nearest(self.points, centers, self.metric, self.kernels, self.threads)
        return self._assign_with_room(centers, self.max_size)

    def _assign_with_guesses(self, centers: Floats, guesses: Labels) -> tuple[Labels, float]:
        """Return labels, and the share of the centroids that points had to meet."""
        labels = np.empty(len(self.points), dtype=np.int32)
        share = _native.assign(
            self.kernels, "l2", self.points, centers, labels, None, self.threads, guesses
        )
        return labels, share

    def _assign_with_room(self, centers: Floats, max_size: int) -> Labels:
        """In rounds: who has no cluster asks the nearest that has room, which takes the nearest.

        What is needed of the points that are left is made in chunks; a round fills a cluster or is
        the last one.
        """
        n, k = len(self.points), len(centers)
        labels = np.empty(n, dtype=np.int32)
        room = np.full(k, max_size)
        left = np.arange(n)
        while len(left) > 0:
            open_ = np.flatnonzero(room > 0).astype(np.int32)
            open_centers = centers[open_]
            asked = np.empty(len(left), dtype=np.int32)
            distances = np.empty(len(left), dtype=np.float32)
            for chunk in _chunks(len(left), _CHUNK):
                found = nearest(
                    self.points[chunk] if len(left) == n else self.points[left[chunk]],
                    open_centers,
                    self.metric,
                    self.kernels,
                    self.threads,
                    distances[chunk],
                )
                asked[chunk] = open_[found]
            # The askers of a cluster side by side, the nearest first, equals by their number.
            order = np.lexsort((distances, asked))
            asked, sizes = asked[order], np.bincount(asked, minlength=k)
            rank = np.arange(len(left)) - (np.cumsum(sizes) - sizes)[asked]
            taken = rank < room[asked]
            labels[left[order[taken]]] = asked[taken]
            room -= np.minimum(sizes, room)
            left = np.sort(left[order[~taken]])
        return labels

    def means(self, labels: Labels, centers: Floats) -> Floats:
        """Mean of every cluster; an empty one takes over the point that lies farthest."""
        k = len(centers)
        sums, totals = self.sums(labels, k)
        if (totals <= 0).any():
            labels = self.refill(labels, centers, totals)
            sums, totals = self.sums(labels, k)
        still_empty = totals <= 0
        totals[still_empty] = 1
        sums /= totals[:, np.newaxis]
        means = sums.astype(np.float32)
        if still_empty.any():
            # Fewer points than clusters: repeat one, its twin's smaller number wins every tie.
            means[still_empty] = self.points[0]
        return normalized(means) if self.metric == "cosine" else means

    def sums(self, labels: Labels, k: int) -> tuple[Doubles, Doubles]:
        """Sum and total weight of the points of every cluster."""
        sums = np.empty((k, self.points.shape[1]), dtype=np.float64)
        totals = np.empty(k, dtype=np.float64)
        counts = np.empty(k, dtype=np.int64)
        _native.cluster_sums(
            self.kernels, self.points, labels, self.weights, sums, totals, counts, self.threads
        )
        return sums, totals

    def refill(self, labels: Labels, centers: Floats, totals: Doubles) -> Labels:
        """Labels with the farthest points moved to the empty clusters; equals go by their number.

        Points without weight do not count, and a cluster never gives its last point away.
        """
        weighty = None if self.weights is None else self.weights > 0
        left = np.bincount(labels if weighty is None else labels[weighty], minlength=len(centers))
        nearness = np.empty(len(labels), dtype=np.float32)
        for chunk in _chunks(len(labels), _CHUNK):
            nearness[chunk] = -self._distances(self.metric, chunk, labels, centers)
        if weighty is not None:
            nearness[~weighty] = np.inf
        farthest = iter(np.argsort(nearness, kind="stable")[: left.sum()])
        refilled = labels.copy()
        for cluster in np.flatnonzero(totals <= 0):
            point = next((p for p in farthest if left[labels[p]] > 1), None)
            if point is None:
                break
            left[labels[point]] -= 1
            refilled[point] = cluster
        return refilled


def _chunks(n: int, size: int) -> Iterator[slice]:
    return (slice(begin, begin + size) for begin in range(0, n, size))


def _added(total: float, values: Doubles) -> float:
    """Add values to a total in their order."""
    return float(np.cumsum(np.concatenate(([total], values)))[-1])


def _squared_shift(moved: Floats, centers: Floats) -> float:
    """Return the sum of the squared shifts, in index order."""
    shift = 0.0
    after, before = moved.reshape(-1), centers.reshape(-1)
    for chunk in _chunks(moved.size, _COORDINATES):
        steps = after[chunk].astype(np.float64) - before[chunk]
        shift = _added(shift, steps * steps)
    return shift


def nearest(
    points: Floats,
    centers: Floats,
    metric: str,
    kernels: Kernels,
    threads: int,
    distances: Floats | None = None,
) -> Labels:
    """Return labels; the distances are only computed if there is an array for them."""
    labels = np.empty(len(points), dtype=np.int32)
    _native.assign(kernels, metric, points, centers, labels, distances, threads)
    return labels
