# cpp/drive/scan.h

cdef extern from "drive/scan.h" namespace "lw" nogil:
    cdef cppclass CStore "lw::Store":
        size_t dim
        Metric metric
        size_t n_rows
        size_t n_lists
        const int64_t* list_begin
        const int64_t* list_size
        const int64_t* ids
        const float* norms
        const float* blocks
        const float* rows
        const float* center
        double max_norm
        double max_centered_norm
    cdef cppclass ScanParameters:
        size_t k
        double eps0
        size_t delta
    cdef cppclass ScanStats:
        uint64_t candidates
        uint64_t dimensions
        uint64_t settled
    cbool c_fill_blocks "lw::fill_blocks"(const CKernels&, const CRotation&, const float*, const float*, size_t,
                                          const int64_t*, const int64_t*, size_t, float*, float*, double*, size_t,
                                          const Interrupt&) except +
    cbool c_scan "lw::scan"(const CKernels&, const CRotation&, const CStore&, const ScanParameters&, const float*,
                            size_t, const int64_t*, size_t, float*, int64_t*, ScanStats*, size_t,
                            const Interrupt&) except +


cdef class Store:
    """Rows in lists of blocks. Holds on to the arrays that it is made of.

    Ids before first_position are those of an earlier store, which has checked them.
    """

    cdef CStore view
    cdef object _arrays

    def __init__(self, str metric, const int64_t[::1] list_begin, const int64_t[::1] list_size,
                 const int64_t[::1] ids, const float[::1] norms, const float[::1] blocks, const float[:, ::1] rows,
                 const float[::1] center, double max_norm, double max_centered_norm, int64_t first_position=0):
        cdef size_t n_lists = list_size.shape[0], positions = ids.shape[0], dim = rows.shape[1], i
        cdef int64_t at
        cdef cbool sound = True
        expect(<size_t> list_begin.shape[0] == n_lists + 1 and list_begin[0] == 0, "store lists")
        expect(<size_t> list_begin[n_lists] == positions and <size_t> norms.shape[0] == positions, "store positions")
        expect(<size_t> blocks.shape[0] == positions * dim and <size_t> center.shape[0] == dim, "store blocks")
        # Padding behind a list is never looked at, and a later store may already use it.
        with nogil:
            for i in range(n_lists):
                sound = (sound and list_begin[i + 1] % <int64_t> kLanes == 0 and list_size[i] >= 0
                         and list_size[i] <= list_begin[i + 1] - list_begin[i])
                if not sound:
                    break
                for at in range(max(list_begin[i], first_position), list_begin[i] + list_size[i]):
                    sound = sound and 0 <= ids[at] < rows.shape[0]
        expect(sound, "store lists or ids")
        self._arrays = (list_begin, list_size, ids, norms, blocks, rows, center)
        self.view.dim = dim
        self.view.metric = to_metric(metric)
        self.view.n_rows = rows.shape[0]
        self.view.n_lists = n_lists
        self.view.list_begin = &list_begin[0]
        self.view.list_size = &list_size[0]
        self.view.ids = &ids[0]
        self.view.norms = &norms[0]
        self.view.blocks = &blocks[0]
        self.view.rows = &rows[0, 0]
        self.view.center = &center[0]
        self.view.max_norm = max_norm
        self.view.max_centered_norm = max_centered_norm

    def scan(self, Kernels kernels, Rotation rotation, const float[:, ::1] queries, const int64_t[:, ::1] probes,
             size_t k, double eps0, size_t delta, float[:, ::1] distances, int64_t[:, ::1] ids,
             uint64_t[:, ::1] stats, size_t n_threads):
        """Fill distances and ids (n, k) and stats (n, 3); probes (n, n_probe) may be None for all lists."""
        cdef size_t n_queries = queries.shape[0], n_probe = 0, i, j
        expect(<size_t> queries.shape[1] == self.view.dim and rotation.plan.dim == self.view.dim, "scan dimension")
        expect(k > 0 and delta > 0, "scan parameters")
        expect(distances.shape[0] == queries.shape[0] and <size_t> distances.shape[1] == k, "scan distances")
        expect(ids.shape[0] == queries.shape[0] and <size_t> ids.shape[1] == k, "scan ids")
        expect(stats.shape[0] == queries.shape[0] and stats.shape[1] == 3 and sizeof(ScanStats) == 24, "scan stats")
        cdef const int64_t* probe = NULL
        if probes is not None:
            n_probe = probes.shape[1]
            expect(probes.shape[0] == queries.shape[0] and n_probe > 0, "scan probes")
            for i in range(n_queries):
                for j in range(n_probe):
                    expect(-1 <= probes[i, j] < <int64_t> self.view.n_lists, "scan probes")
            probe = &probes[0, 0]
        cdef ScanParameters parameters
        parameters.k = k
        parameters.eps0 = eps0
        parameters.delta = delta
        cdef const float* query = &queries[0, 0]
        cdef float* distance = &distances[0, 0]
        cdef int64_t* id = &ids[0, 0]
        cdef ScanStats* stat = <ScanStats*> &stats[0, 0]
        cdef Interrupt interrupt = ctrl_c()
        cdef cbool finished
        with nogil:
            finished = c_scan(kernels.row[0], rotation.plan, self.view, parameters, query, n_queries, probe, n_probe,
                              distance, id, stat, n_threads, interrupt)
        finish(finished)


def fill_blocks(Kernels kernels, Rotation rotation, const float[::1] center, const float[:, ::1] rows,
                const int64_t[::1] list_begin, const int64_t[::1] ids, size_t first_position, float[::1] norms,
                float[::1] blocks, size_t n_threads):
    """Rotate rows into the blocks that reach beyond first_position; norms may be None.

    Returns the largest |x - center|^2 among them.
    """
    cdef size_t n_lists = list_begin.shape[0] - 1, positions = ids.shape[0], dim = rotation.plan.dim, i
    expect(<size_t> rows.shape[1] == dim and <size_t> center.shape[0] == dim, "blocks dimension")
    expect(<size_t> list_begin[n_lists] == positions and <size_t> blocks.shape[0] == positions * dim, "blocks shapes")
    cdef cbool sound = n_lists > 0 and list_begin[0] == 0
    with nogil:
        for i in range(n_lists):
            sound = sound and list_begin[i] <= list_begin[i + 1]
        for i in range(first_position, positions):
            sound = sound and -1 <= ids[i] < rows.shape[0]
    expect(sound, "blocks lists or ids")
    cdef float* norm = NULL
    if norms is not None:
        expect(<size_t> norms.shape[0] == positions, "blocks norms")
        norm = &norms[0]
    cdef const float* middle = &center[0]
    cdef const float* row = &rows[0, 0]
    cdef const int64_t* begin = &list_begin[0]
    cdef const int64_t* id = &ids[0]
    cdef float* block = &blocks[0]
    cdef double max_centered_norm2 = 0
    cdef Interrupt interrupt = ctrl_c()
    cdef cbool finished
    with nogil:
        finished = c_fill_blocks(kernels.row[0], rotation.plan, middle, row, n_lists, begin, id, first_position, norm,
                                 block, &max_centered_norm2, n_threads, interrupt)
    finish(finished)
    return max_centered_norm2
