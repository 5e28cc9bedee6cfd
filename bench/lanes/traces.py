"""Traces: real queries with pools of a rough first stage, and simulated lateness of lanes.

Two classes of queries differ in how rough the codes are that rank their pools.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

import lanewise as lw
from bench.lanes import common
from bench.lanes.common import Coarse, K
from lanewise.lanes import LaneReport, LaneResult, Plan, Setting, query_keys
from lanewise.lanes.compare import shards

M, B = 4, 16
K_POOL = M * B
CLASSES = ("fine", "rough")
# Dimensions that a code of four bits stands for, by the class of the query.
_CUT = {"fine": 4, "rough": 8}


def worlds(options: argparse.Namespace) -> Iterator[World]:
    """Yield the sets of vectors: what is in the folder, or the shipped one."""
    for problem in common.problems(options):
        yield World.build(problem)


def parser(name: str, text: str | None) -> argparse.ArgumentParser:
    """Return the options that these benchmarks share."""
    made = common.parser(name, text)
    made.set_defaults(rows=30_000, queries=1000)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.add_argument("--seed", type=int, default=0)
    return made


@dataclass(eq=False)
class Dealt:
    """A setting's plans for all queries, and what each candidate is."""

    plan: Plan
    far: np.ndarray
    truth: np.ndarray  # which of the true neighbours a candidate is, K for none


@dataclass(eq=False)
class World:
    """Queries with their pools, the pools' distances and the true neighbours."""

    name: str
    queries: np.ndarray
    flat: lw.Flat
    pool: np.ndarray
    truth: np.ndarray
    keys: np.ndarray
    classes: np.ndarray
    stages: dict[str, Coarse]
    shard_hits: np.ndarray  # which true neighbours each shard's lane finds
    _dealt: dict[Setting, Dealt] = field(default_factory=dict)

    @classmethod
    def build(cls, problem: common.Problem) -> World:
        base, Q, truth = problem.base, problem.queries, problem.truth
        dim = base.shape[1]
        classes = np.arange(len(Q)) % len(CLASSES)
        pool = np.empty((len(Q), K_POOL), dtype=np.int64)
        hits = np.zeros((len(Q), M, K), dtype=bool)
        stages = {}
        for number, name in enumerate(CLASSES):
            own = np.flatnonzero(classes == number)
            stages[name] = Coarse(base, dim // _CUT[name], n_bits=4)
            pool[own] = stages[name].pool(Q[own], K_POOL).ids
            for lane, rows in enumerate(shards(len(base), M, 0)):
                coarse = Coarse(base[rows], dim // _CUT[name], n_bits=4)
                found = rows[coarse.pool(Q[own], B).ids]
                hits[own, lane] = (found[:, :, None] == truth[own][:, None]).any(axis=1)
        return cls(problem.name, Q, problem.flat, pool, truth, query_keys(Q), classes, stages, hits)

    def dealt(self, setting: Setting) -> Dealt:
        if setting not in self._dealt:
            planned = setting.plan(self.pool, self.keys)
            n = len(self.pool)
            far = self.flat.score(self.queries, planned.ids.reshape(n, -1))
            same = planned.ids[..., None] == self.truth[:, None, None]
            truth = np.where(same.any(axis=3), same.argmax(axis=3), K)
            self._dealt[setting] = Dealt(planned, far.reshape(planned.ids.shape), truth)
        return self._dealt[setting]

    def recall(self, setting: Setting, queries: np.ndarray, on_time: np.ndarray) -> np.ndarray:
        """Recall@10 against exact search: a true neighbour that is scored in time is answered."""
        dealt = self.dealt(setting)
        held = np.zeros((len(self.pool), setting.n_lanes, K + 1), dtype=bool)
        np.put_along_axis(held, dealt.truth, True, axis=2)
        return _found(held[queries, :, :K], on_time)

    def shards_recall(self, queries: np.ndarray, on_time: np.ndarray) -> np.ndarray:
        return _found(self.shard_hits[queries], on_time)

    def one_index_recall(self, queries: np.ndarray, on_time: np.ndarray) -> np.ndarray:
        """One worker scores the whole pool; it is on time when lane 0 is, which is generous."""
        whole = (self.pool[:, :, None] == self.truth[:, None]).any(axis=1).mean(axis=1)
        return whole[queries] * on_time[:, 0]

    def result(self, setting: Setting, query: int, on_time: np.ndarray) -> LaneResult:
        """Return what a search of one query does, of lanes that are late as told.

        Its answer is not merged: nobody who observes results here looks at it.
        """
        dealt = self.dealt(setting)
        one = slice(query, query + 1)
        planned = Plan(
            dealt.plan.ids[one],
            dealt.plan.counts[one],
            setting.scheme,
            setting.alpha,
            setting.head,
        )
        scored = (planned.ids >= 0) & on_time[:, None]
        n_scored = int(scored.sum())
        lanes = tuple(
            LaneReport(lane, int(n), int(n) * bool(ok), bool(ok), 0.01 if ok else None, None)
            for lane, (n, ok) in enumerate(zip(planned.counts[0], on_time, strict=True))
        )
        distinct = len(np.unique(planned.ids[scored]))
        return LaneResult(
            np.full((1, K), np.inf, np.float32),
            np.full((1, K), -1),
            {"duplicates": np.array([n_scored - distinct]), "scored": np.array([n_scored])},
            plan=planned,
            lane_distances=np.where(scored, dealt.far[one], np.inf).astype(np.float32),
            scored=scored,
            pool=self.pool[one],
            keys=self.keys[one],
            estimated=np.zeros((1, K), dtype=bool),
            lanes=lanes,
        )


def _found(held: np.ndarray, on_time: np.ndarray) -> np.ndarray:
    return (held & on_time[:, :, None]).any(axis=1).mean(axis=1)


# ---------------------------------------------------------------------------------------- lateness


@dataclass(frozen=True, eq=False)
class Schedule:
    """Simulated: the chance of each lane to be on time for each query, and where it changes.

    Where `together` is true all lanes of a query share one draw.
    """

    name: str
    what: str
    share: np.ndarray
    together: np.ndarray
    shifts: tuple[int, ...]

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Draw which lanes are on time, bool of shape (n_queries, n_lanes)."""
        drawn = rng.random(self.share.shape)
        return np.where(self.together[:, None], drawn[:, :1], drawn) < self.share


def schedules(n: int, seed: int) -> Iterator[Schedule]:
    """Yield kinds of lateness, each for n queries."""

    def made(
        name: str,
        what: str,
        share: np.ndarray,
        shifts: Iterable[int] = (),
        together: np.ndarray | None = None,
    ) -> Schedule:
        together = np.zeros(n, dtype=bool) if together is None else together
        return Schedule(name, what, np.broadcast_to(share, (n, M)), together, tuple(shifts))

    at = np.arange(n)
    levels = (0.99, 0.5, 0.9, 0.3, 0.99, 0.7)
    length = -(-n // len(levels))
    what = f"{', '.join(f'{100 * level:.0f}' for level in levels)} % on time"
    share = np.repeat(levels, length)[:n, None]
    yield made("steps", what, share, range(length, n, length))

    wave = 0.7 + 0.29 * np.cos(at / n * 4 * np.pi)
    yield made("drift", "from 99 % down to 41 % and back, twice", wave[:, None])

    rng = np.random.default_rng(seed)
    share = np.full((n, 1), 0.98)
    for begin in range(n // 24, n, n // 12):
        share[begin : begin + int(rng.integers(200, 500))] = 0.3
    yield made("bursts", "98 %, and twelve bursts of 30 %", share)

    length = -(-n // 4)
    together = at // length % 2 == 1
    what = "72 %, in turns each lane for itself and all at once"
    yield made("correlated", what, np.full((n, 1), 0.72), range(length, n, length), together)

    lost = np.where((at >= n // 2)[:, None], [[0.99, 0.99, 0.99, 0.25]], 0.99)
    yield made("one lane lost", "99 %, from the middle on lane 3 25 %", lost, [n // 2])
