"""What telemetry costs: a query that is not in the sample, one that is, a line of the log.

``python -m bench.lanes.telemetry``; less than a microsecond is asked for a query not in the sample.
Beside them stands what `prometheus-client` takes for a single number.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import prometheus_client
from tabulate import tabulate

import lanewise as lw
from bench.lanes.traces import B, M, parser, schedules, worlds
from lanewise.lanes import Controller, LaneSearch, QueryLog, Setting, Telemetry, minhash

# Low words of keys: of queries in any sample, and in none.
IN, OUT = 0, 2**64 - 1


def cost(call: Callable[[], object], n_queries: int = 1, seconds: float = 0.3) -> float:
    """Return nanoseconds of a query: the median of rounds that share the seconds."""
    n_calls = 1
    while True:
        began = time.perf_counter_ns()
        for _ in range(n_calls):
            call()
        if (took := time.perf_counter_ns() - began) > 2e7 * seconds:
            break
        n_calls *= 2
    rounds = [took]
    while sum(rounds) < 1e9 * seconds:
        began = time.perf_counter_ns()
        for _ in range(n_calls):
            call()
        rounds.append(time.perf_counter_ns() - began)
    return median(rounds) / n_calls / n_queries


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("telemetry", __doc__).parse_args(arguments)
    world = next(worlds(options))
    rows: list[list[object]] = []

    def told(what: str, ns: float, bound: float | None = None) -> None:
        asked = "" if bound is None else f"< {bound:,.0f}: {'yes' if ns < bound else 'NO'}"
        rows.append([what, f"{ns:,.0f}", asked])

    search = LaneSearch(
        lambda Q, k_pool: world.pool[: len(Q)], world.flat, n_lanes=M, k_lane=B, head=4
    )
    registry = prometheus_client.CollectorRegistry()
    telemetry = Telemetry(sample=0.5, registry=registry, tracer=False)
    for n in (1, 100, 1000):
        n = min(n, len(world.pool))
        result = search.search(world.queries[:n])
        for low, bound in ((OUT, 1000.0), (IN, None)):
            result.keys[:, 0] = low
            what = "in the sample" if low == IN else "not in the sample"
            told(f"{what}, {n} a call", cost(partial(telemetry.observe, result), n), bound)
    counter = prometheus_client.Counter("one", "One number", registry=registry)
    told("prometheus-client: counter.inc()", cost(counter.inc))

    one = search.search(world.queries[0])
    with tempfile.TemporaryDirectory() as folder, QueryLog(Path(folder) / "log.jsonl") as log:
        told("QueryLog.write, one query", cost(lambda: log.write(one)))
    ids = np.arange(10)
    told("minhash of 10 ids, 128 hashes", cost(lambda: minhash(ids, 7)))
    controller = Controller()
    told("Controller.choose", cost(controller.choose))
    mask = next(schedules(1, 0)).draw(np.random.default_rng(0))[0]
    seen = world.result(Setting(M, B), 0, mask)
    told("Controller.observe, one query", cost(lambda: controller.observe(seen)))
    flat = lw.Flat(world.queries.shape[1]).add(world.queries)
    plain = LaneSearch(lambda Q, k_pool: np.arange(k_pool)[None], flat, n_lanes=M, k_lane=B)
    told("for scale: LaneSearch.search, one query", cost(lambda: plain.search(world.queries[0])))
    print(tabulate(rows, ["", "ns a query", "asked"], colalign=("left", "right", "left")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
