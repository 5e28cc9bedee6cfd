#include "rows.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "float_mode.h"

namespace lw {
namespace {

double squared_norm(const float* x, std::size_t dim) {
  double sum = 0.0;
  for (std::size_t d = 0; d < dim; ++d) sum += static_cast<double>(x[d]) * static_cast<double>(x[d]);
  return sum;
}

}  // namespace

void score_rows(const Kernels& kernels, Metric metric, const float* query, const Rows& rows, const std::int64_t* ids,
                std::size_t n, std::size_t dim, float* distances) {
  const auto score = metric == Metric::kL2 ? kernels.l2_rows : kernels.dot_rows;
  for_each_named(rows, ids, n, dim, [&](const float* floats, const std::int64_t* named, std::size_t first, auto m) {
    score(query, floats, named, m, dim, distances + first);
  });
  if (metric == Metric::kL2) return;
  const bool cosine = metric == Metric::kCosine;
  for (std::size_t i = 0; i < n; ++i) {
    // A product of two rounded unit vectors may be a little more than 1.
    distances[i] = cosine ? std::max(0.0f, 1.0f - distances[i]) : -distances[i];
  }
}

bool score_lists(const Kernels& kernels, Metric metric, const float* queries, std::size_t n_queries, const Rows& rows,
                 std::size_t dim, const std::int64_t* ids, std::size_t n_ids, float* distances, std::size_t n_threads,
                 const Interrupt& interrupt) {
  constexpr std::size_t kIdsPerPiece = 1024;
  const std::size_t pieces_per_query = (n_ids + kIdsPerPiece - 1) / kIdsPerPiece;
  return parallel_for(n_queries * pieces_per_query, n_threads, interrupt, [&](std::size_t piece, std::size_t) {
    const std::size_t q = piece / pieces_per_query;
    const std::size_t begin = piece % pieces_per_query * kIdsPerPiece;
    const std::size_t end = std::min(n_ids, begin + kIdsPerPiece);
    const std::int64_t* const list = ids + q * n_ids;
    float* const out = distances + q * n_ids;
    std::int64_t present[kIdsPerPiece];
    float scores[kIdsPerPiece];
    std::size_t n_present = 0;
    for (std::size_t i = begin; i < end; ++i) {
      if (list[i] >= 0) present[n_present++] = list[i];
    }
    score_rows(kernels, metric, queries + q * dim, rows, present, n_present, dim, scores);
    std::size_t next = 0;
    for (std::size_t i = begin; i < end; ++i) {
      out[i] = list[i] >= 0 ? scores[next++] : std::numeric_limits<float>::infinity();
    }
  });
}

std::vector<std::int64_t> named_once(const std::int64_t* ids, std::size_t n) {
  std::vector<std::int64_t> named(ids, ids + n);
  std::erase(named, -1);
  std::vector<std::int64_t> seen = named;
  std::sort(seen.begin(), seen.end());
  if (std::adjacent_find(seen.begin(), seen.end()) == seen.end()) return named;
  seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
  return seen;
}

double squared_norms(const Rows& rows, std::size_t n, std::size_t dim, double* out) {
  const DefaultFloatMode mode;
  std::vector<float> widened(rows.room(1, dim));
  double largest = 0.0;
  for (std::size_t i = 0; i < n; ++i) {
    out[i] = squared_norm(rows.row(i, dim, widened.data()), dim);
    // NaN is larger than all.
    if (!(out[i] <= largest) && !std::isnan(largest)) largest = out[i];
  }
  return largest;
}

void mean(const Rows& rows, std::size_t n, std::size_t dim, float* out) {
  const DefaultFloatMode mode;
  std::vector<double> sum(dim, 0.0);
  std::vector<float> widened(rows.room(1, dim));
  for (std::size_t i = 0; i < n; ++i) {
    const float* const row = rows.row(i, dim, widened.data());
    for (std::size_t d = 0; d < dim; ++d) sum[d] += static_cast<double>(row[d]);
  }
  for (std::size_t d = 0; d < dim; ++d) out[d] = n == 0 ? 0.0f : static_cast<float>(sum[d] / static_cast<double>(n));
}

void normalize(const float* from, std::size_t n, std::size_t dim, float* to) {
  const DefaultFloatMode mode;
  for (std::size_t i = 0; i < n; ++i) {
    const double norm = std::sqrt(squared_norm(from + i * dim, dim));
    for (std::size_t d = 0; d < dim; ++d) {
      const double x = static_cast<double>(from[i * dim + d]);
      to[i * dim + d] = norm > 0.0 ? static_cast<float>(x / norm) : 0.0f;
    }
  }
}

}  // namespace lw
