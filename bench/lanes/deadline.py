"""Quality against the deadline: ``python -m bench.lanes.deadline [--data-folder FOLDER]``.

A wall-clock run. Scoring a candidate takes 1 ms, as a remote model would, one candidate of a lane
at a time; some lanes are slow for a while: each query and lane is a straggler with a chance of 5 %,
and takes ten times as long. Prints recall@10 for each deadline, beside naive lanes, one worker for
the whole budget, and hash shards; ``--picture FILE`` draws it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence

import numpy as np

import lanewise as lw
from bench import machine
from bench.lanes import common
from bench.lanes.common import KEY, K, Problem
from lanewise.lanes import Async, LaneSearch, Setting
from lanewise.result import SearchResult

N_LANES, K_LANE = 4, 16
WAIT, SLOW, CHANCE = 1e-3, 10, 0.05
DEADLINES = (0.004, 0.008, 0.012, 0.016, 0.020, 0.030, 0.060)


class Remote:
    """Somebody else's model: one candidate after another, in a time that depends on the lane."""

    def __init__(self, flat: lw.Flat, seed: int) -> None:
        self.flat = flat
        self.rng = np.random.default_rng(seed)
        self.slow: dict[int, bool] = {}
        self.loop = Async(self._score, concurrency=1024)

    def submit(self, lane: int, queries: np.ndarray, ids: np.ndarray):
        slow = self.slow.setdefault(lane, bool(self.rng.random() < CHANCE))
        return self.loop.submit(lane, [(query, slow) for query in queries], ids)

    def begin(self) -> None:
        """Draw anew which lanes are slow."""
        self.slow = {}

    async def _score(self, item, ids):
        query, slow = item
        await asyncio.sleep(len(ids) * WAIT * (SLOW if slow else 1))
        return self.flat.score(query, ids)[0]

    def close(self) -> None:
        self.loop.close()


def answers(problem: Problem, who: str, deadline: float, n: int) -> tuple[float, float]:
    """Return the recall, and the median seconds of a query."""
    options: dict[str, object] = {}
    pool: object = problem.coarse
    setting = Setting(N_LANES, K_LANE)
    if who == "naive lanes, de-duplicated":
        setting = Setting(N_LANES, K_LANE, alpha=0.0)
    elif who == "one index, whole budget":
        setting = Setting(1, N_LANES * K_LANE)
    elif who == "hash shards":
        setting, pool = Setting(N_LANES, K_LANE, scheme="owner"), _Shards(problem)
        options["collect"] = "lanes"
    elif who == f"head {K}":
        setting = Setting(N_LANES, K_LANE, head=K)
    elif who == "idle lanes go on":
        options["on_idle"] = "continue"
    elif who == "first-stage scores":
        options["fallback"] = "first-stage"
    remote = Remote(problem.flat, seed=1)
    search = LaneSearch(
        pool, remote, n_lanes=setting.n_lanes, k_lane=setting.k_lane, key=KEY, step=1, **options
    )
    search.search(problem.queries[0], K, setting=setting, deadline=1.0)
    ids, seconds = [], []
    for query in problem.queries[:n]:
        remote.begin()
        began = time.perf_counter()
        ids.append(search.search(query, K, setting=setting, deadline=deadline).ids)
        seconds.append(time.perf_counter() - began)
    search.close()
    return problem.recall(np.concatenate(ids)), float(np.median(seconds))


class _Shards:
    """A first stage for each lane over its own rows."""

    def __init__(self, problem: Problem) -> None:
        self.dim = problem.coarse.dim
        self.rows = common.shards(len(problem.base), N_LANES, 0)
        self.coarse = [common.Coarse(problem.base[r], problem.n_subspaces) for r in self.rows]

    def collect(self, queries, k, *, lane, n_lanes, alpha, key):
        found = self.coarse[lane].pool(queries, k)
        return SearchResult(found.distances, self.rows[lane][found.ids])


STYLES = {
    "naive lanes, de-duplicated": ("#BBBBBB", "-", 4.0),
    "one index, whole budget": ("black", ":", 1.4),
    "hash shards": ("#CC79A7", "-.", 1.6),
    "alpha 1": ("#D55E00", "-", 1.8),
    f"head {K}": ("#009E73", "-", 1.8),
    "first-stage scores": ("#0072B2", "--", 1.8),
    "idle lanes go on": ("#E69F00", "-", 1.8),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = common.parser("deadline", __doc__)
    parser.add_argument("--picture", metavar="FILE")
    options = parser.parse_args(arguments)
    began = machine.clocks()
    drawn = {}
    for problem in common.problems(options):
        n = min(100, len(problem.queries))
        found = {who: [answers(problem, who, d, n) for d in DEADLINES] for who in STYLES}
        n_rows, dim = problem.base.shape
        print(
            f"\n{problem.name} {n_rows:,} x {dim}, {N_LANES} lanes of {K_LANE}, 1 ms a candidate, "
            f"{n} queries one at a time: recall@{K} by the deadline (wall clock)\n"
        )
        rows = [[who, *(f"{r:.3f}" for r, _ in line)] for who, line in found.items()]
        print(common.table(rows, ["", *(f"{1000 * d:.0f} ms" for d in DEADLINES)]))
        late = max(
            seconds - deadline
            for line in found.values()
            for (_, seconds), deadline in zip(line, DEADLINES, strict=True)
        )
        print(
            f"\nThe median answer is at most {1000 * late:.2f} ms behind its deadline.", flush=True
        )
        drawn[problem.name] = {who: [r for r, _ in line] for who, line in found.items()}
    if options.picture:
        x = [1000 * deadline for deadline in DEADLINES]
        common.draw(drawn, STYLES, x, "deadline, ms", options.picture, log=True)
    machine.say_who_else_ran(began)
    return 0


if __name__ == "__main__":
    sys.exit(main())
