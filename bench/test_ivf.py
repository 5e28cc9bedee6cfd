"""Inverted lists: the same centroids, so the same lists, for everybody, and as many probes."""

import math

import faiss
import pytest

import lanewise as lw
from bench import peers
from bench.data import K

DIALS = (math.inf, 2.1)


@pytest.fixture(params=[4, 16], ids=["probe4", "probe16"])
def n_probe(request):
    return request.param


def n_lists(vectors):
    return math.isqrt(len(vectors.base))


def what(vectors, n_probe):
    return f"ivf, {vectors.label}, {n_lists(vectors)} lists, probe {n_probe}"


@pytest.fixture(scope="module")
def ivf(vectors):
    return lw.IVF(vectors.base.shape[1], n_lists(vectors)).train(vectors.base).add(vectors.base)


@pytest.mark.parametrize("eps0", DIALS)
def test_search(timed_search, vectors, ivf, n_probe, eps0):
    def search(Q):
        return ivf.search(Q, K, n_probe=n_probe, eps0=eps0, n_threads=1).ids

    timed_search(what(vectors, n_probe), f"lanewise eps0 {eps0:g}", vectors, search)


@pytest.fixture(scope="module")
def faiss_ivf(vectors, ivf):
    quantizer = peers.faiss_flat(ivf.centroids)
    index = faiss.IndexIVFFlat(quantizer, vectors.base.shape[1], n_lists(vectors))
    index.train(vectors.base)  # finds the centroids there and keeps them
    index.add(vectors.base)
    return index


def test_faiss(timed_search, vectors, faiss_ivf, n_probe):
    faiss_ivf.nprobe = n_probe

    def search(Q):
        return faiss_ivf.search(Q, K)[1]

    timed_search(what(vectors, n_probe), "faiss IndexIVFFlat", vectors, search, role="peer")


@pytest.fixture(scope="module")
def faiss_panorama(vectors, ivf):
    if not hasattr(faiss, "IndexIVFFlatPanorama"):
        pytest.skip("this FAISS has no Panorama")
    pca = peers.faiss_pca(vectors.base)
    quantizer = peers.faiss_flat(pca.apply(ivf.centroids))
    rows = pca.apply(vectors.base)
    index = faiss.IndexIVFFlatPanorama(quantizer, rows.shape[1], n_lists(vectors), 8)
    index.train(rows)
    index.add(rows)
    return pca, index


def test_faiss_panorama(timed_search, vectors, faiss_panorama, n_probe):
    pca, index = faiss_panorama
    index.nprobe = n_probe

    def search(Q):
        return index.search(pca.apply(Q), K)[1]

    who = "faiss PCA, IndexIVFFlatPanorama"
    timed_search(what(vectors, n_probe), who, vectors, search, role="peer")
