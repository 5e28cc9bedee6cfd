"""Where in the pool candidates stand: the ranks behind a plan's ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["has_common_pool", "pool_ranks", "scored_by_rank"]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


def pool_ranks(pool: Ids, ids: Ids) -> Ids:
    """Return the rank of each id in its query's pool.

    Parameters
    ----------
    pool : ndarray of int64, shape (n_queries, k_pool)
        Candidates in rank order, distinct; -1 is none and has no rank.
    ids : ndarray of int64, shape (n_queries, ...)
        -1 is none.

    Returns
    -------
    ndarray of int64, shape of ids
        -1 for none, and for what is not in the pool.

    Examples
    --------
    >>> pool_ranks(np.array([[30, -1, 10]]), np.array([[10, 30, 20, -1]])).tolist()
    [[1, 0, -1, -1]]
    """
    n_queries = len(pool)
    asked = ids.reshape(n_queries, -1)
    if asked.size == 0 or pool.size == 0:
        return np.full(ids.shape, -1, dtype=np.int64)
    ranks = np.cumsum(pool >= 0, axis=1) - 1
    # Ids may be as large as they like; their numbers among all ids here leave room for the row's.
    known = np.unique(pool)
    row = np.arange(n_queries)[:, np.newaxis] * len(known)
    places = (np.searchsorted(known, pool) + row).reshape(-1)
    order = np.argsort(places, kind="stable")
    places = places[order]
    number = np.minimum(np.searchsorted(known, asked), len(known) - 1)
    at = np.minimum(np.searchsorted(places, number + row), len(places) - 1)
    found = (asked >= 0) & (known[number] == asked) & (places[at] == number + row)
    return np.where(found, ranks.reshape(-1)[order][at], -1).reshape(ids.shape)


def scored_by_rank(
    pool: Ids, ids: Ids, scored: Bools, distances: Floats
) -> tuple[Bools, npt.NDArray[np.float64]]:
    """Return which ranks of the pool were scored by any lane, and their distances.

    Parameters
    ----------
    pool : ndarray of int64, shape (n_queries, k_pool)
    ids, scored, distances : ndarrays of shape (n_queries, n_lanes, k_lane)
        Of a `LaneResult`.

    Returns
    -------
    scored : ndarray of bool, shape (n_queries, k_pool)
    distances : ndarray of float64, same shape
        Infinite where not scored.
    """
    ranks = pool_ranks(pool, np.where(scored, ids, -1))
    query, lane, place = np.nonzero(ranks >= 0)
    rank = ranks[query, lane, place]
    out = np.full(pool.shape, np.inf)
    # Two lanes that score the same candidate may round differently: the nearer one counts.
    np.minimum.at(out, (query, rank), distances[query, lane, place].astype(np.float64))
    seen = np.zeros(pool.shape, dtype=np.bool_)
    seen[query, rank] = True
    return seen, out


def has_common_pool(result: Any) -> bool:
    """Return whether the lanes of a result shared a pool, whose order says something.

    Lanes that collect for themselves leave their candidates side by side in its place.

    Parameters
    ----------
    result : LaneResult

    Returns
    -------
    bool
    """
    planned = result.plan
    if planned.scheme != "owner" or planned.n_lanes == 1:
        return True
    return not np.array_equal(result.pool, planned.ids.reshape(len(planned.ids), -1))
