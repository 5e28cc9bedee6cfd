# cpp/drive/row_file.h

cdef extern from "drive/row_file.h" namespace "lw" nogil:
    cdef cppclass RowFault:
        int kind
        int64_t row
        int error
    cdef cppclass CRowFile "lw::RowFile":
        CRowFile(int, uint64_t, size_t, size_t, Number, cbool, uint64_t) except +
        size_t n()
        size_t dim()
        cbool score(const CKernels&, Metric, const float*, size_t, const int64_t*, size_t, float*, RowFault&, size_t,
                    const Interrupt&) except +
        uint64_t bytes_read()
        int64_t resident_bytes()

_FAULTS = (None, "system", "end", "not finite", "too long")


cdef class RowFile:
    """Rows in a file from a byte on, of a descriptor that is open for reading and closed with this object."""

    cdef CRowFile* file

    def __dealloc__(self):
        del self.file

    def __init__(self, int descriptor, uint64_t offset, size_t n, size_t dim, str numbers, cbool unit,
                 uint64_t cache_bytes):
        expect(self.file == NULL and n > 0 and dim > 0, "row file")
        cdef Number kind = Number.kFloat32
        if numbers == "uint8":
            kind = Number.kUint8
        elif numbers == "int8":
            kind = Number.kInt8
        else:
            expect(numbers == "float32", "row file numbers")
        self.file = new CRowFile(descriptor, offset, n, dim, kind, unit, cache_bytes)

    def score(self, Kernels kernels, str metric, const float[:, ::1] queries, const int64_t[:, ::1] ids,
              float[:, ::1] distances, size_t n_threads):
        """distances[q, i] of query q to row ids[q, i]; -1 gives inf. Returns (what, row, errno) of a row that failed.

        The caller has checked the range of ids.
        """
        cdef size_t n_queries = queries.shape[0], n_ids = ids.shape[1]
        expect(<size_t> queries.shape[1] == self.file.dim() and ids.shape[0] == queries.shape[0], "score shapes")
        expect(distances.shape[0] == ids.shape[0] and distances.shape[1] == ids.shape[1], "score out")
        cdef Metric m = to_metric(metric)
        cdef const float* query = &queries[0, 0]
        cdef const int64_t* id = &ids[0, 0]
        cdef float* out = &distances[0, 0]
        cdef RowFault fault
        cdef Interrupt interrupt = ctrl_c()
        cdef cbool finished
        with nogil:
            finished = self.file.score(kernels.row[0], m, query, n_queries, id, n_ids, out, fault, n_threads,
                                       interrupt)
        if fault.row >= 0:
            return _FAULTS[fault.kind], fault.row, fault.error
        finish(finished)
        return None

    @property
    def bytes_read(self):
        """Bytes of the pages that were not in memory when they were asked for."""
        return self.file.bytes_read()

    @property
    def resident_bytes(self):
        """Bytes of the pages of rows that are in memory, None where the system does not tell."""
        cdef int64_t n
        with nogil:
            n = self.file.resident_bytes()
        return None if n < 0 else n
