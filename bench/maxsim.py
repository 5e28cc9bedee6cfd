"""Late interaction beside NumPy: ``python -m bench.maxsim [--documents N] [--threads N]``.

Documents are drawn: words of a vocabulary with few frequent ones, each token leaning towards its
document, of length 1 as ColBERT has them; queries are tokens of one document each, blurred. The
candidates are those nearest by the mean of their tokens, best first. NumPy multiplies one candidate
at a time, and all of a query's at once, padded to the longest; everybody is given the same ids and
threads. GFLOP/s count 2 for each multiply-add that there is, whether it was done or left out.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence

import numpy as np
from tabulate import tabulate

import lanewise as lw
from bench import peers

K = 10
ROUNDS = 5


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def drawn(n_documents, n_queries, n_query_tokens, dim, longest):
    """Token lists of documents and of queries."""
    rng = np.random.default_rng(0)
    vocabulary = unit(rng.standard_normal((20_000, dim), dtype=np.float32))
    subjects = unit(rng.standard_normal((n_documents // 50 + 1, dim), dtype=np.float32))
    frequency = 1.0 / np.arange(1, len(vocabulary) + 1)
    frequency /= frequency.sum()
    sizes = rng.integers(longest // 3, longest + 1, n_documents)
    words = rng.choice(len(vocabulary), int(sizes.sum()), p=frequency)
    subject = np.repeat(subjects[rng.integers(0, len(subjects), n_documents)], sizes, axis=0)
    noise = rng.standard_normal(subject.shape, dtype=np.float32) / np.sqrt(dim)
    tokens = unit(vocabulary[words] + 0.5 * subject + 0.4 * noise).astype(np.float32)
    documents = np.split(tokens, np.cumsum(sizes)[:-1])
    queries = []
    for document in rng.choice(n_documents, n_queries, replace=False):
        chosen = rng.integers(0, len(documents[document]), n_query_tokens)
        blur = rng.standard_normal((n_query_tokens, dim), dtype=np.float32) / np.sqrt(dim)
        queries.append(unit(documents[document][chosen] + 0.5 * blur).astype(np.float32))
    return documents, queries


def numpy_each(documents, query, ids):
    return [-float((query @ documents[i].T).max(axis=1).sum()) for i in ids]


def numpy_padded(documents, query, ids):
    """One product for all candidates: what a batch on an accelerator looks like."""
    longest = max(len(documents[i]) for i in ids)
    padded = np.zeros((len(ids), longest, query.shape[1]), dtype=np.float32)
    padding = np.full((len(ids), longest), -np.inf, dtype=np.float32)
    for row, i in enumerate(ids):
        padded[row, : len(documents[i])] = documents[i]
        padding[row, : len(documents[i])] = 0
    scores = np.einsum("cld,td->ctl", padded, query, optimize=True) + padding[:, np.newaxis]
    return -scores.max(axis=2).sum(axis=1)


def timed(call):
    """Seconds of the median round, after one to warm up."""
    call()
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def compare(documents, queries, candidates, n_threads):
    dim = queries[0].shape[1]
    index = lw.MaxSim(dim, n_threads=n_threads).add(documents)
    means = unit(np.stack([document.mean(axis=0) for document in documents]))
    pool = lw.Flat(dim, "ip").add(means)
    ids = pool.pool(unit(np.stack([query.mean(axis=0) for query in queries])), candidates)
    truth = [numpy_each(documents, *pair) for pair in zip(queries, ids, strict=True)]
    multiply_adds = dim * sum(
        len(query) * len(documents[i]) for query, row in zip(queries, ids, strict=True) for i in row
    )
    found = index.rescore(queries, ids, K)
    best = np.take_along_axis(ids, np.argsort(truth, axis=1, kind="stable")[:, :K], axis=1)
    recall = lw.oracle.recall(found.ids, best, K)
    assert np.allclose(index.score(queries, ids), truth, rtol=1e-4)
    pairs = list(zip(queries, ids, strict=True))
    isas = dict.fromkeys([lw.kernels.get().name, *lw.kernels.available()])
    ways = {
        "NumPy, a product a candidate": lambda: [numpy_each(documents, *pair) for pair in pairs],
        "NumPy, einsum of all, padded": lambda: [numpy_padded(documents, *pair) for pair in pairs],
    }
    for isa in isas:
        if isa in ("avx2", "avx512") or isa == lw.kernels.get().name:
            one = lw.MaxSim(dim, kernels=isa, n_threads=n_threads).add(documents)
            ways[f"score, {isa}"] = lambda one=one: one.score(queries, ids)
            ways[f"rescore, k = {K}, {isa}"] = lambda one=one: one.rescore(queries, ids, K)
    rows = []
    with peers.threads(n_threads):
        for who, call in ways.items():
            seconds = timed(call)
            rows.append([who, 1e6 * seconds / ids.size, 2e-9 * multiply_adds / seconds, seconds])
    first = rows[0][-1]
    print(
        tabulate(
            [[*row[:-1], first / row[-1]] for row in rows],
            ["", "us a candidate", "GFLOP/s", "times as fast"],
            floatfmt=".2f",
        )
    )
    share = found.stats["share"].mean()
    print(f"rescore computed {share:.1%} of the products; recall@{K} {recall:.3f}\n", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.maxsim", description=__doc__)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--candidates", type=int, default=256)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args(arguments)
    for n_query_tokens, dim, longest in ((32, 128, 180), (64, 128, 180), (8, 128, 180)):
        documents, queries = drawn(options.documents, options.queries, n_query_tokens, dim, longest)
        for n_threads in options.threads:
            print(
                f"{options.documents:,} documents of {longest // 3} to {longest} tokens x {dim}, "
                f"{options.queries} queries of {n_query_tokens}, {options.candidates} candidates, "
                f"{n_threads} thread{'s' * (n_threads > 1)}"
            )
            compare(documents, queries, options.candidates, n_threads)
    return 0


if __name__ == "__main__":
    sys.exit(main())
