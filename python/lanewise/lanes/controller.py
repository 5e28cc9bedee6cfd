"""A setting for each search, from what the searches before it have shown.

The controller keeps what the law needs (see `lanewise.lanes.law`), for each class of queries: how
many lanes are on time, and where in the pool the answers stand. Both are averages with weights that
fall exponentially. It then takes the setting that is predicted best, if that is better by a margin
and the last change is some time ago.

Lanes are mostly the same to all classes, so how many are on time is learnt from all queries, until
those of a class differ beyond chance: then it goes by its own. And lanes may change at once: the
last few queries are held against what was expected of them, and if they surprise together, most of
what was known of lanes is forgotten and learnt anew, as fast as in the beginning.

What a rank is worth can only be seen where it is scored, and who does not partition never scores
the tail. Therefore every so many queries, counted and not drawn, one is searched with the widest
setting; and a rank's average runs over the queries that scored it, in which the answer's share of
the ranks that were scored is known from the averages themselves: of the scored candidates the best
k W count as the full answer's, where W is the share of the answer that the scored ranks hold.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lanewise.arrays import check_bool, check_int, check_real
from lanewise.lanes.law import (
    OnTime,
    break_even,
    candidates,
    count_lanes,
    describe,
    first_best,
    predict,
    predict_low,
    ranks_reached,
)
from lanewise.lanes.planning import Plan, Setting
from lanewise.lanes.ranks import has_common_pool, scored_by_rank

__all__ = ["Controller", "Decision"]

Doubles = npt.NDArray[np.float64]

_LOGGER = logging.getLogger("lanewise.lanes")
_VERSION = 1

# Observed queries between two looks at the predictions: they change little in so few.
_EVERY = 8
# The same while little is known of lanes, as after a change.
_EVERY_NEW = 2
# Ranks that are told apart, times the candidates that the widest setting scores.
_MOST_RANKS = 4
# Queries whose answers must have been seen before anything is predicted.
_FIRST = 32
# Surprises are averaged over so many queries; more than so many standard deviations of that average
# are an alarm, after which the past weighs as so many queries.
_RECENT, _ALARM, _KEPT = 12, 4.0, 6
# Standard deviations are taken to be no less: of one lane's being late, of two, of all.
_LEAST_SPREAD = np.array([0.1, 0.1, 0.2])


@dataclass(frozen=True)
class Decision:
    """What the controller decided, and why.

    Attributes
    ----------
    number : int
        Of the query of this class, the first is 0.
    query_class : str or None
    kind : {"first", "keep", "switch", "explore"}
    setting, previous : Setting
        What is used from now on, or for one search if it explores, and what was before.
    quality, previous_quality : float
        What both are predicted to find of the full pool's answer; NaN before there is an estimate.
    on_time, break_even, overlap : float
        Estimates: share of lanes on time, R(k_lane) / R(k_total), and the share of scored
        candidates that another lane had scored already.
    reason : str
    """

    number: int
    query_class: str | None
    kind: str
    setting: Setting
    previous: Setting
    quality: float
    previous_quality: float
    on_time: float
    break_even: float
    overlap: float
    reason: str


class Controller:
    """Choose how each search is partitioned, from running estimates.

    Parameters
    ----------
    settings : sequence of Setting, optional
        To choose from; by default `lanewise.lanes.law.candidates()`, for 4 lanes of 16. Settings
        with fewer lanes may be among them. The widest one, of the largest k_total and of these the
        first, is what a class starts with and explores with.
    margin : float, default 0.005
        A setting must be predicted to find so much more to replace another.
    dwell : int, default 16
        Queries of the class that a setting stays at least, unless all lanes have changed.
    memory : int, default 100
        Queries over which the share of lanes on time is averaged, about, while nothing changes.
    rank_memory : int, default 400
        Queries that scored a rank, over which its share of the answers is averaged, about.
    explore : float, default 0.01
        Share of queries searched with the widest setting, where the chosen one would never score
        some of the ranks that it scores. 0 for none: then what was once learnt of them stays.
    thrift : float, default 0.0
        Quality given up to save work: of all settings predicted within this of the best the one
        that scores fewest candidates is taken.
    risk : float, default 0.0
        What the worst times count for: settings are compared by (1 - risk) of the predicted
        quality and risk of the one that is predicted for the worst 5 % of what lanes do.
    max_decisions : int, default 1000
        Decisions kept; older ones are forgotten.
    max_classes : int, default 64
        Classes kept apart; further ones are taken together with the class None.

    Attributes
    ----------
    decisions : tuple of Decision
        The latest, oldest first. Each is also logged by the logger ``"lanewise.lanes"``: changes as
        INFO, all others as DEBUG.

    Notes
    -----
    All methods may be called from any thread. Searches with different k should have different
    classes, as ranks are worth different shares to them.

    Where lanes collect for themselves (``LaneSearch(collect="lanes")``) there is no common pool
    whose ranks could be worth anything: such results teach the share of lanes on time alone, and
    the widest setting stays.

    Examples
    --------
    >>> controller = Controller()
    >>> controller.choose().alpha, controller.decisions[-1].kind
    (1.0, 'first')
    """

    def __init__(
        self,
        settings: Sequence[Setting] | None = None,
        *,
        margin: float = 0.005,
        dwell: int = 16,
        memory: int = 100,
        rank_memory: int = 400,
        explore: float = 0.01,
        thrift: float = 0.0,
        risk: float = 0.0,
        max_decisions: int = 1000,
        max_classes: int = 64,
    ) -> None:
        self.settings = candidates() if settings is None else tuple(settings)
        if len(self.settings) == 0:
            raise ValueError("settings: expected at least one, got none")
        for one in self.settings:
            if not isinstance(one, Setting):
                raise TypeError(f"settings: expected Settings, got {type(one).__name__}")
        self.margin = check_real(margin, "margin", low=0.0, high=1.0)
        self.dwell = check_int(dwell, "dwell", low=0)
        self.memory = check_int(memory, "memory", low=1)
        self.rank_memory = check_int(rank_memory, "rank_memory", low=1)
        self.explore = check_real(explore, "explore", low=0.0, high=1.0)
        self.thrift = check_real(thrift, "thrift", low=0.0, high=1.0)
        self.risk = check_real(risk, "risk", low=0.0, high=1.0)
        self.max_classes = check_int(max_classes, "max_classes", low=1)
        self._decisions: deque[Decision] = deque(
            maxlen=check_int(max_decisions, "max_decisions", low=1)
        )
        self.widest = max(self.settings, key=lambda one: one.k_total)
        self._n_lanes = sorted({one.n_lanes for one in self.settings})
        self._depth = max(one.k_lane for one in self.settings)
        self._unseen = {one: self._leaves_ranks(one) for one in self.settings}
        self._classes: dict[str | None, _Estimates] = {}
        # Mean surprise of the last queries: at lanes, at pairs of them, and at all being late.
        self._surprise = np.zeros(3)
        self._lanes = _Lanes(self._n_lanes, self._depth)
        self._lock = threading.Lock()

    def _leaves_ranks(self, setting: Setting) -> bool:
        """Whether it never scores some rank that the widest one scores."""
        n = self.widest.k_total
        return bool((ranks_reached(self.widest, n) & ~ranks_reached(setting, n)).any())

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """The latest decisions, oldest first."""
        with self._lock:
            return tuple(self._decisions)

    def choose(self, query_class: str | None = None) -> Setting:
        """Return the setting for the next search of this class.

        Parameters
        ----------
        query_class : str, optional

        Returns
        -------
        Setting
        """
        with self._lock:
            name, known = self._class(query_class)
            if known.n_seen >= known.next_look:
                is_new = known.lanes_used(self._lanes).n_seen < _FIRST
                known.next_look = known.n_seen + (_EVERY_NEW if is_new else _EVERY)
                self._look(name, known)
            if self._should_explore(known):
                known.n_explored += 1
                self._note(
                    known,
                    name,
                    "explore",
                    self.widest,
                    f"{describe(known.setting)} leaves ranks unscored: one query shows their worth",
                )
                return self.widest
            return known.setting

    def observe(self, result: Any, query_class: str | None = None) -> None:
        """Learn from a search.

        Parameters
        ----------
        result : LaneResult
        query_class : str, optional
        """
        n_queries = len(result.scored)
        if n_queries == 0:
            return
        with self._lock:
            _, known = self._class(query_class)
            self._learn_lanes(known, result)
            if has_common_pool(result):
                self._learn_ranks(known, result)
            known.n_seen += n_queries
            if self._unseen[known.setting] and _is_of(result.plan, self.widest):
                # The search that explored was counted as one query when it was chosen.
                known.n_explored += n_queries - 1

    def state(self) -> dict[str, Any]:
        """Return all estimates, of plain lists and numbers that JSON has; see `restore`."""
        with self._lock:
            return {
                "version": _VERSION,
                "settings": [asdict(one) for one in self.settings],
                "surprise": self._surprise.tolist(),
                "lanes": self._lanes.state(),
                "classes": [[name, known.state()] for name, known in self._classes.items()],
            }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned, here or in another process.

        Parameters
        ----------
        state : dict
            Of a controller with the same settings to choose from.

        Raises
        ------
        ValueError
            If it is not such a state. The controller is then as it was.
        """
        try:
            version, settings = state["version"], state["settings"]
        except (TypeError, KeyError):
            raise ValueError("state: expected what Controller.state returned") from None
        if version != _VERSION:
            raise ValueError(f"state: expected version {_VERSION}, got {version!r}")
        if settings != [asdict(one) for one in self.settings]:
            raise ValueError("state: expected the same settings to choose from, got others")
        try:
            classes = {
                name: _Estimates.restored(self, told) for name, told in list(state["classes"])
            }
            surprise = _as_surprise(state["surprise"], "surprise")
            lanes = _Lanes(self._n_lanes, self._depth).restore(state["lanes"])
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise ValueError(f"state: expected estimates of classes ({error})") from None
        if not all(name is None or isinstance(name, str) for name in classes):
            raise ValueError("state: expected classes with names")
        with self._lock:
            self._classes, self._surprise, self._lanes = classes, surprise, lanes

    # ------------------------------------------------------------------------------ what it learns

    def _class(self, query_class: str | None) -> tuple[str | None, _Estimates]:
        if query_class is not None and not isinstance(query_class, str):
            raise TypeError(
                f"query_class: expected a str or None, got {type(query_class).__name__}"
            )
        name = query_class
        if name not in self._classes and len(self._classes) >= self.max_classes:
            name = None
        if name not in self._classes:
            known = self._classes[name] = _Estimates(self)
            self._note(known, name, "first", self.widest, "nothing is known yet")
        return name, self._classes[name]

    def _learn_lanes(self, known: _Estimates, result: Any) -> None:
        scored, planned = result.scored, result.plan.ids >= 0
        whole = np.array([lane.on_time for lane in result.lanes], dtype=np.bool_)
        # Where a lane had no candidate it counts as the lane does as a whole.
        done = scored | (~planned & whole[np.newaxis, :, np.newaxis])
        at = np.minimum(np.arange(self._depth), done.shape[2] - 1)
        done = done[:, :, at]
        weight = _weight(len(done), math.inf, _RECENT)
        self._surprise += weight * (known.lanes_used(self._lanes).surprise(done) - self._surprise)
        if _is_sure(self._surprise, _RECENT):
            self._surprise[:] = 0.0
            for lanes in (self._lanes, *(other.lanes for other in self._classes.values())):
                lanes.forget()
            for other in self._classes.values():
                # Neither the next look nor the dwell is waited for.
                other.next_look, other.changed = other.n_seen, other.n_seen - self.dwell
            _LOGGER.info("lanes have changed: all classes learn anew how many are on time")
        # Whether lanes are another to this class than to all, which takes as many queries to say.
        surprise = self._lanes.surprise(done)
        known.apart += _weight(len(done), known.n_seen, self.memory) * (surprise - known.apart)
        known.is_apart = _is_sure(known.apart, min(self.memory, known.n_seen + len(done)))
        for lanes in (self._lanes, known.lanes):
            lanes.learn(done, self.memory)
        n_scored = int(scored.sum())
        if n_scored > 0:
            twice = int(np.sum(result.stats["duplicates"])) / n_scored
            weight = _weight(len(done), known.n_seen, self.memory)
            known.overlap += weight * (twice - known.overlap)

    def _learn_ranks(self, known: _Estimates, result: Any) -> None:
        k = result.ids.shape[1]
        seen, distances = scored_by_rank(
            result.pool, result.plan.ids, result.scored, result.lane_distances
        )
        # Of an owner's lanes some get beyond k_total ranks, but not far.
        width = min(seen.shape[1], _MOST_RANKS * self.widest.k_total)
        seen, distances = seen[:, :width], distances[:, :width]
        known.make_room(width)
        before = known.rank_seen[:width]
        # A pool may be wider than what is ever scored: those ranks are in nobody's answer.
        limit = max(self.widest.k_total, int(np.max(np.nonzero(before)[0], initial=-1)) + 1)
        there = np.arange(width) < np.minimum((result.pool >= 0).sum(axis=1), limit)[:, np.newaxis]
        usual = known.ranks[:width][before > 0].mean() if before.any() else 1.0
        worth = np.where(before > 0, known.ranks[:width], usual)
        inside, whole = (seen * worth).sum(axis=1), (there * worth).sum(axis=1)
        n_best = np.minimum(k, there.sum(axis=1)) * inside / np.maximum(whole, 1e-12)
        # Equal distances are in the order of ranks, which is as good as any.
        order = np.argsort(np.where(seen, distances, np.inf), axis=1, kind="stable")
        place = np.empty_like(order)
        np.put_along_axis(place, order, np.broadcast_to(np.arange(width), order.shape), axis=1)
        among = np.clip(n_best[:, np.newaxis] - place, 0.0, 1.0) * seen
        times = seen.sum(axis=0)
        mean = among.sum(axis=0) / np.maximum(times, 1)
        memory = 1 - (1 - 1 / self.rank_memory) ** times
        share = np.where(times > 0, np.maximum(memory, times / np.maximum(before + times, 1)), 0.0)
        known.ranks[:width] += share * (mean - known.ranks[:width])
        known.rank_seen[:width] += times

    # ----------------------------------------------------------------------------- what it decides

    def _predict(self, known: _Estimates, setting: Setting) -> float:
        if not known.ranks.sum() > 0:
            return math.nan
        lanes = known.lanes_used(self._lanes)
        return predict(known.ranks, lanes.on_time(setting.n_lanes), setting)

    def _value(self, known: _Estimates, setting: Setting) -> float:
        """Return what settings are compared by."""
        value = self._predict(known, setting)
        if self.risk > 0:
            lanes = known.lanes_used(self._lanes).on_time(setting.n_lanes)
            low = predict_low(known.ranks, lanes, setting)
            value = (1 - self.risk) * value + self.risk * low
        return value

    def _should_explore(self, known: _Estimates) -> bool:
        due = known.n_explored + 1 <= self.explore * (known.n_seen - known.explored_from)
        return due and self._unseen[known.setting]

    def _look(self, name: str | None, known: _Estimates) -> None:
        """See whether another setting is better now."""
        if known.n_seen < _FIRST or not known.ranks.sum() > 0:
            return
        found = [self._value(known, one) for one in self.settings]
        best = max(found)
        enough = [
            (one.k_total, -quality, i)
            for i, (one, quality) in enumerate(zip(self.settings, found, strict=True))
            if quality >= best - self.thrift
        ]
        choice = self.settings[min(enough)[2] if self.thrift > 0 else first_best(found)]
        quality, now = found[self.settings.index(choice)], self._value(known, known.setting)
        if choice == known.setting:
            self._note(known, name, "keep", choice, "it is predicted best")
            return
        cheaper = self.thrift > 0 and choice.k_total < known.setting.k_total
        if not cheaper and quality - now <= self.margin:
            reason = f"{describe(choice)} is not better by more than {self.margin:g}"
            self._note(known, name, "keep", known.setting, reason)
            return
        stayed = known.n_seen - known.changed
        if stayed < self.dwell:
            reason = f"{describe(choice)} is better, but this one stays {self.dwell} queries"
            self._note(known, name, "keep", known.setting, reason)
            return
        saved = f", for {choice.k_total} candidates instead of {known.setting.k_total}"
        reason = (
            f"predicted {quality:.3f} against {now:.3f} of {describe(known.setting)}"
            f"{saved if cheaper else ''}"
        )
        self._note(known, name, "switch", choice, reason)
        known.setting, known.changed = choice, known.n_seen
        # The first query that explores comes a whole interval after the change.
        known.n_explored, known.explored_from = 0, known.n_seen

    def _note(
        self, known: _Estimates, name: str | None, kind: str, setting: Setting, reason: str
    ) -> None:
        decision = Decision(
            number=known.n_seen,
            query_class=name,
            kind=kind,
            setting=setting,
            previous=known.setting,
            quality=self._predict(known, setting),
            previous_quality=self._predict(known, known.setting),
            on_time=known.lanes_used(self._lanes).on_time(setting.n_lanes).share,
            break_even=known.break_even(setting),
            overlap=known.overlap,
            reason=reason,
        )
        self._decisions.append(decision)
        _LOGGER.log(
            logging.INFO if kind == "switch" else logging.DEBUG,
            "class %s, query %d: %s %s: %s (%.1f %% of lanes on time, break-even %.1f %%, "
            "overlap %.2f)",
            name,
            decision.number,
            kind,
            describe(setting),
            reason,
            100 * decision.on_time,
            100 * decision.break_even,
            decision.overlap,
        )


class _Lanes:
    """How many lanes are on time: averages for each number of lanes that a setting has."""

    def __init__(self, n_lanes: Sequence[int], depth: int) -> None:
        # Shares of how many are on time, those of neighbours, and queries seen.
        self.known: dict[int, tuple[Doubles, Doubles, int]] = {}
        for n in n_lanes:
            counts = np.zeros((depth, n + 1))
            counts[:, n] = 1
            self.known[n] = counts, np.ones(depth), 0

    def learn(self, done: npt.NDArray[np.bool_], memory: int) -> None:
        """Learn from (n_queries, n_lanes, depth): which candidates were there in time."""
        for n, (counts, pairs, seen) in self.known.items():
            if n <= done.shape[1]:
                part = done[:, :n]
                share = _weight(len(part), seen, memory)
                counts += share * (count_lanes(part) - counts)
                pairs += share * ((part | np.roll(part, -1, axis=1)).mean(axis=(0, 1)) - pairs)
                self.known[n] = counts, pairs, seen + len(part)

    def forget(self) -> None:
        """Let what comes next weigh more than all that is known."""
        self.known = {
            n: (counts, pairs, min(s, _KEPT)) for n, (counts, pairs, s) in self.known.items()
        }

    def surprise(self, done: npt.NDArray[np.bool_]) -> Doubles:
        """Return by how many standard deviations lanes, pairs, and all were late more often."""
        n = done.shape[1]
        if n not in self.known or self.known[n][2] == 0:
            return np.zeros(3)
        expected = self.known[n][0][-1]
        late = n - np.arange(n + 1)
        shares = np.stack([late / n, late * (late - 1) / max(1, n * (n - 1)), late == n])
        mean = shares @ expected
        spread = np.sqrt(np.maximum(shares**2 @ expected - mean**2, 0.0))
        found = shares[:, done[:, :, -1].sum(axis=1)].mean(axis=1)
        surprise: Doubles = (found - mean) / np.maximum(spread, _LEAST_SPREAD)
        return surprise

    @property
    def n_seen(self) -> int:
        return max(seen for _, _, seen in self.known.values())

    def on_time(self, n_lanes: int) -> OnTime:
        counts, pairs, _ = self.known[n_lanes]
        return OnTime(counts, np.minimum(pairs, 1.0) if n_lanes > 1 else None)

    def state(self) -> list[Any]:
        return [
            [n, counts.tolist(), pairs.tolist(), seen]
            for n, (counts, pairs, seen) in self.known.items()
        ]

    def restore(self, state: Any) -> _Lanes:
        for n, counts, pairs, seen in state:
            shape = self.known[n][0].shape
            if OnTime(counts, pairs).counts.shape != shape:
                raise ValueError(f"lanes: expected shares of shape {shape}")
            self.known[n] = np.array(counts), np.array(pairs), check_int(seen, "seen", low=0)
        return self


class _Estimates:
    """What is known of one class."""

    def __init__(self, controller: Controller) -> None:
        n_ranks = controller.widest.k_total
        self.setting = controller.widest
        self.n_seen = self.next_look = self.changed = 0
        self.n_explored = self.explored_from = 0
        self.overlap = 0.0
        self.lanes = _Lanes(controller._n_lanes, controller._depth)
        # Mean surprise at this class of who expects of it what all classes do.
        self.apart = np.zeros(3)
        self.is_apart = False
        self.ranks = np.zeros(n_ranks)
        self.rank_seen = np.zeros(n_ranks, dtype=np.int64)

    def make_room(self, width: int) -> None:
        more = width - len(self.ranks)
        if more > 0:
            self.ranks = np.concatenate((self.ranks, np.zeros(more)))
            self.rank_seen = np.concatenate((self.rank_seen, np.zeros(more, dtype=np.int64)))

    def lanes_used(self, everybody: _Lanes) -> _Lanes:
        return self.lanes if self.is_apart else everybody

    def break_even(self, setting: Setting) -> float:
        return break_even(self.ranks, setting) if self.ranks.sum() > 0 else math.nan

    def state(self) -> dict[str, Any]:
        return {
            "setting": asdict(self.setting),
            "n_seen": self.n_seen,
            "next_look": self.next_look,
            "changed": self.changed,
            "n_explored": self.n_explored,
            "explored_from": self.explored_from,
            "overlap": self.overlap,
            "lanes": self.lanes.state(),
            "apart": self.apart.tolist(),
            "is_apart": self.is_apart,
            "ranks": self.ranks.tolist(),
            "rank_seen": self.rank_seen.tolist(),
        }

    @classmethod
    def restored(cls, controller: Controller, state: Mapping[str, Any]) -> _Estimates:
        known = cls(controller)
        known.setting = Setting(**state["setting"])
        if known.setting not in controller.settings:
            raise ValueError("setting: expected one to choose from")
        for name in ("n_seen", "next_look", "n_explored", "explored_from"):
            setattr(known, name, check_int(state[name], name, low=0))
        known.changed = check_int(state["changed"], "changed")
        known.overlap = check_real(state["overlap"], "overlap", low=0.0, high=1.0)
        known.lanes.restore(state["lanes"])
        known.apart = _as_surprise(state["apart"], "apart")
        known.is_apart = check_bool(state["is_apart"], "is_apart")
        ranks = np.array(state["ranks"], dtype=np.float64)
        times = np.array(state["rank_seen"], dtype=np.int64)
        if ranks.ndim != 1 or ranks.shape != times.shape or len(ranks) < len(known.ranks):
            raise ValueError("ranks: expected a share for each rank")
        if not (np.isfinite(ranks).all() and (ranks >= 0).all() and (times >= 0).all()):
            raise ValueError("ranks: expected finite shares that are not negative")
        known.ranks, known.rank_seen = ranks, times
        return known


def _is_sure(surprise: Doubles, n_queries: int) -> bool:
    """Whether a mean surprise is no chance: of an average over so many independent queries."""
    return bool(np.abs(surprise).max() > _ALARM / math.sqrt(2 * n_queries - 1))


def _as_surprise(told: Any, name: str) -> Doubles:
    if len(told) != 3:
        raise ValueError(f"{name}: expected three numbers")
    return np.array([check_real(x, name) for x in told])


def _weight(n_queries: int, seen: float, memory: int) -> float:
    """Return what new queries weigh in an average: as all others at first, then 1 / memory each."""
    return max(1 - (1 - 1 / memory) ** n_queries, n_queries / (seen + n_queries))


def _is_of(planned: Plan, setting: Setting) -> bool:
    """Whether the plan was made with the setting."""
    shape = (planned.n_lanes, planned.ids.shape[2], planned.alpha, planned.head, planned.scheme)
    return shape == (
        setting.n_lanes,
        setting.k_lane,
        setting.alpha,
        setting.head,
        setting.scheme,
    )
