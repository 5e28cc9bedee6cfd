"""A log of searches in lanes, one line of JSON for each query: what `replay` starts from.

A line of version 1 is an object with these members, in this order:

==============  ===================================================================================
``v``           1
``key``         32 hexadecimal digits: the 128-bit key of the plan, most significant first
``class``       a string or null
``k``           length of the answer that was asked for
``setting``     ``{"n_lanes", "k_lane", "alpha", "head", "scheme"}``
``pool``        ids in rank order
``lanes``       for each lane ``{"planned", "scored", "on_time", "seconds"}``; seconds may be null
``scored``      ``{"ids", "distances"}``: what is known of the pool, an infinite distance as null
``final``       ids of the answer
``labels``      ids that are relevant, or null
==============  ===================================================================================

Lanes score their best ranks first, so a lane's ``scored`` says which candidates were in time.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt

from lanewise.arrays import as_ndarray, as_vector_ids
from lanewise.io import FileFormatError, PathLike
from lanewise.lanes.planning import Setting
from lanewise.lanes.ranks import has_common_pool, scored_by_rank

__all__ = ["Lane", "LoggedQueries", "QueryLog", "Record", "read_log"]

VERSION = 1

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

_MEMBERS = (
    "v",
    "key",
    "class",
    "k",
    "setting",
    "pool",
    "lanes",
    "scored",
    "final",
    "labels",
)
_MOST_ID = 2**63 - 1


@dataclass(frozen=True)
class Lane:
    """What a lane did for one query.

    Attributes
    ----------
    planned, scored : int
        Candidates it was given, and those that were scored in time.
    on_time : bool
    seconds : float or None
        When its last report came.
    """

    planned: int
    scored: int
    on_time: bool
    seconds: float | None


@dataclass(frozen=True, eq=False)
class Record:
    """One query of a log.

    Attributes
    ----------
    key : int
        128 bits.
    query_class : str or None
    k : int
    setting : Setting
    pool : ndarray of int64
        Distinct ids in rank order.
    lanes : tuple of Lane
    scored_ids, scored_distances : ndarray of int64, ndarray of float32
    final : ndarray of int64
    labels : ndarray of int64 or None
    """

    key: int
    query_class: str | None
    k: int
    setting: Setting
    pool: Ids
    lanes: tuple[Lane, ...]
    scored_ids: Ids
    scored_distances: Floats
    final: Ids
    labels: Ids | None

    @property
    def is_complete(self) -> bool:
        """Whether the whole pool has scores: only then is it known what another setting finds."""
        return len(self.scored_ids) == len(self.pool)


@dataclass(frozen=True, eq=False)
class LoggedQueries(Sequence[Record]):
    """What `read_log` returns: a sequence of records.

    Attributes
    ----------
    records : tuple of Record
    cut : str or None
        Where the last line was cut off, and that it was left out; None if it was not.
    """

    records: tuple[Record, ...]
    cut: str | None = None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: Any) -> Any:
        return self.records[index]

    @property
    def n_complete(self) -> int:
        """Records in which the whole pool has scores."""
        return sum(record.is_complete for record in self.records)


class QueryLog:
    """Write searches to a log, one line a query; to be closed, or used in a ``with`` statement.

    Parameters
    ----------
    path : str or path-like
        A new file, or a log to go on with. If its last line was cut off, as by a crash, that part
        of a line is taken away.

    Raises
    ------
    FileFormatError
        If the file does not begin as a log does.

    Notes
    -----
    Any thread may write. A line is handed to the system as a whole, so that a crash of the process
    loses none that was written, and a crash of the system cuts the last ones off at most. Two
    processes should not write to one file.

    Examples
    --------
    >>> with QueryLog("queries.jsonl") as log:  # doctest: +SKIP
    ...     log.write(lanes.search(queries))
    """

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        if self.path.exists() and not self.path.is_file():
            raise FileFormatError(f"{self.path}: expected a regular file")
        self._stream: IO[bytes] | None = open(self.path, "a+b")  # noqa: SIM115
        try:
            _mend(self._stream, str(self.path))
        except BaseException:
            self._stream.close()
            raise

    def write(
        self,
        result: Any,
        *,
        query_class: str | None = None,
        labels: Sequence[Iterable[int]] | None = None,
        pool_distances: Any = None,
        queries: Any = None,
    ) -> None:
        """Write the queries of a search.

        Parameters
        ----------
        result : LaneResult
        query_class : str, optional
        labels : sequence of iterables of int, optional
            Ids that are relevant, for each query of the result.
        pool_distances : array-like of float, shape (n_queries, k_pool), optional
            Distances of the whole pool, from a scorer that had the time: such shadow records say
            what another setting would have found.
        queries : array-like of int, optional
            Only these queries of the result.

        Raises
        ------
        ValueError, TypeError
            If an argument does not fit the result, the lanes had no common pool, or the log is
            closed. Nothing is written then.
        """
        if query_class is not None and not isinstance(query_class, str):
            raise TypeError(
                f"query_class: expected a str or None, got {type(query_class).__name__}"
            )
        if not has_common_pool(result):
            raise ValueError("result: expected one whose lanes had a common pool, got none")
        n_queries = len(result.pool)
        if labels is not None and len(labels) != n_queries:
            raise ValueError(f"labels: expected them for {n_queries} queries, got {len(labels)}")
        chosen = np.arange(n_queries)
        if queries is not None:
            chosen = as_vector_ids(queries, "queries", upper=n_queries)
        seen, distances = _known(result, pool_distances, chosen)
        lines = [
            _line(result, i, query_class, None if labels is None else labels[i], near, far)
            for i, near, far in zip(chosen.tolist(), seen, distances, strict=True)
        ]
        with self._lock:
            if self._stream is None:
                raise ValueError(f"{self.path}: expected an open log, got a closed one")
            self._stream.write("".join(lines).encode())
            self._stream.flush()

    def close(self) -> None:
        """Close the file; once is enough."""
        with self._lock:
            if self._stream is not None:
                self._stream.close()
                self._stream = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_log(path: PathLike) -> LoggedQueries:
    """Read a log.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    LoggedQueries
        A last line that was cut off is left out, and ``cut`` says so.

    Raises
    ------
    FileFormatError
        If a line is not a record; it names the file and the line.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> len(read_log("queries.jsonl"))  # doctest: +SKIP
    1000
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise FileFormatError(f"{path}: expected a regular file")
    records = []
    cut = None
    with open(path, "rb") as stream:
        for number, line in enumerate(stream, 1):
            where = f"{path}:{number}"
            if not line.endswith(b"\n"):
                cut = f"{where}: the last line is cut off after {len(line)} bytes and left out"
                break
            records.append(_parse(line, where))
    return LoggedQueries(tuple(records), cut)


# ---------------------------------------------------------------------------------------- writing


def _mend(stream: IO[bytes], where: str) -> None:
    """Leave whole lines alone: what comes next must not be glued to part of one."""
    end = stream.seek(0, os.SEEK_END)
    if end == 0:
        return
    stream.seek(0)
    begin = stream.read(1)
    if begin != b"{":
        raise FileFormatError(f"{where}: expected a log of queries, got one that begins {begin!r}")
    step = 1 << 16
    at = end
    while at > 0:
        size = min(step, at)
        stream.seek(at - size)
        newline = stream.read(size).rfind(b"\n")
        if newline >= 0:
            stream.truncate(at - size + newline + 1)
            break
        at -= size
    else:
        stream.truncate(0)
    stream.seek(0, os.SEEK_END)


def _known(result: Any, pool_distances: Any, chosen: Ids) -> tuple[Any, Any]:
    """Which ranks of the chosen queries have distances, and those."""
    if pool_distances is None:
        return scored_by_rank(
            result.pool[chosen],
            result.plan.ids[chosen],
            result.scored[chosen],
            result.lane_distances[chosen],
        )
    given = as_ndarray(pool_distances, "pool_distances")
    if given.dtype.kind not in "fiu":
        raise TypeError(f"pool_distances: expected numbers, got dtype {given.dtype}")
    if given.shape != result.pool.shape:
        raise ValueError(
            f"pool_distances: expected the shape of the pool, {result.pool.shape}, "
            f"got {given.shape}"
        )
    there = result.pool >= 0
    if np.isnan(given[there]).any():
        raise ValueError("pool_distances: expected no NaN, got one")
    with np.errstate(over="ignore"):
        return there[chosen], given[chosen].astype(np.float32).astype(np.float64)


def _line(
    result: Any, i: int, query_class: str | None, labels: Iterable[int] | None, near: Any, far: Any
) -> str:
    planned = result.plan
    setting = Setting(
        planned.n_lanes, int(planned.ids.shape[2]), planned.alpha, planned.head, planned.scheme
    )
    low, high = result.keys[i].tolist()
    ids = result.pool[i]
    scored = result.scored[i].sum(axis=1).tolist()
    distances = [_number(x) for x in far[near].astype(np.float32)]
    record = {
        "v": VERSION,
        "key": f"{low | high << 64:032x}",
        "class": query_class,
        "k": int(result.ids.shape[1]),
        "setting": asdict(setting),
        "pool": ids[ids >= 0].tolist(),
        "lanes": [
            {
                "planned": count,
                "scored": scored[lane.lane],
                # A lane without a candidate for this query has nothing to be late with.
                "on_time": bool(lane.on_time) or scored[lane.lane] == count,
                "seconds": None if lane.seconds is None else float(lane.seconds),
            }
            for lane, count in zip(result.lanes, planned.counts[i].tolist(), strict=True)
        ],
        "scored": {"ids": ids[near].tolist(), "distances": distances},
        "final": result.ids[i][result.ids[i] >= 0].tolist(),
        "labels": None if labels is None else as_vector_ids(list(labels), f"labels[{i}]").tolist(),
    }
    return json.dumps(record, separators=(",", ":"), allow_nan=False) + "\n"


def _number(x: np.float32) -> float | None:
    """Shortest decimals that give the same float32 back; JSON has no infinity."""
    if x == -math.inf:
        x = np.finfo(np.float32).min
    return float(str(x)) if math.isfinite(x) else None


# ---------------------------------------------------------------------------------------- reading


def _parse(line: bytes, where: str) -> Record:
    try:
        told = json.loads(line)
    # Python's limits on nesting and on the digits of integers are hit here as well.
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{where}: expected an object in JSON ({error})") from None
    _check(isinstance(told, dict), where, "an object", told)
    _check("v" in told, f"{where}: v", "a version", "none")
    newer = "; a newer lanewise wrote it" if type(told["v"]) is int and told["v"] > VERSION else ""
    _check(told["v"] == VERSION, f"{where}: v", f"version {VERSION}", f"{told['v']!r}{newer}")
    missing = [name for name in _MEMBERS if name not in told]
    _check(not missing, where, f"the members {', '.join(_MEMBERS)}", f"none of {missing}")
    key = told["key"]
    _check(
        isinstance(key, str) and len(key) == 32 and set(key) <= set("0123456789abcdef"),
        f"{where}: key",
        "32 hexadecimal digits",
        key,
    )
    name = told["class"]
    _check(name is None or isinstance(name, str), f"{where}: class", "a string or null", name)
    k = told["k"]
    _check(_is_count(k), f"{where}: k", "a whole number", k)
    try:
        setting = Setting(**told["setting"])
    except (TypeError, ValueError) as error:
        raise FileFormatError(f"{where}: setting: expected that of a plan ({error})") from None
    pool = _ids(told["pool"], f"{where}: pool")
    lanes = _lanes(told["lanes"], setting.n_lanes, f"{where}: lanes")
    scored = told["scored"]
    _check(
        isinstance(scored, dict) and {"ids", "distances"} <= set(scored),
        f"{where}: scored",
        "ids and distances",
        scored,
    )
    scored_ids = _ids(scored["ids"], f"{where}: scored: ids")
    strangers = np.setdiff1d(scored_ids, pool)
    _check(len(strangers) == 0, f"{where}: scored: ids", "ids of the pool", strangers[:3].tolist())
    distances = _distances(scored["distances"], len(scored_ids), f"{where}: scored: distances")
    final = _ids(told["final"], f"{where}: final")
    _check(len(final) <= k, f"{where}: final", f"at most k = {k} ids", len(final))
    labels = None if told["labels"] is None else _ids(told["labels"], f"{where}: labels")
    return Record(int(key, 16), name, k, setting, pool, lanes, scored_ids, distances, final, labels)


def _ids(told: Any, where: str) -> Ids:
    right = isinstance(told, list) and all(type(i) is int and 0 <= i <= _MOST_ID for i in told)
    _check(right, where, "a list of ids from 0 to 2**63 - 1", told)
    _check(len(set(told)) == len(told), where, "distinct ids", told)
    return np.array(told, dtype=np.int64)


def _lanes(told: Any, n_lanes: int, where: str) -> tuple[Lane, ...]:
    _check(
        isinstance(told, list) and len(told) == n_lanes, where, f"a list of {n_lanes} lanes", told
    )
    lanes = []
    for one in told:
        right = (
            isinstance(one, dict)
            and {"planned", "scored", "on_time", "seconds"} <= set(one)
            and _is_count(one["planned"])
            and _is_count(one["scored"])
            and one["scored"] <= one["planned"]
            and isinstance(one["on_time"], bool)
            and (one["seconds"] is None or _is_time(one["seconds"]))
        )
        _check(right, where, "planned >= scored, on_time and seconds", one)
        seconds = one["seconds"]
        lanes.append(
            Lane(
                one["planned"],
                one["scored"],
                one["on_time"],
                None if seconds is None else float(seconds),
            )
        )
    return tuple(lanes)


def _distances(told: Any, n: int, where: str) -> Floats:
    right = isinstance(told, list) and all(x is None or _is_finite(x) for x in told)
    _check(right, where, "a list of finite numbers, or null", told)
    _check(len(told) == n, where, f"{n}, one for each id", len(told))
    with np.errstate(over="ignore"):
        return np.array([math.inf if x is None else x for x in told]).astype(np.float32)


def _is_count(x: Any) -> bool:
    return type(x) is int and 0 <= x <= _MOST_ID


def _is_finite(x: Any) -> bool:
    # Python's integers have no limit, and JSON's none either.
    return (type(x) is int and abs(x) <= _MOST_ID) or (type(x) is float and math.isfinite(x))


def _is_time(x: Any) -> bool:
    return _is_finite(x) and x >= 0


def _check(right: bool, where: str, expected: str, found: Any) -> None:
    if not right:
        text = repr(found)
        short = text if len(text) <= 80 else f"{text[:77]}..."
        raise FileFormatError(f"{where}: expected {expected}, got {short}")
