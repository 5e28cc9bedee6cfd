"""Judge the replay of a query log: what it predicts beside what really running gives.

``python -m bench.lanes.replay [--data-folder FOLDER]``

First with SIMULATED lateness: `LaneSearch` runs with one setting and writes a log, of which a tenth
are shadow records; the replay predicts every other setting, and `LaneSearch` then really runs with
each, on other queries of the same kind and another draw of the same lateness. Recall is the share
of the full pool's answer. Two draws differ by luck, which is most of what "points" show; the error
beside them says how much. "Same lanes" leaves the luck out: really run with the very lanes that
were late in the log, on its queries.

Then in real time: a scorer in threads that takes as long as it likes, and a deadline that leaves
lanes half done. Each query is searched with the setting that is logged and with all others, one
after the other and each first in turn, so that they meet the same phases of the machine; the error
of the difference is that of a jackknife which leaves out twenty blocks of queries in turn.
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
BLOCKS = 20


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


def lateness(
    schedule: Schedule, n_lanes: int, rng: np.random.Generator, first: np.ndarray | None = None
) -> np.ndarray:
    """Draw for any number of lanes: further ones are as the first, and late with them."""
    on_time = schedule.draw(rng) if first is None else first
    while on_time.shape[1] < n_lanes:
        more = schedule.draw(rng)
        together = schedule.together[:, None]
        on_time = np.concatenate((on_time, np.where(together, on_time[:, :M], more)), axis=1)
    return on_time[:, :n_lanes]


Difference = tuple[float, float, float | None]


def simulated(world: World, options: argparse.Namespace, folder: Path) -> list[Difference]:
    """Print predictions beside reality for all schedules.

    Return the differences in points, their errors, and the differences with the same lanes.
    """
    runner = Runner(world)
    rng = np.random.default_rng(options.seed)
    differences = []
    for schedule in schedules(options.length, options.seed):
        path = folder / f"{schedule.name}.jsonl"
        queries = rng.integers(len(world.pool), size=options.length)
        late_so = schedule.draw(rng)
        _write(path, runner, queries, late_so)
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
            again = lateness(schedule, setting.n_lanes, rng, late_so)
            same = 100 * (predicted.recall - runner.really(setting, queries, again).mean())
            error = found.std() / np.sqrt(len(found))
            points = 100 * (predicted.recall - found.mean())
            points_error = 100 * float(np.hypot(predicted.recall_error, error))
            differences.append((points, points_error, same))
            logged = " (logged)" if setting == LOGGED else ""
            rows.append(
                [
                    describe(setting) + logged,
                    predicted.recall,
                    predicted.recall_error,
                    found.mean(),
                    error,
                    points,
                    points_error,
                    same,
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


def in_real_time(world: World, options: argparse.Namespace, folder: Path) -> list[Difference]:
    """Print predictions beside reality for lanes that a deadline cuts; return as `simulated`."""
    runner = Runner(world)
    rng = np.random.default_rng(options.seed)
    flat = world.flat

    def score(query: np.ndarray, ids: np.ndarray) -> np.ndarray:
        return flat.score(query[None], ids[None], n_threads=1)[0]

    chosen = [0]
    search = LaneSearch(
        lambda Q, k_pool: world.pool[chosen],
        Threads(Slow(score, options.seed)),
        k_pool=K_POOL,
        deadline=SECONDS,
        step=4,
    )
    settings = candidates(M, B)
    path = folder / "real.jsonl"
    queries = rng.integers(len(world.pool), size=options.real_time).tolist()
    found = np.empty((len(settings), len(queries)))
    # The last is the search that is logged.
    turns = len(settings) + 1
    with QueryLog(path) as log:
        for place, query in enumerate(queries):
            chosen[0] = query
            for turn in range(turns):
                at = (place + turn) % turns
                setting = settings[at] if at < len(settings) else LOGGED
                result = search.search(world.queries[query], K, setting=setting)
                if at < len(settings):
                    found[at, place] = runner.recall(result, [query])[0]
                else:
                    name = CLASSES[world.classes[query]]
                    exact = runner.exact[query][None]
                    log.write(result, query_class=name, pool_distances=exact)
    search.close()
    records = read_log(path)
    rows = []
    blocks = np.arange(len(records)) * BLOCKS // len(records)
    parts = [np.flatnonzero(blocks != block) for block in np.unique(blocks)]
    left_out = np.empty((len(settings), len(parts)))
    for i, setting in enumerate(settings):
        predicted = replay(records, setting, deadline=SECONDS)
        for part, kept in enumerate(parts):
            fewer = replay([records[at] for at in kept], setting, deadline=SECONDS)
            left_out[i, part] = 100 * (fewer.recall - found[i, kept].mean())
        rows.append(
            [
                describe(setting) + (" (logged)" if setting == LOGGED else ""),
                predicted.recall,
                predicted.recall_error,
                found[i].mean(),
                found[i].std() / np.sqrt(len(queries)),
                100 * (predicted.recall - found[i].mean()),
                _jackknife(left_out[i]),
                None,
                predicted.recall_p5,
                np.quantile(found[i], 0.05),
            ]
        )
    print(f"\n{world.name}, real time: threads that sleep, {SECONDS:g} s, 4 candidates a step")
    _print(rows)
    on_time = np.mean([lane.on_time for record in records for lane in record.lanes])
    mean = np.mean([row[5] for row in rows])
    print(
        f"{len(records):,} records, {on_time:.1%} of their lanes on time; all settings together: "
        f"{mean:+.2f} +- {_jackknife(left_out.mean(axis=0)):.2f} points"
    )
    return [(row[5], row[6], None) for row in rows]


def _jackknife(left_out: np.ndarray) -> float:
    """Return the standard error, from the same figure without each block in turn."""
    n = len(left_out)
    return float(np.sqrt((n - 1) / n * np.sum((left_out - left_out.mean()) ** 2)))


def _print(rows: list[list]) -> None:
    headers = [
        "setting",
        "predicted",
        "+-",
        "really run",
        "+-",
        "points",
        "+-",
        "same lanes,\npoints",
        "predicted p5",
        "really p5",
    ]
    formats = ("", ".4f", ".4f", ".4f", ".4f", ".2f", ".2f", ".2f", ".2f", ".2f")
    print(tabulate(rows, headers, floatfmt=formats))


def main(arguments: Sequence[str] | None = None) -> int:
    add = (made := parser("replay", __doc__)).add_argument
    add("--length", type=int, default=6000, help="queries of a schedule")
    add("--real-time", type=int, default=1000, metavar="N", help="queries in real time; 0 for none")
    options = made.parse_args(arguments)
    differences: list[Difference] = []
    real: list[Difference] = []
    for world in worlds(options):
        # A log that is there is gone on with, so each set of vectors has its own.
        with tempfile.TemporaryDirectory() as folder:
            differences += simulated(world, options, Path(folder))
            if options.real_time:
                real += in_real_time(world, options, Path(folder))
    for name, found in (("simulated lateness", differences), ("real time", real)):
        if found:
            points, errors, same = (list(column) for column in zip(*found, strict=True))
            size = np.abs(points)
            print(
                f"\n{name}: predicted within one point for {100 * np.mean(size <= 1):.0f} % of "
                f"{len(found)} settings; {np.mean(size):.2f} points apart on average, "
                f"{size.max():.2f} at most; within two standard errors "
                f"{100 * np.mean(size <= 2 * np.array(errors)):.0f} %"
            )
            if None not in same:
                size = np.abs(same)
                print(
                    f"with the same lanes late: {100 * np.mean(size <= 1):.0f} % within one point, "
                    f"{np.mean(size):.2f} apart on average, {size.max():.2f} at most"
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
