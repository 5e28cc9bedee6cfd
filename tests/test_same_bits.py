"""The promise that sets the library apart: the same bits on every machine.

The digests were made once, on x86-64 with AVX-512. Whatever runs this file, with whatever kernels
and any number of threads, must make them again.
"""

import hashlib

import numpy as np
import pytest

import lanewise as lw
from lanewise import draws

DIGESTS = {
    "rotation": "9077a7a9f5bc065e",
    "flat-l2": "0129179be8c927ea",
    "flat-ip": "9192c101f9c09aa9",
    "flat-cosine": "2586a90f51438582",
    "flat-eps0": "0129179be8c927ea",
    "kmeans": "54ba8e98d0eab720",
    "kmeans-cosine": "45fdee5a4354d7ec",
    "ivf": "0129179be8c927ea",
    "plan-permute": "e3f3de9241f0c9e6",
    "plan-stratified": "5a6c5475cb4a22ea",
    "plan-owner": "df4a68663ab99a75",
    "lanes": "0129179be8c927ea",
}


def vectors(n: int, dim: int, stream: int) -> np.ndarray:
    """Uniform vectors that need no other generator than ours, around a few centres."""
    spread = draws.uniforms(7, "ivf", n * dim, stream=stream).reshape(n, dim)
    centers = draws.uniforms(7, "ivf", 8 * dim, stream=99).reshape(8, dim)
    return (spread + 3 * centers[np.arange(n) % 8]).astype(np.float32)


@pytest.fixture(scope="module")
def base() -> np.ndarray:
    return vectors(700, 40, 1)


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    return vectors(9, 40, 2)


def answers(name: str, base: np.ndarray, queries: np.ndarray, kernels: str, n_threads: int) -> list:
    """Arrays of one trip."""
    how = {"kernels": kernels, "n_threads": n_threads}
    kind, _, variant = name.partition("-")
    if kind == "rotation":
        return [lw.RandomRotation(40, kernels=kernels).transform(base, n_threads=n_threads)]
    if kind == "flat" and variant == "eps0":
        index = lw.Flat(40, **how).add(base)
        return list(index.search(queries, 10, eps0=2.1, delta=8))
    if kind == "flat":
        return list(lw.Flat(40, variant, **how).add(base).search(queries, 10))
    if kind == "kmeans":
        model = lw.KMeans(9, metric=variant or "l2", max_iter=5, **how).fit(base)
        return [model.cluster_centers_, model.labels_, np.float64(model.inertia_)]
    if kind == "ivf":
        index = lw.IVF(40, 9, n_probe=3, train_iterations=5, **how).train(base).add(base)
        return list(index.search(queries, 10))
    pool = lw.Flat(40, **how).add(base).pool(queries, 32)
    if kind == "plan":
        keys = lw.lanes.query_keys(queries)
        plan = lw.lanes.plan(
            pool, keys, n_lanes=4, k_lane=8, scheme=variant, alpha=0.75, head=2, **how
        )
        return [plan.ids, plan.counts]
    flat = lw.Flat(40, **how).add(base)
    return list(lw.LaneSearch(flat, flat, n_lanes=4, k_lane=8, alpha=0.5, **how).search(queries))


def digest(arrays: list) -> str:
    """Digest of bytes in little-endian order."""
    whole = hashlib.sha256()
    for array in arrays:
        array = np.asarray(array)
        whole.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
    return whole.hexdigest()[:16]


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("name", DIGESTS)
def test_digest(name, base, queries, kernels, n_threads):
    arrays = answers(name, base, queries, kernels.name, n_threads)
    assert digest(arrays) == DIGESTS[name]
