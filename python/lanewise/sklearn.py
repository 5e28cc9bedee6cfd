"""`KMeans` as a scikit-learn estimator: for pipelines, searches and all that clones.

Needs scikit-learn: ``pip install "lanewise[sklearn]"``. Nothing else in the package imports this.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lanewise import cluster
from lanewise.arrays import check_int

try:
    from joblib import effective_n_jobs
    from sklearn.base import (
        BaseEstimator,
        ClassNamePrefixFeaturesOutMixin,
        ClusterMixin,
        TransformerMixin,
    )
    from sklearn.utils import Tags, check_random_state
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        'lanewise.sklearn needs scikit-learn >= 1.6: pip install "lanewise[sklearn]"'
    ) from error

__all__ = ["KMeans"]

Floats = npt.NDArray[np.float32]


class KMeans(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """`lanewise.KMeans` with scikit-learn's contract.

    Parameters
    ----------
    n_clusters : int, default 8
    metric, init, n_init, max_iter, tol, warm_start, max_points_per_centroid, max_cluster_size
        As for `lanewise.KMeans`.
    random_state : int, RandomState or None, default None
        An int gives what `lanewise.KMeans` gives for it; None something else in each fit.
    n_jobs : int, optional
        Threads, as joblib counts them: -1 for all, -2 for all but one. By default all that the
        process may use, which is not what other estimators take None for.

    Attributes
    ----------
    cluster_centers_, labels_, inertia_, n_iter_, n_features_in_, n_steps_
        As of `lanewise.KMeans`.

    Notes
    -----
    Data become float32, and so are the distances that `transform` returns.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> X = np.array([[0.0, 5.0], [1.0, 5.0], [10.0, 5.0], [11.0, 5.0]])
    >>> make_pipeline(StandardScaler(), KMeans(2, random_state=0)).fit_predict(X).tolist()
    [0, 0, 1, 1]
    """

    cluster_centers_: Floats
    labels_: npt.NDArray[np.int32]
    inertia_: float
    n_iter_: int
    n_features_in_: int
    n_steps_: int
    _fitted: cluster.KMeans

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        metric: str = "l2",
        init: Any = "k-means++",
        n_init: int = 1,
        max_iter: int = 300,
        tol: float = 1e-4,
        random_state: Any = None,
        warm_start: bool = False,
        max_points_per_centroid: int | None = None,
        max_cluster_size: int | None = None,
        n_jobs: int | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.metric = metric
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state
        self.warm_start = warm_start
        self.max_points_per_centroid = max_points_per_centroid
        self.max_cluster_size = max_cluster_size
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Find the centroids; see `lanewise.KMeans.fit`."""
        with self._as_it_was_unless_fitted():
            X = self._rows(X, reset=True)
            model = self._model()
            try:
                model.fit(X, sample_weight=sample_weight)
            finally:
                # After Ctrl-C there may be iterations to keep.
                if hasattr(model, "labels_"):
                    self._become(model)
        return self

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Learn one more batch; see `lanewise.KMeans.partial_fit`.

        Settings are those of the fit or the batch that came first: others that are set later wait
        for the next `fit`, and of `n_clusters` and `metric` they are refused.
        """
        with self._as_it_was_unless_fitted():
            fitted = hasattr(self, "_fitted")
            X = self._rows(X, reset=not fitted)
            model = self._fitted if fitted else self._model()
            for name in ("n_clusters", "metric"):
                set_, first = getattr(self, name), getattr(model, name)
                if set_ != first:
                    raise ValueError(f"{name}: expected {first!r} as before, got {set_!r}")
            self._become(model.partial_fit(X, sample_weight=sample_weight))
        return self

    def predict(self, X: Any) -> npt.NDArray[np.int32]:
        """Return the label of each point's nearest centroid."""
        check_is_fitted(self)
        return self._fitted.predict(self._rows(X))

    def fit_predict(
        self, X: Any, y: Any = None, sample_weight: Any = None
    ) -> npt.NDArray[np.int32]:
        """Fit, and return `labels_`."""
        return self.fit(X, sample_weight=sample_weight).labels_

    def transform(self, X: Any) -> Floats:
        """Return the distance of every point to every centroid."""
        check_is_fitted(self)
        return self._fitted.transform(self._rows(X))

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return minus the inertia of points."""
        check_is_fitted(self)
        return self._fitted.score(self._rows(X), sample_weight=sample_weight)

    @property
    def _n_features_out(self) -> int:
        return len(self.cluster_centers_)

    def _rows(self, X: Any, reset: bool = False) -> Floats:
        rows: Floats = validate_data(self, X, reset=reset, dtype=np.float32, order="C")
        return rows

    def _model(self) -> cluster.KMeans:
        options = self.get_params(deep=False)
        n_jobs = options.pop("n_jobs")
        seed = options["random_state"]
        if not isinstance(seed, (int, np.integer)):
            options["random_state"] = int(check_random_state(seed).randint(2**31 - 1))
        threads = None if n_jobs is None else _n_threads(n_jobs)
        model = cluster.KMeans(**options, n_threads=threads)
        if self.warm_start and hasattr(self, "_fitted"):
            model.cluster_centers_ = self._fitted.cluster_centers_
        return model

    @contextmanager
    def _as_it_was_unless_fitted(self) -> Iterator[None]:
        """Take back what is known of the features of points that are not fitted after all."""
        before = vars(self).copy()
        try:
            yield
        except BaseException:
            if vars(self).get("_fitted") is before.get("_fitted"):
                self.__dict__ = before
            raise

    def _become(self, model: cluster.KMeans) -> None:
        names = ("cluster_centers_", "labels_", "inertia_", "n_iter_", "n_steps_")
        state = {name: vars(model)[name] for name in names if name in vars(model)}
        self.__dict__.update(state, _fitted=model)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def _n_threads(n_jobs: Any) -> int:
    n_jobs = check_int(n_jobs, "n_jobs")
    if n_jobs == 0:
        raise ValueError("n_jobs: expected an integer other than 0, got 0")
    return int(effective_n_jobs(n_jobs))
