"""k-means for very many clusters: coarse ones first, each then split by itself."""

from __future__ import annotations

import heapq
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lanewise import draws
from lanewise.arrays import check_int
from lanewise.cluster import KMeans
from lanewise.costs import default_n_coarse
from lanewise.kernels import Kernels
from lanewise.lloyd import Callback, Floats, Solution
from lanewise.progress import Progress, say_nothing
from lanewise.seeding import total_weights

__all__ = ["HierarchicalKMeans"]

Doubles = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]


class HierarchicalKMeans(KMeans):
    """k-means in two levels: some `n_coarse` clusters, each split in proportion to its weight.

    An iteration over all points and clusters costs ``n * n_clusters * d`` multiply-adds; one over
    either level costs ``sqrt(n_clusters)`` times less. `lanewise.cluster.plan` says what that
    means for given sizes. The objective is some percent above that of `KMeans`, less with every
    iteration over all clusters, `refine`.

    Parameters
    ----------
    n_clusters : int
    n_coarse : int, optional
        Clusters of the first level, by default the square root of `n_clusters`.
    refine : int, default 2
        Iterations over all points and clusters in the end; each costs as much as the assignment of
        labels, which is always made.
    metric : {"l2", "cosine"}, default "l2"
    init : {"k-means++", "random"}, default "k-means++"
        Where every clustering of either level starts.
    max_iter : int, default 25
        Iterations of every clustering of either level.
    tol, random_state
        As for `KMeans`.
    max_points_per_centroid : int, optional
        As for `KMeans`, in every clustering of either level; the refinement reads all points.
    kernels : str or Kernels, optional
    n_threads : int, optional

    Attributes
    ----------
    cluster_centers_, labels_, inertia_, n_features_in_
        As of `KMeans`. Labels are of the nearest of all centroids, whatever the first level says.
        Centroids of one coarse cluster stand side by side.
    n_iter_ : int
        Iterations of the refinement.

    Notes
    -----
    The first batch of `partial_fit`, unless the model is fitted, starts from the two levels of that
    batch. All else of `partial_fit` is as in `KMeans`: every batch meets all clusters.

    A coarse cluster with points has at least one cluster and at most as many as points; what is
    left is given out one by one, each to the coarse cluster with the largest weight over two times
    what it has plus one (Sainte-Laguë). Beside the points about 30 bytes a point are needed, and
    room for the points of the largest coarse cluster.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[0.0], [1.0], [10.0], [11.0], [100.0], [101.0], [110.0], [111.0]])
    >>> model = HierarchicalKMeans(4).fit(X)
    >>> sorted(model.cluster_centers_[:, 0].tolist())
    [0.5, 10.5, 100.5, 110.5]
    """

    def __init__(
        self,
        n_clusters: int,
        *,
        n_coarse: int | None = None,
        refine: int = 2,
        metric: str = "l2",
        init: str = "k-means++",
        max_iter: int = 25,
        tol: float = 1e-4,
        random_state: int = 0,
        max_points_per_centroid: int | None = None,
        kernels: str | Kernels | None = None,
        n_threads: int | None = None,
    ) -> None:
        if not isinstance(init, str):
            raise TypeError(
                f"init: expected 'k-means++' or 'random' for two levels, got {type(init).__name__}"
            )
        super().__init__(
            n_clusters,
            metric=metric,
            init=init,
            max_iter=max_iter,
            tol=tol,
            random_state=random_state,
            max_points_per_centroid=max_points_per_centroid,
            kernels=kernels,
            n_threads=n_threads,
        )
        self.n_coarse = (
            default_n_coarse(self.n_clusters)
            if n_coarse is None
            else check_int(n_coarse, "n_coarse", low=1, high=self.n_clusters)
        )
        self.refine = check_int(refine, "refine", low=0)

    def fit(
        self,
        X: Any,
        *,
        sample_weight: Any = None,
        progress: bool | Progress = False,
        callback: Callback | None = None,
    ) -> Self:
        """Find the centroids of some points.

        Parameters
        ----------
        X : array-like of shape (n, d), n >= n_clusters
        sample_weight : array-like of shape (n,), optional
            As for `KMeans.fit`.
        progress : bool or callable, default False
            As for `KMeans.fit`, for the first level; then ("splitting", clusters of the first
            level done, and in all) and ("refining", iterations done, refine).
        callback : callable, optional
            As for `KMeans.fit`, for the iterations of the refinement.

        Returns
        -------
        HierarchicalKMeans
            Itself, with the attributes set.

        Raises
        ------
        ValueError, TypeError, ImportError
            As from `KMeans.fit`.
        KeyboardInterrupt
            On Ctrl-C. In the refinement the model is left fitted with its last complete iteration,
            before that it stays as it was.
        """
        tell = self._teller(callback)
        points, weights = self._points_and_weights(X, sample_weight)
        run = self._run(points, weights)

        def find(report: Progress) -> None:
            centers = self._two_levels(points, weights, report)
            if self.refine > 0:
                run.lloyd(
                    centers,
                    self.refine,
                    self.tol * run.mean_variance(),
                    lambda what, done, total: report("refining", done, total),
                    tell(0),
                )
            else:
                run.current = Solution(centers, run.assign(centers), 0)
                run.settle()

        return self._follow(run, points, weights, progress, find)

    def _start(self, points: Floats, weights: Doubles | None) -> Floats:
        return self._two_levels(points, weights, say_nothing)

    def _two_levels(self, points: Floats, weights: Doubles | None, report: Progress) -> Floats:
        """Return the centroids of the second level, those of a coarse cluster side by side."""
        words = draws.words(self.random_state, "kmeans", self.n_coarse + 1, stream=_SPLITS)
        seeds = [int(word) for word in words]
        coarse = self._centers_of(self.n_coarse, points, weights, seeds[0], report)
        labels = self._run(points, weights).assign(coarse)
        sizes = np.bincount(labels, minlength=self.n_coarse)
        shares = total_weights(labels, weights, self.n_coarse)
        quotas = _shared_out(self.n_clusters, shares, sizes)
        order = np.argsort(labels, kind="stable")
        ends = np.cumsum(sizes)
        centers = []
        for cell, (end, size, k) in enumerate(zip(ends, sizes, quotas, strict=True)):
            report("splitting", cell, self.n_coarse)
            if k == 0:
                continue
            members = order[end - size : end]
            # Where nothing has weight, all count the same.
            of_cell = None if weights is None or shares[cell] == 0 else weights[members]
            seed = seeds[cell + 1]
            centers.append(self._centers_of(k, points[members], of_cell, seed, say_nothing))
        report("splitting", self.n_coarse, self.n_coarse)
        return np.concatenate(centers)

    def _centers_of(
        self, k: int, points: Floats, weights: Doubles | None, seed: int, report: Progress
    ) -> Floats:
        """Return the centroids that `KMeans` finds for points that are already checked."""
        part = KMeans(
            k,
            metric=self.metric,
            init=self.init,
            max_iter=self.max_iter,
            tol=self.tol,
            random_state=seed,
            max_points_per_centroid=self.max_points_per_centroid,
            kernels=self.kernels,
            n_threads=self.n_threads,
        )
        run = part._run(*part._sample(points, weights))
        part._fit(run, None, report, part._teller(None))
        assert run.best is not None
        return run.best[0].centers


# The draws that give every cluster of the first level its seed.
_SPLITS = 2**34


def _shared_out(k: int, shares: Doubles, sizes: Longs) -> list[int]:
    """Return k as a sum of parts, in proportion to shares, from 1 to sizes where there is any."""
    parts = [int(size > 0) for size in sizes]
    waiting = [(-share / 3, i) for i, share in enumerate(shares) if sizes[i] > 1]
    heapq.heapify(waiting)
    for _ in range(k - sum(parts)):
        _, i = waiting[0]
        parts[i] += 1
        if parts[i] < sizes[i]:
            heapq.heapreplace(waiting, (-shares[i] / (2 * parts[i] + 1), i))
        else:
            heapq.heappop(waiting)
    return parts
