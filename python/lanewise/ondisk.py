"""Exact distances to rows that stay in a file, within a budget of memory."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt

from lanewise import _native, datasets, io
from lanewise.arrays import as_id_lists, check_int, check_metric, unpacked_bits
from lanewise.canonical import MAX_LENGTH, canonical_queries
from lanewise.kernels import Kernels, get
from lanewise.store import check_arrays, row_numbers
from lanewise.threads import resolve_threads

__all__ = ["RowsOnDisk"]

_KEPT = (np.float32, np.uint8, np.int8)
_NO_LIMIT = 2**64 - 1

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


class RowsOnDisk:
    """Exact distances to rows that stay in a file: the last tier for more rows than memory holds.

    Rows are read when they are named, those of a call all at once, so that the disk works on many
    requests in parallel; and of the pages that the operating system then keeps in memory, no more
    stay than `cache_bytes`. The distances are those of `Flat.score`, bit for bit.

    Parameters
    ----------
    path : path-like
        A file that `Flat.save` wrote, whose ids are known here too; or one of rows that
        `lanewise.datasets.read` takes and that lie next to each other: ``.npy``, ``.fbin``,
        ``.u8bin`` or ``.i8bin``, whose ids are row numbers. Rows are float32, uint8 or int8.
    metric : {"l2", "ip", "cosine"}, optional
        As for `Flat`; by default that of a saved `Flat`, "l2" otherwise. Rows of a plain file are
        normalised for the cosine as they are read.
    cache_bytes : int, optional
        Bytes of the file that may stay in memory when a call is over, in whole pages; the longest
        unused go first. While calls run, the pages that they read come on top, of large batches as
        many as hold 256 MB of rows at a time. By default the operating system decides.
    verify : bool, default False
        Whether to read all rows once and check them: against the checksums of a saved `Flat`, for
        NaN, infinities and lengths otherwise. A row that is scored is checked for the latter in any
        case.
    kernels : str or Kernels, optional
        Kernel set, see `lanewise.kernels.get`. It never changes an answer.
    n_threads : int, optional
        Default for `score`; by default all CPUs that the process may use. It never changes an
        answer.

    Raises
    ------
    OSError
        If the file cannot be read.
    lanewise.io.FileFormatError, ValueError
        If it is damaged, of another kind, has no rows or rows of another type, or `metric` is not
        that of a saved `Flat`.
    NotImplementedError
        If there is a limit and the operating system offers no way to keep it: it takes
        ``posix_fadvise``, which Linux and FreeBSD have.

    Notes
    -----
    Pages that other processes read, or map, of the same file stay or go with the decisions of all.
    What is in memory of the rows when the file is opened with a limit is dropped.

    Examples
    --------
    >>> import lanewise as lw
    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "flat.lw"
    ...     lw.Flat(1).add([[1.0], [5.0]]).save(path)
    ...     with lw.RowsOnDisk(path) as rows:
    ...         rows.score([2.0], [1, 0, -1]).tolist()
    [[9.0, 1.0, inf]]
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        metric: str | None = None,
        *,
        cache_bytes: int | None = None,
        verify: bool = False,
        kernels: str | Kernels | None = None,
        n_threads: int | None = None,
    ) -> None:
        self.path = Path(path).absolute()
        self.kernels = get(kernels)
        self.n_threads = n_threads
        resolve_threads(n_threads)
        self.cache_bytes = cache_bytes
        limit = _NO_LIMIT
        if cache_bytes is not None:
            limit = check_int(cache_bytes, "cache_bytes", low=0, high=_NO_LIMIT)
            if not hasattr(os, "posix_fadvise"):
                raise NotImplementedError(
                    "cache_bytes: expected None, because this operating system has no "
                    "posix_fadvise to keep a limit with"
                )
        if metric is not None:
            check_metric(metric)
        self._ids: Ids | None = None
        self._order: Ids | None = None
        self._allowed: npt.NDArray[np.uint64] | None = None
        self._n_removed = 0
        saved = io.is_saved(self.path)
        rows, begin = (self._saved_rows if saved else self._plain_rows)(metric, verify)
        self.dim = int(rows.shape[1])
        self._n = n = len(rows)
        self._n_live = n - self._n_removed
        self._dtype = rows.dtype
        end = begin + rows.nbytes
        # A page that is mapped cannot be dropped.
        del rows
        flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        descriptor = os.open(self.path, flags)
        try:
            if os.fstat(descriptor).st_size < end:
                raise io.FileFormatError(f"{self.path}: truncated while it was opened")
            if cache_bytes is not None:
                # Nor can one that is yet to be written.
                with contextlib.suppress(OSError):
                    os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            self._file: _native.RowFile | None = _native.RowFile(
                descriptor, begin, n, self.dim, self._dtype.name, saved, limit
            )
        except BaseException:
            os.close(descriptor)
            raise

    def _saved_rows(self, metric: str | None, verify: bool) -> tuple[npt.NDArray[Any], int]:
        """Read all but the rows; return these as a map, and where they begin."""
        header, arrays = io.read(self.path, "flat", mmap=None, verify=verify)
        with io.expecting(self.path, "Flat"):
            dim, self.metric = (
                check_int(header["dim"], "dim", low=1),
                check_metric(header["metric"]),
            )
            check_arrays(header, arrays, dim, self.metric)
        if metric not in (None, self.metric):
            raise ValueError(
                f"metric: expected {self.metric!r} as {self.path} says, got {metric!r}"
            )
        if len(arrays["rows"]) == 0:
            raise ValueError(f"{self.path}: expected at least one row, got none")
        if "ids" in arrays:
            self._ids = np.array(arrays["ids"])
            self._order = np.argsort(self._ids, kind="stable")
        if "allowed" in arrays:
            self._allowed = np.array(arrays["allowed"])
            self._n_removed = int(header["n_removed"])
        return arrays["rows"], cast("np.memmap[Any, Any]", arrays["rows"]).offset

    def _plain_rows(self, metric: str | None, verify: bool) -> tuple[npt.NDArray[Any], int]:
        """Return the rows of a plain file as a map, and where they begin."""
        self.metric = "l2" if metric is None else metric
        rows = datasets.read(self.path, mmap=True)
        if rows.dtype not in _KEPT or not rows.flags.c_contiguous:
            raise ValueError(
                f"{self.path}: expected rows of float32, uint8 or int8, one behind the other, got "
                f"{rows.dtype}{'' if rows.flags.c_contiguous else ' otherwise'}"
            )
        if len(rows) == 0:
            raise ValueError(f"{self.path}: expected at least one row, got none")
        if verify:
            norms2 = np.empty(len(rows), dtype=np.float64)
            _native.squared_norms(rows, norms2)
            finite = np.isfinite(norms2)
            if not finite.all():
                raise self._error("not finite", int(np.argmin(finite)))
            if self.metric != "cosine" and norms2.max() > MAX_LENGTH**2:
                raise self._error("too long", int(np.argmax(norms2)))
        # There is nothing behind them.
        return rows, self.path.stat().st_size - rows.nbytes

    def score(self, queries: Any, ids: Any, *, n_threads: int | None = None) -> Floats:
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
            Distances, bit for bit those of `Flat.score`; inf where the id is -1.

        Raises
        ------
        ValueError, TypeError
            If an id is not there, the shapes do not fit, `queries` holds NaN or infinities, or the
            file was closed.
        OSError
            If a row cannot be read.
        lanewise.io.FileFormatError
            If a row holds NaN or infinities or is too long, or the file has become shorter.
        """
        file = self._opened()
        Q = canonical_queries(queries, self.dim, self.metric)
        wanted = as_id_lists(ids, "ids", len(Q))
        rows = row_numbers(self._ids, self._allowed, self._n, wanted, "ids", self._order)
        threads = resolve_threads(self.n_threads if n_threads is None else n_threads)
        distances = np.empty(rows.shape, dtype=np.float32)
        fault = file.score(
            self.kernels, self.metric, Q, np.ascontiguousarray(rows), distances, threads
        )
        if fault is not None:
            raise self._error(*fault)
        return distances

    def _error(self, what: str, row: int, number: int = 0) -> Exception:
        if what == "system":
            return OSError(number, os.strerror(number), str(self.path))
        says = {
            "end": f"truncated: row {row} is not there",
            "not finite": f"expected finite values, got NaN or infinity in row {row}",
            "too long": f"expected rows so short that distances stay finite, row {row} is not",
        }
        return io.FileFormatError(f"{self.path}: {says[what]}")

    def _opened(self) -> _native.RowFile:
        if self._file is None:
            raise ValueError(f"RowsOnDisk: {self.path} was closed")
        return self._file

    def close(self) -> None:
        """Close the file, when calls that run are over. Closing again does nothing."""
        self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def ids(self) -> Ids:
        """Ids of all rows that can be named, in the order of the file."""
        ids = np.arange(self._n) if self._ids is None else self._ids.copy()
        if self._allowed is None:
            return ids
        return ids[unpacked_bits(self._allowed, self._n)]

    @property
    def bytes_read(self) -> int:
        """Bytes that were asked from the disk so far: all pages that were not kept."""
        return self._opened().bytes_read

    @property
    def resident_bytes(self) -> int | None:
        """Bytes of the rows' pages that are in memory now, asked from the operating system.

        None where it does not tell. Linux says all of them for a file that this user may not write.
        """
        return self._opened().resident_bytes

    @property
    def nbytes(self) -> int:
        """Bytes of the rows in the file."""
        return self._n * self.dim * self._dtype.itemsize

    def __len__(self) -> int:
        return self._n_live

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process opens the file for itself, and picks its own kernel set.
        return _reopened, (str(self.path), self.metric, self.cache_bytes, self.n_threads)

    def __repr__(self) -> str:
        return (
            f"RowsOnDisk({str(self.path)!r}, dim={self.dim}, metric={self.metric!r}, "
            f"n={len(self)}, cache_bytes={self.cache_bytes})"
        )


def _reopened(path: str, metric: str, cache_bytes: int | None, n_threads: int | None) -> RowsOnDisk:
    return RowsOnDisk(path, metric, cache_bytes=cache_bytes, n_threads=n_threads)
