"""The break-even law, and predictions of it held against plans and lanes that are drawn."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lane_results import K_POOL, World, settings

from lanewise.lanes import Setting
from lanewise.lanes.law import OnTime, advise, break_even, candidates, predict, predict_low

M, B = 4, 16
W = World(seed=3).ranks(10)

shares = st.floats(0, 1)
count_shares = st.lists(st.floats(0, 1), min_size=M + 1, max_size=M + 1).filter(
    lambda c: sum(c) > 0.1
)
rank_shares = st.lists(st.floats(0, 1), min_size=M * B, max_size=M * B).filter(
    lambda w: sum(w) > 0.1
)


def close(value):
    """Two ways of summing at most a few thousand terms of doubles."""
    return pytest.approx(value, abs=1e-9)


# -------------------------------------------------------------------------------------- the formula


@given(rank_shares, count_shares)
def test_the_two_ends_are_the_law(w, counts):
    p = np.array(counts) / sum(counts)
    w = np.array(w) / sum(w)
    lanes = OnTime(counts)
    share, some = p @ np.arange(M + 1) / M, 1 - p[0]
    assert lanes.share == close(share)
    assert predict(w, lanes, settings()) == close(share * w.sum())
    assert predict(w, lanes, settings(alpha=0.0)) == close(some * w[:B].sum())
    assert break_even(w, settings()) == close(w[:B].sum())


@given(rank_shares, count_shares, st.sampled_from([4, 8, 12]))
def test_a_head_is_on_two_lanes_and_paid_for_at_the_tail(w, counts, head):
    """With heads of whole runs each lane drops as many whole runs at its end."""
    p, w = np.array(counts) / sum(counts), np.array(w) / sum(w)
    j = np.arange(M + 1)
    one, two = p @ j / M, 1 - p @ ((M - j) * (M - j - 1)) / (M * (M - 1))
    expected = two * w[:head].sum() + one * w[head : M * B - head].sum()
    assert predict(w, OnTime(counts), settings(head=head)) == close(expected)


@given(rank_shares, count_shares, st.sampled_from([0.25, 0.5, 0.75]))
def test_the_shared_part_wants_any_lane(w, counts, alpha):
    p, w = np.array(counts) / sum(counts), np.array(w) / sum(w)
    shared, own = B - round(alpha * B), round(alpha * B)
    reached = shared + M * own
    expected = (1 - p[0]) * w[:shared].sum() + (p @ np.arange(M + 1) / M) * w[shared:reached].sum()
    assert predict(w, OnTime(counts), settings(alpha=alpha)) == close(expected)


@given(count_shares)
def test_partition_pays_only_above_the_break_even(counts):
    lanes = OnTime(counts)
    full, same = (predict(W, lanes, settings(alpha=alpha)) for alpha in (1.0, 0.0))
    some = float(lanes.reach(M)[-1])
    assert (full > same + 1e-9) <= (lanes.share > break_even(W, settings()) * some)
    assert (full < same - 1e-9) <= (lanes.share < break_even(W, settings()) * some)


@given(count_shares, st.sampled_from(candidates(M, B)), st.sampled_from([0.05, 0.3, 1.0]))
def test_the_worst_times_are_a_part_of_all(counts, setting, share):
    """Outcome by outcome: the mean of the worst share of them, and of all of them the mean."""
    chance = np.array(counts) / sum(counts)
    one_of = [predict(W, OnTime(np.eye(M + 1)[j]), setting) for j in range(M + 1)]
    left, expected = share, 0.0
    for p, quality in zip(chance, one_of, strict=True):
        expected += min(p, left) * quality
        left -= min(p, left)
    assert one_of == sorted(one_of)
    assert predict_low(W, OnTime(counts), setting, share) == close(expected / share)


def test_lanes_late_together_make_partition_pay_earlier():
    together, apart = OnTime([0.3, 0, 0, 0, 0.7]), OnTime.independent(0.7, M)
    assert together.share == close(apart.share)
    assert break_even(W, settings()) > 0.7
    assert advise(W, apart).setting.alpha < 1
    assert advise(W, together).setting.alpha == 1.0


# -------------------------------------------------------------------------- against plans and lanes


def correlated(rng, n_queries, n_lanes):
    """Lanes that are often late together, and of which one is slow."""
    bad_time = rng.random((n_queries, 1)) < 0.2
    chance = np.where(bad_time, 0.3, 0.9) - 0.2 * (np.arange(n_lanes) == 1)
    return rng.random((n_queries, n_lanes)) < chance


@pytest.mark.parametrize("scheme", ["stratified", "permute", "owner"])
@pytest.mark.parametrize(("alpha", "head"), [(1.0, 0), (1.0, 6), (0.5, 0), (0.5, 16), (0.0, 0)])
def test_predicts_what_drawn_lanes_find(rng, scheme, alpha, head):
    world = World(n_queries=3000, seed=5)
    setting = settings(alpha=alpha, head=head, scheme=scheme)
    masks = correlated(rng, world.n_queries, M)
    found = world.drive(setting, masks)
    expected = predict(world.ranks(10), OnTime.observed(masks), setting)
    # Five standard errors of the draws; and the planner's own draws, of 1024 keys.
    error = 5 * found.std() * (1 / math.sqrt(len(found)) + 1 / math.sqrt(1024))
    assert abs(found.mean() - expected) < error
    assert error < 0.1


def test_lanes_that_get_half_way(rng):
    """Best ranks first: half of every lane is the better half of the pool."""
    world = World(n_queries=200, seed=6)
    half = np.zeros((1, M, B), dtype=bool)
    half[:, :, : B // 2] = True
    lanes = OnTime.observed(half)
    assert lanes.share == 0.0
    for setting in candidates(M, B):
        result = world.search(setting, np.full(M, B // 2))
        expected = predict(world.ranks(10), lanes, setting)
        found = world.quality(result)
        assert abs(found.mean() - expected) < 5 * found.std() / math.sqrt(len(found)) + 0.01


# ------------------------------------------------------------------------------------ lanes on time


@given(shares, st.integers(1, 70))
def test_independent_lanes_are_binomial(share, n):
    counts = OnTime.independent(share, n).counts[0]
    expected = [math.comb(n, j) * share**j * (1 - share) ** (n - j) for j in range(n + 1)]
    assert counts.tolist() == [close(p) for p in expected]


@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=8))
def test_reach_counts_every_choice_of_lanes(rows):
    masks = np.array(rows)
    lanes = OnTime(OnTime.observed(masks).counts)
    for c in range(1, 6):
        choices = [
            masks[:, list(some)].any(axis=1).mean() for some in itertools.combinations(range(5), c)
        ]
        assert lanes.reach(c)[0] == close(np.mean(choices))
    neighbours = np.mean([masks[:, [i, (i + 1) % 5]].any(axis=1).mean() for i in range(5)])
    assert OnTime.observed(masks).reach(2)[0] == close(neighbours)


@given(
    st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=8),
    st.integers(1, 5),
)
def test_fewer_lanes_are_a_random_choice_of_them(rows, n):
    masks = np.array(rows)
    found = OnTime(OnTime.observed(masks).counts).of(n).counts[0]
    chosen = list(itertools.combinations(range(5), n))
    expected = np.mean(
        [
            np.bincount(masks[:, list(some)].sum(axis=1), minlength=n + 1) / len(masks)
            for some in chosen
        ],
        axis=0,
    )
    assert found.tolist() == [close(p) for p in expected]


def test_deeper_candidates_are_as_the_last_row():
    lanes = OnTime([[0, 1], [0.5, 0.5]])
    w = np.full(4, 0.25)
    assert predict(w, lanes, Setting(n_lanes=1, k_lane=4)) == close(0.25 * (1 + 0.5 * 3))


# ------------------------------------------------------------------------------------------- advice


def test_advice_is_the_best_of_its_predictions():
    for share in (0.2, 0.6, 0.95, 1.0):
        lanes = OnTime.independent(share, M)
        advice = advise(W, lanes)
        assert [one for one, _ in advice.predictions] == list(candidates(M, B))
        for setting, quality in advice.predictions:
            assert quality == close(predict(W, lanes, setting))
        assert advice.quality == close(max(quality for _, quality in advice.predictions))
        assert (advice.setting, advice.quality) in advice.predictions
        assert advice.break_even == close(W[:B].sum())
        assert advice.on_time == close(share)
        for said in (
            f"{share:.1%}",
            f"{advice.break_even:.1%}",
            "R(16) / R(64)",
            f"{advice.quality:.3f}",
        ):
            assert said in advice.reason
        assert ("more than" if share > advice.break_even else "no more than") in advice.reason
    assert advise(W, OnTime.independent(1.0, M)).setting == settings()


def test_lanes_that_search_by_themselves_have_their_own_recall():
    """The numbers of a comparison: w sums to R(64) = 0.8, and one lane alone finds 0.6."""
    lanes = OnTime.independent(0.9, M)
    advice = advise(0.8 * W, lanes, [settings(), settings(alpha=0.0)], alone=0.6)
    assert advice.break_even == close(0.6 / 0.8)
    assert advice.predictions[0][1] == close(0.9)
    assert advice.predictions[1][1] == close(0.6 / 0.8 * (1 - 0.1**M))


def test_candidates_are_valid_for_any_budget():
    assert candidates(1, 5) == (Setting(1, 5),)
    for n_lanes, k_lane, scheme in itertools.product(
        (2, 3), (1, 2, 7), ("stratified", "permute", "owner")
    ):
        found = candidates(n_lanes, k_lane, scheme)
        assert len(set(found)) == len(found)
        assert {(one.n_lanes, one.k_lane, one.scheme) for one in found} == {
            (n_lanes, k_lane, scheme)
        }
        assert any(one.head for one in found) == (scheme != "owner")


def test_pools_shorter_than_the_budget():
    lanes = OnTime.independent(0.5, M)
    w = [0.5, 0.5]
    assert predict(w, lanes, settings()) == close(0.5)
    assert break_even(w, settings()) == 1.0
    assert break_even([0] * K_POOL + [1], settings()) == 1.0, "nothing that any lane scores"


# ------------------------------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: OnTime([1.0]), r"^counts: expected shape"),
        (lambda: OnTime([0.0, 0.0]), r"^counts: expected a positive sum"),
        (lambda: OnTime([0.5, -0.5]), r"^counts: expected finite shares"),
        (lambda: OnTime([0.5, np.nan]), r"^counts: expected finite shares"),
        (lambda: OnTime([0.5, 0.5], [0.1, 0.2]), r"^neighbours: expected 1 shares"),
        (lambda: OnTime([0.5, 0.5], 1.5), r"^neighbours: expected 1 shares"),
        (lambda: OnTime.independent(1.1, 2), r"^share: expected"),
        (lambda: OnTime.observed([[1, 0]]), r"^on_time: expected booleans"),
        (lambda: OnTime.observed(np.zeros((0, 2), bool)), r"^on_time: expected booleans"),
        (lambda: OnTime.independent(0.5, 2).of(3), r"^on_time: expected it for at least 3 lanes"),
        (lambda: predict([], OnTime([0, 1]), Setting(1, 1)), r"^w: expected shares"),
        (lambda: predict([0.0], OnTime([0, 1]), Setting(1, 1)), r"^w: expected shares"),
        (lambda: predict([np.inf], OnTime([0, 1]), Setting(1, 1)), r"^w: expected finite"),
        (lambda: predict([[1.0]], OnTime([0, 1]), Setting(1, 1)), r"^w: expected shares"),
        (lambda: predict_low([1.0], OnTime([0, 1]), Setting(1, 1), 0.0), r"^share: expected"),
        (lambda: advise([1.0], OnTime([0, 1]), []), r"^settings: expected at least one"),
        (lambda: advise([1.0], OnTime([0, 1]), alone=-1.0), r"^alone: expected"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_refuses_what_is_no_number():
    with pytest.raises(TypeError, match=r"^w: expected numbers"):
        predict(["a"], OnTime([0, 1]), Setting(1, 1))
