"""Time several searches in turns, so that whatever disturbs the machine disturbs all of them.

In each round every contender answers the same queries; who begins moves on from round to round. A
query's time is the median of its rounds, and what is reported is the mean of the queries.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.summary import Record, Role

Answer = tuple[np.ndarray, dict[str, np.ndarray]]


@dataclass(frozen=True, eq=False)
class Contender:
    """A search: it takes a matrix of queries and returns ids and numbers about each query.

    Attributes
    ----------
    batch : bool
        Whether all queries come in one call, instead of a call for each.
    checked : bool
        Whether its recall is of interest.
    exact : bool
        Whether it must find everything, so that the timed queries are enough to check it.
    threads : int
        Of its own; it is timed by the wall clock if more than one.
    """

    who: str
    role: Role
    search: Callable[[np.ndarray], Answer]
    batch: bool = False
    checked: bool = True
    exact: bool = False
    threads: int = 1


@dataclass(frozen=True)
class Pace:
    """How long a race takes.

    Attributes
    ----------
    rounds : int
        At most; a slow contender takes part in fewer.
    fewest : int
        Rounds that every contender takes part in.
    seconds : float
        For all rounds of one contender.
    recall_seconds : float
        For the queries beyond the timed ones that its recall is measured with; there are as many
        as make a hundred in any case.
    cpu_time : bool
        Report CPU time, which other processes hardly change, instead of the wall clock's.
    """

    rounds: int = 5
    fewest: int = 3
    seconds: float = 15.0
    recall_seconds: float = 2.0
    cpu_time: bool = False


class _Runner:
    """One contender on its way through a race."""

    def __init__(self, contender: Contender, vectors, n_timed: int, pace: Pace) -> None:
        self.contender, self.vectors, self.pace = contender, vectors, pace
        Q = vectors.queries
        warm = Q[: 128 if contender.batch else 1]
        if not contender.batch:
            contender.search(warm)
        started = time.perf_counter()
        contender.search(warm)
        once = (time.perf_counter() - started) / len(warm)
        if contender.batch:
            n = int(np.clip(pace.seconds / pace.fewest / once, len(warm), len(Q)))
            self.calls = [Q[:n]]
        else:
            self.calls = list(Q[:n_timed, np.newaxis])
        self.n = sum(map(len, self.calls))
        fits = int(pace.seconds / (once * self.n))
        self.rounds = max(min(pace.fewest, pace.rounds), min(pace.rounds, fits))
        self.times: list[list[tuple[float, float]]] = []
        self.answers: list[Answer] = []

    def run(self) -> None:
        """Take part in one round."""
        search = self.contender.search
        search(self.calls[0][:1])
        times, answers = [], []
        for queries in self.calls:
            wall, cpu = time.perf_counter(), time.process_time()
            answer = search(queries)
            times.append((time.perf_counter() - wall, time.process_time() - cpu))
            answers.append(answer)
        self.times.append(times)
        self.answers = answers

    def record(self, group: str, race: int) -> Record:
        """Return what was measured; singles answer some more queries for their recall."""
        times = np.array(self.times)  # rounds, calls, clocks
        median, fastest = (f(times, axis=0).sum(axis=0) / self.n for f in (np.median, np.min))
        clock = 1 if self.pace.cpu_time and self.contender.threads == 1 else 0
        facts = {"wall": median[0], "fastest wall": fastest[0], "cpu": median[1]}
        facts |= {"timed": self.n, "race": race}
        if self.contender.checked:
            facts |= self._quality(median[0])
        return Record(
            group,
            self.contender.who,
            self.contender.role,
            float(median[clock]),
            float(fastest[clock]),
            len(times),
            {name: float(value) for name, value in facts.items()},
        )

    def _quality(self, seconds: float) -> dict[str, float]:
        vectors, answers = self.vectors, self.answers
        if not (self.contender.batch or self.contender.exact):
            more = max(100, self.n + int(self.pace.recall_seconds / seconds))
            answers = answers + [
                self.contender.search(query) for query in vectors.queries[self.n : more, np.newaxis]
            ]
        ids = np.concatenate([ids for ids, _ in answers])
        found = {"recall": vectors.recall(ids), "asked": len(ids)}
        for name in answers[0][1]:
            found[name] = float(np.mean([np.mean(stats[name]) for _, stats in answers]))
        if "dimensions" in found:
            found["dims"] = found["dimensions"] / vectors.base.size
        return found


def race(
    contenders: Iterable[Contender], group: str, vectors, n_timed: int, pace: Pace, number: int = 0
) -> list[Record]:
    """Time contenders beside each other; `number` tells races of the same group apart."""
    runners = [_Runner(contender, vectors, n_timed, pace) for contender in contenders]
    for turn in range(max(runner.rounds for runner in runners)):
        for runner in _moved_on(runners, turn):
            if turn < runner.rounds:
                runner.run()
    return [runner.record(group, number) for runner in runners]


def _moved_on(runners: Sequence[_Runner], turn: int) -> Sequence[_Runner]:
    first = turn % len(runners)
    return [*runners[first:], *runners[:first]]
