"""The scan of byte codes: what is stored certifies, and no row is lost that could be an answer.

First what is stored of a row against the oracle, then the certificate at its limit, then answers
for plans of all kinds. What blocks have to pass too is in test_scan_driver.py.
"""

import functools
from dataclasses import replace

import cases
import numpy as np
import pytest
from cases import (
    BEST,
    CODE_DATA,
    METRICS,
    SCALAR,
    assert_same_bytes,
    codes_beside_scalar,
    draw,
)
from hypothesis import given
from hypothesis import strategies as st

from lanewise import _native, oracle

# One below, at and above quads, groups of sixteen and lines of 64 dimensions.
DIMS = (1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 100, 127, 128, 200, 384, 1000)
SMALLEST = float(np.finfo(np.float32).tiny)

# All kinds of rows where they are cheap.
every_data = pytest.mark.parametrize(
    ("data", "dim"),
    [
        (data, dim)
        for data in CODE_DATA
        for dim in DIMS
        if dim < 300 or (data in ("normal", "offset") and dim < 900) or data == "heavy tails"
    ],
)


def plans(rows, rng):
    """Plans of all kinds for the rows: every cut in steps, axes, codes too coarse and too fine."""
    dim = rows.shape[1]
    for i, steps in enumerate(cases.steps(dim)):
        # Random axes cost dim^2 a row, so long rows get them for some plans or for none.
        choices = (None, "random") if dim < 70 else (("random", None, None)[i % 3],)
        for axes in choices if dim < 400 else (None,):
            coarse = (1.0, 1.0, 20.0, 0.2)[int(rng.integers(4))] if i else 1.0
            yield cases.code_plan(rows, steps=steps, axes=axes, coarse=coarse, neighbor=(0.3, 0.1))


def length(x, axis=-1):
    return np.sqrt((x.astype(np.float64) ** 2).sum(axis=axis))


# ------------------------------------------------------------------------------ what is stored


@every_data
def test_stored_numbers_are_no_smaller_than_what_they_stand_for(rng, data, dim):
    rows, _ = draw(rng, data, 50, 3, dim, "l2")
    lists = cases.many_lists([20, 0, 30], order=rng.permutation(50))
    used = lists.ids >= 0
    for plan in plans(rows, rng):
        store = cases.code_store(BEST, plan, "l2", rows, lists)
        arrays = {name: array[..., : len(used)] for name, array in store.arrays.items()}
        # Padding is never near, and its codes are nothing.
        assert (arrays["base"][~used] == np.inf).all()
        assert not arrays["residuals"][~used].any()
        assert not arrays["tails"][:, ~used].any()
        codes = cases.stored_codes(store)
        assert not codes[~used].any()

        x = rows[lists.ids[used]]
        y = plan.projected(x)
        expected = np.zeros((len(x), codes.shape[1]))
        expected[:, :dim] = plan.codes_of(y)
        assert np.array_equal(codes[used], expected)
        assert (store.arrays["body"][-64:] == 55).all(), "room to read, not to write"

        left = length(y.astype(np.float64) - expected[:, :dim] * plan.scales.astype(np.float64))
        # Centring rounds the row, and the query.
        centred = length(x.astype(np.float64) - plan.center)
        left += (plan.distortion + 2 * oracle.UNIT) * centred
        residuals = oracle.bfloat16(arrays["residuals"][used])
        assert (residuals >= left).all()
        assert (residuals >= length(expected[:, : plan.front[-1]]) / plan.front_length).all()
        assert (residuals >= length(expected[:, plan.front[-1] :]) / plan.body_length).all()
        # Behind the last step of a body there is no tail.
        ends = plan.ends.tolist()
        assert len(arrays["tails"]) == len(ends) - (len(plan.body) > 0)
        for step, end in enumerate(ends[: len(arrays["tails"])]):
            tails = oracle.bfloat16(arrays["tails"][step, used])
            assert (tails >= length(y[:, end:])).all(), step
            assert (tails <= length(y[:, end:]) * (1 + 2**-6) + 2 * SMALLEST).all(), step


@pytest.mark.parametrize("dim", [1, 2, 5, 16, 100])
@pytest.mark.parametrize("data", CODE_DATA)
def test_the_base_is_no_larger_than_what_it_stands_for(rng, data, dim):
    """In whole numbers, because the base of a product is a difference of almost equal ones."""
    rows, _ = draw(rng, data, 40, 3, dim, "l2")
    for metric in METRICS:
        plan = cases.code_plan(rows)
        store = cases.code_store(SCALAR, plan, metric, rows, cases.one_list(40))
        c = exactly(plan.center)
        for base, row in zip(store.arrays["base"], exactly(rows), strict=False):
            exact = ((row - c) ** 2).sum() if metric == "l2" else 2 * (c * (c - row)).sum()
            assert exactly(base) * 2**SHIFT <= exact, metric


def test_the_base_is_no_larger_where_all_of_it_cancels(rng):
    """Rows at right angles to the centre: the base is nothing but the rounding of its sum."""
    rounded_up = 0
    for _ in range(20):
        # Pairs of falling size, so that no double holds their products' sum, and even, so that
        # differences are float32 too.
        size = np.ldexp(1.0, -np.arange(32))
        a, b = 2.0 * rng.integers(2**21, 2**22, (2, 32)) * size
        center, off = np.concatenate([a, b]), np.concatenate([b, -a])
        rows = np.tile(center - off, (16, 1)).astype(np.float32)
        assert np.array_equal(rows[0], center - off)
        plan = cases.code_plan(rows, center=center.astype(np.float32))
        store = cases.code_store(SCALAR, plan, "ip", rows, cases.one_list(16))
        assert (store.arrays["base"] <= 0).all()
        rounded_up += np.add.accumulate(center * off)[-1] > 0
    assert rounded_up > 0, "rounding must have gone the dangerous way"


SHIFT = 149


def exactly(x):
    """Multiples of 2^-149, which all float32 are, as Python integers."""
    wide = np.asarray(x, dtype=np.float64)
    return np.frompyfunc(lambda v: int(v * 2.0**SHIFT), 1, 1)(wide)


@every_data
def test_codes_bound_products(rng, data, dim):
    """Whatever of a row has been read, its product with a query lies where the oracle says."""
    rows, queries = draw(rng, data, 48, 8, dim, "l2")
    x, q = rows.astype(np.float64), queries.astype(np.float64)
    for plan in plans(rows, rng):
        store = cases.code_store(BEST, plan, "l2", rows, cases.one_list(48))
        codes = cases.stored_codes(store)[:, :dim]
        residuals = oracle.bfloat16(store.arrays["residuals"])
        for query, z in zip(q, plan.projected(queries), strict=True):
            exact = (x - plan.center) @ (query - plan.center)
            # Axes stretch a query by no more than they distort its product with itself.
            reach = length(query - plan.center) * (1 + plan.distortion + 2 * oracle.UNIT)
            for step, end in enumerate(plan.ends.tolist()):
                stored = store.arrays["tails"][step : step + 1]
                tails = oracle.bfloat16(stored[0]) if len(stored) else np.zeros(48)
                bounds = oracle.product_bounds(
                    codes[:, :end], plan.scales, residuals, tails, z, reach
                )
                assert (bounds[0] <= exact).all(), (step, plan)
                assert (exact <= bounds[1]).all(), (step, plan)


@pytest.mark.parametrize("dim", DIMS[:-1])
def test_random_axes_distort_no_more_than_the_oracle_says(rng, dim):
    axes, distortion = cases.random_axes(dim)
    for data in ("normal", "heavy tails", "far away", "longest"):
        rows, queries = draw(rng, data, 40, 8, dim, "l2")
        plan = cases.code_plan(rows, axes="random")
        y, z = (plan.projected(v).astype(np.float64) for v in (rows, queries))
        a, b = (v.astype(np.float64) - plan.center for v in (rows, queries))
        off = np.abs(y @ z.T - a @ b.T)
        assert (off <= distortion * np.outer(length(a), length(b))).all(), data
    assert np.array_equal(plan.axes, axes)


@functools.cache
def plain_codes(dim, data, metric):
    """Plans, and what `scalar` makes of them alone."""
    rng = np.random.default_rng(dim)
    lists = cases.many_lists([70, 0, 20], order=rng.permutation(90))
    rows, _ = draw(rng, data, 90, 3, dim, "l2")
    return [cases.code_store(SCALAR, plan, metric, rows, lists) for plan in plans(rows, rng)]


@codes_beside_scalar
@pytest.mark.parametrize("dim", [1, 4, 5, 17, 65, 100, 200, 384])
def test_codes_same_bits(code_kernels, dim):
    for data in ("normal", "huge", "tiny", "heavy tails"):
        for metric in ("l2", "ip"):
            for expected in plain_codes(dim, data, metric):
                for n_threads in (1, 3):
                    store = expected.again(code_kernels, metric, n_threads)
                    for name, array in expected.arrays.items():
                        assert_same_bytes(store.arrays[name], array, data, name, n_threads)


@pytest.mark.parametrize("cut", [16, 64, 128, 192])
def test_codes_can_be_filled_piece_by_piece(code_kernels, rng, cut):
    rows, _ = draw(rng, "normal", 200, 3, 90, "ip")
    plan = cases.code_plan(rows, steps=((4, 16), (80, 92), 8), axes="random")
    whole = cases.code_store(code_kernels, plan, "ip", rows, cases.one_list(200))
    again = {name: np.zeros_like(array) for name, array in whole.arrays.items()}
    planes = _native.Codes(plan.native, *again.values())
    # The second piece first; what is filled twice stays what it is.
    for first, last in ((cut, 208), (0, cut), (cut - 16, cut)):
        planes.fill(code_kernels, whole.native, first, last, 2)
    for name, array in whole.arrays.items():
        padding = 1024 if name.startswith("front") else 64 if name == "body" else 0
        end = array.shape[-1] - padding
        assert_same_bytes(again[name][..., :end].copy(), array[..., :end].copy(), name)


# ---------------------------------------------------------------------------- the certificate


def assert_certified(kernels, plan, metric, rows, queries):
    """No row is dropped at a bound that is its own distance.

    Every row stands in a list of its own, 80 times, larger ids first: the first 64 give the bound,
    and the last one is the answer unless its codes seem to say that it is farther than it is.
    """
    __tracebackhide__ = True
    m, copies = len(rows), 80
    n = m * copies
    lists = cases.many_lists([copies] * m)
    store = cases.code_store(
        kernels,
        plan,
        metric,
        np.repeat(rows, copies, axis=0),
        lists,
        labels=np.arange(n)[::-1].copy(),
    )
    last = n - copies * np.arange(1, m + 1)
    probes = np.tile(np.arange(m), len(queries))[:, None]
    _, ids, _ = cases.scan(kernels, store, np.repeat(queries, m, axis=0), 1, probes=probes)
    lost = np.flatnonzero(ids[:, 0] != np.tile(last, len(queries)))
    for pair in lost[:1].tolist():
        q, row = divmod(pair, m)
        raise AssertionError(
            f"{len(lost)} of {len(ids)} lost, first row {rows[row]} for {queries[q]} with {plan}"
        )


@every_data
@pytest.mark.parametrize("metric", METRICS)
def test_no_row_is_dropped_at_its_own_distance(rng, metric, data, dim):
    rows, queries = draw(rng, data, 12, 6, dim, metric)
    queries[2] = -queries[3]
    for plan in plans(rows, rng):
        assert_certified(BEST, plan, metric, rows, queries)


@functools.cache
def stretched(dim, factor):
    """Axes of which one is longer or shorter than one; products are distorted as much as said."""
    axes = np.eye(dim)
    axes[-1, -1] = factor
    return axes.astype(np.float32)


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("factor", [0.5, 0.8, 0.99, 1.01, 1.2, 1.4])
def test_axes_may_stretch_as_much_as_they_say(rng, metric, factor):
    """Where a single dimension counts, nothing of the bound is given away."""
    for dim in (1, 5, 70):
        rows, queries = np.zeros((2, 20, dim), dtype=np.float32)
        rows[:, -1], queries[:, -1] = rng.standard_normal((2, 20))
        for steps in cases.steps(dim):
            for coarse in (0.5, 1.0, 30.0, 200.0):
                plan = cases.code_plan(
                    rows,
                    steps=steps,
                    axes=stretched(dim, factor),
                    center=np.zeros(dim, np.float32),
                    coarse=coarse,
                )
                assert_certified(BEST, plan, metric, rows, queries)


def test_small_differences_of_long_rows_are_not_lost_in_products():
    """The centre's product with itself and with a row agree in all digits that float64 has."""
    rng = np.random.default_rng(5)
    zero = np.zeros((1, 2), dtype=np.float32)
    for _ in range(60):
        center = np.array([1 + rng.random(), 2.0 ** -rng.uniform(12, 18)], np.float32)
        row = center.copy()
        row[1] = np.nextafter(row[1], np.float32(1))
        plan = cases.CodePlan(center, row - center, (4,), front_length=1e20, body_length=1e20)
        assert_certified(SCALAR, plan, "ip", row[None], zero)


@pytest.mark.parametrize("dim", [1, 2, 16, 64, 200])
def test_what_underflows_is_not_lost(rng, dim):
    """Tiny rows under huge queries and the reverse, about a centre at the origin."""
    tiny = CODE_DATA["subnormal"](rng, (12, dim))
    huge = cases.longest(rng, (12, dim))
    origin = np.zeros(dim, np.float32)
    for rows, queries in ((tiny, huge), (huge, tiny)):
        for i, steps in enumerate(cases.steps(dim)):
            for axes in (None, "random") if dim < 70 or i == 0 else (None,):
                plan = cases.code_plan(rows, steps=steps, axes=axes, center=origin)
                for metric in ("l2", "ip"):
                    assert_certified(BEST, plan, metric, rows, queries)


@given(
    dim=st.integers(1, 90),
    seed=st.integers(0, 2**32 - 1),
    metric=st.sampled_from(METRICS),
    axes=st.sampled_from([None, "random"]),
    spread=st.integers(-140, 50),
    offset=st.one_of(st.none(), st.integers(-140, 50)),
    coarse=st.sampled_from([0.01, 0.5, 1.0, 3.0, 100.0]),
    spare=st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_no_plan_drops_a_row_at_its_own_distance(
    dim, seed, metric, axes, spread, offset, coarse, spare
):
    rng = np.random.default_rng(seed)
    rows, queries = np.ldexp(rng.standard_normal((2, 6, dim)), spread)
    if offset is not None:
        middle = np.ldexp(rng.standard_normal(dim), offset)
        rows, queries = rows + middle, queries + rng.choice([0, 1]) * middle
    rows, queries = rows.astype(np.float32), queries.astype(np.float32)
    if metric == "cosine":
        rows, queries = cases.unit(rows), cases.unit(queries)
    choices = list(cases.steps(dim))
    steps = choices[rng.integers(len(choices))]
    center = [None, np.zeros(dim, np.float32), rows[0]][rng.integers(3)]
    plan = cases.code_plan(rows, steps=steps, axes=axes, coarse=coarse, center=center)
    scales = plan.scales * np.ldexp(np.float32(1), rng.integers(-3, 3, dim)).astype(np.float32)
    scales[rng.random(dim) < 0.2] = 0
    plan = replace(
        plan,
        scales=scales,
        front_length=plan.front_length * spare,
        body_length=plan.body_length * spare,
    )
    assert_certified(BEST, plan, metric, rows, queries)


# --------------------------------------------------------------------------------- the answers


@every_data
@pytest.mark.parametrize("metric", METRICS)
def test_answers_are_canonical(rng, metric, data, dim):
    n = 300 if dim < 300 else 200
    rows, queries = draw(rng, data, n, 17, dim, metric)
    # Larger ids first, so that a candidate that ties with the last one must still displace it.
    labels = np.arange(n)[::-1].copy()
    truth = cases.nearest(SCALAR, metric, queries, rows, n, labels=labels)
    for plan in plans(rows, rng):
        store = cases.code_store(BEST, plan, metric, rows, cases.one_list(n), labels=labels)
        for k in (1, 10, 100, n):
            expected = tuple(part[:, :k] for part in truth)
            # Many queries are screened together, few are not.
            got = cases.scan(BEST, store, queries, k)
            assert_same_bytes(got[:2], tuple(map(np.ascontiguousarray, expected)), k, plan)
            alone = cases.scan(BEST, store, queries[:1], k)
            assert_same_bytes(alone[:2], tuple(part[:1] for part in got[:2]), k, plan)


@functools.cache
def plain_answers(dim, metric):
    """Queries, and stores with what `scalar` answers alone, exactly and not."""
    rng = np.random.default_rng(dim)
    rows, queries = draw(rng, "normal", 300, 19, dim, metric)
    answers = []
    for plan in plans(rows, rng):
        store = cases.code_store(SCALAR, plan, metric, rows, cases.one_list(300))
        for eps0 in (0.5, np.inf):
            answers.append((store, eps0, cases.scan(SCALAR, store, queries, 5, eps0=eps0)))
    return queries, answers


@codes_beside_scalar
@pytest.mark.parametrize("dim", [1, 5, 16, 65, 100, 260])
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_same_bits_and_work_for_any_kernels_and_batch(code_kernels, metric, dim):
    queries, answers = plain_answers(dim, metric)

    def same(got, expected, eps0, *context):
        if np.isinf(eps0):
            # An exact batch saves looks at the bound, and reads more dimensions for it.
            got, expected = ((*part[:2], part[2][:, [0, 2]]) for part in (got, expected))
        assert_same_bytes(got, expected, *context)

    for store, eps0, expected in answers:
        # All at once, and shared out among three threads.
        for n_threads in (1, 3):
            got = cases.scan(code_kernels, store, queries, 5, eps0=eps0, n_threads=n_threads)
            same(got, expected, eps0, n_threads)
        parts = [
            cases.scan(code_kernels, store, queries[i : i + 3], 5, eps0=eps0)
            for i in range(0, 19, 3)
        ]
        together = tuple(np.concatenate(part) for part in zip(*parts, strict=True))
        same(together, expected, eps0)
        alone = cases.scan(code_kernels, store, queries[:1], 5, eps0=eps0, n_threads=1)
        same(alone, tuple(part[:1] for part in expected), eps0)


def clustered(rng, n, dim, metric):
    """Rows around a few places, the first dimensions of which say most."""
    centers = 3 * CODE_DATA["normal"](rng, (10, dim))
    rows = centers[rng.integers(10, size=n)] + CODE_DATA["normal"](rng, (n, dim))
    rows *= np.float32(0.99) ** np.arange(dim, dtype=np.float32)
    return cases.unit(rows) if metric == "cosine" else rows


UNBOUNDED = 64  # rows that are scored before anything can be dropped


@pytest.mark.parametrize("metric", METRICS)
def test_most_rows_are_not_read(code_kernels, rng, metric):
    """Otherwise the tests above would test nothing but the scores."""
    n, dim = 2000, 260
    rows = clustered(rng, n, dim, metric)
    for steps in cases.steps(dim):
        plan = cases.code_plan(rows, steps=steps)
        store = cases.code_store(code_kernels, plan, metric, rows, cases.one_list(n))
        _, _, stats = cases.scan(code_kernels, store, rows[:20], 5)
        candidates, dimensions, settled = stats.astype(np.int64).T
        assert (candidates == n).all()
        assert (settled >= 5).all()
        assert settled.mean() < n / 5, steps  # a tenth is as near as the query's own kind
        # Every candidate's front was read, and not every body.
        least = n * plan.front[-1] + settled * dim
        assert (dimensions < n * dim + settled * dim if plan.body else dimensions == least).all()
        assert (dimensions >= least).all()


@pytest.mark.parametrize("metric", METRICS)
def test_a_finite_eps0_answers_canonically_for_less_work(rng, metric):
    n, dim = 2000, 260
    rows = clustered(rng, n, dim, metric)
    queries = clustered(rng, 20, dim, metric)
    for steps in cases.steps(dim):
        plan = cases.code_plan(rows, steps=steps, neighbor=(0.3, 0.1))
        store = cases.code_store(BEST, plan, metric, rows, cases.one_list(n))
        work = []
        for eps0 in (0.0, 1.0, 3.0):
            distances, ids, stats = cases.scan(BEST, store, queries, 5, eps0=eps0)
            assert_same_bytes(distances, cases.score_lists(SCALAR, metric, queries, rows, ids))
            assert all(len(set(row)) == 5 for row in ids.tolist())
            assert np.array_equal(
                np.lexsort((ids, distances), axis=1), np.tile(np.arange(5), (20, 1))
            )
            assert (stats[:, 0] == n).all()
            work.append(stats[:, 2].sum())
        assert work == sorted(work), steps
        # So unlikely that it is certain: the same answers, with a look at the bound in every step.
        exact, sure = (cases.scan(BEST, store, queries, 5, eps0=eps0) for eps0 in (np.inf, 1e9))
        assert_same_bytes(sure[:2], exact[:2])
        assert work[0] < exact[2][:, 2].sum()


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_the_most_dimensions_that_there_may_be(code_kernels, metric):
    """All codes at their largest: products come close to the largest int32."""
    n, dim = 48, 65_536
    rows = np.ones((n, dim), dtype=np.float32)
    rows[1::2] = -1
    rows[24:] *= np.float32(0.5) ** np.arange(24, dtype=np.float32)[:, None]
    labels = np.arange(n)[::-1].copy()
    expected = cases.nearest(SCALAR, metric, rows[:2].copy(), rows, 12, labels=labels)
    in_steps = (64, 1024), (1024 + 128 * 100, dim)
    for steps in (((dim,), (), 8), (*in_steps, 8), (*in_steps, 4)):
        plan = cases.code_plan(rows, steps=steps, center=np.zeros(dim, np.float32))
        store = cases.code_store(code_kernels, plan, metric, rows, cases.one_list(n), labels=labels)
        assert_same_bytes(cases.scan(code_kernels, store, rows[:2], 12)[:2], expected)


# ---------------------------------------------------------------------------- across machines


@pytest.mark.parametrize(
    ("bits", "stored", "found"),
    [(8, "4a9866c34289ee61", "0982a5b6ece9bd25"), (4, "1c42d4dd1439dee0", "77841881637e864b")],
)
def test_bits_are_those_of_every_other_machine(code_kernels, bits, stored, found):
    """Recorded once: what Arm and x86 store, answer and read is compared through this file."""
    dim, n = 256, 300
    rows, queries = cases.dyadic((n, dim), 1), cases.dyadic((20, dim), 2)
    rows[:, 8:] /= 8
    queries[:, 8:] /= 8
    # A plan of round numbers: nothing of it is for any machine to compute.
    scales = np.full(dim, 0.125, np.float32)
    plan = cases.CodePlan(
        cases.dyadic((1, dim), 3)[0] / 64,
        scales,
        (4, 8),
        (8 + 128, dim),
        (oracle.hadamard(dim) / 16).astype(np.float32),
        2.0**-16,
        16.0,
        64.0,
        1.0,
        (0.25, 0.125),
        bits,
    )
    store = cases.code_store(code_kernels, plan, "l2", rows, cases.one_list(n))
    assert cases.digest(*store.arrays.values()) == stored
    answers = [cases.scan(code_kernels, store, queries, 5, eps0=eps0) for eps0 in (1.0, np.inf)]
    assert cases.digest(*answers[0], *answers[1]) == found


# -------------------------------------------------------------------------------------- refusals

RIGHT = {
    "n_front": 8,
    "n_front_steps": 2,
    "ends": [4, 8, 72, 100],
    "center": np.zeros(99, np.float32),
    "panels": np.zeros((7, 99, 16), np.float32),
    "distortion": 0.1,
    "scales": np.ones(99, np.float32),
    "front_length": 1.0,
    "body_length": 1.0,
    "residual": 0.0,
    "neighbors": np.zeros((4, 2)),
    "body_bits": 8,
}
WRONG_PLANS = [
    {"n_front": 12},
    {"n_front": 0},
    {"n_front_steps": 0},
    {"n_front_steps": 1},
    {"n_front_steps": 5},
    {"ends": [4, 8, 71, 100]},
    {"ends": [4, 8, 72, 98]},
    {"ends": [4, 8, 72, 104]},
    {"ends": [4, 8, 72, 72, 100]},
    {"ends": [8, 4, 72, 100]},
    {"ends": [2, 8, 72, 100]},
    {"ends": [0, 8, 72, 100]},
    {"center": np.zeros(98, np.float32)},
    {"center": np.zeros(0, np.float32), "scales": np.zeros(0, np.float32)},
    {"panels": np.zeros((6, 99, 16), np.float32)},
    {"panels": np.zeros((7, 98, 16), np.float32)},
    {"panels": np.zeros((7, 99, 8), np.float32)},
    {"distortion": -1e-9},
    {"distortion": np.nan},
    {"scales": np.ones(100, np.float32)},
    {"front_length": 0.0},
    {"body_length": -1.0},
    {"body_length": np.nan},
    {"residual": -1e-9},
    {"residual": np.nan},
    {"neighbors": np.zeros((3, 2))},
    {"neighbors": np.zeros((4, 1))},
    {"body_bits": 4},
    {"body_bits": 2},
]


def native_plan(**changes):
    values = {**RIGHT, **changes}
    values["ends"] = np.array(values["ends"], dtype=np.uint32)
    return _native.CodePlan(*values.values())


@pytest.mark.parametrize("wrong", WRONG_PLANS, ids=str)
def test_a_plan_that_would_read_elsewhere_is_refused(wrong):
    native_plan()
    with pytest.raises(ValueError, match=r"^native call: code plan"):
        native_plan(**wrong)


def test_arrays_of_another_size_are_refused(rng):
    rows, queries = draw(rng, "normal", 40, 2, 20, "l2")
    plan = cases.code_plan(rows, steps=((8,), (20,), 8))
    store = cases.code_store(SCALAR, plan, "l2", rows, cases.one_list(40))
    for name in store.arrays:
        arrays = {**store.arrays, name: store.arrays[name][..., 1:].copy()}
        with pytest.raises(ValueError, match=r"^native call: codes"):
            _native.Codes(plan.native, *arrays.values())
    for first, last in ((1, 48), (0, 40), (16, 0), (0, 64)):
        with pytest.raises(ValueError, match=r"^native call: codes range"):
            store.planes.fill(SCALAR, store.native, first, last, 1)
    narrow = cases.native_store("l2", rows[:, :19].copy(), cases.one_list(40))
    with pytest.raises(ValueError, match=r"^native call: codes dimension"):
        store.planes.fill(SCALAR, narrow, 0, 48, 1)
    many = cases.native_store("l2", np.repeat(rows, 2, axis=0), cases.one_list(80))
    other = cases.Store(many, store.planes, plan, None, rows, plan.center, {})
    with pytest.raises(ValueError, match=r"^native call: scan codes"):
        cases.scan(SCALAR, other, queries, 3)
    with pytest.raises(ValueError, match=r"^native call: scan filter"):
        cases.scan(SCALAR, store, queries, 3, allowed=np.ones(0, dtype=bool))
    with pytest.raises(ValueError, match=r"^native call: scan probes"):
        cases.scan(SCALAR, store, queries, 3, probes=np.array([[0], [1]]))
