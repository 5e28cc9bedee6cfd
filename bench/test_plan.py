"""Planning: who scores what, for a batch of 1,000 queries.

Beside it a plain-Python planner that makes the same plans, and the 37 us per query that the
method's paper (arXiv 2511.04221) reports in its own setting.
"""

import numpy as np
import pytest

import lanewise as lw
from bench.summary import Claim, threads_text
from lanewise import oracle
from lanewise.lanes import SCHEMES, plan, query_keys

N_QUERIES = 1000
N_ROWS = 20_000
PAPER = 37e-6
PLAIN = "plain Python (lanewise.oracle)"
BEST = lw.kernels.available()[0]
ASKED = {"permute": 30, "stratified": 150, "owner": 150}
SHAPES = [(64, 4), (256, 4), (1024, 4), (64, 16), (256, 16), (1024, 16)]


def group(scheme, k_pool, n_lanes):
    return f"plan {scheme}, pool {k_pool:,}, {n_lanes} lanes: per query"


def ours(isa, n_threads):
    return f"lanewise {isa}, {threads_text(n_threads)}"


def _claims(scheme, k_pool, n_lanes):
    main = (k_pool, n_lanes) == (64, 4)
    asked = ASKED[scheme] if main else None
    for n_threads in (1, 2) if main else (1,):
        what = f"plan {scheme}, pool {k_pool:,}, {n_lanes} lanes, {threads_text(n_threads)}"
        where = group(scheme, k_pool, n_lanes), ours(BEST, n_threads)
        if main:
            yield Claim(what, "the paper's 37 us", *where, PAPER, asked=asked)
        yield Claim(what, "plain Python", *where, PLAIN, asked=asked)


CLAIMS = [claim for shape in SHAPES for scheme in SCHEMES for claim in _claims(scheme, *shape)]


@pytest.fixture(scope="module")
def shuffled():
    """Distinct row numbers in random order for each query, as many as the largest pool needs."""
    keys = np.random.default_rng(0).random((N_QUERIES, N_ROWS), dtype=np.float32)
    return np.argsort(keys, axis=1)[:, : max(k_pool for k_pool, _ in SHAPES)]


@pytest.fixture(scope="module")
def keys():
    vectors = np.random.default_rng(1).standard_normal((N_QUERIES, 128), dtype=np.float32)
    return query_keys(vectors)


def _time_plan(timed, pool, keys, scheme, n_lanes, isa, threads):
    k_pool = pool.shape[1]

    def call():
        return plan(
            pool,
            keys,
            n_lanes=n_lanes,
            k_lane=k_pool // n_lanes,
            scheme=scheme,
            kernels=isa,
            n_threads=threads,
        )

    timed(group(scheme, k_pool, n_lanes), ours(isa, threads), call, per=N_QUERIES)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("k_pool", "n_lanes"), SHAPES)
def test_plan(timed, shuffled, keys, scheme, k_pool, n_lanes, n_threads):
    pool = np.ascontiguousarray(shuffled[:, :k_pool])
    _time_plan(timed, pool, keys, scheme, n_lanes, BEST, n_threads)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("other_isa", lw.kernels.available()[1:])
def test_other_isa(timed, shuffled, keys, scheme, other_isa):
    pool = np.ascontiguousarray(shuffled[:, :64])
    _time_plan(timed, pool, keys, scheme, 4, other_isa, 1)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("k_pool", "n_lanes"), SHAPES)
def test_plain_python(timed, shuffled, keys, scheme, k_pool, n_lanes):
    few = max(10, 2000 // k_pool)
    pool = np.ascontiguousarray(shuffled[:few, :k_pool])
    k_lane = k_pool // n_lanes

    def call():
        return oracle.plan(pool, keys[:few], scheme, n_lanes, k_lane)

    planned = plan(pool, keys[:few], n_lanes=n_lanes, k_lane=k_lane, scheme=scheme)
    assert np.array_equal(planned.ids, call()[0])
    timed(group(scheme, k_pool, n_lanes), PLAIN, call, role="peer", per=few)


def test_query_keys(timed):
    """Only needed if the caller has no keys of its own."""
    vectors = np.random.default_rng(1).standard_normal((N_QUERIES, 128), dtype=np.float32)
    where = "query keys of 128 dimensions: per query"
    timed(where, "lanewise query_keys", lambda: query_keys(vectors), per=N_QUERIES)
