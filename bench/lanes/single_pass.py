"""Lanes without a pool beside lanes with one: ``python -m bench.lanes.single_pass``.

Lanes that collect what they own while they walk the graph, or that read their share of the cells,
against the plans over one pool, at the same collected budget: recall@10, duplicates, and the
distances that all lanes compute together. The last rows are of replicas built independently.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

import lanewise as lw
from bench import machine
from bench.lanes import common
from bench.lanes.common import KEY, K, Problem
from lanewise.lanes import LaneSearch

N_LANES, K_LANE = 4, 16
K_TOTAL = N_LANES * K_LANE


def rows(problem: Problem) -> list[list[object]]:
    """Measure every way on one set."""
    X, flat, Q = problem.base, problem.flat, problem.queries
    found: list[list[object]] = []

    def add(who: str, ids: np.ndarray, duplicates: float, distances: float) -> None:
        found.append([who, f"{problem.recall(ids):.4f}", f"{duplicates:.2f}", f"{distances:,.0f}"])

    def add_lanes(who: str, pool: object, distances: float | None = None, **options: object):
        search = LaneSearch(pool, flat, n_lanes=N_LANES, k_lane=K_LANE, key=KEY, **options)
        result = search.search(Q, K)
        if distances is None:
            counted = "distances" if "distances" in result.stats else "candidates"
            distances = float(result.stats[counted].mean())
        add(who, result.ids, float(result.stats["duplicates"].mean()), distances)

    graphs = [lw.HNSW.build(X, seed=seed, n_threads=None) for seed in range(N_LANES)]
    one, whole = (graphs[0].search(Q, ef, ef=ef) for ef in (K_LANE, K_TOTAL))
    add("graph: naive lanes, de-duplicated", one.ids[:, :K], K_LANE * (N_LANES - 1),
        N_LANES * one.stats["distances"].mean())  # fmt: skip
    add("graph: one index, whole budget", whole.ids[:, :K], 0, whole.stats["distances"].mean())
    add("graph: hash shards", *_shards(problem, graphs[0]))
    pooled = float(whole.stats["distances"].mean())
    for scheme in ("stratified", "owner"):
        add_lanes(f"graph: pool, {scheme}", graphs[0], pooled, scheme=scheme)
    add_lanes("graph: single pass", graphs[0], collect="lanes")
    add_lanes("replicas: pool each, stratified by position", _Positions(graphs), 4 * pooled,
              collect="lanes")  # fmt: skip
    add_lanes("replicas: single pass", graphs, collect="lanes")

    n_lists = round(len(X) ** 0.5)
    ivf = lw.IVF(X.shape[1], n_lists, n_probe=32).train(X).add(X)
    one, whole = (ivf.search(Q, K_TOTAL, n_probe=n_probe) for n_probe in (32 // N_LANES, 32))
    add("cells: naive lanes, de-duplicated", one.ids[:, :K], K_LANE * (N_LANES - 1),
        N_LANES * one.stats["candidates"].mean())  # fmt: skip
    add("cells: one index, whole budget", whole.ids[:, :K], 0, whole.stats["candidates"].mean())
    pooled = float(whole.stats["candidates"].mean())
    for scheme in ("stratified", "owner"):
        add_lanes(f"cells: pool, {scheme}", ivf, pooled, scheme=scheme)
    add_lanes("cells: single pass, lists dealt by rank", ivf, collect="lanes")
    return found


def _shards(problem: Problem, graph: lw.HNSW) -> tuple[np.ndarray, float, float]:
    distances, ids, computed = [], [], 0.0
    for part in common.shards(len(problem.base), N_LANES, 0):
        shard = lw.HNSW.build(problem.base[part], n_threads=None)
        answer = shard.search(problem.queries, K_LANE, ef=K_LANE)
        distances.append(answer.distances)
        ids.append(part[answer.ids])
        computed += float(answer.stats["distances"].mean())
    merged = lw.merge(np.concatenate(distances, axis=1), np.concatenate(ids, axis=1), K)
    return merged.ids, 0.0, computed


class _Positions:
    """Replicas that each plan over the pool they find themselves, and take their own part."""

    def __init__(self, graphs: list[lw.HNSW]) -> None:
        self.graphs = graphs
        self.dim = graphs[0].dim

    def collect(self, queries, k, *, lane, n_lanes, alpha, key):
        pool = self.graphs[lane].search(queries, n_lanes * k, ef=n_lanes * k)
        own = lw.lanes.plan(pool.ids, key, n_lanes=n_lanes, k_lane=k).lane(lane)
        distances = np.full(own.shape, np.inf, dtype=np.float32)
        return lw.SearchResult(distances, own, pool.stats)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = common.parser("single_pass", __doc__)
    parser.set_defaults(rows=100_000)
    options = parser.parse_args(arguments)
    began = machine.clocks()
    for problem in common.problems(options):
        n, dim = problem.base.shape
        print(f"\n{problem.name} {n:,} x {dim}, {N_LANES} lanes of {K_LANE}\n")
        head = ["", f"recall@{K}", "duplicates", "distances"]
        print(common.table(rows(problem), head), flush=True)
    machine.say_who_else_ran(began)
    return 0


if __name__ == "__main__":
    sys.exit(main())
