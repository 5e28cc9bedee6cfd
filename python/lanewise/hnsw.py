"""An hnswlib graph as a source of candidates."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from lanewise.arrays import as_matrix, as_queries, check_int, check_metric
from lanewise.canonical import check_lengths
from lanewise.result import SearchResult
from lanewise.threads import resolve_threads

if TYPE_CHECKING:
    from collections.abc import Callable

    import hnswlib

__all__ = ["HNSW"]

# What hnswlib's distance lacks to ours: it reports 1 - q.x for the inner product.
_OFFSET = {"l2": 0.0, "ip": -1.0, "cosine": 0.0}


class HNSW:
    """Search over an ``hnswlib.Index``, whose labels are the ids.

    Parameters
    ----------
    index : hnswlib.Index
        A graph that is already built; it is used, not copied.

    Notes
    -----
    Malkov & Yashunin, "Efficient and robust approximate nearest neighbor search using hierarchical
    navigable small world graphs", 2018. Building and traversal are hnswlib's; equal distances are
    put in the order of their ids.

    Examples
    --------
    >>> import numpy as np
    >>> import lanewise as lw
    >>> X = np.random.default_rng(0).standard_normal((500, 8), dtype=np.float32)
    >>> index = lw.HNSW.build(X)
    >>> index.search(X[:2], k=1, ef=50).ids.tolist()
    [[0], [1]]
    """

    def __init__(self, index: hnswlib.Index) -> None:
        for attribute in ("knn_query", "set_ef", "get_current_count", "space", "dim"):
            if not hasattr(index, attribute):
                raise TypeError(f"index: expected an hnswlib.Index, got {type(index).__name__}")
        self.index = index
        self.dim = int(index.dim)
        self.metric = check_metric(index.space)
        # ef is a property of the whole index, and a search must not find another one's.
        self._lock = threading.Lock()

    @classmethod
    def build(
        cls,
        X: Any,
        metric: str = "l2",
        *,
        M: int = 16,
        ef_construction: int = 200,
        seed: int = 100,
        n_threads: int | None = 1,
        progress: Callable[[int], object] | None = None,
    ) -> Self:
        """Build a graph over some rows with hnswlib.

        Parameters
        ----------
        X : array-like of shape (n, dim)
        metric : {"l2", "ip", "cosine"}, default "l2"
        M : int, default 16
            Links of each element.
        ef_construction : int, default 200
            Width of the search that finds an element's links.
        seed : int, default 100
        n_threads : int, optional, default 1
            One thread builds the same graph every time; more are faster.
        progress : callable, optional
            Called with the number of rows added since the last call.

        Returns
        -------
        HNSW

        Raises
        ------
        ImportError
            If hnswlib is not installed.
        ValueError, TypeError
            If an argument is out of its range, or `X` holds NaN or infinities.
        """
        rows = as_matrix(X, "X", allow_empty=False)
        check_lengths(rows, "X")
        metric = check_metric(metric)
        M = check_int(M, "M", low=2, high=10_000)
        ef_construction = check_int(ef_construction, "ef_construction", low=1)
        seed = check_int(seed, "seed", low=0, high=2**31 - 1)
        threads = resolve_threads(n_threads)
        try:
            import hnswlib
        except ImportError as error:
            raise ImportError('HNSW.build needs hnswlib: pip install "lanewise[hnsw]"') from error
        index = hnswlib.Index(space=metric, dim=rows.shape[1])
        index.init_index(
            max_elements=len(rows), M=M, ef_construction=ef_construction, random_seed=seed
        )
        step = 1000
        for begin in range(0, len(rows), step):
            chunk = rows[begin : begin + step]
            index.add_items(chunk, np.arange(begin, begin + len(chunk)), num_threads=threads)
            if progress is not None:
                progress(len(chunk))
        return cls(index)

    def search(
        self,
        queries: Any,
        k: int = 10,
        *,
        ef: int | None = None,
        n_threads: int | None = None,
    ) -> SearchResult:
        """Find about the k nearest elements of each query.

        Parameters
        ----------
        queries : array-like of shape (n_queries, dim) or (dim,)
        k : int, default 10
            What the graph does not give is filled up with id -1 and distance inf.
        ef : int, optional
            Width of the search, at least `k`. By default the index's own; it is left as it was.
        n_threads : int, optional

        Returns
        -------
        SearchResult

        Raises
        ------
        ValueError, TypeError
            If an argument is out of its range, or `queries` holds NaN or infinities.
        """
        Q = as_queries(queries, "queries", self.dim)
        check_lengths(Q, "queries")
        k = check_int(k, "k", low=0, high=2**31 - 1)
        ef = None if ef is None else check_int(ef, "ef", low=0, high=2**31 - 1)
        threads = resolve_threads(n_threads)
        distances = np.full((len(Q), k), np.inf, dtype=np.float32)
        ids = np.full((len(Q), k), -1, dtype=np.int64)
        if len(Q) == 0 or k == 0:
            return SearchResult(distances, ids)
        with self._lock:
            found = min(k, self.index.get_current_count())
            if found > 0:
                users_ef = self.index.ef
                self.index.set_ef(max(k, users_ef, 1) if ef is None else max(k, ef, 1))
                try:
                    labels, raw = self._query(Q, found, threads)
                finally:
                    self.index.set_ef(users_ef)
                found = labels.shape[1]
                distances[:, :found] = raw + np.float32(_OFFSET[self.metric])
                ids[:, :found] = labels
        distances[ids < 0] = np.inf
        order = np.lexsort((ids, distances), axis=1)
        return SearchResult(
            np.take_along_axis(distances, order, axis=1), np.take_along_axis(ids, order, axis=1)
        )

    def _query(
        self, Q: npt.NDArray[np.float32], k: int, threads: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Ask for k; where the graph cannot reach so many, for as many as each query can get."""
        try:
            labels, distances = self.index.knn_query(Q, k=k, num_threads=threads)
            return labels.astype(np.int64), distances
        except RuntimeError as error:
            if "contiguous 2D array" not in str(error):
                raise
            if k == 1:
                missing = np.full((len(Q), 1), -1, dtype=np.int64)
                return missing, np.full((len(Q), 1), np.inf, dtype=np.float32)
        if len(Q) == 1:
            # The largest number that this query can get, by bisection.
            low, high = 1, k
            best = self._query(Q, 1, threads)
            while high - low > 1:
                middle = (low + high) // 2
                try:
                    labels, distances = self.index.knn_query(Q, k=middle, num_threads=threads)
                    low, best = middle, (labels.astype(np.int64), distances)
                except RuntimeError:
                    high = middle
            return best
        labels = np.full((len(Q), k), -1, dtype=np.int64)
        distances = np.full((len(Q), k), np.inf, dtype=np.float32)
        for i in range(len(Q)):
            one_labels, one_distances = self._query(Q[i : i + 1], k, threads)
            labels[i, : one_labels.shape[1]] = one_labels
            distances[i, : one_labels.shape[1]] = one_distances
        return labels, distances

    def pool(
        self,
        queries: Any,
        k_pool: int,
        *,
        ef: int | None = None,
        n_threads: int | None = None,
    ) -> npt.NDArray[np.int64]:
        """Return the ids of the k_pool nearest elements found, in rank order, for `LaneSearch`.

        Parameters and errors are those of `search`; the shape is (n_queries, k_pool).
        """
        return self.search(queries, k_pool, ef=ef, n_threads=n_threads).ids

    def __len__(self) -> int:
        return int(self.index.get_current_count())

    def __getstate__(self) -> dict[str, Any]:
        return {"index": self.index}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["index"])  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"HNSW(dim={self.dim}, metric={self.metric!r}, n={len(self)})"
