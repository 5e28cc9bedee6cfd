# cpp/drive/binary.h

cdef extern from "drive/binary.h" namespace "lw" nogil:
    cdef cppclass CBitPlan "lw::BitPlan":
        size_t dim
        size_t n_bits
        size_t n_axes
        const float* center
        const float* panels
        CRotation rotation
        double outside
        size_t fine_bits
        size_t fine_stride()
    cdef cppclass CBits "lw::Bits":
        uint8_t* bits
        float* base
        uint16_t* factors
        uint16_t* errors
        int8_t* fine
        float* fine_factors
        uint16_t* fine_errors
    cbool c_fill_bits "lw::fill_bits"(const CKernels&, const CStore&, const CBitPlan&, const CBits&, size_t, size_t,
                                      size_t, const Interrupt&) except +
    cbool c_scan_bits "lw::scan_bits"(const CKernels&, const CStore&, const CBitPlan&, const CBits&, const Request&,
                                      const Output&, size_t, const Interrupt&) except +


cdef class BitPlan:
    """Axes and rotation of sign bits. Holds on to what it is made of; panels may be None."""

    cdef CBitPlan plan
    cdef object _arrays

    def __init__(self, const float[::1] center, size_t n_axes, const float[:, :, ::1] panels, Rotation rotation,
                 double outside, size_t fine_bits=0):
        cdef size_t dim = center.shape[0], n_bits = rotation.plan.dim
        expect(dim > 0 and n_bits % 64 == 0 and n_bits <= 262144, "bit plan dimension")
        expect(fine_bits == 0 or fine_bits == 2 or fine_bits == 4, "bit plan fine bits")
        expect(0 < n_axes <= min(dim, n_bits) and outside >= 0, "bit plan axes")
        if panels is None:
            expect(n_axes == dim, "bit plan axes")
        else:
            expect(<size_t> panels.shape[0] == (n_axes + kLanes - 1) // kLanes and <size_t> panels.shape[1] == dim
                   and <size_t> panels.shape[2] == kLanes, "bit plan axes")
        self._arrays = (center, panels, rotation)
        self.plan.dim = dim
        self.plan.n_bits = n_bits
        self.plan.n_axes = n_axes
        self.plan.center = &center[0]
        self.plan.panels = <const float*> NULL if panels is None else &panels[0, 0, 0]
        self.plan.rotation = rotation.plan
        self.plan.outside = outside
        self.plan.fine_bits = fine_bits

    @property
    def fine_stride(self):
        """Bytes of a row's fine codes."""
        return self.plan.fine_stride()


cdef class Bits:
    """The sign bits of a store's rows, and their fine codes. Holds on to the arrays that it is made of.

    Shapes: bits (positions * n_bits / 8,), fine (positions * fine_stride,), the others (positions,). The fine ones are
    None without fine codes.
    """

    cdef BitPlan plan
    cdef CBits view
    cdef size_t positions
    cdef object _arrays

    def __init__(self, BitPlan plan, uint8_t[::1] bits, float[::1] base, uint16_t[::1] factors, uint16_t[::1] errors,
                 int8_t[::1] fine=None, float[::1] fine_factors=None, uint16_t[::1] fine_errors=None):
        cdef size_t n = base.shape[0]
        expect(n < <size_t> 1 << 32, "bits positions")
        expect(n % kLanes == 0 and <size_t> bits.shape[0] == n * (plan.plan.n_bits // 8), "bits shape")
        expect(<size_t> factors.shape[0] == n and <size_t> errors.shape[0] == n, "bits rows")
        if plan.plan.fine_bits > 0:
            expect(fine is not None and fine_factors is not None and fine_errors is not None, "bits fine codes")
            expect(<size_t> fine.shape[0] == n * plan.plan.fine_stride() and <size_t> fine_factors.shape[0] == n
                   and <size_t> fine_errors.shape[0] == n, "bits fine codes")
            self.view.fine = &fine[0]
            self.view.fine_factors = &fine_factors[0]
            self.view.fine_errors = &fine_errors[0]
        self.plan = plan
        self.positions = n
        self._arrays = (bits, base, factors, errors, fine, fine_factors, fine_errors)
        self.view.bits = &bits[0]
        self.view.base = &base[0]
        self.view.factors = &factors[0]
        self.view.errors = &errors[0]

    def fill(self, Kernels kernels, Store store, size_t first, size_t last, size_t n_threads):
        """Enter the rows of the store at positions [first, last), multiples of 16."""
        expect(store.view.dim == self.plan.plan.dim, "bits dimension")
        expect(first % kLanes == 0 and last % kLanes == 0 and first <= last, "bits range")
        expect(last <= self.positions and last <= store.positions, "bits range")
        cdef Interrupt interrupt = ctrl_c()
        cdef cbool finished
        with nogil:
            finished = c_fill_bits(kernels.row[0], store.view, self.plan.plan, self.view, first, last, n_threads,
                                   interrupt)
        finish(finished)
