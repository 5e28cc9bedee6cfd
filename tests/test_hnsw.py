"""HNSW: what the graph gives, with our conventions for distances, ties and what is missing."""

import contextlib
import pickle
import struct
import sys
import threading
from dataclasses import replace

import cases
import numpy as np
import pytest
from cases import assert_same_bytes

import lanewise as lw
from lanewise import _native, oracle
from lanewise.canonical import normalized
from lanewise.graph import NO_LINK, GraphCodes
from lanewise.io import FileFormatError

hnswlib = pytest.importorskip("hnswlib")

METRICS = ("l2", "ip", "cosine")
STORAGES = ("f32", "sq8", "sq4", "adsampling")
every_metric = pytest.mark.parametrize("metric", METRICS)


def whole_numbers(rng, n, dim=6):
    """Small ones, so that every distance is exact in float32, and many are equal."""
    return cases.integers(rng, (n, dim), 3)


def raw_index(X, metric, labels=None, max_elements=None):
    index = hnswlib.Index(space=metric, dim=X.shape[1])
    index.init_index(max_elements=max_elements or len(X), M=8, ef_construction=60, random_seed=7)
    if len(X) > 0:
        index.add_items(X, np.arange(len(X)) if labels is None else labels, num_threads=1)
    return index


def in_order(labels, distances):
    """The same candidates by (distance, id)."""
    order = np.lexsort((labels, distances), axis=1)
    return np.take_along_axis(distances, order, 1), np.take_along_axis(labels, order, 1)


def canonical(index, Q, ids):
    """Distances of the index's rows, as `Flat.score` computes them; inf where the id is -1."""
    scored = np.empty(ids.shape, dtype=np.float32)
    rows = np.searchsorted(index.ids, ids, sorter=np.argsort(index.ids))
    rows = np.where(ids < 0, -1, np.argsort(index.ids)[np.minimum(rows, len(index) - 1)])
    Q = np.ascontiguousarray(Q, dtype=np.float32)
    Q = normalized(Q) if index.metric == "cosine" else Q
    rows_of = np.ascontiguousarray(index.rows)
    _native.score_lists(cases.SCALAR, index.metric, Q, rows_of, rows, scored, 1)
    return scored


@pytest.mark.skipif(sys.platform != "linux", reason="ties are up to the C++ library, GNU's here")
@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_gives_what_the_graph_gives(rng, metric, k):
    """Where distances are exact, hnswlib's answer to the last tie."""
    X, Q = whole_numbers(rng, 300), whole_numbers(rng, 8)
    raw = raw_index(X, metric)
    raw.set_ef(50)
    labels, distances = raw.knn_query(Q, k=k, num_threads=1)
    expected = in_order(labels.astype(np.int64), distances)
    for n_threads in (1, 2):
        got = lw.HNSW(raw).search(Q, k, ef=50, n_threads=n_threads)
        assert_same_bytes(got.ids, expected[1])
        offset = np.float32(1 if metric == "ip" else 0)
        assert_same_bytes(got.distances + offset, expected[0])
        assert (np.diff(got.distances, axis=1) >= 0).all()
        assert_same_bytes(lw.HNSW(raw).pool(Q, k, ef=50), got.ids)
    ties = got.distances[:, 1:] == got.distances[:, :-1]
    assert ties.any() or k < 40, "ties must be among the cases"
    assert (got.ids[:, 1:][ties] > got.ids[:, :-1][ties]).all()


@every_metric
@pytest.mark.parametrize("dim", [5, 16, 40, 100])
def test_finds_what_hnswlib_finds(rng, metric, dim):
    """Where no two distances come near each other; its roundings are others than ours."""
    X = rng.standard_normal((400, dim), dtype=np.float32)
    Q = rng.standard_normal((20, dim), dtype=np.float32)
    raw = raw_index(X, metric)
    gone = rng.permutation(400)[:60]
    for turn in range(2):
        index = lw.HNSW(raw)
        raw.set_ef(30)
        labels, _ = raw.knn_query(Q, k=10, num_threads=1)
        got = index.search(Q, 10, ef=30)
        assert_same_bytes(got.ids, labels.astype(np.int64))
        assert_same_bytes(got.distances, canonical(index, Q, got.ids))
        allowed = np.flatnonzero(np.arange(400) % 3 > 0)
        labels, _ = raw.knn_query(Q, k=10, num_threads=1, filter=lambda i: i % 3 > 0)
        mask = np.isin(np.arange(400), allowed)
        for form in (allowed, mask, np.packbits(mask, bitorder="little"), mask.tolist()):
            found = index.search(Q, 10, ef=30, filter=form).ids
            assert_same_bytes(found, labels.astype(np.int64))
        if turn == 0:
            for label in gone:
                raw.mark_deleted(label)
    assert not np.isin(got.ids, gone).any()


@every_metric
@pytest.mark.parametrize(
    ("storage", "eps0"),
    [("f32", None), ("sq8", None), ("sq4", None), *(("adsampling", e) for e in (0, 1, np.inf))],
)
def test_walks_as_the_paper_has_it(rng, metric, storage, eps0):
    """Same ids and same work as the oracle, on the distances that steer."""
    dim = 70 if storage == "adsampling" else 20
    X = rng.standard_normal((300, dim), dtype=np.float32)
    Q = rng.standard_normal((6, dim), dtype=np.float32)
    rows = lw.Flat(dim, metric).add(X).rows
    graph = cases.nearest_graph(rows, metric)
    index = lw.HNSW._made(graph, storage, None, None, None)
    links = cases.links_of(graph)
    some = np.arange(0, 300, 4)
    units = lw.Flat(dim, metric).add(Q).rows
    n_left = 0
    for ef in (1, 7, 40):
        k = min(ef, 10)
        for allowed in (None, some):
            got = index.search(Q, k, ef=ef, filter=allowed, eps0=eps0)
            assert_same_bytes(got.distances, canonical(index, Q, got.ids))
            for q, query in enumerate(units):
                steer = steered(index, query)
                left = Sampled(index, query, eps0) if storage == "adsampling" else None
                found, stats = oracle.graph_search(
                    links,
                    graph.enter,
                    steer,
                    k if storage == "f32" else ef,
                    ef,
                    allowed,
                    **({} if left is None else {"left": left}),
                )
                n_left += 0 if left is None else left.wrongly
                exact = canonical(index, Q[q : q + 1], np.array([found]))[0]
                order = np.lexsort((found, exact))[:k]
                ids = np.full(k, -1)
                ids[: len(order)] = np.array(found)[order]
                assert got.ids[q].tolist() == ids.tolist()
                assert {name: int(got.stats[name][q]) for name in stats} == stats
    assert (n_left > 0) == (storage == "adsampling" and eps0 < np.inf)


class Sampled:
    """Which elements ADSampling gives up, and how many of them wrongly."""

    def __init__(self, index, query, eps0):
        steering = index._snapshot.steering
        rows = steering.rows.astype(np.float64)
        dim = rows.shape[1]
        z = np.zeros((1, dim), dtype=np.float32)
        z[0, : len(query)] = query
        z = steering.rotation.transform(z)[0].astype(np.float64)
        self.norms = 0 if index.metric == "l2" else (z @ z) + (rows**2).sum(axis=1)
        self.ends = np.array([*range(32, dim, 32), dim])
        self.partial = np.cumsum((rows - z) ** 2, axis=1)[:, self.ends - 1]
        shares = self.ends / dim * (1 + eps0 / np.sqrt(self.ends)) ** 2
        # What is beyond the whole bound is beyond.
        self.factors = np.where(self.ends == dim, 1.0, np.minimum(shares, 1.0))
        self.wrongly = 0

    def __call__(self, element, bound):
        if np.ndim(self.norms) > 0:
            bound = 2 * bound + self.norms[element]
        left = (self.partial[element] > bound * self.factors).any()
        self.wrongly += left and self.partial[element, -1] < bound
        return left


def steered(index, query):
    """Distances that steer a search: of the rows, or of what codes say of them."""
    snapshot = index._snapshot
    rows = snapshot.graph.rows.astype(np.float64)
    codes = snapshot.steering
    z = np.zeros(rows.shape[1])
    z[: len(query)] = query
    if codes is None or index.storage == "adsampling":
        return ((rows - z) ** 2).sum(axis=1) if index.metric == "l2" else -(rows @ z)
    table = decoded(codes, rows.shape)
    if index.metric == "l2":
        z -= codes.center
    z *= codes.step
    fine = np.rint(z / np.abs(z).max() * 127)
    products = (table.astype(np.int64) @ fine.astype(np.int64)).astype(np.float32)
    weight = np.float32((2 if index.metric == "l2" else 1) * np.abs(z).max() / 127)
    return codes.base - weight * products


def decoded(codes, shape):
    """Codes as numbers, shape (n, dim)."""
    table = codes.codes[:-64].reshape(shape[0], -1)
    if codes.bits == 8:
        return table[:, : shape[1]]
    stretches = table.view(np.uint8).reshape(shape[0], -1, 1, 64)
    halves = np.concatenate((stretches & 15, stretches >> 4), axis=2)
    return halves.reshape(shape[0], -1)[:, : shape[1]].astype(np.int8) - 8


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("kind", cases.DATA)
def test_codes_are_near_their_rows(rng, bits, kind):
    X = cases.DATA[kind](rng, (200, 20))
    codes = GraphCodes.made(X, bits, False, lambda *step: None)
    table = decoded(codes, X.shape)
    low, high = (-127, 127) if bits == 8 else (-8, 7)
    assert table.min() >= low
    assert table.max() <= high
    step, center = codes.step.astype(np.float64), codes.center.astype(np.float64)
    error = np.abs(center + step * table - X)
    steps = (X - center) / np.where(step > 0, step, 1)
    inside = (steps >= low - 0.5) & (steps <= high + 0.5)
    # Half a step, and what center and the difference are rounded by.
    most = 0.5 * step + 2.0**-22 * (np.abs(center) + np.abs(X)) + np.finfo(np.float32).tiny
    assert (error <= most)[inside].all()
    assert inside.mean() >= (0.99 if bits == 8 else 0.95)
    norms = ((step * table) ** 2).sum(axis=1)
    bound = 4 * oracle.gamma(4) * norms + 20 * 2.0**-149
    assert (np.abs(codes.base - norms) <= bound).all()


@pytest.mark.parametrize("storage", ["sq8", "sq4"])
@every_metric
def test_codes_find_nearly_the_same(rng, metric, storage):
    X = rng.standard_normal((1000, 24), dtype=np.float32)
    raw = raw_index(X, metric)
    floats, coded = lw.HNSW(raw), lw.HNSW(raw, storage=storage)
    Q = rng.standard_normal((40, 24), dtype=np.float32)
    expected, got = floats.search(Q, 10, ef=100), coded.search(Q, 10, ef=100)
    shared = np.mean(
        [len(np.intersect1d(*pair)) for pair in zip(expected.ids, got.ids, strict=True)]
    )
    assert shared >= 9.8
    assert (got.stats["settled"] == 100).all()
    few = coded.search(Q, 10, ef=100, rerank=10)
    assert (few.stats["settled"] == 10).all()
    assert_same_bytes(few.distances, canonical(coded, Q, few.ids))
    wide = coded.search(Q, 10, ef=100, rerank=5000)
    assert_same_bytes(wide.ids, got.ids)


@every_metric
def test_adsampling_finds_nearly_the_same(rng, metric):
    X = rng.standard_normal((1500, 100), dtype=np.float32)
    Q = rng.standard_normal((60, 100), dtype=np.float32)
    raw = raw_index(X, metric)
    for label in range(0, 1500, 7):
        raw.mark_deleted(label)
    floats, sampled = lw.HNSW(raw), lw.HNSW(raw, storage="adsampling")
    for filter in (None, np.arange(1500) % 3 > 0):
        options = {"ef": 100, "filter": filter}
        expected = floats.search(Q, 10, **options)
        whole = sampled.search(Q, 10, eps0=np.inf, **options)
        assert_same_bytes(tuple(whole), tuple(expected))
        assert (whole.stats["settled"] == 100).all()
        for name in ("hops", "expanded", "distances"):
            assert_same_bytes(whole.stats[name], expected.stats[name])
        few = sampled.search(Q, 10, eps0=np.inf, rerank=10, **options)
        assert_same_bytes(few.ids, expected.ids)
        shared = {}
        for eps0 in (None, 2.1, 0):
            got = sampled.search(Q, 10, eps0=eps0, **options)
            assert_same_bytes(got.distances, canonical(sampled, Q, got.ids))
            pairs = zip(expected.ids, got.ids, strict=True)
            shared[eps0] = np.mean([len(np.intersect1d(*pair)) for pair in pairs])
        assert shared[None] == shared[2.1] >= 9.9
        assert shared[0] < shared[2.1]


@every_metric
def test_adsampling_answers_alike_everywhere(rng, metric):
    X, Q = (rng.standard_normal((n, 90), dtype=np.float32) for n in (400, 9))
    graph = cases.nearest_graph(lw.Flat(90, metric).add(X).rows, metric)
    expected = None
    for name in cases.RUNNABLE:
        index = lw.HNSW._made(graph, "adsampling", None, name, None)
        for n_threads in (1, 3):
            got = index.search(Q, 10, ef=20, eps0=0.5, n_threads=n_threads)
            answers = (*got, *got.stats.values())
            expected = answers if expected is None else expected
            assert_same_bytes(answers, expected, name, n_threads)


def test_the_dial_is_for_adsampling_alone(rng):
    Q = np.zeros(15)
    for storage in ("f32", "sq8", "sq4"):
        index = graph_of(rng, storage=storage)
        for call in (index.search, index.pool):
            with pytest.raises(ValueError, match=f"^eps0: is for .*, not '{storage}'"):
                call(Q, 3, eps0=2.1)
        with pytest.raises(ValueError, match=r"^eps0: is for"):
            index.collect(Q, 3, lane=0, n_lanes=2, eps0=2.1)
        with pytest.raises(ValueError, match=r"^eps0: is for"):
            index.stream(Q, 3, eps0=2.1)
    index = graph_of(rng, storage="adsampling")
    for wrong in (-1, np.nan, -np.inf):
        with pytest.raises(ValueError, match=r"^eps0: "):
            index.search(Q, eps0=wrong)
    with pytest.raises(TypeError, match=r"^eps0: "):
        index.search(Q, eps0="much")


@every_metric
def test_rotated_rows_that_do_not_fit_are_refused(rng, metric):
    index = graph_of(rng, metric, "adsampling")
    header, arrays = index._parts()

    def restored(**changed):
        parts = {**arrays, **{f"rotated.{name}": a for name, a in changed.items()}}
        parts = {name: a for name, a in parts.items() if a is not None}
        return lw.HNSW._restored(header, parts, True, None, None)

    restored()
    rows, norms = arrays["rotated.rows"], arrays.get("rotated.norms")
    nan, endless, long = (rows.copy() for _ in range(3))
    nan[3, 2], endless[0, 0], long[-1, -1] = np.nan, np.inf, 1e19
    for wrong in (nan, endless, long, rows[1:], rows[:, 1:], rows.astype(np.float64), rows[0]):
        with pytest.raises(ValueError, match=r"^rotated rows: "):
            restored(rows=wrong)
    other = np.zeros(200, dtype=np.float32) if norms is None else None
    for wrong in (other, *([] if norms is None else [norms[1:], norms + 1, norms[:, None]])):
        with pytest.raises(ValueError, match=r"^rotated norms: "):
            restored(norms=wrong)
    with pytest.raises(KeyError):
        restored(rows=None)
    native = index._snapshot.graph.native()
    for call in (
        lambda: native.steer_rotated(rows[1:], norms),
        lambda: native.steer_rotated(rows, other),
        lambda: index._snapshot.steering.steer(index._snapshot.native),
    ):
        with pytest.raises(ValueError, match=r"^native call: graph rotated"):
            call()


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_distances_are_those_of_every_other_index(rng, metric):
    X, Q = whole_numbers(rng, 200), whole_numbers(rng, 8)
    distances, ids = lw.HNSW(raw_index(X, metric)).search(Q, 10, ef=60)
    assert_same_bytes(distances, lw.Flat(6, metric).add(X).score(Q, ids))


def test_the_cosine_is_one_minus_itself(rng):
    X = rng.standard_normal((200, 12), dtype=np.float32)
    X[5] = 0
    Q = np.concatenate([rng.standard_normal((7, 12), dtype=np.float32), np.zeros((1, 12))])
    distances, ids = lw.HNSW(raw_index(X, "cosine")).search(Q, 20, ef=100)
    exact, order = oracle.search(X, Q, 200, "cosine")
    table = np.empty_like(exact)
    np.put_along_axis(table, order, exact, axis=1)
    # float32 throughout, in any order of addition: 12 roundings in a norm's square, half of them
    # and five more in each coordinate, of both vectors, 13 in the product, one in the difference.
    error = oracle.gamma(2 * (6 + 5) + 13) + oracle.gamma(1) * 2
    assert (np.abs(distances - np.take_along_axis(table, ids, 1)) <= error).all()
    assert (distances[-1] == 1).all()


def test_labels_are_the_ids(rng):
    X = whole_numbers(rng, 50)
    labels = rng.permutation(10**12 + np.arange(50) * 97)
    got = lw.HNSW(raw_index(X, "l2", labels)).search(X, 3, ef=50)
    plain = lw.HNSW(raw_index(X, "l2")).search(X, 3, ef=50)
    assert got.ids.dtype == np.int64
    assert set(got.ids.ravel().tolist()) <= set(labels.tolist())
    assert_same_bytes(got.distances, plain.distances)


@pytest.mark.parametrize("k", [4, 6, 17, 100])
def test_what_the_graph_cannot_give_is_filled_up(rng, k):
    """Deleted elements count in hnswlib, but are not found: it raises, we pad."""
    X = whole_numbers(rng, 40)
    raw = raw_index(X, "l2")
    for label in range(34):
        raw.mark_deleted(label)
    for Q in (X[:1], X[:5], X[0]):
        distances, ids = lw.HNSW(raw).search(Q, k, ef=100)
        n = min(k, 6)
        rows = ids.tolist()
        assert ids.shape == distances.shape == (1 if Q.ndim == 1 else len(Q), k)
        assert all(len(set(row[:n])) == n and min(row[:n]) >= 34 for row in rows)
        assert (ids[:, n:] == -1).all()
        assert (distances[:, n:] == np.inf).all()
        exact = lw.Flat(6).add(X).score(Q, ids[:, :n])
        assert_same_bytes(distances[:, :n], exact)
    for label in range(34, 40):
        raw.mark_deleted(label)
    distances, ids = lw.HNSW(raw).search(X[:3], k)
    assert (ids == -1).all()
    assert (distances == np.inf).all()


def test_more_than_there_are(rng):
    X = whole_numbers(rng, 5)
    distances, ids = lw.HNSW(raw_index(X, "ip")).search(X[:2], 9)
    assert (np.sort(ids[:, :5]) == np.arange(5)).all()
    assert (ids[:, 5:] == -1).all()
    assert (distances[:, 5:] == np.inf).all()


def test_nothing_to_find_and_nobody_asking(rng):
    empty = lw.HNSW(raw_index(np.empty((0, 6), np.float32), "l2", max_elements=10))
    assert len(empty) == 0
    distances, ids = empty.search(np.zeros((2, 6)), 3)
    assert ids.tolist() == [[-1] * 3] * 2
    assert (distances == np.inf).all()
    full = lw.HNSW(raw_index(whole_numbers(rng, 9), "l2"))
    assert full.search(np.empty((0, 6)), 3).ids.shape == (0, 3)
    assert full.search(np.zeros((2, 6)), 0).distances.shape == (2, 0)
    assert full.search(np.zeros(6), 2).ids.shape == (1, 2)


def test_elements_added_later_are_found(rng):
    X = whole_numbers(rng, 60)
    raw = raw_index(X[:30], "l2", max_elements=60)
    index = lw.HNSW(raw)
    assert len(index) == 30
    raw.add_items(X[30:], np.arange(30, 60), num_threads=1)
    assert len(index) == 30
    assert index.refresh(raw) is index
    assert len(index) == 60
    assert index.search(X[:1], 60, ef=60).ids.max() >= 30


@every_metric
def test_build_is_hnswlib_with_one_thread(rng, metric):
    """A graph so poor that every setting shows."""
    X = rng.standard_normal((1203, 16), dtype=np.float32)
    Q = rng.standard_normal((20, 16), dtype=np.float32)
    options = {"M": 3, "ef_construction": 5, "seed": 7}
    raw = hnswlib.Index(space=metric, dim=16)
    raw.init_index(max_elements=1203, M=3, ef_construction=5, random_seed=7)
    raw.add_items(X, np.arange(1203), num_threads=1)
    expected = tuple(lw.HNSW(raw).search(Q, 5))
    added = []
    index = lw.HNSW.build(X, metric, progress=lambda *step: added.append(step), **options)
    assert added == [("building", n, 1203) for n in (0, 1000, 1203)]
    assert (len(index), index.dim, index.metric) == (1203, 16, metric)
    assert repr(index) == f"HNSW(dim=16, metric={metric!r}, n=1203)"
    assert_same_bytes(tuple(index.search(Q, 5)), expected)
    again = lw.HNSW.build(X.astype(np.float64), metric, **options)
    assert_same_bytes(tuple(again.search(Q, 5)), expected)
    for changed in ({"M": 4}, {"ef_construction": 9}, {"seed": 8}):
        other = lw.HNSW.build(X, metric, **{**options, **changed})
        assert not np.array_equal(other.search(Q, 5).ids, expected[1]), changed


def test_the_width_of_a_search_is_its_own(rng):
    """A wide search must leave no trace in the narrow one behind it, nor one at the same time."""
    X = rng.standard_normal((2000, 16), dtype=np.float32)
    index = lw.HNSW.build(X, M=4, ef_construction=20)
    Q = X[:20] + np.float32(0.5)
    narrow, wide = (tuple(index.search(Q, 5, ef=ef)) for ef in (5, 400))
    assert not np.array_equal(narrow[1], wide[1])
    assert_same_bytes(tuple(index.search(Q, 5, ef=1)), narrow)
    # By default it is the index's own, which nothing here changes, but never less than k.
    index.ef = 400
    assert_same_bytes(tuple(index.search(Q, 5, ef=5)), narrow)
    assert_same_bytes(tuple(index.search(Q, 5)), wide)
    index.ef = 1
    assert_same_bytes(tuple(index.search(Q, 5)), narrow)
    assert_same_bytes(tuple(index.search(Q, 5, ef=400)), wide)
    assert index.ef == 1
    wrong = []

    def search(ef, expected):
        for _ in range(20):
            if index.search(Q, 5, ef=ef).ids.tobytes() != expected[1].tobytes():
                wrong.append(ef)

    threads = [
        threading.Thread(target=search, args=args) for args in ((5, narrow), (400, wide)) * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("between", [254, 255, 256, 600])
def test_a_search_does_not_know_how_many_there_were_before(rng, between):
    """Who was visited is told by a number of one byte, which comes round."""
    X = np.arange(400, dtype=np.float32)[:, np.newaxis]
    index = lw.HNSW._made(cases.nearest_graph(X), "f32", None, None, None)
    Q = np.concatenate((X[399:], np.repeat(X[:1], between, axis=0), X[399:]))
    ids = index.search(Q, 3, ef=10, n_threads=1).ids
    assert ids[0].tolist() == ids[-1].tolist() == [399, 398, 397]
    assert (ids[1:-1] == [0, 1, 2]).all()


@every_metric
def test_pickles_answer_the_same(rng, metric):
    X = whole_numbers(rng, 80)
    index = lw.HNSW(raw_index(X, metric))
    twin = pickle.loads(pickle.dumps(index))
    assert (len(twin), twin.dim, twin.metric) == (80, 6, metric)
    assert_same_bytes(tuple(twin.search(X, 4, ef=20)), tuple(index.search(X, 4, ef=20)))


# -------------------------------------------------------------------------------------- refusals


def test_what_is_no_graph_is_refused(rng):
    for wrong in (None, 3, whole_numbers(rng, 3), lw.Flat(3)):
        with pytest.raises(TypeError, match=r"^index: expected an hnswlib.Index, got"):
            lw.HNSW(wrong)


QUERIES = [
    (np.ones((2, 5)), ValueError, "dimension 6, got 5"),
    (np.full((2, 6), np.nan), ValueError, "finite"),
    (np.full((2, 6), 1e19), ValueError, "no longer than"),
    (np.ones((2, 6), dtype=int), TypeError, "int64"),
    (np.ones((1, 2, 6)), ValueError, "2-D"),
]


@pytest.mark.parametrize(("queries", "error", "words"), QUERIES)
def test_wrong_queries_are_named(rng, queries, error, words):
    index = lw.HNSW(raw_index(whole_numbers(rng, 9), "l2"))
    with pytest.raises(error, match=f"^queries: .*{words}"):
        index.search(queries, 3)


@pytest.mark.parametrize("name", ["k", "ef", "n_threads"])
def test_wrong_options_are_named(rng, name):
    index = lw.HNSW(raw_index(whole_numbers(rng, 9), "l2"))
    with pytest.raises(ValueError, match=f"^{name}: "):
        index.search(np.zeros(6), **{name: -1})
    with pytest.raises(TypeError, match=f"^{name}: "):
        index.search(np.zeros(6), **{name: 1.5})


BUILD = [
    ({"X": np.empty((0, 3))}, ValueError, "X"),
    ({"X": np.full((2, 3), np.inf)}, ValueError, "X"),
    ({"X": np.ones(3)}, ValueError, "X"),
    ({"metric": "dot"}, ValueError, "metric"),
    ({"M": 1}, ValueError, "M"),
    ({"ef_construction": 0}, ValueError, "ef_construction"),
    ({"seed": -1}, ValueError, "seed"),
    ({"n_threads": 0}, ValueError, "n_threads"),
]


@pytest.mark.parametrize(("options", "error", "name"), BUILD)
def test_wrong_building_is_named(options, error, name):
    with pytest.raises(error, match=f"^{name}: "):
        lw.HNSW.build(**{"X": np.eye(3), **options})


# ------------------------------------------------------------------------------- life of a graph


def same_answers(one, other, Q, **options):
    assert_same_bytes(tuple(one.search(Q, 7, ef=30, **options)), tuple(other.search(Q, 7, ef=30)))


def graph_of(rng, metric="l2", storage="f32", n=200, dim=15, labels=True):
    """One with every feature: labels, deleted elements, levels, padded rows."""
    X = rng.standard_normal((n, dim), dtype=np.float32)
    names = 5 + 3 * rng.permutation(n) if labels else None
    raw = raw_index(X, metric, names)
    for label in [] if names is None else names[:9]:
        raw.mark_deleted(label)
    return lw.HNSW(raw, storage=storage)


@every_metric
def test_hnswlib_gets_it_back(rng, metric, tmp_path):
    index = graph_of(rng, metric)
    Q = rng.standard_normal((20, 15), dtype=np.float32)
    expected = index.search(Q, 7, ef=30)
    path = tmp_path / "graph.bin"
    index.save_hnswlib(path)
    loaded = hnswlib.Index(metric, 15)
    loaded.load_index(str(path))
    for raw in (index.to_hnswlib(), index.to_hnswlib(max_elements=500), loaded):
        raw.set_ef(30)
        labels, _ = raw.knn_query(Q, k=7, num_threads=1)
        assert_same_bytes(labels.astype(np.int64), expected.ids)
        same_answers(lw.HNSW(raw), index, Q)
    back = lw.HNSW.load_hnswlib(path, metric, dim=15)
    same_answers(back, index, Q)
    again = tmp_path / "again.bin"
    back.save_hnswlib(again)
    assert path.read_bytes() == again.read_bytes()
    loaded.save_index(str(tmp_path / "theirs.bin"))
    same_answers(lw.HNSW.load_hnswlib(tmp_path / "theirs.bin", metric), index, Q)


@pytest.mark.parametrize("storage", STORAGES)
@every_metric
def test_saved_and_loaded_it_answers_the_same(rng, metric, storage, tmp_path):
    index = graph_of(rng, metric, storage)
    index.ef = 17
    Q = rng.standard_normal((20, 15), dtype=np.float32)
    path = tmp_path / "graph.lw"
    index.save(path)
    for options in ({}, {"mmap": True}, {"mmap": True, "verify": False}):
        twin = lw.HNSW.load(path, **options)
        assert (twin.ef, twin.storage, twin.metric, len(twin)) == (17, storage, metric, 200)
        assert isinstance(twin._snapshot.graph.rows, np.memmap) == ("mmap" in options)
        assert (twin.nbytes, twin.hot_bytes) == (index.nbytes, index.hot_bytes)
        same_answers(twin, index, Q)
        assert twin._snapshot.graph.rows.ctypes.data % 64 == 0
    same_answers(pickle.loads(pickle.dumps(index)), index, Q)
    empty = lw.HNSW(raw_index(np.empty((0, 6), np.float32), metric, max_elements=10))
    empty.save(path)
    assert len(lw.HNSW.load(path)) == len(pickle.loads(pickle.dumps(empty))) == 0
    empty.save_hnswlib(path)
    assert len(lw.HNSW.load_hnswlib(path, metric)) == 0


@pytest.mark.parametrize("storage", ["sq8", "adsampling"])
def test_what_is_added_is_found(rng, storage):
    X = rng.standard_normal((300, 8), dtype=np.float32)
    index = lw.HNSW.build(X[:100], M=5, ef_construction=50, storage=storage)
    assert index.add(X[100:200]) is index
    index.add(X[200:], np.arange(1000, 1100), progress=lambda *step: None)
    index.add(np.empty((0, 8)))
    assert index.ids.tolist() == [*range(200), *range(1000, 1100)]
    found = index.search(X, 1, ef=300)
    assert (found.ids[:, 0] == index.ids).all()
    twin = lw.HNSW.build(X[:100], M=5, ef_construction=50).add(X[100:200])
    twin.add(X[200:], np.arange(1000, 1100))
    assert_same_bytes(index._snapshot.graph.links, twin._snapshot.graph.links)
    for ids, words in (
        ([1000, 3000], "1000 is there twice or in"),
        ([7000, 7000], "7000"),
        ([1], "2"),
    ):
        with pytest.raises(ValueError, match=f"^ids: .*{words}"):
            index.add(X[:2], ids)
    assert len(index) == 300
    with pytest.raises(ValueError, match="largest"):
        lw.HNSW.build(X[:2]).add(X[:1], [2**63 - 1]).add(X[:1])
    raw = raw_index(X, "l2")
    assert lw.HNSW.from_hnswlib(raw, storage=storage).refresh(raw).ids.tolist() == list(range(300))
    with pytest.raises(ValueError, match=r"^index: expected metric 'ip', got 'l2'"):
        lw.HNSW(raw_index(X, "ip")).refresh(raw)


@pytest.mark.parametrize("storage", ["sq4", "adsampling"])
def test_an_empty_graph_grows(rng, storage):
    X = rng.standard_normal((40, 6), dtype=np.float32)
    empty = lw.HNSW(raw_index(X[:0], "l2", max_elements=1), storage=storage)
    assert (empty.search(X, 3).ids == -1).all()
    assert len(pickle.loads(pickle.dumps(empty))) == 0
    index = empty.add(X)
    assert (index.search(X, 1, ef=40).ids[:, 0] == np.arange(40)).all()


@pytest.mark.parametrize("storage", STORAGES[1:])
@pytest.mark.parametrize("kind", [*cases.DATA, "longest"])
def test_codes_bear_any_rows(rng, kind, storage, tmp_path):
    """Answers are ranked exactly whatever steers; all elements are reached at last."""
    make = cases.longest if kind == "longest" else cases.DATA[kind]
    X = np.abs(make(rng, (90, 40)))
    index = lw.HNSW._made(cases.nearest_graph(X), storage, None, None, None)
    distances, ids = index.search(X[:5], 5, ef=90)
    assert_same_bytes(distances, canonical(index, X[:5], ids))
    assert (ids >= 0).all()
    index.save(tmp_path / "graph.lw")
    same_answers(lw.HNSW.load(tmp_path / "graph.lw"), index, X[:5])


def test_rows_and_ids_are_views_of_no_harm(rng):
    index = graph_of(rng)
    with pytest.raises(ValueError, match="read-only"):
        index.rows[0, 0] = 1
    index.ids[0] = -7
    assert index.ids.min() >= 0
    assert index._snapshot.graph.rows.ctypes.data % 64 == 0


def test_search_needs_no_hnswlib(rng, monkeypatch):
    index = graph_of(rng, labels=False)
    Q = rng.standard_normal((3, 15), dtype=np.float32)
    expected = tuple(index.search(Q, 5))
    monkeypatch.setitem(sys.modules, "hnswlib", None)
    assert_same_bytes(tuple(index.search(Q, 5)), expected)
    for call in (index.to_hnswlib, lambda: index.add(Q), lambda: lw.HNSW.build(Q)):
        with pytest.raises(ImportError, match=r"needs hnswlib: pip install"):
            call()


# ------------------------------------------------------------------------------------- lanes


@pytest.mark.parametrize("storage", ["f32", "sq4", "adsampling"])
@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.0])
def test_a_lane_collects_what_it_owns(rng, storage, alpha):
    index = graph_of(rng, storage=storage)
    Q = rng.standard_normal((5, 15), dtype=np.float32)
    live = np.setdiff1d(index.ids, index.ids[index._snapshot.graph.deleted])
    for key in (None, 77):
        keys = lw.lanes.query_keys(Q) if key is None else key
        everything = np.tile(live, (5, 1))
        plan = lw.lanes.plan(
            everything, keys, n_lanes=3, k_lane=200, scheme="owner", alpha=1.0 if alpha else 0.0
        )
        for lane in range(3):
            pool = index.pool(Q, 20, ef=200, lane=lane, n_lanes=3, alpha=alpha, key=key)
            if alpha == 0.5:
                continue
            for q in range(5):
                owned = plan.ids[q, lane]
                owned = owned[owned >= 0]
                assert set(pool[q].tolist()) <= set(owned.tolist())
                best = index.search(Q[q], 20, ef=200, filter=owned).ids[0]
                assert pool[q].tolist() == best.tolist()
    shared = [index.pool(Q, 20, ef=60, lane=lane, n_lanes=3, alpha=alpha) for lane in range(3)]
    common = np.mean([len(np.intersect1d(a, b)) for a, b in zip(*shared[:2], strict=True)])
    assert (common == 0, common == 20) == (alpha == 1.0, alpha == 0.0)


def test_wrong_lanes_are_named(rng):
    index = graph_of(rng)
    for options, name in (
        ({"lane": 3, "n_lanes": 3}, "lane"),
        ({"lane": -1, "n_lanes": 3}, "lane"),
        ({"n_lanes": 3}, "lane"),
        ({"lane": 0, "n_lanes": 0}, "n_lanes"),
        ({"lane": 0, "n_lanes": 2, "alpha": 2}, "alpha"),
        ({"lane": 0, "n_lanes": 2, "key": b"short"}, "key"),
    ):
        with pytest.raises(ValueError, match=f"^{name}: "):
            index.pool(np.zeros(15), 3, **options)


# ---------------------------------------------------------------------------- hostile input


def test_wrong_filters_and_reranks_are_named(rng):
    index = graph_of(rng)
    for wrong in (np.ones(3, dtype=bool), np.ones(3, dtype=np.uint8), [4], [-1]):
        with pytest.raises(ValueError, match=r"^filter: "):
            index.search(np.zeros(15), filter=wrong)
    with pytest.raises(ValueError, match=r"^rerank: is for"):
        index.search(np.zeros(15), rerank=20)
    with pytest.raises(ValueError, match=r"^rerank: "):
        graph_of(rng, storage="sq8").search(np.zeros(15), rerank=9)
    with pytest.raises(ValueError, match=r"^storage: "):
        lw.HNSW(raw_index(whole_numbers(rng, 3), "l2"), storage="f16")
    with pytest.raises(ValueError, match=r"^index: expected an intact graph, expected an index"):
        lw.HNSW(hnswlib.Index("l2", 3))


def search_all(index):
    """Walk wherever a damaged graph leads."""
    Q = np.ones((3, index.dim), dtype=np.float32)
    for width in (1, 300):
        distances, ids = index.search(Q, 5, ef=width)
        assert not np.isnan(distances).any()
        assert np.isin(ids, [-1, *index.ids]).all()


def damaged(rng, data, n):
    """Yield copies of some bytes: cut, with more behind them, with bits flipped."""
    for end in rng.integers(0, len(data), n):
        yield data[:end]
    yield data + b"\0"
    front = np.concatenate((rng.integers(0, 96, n), rng.integers(0, len(data), 2 * n)))
    for at in front:
        flipped = bytearray(data)
        flipped[at] ^= 1 << rng.integers(8)
        yield bytes(flipped)
    for _ in range(n):
        at = rng.integers(0, len(data) - 8)
        yield data[:at] + rng.bytes(8) + data[at + 8 :]


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_a_damaged_file_of_hnswlib_is_refused_or_harmless(rng, metric, tmp_path):
    path = tmp_path / "graph.bin"
    graph_of(rng, metric, n=60).save_hnswlib(path)
    refused = harmless = 0
    for data in damaged(rng, path.read_bytes(), 60):
        path.write_bytes(data)
        try:
            index = lw.HNSW.load_hnswlib(path, metric)
        except FileFormatError:
            refused += 1
            continue
        search_all(index)
        harmless += 1
    assert refused > 100
    assert harmless > 10


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["f32", "sq4", "adsampling"])
def test_a_damaged_file_of_ours_is_refused(rng, storage, tmp_path):
    path = tmp_path / "graph.lw"
    index = graph_of(rng, storage=storage, n=60)
    index.save(path)
    data = path.read_bytes()
    Q = np.ones((3, index.dim), dtype=np.float32)
    unread = 0
    for wrong in damaged(rng, data, 30):
        path.write_bytes(wrong)
        with contextlib.suppress(FileFormatError):
            same_answers(lw.HNSW.load(path), index, Q)
            # Between two arrays there are bytes that nobody reads.
            unread += 1
    assert unread < 60


def test_lists_take_no_room_of_others():
    """Each is a whole number of blocks, and together they are all that there is."""
    good = np.array([8, 1, 2, 0, 4, 3], dtype="<u4")
    for sizes, fits in (
        (good, True),
        ([16, 1, 2, 0, 4, 3], False),
        ([20, 1, 2, 0, 4, 3], False),
        ([2**32 - 4, 1, 2, 0, 4, 3], False),
        ([8, 1, 2, 0, 0, 3], False),
        ([9, 1, 2, 0, 4, 3], False),
    ):
        room = np.full(1024, 99, dtype=np.uint8)
        counts = np.zeros(3, dtype=np.uint32)
        lists = np.array(sizes, dtype="<u4").view(np.uint8)
        assert _native.split_lists(lists, 4, counts, room[:12]) == fits
        assert (room[12:] == 99).all()
    counts = np.zeros(3, dtype=np.uint32)
    blocks = np.empty(12, dtype=np.uint8)
    assert _native.split_lists(good.view(np.uint8), 4, counts, blocks)
    assert counts.tolist() == [2, 0, 1]
    assert blocks.view("<u4").tolist() == [1, 2, 3]


def with_field(data, at, form, value):
    changed = bytearray(data)
    struct.pack_into(form, changed, at, *(value if isinstance(value, tuple) else (value,)))
    return bytes(changed)


HEADER = [
    (0, "<Q", 8, "offset_level0"),
    (8, "<Q", 3, "max_elements"),
    (16, "<Q", 61, "max_elements"),
    (8, "<2Q", (2**62, 2**62), "size"),
    (8, "<2Q", (61, 61), "lists|size|labels|level"),
    (24, "<Q", 2**63, "size_data_per_element"),
    (32, "<Q", 2**40, "dim"),
    (40, "<Q", 0, "size_data_per_element"),
    (48, "<i", 77, "max_level"),
    (52, "<I", 2**32 - 1, "enterpoint_node"),
    (56, "<Q", 9, "max_M"),
    (64, "<Q", 99, "max_M0"),
    (72, "<Q", 2**33, "M"),
    (80, "<d", float("nan"), "mult"),
    (88, "<Q", 0, "ef_construction"),
    (96, "<I", 17, "links of level 0"),
    (96, "<I", 1 << 17, "level 0"),
    (100, "<I", 60, "links"),
    (100, "<I", 2**32 - 1, "links"),
    (96 + 4 + 64, "<f", float("nan"), "rows"),
    (96 + 4 + 64, "<f", 3e38, "rows"),
    (96 + 4 + 64 + 60, "<Q", 2**63, "labels"),
]


@pytest.mark.parametrize(("at", "form", "value", "words"), HEADER)
def test_what_is_wrong_in_a_file_of_hnswlib_is_named(rng, at, form, value, words, tmp_path):
    path = tmp_path / "graph.bin"
    graph_of(rng, n=60).save_hnswlib(path)
    path.write_bytes(with_field(path.read_bytes(), at, form, value))
    with pytest.raises(FileFormatError, match=f"expected a graph of hnswlib, .*({words})"):
        lw.HNSW.load_hnswlib(path)


def test_what_does_not_fit_is_refused(rng, tmp_path):
    path = tmp_path / "graph.bin"
    graph_of(rng, n=60).save_hnswlib(path)
    with pytest.raises(FileFormatError, match="dim: expected 16, got 15"):
        lw.HNSW.load_hnswlib(path, dim=16)
    with pytest.raises(FileFormatError, match="rows: expected normalised ones"):
        lw.HNSW.load_hnswlib(path, "cosine")
    with pytest.raises(FileNotFoundError):
        lw.HNSW.load_hnswlib(tmp_path / "none")
    with pytest.raises(FileFormatError, match="regular file"):
        lw.HNSW.load_hnswlib(tmp_path)
    with pytest.raises(ValueError, match=r"^metric: "):
        lw.HNSW.load_hnswlib(path, "dot")


def test_links_that_lead_astray_are_refused(rng):
    X = rng.standard_normal((60, 15), dtype=np.float32)
    graph = cases.nearest_graph(X)
    graph.check()

    def changed(name, at, value):
        array = getattr(graph, name).copy()
        array[at] = value
        return replace(graph, **{name: array})

    for wrong, name in (
        (changed("links", (3, 1), 60), "links"),
        (changed("links", (3, 1), NO_LINK), "links of level 0"),
        (changed("upper", (1, 0), 1), "links above level 0"),
        (changed("upper", (1, 0), 60), "links"),
        (changed("upper_begin", 5, 0), "upper_begin"),
        (changed("upper_begin", 60, 9), "upper_begin"),
        (changed("rows", (0, 0), np.inf), "rows"),
        (changed("rows", (0, 15), 1), "rows"),
        (replace(graph, enter=1), "enterpoint_node"),
        (replace(graph, enter=60), "enterpoint_node"),
        (replace(graph, labels=np.zeros(60, dtype=np.int64)), "labels"),
        (replace(graph, links=graph.links[:, :-1]), "links"),
        (replace(graph, ef=-1), "ef"),
    ):
        with pytest.raises(ValueError, match=f"^{name}"):
            wrong.check()
    for wrong in (
        changed("links", (3, 1), 60),
        changed("upper", (1, 0), 1),
        replace(graph, enter=60),
    ):
        with pytest.raises(ValueError, match=r"^native call: graph"):
            wrong.native()
