"""Inverted lists of product codes: a small first pass, and exact scores for its best."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lanewise import _native
from lanewise.kernels import Kernels
from lanewise.lists import Lists
from lanewise.pq import ProductPlan, ProductPlanes, ProductQuantizer
from lanewise.progress import Progress, reporting
from lanewise.result import SearchResult
from lanewise.store import Rows

__all__ = ["IVFPQ"]


class IVFPQ(Lists):
    """Inverted file of product codes: rows in cells, of which a search reads a few bits each.

    A search estimates the distances of all rows in the probed cells from their codes, and scores
    the `rerank` most promising exactly on the rows. Nothing is certain about the estimates: more
    cells and more candidates find more neighbours, all of both find all.

    Parameters
    ----------
    dim : int
    n_lists : int
        Cells; about the square root of the number of rows is a good start.
    metric : {"l2", "ip", "cosine"}, default "l2"
        As for `IVF`.
    n_subspaces : int, optional
        Codes of a row. It must divide `dim`; by default the largest divisor of at most half of it.
    n_bits : {4, 8}, default 4
        Bits of a code. At equal memory (half as many of them) eight find more; in batches they
        cost the same, a query alone takes twice as long.
    by_residual : bool, default True
        Whether codes are of what a row has beyond the centroid of its cell, or beyond the mean.
    rotation : {None, "opq"}, default None
        As for `ProductQuantizer`.
    n_probe : int, default 8
        Cells that a search probes if it does not say.
    train_iterations : int, default 20
        Of k-means for the cells.
    code_iterations : int, default 25
        Of k-means for the code words.
    seed : int, default 0
        Of both starts.
    kernels : str or Kernels, optional
    n_threads : int, optional

    Notes
    -----
    Jegou, Douze & Schmid, "Product quantization for nearest neighbor search", TPAMI 2011; Andre,
    Kermarrec & Le Scouarnec, "Cache locality is not enough: high-performance nearest neighbor
    search with product quantization fast scan", VLDB 2015, for tables in registers. Estimates are
    made unbiased as in Gao & Long, "RaBitQ", SIGMOD 2024; see docs/design/pq.md.

    Beside its codes a row takes eight bytes, and its float row, which may stay on the disk:
    ``load(path, mmap=True)``.

    Examples
    --------
    >>> import numpy as np
    >>> import lanewise as lw
    >>> X = np.random.default_rng(0).standard_normal((1000, 16), dtype=np.float32)
    >>> index = lw.IVFPQ(16, n_lists=30).train(X).add(X)
    >>> index.search(X[:2], k=1, n_probe=4).ids.tolist()
    [[0], [1]]
    """

    _KIND = "ivfpq"
    _SETTINGS = (
        "n_lists",
        "n_probe",
        "train_iterations",
        "seed",
        "n_subspaces",
        "n_bits",
        "by_residual",
        "rotation",
        "code_iterations",
    )

    def __init__(
        self,
        dim: int,
        n_lists: int,
        metric: str = "l2",
        *,
        n_subspaces: int | None = None,
        n_bits: int = 4,
        by_residual: bool = True,
        rotation: str | None = None,
        n_probe: int = 8,
        train_iterations: int = 20,
        code_iterations: int = 25,
        seed: int = 0,
        kernels: str | Kernels | None = None,
        n_threads: int | None = None,
    ) -> None:
        rows = Rows(dim, metric, "pq", None, seed, kernels, n_threads, products=ProductPlanes())
        super().__init__(rows, n_lists, n_probe, train_iterations, seed)
        if not isinstance(by_residual, bool):
            raise TypeError(f"by_residual: expected True or False, got {by_residual!r}")
        if n_subspaces is None:
            n_subspaces = next(m for m in range(max(rows.dim // 2, 1), 0, -1) if rows.dim % m == 0)
        self.by_residual = by_residual
        self._quantizer = ProductQuantizer(
            dim,
            n_subspaces,
            n_bits,
            rotation=rotation,
            train_iterations=code_iterations,
            seed=seed,
            kernels=rows.kernels,
            n_threads=n_threads,
        )

    def train(self, X: Any, *, progress: bool | Progress = False) -> Self:
        """Find the cells and the code words.

        Parameters
        ----------
        X : array-like of shape (n, dim), n >= n_lists and n >= 2**n_bits
            A sample of the rows, or all of them.
        progress : bool or callable, default False
            As for `KMeans.fit`, with one step more, "code words".

        Returns
        -------
        IVFPQ
            Itself.

        Raises
        ------
        ValueError, TypeError
            If `X` does not fit, or the index already holds rows.
        ImportError
            As from `KMeans.fit`.
        """
        self._check_empty()
        rows, _ = self._rows.as_rows(X, "X")
        self._quantizer.check_enough(rows)
        with reporting(progress, "IVFPQ.train") as report:
            kmeans = self._untrained().fit(rows, progress=report)
            report("code words", 0, 1)
            center = np.empty(self.dim, dtype=np.float32)
            _native.mean(rows, center)
            centroids = kmeans.cluster_centers_
            if self.by_residual:
                residuals = centroids[kmeans.labels_]
                np.subtract(rows, residuals, out=residuals)
            else:
                residuals = rows - center
            quantizer = self._quantizer.train_on(residuals)
            report("code words", 1, 1)
        plan = ProductPlan(quantizer.words, quantizer.axes, center, centroids, self.by_residual)
        empty, model = self._rows.emptied(ProductPlanes(plan)), self._model(centroids)
        self._rows, self._kmeans = empty, model
        return self

    def search(
        self,
        queries: Any,
        k: int = 10,
        *,
        n_probe: int | None = None,
        rerank: int | None = None,
        filter: Any = None,
        eps0: float = math.inf,
        n_threads: int | None = None,
    ) -> SearchResult:
        """Find near rows in the cells nearest to each query.

        Parameters
        ----------
        queries : array-like of shape (n_queries, dim) or (dim,)
        k : int, default 10
        n_probe : int, optional
            Cells to probe.
        rerank : int, optional
            Rows, the most promising by their codes, that are scored exactly; at least k, by default
            10 k. With 0 no row is read, and distances are the estimates of the codes: a first stage
            for a dearer one.
        filter
            As for `Flat.search`.
        eps0 : float, default inf
            Of those rows, leave out what is so many standard deviations of its estimate beyond the
            k-th best so far: 2 to 4 save most of the scores and lose next to nothing.
        n_threads : int, optional

        Returns
        -------
        SearchResult
            As from `Flat.search`: distances are exact, unless `rerank` is 0; neighbours may be
            missing.

        Raises
        ------
        ValueError, TypeError
            If the index is not trained, or an argument is out of its range.
        """
        self._trained()
        return self._rows.search(
            self._rows.as_canonical_queries(queries),
            k,
            n_probe=self._as_n_probe(n_probe),
            filter=filter,
            eps0=eps0,
            rerank=rerank,
            n_threads=n_threads,
        )

    def pool(
        self,
        queries: Any,
        k_pool: int,
        *,
        n_probe: int | None = None,
        rerank: int | None = None,
        n_threads: int | None = None,
    ) -> npt.NDArray[np.int64]:
        """Return the ids of the k_pool nearest rows found, in rank order, for `LaneSearch`.

        Parameters and errors are those of `search`; the shape is (n_queries, k_pool).
        """
        return self.search(queries, k_pool, n_probe=n_probe, rerank=rerank, n_threads=n_threads).ids

    def _check_restored(self) -> None:
        planes = self._rows.snapshot.state.planes
        plan = planes.plan if isinstance(planes, ProductPlanes) else None
        if (plan is None) != (self._kmeans is None):
            raise ValueError("centroids: expected those of the lists, and code words for them")
        if plan is None:
            return
        shape = (self.n_subspaces, 2**self.n_bits, self.dim // self.n_subspaces)
        if plan.words.shape != shape:
            raise ValueError(f"words: expected shape {shape}, got {plan.words.shape}")
        if plan.rotation != self.rotation or plan.by_residual != self.by_residual:
            raise ValueError("words: expected what rotation and by_residual say")
        if not np.array_equal(plan.centroids, self.centroids):
            raise ValueError("centroids: expected the same for the lists and for the code words")

    @property
    def n_subspaces(self) -> int:
        """Codes of a row."""
        return self._quantizer.n_subspaces

    @property
    def n_bits(self) -> int:
        """Bits of a code."""
        return self._quantizer.n_bits

    @property
    def rotation(self) -> str | None:
        """Name of the learned rotation."""
        return self._quantizer.rotation

    @property
    def code_iterations(self) -> int:
        """Iterations of k-means for the code words."""
        return self._quantizer.train_iterations
