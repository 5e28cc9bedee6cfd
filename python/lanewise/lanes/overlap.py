"""How much the lanes' work had in common: two different numbers, both with their names."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from lanewise.arrays import as_vector_ids

__all__ = ["mway_jaccard", "pairwise_jaccard"]

Ids = npt.NDArray[np.int64]


def pairwise_jaccard(ids: Any) -> npt.NDArray[np.float64]:
    """Return the mean over all pairs of lanes of |A and B| / |A or B|.

    Parameters
    ----------
    ids : array-like of int, shape (n_queries, n_lanes, k_lane)
        What each lane holds; -1 is nothing, and no lane holds an id twice.

    Returns
    -------
    ndarray of float64, shape (n_queries,)
        0 for disjoint lanes, 1 for equal ones; 0 for a single lane. Two empty lanes count as
        disjoint.

    Examples
    --------
    >>> pairwise_jaccard([[[1, 2], [2, 3], [4, -1]]]).round(3).tolist()
    [0.111]
    """
    ids = as_vector_ids(ids, "ids", ndim=3, allow_missing=True)
    n_queries, n_lanes, _ = ids.shape
    total = np.zeros(n_queries)
    pairs = list(itertools.combinations(range(n_lanes), 2))
    for a, b in pairs:
        common, union = _common_and_union(ids[:, [a, b]])
        total += common / np.maximum(union, 1)
    return total / max(1, len(pairs))


def mway_jaccard(ids: Any) -> npt.NDArray[np.float64]:
    """Return |intersection of all lanes| / |union of all lanes|.

    Parameters and result are as for `pairwise_jaccard`.

    Examples
    --------
    >>> mway_jaccard([[[1, 2], [2, 3]]]).round(3).tolist()
    [0.333]
    """
    ids = as_vector_ids(ids, "ids", ndim=3, allow_missing=True)
    if ids.shape[1] < 2:
        return np.zeros(len(ids))
    common, union = _common_and_union(ids)
    return common / np.maximum(union, 1)


def _common_and_union(ids: Ids) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """How many ids all lanes hold, and how many at least one does: runs in the sorted ids."""
    n_queries, n_lanes, k_lane = ids.shape
    flat = np.sort(ids.reshape(n_queries, n_lanes * k_lane), axis=1)
    present = flat >= 0
    first = present.copy()
    first[:, 1:] &= flat[:, 1:] != flat[:, :-1]
    union = first.sum(axis=1)
    if flat.shape[1] < n_lanes:
        return np.zeros_like(union), union
    last = n_lanes - 1
    everywhere = first[:, : flat.shape[1] - last] & (
        flat[:, : flat.shape[1] - last] == flat[:, last:]
    )
    return everywhere.sum(axis=1), union
