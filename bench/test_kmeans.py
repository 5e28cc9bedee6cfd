"""k-means from the same start for the same number of iterations, without subsampling.

Everybody delivers centroids, the label of every point, and the objective; ``inertia`` is that of
the centroids delivered, computed in float64, per point.
"""

import warnings

import faiss
import numpy as np
import pytest
import sklearn.cluster

import lanewise as lw
from bench import data, peers
from bench.summary import threads_text


class Problem:
    def __init__(self, X, k, n_iterations):
        self.X = X
        self.k = k
        self.n_iterations = n_iterations
        self.init = X[np.random.default_rng(0).permutation(len(X))[:k]].copy()

    def group(self, n_threads):
        n, dim = self.X.shape
        shape = f"{n:,} x {dim}, k {self.k}"
        return f"k-means, {shape}, {self.n_iterations} iterations, {threads_text(n_threads)}"

    def inertia(self, centroids):
        C = np.asarray(centroids, dtype=np.float64)
        total = 0.0
        for begin in range(0, len(self.X), 4096):
            x = self.X[begin : begin + 4096].astype(np.float64)
            d2 = (x**2).sum(axis=1)[:, np.newaxis] - 2 * (x @ C.T) + (C**2).sum(axis=1)
            total += float(d2.min(axis=1).sum())
        return total / len(self.X)

    @property
    def rates(self):
        return {"GFLOP/s": 2.0 * self.X.size * self.k * (self.n_iterations + 1) / 1e9}


@pytest.fixture(scope="module")
def problem(pytestconfig):
    if pytestconfig.getoption("--full"):
        return Problem(data.mixture(50_000, 128).base, 512, 25)
    return Problem(data.sift().base, 256, 10)


def test_kmeans(timed, problem, n_threads):
    def fit():
        return lw.KMeans(
            problem.k,
            init=problem.init,
            max_iter=problem.n_iterations,
            tol=0,
            n_threads=n_threads,
        ).fit(problem.X)

    model = fit()
    assert model.n_iter_ == problem.n_iterations
    timed(
        problem.group(n_threads),
        "lanewise",
        fit,
        rates=problem.rates,
        inertia=problem.inertia(model.cluster_centers_),
    )


@pytest.mark.parametrize("superkmeans", [False, True], ids=["lloyd", "superkmeans"])
def test_faiss(timed, problem, n_threads, superkmeans):
    def fit():
        model = faiss.Kmeans(
            problem.X.shape[1],
            problem.k,
            niter=problem.n_iterations,
            min_points_per_centroid=1,
            max_points_per_centroid=len(problem.X),
            **({"use_super_kmeans": True} if superkmeans else {}),
        )
        model.train(problem.X, init_centroids=problem.init)
        model.index.search(problem.X, 1)
        return model.centroids

    if superkmeans and not hasattr(faiss, "SuperKMeans"):
        pytest.skip("this FAISS has no SuperKMeans")
    with peers.faiss_blas():
        timed(
            problem.group(n_threads),
            "faiss.Kmeans, use_super_kmeans" if superkmeans else "faiss.Kmeans",
            fit,
            role="peer",
            rates=problem.rates,
            inertia=problem.inertia(fit()),
        )


def test_sklearn(timed, problem, n_threads):
    model = sklearn.cluster.KMeans(
        problem.k,
        init=problem.init,
        n_init=1,
        max_iter=problem.n_iterations,
        tol=0,
        algorithm="lloyd",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
        timed(
            problem.group(n_threads),
            "scikit-learn KMeans",
            lambda: model.fit(problem.X),
            role="peer",
            rates=problem.rates,
            inertia=problem.inertia(model.fit(problem.X).cluster_centers_),
        )
