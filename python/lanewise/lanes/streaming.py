"""Lanes that score candidates while the pool is still being found."""

from __future__ import annotations

import bisect
import functools
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lanewise.arrays import as_queries, check_choice, check_int, check_real
from lanewise.canonical import as_they_are
from lanewise.lanes.executors import LaneExecutor, as_executor, check_payload, check_scores
from lanewise.lanes.merging import merge
from lanewise.lanes.planning import Setting, as_keys, keys_of, own_dimension
from lanewise.lanes.running import share, wait_until
from lanewise.lanes.search import as_deadline
from lanewise.result import SearchResult
from lanewise.streams import Candidates, CandidateStream, Owners

__all__ = ["StreamResult", "StreamSearch"]

# Calls that are remembered, of each kind.
_CALLS = 64
# Share that the last query has in a running mean.
_NEWS = 0.1
# Share of a trip that it may be longer because lanes begin early.
_LOSS = 0.01
# Queries that begin early by turns, to see what that takes, and after how many of the same kind
# one goes the other way: not one in a hundred.
_LEARNING = 8
_TRIAL = 200
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
        Whose each candidate is, -1 where there is none, or where it is everybody's.
    pool_distances : ndarray of float32, shape (n_queries, k_pool)
        The scores, inf where there is none.
    pool_planned, pool_scored : ndarray of bool, shape (n_queries, k_pool)
        Which candidates some lane is to score, all if lanes have room; which of them were scored in
        time.
    scored, wasted, early : ndarray of int64, shape (n_queries,)
        Candidates that the lanes scored, by each lane that did; those of them that are not in the
        plan of the pool; those that lanes were given before the pool was there.
    most_waiting : ndarray of int64, shape (n_queries,)
        Most candidates that waited in the queues of all lanes at once.
    time_to_first_candidate, time_to_first_score : ndarray of float64, shape (n_queries,)
        Until the first candidate was given to a lane, and until its score came back; NaN if never.
    pool_seconds : ndarray of float64, shape (n_queries,)
        How long the search for the pool worked, handing candidates over not included.
    seconds : ndarray of float64, shape (n_queries,)
        The whole trip.
    complete : ndarray of bool, shape (n_queries,)
        Whether the search for the pool came to its end, and all that is planned was scored, in
        time.
    """

    pool: Ids = None  # type: ignore[assignment]
    pool_lanes: npt.NDArray[np.int32] = None  # type: ignore[assignment]
    pool_distances: Floats = None  # type: ignore[assignment]
    pool_planned: npt.NDArray[np.bool_] = None  # type: ignore[assignment]
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
        """Share of what was scored that nobody had to score, shape (n_queries,)."""
        return self.wasted / np.maximum(self.scored, 1)

    @cached_property
    def coverage(self) -> Doubles:
        """Share of what is planned that was scored in time, shape (n_queries,)."""
        return share(self.pool_scored.sum(axis=1), self.pool_planned.sum(axis=1))


class StreamSearch:
    """Search in lanes that begin before the pool is complete.

    A candidate goes to the lane that owns it, by the scheme "owner" of `plan`, when the search
    comes by it. What a lane cannot take yet waits in a queue, nearest first; what finds no room
    there, or is pushed out of the pool while it waits, is left for the end, when the pool tells
    what is still to be scored. The answer is made from the plan of the pool alone, so that it is
    the answer of a `LaneSearch` with ``scheme="owner"`` and the same `k_lane`, `alpha` and `head`.
    The other schemes deal by rank, which nobody knows before the pool is there: they cannot stream.

    It is for the latency of one query where the search for the pool takes long: queries are taken
    one after another.

    Parameters
    ----------
    index : object or callable
        Gives candidates as it finds them: an object with ``stream(query, k_pool, *, n_lanes, key)``
        such as `HNSW` or `IVF`, or a callable of the same form such as
        ``functools.partial(hnsw.stream, ef=200)``. It returns a `lanewise.streams.CandidateStream`,
        and is given ``alpha`` if that is not 1.
    scorer : object, callable, or LaneExecutor
        As for `LaneSearch`.
    n_lanes : int, default 4
    k_pool : int, default 64
    k_lane : int, optional
        Most candidates of its plan that a lane scores; by default it has room for the whole pool.
        It is given no more than that before the pool is there.
    alpha : float, default 1.0
        As for `plan`: some candidates are everybody's, and go to all lanes as they are found.
    head : int, default 0
        As for `plan`. Which ranks are best the pool tells: the lane that is the second to score
        them gets them after it.
    queue : int, default 16
        Most candidates that wait for each lane.
    step : int, default 4
        Most candidates that a lane is given at a time while the pool is being found, and with a
        deadline after that as well.
    early : {"auto", "always"}, default "auto"
        When a lane begins before the pool is there it makes a call more than otherwise, and is in
        the way of the search. With ``"auto"`` it begins only if that makes the trip longer by no
        more than a hundredth, as far as earlier queries tell. ``"always"`` has the first score as
        soon as it can be had. Either way a lane goes on before the pool is there only if the next
        call has the time.
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
        k_lane: int | None = None,
        alpha: float = 1.0,
        head: int = 0,
        queue: int = 16,
        step: int = 4,
        early: str = "auto",
        key: int | bytes | None = None,
        deadline: float | None = None,
    ) -> None:
        if not callable(getattr(index, "stream", index)):
            raise TypeError(f"index: expected one that streams, got {type(index).__name__}")
        self.index = index
        self.executor: LaneExecutor = as_executor(scorer)
        self.n_lanes = check_int(n_lanes, "n_lanes", low=1, high=2**16)
        self.k_pool = check_int(k_pool, "k_pool", low=1, high=2**31 - 1)
        self.k_lane = None if k_lane is None else check_int(k_lane, "k_lane", low=1)
        self.alpha = check_real(alpha, "alpha", low=0.0, high=1.0)
        self.head = check_int(head, "head", low=0)
        self.queue = check_int(queue, "queue", low=1)
        self.step = check_int(step, "step", low=1)
        self.early = check_choice(early, "early", ("auto", "always"))
        # No lane has more than the whole pool.
        self._room = min(self.k_pool, self.k_pool if self.k_lane is None else self.k_lane)
        self._habits = _Habits()
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
        Q = None if dim is None else as_they_are(queries, dim)
        if Q is None:
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
        flight = _Flight(
            self.executor,
            item,
            self.n_lanes,
            self._room,
            self.queue,
            self.step,
            until,
            self._habits,
            began,
        )
        open_stream = getattr(self.index, "stream", self.index)
        named = {} if self.alpha == 1.0 else {"alpha": self.alpha}
        try:
            stream = open_stream(query, self.k_pool, n_lanes=self.n_lanes, key=key, **named)
            owners = getattr(stream, "owners", None)
            if not isinstance(stream, CandidateStream) or owners is None:
                raise TypeError(
                    f"index: expected a CandidateStream with owners, got {type(stream).__name__}"
                )
            with stream:
                early = self.early == "always" or self._habits.may_begin_early()
                pace = stream.pace if early or until is not None else stream.pace[-1:]
                worked = time.perf_counter() - began
                sizes = itertools.chain(pace, itertools.repeat(pace[-1]))
                while not stream.ended and flight.may_go_on():
                    started = time.perf_counter()
                    some = stream.advance(next(sizes))
                    bound = stream.bound
                    worked += time.perf_counter() - started
                    # What comes at the very end comes with the pool.
                    if early and not stream.ended:
                        flight.offer(some, bound)
                started = time.perf_counter()
                ended = stream.ended
                found = stream.finish(early=True)
                pool = found.ids[0]
                lanes = owners.of(pool)
                worked += time.perf_counter() - started
            first_given = flight.first_given
            planned = self._planned(pool, lanes, key, owners)
            flight.deal(planned)
            # Lanes are at work: whatever can be made ready meanwhile costs nothing.
            ready = _Ready(pool, planned)
            self._habits.end(early, first_given - began, worked)
            flight.wait()
        finally:
            flight.stop()
        n_scored, distances, scored = ready.entered(flight.calls)
        return {
            "pool": pool,
            "pool_lanes": lanes,
            "pool_distances": distances,
            "pool_planned": ready.planned,
            "pool_scored": scored,
            "scored": n_scored,
            "wasted": flight.wasted(),
            "early": flight.early,
            "most_waiting": flight.most_waiting,
            "time_to_first_candidate": flight.first_given - began,
            "time_to_first_score": flight.first_scored - began,
            "pool_seconds": worked,
            "seconds": time.perf_counter() - began,
            "complete": ended and bool((scored == ready.planned).all()),
            "stats": found.stats,
        }

    def _planned(
        self, pool: Ids, lanes: npt.NDArray[np.int32], key: npt.NDArray[np.uint64], owners: Owners
    ) -> dict[int, Ids]:
        """Return what each lane is to score, best ranks first, if it has anything."""
        if self._room == self.k_pool and self.alpha == 1.0 and self.head == 0:
            owners_of_any = np.flatnonzero(np.bincount(lanes + 1)[1:]).tolist()
            return {lane: pool[lanes == lane] for lane in owners_of_any}
        setting = Setting(self.n_lanes, self._room, self.alpha, self.head, "owner")
        plan = setting.plan(pool, key, kernels=owners.kernels, n_threads=1)
        counts = plan.counts[0].tolist()
        return {lane: plan.ids[0, lane, :n] for lane, n in enumerate(counts) if n > 0}

    def _result(self, trips: list[dict[str, Any]], k: int) -> StreamResult:
        def column(name: str, dtype: Any, *width: int) -> npt.NDArray[Any]:
            rows = [trip[name] for trip in trips]
            return np.array(rows, dtype=dtype).reshape(len(trips), *width)

        columns = {
            "pool": column("pool", np.int64, self.k_pool),
            "pool_lanes": column("pool_lanes", np.int32, self.k_pool),
            "pool_distances": column("pool_distances", np.float32, self.k_pool),
            "pool_planned": column("pool_planned", np.bool_, self.k_pool),
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


class _Habits:
    """What earlier queries tell of calls and of pools. Threads that share it may lose a number."""

    def __init__(self) -> None:
        # Candidates and seconds of calls. Large ones would soon have driven out the small ones.
        self.small: deque[tuple[int, float]] = deque(maxlen=_CALLS)
        self.large: deque[tuple[int, float]] = deque(maxlen=_CALLS)
        # What a call costs whatever comes with it, what the candidates of a small one cost, and all
        # that a large one does.
        self.call_seconds = self.few_seconds = self.many_seconds = 0.0
        # How long pools take while no lane is at work, and while lanes are; NaN if nobody knows.
        self.pool_seconds = self.disturbed_seconds = self.first_given = math.nan
        self.n_queries = 0
        # Queries since the last one that did not begin early, and that did.
        self.since = [0, 0]

    def may_begin_early(self) -> bool:
        """Whether lanes lose nothing to speak of if they begin before the pool is there."""
        ready = max(self.disturbed_seconds - self.few_seconds, self.first_given + self.call_seconds)
        early = not ready - self.pool_seconds > _LOSS * (self.pool_seconds + self.many_seconds)
        self.n_queries += 1
        if self.since[not early] >= (_TRIAL if self.n_queries > _LEARNING else 1):
            early = not early
        self.since[not early] += 1
        self.since[early] = 0
        return early

    def has_time(self, seconds: float) -> bool:
        """Whether a call after so many seconds is back, but for its candidates, with the pool."""
        undisturbed = self.pool_seconds
        pool_seconds = self.disturbed_seconds if math.isnan(undisturbed) else undisturbed
        return not seconds + self.call_seconds > pool_seconds

    def end(self, early: bool, first_given: float, pool_seconds: float) -> None:
        """Learn from a query whose pool is there; `first_given` is NaN if nothing was."""
        if early:
            self.first_given = _mean(self.first_given, first_given)
            self.disturbed_seconds = _mean(self.disturbed_seconds, pool_seconds)
        else:
            self.pool_seconds = _mean(self.pool_seconds, pool_seconds)
        if self.small and self.large:
            # Medians: a busy machine makes some calls many times longer.
            small, large = np.array(self.small.copy()), np.array(self.large.copy())
            few, quick = np.median(small, axis=0).tolist()
            many, slow = np.median(large, axis=0).tolist()
            each = max(slow - quick, 0.0) / (many - few)
            self.call_seconds = float(np.median(small[:, 1] - each * small[:, 0]))
            self.few_seconds, self.many_seconds = each * few, slow


def _mean(known: float, new: float) -> float:
    if math.isnan(known) or math.isnan(new):
        return new if math.isnan(known) else known
    return known + _NEWS * (new - known)


class _Ready:
    """The pool, laid out so that scores soon find their places."""

    def __init__(self, pool: Ids, planned: dict[int, Ids]) -> None:
        self.order = np.argsort(pool)
        self.sorted = pool[self.order]
        self.planned = np.zeros(len(pool), dtype=np.bool_)
        for ids in planned.values():
            self.planned[self._places(ids)] = True

    def _places(self, ids: Ids) -> Ids:
        """Where ids that the pool holds stand in it."""
        return self.order[np.searchsorted(self.sorted, ids)]

    def entered(
        self, calls: list[tuple[int, Ids, Floats]]
    ) -> tuple[int, Floats, npt.NDArray[np.bool_]]:
        """Return how many scores came, the pool's distances, and which of it were scored."""
        distances = np.full(len(self.order), np.inf, dtype=np.float32)
        scored = np.zeros(len(self.order), dtype=np.bool_)
        if not calls or len(self.order) == 0:
            return sum(len(ids) for _, ids, _ in calls), distances, scored
        ids = np.concatenate([ids for _, ids, _ in calls])
        scores = np.concatenate([scores for _, _, scores in calls])
        at = np.minimum(np.searchsorted(self.sorted, ids), len(self.sorted) - 1)
        place = self.order[at]
        counts = (self.sorted[at] == ids) & self.planned[place]
        distances[place[counts]], scored[place[counts]] = scores[counts], True
        return len(ids), distances, scored


class _Flight:
    """The lanes of one query: what waits for each of them, and what has been scored."""

    def __init__(
        self,
        executor: LaneExecutor,
        item: Any,
        n_lanes: int,
        k_lane: int,
        queue: int,
        step: int,
        until: float | None,
        habits: _Habits,
        began: float,
    ) -> None:
        self.executor, self.item, self.n_lanes = executor, item, n_lanes
        self.k_lane, self.queue, self.step, self.until = k_lane, queue, step, until
        self.habits, self.began = habits, began
        self.lock = threading.Lock()
        # Nobody waits before the pool is there, and the first score is in a hurry.
        self.condition: threading.Condition | None = None
        self.over = False
        self.error: BaseException | None = None
        # Of each lane, the nearest at the front: (distance, id).
        self.waiting: dict[int, list[tuple[float, int]]] = {}
        self.bound = np.inf
        # What came before the search has turned; None from then on.
        self.met: list[tuple[float, int, int]] | None = []
        # Of each lane, what it was given before the pool was known.
        self.given: dict[int, list[int]] = {}
        # Of each lane once the pool is known: what it has yet to score, in rank order.
        self.left: dict[int, Ids] | None = None
        self.in_vain: set[tuple[int, int]] = set()
        self.at_work: set[int] = set()
        self.futures: dict[int, Future[Any]] = {}
        self.asking = 0
        # Lane, ids and scores of each call that was answered.
        self.calls: list[tuple[int, Ids, Floats]] = []
        self.early = self.most_waiting = 0
        self.first_given = self.first_scored = math.nan

    def may_go_on(self) -> bool:
        """Whether anybody still wants candidates."""
        return not self.over and (self.until is None or time.perf_counter() < self.until)

    def offer(self, some: Candidates, bound: float) -> None:
        """Let candidates wait for their lanes, and lanes that are idle begin."""
        with self.lock:
            self.bound = bound
            if len(self.given) == self.n_lanes and not self._has_time():
                return
            waiting = self.waiting
            if len(waiting) == self.n_lanes and all(len(w) == self.queue for w in waiting.values()):
                # Most of what a long search comes by finds no room any more.
                bound = min(bound, max(own[-1][0] for own in waiting.values()))
            # Lanes are not even: a few times their room fill it. Where the search turns all that it
            # has met counts.
            most = len(some) if self.met is not None else 4 * self.n_lanes * self.queue
            lanes = self._put(_triples(some, bound, most))
            if lanes:
                self.most_waiting = max(self.most_waiting, sum(map(len, waiting.values())))
        for lane in lanes:
            self._go(lane)

    def _put(self, some: list[tuple[float, int, int]]) -> list[int]:
        """Let candidates wait; return whose they are, of the first ones first."""
        if self.met is not None:
            # What the search meets on the way to where it turns is mostly too far to stay.
            met = self.met + some
            nearest = met.index(min(met)) if met else 0
            self.met = met[nearest:]
            if len(self.met) < 2:
                return []
            some, self.met = self.met, None
        for distance, i, owner in some:
            for lane in self._lanes_of(owner):
                own = self.waiting.setdefault(lane, [])
                bisect.insort(own, (distance, i))
                if len(own) > self.queue:
                    # Left for the end: if it stays in the pool, it comes with it.
                    own.pop()
        return list(dict.fromkeys(lane for _, _, owner in some for lane in self._lanes_of(owner)))

    def _lanes_of(self, owner: int) -> Iterable[int]:
        return (owner,) if owner >= 0 else range(self.n_lanes)

    def deal(self, planned: dict[int, Ids]) -> None:
        """Let each lane score what is left of its part of the pool."""
        with self.lock:
            self.early = sum(map(len, self.given.values()))
            left = {}
            for lane, ids in planned.items():
                given = self.given.get(lane)
                left[lane] = ids if given is None else ids[~np.isin(ids, given)]
            self.left = left
            starting = list(left) if self.may_go_on() else []
        for lane in starting:
            self._go(lane)
        for lane, early in self.given.items():
            mine = np.isin(early, planned.get(lane, [])).tolist()
            self.in_vain.update((lane, i) for i, its in zip(early, mine, strict=True) if not its)

    def wasted(self) -> int:
        """How many were scored that are nobody's, or another's, in the plan of the pool."""
        if not self.in_vain:
            return 0
        return sum((lane, i) in self.in_vain for lane, ids, _ in self.calls for i in ids.tolist())

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
            while own and own[-1][0] > self.bound:
                own.pop()
            given = self.given.get(lane, [])
            n = min(self.step, self.k_lane - len(given))
            # A further call goes out only if it is back when the pool is there.
            if not own or n == 0 or (given and not self._has_time()):
                return None
            chosen = [i for _, i in own[:n]]
            taken = np.array(chosen, dtype=np.int64)
            del own[:n]
            self.given[lane] = given + chosen
        self.at_work.add(lane)
        self.asking += 1
        if math.isnan(self.first_given):
            self.first_given = time.perf_counter()
        return taken

    def _has_time(self) -> bool:
        return self.habits.has_time(time.perf_counter() - self.began)

    def _go(self, lane: int) -> None:
        """Ask for the lane's next candidates, and see to it that somebody goes on after them."""
        # A loop and not a chain of callbacks, where answers are there at once.
        while True:
            with self.lock:
                taken = self._take(lane)
            if taken is None:
                return
            began = time.perf_counter()
            future = None
            try:
                future = self.executor.submit(lane, self.item, taken[np.newaxis])
            except Exception as error:
                self._fail(error)
                return
            finally:
                with self.lock:
                    self.asking -= 1
                    if future is not None:
                        self.futures[lane] = future
                    if self.over:
                        self._notify()
            if not future.done():
                future.add_done_callback(functools.partial(self._after, lane, taken, began))
                return
            if not self._enter(lane, taken, began, future):
                return

    def _after(self, lane: int, taken: Ids, began: float, future: Future[Any]) -> None:
        if self._enter(lane, taken, began, future):
            self._go(lane)

    def _enter(self, lane: int, taken: Ids, began: float, future: Future[Any]) -> bool:
        """Enter what came; return whether to go on."""
        try:
            scores = check_scores(future.result(), taken[np.newaxis])[0]
        except BaseException as error:
            if not (self.over and isinstance(error, CancelledError)):
                self._fail(error)
            return False
        with self.lock:
            if self.over:
                return False
            now = time.perf_counter()
            if math.isnan(self.first_scored):
                self.first_scored = now
            calls = self.habits.small if len(taken) <= self.step else self.habits.large
            calls.append((len(taken), now - began))
            self.calls.append((lane, taken, scores))
            self.at_work.remove(lane)
            if self._finished():
                self._notify()
        return True

    def _fail(self, error: BaseException) -> None:
        with self.lock:
            if not self.over:
                self.error, self.over = error, True
                self._notify()

    def _notify(self) -> None:
        """Wake who waits, if anybody does; the caller holds the lock."""
        if self.condition is not None:
            self.condition.notify_all()

    def _finished(self) -> bool:
        if self.over:
            return True
        if self.left is None or any(len(left) > 0 for left in self.left.values()):
            return False
        return not self.at_work

    def wait(self) -> None:
        """Wait for the lanes; raise what one of them raised."""
        with self.lock:
            self.condition = threading.Condition(self.lock)
            wait_until(self.condition, self._finished, self.until)
        if self.error is not None:
            raise self.error

    def stop(self) -> None:
        """Let what comes later, or after an error or Ctrl-C, be nobody's."""
        with self.lock:
            self.over = True
            if self.condition is None:
                self.condition = threading.Condition(self.lock)
            # Whoever is just asking is waited for, so that an executor that is closed now stays so;
            # but not for ever, because Ctrl-C may have hit the one who was.
            self.condition.wait_for(lambda: self.asking == 0, _PATIENCE)
            late = list(self.futures.values())
        for future in late:
            future.cancel()


def _triples(some: Candidates, bound: float, most: int) -> list[tuple[float, int, int]]:
    """Distance, id and lane of the candidates that are not beyond the bound, the nearest `most`."""
    distances, ids, lanes = some.distances, some.ids, some.lanes
    assert lanes is not None
    if bound < np.inf:
        near = distances <= bound
        distances, ids, lanes = distances[near], ids[near], lanes[near]
    if len(ids) > most:
        near = np.sort(np.argpartition(distances, most)[:most])
        distances, ids, lanes = distances[near], ids[near], lanes[near]
    return list(zip(distances.tolist(), ids.tolist(), lanes.tolist(), strict=True))
