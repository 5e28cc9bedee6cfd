"""Vectors to search: real ones, ones that are easy to prune, and ones that are hard to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

import lanewise as lw

K = 10

_ROWS = 8192  # handled at a time
_SURE = 100  # rows of each query that the truth settles by the definition of the distance


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
        """Share of the k nearest rows that were found; equally near rows count as the same.

        `ids` may be for the first queries alone.
        """
        n = len(ids)
        chosen = self.base[ids[:, :K]].astype(np.float64)
        d2 = ((chosen - self.queries[:n, np.newaxis]) ** 2).sum(axis=2)
        found = (d2 <= self.radius2[:n, np.newaxis] * (1 + 1e-6)) & (ids[:, :K] >= 0)
        return float(found.mean())


def one_by_one(search):
    """Turn a search for a matrix of queries into one that asks them singly."""
    return lambda Q: np.concatenate([search(q[np.newaxis]) for q in Q])


def vectors(name, base, queries):
    base = np.ascontiguousarray(base, dtype=np.float32)
    queries = np.array(queries, dtype=np.float32)  # a view would keep the rows alive as well
    return Vectors(name, base, queries, _radius2(base, queries))


def _radius2(base, queries):
    """Squared distance of each query's k-th nearest row.

    Products in float64, on centred rows so that a common offset costs no digits, find the 100 best;
    the definition of the distance, in float64, then settles which are the nearest of them.
    """
    center = base.mean(axis=0, dtype=np.float64)
    centered = queries - center
    n_best = min(_SURE, len(base))

    def reduced(rows):
        """|q - x|^2 - |q|^2, and the largest |x|^2."""
        rows = rows - center
        norms = np.einsum("nd,nd->n", rows, rows)
        d2 = centered @ rows.T
        d2 *= -2
        d2 += norms
        return d2, norms.max()

    # No query's 100 best lie behind the 100th best of a sample.
    sample, largest = reduced(base[:: max(1, len(base) // _ROWS)][: max(_ROWS, n_best)])
    reach = np.partition(sample, n_best - 1, axis=1)[:, n_best - 1]
    reach += 1e-9 * ((centered**2).sum(axis=1) + largest)
    found = []
    for begin in range(0, len(base), _ROWS):
        d2, _ = reduced(base[begin : begin + _ROWS])
        query, row = np.nonzero(d2 <= reach[:, np.newaxis])
        found.append((query, row + begin, d2[query, row]))
    query, row, d2 = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((d2, query))
    first = np.searchsorted(query[order], np.arange(len(queries)))

    radius2 = np.empty(len(queries))
    for i, begin in enumerate(first):
        best = row[order[begin : begin + n_best]]
        exact = ((base[best] - queries[i].astype(np.float64)) ** 2).sum(axis=1)
        radius2[i] = np.partition(exact, K - 1)[K - 1]
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
    turn = _turn(rng, dim)
    centers = rng.standard_normal((100, dim), dtype=np.float32)
    X = rng.standard_normal((n + n_queries, dim), dtype=np.float32)
    labels = rng.integers(0, 100, n + n_queries)
    for begin in range(0, len(X), _ROWS):
        some = X[begin : begin + _ROWS]
        some /= 2
        some += centers[labels[begin : begin + _ROWS]]
        some[:] = (some * _decay(dim)) @ turn
    return vectors("mixture", X[:n], X[n:])


@cache
def decaying(n, dim, n_queries=100):
    """Draw from one Gaussian with a decaying spectrum, turned at random: no clusters to help."""
    rng = np.random.default_rng(3)
    turn = _turn(rng, dim)
    X = rng.standard_normal((n + n_queries, dim), dtype=np.float32)
    for begin in range(0, len(X), _ROWS):
        some = X[begin : begin + _ROWS]
        some[:] = (some * _decay(dim)) @ turn
    return vectors("decaying", X[:n], X[n:])


def _decay(dim):
    return np.arange(1, dim + 1, dtype=np.float32) ** np.float32(-0.5)


def _turn(rng, dim):
    return np.linalg.qr(rng.standard_normal((dim, dim)))[0].astype(np.float32)


@cache
def gaussian(n, dim, n_queries=100):
    """Draw what is the same in every direction: nothing to prune by."""
    X = np.random.default_rng(2).standard_normal((n + n_queries, dim), dtype=np.float32)
    return vectors("gaussian", X[:n], X[n:])


def nasty(n=4000, dim=96, n_queries=50):
    """Yield vectors that break careless arithmetic or careless bounds."""
    rng = np.random.default_rng(4)

    def normal():
        return rng.standard_normal((n + n_queries, dim))

    def named(name, X):
        return vectors(name, X[:n], X[n:])

    few = rng.standard_normal((n // 100, dim))
    copies = few[rng.integers(0, len(few), n + n_queries)]
    yield named("near-duplicates, 0.1% noise", copies * (1 + 1e-3 * normal()))
    yield named("exact duplicates", copies)
    yield named("offset 1000 x the spread", normal() + 1000)
    yield named("offsets of both signs, one large", normal() + 1000 * rng.standard_normal(dim) ** 3)
    X = normal()
    X[rng.random(len(X)) < 0.3] = 0
    yield named("zero vectors", X)
    X = normal()
    X[:, ::2] = 7
    yield named("half of the dimensions constant", X)
    yield named("Student's t, 2 degrees of freedom", rng.standard_t(2, (n + n_queries, dim)))
    yield named("lognormal lengths", normal() * rng.lognormal(0, 3, (n + n_queries, 1)))
    yield named("scales from 1e-3 to 1e3", normal() * np.logspace(-3, 3, dim))


@cache
def from_file(path, n_queries=200):
    """Read what `lanewise.datasets.load` reads; without queries its last rows are asked."""
    dataset = lw.datasets.load(path)
    base, queries = dataset.base, dataset.queries
    if queries is None:
        base, queries = base[:-n_queries], base[-n_queries:]
    return vectors(dataset.name, base, queries[:n_queries])
