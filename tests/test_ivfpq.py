"""IVFPQ: codes and estimates beside the oracle, answers beside Flat among candidates, its life."""

import copy
import pickle

import cases
import numpy as np
import pytest
from cases import LANES, THREADS, assert_same_bytes
from test_ivf import blobs

import lanewise as lw
from lanewise import io, oracle
from lanewise.pq import ProductQuantizer

METRICS = ("l2", "ip", "cosine")
every_metric = pytest.mark.parametrize("metric", METRICS)
KINDS = {
    "4 bits": {"n_bits": 4, "n_subspaces": 6},
    "4 bits, odd": {"n_bits": 4, "n_subspaces": 3},
    "8 bits": {"n_bits": 8, "n_subspaces": 4},
    "of the mean": {"n_bits": 4, "n_subspaces": 12, "by_residual": False},
    "8 bits of the mean": {"n_bits": 8, "n_subspaces": 2, "by_residual": False},
    "turned": {"n_bits": 4, "n_subspaces": 6, "rotation": "opq"},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def trained(X, metric="l2", n_lists=9, kind="4 bits", **options):
    options = KINDS[kind] | {"train_iterations": 5, "code_iterations": 5} | options
    return lw.IVFPQ(X.shape[1], n_lists, metric, **options).train(X)


def parts(index):
    """The state, its plan, and its arrays without room to grow."""
    state = index._rows.snapshot.state
    return state, state.planes.plan, state.planes.arrays(state.positions)


def codes_at(index):
    """Codes (positions, n_subspaces) as they are stored."""
    state, _, arrays = parts(index)
    n_bytes = arrays["codes"].size // state.positions
    by_row = arrays["codes"].reshape(-1, n_bytes, LANES).swapaxes(1, 2).reshape(-1, n_bytes)
    if index.n_bits == 4:
        by_row = np.stack([by_row & 15, by_row >> 4], axis=2).reshape(len(by_row), -1)
    return by_row


def as_scored(X, metric):
    if metric != "cosine":
        return X
    index = lw.Flat(X.shape[1], "cosine").add(X)
    return index.rows


# ---------------------------------------------------------------------------- what is stored


@every_metric
@every_kind
def test_what_is_stored(rng, metric, kind):
    X = blobs(rng, 500, 12)
    index = trained(X, metric, kind=kind).add(X)
    state, plan, arrays = parts(index)
    rows = as_scored(X, metric)
    at, numbers = np.nonzero(state.row_of >= 0)[0], state.row_of[state.row_of >= 0]
    labels = state.list_of[numbers]
    own = plan.centroids[labels] if plan.by_residual else np.repeat([plan.center], len(at), axis=0)
    residuals = rows[numbers] - own
    quantizer = ProductQuantizer(12, index.n_subspaces, index.n_bits)
    quantizer._take(plan.words, plan.axes)
    codes = quantizer.encode(residuals)
    stored = codes_at(index)
    assert np.array_equal(stored[at, : index.n_subspaces], codes)
    assert not stored[:, index.n_subspaces :].any()

    # In float64; the axes have rounded once or not at all, and bfloat16 has eight digits.
    axes = np.eye(12) if plan.axes is None else plan.axes.astype(np.float64)
    turned = residuals.astype(np.float64) @ axes.T
    decoded = np.concatenate([w[c] for w, c in zip(plan.words, codes.T, strict=True)], axis=1)
    decoded = decoded.astype(np.float64)
    product, length2 = (turned * decoded).sum(axis=1), (turned**2).sum(axis=1)
    factors = oracle.bfloat16(arrays["factors"][at])
    expected = np.divide(length2, product, out=np.zeros_like(product), where=product > 0)
    expected = np.minimum(expected, 4)
    digits = 2.0**-8 + oracle.project_error(12, 1.0)
    assert (np.abs(factors - expected) <= digits * np.abs(expected) * (1 + length2.max())).all()
    left = np.sqrt(((turned - factors[:, np.newaxis] * decoded) ** 2).sum(axis=1))
    errors = oracle.bfloat16(arrays["errors"][at])
    rounded = oracle.project_error(12, np.abs(residuals).sum(axis=1).max() * 12)
    assert (errors >= left - rounded).all()
    assert (errors <= (left + rounded) * (1 + 2.0**-6)).all()
    base = length2 / 2 if metric == "l2" else -(own.astype(np.float64) * residuals).sum(axis=1)
    if plan.by_residual:
        seen = (plan.centroids.astype(np.float64) - plan.center) @ axes.T
        base = base + factors * (seen[labels] * decoded).sum(axis=1)
    scale = (
        np.abs(base).max() + np.abs(seen[labels] * decoded).sum(axis=1).max() * factors.max()
        if plan.by_residual
        else np.abs(base).max()
    )
    slack = oracle.gamma(8) * scale + rounded * (1 + np.abs(decoded).sum())
    assert (np.abs(arrays["base"][at] - base) <= slack).all()
    empty = np.setdiff1d(np.arange(state.positions), at)
    assert np.isinf(arrays["base"][empty]).all()
    assert sum(arrays[name].itemsize for name in ("base", "factors", "errors")) == 8


# ------------------------------------------------------------------------------- the estimates


def project(x, axes):
    return cases.project(cases.SCALAR, x, np.ascontiguousarray(axes))[:, : len(axes)]


def coded_query(plan, z):
    """A query's codes, and the step of its products with coded words."""
    words = plan.words
    length = words.shape[2]
    # What a sub-vector adds to a product with words of four bits has fifteen, if it is short.
    tables = words.shape[1] == 16 and length <= 16
    largest = min(127, (2**15 - 1) // (126 * length)) if tables else 127
    return oracle.query_codes(z, oracle.word_codes(words)[1].ravel(), largest)


def estimates_of(index, query):
    """Estimates of all positions, with what all have in common left out, and the lists by rank."""
    state, plan, arrays = parts(index)
    seen = query - plan.center
    if plan.axes is not None:
        seen = project(seen[np.newaxis], plan.axes)[0]
    centroids = plan.centroids - plan.center
    if plan.axes is not None:
        centroids = project(centroids, plan.axes)
    wide = centroids.astype(np.float64)
    part = (wide**2).sum(axis=1) / 2
    if index.metric != "l2":
        part = -(plan.centroids.astype(np.float64) * plan.center).sum(axis=1)
    part = part.astype(np.float32) - project(seen[np.newaxis], centroids)[0]
    numbers = oracle.word_codes(plan.words)[0]
    codes = codes_at(index)[:, : index.n_subspaces]
    rows = numbers[np.arange(index.n_subspaces), codes].reshape(len(codes), -1)
    own, step = coded_query(plan, seen)
    total = 64 * own.sum(dtype=np.int64)
    asked = np.full((1, len(codes) // LANES), 0xFFFF, np.uint16)
    _, estimates = oracle.screen_decoded(
        rows, arrays["base"], arrays["factors"], [own], [total], [step], [np.inf], asked
    )
    estimates = estimates[0]
    list_at = np.repeat(np.arange(index.n_lists), np.diff(state.list_begin))
    if plan.by_residual:
        estimates = estimates + part[list_at]
    return estimates, list_at, np.lexsort((np.arange(index.n_lists), part))


@every_metric
@every_kind
def test_the_best_estimates_are_scored(rng, metric, kind):
    """What the oracle makes of the stored codes decides, to the last bit, which rows are scored."""
    X = blobs(rng, 700, 12)
    index = trained(X, metric, kind=kind).add(X)
    flat = lw.Flat(12, metric).add(X)
    state, _, _ = parts(index)
    Q = blobs(rng, 8, 12)
    scored = as_scored(Q, metric)
    for n_probe, rerank in ((1, 5), (3, 10), (9, 40), (9, 300)):
        got = index.search(Q, 5, n_probe=n_probe, rerank=rerank)
        for q in range(len(Q)):
            estimates, list_at, order = estimates_of(index, scored[q])
            visited = np.isin(list_at, order[:n_probe]) & (state.row_of >= 0)
            positions = np.flatnonzero(visited)
            best = positions[np.argsort(estimates[positions], kind="stable")[:rerank]]
            expected = flat.rescore(Q[q], state.row_of[best], 5)
            assert_same_bytes(got.ids[q], expected.ids[0], n_probe, rerank, q)
            assert_same_bytes(got.distances[q], expected.distances[0])
            assert got.stats["candidates"][q] == len(positions)
            assert got.stats["settled"][q] == len(best)


@every_metric
@every_kind
def test_without_rerank_the_estimates_are_the_answer(rng, metric, kind):
    X = blobs(rng, 700, 12)
    ids = rng.permutation(5000)[:700]
    index = trained(X, metric, kind=kind).add(X, ids)
    state, _, _ = parts(index)
    Q = blobs(rng, 8, 12)
    scored = as_scored(Q, metric)
    for k, n_probe in ((1, 1), (10, 3), (400, 9)):
        got = index.search(Q, k, n_probe=n_probe, rerank=0)
        assert np.array_equal(index.pool(Q, k, n_probe=n_probe, rerank=0), got.ids)
        assert (got.stats["settled"] == 0).all()
        for q in range(len(Q)):
            estimates, list_at, order = estimates_of(index, scored[q])
            visited = np.isin(list_at, order[:n_probe]) & (state.row_of >= 0)
            positions = np.flatnonzero(visited)
            best = positions[np.argsort(estimates[positions], kind="stable")[:k]]
            found = got.ids[q][got.ids[q] >= 0]
            assert sorted(found.tolist()) == sorted(ids[state.row_of[best]].tolist())
            # Estimates leave out what all rows have in common; a distance is rounded once.
            distances = got.distances[q][: len(best)]
            assert (np.diff(distances) >= 0).all()
            told = estimates[best].astype(np.float64) * (2 if metric == "l2" else 1)
            common = (distances - told)[distances != 0]
            assert np.ptp(common) <= 2.02 * oracle.UNIT * np.abs(distances).max()
    with pytest.raises(ValueError, match=r"^rerank: "):
        index.search(Q, 5, rerank=4)


@pytest.mark.parametrize("n_bits", [4, 8])
@pytest.mark.parametrize(
    ("dim", "n_subspaces"), [(40, 40), (40, 10), (40, 8), (40, 5), (32, 2), (34, 2), (40, 2)]
)
@pytest.mark.parametrize("kind", ["blobs", "one sign"])
def test_every_length_of_sub_vectors(rng, kind, dim, n_bits, n_subspaces):
    """Looked up alone, decoded for many, the estimates are those of the oracle."""
    if kind == "blobs":
        X, Q = blobs(rng, 500, dim), blobs(rng, 40, dim)
    else:
        # The largest codes there are, of words and of queries: what they add is as large as can be.
        X = np.repeat(rng.choice(np.float32([-1, 1]), (500, 1)), dim, axis=1)
        X[::5] *= rng.choice(np.float32([-1, 1]), (100, dim))
        Q = np.repeat(rng.choice(np.float32([-9, 9]), (40, 1)), dim, axis=1)
    index = trained(X, n_lists=3, n_bits=n_bits, n_subspaces=n_subspaces, by_residual=False).add(X)
    state, _, _ = parts(index)
    there = np.flatnonzero(state.row_of >= 0)
    together = index.search(Q, 12, n_probe=3, rerank=0)
    for q, query in enumerate(Q):
        estimates = estimates_of(index, query)[0][there]
        best = there[np.argsort(estimates, kind="stable")[:12]]
        alone = index.search(query, 12, n_probe=3, rerank=0)
        assert sorted(alone.ids[0].tolist()) == sorted(state.row_of[best].tolist())
        assert_same_bytes(together.ids[q], alone.ids[0], q)
        assert_same_bytes(together.distances[q], alone.distances[0], q)


@pytest.mark.parametrize("n_bits", [4, 8])
def test_many_queries_at_long_lists(code_kernels, rng, n_bits):
    """More than meet a list at once, and lists of which only a part is decoded at once."""
    X, Q = blobs(rng, 3000, 12), blobs(rng, 150, 12)
    index = trained(X, n_lists=2, n_bits=n_bits, kernels=code_kernels).add(X)
    mask = rng.random(3000) < 0.5
    for options in ({}, {"filter": mask}, {"filter": np.arange(3)}, {"rerank": 0}):
        options = {"n_probe": 2, "rerank": 25, "n_threads": 1} | options
        together = index.search(Q, 5, **options)
        alone = [index.search(query, 5, **options) for query in Q]
        assert_same_bytes(np.concatenate([one.ids for one in alone]), together.ids)
        assert_same_bytes(np.concatenate([one.distances for one in alone]), together.distances)
        for name, numbers in together.stats.items():
            assert_same_bytes(np.concatenate([one.stats[name] for one in alone]), numbers)


@pytest.mark.parametrize("n_bits", [4, 8])
def test_a_power_of_two_changes_nothing(rng, n_bits):
    """Nor does one so small that one over a step would be infinite."""
    X, Q = blobs(rng, 600, 12), blobs(rng, 20, 12)
    expected = trained(X, n_bits=n_bits).add(X).search(Q, 5, n_probe=4, rerank=12)
    for power in (-60, 40):
        scaled = [np.ldexp(x, power).astype(np.float32) for x in (X, Q)]
        got = trained(scaled[0], n_bits=n_bits).add(scaled[0])
        assert_same_bytes(got.search(scaled[1], 5, n_probe=4, rerank=12).ids, expected.ids, power)


@cases.in_foreign_float_modes
def test_callers_float_mode_changes_nothing(rng, tmp_path, mode):
    X, Q = blobs(rng, 600, 12), blobs(rng, 20, 12)
    index = trained(X).add(X)
    index.save(tmp_path / "index.lw")
    expected = index.search(Q, 5, n_probe=4, rerank=0)
    with cases.float_mode(mode):
        got = lw.IVFPQ.load(tmp_path / "index.lw").search(Q, 5, n_probe=4, rerank=0)
    assert_same_bytes(tuple(got), tuple(expected))


def test_more_lists_than_rows(rng):
    X = blobs(rng, 300, 12)
    index = trained(X, n_lists=250).add(X).remove(np.arange(0, 300, 2))
    kept = np.arange(1, 300, 2)
    flat = lw.Flat(12).add(X[kept], kept)
    for Q in (X[:1], X[:40]):
        got = index.search(Q, 5, n_probe=250, rerank=150)
        assert_same_bytes(tuple(got), tuple(flat.search(Q, 5)))


@pytest.mark.parametrize("n_bits", [4, 8])
def test_estimates_are_near(rng, n_bits):
    """With a code word for every value nothing is lost but what tables and factors round."""
    X = rng.choice(np.float32([-1, 1]), (400, 16))
    index = lw.IVFPQ(16, 4, n_subspaces=16, n_bits=4, by_residual=False).train(X).add(X)
    if n_bits == 8:
        index = lw.IVFPQ(16, 4, n_subspaces=8, n_bits=8, by_residual=False).train(X).add(X)
    query = rng.standard_normal(16, dtype=np.float32)
    state, plan, _ = parts(index)
    estimates, _, _ = estimates_of(index, query)
    there = state.row_of >= 0
    exact = ((X[state.row_of[there]] - query.astype(np.float64)) ** 2).sum(axis=1)
    common = ((query - plan.center).astype(np.float64) ** 2).sum()
    # A query's codes are off by half a step, which words take 63 times; a word by half of its own.
    _, step = coded_query(plan, query - plan.center)
    off = 16 * 63 * float(step) / 2
    off += np.abs(query - plan.center).sum() * np.abs(plan.words).max() / 126
    # bfloat16 factors round a product with a row that is four long.
    off += 2.0**-8 * 1.01 * 4 * np.sqrt(common) + 1e3 * oracle.UNIT
    assert (np.abs(2 * estimates[there] + common - exact) <= 2 * 1.01 * off).all()


# ----------------------------------------------------------------------------------- the answers


@every_metric
@every_kind
def test_all_cells_and_candidates_give_the_answer_of_flat(rng, metric, kind):
    X = blobs(rng, 600, 12)
    X[::50] = 0
    X[3] = X[5]
    Q = np.concatenate([X[:4], blobs(rng, 4, 12)])
    index = trained(X, metric, kind=kind).add(X)
    flat = lw.Flat(12, metric).add(X)
    for k in (1, 10, 600, 610):
        expected = tuple(flat.search(Q, k))
        for n_probe in (9, 10**6):
            got = index.search(Q, k, n_probe=n_probe, rerank=700)
            assert_same_bytes(tuple(got), expected, k, n_probe)
    mask = rng.random(600) < 0.3
    for form in (mask, np.flatnonzero(mask), np.packbits(mask, bitorder="little")):
        got = index.search(Q, 9, n_probe=9, rerank=600, filter=form)
        assert_same_bytes(tuple(got), tuple(flat.search(Q, 9, filter=form)))
    assert (index.search(Q, 3, filter=np.zeros(600, bool)).ids == -1).all()
    assert_same_bytes(index.score(Q, expected[1]), expected[0])


@every_metric
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "turned"])
def test_same_bits_for_everybody(kernels, rng, metric, kind):
    # LAPACK may find another rotation elsewhere.
    X, Q = blobs(rng, 900, 12), blobs(rng, 30, 12)
    reference = trained(X, metric, kind=kind, kernels="scalar", n_threads=1).add(X)
    index = trained(X, metric, kind=kind, kernels=kernels, n_threads=3)
    for begin, end in ((0, 1), (1, 17), (17, 17), (17, 900)):
        index.add(X[begin:end], n_threads=2)
    for name, array in reference._rows.arrays()[1].items():
        assert_same_bytes(index._rows.arrays()[1][name], array, name)
    for options in ({"rerank": 20}, {"rerank": 200, "eps0": 1.5}):
        expected = reference.search(Q, 7, n_probe=4, **options)
        for n_threads in THREADS:
            got = index.search(Q, 7, n_probe=4, n_threads=n_threads, **options)
            assert_same_bytes(tuple(got), tuple(expected), n_threads)
            for name, numbers in expected.stats.items():
                assert_same_bytes(got.stats[name], numbers, name)
        alone = [index.search(q, 7, n_probe=4, **options) for q in Q]
        assert_same_bytes(np.concatenate([one.ids for one in alone]), expected.ids)


@every_metric
def test_the_dial_spares_rows_and_keeps_neighbours(rng, metric):
    X, Q = blobs(rng, 3000, 24), blobs(rng, 40, 24)
    index = trained(X, metric, n_subspaces=12).add(X)
    whole = index.search(Q, 10, n_probe=9, rerank=500)
    near = index.search(Q, 10, n_probe=9, rerank=500, eps0=4.0)
    # How far a row may lie that has a large product, no bound says.
    share = 0.8 if metric == "ip" else 0.5
    assert near.stats["settled"].sum() < share * whole.stats["settled"].sum()
    assert_same_bytes(near.distances, index.score(Q, near.ids))
    assert oracle.recall(near.ids, whole.ids, 10) > 0.95


@pytest.mark.parametrize(
    "name", ["huge", "tiny", "far away", "heavy tails", "zero rows", "many ties"]
)
def test_awkward_rows(rng, name):
    X, Q = cases.DATA[name](rng, (400, 12)), cases.DATA[name](rng, (6, 12))
    for metric in METRICS:
        for n_bits in (4, 8):
            index = trained(X, metric, n_lists=5, n_bits=n_bits).add(X)
            expected = tuple(lw.Flat(12, metric).add(X).search(Q, 5))
            got = index.search(Q, 5, n_probe=5, rerank=400)
            assert_same_bytes(tuple(got), expected, metric, n_bits)
            assert (index.search(Q, 5, n_probe=5, rerank=5, eps0=3.0).ids >= 0).all()


@pytest.mark.slow
@every_metric
def test_long_rows_are_read_as_far_as_they_matter(kernels, rng, metric):
    X, Q = blobs(rng, 300, 300), blobs(rng, 5, 300)
    index = trained(X, metric, n_subspaces=30, kernels=kernels).add(X)
    got = index.search(Q, 5, n_probe=9, rerank=300)
    assert_same_bytes(tuple(got), tuple(lw.Flat(300, metric).add(X).search(Q, 5)))
    assert (got.stats["settled"].sum() < 5 * 300) == (metric == "l2")


def test_longest_rows(rng):
    X = cases.longest(rng, (300, 12))
    index = trained(X).add(X)
    expected = tuple(lw.Flat(12).add(X).search(X[:5], 4))
    assert_same_bytes(tuple(index.search(X[:5], 4, n_probe=9, rerank=300)), expected)


def test_equal_rows_go_by_their_ids():
    X = np.repeat(np.float32([[1, 2], [5, 6]]), 40, axis=0)
    index = lw.IVFPQ(2, 5, n_subspaces=1).train(X).add(X)
    assert index.search(X[:1], 3, n_probe=5, rerank=80).ids.tolist() == [[0, 1, 2]]
    assert index.search(X[-1:], 3, n_probe=5, rerank=80).ids.tolist() == [[40, 41, 42]]


# -------------------------------------------------------------------------------------- its life


@every_metric
def test_an_index_without_rows(rng, metric):
    X = blobs(rng, 50, 12)
    index = trained(X, metric)
    for each in (index, index.add(np.empty((0, 12), dtype=np.float32))):
        distances, ids = each.search(X[:2], 3)
        assert ids.tolist() == [[-1] * 3] * 2
        assert (distances == np.inf).all()
        assert each.list_sizes.tolist() == [0] * 9
    index.add(X)
    assert index.search(np.empty((0, 12)), 3).ids.shape == (0, 3)
    assert index.search(X[:2], 0).ids.shape == (2, 0)
    assert index.search(X[:2], 60, n_probe=9, rerank=60).ids[0, 50:].tolist() == [-1] * 10


def test_ids_and_removal(rng):
    X = blobs(rng, 300, 12)
    index = trained(X).add(X, ids=np.arange(300) * 7)
    flat = lw.Flat(12).add(X, ids=np.arange(300) * 7)
    gone = np.arange(0, 300, 9) * 7
    for share in (gone, np.arange(1, 300, 2) * 7):
        share = np.setdiff1d(share, np.setdiff1d(np.arange(300) * 7, index.ids))
        index.remove(share)
        flat.remove(share)
        got = index.search(X[:20], 6, n_probe=9, rerank=300)
        assert_same_bytes(tuple(got), tuple(flat.search(X[:20], 6)))
        assert index.list_sizes.sum() == len(index) == len(flat)
    index.add(X[:3], ids=[5, 6, 8])
    assert index.search(X[1], 1, n_probe=9).ids.tolist() == [[6]]
    everything = index.ids
    index.remove(everything)
    assert len(index) == 0
    assert index.search(X[:2], 2).ids.tolist() == [[-1, -1]] * 2
    assert index.add(X).search(X[:2], 1, n_probe=9).ids.shape == (2, 1)


@every_kind
def test_saved_and_pickled(rng, tmp_path, kind):
    X, Q = blobs(rng, 300, 12), blobs(rng, 5, 12)
    path = tmp_path / "index.lw"
    for stage in ("untrained", "trained", "full"):
        index = lw.IVFPQ(12, 9, "ip", n_probe=3, **KINDS[kind])
        if stage != "untrained":
            index.train(X)
        if stage == "full":
            index.add(X, ids=np.arange(300) + 1000)
        index.save(path)
        others = [pickle.loads(pickle.dumps(index)), copy.deepcopy(index)]
        others += [lw.IVFPQ.load(path, mmap=mmap) for mmap in (False, True)]
        for other in others:
            assert repr(other) == repr(index)
            for name in lw.IVFPQ._SETTINGS:
                assert getattr(other, name) == getattr(index, name)
            if stage == "untrained":
                with pytest.raises(ValueError, match=r"^IVFPQ: expected a trained index"):
                    other.search(Q)
                other.train(X)
            if stage != "full":
                other.add(X, ids=np.arange(300) + 1000)
            assert other.search(Q, 4, n_probe=9, rerank=300).ids.shape == (5, 4)
            if stage == "full":
                assert_same_bytes(tuple(other.search(Q, 4)), tuple(index.search(Q, 4)))
                other.add(X[:2])
                assert len(other) == 302


def damaged(header, arrays):
    """Yield what a file must not say, changed in one place each."""

    def without(name):
        return {key: value for key, value in arrays.items() if key != name}

    for name in (
        "centroids",
        "planes.words",
        "planes.center",
        "planes.codes",
        "planes.by_residual",
    ):
        yield header, without(name)
    changed = {
        "planes.words": arrays["planes.words"][:, :8],
        "planes.center": arrays["planes.center"][1:],
        "planes.centroids": arrays["planes.centroids"][1:],
        "planes.codes": arrays["planes.codes"][1:],
        "planes.base": arrays["planes.base"][16:],
        "planes.factors": arrays["planes.factors"].astype(np.int16),
        "planes.errors": arrays["planes.errors"][:1],
        "list_of": arrays["list_of"] + 1,
    }
    for name, array in changed.items():
        yield header, arrays | {name: np.ascontiguousarray(array)}
    for name in ("planes.words", "planes.center", "planes.centroids", "centroids"):
        wrong = arrays[name].copy()
        wrong.flat[0] = np.nan
        yield header, arrays | {name: wrong}
    # So long that differences would overflow.
    for names in (("planes.center",), ("planes.centroids", "centroids")):
        wrong = arrays[names[0]].copy()
        wrong.flat[0] = 3e38
        yield header, arrays | dict.fromkeys(names, wrong)
    yield header, arrays | {"planes.axes": np.eye(11, dtype=np.float32)}
    for name, value in (
        ("n_bits", 5),
        ("n_subspaces", 5),
        ("n_subspaces", 3),
        ("n_bits", 8),
        ("n_lists", 10),
        ("by_residual", "yes"),
        ("storage", "sq8"),
        ("dim", 13),
        ("metric", "l1"),
    ):
        yield header | {name: value}, arrays
    for name in lw.IVFPQ._SETTINGS:
        yield {key: value for key, value in header.items() if key != name}, arrays


def refuses(path):
    try:
        lw.IVFPQ.load(path)
    except io.FileFormatError:
        return True
    return False


def test_damaged_files_are_refused(rng, tmp_path):
    X = blobs(rng, 300, 12)
    path = tmp_path / "index.lw"
    trained(X).add(X).save(path)
    header, arrays = io.read(path, "ivfpq")
    for number, (wrong_header, wrong_arrays) in enumerate(damaged(header, arrays)):
        io.write(path, "ivfpq", wrong_header, wrong_arrays)
        assert refuses(path), number
    lw.Flat(12).add(X).save(path)
    flat_header, flat_arrays = io.read(path, "flat")
    io.write(path, "flat", flat_header | {"storage": "pq"}, flat_arrays)
    with pytest.raises(io.FileFormatError, match="storage"):
        lw.Flat.load(path)
    io.write(path, "ivfpq", header, arrays)
    assert len(lw.IVFPQ.load(path)) == 300
    with pytest.raises(io.FileFormatError):
        lw.IVF.load(path)


def test_lanes_take_its_pool(rng):
    X = blobs(rng, 400, 12)
    index = trained(X).add(X)
    pool = index.pool(X[:3], 32, n_probe=9, rerank=64)
    assert_same_bytes(pool, index.search(X[:3], 32, n_probe=9, rerank=64).ids)
    lanes = lw.LaneSearch(index, index, n_lanes=2, k_lane=8)
    assert (lanes.search(X[:3], 1).ids[:, 0] == [0, 1, 2]).all()


def test_progress(rng):
    X = blobs(rng, 300, 12)
    said = []
    lw.IVFPQ(12, 9).train(X, progress=lambda *step: said.append(step)).add(
        X, progress=lambda *step: said.append(step)
    )
    what = [step[0] for step in said]
    assert ("code words", 1, 1) in said
    assert what.index("iterating") < what.index("code words") < what.index("assigning")


# -------------------------------------------------------------------------------------- refusals


def test_defaults():
    index = lw.IVFPQ(30, 4)
    assert (index.n_subspaces, index.n_bits, index.by_residual, index.rotation) == (
        15,
        4,
        True,
        None,
    )
    assert lw.IVFPQ(7, 4).n_subspaces == 1
    assert lw.IVFPQ(1, 4).n_subspaces == 1


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"n_subspaces": 5}, ValueError, "n_subspaces: expected a divisor of dim = 12, got 5"),
        ({"n_bits": 6}, ValueError, "n_bits: expected 8 or 4"),
        ({"by_residual": 1}, TypeError, "by_residual: expected True or False, got 1"),
        ({"rotation": "pca"}, ValueError, "rotation: expected None or 'opq'"),
        ({"code_iterations": 0}, ValueError, "train_iterations"),
        ({"n_probe": 0}, ValueError, "n_probe"),
    ],
)
def test_wrong_settings_are_refused(options, error, words):
    with pytest.raises(error, match=words):
        lw.IVFPQ(12, 4, **options)


def test_wrong_arguments_are_refused(rng):
    X = blobs(rng, 300, 12)
    index = lw.IVFPQ(12, 9, n_bits=8, n_subspaces=4)
    for call in (index.add, index.search, lambda X: index.pool(X, 3), lambda X: index.centroids):
        with pytest.raises(ValueError, match=r"^IVFPQ: expected a trained index, call train first"):
            call(X)
    with pytest.raises(ValueError, match=r"^X: expected at least 256 rows, one for each code word"):
        index.train(X[:255])
    with pytest.raises(ValueError, match=r"^X: .*finite"):
        index.train(np.full((300, 12), np.nan))
    index.train(X).add(X)
    with pytest.raises(ValueError, match=r"^IVFPQ: expected to be trained before rows are added"):
        index.train(X)
    expected = tuple(index.search(X[:5], 5))
    for options, words in (
        ({"n_probe": 0}, "n_probe"),
        ({"rerank": 4}, "rerank"),
        ({"eps0": -1.0}, "eps0"),
        ({"eps0": np.nan}, "eps0"),
        ({"filter": np.ones(299, bool)}, "filter"),
    ):
        with pytest.raises(ValueError, match=words):
            index.search(X[:5], 5, **options)
    with pytest.raises(ValueError, match="queries"):
        index.search(np.full(12, np.inf))
    with pytest.raises(ValueError, match="storage"):
        lw.Flat(12, storage="pq")
    with pytest.raises(ValueError, match="storage"):
        lw.IVF(12, 4, storage="pq")
    assert_same_bytes(tuple(index.search(X[:5], 5)), expected)
