// Whole rows: checks, lengths, normalisation, and the exact scoring of named rows.
#pragma once

#include <algorithm>
#include <iterator>
#include <memory>
#include <vector>

#include "../kernels.h"
#include "threads.h"

namespace lw {

enum class Number { kFloat32, kUint8, kInt8 };

// Rows as they are kept. Kernels take floats: whole numbers of a byte are widened, which is exact, where they are read.
struct Rows {
  const void* data = nullptr;  // [n, dim]
  Number type = Number::kFloat32;

  Rows() = default;
  Rows(const float* floats) : data(floats) {}

  bool wide() const { return type == Number::kFloat32; }
  // The floats of wide rows.
  const float* floats() const { return static_cast<const float*>(data); }
  // Floats that n rows need to be widened.
  std::size_t room(std::size_t n, std::size_t dim) const { return wide() ? 0 : n * dim; }
  // Row i: where it lies, or widened.
  const float* row(std::size_t i, std::size_t dim, float* widened) const {
    if (wide()) return floats() + i * dim;
    if (type == Number::kUint8) {
      std::copy_n(static_cast<const std::uint8_t*>(data) + i * dim, dim, widened);
    } else {
      std::copy_n(static_cast<const std::int8_t*>(data) + i * dim, dim, widened);
    }
    return widened;
  }
};

// visit(floats, ids, first, m) for n named rows, so that row ids[i] of the floats is the one named `first + i`: for all
// of them at once, or for a few at a time that are widened.
template <class Visit>
void for_each_named(const Rows& rows, const std::int64_t* ids, std::size_t n, std::size_t dim, const Visit& visit) {
  if (rows.wide()) {
    visit(rows.floats(), ids, std::size_t{0}, n);
    return;
  }
  constexpr std::size_t kOnStack = 4096;
  static constexpr std::int64_t kInOrder[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  // A kernel hides the latency of one row behind three others.
  const std::size_t together = std::min(n, std::clamp<std::size_t>(kOnStack / dim, 4, std::size(kInOrder)));
  float few[kOnStack];
  const auto more = together * dim > kOnStack ? std::make_unique_for_overwrite<float[]>(together * dim) : nullptr;
  float* const widened = more != nullptr ? more.get() : few;
  for (std::size_t first = 0; first < n; first += together) {
    const std::size_t m = std::min(together, n - first);
    for (std::size_t i = 0; i < m; ++i) {
      rows.row(ids == nullptr ? first + i : static_cast<std::size_t>(ids[first + i]), dim, widened + i * dim);
    }
    visit(widened, kInOrder, first, m);
  }
}

// The cosine is for rows of length 1 (or 0): its caller has normalised them.
enum class Metric { kL2, kInnerProduct, kCosine };

// Canonical distances of rows to one query, smaller is nearer: |q - x|^2, -(q . x), or 1 - q . x.
void score_rows(const Kernels& kernels, Metric metric, const float* query, const Rows& rows, const std::int64_t* ids,
                std::size_t n, std::size_t dim, float* distances);

// The same for n_queries lists of n_ids ids each; an id of -1 gets an infinite distance. Returns false if interrupted.
[[nodiscard]] bool score_lists(const Kernels& kernels, Metric metric, const float* queries, std::size_t n_queries,
                               const Rows& rows, std::size_t dim, const std::int64_t* ids, std::size_t n_ids,
                               float* distances, std::size_t n_threads, const Interrupt& interrupt);

// Those of n ids that are not -1, each once: in their order, or ascending if one is named twice.
std::vector<std::int64_t> named_once(const std::int64_t* ids, std::size_t n);

// Squared lengths in double, in a fixed order. Returns the largest, NaN if there is one.
double squared_norms(const Rows& rows, std::size_t n, std::size_t dim, double* out);

// The arithmetic mean of the rows, or zero if there are none.
void mean(const Rows& rows, std::size_t n, std::size_t dim, float* out);

// to <- from / |from|, row by row; a zero row stays zero.
void normalize(const float* from, std::size_t n, std::size_t dim, float* to);

}  // namespace lw
