"""Lane plans: equal to the plain-Python planner, and with the properties they are made for."""

import itertools
import math

import cases
import numpy as np
import pytest
from cases import SCALAR, THREADS, assert_same_bytes, beside_scalar
from hypothesis import given
from hypothesis import strategies as st

from lanewise import oracle
from lanewise.lanes import plan as package_plan

SCHEMES = ("permute", "stratified", "owner")
LARGEST = 2**63 - 1
ALPHAS = (0.0, 0.3, 0.5, 0.9, 1.0)
HEADS = (0, 1, 7)
K_LANES = (1, 4, 9)


def awkward_pools(rng, k_pool=40):
    """Full, with gaps, short, with the largest ids, and empty."""
    pools = np.full((5, k_pool), -1, dtype=np.int64)
    pools[0] = rng.permutation(10 * k_pool)[:k_pool]
    pools[1] = rng.permutation(10 * k_pool)[:k_pool]
    pools[1, rng.random(k_pool) < 0.5] = -1
    pools[2, :5] = rng.permutation(50)[:5]
    pools[3] = LARGEST - rng.permutation(k_pool)
    return pools


def some_keys(rng, n):
    return rng.integers(0, 2**64, (n, 2), dtype=np.uint64)


@pytest.mark.parametrize("n_lanes", range(1, 10))
@pytest.mark.parametrize("scheme", SCHEMES)
def test_equals_plain_python(rng, scheme, n_lanes):
    pools = awkward_pools(rng)
    for alpha, head, k_lane in itertools.product(ALPHAS, HEADS, K_LANES):
        keys = some_keys(rng, len(pools))
        options = (scheme, n_lanes, k_lane, alpha, head)
        assert_same_bytes(
            cases.plan(SCALAR, pools, keys, *options), oracle.plan(pools, keys, *options), *options
        )


@beside_scalar
@pytest.mark.parametrize("scheme", SCHEMES)
def test_same_bits(kernels, rng, scheme):
    pools = awkward_pools(rng)
    for n_lanes, alpha, head, k_lane in itertools.product(range(1, 10), ALPHAS, HEADS, K_LANES):
        keys = some_keys(rng, len(pools))
        options = (scheme, n_lanes, k_lane, alpha, head)
        got, expected = (cases.plan(k, pools, keys, *options) for k in (kernels, SCALAR))
        assert_same_bytes(got, expected, *options)


@pytest.mark.parametrize("k_pool", [0, 1, 7, 8, 9, 16, 1000])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("alpha", "head"), [(1.0, 0), (0.6, 2)])
def test_any_pool_any_threads(kernels, rng, alpha, head, scheme, k_pool):
    n = 5 if k_pool == 1000 else 600  # more queries than one thread takes at a time
    pools = np.stack([rng.permutation(2 * k_pool)[:k_pool] for _ in range(n)])
    keys = some_keys(rng, n)
    options = (scheme, 3, 50, alpha, head)
    expected = oracle.plan(pools, keys, *options)
    for n_threads in THREADS:
        got = cases.plan(kernels, pools, keys, *options, n_threads)
        assert_same_bytes(got, expected, n_threads)
    for q in range(0, n, 7):
        alone = cases.plan(kernels, pools[q : q + 1], keys[q : q + 1], *options)
        assert_same_bytes(alone, tuple(part[q : q + 1] for part in expected), q)


def test_no_queries_give_no_plan(kernels):
    pools, keys = np.empty((0, 5), np.int64), np.empty((0, 2), np.uint64)
    lanes, counts = cases.plan(kernels, pools, keys, "permute", 3, 4)
    assert lanes.shape == (0, 3, 4)
    assert counts.shape == (0, 3)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_many_lanes(kernels, rng, scheme):
    # A shuffle of 300 places takes 75 blocks of the generator for each stratum.
    pools, keys = rng.permutation(5000)[None, :700], some_keys(rng, 1)
    options = (scheme, 300, 2)
    assert_same_bytes(
        cases.plan(kernels, pools, keys, *options), oracle.plan(pools, keys, *options)
    )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_package_rounds_the_shares_alike(rng, scheme):
    """What becomes of alpha before the driver is called: halves of a candidate among others."""
    pools = awkward_pools(rng)
    keys = some_keys(rng, len(pools))
    for alpha in (0.0, 0.1, 0.5, 0.7, 1.0):
        for n_lanes, k_lane in itertools.product((1, 3, 4), (1, 5, 10)):
            planned = package_plan(
                pools, keys, n_lanes=n_lanes, k_lane=k_lane, scheme=scheme, alpha=alpha, head=2
            )
            expected = oracle.plan(pools, keys, scheme, n_lanes, k_lane, alpha, 2)
            assert_same_bytes((planned.ids, planned.counts), expected, alpha, n_lanes, k_lane)


# ------------------------------------------------------------------------------------ properties

POOLS = st.lists(st.integers(-1, LARGEST), max_size=60).map(
    # Each id once; -1 as often as it likes.
    lambda ids: [i for n, i in enumerate(ids) if i < 0 or i not in ids[:n]]
)
KEYS = st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
SCHEME = st.sampled_from(SCHEMES)
ALPHA = st.one_of(st.sampled_from(ALPHAS), st.floats(0, 1))


def plan_one(kernels, pool, key, *options):
    """The lanes of one query, as lists without the -1 behind."""
    lanes, counts = cases.plan(
        kernels, np.array([pool], np.int64).reshape(1, -1), np.array([key], np.uint64), *options
    )
    for lane, count in zip(lanes[0], counts[0], strict=True):
        assert (lane[:count] >= 0).all()
        assert (lane[count:] == -1).all()
    return [lane[:count].tolist() for lane, count in zip(lanes[0], counts[0], strict=True)]


@given(POOLS, KEYS, SCHEME, st.integers(1, 9), st.integers(1, 20), ALPHA, st.integers(0, 70))
def test_lanes_hold_candidates_in_rank_order(
    kernels, pool, key, scheme, n_lanes, k_lane, alpha, head
):
    lanes = plan_one(kernels, pool, key, scheme, n_lanes, k_lane, alpha, head)
    rank = {i: r for r, i in enumerate(pool)}
    for lane in lanes:
        assert len(lane) <= k_lane
        ranks = [rank[i] for i in lane]
        assert ranks == sorted(set(ranks))
    # The same again is the same plan.
    assert plan_one(kernels, pool, key, scheme, n_lanes, k_lane, alpha, head) == lanes


@given(POOLS, KEYS, SCHEME, st.integers(1, 9), st.integers(1, 20))
def test_dedicated_lanes_are_disjoint(kernels, pool, key, scheme, n_lanes, k_lane):
    lanes = plan_one(kernels, pool, key, scheme, n_lanes, k_lane)
    scored = [i for lane in lanes for i in lane]
    assert len(set(scored)) == len(scored)


@given(
    POOLS, KEYS, st.sampled_from(["permute", "stratified"]), st.integers(1, 9), st.integers(1, 20)
)
def test_lanes_are_complete_and_balanced(kernels, pool, key, scheme, n_lanes, k_lane):
    lanes = plan_one(kernels, pool, key, scheme, n_lanes, k_lane)
    candidates = [i for i in pool if i >= 0][: n_lanes * k_lane]
    assert {i for lane in lanes for i in lane} == set(candidates)
    sizes = [len(lane) for lane in lanes]
    assert max(sizes) - min(sizes) <= 1


@given(POOLS, KEYS, st.integers(1, 9), st.integers(1, 20))
def test_every_stratum_is_dealt_once_round(kernels, pool, key, n_lanes, k_lane):
    lanes = plan_one(kernels, pool, key, "stratified", n_lanes, k_lane)
    candidates = [i for i in pool if i >= 0][: n_lanes * k_lane]
    for lane in lanes:
        strata = [candidates.index(i) // n_lanes for i in lane]
        assert len(set(strata)) == len(strata)
        assert len(lane) >= len(candidates) // n_lanes


@given(POOLS, KEYS, SCHEME, st.integers(1, 9), st.integers(1, 20))
def test_without_dedicated_part_all_lanes_are_equal(kernels, pool, key, scheme, n_lanes, k_lane):
    lanes = plan_one(kernels, pool, key, scheme, n_lanes, k_lane, 0.0)
    assert all(lane == lanes[0] for lane in lanes)
    assert len(lanes[0]) == min(k_lane, sum(i >= 0 for i in pool))


@given(POOLS, KEYS, SCHEME, st.integers(1, 9), st.integers(1, 20), ALPHA)
def test_shared_and_dedicated_parts(kernels, pool, key, scheme, n_lanes, k_lane, alpha):
    """A candidate is in one lane or in all, as far as the budgets go."""
    lanes = plan_one(kernels, pool, key, scheme, n_lanes, k_lane, alpha)
    holders = {i: sum(i in lane for lane in lanes) for lane in lanes for i in lane}
    if scheme == "owner":
        full = {i for lane in lanes if len(lane) == k_lane for i in pool}
        assert all(h in (1, n_lanes) for i, h in holders.items() if i not in full)
        return
    assert all(h in (1, n_lanes) for h in holders.values())
    if n_lanes > 1:
        shared = sum(h == n_lanes for h in holders.values())
        n = sum(i >= 0 for i in pool)
        assert shared == min(n, k_lane - oracle.k_dedicated(alpha, k_lane))


@given(POOLS, KEYS, st.integers(1, 9), ALPHA, st.randoms(use_true_random=False))
def test_owner_does_not_look_at_the_order(kernels, pool, key, n_lanes, alpha, random):
    # A budget for all, so that nothing is cut off.
    options = ("owner", n_lanes, max(1, len(pool)), alpha)
    lanes = plan_one(kernels, pool, key, *options)
    shuffled = random.sample(pool, len(pool))
    assert list(map(set, plan_one(kernels, shuffled, key, *options))) == list(map(set, lanes))
    # Nor at the company: a candidate alone goes where it went with the others.
    for i in [i for i in pool if i >= 0][:3]:
        alone = plan_one(kernels, [i], key, *options)
        assert [i in lane for lane in alone] == [i in lane for lane in lanes]


@given(POOLS, KEYS, st.integers(2, 9), st.integers(1, 30))
def test_head_is_scored_twice(kernels, pool, key, n_lanes, head):
    # Budgets of the whole pool: the head adds candidates and displaces none.
    k_lane = max(1, len(pool))
    plain = plan_one(kernels, pool, key, "owner", n_lanes, k_lane)
    headed = plan_one(kernels, pool, key, "owner", n_lanes, k_lane, 1.0, head)
    best = set([i for i in pool if i >= 0][:head])
    for r, lane in enumerate(headed):
        assert set(lane) == set(plain[r]) | (set(plain[r - 1]) & best)


# -------------------------------------------------------------------------------------- fairness


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("n_lanes", [2, 3, 5, 8])
def test_every_rank_goes_to_every_lane_equally_often(rng, scheme, n_lanes):
    """Pearson's chi-squared of the lanes that each rank goes to, over many keys.

    With n_lanes - 1 degrees of freedom it exceeds df + 2 sqrt(df x) + 2 x with probability at most
    exp(-x) (Laurent & Massart 2000, lemma 1); x is such that all ranks together fail by chance
    once in a million times.
    """
    n, k_lane = 6000, 3
    k_pool = n_lanes * k_lane  # else the first lanes of permute would take one more
    pools = np.tile(rng.permutation(1000)[:k_pool], (n, 1))
    lanes, _ = cases.plan(SCALAR, pools, some_keys(rng, n), scheme, n_lanes, k_pool)
    x = math.log(k_pool * 1e6)
    limit = (n_lanes - 1) + 2 * math.sqrt((n_lanes - 1) * x) + 2 * x
    for i in pools[0].tolist():
        found = (lanes == i).any(axis=2).sum(axis=0)
        assert found.sum() == n
        assert ((found - n / n_lanes) ** 2).sum() / (n / n_lanes) <= limit


@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("n_lanes", [2, 4, 9])
def test_owner_shares_the_right_part(rng, n_lanes, alpha):
    """Of what a lane scores, alpha is its own: within Hoeffding's bound at one in a million."""
    n = 40_000
    pools, keys = rng.permutation(n)[None], some_keys(rng, 1)
    lanes, counts = cases.plan(SCALAR, pools, keys, "owner", n_lanes, n, alpha)
    seen = np.bincount(lanes[lanes >= 0], minlength=n)
    shared = int((seen == n_lanes).sum())
    assert shared + int((seen == 1).sum()) == n
    expected = oracle.share_below(alpha, n_lanes) / 2**64
    assert abs(shared / n - expected) <= math.sqrt(math.log(2e6) / (2 * n))
    per_lane = expected + (1 - expected) / n_lanes
    assert (1 - expected) / n_lanes / per_lane == pytest.approx(alpha)
    assert (np.abs(counts / n - per_lane) <= math.sqrt(math.log(2e6 * n_lanes) / (2 * n))).all()


# ------------------------------------------------------------------------------------ duplicates


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("k_pool", [30, 32, 1000])
@pytest.mark.parametrize("with_gaps", [False, True])
def test_duplicates_are_reported(kernels, rng, with_gaps, k_pool, scheme):
    n = 600 if k_pool < 100 else 410
    pools = np.stack([rng.permutation(2000)[:k_pool] for _ in range(n)])
    if with_gaps:
        pools[:, 5:15] = -1
    keys = some_keys(rng, n)
    assert isinstance(cases.plan(kernels, pools, keys, scheme, 3, 5), tuple)
    for n_threads in THREADS:
        for first, second in ((n - 1, 400), (400, 70), (70, 0)):
            broken = pools.copy()
            broken[first, -1] = broken[first, 0]
            broken[second, 17] = broken[second, 16]
            got = cases.plan(kernels, broken, keys, scheme, 3, 5, n_threads=n_threads)
            assert got == second
    with pytest.raises(ValueError, match="row 0"):
        oracle.plan(broken, keys, scheme, 3, 5)


def test_missing_candidates_are_no_duplicates(kernels):
    pools, keys = np.full((2, 9), -1, dtype=np.int64), np.zeros((2, 2), dtype=np.uint64)
    pools[1, 4] = 0
    lanes, counts = cases.plan(kernels, pools, keys, "permute", 2, 3)
    assert counts.sum() == 1
    assert sorted(lanes.ravel().tolist()) == [-1] * 11 + [0]


def test_bits_are_those_of_every_other_machine(kernels):
    pools = np.arange(60, dtype=np.int64).reshape(3, 20)[:, ::-1] * 10**17
    keys = np.arange(6, dtype=np.uint64).reshape(3, 2)
    plans = [
        cases.plan(kernels, np.ascontiguousarray(pools), keys, scheme, 5, 4, 0.5, 2)
        for scheme in SCHEMES
    ]
    assert cases.digest(*itertools.chain(*plans)) == "ecf92d78a6b64b76"
