"""Late interaction: its kernel beside the oracle, distances, early leaving, files and bad input."""

import copy
import pickle
import threading

import cases
import numpy as np
import pytest
from cases import COUNTS, DIMS, KINDS, SCALAR, THREADS, assert_same_bytes, beside_scalar

import lanewise as lw
from lanewise import _native, io, oracle

# -------------------------------------------------------------------------------------- kernel


def max_dots(kernels, rows, vectors):
    """The largest product of each vector (m, dim) with any row (n, dim)."""
    out = np.full(-(-len(vectors) // 16) * 16, np.nan, dtype=np.float32)
    kernels.max_dots(rows, cases.pack(vectors), out)
    return out[: len(vectors)]


@beside_scalar
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", KINDS)
def test_kernel_same_bits(kernels, rng, kind, dim):
    for n, m in ((0, 1), (1, 16), (2, 33), (7, 17), (13, 48), (31, 5), (48, 32)):
        rows, vectors = KINDS[kind](rng, (n, dim)), KINDS[kind](rng, (m, dim))
        got, expected = (max_dots(k, rows, vectors) for k in (kernels, SCALAR))
        assert_same_bytes(got, expected, n, m)


@pytest.mark.parametrize("dim", DIMS)
def test_kernel_exact_on_integers(kernels, rng, dim):
    for n in COUNTS:
        rows, vectors = cases.integers(rng, (n, dim)), cases.integers(rng, (35, dim))
        assert np.array_equal(max_dots(kernels, rows, vectors), oracle.max_dots(rows, vectors)), n


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", ["normal", "huge", "tiny"])
def test_kernel_within_bound(rng, kind, dim):
    rows, vectors = KINDS[kind](rng, (37, dim)), KINDS[kind](rng, (35, dim))
    error = np.abs(max_dots(SCALAR, rows, vectors) - oracle.max_dots(rows, vectors))
    magnitudes = np.abs(vectors.astype(np.float64)) @ np.abs(rows.astype(np.float64)).T
    assert (error <= oracle.chain_error(dim, magnitudes).max(axis=1)).all()


def test_kernel_finds_a_maximum_wherever_it_stands(kernels):
    rows, vectors = np.zeros((41, 3), np.float32), np.ones((33, 3), np.float32)
    for i in range(len(rows)):
        one = rows - 1
        one[i] = 2
        assert max_dots(kernels, one, vectors).tolist() == [6] * 33


# ----------------------------------------------------------------------------------- distances


def some_documents(rng, kind, n, dim, longest=40):
    sizes = rng.integers(1, longest + 1, n)
    return [cases.CODE_DATA[kind](rng, (int(size), dim)) for size in sizes]


def some_ids(rng, n_queries, m, n):
    """Ids with gaps, and some twice."""
    ids = rng.integers(0, n, (n_queries, m))
    ids[rng.random(ids.shape) < 0.1] = -1
    return ids


@pytest.mark.parametrize("dim", [1, 16, 37, 128])
@pytest.mark.parametrize("kind", ["normal", "tiny", "far away", "zeros", "longest"])
def test_distances_are_the_oracles(rng, kind, dim):
    documents = some_documents(rng, kind, 12, dim)
    queries = [cases.KINDS["normal"](rng, (m, dim)) for m in (1, 16, 17, 40)]
    index = lw.MaxSim(dim).add(documents)
    ids = some_ids(rng, len(queries), 15, len(documents))
    distances = index.score(queries, ids)
    assert distances.dtype == np.float32
    for q, query in enumerate(queries):
        for i, distance in zip(ids[q], distances[q], strict=True):
            if i == -1:
                assert distance == np.inf
                continue
            error = abs(float(distance) - oracle.maxsim(query, documents[i]))
            assert error <= oracle.maxsim_error(query, documents[i])


def test_distances_are_exact_on_integers(kernels, rng):
    documents = [cases.integers(rng, (m, 20)) for m in (1, 3, 16, 17, 50)]
    queries = [cases.integers(rng, (m, 20)) for m in (1, 15, 16, 33)]
    index = lw.MaxSim(20, kernels=kernels).add(documents)
    truth = [[oracle.maxsim(query, document) for document in documents] for query in queries]
    assert index.score(queries, np.tile(np.arange(5), (4, 1))).tolist() == truth


def test_a_query_is_scored_alike_in_any_company(rng):
    """Whatever the batch, the threads, the width of the lists and who stands beside it."""
    documents = some_documents(rng, "normal", 30, 24)
    queries = some_documents(rng, "normal", 300, 24, 20)
    index = lw.MaxSim(24).add(documents)
    ids = some_ids(rng, 300, 9, 30)
    expected = index.score(queries, ids, n_threads=1)
    for n_threads in THREADS:
        assert_same_bytes(index.score(queries, ids, n_threads=n_threads), expected)
    alone = np.concatenate([index.score(queries[q], ids[q]) for q in range(300)])
    assert_same_bytes(alone, expected)
    assert_same_bytes(index.score(queries, ids[:, ::-1]), expected[:, ::-1])


# ---------------------------------------------------------------------------------- rescoring


def sorted_scores(index, queries, ids, k):
    """What rescore must answer: all scores, each document once, by (distance, id)."""
    distances = index.score(queries, ids)
    all_found, all_distances = [], []
    for row, named in zip(distances, ids, strict=True):
        once = sorted({(d, i) for d, i in zip(row.tolist(), named.tolist(), strict=True) if i >= 0})
        best = [*once, *[(np.inf, -1)] * k][:k]
        all_distances.append([d for d, _ in best])
        all_found.append([i for _, i in best])
    shape = (len(ids), k)
    return (
        np.array(all_distances, dtype=np.float32).reshape(shape),
        np.array(all_found, dtype=np.int64).reshape(shape),
    )


def check_rescore(index, queries, ids, k):
    expected = sorted_scores(index, queries, ids, k)
    results = [index.rescore(queries, ids, k, n_threads=n) for n in THREADS]
    for result in results:
        assert_same_bytes(tuple(result), expected, k)
        for name, counts in result.stats.items():
            assert_same_bytes(counts, results[0].stats[name], name)
    return results[0].stats


@pytest.mark.parametrize("kind", cases.CODE_DATA)
def test_rescore_is_score_and_a_sort(rng, kind):
    documents = some_documents(rng, kind, 120, 19)
    queries = [cases.CODE_DATA[kind](rng, (m, 19)) for m in (1, 16, 35, 80)]
    if kind in ("huge", "longest"):
        queries = [query / np.float32(100) for query in queries]
    index = lw.MaxSim(19).add(documents)
    ids = some_ids(rng, 4, 150, 120)
    for k in (0, 1, 3, 17, 200):
        check_rescore(index, queries, ids, k)


def topics(rng, n, dim, n_tokens, noise):
    """Documents whose tokens are near those of one query each, of length 1, and the queries."""
    queries = cases.unit(cases.KINDS["normal"](rng, (n * n_tokens, dim)))
    near = np.repeat(queries.reshape(n, n_tokens, dim), 8, axis=0)
    noisy = near + np.float32(noise / np.sqrt(dim)) * cases.KINDS["normal"](rng, near.shape)
    documents = cases.unit(noisy.reshape(-1, dim)).reshape(near.shape)
    return queries.reshape(n, n_tokens, dim), documents


def test_what_cannot_be_among_the_best_is_left(rng):
    queries, documents = topics(rng, 8, 32, 48, 0.5)
    index = lw.MaxSim(32).add(documents)
    # The best guess first.
    ids = np.array([np.roll(np.arange(64), -8 * q) for q in range(8)])
    stats = check_rescore(index, queries, ids, 5)
    assert (stats["candidates"] == 64).all()
    # Sixteen are met by all tokens, the others by a third of them.
    assert (stats["products"] == (16 * 48 + 48 * 16) * 48).all()
    assert np.allclose(stats["share"], (16 + 48 / 3) / 64)
    # A bound is only one once there are k.
    assert (check_rescore(index, queries, ids, 64)["share"] == 1).all()
    assert (check_rescore(index, queries[:, :16], ids, 5)["share"] == 1).all()


def test_the_tokens_that_tell_come_first(rng):
    """Those that all documents answer equally well say nothing, wherever they stand."""
    queries, documents = topics(rng, 6, 32, 16, 0.3)
    common = np.zeros((6, 32, 32), np.float32)
    common[:, :, 0] = 1
    with_common = np.concatenate((documents, np.tile(common[:1, :1], (48, 1, 1))), axis=1)
    index = lw.MaxSim(32).add(with_common)
    ids = np.array([np.roll(np.arange(48), -8 * q) for q in range(6)])
    asked = [np.concatenate((common[0], query)) for query in queries]
    stats = check_rescore(index, asked, ids, 3)
    assert (stats["products"] == (16 * 48 + 32 * 16) * 17).all()


def test_equal_distances_are_in_the_order_of_ids():
    index = lw.MaxSim(2).add(np.ones((50, 3, 2)))
    query = np.ones((40, 2))
    found = index.rescore(query, np.arange(50)[::-1], 4)
    assert found.ids.tolist() == [[0, 1, 2, 3]]
    assert found.distances.tolist() == [[-80.0] * 4]


@pytest.mark.parametrize("nudge", [-1, 0, 1])
def test_one_rounding_from_the_bound(rng, nudge):
    """The last document is the best by as little as float32 can say, or as good, or not."""
    tokens = rng.standard_normal((40, 8)).astype(np.float32)
    query = np.abs(rng.standard_normal((33, 8))).astype(np.float32)
    index = lw.MaxSim(8).add([tokens] * 16 + [tokens * np.float32(1 + nudge * 2**-22)])
    check_rescore(index, query, np.array([[*range(1, 17), 0]]), 1)
    check_rescore(index, query, np.arange(17)[np.newaxis], 1)


@pytest.mark.parametrize("dim", [3, 50, 1000])
def test_products_of_the_bounds_own_length(rng, dim):
    """A product of a token with itself is as large as lengths allow, and rounding makes it larger.

    All documents are as far, and the one of the smallest id, the last that is looked at, is first.
    """
    found = 0
    for _ in range(200):
        token = rng.random((1, dim)).astype(np.float32)
        product = max_dots(SCALAR, token, token)[0]
        if product > np.float32(oracle.max_dots(token, token)[0]):
            index = lw.MaxSim(dim).add(np.repeat(token[np.newaxis], 40, axis=0))
            query = np.repeat(token, 64, axis=0)
            assert index.rescore(query, np.arange(40)[::-1], 1).ids.tolist() == [[0]]
            found += 1
    assert found > 10


# ------------------------------------------------------------------------------------ its life


@pytest.fixture(name="documents")
def _documents(rng):
    return some_documents(rng, "normal", 60, 12)


@pytest.fixture(name="queries")
def _queries(rng):
    return some_documents(rng, "normal", 7, 12)


def answers(index, queries, n_queries=7):
    ids = np.tile(np.arange(len(index)), (n_queries, 1))
    return index.score(queries, ids), *index.rescore(queries, ids, 9)


def test_documents_may_come_in_any_form(documents, queries):
    index = lw.MaxSim(12).add(documents)
    assert (len(index), index.n_tokens) == (60, sum(map(len, documents)))
    expected = answers(index, queries)
    tokens, offsets = np.concatenate(documents), np.cumsum([0, *map(len, documents)])
    objects = np.empty(60, dtype=object)
    objects[:] = documents
    wide = [np.asfortranarray(document, dtype=np.float64) for document in documents]
    for form in (
        tuple(documents),
        (tokens, offsets),
        (tokens.astype(np.float64), offsets.astype(np.uint16).tolist()),
        objects,
        wide,
        [document.tolist() for document in documents],
    ):
        assert_same_bytes(answers(lw.MaxSim(12).add(form), queries), expected)
    one_by_one = lw.MaxSim(12)
    for document in documents:
        one_by_one.add(document)
    assert_same_bytes(answers(one_by_one, queries), expected)
    halves = lw.MaxSim(12).add(documents[:20]).add([]).add(documents[20:])
    assert_same_bytes(answers(halves, queries), expected)
    assert_same_bytes(
        answers(index, (np.concatenate(queries), np.cumsum([0, *map(len, queries)]))), expected
    )
    same = np.stack([document[:1] for document in documents])
    assert len(lw.MaxSim(12).add(same)) == 60
    assert len(lw.MaxSim(12).add(list(map(tuple, documents[0])))) == 1


def test_what_was_added_is_a_copy(documents, queries):
    index = lw.MaxSim(12).add(documents)
    before = answers(index, queries)
    for document in documents:
        document[:] = np.nan
    assert_same_bytes(answers(index, queries), before)


def test_nothing_is_scored_as_nothing(documents):
    index = lw.MaxSim(12)
    assert (len(index), index.n_tokens) == (0, 0)
    assert index.score(documents[:2], [[-1], [-1]]).tolist() == [[np.inf], [np.inf]]
    assert index.rescore(documents[:1], [-1, -1], 2).ids.tolist() == [[-1, -1]]
    index.add(documents)
    assert index.score([], np.empty((0, 5), np.int64)).shape == (0, 5)
    assert index.score(documents[:2], np.empty((2, 0), np.int64)).shape == (2, 0)
    result = index.rescore([], np.empty((0, 5), np.int64), 3)
    assert result.ids.shape == (0, 3)
    assert result.stats["share"].shape == (0,)
    assert index.rescore(documents[0], np.empty((1, 0), np.int64), 3).ids.tolist() == [[-1] * 3]
    assert index.rescore(documents[0], [3], 0).ids.shape == (1, 0)


@pytest.mark.parametrize("mmap", [False, True])
def test_files_and_pickles_answer_the_same(tmp_path, documents, queries, mmap):
    index = lw.MaxSim(12, n_threads=2).add(documents)
    expected = answers(index, queries)
    index.save(tmp_path / "documents.lw")
    loaded = lw.MaxSim.load(tmp_path / "documents.lw", mmap=mmap, n_threads=2)
    for other in (loaded, pickle.loads(pickle.dumps(index)), copy.copy(index)):
        assert_same_bytes(answers(other, queries), expected)
        assert (repr(other), other.n_threads) == (repr(index), 2)
        # What is added to a copy, or to what is mapped, stays there.
        other.add(documents[:3])
        assert (len(other), len(index)) == (63, 60)
        assert_same_bytes(answers(other, queries)[0][:, :60], expected[0])
    assert_same_bytes(answers(index, queries), expected)
    lw.MaxSim(12).save(tmp_path / "empty.lw")
    assert len(lw.MaxSim.load(tmp_path / "empty.lw", mmap=mmap)) == 0


def test_mapped_tokens_stay_on_the_disk(tmp_path, documents):
    lw.MaxSim(12).add(documents).save(tmp_path / "documents.lw")
    index = lw.MaxSim.load(tmp_path / "documents.lw", mmap=True, verify=False)
    assert isinstance(index._state[0].tokens, np.memmap)
    assert index.nbytes == lw.MaxSim.load(tmp_path / "documents.lw").nbytes


def test_a_frozen_file_is_read():
    """Its format is for ever."""
    header, arrays = lw.MaxSim(2).add([[[1, 2], [3, 4]], [[5, 6]]])._arrays()
    assert header == {"dim": 2}
    assert arrays["tokens"].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert arrays["begin"].tolist() == [0, 2, 3]
    assert np.allclose(arrays["longest"], [5, np.sqrt(61)])


@pytest.mark.parametrize(
    ("name", "lie"),
    [
        ("tokens", lambda header, arrays: header.update(dim=3)),
        ("dim", lambda header, arrays: header.clear()),
        ("tokens", lambda header, arrays: arrays.pop("tokens")),
        ("tokens", lambda header, arrays: arrays.update(tokens=np.zeros((3, 2)))),
        ("begin", lambda header, arrays: arrays.update(begin=np.array([0, 2]))),
        ("begin", lambda header, arrays: arrays.update(begin=np.array([0, 2, 3], np.int32))),
        ("lists", lambda header, arrays: arrays.update(begin=np.array([0, 2, 4]))),
        ("lists", lambda header, arrays: arrays.update(begin=np.array([1, 2, 3]))),
        ("lists", lambda header, arrays: arrays.update(begin=np.array([0, 3, 3]))),
        ("lists", lambda header, arrays: arrays.update(begin=np.array([0, 2**62, 3]))),
        ("longest", lambda header, arrays: arrays.update(longest=np.array([1.0, np.nan]))),
        ("longest", lambda header, arrays: arrays.update(longest=np.array([1.0, -1.0]))),
        ("longest", lambda header, arrays: arrays.update(longest=np.array([1.0, 1e30]))),
    ],
)
def test_files_that_lie_are_refused(tmp_path, name, lie):
    header, arrays = lw.MaxSim(2).add([[[1, 2], [3, 4]], [[5, 6]]])._arrays()
    lie(header, arrays)
    io.write(tmp_path / "lie.lw", "maxsim", header, arrays)
    with pytest.raises(io.FileFormatError, match=f"expected a saved MaxSim, got .*{name}"):
        lw.MaxSim.load(tmp_path / "lie.lw")


def test_calls_meanwhile_see_all_or_nothing(rng):
    index = lw.MaxSim(4).add(np.ones((1, 2, 4)))
    done = threading.Event()
    wrong = []

    def look():
        while not done.is_set():
            n = len(index)
            if not (index.score(np.ones((3, 4)), np.arange(n)) == -12).all() or n % 5 != 1:
                wrong.append(n)

    looking = threading.Thread(target=look)
    looking.start()
    for _ in range(100):
        index.add(np.ones((5, 3, 4)))
    done.set()
    looking.join()
    assert not wrong


def test_lanes_score_by_it(rng):
    """What a lane search finds is what rescoring its pool finds."""
    queries, documents = topics(rng, 4, 16, 6, 0.4)
    index = lw.MaxSim(16).add(documents)
    pool = np.array([rng.permutation(32) for _ in range(4)])
    means = queries.mean(axis=1)
    search = lw.LaneSearch(
        lambda Q, k: pool[: len(Q), :k],
        lambda query, ids: index.score(queries[(means == query).all(axis=1)], ids)[0],
        n_lanes=4,
        k_lane=8,
    )
    assert_same_bytes(tuple(search.search(means, 5)), tuple(index.rescore(queries, pool, 5)))


# ----------------------------------------------------------------------------------- bad input

GOOD = np.ones((2, 4), np.float32)
BAD_LISTS = [
    ([GOOD, np.ones((2, 5))], ValueError, r"\[1\]: expected dimension 4, got 5"),
    ([GOOD, np.empty((0, 4))], ValueError, r"\[1\]: expected at least one token, got none"),
    (np.empty((0, 4)), ValueError, r"\[0\]: expected at least one token, got none"),
    (np.empty((3, 0, 4)), ValueError, r"\[0\]: expected at least one token, got none"),
    ([GOOD, GOOD * np.nan], ValueError, r"\[1\]: expected finite values"),
    ([GOOD, GOOD * np.inf], ValueError, r"\[1\]: expected finite values"),
    ([GOOD, GOOD * 1e19], ValueError, ": expected "),
    ([GOOD, np.ones(4)], ValueError, r"\[1\]: expected a 2-D array"),
    ([GOOD, [["a", "b", "c", "d"]]], TypeError, r"\[1\]: expected an array of float32"),
    ([GOOD, None], TypeError, r"\[1\]: expected"),
    (np.ones((1, 2, 3, 4)), ValueError, ": expected a sequence of 2-D arrays"),
    (np.ones(4), ValueError, ": expected a sequence of 2-D arrays"),
    (7, ValueError, ": expected a sequence of 2-D arrays"),
    ("text", ValueError, ": expected a sequence of 2-D arrays"),
    ((GOOD, [0, 1]), ValueError, ": expected offsets from 0 to the 2 tokens"),
    ((GOOD, [1, 2]), ValueError, ": expected offsets from 0 to the 2 tokens"),
    ((GOOD, []), ValueError, ": expected offsets from 0 to the 2 tokens"),
    ((GOOD, [0, 2, 1, 2]), ValueError, ": expected ascending offsets, got 2 before 1"),
    ((GOOD, [0, 1, 1, 2]), ValueError, r"\[1\]: expected at least one token, got none"),
    ((GOOD, [0.0, 2.0]), TypeError, ": offsets: expected an array of integers"),
    ((GOOD * np.nan, [0, 2]), ValueError, ": tokens: expected finite values"),
]


@pytest.mark.parametrize(("lists", "error", "words"), BAD_LISTS)
def test_wrong_tokens_are_named(lists, error, words):
    index = lw.MaxSim(4).add([GOOD])
    with pytest.raises(error, match="^documents" + words):
        index.add(lists)
    assert len(index) == 1
    for method in (index.score, index.rescore):
        with pytest.raises(error, match="^queries" + words):
            method(lists, [[0], [0]])


def test_a_query_may_not_be_too_long_in_all():
    index = lw.MaxSim(1).add([[[6e18]]])
    assert index.score([[[6e18]]], [0])[0, 0] == -np.float32(6e18) * np.float32(6e18)
    with pytest.raises(ValueError, match=r"^queries: expected tokens whose lengths .* in query 1"):
        index.score([[[1.0]], [[4e18], [4e18]]], [[0], [0]])


@pytest.mark.parametrize(
    ("ids", "error", "words"),
    [
        ([[0], [0]], ValueError, "ids: expected 1 rows, one for each query, got 2"),
        ([1], ValueError, "ids: expected 0 <= id < 1, or -1 .* got 1"),
        ([-2], ValueError, "ids: expected 0 <= id < 1, or -1 .* got -2"),
        ([0.0], TypeError, "ids: expected an array of integers"),
        ([[[0]]], ValueError, "ids: expected a 2-D array"),
        (0, ValueError, "ids: expected a 2-D array"),
    ],
)
def test_wrong_ids_are_named(ids, error, words):
    index = lw.MaxSim(4).add([GOOD])
    for method in (index.score, index.rescore):
        with pytest.raises(error, match="^" + words):
            method(GOOD, ids)


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match=r"^dim: expected"):
        lw.MaxSim(0)
    with pytest.raises(TypeError, match=r"^dim: expected"):
        lw.MaxSim(2.0)
    with pytest.raises(ValueError, match="n_threads"):
        lw.MaxSim(2, n_threads=0)
    with pytest.raises(ValueError, match="kernels"):
        lw.MaxSim(2, kernels="none")
    index = lw.MaxSim(4).add([GOOD])
    with pytest.raises(ValueError, match=r"^k: expected"):
        index.rescore(GOOD, [0], -1)
    with pytest.raises(ValueError, match="n_threads"):
        index.score(GOOD, [0], n_threads=0)


def test_the_door_checks_shapes():
    tokens, begin, longest = np.ones((3, 4), np.float32), np.array([0, 1, 3]), np.ones(2)
    for wrong in (
        (tokens, begin[:2], longest[:1]),
        (tokens, begin + 1, longest),
        (tokens, np.array([0, 3, 3]), longest),
        (tokens, np.empty(0, np.int64), np.empty(0)),
        (tokens, begin, np.ones(3)),
    ):
        with pytest.raises(ValueError, match="native call"):
            _native.Documents(*wrong)
    documents = _native.Documents(tokens, begin, longest)
    out = np.empty((2, 1), np.float32)
    for ids in ([[2], [0]], [[-2], [0]], [[0]]):
        with pytest.raises(ValueError, match="native call"):
            documents.score(SCALAR, tokens, begin, np.ones(3), np.array(ids), out, 1)


def test_it_is_public():
    assert lw.MaxSim.__module__ == "lanewise.maxsim"
    assert repr(lw.MaxSim(4).add([GOOD])) == "MaxSim(dim=4, n=1, n_tokens=2)"
