"""merge: the k nearest of what lanes report, each id once."""

import math

import numpy as np
import pytest
from cases import assert_same_bytes
from hypothesis import given
from hypothesis import strategies as st

from lanewise import SearchResult, merge, oracle

# Few values and few ids, so that ties and duplicates are everywhere.
DISTANCE = st.sampled_from([-2.0, -0.5, 0.0, 0.25, 1.0, 3.0, math.inf]) | st.floats(
    width=32, allow_nan=False
)
CANDIDATE = st.tuples(DISTANCE, st.integers(-1, 6))


def tables(batch):
    """Rows of equal length: what is missing is -1, beside a number that nobody may look at."""
    width = max(map(len, batch))
    padded = [row + [(math.nan, -1)] * (width - len(row)) for row in batch]
    distances = np.array([[d for d, _ in row] for row in padded], dtype=np.float32)
    ids = np.array([[i for _, i in row] for row in padded], dtype=np.int64)
    return distances.reshape(len(batch), width), ids.reshape(len(batch), width)


def by_hand(row, k, deduplicate):
    """(distance, id) of the k nearest and how many were removed, with a dictionary and a sort."""
    found = [(d, i) for d, i in row if i >= 0]
    kept = found
    if deduplicate:
        nearest = {}
        for d, i in found:
            nearest[i] = min(d, nearest.get(i, math.inf))
        kept = [(d, i) for i, d in nearest.items()]
    best = sorted(kept)[:k]
    return best + [(math.inf, -1)] * (k - len(best)), len(found) - len(kept)


@given(st.lists(st.lists(CANDIDATE, max_size=20), min_size=1, max_size=3), st.integers(0, 25))
def test_equals_a_dictionary_and_a_sort(batch, k):
    distances, ids = tables(batch)
    for deduplicate in (True, False):
        got = merge(distances, ids, k, deduplicate=deduplicate)
        assert isinstance(got, SearchResult)
        assert got.distances.shape == got.ids.shape == (len(batch), k)
        assert got.distances.dtype == np.float32
        assert got.ids.dtype == np.int64
        for q, row in enumerate(batch):
            best, removed = by_hand(row, k, deduplicate)
            told = list(zip(got.distances[q].tolist(), got.ids[q].tolist(), strict=True))
            assert told == best
            assert got.stats["duplicates"][q] == removed


@given(st.lists(CANDIDATE, max_size=20), st.integers(0, 25), st.randoms(use_true_random=False))
def test_the_order_of_candidates_does_not_matter(row, k, random):
    shuffled = list(row)
    random.shuffle(shuffled)
    (distances, ids), (other_distances, other_ids) = tables([row]), tables([shuffled])
    for deduplicate in (True, False):
        got, expected = (
            merge(d, i, k, deduplicate=deduplicate)
            for d, i in ((distances, ids), (other_distances, other_ids))
        )
        assert np.array_equal(got.distances, expected.distances)
        assert_same_bytes(got.ids, expected.ids)


def test_equals_the_oracle(rng):
    distances = rng.integers(0, 30, (40, 64)).astype(np.float32)
    ids = rng.integers(-1, 50, (40, 64))
    for k in (1, 10, 64, 70):
        expected_distances, expected_ids = oracle.merge(distances, ids, k)
        got = merge(distances, ids, k)
        assert np.array_equal(got.ids, expected_ids)
        assert np.array_equal(got.distances, expected_distances)


def test_a_duplicate_counts_with_its_nearest_distance():
    got = merge([[3.0, 1.0, 2.0, 1.0]], [[7, 7, 5, 7]], 3)
    assert got.ids.tolist() == [[7, 5, -1]]
    assert got.distances.tolist() == [[1, 2, math.inf]]
    assert got.stats["duplicates"].tolist() == [2]


def test_duplicates_are_removed_before_the_cut():
    """Otherwise copies of one id would push others out."""
    got = merge([[1.0, 1.0, 1.0, 2.0, 3.0]], [[4, 4, 4, 9, 2]], 3)
    assert got.ids.tolist() == [[4, 9, 2]]
    kept = merge([[1.0, 1.0, 1.0, 2.0, 3.0]], [[4, 4, 4, 9, 2]], 3, deduplicate=False)
    assert kept.ids.tolist() == [[4, 4, 4]]
    assert kept.stats["duplicates"].tolist() == [0]


def test_equal_distances_are_in_the_order_of_ids():
    got = merge([[1, 1, 0, 1]], [[9, 3, 8, 2**62]], 4)
    assert got.ids.tolist() == [[8, 3, 9, 2**62]]


def test_what_is_missing_stands_behind_what_is_infinitely_far():
    got = merge([[math.inf, math.nan, -5.0, math.inf]], [[3, -1, -1, 1]], 4)
    assert got.ids.tolist() == [[1, 3, -1, -1]]
    assert got.distances.tolist() == [[math.inf] * 4]
    lowest = merge([[-math.inf, 0.0]], [[3, 1]], 2)
    assert lowest.ids.tolist() == [[3, 1]]
    assert lowest.distances.tolist() == [[-math.inf, 0]]


def test_nothing_to_merge():
    got = merge(np.empty((2, 0)), np.empty((2, 0), dtype=np.int64), 2)
    assert got.ids.tolist() == [[-1, -1]] * 2
    assert got.distances.tolist() == [[math.inf] * 2] * 2
    assert got.stats["duplicates"].tolist() == [0, 0]
    assert merge(np.empty((0, 3)), np.empty((0, 3), np.int64), 2).ids.shape == (0, 2)
    assert merge([], [], 1).ids.tolist() == [[-1]]
    assert merge([[1.0]], [[3]], 0).ids.shape == (1, 0)
    assert merge([[1.0, 2.0]], [[-1, -1]], 1).ids.tolist() == [[-1]]


def test_one_query_is_a_batch_of_one():
    got = merge([2.0, 1.0], [5, 6], 2)
    assert got.ids.tolist() == [[6, 5]]


def test_forms_of_the_arguments(rng):
    distances, ids = rng.integers(0, 9, (3, 12)), rng.integers(-1, 9, (3, 12))
    expected = merge(distances.astype(np.float32), ids, 5)
    for d in (distances, distances.astype(np.float64), distances.tolist(), distances.astype("u1")):
        for i in (ids, ids.astype(np.int32), ids.tolist(), np.asfortranarray(ids)):
            assert_same_bytes(tuple(merge(d, i, 5)), tuple(expected))


def test_the_arguments_are_left_alone(rng):
    distances, ids = rng.random((3, 12), dtype=np.float32), rng.integers(-1, 4, (3, 12))
    before = distances.copy(), ids.copy()
    merge(distances, ids, 5)
    assert_same_bytes((distances, ids), before)
    distances.flags.writeable = ids.flags.writeable = False
    merge(distances, ids, 5)


WRONG = [
    ([[math.nan, 1.0]], [[1, 2]], 1, ValueError, "distances: expected no NaN"),
    ([[1.0, 2.0]], [[1, -2]], 1, ValueError, "ids: .*-2"),
    ([[1.0, 2.0]], [[1, 2, 3]], 1, ValueError, "distances: expected the shape of ids"),
    ([[1.0], [2.0]], [[1, 2]], 1, ValueError, "distances: expected the shape of ids"),
    ([1.0, 2.0], [[1], [2]], 1, ValueError, "distances: expected the shape of ids"),
    ([[[1.0]]], [[[1]]], 1, ValueError, "(distances|ids): .*2-D"),
    (1.0, 1, 1, ValueError, "(distances|ids): "),
    ([["near"]], [[1]], 1, TypeError, "distances: "),
    ([[1j]], [[1]], 1, TypeError, "distances: "),
    ([[True]], [[1]], 1, TypeError, "distances: "),
    ([[1.0]], [[1.0]], 1, TypeError, "ids: "),
    ([[1.0]], [[2**63]], 1, ValueError, "ids: "),
    ([[1.0], [1.0, 2.0]], [[1], [2]], 1, ValueError, "distances: "),
    ([[1.0]], [[1], [1, 2]], 1, ValueError, "ids: "),
    ([[1.0]], [[1]], -1, ValueError, "k: "),
    ([[1.0]], [[1]], 1.5, TypeError, "k: "),
]


@pytest.mark.parametrize(("distances", "ids", "k", "error", "words"), WRONG)
def test_what_is_wrong_is_named(distances, ids, k, error, words):
    with pytest.raises(error, match=f"^{words}"):
        merge(distances, ids, k)


def test_distances_beyond_float32_are_refused_or_infinite():
    """And no warning of NumPy's comes out."""
    try:
        got = merge([[1e300, -1e300, 1.0]], [[1, 2, 3]], 3)
    except ValueError as error:
        told = str(error)
    else:
        told = "distances: "
        assert got.ids.tolist() == [[2, 3, 1]]
        assert got.distances.tolist() == [[-math.inf, 1, math.inf]]
    assert told.startswith("distances: ")
