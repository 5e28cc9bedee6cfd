"""Our search of hnswlib's graph beside its own; ``python -m bench.hnsw`` tells more."""

import numpy as np
import pytest

import lanewise as lw
from bench import data
from bench.data import K

WIDTHS = (16, 64)


def what(ef):
    return f"hnsw, {data.sift().label}, ef {ef}"


@pytest.fixture(scope="module")
def hnsw():
    return lw.HNSW.build(data.sift().base, n_threads=None)


@pytest.mark.parametrize("ef", WIDTHS)
def test_search(timed_search, hnsw, ef):
    def search(Q):
        return hnsw.search(Q, K, ef=ef, n_threads=1).ids

    timed_search(what(ef), "lanewise HNSW.search", data.sift(), search)


@pytest.mark.parametrize("ef", WIDTHS)
def test_raw(timed_search, hnsw, ef):
    raw = hnsw.to_hnswlib()
    raw.set_ef(ef)

    def search(Q):
        return raw.knn_query(Q, k=K, num_threads=1)[0].astype(np.int64)

    timed_search(what(ef), "hnswlib knn_query", data.sift(), search, role="peer")
