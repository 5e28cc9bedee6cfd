"""The scan and what it stands on: exact whatever the data, planes, lists, threads and kernel set.

Whole rows first (scores, lengths, means), then the blocks, then the scan of blocks and of codes
alike. What only codes have is in test_code_driver.py.
"""

import functools
import itertools
import math
from dataclasses import dataclass

import cases
import numpy as np
import pytest
from cases import (
    COUNTS,
    DATA,
    DIMS,
    KINDS,
    METRICS,
    SCALAR,
    THREADS,
    assert_same_bytes,
    beside_scalar,
    draw,
)
from conftest import EXTENSIONS, RUNNABLE

from lanewise import _native, oracle

# --------------------------------------------------------------------------------------- rows


@beside_scalar
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", METRICS)
def test_score_lists_same_bits(kernels, rng, metric, kind):
    for dim in DIMS:
        for n_ids in (0, 1, 17, 65):
            rows, queries = KINDS[kind](rng, (50, dim)), KINDS[kind](rng, (3, dim))
            ids = rng.integers(-1, 50, (3, n_ids))
            got, expected = (
                cases.score_lists(k, metric, queries, rows, ids) for k in (kernels, SCALAR)
            )
            assert_same_bytes(got, expected, dim, n_ids)


@pytest.mark.parametrize("metric", METRICS)
def test_score_lists_exact_on_integers(kernels, rng, metric):
    # More ids than one thread takes at a time, a third of them missing.
    rows, queries = cases.integers(rng, (70, 19)), cases.integers(rng, (4, 19))
    ids = rng.integers(0, 70, (4, 2500))
    ids[rng.random(ids.shape) < 1 / 3] = -1
    if metric == "cosine":  # the caller has normalised; the driver takes what it gets
        rows[::7] = 0
    expected = np.empty(ids.shape)
    for out, query, named in zip(expected, queries, ids, strict=True):
        if metric == "l2":
            out[:] = oracle.l2_rows(query, rows, named)
        elif metric == "ip":
            out[:] = -oracle.dot_rows(query, rows, named)
        else:
            out[:] = np.maximum(0, 1 - oracle.dot_rows(query, rows, named))
    expected[ids < 0] = np.inf
    for n_threads in THREADS:
        got = cases.score_lists(kernels, metric, queries, rows, ids, n_threads)
        assert np.array_equal(got, expected), n_threads


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_and_means_are_sums_in_order(rng, kind):
    for dim in DIMS:
        for n in COUNTS:
            rows = KINDS[kind](rng, (n, dim))
            wide = rows.astype(np.float64)
            # Accumulation is the one NumPy sum that goes strictly from left to right.
            expected = np.add.accumulate(wide**2, axis=1)[:, -1]
            norms2 = np.full(n, np.nan)
            largest = _native.squared_norms(rows, norms2)
            assert_same_bytes(norms2, expected, dim, n)
            assert largest == max([0.0, *expected])

            mean = np.full(dim, np.nan, dtype=np.float32)
            _native.mean(rows, mean)
            total = np.add.accumulate(wide, axis=0)[-1] if n else np.zeros(dim)
            assert np.array_equal(mean, (total / max(n, 1)).astype(np.float32)), (dim, n)

            unit = np.full_like(rows, np.nan)
            _native.normalize(rows, unit)
            lengths = np.sqrt(expected)[:, None]
            quotient = np.divide(wide, lengths, out=np.zeros_like(wide), where=lengths > 0)
            assert_same_bytes(unit, quotient.astype(np.float32), dim, n)


def test_zero_rows_stay_zero_when_normalized():
    unit = np.full((2, 3), np.nan, dtype=np.float32)
    _native.normalize(np.array([[0, -0.0, 0], [0, -2, 0]], np.float32), unit)
    assert_same_bytes(unit, np.array([[0, 0, 0], [0, -1, 0]], np.float32))


# ------------------------------------------------------------------------------------- blocks


def unpacked(store):
    """Rotated rows at their positions, read from the blocks as cpp/drive/scan.h lays them out."""
    dim = store.plan.dim
    rows = np.full((len(store.lists.ids), dim), np.nan, dtype=np.float32)
    for first, last in zip(store.lists.begin, store.lists.begin[1:], strict=False):
        for b in range(first, last, cases.BLOCK):
            w = min(last - b, cases.BLOCK)
            rows[b : b + w] = store.arrays["blocks"][b * dim : (b + w) * dim].reshape(dim, w).T
    return rows


@pytest.mark.parametrize("dim", DIMS)
def test_blocks_hold_centred_rotated_rows(rng, dim):
    plan = cases.rotation_plan(dim)
    sizes = [0, 1, 16, 17, 80, 36] if dim < 300 else [0, 1, 16]
    rows = KINDS["normal"](rng, (sum(sizes), dim)) + np.float32(3)
    lists = cases.many_lists(sizes, order=rng.permutation(len(rows)), padding=1)
    store = cases.make_store(SCALAR, plan, "ip", rows, lists)
    used = lists.ids >= 0
    centered = rows.astype(np.float64) - store.center
    lengths = np.sqrt((centered**2).sum(axis=1))
    found = np.zeros((len(lists.ids), dim))
    found[used] = unpacked(store)[used] - (centered @ plan.matrix.T)[lists.ids[used]]
    # The subtraction of the centre rounds once, on top of the rotation.
    bound = oracle.rotation_error(dim, lengths * (1 + oracle.UNIT)) + oracle.UNIT * lengths
    assert (np.sqrt((found[used] ** 2).sum(axis=1)) <= bound[lists.ids[used]]).all()
    assert not unpacked(store)[~used].any()
    norms = store.arrays["norms"]
    assert not norms[~used].any()
    norms2 = np.add.accumulate(rows.astype(np.float64) ** 2, axis=1)[:, -1]
    assert_same_bytes(norms[used], norms2.astype(np.float32)[lists.ids[used]])
    expected = np.add.accumulate(centered**2, axis=1)[:, -1].max()
    assert store.arrays["max_centered_norm2"] == pytest.approx(expected, rel=dim * 2**-52)


@beside_scalar
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_same_bits(kernels, rng, kind, dim):
    plan = cases.rotation_plan(dim)
    rows = KINDS[kind](rng, (90, dim))
    lists = cases.many_lists([70, 0, 20])
    expected = cases.make_store(SCALAR, plan, "ip", rows, lists)
    for n_threads in (1, 3):
        got = cases.make_store(kernels, plan, "ip", rows, lists, n_threads=n_threads)
        assert_same_bytes(got.center, expected.center)
        for name in ("blocks", "norms"):
            assert_same_bytes(got.arrays[name], expected.arrays[name], name, n_threads)
        assert got.arrays["max_centered_norm2"] == expected.arrays["max_centered_norm2"]


@pytest.mark.parametrize("n_before", [0, 1, 63, 64, 65, 130])
def test_blocks_can_be_filled_bit_by_bit(kernels, rng, n_before):
    plan = cases.rotation_plan(31)
    rows = KINDS["normal"](rng, (200, 31))
    whole = cases.make_store(kernels, plan, "ip", rows, cases.one_list(200))
    blocks = np.full_like(whole.arrays["blocks"], np.nan)
    norms = np.full_like(whole.arrays["norms"], np.nan)
    largest = []
    for n, first in ((n_before, 0), (200, n_before)):
        row_of = np.where(np.arange(len(norms)) < n, whole.lists.ids, -1)
        lists = cases.Lists(whole.lists.begin, np.array([n]), row_of)
        store = cases.native_store("ip", rows, lists)
        arguments = (whole.center, store, first, len(norms), norms, blocks, 2)
        largest.append(_native.fill_blocks(kernels, plan.native, *arguments))
    assert_same_bytes(blocks, whole.arrays["blocks"])
    assert_same_bytes(norms, whole.arrays["norms"])
    assert max(largest) == whole.arrays["max_centered_norm2"]


@pytest.mark.parametrize("step", [64, 128, 192])
def test_blocks_can_be_filled_in_slices(kernels, rng, step):
    """Blocks begin with their lists, and one on a border belongs to both of its slices."""
    plan = cases.rotation_plan(31)
    rows = KINDS["normal"](rng, (400, 31))
    lists = cases.many_lists([150, 0, 10, 240])
    whole = cases.make_store(kernels, plan, "ip", rows, lists)
    n = len(lists.ids)
    blocks = np.full_like(whole.arrays["blocks"], np.nan)
    norms = np.full_like(whole.arrays["norms"], np.nan)
    largest = []
    for first in range(0, n, step):
        last = min(first + step, n)
        arguments = (whole.center, whole.native, first, last, norms, blocks, 2)
        largest.append(_native.fill_blocks(kernels, plan.native, *arguments))
        assert not np.isnan(norms[:last]).any()
        assert np.isnan(norms[last + 63 :]).all()
    assert_same_bytes(blocks, whole.arrays["blocks"])
    assert_same_bytes(norms, whole.arrays["norms"])
    assert max(largest) == whole.arrays["max_centered_norm2"]


# ----------------------------------------------------------------------------- the exact scan


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("metric", METRICS)
def test_exact_scan_is_canonical(kernels, rng, metric, data, dim):
    n = 200 if dim < 300 else 140
    rows, queries = draw(rng, data, n, 5, dim, metric)
    # Larger ids first, so that a candidate that ties with the last one must still displace it.
    lists = cases.one_list(n, order=np.arange(n)[::-1])
    plan = cases.rotation_plan(dim)
    centers = [None, np.zeros(dim, np.float32)] if data == "far away" else [None]
    for center in centers:
        store = cases.make_store(SCALAR, plan, metric, rows, lists, center=center)
        for k, delta in ((1, 8), (10, 32)):
            expected = cases.nearest(SCALAR, metric, queries, rows, k)
            got = cases.scan(kernels, store, queries, k, delta=delta)
            assert_same_bytes(got[:2], expected, k, center)
            check_stats(got[2], n, k, dim)


def lattice_sphere(dim, norm2):
    """All points with whole coordinates at one distance from the origin."""
    reach = range(-math.isqrt(norm2), math.isqrt(norm2) + 1)
    points = itertools.product(reach, repeat=dim)
    return np.array([p for p in points if sum(c * c for c in p) == norm2])


@pytest.mark.parametrize(("dim", "norm2", "log2_step"), [(2, 325, 17), (2, 5525, 19), (3, 101, 16)])
def test_rounding_of_the_rotation_costs_no_ties(kernels, rng, dim, norm2, log2_step):
    """All rows are equally far from the query, exactly; after the rotation some seem farther.

    Vectors of length about 1.5 sqrt(dim) and a centre at the origin make the rounding large, and a
    distance some 500 times as large is where the scan's allowance for it is just enough.
    """
    step = 2.0**-log2_step
    offsets = lattice_sphere(dim, norm2)
    offsets = np.repeat(offsets, -(-160 // len(offsets)), axis=0)
    n = len(offsets)
    lists = cases.one_list(n, order=np.arange(n)[::-1])
    for seed in range(20):
        query = 1 + step * rng.integers(0, 2**log2_step, (1, dim))
        rows = (query + step * rng.permutation(offsets)).astype(np.float32)
        query = query.astype(np.float32)
        plan = cases.rotation_plan(dim, seed=seed)
        store = cases.make_store(kernels, plan, "l2", rows, lists, center=np.zeros(dim, np.float32))
        distances, ids, _ = cases.scan(kernels, store, query, n // 3, delta=1)
        assert np.array_equal(ids[0], np.arange(n // 3))
        assert (distances == np.float32(norm2 * step**2)).all()


def check_stats(stats, n_rows, k, dim):
    candidates, dimensions, settled = stats.astype(np.int64).T
    assert (candidates == n_rows).all()
    assert (settled <= candidates).all()
    assert (settled >= min(k, n_rows)).all()
    # Every settled row was read whole, and no candidate twice on its block.
    assert (dimensions >= settled * dim).all()
    assert (dimensions <= (settled + candidates) * dim).all()


@pytest.mark.parametrize("dim", [100, 384])
@pytest.mark.parametrize("metric", METRICS)
def test_exact_scan_prunes(kernels, rng, metric, dim):
    """Clustered data, a query inside one cluster: the others must go early."""
    centers = 5 * KINDS["normal"](rng, (8, dim))
    rows = (centers[np.arange(1000) % 8] + KINDS["normal"](rng, (1000, dim))).astype(np.float32)
    if metric == "cosine":
        rows = cases.unit(rows)
    plan = cases.rotation_plan(dim)
    store = cases.make_store(kernels, plan, metric, rows, cases.one_list(1000))
    _, _, stats = cases.scan(kernels, store, rows[:4], 5)
    candidates, dimensions, settled = stats.sum(axis=0).tolist()
    assert settled < candidates / 2
    assert dimensions < candidates * dim / 2


# ------------------------------------------------------------------- the scan, of whatever planes


@dataclass
class Planes:
    """Blocks or codes, and the kernel set to make and to scan them with."""

    kind: str
    kernels: _native.Kernels

    def store(self, metric, rows, lists, **options):
        if self.kind == "blocks":
            plan = cases.rotation_plan(rows.shape[1])
            return cases.make_store(self.kernels, plan, metric, rows, lists, **options)
        *_, steps = cases.steps(rows.shape[1])
        plan = cases.code_plan(rows, steps=steps, axes="random", neighbor=(0.3, 0.1))
        return cases.code_store(self.kernels, plan, metric, rows, lists, **options)


@pytest.fixture(
    params=[("blocks", name) for name in RUNNABLE if name not in EXTENSIONS]
    + [("codes", name) for name in RUNNABLE],
    ids="-".join,
)
def planes(request):
    kind, name = request.param
    return Planes(kind, _native.kernels_by_name(name))


@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize("metric", METRICS)
def test_any_number_of_rows_and_of_neighbours(planes, rng, metric, n):
    dim = 17
    rows, queries = draw(rng, "normal", n, 3, dim, metric)
    store = planes.store(metric, rows, cases.one_list(n))
    for k in (1, 16, 64, n + 3):
        expected = cases.nearest(SCALAR, metric, queries, rows, k)
        *got, stats = cases.scan(planes.kernels, store, queries, k, delta=5)
        assert_same_bytes(tuple(got), expected, k)
        assert (stats[:, 0] == n).all()
        assert (stats[:, 2] <= n).all()
        assert (stats[:, 2] >= min(k, n)).all()
        if planes.kind == "blocks" and n <= cases.BLOCK:  # no bound yet by which one could prune
            assert (stats[:, 2] == n).all()
            assert (stats[:, 1] == n * dim).all()


LIST_SIZES = [0, 1, 15, 16, 17, 0, 63, 64, 65, 130, 29]


@pytest.mark.parametrize("padding", [0, 1, 5])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("data", ["normal", "many ties", "far away"])
def test_many_lists_are_as_good_as_one(planes, rng, data, metric, padding):
    n, dim = sum(LIST_SIZES), 31
    rows, queries = draw(rng, data, n, 6, dim, metric)
    expected = cases.nearest(SCALAR, metric, queries, rows, 10)
    lists = cases.many_lists(LIST_SIZES, order=rng.permutation(n), padding=padding)
    store = planes.store(metric, rows, lists)
    probes = np.stack([rng.permutation(len(LIST_SIZES)) for _ in queries])
    for all_lists in (None, probes):
        for n_threads in THREADS:
            got = cases.scan(
                planes.kernels, store, queries, 10, probes=all_lists, delta=8, n_threads=n_threads
            )
            assert_same_bytes(got[:2], expected)
            assert (got[2][:, 0] == n).all()


@pytest.mark.parametrize("metric", METRICS)
def test_probes_choose_lists_and_masks_choose_rows(planes, rng, metric):
    n, dim = sum(LIST_SIZES), 16
    rows, queries = draw(rng, "normal", n, 12, dim, metric)
    lists = cases.many_lists(LIST_SIZES, order=rng.permutation(n))
    labels = 10**12 + rng.permutation(n)
    store = planes.store(metric, rows, lists, labels=labels)
    probes = np.stack([rng.permutation(len(LIST_SIZES))[:4] for _ in queries])
    probes[rng.random(probes.shape) < 0.3] = -1
    probes[0] = -1
    probes[1] = [0, 5, -1, -1]  # nothing in them
    for allowed in (None, rng.random(n) < 0.5, rng.random(n) < 0.05, np.zeros(n, dtype=bool)):
        chosen = np.ones(n, dtype=bool) if allowed is None else allowed
        everywhere = [
            cases.nearest(
                SCALAR, metric, queries, rows, 10, ids=np.flatnonzero(chosen), labels=labels
            ),
            np.full(12, chosen.sum()),
        ]
        in_lists = [[], []]
        for q, probed in enumerate(probes):
            named = [np.empty(0, np.int64), *(lists.rows_of(i) for i in probed if i >= 0)]
            named = np.concatenate(named)
            named = named[chosen[named]]
            in_lists[0].append(
                cases.nearest(
                    SCALAR, metric, queries[q : q + 1], rows, 10, ids=named, labels=labels
                )
            )
            in_lists[1].append(len(named))
        in_lists[0] = tuple(np.concatenate(parts) for parts in zip(*in_lists[0], strict=True))
        for where, (expected, sizes) in ((None, everywhere), (probes, in_lists)):
            for n_threads in THREADS:
                options = {"probes": where, "allowed": allowed, "n_threads": n_threads}
                got = cases.scan(planes.kernels, store, queries, 10, **options)
                assert_same_bytes(got[:2], expected, n_threads)
                assert got[2][:, 0].tolist() == list(sizes)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("data", ["normal", "many ties", "near duplicates"])
def test_all_within_a_radius(planes, rng, data, metric):
    n, dim = 3000, 9
    rows, queries = draw(rng, data, n, 5, dim, metric)
    labels = rng.permutation(n)
    lists = cases.many_lists([1400, 0, 1600], order=rng.permutation(n))
    store = planes.store(metric, rows, lists, labels=labels)
    distances, _ = cases.nearest(SCALAR, metric, queries, rows, n)
    allowed = rng.random(n) < 0.3
    radii = [-np.inf, -1.0, 0.0, distances[0, 0], distances[1, 40], np.inf]
    radii += [np.nextafter(distances[1, 40], np.float32(side)) for side in (-np.inf, np.inf)]
    for radius in radii:
        for mask in (None, allowed):
            ids = np.arange(n) if mask is None else np.flatnonzero(mask)
            expected = cases.near(SCALAR, metric, queries, rows, radius, ids, labels)
            for n_threads in (1, 3):
                options = {"allowed": mask, "n_threads": n_threads}
                got = cases.scan_within(planes.kernels, store, queries, radius, **options)
                assert_same_bytes(got[:3], expected, radius, n_threads)
                assert (got[3][:, 0] == len(ids)).all()
    probes = np.array([[0, 1], [2, 1], [1, -1], [2, 0], [-1, 2]])
    got = cases.scan_within(planes.kernels, store, queries, distances[1, 40], probes=probes)
    for q, probed in enumerate(probes):
        named = np.concatenate([lists.rows_of(i) for i in probed if i >= 0])
        expected = cases.near(
            SCALAR, metric, queries[q : q + 1], rows, distances[1, 40], named, labels
        )
        found = slice(got[0][q], got[0][q + 1])
        assert_same_bytes((got[1][found], got[2][found]), expected[1:])


@functools.cache
def large_case(kind, metric):
    """Several pieces of work, in several waves: what `scalar` makes of it, alone."""
    n, rng = 30_000, np.random.default_rng(7)
    rows, queries = draw(rng, "normal", n, 20, 12, metric)
    lists = cases.many_lists([11_000, 3, 18_997], order=rng.permutation(n))
    store = Planes(kind, SCALAR).store(metric, rows, lists)
    exact = cases.nearest(SCALAR, metric, queries, rows, 7)
    radius = np.median(exact[0][:, -1])
    near = cases.near(SCALAR, metric, queries, rows, radius)
    return rows, queries, lists, store, exact, radius, near


@functools.cache
def large_answer(kind, metric, eps0):
    _, queries, _, store, *_ = large_case(kind, metric)
    return cases.scan(SCALAR, store, queries, 7, eps0=eps0, delta=4)


@pytest.mark.parametrize("eps0", [0.0, 2.1, np.inf])
@pytest.mark.parametrize("metric", METRICS)
def test_same_bits_for_any_kernels_threads_and_batch(planes, metric, eps0):
    """Inexact answers too, and the work done: pruning decides alike everywhere."""
    rows, queries, lists, _, exact, radius, near = large_case(planes.kind, metric)
    expected = large_answer(planes.kind, metric, eps0)
    store = planes.store(metric, rows, lists, n_threads=2)
    for n_threads in THREADS:
        options = {"eps0": eps0, "delta": 4, "n_threads": n_threads}
        got = cases.scan(planes.kernels, store, queries, 7, **options)
        assert_same_bytes(got, expected, n_threads)
        for q in range(3):  # a single query is shared among the threads
            alone = cases.scan(planes.kernels, store, queries[q : q + 1], 7, **options)
            assert_same_bytes(alone, tuple(part[q : q + 1] for part in expected), n_threads, q)
        if eps0 == np.inf:
            assert_same_bytes(got[:2], exact)
            found = cases.scan_within(planes.kernels, store, queries, radius, n_threads=n_threads)
            assert_same_bytes(found[:3], near, n_threads)


@beside_scalar
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("metric", METRICS)
def test_inexact_scan_same_bits(kernels, rng, metric, dim):
    rows, queries = draw(rng, "normal", 200, 4, dim, metric)
    store = cases.make_store(SCALAR, cases.rotation_plan(dim), metric, rows, cases.one_list(200))
    for eps0 in (0.0, 0.5, 2.1):
        for delta in (1, 16, 2000):
            got, expected = (
                cases.scan(k, store, queries, 5, eps0=eps0, delta=delta) for k in (kernels, SCALAR)
            )
            assert_same_bytes(got, expected, eps0, delta)


# --------------------------------------------------------------------------- the inexact scan


def justified(squares, radius2, eps0, delta, error):
    """Whether ADSampling, at any step but the last, may give up a row whose k-th best was radius2.

    Bounds only shrink, so whoever was given up had an estimate above the limit for a bound of at
    least the final one. `squares` are those of the row's rotated differences, exact; what the scan
    adds up may be longer by `error`, and each sum is rounded.
    """
    dim = len(squares)
    for seen in range(delta, dim, delta):
        reached = (math.sqrt(squares[:seen].sum()) + error) ** 2 * (1 + oracle.gamma(seen + 4))
        if reached >= seen / dim * (1 + eps0 / math.sqrt(seen)) ** 2 * radius2:
            return True
    return False


@pytest.mark.parametrize("dim", [64, 100, 192])
@pytest.mark.parametrize("eps0", [0.3, 1.0, 2.1])
def test_inexact_scan_loses_only_what_adsampling_may(kernels, rng, eps0, dim):
    n, k, delta = 400, 10, 16
    rows, queries = KINDS["normal"](rng, (n, dim)), KINDS["normal"](rng, (8, dim))
    plan = cases.rotation_plan(dim)
    store = cases.make_store(kernels, plan, "l2", rows, cases.one_list(n))
    distances, ids, stats = cases.scan(kernels, store, queries, k, eps0=eps0, delta=delta)
    # Whatever is returned is canonical, distinct and in order.
    assert_same_bytes(distances, cases.score_lists(SCALAR, "l2", queries, rows, ids))
    assert all(len(set(row)) == k for row in ids.tolist())
    assert np.array_equal(np.lexsort((ids, distances), axis=1), np.tile(np.arange(k), (8, 1)))
    check_stats(stats, n, k, dim)

    matrix = plan.matrix
    rotated_rows = (rows.astype(np.float64) - store.center) @ matrix.T
    rotated_queries = (queries.astype(np.float64) - store.center) @ matrix.T
    everything = cases.score_lists(SCALAR, "l2", queries, rows, np.tile(np.arange(n), (8, 1)))
    missed = 0
    for q in range(8):
        lengths = np.sqrt((rotated_rows**2).sum(axis=1)) + math.sqrt(
            (rotated_queries[q] ** 2).sum()
        )
        errors = oracle.rotation_error(dim, lengths) + 2 * oracle.UNIT * lengths
        for i in np.flatnonzero(everything[q] < distances[q, -1]).tolist():
            if i not in ids[q]:
                missed += 1
                squares = (rotated_queries[q] - rotated_rows[i]) ** 2
                assert justified(squares, distances[q, -1], eps0, delta, errors[i]), (q, i)
    assert missed > 0 or eps0 > 0.5, "some neighbour must be lost for this to say anything"


@pytest.mark.parametrize("metric", METRICS)
def test_smaller_eps0_means_less_work(kernels, rng, metric):
    rows, queries = draw(rng, "normal", 1500, 6, 256, metric)
    plan = cases.rotation_plan(256)
    store = cases.make_store(kernels, plan, metric, rows, cases.one_list(1500))
    work = [
        int(cases.scan(kernels, store, queries, 10, eps0=eps0)[2][:, 1].sum())
        for eps0 in (0.3, 1.0, 2.1, np.inf)
    ]
    assert work == sorted(work)
    assert len(set(work)) == len(work)


def test_oracle_adsampling(rng):
    rows, query = rng.standard_normal((300, 64)), rng.standard_normal(64)
    exact = oracle.search(rows, query[None], 10, "l2")
    distances, ids, work = oracle.adsampling(rows, query, 10, np.inf, 16)
    assert np.array_equal(ids, exact[1][0])
    assert np.allclose(distances, exact[0][0], rtol=64 * 2**-52)
    assert work == 300 * 64
    for eps0 in (2.1, 1.0, 0.3):
        distances, ids, less = oracle.adsampling(rows, query, 10, eps0, 16)
        assert less < work
        assert np.allclose(distances, oracle.l2_rows(query, rows, ids), rtol=64 * 2**-52)
        for i in set(exact[1][0].tolist()) - set(ids.tolist()):
            assert justified((query - rows[i]) ** 2, distances[-1], eps0, 16, 0.0)
        work = less
    # Nothing is lost to a row that is the query itself.
    assert oracle.adsampling(rows, rows[250], 1, 0.0, 16)[1].tolist() == [250]


@pytest.mark.parametrize("metric", METRICS)
def test_oracle_search_agrees_with_the_canonical_answer(rng, metric):
    # Lengths round, so that for the cosine only a clear order can be compared.
    rows, queries = draw(rng, "normal" if metric == "cosine" else "many ties", 300, 5, 9, "l2")
    unit_rows, unit_queries = (
        (cases.unit(rows), cases.unit(queries)) if metric == "cosine" else (rows, queries)
    )
    distances, ids = cases.nearest(SCALAR, metric, unit_queries, unit_rows, 310)
    expected_distances, expected_ids = oracle.search(rows, queries, 310, metric)
    assert np.array_equal(ids, expected_ids)
    if metric == "cosine":
        # Both unit vectors are rounded once, their product is one of vectors of length one, and
        # the difference to one, at most two, is rounded again.
        error = 2 * oracle.gamma(1) + oracle.row_error(9, 1.0, "ip") * (1 + 2 * oracle.gamma(1))
        found = distances[:, :300].astype(np.float64)
        assert np.abs(found - expected_distances[:, :300]).max() <= error + 2 * oracle.gamma(1)
    else:
        assert np.array_equal(distances, expected_distances)


@cases.in_foreign_float_modes
@pytest.mark.parametrize("metric", METRICS)
def test_callers_float_mode_changes_nothing(planes, rng, metric, mode):
    """On any thread, as on our own ones that never hear of the caller's mode."""
    kernels = planes.kernels
    for data in ("normal", "squares vanish"):
        rows, queries = draw(rng, data, 300, 7, 16, metric)
        ids = np.tile(np.arange(300), (7, 1))
        lists = cases.one_list(300)
        template = planes.store(metric, rows, lists)

        def answers(n_threads, rows=rows, queries=queries, ids=ids, template=template):
            store = template.again(kernels, metric, n_threads)
            scores = cases.score_lists(kernels, metric, queries, rows, ids, n_threads)
            found = cases.scan(kernels, store, queries, 9, eps0=1.0, delta=4, n_threads=n_threads)
            norms2, unit = np.empty(300), cases.unit(rows)
            _native.squared_norms(rows, norms2)
            made = [np.asarray(array) for array in store.arrays.values()]
            return (*made, cases.mean(rows), scores, norms2, unit, *found)

        expected = answers(1)
        for n_threads in THREADS:
            with cases.float_mode(mode):
                got = answers(n_threads)
            assert_same_bytes(got, expected, data, n_threads)


def test_bits_are_those_of_every_other_machine(kernels):
    signs = 1.0 - 2.0 * (cases.dyadic((3, 48), 1) < 0)
    plan = cases.RotationPlan(signs / np.sqrt(cases.transform_lengths(48)), 16, 2)
    rows, queries = cases.dyadic((500, 48), 2), cases.dyadic((5, 48), 3)
    for metric, stored, found in (
        ("l2", "0d41ac2cb403d7f1", "b191cb8ecb22c760"),
        ("ip", "f54c7f91355cdbcb", "6938ad522b82ba9f"),
    ):
        store = cases.make_store(kernels, plan, metric, rows, cases.one_list(500))
        arrays = store.arrays["norms"], store.arrays["blocks"]
        assert cases.digest(store.center, *arrays) == stored
        assert cases.digest(*cases.scan(kernels, store, queries, 9, eps0=0.5, delta=8)) == found
