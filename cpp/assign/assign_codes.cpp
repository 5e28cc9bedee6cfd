// Coded points times coded centroids in register tiles: who may be the nearest, without a float product.
//
// Sums are integers, so the tile's shape cannot change them. A panel of sixteen centroids has one centroid per lane.
#include <cstring>

#include "code_layout.h"
#include "winners.h"

namespace lw::LW_ISA {
namespace {

constexpr std::size_t kPoints = 4;  // that share a load of centroids

LW_INLINE std::int32_t four(const std::int8_t* codes) {
  std::int32_t packed;
  std::memcpy(&packed, codes, sizeof(packed));
  return packed;
}

LW_INLINE std::int32_t sum_of(const std::int8_t* codes) {
  std::int32_t sum = 0;
  for (std::size_t d = 0; d < kStretch; ++d) sum += codes[d];
  return sum;
}

LW_INLINE void tile(const std::int8_t* points, std::size_t first, std::size_t stride, const float* weights,
                    const CodedPanels& panels, std::uint32_t panel, const Winners& winners) {
  I32 coarse[kPoints];
  I32 fine[kPoints];
  for (std::size_t i = 0; i < kPoints; ++i) coarse[i] = fine[i] = set_i32(0);
  for (std::size_t d = 0; d < stride; d += kStretch) {
    const std::int8_t* const coarse_codes = panels.codes + 2 * panel * stride * kLanes + d * kLanes;
    const std::int8_t* const fine_codes = coarse_codes + stride * kLanes;
    for (std::size_t i = 0; i < kPoints; ++i) {
      const std::int8_t* const x = points + code_place(first + i, d, stride);
      if constexpr (kCodeBias != 0) {
        const std::int32_t sum = sum_of(x);
        coarse[i] = add(coarse[i], set_i32(-kCodeBias * sum));
        fine[i] = add(fine[i], set_i32(-kCodeBias * (sum + sum_of(x + kStretchBytes))));
      }
      for (std::size_t j = 0; j < kStretch; j += 4) {
        coarse[i] = dot4(coarse[i], coarse_codes + j * kLanes, four(x + j));
        fine[i] = dot4(fine[i], fine_codes + j * kLanes, four(x + j));
        fine[i] = dot4(fine[i], coarse_codes + j * kLanes, four(x + kStretchBytes + j));
      }
    }
  }
  for (std::size_t i = 0; i < kPoints; ++i) {
    std::int32_t products[2][kLanes];
    store(products[0], coarse[i]);
    store(products[1], fine[i]);
    winners.meet<1>(first + i, weights[first + i], products[0], products[1], 0, panels.bias, &panel);
  }
}

}  // namespace

void assign_codes(const std::int8_t* points, std::size_t n_points, std::size_t stride, const float* weights,
                  const float* doubts, const CodedPanels& panels, void* scratch, std::int32_t* near) {
  const Winners winners(scratch, n_points);
  winners.clear(n_points);
  for (std::size_t p = 0; p < panels.n; ++p) {
    for (std::size_t i = 0; i < n_points; i += kPoints)
      tile(points, i, stride, weights, panels, panel_id(panels, p), winners);
  }
  for (std::size_t i = 0; i < n_points; ++i) near[i] = winners.certain(i, doubts[i]);
}

}  // namespace lw::LW_ISA
