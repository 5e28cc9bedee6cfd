# cpp/drive/rotate.h

cdef extern from "drive/rotate.h" namespace "lw" nogil:
    cdef cppclass CRotation "lw::Rotation":
        size_t dim
        size_t chunk
        size_t stride
        const float* weights
        double error_bound()
    cdef enum class RotateOutcome:
        kRotated
        kInterrupted
        kNotFinite
    RotateOutcome rotate_all(const CKernels&, const CRotation&, const float*, size_t, float*, size_t,
                             const Interrupt&) except +
    RotateOutcome rotate_back_all(const CKernels&, const CRotation&, const float*, size_t, float*, size_t,
                                  const Interrupt&) except +


cdef class Rotation:
    """The plan of a rotation: chunk and stride of its permutation, and its weights (rounds, dim)."""

    cdef CRotation plan
    cdef object _weights

    def __init__(self, const float[:, ::1] weights, size_t chunk, size_t stride):
        cdef size_t dim = weights.shape[1]
        expect(weights.shape[0] == 3 and dim > 0 and chunk > 0 and dim % chunk == 0, "rotation weights")
        expect(0 < stride <= dim // chunk, "rotation stride")
        self._weights = weights
        self.plan.dim = dim
        self.plan.chunk = chunk
        self.plan.stride = stride
        self.plan.weights = &weights[0, 0]

    @property
    def error_bound(self):
        return self.plan.error_bound()

    def apply(self, Kernels kernels, const float[:, ::1] x, float[:, ::1] y, size_t n_threads, cbool back):
        """y <- R x, or R^T x if back. Returns False, and y undefined, if x is not finite or too long."""
        cdef size_t n = x.shape[0]
        expect(<size_t> x.shape[1] == self.plan.dim and y.shape[0] == x.shape[0] and y.shape[1] == x.shape[1],
               "rotation shapes")
        cdef const float* source = &x[0, 0]
        cdef float* target = &y[0, 0]
        cdef Interrupt interrupt = ctrl_c()
        cdef RotateOutcome outcome
        with nogil:
            if back:
                outcome = rotate_back_all(kernels.row[0], self.plan, source, n, target, n_threads, interrupt)
            else:
                outcome = rotate_all(kernels.row[0], self.plan, source, n, target, n_threads, interrupt)
        finish(outcome != RotateOutcome.kInterrupted)
        return outcome == RotateOutcome.kRotated
