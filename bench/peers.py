"""The peers at their best settings, and the same number of threads for everybody."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import faiss
import hnswlib
import numpy as np
import sklearn
from threadpoolctl import threadpool_info, threadpool_limits


@contextmanager
def threads(n):
    """Everybody's BLAS and OpenMP on n threads; ours get ``n_threads=n`` where they are called."""
    before = faiss.omp_get_max_threads()
    with threadpool_limits(limits=n):
        faiss.omp_set_num_threads(n)
        try:
            yield
        finally:
            faiss.omp_set_num_threads(before)


def versions():
    """Versions of the peers, and the kernels that each BLAS chose."""
    blas = {
        Path(pool["filepath"]).parent.name.removesuffix(".libs"): pool.get("architecture", "")
        for pool in threadpool_info()
        if pool["user_api"] == "blas"
    }
    return {
        "numpy": np.__version__,
        "faiss": faiss.__version__,
        "faiss_options": faiss.get_compile_options().strip(),
        "hnswlib": getattr(hnswlib, "__version__", ""),
        "scikit-learn": sklearn.__version__,
        "blas": blas,
    }


def faiss_flat(base):
    index = faiss.IndexFlatL2(base.shape[1])
    index.add(base)
    return index


@contextmanager
def faiss_blas():
    """Products for batches from the first query on.

    FAISS 1.15 scans row by row until n_queries * dim reaches 128,000, which for batches of a few
    hundred queries is several times slower; for single queries it is right.
    """
    before = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = 1
    try:
        yield
    finally:
        faiss.cvar.distance_compute_blas_threshold = before


def faiss_pca(base):
    """Train the rotation that Panorama needs before it."""
    pca = faiss.PCAMatrix(base.shape[1], base.shape[1])
    pca.train(base)
    return pca


def numpy_flat(base, norms, queries, k):
    """Nearest rows by a product and a partition; norms are |x|^2."""
    d2 = norms - 2 * (queries @ base.T)
    best = np.argpartition(d2, k, axis=1)[:, :k]
    order = np.argsort(np.take_along_axis(d2, best, axis=1), axis=1)
    return np.take_along_axis(best, order, axis=1)


def numpy_scan(base, query, k):
    """Nearest rows by the definition of the distance."""
    difference = base - query
    d2 = np.einsum("nd,nd->n", difference, difference)
    best = np.argpartition(d2, k)[:k]
    return best[np.argsort(d2[best])]


def numpy_assign(points, centroids, rows_together=1024):
    """Nearest centroids by a product and an argmax, in tiles that stay in the cache."""
    bias = (centroids**2).sum(axis=1) / 2
    labels = np.empty(len(points), dtype=np.int64)
    scores = np.empty((rows_together, len(centroids)), dtype=np.float32)
    for begin in range(0, len(points), rows_together):
        some = points[begin : begin + rows_together]
        tile = scores[: len(some)]
        np.matmul(some, centroids.T, out=tile)
        tile -= bias
        np.argmax(tile, axis=1, out=labels[begin : begin + rows_together])
    return labels
