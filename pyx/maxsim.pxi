# cpp/drive/maxsim.h

cdef extern from "drive/maxsim.h" namespace "lw" nogil:
    cdef cppclass TokenLists:
        size_t dim
        size_t n
        const float* tokens
        const int64_t* begin
    cdef cppclass CDocuments "lw::Documents":
        size_t dim
        size_t n
        const float* tokens
        const int64_t* begin
        TokenCodes codes
        const double* longest
        const double* residuals
    cdef cppclass MaxSimStats:
        uint64_t candidates
        uint64_t products
        uint64_t all
    size_t quads_of(size_t)
    cbool c_code_tokens "lw::code_tokens"(const float*, size_t, size_t, int8_t*, float*, int32_t*, double*, double*,
                                          size_t, const Interrupt&) except +
    cbool c_score_documents "lw::score_documents"(const CKernels&, const CDocuments&, const TokenLists&,
                                                  const int64_t*, size_t, float*, size_t,
                                                  const Interrupt&) except +
    cbool c_rescore_documents "lw::rescore_documents"(const CKernels&, const CDocuments&, const TokenLists&,
                                                      const int64_t*, size_t, size_t, float*, int64_t*,
                                                      MaxSimStats*, size_t, const Interrupt&) except +


def code_tokens(const float[:, ::1] tokens, int8_t[:, ::1] codes, float[::1] scales, int32_t[::1] sums,
                double[::1] lengths, double[::1] residuals, size_t n_threads):
    """Code tokens (n, dim), with room for whole quads (n, 4 * ceil(dim / 4)); the rest are facts of each (n,)."""
    cdef size_t n = tokens.shape[0], dim = tokens.shape[1]
    expect(codes.shape[0] == tokens.shape[0] and <size_t> codes.shape[1] == 4 * quads_of(dim), "code tokens codes")
    expect(scales.shape[0] == tokens.shape[0] and sums.shape[0] == tokens.shape[0], "code tokens out")
    expect(lengths.shape[0] == tokens.shape[0] and residuals.shape[0] == tokens.shape[0], "code tokens out")
    cdef const float* token = &tokens[0, 0]
    cdef int8_t* code = &codes[0, 0]
    cdef float* scale = &scales[0]
    cdef int32_t* total = &sums[0]
    cdef double* length = &lengths[0]
    cdef double* residual = &residuals[0]
    cdef Interrupt interrupt = ctrl_c()
    cdef cbool finished
    with nogil:
        finished = c_code_tokens(token, n, dim, code, scale, total, length, residual, n_threads, interrupt)
    finish(finished)


cdef int check_token_lists(const float[:, ::1] tokens, const int64_t[::1] begin, size_t first) except -1:
    """Every list from the first one on has a token, and all tokens together are those that there are."""
    cdef Py_ssize_t n = begin.shape[0] - 1, i
    cdef cbool sound = n >= 0 and begin[0] == 0
    sound = sound and begin[n] == tokens.shape[0]
    for i in range(first, n):
        sound = sound and begin[i] < begin[i + 1]
    return expect(sound, "token lists")


cdef class Documents:
    """Tokens (n_tokens, dim) and what `code_tokens` says of them, and where each document's begin (n + 1,).

    No token of a document is longer than `longest` (n,), nor do codes leave more than `residuals` (n,) of it.
    Documents before first_document are those of an earlier object, which has checked them. Holds on to the arrays.
    """

    cdef CDocuments view
    cdef object _arrays

    def __init__(self, const float[:, ::1] tokens, const int64_t[::1] begin, const int8_t[:, ::1] codes,
                 const float[::1] scales, const int32_t[::1] sums, const double[::1] longest,
                 const double[::1] residuals, size_t first_document=0):
        cdef size_t dim = tokens.shape[1]
        check_token_lists(tokens, begin, first_document)
        expect(codes.shape[0] == tokens.shape[0] and <size_t> codes.shape[1] == 4 * quads_of(dim), "documents codes")
        expect(scales.shape[0] == tokens.shape[0] and sums.shape[0] == tokens.shape[0], "documents codes")
        expect(longest.shape[0] == begin.shape[0] - 1 and residuals.shape[0] == longest.shape[0], "documents lengths")
        self._arrays = (tokens, begin, codes, scales, sums, longest, residuals)
        self.view.dim = dim
        self.view.n = longest.shape[0]
        self.view.tokens = &tokens[0, 0]
        self.view.begin = &begin[0]
        self.view.codes.codes = &codes[0, 0]
        self.view.codes.scales = &scales[0]
        self.view.codes.sums = &sums[0]
        self.view.longest = &longest[0]
        self.view.residuals = &residuals[0]

    cdef TokenLists queries(self, const float[:, ::1] tokens, const int64_t[::1] begin,
                            const int64_t[:, ::1] ids) except *:
        """Queries, and the documents named for each."""
        cdef TokenLists view
        cdef Py_ssize_t q, i
        cdef cbool known = True
        check_token_lists(tokens, begin, 0)
        expect(<size_t> tokens.shape[1] == self.view.dim, "token queries")
        expect(ids.shape[0] == begin.shape[0] - 1, "token query ids")
        for q in range(ids.shape[0]):
            for i in range(ids.shape[1]):
                known = known and -1 <= ids[q, i] < <int64_t> self.view.n
        expect(known, "token query ids")
        view.dim = self.view.dim
        view.n = ids.shape[0]
        view.tokens = &tokens[0, 0]
        view.begin = &begin[0]
        return view

    def score(self, Kernels kernels, const float[:, ::1] tokens, const int64_t[::1] begin,
              const int64_t[:, ::1] ids, float[:, ::1] distances, size_t n_threads):
        """distances[q, i] of query q, a list of tokens, to document ids[q, i]; -1 gives inf."""
        cdef TokenLists queries = self.queries(tokens, begin, ids)
        expect(distances.shape[0] == ids.shape[0] and distances.shape[1] == ids.shape[1], "score out")
        cdef size_t n_ids = ids.shape[1]
        cdef const int64_t* id = &ids[0, 0]
        cdef float* out = &distances[0, 0]
        cdef Interrupt interrupt = ctrl_c()
        cdef cbool finished
        with nogil:
            finished = c_score_documents(kernels.row[0], self.view, queries, id, n_ids, out, n_threads, interrupt)
        finish(finished)

    def rescore(self, Kernels kernels, const float[:, ::1] tokens, const int64_t[::1] begin,
                const int64_t[:, ::1] ids, float[:, ::1] distances, int64_t[:, ::1] found, uint64_t[:, ::1] stats,
                size_t n_threads):
        """The nearest of the documents named, as many as `found` has columns; adds to stats (n_queries, 3)."""
        cdef TokenLists queries = self.queries(tokens, begin, ids)
        cdef size_t k = found.shape[1], n_ids = ids.shape[1]
        expect(k > 0 and found.shape[0] == ids.shape[0], "rescore out")
        expect(distances.shape[0] == found.shape[0] and distances.shape[1] == found.shape[1], "rescore out")
        expect(stats.shape[0] == ids.shape[0] and stats.shape[1] == 3 and sizeof(MaxSimStats) == 24, "rescore stats")
        cdef const int64_t* id = &ids[0, 0]
        cdef float* distance = &distances[0, 0]
        cdef int64_t* best = &found[0, 0]
        cdef MaxSimStats* stat = <MaxSimStats*> &stats[0, 0]
        cdef Interrupt interrupt = ctrl_c()
        cdef cbool finished
        with nogil:
            finished = c_rescore_documents(kernels.row[0], self.view, queries, id, n_ids, k, distance, best, stat,
                                           n_threads, interrupt)
        finish(finished)
