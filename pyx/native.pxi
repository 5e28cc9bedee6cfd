# What every family shares: views as pointers, Ctrl-C, and the shape check.

from _thread import get_ident
from threading import main_thread

cimport cython
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.memory cimport unique_ptr
from libcpp.vector cimport vector

cdef extern from "Python.h":
    int PyErr_CheckSignals() noexcept

cdef extern from "drive/threads.h" namespace "lw" nogil:
    cdef cppclass Interrupt:
        cbool (*asked)(void*) noexcept nogil
        void* context

cdef extern from "drive/rows.h" namespace "lw" nogil:
    cdef enum class Metric:
        kL2
        kInnerProduct
        kCosine
    cdef enum class Number:
        kFloat32
        kUint8
        kInt8
    cdef cppclass CRows "lw::Rows":
        const void* data
        Number type

ctypedef fused number:
    float
    uint8_t
    int8_t


cdef cbool interrupt_asked(void* context) noexcept nogil:
    """Leave the handler's exception pending in this thread: `finish` raises it once the driver has come back."""
    with gil:
        return PyErr_CheckSignals() != 0


cdef inline Interrupt ctrl_c() except *:
    """Only the main thread hears signals; any other would take the GIL for nothing, even at exit."""
    cdef Interrupt interrupt
    interrupt.asked = NULL
    if get_ident() == main_thread().ident:
        interrupt.asked = interrupt_asked
    interrupt.context = NULL
    return interrupt


cdef int finish(cbool finished) except -1:
    """Raise what a signal handler left pending if the driver was stopped."""
    return 0 if finished else -1


cdef int expect(cbool condition, str what) except -1:
    if not condition:
        raise ValueError("native call: " + what)
    return 0


cdef object _hold(const number[:, ::1] rows, CRows* view, size_t* n, size_t* dim):
    if number is float:
        view.type = Number.kFloat32
    elif number is uint8_t:
        view.type = Number.kUint8
    else:
        view.type = Number.kInt8
    view.data = &rows[0, 0]
    n[0] = rows.shape[0]
    dim[0] = rows.shape[1]
    return rows


cdef object hold_rows(rows, CRows* view, size_t* n, size_t* dim):
    """View rows of float32, uint8 or int8; returns what holds on to them."""
    cdef str numbers = memoryview(rows).format
    if numbers == "B":
        return _hold[uint8_t](rows, view, n, dim)
    if numbers == "b":
        return _hold[int8_t](rows, view, n, dim)
    return _hold[float](rows, view, n, dim)


cdef Metric to_metric(str metric) except *:
    if metric == "l2":
        return Metric.kL2
    if metric == "ip":
        return Metric.kInnerProduct
    if metric == "cosine":
        return Metric.kCosine
    raise ValueError("native call: metric " + metric)
