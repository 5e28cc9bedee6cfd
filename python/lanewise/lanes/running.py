"""Lanes of one search in flight: a chain of calls for each, and what has come back in time."""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lanewise.lanes.executors import LaneExecutor, check_scores

__all__ = ["LaneReport", "Outcome", "run", "share", "wait_until"]

# Seconds after which Ctrl-C is looked for.
_CTRL_C = 0.2

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class LaneReport:
    """What became of one lane, over all queries of a search.

    Attributes
    ----------
    lane : int
    planned : int
        Candidates that the plan gave it.
    scored : int
        Those of them whose scores were there in time, from whichever lane.
    on_time : bool
        Whether the lane itself had reported all of them.
    seconds : float or None
        From the beginning of the search to the lane's last report; None if there was none.
    error : Exception or None
        What ended it.
    """

    lane: int
    planned: int
    scored: int
    on_time: bool
    seconds: float | None
    error: BaseException | None


@dataclass(frozen=True, eq=False)
class Outcome:
    """What the lanes brought.

    Attributes
    ----------
    scores : ndarray of float32, shape (n_queries, n_lanes, k_lane)
        Infinite where none came.
    scored : ndarray of bool, same shape
        Where one came. False where the plan has no candidate.
    lanes : tuple of LaneReport
    """

    scores: Floats
    scored: Bools
    lanes: tuple[LaneReport, ...]


def run(
    executor: LaneExecutor,
    queries: Any,
    ids: Ids,
    *,
    step: int,
    go_on: bool,
    until: float | None,
    contain: bool,
    began: float,
    lost: dict[int, BaseException],
) -> Outcome:
    """Score the candidates of all lanes, best ranks first.

    Parameters
    ----------
    executor : LaneExecutor
    queries : sequence
        What the executor gets, one item a query.
    ids : ndarray of int64, shape (n_queries, n_lanes, k_lane)
    step : int
        Ranks that a lane scores at a time.
    go_on : bool
        Whether a lane that has finished goes on with the next one's candidates.
    until : float or None
        When to stop waiting, on the clock of `time.perf_counter`.
    contain : bool
        Whether a lane's error ends that lane alone. Otherwise the first one is raised.
    began : float
        When the search began, on the same clock.
    lost : dict
        Lanes that failed before they had candidates, and how.

    Returns
    -------
    Outcome
        What was reported until then; nobody waits for the rest.
    """
    flight = _Flight(executor, queries, ids, step, go_on, contain, began, lost)
    flight.wait(until)
    return flight.outcome()


def wait_until(
    condition: threading.Condition, finished: Callable[[], bool], until: float | None
) -> None:
    """Wait, holding the condition, for it to be finished, or for a time of `time.perf_counter`."""
    left = math.inf
    while not finished() and left > 0:
        if until is not None:
            left = until - time.perf_counter()
        # Waiting for a bounded time lets Ctrl-C through on every system.
        condition.wait(min(max(left, 0.0), _CTRL_C))


def share(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return part / whole, and 1 where there is nothing to do."""
    return np.where(whole > 0, part / np.maximum(whole, 1), 1.0)


class _Flight:
    def __init__(
        self,
        executor: LaneExecutor,
        queries: Any,
        ids: Ids,
        step: int,
        go_on: bool,
        contain: bool,
        began: float,
        lost: dict[int, BaseException],
    ) -> None:
        n_lanes = ids.shape[1]
        self.executor, self.queries, self.ids = executor, queries, ids
        self.contain, self.began = contain, began
        self.scores = np.full(ids.shape, np.inf, dtype=np.float32)
        self.scored = np.zeros(ids.shape, dtype=np.bool_)
        self.seconds: list[float | None] = [None] * n_lanes
        self.on_time = [False] * n_lanes
        self.errors = dict(lost)
        self.condition = threading.Condition()
        self.over = False
        self.in_flight: dict[int, Future[Any]] = {}
        # Ranks are best first, so those behind a lane's last candidate need no call.
        self.width = [
            int(np.flatnonzero((ids[:, r] >= 0).any(axis=0)).max(initial=-1)) + 1
            for r in range(n_lanes)
        ]
        self.left = [
            [(owner, at) for owner in ([r, (r + 1) % n_lanes] if go_on and n_lanes > 1 else [r])
             for at in range(0, self.width[owner], step)]
            for r in range(n_lanes)
        ]  # fmt: skip
        self.step = step
        self.own_left = [-(-width // step) for width in self.width]
        self.alive = 0

    def wait(self, until: float | None) -> None:
        starting = [r for r in range(len(self.left)) if r not in self.errors]
        for lane in starting:
            if self.own_left[lane] == 0:
                self.on_time[lane] = True
        starting = [r for r in starting if self.left[r]]
        self.alive = len(starting)
        try:
            for lane in starting:
                self._go(lane)
            with self.condition:
                wait_until(self.condition, self._finished, until)
        finally:
            # What comes later, or after an error or Ctrl-C, nobody wants any more.
            with self.condition:
                self.over = True
                late = list(self.in_flight.values())
            for future in late:
                future.cancel()
        if not self.contain:
            for lane in sorted(self.errors):
                raise self.errors[lane]

    def _finished(self) -> bool:
        if self.errors and not self.contain:
            return True
        return self.alive == 0 or self._complete()

    def _complete(self) -> bool:
        return bool((self.scored | (self.ids < 0)).all())

    def _go(self, lane: int) -> None:
        """Ask for the lane's next ranks, and see to it that it goes on when they are there."""
        # A loop and not a chain of callbacks, where answers are there at once.
        while True:
            with self.condition:
                piece = self._next(lane)
                if piece is None:
                    self.alive -= 1
                    self.condition.notify_all()
                    return
            owner, at = piece
            wanted = np.ascontiguousarray(self.ids[:, owner, at : at + self.step])
            try:
                future = self.executor.submit(lane, self.queries, wanted)
            except Exception as error:
                self._end(lane, error)
                return
            with self.condition:
                self.in_flight[lane] = future
            if not future.done():
                future.add_done_callback(functools.partial(self._go_on, lane, piece))
                return
            if not self._take(lane, piece, future):
                return

    def _go_on(self, lane: int, piece: tuple[int, int], future: Future[Any]) -> None:
        if self._take(lane, piece, future):
            self._go(lane)

    def _next(self, lane: int) -> tuple[int, int] | None:
        while self.left[lane] and not self.over:
            owner, at = self.left[lane].pop(0)
            part = np.s_[:, owner, at : at + self.step]
            # What another lane has scored for its neighbour is done, but only the lane itself
            # knows its own ranks to be new.
            if owner == lane or not (self.scored[part] | (self.ids[part] < 0)).all():
                return owner, at
        return None

    def _take(self, lane: int, piece: tuple[int, int], future: Future[Any]) -> bool:
        """Enter what came; return whether to go on."""
        owner, at = piece
        part = np.s_[:, owner, at : at + self.step]
        try:
            scores = check_scores(future.result(), self.ids[part])
        except CancelledError:
            return False
        except BaseException as error:
            self._end(lane, error)
            return False
        with self.condition:
            if self.over:
                return False
            present = self.ids[part] >= 0
            # Both lanes that score a candidate say the same.
            self.scores[part] = np.where(present, scores, np.inf)
            self.scored[part] = present
            self.seconds[lane] = time.perf_counter() - self.began
            if owner == lane:
                self.own_left[lane] -= 1
                self.on_time[lane] = self.own_left[lane] == 0
            if self._complete():
                self.condition.notify_all()
                return False
        return True

    def _end(self, lane: int, error: BaseException) -> None:
        with self.condition:
            if self.over:
                return
            self.errors[lane] = error
            self.alive -= 1
            self.condition.notify_all()

    def outcome(self) -> Outcome:
        planned = (self.ids >= 0).sum(axis=(0, 2))
        done = self.scored.sum(axis=(0, 2))
        lanes = tuple(
            LaneReport(
                lane,
                int(planned[lane]),
                int(done[lane]),
                self.on_time[lane],
                self.seconds[lane],
                self.errors.get(lane),
            )
            for lane in range(len(self.left))
        )
        return Outcome(self.scores, self.scored, lanes)
