#include "assign.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "float_mode.h"

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

// |x|^2 of the kLanes members of a packed group.
void packed_norms2(const float* group, std::size_t dim, double* norms2) {
  std::fill_n(norms2, kLanes, 0.0);
  for (std::size_t d = 0; d < dim; ++d) {
    for (std::size_t m = 0; m < kLanes; ++m) {
      const double x = static_cast<double>(group[d * kLanes + m]);
      norms2[m] += x * x;
    }
  }
}

// How far apart two scores of one point must be for rounding not to have decided between them.
//
// With |x| and |c| the shifted lengths, a score is a chain of dim products and a rounded bias, off by at most
// (dim + 6) u (|x| |c| + |c|^2 / 2), the rounding of the shift included. A canonical distance, at most (|x| + |c|)^2,
// is off by (dim / 16 + 10) u of itself, and the difference of two is twice that of the scores.
class Doubt {
 public:
  Doubt(std::size_t dim, double longest_centroid)
      : chain_((static_cast<double>(dim) + 6) * kUnit * 1.02),
        row_((static_cast<double>(dim) / 16 + 10) * kUnit * 1.02),
        underflow_(static_cast<double>(dim) * 0x1p-146),
        c_(longest_centroid) {}

  double operator()(double x) const {
    return 2 * chain_ * (x * c_ + c_ * c_ / 2) + row_ * (x + c_) * (x + c_) + underflow_;
  }

 private:
  static constexpr double kUnit = 0x1p-24;
  double chain_, row_, underflow_, c_;
};

}  // namespace

bool assign(const Kernels& kernels, Metric metric, const float* points, std::size_t n, std::size_t dim,
            const float* centroids, std::size_t k, std::int32_t* labels, float* distances, std::size_t n_threads,
            const Interrupt& interrupt) {
  const DefaultFloatMode mode;
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
  double longest2 = 0.0;
  double norms2[kLanes];
  for (std::size_t j = 0; j < k; ++j) {
    if (j % kLanes == 0) packed_norms2(packed.data() + j * dim, dim, norms2);
    bias[j] = metric == Metric::kL2 ? static_cast<float>(-0.5 * norms2[j % kLanes]) : 0.0f;
    longest2 = std::max(longest2, norms2[j % kLanes]);
  }
  const Doubt doubt(dim, std::sqrt(longest2));

  const std::size_t groups_per_tile = std::clamp<std::size_t>(kTileBytes / (kLanes * dim * sizeof(float)), 1, 16);
  const std::size_t points_per_tile = groups_per_tile * kLanes;
  struct Scratch {
    std::vector<float> points, winners, scores, runner_ups, distances;
    std::vector<std::int32_t> labels;
  };
  const std::size_t n_pieces = (n + points_per_tile - 1) / points_per_tile;
  n_threads = std::min(n_threads, std::max<std::size_t>(n_pieces, 1));
  std::vector<Scratch> scratch(n_threads);
  return parallel_for(n_pieces, n_threads, interrupt, [&](std::size_t piece, std::size_t worker) {
    Scratch& s = scratch[worker];
    s.points.resize(points_per_tile * dim);
    s.winners.resize(points_per_tile * 3 * kLanes);
    s.scores.resize(points_per_tile);
    s.runner_ups.resize(points_per_tile);
    s.labels.resize(points_per_tile);
    const std::size_t begin = piece * points_per_tile;
    const std::size_t count = std::min(points_per_tile, n - begin);
    pack(points + begin * dim, count, dim, shift_or_null, s.points.data());
    kernels.assign(s.points.data(), (count + kLanes - 1) / kLanes, packed.data(), bias.data(), n_panels, dim,
                   s.winners.data(), s.labels.data(), s.scores.data(), s.runner_ups.data());
    double lengths2[kLanes];
    for (std::size_t i = 0; i < count; ++i) {
      if (i % kLanes == 0) packed_norms2(s.points.data() + i * dim, dim, lengths2);
      const float* const x = points + (begin + i) * dim;
      const double length = std::sqrt(lengths2[i % kLanes]);
      if (static_cast<double>(s.scores[i]) - static_cast<double>(s.runner_ups[i]) > doubt(length)) {
        const std::int64_t label = s.labels[i];
        labels[begin + i] = s.labels[i];
        score_rows(kernels, metric, x, centroids, &label, 1, dim, distances + begin + i);
      } else {
        s.distances.resize(k);
        score_rows(kernels, metric, x, centroids, nullptr, k, dim, s.distances.data());
        const auto nearest = std::min_element(s.distances.begin(), s.distances.end());
        labels[begin + i] = static_cast<std::int32_t>(nearest - s.distances.begin());
        distances[begin + i] = *nearest;
      }
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
