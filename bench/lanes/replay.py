"""Judge the replay of a query log: what it predicts beside what really running gives.

``python -m bench.lanes.replay [--data-folder FOLDER]``

First with SIMULATED lateness: `LaneSearch` runs with one setting and writes a log, of which a tenth
are shadow records; the replay predicts every other setting, and `LaneSearch` then really runs with
each, on other queries of the same kind and another draw of the same lateness. Recall is the share
of the full pool's answer. Then in real time: a scorer in threads that takes as long as it likes,
and a deadline that leaves lanes half done.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tabulate import tabulate

from bench.lanes.common import K, Lossy
from bench.lanes.traces import CLASSES, K_POOL, B, M, Schedule, World, parser, schedules, worlds
from lanewise.lanes import (
    LaneResult,
    LaneSearch,
    QueryLog,
    Setting,
    Threads,
    candidates,
    read_log,
    replay,
)
from lanewise.lanes.law import describe

LOGGED = Setting(M, B)
OTHERS = (*candidates(M, B), Setting(2, 32), Setting(8, 8), Setting(8, 8, head=8))
SHADOW = 0.1
REPEATS = 3
SECONDS = 0.02  # deadline of lanes in real time


class Runner:
    """Really runs `LaneSearch` over a world, each query with the lanes that are late for it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.exact = world.flat.score(world.queries, world.pool)
        order = np.argsort(self.exact, axis=1, kind="stable")[:, :K]
        self.best = np.take_along_axis(world.pool, order, axis=1)

    def recall(self, result: LaneResult, queries: Sequence[int]) -> np.ndarray:
        return (result.ids[:, :, None] == self.best[queries][:, None]).any(axis=1).mean(axis=1)

    def run(
        self, setting: Setting, queries: np.ndarray, on_time: np.ndarray
    ) -> Iterator[tuple[np.ndarray, LaneResult]]:
        """Yield results with the places of their queries, those of equal lateness together."""
        world = self.world
        patterns, number = np.unique(on_time, axis=0, return_inverse=True)
        for i, pattern in enumerate(patterns):
            at = np.flatnonzero(number.reshape(-1) == i)
            chosen = queries[at]
            lost = tuple(np.flatnonzero(~pattern).tolist())
            search = LaneSearch(
                lambda Q, k_pool, chosen=chosen: world.pool[chosen],
                Lossy(world.flat, lost),
                k_pool=K_POOL,
                deadline=0.0,
                step=10**6,
            )
            yield at, search.search(world.queries[chosen], K, setting=setting)

    def really(self, setting: Setting, queries: np.ndarray, on_time: np.ndarray) -> np.ndarray:
        found = np.empty(len(queries))
        for at, result in self.run(setting, queries, on_time):
            found[at] = self.recall(result, queries[at])
        return found


def lateness(schedule: Schedule, n_lanes: int, rng: np.random.Generator) -> np.ndarray:
    """Draw for any number of lanes: further ones are as the first, and late with them."""
    on_time = schedule.draw(rng)
    while on_time.shape[1] < n_lanes:
        more = schedule.draw(rng)
        together = schedule.together[:, None]
        on_time = np.concatenate((on_time, np.where(together, on_time[:, :M], more)), axis=1)
    return on_time[:, :n_lanes]


def simulated(world: World, options: argparse.Namespace, folder: Path) -> list[float]:
    """Print predictions beside reality for all schedules; return the differences in points."""
    runner = Runner(world)
    rng = np.random.default_rng(options.seed)
    differences = []
    for schedule in schedules(options.length, options.seed):
        path = folder / f"{schedule.name}.jsonl"
        queries = rng.integers(len(world.pool), size=options.length)
        _write(path, runner, queries, schedule.draw(rng))
        began = time.perf_counter()
        records = read_log(path)
        reading = time.perf_counter() - began
        rows = []
        spent = 0.0
        for setting in OTHERS:
            began = time.perf_counter()
            predicted = replay(records, setting)
            spent += time.perf_counter() - began
            # Several times as many queries as were logged: reality should not be the noisy side.
            found = np.concatenate(
                [
                    runner.really(
                        setting,
                        rng.integers(len(world.pool), size=options.length),
                        lateness(schedule, setting.n_lanes, rng),
                    )
                    for _ in range(REPEATS)
                ]
            )
            difference = 100 * (predicted.recall - found.mean())
            differences.append(difference)
            logged = " (logged)" if setting == LOGGED else ""
            rows.append(
                [
                    describe(setting) + logged,
                    predicted.recall,
                    predicted.recall_error,
                    found.mean(),
                    found.std() / np.sqrt(len(found)),
                    difference,
                    predicted.recall_p5,
                    np.quantile(found, 0.05),
                ]
            )
        print(f"\n{world.name}, SIMULATED lateness: {schedule.name} ({schedule.what})")
        _print(rows)
        print(
            f"{len(records):,} records, {records.n_complete:,} complete; reading takes "
            f"{1e6 * reading / len(records):.0f} us a record, a replay of one setting "
            f"{1e3 * spent / len(OTHERS):.0f} ms"
        )
    return differences


def _write(path: Path, runner: Runner, queries: np.ndarray, on_time: np.ndarray) -> None:
    world = runner.world
    written: list[tuple[LaneResult, int]] = [None] * len(queries)  # type: ignore[list-item]
    for at, result in runner.run(LOGGED, queries, on_time):
        for row, place in enumerate(at):
            written[place] = result, row
    with QueryLog(path) as log:
        for place, (result, row) in enumerate(written):
            distances = None
            if place % round(1 / SHADOW) == 0:
                distances = np.zeros(result.pool.shape)
                distances[row] = runner.exact[queries[place]]
            name = CLASSES[world.classes[queries[place]]]
            log.write(result, query_class=name, pool_distances=distances, queries=[row])


class Slow:
    """Scores one query's candidates, each after a time of its own; some calls are stragglers."""

    def __init__(self, score: Callable[[np.ndarray, np.ndarray], np.ndarray], seed: int) -> None:
        self._exact = score
        self.rng = np.random.default_rng(seed)

    def __call__(self, query: np.ndarray, ids: np.ndarray) -> np.ndarray:
        straggles = 4 if self.rng.random() < 0.15 else 1
        time.sleep(len(ids) * straggles * float(self.rng.uniform(0.4e-3, 1.2e-3)))
        return self._exact(query, ids)


def in_real_time(world: World, options: argparse.Namespace, folder: Path) -> list[float]:
    """Print predictions beside reality for lanes that a deadline cuts."""
    runner = Runner(world)
    rng = np.random.default_rng(options.seed)
    flat = world.flat

    def score(query: np.ndarray, ids: np.ndarray) -> np.ndarray:
        return flat.score(query[None], ids[None], n_threads=1)[0]

    def run(setting: Setting) -> Iterator[tuple[int, LaneResult]]:
        chosen = [0]
        search = LaneSearch(
            lambda Q, k_pool: world.pool[chosen],
            Threads(Slow(score, options.seed)),
            k_pool=K_POOL,
            deadline=SECONDS,
            step=4,
        )
        for query in rng.integers(len(world.pool), size=options.real_time).tolist():
            chosen[0] = query
            yield query, search.search(world.queries[query], K, setting=setting)
        search.close()

    path = folder / "real.jsonl"
    with QueryLog(path) as log:
        for query, result in run(LOGGED):
            name = CLASSES[world.classes[query]]
            log.write(result, query_class=name, pool_distances=runner.exact[query][None])
    records = read_log(path)
    rows = []
    for setting in candidates(M, B):
        predicted = replay(records, setting, deadline=SECONDS)
        found = np.array([runner.recall(result, [query])[0] for query, result in run(setting)])
        rows.append(
            [
                describe(setting) + (" (logged)" if setting == LOGGED else ""),
                predicted.recall,
                predicted.recall_error,
                found.mean(),
                found.std() / np.sqrt(len(found)),
                100 * (predicted.recall - found.mean()),
                predicted.recall_p5,
                np.quantile(found, 0.05),
            ]
        )
    print(f"\n{world.name}, real time: threads that sleep, {SECONDS:g} s, 4 candidates a step")
    _print(rows)
    on_time = np.mean([lane.on_time for record in records for lane in record.lanes])
    print(f"{len(records):,} records, {on_time:.1%} of their lanes on time")
    return [row[5] for row in rows]


def _print(rows: list[list]) -> None:
    headers = [
        "setting",
        "predicted",
        "+-",
        "really run",
        "+-",
        "points",
        "predicted p5",
        "really p5",
    ]
    formats = ("", ".4f", ".4f", ".4f", ".4f", ".2f", ".2f", ".2f")
    print(tabulate(rows, headers, floatfmt=formats))


def main(arguments: Sequence[str] | None = None) -> int:
    add = (made := parser("replay", __doc__)).add_argument
    add("--length", type=int, default=6000, help="queries of a schedule")
    add("--real-time", type=int, default=1000, metavar="N", help="queries in real time; 0 for none")
    options = made.parse_args(arguments)
    differences: list[float] = []
    real: list[float] = []
    for world in worlds(options):
        # A log that is there is gone on with, so each set of vectors has its own.
        with tempfile.TemporaryDirectory() as folder:
            differences += simulated(world, options, Path(folder))
            if options.real_time:
                real += in_real_time(world, options, Path(folder))
    for name, found in (("simulated lateness", differences), ("real time", real)):
        if found:
            size = np.abs(found)
            print(
                f"\n{name}: predicted within one point for {100 * np.mean(size <= 1):.0f} % of "
                f"{len(found)} settings; {np.mean(size):.2f} points apart on average, "
                f"{size.max():.2f} at most"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
