"""k-means beside its peers: ``python -m bench.kmeans [--data-folder FOLDER]``.

The same iterations without subsampling, and the same start where a peer takes one. Everybody
delivers centroids and the label of every point. The objective, of the centroids delivered, is
computed in float64; a peer counts as beaten or not only if its objective is no worse than that of
exact Lloyd's, which lanewise runs, plus 0.01 %. What our fit takes beside points and centroids is
the most that a process of its own held.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import sklearn.cluster
from tabulate import tabulate

import lanewise as lw
from bench import data, machine, peers
from bench.summary import format_time, threads_text

# Its BLAS must be there before threads are limited, or it takes all of them.
try:
    from superkmeans import SuperKMeans
except ImportError:
    SuperKMeans = None

ASKED = 2.5
NO_WORSE = 1.0001
MOST_MEMORY = 0.1  # of the points and the centroids, that a fit may take beside them

Fit = Callable[[], np.ndarray]


class Problem:
    """Points, a start, and for how many iterations everybody runs."""

    def __init__(self, X: np.ndarray, k: int, n_iterations: int) -> None:
        self.X = np.ascontiguousarray(X, dtype=np.float32)
        self.k = k
        self.n_iterations = n_iterations
        self.init = self.X[np.random.default_rng(0).permutation(len(X))[:k]].copy()

    @property
    def shape(self) -> str:
        n, dim = self.X.shape
        return f"{n:,} x {dim}, k {self.k}, {self.n_iterations} iterations"

    @property
    def flops(self) -> float:
        """Operations of the products, with one more assignment for the labels."""
        return 2.0 * self.X.size * self.k * (self.n_iterations + 1)

    def inertia(self, centroids: np.ndarray) -> float:
        """Return the mean squared distance to the nearest centroid, in float64."""
        C = np.asarray(centroids, dtype=np.float64)
        total = 0.0
        for begin in range(0, len(self.X), 4096):
            x = self.X[begin : begin + 4096].astype(np.float64)
            d2 = (x**2).sum(axis=1)[:, np.newaxis] - 2 * (x @ C.T) + (C**2).sum(axis=1)
            total += float(d2.min(axis=1).sum())
        return total / len(self.X)


def ours(problem: Problem, n_threads: int, kernels: str | None = None) -> Fit:
    """Return a fit by lanewise."""

    def fit() -> np.ndarray:
        model = lw.KMeans(
            problem.k,
            init=problem.init,
            max_iter=problem.n_iterations,
            tol=0,
            kernels=kernels,
            n_threads=n_threads,
        ).fit(problem.X)
        return model.cluster_centers_

    return fit


def of_faiss(problem: Problem, superkmeans: bool) -> Fit:
    """Return a fit by faiss.Kmeans, which says no labels of its own accord."""
    options = {"use_super_kmeans": True} if superkmeans else {}

    def fit() -> np.ndarray:
        model = faiss.Kmeans(
            problem.X.shape[1],
            problem.k,
            niter=problem.n_iterations,
            min_points_per_centroid=1,
            max_points_per_centroid=len(problem.X),
            **options,
        )
        model.train(problem.X, init_centroids=problem.init)
        model.index.search(problem.X, 1)
        return model.centroids

    return fit


def of_sklearn(problem: Problem, algorithm: str) -> Fit:
    """Return a fit by scikit-learn."""
    model = sklearn.cluster.KMeans(
        problem.k,
        init=problem.init,
        n_init=1,
        max_iter=problem.n_iterations,
        tol=0,
        algorithm=algorithm,
    )

    def fit() -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
            return model.fit(problem.X).cluster_centers_

    return fit


def of_superkmeans(problem: Problem, n_threads: int, pruning: bool) -> Fit:
    """Return a fit by superkmeans, which takes no start."""

    def fit() -> np.ndarray:
        model = SuperKMeans(
            problem.k,
            problem.X.shape[1],
            hierarchical=False,
            iters=problem.n_iterations,
            sampling_fraction=1.0,
            max_points_per_cluster=len(problem.X),
            n_threads=n_threads,
            use_blas_only=not pruning,
            early_termination=False,
            tol=0.0,
        )
        centroids = np.asarray(model.train(problem.X))
        model.assign(problem.X, centroids)
        return centroids

    return fit


def contenders(problem: Problem, n_threads: int, slow: bool) -> Iterator[tuple[str, bool, Fit]]:
    """Yield who, whether it is a peer, and its fit."""
    yield "lanewise", False, ours(problem, n_threads)
    floats = [name for name in lw.kernels.available() if name in ("avx512", "avx2", "neon")]
    for name in floats[:1]:
        yield "lanewise, float products", False, ours(problem, n_threads, name)
    yield "FAISS Kmeans", True, of_faiss(problem, False)
    yield "scikit-learn, Lloyd", True, of_sklearn(problem, "lloyd")
    if SuperKMeans is not None:
        yield "superkmeans", True, of_superkmeans(problem, n_threads, True)
        yield "superkmeans, no pruning", True, of_superkmeans(problem, n_threads, False)
    if slow:
        yield "scikit-learn, Elkan", True, of_sklearn(problem, "elkan")
        if hasattr(faiss, "SuperKMeans"):
            yield "FAISS SuperKMeans", True, of_faiss(problem, True)


@dataclass(frozen=True)
class Measured:
    """What a contender took, and what it delivered."""

    who: str
    peer: bool
    seconds: float
    inertia: float


def race(problem: Problem, n_threads: int, rounds: int, slow: bool) -> list[Measured]:
    """Time everybody in turns; the median of the rounds counts."""
    found = []
    with peers.threads(n_threads), peers.faiss_blas():
        fits = list(contenders(problem, n_threads, slow))
        times: dict[str, list[float]] = {who: [] for who, _, _ in fits}
        centroids = {}
        for _ in range(rounds):
            for who, _, fit in fits:
                started = time.perf_counter()
                centroids[who] = fit()
                times[who].append(time.perf_counter() - started)
    with peers.threads(lw.threads.default_threads()):
        for who, peer, _ in fits:
            seconds = float(np.median(times[who]))
            found.append(Measured(who, peer, seconds, problem.inertia(centroids[who])))
    return found


def report(name: str, problem: Problem, n_threads: int, found: Sequence[Measured]) -> list[str]:
    """Print a race; return the line that says whether what is asked was reached."""
    mine = found[0]
    rows = [
        [
            ("(peer) " if one.peer else "") + one.who,
            format_time(one.seconds),
            f"{problem.flops / one.seconds / 1e9:.0f}",
            f"{one.seconds / mine.seconds:.2f}",
            f"{one.inertia / mine.inertia:.6f}",
        ]
        for one in found
    ]
    head = ["", "median", "GFLOP/s of products", "times lanewise", "objective / lanewise"]
    align = ("left", "right", "right", "right", "right")
    print(f"\n{name}: {problem.shape}, {threads_text(n_threads)}\n")
    print(tabulate(rows, head, "simple", colalign=align, disable_numparse=True), flush=True)
    fair = [m for m in found if m.peer and m.inertia <= NO_WORSE * mine.inertia]
    best = min(fair, key=lambda one: one.seconds)
    ratio = best.seconds / mine.seconds
    verdict = "reached" if ratio >= ASKED else "NOT"
    how = f"{format_time(best.seconds)} / {format_time(mine.seconds)}: {best.who}"
    return [f"{name}, {threads_text(n_threads)}", f"{ratio:.2f}", f">= {ASKED}", verdict, how]


def memory_alone(problem: Problem, n_threads: int) -> None:
    """Print what a fit of ours takes beside the points. For a process of its own."""
    lw.KMeans(2, n_threads=n_threads).fit(np.eye(4))  # threads and kernels take theirs before
    machine.forget_peak()
    before = machine.memory()[1]
    ours(problem, n_threads)()
    after = machine.memory()[1]
    print(json.dumps(None if before is None or after is None else after - before))


def memory(name: str, problem: Problem, n_threads: int, folder: Path | None) -> list[str]:
    """Return the line that says how much memory a fit takes beside the points."""
    command = [sys.executable, "-m", "bench.kmeans", "--memory-alone", "--only", name]
    command += ["--threads", str(n_threads)]
    command += [] if folder is None else ["--data-folder", str(folder)]
    # Arrays that were given back must not serve the fit unseen.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    if found is None:
        return [f"memory of {name}", "", "", "", "not counted here"]
    given = problem.X.nbytes + problem.init.nbytes
    verdict = "reached" if found <= MOST_MEMORY * given else "NOT"
    how = f"{found / 1e6:.1f} MB beside {given / 1e6:.1f} MB of points and centroids"
    what = f"memory of {name}, {threads_text(n_threads)}"
    return [what, f"{found / given:.1%}", f"<= {MOST_MEMORY:.0%}", verdict, how]


def draw(races: Mapping[str, Sequence[Measured]], file: Path) -> None:
    """Draw one panel for each race: what everybody delivered against the time it took."""
    from matplotlib.figure import Figure

    columns = min(2, len(races))
    rows = -(-len(races) // columns)
    figure = Figure(figsize=(5.6 * columns, 3.8 * rows), layout="constrained")
    handles: dict[str, Any] = {}
    for panel, (title, found) in enumerate(races.items(), 1):
        axes = figure.add_subplot(rows, columns, panel)
        for one in found:
            style: dict[str, Any] = {"marker": "s" if one.peer else "o", "s": 60}
            if one.who in handles:
                style["color"] = handles[one.who].get_facecolor()[0]
            else:
                style["color"] = f"C{len(handles) % 10}"
            worse = 100 * (one.inertia / found[0].inertia - 1)
            handles[one.who] = axes.scatter(one.seconds, worse, label=one.who, zorder=3, **style)
        axes.set(title=title, xscale="log", xlabel="seconds")
        axes.set_ylabel("objective beyond exact Lloyd's, %")
        axes.axhline(100 * (NO_WORSE - 1), color="grey", linestyle=":", linewidth=1)
        axes.grid(alpha=0.3)
    figure.legend(handles=[*handles.values()], loc="outside lower center", ncols=columns + 1)
    figure.savefig(file, dpi=130)


def embedding_like(n: int, dim: int, seed: int = 0) -> np.ndarray:
    """Points about two thousand centres."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((2000, dim), dtype=np.float32)
    noise = rng.standard_normal((n, dim), dtype=np.float32)
    return centers[rng.integers(0, 2000, n)] + np.float32(0.6) * noise


def mixture(dim: int) -> Problem:
    """Return a large problem with structure."""
    return Problem(data.mixture.__wrapped__(200_000, dim).base, 1024, 10)


def flat(dim: int) -> Problem:
    """Return a large problem without any."""
    rng = np.random.default_rng(1)
    return Problem(rng.random((200_000, dim), dtype=np.float32), 1024, 10)


def problems(options: argparse.Namespace) -> Iterator[tuple[str, Callable[[], Problem], bool]]:
    """Yield names, what makes the problem, and whether slow peers take part."""
    uniform = np.random.default_rng(1).random
    yield "embedding-like", lambda: Problem(embedding_like(50_000, 128), 512, 25), True
    yield "uniform", lambda: Problem(uniform((50_000, 128), dtype=np.float32), 512, 25), False
    for file, name in (("text_60k.npz", "text"), ("sift_300k.npz", "sift")):
        if options.data_folder is not None and (options.data_folder / file).exists():
            path = options.data_folder / file
            yield name, lambda path=path: Problem(np.load(path)["base"], 1024, 10), False
    for dim in (384, 1024):
        yield f"mixture-{dim}", partial(mixture, dim), False
        yield f"uniform-{dim}", partial(flat, dim), False


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.kmeans", description=__doc__)
    parser.add_argument("--data-folder", type=Path, help="where text_60k.npz and sift_300k.npz are")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="some of the problems")
    parser.add_argument("--threads", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--picture", type=Path, help="draw objective against seconds")
    parser.add_argument("--memory-alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.memory_alone:
        make = next(make for name, make, _ in problems(options) if name in options.only)
        memory_alone(make(), options.threads[0])
        return 0
    started = machine.clocks()
    print(f"lanewise {lw.__version__} ({', '.join(lw.kernels.available())})", flush=True)
    asked = []
    races = {}
    for name, make, slow in problems(options):
        if options.only and name not in options.only:
            continue
        problem = make()
        for n_threads in options.threads:
            found = race(problem, n_threads, options.rounds, slow)
            asked.append(report(name, problem, n_threads, found))
            asked.append(memory(name, problem, n_threads, options.data_folder))
            races[f"{name}, {threads_text(n_threads)}\n{problem.shape}"] = found
    print("\nwhat is asked, against the fastest peer whose objective is no worse\n")
    head = ["target", "measured", "asked", "", "how"]
    print(tabulate(asked, head, "simple", disable_numparse=True))
    if options.picture is not None and races:
        draw(races, options.picture)
    machine.say_who_else_ran(started)
    return 0


if __name__ == "__main__":
    sys.exit(main())
