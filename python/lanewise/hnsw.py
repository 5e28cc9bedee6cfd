"""hnswlib's graph, searched in place of it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from lanewise import _native, io
from lanewise.arrays import (
    as_matrix,
    as_row_mask,
    as_vector_ids,
    check_choice,
    check_int,
    check_metric,
    check_real,
    packed_bits,
)
from lanewise.canonical import accepted_queries, check_lengths, normalized
from lanewise.graph import GraphArrays, GraphCodes, RotatedRows, aligned_copy, padded_dim
from lanewise.kernels import Kernels, get
from lanewise.lanes.planning import check_lane, keys_of, share_below
from lanewise.progress import Progress, reporting, say_nothing
from lanewise.result import SearchResult
from lanewise.streams import CandidateStream, Owners, Walk
from lanewise.threads import resolve_threads

if TYPE_CHECKING:
    import hnswlib

__all__ = ["HNSW"]

_KIND = "hnsw"
_BITS = {"sq8": 8, "sq4": 4}
_STORAGES = ("f32", *_BITS, "adsampling")
_MAX_CODE_DIM = 65_536
_EPS0 = 2.1
_STATS = ("hops", "expanded", "distances", "settled")
# Rows that hnswlib adds between two reports.
_STEP = 1000


@dataclass(frozen=True, eq=False)
class _Snapshot:
    """A graph as searches see it: they hold on to it while elements are added."""

    graph: GraphArrays
    steering: GraphCodes | RotatedRows | None  # None if the rows steer
    native: _native.Graph | None  # None if there are no elements

    @classmethod
    def of(cls, graph: GraphArrays, steering: GraphCodes | RotatedRows | None) -> _Snapshot:
        if len(graph) == 0:
            return cls(graph, None, None)
        native = graph.native()
        if steering is not None:
            steering.steer(native)
        return cls(graph, steering, native)


class HNSW:
    """Search of a graph that hnswlib built, with hnswlib's answers.

    The graph is taken over from an ``hnswlib.Index`` or from its file and then lives in arrays of
    this object: no search needs hnswlib. With ``storage="f32"`` a search makes hnswlib's decisions
    in hnswlib's order, so that it finds the same elements unless two distances differ by less than
    their rounding.

    Parameters
    ----------
    index : hnswlib.Index
        A graph, built or empty. It is copied: what is added to it or deleted from it later is seen
        after `refresh`.
    storage : {"f32", "sq8", "sq4", "adsampling"}, default "f32"
        What steers a search: the rows, codes of 8 or 4 bits a dimension, which are read faster, or
        with "adsampling" the rows once more, rotated at random, each of which is read only until
        its first dimensions say that it is too far; see `eps0` of `search`. Answers are scored on
        the rows in any case; see `rerank` of `search`.
    kernels : str or Kernels, optional
        Kernel set, see `lanewise.kernels.get`. It never changes an answer.
    n_threads : int, optional
        Default for the searches; by default all CPUs that the process may use. It never changes an
        answer.

    Attributes
    ----------
    ef : int
        Default width of a search; the one that `index` had.

    Notes
    -----
    Malkov & Yashunin, "Efficient and robust approximate nearest neighbor search using hierarchical
    navigable small world graphs", 2018. Distances are the canonical ones of the rows as hnswlib has
    them: the squared L2 distance, the negated inner product, or one minus the product with a row
    that hnswlib normalised. Equal ones are in the order of their ids.

    "adsampling" is HNSW++ of Gao & Long, "High-dimensional approximate nearest neighbor search:
    with reliable and efficient distance comparison operations", SIGMOD 2023.

    Examples
    --------
    >>> import numpy as np
    >>> import lanewise as lw
    >>> X = np.random.default_rng(0).standard_normal((500, 8), dtype=np.float32)
    >>> index = lw.HNSW.build(X)
    >>> index.search(X[:2], k=1, ef=50).ids.tolist()
    [[0], [1]]
    """

    def __init__(
        self,
        index: hnswlib.Index,
        *,
        storage: str = "f32",
        kernels: str | Kernels | None = None,
        n_threads: int | None = None,
    ) -> None:
        graph = _taken_over(index)
        self._set_up(graph, _check_storage(storage, graph.dim), None, kernels, n_threads)

    def _set_up(
        self,
        graph: GraphArrays,
        storage: str,
        steering: GraphCodes | RotatedRows | None,
        kernels: str | Kernels | None,
        n_threads: int | None,
        report: Progress = say_nothing,
    ) -> None:
        self._kernels = get(kernels)
        resolve_threads(n_threads)
        self._n_threads = n_threads
        self._storage = storage
        self._lock = threading.Lock()
        self.ef = graph.ef
        self._publish(graph, steering, report)

    def _publish(
        self,
        graph: GraphArrays,
        steering: GraphCodes | RotatedRows | None = None,
        report: Progress = say_nothing,
    ) -> None:
        if steering is None and len(graph) > 0:
            if self._storage == "adsampling":
                steering = RotatedRows.made(graph, report)
            elif self._storage != "f32":
                bits = _BITS[self._storage]
                steering = GraphCodes.made(graph.rows, bits, graph.metric != "l2", report)
        # One assignment, so that nobody ever finds half of a change.
        self._snapshot = _Snapshot.of(graph, steering)

    @classmethod
    def _made(cls, graph: GraphArrays, storage: str, *rest: Any, **options: Any) -> Self:
        index = cls.__new__(cls)
        index._set_up(graph, storage, *rest, **options)
        return index

    @classmethod
    def from_hnswlib(
        cls,
        index: hnswlib.Index,
        *,
        storage: str = "f32",
        kernels: str | Kernels | None = None,
        n_threads: int | None = None,
    ) -> Self:
        """Take over a graph from memory: the same as ``HNSW(index)``.

        Parameters
        ----------
        index, storage, kernels, n_threads
            As for `HNSW`.

        Returns
        -------
        HNSW

        Raises
        ------
        TypeError
            If `index` is no ``hnswlib.Index``.
        ValueError
            If it was not initialised, holds NaN, infinities or labels beyond 2**63 - 1, or its
            links do not fit.
        """
        return cls(index, storage=storage, kernels=kernels, n_threads=n_threads)

    @classmethod
    def load_hnswlib(
        cls,
        path: str | PathLike[str],
        metric: str = "l2",
        *,
        dim: int | None = None,
        storage: str = "f32",
        kernels: str | Kernels | None = None,
        n_threads: int | None = None,
    ) -> Self:
        """Load a file that ``hnswlib.Index.save_index`` wrote.

        Parameters
        ----------
        path : path-like
        metric : {"l2", "ip", "cosine"}, default "l2"
            The file does not say.
        dim : int, optional
            Dimension that the vectors must have; the file says which they have.
        storage, kernels, n_threads
            As for `HNSW`.

        Returns
        -------
        HNSW

        Raises
        ------
        OSError
            If the file cannot be read.
        lanewise.io.FileFormatError
            If it is no such file or damaged: every size, count, level and link is checked, and
            that the rows are finite and, for the cosine, normalised. The file has no checksum, so
            that damage to the numbers in a row or to where a link leads may go unnoticed.

        Examples
        --------
        >>> import numpy as np
        >>> import lanewise as lw
        >>> import tempfile, pathlib
        >>> graph = lw.HNSW.build(np.eye(3, dtype=np.float32))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     graph.save_hnswlib(pathlib.Path(folder) / "graph.bin")
        ...     lw.HNSW.load_hnswlib(pathlib.Path(folder) / "graph.bin")
        HNSW(dim=3, metric='l2', n=3)
        """
        metric = check_metric(metric)
        dim = None if dim is None else check_int(dim, "dim", low=1, high=2**24)
        check_choice(storage, "storage", _STORAGES)
        if Path(path).exists() and not Path(path).is_file():
            raise io.FileFormatError(f"{path}: expected a regular file")
        data = np.fromfile(path, dtype=np.uint8)
        try:
            graph = GraphArrays.from_file(data, metric, dim)
        except (TypeError, ValueError) as error:
            raise io.FileFormatError(f"{path}: expected a graph of hnswlib, {error}") from error
        return cls._made(graph, _check_storage(storage, graph.dim), None, kernels, n_threads)

    @classmethod
    def build(
        cls,
        X: Any,
        metric: str = "l2",
        *,
        M: int = 16,
        ef_construction: int = 200,
        seed: int = 100,
        storage: str = "f32",
        n_threads: int | None = 1,
        progress: bool | Progress = False,
    ) -> Self:
        """Build a graph over some rows with hnswlib.

        Parameters
        ----------
        X : array-like of shape (n, dim)
        metric : {"l2", "ip", "cosine"}, default "l2"
        M : int, default 16
            Links of each element.
        ef_construction : int, default 200
            Width of the search that finds an element's links.
        seed : int, default 100
        storage : {"f32", "sq8", "sq4", "adsampling"}, default "f32"
            As for `HNSW`.
        n_threads : int, optional, default 1
            One thread builds the same graph every time; more are faster.
        progress : bool or callable, default False
            True shows bars on a terminal; it needs rich. Or a function that is called with what is
            being done, the steps done and the steps in all.

        Returns
        -------
        HNSW

        Raises
        ------
        ImportError
            If hnswlib is not installed.
        ValueError, TypeError
            If an argument is out of its range, or `X` holds NaN or infinities.
        """
        rows = as_matrix(X, "X", allow_empty=False)
        check_lengths(rows, "X")
        metric = check_metric(metric)
        M = check_int(M, "M", low=2, high=10_000)
        ef_construction = check_int(ef_construction, "ef_construction", low=1)
        seed = check_int(seed, "seed", low=0, high=2**31 - 1)
        storage = _check_storage(storage, rows.shape[1])
        threads = resolve_threads(n_threads)
        with reporting(progress, "HNSW.build") as report:
            index = _hnswlib("HNSW.build").Index(space=metric, dim=rows.shape[1])
            index.init_index(
                max_elements=len(rows), M=M, ef_construction=ef_construction, random_seed=seed
            )
            _add_items(index, rows, np.arange(len(rows)), threads, report)
            return cls._made(_taken_over(index), storage, None, None, None, report)

    def add(
        self,
        X: Any,
        ids: Any = None,
        *,
        n_threads: int | None = 1,
        progress: bool | Progress = False,
    ) -> Self:
        """Add vectors with hnswlib, which gets a copy of the graph for that: add many at a time.

        Parameters
        ----------
        X : array-like of shape (n, dim)
        ids : array-like of int, shape (n,), optional
            Not negative, none twice and none in the graph already. By default they count on from
            the largest id so far.
        n_threads : int, optional, default 1
            With one thread the same calls make the same graph every time.
        progress
            As for `build`.

        Returns
        -------
        HNSW
            Itself. A search that runs meanwhile sees either all of `X` or nothing of it.

        Raises
        ------
        ImportError
            If hnswlib is not installed.
        ValueError, TypeError
            If `X` is no such matrix, holds NaN or infinities, or `ids` do not fit. Nothing is added
            then.

        Examples
        --------
        >>> import numpy as np
        >>> import lanewise as lw
        >>> index = lw.HNSW.build(np.eye(3, dtype=np.float32)).add([[5.0, 5.0, 5.0]], ids=[77])
        >>> index.search([4.0, 5.0, 5.0], k=1).ids.tolist()
        [[77]]
        """
        rows = as_matrix(X, "X", dim=self.dim)
        check_lengths(rows, "X")
        threads = resolve_threads(n_threads)
        wanted = None if ids is None else as_vector_ids(ids, "ids")
        if wanted is not None and len(wanted) != len(rows):
            raise ValueError(f"ids: expected {len(rows)}, one for each row, got {len(wanted)}")
        if len(rows) == 0:
            return self
        with self._lock, reporting(progress, "HNSW.add") as report:
            known = self._snapshot.graph.ids
            if wanted is None:
                first = int(known.max(initial=-1)) + 1
                if first + len(rows) > 2**63:
                    raise ValueError("ids: expected ids, because the largest possible is in use")
                wanted = np.arange(first, first + len(rows))
            every = np.concatenate((known, wanted))
            unique, counts = np.unique(every, return_counts=True)
            if len(unique) < len(every):
                twice = int(unique[counts > 1][0])
                raise ValueError(f"ids: {twice} is there twice or in the graph already")
            index = self.to_hnswlib(max_elements=len(every))
            _add_items(index, rows, wanted, threads, report)
            graph = replace(_taken_over(index), seed=self._snapshot.graph.seed)
            self._publish(graph, report=report)
        return self

    def refresh(self, index: hnswlib.Index) -> Self:
        """Take over an ``hnswlib.Index`` again, after hnswlib added or deleted elements.

        Parameters
        ----------
        index : hnswlib.Index
            Of the same metric and dimension.

        Returns
        -------
        HNSW
            Itself. A search that runs meanwhile sees the graph as it was.

        Raises
        ------
        ValueError, TypeError
            As from `from_hnswlib`, or if metric or dimension differ. Nothing has changed then.
        """
        graph = _taken_over(index)
        for name in ("metric", "dim"):
            if getattr(graph, name) != getattr(self, name):
                raise ValueError(
                    f"index: expected {name} {getattr(self, name)!r}, got {getattr(graph, name)!r}"
                )
        with self._lock:
            self._publish(graph)
        return self

    def to_hnswlib(self, max_elements: int | None = None) -> hnswlib.Index:
        """Return the graph as a new ``hnswlib.Index``.

        Parameters
        ----------
        max_elements : int, optional
            Room that it has; by default none to grow.

        Returns
        -------
        hnswlib.Index
            Its levels of further elements come from a seed that depends on their number so far.

        Raises
        ------
        ImportError
            If hnswlib is not installed.
        ValueError, TypeError
            If `max_elements` is less than there are.
        """
        graph = replace(self._snapshot.graph, ef=self.ef)
        n = len(graph)
        room = n if max_elements is None else check_int(max_elements, "max_elements", low=n)
        seed = (graph.seed + n) % 2**31
        return _hnswlib("HNSW.to_hnswlib").Index(params=graph.state(max(room, 1), seed))

    def save_hnswlib(self, path: str | PathLike[str]) -> None:
        """Save the graph to a file that ``hnswlib.Index.load_index`` reads, whole or not at all.

        Parameters
        ----------
        path : path-like
            An existing file is replaced once the new one is complete and on the disk.

        Raises
        ------
        OSError
            If it cannot be written; what was there before is still there then.
        """
        io.write_atomically(Path(path), self._snapshot.graph.write_file)

    def save(self, path: str | PathLike[str]) -> None:
        """Save the graph, and what steers it if not the rows, with checksums, whole or not at all.

        Parameters
        ----------
        path : path-like
            An existing file is replaced once the new one is complete and on the disk.

        Raises
        ------
        OSError
            If it cannot be written; what was there before is still there then.
        """
        io.write(path, _KIND, *self._parts())

    def _parts(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """Return all that `_restored` needs: a header of plain values, and arrays."""
        snapshot = self._snapshot
        graph = replace(snapshot.graph, ef=self.ef)
        names = ("metric", "dim", "M", "ef_construction", "mult", "seed", "ef", "enter")
        header = {name: getattr(graph, name) for name in names}
        arrays = graph.arrays
        if graph.deleted is not None:
            arrays["deleted"] = graph.deleted.astype(np.uint8)
        if snapshot.steering is not None:
            part = _part_of(self.storage)
            arrays |= {part + name: a for name, a in snapshot.steering.arrays.items()}
        return {**header, "storage": self.storage}, arrays

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
        """Load a graph that `save` wrote.

        Parameters
        ----------
        path : path-like
        mmap : bool, default False
            Leave the rows on the disk: unless they steer, a search reads those that it scores
            exactly.
        verify : bool, default True
            Whether to check mapped rows, which reads them once. Everything else is always checked.
        kernels, n_threads
            As for `HNSW`.

        Returns
        -------
        HNSW

        Raises
        ------
        OSError
            If the file cannot be read.
        lanewise.io.FileFormatError
            If it is no such file, from a newer version, truncated or corrupted.
        """
        header, arrays = io.read(path, _KIND, mmap=("rows",) if mmap else (), verify=verify)
        with io.expecting(path, cls.__name__):
            return cls._restored(header, arrays, verify or not mmap, kernels, n_threads)

    @classmethod
    def _restored(
        cls,
        header: dict[str, Any],
        arrays: dict[str, npt.NDArray[Any]],
        check_rows: bool,
        kernels: str | Kernels | None,
        n_threads: int | None,
    ) -> Self:
        parts: dict[str, Any] = {**header}
        storage = parts.pop("storage")
        parts |= {name: a for name, a in arrays.items() if "." not in name}
        deleted = parts.pop("deleted", None)
        rows = parts["rows"]
        if not isinstance(rows, np.memmap):
            parts["rows"] = aligned_copy(rows)
        parts["deleted"] = None if deleted is None else deleted.astype(np.bool_)
        graph = GraphArrays(**{"labels": None, **parts})
        graph.check(check_rows)
        _check_storage(storage, graph.dim)
        steering: GraphCodes | RotatedRows | None = None
        if storage != "f32" and len(graph) > 0:
            part = _part_of(storage)
            found = {name[len(part) :]: a for name, a in arrays.items() if name.startswith(part)}
            if storage == "adsampling":
                steering = RotatedRows.restored(graph, found)
            else:
                steering = GraphCodes(_BITS[storage], *(found[name] for name in GraphCodes.names))
            steering.check(graph)
        return cls._made(graph, storage, steering, kernels, n_threads)

    def search(
        self,
        queries: Any,
        k: int = 10,
        *,
        ef: int | None = None,
        filter: Any = None,
        rerank: int | None = None,
        eps0: float | None = None,
        n_threads: int | None = None,
    ) -> SearchResult:
        """Find about the k nearest elements of each query.

        Parameters
        ----------
        queries : array-like of shape (n_queries, dim) or (dim,)
        k : int, default 10
            What the graph does not give is filled up with id -1 and distance inf.
        ef : int, optional
            Width of the search, at least `k`; by default ``self.ef``.
        filter : array-like, optional
            Which elements may be answered: booleans of shape (len(self),) in the order of `ids`,
            the same packed by ``numpy.packbits(..., bitorder="little")`` as uint8, or a list of
            ids. A search walks through the others, so that few allowed ones cost time.
        rerank : int, optional
            Unless rows steer: so many candidates, the most promising, are scored on their rows; at
            least `k`, by default all `ef`.
        eps0 : float, optional
            For "adsampling": a row of D dimensions is left when its distance in the first i of them
            is beyond the bound times ``i / D * (1 + eps0 / sqrt(i))**2``; by default 2.1. With inf
            none is left but those that are beyond, so that the search finds what it finds without.
        n_threads : int, optional

        Returns
        -------
        SearchResult
            `stats` holds one number a query: ``hops``, lists of links read above the lowest level;
            ``expanded``, those read on it; ``distances`` that steered the search, from rows or from
            codes, those that were left included; ``settled`` rows scored exactly.

        Raises
        ------
        ValueError, TypeError
            If an argument is out of its range, or `queries` holds NaN or infinities.
        """
        return self._search(queries, k, ef, filter, rerank, eps0, n_threads)

    def pool(
        self,
        queries: Any,
        k_pool: int,
        *,
        ef: int | None = None,
        filter: Any = None,
        rerank: int | None = None,
        eps0: float | None = None,
        n_threads: int | None = None,
        lane: int | None = None,
        n_lanes: int | None = None,
        alpha: float = 1.0,
        key: Any = None,
    ) -> npt.NDArray[np.int64]:
        """Return the ids of the k_pool nearest elements found, in rank order, for `LaneSearch`.

        Parameters
        ----------
        queries, k_pool, ef, filter, rerank, eps0, n_threads
            As for `search`.
        lane, n_lanes : int, optional
            Collect what this lane of so many owns alone, by the scheme "owner" of `plan`, while
            walking through the others: lanes that each ask for themselves get pools without an id
            in common, and no pool is needed to agree on.
        alpha : float, default 1.0
            As for `plan`: below 1 some candidates belong to all lanes.
        key : optional
            As for `plan`; by default each query's own, see `query_keys`.

        Returns
        -------
        ndarray of int64, shape (n_queries, k_pool)
            -1 where there is none.

        Raises
        ------
        ValueError, TypeError
            As from `search`, or if `lane` is not one of `n_lanes`.

        Examples
        --------
        >>> import numpy as np
        >>> import lanewise as lw
        >>> X = np.random.default_rng(0).standard_normal((500, 8), dtype=np.float32)
        >>> index = lw.HNSW.build(X)
        >>> pools = [index.pool(X[:1], 20, lane=r, n_lanes=4) for r in range(4)]
        >>> len(np.unique(pools))
        80
        """
        if lane is None:
            if n_lanes is not None:
                raise ValueError("lane: expected one of n_lanes, got None")
            return self._search(queries, k_pool, ef, filter, rerank, eps0, n_threads).ids
        return self.collect(
            queries,
            k_pool,
            lane=lane,
            n_lanes=n_lanes,
            alpha=alpha,
            key=key,
            ef=ef,
            filter=filter,
            rerank=rerank,
            eps0=eps0,
            n_threads=n_threads,
        ).ids

    def collect(
        self,
        queries: Any,
        k: int,
        *,
        lane: int,
        n_lanes: Any,
        alpha: float = 1.0,
        key: Any = None,
        ef: int | None = None,
        filter: Any = None,
        rerank: int | None = None,
        eps0: float | None = None,
        n_threads: int | None = None,
    ) -> SearchResult:
        """Find the k nearest of one lane: `pool` with distances and `stats`.

        Parameters and errors are those of `pool`.
        """
        lane, n_lanes = check_lane(lane, n_lanes)
        alpha = check_real(alpha, "alpha", low=0.0, high=1.0)
        owner = _Owner(lane, n_lanes, alpha, key)
        return self._search(queries, k, ef, filter, rerank, eps0, n_threads, owner)

    def stream(
        self,
        query: Any,
        k_pool: int,
        *,
        ef: int | None = None,
        filter: Any = None,
        rerank: int | None = None,
        eps0: float | None = None,
        n_lanes: int | None = None,
        alpha: float = 1.0,
        key: Any = None,
    ) -> CandidateStream:
        """Search for one query step by step, so that candidates can be scored as they are found.

        A candidate is handed out when its neighbours are looked at: by then it nearly always stays
        in the pool, and the first ones come after a few steps.

        Parameters
        ----------
        query : array-like of shape (dim,) or (1, dim)
        k_pool, ef, filter, rerank, eps0
            As for `pool`.
        n_lanes : int, optional
            Say whose each candidate is, of so many lanes, by the scheme "owner" of `plan`, the only
            one that can tell without the whole pool.
        alpha, key
            As for `pool`: below 1 some candidates are everybody's, which the key tells as well.

        Returns
        -------
        CandidateStream
            To iterate over, or to `advance` by hand; its `finish` returns what `search` does.

        Raises
        ------
        ValueError, TypeError
            As from `pool`, or if there is not just one query.

        Examples
        --------
        >>> import numpy as np
        >>> import lanewise as lw
        >>> X = np.random.default_rng(0).standard_normal((500, 8), dtype=np.float32)
        >>> index = lw.HNSW.build(X)
        >>> with index.stream(X[0], 20, n_lanes=4) as stream:
        ...     early = [candidate for some in stream for candidate in some.ids.tolist()]
        ...     pool = stream.finish().ids
        >>> bool((pool == index.pool(X[0], 20)).all()), set(early) <= set(pool[0].tolist())
        (True, True)
        """
        k_pool = check_int(k_pool, "k_pool", low=0, high=2**31 - 1)
        asked = self._asked(query, "query", k_pool, ef, filter, rerank, eps0)
        if len(asked.queries) != 1:
            raise ValueError(f"query: expected one, got {len(asked.queries)}")
        owners = Owners.asked(asked.queries, n_lanes, alpha, key, self._kernels)
        walk = None
        if asked.n_found > 0:
            assert asked.snapshot.native is not None
            stored, rotated = asked.steering(1)
            walk = Walk(
                _native.GraphStream(
                    asked.snapshot.native,
                    self._kernels,
                    stored[0],
                    None if rotated is None else rotated[0],
                    asked.eps0,
                    asked.n_found,
                    asked.ef,
                    asked.rerank,
                    asked.allowed,
                )
            )
        return CandidateStream(walk, asked.k, asked.n_found, _STATS, owners)

    def _search(
        self,
        queries: Any,
        k: int,
        ef: int | None,
        filter: Any,
        rerank: int | None,
        eps0: float | None,
        n_threads: int | None,
        owner: _Owner | None = None,
    ) -> SearchResult:
        asked = self._asked(queries, "queries", k, ef, filter, rerank, eps0)
        threads = resolve_threads(self._n_threads if n_threads is None else n_threads)
        words = {} if owner is None else owner.words(asked.queries)
        n, k, found = len(asked.queries), asked.k, asked.n_found
        distances = np.full((n, k), np.inf, dtype=np.float32)
        ids = np.full((n, k), -1, dtype=np.int64)
        stats = np.zeros((n, len(_STATS)), dtype=np.uint64)
        if n > 0 and found > 0:
            assert asked.snapshot.native is not None
            answers = np.empty((n, found), dtype=np.float32)
            labels = np.empty((n, found), dtype=np.int64)
            asked.snapshot.native.search(
                self._kernels,
                *asked.steering(threads),
                asked.eps0,
                asked.ef,
                asked.rerank,
                asked.allowed,
                answers,
                labels,
                stats,
                threads,
                **words,
            )
            distances[:, :found], ids[:, :found] = answers, labels
        return SearchResult(distances, ids, {name: stats[:, i] for i, name in enumerate(_STATS)})

    def _asked(
        self,
        queries: Any,
        name: str,
        k: int,
        ef: int | None,
        filter: Any,
        rerank: int | None,
        eps0: float | None,
    ) -> _Asked:
        """Validate what a search is asked for."""
        snapshot = self._snapshot
        graph = snapshot.graph
        Q = accepted_queries(queries, graph.dim, name)
        k = check_int(k, "k", low=0, high=2**31 - 1)
        ef = check_int(self.ef if ef is None else ef, "ef", low=0, high=2**31 - 1)
        if rerank is not None:
            if self._storage == "f32":
                raise ValueError("rerank: is for storage 'sq8', 'sq4' and 'adsampling', not 'f32'")
            rerank = check_int(rerank, "rerank", low=max(k, 1), high=2**31 - 1)
        if eps0 is not None:
            if self._storage != "adsampling":
                raise ValueError(f"eps0: is for storage 'adsampling', not {self._storage!r}")
            eps0 = check_real(eps0, "eps0", low=0.0, allow_inf=True)
        eps0 = _EPS0 if eps0 is None else eps0
        width = max(ef, k)
        rerank = width if rerank is None else rerank
        return _Asked(snapshot, Q, k, width, rerank, eps0, self._allowed(graph, filter))

    @staticmethod
    def _allowed(graph: GraphArrays, filter: Any) -> npt.NDArray[np.uint64] | None:
        """One bit an element, None for all."""
        live = None if graph.deleted is None else ~graph.deleted
        if filter is None:
            return None if live is None else packed_bits(live)
        mask = as_row_mask(filter, "filter", len(graph))
        if mask is None:
            wanted = as_vector_ids(filter, "filter")
            missing = ~np.isin(wanted, graph.ids)
            if missing.any():
                raise ValueError(f"filter: {int(wanted[missing][0])} is not in the index")
            mask = np.isin(graph.ids, wanted)
        return packed_bits(mask if live is None else mask & live)

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return self._snapshot.graph.dim

    @property
    def metric(self) -> str:
        """Name of the metric."""
        return self._snapshot.graph.metric

    @property
    def storage(self) -> str:
        """What steers a search."""
        return self._storage

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """Ids of all elements, in hnswlib's order, deleted ones included."""
        return self._snapshot.graph.ids.copy()

    @property
    def rows(self) -> npt.NDArray[np.float32]:
        """The rows that answers are scored on, in the order of `ids`; read-only."""
        view = self._snapshot.graph.rows[:, : self.dim]
        view.flags.writeable = False
        return view

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays that the index holds, rows on the disk included."""
        return self.hot_bytes + (0 if self.storage == "f32" else self._snapshot.graph.rows.nbytes)

    @property
    def hot_bytes(self) -> int:
        """Bytes that steer searches: those of the rows, which may lie on the disk, if they do."""
        snapshot = self._snapshot
        arrays = list(snapshot.graph.arrays.items())
        if self.storage != "f32":
            arrays = [(name, a) for name, a in arrays if name != "rows"]
        if snapshot.steering is not None:
            arrays += snapshot.steering.arrays.items()
        return sum(a.nbytes for _, a in arrays)

    def __len__(self) -> int:
        return len(self._snapshot.graph)

    def __reduce__(self) -> tuple[Any, ...]:
        # The kernel set belongs to the machine, not to the data: another machine picks its own.
        return _unpickled, (*self._parts(), self._n_threads)

    def __repr__(self) -> str:
        return f"HNSW(dim={self.dim}, metric={self.metric!r}, n={len(self)})"


@dataclass(frozen=True, eq=False)
class _Asked:
    """What a search is asked for, validated."""

    snapshot: _Snapshot
    queries: npt.NDArray[np.float32]
    k: int
    ef: int
    rerank: int
    eps0: float
    allowed: npt.NDArray[np.uint64] | None

    @property
    def n_found(self) -> int:
        """Answers that there can be."""
        return min(self.k, len(self.snapshot.graph))

    def steering(
        self, n_threads: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        """Return the queries as rows are stored, and as rotated rows are if there are any."""
        graph, Q = self.snapshot.graph, self.queries
        if graph.metric == "cosine":
            Q = normalized(Q)
        beyond = padded_dim(graph.dim) - graph.dim
        if beyond > 0:
            Q = np.pad(Q, ((0, 0), (0, beyond)))
        steering = self.snapshot.steering
        if not isinstance(steering, RotatedRows):
            return Q, None
        return Q, steering.rotation.transform(Q, n_threads=n_threads)


@dataclass(frozen=True)
class _Owner:
    """What a lane owns alone."""

    lane: int
    n_lanes: int
    alpha: float
    key: Any

    def words(self, Q: npt.NDArray[np.float32]) -> dict[str, Any]:
        return {
            "keys": keys_of(Q, self.key),
            "lane": self.lane,
            "n_lanes": self.n_lanes,
            "share_below": share_below(self.alpha, self.n_lanes),
        }


def _unpickled(
    header: dict[str, Any], arrays: dict[str, npt.NDArray[Any]], n_threads: int | None
) -> HNSW:
    return HNSW._restored(header, arrays, True, None, n_threads)


def _part_of(storage: str) -> str:
    """Return what the names of the arrays that steer begin with in a file."""
    return "rotated." if storage == "adsampling" else "codes."


def _check_storage(storage: Any, dim: int) -> str:
    name = check_choice(storage, "storage", _STORAGES)
    if name in _BITS and dim > _MAX_CODE_DIM:
        raise ValueError(f"storage: {name!r} takes at most {_MAX_CODE_DIM} dimensions, got {dim}")
    return name


def _taken_over(index: Any) -> GraphArrays:
    for attribute in ("knn_query", "get_current_count", "space", "dim", "__getstate__"):
        if not hasattr(index, attribute):
            raise TypeError(f"index: expected an hnswlib.Index, got {type(index).__name__}")
    try:
        return GraphArrays.from_state(index.__getstate__()[0])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"index: expected an intact graph, {error}") from error


def _hnswlib(who: str) -> Any:
    try:
        import hnswlib
    except ImportError as error:
        raise ImportError(f'{who} needs hnswlib: pip install "lanewise[hnsw]"') from error
    return hnswlib


def _add_items(
    index: Any,
    rows: npt.NDArray[np.float32],
    ids: npt.NDArray[np.int64],
    threads: int,
    report: Progress,
) -> None:
    report("building", 0, len(rows))
    for begin in range(0, len(rows), _STEP):
        chunk = slice(begin, begin + _STEP)
        index.add_items(rows[chunk], ids[chunk].astype(np.uint64), num_threads=threads)
        report("building", min(begin + _STEP, len(rows)), len(rows))
