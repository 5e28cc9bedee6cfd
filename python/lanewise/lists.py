"""What indexes over inverted lists have in common: cells, and the life of the rows in them."""

from __future__ import annotations

from os import PathLike
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from lanewise import io
from lanewise.arrays import as_matrix, check_int
from lanewise.cluster import KMeans
from lanewise.kernels import Kernels
from lanewise.progress import Progress, reporting
from lanewise.result import SearchResult
from lanewise.store import Rows

__all__ = ["Lists"]


class Lists:
    """Rows in the cells of their nearest centroid. See `lanewise.IVF` and `lanewise.IVFPQ`.

    Parameters
    ----------
    rows : Rows
        Empty.
    n_lists, n_probe, train_iterations, seed
        As for `lanewise.IVF`.
    """

    _KIND: ClassVar[str]
    _SETTINGS: ClassVar[tuple[str, ...]]

    def __init__(
        self, rows: Rows, n_lists: int, n_probe: int, train_iterations: int, seed: int
    ) -> None:
        self._rows = rows
        self.n_lists = check_int(n_lists, "n_lists", low=1, high=2**31 - 16)
        self.n_probe = check_int(n_probe, "n_probe", low=1)
        self.train_iterations = check_int(train_iterations, "train_iterations", low=1)
        self.seed = seed
        self._kmeans: KMeans | None = None  # with the centroids alone, once there are any

    def add(
        self,
        X: Any,
        ids: Any = None,
        *,
        progress: bool | Progress = False,
        n_threads: int | None = None,
    ) -> Self:
        """Add vectors.

        The lists are laid out anew, so add many rows at a time.

        Parameters
        ----------
        X : array-like of shape (n, dim)
        ids : array-like of int, shape (n,), optional
            As for `Flat.add`.
        progress : bool or callable, default False
            As for `Flat.add`.
        n_threads : int, optional

        Returns
        -------
        Self
            Itself. A search that runs meanwhile sees either all of `X` or nothing of it.

        Raises
        ------
        ValueError, TypeError
            If the index is not trained, or `X` or `ids` do not fit. Nothing is added then.
        ImportError
            As from `Flat.add`.
        """
        kmeans = self._trained()
        rows, _ = self._rows.as_rows(X, "X")
        threads = self._rows.threads(n_threads)
        with reporting(progress, f"{type(self).__name__}.add") as report:
            report("assigning", 0, 1)
            labels = kmeans.predict(rows)
            report("assigning", 1, 1)
            self._rows.arrange(rows, labels, self.n_lists, ids, threads, report)
        return self

    def remove(self, ids: Any, *, n_threads: int | None = None) -> Self:
        """Remove vectors, as `Flat.remove` does."""
        self._rows.remove(ids, n_threads)
        return self

    def _as_n_probe(self, n_probe: int | None) -> int:
        """Validate a number of cells; return how many there are to probe."""
        n_probe = check_int(self.n_probe if n_probe is None else n_probe, "n_probe", low=1)
        return min(n_probe, self.n_lists)

    def score(
        self, queries: Any, ids: Any, *, n_threads: int | None = None
    ) -> npt.NDArray[np.float32]:
        """Score named rows exactly, as `Flat.score` does."""
        return self._rows.score(queries, ids, n_threads)

    def rescore(
        self, queries: Any, ids: Any, k: int = 10, *, n_threads: int | None = None
    ) -> SearchResult:
        """Find the k nearest among named rows, as `Flat.rescore` does."""
        return self._rows.rescore(queries, ids, k, n_threads)

    def save(self, path: str | PathLike[str]) -> None:
        """Save the index to a file, whole or not at all; errors are those of `Flat.save`.

        Examples
        --------
        >>> import lanewise as lw
        >>> import tempfile, pathlib
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "index.lw"
        ...     lw.IVF(1, n_lists=2).train([[1.0], [5.0]]).add([[1.0], [5.0]]).save(path)
        ...     lw.IVF.load(path).search([4.0], k=1).ids.tolist()
        [[1]]
        """
        header, arrays = self._rows.arrays()
        header |= {name: getattr(self, name) for name in self._SETTINGS}
        if self._kmeans is not None:
            arrays["centroids"] = self.centroids
        io.write(path, self._KIND, header, arrays)

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        *,
        mmap: bool = False,
        verify: bool = True,
        kernels: str | Kernels | None = None,
        n_threads: int | None = None,
    ) -> Self:
        """Load an index that `save` wrote; parameters and errors are those of `Flat.load`."""
        header, arrays = io.read(path, cls._KIND, mmap=("rows",) if mmap else (), verify=verify)
        with io.expecting(path, cls.__name__):
            centroids = arrays.pop("centroids", None)
            settings = {name: header[name] for name in cls._SETTINGS}
            index = cls._with_settings(dim=header["dim"], metric=header["metric"], **settings)
            index._rows = Rows.restored(
                header,
                arrays,
                product_codes=index._rows.storage == "pq",
                kernels=kernels,
                n_threads=n_threads,
            )
            _check_lists(arrays, index.n_lists, centroids is not None)
            if centroids is not None:
                index._take(as_matrix(centroids, "centroids", dim=index.dim))
            index._check_restored()
        return index

    @classmethod
    def _with_settings(cls, **settings: Any) -> Self:
        """Return an index without rows, for `load`."""
        return cls(**settings)

    def _check_restored(self) -> None:
        """Raise ValueError unless what a file says fits the settings."""

    def _check_empty(self) -> None:
        if len(self) > 0:
            raise ValueError(
                f"{type(self).__name__}: expected to be trained before rows are added, "
                f"holds {len(self)}"
            )

    def _take(self, centroids: npt.NDArray[np.float32]) -> None:
        """Become trained with these cells, at once: nobody finds half of it, nor Ctrl-C."""
        self._kmeans = self._model(centroids)

    def _model(self, centroids: npt.NDArray[np.float32]) -> KMeans:
        """Return the k-means that these are the centroids of."""
        if len(centroids) != self.n_lists:
            raise ValueError(f"centroids: expected {self.n_lists}, got {len(centroids)}")
        kmeans = self._untrained()
        kmeans.cluster_centers_, kmeans.n_features_in_ = centroids, self.dim
        return kmeans

    def _untrained(self) -> KMeans:
        return KMeans(
            self.n_lists,
            metric="cosine" if self.metric == "cosine" else "l2",
            init="random",
            max_iter=self.train_iterations,
            random_state=self.seed,
            kernels=self._rows.kernels,
            n_threads=self._rows.n_threads,
        )

    def _trained(self) -> KMeans:
        if self._kmeans is None:
            raise ValueError(f"{type(self).__name__}: expected a trained index, call train first")
        return self._kmeans

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return self._rows.dim

    @property
    def metric(self) -> str:
        """Name of the metric."""
        return self._rows.metric

    @property
    def centroids(self) -> npt.NDArray[np.float32]:
        """Centroids of the cells, shape (n_lists, dim)."""
        return self._trained().cluster_centers_

    @property
    def list_sizes(self) -> npt.NDArray[np.int64]:
        """Rows in each cell, shape (n_lists,)."""
        state = self._rows.snapshot.state
        if state.list_of is None:
            return np.zeros(self.n_lists, dtype=np.int64)
        labels = state.list_of if state.live is None else state.list_of[state.live]
        return np.bincount(labels, minlength=self.n_lists)

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """Ids of the rows, in the order in which they were added."""
        return self._rows.ids

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays that the index holds."""
        return self._rows.nbytes

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(dim={self.dim}, n_lists={self.n_lists}, "
            f"metric={self.metric!r}, n={len(self)})"
        )


def _check_lists(arrays: dict[str, Any], n_lists: int, trained: bool) -> None:
    """Raise ValueError unless what a file says of the lists fits."""
    n = len(arrays["rows"])
    if n == 0:
        return
    labels = arrays["list_of"]
    if not trained or len(arrays["list_size"]) != n_lists:
        raise ValueError(f"list_size: expected {n_lists} trained lists for {n} rows")
    sizes = np.bincount(labels, minlength=n_lists) if labels.min() >= 0 else np.empty(0)
    if not np.array_equal(sizes, arrays["list_size"]):
        raise ValueError("list_of: expected the lists of all rows")
