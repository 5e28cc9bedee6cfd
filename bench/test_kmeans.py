"""k-means from the same start for the same number of iterations: a small case of bench.kmeans."""

import pytest

from bench import data, kmeans, peers
from bench.summary import threads_text


@pytest.fixture(scope="module")
def problem(pytestconfig):
    if pytestconfig.getoption("--full"):
        return kmeans.Problem(data.mixture(50_000, 128).base, 512, 25)
    return kmeans.Problem(data.sift().base, 256, 10)


def test_kmeans(timed, problem, n_threads):
    group = f"k-means, {problem.shape}, {threads_text(n_threads)}"
    with peers.faiss_blas():
        for who, peer, fit in kmeans.contenders(problem, n_threads, slow=False):
            timed(
                group,
                who,
                fit,
                role="peer" if peer else "ours",
                rates={"GFLOP/s": problem.flops / 1e9},
                inertia=problem.inertia(fit()),
            )
