"""Product quantisation: vectors as the code words of their sub-vectors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lanewise import _native, draws
from lanewise.arrays import Numbers, as_matrix, as_ndarray, check_int
from lanewise.canonical import check_lengths
from lanewise.coding import packed
from lanewise.kernels import Kernels, get
from lanewise.planes import Arrays, Floats, LearnedPlanes
from lanewise.threads import resolve_threads

__all__ = ["ProductPlan", "ProductPlanes", "ProductQuantizer"]

Codes = npt.NDArray[np.uint8]

_MAX_OPQ_DIM = 4_096
# A rotation is learned on so many vectors, in so many turns of a few iterations each.
_OPQ_SAMPLE, _OPQ_TURNS, _OPQ_ITERATIONS = 16_384, 12, 3


class ProductQuantizer:
    """Vectors cut into sub-vectors, each replaced by the number of the nearest of a few code words.

    The same data and seed give the same code words and codes, bit for bit, on every instruction set
    and for any number of threads; see `rotation` for what is different there.

    Parameters
    ----------
    dim : int
    n_subspaces : int
        Sub-vectors of a vector. It must divide `dim`: which dimensions are padded, and with what,
        is better decided by who knows them.
    n_bits : {8, 4}, default 8
        Bits of a code: 256 or 16 code words for each sub-space.
    rotation : {None, "opq"}, default None
        "opq" learns a rotation that makes the quantisation error small before vectors are cut. It
        comes from LAPACK, which may find another one on another machine; a given one gives the same
        codes everywhere.
    train_iterations : int, default 25
        Of Lloyd's algorithm, at most.
    seed : int, default 0
        Of the vectors that code words start from.
    kernels : str or Kernels, optional
        Kernel set, see `lanewise.kernels.get`.
    n_threads : int, optional

    Attributes
    ----------
    words : ndarray of float32, shape (n_subspaces, 2**n_bits, dim // n_subspaces)
        Code words, after `train`.
    axes : ndarray of float32, shape (dim, dim), or None
        The learned rotation, one axis a row.

    Notes
    -----
    Jegou, Douze & Schmid, "Product quantization for nearest neighbor search", TPAMI 2011; Ge, He,
    Ke & Sun, "Optimized product quantization", CVPR 2013.

    A code word is the argmax of x.w - |w|^2 / 2 in float32, about the mean of a sub-space's words:
    of two that are nearest within rounding either may be taken, but always the same one.

    Examples
    --------
    >>> import numpy as np
    >>> import lanewise as lw
    >>> X = np.random.default_rng(0).standard_normal((1000, 16), dtype=np.float32)
    >>> quantizer = lw.ProductQuantizer(16, 8, n_bits=4).train(X)
    >>> codes = quantizer.encode(X)
    >>> codes.shape, codes.dtype, float(((quantizer.decode(codes) - X) ** 2).mean()) < 0.2
    ((1000, 8), dtype('uint8'), True)
    """

    words: Floats
    axes: Floats | None

    def __init__(
        self,
        dim: int,
        n_subspaces: int,
        n_bits: int = 8,
        *,
        rotation: str | None = None,
        train_iterations: int = 25,
        seed: int = 0,
        kernels: str | Kernels | None = None,
        n_threads: int | None = None,
    ) -> None:
        self.dim = check_int(dim, "dim", low=1, high=65_536)
        self.n_subspaces = check_int(n_subspaces, "n_subspaces", low=1, high=self.dim)
        if self.dim % self.n_subspaces != 0:
            raise ValueError(
                f"n_subspaces: expected a divisor of dim = {self.dim}, got {self.n_subspaces}"
            )
        self.n_bits = check_int(n_bits, "n_bits")
        if self.n_bits not in (4, 8):
            raise ValueError(f"n_bits: expected 8 or 4, got {n_bits}")
        if rotation not in (None, "opq"):
            raise ValueError(f"rotation: expected None or 'opq', got {rotation!r}")
        if rotation == "opq" and self.dim > _MAX_OPQ_DIM:
            raise ValueError(f"rotation: 'opq' takes at most {_MAX_OPQ_DIM} dimensions, got {dim}")
        self.rotation = rotation
        self.train_iterations = check_int(train_iterations, "train_iterations", low=1)
        self.seed = check_int(seed, "seed", low=0, high=2**64 - 1)
        self.kernels = get(kernels)
        self.n_threads = n_threads
        resolve_threads(n_threads)

    def train(self, X: Any) -> Self:
        """Find the code words, and the rotation if there is to be one.

        Parameters
        ----------
        X : array-like of shape (n, dim), n >= 2**n_bits

        Returns
        -------
        ProductQuantizer
            Itself.

        Raises
        ------
        ValueError, TypeError
            If `X` does not fit, or holds NaN or infinities.
        """
        rows = self._rows(X)
        self.check_enough(rows)
        return self.train_on(rows)

    def train_on(self, rows: Floats) -> Self:
        """Train on enough rows that need no check: residuals may be longer than vectors may."""
        n_words = 2**self.n_bits
        threads = resolve_threads(self.n_threads)
        axes = None
        if self.rotation == "opq":
            axes = self._learned_axes(rows, threads)
            rows = rows @ axes.T
        first = draws.permutation(self.seed, "pq", len(rows))[:n_words]
        words = self._cut(rows[first])
        _native.train_words(self.kernels, rows, words, self.train_iterations, threads)
        self._take(words, axes)
        return self

    def check_enough(self, rows: Floats) -> None:
        """Raise ValueError unless there is a row for each code word to start from."""
        if len(rows) < 2**self.n_bits:
            raise ValueError(
                f"X: expected at least {2**self.n_bits} rows, one for each code word, "
                f"got {len(rows)}"
            )

    def encode(self, X: Any) -> Codes:
        """Return the codes of vectors.

        Parameters
        ----------
        X : array-like of shape (n, dim)

        Returns
        -------
        ndarray of uint8, shape (n, n_subspaces)
            Numbers of code words; one a byte, also where they have but four bits.

        Raises
        ------
        ValueError, TypeError
            If the quantiser is not trained, or `X` does not fit.
        """
        native = self._trained()
        rows = self._rows(X)
        codes = np.empty((len(rows), self.n_subspaces), dtype=np.uint8)
        native.encode(self.kernels, rows, codes, resolve_threads(self.n_threads))
        return codes

    def decode(self, codes: Any) -> Floats:
        """Return the vectors that codes stand for.

        Parameters
        ----------
        codes : array-like of uint8, shape (n, n_subspaces)

        Returns
        -------
        ndarray of float32, shape (n, dim)
            Bit for bit the same everywhere unless there is a rotation, which NumPy undoes.

        Raises
        ------
        ValueError, TypeError
            If the quantiser is not trained, or `codes` are none of its own.
        """
        self._trained()
        given = as_ndarray(codes, "codes")
        if given.dtype != np.uint8:
            raise TypeError(f"codes: expected uint8, got {given.dtype}")
        if given.ndim != 2 or given.shape[1] != self.n_subspaces:
            raise ValueError(
                f"codes: expected shape (n, n_subspaces = {self.n_subspaces}), got {given.shape}"
            )
        if given.size > 0 and int(given.max()) >= 2**self.n_bits:
            raise ValueError(f"codes: expected codes of {self.n_bits} bits, got {given.max()}")
        decoded: Floats = self.words[np.arange(self.n_subspaces), given].reshape(-1, self.dim)
        return decoded if self.axes is None else decoded @ self.axes

    def _rows(self, X: Any) -> Floats:
        rows = as_matrix(X, "X", dim=self.dim)
        check_lengths(rows, "X")
        return rows

    def _cut(self, rows: Floats) -> Floats:
        """Return the sub-vectors of rows, sub-space by sub-space."""
        return np.ascontiguousarray(
            rows.reshape(len(rows), self.n_subspaces, -1).transpose(1, 0, 2), dtype=np.float32
        )

    def _learned_axes(self, rows: Floats, threads: int) -> Floats:
        """Alternate between code words for an axes system, and the best system for the codes."""
        order = draws.permutation(self.seed, "pq", len(rows))
        sample = rows[order[: max(_OPQ_SAMPLE, 2**self.n_bits)]]
        axes = np.eye(self.dim, dtype=np.float32)
        words = self._cut(sample[: 2**self.n_bits])
        codes = np.empty((len(sample), self.n_subspaces), dtype=np.uint8)
        for _ in range(_OPQ_TURNS):
            turned = sample @ axes.T
            _native.train_words(self.kernels, turned, words, _OPQ_ITERATIONS, threads)
            _native.Words(words, None).encode(self.kernels, turned, codes, threads)
            decoded = words[np.arange(self.n_subspaces), codes].reshape(-1, self.dim)
            # The rotation that brings the sample nearest to what it was decoded as (Procrustes).
            left, _, right = np.linalg.svd(decoded.astype(np.float64).T @ sample)
            axes = np.ascontiguousarray(left @ right, dtype=np.float32)
        return axes

    def _take(self, words: Floats, axes: Floats | None) -> None:
        """Become trained with these."""
        self.words, self.axes = words, axes
        self._native = _native.Words(words, None if axes is None else packed(axes))

    def _trained(self) -> _native.Words:
        if not hasattr(self, "words"):
            raise ValueError("ProductQuantizer: expected a trained quantiser, call train first")
        return self._native

    def __getstate__(self) -> dict[str, Any]:
        left = ("kernels", "_native")
        return {name: value for name, value in self.__dict__.items() if name not in left}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.kernels = get()
        if "words" in state:
            self._take(self.words, self.axes)

    def __repr__(self) -> str:
        return (
            f"ProductQuantizer(dim={self.dim}, n_subspaces={self.n_subspaces}, "
            f"n_bits={self.n_bits})"
        )


@dataclass(frozen=True, eq=False)
class ProductPlan:
    """What rows in lists are coded by.

    Attributes
    ----------
    words : ndarray of float32, shape (n_subspaces, 16 or 256, dim // n_subspaces)
    axes : ndarray of float32, shape (dim, dim), or None
    center : ndarray of float32, shape (dim,)
        From which queries are seen.
    centroids : ndarray of float32, shape (n_lists, dim)
    by_residual : bool
        Whether words are of what a row has beyond the centroid of its list, or beyond the centre.
    """

    words: Floats
    axes: Floats | None
    center: Floats
    centroids: Floats
    by_residual: bool

    def arrays(self) -> Arrays:
        """Return what `restored` needs."""
        arrays: Arrays = {
            "words": self.words,
            "center": self.center,
            "centroids": self.centroids,
            "by_residual": np.array([self.by_residual], dtype=np.uint8),
        }
        return arrays if self.axes is None else {**arrays, "axes": self.axes}

    @classmethod
    def restored(cls, arrays: Arrays) -> Self:
        """Return the plan in arrays from outside; ValueError or KeyError if there is none."""
        found: dict[str, Floats] = {}
        for name in ("words", "center", "centroids", "axes"):
            if name == "axes" and name not in arrays:
                continue
            array = arrays[name]
            if array.dtype != np.float32 or not np.isfinite(array).all():
                raise ValueError(f"{name}: expected finite float32")
            found[name] = np.ascontiguousarray(array)
            if name in ("center", "centroids"):
                check_lengths(np.atleast_2d(found[name]), name)
        plan = cls(
            found["words"],
            found.get("axes"),
            found["center"],
            found["centroids"],
            bool(arrays["by_residual"][0]),
        )
        dim = plan.center.size
        if plan.axes is not None and plan.axes.shape != (dim, dim):
            raise ValueError(f"axes: expected shape {(dim, dim)}, got {plan.axes.shape}")
        _ = plan.native
        return plan

    @property
    def rotation(self) -> str | None:
        """Name of the axes."""
        return None if self.axes is None else "opq"

    @cached_property
    def native(self) -> _native.ProductPlan:
        """The plan as the drivers take it; ValueError if its shapes do not fit each other."""
        panels = None if self.axes is None else packed(self.axes)
        words = _native.Words(self.words, panels)
        return _native.ProductPlan(get(), words, self.center, self.centroids, self.by_residual)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        axes = 0 if self.axes is None else self.axes.nbytes
        return self.words.nbytes + axes + self.center.nbytes + self.centroids.nbytes


class ProductPlanes(LearnedPlanes[ProductPlan]):
    """Rows as product codes of what they have beyond their centroids.

    Parameters
    ----------
    plan : ProductPlan, optional
        There are no rows without one.
    """

    def __init__(self, plan: ProductPlan | None = None) -> None:
        super().__init__()
        self.plan = plan

    def _shapes(self, positions: int) -> dict[str, tuple[type[Any], tuple[int, ...]]]:
        assert self.plan is not None
        return {
            "codes": (np.uint8, (positions * self.plan.native.n_bytes,)),
            "base": (np.float32, (positions,)),
            "factors": (np.uint16, (positions,)),
            "errors": (np.uint16, (positions,)),
        }

    def fitted(
        self, rows: Numbers, positions: int, kernels: Kernels, threads: int
    ) -> ProductPlanes:
        """See `Planes`: all was learned when the lists were."""
        return ProductPlanes(self.plan).grown(positions)

    def native(self, positions: int) -> _native.Products:
        """See `Planes`."""
        if self.plan is None:
            raise ValueError("planes: expected what the lists were trained to")
        return _native.Products(self.plan.native, *self._planes.values())

    def arrays(self, positions: int) -> Arrays:
        """See `Planes`."""
        if self.plan is None:
            return {}
        planes = self._filled(positions) if self._planes else {}
        return {**planes, **self.plan.arrays()}

    def restored(self, arrays: Arrays) -> ProductPlanes:
        """See `Planes`."""
        new = self.without_rows(arrays)
        return new if new.plan is None or "codes" not in arrays else new._restored(new.plan, arrays)

    @classmethod
    def without_rows(cls, arrays: Arrays) -> Self:
        """Return planes with the plan in arrays from outside, if there is one, and no rows."""
        return cls(ProductPlan.restored(arrays) if "words" in arrays else None)
