"""Who scores what: a plan follows from (key, pool) alone, so that lanes need not talk."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lanewise import _native
from lanewise.arrays import (
    as_ndarray,
    as_queries,
    as_vector_ids,
    check_choice,
    check_int,
    check_real,
)
from lanewise.kernels import Kernels, get
from lanewise.threads import resolve_threads

__all__ = ["SCHEMES", "Plan", "Setting", "plan", "query_keys"]

SCHEMES = ("permute", "stratified", "owner")

# What keys are made of, on every machine.
_FLOAT32, _WORD = np.dtype("<f4"), np.dtype("<u8")
_MINUS_ZERO = np.array([-0.0], dtype=_FLOAT32).tobytes()

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Setting:
    """How candidates are dealt to lanes: what `plan` takes beside the pool and the key.

    Attributes
    ----------
    n_lanes, k_lane, alpha, head, scheme
        As for `plan`.
    """

    n_lanes: int = 4
    k_lane: int = 16
    alpha: float = 1.0
    head: int = 0
    scheme: str = "stratified"

    def __post_init__(self) -> None:
        check_int(self.n_lanes, "n_lanes", low=1, high=2**16)
        check_int(self.k_lane, "k_lane", low=1, high=2**31 - 1)
        check_real(self.alpha, "alpha", low=0.0, high=1.0)
        check_int(self.head, "head", low=0, high=2**31 - 1)
        check_choice(self.scheme, "scheme", SCHEMES)

    @property
    def k_total(self) -> int:
        """Candidates that all lanes score together, at most."""
        return self.n_lanes * self.k_lane

    def plan(
        self,
        pool: Any,
        key: Any,
        *,
        kernels: str | Kernels | None = None,
        n_threads: int | None = None,
    ) -> Plan:
        """Return the `plan` that deals candidates in this way; parameters and errors are its."""
        return plan(
            pool,
            key,
            n_lanes=self.n_lanes,
            k_lane=self.k_lane,
            scheme=self.scheme,
            alpha=self.alpha,
            head=self.head,
            kernels=kernels,
            n_threads=n_threads,
        )


@dataclass(frozen=True, eq=False)
class Plan:
    """What each lane scores.

    Attributes
    ----------
    ids : ndarray of int64, shape (n_queries, n_lanes, k_lane)
        Best rank first, then -1.
    counts : ndarray of int32, shape (n_queries, n_lanes)
        Candidates of each lane.
    scheme, alpha, head
        As given to `plan`.
    """

    ids: Ids
    counts: npt.NDArray[np.int32]
    scheme: str
    alpha: float
    head: int

    @property
    def n_lanes(self) -> int:
        """Number of lanes."""
        return int(self.ids.shape[1])

    def lane(self, r: int) -> Ids:
        """Return what lane r scores, shape (n_queries, k_lane)."""
        return self.ids[:, check_int(r, "r", low=0, high=self.n_lanes - 1)]


def query_keys(queries: Any) -> Keys:
    """Derive a 128-bit key from the bytes of each query.

    BLAKE2b with a digest of 16 bytes over the vector's float32 values in little-endian order, with
    -0 made +0; the digest is two little-endian 64-bit words. Equal vectors have equal keys on every
    machine and in every language.

    Parameters
    ----------
    queries : array-like of shape (n_queries, dim) or (dim,)

    Returns
    -------
    ndarray of uint64, shape (n_queries, 2)

    Examples
    --------
    >>> bool((query_keys([0.0, 1.0]) == query_keys([-0.0, 1.0])).all())
    True
    """
    return _digests(as_queries(queries, "queries", own_dimension(queries)))


def _digests(vectors: Floats) -> Keys:
    data = vectors.astype(_FLOAT32, copy=False).tobytes()
    if _MINUS_ZERO in data:
        # Adding +0 turns -0 into +0 and changes nothing else.
        data = (vectors + np.float32(0)).astype(_FLOAT32, copy=False).tobytes()
    step = max(4 * vectors.shape[1], 1)
    digests = b"".join(
        hashlib.blake2b(data[at : at + step], digest_size=16).digest()
        for at in range(0, len(data), step)
    )
    return np.frombuffer(digests, dtype=_WORD).reshape(-1, 2).astype(np.uint64)


def keys_of(queries: Floats, key: Any) -> Keys:
    """Return the words of each validated query's key, shape (n_queries, 2), its own for None."""
    return _digests(queries) if key is None else as_keys(key, len(queries))


def check_lane(lane: Any, n_lanes: Any) -> tuple[int, int]:
    """Return a lane's number and how many there are, or raise if it is not one of them."""
    n_lanes = check_int(n_lanes, "n_lanes", low=1, high=2**16)
    return check_int(lane, "lane", low=0, high=n_lanes - 1), n_lanes


def own_dimension(queries: Any) -> int:
    """Dimension that queries have themselves, where nothing else says which they must have."""
    shape = as_ndarray(queries, "queries").shape
    return int(shape[-1]) if shape else 0


def as_keys(key: Any, n_queries: int) -> Keys:
    """Turn one 128-bit key, or one for each query, into words (low, high), shape (n_queries, 2)."""
    if isinstance(key, np.ndarray):
        if key.dtype != np.uint64 or key.shape != (n_queries, 2):
            raise ValueError(
                f"key: expected uint64 of shape ({n_queries}, 2), got {key.dtype} {key.shape}"
            )
        return np.ascontiguousarray(key)
    if isinstance(key, (bytearray, memoryview)):
        key = bytes(key)
    many = (
        key
        if isinstance(key, Sequence) and not isinstance(key, (bytes, str))
        else [key] * n_queries
    )
    if len(many) != n_queries:
        raise ValueError(
            f"key: expected one, or one for each of {n_queries} queries, got {len(many)}"
        )
    out = np.empty((n_queries, 2), dtype=np.uint64)
    for i, one in enumerate(many):
        if isinstance(one, bytes):
            if len(one) != 16:
                raise ValueError(f"key: expected 16 bytes, got {len(one)}")
            one = int.from_bytes(one, "little")
        value = check_int(one, "key", low=0, high=2**128 - 1)
        out[i] = value & (2**64 - 1), value >> 64
    return out


def plan(
    pool: Any,
    key: Any,
    *,
    n_lanes: int,
    k_lane: int,
    scheme: str = "stratified",
    alpha: float = 1.0,
    head: int = 0,
    kernels: str | Kernels | None = None,
    n_threads: int | None = None,
) -> Plan:
    """Decide which lane scores which candidate, for a batch of queries.

    Anybody who knows the pool and the key gets the same plan, now and in ten years: a lane plans
    for itself and takes its own part.

    Parameters
    ----------
    pool : array-like of int, shape (n_queries, k_pool) or (k_pool,)
        Candidates in rank order, best first; -1 is none, and is skipped.
    key : int, bytes, sequence of them, or ndarray of uint64, shape (n_queries, 2)
        128 bits, one for all queries or one for each; see `query_keys`.
    n_lanes : int
    k_lane : int
        Most candidates that a lane scores.
    scheme : {"stratified", "permute", "owner"}, default "stratified"
        ``"permute"`` is the paper's: the best n_lanes * k_lane candidates in the order of
        (PRF(key, id), id), dealt round the lanes. ``"stratified"`` deals each run of n_lanes ranks
        in a keyed order of its own: every lane gets its share of the best ranks. ``"owner"`` gives
        a candidate to the lane PRF(key, id) * n_lanes / 2**64, whatever the pool: replicas with
        different pools agree, and it works candidate by candidate.
    alpha : float, default 1.0
        Share of a lane's budget that no other lane has, rounded to candidates, half up. The rest is
        shared by all lanes: the first places of the permuted order, the best ranks for
        ``"stratified"``; for ``"owner"`` a candidate is shared with the probability that gives
        this share.
    head : int, default 0
        So many of the best ranks are given to the next lane as well, out of its budget: a lane that
        was full leaves its last ranks unscored.
    kernels : str or Kernels, optional
    n_threads : int, optional

    Returns
    -------
    Plan
        At ``alpha=1, head=0`` the lanes are disjoint; ``permute`` and ``stratified`` lanes hold
        every candidate up to n_lanes * k_lane, and as many as each other to within one.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of its range, or a pool holds an id twice.

    Notes
    -----
    Kugblenu & Vuorimaa, "Coordination-free lane partitioning for convergent ANN search",
    arXiv 2511.04221. The PRF is Threefry2x64-13 (Salmon et al. 2011).

    Examples
    --------
    >>> p = plan([[10, 11, 12, 13]], key=42, n_lanes=2, k_lane=2)
    >>> sorted(p.ids.ravel().tolist()), p.counts.tolist()
    ([10, 11, 12, 13], [[2, 2]])
    """
    scheme = check_choice(scheme, "scheme", SCHEMES)
    n_lanes = check_int(n_lanes, "n_lanes", low=1, high=2**16)
    k_lane = check_int(k_lane, "k_lane", low=1, high=2**31 - 1)
    alpha = check_real(alpha, "alpha", low=0.0, high=1.0)
    head = check_int(head, "head", low=0, high=2**31 - 1)
    ndim = 1 if as_ndarray(pool, "pool").ndim == 1 else 2
    candidates = as_vector_ids(pool, "pool", ndim=ndim, allow_missing=True)
    candidates = np.atleast_2d(candidates)
    n_queries = len(candidates)
    ids = np.empty((n_queries, n_lanes, k_lane), dtype=np.int64)
    counts = np.empty((n_queries, n_lanes), dtype=np.int32)
    repeated = _native.plan(
        get(kernels),
        scheme,
        candidates,
        as_keys(key, n_queries),
        math.floor(alpha * k_lane + 0.5),
        head,
        share_below(alpha, n_lanes),
        ids,
        counts,
        resolve_threads(n_threads),
    )
    if repeated >= 0:
        raise ValueError(f"pool: expected distinct ids, got one twice for query {repeated}")
    return Plan(ids, counts, scheme, alpha, head)


def share_below(alpha: float, n_lanes: int) -> int:
    """Chance of being shared, times 2**64, that makes 1 - alpha of an owner lane's work shared.

    With chance p a lane sees p + (1 - p) / n_lanes of the candidates; p over that is 1 - alpha.
    """
    return int((1 - alpha) / (1 - alpha + alpha * n_lanes) * 2.0**64)
