# cpp/drive/graph.h

cdef extern from "drive/graph.h" namespace "lw" nogil:
    uint32_t kNoLink
    cdef cppclass GraphCodes:
        const int8_t* codes
        const float* base
        size_t stride
        size_t bits
        const float* center
        const float* step
    cdef cppclass GraphRotated:
        const float* rows
        const float* norms
    cdef cppclass CGraph "lw::Graph":
        size_t n
        size_t dim
        size_t max_m0
        size_t max_m
        size_t max_level
        uint32_t enter
        const uint32_t* links
        const uint32_t* upper_begin
        const uint32_t* upper
        const int64_t* labels
        const float* rows
        Metric metric
        const GraphCodes* codes
        const GraphRotated* rotated
        cbool steered_by_rows()
    cdef cppclass GraphStats:
        pass
    cdef cppclass GraphRequest:
        const float* queries
        size_t n_queries
        size_t k
        size_t ef
        size_t rerank
        const float* rotated
        double eps0
        const uint64_t* allowed
        const Ownership* owner
        size_t lane
        const uint64_t* keys
    cdef cppclass GraphScratches:
        GraphScratches() except +
    cbool c_search_graph "lw::search_graph"(const CKernels&, const CGraph&, const GraphRequest&, GraphScratches&,
                                            float*, int64_t*, GraphStats*, size_t, const Interrupt&) except +
    cdef cppclass CGraphStream "lw::GraphStream":
        size_t advance(size_t, float*, int64_t*) except +
        cbool ended()
        float bound()
        void answer(float*, int64_t*, GraphStats*) except +
    unique_ptr[CGraphStream] c_stream_graph "lw::stream_graph"(const CKernels&, const CGraph&, const GraphRequest&,
                                                               GraphScratches&) except +
    cbool c_split_lists "lw::split_lists"(const uint8_t*, size_t, size_t, size_t, uint32_t*, uint8_t*)


cdef class Graph:
    """A graph and its rows, not empty. Holds on to the arrays that it is made of, and believes no link.

    Shapes: rows (n, dim), links (n, max_m0), upper_begin (n + 1,), upper (upper_begin[n], max_m), labels (n,) or None.
    With codes: codes (n * stride + 64,), base (n,), center and step (dim,). Rotated: rows (n, dim) and norms (n,).
    """

    cdef CGraph view
    cdef GraphCodes code_view
    cdef GraphRotated rotated_view
    cdef GraphScratches* scratches
    cdef object _arrays

    def __cinit__(self):
        self.scratches = new GraphScratches()

    def __dealloc__(self):
        del self.scratches

    def __init__(self, str metric, const float[:, ::1] rows, const uint32_t[:, ::1] links,
                 const uint32_t[::1] upper_begin, const uint32_t[:, ::1] upper, size_t enter,
                 const int64_t[::1] labels):
        cdef size_t n = rows.shape[0], dim = rows.shape[1], max_m0 = links.shape[1], max_m = upper.shape[1]
        cdef size_t i, level, j, n_upper = upper.shape[0], levels
        cdef uint32_t link
        expect(n > 0 and dim > 0 and n < kNoLink and max_m0 > 0 and max_m > 0, "graph shapes")
        expect(<size_t> links.shape[0] == n and <size_t> upper_begin.shape[0] == n + 1, "graph shapes")
        expect(upper_begin[0] == 0 and upper_begin[n] == n_upper and enter < n, "graph levels")
        for i in range(n):
            expect(upper_begin[i] <= upper_begin[i + 1], "graph levels")
        self.view.max_level = upper_begin[enter + 1] - upper_begin[enter]
        for i in range(n):
            levels = upper_begin[i + 1] - upper_begin[i]
            expect(levels <= self.view.max_level, "graph levels")
            for j in range(max_m0):
                link = links[i, j]
                expect(link < n or link == kNoLink, "graph links")
            for level in range(levels):
                for j in range(max_m):
                    link = upper[upper_begin[i] + level, j]
                    expect(link == kNoLink or (link < n and upper_begin[link + 1] - upper_begin[link] > level),
                           "graph upper links")
        self._arrays = (rows, links, upper_begin, upper, labels)
        self.view.n = n
        self.view.dim = dim
        self.view.max_m0 = max_m0
        self.view.max_m = max_m
        self.view.enter = enter
        self.view.links = &links[0, 0]
        self.view.upper_begin = &upper_begin[0]
        self.view.upper = &upper[0, 0]
        self.view.rows = &rows[0, 0]
        self.view.metric = to_metric(metric)
        self.view.labels = NULL
        if labels is not None:
            expect(<size_t> labels.shape[0] == n, "graph labels")
            self.view.labels = &labels[0]
        self.view.codes = NULL
        self.view.rotated = NULL

    def steer(self, const int8_t[::1] codes, size_t bits, const float[::1] base, const float[::1] center,
              const float[::1] step):
        """Let codes steer the searches: once, before the first of them."""
        cdef size_t n = self.view.n, dim = self.view.dim
        expect(self.view.steered_by_rows() and (bits == 8 or bits == 4) and dim <= 65536, "graph codes")
        cdef size_t unit = 64 if bits == 8 else 128
        cdef size_t n_codes = (dim + unit - 1) // unit * unit
        self.code_view.stride = n_codes if bits == 8 else n_codes // 2
        expect(<size_t> codes.shape[0] == n * self.code_view.stride + 64, "graph codes")
        expect(<size_t> base.shape[0] == n and <size_t> center.shape[0] == dim and <size_t> step.shape[0] == dim,
               "graph codes")
        self.code_view.codes = &codes[0]
        self.code_view.base = &base[0]
        self.code_view.bits = bits
        self.code_view.center = &center[0]
        self.code_view.step = &step[0]
        self._arrays += (codes, base, center, step)
        self.view.codes = &self.code_view

    def steer_rotated(self, const float[:, ::1] rows, const float[::1] norms):
        """Let rotated rows steer the searches: once, before the first of them. norms None is for L2."""
        expect(self.view.steered_by_rows(), "graph rotated rows")
        expect(<size_t> rows.shape[0] == self.view.n and <size_t> rows.shape[1] == self.view.dim, "graph rotated rows")
        expect((norms is None) == (self.view.metric == to_metric("l2")), "graph rotated norms")
        self.rotated_view.rows = &rows[0, 0]
        self.rotated_view.norms = NULL
        if norms is not None:
            expect(<size_t> norms.shape[0] == self.view.n, "graph rotated norms")
            self.rotated_view.norms = &norms[0]
        self._arrays += (rows, norms)
        self.view.rotated = &self.rotated_view

    def search(self, Kernels kernels, const float[:, ::1] queries, const float[:, ::1] rotated, double eps0,
               size_t ef, size_t rerank, const uint64_t[::1] allowed, float[:, ::1] distances, int64_t[:, ::1] ids,
               uint64_t[:, ::1] stats, size_t n_threads, const uint64_t[:, ::1] keys=None, size_t lane=0,
               size_t n_lanes=1, object share_below=0):
        """Fill distances and ids (n_queries, k) and stats (n_queries, 4): hops, expanded, distances, settled.

        rotated are the queries again, for rotated rows, and None without; allowed, one bit an element, may be None;
        keys (n_queries, 2) ask for what `lane` of n_lanes owns alone.
        """
        cdef GraphRequest request
        cdef Ownership owner
        cdef size_t n_queries = queries.shape[0], k = distances.shape[1]
        expect(<size_t> queries.shape[1] == self.view.dim, "graph queries")
        expect((rotated is None) == (self.view.rotated == NULL), "graph rotated queries")
        expect(k > 0 and ef >= k and rerank >= k, "graph widths")
        expect(distances.shape[0] == queries.shape[0] and ids.shape[0] == queries.shape[0]
               and ids.shape[1] == distances.shape[1], "graph out")
        expect(stats.shape[0] == queries.shape[0] and stats.shape[1] == 4 and sizeof(GraphStats) == 32, "graph stats")
        request.queries = &queries[0, 0]
        request.n_queries = n_queries
        request.rotated = NULL
        if rotated is not None:
            expect(rotated.shape[0] == queries.shape[0] and rotated.shape[1] == queries.shape[1],
                   "graph rotated queries")
            request.rotated = &rotated[0, 0]
        request.eps0 = eps0
        request.k = k
        request.ef = ef
        request.rerank = rerank
        request.allowed = NULL
        if allowed is not None:
            expect(<size_t> allowed.shape[0] * 64 >= self.view.n, "graph filter")
            request.allowed = &allowed[0]
        request.owner = NULL
        request.keys = NULL
        request.lane = lane
        if keys is not None:
            expect(keys.shape[0] == queries.shape[0] and keys.shape[1] == 2 and lane < n_lanes, "graph owner")
            owner.n_lanes = n_lanes
            owner.share_all = share_below >= 2**64
            owner.share_below = 0 if owner.share_all else share_below
            request.owner = &owner
            request.keys = &keys[0, 0]
        cdef float* distance = &distances[0, 0]
        cdef int64_t* found = &ids[0, 0]
        cdef GraphStats* stat = <GraphStats*> &stats[0, 0]
        cdef Interrupt interrupt = ctrl_c()
        cdef cbool finished
        with nogil:
            finished = c_search_graph(kernels.row[0], self.view, request, self.scratches[0], distance, found, stat,
                                      n_threads, interrupt)
        finish(finished)


# What is held must be there when the stream goes, whoever collects it: the scratch goes back to the graph.
@cython.no_gc_clear
cdef class GraphStream:
    """One query's search, step by step. Holds on to the graph and to the arrays that it is given."""

    cdef unique_ptr[CGraphStream] stream
    cdef size_t k
    cdef cbool busy, answered
    cdef object _held

    def __init__(self, Graph graph, Kernels kernels, const float[::1] query, const float[::1] rotated, double eps0,
                 size_t k, size_t ef, size_t rerank, const uint64_t[::1] allowed):
        cdef GraphRequest request
        expect(<size_t> query.shape[0] == graph.view.dim, "graph queries")
        expect((rotated is None) == (graph.view.rotated == NULL), "graph rotated queries")
        expect(k > 0 and ef >= k and rerank >= k, "graph widths")
        expect(self.stream.get() == NULL, "graph stream made twice")
        request.queries = &query[0]
        request.n_queries = 1
        request.rotated = NULL
        if rotated is not None:
            expect(<size_t> rotated.shape[0] == graph.view.dim, "graph rotated queries")
            request.rotated = &rotated[0]
        request.eps0 = eps0
        request.k = k
        request.ef = ef
        request.rerank = rerank
        request.allowed = NULL
        if allowed is not None:
            expect(<size_t> allowed.shape[0] * 64 >= graph.view.n, "graph filter")
            request.allowed = &allowed[0]
        request.owner = NULL
        request.lane = 0
        request.keys = NULL
        self.k = k
        self._held = (graph, kernels, query, rotated, allowed)
        self.stream = c_stream_graph(kernels.row[0], graph.view, request, graph.scratches[0])

    def __dealloc__(self):
        self.stream.reset()

    cdef CGraphStream* mine(self) except NULL:
        """The stream, if no other thread is in it: the GIL does not keep them out while it walks."""
        expect(self.stream.get() != NULL and not self.answered, "graph stream has answered")
        expect(not self.busy, "graph stream in two threads")
        return self.stream.get()

    def advance(self, size_t n, float[::1] distances, int64_t[::1] ids):
        """Expand at most n elements; fill distances and ids with those that may be answered, return their number."""
        expect(<size_t> distances.shape[0] >= n and <size_t> ids.shape[0] >= n, "graph out")
        cdef float* distance = &distances[0]
        cdef int64_t* found = &ids[0]
        cdef size_t n_found
        cdef CGraphStream* stream = self.mine()
        self.busy = True
        try:
            with nogil:
                n_found = stream.advance(n, distance, found)
        finally:
            self.busy = False
        return n_found

    def ended(self):
        """Whether there is nothing left to expand."""
        return self.mine().ended()

    def bound(self):
        """Return the distance beyond which a candidate is not expected among the answers."""
        return self.mine().bound()

    def answer(self, float[::1] distances, int64_t[::1] ids, uint64_t[::1] stats):
        """Fill distances and ids (k,) and stats (4,) with what was found so far. Then nothing else can be asked."""
        expect(<size_t> distances.shape[0] == self.k and <size_t> ids.shape[0] == self.k, "graph out")
        expect(stats.shape[0] == 4 and sizeof(GraphStats) == 32, "graph stats")
        cdef float* distance = &distances[0]
        cdef int64_t* found = &ids[0]
        cdef GraphStats* stat = <GraphStats*> &stats[0]
        cdef CGraphStream* stream = self.mine()
        self.answered = True
        with nogil:
            stream.answer(distance, found, stat)


def split_lists(const uint8_t[::1] lists, size_t block_bytes, uint32_t[::1] n_blocks, uint8_t[::1] blocks):
    """Split the lists at the end of hnswlib's file: n_blocks (n,) and blocks (len(lists) - 4 n,). Whether they fit."""
    cdef size_t size = lists.shape[0], n = n_blocks.shape[0]
    expect(block_bytes > 0 and size >= 4 * n and <size_t> blocks.shape[0] == size - 4 * n, "lists")
    cdef const uint8_t* source = &lists[0]
    cdef uint32_t* count = &n_blocks[0]
    cdef uint8_t* target = &blocks[0]
    cdef cbool fit
    with nogil:
        fit = c_split_lists(source, size, n, block_bytes, count, target)
    return fit
