"""The life of an index: ids, removal, filters, ranges, rescoring, files, pickles."""

import copy
import functools
import pickle
import threading

import cases
import numpy as np
import pytest
from cases import assert_same_bytes

import lanewise as lw
from lanewise import io

METRICS = ["l2", "ip", "cosine"]
STORAGES = ["f32", "sq8", "sq4"]


@pytest.fixture(params=[(m, s) for m in METRICS for s in STORAGES], ids="-".join)
def kind(request):
    return request.param


def make(kind, X, ids=None, dim=None):
    metric, storage = kind
    return lw.Flat(dim or X.shape[1], metric, storage=storage, n_threads=2).add(X, ids)


def brute(index, ids, Q, k):
    """All distances, sorted by (distance, id)."""
    ids = np.asarray(ids)
    scores = index.score(Q, np.tile(ids, (len(Q), 1)))
    order = np.array([np.lexsort((ids, row)) for row in scores])[:, :k]
    return np.take_along_axis(scores, order, axis=1), ids[order]


def same(result, expected):
    np.testing.assert_array_equal(result.ids, expected[1])
    np.testing.assert_array_equal(result.distances, expected[0])


@pytest.fixture(name="X")
def _rows(rng):
    return rng.standard_normal((700, 37)).astype(np.float32)


@pytest.fixture(name="Q")
def _queries(rng):
    return rng.standard_normal((5, 37)).astype(np.float32)


def test_ids_of_the_callers_choice(kind, rng, X, Q):
    ids = rng.choice(2**62, len(X), replace=False)
    index = make(kind, X[:300], ids[:300]).add(X[300:], ids[300:])
    np.testing.assert_array_equal(index.ids, ids)
    same(index.search(Q, 9), brute(index, ids, Q, 9))
    rows = lw.Flat(37, kind[0]).add(X).search(Q, 9)
    np.testing.assert_array_equal(index.search(Q, 9).ids, ids[rows.ids])
    np.testing.assert_array_equal(index.search(Q, 9).distances, rows.distances)


def test_equal_distances_are_in_the_order_of_ids(kind):
    index = make(kind, np.ones((70, 3)), np.arange(70)[::-1] * 10)
    assert index.search(np.ones(3), 4).ids.tolist() == [[0, 10, 20, 30]]


def test_default_ids_count_on(rng):
    index = lw.Flat(2).add(np.zeros((2, 2)), [7, 3]).add(np.zeros((2, 2)))
    assert index.ids.tolist() == [7, 3, 8, 9]
    assert index.remove([9]).add(np.zeros((1, 2))).ids.tolist() == [7, 3, 8, 10]


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([1], ValueError, "^ids: expected 2, one for each row of X, got 1"),
        ([4, 4], ValueError, "^ids: 4 is there twice"),
        ([5, 0], ValueError, "^ids: 0 is in the index already"),
        ([-1, 5], ValueError, "^ids: expected 0 <= id"),
        ([1.5, 2.5], TypeError, "^ids: "),
    ],
)
def test_wrong_ids_add_nothing(ids, error, message):
    index = lw.Flat(2).add(np.zeros((2, 2)))
    with pytest.raises(error, match=message):
        index.add(np.ones((2, 2)), ids)
    assert index.ids.tolist() == [0, 1]


def test_removed_rows_are_never_found(kind, rng, X, Q):
    index = make(kind, X)
    left = np.arange(len(X))
    # Beyond a quarter the rest moves together; both sides of that must be right.
    for some in (left[:1], rng.choice(left[1:], 120, replace=False), None):
        gone = left[::2] if some is None else some
        index.remove(gone)
        left = np.setdiff1d(left, gone)
        assert len(index) == len(left)
        np.testing.assert_array_equal(index.ids, left)
        np.testing.assert_array_equal(index.rows.shape, (len(left), 37))
        same(index.search(Q, 12), brute(index, left, Q, 12))
        with pytest.raises(ValueError, match=f"^ids: {gone[0]} is not in the index"):
            index.remove(gone[:1])
        with pytest.raises(ValueError, match=f"^ids: {gone[0]} is not in the index"):
            index.score(Q[0], gone[:1])
    index.remove(left)
    assert len(index) == 0
    assert (index.search(Q, 3).ids == -1).all()
    same(index.add(X).search(Q, 3), brute(index, index.ids, Q, 3))


def test_a_removed_id_may_come_back(kind, X, Q):
    index = make(kind, X)
    index.remove([5]).add(Q[:1], [5])
    np.testing.assert_array_equal(
        index.score(Q[0], [5]), lw.Flat(37, kind[0]).add(Q).score(Q[0], [0])
    )
    assert len(index) == len(X)


@pytest.mark.parametrize("removed", [0, 3, 400])
def test_filters_say_the_same_in_three_ways(kind, rng, X, Q, removed):
    index = make(kind, X).remove(np.arange(removed) * 1)
    ids = index.ids
    for share in (0.0, 0.01, 0.5, 1.0):
        mask = rng.random(len(index)) < share
        expected = index.search(Q, 9, filter=mask)
        kept = ids[mask]
        k = min(9, len(kept))
        want = brute(index, kept, Q, 9) if k > 0 else (np.empty((5, 0)), np.empty((5, 0)))
        np.testing.assert_array_equal(expected.ids[:, :k], want[1])
        np.testing.assert_array_equal(expected.distances[:, :k], want[0])
        assert (expected.ids[:, k:] == -1).all()
        for other in (kept, kept.tolist(), np.packbits(mask, bitorder="little")):
            same(index.search(Q, 9, filter=other), (expected.distances, expected.ids))


@pytest.mark.parametrize(
    ("filter", "error"),
    [
        (np.ones(4, dtype=bool), ValueError),
        (np.ones((5, 1), dtype=bool), ValueError),
        (np.zeros(2, dtype=np.uint8), ValueError),
        ([5], ValueError),
        ([-1], ValueError),
        ([0.5], TypeError),
        ("all", TypeError),
    ],
)
def test_wrong_filters_are_named(filter, error):
    with pytest.raises(error, match=r"^filter: "):
        lw.Flat(2).add(np.zeros((5, 2))).search(np.zeros(2), 1, filter=filter)


def test_range_search_finds_what_is_no_farther(kind, X, Q):
    index = make(kind, X)
    all_of_them = index.search(Q, len(X))
    # A radius that is a distance, the next float below it, none, all.
    edge = float(all_of_them.distances[2, 31])
    for radius in (edge, float(np.nextafter(np.float32(edge), np.float32(-np.inf))), -1e30, np.inf):
        limits, distances, ids = index.range_search(Q, radius)
        assert limits[0] == 0
        assert limits[-1] == len(ids) == len(distances)
        for q in range(len(Q)):
            n = int((all_of_them.distances[q] <= radius).sum())
            part = slice(limits[q], limits[q + 1])
            np.testing.assert_array_equal(ids[part], all_of_them.ids[q, :n])
            np.testing.assert_array_equal(distances[part], all_of_them.distances[q, :n])


def test_range_search_with_a_filter_and_nothing_to_find(kind, X, Q):
    index = make(kind, X)
    mask = np.arange(len(X)) % 3 == 0
    assert set(index.range_search(Q, np.inf, filter=mask).ids.tolist()) == set(index.ids[mask])
    assert lw.Flat(37).range_search(Q, 1.0).limits.tolist() == [0] * 6
    with pytest.raises(ValueError, match=r"^radius: "):
        index.range_search(Q, float("nan"))


def test_rescore_is_score_and_a_sort(kind, rng, X, Q):
    index = make(kind, X, np.arange(len(X)) * 2)
    candidates = np.array([rng.permutation(len(X))[:150] * 2 for _ in Q])
    candidates[:, 4] = -1
    candidates[:, 9] = candidates[:, 8]
    result = index.rescore(Q, candidates, 20)
    for q in range(len(Q)):
        named = np.setdiff1d(candidates[q], [-1])
        want = brute(index, named, Q[q : q + 1], 20)
        np.testing.assert_array_equal(result.ids[q], want[1][0])
        np.testing.assert_array_equal(result.distances[q], want[0][0])
    short = index.rescore(Q[0], [4, -1], 3)
    assert short.ids.tolist() == [[4, -1, -1]]
    assert np.isinf(short.distances[0, 1:]).all()


def test_rescore_does_not_read_on_in_vain():
    X = np.zeros((200, 1000), dtype=np.float32)
    X[:, 0] = np.arange(200)
    index = lw.Flat(1000).add(X)
    assert index.rescore(X[0], np.arange(200), 1).stats["settled"].tolist() == [16]


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("own_ids", [False, True])
def test_files_and_pickles_answer_the_same(kind, tmp_path, X, Q, mmap, own_ids):
    index = make(kind, X, np.arange(len(X)) * 3 if own_ids else None).remove([6, 9])
    path = tmp_path / "index.lw"
    index.save(path)
    expected = index.search(Q, 9)
    for other in (lw.Flat.load(path, mmap=mmap), pickle.loads(pickle.dumps(index))):
        assert (len(other), other.storage, other.metric) == (len(index), kind[1], kind[0])
        same(other.search(Q, 9), (expected.distances, expected.ids))
        # It lives on as the first one does.
        same(
            other.add(Q).remove([3]).search(Q, 9),
            tuple(pickle.loads(pickle.dumps(index)).add(Q).remove([3]).search(Q, 9)),
        )
    same(index.search(Q, 9), (expected.distances, expected.ids))


def test_an_empty_index_has_a_file_too(kind, tmp_path, X):
    path = tmp_path / "index.lw"
    lw.Flat(37, kind[0], storage=kind[1]).save(path)
    assert len(lw.Flat.load(path)) == 0
    assert len(lw.Flat.load(path, mmap=True).add(X)) == len(X)


def test_mapped_rows_stay_on_the_disk(tmp_path, X):
    path = tmp_path / "index.lw"
    lw.Flat(37).add(X).save(path)
    index = lw.Flat.load(path, mmap=True)
    assert isinstance(index._rows.snapshot.state.rows, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        index.rows[0] = 0


def test_files_with_the_front_in_one_plane_are_read(tmp_path, rng):
    """They were written so before its steps had planes of their own."""
    X = rng.standard_normal((3000, 64), dtype=np.float32) / np.arange(1, 65, dtype=np.float32)
    index = lw.Flat(64).add(X)
    header, arrays = index._rows.arrays()
    widths = index._rows.snapshot.state.planes.plan.front_widths
    assert len(widths) > 1
    planes = [arrays.pop(f"planes.front-{step}")[:-1024] for step, _ in enumerate(widths)]
    groups = [plane.reshape(-1, 16 * width) for plane, width in zip(planes, widths, strict=True)]
    joined = np.concatenate(groups, axis=1).ravel()
    arrays["planes.front"] = np.concatenate([joined, np.zeros(1024, dtype=np.int8)])
    io.write(tmp_path / "index.lw", "flat", header, arrays)
    expected = index.search(X[:20], 9)
    for mmap in (False, True):
        found = lw.Flat.load(tmp_path / "index.lw", mmap=mmap)
        same(found.search(X[:20], 9), tuple(expected))
        assert np.array_equal(
            found.search(X[:1]).stats["dimensions"], index.search(X[:1]).stats["dimensions"]
        )


LIES = {
    "fewer rows": lambda header, arrays: arrays.update(rows=arrays["rows"][:-1]),
    "other dimension": lambda header, arrays: header.update(dim=36),
    "more rows": lambda header, arrays: header.update(n=701),
    "negative rows": lambda header, arrays: header.update(n=-1),
    "no number": lambda header, arrays: header.update(n="many"),
    "unknown metric": lambda header, arrays: header.update(metric="l3"),
    "unknown storage": lambda header, arrays: header.update(storage="sq1"),
    "removed rows": lambda header, arrays: header.update(n_removed=5),
    "endless length": lambda header, arrays: header.update(max_norm2=1e999),
    "missing list": lambda header, arrays: arrays.pop("list_begin"),
    "short list": lambda header, arrays: arrays.update(list_size=arrays["list_size"] - 1),
    "rows beyond": lambda header, arrays: arrays.update(list_begin=arrays["list_begin"] * 2),
    "ids twice": lambda header, arrays: arrays.update(ids=np.zeros(700, dtype=np.int64)),
    "ids short": lambda header, arrays: arrays.update(ids=np.arange(3)),
    "short front": lambda header, arrays: arrays.update(
        {"planes.front-0": arrays["planes.front-0"][:-1]}
    ),
    "short front in one": lambda header, arrays: arrays.update(
        {"planes.front": arrays.pop("planes.front-0")[:-17]}
    ),
    "short tails": lambda header, arrays: arrays.update(
        {"planes.tails": arrays["planes.tails"][:, :-16]}
    ),
    "wild steps": lambda header, arrays: arrays.update(
        {"planes.steps": arrays["planes.steps"] * 3}
    ),
    "no steps": lambda header, arrays: arrays.update(
        {"planes.steps": np.zeros(3, dtype=np.uint32)}
    ),
    "no scales": lambda header, arrays: arrays.pop("planes.scales"),
    "rows of no known type": lambda header, arrays: arrays.update(rows=np.float64(arrays["rows"])),
    "normalised bytes": lambda header, arrays: (
        header.update(metric="cosine"),
        arrays.update(rows=np.int8(arrays["rows"])),
    ),
    "other types": lambda header, arrays: arrays.update(
        {"planes.base": arrays["planes.base"].astype(np.float64)}
    ),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_files_that_lie_are_refused(tmp_path, X, lie):
    """The container's checksums are right; what it contains is not."""
    header, arrays = lw.Flat(37).add(X)._rows.arrays()
    header, arrays = dict(header), {name: array.copy() for name, array in arrays.items()}
    lie(header, arrays)
    path = tmp_path / "index.lw"
    if header["max_norm2"] == np.inf:
        header["max_norm2"] = -1.0
    io.write(path, "flat", header, arrays)
    with pytest.raises(io.FileFormatError, match=r"index\.lw"):
        lw.Flat.load(path)


def test_searches_meanwhile_see_all_or_nothing(kind, rng, X, Q):
    """Rows come and go in one thread while another one asks."""
    index = make(kind, X)
    with_extra = make(kind, X).add(Q)
    allowed = {
        (r.ids.tobytes(), r.distances.tobytes())
        for r in (index.search(Q, 5), with_extra.search(Q, 5))
    }
    extra = with_extra.ids[len(X) :]
    stop = threading.Event()
    seen, wrong = set(), []

    def ask():
        while not stop.is_set():
            r = index.search(Q, 5, n_threads=1)
            answer = (r.ids.tobytes(), r.distances.tobytes())
            seen.add(answer)
            if answer not in allowed:
                wrong.append(r.ids)
                return

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for _ in range(30):
            index.add(Q, extra)
            index.remove(extra)
    finally:
        stop.set()
        thread.join()
    assert not wrong
    assert seen


# ---------------------------------------------------------------- the same beside a plain model

PLANES = {
    "f32": {"storage": "f32"},
    "sq8-pca": {"storage": "sq8", "rotation": "pca"},
    "sq8-none": {"storage": "sq8", "rotation": None},
    "sq4-none": {"storage": "sq4", "rotation": None},
}
all_planes = pytest.mark.parametrize("planes", PLANES.values(), ids=PLANES)
every_metric = pytest.mark.parametrize("metric", METRICS)


class Model:
    """Ids and canonical rows in the order in which they came, and answers by brute force."""

    def __init__(self, metric, dim):
        self.metric = metric
        self.ids, self.rows = np.empty(0, np.int64), np.empty((0, dim), np.float32)
        self.next_id = 0

    def add(self, X, ids):
        X = cases.unit(X) if self.metric == "cosine" else X
        ids = np.arange(self.next_id, self.next_id + len(X)) if ids is None else ids
        self.ids, self.rows = np.append(self.ids, ids), np.concatenate([self.rows, X])
        self.next_id = max(self.next_id, *(ids + 1).tolist())

    def remove(self, ids):
        left = ~np.isin(self.ids, ids)
        self.ids, self.rows = self.ids[left], self.rows[left]

    def search(self, Q, k, mask):
        Q = cases.unit(Q) if self.metric == "cosine" else Q
        return cases.nearest(
            cases.SCALAR, self.metric, Q, self.rows, k, np.flatnonzero(mask), self.ids
        )

    def within(self, Q, radius, mask):
        distances, ids = self.search(Q, len(self.ids), mask)
        inside = distances <= np.float32(radius)
        limits = np.concatenate(([0], np.cumsum(inside.sum(axis=1))))
        return limits, distances[inside & (ids >= 0)], ids[inside & (ids >= 0)]


def step(rng, index, model, dim, dtypes):
    """Change both alike: rows come, with ids or without, or go, or all is packed up and moved."""
    kind = rng.choice(["add", "add with ids", "bring back", "remove", "remove much", "move"])
    n = int(rng.choice([1, 3, 17, 64, 200]))
    rows = cases.integers(rng, (n, dim), 3)
    X = rows.astype(rng.choice(dtypes))
    if kind == "add":
        index.add(X, n_threads=2)
        model.add(rows, None)
    elif kind == "add with ids":
        ids = model.next_id + rng.permutation(3 * n)[:n]
        index.add(X, ids)
        model.add(rows, ids)
    elif kind == "bring back":
        gone = np.setdiff1d(np.arange(min(model.next_id, 3000)), model.ids)
        ids = rng.permutation(gone)[:n]
        if len(ids) > 0:
            index.add(X[: len(ids)], ids)
            model.add(rows[: len(ids)], ids)
    elif kind == "move":
        index = pickle.loads(pickle.dumps(index))
    else:
        share = 0.1 if kind == "remove" else rng.choice([0.3, 0.6, 1.0])
        ids = rng.permutation(model.ids)[: int(share * len(model.ids))]
        index.remove(np.concatenate([ids, ids[:3]]))  # naming one twice is no mistake
        model.remove(ids)
    return index


@every_metric
@all_planes
@pytest.mark.parametrize("dtypes", [["float32"], ["int8"], ["int8", "float32"]], ids="-".join)
def test_whatever_happens_answers_are_those_of_brute_force(rng, metric, planes, dtypes):
    """Small whole numbers, so that ties are everywhere and ids decide."""
    dim = 5
    X = cases.integers(rng, (250, dim), 3)
    index, model = lw.Flat(dim, metric, **planes).add(X.astype(dtypes[0])), Model(metric, dim)
    model.add(X, None)
    for i in range(40):
        if i == 20:
            index.remove(model.ids)
            model.remove(model.ids)
        else:
            index = step(rng, index, model, dim, dtypes)
        n = len(model.ids)
        assert len(index) == n
        assert_same_bytes(index.ids, model.ids)
        assert_same_bytes(np.ascontiguousarray(index.rows, dtype=np.float32), model.rows)
        Q = cases.integers(rng, (3, dim), 3)
        mask = rng.random(n) < rng.choice([0.02, 0.5])
        packed = np.packbits(mask, bitorder="little")
        for k in (1, 20):
            assert_same_bytes(tuple(index.search(Q, k)), model.search(Q, k, np.ones(n, bool)), k)
            for form in (mask, packed, rng.permutation(model.ids[mask])):
                got = index.search(Q, k, filter=form)
                assert_same_bytes(tuple(got), model.search(Q, k, mask), k)
                assert (got.stats["candidates"] == mask.sum()).all()
        for radius in (0.0, 9.0, -4.0, 0.5):
            for form, chosen in ((None, np.ones(n, bool)), (mask, mask)):
                got = index.range_search(Q, radius, filter=form)
                assert_same_bytes(tuple(got), model.within(Q, radius, chosen), radius)


@every_metric
@all_planes
@pytest.mark.parametrize("data", ["near duplicates", "far away", "zero rows", "equal rows", "tiny"])
def test_ranges_of_awkward_rows(rng, metric, planes, data):
    """Every distance that there is, and the next number on both sides, as the radius."""
    X, Q = cases.DATA[data](rng, (200, 12)), cases.DATA[data](rng, (4, 12))
    Q[0], Q[1] = X[100], 0
    index = lw.Flat(12, metric, **planes).add(X)
    model = Model(metric, 12)
    model.add(X, None)
    everybody = np.ones(200, dtype=bool)
    distances, _ = model.search(Q, 200, everybody)
    edges = distances[:, [0, 1, 7, 199]].ravel()
    radii = [0.0, -0.0, -1.0, np.inf, -np.inf, *edges.tolist()]
    radii += [float(np.nextafter(edge, np.float32(side))) for edge in edges for side in (-9e9, 9e9)]
    for radius in radii:
        got = index.range_search(Q, radius, n_threads=2)
        assert_same_bytes(tuple(got), model.within(Q, radius, everybody), radius)
        alone = index.range_search(Q[2], radius)
        assert alone.limits.tolist() == [0, got.limits[3] - got.limits[2]]
        assert_same_bytes(alone.ids, got.ids[got.limits[2] : got.limits[3]])


@pytest.mark.parametrize("distance", [1.0, 2.0**-100, 3.0**37])
def test_a_radius_is_not_rounded_up_to_a_distance(distance):
    """In double precision there are radii next to every distance."""
    index = lw.Flat(1, "ip").add([[-distance], [distance]])
    edge = float(index.search([1.0], 2).distances[0, 1])
    for radius, n in ((edge, 2), (np.nextafter(edge, -np.inf), 1), (np.nextafter(edge, np.inf), 2)):
        assert index.range_search([1.0], radius).limits.tolist() == [0, n]
        assert index.range_search([1.0], float(radius)).limits.tolist() == [0, n]


@pytest.mark.parametrize(("radius", "found"), [(1e300, [0, 1]), (-1e300, [])])
def test_a_radius_may_be_beyond_float32(radius, found):
    assert lw.Flat(1).add([[1.0], [2.0]]).range_search([1.0], radius).ids.tolist() == found


def test_the_largest_id_is_an_id():
    largest = 2**63 - 1
    index = lw.Flat(1).add([[1.0], [2.0]], [largest, 7])
    with pytest.raises(ValueError, match=r"^ids: expected ids, because the largest possible"):
        index.add([[3.0]])
    assert index.ids.tolist() == [largest, 7]
    index.add([[3.0]], [0])
    assert index.search([1.0], 3, filter=[largest, 0]).ids.tolist() == [[largest, 0, -1]]


@pytest.mark.parametrize(
    ("ids", "error"),
    [([0, 5], ValueError), ([-1], ValueError), ([1.0], TypeError), ([[1]], ValueError)],
)
def test_what_cannot_be_removed_removes_nothing(ids, error):
    index = lw.Flat(1).add([[1.0], [2.0], [3.0], [4.0], [5.0]])
    with pytest.raises(error, match=r"^ids: "):
        index.remove(ids)
    assert index.ids.tolist() == [0, 1, 2, 3, 4]
    assert index.remove([]).remove(np.array([3, 3])).ids.tolist() == [0, 1, 2, 4]


@all_planes
def test_what_is_removed_gives_its_memory_back(planes, X):
    index = lw.Flat(37, **planes).add(X)
    before = index.hot_bytes
    index.remove(np.arange(0, 700, 4))
    assert index.hot_bytes >= before, "a quarter is not worth the while"
    index.remove(np.arange(1, 700, 2))
    assert index.hot_bytes < before / 2
    assert index.remove(index.ids).hot_bytes < 0.1 * before


@all_planes
def test_searches_meanwhile_see_whole_changes_in_their_order(planes, rng, X, Q):
    """Additions that learn anew, removals that move rows together, and ids that come back."""
    changes = [
        lambda index: index.remove(np.arange(100)),
        lambda index: index.add(X[:50], np.arange(50)),
        lambda index: index.add(X[:400]),
        lambda index: index.remove(index.ids[::2]),
        lambda index: index.add(Q),
        lambda index: index.remove(index.search(Q, 2).ids.ravel()),
        lambda index: index.add(Q + np.float32(0.5)),
    ]
    rehearsal = lw.Flat(37, **planes).add(X)
    kept = rehearsal.ids
    for change in changes:
        kept = np.intersect1d(kept, change(rehearsal).ids)
    assert len(kept) > 100

    def answer(index):
        """What every change shows in, and what is there all the time, by a filter."""
        parts = *index.search(Q, 30), *index.range_search(Q, 50.0, filter=kept)
        return tuple(part.tobytes() for part in parts[:2]), parts[4].tobytes()

    plain = lw.Flat(37, n_threads=1, **planes).add(X)
    states = [answer(plain), *(answer(change(plain)) for change in changes)]
    assert len({state[0] for state in states}) == len(states)
    assert len({state[1] for state in states}) == 1
    known = {state: i for i, state in enumerate(states)}
    index = lw.Flat(37, n_threads=2, **planes).add(X)
    cases.assert_changes_are_seen_whole(
        lambda: answer(index), known, [functools.partial(change, index) for change in changes]
    )


@all_planes
def test_pickles_and_files_of_all_that(planes, tmp_path, rng, X, Q):
    index = lw.Flat(37, "ip", **planes).add(X[:500], rng.permutation(10_000)[:500])
    index.remove(index.ids[::9]).add(X[500:])
    mask = rng.random(len(index)) < 0.3
    options = {"k": 12, "eps0": 1.0, "filter": mask}
    expected = index.search(Q, **options)
    within = tuple(index.range_search(Q, -3.0, filter=mask))
    assert len(within[1]) > 0
    path = tmp_path / "index.lw"
    index.save(path)
    twins = [pickle.loads(pickle.dumps(index)), copy.deepcopy(index), lw.Flat.load(path)]
    for twin in twins:
        # Inexact answers and the work depend on everything that was learned.
        got = twin.search(Q, **options)
        assert_same_bytes(tuple(got), tuple(expected))
        for name, values in expected.stats.items():
            assert_same_bytes(got.stats[name], values, name)
        assert_same_bytes(tuple(twin.range_search(Q, -3.0, filter=mask)), within)
        assert_same_bytes(twin.ids, index.ids)
        assert_same_bytes(twin.add(X[:9]).ids, pickle.loads(pickle.dumps(index)).add(X[:9]).ids)
