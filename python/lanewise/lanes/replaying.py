"""What another setting would have found for the queries of a log.

Three things are put together. The plan of another setting follows from the logged key and pool.
What its candidates score is in the log, for the queries whose whole pool has scores. And what its
lanes would have done is drawn from what lanes did: each query is replayed several times, with the
lanes of logged queries of its class, spread evenly over the log. They are taken from all queries,
not from the complete ones alone, which are often complete only because all lanes were on time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lanewise import draws
from lanewise.arrays import check_int, check_real
from lanewise.lanes.law import OnTime
from lanewise.lanes.planning import Setting
from lanewise.lanes.querylog import Record
from lanewise.lanes.ranks import pool_ranks
from lanewise.lanes.running import share

__all__ = ["Replay", "as_logged", "logged_setting", "on_time_of", "rank_shares", "replay"]

# Queries over which is averaged what the lanes of one query have in common.
_NEARBY = 400

Bools = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Replay:
    """What a setting finds.

    Attributes
    ----------
    setting : Setting or None
        None for what was really answered.
    n_queries, n_complete : int
        Queries of the log, and those of them whose whole pool has scores. The others cannot be
        judged; if there are none, all are, by the scores that there are, which favours settings
        like the logged one.
    recall : float
        Share of the best k of all known scores that is answered.
    recall_error : float
        Its standard error: from how much the judged queries differ, and from how much lanes do,
        as if those of one query were independent of those of the next. Settings share both, so that
        their differences are known better.
    recall_p5 : float
        The 5th percentile over queries and draws.
    label_recall : float or None
        Share of the relevant ids that is answered; None without labels.
    on_time : float
        Share of lanes on time.
    coverage : float
        Share of the planned candidates that are scored in time.
    """

    setting: Setting | None
    n_queries: int
    n_complete: int
    recall: float
    recall_error: float
    recall_p5: float
    label_recall: float | None
    on_time: float
    coverage: float


def replay(
    records: Sequence[Record],
    setting: Setting,
    *,
    k: int | None = None,
    n_draws: int = 16,
    deadline: float | None = None,
    seed: int = 0,
) -> Replay:
    """Predict what a setting would have found.

    Parameters
    ----------
    records : sequence of Record
        From `read_log`.
    setting : Setting
    k : int, optional
        Length of the answer; by default each query's own.
    n_draws : int, default 16
        Times that each query is replayed, with other lanes each time.
    deadline : float, optional
        Seconds that lanes had. With it, a lane that was on time gets no further than its speed
        allows if it is to score more than it did; without it, it would have scored all the same.
    seed : int, default 0
        Of the draws, which together with the records determines every number.

    Returns
    -------
    Replay

    Raises
    ------
    ValueError, TypeError
        If there are no records, or an argument is out of its range.

    Notes
    -----
    A lane that was late is taken to have scored as many candidates as it did. Where the setting has
    more lanes than a logged query had, the lanes of the queries after it join in, so that what
    lanes have in common at one time is kept; or its own do once more, as often as is needed to keep
    what they have in common in one query.

    Classes count as often as they are logged, however many of their queries are complete.

    Examples
    --------
    >>> log = read_log("queries.jsonl")  # doctest: +SKIP
    >>> replay(log, Setting(n_lanes=4, k_lane=16, alpha=0.0)).recall  # doctest: +SKIP
    0.83
    """
    if not isinstance(setting, Setting):
        raise TypeError(f"setting: expected a Setting, got {type(setting).__name__}")
    n_draws = check_int(n_draws, "n_draws", low=1, high=2**16)
    seed = check_int(seed, "seed", low=0, high=2**64 - 1)
    if deadline is not None:
        deadline = check_real(deadline, "deadline", low=0.0)
    judged = _Judged(records, k)
    planned = setting.plan(judged.pool, judged.keys)
    ranks = pool_ranks(judged.pool, planned.ids)
    there = planned.ids >= 0
    logged = _LoggedLanes(records)
    donors = _draw_donors(records, judged.index, n_draws, seed)
    found, labelled, done, in_time = [], [], [], []
    place = np.arange(setting.k_lane)
    drawn = draws.uniforms(seed, "replay", donors.size, stream=1).reshape(donors.T.shape)
    for donor, chance in zip(donors.T, drawn, strict=True):
        reached, on_time = logged.outcomes(donor, chance, planned.counts, deadline)
        scored = there & (place < reached[:, :, np.newaxis])
        seen = _at_ranks(ranks, scored, judged.pool.shape[1]) & judged.known
        found.append(judged.recall(seen))
        labelled.append(judged.label_recall(seen))
        done.append(scored.sum(axis=(1, 2)) / np.maximum(there.sum(axis=(1, 2)), 1))
        in_time.append(on_time)
    return judged.summary(
        setting, np.stack(found, axis=1), np.stack(labelled, axis=1), np.stack(done), in_time
    )


def as_logged(records: Sequence[Record], *, k: int | None = None) -> Replay:
    """Return what was really answered, judged as `replay` judges.

    Parameters
    ----------
    records, k
        As for `replay`.

    Returns
    -------
    Replay
    """
    judged = _Judged(records, k)
    answered = np.zeros(judged.pool.shape, dtype=np.bool_)
    coverage = np.ones(len(judged.index))
    shares = []
    for row, i in enumerate(judged.index.tolist()):
        record = records[i]
        answered[row] = np.isin(judged.pool[row], record.final[: judged.k[row]])
        planned = sum(lane.planned for lane in record.lanes)
        coverage[row] = sum(lane.scored for lane in record.lanes) / max(planned, 1)
        shares.append(np.mean([lane.on_time for lane in record.lanes]))
    return judged.summary(
        None,
        judged.recall(answered)[:, np.newaxis],
        judged.label_recall(answered)[:, np.newaxis],
        coverage,
        shares,
    )


def logged_setting(records: Sequence[Record]) -> Setting:
    """Return the setting that most queries of the log had.

    Raises
    ------
    ValueError
        If there are no records.
    """
    _check_records(records)
    return Counter(record.setting for record in records).most_common(1)[0][0]


def rank_shares(records: Sequence[Record], *, k: int | None = None) -> Doubles:
    """Return the share of the answers that stands at each rank of the pool: what the law needs.

    Parameters
    ----------
    records, k
        As for `replay`.

    Returns
    -------
    ndarray of float64, shape (largest k_pool,)
        Their sum is 1.

    Raises
    ------
    ValueError
        If no query has complete scores: ranks that nobody scored would seem to be worth nothing.
    """
    judged = _Judged(records, k)
    if judged.n_complete == 0:
        raise ValueError(
            "records: expected some with scores of the whole pool, such as pool_distances= of "
            "QueryLog.write leaves, got none"
        )
    per_query = judged.best / np.maximum(judged.best.sum(axis=1, keepdims=True), 1)
    shares: Doubles = judged.weight @ per_query
    return shares / max(float(shares.sum()), 1e-300)


def on_time_of(records: Sequence[Record]) -> OnTime:
    """Return how many lanes were on time, over the queries with the most usual number of lanes.

    Parameters
    ----------
    records : sequence of Record

    Returns
    -------
    OnTime

    Raises
    ------
    ValueError
        If there are no records.
    """
    usual = logged_setting(records)
    alike = [one for one in records if one.setting.n_lanes == usual.n_lanes]
    reached = np.array([[_reached(lane, usual.k_lane) for lane in one.lanes] for one in alike])
    return OnTime.observed(np.arange(usual.k_lane) < reached[:, :, np.newaxis])


def _reached(lane: Any, k_lane: int) -> int:
    return k_lane if lane.on_time else int(lane.scored)


def _check_records(records: Sequence[Record]) -> None:
    if len(records) == 0:
        raise ValueError("records: expected at least one, got none")


class _Judged:
    """The records that can be judged, as arrays: pools in rank order, and the best of them."""

    def __init__(self, records: Sequence[Record], k: int | None) -> None:
        _check_records(records)
        if k is not None:
            k = check_int(k, "k", low=1)
        complete = [i for i, record in enumerate(records) if record.is_complete]
        self.n_queries, self.n_complete = len(records), len(complete)
        self.index: Ids = np.array(complete or range(len(records)), dtype=np.int64)
        chosen = [records[i] for i in self.index.tolist()]
        width = max(1, max(len(record.pool) for record in chosen))
        shape = (len(chosen), width)
        self.pool = np.full(shape, -1, dtype=np.int64)
        self.known = np.zeros(shape, dtype=np.bool_)
        self.relevant = np.zeros(shape, dtype=np.bool_)
        self.n_relevant = np.zeros(len(chosen), dtype=np.int64)
        self.keys = np.empty((len(chosen), 2), dtype=np.uint64)
        self.k = np.array([record.k if k is None else k for record in chosen], dtype=np.int64)
        distances = np.full(shape, np.inf)
        for row, record in enumerate(chosen):
            n = len(record.pool)
            self.pool[row, :n] = record.pool
            self.keys[row] = record.key & (2**64 - 1), record.key >> 64
            rank = pool_ranks(record.pool[np.newaxis], record.scored_ids[np.newaxis])[0]
            self.known[row, rank] = True
            distances[row, rank] = record.scored_distances
            if record.labels is not None:
                self.relevant[row, :n] = np.isin(record.pool, record.labels)
                self.n_relevant[row] = len(record.labels)
        # By (distance, id), as answers are; what has no score comes last.
        self.order = np.lexsort((self.pool, distances, ~self.known), axis=1)
        self.best = self._answer(self.known)
        self.weight = _class_weights(records, self.index)

    def _answer(self, seen: Bools) -> Bools:
        """Return which ranks are answered if these are scored: the k best of them."""
        ordered = np.take_along_axis(seen, self.order, axis=1)
        first = ordered & (np.cumsum(ordered, axis=1) <= self.k[:, np.newaxis])
        answer = np.zeros_like(seen)
        np.put_along_axis(answer, self.order, first, axis=1)
        return answer

    def recall(self, seen: Bools) -> Doubles:
        """Share of the best that is answered; 1 where there is nothing to find."""
        # One of the best that is scored is answered: no more than k - 1 are better.
        wanted = self.best.sum(axis=1)
        hits = (self.best & seen).sum(axis=1)
        return share(hits, wanted)

    def label_recall(self, seen: Bools) -> Doubles:
        """Share of the relevant ids that is answered; NaN where there are none."""
        hits = (self._answer(seen) & self.relevant).sum(axis=1)
        return np.where(self.n_relevant > 0, hits / np.maximum(self.n_relevant, 1), np.nan)

    def summary(
        self,
        setting: Setting | None,
        found: Doubles,
        labelled: Doubles,
        coverage: Doubles,
        on_time: Any,
    ) -> Replay:
        per_query = found.mean(axis=1)
        recall = min(1.0, float(self.weight @ per_query))
        variance = float((self.weight**2) @ (per_query - recall) ** 2)
        if found.shape[1] > 1:
            # However often lanes are drawn, they are those of the log, and their luck remains.
            # (With one draw each query has its own, which the queries' differences contain.)
            n_lanes_drawn = min(self.n_queries, found.size)
            variance += float(self.weight @ found.var(axis=1, ddof=1)) / n_lanes_drawn
        error = math.sqrt(variance)
        weights = np.repeat(self.weight / found.shape[1], found.shape[1])
        order = np.argsort(found.reshape(-1), kind="stable")
        at = int(np.searchsorted(np.cumsum(weights[order]), 0.05 - 1e-9))
        p5 = float(found.reshape(-1)[order[min(at, len(order) - 1)]])
        has_labels = self.n_relevant > 0
        label_recall = None
        if has_labels.any():
            shares = self.weight[has_labels] / self.weight[has_labels].sum()
            label_recall = float(shares @ labelled[has_labels].mean(axis=1))
        return Replay(
            setting,
            self.n_queries,
            self.n_complete,
            recall,
            error,
            p5,
            label_recall,
            float(np.mean(on_time)),
            float(np.mean(coverage)),
        )


def _class_weights(records: Sequence[Record], index: Ids) -> Doubles:
    """Weights of the judged records that give their classes the shares they have in the log."""
    judged = [records[i].query_class for i in index.tolist()]
    everybody, some = Counter(one.query_class for one in records), Counter(judged)
    weights = np.array([everybody[name] / some[name] for name in judged])
    scaled: Doubles = weights / weights.sum()
    return scaled


class _LoggedLanes:
    """What lanes did, as arrays of shape (n_records, most lanes)."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.n_lanes = np.array([len(one.lanes) for one in records], dtype=np.int64)
        shape = (len(records), int(self.n_lanes.max()))
        self.planned = np.zeros(shape, dtype=np.int64)
        self.scored = np.zeros(shape, dtype=np.int64)
        self.on_time = np.zeros(shape, dtype=np.bool_)
        self.seconds = np.full(shape, np.nan)
        for i, record in enumerate(records):
            for l, lane in enumerate(record.lanes):  # noqa: E741
                self.planned[i, l], self.scored[i, l] = lane.planned, lane.scored
                self.on_time[i, l] = lane.on_time
                self.seconds[i, l] = np.nan if lane.seconds is None else lane.seconds
        names = {name: i for i, name in enumerate({one.query_class: 0 for one in records})}
        classes = np.array([names[one.query_class] for one in records])
        order = np.lexsort((np.arange(len(records)), classes))
        self.next = np.empty(len(records), dtype=np.int64)
        self.together = np.zeros(len(records))
        # Behind the last of a class comes its first.
        for number in range(len(names)):
            own = order[classes[order] == number]
            self.next[own] = np.roll(own, -1)
            self.together[own] = self._together(own)

    def _together(self, own: Ids) -> Doubles:
        """Chance with which further lanes of a query repeat its own, instead of the next query's.

        It is such that two lanes of one query have as often the same fate as two of those logged
        nearby: lanes that are late together remain so, however many there are. What they have in
        common by chance alone, within two standard errors, does not count.
        """
        done, n = self.on_time[own].astype(np.float64), self.n_lanes[own]
        after = np.roll(done, -1, axis=0)
        n_pairs = np.maximum(n * (n - 1), 1)
        n_done, n_after, same = done.sum(axis=1), after.sum(axis=1), (done * after).sum(axis=1)
        within = n_done * (n_done - 1) / n_pairs
        between = (n_done * n_after - same) / n_pairs
        usable = (n > 1) & (n == np.roll(n, -1))
        excess = np.where(usable, within - between, 0.0)
        alone = np.where(usable, (n_done - same) / n, 0.0)
        common, square, fate = (_nearby(x) for x in (excess, excess**2, alone))
        error = np.sqrt(np.maximum(square - common**2, 0.0) / min(len(own), _NEARBY))
        known = (common > 2 * error) & (n > 1)
        share = n * common / np.maximum(np.maximum(fate, 0.0) + (n - 1) * common, 1e-300)
        chance: Doubles = np.where(known, np.minimum(share, 1.0), 0.0)
        return chance

    def outcomes(
        self, donor: Ids, drawn: Doubles, counts: npt.NDArray[np.int32], deadline: float | None
    ) -> tuple[Ids, Bools]:
        """How many candidates each lane gets to, and whether these are all.

        Lane l does what lane l of the donor did; behind the donor's last lane come its own again,
        if less is drawn than the chance that they are late together, or those of the query after.
        """
        repeats = drawn < self.together[donor]
        reached = np.empty(counts.shape, dtype=np.int64)
        lane = np.zeros(len(donor), dtype=np.int64)
        for column in range(counts.shape[1]):
            over = lane >= self.n_lanes[donor]
            donor = np.where(over & ~repeats, self.next[donor], donor)
            lane = np.where(over, 0, lane)
            planned = self.planned[donor, lane]
            all_of = counts[:, column].astype(np.int64)
            if deadline is not None:
                seconds = self.seconds[donor, lane]
                with np.errstate(divide="ignore", invalid="ignore"):
                    able = np.nan_to_num(deadline / seconds * planned, nan=np.inf)
                able = np.minimum(np.floor(able), 2.0**31).astype(np.int64)
                all_of = np.minimum(all_of, np.maximum(planned, able))
            late = np.minimum(self.scored[donor, lane], counts[:, column])
            reached[:, column] = np.where(self.on_time[donor, lane], all_of, late)
            lane += 1
        return reached, reached >= counts


def _nearby(x: Doubles) -> Doubles:
    """Return means over the queries logged nearby, as many at the ends."""
    n = min(len(x), _NEARBY)
    sums = np.concatenate(([0.0], np.cumsum(x)))
    begin = np.clip(np.arange(len(x)) - n // 2, 0, len(x) - n)
    means: Doubles = (sums[begin + n] - sums[begin]) / n
    return means


def _draw_donors(records: Sequence[Record], judged: Ids, n_draws: int, seed: int) -> Ids:
    """Choose whose lanes are used, shape (n_judged, n_draws): of one class, spread evenly."""
    donors = np.empty((len(judged), n_draws), dtype=np.int64)
    start = draws.uniforms(seed, "replay", len(judged))
    of_class: dict[str | None, list[int]] = {}
    for i, record in enumerate(records):
        of_class.setdefault(record.query_class, []).append(i)
    arrays = {name: np.array(own, dtype=np.int64) for name, own in of_class.items()}
    for row, i in enumerate(judged.tolist()):
        own = arrays[records[i].query_class]
        at = (start[row] + np.arange(n_draws)) * (len(own) / n_draws)
        donors[row] = own[at.astype(np.int64) % len(own)]
    return donors


def _at_ranks(ranks: Ids, scored: Bools, width: int) -> Bools:
    seen = np.zeros((len(ranks), width), dtype=np.bool_)
    query, lane, place = np.nonzero(scored & (ranks >= 0))
    seen[query, ranks[query, lane, place]] = True
    return seen
