"""Streams: what a search hands out on its way."""

import gc
import heapq
import threading

import cases
import numpy as np
import pytest
from cases import assert_same_bytes

import lanewise as lw
from lanewise import _native
from lanewise.graph import NO_LINK, GraphArrays
from lanewise.lanes import plan, query_keys

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
                options = {**options, "rerank": 40}
            expected = [index.search(q, k, ef=ef, **options) for q in Q]
            for sizes in ((1,), (3, 1, 64), (4000,)):
                for q, wanted in zip(Q, expected, strict=True):
                    found, pool = drained(index.stream(q, k, ef=ef, **options), sizes)
                    assert_same_search(pool, wanted)
                    ids = np.concatenate([f.ids for f in found]).tolist()
                    assert len(set(ids)) == len(ids)
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
    stream = _native.GraphStream(
        native, cases.BEST, np.zeros(1, np.float32), None, 0.0, 5, n, n, None
    )
    out = np.empty(n, dtype=np.float32), np.empty(n, dtype=np.int64)
    thread = threading.Thread(target=stream.advance, args=(n, *out))
    thread.start()
    refused = 0
    while thread.is_alive():
        try:
            stream.bound()
        except ValueError:
            refused += 1
    thread.join()
    assert refused > 0
    assert out[1].tolist() == list(range(n))
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
