"""Files of vectors: what goes in comes out, and damage is named instead of believed."""

import hashlib
import io
import logging
import os
import stat
import struct
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lanewise import datasets
from lanewise.datasets import Dataset, fetch, list_names, load, read, sift_small, write

DTYPES = {
    ".fvecs": np.float32,
    ".ivecs": np.int32,
    ".bvecs": np.uint8,
    ".fbin": np.float32,
    ".u8bin": np.uint8,
    ".i8bin": np.int8,
    ".ibin": np.int32,
    ".npy": np.float16,
}
FORMATS = sorted(DTYPES)
VECS = [".fvecs", ".ivecs", ".bvecs"]
BINS = [".fbin", ".u8bin", ".i8bin", ".ibin"]

BASE = np.arange(20, dtype=np.float32).reshape(5, 4)
QUERIES = BASE[:2] + 0.25
NEIGHBORS = np.array([[0, 1, 2], [1, 0, 2]], np.int32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("datasets")


def sample(suffix, n=5, d=4):
    return np.arange(n * d).reshape(n, d).astype(DTYPES[suffix])


def written(folder, suffix, n=5, d=4):
    path = folder / f"sample{suffix}"
    write(path, sample(suffix, n, d))
    return path


# --- round trips --------------------------------------------------------------------------------


@given(st.data())
def test_what_is_written_is_read(folder, data):
    suffix = data.draw(st.sampled_from(FORMATS))
    dtype = DTYPES[suffix]
    if suffix == ".npy":
        dtype = data.draw(st.one_of(hnp.integer_dtypes(), hnp.floating_dtypes(sizes=(16, 32, 64))))
    least = 1 if suffix in VECS else 0
    shape = st.tuples(st.integers(least, 9), st.integers(1, 9))
    array = data.draw(hnp.arrays(dtype, shape))
    array = data.draw(
        st.sampled_from([array, array[::-1], array[:, ::-1], np.asfortranarray(array)])
    )
    path = folder / f"trip{suffix}"
    with pytest.MonkeyPatch.context() as patch:
        # Steps of a few rows, so that their seams are crossed.
        patch.setattr(datasets, "_STEP", data.draw(st.sampled_from([1, 40, 1 << 24])))
        write(path, array)
        for mmap in (False, True):
            back = read(path, mmap=mmap)
            assert back.dtype == array.dtype
            assert back.shape == array.shape
            # Bytes, because NaN is not equal to itself.
            assert back.tobytes() == array.tobytes()
            if back.size:
                assert isinstance(back, np.memmap) == mmap
                assert back.flags.writeable != mmap


@pytest.mark.parametrize("suffix", FORMATS)
def test_read_result_is_aligned_and_contiguous(tmp_path, suffix):
    back = read(written(tmp_path, suffix))
    assert back.flags.c_contiguous
    assert back.flags.aligned
    assert back.dtype.isnative


@pytest.mark.parametrize("suffix", [".fvecs", ".bvecs", ".fbin", ".npy"])
def test_memory_map_reads_what_the_file_holds_now(tmp_path, suffix):
    path = written(tmp_path, suffix)
    mapped = read(path, mmap=True)
    with path.open("r+b") as stream:
        stream.seek(-mapped.itemsize, os.SEEK_END)
        stream.write(bytes(mapped.itemsize))
    assert mapped[-1, -1] == 0


def test_layout_of_vecs(tmp_path):
    write(tmp_path / "x.fvecs", [[np.float32(1), np.float32(2)]])
    assert (tmp_path / "x.fvecs").read_bytes() == struct.pack("<iff", 2, 1, 2)
    write(tmp_path / "x.bvecs", [[1, 2, 3], [4, 5, 6]])
    assert (tmp_path / "x.bvecs").read_bytes() == struct.pack("<i3Bi3B", 3, 1, 2, 3, 3, 4, 5, 6)


def test_layout_of_bin(tmp_path):
    write(tmp_path / "x.fbin", np.array([[1, 2]], np.float32))
    assert (tmp_path / "x.fbin").read_bytes() == struct.pack("<IIff", 1, 2, 1, 2)


def test_extension_may_be_upper_case(tmp_path):
    write(tmp_path / "x.FBIN", BASE)
    np.testing.assert_array_equal(read(str(tmp_path / "x.FBIN")), BASE)


def test_npy_of_other_writers(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.asfortranarray(BASE.astype(">f8")))
    for mmap in (False, True):
        back = read(path, mmap=mmap)
        assert back.dtype == ">f8"
        np.testing.assert_array_equal(back, BASE)
    with path.open("wb") as stream:
        np.lib.format.write_array(stream, BASE, version=(2, 0))
    np.testing.assert_array_equal(read(path), BASE)


# --- writing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "array", "message"),
    [
        (".fvecs", BASE.astype(np.float64), "array: expected values that float32 holds exactly"),
        (".fbin", BASE.astype(np.int32), "array: expected values that float32 holds exactly"),
        (".fbin", BASE > 1, "array: expected values that float32 holds exactly"),
        (".ivecs", BASE, "array: expected integers for .ivecs, got float32"),
        (".u8bin", BASE > 1, "array: expected integers for .u8bin, got bool"),
        (".npy", BASE.astype(str), "array: expected integers or floats, got <U"),
        (".npy", BASE.astype(object), "array: expected integers or floats, got object"),
    ],
)
def test_write_refuses_dtypes(tmp_path, suffix, array, message):
    with pytest.raises(TypeError, match=message):
        write(tmp_path / f"x{suffix}", array)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("suffix", "array", "message"),
    [
        (".bvecs", [[256]], "array: expected values from 0 to 255 for .bvecs, got 256 to 256"),
        (".u8bin", [[-1, 3]], "array: expected values from 0 to 255 for .u8bin, got -1 to 3"),
        (".i8bin", np.array([[128]], np.uint8), "array: expected values from -128 to 127"),
        (".ibin", [[2**31]], "array: expected values from -2147483648 to 2147483647"),
        (".fvecs", np.empty((0, 4), np.float32), "array: expected at least one row for .fvecs"),
        (".npy", np.float32([1, 2]), r"array: expected a 2-D array with columns, got shape \(2,\)"),
        (".fbin", np.empty((3, 0), np.float32), "array: expected a 2-D array with columns"),
        (".u8bin", np.broadcast_to(np.uint8(0), (2**32, 1)), "a shape that .u8bin can state"),
        (".bvecs", np.broadcast_to(np.uint8(0), (1, 2**31)), "a shape that .bvecs can state"),
        (".txt", BASE, r"x.txt: expected one of \.npy, \.fvecs"),
        (".npz", BASE, r"x.npz: expected one of \.npy, \.fvecs"),
    ],
)
def test_write_refuses_values(tmp_path, suffix, array, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / f"x{suffix}", array)
    assert not list(tmp_path.iterdir())


def test_write_widens_without_loss(tmp_path):
    for values in (BASE.astype(np.float16), BASE.astype(np.uint8), BASE.astype(np.int16)):
        write(tmp_path / "x.fbin", values)
        np.testing.assert_array_equal(read(tmp_path / "x.fbin"), BASE)
    write(tmp_path / "x.ivecs", np.array([[2**31 - 1, -(2**31)]], np.int64))
    np.testing.assert_array_equal(read(tmp_path / "x.ivecs"), [[2**31 - 1, -(2**31)]])


@pytest.mark.parametrize("suffix", [".npy", ".fvecs", ".fbin"])
@pytest.mark.parametrize("culprit", ["fsync", "replace"])
def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch, suffix, culprit):
    path = tmp_path / f"x{suffix}"
    write(path, BASE)

    def fail(*args):
        raise OSError("disk full")

    if culprit == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write(path, BASE + 1)
    monkeypatch.undo()
    np.testing.assert_array_equal(read(path), BASE)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions and links")
def test_write_keeps_links_and_follows_umask(tmp_path):
    target = tmp_path / "folder" / "target.fbin"
    target.parent.mkdir()
    link = tmp_path / "link.fbin"
    link.symlink_to(target)
    old = os.umask(0o027)
    try:
        write(link, BASE)
    finally:
        os.umask(old)
    assert link.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    np.testing.assert_array_equal(read(link), BASE)


# --- damage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [*FORMATS, ".npz", ".hdf5"])
def test_missing_and_empty_files_are_named(tmp_path, suffix):
    if suffix == ".hdf5":
        pytest.importorskip("h5py")
    path = tmp_path / f"gone{suffix}"
    readers = [load] if suffix in (".npz", ".hdf5") else [load, read]
    for reader in readers:
        with pytest.raises(FileNotFoundError, match="gone"):
            reader(path)
    path.touch()
    for reader in readers:
        with pytest.raises(ValueError, match="gone"):
            reader(path)


def test_unknown_extensions(tmp_path):
    with pytest.raises(ValueError, match=r"x\.csv: expected one of \.npy, .*\.ibin, got '\.csv'$"):
        read(tmp_path / "x.csv")
    with pytest.raises(ValueError, match=r"x: expected one of \.npz, \.hdf5, .*\.ibin, got ''$"):
        load(tmp_path / "x")
    with pytest.raises(ValueError, match=r"x\.npz: .*; load\(\) takes it"):
        read(tmp_path / "x.npz")


edits = st.tuples(
    st.floats(0, 1),  # where to cut, as a share of the length
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=3),
    st.binary(max_size=9),
)


def damaged(good, edit):
    where, cut, changes, tail = edit
    data = bytearray(good[: int(where * len(good))] if cut else good)
    for position, byte in changes:
        if data:
            data[position % len(data)] = byte
    return bytes(data) + tail


@given(suffix=st.sampled_from(FORMATS), edit=edits)
def test_damaged_arrays(folder, suffix, edit):
    path = written(folder, suffix)
    path.write_bytes(damaged(path.read_bytes(), edit))
    try:
        array = read(path)
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017
        with pytest.raises(ValueError, match="sample"):
            read(path, mmap=True)
        return
    assert array.ndim == 2
    if suffix == ".npy":
        assert array.dtype.kind in "fiu"
    else:
        assert array.dtype == DTYPES[suffix]
    assert read(path, mmap=True).tobytes() == array.tobytes()


@given(compress=st.booleans(), edit=edits)
def test_damaged_npz(folder, compress, edit):
    stream = io.BytesIO()
    save = np.savez_compressed if compress else np.savez
    save(stream, base=BASE, queries=QUERIES, neighbors=NEIGHBORS)
    path = folder / "damaged.npz"
    path.write_bytes(damaged(stream.getvalue(), edit))
    try:
        dataset = load(path)
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017
        return
    # What the checksums let pass must be what was saved.
    np.testing.assert_array_equal(dataset.base, BASE)


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_truncation_is_found(tmp_path, suffix):
    path = written(tmp_path, suffix)
    good = path.read_bytes()
    record = len(good) // 5 if suffix in VECS else None
    for length in range(len(good)):
        path.write_bytes(good[:length])
        if record and length and length % record == 0:
            # A file of whole records is a valid shorter file.
            assert len(read(path)) == length // record
            continue
        for mmap in (False, True):
            with pytest.raises(ValueError, match="sample"):
                read(path, mmap=mmap)


@pytest.mark.parametrize("suffix", FORMATS)
def test_trailing_bytes_are_found(tmp_path, suffix):
    path = written(tmp_path, suffix)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ValueError, match=r"sample.*(trailing|not a multiple)"):
        read(path)


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("step", [1, 1 << 24])
@pytest.mark.parametrize("suffix", VECS)
def test_every_dimension_of_vecs_is_checked(tmp_path, monkeypatch, suffix, step, mmap):
    monkeypatch.setattr(datasets, "_STEP", step)
    path = written(tmp_path, suffix)
    data = bytearray(path.read_bytes())
    data[3 * len(data) // 5] = 7
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"sample.*expected dimension 4 in record 3, got 7"):
        read(path, mmap=mmap)


@pytest.mark.parametrize("suffix", VECS)
@pytest.mark.parametrize("dim", [0, -1, -(2**31)])
def test_vecs_of_no_positive_dimension(tmp_path, suffix, dim):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(struct.pack("<ii", dim, 0))
    with pytest.raises(ValueError, match=f"expected a positive dimension in record 0, got {dim}"):
        read(path)


@pytest.mark.parametrize(
    ("suffix", "header", "message"),
    [
        (".fvecs", struct.pack("<i", 2**31 - 1), "not a multiple of the 8589934592 bytes"),
        (".bvecs", struct.pack("<i", 2**31 - 1), "not a multiple of the 2147483651 bytes"),
        (".fbin", struct.pack("<II", 2**32 - 1, 2**32 - 1), "truncated: expected 73786976260"),
        (".u8bin", struct.pack("<ii", -1, 128), "truncated: expected 549755813768 bytes"),
        (".ibin", struct.pack("<II", 0, 0), "expected a positive dimension, got 0"),
    ],
)
def test_absurd_headers_are_not_believed(tmp_path, suffix, header, message):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(header + bytes(64))
    for mmap in (False, True):
        with pytest.raises(ValueError, match=rf"x\{suffix}: .*{message}"):
            read(path, mmap=mmap)


def npy_bytes(header, payload=b"", version=1):
    text = header.encode()
    width = "<H" if version == 1 else "<I"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack(width, len(text)) + text + payload


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"plain text, not NumPy at all", "not a .npy header"),
        (npy_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': (9, 9)}\n"), "truncated"),
        (npy_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -2)}\n"), "2-D array"),
        (npy_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 0)}\n"), "2-D array"),
        (npy_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}\n"), "2-D array"),
        (npy_bytes("{'descr': '|O', 'fortran_order': False, 'shape': (1, 1)}\n"), "got object"),
        (npy_bytes("{'descr': '<c8', 'fortran_order': False, 'shape': (1, 1)}\n"), "got complex64"),
        (npy_bytes("{'descr': 'no', 'fortran_order': False, 'shape': (1, 1)}\n"), "not a .npy"),
        (npy_bytes("{" * 5000), "not a .npy header"),
        (npy_bytes("__import__('os')"), "not a .npy header"),
        (npy_bytes("'" * 11_000), "not a .npy header"),
        (npy_bytes("{}", version=3), "not a .npy header"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}", "not a .npy header"),
        (
            npy_bytes(
                f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**18}, {10**18})}}\n"
            ),
            "truncated",
        ),
    ],
)
def test_wrong_npy(tmp_path, content, message):
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    for mmap in (False, True):
        with pytest.raises(ValueError, match=rf"x\.npy: .*{message}"):
            read(path, mmap=mmap)


# --- sets ---------------------------------------------------------------------------------------


def test_load_npz(tmp_path):
    path = tmp_path / "small.npz"
    distances = np.ones((2, 3), np.float32)
    np.savez(
        path, base=BASE, queries=QUERIES, neighbors=NEIGHBORS, distances=distances, other=["text"]
    )
    dataset = load(path, metric="ip")
    np.testing.assert_array_equal(dataset.base, BASE)
    np.testing.assert_array_equal(dataset.queries, QUERIES)
    np.testing.assert_array_equal(dataset.neighbors, NEIGHBORS)
    np.testing.assert_array_equal(dataset.distances, distances)
    assert dataset.neighbors.dtype == np.int64
    assert (dataset.name, dataset.metric, dataset.source) == ("small", "ip", str(path))
    assert load(path).metric == "l2"


@pytest.mark.parametrize("suffix", [".npy", ".fvecs", ".bvecs", ".fbin", ".u8bin", ".i8bin"])
def test_load_one_array(tmp_path, suffix):
    dataset = load(written(tmp_path, suffix))
    np.testing.assert_array_equal(dataset.base, sample(suffix))
    assert dataset.queries is dataset.neighbors is dataset.distances is None
    assert dataset.name == "sample"


@pytest.mark.parametrize("suffix", [".ivecs", ".ibin"])
def test_ids_are_no_vectors(tmp_path, suffix):
    with pytest.raises(ValueError, match=r"sample.*base: expected float32, .*, got int32"):
        load(written(tmp_path, suffix))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"rows": BASE}, "expected an array named base, got rows"),
        ({"base": BASE[0]}, r"base: expected a 2-D array with columns, got shape \(4,\)"),
        ({"base": BASE.astype(complex)}, "base: expected integers or floats, got complex128"),
        ({"base": BASE.astype(object)}, "base: expected integers or floats, got object"),
        ({"base": BASE.astype(np.int64)}, "base: expected float32, .*, got int64"),
        ({"base": BASE, "queries": QUERIES[:, :3]}, "queries: expected dimension 4, got 3"),
        ({"base": BASE, "neighbors": NEIGHBORS}, "neighbors: expected queries beside them"),
        (
            {"base": BASE, "queries": QUERIES, "neighbors": NEIGHBORS[:1]},
            "neighbors: expected 2 rows, one for each query, got 1",
        ),
        (
            {"base": BASE, "queries": QUERIES, "neighbors": NEIGHBORS + 3},
            "neighbors: expected 0 <= id < 5, got 5 at row 0, column 2",
        ),
        (
            {"base": BASE, "queries": QUERIES, "neighbors": -NEIGHBORS},
            "neighbors: expected 0 <= id < 5, got -1",
        ),
        (
            {"base": BASE, "queries": QUERIES, "neighbors": NEIGHBORS.astype(float)},
            "neighbors: expected an array of integers",
        ),
        (
            {"base": BASE, "queries": QUERIES, "distances": np.ones((2, 3))},
            "distances: expected neighbors beside them",
        ),
        (
            {
                "base": BASE,
                "queries": QUERIES,
                "neighbors": NEIGHBORS,
                "distances": np.ones((2, 2)),
            },
            r"distances: expected shape \(2, 3\) as of neighbors, got \(2, 2\)",
        ),
        (
            {"base": BASE, "queries": QUERIES, "neighbors": NEIGHBORS, "distances": NEIGHBORS},
            "distances: expected an array of floats, got int32",
        ),
    ],
)
def test_load_refuses_npz(tmp_path, arrays, message):
    path = tmp_path / "wrong.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=rf"wrong\.npz: {message}"):
        load(path)


def test_npz_that_claims_too_much(tmp_path):
    path = tmp_path / "bomb.npz"
    claim = npy_bytes("{'descr': '|u1', 'fortran_order': False, 'shape': (4294967000, 1)}\n")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("base.npy", claim)
    with pytest.raises(ValueError, match=r"bomb\.npz: base: truncated"):
        load(path)
    # The same claim in the zip directory, where the size of the member is stated.
    data = bytearray(path.read_bytes())
    size_at = data.index(b"PK\x01\x02") + 24
    data[size_at : size_at + 4] = struct.pack("<I", 4_294_967_000 + len(claim))
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"bomb\.npz: base: claims 4294967"):
        load(path)


def test_npz_of_unusual_compression(tmp_path):
    path = tmp_path / "odd.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("base.npy", bytes(200))
    with pytest.raises(ValueError, match=r"odd\.npz: base: expected stored or deflated data"):
        load(path)


def test_load_refuses_unknown_metric(tmp_path):
    with pytest.raises(ValueError, match="metric: expected one of 'l2', 'ip', 'cosine'"):
        load(tmp_path / "any.npz", metric="euclidean")


def test_dataset_checks_its_parts():
    with pytest.raises(TypeError, match="base: expected an ndarray, got list"):
        Dataset("x", base=[[1.0]])
    with pytest.raises(TypeError, match=r"queries: expected float32, .*, got int64"):
        Dataset("x", base=BASE, queries=QUERIES.astype(np.int64))
    with pytest.raises(ValueError, match="metric: expected one of"):
        Dataset("x", base=BASE, metric="dot")


def test_dataset_shows_shapes():
    dataset = Dataset("x", base=BASE, queries=QUERIES, neighbors=NEIGHBORS)
    assert repr(dataset) == (
        "Dataset('x', base=(5, 4) float32, queries=(2, 4) float32, "
        "neighbors=(2, 3) int64, metric='l2')"
    )


def test_sift_small_is_exact():
    dataset = sift_small()
    assert dataset.base.shape == (20000, 128)
    assert dataset.queries.shape == (200, 128)
    assert dataset.neighbors.shape == (200, 100)
    assert (dataset.name, dataset.metric) == ("sift-small", "l2")
    base, queries = dataset.base.astype(np.float64), dataset.queries.astype(np.float64)
    # Sums of squares of bytes are exact in float64.
    exact = (queries**2).sum(1)[:, None] - 2 * queries @ base.T + (base**2).sum(1)
    nearest = np.sort(exact, axis=1)[:, :100]
    # Distances rather than ids, because ties may be listed in any order.
    np.testing.assert_array_equal(np.take_along_axis(exact, dataset.neighbors, 1), nearest)


# --- HDF5 ---------------------------------------------------------------------------------------


def save_hdf5(path, distance="euclidean", **arrays):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        if distance is not None:
            file.attrs["distance"] = distance
        for key, array in arrays.items():
            file[key] = array


@pytest.mark.parametrize(
    ("distance", "metric"),
    [("euclidean", "l2"), ("angular", "cosine"), ("dot", "ip"), (b"ip", "ip"), (None, "l2")],
)
def test_load_hdf5(tmp_path, distance, metric):
    path = tmp_path / "set.hdf5"
    distances = np.float32([[1, 2, 3], [1, 2, 4]])
    save_hdf5(
        path, distance, train=BASE, test=QUERIES, neighbors=NEIGHBORS, distances=distances, x=[1]
    )
    dataset = load(path)
    assert dataset.metric == metric
    np.testing.assert_array_equal(dataset.base, BASE)
    np.testing.assert_array_equal(dataset.queries, QUERIES)
    np.testing.assert_array_equal(dataset.neighbors, NEIGHBORS)
    squared = distance == "euclidean"
    np.testing.assert_array_equal(dataset.distances, distances**2 if squared else distances)


def test_hdf5_metric_must_agree(tmp_path):
    path = tmp_path / "set.hdf5"
    save_hdf5(path, "angular", train=BASE)
    assert load(path, metric="cosine").metric == "cosine"
    with pytest.raises(ValueError, match=r"metric: expected 'cosine' as .*set\.hdf5 says, got 'l"):
        load(path, metric="l2")
    save_hdf5(path, None, train=BASE)
    assert load(path, metric="ip").metric == "ip"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"test": QUERIES}, "expected a dataset named train"),
        ({"train": BASE[0]}, r"train: expected a 2-D array of integers or floats, got shape \(4,"),
        ({"train": BASE.astype("S3")}, "train: expected a 2-D array of integers or floats"),
        ({"train": BASE, "distance": "jaccard"}, "expected the distance euclidean or .*'jaccard'"),
        ({"train": BASE, "test": QUERIES, "neighbors": NEIGHBORS + 9}, "neighbors: expected 0 <="),
    ],
)
def test_load_refuses_hdf5(tmp_path, arrays, message):
    path = tmp_path / "wrong.hdf5"
    save_hdf5(path, **arrays)
    with pytest.raises(ValueError, match=rf"wrong\.hdf5: {message}"):
        load(path)


def test_hdf5_may_not_reach_into_other_files(tmp_path):
    h5py = pytest.importorskip("h5py")
    save_hdf5(tmp_path / "other.hdf5", train=BASE)
    BASE.tofile(tmp_path / "raw")
    message = "train: expected a dataset stored in this file"
    with h5py.File(tmp_path / "link.hdf5", "w") as file:
        file["train"] = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "train")
    with h5py.File(tmp_path / "raw.hdf5", "w") as file:
        file.create_dataset("train", BASE.shape, "f4", external=str(tmp_path / "raw"))
    with h5py.File(tmp_path / "virtual.hdf5", "w") as file:
        layout = h5py.VirtualLayout(BASE.shape, "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.hdf5"), "train", BASE.shape)
        file.create_virtual_dataset("train", layout)
    with h5py.File(tmp_path / "group.hdf5", "w") as file:
        file.create_group("train")
    for name in ("link", "raw", "virtual", "group"):
        with pytest.raises(ValueError, match=rf"{name}\.hdf5: {message}"):
            load(tmp_path / f"{name}.hdf5")


def test_hdf5_that_claims_too_much(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "sparse.hdf5"
    with h5py.File(path, "w") as file:
        file.create_dataset("train", (2**40, 128), "f4", chunks=(1024, 128))
    with pytest.raises(ValueError, match=r"sparse\.hdf5: train: claims \d+ bytes in a file of"):
        load(path)


def test_truncated_hdf5(tmp_path):
    path = tmp_path / "cut.hdf5"
    save_hdf5(path, train=BASE, test=QUERIES)
    good = path.read_bytes()
    for length in range(1, len(good), 97):
        path.write_bytes(good[:length])
        with pytest.raises(ValueError, match=r"cut\.hdf5"):
            load(path)


def test_missing_h5py(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r'pip install "lanewise\[hdf5\]"'):
        load(tmp_path / "x.hdf5")
    with pytest.raises(ImportError, match=r'pip install "lanewise\[hdf5\]"'):
        fetch("sift-128-euclidean", cache_dir=tmp_path)


# --- fetching -----------------------------------------------------------------------------------

NAME = "sift-128-euclidean"
URL = f"http://ann-benchmarks.com/{NAME}.hdf5"


@pytest.fixture
def content(tmp_path):
    save_hdf5(tmp_path / "served", train=BASE, test=QUERIES, neighbors=NEIGHBORS)
    return (tmp_path / "served").read_bytes()


@pytest.fixture
def web(monkeypatch, tmp_path, content):
    """A stand-in for pooch that serves `content`, or raises `error`, and counts its calls."""
    pooch = types.SimpleNamespace(content=content, error=None, calls=[])

    def retrieve(url, known_hash, fname, path, progressbar):
        pooch.calls.append(types.SimpleNamespace(url=url, known_hash=known_hash, bar=progressbar))
        if pooch.error is not None:
            raise pooch.error
        (Path(path) / fname).write_bytes(pooch.content)

    pooch.retrieve = retrieve
    pooch.os_cache = lambda project: tmp_path / "user" / project
    monkeypatch.setitem(sys.modules, "pooch", pooch)
    return pooch


def test_list_names():
    names = list_names()
    assert NAME in names
    assert "deep-image-96-angular" in names
    names.clear()
    assert list_names()


def test_fetch_unknown_name(web):
    with pytest.raises(
        ValueError, match=r"name: expected one of .*'sift-128-euclidean', got 'sift'"
    ):
        fetch("sift")
    assert not web.calls


def test_fetch_downloads_once(web, tmp_path, content, caplog):
    cache = tmp_path / "deep" / "cache"
    with caplog.at_level(logging.WARNING, logger="lanewise.datasets"):
        dataset = fetch(NAME, cache_dir=cache, progress=False)
    np.testing.assert_array_equal(dataset.base, BASE)
    assert (dataset.name, dataset.metric, dataset.source) == (NAME, "l2", URL)
    digest = hashlib.sha256(content).hexdigest()
    assert f"{URL} came without a known hash; to pin what was got, pass sha256='{digest}'" in (
        caplog.text
    )
    caplog.clear()
    web.error = AssertionError("the network must not be used")
    fetch(NAME, cache_dir=str(cache))
    assert not caplog.records
    (call,) = web.calls
    assert (call.url, call.known_hash, call.bar) == (URL, None, False)


def test_fetch_uses_the_folder_of_the_user(web, tmp_path):
    fetch(NAME)
    assert (tmp_path / "user" / "lanewise" / f"{NAME}.hdf5").exists()


@pytest.mark.parametrize("installed", [True, False])
def test_fetch_shows_progress_where_tqdm_is_installed(web, tmp_path, monkeypatch, installed):
    monkeypatch.setattr(
        datasets.importlib.util, "find_spec", lambda name: object() if installed else None
    )
    fetch(NAME, cache_dir=tmp_path)
    assert web.calls[0].bar == installed


def test_fetch_with_pinned_hash(web, tmp_path, content, caplog):
    digest = hashlib.sha256(content).hexdigest()
    fetch(NAME, cache_dir=tmp_path, sha256=digest.upper())
    assert web.calls[0].known_hash.lower() == f"sha256:{digest}"
    assert not caplog.records
    wrong = "0" * 64
    with pytest.raises(ValueError, match=f"hdf5: expected sha256 {wrong}, got {digest}; remove"):
        fetch(NAME, cache_dir=tmp_path, sha256=wrong)


def test_fetch_without_network(web, tmp_path, content):
    web.error = OSError("name resolution failed")
    path = tmp_path / f"{NAME}.hdf5"
    with pytest.raises(ConnectionError) as error:
        fetch(NAME, cache_dir=tmp_path)
    for part in (NAME, URL, "name resolution failed", str(path)):
        assert part in str(error.value)
    path.write_bytes(content)
    np.testing.assert_array_equal(fetch(NAME, cache_dir=tmp_path).base, BASE)


def test_fetch_of_something_else(web, tmp_path):
    web.content = b"<html>moved</html>"
    with pytest.raises(ValueError, match=r"hdf5: .*; remove the file to download it again"):
        fetch(NAME, cache_dir=tmp_path)


def test_fetch_without_pooch(monkeypatch, tmp_path, content):
    monkeypatch.setitem(sys.modules, "pooch", None)
    for options in ({}, {"cache_dir": tmp_path}):
        with pytest.raises(ImportError, match=r'pip install "lanewise\[fetch\]"'):
            fetch(NAME, **options)
    (tmp_path / f"{NAME}.hdf5").write_bytes(content)
    fetch(NAME, cache_dir=tmp_path)
