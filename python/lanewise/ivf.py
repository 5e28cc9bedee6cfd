"""Inverted lists: k-means cells, scanned with early termination."""

from __future__ import annotations

import math
from os import PathLike
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lanewise import io
from lanewise.arrays import as_matrix, check_int
from lanewise.cluster import KMeans
from lanewise.flat import Flat
from lanewise.kernels import Kernels
from lanewise.progress import Progress, reporting
from lanewise.result import SearchResult
from lanewise.store import Rows

__all__ = ["IVF"]

_KIND = "ivf"
_SETTINGS = ("n_lists", "n_probe", "train_iterations", "seed")


class IVF:
    """Inverted file: rows in the cells of their nearest centroid, of which a search probes a few.

    Within the probed cells the search is that of `Flat`: exact by default, early-terminated.

    Parameters
    ----------
    dim : int
    n_lists : int
        Cells; about the square root of the number of rows is a good start.
    metric : {"l2", "ip", "cosine"}, default "l2"
        As for `Flat`. Cells are trained on L2 distances, for the cosine on normalised rows.
    n_probe : int, default 8
        Cells that a search probes if it does not say.
    train_iterations : int, default 20
    storage, rotation
        As for `Flat`.
    seed : int, default 0
        Of the rotation and of the k-means start.
    kernels : str or Kernels, optional
    n_threads : int, optional

    Notes
    -----
    Sivic & Zisserman, "Video Google", ICCV 2003, for inverted files of vectors.

    Examples
    --------
    >>> import numpy as np
    >>> import lanewise as lw
    >>> X = np.random.default_rng(0).standard_normal((1000, 16), dtype=np.float32)
    >>> index = lw.IVF(16, n_lists=30).train(X).add(X)
    >>> index.search(X[:2], k=1, n_probe=4).ids.tolist()
    [[0], [1]]
    """

    def __init__(
        self,
        dim: int,
        n_lists: int,
        metric: str = "l2",
        *,
        n_probe: int = 8,
        train_iterations: int = 20,
        storage: str = "auto",
        rotation: str | None = "auto",
        seed: int = 0,
        kernels: str | Kernels | None = None,
        n_threads: int | None = None,
    ) -> None:
        self._rows = Rows(dim, metric, storage, rotation, seed, kernels, n_threads)
        self.n_lists = check_int(n_lists, "n_lists", low=1, high=2**31 - 16)
        self.n_probe = check_int(n_probe, "n_probe", low=1)
        self.train_iterations = check_int(train_iterations, "train_iterations", low=1)
        self.seed = seed
        self._kmeans: KMeans | None = None
        self._coarse: Flat | None = None

    def train(self, X: Any, *, progress: bool | Progress = False) -> Self:
        """Find the cells.

        Parameters
        ----------
        X : array-like of shape (n, dim), n >= n_lists
            A sample of the rows, or all of them.
        progress : bool or callable, default False
            As for `KMeans.fit`.

        Returns
        -------
        IVF
            Itself.

        Raises
        ------
        ValueError, TypeError
            If `X` does not fit, or the index already holds rows.
        ImportError
            As from `KMeans.fit`.
        """
        if len(self) > 0:
            raise ValueError(
                f"IVF: expected to be trained before rows are added, holds {len(self)}"
            )
        rows, _ = self._rows.as_rows(X, "X")
        self._take(self._untrained().fit(rows, progress=progress).cluster_centers_)
        return self

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
        IVF
            Itself. A search that runs meanwhile sees either all of `X` or nothing of it.

        Raises
        ------
        ValueError, TypeError
            If the index is not trained, or `X` or `ids` do not fit. Nothing is added then.
        ImportError
            As from `Flat.add`.
        """
        kmeans, _ = self._trained()
        rows, _ = self._rows.as_rows(X, "X")
        threads = self._rows.threads(n_threads)
        with reporting(progress, "IVF.add") as report:
            report("assigning", 0, 1)
            labels = kmeans.predict(rows)
            report("assigning", 1, 1)
            self._rows.arrange(rows, labels, self.n_lists, ids, threads, report)
        return self

    def remove(self, ids: Any, *, n_threads: int | None = None) -> Self:
        """Remove vectors, as `Flat.remove` does."""
        self._rows.remove(ids, n_threads)
        return self

    def search(
        self,
        queries: Any,
        k: int = 10,
        *,
        n_probe: int | None = None,
        filter: Any = None,
        eps0: float = math.inf,
        delta: int = 32,
        rerank: int | None = None,
        n_threads: int | None = None,
    ) -> SearchResult:
        """Find the k nearest rows in the cells nearest to each query.

        Parameters
        ----------
        queries : array-like of shape (n_queries, dim) or (dim,)
        k : int, default 10
        n_probe : int, optional
            Cells to probe; all of them give the exact answer.
        filter, eps0, delta, rerank
            As for `Flat.search`.
        n_threads : int, optional

        Returns
        -------
        SearchResult
            As from `Flat.search`.

        Raises
        ------
        ValueError, TypeError
            If the index is not trained, or an argument is out of its range.
        """
        _, coarse = self._trained()
        Q = self._rows.as_canonical_queries(queries)
        n_probe = check_int(self.n_probe if n_probe is None else n_probe, "n_probe", low=1)
        probes = coarse.search(
            Q, min(n_probe, self.n_lists), n_threads=self._rows.threads(n_threads)
        ).ids
        return self._rows.search(
            Q,
            k,
            probes=probes,
            filter=filter,
            eps0=eps0,
            delta=delta,
            n_threads=n_threads,
            rerank=rerank,
        )

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

    def pool(
        self,
        queries: Any,
        k_pool: int,
        *,
        n_probe: int | None = None,
        n_threads: int | None = None,
    ) -> npt.NDArray[np.int64]:
        """Return the ids of the k_pool nearest rows found, in rank order, for `LaneSearch`.

        Parameters and errors are those of `search`; the shape is (n_queries, k_pool).
        """
        return self.search(queries, k_pool, n_probe=n_probe, n_threads=n_threads).ids

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
        header |= {name: getattr(self, name) for name in _SETTINGS}
        if self._kmeans is not None:
            arrays["centroids"] = self.centroids
        io.write(path, _KIND, header, arrays)

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
        header, arrays = io.read(path, _KIND, mmap=("rows",) if mmap else (), verify=verify)
        try:
            centroids = arrays.pop("centroids", None)
            settings = {name: header[name] for name in _SETTINGS}
            index = cls(header["dim"], metric=header["metric"], **settings)
            index._rows = Rows.restored(header, arrays, kernels=kernels, n_threads=n_threads)
            _check_lists(arrays, index.n_lists, centroids is not None)
            if centroids is not None:
                index._take(as_matrix(centroids, "centroids", dim=index.dim))
        except (KeyError, TypeError, ValueError) as error:
            raise io.FileFormatError(f"{path}: expected a saved IVF, got {error}") from error
        return index

    def _take(self, centroids: npt.NDArray[np.float32]) -> None:
        """Become trained with these cells."""
        if len(centroids) != self.n_lists:
            raise ValueError(f"centroids: expected {self.n_lists}, got {len(centroids)}")
        kmeans = self._untrained()
        kmeans.cluster_centers_, kmeans.n_features_in_ = centroids, self.dim
        coarse = Flat(
            self.dim, self.metric, kernels=self._rows.kernels, n_threads=self._rows.n_threads
        ).add(centroids)
        self._kmeans, self._coarse = kmeans, coarse

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

    def _trained(self) -> tuple[KMeans, Flat]:
        if self._kmeans is None or self._coarse is None:
            raise ValueError("IVF: expected a trained index, call train first")
        return self._kmeans, self._coarse

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
        return self._trained()[0].cluster_centers_

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
        return f"IVF(dim={self.dim}, n_lists={self.n_lists}, metric={self.metric!r}, n={len(self)})"


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
