#include "store.h"

#include <algorithm>
#include <limits>

namespace lw {

void settle(const Kernels& kernels, const Store& store, const float* query, const std::int64_t* rows, std::size_t n,
            Search& search) {
  constexpr std::size_t kTogether = 64;
  float distances[kTogether];
  for (std::size_t first = 0; first < n; first += kTogether) {
    const std::size_t m = std::min(kTogether, n - first);
    score_rows(kernels, store.metric, query, store.rows, rows + first, m, store.dim, distances);
    for (std::size_t i = 0; i < m; ++i) {
      const std::int64_t row = rows[first + i];
      const Neighbor candidate{distances[i], store.id(row)};
      if (search.best.push(candidate)) search.found.push_back(candidate);
    }
  }
  search.stats.settled += n;
  search.stats.dimensions += n * store.dim;
}

void settle_near(const Kernels& kernels, const Store& store, const float* query, const std::int64_t* rows,
                 std::size_t n, Search& search) {
  const float bound = search.best.bound();
  if (store.metric != Metric::kL2 || bound == std::numeric_limits<float>::infinity()) {
    settle(kernels, store, query, rows, n, search);
    return;
  }
  constexpr std::size_t kBetweenLooks = 8 * kLanes;
  float distances[kSettledTogether];
  float bounds[kSettledTogether];
  std::fill_n(bounds, n, bound);
  for_each_named(
      store.rows, rows, n, store.dim, [&](const float* floats, const std::int64_t* ids, std::size_t at, std::size_t m) {
        kernels.l2_rows_within(query, floats, ids, m, store.dim, bounds, kBetweenLooks, nullptr, distances + at);
      });
  for (std::size_t i = 0; i < n; ++i) {
    if (distances[i] == std::numeric_limits<float>::infinity()) continue;
    const Neighbor candidate{distances[i], store.id(rows[i])};
    if (search.best.push(candidate)) search.found.push_back(candidate);
    ++search.stats.settled;
    search.stats.dimensions += store.dim;
  }
}

bool rescore(const Kernels& kernels, const Store& store, const float* queries, std::size_t n_queries,
             const std::int64_t* rows, std::size_t n_ids, std::size_t k, const Output& output, std::size_t n_threads,
             const Interrupt& interrupt) {
  return parallel_for(n_queries, n_threads, interrupt, [&](std::size_t q, std::size_t) {
    const float* const query = queries + q * store.dim;
    Search search{TopK(k), {}, {}};
    // Named twice, a row would take two places.
    const std::vector<std::int64_t> named = named_once(rows + q * n_ids, n_ids);
    search.stats.candidates = named.size();
    for (std::size_t first = 0; first < named.size(); first += kSettledTogether) {
      settle_near(kernels, store, query, named.data() + first, std::min(kSettledTogether, named.size() - first),
                  search);
    }
    output.take(q, k, search);
  });
}

}  // namespace lw
