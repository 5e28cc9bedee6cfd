"""Scoring named rows: one query and many ids by the kernel, then the lists of many queries."""

import faiss
import numpy as np
import pytest

import lanewise as lw
from bench import peers
from bench.summary import threads_text

N_ROWS = 20_000
DIMS = (128, 768)
N_IDS = 4096
N_QUERIES, N_LIST = 200, 64


def one_group(dim):
    return f"score {N_IDS:,} named rows of {N_ROWS:,} x {dim}: per row"


def lists_group(dim):
    return f"score {N_QUERIES} lists of {N_LIST} in {N_ROWS:,} x {dim}: per row"


def rates(n, dim):
    return {"GB/s": n * dim * 4 / 1e9}


@pytest.fixture(scope="module", params=DIMS)
def rows(request):
    return np.random.default_rng(0).standard_normal((N_ROWS, request.param), dtype=np.float32)


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(1).permutation(N_ROWS)[:N_IDS]


@pytest.fixture(scope="module")
def lists():
    return np.random.default_rng(2).integers(0, N_ROWS, (N_QUERIES, N_LIST))


# ----------------------------------------------------------------------------- one query


@pytest.mark.parametrize("metric", ["l2", "dot"])
def test_kernel(timed, rows, ids, isa, metric):
    score = getattr(lw.kernels.get(isa), f"{metric}_rows")
    query, out = rows[0].copy(), np.empty(N_IDS, dtype=np.float32)
    dim = len(query)
    timed(
        one_group(dim),
        f"lanewise {isa} {metric}_rows",
        lambda: score(query, rows, ids, out),
        per=N_IDS,
        rates=rates(N_IDS, dim),
    )


def test_numpy_rows(timed, rows, ids):
    query = rows[0].copy()

    def call():
        difference = rows[ids] - query
        return np.einsum("nd,nd->n", difference, difference)

    timed(one_group(len(query)), "NumPy rows[ids] - q", call, role="peer", per=N_IDS)


def test_faiss_rows(timed, rows, ids):
    dim = rows.shape[1]
    call = _faiss_subset(rows, rows[:1].copy(), ids[np.newaxis])
    timed(
        one_group(dim),
        "faiss compute_distance_subset",
        call,
        role="peer",
        per=N_IDS,
        rates=rates(N_IDS, dim),
    )


def _faiss_subset(rows, queries, ids):
    index = peers.faiss_flat(rows)
    out = np.empty(ids.shape, dtype=np.float32)
    pointers = [faiss.swig_ptr(array) for array in (queries, out, ids)]

    def call(kept=(queries, out, ids)):
        index.compute_distance_subset(len(ids), pointers[0], ids.shape[1], *pointers[1:])

    return call


# ------------------------------------------------------------------------------ many lists


def test_flat_score(timed, rows, lists, n_threads):
    dim = rows.shape[1]
    flat = lw.Flat(dim).add(rows)
    queries = rows[:N_QUERIES]
    timed(
        lists_group(dim),
        f"lanewise Flat.score, {threads_text(n_threads)}",
        lambda: flat.score(queries, lists, n_threads=n_threads),
        per=lists.size,
        rates=rates(lists.size, dim),
    )


def test_numpy_lists(timed, rows, lists):
    queries = rows[:N_QUERIES].copy()

    def call():
        difference = rows[lists] - queries[:, np.newaxis]
        return np.einsum("qmd,qmd->qm", difference, difference)

    timed(lists_group(rows.shape[1]), "NumPy rows[ids] - q", call, role="peer", per=lists.size)


def test_faiss_lists(timed, rows, lists, n_threads):
    call = _faiss_subset(rows, rows[:N_QUERIES].copy(), lists)
    who = f"faiss compute_distance_subset, {threads_text(n_threads)}"
    timed(lists_group(rows.shape[1]), who, call, role="peer", per=lists.size)
