"""Vectors to search: real ones, ones that are easy to prune, and ones that are hard to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

import lanewise as lw

K = 10


@dataclass(frozen=True, eq=False)
class Vectors:
    """Rows, queries, and the squared distance of each query's k-th nearest row in float64."""

    name: str
    base: np.ndarray
    queries: np.ndarray
    radius2: np.ndarray

    @property
    def label(self):
        return f"{self.name} {len(self.base):,} x {self.base.shape[1]}"

    def recall(self, ids):
        """Share of the k nearest rows that were found; equally near rows count as the same."""
        chosen = self.base[ids[:, :K]].astype(np.float64)
        d2 = ((chosen - self.queries[:, np.newaxis]) ** 2).sum(axis=2)
        found = (d2 <= self.radius2[:, np.newaxis] * (1 + 1e-6)) & (ids[:, :K] >= 0)
        return float(found.mean())


def one_by_one(search):
    """Turn a search for a matrix of queries into one that asks them singly."""
    return lambda Q: np.concatenate([search(q[np.newaxis]) for q in Q])


def vectors(name, base, queries):
    base = np.ascontiguousarray(base, dtype=np.float32)
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    return Vectors(name, base, queries, _radius2(base, queries))


def _radius2(base, queries):
    """Exact search in float64, a few queries at a time."""
    radius2 = np.empty(len(queries))
    rows = base.astype(np.float64)
    norms = (rows**2).sum(axis=1)
    for begin in range(0, len(queries), 32):
        some = queries[begin : begin + 32].astype(np.float64)
        d2 = norms - 2 * (some @ rows.T) + (some**2).sum(axis=1, keepdims=True)
        radius2[begin : begin + 32] = np.partition(d2, K - 1, axis=1)[:, K - 1]
    return radius2


@cache
def sift():
    """Return the shipped set: SIFT descriptors of photographs."""
    dataset = lw.datasets.sift_small()
    return vectors("sift", dataset.base, dataset.queries)


@cache
def mixture(n, dim, n_queries=100):
    """Draw from 100 Gaussians with a decaying spectrum, as embeddings have, turned at random."""
    rng = np.random.default_rng(1)
    scale = np.arange(1, dim + 1, dtype=np.float32) ** np.float32(-0.5)
    turn = np.linalg.qr(rng.standard_normal((dim, dim)))[0].astype(np.float32)
    centers = rng.standard_normal((100, dim), dtype=np.float32)
    noise = rng.standard_normal((n + n_queries, dim), dtype=np.float32)
    X = ((centers[rng.integers(0, 100, n + n_queries)] + noise / 2) * scale) @ turn
    return vectors("mixture", X[:n], X[n:])


@cache
def gaussian(n, dim, n_queries=100):
    """Draw what is the same in every direction: nothing to prune by."""
    X = np.random.default_rng(2).standard_normal((n + n_queries, dim), dtype=np.float32)
    return vectors("gaussian", X[:n], X[n:])


@cache
def from_file(path, n_queries=200):
    """Read what `lanewise.datasets.load` reads; without queries its last rows are asked."""
    dataset = lw.datasets.load(path)
    base, queries = dataset.base, dataset.queries
    if queries is None:
        base, queries = base[:-n_queries], base[-n_queries:]
    return vectors(dataset.name, base, queries[:n_queries])
