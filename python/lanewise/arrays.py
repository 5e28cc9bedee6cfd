"""Validation of what users pass in: vectors, ids, numbers and names.

Every public function of the package sends its arguments through here, so the rest of the code
may rely on C-contiguous rows, of float32 unless it asks for bytes as well, and int64 ids, and every
mistake is reported in one style:
``argument: expected this, got that``.
"""

from __future__ import annotations

import ctypes
import math
import numbers
import operator
from collections.abc import Collection, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

METRICS = ("l2", "ip", "cosine")

BYTES = (np.uint8, np.int8)
VECTOR_TYPES = (np.float32, np.float16, np.float64, *BYTES)
_VECTOR_NAMES = "float32, float16, float64, bfloat16, uint8 or int8"

# Vectors as they are kept.
Numbers: TypeAlias = npt.NDArray[np.float32 | np.uint8 | np.int8]

# Elements looked at in one step of the finite check: 1 MB of float32, so that the boolean
# temporary stays in cache and does not grow with the array.
_CHUNK = 1 << 18

# What foreign containers raise when they cannot hand out their memory: gradients attached, data
# on a GPU, a dtype that NumPy does not have.
_EXPORT_ERRORS = (TypeError, ValueError, RuntimeError, BufferError, AttributeError)


def as_matrix(
    x: Any,
    name: str,
    *,
    dim: int | None = None,
    allow_empty: bool = True,
    finite: bool = True,
) -> npt.NDArray[np.float32]:
    """Return vectors as a C-contiguous float32 matrix.

    Parameters
    ----------
    x : array-like of shape (n, d)
        A NumPy array, nested sequences of Python numbers, anything with ``__array_interface__``,
        ``__array__`` or ``__dlpack__`` (in CPU memory), or an Arrow ``FixedSizeListArray`` or
        ``ChunkedArray`` of them. The dtype is float32, float16, float64 (rounded to float32),
        bfloat16, uint8 or int8, in any memory layout and byte order.
    name : str
        Name of the argument, for error messages.
    dim : int, optional
        The dimension that the vectors must have.
    allow_empty : bool, default True
        Whether ``n == 0`` is accepted.
    finite : bool, default True
        Whether to refuse NaN and infinity here. False is for callers whose driver looks at the
        values itself, and who call `check_finite` if it finds something.

    Returns
    -------
    ndarray of float32, shape (n, d)
        Shares memory with `x`, and its read-only flag, where `x` already is aligned, C-contiguous,
        native-endian float32; a copy otherwise.

    Raises
    ------
    TypeError
        If `x` is not a dense array of an accepted dtype in CPU memory, or has masked entries.
    ValueError
        If `x` is not 2-D, is ragged, has no columns, has another dimension than `dim`, has no
        rows although it must, holds Arrow nulls, NaN, infinity or a value beyond float32's range.

    Examples
    --------
    >>> as_matrix([[1, 2], [3, 4]], "base")
    array([[1., 2.],
           [3., 4.]], dtype=float32)
    """
    return _as_float32(_as_vector_rows(x, name), name, dim, allow_empty, finite)


def as_kept_matrix(x: Any, name: str, dim: int) -> Numbers:
    """Return vectors as a C-contiguous matrix of the type in which an index keeps them.

    Parameters
    ----------
    x : array-like of shape (n, dim)
        As `as_matrix` takes it.
    name : str
        Name of the argument, for error messages.
    dim : int
        The dimension that the vectors must have.

    Returns
    -------
    ndarray of float32, uint8 or int8, shape (n, dim)
        uint8 and int8 stay what they are, everything else is what `as_matrix` returns.

    Raises
    ------
    TypeError, ValueError
        As `as_matrix` does.

    Examples
    --------
    >>> as_kept_matrix(np.ones((1, 3), dtype=np.uint8), "X", 3)
    array([[1, 1, 1]], dtype=uint8)
    """
    array = _as_vector_rows(x, name)
    if array.dtype.type not in BYTES:
        return _as_float32(array, name, dim, allow_empty=True, finite=True)
    _check_shape(array, name, dim, allow_empty=True)
    return np.require(array, requirements=["C", "A"])


def as_queries(x: Any, name: str, dim: int) -> npt.NDArray[np.float32]:
    """Return queries as a C-contiguous float32 matrix; a single 1-D vector becomes one row.

    Parameters
    ----------
    x : array-like of shape (n, dim) or (dim,)
        Queries, as `as_matrix` takes them, or one query.
    name : str
        Name of the argument, for error messages.
    dim : int
        The dimension that the queries must have.

    Returns
    -------
    ndarray of float32, shape (n, dim)
        ``n`` is 1 for a single vector. Shares memory with `x` where `as_matrix` would.

    Raises
    ------
    TypeError, ValueError
        As `as_matrix` does.

    Examples
    --------
    >>> as_queries([0.5, 1.5], "queries", 2)
    array([[0.5, 1.5]], dtype=float32)
    """
    array = _as_vectors(x, name)
    if array.ndim == 1:
        array = array.reshape(1, -1)
    if array.ndim != 2:
        raise ValueError(
            f"{name}: expected a 2-D array (n, {dim}) or one vector of length {dim}, "
            f"got shape {array.shape}"
        )
    return _as_float32(array, name, dim, allow_empty=True, finite=True)


def as_vector_ids(
    x: Any,
    name: str,
    *,
    ndim: int = 1,
    upper: int | None = None,
    allow_missing: bool = False,
) -> npt.NDArray[np.int64]:
    """Return vector ids as a C-contiguous int64 array.

    Parameters
    ----------
    x : array-like of integers
        Ids of any integer dtype, in any container that `as_matrix` takes.
    name : str
        Name of the argument, for error messages.
    ndim : int, default 1
        Number of axes that `x` must have.
    upper : int, optional
        Ids must be less than this.
    allow_missing : bool, default False
        Whether -1, which stands for a missing result, is accepted.

    Returns
    -------
    ndarray of int64
        Shares memory with `x` where `x` already is aligned, C-contiguous, native-endian int64.

    Raises
    ------
    TypeError
        If `x` does not hold integers; booleans and floats are refused.
    ValueError
        If `x` is ragged, has another number of axes, or an id is out of range.

    Examples
    --------
    >>> as_vector_ids([2, 0, -1], "ids", upper=3, allow_missing=True)
    array([ 2,  0, -1])
    """
    array = as_ndarray(x, name)
    # NumPy calls an empty list float64, but it holds no float that could be refused.
    empty_list = array.size == 0 and isinstance(x, Sequence)
    if array.dtype.kind not in "iu" and not empty_list:
        raise TypeError(f"{name}: expected an array of integers, got {_describe(x, array)}")
    if array.ndim != ndim:
        raise ValueError(f"{name}: expected a {ndim}-D array, got shape {array.shape}")

    low = -1 if allow_missing else 0
    # Compared before the cast to int64, which would wrap unsigned ids into negative ones.
    high = np.iinfo(np.int64).max if upper is None else upper - 1
    may_exceed = upper is not None or array.dtype == np.uint64
    if array.size and (int(array.min()) < low or (may_exceed and int(array.max()) > high)):
        at = np.unravel_index(int(np.argmax((array < low) | (array > high))), array.shape)
        bound = f"< {upper}" if upper is not None else "< 2**63"
        missing = ", or -1 for a missing one" if allow_missing else ""
        where = " at " + ", ".join(
            f"{axis} {i}" for axis, i in zip(("row", "column"), at, strict=False)
        )
        raise ValueError(f"{name}: expected 0 <= id {bound}{missing}, got {array[at]}{where}")
    return np.require(array, np.int64, ["C", "A"])


def as_id_lists(
    x: Any, name: str, n_queries: int, *, upper: int | None = None
) -> npt.NDArray[np.int64]:
    """Return ids for each query, -1 for none, as a C-contiguous int64 matrix.

    Parameters
    ----------
    x : array-like of integers, shape (n_queries, m) or (m,)
        One list is for a single query.
    name : str
        Name of the argument, for error messages.
    n_queries : int
    upper : int, optional
        Ids must be less than this.

    Returns
    -------
    ndarray of int64, shape (n_queries, m)

    Raises
    ------
    TypeError, ValueError
        As `as_vector_ids` does, or if there is not one list for each query.

    Examples
    --------
    >>> as_id_lists([2, -1], "ids", 1)
    array([[ 2, -1]])
    """
    single = np.ndim(x) == 1
    ids = as_vector_ids(x, name, ndim=1 if single else 2, upper=upper, allow_missing=True)
    ids = ids[np.newaxis] if single else ids
    if len(ids) != n_queries:
        raise ValueError(f"{name}: expected {n_queries} rows, one for each query, got {len(ids)}")
    return ids


def as_row_mask(x: Any, name: str, n: int) -> npt.NDArray[np.bool_] | None:
    """Return a filter that says of each of n rows whether it may be answered.

    Parameters
    ----------
    x : array-like
        Booleans of shape (n,), or the same packed by ``numpy.packbits(..., bitorder="little")``.
    name : str
        Name of the argument, for error messages.
    n : int
        Rows that there are.

    Returns
    -------
    ndarray of bool, shape (n,), or None
        None if `x` is neither: then it names rows, see `as_vector_ids`.

    Raises
    ------
    ValueError
        If there are not n booleans, or not as many bytes as hold n bits.

    Examples
    --------
    >>> as_row_mask(np.array([0b101], dtype=np.uint8), "filter", 3)
    array([ True, False,  True])
    """
    array = np.asarray(x)
    packed = array.dtype == np.uint8 and isinstance(x, np.ndarray)
    if not packed and array.dtype != np.bool_:
        return None
    expected = (-(-n // 8) if packed else n,)
    if array.shape != expected:
        what = "bytes of packed bits" if packed else "booleans"
        raise ValueError(
            f"{name}: expected {expected[0]} {what}, one bit for each of {n} rows, "
            f"got shape {array.shape}"
        )
    if packed:
        array = np.unpackbits(array, bitorder="little")[:n]
    return array.astype(np.bool_, copy=False)


def packed_bits(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
    """Pack booleans into 64-bit words, the first into the lowest bit.

    Examples
    --------
    >>> packed_bits(np.array([True, False, True]))
    array([5], dtype=uint64)
    """
    padded = np.zeros(-(-len(mask) // 64) * 64, dtype=np.bool_)
    padded[: len(mask)] = mask
    return np.packbits(padded, bitorder="little").view("<u8").astype(np.uint64)


def unpacked_bits(words: npt.NDArray[np.uint64], n: int) -> npt.NDArray[np.bool_]:
    """Unpack the first n booleans of what `packed_bits` packed.

    Examples
    --------
    >>> unpacked_bits(np.array([5], dtype=np.uint64), 3)
    array([ True, False,  True])
    """
    octets = words.astype("<u8").view(np.uint8)
    return np.unpackbits(octets, bitorder="little")[:n].astype(np.bool_)


def with_room(
    array: npt.NDArray[Any], n_used: int, n: int, dtype: np.dtype[Any]
) -> npt.NDArray[Any]:
    """Return an array of the type that has room for n and can be written: itself, or a copy.

    Examples
    --------
    >>> with_room(np.arange(4), 2, 3, np.dtype(np.int64)).tolist()
    [0, 1, 2, 3]
    >>> len(with_room(np.arange(4), 4, 5, np.dtype(np.int64)))
    6
    """
    if n <= len(array) and array.flags.writeable and array.dtype == dtype:
        return array
    longer = np.empty((max(n, len(array) * 3 // 2), *array.shape[1:]), dtype=dtype)
    longer[:n_used] = array[:n_used]
    return longer


def as_ndarray(x: Any, name: str) -> npt.NDArray[Any]:
    """Return what `x` holds as a plain NumPy array, without looking at dtype, shape or values.

    Parameters
    ----------
    x : array-like
        Any container that `as_matrix` takes.
    name : str
        Name of the argument, for error messages.

    Returns
    -------
    ndarray
        Shares memory with `x` where NumPy can read that memory. bfloat16 that comes through
        ``__dlpack__`` is copied to float32.

    Raises
    ------
    TypeError
        If `x` is sparse, not in CPU memory, has masked entries or cannot be read by NumPy.
    ValueError
        If `x` is a ragged sequence or an Arrow array with nulls.

    Examples
    --------
    >>> as_ndarray(((1, 2), (3, 4)), "table").shape
    (2, 2)
    """
    if isinstance(x, np.ndarray):
        _check_unmasked(x, name)
        return np.asarray(x)
    # A scipy.sparse matrix would become a 0-d object array, and the message would not say why.
    if hasattr(x, "nnz") and hasattr(x, "todense"):
        raise TypeError(f"{name}: expected a dense array, got sparse {type(x).__name__}")
    if _is_arrow_fixed_size_list(x):
        return _from_arrow(x, name)
    if hasattr(x, "__array_interface__") or hasattr(x, "__array__"):
        try:
            return np.asarray(x)
        except _EXPORT_ERRORS as error:
            if not hasattr(x, "__dlpack__"):
                raise _unreadable(x, name, error) from error
    if hasattr(x, "__dlpack__"):
        return _from_dlpack(x, name)
    if isinstance(x, (list, tuple)):
        for row in x:
            _check_unmasked(row, name)
    try:
        return np.asarray(x)
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"{name}: expected numbers in rows of equal length, "
            f"got a {type(x).__name__} that NumPy cannot stack ({error})"
        ) from error
    except _EXPORT_ERRORS as error:
        raise _unreadable(x, name, error) from error


def check_int(value: Any, name: str, *, low: int | None = None, high: int | None = None) -> int:
    """Return an integer argument as an int.

    Parameters
    ----------
    value : int or NumPy integer
        The argument; booleans and floats are refused.
    name : str
        Name of the argument, for error messages.
    low, high : int, optional
        Inclusive bounds.

    Returns
    -------
    int
        The same value.

    Raises
    ------
    TypeError
        If `value` is not an integer.
    ValueError
        If `value` is out of bounds.

    Examples
    --------
    >>> check_int(np.uint8(7), "k", low=1)
    7
    """
    if type(value) is int:
        number = value
    elif isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    else:
        try:
            number = operator.index(value)
        except TypeError:
            raise TypeError(
                f"{name}: expected an integer, got {type(value).__name__} {value!r}"
            ) from None
    _check_bounds(number, name, "an integer", low, high)
    return number


def check_real(
    value: Any,
    name: str,
    *,
    low: float | None = None,
    high: float | None = None,
    allow_inf: bool = False,
) -> float:
    """Return a real argument as a float.

    Parameters
    ----------
    value : int, float or NumPy real number
        The argument; booleans and NaN are refused.
    name : str
        Name of the argument, for error messages.
    low, high : float, optional
        Inclusive bounds.
    allow_inf : bool, default False
        Whether infinity is accepted.

    Returns
    -------
    float
        The same value.

    Raises
    ------
    TypeError
        If `value` is not a real number.
    ValueError
        If `value` is NaN, infinite although it must not be, too large for a float, or out of
        bounds.

    Examples
    --------
    >>> check_real(1, "alpha", low=0, high=1)
    1.0
    """
    # Asking a number for its kind takes longer than all the rest.
    if type(value) is not float and (
        isinstance(value, bool) or not isinstance(value, numbers.Real)
    ):
        raise TypeError(f"{name}: expected a real number, got {type(value).__name__} {value!r}")
    try:
        number = float(value)
    except OverflowError:
        raise ValueError(f"{name}: expected a number in float64's range, got more") from None
    if math.isnan(number) or (math.isinf(number) and not allow_inf):
        kind = "a number" if allow_inf else "a finite number"
        raise ValueError(f"{name}: expected {kind}, got {number}")
    _check_bounds(number, name, "a number", low, high)
    return number


def check_bool(value: Any, name: str) -> bool:
    """Return a boolean argument as a bool.

    Parameters
    ----------
    value : bool or NumPy bool
        The argument; numbers are refused.
    name : str
        Name of the argument, for error messages.

    Returns
    -------
    bool
        The same value.

    Raises
    ------
    TypeError
        If `value` is not a boolean.

    Examples
    --------
    >>> check_bool(np.True_, "warm_start")
    True
    """
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected a bool, got {type(value).__name__} {value!r}")
    return bool(value)


def check_choice(value: Any, name: str, choices: Collection[str]) -> str:
    """Return a string argument that must be one of a few.

    Parameters
    ----------
    value : str
        The argument.
    name : str
        Name of the argument, for error messages.
    choices : collection of str
        What is accepted.

    Returns
    -------
    str
        The same value.

    Raises
    ------
    TypeError
        If `value` is not a string.
    ValueError
        If `value` is none of `choices`.

    Examples
    --------
    >>> check_choice("ip", "metric", ["l2", "ip"])
    'ip'
    """
    expected = "one of " + ", ".join(repr(choice) for choice in choices)
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected {expected}, got {type(value).__name__} {value!r}")
    if value not in choices:
        raise ValueError(f"{name}: expected {expected}, got {value!r}")
    return str(value)


def check_metric(metric: Any) -> str:
    """Return the name of a metric: ``"l2"`` (squared Euclidean), ``"ip"`` or ``"cosine"``.

    Parameters
    ----------
    metric : str
        The argument.

    Returns
    -------
    str
        The same value.

    Raises
    ------
    TypeError
        If `metric` is not a string.
    ValueError
        If `metric` is not a known name.

    Examples
    --------
    >>> check_metric("cosine")
    'cosine'
    """
    return check_choice(metric, "metric", METRICS)


def _as_vectors(x: Any, name: str) -> npt.NDArray[Any]:
    array = as_ndarray(x, name)
    dtype = array.dtype
    # The scalar type says nothing about byte order, so big-endian arrays pass. bfloat16 goes by
    # its name because its type lives in ml_dtypes, which whoever made the array has imported.
    known = dtype.type in VECTOR_TYPES or dtype.name == "bfloat16"
    # A list of Python integers holds numbers; an int64 array most likely holds ids.
    if not known and not (dtype.kind in "iu" and isinstance(x, Sequence)):
        raise TypeError(f"{name}: expected an array of {_VECTOR_NAMES}, got {_describe(x, array)}")
    return array


def _as_vector_rows(x: Any, name: str) -> npt.NDArray[Any]:
    array = _as_vectors(x, name)
    if array.ndim != 2:
        raise ValueError(f"{name}: expected a 2-D array (n, d), got shape {array.shape}")
    return array


def _check_shape(array: npt.NDArray[Any], name: str, dim: int | None, allow_empty: bool) -> None:
    n, d = array.shape
    if d == 0:
        raise ValueError(f"{name}: expected at least one dimension, got shape {array.shape}")
    if dim is not None and d != dim:
        raise ValueError(f"{name}: expected dimension {dim}, got {d}")
    if n == 0 and not allow_empty:
        raise ValueError(f"{name}: expected at least one row, got shape {array.shape}")


def _as_float32(
    array: npt.NDArray[Any], name: str, dim: int | None, allow_empty: bool, finite: bool
) -> npt.NDArray[np.float32]:
    _check_shape(array, name, dim, allow_empty)
    # Overflow is found by the finite check below, with the place where it happened.
    with np.errstate(all="ignore"):
        floats = np.require(array, np.float32, ["C", "A"])
    if finite and array.dtype.kind not in "iu":
        check_finite(floats, array, name)
    return floats


def check_finite(floats: npt.NDArray[np.float32], source: npt.NDArray[Any], name: str) -> None:
    """Raise ValueError for NaN and infinity in `floats`, the float32 form of `source`."""
    flat = floats.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        finite = np.isfinite(flat[start : start + _CHUNK])
        if finite.all():
            continue
        row, column = divmod(start + int(finite.argmin()), floats.shape[1])
        value = float(source[row, column])
        expected = "values in float32's range" if math.isfinite(value) else "finite values"
        raise ValueError(f"{name}: expected {expected}, got {value} at row {row}, column {column}")


def _check_unmasked(x: Any, name: str) -> None:
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise TypeError(
            f"{name}: expected no masked entries, got {np.count_nonzero(x.mask)} of them"
        )


def _check_bounds(
    number: float, name: str, kind: str, low: float | None, high: float | None
) -> None:
    if (low is None or number >= low) and (high is None or number <= high):
        return
    if low is not None and high is not None:
        bounds = f"from {low} to {high}"
    else:
        bounds = f"of at least {low}" if high is None else f"of at most {high}"
    raise ValueError(f"{name}: expected {kind} {bounds}, got {number}")


def _describe(x: Any, array: npt.NDArray[Any]) -> str:
    return f"{type(x).__name__} of dtype {array.dtype}"


def _unreadable(x: Any, name: str, error: Exception) -> TypeError:
    return TypeError(
        f"{name}: expected an array that NumPy can read, got {type(x).__name__} ({error})"
    )


def _is_arrow_fixed_size_list(x: Any) -> bool:
    return type(x).__module__.partition(".")[0] == "pyarrow" and hasattr(
        getattr(x, "type", None), "list_size"
    )


def _from_arrow(x: Any, name: str) -> npt.NDArray[Any]:
    # A ChunkedArray; several chunks have to be copied together, one stays where it is.
    if hasattr(x, "chunks"):
        x = x.chunk(0) if x.num_chunks == 1 else x.combine_chunks()
    # flatten() would drop null rows without a word, and null values would come out as NaN.
    values = x.flatten()
    nulls = x.null_count + values.null_count
    if nulls:
        raise ValueError(f"{name}: expected no nulls, got {nulls} of them")
    flat: npt.NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return flat.reshape(len(x), x.type.list_size)


def _from_dlpack(x: Any, name: str) -> npt.NDArray[Any]:
    try:
        device, _ = x.__dlpack_device__()
        if device != _DLPACK_CPU:
            raise BufferError(f"it is in the memory of DLPack device type {int(device)}")
        floats = _bfloat16_capsule_as_float32(x.__dlpack__())
        return np.from_dlpack(x) if floats is None else floats
    except _EXPORT_ERRORS as error:
        raise _unreadable(x, name, error) from error


# NumPy has no bfloat16 and refuses such a DLPack capsule, so it is read here. The layout is that
# of DLPack's `DLTensor`, with which the unversioned `DLManagedTensor` begins.

_DLPACK_CPU = 1
_DLPACK_BFLOAT = 4

_capsule_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("type_code", ctypes.c_uint8),
        ("type_bits", ctypes.c_uint8),
        ("type_lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def _bfloat16_capsule_as_float32(capsule: Any) -> npt.NDArray[np.float32] | None:
    """Copy a bfloat16 DLPack capsule to float32, or return None if it holds another dtype.

    The capsule is only borrowed: it keeps its name, so that its own destructor releases the
    tensor once the caller drops it.
    """
    tensor = _DLTensor.from_address(_capsule_pointer(capsule, b"dltensor"))
    if (tensor.type_code, tensor.type_bits, tensor.type_lanes) != (_DLPACK_BFLOAT, 16, 1):
        return None
    shape = tuple(tensor.shape[: tensor.ndim])
    if math.prod(shape) == 0:
        return np.empty(shape, np.float32)
    if tensor.strides:
        strides = tuple(tensor.strides[: tensor.ndim])
    else:  # row-major
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(tensor.ndim))
    if min(strides, default=0) < 0:
        raise BufferError("its strides are negative")
    extent = 1 + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    memory = (ctypes.c_uint16 * extent).from_address(tensor.data + tensor.byte_offset)
    half_words = np.ndarray(
        shape, np.uint16, buffer=memory, strides=[2 * stride for stride in strides]
    )
    # bfloat16 is the upper half of a float32.
    words = half_words.astype(np.uint32)
    words <<= 16
    return words.view(np.float32)
