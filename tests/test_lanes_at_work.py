"""Lanes that are late, lost, wrong or elsewhere: what `LaneSearch` answers then."""

import asyncio
import functools
import gc
import os
import pickle
import signal
import threading
from concurrent.futures import Future

import numpy as np
import pytest

import lanewise as lw
from lanewise import oracle
from lanewise.lanes import Async, LaneExecutor, LaneSearch, Processes, Setting, Threads, plan
from lanewise.result import SearchResult

N_LANES, K_LANE, DIM, K = 4, 5, 8, 7


@pytest.fixture
def flat(rng):
    return lw.Flat(DIM).add(rng.standard_normal((300, DIM), dtype=np.float32))


@pytest.fixture
def queries(rng):
    return rng.standard_normal((6, DIM), dtype=np.float32)


def search_in(flat, executor, **options):
    return LaneSearch(flat, executor, **{"n_lanes": N_LANES, "k_lane": K_LANE, **options})


class Here:
    """Scores at once, in the thread that asks; what lanes do on given calls is the test's choice.

    `acts` maps (lane, number of the call) to "hang", or to an exception.
    """

    def __init__(self, flat, acts=None):
        self.flat, self.acts = flat, acts or {}
        self.calls = []
        self.hanging = []

    def submit(self, lane, queries, ids):
        number = sum(called == lane for called, _ in self.calls)
        self.calls.append((lane, ids.copy()))
        act = self.acts.get((lane, number))
        future = Future()
        if act == "hang":
            self.hanging.append(future)
        elif act is not None:
            future.set_exception(act)
        else:
            future.set_result(self.flat.score(queries, ids))
        return future

    def close(self):
        pass


def expected_of(flat, Q, ids, k=K):
    """What merging these candidates, scored, gives."""
    ids = ids.reshape(len(Q), -1)
    return oracle.merge(flat.score(Q, ids), ids, k)


def assert_answers(result, expected):
    distances, ids = expected
    assert np.array_equal(result.ids, ids)
    assert np.array_equal(result.distances, distances)


# --------------------------------------------------------------------------------- executors


async def _score_later(flat, query, ids):
    await asyncio.sleep(0)
    return flat.score(query, ids)[0]


class Remote:
    """An object whose scores are awaited."""

    def __init__(self, flat):
        self.flat = flat

    async def score(self, query, ids):
        return await _score_later(self.flat, query, ids)


@pytest.mark.parametrize("step", [None, 1, 2, 5, 9])
def test_wherever_lanes_are_scored_the_answer_is_the_same(flat, queries, step):
    expected = LaneSearch(flat, flat, n_lanes=N_LANES, k_lane=K_LANE).search(queries, K)
    assert_answers(expected, expected_of(flat, queries, expected.plan.ids))
    for scorer in (
        flat,
        Threads(flat),
        Threads(flat, most_threads=1),
        Threads(lambda query, ids: flat.score(query, ids)[0]),
        functools.partial(_score_later, flat),
        Remote(flat),
        Async(Remote(flat), concurrency=1),
        Here(flat),
    ):
        search = search_in(flat, scorer, step=step)
        assert isinstance(search.executor, LaneExecutor)
        for _ in range(2):
            got = search.search(queries, K)
            assert_answers(got, tuple(expected))
            assert got.lane_distances.tobytes() == expected.lane_distances.tobytes()
            assert (got.coverage == 1).all()
            assert not got.degraded
            assert got.missing == ()
            assert not got.estimated.any()
            assert [lane.planned for lane in got.lanes] == got.plan.counts.sum(axis=0).tolist()
            assert all(lane.scored == lane.planned and lane.on_time for lane in got.lanes)
        search.close()


@pytest.mark.slow
def test_lanes_in_processes(flat, queries, tmp_path):
    path = tmp_path / "rows.lw"
    flat.save(path)
    executor = Processes(functools.partial(lw.Flat.load, path, mmap=True), 2)
    search = search_in(flat, executor, on_error="contain")
    expected = LaneSearch(flat, flat, n_lanes=N_LANES, k_lane=K_LANE).search(queries, K)
    try:
        assert_answers(search.search(queries, K), tuple(expected))
        (process,) = executor._pools[1]._processes.values()
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        # Lanes 1 and 3 lose what they were doing, or find a new process; the others hear nothing.
        got = search.search(queries, K)
        assert set(got.missing) <= {1, 3}
        assert got.lanes[0].on_time
        assert got.lanes[2].on_time
        assert_answers(got, tuple(got.without(list(got.missing))))
        assert_answers(search.search(queries, K), tuple(expected))
        again = pickle.loads(pickle.dumps(executor))
        assert again.n_processes == 2
    finally:
        search.close()


@pytest.mark.parametrize("kind", ["threads", "loop"])
def test_threads_come_when_needed_stay_and_go_with_their_owner(flat, queries, kind):
    gc.collect()
    before = threading.enumerate()
    search = search_in(flat, flat if kind == "threads" else Remote(flat))
    assert set(threading.enumerate()) <= set(before)
    for _ in range(20):
        search.search(queries, K)
    threads = [thread for thread in threading.enumerate() if thread not in before]
    assert 1 <= len(threads) <= (N_LANES if kind == "threads" else 1)
    assert all(thread.daemon for thread in threads)
    del search
    gc.collect()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()


def test_threads_are_told_to_those_who_ask(flat, queries):
    """Methods, whose classes are remembered, and callables; a lane's scorer has one of its own."""
    told = []

    class Asks:
        def score(self, queries, ids, n_threads):
            told.append(n_threads)
            return flat.score(queries, ids)

    class Other:
        def score(self, queries, ids):
            return flat.score(queries, ids)

    def pool(queries, k_pool, n_threads):
        told.append(n_threads)
        return flat.search(queries, k_pool).ids

    plain = flat.search(queries, N_LANES * K_LANE).ids
    for scorer, expected in ((Asks(), {1, 3}), (Other(), {3}), (Asks(), {1, 3})):
        told.clear()
        options = {"n_lanes": N_LANES, "k_lane": K_LANE, "n_threads": 3}
        with_threads = LaneSearch(pool, scorer, **options).search(queries, K)
        assert set(told) == expected
        without = LaneSearch(lambda Q, k: plain, scorer, **options).search(queries, K)
        assert with_threads.ids.tolist() == without.ids.tolist()


def test_an_owner_that_was_forked_begins_new_threads(flat, queries):
    executor = Threads(flat)
    search = search_in(flat, executor)
    search.search(queries, K)
    executor._process = -1  # as the child of a fork sees it
    executor._jobs.put(None)  # whose threads are gone
    assert not search.search(queries, K).degraded


def test_searches_can_be_pickled(flat, queries):
    expected = search_in(flat, flat).search(queries, K)
    for scorer in (flat, Remote(flat)):
        search = pickle.loads(pickle.dumps(search_in(flat, scorer)))
        assert_answers(search.search(queries, K), tuple(expected))


def test_payloads_reach_the_scorer(flat, queries):
    texts = [f"query {i}" for i in range(len(queries))]
    heard = set()

    def score(text, ids):
        heard.add(text)
        return flat.score(queries[int(text.split()[1])], ids)[0]

    got = search_in(flat, score).search(queries, K, payload=texts)
    assert_answers(got, expected_of(flat, queries, got.plan.ids))
    assert heard == set(texts)
    for payload, error in (("short", ValueError), (texts[1:], ValueError), (3, TypeError)):
        with pytest.raises(error, match=r"^payload: "):
            search_in(flat, score).search(queries, K, payload=payload)


# ----------------------------------------------------------------------- late, lost and wrong


def test_late_lanes_are_cut_and_what_they_reported_counts(flat, queries):
    for at in (0, 1, 2):
        executor = Here(flat, {(2, at): "hang"})
        got = search_in(flat, executor, step=2).search(queries, K, deadline=0.01)
        reported = got.plan.ids.copy()
        reported[:, 2, 2 * at :] = -1
        assert np.array_equal(got.scored, reported >= 0)
        assert_answers(got, expected_of(flat, queries, reported))
        assert got.missing == (2,)
        assert got.degraded
        lane = got.lanes[2]
        assert (lane.scored, lane.on_time, lane.error) == (6 * 2 * at, False, None)
        assert (lane.seconds is None) == (at == 0)
        done = N_LANES * K_LANE - (K_LANE - 2 * at)
        assert np.allclose(got.coverage, done / (N_LANES * K_LANE), rtol=1e-15)
        assert (got.stats["scored"] == done).all()
        assert executor.hanging[0].cancelled()
        # What comes after the deadline changes nothing.
        assert np.isinf(got.lane_distances[:, 2, 2 * at :]).all()


def test_what_comes_after_the_deadline_changes_nothing(flat, queries):
    class Stubborn(Future):
        def cancel(self):
            return False

    class Late(Here):
        def submit(self, lane, queries, ids):
            if lane != 1:
                return super().submit(lane, queries, ids)
            self.calls.append((lane, ids))
            self.future, self.scores = Stubborn(), self.flat.score(queries, ids)
            return self.future

    executor = Late(flat)
    got = search_in(flat, executor, step=2, deadline=0.01).search(queries, K)
    before = got.lane_distances.copy(), got.scored.copy(), len(executor.calls)
    executor.future.set_result(executor.scores)
    assert np.array_equal(got.lane_distances, before[0])
    assert np.array_equal(got.scored, before[1])
    assert len(executor.calls) == before[2], "and nobody asks for more"
    assert got.missing == (1,)


def test_a_lane_scores_its_best_ranks_first(flat, queries):
    executor = Here(flat)
    got = search_in(flat, executor, deadline=60).search(queries, K)
    for lane in range(N_LANES):
        asked = np.concatenate([ids for r, ids in executor.calls if r == lane], axis=1)
        assert np.array_equal(asked, got.plan.lane(lane))
        assert len([r for r, _ in executor.calls if r == lane]) == K_LANE, "an eighth at a time"


def test_a_lane_that_never_returns_holds_nobody_up(flat, queries):
    release = threading.Event()

    def score(query, ids):
        if stuck & set(ids.tolist()):
            release.wait(60)
        return flat.score(query, ids)[0]

    search = search_in(flat, score, deadline=2.0)
    stuck = set(plan(flat.pool(queries[:1], 20), lw.lanes.query_keys(queries[:1]),
                     n_lanes=N_LANES, k_lane=K_LANE).lane(3)[0].tolist())  # fmt: skip
    try:
        got = search.search(queries[0], K)
        assert got.missing == (3,)
        assert_answers(got, tuple(got.without(3)))
        stuck.clear()
        # Its thread is still busy; another takes its place.
        assert not search.search(queries[0], K).degraded
    finally:
        release.set()


def test_a_deadline_that_has_passed_answers_nothing_or_the_first_stage(flat, queries):
    for fallback in (None, "first-stage"):
        acts = {(lane, 0): "hang" for lane in range(N_LANES)}
        search = search_in(flat, Here(flat, acts), deadline=0.0, fallback=fallback)
        got = search.search(queries, K)
        assert got.missing == (0, 1, 2, 3)
        assert (got.coverage == 0).all()
        if fallback is None:
            assert (got.ids == -1).all()
            assert not got.estimated.any()
        else:
            assert np.array_equal(got.ids, got.pool[:, :K])
            assert got.estimated.all()


def test_an_error_ends_one_lane_if_it_is_contained(flat, queries):
    wrong = Here(flat, {(1, 1): RuntimeError("lane 1 is down")})
    with pytest.raises(RuntimeError, match="lane 1 is down"):
        search_in(flat, wrong, step=2).search(queries, K)
    wrong = Here(flat, {(1, 1): RuntimeError("lane 1 is down")})
    got = search_in(flat, wrong, step=2, on_error="contain").search(queries, K)
    assert got.missing == (1,)
    assert str(got.lanes[1].error) == "lane 1 is down"
    assert got.lanes[1].scored == 2 * len(queries)
    reported = got.plan.ids.copy()
    reported[:, 1, 2:] = -1
    assert_answers(got, expected_of(flat, queries, reported))
    # If nobody is left there is no answer to give.
    wrong = Here(flat, {(lane, 0): RuntimeError(f"lane {lane}") for lane in range(N_LANES)})
    with pytest.raises(RuntimeError, match="lane 0"):
        search_in(flat, wrong, on_error="contain").search(queries, K)


def test_executors_that_refuse_or_lie_are_contained_too(flat, queries):
    class Wrong(Here):
        def submit(self, lane, queries, ids):
            if lane == 0:
                raise ConnectionError("no such place")
            future = super().submit(lane, queries, ids)
            if lane == 1:
                future = Future()
                future.set_result(np.zeros(3))
            if lane == 2:
                future = Future()
                future.set_result(np.full(ids.shape, np.nan))
            return future

    got = search_in(flat, Wrong(flat), on_error="contain").search(queries, K)
    assert got.missing == (0, 1, 2)
    assert [type(lane.error) for lane in got.lanes[:3]] == [ConnectionError, ValueError, ValueError]
    assert_answers(got, tuple(got.without([0, 1, 2])))


def test_an_idle_lane_goes_on_with_its_neighbours_candidates(flat, queries):
    expected = tuple(search_in(flat, flat).search(queries, K))
    for acts in (
        {(2, 0): "hang"},
        {(2, 1): "hang"},
        {(2, 1): RuntimeError("down")},
        {(2, 0): "hang", (0, 2): "hang"},
    ):
        search = search_in(
            flat, Here(flat, acts), step=2, deadline=5.0, on_idle="continue", on_error="contain"
        )
        got = search.search(queries, K)
        assert_answers(got, expected)
        assert (got.coverage == 1).all()
        assert 2 in got.missing
        assert got.lanes[2].scored == got.lanes[2].planned
    # Without it the same loss costs answers.
    got = search_in(flat, Here(flat, {(2, 0): "hang"}), deadline=0.01).search(queries, K)
    assert (got.coverage < 1).all()


def test_a_lane_goes_on_with_what_the_next_one_has_not_reported(flat, queries):
    executor = Here(flat, {(1, 0): "hang", (2, 0): "hang"})
    search = search_in(flat, executor, on_idle="continue", deadline=0.01, step=K_LANE)
    got = search.search(queries, K)
    # Lane 0 begins, and finds nothing of lane 1; lane 3 finds what lane 0 has reported.
    asked = [(0, 0), (0, 1), (1, 1), (2, 2), (3, 3)]
    assert [lane for lane, _ in executor.calls] == [lane for lane, _ in asked]
    for (_, ids), (_, owner) in zip(executor.calls, asked, strict=True):
        assert np.array_equal(ids, got.plan.lane(owner))
    reported = got.plan.ids.copy()
    reported[:, 2] = -1
    assert_answers(got, expected_of(flat, queries, reported))
    assert got.missing == (1, 2)


def test_the_best_ranks_survive_a_loss_on_two_lanes(flat, queries):
    search = search_in(flat, Here(flat, {(1, 0): "hang"}), head=K, k_lane=2 * K_LANE, deadline=0.01)
    got = search.search(queries, K)
    assert np.array_equal(got.ids, got.pool[:, :K]), "of a pool in exact order"


def test_estimates_follow_the_line_of_the_first_stage(flat, queries):
    """Where scores are a line over the pool's distances, nothing is lost with a lane."""

    def pool(Q, k_pool):
        found = flat.search(Q, k_pool)
        return SearchResult(3 * found.distances + 1, found.ids)

    executor = Here(flat, {(0, 0): "hang"})
    got = LaneSearch(
        pool, executor, n_lanes=N_LANES, k_lane=K_LANE, fallback="first-stage", deadline=0.01
    ).search(queries, K)
    expected = flat.search(queries, K)
    assert np.array_equal(got.ids, expected.ids)
    assert np.allclose(got.distances, expected.distances, rtol=1e-5)
    lost = np.array([np.isin(got.ids[q], got.plan.lane(0)[q]) for q in range(len(queries))])
    assert np.array_equal(got.estimated, lost)
    assert np.array_equal(got.distances[~lost], expected.distances[~lost])
    # A pool without distances has ranks: estimates keep their order.
    by_rank = search_in(
        flat, Here(flat, {(0, 0): "hang"}), fallback="first-stage", deadline=0.01
    ).search(queries, N_LANES * K_LANE)
    for q in range(len(queries)):
        guessed = by_rank.ids[q][by_rank.estimated[q]]
        assert guessed.tolist() == [i for i in by_rank.pool[q] if i in guessed]
        assert len(guessed) == K_LANE


def test_ctrl_c_comes_through_and_nobody_goes_on(flat, queries):
    executor = Here(flat, {(lane, 1): "hang" for lane in range(N_LANES)})

    def interrupt(*arguments):
        signal.raise_signal(signal.SIGINT)

    timer = threading.Timer(0.1, interrupt)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        search_in(flat, executor, step=1).search(queries, K)
    timer.join()
    assert all(future.cancelled() for future in executor.hanging)
    assert len(executor.calls) == 2 * N_LANES


# ------------------------------------------------------------------------------- a single pass


@pytest.fixture(params=["hnsw", "ivf"])
def index(request, flat):
    X = flat.rows
    if request.param == "ivf":
        return lw.IVF(DIM, 12, n_probe=8).train(X).add(X)
    pytest.importorskip("hnswlib")
    return lw.HNSW.build(X, M=8, ef_construction=40)


def test_lanes_that_collect_for_themselves_need_no_pool(index, rng):
    Q = rng.standard_normal((6, DIM), dtype=np.float32)
    search = LaneSearch(index, index if hasattr(index, "score") else _by_rows(index),
                        n_lanes=3, k_lane=8, collect="lanes", key=7)  # fmt: skip
    got = search.search(Q, K)
    for lane in range(3):
        own = index.collect(Q, 8, lane=lane, n_lanes=3, key=7)
        assert np.array_equal(got.plan.lane(lane), own.ids)
        assert np.array_equal(index.pool(Q, 8, lane=lane, n_lanes=3, key=7), own.ids)
    assert (got.stats["duplicates"] == 0).all()
    assert (got.pairwise_jaccard == 0).all()
    assert got.plan.scheme == "owner"
    counted = "distances" if "distances" in got.stats else "candidates"
    assert (got.stats[counted] >= got.stats["scored"]).all()
    # With room for all of the answer on each lane nothing of the whole pool's best is missing.
    whole = index.search(Q, K, **({"ef": 300} if hasattr(index, "ef") else {}))
    share = np.mean([np.isin(whole.ids[q], got.ids[q]).mean() for q in range(len(Q))])
    assert share > 0.9
    with pytest.raises(ValueError, match=r"^lane: "):
        index.collect(Q, 8, lane=3, n_lanes=3)
    with pytest.raises(ValueError, match=r"^lane: expected one of n_lanes"):
        index.pool(Q, 8, n_lanes=3)


def _by_rows(index):
    flat = lw.Flat(DIM).add(index.rows)
    order = {int(i): at for at, i in enumerate(index.ids)}

    def score(query, ids):
        return flat.score(query, np.array([order[int(i)] for i in ids]))[0]

    return score


def test_cells_are_dealt_to_lanes(flat, rng):
    X = rng.standard_normal((400, DIM), dtype=np.float32)
    Q = rng.standard_normal((5, DIM), dtype=np.float32)
    for metric in ("l2", "ip", "cosine"):
        ivf = lw.IVF(DIM, 10, metric, n_probe=7).train(X).add(X)
        everything = ivf.search(Q, 400, n_probe=7).ids
        lanes = [ivf.collect(Q, 400, lane=r, n_lanes=3) for r in range(3)]
        for q in range(5):
            found = [i for lane in lanes for i in lane.ids[q].tolist() if i >= 0]
            assert sorted(found) == sorted(i for i in everything[q].tolist() if i >= 0), metric
        # alpha = 0: all lanes read the same nearest cells.
        shared = [ivf.pool(Q, 9, lane=r, n_lanes=3, alpha=0.0) for r in range(3)]
        assert np.array_equal(shared[0], shared[1])
        assert np.array_equal(shared[0], ivf.pool(Q, 9, n_probe=3))


def test_each_lane_may_have_a_replica_of_its_own(flat, queries, rng):
    pytest.importorskip("hnswlib")
    X = rng.standard_normal((300, DIM), dtype=np.float32)
    exact = lw.Flat(DIM).add(X)
    replicas = [lw.HNSW.build(X, M=8, ef_construction=40, seed=seed) for seed in range(3)]
    search = LaneSearch(replicas, exact, n_lanes=3, k_lane=8, collect="lanes")
    got = search.search(queries, K)
    assert (got.stats["duplicates"] == 0).all()
    assert oracle.recall(got.ids, exact.search(queries, K).ids, K) > 0.9

    class Down:
        def collect(self, queries, k, **where):
            raise ConnectionError("no such replica")

    broken = LaneSearch([replicas[0], Down(), replicas[2]], exact, n_lanes=3, k_lane=8,
                        collect="lanes", on_error="contain")  # fmt: skip
    got = broken.search(queries, K)
    assert got.missing == (1,)
    assert isinstance(got.lanes[1].error, ConnectionError)
    assert got.degraded
    with pytest.raises(ConnectionError):
        LaneSearch([Down()] * 3, exact, n_lanes=3, collect="lanes").search(queries, K)


# ------------------------------------------------------------------------------------ settings


def test_settings_and_those_who_watch(flat, queries):
    class Watch:
        def __init__(self):
            self.seen = []

        def choose(self, query_class):
            return Setting(n_lanes=2, k_lane=3, head=1)

        def observe(self, result, query_class):
            self.seen.append((result, query_class))

    watch = Watch()
    search = search_in(flat, flat, controller=watch, telemetry=watch)
    got = search.search(queries, K, query_class="short")
    assert got.plan.ids.shape == (6, 2, 3)
    assert got.plan.head == 1
    assert got.pool.shape == (6, 6)
    assert watch.seen == [(got, "short")] * 2
    own = search.search(queries, K, setting=Setting(n_lanes=3, k_lane=2, alpha=0.5))
    assert own.plan.ids.shape == (6, 3, 2)
    assert own.plan.alpha == 0.5
    assert np.array_equal(own.keys, lw.lanes.query_keys(queries))


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("deadline", -1.0, ValueError),
        ("deadline", float("nan"), ValueError),
        ("deadline", "soon", TypeError),
        ("step", 0, ValueError),
        ("step", 1.5, TypeError),
        ("fallback", "second-stage", ValueError),
        ("on_idle", "sleep", ValueError),
        ("on_error", "ignore", ValueError),
        ("collect", "nothing", ValueError),
    ],
)
def test_wrong_options_are_named(flat, name, value, error):
    with pytest.raises(error, match=rf"^{name}: "):
        search_in(flat, flat, **{name: value})


def test_no_queries(flat):
    for options in ({}, {"deadline": 1.0, "fallback": "first-stage", "on_idle": "continue"}):
        got = search_in(flat, flat, **options).search(np.empty((0, DIM)), K)
        assert got.ids.shape == got.estimated.shape == (0, K)
        assert not got.degraded
    ivf = lw.IVF(DIM, 3).train(flat.rows).add(flat.rows)
    assert search_in(ivf, flat, collect="lanes").search(np.empty((0, DIM)), K).ids.shape == (0, K)


def test_wrong_combinations_are_named(flat, queries):
    with pytest.raises(ValueError, match=r'^head: expected 0 with collect="lanes", got 2'):
        search_in(flat, flat, collect="lanes", head=2)
    with pytest.raises(ValueError, match=r"^pool: expected 4, one a lane, got 3"):
        search_in([flat] * 3, flat, collect="lanes")
    with pytest.raises(TypeError, match=r"^pool: expected an index or a callable, got list"):
        search_in([flat] * 4, flat)
    with pytest.raises(TypeError, match=r"^setting: expected a Setting, got dict"):
        search_in(flat, flat).search(queries, K, setting={"n_lanes": 2})
    with pytest.raises(ValueError, match=r"^deadline: "):
        search_in(flat, flat).search(queries, K, deadline=-1)
    for wrong, error in (
        ({"n_lanes": 0}, ValueError),
        ({"k_lane": 0}, ValueError),
        ({"alpha": 2.0}, ValueError),
        ({"head": -1}, ValueError),
        ({"scheme": "best"}, ValueError),
    ):
        with pytest.raises(error, match=f"^{next(iter(wrong))}: "):
            Setting(**wrong)
    with pytest.raises(TypeError, match=r"^open_scorer: "):
        Processes(flat, 2)
    for make in (Threads(flat), Async(Remote(flat))):
        with pytest.raises(ValueError, match=r"^(most_threads|concurrency): "):
            type(make)(flat, **{"most_threads" if isinstance(make, Threads) else "concurrency": 0})
