"""The promise that sets the library apart: the same bits on every machine.

The digests were made once, on x86-64 with AVX-512. Whatever runs this file, with whatever kernels
and any number of threads, must make them again.
"""

import functools
import hashlib

import cases
import numpy as np
import pytest

import lanewise as lw
from lanewise import draws
from lanewise.graph import GraphArrays

# Exact answers do not know what they were found with.
L2, IP, COSINE = "0129179be8c927ea", "9192c101f9c09aa9", "2586a90f51438582"

DIGESTS = {
    "rotation": "9077a7a9f5bc065e",
    "flat-l2": L2,
    "flat-ip": IP,
    "flat-cosine": COSINE,
    "flat-l2-f32": L2,
    "flat-ip-f32": IP,
    "flat-cosine-f32": COSINE,
    "flat-l2-sq8-pca": L2,
    "flat-ip-sq8-pca": IP,
    "flat-cosine-sq8-pca": COSINE,
    "flat-l2-sq4": L2,
    "flat-ip-sq4": IP,
    "flat-cosine-sq4": COSINE,
    "eps0-f32": L2,
    "work-f32": "6799d346aa70872c",
    "filter": "64aafbdfba7c0086",
    "range": "abf79f2c368abbc0",
    "life": "8d1da372a3209803",
    "kmeans": "48486288d89fe729",
    "kmeans-cosine": "dce976483f034ff5",
    "kmeans-many": "06fc8f9a0c3697e5",
    "ivf": "0129179be8c927ea",
    "ivf-f32": "0129179be8c927ea",
    "ivf-filter": "81f4b4164b58cff2",
    "pq-4": "2ba26de03d8ba175",
    "pq-8": "c844ff14c8039e2b",
    "ivfpq-4": "2326f52989eda91f",
    "ivfpq-8": "7bdcb4a64d42b845",
    "plan-permute": "e3f3de9241f0c9e6",
    "plan-stratified": "5a6c5475cb4a22ea",
    "plan-owner": "df4a68663ab99a75",
    "lanes": "0129179be8c927ea",
    "maxsim": "0138ab68fc0fbe37",
    "graph-l2-f32": "ddb9e455561225c8",
    "graph-ip-f32": "f0e66c3b81fefe8d",
    "graph-cosine-f32": "96bf582f3d29e54e",
    "graph-l2-sq8": "3566b86c7d1f28ee",
    "graph-ip-sq8": "b4044131c04e3db4",
    "graph-l2-sq4": "002abc67594e04a1",
    "graph-cosine-sq4": "05d00dbc598dea1f",
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


@functools.cache
def graph(metric: str) -> GraphArrays:
    """Return a graph of the base that is the same on every machine."""
    rows = lw.Flat(40, metric).add(vectors(700, 40, 1)).rows
    return cases.nearest_graph(rows, metric)


def answers(name: str, base: np.ndarray, queries: np.ndarray, kernels: str, n_threads: int) -> list:
    """Arrays of one trip."""
    how = {"kernels": kernels, "n_threads": n_threads}
    kind, *variants = name.split("-")
    variant = variants[0] if variants else None
    if kind == "rotation":
        return [lw.RandomRotation(40, kernels=kernels).transform(base, n_threads=n_threads)]
    if kind == "flat":
        names = ("storage", "rotation")
        index = lw.Flat(40, variant, **dict(zip(names, variants[1:], strict=False)), **how)
        return list(index.add(base).search(queries, 10))
    if kind == "eps0":
        index = lw.Flat(40, storage=variant, **how).add(base)
        return list(index.search(queries, 10, eps0=2.1, delta=8))
    if kind == "work":
        # Axes that are learned differ with LAPACK, and with them what a scan can drop.
        index = lw.Flat(40, storage=variant, rotation=None if variant[0] == "s" else "auto", **how)
        found = index.add(base).search(queries, 10)
        return [*found, *found.stats.values()]
    if kind == "filter":
        index = lw.Flat(40, **how).add(base)
        masks = base[:, 0] < 1, np.packbits(base[:, 1] < 1, bitorder="little"), np.arange(0, 700, 9)
        return [part for mask in masks for part in index.search(queries, 10, filter=mask)]
    if kind == "range":
        index = lw.Flat(40, **how).add(base)
        parts = list(index.range_search(queries, 5.0))
        return [*parts, *index.range_search(queries, 20.0, filter=np.arange(350))]
    if kind == "life":
        index = lw.Flat(40, "ip", **how).add(base[:400], np.arange(400)[::-1] * 5)
        index.add(base[400:]).remove(np.arange(0, 1000, 10)).add(base[:3], [10, 0, 20])
        return [index.ids, *index.search(queries, 10), *index.range_search(queries, -30.0)]
    if kind == "kmeans":
        # Many points start from candidates.
        X = vectors(1300, 40, 3) if variant == "many" else base
        metric = "cosine" if variant == "cosine" else "l2"
        model = lw.KMeans(9, metric=metric, max_iter=5, **how).fit(X)
        return [model.cluster_centers_, model.labels_, np.float64(model.inertia_)]
    if kind == "ivf":
        storage = "f32" if variant == "f32" else "auto"
        index = lw.IVF(40, 9, n_probe=3, train_iterations=5, storage=storage, **how)
        mask = base[:, 0] < 1 if variant == "filter" else None
        return list(index.train(base).add(base).search(queries, 10, filter=mask))
    if kind == "graph":
        metric, storage = variants
        index = lw.HNSW._made(graph(metric), storage, None, **how)
        found = index.search(queries, 10, ef=20)
        some = index.search(queries, 10, ef=30, filter=np.arange(0, 700, 3))
        lane = index.pool(queries, 10, ef=30, lane=1, n_lanes=3)
        return [*found, *found.stats.values(), *some, *some.stats.values(), lane]
    if kind == "maxsim":
        index = lw.MaxSim(40, **how).add((base, np.arange(0, 701, 7)))
        asked = (vectors(90, 40, 4), [0, 1, 17, 49, 90])
        ids = np.arange(400).reshape(4, 100) * 7 % 101 % 100
        found = index.rescore(asked, ids, 10)
        return [index.score(asked, ids), *found, *found.stats.values()]
    if kind == "pq":
        quantizer = lw.ProductQuantizer(40, 8, int(variant), train_iterations=4, **how).train(base)
        return [quantizer.words, quantizer.encode(base)]
    if kind == "ivfpq":
        options = {"n_bits": int(variant), "train_iterations": 4, "code_iterations": 4}
        index = lw.IVFPQ(40, 9, n_subspaces=10, n_probe=3, **options, **how)
        index.train(base).add(base)
        found = index.search(queries, 10, rerank=20, eps0=3.0)
        # Of many queries together, and of each alone: distances are the estimates.
        together = index.search(queries, 10, rerank=0)
        alone = [array for query in queries[:5] for array in index.search(query, 10, rerank=0)]
        return [*found, *found.stats.values(), *together, *alone]
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
def test_digest(name, base, queries, code_kernels, n_threads):
    arrays = answers(name, base, queries, code_kernels.name, n_threads)
    assert digest(arrays) == DIGESTS[name]
