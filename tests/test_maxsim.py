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


def code_vectors(rng, n, dim):
    """Codes, the largest among them, in whole quads."""
    codes = np.zeros((n, -(-dim // 4) * 4), np.int8)
    codes[:, :dim] = rng.integers(-127, 128, (n, dim))
    codes[: n // 8, :dim] = rng.choice(np.array([-127, 127], np.int8), (n // 8, dim))
    return codes


def pack_codes(codes):
    """Panels (n, quads, 16, 4)."""
    padded = np.zeros((-(-len(codes) // 16) * 16, codes.shape[1]), np.int8)
    padded[: len(codes)] = codes
    return np.ascontiguousarray(padded.reshape(-1, 16, codes.shape[1] // 4, 4).swapaxes(1, 2))


def max_code_dots(kernels, rows, scales, vectors):
    out = np.full(-(-len(vectors) // 16) * 16, np.nan, dtype=np.float32)
    sums = rows.sum(axis=1, dtype=np.int32)
    kernels.max_code_dots(rows, scales, sums, pack_codes(vectors), out)
    return out[: len(vectors)]


@pytest.mark.parametrize("dim", [1, 4, 37, 64, 128, 1000, 1040])
def test_code_kernel_equals_the_oracle(code_kernels, rng, dim):
    """Whole numbers below 2^24 are floats: there is one rounding, the scale's."""
    for n, m in ((0, 1), (1, 16), (2, 33), (7, 17), (13, 48), (48, 32)):
        rows, vectors = code_vectors(rng, n, dim), code_vectors(rng, m, dim)
        scales = rng.random(n).astype(np.float32)
        scales[::5] = 0
        products = (vectors.astype(np.int32) @ rows.T.astype(np.int32)).astype(np.float32)
        expected = (products * scales).max(axis=1, initial=-np.inf)
        assert np.array_equal(max_code_dots(code_kernels, rows, scales, vectors), expected)


@cases.codes_beside_scalar
@pytest.mark.parametrize("dim", [3, 65_536])
def test_code_kernel_same_bits(code_kernels, rng, dim):
    rows, vectors = code_vectors(rng, 9, dim), code_vectors(rng, 16, dim)
    rows[0], vectors[0] = 127, 127
    scales = rng.random(9).astype(np.float32)
    got, expected = (max_code_dots(k, rows, scales, vectors) for k in (code_kernels, SCALAR))
    assert_same_bytes(got, expected)
    assert expected[0] >= scales[0] * np.float32(127**2 * 4)


def coded(tokens):
    """What `code_tokens` says of tokens."""
    n, dim = tokens.shape
    codes = np.full((n, -(-dim // 4) * 4), 99, np.int8)
    scales, sums = np.empty(n, np.float32), np.empty(n, np.int32)
    lengths, residuals = np.empty(n), np.empty(n)
    _native.code_tokens(tokens, codes, scales, sums, lengths, residuals, 2)
    return codes, scales, sums, lengths, residuals


@pytest.mark.parametrize("kind", cases.CODE_DATA)
def test_codes_leave_no_more_than_they_say(rng, kind):
    for dim in (1, 4, 50):
        tokens = cases.CODE_DATA[kind](rng, (40, dim))
        codes, scales, sums, lengths, residuals = coded(tokens)
        exact = tokens.astype(np.float64)
        norms = np.sqrt((exact**2).sum(axis=1))
        left = exact - codes[:, :dim] * scales[:, np.newaxis].astype(np.float64)
        left = np.sqrt((left**2).sum(axis=1))
        assert (codes[:, dim:] == 0).all()
        assert (np.abs(codes.astype(int)) <= 127).all()
        assert np.array_equal(sums, codes.sum(axis=1, dtype=np.int32))
        assert (lengths >= norms).all()
        assert np.allclose(lengths, norms, rtol=1e-12, atol=0)
        assert (residuals >= left).all()
        assert np.allclose(residuals, left, rtol=1e-12, atol=0)
        # Half a step in each dimension, wherever a step is no subnormal number.
        wide = np.abs(tokens).max(axis=1) > 2.0**-100
        assert (left[wide] <= 0.5001 * np.sqrt(dim) * scales[wide]).all()


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


def test_what_cannot_be_among_the_best_is_not_scored(rng):
    queries, documents = topics(rng, 8, 32, 20, 0.5)
    index = lw.MaxSim(32).add(documents)
    ids = np.array([rng.permutation(64) for _ in range(8)])
    stats = check_rescore(index, queries, ids, 4)
    assert (stats["candidates"] == 64).all()
    # Eight documents are near each query, and all others far.
    assert (stats["products"] <= 8 * 20 * 20).all()
    assert (stats["products"] >= 4 * 20 * 20).all()
    assert np.array_equal(stats["share"], stats["products"] / (64 * 20 * 20))
    for k in (64, 100):
        assert (check_rescore(index, queries, ids, k)["share"] == 1).all()


def test_a_far_document_is_not_touched(tmp_path, rng):
    """What is ruled out by its codes may be on a disk that nobody asks."""
    queries, documents = topics(rng, 4, 32, 20, 0.5)
    index = lw.MaxSim(32).add(documents)
    index.save(tmp_path / "documents.lw")
    loaded = lw.MaxSim.load(tmp_path / "documents.lw")
    loaded._state.arrays["tokens"].reshape(32, 20, 32)[8:] = np.nan
    result = loaded.rescore(queries[0], np.arange(32), 4)
    assert_same_bytes(tuple(result), tuple(index.rescore(queries[0], np.arange(32), 4)))


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


def first_of_equals(token, n=64):
    """Documents that are all as far, scored from the largest id on: the smallest is the answer.

    A bound that is less than what float32 makes of the products rules it out.
    """
    index = lw.MaxSim(len(token)).add(np.tile(token, (40, 1, 1)))
    query = np.tile(token, (n, 1))
    return index.rescore(query, np.arange(40)[::-1], 1).ids.tolist() == [[0]]


@pytest.mark.parametrize("dim", [16, 50, 1000])
def test_bounds_know_of_products_that_are_rounded_up(rng, dim):
    """Codes that leave nothing bound a product by itself, and the chain of float32 goes higher."""
    higher = 0
    for _ in range(100):
        token = rng.integers(1, 127, dim).astype(np.float32)
        token[0] = 127
        token *= np.float32(4097)
        *_, residuals = coded(token[np.newaxis])
        assert residuals[0] == 0
        product = max_dots(SCALAR, token[np.newaxis], token[np.newaxis])[0]
        exact = oracle.max_dots(token[np.newaxis], token[np.newaxis])[0]
        higher += product > np.float32(exact)
        assert first_of_equals(token)
    assert higher > 5


def test_bounds_know_of_products_that_are_subnormal():
    """1.5 * 2^-150 becomes 2^-149."""
    token = np.ldexp(np.float32(np.sqrt(1.5)), -75) * np.ones(1, np.float32)
    assert max_dots(SCALAR, token[np.newaxis], token[np.newaxis])[0] == 2.0**-149
    assert first_of_equals(token)


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
    assert isinstance(index._state.arrays["tokens"], np.memmap)
    assert index.nbytes == lw.MaxSim.load(tmp_path / "documents.lw").nbytes


def test_a_frozen_file_is_read():
    """Its format is for ever."""
    header, arrays = lw.MaxSim(2).add([[[1, 2], [3, 4]], [[5, 6]]])._arrays()
    assert header == {"dim": 2}
    assert arrays["tokens"].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert arrays["begin"].tolist() == [0, 2, 3]
    assert arrays["codes"].tolist() == [[64, 127, 0, 0], [95, 127, 0, 0], [106, 127, 0, 0]]
    assert np.array_equal(arrays["scales"], np.array([2, 4, 6], np.float32) / np.float32(127))
    assert arrays["sums"].tolist() == [191, 222, 233]
    assert np.allclose(arrays["longest"], [5, np.sqrt(61)])
    assert np.allclose(arrays["residuals"], [1 / 127, 1 / 127], rtol=1e-4)
    assert {name: array.dtype.str for name, array in arrays.items()} == {
        "tokens": "<f4",
        "begin": "<i8",
        "codes": "|i1",
        "scales": "<f4",
        "sums": "<i4",
        "longest": "<f8",
        "residuals": "<f8",
    }


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
        ("codes", lambda header, arrays: arrays.update(codes=np.zeros((3, 2), np.int8))),
        ("scales", lambda header, arrays: arrays.update(scales=np.zeros(2, np.float32))),
        ("sums", lambda header, arrays: arrays.update(sums=np.zeros(3, np.int64))),
        ("scales", lambda header, arrays: arrays.update(scales=np.full(3, np.inf, np.float32))),
        ("residuals", lambda header, arrays: arrays.update(residuals=np.array([1.0, np.inf]))),
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


def test_files_that_lie_of_lengths_answer_something(tmp_path):
    """Within what is believed bounds may be anything, and still be sorted."""
    header, arrays = lw.MaxSim(4).add(np.ones((30, 2, 4)))._arrays()
    for name in ("scales", "longest", "residuals"):
        arrays[name][::2] = 1e19
    io.write(tmp_path / "lie.lw", "maxsim", header, arrays)
    query = np.full((3, 4), 1e18)
    assert lw.MaxSim.load(tmp_path / "lie.lw").rescore(query, np.arange(30), 2).ids.shape == (1, 2)


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


@pytest.mark.parametrize("n_coarse", [16, 5])
def test_lanes_score_by_it(rng, n_coarse):
    """What lanes find is what rescoring their pool finds; the pool may have other vectors."""
    queries, documents = topics(rng, 4, 16, 6, 0.4)
    index = lw.MaxSim(16).add(documents)
    coarse = lw.Flat(n_coarse, "ip").add(documents.mean(axis=1)[:, :n_coarse])
    means = np.ascontiguousarray(queries.mean(axis=1)[:, :n_coarse])
    search = lw.LaneSearch(coarse, index, n_lanes=4, k_lane=5)
    result = search.search(means, 5, payload=list(queries))
    expected = index.rescore(queries, coarse.pool(means, 20), 5)
    assert_same_bytes(tuple(result), tuple(expected))


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
    with pytest.raises(ValueError, match=r"^dim: expected"):
        lw.MaxSim(65_537)
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
    tokens, begin = np.ones((3, 4), np.float32), np.array([0, 1, 3])
    codes, scales, sums, *_ = coded(tokens)
    good = [tokens, begin, codes, scales, sums, np.ones(2), np.ones(2)]
    for at, wrong in (
        (0, np.ones((4, 4), np.float32)),
        (1, begin[:2]),
        (1, begin + 1),
        (1, np.array([0, 3, 3])),
        (1, np.empty(0, np.int64)),
        (2, codes[:2]),
        (2, np.ones((3, 5), np.int8)),
        (3, scales[:2]),
        (4, sums[:2]),
        (5, np.ones(3)),
        (6, np.ones(3)),
    ):
        with pytest.raises(ValueError, match="native call"):
            _native.Documents(*good[:at], wrong, *good[at + 1 :])
    documents = _native.Documents(*good)
    out = np.empty((2, 1), np.float32)
    for ids in ([[2], [0]], [[-2], [0]], [[0]]):
        with pytest.raises(ValueError, match="native call"):
            documents.score(SCALAR, tokens, begin, np.array(ids), out, 1)


def test_it_is_public():
    assert lw.MaxSim.__module__ == "lanewise.maxsim"
    assert repr(lw.MaxSim(4).add([GOOD])) == "MaxSim(dim=4, n=1, n_tokens=2)"
