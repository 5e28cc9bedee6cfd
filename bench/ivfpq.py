"""IVF-PQ beside its peers: ``python -m bench.ivfpq [--data-folder FOLDER]``.

Search: batches on one thread, everybody with the same number of lists, over what each can be set
to; of each the fastest setting that finds 0.95 and 0.99 of the ten nearest is timed again, in
turns. All that have codes score their best candidates on the same float rows; what they hold
beside those is printed.

Training: the same points and the same iterations on both sides, without subsampling, and the mean
squared error of the codes beside the time.

Assignment: k-means with three ways to find the nearest centroid, each in a process of its own, for
the time and for the most memory that it takes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
from tabulate import tabulate

import lanewise as lw
from bench import data, machine, peers
from bench.data import K
from bench.kmeans import embedding_like
from bench.summary import format_time, threads_text

ASKED_SEARCH, ASKED_TRAINING = 1.5, 3.0
RECALLS = (0.95, 0.99)
N_PROBES = (4, 8, 12, 16, 24, 32, 48, 64, 80, 96, 128, 160, 192, 224)
K_FACTORS = (2, 3, 5, 8, 12, 20, 40)

# ------------------------------------------------------------------------------------- search


@dataclass(frozen=True)
class Setting:
    """One way to search: who, with what, how, and the bytes of a row beside its floats."""

    who: str
    peer: bool
    how: str
    n_bytes: float
    search: Callable[[np.ndarray], np.ndarray]
    kind: str = ""  # settings of one kind differ only in what follows
    n_probe: int = 0
    factor: int = 0

    def does_more_than(self, other: Setting) -> bool:
        """Return whether this cannot be faster, nor find less."""
        return (self.who, self.kind) == (other.who, other.kind) and (
            self.n_probe >= other.n_probe and self.factor >= other.factor
        )


def _sample(base: np.ndarray) -> np.ndarray:
    """Return what everybody trains on."""
    return np.ascontiguousarray(base[:: -(-len(base) // 100_000)])


def our_settings(vectors: data.Vectors, n_lists: int, probes: Sequence[int]) -> Iterator[Setting]:
    """Yield what IVFPQ can be set to, and the exact indexes for comparison."""
    dim = vectors.base.shape[1]
    for n_bits, n_subspaces in ((4, dim // 2), (4, dim // 4), (8, dim // 4)):
        index = lw.IVFPQ(dim, n_lists, n_subspaces=n_subspaces, n_bits=n_bits, train_iterations=10)
        index.train(_sample(vectors.base)).add(vectors.base)
        n_bytes = (index.nbytes - vectors.base.nbytes) / len(vectors.base)
        who = f"IVFPQ {n_subspaces} x {n_bits}"
        for n_probe, factor in itertools.product(probes, K_FACTORS):
            options = {"n_probe": n_probe, "rerank": K * factor}
            for eps0 in (np.inf, 3.0):
                yield Setting(
                    who,
                    False,
                    f"n_probe {n_probe}, rerank {K * factor}, eps0 {eps0:g}",
                    n_bytes,
                    _ours(index, options | {"eps0": eps0}),
                    f"eps0 {eps0:g}",
                    n_probe,
                    factor,
                )
    ivf = lw.IVF(dim, n_lists, train_iterations=10)
    ivf.train(_sample(vectors.base)).add(vectors.base)
    n_bytes = (ivf.nbytes - vectors.base.nbytes) / len(vectors.base)
    for n_probe in probes:
        search = _ours(ivf, {"n_probe": n_probe})
        yield Setting("IVF", False, f"n_probe {n_probe}", n_bytes, search, n_probe=n_probe)
    flat = lw.Flat(dim).add(vectors.base)
    n_bytes = (flat.nbytes - vectors.base.nbytes) / len(vectors.base)
    yield Setting("Flat", False, "exact", n_bytes, _ours(flat, {}))


def _ours(index: lw.Flat | lw.IVF | lw.IVFPQ, options: dict[str, float]) -> Callable:
    return lambda Q: index.search(Q, K, n_threads=1, **options).ids


def faiss_settings(vectors: data.Vectors, n_lists: int, probes: Sequence[int]) -> Iterator[Setting]:
    """Yield what FAISS can be set to."""
    base, dim, sample = vectors.base, vectors.base.shape[1], _sample(vectors.base)
    coded = {
        f"IndexIVFPQFastScan {dim // 2} x 4": f"PQ{dim // 2}x4fs",
        f"IndexIVFPQFastScan {dim // 4} x 4": f"PQ{dim // 4}x4fs",
        f"IndexIVFPQ {dim // 4} x 8": f"PQ{dim // 4}",
        "IndexIVFRaBitQFastScan": "RaBitQfs",
        "IndexIVFRaBitQFastScan, 2 bits": "RaBitQfs2",
    }
    with peers.threads(lw.threads.default_threads()):
        built = {}
        for who, code in coded.items():
            built[who] = faiss.index_factory(dim, f"IVF{n_lists},{code}")
            built[who].train(sample)
            built[who].add(base)
        flat = faiss.index_factory(dim, f"IVF{n_lists},Flat")
        flat.train(sample)
        flat.add(base)
    for who, codes in built.items():
        refined = peers.faiss_refined(codes, base)
        n_bytes = len(faiss.serialize_index(codes)) / len(base)
        for n_probe, factor in itertools.product(probes, K_FACTORS):
            how = f"n_probe {n_probe}, k_factor {factor}"
            search = _refined(refined, codes, n_probe, factor)
            yield Setting(
                f"{who}, refined", True, how, n_bytes, search, n_probe=n_probe, factor=factor
            )
    for n_probe in probes:
        search = _probing(flat, n_probe)
        yield Setting("IndexIVFFlat", True, f"n_probe {n_probe}", 8.0, search, n_probe=n_probe)


def _refined(refined: faiss.Index, codes: faiss.Index, n_probe: int, factor: int) -> Callable:
    def search(Q: np.ndarray) -> np.ndarray:
        codes.nprobe, refined.k_factor = n_probe, factor
        return refined.search(Q, K)[1]

    return search


def _probing(index: faiss.Index, n_probe: int) -> Callable:
    def search(Q: np.ndarray) -> np.ndarray:
        index.nprobe = n_probe
        return index.search(Q, K)[1]

    return search


@dataclass(frozen=True)
class Timed:
    setting: Setting
    recall: float
    seconds: float  # a query


def sweep(vectors: data.Vectors, settings: Iterator[Setting]) -> list[Timed]:
    """Time every setting that finds enough, the least of two: to choose, not to judge."""
    found: list[Timed] = []
    for setting in settings:
        most = [timed for timed in found if timed.recall >= max(RECALLS)]
        if any(setting.does_more_than(timed.setting) for timed in most):
            continue
        recall = vectors.recall(setting.search(vectors.queries))
        if recall >= min(RECALLS):
            seconds = min(_seconds(setting, vectors.queries) for _ in range(2))
            found.append(Timed(setting, recall, seconds))
    return found


def _seconds(setting: Setting, Q: np.ndarray) -> float:
    started = time.perf_counter()
    setting.search(Q)
    return (time.perf_counter() - started) / len(Q)


def finalists(found: Sequence[Timed], recall: float) -> list[Timed]:
    """Return the fastest of each that finds enough, fastest first."""
    best: dict[str, Timed] = {}
    for timed in found:
        who = timed.setting.who
        if timed.recall >= recall and (who not in best or timed.seconds < best[who].seconds):
            best[who] = timed
    return sorted(best.values(), key=lambda timed: timed.seconds)


def again(vectors: data.Vectors, chosen: Sequence[Timed], rounds: int) -> list[Timed]:
    """Time some settings in turns; the median of the rounds counts."""
    times: list[list[float]] = [[] for _ in chosen]
    for _ in range(rounds):
        for timed, seconds in zip(chosen, times, strict=True):
            seconds.append(_seconds(timed.setting, vectors.queries))
    return [
        Timed(t.setting, t.recall, float(np.median(seconds)))
        for t, seconds in zip(chosen, times, strict=True)
    ]


def race_search(name: str, vectors: data.Vectors, n_lists: int, rounds: int) -> list[list[str]]:
    """Race everybody on one set of vectors; return the lines that say what was reached."""
    probes = [p for p in N_PROBES if p < n_lists]
    with peers.threads(1), peers.faiss_blas():
        found = sweep(vectors, our_settings(vectors, n_lists, probes))
        found += sweep(vectors, faiss_settings(vectors, n_lists, probes))
        verdicts = []
        for recall in RECALLS:
            final = again(vectors, finalists(found, recall), rounds)
            mine = min(
                (t for t in final if t.setting.who.startswith("IVFPQ")), key=lambda t: t.seconds
            )
            rows = [
                [
                    ("(peer) " if t.setting.peer else "") + t.setting.who,
                    format_time(t.seconds),
                    f"{t.seconds / mine.seconds:.2f}",
                    f"{t.recall:.4f}",
                    f"{t.setting.n_bytes:.0f}",
                    t.setting.how,
                ]
                for t in sorted(final, key=lambda t: t.seconds)
            ]
            print(f"\n{name}: {vectors.label}, {n_lists} lists, recall@{K} {recall}\n")
            head = ["", "a query", "times IVFPQ", "recall", "bytes a row", "setting"]
            print(tabulate(rows, head, "simple", disable_numparse=True), flush=True)
            what = f"search {name}, recall {recall}"
            best = min((t for t in final if t.setting.peer), key=lambda t: t.seconds)
            ratio = best.seconds / mine.seconds
            verdicts.append(_verdict(what, ratio, ASKED_SEARCH, best.setting.who))
            # The smallest codes of ours that find enough, beside peers that take no more memory.
            small = min(
                (t for t in final if t.setting.who.startswith("IVFPQ")),
                key=lambda t: t.setting.n_bytes,
            )
            fair = [
                t for t in final if t.setting.peer and t.setting.n_bytes <= small.setting.n_bytes
            ]
            if fair:
                best = min(fair, key=lambda t: t.seconds)
                ratio = best.seconds / small.seconds
                what += f", {small.setting.n_bytes:.0f} bytes a row"
                verdicts.append(_verdict(what, ratio, ASKED_SEARCH, best.setting.who))
    return verdicts


def _verdict(what: str, ratio: float, asked: float, who: str) -> list[str]:
    reached = "reached" if ratio >= asked else "NOT"
    return [what, f"{ratio:.2f}", f">= {asked}", reached, f"beside {who}"]


# ------------------------------------------------------------------------------------ training


def train_ours(X: np.ndarray, m: int, n_lists: int, n_threads: int) -> tuple[float, float]:
    """Return the seconds of a training, and the mean squared error of its codes."""
    index = lw.IVFPQ(
        X.shape[1],
        n_lists,
        n_subspaces=m,
        n_bits=8,
        train_iterations=10,
        code_iterations=25,
        n_threads=n_threads,
    )
    started = time.perf_counter()
    index.train(X)
    seconds = time.perf_counter() - started
    labels, _ = lw.cluster.assign(X, index.centroids)
    residuals = X - index.centroids[labels]
    quantizer = index._quantizer
    decoded = quantizer.decode(quantizer.encode(residuals))
    return seconds, float(((decoded - residuals) ** 2).sum(axis=1).mean())


def train_faiss(X: np.ndarray, m: int, n_lists: int) -> tuple[float, float]:
    """Return the same of FAISS, which is told not to subsample."""
    dim = X.shape[1]
    coarse = faiss.IndexFlatL2(dim)
    index = faiss.IndexIVFPQ(coarse, dim, n_lists, m, 8)
    for clustering, n_iterations in ((index.cp, 10), (index.pq.cp, 25)):
        clustering.niter = n_iterations
        clustering.max_points_per_centroid = len(X)
        clustering.min_points_per_centroid = 1
    started = time.perf_counter()
    index.train(X)
    seconds = time.perf_counter() - started
    centroids = coarse.reconstruct_n(0, n_lists)
    labels, _ = lw.cluster.assign(X, centroids)
    residuals = np.ascontiguousarray(X - centroids[labels])
    decoded = index.pq.decode(index.pq.compute_codes(residuals))
    return seconds, float(((decoded - residuals) ** 2).sum(axis=1).mean())


def race_training(rounds: int, n_threads: int) -> list[list[str]]:
    X = embedding_like(50_000, 128)
    verdicts, rows = [], []
    with peers.threads(n_threads), peers.faiss_blas():
        for m in (16, 32):
            ours, theirs = [], []
            for _ in range(rounds):
                ours.append(train_ours(X, m, 512, n_threads))
                theirs.append(train_faiss(X, m, 512))
            mine, its = (float(np.median([s for s, _ in some])) for some in (ours, theirs))
            rows += [
                [f"{m} x 8", who, format_time(seconds), f"{seconds / mine:.2f}", f"{error:.4f}"]
                for who, seconds, error in (
                    ("IVFPQ.train", mine, ours[0][1]),
                    ("(peer) IndexIVFPQ.train", its, theirs[0][1]),
                )
            ]
            what = f"training, {m} x 8, {threads_text(n_threads)}"
            verdicts.append(_verdict(what, its / mine, ASKED_TRAINING, "IndexIVFPQ"))
    print(f"\ntraining: 50,000 x 128, 512 lists, 10 and 25 iterations, {threads_text(n_threads)}\n")
    head = ["codes", "", "median", "times ours", "error"]
    print(tabulate(rows, head, "simple", disable_numparse=True), flush=True)
    return verdicts


# ---------------------------------------------------------------------------------- assignment

N_CELLS = 512


def by_point(X: np.ndarray, C: np.ndarray) -> np.ndarray:
    """Find the nearest centroid of one point after the other."""
    half = (C**2).sum(axis=1) / 2
    return np.array([np.argmin(half - C @ x) for x in X])


def by_matrix(X: np.ndarray, C: np.ndarray) -> np.ndarray:
    """Find them by one product, whose matrix has a score for each point and centroid."""
    return np.argmin((C**2).sum(axis=1) / 2 - X @ C.T, axis=1)


def by_tiles(X: np.ndarray, C: np.ndarray) -> np.ndarray:
    """Find them in tiles, with the argmax fused."""
    return lw.cluster.assign(X, C, n_threads=1)[0]


def by_scalar(X: np.ndarray, C: np.ndarray) -> np.ndarray:
    """Do the same in scalar code."""
    return lw.cluster.assign(X, C, kernels="scalar", n_threads=1)[0]


WAYS = {
    "one point at a time (NumPy)": (by_point, 1.0),
    "tiles, scalar code": (by_scalar, 0.04),
    "one matrix of all scores (NumPy)": (by_matrix, 1.0),
    "tiles, the argmax fused": (by_tiles, 1.0),
}


def assign_alone(way: str, n_iterations: int) -> None:
    """Run k-means with one way of assigning, and print what it took. For a process of its own."""
    X = embedding_like(50_000, 128)
    assign, share = WAYS[way]
    n_iterations = max(1, round(share * n_iterations))
    C = X[np.random.default_rng(0).permutation(len(X))[:N_CELLS]].copy()
    assign(X[:256], C)
    machine.forget_peak()
    before = machine.memory()[1]
    spent = 0.0
    for _ in range(n_iterations):
        started = time.perf_counter()
        labels = assign(X, C)
        spent += time.perf_counter() - started
        counts = np.bincount(labels, minlength=N_CELLS)
        sums = np.stack([np.bincount(labels, weights=x, minlength=N_CELLS) for x in X.T], axis=1)
        full = counts > 0
        C[full] = (sums[full] / counts[full, np.newaxis]).astype(np.float32)
    peak = machine.memory()[1] - before
    near = _recall_of_cells(X, C) if n_iterations > 1 else None
    print(json.dumps({"seconds": spent / n_iterations, "peak": peak, "recall": near}))


def _recall_of_cells(X: np.ndarray, C: np.ndarray) -> float:
    """Return the share of the ten nearest of some points that lie in their 8 nearest cells."""
    Q = X[::500] + np.float32(0.01)
    nearest = lw.Flat(X.shape[1]).add(X).search(Q, K).ids
    labels = lw.cluster.assign(X, C)[0]
    probes = lw.Flat(X.shape[1]).add(C).search(Q, 8).ids
    return float((labels[nearest][:, :, np.newaxis] == probes[:, np.newaxis]).any(axis=2).mean())


def race_assignment(n_iterations: int) -> None:
    rows = []
    for way in WAYS:
        command = [sys.executable, "-m", "bench.ivfpq", "--assign-alone", way]
        command += ["--iterations", str(n_iterations)]
        with peers.threads(1):
            done = subprocess.run(command, check=True, capture_output=True, text=True)
        took = json.loads(done.stdout.splitlines()[-1])
        recall = "" if took["recall"] is None else f"{took['recall']:.4f}"
        whole = format_time(took["seconds"] * n_iterations)
        rows.append(
            [way, format_time(took["seconds"]), whole, f"{took['peak'] / 1e6:.1f} MB", recall]
        )
    print(f"\nassignment: 50,000 x 128, {N_CELLS} cells, {n_iterations} iterations, one thread\n")
    head = ["", "an iteration", "all of them", "peak memory", "recall of 8 cells"]
    print(tabulate(rows, head, "simple", disable_numparse=True), flush=True)


# ------------------------------------------------------------------------------------------ all


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.ivfpq", description=__doc__)
    parser.add_argument("--data-folder", type=Path, help="where text_60k.npz and sift_300k.npz are")
    parser.add_argument(
        "--only", nargs="*", metavar="NAME", help="assignment, training, sift, text, drawn"
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--iterations", type=int, default=25, help="of the ways to assign")
    parser.add_argument("--assign-alone", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.assign_alone:
        with peers.threads(1):
            assign_alone(options.assign_alone, options.iterations)
        return 0
    started = machine.clocks()
    print(f"lanewise {lw.__version__} ({', '.join(lw.kernels.available())})", flush=True)
    asked = []
    only = options.only or ("assignment", "training", "sift", "text", "drawn")
    if "assignment" in only:
        race_assignment(options.iterations)
    if "training" in only:
        asked += race_training(min(options.rounds, 3), 1)
    for name, n_lists in (("sift", 1024), ("text", 256)):
        file = {"sift": "sift_300k.npz", "text": "text_60k.npz"}[name]
        if name in only and options.data_folder is None:
            print(f"\n{name}: left out, {file} is wanted from --data-folder")
        elif name in only:
            vectors = data.from_file.__wrapped__(options.data_folder / file, 1000)
            asked += race_search(name, vectors, n_lists, options.rounds)
    if "drawn" in only and options.data_folder is None:
        vectors = data.mixture.__wrapped__(100_000, 128, 1000)
        asked += race_search("drawn", vectors, 316, options.rounds)
    print("\nwhat is asked, against the fastest peer that finds as much\n")
    head = ["target", "measured", "asked", "", "how"]
    print(tabulate(asked, head, "simple", disable_numparse=True))
    machine.say_who_else_ran(started)
    return 0


if __name__ == "__main__":
    sys.exit(main())
