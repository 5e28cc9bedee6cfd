"""Nearest centroids: products with the argmax fused, beside a product and an argmax."""

from functools import partial

import numpy as np
import pytest
from sklearn.metrics import pairwise_distances_argmin

import lanewise as lw
from bench import peers
from bench.summary import threads_text
from lanewise.cluster import assign

N, K = 8192, 512
DIMS = (128, 768)
LANES = 16
BEST = lw.kernels.available()[0]


def group(dim, n_threads):
    return f"assign {N:,} x {dim} to {K} centroids, {threads_text(n_threads)}"


def rates(dim, n=N):
    return {"GFLOP/s": 2 * n * K * dim / 1e9}


@pytest.fixture(scope="module", params=DIMS)
def problem(request):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N, request.param), dtype=np.float32)
    return X, X[:K] + rng.standard_normal((K, request.param), dtype=np.float32) / 2


def test_kernel(timed, isa, fma_peak):
    """The kernel alone, on points and packed centroids that stay in the cache."""
    kernels = lw.kernels.get(isa)
    n, dim = 256, 128
    rng = np.random.default_rng(0)
    points = rng.standard_normal((n, dim), dtype=np.float32)
    centroids = rng.standard_normal((K // LANES, dim, LANES), dtype=np.float32)
    bias = rng.standard_normal(K, dtype=np.float32)
    scratch = np.empty((n, 3 * LANES), dtype=np.float32)
    labels = np.empty(n, dtype=np.int32)
    scores, runner_ups = np.empty(n, dtype=np.float32), np.empty(n, dtype=np.float32)
    timed(
        f"assign kernel, {n} x {dim} to {K} centroids",
        f"lanewise {isa}",
        lambda: kernels.assign(points, centroids, bias, scratch, labels, scores, runner_ups),
        rates={**rates(dim, n), "of peak": rates(dim, n)["GFLOP/s"] / fma_peak[1]},
    )


def test_assign(timed, problem, n_threads, fma_peak):
    X, C = problem
    flops = rates(X.shape[1])["GFLOP/s"]
    timed(
        group(X.shape[1], n_threads),
        f"lanewise {BEST}",
        lambda: assign(X, C, kernels=BEST, n_threads=n_threads),
        rates={"GFLOP/s": flops, "of peak": flops / fma_peak[n_threads]},
    )


def _time_peer(timed, problem, n_threads, who, call, role="peer"):
    dim = problem[0].shape[1]
    timed(group(dim, n_threads), who, call, role=role, rates=rates(dim))


def test_numpy(timed, problem, n_threads):
    _time_peer(
        timed, problem, n_threads, "NumPy product, argmax", lambda: peers.numpy_assign(*problem)
    )


def test_faiss(timed, problem, n_threads):
    X, C = problem
    index = peers.faiss_flat(C)
    with peers.faiss_blas():
        _time_peer(timed, problem, n_threads, "faiss IndexFlatL2", lambda: index.search(X, 1))


def test_sklearn(timed, problem, n_threads):
    who = "scikit-learn pairwise_distances_argmin"
    _time_peer(timed, problem, n_threads, who, lambda: pairwise_distances_argmin(*problem))


def test_product_alone(timed, problem, n_threads):
    X, C = problem
    out = np.empty((N, K), dtype=np.float32)
    who = "NumPy product alone"
    call = partial(np.matmul, X, C.T, out=out)
    _time_peer(timed, problem, n_threads, who, call, role="yardstick")
