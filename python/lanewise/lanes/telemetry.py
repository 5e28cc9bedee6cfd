"""What lanes do in production: metrics, spans and a query log, of a small share of the queries.

Which queries are looked at is decided by their keys, so every node looks at the same ones.
"""

from __future__ import annotations

import importlib
import logging
import math
import threading
import time
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lanewise import kernels
from lanewise.arrays import as_ndarray, as_vector_ids, check_int, check_real
from lanewise.lanes.overlap import mway_jaccard, pairwise_jaccard
from lanewise.lanes.planning import as_keys
from lanewise.lanes.ranks import has_common_pool, pool_ranks

if TYPE_CHECKING:
    from lanewise.lanes.querylog import QueryLog

__all__ = ["Telemetry", "minhash", "minhash_error", "minhash_jaccard"]

Doubles = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint64]

_LOGGER = logging.getLogger("lanewise.lanes")

# Keeps this use of a key apart from the schemes': see docs/design/lanes.md.
_MINHASH = 4
_NOTHING = np.uint64(2**64 - 1)

_SHARES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
_SECONDS = (1e-7, 2.5e-7, 5e-7, 1e-6, 2.5e-6, 5e-6, 1e-5, 1e-4, 1e-3)


class Telemetry:
    """Observe searches in lanes, a sample of them: `LaneSearch(telemetry=...)`.

    Parameters
    ----------
    sample : float, default 0.01
        Share of queries that are looked at: those whose key's low word is below sample * 2**64.
        Equal queries are looked at always or never, and so are all queries of a `LaneSearch` that
        was given one key for all.
    registry : prometheus_client.CollectorRegistry, False or None, default None
        Where metrics are kept; by default prometheus-client's own registry. Several of these
        objects may share one. False for no metrics.
    log : QueryLog, optional
        Where the queries of the sample are written, if their lanes had a common pool. If that
        fails, as on a full disk, the logger ``"lanewise.lanes"`` is told and the search goes on.
    tracer : opentelemetry.trace.Tracer, False or None, default None
        Gets a span for each search with a query of the sample, and one in it for each lane; by
        default the tracer "lanewise" of OpenTelemetry where that is installed. False for none.

    Raises
    ------
    ImportError
        If metrics are wanted and prometheus-client is not installed.

    Notes
    -----
    All metrics have the label ``query_class``, empty for None:

    ==========================================  =========  =======================================
    name                                        kind       what, of a query
    ==========================================  =========  =======================================
    ``lanewise_queries_sampled_total``          counter    1
    ``lanewise_candidates_scored_total``        counter    candidates that all lanes scored
    ``lanewise_candidates_duplicate_total``     counter    of these, those scored before
    ``lanewise_pairwise_jaccard``               histogram  overlap of two lanes, of what they scored
    ``lanewise_mway_jaccard``                   histogram  overlap of all lanes
    ``lanewise_on_time_ratio``                  histogram  share of lanes on time
    ``lanewise_coverage_ratio``                 histogram  share of the plan scored in time
    ``lanewise_tail_ratio``                     histogram  share of its answer from ranks >= k_lane
    ``lanewise_plan_seconds``                   histogram  the planner's time
    ``lanewise_lanes_total``                    counter    1 by ``lane`` and ``on_time``
    ==========================================  =========  =======================================

    A tail ratio needs a common pool; where lanes collect for themselves there is none.

    Examples
    --------
    >>> telemetry = Telemetry(sample=0.01)  # doctest: +SKIP
    >>> lw.LaneSearch(pool, scorer, telemetry=telemetry)  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        sample: float = 0.01,
        registry: Any = None,
        log: QueryLog | None = None,
        tracer: Any = None,
    ) -> None:
        self.sample = check_real(sample, "sample", low=0.0, high=1.0)
        # As an int, because 2**64 itself is no uint64.
        self._limit = math.ceil(self.sample * 2.0**64)
        self.metrics = None if registry is False else _metrics_of(registry)
        self.log = log
        if log is not None and not callable(getattr(log, "write", None)):
            raise TypeError(f"log: expected a QueryLog, got {type(log).__name__}")
        self.tracer = _default_tracer() if tracer is None else (tracer or None)

    def sampled(self, keys: Words) -> npt.NDArray[np.bool_]:
        """Return which queries are looked at.

        Parameters
        ----------
        keys : ndarray of uint64, shape (n_queries, 2)

        Returns
        -------
        ndarray of bool, shape (n_queries,)
        """
        if self._limit >= 2**64:
            return np.ones(len(keys), dtype=np.bool_)
        chosen: npt.NDArray[np.bool_] = keys[:, 0] < np.uint64(self._limit)
        return chosen

    def observe(self, result: Any, query_class: str | None = None) -> None:
        """Look at a search, if one of its queries is in the sample.

        Parameters
        ----------
        result : LaneResult
        query_class : str, optional
        """
        keys = result.keys
        # A query alone, which is what most searches are, costs a comparison of two numbers.
        if len(keys) == 1 and keys.item(0) >= self._limit:
            return
        chosen = np.flatnonzero(self.sampled(keys))
        if len(chosen) == 0:
            return
        if self.metrics is not None:
            self.metrics.observe(measure(result, chosen), query_class or "")
        if self.log is not None and has_common_pool(result):
            try:
                self.log.write(result, query_class=query_class, queries=chosen)
            except OSError:
                _LOGGER.exception("%d queries are not in the log", len(chosen))
        if self.tracer is not None:
            _trace(self.tracer, result, query_class, len(chosen))


@dataclass(frozen=True)
class Measured:
    """What the metrics are told of some queries: an array for each, or nothing."""

    scored: npt.NDArray[np.int64]
    duplicates: npt.NDArray[np.int64]
    pairwise_jaccard: Doubles
    mway_jaccard: Doubles
    on_time: float
    coverage: Doubles
    tail: Doubles | None
    plan_seconds: Doubles | None
    lanes: tuple[bool, ...]


def measure(result: Any, queries: npt.NDArray[np.int64]) -> Measured:
    """Return the numbers behind the metrics.

    Parameters
    ----------
    result : LaneResult
    queries : ndarray of int64
        Which of its queries.

    Returns
    -------
    Measured
    """
    planned, scored = result.plan.ids[queries], result.scored[queries]
    ids = np.where(scored, planned, -1)
    lanes = tuple(bool(lane.on_time) for lane in result.lanes)
    seconds = result.stats.get("plan_seconds")
    tail = None
    if has_common_pool(result):
        rank = pool_ranks(result.pool[queries], result.ids[queries])
        answers = np.maximum((rank >= 0).sum(axis=1), 1)
        tail = (rank >= planned.shape[2]).sum(axis=1) / answers
    return Measured(
        scored=scored.sum(axis=(1, 2)),
        duplicates=np.asarray(result.stats["duplicates"])[queries],
        pairwise_jaccard=pairwise_jaccard(ids),
        mway_jaccard=mway_jaccard(ids),
        on_time=float(np.mean(lanes)) if lanes else 1.0,
        coverage=np.asarray(result.coverage)[queries],
        tail=tail,
        plan_seconds=None if seconds is None else np.asarray(seconds)[queries],
        lanes=lanes,
    )


# ------------------------------------------------------------------------------------------ metrics


class _Metrics:
    """The metrics of one registry."""

    def __init__(self, registry: Any) -> None:
        client = _require("prometheus_client", "telemetry", "metrics")

        def counter(name: str, what: str, *labels: str) -> Any:
            return client.Counter(
                f"lanewise_{name}", what, ["query_class", *labels], registry=registry
            )

        def histogram(name: str, what: str, buckets: tuple[float, ...] = _SHARES) -> Any:
            return client.Histogram(
                f"lanewise_{name}", what, ["query_class"], registry=registry, buckets=buckets
            )

        self.queries = counter("queries_sampled", "Queries looked at")
        self.scored = counter("candidates_scored", "Candidates that all lanes scored")
        self.duplicates = counter(
            "candidates_duplicate", "Candidates that another lane had scored already"
        )
        self.lanes = counter("lanes", "Lanes by whether they were on time", "lane", "on_time")
        self.pairwise_jaccard = histogram("pairwise_jaccard", "Mean overlap of two lanes' scores")
        self.mway_jaccard = histogram("mway_jaccard", "Overlap of all lanes' scores")
        self.on_time = histogram("on_time_ratio", "Share of lanes on time")
        self.coverage = histogram("coverage_ratio", "Share of the plan scored in time")
        self.tail = histogram("tail_ratio", "Share of the answer from ranks of at least k_lane")
        self.plan_seconds = histogram("plan_seconds", "Time of the planner", _SECONDS)

    def observe(self, measured: Measured, query_class: str) -> None:
        n_queries = len(measured.scored)
        self.queries.labels(query_class).inc(n_queries)
        self.scored.labels(query_class).inc(int(measured.scored.sum()))
        self.duplicates.labels(query_class).inc(int(measured.duplicates.sum()))
        for lane, on_time in enumerate(measured.lanes):
            self.lanes.labels(query_class, str(lane), str(on_time).lower()).inc(n_queries)
        for histogram, values in (
            (self.pairwise_jaccard, measured.pairwise_jaccard),
            (self.mway_jaccard, measured.mway_jaccard),
            (self.on_time, np.full(n_queries, measured.on_time)),
            (self.coverage, measured.coverage),
            (self.tail, measured.tail),
            (self.plan_seconds, measured.plan_seconds),
        ):
            if values is not None:
                child = histogram.labels(query_class)
                for value in values.tolist():
                    child.observe(value)


_lock = threading.Lock()
_known: weakref.WeakKeyDictionary[Any, _Metrics] = weakref.WeakKeyDictionary()


def _metrics_of(registry: Any) -> _Metrics:
    """Metrics of a registry, which refuses a second set of the same names."""
    if registry is None:
        registry = _require("prometheus_client", "telemetry", "metrics").REGISTRY
    if not callable(getattr(registry, "register", None)):
        raise TypeError(
            f"registry: expected a CollectorRegistry, None or False, got {type(registry).__name__}"
        )
    with _lock:
        if registry not in _known:
            _known[registry] = _Metrics(registry)
        return _known[registry]


def _require(module: str, extra: str, purpose: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'{purpose} need {module}: pip install "lanewise[{extra}]"') from error


# ------------------------------------------------------------------------------------------ tracing


def _default_tracer() -> Any:
    try:
        trace = importlib.import_module("opentelemetry.trace")
    except ImportError:
        return None
    return trace.get_tracer("lanewise")


def _trace(tracer: Any, result: Any, query_class: str | None, n_sampled: int) -> None:
    """Tell a search after it: its lanes began with it, and each ended with its last report."""
    trace = _require("opentelemetry.trace", "tracing", "spans")
    now = time.time_ns()
    longest = max((lane.seconds or 0.0 for lane in result.lanes), default=0.0)
    began = now - int(longest * 1e9)
    planned = result.plan
    span = tracer.start_span(
        "lanewise.search",
        start_time=began,
        attributes={
            "lanewise.query_class": query_class or "",
            "lanewise.queries": len(result.ids),
            "lanewise.queries_sampled": n_sampled,
            "lanewise.n_lanes": planned.n_lanes,
            "lanewise.k_lane": int(planned.ids.shape[2]),
            "lanewise.scheme": planned.scheme,
            "lanewise.alpha": float(planned.alpha),
            "lanewise.head": int(planned.head),
            "lanewise.coverage": float(np.mean(result.coverage)),
        },
    )
    context = trace.set_span_in_context(span)
    for lane in result.lanes:
        child = tracer.start_span(
            "lanewise.lane",
            context=context,
            start_time=began,
            attributes={
                "lanewise.lane": lane.lane,
                "lanewise.planned": lane.planned,
                "lanewise.scored": lane.scored,
                "lanewise.on_time": lane.on_time,
            },
        )
        if lane.error is not None:
            child.record_exception(lane.error)
            child.set_status(trace.Status(trace.StatusCode.ERROR, str(lane.error)))
        # A lane that never reported is over when the search is.
        child.end(end_time=now if lane.seconds is None else began + int(lane.seconds * 1e9))
    span.end(end_time=now)


# ----------------------------------------------------------------------------------------- min-hash


def minhash(ids: Any, key: Any, n_hashes: int = 128) -> Words:
    """Return a signature of a set of ids, from which overlaps can be estimated.

    Signatures may be compared where ids may not be shown: without the key they say nothing of
    them, and with it only what trying all ids would find.

    Parameters
    ----------
    ids : array-like of int, shape (n_ids,) or (n_sets, n_ids)
        -1 is none.
    key : int or bytes
        128 bits that all have in common whose signatures are compared.
    n_hashes : int, default 128
        Words of a signature: see `minhash_error` for what they are worth.

    Returns
    -------
    ndarray of uint64, shape (n_hashes,) or (n_sets, n_hashes)
        The smallest of each of n_hashes keyed hashes of the ids, the same on every machine: words
        0 and 1 of Threefry2x64-13 of (key, id, 4 + 256 b) are the hashes 2 b and 2 b + 1. All ones
        for an empty set.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of its range.

    Notes
    -----
    Broder, "On the resemblance and containment of documents", 1997.

    Examples
    --------
    >>> a, b = minhash([1, 2, 3], key=7), minhash([3, 2, 1, -1], key=7)
    >>> bool((a == b).all())
    True
    """
    n_hashes = check_int(n_hashes, "n_hashes", low=1, high=2**16)
    ndim = 1 if as_ndarray(ids, "ids").ndim == 1 else 2
    sets = np.atleast_2d(as_vector_ids(ids, "ids", ndim=ndim, allow_missing=True))
    words = as_keys(key, 1)[0]
    row = kernels.get()
    counters = np.zeros(-(-max(sets.size, 1) // 8) * 8, dtype=np.uint64)
    counters[: sets.size] = np.where(sets < 0, 0, sets).reshape(-1)
    hashes = np.empty((n_hashes + n_hashes % 2, len(counters)), dtype=np.uint64)
    for first in range(0, n_hashes, 2):
        row.threefry(words, counters, _MINHASH + 128 * first, hashes[first], hashes[first + 1])
    found = hashes[:n_hashes, : sets.size].reshape(n_hashes, *sets.shape)
    out: Words = np.where(sets < 0, _NOTHING, found).min(axis=2, initial=_NOTHING).T.copy()
    return out[0] if ndim == 1 else out


def minhash_jaccard(a: Any, b: Any) -> Any:
    """Estimate |A and B| / |A or B| from the signatures of A and B.

    Parameters
    ----------
    a, b : array-like of uint64, shape (n_hashes,) or (n_sets, n_hashes)
        From `minhash`, with one key.

    Returns
    -------
    float, or ndarray of float64 of shape (n_sets,)
        Share of equal hashes. Unbiased; `minhash_error` is its standard error. 0 if both are empty.

    Raises
    ------
    ValueError, TypeError
        If they are no signatures of one length.

    Examples
    --------
    >>> minhash_jaccard(minhash([1, 2, 3], 7), minhash([1, 2, 3], 7))
    1.0
    """
    x, y = _as_signatures(a, "a"), _as_signatures(b, "b")
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(f"b: expected {x.shape[-1]} hashes as a has, got {y.shape[-1]}")
    share = ((x == y) & (x != _NOTHING)).mean(axis=-1)
    return float(share) if np.ndim(share) == 0 else share


def minhash_error(jaccard: float, n_hashes: int = 128) -> float:
    """Return the standard error of `minhash_jaccard`: sqrt(J (1 - J) / n_hashes).

    Each hash of the union is smallest for an element of the intersection with the chance J, and
    hashes are independent: the number of equal ones is binomial.

    Parameters
    ----------
    jaccard : float
        The true index.
    n_hashes : int, default 128

    Returns
    -------
    float
        0.044 at the most, for 128 hashes.

    Examples
    --------
    >>> round(minhash_error(0.5), 4)
    0.0442
    """
    j = check_real(jaccard, "jaccard", low=0.0, high=1.0)
    return math.sqrt(j * (1 - j) / check_int(n_hashes, "n_hashes", low=1))


def _as_signatures(x: Any, name: str) -> Words:
    words = as_ndarray(x, name)
    if words.dtype != np.uint64 or words.ndim not in (1, 2) or words.shape[-1] == 0:
        raise ValueError(
            f"{name}: expected signatures from minhash, got {words.dtype} of shape {words.shape}"
        )
    return words
