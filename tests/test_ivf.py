"""IVF: Flat restricted to the probed cells, byte for byte."""

import copy
import functools
import itertools
import pickle
import sys
import threading

import cases
import numpy as np
import pytest
from cases import THREADS, assert_same_bytes

import lanewise as lw
from lanewise import io, oracle

METRICS = ("l2", "ip", "cosine")
every_metric = pytest.mark.parametrize("metric", METRICS)
every_storage = pytest.mark.parametrize("storage", ["f32", "sq8", "sq4"])


def blobs(rng, n, dim, n_blobs=6):
    centers = rng.standard_normal((n_blobs, dim)) * 3
    noise = rng.standard_normal((n, dim))
    return (centers[rng.integers(0, n_blobs, n)] + noise).astype(np.float32)


def trained(X, metric, n_lists=12, **options):
    return lw.IVF(X.shape[1], n_lists, metric, **options).train(X)


def as_scored(X, metric):
    """Rows and centroids as the metric sees them, in float64."""
    X = X.astype(np.float64)
    if metric != "cosine":
        return X
    lengths = np.sqrt((X**2).sum(axis=1, keepdims=True))
    return np.divide(X, lengths, out=np.zeros_like(X), where=lengths > 0)


def cells_by_hand(X, index):
    """The nearest centroid of every row in float64, and whether float32 must see the same.

    L2 between the rows as they are scored. The float32 score of a cell is half a distance: for
    unit vectors a chain of products of a row that was rounded once, else one of x - m and c - m,
    with m the mean centroid and three roundings in the operands.
    """
    X, C = as_scored(X, index.metric), index.centroids.astype(np.float64)
    table = ((X[:, None] - C) ** 2).sum(axis=2)
    if index.metric == "cosine":
        error = 2 * oracle.chain_error(index.dim, np.abs(X) @ np.abs(C).T, roundings=2)
        error += oracle.gamma(3)  # a centroid is as long as its rounding leaves it
    else:
        middle = C.mean(axis=0)
        x, c = np.abs(X - middle), np.abs(C - middle)
        magnitude = x @ c.T + 0.5 * (c**2).sum(axis=1)
        error = 2 * oracle.chain_error(index.dim, magnitude, roundings=3)
    labels = table.argmin(axis=1)
    rows = np.arange(len(X))
    rivals = table - error
    rivals[rows, labels] = np.inf
    return labels, (table[rows, labels] + error[rows, labels] < rivals.min(axis=1)).all()


def probes_by_hand(Q, index, n_probe):
    """The cells whose centroids are nearest to the queries by the index's own metric."""
    ids = oracle.search(index.centroids, Q, index.n_lists, index.metric)[1]
    return ids[:, :n_probe]


def restricted(flat, Q, k, allowed):
    """What Flat would answer if only the allowed rows of each query were there."""
    n = len(flat)
    ids = np.where(allowed, np.arange(n), -1)
    scores = flat.score(Q, ids)
    order = np.lexsort((ids, scores, ids < 0), axis=1)[:, :k]
    distances = np.full((len(Q), k), np.inf, dtype=np.float32)
    found = np.full((len(Q), k), -1, dtype=np.int64)
    distances[:, : order.shape[1]] = np.take_along_axis(scores, order, axis=1)
    found[:, : order.shape[1]] = np.take_along_axis(ids, order, axis=1)
    return distances, found


# ------------------------------------------------------------------------------------ the answers


@every_metric
@every_storage
def test_all_cells_give_the_answer_of_flat(code_kernels, rng, metric, storage):
    X = blobs(rng, 700, 10)
    X[::50] = 0
    X[3] = X[5]
    Q = np.concatenate([X[:4], blobs(rng, 4, 10)])
    index = trained(X, metric, kernels=code_kernels, storage=storage).add(X)
    flat = lw.Flat(10, metric).add(X)
    for k in (1, 10, 700, 710):
        expected = tuple(flat.search(Q, k))
        for n_probe in (12, 13, 10**6):
            assert_same_bytes(tuple(index.search(Q, k, n_probe=n_probe)), expected, k, n_probe)
    assert_same_bytes(index.score(Q, expected[1]), expected[0])
    assert (index.search(Q, 5, n_probe=12).stats["candidates"] == 700).all()


@every_metric
@every_storage
@pytest.mark.parametrize("n_probe", [1, 3, 8])
def test_fewer_cells_give_the_answer_of_flat_among_their_rows(rng, metric, storage, n_probe):
    Q = blobs(rng, 6, 9)
    for _ in range(50):
        X = blobs(rng, 500, 9)
        index = trained(X, metric, storage=storage).add(X)
        labels, clear = cells_by_hand(X, index)
        if clear:
            break
    assert clear, "no row may be so near a border that float32 could put it into the other cell"
    assert np.array_equal(index.list_sizes, np.bincount(labels, minlength=12))
    probes = probes_by_hand(Q, index, n_probe)
    allowed = (labels == probes[:, :, None]).any(axis=1)
    flat = lw.Flat(9, metric).add(X)
    for k in (1, 10, 300):
        expected = restricted(flat, Q, k, allowed)
        result = index.search(Q, k, n_probe=n_probe)
        assert_same_bytes(tuple(result), expected, k)
        assert np.array_equal(result.stats["candidates"], allowed.sum(axis=1))
    assert (expected[1] == -1).any() or n_probe > 3, "cells with fewer than k rows must be tried"
    for share in (0.0, 0.1, 0.6):
        mask = rng.random(500) < share
        few = allowed & mask
        for form in (mask, np.flatnonzero(mask), np.packbits(mask, bitorder="little")):
            result = index.search(Q, 10, n_probe=n_probe, filter=form)
            assert_same_bytes(tuple(result), restricted(flat, Q, 10, few), share)
            assert np.array_equal(result.stats["candidates"], few.sum(axis=1))
    assert_same_bytes(index.pool(Q, 20, n_probe=n_probe), index.search(Q, 20, n_probe=n_probe).ids)


def test_the_number_of_probes_can_be_set_once(rng):
    X = blobs(rng, 300, 5)
    one = trained(X, "l2", n_probe=2).add(X)
    other = trained(X, "l2").add(X)
    assert (one.n_probe, other.n_probe) == (2, 8)
    assert_same_bytes(tuple(one.search(X, 5)), tuple(other.search(X, 5, n_probe=2)))
    assert_same_bytes(tuple(one.search(X, 5, n_probe=8)), tuple(other.search(X, 5)))


@every_metric
@every_storage
def test_a_finite_eps0_is_as_reproducible(code_kernels, rng, metric, storage):
    X, Q = blobs(rng, 900, 48), blobs(rng, 4, 48)
    options = {"k": 10, "eps0": 0.5, "delta": 8, "n_probe": 7}
    plain = trained(X, metric, kernels="scalar", n_threads=1, storage=storage).add(X)
    expected = plain.search(Q, **options)
    index = trained(X, metric, kernels=code_kernels, storage=storage).add(X)
    for n_threads in THREADS:
        got = index.search(Q, n_threads=n_threads, **options)
        assert_same_bytes(tuple(got), tuple(expected), n_threads)
        assert_same_bytes(got.stats["dimensions"], expected.stats["dimensions"])
        assert_same_bytes(got.distances, index.score(Q, got.ids))
    if storage == "f32":
        exact = index.search(Q, 10, n_probe=7)
        assert expected.stats["dimensions"].sum() < exact.stats["dimensions"].sum()


# ------------------------------------------------------------------------- the same for everybody


@every_metric
@every_storage
def test_same_bits_for_everybody(code_kernels, rng, metric, storage):
    X = blobs(rng, 5500, 4)  # probed cells of several pieces
    Q = np.concatenate([X[:3], blobs(rng, 3, 4)])
    reference = trained(X[:500], metric, 7, kernels="scalar", n_threads=1).add(X)
    expected = {p: tuple(reference.search(Q, 12, n_probe=p)) for p in (2, 7)}
    index = trained(X[:500], metric, 7, kernels=code_kernels, n_threads=3, storage=storage)
    for begin, end in ((0, 1), (1, 17), (17, 17), (17, 4000), (4000, 5500)):
        index.add(X[begin:end], n_threads=2)
    assert_same_bytes(index.centroids, reference.centroids)
    assert_same_bytes(index.list_sizes, reference.list_sizes)
    for n_probe, answer in expected.items():
        for n_threads in THREADS:
            got = tuple(index.search(Q, 12, n_probe=n_probe, n_threads=n_threads))
            assert_same_bytes(got, answer, n_probe, n_threads)
            alone = [index.search(q, 12, n_probe=n_probe, n_threads=n_threads) for q in Q]
            together = tuple(np.concatenate(parts) for parts in zip(*alone, strict=True))
            assert_same_bytes(together, answer, n_probe, n_threads, "alone")


@every_metric
def test_cells_are_those_of_k_means(rng, metric):
    """L2 on the rows as they are, or as they are scored where that is without their lengths."""
    X = blobs(rng, 300, 5)
    index = trained(X, metric, seed=3, train_iterations=4)
    kind = "cosine" if metric == "cosine" else "l2"
    model = lw.KMeans(12, metric=kind, init="random", max_iter=4, random_state=3).fit(X)
    assert_same_bytes(index.centroids, model.cluster_centers_)


def test_the_seed_decides_the_cells(rng):
    X = blobs(rng, 300, 5)
    one, again, other = (trained(X, "l2", seed=s) for s in (1, 1, 2))
    assert_same_bytes(one.centroids, again.centroids)
    assert not np.array_equal(one.centroids, other.centroids)
    few = trained(X, "l2", seed=1, train_iterations=1)
    assert not np.array_equal(one.centroids, few.centroids)


# ---------------------------------------------------------------------------------- awkward lists


@every_metric
def test_empty_cells_are_probed_for_nothing(rng, metric):
    X = blobs(rng, 400, 6)
    index = trained(X, metric)
    home = index.centroids[3] * 2
    near = (home + 0.01 * rng.standard_normal((70, 6))).astype(np.float32)
    index.add(near)
    assert index.list_sizes.sum() == 70
    assert (index.list_sizes == 0).sum() >= 9
    flat = lw.Flat(6, metric).add(near)
    assert_same_bytes(tuple(index.search(X[:5], 9, n_probe=12)), tuple(flat.search(X[:5], 9)))
    # A query that meets empty cells only.
    for n_probe in (1, 2, 5):
        result = index.search(X[:40], 9, n_probe=n_probe)
        nothing = result.stats["candidates"] == 0
        assert (result.ids[nothing] == -1).all()
        assert (result.distances[nothing] == np.inf).all()
        assert nothing.any() or n_probe > 1


def test_cells_of_equal_points():
    X = np.repeat(np.float32([[1, 2], [5, 6]]), 40, axis=0)
    index = lw.IVF(2, 5).train(X).add(X)
    assert index.list_sizes.sum() == 80
    assert index.search(X[:1], 3, n_probe=5).ids.tolist() == [[0, 1, 2]]
    assert index.search(X[-1:], 3, n_probe=5).ids.tolist() == [[40, 41, 42]]


@every_metric
def test_one_cell_and_a_cell_for_each_row(rng, metric):
    X = blobs(rng, 30, 6)
    expected = tuple(lw.Flat(6, metric).add(X).search(X, 4))
    for n_lists in (1, 30):
        index = trained(X, metric, n_lists).add(X)
        assert_same_bytes(tuple(index.search(X, 4, n_probe=30)), expected, n_lists)
        assert index.list_sizes.shape == (n_lists,)
        assert index.list_sizes.sum() == 30


@every_metric
def test_an_index_without_rows(rng, metric):
    X = blobs(rng, 50, 6)
    index = trained(X, metric)
    assert len(index) == 0
    for each in (index, index.add(np.empty((0, 6), dtype=np.float32))):
        distances, ids = each.search(X[:2], 3)
        assert ids.tolist() == [[-1] * 3] * 2
        assert (distances == np.inf).all()
        assert each.list_sizes.tolist() == [0] * 12
    assert index.search(np.empty((0, 6)), 3).ids.shape == (0, 3)
    assert index.add(X).search(X[:2], 0).ids.shape == (2, 0)
    assert index.search(np.empty((0, 6)), 3).ids.shape == (0, 3)


def test_properties(rng):
    X = blobs(rng, 50, 6)
    index = trained(X, "cosine").add(X)
    assert repr(index) == "IVF(dim=6, n_lists=12, metric='cosine', n=50)"
    assert (index.dim, index.metric, index.n_lists, len(index)) == (6, "cosine", 12, 50)
    assert index.centroids.shape == (12, 6)
    assert index.centroids.dtype == np.float32
    assert index.nbytes >= 2 * X.nbytes


@pytest.mark.parametrize("dtype", ["float16", "float64", "uint8", "int8"])
def test_other_types_are_their_float32(rng, dtype):
    X = rng.integers(0, 100, (120, 5)).astype(dtype)
    got, expected = (trained(V, "l2").add(V).search(V[:9], 5) for V in (X, X.astype(np.float32)))
    assert_same_bytes(tuple(got), tuple(expected))


# -------------------------------------------------------------------------------------- refusals


def test_an_untrained_index_says_so(rng):
    X = blobs(rng, 50, 6)
    index = lw.IVF(6, 12)
    for call in (index.add, index.search, lambda X: index.pool(X, 3), lambda X: index.centroids):
        with pytest.raises(ValueError, match=r"^IVF: expected a trained index, call train first"):
            call(X)
    assert len(index) == 0
    assert index.list_sizes.tolist() == [0] * 12


def test_training_comes_first(rng):
    X = blobs(rng, 50, 6)
    index = trained(X, "l2").train(X[10:])  # again, as long as there are no rows
    index.add(X)
    expected = tuple(index.search(X, 5))
    with pytest.raises(ValueError, match=r"^IVF: expected to be trained before rows are added"):
        index.train(X)
    assert_same_bytes(tuple(index.search(X, 5)), expected)


WRONG = [
    (np.full((20, 6), np.nan), ValueError, "finite"),
    (np.full((20, 6), 1e19), ValueError, "no longer than"),
    (np.ones((20, 5)), ValueError, "dimension 6, got 5"),
    (np.ones(6), ValueError, "2-D"),
    (np.ones((20, 6), dtype=int), TypeError, "int64"),
]


@pytest.mark.parametrize(("value", "error", "words"), WRONG)
def test_what_is_refused_changes_nothing(rng, value, error, words):
    X = blobs(rng, 50, 6)
    index = lw.IVF(6, 12)
    with pytest.raises(error, match=f"^X: .*{words}"):
        index.train(value)
    with pytest.raises(ValueError, match=r"^X: .* at least .* 12 rows, got 11"):
        index.train(X[:11])
    with pytest.raises(ValueError, match="trained"):
        index.search(X)
    index.train(X).add(X)
    expected, sizes = tuple(index.search(X, 5)), index.list_sizes
    with pytest.raises(error, match=f"^X: .*{words}"):
        index.add(value)
    if value.ndim == 2:
        with pytest.raises(error, match=f"^queries: .*{words}"):
            index.search(value)
    assert_same_bytes(tuple(index.search(X, 5)), expected)
    assert_same_bytes(index.list_sizes, sizes)
    assert len(index) == 50


OPTIONS = [
    ({"dim": 0}, ValueError, "dim"),
    ({"n_lists": 0}, ValueError, "n_lists"),
    ({"n_lists": 2.0}, TypeError, "n_lists"),
    ({"metric": "dot"}, ValueError, "metric"),
    ({"n_probe": 0}, ValueError, "n_probe"),
    ({"train_iterations": 0}, ValueError, "train_iterations"),
    ({"seed": -1}, ValueError, "seed"),
    ({"storage": "sq2"}, ValueError, "storage"),
    ({"rotation": "fwht"}, ValueError, "rotation"),
    ({"kernels": "sse9"}, ValueError, "kernels"),
    ({"n_threads": 0}, ValueError, "n_threads"),
]


@pytest.mark.parametrize(("options", "error", "name"), OPTIONS)
def test_wrong_construction_is_named(options, error, name):
    with pytest.raises(error, match=f"^{name}: "):
        lw.IVF(**{"dim": 3, "n_lists": 2, **options})


@pytest.mark.parametrize("name", ["k", "n_probe", "eps0", "delta", "n_threads"])
def test_wrong_options_are_named(rng, name):
    X = blobs(rng, 50, 6)
    index = trained(X, "l2").add(X)
    with pytest.raises(ValueError, match=f"^{name}: "):
        index.search(X, **{name: -1})
    with pytest.raises(TypeError, match=f"^{name}: "):
        index.search(X, **{name: "1"})


# ------------------------------------------------------------------------------------- lifetimes


@every_metric
@every_storage
def test_pickles_and_copies_answer_the_same(kernels, rng, metric, storage):
    X = blobs(rng, 200, 6)
    options = {"n_probe": 3, "seed": 5, "storage": storage}
    index = trained(X, metric, kernels=kernels, **options).add(X[:150])
    expected, sizes = tuple(index.search(X, 7)), index.list_sizes
    whole = tuple(trained(X, metric, **options).add(X).search(X, 7))
    for twin in (pickle.loads(pickle.dumps(index)), copy.deepcopy(index)):
        assert_same_bytes(tuple(twin.search(X, 7)), expected)
        assert_same_bytes(twin.list_sizes, sizes)
        assert_same_bytes(twin.centroids, index.centroids)
        assert_same_bytes(tuple(twin.add(X[150:]).search(X, 7)), whole)
    assert_same_bytes(tuple(index.search(X, 7)), expected)
    untrained = pickle.loads(pickle.dumps(lw.IVF(6, 12)))
    untrained.train(X).add(X).search(X, 1)


@every_metric
def test_searches_during_adds_see_all_or_nothing(rng, metric):
    X = blobs(rng, 300, 4)
    ends = [10, 11, 64, 65, 200, 300]
    states = [tuple(trained(X, metric).add(X[:end]).search(X[:3], 30)) for end in ends]
    known = {tuple(part.tobytes() for part in state): i for i, state in enumerate(states)}
    index = trained(X, metric, n_threads=2).add(X[: ends[0]])
    cases.assert_changes_are_seen_whole(
        lambda: tuple(part.tobytes() for part in index.search(X[:3], 30)),
        known,
        [functools.partial(index.add, X[begin:end]) for begin, end in itertools.pairwise(ends)],
    )
    assert_same_bytes(tuple(index.search(X[:3], 30)), states[-1])


def test_adds_at_once_are_one_after_another(rng):
    """No row may be lost, and none may stand in a cell that is not its own."""
    X = cases.integers(rng, (240, 3), 50)
    index = trained(X, "l2")
    barrier = threading.Barrier(4)

    def add(lane):
        barrier.wait(timeout=60)
        for batch in range(lane, 40, 4):
            index.add(X[6 * batch : 6 * batch + 6])

    threads = [threading.Thread(target=add, args=(lane,)) for lane in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(index) == 240
    assert index.list_sizes.sum() == 240
    expected = lw.Flat(3).add(X).search(X, 5).distances
    assert_same_bytes(index.search(X, 5, n_probe=12).distances, expected)


# --------------------------------------------------------------------------------------- files


@every_metric
@pytest.mark.parametrize("storage", ["sq8", "f32", "binary"])
def test_a_file_answers_as_the_index_did(tmp_path, rng, metric, storage):
    X = blobs(rng, 400, 6)
    index = lw.IVF(6, 12, metric, n_probe=3, storage=storage, seed=5).train(X).add(X[:300])
    index.save(tmp_path / "index.lw")
    for mmap in (False, True):
        loaded = lw.IVF.load(tmp_path / "index.lw", mmap=mmap)
        assert repr(loaded) == repr(index)
        assert_same_bytes(loaded.centroids, index.centroids)
        assert_same_bytes(loaded.list_sizes, index.list_sizes)
        for n_probe in (None, 12):
            got, expected = (one.search(X, 7, n_probe=n_probe) for one in (loaded, index))
            assert_same_bytes(tuple(got), tuple(expected), mmap, n_probe)
        loaded.add(X[300:])
        whole = trained_like(index, X)
        got, expected = (one.search(X, 7, n_probe=12) for one in (loaded, whole))
        assert_same_bytes(tuple(got), tuple(expected), mmap)
    untrained = lw.IVF(6, 12, metric)
    untrained.save(tmp_path / "untrained.lw")
    with pytest.raises(ValueError, match="train"):
        lw.IVF.load(tmp_path / "untrained.lw").search(X, 1)
    lw.IVF.load(tmp_path / "untrained.lw").train(X).add(X).search(X, 1)


def trained_like(index, X):
    """An index with the cells of another one, and all of X."""
    other = pickle.loads(pickle.dumps(index))
    return other.add(X[len(other) :])


def test_files_that_do_not_fit_are_refused(tmp_path, rng):
    X = blobs(rng, 100, 4)
    path = tmp_path / "index.lw"
    index = lw.IVF(4, 5).train(X).add(X)
    index.save(path)
    header, arrays = io.read(path, "ivf")
    wrong = {
        "n_lists": ({**header, "n_lists": 6}, arrays),
        "seed": ({name: value for name, value in header.items() if name != "seed"}, arrays),
        "centroids": (header, {**arrays, "centroids": arrays["centroids"][:4]}),
        "centroids of another dimension": (header, {**arrays, "centroids": np.ones((5, 3), "f4")}),
        "centroids with NaN": (header, {**arrays, "centroids": np.full((5, 4), np.nan, "f4")}),
        "no centroids": (header, {n: a for n, a in arrays.items() if n != "centroids"}),
        "labels": (header, {**arrays, "list_of": arrays["list_of"][::-1].copy() * 0}),
        "negative labels": (header, {**arrays, "list_of": arrays["list_of"] - 1}),
        "rows in lists": (header, {**arrays, "row_of": arrays["row_of"] + 100}),
    }
    for what, (some_header, some_arrays) in wrong.items():
        io.write(path, "ivf", some_header, some_arrays)
        with pytest.raises(io.FileFormatError, match="IVF"):
            assert lw.IVF.load(path) is None, what
    lw.Flat(4).add(X).save(path)
    with pytest.raises(io.FileFormatError):
        lw.IVF.load(path)


# ---------------------------------------------------------------------------------------- life


@every_metric
@pytest.mark.parametrize("storage", ["sq8", "f32"])
def test_a_life_of_additions_and_removals(tmp_path, rng, metric, storage):
    """After every change the answers are those of a new index of what is left."""
    X = np.concatenate([blobs(rng, 300, 5), blobs(rng, 300, 5)])
    index = lw.IVF(5, 9, metric, storage=storage).train(X)
    held = {}

    def check():
        ids = np.array(list(held), dtype=np.int64)
        assert len(index) == len(ids)
        assert_same_bytes(index.ids, ids)
        whole = lw.Flat(5, metric).add(X[list(held.values())], ids) if held else None
        expected = whole.search(X[:20], 8) if held else (np.inf, -1)
        for some in (index, pickle.loads(pickle.dumps(index))):
            got = some.search(X[:20], 8, n_probe=9)
            assert np.array_equal(got.distances, np.broadcast_to(expected[0], (20, 8)))
            assert np.array_equal(got.ids, np.broadcast_to(expected[1], (20, 8)))
            assert some.list_sizes.sum() == len(ids)

    def add(rows, ids=None):
        index.add(X[rows], ids)
        given = index.ids[-len(rows) :] if ids is None else ids
        held.update(zip(given.tolist(), rows.tolist(), strict=True))

    def remove(ids):
        index.remove(ids)
        for i in ids:
            del held[int(i)]

    check()
    add(np.arange(200))
    check()
    remove(np.arange(0, 40))
    check()
    add(np.arange(200, 260))
    check()
    remove(np.arange(100, 200))
    check()
    add(np.arange(260, 300), ids=np.arange(40) + 5000)
    check()
    add(np.arange(300, 310), ids=np.arange(10))
    check()
    index.save(tmp_path / "index.lw")
    index = lw.IVF.load(tmp_path / "index.lw", mmap=True)
    check()
    remove(index.ids)
    check()
    index.save(tmp_path / "index.lw")
    index = lw.IVF.load(tmp_path / "index.lw")
    add(np.arange(50))
    check()


def test_removals_of_an_ivf_are_checked(rng):
    X = blobs(rng, 50, 3)
    index = lw.IVF(3, 4).train(X).add(X, np.arange(50) * 2)
    for wrong in ([1], [2, 100], [-5]):
        with pytest.raises(ValueError, match="ids"):
            index.remove(wrong)
    with pytest.raises(ValueError, match="ids"):
        index.add(X[:2], [200, 4])
    assert len(index) == 50
    only = index.search(X[:3], 2, n_probe=4, filter=[4, 6]).ids
    assert set(only.ravel().tolist()) == {4, 6}
