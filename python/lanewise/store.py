"""Rows in memory: as they came, to settle answers, and once more in planes, to scan."""

from __future__ import annotations

import math
import threading
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lanewise import _native
from lanewise.arrays import (
    BYTES,
    Numbers,
    as_id_lists,
    as_kept_matrix,
    as_matrix,
    as_row_mask,
    as_vector_ids,
    check_int,
    check_metric,
    check_real,
    packed_bits,
    unpacked_bits,
    with_room,
)
from lanewise.binary import FINE_BITS, BinaryPlanes, BitPlan
from lanewise.canonical import canonical_queries, check_lengths, normalized
from lanewise.kernels import Kernels, get
from lanewise.planes import BlockPlanes, CodePlanes, Planes
from lanewise.pq import ProductPlanes
from lanewise.progress import Progress, say_nothing
from lanewise.result import RangeResult, SearchResult
from lanewise.streams import CandidateStream, Owners
from lanewise.threads import resolve_threads

__all__ = ["Rows", "check_arrays", "row_numbers"]

_BLOCK = 64
_LANES = 16
_MAX_CODE_DIM = 65_536
_MAX_PCA_DIM = 4_096
# Rows that play queries to find out how likely bounds must be, and the neighbours of each.
_TRIALS = 64
_NEIGHBORS = 10
_STATS = ("candidates", "dimensions", "settled")
# Dimensions that a stream looks at between two decisions, as a search does.
_STREAM_DELTA = 32

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Bits = npt.NDArray[np.uint64]


@dataclass(eq=False)
class State:
    """One state of the rows. A change works on a copy, which replaces the state when it is whole.

    The arrays may be longer than the state: what lies behind is room to grow, and a later state
    may already use it.
    """

    rows: Numbers
    planes: Planes
    list_begin: Ids
    list_size: Ids
    row_of: Ids | None = None  # row at each position; None if there is but one list, in order
    list_of: npt.NDArray[np.int32] | None = None  # list of each row
    ids: Ids | None = None  # id of each row; None if it is the row number
    allowed: Bits | None = None  # one bit a row, clear if it was removed; None if none was
    n: int = 0
    n_removed: int = 0
    n_fitted: int = 0
    next_id: int = 0
    max_norm2: float = 0.0

    @property
    def positions(self) -> int:
        return int(self.list_begin[-1])

    @property
    def live(self) -> npt.NDArray[np.bool_] | None:
        """Which rows were not removed; None for all."""
        return None if self.allowed is None else unpacked_bits(self.allowed, self.n)


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A state as searches see it: they hold on to it while rows are added."""

    state: State
    rows: Numbers
    store: _native.Store
    planes: _native.Blocks | _native.Codes | _native.Bits | _native.Products | None

    @property
    def n_live(self) -> int:
        """Rows that can be found."""
        return self.state.n - self.state.n_removed


class Rows:
    """Vectors of one dimension and metric, in one list or in many.

    What `Flat`, `IVF` and `IVFPQ` have in common: validation, canonical rows, planes, the scan.

    Parameters
    ----------
    dim, metric, storage, rotation, seed, kernels, n_threads
        As for `lanewise.Flat`.
    products : ProductPlanes, optional
        Without rows, and without a plan until the lists are trained: storage is "pq" then, which is
        for `lanewise.IVFPQ` alone.
    """

    def __init__(
        self,
        dim: int,
        metric: str,
        storage: str,
        rotation: str | None,
        seed: int,
        kernels: str | Kernels | None,
        n_threads: int | None,
        *,
        products: ProductPlanes | None = None,
    ) -> None:
        self.dim = check_int(dim, "dim", low=1, high=2**24)
        self.metric = check_metric(metric)
        self.kernels = get(kernels)
        self.n_threads = n_threads
        resolve_threads(n_threads)
        self.seed = check_int(seed, "seed", low=0, high=2**64 - 1)
        self._products = products
        if products is None:
            storage = _check_storage(storage, self.dim)
            rotation = _check_rotation(rotation, storage, self.dim)
        self.storage, self.rotation = storage, rotation
        self._lock = threading.Lock()
        self._publish(
            State(
                np.empty((0, self.dim), dtype=np.float32),
                self._no_planes(),
                *self._one_list(0),
            )
        )

    def _one_list(self, n: int) -> tuple[Ids, Ids]:
        """Beginnings and sizes of lists if there is but one, of n rows in order."""
        # A block of rotated rows is whole from the first: it may not grow while others search it.
        unit = _BLOCK if self.storage == "f32" else _LANES
        return np.array([0, -(-n // unit) * unit], dtype=np.int64), np.array([n], dtype=np.int64)

    def _no_planes(self) -> Planes:
        if self.storage == "f32":
            return BlockPlanes(self.dim, self.seed, self.product)
        if self.storage in FINE_BITS:
            return BinaryPlanes(self.dim, self.rotation, self.seed, FINE_BITS[self.storage])
        if self._products is not None:
            return self._products
        return CodePlanes(self.dim, self.rotation, self.product, 4 if self.storage == "sq4" else 8)

    @property
    def product(self) -> bool:
        """Whether distances are made of inner products."""
        return self.metric != "l2"

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays held, in memory or mapped into it."""
        return self.hot_bytes + self.snapshot.state.rows.nbytes

    @property
    def hot_bytes(self) -> int:
        """Bytes that every search reads: all but the rows."""
        s = self.snapshot.state
        small = (s.row_of, s.list_of, s.ids, s.allowed)
        return s.planes.nbytes + sum(array.nbytes for array in small if array is not None)

    def __len__(self) -> int:
        return self.snapshot.n_live

    @property
    def ids(self) -> Ids:
        """Ids of the rows that can be found, in the order in which they were added."""
        state = self.snapshot.state
        live = state.live
        ids = self._all_ids(state)
        return ids.copy() if live is None else ids[live]

    def threads(self, n_threads: int | None) -> int:
        """Threads for one call: its own number, or this object's default."""
        return resolve_threads(self.n_threads if n_threads is None else n_threads)

    def as_rows(self, X: Any, name: str) -> tuple[Floats, float]:
        """Validate vectors to be stored; return them canonical, and their largest squared norm."""
        return self._canonical(as_matrix(X, name, dim=self.dim), name)

    def _as_kept_rows(self, X: Any, name: str) -> tuple[Numbers, float]:
        """Like `as_rows`, but uint8 and int8 stay what they are unless rows are normalised."""
        if self.metric == "cosine":
            return self.as_rows(X, name)
        rows = as_kept_matrix(X, name, self.dim)
        return rows, check_lengths(rows, name)

    def as_canonical_queries(self, queries: Any) -> Floats:
        """Validate queries; return them as they are scored."""
        return canonical_queries(queries, self.dim, self.metric)

    def _canonical(self, rows: Floats, name: str) -> tuple[Floats, float]:
        if self.metric == "cosine":
            return normalized(rows), 1.0
        return rows, check_lengths(rows, name)

    def emptied(self, products: ProductPlanes) -> Rows:
        """Return the same without rows, with other planes to come."""
        return Rows(
            self.dim,
            self.metric,
            self.storage,
            self.rotation,
            self.seed,
            self.kernels,
            self.n_threads,
            products=products,
        )

    def append(
        self, X: Any, ids: Any, n_threads: int | None, report: Progress = say_nothing
    ) -> None:
        """Add rows at the end of the only list."""
        rows, largest = self._as_kept_rows(X, "X")
        wanted = None if ids is None else _as_new_ids(ids, len(rows))
        threads = self.threads(n_threads)
        if len(rows) == 0:
            return
        with self._lock:
            new = copy(self.snapshot.state)
            self._add_ids(new, wanted, len(rows), threads, report)
            old = new.n
            new.n = old + len(rows)
            new.list_begin, new.list_size = self._one_list(new.n)
            # Rows of two types meet as floats.
            dtype = rows.dtype if old == 0 or rows.dtype == new.rows.dtype else np.dtype(np.float32)
            new.rows = with_room(new.rows, old, new.n, dtype)
            new.rows[old : new.n] = rows
            if new.allowed is not None:
                live = np.ones(new.n, dtype=np.bool_)
                live[:old] = unpacked_bits(new.allowed, old)
                new.allowed = packed_bits(live)
            new.max_norm2 = max(new.max_norm2, largest)
            if new.n >= 2 * new.n_fitted:
                # What was learned follows the data while it doubles: it stays fitting, and adding
                # row by row costs a constant factor.
                self._fit(new, threads, report)
            else:
                new.planes = new.planes.grown(new.positions)
                self._fill(new, old, threads, report)
            self._publish(new, old)

    @staticmethod
    def _all_ids(state: State) -> Ids:
        return np.arange(state.n) if state.ids is None else state.ids[: state.n]

    def _add_ids(
        self, new: State, wanted: Ids | None, m: int, threads: int, report: Progress
    ) -> None:
        """Enter the ids of m further rows."""
        if wanted is None:
            if new.next_id + m > np.iinfo(np.int64).max:
                raise ValueError("ids: expected ids, because the largest possible is in use")
            if new.ids is None:
                new.next_id += m
                return
            wanted = np.arange(new.next_id, new.next_id + m)
        elif np.array_equal(wanted, np.arange(new.n, new.n + m)) and new.ids is None:
            new.next_id = new.n + m
            return
        else:
            known = np.isin(wanted, self.ids)
            if known.any():
                raise ValueError(f"ids: {int(wanted[known][0])} is in the index already")
            live = new.live
            if live is not None and np.isin(wanted, self._all_ids(new)).any():
                # An id that was removed comes back: two rows of one name would be one too many.
                self._compact(new, live, threads, report)
        if new.ids is None:
            new.ids = np.arange(new.n)
        new.ids = with_room(new.ids, new.n, new.n + m, new.ids.dtype)
        new.ids[new.n : new.n + m] = wanted
        new.next_id = max(new.next_id, int(wanted.max()) + 1)

    def arrange(
        self,
        X: Floats,
        labels: npt.NDArray[np.int32],
        n_lists: int,
        ids: Any,
        threads: int,
        report: Progress = say_nothing,
    ) -> None:
        """Add canonical rows to the lists that their labels name; all lists are laid out anew."""
        wanted = None if ids is None else _as_new_ids(ids, len(X))
        if len(X) == 0:
            return
        with self._lock:
            new = copy(self.snapshot.state)
            if new.live is not None:
                self._drop(new, new.live)
            self._add_ids(new, wanted, len(X), threads, report)
            old = new.list_of if new.list_of is not None else np.empty(0, dtype=np.int32)
            new.rows = np.concatenate((new.rows[: new.n], X))
            new.n = len(new.rows)
            new.max_norm2 = _native.squared_norms(new.rows, np.empty(new.n, dtype=np.float64))
            self._lay_out(new, np.concatenate((old, labels)), n_lists)
            self._fit(new, threads, report)
            self._publish(new)

    @staticmethod
    def _lay_out(new: State, labels: npt.NDArray[np.int32], n_lists: int) -> None:
        """Give each row a position in the list that its label names."""
        sizes = np.bincount(labels, minlength=n_lists).astype(np.int64)
        new.list_begin = np.concatenate(([0], np.cumsum(-(-sizes // _LANES) * _LANES)))
        order = np.argsort(labels, kind="stable")
        first_of_list = np.cumsum(sizes) - sizes
        lists = labels[order]
        place = new.list_begin[lists] + np.arange(len(labels)) - first_of_list[lists]
        new.row_of = np.full(new.positions, -1, dtype=np.int64)
        new.row_of[place] = order
        new.list_size, new.list_of = sizes, labels

    def remove(self, ids: Any, n_threads: int | None) -> None:
        """Forget rows: see `lanewise.Flat.remove`."""
        threads = self.threads(n_threads)
        with self._lock:
            new = copy(self.snapshot.state)
            wanted = np.unique(self._find(new, as_vector_ids(ids, "ids", ndim=1), "ids"))
            live = np.ones(new.n, dtype=np.bool_) if new.live is None else new.live
            live[wanted] = False
            new.allowed = packed_bits(live)
            new.n_removed += len(wanted)
            if 4 * new.n_removed > new.n:
                # Searches still read what is removed: past a quarter the rest moves together.
                self._compact(new, live, threads)
            self._publish(new, new.n)

    def _compact(
        self, new: State, live: npt.NDArray[np.bool_], threads: int, report: Progress = say_nothing
    ) -> None:
        self._drop(new, live)
        if new.n > 0:
            self._fit(new, threads, report)

    def _drop(self, new: State, live: npt.NDArray[np.bool_]) -> None:
        """Leave out removed rows; what is left has no planes yet."""
        new.ids = np.flatnonzero(live) if new.ids is None else new.ids[: new.n][live]
        new.rows = np.asarray(new.rows[: new.n])[live]
        new.n, new.n_removed, new.allowed = len(new.rows), 0, None
        new.planes, new.n_fitted = self._no_planes(), 0
        if new.list_of is None or new.n == 0:
            new.list_begin, new.list_size = self._one_list(new.n)
            new.row_of = new.list_of = None
        else:
            self._lay_out(new, new.list_of[live], len(new.list_size))

    def _fit(self, new: State, threads: int, report: Progress) -> None:
        report("learning", 0, 1)
        new.planes = self._no_planes().fitted(
            new.rows[: new.n], new.positions, self.kernels, threads
        )
        new.n_fitted = new.n
        report("learning", 1, 1)
        self._fill(new, 0, threads, report)
        self._calibrate(new, threads, report)

    def _calibrate(self, new: State, threads: int, report: Progress) -> None:
        """Let rows that play queries tell how neighbours look."""
        k = min(_NEIGHBORS, new.n - 1)
        if k < 1 or not isinstance(new.planes, CodePlanes):
            return
        report("calibrating", 0, 1)
        rows = new.rows[: new.n]
        trials = np.arange(0, new.n, -(-new.n // _TRIALS))
        Q = np.ascontiguousarray(rows[trials], dtype=np.float32)
        distances = np.empty((len(Q), k + 1), dtype=np.float32)
        found = np.empty((len(Q), k + 1), dtype=np.int64)
        # Ids are row numbers here: the store's own may be the caller's.
        _native.scan(
            self.kernels,
            self._store(replace(new, ids=None), new.positions),
            new.planes.native(new.positions),
            Q,
            None,
            None,
            k + 1,
            math.inf,
            self.dim,
            distances,
            found,
            _no_stats(len(Q)),
            threads,
        )
        # A query is its own nearest row, or as near as it.
        new.planes = new.planes.calibrated(
            Q,
            rows[found[:, 1:]].astype(np.float32, copy=False),
            distances[:, 1:],
            self.kernels,
            threads,
        )
        report("calibrating", 1, 1)

    def _fill(self, new: State, first: int, threads: int, report: Progress) -> None:
        store = self._store(new, new.positions)
        begin = first // _BLOCK * _BLOCK
        total = new.positions - begin
        # At a hundred places at most, and never so often that threads wait for each other.
        step = max(-(-total // (100 * _BLOCK)), 8 * threads) * _BLOCK
        step = total if report is say_nothing else step
        report("filling", 0, total)
        for at in range(begin, new.positions, step):
            last = min(at + step, new.positions)
            new.planes = new.planes.fill(store, self.kernels, max(at, first), last, threads)
            report("filling", last - begin, total)

    def _store(self, state: State, first_position: int) -> _native.Store:
        return _native.Store(
            self.metric,
            state.list_begin,
            state.list_size,
            None if state.row_of is None else state.row_of[: state.positions],
            None if state.ids is None else state.ids[: state.n],
            state.rows[: state.n],
            math.sqrt(state.max_norm2),
            first_position,
        )

    def _publish(self, state: State, first_position: int = 0) -> None:
        planes = state.planes.native(state.positions) if state.n > 0 else None
        # One assignment, so that nobody ever finds half of a change.
        self.snapshot = Snapshot(
            state, state.rows[: state.n], self._store(state, first_position), planes
        )

    def search(
        self,
        Q: Floats,
        k: int,
        *,
        probes: Ids | None = None,
        filter: Any,
        eps0: float,
        delta: int = 1,
        n_threads: int | None,
        rerank: int | None = None,
        n_probe: int = 0,
    ) -> SearchResult:
        """Scan the probed lists, all by default, for canonical queries.

        Product codes come with lists of their own, and get no `probes` but their number.
        """
        k = check_int(k, "k", low=0, high=2**31 - 1)
        rerank = self._check_rerank(rerank, k)
        refine = self._refine(rerank)
        eps0, delta, threads = self._check_dial(eps0, delta, n_threads)
        snapshot = self.snapshot
        allowed, n_allowed = self._allowed(snapshot, filter)
        stats = _no_stats(len(Q))
        k_scan = min(k, n_allowed)
        distances = np.empty((len(Q), k_scan), dtype=np.float32)
        ids = np.empty((len(Q), k_scan), dtype=np.int64)
        if len(Q) > 0 and k_scan > 0:
            assert snapshot.planes is not None
            _native.scan(
                self.kernels,
                snapshot.store,
                snapshot.planes,
                Q,
                probes,
                allowed,
                k_scan,
                eps0,
                delta,
                distances,
                ids,
                stats,
                threads,
                min(rerank, n_allowed),
                n_probe,
                min(refine, n_allowed),
            )
        return SearchResult(*_padded(distances, ids, k), _named(stats))

    def stream(
        self,
        query: Floats,
        k_pool: int,
        *,
        probes: Ids,
        filter: Any,
        owners: Owners | None,
        n_threads: int | None,
    ) -> CandidateStream:
        """Scan the probed lists (n_probe,) one after another, for one canonical query (1, dim)."""
        if self.storage in FINE_BITS:
            raise ValueError(
                f"stream: storage {self.storage!r} chooses among the candidates of all cells at "
                "once, use 'f32' or 'sq8'"
            )
        snapshot = self.snapshot
        allowed, n_allowed = self._allowed(snapshot, filter)
        n_found = min(k_pool, n_allowed)
        cells = None
        if n_found > 0:
            threads = self.threads(n_threads)
            cells = _Cells(self.kernels, snapshot, allowed, query, n_found, probes, threads)
        return CandidateStream(cells, k_pool, n_found, _STATS, owners)

    def within(
        self,
        Q: Floats,
        radius: float,
        *,
        filter: Any,
        eps0: float,
        delta: int,
        n_threads: int | None,
    ) -> RangeResult:
        """Find all rows no farther than the radius, for canonical queries."""
        if self.storage in FINE_BITS:
            raise ValueError(
                f"range_search: storage {self.storage!r} cannot know which rows are within a "
                "radius, use 'f32' or 'sq8'"
            )
        radius = check_real(radius, "radius", allow_inf=True)
        eps0, delta, threads = self._check_dial(eps0, delta, n_threads)
        snapshot = self.snapshot
        allowed, n_allowed = self._allowed(snapshot, filter)
        stats = _no_stats(len(Q))
        sizes = np.zeros(len(Q), dtype=np.int64)
        found = None
        if len(Q) > 0 and n_allowed > 0:
            assert snapshot.planes is not None
            found = _native.scan_within(
                self.kernels,
                snapshot.store,
                snapshot.planes,
                Q,
                None,
                allowed,
                _float32_below(radius),
                eps0,
                delta,
                stats,
                threads,
            )
            found.sizes(sizes)
        limits = np.concatenate(([0], np.cumsum(sizes)))
        distances = np.empty(int(limits[-1]), dtype=np.float32)
        ids = np.empty(int(limits[-1]), dtype=np.int64)
        if found is not None:
            found.copy(distances, ids)
        return RangeResult(limits, distances, ids, _named(stats))

    def _check_rerank(self, rerank: int | None, k: int) -> int:
        """Rows that a query scores exactly, if it has to choose."""
        if rerank is not None:
            if self.storage not in (*FINE_BITS, "pq"):
                raise ValueError(
                    f"rerank: is for storage 'binary', 'binary2' or 'binary4', not {self.storage!r}"
                )
            if self.storage == "pq" and rerank == 0:
                return 0
            return check_int(rerank, "rerank", low=max(k, 1), high=2**31 - 1)
        plan = self._bit_plan
        return max(1 if plan is None else plan.rerank, 10 * k)

    def _refine(self, rerank: int) -> int:
        """Candidates of the signs whose fine codes are read, 0 without such codes.

        At least as many as were learned; more in proportion, if more rows are scored than learned.
        """
        plan = self._bit_plan
        if plan is None or plan.fine_bits == 0:
            return 0
        return max(rerank, plan.refine, -(-plan.refine * rerank // max(plan.rerank, 1)))

    @property
    def _bit_plan(self) -> BitPlan | None:
        """What was learned for sign bits; None for other planes, and before there are rows."""
        planes = self.snapshot.state.planes
        return planes.plan if isinstance(planes, BinaryPlanes) else None

    def _check_dial(self, eps0: float, delta: int, n_threads: int | None) -> tuple[float, int, int]:
        eps0 = check_real(eps0, "eps0", low=0.0, allow_inf=True)
        delta = min(check_int(delta, "delta", low=1, high=2**31 - 1), self.dim)
        return eps0, delta, self.threads(n_threads)

    def _allowed(self, snapshot: Snapshot, filter: Any) -> tuple[Bits | None, int]:
        """Return one bit a row, None for all, and the number of rows allowed."""
        state = snapshot.state
        if filter is None:
            return state.allowed, snapshot.n_live
        mask = self._as_mask(state, snapshot.n_live, filter)
        return packed_bits(mask), int(mask.sum())

    def _as_mask(self, state: State, n_live: int, filter: Any) -> npt.NDArray[np.bool_]:
        live = state.live
        array = as_row_mask(filter, "filter", n_live)
        if array is not None:
            if live is None:
                return array
            mask = np.zeros(state.n, dtype=np.bool_)
            mask[live] = array
            return mask
        rows = self._find(state, as_vector_ids(filter, "filter", ndim=1), "filter")
        mask = np.zeros(state.n, dtype=np.bool_)
        mask[rows] = True
        return mask

    def _find(self, state: State, ids: Ids, name: str) -> Ids:
        """Row numbers of ids, -1 for -1; ValueError if one is not in the index."""
        known = None if state.ids is None else state.ids[: state.n]
        return row_numbers(known, state.allowed, state.n, ids, name)

    def _named(self, snapshot: Snapshot, queries: Any, ids: Any) -> tuple[Floats, Ids]:
        """Validate queries, and ids of rows for each; return them with row numbers."""
        Q = self.as_canonical_queries(queries)
        wanted = as_id_lists(ids, "ids", len(Q))
        return Q, np.ascontiguousarray(self._find(snapshot.state, wanted, "ids"))

    def score(self, queries: Any, ids: Any, n_threads: int | None) -> Floats:
        """Canonical distances of named rows: see `lanewise.Flat.score`."""
        snapshot = self.snapshot
        Q, rows = self._named(snapshot, queries, ids)
        distances = np.empty(rows.shape, dtype=np.float32)
        _native.score_lists(
            self.kernels,
            self.metric,
            Q,
            snapshot.rows,
            rows,
            distances,
            self.threads(n_threads),
        )
        return distances

    def rescore(self, queries: Any, ids: Any, k: int, n_threads: int | None) -> SearchResult:
        """Nearest of named rows: see `lanewise.Flat.rescore`."""
        k = check_int(k, "k", low=0, high=2**31 - 1)
        snapshot = self.snapshot
        Q, rows = self._named(snapshot, queries, ids)
        threads = self.threads(n_threads)
        stats = _no_stats(len(Q))
        k_scan = min(k, rows.shape[1])
        distances = np.empty((len(Q), k_scan), dtype=np.float32)
        found = np.empty((len(Q), k_scan), dtype=np.int64)
        if len(Q) > 0 and k_scan > 0:
            _native.rescore(
                self.kernels, snapshot.store, Q, rows, k_scan, distances, found, stats, threads
            )
        # How far a row was read before it was left is not counted.
        counted = _named(stats)
        del counted["dimensions"]
        return SearchResult(*_padded(distances, found, k), counted)

    def arrays(self) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
        """Return all that `restored` needs: a header of plain values, and arrays."""
        s = self.snapshot.state
        header = {
            "dim": self.dim,
            "metric": self.metric,
            "storage": self.storage,
            "rotation": self.rotation,
            "seed": self.seed,
            "n": s.n,
            "n_removed": s.n_removed,
            "n_fitted": s.n_fitted,
            "next_id": s.next_id,
            "max_norm2": s.max_norm2,
        }
        optional = {
            "row_of": None if s.row_of is None else s.row_of[: s.positions],
            "list_of": s.list_of,
            "ids": None if s.ids is None else s.ids[: s.n],
            "allowed": s.allowed,
        }
        arrays: dict[str, np.ndarray[Any, Any]] = {
            "rows": s.rows[: s.n],
            "list_begin": s.list_begin,
            "list_size": s.list_size,
        }
        arrays.update({name: array for name, array in optional.items() if array is not None})
        planes = s.planes.arrays(s.positions)
        return header, {**arrays, **{f"planes.{name}": a for name, a in planes.items()}}

    @classmethod
    def restored(
        cls,
        header: dict[str, Any],
        arrays: dict[str, np.ndarray[Any, Any]],
        *,
        product_codes: bool = False,
        kernels: str | Kernels | None = None,
        n_threads: int | None = None,
    ) -> Rows:
        """Return the rows that `arrays` described, in product codes only if they are asked for."""
        if (header["storage"] == "pq") != product_codes:
            raise ValueError(f"storage: got {header['storage']!r}, which is not of this index")
        planes = {
            name.removeprefix("planes."): array
            for name, array in arrays.items()
            if name.startswith("planes.")
        }
        rows = cls(
            header["dim"],
            header["metric"],
            header["storage"],
            header["rotation"],
            header["seed"],
            kernels,
            n_threads,
            products=ProductPlanes.without_rows(planes) if product_codes else None,
        )
        check_arrays(header, arrays, rows.dim, rows.metric)
        state = State(
            rows=arrays["rows"],
            planes=rows._no_planes().restored(planes),
            list_begin=arrays["list_begin"],
            list_size=arrays["list_size"],
            row_of=arrays.get("row_of"),
            list_of=arrays.get("list_of"),
            ids=arrays.get("ids"),
            allowed=arrays.get("allowed"),
            **{name: header[name] for name in ("n", "n_removed", "n_fitted", "next_id")},
            max_norm2=header["max_norm2"],
        )
        rows._publish(state)
        return rows

    def __reduce__(self) -> tuple[Any, ...]:
        # The kernel set belongs to the machine, not to the data: another machine picks its own.
        header, arrays = self.arrays()
        return _unpickled, (header, arrays, self.n_threads)


def row_numbers(
    known: Ids | None,
    allowed: Bits | None,
    n: int,
    ids: Ids,
    name: str,
    order: Ids | None = None,
) -> Ids:
    """Return the rows that ids name, -1 for -1; ValueError if one is not in the index.

    `known` holds the ids of all n rows, None if they are row numbers, and `order` sorts them, None
    to find out; `allowed` has one bit a row, clear if it was removed, None if none was.
    """
    if known is None:
        rows = np.where(ids < n, ids, -1)
    elif n == 0:
        rows = np.full_like(ids, -1)
    else:
        order = np.argsort(known, kind="stable") if order is None else order
        at = np.minimum(np.searchsorted(known, ids, sorter=order), n - 1)
        rows = np.where(known[order[at]] == ids, order[at], -1)
    if allowed is not None:
        words = allowed[rows // 64] >> (rows % 64).astype(np.uint64) & np.uint64(1)
        rows = np.where((rows >= 0) & (words == 0), -1, rows)
    missing = (rows < 0) & (ids != -1)
    if missing.any():
        raise ValueError(f"{name}: {int(ids[missing].flat[0])} is not in the index")
    return rows


def _unpickled(
    header: dict[str, Any], arrays: dict[str, np.ndarray[Any, Any]], n_threads: int | None
) -> Rows:
    product_codes = header["storage"] == "pq"
    return Rows.restored(header, arrays, product_codes=product_codes, n_threads=n_threads)


def check_arrays(
    header: dict[str, Any], arrays: dict[str, np.ndarray[Any, Any]], dim: int, metric: str
) -> None:
    """Raise ValueError unless arrays from outside fit; the native module checks the rest."""
    n = check_int(header["n"], "n", low=0)
    kept = arrays["rows"].dtype
    bytes_kept = metric != "cosine" and kept.type in BYTES
    shapes: dict[str, tuple[Any, tuple[int, ...]]] = {
        "rows": (kept if bytes_kept else np.float32, (n, dim)),
        "ids": (np.int64, (n,)),
        "list_of": (np.int32, (n,)),
        "allowed": (np.uint64, (-(-n // 64),)),
        "list_begin": (np.int64, (len(arrays["list_size"]) + 1,)),
        "list_size": (np.int64, arrays["list_size"].shape[:1]),
        "row_of": (np.int64, (int(arrays["list_begin"][-1]),)),
    }
    for name, (dtype, shape) in shapes.items():
        if name not in arrays and name in ("ids", "list_of", "allowed", "row_of"):
            continue
        array = arrays[name]
        if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
            raise ValueError(
                f"{name}: expected {np.dtype(dtype)} of shape {shape}, "
                f"got {array.dtype} of shape {array.shape}"
            )
    positions = int(arrays["list_begin"][-1])
    if "row_of" not in arrays and (positions % _LANES != 0 or not n <= positions < n + _BLOCK):
        raise ValueError(f"list_begin: expected room for {n} rows, got {positions} positions")
    for name in ("planes.base", "planes.norms"):
        if name in arrays and len(arrays[name]) != positions:
            raise ValueError(f"{name}: expected {positions} positions, got {len(arrays[name])}")
    removed = int(header["n_removed"])
    live = n if "allowed" not in arrays else int(unpacked_bits(arrays["allowed"], n).sum())
    if live != n - removed or not 0 <= removed <= n or not 0 <= int(header["n_fitted"]) <= n:
        raise ValueError(f"n_removed: {removed} does not fit {live} of {n} rows")
    max_norm2 = float(header["max_norm2"])
    if not 0 <= max_norm2 < math.inf:
        raise ValueError(f"max_norm2: expected a squared length, got {max_norm2}")
    if "ids" in arrays and n > 0 and (arrays["ids"].min() < 0 or len(np.unique(arrays["ids"])) < n):
        raise ValueError("ids: expected different ids, none negative")


def _check_storage(storage: Any, dim: int) -> str:
    known = ("auto", "f32", "sq8", "sq4", *FINE_BITS)
    if storage not in known:
        raise ValueError(f"storage: expected one of {known}, got {storage!r}")
    if storage == "auto":
        return "sq8" if dim <= _MAX_CODE_DIM else "f32"
    if storage != "f32" and dim > _MAX_CODE_DIM:
        raise ValueError(
            f"storage: {storage!r} takes at most {_MAX_CODE_DIM} dimensions, got {dim}"
        )
    return str(storage)


def _check_rotation(rotation: Any, storage: str, dim: int) -> str | None:
    choices: tuple[str | None, ...] = ("auto", "pca", None)
    if storage == "f32":
        choices = ("auto", "fwht")
    elif storage in FINE_BITS:
        choices = ("auto", "pca", "fwht")
    if rotation not in choices:
        raise ValueError(
            f"rotation: expected one of {choices} for storage {storage!r}, got {rotation!r}"
        )
    if rotation == "pca" and dim > _MAX_PCA_DIM:
        raise ValueError(f"rotation: 'pca' takes at most {_MAX_PCA_DIM} dimensions, got {dim}")
    return None if rotation is None else str(rotation)


def _as_new_ids(ids: Any, n: int) -> Ids:
    """Validate ids for n new rows."""
    wanted = as_vector_ids(ids, "ids", ndim=1)
    if len(wanted) != n:
        raise ValueError(f"ids: expected {n}, one for each row of X, got {len(wanted)}")
    unique, counts = np.unique(wanted, return_counts=True)
    if len(unique) < n:
        raise ValueError(f"ids: {int(unique[counts > 1][0])} is there twice")
    return wanted


def _float32_below(x: float) -> float:
    """Return the largest float32 not above x, so that comparing float32 distances is exact."""
    with np.errstate(over="ignore"):
        near = np.float32(x)
    # As Python floats: NumPy would compare both as float32.
    return float(np.nextafter(near, np.float32(-np.inf)) if float(near) > x else near)


class _Cells:
    """Lists scanned a few at a time, as the source of a stream, whose steps are lists.

    After c of p lists it hands out the best c / p of what a pool has room for, so far: in lists
    that are as near as those before, as many will go before a candidate as have gone already.
    """

    pace: tuple[int, ...] = (1, 3, 12, 48, 192)

    def __init__(
        self,
        kernels: Kernels,
        snapshot: Snapshot,
        allowed: Bits | None,
        query: Floats,
        k: int,
        probes: Ids,
        threads: int,
    ) -> None:
        self._kernels, self._snapshot, self._allowed = kernels, snapshot, allowed
        self._query, self._k, self._probes, self._threads = query, k, probes, threads
        self._n_read = 0
        self._distances, self._ids = np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int64)
        self._given = np.empty(0, dtype=np.int64)
        self._stats = _no_stats(1)

    def advance(self, n: int) -> tuple[Floats, Ids]:
        """See `lanewise.streams.Source`."""
        probes = self._probes[self._n_read : self._n_read + n]
        self._n_read += len(probes)
        if len(probes) > 0:
            self._scan(probes)
        likely = -(-self._k * self._n_read // len(self._probes))
        new = ~np.isin(self._ids[:likely], self._given)
        distances, ids = self._distances[:likely][new], self._ids[:likely][new]
        self._given = np.concatenate((self._given, ids))
        return distances, ids

    def _scan(self, probes: Ids) -> None:
        """Find what further lists have among the nearest."""
        assert self._snapshot.planes is not None
        distances = np.empty((1, self._k), dtype=np.float32)
        ids = np.empty((1, self._k), dtype=np.int64)
        stats = _no_stats(1)
        _native.scan(
            self._kernels,
            self._snapshot.store,
            self._snapshot.planes,
            self._query,
            probes[np.newaxis],
            self._allowed,
            self._k,
            math.inf,
            _STREAM_DELTA,
            distances,
            ids,
            stats,
            self._threads,
            radius=self.bound(),
        )
        self._stats += stats
        found = ids[0] >= 0
        distances = np.concatenate((self._distances, distances[0][found]))
        ids = np.concatenate((self._ids, ids[0][found]))
        nearest = np.lexsort((ids, distances))[: self._k]
        self._distances, self._ids = distances[nearest], ids[nearest]

    def ended(self) -> bool:
        """See `lanewise.streams.Source`."""
        return self._n_read == len(self._probes)

    def bound(self) -> float:
        """See `lanewise.streams.Source`."""
        return float(self._distances[-1]) if len(self._ids) == self._k else math.inf

    def answer(self, distances: Floats, ids: Ids, stats: Bits) -> None:
        """See `lanewise.streams.Source`."""
        distances[:], ids[:] = np.inf, -1
        distances[: len(self._ids)], ids[: len(self._ids)] = self._distances, self._ids
        stats[:] = self._stats[0]


def _padded(distances: Floats, ids: Ids, k: int) -> tuple[Floats, Ids]:
    """Fill answers up with (inf, -1) to k a query."""
    missing = ((0, 0), (0, k - distances.shape[1]))
    if missing[1] == (0, 0):
        return distances, ids
    return (
        np.pad(distances, missing, constant_values=np.inf),
        np.pad(ids, missing, constant_values=-1),
    )


def _no_stats(n: int) -> npt.NDArray[np.uint64]:
    return np.zeros((n, len(_STATS)), dtype=np.uint64)


def _named(stats: npt.NDArray[np.uint64]) -> dict[str, npt.NDArray[np.uint64]]:
    return {name: stats[:, i] for i, name in enumerate(_STATS)}
