# Kernel sets as objects. Their methods run one kernel on arrays, for tests and benchmarks.

cdef extern from "kernels.h" namespace "lw" nogil:
    size_t kLanes
    size_t kBlock
    cdef cppclass CKernels "lw::Kernels":
        const char* name
        cbool (*all_finite)(const float*, size_t, float)
        void (*fwht)(const float*, float*, size_t, size_t, unsigned, const float*)
        uint64_t (*prune)(const float*, size_t, const float*, size_t, size_t, float*, const float*, float, float,
                          uint64_t)
        void (*l2_rows)(const float*, const float*, const int64_t*, size_t, size_t, float*)
        void (*dot_rows)(const float*, const float*, const int64_t*, size_t, size_t, float*)
        void (*assign)(const float*, size_t, const float*, const float*, size_t, size_t, void*, int32_t*, float*,
                       float*)
        void (*threefry)(const uint64_t*, const uint64_t*, uint64_t, size_t, uint64_t*, uint64_t*)

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

    def assign(self, const float[:, :, ::1] points, const float[:, :, ::1] centroids, const float[::1] bias,
               float[:, ::1] scratch, int32_t[::1] labels, float[::1] scores, float[::1] runner_ups):
        """Best centroid of points packed (groups, dim, 16) among centroids packed (panels, dim, 16)."""
        cdef size_t n_groups = points.shape[0], dim = points.shape[1], n_panels = centroids.shape[0]
        expect(<size_t> points.shape[2] == kLanes and <size_t> centroids.shape[2] == kLanes, "assign packing")
        expect(<size_t> centroids.shape[1] == dim and <size_t> bias.shape[0] == n_panels * kLanes, "assign centroids")
        expect(<size_t> labels.shape[0] == n_groups * kLanes and labels.shape[0] == scores.shape[0]
               and labels.shape[0] == runner_ups.shape[0], "assign out")
        expect(<size_t> scratch.shape[0] == n_groups * kLanes and <size_t> scratch.shape[1] == 3 * kLanes,
               "assign scratch")
        self.row.assign(&points[0, 0, 0], n_groups, &centroids[0, 0, 0], &bias[0], n_panels, dim, &scratch[0, 0],
                        &labels[0], &scores[0], &runner_ups[0])

    def threefry(self, const uint64_t[::1] key, const uint64_t[::1] counter0, uint64_t counter1, uint64_t[::1] out0,
                 uint64_t[::1] out1):
        """Threefry2x64-13 of the counters (counter0[i], counter1)."""
        cdef size_t n = counter0.shape[0]
        expect(key.shape[0] == 2 and n % 8 == 0, "threefry shapes")
        expect(<size_t> out0.shape[0] == n and <size_t> out1.shape[0] == n, "threefry out")
        self.row.threefry(&key[0], &counter0[0], counter1, n, &out0[0], &out1[0])


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
