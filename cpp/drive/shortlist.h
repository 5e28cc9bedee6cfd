// What first passes without a guarantee share: the candidates with the best estimates, and their way to the rows.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "store.h"

namespace lw {

// The `size` best of a query so far by (estimate, position), and a few behind them that wait to be dropped together.
struct Shortlist {
  std::size_t size;
  float bound;  // estimates beyond it cannot be among the best
  std::vector<Neighbor> entries;
  ScanStats stats;

  static Shortlist of(const Request& request) {
    return {request.rerank, std::numeric_limits<float>::infinity(), {}, {}};
  }
  void restart(const Shortlist& whole) {
    size = whole.size;
    bound = whole.bound;
    entries.clear();
    stats = {};
  }

  void add(const Neighbor& entry) {
    if (entry.distance > bound) return;
    entries.push_back(entry);
    // Selecting costs a pass over all: once for every so many entries.
    if (entries.size() >= 2 * std::max<std::size_t>(size, 32)) shrink();
  }

  void shrink() {
    if (entries.size() < size) return;
    const auto last = entries.begin() + static_cast<std::ptrdiff_t>(size) - 1;
    std::nth_element(entries.begin(), last, entries.end());
    bound = last->distance;
    entries.resize(size);
  }

  // Scores the rows of the entries, from the best on, unless hopeless(entry, search) says that one need not be.
  template <class Hopeless>
  Search settled(const Kernels& kernels, const Store& store, const Request& request, const float* query,
                 const Hopeless& hopeless) {
    constexpr std::size_t kTogether = 64;
    Search search = Search::of(request);
    search.stats = stats;
    shrink();
    std::sort(entries.begin(), entries.end());
    std::int64_t rows[kTogether];
    std::size_t n = 0;
    for (const Neighbor& candidate : entries) {
      if (hopeless(candidate, search)) continue;
      rows[n++] = store.row(static_cast<std::size_t>(candidate.id));
      if (n < kTogether) continue;
      settle(kernels, store, query, rows, n, search);
      n = 0;
    }
    settle(kernels, store, query, rows, n, search);
    return search;
  }
};

inline void merge(const Shortlist& piece, Shortlist& whole) {
  for (const Neighbor& entry : piece.entries) whole.add(entry);
  whole.stats.candidates += piece.stats.candidates;
  whole.stats.dimensions += piece.stats.dimensions;
}

}  // namespace lw
