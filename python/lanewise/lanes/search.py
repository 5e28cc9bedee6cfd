"""Pool, plan, lanes, merge: the whole trip of a query."""

from __future__ import annotations

import inspect
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from lanewise.arrays import (
    as_ndarray,
    as_queries,
    as_vector_ids,
    check_choice,
    check_int,
    check_real,
)
from lanewise.kernels import Kernels, get
from lanewise.lanes.merging import merge
from lanewise.lanes.overlap import mway_jaccard, pairwise_jaccard
from lanewise.lanes.planning import SCHEMES, Plan, as_keys, own_dimension, plan, query_keys
from lanewise.result import SearchResult
from lanewise.threads import resolve_threads

__all__ = ["LaneResult", "LaneSearch"]

# Lanes beyond these wait for their turn.
_MOST_THREADS = 64

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
        """Share of the plan's candidates that were scored, shape (n_queries,): 1 with all lanes."""
        return _share(_n_distinct(self.plan.ids), _n_distinct(self.plan.ids))

    @cached_property
    def pool_coverage(self) -> npt.NDArray[np.float64]:
        """Share of the pool's candidates that some lane scored, shape (n_queries,)."""
        return _share(_n_distinct(self.plan.ids), (self.pool >= 0).sum(axis=1))

    @cached_property
    def pairwise_jaccard(self) -> npt.NDArray[np.float64]:
        """Mean Jaccard index of two lanes' candidates, shape (n_queries,)."""
        return pairwise_jaccard(self.plan.ids)

    @cached_property
    def mway_jaccard(self) -> npt.NDArray[np.float64]:
        """Jaccard index of all lanes' candidates at once, shape (n_queries,)."""
        return mway_jaccard(self.plan.ids)

    def without(self, lost: int | list[int]) -> SearchResult:
        """Return the answer that the other lanes give if the lost ones never report.

        Its `stats` hold ``coverage``, the share of the plan's candidates that are left.
        """
        k = self.ids.shape[1]
        n_lanes = self.plan.n_lanes
        gone = as_vector_ids(lost if np.ndim(lost) > 0 else [lost], "lost", upper=n_lanes)
        kept = np.setdiff1d(np.arange(n_lanes), gone)
        merged = _merge_lanes(self.lane_distances[:, kept], self.plan.ids[:, kept], k)
        left = _share(_n_distinct(self.plan.ids[:, kept]), _n_distinct(self.plan.ids))
        return SearchResult(merged.distances, merged.ids, {**merged.stats, "coverage": left})


class LaneSearch:
    """Search in lanes: one pool for each query, disjoint shares of it, scored in parallel.

    It pays where scoring a candidate is dear, where replicas should do complementary work, and
    where a lane may be lost. For an index in memory one wider search does as well.

    Parameters
    ----------
    pool : object or callable
        Gives candidates in rank order: an object with ``pool(queries, k_pool)``, such as `HNSW`,
        `IVF` or `Flat`, or a callable of the same form. It returns int64 ids, shape
        (n_queries, k_pool), -1 for none. Who has a parameter ``n_threads`` is told it.
    scorer : object or callable
        An object with ``score(queries, ids)`` for a batch, which returns distances of the shape of
        ids, such as `Flat`, which runs without the interpreter's lock; or a callable
        ``score(query, ids)`` for one query, which returns one distance for each id. Smaller is
        nearer.
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
        Threads for the pool and the plan. Lanes have a thread each, 64 at the most.

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
        self.pool = _checked_source(pool, "pool", "pool")
        self.scorer = _checked_source(scorer, "scorer", "score")
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
        if key is not None:
            as_keys(key, 1)
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
        dim = self.dim if self.dim is not None else own_dimension(queries)
        Q = as_queries(queries, "queries", dim)
        k = check_int(k, "k", low=0)
        found = _call(self.pool, "pool", Q, self.k_pool, n_threads=self.n_threads)
        pool = as_vector_ids(found, "pool", ndim=2, allow_missing=True)
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
        scores = self._run_lanes(Q, planned)
        merged = _merge_lanes(scores, planned.ids, k)
        stats = {**merged.stats, "scored": planned.counts.sum(axis=1)}
        return LaneResult(merged.distances, merged.ids, stats, planned, scores, pool)

    def _run_lanes(self, Q: Floats, planned: Plan) -> Floats:
        scores = np.full(planned.ids.shape, np.inf, dtype=np.float32)
        if len(Q) == 0:
            return scores
        stop = threading.Event()

        def run(lane: int) -> None:
            ids = np.ascontiguousarray(planned.ids[:, lane])
            scores[:, lane] = _score_lane(self.scorer, Q, ids, stop)

        with ThreadPoolExecutor(max_workers=min(self.n_lanes, _MOST_THREADS)) as executor:
            try:
                # Waits for all lanes; the first one's error is raised.
                list(executor.map(run, range(self.n_lanes)))
            except BaseException:
                # After an error or Ctrl-C nobody wants what the other lanes would still score.
                stop.set()
                executor.shutdown(wait=False, cancel_futures=True)
                raise
        return scores

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "kernels"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.kernels = get()

    def __repr__(self) -> str:
        return (
            f"LaneSearch(n_lanes={self.n_lanes}, k_lane={self.k_lane}, scheme={self.scheme!r}, "
            f"alpha={self.alpha})"
        )


def _n_distinct(ids: Ids) -> npt.NDArray[np.int64]:
    """Distinct candidates that the lanes hold together, shape (n_queries,)."""
    ordered = np.sort(ids.reshape(len(ids), ids.shape[1] * ids.shape[2]), axis=1)
    distinct = ordered >= 0
    distinct[:, 1:] &= ordered[:, 1:] != ordered[:, :-1]
    count: npt.NDArray[np.int64] = distinct.sum(axis=1)
    return count


def _share(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return part / whole, and 1 where there is nothing to do."""
    return np.where(whole > 0, part / np.maximum(whole, 1), 1.0)


def _merge_lanes(distances: Floats, ids: Ids, k: int) -> SearchResult:
    n_queries = len(ids)
    width = ids.shape[1] * ids.shape[2]
    return merge(distances.reshape(n_queries, width), ids.reshape(n_queries, width), k)


def _checked_source(source: Any, name: str, method: str) -> Any:
    if not callable(getattr(source, method, source)):
        raise TypeError(f"{name}: expected an index or a callable, got {type(source).__name__}")
    return source


def _call(source: Any, method: str, *arguments: Any, n_threads: int | None) -> Any:
    """Call an index's method, or a callable itself; threads are told to those who ask for them."""
    function = getattr(source, method, source)
    try:
        takes_threads = "n_threads" in inspect.signature(function).parameters
    except ValueError:  # a callable of C code that does not tell
        takes_threads = False
    return function(*arguments, n_threads=n_threads) if takes_threads else function(*arguments)


def _score_lane(scorer: Any, Q: Floats, ids: Ids, stop: threading.Event) -> Floats:
    """Distances of one lane's candidates, shape (n_queries, k_lane)."""
    if hasattr(scorer, "score"):
        # Lanes are the parallelism: each stays on its own thread.
        return _checked_scores(_call(scorer, "score", Q, ids, n_threads=1), ids)
    distances = np.full(ids.shape, np.inf, dtype=np.float32)
    for i, query in enumerate(Q):
        present = ids[i][ids[i] >= 0]
        if stop.is_set():
            break
        if len(present) > 0:
            distances[i, : len(present)] = _checked_scores(scorer(query, present), present)
    return distances


def _checked_scores(scored: Any, ids: Ids) -> Floats:
    """Scores as float32, one for each id; what belongs to a missing one is not looked at."""
    scores = as_ndarray(scored, "scorer")
    if scores.dtype.kind not in "fiu":
        raise TypeError(f"scorer: expected numbers, got dtype {scores.dtype}")
    if scores.shape != ids.shape:
        raise ValueError(
            f"scorer: expected distances of shape {ids.shape}, one for each id, "
            f"got shape {scores.shape}"
        )
    if np.isnan(scores[ids >= 0]).any():
        raise ValueError("scorer: expected no NaN, got one")
    with np.errstate(over="ignore"):
        return scores.astype(np.float32)
