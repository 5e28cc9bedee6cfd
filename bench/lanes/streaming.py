"""Judge lanes that score while the pool is still being found, beside pool first and lanes second.

``python -m bench.lanes.streaming --data-folder FOLDER [--cache FOLDER] [--index ivf] [--quick]``
asks one query a call. The scorer stands for a remote model: it sleeps 1 ms a candidate, or 1 ms a
call whatever comes with it, and answers with exact distances. Everybody has four lanes, each a
thread, and takes turns query by query, in another order each time. Pool first and the same lanes
second is measured twice: how far the two are apart is what the machine does by itself. All times
are wall clock. "Scoring begins" when the scorer is called first. "Hand-over" is what two threads
and a lock take in the same places: from its release to the first step of the thread that waited,
while the one who released it walks on without the interpreter's lock.
"""

from __future__ import annotations

import argparse
import functools
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tabulate import tabulate

import lanewise as lw
from bench import data, machine
from bench.data import K
from bench.hnsw import Graphs
from bench.summary import format_time
from lanewise.lanes import LaneSearch, StreamSearch, Threads, merge

N_LANES = 4
POOLS = (64, 128, 256, 512, 1024)
COSTS = ("candidate", "call")
FILES = {"sift": "sift_300k.npz", "text": "text_60k.npz"}
# One lane alone takes four times as long, and always the same.
N_SINGLE = 5
N_PROBE = 32
N_WARM = 10
# Seconds before each of those who are compared, so that all find the machine as the first one does.
PAUSE = 0.002

STREAM, EAGER = "stream", "stream, always early"
BATCH, AGAIN = "pool, then the same lanes", "the same again"
BALANCED = "pool, then lanes, stratified"
NAIVE, SHARDS, SINGLE = "naive lanes, de-duplicated", "hash shards", "single wider index"


class Sleeping:
    """Exact distances, after a sleep for each candidate or call; knows when it was first asked."""

    def __init__(self, flat: lw.Flat, seconds: float, cost: str) -> None:
        self.flat, self.seconds, self.cost = flat, seconds, cost
        self.dim = flat.dim
        self.first = np.inf

    def score(self, queries: np.ndarray, ids: np.ndarray, n_threads: int = 1) -> np.ndarray:
        self.first = min(self.first, time.perf_counter())
        n = int((ids >= 0).sum()) if self.cost == "candidate" else 1
        time.sleep(n * self.seconds)
        return self.flat.score(queries, ids, n_threads=n_threads)


class HandOver:
    """Two threads and a lock: how long one that waits takes to begin when it is told to."""

    def __init__(self) -> None:
        self.go, self.back = threading.Lock(), threading.Lock()
        self.go.acquire()
        self.back.acquire()
        self.began = 0.0
        self.over = False
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        while True:
            self.go.acquire()
            self.began = time.perf_counter()
            self.back.release()
            if self.over:
                return

    def seconds(self, walk_on: Callable[[], object]) -> float:
        told = time.perf_counter()
        self.go.release()
        walk_on()
        self.back.acquire()
        return self.began - told

    def close(self) -> None:
        self.over = True
        self.go.release()


class Workload:
    """Rows, and inverted lists of them, or a graph, and one more for each lane's shard."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        n_queries = options.queries
        found = data.from_file.__wrapped__(options.data_folder / FILES[name], n_queries)
        if options.quick:
            found = data.vectors(found.name, found.base[:5000], found.queries)
        self.vectors = found
        self.flat = lw.Flat(found.base.shape[1], storage="f32").add(found.base)
        self.rows: list[np.ndarray] = []
        self.shards: list[lw.HNSW] = []
        if options.index == "ivf":
            n_lists = round(len(found.base) ** 0.5)
            cells = lw.IVF(found.base.shape[1], n_lists, n_threads=1).train(found.base)
            self.index = cells.add(found.base)
            return
        self.index = self._graph(found.name, found.base, options)
        shard = np.random.default_rng(0).integers(0, N_LANES, len(found.base))
        self.rows = [np.flatnonzero(shard == lane) for lane in range(N_LANES)]
        self.shards = [
            self._graph(f"{found.name}-shard{lane}", found.base[rows], options)
            for lane, rows in enumerate(self.rows)
        ]

    def asked(self, method: str, k_pool: int) -> functools.partial:
        """Return a method of the index, with what a pool of that size takes."""
        wide = {"n_probe": N_PROBE} if isinstance(self.index, lw.IVF) else {"ef": k_pool}
        return functools.partial(getattr(self.index, method), **wide)

    def _graph(self, name: str, base: np.ndarray, options: argparse.Namespace) -> lw.HNSW:
        vectors = data.Vectors(name, base, self.vectors.queries, self.vectors.radius2)
        return lw.HNSW(Graphs(vectors, options.cache).hnswlib(), n_threads=1)


@dataclass
class Times:
    """What one contender did with the queries so far."""

    seconds: list[float] = field(default_factory=list)
    ids: list[np.ndarray] = field(default_factory=list)
    scored: list[int] = field(default_factory=list)


class Race:
    """All contenders with one size of the pool and one cost of a score."""

    def __init__(self, workload: Workload, k_pool: int, cost: str, seconds: float) -> None:
        self.workload, self.k_pool = workload, k_pool
        self.scorer = Sleeping(workload.flat, seconds, cost)
        executor = Threads(self.scorer)
        self.pool = workload.asked("pool", k_pool)
        self.stream, self.eager = (
            StreamSearch(
                workload.asked("stream", k_pool),
                executor,
                n_lanes=N_LANES,
                k_pool=k_pool,
                early=early,
            )
            for early in ("auto", "always")
        )
        self.batch, self.balanced = (
            self._lanes(executor, scheme, k_lane)
            for scheme, k_lane in (("owner", k_pool), ("stratified", k_pool // N_LANES))
        )
        self.threads = ThreadPoolExecutor(N_LANES)
        self.hand_over = HandOver()
        self.forget()

    def forget(self) -> None:
        """Begin anew: what came before was for warming up."""
        names = [STREAM, EAGER, BATCH, AGAIN, BALANCED, NAIVE, SHARDS, SINGLE]
        if not self.workload.shards:
            names = [name for name in names if name not in (NAIVE, SHARDS)]
        self.times = {name: Times() for name in names}
        self.results: dict[str, list] = {STREAM: [], EAGER: []}
        self.begun: dict[str, list[float]] = {STREAM: [], EAGER: []}
        self.handed_over: list[float] = []
        self.pool_seconds: list[float] = []
        self.same_set: list[bool] = []
        self.same_answer: list[bool] = []

    def _lanes(self, executor: Threads, scheme: str, k_lane: int) -> LaneSearch:
        def pool(Q: np.ndarray, k_pool: int) -> np.ndarray:
            return self.pool(Q, k_pool, n_threads=1)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # owner lanes have room for the whole pool
            return LaneSearch(
                pool,
                executor,
                n_lanes=N_LANES,
                k_lane=k_lane,
                k_pool=self.k_pool,
                scheme=scheme,
                n_threads=1,
            )

    def ask(self, q: np.ndarray, turn: int) -> None:
        """Let everybody answer one query."""
        time.sleep(PAUSE)
        walk_on = functools.partial(self.pool, q, self.k_pool, n_threads=1)
        self.handed_over.append(self.hand_over.seconds(walk_on))
        time.sleep(PAUSE)
        began = time.perf_counter()
        pool = self.pool(q, self.k_pool, n_threads=1)
        self.pool_seconds.append(time.perf_counter() - began)
        compared = [STREAM, BATCH, EAGER, AGAIN]
        answers = {}
        for name in compared[turn % 4 :] + compared[: turn % 4]:
            time.sleep(PAUSE)
            if name in (BATCH, AGAIN):
                began = time.perf_counter()
                answers[name] = self.batch.search(q, K)
                self._note(name, began, answers[name].ids, self.k_pool)
                continue
            self.scorer.first = np.inf
            search = self.stream if name == STREAM else self.eager
            began = time.perf_counter()
            answers[name] = got = search.search(q, K)
            self._note(name, began, got.ids, int(got.scored[0]))
            self.begun[name].append(self.scorer.first - began)
            self.results[name].append(got)
            self.same_set.append(bool((got.pool == pool).all()) and bool(got.complete[0]))
        batch = answers[BATCH]
        for name in (STREAM, EAGER):
            got = answers[name]
            self.same_answer.append(
                bool((batch.ids == got.ids).all() and (batch.distances == got.distances).all())
            )
        for name, search in (
            (BALANCED, lambda: self.balanced.search(q, K).ids),
            (NAIVE, lambda: self._apart(q, None)),
            (SHARDS, lambda: self._apart(q, self.workload.shards)),
            (SINGLE, lambda: self._single(q)),
        ):
            if name not in self.times or (name == SINGLE and turn >= N_SINGLE):
                continue
            began = time.perf_counter()
            self._note(name, began, search(), self.k_pool)

    def _note(self, name: str, began: float, ids: np.ndarray, scored: int) -> None:
        times = self.times[name]
        times.seconds.append(time.perf_counter() - began)
        times.ids.append(ids)
        times.scored.append(scored)

    def _apart(self, q: np.ndarray, shards: list[lw.HNSW] | None) -> np.ndarray:
        """Every lane searches for itself: the whole index, or its shard."""
        n = self.k_pool // N_LANES

        def lane(r: int) -> tuple[np.ndarray, np.ndarray]:
            graph = self.workload.index if shards is None else shards[r]
            ids = graph.pool(q, n, ef=n, n_threads=1)
            if shards is not None:
                ids = np.where(ids >= 0, self.workload.rows[r][ids], -1)
            return ids, self.scorer.score(q[np.newaxis], ids)

        found = list(self.threads.map(lane, range(N_LANES)))
        ids, distances = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
        return merge(distances, ids, K).ids

    def _single(self, q: np.ndarray) -> np.ndarray:
        ids = self.pool(q, self.k_pool, n_threads=1)
        return merge(self.scorer.score(q[np.newaxis], ids), ids, K).ids

    def close(self) -> None:
        self.stream.close()
        self.hand_over.close()
        self.threads.shutdown()


def entry_bytes() -> int:
    """Bytes of one candidate that waits: a distance and an id, and their place in a list."""
    return sys.getsizeof((0.5, 2**40)) + sys.getsizeof(0.5) + sys.getsizeof(2**40) + 8


def columns(results: list, name: str) -> np.ndarray:
    return np.concatenate([getattr(result, name) for result in results])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.lanes.streaming")
    parser.add_argument("--workload", nargs="+", default=list(FILES), choices=list(FILES))
    parser.add_argument("--index", default="hnsw", choices=("hnsw", "ivf"))
    parser.add_argument("--data-folder", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="keeps the graphs, which take minutes to build")
    parser.add_argument("--pools", type=int, nargs="+", default=list(POOLS))
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--cost", nargs="+", default=list(COSTS), choices=COSTS)
    parser.add_argument("--seconds", type=float, default=0.001, help="a candidate, or a call")
    parser.add_argument("--quick", action="store_true", help="does everything run?")
    options = parser.parse_args()
    if options.quick:
        options.pools, options.queries = options.pools[:2], 5
    before = machine.clocks()
    print(f"lanewise {lw.__version__}, kernels {lw.kernels.get().name}")
    for name in options.workload:
        workload = Workload(name, options)
        for cost in options.cost:
            judge(workload, cost, options)
    others = machine.taken_by_others(before)
    if others is not None:
        print(f"\nother processes kept {others:.2f} CPUs busy")
    return 0


def judge(workload: Workload, cost: str, options: argparse.Namespace) -> None:
    title = (
        f"{workload.vectors.label}, {options.index}, {N_LANES} lanes, "
        f"{format_time(options.seconds)} a {cost}"
    )
    streamed, latencies = [], []
    for k_pool in options.pools:
        race = Race(workload, k_pool, cost, options.seconds)
        queries = workload.vectors.queries
        for q in queries[-N_WARM:]:  # threads begin, caches fill, streams learn what calls take
            race.ask(q, N_SINGLE)
        race.forget()
        for turn, q in enumerate(queries):
            race.ask(q, turn)
        race.close()
        streamed += [stream_row(race, name) for name in (STREAM, EAGER)]
        latencies += latency_rows(race)
    print(f"\n{title}: what streaming does\n")
    print(tabulate(streamed, headers="keys", disable_numparse=True, stralign="right"))
    print(f"\n{title}: latency of a query\n")
    print(tabulate(latencies, headers="keys", disable_numparse=True, stralign="right"), flush=True)


def stream_row(race: Race, name: str) -> dict[str, str]:
    results = race.results[name]
    pool = np.array(race.pool_seconds)
    begun = np.array(race.begun[name])
    handed_over = np.array(race.handed_over)
    waiting = columns(results, "most_waiting").max()
    scored, wasted = columns(results, "scored").sum(), columns(results, "wasted").sum()
    began_early = columns(results, "early") > 0
    given = columns(results, "time_to_first_candidate")
    return {
        "pool": str(race.k_pool),
        "who": name,
        "same set": f"{np.mean(race.same_set):.3f}",
        "same answer": f"{np.mean(race.same_answer):.3f}",
        "pool alone": format_time(np.median(pool)),
        "hand-over": format_time(np.median(handed_over)),
        "/ pool": f"{np.median(handed_over) / np.median(pool):.2f}",
        "began early": f"{began_early.mean():.2f}",
        "first given": format_time(np.median(given)),
        "scoring begins": format_time(np.median(begun)),
        "/ pool alone": f"{np.median(begun) / np.median(pool):.2f}",
        "best fifth": f"{np.quantile(begun, 0.2) / np.median(pool):.2f}",
        "first score": format_time(np.median(columns(results, "time_to_first_score"))),
        "early": f"{columns(results, 'early').sum() / scored:.3f}",
        "waste": f"{wasted / scored:.4f}",
        "waste, worst": f"{np.max([result.waste[0] for result in results]):.3f}",
        "waiting": str(waiting),
        "bytes": str(waiting * entry_bytes()),
    }


def latency_rows(race: Race) -> list[dict[str, str]]:
    rows = []
    batch = np.array(race.times[BATCH].seconds)
    for name, times in race.times.items():
        seconds = np.array(times.seconds)
        # Of the same query, a moment later: what disturbs the machine disturbs both.
        beside = np.median(seconds - batch[: len(seconds)])
        many = len(seconds) > N_SINGLE
        rows.append(
            {
                "pool": str(race.k_pool),
                "who": name,
                "p50": format_time(np.median(seconds)),
                "p99": format_time(np.quantile(seconds, 0.99)) if many else "",
                "mean": format_time(seconds.mean()),
                "beside the third": f"{1e3 * beside:+.2f} ms",
                "scored": f"{np.mean(times.scored):.1f}",
                "recall": f"{race.workload.vectors.recall(np.concatenate(times.ids)):.3f}",
                "queries": str(len(seconds)),
            }
        )
    return rows


if __name__ == "__main__":
    sys.exit(main())
