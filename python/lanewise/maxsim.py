"""Late interaction: documents and queries of many vectors each, compared token by token."""

from __future__ import annotations

import numbers
import threading
from dataclasses import dataclass
from os import PathLike
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lanewise import _native, io
from lanewise.arrays import (
    as_id_lists,
    as_matrix,
    as_ndarray,
    as_vector_ids,
    check_int,
    with_room,
)
from lanewise.canonical import MAX_LENGTH, check_lengths, squared_lengths
from lanewise.kernels import Kernels, get
from lanewise.result import SearchResult
from lanewise.threads import resolve_threads

__all__ = ["MaxSim"]

_KIND = "maxsim"
_MAX_DIM = 65_536

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
_Arrays = dict[str, npt.NDArray[Any]]


def _shapes(dim: int, n: int, n_tokens: int) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Return dtype and shape of all arrays, in the order in which the native module takes them."""
    return {
        "tokens": (np.float32, (n_tokens, dim)),
        "begin": (np.int64, (n + 1,)),
        # What documents are screened by: a byte a dimension, in whole quads.
        "codes": (np.int8, (n_tokens, -(-dim // 4) * 4)),
        "scales": (np.float32, (n_tokens,)),
        "sums": (np.int32, (n_tokens,)),
        "longest": (np.float64, (n,)),
        "residuals": (np.float64, (n,)),
    }


@dataclass(frozen=True, eq=False)
class _Snapshot:
    """Documents as searches see them: they hold on to them while others are added.

    The arrays may be longer than that: what lies behind is room to grow, and a later snapshot may
    already use it.
    """

    arrays: _Arrays
    n: int
    n_tokens: int
    native: _native.Documents

    @classmethod
    def of(cls, arrays: _Arrays, n: int, n_tokens: int, first_document: int = 0) -> _Snapshot:
        views = _views(arrays, n, n_tokens)
        native = _native.Documents(**views, first_document=first_document)
        return cls(arrays, n, n_tokens, native)

    @property
    def views(self) -> _Arrays:
        return _views(self.arrays, self.n, self.n_tokens)


def _views(arrays: _Arrays, n: int, n_tokens: int) -> _Arrays:
    """Return the filled parts, in the order of `_shapes`."""
    shapes = _shapes(arrays["tokens"].shape[1], n, n_tokens)
    return {name: arrays[name][: shape[0]] for name, (_, shape) in shapes.items()}


class MaxSim:
    """Distances between sets of token vectors: minus the sum of each query token's best product.

    What late-interaction models such as ColBERT score a document by. The documents that are scored
    come from a first tier; see `score` and `rescore`, and `lanewise.LaneSearch`, which takes this
    as its scorer.

    Parameters
    ----------
    dim : int
        Dimension of the token vectors, at most 65,536.
    kernels : str or Kernels, optional
        Kernel set, see `lanewise.kernels.get`. It never changes an answer.
    n_threads : int, optional
        Default for the methods; by default all CPUs that the process may use. It never changes an
        answer.

    Notes
    -----
    The distance of document D to query Q is ``-sum_i max_j <Q_i, D_j>``, smaller is nearer.
    Products are float32, each one chain of fused multiply-adds over the dimensions; their maxima
    are added up in double, in the order of the query's tokens, and the sum is rounded once.

    Tokens are stored as float32 and taken as they come: models that want cosines normalise theirs.
    Beside them stands a byte a dimension, by which `rescore` rules out documents.

    References
    ----------
    O. Khattab and M. Zaharia, "ColBERT: efficient and effective passage search via contextualized
    late interaction over BERT", SIGIR 2020.

    Examples
    --------
    >>> import lanewise as lw
    >>> index = lw.MaxSim(2).add([[[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5]]])
    >>> index.score([[2.0, 0.0], [0.0, 3.0]], [0, 1, -1]).tolist()
    [[-5.0, -2.5, inf]]
    """

    def __init__(
        self, dim: int, *, kernels: str | Kernels | None = None, n_threads: int | None = None
    ) -> None:
        self.dim = check_int(dim, "dim", low=1, high=_MAX_DIM)
        self.kernels = get(kernels)
        self.n_threads = n_threads
        resolve_threads(n_threads)
        self._lock = threading.Lock()
        shapes = _shapes(self.dim, 0, 0)
        self._state = _Snapshot.of(
            {name: np.zeros(shape, dtype) for name, (dtype, shape) in shapes.items()}, 0, 0
        )

    def _threads(self, n_threads: int | None) -> int:
        return resolve_threads(self.n_threads if n_threads is None else n_threads)

    def add(self, documents: Any, *, n_threads: int | None = None) -> Self:
        """Add documents; their numbers count on from those that are there.

        Parameters
        ----------
        documents : sequence of array-like, each of shape (n_tokens, dim)
            The tokens of each document, as `lanewise.arrays.as_matrix` takes them. Or a tuple
            ``(tokens, offsets)`` of the tokens of all, shape (n, dim), and int offsets, shape
            (n_documents + 1,): document i has the tokens from ``offsets[i]`` up to
            ``offsets[i + 1]``. One 2-D array is one document.
        n_threads : int, optional

        Returns
        -------
        MaxSim
            Itself. A call that runs meanwhile sees either all of the documents or none of them.

        Raises
        ------
        ValueError, TypeError
            If these are no such arrays, a document has no token, or tokens hold NaN or infinities
            or are too long. Nothing is added then.

        Examples
        --------
        >>> import numpy as np
        >>> import lanewise as lw
        >>> index = lw.MaxSim(4).add([np.ones((3, 4)), np.ones((1, 4))])
        >>> len(index.add((np.ones((5, 4)), [0, 2, 5])))
        4
        """
        tokens, offsets = _as_token_lists(documents, "documents", self.dim)
        threads = self._threads(n_threads)
        n, m = len(offsets) - 1, len(tokens)
        check_lengths(tokens, "documents")
        if n == 0:
            return self
        with self._lock:
            old = self._state
            shapes = _shapes(self.dim, old.n + n, old.n_tokens + m)
            new = {
                name: with_room(old.arrays[name], len(view), shapes[name][1][0], view.dtype)
                for name, view in old.views.items()
            }
            last = slice(old.n_tokens, old.n_tokens + m)
            new["tokens"][last] = tokens
            new["begin"][old.n + 1 : old.n + n + 1] = old.n_tokens + offsets[1:]
            facts = np.empty((2, m), dtype=np.float64)
            _native.code_tokens(
                new["tokens"][last],
                new["codes"][last],
                new["scales"][last],
                new["sums"][last],
                facts[0],
                facts[1],
                threads,
            )
            for name, fact in zip(("longest", "residuals"), facts, strict=True):
                new[name][old.n : old.n + n] = np.maximum.reduceat(fact, offsets[:-1])
            # One assignment, so that nobody ever finds half of a change.
            self._state = _Snapshot.of(new, old.n + n, old.n_tokens + m, old.n)
        return self

    def score(self, queries: Any, ids: Any, *, n_threads: int | None = None) -> Floats:
        """Score named documents.

        Parameters
        ----------
        queries : sequence of array-like, each of shape (n_query_tokens, dim)
            One 2-D array is one query; `add` says what else there may be.
        ids : array-like of int, shape (n_queries, m) or (m,)
            Document numbers for each query; -1 means none.
        n_threads : int, optional

        Returns
        -------
        ndarray of float32, shape (n_queries, m)
            Distances, smaller is nearer; inf where the id is -1.

        Raises
        ------
        ValueError, TypeError
            If there is no such document, a query has no token, tokens hold NaN or infinities or
            are too long, or the shapes do not fit.

        Examples
        --------
        >>> import lanewise as lw
        >>> index = lw.MaxSim(1).add([[[1.0], [5.0]], [[2.0]]])
        >>> index.score([[[1.0], [1.0]], [[-1.0]]], [[0, 1], [0, 1]]).tolist()
        [[-10.0, -4.0], [1.0, 2.0]]
        """
        snapshot = self._state
        tokens, offsets = self._as_queries(queries)
        wanted = as_id_lists(ids, "ids", len(offsets) - 1, upper=snapshot.n)
        threads = self._threads(n_threads)
        distances = np.empty(wanted.shape, dtype=np.float32)
        snapshot.native.score(self.kernels, tokens, offsets, wanted, distances, threads)
        return distances

    def rescore(
        self, queries: Any, ids: Any, k: int = 10, *, n_threads: int | None = None
    ) -> SearchResult:
        """Find the k nearest among named documents: the second tier behind any first one.

        Parameters
        ----------
        queries : sequence of array-like, each of shape (n_query_tokens, dim)
            As for `score`.
        ids : array-like of int, shape (n_queries, m) or (m,)
            Candidates for each query; -1 means none, and one that is named twice counts once.
        k : int, default 10
        n_threads : int, optional

        Returns
        -------
        SearchResult
            Shapes (n_queries, k); the answer is that of `score` and a sort, bit for bit. `stats`
            hold one number a query: ``candidates`` documents named, ``products`` of two tokens
            that were computed, and ``share``, which part that is of all there are.

        Raises
        ------
        ValueError, TypeError
            As from `score`, or if `k` is out of its range.

        Notes
        -----
        All candidates are screened by codes of a byte a dimension, which bound each distance from
        below: products of codes are exact, what codes leave of a token is known, and Cauchy-Schwarz
        says what it may add. Then they are scored in the order of their bounds, until the next
        bound exceeds the k-th distance. See docs/design/maxsim.md.

        Examples
        --------
        >>> import lanewise as lw
        >>> index = lw.MaxSim(1).add([[[1.0], [5.0]], [[2.0]], [[4.0]]])
        >>> index.rescore([[1.0], [1.0]], [1, 2], k=1).ids.tolist()
        [[2]]
        """
        k = check_int(k, "k", low=0, high=2**31 - 1)
        snapshot = self._state
        tokens, offsets = self._as_queries(queries)
        wanted = as_id_lists(ids, "ids", len(offsets) - 1, upper=snapshot.n)
        threads = self._threads(n_threads)
        n_queries, m = wanted.shape
        distances = np.full((n_queries, k), np.inf, dtype=np.float32)
        found = np.full((n_queries, k), -1, dtype=np.int64)
        stats = np.zeros((n_queries, 3), dtype=np.uint64)
        if n_queries > 0 and min(k, m) > 0:
            some = np.empty((n_queries, min(k, m)), dtype=np.float32)
            best = np.empty(some.shape, dtype=np.int64)
            snapshot.native.rescore(
                self.kernels, tokens, offsets, wanted, some, best, stats, threads
            )
            distances[:, : min(k, m)], found[:, : min(k, m)] = some, best
        candidates, products, total = stats.T
        share = np.where(total > 0, products / np.maximum(total, 1), 0.0)
        named = {"candidates": candidates, "products": products, "share": share}
        return SearchResult(distances, found, named)

    def _as_queries(self, queries: Any) -> tuple[Floats, Ids]:
        """Validate queries; return their tokens, and where each begins."""
        tokens, offsets = _as_token_lists(queries, "queries", self.dim)
        lengths = np.sqrt(squared_lengths(tokens, "queries"))
        if len(offsets) > 1:
            totals = np.add.reduceat(lengths, offsets[:-1])
            if totals.max() > MAX_LENGTH:
                q = int(totals.argmax())
                raise ValueError(
                    f"queries: expected tokens whose lengths add up to at most {MAX_LENGTH:.3g} "
                    f"in each query, so that distances stay finite, got {totals[q]:.3g} in query "
                    f"{q}"
                )
        return tokens, offsets

    def save(self, path: str | PathLike[str]) -> None:
        """Save the documents to a file, whole or not at all.

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
        ...     path = pathlib.Path(folder) / "documents.lw"
        ...     lw.MaxSim(1).add([[[1.0], [5.0]]]).save(path)
        ...     lw.MaxSim.load(path).score([[2.0]], [0]).tolist()
        [[-10.0]]
        """
        io.write(path, _KIND, *self._arrays())

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
        """Load documents that `save` wrote.

        Parameters
        ----------
        path : path-like
        mmap : bool, default False
            Leave the tokens on the disk: a call reads those of the documents that it scores. The
            codes are read into memory. What is added later makes a copy of the tokens in memory.
        verify : bool, default True
            Whether to check mapped tokens against their checksum, which reads them once.
            Everything else is always checked.
        kernels, n_threads
            As for `MaxSim`.

        Returns
        -------
        MaxSim

        Raises
        ------
        OSError
            If the file cannot be read.
        lanewise.io.FileFormatError
            If it is no such file, from a newer version, truncated or corrupted.
        """
        header, arrays = io.read(path, _KIND, mmap=("tokens",) if mmap else (), verify=verify)
        with io.expecting(path, "MaxSim"):
            return cls._restored(header, arrays, kernels, n_threads)

    def _arrays(self) -> tuple[dict[str, Any], _Arrays]:
        """Return all that `_restored` needs: a header of plain values, and arrays."""
        return {"dim": self.dim}, self._state.views

    @classmethod
    def _restored(
        cls,
        header: dict[str, Any],
        arrays: _Arrays,
        kernels: str | Kernels | None,
        n_threads: int | None,
    ) -> Self:
        """Return the documents that `arrays` described; the native module checks their lists."""
        index = cls(header["dim"], kernels=kernels, n_threads=n_threads)
        n, n_tokens = len(arrays["longest"]), len(arrays["tokens"])
        for name, (dtype, shape) in _shapes(index.dim, n, n_tokens).items():
            if arrays[name].dtype != dtype or arrays[name].shape != shape:
                raise ValueError(
                    f"{name}: expected {np.dtype(dtype)} of shape {shape}, "
                    f"got {arrays[name].dtype} of shape {arrays[name].shape}"
                )
        for name in ("longest", "residuals", "scales"):
            # NaN is not within any bounds.
            if not ((arrays[name] >= 0) & (arrays[name] <= 2 * MAX_LENGTH)).all():
                raise ValueError(f"{name}: expected lengths, got others")
        index._state = _Snapshot.of(arrays, n, n_tokens)
        return index

    def __reduce__(self) -> tuple[Any, ...]:
        # The kernel set belongs to the machine, not to the data: another machine picks its own.
        return type(self)._restored, (*self._arrays(), None, self.n_threads)

    @property
    def n_tokens(self) -> int:
        """Tokens of all documents."""
        return self._state.n_tokens

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays that the index holds, tokens on the disk included."""
        return sum(array.nbytes for array in self._state.arrays.values())

    def __len__(self) -> int:
        return self._state.n

    def __repr__(self) -> str:
        return f"MaxSim(dim={self.dim}, n={len(self)}, n_tokens={self.n_tokens})"


def _as_token_lists(x: Any, name: str, dim: int) -> tuple[Floats, Ids]:
    """Validate lists of tokens; return all tokens, and where each list begins."""
    if isinstance(x, tuple) and len(x) == 2 and _ndim(x[0]) == 2 and _ndim(x[1]) == 1:
        tokens = as_matrix(x[0], f"{name}: tokens", dim=dim)
        offsets = as_vector_ids(x[1], f"{name}: offsets")
        if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != len(tokens):
            raise ValueError(
                f"{name}: expected offsets from 0 to the {len(tokens)} tokens that there are, got "
                f"{offsets[[0, -1]].tolist() if len(offsets) else 'none'}"
            )
        sizes = np.diff(offsets)
        if (sizes < 0).any():
            i = int(np.argmax(sizes < 0))
            raise ValueError(
                f"{name}: expected ascending offsets, got {offsets[i]} before {offsets[i + 1]}"
            )
        _check_sizes(sizes, name)
        return tokens, offsets
    if not isinstance(x, (list, tuple)):
        x = as_ndarray(x, name)
        if x.ndim not in (2, 3) and not (x.ndim == 1 and x.dtype == np.object_):
            raise ValueError(
                f"{name}: expected a sequence of 2-D arrays (n_tokens, {dim}), or one of them, "
                f"got an array of shape {x.shape}"
            )
        x = x if x.ndim != 2 else [x]
    elif _ndim(x) == 2:
        x = [x]
    lists = [as_matrix(tokens, f"{name}[{i}]", dim=dim) for i, tokens in enumerate(x)]
    sizes = np.array([len(tokens) for tokens in lists], dtype=np.int64)
    _check_sizes(sizes, name)
    offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(sizes)))
    if len(lists) == 1:
        return lists[0], offsets
    return np.concatenate((np.empty((0, dim), np.float32), *lists)), offsets


def _ndim(x: Any) -> int:
    """Return how many axes there are; rows may differ in length."""
    if isinstance(x, (list, tuple)):
        return 1 + (_ndim(x[0]) if x else 0)
    # Arrow's lists do not tell.
    return int(getattr(x, "ndim", 0 if isinstance(x, (numbers.Number, str)) else 2))


def _check_sizes(sizes: Ids, name: str) -> None:
    if not sizes.all():
        raise ValueError(f"{name}[{int(np.argmin(sizes))}]: expected at least one token, got none")
