"""Rows on disk: the distances of Flat, a limit that is kept, and files that are not right."""

import ctypes
import mmap
import os
import pickle
import threading

import cases
import numpy as np
import pytest
from cases import METRICS, THREADS, assert_same_bytes

import lanewise as lw
from lanewise import _native, datasets, io

PAGE = mmap.PAGESIZE
HAS_LIMITS = hasattr(os, "posix_fadvise")


def write_rows(path, rows):
    """A file whose pages may leave memory: they are on the disk."""
    datasets.write(path, rows)
    return path


def some_ids(rng, n_queries, m, n):
    ids = rng.integers(0, n, (n_queries, m))
    ids[rng.random(ids.shape) < 0.1] = -1
    return ids


# ----------------------------------------------------------------------------------- distances


@pytest.mark.parametrize("cache_bytes", [None, 0, 3 * PAGE] if HAS_LIMITS else [None])
@pytest.mark.parametrize("dtype", ["float32", "uint8", "int8"])
@pytest.mark.parametrize("metric", METRICS)
def test_distances_are_those_of_flat(rng, tmp_path, kernels, metric, dtype, cache_bytes):
    suffix = {"float32": ".fbin", "uint8": ".u8bin", "int8": ".i8bin"}[dtype]
    for n, dim in ((1, 1), (300, 37), (40, 3000)):
        rows = (100 * rng.standard_normal((n, dim))).astype(np.int8).astype(dtype)
        if dtype == "float32":
            rows += rng.standard_normal((n, dim), dtype=np.float32)
        rows[n // 2] = 0
        flat = lw.Flat(dim, metric, rotation=None, kernels=kernels).add(rows)
        flat.save(tmp_path / "flat.lw")
        queries = rng.standard_normal((7, dim), dtype=np.float32)
        ids = some_ids(rng, 7, 40, n)
        expected = flat.score(queries, ids)
        for path in (
            write_rows(tmp_path / "rows.npy", rows),
            write_rows(tmp_path / f"rows{suffix}", rows),
            tmp_path / "flat.lw",
        ):
            with lw.RowsOnDisk(path, metric, cache_bytes=cache_bytes, kernels=kernels) as on_disk:
                for n_threads in THREADS:
                    got = on_disk.score(queries, ids, n_threads=n_threads)
                    assert_same_bytes(got, expected, path)
                assert (len(on_disk), on_disk.dim, on_disk.metric) == (n, dim, metric)
                kept = flat.rows if path.suffix == ".lw" else rows
                assert on_disk.nbytes == kept.nbytes


def test_ids_are_those_of_the_saved_index(rng, tmp_path):
    rows = rng.standard_normal((200, 12), dtype=np.float32)
    ids = rng.choice(2**62, 200, replace=False)
    flat = lw.Flat(12, "ip").add(rows, ids).remove(ids[::7])
    flat.save(tmp_path / "flat.lw")
    on_disk = lw.RowsOnDisk(tmp_path / "flat.lw")
    assert on_disk.metric == "ip"
    assert len(on_disk) == len(flat) == len(on_disk.ids)
    assert np.array_equal(on_disk.ids, flat.ids)
    asked = rng.choice(flat.ids, (3, 50))
    assert_same_bytes(on_disk.score(rows[:3], asked), flat.score(rows[:3], asked))
    with pytest.raises(ValueError, match=f"ids: {ids[7]} is not in the index"):
        on_disk.score(rows[0], [ids[1], ids[7]])


def test_one_query_and_none(rng, tmp_path):
    path = write_rows(tmp_path / "rows.npy", rng.standard_normal((20, 4), dtype=np.float32))
    on_disk = lw.RowsOnDisk(path)
    flat = lw.Flat(4).add(np.load(path))
    assert_same_bytes(on_disk.score([1, 2, 3, 4], [3, -1]), flat.score([1, 2, 3, 4], [3, -1]))
    assert on_disk.score(np.empty((0, 4)), np.empty((0, 5), np.int64)).shape == (0, 5)
    assert on_disk.score(np.ones((2, 4)), np.empty((2, 0), np.int64)).shape == (2, 0)
    assert on_disk.score(np.ones((1, 4)), [[-1, -1]]).tolist() == [[np.inf] * 2]


def test_lanes_score_by_it(rng, tmp_path):
    rows = rng.standard_normal((500, 16), dtype=np.float32)
    flat = lw.Flat(16).add(rows)
    with lw.RowsOnDisk(write_rows(tmp_path / "rows.npy", rows)) as on_disk:
        found = lw.LaneSearch(flat, on_disk, n_lanes=4, k_lane=8).search(rows[:20], 5)
    assert_same_bytes(tuple(found), tuple(flat.search(rows[:20], 5)))


# ---------------------------------------------------------------------------------- the budget


def resident_pages(path):
    """Pages of a file in memory, without a word of ours."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        n = -(-len(mapped) // PAGE)
        here = (ctypes.c_ubyte * n)()
        address = np.frombuffer(mapped, np.uint8)
        at = address.ctypes.data
        del address
        assert libc.mincore(ctypes.c_void_p(at), ctypes.c_size_t(len(mapped)), here) == 0
        return sum(state & 1 for state in here)


@pytest.fixture(name="big")
def _big(rng, tmp_path):
    """A file of 1,000 pages, none of them in memory: 4 MB, rows that end within pages."""
    if not HAS_LIMITS:
        pytest.skip("no posix_fadvise")
    path = tmp_path / "rows.npy"
    dim = 700
    n = 1000 * PAGE // (4 * dim)
    write_rows(path, rng.standard_normal((n, dim), dtype=np.float32))
    with open(path, "rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if resident_pages(path) > 0:
        pytest.skip("this file system keeps its pages in memory")
    np.load(path).sum()
    assert resident_pages(path) > 900
    return path


def test_what_was_in_memory_is_dropped_at_the_beginning(big):
    with lw.RowsOnDisk(big, cache_bytes=10**9) as on_disk:
        assert resident_pages(big) == 0
        assert on_disk.resident_bytes == 0
        assert on_disk.bytes_read == 0


def test_without_a_limit_nothing_is_dropped(big):
    with lw.RowsOnDisk(big) as on_disk:
        assert on_disk.resident_bytes >= 900 * PAGE


@pytest.mark.parametrize("limit", [0, 1, PAGE, 10 * PAGE, 100 * PAGE, 5000 * PAGE])
def test_the_limit_is_kept(rng, big, limit):
    rows = np.load(big)
    n, dim = rows.shape
    flat = lw.Flat(dim, storage="f32").add(rows)
    del rows
    with lw.RowsOnDisk(big, cache_bytes=limit) as on_disk:
        most = 0
        for m in (1, 7, 50, 300, 20, 3):
            ids = some_ids(rng, 2, m, n)
            queries = rng.standard_normal((2, dim), dtype=np.float32)
            assert_same_bytes(on_disk.score(queries, ids), flat.score(queries, ids))
            assert resident_pages(big) * PAGE <= limit
            assert on_disk.resident_bytes <= limit
            most = max(most, on_disk.resident_bytes)
        # What may stay does.
        assert most >= min(limit // PAGE, 100) * PAGE * 0.9


def test_what_stays_is_not_read_again(rng, big):
    with lw.RowsOnDisk(big, cache_bytes=40 * PAGE) as on_disk:
        query, size = np.ones(on_disk.dim), 4 * on_disk.dim
        begin = os.path.getsize(big) - on_disk.nbytes

        def n_pages(row):
            first = begin + row * size
            return (first + size - 1) // PAGE - first // PAGE + 1

        on_disk.score(query, [0, 100])
        expected = n_pages(0) + n_pages(100)
        assert on_disk.bytes_read == expected * PAGE
        on_disk.score(query, [100, 0, 100])
        assert on_disk.bytes_read == expected * PAGE
        # Rows that are asked for again and again outlive those that come once.
        for row in range(200, 1200, 5):
            on_disk.score(query, [row, 100, 0])
            expected += n_pages(row)
        assert on_disk.bytes_read == expected * PAGE
        on_disk.score(query, [200])
        assert on_disk.bytes_read == (expected + n_pages(200)) * PAGE


def test_one_row_reads_no_more_than_its_pages(big):
    with lw.RowsOnDisk(big, cache_bytes=10**9) as on_disk:
        on_disk.score(np.ones(on_disk.dim), [500, 7])
        assert on_disk.resident_bytes == on_disk.bytes_read <= 4 * PAGE


def test_threads_share_the_limit(rng, big):
    limit = 30 * PAGE
    rows = np.load(big)
    n, dim = rows.shape
    flat = lw.Flat(dim, storage="f32").add(rows)
    on_disk = lw.RowsOnDisk(big, cache_bytes=limit)
    queries = rng.standard_normal((4, dim), dtype=np.float32)
    ids = [some_ids(rng, 1, 20, n) for _ in range(4)]
    wrong = []

    def run(i):
        expected = flat.score(queries[i], ids[i])
        for _ in range(50):
            if not np.array_equal(on_disk.score(queries[i], ids[i], n_threads=1), expected):
                wrong.append(i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert resident_pages(big) * PAGE <= limit


def test_an_error_keeps_the_limit_too(rng, big):
    with lw.RowsOnDisk(big, cache_bytes=PAGE) as on_disk:
        os.truncate(big, os.path.getsize(big) // 2)
        with pytest.raises(io.FileFormatError, match="truncated: row"):
            on_disk.score(np.ones(on_disk.dim), [*range(300), len(on_disk) - 1])
        assert resident_pages(big) <= 1


def test_without_fadvise_there_is_no_limit(rng, tmp_path, monkeypatch):
    path = write_rows(tmp_path / "rows.npy", np.ones((2, 2), np.float32))
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    with pytest.raises(NotImplementedError, match=r"^cache_bytes: expected None"):
        lw.RowsOnDisk(path, cache_bytes=0)
    assert lw.RowsOnDisk(path).score([1, 1], [0]).tolist() == [[0]]


# ------------------------------------------------------------------------------------ its life


def test_closed_is_closed(tmp_path):
    path = write_rows(tmp_path / "rows.npy", np.ones((2, 2), np.float32))
    n_open = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    on_disk = lw.RowsOnDisk(path)
    on_disk.close()
    on_disk.close()
    for use in (lambda: on_disk.score([1, 1], [0]), lambda: on_disk.resident_bytes):
        with pytest.raises(ValueError, match=r"rows.npy was closed"):
            use()
    with lw.RowsOnDisk(path):
        pass
    with pytest.raises(ValueError, match="metric"):
        lw.RowsOnDisk(path, "l1")
    assert n_open is None or len(os.listdir("/proc/self/fd")) == n_open


def test_pickles_open_the_file_themselves(rng, tmp_path):
    path = write_rows(tmp_path / "rows.npy", rng.standard_normal((9, 3), dtype=np.float32))
    on_disk = lw.RowsOnDisk(path, "cosine", n_threads=2)
    again = pickle.loads(pickle.dumps(on_disk))
    on_disk.close()
    flat = lw.Flat(3, "cosine").add(np.load(path))
    assert_same_bytes(again.score([1, 2, 3], np.arange(9)), flat.score([1, 2, 3], np.arange(9)))
    assert (again.n_threads, repr(again)) == (2, repr(on_disk))


def test_a_file_that_is_replaced_stays_what_it_was(rng, tmp_path):
    rows = rng.standard_normal((9, 3), dtype=np.float32)
    path = write_rows(tmp_path / "rows.npy", rows)
    on_disk = lw.RowsOnDisk(path)
    write_rows(path, rows + 1)
    assert on_disk.score(rows[4], [4]).tolist() == [[0]]


# ----------------------------------------------------------------------------------- bad input


def test_wrong_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError):
        lw.RowsOnDisk(tmp_path / "none.npy")
    with pytest.raises(io.FileFormatError, match="expected a regular file"):
        lw.RowsOnDisk(tmp_path)
    for name, array, words in (
        ("a.npy", np.ones((3, 2)), "expected rows of float32, uint8 or int8"),
        ("b.npy", np.ones((3, 2), np.float16), "expected rows of float32, uint8 or int8"),
        ("c.npy", np.ones((3, 2), ">f4"), "expected rows of float32, uint8 or int8"),
        ("d.npy", np.asfortranarray(np.ones((3, 2), np.float32)), "one behind the other"),
        ("e.npy", np.ones(3, np.float32), "expected a 2-D array"),
        ("f.npy", np.ones((0, 2), np.float32), "expected at least one row, got none"),
    ):
        np.save(tmp_path / name, array)
        with pytest.raises(ValueError, match=f"{name}: .*{words}"):
            lw.RowsOnDisk(tmp_path / name)
    datasets.write(tmp_path / "g.fvecs", np.ones((3, 2), np.float32))
    with pytest.raises(ValueError, match=r"g.fvecs: expected rows .* one behind the other"):
        lw.RowsOnDisk(tmp_path / "g.fvecs")
    (tmp_path / "h.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"h.npy: truncated"):
        lw.RowsOnDisk(tmp_path / "h.npy")
    (tmp_path / "i.txt").write_text("rows")
    with pytest.raises(ValueError, match=r"i.txt"):
        lw.RowsOnDisk(tmp_path / "i.txt")


def test_wrong_indexes_are_named(tmp_path):
    lw.Flat(2, "ip").save(tmp_path / "empty.lw")
    with pytest.raises(ValueError, match=r"empty.lw: expected at least one row, got none"):
        lw.RowsOnDisk(tmp_path / "empty.lw")
    flat = lw.Flat(2, "ip").add(np.ones((3, 2)))
    flat.save(tmp_path / "flat.lw")
    with pytest.raises(ValueError, match=r"^metric: expected 'ip' as .* got 'l2'"):
        lw.RowsOnDisk(tmp_path / "flat.lw", "l2")
    lw.MaxSim(2).save(tmp_path / "other.lw")
    with pytest.raises(io.FileFormatError, match="kind"):
        lw.RowsOnDisk(tmp_path / "other.lw")
    header, arrays = flat._rows.arrays()
    io.write(tmp_path / "lie.lw", "flat", header, {**arrays, "rows": np.ones((2, 2), np.float32)})
    with pytest.raises(io.FileFormatError, match="expected a saved Flat, got rows"):
        lw.RowsOnDisk(tmp_path / "lie.lw")
    damaged = bytearray((tmp_path / "flat.lw").read_bytes())
    at = damaged.rindex(np.ones(6, "<f4").tobytes())
    damaged[at] ^= 1
    (tmp_path / "damaged.lw").write_bytes(damaged)
    with pytest.raises(io.FileFormatError, match="'rows': damaged"):
        lw.RowsOnDisk(tmp_path / "damaged.lw", verify=True)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_named(tmp_path, metric, bad):
    rows = np.ones((40, 3), np.float32)
    rows[17, 2] = bad
    path = write_rows(tmp_path / "rows.npy", rows)
    with lw.RowsOnDisk(path, metric) as on_disk:
        assert np.isfinite(on_disk.score(rows[:1], np.arange(17))).all()
        with pytest.raises(io.FileFormatError, match=r"finite values, got .* in row 17"):
            on_disk.score(np.ones((5, 3)), np.tile(np.arange(40), (5, 1)))
    with pytest.raises(io.FileFormatError, match=r"finite values, got .* in row 17"):
        lw.RowsOnDisk(path, metric, verify=True)


def test_rows_that_are_too_long_are_named(tmp_path):
    rows = np.ones((5, 3), np.float32)
    rows[2] = 3e19
    path = write_rows(tmp_path / "rows.npy", rows)
    with pytest.raises(io.FileFormatError, match="distances stay finite, row 2 is not"):
        lw.RowsOnDisk(path).score(rows[0], np.arange(5))
    with pytest.raises(io.FileFormatError, match="distances stay finite, row 2 is not"):
        lw.RowsOnDisk(path, verify=True)
    assert len(lw.RowsOnDisk(path, "cosine", verify=True)) == 5
    assert lw.RowsOnDisk(path, "cosine").score(rows[0], [2])[0, 0] < 1e-6


@pytest.mark.parametrize(
    ("queries", "ids", "error", "words"),
    [
        ([[1, 2]], [0], ValueError, "queries: expected"),
        ([[1, 2, np.nan]], [0], ValueError, "queries: expected finite"),
        ([[1, 2, 3]], [[0], [0]], ValueError, "ids: expected 1 rows"),
        ([[1, 2, 3]], [4], ValueError, "ids: 4 is not in the index"),
        ([[1, 2, 3]], [-2], ValueError, "ids: expected 0 <= id"),
        ([[1, 2, 3]], [0.5], TypeError, "ids: expected an array of integers"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, queries, ids, error, words):
    path = write_rows(tmp_path / "rows.npy", np.ones((4, 3), np.float32))
    with lw.RowsOnDisk(path) as on_disk, pytest.raises(error, match="^" + words):
        on_disk.score(queries, ids)


def test_wrong_settings_are_named(tmp_path):
    path = write_rows(tmp_path / "rows.npy", np.ones((4, 3), np.float32))
    for options, error, words in (
        ({"cache_bytes": -1}, ValueError, "^cache_bytes: expected"),
        ({"cache_bytes": 1.5}, TypeError, "^cache_bytes: expected"),
        ({"n_threads": 0}, ValueError, "^n_threads"),
        ({"kernels": "none"}, ValueError, "^kernels"),
    ):
        with pytest.raises(error, match=words):
            lw.RowsOnDisk(path, **options)


def test_the_door_checks_shapes(tmp_path):
    path = write_rows(tmp_path / "rows.npy", np.ones((4, 3), np.float32))
    for numbers in ("float64", ""):
        with pytest.raises(ValueError, match="native call"):
            _native.RowFile(-1, 0, 4, 3, numbers, False, 0)
    file = _native.RowFile(os.open(path, os.O_RDONLY), 128, 4, 3, "float32", False, 0)
    one, out = np.zeros((1, 1), np.int64), np.empty((1, 1), np.float32)
    with pytest.raises(ValueError, match="native call"):
        file.score(cases.SCALAR, "l2", np.ones((1, 2), np.float32), one, out, 1)
    with pytest.raises(ValueError, match="native call"):
        file.score(cases.SCALAR, "l2", np.ones((1, 3), np.float32), one, out[:, :0], 1)
    assert file.score(cases.SCALAR, "l2", np.ones((1, 3), np.float32), one, out, 1) is None
    closed = _native.RowFile(-1, 0, 4, 3, "float32", False, 0)
    what, row, number = closed.score(cases.SCALAR, "l2", np.ones((1, 3), np.float32), one, out, 1)
    assert (what, row, number) == ("system", 0, 9)


def test_it_is_public():
    assert lw.RowsOnDisk.__module__ == "lanewise.ondisk"
