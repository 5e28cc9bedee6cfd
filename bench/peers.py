"""The peers at their best settings, and the same number of threads for everybody."""

from __future__ import annotations

import itertools
import time
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
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
        "usearch": _version("usearch"),
        "scikit-learn": sklearn.__version__,
        "blas": blas,
    }


def _version(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


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


def faiss_panorama(base, queries, k):
    """Return Panorama behind its PCA, and the levels and rows a batch that suit these vectors.

    The shape is tuned on a part of the rows with a few queries; the rows are added in pieces, so
    that no second copy of them is made.
    """
    sample = _sample(base)
    pca = faiss_pca(sample)
    turned, asked = pca.apply(sample), pca.apply(queries)

    def seconds(shape):
        index = faiss.IndexFlatL2Panorama(base.shape[1], *shape)
        index.add(turned)
        return min(_cpu_seconds(lambda: _ask_singly(index, asked, k)) for _ in range(3))

    shape = min(itertools.product((4, 8, 16, 32, 64), (128, 1024)), key=seconds)
    index = faiss.IndexPreTransform(
        pca, faiss.IndexFlatL2Panorama(base.shape[1], shape[0], shape[1])
    )
    _add_in_pieces(index, base)
    return index, shape


def faiss_rabitq(base, bits):
    """Return fast-scan RaBitQ codes of so many bits a dimension, behind a random rotation.

    Queries keep 8 bits (``qb``): the tables of the fast scan cost the same at any number, and more
    bits lose fewer neighbours.
    """
    dim = base.shape[1]
    codes = faiss.index_factory(dim, f"RR{dim},RaBitQfs{'' if bits == 1 else bits}")
    codes.train(_sample(base))
    _add_in_pieces(codes, base)
    faiss.downcast_index(codes.index).qb = 8
    return codes


def faiss_refined(codes, base):
    """Refine on float rows: set ``k_factor``, candidates for each result, and ``base_index``."""
    return faiss.IndexRefineFlat(codes, faiss.swig_ptr(base))


def faiss_refined_rows(index):
    """Return the flat index inside of a refined one, and a view of its rows."""
    flat = faiss.downcast_index(index.refine_index)
    rows = faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d).reshape(flat.ntotal, flat.d)
    return flat, rows


def _sample(base, n=100_000):
    return np.ascontiguousarray(base[:: -(-len(base) // n)])


def _add_in_pieces(index, base, rows=1 << 16):
    for begin in range(0, len(base), rows):
        index.add(base[begin : begin + rows])


def _ask_singly(index, queries, k):
    for query in queries:
        index.search(query[np.newaxis], k)


def _cpu_seconds(call):
    started = time.process_time()
    call()
    return time.process_time() - started


def usearch_exact(base, queries, k):
    """Nearest rows by usearch's own exact search, on one thread."""
    from usearch.index import MetricKind, search

    found = search(base, queries, k, MetricKind.L2sq, exact=True, threads=1)
    return np.asarray(found.keys).reshape(len(queries), -1).astype(np.int64)


def numpy_flat(base, norms, queries, k):
    """Nearest rows by a product and a partition; norms are |x|^2."""
    d2 = norms - 2 * (queries @ base.T)
    best = np.argpartition(d2, k, axis=1)[:, :k]
    order = np.argsort(np.take_along_axis(d2, best, axis=1), axis=1)
    return np.take_along_axis(best, order, axis=1)


def numpy_flat_tiled(base, norms, queries, k, rows_together=2048):
    """Nearest rows by products and partitions of tiles that stay in the cache: for many rows."""
    distances, ids = [], []
    for begin in range(0, len(base), rows_together):
        d2 = queries @ base[begin : begin + rows_together].T
        d2 *= -2
        d2 += norms[begin : begin + rows_together]
        some = np.argpartition(d2, min(k, d2.shape[1] - 1), axis=1)[:, :k]
        distances.append(np.take_along_axis(d2, some, axis=1))
        ids.append(some + begin)
    d2, ids = np.concatenate(distances, axis=1), np.concatenate(ids, axis=1)
    best = np.argsort(d2, axis=1)[:, :k]
    return np.take_along_axis(ids, best, axis=1)


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
