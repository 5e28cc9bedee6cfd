"""k-means by tiled products with the argmax fused."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lanewise import _native, draws
from lanewise.arrays import as_matrix, as_ndarray, check_choice, check_int, check_real
from lanewise.canonical import check_lengths, normalized
from lanewise.kernels import Kernels, get
from lanewise.progress import Progress, reporting
from lanewise.seeding import plus_plus
from lanewise.threads import resolve_threads

__all__ = ["KMeans", "assign"]

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]
_Weights = npt.NDArray[np.float64] | None

# Times the length of any accepted vector, or its square, this stays finite.
_MAX_WEIGHT = 1e200


def assign(
    X: Any,
    centroids: Any,
    metric: str = "l2",
    *,
    kernels: str | Kernels | None = None,
    n_threads: int | None = None,
) -> tuple[Labels, Floats]:
    """Find the nearest centroid of every point, in tiles: no (n, k) matrix ever exists.

    Parameters
    ----------
    X : array-like of shape (n, d)
    centroids : array-like of shape (k, d)
    metric : {"l2", "ip", "cosine"}, default "l2"
        For the cosine both sides are normalised first.
    kernels : str or Kernels, optional
    n_threads : int, optional

    Returns
    -------
    labels : ndarray of int32, shape (n,)
        The centroid of the least canonical distance, the smallest number among equals.
    distances : ndarray of float32, shape (n,)
        The canonical distance to that centroid: squared L2, negated inner product, or 1 - cos.

    Raises
    ------
    ValueError, TypeError
        If the shapes do not fit, there is no centroid, or a value is NaN or infinite.

    Examples
    --------
    >>> labels, distances = assign([[0.0], [9.0]], [[1.0], [8.0]])
    >>> labels.tolist(), distances.tolist()
    ([0, 1], [1.0, 1.0])
    """
    metric = check_choice(metric, "metric", ("l2", "ip", "cosine"))
    points = as_matrix(X, "X")
    centers = as_matrix(centroids, "centroids", dim=points.shape[1], allow_empty=False)
    if metric == "cosine":
        points, centers = normalized(points), normalized(centers)
    check_lengths(points, "X")
    check_lengths(centers, "centroids")
    distances = np.empty(len(points), dtype=np.float32)
    threads = resolve_threads(n_threads)
    return _assign(points, centers, metric, get(kernels), threads, distances), distances


class KMeans:
    """k-means clustering with Lloyd's algorithm; names and meanings are scikit-learn's.

    The same data and `random_state` give the same centroids, bit for bit, on every instruction set
    and for any number of threads.

    Parameters
    ----------
    n_clusters : int, default 8
    metric : {"l2", "cosine"}, default "l2"
        ``"cosine"`` is spherical k-means: points and centroids are normalised.
    init : {"k-means++", "random"} or array-like of shape (n_clusters, d), default "k-means++"
        ``"k-means++"`` is greedy, as scikit-learn's; of many points it chooses among candidates
        that are drawn in four rounds.
    n_init : int, default 1
        Runs with different initial centroids; the one of the lowest inertia is kept.
    max_iter : int, default 300
    tol : float, default 1e-4
        The fit has converged when the centroids' squared shift, summed, is at most `tol` times the
        mean variance of the dimensions; or when no label changes.
    random_state : int, default 0
    kernels : str or Kernels, optional
        Kernel set, see `lanewise.kernels.get`.
    n_threads : int, optional

    Attributes
    ----------
    cluster_centers_ : ndarray of float32, shape (n_clusters, d)
    labels_ : ndarray of int32, shape (n,)
        Of the points that were fitted, for the final centroids.
    inertia_ : float
        Sum of the distances to the nearest centroid, times the weights: squared L2, or 1 - cos.
    n_iter_ : int
        Iterations of the best run.
    n_features_in_ : int

    Notes
    -----
    Labels are the argmax of x.c - |c|^2 / 2 over the centroids, computed in register tiles with
    both sides shifted by the mean centroid: of two-byte codes where there is a matrix unit, of
    float32 otherwise. A point whose best scores are nearer to each other than rounding or codes
    can tell apart is settled on the distances themselves, so that labels are always those of the
    canonical distances. An empty cluster takes over the point that is farthest from
    its centroid.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[0.0], [1.0], [10.0], [11.0]], dtype=np.float32)
    >>> model = KMeans(n_clusters=2).fit(X)
    >>> sorted(model.cluster_centers_[:, 0].tolist()), model.inertia_
    ([0.5, 10.5], 1.0)
    """

    cluster_centers_: Floats
    labels_: Labels
    inertia_: float
    n_iter_: int
    n_features_in_: int

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        metric: str = "l2",
        init: Any = "k-means++",
        n_init: int = 1,
        max_iter: int = 300,
        tol: float = 1e-4,
        random_state: int = 0,
        kernels: str | Kernels | None = None,
        n_threads: int | None = None,
    ) -> None:
        self.n_clusters = check_int(n_clusters, "n_clusters", low=1, high=2**31 - 16)
        self.metric = check_choice(metric, "metric", ("l2", "cosine"))
        self.init = (
            check_choice(init, "init", ("k-means++", "random")) if isinstance(init, str) else init
        )
        self.n_init = check_int(n_init, "n_init", low=1)
        self.max_iter = check_int(max_iter, "max_iter", low=1)
        self.tol = check_real(tol, "tol", low=0.0)
        self.random_state = check_int(random_state, "random_state", low=0, high=2**64 - 1)
        self.kernels = get(kernels)
        self.n_threads = n_threads
        resolve_threads(n_threads)

    def fit(self, X: Any, *, sample_weight: Any = None, progress: bool | Progress = False) -> Self:
        """Find the centroids of some points.

        Parameters
        ----------
        X : array-like of shape (n, d), n >= n_clusters
        sample_weight : array-like of shape (n,), optional
            Not negative, and not all zero.
        progress : bool or callable, default False
            True shows bars on the standard error, if that is a terminal. A function is called with
            what is being done, the steps done and the steps in all: ("starting", centroids, k), at
            most a hundred times, and ("iterating", iteration, max_iter), once for each of them, in
            each of `n_init` runs. What it raises ends the fit, and the model stays as it was.

        Returns
        -------
        KMeans
            Itself, with the attributes set.

        Raises
        ------
        ValueError, TypeError
            If `X`, `sample_weight` or an initial array does not fit, or holds NaN or infinities.
        ImportError
            If bars are asked for and ``rich`` is not installed.
        """
        points = self._points(X)
        n, dim = points.shape
        if n < self.n_clusters:
            raise ValueError(f"X: expected at least n_clusters = {self.n_clusters} rows, got {n}")
        weights = _check_weights(sample_weight, n)
        given = None
        if not isinstance(self.init, str):
            given = as_matrix(self.init, "init", dim=dim)
            if len(given) != self.n_clusters:
                raise ValueError(f"init: expected {self.n_clusters} rows, got {len(given)}")
            check_lengths(given, "init")
            given = normalized(given) if self.metric == "cosine" else given.copy()
        run = _Run(points, weights, self.metric, self.kernels, resolve_threads(self.n_threads))
        tolerance = self.tol * run.mean_variance()
        best = None
        repetitions = 1 if given is not None else self.n_init
        with reporting(progress, "KMeans.fit") as report:
            for seed in draws.seeds(self.random_state, repetitions):
                start = given
                if start is None:
                    start = run.initial(self.n_clusters, self.init, seed, report)
                result = run.lloyd(start, self.max_iter, tolerance, report)
                if best is None or result[2] < best[2]:
                    best = result
        assert best is not None
        self.cluster_centers_, self.labels_, self.inertia_, self.n_iter_ = best
        self.n_features_in_ = dim
        return self

    def predict(self, X: Any) -> Labels:
        """Return the label of each point's nearest centroid.

        Parameters
        ----------
        X : array-like of shape (n, d)

        Returns
        -------
        ndarray of int32, shape (n,)

        Raises
        ------
        ValueError
            If the model is not fitted, or `X` does not fit.
        """
        if not hasattr(self, "cluster_centers_"):
            raise ValueError("KMeans: expected a fitted model, call fit first")
        points = self._points(X, dim=self.n_features_in_)
        threads = resolve_threads(self.n_threads)
        return _assign(points, self.cluster_centers_, self.metric, self.kernels, threads)

    def fit_predict(self, X: Any, *, sample_weight: Any = None) -> Labels:
        """Fit, and return `labels_`; parameters and errors are those of `fit`."""
        return self.fit(X, sample_weight=sample_weight).labels_

    def _points(self, X: Any, dim: int | None = None) -> Floats:
        points = as_matrix(X, "X", dim=dim)
        if self.metric == "cosine":
            return normalized(points)
        check_lengths(points, "X")
        return points

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "kernels"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.kernels = get()

    def __repr__(self) -> str:
        return f"KMeans(n_clusters={self.n_clusters}, metric={self.metric!r})"


class _Run:
    """Fixed points and settings of a fit."""

    def __init__(
        self, points: Floats, weights: _Weights, metric: str, kernels: Kernels, threads: int
    ) -> None:
        self.points = points
        self.weights = weights
        self.metric = metric
        self.kernels = kernels
        self.threads = threads

    def mean_variance(self) -> float:
        """Mean over the dimensions of the points' variance."""
        center = np.empty((1, self.points.shape[1]), dtype=np.float32)
        _native.mean(self.points, center[0])
        return _ordered_sum(self.distances_to(center[0])) / self.points.size

    def distances_to(self, center: Floats) -> npt.NDArray[np.float64]:
        """Squared L2 distance of every point to one centre."""
        everyone = np.arange(len(self.points), dtype=np.int64)[np.newaxis]
        distances = np.empty(everyone.shape, dtype=np.float32)
        _native.score_lists(
            self.kernels, "l2", center[np.newaxis], self.points, everyone, distances, self.threads
        )
        exact: npt.NDArray[np.float64] = distances[0].astype(np.float64)
        return exact

    def initial(self, k: int, init: str, seed: int, report: Progress) -> Floats:
        if init == "random":
            return self.points[draws.permutation(seed, "kmeans", len(self.points))[:k]]
        chosen = plus_plus(self.points, self.weights, k, seed, self.kernels, self.threads, report)
        return self.points[chosen]

    def lloyd(
        self, centers: Floats, max_iter: int, tolerance: float, report: Progress
    ) -> tuple[Floats, Labels, float, int]:
        """Alternate assignment and means; return centroids, labels, inertia and iterations."""
        labels = self.assign(centers)
        n_iter = 0
        while n_iter < max_iter:
            report("iterating", n_iter, max_iter)
            n_iter += 1
            moved = self.means(labels, centers)
            shift = (moved.astype(np.float64) - centers).ravel()
            centers = moved
            before = labels
            labels = self.assign(centers)
            if np.array_equal(labels, before) or _ordered_sum(shift * shift) <= tolerance:
                break
        report("iterating", max_iter, max_iter)
        distances = self.distances(labels, centers)
        weighted = distances if self.weights is None else distances * self.weights
        return centers, labels, _ordered_sum(weighted), n_iter

    def assign(self, centers: Floats) -> Labels:
        return _assign(self.points, centers, self.metric, self.kernels, self.threads)

    def distances(self, labels: Labels, centers: Floats) -> npt.NDArray[np.float64]:
        """Distance of every point to the centroid that its label names."""
        found = np.empty((len(labels), 1), dtype=np.float32)
        named = labels.astype(np.int64)[:, np.newaxis]
        _native.score_lists(
            self.kernels, self.metric, self.points, centers, named, found, self.threads
        )
        exact: npt.NDArray[np.float64] = found[:, 0].astype(np.float64)
        return exact

    def means(self, labels: Labels, centers: Floats) -> Floats:
        """Mean of every cluster; an empty one takes over the point that lies farthest."""
        k = len(centers)
        sums, totals, counts = self.sums(labels, k)
        if (totals <= 0).any():
            labels = self.refill(labels, self.distances(labels, centers), totals, counts)
            sums, totals, counts = self.sums(labels, k)
        still_empty = totals <= 0
        totals[still_empty] = 1
        means = (sums / totals[:, np.newaxis]).astype(np.float32)
        if still_empty.any():
            # Fewer points than clusters: repeat one, its twin's smaller number wins every tie.
            means[still_empty] = self.points[0]
        return normalized(means) if self.metric == "cosine" else means

    def sums(
        self, labels: Labels, k: int
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Sum, total weight and number of the points of every cluster."""
        sums = np.empty((k, self.points.shape[1]), dtype=np.float64)
        totals = np.empty(k, dtype=np.float64)
        counts = np.empty(k, dtype=np.int64)
        _native.cluster_sums(
            self.kernels, self.points, labels, self.weights, sums, totals, counts, self.threads
        )
        return sums, totals, counts

    def refill(
        self,
        labels: Labels,
        distances: npt.NDArray[np.float64],
        totals: npt.NDArray[np.float64],
        counts: npt.NDArray[np.int64],
    ) -> Labels:
        """Labels with the farthest points moved to the empty clusters; equals go by their number.

        Points without weight do not count, and a cluster never gives its last point away.
        """
        weighty = np.ones(len(labels), dtype=bool) if self.weights is None else self.weights > 0
        left = (
            counts if self.weights is None else np.bincount(labels[weighty], minlength=len(counts))
        )
        left = left.copy()
        candidates = np.flatnonzero(weighty)
        farthest = iter(candidates[np.argsort(-distances[candidates], kind="stable")])
        refilled = labels.copy()
        for cluster in np.flatnonzero(totals <= 0):
            point = next((p for p in farthest if left[labels[p]] > 1), None)
            if point is None:
                break
            left[labels[point]] -= 1
            refilled[point] = cluster
        return refilled


def _assign(
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


def _check_weights(sample_weight: Any, n: int) -> _Weights:
    if sample_weight is None:
        return None
    given = as_ndarray(sample_weight, "sample_weight")
    if given.dtype.kind not in "fiu":
        raise TypeError(f"sample_weight: expected numbers, got dtype {given.dtype}")
    weights = np.ascontiguousarray(given, dtype=np.float64)
    if weights.shape != (n,):
        raise ValueError(f"sample_weight: expected shape ({n},), got {weights.shape}")
    if not np.isfinite(weights).all():
        raise ValueError("sample_weight: expected finite weights, got NaN or infinity")
    if (weights < 0).any() or not (weights > 0).any():
        raise ValueError("sample_weight: expected weights that are not negative and not all zero")
    with np.errstate(over="ignore"):
        total = weights.sum()
    if total > _MAX_WEIGHT:
        raise ValueError(
            f"sample_weight: expected weights of at most {_MAX_WEIGHT:.0e} in all, got {total}"
        )
    return weights


def _ordered_sum(values: npt.NDArray[Any]) -> float:
    """Sum in index order: NumPy's own sum may add in another order on another CPU."""
    return float(np.cumsum(values, dtype=np.float64)[-1]) if len(values) > 0 else 0.0
