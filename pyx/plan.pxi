# cpp/drive/plan.h

cdef extern from "drive/plan.h" namespace "lw" nogil:
    cdef enum class Scheme:
        kPermute
        kStratified
        kOwner
    cdef enum class PlanOutcome:
        kPlanned
        kInterrupted
        kDuplicate
    cdef cppclass PlanParameters:
        Scheme scheme
        size_t n_lanes
        size_t k_lane
        size_t k_dedicated
        size_t head
        uint64_t share_below
        cbool share_all
    cdef cppclass Ownership:
        size_t n_lanes
        uint64_t share_below
        cbool share_all
    void c_owners_of "lw::owners_of"(const CKernels&, const Ownership&, const uint64_t*, const int64_t*, size_t,
                                     int32_t*) except +
    PlanOutcome c_plan "lw::plan"(const CKernels&, const PlanParameters&, const int64_t*, size_t, size_t,
                                  const uint64_t*, int64_t*, int32_t*, size_t*, size_t, const Interrupt&) except +


def plan(Kernels kernels, str scheme, const int64_t[:, ::1] pool, const uint64_t[:, ::1] keys, size_t k_dedicated,
         size_t head, object share_below, int64_t[:, :, ::1] lanes, int32_t[:, ::1] counts, size_t n_threads):
    """Fill lanes (n, n_lanes, k_lane) and counts (n, n_lanes).

    Returns the first query whose pool holds an id twice, or -1. share_below is an integer in [0, 2**64].
    """
    cdef size_t n_queries = pool.shape[0], k_pool = pool.shape[1], duplicate = 0
    cdef PlanParameters parameters
    parameters.n_lanes = lanes.shape[1]
    parameters.k_lane = lanes.shape[2]
    parameters.k_dedicated = k_dedicated
    parameters.head = head
    parameters.share_all = share_below >= 2**64
    parameters.share_below = 0 if parameters.share_all else share_below
    if scheme == "permute":
        parameters.scheme = Scheme.kPermute
    elif scheme == "stratified":
        parameters.scheme = Scheme.kStratified
    else:
        expect(scheme == "owner", "plan scheme")
        parameters.scheme = Scheme.kOwner
    expect(parameters.n_lanes > 0 and parameters.k_lane > 0 and k_dedicated <= parameters.k_lane, "plan parameters")
    expect(k_pool < 2**32 - 2, "plan pool")
    expect(keys.shape[0] == pool.shape[0] and keys.shape[1] == 2, "plan keys")
    expect(lanes.shape[0] == pool.shape[0] and counts.shape[0] == pool.shape[0]
           and counts.shape[1] == lanes.shape[1], "plan out")
    cdef const int64_t* candidate = &pool[0, 0]
    cdef const uint64_t* key = &keys[0, 0]
    cdef int64_t* lane = &lanes[0, 0, 0]
    cdef int32_t* count = &counts[0, 0]
    cdef Interrupt interrupt = ctrl_c()
    cdef PlanOutcome outcome
    with nogil:
        outcome = c_plan(kernels.row[0], parameters, candidate, n_queries, k_pool, key, lane, count, &duplicate,
                         n_threads, interrupt)
    finish(outcome != PlanOutcome.kInterrupted)
    return duplicate if outcome == PlanOutcome.kDuplicate else -1


def owners_of(Kernels kernels, const int64_t[::1] ids, const uint64_t[::1] key, size_t n_lanes, object share_below,
              int32_t[::1] lanes):
    """Fill lanes (n,) with what the scheme "owner" says of ids under a key (2,), -1 for what all lanes share.

    share_below is as for `plan`.
    """
    expect(n_lanes > 0 and key.shape[0] == 2 and lanes.shape[0] == ids.shape[0], "owners")
    cdef Ownership owner
    owner.n_lanes = n_lanes
    owner.share_all = share_below >= 2**64
    owner.share_below = 0 if owner.share_all else share_below
    cdef size_t n = ids.shape[0]
    cdef const int64_t* candidate = &ids[0]
    cdef const uint64_t* word = &key[0]
    cdef int32_t* lane = &lanes[0]
    with nogil:
        c_owners_of(kernels.row[0], owner, word, candidate, n, lane)
