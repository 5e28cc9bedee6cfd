// Where coded points lie: sixteen of them side by side, 64 dimensions at a time, coarse codes before fine ones.
#pragma once

#include "../isa/isa.h"

namespace lw::LW_ISA {
namespace {

inline constexpr std::size_t kStretch = 64;                      // dimensions
inline constexpr std::size_t kStretchBytes = kLanes * kStretch;  // of sixteen points, one of the two codes

// The coarse codes of point i for the stretch that dimension d, a multiple of kStretch, begins.
LW_INLINE std::size_t code_place(std::size_t i, std::size_t d, std::size_t stride) {
  return i / kLanes * kLanes * 2 * stride + d * 2 * kLanes + i % kLanes * kStretch;
}

}  // namespace
}  // namespace lw::LW_ISA
