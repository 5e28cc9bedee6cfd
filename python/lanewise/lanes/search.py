"""Pool, plan, lanes, merge: the whole trip of a query."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from lanewise.arrays import as_queries, as_vector_ids, check_choice, check_int, check_real
from lanewise.kernels import Kernels, get
from lanewise.lanes.merging import merge
from lanewise.lanes.overlap import mway_jaccard, pairwise_jaccard
from lanewise.lanes.planning import SCHEMES, Plan, plan, query_keys
from lanewise.result import SearchResult
from lanewise.threads import resolve_threads

__all__ = ["LaneResult", "LaneSearch"]

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LaneResult(SearchResult):
    """What `LaneSearch.search` returns: a `SearchResult` with the story of its lanes.

    Attributes
    ----------
    plan : Plan
        Who scored what; its ``counts`` are the candidates of each lane.
    lane_distances : ndarray of float32, shape (n_queries, n_lanes, k_lane)
        The scores, inf where a lane had no candidate.
    pool : ndarray of int64, shape (n_queries, k_pool)
        The candidates in rank order.
    """

    plan: Plan = None  # type: ignore[assignment]
    lane_distances: Floats = None  # type: ignore[assignment]
    pool: Ids = None  # type: ignore[assignment]

    @cached_property
    def coverage(self) -> npt.NDArray[np.float64]:
        """Share of the pool's candidates that some lane scored, shape (n_queries,)."""
        in_pool = (self.pool >= 0).sum(axis=1)
        ids = np.sort(self.plan.ids.reshape(len(self.pool), -1), axis=1)
        distinct = ids >= 0
        distinct[:, 1:] &= ids[:, 1:] != ids[:, :-1]
        scored: npt.NDArray[np.float64] = distinct.sum(axis=1) / np.maximum(in_pool, 1)
        return np.where(in_pool > 0, scored, 1.0)

    @cached_property
    def pairwise_jaccard(self) -> npt.NDArray[np.float64]:
        """Mean Jaccard index of two lanes' candidates, shape (n_queries,)."""
        return pairwise_jaccard(self.plan.ids)

    @cached_property
    def mway_jaccard(self) -> npt.NDArray[np.float64]:
        """Jaccard index of all lanes' candidates at once, shape (n_queries,)."""
        return mway_jaccard(self.plan.ids)

    def without(self, lost: int | list[int]) -> SearchResult:
        """Return the answer that the other lanes give if the lost ones never report."""
        k = self.ids.shape[1]
        kept = np.setdiff1d(np.arange(self.plan.n_lanes), np.atleast_1d(lost))
        return _merge_lanes(self.lane_distances[:, kept], self.plan.ids[:, kept], k)


class LaneSearch:
    """Search in lanes: one pool for each query, disjoint shares of it, scored in parallel.

    It pays where scoring a candidate is dear, where replicas should do complementary work, and
    where a lane may be lost. For an index in memory one wider search does as well.

    Parameters
    ----------
    pool : object or callable
        Gives candidates in rank order: an object with ``pool(queries, k_pool)``, such as `HNSW`,
        `IVF` or `Flat`, or a callable of the same form. It returns int64 ids, shape
        (n_queries, k_pool), -1 for none.
    scorer : object or callable
        An object with ``score(queries, ids)`` for a batch, such as `Flat`, which runs without the
        interpreter's lock; or a callable ``score(query, ids)`` for one query, which returns one
        distance for each id, smaller is nearer.
    n_lanes : int, default 4
    k_lane : int, default 16
        Candidates that a lane scores for each query, at most.
    k_pool : int, optional
        Candidates asked from the pool; n_lanes * k_lane by default. Fewer than that warns.
    alpha, head, scheme
        See `plan`.
    key : int, bytes, or None, default None
        128-bit key of all plans; by default each query's own, see `query_keys`.
    kernels : str or Kernels, optional
    n_threads : int, optional
        Threads for the pool and the plan. Lanes have a thread each.

    Examples
    --------
    >>> import numpy as np
    >>> import lanewise as lw
    >>> X = np.random.default_rng(0).standard_normal((1000, 16), dtype=np.float32)
    >>> flat = lw.Flat(16).add(X)
    >>> ivf = lw.IVF(16, n_lists=10).train(X).add(X)
    >>> result = lw.LaneSearch(ivf, flat, n_lanes=4, k_lane=16).search(X[:2], k=5)
    >>> result.ids[:, 0].tolist(), result.pairwise_jaccard.tolist()
    ([0, 1], [0.0, 0.0])
    """

    def __init__(
        self,
        pool: Any,
        scorer: Any,
        *,
        n_lanes: int = 4,
        k_lane: int = 16,
        k_pool: int | None = None,
        alpha: float = 1.0,
        head: int = 0,
        scheme: str = "stratified",
        key: int | bytes | None = None,
        kernels: str | Kernels | None = None,
        n_threads: int | None = None,
    ) -> None:
        self._enumerate = _method(pool, "pool")
        self._score = _batch_scorer(scorer)
        self.dim = getattr(scorer, "dim", getattr(pool, "dim", None))
        self.n_lanes = check_int(n_lanes, "n_lanes", low=1, high=2**16)
        self.k_lane = check_int(k_lane, "k_lane", low=1)
        k_total = self.n_lanes * self.k_lane
        self.k_pool = k_total if k_pool is None else check_int(k_pool, "k_pool", low=1)
        if self.k_pool < k_total:
            warnings.warn(
                f"k_pool = {self.k_pool} is less than n_lanes * k_lane = {k_total}: "
                f"lanes will have less to score than they may",
                stacklevel=2,
            )
        self.alpha = check_real(alpha, "alpha", low=0.0, high=1.0)
        self.head = check_int(head, "head", low=0)
        self.scheme = check_choice(scheme, "scheme", SCHEMES)
        self.key = key
        self.kernels = get(kernels)
        self.n_threads = n_threads
        resolve_threads(n_threads)

    def search(self, queries: Any, k: int = 10) -> LaneResult:
        """Find the k nearest among the candidates that the lanes score.

        Parameters
        ----------
        queries : array-like of shape (n_queries, dim) or (dim,)
        k : int, default 10

        Returns
        -------
        LaneResult
            Shapes (n_queries, k), no id twice, in the order of (distance, id).

        Raises
        ------
        ValueError, TypeError
            If an argument is out of its range, `queries` holds NaN or infinities, or the pool or
            the scorer returns what does not fit.
        """
        dim = self.dim if self.dim is not None else (np.shape(queries) or (0,))[-1]
        Q = as_queries(queries, "queries", dim)
        k = check_int(k, "k", low=0)
        pool = as_vector_ids(self._enumerate(Q, self.k_pool), "pool", ndim=2, allow_missing=True)
        if len(pool) != len(Q):
            raise ValueError(f"pool: expected {len(Q)} rows, one for each query, got {len(pool)}")
        planned = plan(
            pool,
            query_keys(Q) if self.key is None else self.key,
            n_lanes=self.n_lanes,
            k_lane=self.k_lane,
            scheme=self.scheme,
            alpha=self.alpha,
            head=self.head,
            kernels=self.kernels,
            n_threads=self.n_threads,
        )
        scores = np.full(planned.ids.shape, np.inf, dtype=np.float32)

        def run(lane: int) -> None:
            scores[:, lane] = self._score(Q, np.ascontiguousarray(planned.ids[:, lane]))

        if len(Q) > 0:
            with ThreadPoolExecutor(max_workers=min(self.n_lanes, 64)) as executor:
                # Waits for all lanes; the first one's error is raised.
                list(executor.map(run, range(self.n_lanes)))
        merged = _merge_lanes(scores, planned.ids, k)
        stats = {**merged.stats, "scored": planned.counts.sum(axis=1)}
        return LaneResult(merged.distances, merged.ids, stats, planned, scores, pool)

    def __repr__(self) -> str:
        return (
            f"LaneSearch(n_lanes={self.n_lanes}, k_lane={self.k_lane}, scheme={self.scheme!r}, "
            f"alpha={self.alpha})"
        )


def _merge_lanes(distances: Floats, ids: Ids, k: int) -> SearchResult:
    n_queries = len(ids)
    width = ids.shape[1] * ids.shape[2]
    return merge(distances.reshape(n_queries, width), ids.reshape(n_queries, width), k)


def _method(enumerator: Any, name: str) -> Callable[[Floats, int], Any]:
    method: Callable[[Floats, int], Any] = getattr(enumerator, name, enumerator)
    if not callable(method):
        raise TypeError(f"{name}: expected an index or a callable, got {type(enumerator).__name__}")
    return method


def _batch_scorer(scorer: Any) -> Callable[[Floats, Ids], Floats]:
    if hasattr(scorer, "score"):
        # Lanes are the parallelism: each stays on its own thread.
        return lambda Q, ids: scorer.score(Q, ids, n_threads=1)
    if not callable(scorer):
        raise TypeError(f"scorer: expected an index or a callable, got {type(scorer).__name__}")

    def score(Q: Floats, ids: Ids) -> Floats:
        distances = np.full(ids.shape, np.inf, dtype=np.float32)
        for i, query in enumerate(Q):
            present = ids[i][ids[i] >= 0]
            if len(present) == 0:
                continue
            scored = np.asarray(scorer(query, present))
            if scored.shape != present.shape:
                raise ValueError(
                    f"scorer: expected {len(present)} distances for {len(present)} ids, "
                    f"got shape {scored.shape}"
                )
            distances[i, : len(present)] = scored
        return distances

    return score
