# cpp/drive/pq.h

cdef extern from "drive/pq.h" namespace "lw" nogil:
    cdef cppclass CWords "lw::Words":
        size_t dim
        size_t n_subspaces
        size_t n_bits
        const float* words
        const float* panels
        size_t n_words()
    cdef cppclass CProductPlan "lw::ProductPlan":
        CWords words
        const float* center
        const float* centroids
        size_t n_lists
        cbool by_residual
        size_t n_bytes()
    cdef cppclass CProductCodes "lw::ProductCodes":
        uint8_t* codes
        float* base
        uint16_t* factors
        uint16_t* errors
    cdef cppclass CPreparedPlan "lw::PreparedPlan":
        CPreparedPlan()
        CPreparedPlan(const CKernels&, const CProductPlan&) except +
        CProductPlan plan
    cbool c_train_words "lw::train_words"(const CKernels&, const float*, size_t, const CWords&, float*, size_t, size_t,
                                          const Interrupt&) except +
    cbool c_encode "lw::encode"(const CKernels&, const CWords&, const float*, size_t, uint8_t*, size_t,
                                const Interrupt&) except +
    cbool c_fill_products "lw::fill_products"(const CKernels&, const CStore&, const CPreparedPlan&,
                                              const CProductCodes&, size_t, size_t, size_t,
                                              const Interrupt&) except +
    cbool c_scan_products "lw::scan_products"(const CKernels&, const CStore&, const CPreparedPlan&,
                                              const CProductCodes&, const Request&, const Output&, size_t,
                                              const Interrupt&) except +


cdef class Words:
    """Code words (n_subspaces, 16 or 256, length) and axes as panels, which may be None. Holds on to its arrays."""

    cdef CWords view
    cdef object _arrays

    def __init__(self, const float[:, :, ::1] words, const float[:, :, ::1] panels):
        cdef size_t m = words.shape[0], n_words = words.shape[1], length = words.shape[2]
        cdef size_t dim = m * length
        expect(m > 0 and length > 0 and (n_words == 16 or n_words == 256), "words shape")
        if panels is not None:
            expect(<size_t> panels.shape[0] == (dim + kLanes - 1) // kLanes and <size_t> panels.shape[1] == dim
                   and <size_t> panels.shape[2] == kLanes, "words axes")
        self._arrays = (words, panels)
        self.view.dim = dim
        self.view.n_subspaces = m
        self.view.n_bits = 4 if n_words == 16 else 8
        self.view.words = &words[0, 0, 0]
        self.view.panels = <const float*> NULL if panels is None else &panels[0, 0, 0]

    def encode(self, Kernels kernels, const float[:, ::1] x, uint8_t[:, ::1] codes, size_t n_threads):
        """codes (n, n_subspaces) of the rows of x."""
        cdef size_t n = x.shape[0]
        expect(<size_t> x.shape[1] == self.view.dim and codes.shape[0] == x.shape[0], "encode shapes")
        expect(<size_t> codes.shape[1] == self.view.n_subspaces, "encode out")
        cdef const float* row = &x[0, 0]
        cdef uint8_t* code = &codes[0, 0]
        cdef Interrupt interrupt = ctrl_c()
        cdef cbool finished
        with nogil:
            finished = c_encode(kernels.row[0], self.view, row, n, code, n_threads, interrupt)
        finish(finished)


def train_words(Kernels kernels, const float[:, ::1] x, float[:, :, ::1] words, size_t n_iterations,
                size_t n_threads):
    """Improve words (n_subspaces, 16 or 256, length) by Lloyd's algorithm in every sub-space of x."""
    cdef Words shape = Words(words, None)
    cdef size_t n = x.shape[0]
    expect(n > 0 and <size_t> x.shape[1] == shape.view.dim, "train shapes")
    cdef const float* row = &x[0, 0]
    cdef float* target = &words[0, 0, 0]
    cdef Interrupt interrupt = ctrl_c()
    cdef cbool finished
    with nogil:
        finished = c_train_words(kernels.row[0], row, n, shape.view, target, n_iterations, n_threads, interrupt)
    finish(finished)


cdef class ProductPlan:
    """What rows in lists are coded by: words, and centroids (n_lists, dim). Holds on to what it is made of."""

    cdef CPreparedPlan prepared
    cdef object _arrays

    def __init__(self, Kernels kernels, Words words, const float[::1] center, const float[:, ::1] centroids,
                 cbool by_residual):
        cdef size_t dim = words.view.dim
        expect(<size_t> center.shape[0] == dim and <size_t> centroids.shape[1] == dim and centroids.shape[0] > 0,
               "product plan centroids")
        self._arrays = (words, center, centroids)
        cdef CProductPlan plan
        plan.words = words.view
        plan.center = &center[0]
        plan.centroids = &centroids[0, 0]
        plan.n_lists = centroids.shape[0]
        plan.by_residual = by_residual
        self.prepared = CPreparedPlan(kernels.row[0], plan)

    @property
    def n_bytes(self):
        """Bytes of a row's codes."""
        return self.prepared.plan.n_bytes()


cdef class Products:
    """The product codes of a store's rows. Holds on to the arrays that it is made of.

    Shapes: codes (positions * n_bytes,), the others (positions,).
    """

    cdef ProductPlan plan
    cdef CProductCodes view
    cdef size_t positions
    cdef object _arrays

    def __init__(self, ProductPlan plan, uint8_t[::1] codes, float[::1] base, uint16_t[::1] factors,
                 uint16_t[::1] errors):
        cdef size_t n = base.shape[0]
        expect(n < <size_t> 1 << 32, "products positions")
        expect(n % kLanes == 0 and <size_t> codes.shape[0] == n * plan.prepared.plan.n_bytes(), "products shape")
        expect(<size_t> factors.shape[0] == n and <size_t> errors.shape[0] == n, "products rows")
        self.plan = plan
        self.positions = n
        self._arrays = (codes, base, factors, errors)
        self.view.codes = &codes[0]
        self.view.base = &base[0]
        self.view.factors = &factors[0]
        self.view.errors = &errors[0]

    cdef int fits(self, Store store) except -1:
        """Every list of the store has a centroid, every row a code."""
        expect(store.view.dim == self.plan.prepared.plan.words.dim and store.positions <= self.positions,
               "products store")
        return expect(self.plan.prepared.plan.n_lists == store.view.n_lists, "products lists")

    def fill(self, Kernels kernels, Store store, size_t first, size_t last, size_t n_threads):
        """Enter the rows of the store at positions [first, last), multiples of 16."""
        self.fits(store)
        expect(first % kLanes == 0 and last % kLanes == 0 and first <= last, "products range")
        expect(last <= self.positions and last <= store.positions, "products range")
        cdef Interrupt interrupt = ctrl_c()
        cdef cbool finished
        with nogil:
            finished = c_fill_products(kernels.row[0], store.view, self.plan.prepared, self.view, first, last,
                                       n_threads, interrupt)
        finish(finished)
