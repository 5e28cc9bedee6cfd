r"""One file for a header and named arrays: versioned, checksummed, replaced as a whole.

Everything saved by this package is such a file. In format version 1, which is frozen, it holds,
little-endian throughout:

======  =====  ==================================================================================
offset  bytes  what
======  =====  ==================================================================================
0       8      magic: ``89 4C 41 4E 45 0D 0A 1A``, that is ``\x89LANE\r\n\x1a``
8       4      format version, unsigned: 1
12      4      bytes of the table, unsigned: at most 2**20
16      8      bytes of the file, unsigned
24      4      CRC-32 of bytes 0 to 23 and the table, unsigned
28             table: JSON in UTF-8
======  =====  ==================================================================================

The arrays follow from the next multiple of 4096 on. The table is
``{"kind": str, "header": object, "arrays": [array, ...]}``, where an array is
``{"name": str, "dtype": str, "shape": [int, ...], "offset": int, "nbytes": int, "crc32": str}``:
its NumPy dtype string, its shape, where its elements begin counted from where the first array may
begin, how many bytes they take in C order, and their CRC-32 in eight lower-case hexadecimal digits.
Each array begins at the first multiple of 64 behind its predecessor, and of 4096 if it takes at
least 4096 bytes, so that a memory map of it begins with a page. The file ends where the last array
ends. Between these parts lie zeros, which nobody looks at.

CRC-32 because it is the fastest checksum of the standard library. It finds damage, not deceit: a
file made by an adversary may hold any values, and is only kept from doing harm while it is read.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import reprlib
import secrets
import stat
import struct
import sys
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lanewise.arrays import as_ndarray

__all__ = ["FileFormatError", "expecting", "is_saved", "read", "write", "write_atomically"]

PathLike: TypeAlias = str | os.PathLike[str]
_Array: TypeAlias = npt.NDArray[Any]

# The line ends are there to be spoilt by transfers that take the file for text.
_MAGIC = b"\x89LANE\r\n\x1a"
_VERSION = 1
_PREFIX = struct.Struct("<8sIIQ")
_CHECKSUM = struct.Struct("<I")
_TABLE_BEGIN = _PREFIX.size + _CHECKSUM.size

# Parsed JSON takes up to a hundred times the memory of its text. What is large belongs in arrays.
_MAX_TABLE = 1 << 20

_TABLE_KEYS = {"kind", "header", "arrays"}
_RECORD_KEYS = {"name", "dtype", "shape", "offset", "nbytes", "crc32"}

# No bool: bytes other than 0 and 1 would be undefined behaviour.
_DTYPES = ("|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8")
# What every NumPy can do; NumPy 2 can do more.
_MAX_NDIM = 32

_ALIGN = 64
_PAGE = 4096

# Bytes handled in one step: few enough that the checksum finds in cache what was just read.
_STEP = 1 << 20

# Windows cannot open folders, and some network file systems cannot sync them.
_CANNOT_SYNC_FOLDERS = (errno.EACCES, errno.EINVAL)


class FileFormatError(ValueError):
    """A file is not what it should be: damaged, truncated, of another kind, or something else.

    Examples
    --------
    >>> read("notes.txt", "flat")  # doctest: +SKIP
    Traceback (most recent call last):
    lanewise.io.FileFormatError: notes.txt: expected a lanewise file, got one that begins ...
    """


@contextlib.contextmanager
def expecting(path: PathLike, what: str) -> Iterator[None]:
    """Turn what a file's content makes fail into a `FileFormatError` that names the file.

    Parameters
    ----------
    path : path-like
    what : str
        What should have been saved there.

    Raises
    ------
    FileFormatError
        Instead of a KeyError, TypeError or ValueError.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"{path}: expected a saved {what}, got {error}") from error


def write(
    path: PathLike, kind: str, header: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]
) -> None:
    """Write a header and named arrays to a file, all of it or nothing.

    The data go to a temporary file in the same folder, which takes the place of `path` when it is
    complete and on disk. After a crash there is the old file or the new one, and if several write
    at once, the file of the last one. A symbolic link stays, and what it points to is replaced.

    Parameters
    ----------
    path : str or path-like
        Where to.
    kind : str
        What the file is; `read` asks for it.
    header : mapping of str to JSON values
        Whatever else there is to say: dicts with str keys, lists, str, int, finite float, bool and
        None. Together with the names of the arrays it takes at most 1 MiB.
    arrays : mapping of str to ndarray
        The arrays, signed or unsigned integers or floats of up to 64 bits, with at most 32 axes, in
        any memory layout and byte order. They must not change meanwhile.

    Raises
    ------
    TypeError
        If `kind` or a name is no str, or an array has another dtype or masked entries.
    ValueError
        If `header` would not come back equal or is too large, an array has too many axes, or
        `path` is there and no regular file.
    OSError
        If the file cannot be written. What was at `path` is still there, unless the new file was
        in its place already and the folder could then not be synced.

    Notes
    -----
    A process that is killed leaves its temporary file behind, ``.lanewise-*.tmp``. Windows does
    not replace files that are memory-mapped.

    Examples
    --------
    >>> write("ids.lw", "ids", {"n": 3}, {"ids": np.arange(3)})  # doctest: +SKIP
    >>> read("ids.lw", "ids")  # doctest: +SKIP
    ({'n': 3}, {'ids': array([0, 1, 2])})
    """
    if not isinstance(kind, str):
        raise TypeError(f"kind: expected a str, got {type(kind).__name__}")
    kept_header = _as_json(header)
    values: list[_Array] = []
    records: list[dict[str, Any]] = []
    data_end = 0
    for name, value in arrays.items():
        if not isinstance(name, str):
            raise TypeError(f"arrays: expected names that are str, got {name!r}")
        array = _as_storable(value, f"arrays[{name!r}]")
        offset = _place(data_end, array.nbytes)
        data_end = offset + array.nbytes
        values.append(array)
        records.append(
            {
                "name": name,
                "dtype": _little_endian(array.dtype).str,
                "shape": array.shape,
                "offset": offset,
                "nbytes": array.nbytes,
                "crc32": _hex(0),  # as long as the one that takes its place
            }
        )

    def table() -> bytes:
        content = {"kind": kind, "header": kept_header, "arrays": records}
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()

    n_table = len(table())
    if n_table > _MAX_TABLE:
        raise ValueError(
            f"header: expected at most {_MAX_TABLE} bytes of JSON together with the names and "
            f"shapes of the arrays, got {n_table}"
        )
    data_begin = _data_begin(n_table)

    def write_to(stream: IO[bytes]) -> None:
        stream.write(bytes(data_begin))
        for array, record in zip(values, records, strict=True):
            stream.write(bytes(data_begin + record["offset"] - stream.tell()))
            record["crc32"] = _hex(_write_array(stream, array))
        # The checksums are known only now.
        text = table()
        prefix = _PREFIX.pack(_MAGIC, _VERSION, n_table, data_begin + data_end)
        stream.seek(0)
        stream.write(prefix + _CHECKSUM.pack(zlib.crc32(prefix + text)) + text)

    write_atomically(Path(path), write_to)


def read(
    path: PathLike, kind: str, *, mmap: Collection[str] | None = (), verify: bool = True
) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Read a file that `write` made.

    Nothing in the file is believed: every statement of its table is checked against the others and
    against the size of the file before memory is allocated.

    Parameters
    ----------
    path : str or path-like
        The file.
    kind : str
        What the file must be.
    mmap : collection of str or None, default ()
        Names of arrays to return as memory maps, which read the file when they are used; None for
        all of them.
    verify : bool, default True
        Whether to compare the checksums of the arrays in `mmap` too, which reads all of them.
        The table and all other arrays are always verified.

    Returns
    -------
    header : dict
        As it was written.
    arrays : dict of str to ndarray
        The arrays in the order in which they were written, C-contiguous and little-endian, which
        is the native byte order of nearly every machine. Those in `mmap` are read-only, and
        `numpy.memmap` objects unless they have no elements; all others are writable and own their
        memory.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FileFormatError
        If the file is damaged, truncated, of another kind or of a newer format, or was not made
        by `write` at all.
    ValueError
        If `mmap` names an array that the file does not have.

    Notes
    -----
    A memory map keeps the file that it was made from, even if `write` replaces it. But another
    program that truncates that file makes every process crash that uses the map.

    Examples
    --------
    >>> header, arrays = read("flat.lw", "flat", mmap=["rows"], verify=False)  # doctest: +SKIP
    >>> type(arrays["rows"])  # doctest: +SKIP
    <class 'numpy.memmap'>
    """
    path = _regular(path)
    with open(path, "rb") as stream:
        table, data_begin, data_end = _read_table(stream, str(path))
        header, records = _check_table(table, kind, data_end, str(path))
        names_there = {record["name"] for record in records}
        mmap = names_there if mmap is None else mmap
        unknown = set(mmap) - names_there
        if unknown:
            names = ", ".join(repr(record["name"]) for record in records) or "none"
            raise ValueError(
                f"mmap: expected names of arrays in {path}, which are {names}, "
                f"got {', '.join(sorted(map(repr, unknown)))}"
            )
        arrays = {}
        for record in records:
            name = record["name"]
            where = f"{path}: array {reprlib.repr(name)}"
            begin = data_begin + record["offset"]
            dtype = np.dtype(record["dtype"])
            shape = tuple(record["shape"])
            if name not in mmap:
                arrays[name] = np.empty(shape, dtype)
                stream.seek(begin)
                checksum = _read_into(stream, arrays[name], where)
            else:
                arrays[name] = _map(stream, begin, dtype, shape)
                if not verify:
                    continue
                checksum = _crc32(arrays[name])
            if _hex(checksum) != record["crc32"]:
                raise FileFormatError(
                    f"{where}: damaged: expected CRC-32 {record['crc32']}, got {_hex(checksum)}"
                )
        return header, arrays


def is_saved(path: PathLike) -> bool:
    """Return whether a file begins as those do that `write` makes.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FileFormatError
        If it is no regular file.

    Examples
    --------
    >>> is_saved(__file__)
    False
    """
    path = _regular(path)
    with open(path, "rb") as stream:
        return stream.read(len(_MAGIC)) == _MAGIC


def _regular(path: PathLike) -> Path:
    path = Path(path)
    # A pipe would be waited for without end.
    if path.exists() and not path.is_file():
        raise FileFormatError(f"{path}: expected a regular file")
    return path


def _hex(checksum: int) -> str:
    return f"{checksum:08x}"


def _round_up(offset: int, multiple: int) -> int:
    return -(-offset // multiple) * multiple


def _data_begin(n_table: int) -> int:
    return _round_up(_TABLE_BEGIN + n_table, _PAGE)


def _place(end: int, n_bytes: int) -> int:
    """Return where the array begins that follows one that ends at `end`."""
    return _round_up(end, _PAGE if n_bytes >= _PAGE else _ALIGN)


def _little_endian(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype.newbyteorder("<")


# --- writing ------------------------------------------------------------------------------------


def _as_json(header: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the header as it will be read."""
    header = dict(header)
    try:
        kept: dict[str, Any] = _parse(json.dumps(header, allow_nan=False))
        # JSON turns tuples into lists and every key into a str.
        same = kept == header
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"header: expected values that JSON has, got others ({error})") from error
    if not same:
        raise ValueError(f"header: expected values that JSON keeps, got {reprlib.repr(header)}")
    return kept


def _as_storable(value: Any, name: str) -> _Array:
    array = as_ndarray(value, name)
    if _little_endian(array.dtype).str not in _DTYPES:
        raise TypeError(
            f"{name}: expected integers or floats of up to 64 bits, got dtype {array.dtype}"
        )
    if array.ndim > _MAX_NDIM:
        raise ValueError(f"{name}: expected at most {_MAX_NDIM} axes, got {array.ndim}")
    return array


def _write_array(stream: IO[bytes], array: _Array) -> int:
    """Write the elements in C order and little-endian; return their checksum."""
    dtype = _little_endian(array.dtype)
    # A slice of `flat` is a copy, so whatever the layout, no more than one piece is copied.
    flat: Any = array.reshape(-1) if array.flags.c_contiguous else array.flat
    checksum = 0
    for piece in _pieces(array):
        data = np.ascontiguousarray(flat[piece], dtype).view(np.uint8).data
        checksum = zlib.crc32(data, checksum)
        stream.write(data)
    return checksum


def _pieces(array: _Array) -> Iterator[slice]:
    step = _STEP // array.itemsize
    for start in range(0, array.size, step):
        yield slice(start, start + step)


def write_atomically(path: Path, write_to: Callable[[IO[bytes]], None]) -> None:
    """Write a file that is there as a whole or not at all; another of its name stays until then."""
    # A symbolic link keeps pointing to the file instead of being replaced by it.
    target = Path(os.path.realpath(path))
    # Replacing a device would take it from everyone.
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.lstat(target).st_mode):
            raise ValueError(f"path: expected a regular file or a new one, got {path}")
    # Not tempfile, whose files nobody but their owner may read. Not made of the target's name,
    # which may be as long as names can be.
    temporary = target.with_name(f".lanewise-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as stream:
            write_to(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
        _sync_folder(target.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.errno is not None:
            # The error itself names the temporary file, or none if the disk is full.
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _sync_folder(folder: Path) -> None:
    """Make sure that the new name of a file is on disk."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC_FOLDERS:
            raise


# --- reading ------------------------------------------------------------------------------------


def _read_table(stream: BufferedReader, where: str) -> tuple[Any, int, int]:
    """Return the parsed table, where the data begin, and how many bytes they are."""
    size = os.fstat(stream.fileno()).st_size
    begin = stream.read(_TABLE_BEGIN)
    if begin[: len(_MAGIC)] != _MAGIC[: len(begin)]:
        raise FileFormatError(
            f"{where}: expected a lanewise file, which begins with {_MAGIC!r}, "
            f"got one that begins with {begin[: len(_MAGIC)]!r}"
        )
    if len(begin) < _TABLE_BEGIN:
        raise FileFormatError(
            f"{where}: truncated: expected at least {_TABLE_BEGIN} bytes, got {len(begin)}"
        )
    _, version, n_table, expected_size = _PREFIX.unpack_from(begin)
    (expected,) = _CHECKSUM.unpack_from(begin, _PREFIX.size)
    if version != _VERSION:
        hint = "; a newer lanewise wrote it" if version > _VERSION else ""
        raise FileFormatError(
            f"{where}: expected format version {_VERSION}, got version {version}{hint}"
        )
    if size != expected_size:
        problem = "truncated" if size < expected_size else "trailing bytes"
        raise FileFormatError(
            f"{where}: {problem}: expected a file of {expected_size} bytes, got {size}"
        )
    data_begin = _data_begin(n_table)
    if n_table > _MAX_TABLE or data_begin > size:
        raise FileFormatError(
            f"{where}: expected a table of at most {_MAX_TABLE} bytes within the file of {size}, "
            f"got {n_table}"
        )
    text = stream.read(n_table)
    checksum = zlib.crc32(begin[: _PREFIX.size] + text)
    if checksum != expected:
        raise FileFormatError(
            f"{where}: damaged table: expected CRC-32 {_hex(expected)}, got {_hex(checksum)}"
        )
    try:
        return _parse(text.decode()), data_begin, size - data_begin
    # Python's limits on nesting and on the digits of integers are hit here as well.
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{where}: expected a table in JSON ({error})") from error


def _parse(text: str) -> Any:
    """Parse JSON as the standard has it: Python alone takes NaN, infinity and repeated keys."""
    return json.loads(
        text,
        parse_constant=_parse_float,
        parse_float=_parse_float,
        object_pairs_hook=_unique_keys,
    )


def _parse_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {reprlib.repr(text)} is not finite")
    return number


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise ValueError(f"a key is repeated in {reprlib.repr([key for key, _ in pairs])}")
    return unique


def _check_table(
    table: Any, kind: str, data_end: int, where: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the header and the records of the arrays, which fit each other and the file."""
    _check_keys(table, _TABLE_KEYS, f"{where}: table")
    _check(table["kind"] == kind, f"{where}: kind", repr(kind), table["kind"])
    header, records = table["header"], table["arrays"]
    _check(type(header) is dict, f"{where}: header", "an object", header)
    _check(type(records) is list, f"{where}: arrays", "a list", records)
    names = set()
    end = 0
    for i, record in enumerate(records):
        _check_keys(record, _RECORD_KEYS, f"{where}: array {i}")
        name = record["name"]
        _check(
            type(name) is str and name not in names,
            f"{where}: array {i}: name",
            "a str that no other has",
            name,
        )
        names.add(name)
        end = _check_record(record, end, f"{where}: array {reprlib.repr(name)}")
    _check(end == data_end, f"{where}: end of the last array", str(data_end), end)
    return header, records


def _check_record(record: dict[str, Any], end: int, where: str) -> int:
    """Check an array whose predecessor ends at `end`; return where it ends itself."""
    dtype, shape, checksum = record["dtype"], record["shape"], record["crc32"]
    _check(dtype in _DTYPES, f"{where}: dtype", f"one of {', '.join(_DTYPES)}", dtype)
    _check(
        type(shape) is list
        and len(shape) <= _MAX_NDIM
        and all(type(n) is int and 0 <= n <= sys.maxsize for n in shape),
        f"{where}: shape",
        f"at most {_MAX_NDIM} sizes that are not negative",
        shape,
    )
    itemsize = np.dtype(dtype).itemsize
    # NumPy refuses sizes whose product overflows even if another one is zero.
    _check(
        math.prod(n for n in shape if n) * itemsize <= sys.maxsize,
        f"{where}: shape",
        "an array that can be addressed",
        shape,
    )
    n_bytes: int = math.prod(shape) * itemsize
    offset = _place(end, n_bytes)
    for key, expected in (("nbytes", n_bytes), ("offset", offset)):
        found = record[key]
        _check(type(found) is int and found == expected, f"{where}: {key}", str(expected), found)
    _check(
        type(checksum) is str and len(checksum) == len(_hex(0)),
        f"{where}: crc32",
        "eight digits",
        checksum,
    )
    return offset + n_bytes


def _check_keys(value: Any, keys: set[str], where: str) -> None:
    expected = f"an object with the keys {', '.join(sorted(keys))}"
    _check(type(value) is dict and set(value) == keys, where, expected, value)


def _check(right: bool, where: str, expected: str, found: Any) -> None:
    if not right:
        raise FileFormatError(f"{where}: expected {expected}, got {reprlib.repr(found)}")


def _read_into(stream: BufferedReader, array: _Array, where: str) -> int:
    """Fill the array from the stream; return the checksum of what came."""
    flat = array.reshape(-1)
    checksum = 0
    for piece in _pieces(array):
        data = flat[piece].view(np.uint8).data
        if stream.readinto(data) != len(data):
            raise FileFormatError(f"{where}: truncated while it was read")
        checksum = zlib.crc32(data, checksum)
    return checksum


def _map(
    stream: BufferedReader, begin: int, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> npt.NDArray[Any]:
    if math.prod(shape) > 0:
        return np.memmap(stream, dtype, "r", begin, shape)
    # Nothing cannot be mapped.
    array = np.empty(shape, dtype)
    array.flags.writeable = False
    return array


def _crc32(array: _Array) -> int:
    flat = array.reshape(-1)
    checksum = 0
    for piece in _pieces(array):
        checksum = zlib.crc32(flat[piece].view(np.uint8).data, checksum)
    return checksum
