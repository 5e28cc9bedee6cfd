"""Vectors in files: reading and writing them, the set shipped here, and sets from the net.

No header is believed. Sizes, dimensions and dtypes are checked against the size of the file before
memory is allocated, so a truncated, damaged or hostile file ends in a ValueError that names it.
The exception is HDF5, where the same checks come only after libhdf5 has parsed the file, and a
file made for it can hang that parser: open only those that you trust.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.resources
import importlib.util
import io
import logging
import math
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lanewise.arrays import VECTOR_TYPES, as_ndarray, as_vector_ids, check_choice, check_metric
from lanewise.io import write_atomically

PathLike: TypeAlias = str | os.PathLike[str]
_Array: TypeAlias = npt.NDArray[Any]

_logger = logging.getLogger(__name__)

# TEXMEX: every record is an int32 dimension and that many values.
_VECS: dict[str, np.dtype[Any]] = {
    ".fvecs": np.dtype("<f4"),
    ".ivecs": np.dtype("<i4"),
    ".bvecs": np.dtype("u1"),
}
# Big-ANN: a uint32 count, a uint32 dimension, then the rows.
_BIN: dict[str, np.dtype[Any]] = {
    ".fbin": np.dtype("<f4"),
    ".u8bin": np.dtype("u1"),
    ".i8bin": np.dtype("i1"),
    ".ibin": np.dtype("<i4"),
}
_ONE_ARRAY = (".npy", *_VECS, *_BIN)
_SEVERAL_ARRAYS = (".npz", ".hdf5")

# Bytes handled in one step of reading, writing and checking.
_STEP = 1 << 24

# Deflate cannot shrink data more than this, so a smaller stored size proves that a header lies.
_MAX_DEFLATE_RATIO = 1032

# What NumPy accepts; longer ones are refused before they are read.
_MAX_NPY_HEADER = 10_000

# Arrays and distances as ann-benchmarks calls them; "ip" is what big-ann-benchmarks says.
_HDF5_ROLES = {
    "train": "base",
    "test": "queries",
    "neighbors": "neighbors",
    "distances": "distances",
}
_HDF5_METRICS = {"euclidean": "l2", "angular": "cosine", "dot": "ip", "ip": "ip"}

_ANN_BENCHMARKS = (
    "deep-image-96-angular",
    "fashion-mnist-784-euclidean",
    "gist-960-euclidean",
    "glove-25-angular",
    "glove-50-angular",
    "glove-100-angular",
    "glove-200-angular",
    "lastfm-64-dot",
    "mnist-784-euclidean",
    "nytimes-256-angular",
    "sift-128-euclidean",
)


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Vectors to search, and, where known, queries with their exact answers.

    Parameters
    ----------
    name : str
        Short name.
    base : ndarray, shape (n, d)
        The vectors to search: float32, float16, float64, uint8 or int8.
    queries : ndarray, shape (n_queries, d), optional
        The queries, in one of the same dtypes.
    neighbors : ndarray of integers, shape (n_queries, k), optional
        Rows of `base` nearest to each query, nearest first; kept as int64.
    distances : ndarray of floats, shape (n_queries, k), optional
        Distances of these neighbours.
    metric : {"l2", "ip", "cosine"}, default "l2"
        What `neighbors` were found by; ``"l2"`` distances are squared.
    source : str, default ""
        Where the data came from.

    Raises
    ------
    TypeError
        If an array has a dtype that does not fit its role, or is no array.
    ValueError
        If shapes do not agree, a neighbour is no row of `base`, neighbours come without queries
        or distances without neighbours, or the metric is unknown.

    Examples
    --------
    >>> Dataset("corner", base=np.eye(3, dtype=np.float32), queries=np.ones((1, 3)))
    Dataset('corner', base=(3, 3) float32, queries=(1, 3) float64, metric='l2')
    """

    name: str
    base: _Array
    queries: _Array | None = None
    neighbors: npt.NDArray[np.int64] | None = None
    distances: _Array | None = None
    metric: str = "l2"
    source: str = ""

    def __post_init__(self) -> None:
        """Check that the parts fit together."""
        check_metric(self.metric)
        _check_vectors(self.base, "base")
        n, d = self.base.shape
        if self.queries is not None:
            _check_vectors(self.queries, "queries")
            if self.queries.shape[1] != d:
                raise ValueError(f"queries: expected dimension {d}, got {self.queries.shape[1]}")
        if self.neighbors is not None:
            if self.queries is None:
                raise ValueError("neighbors: expected queries beside them, got none")
            neighbors = as_vector_ids(self.neighbors, "neighbors", ndim=2, upper=n)
            if len(neighbors) != len(self.queries):
                raise ValueError(
                    f"neighbors: expected {len(self.queries)} rows, one for each query, "
                    f"got {len(neighbors)}"
                )
            object.__setattr__(self, "neighbors", neighbors)
        if self.distances is not None:
            if self.neighbors is None:
                raise ValueError("distances: expected neighbors beside them, got none")
            distances = as_ndarray(self.distances, "distances")
            if distances.dtype.kind != "f":
                raise TypeError(f"distances: expected an array of floats, got {distances.dtype}")
            if distances.shape != self.neighbors.shape:
                raise ValueError(
                    f"distances: expected shape {self.neighbors.shape} as of neighbors, "
                    f"got {distances.shape}"
                )
            object.__setattr__(self, "distances", distances)

    def __repr__(self) -> str:
        """Show shapes and dtypes in place of contents."""
        parts = [repr(self.name)]
        for role in ("base", "queries", "neighbors", "distances"):
            array = getattr(self, role)
            if array is not None:
                parts.append(f"{role}={array.shape} {array.dtype}")
        return f"Dataset({', '.join(parts)}, metric={self.metric!r})"


def read(path: PathLike, *, mmap: bool = False) -> _Array:
    """Read the one array that a file holds.

    Parameters
    ----------
    path : str or path-like
        A file whose extension tells its format: ``.npy``, ``.fvecs``, ``.ivecs``, ``.bvecs``,
        ``.fbin``, ``.u8bin``, ``.i8bin`` or ``.ibin``.
    mmap : bool, default False
        Return a read-only view of the file instead of a copy. The view of a ``.*vecs`` file is
        strided, since every row is preceded by its dimension; all those dimensions are still
        checked, which reads through the file once.

    Returns
    -------
    ndarray, shape (n, d)
        Of the dtype that the format stores: float32 for ``.fvecs`` and ``.fbin``, int32 for
        ``.ivecs`` and ``.ibin``, uint8 for ``.bvecs`` and ``.u8bin``, int8 for ``.i8bin``, and
        any integer or float dtype for ``.npy``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the extension is unknown, or the file is truncated, has trailing bytes, or is otherwise
        not what its extension says.

    Examples
    --------
    >>> base = read("sift_base.fvecs", mmap=True)  # doctest: +SKIP
    >>> base.shape, base.dtype  # doctest: +SKIP
    ((1000000, 128), dtype('float32'))
    """
    path = Path(path)
    suffix = _check_suffix(path, _ONE_ARRAY)
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if size == 0:
            raise ValueError(f"{path}: the file is empty")
        if suffix == ".npy":
            return _read_npy(stream, size, str(path), mmap)
        if suffix in _VECS:
            return _read_vecs(stream, size, path, _VECS[suffix], mmap)
        return _read_bin(stream, size, path, _BIN[suffix], mmap)


def load(path: PathLike, *, metric: str | None = None) -> Dataset:
    """Read a file as a set of vectors, with queries and neighbours where it has them.

    Parameters
    ----------
    path : str or path-like
        An ``.npz`` file with arrays ``base`` and optionally ``queries``, ``neighbors`` and
        ``distances``; an ann-benchmarks ``.hdf5`` file with ``train`` and optionally ``test``,
        ``neighbors`` and ``distances``; or a file of vectors that `read` takes, which becomes the
        base. Other arrays of an ``.npz`` or ``.hdf5`` file are ignored.
    metric : {"l2", "ip", "cosine"}, optional
        What the neighbours were found by. By default what the file says, and ``"l2"`` where it
        says nothing; only ``.hdf5`` files say it, in their attribute ``distance``.

    Returns
    -------
    Dataset
        Arrays keep their dtypes, but neighbours become int64. The Euclidean distances of an
        ``.hdf5`` file are squared, as ``"l2"`` distances are throughout this package; others stay
        as the file has them.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If an ``.hdf5`` file is given and h5py is not installed.
    ValueError
        If the extension is unknown, the file is damaged, its arrays do not fit together or are
        no vectors, or it says another metric than `metric`.

    Notes
    -----
    Values are not looked at here: NaN in a file is found when the vectors are used. An HDF5 file
    is parsed by libhdf5, which a file made for it can hang; open only those that you trust.

    Examples
    --------
    >>> load("sift-128-euclidean.hdf5")  # doctest: +SKIP
    Dataset('sift-128-euclidean', base=(1000000, 128) float32, queries=(10000, 128) float32,
            neighbors=(10000, 100) int64, distances=(10000, 100) float32, metric='l2')
    """
    path = Path(path)
    if metric is not None:
        check_metric(metric)
    suffix = _check_suffix(path, (*_SEVERAL_ARRAYS, *_ONE_ARRAY))
    if suffix == ".npz":
        arrays = _read_npz(path)
    elif suffix == ".hdf5":
        arrays, stated = _read_hdf5(path)
        if metric is not None and stated is not None and metric != stated:
            raise ValueError(f"metric: expected {stated!r} as {path} says, got {metric!r}")
        metric = metric or stated
    else:
        arrays = {"base": read(path)}
    with _blaming(path):
        return Dataset(name=path.stem, **arrays, metric=metric or "l2", source=str(path))


def write(path: PathLike, array: npt.ArrayLike) -> None:
    """Write an array to a file, all of it or nothing.

    The data go to a temporary file in the same folder, which takes the place of `path` when it is
    complete and on disk; a crash leaves the old file or the new one.

    Parameters
    ----------
    path : str or path-like
        Where to; the extension tells the format, as in `read`.
    array : array-like, shape (n, d)
        What to write. No value may change on the way: ``.fvecs`` and ``.fbin`` take dtypes that
        float32 holds exactly, the integer formats take integers in range, and ``.npy`` takes
        every integer or float dtype.

    Raises
    ------
    TypeError
        If the format cannot hold the dtype of `array`.
    ValueError
        If the extension is unknown, `array` is not 2-D or has no columns, a value or the shape
        does not fit the format, or a ``.*vecs`` file should hold no rows: nothing in it could
        then say the dimension.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> write("base.fvecs", np.zeros((10, 4), np.float32))  # doctest: +SKIP
    >>> read("base.fvecs").shape  # doctest: +SKIP
    (10, 4)
    """
    path = Path(path)
    suffix = _check_suffix(path, _ONE_ARRAY)
    values = as_ndarray(array, "array")
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(f"array: expected a 2-D array with columns, got shape {values.shape}")
    if suffix == ".npy":
        if values.dtype.kind not in "fiu":
            raise TypeError(f"array: expected integers or floats, got {values.dtype}")
        write_atomically(
            path, lambda stream: np.lib.format.write_array(stream, values, allow_pickle=False)
        )
    elif suffix in _VECS:
        _check_fits(values, suffix, _VECS[suffix], max_rows=None, max_dim=2**31 - 1)
        if len(values) == 0:
            raise ValueError(f"array: expected at least one row for {suffix}, got none")
        write_atomically(path, lambda stream: _write_vecs(stream, values, _VECS[suffix]))
    else:
        _check_fits(values, suffix, _BIN[suffix], max_rows=2**32 - 1, max_dim=2**32 - 1)
        write_atomically(path, lambda stream: _write_bin(stream, values, _BIN[suffix]))


def sift_small() -> Dataset:
    """Return the set shipped with the package: SIFT descriptors of photographs.

    Returns
    -------
    Dataset
        20,000 base vectors and 200 queries, of 128 dimensions and dtype uint8, and the 100
        nearest neighbours of each query by ``"l2"``. Base rows are in random order.

    Examples
    --------
    >>> sift_small()
    Dataset('sift-small', base=(20000, 128) uint8, queries=(200, 128) uint8, \
neighbors=(200, 100) int64, metric='l2')
    """
    resource = importlib.resources.files("lanewise") / "data" / "sift_20k.npz"
    with importlib.resources.as_file(resource) as path:
        return replace(
            load(path, metric="l2"),
            name="sift-small",
            source="SIFT descriptors of photographs, see data/README.md in this package",
        )


def list_names() -> list[str]:
    """Return the names that `fetch` knows.

    Returns
    -------
    list of str
        Names of ann-benchmarks sets: what, dimension, distance.

    Examples
    --------
    >>> "sift-128-euclidean" in list_names()
    True
    """
    return list(_ANN_BENCHMARKS)


def fetch(
    name: str,
    *,
    cache_dir: PathLike | None = None,
    progress: bool = True,
    sha256: str | None = None,
) -> Dataset:
    """Return a set of ann-benchmarks, downloading it if it is not in the cache.

    Parameters
    ----------
    name : str
        One of `list_names`.
    cache_dir : str or path-like, optional
        Folder that keeps downloaded files; by default the user's cache folder.
    progress : bool, default True
        Show a progress bar while downloading, if tqdm is installed.
    sha256 : str, optional
        What the file must hash to. The site publishes no hashes and serves plain http, so a
        download without this is trusted on first use, and its hash is logged for pinning.

    Returns
    -------
    Dataset
        As `load` returns it.

    Raises
    ------
    ValueError
        If `name` is unknown, or the file is damaged or does not hash to `sha256`.
    ImportError
        If h5py is not installed, or pooch where it is needed: to download, and to find the
        user's cache folder.
    ConnectionError
        If the download failed; it says where to put the file by hand.

    Examples
    --------
    >>> fetch("fashion-mnist-784-euclidean").base.shape  # doctest: +SKIP
    (60000, 784)
    """
    check_choice(name, "name", _ANN_BENCHMARKS)
    # Rather now than after half a gigabyte has been downloaded.
    _import("h5py", extra="hdf5")
    if cache_dir is None:
        cache_dir = _import("pooch", extra="fetch").os_cache("lanewise")
    folder = Path(cache_dir)
    path = folder / f"{name}.hdf5"
    url = f"http://ann-benchmarks.com/{name}.hdf5"

    cached = path.exists()
    if not cached:
        pooch = _import("pooch", extra="fetch")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            pooch.retrieve(
                url,
                known_hash=None if sha256 is None else f"sha256:{sha256}",
                fname=path.name,
                path=folder,
                progressbar=progress and importlib.util.find_spec("tqdm") is not None,
            )
        except OSError as error:
            raise ConnectionError(
                f"{name}: could not download {url} ({error}); to go without, put the file at {path}"
            ) from error
    if sha256 is not None or not cached:
        digest = _file_sha256(path)
        if sha256 is None:
            _logger.warning(
                "%s came without a known hash; to pin what was got, pass sha256=%r", url, digest
            )
        elif digest != sha256.lower():
            raise ValueError(
                f"{path}: expected sha256 {sha256}, got {digest}; "
                "remove the file to download it again"
            )
    try:
        dataset = load(path)
    except ValueError as error:
        raise ValueError(f"{error}; remove the file to download it again") from error
    return replace(dataset, source=url)


def _check_suffix(path: Path, known: tuple[str, ...]) -> str:
    suffix = path.suffix.lower()
    if suffix not in known:
        hint = "; load() takes it" if suffix in _SEVERAL_ARRAYS else ""
        raise ValueError(f"{path}: expected one of {', '.join(known)}, got {suffix!r}{hint}")
    return suffix


def _check_vectors(array: Any, name: str) -> None:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name}: expected an ndarray, got {type(array).__name__}")
    if array.dtype.type not in VECTOR_TYPES:
        raise TypeError(
            f"{name}: expected float32, float16, float64, uint8 or int8, got {array.dtype}"
        )
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"{name}: expected a 2-D array with columns, got shape {array.shape}")


def _import(module: str, *, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f'{module} is needed for this: pip install "lanewise[{extra}]"'
        ) from error


def _file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# --- reading ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Turn whatever the content of a file caused into a ValueError that names the file."""
    try:
        yield
    except MemoryError:
        raise
    # Damaged zip and HDF5 files fail in a dozen ways, among them OSError and RuntimeError.
    except Exception as error:
        raise ValueError(f"{path}: {error or type(error).__name__}") from error


def _read_raw(stream: IO[bytes], n_bytes: int, where: str) -> npt.NDArray[np.uint8]:
    """Read exactly so many bytes; the caller has made sure that the stream should hold them."""
    raw = np.empty(n_bytes, np.uint8)
    done = 0
    while done < n_bytes:
        part = stream.read(min(_STEP, n_bytes - done))
        if not part:
            raise ValueError(f"{where}: truncated, {n_bytes - done} more bytes were expected")
        raw[done : done + len(part)] = np.frombuffer(part, np.uint8)
        done += len(part)
    return raw


def _map_raw(stream: IO[bytes], size: int) -> npt.NDArray[np.uint8]:
    return np.memmap(stream, np.uint8, "r", shape=(size,))


def _read_npy(stream: IO[bytes], size: int, where: str, mmap: bool = False) -> _Array:
    """Read `.npy` data from the start of a stream of `size` bytes."""
    try:
        version = np.lib.format.read_magic(stream)
        width, parse = {
            (1, 0): (2, np.lib.format.read_array_header_1_0),
            (2, 0): (4, np.lib.format.read_array_header_2_0),
        }[version]
        length = stream.read(width)
        header = stream.read(min(int.from_bytes(length, "little"), _MAX_NPY_HEADER))
        shape, fortran_order, dtype = parse(io.BytesIO(length + header))
    # The header is a Python literal, and a damaged one fails in half a dozen ways, MemoryError
    # of the parser among them.
    except Exception as error:
        raise ValueError(f"{where}: not a .npy header that can be read ({error})") from error
    if dtype.kind not in "fiu":
        raise ValueError(f"{where}: expected integers or floats, got {dtype}")
    if len(shape) != 2 or min(shape) < 0 or shape[1] == 0:
        raise ValueError(f"{where}: expected a 2-D array with columns, got shape {shape}")
    start = 8 + width + len(header)
    n_bytes = math.prod(shape) * dtype.itemsize
    _check_size(size, start + n_bytes, shape, dtype, where)
    raw = _map_raw(stream, size)[start:] if mmap else _read_raw(stream, n_bytes, where)
    return raw.view(dtype).reshape(shape, order="F" if fortran_order else "C")


def _read_vecs(
    stream: IO[bytes], size: int, path: Path, dtype: np.dtype[Any], mmap: bool
) -> _Array:
    if size < 4:
        raise ValueError(f"{path}: truncated in the dimension of its first record")
    d = int(_read_raw(stream, 4, str(path)).view("<i4")[0])
    if d <= 0:
        raise ValueError(f"{path}: expected a positive dimension in record 0, got {d}")
    record = 4 + d * dtype.itemsize
    if size % record:
        raise ValueError(
            f"{path}: {size} bytes are not a multiple of the {record} bytes "
            f"of a record of dimension {d}"
        )
    n = size // record
    step = max(1, _STEP // record)
    if mmap:
        rows = _map_raw(stream, size).reshape(n, record)
        for start in range(0, n, step):
            _check_dims(rows[start : start + step], start, d, path)
        return rows[:, 4:].view(dtype)
    stream.seek(0)
    array = np.empty((n, d), dtype)
    for start in range(0, n, step):
        stop = min(start + step, n)
        rows = _read_raw(stream, (stop - start) * record, str(path)).reshape(-1, record)
        _check_dims(rows, start, d, path)
        array[start:stop] = rows[:, 4:].view(dtype)
    return array


def _check_dims(rows: npt.NDArray[np.uint8], first: int, d: int, path: Path) -> None:
    dims = rows[:, :4].view("<i4")[:, 0]
    wrong = dims != d
    if wrong.any():
        at = int(wrong.argmax())
        raise ValueError(f"{path}: expected dimension {d} in record {first + at}, got {dims[at]}")


def _read_bin(stream: IO[bytes], size: int, path: Path, dtype: np.dtype[Any], mmap: bool) -> _Array:
    if size < 8:
        raise ValueError(f"{path}: truncated in its header, which takes 8 bytes")
    n, d = (int(value) for value in _read_raw(stream, 8, str(path)).view("<u4"))
    if d == 0:
        raise ValueError(f"{path}: expected a positive dimension, got 0")
    n_bytes = n * d * dtype.itemsize
    _check_size(size, 8 + n_bytes, (n, d), dtype, str(path))
    raw = _map_raw(stream, size)[8:] if mmap else _read_raw(stream, n_bytes, str(path))
    return raw.view(dtype).reshape(n, d)


def _check_size(
    size: int, expected: int, shape: tuple[int, ...], dtype: np.dtype[Any], where: str
) -> None:
    if size != expected:
        problem = "truncated" if size < expected else "trailing bytes"
        raise ValueError(
            f"{where}: {problem}: expected {expected} bytes for shape {shape} of {dtype}, "
            f"got {size}"
        )


def _read_npz(path: Path) -> dict[str, _Array]:
    arrays = {}
    with path.open("rb") as stream, _blaming(path):
        size = os.fstat(stream.fileno()).st_size
        archive = zipfile.ZipFile(stream)
        members = {info.filename: info for info in archive.infolist()}
        if "base.npy" not in members:
            names = ", ".join(name.removesuffix(".npy") for name in members) or "none"
            raise ValueError(f"expected an array named base, got {names}")
        for role in ("base", "queries", "neighbors", "distances"):
            info = members.get(f"{role}.npy")
            if info is None:
                continue
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{role}: expected stored or deflated data")
            if info.file_size > _MAX_DEFLATE_RATIO * size:
                raise ValueError(f"{role}: claims {info.file_size} bytes in a file of {size}")
            with archive.open(info) as member:
                arrays[role] = _read_npy(member, info.file_size, role)
                # The checksum is compared when the end of the member is reached.
                member.read(1)
    return arrays


def _read_hdf5(path: Path) -> tuple[dict[str, _Array], str | None]:
    h5py = _import("h5py", extra="hdf5")
    # h5py reports a missing file, a folder and a damaged file alike as OSError.
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
    with _blaming(path), h5py.File(path, "r") as file:
        metric = _hdf5_metric(file.attrs.get("distance"))
        arrays = {
            role: _read_hdf5_array(h5py, file, key, size)
            for key, role in _HDF5_ROLES.items()
            if key in file
        }
        if "base" not in arrays:
            raise ValueError("expected a dataset named train, got none")
    if metric == "l2" and "distances" in arrays:
        arrays["distances"] = np.square(arrays["distances"])
    return arrays, metric


def _hdf5_metric(distance: Any) -> str | None:
    if distance is None:
        return None
    name = distance.decode("utf-8", "replace") if isinstance(distance, bytes) else str(distance)
    if name not in _HDF5_METRICS:
        raise ValueError(f"expected the distance {' or '.join(_HDF5_METRICS)}, got {name!r}")
    return _HDF5_METRICS[name]


def _read_hdf5_array(h5py: Any, file: Any, key: str, size: int) -> _Array:
    # Links and external storage would let a file pull in other files of its reader.
    link = file.get(key, getlink=True)
    dataset = file[key] if isinstance(link, h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
        raise ValueError(f"{key}: expected a dataset stored in this file")
    if len(dataset.shape or ()) != 2 or dataset.dtype.kind not in "fiu":
        raise ValueError(
            f"{key}: expected a 2-D array of integers or floats, "
            f"got shape {dataset.shape} of {dataset.dtype}"
        )
    if dataset.nbytes > _MAX_DEFLATE_RATIO * size:
        raise ValueError(f"{key}: claims {dataset.nbytes} bytes in a file of {size}")
    array: _Array = dataset[()]
    return array


# --- writing ------------------------------------------------------------------------------------


def _check_fits(
    array: _Array, suffix: str, dtype: np.dtype[Any], *, max_rows: int | None, max_dim: int
) -> None:
    n, d = array.shape
    if d > max_dim or (max_rows is not None and n > max_rows):
        raise ValueError(f"array: expected a shape that {suffix} can state, got {array.shape}")
    if dtype.kind == "f":
        if array.dtype.kind not in "fiu" or not np.can_cast(array.dtype, dtype):
            raise TypeError(
                f"array: expected values that float32 holds exactly for {suffix}, got {array.dtype}"
            )
        return
    if array.dtype.kind not in "iu":
        raise TypeError(f"array: expected integers for {suffix}, got {array.dtype}")
    limits = np.iinfo(dtype)
    if array.size and (array.min() < limits.min or array.max() > limits.max):
        raise ValueError(
            f"array: expected values from {limits.min} to {limits.max} for {suffix}, "
            f"got {array.min()} to {array.max()}"
        )


def _write_vecs(stream: IO[bytes], array: _Array, dtype: np.dtype[Any]) -> None:
    n, d = array.shape
    step = max(1, _STEP // (4 + d * dtype.itemsize))
    for start in range(0, n, step):
        part = array[start : start + step]
        records = np.empty((len(part), 4 + d * dtype.itemsize), np.uint8)
        records[:, :4].view("<i4")[:] = d
        records[:, 4:].view(dtype)[:] = part
        stream.write(records.data)


def _write_bin(stream: IO[bytes], array: _Array, dtype: np.dtype[Any]) -> None:
    n, d = array.shape
    stream.write(np.array([n, d], "<u4").data)
    step = max(1, _STEP // (d * dtype.itemsize))
    for start in range(0, n, step):
        stream.write(np.ascontiguousarray(array[start : start + step], dtype).data)
