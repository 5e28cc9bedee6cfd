"""k-means by tiled products with the argmax fused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lanewise import _native, draws
from lanewise.arrays import as_matrix, as_ndarray, check_bool, check_choice, check_int, check_real
from lanewise.canonical import check_lengths, normalized
from lanewise.costs import Cost, Plan, plan
from lanewise.kernels import Kernels, get
from lanewise.lloyd import Callback, Iteration, Run, Tell, nearest
from lanewise.progress import Progress, reporting, say_nothing
from lanewise.seeding import total_weights
from lanewise.threads import resolve_threads

__all__ = ["Cost", "Iteration", "KMeans", "Plan", "assign", "plan"]

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]
Doubles = npt.NDArray[np.float64]
_Weights = Doubles | None
_Teller = Callable[[int], Tell]

# The draws that pick a sample; runs draw from the streams before.
_SAMPLE = 2**33
# Distances of `transform` that are found at a time.
_TILE = 1 << 20

# Times the length of any accepted vector, or its square, this stays finite.
_MAX_WEIGHT = 1e200
# Times the least float32, this is a double of full precision.
_MIN_WEIGHT = 1e-250


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
    return nearest(points, centers, metric, get(kernels), threads, distances), distances


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
        that are drawn in four rounds. ``"random"`` takes distinct points, all as likely as each
        other whatever their `sample_weight`.
    n_init : int, default 1
        Runs with different initial centroids; the one of the lowest inertia is kept.
    max_iter : int, default 300
    tol : float, default 1e-4
        The fit has converged when the centroids' squared shift, summed, is at most `tol` times the
        mean variance of the dimensions; or when no label changes.
    random_state : int, default 0
    warm_start : bool, default False
        Whether a second `fit` starts from `cluster_centers_`, once, instead of `init`.
    max_points_per_centroid : int, optional
        Of more than `n_clusters` times as many points a sample of that size is fitted, drawn by
        `random_state` among those that have weight; `labels_` and `inertia_` are of all points all
        the same. `partial_fit` takes every batch as a whole.
    max_cluster_size : int, optional
        The most points that a cluster may have. See Notes for what is assigned then.
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
        With `max_cluster_size` of those to the centroid that `labels_` names, near or not.
    n_iter_ : int
        Iterations of the best run.
    n_features_in_ : int
    n_steps_ : int
        Batches that `partial_fit` has had since the last `fit`.

    Notes
    -----
    Labels are the argmax of x.c - |c|^2 / 2 over the centroids, computed in register tiles with
    both sides shifted by the mean centroid: of two-byte codes where there is a matrix unit, of
    float32 otherwise. A point whose best scores are nearer to each other than rounding or codes
    can tell apart is settled on the distances themselves, so that labels are always those of the
    canonical distances. An empty cluster takes over the point that is farthest from
    its centroid.

    With `max_cluster_size`, points are assigned in rounds: each that has no cluster asks for the
    nearest of those that had room when the round began; a cluster with more askers than room takes
    the nearest, of equals the smaller numbers. A round fills a cluster or is the last, so that
    there are at most `n_clusters`, each over the points that are left; an iteration takes about
    twice as long, or more where the limit is far from what the data are like. The size counts
    points, whatever their weights. The inertia may rise from one iteration to the next; `predict`
    returns the nearest centroid, room or not.

    float32 rows in C order, memory-mapped ones too, are read where they are: beside them a fit
    needs about 20 bytes a point, with `max_cluster_size` about 60, and the centroids a few times.
    Other types are converted, and for the cosine the points are normalised, to a copy.

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
    n_steps_: int
    # What older pickles are without.
    warm_start: bool = False
    max_points_per_centroid: int | None = None
    max_cluster_size: int | None = None
    # Of the points that each centroid stands for; no sums after `fit`, whose centroids are means.
    _sums: Doubles | None = None
    _totals: Doubles | None = None

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
        warm_start: bool = False,
        max_points_per_centroid: int | None = None,
        max_cluster_size: int | None = None,
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
        self.warm_start = check_bool(warm_start, "warm_start")
        self.max_points_per_centroid = _check_count(
            max_points_per_centroid, "max_points_per_centroid"
        )
        self.max_cluster_size = _check_count(max_cluster_size, "max_cluster_size")
        if max_points_per_centroid is not None and max_cluster_size is not None:
            raise ValueError(
                "max_cluster_size: expected None beside max_points_per_centroid, "
                f"got {max_cluster_size}"
            )
        self.kernels = get(kernels)
        self.n_threads = n_threads
        resolve_threads(n_threads)

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
            Not negative, and not all zero. Any that is not zero is at least 1e-250, and all
            together are at most 1e200.
        progress : bool or callable, default False
            True shows bars on the standard error, if that is a terminal. A function is called with
            what is being done, the steps done and the steps in all: ("starting", centroids, k), at
            most a hundred times, and ("iterating", iterations done, max_iter), before each of them
            and, with as many done as there may be, in the end; all that in each of `n_init` runs.
            What it raises ends the fit, and the model stays as it was; a KeyboardInterrupt is taken
            for Ctrl-C.
        callback : callable, optional
            Called with an `Iteration` after each of them. If it returns True (no other object that
            is true) the fit ends there, as if it had converged, and no further run is made. What it
            raises is as for `progress`.

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
        KeyboardInterrupt
            On Ctrl-C. If an iteration is complete, the model is left fitted as it was after it, or
            with an earlier run that was better; otherwise it stays as it was.
        """
        tell = self._teller(callback)
        points, weights = self._points_and_weights(X, sample_weight)
        given = self._given(points.shape[1])
        some, weights_of_some = self._sample(points, weights)
        run = self._run(some, weights_of_some)
        return self._follow(
            run, points, weights, progress, lambda report: self._fit(run, given, report, tell)
        )

    def _follow(
        self,
        run: Run,
        points: Floats,
        weights: _Weights,
        progress: bool | Progress,
        find: Callable[[Progress], None],
    ) -> Self:
        """Become what a run finds; after Ctrl-C, what it has come to."""
        try:
            with reporting(progress, f"{type(self).__name__}.fit") as report:
                find(report)
            self._take(run, points, weights)
        except KeyboardInterrupt:
            run.settle()
            if run.best is not None:
                self._take(run, points, weights)
            raise
        return self

    def _points_and_weights(self, X: Any, sample_weight: Any) -> tuple[Floats, _Weights]:
        points = self._points(X)
        n = len(points)
        if n < self.n_clusters:
            raise ValueError(f"X: expected at least n_clusters = {self.n_clusters} rows, got {n}")
        if self.max_cluster_size is not None and n > self.n_clusters * self.max_cluster_size:
            raise ValueError(
                f"X: expected at most n_clusters * max_cluster_size = "
                f"{self.n_clusters * self.max_cluster_size} rows, got {n}"
            )
        return points, _check_weights(sample_weight, n)

    def _given(self, dim: int) -> Floats | None:
        """Return centroids to start from, if there are any."""
        if self.warm_start and hasattr(self, "cluster_centers_"):
            given, name = self.cluster_centers_, "warm_start"
        elif isinstance(self.init, str):
            return None
        else:
            given, name = as_matrix(self.init, "init"), "init"
        if given.shape[1] != dim:
            raise ValueError(f"{name}: expected dimension {dim}, got {given.shape[1]}")
        if len(given) != self.n_clusters:
            raise ValueError(f"{name}: expected {self.n_clusters} rows, got {len(given)}")
        check_lengths(given, name)
        return normalized(given) if self.metric == "cosine" else given.copy()

    def _sample(self, points: Floats, weights: _Weights) -> tuple[Floats, _Weights]:
        """Return the points that are fitted: all of them, or a sample."""
        if self.max_points_per_centroid is None:
            return points, weights
        size = self.n_clusters * self.max_points_per_centroid
        if size >= len(points):
            return points, weights
        order = draws.permutation(self.random_state, "kmeans", len(points), stream=_SAMPLE)
        if weights is None:
            return points[np.sort(order[:size])], None
        order = order[np.argsort(weights[order] == 0, kind="stable")]
        ids = np.sort(order[:size])
        return points[ids], weights[ids]

    def _run(self, points: Floats, weights: _Weights) -> Run:
        threads = resolve_threads(self.n_threads)
        return Run(points, weights, self.metric, self.kernels, threads, self.max_cluster_size)

    def _fit(self, run: Run, given: Floats | None, report: Progress, tell: _Teller) -> None:
        """Let the runs find their best."""
        tolerance = self.tol * run.mean_variance()
        repetitions = self.n_init if given is None else 1
        for number, seed in enumerate(draws.seeds(self.random_state, repetitions)):
            start = given
            if start is None:
                start = run.start(self.n_clusters, self.init, seed, report)
            if not run.lloyd(start, self.max_iter, tolerance, report, tell(number)):
                break

    @staticmethod
    def _teller(callback: Callback | None) -> _Teller:
        """Return what gives a run the function that tells the callback and hears its answer."""
        if callback is not None and not callable(callback):
            raise TypeError(f"callback: expected a function, got {callback!r}")

        def of_run(run: int) -> Tell:
            def tell(iteration: int, shift: float, n_changed: int, centers: Floats) -> bool:
                if callback is None:
                    return False
                view = centers.view()
                view.flags.writeable = False
                enough = callback(Iteration(run, iteration, shift, n_changed, view))
                return isinstance(enough, (bool, np.bool_)) and bool(enough)

            return tell

        return of_run

    def _take(self, run: Run, points: Floats, weights: _Weights) -> None:
        """Become what the best run has found, all at once."""
        assert run.best is not None
        (centers, labels, n_iter), inertia = run.best
        if run.points is not points:
            everyone = self._run(points, weights)
            labels = everyone.assign(centers)
            inertia = everyone.inertia(labels, centers)
        self._become(
            cluster_centers_=centers,
            labels_=labels,
            inertia_=inertia,
            n_iter_=n_iter,
            n_features_in_=points.shape[1],
            n_steps_=0,
            _sums=None,
            _totals=total_weights(labels, weights, len(centers)),
        )

    def _become(self, **state: Any) -> None:
        """Take over attributes in one step, which no signal can come between."""
        self.__dict__.update(state)

    def partial_fit(self, X: Any, *, sample_weight: Any = None) -> Self:
        """Let the centroids learn one more batch of a stream.

        Every centroid becomes the weighted mean of all points that were ever assigned to it: those
        of this batch are, to the nearest centroid before it moves. That is mini-batch k-means
        (Sculley 2010) with one step a batch, as in scikit-learn's `MiniBatchKMeans` without its
        random reassignments. The sums are kept in double, so that rounding does not add up.

        Parameters
        ----------
        X : array-like of shape (n, d)
            A batch. The first one, unless the model is fitted, gives the centroids to start from,
            as `fit` would take them: it must have at least `n_clusters` rows, others may be empty.
        sample_weight : array-like of shape (n,), optional
            As for `fit`.

        Returns
        -------
        KMeans
            Itself. `labels_` and `inertia_` are of this batch, for the new centroids.

        Raises
        ------
        ValueError, TypeError
            If `X` or `sample_weight` does not fit, or there is a `max_cluster_size`. The model
            stays as it was.

        Notes
        -----
        After `fit` a centroid counts as much as the points that it has then. A centroid without
        points stays where it is. The batches decide, and their order: the same ones give the same
        bits everywhere.

        Examples
        --------
        >>> model = KMeans(2, init=[[0.0], [10.0]])
        >>> for batch in ([[1.0], [11.0]], [[2.0], [3.0]]):
        ...     model = model.partial_fit(batch)
        >>> model.cluster_centers_.tolist()
        [[2.0], [11.0]]
        """
        if self.max_cluster_size is not None:
            raise ValueError(
                f"max_cluster_size: expected None for partial_fit, got {self.max_cluster_size}"
            )
        if hasattr(self, "cluster_centers_"):
            points = self._fitted_points(X)
            weights = _check_weights(sample_weight, len(points))
            centers, sums, totals = self._learned()
        else:
            points, weights = self._points_and_weights(X, sample_weight)
            given = self._given(points.shape[1])
            centers = self._start(points, weights) if given is None else given
            sums, totals = np.zeros(centers.shape), np.zeros(len(centers))
        run = self._run(points, weights)
        batch_sums, batch_totals = run.sums(run.assign(centers), len(centers))
        sums, totals = sums + batch_sums, totals + batch_totals
        known = totals > 0
        moved = centers.copy()
        moved[known] = sums[known] / totals[known, np.newaxis]
        if self.metric == "cosine":
            moved[known] = normalized(moved[known])
        labels = run.assign(moved)
        self._become(
            cluster_centers_=moved,
            labels_=labels,
            inertia_=run.inertia(labels, moved),
            n_features_in_=points.shape[1],
            n_steps_=getattr(self, "n_steps_", 0) + 1,
            _sums=sums,
            _totals=totals,
        )
        return self

    def _start(self, points: Floats, weights: _Weights) -> Floats:
        """Return centroids for the first batch of a stream."""
        run = self._run(points, weights)
        return run.start(self.n_clusters, self.init, self.random_state, say_nothing)

    def _learned(self) -> tuple[Floats, Doubles, Doubles]:
        """Return the centroids, and the sums and weights of what was assigned to them."""
        centers, sums, totals = self.cluster_centers_, self._sums, self._totals
        if totals is None:
            totals = total_weights(self.labels_, None, len(centers))
        return centers, centers * totals[:, np.newaxis] if sums is None else sums, totals

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
        points = self._fitted_points(X)
        threads = resolve_threads(self.n_threads)
        return nearest(points, self.cluster_centers_, self.metric, self.kernels, threads)

    def fit_predict(self, X: Any, *, sample_weight: Any = None) -> Labels:
        """Fit, and return `labels_`; parameters and errors are those of `fit`."""
        return self.fit(X, sample_weight=sample_weight).labels_

    def transform(self, X: Any) -> Floats:
        """Return the distance of every point to every centroid.

        Parameters
        ----------
        X : array-like of shape (n, d)

        Returns
        -------
        ndarray of float32, shape (n, n_clusters)
            Euclidean distances, as scikit-learn has them: not squared, unlike `inertia_` and all
            else here. For the cosine 1 - cos.

        Raises
        ------
        ValueError, TypeError
            As `predict` does.
        """
        points = self._fitted_points(X)
        threads = resolve_threads(self.n_threads)
        centers = self.cluster_centers_
        distances = np.empty((len(points), len(centers)), dtype=np.float32)
        at_once = max(1, _TILE // len(centers))
        everyone = np.tile(np.arange(len(centers)), (min(at_once, len(points)), 1))
        for begin in range(0, len(points), at_once):
            tile, part = points[begin : begin + at_once], distances[begin : begin + at_once]
            ids = everyone[: len(tile)]
            _native.score_lists(self.kernels, self.metric, tile, centers, ids, part, threads)
            if self.metric == "l2":
                np.sqrt(part, out=part)
        return distances

    def fit_transform(self, X: Any, *, sample_weight: Any = None) -> Floats:
        """Fit, and return what `transform` does; parameters and errors are those of both."""
        return self.fit(X, sample_weight=sample_weight).transform(X)

    def score(self, X: Any, *, sample_weight: Any = None) -> float:
        """Return minus the inertia of points: larger is better.

        Parameters
        ----------
        X : array-like of shape (n, d)
        sample_weight : array-like of shape (n,), optional

        Raises
        ------
        ValueError, TypeError
            As `predict` does, and for weights that `fit` would refuse.
        """
        points = self._fitted_points(X)
        weights = _check_weights(sample_weight, len(points))
        run = Run(points, weights, self.metric, self.kernels, resolve_threads(self.n_threads))
        return -run.inertia(run.assign(self.cluster_centers_), self.cluster_centers_)

    def _fitted_points(self, X: Any) -> Floats:
        if not hasattr(self, "cluster_centers_"):
            raise ValueError(f"{type(self).__name__}: expected a fitted model, call fit first")
        return self._points(X, dim=self.n_features_in_)

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
        return f"{type(self).__name__}(n_clusters={self.n_clusters}, metric={self.metric!r})"


def _check_count(value: Any, name: str) -> int | None:
    return None if value is None else check_int(value, name, low=1, high=2**62)


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
    if (weights < 0).any() or (n > 0 and not (weights > 0).any()):
        raise ValueError("sample_weight: expected weights that are not negative and not all zero")
    with np.errstate(over="ignore"):
        total = weights.sum()
    if total > _MAX_WEIGHT:
        raise ValueError(
            f"sample_weight: expected weights of at most {_MAX_WEIGHT:.0e} in all, got {total}"
        )
    least = weights.min(where=weights > 0, initial=np.inf)
    if least < _MIN_WEIGHT:
        raise ValueError(
            f"sample_weight: expected weights of zero or at least {_MIN_WEIGHT:.0e}, got {least}"
        )
    return weights
