"""Lanes that score candidates while the pool is still being found."""

from __future__ import annotations

import bisect
import functools
import itertools
import threading
import time
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lanewise.arrays import as_queries, check_int
from lanewise.lanes.executors import LaneExecutor, as_executor, check_payload, check_scores
from lanewise.lanes.merging import merge
from lanewise.lanes.planning import as_keys, keys_of, own_dimension
from lanewise.lanes.running import share, wait_until
from lanewise.lanes.search import as_deadline
from lanewise.result import SearchResult
from lanewise.streams import Candidates, CandidateStream

__all__ = ["StreamResult", "StreamSearch"]

# Elements that a search expands between two looks at the lanes: few until they begin, then more.
# Lanes want the interpreter's lock as well: who comes back often waits for it often.
_EXPANSIONS = (4, 2, 2, 32, 128, 512, 2048)
# Seconds that a call of an executor's submit may take.
_PATIENCE = 5.0

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class StreamResult(SearchResult):
    """What `StreamSearch.search` returns. Times are in seconds, from the beginning of each query.

    Attributes
    ----------
    pool : ndarray of int64, shape (n_queries, k_pool)
        In rank order, -1 for none.
    pool_lanes : ndarray of int32, shape (n_queries, k_pool)
        Whose each candidate is, -1 where there is none.
    pool_distances : ndarray of float32, shape (n_queries, k_pool)
        The scores, inf where there is none.
    pool_scored : ndarray of bool, shape (n_queries, k_pool)
        Which candidates were scored in time.
    scored, wasted, early : ndarray of int64, shape (n_queries,)
        Candidates that the lanes scored; those of them that are not in the pool; those that they
        were given before the pool was there.
    most_waiting : ndarray of int64, shape (n_queries,)
        Most candidates that waited in the queues of all lanes at once.
    time_to_first_candidate, time_to_first_score : ndarray of float64, shape (n_queries,)
        Until the first candidate was given to a lane, and until its score came back; NaN if never.
    pool_seconds : ndarray of float64, shape (n_queries,)
        How long the search for the pool worked, handing candidates over not included.
    seconds : ndarray of float64, shape (n_queries,)
        The whole trip.
    complete : ndarray of bool, shape (n_queries,)
        Whether the search for the pool came to its end, and all of the pool was scored, in time.
    """

    pool: Ids = None  # type: ignore[assignment]
    pool_lanes: npt.NDArray[np.int32] = None  # type: ignore[assignment]
    pool_distances: Floats = None  # type: ignore[assignment]
    pool_scored: npt.NDArray[np.bool_] = None  # type: ignore[assignment]
    scored: Ids = None  # type: ignore[assignment]
    wasted: Ids = None  # type: ignore[assignment]
    early: Ids = None  # type: ignore[assignment]
    most_waiting: Ids = None  # type: ignore[assignment]
    time_to_first_candidate: Doubles = None  # type: ignore[assignment]
    time_to_first_score: Doubles = None  # type: ignore[assignment]
    pool_seconds: Doubles = None  # type: ignore[assignment]
    seconds: Doubles = None  # type: ignore[assignment]
    complete: npt.NDArray[np.bool_] = None  # type: ignore[assignment]

    @cached_property
    def waste(self) -> Doubles:
        """Share of what was scored that the pool does not hold, shape (n_queries,)."""
        return self.wasted / np.maximum(self.scored, 1)

    @cached_property
    def coverage(self) -> Doubles:
        """Share of the pool that was scored in time, shape (n_queries,)."""
        return share(self.pool_scored.sum(axis=1), (self.pool >= 0).sum(axis=1))


class StreamSearch:
    """Search in lanes that begin before the pool is complete.

    A candidate goes to the lane that owns it, by the scheme "owner" of `plan`, when the search
    comes by it. What a lane cannot take yet waits in a queue, nearest first; what finds no room
    there, or is pushed out of the pool while it waits, is left for the end, when the pool tells
    what is still to be scored. The answer is made from the pool alone, so that it is the answer of
    a `LaneSearch` with ``scheme="owner"`` and room for the whole pool.

    It is for the latency of one query where the search for the pool takes long: queries are taken
    one after another.

    Parameters
    ----------
    index : object or callable
        Gives candidates as it finds them: an object with ``stream(query, k_pool, *, n_lanes, key)``
        such as `HNSW`, or a callable of the same form such as
        ``functools.partial(hnsw.stream, ef=200)``. It returns a `lanewise.streams.CandidateStream`.
    scorer : object, callable, or LaneExecutor
        As for `LaneSearch`.
    n_lanes : int, default 4
    k_pool : int, default 64
    queue : int, default 16
        Most candidates that wait for each lane.
    step : int, default 4
        Most candidates that a lane is given at a time while the pool is being found, and with a
        deadline after that as well.
    key : int, bytes, or None, default None
        128-bit key of the lanes; by default each query's own, see `query_keys`.
    deadline : float, optional
        Seconds that a query may take: after that the answer is made of what there is.

    Examples
    --------
    >>> import numpy as np
    >>> import lanewise as lw
    >>> X = np.random.default_rng(0).standard_normal((1000, 16), dtype=np.float32)
    >>> graph, flat = lw.HNSW.build(X), lw.Flat(16).add(X)
    >>> with StreamSearch(graph, flat, n_lanes=4, k_pool=64) as search:
    ...     result = search.search(X[:2], k=5)
    >>> result.ids[:, 0].tolist(), result.coverage.tolist()
    ([0, 1], [1.0, 1.0])
    """

    def __init__(
        self,
        index: Any,
        scorer: Any,
        *,
        n_lanes: int = 4,
        k_pool: int = 64,
        queue: int = 16,
        step: int = 4,
        key: int | bytes | None = None,
        deadline: float | None = None,
    ) -> None:
        if not callable(getattr(index, "stream", index)):
            raise TypeError(f"index: expected one that streams, got {type(index).__name__}")
        self.index = index
        self.executor: LaneExecutor = as_executor(scorer)
        self.n_lanes = check_int(n_lanes, "n_lanes", low=1, high=2**16)
        self.k_pool = check_int(k_pool, "k_pool", low=1, high=2**31 - 1)
        self.queue = check_int(queue, "queue", low=1)
        self.step = check_int(step, "step", low=1)
        self.key = key
        if key is not None:
            as_keys(key, 1)
        self.deadline = as_deadline(deadline)

    def search(
        self,
        queries: Any,
        k: int = 10,
        *,
        payload: Any = None,
        deadline: float | None = None,
    ) -> StreamResult:
        """Find the k nearest of each query's pool.

        Parameters
        ----------
        queries : array-like of shape (n_queries, dim) or (dim,)
        k : int, default 10
        payload : sequence, optional
            What the scorer gets instead, one item a query.
        deadline : float, optional
            Seconds a query; by default that of the constructor.

        Returns
        -------
        StreamResult
            Shapes (n_queries, k), no id twice, in the order of (distance, id). `stats` are those of
            the search for the pool.

        Raises
        ------
        ValueError, TypeError
            If an argument is out of its range, `queries` holds NaN or infinities, or the index or
            the scorer returns what does not fit.
        Exception
            Whatever the index or the scorer raises. What other lanes do then is not waited for.
        """
        dim = getattr(self.index, "dim", None)
        Q = as_queries(queries, "queries", own_dimension(queries) if dim is None else dim)
        k = check_int(k, "k", low=0)
        given: Any = Q if payload is None else check_payload(payload, len(Q))
        deadline = self.deadline if deadline is None else as_deadline(deadline)
        keys = keys_of(Q, self.key)
        trips = [
            self._trip(Q[i], given[i : i + 1], keys[i : i + 1], deadline) for i in range(len(Q))
        ]
        return self._result(trips, k)

    def _trip(
        self, query: Floats, item: Any, key: npt.NDArray[np.uint64], deadline: float | None
    ) -> dict[str, Any]:
        """All that is to be said of one query, by the names in `StreamResult`."""
        began = time.perf_counter()
        until = None if deadline is None else began + deadline
        flight = _Flight(self.executor, item, self.n_lanes, self.queue, self.step, until)
        open_stream = getattr(self.index, "stream", self.index)
        try:
            stream = open_stream(query, self.k_pool, n_lanes=self.n_lanes, key=key)
            owners = getattr(stream, "owners", None)
            if not isinstance(stream, CandidateStream) or owners is None:
                raise TypeError(
                    f"index: expected a CandidateStream with owners, got {type(stream).__name__}"
                )
            with stream:
                worked = time.perf_counter() - began
                sizes = itertools.chain(_EXPANSIONS, itertools.repeat(_EXPANSIONS[-1]))
                while not stream.ended and flight.may_go_on():
                    started = time.perf_counter()
                    some = stream.advance(next(sizes))
                    bound = stream.bound
                    worked += time.perf_counter() - started
                    flight.offer(some, bound)
                started = time.perf_counter()
                ended = stream.ended
                found = stream.finish(early=True)
                lanes = owners.of(found.ids[0])
                worked += time.perf_counter() - started
            flight.deal(found.ids[0], lanes)
            flight.wait()
        finally:
            flight.stop()
        pool = found.ids[0]
        scores = flight.scores
        scored = np.array([i in scores for i in pool.tolist()], dtype=np.bool_)
        return {
            "pool": pool,
            "pool_lanes": lanes,
            "pool_distances": np.array(
                [scores.get(i, np.inf) for i in pool.tolist()], dtype=np.float32
            ),
            "pool_scored": scored,
            "scored": len(scores),
            "wasted": len(scores) - int(scored.sum()),
            "early": flight.early,
            "most_waiting": flight.most_waiting,
            "time_to_first_candidate": flight.first_given - began,
            "time_to_first_score": flight.first_scored - began,
            "pool_seconds": worked,
            "seconds": time.perf_counter() - began,
            "complete": ended and bool((scored | (pool < 0)).all()),
            "stats": found.stats,
        }

    def _result(self, trips: list[dict[str, Any]], k: int) -> StreamResult:
        def column(name: str, dtype: Any, *width: int) -> npt.NDArray[Any]:
            rows = [trip[name] for trip in trips]
            return np.array(rows, dtype=dtype).reshape(len(trips), *width)

        columns = {
            "pool": column("pool", np.int64, self.k_pool),
            "pool_lanes": column("pool_lanes", np.int32, self.k_pool),
            "pool_distances": column("pool_distances", np.float32, self.k_pool),
            "pool_scored": column("pool_scored", np.bool_, self.k_pool),
            "complete": column("complete", np.bool_),
        }
        for name in ("scored", "wasted", "early", "most_waiting"):
            columns[name] = column(name, np.int64)
        for name in ("time_to_first_candidate", "time_to_first_score", "pool_seconds", "seconds"):
            columns[name] = column(name, np.float64)
        stats = {}
        if trips:
            names = trips[0]["stats"]
            stats = {name: np.concatenate([t["stats"][name] for t in trips]) for name in names}
        ids = np.where(columns["pool_scored"], columns["pool"], -1)
        merged = merge(columns["pool_distances"], ids, k)
        return StreamResult(merged.distances, merged.ids, stats, **columns)

    def close(self) -> None:
        """Give back threads, processes and whatever else the executor holds; it can go on after."""
        self.executor.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"StreamSearch(n_lanes={self.n_lanes}, k_pool={self.k_pool}, queue={self.queue})"


class _Flight:
    """The lanes of one query: what waits for each of them, and what has been scored."""

    def __init__(
        self,
        executor: LaneExecutor,
        item: Any,
        n_lanes: int,
        queue: int,
        step: int,
        until: float | None,
    ) -> None:
        self.executor, self.item, self.n_lanes = executor, item, n_lanes
        self.queue, self.step, self.until = queue, step, until
        self.condition = threading.Condition()
        self.over = False
        self.error: BaseException | None = None
        # Of each lane, the nearest at the front: (distance, id).
        self.waiting: dict[int, list[tuple[float, int]]] = {}
        self.bound = np.inf
        # What came before the search has turned; None from then on.
        self.met: list[tuple[float, int, int]] | None = []
        # Of each lane once the pool is known: what it has yet to score, in rank order.
        self.left: dict[int, Ids] | None = None
        self.at_work: set[int] = set()
        self.futures: dict[int, Future[Any]] = {}
        self.asking = 0
        self.given: set[int] = set()
        self.scores: dict[int, float] = {}
        self.early = self.most_waiting = 0
        self.first_given = self.first_scored = np.nan

    def may_go_on(self) -> bool:
        """Whether anybody still wants candidates."""
        return not self.over and (self.until is None or time.perf_counter() < self.until)

    def offer(self, some: Candidates, bound: float) -> None:
        """Let candidates wait for their lanes, and lanes that are idle begin."""
        with self.condition:
            self.bound = bound
            waiting = self.waiting
            if len(waiting) == self.n_lanes and all(len(w) == self.queue for w in waiting.values()):
                # Most of what a long search comes by finds no room any more.
                bound = min(bound, max(own[-1][0] for own in waiting.values()))
            lanes = self._put(_triples(some, bound))
            self.most_waiting = max(self.most_waiting, sum(map(len, waiting.values())))
        for lane in lanes:
            self._go(lane)

    def _put(self, some: list[tuple[float, int, int]]) -> set[int]:
        """Let candidates wait; return whose they are."""
        if self.met is not None:
            # What the search meets on the way to where it turns is mostly too far to stay.
            met = self.met + some
            nearest = met.index(min(met)) if met else 0
            self.met = met[nearest:]
            if len(self.met) < 2:
                return set()
            some, self.met = self.met, None
        for distance, i, lane in some:
            own = self.waiting.setdefault(lane, [])
            bisect.insort(own, (distance, i))
            if len(own) > self.queue:
                # Left for the end: if it stays in the pool, it comes with it.
                own.pop()
        return {lane for _, _, lane in some}

    def deal(self, pool: Ids, lanes: npt.NDArray[np.int32]) -> None:
        """Let the lanes score what the pool has left for them."""
        with self.condition:
            given = np.fromiter(self.given, dtype=np.int64, count=len(self.given))
            self.early = len(given)
            new = (pool >= 0) & ~np.isin(pool, given)
            self.left = {int(lane): pool[new & (lanes == lane)] for lane in np.unique(lanes[new])}
            starting = list(self.left) if self.may_go_on() else []
        for lane in starting:
            self._go(lane)

    def _take(self, lane: int) -> Ids | None:
        """Take the next candidates of a lane; None if it has none or is at work."""
        if self.over or lane in self.at_work:
            return None
        if self.left is not None:
            left = self.left.get(lane)
            if left is None or len(left) == 0:
                return None
            # Nothing is in vain now: if no deadline may cut it short, all at once.
            n = len(left) if self.until is None else self.step
            taken, self.left[lane] = left[:n], left[n:]
        else:
            own = self.waiting.get(lane, [])
            del own[bisect.bisect_right(own, self.bound, key=lambda waiting: waiting[0]) :]
            if not own:
                return None
            taken = np.array([i for _, i in own[: self.step]], dtype=np.int64)
            del own[: self.step]
        self.given.update(taken.tolist())
        self.at_work.add(lane)
        self.asking += 1
        if np.isnan(self.first_given):
            self.first_given = time.perf_counter()
        return taken

    def _go(self, lane: int) -> None:
        """Ask for the lane's next candidates, and see to it that somebody goes on after them."""
        # A loop and not a chain of callbacks, where answers are there at once.
        while True:
            with self.condition:
                taken = self._take(lane)
            if taken is None:
                return
            future = None
            try:
                future = self.executor.submit(lane, self.item, taken[np.newaxis])
            except Exception as error:
                self._fail(error)
                return
            finally:
                with self.condition:
                    self.asking -= 1
                    if future is not None:
                        self.futures[lane] = future
                    if self.over:
                        self.condition.notify_all()
            if not future.done():
                future.add_done_callback(functools.partial(self._after, lane, taken))
                return
            if not self._enter(lane, taken, future):
                return

    def _after(self, lane: int, taken: Ids, future: Future[Any]) -> None:
        if self._enter(lane, taken, future):
            self._go(lane)

    def _enter(self, lane: int, taken: Ids, future: Future[Any]) -> bool:
        """Enter what came; return whether to go on."""
        try:
            scores = check_scores(future.result(), taken[np.newaxis])[0]
        except BaseException as error:
            if not (self.over and isinstance(error, CancelledError)):
                self._fail(error)
            return False
        with self.condition:
            if self.over:
                return False
            if np.isnan(self.first_scored):
                self.first_scored = time.perf_counter()
            self.scores.update(zip(taken.tolist(), scores.tolist(), strict=True))
            self.at_work.remove(lane)
            if self._finished():
                self.condition.notify_all()
        return True

    def _fail(self, error: BaseException) -> None:
        with self.condition:
            if not self.over:
                self.error, self.over = error, True
                self.condition.notify_all()

    def _finished(self) -> bool:
        if self.over:
            return True
        if self.left is None or any(len(left) > 0 for left in self.left.values()):
            return False
        return not self.at_work

    def wait(self) -> None:
        """Wait for the lanes; raise what one of them raised."""
        with self.condition:
            wait_until(self.condition, self._finished, self.until)
        if self.error is not None:
            raise self.error

    def stop(self) -> None:
        """Let what comes later, or after an error or Ctrl-C, be nobody's."""
        with self.condition:
            self.over = True
            # Whoever is just asking is waited for, so that an executor that is closed now stays so;
            # but not for ever, because Ctrl-C may have hit the one who was.
            self.condition.wait_for(lambda: self.asking == 0, _PATIENCE)
            late = list(self.futures.values())
        for future in late:
            future.cancel()


def _triples(some: Candidates, bound: float) -> list[tuple[float, int, int]]:
    """Distance, id and lane of each candidate that is not beyond the bound."""
    assert some.lanes is not None
    near = some.distances <= bound
    columns = (some.distances[near], some.ids[near], some.lanes[near])
    return list(zip(*(column.tolist() for column in columns), strict=True))
