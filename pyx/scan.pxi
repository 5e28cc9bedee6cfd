# cpp/drive/store.h, scan.h, codes.h

cdef extern from "drive/store.h" namespace "lw" nogil:
    cdef cppclass CStore "lw::Store":
        size_t dim
        Metric metric
        size_t n_rows
        size_t n_lists
        const int64_t* list_begin
        const int64_t* list_size
        const int64_t* row_of
        const int64_t* labels
        CRows rows
        double max_norm
    cdef cppclass Request:
        const float* queries
        size_t n_queries
        const int64_t* probes
        size_t n_probe
        const uint64_t* allowed
        size_t k
        float radius
        double eps0
        size_t delta
        size_t rerank
        size_t refine
    cdef cppclass ScanStats:
        uint64_t candidates
        uint64_t dimensions
        uint64_t settled
    cdef cppclass Neighbor:
        float distance
        int64_t id
    cdef cppclass Output:
        float* distances
        int64_t* ids
        ScanStats* stats
        vector[vector[Neighbor]]* within

    cbool c_rescore "lw::rescore"(const CKernels&, const CStore&, const float*, size_t, const int64_t*, size_t, size_t,
                                  const Output&, size_t, const Interrupt&) except +

cdef extern from "drive/scan.h" namespace "lw" nogil:
    cdef cppclass CBlocks "lw::Blocks":
        CRotation rotation
        const float* center
        const float* norms
        const float* data
        double max_centered_norm
    cbool c_fill_blocks "lw::fill_blocks"(const CKernels&, const CRotation&, const float*, const CStore&, size_t,
                                          size_t, float*, float*, double*, size_t, const Interrupt&) except +
    cbool c_scan_blocks "lw::scan_blocks"(const CKernels&, const CStore&, const CBlocks&, const Request&,
                                          const Output&, size_t, const Interrupt&) except +

cdef extern from "drive/codes.h" namespace "lw" nogil:
    size_t kMostFrontSteps
    cdef cppclass CCodePlan "lw::CodePlan":
        size_t dim
        size_t n_front
        size_t n_steps
        size_t n_front_steps
        const uint32_t* ends
        const float* center
        const float* panels
        double distortion
        const float* scales
        double front_length
        double body_length
        double residual
        size_t body_bits
        const double* neighbors
        size_t begin(size_t)
        size_t body_stride()
        size_t n_tails()
    cdef cppclass CCodes "lw::Codes":
        int8_t** fronts
        int8_t* body
        float* base
        uint16_t* residuals
        uint16_t* tails
        size_t tail_stride
    cbool c_fill_codes "lw::fill_codes"(const CKernels&, const CStore&, const CCodePlan&, const CCodes&, size_t,
                                        size_t, size_t, const Interrupt&) except +
    cbool c_project_all "lw::project_all"(const CKernels&, const CCodePlan&, const float*, size_t, float*, size_t,
                                          const Interrupt&) except +
    cbool c_scan_codes "lw::scan_codes"(const CKernels&, const CStore&, const CCodePlan&, const CCodes&,
                                        const Request&, const Output&, size_t, const Interrupt&) except +


cdef class Store:
    """Rows in lists. Holds on to the arrays that it is made of.

    row_of (positions,) may be None for a single list that holds the rows in order, labels (n,) for row numbers. rows
    are float32, uint8 or int8.
    Positions before first_position are those of an earlier store, which has checked them.
    """

    cdef CStore view
    cdef size_t positions
    cdef object _arrays

    def __init__(self, str metric, const int64_t[::1] list_begin, const int64_t[::1] list_size,
                 const int64_t[::1] row_of, const int64_t[::1] labels, rows, double max_norm, int64_t first_position=0):
        cdef size_t n_lists = list_size.shape[0], i
        cdef object held = hold_rows(rows, &self.view.rows, &self.view.n_rows, &self.view.dim)
        cdef int64_t at, n_rows = self.view.n_rows
        cdef cbool sound = True, in_order = row_of is None
        expect(<size_t> list_begin.shape[0] == n_lists + 1 and n_lists > 0 and list_begin[0] == 0, "store lists")
        self.positions = list_begin[n_lists]
        expect(in_order or <size_t> row_of.shape[0] == self.positions, "store positions")
        expect(not in_order or (n_lists == 1 and list_size[0] == n_rows), "store rows")
        expect(labels is None or labels.shape[0] == n_rows, "store labels")
        # Padding behind a list is never looked at, and a later store may already use it.
        with nogil:
            for i in range(n_lists):
                sound = (sound and list_begin[i + 1] % <int64_t> kLanes == 0 and list_size[i] >= 0
                         and list_size[i] <= list_begin[i + 1] - list_begin[i])
                if not sound:
                    break
                if in_order:
                    continue
                for at in range(max(list_begin[i], first_position), list_begin[i] + list_size[i]):
                    sound = sound and 0 <= row_of[at] < n_rows
        expect(sound, "store lists or rows")
        self._arrays = (list_begin, list_size, row_of, labels, held)
        self.view.metric = to_metric(metric)
        self.view.n_lists = n_lists
        self.view.list_begin = &list_begin[0]
        self.view.list_size = &list_size[0]
        self.view.row_of = <const int64_t*> NULL if in_order else &row_of[0]
        self.view.labels = <const int64_t*> NULL if labels is None else &labels[0]
        self.view.max_norm = max_norm


cdef class Blocks:
    """The rotated rows of a store in float32. Holds on to the arrays that it is made of."""

    cdef CBlocks view
    cdef size_t positions
    cdef object _arrays

    def __init__(self, Rotation rotation, const float[::1] center, const float[::1] norms, const float[::1] data,
                 double max_centered_norm):
        cdef size_t dim = rotation.plan.dim
        self.positions = norms.shape[0]
        expect(<size_t> data.shape[0] == self.positions * dim and <size_t> center.shape[0] == dim, "blocks shapes")
        self._arrays = (rotation, center, norms, data)
        self.view.rotation = rotation.plan
        self.view.center = &center[0]
        self.view.norms = &norms[0]
        self.view.data = &data[0]
        self.view.max_centered_norm = max_centered_norm


cdef class CodePlan:
    """Axes and steps of byte codes. Holds on to the arrays that it is made of; panels may be None."""

    cdef CCodePlan plan
    cdef object _arrays

    def __init__(self, size_t n_front, size_t n_front_steps, const uint32_t[::1] ends, const float[::1] center,
                 const float[:, :, ::1] panels, double distortion, const float[::1] scales,
                 double front_length, double body_length, double residual,
                 const double[:, ::1] neighbors, size_t body_bits=8):
        cdef size_t dim = center.shape[0], n_steps = ends.shape[0], i
        expect(front_length > 0 and body_length > 0 and distortion >= 0, "code plan bounds")
        expect(dim > 0 and dim <= 65536 and <size_t> scales.shape[0] == dim, "code plan dimension")
        expect(body_bits == 8 or body_bits == 4, "code plan bits")
        expect(n_front >= 4 and n_front % 4 == 0 and 0 < n_front_steps <= n_steps, "code plan front")
        expect(n_front_steps <= kMostFrontSteps, "code plan front")
        for i in range(n_steps):
            expect(ends[i] > (0 if i == 0 else ends[i - 1]), "code plan steps")
            if i < n_front_steps:
                expect(ends[i] % 4 == 0, "code plan steps")
            elif i < n_steps - 1:
                expect((ends[i] - n_front) % (64 if body_bits == 8 else 128) == 0, "code plan steps")
        expect(ends[n_front_steps - 1] == n_front and ends[n_steps - 1] >= dim, "code plan steps")
        expect(ends[n_steps - 1] < dim + 4, "code plan steps")
        if panels is not None:
            expect(<size_t> panels.shape[0] == (dim + kLanes - 1) // kLanes and <size_t> panels.shape[1] == dim
                   and <size_t> panels.shape[2] == kLanes, "code plan axes")
        expect(residual >= 0 and <size_t> neighbors.shape[0] == n_steps and neighbors.shape[1] == 2,
               "code plan neighbours")
        self._arrays = (ends, center, panels, scales, neighbors)
        self.plan.dim = dim
        self.plan.n_front = n_front
        self.plan.n_steps = n_steps
        self.plan.n_front_steps = n_front_steps
        self.plan.ends = &ends[0]
        self.plan.center = &center[0]
        self.plan.panels = <const float*> NULL if panels is None else &panels[0, 0, 0]
        self.plan.distortion = distortion
        self.plan.scales = &scales[0]
        self.plan.front_length = front_length
        self.plan.body_length = body_length
        self.plan.residual = residual
        self.plan.body_bits = body_bits
        self.plan.neighbors = &neighbors[0, 0]

    @property
    def body_stride(self):
        """Bytes of a row behind the front."""
        return self.plan.body_stride()

    @property
    def n_tails(self):
        """Steps whose tails are stored."""
        return self.plan.n_tails()

    def project(self, Kernels kernels, const float[:, ::1] x, float[:, ::1] y, size_t n_threads):
        """y <- M (x - center)."""
        expect(<size_t> x.shape[1] == self.plan.dim and y.shape[0] == x.shape[0] and y.shape[1] == x.shape[1],
               "project shapes")
        cdef const float* source = &x[0, 0]
        cdef float* target = &y[0, 0]
        cdef size_t n = x.shape[0]
        cdef Interrupt interrupt = ctrl_c()
        cdef cbool finished
        with nogil:
            finished = c_project_all(kernels.row[0], self.plan, source, n, target, n_threads, interrupt)
        finish(finished)


cdef class Codes:
    """The byte codes of a store's rows. Holds on to the arrays that it is made of.

    Shapes: body (positions * body_stride + 64,), base and residuals (positions,), tails (n_tails, positions), and for
    each step of the front (positions * dimensions + 1024,).
    """

    cdef CodePlan plan
    cdef CCodes view
    cdef size_t positions
    cdef object _arrays

    def __init__(self, CodePlan plan, int8_t[::1] body, float[::1] base, uint16_t[::1] residuals,
                 uint16_t[:, ::1] tails, *fronts):
        cdef size_t n = base.shape[0], step
        cdef int8_t[::1] front
        expect(n % kLanes == 0 and <size_t> residuals.shape[0] == n, "codes rows")
        expect(<size_t> len(fronts) == plan.plan.n_front_steps, "codes front")
        for step in range(plan.plan.n_front_steps):
            front = fronts[step]
            expect(<size_t> front.shape[0] == n * (plan.plan.ends[step] - plan.plan.begin(step)) + 1024, "codes front")
            self.view.fronts[step] = &front[0]
        expect(<size_t> body.shape[0] == n * plan.plan.body_stride() + 64, "codes body")
        expect(<size_t> tails.shape[0] == plan.plan.n_tails() and <size_t> tails.shape[1] == n, "codes tails")
        self.plan = plan
        self.positions = n
        self._arrays = (fronts, body, base, residuals, tails)
        self.view.body = &body[0]
        self.view.base = &base[0]
        self.view.residuals = &residuals[0]
        self.view.tails = &tails[0, 0]
        self.view.tail_stride = n

    def fill(self, Kernels kernels, Store store, size_t first, size_t last, size_t n_threads):
        """Code the rows of the store at positions [first, last), multiples of 16."""
        expect(store.view.dim == self.plan.plan.dim, "codes dimension")
        expect(first % kLanes == 0 and last % kLanes == 0 and first <= last, "codes range")
        expect(last <= self.positions and last <= store.positions, "codes range")
        cdef Interrupt interrupt = ctrl_c()
        cdef cbool finished
        with nogil:
            finished = c_fill_codes(kernels.row[0], store.view, self.plan.plan, self.view, first, last, n_threads,
                                    interrupt)
        finish(finished)


def fill_blocks(Kernels kernels, Rotation rotation, const float[::1] center, Store store, size_t first, size_t last,
                float[::1] norms, float[::1] data, size_t n_threads):
    """Rotate rows into the blocks that have positions in [first, last); norms may be None.

    Returns the largest |x - center|^2 among them.
    """
    cdef size_t dim = rotation.plan.dim
    expect(store.view.dim == dim and <size_t> center.shape[0] == dim, "blocks dimension")
    expect(<size_t> data.shape[0] >= store.positions * dim, "blocks shapes")
    cdef float* norm = NULL
    if norms is not None:
        expect(<size_t> norms.shape[0] >= store.positions, "blocks norms")
        norm = &norms[0]
    cdef const float* middle = &center[0]
    cdef float* block = &data[0]
    cdef double max_centered_norm2 = 0
    cdef Interrupt interrupt = ctrl_c()
    cdef cbool finished
    with nogil:
        finished = c_fill_blocks(kernels.row[0], rotation.plan, middle, store.view, first, last, norm, block,
                                 &max_centered_norm2, n_threads, interrupt)
    finish(finished)
    return max_centered_norm2


cdef int _scan(Kernels kernels, Store store, object planes, Request& request, Output& output,
               size_t n_threads) except -1:
    cdef Interrupt interrupt = ctrl_c()
    cdef cbool finished
    cdef Blocks blocks
    cdef Codes codes
    cdef Bits bits
    cdef Products products
    if isinstance(planes, Codes):
        codes = planes
        expect(codes.positions >= store.positions and codes.plan.plan.dim == store.view.dim, "scan codes")
        with nogil:
            finished = c_scan_codes(kernels.row[0], store.view, codes.plan.plan, codes.view, request, output,
                                    n_threads, interrupt)
    elif isinstance(planes, Bits):
        bits = planes
        expect(bits.positions >= store.positions and bits.plan.plan.dim == store.view.dim, "scan bits")
        expect(request.rerank >= request.k, "scan rerank")
        expect(bits.plan.plan.fine_bits == 0 or request.refine >= request.rerank, "scan refine")
        with nogil:
            finished = c_scan_bits(kernels.row[0], store.view, bits.plan.plan, bits.view, request, output, n_threads,
                                   interrupt)
    elif isinstance(planes, Products):
        products = planes
        products.fits(store)
        expect((request.rerank == 0 or request.rerank >= request.k) and request.probes == NULL, "scan rerank")
        expect(0 < request.n_probe <= store.view.n_lists, "scan probes")
        with nogil:
            finished = c_scan_products(kernels.row[0], store.view, products.plan.prepared, products.view, request,
                                       output, n_threads, interrupt)
    else:
        blocks = planes
        expect(blocks.positions == store.positions and blocks.view.rotation.dim == store.view.dim, "scan blocks")
        with nogil:
            finished = c_scan_blocks(kernels.row[0], store.view, blocks.view, request, output, n_threads, interrupt)
    return finish(finished)


cdef int _request(Store store, const float[:, ::1] queries, const int64_t[:, ::1] probes, const uint64_t[::1] allowed,
                  double eps0, size_t delta, Request* request) except -1:
    cdef size_t n_queries = queries.shape[0], n_probe = 0, i, j
    expect(<size_t> queries.shape[1] == store.view.dim and delta > 0, "scan dimension")
    request.queries = &queries[0, 0]
    request.n_queries = n_queries
    request.probes = NULL
    request.n_probe = 0
    if probes is not None:
        n_probe = probes.shape[1]
        expect(probes.shape[0] == queries.shape[0] and n_probe > 0, "scan probes")
        for i in range(n_queries):
            for j in range(n_probe):
                expect(-1 <= probes[i, j] < <int64_t> store.view.n_lists, "scan probes")
        request.probes = &probes[0, 0]
        request.n_probe = n_probe
    request.allowed = NULL
    if allowed is not None:
        expect(<size_t> allowed.shape[0] * 64 >= store.view.n_rows, "scan filter")
        request.allowed = &allowed[0]
    request.eps0 = eps0
    request.delta = delta
    request.rerank = 0
    request.refine = 0
    return 0


cdef ScanStats* _stats(size_t n_queries, uint64_t[:, ::1] stats) except NULL:
    expect(<size_t> stats.shape[0] == n_queries and stats.shape[1] == 3 and sizeof(ScanStats) == 24, "stats")
    return <ScanStats*> &stats[0, 0]


cdef Output _answers(size_t n_queries, size_t k, float[:, ::1] distances, int64_t[:, ::1] ids,
                     uint64_t[:, ::1] stats) except *:
    cdef Output output
    expect(k > 0 and <size_t> distances.shape[0] == n_queries and <size_t> distances.shape[1] == k, "distances")
    expect(<size_t> ids.shape[0] == n_queries and <size_t> ids.shape[1] == k, "ids")
    output.distances = &distances[0, 0]
    output.ids = &ids[0, 0]
    output.stats = _stats(n_queries, stats)
    output.within = NULL
    return output


def scan(Kernels kernels, Store store, planes, const float[:, ::1] queries, const int64_t[:, ::1] probes,
         const uint64_t[::1] allowed, size_t k, double eps0, size_t delta, float[:, ::1] distances,
         int64_t[:, ::1] ids, uint64_t[:, ::1] stats, size_t n_threads, size_t rerank=0, size_t n_probe=0,
         size_t refine=0, float radius=float("inf")):
    """Fill distances and ids (n, k) and stats (n, 3) by a scan of planes, the store's Blocks, Codes, Bits or
    Products.

    probes (n, n_probe) may be None for all lists, allowed (one bit a row) None for all rows. rerank is for
    Bits and Products, refine for Bits with fine codes, n_probe for Products, which find the lists themselves; radius,
    beyond which nothing is answered, is for the others.
    """
    cdef Request request
    _request(store, queries, probes, allowed, eps0, delta, &request)
    cdef Output output = _answers(queries.shape[0], k, distances, ids, stats)
    request.k = k
    request.rerank = rerank
    request.refine = refine
    if n_probe > 0:
        request.n_probe = n_probe
    request.radius = radius
    _scan(kernels, store, planes, request, output, n_threads)


cdef class Within:
    """What `scan_within` found: one list a query, best first."""

    cdef vector[vector[Neighbor]] lists

    def sizes(self, int64_t[::1] out):
        """out[q] = length of the list of query q."""
        cdef size_t q
        expect(<size_t> out.shape[0] == self.lists.size(), "within sizes")
        for q in range(self.lists.size()):
            out[q] = self.lists[q].size()

    def copy(self, float[::1] distances, int64_t[::1] ids):
        """All lists, one behind the other."""
        cdef size_t q, i, at = 0
        expect(distances.shape[0] == ids.shape[0], "within out")
        for q in range(self.lists.size()):
            expect(at + self.lists[q].size() <= <size_t> ids.shape[0], "within out")
            for i in range(self.lists[q].size()):
                distances[at] = self.lists[q][i].distance
                ids[at] = self.lists[q][i].id
                at += 1


def scan_within(Kernels kernels, Store store, planes, const float[:, ::1] queries, const int64_t[:, ::1] probes,
                const uint64_t[::1] allowed, float radius, double eps0, size_t delta, uint64_t[:, ::1] stats,
                size_t n_threads):
    """All rows no farther than the radius, as `Within`; otherwise like `scan`."""
    cdef Request request
    cdef Within found = Within.__new__(Within)
    _request(store, queries, probes, allowed, eps0, delta, &request)
    request.k = <size_t> -1
    request.radius = radius
    cdef Output output
    output.distances = NULL
    output.ids = NULL
    output.stats = _stats(queries.shape[0], stats)
    output.within = &found.lists
    found.lists.resize(queries.shape[0])
    _scan(kernels, store, planes, request, output, n_threads)
    return found


def rescore(Kernels kernels, Store store, const float[:, ::1] queries, const int64_t[:, ::1] rows, size_t k,
            float[:, ::1] distances, int64_t[:, ::1] ids, uint64_t[:, ::1] stats, size_t n_threads):
    """Fill distances and ids (n, k) with the nearest of the named rows (n, m), -1 for none; stats as in `scan`."""
    cdef size_t n_queries = queries.shape[0], m = rows.shape[1], i, j
    expect(<size_t> queries.shape[1] == store.view.dim and rows.shape[0] == queries.shape[0], "rescore queries")
    for i in range(n_queries):
        for j in range(m):
            expect(-1 <= rows[i, j] < <int64_t> store.view.n_rows, "rescore rows")
    cdef Output output = _answers(n_queries, k, distances, ids, stats)
    cdef const float* query = &queries[0, 0]
    cdef const int64_t* row = &rows[0, 0]
    cdef Interrupt interrupt = ctrl_c()
    cdef cbool finished
    with nogil:
        finished = c_rescore(kernels.row[0], store.view, query, n_queries, row, m, k, output, n_threads, interrupt)
    finish(finished)
