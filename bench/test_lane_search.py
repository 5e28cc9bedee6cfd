"""The whole trip, pool, plan, lanes, merge, beside one wider search; and its phases one by one.

In memory lanes win nothing: the wider search is the peer to look at. Where scoring is dear, here a
scorer that sleeps 1 ms for each 16 candidates as one that waits for a disk or a model would, lanes
wait at the same time.
"""

import time

import numpy as np
import pytest

import lanewise as lw
from bench import data
from bench.data import K
from bench.summary import Claim
from lanewise.lanes import merge, plan, query_keys

N_LANES, K_LANE = 4, 16
K_TOTAL = N_LANES * K_LANE
TRIP = "lanes over hnsw, sift, pool 64"
PHASES = "phases of LaneSearch.search, batch of 200: per query"
DEAR = "one query, scorer waiting 1 ms for each 16 candidates"
FOUR, ONE = "lanewise, 4 lanes of 16", "lanewise, 1 lane of 64"

CLAIMS = [Claim("4 lanes, a dear scorer", "1 lane", DEAR, FOUR, ONE)]


class DearScorer:
    """Scores as Flat does, after waiting as if each candidate had to be fetched."""

    def __init__(self, flat):
        self.flat = flat
        self.dim = flat.dim

    def score(self, queries, ids, *, n_threads):
        time.sleep(1e-3 * ids.shape[1] / K_LANE)
        return self.flat.score(queries, ids, n_threads=n_threads)


@pytest.fixture(scope="module")
def flat():
    return lw.Flat(128).add(data.sift().base)


@pytest.fixture(scope="module")
def hnsw():
    return lw.HNSW.build(data.sift().base, n_threads=None)


def _lanes(hnsw, scorer, n_lanes=N_LANES):
    return lw.LaneSearch(hnsw, scorer, n_lanes=n_lanes, k_lane=K_TOTAL // n_lanes, n_threads=1)


def test_lane_search(timed_search, hnsw, flat):
    lanes = _lanes(hnsw, flat)
    timed_search(TRIP, "lanewise LaneSearch", data.sift(), lambda Q: lanes.search(Q, K).ids)


@pytest.mark.parametrize("ef", [K_TOTAL, K_LANE])
def test_one_search(timed_search, hnsw, ef):
    def search(Q):
        return hnsw.search(Q, K, ef=ef, n_threads=1).ids

    timed_search(TRIP, f"one search, ef {ef}", data.sift(), search, role="yardstick")


# ------------------------------------------------------------------------------------ phases


@pytest.fixture(scope="module")
def stages(hnsw, flat):
    """Prepare what each phase starts from: queries, pool, keys, plan, scores."""
    Q = data.sift().queries
    pool = hnsw.pool(Q, K_TOTAL, n_threads=1)
    keys = query_keys(Q)
    ids = plan(pool, keys, n_lanes=N_LANES, k_lane=K_LANE).ids
    flat_ids = ids.reshape(len(Q), K_TOTAL)
    return Q, pool, keys, ids, flat_ids, flat.score(Q, flat_ids)


PHASE_CALLS = {
    "the whole trip": lambda hnsw, flat, s: _lanes(hnsw, flat).search(s[0], K),
    "pool": lambda hnsw, flat, s: hnsw.pool(s[0], K_TOTAL, n_threads=1),
    "keys": lambda hnsw, flat, s: query_keys(s[0]),
    "plan": lambda hnsw, flat, s: plan(s[1], s[2], n_lanes=N_LANES, k_lane=K_LANE, n_threads=1),
    "score, lanes one after another": lambda hnsw, flat, s: [
        flat.score(s[0], np.ascontiguousarray(s[3][:, lane]), n_threads=1)
        for lane in range(N_LANES)
    ],
    "merge": lambda hnsw, flat, s: merge(s[5], s[4], K),
}


@pytest.mark.parametrize("phase", PHASE_CALLS)
def test_phase(timed, hnsw, flat, stages, phase):
    call = PHASE_CALLS[phase]
    timed(PHASES, phase, lambda: call(hnsw, flat, stages), per=len(stages[0]))


# --------------------------------------------------------------------------------- a dear scorer


@pytest.mark.parametrize(("n_lanes", "who"), [(4, FOUR), (1, ONE)])
def test_dear_scorer(timed, hnsw, flat, n_lanes, who):
    lanes = _lanes(hnsw, DearScorer(flat), n_lanes)
    query = data.sift().queries[0]
    timed(DEAR, who, lambda: lanes.search(query, K))
