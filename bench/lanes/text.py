"""Text, end to end: ``python -m bench.lanes.text --data-folder FOLDER [--picture FILE]``.

Passages and questions about them. The first stage is IVF-PQ, 24 bytes a passage, ranked by codes
alone; the second a remote model that takes 2 ms for each passage, stood in for by the exact
similarity after that wait; four lanes ask it at the same time, and answer by a deadline. Prints
hit@10 and MRR@10 against the passage that each question was made from, and the share of the lanes'
work that was in common; a wall-clock run.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Sequence

import numpy as np

import lanewise as lw
from bench import machine
from bench.lanes import common
from bench.lanes.common import KEY, K
from lanewise.lanes import LaneSearch, Setting

N_LANES, K_LANE = 4, 16
WAIT = 2e-3
DEADLINES = (0.010, 0.020, 0.030, 0.050, 0.150)
SHOWN_WINDOW = 25


class Model:
    """The second stage. A lane of `down` never answers."""

    def __init__(self, flat: lw.Flat) -> None:
        self.flat = flat

    async def score(self, query, ids):
        await asyncio.sleep(WAIT * len(ids))
        return self.flat.score(query, ids)[0]


def hit_and_mrr(ids: np.ndarray, relevant: np.ndarray) -> tuple[float, float]:
    """Return how often the passage is among the ten, and its mean reciprocal rank."""
    at = ids[:, :10] == relevant[: len(ids), np.newaxis]
    ranks = at.argmax(axis=1) + 1
    return float(at.any(axis=1).mean()), float((at.any(axis=1) / ranks).mean())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = common.parser("text", __doc__)
    parser.set_defaults(queries=150)
    parser.add_argument("--picture", metavar="FILE")
    options = parser.parse_args(arguments)
    if options.data_folder is None:
        parser.error("--data-folder: expected the folder of text_60k.npz")
    began = machine.clocks()
    file = np.load(options.data_folder / "text_60k.npz")
    X = file["base"].astype(np.float32)
    Q = file["queries"].astype(np.float32)[: options.queries]
    relevant = file["relevant"]
    flat = lw.Flat(X.shape[1], "ip").add(X)
    first = lw.IVFPQ(
        X.shape[1], 245, "ip", n_subspaces=48, n_bits=4, n_probe=24, train_iterations=10
    ).train(X).add(X)  # fmt: skip

    def pool(queries, k_pool, n_threads):
        return first.search(queries, k_pool, rerank=0, n_threads=n_threads)

    def asked(setting: Setting, deadline: float | None, **more: object):
        search = LaneSearch(
            pool, Model(flat), n_lanes=setting.n_lanes, k_lane=setting.k_lane, key=KEY, step=1,
            deadline=deadline, **more,
        )  # fmt: skip
        results = [search.search(query, K, setting=setting) for query in Q]
        search.close()
        return results

    exact, coarse = flat.search(Q, K).ids, pool(Q, K, None).ids
    rows = [
        ["brute force, no deadline", *(f"{x:.3f}" for x in hit_and_mrr(exact, relevant))],
        ["the first stage alone", *(f"{x:.3f}" for x in hit_and_mrr(coarse, relevant))],
    ]
    print(f"{len(X):,} passages, {len(Q)} questions, {N_LANES} lanes of {K_LANE}\n")
    print(common.table(rows, ["", "hit@10", "MRR@10"]))
    ways = {
        "naive lanes, de-duplicated": (Setting(N_LANES, K_LANE, alpha=0.0), {}),
        "one index, whole budget": (Setting(1, N_LANES * K_LANE), {}),
        "lanes, alpha 1": (Setting(N_LANES, K_LANE), {}),
        "lanes, first-stage scores": (Setting(N_LANES, K_LANE), {"fallback": "first-stage"}),
    }
    found = {
        who: {deadline: asked(setting, deadline, **more) for deadline in DEADLINES}
        for who, (setting, more) in ways.items()
    }
    shards = _shards(X, Q, flat, DEADLINES)
    table = []
    for who, by_deadline in {**found, "hash shards": shards}.items():
        told = []
        for results in by_deadline.values():
            hit, mrr = hit_and_mrr(np.concatenate([r.ids for r in results]), relevant)
            told.append(f"{hit:.3f} {mrr:.3f}")
        table.append([who, *told])
    print("\nhit@10 and MRR@10 by the deadline (wall clock)\n")
    print(common.table(table, ["", *(f"{1000 * d:.0f} ms" for d in DEADLINES)]), flush=True)
    if options.picture:
        draw(found, relevant, options.picture)
    machine.say_who_else_ran(began)
    return 0


def _shards(X, Q, flat, deadlines):
    """Every lane has the passages that a hash gives it, and a first stage of its own."""
    parts = common.shards(len(X), N_LANES, 0)
    indexes = [
        lw.IVFPQ(X.shape[1], 122, "ip", n_subspaces=48, n_bits=4, n_probe=12, train_iterations=10)
        .train(X[rows])
        .add(X[rows], rows)
        for rows in parts
    ]

    class Shard:
        dim = X.shape[1]

        def collect(self, queries, k, *, lane, n_lanes, alpha, key):
            return indexes[lane].search(queries, k, rerank=0, n_threads=1)

    found = {}
    for deadline in deadlines:
        search = LaneSearch(
            Shard(), Model(flat), n_lanes=N_LANES, k_lane=K_LANE, collect="lanes", key=KEY, step=1,
            deadline=deadline,
        )  # fmt: skip
        found[deadline] = [search.search(query, K) for query in Q]
        search.close()
    return found


def draw(found, relevant: np.ndarray, path: str) -> None:
    """Draw hit@10 against the deadline, and the overlap of the lanes over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.4, 4.4), layout="constrained")
    quality, overlap = figure.subplots(1, 2)
    colors = itertools.cycle(("#999999", "black", "#D55E00", "#0072B2"))
    for (who, by_deadline), color in zip(found.items(), colors, strict=False):
        hits = [
            hit_and_mrr(np.concatenate([r.ids for r in results]), relevant)[0]
            for results in by_deadline.values()
        ]
        milliseconds = [1000 * deadline for deadline in by_deadline]
        quality.plot(milliseconds, hits, color=color, marker="o", markersize=4, label=who)
        results = by_deadline[DEADLINES[-1]]
        if results[0].plan.n_lanes > 1:
            jaccard = np.array([float(r.pairwise_jaccard[0]) for r in results])
            means = np.convolve(jaccard, np.ones(SHOWN_WINDOW) / SHOWN_WINDOW, "valid")
            overlap.plot(means, color=color, label=who)
    quality.set_xscale("log")
    quality.set_xticks([1000 * d for d in DEADLINES], [f"{1000 * d:.0f}" for d in DEADLINES])
    quality.minorticks_off()
    quality.set_xlabel("deadline, ms")
    quality.set_ylabel("hit@10")
    overlap.set_xlabel("question")
    overlap.set_ylabel(f"pairwise Jaccard, mean of {SHOWN_WINDOW}")
    overlap.set_ylim(-0.05, 1.05)
    for axis in (quality, overlap):
        axis.grid(alpha=0.25)
    handles, labels = quality.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
