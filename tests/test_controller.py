"""The controller: what it learns from results, what it decides then, and what it says of it."""

import json
import logging
import threading

import numpy as np
import pytest
from lane_results import K_POOL, World, settings

from lanewise.lanes import Setting, plan
from lanewise.lanes import controller as controller_module
from lanewise.lanes.controller import Controller, Decision
from lanewise.lanes.law import OnTime, candidates, predict, predict_low

M, B = 4, 16
WORLD = World(n_queries=64, seed=11)
W = WORLD.ranks(10)
BREAK_EVEN = W[:B].sum()


def drive(controller, share, n, rng, query_class=None, world=WORLD):
    """Search n times with lanes on time with this chance; return the settings that were chosen."""
    chosen = []
    for _ in range(n):
        setting = controller.choose(query_class)
        chosen.append(setting)
        query = [int(rng.integers(world.n_queries))]
        on_time = rng.random(setting.n_lanes) < share
        controller.observe(world.search(setting, on_time, query), query_class)
    return chosen


def kinds(controller):
    return [decision.kind for decision in controller.decisions]


# ---------------------------------------------------------------------------------- what it decides


def test_follows_the_lanes(rng):
    controller = Controller([settings(), settings(alpha=0.0)])
    assert drive(controller, 1.0, 200, rng) == [settings()] * 200
    low = drive(controller, 0.3, 300, rng)
    usual = settings(alpha=0.0)
    assert low[-1] == usual or low[-2] == usual
    assert low[150:].count(usual) >= 0.97 * 150
    high = drive(controller, 1.0, 300, rng)
    assert high[150:] == [settings()] * 150
    assert kinds(controller).count("switch") == 2


def test_takes_the_setting_that_is_best(rng):
    """For every share of lanes on time, of all seven settings, within what estimates are worth."""
    for share in (0.4, 0.7, 0.85, 1.0):
        controller = Controller(memory=200, margin=0.0, explore=0.02, risk=0.0)
        last = drive(controller, share, 600, rng)[-100:]
        lanes = OnTime.independent(share, M)
        best = max(predict(W, lanes, one) for one in candidates(M, B))
        used = np.mean([predict(W, lanes, one) for one in last])
        # Two lanes in a hundred queries explore.
        assert used > best - 0.02


def test_a_margin_holds_a_setting():
    rng = np.random.default_rng(1)
    controller = Controller([settings(), settings(alpha=0.0)], margin=1.0)
    assert set(drive(controller, 0.2, 200, rng)) == {settings()}
    assert "not better by more than 1" in controller.decisions[-1].reason


def test_a_setting_stays_a_while(rng, monkeypatch):
    monkeypatch.setattr(controller_module, "_NEW", -1)
    controller = Controller(
        [settings(), settings(alpha=0.0)], dwell=100, memory=4, margin=0.0, explore=0
    )
    share, changes = 0.2, []
    for _ in range(20):
        drive(controller, share, 40, rng)
        share = 1.2 - share
    changes = [one.number for one in controller.decisions if one.kind == "switch"]
    assert len(changes) > 2
    assert min(np.diff(changes)) >= 100
    assert any("stays 100 queries" in one.reason for one in controller.decisions)


def test_a_change_of_all_lanes_is_met_at_once(rng):
    """Though the memory is long and a setting should stay: of that, surprise makes an exception."""
    some = [settings(), settings(alpha=0.0)]
    controller = Controller(some, memory=10_000, dwell=10_000, explore=0)
    drive(controller, 1.0, 300, rng, "a")
    drive(controller, 1.0, 300, rng, "b")
    drive(controller, 0.2, 40, rng, "a")
    assert controller.choose("a") == settings(alpha=0.0)
    assert controller.choose("b") == settings(alpha=0.0), "lanes are the same to all classes"


def test_a_change_is_met_in_few_queries(rng):
    controller = Controller([settings(), settings(alpha=0.0)], explore=0)
    drive(controller, 1.0, 300, rng)
    assert drive(controller, 0.2, 16, rng)[-1] == settings(alpha=0.0)
    drive(controller, 0.2, 300, rng)
    assert drive(controller, 1.0, 16, rng)[-1] == settings()


def test_lanes_late_together_are_told_from_lanes_late_apart(rng):
    """The share is the same; whether copies insure against it is not."""
    controller = Controller([settings(), settings(alpha=0.0)], explore=0)
    for together, chance in ((False, 1 - 0.3**M), (True, 0.7), (False, 1 - 0.3**M)):
        for _ in range(200):
            drawn = np.repeat(rng.random(1), M) if together else rng.random(M)
            query = [int(rng.integers(64))]
            controller.observe(WORLD.search(controller.choose(), drawn < 0.7, query))
        lanes = controller._lanes.on_time(M)
        # Standard deviations of the mean of 100 queries, the memory, and of as many lanes.
        error = np.sqrt(0.7 * 0.3 / 100)
        assert lanes.share == pytest.approx(0.7, abs=4 * error)
        assert lanes.reach(M)[-1] == pytest.approx(chance, abs=4 * error)
        assert controller.choose() == settings(alpha=1.0 if together else 0.0)


def test_finds_no_less_in_the_worst_times_than_what_is_best_all_along():
    """Nine lanes of ten: alpha 1 has the better mean, alpha 0 the better worst fifth."""
    some = [settings(), settings(alpha=0.0)]
    lanes = OnTime.independent(0.9, M)
    assert predict(W, lanes, some[0]) > predict(W, lanes, some[1]) + 0.05
    assert predict_low(W, lanes, some[0], 0.2) < predict_low(W, lanes, some[1], 0.2) - 0.01
    last = {}
    for tail in (0.0, 0.2):
        controller = Controller(some, tail=tail, explore=0)
        rng = np.random.default_rng(5)
        drive(controller, 0.3, 600, rng)
        last[tail] = drive(controller, 0.9, 200, rng)[-1]
    assert last == {0.0: some[0], 0.2: some[1]}


def test_a_class_of_its_own_goes_by_its_own(rng):
    controller = Controller([settings(), settings(alpha=0.0)], explore=0)
    for _ in range(150):
        drive(controller, 1.0, 4, rng, "usual")
        drive(controller, 0.2, 1, rng, "dear")
    assert [one.on_time for one in controller.decisions if one.query_class == "usual"][-1] > 0.97
    assert [one.on_time for one in controller.decisions if one.query_class == "dear"][-1] < 0.4


def test_classes_are_kept_apart(rng):
    controller = Controller([settings(), settings(alpha=0.0)], explore=0)
    for _ in range(300):
        drive(controller, 1.0, 1, rng, "fast")
        drive(controller, 0.2, 1, rng, "slow")
    assert controller.choose("fast") == settings()
    assert controller.choose("slow") == settings(alpha=0.0)
    assert {one.query_class for one in controller.decisions} == {"fast", "slow"}


def test_too_many_classes_are_taken_together(rng):
    controller = Controller(max_classes=3)
    for name in ("a", "b", "c", "d", "e", None):
        drive(controller, 1.0, 2, rng, name)
    assert [name for name, _ in controller.state()["classes"]][:3] == ["a", "b", "c"]
    assert len(controller.state()["classes"]) == 4
    assert dict(controller.state()["classes"])[None]["n_seen"] == 6


def test_thrift_saves_lanes(rng):
    """Where two lanes find nearly as much as four, two do."""
    sharp = World(n_queries=64, seed=12, noise=2.0)
    some = [settings(), settings(n_lanes=2), settings(n_lanes=1)]
    assert drive(Controller(some), 1.0, 200, rng, world=sharp)[-1] == settings()
    saving = Controller(some, thrift=0.02)
    assert drive(saving, 1.0, 200, rng, world=sharp)[-1] == settings(n_lanes=1)
    assert "instead of 64" in next(one.reason for one in saving.decisions if one.kind == "switch")


# ----------------------------------------------------------------------------------- what it learns


def test_learns_the_ranks_although_few_queries_show_them(rng):
    """With partition off, R(16) / R(64) is still known: from the queries that explore."""
    controller = Controller([settings(), settings(alpha=0.0)], explore=0.05, rank_memory=200)
    chosen = drive(controller, 0.35, 3000, rng)
    assert np.mean([one.alpha == 0 for one in chosen]) > 0.9
    learnt = controller.decisions[-1].break_even
    # 200 queries' worth of answers, of ten each.
    per_query = WORLD.best(10)[:, :B].sum(axis=1) / 10
    assert abs(learnt - BREAK_EVEN) < 5 * per_query.std() / np.sqrt(200)


def test_without_exploring_a_change_of_the_tail_is_never_seen(rng):
    flat = World(n_queries=64, seed=13, noise=200.0)
    shares = []
    for explore in (0.0, 0.2):
        controller = Controller([settings(), settings(alpha=0.0)], explore=explore, rank_memory=25)
        drive(controller, 0.3, 300, rng)
        # The answers move to the tail, where only partitioned lanes would find them.
        drive(controller, 0.3, 2000, rng, world=flat)
        shares.append(controller.decisions[-1].break_even)
    truth = flat.ranks(10)[:B].sum()
    assert shares[0] > truth + 0.2
    assert abs(shares[1] - truth) < 0.1, shares


def test_explores_by_counting(rng):
    some = [settings(), settings(alpha=0.0)]
    controller = Controller(some, explore=0.02, margin=0.0)
    drive(controller, 0.72, 200, rng)
    # Near the break-even it costs little, so it is as often as it may be.
    chosen = drive(controller, 0.72, 1000, rng)
    assert controller.choose() == settings(alpha=0.0)
    # Now and then it is predicted to cost more, and waits.
    assert 10 <= chosen.count(settings()) <= 20
    assert chosen.count(settings()) <= kinds(controller).count("explore") <= 24
    again = Controller(some, explore=0.02, margin=0.0)
    one, other = np.random.default_rng(3), np.random.default_rng(3)
    first = Controller(some, explore=0.02, margin=0.0)
    assert drive(again, 0.72, 400, one) == drive(first, 0.72, 400, other)


def test_exploring_costs_no_more_than_it_may(rng):
    """Few lanes on time: the widest setting would find far less, and is tried more seldom."""
    controller = Controller([settings(), settings(alpha=0.0)], explore=0.02, margin=0.0)
    drive(controller, 0.2, 100, rng)
    drive(controller, 0.2, 2000, rng)
    lanes = OnTime.independent(0.2, M)
    loss = predict(W, lanes, settings(alpha=0.0)) - predict(W, lanes, settings())
    # A twentieth of the quality of one query in fifty; the loss is predicted with its own error.
    may = 0.05 * 0.02 * 2000 / loss
    explored = kinds(controller).count("explore")
    assert 0.5 * may <= explored <= 2 * may
    assert 2 * may < 0.02 * 2000


def test_does_not_explore_where_all_ranks_are_seen(rng):
    controller = Controller(explore=0.5)
    drive(controller, 1.0, 300, rng)
    assert "explore" not in kinds(controller)


def test_a_batch_that_explores_counts_as_its_queries(rng):
    controller = Controller([settings(), settings(alpha=0.0)], explore=0.1, margin=0.0, dwell=0)
    seen = []
    for _ in range(60):
        setting = controller.choose()
        seen.append(setting)
        controller.observe(WORLD.search(setting, rng.random(M) < 0.2))
    # 64 queries at a time: one search in ten.
    assert 2 <= seen[10:].count(settings()) <= 6


def test_batches_teach_what_single_queries_do():
    one, many = Controller(), Controller()
    mask = np.array([True, True, False, True])
    for query in range(WORLD.n_queries):
        one.observe(WORLD.search(settings(), mask, [query]))
    many.observe(WORLD.search(settings(), mask))
    single, batch = (dict(c.state()["classes"])[None] for c in (one, many))
    assert single["n_seen"] == batch["n_seen"] == WORLD.n_queries
    for c in (one, many):
        lanes = c._lanes.on_time(M)
        # Of two beginnings the older has seen all 64 queries; what was before counts as one.
        assert lanes.counts[-1][3] > 1 - 1 / 16
        assert lanes.share == pytest.approx(0.75, abs=1 / 64)
    assert single["rank_seen"] == batch["rank_seen"]
    assert np.abs(np.array(single["ranks"]) - batch["ranks"]).max() < 0.1


def test_lanes_half_way_are_half_on_time(rng):
    """Whoever gets half way finds the better half of every lane: partition is no loss then."""
    controller = Controller([settings(), settings(alpha=0.0)], margin=0.0, risk=0.0)
    for _ in range(200):
        setting = controller.choose()
        controller.observe(WORLD.search(setting, np.full(M, B // 2), [int(rng.integers(64))]))
    assert controller.decisions[-1].on_time == pytest.approx(0.0, abs=0.01)
    assert controller.choose() == settings()


def test_overlap_is_what_was_scored_twice(rng):
    controller = Controller([settings(alpha=0.0)])
    drive(controller, 1.0, 100, rng)
    assert controller.decisions[-1].overlap == pytest.approx(0.75)


def test_lanes_that_collect_teach_no_ranks():
    pool = np.arange(M * B).reshape(1, -1)
    result = WORLD.search(settings(), np.ones(M, bool), [0])
    owner = plan(pool, 0, n_lanes=M, k_lane=B, scheme="owner")
    for name, value in (("plan", owner), ("pool", owner.ids.reshape(1, -1))):
        object.__setattr__(result, name, value)
    object.__setattr__(result, "scored", owner.ids >= 0)
    controller = Controller()
    controller.observe(result)
    known = dict(controller.state()["classes"])[None]
    assert known["n_seen"] == 1
    assert not any(known["ranks"])
    assert known["lanes"][0][1]["n_seen"] == 1


def test_many_lanes_and_large_batches():
    """Chances of thousands of lanes are products that no double holds."""
    n = 3000
    lanes = controller_module._Lanes(Controller([Setting(n, 1)]))
    done = np.random.default_rng(1).random((500, n, 1)) < 0.5
    assert np.isfinite(lanes.learn(done))
    assert lanes.on_time(n).share == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(100 * n))


def test_nothing_breaks_on_nothing(rng):
    controller = Controller()
    controller.observe(WORLD.search(settings(), np.ones(M, bool), []))
    for _ in range(100):
        controller.observe(WORLD.search(controller.choose(), np.zeros(M, bool), [0]))
        controller.observe(WORLD.search(controller.choose(), np.ones(M, bool), [0], k=0))
    assert controller.choose() in controller.settings


def test_pools_of_other_widths(rng):
    wide = World(n_queries=16, k_pool=2 * K_POOL, seed=14)
    controller = Controller([settings(), settings(alpha=0.0)])
    drive(controller, 0.9, 100, rng, world=wide)
    known = dict(controller.state()["classes"])[None]
    assert len(known["ranks"]) == 2 * K_POOL
    assert not any(known["rank_seen"][K_POOL:]), "no lane gets there"
    narrow = World(n_queries=16, k_pool=20, seed=15)
    controller = Controller([settings(), settings(alpha=0.0)])
    drive(controller, 1.0, 60, rng, world=narrow)
    assert controller.decisions[-1].on_time > 0.99, "who has nothing to do is not late"


# ------------------------------------------------------------------------------------- what it says


def test_every_decision_says_why(rng, caplog):
    controller = Controller([settings(), settings(alpha=0.0)], explore=0.1)
    with caplog.at_level(logging.DEBUG, "lanewise.lanes"):
        drive(controller, 0.2, 300, rng, "q")
    decisions = controller.decisions
    assert decisions[0].kind == "first"
    assert {"first", "keep", "switch", "explore"} == set(kinds(controller))
    assert len(caplog.records) == len(decisions)
    for decision, record in zip(decisions, caplog.records, strict=True):
        assert isinstance(decision, Decision)
        assert decision.reason
        assert decision.reason in record.getMessage()
        assert record.levelno == (logging.INFO if decision.kind == "switch" else logging.DEBUG)
    switch = next(one for one in decisions if one.kind == "switch")
    assert switch.quality > switch.previous_quality + controller.margin
    assert (switch.previous, switch.setting) == (settings(), settings(alpha=0.0))
    assert switch.on_time < switch.break_even
    assert f"{switch.quality:.3f} against {switch.previous_quality:.3f}" in switch.reason


def test_decisions_are_bounded(rng):
    controller = Controller(max_decisions=5)
    drive(controller, 0.9, 200, rng)
    assert len(controller.decisions) == 5


# ----------------------------------------------------------------------------------- state, threads


def test_goes_on_from_its_state(rng):
    controller = Controller(explore=0.05)
    drive(controller, 0.5, 150, rng, "q")
    drive(controller, 0.9, 50, rng)
    state = json.loads(json.dumps(controller.state(), allow_nan=False))
    other = Controller(explore=0.05)
    other.restore(state)
    assert json.loads(json.dumps(other.state())) == state
    one, two = np.random.default_rng(5), np.random.default_rng(5)
    assert drive(other, 0.4, 200, one, "q") == drive(controller, 0.4, 200, two, "q")


def broken(**changes):
    state = Controller().state()
    fresh = Controller()
    fresh.observe(WORLD.search(settings(), np.ones(M, bool), [0]))
    state = json.loads(json.dumps(fresh.state()))
    state["classes"][0][1].update(changes)
    return state


def broken_lanes(**changes):
    state = broken()
    state["classes"][0][1]["lanes"][0][1].update(changes)
    return state


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (None, "expected what Controller.state returned"),
        ({}, "expected what Controller.state returned"),
        ({"version": 9, "settings": [], "classes": []}, "expected version 2, got 9"),
        (Controller([settings()]).state(), "expected the same settings"),
        ({**broken(), "classes": 3}, "expected estimates of classes"),
        ({**broken(), "classes": [[1, broken()["classes"][0][1]]]}, "expected classes with names"),
        (broken(setting={"n_lanes": 3}), "expected one to choose from"),
        (broken(n_seen=-1), "n_seen"),
        (broken(overlap=2.0), "overlap"),
        (broken(ranks=[0.5]), r"ranks: expected shape \(64,\), got \(1,\)"),
        (broken(ranks=[-1.0] * K_POOL), "expected finite shares"),
        (broken(ranks=[float("nan")] * K_POOL), "expected finite shares"),
        (broken(rank_seen=[1]), "rank_seen: expected a number for each rank"),
        (broken_lanes(counts=[[1.0, 0.0]]), "counts: expected shape"),
        (broken_lanes(weights=[[-1.0, 1.0]]), "weights: expected finite shares"),
        (broken_lanes(weights=[[0.0, 0.0]]), "weights: expected a positive sum"),
        (broken_lanes(began=[]), "began: expected when averages began"),
        (broken_lanes(last_change=9), "last_change"),
        (broken(lanes=[[9, {}]]), "expected estimates"),
        ({**broken(), "all_along": [0.0]}, "all_along: expected shape"),
    ],
)
def test_refuses_other_states(state, message):
    controller = Controller()
    before = controller.state()
    with pytest.raises(ValueError, match=r"^state: .*" + message):
        controller.restore(state)
    assert controller.state() == before


def test_any_thread_may_call():
    controller = Controller(explore=0.1)
    errors = []

    def work(seed):
        try:
            drive(controller, 0.5, 60, np.random.default_rng(seed), str(seed % 2))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert [known["n_seen"] for _, known in controller.state()["classes"]] == [120, 120]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"settings": []}, ValueError, "settings: expected at least one"),
        ({"settings": [1]}, TypeError, "settings: expected Settings"),
        ({"margin": -0.1}, ValueError, "margin: expected"),
        ({"dwell": -1}, ValueError, "dwell: expected"),
        ({"memory": 0}, ValueError, "memory: expected"),
        ({"rank_memory": 0}, ValueError, "rank_memory: expected"),
        ({"explore": 1.5}, ValueError, "explore: expected"),
        ({"thrift": "x"}, TypeError, "thrift: expected"),
        ({"risk": 1.1}, ValueError, "risk: expected"),
        ({"tail": 1.1}, ValueError, "tail: expected"),
        ({"max_decisions": 0}, ValueError, "max_decisions: expected"),
        ({"max_classes": 0}, ValueError, "max_classes: expected"),
    ],
)
def test_refuses(options, error, message):
    with pytest.raises(error, match=f"^{message}"):
        Controller(**options)


def test_classes_are_named():
    with pytest.raises(TypeError, match=r"^query_class: expected a str or None, got int"):
        Controller().choose(3)


def test_starts_with_the_widest():
    assert Controller([Setting(2, 8), Setting(4, 8), Setting(4, 8, 0.0)]).choose() == Setting(4, 8)
