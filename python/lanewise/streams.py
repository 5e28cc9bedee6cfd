"""A search whose candidates come as it finds them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from lanewise import _native
from lanewise.arrays import check_int, check_real
from lanewise.kernels import Kernels
from lanewise.lanes.planning import keys_of, share_below
from lanewise.result import SearchResult

__all__ = ["CandidateStream", "Candidates", "Owners", "Source", "Walk"]

_MOST = 4096

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Lanes = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Candidates:
    """Some candidates, in the order in which a search came by them.

    Attributes
    ----------
    ids : ndarray of int64, shape (n,)
    distances : ndarray of float32, shape (n,)
        What steers the search: canonical distances; of rotated rows the same up to rounding; with
        codes estimates, less what is the same for all, that only compare with each other.
    lanes : ndarray of int32, shape (n,), or None
        Whose they are by the scheme "owner", -1 for everybody's; None if nobody asked.
    """

    ids: Ids
    distances: Floats
    lanes: Lanes | None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Owners:
    """Whose a candidate is, by the scheme "owner" of `lanewise.lanes.plan`.

    Attributes
    ----------
    key : ndarray of uint64, shape (2,)
    n_lanes : int
    share_below : int
        As from `lanewise.lanes.planning.share_below`.
    kernels : Kernels
    """

    key: npt.NDArray[np.uint64]
    n_lanes: int
    share_below: int
    kernels: Kernels

    @classmethod
    def asked(
        cls, query: Floats, n_lanes: Any, alpha: Any, key: Any, kernels: Kernels
    ) -> Owners | None:
        """Validate what a stream was asked for, for one query (1, dim); None without lanes."""
        if n_lanes is None:
            return None
        n_lanes = check_int(n_lanes, "n_lanes", low=1, high=2**16)
        alpha = check_real(alpha, "alpha", low=0.0, high=1.0)
        return cls(keys_of(query, key)[0], n_lanes, share_below(alpha, n_lanes), kernels)

    def of(self, ids: Ids) -> Lanes:
        """Return the lane of each id, -1 for those that all lanes share, and for -1."""
        lanes = np.empty(len(ids), dtype=np.int32)
        _native.owners_of(self.kernels, ids, self.key, self.n_lanes, self.share_below, lanes)
        return lanes


class Source(Protocol):
    """What a `CandidateStream` is made of: a search that stops and goes on."""

    # How far to advance between two looks at what was found; the last one for ever.
    pace: tuple[int, ...]

    def advance(self, n: int) -> tuple[Floats, Ids]:
        """Go on, for at most n steps; return distances and ids of candidates that are new."""

    def ended(self) -> bool:
        """Whether the search has come to its end."""

    def bound(self) -> float:
        """Distance beyond which a candidate is hardly in the pool."""

    def answer(self, distances: Floats, ids: Ids, stats: npt.NDArray[np.uint64]) -> None:
        """Fill all three with the pool so far, best first. Then nothing else is asked."""


class Walk:
    """A walk through a graph, whose steps are elements whose neighbours are looked at.

    Parameters
    ----------
    native : _native.GraphStream
    """

    # Few until lanes begin, then more: lanes want the interpreter's lock as well, and get it while
    # the walk is long away.
    pace: tuple[int, ...] = (8, 4, 64, 512, 2048)

    def __init__(self, native: _native.GraphStream) -> None:
        self._native = native
        self.ended, self.bound, self.answer = native.ended, native.bound, native.answer

    def advance(self, n: int) -> tuple[Floats, Ids]:
        """See `Source`."""
        distances, ids = np.empty(n, dtype=np.float32), np.empty(n, dtype=np.int64)
        found = self._native.advance(n, distances, ids)
        return distances[:found], ids[:found]


class CandidateStream:
    """One query's search, which goes on as it is asked to. See `HNSW.stream` and `IVF.stream`.

    It sees the index as it was when it was made. One thread at a time may use it.

    Attributes
    ----------
    k_pool : int
    owners : Owners or None
    """

    def __init__(
        self,
        source: Source | None,
        k_pool: int,
        n_found: int,
        stats: tuple[str, ...],
        owners: Owners | None,
    ) -> None:
        self.k_pool = k_pool
        self.owners = owners
        self._source = source  # None if there is nothing to find, and when closed
        self._n_found = n_found
        self._stats = stats
        self._closed = False

    @property
    def ended(self) -> bool:
        """Whether the search has come to its end."""
        return self._source is None or self._source.ended()

    @property
    def pace(self) -> tuple[int, ...]:
        """How far to `advance` between two looks at the lanes; the last one for ever."""
        return (_MOST,) if self._source is None else self._source.pace

    @property
    def bound(self) -> float:
        """Distance, as in `Candidates`, beyond which candidates are hardly in the pool at the end.

        It never grows. Without codes it is certain: such a candidate is not.
        """
        return np.inf if self._source is None else self._source.bound()

    def advance(self, n_expansions: int) -> Candidates:
        """Let the search go on for a while.

        Parameters
        ----------
        n_expansions : int
            Elements of a graph whose neighbours are looked at, or cells that are read, at most.

        Returns
        -------
        Candidates
            That may be answered, none of them returned before.

        Raises
        ------
        ValueError, TypeError
            If `n_expansions` is out of its range, the stream is closed, or another thread is in it.
        """
        n = min(check_int(n_expansions, "n_expansions", low=1), _MOST)
        self._check_open()
        if self._source is None:
            distances, ids = np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int64)
        else:
            distances, ids = self._source.advance(n)
        return Candidates(ids, distances, None if self.owners is None else self.owners.of(ids))

    def __iter__(self) -> Iterator[Candidates]:
        """Yield candidates until the search has ended: few at first, twice as many each time."""
        for size in itertools.count():
            if self.ended:
                return
            some = self.advance(1 << min(size, 8))
            if len(some) > 0:
                yield some

    def finish(self, *, early: bool = False) -> SearchResult:
        """Return the pool, and close the stream.

        Parameters
        ----------
        early : bool, default False
            Do not go on to the end: the pool is what was found so far.

        Returns
        -------
        SearchResult
            Shapes (1, k_pool). At the end of the search it is what the index's ``search`` returns
            for the same arguments, bit for bit, with `HNSW` `stats` included.

        Raises
        ------
        ValueError
            If the stream is closed, or another thread is in it.
        """
        self._check_open()
        while not (early or self.ended):
            self.advance(_MOST)
        distances = np.full((1, self.k_pool), np.inf, dtype=np.float32)
        ids = np.full((1, self.k_pool), -1, dtype=np.int64)
        stats = np.zeros((1, len(self._stats)), dtype=np.uint64)
        if self._source is not None:
            n = self._n_found
            self._source.answer(distances[0, :n], ids[0, :n], stats[0])
        self.close()
        return SearchResult(
            distances, ids, {name: stats[:, i] for i, name in enumerate(self._stats)}
        )

    def close(self) -> None:
        """Let go of what the search holds. Again is no error."""
        self._closed = True
        self._source = None

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("stream: expected an open one, it is closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()
