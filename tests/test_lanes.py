"""Lanes: plans that anybody can make again, and searches that run through them."""

import hashlib
import json
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import cases
import numpy as np
import pytest
from cases import assert_same_bytes
from hypothesis import given
from hypothesis import strategies as st

import lanewise as lw
from lanewise import oracle
from lanewise.lanes import (
    SCHEMES,
    LaneSearch,
    mway_jaccard,
    pairwise_jaccard,
    plan,
    query_keys,
)

FROZEN_DIGEST = "bec2b47f173a916f140d2998d36d16bab8c5b77f750ccce6e60ea47293d42fbe"
FROZEN = json.loads((Path(__file__).parent / "files" / "plans-v1.json").read_text("ascii"))

every_scheme = pytest.mark.parametrize("scheme", SCHEMES)
ID = st.integers(0, 2**63 - 1)
KEY = st.integers(0, 2**128 - 1)
ALPHA = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 1.0]) | st.floats(0, 1)


def pools(max_size=60):
    """Distinct ids in any order, with holes between them."""

    def with_holes(drawn):
        ids, holes = drawn
        for hole in holes:
            ids.insert(hole % (len(ids) + 1), -1)
        return ids

    ids = st.lists(ID, unique=True, max_size=max_size) | st.permutations(range(max_size))
    return st.tuples(ids, st.lists(st.integers(0, 2 * max_size), max_size=6)).map(with_holes)


def lanes_of(one_plan, q=0):
    """Lists of ids, and on the way: ids stand before -1, and counts count them."""
    lanes = []
    for row, count in zip(one_plan.ids[q].tolist(), one_plan.counts[q].tolist(), strict=True):
        assert all(i >= 0 for i in row[:count])
        assert all(i == -1 for i in row[count:])
        lanes.append(row[:count])
    return lanes


# ------------------------------------------------------------------------------------ frozen plans


def test_the_frozen_file_is_the_one_that_was_frozen():
    """It may never be made again: whoever must change a scheme gives it a new name."""
    text = (Path(__file__).parent / "files" / "plans-v1.json").read_bytes()
    text = text.replace(b"\r\n", b"\n")
    assert hashlib.sha256(text).hexdigest() == FROZEN_DIGEST
    assert (FROZEN["format"], FROZEN["version"]) == ("lanewise plans", 1)
    assert {case["scheme"] for case in FROZEN["plans"]} == set(SCHEMES)


@every_scheme
def test_plans_of_ten_years_ago_are_made_again(kernels, scheme):
    frozen = [case for case in FROZEN["plans"] if case["scheme"] == scheme]
    assert len(frozen) > 90
    for case in frozen:
        options = {name: case[name] for name in ("scheme", "n_lanes", "k_lane", "alpha", "head")}
        pool = FROZEN["pools"][case["pool"]]
        got = plan(pool, int(case["key"], 16), kernels=kernels, **options)
        assert lanes_of(got) == case["lanes"], case
        assert (got.scheme, got.alpha, got.head) == (scheme, case["alpha"], case["head"])
        assert got.n_lanes == case["n_lanes"]
        for r in range(got.n_lanes):
            assert_same_bytes(got.lane(r), got.ids[:, r])


def test_the_oracle_makes_them_too():
    for case in FROZEN["plans"]:
        pool = np.array([FROZEN["pools"][case["pool"]]], dtype=np.int64)
        key = int(case["key"], 16)
        options = (case[name] for name in ("scheme", "n_lanes", "k_lane", "alpha", "head"))
        lanes, counts = oracle.plan(pool, [[key & 2**64 - 1, key >> 64]], *options)
        got = [row[:n] for row, n in zip(lanes[0].tolist(), counts[0].tolist(), strict=True)]
        assert got == case["lanes"], case


def test_query_keys_of_ten_years_ago_are_made_again():
    assert len(FROZEN["query_keys"]) > 4
    for case in FROZEN["query_keys"]:
        vector = np.frombuffer(bytes.fromhex(case["float32"]), dtype="<f4")
        low, high = query_keys(vector)[0].tolist()
        assert low | high << 64 == int(case["key"], 16)


def test_query_keys_are_of_the_values_alone(rng):
    Q = rng.standard_normal((5, 7), dtype=np.float32)
    Q[1] = Q[0]
    Q[2, :3] = [0, -0.0, 1]
    keys = query_keys(Q)
    assert keys.shape == (5, 2)
    assert keys.dtype == np.uint64
    for q, key in zip(Q, keys.tolist(), strict=True):
        values = np.where(q == 0, 0, q).astype("<f4").tobytes()
        digest = hashlib.blake2b(values, digest_size=16).digest()
        assert key == [int.from_bytes(half, "little") for half in (digest[:8], digest[8:])]
    for same in (Q.astype(np.float64), Q.astype(">f4"), np.asfortranarray(Q), np.where(Q, Q, -0.0)):
        assert_same_bytes(query_keys(same), keys)
    assert_same_bytes(query_keys(Q[3]), keys[3:4])
    assert_same_bytes(query_keys(Q[3].tolist()), keys[3:4])
    assert (keys[0] == keys[1]).all()
    assert len(set(map(tuple, keys.tolist()))) == 4
    assert query_keys(np.empty((0, 7))).shape == (0, 2)
    for wrong in ([[np.nan]], [[[1.0]]], 1.0, [], [[1.0], [2.0, 3.0]]):
        with pytest.raises(ValueError, match=r"^queries: "):
            query_keys(wrong)


# ------------------------------------------------------------------------------- what plans promise


@given(pools(), KEY, st.integers(1, 9), st.integers(1, 12), st.sampled_from(SCHEMES[:2]))
def test_disjoint_complete_and_balanced(pool, key, n_lanes, k_lane, scheme):
    lanes = lanes_of(plan(pool, key, n_lanes=n_lanes, k_lane=k_lane, scheme=scheme))
    together = [i for lane in lanes for i in lane]
    best = [i for i in pool if i >= 0][: n_lanes * k_lane]
    assert sorted(together) == sorted(best)
    assert max(map(len, lanes)) - min(map(len, lanes)) <= 1


@given(pools(), KEY, st.integers(1, 9))
def test_owners_are_disjoint_and_complete_if_there_is_room(pool, key, n_lanes):
    lanes = lanes_of(plan(pool, key, n_lanes=n_lanes, k_lane=100, scheme="owner"))
    assert sorted(i for lane in lanes for i in lane) == sorted(i for i in pool if i >= 0)
    few = lanes_of(plan(pool, key, n_lanes=n_lanes, k_lane=3, scheme="owner"))
    assert few == [lane[:3] for lane in lanes]


@given(
    pools(), KEY, st.integers(1, 9), st.integers(1, 12), st.sampled_from(SCHEMES), ALPHA, st.data()
)
def test_lanes_are_in_rank_order_and_hold_what_is_theirs(
    pool, key, n_lanes, k_lane, scheme, alpha, data
):
    head = data.draw(st.integers(0, 10))
    options = {"n_lanes": n_lanes, "k_lane": k_lane, "scheme": scheme, "alpha": alpha, "head": head}
    lanes = lanes_of(plan(pool, key, **options))
    ranks = {i: rank for rank, i in enumerate(pool)}
    assert len(lanes) == n_lanes
    for lane in lanes:
        assert len(lane) <= k_lane
        order = [ranks[i] for i in lane]
        assert order == sorted(set(order)), "best rank first, and nothing twice"
    assert lanes_of(plan(list(pool), key, **options)) == lanes, "the same again"
    without_holes = [i for i in pool if i >= 0]
    assert lanes_of(plan(without_holes, key, **options)) == lanes, "holes have no rank"


@given(pools(), KEY, st.integers(1, 9), st.integers(1, 12), st.sampled_from(SCHEMES[:2]), ALPHA)
def test_alpha_is_the_share_that_no_other_lane_has(pool, key, n_lanes, k_lane, scheme, alpha):
    lanes = lanes_of(plan(pool, key, n_lanes=n_lanes, k_lane=k_lane, scheme=scheme, alpha=alpha))
    n = sum(i >= 0 for i in pool)
    shared = k_lane - oracle.k_dedicated(alpha, k_lane)
    counts = {}
    for lane in lanes:
        for i in lane:
            counts[i] = counts.get(i, 0) + 1
    everywhere = [i for i, count in counts.items() if count == n_lanes]
    if n_lanes > 1:
        assert set(counts.values()) <= {1, n_lanes}
        assert len(everywhere) == min(n, shared)
    if scheme == "stratified" and n_lanes > 1:
        assert everywhere == [i for i in pool if i >= 0][:shared]
    if n >= n_lanes * k_lane:
        assert [len(lane) for lane in lanes] == [k_lane] * n_lanes


@given(pools(40), KEY, st.integers(1, 6), st.randoms(use_true_random=False))
def test_owners_do_not_depend_on_the_pool(pool, key, n_lanes, random):
    """Not on its order, nor on who else is in it: replicas with other pools agree."""
    for alpha in (1.0, 0.5):
        options = {"n_lanes": n_lanes, "k_lane": 60, "scheme": "owner", "alpha": alpha}
        lanes = lanes_of(plan(pool, key, **options))
        shuffled = list(pool)
        random.shuffle(shuffled)
        some = shuffled[: len(shuffled) // 2]
        assert [set(lane) for lane in lanes_of(plan(shuffled, key, **options))] == list(
            map(set, lanes)
        )
        expected = [set(lane) & set(some) for lane in lanes]
        assert [set(lane) for lane in lanes_of(plan(some, key, **options))] == expected


@given(pools(40), KEY, st.integers(1, 6), st.randoms(use_true_random=False))
def test_permuted_lanes_do_not_depend_on_the_order_of_the_pool(pool, key, n_lanes, random):
    options = {"n_lanes": n_lanes, "k_lane": 60, "scheme": "permute"}
    shuffled = list(pool)
    random.shuffle(shuffled)
    one, other = (lanes_of(plan(each, key, **options)) for each in (pool, shuffled))
    assert list(map(set, one)) == list(map(set, other))


@given(pools(), KEY, st.integers(2, 9), st.integers(0, 6), st.sampled_from(SCHEMES))
def test_the_head_is_on_exactly_two_lanes(pool, key, n_lanes, head, scheme):
    k_lane = 100
    lanes = lanes_of(plan(pool, key, n_lanes=n_lanes, k_lane=k_lane, scheme=scheme, head=head))
    alone = lanes_of(plan(pool, key, n_lanes=n_lanes, k_lane=k_lane, scheme=scheme))
    for rank, i in enumerate(i for i in pool if i >= 0):
        home = next(r for r, lane in enumerate(alone) if i in lane)
        holders = {r for r, lane in enumerate(lanes) if i in lane}
        assert holders == ({home, (home + 1) % n_lanes} if rank < head else {home})


@given(
    pools(), KEY, st.integers(1, 9), st.integers(1, 12), st.integers(0, 9), st.sampled_from(SCHEMES)
)
def test_the_head_comes_out_of_the_budget(pool, key, n_lanes, k_lane, head, scheme):
    lanes = lanes_of(plan(pool, key, n_lanes=n_lanes, k_lane=k_lane, scheme=scheme, head=head))
    if 2 * head <= k_lane and n_lanes > 1:
        for i in [i for i in pool if i >= 0][:head]:
            assert sum(i in lane for lane in lanes) == 2
    assert all(len(lane) <= k_lane for lane in lanes)


@every_scheme
def test_the_key_decides(rng, scheme):
    pool = rng.permutation(1000)[:64]
    seen = set()
    for bit in range(128):
        got = plan(pool, 1 << bit, n_lanes=4, k_lane=16, scheme=scheme)
        seen.add(got.ids.tobytes())
    assert len(seen) == 128, "each of the 128 bits counts"


@every_scheme
def test_lanes_are_as_likely_as_each_other(scheme):
    """Chi-squared of how often each of the best 4 ranks falls to each of 4 lanes."""
    n = 4000
    pool = np.tile(np.arange(64), (n, 1))
    keys = np.stack([np.arange(n, dtype=np.uint64), np.zeros(n, np.uint64)], axis=1)
    ids = plan(pool, keys, n_lanes=4, k_lane=64, scheme=scheme).ids
    for rank in range(4):
        counts = (ids == rank).any(axis=2).sum(axis=0)
        assert counts.sum() == n
        statistic = ((counts - n / 4) ** 2 / (n / 4)).sum()
        # Three degrees of freedom: exceeded with probability 1e-9 (scipy.stats.chi2.isf(1e-9, 3)).
        assert statistic < 44.9


# --------------------------------------------------------------------------- the same for everybody


@every_scheme
def test_same_bits_for_everybody(kernels, rng, scheme):
    """Kernel sets, threads, batches."""
    n = 600  # more queries than one piece of work
    pool = np.stack([rng.permutation(500)[:40] for _ in range(n)])
    pool[rng.random(pool.shape) < 0.1] = -1
    keys = rng.integers(0, 2**64, (n, 2), dtype=np.uint64)
    options = {"n_lanes": 5, "k_lane": 8, "scheme": scheme, "alpha": 0.7, "head": 2}
    expected = plan(pool, keys, kernels="scalar", n_threads=1, **options)
    assert_same_bytes(
        (expected.ids, expected.counts), oracle.plan(pool, keys, scheme, 5, 8, 0.7, 2)
    )
    for n_threads in cases.THREADS:
        got = plan(pool, keys, kernels=kernels, n_threads=n_threads, **options)
        assert_same_bytes((got.ids, got.counts), (expected.ids, expected.counts), n_threads)
    for q in range(0, n, 97):
        alone = plan(pool[q], keys[q : q + 1], kernels=kernels, **options)
        assert_same_bytes(alone.ids[0], expected.ids[q], q)


LANE_PROGRAM = """
import json, sys
from lanewise.lanes import SCHEMES, plan
r = int(sys.argv[1])
asked = json.load(sys.stdin)
plans = {
    scheme: plan(asked["pool"], int(asked["key"]), n_lanes=4, k_lane=6, scheme=scheme)
    for scheme in SCHEMES
}
print(json.dumps({scheme: p.lane(r)[0, : p.counts[0, r]].tolist() for scheme, p in plans.items()}))
"""


def test_lanes_in_processes_of_their_own_need_no_other_message(rng):
    """Each gets the key and the pool, and its number; together they do what one plan says."""
    pool = rng.permutation(10**6)[:24].tolist()
    key = 0x0123456789ABCDEFFEDCBA9876543210
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", LANE_PROGRAM, str(r)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for r in range(4)
    ]
    message = json.dumps({"key": str(key), "pool": pool})
    answers = []
    for process in processes:
        out, _ = process.communicate(message, timeout=300)
        assert process.returncode == 0
        answers.append(json.loads(out))
    for scheme in SCHEMES:
        lanes = [answer[scheme] for answer in answers]
        together = [i for lane in lanes for i in lane]
        assert len(together) == len(set(together)), "disjoint"
        if scheme != "owner":  # whose full lanes leave something out
            assert set(together) == set(pool), "complete"
        whole = plan(pool, key, n_lanes=4, k_lane=6, scheme=scheme)
        assert lanes == lanes_of(whole)


# ----------------------------------------------------------------------------------- keys and pools


def test_forms_of_a_key(rng):
    pool = np.stack([rng.permutation(100)[:20] for _ in range(3)])
    keys = [5, 2**128 - 1, 0x0123456789ABCDEF << 61]
    options = {"n_lanes": 3, "k_lane": 5}
    words = np.array([[k & 2**64 - 1, k >> 64] for k in keys], dtype=np.uint64)
    expected = plan(pool, words, **options).ids
    as_bytes = [k.to_bytes(16, "little") for k in keys]
    mixed = (keys[0], as_bytes[1], keys[2])
    for form in (keys, tuple(keys), as_bytes, mixed, np.asfortranarray(words)):
        assert_same_bytes(plan(pool, form, **options).ids, expected)
    for q, key in enumerate(keys):
        one = expected[q : q + 1]
        for form in (key, as_bytes[q], [key], words[q : q + 1]):
            assert_same_bytes(plan(pool[q], form, **options).ids, one)
        everyone = plan(pool, key, **options).ids
        assert_same_bytes(everyone[q : q + 1], one)
        assert_same_bytes(plan(pool, as_bytes[q], **options).ids, everyone)
    assert_same_bytes(plan(pool[0], np.uint64(5), **options).ids, expected[:1])


KEYS = [
    (-1, ValueError),
    (2**128, ValueError),
    (True, TypeError),
    (1.0, TypeError),
    (None, TypeError),
    ("key", TypeError),
    (b"123", ValueError),
    (bytes(17), ValueError),
    ([1], ValueError),
    ([1, 2, 3], ValueError),
    ([1, -1], ValueError),
    ([1, "2"], TypeError),
    (np.zeros((2, 2), np.int64), ValueError),
    (np.zeros((3, 2), np.uint64), ValueError),
    (np.zeros(2, np.uint64), ValueError),
    (bytearray(15), ValueError),
    (memoryview(bytes(17)), ValueError),
]


@pytest.mark.parametrize(("key", "error"), KEYS)
def test_wrong_keys_are_named(key, error):
    with pytest.raises(error, match=r"^key: expected"):
        plan([[1, 2], [3, 4]], key, n_lanes=2, k_lane=1)


def test_sixteen_bytes_are_one_key_in_every_form():
    """Not sixteen keys of a byte each, if there happen to be sixteen queries."""
    pool = np.arange(64).reshape(16, 4)
    raw = bytes(range(16))
    expected = plan(pool, raw, n_lanes=2, k_lane=2).ids
    for form in (bytearray(raw), memoryview(raw), [raw] * 16):
        assert_same_bytes(plan(pool, form, n_lanes=2, k_lane=2).ids, expected)


@every_scheme
def test_an_id_twice_is_refused_and_the_query_named(scheme):
    pool = np.arange(30).reshape(5, 6)
    pool[3, 5] = pool[3, 0]
    pool[4, 1] = pool[4, 2]
    for n_threads in cases.THREADS:
        with pytest.raises(ValueError, match=r"^pool: expected distinct ids, .* query 3$"):
            plan(pool, 1, n_lanes=2, k_lane=3, scheme=scheme, n_threads=n_threads)
    with pytest.raises(ValueError, match=r"^pool: .* query 0$"):
        plan([4, -1, -1, 4], 1, n_lanes=2, k_lane=3, scheme=scheme)
    plan([4, -1, -1, 5], 1, n_lanes=2, k_lane=3, scheme=scheme)
    with pytest.raises(ValueError, match=r"^pool: "):
        plan([2**63 - 1, 1, 2**63 - 1], 1, n_lanes=1, k_lane=1, scheme=scheme)


POOLS = [
    ([-2], ValueError),
    ([2**63], ValueError),
    (np.array([2**64 - 1], dtype=np.uint64), ValueError),
    ([[[1]]], ValueError),
    (5, ValueError),
    ([1.0], TypeError),
    ([True], TypeError),
    ("ab", TypeError),
    ([[1], [2, 3]], ValueError),
]


@pytest.mark.parametrize(("pool", "error"), POOLS)
def test_wrong_pools_are_named(pool, error):
    with pytest.raises(error, match=r"^pool: "):
        plan(pool, 1, n_lanes=2, k_lane=1)


OPTIONS = [
    ("n_lanes", 0, ValueError),
    ("n_lanes", 2**16 + 1, ValueError),
    ("n_lanes", 2.0, TypeError),
    ("k_lane", 0, ValueError),
    ("k_lane", 2**31, ValueError),
    ("k_lane", "1", TypeError),
    ("alpha", -0.01, ValueError),
    ("alpha", 1.01, ValueError),
    ("alpha", np.nan, ValueError),
    ("alpha", "1", TypeError),
    ("head", -1, ValueError),
    ("head", 0.5, TypeError),
    ("scheme", "random", ValueError),
    ("scheme", None, TypeError),
    ("kernels", "sse9", ValueError),
    ("n_threads", 0, ValueError),
]


@pytest.mark.parametrize(("name", "value", "error"), OPTIONS)
def test_wrong_options_are_named(name, value, error):
    with pytest.raises(error, match=f"^{name}: "):
        plan([[1, 2]], 1, **{"n_lanes": 2, "k_lane": 1, name: value})
    if (name, value) != ("k_lane", 2**31):
        flat = lw.Flat(1)
        with pytest.raises(error, match=f"^{name}: "):
            LaneSearch(flat, flat, **{name: value})


def test_nothing_to_plan():
    for pool in ([], [-1, -1], np.empty((1, 0), dtype=np.int64)):
        got = plan(pool, 1, n_lanes=3, k_lane=2)
        assert got.ids.tolist() == [[[-1, -1]] * 3]
        assert got.counts.tolist() == [[0, 0, 0]]
    none = plan(np.empty((0, 4), dtype=np.int64), 1, n_lanes=3, k_lane=2)
    assert none.ids.shape == (0, 3, 2)
    assert none.counts.shape == (0, 3)


def test_lanes_of_a_plan_have_numbers():
    got = plan([1, 2, 3], 1, n_lanes=3, k_lane=2)
    for wrong in (-1, 3):
        with pytest.raises(ValueError, match=r"^r: "):
            got.lane(wrong)


@every_scheme
def test_many_lanes_and_huge_heads(scheme):
    got = plan(range(100), 3, n_lanes=2**16, k_lane=2, scheme=scheme, head=2**31 - 1)
    holders = np.bincount(got.ids[got.ids >= 0], minlength=100)
    assert (holders <= 2).all()
    if scheme != "owner":  # where two ids may find the same lanes, and no room there
        assert (holders == 2).all()


# ------------------------------------------------------------------------------------------ overlap


@given(
    st.lists(st.lists(st.integers(0, 12), unique=True, max_size=6), min_size=1, max_size=5),
    st.lists(st.lists(st.integers(0, 12), unique=True, max_size=6), min_size=1, max_size=5),
)
def test_overlap_is_set_arithmetic(first, second):
    n_lanes = min(len(first), len(second))
    batch = (first[:n_lanes], second[:n_lanes])
    for width in (6, 8):
        ids = np.full((2, n_lanes, width), -1, dtype=np.int64)
        for q, lanes in enumerate(batch):
            for r, lane in enumerate(lanes):
                ids[q, r, : len(lane)] = lane
        for got, exact in (
            (pairwise_jaccard, oracle.pairwise_jaccard),
            (mway_jaccard, oracle.mway_jaccard),
        ):
            expected = [exact(lanes) for lanes in batch]
            values = got(ids)
            assert values.shape == (2,)
            # A mean of at most ten quotients, each rounded once, added up in another order.
            assert (np.abs(values - expected) <= 12 * 2.0**-53).all()


def test_overlap_of_no_lanes_and_no_candidates():
    for measure in (pairwise_jaccard, mway_jaccard):
        assert measure(np.full((2, 3, 4), -1)).tolist() == [0, 0]
        assert measure(np.empty((2, 3, 0), np.int64)).tolist() == [0, 0]
        assert measure(np.empty((0, 3, 4), np.int64)).shape == (0,)
        assert measure(np.arange(4).reshape(1, 1, 4)).tolist() == [0]
        assert measure(np.tile(np.arange(4), (1, 3, 1))).tolist() == [1]


# ------------------------------------------------------------------------------------- LaneSearch


def blobs(rng, n, dim=8):
    return rng.standard_normal((n, dim), dtype=np.float32)


def settings(**changed):
    return {"n_lanes": 4, "k_lane": 5, **changed}


def pool_of(kind, X, metric):
    if kind == "hnsw":
        pytest.importorskip("hnswlib")
        return lw.HNSW.build(X, metric, M=8, ef_construction=40)
    if kind == "ivf":
        return lw.IVF(X.shape[1], 8, metric).train(X).add(X)
    flat = lw.Flat(X.shape[1], metric).add(X)
    return flat if kind == "flat" else lambda Q, k_pool: flat.search(Q, k_pool).ids


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("kind", ["hnsw", "ivf", "flat", "callable"])
def test_a_search_is_pool_plan_score_merge(rng, kind, metric):
    X, Q = blobs(rng, 300), blobs(rng, 6)
    flat = lw.Flat(8, metric).add(X)
    pool = pool_of(kind, X, metric)
    enumerate_pool = pool if kind == "callable" else pool.pool
    for scheme in SCHEMES:
        for key in (None, 99, b"0123456789abcdef"):
            options = settings(alpha=0.7, head=2, scheme=scheme)
            got = LaneSearch(pool, flat, key=key, k_pool=25, **options).search(Q, 7)
            candidates = enumerate_pool(Q, 25)
            assert_same_bytes(got.pool, candidates)
            planned = plan(candidates, query_keys(Q) if key is None else key, **options)
            assert_same_bytes((got.plan.ids, got.plan.counts), (planned.ids, planned.counts))
            scores = np.stack([flat.score(Q, planned.lane(r)) for r in range(4)], axis=1)
            assert_same_bytes(got.lane_distances, scores)
            distances, ids = oracle.merge(scores, planned.ids, 7)
            assert np.array_equal(got.ids, ids)
            assert np.array_equal(got.distances, distances)
            assert np.array_equal(got.stats["scored"], planned.counts.sum(axis=1))
            told = tuple(got)
            assert told[0] is got.distances
            assert told[1] is got.ids


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@every_scheme
def test_lanes_over_everything_are_flat(kernels, rng, metric, scheme):
    """alpha = 1 and the whole index as the pool: byte for byte the exact answer."""
    numbers = cases.integers(rng, (90, 6), 1)  # with ties, and zero vectors
    numbers[::9] = 0
    for X in (blobs(rng, 90, 6), numbers):
        flat = lw.Flat(6, metric, kernels=kernels).add(X)

        def everything(Q, k_pool):
            return np.tile(np.arange(90), (len(Q), 1))

        for pool in (everything, flat):
            k_lane = 90 if scheme == "owner" else 23
            search = LaneSearch(pool, flat, n_lanes=4, k_lane=k_lane, scheme=scheme)
            for k in (1, 10, 90, 95):
                got = search.search(X[:5], k)
                assert_same_bytes(tuple(got), tuple(flat.search(X[:5], k)), k)
            assert (got.pool_coverage == 1).all()
            assert (got.pairwise_jaccard == 0).all()
            assert (got.mway_jaccard == 0).all()
            assert (got.stats["duplicates"] == 0).all()


def test_scorers_that_are_callables_score_one_query(rng):
    X, Q = blobs(rng, 200), blobs(rng, 5)
    flat = lw.Flat(8).add(X)
    calls = []
    lock = threading.Lock()

    def score(query, ids):
        assert query.shape == (8,)
        assert ids.dtype == np.int64
        assert (ids >= 0).all()
        with lock:
            calls.append(len(ids))
        return flat.score(query, ids)[0]

    # A pool with fewer ids than places, so that lanes are not full, and one of them may be empty.
    pool = np.full((5, 20), -1)
    for q in range(5):
        pool[q, : 3 * q + 1] = rng.permutation(200)[: 3 * q + 1]
    for scheme in SCHEMES:
        search, by_object = (
            LaneSearch(lambda Q, k: pool, scorer, **settings(scheme=scheme))
            for scorer in (score, flat)
        )
        calls.clear()
        got, expected = search.search(Q, 6), by_object.search(Q, 6)
        assert_same_bytes(tuple(got), tuple(expected))
        assert_same_bytes(got.lane_distances, expected.lane_distances)
        assert sum(calls) == got.stats["scored"].sum()
        assert min(calls) > 0
    as_lists = LaneSearch(
        lambda Q, k: pool.tolist(), lambda q, ids: score(q, ids).tolist(), **settings()
    )
    assert_same_bytes(
        as_lists.search(Q, 6).ids,
        LaneSearch(lambda Q, k: pool, flat, **settings()).search(Q, 6).ids,
    )


def test_lanes_run_at_the_same_time(rng):
    """Every lane waits inside the scorer for all others: one after another would wait for ever."""
    X = blobs(rng, 100)
    flat = lw.Flat(8).add(X)
    for n_lanes in (2, 4, 9):
        barrier = threading.Barrier(n_lanes)

        def score(query, ids, barrier=barrier):
            barrier.wait(timeout=60)
            return flat.score(query, ids)[0]

        search = LaneSearch(flat, score, n_lanes=n_lanes, k_lane=3)
        got = search.search(X[:2], 5)
        assert_same_bytes(tuple(got), tuple(flat.search(X[:2], 5)))


def test_searches_at_the_same_time(rng):
    X = blobs(rng, 200)
    flat = lw.Flat(8).add(X)
    search = LaneSearch(lw.IVF(8, 6).train(X).add(X), flat, **settings())
    expected = [tuple(search.search(x, 5)) for x in X[:8]]
    wrong = []

    def run(q):
        for _ in range(10):
            got = search.search(X[q], 5)
            if [part.tobytes() for part in got] != [part.tobytes() for part in expected[q]]:
                wrong.append(q)

    threads = [threading.Thread(target=run, args=(q,)) for q in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_error_of_a_scorer_comes_out(rng):
    flat = lw.Flat(8).add(blobs(rng, 50))

    def broken(query, ids):
        raise KeyError("no such document")

    with pytest.raises(KeyError, match="no such document"):
        LaneSearch(flat, broken, **settings()).search(np.zeros(8), 3)
    short = lw.Flat(8).add(blobs(rng, 5))
    with pytest.raises(ValueError, match=r"^ids: \d+ is not in the index$"):
        LaneSearch(flat, short, **settings()).search(np.zeros(8), 3)
    with pytest.raises(KeyError, match="no such document"):
        LaneSearch(broken, flat, **settings()).search(np.zeros(8), 3)


class Scorer:
    """An index of somebody else's."""

    dim = 8

    def __init__(self, function):
        self.function = function

    def score(self, queries, ids, *, n_threads=None):
        return self.function(queries, ids)


WRONG_SCORES = [
    lambda Q, ids: np.zeros(len(ids)),
    lambda Q, ids: np.zeros((len(ids), ids.shape[1] + 1)),
    lambda Q, ids: np.zeros((1, ids.shape[1])),
    lambda Q, ids: np.zeros((len(ids), 1)),
    lambda Q, ids: np.zeros(ids.shape[1]),
    lambda Q, ids: 0.0,
    lambda Q, ids: None,
    lambda Q, ids: np.full(ids.shape, "near"),
    lambda Q, ids: np.full(ids.shape, 1j),
]


@pytest.mark.parametrize("function", WRONG_SCORES)
def test_wrong_scores_of_an_object_are_refused(rng, function):
    flat = lw.Flat(8).add(blobs(rng, 50))
    with pytest.raises((ValueError, TypeError), match=r"^scorer: "):
        LaneSearch(flat, Scorer(function), **settings()).search(blobs(rng, 3), 3)


WRONG_SCORES_OF_ONE = [
    lambda q, ids: np.zeros(len(ids) + 1),
    lambda q, ids: np.zeros((1, len(ids))),
    lambda q, ids: np.zeros((len(ids), 1)),
    lambda q, ids: 0.0,
    lambda q, ids: [],
    lambda q, ids: None,
    lambda q, ids: ["near"] * len(ids),
    lambda q, ids: np.full(len(ids), 1j),
]


@pytest.mark.parametrize("function", WRONG_SCORES_OF_ONE)
def test_wrong_scores_of_a_callable_are_refused(rng, function):
    flat = lw.Flat(8).add(blobs(rng, 50))
    with pytest.raises((ValueError, TypeError), match=r"^scorer: "):
        LaneSearch(flat, function, **settings()).search(blobs(rng, 3), 3)


def test_scores_that_are_no_numbers_are_refused(rng):
    flat = lw.Flat(8).add(blobs(rng, 50))
    for scorer in (
        lambda q, ids: np.full(len(ids), np.nan),
        Scorer(lambda Q, i: np.full(i.shape, np.nan)),
    ):
        with pytest.raises(ValueError, match=r"^scorer: .*NaN"):
            LaneSearch(flat, scorer, **settings()).search(blobs(rng, 3), 3)
    # What stands beside -1 is nobody's score.
    nan_beside = Scorer(lambda Q, ids: np.where(ids < 0, np.nan, ids))
    got = LaneSearch(lambda Q, k: np.array([[3, -1, 1]]), nan_beside, **settings()).search(
        np.zeros(8), 4
    )
    assert got.ids.tolist() == [[1, 3, -1, -1]]
    infinite = LaneSearch(flat, lambda q, ids: np.full(len(ids), np.inf), **settings())
    got = infinite.search(np.zeros(8), 3)
    assert (got.ids >= 0).all(), "an infinite score is a score"


WRONG_POOLS = [
    (lambda Q, k: np.zeros(3, dtype=np.int64), ValueError, "2-D"),
    (
        lambda Q, k: np.zeros((2, 3), dtype=np.int64),
        ValueError,
        "3 rows, one for each query, got 2",
    ),
    (lambda Q, k: np.zeros((3, 3)), TypeError, "integers"),
    (lambda Q, k: np.full((3, 3), -2), ValueError, "-2"),
    (lambda Q, k: np.zeros((3, 3), dtype=np.int64), ValueError, "distinct"),
    (lambda Q, k: None, TypeError, ""),
]


@pytest.mark.parametrize(("pool", "error", "words"), WRONG_POOLS)
def test_wrong_answers_of_a_pool_are_refused(rng, pool, error, words):
    flat = lw.Flat(8).add(blobs(rng, 50))
    with pytest.raises(error, match=f"^pool: .*{words}"):
        LaneSearch(pool, flat, **settings()).search(blobs(rng, 3), 3)


def test_wrong_construction_and_queries_are_named(rng):
    flat = lw.Flat(8).add(blobs(rng, 50))
    with pytest.raises(TypeError, match=r"^pool: expected an index or a callable, got int"):
        LaneSearch(3, flat)
    with pytest.raises(TypeError, match=r"^scorer: expected an index or a callable, got int"):
        LaneSearch(flat, 3)
    with pytest.raises(ValueError, match=r"^k_pool: "):
        LaneSearch(flat, flat, k_pool=0)
    search = LaneSearch(flat, flat, **settings())
    for queries, error in (
        (np.zeros(7), ValueError),
        (np.full(8, np.nan), ValueError),
        (np.zeros(8, dtype=int), TypeError),
        (np.zeros((1, 1, 8)), ValueError),
        (0.0, ValueError),
    ):
        with pytest.raises(error, match=r"^queries: "):
            search.search(queries, 3)
    for k in (-1, 1.5):
        with pytest.raises((ValueError, TypeError), match=r"^k: "):
            search.search(np.zeros(8), k)
    for key in (-1, 2**128, b"short", "key"):
        with pytest.raises((ValueError, TypeError), match=r"^key: "):
            LaneSearch(flat, flat, key=key, **settings()).search(np.zeros(8), 3)
    with pytest.raises(TypeError, match=r"^queries: "):
        LaneSearch(lambda Q, k: [[0]], lambda q, ids: ids, **settings()).search(None, 3)


def test_a_pool_smaller_than_the_budget_warns(rng):
    flat = lw.Flat(8).add(blobs(rng, 50))
    with pytest.warns(
        UserWarning, match=r"k_pool = 19 is less than n_lanes \* k_lane = 20"
    ) as caught:
        search = LaneSearch(flat, flat, n_lanes=4, k_lane=5, k_pool=19)
    assert caught[0].filename == __file__
    assert search.search(np.zeros(8), 3).pool.shape == (1, 19)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LaneSearch(flat, flat, n_lanes=4, k_lane=5, k_pool=20)
        LaneSearch(flat, flat, n_lanes=4, k_lane=5)


def test_the_story_of_a_result_is_set_arithmetic(rng):
    X, Q = blobs(rng, 300), blobs(rng, 7)
    flat = lw.Flat(8).add(X)
    pool = flat.pool(Q, 40)
    pool[1, ::2] = -1
    pool[2, 3:] = -1
    pool[3] = -1
    for scheme in SCHEMES:
        for alpha, head in ((1.0, 0), (0.5, 0), (0.0, 0), (1.0, 3)):
            options = settings(scheme=scheme, alpha=alpha, head=head)
            got = LaneSearch(lambda Q, k: pool, flat, **options).search(Q, 6)
            for q in range(7):
                lanes = [set(lane) for lane in lanes_of(got.plan, q)]
                ids = set(pool[q].tolist()) - {-1}
                scored = set().union(*lanes)
                assert got.coverage[q] == 1
                assert got.pool_coverage[q] == (len(scored) / len(ids) if ids else 1)
                assert (
                    abs(got.pairwise_jaccard[q] - oracle.pairwise_jaccard(lanes)) <= 12 * 2.0**-53
                )
                assert got.mway_jaccard[q] == oracle.mway_jaccard(lanes)
                assert got.stats["scored"][q] == sum(map(len, lanes))
                assert got.stats["duplicates"][q] == sum(map(len, lanes)) - len(scored)
    assert got.ids[3].tolist() == [-1] * 6
    assert (got.distances[3] == np.inf).all()


@every_scheme
def test_lost_lanes(rng, scheme):
    X, Q = blobs(rng, 300), blobs(rng, 4)
    flat = lw.Flat(8).add(X)
    got = LaneSearch(flat, flat, **settings(scheme=scheme, head=2)).search(Q, 9)
    for lost in (0, 3, np.int64(2), [1, 2], [0, 1, 2], (3, 1), np.array([2])):
        kept = [r for r in range(4) if r not in np.atleast_1d(lost).tolist()]
        result = got.without(lost)
        distances, ids = oracle.merge(got.lane_distances[:, kept], got.plan.ids[:, kept], 9)
        assert np.array_equal(result.ids, ids)
        assert np.array_equal(result.distances, distances)
        assert result.ids.shape == (4, 9)
    assert (got.without([0, 1, 2, 3]).ids == -1).all()
    assert_same_bytes(tuple(got.without([])), tuple(got))
    # The best two ranks are on two lanes each.
    best = got.pool[:, :2]
    for lost in range(4):
        assert all(
            set(best[q].tolist()) <= set(got.without(lost).ids[q].tolist()) for q in range(4)
        )


@pytest.mark.parametrize("lost", [4, -1, [0, 7], 0.5, "0"])
def test_lanes_that_are_not_there_cannot_be_lost(rng, lost):
    flat = lw.Flat(8).add(blobs(rng, 50))
    got = LaneSearch(flat, flat, **settings()).search(np.zeros(8), 3)
    with pytest.raises((ValueError, TypeError), match=r"^lost: "):
        got.without(lost)


def test_no_queries_and_no_answers(rng):
    flat = lw.Flat(8).add(blobs(rng, 50))

    def untouched(query, ids):
        raise AssertionError

    search = LaneSearch(flat, untouched, **settings())
    got = search.search(np.empty((0, 8)), 3)
    assert got.ids.shape == got.distances.shape == (0, 3)
    assert (
        got.coverage.shape
        == got.pool_coverage.shape
        == got.pairwise_jaccard.shape
        == got.mway_jaccard.shape
        == (0,)
    )
    assert got.without(0).ids.shape == (0, 3)
    assert LaneSearch(flat, flat, **settings()).search(np.zeros(8), 0).ids.shape == (1, 0)
    empty = LaneSearch(lw.Flat(8), lw.Flat(8), **settings()).search(np.zeros(8), 3)
    assert empty.ids.tolist() == [[-1, -1, -1]]
    assert empty.coverage.tolist() == [1]


def test_one_query_and_other_types(rng):
    flat = lw.Flat(8).add(blobs(rng, 50))
    search = LaneSearch(flat, flat, **settings())
    Q = cases.integers(rng, (3, 8))
    expected = tuple(search.search(Q, 5))
    for same in (Q.astype(np.int8), Q.astype(np.float64), Q.tolist(), np.asfortranarray(Q)):
        assert_same_bytes(tuple(search.search(same, 5)), expected)
    assert_same_bytes(search.search(Q[1], 5).ids, expected[1][1:2])
    assert repr(search) == "LaneSearch(n_lanes=4, k_lane=5, scheme='stratified', alpha=1.0)"
    assert search.k_pool == 20


def test_more_lanes_than_threads(rng):
    flat = lw.Flat(8).add(blobs(rng, 200))
    got = LaneSearch(flat, flat, n_lanes=100, k_lane=2).search(np.zeros(8), 5)
    assert_same_bytes(tuple(got), tuple(flat.search(np.zeros(8), 5)))
