"""Exact search over all rows, and its early-terminated relatives."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lanewise.kernels import Kernels
from lanewise.result import SearchResult
from lanewise.store import Rows

__all__ = ["Flat"]


class Flat:
    """Nearest neighbours by scanning every row: exact by default, with a dial below it.

    Rows are kept as they came, and once more centred, rotated and cut in blocks. The scan adds up
    the distance a few dimensions at a time on the blocks and drops a candidate as soon as it
    cannot reach the k-th best; those that are left are scored on the original row. With
    ``eps0=inf`` a candidate is dropped only if rounding cannot be the reason, so that the answer
    is that of brute force, bit for bit; a finite `eps0` drops by the statistical test of
    ADSampling (2.1: recall about 0.999) and is faster.

    Parameters
    ----------
    dim : int
        Dimension of the vectors.
    metric : {"l2", "ip", "cosine"}, default "l2"
        Squared L2 distance; inner product, reported negated; or cosine, reported as 1 - cos, with
        cos = 0 for a zero vector. Smaller is nearer for all of them.
    seed : int, default 0
        Seed of the rotation. It never changes an exact answer.
    kernels : str or Kernels, optional
        Kernel set, see `lanewise.kernels.get`. It never changes an answer.
    n_threads : int, optional
        Default for the methods; by default all CPUs that the process may use. It never changes an
        answer.

    Notes
    -----
    Gao & Long, "High-dimensional approximate nearest neighbor search: with reliable and efficient
    distance comparison operations", SIGMOD 2023. The inner product is searched as an L2 distance
    with a bound of its own for each candidate: q.x > t exactly if |q - x|^2 < |q|^2 + |x|^2 - 2t.

    Where a row is hardly longer than `delta`, reading it is cheaper than pruning, and `eps0` makes
    no difference.

    Vectors are stored as float32. Their length is limited to about 6.5e18, so that no distance
    overflows.

    Examples
    --------
    >>> import numpy as np
    >>> import lanewise as lw
    >>> X = np.random.default_rng(0).standard_normal((1000, 64), dtype=np.float32)
    >>> index = lw.Flat(64).add(X)
    >>> distances, ids = index.search(X[:2], k=3)
    >>> ids[:, 0].tolist(), distances[:, 0].tolist()
    ([0, 1], [0.0, 0.0])
    """

    def __init__(
        self,
        dim: int,
        metric: str = "l2",
        *,
        seed: int = 0,
        kernels: str | Kernels | None = None,
        n_threads: int | None = None,
    ) -> None:
        self._rows = Rows(dim, metric, seed, kernels, n_threads)

    def add(self, X: Any, *, n_threads: int | None = None) -> Self:
        """Add vectors; they get the next row numbers as ids.

        Parameters
        ----------
        X : array-like of shape (n, dim)
            float32, float16, uint8, int8 and others that `lanewise.arrays.as_matrix` takes.
        n_threads : int, optional

        Returns
        -------
        Flat
            Itself. A search that runs meanwhile sees either all of `X` or nothing of it.

        Raises
        ------
        ValueError, TypeError
            If `X` is no such matrix, holds NaN or infinities, or too long vectors. Nothing is
            added then.
        """
        self._rows.append(X, n_threads)
        return self

    def search(
        self,
        queries: Any,
        k: int = 10,
        *,
        eps0: float = math.inf,
        delta: int = 32,
        n_threads: int | None = None,
    ) -> SearchResult:
        """Find the k nearest rows of each query.

        Parameters
        ----------
        queries : array-like of shape (n_queries, dim) or (dim,)
        k : int, default 10
            More than there are rows is filled up with id -1 and distance inf.
        eps0 : float, default inf
            How unlikely a wrongly dropped neighbour must be, in standard deviations of the
            estimate; inf for never.
        delta : int, default 32
            Dimensions added up between two looks at the bound.
        n_threads : int, optional

        Returns
        -------
        SearchResult
            Shapes (n_queries, k). `stats` holds one number a query: ``candidates`` rows looked at,
            ``dimensions`` added up for them in all, ``settled`` rows scored exactly.

        Raises
        ------
        ValueError, TypeError
            If an argument is out of its range, or `queries` holds NaN or infinities.

        Examples
        --------
        >>> import lanewise as lw
        >>> index = lw.Flat(2, metric="ip").add([[1.0, 0.0], [0.0, 2.0]])
        >>> index.search([1.0, 1.0], k=2).distances.tolist()
        [[-2.0, -1.0]]
        """
        Q = self._rows.as_canonical_queries(queries)
        return self._rows.search(Q, k, probes=None, eps0=eps0, delta=delta, n_threads=n_threads)

    def score(
        self, queries: Any, ids: Any, *, n_threads: int | None = None
    ) -> npt.NDArray[np.float32]:
        """Score named rows exactly.

        Parameters
        ----------
        queries : array-like of shape (n_queries, dim) or (dim,)
        ids : array-like of int, shape (n_queries, m) or (m,)
            Row numbers for each query; -1 means none.
        n_threads : int, optional

        Returns
        -------
        ndarray of float32, shape (n_queries, m)
            Distances, bit for bit those that `search` reports; inf where the id is -1.

        Raises
        ------
        ValueError, TypeError
            If an id is out of range, or the shapes do not fit.

        Examples
        --------
        >>> import lanewise as lw
        >>> lw.Flat(1).add([[1.0], [5.0]]).score([2.0], [1, 0, -1]).tolist()
        [[9.0, 1.0, inf]]
        """
        return self._rows.score(queries, ids, n_threads)

    def pool(
        self, queries: Any, k_pool: int, *, n_threads: int | None = None
    ) -> npt.NDArray[np.int64]:
        """Return the ids of the k_pool nearest rows in rank order, for `lanewise.LaneSearch`.

        Parameters and errors are those of `search`; the shape is (n_queries, k_pool).
        """
        return self.search(queries, k_pool, n_threads=n_threads).ids

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return self._rows.dim

    @property
    def metric(self) -> str:
        """Name of the metric."""
        return self._rows.metric

    @property
    def rows(self) -> npt.NDArray[np.float32]:
        """Read-only view of the rows that answers are settled on, normalised for the cosine."""
        view = self._rows.snapshot.rows.view()
        view.flags.writeable = False
        return view

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays that the index holds."""
        return self._rows.nbytes

    def __len__(self) -> int:
        return self._rows.snapshot.n

    def __repr__(self) -> str:
        return f"Flat(dim={self.dim}, metric={self.metric!r}, n={len(self)})"
