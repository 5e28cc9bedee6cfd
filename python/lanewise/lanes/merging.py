"""One answer from the answers of several lanes."""

from __future__ import annotations

from typing import Any

import numpy as np

from lanewise.arrays import as_ndarray, as_vector_ids, check_int
from lanewise.result import SearchResult

__all__ = ["merge"]


def merge(distances: Any, ids: Any, k: int, *, deduplicate: bool = True) -> SearchResult:
    """Merge scored candidates: duplicates go first, then the k nearest stay.

    Parameters
    ----------
    distances : array-like of float, shape (n_queries, n_candidates) or (n_candidates,)
        Smaller is nearer. What belongs to an id of -1 is not looked at.
    ids : array-like of int, same shape
        -1 means none. The lanes' candidates stand side by side in any order.
    k : int
    deduplicate : bool, default True
        Keep only the nearest of equal ids. False shows what duplicated work does to an answer.

    Returns
    -------
    SearchResult
        Shapes (n_queries, k), in the order of (distance, id); the ids of a query are distinct.
        `stats` holds ``duplicates``, the number removed for each query.

    Raises
    ------
    ValueError, TypeError
        If the shapes differ, a distance is NaN, or an id is less than -1.

    Examples
    --------
    >>> distances, ids = merge([[0.5, 0.1, 0.5]], [[7, 3, 7]], k=3)
    >>> ids.tolist()
    [[3, 7, -1]]
    """
    k = check_int(k, "k", low=0)
    d = as_ndarray(distances, "distances")
    if d.dtype.kind not in "fiu":
        raise TypeError(f"distances: expected numbers, got dtype {d.dtype}")
    with np.errstate(over="ignore"):
        d = np.array(d, dtype=np.float32, ndmin=2)
    ndim = 1 if as_ndarray(ids, "ids").ndim == 1 else 2
    i = as_vector_ids(ids, "ids", ndim=ndim, allow_missing=True)
    i = np.atleast_2d(i)
    if d.shape != i.shape:
        raise ValueError(f"distances: expected the shape of ids, {i.shape}, got {d.shape}")
    missing = i < 0
    d[missing] = np.inf
    if np.isnan(d).any():
        raise ValueError("distances: expected no NaN, got one")
    duplicates = np.zeros(len(i), dtype=np.int64)
    if deduplicate and i.shape[1] > 0:
        order = np.lexsort((d, i), axis=1)
        i, d = np.take_along_axis(i, order, axis=1), np.take_along_axis(d, order, axis=1)
        repeated = np.zeros(i.shape, dtype=bool)
        repeated[:, 1:] = (i[:, 1:] == i[:, :-1]) & (i[:, 1:] >= 0)
        duplicates = repeated.sum(axis=1)
        i[repeated], d[repeated] = -1, np.inf
    # Missing ones last, even behind an infinite distance that somebody scored.
    order = np.lexsort((i, d, i < 0), axis=1)[:, :k]
    out_distances = np.full((len(i), k), np.inf, dtype=np.float32)
    out_ids = np.full((len(i), k), -1, dtype=np.int64)
    out_distances[:, : order.shape[1]] = np.take_along_axis(d, order, axis=1)
    out_ids[:, : order.shape[1]] = np.take_along_axis(i, order, axis=1)
    return SearchResult(out_distances, out_ids, {"duplicates": duplicates})
