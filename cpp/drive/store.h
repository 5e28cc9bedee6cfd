// Rows in lists, and what a search over them is asked and answers.
#pragma once

#include <algorithm>

#include "../kernels.h"
#include "rows.h"
#include "threads.h"
#include "topk.h"

namespace lw {

// Rows gathered in lists (a flat index has one), each padded to a multiple of kLanes positions.
struct Store {
  std::size_t dim;
  Metric metric;
  std::size_t n_rows;
  std::size_t n_lists;
  const std::int64_t* list_begin;  // [n_lists + 1], positions, multiples of kLanes
  const std::int64_t* list_size;   // [n_lists], rows in the list; the rest is padding
  const std::int64_t* row_of;      // [positions], row number, -1 for padding; null if position p holds row p
  const std::int64_t* labels;      // [n_rows], the caller's id of each row; null if it is the row number
  Rows rows;                       // [n_rows, dim], original
  double max_norm;                 // the largest |x|

  std::int64_t row(std::size_t position) const {
    return row_of == nullptr ? static_cast<std::int64_t>(position) : row_of[position];
  }
  // The list that a position belongs to; empty ones begin where the next does.
  std::size_t list_at(std::size_t position) const {
    const auto* const after = std::upper_bound(list_begin, list_begin + n_lists, static_cast<std::int64_t>(position));
    return static_cast<std::size_t>(after - list_begin) - 1;
  }
  std::int64_t id(std::int64_t row) const { return labels == nullptr ? row : labels[row]; }
  // The row at a position as Rows::row has it, null for padding.
  const float* row_data(std::size_t position, float* widened) const {
    const std::int64_t number = row(position);
    const bool present = number >= 0 && number < static_cast<std::int64_t>(n_rows);
    return present ? rows.row(static_cast<std::size_t>(number), dim, widened) : nullptr;
  }
};

// Rows that are projected together.
inline constexpr std::size_t kRowsTogether = 64;

// The rows at n positions, at most kRowsTogether, null for padding.
struct Gathered {
  const float* rows[kRowsTogether];

  Gathered(const Store& store, std::size_t begin, std::size_t n) : widened_(store.rows.room(n, store.dim)) {
    const std::size_t stride = store.rows.room(1, store.dim);
    for (std::size_t i = 0; i < n; ++i) rows[i] = store.row_data(begin + i, widened_.data() + i * stride);
  }

 private:
  std::vector<float> widened_;
};

// Where each of n vectors begins.
inline std::vector<const float*> rows_of(const float* x, std::size_t n, std::size_t dim) {
  std::vector<const float*> rows(n);
  for (std::size_t i = 0; i < n; ++i) rows[i] = x + i * dim;
  return rows;
}

// The k nearest, or with an infinite k all within the radius.
struct Request {
  const float* queries;  // [n_queries, dim]
  std::size_t n_queries;
  const std::int64_t* probes;  // lists of query q: probes[q * n_probe ...], -1 for none; all lists if null
  std::size_t n_probe;
  const std::uint64_t* allowed;  // one bit a row, those that may be answered; all if null
  std::size_t k;
  float radius;  // no distance beyond it is answered
  double eps0;   // infinite: exact. Otherwise the dial of early termination.
  std::size_t delta;
  // Rows that a first pass without a guarantee hands on, at least k; 0, for product codes alone, if its estimates are
  // the answer.
  std::size_t rerank;
  // Rows that sign bits hand on to fine codes, at least rerank; 0 if there are none.
  std::size_t refine;
};

struct ScanStats {
  std::uint64_t candidates = 0;  // rows in the lists that were visited, unless they are not allowed
  std::uint64_t dimensions = 0;  // dimensions added up for them, of blocks or codes and of rows
  std::uint64_t settled = 0;     // rows scored exactly
};

// Consecutive positions of one list.
struct Range {
  std::int64_t begin, end;  // positions
  std::int64_t size;        // rows from begin on; the rest is padding
};

// A query's best so far, and those that a piece of its work found.
struct Search {
  TopK best;
  std::vector<Neighbor> found;
  ScanStats stats;

  static Search of(const Request& request) { return {TopK(request.k, request.radius), {}, {}}; }
  // Begins a piece of the work of `whole`, in memory that is there already.
  void restart(const Search& whole) {
    best = whole.best;
    found.clear();
    stats = {};
  }
};

// Where answers go: rows of arrays, or with a radius one list a query.
struct Output {
  float* distances;                            // [n_queries, k], filled up with infinity
  std::int64_t* ids;                           // [n_queries, k], filled up with -1
  ScanStats* stats;                            // [n_queries]
  std::vector<std::vector<Neighbor>>* within;  // [n_queries], best first, instead of distances and ids; or null

  void take(std::size_t q, std::size_t k, Search& search) const {
    stats[q] = search.stats;
    if (within != nullptr) {
      (*within)[q] = search.best.take();
    } else {
      search.best.write(distances + q * k, ids + q * k);
    }
  }
};

// The candidates among the `n` positions (at most 64) from `begin` on that a request allows, as a mask.
inline std::uint64_t allowed_mask(const Store& store, const Request& request, std::size_t begin, std::size_t n) {
  std::uint64_t mask = n == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << n) - 1;
  if (request.allowed == nullptr) return mask;
  if (store.row_of == nullptr && begin % 64 == 0) return mask & request.allowed[begin / 64];
  for (std::size_t i = 0; i < n; ++i) {
    const auto row = static_cast<std::size_t>(store.row(begin + i));
    if ((request.allowed[row / 64] >> row % 64 & 1) == 0) mask &= ~(std::uint64_t{1} << i);
  }
  return mask;
}

// Scores rows exactly, in the order given, and enters those that are near enough.
void settle(const Kernels& kernels, const Store& store, const float* query, const std::int64_t* rows, std::size_t n,
            Search& search);

// The same for at most kSettledTogether rows, but where the distance is L2 and there is a bound, a row is read only as
// far as it takes to see that it is beyond; it does not count as settled then.
inline constexpr std::size_t kSettledTogether = 16;
void settle_near(const Kernels& kernels, const Store& store, const float* query, const std::int64_t* rows,
                 std::size_t n, Search& search);

// The k nearest of the n_ids rows that each query names, -1 for none; a row named twice counts once. Reads of a row
// only what it takes to see that it cannot be among them, unless it is widened. Returns false if interrupted.
[[nodiscard]] bool rescore(const Kernels& kernels, const Store& store, const float* queries, std::size_t n_queries,
                           const std::int64_t* rows, std::size_t n_ids, std::size_t k, const Output& output,
                           std::size_t n_threads, const Interrupt& interrupt);

}  // namespace lw
