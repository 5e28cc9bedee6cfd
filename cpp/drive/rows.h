// Whole rows: checks, lengths, normalisation, and the exact scoring of named rows.
#pragma once

#include "../kernels.h"
#include "threads.h"

namespace lw {

// The cosine is for rows of length 1 (or 0): its caller has normalised them.
enum class Metric { kL2, kInnerProduct, kCosine };

// Canonical distances of rows to one query, smaller is nearer: |q - x|^2, -(q . x), or 1 - q . x.
void score_rows(const Kernels& kernels, Metric metric, const float* query, const float* rows, const std::int64_t* ids,
                std::size_t n, std::size_t dim, float* distances);

// The same for n_queries lists of n_ids ids each; an id of -1 gets an infinite distance. Returns false if interrupted.
[[nodiscard]] bool score_lists(const Kernels& kernels, Metric metric, const float* queries, std::size_t n_queries,
                               const float* rows, std::size_t dim, const std::int64_t* ids, std::size_t n_ids,
                               float* distances, std::size_t n_threads, const Interrupt& interrupt);

// Squared lengths in double, in a fixed order. Returns the largest.
double squared_norms(const float* rows, std::size_t n, std::size_t dim, double* out);

// The arithmetic mean of the rows, or zero if there are none.
void mean(const float* rows, std::size_t n, std::size_t dim, float* out);

// to <- from / |from|, row by row; a zero row stays zero.
void normalize(const float* from, std::size_t n, std::size_t dim, float* to);

}  // namespace lw
