"""Two levels beside one: ``python -m bench.hierarchical [--n N] [--d D] [--k K]``.

Prints what `lanewise.cluster.plan` expects, what the fits take, and the objective of each beside
that of the first.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import numpy as np
from tabulate import tabulate

import lanewise as lw
from bench import machine
from bench.summary import format_time
from lanewise.cluster import plan


def points(n: int, dim: int) -> np.ndarray:
    """Return points about many centres of a spectrum that decays, as embeddings have them."""
    rng = np.random.default_rng(0)
    spectrum = (np.arange(1, dim + 1) ** -0.4).astype(np.float32)
    centers = rng.standard_normal((max(1, n // 50), dim), dtype=np.float32) * spectrum
    X = rng.standard_normal((n, dim), dtype=np.float32) * (np.float32(0.7) * spectrum)
    for begin in range(0, n, 100_000):
        part = X[begin : begin + 100_000]
        part += centers[rng.integers(0, len(centers), len(part))]
    return X


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.hierarchical", description=__doc__)
    for name, default in (("n", 1_000_000), ("d", 128), ("k", 8192), ("iterations", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args(arguments)
    n, dim, k = options.n, options.d, options.k
    print(plan(10_000_000, 128, 65_536, iterations=options.iterations), end="\n\n")
    print(plan(n, dim, k, iterations=options.iterations), end="\n\n", flush=True)
    began = machine.clocks()
    X = points(n, dim)
    settings = {"max_iter": options.iterations, "tol": 0}
    models = {
        "two levels, refine=0": lw.HierarchicalKMeans(k, refine=0, **settings),
        "two levels": lw.HierarchicalKMeans(k, **settings),
        "two levels, 64 points a centroid": lw.HierarchicalKMeans(
            k, max_points_per_centroid=64, **settings
        ),
        "KMeans, init='random'": lw.KMeans(k, init="random", **settings),
        "KMeans": lw.KMeans(k, **settings),
    }
    rows, first = [], None
    for who, model in models.items():
        started = time.perf_counter()
        model.fit(X)
        taken = time.perf_counter() - started
        first = model.inertia_ if first is None else first
        empty = k - len(np.unique(model.labels_))
        rows.append([who, format_time(taken), f"{model.inertia_ / first:.4f}", empty])
        print(rows[-1], flush=True)
    head = ["", "seconds", "objective / first", "empty clusters"]
    print(f"\n{n:,} x {dim}, k {k:,}, {options.iterations} iterations\n")
    print(tabulate(rows, head, "simple", disable_numparse=True))
    machine.say_who_else_ran(began)
    return 0


if __name__ == "__main__":
    sys.exit(main())
