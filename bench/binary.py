"""The binary funnel beside IndexFlatL2: recall@10 and time for each number of candidates.

Usage: python -m bench.binary [mixture:N] [FILE.npz ...]

Every query is asked alone and in one batch, on one thread. A file holds `base` and `queries`.
"""

import itertools
import sys
import time
from pathlib import Path

import faiss
import numpy as np

import lanewise as lw
from bench.data import K, mixture, vectors

STORAGES = ("binary", "binary2", "binary4")
RERANK = (10, 30, 100, 300, 1000, 3000, 10_000)


def read(name, n_queries=100):
    if name.startswith("mixture:"):
        return mixture(int(name.partition(":")[2]), 1024)
    with np.load(name) as arrays:
        return vectors(Path(name).stem, arrays["base"], arrays["queries"][:n_queries])


def timed(search, n_queries, repeats=3):
    """Milliseconds a query, the best of some runs."""
    best = np.inf
    for _ in range(repeats):
        start = time.perf_counter()
        search()
        best = min(best, time.perf_counter() - start)
    return 1e3 * best / n_queries


def peer_times(base, Q):
    """Milliseconds a query of IndexFlatL2, alone and in a batch."""
    peer = faiss.IndexFlatL2(base.shape[1])
    peer.add(base)
    few = Q[:10]
    alone = timed(lambda: [peer.search(q[np.newaxis], K) for q in few], len(few))
    return alone, timed(lambda: peer.search(Q, K), len(Q), 1)


def main(names):
    faiss.omp_set_num_threads(1)
    for name in names:
        data = read(name)
        Q = data.queries
        alone, batch = peer_times(data.base, Q)
        print(f"{data.label}: IndexFlatL2 {alone:.3f} ms alone, {batch:.3f} in a batch")
        for storage, rerank in itertools.product(STORAGES, (None, *RERANK)):
            if rerank is None:
                start = time.perf_counter()
                index = lw.Flat(data.base.shape[1], storage=storage).add(data.base)
                seconds = time.perf_counter() - start
                plan = index._rows.snapshot.state.planes.plan
                print(
                    f"  {storage}: {plan.n_bits} bits of {plan.n_axes} axes, rerank {plan.rerank}, "
                    f"fine codes of {plan.refine} rows, added in {seconds:.1f} s, "
                    f"{index.hot_bytes / data.base.nbytes:.3f} of the rows' bytes"
                )
                print("   rerank  eps0  recall@10  ms alone  ratio  ms batch  ratio  settled")
            if rerank is not None and rerank > len(data.base):
                continue
            for eps0 in (np.inf, 2.5):
                options = {"rerank": rerank, "eps0": eps0, "n_threads": 1}
                found = index.search(Q, K, **options)
                one = timed(lambda: [index.search(q, K, **options) for q in Q], len(Q))  # noqa: B023
                many = timed(lambda: index.search(Q, K, **options), len(Q))  # noqa: B023
                settled = found.stats["settled"].mean()
                print(
                    f"  {rerank or 'auto':>7}  {eps0:4}  {data.recall(found.ids):9.4f}"
                    f"  {one:8.3f}  {alone / one:5.1f}  {many:8.3f}  {batch / many:5.1f}"
                    f"  {settled:7.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main(sys.argv[1:] or ["mixture:200000"])
