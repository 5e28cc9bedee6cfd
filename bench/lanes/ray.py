"""Lanes on Ray actors: ``python -m bench.lanes.ray [--data-folder FOLDER] [--soak 10000]``.

Begins a cluster of three nodes on this machine and measures on its actors what a round trip costs
by size of batch, and lanes that collect for themselves beside their alternatives: every lane the
same with duplicates removed, one wider index on one actor, and shards by hash. With ``--soak``
that many queries are asked while actors, and in the middle a node, are killed again and again:
every answer must be, bit for bit, the merge of what the lanes that were on time find, and hold no
id twice.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import hnswlib
import numpy as np
import ray
from ray.cluster_utils import Cluster
from tabulate import tabulate

import lanewise as lw
from bench import data, machine
from bench.data import K
from bench.summary import format_time
from lanewise import oracle
from lanewise.lanes import merge
from lanewise.lanes.ray import RayLanes, RayResult, RaySearch
from lanewise.result import SearchResult

N_LANES, K_LANE = 4, 16
BATCHES = (1, 10, 100, 1000)
SECONDS = 2.0  # for each thing that is timed
DEADLINE, BETWEEN_KILLS = 0.1, 2.0
NODE = {"num_cpus": 2, "object_store_memory": 80 * 2**20, "include_dashboard": False}


@contextlib.contextmanager
def cluster_of(n_nodes: int) -> Iterator[Cluster]:
    """Begin a cluster, and leave nothing of it behind."""
    folder = tempfile.mkdtemp(prefix="lw", dir="/tmp")  # paths of sockets are short
    os.environ.update(
        RAY_TMPDIR=folder,
        RAY_USAGE_STATS_ENABLED="0",
        # Tell sooner of a lost actor, and of a lost node, than by default.
        RAY_timeout_ms_task_wait_for_death_info="100",
        RAY_health_check_initial_delay_ms="0",
        RAY_health_check_period_ms="500",
        RAY_health_check_failure_threshold="3",
    )
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    try:
        for _ in range(n_nodes - 1):
            cluster.add_node(**NODE)
        ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def timed(call: Callable[[], object]) -> float:
    """Median seconds of a call, warmed up."""
    call()
    times = []
    end = time.perf_counter() + SECONDS
    while len(times) < 5 or time.perf_counter() < end:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


class Files:
    """The index of everybody: rows, a graph, and a graph of each shard."""

    def __init__(self, vectors: data.Vectors, folder: Path) -> None:
        base = vectors.base
        self.vectors, self.folder = vectors, folder
        self.flat = lw.Flat(base.shape[1]).add(base)
        self.flat.save(folder / "rows")
        self.graph = lw.HNSW.build(base, n_threads=None)
        self.graph.save(folder / "graph")
        shards = np.random.default_rng(0).integers(0, N_LANES, len(base))
        for shard in range(N_LANES):
            ids = np.flatnonzero(shards == shard)
            index = hnswlib.Index(space="l2", dim=base.shape[1])
            index.init_index(len(ids), M=16, ef_construction=200)
            # Shards know their rows by the ids of the whole.
            index.add_items(base[ids], ids)
            lw.HNSW(index).save(folder / f"shard{shard}")

    @property
    def rows(self) -> Callable[[], lw.Flat]:
        return functools.partial(lw.Flat.load, self.folder / "rows", mmap=True, n_threads=1)

    def graph_of(self, name: str = "graph") -> Callable[[], lw.HNSW]:
        return functools.partial(lw.HNSW.load, self.folder / name, mmap=True, n_threads=1)


# ------------------------------------------------------------------------------- round trips


def round_trips(files: Files) -> None:
    """Print what a call costs by size of batch, beside the same work in this process."""
    Q = np.resize(files.vectors.queries, (max(BATCHES), files.vectors.base.shape[1]))
    ids = files.graph.pool(Q, K_LANE)
    rows = []
    light = {"num_cpus": 0.5}
    with (
        RayLanes(files.rows, N_LANES, options=light) as lanes,
        RaySearch(files.graph_of(), n_lanes=N_LANES, options=light) as search,
    ):

        def score_all(n: int) -> None:
            for future in [lanes.submit(lane, Q[:n], ids[:n]) for lane in range(N_LANES)]:
                future.result()

        for n in BATCHES:
            seconds = [
                timed(functools.partial(files.flat.score, Q[:n], ids[:n], n_threads=1)),
                timed(lambda n=n: lanes.submit(0, Q[:n], ids[:n]).result()),
                timed(lambda n=n: score_all(n)),
                timed(lambda n=n: files.graph.search(Q[:n], K, ef=K_LANE, n_threads=1)),
                timed(lambda n=n: search.search(Q[:n], K)),
            ]
            rows.append([n, *map(format_time, seconds), format_time(seconds[-1] / n)])
    head = ["queries", "score here", "1 actor", f"{N_LANES} actors", "search here, 1 lane's width"]
    head += [f"RaySearch, {N_LANES} lanes", "a query"]
    print(f"\nWhat a call takes, {K_LANE} candidates a query and lane\n")
    print(tabulate(rows, head, "simple", disable_numparse=True), flush=True)


# ------------------------------------------------------------------------------- alternatives


def alternatives(files: Files) -> None:
    """Print what lanes find and cost, beside other ways to spend the budget."""
    Q, vectors = files.vectors.queries, files.vectors
    graph, whole = files.graph_of(), N_LANES * K_LANE
    shards = [files.graph_of(f"shard{shard}") for shard in range(N_LANES)]
    lanes = {"n_lanes": N_LANES, "k_lane": K_LANE}
    ways = {
        "one lane's budget, 1 actor": (graph, {"n_lanes": 1, "k_lane": K_LANE}),
        "naive lanes, de-duplicated": (graph, {**lanes, "alpha": 0.0}),
        "wider index, 1 actor": (graph, {"n_lanes": 1, "k_lane": whole}),
        "shards by hash": (shards, {"k_lane": K_LANE}),
        "lanes": (graph, lanes),
    }
    table = []
    for name, (open_index, how) in ways.items():
        with RaySearch(open_index, **how, options={"num_cpus": 1}) as search:
            found = search.search(Q, K)
            seconds = timed(lambda search=search: search.search(Q, K))
            single = timed(lambda search=search: search.search(Q[0], K))
            n = search.n_lanes
            lost = [recall_without(search, lane, Q, vectors) for lane in range(n)] if n > 1 else [0]
            table.append(
                [
                    name,
                    f"{vectors.recall(found.ids):.4f}",
                    f"{np.mean(lost):.4f}",
                    f"{found.stats['scored'].mean():.1f}",
                    f"{found.stats['duplicates'].mean():.1f}",
                    format_time(single),
                    format_time(seconds / len(Q)),
                ]
            )
    head = ["", f"recall@{K}", "a lane lost", "scored", "duplicates merged", "one query"]
    head += [f"a query of {len(Q)}"]
    print(f"\nOne budget, {N_LANES} x {K_LANE} candidates, on the same actors\n")
    print(tabulate(table, head, "simple", disable_numparse=True), flush=True)


def recall_without(search: RaySearch, lost: int, Q: np.ndarray, vectors: data.Vectors) -> float:
    """Recall if one lane's actors are stopped in time for the deadline."""
    stopped = [place.process for place in search.places() if place.lane == lost]
    for process in stopped:
        os.kill(process, signal.SIGSTOP)
    try:
        found = search.search(Q, K, deadline=2.0)
    finally:
        for process in stopped:
            os.kill(process, signal.SIGCONT)
    if found.missing != (lost,):
        raise RuntimeError(f"lanes: expected {lost} alone to be missing, got {found.missing}")
    return vectors.recall(found.ids)


# ------------------------------------------------------------------------------------- soak


class Killer(threading.Thread):
    """Kills an actor again and again, and counts."""

    def __init__(self, search: RaySearch) -> None:
        super().__init__(daemon=True)
        self.search, self.over = search, threading.Event()
        self.kills = 0
        self.seen = {place.process for place in search.places()}
        self.n_first = len(self.seen)

    def run(self) -> None:
        chance = random.Random(0)
        while not self.over.wait(BETWEEN_KILLS * (0.5 + chance.random())):
            places = self.search.places(timeout=0.2)
            self.seen |= {place.process for place in places}
            if places:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(chance.choice(places).process, signal.SIGKILL)
                    self.kills += 1

    @property
    def restarts(self) -> int:
        return len(self.seen) - self.n_first


@dataclass
class Soaked:
    """What came of the queries."""

    n_whole: int = 0
    n_wrong: int = 0
    n_duplicated: int = 0
    n_found: int = 0
    coverage: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    lost: collections.Counter[str] = field(default_factory=collections.Counter)

    def add(self, found: RayResult, expected: SearchResult, truth: np.ndarray) -> None:
        ids = found.ids[0][found.ids[0] >= 0]
        same = np.array_equal(found.ids, expected.ids)
        self.n_wrong += not (same and np.array_equal(found.distances, expected.distances))
        self.n_duplicated += len(np.unique(ids)) < len(ids)
        self.n_found += len(np.intersect1d(ids, truth))
        self.n_whole += not found.degraded
        self.coverage += found.coverage.tolist()
        for report in found.lanes:
            if not report.on_time:
                self.lost["late" if report.error is None else type(report.error).__name__] += 1


def soak(files: Files, cluster: Cluster, n_queries: int, n_replicas: int) -> bool:
    """Ask under kills; return whether every answer was what it must be."""
    base = files.vectors.base
    rng = np.random.default_rng(5)
    Q = base[rng.integers(0, len(base), n_queries)]
    Q = np.ascontiguousarray(Q + rng.standard_normal(Q.shape) * 0.1 * base.std(), dtype=np.float32)
    truth = files.flat.search(Q, K).ids
    whole = [files.graph.collect(Q, K_LANE, lane=lane, n_lanes=N_LANES) for lane in range(N_LANES)]
    soaked = Soaked()
    with RaySearch(
        files.graph_of(),
        n_lanes=N_LANES,
        k_lane=K_LANE,
        deadline=DEADLINE,
        n_replicas=n_replicas,
        options={"num_cpus": 0.5},
    ) as search:
        killer = Killer(search)
        killer.start()
        for q in range(n_queries):
            if q == n_queries // 2:
                node = next(iter(cluster.worker_nodes))
                threading.Thread(target=cluster.remove_node, args=(node, False)).start()
            began = time.perf_counter()
            found = search.search(Q[q], K)
            soaked.seconds.append(time.perf_counter() - began)
            lanes = [answer for lane, answer in enumerate(whole) if lane not in found.missing]
            ids = [lane.ids[q] for lane in lanes] + [np.empty(0, dtype=np.int64)]
            distances = [lane.distances[q] for lane in lanes] + [np.empty(0, dtype=np.float32)]
            expected = merge(np.concatenate(distances), np.concatenate(ids), K)
            soaked.add(found, expected, truth[q])
        killer.over.set()
        killer.join()
        killer.seen |= {place.process for place in search.places()}
    cluster.add_node(**NODE)
    seconds = np.array(soaked.seconds)
    print(
        f"\nSoak: {n_queries:,} queries one by one, {n_replicas} actors a lane, "
        f"deadline {1000 * DEADLINE:g} ms\n"
        f"  killed {killer.kills} actors and a node; {killer.restarts} actors begun again\n"
        f"  not the merge of the lanes on time: {soaked.n_wrong}; an id twice: "
        f"{soaked.n_duplicated}\n"
        f"  coverage {np.mean(soaked.coverage):.4f}; {soaked.n_whole:,} answers are whole; "
        f"lanes lost: {dict(soaked.lost) or 'none'}\n"
        f"  recall@{K} {soaked.n_found / (n_queries * K):.4f}; with all lanes "
        f"{recall_of(whole, truth):.4f}\n"
        f"  {n_queries / seconds.sum():,.0f} queries/s; median {format_time(np.median(seconds))}, "
        f"99 % {format_time(np.quantile(seconds, 0.99))}, slowest {format_time(seconds.max())}",
        flush=True,
    )
    return soaked.n_wrong == soaked.n_duplicated == 0


def recall_of(lanes: Sequence[SearchResult], truth: np.ndarray) -> float:
    distances, ids = (np.concatenate(both, axis=1) for both in zip(*lanes, strict=True))
    return oracle.recall(merge(distances, ids, K).ids, truth, K)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.lanes.ray", description=__doc__)
    parser.add_argument("--data-folder", type=Path, help="where sift_300k.npz is")
    parser.add_argument("--soak", type=int, metavar="N", help="ask N queries under kills")
    parser.add_argument("--only-soak", action="store_true", help="leave the tables out")
    options = parser.parse_args(arguments)
    vectors = data.sift()
    if options.data_folder is not None:
        vectors = data.from_file(options.data_folder / "sift_300k.npz", 1000)
    print(f"{vectors.label}, {len(vectors.queries)} queries")
    began = machine.clocks()
    with tempfile.TemporaryDirectory() as folder, cluster_of(3) as cluster:
        files = Files(vectors, Path(folder))
        if not options.only_soak:
            round_trips(files)
            alternatives(files)
        right = all(soak(files, cluster, options.soak, n) for n in (1, 2) if options.soak)
    machine.say_who_else_ran(began)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
