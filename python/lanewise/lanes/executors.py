"""Who scores a lane's candidates, and where: threads, one event loop, or processes."""

from __future__ import annotations

import asyncio
import functools
import inspect
import multiprocessing
import os
import queue
import threading
import weakref
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from lanewise.arrays import as_ndarray, check_choice, check_int

__all__ = ["Async", "LaneExecutor", "Processes", "Threads", "as_executor", "call", "check_scores"]

# Threads beyond these wait for their turn.
_MOST_THREADS = 64
# Requests that wait for an answer at the same time.
_CONCURRENCY = 64

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@runtime_checkable
class LaneExecutor(Protocol):
    """What `LaneSearch` wants of a place where lanes are scored.

    Whoever has these two methods is one: a pool of threads, a cluster, a queue. `LaneSearch` asks
    for a lane's candidates a few ranks at a time, the next ones when those before are answered, and
    for all lanes at the same time.
    """

    def submit(self, lane: int, queries: Any, ids: Ids) -> Future[Any]:
        """Begin to score candidates of a lane.

        Parameters
        ----------
        lane : int
        queries : sequence
            What the scorer gets, one item a query: the rows of a float32 array, or whatever the
            caller of the search gave as its payload.
        ids : ndarray of int64, shape (n_queries, width)
            -1 for none.

        Returns
        -------
        concurrent.futures.Future
            Of the distances, in the shape of `ids`; smaller is nearer, and what stands beside -1 is
            not looked at. Cancelling it says that nobody waits any more.
        """

    def close(self) -> None:
        """Give back what it holds; work that runs is not waited for."""


def as_executor(scorer: Any) -> LaneExecutor:
    """Return the executor of a scorer: itself if it is one, an event loop for a coroutine function.

    Raises
    ------
    TypeError
        If it is neither an executor nor an index nor a callable.
    """
    if callable(getattr(scorer, "submit", None)) and callable(getattr(scorer, "close", None)):
        executor: LaneExecutor = scorer
        return executor
    function = getattr(scorer, "score", scorer)
    if not callable(function):
        raise TypeError(f"scorer: expected an index or a callable, got {type(scorer).__name__}")
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004
    )
    return Async(scorer) if is_async else Threads(scorer)


class Threads:
    """Lanes on threads of this process: for native code, and for whatever waits.

    Threads begin when they are needed and stay. They are daemons: a scorer that never returns holds
    up neither a search with a deadline nor the end of the program.

    Parameters
    ----------
    scorer : object or callable
        An object with ``score(queries, ids)`` for a batch, such as `lanewise.Flat`, which runs
        without the interpreter's lock; a parameter ``n_threads`` is told 1. Or a callable
        ``score(query, ids)`` for one query, which never sees -1.
    most_threads : int, default 64

    Examples
    --------
    >>> import numpy as np
    >>> executor = Threads(lambda query, ids: ids * 0.5)
    >>> executor.submit(0, ["a query"], np.array([[4, -1, 6]])).result().tolist()
    [[2.0, inf, 3.0]]
    """

    def __init__(self, scorer: Any, *, most_threads: int = _MOST_THREADS) -> None:
        self.scorer = scorer
        self.most_threads = check_int(most_threads, "most_threads", low=1)
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        # A token for each thread that waits: a semaphore, at a small part of the price.
        self._idle: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._n_threads = 0
        # Threads know the queue alone, so that they end with their owner.
        self._end = weakref.finalize(self, self._jobs.put, None)
        self._end.atexit = False

    def submit(self, lane: int, queries: Any, ids: Ids) -> Future[Any]:
        """See `LaneExecutor`."""
        if os.getpid() != self._process:
            # A fork has the owner, but not its threads.
            self._start()
        future = _Stoppable()
        self._jobs.put((future, self.scorer, queries, ids))
        try:
            self._idle.get_nowait()
        except queue.Empty:
            with self._lock:
                if self._n_threads < self.most_threads:
                    self._n_threads += 1
                    threading.Thread(
                        target=_work,
                        args=(self._jobs, self._idle),
                        name="lanewise-lane",
                        daemon=True,
                    ).start()
        return future

    def close(self) -> None:
        """See `LaneExecutor`."""
        self._end()
        self._start()

    def __reduce__(self) -> tuple[Any, ...]:
        return _threads, (self.scorer, self.most_threads)


def _threads(scorer: Any, most_threads: int) -> Threads:
    return Threads(scorer, most_threads=most_threads)


class _Stoppable(Future[Any]):
    """A future whose running work hears that nobody waits for it any more."""

    stopped = False

    def cancel(self) -> bool:
        self.stopped = True
        return super().cancel()


def _work(jobs: queue.SimpleQueue[Any], idle: queue.SimpleQueue[None]) -> None:
    while True:
        job = jobs.get()
        if job is None:
            jobs.put(None)  # for the next thread
            return
        future, scorer, queries, ids = job
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(score_lane(scorer, queries, ids, future))
            except BaseException as error:
                future.set_exception(error)
        # Nothing of a search may live on in a thread that waits.
        del job, future, scorer, queries, ids
        idle.put(None)


def score_lane(scorer: Any, queries: Any, ids: Ids, future: _Stoppable | None = None) -> Any:
    """Distances of one lane's candidates."""
    if hasattr(scorer, "score"):
        # Lanes are the parallelism: each stays on its own thread.
        return call(scorer, "score", queries, ids, n_threads=1)
    distances = np.full(ids.shape, np.inf, dtype=np.float32)
    for i, row in enumerate(ids):
        if future is not None and future.stopped:
            break
        present = row >= 0
        if present.any():
            named = np.ascontiguousarray(row[present])
            distances[i, present] = check_scores(scorer(queries[i], named), named)
    return distances


class Async:
    """Lanes on one event loop: for scorers that ask somebody else and wait.

    Parameters
    ----------
    scorer : object or callable
        A coroutine function ``score(query, ids)`` for one query, or an object with that method. It
        returns one distance for each id, and never sees -1.
    concurrency : int, default 64
        Calls that wait at the same time, all lanes together.

    Examples
    --------
    >>> import numpy as np
    >>> async def remote(query, ids):
    ...     await asyncio.sleep(0.001)
    ...     return ids * 0.5
    >>> executor = Async(remote)
    >>> executor.submit(0, ["a query"], np.array([[4, -1, 6]])).result().tolist()
    [[2.0, inf, 3.0]]
    >>> executor.close()
    """

    def __init__(self, scorer: Any, *, concurrency: int = _CONCURRENCY) -> None:
        self.scorer = scorer
        self.concurrency = check_int(concurrency, "concurrency", low=1)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = os.getpid()

    def submit(self, lane: int, queries: Any, ids: Ids) -> Future[Any]:
        """See `LaneExecutor`."""
        with self._lock:
            if self._loop is None or os.getpid() != self._process:
                self._process = os.getpid()
                self._loop = asyncio.new_event_loop()
                self._turns = asyncio.Semaphore(self.concurrency)
                # The loop knows nothing of its owner, so that it ends with it.
                self._end = weakref.finalize(self, _stop, self._loop)
                self._end.atexit = False
                threading.Thread(
                    target=_run, args=(self._loop,), name="lanewise-lanes", daemon=True
                ).start()
            return asyncio.run_coroutine_threadsafe(
                _gather(self.scorer, queries, ids, self._turns), self._loop
            )

    def close(self) -> None:
        """See `LaneExecutor`."""
        with self._lock:
            if self._loop is not None and os.getpid() == self._process:
                self._end()
            self._loop = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _async, (self.scorer, self.concurrency)


def _async(scorer: Any, concurrency: int) -> Async:
    return Async(scorer, concurrency=concurrency)


def _stop(loop: asyncio.AbstractEventLoop) -> None:
    loop.call_soon_threadsafe(loop.stop)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    for task in asyncio.all_tasks(loop):
        task.cancel()
    # Whoever is cancelled may clean up.
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


async def _gather(scorer: Any, queries: Any, ids: Ids, turns: asyncio.Semaphore) -> Floats:
    function: Callable[..., Coroutine[Any, Any, Any]] = getattr(scorer, "score", scorer)
    distances = np.full(ids.shape, np.inf, dtype=np.float32)

    async def one(i: int) -> None:
        present = ids[i] >= 0
        named = np.ascontiguousarray(ids[i][present])
        async with turns:
            distances[i, present] = check_scores(await function(queries[i], named), named)

    wanted = np.flatnonzero((ids >= 0).any(axis=1)).tolist()
    try:
        async with asyncio.TaskGroup() as group:
            for i in wanted:
                group.create_task(one(i))
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None
    return distances


class Processes:
    """Lanes in processes of their own: for Python code that computes, over files that all map.

    A process that dies costs the lanes that it was scoring; the next call begins another.

    Parameters
    ----------
    open_scorer : callable
        Called once in each process; returns a scorer as for `Threads`. It is pickled, so a function
        of a module or ``functools.partial(lw.Flat.load, path, mmap=True)``: rows in a mapped file
        are in memory once for all processes.
    n_processes : int
        Lane r goes to process r modulo this.
    start_method : {"spawn", "forkserver", "fork"}, default "spawn"

    Examples
    --------
    >>> import functools, pathlib, tempfile
    >>> import numpy as np
    >>> import lanewise as lw
    >>> X = np.random.default_rng(0).standard_normal((100, 8), dtype=np.float32)
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = pathlib.Path(folder.name) / "rows.lw"
    >>> lw.Flat(8).add(X).save(path)
    >>> processes = Processes(functools.partial(lw.Flat.load, path, mmap=True), 2)
    >>> processes.submit(1, X[:1], np.array([[0, 5]])).result()[0, 0]
    np.float32(0.0)
    >>> processes.close()
    >>> folder.cleanup()
    """

    def __init__(
        self, open_scorer: Callable[[], Any], n_processes: int, *, start_method: str = "spawn"
    ) -> None:
        if not callable(open_scorer):
            raise TypeError(
                f"open_scorer: expected a callable that returns a scorer, "
                f"got {type(open_scorer).__name__}"
            )
        self.open_scorer = open_scorer
        self.n_processes = check_int(n_processes, "n_processes", low=1, high=2**16)
        self.start_method = check_choice(
            start_method, "start_method", multiprocessing.get_all_start_methods()
        )
        self._lock = threading.Lock()
        self._pools: dict[int, ProcessPoolExecutor] = {}

    def submit(self, lane: int, queries: Any, ids: Ids) -> Future[Any]:
        """See `LaneExecutor`."""
        number = lane % self.n_processes
        with self._lock:
            for may_be_broken in (True, False):
                # A pool each: one process that dies breaks its pool, not the others'.
                if number not in self._pools:
                    self._pools[number] = ProcessPoolExecutor(
                        1,
                        multiprocessing.get_context(self.start_method),
                        initializer=_open,
                        initargs=(self.open_scorer,),
                    )
                try:
                    return self._pools[number].submit(_score_here, queries, ids)
                except BrokenProcessPool:
                    del self._pools[number]
                    if not may_be_broken:
                        raise
        raise AssertionError

    def close(self) -> None:
        """See `LaneExecutor`."""
        with self._lock:
            pools, self._pools = self._pools, {}
        for pool in pools.values():
            pool.shutdown(wait=False, cancel_futures=True)

    def __reduce__(self) -> tuple[Any, ...]:
        return _processes, (self.open_scorer, self.n_processes, self.start_method)


def _processes(open_scorer: Callable[[], Any], n_processes: int, start_method: str) -> Processes:
    return Processes(open_scorer, n_processes, start_method=start_method)


_scorer_of_process: Any = None


def _open(open_scorer: Callable[[], Any]) -> None:
    global _scorer_of_process
    _scorer_of_process = open_scorer()


def _score_here(queries: Any, ids: Ids) -> Any:
    return score_lane(_scorer_of_process, queries, ids)


def call(source: Any, method: str, *arguments: Any, n_threads: int | None, **named: Any) -> Any:
    """Call an index's method, or a callable itself; threads are told to those who ask for them."""
    function = getattr(source, method, source)
    # A method is its class's, so that remembering it holds on to no object.
    plain = getattr(function, "__func__", None)
    if _takes_threads(function) if plain is None else _method_takes_threads(plain):
        named["n_threads"] = n_threads
    return function(*arguments, **named)


def _takes_threads(function: Callable[..., Any]) -> bool:
    try:
        return "n_threads" in inspect.signature(function).parameters
    except ValueError:  # a callable of C code that does not tell
        return False


_method_takes_threads = functools.lru_cache(_takes_threads)


def check_scores(scored: Any, ids: Ids) -> Floats:
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


def check_payload(payload: Any, n_queries: int) -> Sequence[Any]:
    """Raise unless there is one item a query."""
    if not hasattr(payload, "__getitem__") or not hasattr(payload, "__len__"):
        raise TypeError(f"payload: expected a sequence, got {type(payload).__name__}")
    if len(payload) != n_queries:
        raise ValueError(
            f"payload: expected {n_queries} items, one for each query, got {len(payload)}"
        )
    items: Sequence[Any] = payload
    return items
