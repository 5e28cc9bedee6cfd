"""Streams: what a search hands out on its way, and lanes that score it meanwhile."""

import functools
import gc
import heapq
import signal
import threading
import time
from concurrent.futures import Future

import cases
import numpy as np
import pytest
from cases import assert_same_bytes

import lanewise as lw
from lanewise import _native
from lanewise.graph import NO_LINK, GraphArrays
from lanewise.lanes import LaneSearch, StreamSearch, Threads, plan, query_keys, streaming
from lanewise.streams import Candidates

STORAGES = ("f32", "sq8", "sq4", "adsampling")
every_metric = pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
every_storage = pytest.mark.parametrize("storage", STORAGES)


def make(rng, metric="l2", storage="f32", n=300, dim=15, kind="normal"):
    """A graph with ids of its own and deleted elements, and the queries that go with it."""
    rows = lw.Flat(dim, metric).add(cases.DATA[kind](rng, (n, dim))).rows
    labels = 5 + 3 * rng.permutation(n)
    deleted = rng.random(n) < 0.1
    graph = cases.nearest_graph(rows, metric, labels=labels, deleted=deleted)
    index = lw.HNSW._made(graph, storage, None, None, None)
    return index, cases.DATA[kind](rng, (8, dim))


def pairs(some):
    return list(zip(some.ids.tolist(), some.distances.tolist(), strict=True))


def drained(stream, sizes=(1, 2, 4, 8, 16)):
    """All that a stream hands out, in chunks of some sizes, and its pool."""
    found = []
    for turn in range(10_000):
        if stream.ended:
            break
        some = stream.advance(sizes[turn % len(sizes)])
        assert len(some) <= sizes[turn % len(sizes)]
        found.append(some)
    return found, stream.finish()


def assert_same_search(got, expected):
    assert_same_bytes(tuple(got), tuple(expected))
    assert got.stats.keys() == expected.stats.keys()
    for name, numbers in expected.stats.items():
        assert_same_bytes(got.stats[name], numbers)


# ------------------------------------------------------------------------------------- the walk


@every_metric
@every_storage
@pytest.mark.parametrize("kind", ["normal", "many ties"])
def test_the_pool_is_the_search(rng, metric, storage, kind):
    """Bit for bit, work included, however often it stops."""
    index, Q = make(rng, metric, storage, kind=kind)
    some = rng.choice(index.ids, 60, replace=False)
    for ef, k in ((1, 1), (7, 3), (40, 40), (40, 10), (400, 30), (10, 500)):
        for options in ({}, {"filter": some}, {"filter": some[:1]}):
            if storage != "f32" and ef == 40:
                options = {**options, "rerank": (k + ef) // 2}
            expected = [index.search(q, k, ef=ef, **options) for q in Q]
            for sizes in ((1,), (3, 1, 64), (4000,)):
                for q, wanted in zip(Q, expected, strict=True):
                    found, pool = drained(index.stream(q, k, ef=ef, **options), sizes)
                    assert_same_search(pool, wanted)
                    ids = np.concatenate([f.ids for f in found]).tolist()
                    assert len(set(ids)) == len(ids)
                    if storage == "f32":
                        far = dict(p for f in found for p in pairs(f))
                        known = zip(pool.ids[0].tolist(), pool.distances[0].tolist(), strict=True)
                        assert all(far.get(i, distance) == distance for i, distance in known)
                        assert k < 30 or far.keys() & pool.ids[0].tolist()
                    assert not np.isin(ids, index.ids[index._snapshot.graph.deleted]).any()
                    if "filter" in options:
                        assert set(ids) <= set(some.tolist())
                    got = index.stream(q, k, ef=ef, **options).finish()
                    assert_same_search(got, wanted)


def walk(links, enter, far, ef, allowed):
    """Expansions in their order, and the ef nearest after each: algorithm 2 of the paper."""
    now = enter
    for level in range(len(links[enter]) - 1, 0, -1):
        nearest = None
        while nearest != now:
            now = now if nearest is None else nearest
            nearest = min([now, *links[now][level]], key=far.__getitem__)
    seen, waiting = {now}, [(far[now], now)]
    best = [now] if now in allowed else []
    while waiting:
        distance, node = heapq.heappop(waiting)
        if len(best) == ef and distance > far[best[-1]]:
            return
        for near in links[node][0]:
            if near in seen:
                continue
            seen.add(near)
            if len(best) < ef or far[near] < far[best[-1]]:
                heapq.heappush(waiting, (far[near], near))
                if near in allowed:
                    best = sorted([*best, near], key=far.__getitem__)[:ef]
        yield node, list(best)


@pytest.mark.parametrize("k", [1, 6, 20])
def test_candidates_come_as_they_are_expanded(rng, k):
    """And the bound is the k-th of those that are known, the ef-th of those that were met."""
    X = rng.standard_normal((300, 12), dtype=np.float32)
    graph = cases.nearest_graph(X)
    index = lw.HNSW._made(graph, "f32", None, None, None)
    flat, links = lw.Flat(12).add(X), cases.links_of(graph)
    ef = 20
    for allowed in (range(300), range(0, 300, 3)):
        for query in rng.standard_normal((5, 12), dtype=np.float32):
            far = flat.score(query, np.arange(300))[0].tolist()
            assert len(set(far)) == 300
            steps = list(walk(links, graph.enter, far, ef, set(allowed)))
            stream = index.stream(query, k, ef=ef, filter=list(allowed))
            assert stream.bound == np.inf, "whatever the search before it left"
            handed, before = [], np.inf
            for stop, (node, best) in enumerate(steps):
                some = stream.advance(1)
                wanted = [node] if node in allowed else []
                assert some.ids.tolist() == wanted
                assert some.distances.tolist() == [far[i] for i in wanted]
                assert some.lanes is None
                handed += wanted
                limits = [far[best[-1]]] if len(best) == ef else []
                if len(handed) >= k:
                    limits.append(sorted(far[i] for i in handed)[k - 1])
                assert stream.bound == min(limits, default=np.inf) <= before
                before = stream.bound
                index.search(query, ef, ef=ef, n_threads=1)
                early = index.stream(query, k, ef=ef, filter=list(allowed))
                early.advance(stop + 1)
                ids = early.finish(early=True).ids[0].tolist()
                assert ids == [*best[:k], *[-1] * (k - len(best[:k]))]
            assert stream.ended
            assert len(stream.advance(5)) == 0
            assert stream.bound == stream.finish().distances[0, -1]


@pytest.mark.parametrize("n_lanes", [1, 3, 4, 65_536])
def test_lanes_are_those_of_the_plan(rng, n_lanes):
    index, Q = make(rng)
    for key in (None, 77, 2**127 + 5):
        stream = index.stream(Q[0], 30, ef=50, n_lanes=n_lanes, key=key)
        found, pool = drained(stream)
        ids = np.concatenate([f.ids for f in found])
        lanes = np.concatenate([f.lanes for f in found])
        words = query_keys(Q[0]) if key is None else key
        planned = plan([ids], words, n_lanes=n_lanes, k_lane=len(ids), scheme="owner").ids[0]
        for i, lane in zip(ids, lanes, strict=True):
            assert i in planned[lane]
        assert_same_bytes(stream.owners.of(ids), lanes)
        assert stream.owners.of(np.array([-1, ids[0], -1])).tolist() == [-1, lanes[0], -1]
        assert len(pool.ids[0]) == 30


def test_streams_do_not_meet(rng):
    """Many at once, some left alone half way, searches between them."""
    index, Q = make(rng)
    expected = [index.search(q, 20, ef=60) for q in Q]
    streams = [index.stream(q, 20, ef=60) for q in Q]
    for turn in range(200):
        streams[turn % 8].advance(1)
        index.stream(Q[turn % 8], 9, ef=30).advance(turn) if turn else None
        if turn % 50 == 7:
            gc.collect()
            assert_same_search(index.search(Q[0], 20, ef=60, n_threads=1), expected[0])
    for stream, wanted in zip(streams, expected, strict=True):
        assert_same_search(stream.finish(), wanted)


def test_a_stream_sees_the_graph_as_it_was(rng):
    pytest.importorskip("hnswlib")
    X = rng.standard_normal((200, 8), dtype=np.float32)
    index = lw.HNSW.build(X[:100], M=5, ef_construction=40)
    expected = index.search(X[150], 10, ef=40)
    stream = index.stream(X[150], 10, ef=40)
    stream.advance(2)
    index.add(X[100:])
    assert index.search(X[150], 1, ef=40).ids.tolist() == [[150]]
    del index
    gc.collect()
    assert_same_search(stream.finish(), expected)


def test_one_thread_at_a_time():
    """Another one is refused while the walk runs without the interpreter's lock."""
    n = 200_000
    links = np.full((n, 4), NO_LINK)
    links[:-1, 0] = np.arange(1, n)
    links[1:, 1] = np.arange(n - 1)
    graph = GraphArrays(
        "l2", 1, 2, 9, 0.5, 1, 10, 0, np.arange(n, dtype=np.float32)[:, np.newaxis], links,
        np.zeros(n + 1, dtype=np.uint32), np.empty((0, 2), dtype=np.uint32), None, None,
    )  # fmt: skip
    native = graph.native()
    out = np.empty(n, dtype=np.float32), np.empty(n, dtype=np.int64)
    for _ in range(100):
        # On a busy machine a walk may be over before anybody looks.
        stream = _native.GraphStream(
            native, cases.BEST, np.zeros(1, np.float32), None, 0.0, 5, n, n, None
        )
        thread = threading.Thread(target=stream.advance, args=(n, *out))
        thread.start()
        refused = 0
        while thread.is_alive():
            try:
                stream.bound()
            except ValueError:
                refused += 1
        thread.join()
        assert out[1].tolist() == list(range(n))
        if refused > 0:
            break
    assert refused > 0
    answers = np.empty(5, np.float32), np.empty(5, np.int64), np.empty(4, np.uint64)
    stream.answer(*answers)
    assert answers[1].tolist() == [0, 1, 2, 3, 4]
    for late in (lambda: stream.answer(*answers), stream.bound, lambda: stream.advance(1, *out)):
        with pytest.raises(ValueError, match="answered"):
            late()


def test_nothing_to_find(rng):
    index, Q = make(rng)
    empty = lw.HNSW._made(
        cases.nearest_graph(np.empty((0, 15), np.float32)), "f32", None, None, None
    )
    nobody = np.zeros(len(index), dtype=bool)
    for stream, k in (
        (index.stream(Q[0], 0), 0),
        (empty.stream(Q[0], 4, n_lanes=3), 4),
        (index.stream(Q[0], 4, filter=nobody), 4),
    ):
        assert [some.ids.tolist() for some in stream] == []
        assert stream.ended
        assert stream.bound == np.inf
        distances, ids = stream.finish()
        assert ids.tolist() == [[-1] * k]
        assert (distances == np.inf).all()


STREAM = [
    ({"query": np.ones(14)}, ValueError, "query"),
    ({"query": np.full(15, np.nan)}, ValueError, "query"),
    ({"query": np.ones((2, 15))}, ValueError, "query: expected one, got 2"),
    ({"query": np.ones((0, 15))}, ValueError, "query: expected one, got 0"),
    ({"k_pool": -1}, ValueError, "k_pool"),
    ({"k_pool": 2.5}, TypeError, "k_pool"),
    ({"ef": -1}, ValueError, "ef"),
    ({"rerank": 50}, ValueError, "rerank"),
    ({"filter": [4]}, ValueError, "filter"),
    ({"n_lanes": 0}, ValueError, "n_lanes"),
    ({"n_lanes": 3, "alpha": -0.1}, ValueError, "alpha"),
    ({"n_lanes": 3, "key": b"short"}, ValueError, "key"),
    ({"n_lanes": 3, "key": [1, 2]}, ValueError, "key"),
]


@pytest.mark.parametrize(("options", "error", "words"), STREAM)
def test_wrong_streams_are_named(rng, options, error, words):
    index, Q = make(rng, n=60)
    with pytest.raises(error, match=f"^{words}"):
        index.stream(**{"query": Q[0], "k_pool": 5, **options})


def test_a_closed_stream_says_so(rng):
    index, Q = make(rng, n=60)
    for wrong, error in ((0, ValueError), (-3, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match=r"^n_expansions: "):
            index.stream(Q[0], 5).advance(wrong)
    assert len(index.stream(Q[0], 5, ef=60).advance(10**12)) > 20
    with index.stream(Q[0], 5) as stream:
        stream.advance(2)
    stream.close()
    finished = index.stream(Q[0], 5)
    finished.finish()
    for closed in (stream, finished):
        assert closed.ended
        assert list(closed) == []
        for call in (lambda: closed.advance(1), closed.finish):  # noqa: B023
            with pytest.raises(ValueError, match=r"^stream: expected an open one"):
                call()


# ------------------------------------------------------------------------------------- the cells


def make_cells(rng, metric="l2", storage="f32", n=400, dim=12, kind="normal", **options):
    """Inverted lists with ids of their own and rows removed, and the queries that go with them."""
    X = cases.DATA[kind](rng, (n, dim))
    index = lw.IVF(dim, 14, metric, storage=storage, train_iterations=4, n_threads=1, **options)
    index.train(X).add(X, 5 + 3 * rng.permutation(n))
    return index.remove(rng.choice(index.ids, n // 10, replace=False)), X[:6] + np.float32(0.1)


@every_metric
@pytest.mark.parametrize("storage", ["f32", "sq8", "sq4"])
@pytest.mark.parametrize("kind", ["normal", "many ties"])
def test_the_pool_of_cells_is_the_search(rng, metric, storage, kind):
    """Bit for bit, however many cells are read at a time, and so are its beginnings."""
    index, Q = make_cells(rng, metric, storage, kind=kind)
    some = rng.choice(index.ids, 60, replace=False)
    for n_probe, k in ((1, 5), (5, 40), (9, 1), (14, 500), (40, 60)):
        for options in ({}, {"filter": some}):
            for q in Q:
                expected = index.search(q, k, n_probe=n_probe, **options)
                for sizes in ((1,), (3, 1, 4), (4000,)):
                    stream = index.stream(q, k, n_probe=n_probe, **options)
                    found, ids, cells = [], [], 0
                    for turn in range(100):
                        if stream.ended:
                            break
                        before = stream.bound
                        some_now = stream.advance(sizes[turn % len(sizes)])
                        cells = min(cells + sizes[turn % len(sizes)], n_probe, 14)
                        so_far = index.search(q, k, n_probe=cells, **options)
                        most = min(k, 60 if options else len(index))
                        likely = -(-most * cells // min(n_probe, 14))
                        near = [i for i in so_far.ids[0, :likely].tolist() if i >= 0]
                        assert some_now.ids.tolist() == [i for i in near if i not in ids]
                        last = so_far.distances[0, most - 1]
                        assert stream.bound == last, "infinite while there is room"
                        assert stream.bound <= before
                        early = index.stream(q, k, n_probe=n_probe, **options)
                        early.advance(cells)
                        assert_same_bytes(tuple(early.finish(early=True)), tuple(so_far))
                        found += pairs(some_now)
                        ids += some_now.ids.tolist()
                    assert cells == min(n_probe, 14)
                    pool = stream.finish()
                    assert_same_bytes(tuple(pool), tuple(expected))
                    assert pool.stats["candidates"] == expected.stats["candidates"]
                    assert len(set(ids)) == len(ids)
                    named = dict(zip(pool.ids[0].tolist(), pool.distances[0].tolist(), strict=True))
                    assert all(named.get(i, far) == far for i, far in found)
                    assert set(named) - {-1} <= set(ids)


def test_a_stream_of_cells_sees_the_rows_as_they_were(rng):
    index, Q = make_cells(rng)
    expected = index.search(Q[0], 30, n_probe=8)
    stream = index.stream(Q[0], 30, n_probe=8, n_lanes=3, key=9)
    first = stream.advance(1)
    assert_same_bytes(first.lanes, stream.owners.of(first.ids))
    index.add(Q)
    index.remove(expected.ids[0, :3])
    assert_same_bytes(tuple(stream.finish()), tuple(expected))


def test_no_cell_has_anything(rng):
    index, Q = make_cells(rng)
    nobody = np.zeros(len(index), dtype=bool)
    empty = lw.IVF(12, 3).train(rng.standard_normal((9, 12), dtype=np.float32))
    for stream, k in (
        (index.stream(Q[0], 0), 0),
        (empty.stream(Q[0], 4, n_lanes=3), 4),
        (index.stream(Q[0], 4, filter=nobody), 4),
    ):
        assert stream.ended
        assert stream.bound == np.inf
        assert len(stream.advance(3)) == 0
        assert stream.finish().ids.tolist() == [[-1] * k]


CELLS = [
    ({"query": np.ones(11)}, ValueError, "query"),
    ({"query": np.ones((2, 12))}, ValueError, "query: expected one, got 2"),
    ({"query": np.full(12, 1e30)}, ValueError, "query: expected vectors no longer"),
    ({"k_pool": -1}, ValueError, "k_pool"),
    ({"n_probe": 0}, ValueError, "n_probe"),
    ({"filter": [4]}, ValueError, "filter"),
    ({"n_lanes": 0}, ValueError, "n_lanes"),
    ({"n_lanes": 3, "alpha": 1.5}, ValueError, "alpha"),
    ({"n_lanes": 3, "key": b"short"}, ValueError, "key"),
]


@pytest.mark.parametrize(("options", "error", "words"), CELLS)
def test_wrong_streams_of_cells_are_named(rng, options, error, words):
    index, Q = make_cells(rng, n=60)
    with pytest.raises(error, match=f"^{words}"):
        index.stream(**{"query": Q[0], "k_pool": 5, **options})


def test_what_cannot_stream_says_so(rng):
    X = rng.standard_normal((80, 64), dtype=np.float32)
    for storage in ("binary", "binary4"):
        binary = lw.IVF(64, 4, storage=storage).train(X).add(X)
        with pytest.raises(ValueError, match=rf"^stream: storage '{storage}'"):
            binary.stream(X[0], 5)
    with pytest.raises(ValueError, match=r"^IVF: expected a trained index"):
        lw.IVF(64, 4).stream(X[0], 5)
    with pytest.raises(TypeError, match=r"^index: expected one that streams, got Flat"):
        StreamSearch(lw.Flat(64).add(X), lw.Flat(64).add(X))


# ------------------------------------------------------------------------------------- the lanes


class Recorder:
    """An executor that writes down what it is asked for."""

    def __init__(self, executor):
        self.executor = executor
        self.asked = []

    def submit(self, lane, queries, ids):
        self.asked.append((lane, ids[0].tolist()))
        return self.executor.submit(lane, queries, ids)

    def close(self):
        self.executor.close()


class AtOnce:
    """Whose answers are there when it is asked."""

    def __init__(self, score):
        self.score = score

    def submit(self, lane, queries, ids):
        future = Future()
        future.set_result(self.score(queries, ids))
        return future

    def close(self):
        pass


def scored_by(index):
    """Exact distances, as an executor in this thread gives them."""
    rows = np.asarray(index.rows)
    place = {i: row for row, i in enumerate(index.ids.tolist())}

    def score(queries, ids):
        chosen = rows[[place.get(i, 0) for i in ids[0].tolist()]]
        return ((chosen - queries[0]) ** 2).sum(axis=1, dtype=np.float32)[np.newaxis]

    return score


def expected_answer(index, score, q, k, k_pool, n_lanes, key=None, **options):
    """The same trip in two steps, every lane with room for the whole pool."""
    return LaneSearch(
        lambda Q, _: index.pool(Q, k_pool, **options),
        AtOnce(score),
        n_lanes=n_lanes,
        k_lane=k_pool,
        scheme="owner",
        key=key,
    ).search(q, k)


@pytest.mark.parametrize("way", ["at once", "threads", "random", "async"])
@pytest.mark.parametrize("n_lanes", [1, 3, 7])
def test_the_answer_is_that_of_the_whole_pool(rng, way, n_lanes):
    index, Q = make(rng)
    score = scored_by(index)
    patience = np.random.default_rng(5)

    def one(query, ids):
        if way == "random":
            time.sleep(patience.random() * 2e-4)
        return score(query[np.newaxis], ids[np.newaxis])[0]

    async def later(query, ids):
        return one(query, ids)

    for queue, step, k_pool, ef, early in (
        (1, 1, 30, 30, "always"),
        (2, 5, 30, 60, "auto"),
        (50, 3, 60, 60, "always"),
    ):
        inner = AtOnce(score) if way == "at once" else lw.lanes.Async(later)
        recorder = Recorder(inner if way in ("at once", "async") else Threads(one))
        with StreamSearch(
            functools.partial(index.stream, ef=ef),
            recorder,
            n_lanes=n_lanes,
            k_pool=k_pool,
            queue=queue,
            step=step,
            early=early,
        ) as search:
            for q in Q:
                recorder.asked.clear()
                got = search.search(q, 7)
                expected = expected_answer(index, score, q, 7, k_pool, n_lanes, ef=ef)
                assert_same_bytes(tuple(got), tuple(expected))
                assert_same_bytes(got.pool, index.pool(q, k_pool, ef=ef))
                check_trip(got, recorder.asked, index, q, queue, step, n_lanes)
                assert got.early[0] > 0 or early == "auto"


@pytest.mark.parametrize("which", ["graph", "cells"])
@pytest.mark.parametrize("early", ["auto", "always"])
@pytest.mark.parametrize(
    ("k_lane", "alpha", "head"),
    [(None, 0.5, 0), (7, 1.0, 0), (2**40, 1.0, 5), (9, 0.7, 4), (60, 0.0, 0), (1, 1.0, 1)],
)
def test_plans_are_those_of_lanes(rng, which, early, k_lane, alpha, head):
    """Whatever the budget and whatever is shared: same pairs of lane and candidate, same answer."""
    index, Q = make(rng) if which == "graph" else make_cells(rng)
    flat = index if which == "cells" else None
    score = scored_by(index) if flat is None else lambda Q, ids: flat.score(Q, ids)
    options = {"ef": 60} if which == "graph" else {"n_probe": 9}
    executor = Recorder(AtOnce(score))
    streamed = StreamSearch(
        functools.partial(index.stream, **options), executor, n_lanes=3, k_pool=60,
        k_lane=k_lane, alpha=alpha, head=head, early=early, step=3,
    )  # fmt: skip
    lanes = LaneSearch(
        lambda Q, _: index.pool(Q, 60, **options), AtOnce(score), n_lanes=3,
        k_lane=min(k_lane or 60, 60), alpha=alpha, head=head, scheme="owner", k_pool=200,
    )  # fmt: skip
    n_early = 0
    for q in Q:
        executor.asked.clear()
        got, expected = streamed.search(q, 12), lanes.search(q, 12)
        assert_same_bytes(tuple(got), tuple(expected))
        planned = {
            (lane, i) for lane in range(3) for i in expected.plan.ids[0, lane].tolist() if i >= 0
        }
        asked = [(lane, i) for lane, ids in executor.asked for i in ids]
        assert len(set(asked)) == len(asked) == got.scored[0]
        assert planned <= set(asked)
        assert len(set(asked) - planned) == got.wasted[0]
        wanted = np.isin(got.pool, [i for _, i in planned])
        assert_same_bytes(got.pool_planned, wanted)
        assert_same_bytes(got.pool_scored, wanted)
        assert (got.pool_distances[0] < np.inf).tolist() == wanted[0].tolist()
        assert got.complete[0]
        assert got.coverage[0] == 1
        given = [lane for lane, _ in asked[: got.early[0]]]
        assert max(map(given.count, range(3))) <= (k_lane or 60)
        if alpha == 0:
            firsts = [next(ids for mine, ids in executor.asked if mine == r) for r in range(3)]
            assert firsts[0] == firsts[1] == firsts[2]
        n_early += got.early[0]
    assert n_early > 0 or early == "auto"


def test_what_lanes_share_is_nobodys_own(rng):
    index, Q = make(rng)
    plain = index.stream(Q[0], 5, n_lanes=3, key=4).owners.of(index.ids)
    for alpha in (1.0, 0.6, 0.0):
        stream = index.stream(Q[0], 5, n_lanes=3, alpha=alpha, key=4)
        owners = stream.owners.of(index.ids)
        plan_ids = plan(
            index.ids, 4, n_lanes=3, k_lane=len(index.ids), scheme="owner", alpha=alpha
        ).ids[0]
        shared = np.logical_and.reduce([np.isin(index.ids, mine) for mine in plan_ids])
        assert shared.any() == (alpha < 1)
        assert_same_bytes(owners, np.where(shared, np.int32(-1), plain))


def test_a_lane_that_is_lost_costs_what_it_had_alone(rng):
    """The second lane of the best ranks has scored them."""
    index, Q = make(rng)
    release = threading.Event()
    score = scored_by(index)

    class Stuck(Threads):
        def submit(self, lane, queries, ids):
            return Future() if lane == 1 else super().submit(lane, queries, ids)

    with StreamSearch(
        index, Stuck(lambda q, ids: score(q[None], ids[None])[0]), n_lanes=3, k_pool=30, head=6,
        early="always", deadline=1.0,
    ) as search:  # fmt: skip
        got = search.search(Q[0], 6)
    release.set()
    assert got.ids[0].tolist() == got.pool[0, :6].tolist()
    alone = (got.pool_lanes[0] == 1) & (np.arange(30) >= 6)
    assert_same_bytes(got.pool_scored[0], ~alone)
    assert not got.complete[0]


def test_lanes_begin_early_where_a_call_has_the_time():
    """What a call costs whatever comes with it, by medians, beside the time that the pool takes."""

    def habits(small, large, pool, first):
        made = streaming._Habits()
        assert made.may_begin_early(), "nothing is known"
        made.small.extend(small)
        made.large.extend(large)
        made.end(True, first, pool)
        assert not made.may_begin_early(), "how long does a pool take whom nobody disturbs?"
        made.end(False, np.nan, pool)
        turns = [made.may_begin_early() for _ in range(6)]
        assert turns in ([True, False] * 3, [False, True] * 3), "one query says little"
        return made

    each = [(n, 5e-3 + n * 1e-3) for n in (1, 2, 4)]
    many = [(n, 5e-3 + n * 1e-3) for n in (30, 40, 50)]
    for outliers in ([], [(2, 9.0)]):
        assert habits([*each, *outliers], many, 9.5e-3, 4e-3).may_begin_early()
        assert not habits([*each, *outliers], many, 8e-3, 4e-3).may_begin_early()
    by_call = [[(n, 1e-3) for n in ns] for ns in ((1, 4), (20, 30))]
    assert habits(*by_call, 1.5e-3, 0.4e-3).may_begin_early()
    disturbed = habits(*by_call, 1.5e-3, 0.4e-3)
    disturbed.disturbed_seconds = 1.6e-3
    assert not disturbed.may_begin_early(), "a call more, and nothing that it has done"
    busy = habits(each, many, 9.5e-3, 0.4e-3)
    busy.disturbed_seconds = 11e-3
    assert busy.may_begin_early(), "lanes have meanwhile done what takes as long"
    late = habits(*by_call, 1.3e-3, 0.4e-3)
    tries = [late.may_begin_early() for _ in range(1000)]
    assert 1 <= sum(tries) < 10, "now and then, to see whether it is still so"
    late.end(False, np.nan, 100.0)
    tries = [late.may_begin_early() for _ in range(1000)]
    assert 990 < sum(tries) < 1000, "the pool takes longer now"


def test_lanes_that_do_not_begin_early_call_once(rng):
    index, Q = make(rng)
    recorder = Recorder(AtOnce(scored_by(index)))
    search = StreamSearch(index, recorder, n_lanes=3, k_pool=60)
    search._habits.end(True, 1.0, 1e-9)
    search._habits.end(False, np.nan, 1e-9)
    search._habits.n_queries = 100
    got = search.search(Q[0], 5)
    assert sorted(lane for lane, _ in recorder.asked) == [0, 1, 2]
    assert got.early[0] == got.wasted[0] == 0
    check_trip(got, recorder.asked, index, Q[0], 16, 60, 3)


@pytest.mark.parametrize("seconds", [1e-9, 1e9])
def test_lanes_go_on_before_the_pool_if_there_is_time(rng, seconds):
    index, Q = make(rng)
    for q in Q:
        recorder = Recorder(AtOnce(scored_by(index)))
        stream = functools.partial(index.stream, ef=200)
        search = StreamSearch(stream, recorder, n_lanes=2, k_pool=200, step=1, early="always")
        search._habits.end(False, np.nan, seconds)
        got = search.search(q, 5)
        assert (got.early[0] <= 2) == (seconds < 1)
        assert got.early[0] > 0
        check_trip(got, recorder.asked, index, q, 16, 1, 2)


def check_trip(got, asked, index, q, queue, step, n_lanes):
    """What the result says is what the executor saw."""
    owners = index.stream(q, 1, n_lanes=n_lanes).owners
    pool = got.pool[0]
    ids = [i for _, some in asked for i in some]
    assert len(set(ids)) == len(ids), "nothing is scored twice"
    for lane, some in asked:
        assert (owners.of(np.array(some)) == lane).all()
    assert_same_bytes(got.pool_lanes[0], owners.of(pool))
    assert got.scored.tolist() == [len(ids)]
    wasted = len(set(ids) - set(pool.tolist()))
    assert got.wasted.tolist() == [wasted]
    assert got.waste.tolist() == [wasted / len(ids)]
    assert len(ids) - wasted == (pool >= 0).sum()
    assert wasted <= got.early[0] <= len(ids)
    assert got.coverage.tolist() == [1]
    assert got.complete.tolist() == [True]
    assert (got.early[0] > 0) == (got.most_waiting[0] > 0)
    assert got.most_waiting[0] <= n_lanes * queue
    for mask in (got.pool_planned, got.pool_scored):
        assert mask.tolist() == (pool >= 0)[np.newaxis].tolist()
    scores = dict(zip(got.ids[0].tolist(), got.distances[0].tolist(), strict=True))
    named = dict(zip(pool.tolist(), got.pool_distances[0].tolist(), strict=True))
    assert scores.items() <= named.items()
    times = [got.time_to_first_candidate, got.time_to_first_score, got.seconds]
    assert 0 < times[0][0] <= times[1][0] <= times[2][0]
    assert 0 < got.pool_seconds[0] <= times[2][0]


def test_lanes_begin_when_the_walk_turns(rng):
    """Where scores come at once they score all that is expanded from then on, up to the bound."""
    index, Q = make(rng)
    wasted = 0
    for q in Q:
        recorder = Recorder(AtOnce(scored_by(index)))
        search = StreamSearch(
            functools.partial(index.stream, ef=200), recorder, k_pool=200, step=1, queue=200
        )
        got = search.search(q)
        stream, early, turned, met = index.stream(q, 200, ef=200), [], False, []
        for size in stream.pace:
            met += pairs(stream.advance(size))
            if stream.ended:
                break
            if not turned:
                met = met[min(range(len(met)), key=lambda i: met[i][1]) :]
                turned = len(met) > 1
            if turned:
                early += [i for i, far in met if far <= stream.bound]
                met = []
        assert stream.ended
        assert got.early[0] == len(early) > 20
        asked = [i for _, ids in recorder.asked for i in ids]
        assert sorted(asked[: len(early)]) == sorted(early)
        assert set(asked) == {*early, *got.pool[0].tolist()}
        wasted += got.wasted[0]
    assert wasted < 0.1 * 200 * len(Q)


class Late:
    """Answers nothing until the pool is dealt."""

    def __init__(self, score):
        self.score = score
        self.held, self.asked, self.dealt = [], [], False

    def answer(self, lane):
        """Answer the last call of a lane."""
        future, _, ids = self.held[max(i for i, (r, _) in enumerate(self.asked) if r == lane)]
        future.set_result(self.score(None, ids))

    def release(self):
        self.dealt = True
        for future, queries, ids in self.held:
            future.set_result(self.score(queries, ids))

    def submit(self, lane, queries, ids):
        self.asked.append((lane, ids[0].tolist()))
        if self.dealt:
            return AtOnce(self.score).submit(lane, queries, ids)
        self.held.append((Future(), queries, ids))
        return self.held[-1][0]

    def close(self):
        pass


def offered(distances, lanes=None):
    lanes = [0] * len(distances) if lanes is None else lanes
    ids = [round(10 * distance) for distance in distances]
    return Candidates(np.array(ids), np.float32(distances), np.array(lanes, np.int32))


def test_a_queue_keeps_the_nearest():
    """As many as it may, none beyond the bound."""
    held = Late(lambda _, ids: ids * 0.1)
    flight = streaming._Flight(held, [None], 2, 9, 3, 1, None, streaming._Habits(), 0.0)

    def waits(*distances):
        assert [far for far, _ in flight.waiting[0]] == pytest.approx(distances)

    flight.offer(offered([9.0, 8.0]), np.inf)
    assert held.asked == [], "the walk may still come nearer"
    flight.offer(offered([3.0, 5.0]), np.inf)
    assert held.asked == [(0, [30])]
    waits(5)
    flight.offer(offered([7.0, 6.0, 4.0, 8.0]), np.inf)
    waits(4, 5, 6)
    flight.offer(offered([1.0, 2.0, 3.5, 1.5], [1, 1, 1, 1]), np.inf)
    assert held.asked == [(0, [30]), (1, [10])]
    # All queues are full: who is nearer than any that waits still gets in.
    flight.offer(offered([5.5, 3.2, 5.8], [0, 1, 1]), np.inf)
    waits(4, 5, 5.5)
    assert flight.most_waiting == 6
    flight.offer(offered([4.5]), 4.7)
    waits(4, 4.5, 5)
    held.answer(0)
    assert held.asked[2:] == [(0, [40])]
    waits(4.5)
    flight.offer(offered([]), 4.1)
    held.answer(0)
    assert len(held.asked) == 3, "what waits is beyond the bound"
    flight.deal({0: np.array([30, 40, 45, 99])})
    assert held.asked[3:] == [(0, [45, 99])]
    held.answer(0)
    held.answer(1)
    flight.wait()
    assert sorted(i for _, ids, _ in flight.calls for i in ids.tolist()) == [10, 30, 40, 45, 99]
    assert flight.wasted() == 1
    flight.stop()


@pytest.fixture
def late(monkeypatch):
    wait = streaming._Flight.wait

    def released(flight):
        flight.executor.release()
        wait(flight)

    monkeypatch.setattr(streaming._Flight, "wait", released)
    return Late


@pytest.mark.parametrize("queue", [1, 3])
def test_slow_lanes_waste_little_and_hold_little(rng, late, queue):
    index, Q = make(rng, n=600)
    stream = functools.partial(index.stream, ef=80)
    for q in Q:
        held = late(scored_by(index))
        search = StreamSearch(stream, held, n_lanes=4, k_pool=80, queue=queue, step=2)
        got = search.search(q, 80)
        assert got.ids[0].tolist() == index.pool(q, 80, ef=80)[0].tolist()
        # One call of each lane was in flight; each has one more, for all that is left.
        assert len(held.held) == 4
        assert len(held.asked) == 8
        sizes = [len(ids) for _, ids in held.asked]
        assert max(sizes[:4]) <= 2
        assert got.early[0] == sum(sizes[:4])
        assert got.most_waiting[0] == 4 * queue
        check_trip(got, held.asked, index, q, queue, 2, 4)


def test_the_nearest_goes_first(rng, late):
    """Out of a queue, and out of the pool: what a deadline leaves is the least likely."""
    index, Q = make(rng, n=600)
    for q in Q:
        held = late(scored_by(index))
        stream = functools.partial(index.stream, ef=80)
        search = StreamSearch(stream, held, n_lanes=1, k_pool=80, queue=9, step=3, deadline=60.0)
        got = search.search(q, 10)
        first, *others = (ids for _, ids in held.asked)
        asked = [i for ids in others for i in ids]
        pool = got.pool[0].tolist()
        assert asked == [i for i in pool if i not in first]
        assert max(len(ids) for ids in others) == 3
        assert got.complete[0]


@pytest.fixture
def no_threads_left():
    before = threading.enumerate()
    yield
    gc.collect()
    for thread in threading.enumerate():
        if thread not in before:
            thread.join(20)
            assert not thread.is_alive()


@pytest.mark.parametrize("fault", ["raises", "shape", "nan", "text", "submit"])
def test_an_error_of_a_scorer_is_raised(rng, no_threads_left, fault):
    index, Q = make(rng)
    release = threading.Event()

    def one(query, ids):
        if len(calls) > 5:
            if fault == "raises":
                raise RuntimeError("no more")
            return {"shape": np.zeros(len(ids) + 1), "nan": ids * np.nan, "text": ["?"] * len(ids)}[
                fault
            ]
        calls.append(ids)
        return ids * 1.0

    class Failing(Threads):
        def submit(self, lane, queries, ids):
            calls.append(ids)
            if fault == "submit" and len(calls) > 3:
                raise RuntimeError("no more")
            return super().submit(lane, queries, ids)

    calls = []
    error = {"raises": RuntimeError, "submit": RuntimeError, "text": TypeError}.get(
        fault, ValueError
    )
    words = "no more" if error is RuntimeError else "^scorer: expected"
    scorer = Failing(lambda query, ids: ids * 1.0) if fault == "submit" else one
    for _ in range(2):
        calls.clear()
        with (
            StreamSearch(index, scorer, k_pool=60, step=1, deadline=60.0) as search,
            pytest.raises(error, match=words),
        ):
            search.search(Q[:1])
    release.set()
    calls.clear()
    assert StreamSearch(index, lambda query, ids: ids * 1.0).search(Q).complete.all()


def test_a_lane_that_never_answers_is_not_waited_for(rng, no_threads_left):
    index, Q = make(rng)
    release = threading.Event()

    def stuck(query, ids):
        if lane_of(query, ids) == 2:
            release.wait(60)
        return scored_by(index)(query[np.newaxis], ids[np.newaxis])[0]

    def lane_of(query, ids):
        return index.stream(query, 1, n_lanes=4).owners.of(ids)[0]

    with StreamSearch(index, stuck, k_pool=50, step=2) as search:
        got = search.search(Q[:2], 10, deadline=1.0)
        mine = got.pool_lanes == 2
        assert (got.pool_scored == ~mine).all()
        assert not got.complete.any()
        assert (got.coverage == (~mine).mean(axis=1)).all()
        for q in range(2):
            left = got.pool[q][~mine[q]]
            assert got.ids[q].tolist() == left[:10].tolist()
        release.set()
        assert search.search(Q[:2], 10).complete.all()


def test_what_comes_late_is_called_off(rng):
    index, Q = make(rng)
    held = Late(scored_by(index))
    search = StreamSearch(index, held, k_pool=30, step=1, deadline=0.05)
    got = search.search(Q[0], 3)
    assert got.early[0] > 0
    assert got.scored[0] == 0
    assert (got.ids == -1).all()
    assert all(future.cancelled() for future, _, _ in held.held)


def test_what_comes_late_does_not_count(rng):
    """Not even if it comes when it is called off."""
    index, Q = make(rng)

    class Stubborn(Future):
        def cancel(self):
            self.set_result(np.zeros((1, self.width)))
            return False

    class Executor(AtOnce):
        def submit(self, lane, queries, ids):
            future = Stubborn()
            future.width = ids.shape[1]
            return future

    got = StreamSearch(index, Executor(None), k_pool=30, deadline=0.05).search(Q[0], 3)
    assert got.early[0] > 0
    assert got.scored[0] == got.pool_scored.sum() == 0
    assert (got.ids == -1).all()


def test_nothing_is_asked_after_the_search(rng, no_threads_left):
    """An executor that is closed then stays so: whoever is just asking it is waited for."""
    index, Q = make(rng)
    entered, closed, asked_after = threading.Event(), threading.Event(), []

    class Slow(Threads):
        def submit(self, lane, queries, ids):
            if threading.current_thread() is not threading.main_thread():
                entered.set()
                time.sleep(0.2)
                asked_after.append(closed.is_set())
            return super().submit(lane, queries, ids)

    def one(query, ids):
        if index.stream(query, 1, n_lanes=2).owners.of(ids)[0] == 1:
            entered.wait(60)
            raise RuntimeError("no more")
        return ids * 1.0

    executor = Slow(one)
    search = StreamSearch(index, executor, n_lanes=2, step=1, k_pool=60, deadline=60.0)
    with pytest.raises(RuntimeError, match="no more"):
        search.search(Q[0])
    closed.set()
    search.close()
    time.sleep(0.25)
    assert asked_after == [False]


def test_no_time_at_all(rng, no_threads_left):
    index, Q = make(rng)
    with StreamSearch(index, scored_by_one(index), k_pool=20) as search:
        got = search.search(Q, 3, deadline=0.0)
        assert (got.ids == -1).all()
        assert (got.scored == 0).all()
        assert not got.complete.any()
        assert np.isnan(got.time_to_first_score).all()
        assert (got.coverage < 1).all()
        assert search.search(Q, 3, deadline=np.inf).complete.all()


def scored_by_one(index):
    score = scored_by(index)
    return lambda query, ids: score(query[np.newaxis], ids[np.newaxis])[0]


def test_a_short_time_cuts_the_walk(rng):
    """Then the pool is what was found so far."""
    index, Q = make(rng)

    def slow(*arguments, **named):
        stream = index.stream(*arguments, ef=300, **named)
        advance = stream.advance

        def advanced(n):
            time.sleep(0.02)
            return advance(n)

        stream.advance = advanced
        return stream

    search = StreamSearch(slow, AtOnce(scored_by(index)), k_pool=200, deadline=0.05)
    got = search.search(Q[0], 5)
    assert not got.complete[0]
    assert 0 < got.stats["expanded"][0] <= sum(index.stream(Q[0], 1).pace[:3])
    assert (got.pool[0] >= 0).sum() < 200
    assert got.ids[0, 0] >= 0


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs an alarm of the system")
def test_ctrl_c_ends_it(rng, no_threads_left):
    index, Q = make(rng)
    release = threading.Event()

    def stuck(query, ids):
        release.wait(60)
        return ids * 1.0

    def alarm(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, alarm)
    try:
        with StreamSearch(index, stuck) as search:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(KeyboardInterrupt):
                search.search(Q)
            release.set()
            assert search.search(Q).complete.all()
    finally:
        signal.signal(signal.SIGALRM, before)
        release.set()


def test_a_payload_goes_to_the_scorer(rng):
    index, Q = make(rng)
    texts = [f"query {i}" for i in range(len(Q))]
    seen = set()

    def one(query, ids):
        seen.add(query)
        return ids * (1.0 if query.endswith("3") else -1.0)

    with StreamSearch(index, one, k_pool=20) as search:
        got = search.search(Q, 4, payload=texts)
        assert seen == set(texts)
        for i, pool in enumerate(np.sort(got.pool, axis=1)):
            assert got.ids[i].tolist() == (pool[:4] if i == 3 else pool[::-1][:4]).tolist()
        with pytest.raises(ValueError, match=r"^payload: expected 8"):
            search.search(Q, payload=texts[:2])


def test_nobody_asks(rng):
    index, Q = make(rng)
    with StreamSearch(index, scored_by_one(index), k_pool=20, key=7) as search:
        none = search.search(Q[:0], 3)
        assert none.ids.shape == none.distances.shape == (0, 3)
        assert none.pool.shape == (0, 20)
        assert none.coverage.shape == none.waste.shape == (0,)
        assert search.search(Q[0], 0).ids.shape == (1, 0)
        more = search.search(Q[0], 30)
        assert (more.ids[0] >= 0).sum() == 20
        assert_same_bytes(
            more.pool_lanes[0], index.stream(Q[0], 1, n_lanes=4, key=7).owners.of(more.pool[0])
        )
        assert repr(search) == "StreamSearch(n_lanes=4, k_pool=20, queue=16)"
    empty = lw.HNSW._made(
        cases.nearest_graph(np.empty((0, 15), np.float32)), "f32", None, None, None
    )
    got = StreamSearch(empty, scored_by_one(index)).search(Q, 2)
    assert (got.ids == -1).all()
    assert got.complete.all()
    assert (got.waste == 0).all()


SEARCH = [
    ({"index": 3}, TypeError, "index"),
    ({"scorer": 3}, TypeError, "scorer"),
    ({"n_lanes": 0}, ValueError, "n_lanes"),
    ({"k_pool": 0}, ValueError, "k_pool"),
    ({"queue": 0}, ValueError, "queue"),
    ({"k_lane": 0}, ValueError, "k_lane"),
    ({"alpha": 1.1}, ValueError, "alpha"),
    ({"head": -1}, ValueError, "head"),
    ({"early": "never"}, ValueError, "early"),
    ({"step": 0}, ValueError, "step"),
    ({"key": b"short"}, ValueError, "key"),
    ({"deadline": -1}, ValueError, "deadline"),
]


@pytest.mark.parametrize(("options", "error", "name"), SEARCH)
def test_wrong_searches_are_named(rng, options, error, name):
    index, Q = make(rng, n=60)
    with pytest.raises(error, match=f"^{name}: "):
        StreamSearch(**{"index": index, "scorer": lambda q, ids: ids, **options})
    search = StreamSearch(lambda *_, **__: [1, 2], lambda q, ids: ids)
    with pytest.raises(TypeError, match=r"^index: expected a CandidateStream"):
        search.search(Q)
    for wrong, words in ((Q[:, :5], "queries"), (Q * np.nan, "queries")):
        with pytest.raises(ValueError, match=f"^{words}: "):
            StreamSearch(index, lambda q, ids: ids).search(wrong)
