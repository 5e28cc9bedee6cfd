# Kernel sets as objects. Their methods run one kernel on arrays, for tests and benchmarks.

cdef extern from "kernels.h" namespace "lw" nogil:
    size_t kLanes
    size_t kBlock
    size_t kScreenGroups
    size_t kScreenQueries
    cdef cppclass CodeFront:
        const int8_t** codes
        const float* base
        const uint16_t* residuals
        const uint16_t* tails
        size_t tail_stride
        const uint32_t* ends
        size_t n_steps
        size_t first_look
    cdef cppclass CodeQuery:
        const int8_t* codes
        const int32_t* sums
        const int32_t* shifts
        const float* scales
        const float* tail_weights
        float residual_weight
    size_t kBitEntry
    cdef cppclass BitRows:
        const uint8_t* bits
        const float* base
        const uint16_t* factors
        size_t n_bytes
    cdef cppclass BitQuery:
        const uint8_t* tables
        int32_t total
        float step
    cdef cppclass NibbleQuery:
        const uint8_t* tables
        int32_t total
        float step
    cdef cppclass RowCode:
        pass
    cdef cppclass Panels:
        const float* rows
        const float* bias
        const uint32_t* ids
        size_t n
    cdef cppclass CodedPanels:
        const int8_t* codes
        const float* bias
        const uint32_t* ids
        size_t n
    cdef cppclass TokenCodes:
        const int8_t* codes
        const float* scales
        const int32_t* sums
    cdef cppclass DecodedRows:
        const int8_t* codes
        const float* base
        const uint16_t* factors
        size_t n_quads
    cdef cppclass DecodedQueries:
        const int8_t* codes
        const int32_t* totals
        const float* steps
        const float* limits
    cdef cppclass CKernels "lw::Kernels":
        const char* name
        cbool (*all_finite)(const float*, size_t, float)
        void (*fwht)(const float*, float*, size_t, size_t, unsigned, const float*)
        uint64_t (*prune)(const float*, size_t, const float*, size_t, size_t, float*, const float*, float, float,
                          uint64_t)
        void (*l2_rows)(const float*, const float*, const int64_t*, size_t, size_t, float*)
        void (*dot_rows)(const float*, const float*, const int64_t*, size_t, size_t, float*)
        void (*l2_rows_within)(const float*, const float*, const int64_t*, size_t, size_t, const float*, size_t,
                               const float*, float*)
        void (*project)(const float*, size_t, size_t, const float*, size_t, float*)
        void (*screen_codes)(const CodeFront&, size_t, const CodeQuery&, float, uint16_t*, float*, uint64_t*)
        void (*screen_tile)(const CodeFront&, size_t, const CodeQuery*, size_t, const float*, uint16_t*, float*,
                            uint64_t*)
        void (*dot_codes)(const int8_t*, int32_t, const int8_t*, size_t, const int64_t*, size_t, size_t, int32_t*)
        void (*dot_nibbles)(const int8_t*, int32_t, const int8_t*, size_t, const int64_t*, size_t, size_t, int32_t*)
        void (*dot_crumbs)(const int8_t*, int32_t, const int8_t*, size_t, const int64_t*, size_t, size_t, int32_t*)
        void (*screen_bits)(const BitRows&, size_t, const BitQuery&, float, uint16_t*, float*)
        void (*assign)(const float*, size_t, const Panels&, size_t, void*, int32_t*, float*,
                       float*)
        void (*add_rows)(const float*, const uint32_t*, size_t, size_t, const double*, double*)
        void (*code_rows)(const float*, size_t, size_t, const float*, float, size_t, int8_t*, RowCode*)
        void (*assign_codes)(const int8_t*, size_t, size_t, const float*, const float*, const CodedPanels&, void*,
                             int32_t*)
        void (*max_dots)(const float*, size_t, size_t, const float*, size_t, float*)
        void (*max_code_dots)(const TokenCodes&, size_t, size_t, const int8_t*, size_t, float*)
        void (*nearest_words)(const float*, size_t, size_t, const float*, const float*, size_t, int32_t*)
        void (*add_to_words)(const float*, const int32_t*, size_t, size_t, double*)
        void (*decode_nibbles)(const uint8_t*, size_t, size_t, const uint8_t*, size_t, size_t, int8_t*)
        void (*decode_bytes)(const uint8_t*, size_t, size_t, const int32_t*, size_t, size_t, int32_t*)
        void (*screen_decoded)(const DecodedRows&, size_t, const DecodedQueries&, size_t, uint16_t*, float*)
        void (*screen_nibbles)(const BitRows&, size_t, const NibbleQuery&, float, uint16_t*, float*)
        void (*threefry)(const uint64_t*, const uint64_t*, uint64_t, size_t, uint64_t*, uint64_t*)
        void (*multiply_adds)(size_t, const float*, const float*, float*)
        void (*multiply_add_codes)(size_t, const int8_t*, const int8_t*, int32_t*)

cdef extern from "dispatch.h" namespace "lw" nogil:
    cdef cppclass KernelSet:
        CKernels kernels
        cbool runnable
    const KernelSet* kernel_sets(size_t*)


cdef class Kernels:
    """One ISA's kernels. Made by `lanewise.kernels.get`."""

    cdef const CKernels* row
    cdef readonly str name

    def __init__(self):
        raise TypeError("Kernels: use lanewise.kernels.get(name)")

    def __reduce__(self):
        return kernels_by_name, (self.name,)

    def __repr__(self):
        return f"<lanewise.Kernels {self.name}>"

    def all_finite(self, const float[::1] x, float scale=1):
        """Whether no element of scale * x is NaN or infinite."""
        return self.row.all_finite(&x[0], x.shape[0], scale)

    def fwht(self, float[:, ::1] x, const float[::1] weights):
        """Transform the rows of x (n, 2^m) in place: x <- H (weights * x)."""
        cdef size_t n = x.shape[0], dim = x.shape[1]
        cdef unsigned log2_dim = 0
        while (<size_t> 1 << log2_dim) < dim:
            log2_dim += 1
        expect((<size_t> 1 << log2_dim) == dim and <size_t> weights.shape[0] == dim, "fwht shapes")
        cdef float* data = &x[0, 0]
        cdef const float* weight = &weights[0]
        with nogil:
            self.row.fwht(data, data, n, dim, log2_dim, weight)

    def prune(self, const float[:, ::1] block, const float[::1] query, size_t begin, size_t end, float[::1] partial,
              const float[::1] norms, float offset, float scale, uint64_t alive):
        """One pruning step on a block (dim, width); returns the mask of survivors and updates partial (width,)."""
        cdef size_t dim = block.shape[0], width = block.shape[1]
        expect(width > 0 and width % kLanes == 0 and width <= kBlock, "prune width")
        expect(<size_t> query.shape[0] == dim and begin <= end and end <= dim, "prune dimensions")
        expect(<size_t> partial.shape[0] == width and <size_t> norms.shape[0] == width, "prune shapes")
        expect(width == kBlock or alive >> width == 0, "prune mask")
        return self.row.prune(&block[0, 0], width, &query[0], begin, end, &partial[0], &norms[0], offset, scale,
                              alive)

    def l2_rows(self, const float[::1] query, const float[:, ::1] rows, const int64_t[::1] ids, float[::1] out):
        """out[i] = |query - rows[ids[i]]|^2."""
        self._rows(True, query, rows, ids, out)

    def dot_rows(self, const float[::1] query, const float[:, ::1] rows, const int64_t[::1] ids, float[::1] out):
        """out[i] = query . rows[ids[i]]."""
        self._rows(False, query, rows, ids, out)

    def l2_rows_within(self, const float[::1] query, const float[:, ::1] rows, const int64_t[::1] ids,
                       const float[::1] bounds, size_t step, const float[::1] factors, float[::1] out):
        """l2_rows, but infinite where a look finds more than bounds (n,) times factors (looks,), which may be None."""
        cdef size_t n = ids.shape[0], dim = rows.shape[1], i
        expect(<size_t> query.shape[0] == dim and <size_t> out.shape[0] == n, "rows shapes")
        expect(<size_t> bounds.shape[0] == n and step > 0 and step % kLanes == 0, "rows bounds")
        for i in range(n):
            expect(0 <= ids[i] < rows.shape[0], "rows ids")
        cdef const float* factor = NULL
        if factors is not None:
            expect(<size_t> factors.shape[0] == (dim // kLanes * kLanes + step - 1) // step, "rows factors")
            factor = &factors[0]
        self.row.l2_rows_within(&query[0], &rows[0, 0], &ids[0], n, dim, &bounds[0], step, factor, &out[0])

    cdef int _rows(self, cbool l2, const float[::1] query, const float[:, ::1] rows, const int64_t[::1] ids,
                   float[::1] out) except -1:
        cdef size_t n = ids.shape[0], dim = rows.shape[1], i
        expect(<size_t> query.shape[0] == dim and <size_t> out.shape[0] == n, "rows shapes")
        for i in range(n):
            expect(0 <= ids[i] < rows.shape[0], "rows ids")
        if l2:
            self.row.l2_rows(&query[0], &rows[0, 0], &ids[0], n, dim, &out[0])
        else:
            self.row.dot_rows(&query[0], &rows[0, 0], &ids[0], n, dim, &out[0])
        return 0

    def project(self, const float[:, ::1] x, const float[:, :, ::1] panels, float[:, ::1] out):
        """out[i] = M x[i] for the matrix whose rows are packed in panels (n_panels, dim, 16)."""
        cdef size_t n = x.shape[0], dim = x.shape[1], n_panels = panels.shape[0]
        expect(<size_t> panels.shape[1] == dim and <size_t> panels.shape[2] == kLanes, "project panels")
        expect(out.shape[0] == x.shape[0] and <size_t> out.shape[1] == n_panels * kLanes, "project out")
        self.row.project(&x[0, 0], n, dim, &panels[0, 0, 0], n_panels, &out[0, 0])

    def screen_codes(self, const int8_t[::1] codes, const float[::1] base, const uint16_t[::1] residuals,
                     const uint16_t[:, ::1] tails, const uint32_t[::1] ends, const int8_t[:, ::1] queries,
                     const int32_t[:, ::1] sums, const int32_t[:, ::1] shifts, const float[:, ::1] scales,
                     const float[:, ::1] tail_weights, const float[::1] residual_weights, const float[::1] limits,
                     uint16_t[:, ::1] alive, float[:, ::1] estimates, uint64_t[::1] quads_read, cbool tile,
                     size_t first_look=0):
        """Screen codes, planes (n_groups, quads of the step, 16, 4) and 1,024 bytes of padding, for some queries.

        Updates alive (n_queries, 64), estimates (n_queries, 1024) and quads_read (n_queries,), one query at a time or
        as a tile.
        """
        cdef size_t n = base.shape[0], n_groups = n // kLanes, n_steps = ends.shape[0], i, q, n_quads
        cdef size_t n_queries = queries.shape[0]
        expect(n % kLanes == 0 and n_groups <= kScreenGroups and first_look < n_steps, "screen rows")
        for i in range(n_steps):
            expect(i == 0 or ends[i - 1] <= ends[i], "screen steps")
        n_quads = ends[n_steps - 1]
        expect(<size_t> codes.shape[0] == n * n_quads * 4 + 1024, "screen codes")
        expect(<size_t> base.shape[0] == n and <size_t> residuals.shape[0] == n, "screen rows")
        expect(<size_t> tails.shape[0] == n_steps and <size_t> tails.shape[1] == n, "screen tails")
        expect(0 < n_queries <= kScreenQueries and <size_t> queries.shape[1] == 4 * n_quads, "screen queries")
        expect(<size_t> sums.shape[0] == n_queries and <size_t> sums.shape[1] == n_steps, "screen sums")
        expect(tail_weights.shape[0] == sums.shape[0] and tail_weights.shape[1] == sums.shape[1], "screen weights")
        expect(shifts.shape[0] == sums.shape[0] and shifts.shape[1] == sums.shape[1], "screen shifts")
        expect(scales.shape[0] == sums.shape[0] and scales.shape[1] == sums.shape[1], "screen scales")
        expect(<size_t> residual_weights.shape[0] == n_queries, "screen weights")
        expect(<size_t> limits.shape[0] == n_queries, "screen limits")
        expect(<size_t> alive.shape[0] == n_queries and <size_t> alive.shape[1] == kScreenGroups, "screen out")
        expect(<size_t> estimates.shape[0] == n_queries and <size_t> estimates.shape[1] == kScreenGroups * kLanes,
               "screen out")
        expect(<size_t> quads_read.shape[0] == n_queries, "screen out")
        cdef CodeFront front
        cdef vector[const int8_t*] planes
        for i in range(n_steps):
            planes.push_back(&codes[0] + (0 if i == 0 else n * ends[i - 1] * 4))
        front.codes = planes.data()
        front.base = &base[0]
        front.residuals = &residuals[0]
        front.tails = &tails[0, 0]
        front.tail_stride = n
        front.ends = &ends[0]
        front.n_steps = n_steps
        front.first_look = first_look
        cdef vector[CodeQuery] some
        some.resize(n_queries)
        for q in range(n_queries):
            some[q].codes = &queries[q, 0]
            some[q].sums = &sums[q, 0]
            some[q].shifts = &shifts[q, 0]
            some[q].scales = &scales[q, 0]
            some[q].tail_weights = &tail_weights[q, 0]
            some[q].residual_weight = residual_weights[q]
        cdef vector[float] by_group
        if tile:
            by_group.resize(n_groups * kScreenQueries * kLanes)
            self.row.screen_tile(front, n_groups, some.data(), n_queries, &limits[0], &alive[0, 0], by_group.data(),
                                 &quads_read[0])
            for q in range(n_queries):
                for i in range(n):
                    estimates[q, i] = by_group[(i // kLanes * kScreenQueries + q) * kLanes + i % kLanes]
            return
        for q in range(n_queries):
            self.row.screen_codes(front, n_groups, some[q], limits[q], &alive[q, 0], &estimates[q, 0], &quads_read[q])

    def dot_codes(self, const int8_t[::1] query, const int8_t[:, ::1] rows, const int64_t[::1] positions,
                  int32_t[::1] out, size_t bits=8):
        """out[i] = query . rows[positions[i]], of a multiple of 64 codes, or of 128 or 256 of 4 or 2 bits, packed."""
        cdef size_t n = query.shape[0], m = positions.shape[0], stride = rows.shape[1], i
        cdef int32_t query_sum = 0
        expect(bits == 8 or bits == 4 or bits == 2, "dot bits")
        expect(n % (512 // bits) == 0 and stride == n * bits // 8, "dot shapes")
        expect(<size_t> out.shape[0] == m, "dot shapes")
        for i in range(m):
            expect(0 <= positions[i] < rows.shape[0], "dot positions")
        for i in range(n):
            query_sum += query[i]
        if bits == 4:
            self.row.dot_nibbles(&query[0], query_sum, &rows[0, 0], stride, &positions[0], m, n, &out[0])
        elif bits == 2:
            self.row.dot_crumbs(&query[0], query_sum, &rows[0, 0], stride, &positions[0], m, n, &out[0])
        else:
            self.row.dot_codes(&query[0], query_sum, &rows[0, 0], stride, &positions[0], m, n, &out[0])

    def screen_bits(self, const uint8_t[:, :, ::1] bits, const float[::1] base, const uint16_t[::1] factors,
                    const uint8_t[:, :, :, ::1] tables, int32_t total, float step, float limit, uint16_t[::1] alive,
                    float[::1] estimates):
        """Screen bits (n_groups, n_bytes, 16) by tables (n_bytes / 4, 2, 4, 16); updates alive and estimates."""
        cdef size_t n_groups = bits.shape[0], n_bytes = bits.shape[1], n = n_groups * kLanes
        expect(n_groups > 0 and n_bytes > 0 and n_bytes % 8 == 0 and <size_t> bits.shape[2] == kLanes, "screen bits")
        expect(<size_t> tables.shape[0] == n_bytes // 4 and tables.shape[1] == 2 and tables.shape[2] == 4
               and tables.shape[3] == 16, "screen tables")
        expect(<size_t> base.shape[0] == n and <size_t> factors.shape[0] == n, "screen rows")
        expect(<size_t> alive.shape[0] == n_groups and <size_t> estimates.shape[0] == n, "screen out")
        cdef BitRows rows
        rows.bits = &bits[0, 0, 0]
        rows.base = &base[0]
        rows.factors = &factors[0]
        rows.n_bytes = n_bytes
        cdef BitQuery query
        query.tables = &tables[0, 0, 0, 0]
        query.total = total
        query.step = step
        self.row.screen_bits(rows, n_groups, query, limit, &alive[0], &estimates[0])

    def assign(self, const float[:, ::1] points, const float[:, :, ::1] centroids, const float[::1] bias,
               float[:, ::1] scratch, int32_t[::1] labels, float[::1] scores, float[::1] runner_ups,
               const uint32_t[::1] ids=None):
        """Best centroid of points (n, dim) among centroids packed (panels, dim, 16), or some panels."""
        cdef size_t n = points.shape[0], dim = points.shape[1], n_panels = centroids.shape[0]
        expect(<size_t> centroids.shape[1] == dim and <size_t> centroids.shape[2] == kLanes, "assign packing")
        expect(<size_t> bias.shape[0] == n_panels * kLanes, "assign centroids")
        expect(<size_t> labels.shape[0] == n and labels.shape[0] == scores.shape[0]
               and labels.shape[0] == runner_ups.shape[0], "assign out")
        expect(<size_t> scratch.shape[0] == n and <size_t> scratch.shape[1] == 3 * kLanes, "assign scratch")
        cdef Panels panels
        panels.rows = &centroids[0, 0, 0]
        panels.bias = &bias[0]
        panels.ids = panel_ids(ids, n_panels)
        panels.n = n_panels if ids is None else ids.shape[0]
        self.row.assign(&points[0, 0], n, panels, dim, &scratch[0, 0], &labels[0], &scores[0], &runner_ups[0])

    def code_rows(self, const float[:, ::1] rows, const float[::1] shift, float least, int8_t[:, :, :, :, ::1] codes,
                  float[:, ::1] facts):
        """Code rows as (groups, stretches of 64, coarse and fine, 16, 64), facts (n, 4) beside them."""
        cdef size_t n = rows.shape[0], dim = rows.shape[1], stride = codes.shape[1] * 64
        expect(<size_t> shift.shape[0] == dim and dim <= stride < dim + 64, "code rows shapes")
        expect(<size_t> codes.shape[0] == (n + kLanes - 1) // kLanes and codes.shape[2] == 2, "code rows codes")
        expect(<size_t> codes.shape[3] == kLanes and codes.shape[4] == 64, "code rows codes")
        expect(<size_t> facts.shape[0] == n and facts.shape[1] == 4 and sizeof(RowCode) == 16, "code rows facts")
        self.row.code_rows(&rows[0, 0], n, dim, &shift[0], least, stride, &codes[0, 0, 0, 0, 0],
                           <RowCode*> &facts[0, 0])

    def assign_codes(self, const int8_t[:, :, :, :, ::1] points, const float[::1] weights, const float[::1] doubts,
                     const int8_t[:, :, :, :, ::1] centroids, const float[::1] bias, float[:, ::1] scratch,
                     int32_t[::1] near, const uint32_t[::1] ids=None):
        """Labels of points coded as code_rows does among panels (n, coarse and fine, quads, 16, 4), or some of them."""
        cdef size_t n_points = points.shape[0] * kLanes, stride = points.shape[1] * 64
        expect(points.shape[2] == 2 and <size_t> points.shape[3] == kLanes and points.shape[4] == 64, "points codes")
        expect(<size_t> weights.shape[0] == n_points and <size_t> doubts.shape[0] == n_points, "points weights")
        expect(centroids.shape[1] == 2 and <size_t> centroids.shape[2] * 4 == stride, "centroids codes")
        expect(<size_t> centroids.shape[3] == kLanes and centroids.shape[4] == 4, "centroids codes")
        expect(<size_t> bias.shape[0] == <size_t> centroids.shape[0] * kLanes, "centroids bias")
        expect(<size_t> scratch.shape[0] == n_points * 3 and <size_t> scratch.shape[1] == kLanes, "assign scratch")
        expect(<size_t> near.shape[0] == n_points, "assign out")
        cdef CodedPanels panels
        panels.codes = &centroids[0, 0, 0, 0, 0]
        panels.bias = &bias[0]
        panels.ids = panel_ids(ids, centroids.shape[0])
        panels.n = centroids.shape[0] if ids is None else ids.shape[0]
        self.row.assign_codes(&points[0, 0, 0, 0, 0], n_points, stride, &weights[0], &doubts[0], panels,
                              &scratch[0, 0], &near[0])

    def max_dots(self, const float[:, ::1] rows, const float[:, :, ::1] panels, float[::1] out):
        """out[i] = the largest product of vector i, packed (n_panels, dim, 16), with any of the rows."""
        cdef size_t n = rows.shape[0], dim = rows.shape[1], n_panels = panels.shape[0]
        expect(<size_t> panels.shape[1] == dim and <size_t> panels.shape[2] == kLanes, "max_dots panels")
        expect(<size_t> out.shape[0] == n_panels * kLanes, "max_dots out")
        self.row.max_dots(&rows[0, 0], n, dim, &panels[0, 0, 0], n_panels, &out[0])

    def max_code_dots(self, const int8_t[:, ::1] rows, const float[::1] scales, const int32_t[::1] sums,
                      const int8_t[:, :, :, ::1] panels, float[::1] out):
        """out[i] = the largest scaled product of vector i, packed (n_panels, quads, 16, 4), with any of the rows."""
        cdef size_t n = rows.shape[0], n_quads = panels.shape[1], n_panels = panels.shape[0]
        expect(<size_t> rows.shape[1] == 4 * n_quads, "max_code_dots rows")
        expect(<size_t> panels.shape[2] == kLanes and panels.shape[3] == 4, "max_code_dots panels")
        expect(<size_t> scales.shape[0] == n and <size_t> sums.shape[0] == n, "max_code_dots rows")
        expect(<size_t> out.shape[0] == n_panels * kLanes, "max_code_dots out")
        cdef TokenCodes codes
        codes.codes = &rows[0, 0]
        codes.scales = &scales[0]
        codes.sums = &sums[0]
        self.row.max_code_dots(codes, n, n_quads, &panels[0, 0, 0, 0], n_panels, &out[0])

    def nearest_words(self, const float[:, :, ::1] points, const float[:, ::1] words, const float[::1] bias,
                      int32_t[::1] labels):
        """Best word of points packed (groups, dim, 16)."""
        cdef size_t n_groups = points.shape[0], dim = points.shape[1], n_words = words.shape[0]
        expect(<size_t> points.shape[2] == kLanes and <size_t> words.shape[1] == dim, "words shapes")
        expect(n_words % 4 == 0 and <size_t> bias.shape[0] == n_words, "words bias")
        expect(<size_t> labels.shape[0] == n_groups * kLanes, "words out")
        self.row.nearest_words(&points[0, 0, 0], n_groups, dim, &words[0, 0], &bias[0], n_words, &labels[0])

    def add_to_words(self, const float[:, ::1] rows, const int32_t[::1] labels, double[:, ::1] sums):
        """sums[labels[i]] += rows[i], in their order."""
        cdef size_t n = rows.shape[0], dim = rows.shape[1]
        cdef Py_ssize_t i
        expect(<size_t> labels.shape[0] == n and <size_t> sums.shape[1] == dim, "add to words shapes")
        for i in range(labels.shape[0]):
            expect(0 <= labels[i] < sums.shape[0], "add to words labels")
        self.row.add_to_words(&rows[0, 0], &labels[0], n, dim, &sums[0, 0])

    def decode_nibbles(self, const uint8_t[:, :, ::1] codes, const uint8_t[:, :, :, ::1] tables, size_t length,
                       int8_t[:, :, :, ::1] out):
        """Decode codes (n_groups, n_bytes, 16) by tables (n_bytes / 4, coordinates, 4, 16) to quads (.., n, 16, 4)."""
        cdef size_t n_groups = codes.shape[0], n_bytes = codes.shape[1], quads = (2 * length + 3) // 4
        expect(n_groups > 0 and n_bytes > 0 and n_bytes % 4 == 0 and <size_t> codes.shape[2] == kLanes, "decode codes")
        expect(length > 0 and <size_t> tables.shape[0] == n_bytes // 4 and <size_t> tables.shape[1] == 4 * quads
               and tables.shape[2] == 4 and <size_t> tables.shape[3] == kLanes, "decode tables")
        expect(<size_t> out.shape[0] == n_groups and <size_t> out.shape[1] >= n_bytes * quads
               and <size_t> out.shape[2] == kLanes and out.shape[3] == 4, "decode out")
        self.row.decode_nibbles(&codes[0, 0, 0], n_groups, n_bytes, &tables[0, 0, 0, 0], length, out.shape[1],
                                &out[0, 0, 0, 0])

    def decode_bytes(self, const uint8_t[:, :, ::1] codes, const int32_t[:, :, ::1] tables, int32_t[:, :, ::1] out):
        """Decode codes (n_groups, n_bytes, 16) by tables (n_bytes, quads, 256) into quads (n_groups, n, 16)."""
        cdef size_t n_groups = codes.shape[0], n_bytes = codes.shape[1], quads = tables.shape[1]
        expect(n_groups > 0 and n_bytes > 0 and <size_t> codes.shape[2] == kLanes, "decode codes")
        expect(<size_t> tables.shape[0] == n_bytes and quads > 0 and tables.shape[2] == 256, "decode tables")
        expect(<size_t> out.shape[0] == n_groups and <size_t> out.shape[1] >= n_bytes * quads
               and <size_t> out.shape[2] == kLanes, "decode out")
        self.row.decode_bytes(&codes[0, 0, 0], n_groups, n_bytes, &tables[0, 0, 0], quads, out.shape[1],
                              &out[0, 0, 0])

    def screen_decoded(self, const int8_t[:, :, :, ::1] quads, const float[::1] base, const uint16_t[::1] factors,
                       const int8_t[:, ::1] queries, const int32_t[::1] totals, const float[::1] steps,
                       const float[::1] limits, uint16_t[:, ::1] alive, float[:, :, ::1] estimates):
        """Screen quads (n_groups, n_quads, 16, 4) for queries; updates alive (n, 64), estimates (n_groups, n, 16)."""
        cdef size_t n_groups = quads.shape[0], n_quads = quads.shape[1], n = limits.shape[0]
        expect(n_groups > 0 and n_groups <= kScreenGroups and n_quads > 0 and n_quads % 16 == 0, "screen quads")
        expect(<size_t> quads.shape[2] == kLanes and quads.shape[3] == 4, "screen quads")
        expect(<size_t> base.shape[0] == n_groups * kLanes and base.shape[0] == factors.shape[0], "screen rows")
        expect(n > 0 and n <= kScreenQueries and <size_t> queries.shape[0] == (n + kLanes - 1) // kLanes * kLanes
               and <size_t> queries.shape[1] == 4 * n_quads, "screen queries")
        expect(<size_t> totals.shape[0] == n and <size_t> steps.shape[0] == n, "screen queries")
        expect(<size_t> alive.shape[0] == n and <size_t> alive.shape[1] == kScreenGroups, "screen out")
        expect(<size_t> estimates.shape[0] == n_groups and <size_t> estimates.shape[1] == n
               and <size_t> estimates.shape[2] == kLanes, "screen out")
        cdef DecodedRows rows
        rows.codes = &quads[0, 0, 0, 0]
        rows.base = &base[0]
        rows.factors = &factors[0]
        rows.n_quads = n_quads
        cdef DecodedQueries some
        some.codes = &queries[0, 0]
        some.totals = &totals[0]
        some.steps = &steps[0]
        some.limits = &limits[0]
        self.row.screen_decoded(rows, n_groups, some, n, &alive[0, 0], &estimates[0, 0, 0])

    def screen_nibbles(self, const uint8_t[:, :, ::1] codes, const float[::1] base, const uint16_t[::1] factors,
                       const uint8_t[:, :, :, :, ::1] tables, int32_t total, float step, float limit,
                       uint16_t[::1] alive, float[::1] estimates):
        """Screen codes (n_groups, n_bytes, 16) by tables (n_bytes / 4, 2, 2, 4, 16); updates alive and estimates."""
        cdef size_t n_groups = codes.shape[0], n_bytes = codes.shape[1], n = n_groups * kLanes
        expect(n_groups > 0 and n_bytes > 0 and n_bytes % 4 == 0 and <size_t> codes.shape[2] == kLanes, "screen codes")
        expect(<size_t> tables.shape[0] == n_bytes // 4 and tables.shape[1] == 2 and tables.shape[2] == 2
               and tables.shape[3] == 4 and <size_t> tables.shape[4] == kLanes, "screen tables")
        expect(<size_t> base.shape[0] == n and <size_t> factors.shape[0] == n, "screen rows")
        expect(<size_t> alive.shape[0] == n_groups and <size_t> estimates.shape[0] == n, "screen out")
        cdef BitRows rows
        rows.bits = &codes[0, 0, 0]
        rows.base = &base[0]
        rows.factors = &factors[0]
        rows.n_bytes = n_bytes
        cdef NibbleQuery query
        query.tables = &tables[0, 0, 0, 0, 0]
        query.total = total
        query.step = step
        self.row.screen_nibbles(rows, n_groups, query, limit, &alive[0], &estimates[0])

    def threefry(self, const uint64_t[::1] key, const uint64_t[::1] counter0, uint64_t counter1, uint64_t[::1] out0,
                 uint64_t[::1] out1):
        """Threefry2x64-13 of the counters (counter0[i], counter1)."""
        cdef size_t n = counter0.shape[0]
        expect(key.shape[0] == 2 and n % 8 == 0, "threefry shapes")
        expect(<size_t> out0.shape[0] == n and <size_t> out1.shape[0] == n, "threefry out")
        self.row.threefry(&key[0], &counter0[0], counter1, n, &out0[0], &out1[0])

    def multiply_adds(self, size_t n, const float[::1] x, const float[::1] y, float[::1] out):
        """out (16,) = n times x * y, for n a multiple of 48, without the GIL."""
        expect(n % 48 == 0 and <size_t> x.shape[0] == kLanes and <size_t> y.shape[0] == kLanes, "peak shapes")
        expect(<size_t> out.shape[0] == kLanes, "peak out")
        with nogil:
            self.row.multiply_adds(n, &x[0], &y[0], &out[0])

    def multiply_add_codes(self, size_t n, const int8_t[:, ::1] codes, const int8_t[::1] query, int32_t[::1] out):
        """out (16,) = n times codes (16, 4) times query (4,), for n a multiple of 3,072, without the GIL."""
        expect(n % 3072 == 0 and <size_t> codes.shape[0] == kLanes and codes.shape[1] == 4, "peak shapes")
        expect(query.shape[0] == 4 and <size_t> out.shape[0] == kLanes, "peak out")
        with nogil:
            self.row.multiply_add_codes(n, &codes[0, 0], &query[0], &out[0])


cdef const uint32_t* panel_ids(const uint32_t[::1] ids, size_t n_panels) except? NULL:
    cdef Py_ssize_t i
    if ids is None:
        return NULL
    expect(ids.shape[0] > 0, "panel ids")
    for i in range(ids.shape[0]):
        expect(ids[i] < n_panels and (i == 0 or ids[i - 1] < ids[i]), "panel ids")
    return &ids[0]


def kernel_names():
    """Names of the kernel sets of this build, best first, each with whether it can run here."""
    cdef size_t n = 0, i
    cdef const KernelSet* sets = kernel_sets(&n)
    return [((<bytes> sets[i].kernels.name).decode(), sets[i].runnable) for i in range(n)]


def kernels_by_name(str name):
    """The kernel set of that name; KeyError if it is not built or cannot run here."""
    cdef size_t n = 0, i
    cdef const KernelSet* sets = kernel_sets(&n)
    cdef Kernels found
    for i in range(n):
        if sets[i].runnable and (<bytes> sets[i].kernels.name).decode() == name:
            found = Kernels.__new__(Kernels)
            found.row = &sets[i].kernels
            found.name = name
            return found
    raise KeyError(name)
