"""Where k-means starts: ``python -m bench.start [--data-folder FOLDER]``.

The objective of the start and after 25 iterations from it, means of several seeds, beside greedy
k-means++ over all points; and what the start takes, beside those 25 iterations.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from sklearn.cluster import kmeans_plusplus
from tabulate import tabulate

import lanewise as lw
from bench import machine, peers
from bench.kmeans import embedding_like
from bench.summary import format_time, threads_text
from lanewise import _native, draws, seeding
from lanewise.cluster import assign

ITERATIONS = 25


def over_all(X: np.ndarray, k: int, n_trials: int, seed: int, threads: int) -> np.ndarray:
    """Return the ids that k-means++ chooses among all points."""
    uniforms = draws.uniforms(seed, "kmeans", 1 + (k - 1) * n_trials)
    chosen = np.empty(k, dtype=np.int64)
    nearest = np.full(len(X), np.inf, dtype=np.float32)
    kernels = lw.kernels.get()
    _native.plus_plus(kernels, X, None, uniforms, n_trials, 0, k, chosen, nearest, threads)
    return chosen


def starts(
    X: np.ndarray, k: int, threads: int
) -> Iterator[tuple[str, Callable[[int], np.ndarray]]]:
    """Yield who, and what chooses ids for a seed."""
    kernels = lw.kernels.get()
    n_trials = seeding.n_trials(k)
    yield "greedy, over all points", lambda seed: over_all(X, k, n_trials, seed, threads)
    yield "plain, over all points", lambda seed: over_all(X, k, 1, seed, threads)
    yield (
        "lanewise",
        lambda seed: seeding.plus_plus(X, None, k, seed, kernels, threads, lambda *step: None),
    )
    yield "random", lambda seed: draws.permutation(seed, "kmeans", len(X))[:k]
    yield "(peer) scikit-learn", lambda seed: kmeans_plusplus(X, k, random_state=seed)[1]


def measure(name: str, X: np.ndarray, k: int, n_seeds: int, threads: int) -> None:
    """Print what the starts of one problem take and deliver."""
    X = np.ascontiguousarray(X, dtype=np.float32)
    options = {"max_iter": ITERATIONS, "tol": 0, "n_threads": threads}
    found: dict[str, np.ndarray] = {}
    with peers.threads(threads):
        for who, start in starts(X, k, threads):
            runs = []
            for seed in range(n_seeds):
                began = time.perf_counter()
                init = X[start(seed)]
                started = time.perf_counter()
                model = lw.KMeans(k, init=init, **options).fit(X)
                done = time.perf_counter()
                first = assign(X, init, n_threads=threads)[1].sum(dtype=np.float64)
                runs.append((started - began, done - started, first, model.inertia_))
            seconds, fit, first, last = zip(*runs, strict=True)
            found[who] = np.array([min(seconds), min(fit), np.mean(first), np.mean(last)])
    fit = min(row[1] for row in found.values())
    base = found["greedy, over all points"]
    rows = [
        [who, format_time(row[0]), f"{row[0] / fit:.2f}", *(f"{r:.4f}" for r in row[2:] / base[2:])]
        for who, row in found.items()
    ]
    n, dim = X.shape
    print(f"\n{name}: {n:,} x {dim}, k {k}, {n_seeds} seeds, {threads_text(threads)}\n")
    head = ["", "fastest", "of a fit", "start / greedy's", f"after {ITERATIONS} / greedy's"]
    print(tabulate(rows, head, "simple", disable_numparse=True), flush=True)


def uneven(n: int) -> np.ndarray:
    """Clusters of very different sizes and distances."""
    rng = np.random.default_rng(3)
    centers = rng.normal(size=(300, 16)) * 10 * rng.exponential(size=(300, 1))
    sizes = rng.dirichlet(np.full(300, 0.3))
    return centers[rng.choice(300, n, p=sizes)] + rng.normal(size=(n, 16))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.start", description=__doc__)
    parser.add_argument("--data-folder", type=Path, help="where sift_300k.npz is")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    began = machine.clocks()
    rng = np.random.default_rng(1)
    problems = [
        ("embedding-like", embedding_like(50_000, 128), 512),
        ("uniform", rng.random((50_000, 128)), 512),
        ("normal", rng.normal(size=(200_000, 3)), 64),
        ("uneven clusters", uneven(100_000), 300),
    ]
    if options.data_folder is not None:
        sift = np.load(options.data_folder / "sift_300k.npz")["base"]
        problems.append(("sift", sift[:100_000], 512))
    for name, X, k in problems:
        measure(name, X, k, options.seeds, options.threads)
    machine.say_who_else_ran(began)
    return 0


if __name__ == "__main__":
    sys.exit(main())
