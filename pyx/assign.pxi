# cpp/drive/assign.h, cpp/drive/plus_plus.h

cdef extern from "drive/assign.h" namespace "lw" nogil:
    cbool c_assign "lw::assign"(const CKernels&, Metric, const float*, size_t, size_t, const float*, size_t, int32_t*,
                                float*, size_t, const Interrupt&) except +
    cbool c_reassign "lw::reassign"(const CKernels&, const float*, size_t, size_t, const float*, size_t, const int32_t*,
                                    int32_t*, float*, size_t, const Interrupt&, double&) except +
    cbool c_cluster_sums "lw::cluster_sums"(const CKernels&, const float*, size_t, size_t, const int32_t*,
                                            const double*, size_t, double*, double*, int64_t*, size_t,
                                            const Interrupt&) except +

cdef extern from "drive/plus_plus.h" namespace "lw" nogil:
    cbool c_plus_plus "lw::plus_plus"(const CKernels&, const float*, size_t, size_t, const double*, const double*,
                                      size_t, size_t, size_t, int64_t*, float*, size_t, const Interrupt&) except +


def assign(Kernels kernels, str metric, const float[:, ::1] points, const float[:, ::1] centroids, int32_t[::1] labels,
           float[::1] distances, size_t n_threads, const int32_t[::1] guesses=None):
    """Nearest centroid of every point, and the distance to it; distances may be None.

    guesses (n,), for "l2" alone, are centroids likely near. Returns the share of the centroids that points have met.
    """
    cdef size_t n = points.shape[0], dim = points.shape[1], k = centroids.shape[0], i
    cdef const int32_t* guess = NULL
    cdef double share = 1.0
    expect(points.shape[1] == centroids.shape[1] and k > 0 and dim > 0, "assign shapes")
    expect(labels.shape[0] == points.shape[0], "assign out")
    cdef Metric m = to_metric(metric)
    cdef const float* point = &points[0, 0]
    cdef const float* centroid = &centroids[0, 0]
    cdef int32_t* label = &labels[0]
    cdef float* distance = NULL
    if distances is not None:
        expect(distances.shape[0] == points.shape[0], "assign out")
        distance = &distances[0]
    if guesses is not None:
        expect(guesses.shape[0] == points.shape[0] and metric == "l2", "assign guesses")
        for i in range(n):
            expect(0 <= guesses[i] < <int64_t> k, "assign guesses")
        guess = &guesses[0]
    cdef Interrupt interrupt = ctrl_c()
    cdef cbool finished
    with nogil:
        if guess == NULL:
            finished = c_assign(kernels.row[0], m, point, n, dim, centroid, k, label, distance, n_threads, interrupt)
        else:
            finished = c_reassign(kernels.row[0], point, n, dim, centroid, k, guess, label, distance, n_threads,
                                  interrupt, share)
    finish(finished)
    return share


def cluster_sums(Kernels kernels, const float[:, ::1] points, const int32_t[::1] labels, const double[::1] weights,
                 double[:, ::1] sums, double[::1] totals, int64_t[::1] counts, size_t n_threads):
    """Sum, total weight and number of the points of every cluster; weights may be None."""
    cdef size_t n = points.shape[0], dim = points.shape[1], k = sums.shape[0], i
    expect(labels.shape[0] == points.shape[0] and sums.shape[1] == points.shape[1], "sums shapes")
    expect(<size_t> totals.shape[0] == k and <size_t> counts.shape[0] == k, "sums out")
    for i in range(n):
        expect(0 <= labels[i] < <int64_t> k, "sums labels")
    cdef const double* weight = NULL
    if weights is not None:
        expect(weights.shape[0] == points.shape[0], "sums weights")
        weight = &weights[0]
    cdef const float* point = &points[0, 0]
    cdef const int32_t* label = &labels[0]
    cdef double* target = &sums[0, 0]
    cdef double* total = &totals[0]
    cdef int64_t* count = &counts[0]
    cdef Interrupt interrupt = ctrl_c()
    cdef cbool finished
    with nogil:
        finished = c_cluster_sums(kernels.row[0], point, n, dim, label, weight, k, target, total, count, n_threads,
                                  interrupt)
    finish(finished)


def plus_plus(Kernels kernels, const float[:, ::1] points, const double[::1] weights, const double[::1] uniforms,
              size_t n_trials, size_t begin, size_t end, int64_t[::1] chosen, float[::1] nearest, size_t n_threads):
    """Choose centroids [begin, end) of k-means++, with trials, and bring `nearest` up to date; weights may be None."""
    cdef size_t n = points.shape[0], dim = points.shape[1], i
    expect(begin < end <= n and end <= <size_t> chosen.shape[0] and <size_t> nearest.shape[0] == n, "plus plus out")
    expect(n_trials > 0 and <size_t> uniforms.shape[0] >= 1 + (end - 1) * n_trials, "plus plus uniforms")
    for i in range(begin):
        expect(0 <= chosen[i] < <int64_t> n, "plus plus chosen")
    cdef const double* weight = NULL
    if weights is not None:
        expect(<size_t> weights.shape[0] == n, "plus plus weights")
        weight = &weights[0]
    cdef const float* point = &points[0, 0]
    cdef const double* uniform = &uniforms[0]
    cdef int64_t* choice = &chosen[0]
    cdef float* near = &nearest[0]
    cdef Interrupt interrupt = ctrl_c()
    cdef cbool finished
    with nogil:
        finished = c_plus_plus(kernels.row[0], point, n, dim, weight, uniform, n_trials, begin, end, choice, near,
                               n_threads, interrupt)
    finish(finished)
