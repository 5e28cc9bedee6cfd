"""Random orthogonal rotation by signs and Walsh-Hadamard transforms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from lanewise import _native, draws
from lanewise.arrays import as_matrix, check_finite, check_int
from lanewise.kernels import Kernels, get
from lanewise.threads import resolve_threads

__all__ = ["RandomRotation"]

_ROUNDS = 3
_LANES = 16
_GOLDEN = (math.sqrt(5) - 1) / 2


class RandomRotation:
    """Random rotation of vectors in O(d log d), three rounds of random signs and transforms.

    Lengths, and so distances and inner products, stay as they are up to rounding, while the
    energy of every vector spreads evenly over the coordinates: any few of them then estimate the
    whole. A dimension that is no power of two is not padded: it is cut in its binary digits
    (384 = 256 + 128), each gets a transform of its own, and a fixed permutation mixes them between
    the rounds.

    Parameters
    ----------
    dim : int
        Dimension of the vectors, from 1 to 2**24.
    seed : int, default 0
        Equal seeds give equal rotations, on every machine.
    kernels : str or Kernels, optional
        Kernel set, see `lanewise.kernels.get`.

    Notes
    -----
    Ailon & Chazelle, "The fast Johnson-Lindenstrauss transform" (2009), for signs and Hadamard;
    three rounds as in Andoni et al., "Practical and optimal LSH for angular distance" (2015).

    Examples
    --------
    >>> import numpy as np
    >>> rotation = RandomRotation(100, seed=1)
    >>> x = np.eye(100, dtype=np.float32)[:3]
    >>> y = rotation.transform(x)
    >>> bool(np.allclose(y @ y.T, np.eye(3), atol=1e-5))
    True
    """

    def __init__(self, dim: int, *, seed: int = 0, kernels: str | Kernels | None = None) -> None:
        self.dim = check_int(dim, "dim", low=1, high=2**24)
        self.seed = check_int(seed, "seed", low=0, high=2**64 - 1)
        self._kernels = get(kernels)
        self.chunk, self.stride, self.weights = rotation_plan(self.dim, self.seed)
        self.native = _native.Rotation(self.weights, self.chunk, self.stride)

    def transform(
        self,
        X: Any,
        *,
        out: npt.NDArray[np.float32] | None = None,
        n_threads: int | None = None,
    ) -> npt.NDArray[np.float32]:
        """Rotate vectors.

        Parameters
        ----------
        X : array-like of shape (n, dim)
        out : ndarray of float32, shape (n, dim), optional
            C-contiguous, writable, and apart from `X`: filled and returned. Undefined after an
            error.
        n_threads : int, optional

        Returns
        -------
        ndarray of float32, shape (n, dim)

        Raises
        ------
        ValueError, TypeError
            If `X` is no such matrix, holds NaN, infinities or vectors too long to be rotated, or
            `out` does not fit.
        """
        return self._apply(X, "X", out, n_threads, back=False)

    def inverse_transform(
        self,
        Y: Any,
        *,
        out: npt.NDArray[np.float32] | None = None,
        n_threads: int | None = None,
    ) -> npt.NDArray[np.float32]:
        """Rotate vectors back; parameters and result as for `transform`."""
        return self._apply(Y, "Y", out, n_threads, back=True)

    def _apply(
        self,
        X: Any,
        name: str,
        out: npt.NDArray[np.float32] | None,
        n_threads: int | None,
        *,
        back: bool,
    ) -> npt.NDArray[np.float32]:
        rows = as_matrix(X, name, dim=self.dim, finite=False)
        threads = resolve_threads(n_threads)
        if out is None:
            out = np.empty_like(rows)
        elif not isinstance(out, np.ndarray) or out.dtype != np.float32 or out.shape != rows.shape:
            got = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
            raise ValueError(f"out: expected float32 {rows.shape}, got {got}")
        elif not (out.flags.c_contiguous and out.flags.writeable):
            raise ValueError("out: expected a C-contiguous, writable array")
        elif np.may_share_memory(out, rows):
            raise ValueError("out: expected memory apart from the input's")
        if not self.native.apply(self._kernels, rows, out, threads, back):
            check_finite(rows, rows, name)
            raise ValueError(
                f"{name}: expected vectors whose rotation fits float32, got longer ones"
            )
        return out

    def __getstate__(self) -> dict[str, Any]:
        return {"dim": self.dim, "seed": self.seed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"RandomRotation(dim={self.dim}, seed={self.seed})"


def rotation_plan(dim: int, seed: int) -> tuple[int, int, npt.NDArray[np.float32]]:
    """Chunk, stride and weights of a rotation, as cpp/drive/rotate.h describes them."""
    chunk = math.gcd(dim, _LANES)
    n_chunks = dim // chunk
    # A stride near the golden section spreads neighbours best; it must reach every chunk.
    stride = max(1, round(n_chunks * _GOLDEN))
    while math.gcd(stride, n_chunks) != 1:
        stride += 1
    scale = np.empty(dim, dtype=np.float64)
    begin = 0
    while begin < dim:
        length = 1 << ((dim - begin).bit_length() - 1)
        scale[begin : begin + length] = 1 / math.sqrt(length)
        begin += length
    signs = 1.0 - 2.0 * draws.bits(seed, "rotation", _ROUNDS * dim).reshape(_ROUNDS, dim)
    return chunk, stride, (signs * scale).astype(np.float32)
