"""What a search returns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["RangeResult", "SearchResult"]


@dataclass(frozen=True, eq=False)
class SearchResult:
    """Nearest neighbours of some queries; unpacks to ``(distances, ids)``.

    Attributes
    ----------
    distances : ndarray of float32, shape (n_queries, k)
        Nearest first, whatever the metric: the squared L2 distance, the negated inner product, or
        one minus the cosine. Infinite where there is no neighbour.
    ids : ndarray of int64, shape (n_queries, k)
        Row numbers, -1 where there is no neighbour. Equal distances are in the order of their ids.
    stats : dict
        What the search did, by name; see the method that made the result.

    Examples
    --------
    >>> import lanewise as lw
    >>> distances, ids = lw.Flat(2).add([[0.0, 0.0], [3.0, 4.0]]).search([3.0, 3.0], k=1)
    >>> ids.tolist(), distances.tolist()
    ([[1]], [[1.0]])
    """

    distances: npt.NDArray[np.float32]
    ids: npt.NDArray[np.int64]
    stats: dict[str, Any] = field(default_factory=dict)

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        return iter((self.distances, self.ids))

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> npt.NDArray[Any]:
        return (self.distances, self.ids)[index]


@dataclass(frozen=True, eq=False)
class RangeResult:
    """All neighbours of some queries within a radius; unpacks to ``(limits, distances, ids)``.

    Attributes
    ----------
    limits : ndarray of int64, shape (n_queries + 1,)
        The neighbours of query q are those from ``limits[q]`` up to ``limits[q + 1]``.
    distances : ndarray of float32, shape (limits[-1],)
        Nearest first for each query.
    ids : ndarray of int64, shape (limits[-1],)
    stats : dict
        As in `SearchResult`.

    Examples
    --------
    >>> import lanewise as lw
    >>> index = lw.Flat(1).add([[0.0], [1.0], [5.0]])
    >>> limits, distances, ids = index.range_search([[0.0], [9.0]], radius=16.0)
    >>> limits.tolist(), distances.tolist(), ids.tolist()
    ([0, 2, 3], [0.0, 1.0, 16.0], [0, 1, 2])
    """

    limits: npt.NDArray[np.int64]
    distances: npt.NDArray[np.float32]
    ids: npt.NDArray[np.int64]
    stats: dict[str, Any] = field(default_factory=dict)

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        return iter((self.limits, self.distances, self.ids))

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> npt.NDArray[Any]:
        return (self.limits, self.distances, self.ids)[index]
