"""Rows of uint8 and int8: kept in a byte a number, and answered as the same rows of floats."""

import pickle

import cases
import numpy as np
import pytest
from cases import assert_same_bytes

import lanewise as lw
from lanewise import _native, coding, store

STORAGES = ("f32", "sq8", "sq4", "binary")
every_metric = pytest.mark.parametrize("metric", ["l2", "ip"])
every_storage = pytest.mark.parametrize("storage", STORAGES)
both_types = pytest.mark.parametrize("dtype", ["uint8", "int8"])


def twins(X, metric="l2", ids=None, **how):
    """An index of bytes, and one of the same numbers as floats."""
    dim = X.shape[1]
    return tuple(lw.Flat(dim, metric, **how).add(V, ids) for V in (X, X.astype(np.float32)))


def near(rng, X, n):
    """Queries that are rows, and queries beside rows that are no whole numbers."""
    Q = X[rng.integers(0, len(X), n)].astype(np.float32)
    Q[n // 2 :] += rng.standard_normal((n - n // 2, X.shape[1]), dtype=np.float32)
    return Q


def everything(index, Q, n_threads=None):
    """All that can be asked of an index."""
    rng = np.random.default_rng(0)
    how = {"n_threads": n_threads}
    ids = index.ids
    mask = rng.random(len(index)) < 0.3
    named = rng.choice(np.append(ids, -1), (len(Q), 50))
    results = [index.search(Q, k, **how) for k in (1, 10, len(index) + 2)]
    results += [index.search(Q, 10, eps0=1.0, **how), index.search(Q, 10, filter=mask, **how)]
    results += [index.search(Q[1], 10, **how), index.rescore(Q, named, 7, **how)]
    if index.storage != "binary":
        radius = float(results[1].distances[0, 9])
        results += [index.range_search(Q, radius, **how)]
        results += [index.range_search(Q, radius, filter=mask, **how)]
    parts = [part for result in results for part in (*result, *result.stats.values())]
    return (ids, index.score(Q, named, **how), *parts)


def kept(index):
    return index._rows.snapshot.state.rows


# ---------------------------------------------------------------------------------- the answers


@every_metric
@every_storage
@both_types
def test_answers_are_those_of_floats(code_kernels, rng, metric, storage, dtype):
    """Planes, answers and statistics."""
    X = cases.octets(rng, (900, 37), dtype)
    Q = near(rng, X, 6)
    narrow, wide = (
        index.add(X[:9]).add(X[9:70])
        for index in twins(X, metric, storage=storage, kernels=code_kernels)
    )
    assert narrow.rows.dtype == dtype
    assert wide.rows.dtype == np.float32
    assert_same_bytes(narrow.rows, wide.rows.astype(dtype))
    planes = [index._rows.snapshot.state.planes.arrays(928) for index in (narrow, wide)]
    for name, array in planes[0].items():
        assert_same_bytes(array, planes[1][name], name)
    expected = everything(wide, Q, 1)
    for n_threads in (1, 2):
        assert_same_bytes(everything(narrow, Q, n_threads), expected, n_threads)


@every_storage
@pytest.mark.parametrize("dim", [1, 6])
def test_planes_are_learned_from_the_same_sample(rng, monkeypatch, storage, dim):
    """From some of the rows where there are many."""
    monkeypatch.setattr(coding, "_SAMPLE", 300)
    X = cases.octets(rng, (1000, dim), "uint8")
    learned = [index._rows.snapshot.state.planes.arrays(0) for index in twins(X, storage=storage)]
    for name, array in learned[0].items():
        assert_same_bytes(array, learned[1][name], name)


@every_metric
@pytest.mark.parametrize("storage", ["f32", "sq8", "sq4"])
@both_types
def test_answers_are_those_of_brute_force(rng, metric, storage, dtype):
    X = cases.octets(rng, (700, 19), dtype)
    Q = near(rng, X, 5)
    index = lw.Flat(19, metric, storage=storage).add(X)
    for k in (1, 10, 700):
        got = tuple(index.search(Q, k))
        assert_same_bytes(got, cases.nearest(cases.SCALAR, metric, Q, np.float32(X), k), k)


@every_metric
@every_storage
@both_types
# Rows are widened sixteen at a time, fewer beyond 256 dimensions, on the heap beyond 1,024.
@pytest.mark.parametrize("dim", [1, 2, 256, 257, 1024, 1025, 4096])
def test_extremes(rng, metric, storage, dtype, dim):
    limits = np.iinfo(dtype)
    X = rng.choice(np.array([limits.min, 0, limits.max], dtype=dtype), (70, dim))
    X[:20], X[20:25] = limits.max, limits.min
    Q = np.concatenate([X[[0, 20, 30]], 255 - X[30:31].astype(np.float32)])
    indexes = twins(X, metric, storage=storage)
    got, expected = (everything(index, Q) for index in indexes)
    assert_same_bytes(got, expected)


@every_metric
@both_types
def test_sums_that_round_round_alike(code_kernels, rng, metric, dtype):
    X = cases.octets(rng, (60, 4096), dtype)
    Q = 300 * rng.standard_normal((3, 4096), dtype=np.float32)
    narrow, wide = twins(X, metric, kernels=code_kernels)
    got = narrow.search(Q, 60)
    assert_same_bytes(tuple(got), tuple(wide.search(Q, 60)))
    rows = X[got.ids].astype(np.float64)
    apart = (rows - Q[:, np.newaxis]) ** 2 if metric == "l2" else -rows * Q[:, np.newaxis]
    assert (apart.sum(axis=2) != got.distances).any(), "nothing was rounded"


@both_types
@pytest.mark.parametrize("storage", STORAGES)
def test_equal_rows(dtype, storage):
    X = np.full((300, 24), np.iinfo(dtype).max, dtype=dtype)
    index, wide = twins(X, storage=storage)
    assert index.search(X[:1], 4).ids.tolist() == [[0, 1, 2, 3]]
    assert_same_bytes(everything(index, X[:2]), everything(wide, X[:2]))


# ------------------------------------------------------------------------------------- the type


FLOATS, UNSIGNED, SIGNED = "float32", "uint8", "int8"
MEETINGS = {
    "one type": ([UNSIGNED, UNSIGNED], UNSIGNED),
    "signed": ([SIGNED, SIGNED], SIGNED),
    "floats later": ([UNSIGNED, FLOATS, UNSIGNED], FLOATS),
    "floats first": ([FLOATS, UNSIGNED], FLOATS),
    "half floats later": ([SIGNED, "float16"], FLOATS),
    "two bytes": ([UNSIGNED, SIGNED], FLOATS),
    "two bytes, signed first": ([SIGNED, UNSIGNED, SIGNED], FLOATS),
}


@pytest.mark.parametrize("empties", [(), (FLOATS, SIGNED, UNSIGNED)], ids=["", "empty ones too"])
@every_metric
@every_storage
@pytest.mark.parametrize(("dtypes", "expected"), MEETINGS.values(), ids=MEETINGS)
def test_rows_of_two_types_meet_as_floats(rng, metric, storage, dtypes, expected, empties):
    index, wide = (lw.Flat(21, metric, storage=storage) for _ in range(2))
    for dtype in dtypes:
        # A few rows at a time: the planes are now learned anew, now filled up.
        X = cases.octets(rng, (130, 21), UNSIGNED if dtype == UNSIGNED else SIGNED).astype(dtype)
        if dtype not in (UNSIGNED, SIGNED):
            X += X.dtype.type(0.25)
        for part in np.split(X, [3, 90, 91]):
            for empty in empties:
                index.add(np.empty((0, 21), dtype=empty))
            index.add(part)
            wide.add(part.astype(np.float32))
    assert index.rows.dtype == expected
    assert_same_bytes(index.rows.astype(np.float32), wide.rows)
    Q = near(rng, index.rows, 4)
    assert_same_bytes(everything(index, Q), everything(wide, Q))


def test_an_index_that_was_emptied_takes_any_type(rng):
    X = cases.octets(rng, (9, 4), "uint8")
    index = lw.Flat(4).add(X)
    for dtype in ("int8", "float32", "uint8"):
        index.remove(index.ids)
        assert len(index) == 0
        index.add(X.astype(dtype))
        assert index.rows.dtype == dtype
        assert_same_bytes(index.rows, X.astype(dtype))


@pytest.mark.parametrize("wrong", [np.full((2, 4), np.nan, np.float32), np.full((2, 4), 1e19)])
def test_what_is_refused_widens_nothing(rng, wrong):
    X = cases.octets(rng, (30, 4), "uint8")
    index = lw.Flat(4).add(X)
    for ids in (None, [50, 51]):
        with pytest.raises(ValueError, match=r"^X: "):
            index.add(wrong, ids)
    with pytest.raises(ValueError, match=r"^ids: 3 is in the index already"):
        index.add(np.ones((1, 4)), [3])
    assert index.rows.dtype == np.uint8
    assert_same_bytes(index.rows, X)


@pytest.mark.parametrize("place", [(store, "with_room"), (store.Rows, "_store")])
@every_storage
def test_widening_that_fails_loses_nothing(rng, monkeypatch, storage, place):
    X = cases.octets(rng, (200, 11), "int8")
    Q = near(rng, X, 3)
    index = lw.Flat(11, storage=storage).add(X)
    expected = everything(index, Q)

    def no_memory(*arguments):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(*place, no_memory)
        with pytest.raises(MemoryError):
            index.add(Q)
    assert index.rows.dtype == np.int8
    assert_same_bytes(everything(index, Q), expected)
    wide = lw.Flat(11, storage=storage).add(X.astype(np.float32))
    assert_same_bytes(everything(index.add(Q), Q), everything(wide.add(Q), Q))
    assert index.rows.dtype == np.float32


def test_what_is_no_array_of_bytes_becomes_floats(rng):
    X = cases.octets(rng, (9, 4), "uint8")
    for given in (X.tolist(), X.astype(np.float16), X.astype(np.float64), tuple(X.tolist())):
        assert lw.Flat(4).add(given).rows.dtype == np.float32
    assert lw.Flat(4, "cosine").add(X).rows.dtype == np.float32
    ivf = lw.IVF(4, 2).train(X).add(X)
    assert kept(ivf).dtype == np.float32
    for refused in (X.astype(np.int16), X.astype(np.uint16), X > 3):
        with pytest.raises(TypeError, match=r"^X: expected an array of float32"):
            lw.Flat(4).add(X).add(refused)


@both_types
def test_any_layout_of_the_same_bytes(rng, dtype):
    X = cases.octets(rng, (70, 9), dtype)
    frozen = X.copy()
    frozen.flags.writeable = False
    wide = np.zeros((140, 18), dtype=dtype)
    wide[::2, ::2] = X
    layouts = [frozen, np.asfortranarray(X), wide[::2, ::2], X[::-1].copy()[::-1], list(X)]
    layouts += [memoryview(X), np.broadcast_to(X[:1], X.shape)]
    for layout in layouts:
        index = lw.Flat(9).add(layout)
        assert index.rows.dtype == dtype
        assert_same_bytes(np.ascontiguousarray(index.rows), np.ascontiguousarray(layout))
        assert not index.rows.flags.writeable
        assert_same_bytes(everything(index, X[:3]), everything(twins(np.array(layout))[1], X[:3]))
    mine = X.copy()
    index = lw.Flat(9).add(mine)
    mine[:] = 0
    assert_same_bytes(index.rows, X)


# ----------------------------------------------------------------------------- life, and memory


@every_storage
@both_types
@pytest.mark.parametrize("mmap", [False, True])
def test_files_and_pickles_keep_the_type(tmp_path, rng, storage, dtype, mmap):
    X = cases.octets(rng, (500, 30), dtype)
    Q = near(rng, X, 4)
    ids = rng.permutation(900)[:500]
    narrow, wide = (index.remove(ids[[6, 9]]) for index in twins(X, "ip", ids, storage=storage))
    path = tmp_path / "index.lw"
    narrow.save(path)
    for twin in (lw.Flat.load(path, mmap=mmap), pickle.loads(pickle.dumps(narrow))):
        assert kept(twin).dtype == dtype
        assert_same_bytes(everything(twin, Q), everything(wide, Q))
        # It lives on: more of the same, then floats.
        other = pickle.loads(pickle.dumps(wide)).add(X[:9]).remove(ids[:2])
        assert_same_bytes(everything(twin.add(X[:9]).remove(ids[:2]), Q), everything(other, Q))
        assert kept(twin).dtype == dtype
        assert_same_bytes(everything(twin.add(Q), Q), everything(other.add(Q), Q))
        assert kept(twin).dtype == np.float32
    mapped = lw.Flat.load(path, mmap=mmap)
    assert isinstance(kept(mapped), np.memmap) == mmap
    assert mapped.add(Q).rows.dtype == np.float32


@every_storage
@both_types
def test_removal_keeps_the_type(rng, storage, dtype):
    X = cases.octets(rng, (400, 13), dtype)
    Q = near(rng, X, 4)
    narrow, wide = twins(X, storage=storage)
    # Few are hidden, a third makes the others move together, and an id comes back.
    for gone in (np.arange(0, 400, 8), np.arange(1, 400, 2)):
        assert_same_bytes(
            everything(narrow.remove(gone), Q), everything(wide.remove(gone), Q), len(gone)
        )
        assert narrow.rows.dtype == kept(narrow).dtype == dtype
        assert_same_bytes(narrow.rows.astype(np.float32), wide.rows)
    narrow.remove([2]).add(X[:1], [2])
    wide.remove([2]).add(X[:1].astype(np.float32), [2])
    assert_same_bytes(everything(narrow, Q), everything(wide, Q))
    assert narrow.rows.dtype == dtype


@every_storage
def test_bytes_take_a_quarter_of_the_memory(tmp_path, rng, storage):
    X = cases.octets(rng, (1000, 64), "uint8")
    narrow, wide = twins(X, storage=storage)
    assert narrow.hot_bytes == wide.hot_bytes
    assert narrow.nbytes - narrow.hot_bytes == X.nbytes
    assert wide.nbytes - wide.hot_bytes == 4 * X.nbytes
    sizes = []
    for index in (narrow, wide):
        index.save(tmp_path / "index.lw")
        sizes.append((tmp_path / "index.lw").stat().st_size)
        assert lw.Flat.load(tmp_path / "index.lw").nbytes == index.nbytes
    assert sizes[1] - sizes[0] >= 3 * X.nbytes - 4096
    # Room to grow is a half more, of bytes too.
    assert kept(narrow.add(X[:1])).nbytes <= 1.5 * X.nbytes + 64


# ------------------------------------------------------------------------------------- the door


@both_types
def test_native_calls_take_bytes(code_kernels, rng, dtype):
    X = cases.octets(rng, (70, 300), dtype)
    wide = X.astype(np.float32)
    for call, shape in ((_native.mean, 300), (_native.squared_norms, 70)):
        got, expected = (np.empty(shape, "f4" if shape == 300 else "f8") for _ in range(2))
        assert call(X, got) == call(wide, expected)
        assert_same_bytes(got, expected)
    ids = rng.integers(-1, 70, (2, 1100))
    for metric in cases.METRICS:
        got, expected = (
            cases.score_lists(code_kernels, metric, wide[:2], rows, ids, 2) for rows in (X, wide)
        )
        assert_same_bytes(got, expected, metric)


@pytest.mark.parametrize("dtype", ["int16", "float64", "bool", "complex64", ">f4"])
def test_native_calls_take_nothing_else(dtype):
    with pytest.raises(ValueError, match=r"[Bb]uffer"):
        _native.mean(np.zeros((2, 3), dtype), np.empty(3, np.float32))
