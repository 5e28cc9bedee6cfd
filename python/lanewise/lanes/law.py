"""When partitioning pays: what a setting finds, from pool ranks and lanes on time alone.

The law
-------
Let w[r] be the share of the answer that stands at rank r of the pool, R(n) = w[0] + ... + w[n - 1],
s the share of lanes that are on time, and a the chance that at least one is. Lanes that all score
the same k_lane candidates (alpha = 0) find a R(k_lane): any of them will do. Lanes that all score
different ones (alpha = 1) find s R(k_total), k_total = n_lanes * k_lane: the key deals each rank to
every lane as often as to any other, so whichever lanes are late take the share 1 - s of every rank
with them. Partitioning therefore pays only if

    s / a > R(k_lane) / R(k_total),

and with a near 1, as it is for several lanes that are not late together, only if more lanes than
the share R(k_lane) / R(k_total) are on time. Lanes that are late together lower a, which makes
partitioning pay earlier: copies insure against single losses alone.

The model
---------
Between these two a rank may be held by c lanes. It is scored in time with the chance that at least
one of them is, which for lanes drawn at random from the n_lanes, j of which are on time, is
1 - C(n_lanes - j, c) / C(n_lanes, c). Who holds what is not modelled but taken from `plan` itself,
over many keys; so every scheme, alpha and head is predicted, a head's price at the tail included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from lanewise.arrays import as_ndarray, check_int, check_real
from lanewise.lanes.planning import Setting

__all__ = ["Advice", "OnTime", "advise", "break_even", "candidates", "predict", "predict_low"]

ALPHAS = (0.0, 0.25, 0.5, 0.75)

# Keys over which a plan is averaged; fewer for large ones.
_MOST_KEYS, _FEWEST_KEYS, _CELLS = 1024, 32, 1 << 18

Doubles = npt.NDArray[np.float64]


class OnTime:
    """How many of the lanes are on time, not taken to be independent.

    Parameters
    ----------
    counts : array-like of float, shape (n_lanes + 1,) or (depth, n_lanes + 1)
        Entry j is the share of queries for which j lanes were on time; rows are scaled to sum to 1.
        With several rows, row d says it of the lanes' candidate number d, best first: a lane that
        scores step by step may have reported its first ones only. Deeper ones are as the last row.
    neighbours : array-like of float, shape () or (depth,), optional
        Share of queries for which at least one of two neighbouring lanes, l and l + 1 mod n_lanes,
        was on time: those that share a head. By default as for any two lanes.

    Raises
    ------
    ValueError, TypeError
        If the shares are not finite, negative, or all zero.

    Examples
    --------
    >>> lanes = OnTime([0.1, 0.0, 0.0, 0.0, 0.9])  # all four or none
    >>> lanes.share, lanes.reach(1).tolist(), lanes.reach(4).tolist()
    (0.9, [0.9], [0.9])
    >>> OnTime.independent(0.9, 2).reach(2).round(3).tolist()
    [0.99]
    """

    def __init__(self, counts: Any, neighbours: Any = None) -> None:
        rows = np.atleast_2d(_as_shares(counts, "counts"))
        if rows.ndim != 2 or rows.shape[0] < 1 or rows.shape[1] < 2:
            raise ValueError(
                f"counts: expected shape (n_lanes + 1,) or (depth, n_lanes + 1), got {rows.shape}"
            )
        totals = rows.sum(axis=1, keepdims=True)
        if not (totals > 0).all():
            raise ValueError("counts: expected a positive sum, got 0")
        self.counts: Doubles = rows / totals
        self.neighbours: Doubles | None = None
        if neighbours is not None:
            pairs = np.atleast_1d(_as_shares(neighbours, "neighbours"))
            if pairs.shape != (len(rows),) or (pairs > 1 + 1e-9).any():
                raise ValueError(
                    f"neighbours: expected {len(rows)} shares from 0 to 1, got {neighbours!r}"
                )
            self.neighbours = pairs

    @classmethod
    def independent(cls, share: float, n_lanes: int) -> OnTime:
        """Return what lanes do that are each on time with this chance, whatever the others do."""
        share = check_real(share, "share", low=0.0, high=1.0)
        n = check_int(n_lanes, "n_lanes", low=1, high=2**16)
        counts = np.zeros(n + 1)
        if share in (0.0, 1.0):
            counts[round(share * n)] = 1
            return cls(counts)
        j = np.arange(n + 1)
        logs = np.array(
            [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in j]
        )
        return cls(np.exp(logs + j * math.log(share) + (n - j) * math.log1p(-share)))

    @classmethod
    def observed(cls, on_time: Any) -> OnTime:
        """Return what lanes did.

        Parameters
        ----------
        on_time : array-like of bool, shape (n_queries, n_lanes) or (n_queries, n_lanes, depth)
            Which lanes were on time, or which of their candidates.
        """
        seen = as_ndarray(on_time, "on_time")
        if seen.dtype != np.bool_ or seen.ndim not in (2, 3) or seen.size == 0:
            raise ValueError(
                f"on_time: expected booleans of shape (n_queries, n_lanes) or (n_queries, n_lanes, "
                f"depth), some at least, got {seen.dtype} of shape {seen.shape}"
            )
        seen = seen.reshape(*seen.shape[:2], -1)
        pairs = (seen | np.roll(seen, -1, axis=1)).mean(axis=(0, 1))
        return cls(count_lanes(seen), pairs)

    @property
    def n_lanes(self) -> int:
        """Number of lanes."""
        return int(self.counts.shape[1]) - 1

    @property
    def share(self) -> float:
        """Share of lanes that are on time with all of their candidates."""
        return float(self.reach(1)[-1])

    def reach(self, n_holders: int) -> Doubles:
        """Return the chance that one of so many lanes is on time, shape (depth,)."""
        c = check_int(n_holders, "n_holders", low=1, high=self.n_lanes)
        if c == 2 and self.neighbours is not None:
            return self.neighbours
        reached: Doubles = 1 - self.counts @ _missed(self.n_lanes, c)
        return reached

    def of(self, n_lanes: int) -> OnTime:
        """Return the same for fewer lanes, a random choice of these.

        Raises
        ------
        ValueError
            If there are not as many.
        """
        n = check_int(n_lanes, "n_lanes", low=1)
        if n > self.n_lanes:
            raise ValueError(
                f"on_time: expected it for at least {n} lanes, got it for {self.n_lanes}"
            )
        if n == self.n_lanes:
            return self
        counts = np.zeros((len(self.counts), n + 1))
        for j in range(self.n_lanes + 1):
            for i in range(max(0, n - (self.n_lanes - j)), min(n, j) + 1):
                ways = math.comb(j, i) * math.comb(self.n_lanes - j, n - i)
                counts[:, i] += self.counts[:, j] * (ways / math.comb(self.n_lanes, n))
        return OnTime(counts)

    def __repr__(self) -> str:
        return f"OnTime(n_lanes={self.n_lanes}, share={self.share:.3f})"


def _missed(n_lanes: int, n_holders: int) -> Doubles:
    """Chance that so many holders are all late, for each number of lanes on time.

    Where j of them are it is C(n_lanes - j, n_holders) / C(n_lanes, n_holders).
    """
    late = n_lanes - np.arange(n_lanes + 1)
    if n_holders == n_lanes:
        return np.where(late == n_lanes, 1.0, 0.0)
    missed = np.ones(n_lanes + 1)
    for i in range(n_holders):
        missed *= np.maximum(late - i, 0) / (n_lanes - i)
    return missed


def count_lanes(seen: npt.NDArray[np.bool_]) -> Doubles:
    """Share of queries for which j lanes reported candidate d, shape (depth, n_lanes + 1)."""
    n_queries, n_lanes, depth = seen.shape
    cells = seen.sum(axis=1) + np.arange(depth) * (n_lanes + 1)
    counted = np.bincount(cells.reshape(-1), minlength=depth * (n_lanes + 1))
    shares: Doubles = counted.reshape(depth, n_lanes + 1) / n_queries
    return shares


@dataclass(frozen=True)
class Advice:
    """What `advise` recommends, and why.

    Attributes
    ----------
    setting : Setting
        The one that is predicted to find most.
    quality : float
        Predicted share of the full pool's answer that it finds.
    predictions : tuple of (Setting, float)
        All that were considered, with their predicted qualities, in the order given.
    on_time : float
        Share of lanes on time.
    break_even : float
        R(k_lane) / R(k_total): partition only if more lanes than that are on time.
    reason : str
        A sentence or two.
    """

    setting: Setting
    quality: float
    predictions: tuple[tuple[Setting, float], ...]
    on_time: float
    break_even: float
    reason: str


def candidates(
    n_lanes: int = 4, k_lane: int = 16, scheme: str = "stratified"
) -> tuple[Setting, ...]:
    """Return the settings of one budget that are worth a prediction, all of them partitioned first.

    Parameters
    ----------
    n_lanes, k_lane : int
    scheme : {"stratified", "permute", "owner"}, default "stratified"

    Returns
    -------
    tuple of Setting
        alpha = 1; then with half a lane's budget and all of it as head, where the scheme knows
        ranks; then less and less partitioned, to alpha = 0.

    Examples
    --------
    >>> [(s.alpha, s.head) for s in candidates(4, 16)]
    [(1.0, 0), (1.0, 8), (1.0, 16), (0.75, 0), (0.5, 0), (0.25, 0), (0.0, 0)]
    """
    full = Setting(n_lanes, k_lane, 1.0, 0, scheme)
    if n_lanes == 1:
        return (full,)
    heads = sorted({max(1, k_lane // 2), k_lane}) if scheme != "owner" else []
    return (
        full,
        *(Setting(n_lanes, k_lane, 1.0, head, scheme) for head in heads),
        *(Setting(n_lanes, k_lane, alpha, 0, scheme) for alpha in reversed(ALPHAS)),
    )


def predict(w: Any, on_time: OnTime, setting: Setting) -> float:
    """Predict what a setting finds of the answer that the full pool has.

    Parameters
    ----------
    w : array-like of float, shape (k_pool,)
        Share of the final top-k that stands at each rank of the pool; any scale.
    on_time : OnTime
        For as many lanes as the setting has, or more.
    setting : Setting

    Returns
    -------
    float
        From 0 to 1.

    Raises
    ------
    ValueError, TypeError
        If the shares are not finite, negative, or all zero, or there are too few lanes.

    Examples
    --------
    >>> w = [0.4, 0.3, 0.2, 0.1]
    >>> two = OnTime.independent(0.9, 2)
    >>> round(predict(w, two, Setting(n_lanes=2, k_lane=2)), 3)
    0.9
    >>> round(predict(w, two, Setting(n_lanes=2, k_lane=2, alpha=0.0)), 3)
    0.693
    """
    shares = _as_rank_shares(w)
    dealt = _dealt(setting, len(shares))
    lanes = on_time.of(setting.n_lanes)
    depth = np.minimum(dealt.depth, len(lanes.counts) - 1)
    found = 0.0
    for c in dealt.holders:
        cells = dealt.n_holders == c
        reach = lanes.reach(int(c))[depth[cells]]
        found += float((dealt.weight[cells] * shares[dealt.rank[cells]]) @ reach)
    return found


def predict_low(w: Any, on_time: OnTime, setting: Setting, share: float = 0.05) -> float:
    """Predict what a setting finds when lanes are at their worst.

    Parameters
    ----------
    w, on_time, setting
        As for `predict`.
    share : float, default 0.05
        How much of the time that is.

    Returns
    -------
    float
        Mean over the worst such share of what lanes do, of lanes that are on time as a whole.

    Raises
    ------
    ValueError, TypeError
        As from `predict`.

    Examples
    --------
    >>> lanes = OnTime([0.0, 0.1, 0.9])  # one of two lanes is late, one time in ten
    >>> w = [0.4, 0.3, 0.2, 0.1]
    >>> round(predict_low(w, lanes, Setting(n_lanes=2, k_lane=2)), 3)
    0.5
    >>> round(predict_low(w, lanes, Setting(n_lanes=2, k_lane=2, alpha=0.0)), 3)
    0.7
    """
    shares = _as_rank_shares(w)
    share = check_real(share, "share", low=1e-9, high=1.0)
    dealt = _dealt(setting, len(shares))
    n = setting.n_lanes
    found = np.zeros(n + 1)
    for c in dealt.holders:
        cells = dealt.n_holders == c
        held = float(dealt.weight[cells] @ shares[dealt.rank[cells]])
        found += held * (1 - _missed(n, int(c)))
    chance = on_time.of(n).counts[-1]
    # Fewer lanes on time never find more: the worst times are the first.
    worst = np.clip(share - (np.cumsum(chance) - chance), 0.0, chance)
    return float(worst @ found / share)


def break_even(w: Any, setting: Setting) -> float:
    """Return R(k_lane) / R(k_total): partition only if more lanes than this share are on time.

    Parameters
    ----------
    w, setting
        As for `predict`.

    Returns
    -------
    float
        From 0 to 1.

    Examples
    --------
    >>> round(break_even([0.4, 0.3, 0.2, 0.1], Setting(n_lanes=2, k_lane=2)), 3)
    0.7
    """
    shares = _as_rank_shares(w)
    whole = float(shares[: setting.k_total].sum())
    return float(shares[: setting.k_lane].sum()) / whole if whole > 0 else 1.0


def advise(
    w: Any,
    on_time: OnTime,
    settings: Sequence[Setting] | None = None,
    *,
    alone: float | None = None,
) -> Advice:
    """Recommend a setting.

    Parameters
    ----------
    w, on_time
        As for `predict`.
    settings : sequence of Setting, optional
        By default `candidates` for the lanes of `on_time`, which share the pool among them.
    alone : float, optional
        What a lane with its own budget finds if there is no common pool, in units of w: then
        lanes at alpha = 0 are taken to search each by itself. By default R(k_lane).

    Returns
    -------
    Advice

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit.

    Examples
    --------
    >>> advice = advise([0.4, 0.3, 0.2, 0.1], OnTime.independent(0.5, 2))
    >>> advice.setting.alpha, round(advice.break_even, 2)
    (0.5, 0.7)
    """
    shares = _as_rank_shares(w)
    total = float(as_ndarray(w, "w").sum())
    if settings is None:
        n = on_time.n_lanes
        settings = candidates(n, max(1, len(shares) // n))
    if len(settings) == 0:
        raise ValueError("settings: expected at least one, got none")
    own = None if alone is None else check_real(alone, "alone", low=0.0) / total
    predictions = []
    for setting in settings:
        quality = predict(shares, on_time, setting)
        if own is not None and setting.alpha == 0 and setting.n_lanes > 1:
            quality = own * float(on_time.of(setting.n_lanes).reach(setting.n_lanes)[-1])
        predictions.append((setting, quality))
    best, quality = predictions[first_best([found for _, found in predictions])]
    one_lane = float(shares[: best.k_lane].sum()) if own is None else own
    whole = float(shares[: best.k_total].sum())
    limit = one_lane / whole if whole > 0 else 1.0
    share = on_time.of(best.n_lanes).share
    reason = _reason(best, predictions, share, limit, one_lane, whole)
    return Advice(best, quality, tuple(predictions), share, limit, reason)


def first_best(found: Sequence[float]) -> int:
    """Return the place of the best, and of those that differ by rounding alone the first."""
    limit = max(found) - 1e-9
    return next(i for i, quality in enumerate(found) if quality >= limit)


def _reason(
    best: Setting,
    predictions: list[tuple[Setting, float]],
    share: float,
    limit: float,
    one_lane: float,
    whole: float,
) -> str:
    law = f"R({best.k_lane}) / R({best.k_total}) = {one_lane:.3f} / {whole:.3f} = {limit:.1%}"
    above = "more" if share > limit else "no more"
    advice = f"{share:.1%} of the lanes are on time, {above} than {law}: {describe(best)}"
    quality = dict(predictions)[best]
    rivals = [one for one in predictions if one[0] != best and one[0].alpha in (0, 1)]
    others = [f"{describe(setting)} {found:.3f}" for setting, found in rivals if setting.head == 0]
    beside = f", beside {' and '.join(others)}" if others else ""
    return f"{advice} is predicted to find {quality:.3f} of the full pool's answer{beside}."


def describe(setting: Setting) -> str:
    """Return a setting in words, short enough for a table."""
    head = f", head {setting.head}" if setting.head else ""
    scheme = "" if setting.scheme == "stratified" else f", {setting.scheme}"
    return f"{setting.n_lanes} x {setting.k_lane}, alpha {setting.alpha:g}{head}{scheme}"


# ----------------------------------------------------------------------------------- who holds what


@dataclass(frozen=True, eq=False)
class _Dealt:
    """How often a rank is held by so many lanes, as candidate number `depth` of theirs."""

    rank: npt.NDArray[np.int64]
    n_holders: npt.NDArray[np.int64]
    depth: npt.NDArray[np.int64]
    weight: Doubles
    holders: npt.NDArray[np.int64]


@lru_cache(maxsize=512)
def _dealt(setting: Setting, k_pool: int) -> _Dealt:
    """Average plans of many keys: a candidate's weight is spread over the lanes that hold it."""
    n_keys = min(_MOST_KEYS, max(_FEWEST_KEYS, _CELLS // max(k_pool, setting.k_total)))
    keys = np.zeros((n_keys, 2), dtype=np.uint64)
    keys[:, 0] = np.arange(n_keys)
    ids = setting.plan(np.tile(np.arange(k_pool), (n_keys, 1)), keys, n_threads=1).ids
    key, _, depth = np.nonzero(ids >= 0)
    rank = ids[ids >= 0]
    held = np.bincount(key * k_pool + rank, minlength=n_keys * k_pool)
    c = held[key * k_pool + rank]
    most = setting.n_lanes + 1
    cells, inverse = np.unique((rank * most + c) * setting.k_lane + depth, return_inverse=True)
    weight = np.bincount(inverse.reshape(-1), weights=1 / c) / n_keys
    rest, depth = np.divmod(cells, setting.k_lane)
    rank, c = np.divmod(rest, most)
    return _Dealt(rank, c, depth, weight, np.unique(c))


def ranks_reached(setting: Setting, k_pool: int) -> npt.NDArray[np.bool_]:
    """Whether each of the first k_pool ranks is always given to some lane."""
    dealt = _dealt(setting, k_pool)
    held = np.bincount(dealt.rank, weights=dealt.weight, minlength=k_pool)
    return held > 1 - 1e-9


# ------------------------------------------------------------------------------------------- checks


def _as_shares(x: Any, name: str) -> Doubles:
    shares = as_ndarray(x, name)
    if shares.dtype.kind not in "fiu":
        raise TypeError(f"{name}: expected numbers, got dtype {shares.dtype}")
    shares = shares.astype(np.float64)
    if not np.isfinite(shares).all() or (shares < 0).any():
        raise ValueError(f"{name}: expected finite shares that are not negative")
    return shares


def _as_rank_shares(w: Any) -> Doubles:
    shares = _as_shares(w, "w")
    if shares.ndim != 1 or len(shares) == 0 or not shares.sum() > 0:
        raise ValueError(f"w: expected shares of some ranks, not all 0, got shape {shares.shape}")
    scaled: Doubles = shares / shares.sum()
    return scaled
