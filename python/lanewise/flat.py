"""Exact search over all rows, and its early-terminated relatives."""

from __future__ import annotations

import math
from os import PathLike
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lanewise import io
from lanewise.arrays import Numbers
from lanewise.kernels import Kernels
from lanewise.progress import Progress, reporting
from lanewise.result import RangeResult, SearchResult
from lanewise.store import Rows

__all__ = ["Flat"]

_KIND = "flat"


class Flat:
    """Nearest neighbours by scanning every row: exact by default, with a dial below it.

    Rows are kept as they came, to settle answers, and once more in planes that are fast to scan.
    The scan drops a candidate as soon as it cannot reach the k-th best; those that are left are
    scored on the original row. With ``eps0=inf`` a candidate is dropped only by proof, rounding
    included, so that the answer is that of brute force, bit for bit, whatever the planes.

    Parameters
    ----------
    dim : int
        Dimension of the vectors.
    metric : {"l2", "ip", "cosine"}, default "l2"
        Squared L2 distance; inner product, reported negated; or cosine, reported as 1 - cos, with
        cos = 0 for a zero vector. Smaller is nearer for all of them.
    storage : {"auto", "sq8", "sq4", "f32", "binary", "binary2", "binary4"}, default "auto"
        What the planes hold. "sq8": one byte a dimension, with bounds on what the bytes do not
        say; the default, up to 65,536 dimensions. "sq4": half a byte for all dimensions but the
        first, which takes less memory and settles more rows. "f32": randomly rotated floats, for
        which `eps0` is the dial of ADSampling. "binary": a bit a dimension, which estimates
        distances without a guarantee; see `rerank` of `search`. "binary2" and "binary4": the same,
        and codes of 2 or 4 bits a dimension, which the most promising are estimated by once more.
    rotation : {"auto", "pca", None, "fwht"}, default "auto"
        Axes of the planes. For codes principal axes, which let a scan stop early where some
        directions vary more than others, or the coordinates as they are; "auto" measures on a
        sample. "f32" has its random rotation ("fwht"), "binary" has it behind principal axes or
        alone.
    seed : int, default 0
        Seed of the random rotation. It never changes an exact answer.
    kernels : str or Kernels, optional
        Kernel set, see `lanewise.kernels.get`. It never changes an answer.
    n_threads : int, optional
        Default for the methods; by default all CPUs that the process may use. It never changes an
        answer.

    Notes
    -----
    "sq8": for a row x with codes c, residual r and unread tail t, and a query q,
    <q, x> <= <q, c> + |q| |r| + |q_t| |x_t| by Cauchy-Schwarz; see docs/design/codes.md.

    "f32": Gao & Long, "High-dimensional approximate nearest neighbor search: with reliable and
    efficient distance comparison operations", SIGMOD 2023. The inner product is searched as an L2
    distance with a bound of its own for each candidate: q.x > t exactly if
    |q - x|^2 < |q|^2 + |x|^2 - 2t. Where a row is hardly longer than `delta`, reading it is
    cheaper than pruning, and `eps0` makes no difference.

    Vectors are stored as float32, or in a quarter of that as uint8 or int8, see `add`. Their length
    is limited to about 6.5e18, so that no distance overflows.

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
        storage: str = "auto",
        rotation: str | None = "auto",
        seed: int = 0,
        kernels: str | Kernels | None = None,
        n_threads: int | None = None,
    ) -> None:
        self._rows = Rows(dim, metric, storage, rotation, seed, kernels, n_threads)

    def add(
        self,
        X: Any,
        ids: Any = None,
        *,
        progress: bool | Progress = False,
        n_threads: int | None = None,
    ) -> Self:
        """Add vectors.

        Parameters
        ----------
        X : array-like of shape (n, dim)
            float32, float16, uint8, int8 and others that `lanewise.arrays.as_matrix` takes. Rows of
            uint8 or int8 are kept as such, for "l2" and "ip", as long as all rows are of that one
            type; once others are added, all are kept as float32. It never changes an answer.
        ids : array-like of int, shape (n,), optional
            Ids of the vectors, not negative, none twice and none in the index already. By default
            they count on from the largest id so far, beginning at 0.
        progress : bool or callable, default False
            True shows bars on a terminal while planes are learned and filled; it needs rich. Or a
            function that is called with what is being done, the steps done and the steps in all.
            It may ask the index, but not change it; what it raises ends the call.
        n_threads : int, optional

        Returns
        -------
        Flat
            Itself. A search that runs meanwhile sees either all of `X` or nothing of it.

        Raises
        ------
        ValueError, TypeError
            If `X` is no such matrix, holds NaN or infinities, or too long vectors; if `ids` do not
            fit. Nothing is added then.
        ImportError
            If bars need rich and it is not installed.

        Examples
        --------
        >>> import numpy as np
        >>> import lanewise as lw
        >>> index = lw.Flat(2).add(np.array([[0, 255]], dtype=np.uint8))
        >>> index.rows.dtype, index.add([[0.5, 1.5]]).rows.dtype
        (dtype('uint8'), dtype('float32'))
        """
        with reporting(progress, "Flat.add") as report:
            self._rows.append(X, ids, n_threads, report)
        return self

    def remove(self, ids: Any, *, n_threads: int | None = None) -> Self:
        """Remove vectors.

        Parameters
        ----------
        ids : array-like of int, shape (n,)
        n_threads : int, optional

        Returns
        -------
        Flat
            Itself. A search that runs meanwhile sees all of the vectors or none of them.

        Raises
        ------
        ValueError, TypeError
            If one is not in the index. Nothing is removed then.

        Examples
        --------
        >>> import lanewise as lw
        >>> index = lw.Flat(1).add([[1.0], [2.0], [3.0]]).remove([1])
        >>> index.search([2.0], k=3).ids.tolist()
        [[0, 2, -1]]
        """
        self._rows.remove(ids, n_threads)
        return self

    def search(
        self,
        queries: Any,
        k: int = 10,
        *,
        filter: Any = None,
        eps0: float = math.inf,
        delta: int = 32,
        rerank: int | None = None,
        n_threads: int | None = None,
    ) -> SearchResult:
        """Find the k nearest rows of each query.

        Parameters
        ----------
        queries : array-like of shape (n_queries, dim) or (dim,)
        k : int, default 10
            More than there are rows is filled up with id -1 and distance inf.
        filter : array-like, optional
            Which rows may be answered: booleans of shape (len(self),) in the order of `ids`, the
            same packed by ``numpy.packbits(..., bitorder="little")`` as uint8, or a list of ids.
        eps0 : float, default inf
            How unlikely a wrongly dropped neighbour must be, in standard deviations of the
            estimate; inf for never.
        delta : int, default 32
            Dimensions added up between two looks at the bound; for "f32" only, "sq8" has steps of
            its own.
        rerank : int, optional
            For storage "binary", "binary2" and "binary4": rows, the most promising by their bits or
            finer codes, that are scored exactly; at least k. By default at least 10 k and at least
            as many as a model of the rows expects to hold the ten nearest. All rows that there are
            make the answer exact. A finite `eps0` leaves out those among them that are so many
            standard deviations of their estimate beyond the k-th best.
        n_threads : int, optional

        Returns
        -------
        SearchResult
            Shapes (n_queries, k). `stats` holds one number a query: ``candidates`` rows looked at,
            ``dimensions`` added up for them in all, ``settled`` rows scored exactly. An exact batch
            adds up more dimensions than its queries alone would, because it reads them at once.

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
        return self._rows.search(
            Q,
            k,
            probes=None,
            filter=filter,
            eps0=eps0,
            delta=delta,
            n_threads=n_threads,
            rerank=rerank,
        )

    def range_search(
        self,
        queries: Any,
        radius: float,
        *,
        filter: Any = None,
        eps0: float = math.inf,
        delta: int = 32,
        n_threads: int | None = None,
    ) -> RangeResult:
        """Find all rows whose distance is at most the radius.

        Parameters
        ----------
        queries : array-like of shape (n_queries, dim) or (dim,)
        radius : float
            In the distances that `search` reports: squared for L2, negated for inner products.
        filter, eps0, delta, n_threads
            As for `search`.

        Returns
        -------
        RangeResult

        Raises
        ------
        ValueError, TypeError
            As from `search`, or if `radius` is NaN.
        """
        Q = self._rows.as_canonical_queries(queries)
        return self._rows.within(
            Q, radius, filter=filter, eps0=eps0, delta=delta, n_threads=n_threads
        )

    def score(
        self, queries: Any, ids: Any, *, n_threads: int | None = None
    ) -> npt.NDArray[np.float32]:
        """Score named rows exactly.

        Parameters
        ----------
        queries : array-like of shape (n_queries, dim) or (dim,)
        ids : array-like of int, shape (n_queries, m) or (m,)
            Ids for each query; -1 means none.
        n_threads : int, optional

        Returns
        -------
        ndarray of float32, shape (n_queries, m)
            Distances, bit for bit those that `search` reports; inf where the id is -1.

        Raises
        ------
        ValueError, TypeError
            If an id is not in the index, or the shapes do not fit.

        Examples
        --------
        >>> import lanewise as lw
        >>> lw.Flat(1).add([[1.0], [5.0]]).score([2.0], [1, 0, -1]).tolist()
        [[9.0, 1.0, inf]]
        """
        return self._rows.score(queries, ids, n_threads)

    def rescore(
        self, queries: Any, ids: Any, k: int = 10, *, n_threads: int | None = None
    ) -> SearchResult:
        """Find the k nearest among named rows: the second tier behind any first one.

        Parameters
        ----------
        queries : array-like of shape (n_queries, dim) or (dim,)
        ids : array-like of int, shape (n_queries, m) or (m,)
            Candidates for each query, best guess first; -1 means none, and one that is named twice
            counts once.
        k : int, default 10
        n_threads : int, optional

        Returns
        -------
        SearchResult
            Shapes (n_queries, k). For L2 a float row is read only as far as it takes to see that it
            is none of them; the answer is that of `score` and a sort, bit for bit.

        Raises
        ------
        ValueError, TypeError
            If an id is not in the index, or the shapes do not fit.

        Examples
        --------
        >>> import lanewise as lw
        >>> index = lw.Flat(1).add([[1.0], [5.0], [9.0]])
        >>> index.rescore([6.0], [0, 2], k=1).ids.tolist()
        [[2]]
        """
        return self._rows.rescore(queries, ids, k, n_threads)

    def pool(
        self, queries: Any, k_pool: int, *, n_threads: int | None = None
    ) -> npt.NDArray[np.int64]:
        """Return the ids of the k_pool nearest rows in rank order, for `lanewise.LaneSearch`.

        Parameters and errors are those of `search`; the shape is (n_queries, k_pool).
        """
        return self.search(queries, k_pool, n_threads=n_threads).ids

    def save(self, path: str | PathLike[str]) -> None:
        """Save the index to a file, whole or not at all.

        Parameters
        ----------
        path : path-like
            An existing file is replaced once the new one is complete and on the disk.

        Raises
        ------
        OSError
            If it cannot be written; what was there before is still there then.

        Examples
        --------
        >>> import lanewise as lw
        >>> import tempfile, pathlib
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "index.lw"
        ...     lw.Flat(1).add([[1.0], [5.0]]).save(path)
        ...     lw.Flat.load(path).search([4.0], k=1).ids.tolist()
        [[1]]
        """
        io.write(path, _KIND, *self._rows.arrays())

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        *,
        mmap: bool = False,
        verify: bool = True,
        kernels: str | Kernels | None = None,
        n_threads: int | None = None,
    ) -> Self:
        """Load an index that `save` wrote.

        Parameters
        ----------
        path : path-like
        mmap : bool, default False
            Leave the rows on the disk: a search reads those that it settles. The planes are read
            into memory. What is added later makes a copy of the rows in memory.
        verify : bool, default True
            Whether to check mapped rows against their checksum, which reads them once. Everything
            else is always checked.
        kernels, n_threads
            As for `Flat`.

        Returns
        -------
        Flat

        Raises
        ------
        OSError
            If the file cannot be read.
        lanewise.io.FileFormatError
            If it is no such file, from a newer version, truncated or corrupted.
        """
        header, arrays = io.read(path, _KIND, mmap=("rows",) if mmap else (), verify=verify)
        index = cls.__new__(cls)
        with io.expecting(path, cls.__name__):
            index._rows = Rows.restored(header, arrays, kernels=kernels, n_threads=n_threads)
        return index

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return self._rows.dim

    @property
    def metric(self) -> str:
        """Name of the metric."""
        return self._rows.metric

    @property
    def storage(self) -> str:
        """What the planes hold."""
        return self._rows.storage

    @property
    def rotation(self) -> str | None:
        """Axes of the planes."""
        return self._rows.snapshot.state.planes.rotation

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """Ids of all vectors, in the order in which they were added."""
        return self._rows.ids

    @property
    def rows(self) -> Numbers:
        """The rows that answers are settled on, in the order of `ids`; normalised for the cosine.

        float32, or the uint8 or int8 that `add` kept. Read-only; a view unless vectors were
        removed.
        """
        snapshot = self._rows.snapshot
        live = snapshot.state.live
        view = snapshot.rows.view() if live is None else snapshot.rows[live]
        view.flags.writeable = False
        return view

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays that the index holds, rows on the disk included."""
        return self._rows.nbytes

    @property
    def hot_bytes(self) -> int:
        """Bytes that searches scan: all but the rows, which may lie on the disk."""
        return self._rows.hot_bytes

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"Flat(dim={self.dim}, metric={self.metric!r}, n={len(self)})"
