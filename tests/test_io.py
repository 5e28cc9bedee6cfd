"""The file container: what goes in comes out, damage is named, and a file is old or new."""

import builtins
import contextlib
import errno
import json
import os
import random
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lanewise import io
from lanewise.io import FileFormatError, read, write

posix_only = pytest.mark.skipif(os.name == "nt", reason="POSIX files, links and signals")

DTYPES = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"]
HEADER = {"metric": "l2", "dim": 3, "eps": [0.5, None, True]}
ARRAYS = {
    "rows": np.arange(6, dtype=np.float32).reshape(2, 3),
    "none": np.empty((0, 3), np.int64),
    "one": np.array(7, np.uint8),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("io")


@pytest.fixture
def path(tmp_path):
    """A whole file of kind "sample"."""
    path = tmp_path / "sample.lw"
    write(path, "sample", HEADER, ARRAYS)
    return path


def assert_holds(path, header, arrays, kind="sample", **options):
    found_header, found = read(path, kind, **options)
    assert found_header == header
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype.newbyteorder("<")
        assert found[name].shape == array.shape
        # Bytes, because NaN is not equal to itself.
        assert found[name].tobytes() == array.astype(found[name].dtype).tobytes()


# --- round trips --------------------------------------------------------------------------------

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # Lone surrogates too, which UTF-8 does not have.
    | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
layouts = st.sampled_from(
    [
        lambda x: x,
        np.asfortranarray,
        lambda x: x.T,
        lambda x: x[..., ::-1] if x.ndim else x,
        lambda x: x[::2] if x.ndim else x,
        lambda x: np.broadcast_to(x, (2, *x.shape)),
    ]
)


@st.composite
def stored_arrays(draw):
    dtype = np.dtype(draw(st.sampled_from(DTYPES))).newbyteorder(draw(st.sampled_from("<>")))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6))
    return draw(layouts)(draw(hnp.arrays(dtype, shape)))


@given(
    header=st.dictionaries(st.text(), json_values, max_size=3),
    arrays=st.dictionaries(st.text(), stored_arrays(), max_size=4),
    step=st.sampled_from([8, 24, 1 << 20]),
)
def test_what_is_written_is_read(folder, header, arrays, step):
    path = folder / "trip.lw"
    with pytest.MonkeyPatch.context() as patch:
        # Steps of a few elements, so that their seams are crossed.
        patch.setattr(io, "_STEP", step)
        write(path, "trip", header, arrays)
        assert_holds(path, header, arrays, "trip")
        for verify in (False, True):
            assert_holds(path, header, arrays, "trip", mmap=set(arrays), verify=verify)


def test_layout_is_frozen(tmp_path):
    """Version 1, spelled out by hand."""
    page = np.arange(4096, dtype=np.uint8)
    halves = np.array([[1.5, -2]], ">f2")
    write(
        tmp_path / "x",
        "k\u00e9",
        {"a": 1},
        {"three": np.array([1, 2, 3], np.int8), "page": page, "halves": halves},
    )
    half_bytes = bytes.fromhex("003e00c0")
    table = (
        r'{"kind":"k\u00e9","header":{"a":1},"arrays":['
        r'{"name":"three","dtype":"|i1","shape":[3],"offset":0,"nbytes":3,"crc32":"55bc801d"},'
        r'{"name":"page","dtype":"|u1","shape":[4096],"offset":4096,"nbytes":4096,"crc32":"PAGE"},'
        r'{"name":"halves","dtype":"<f2","shape":[1,2],"offset":8192,"nbytes":4,"crc32":"HALF"}]}'
    )
    table = table.replace("PAGE", f"{zlib.crc32(page):08x}")
    table = table.replace("HALF", f"{zlib.crc32(half_bytes):08x}").encode()
    begin = struct.pack("<8sIIQ", b"\x89LANE\r\n\x1a", 1, len(table), 4096 + 8192 + 4)
    begin += struct.pack("<I", zlib.crc32(begin + table)) + table
    data = bytes([1, 2, 3]).ljust(4096, b"\0") + page.tobytes() + half_bytes
    assert (tmp_path / "x").read_bytes() == begin.ljust(4096, b"\0") + data


@pytest.mark.parametrize("mmap", [(), ("rows", "none", "one")])
def test_small_shapes(path, mmap):
    _, arrays = read(path, "sample", mmap=mmap)
    assert arrays["none"].shape == (0, 3)
    assert arrays["one"].shape == ()
    assert arrays["one"] == 7
    # Nothing cannot be mapped, but is as read-only as the others.
    assert [isinstance(array, np.memmap) for array in arrays.values()] == [
        bool(mmap),
        False,
        bool(mmap),
    ]
    for array in arrays.values():
        assert array.flags.writeable == (not mmap)
        assert array.flags.owndata == (not mmap or array.size == 0)
        assert array.flags.aligned
        assert array.flags.c_contiguous


def test_nothing_at_all(tmp_path):
    write(tmp_path / "x", "", {}, {})
    assert read(tmp_path / "x", "") == ({}, {})


def test_arrays_of_several_steps(tmp_path, rng):
    whole = rng.standard_normal((1000, 700))
    arrays = {"whole": whole, "columns": np.asfortranarray(whole), "part": whole[::-3, 5:]}
    assert whole.nbytes > 5 * io._STEP
    write(tmp_path / "x", "sample", {}, arrays)
    assert_holds(tmp_path / "x", {}, arrays)
    assert_holds(tmp_path / "x", {}, arrays, mmap=["columns"])


def test_strided_arrays_are_not_copied_whole(tmp_path):
    arrays = {"a": np.zeros((4, 1 << 20)).T, "b": np.zeros(1 << 22, ">f8")}
    tracemalloc.start()
    try:
        write(tmp_path / "x", "sample", {}, arrays)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * io._STEP


@posix_only
def test_beyond_four_gigabytes(tmp_path, monkeypatch):
    def skip_over(stream, array):
        if array.nbytes < 1 << 32:
            return write_array(stream, array)
        stream.seek(array.nbytes, os.SEEK_CUR)
        return 0

    write_array = io._write_array
    monkeypatch.setattr(io, "_write_array", skip_over)
    # No memory and, the file being sparse, no disk.
    huge = np.broadcast_to(np.float32(0), (3, 1 << 29))
    arrays = {"huge": huge, "more": huge[:2], "last": np.arange(5)}
    write(tmp_path / "x", "sample", {}, arrays)
    _, found = read(tmp_path / "x", "sample", mmap=["huge", "more"], verify=False)
    assert found["huge"].shape == huge.shape
    assert found["huge"][-1, -1] == 0
    assert found["more"].offset > 1 << 32
    np.testing.assert_array_equal(found["last"], arrays["last"])


def test_memory_maps_are_not_read(path):
    with path.open("r+b") as stream:
        stream.seek(4096)
        stream.write(np.float32(9))
    _, arrays = read(path, "sample", mmap=["rows"], verify=False)
    assert arrays["rows"][0, 0] == 9
    with pytest.raises(FileFormatError, match=r"'rows': damaged: expected CRC-32 [0-9a-f]{8}, got"):
        read(path, "sample", mmap=["rows"])
    # What is read anyway is verified anyway.
    with pytest.raises(FileFormatError, match="'rows': damaged"):
        read(path, "sample", verify=False)


def test_all_arrays_may_be_mapped(path):
    header, arrays = read(path, "sample")
    mapped_header, mapped = read(path, "sample", mmap=None)
    assert mapped_header == header
    assert list(mapped) == list(arrays)
    for name, array in mapped.items():
        np.testing.assert_array_equal(array, arrays[name])
        assert not array.flags.writeable


@pytest.mark.parametrize("mmap", [["rows", "colums"], "rows"])
def test_mmap_of_unknown_arrays(path, mmap):
    with pytest.raises(ValueError, match=r"mmap: .* which are 'rows', 'none', 'one', got '"):
        read(path, "sample", mmap=mmap)


@posix_only
def test_file_may_replace_the_one_it_is_mapped_from(path):
    _, old = read(path, "sample", mmap=["rows"])
    write(path, "sample", {}, {"rows": old["rows"][::-1]})
    np.testing.assert_array_equal(old["rows"], ARRAYS["rows"])
    assert_holds(path, {}, {"rows": ARRAYS["rows"][::-1]})


# --- what cannot be written ---------------------------------------------------------------------

ONE = np.ones(1)
DEEP: list = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("kind", "header", "arrays", "error", "message"),
    [
        (1, {}, {}, TypeError, "kind: expected a str, got int"),
        ("k", {}, {1: ONE}, TypeError, "names that are str, got 1"),
        ("k", {}, {"a": np.array([None])}, TypeError, r"arrays\['a'\]: .* got dtype object"),
        ("k", {}, {"a": np.array([True])}, TypeError, "got dtype bool"),
        ("k", {}, {"a": np.array(["x"])}, TypeError, "got dtype <U1"),
        ("k", {}, {"a": np.array([1j])}, TypeError, "got dtype complex128"),
        ("k", {}, {"a": np.zeros(1, "m8[s]")}, TypeError, "got dtype timedelta64"),
        ("k", {}, {"a": np.zeros(1, "i4,f4")}, TypeError, "got dtype"),
        ("k", {}, {"a": np.ma.masked_equal([1, 2], 1)}, TypeError, "no masked entries, got 1"),
        ("k", {"x": ONE}, {}, ValueError, "header: .* ndarray is not JSON"),
        ("k", {"x": np.int64(1)}, {}, ValueError, "header: .* int64 is not JSON"),
        ("k", {"x": float("nan")}, {}, ValueError, "header: .* not JSON"),
        ("k", {"x": [float("inf")]}, {}, ValueError, "header: .* not JSON"),
        ("k", {"x": (1, 2)}, {}, ValueError, r"header: .* that JSON keeps, got {'x': \(1, 2\)}"),
        ("k", {1: 2}, {}, ValueError, "header: .* that JSON keeps, got {1: 2}"),
        ("k", {"x": {1: 2, "1": 3}}, {}, ValueError, "header: .*a key is repeated"),
        ("k", {"x": DEEP}, {}, ValueError, "header: expected values"),
        ("k", {"x": "x" * 2**20}, {}, ValueError, "header: expected at most 1048576 bytes"),
    ],
)
def test_write_refuses(path, kind, header, arrays, error, message):
    with pytest.raises(error, match=message):
        write(path, kind, header, arrays)
    assert_holds(path, HEADER, ARRAYS)
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="NumPy refuses it itself")
def test_write_refuses_more_axes_than_every_numpy_has(tmp_path):
    with pytest.raises(ValueError, match=r"arrays\['a'\]: expected at most 32 axes, got 33"):
        write(tmp_path / "x", "k", {}, {"a": np.ones((1,) * 33)})


def test_header_is_taken_once(tmp_path, monkeypatch):
    """Another thread may change the caller's dict; the table must still fit its place."""
    header = {"list": [1]}

    def change_header(stream, array):
        header["list"].append(2)
        return write_array(stream, array)

    write_array = io._write_array
    monkeypatch.setattr(io, "_write_array", change_header)
    write(tmp_path / "x", "sample", header, {"a": ONE})
    assert_holds(tmp_path / "x", {"list": [1]}, {"a": ONE})


# --- old or new ---------------------------------------------------------------------------------

NEW_HEADER = {"new": True}
NEW_ARRAYS = {"a": np.arange(5000), "b": np.asfortranarray(ARRAYS["rows"])}


def assert_old(path):
    assert_holds(path, HEADER, ARRAYS)


def assert_new(path):
    assert_holds(path, NEW_HEADER, NEW_ARRAYS)


@contextlib.contextmanager
def on_each_step(step):
    """Call `step` with its name before everything that `write` asks of the system."""

    class Stream:
        def __init__(self, stream):
            self.stream = stream

        def __enter__(self):
            return self

        def __exit__(self, *args):
            self.stream.close()

        def __getattr__(self, name):
            if name in ("write", "flush", "seek"):
                step(name)
            return getattr(self.stream, name)

    def open_stream(file, mode):
        if "r" in mode:
            return builtins.open(file, mode)
        step("open")
        return Stream(builtins.open(file, mode))

    def stepping(name, function):
        def call(*args):
            step(name)
            return function(*args)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(io, "open", open_stream, raising=False)
        patch.setattr(os, "fsync", stepping("fsync", os.fsync))
        patch.setattr(os, "replace", stepping("replace", os.replace))
        patch.setattr(os, "open", stepping("open folder", os.open))
        yield


def steps_of_a_write(path):
    names = []
    with on_each_step(names.append):
        write(path, "sample", NEW_HEADER, NEW_ARRAYS)
    return names


@posix_only
def test_write_is_durable(path):
    """The data are on disk before the name points to them, and then the name is."""
    names = steps_of_a_write(path)
    assert names[0] == "open"
    assert names.count("write") >= 2 * len(NEW_ARRAYS) + 2
    end = ["write", "flush", "fsync", "replace", "open folder", "fsync"]
    assert names[-len(end) :] == end


def test_readers_find_the_old_file_or_the_new_one(path):
    replaced = []

    def look(name):
        (assert_new if replaced else assert_old)(path)
        replaced.extend([name] * (name == "replace"))

    with on_each_step(look):
        write(path, "sample", NEW_HEADER, NEW_ARRAYS)
    assert replaced
    assert_new(path)


@posix_only
@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "broken"), KeyboardInterrupt(), MemoryError()]
)
def test_failure_of_each_step(tmp_path, error):
    path = tmp_path / "x"
    names = steps_of_a_write(path)
    for failing in range(len(names)):
        write(path, "sample", HEADER, ARRAYS)
        seen = []

        def fail(name, seen=seen, failing=failing):
            seen.append(name)
            if len(seen) == failing + 1:
                raise error

        with on_each_step(fail), pytest.raises(type(error)) as caught:
            write(path, "sample", NEW_HEADER, NEW_ARRAYS)
        assert seen == names[: failing + 1]
        if isinstance(error, OSError):
            assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(path))
        (assert_new if "replace" in seen[:-1] else assert_old)(path)
        assert os.listdir(tmp_path) == ["x"]


@posix_only
@pytest.mark.parametrize("culprit", ["open", "fsync"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EINVAL])
def test_folders_that_cannot_be_synced(path, monkeypatch, culprit, number):
    """As on Windows and on some network file systems."""
    synced = []

    def fail(argument, *args):
        if culprit == "open" or stat.S_ISDIR(os.fstat(argument).st_mode):
            synced.append(argument)
            raise OSError(number, "not for folders")

    monkeypatch.setattr(os, culprit, fail)
    write(path, "sample", NEW_HEADER, NEW_ARRAYS)
    assert len(synced) == 1
    assert_new(path)


@posix_only
def test_full_disk(path):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = path.stat().st_size
    try:
        for limit in (0, 1, 4096, size + 4096):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
            with pytest.raises(OSError, match="File too large") as caught:
                write(path, "sample", NEW_HEADER, NEW_ARRAYS)
            assert caught.value.filename == str(path)
            assert_old(path)
            assert os.listdir(path.parent) == [path.name]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_missing_folder(tmp_path):
    path = tmp_path / "missing" / "x"
    with pytest.raises(FileNotFoundError) as caught:
        write(path, "sample", HEADER, ARRAYS)
    assert caught.value.filename == str(path)
    assert os.listdir(tmp_path) == []


@posix_only
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root writes everywhere")
def test_read_only_folder(path):
    path.parent.chmod(0o500)
    try:
        with pytest.raises(PermissionError) as caught:
            write(path, "sample", NEW_HEADER, NEW_ARRAYS)
        assert caught.value.filename == str(path)
    finally:
        path.parent.chmod(0o700)
    assert_old(path)


@posix_only
def test_write_follows_links_and_umask(tmp_path):
    target = tmp_path / "folder" / "target"
    target.parent.mkdir()
    link = tmp_path / "link"
    link.symlink_to(target)
    mask = os.umask(0o027)
    try:
        write(link, "sample", HEADER, ARRAYS)
        write(link, "sample", NEW_HEADER, NEW_ARRAYS)
    finally:
        os.umask(mask)
    assert link.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert_new(link)
    assert os.listdir(target.parent) == ["target"]


@posix_only
def test_longest_name(tmp_path):
    path = tmp_path / ("x" * os.pathconf(tmp_path, "PC_NAME_MAX"))
    write(path, "sample", HEADER, ARRAYS)
    assert_old(path)


@posix_only
@pytest.mark.parametrize("what", ["folder", "pipe", "loop"])
def test_what_is_no_regular_file(tmp_path, what):
    path = tmp_path / what
    {"folder": os.mkdir, "pipe": os.mkfifo, "loop": lambda p: os.symlink(p, p)}[what](path)
    mode = path.lstat().st_mode
    with pytest.raises(ValueError, match="path: expected a regular file or a new one, got"):
        write(path, "sample", HEADER, ARRAYS)
    assert path.lstat().st_mode == mode
    assert os.listdir(tmp_path) == [what]
    with pytest.raises(OSError if what == "loop" else FileFormatError):
        read(path, "sample")


@posix_only
def test_two_writers_at_once(path):
    done = []

    def write_often(header, arrays):
        for _ in range(50):
            write(path, "sample", header, arrays)
        done.append(header)

    writers = [
        threading.Thread(target=write_often, args=args)
        for args in ((HEADER, ARRAYS), (NEW_HEADER, NEW_ARRAYS))
    ]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        header, _ = read(path, "sample")
        assert header in (HEADER, NEW_HEADER)
    assert len(done) == 2
    assert os.listdir(path.parent) == [path.name]


# Forks a writer for every line it is sent, so that NumPy is imported only once.
WRITERS = """
import os, sys
import numpy as np
from lanewise.io import write

path = sys.argv[1]
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        version = int(line)
        while True:
            write(path, "sample", {"version": version}, {"a": np.full(1 << 17, version)})
            if version == int(line):
                print(os.getpid(), flush=True)
            version += 1
    os.waitpid(pid, 0)
    print("dead", flush=True)
"""


@posix_only
def test_killed_writers(tmp_path):
    path = tmp_path / "x"
    moments = random.Random(1)
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", WRITERS, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as writers:
        last = 0
        for _ in range(12):
            writers.stdin.write(f"{last + 1}\n")
            writers.stdin.flush()
            pid = int(writers.stdout.readline())
            time.sleep(moments.uniform(0, 0.03))
            os.kill(pid, signal.SIGKILL)
            assert writers.stdout.readline() == "dead\n"
            header, arrays = read(path, "sample")
            assert header["version"] > last
            last = header["version"]
            np.testing.assert_array_equal(arrays["a"], np.full(1 << 17, last))
        writers.stdin.close()
    assert all(name == "x" or name.startswith(".lanewise-") for name in os.listdir(tmp_path))


# --- damage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mmap", [(), tuple(ARRAYS)])
def test_every_damaged_byte_is_found(path, mmap):
    content = path.read_bytes()
    n_table = struct.unpack_from("<I", content, 12)[0]
    matters = np.zeros(len(content), bool)
    matters[: 28 + n_table] = True
    for record in json.loads(content[28 : 28 + n_table])["arrays"]:
        begin = 4096 + record["offset"]
        matters[begin : begin + record["nbytes"]] = True
    assert 28 + n_table + 24 + 1 == np.count_nonzero(matters)

    with path.open("r+b", buffering=0) as stream:
        for at in range(len(content)):
            for change in [1, 2, 4, 8, 16, 32, 64, 128, 255] if matters[at] else [255]:
                stream.seek(at)
                stream.write(bytes([content[at] ^ change]))
                if matters[at]:
                    with pytest.raises(FileFormatError) as caught:
                        read(path, "sample", mmap=mmap)
                    assert str(caught.value).startswith(f"{path}: ")
                else:
                    assert_holds(path, HEADER, ARRAYS, mmap=mmap)
            stream.seek(at)
            stream.write(content[at : at + 1])
    assert_holds(path, HEADER, ARRAYS, mmap=mmap)


def test_every_truncation_is_found(path):
    content = path.read_bytes()
    for length in reversed(range(len(content))):
        os.truncate(path, length)
        with pytest.raises(FileFormatError, match=rf"truncated: expected .*got {length}$"):
            read(path, "sample")


@pytest.mark.parametrize("garbage", [b"\0", b"x" * 5000])
def test_trailing_garbage_is_found(path, garbage):
    size = path.stat().st_size
    with path.open("ab") as stream:
        stream.write(garbage)
    expected = f"trailing bytes: expected a file of {size} bytes, got {size + len(garbage)}"
    with pytest.raises(FileFormatError, match=expected):
        read(path, "sample")


def test_file_that_shrinks_while_it_is_read(path, monkeypatch):
    def shrink(*args):
        os.truncate(path, 4100)
        return check_table(*args)

    check_table = io._check_table
    monkeypatch.setattr(io, "_check_table", shrink)
    with pytest.raises(FileFormatError, match="array 'rows': truncated while it was read"):
        read(path, "sample")


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "x", "sample")


def test_saved_files_are_recognised(tmp_path, path):
    assert io.is_saved(path)
    for content in (b"", b"\x89LAN", bytes(100)):
        (tmp_path / "other").write_bytes(content)
        assert not io.is_saved(tmp_path / "other")
    with pytest.raises(FileFormatError, match="expected a regular file"):
        io.is_saved(tmp_path)
    with pytest.raises(FileNotFoundError):
        io.is_saved(tmp_path / "nothing")


def test_foreign_files(tmp_path):
    path = tmp_path / "x"
    for content in (b"x", b"\x89PNG\r\n\x1a\n", b"\x89LANE\n\x1a" + bytes(4096)):
        path.write_bytes(content)
        with pytest.raises(FileFormatError, match=r"expected a lanewise file, .* got one that"):
            read(path, "sample")


def test_other_kind(path):
    with pytest.raises(FileFormatError, match=r"sample\.lw: kind: expected 'flat', got 'sample'"):
        read(path, "flat")


# --- lies ---------------------------------------------------------------------------------------

DATA = np.array([1, 2], "<f4").tobytes()


def a_record(**changes):
    record = {
        "name": "a",
        "dtype": "<f4",
        "shape": [2],
        "offset": 0,
        "nbytes": 8,
        "crc32": f"{zlib.crc32(DATA):08x}",
    }
    return record | changes


def a_table(*records, **changes):
    return {"kind": "sample", "header": {}, "arrays": list(records)} | changes


def without(mapping, key):
    return {k: v for k, v in mapping.items() if k != key}


def forge(path, table, data=DATA, version=1, n_table=None):
    """Write a file whose checksums are right, whatever it says."""
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    begin = -(-(28 + len(text)) // 4096) * 4096
    n_table = len(text) if n_table is None else n_table
    prefix = struct.pack("<8sIIQ", b"\x89LANE\r\n\x1a", version, n_table, begin + len(data))
    checksum = struct.pack("<I", zlib.crc32(prefix + text))
    path.write_bytes((prefix + checksum + text).ljust(begin, b"\0") + data)


def test_forged_file_is_a_good_one(tmp_path):
    """Otherwise the lies below might be refused for another reason."""
    arrays = {"a": np.frombuffer(DATA, "<f4"), "b": np.empty(0, np.float32)}
    second = a_record(name="b", shape=[0], nbytes=0, offset=64, crc32="00000000")
    forge(tmp_path / "x", a_table(a_record(), second), DATA.ljust(64, b"\0"))
    assert_holds(tmp_path / "x", {}, arrays)


NESTED = 300_000
LIES = {
    "version 0": ({"version": 0}, a_table(a_record()), "version 1, got version 0$"),
    "version 2": ({"version": 2}, a_table(a_record()), "got version 2; a newer lanewise wrote it"),
    "gigabytes of table": ({"n_table": 2**32 - 1}, a_table(), "a table of at most .*4294967295"),
    "longer table": ({"n_table": 5000}, a_table(), "within the file of 4104, got 5000"),
    "large table": ({}, json.dumps(a_table(header=[0] * 2**19)).encode(), "table of at most"),
    # The table.
    "empty": ({}, b"", "JSON"),
    "not UTF-8": ({}, b'{"kind": "\xff"}', "JSON .*utf-8"),
    "byte order mark": ({}, b"\xef\xbb\xbf{}", "JSON"),
    "not JSON": ({}, b"{'kind': 1}", "JSON"),
    "two values": ({}, b"{}{}", "JSON"),
    "NaN": ({}, a_table(header={"x": float("nan")}), "JSON .*'NaN' is not finite"),
    "Infinity": ({}, a_table(header={"x": float("inf")}), "'Infinity' is not finite"),
    "too large": ({}, b'{"x": -1e999}', "'-1e999' is not finite"),
    "many digits": ({}, b"[" + b"9" * 900_000 + b"]", "JSON"),
    "nested": ({}, b"[" * NESTED + b"]" * NESTED, "JSON|table: expected an object"),
    "nested objects": (
        {},
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        "JSON|table: expected an object",
    ),
    "repeated key": ({}, b'{"kind": "sample", "kind": "sample"}', "a key is repeated"),
    "list": ({}, [], "table: expected an object with the keys arrays, header, kind"),
    "missing key": ({}, without(a_table(), "header"), "table: expected an object"),
    "further key": ({}, a_table(more=1), "table: expected an object"),
    "kind": ({}, a_table(kind=["sample"]), "kind: expected 'sample', got"),
    "header": ({}, a_table(header=[]), "header: expected an object"),
    "arrays": ({}, a_table(arrays={"a": a_record()}), "arrays: expected a list"),
    # An array.
    "record": ({}, a_table(3), "array 0: expected an object"),
    "missing record key": ({}, a_table(without(a_record(), "crc32")), "array 0: expected an obj"),
    "further record key": ({}, a_table(a_record(order="F")), "array 0: expected an object"),
    "name": ({}, a_table(a_record(name=1)), "array 0: name: expected a str"),
    "repeated name": (
        {"data": DATA.ljust(72, b"\0")},
        a_table(a_record(), a_record(offset=64)),
        "array 1: name: expected a str that no other has",
    ),
    "wrong checksum": ({}, a_table(a_record(crc32="00000000")), "CRC-32 00000000, got"),
    "checksum": ({}, a_table(a_record(crc32=zlib.crc32(DATA))), "crc32: expected eight digits"),
    "short checksum": ({}, a_table(a_record(crc32="0")), "crc32: expected eight digits"),
    # Places.
    "beyond the file": ({"data": b""}, a_table(a_record()), "expected 0, got 8"),
    "before the end": ({"data": bytes(9)}, a_table(a_record()), "expected 9, got 8"),
    "no arrays": ({}, a_table(), "end of the last array: expected 8, got 0"),
    "overlap": ({}, a_table(a_record(), a_record(name="b")), "offset: expected 64, got 0"),
    "page": (
        {"data": bytes(64 + 4096)},
        a_table(
            a_record(name="b"),
            a_record(dtype="|u1", shape=[4096], nbytes=4096, offset=64),
        ),
        "offset: expected 4096, got 64",
    ),
}
LIES |= {
    f"dtype {dtype!r}": ({}, a_table(a_record(dtype=dtype)), "dtype: expected one of")
    for dtype in ("|O", "O", ">f4", "f4", "float32", "|V4", "<c8", "<f16", "|b1", "", None, ["<f4"])
}
LIES |= {
    f"shape {shape!r:.40}": ({}, a_table(a_record(shape=shape)), "shape: expected at most 32 sizes")
    for shape in (2, None, "2", [2.0], [True, 2], [-2], [-1, -2], [None], [2**63], [10**4000])
}
LIES |= {f"{n} axes": ({}, a_table(a_record(shape=[1] * n)), "at most 32") for n in (33, 300_000)}
LIES |= {
    f"shape {shape}": ({}, a_table(a_record(shape=shape, nbytes=nbytes)), "can be addressed")
    for shape, nbytes in (
        ([2**62, 2], 8),
        ([2**32, 2**32], 0),
        ([2**63 - 1] * 32, 8),
        ([0, 2**62, 2**62], 0),
    )
}
LIES |= {
    f"nbytes {nbytes}": ({}, a_table(a_record(nbytes=nbytes)), "nbytes: expected 8, got")
    for nbytes in (0, 7, 9, -8, 8.0, "8", None, 2**64 + 8)
}
LIES |= {
    f"offset {offset}": ({}, a_table(a_record(offset=offset)), "offset: expected 0, got")
    for offset in (-64, 1, 64, 2**63, 2**64, 0.0, False, None)
}
LIES["huge array"] = (
    {},
    a_table(a_record(shape=[2**40], nbytes=2**42)),
    "end of the last array: expected 8, got 4398046511104",
)
LIES["huge second array"] = (
    {},
    a_table(a_record(), a_record(name="b", shape=[2**40], nbytes=2**42, offset=4096)),
    "end of the last array: expected 8",
)


@pytest.mark.parametrize(("options", "table", "message"), LIES.values(), ids=LIES)
@pytest.mark.parametrize("mmap", [(), ("a",)], ids=["read", "mmap"])
def test_lies_are_not_believed(tmp_path, options, table, message, mmap):
    path = tmp_path / "x"
    forge(path, table, **options)
    tracemalloc.start()
    try:
        with pytest.raises(FileFormatError, match=message) as caught:
            read(path, "sample", mmap=mmap)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 1000
    assert peak < 32 << 20


@pytest.mark.parametrize("mmap", [(), ("a",)], ids=["read", "mmap"])
def test_random_tables_are_refused_or_true(tmp_path, mmap):
    rng = random.Random(2)
    values = [0, 1, 2, 8, 64, -1, 2**62, 2**64, 1.5, "", "a", "<f4", "|u1", "<f8", None, True]
    values += [[], [0], [2], [8], [1, 2], [2**62, 0], {}, "0" * 8]
    keys = list(without(a_record(), "name"))
    accepted = 0
    for _ in range(1000):
        record = a_record(
            **{key: rng.choice(values) for key in rng.sample(keys, rng.randint(1, 3))}
        )
        forge(tmp_path / "x", a_table(record))
        try:
            _, arrays = read(tmp_path / "x", "sample", mmap=mmap, verify=False)
        except FileFormatError:
            continue
        accepted += 1
        assert arrays["a"].tobytes() == DATA
        assert arrays["a"].dtype.str == record["dtype"]
        assert list(arrays["a"].shape) == record["shape"]
    assert accepted
