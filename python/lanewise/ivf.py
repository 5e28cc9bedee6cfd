"""Inverted lists: k-means cells, scanned with early termination."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lanewise.arrays import as_queries, check_int
from lanewise.canonical import accepted_queries, normalized
from lanewise.flat import Flat
from lanewise.kernels import Kernels
from lanewise.lanes.planning import check_lane, keys_of, plan
from lanewise.lists import Lists
from lanewise.progress import Progress
from lanewise.result import SearchResult
from lanewise.store import Rows
from lanewise.streams import CandidateStream, Owners

__all__ = ["IVF"]


class IVF(Lists):
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

    _KIND = "ivf"
    _SETTINGS = ("n_lists", "n_probe", "train_iterations", "seed")

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
        rows = Rows(dim, metric, storage, rotation, seed, kernels, n_threads)
        super().__init__(rows, n_lists, n_probe, train_iterations, seed)
        self._coarse: Flat | None = None

    def _take(self, centroids: npt.NDArray[np.float32]) -> None:
        coarse = Flat(
            self.dim, self.metric, kernels=self._rows.kernels, n_threads=self._rows.n_threads
        ).add(centroids)
        kmeans = self._model(centroids)
        self._kmeans, self._coarse = kmeans, coarse

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
        self._check_empty()
        rows, _ = self._rows.as_rows(X, "X")
        self._take(self._untrained().fit(rows, progress=progress).cluster_centers_)
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
        self._trained()
        assert self._coarse is not None
        Q = self._rows.as_canonical_queries(queries)
        threads = self._rows.threads(n_threads)
        return self._rows.search(
            Q,
            k,
            probes=self._coarse.search(Q, self._as_n_probe(n_probe), n_threads=threads).ids,
            filter=filter,
            eps0=eps0,
            delta=delta,
            n_threads=n_threads,
            rerank=rerank,
        )

    def pool(
        self,
        queries: Any,
        k_pool: int,
        *,
        n_probe: int | None = None,
        n_threads: int | None = None,
        lane: int | None = None,
        n_lanes: int | None = None,
        alpha: float = 1.0,
        key: Any = None,
    ) -> npt.NDArray[np.int64]:
        """Return the ids of the k_pool nearest rows found, in rank order, for `LaneSearch`.

        Parameters
        ----------
        queries, k_pool, n_probe, n_threads
            As for `search`.
        lane, n_lanes : int, optional
            Probe this lane's part of the `n_probe` cells, which are dealt to so many lanes by the
            scheme "stratified" of `plan`, as candidates are: lanes that each ask for themselves
            read different cells, and get pools without an id in common. Replicas need the same
            centroids for that, not the same rows.
        alpha : float, default 1.0
            As for `plan`: below 1 the nearest cells belong to all lanes.
        key : optional
            As for `plan`; by default each query's own, see `query_keys`.

        Returns
        -------
        ndarray of int64, shape (n_queries, k_pool)
            -1 where there is none.

        Raises
        ------
        ValueError, TypeError
            As from `search`, or if `lane` is not one of `n_lanes`.
        """
        if lane is None:
            if n_lanes is not None:
                raise ValueError("lane: expected one of n_lanes, got None")
            return self.search(queries, k_pool, n_probe=n_probe, n_threads=n_threads).ids
        return self.collect(
            queries,
            k_pool,
            lane=lane,
            n_lanes=n_lanes,
            alpha=alpha,
            key=key,
            n_probe=n_probe,
            n_threads=n_threads,
        ).ids

    def collect(
        self,
        queries: Any,
        k: int,
        *,
        lane: int,
        n_lanes: Any,
        alpha: float = 1.0,
        key: Any = None,
        n_probe: int | None = None,
        n_threads: int | None = None,
    ) -> SearchResult:
        """Find the k nearest rows of one lane: `pool` with distances and `stats`.

        Parameters and errors are those of `pool`.
        """
        self._trained()
        assert self._coarse is not None
        lane, n_lanes = check_lane(lane, n_lanes)
        asked = as_queries(queries, "queries", self.dim)
        n_probe = self._as_n_probe(n_probe)
        threads = self._rows.threads(n_threads)
        Q = self._rows.as_canonical_queries(asked)
        dealt = plan(
            self._coarse.search(Q, n_probe, n_threads=threads).ids,
            keys_of(asked, key),
            n_lanes=n_lanes,
            k_lane=-(-n_probe // n_lanes),
            alpha=alpha,
            n_threads=threads,
        )
        probes = np.ascontiguousarray(dealt.lane(lane))
        return self._rows.search(
            Q, k, probes=probes, filter=None, eps0=math.inf, n_threads=n_threads
        )

    def stream(
        self,
        query: Any,
        k_pool: int,
        *,
        n_probe: int | None = None,
        filter: Any = None,
        n_lanes: int | None = None,
        alpha: float = 1.0,
        key: Any = None,
        n_threads: int | None = None,
    ) -> CandidateStream:
        """Search for one query cell by cell, so that candidates can be scored as they are found.

        Cells are read nearest first. After c of p cells the best c / p of the pool so far are
        handed out: they are likely to stay. There are no `eps0` and `rerank`, whose answers depend
        on what is scanned together.

        Parameters
        ----------
        query : array-like of shape (dim,) or (1, dim)
        k_pool, n_probe, n_threads
            As for `pool`.
        filter
            As for `Flat.search`.
        n_lanes, alpha, key
            As for `HNSW.stream`.

        Returns
        -------
        CandidateStream
            To iterate over, or to `advance` by hand; its `finish` returns what `search` does, but
            for `stats`: bounds are those of the cells before, not of the rows before.

        Raises
        ------
        ValueError, TypeError
            As from `search`, if there is not just one query, or if storage is 'binary'.

        Examples
        --------
        >>> import numpy as np
        >>> import lanewise as lw
        >>> X = np.random.default_rng(0).standard_normal((500, 8), dtype=np.float32)
        >>> index = lw.IVF(8, n_lists=20).train(X).add(X)
        >>> with index.stream(X[0], 20, n_probe=6) as stream:
        ...     first = stream.advance(1).ids
        ...     pool = stream.finish().ids
        >>> bool((pool == index.pool(X[0], 20, n_probe=6)).all()), len(first), int(first[0])
        (True, 4, 0)
        """
        self._trained()
        assert self._coarse is not None
        asked = accepted_queries(query, self.dim, "query", any_length=self.metric == "cosine")
        if len(asked) != 1:
            raise ValueError(f"query: expected one, got {len(asked)}")
        k_pool = check_int(k_pool, "k_pool", low=0, high=2**31 - 1)
        owners = Owners.asked(asked, n_lanes, alpha, key, self._rows.kernels)
        Q = normalized(asked) if self.metric == "cosine" else asked
        threads = self._rows.threads(n_threads)
        return self._rows.stream(
            Q,
            k_pool,
            probes=self._coarse.search(Q, self._as_n_probe(n_probe), n_threads=threads).ids[0],
            filter=filter,
            owners=owners,
            n_threads=n_threads,
        )
