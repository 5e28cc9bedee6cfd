"""Judge graph search: ours beside hnswlib on the very same graph, and beside other graphs.

``python -m bench.hnsw [--workload NAME ...] [--data-folder FOLDER] [--cache FOLDER] [--quick]``
prints what a query costs and what it finds, for each width of the search (ef), and at the end the
ratios that are asked for. M is 16 and ef_construction 200 for everybody, a call holds all queries
and has one thread. Graphs take minutes to build: with ``--cache`` they are kept for the next run.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import faiss
import hnswlib
import numpy as np
from tabulate import tabulate
from usearch.index import Index as UsearchIndex

import lanewise as lw
from bench import data, machine, peers
from bench.data import K
from bench.summary import format_time

M, EF_CONSTRUCTION = 16, 200
JUDGED = (16, 64, 256)
WIDTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384)
RECALLS = (0.95, 0.99)
STORAGES = ("f32", "sq8", "sq4", "adsampling")
N_QUERIES = 1000
N_COMPARED = 10_000  # queries whose ids are compared with hnswlib's

HNSWLIB, SQ8, FLAT, USEARCH = "hnswlib", "FAISS HNSW, SQ8", "FAISS HNSW, flat", "usearch"
TWO_THREADS = "f32, 2 threads"

Search = Callable[[np.ndarray, int], np.ndarray]


def _stored(file: str):
    def make(options: argparse.Namespace) -> data.Vectors:
        found = data.from_file.__wrapped__(options.data_folder / file, N_QUERIES)
        if not options.quick:
            return found
        return data.vectors(found.name, found.base[:5000], found.queries[:200])

    return make


def _mixture(options: argparse.Namespace) -> data.Vectors:
    n, n_queries = (5000, 200) if options.quick else (200_000, N_QUERIES)
    return data.mixture.__wrapped__(n, 128, n_queries)


WORKLOADS = {
    "sift": _stored("sift_300k.npz"),
    "text": _stored("text_60k.npz"),
    "mixture": _mixture,
}


# ---------------------------------------------------------------------------------- the graphs


class Graphs:
    """Builds each graph once; with a folder, once for all runs."""

    def __init__(self, vectors: data.Vectors, folder: Path | None) -> None:
        self.base = vectors.base
        self.name = f"{vectors.name}-{len(self.base)}-{self.base.shape[1]}"
        self.folder = folder

    def _kept(self, who: str, build: Callable, save: Callable, load: Callable):
        path = None if self.folder is None else self.folder / f"{self.name}-{who}"
        if path is not None and path.exists():
            return load(str(path))
        started = time.perf_counter()
        index = build()
        _say(f"{who} built in {time.perf_counter() - started:.0f} s")
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            save(index, str(path))
        return index

    def hnswlib(self) -> hnswlib.Index:
        def empty() -> hnswlib.Index:
            return hnswlib.Index("l2", self.base.shape[1])

        def build() -> hnswlib.Index:
            index = empty()
            index.init_index(len(self.base), EF_CONSTRUCTION, M)
            index.add_items(self.base, num_threads=1)
            return index

        def load(path: str) -> hnswlib.Index:
            index = empty()
            index.load_index(path)
            return index

        return self._kept("hnswlib", build, lambda index, path: index.save_index(path), load)

    def faiss(self, who: str) -> faiss.Index:
        def build() -> faiss.Index:
            dim = self.base.shape[1]
            if who == SQ8:
                index = faiss.IndexHNSWSQ(dim, faiss.ScalarQuantizer.QT_8bit, M)
            else:
                index = faiss.IndexHNSWFlat(dim, M)
            index.hnsw.efConstruction = EF_CONSTRUCTION
            index.train(self.base)
            with peers.threads(lw.threads.default_threads()):
                index.add(self.base)
            return index

        name = "faiss-sq8" if who == SQ8 else "faiss-flat"
        return self._kept(name, build, faiss.write_index, faiss.read_index)

    def usearch(self) -> UsearchIndex:
        def build() -> UsearchIndex:
            index = UsearchIndex(
                ndim=self.base.shape[1],
                metric="l2sq",
                dtype="f32",
                connectivity=M,
                expansion_add=EF_CONSTRUCTION,
            )
            index.add(np.arange(len(self.base)), self.base)
            return index

        def load(path: str) -> UsearchIndex:
            return UsearchIndex.restore(path)

        return self._kept("usearch", build, lambda index, path: index.save(path), load)


def contenders(graphs: Graphs, skipped: list[str]) -> Iterator[tuple[str, Search]]:
    """Yield all searches: hnswlib's first, ours of the same graph next."""
    raw = graphs.hnswlib()

    def by_hnswlib(Q: np.ndarray, ef: int) -> np.ndarray:
        raw.set_ef(ef)
        return raw.knn_query(Q, K, num_threads=1)[0].astype(np.int64)

    yield HNSWLIB, by_hnswlib
    for storage in STORAGES:
        index = lw.HNSW(raw, storage=storage)
        yield storage, functools.partial(_ours, index, None, 1)
        if storage == "f32":
            if lw.threads.default_threads() > 1:
                yield TWO_THREADS, functools.partial(_ours, index, None, 2)
        else:
            yield f"{storage}, rerank 2 k", functools.partial(_ours, index, 2 * K, 1)
    for who in (SQ8, FLAT):
        if "faiss" not in skipped:
            yield who, functools.partial(_faiss, graphs.faiss(who))
    if "usearch" not in skipped:
        yield USEARCH, functools.partial(_usearch, graphs.usearch())


def _ours(index: lw.HNSW, rerank: int | None, threads: int, Q: np.ndarray, ef: int) -> np.ndarray:
    return index.search(Q, K, ef=ef, rerank=rerank, n_threads=threads).ids


def _faiss(index: faiss.Index, Q: np.ndarray, ef: int) -> np.ndarray:
    index.hnsw.efSearch = ef
    return index.search(Q, K)[1]


def _usearch(index: UsearchIndex, Q: np.ndarray, ef: int) -> np.ndarray:
    index.expansion_search = ef
    return np.asarray(index.search(Q, K, threads=1).keys).astype(np.int64).reshape(len(Q), -1)


# ----------------------------------------------------------------------------------- the race


@dataclass
class Curve:
    """What one search costs and finds at each width: the median and the fastest of the rounds."""

    seconds: dict[int, float] = field(default_factory=dict)
    fastest: dict[int, float] = field(default_factory=dict)
    recall: dict[int, float] = field(default_factory=dict)

    def at_recall(self, wanted: float) -> float | None:
        """Seconds a query at a recall, between two widths by the logarithm; None if out of reach.

        The narrowest search that finds more answers for what none narrower does.
        """
        widths = sorted(self.seconds)
        found = [self.recall[ef] for ef in widths]
        for i, recall in enumerate(found):
            if recall < wanted:
                continue
            if i == 0 or found[i - 1] >= recall:
                return self.seconds[widths[i]]
            share = (wanted - found[i - 1]) / (recall - found[i - 1])
            low, high = (np.log(self.seconds[widths[j]]) for j in (i - 1, i))
            return float(np.exp(low + share * (high - low)))
        return None


@dataclass
class Found:
    """What was measured on one set of vectors."""

    vectors: data.Vectors
    curves: dict[str, Curve]
    same: dict[int, int]  # queries of N_COMPARED, by ef
    nbytes: dict[str, int]


def compared_queries(vectors: data.Vectors) -> np.ndarray:
    """Return the queries there are, and rows with noise to make up the number."""
    rng = np.random.default_rng(5)
    n = N_COMPARED - len(vectors.queries)
    rows = vectors.base[rng.integers(0, len(vectors.base), n)]
    noise = rng.standard_normal(rows.shape, dtype=np.float32) * vectors.base[:1000].std() / 3
    return np.concatenate((vectors.queries, rows + noise))


def run(vectors: data.Vectors, options: argparse.Namespace) -> Found:
    graphs = Graphs(vectors, options.cache)
    Q = vectors.queries
    searches = dict(contenders(graphs, options.skip))
    curves = {who: Curve() for who in searches}
    with peers.threads(1):
        for ef in WIDTHS:
            times: dict[str, list[float]] = {who: [] for who in searches}
            answers = {who: search(Q, ef) for who, search in searches.items()}  # warm
            for turn in range(options.rounds):
                names = list(searches)
                for who in names[turn % len(names) :] + names[: turn % len(names)]:
                    # CPU time, which other processes hardly change; two threads need the clock.
                    clock = time.perf_counter if who == TWO_THREADS else time.process_time
                    started = clock()
                    searches[who](Q, ef)
                    times[who].append((clock() - started) / len(Q))
            for who, curve in curves.items():
                curve.seconds[ef] = float(np.median(times[who]))
                curve.fastest[ef] = min(times[who])
                curve.recall[ef] = vectors.recall(answers[who])
    asked = compared_queries(vectors)
    same = {}
    for ef in JUDGED:
        ids, theirs = searches["f32"](asked, ef), searches[HNSWLIB](asked, ef)
        same[ef] = int((ids == theirs).all(axis=1).sum())
    raw = graphs.hnswlib()
    nbytes = {HNSWLIB: raw.index_file_size()}
    nbytes |= {storage: lw.HNSW(raw, storage=storage).nbytes for storage in STORAGES}
    return Found(vectors, curves, same, nbytes)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ------------------------------------------------------------------------------------- tables


def print_found(found: Found) -> None:
    label = f"{found.vectors.label}, k {K}, 1 thread, {len(found.vectors.queries)} queries"
    print(f"\n{'=' * 100}\n{label}\n")
    reference = found.curves[HNSWLIB]
    table = []
    for who, curve in found.curves.items():
        row = [who]
        for ef in JUDGED:
            ratio = reference.seconds[ef] / curve.seconds[ef]
            row += [format_time(curve.seconds[ef]), f"{ratio:.2f}", f"{curve.recall[ef]:.4f}"]
        for recall in RECALLS:
            seconds = curve.at_recall(recall)
            row.append("" if seconds is None else format_time(seconds))
        table.append(row)
    head = ["per query"]
    for ef in JUDGED:
        head += [f"ef {ef}", "times", "recall"]
    head += [f"at recall {recall}" for recall in RECALLS]
    print(tabulate(table, head, "simple", disable_numparse=True))
    print(f"\nqueries of {N_COMPARED:,} with hnswlib's very ids, f32:", end=" ")
    print(", ".join(f"{found.same[ef]:,} at ef {ef}" for ef in JUDGED))
    file = found.nbytes[HNSWLIB]
    print("bytes over those of hnswlib's file:", end=" ")
    print(", ".join(f"{who} {size / file:.3f}" for who, size in found.nbytes.items()), flush=True)


def targets(found: Found) -> Iterator[tuple[str, float, float | None]]:
    """Yield what is asked for: its words, how much, and what was measured."""
    curves = found.curves
    for ef in JUDGED:
        ratio = curves[HNSWLIB].seconds[ef] / curves["f32"].seconds[ef]
        yield f"f32 over hnswlib, ef {ef}", 1.6, ratio
    ours = {who: c for who, c in curves.items() if who.startswith(STORAGES) and who != TWO_THREADS}
    for recall in RECALLS:
        known = {who: c.at_recall(recall) for who, c in ours.items()}
        reached = {who: seconds for who, seconds in known.items() if seconds is not None}
        best = min(reached, key=reached.__getitem__, default=None)
        for other, asked in ((HNSWLIB, 2.5), (SQ8, 2.0), (USEARCH, 2.0)):
            seconds = curves[other].at_recall(recall) if other in curves else None
            measured = None if best is None or seconds is None else seconds / reached[best]
            yield f"{best} over {other}, recall {recall}", asked, measured
    if TWO_THREADS in curves:
        ratio = curves["f32"].seconds[64] / curves[TWO_THREADS].fastest[64]
        yield "2 threads over one, ef 64", 1.8, ratio
    smaller = found.nbytes[HNSWLIB] / found.nbytes["f32"]
    yield "hnswlib's bytes over those of f32", 1 / 1.1, smaller


def print_targets(name: str, found: Found) -> None:
    table = []
    for text, asked, measured in targets(found):
        if measured is None:
            table.append([name, text, f"{asked:.2f}", "n/a", ""])
            continue
        verdict = "reached" if measured >= asked else "MISSED"
        table.append([name, text, f"{asked:.2f}", f"{measured:.2f}", verdict])
    head = ["vectors", "ratio", "asked", "measured", ""]
    print("\n" + tabulate(table, head, "simple", disable_numparse=True), flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("bench.hnsw", description=__doc__.splitlines()[0])
    parser.add_argument("--workload", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--data-folder", type=Path, default=Path("data"))
    parser.add_argument("--cache", type=Path, help="folder to keep built graphs in")
    parser.add_argument(
        "--skip",
        nargs="+",
        default=[],
        choices=("faiss", "usearch"),
        help="do not build their graphs",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few vectors, to see that it runs")
    options = parser.parse_args(arguments)
    before = machine.clocks()
    print(peers.versions())
    print("kernels", lw.kernels.get().name)
    for name in options.workload:
        found = run(WORKLOADS[name](options), options)
        print_found(found)
        print_targets(name, found)
    machine.say_who_else_ran(before)


if __name__ == "__main__":
    main()
