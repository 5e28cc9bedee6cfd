"""A setting for each search, from what the searches before it have shown.

The controller keeps what the law needs (see `lanewise.lanes.law`), for each class of queries: how
many lanes are on time, and where in the pool the answers stand. It then takes the setting that is
predicted best, if that is better by a margin and the last change is some time ago; and never one
that is predicted to find less, when lanes are at their worst, than the setting that has been best
all along: of which the mean alone would think too little.

Lanes may change at once, and nobody says when. Therefore several averages are kept that began at
different times, each with the chance that lanes are since then as they are now: Bayesian change
points (Adams, MacKay 2007: Bayesian Online Changepoint Detection, arXiv:0710.3742). Whether lanes
are late each for itself or together is not known either, so each average is held in both ways, by
their shares and by how many are on time at once, and what has come weighs the two.

Lanes are mostly the same to all classes, so they are learnt from all queries, until a class's own
averages have foretold its queries better: then it goes by these.

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
from functools import lru_cache
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
_VERSION = 2

# Observed queries between two looks at the predictions: they change little in so few.
_EVERY = 8
# The same while little is known of lanes, as after a change, which is when so few were seen since.
_EVERY_NEW, _NEW = 1, 16
# Ranks that are told apart, times the candidates that the widest setting scores.
_MOST_RANKS = 4
# Queries whose answers must have been seen before anything is predicted.
_FIRST = 32
# Chance that lanes change from one query to the next, and how many beginnings are remembered.
_HAZARD, _BEGINNINGS = 1 / 200, 16
# What is known before anything is seen weighs as so many queries, or lanes.
_PRIOR_QUERIES, _PRIOR_LANES = 0.2, 0.1
# What comes in one batch is learnt in no more steps: its lanes are not late once for each query.
_STEPS = 16
# A class has lanes of its own if they have foretold so much better, in natural logarithms.
_APART = 5.0
# Queries over which it is averaged which setting has been best all along, about.
_ALL_ALONG = 20_000
# What counts as the worst times where a risk is given, and what predictions differ by for nothing.
_WORST, _ROUNDING = 0.05, 1e-9
# What exploring may cost: so much of the share of queries that may explore.
_EXPLORE_LOSS = 0.05


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
        Queries of the class that a setting stays at least, unless lanes have changed.
    memory : int, default 100
        Queries over which the share of lanes on time is averaged, about, while nothing changes.
    rank_memory : int, default 400
        Queries that scored a rank, over which its share of the answers is averaged, about.
    explore : float, default 0.01
        Largest share of queries searched with the widest setting, where the chosen one would never
        score some of the ranks that it scores; less where that is predicted to cost more than 5
        points of quality. 0 for none: then what was once learnt of them stays.
    thrift : float, default 0.0
        Quality given up to save work: of all settings predicted within this of the best the one
        that scores fewest candidates is taken.
    risk : float, default 0.0
        What the worst times count for: settings are compared by (1 - risk) of the predicted
        quality and risk of the one that is predicted for the worst 5 % of what lanes do.
    tail : float, default 0.2
        The worst share of what lanes do in which no setting may be predicted to find less than the
        one that has been best all along. 0 to go by the mean, or what risk makes of it, alone.
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
        tail: float = 0.2,
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
        self.tail = check_real(tail, "tail", low=0.0, high=1.0)
        self.max_classes = check_int(max_classes, "max_classes", low=1)
        self._decisions: deque[Decision] = deque(
            maxlen=check_int(max_decisions, "max_decisions", low=1)
        )
        self.widest = max(self.settings, key=lambda one: one.k_total)
        self._n_lanes = sorted({one.n_lanes for one in self.settings})
        self._depth = max(one.k_lane for one in self.settings)
        self._unseen = {one: self._leaves_ranks(one) for one in self.settings}
        self._classes: dict[str | None, _Estimates] = {}
        # What each setting was predicted to find, on average over the queries of all classes.
        self._all_along = np.zeros(len(self.settings))
        self._n_looked = 0
        self._lanes = _Lanes(self)
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
                is_new = known.lanes_used(self._lanes).age < _NEW
                known.next_look = known.n_seen + (_EVERY_NEW if is_new else _EVERY)
                self._look(name, known)
            if self._should_explore(known):
                known.n_explored += 1
                known.explore_loss += known.loss
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
                known.explore_loss += (n_queries - 1) * known.loss

    def state(self) -> dict[str, Any]:
        """Return all estimates, of plain lists and numbers that JSON has; see `restore`."""
        with self._lock:
            return {
                "version": _VERSION,
                "settings": [asdict(one) for one in self.settings],
                "all_along": self._all_along.tolist(),
                "n_looked": self._n_looked,
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
            all_along = _as_shares(state["all_along"], "all_along", self._all_along.shape)
            n_looked = check_int(state["n_looked"], "n_looked", low=0)
            lanes = _Lanes(self).restore(state["lanes"])
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise ValueError(f"state: expected estimates of classes ({error})") from None
        if not all(name is None or isinstance(name, str) for name in classes):
            raise ValueError("state: expected classes with names")
        with self._lock:
            self._classes, self._lanes = classes, lanes
            self._all_along, self._n_looked = all_along, n_looked

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
        own, of_all = known.lanes.learn(done), self._lanes.learn(done)
        known.apart = (1 - 1 / self.memory) ** len(done) * known.apart + own - of_all
        known.is_apart = known.apart > _APART
        if known.lanes_used(self._lanes).have_changed():
            for other in self._classes.values():
                # Neither the next look nor the dwell is waited for.
                other.next_look, other.changed = other.n_seen, other.n_seen - self.dwell
            _LOGGER.info("lanes have changed")
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
            value = (1 - self.risk) * value + self.risk * self._low(known, setting, _WORST)
        return value

    def _low(self, known: _Estimates, setting: Setting, share: float) -> float:
        """Return what is found in the worst such share of what lanes do; 0 of none."""
        if share == 0:
            return 0.0
        lanes = known.lanes_used(self._lanes).on_time(setting.n_lanes)
        return predict_low(known.ranks, lanes, setting, share)

    def _should_explore(self, known: _Estimates) -> bool:
        allowed = self.explore * (known.n_seen - known.explored_from)
        due = known.n_explored + 1 <= allowed
        cheap = known.explore_loss + known.loss <= _EXPLORE_LOSS * allowed
        return due and cheap and self._unseen[known.setting]

    def _look(self, name: str | None, known: _Estimates) -> None:
        """See whether another setting is better now."""
        if known.n_seen < _FIRST or not known.ranks.sum() > 0:
            return
        found = np.array([self._value(known, one) for one in self.settings])
        n_more = known.n_seen - known.looked
        weight = _weight(n_more, self._n_looked, _ALL_ALONG)
        self._all_along += weight * (found - self._all_along)
        self._n_looked, known.looked = self._n_looked + n_more, known.n_seen
        now = self.settings.index(known.setting)
        known.loss = max(0.0, found[now] - found[self.settings.index(self.widest)])
        usual = first_best(self._all_along.tolist())
        low = np.array([self._low(known, one, self.tail) for one in self.settings])
        safe = low >= low[usual] - self.thrift - _ROUNDING
        place = first_best(np.where(safe, found, -math.inf).tolist())
        if self.thrift > 0:
            enough = np.flatnonzero(safe & (found >= found[place] - self.thrift)).tolist()
            place = min(enough, key=lambda i: (self.settings[i].k_total, -found[i], i))
        choice = self.settings[place]
        if choice == known.setting:
            self._note(known, name, "keep", choice, "it is predicted best")
            return
        cheaper = self.thrift > 0 and choice.k_total < known.setting.k_total
        better = found[place] - found[now] > self.margin
        safer = not safe[now] and low[place] - low[now] > self.margin
        if not (cheaper or better or safer):
            reason = f"{describe(choice)} is not better by more than {self.margin:g}"
            self._note(known, name, "keep", known.setting, reason)
            return
        stayed = known.n_seen - known.changed
        if stayed < self.dwell:
            reason = f"{describe(choice)} is better, but this one stays {self.dwell} queries"
            self._note(known, name, "keep", known.setting, reason)
            return
        what = f"{found[place]:.3f} against {found[now]:.3f} of {describe(known.setting)}"
        if cheaper:
            what += f", for {choice.k_total} candidates instead of {known.setting.k_total}"
        elif not better:
            what += (
                f", but {low[place]:.3f} against {low[now]:.3f} in the worst {self.tail:.0%} of "
                f"what lanes do, where {describe(self.settings[usual])}, best all along, is the "
                f"measure"
            )
        self._note(known, name, "switch", choice, f"predicted {what}")
        known.setting, known.changed = choice, known.n_seen
        # The first query that explores comes a whole interval after the change.
        known.n_explored, known.explored_from, known.explore_loss = 0, known.n_seen, 0.0
        known.loss = max(0.0, found[place] - found[self.settings.index(self.widest)])

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

    def __init__(self, controller: Controller) -> None:
        self.known = {
            n: _Beginnings(n, controller._depth, controller.memory) for n in controller._n_lanes
        }

    def learn(self, done: npt.NDArray[np.bool_]) -> float:
        """Learn from (n_queries, n_lanes, depth): which candidates were there in time.

        Return how well it was foretold, the logarithm of its chance.
        """
        foretold = 0.0
        n_steps = min(len(done), _STEPS)
        for n, known in self.known.items():
            if n <= done.shape[1]:
                parts = np.array_split(done[:, :n], n_steps)
                foretold = sum(known.learn(part) for part in parts)
        return foretold

    def have_changed(self) -> bool:
        """Whether lanes are now likely to have changed of late; true once for each change."""
        # All are asked, as each remembers what it has said.
        changed = [known.has_changed() for known in self.known.values()]
        return any(changed)

    @property
    def age(self) -> int:
        """Queries since lanes have changed, as is likely now."""
        return min(known.age for known in self.known.values())

    def on_time(self, n_lanes: int) -> OnTime:
        return self.known[n_lanes].on_time()

    def state(self) -> list[Any]:
        return [[n, known.state()] for n, known in self.known.items()]

    def restore(self, state: Any) -> _Lanes:
        for n, told in state:
            self.known[n].restore(told)
        return self


class _Beginnings:
    """Averages of what so many lanes did, since each of several queries on.

    Attributes
    ----------
    weights : ndarray, shape (n_beginnings, 2)
        Chance that lanes are as now since then, and each late for itself; and late together.
    began : ndarray of int64, shape (n_beginnings,)
        Queries seen before, in ascending order.
    n_averaged : ndarray, shape (n_beginnings,)
        Queries that the sums stand for: of older ones less and less, so that these are no more than
        the controller's memory.
    counts : ndarray, shape (n_beginnings, depth, n_lanes + 1)
        Queries for which j lanes reported candidate d.
    pairs : ndarray, shape (n_beginnings, depth)
        Queries for which one of two neighbouring lanes did, an average over the pairs.
    """

    def __init__(self, n_lanes: int, depth: int, memory: int) -> None:
        self.n_lanes, self.memory = n_lanes, memory
        self.weights = np.empty((0, 2))
        self.began = np.empty(0, dtype=np.int64)
        self.n_averaged = np.empty(0)
        self.counts = np.empty((0, depth, n_lanes + 1))
        self.pairs = np.empty((0, depth))
        self.n_seen = self.last_change = 0
        self._on_time: OnTime | None = None

    def learn(self, done: npt.NDArray[np.bool_]) -> float:
        """Learn from (n_queries, n_lanes, depth), one step; return the logarithm of its chance."""
        self._begin()
        counts = count_lanes(done)
        # Chances of many lanes are smaller than any double; only their logarithms are not.
        told = self._foretell() @ counts[-1] + np.log(np.maximum(self.weights, 1e-300))
        most = float(told.max())
        evidence = np.exp(told - most)
        self.weights = evidence / evidence.sum()
        n = len(done)
        kept = np.minimum(1.0, np.maximum(self.memory - n, 0) / np.maximum(self.n_averaged, 1e-300))
        self.counts = self.counts * kept[:, np.newaxis, np.newaxis] + n * counts
        pairs = (done | np.roll(done, -1, axis=1)).mean(axis=(0, 1))
        self.pairs = self.pairs * kept[:, np.newaxis] + n * pairs
        self.n_averaged = self.n_averaged * kept + n
        self.n_seen += n
        self._on_time = None
        return most + math.log(float(evidence.sum()))

    def _begin(self) -> None:
        """Let lanes have changed just now, too; where there are too many, the least likely goes."""
        if len(self.began) >= _BEGINNINGS:
            kept = np.arange(len(self.began)) != np.argmin(self.weights.sum(axis=1))
            for name in ("weights", "began", "n_averaged", "counts", "pairs"):
                setattr(self, name, getattr(self, name)[kept])
        hazard = _HAZARD if len(self.began) else 1.0
        self.weights = np.concatenate(
            (
                self.weights * ((1 - hazard) / max(float(self.weights.sum()), 1e-300)),
                [[hazard / 2] * 2],
            )
        )
        self.began = np.append(self.began, self.n_seen)
        self.n_averaged = np.append(self.n_averaged, 0.0)
        self.counts = np.concatenate((self.counts, np.zeros((1, *self.counts.shape[1:]))))
        self.pairs = np.concatenate((self.pairs, np.zeros((1, self.pairs.shape[1]))))

    def _foretell(self) -> Doubles:
        """Logarithms of the chances of each number of lanes on time as a whole.

        Shape (n_beginnings, 2, n_lanes + 1), as the weights.
        """
        n, counts, total = self.n_lanes, self.counts[:, -1], self.n_averaged[:, np.newaxis]
        j = np.arange(n + 1)
        good = _PRIOR_LANES + counts @ j
        bad = _PRIOR_LANES + counts @ (n - j)
        # Beta-binomial: logarithms of x (x + 1) (x + 2) ... in the places of 0, 1, 2, ... factors.
        good, bad, both = (_log_rising(x, n) for x in (good, bad, good + bad))
        apart = _log_choices(n) + good + bad[:, ::-1] - both[:, -1:]
        together = np.log((_PRIOR_QUERIES / (n + 1) + counts) / (_PRIOR_QUERIES + total))
        return np.stack((apart, together), axis=1)

    def has_changed(self) -> bool:
        """Whether lanes have changed of late, as is likely now; true once for each change."""
        began = int(self.began[np.argmax(self.weights.sum(axis=1))]) if len(self.began) else 0
        changed = began > self.last_change and self.n_seen - began <= _NEW
        if changed:
            self.last_change = began
        return changed

    @property
    def age(self) -> int:
        return self.n_seen - self.last_change

    def on_time(self) -> OnTime:
        """Return what is known of all beginnings, by their chances."""
        if self._on_time is None:
            self._on_time = self._average()
        return self._on_time

    def _average(self) -> OnTime:
        n = self.n_lanes
        if len(self.began) == 0:
            return OnTime.independent(1.0, n)
        j = np.arange(n + 1)
        total = self.n_averaged[:, np.newaxis]
        good = (_PRIOR_LANES + self.counts @ j) / (2 * _PRIOR_LANES + n * total)
        alone, together = self.weights.T
        p = good[:, :, np.newaxis]
        binomial = np.exp(_log_choices(n) + j * np.log(p) + (n - j) * np.log1p(-p))
        counts = np.tensordot(alone, binomial, 1)
        share = together / (_PRIOR_QUERIES + self.n_averaged)
        counts += np.tensordot(share, self.counts, 1) + share.sum() * _PRIOR_QUERIES / (n + 1)
        if n == 1:
            return OnTime(counts)
        # Of two lanes one is, where all numbers of lanes have the same chance, two times in three.
        pairs = alone @ (1 - (1 - good) ** 2)
        pairs += share @ self.pairs + share.sum() * _PRIOR_QUERIES * 2 / 3
        return OnTime(counts, np.minimum(pairs, 1.0))

    def state(self) -> dict[str, Any]:
        arrays = ("weights", "began", "n_averaged", "counts", "pairs")
        told: dict[str, Any] = {name: getattr(self, name).tolist() for name in arrays}
        return {**told, "n_seen": self.n_seen, "last_change": self.last_change}

    def restore(self, told: Mapping[str, Any]) -> None:
        n_seen = check_int(told["n_seen"], "n_seen", low=0)
        last_change = check_int(told["last_change"], "last_change", low=0, high=n_seen)
        began = np.array(told["began"], dtype=np.int64)
        n = len(began)
        if began.ndim != 1 or n > _BEGINNINGS or (n_seen > 0) != (n > 0) or (began < 0).any():
            raise ValueError("began: expected when averages began")
        arrays = {}
        for name in ("weights", "n_averaged", "counts", "pairs"):
            shape = (n, *getattr(self, name).shape[1:])
            arrays[name] = _as_shares(told[name], name, shape) if n else getattr(self, name)
        if n and not arrays["weights"].sum() > 0:
            raise ValueError("weights: expected a positive sum")
        self.weights, self.n_averaged = arrays["weights"], arrays["n_averaged"]
        self.counts, self.pairs, self.began = arrays["counts"], arrays["pairs"], began
        self.n_seen, self.last_change = n_seen, last_change
        self._on_time = None


def _log_rising(x: Doubles, n: int) -> Doubles:
    """Logarithms of products of x, x + 1, ...: of 0 to n factors, shape (len(x), n + 1)."""
    logs: Doubles = np.zeros((len(x), n + 1))
    np.cumsum(np.log(x[:, np.newaxis] + np.arange(n)), axis=1, out=logs[:, 1:])
    return logs


@lru_cache(maxsize=64)
def _log_choices(n: int) -> Doubles:
    """Logarithms of the numbers of ways to choose 0 to n of n."""
    logs = np.array([math.lgamma(i + 1) for i in range(n + 1)])
    choices: Doubles = logs[-1] - logs - logs[::-1]
    return choices


class _Estimates:
    """What is known of one class."""

    def __init__(self, controller: Controller) -> None:
        n_ranks = controller.widest.k_total
        self.setting = controller.widest
        self.n_seen = self.next_look = self.changed = 0
        self.n_explored = self.explored_from = self.looked = 0
        # What a query is predicted to lose if it explores, and what those that did have lost.
        self.loss = self.explore_loss = 0.0
        self.overlap = 0.0
        self.lanes = _Lanes(controller)
        # By how much its own lanes have foretold its queries better than those of all classes.
        self.apart = 0.0
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
            "looked": self.looked,
            "loss": self.loss,
            "explore_loss": self.explore_loss,
            "overlap": self.overlap,
            "lanes": self.lanes.state(),
            "apart": self.apart,
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
        for name in ("n_seen", "next_look", "n_explored", "explored_from", "looked"):
            setattr(known, name, check_int(state[name], name, low=0))
        for name in ("loss", "explore_loss"):
            setattr(known, name, check_real(state[name], name, low=0.0))
        known.changed = check_int(state["changed"], "changed")
        known.overlap = check_real(state["overlap"], "overlap", low=0.0, high=1.0)
        known.lanes.restore(state["lanes"])
        known.apart = check_real(state["apart"], "apart")
        known.is_apart = check_bool(state["is_apart"], "is_apart")
        times = np.array(state["rank_seen"], dtype=np.int64)
        if times.ndim != 1 or len(times) < len(known.ranks) or (times < 0).any():
            raise ValueError("rank_seen: expected a number for each rank")
        ranks = _as_shares(state["ranks"], "ranks", times.shape)
        known.ranks, known.rank_seen = ranks, times
        return known


def _as_shares(told: Any, name: str, shape: tuple[int, ...]) -> Doubles:
    shares = np.array(told, dtype=np.float64)
    if shares.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {shares.shape}")
    if not (np.isfinite(shares).all() and (shares >= 0).all()):
        raise ValueError(f"{name}: expected finite shares that are not negative")
    return shares


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
