"""Pool, plan, lanes, merge: the whole trip of a query."""

from __future__ import annotations

import math
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from lanewise.arrays import (
    as_queries,
    as_vector_ids,
    check_choice,
    check_int,
    check_real,
)
from lanewise.kernels import Kernels, get
from lanewise.lanes.executors import as_executor, call, check_payload
from lanewise.lanes.merging import merge
from lanewise.lanes.overlap import mway_jaccard, pairwise_jaccard
from lanewise.lanes.planning import Plan, Setting, as_keys, keys_of, own_dimension
from lanewise.lanes.running import LaneReport, run, share
from lanewise.result import SearchResult
from lanewise.threads import resolve_threads

__all__ = ["LaneResult", "LaneSearch"]

# Looks at the clock that a lane gets while it scores its candidates.
_LOOKS = 8

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class LaneResult(SearchResult):
    """What `LaneSearch.search` returns: a `SearchResult` with the story of its lanes.

    Attributes
    ----------
    plan : Plan
        Who scored what; its ``counts`` are the candidates of each lane.
    lane_distances : ndarray of float32, shape (n_queries, n_lanes, k_lane)
        The scores, inf where there is none.
    scored : ndarray of bool, shape (n_queries, n_lanes, k_lane)
        Which candidates of the plan were scored in time.
    pool : ndarray of int64, shape (n_queries, k_pool)
        The candidates in rank order; those of the lanes side by side where each collected its own.
    keys : ndarray of uint64, shape (n_queries, 2)
        What the plan was made with.
    estimated : ndarray of bool, shape (n_queries, k)
        Answers whose distance is an estimate of the first stage.
    lanes : tuple of LaneReport
        What became of each lane.
    """

    plan: Plan = None  # type: ignore[assignment]
    lane_distances: Floats = None  # type: ignore[assignment]
    scored: Bools = None  # type: ignore[assignment]
    pool: Ids = None  # type: ignore[assignment]
    keys: npt.NDArray[np.uint64] = None  # type: ignore[assignment]
    estimated: Bools = None  # type: ignore[assignment]
    lanes: tuple[LaneReport, ...] = ()

    @property
    def missing(self) -> tuple[int, ...]:
        """Lanes that did not report all of their candidates in time."""
        return tuple(lane.lane for lane in self.lanes if not lane.on_time)

    @property
    def degraded(self) -> bool:
        """Whether the answer may differ from the one that all lanes would have given."""
        return bool((self.coverage < 1).any()) or any(lane.error for lane in self.lanes)

    @cached_property
    def coverage(self) -> npt.NDArray[np.float64]:
        """Share of the plan's candidates that were scored in time, shape (n_queries,)."""
        done = np.where(self.scored, self.plan.ids, -1)
        return share(_n_distinct(done), _n_distinct(self.plan.ids))

    @cached_property
    def pool_coverage(self) -> npt.NDArray[np.float64]:
        """Share of the pool's candidates that are in the plan, shape (n_queries,)."""
        return share(_n_distinct(self.plan.ids), (self.pool >= 0).sum(axis=1))

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

        Its `stats` hold ``coverage``, the share of the plan's candidates that are left. There are
        no estimates in it.
        """
        k = self.ids.shape[1]
        n_lanes = self.plan.n_lanes
        gone = as_vector_ids(lost if np.ndim(lost) > 0 else [lost], "lost", upper=n_lanes)
        kept = np.setdiff1d(np.arange(n_lanes), gone)
        done = np.where(self.scored, self.plan.ids, -1)[:, kept]
        merged = _merge_lanes(self.lane_distances[:, kept], done, k)
        left = share(_n_distinct(done), _n_distinct(self.plan.ids))
        return SearchResult(merged.distances, merged.ids, {**merged.stats, "coverage": left})


class LaneSearch:
    """Search in lanes: one pool for each query, disjoint shares of it, scored in parallel.

    It pays where scoring a candidate is dear, where replicas should do complementary work, and
    where a lane may be lost. For an index in memory one wider search does as well.

    Parameters
    ----------
    pool : object, callable, or list of them
        Gives candidates in rank order: an object with ``pool(queries, k_pool)``, such as `HNSW`,
        `IVF` or `Flat`, or a callable of the same form. It returns int64 ids, shape
        (n_queries, k_pool), -1 for none; or a `SearchResult`, whose distances are what
        ``fallback="first-stage"`` estimates from. Who has a parameter ``n_threads`` is told it.
        A list has a replica for each lane, for ``collect="lanes"``.
    scorer : object, callable, or LaneExecutor
        An object with ``score(queries, ids)`` for a batch, which returns distances of the shape of
        ids, such as `Flat`, which runs without the interpreter's lock; or a callable
        ``score(query, ids)`` for one query, which returns one distance for each id, or a coroutine
        function of that form. Smaller is nearer. An executor says where that happens: see
        `lanewise.lanes.Threads`, which is taken for scorers, `lanewise.lanes.Async`, which is taken
        for coroutine functions, and `lanewise.lanes.Processes`.
    n_lanes : int, default 4
    k_lane : int, default 16
        Candidates that a lane scores for each query, at most.
    k_pool : int, optional
        Candidates asked from the pool; n_lanes * k_lane by default. Fewer than that warns.
    alpha, head, scheme
        See `plan`.
    key : int, bytes, or None, default None
        128-bit key of all plans; by default each query's own, see `query_keys`.
    collect : {"pool", "lanes"}, default "pool"
        With ``"lanes"`` there is no pool: every lane collects what it owns while it searches the
        index, or its own replica, by ``collect(queries, k_lane, lane=, n_lanes=, alpha=, key=)``,
        which returns a `SearchResult`: see `HNSW.collect` and `IVF.collect`. Lanes then need to
        agree on the key alone. `scheme` plays no part then, and `head` must be 0.
    deadline : float, optional
        Seconds from the call of `search` after which it answers with what it has. A pool that takes
        longer is waited for.
    step : int, optional
        Candidates of each query that a lane scores at a time, best ranks first: what it has
        reported counts at the deadline. By default all at once, and with a deadline an eighth.
    fallback : {None, "first-stage"}, default None
        What to do about candidates of the pool that nobody has scored in time. With
        ``"first-stage"`` they take part with an estimate, the line through the scores of the
        others, over the pool's distances if it gave them, else over the logarithm of the rank.
    on_idle : {None, "continue"}, default None
        With ``"continue"`` a lane that has finished goes on with what the next lane has not
        reported, so that a lost lane costs time instead of answers.
    on_error : {"raise", "contain"}, default "raise"
        Whether an error of one lane ends the search, or that lane alone. If all lanes end in an
        error, the first one is raised.
    telemetry : object, optional
        Its ``observe(result, query_class)`` is called with every result.
    controller : object, optional
        Its ``choose(query_class)`` gives the `Setting` of each search that does not say, and its
        ``observe(result, query_class)`` learns from it.
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
        collect: str = "pool",
        deadline: float | None = None,
        step: int | None = None,
        fallback: str | None = None,
        on_idle: str | None = None,
        on_error: str = "raise",
        telemetry: Any = None,
        controller: Any = None,
        kernels: str | Kernels | None = None,
        n_threads: int | None = None,
    ) -> None:
        self.collect = check_choice(collect, "collect", ("pool", "lanes"))
        self.setting = Setting(
            check_int(n_lanes, "n_lanes", low=1, high=2**16),
            check_int(k_lane, "k_lane", low=1),
            check_real(alpha, "alpha", low=0.0, high=1.0),
            check_int(head, "head", low=0),
            scheme,
        )
        self._check_collect(self.setting)
        self.pool = self._checked_pool(pool)
        self.executor = as_executor(scorer)
        self.dim = getattr(scorer, "dim", getattr(getattr(scorer, "scorer", None), "dim", None))
        self._pool_dim = getattr(pool[0] if isinstance(pool, list) else pool, "dim", None)
        self._k_pool = None if k_pool is None else check_int(k_pool, "k_pool", low=1)
        if self.k_pool < self.setting.k_total:
            warnings.warn(
                f"k_pool = {self.k_pool} is less than n_lanes * k_lane = {self.setting.k_total}: "
                f"lanes will have less to score than they may",
                stacklevel=2,
            )
        self.key = key
        if key is not None:
            as_keys(key, 1)
        self.deadline = as_deadline(deadline)
        self.step = None if step is None else check_int(step, "step", low=1)
        self.fallback = _check_optional(fallback, "fallback", "first-stage")
        self.on_idle = _check_optional(on_idle, "on_idle", "continue")
        self.on_error = check_choice(on_error, "on_error", ("raise", "contain"))
        self.telemetry, self.controller = telemetry, controller
        self.kernels = get(kernels)
        self.n_threads = n_threads
        resolve_threads(n_threads)

    @property
    def n_lanes(self) -> int:
        """Number of lanes."""
        return self.setting.n_lanes

    @property
    def k_lane(self) -> int:
        """Most candidates that a lane scores."""
        return self.setting.k_lane

    @property
    def k_pool(self) -> int:
        """Candidates asked from the pool."""
        return self.setting.k_total if self._k_pool is None else self._k_pool

    def search(
        self,
        queries: Any,
        k: int = 10,
        *,
        payload: Any = None,
        deadline: float | None = None,
        setting: Setting | None = None,
        query_class: str | None = None,
    ) -> LaneResult:
        """Find the k nearest among the candidates that the lanes score.

        Parameters
        ----------
        queries : array-like of shape (n_queries, dim) or (dim,)
            What the pool is asked for.
        k : int, default 10
        payload : sequence, optional
            What the scorer gets instead, one item a query: texts, or matrices of token vectors.
        deadline : float, optional
            Seconds; by default that of the constructor.
        setting : Setting, optional
            Instead of the constructor's, or of what the controller chooses.
        query_class : str, optional
            Told to the controller and the telemetry, which keep classes apart.

        Returns
        -------
        LaneResult
            Shapes (n_queries, k), no id twice, in the order of (distance, id). `stats` holds
            ``duplicates``, candidates that two lanes scored; ``scored``, those that all lanes did;
            ``plan_seconds``, the planner's time, the same for all queries; and where lanes collect
            for themselves the sums of what their ``collect`` counts, such as ``distances``.

        Raises
        ------
        ValueError, TypeError
            If an argument is out of its range, `queries` holds NaN or infinities, or the pool or
            the scorer returns what does not fit.
        Exception
            Whatever the pool raises, and the scorer if ``on_error="raise"``.
        """
        began = time.perf_counter()
        dim = self._pool_dim
        if dim is None and payload is None:
            dim = self.dim
        Q = as_queries(queries, "queries", own_dimension(queries) if dim is None else dim)
        k = check_int(k, "k", low=0)
        given: Any = Q if payload is None else check_payload(payload, len(Q))
        deadline = self.deadline if deadline is None else as_deadline(deadline)
        if setting is None:
            setting = self.setting
            if self.controller is not None:
                setting = self.controller.choose(query_class)
        if not isinstance(setting, Setting):
            raise TypeError(f"setting: expected a Setting, got {type(setting).__name__}")
        self._check_collect(setting)
        keys = keys_of(Q, self.key)

        lost: dict[int, BaseException] = {}
        counted: dict[str, npt.NDArray[Any]] = {}
        far: Floats | None
        if self.collect == "lanes":
            planned, far, counted = self._collected(Q, keys, setting, lost)
            pool = planned.ids.reshape(len(Q), setting.k_total)
        else:
            pool, far = self._pooled(Q, setting)
            planning = time.perf_counter()
            planned = setting.plan(pool, keys, kernels=self.kernels, n_threads=self.n_threads)
            planned_in = (time.perf_counter() - planning) / max(1, len(Q))
            counted = {"plan_seconds": np.full(len(Q), planned_in)}
        step = self.step
        if step is None:
            step = setting.k_lane if deadline is None else -(-setting.k_lane // _LOOKS)
        outcome = run(
            self.executor,
            given,
            planned.ids,
            step=step,
            go_on=self.on_idle is not None,
            until=None if deadline is None else began + deadline,
            contain=self.on_error == "contain",
            began=began,
            lost=lost,
        )
        errors = [lane.error for lane in outcome.lanes if lane.error is not None]
        if len(errors) == setting.n_lanes:
            raise errors[0]

        done = np.where(outcome.scored, planned.ids, -1)
        distances, ids = (
            outcome.scores.reshape(len(Q), setting.k_total),
            done.reshape(len(Q), setting.k_total),
        )
        guesses = np.empty((len(Q), 0), dtype=np.int64)
        if self.fallback is not None and not outcome.scored[planned.ids >= 0].all():
            guesses, guessed = _estimates(pool, far, ids, distances)
            distances = np.concatenate((distances, guessed), axis=1)
            ids = np.concatenate((ids, guesses), axis=1)
        merged = merge(distances, ids, k)
        stats = {**merged.stats, "scored": outcome.scored.sum(axis=(1, 2)), **counted}
        result = LaneResult(
            merged.distances,
            merged.ids,
            stats,
            plan=planned,
            lane_distances=outcome.scores,
            scored=outcome.scored,
            pool=pool,
            keys=keys,
            estimated=_among(merged.ids, guesses),
            lanes=outcome.lanes,
        )
        for observer in (self.controller, self.telemetry):
            if observer is not None:
                observer.observe(result, query_class)
        return result

    def _check_collect(self, setting: Setting) -> None:
        if self.collect == "pool":
            return
        if setting.head != 0:
            raise ValueError(f'head: expected 0 with collect="lanes", got {setting.head}')
        if isinstance(getattr(self, "pool", None), list) and len(self.pool) != setting.n_lanes:
            raise ValueError(
                f"setting: expected {len(self.pool)} lanes, one a replica, got {setting.n_lanes}"
            )

    def _pooled(self, Q: Floats, setting: Setting) -> tuple[Ids, Floats | None]:
        """Candidates in rank order, and how far the first stage takes them to be."""
        k_pool = setting.k_total if self._k_pool is None else self._k_pool
        found = call(self.pool, "pool", Q, k_pool, n_threads=self.n_threads)
        ids, far = found, None
        if isinstance(found, SearchResult):
            ids, far = found.ids, found.distances
        pool = as_vector_ids(ids, "pool", ndim=2, allow_missing=True)
        if len(pool) != len(Q):
            raise ValueError(f"pool: expected {len(Q)} rows, one for each query, got {len(pool)}")
        return pool, far

    def _collected(
        self,
        Q: Floats,
        keys: npt.NDArray[np.uint64],
        setting: Setting,
        lost: dict[int, BaseException],
    ) -> tuple[Plan, Floats, dict[str, npt.NDArray[Any]]]:
        """Let every lane collect for itself: what, how far it is, and what that took."""
        shape = (len(Q), setting.n_lanes, setting.k_lane)
        ids = np.full(shape, -1, dtype=np.int64)
        far = np.full(shape, np.inf, dtype=np.float32)
        counted: dict[str, npt.NDArray[Any]] = {}

        def collect(lane: int) -> SearchResult:
            found = call(
                self.pool[lane] if isinstance(self.pool, list) else self.pool,
                "collect",
                Q,
                setting.k_lane,
                n_threads=1,
                lane=lane,
                n_lanes=setting.n_lanes,
                alpha=setting.alpha,
                key=keys,
            )
            if not isinstance(found, SearchResult):
                raise TypeError(f"pool: expected a SearchResult, got {type(found).__name__}")
            own = as_vector_ids(found.ids, "pool", ndim=2, allow_missing=True)
            if own.shape != (len(Q), setting.k_lane):
                raise ValueError(
                    f"pool: expected ids of shape {(len(Q), setting.k_lane)}, got {own.shape}"
                )
            return found

        threads = min(setting.n_lanes, resolve_threads(self.n_threads))
        with ThreadPoolExecutor(threads) as executor:
            futures = [executor.submit(collect, lane) for lane in range(setting.n_lanes)]
            for lane, future in enumerate(futures):
                error = future.exception()
                if error is not None:
                    if self.on_error == "raise":
                        raise error
                    lost[lane] = error
                    continue
                found = future.result()
                ids[:, lane], far[:, lane] = found.ids, found.distances
                for name, numbers in found.stats.items():
                    counted[name] = counted.get(name, 0) + numbers
        counts = (ids >= 0).sum(axis=2).astype(np.int32)
        planned = Plan(ids, counts, "owner", setting.alpha, 0)
        return planned, far.reshape(len(Q), setting.k_total), counted

    def _checked_pool(self, pool: Any) -> Any:
        method = "pool" if self.collect == "pool" else "collect"
        if self.collect == "lanes" and isinstance(pool, (list, tuple)):
            if len(pool) != self.n_lanes:
                raise ValueError(f"pool: expected {self.n_lanes}, one a lane, got {len(pool)}")
            for one in pool:
                _check_source(one, method)
            return list(pool)
        _check_source(pool, method)
        return pool

    def close(self) -> None:
        """Give back threads, processes and whatever else the executor holds; it can go on after."""
        self.executor.close()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "kernels"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.kernels = get()

    def __repr__(self) -> str:
        return (
            f"LaneSearch(n_lanes={self.n_lanes}, k_lane={self.k_lane}, "
            f"scheme={self.setting.scheme!r}, alpha={self.setting.alpha})"
        )


def _estimates(pool: Ids, far: Floats | None, ids: Ids, scores: Floats) -> tuple[Ids, Floats]:
    """Candidates that were not scored, -1 for the others, and what their scores may be."""
    first = np.log1p(np.arange(pool.shape[1])) + np.zeros(pool.shape) if far is None else far
    missing = pool.copy()
    guessed = np.full(pool.shape, np.inf, dtype=np.float32)
    for i, row in enumerate(pool):
        # The same candidate may have been scored by two lanes, with one result.
        known, at = np.unique(ids[i], return_index=True)
        place = np.searchsorted(known, row)
        scored = (known[np.minimum(place, len(known) - 1)] == row) & (row >= 0)
        missing[i, scored] = -1
        x = first[i].astype(np.float64)
        y = scores[i, at[np.minimum(place, len(known) - 1)]].astype(np.float64)
        fits = scored & np.isfinite(x) & np.isfinite(y)
        intercept, slope = _line(x[fits], y[fits])
        with np.errstate(over="ignore", invalid="ignore"):
            guessed[i] = np.nan_to_num(intercept + slope * x, nan=np.inf, posinf=np.inf)
    return missing, guessed


def _line(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Intercept and slope of the line of least squares, which never falls."""
    if len(x) == 0:
        # Nothing says how the two compare: the first stage alone decides.
        return 0.0, 1.0
    middle, spread = float(x.mean()), x - x.mean()
    variance = float(spread @ spread)
    slope = max(0.0, float(spread @ (y - y.mean())) / variance) if variance > 0 else 0.0
    return float(y.mean()) - slope * middle, slope


def _among(ids: Ids, some: Ids) -> Bools:
    """Which ids of each row are among the others of that row."""
    found = np.zeros(ids.shape, dtype=np.bool_)
    if some.shape[1] > 0:
        for i, row in enumerate(ids):
            found[i] = (row >= 0) & np.isin(row, some[i])
    return found


def _n_distinct(ids: Ids) -> npt.NDArray[np.int64]:
    """Distinct candidates that the lanes hold together, shape (n_queries,)."""
    ordered = np.sort(ids.reshape(len(ids), ids.shape[1] * ids.shape[2]), axis=1)
    distinct = ordered >= 0
    distinct[:, 1:] &= ordered[:, 1:] != ordered[:, :-1]
    count: npt.NDArray[np.int64] = distinct.sum(axis=1)
    return count


def _merge_lanes(distances: Floats, ids: Ids, k: int) -> SearchResult:
    n_queries = len(ids)
    width = ids.shape[1] * ids.shape[2]
    return merge(distances.reshape(n_queries, width), ids.reshape(n_queries, width), k)


def _check_source(source: Any, method: str) -> None:
    if not callable(getattr(source, method, source)):
        raise TypeError(f"pool: expected an index or a callable, got {type(source).__name__}")


def as_deadline(deadline: Any) -> float | None:
    if deadline is None:
        return None
    seconds = check_real(deadline, "deadline", low=0.0, allow_inf=True)
    return None if math.isinf(seconds) else seconds


def _check_optional(value: Any, name: str, choice: str) -> str | None:
    return None if value is None else check_choice(value, name, (choice,))
