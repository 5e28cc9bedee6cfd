"""Judge the controller: beside every static setting, on schedules of lanes that are late.

``python -m bench.lanes.controller [--data-folder FOLDER]`` prints for each set of vectors and each
SIMULATED schedule what every way of using four lanes finds: recall@10 against exact search.

Every way meets the same queries with the same lanes on time. Windows are compared with the static
setting that is best over the whole schedule, in hindsight: "as good" means no worse by more than
half a point, of what happened; two settings that are equally good differ by as much by chance.
Therefore "expected" compares the same choices over more draws of the same lateness, in which that
luck averages out; the controller saw the first draw alone. "lost" is beside the best static setting
of each phase, in the 500 queries after a shift, at the worst of them; it "recovers after" so many
queries, from which on the mean of 100 is within a point.

How much of that can be had at all is shown by two that know what nobody can: each query's chances
of which lanes are late (not who is), and what every setting finds then of the true neighbours. One
takes the best mean; the other is held as the controller is, never to find less in the worst fifth
than the setting that has been best so far. What these lose is luck, or the price of the mean.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
from tabulate import tabulate

from bench.lanes.traces import CLASSES, B, M, Schedule, World, parser, schedules, worlds
from lanewise.lanes import Setting
from lanewise.lanes.controller import Controller
from lanewise.lanes.law import candidates, describe

CONTROLLER, KNOWS, HELD = "controller", "knows the chances, best mean", "knows them, and is held"
SETTINGS = candidates(M, B)
SAME = 0.005  # what windows may differ by and still be as good: half a point
AFTER = 500  # queries after a shift
MOVING = 100  # queries over which recovery is judged


def run_controller(
    world: World, on_time: np.ndarray, queries: np.ndarray, options: dict
) -> tuple[list[Setting], Controller, float]:
    """Return what was chosen for each query, the controller, and the microseconds a query took."""
    controller = Controller(SETTINGS, **options)
    chosen = []
    spent = 0
    for query, mask in zip(queries.tolist(), on_time, strict=True):
        name = CLASSES[world.classes[query]]
        began = time.perf_counter_ns()
        setting = controller.choose(name)
        spent += time.perf_counter_ns() - began
        chosen.append(setting)
        result = world.result(setting, query, mask)
        began = time.perf_counter_ns()
        controller.observe(result, name)
        spent += time.perf_counter_ns() - began
    return chosen, controller, spent / len(queries) / 1000


def best_of_chances(
    world: World, schedule: Schedule, queries: np.ndarray, tail: float
) -> np.ndarray:
    """Return which setting to take for each query if the chances of lanes are known.

    With a tail, of those alone that find no less in that worst share than the best so far.
    """
    patterns = np.array(list(itertools.product((False, True), repeat=M)))
    everybody = np.arange(len(world.pool))
    found = np.array(
        [
            [
                world.recall(one, everybody, np.broadcast_to(p, (len(everybody), M)))
                for p in patterns
            ]
            for one in SETTINGS
        ]
    )
    by_class = [found[:, :, world.classes == i].mean(axis=2) for i in range(len(CLASSES))]
    chosen = np.empty(len(queries), dtype=np.int64)
    so_far = np.zeros(len(SETTINGS))
    known: dict[tuple, tuple[np.ndarray, np.ndarray]] = {}
    for i, query in enumerate(queries.tolist()):
        share = schedule.share[i].round(3)
        which = (*share.tolist(), bool(schedule.together[i]), int(world.classes[query]))
        if which not in known:
            chance = pattern_chances(patterns, share, which[-2])
            values = by_class[which[-1]]
            known[which] = values @ chance, np.array([_low(one, chance, tail) for one in values])
        mean, low = known[which]
        so_far += mean
        chosen[i] = np.argmax(np.where(low >= low[np.argmax(so_far)] - 1e-9, mean, -1.0))
    return chosen


def pattern_chances(patterns: np.ndarray, share: np.ndarray, together: bool) -> np.ndarray:
    """Chance of each pattern of lanes on time."""
    if not together:
        return np.where(patterns, share, 1 - share).prod(axis=1)
    # One draw for all: those are on time whose share is above it.
    low = np.where(patterns, 0.0, share).max(axis=1)
    high = np.where(patterns, share, 1.0).min(axis=1)
    return np.maximum(high - low, 0.0)


def _low(values: np.ndarray, chance: np.ndarray, tail: float) -> float:
    """Mean over the worst such share of patterns; 0 of none."""
    if tail == 0:
        return 0.0
    order = np.argsort(values, kind="stable")
    chance = chance[order]
    return float(np.clip(tail - (np.cumsum(chance) - chance), 0.0, chance) @ values[order] / tail)


class Ways:
    """Recall of every way, for what was drawn: shape (n_draws, n_queries), the first as it was."""

    def __init__(self, world: World, schedule: Schedule, options: argparse.Namespace) -> None:
        rng = np.random.default_rng([options.seed, len(schedule.name)])
        self.queries = rng.integers(len(world.pool), size=options.length)
        self.draws = [schedule.draw(rng) for _ in range(1 + options.draws)]
        self.world = world
        self.static = {describe(one): self._each(self._with(one)) for one in SETTINGS}
        changed = {name: float(value) for name, value in (one.split("=") for one in options.set)}
        changed = {name: int(x) if x >= 1 else x for name, x in changed.items()}
        chosen, self.controller, self.cost = run_controller(
            world, self.draws[0], self.queries, changed
        )
        tail = self.controller.tail
        numbers = {
            CONTROLLER: np.array([SETTINGS.index(one) for one in chosen]),
            KNOWS: best_of_chances(world, schedule, self.queries, 0.0),
            HELD: best_of_chances(world, schedule, self.queries, tail),
        }
        each = np.stack([self.static[describe(one)] for one in SETTINGS])
        self.adaptive = {
            name: each[number, :, np.arange(options.length)].T for name, number in numbers.items()
        }
        self.others = {
            # Replicas are copies: what each finds by itself is the same k_lane candidates.
            "naive lanes, de-duplicated": self.static[describe(SETTINGS[-1])],
            "one wider index (lane 0)": self._each(world.one_index_recall),
            "hash shards": self._each(world.shards_recall),
        }

    def _with(self, setting: Setting) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        return lambda queries, on_time: self.world.recall(setting, queries, on_time)

    def _each(self, recall: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
        return np.stack([recall(self.queries, on_time) for on_time in self.draws])


def judge(world: World, schedule: Schedule, options: argparse.Namespace) -> dict:
    """Print a table of all ways; return how the controller fared."""
    ways = Ways(world, schedule, options)
    best = max(ways.static, key=lambda name: ways.static[name][0].mean())
    best_p5 = max(ways.static, key=lambda name: np.quantile(ways.static[name], 0.05))

    def windows(found: np.ndarray, statistic: Callable) -> np.ndarray:
        n = found.shape[1] // options.window
        parts = found[:, : n * options.window].reshape(len(found), n, options.window)
        return statistic(parts.transpose(1, 0, 2).reshape(n, -1), axis=1)

    def as_good(found: np.ndarray, statistic: Callable, drawn: slice, same: float = SAME) -> float:
        mine = windows(found[drawn], statistic)
        return 100 * float(np.mean(mine >= windows(ways.static[best][drawn], statistic) - same))

    once, again = slice(0, 1), slice(1, None)

    def row(name: str, found: np.ndarray) -> list:
        after, recovery = _after_shifts(found[0], ways.static, schedule)
        return [
            name + (" *" if name == best else ""),
            found[0].mean(),
            np.quantile(windows(found[:1], np.mean), 0.05),
            np.quantile(found[0], 0.05),
            as_good(found, np.mean, once),
            as_good(found, np.mean, once, 1e-9),
            as_good(found, _p5, once),
            as_good(found, np.mean, again),
            as_good(found, _p5, again),
            100 * after if schedule.shifts else None,
            recovery,
        ]

    everything = {**ways.static, **ways.adaptive, **ways.others}
    rows = {name: row(name, found) for name, found in everything.items()}
    headers = [
        f"{options.length:,} queries",
        "mean",
        "p5 of\nwindows",
        "p5 of\nqueries",
        "mean as\ngood %",
        "strictly\n%",
        "p5 as\ngood %",
        "expected\nmean %",
        "expected\np5 %",
        "lost,\npoints",
        "recovers\nafter",
    ]
    print(f"\n{world.name}, SIMULATED lateness: {schedule.name} ({schedule.what})")
    formats = ("", ".4f", ".3f", ".2f", ".1f", ".1f", ".1f", ".1f", ".1f", ".2f", "")
    print(tabulate(rows.values(), headers, floatfmt=formats))
    kinds = [one.kind for one in ways.controller.decisions]
    print(
        f"* best static setting in hindsight, by the mean; by the 5th percentile of queries it is "
        f"{best_p5}.\nThe last {len(kinds)} decisions: {kinds.count('switch')} switches, "
        f"{kinds.count('explore')} queries explored. choose and observe take {ways.cost:.0f} us."
    )
    mine = rows[CONTROLLER]
    return {
        "vectors": world.name,
        "schedule": schedule.name,
        "gain, points": 100 * (ways.adaptive[CONTROLLER][0].mean() - ways.static[best][0].mean()),
        "mean as good": mine[4],
        "p5 as good": mine[6],
        "expected mean": mine[7],
        "expected p5": mine[8],
        "lost, points": mine[9],
        "recovers after": mine[10],
        **{
            f"{name}\n{what}": rows[who][column]
            for name, who in (("knows", KNOWS), ("held", HELD))
            for what, column in (("mean", 4), ("p5", 6))
        },
    }


def _p5(x: np.ndarray, axis: int) -> np.ndarray:
    return np.quantile(x, 0.05, axis=axis)


def _after_shifts(
    found: np.ndarray, static: dict[str, np.ndarray], schedule: Schedule
) -> tuple[float, int | None]:
    """Return the worst mean loss after a shift, and the most queries until it is within a point.

    A loss is beside the best static setting of that phase, a moving mean judges recovery.
    """
    if not schedule.shifts:
        return 0.0, None
    losses, recoveries = [], []
    ends = (*schedule.shifts[1:], len(found))
    for begin, end in zip(schedule.shifts, ends, strict=True):
        phase = max((one[0] for one in static.values()), key=lambda one: one[begin:end].mean())
        loss = phase[begin:end] - found[begin:end]
        losses.append(loss[:AFTER].mean())
        moving = np.convolve(loss, np.ones(MOVING) / MOVING, mode="valid")
        within = np.flatnonzero(moving <= 0.01)
        recoveries.append(int(within[0]) if len(within) else None)
    never = any(one is None for one in recoveries)
    return max(losses), None if never else max(recoveries)


def main(arguments: Sequence[str] | None = None) -> int:
    add = (made := parser("controller", __doc__)).add_argument
    add("--length", type=int, default=12_000, help="queries of a schedule")
    add("--window", type=int, default=250)
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="of Controller")
    add("--draws", type=int, default=8, help="more draws of the same lateness")
    options = made.parse_args(arguments)
    judged = [
        judge(world, schedule, options)
        for world in worlds(options)
        for schedule in schedules(options.length, options.seed)
    ]
    print("\nThe controller beside the best static setting of each schedule")
    print(tabulate(judged, headers="keys", floatfmt=".2f"))
    for what in judged[0]:
        shares = [one[what] for one in judged]
        if what.endswith(("mean", "p5", "good")):
            name = what.replace("\n", ", ")
            print(
                f"{name}: {np.mean(shares):.1f} % of all windows, {min(shares):.1f} % at the worst"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
