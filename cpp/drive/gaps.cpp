#include "gaps.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "numbers.h"

namespace lw {
namespace {

// Squared distances below the square of this may have lost digits to underflow.
constexpr double kTiny = 0x1p-60;

constexpr std::size_t kFewestPanels = 8;
// Points to a centroid from which on k^2 distances are few.
constexpr std::size_t kPointsEach = 48;
// Parts of the points' memory that gaps may take.
constexpr std::size_t kPart = 16;

}  // namespace

bool Gaps::pay(std::size_t n, std::size_t dim, std::size_t k) {
  const std::size_t n_panels = (k + kLanes - 1) / kLanes;
  return n_panels >= kFewestPanels && n / k >= kPointsEach && k * n_panels <= n * dim / kPart;
}

Gaps::Gaps(const Kernels& kernels, const float* centroids, std::size_t k, std::size_t dim, std::size_t n_threads,
           const Interrupt& interrupt, bool& finished)
    : k_(k), n_panels_((k + kLanes - 1) / kLanes), error_(canonical_error(dim)), place_(k), gaps_(k * n_panels_) {
  // Each panel is a centroid and the nearest that are left; the next begins with the nearest to its last one.
  std::vector<std::int64_t> left(k);
  std::iota(left.begin(), left.end(), 0);
  std::vector<float> distances(k);
  std::vector<std::pair<float, std::int64_t>> near;
  std::int64_t seed = 0;
  while (!left.empty()) {
    if (interrupt.now()) {
      finished = false;
      return;
    }
    const float* const row = centroids + static_cast<std::size_t>(seed) * dim;
    kernels.l2_rows(row, centroids, left.data(), left.size(), dim, distances.data());
    near.clear();
    for (std::size_t i = 0; i < left.size(); ++i) near.emplace_back(distances[i], left[i]);
    // One more than a panel holds: the seed of the next.
    const std::size_t n = std::min(left.size(), kLanes + 1);
    std::partial_sort(near.begin(), near.begin() + static_cast<std::ptrdiff_t>(n), near.end());
    const std::size_t taken = std::min(left.size(), kLanes);
    for (std::size_t i = 0; i < taken; ++i) {
      place_[static_cast<std::size_t>(near[i].second)] = static_cast<std::uint32_t>(order_.size());
      order_.push_back(near[i].second);
    }
    if (n > taken) seed = near[taken].second;
    left.clear();
    for (std::size_t i = taken; i < near.size(); ++i) left.push_back(near[i].second);
    std::sort(left.begin(), left.end());
  }
  // Panels meet panels: what one holds stays in the cache for all centroids of the other.
  finished = parallel_for(n_panels_, n_threads, interrupt, [&](std::size_t some, std::size_t) {
    for (std::size_t panel = 0; panel < n_panels_; ++panel) {
      const std::size_t first = panel * kLanes;
      const std::size_t n = std::min(kLanes, k_ - first);
      for (std::size_t i = some * kLanes; i < std::min(k_, (some + 1) * kLanes); ++i) {
        const auto a = static_cast<std::size_t>(order_[i]);
        float d2[kLanes];
        kernels.l2_rows(centroids + a * dim, centroids, order_.data() + first, n, dim, d2);
        const double least = std::sqrt(static_cast<double>(*std::min_element(d2, d2 + n))) * (1 - error_) - kTiny;
        gaps_[a * n_panels_ + panel] =
            std::nextafter(static_cast<float>(least), -std::numeric_limits<float>::infinity());
      }
    }
  });
}

std::size_t Gaps::panels_to_meet(const std::int32_t* a, const float* d2, std::size_t n_points,
                                 std::uint32_t* panels) const {
  // Distances of c and of a to x are compared as they are computed, so that more than the true ones must differ.
  const float* gaps[kLanes];
  float reaches[kLanes];
  std::size_t n_different = 0;
  for (std::size_t i = 0; i < n_points; ++i) {
    const double reach = 2 * std::sqrt(static_cast<double>(d2[i])) * (1 + error_) * (1 + 2 * error_) + kTiny;
    const float up = std::nextafter(static_cast<float>(reach), std::numeric_limits<float>::infinity());
    if (i > 0 && a[i] == a[i - 1]) {
      reaches[n_different - 1] = std::max(reaches[n_different - 1], up);
    } else {
      gaps[n_different] = gaps_.data() + static_cast<std::size_t>(a[i]) * n_panels_;
      reaches[n_different++] = up;
    }
  }
  std::size_t n = 0;
  for (std::size_t panel = 0; panel < n_panels_; ++panel) {
    bool out = true;
    for (std::size_t i = 0; i < n_different; ++i) out = out && gaps[i][panel] > reaches[i];
    panels[n] = static_cast<std::uint32_t>(panel);
    n += out ? 0 : 1;
  }
  return n;
}

}  // namespace lw
