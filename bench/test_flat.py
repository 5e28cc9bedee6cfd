"""Search over all rows: exact, and with the dials of early termination, beside exact scans.

``dims`` is the share of all dimensions that were added up, ``recall`` is against exact truth.
"""

import math

import faiss
import hnswlib
import numpy as np
import pytest

import lanewise as lw
from bench import peers
from bench.data import K, one_by_one

DIALS = [(eps0, delta) for eps0 in (math.inf, 3.0, 2.1, 1.5) for delta in (32, 16, 64)]
FEW = 20


def group(vectors, how="batch"):
    return f"flat, {vectors.label}, k {K}, {how}: per query"


def dial(eps0, delta):
    return f"eps0 {eps0:g} delta {delta}"


@pytest.fixture(scope="module")
def flat(vectors):
    return lw.Flat(vectors.base.shape[1]).add(vectors.base)


def _time_ours(timed, vectors, flat, eps0, delta, n_threads, where):
    Q = vectors.queries

    def call():
        return flat.search(Q, K, eps0=eps0, delta=delta, n_threads=n_threads)

    result = call()
    added = float(result.stats["dimensions"].sum())
    timed(
        where,
        f"lanewise {dial(eps0, delta)}",
        call,
        per=len(Q),
        rates={"GB/s": added * 4 / 1e9},
        recall=vectors.recall(result.ids),
        dims=added / len(Q) / vectors.base.size,
        settled=float(result.stats["settled"].mean()),
    )


@pytest.mark.parametrize(("eps0", "delta"), DIALS, ids=[dial(*d) for d in DIALS])
def test_search(timed, vectors, flat, eps0, delta):
    _time_ours(timed, vectors, flat, eps0, delta, 1, group(vectors))


def test_two_threads(timed, vectors, flat):
    _time_ours(timed, vectors, flat, math.inf, 32, 2, group(vectors, "batch, 2 threads"))


@pytest.mark.parametrize("eps0", [math.inf, 2.1])
def test_single(timed, vectors, flat, eps0):
    search = one_by_one(lambda Q: flat.search(Q, K, eps0=eps0, n_threads=1).ids)
    timed(
        group(vectors, "one by one"),
        f"lanewise {dial(eps0, 32)}",
        lambda: search(vectors.queries),
        per=len(vectors.queries),
        recall=vectors.recall(search(vectors.queries)),
    )


def _time_peer(timed, vectors, who, where, search, Q=None):
    """`search` takes a matrix of queries and returns ids."""
    Q = vectors.queries if Q is None else Q
    recall = vectors.recall(search(vectors.queries))
    timed(where, who, lambda: search(Q), role="peer", per=len(Q), recall=recall)


def test_faiss(timed, vectors):
    _time_faiss(timed, vectors, group(vectors))


def test_faiss_two_threads(timed, vectors):
    with peers.threads(2):
        _time_faiss(timed, vectors, group(vectors, "batch, 2 threads"))


def _time_faiss(timed, vectors, where):
    index = peers.faiss_flat(vectors.base)
    who = "faiss IndexFlatL2, product"
    with peers.faiss_blas():
        _time_peer(timed, vectors, who, where, lambda Q: index.search(Q, K)[1])


def test_faiss_single(timed, vectors):
    index = peers.faiss_flat(vectors.base)

    search = one_by_one(lambda Q: index.search(Q, K)[1])
    _time_peer(timed, vectors, "faiss IndexFlatL2", group(vectors, "one by one"), search)


@pytest.fixture(scope="module")
def panorama(vectors):
    """Exact with early termination: a PCA, then bounds by the norms of what is left."""
    if not hasattr(faiss, "IndexFlatL2Panorama"):
        pytest.skip("this FAISS has no Panorama")
    pca = peers.faiss_pca(vectors.base)
    index = faiss.IndexFlatL2Panorama(vectors.base.shape[1], 8, 512)
    index.add(pca.apply(vectors.base))
    return lambda Q: index.search(pca.apply(Q), K)[1]


def test_panorama(timed, vectors, panorama):
    who = "faiss PCA, IndexFlatL2Panorama"
    _time_peer(timed, vectors, who, group(vectors), panorama)


def test_panorama_single(timed, vectors, panorama):
    who = "faiss PCA, IndexFlatL2Panorama"
    _time_peer(timed, vectors, who, group(vectors, "one by one"), one_by_one(panorama))


def test_hnswlib(timed, vectors):
    index = hnswlib.BFIndex("l2", vectors.base.shape[1])
    index.init_index(len(vectors.base))
    index.add_items(vectors.base)

    def search(Q):
        return index.knn_query(Q, K, num_threads=1)[0].astype(np.int64)

    few = vectors.queries[:FEW]
    _time_peer(timed, vectors, "hnswlib.BFIndex", group(vectors), search, few)


def test_numpy(timed, vectors):
    norms = (vectors.base**2).sum(axis=1)

    def search(Q):
        return peers.numpy_flat(vectors.base, norms, Q, K)

    _time_peer(timed, vectors, "NumPy product, argpartition", group(vectors), search)


def test_numpy_scan(timed, vectors):
    def search(Q):
        return np.stack([peers.numpy_scan(vectors.base, q, K) for q in Q])

    who, where = "NumPy naive scan", group(vectors, "one by one")
    _time_peer(timed, vectors, who, where, search, vectors.queries[:FEW])


def test_add(timed, vectors):
    """Rotating rows into blocks, beside storing them."""
    X = vectors.base
    _time_add(timed, vectors, "lanewise", lambda: lw.Flat(X.shape[1]).add(X, n_threads=1), "ours")


def test_faiss_add(timed, vectors):
    X = vectors.base
    _time_add(timed, vectors, "faiss IndexFlatL2", lambda: peers.faiss_flat(X), "yardstick")


def _time_add(timed, vectors, who, call, role):
    rates = {"GB/s": vectors.base.nbytes / 1e9}
    timed(f"flat, {vectors.label}, add", who, call, role=role, rates=rates)
