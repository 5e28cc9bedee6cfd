#include "assign.h"

#include <algorithm>
#include <limits>
#include <vector>

namespace lw {
namespace {

// A tile of points stays in the second-level cache while all centroids pass it.
constexpr std::size_t kTileBytes = 512 * 1024;

// Packs n rows, shifted, in groups of kLanes, dimension-major; the last group is padded with zeros.
void pack(const float* rows, std::size_t n, std::size_t dim, const float* shift, float* out) {
  const std::size_t n_groups = (n + kLanes - 1) / kLanes;
  for (std::size_t g = 0; g < n_groups; ++g) {
    float* const group = out + g * dim * kLanes;
    for (std::size_t m = 0; m < kLanes; ++m) {
      const std::size_t i = g * kLanes + m;
      for (std::size_t d = 0; d < dim; ++d) {
        group[d * kLanes + m] = i < n ? rows[i * dim + d] - (shift == nullptr ? 0.0f : shift[d]) : 0.0f;
      }
    }
  }
}

}  // namespace

bool assign(const Kernels& kernels, Metric metric, const float* points, std::size_t n, std::size_t dim,
            const float* centroids, std::size_t k, std::int32_t* labels, float* distances, std::size_t n_threads,
            const Interrupt& interrupt) {
  const std::size_t n_panels = (k + kLanes - 1) / kLanes;
  std::vector<float> shift;
  if (metric == Metric::kL2) {
    shift.resize(dim);
    mean(centroids, k, dim, shift.data());
  }
  const float* const shift_or_null = shift.empty() ? nullptr : shift.data();
  std::vector<float> packed(n_panels * kLanes * dim);
  pack(centroids, k, dim, shift_or_null, packed.data());
  std::vector<float> bias(n_panels * kLanes, -std::numeric_limits<float>::infinity());
  for (std::size_t j = 0; j < k; ++j) {
    double norm2 = 0.0;
    if (metric == Metric::kL2) {
      const float* const group = packed.data() + j / kLanes * dim * kLanes + j % kLanes;
      for (std::size_t d = 0; d < dim; ++d) norm2 += static_cast<double>(group[d * kLanes]) * group[d * kLanes];
    }
    bias[j] = static_cast<float>(-0.5 * norm2);
  }

  const std::size_t groups_per_tile = std::clamp<std::size_t>(kTileBytes / (kLanes * dim * sizeof(float)), 1, 16);
  const std::size_t points_per_tile = groups_per_tile * kLanes;
  struct Scratch {
    std::vector<float> points, winners, scores;
    std::vector<std::int32_t> labels;
  };
  std::vector<Scratch> scratch(n_threads);
  return parallel_for(
      (n + points_per_tile - 1) / points_per_tile, n_threads, interrupt, [&](std::size_t piece, std::size_t worker) {
        Scratch& s = scratch[worker];
        s.points.resize(points_per_tile * dim);
        s.winners.resize(points_per_tile * 2 * kLanes);
        s.scores.resize(points_per_tile);
        s.labels.resize(points_per_tile);
        const std::size_t begin = piece * points_per_tile;
        const std::size_t count = std::min(points_per_tile, n - begin);
        pack(points + begin * dim, count, dim, shift_or_null, s.points.data());
        kernels.assign(s.points.data(), (count + kLanes - 1) / kLanes, packed.data(), bias.data(), n_panels, dim,
                       s.winners.data(), s.labels.data(), s.scores.data());
        for (std::size_t i = 0; i < count; ++i) {
          const std::int64_t label = s.labels[i];
          labels[begin + i] = s.labels[i];
          score_rows(kernels, metric, points + (begin + i) * dim, centroids, &label, 1, dim, distances + begin + i);
        }
      });
}

bool cluster_sums(const float* points, std::size_t n, std::size_t dim, const std::int32_t* labels,
                  const double* weights, std::size_t k, double* sums, double* totals, std::int64_t* counts,
                  std::size_t n_threads, const Interrupt& interrupt) {
  // A counting sort puts the points of a cluster side by side in their order, so that each cluster is one chain.
  std::vector<std::size_t> begin(k + 1, 0);
  for (std::size_t i = 0; i < n; ++i) ++begin[static_cast<std::size_t>(labels[i]) + 1];
  for (std::size_t j = 0; j < k; ++j) begin[j + 1] += begin[j];
  std::vector<std::size_t> members(n);
  std::vector<std::size_t> next(begin.begin(), begin.end() - 1);
  for (std::size_t i = 0; i < n; ++i) members[next[static_cast<std::size_t>(labels[i])]++] = i;
  return parallel_for(k, n_threads, interrupt, [&](std::size_t j, std::size_t) {
    double* const sum = sums + j * dim;
    std::fill_n(sum, dim, 0.0);
    totals[j] = 0.0;
    counts[j] = static_cast<std::int64_t>(begin[j + 1] - begin[j]);
    for (std::size_t m = begin[j]; m < begin[j + 1]; ++m) {
      const float* const x = points + members[m] * dim;
      const double weight = weights == nullptr ? 1.0 : weights[members[m]];
      totals[j] += weight;
      for (std::size_t d = 0; d < dim; ++d) sum[d] += weight * static_cast<double>(x[d]);
    }
  });
}

}  // namespace lw
