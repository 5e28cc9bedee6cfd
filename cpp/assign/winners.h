// The running winners of a point over panels of centroids, and whether one is left when all coded ones have passed.
#pragma once

#include <limits>

#include "../isa/isa.h"

namespace lw::LW_ISA {
namespace {

// The i-th panel to be met, of either kind.
template <class AnyPanels>
LW_INLINE std::uint32_t panel_id(const AnyPanels& panels, std::size_t i) {
  return panels.ids == nullptr ? static_cast<std::uint32_t>(i) : panels.ids[i];
}

// Sixteen winners of each point, one for each lane, and the best that each lane has seen beside its winner.
struct Winners {
  float* score;
  std::int32_t* panel;
  float* second;

  Winners(void* scratch, std::size_t n_points)
      : score(static_cast<float*>(scratch)),
        panel(static_cast<std::int32_t*>(scratch) + n_points * kLanes),
        second(static_cast<float*>(scratch) + 2 * n_points * kLanes) {}

  LW_INLINE void clear(std::size_t n_points) const {
    constexpr float kLowest = -std::numeric_limits<float>::infinity();
    const F32 lowest = set(kLowest);
    for (std::size_t i = 0; i < n_points; ++i) {
      store(score + i * kLanes, lowest);
      store(panel + i * kLanes, set_i32(0));
      store(second + i * kLanes, lowest);
    }
  }

  // N panels, which ids names: their products of coarse codes, and of coarse with fine ones, lie `stride` apart.
  template <std::size_t N>
  LW_INLINE void meet(std::size_t point, float weight, const std::int32_t* coarse, const std::int32_t* fine,
                      std::size_t stride, const float* bias, const std::uint32_t* ids) const {
    F32 best = load(score + point * kLanes);
    I32 where = load_i32(panel + point * kLanes);
    F32 runner_up = load(second + point * kLanes);
    for (std::size_t j = 0; j < N; ++j) {
      const F32 product =
          fma(to_f32(load_i32(coarse + j * stride)), set(kFineSteps), to_f32(load_i32(fine + j * stride)));
      const F32 found = fma(set(weight), load(bias + ids[j] * kLanes), product);
      const Mask better = greater(found, best);
      runner_up = max(runner_up, min(best, found));
      best = max(best, found);
      where = select(better, set_i32(static_cast<std::int32_t>(ids[j])), where);
    }
    store(score + point * kLanes, best);
    store(panel + point * kLanes, where);
    store(second + point * kLanes, runner_up);
  }

  // The label of the best, -1 if another is no more than `doubt` behind it.
  LW_INLINE std::int32_t certain(std::size_t point, float doubt) const {
    const float* const lanes = score + point * kLanes;
    std::size_t winner = 0;
    for (std::size_t lane = 1; lane < kLanes; ++lane) winner = lanes[lane] > lanes[winner] ? lane : winner;
    const F32 behind = set(lanes[winner] - doubt);
    const std::uint32_t out = bits(greater(behind, load(second + point * kLanes)));
    const std::uint32_t others = bits(greater(behind, load(lanes))) | 1u << winner;
    if ((out & others) != 0xFFFF) return -1;
    return panel[point * kLanes + winner] * static_cast<std::int32_t>(kLanes) + static_cast<std::int32_t>(winner);
  }
};

}  // namespace
}  // namespace lw::LW_ISA
