"""What users may pass in, what comes out of it, and what the refusals say."""

import array
import ctypes
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lanewise import arrays
from lanewise.arrays import (
    as_kept_matrix,
    as_matrix,
    as_ndarray,
    as_queries,
    as_vector_ids,
    check_choice,
    check_int,
    check_metric,
    check_real,
)

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)
VECTOR_DTYPES = ["f4", "f2", "f8", "u1", "i1"]


class OnlyInterface:
    """Has nothing but `__array_interface__`."""

    def __init__(self, values):
        self._values = values
        self.__array_interface__ = values.__array_interface__


class OnlyArray:
    """Has nothing but `__array__`, like a DataFrame."""

    def __init__(self, values):
        self._values = values

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self._values, dtype)


class OnlyDLPack:
    """Has nothing but the DLPack methods."""

    def __init__(self, values, device=(1, 0)):
        self._values = values
        self._device = device

    def __dlpack__(self, **kwargs):
        return self._values.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self._device


class Unreadable:
    """Refuses to be converted, like a tensor with gradients attached."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("detach it first")


def contiguous_float32(x):
    assert x.dtype == np.float32
    assert x.dtype.isnative
    assert x.flags.c_contiguous
    assert x.flags.aligned
    assert type(x) is np.ndarray
    return x


# --- what is accepted ---------------------------------------------------------------------------


def test_float32_matrix_is_not_copied():
    out = as_matrix(ROWS, "base", dim=3)
    assert np.shares_memory(out, ROWS)
    np.testing.assert_array_equal(contiguous_float32(out), ROWS)


def test_read_only_input_stays_a_read_only_view():
    frozen = ROWS.copy()
    frozen.flags.writeable = False
    out = as_matrix(frozen, "base")
    assert np.shares_memory(out, frozen)
    assert not out.flags.writeable


def test_memory_map_is_not_copied(tmp_path):
    ROWS.tofile(tmp_path / "rows")
    mapped = np.memmap(tmp_path / "rows", np.float32, "r", shape=(4, 3))
    out = contiguous_float32(as_matrix(mapped, "base"))
    assert np.shares_memory(out, mapped)


def test_np_matrix_becomes_a_plain_array():
    out = as_matrix(ROWS.view(np.matrix), "base")
    assert np.shares_memory(contiguous_float32(out), ROWS)


@pytest.mark.parametrize("dtype", VECTOR_DTYPES)
@pytest.mark.parametrize("order", ["<", ">"])
def test_dtypes_and_byte_orders(dtype, order):
    out = as_matrix(ROWS.astype(np.dtype(order + dtype)), "base")
    np.testing.assert_array_equal(contiguous_float32(out), ROWS)


def unaligned(x):
    raw = np.empty(x.nbytes + 1, np.uint8)
    view = raw[1:].view(x.dtype).reshape(x.shape)
    view[:] = x
    return view


@pytest.mark.parametrize(
    "layout",
    [
        np.asfortranarray,
        lambda x: x[::-1].copy()[::-1],
        lambda x: x[:, ::-1].copy()[:, ::-1],
        lambda x: np.repeat(x, 2, axis=0)[::2],
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x: np.pad(x, ((0, 0), (1, 1)))[:, 1:-1],
        lambda x: np.ascontiguousarray(x.T).T,
        unaligned,
    ],
)
def test_awkward_layouts_are_copied(layout):
    awkward = layout(ROWS)
    out = contiguous_float32(as_matrix(awkward, "base"))
    assert not np.shares_memory(out, awkward)
    np.testing.assert_array_equal(out, ROWS)


def test_broadcast_rows_are_copied():
    out = contiguous_float32(as_matrix(np.broadcast_to(ROWS[0], (5, 3)), "base"))
    np.testing.assert_array_equal(out, np.tile(ROWS[0], (5, 1)))


@pytest.mark.parametrize(
    "nested",
    [
        [[0, 1, 2], [3, 4, 5]],
        ((0.0, 1.0, 2.0), (3.0, 4.0, 5.0)),
        [ROWS[0], ROWS[1]],
        [range(3), range(3, 6)],
        [array.array("f", [0, 1, 2]), array.array("f", [3, 4, 5])],
    ],
)
def test_nested_sequences(nested):
    np.testing.assert_array_equal(contiguous_float32(as_matrix(nested, "base")), ROWS[:2])


@pytest.mark.parametrize("wrap", [OnlyInterface, OnlyDLPack, memoryview])
def test_protocols_share_memory(wrap):
    out = as_matrix(wrap(ROWS), "base")
    assert np.shares_memory(contiguous_float32(out), ROWS)


def test_array_method():
    np.testing.assert_array_equal(as_matrix(OnlyArray(ROWS), "base"), ROWS)


def test_dlpack_is_tried_when_array_method_fails():
    class Both(OnlyDLPack, Unreadable):
        pass

    assert np.shares_memory(as_matrix(Both(ROWS), "base"), ROWS)


def test_masked_array_without_masked_entries():
    out = as_matrix(np.ma.array(ROWS, mask=np.zeros_like(ROWS, bool)), "base")
    assert np.shares_memory(contiguous_float32(out), ROWS)


@pytest.mark.parametrize("empty", [np.empty((0, 3), np.float32), np.empty((0, 3), np.uint8)])
def test_no_rows(empty):
    assert as_matrix(empty, "base", dim=3).shape == (0, 3)
    assert as_queries(empty, "queries", 3).shape == (0, 3)
    with pytest.raises(ValueError, match=r"base: expected at least one row, got shape \(0, 3\)"):
        as_matrix(empty, "base", allow_empty=False)


def test_float64_is_rounded_to_nearest():
    values = np.array([[1 / 3, np.finfo(np.float32).max, 1e-300, -0.0]])
    with np.errstate(all="raise"):
        out = as_matrix(values, "base")
    with np.errstate(under="ignore"):
        np.testing.assert_array_equal(out, values.astype(np.float32))


@given(
    hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.uint8, np.int8]),
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
        elements={"allow_nan": False, "allow_infinity": False},
    )
)
def test_narrow_types_keep_their_values(values):
    np.testing.assert_array_equal(as_matrix(values, "base").astype(values.dtype), values)


@pytest.mark.parametrize("dtype", ["u1", "i1"])
def test_bytes_may_stay_bytes(dtype):
    values = ROWS.astype(dtype)
    kept = as_kept_matrix(values, "base", 3)
    assert np.shares_memory(kept, values)
    for wrapped in (OnlyInterface(values), np.asfortranarray(values)):
        kept = as_kept_matrix(wrapped, "base", 3)
        assert kept.dtype == dtype
        assert kept.flags.c_contiguous
        np.testing.assert_array_equal(kept, values)
    for floats in (as_matrix(values, "base"), as_kept_matrix(values.tolist(), "base", 3)):
        np.testing.assert_array_equal(contiguous_float32(floats), ROWS)
    assert as_kept_matrix(values[:0], "base", 3).shape == (0, 3)
    for wrong, words in ((values[0], "2-D"), (values[:, :2], "dimension 3, got 2")):
        with pytest.raises(ValueError, match=f"^base: expected .*{words}"):
            as_kept_matrix(wrong, "base", 3)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_other_types_are_kept_as_floats(dtype):
    kept = as_kept_matrix(ROWS.astype(dtype), "base", 3)
    np.testing.assert_array_equal(contiguous_float32(kept), ROWS)
    with pytest.raises(ValueError, match=r"^base: expected finite values, got nan"):
        as_kept_matrix(np.full((1, 3), np.nan, dtype), "base", 3)


# --- bfloat16 -----------------------------------------------------------------------------------

CAPSULE_NAME = b"dltensor"


class Bfloat16Tensor:
    """Offers 16-bit words as a bfloat16 tensor, in DLPack only, as PyTorch does."""

    class Struct(ctypes.Structure):
        _fields_ = (
            ("data", ctypes.c_void_p),
            ("device", ctypes.c_int32 * 2),
            ("ndim", ctypes.c_int32),
            ("code", ctypes.c_uint8),
            ("bits", ctypes.c_uint8),
            ("lanes", ctypes.c_uint16),
            ("shape", ctypes.c_void_p),
            ("strides", ctypes.c_void_p),
            ("byte_offset", ctypes.c_uint64),
            ("context", ctypes.c_void_p),
            ("deleter", ctypes.c_void_p),
        )

    def __init__(self, words, *, with_strides=True, skip=0):
        self._words = words
        self._shape = (ctypes.c_int64 * words.ndim)(*words.shape)
        self._strides = (ctypes.c_int64 * words.ndim)(*(s // 2 for s in words.strides))
        self._struct = self.Struct(
            data=words.ctypes.data - skip,
            device=(1, 0),
            ndim=words.ndim,
            code=4,
            bits=16,
            lanes=1,
            shape=ctypes.addressof(self._shape),
            strides=ctypes.addressof(self._strides) if with_strides else None,
            byte_offset=skip,
        )

    def __dlpack__(self, **kwargs):
        new = ctypes.pythonapi.PyCapsule_New
        new.restype = ctypes.py_object
        new.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return new(ctypes.addressof(self._struct), CAPSULE_NAME, None)

    def __dlpack_device__(self):
        return (1, 0)


def bfloat16_words(values):
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


@pytest.mark.parametrize("with_strides", [True, False])
def test_bfloat16_dlpack(with_strides):
    tensor = Bfloat16Tensor(bfloat16_words(ROWS), with_strides=with_strides, skip=64)
    np.testing.assert_array_equal(contiguous_float32(as_matrix(tensor, "base")), ROWS)


@pytest.mark.parametrize("view", [np.s_[::2], np.s_[:, 1:], np.s_[1:3, ::2], np.s_[:0]])
def test_bfloat16_dlpack_strided(view):
    tensor = Bfloat16Tensor(bfloat16_words(ROWS)[view])
    np.testing.assert_array_equal(contiguous_float32(as_matrix(tensor, "base")), ROWS[view])


def test_bfloat16_dlpack_transposed_and_single():
    words = bfloat16_words(ROWS)
    np.testing.assert_array_equal(as_matrix(Bfloat16Tensor(words.T), "base"), ROWS.T)
    np.testing.assert_array_equal(as_queries(Bfloat16Tensor(words[1]), "queries", 3), ROWS[1:2])


def test_bfloat16_dlpack_refusals():
    words = bfloat16_words(ROWS)
    words[2, 1] = 0x7F80
    with pytest.raises(ValueError, match="base: expected finite values, got inf at row 2, column"):
        as_matrix(Bfloat16Tensor(words), "base")
    with pytest.raises(TypeError, match=r"base: .*its strides are negative"):
        as_matrix(Bfloat16Tensor(words[::-1]), "base")


def test_bfloat16_of_ml_dtypes():
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    np.testing.assert_array_equal(
        contiguous_float32(as_matrix(ROWS.astype(bfloat16), "base")), ROWS
    )
    with pytest.raises(ValueError, match="base: expected finite values, got nan at row 0, column"):
        as_matrix(np.full((1, 2), np.nan, bfloat16), "base")


# --- Arrow and pandas ---------------------------------------------------------------------------


def arrow_rows(pa, values=ROWS):
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def test_arrow_fixed_size_list_is_not_copied():
    pa = pytest.importorskip("pyarrow")
    rows = arrow_rows(pa)
    out = contiguous_float32(as_matrix(rows, "base", dim=3))
    assert np.shares_memory(out, rows.values.to_numpy())
    np.testing.assert_array_equal(out, ROWS)
    np.testing.assert_array_equal(as_matrix(rows[1:3], "base"), ROWS[1:3])


def test_arrow_chunked_array():
    pa = pytest.importorskip("pyarrow")
    rows = arrow_rows(pa)
    chunked = pa.chunked_array([rows, rows[2:]])
    np.testing.assert_array_equal(as_matrix(chunked, "base"), np.vstack([ROWS, ROWS[2:]]))
    np.testing.assert_array_equal(as_matrix(chunked[3:5], "base"), ROWS[[3, 2]])
    assert as_matrix(pa.chunked_array([], type=rows.type), "base").shape == (0, 3)


def test_arrow_half_floats_and_bytes():
    pa = pytest.importorskip("pyarrow")
    for dtype in (np.float16, np.uint8):
        out = as_matrix(arrow_rows(pa, ROWS.astype(dtype)), "base")
        np.testing.assert_array_equal(out, ROWS)


def test_arrow_refusals():
    pa = pytest.importorskip("pyarrow")
    pair = pa.list_(pa.float32(), 2)
    for nulls in ([[1, 2], None], [[1, None]]):
        with pytest.raises(ValueError, match="base: expected no nulls, got 1 of them"):
            as_matrix(pa.array(nulls, pair), "base")
    assert as_matrix(pa.array([[1, 2], None], pair)[:1], "base").shape == (1, 2)
    for strange in (pa.array([[True]], pa.list_(pa.bool_(), 1)), pa.array([[1.0], [1.0, 2.0]])):
        with pytest.raises(TypeError, match="base: expected an array of float32"):
            as_matrix(strange, "base")


def test_pandas_data_frame():
    pd = pytest.importorskip("pandas")
    np.testing.assert_array_equal(as_matrix(pd.DataFrame(ROWS), "base"), ROWS)
    with pytest.raises(TypeError, match="base: expected an array of float32"):
        as_matrix(pd.DataFrame({"a": [1.5], "b": ["x"]}), "base")


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (np.zeros((2, 2), np.int64), "ndarray of dtype int64"),
        (np.zeros((2, 2), np.uint16), "ndarray of dtype uint16"),
        (np.zeros((2, 2), bool), "ndarray of dtype bool"),
        (np.zeros((2, 2), complex), "ndarray of dtype complex128"),
        (np.zeros((2, 2), np.longdouble), "ndarray of dtype"),
        (np.zeros((2, 2), object), "ndarray of dtype object"),
        (np.zeros((2, 2), "M8[s]"), "ndarray of dtype datetime64"),
        (np.zeros(2, [("x", "f4")]), "ndarray of dtype"),
        ([["a", "b"]], "list of dtype <U1"),
        ([[1.0, None]], "list of dtype object"),
        ([[True, False]], "list of dtype bool"),
        ([[10**400]], "list of dtype object"),
        ([{}], "list of dtype object"),
        ("text", "str of dtype"),
        (b"bytes", "bytes of dtype"),
        (None, "NoneType of dtype object"),
        ({1: 2}, "dict of dtype object"),
        ((x for x in [1.0]), "generator of dtype object"),
    ],
)
def test_wrong_types(wrong, what):
    message = f"base: expected an array of float32, .* got {what}"
    with pytest.raises(TypeError, match=message):
        as_matrix(wrong, "base")
    with pytest.raises(TypeError, match=message):
        as_queries(wrong, "base", 2)


def test_masked_entries_are_refused():
    masked = np.ma.array([[1.0, 2.0, 3.0]], mask=[[0, 1, 1]])
    for wrong in (masked, [masked[0]]):
        with pytest.raises(TypeError, match="base: expected no masked entries, got 2 of them"):
            as_matrix(wrong, "base")
    with pytest.raises(TypeError, match="ids: expected no masked entries, got 1 of them"):
        as_vector_ids(np.ma.array([1, 2], mask=[0, 1]), "ids")


def test_sparse_is_refused():
    class csr_matrix:  # noqa: N801
        nnz = 1

        def todense(self):
            raise AssertionError("must not be made dense")

    with pytest.raises(TypeError, match="base: expected a dense array, got sparse csr_matrix"):
        as_matrix(csr_matrix(), "base")


def test_unreadable_containers_are_refused():
    with pytest.raises(TypeError, match=r"base: .* NumPy can read, got Unreadable \(detach it"):
        as_matrix(Unreadable(), "base")
    with pytest.raises(TypeError, match=r"base: .* NumPy can read, got list \(detach it"):
        as_matrix([Unreadable()], "base")
    with pytest.raises(TypeError, match=r"base: .* got OnlyDLPack \(.*DLPack device type 2"):
        as_matrix(OnlyDLPack(ROWS, device=(2, 0)), "base")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (ROWS[0], r"base: expected a 2-D array \(n, d\), got shape \(3,\)"),
        (ROWS[None], r"base: expected a 2-D array \(n, d\), got shape \(1, 4, 3\)"),
        (1.0, r"base: expected a 2-D array \(n, d\), got shape \(\)"),
        ([], r"base: expected a 2-D array \(n, d\), got shape \(0,\)"),
        ([[], []], r"base: expected at least one dimension, got shape \(2, 0\)"),
        (np.empty((0, 0), np.float32), "base: expected at least one dimension"),
        ([[1.0, 2.0], [3.0]], "base: expected numbers in rows of equal length, got a list"),
        ([1.0, [2.0]], "base: expected numbers in rows of equal length, got a list"),
        (ROWS[:, :2], "base: expected dimension 3, got 2"),
    ],
)
def test_wrong_shapes(wrong, message):
    with pytest.raises(ValueError, match=message):
        as_matrix(wrong, "base", dim=3)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_values(dtype, bad):
    values = ROWS.astype(dtype)
    values[2, 1] = bad
    values[3, 0] = bad
    for layout in (values, np.asfortranarray(values)):
        message = f"base: expected finite values, got {bad} at row 2, column 1$"
        with pytest.raises(ValueError, match=message):
            as_matrix(layout, "base")
    with pytest.raises(ValueError, match=r"queries: .* at row 0, column 1$"):
        as_queries(values[2], "queries", 3)


def test_values_beyond_float32():
    for huge in (1e39, -1e300):
        with np.errstate(all="raise"), pytest.raises(ValueError, match="float32's range") as error:
            as_matrix([[0.0, 1.0], [2.0, huge]], "base")
        assert str(error.value) == (
            f"base: expected values in float32's range, got {huge} at row 1, column 1"
        )


@given(st.data())
def test_first_bad_value_is_found_in_every_chunk(data):
    n, d = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    at = sorted(data.draw(st.sets(st.integers(0, n * d - 1), max_size=3)))
    values = np.zeros(n * d, np.float32)
    values[at] = np.nan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "_CHUNK", data.draw(st.integers(1, 12)))
        if not at:
            as_matrix(values.reshape(n, d), "base")
            return
        with pytest.raises(ValueError, match=f"at row {at[0] // d}, column {at[0] % d}$"):
            as_matrix(values.reshape(n, d), "base")


@pytest.mark.parametrize("shape", [(100_000, 80), (2, 4_000_000), (8_000_000, 1)])
def test_finite_check_needs_little_memory(shape):
    values = np.zeros(shape, np.float32)
    tracemalloc.start()
    as_matrix(values, "base")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20
    values[-1, -1] = np.inf
    with pytest.raises(ValueError, match=f"at row {shape[0] - 1}, column {shape[1] - 1}"):
        as_matrix(values, "base")


# --- queries ------------------------------------------------------------------------------------


def test_one_query_becomes_a_row():
    out = as_queries(ROWS[1], "queries", 3)
    assert out.shape == (1, 3)
    assert np.shares_memory(out, ROWS)
    np.testing.assert_array_equal(as_queries([3, 4, 5], "queries", 3), ROWS[1:2])
    np.testing.assert_array_equal(as_queries(array.array("d", [3, 4, 5]), "q", 3), ROWS[1:2])


def test_strided_query():
    np.testing.assert_array_equal(as_queries(ROWS[:, 1], "queries", 4), ROWS[:, 1][None])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros(96), "queries: expected dimension 128, got 96"),
        (np.zeros((2, 96)), "queries: expected dimension 128, got 96"),
        (np.zeros(0), "queries: expected at least one dimension"),
        (np.zeros((1, 1, 128)), r"queries: expected a 2-D array \(n, 128\) or one vector"),
        (0.0, r"queries: expected a 2-D array \(n, 128\) or one vector"),
    ],
)
def test_wrong_queries(wrong, message):
    with pytest.raises(ValueError, match=message):
        as_queries(wrong, "queries", 128)


# --- ids ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", ">i4", "u4", "i8", ">u8"])
@pytest.mark.parametrize("ndim", [1, 2])
def test_ids_of_every_integer_dtype(dtype, ndim):
    ids = np.arange(6).reshape((6,) if ndim == 1 else (2, 3))
    out = as_vector_ids(ids.astype(dtype), "ids", ndim=ndim, upper=6)
    assert out.dtype == np.int64
    assert out.flags.c_contiguous
    np.testing.assert_array_equal(out, ids)


def test_int64_ids_are_not_copied():
    ids = np.arange(6)
    ids.flags.writeable = False
    assert np.shares_memory(as_vector_ids(ids, "ids"), ids)
    reverse = as_vector_ids(ids[::-1], "ids")
    assert reverse.flags.c_contiguous
    np.testing.assert_array_equal(reverse, ids[::-1])


def test_ids_from_sequences():
    np.testing.assert_array_equal(as_vector_ids(range(3), "ids"), [0, 1, 2])
    np.testing.assert_array_equal(as_vector_ids([[1, 0]], "ids", ndim=2), [[1, 0]])
    assert as_vector_ids([], "ids", upper=0).dtype == np.int64
    assert as_vector_ids(np.empty((0, 4), np.int32), "ids", ndim=2).shape == (0, 4)


def test_missing_ids():
    ids = [0, -1, 2]
    np.testing.assert_array_equal(as_vector_ids(ids, "ids", upper=3, allow_missing=True), ids)
    with pytest.raises(ValueError, match=r"ids: expected 0 <= id < 3, got -1 at row 1$"):
        as_vector_ids(ids, "ids", upper=3)
    with pytest.raises(ValueError, match=r"ids: .*, or -1 for a missing one, got -2 at row 0$"):
        as_vector_ids([-2], "ids", allow_missing=True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([0, 3], "ids: expected 0 <= id < 3, got 3 at row 1$"),
        (np.array([2, 200], np.uint8), "ids: expected 0 <= id < 3, got 200 at row 1$"),
        (np.array([-128], np.int8), "ids: expected 0 <= id < 3, got -128 at row 0$"),
        (np.array([2**64 - 1], np.uint64), "ids: expected .*, got 18446744073709551615 at row 0$"),
        ([[0]], r"ids: expected a 1-D array, got shape \(1, 1\)"),
        (0, r"ids: expected a 1-D array, got shape \(\)"),
        ([[0], [1, 2]], "ids: expected numbers in rows of equal length"),
    ],
)
def test_wrong_ids(wrong, message):
    with pytest.raises(ValueError, match=message):
        as_vector_ids(wrong, "ids", upper=3)


def test_ids_beyond_int64():
    for big in (np.array([2**63], np.uint64), [2**63]):
        with pytest.raises(ValueError, match=rf"ids: expected .* < 2\*\*63, got {2**63} at row 0"):
            as_vector_ids(big, "ids")
    last = 2**63 - 1
    assert as_vector_ids(np.array([last], np.uint64), "ids")[0] == last


def test_wrong_id_names_row_and_column():
    with pytest.raises(ValueError, match=r"neighbors: .* got 9 at row 1, column 2$"):
        as_vector_ids([[1, 2, 3], [4, 5, 9]], "neighbors", ndim=2, upper=9)


@pytest.mark.parametrize(
    "wrong",
    [[True], np.array([True]), [1.0], np.array([1.0]), ["1"], [None], np.empty(0), "12", [10**30]],
)
def test_ids_must_be_integers(wrong):
    with pytest.raises(TypeError, match="ids: expected an array of integers, got"):
        as_vector_ids(wrong, "ids")


@given(
    hnp.arrays(hnp.integer_dtypes(), hnp.array_shapes(max_dims=1), elements=None),
    st.integers(0, 300),
    st.booleans(),
)
def test_ids_pass_exactly_when_in_range(ids, upper, allow_missing):
    values = [int(value) for value in ids]
    if all(0 <= value < upper or (allow_missing and value == -1) for value in values):
        out = as_vector_ids(ids, "ids", upper=upper, allow_missing=allow_missing)
        assert out.tolist() == values
    else:
        with pytest.raises(ValueError, match="ids: expected 0 <= id"):
            as_vector_ids(ids, "ids", upper=upper, allow_missing=allow_missing)


# --- plain arguments ----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [7, np.int8(7), np.uint64(7), np.array(7)])
def test_check_int(value):
    out = check_int(value, "k", low=7, high=7)
    assert type(out) is int
    assert out == 7


@pytest.mark.parametrize("wrong", [True, np.True_, 7.0, np.float32(7), "7", None, [7]])
def test_check_int_types(wrong):
    with pytest.raises(TypeError, match="k: expected an integer, got"):
        check_int(wrong, "k")


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (1, None, "k: expected an integer of at least 1, got 0"),
        (None, -1, "k: expected an integer of at most -1, got 0"),
        (1, 9, "k: expected an integer from 1 to 9, got 0"),
    ],
)
def test_check_int_bounds(low, high, message):
    with pytest.raises(ValueError, match=message):
        check_int(0, "k", low=low, high=high)


@pytest.mark.parametrize("value", [1, 1.0, np.float16(1), np.int64(1), Fraction(1)])
def test_check_real(value):
    out = check_real(value, "alpha", low=1, high=1.0)
    assert type(out) is float
    assert out == 1.0


@pytest.mark.parametrize("wrong", [True, np.False_, "1", None, 1j, [1.0], np.array(1.0)])
def test_check_real_types(wrong):
    with pytest.raises(TypeError, match="alpha: expected a real number, got"):
        check_real(wrong, "alpha")


@pytest.mark.parametrize(
    ("wrong", "options", "message"),
    [
        (float("nan"), {}, "alpha: expected a finite number, got nan"),
        (np.float32("nan"), {"allow_inf": True}, "alpha: expected a number, got nan"),
        (float("inf"), {}, "alpha: expected a finite number, got inf"),
        (10**400, {}, "alpha: expected a number in float64's range"),
        (1.5, {"low": 0, "high": 1}, "alpha: expected a number from 0 to 1, got 1.5"),
        (-1, {"low": 0}, "alpha: expected a number of at least 0, got -1.0"),
        (float("inf"), {"high": 1, "allow_inf": True}, "alpha: expected a number of at most 1"),
    ],
)
def test_check_real_values(wrong, options, message):
    with pytest.raises(ValueError, match=message):
        check_real(wrong, "alpha", **options)


def test_check_real_infinity():
    assert check_real(float("inf"), "deadline", allow_inf=True) == float("inf")


def test_check_choice():
    out = check_choice(np.str_("b"), "mode", ("a", "b"))
    assert type(out) is str
    assert out == "b"
    with pytest.raises(ValueError, match="mode: expected one of 'a', 'b', got 'c'"):
        check_choice("c", "mode", ("a", "b"))
    with pytest.raises(TypeError, match="mode: expected one of 'a', 'b', got NoneType None"):
        check_choice(None, "mode", ("a", "b"))
    with pytest.raises(TypeError, match="mode: expected one of 'a', 'b', got list"):
        check_choice(["a"], "mode", ("a", "b"))


def test_check_metric():
    for metric in ("l2", "ip", "cosine"):
        assert check_metric(metric) == metric
    with pytest.raises(ValueError, match="metric: expected one of 'l2', 'ip', 'cosine', got 'L2'"):
        check_metric("L2")


def test_as_ndarray_leaves_dtype_and_values_alone():
    strange = np.array([[np.nan, 1j]])
    assert as_ndarray(strange, "array") is strange
