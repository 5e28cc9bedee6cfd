"""Lanes on other machines: Ray actors that open their index from its file, and open it again.

Needs Ray: ``pip install "lanewise[ray]"``. Nothing else in the package imports this.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lanewise.arrays import as_queries, check_choice, check_int, check_real
from lanewise.lanes.executors import score_lane
from lanewise.lanes.merging import merge
from lanewise.lanes.planning import as_keys, own_dimension
from lanewise.lanes.running import LaneReport, share
from lanewise.lanes.search import as_deadline
from lanewise.result import SearchResult
from lanewise.threads import resolve_threads

try:
    import ray
    from ray.exceptions import ActorDiedError, RayError, RayTaskError
except ImportError as error:
    raise ImportError('lanewise.lanes.ray needs Ray: pip install "lanewise[ray]"') from error

__all__ = ["Place", "RayLanes", "RayResult", "RaySearch"]

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Opener = Callable[[], Any]

_OPTIONS: Mapping[str, Any] = {
    "scheduling_strategy": "SPREAD",
    "max_restarts": -1,
    # Who waits has a deadline of its own: a call that was lost is told so, not made again.
    "max_task_retries": 0,
}
_ASIDE = {"concurrency_group": "aside"}
# Seconds between two looks whether an actor that was lost is there again.
_PAUSE = 0.2
# Ray sends what is smaller with the call; the rest goes to its object store.
_SENT_WITH_CALL = 100_000


@dataclass(frozen=True)
class Place:
    """Where an actor runs.

    Attributes
    ----------
    lane : int
    node : str
        Ray's name of the node.
    process : int
    """

    lane: int
    node: str
    process: int


class _Actor:
    """One replica of one lane: what it opened, and the questions that it answers.

    `about` and `stop` are asked in a thread of their own, and answered while it scores.
    """

    def __init__(self, openers: Sequence[Opener], n_threads: int) -> None:
        self._openers, self._n_threads = openers, n_threads
        self._lock = threading.Lock()
        self._opened: list[Any] | None = None
        self.stopped: set[int] = set()
        # A file that is not there yet must not end the actor for good: every call tries again.
        with contextlib.suppress(Exception):
            self._open()

    def _open(self) -> list[Any]:
        with self._lock:
            if self._opened is None:
                self._opened = [open_one() for open_one in self._openers]
            return self._opened

    def about(self) -> tuple[int | None, str, int]:
        """Dimension of what is open, node and process."""
        dim = getattr(self._open()[0], "dim", None)
        return dim, ray.get_runtime_context().get_node_id(), os.getpid()

    def stop(self, number: int) -> None:
        """Nobody waits any more for the call of this number."""
        with self._lock:
            self.stopped.add(number)

    def answer(self, number: int, method: str, *arguments: Any) -> Any:
        """Do what is asked, unless nobody waits for it."""
        with self._lock:
            # Calls come in their order: those before have come to an end, or go on to it.
            self.stopped = {other for other in self.stopped if other >= number}
        call: Any = _Running(self, number)
        return None if call.stopped else getattr(self, method)(call, *arguments)

    def score(self, call: Any, queries: Any, ids: Ids) -> Any:
        """Distances of the ids."""
        return score_lane(self._open()[0], queries, ids, call)

    def search(
        self, call: Any, queries: Floats, k: int, k_lane: int, owner: Mapping[str, Any] | None
    ) -> tuple[Floats, Ids, npt.NDArray[np.int64]]:
        """Return the k nearest that this lane collects, and how many candidates it scored."""
        index, *scorer = self._open()
        if owner is None:
            found = index.search(queries, k_lane, n_threads=self._n_threads)
        else:
            found = index.collect(queries, k_lane, n_threads=self._n_threads, **owner)
        scored = (found.ids >= 0).sum(axis=1)
        if scorer:
            found = merge(score_lane(scorer[0], queries, found.ids, call), found.ids, k)
        return found.distances[:, :k], found.ids[:, :k], scored


class _Running:
    """A call that an actor answers, for scorers that look whether anybody waits."""

    def __init__(self, actor: _Actor, number: int) -> None:
        self._actor, self._number = actor, number

    @property
    def stopped(self) -> bool:
        return self._number in self._actor.stopped


class _Call:
    """A question, and who waits for the answer."""

    def __init__(self, lane: int, method: str, arguments: tuple[Any, ...]) -> None:
        self.lane, self.arguments = lane, (method, *arguments)
        self.answer: Future[Any] = Future()
        self.untried: Sequence[_Replica] = ()


class _Replica:
    """An actor of a lane as the driver sees it.

    Calls wait here and not with the actor: there a call that nobody waits for any more would be
    answered all the same, before those that somebody waits for.
    """

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.waiting: deque[_Call] = deque()
        self.in_flight = 0
        self.loss: BaseException | None = None


class _Actors:
    """The actors of all lanes: begun, asked, asked elsewhere, begun again."""

    def __init__(
        self,
        who: str,
        openers: Sequence[Sequence[Opener]],
        n_replicas: int,
        n_threads: int,
        options: Mapping[str, Any] | None,
        timeout: float,
    ) -> None:
        n_replicas = check_int(n_replicas, "n_replicas", low=1, high=2**10)
        timeout = check_real(timeout, "timeout", low=0)
        if options is not None and not isinstance(options, Mapping):
            raise TypeError(
                f"options: expected a dict for Ray's .options(), got {type(options).__name__}"
            )
        self.who, self.openers, self.n_threads = who, openers, n_threads
        self.options = {**_OPTIONS, "num_cpus": n_threads, **(options or {})}
        # One more than it can do, so that it need not wait for the next.
        at_a_time = self.options.get("max_concurrency", 1)
        self.most_in_flight = 1 + check_int(at_a_time, "options: max_concurrency", low=1)
        self.lock = threading.Lock()
        self.numbers = itertools.count()
        self.closed = False
        self.lanes: list[list[_Replica]] = []
        try:
            for lane in range(len(openers)):
                self.lanes.append([_Replica(self._begin(lane)) for _ in range(n_replicas)])
            self.dim = self._first_answers(timeout)
        except BaseException:
            self.close()
            raise

    def _begin(self, lane: int) -> Any:
        actor = ray.remote(concurrency_groups={"aside": 1})(_Actor).options(**self.options)
        return actor.remote(self.openers[lane], self.n_threads)

    def _first_answers(self, timeout: float) -> Any:
        asked = [
            replica.handle.about.options(**_ASIDE).remote()
            for lane in self.lanes
            for replica in lane
        ]
        ready, late = ray.wait(asked, num_returns=len(asked), timeout=timeout)
        if late:
            # One that failed says more than one that waits for a place.
            ray.get(ready)
            raise TimeoutError(
                f"{self.who}: expected {len(asked)} actors to open their files within "
                f"{timeout:g} s, got {len(ready)}; each takes {self.options['num_cpus']} CPUs, "
                f"and {ray.available_resources().get('CPU', 0):g} are free"
            )
        return ray.get(asked)[0][0]

    def ask(self, lane: int, method: str, *arguments: Any) -> Future[Any]:
        """Ask a replica of the lane, and if it is lost the others in turn."""
        call = _Call(lane, method, arguments)
        self._ask_one_of(self.lanes[lane], call)
        return call.answer

    def _ask_one_of(self, replicas: Sequence[_Replica], call: _Call) -> None:
        with self.lock:
            if self.closed:
                raise RuntimeError(f"{self.who}: expected to be open, but was closed")
            there = [replica for replica in replicas if replica.loss is None]
            replica = min(there, key=lambda r: r.in_flight + len(r.waiting), default=None)
            if replica is not None:
                replica.waiting.append(call)
                call.untried = [other for other in replicas if other is not replica]
            loss = replicas[0].loss
        if replica is None:
            self._answer(call, loss, None)
            return
        call.answer.add_done_callback(partial(self._forget, replica, call))
        self._send(replica)

    def _forget(self, replica: _Replica, call: _Call, _: Future[Any]) -> None:
        """Take back a call that was cancelled before it was sent."""
        with self.lock, contextlib.suppress(ValueError):
            replica.waiting.remove(call)

    def _send(self, replica: _Replica) -> None:
        while True:
            with self.lock:
                if replica.in_flight >= self.most_in_flight or not replica.waiting:
                    return
                call, handle = replica.waiting.popleft(), replica.handle
                replica.in_flight += 1
            try:
                number = next(self.numbers)
                reference = handle.answer.remote(number, *call.arguments)
            except Exception as error:
                self._settle(replica, handle, call, error, None)
                continue
            call.answer.add_done_callback(partial(_stop, handle, number))
            reference.future().add_done_callback(partial(self._received, replica, handle, call))

    def _received(self, replica: _Replica, handle: Any, call: _Call, reply: Future[Any]) -> None:
        error = reply.exception()
        self._settle(replica, handle, call, error, None if error else reply.result())
        self._send(replica)

    def _settle(self, replica: _Replica, handle: Any, call: _Call, error: Any, result: Any) -> None:
        with self.lock:
            replica.in_flight -= 1
        if _is_loss(error):
            self._lose(call.lane, replica, handle, error)
            if call.untried and not call.answer.cancelled():
                try:
                    self._ask_one_of(call.untried, call)
                except RuntimeError as closed:
                    error = closed
                else:
                    return
        self._answer(call, error, result)

    def _answer(self, call: _Call, error: BaseException | None, result: Any) -> None:
        if call.answer.set_running_or_notify_cancel():
            if error is None:
                call.answer.set_result(result)
            else:
                call.answer.set_exception(error)

    def _lose(self, lane: int, replica: _Replica, handle: Any, error: BaseException) -> None:
        """Ask an actor nothing until it is there again; its calls end at once."""
        with self.lock:
            # News of an actor that has been replaced since, or that is known to be lost, are old.
            if replica.handle is not handle or replica.loss is not None:
                return
            replica.loss = error
        self._look(lane, replica)

    def _look(self, lane: int, replica: _Replica) -> None:
        with self.lock:
            if self.closed or not ray.is_initialized():
                return
            # Ray itself begins an actor again, unless somebody told it not to.
            if isinstance(replica.loss, ActorDiedError):
                replica.handle = self._begin(lane)
            handle = replica.handle
        handle.about.options(**_ASIDE).remote().future().add_done_callback(
            partial(self._looked, lane, replica)
        )

    def _looked(self, lane: int, replica: _Replica, reply: Future[Any]) -> None:
        error = reply.exception()
        with self.lock:
            replica.loss = error if _is_loss(error) else None
            if replica.loss is None or self.closed:
                return
        again = threading.Timer(_PAUSE, self._look, (lane, replica))
        again.daemon = True
        again.start()

    def places(self, timeout: float) -> tuple[Place, ...]:
        asked: dict[Any, int] = {}
        for lane, replicas in enumerate(self.lanes):
            for replica in replicas:
                with contextlib.suppress(RayError):
                    asked[replica.handle.about.options(**_ASIDE).remote()] = lane
        waiting = {"num_returns": len(asked), "timeout": timeout}
        ready = ray.wait(list(asked), **waiting)[0] if asked else []
        places = []
        for reference in ready:
            with contextlib.suppress(RayError):
                _, node, process = ray.get(reference)
                places.append(Place(asked[reference], node, process))
        return tuple(places)

    def close(self) -> None:
        with self.lock:
            self.closed = True
        for replica in (replica for lane in self.lanes for replica in lane):
            with contextlib.suppress(RayError):
                ray.kill(replica.handle)


def _stop(handle: Any, number: int, answer: Future[Any]) -> None:
    # Ray's own way to cancel forgets a call that may still run.
    if answer.cancelled() and ray.is_initialized():
        handle.stop.options(**_ASIDE).remote(number)


def _is_loss(error: BaseException | None) -> bool:
    """Whether it is Ray's own trouble: what the code in an actor raises is an answer."""
    return isinstance(error, RayError) and not isinstance(error, RayTaskError)


class _OnActors:
    """What `RayLanes` and `RaySearch` have in common."""

    _actors: _Actors

    def places(self, timeout: float = 5.0) -> tuple[Place, ...]:
        """Return where the actors are that answer within `timeout` seconds."""
        return self._actors.places(check_real(timeout, "timeout", low=0))

    def close(self) -> None:
        """End the actors; who waits for one of them gets an error."""
        self._actors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class RayLanes(_OnActors):
    """Lanes on Ray actors, for `LaneSearch`: the driver has the pool and the plan, they score.

    Each actor opens the scorer itself, from a file on its machine or on a shared disk. One that is
    lost costs what it was asked: its future has Ray's error, in a second or two, and a search with
    ``on_error="contain"`` or a deadline goes on without it. Ray begins the actor again, where there
    is room for it, and the next query finds it.

    Parameters
    ----------
    open_scorer : callable or sequence of callables
        Opens what scores, an object or a callable as for `LaneSearch`: for example
        ``functools.partial(lw.Flat.load, path, mmap=True)``. With a sequence each lane has its own.
        Called once in each actor, and again after a restart.
    n_lanes : int, default 4
    n_replicas : int, default 1
        Actors a lane. The least busy one is asked, and if it is lost another one is, at once.
    options : dict, optional
        For Ray's ``.options()``: resources, placement. By default an actor takes a CPU, actors
        spread over the nodes, and are begun again without limit.
    timeout : float, default 60
        Seconds until all actors must have opened their files.

    Raises
    ------
    TimeoutError
        If they have not: mostly there are too few CPUs for them.
    OSError, ValueError
        What opening a file raised.

    Examples
    --------
    ::

        ray.init()
        scorer = RayLanes(functools.partial(lw.Flat.load, path, mmap=True), n_lanes=4)
        lanes = lw.LaneSearch(hnsw, scorer, n_lanes=4, deadline=0.05)
        result = lanes.search(queries)
        result.missing, result.coverage
    """

    def __init__(
        self,
        open_scorer: Opener | Sequence[Opener],
        n_lanes: int = 4,
        *,
        n_replicas: int = 1,
        options: Mapping[str, Any] | None = None,
        timeout: float = 60.0,
    ) -> None:
        self.n_lanes = check_int(n_lanes, "n_lanes", low=1, high=2**16)
        openers = [(one,) for one in _one_a_lane(open_scorer, "open_scorer", self.n_lanes)]
        self._actors = _Actors("RayLanes", openers, n_replicas, 1, options, timeout)

    def submit(self, lane: int, queries: Any, ids: Ids) -> Future[Any]:
        """Begin to score ids for a lane.

        Parameters
        ----------
        lane : int
        queries : sequence
            One item a query, as the scorer expects it.
        ids : ndarray of int64, shape (n_queries, width)
            -1 for none.

        Returns
        -------
        concurrent.futures.Future
            Of the distances, shape of `ids`. Cancelling it takes the call back if it has not begun.

        Raises
        ------
        RuntimeError
            After `close`.
        """
        lane = check_int(lane, "lane", low=0, high=self.n_lanes - 1)
        return self._actors.ask(lane, "score", queries, ids)


@dataclass(frozen=True, eq=False)
class RayResult(SearchResult):
    """What `RaySearch.search` returns: a `SearchResult` with the story of its lanes.

    Attributes
    ----------
    lanes : tuple of LaneReport
        What a lane that did not report had planned is not known: it counts with its whole budget.
    coverage : ndarray of float64, shape (n_queries,)
        Share of the candidates that were scored in time.
    """

    lanes: tuple[LaneReport, ...] = ()
    coverage: npt.NDArray[np.float64] = None  # type: ignore[assignment]

    @cached_property
    def missing(self) -> tuple[int, ...]:
        """Lanes that did not report in time."""
        return tuple(report.lane for report in self.lanes if not report.on_time)

    @property
    def degraded(self) -> bool:
        """Whether a lane is missing."""
        return bool(self.missing)


class RaySearch(_OnActors):
    """Lanes on Ray actors that collect for themselves: one call a lane and batch.

    Each actor has a replica of the index. It gets the queries, collects what its lane owns while it
    searches, and answers with its k nearest: no pool is made on the driver, none is sent, and lanes
    need to agree on the key alone.

    Parameters
    ----------
    open_index : callable or sequence of callables
        Opens an index with a method ``collect``, such as `HNSW` or `IVF`: for example
        ``functools.partial(lw.HNSW.load, path, mmap=True)``. A sequence gives each lane a shard of
        the rows instead, any index with ids of the whole: a lane answers with the `k_lane` nearest
        of its shard, and `alpha` and `key` have no part.
    open_scorer : callable or sequence of callables, optional
        Opens what scores the lane's candidates, as for `RayLanes`. By default the distances are
        those of the index.
    n_lanes : int, optional
        4 by default, or the number of shards.
    k_lane : int, default 16
        Candidates that a lane collects for each query.
    alpha : float, default 1.0
        Below 1 some candidates belong to all lanes, see `lanewise.lanes.plan`.
    key : int, bytes, or None, default None
        128-bit key of all plans; by default each query's own.
    deadline : float, optional
        Seconds from the call of `search` after which nobody waits for a lane.
    on_error : {"contain", "raise"}, default "contain"
        Whether a lane's error costs its candidates alone. If all lanes end in an error, the first
        one is raised.
    n_threads : int, default 1
        Threads, and CPUs, of an actor.
    n_replicas, options, timeout
        As for `RayLanes`.

    Raises
    ------
    TimeoutError, OSError, ValueError
        As from `RayLanes`.

    Examples
    --------
    ::

        ray.init()
        index = RaySearch(functools.partial(lw.HNSW.load, path, mmap=True), deadline=0.05)
        result = index.search(queries, k=10)
        result.ids, result.coverage, result.missing
    """

    def __init__(
        self,
        open_index: Opener | Sequence[Opener],
        open_scorer: Opener | Sequence[Opener] | None = None,
        *,
        n_lanes: int | None = None,
        k_lane: int = 16,
        alpha: float = 1.0,
        key: int | bytes | None = None,
        deadline: float | None = None,
        on_error: str = "contain",
        n_replicas: int = 1,
        n_threads: int = 1,
        options: Mapping[str, Any] | None = None,
        timeout: float = 60.0,
    ) -> None:
        self._sharded = isinstance(open_index, Sequence) and not callable(open_index)
        if n_lanes is None:
            n_lanes = len(open_index) if isinstance(open_index, Sequence) else 4
        self.n_lanes = check_int(n_lanes, "n_lanes", low=1, high=2**16)
        self.k_lane = check_int(k_lane, "k_lane", low=1, high=2**31 - 1)
        self.alpha = check_real(alpha, "alpha", low=0.0, high=1.0)
        self.key = key
        if key is not None:
            as_keys(key, 1)
        self.deadline = as_deadline(deadline)
        self.on_error = check_choice(on_error, "on_error", ("contain", "raise"))
        n_threads = resolve_threads(check_int(n_threads, "n_threads", low=1))
        openers: list[tuple[Opener, ...]]
        openers = [(one,) for one in _one_a_lane(open_index, "open_index", self.n_lanes)]
        if open_scorer is not None:
            scorers = _one_a_lane(open_scorer, "open_scorer", self.n_lanes)
            openers = [(*index, one) for index, one in zip(openers, scorers, strict=True)]
        self._actors = _Actors("RaySearch", openers, n_replicas, n_threads, options, timeout)

    def search(self, queries: Any, k: int = 10, *, deadline: float | None = None) -> RayResult:
        """Find the k nearest among what the lanes collect and score in time.

        Parameters
        ----------
        queries : array-like of shape (n_queries, dim) or (dim,)
        k : int, default 10
        deadline : float, optional
            For this search; by default that of the object.

        Returns
        -------
        RayResult
            Shapes (n_queries, k), no id twice, in the order of (distance, id). `stats` holds
            ``scored``, the candidates scored for each query.

        Raises
        ------
        ValueError, TypeError
            If an argument is out of its range, or `queries` holds NaN or infinities.
        RuntimeError
            After `close`.
        """
        began = time.perf_counter()
        deadline = self.deadline if deadline is None else as_deadline(deadline)
        dim = self._actors.dim
        Q = as_queries(queries, "queries", own_dimension(queries) if dim is None else dim)
        k = check_int(k, "k", low=0)
        lanes: dict[Future[Any], int] = {}
        answers: dict[int, tuple[Floats, Ids, npt.NDArray[np.int64]]] = {}
        errors: dict[int, BaseException] = {}
        seconds: dict[int, float] = {}
        try:
            # Shared by the lanes where it does not go with the call.
            sent = ray.put(Q) if Q.nbytes >= _SENT_WITH_CALL else Q
            for lane in range(self.n_lanes if len(Q) > 0 else 0):
                owner = {
                    "lane": lane,
                    "n_lanes": self.n_lanes,
                    "alpha": self.alpha,
                    "key": self.key,
                }
                asked = self._actors.ask(
                    lane, "search", sent, k, self.k_lane, None if self._sharded else owner
                )
                lanes[asked] = lane
            late = set(lanes)
            while late:
                left = None if deadline is None else began + deadline - time.perf_counter()
                done, late = wait(late, left, FIRST_COMPLETED)
                if not done:
                    break
                for future in done:
                    error = future.exception()
                    if error is not None and self.on_error == "raise":
                        raise error
                    if error is not None:
                        errors[lanes[future]] = error
                    else:
                        answers[lanes[future]] = future.result()
                        seconds[lanes[future]] = time.perf_counter() - began
        finally:
            for future in lanes:
                future.cancel()
        if len(errors) == self.n_lanes:
            raise errors[0]
        return self._merged(Q, k, answers, errors, seconds)

    def _merged(
        self,
        Q: Floats,
        k: int,
        answers: Mapping[int, tuple[Floats, Ids, npt.NDArray[np.int64]]],
        errors: Mapping[int, BaseException],
        seconds: Mapping[int, float],
    ) -> RayResult:
        distances = [np.empty((len(Q), 0), dtype=np.float32)]
        ids = [np.empty((len(Q), 0), dtype=np.int64)]
        counts = np.zeros((len(Q), self.n_lanes), dtype=np.int64)
        for lane, answer in answers.items():
            distances.append(answer[0])
            ids.append(answer[1])
            counts[:, lane] = answer[2]
        merged = merge(np.concatenate(distances, axis=1), np.concatenate(ids, axis=1), k)
        scored = counts.sum(axis=1)
        lost = self.n_lanes - len(answers) if len(Q) > 0 else 0
        planned = scored + lost * self.k_lane
        reports = tuple(
            LaneReport(
                lane,
                int(counts[:, lane].sum()) if lane in answers else len(Q) * self.k_lane,
                int(counts[:, lane].sum()),
                lane in answers or len(Q) == 0,
                seconds.get(lane),
                errors.get(lane),
            )
            for lane in range(self.n_lanes)
        )
        return RayResult(
            merged.distances,
            merged.ids,
            {**merged.stats, "scored": scored},
            reports,
            share(scored, planned),
        )


def _one_a_lane(given: Any, name: str, n_lanes: int) -> list[Opener]:
    if callable(given):
        return [given] * n_lanes
    if not isinstance(given, Sequence) or not all(map(callable, given)):
        raise TypeError(
            f"{name}: expected a callable that opens an index, or one for each lane, got {given!r}"
        )
    if len(given) != n_lanes:
        raise ValueError(
            f"{name}: expected one, or one for each of {n_lanes} lanes, got {len(given)}"
        )
    return list(given)
