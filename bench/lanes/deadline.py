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


WHO = (
    "naive lanes, de-duplicated",
    "one index, whole budget",
    "hash shards",
    "alpha 1",
    f"head {K}",
    "first-stage scores",
    "idle lanes go on",
)


def draw(found: dict[str, dict[str, list[float]]], path: str) -> None:
    """Draw recall against the deadline."""
    from matplotlib.figure import Figure

    colors = ("#BBBBBB", "black", "#CC79A7", "#D55E00", "#009E73", "#0072B2", "#E69F00")
    figure = Figure(figsize=(5.2 * len(found), 4.6), layout="constrained")
    axes = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axis, (name, lines) in zip(axes, found.items(), strict=True):
        for who, color in zip(WHO, colors, strict=True):
            axis.plot(
                [1000 * d for d in DEADLINES], lines[who], color=color, marker="o", markersize=4,
                label=who,
            )  # fmt: skip
        axis.set_title(name)
        axis.set_xlabel("deadline, ms")
        axis.set_xscale("log")
        axis.set_xticks([1000 * d for d in DEADLINES], [f"{1000 * d:.0f}" for d in DEADLINES])
        axis.minorticks_off()
        axis.grid(alpha=0.25)
    axes[0].set_ylabel(f"recall@{K}")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = common.parser("deadline", __doc__)
    parser.add_argument("--picture", metavar="FILE")
    options = parser.parse_args(arguments)
    began = machine.clocks()
    drawn = {}
    for problem in common.problems(options):
        n = min(100, len(problem.queries))
        found = {who: [answers(problem, who, d, n) for d in DEADLINES] for who in WHO}
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
        draw(drawn, options.picture)
    machine.say_who_else_ran(began)
    return 0


if __name__ == "__main__":
    sys.exit(main())
