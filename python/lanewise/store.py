"""Rows in memory, twice: as they came, to settle answers, and rotated in blocks, to scan."""

from __future__ import annotations

import math
import threading
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lanewise import _native
from lanewise.arrays import (
    as_matrix,
    as_queries,
    as_vector_ids,
    check_int,
    check_metric,
    check_real,
)
from lanewise.canonical import check_lengths, normalized
from lanewise.kernels import Kernels, get
from lanewise.result import SearchResult
from lanewise.rotation import RandomRotation
from lanewise.threads import resolve_threads

__all__ = ["Rows"]

_BLOCK = 64
_LANES = 16

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


@dataclass(eq=False)
class State:
    """One state of the rows. A change works on a copy, which replaces the state when it is whole.

    The arrays may be longer than the state: what lies behind is room to grow, and a later state
    may already use it.
    """

    rows: Floats
    ids: Ids
    norms: Floats
    blocks: Floats
    center: Floats
    list_begin: Ids
    list_size: Ids
    labels: npt.NDArray[np.int32]  # list of each row; empty if there is but one list
    n: int = 0
    n_centered: int = 0
    max_norm2: float = 0.0
    max_centered_norm2: float = 0.0

    @property
    def positions(self) -> int:
        return int(self.list_begin[-1])


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A state as searches see it: they hold on to it while rows are added."""

    state: State
    n: int
    rows: Floats
    list_size: Ids
    native: _native.Store


class Rows:
    """Vectors of one dimension and metric, in one list or in many.

    What `Flat` and `IVF` have in common: validation, canonical rows, rotated blocks, the scan.

    Parameters
    ----------
    dim, metric, seed, kernels, n_threads
        As for `lanewise.Flat`.
    """

    def __init__(
        self,
        dim: int,
        metric: str,
        seed: int,
        kernels: str | Kernels | None,
        n_threads: int | None,
    ) -> None:
        self.dim = check_int(dim, "dim", low=1, high=2**24)
        self.metric = check_metric(metric)
        self.kernels = get(kernels)
        self.n_threads = n_threads
        resolve_threads(n_threads)
        self.rotation = RandomRotation(self.dim, seed=seed, kernels=self.kernels)

        self._lock = threading.Lock()
        empty = State(
            rows=np.empty((0, self.dim), dtype=np.float32),
            ids=np.empty(0, dtype=np.int64),
            norms=np.empty(0, dtype=np.float32),
            blocks=np.empty(0, dtype=np.float32),
            center=np.zeros(self.dim, dtype=np.float32),
            list_begin=np.zeros(2, dtype=np.int64),
            list_size=np.zeros(1, dtype=np.int64),
            labels=np.empty(0, dtype=np.int32),
        )
        self._publish(empty, 0)

    @property
    def product(self) -> bool:
        """Whether distances are made of inner products."""
        return self.metric != "l2"

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays held: rows, blocks, norms and ids."""
        s = self.snapshot.state
        return sum(array.nbytes for array in (s.rows, s.blocks, s.norms, s.ids))

    def threads(self, n_threads: int | None) -> int:
        """Threads for one call: its own number, or this object's default."""
        return resolve_threads(self.n_threads if n_threads is None else n_threads)

    def as_rows(self, X: Any, name: str) -> tuple[Floats, float]:
        """Validate vectors to be stored; return them canonical, and their largest squared norm."""
        return self._canonical(as_matrix(X, name, dim=self.dim), name)

    def as_canonical_queries(self, queries: Any) -> Floats:
        """Validate queries; return them as they are scored."""
        return self._canonical(as_queries(queries, "queries", self.dim), "queries")[0]

    def _canonical(self, rows: Floats, name: str) -> tuple[Floats, float]:
        if self.metric == "cosine":
            return normalized(rows), 1.0
        return rows, check_lengths(rows, name)

    def append(self, X: Any, n_threads: int | None) -> None:
        """Add rows at the end of the only list."""
        rows, largest = self.as_rows(X, "X")
        threads = self.threads(n_threads)
        if len(rows) == 0:
            return
        with self._lock:
            new = copy(self.snapshot.state)
            old = new.n
            new.n = old + len(rows)
            new.list_begin = np.array([0, -(-new.n // _BLOCK) * _BLOCK], dtype=np.int64)
            new.list_size = np.array([new.n], dtype=np.int64)
            _reserve(new, old)
            new.rows[old : new.n] = rows
            new.ids[old : new.n] = np.arange(old, new.n)
            new.ids[new.n : new.positions] = -1
            new.max_norm2 = max(new.max_norm2, largest)
            first = old
            if new.n >= 2 * new.n_centered:
                # The centre follows the data while it doubles: the bound on the rotation's
                # rounding stays tight, and adding row by row costs a constant factor.
                new.blocks = np.empty_like(new.blocks)
                _center(new)
                first = 0
            self._fill(new, first, threads)
            self._publish(new, old)

    def arrange(self, X: Floats, labels: npt.NDArray[np.int32], n_lists: int, threads: int) -> None:
        """Add canonical rows to the lists that their labels name; all lists are laid out anew."""
        with self._lock:
            old = self.snapshot.state
            rows = np.concatenate((old.rows[: old.n], X))
            labels = np.concatenate((old.labels, labels))
            sizes = np.bincount(labels, minlength=n_lists).astype(np.int64)
            list_begin = np.concatenate(([0], np.cumsum(-(-sizes // _LANES) * _LANES)))
            order = np.argsort(labels, kind="stable")
            first_of_list = np.cumsum(sizes) - sizes
            lists = labels[order]
            place = list_begin[lists] + np.arange(len(rows)) - first_of_list[lists]
            positions = int(list_begin[-1])
            new = State(
                rows=rows,
                ids=np.full(positions, -1, dtype=np.int64),
                norms=np.zeros(positions, dtype=np.float32),
                blocks=np.empty(positions * self.dim, dtype=np.float32),
                center=old.center,
                list_begin=list_begin.astype(np.int64),
                list_size=sizes,
                labels=labels,
                n=len(rows),
                max_norm2=_native.squared_norms(rows, np.empty(len(rows), dtype=np.float64)),
            )
            new.ids[place] = order
            _center(new)
            self._fill(new, 0, threads)
            self._publish(new, 0)

    def _fill(self, state: State, first: int, threads: int) -> None:
        largest = _native.fill_blocks(
            self.kernels,
            self.rotation.native,
            state.center,
            state.rows[: state.n],
            state.list_begin,
            state.ids[: state.positions],
            first,
            state.norms[: state.positions] if self.product else None,
            state.blocks[: state.positions * self.dim],
            threads,
        )
        state.max_centered_norm2 = max(state.max_centered_norm2, largest)

    def _publish(self, state: State, first: int) -> None:
        rows = state.rows[: state.n]
        store = _native.Store(
            self.metric,
            state.list_begin,
            state.list_size,
            state.ids[: state.positions],
            state.norms[: state.positions],
            state.blocks[: state.positions * self.dim],
            rows,
            state.center,
            math.sqrt(state.max_norm2),
            math.sqrt(state.max_centered_norm2),
            first,
        )
        # One assignment, so that nobody ever finds half of a change.
        self.snapshot = Snapshot(state, state.n, rows, state.list_size, store)

    def search(
        self,
        Q: Floats,
        k: int,
        *,
        probes: Ids | None,
        eps0: float,
        delta: int,
        n_threads: int | None,
    ) -> SearchResult:
        """Scan the probed lists, all by default, for canonical queries."""
        k = check_int(k, "k", low=0, high=2**31 - 1)
        eps0 = check_real(eps0, "eps0", low=0.0, allow_inf=True)
        delta = min(check_int(delta, "delta", low=1, high=2**31 - 1), self.dim)
        threads = self.threads(n_threads)
        snapshot = self.snapshot
        n = len(Q)
        distances = np.full((n, k), np.inf, dtype=np.float32)
        ids = np.full((n, k), -1, dtype=np.int64)
        stats = np.zeros((n, 3), dtype=np.uint64)
        k_scan = min(k, snapshot.n)
        if n > 0 and k_scan > 0:
            whole = k_scan == k
            found = distances if whole else np.empty((n, k_scan), dtype=np.float32)
            found_ids = ids if whole else np.empty((n, k_scan), dtype=np.int64)
            snapshot.native.scan(
                self.kernels,
                self.rotation.native,
                Q,
                probes,
                k_scan,
                eps0,
                delta,
                found,
                found_ids,
                stats,
                threads,
            )
            distances[:, :k_scan] = found
            ids[:, :k_scan] = found_ids
        names = ("candidates", "dimensions", "settled")
        return SearchResult(distances, ids, {name: stats[:, i] for i, name in enumerate(names)})

    def score(self, queries: Any, ids: Any, n_threads: int | None) -> Floats:
        """Canonical distances of named rows: see `lanewise.Flat.score`."""
        snapshot = self.snapshot
        single = np.ndim(ids) == 1
        wanted = as_vector_ids(
            ids, "ids", ndim=1 if single else 2, upper=snapshot.n, allow_missing=True
        )
        wanted = wanted[np.newaxis] if single else wanted
        Q = self.as_canonical_queries(queries)
        if len(Q) != len(wanted):
            raise ValueError(f"ids: expected {len(Q)} rows, one for each query, got {len(wanted)}")
        distances = np.empty(wanted.shape, dtype=np.float32)
        _native.score_lists(
            self.kernels,
            self.metric,
            Q,
            snapshot.rows,
            wanted,
            distances,
            self.threads(n_threads),
        )
        return distances

    def __getstate__(self) -> dict[str, Any]:
        # The kernel set belongs to the machine, not to the data: another machine picks its own.
        state = self.__dict__.copy()
        for name in ("_lock", "snapshot", "kernels"):
            del state[name]
        # Room to grow is not worth a file's bytes.
        trimmed = copy(self.snapshot.state)
        trimmed.rows = trimmed.rows[: trimmed.n].copy()
        trimmed.ids = trimmed.ids[: trimmed.positions].copy()
        if len(trimmed.labels) == 0:
            # A later state may already have written its ids behind ours.
            trimmed.ids[trimmed.n :] = -1
        trimmed.norms = trimmed.norms[: trimmed.positions].copy()
        trimmed.blocks = trimmed.blocks[: trimmed.positions * self.dim].copy()
        state["state"] = trimmed
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        kept = state.pop("state")
        self.__dict__.update(state)
        self._lock = threading.Lock()
        self.kernels = get()
        self._publish(kept, 0)


def _reserve(state: State, n_used: int) -> None:
    """Make room for the state's rows and positions; arrays that earlier states hold are left."""
    dim = state.rows.shape[1]
    if state.n > len(state.rows):
        rows = np.empty((max(state.n, len(state.rows) * 3 // 2), dim), dtype=np.float32)
        rows[:n_used] = state.rows[:n_used]
        state.rows = rows
    if state.positions > len(state.ids):
        room = max(state.positions, len(state.ids) * 3 // 2 // _BLOCK * _BLOCK)
        for name, width in (("ids", 1), ("norms", 1), ("blocks", dim)):
            old = getattr(state, name)
            array = np.zeros(room * width, dtype=old.dtype)
            array[: len(old)] = old
            setattr(state, name, array)


def _center(state: State) -> None:
    state.center = np.empty(state.rows.shape[1], dtype=np.float32)
    _native.mean(state.rows[: state.n], state.center)
    state.n_centered = state.n
    state.max_centered_norm2 = 0.0
