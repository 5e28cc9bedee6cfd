# cpp/drive/rows.h

cdef extern from "drive/rows.h" namespace "lw" nogil:
    cbool c_score_lists "lw::score_lists"(const CKernels&, Metric, const float*, size_t, const CRows&, size_t,
                                          const int64_t*, size_t, float*, size_t, const Interrupt&) except +
    double c_squared_norms "lw::squared_norms"(const CRows&, size_t, size_t, double*) except +
    void c_mean "lw::mean"(const CRows&, size_t, size_t, float*) except +
    void c_normalize "lw::normalize"(const float*, size_t, size_t, float*)


def score_lists(Kernels kernels, str metric, const float[:, ::1] queries, rows, const int64_t[:, ::1] ids,
                float[:, ::1] distances, size_t n_threads):
    """distances[q, i] of query q to rows[ids[q, i]]; -1 gives inf. The caller has checked the range of ids."""
    cdef size_t n_queries = queries.shape[0], n_ids = ids.shape[1], n, dim
    cdef CRows view
    cdef object held = hold_rows(rows, &view, &n, &dim)
    expect(<size_t> queries.shape[1] == dim and ids.shape[0] == queries.shape[0], "score shapes")
    expect(distances.shape[0] == ids.shape[0] and distances.shape[1] == ids.shape[1], "score out")
    cdef Metric m = to_metric(metric)
    cdef const float* query = &queries[0, 0]
    cdef const int64_t* id = &ids[0, 0]
    cdef float* out = &distances[0, 0]
    cdef Interrupt interrupt = ctrl_c()
    cdef cbool finished
    with nogil:
        finished = c_score_lists(kernels.row[0], m, query, n_queries, view, dim, id, n_ids, out, n_threads, interrupt)
    finish(finished)


def squared_norms(rows, double[::1] out):
    """out[i] = |rows[i]|^2 in double; returns the largest, or NaN if there is one."""
    cdef size_t n, dim
    cdef CRows view
    cdef object held = hold_rows(rows, &view, &n, &dim)
    expect(<size_t> out.shape[0] == n, "norms out")
    cdef double* norm = &out[0]
    cdef double largest
    with nogil:
        largest = c_squared_norms(view, n, dim, norm)
    return largest


def mean(rows, float[::1] out):
    """out = the arithmetic mean of the rows."""
    cdef size_t n, dim
    cdef CRows view
    cdef object held = hold_rows(rows, &view, &n, &dim)
    expect(<size_t> out.shape[0] == dim, "mean out")
    cdef float* target = &out[0]
    with nogil:
        c_mean(view, n, dim, target)


def normalize(const float[:, ::1] rows, float[:, ::1] out):
    """out[i] = rows[i] / |rows[i]|; a zero row stays zero."""
    expect(out.shape[0] == rows.shape[0] and out.shape[1] == rows.shape[1], "normalize out")
    cdef size_t n = rows.shape[0], dim = rows.shape[1]
    cdef const float* row = &rows[0, 0]
    cdef float* target = &out[0, 0]
    with nogil:
        c_normalize(row, n, dim, target)
