// The loop over rows of codes that lie far apart: four together, and those that come next on their way into the cache.
#pragma once

#include "../isa/isa.h"

namespace lw::LW_ISA {
namespace {

// out[i] = sum of product(acc, row, byte) over a row's n bytes, minus unbias. product takes 64 bytes at a time.
template <class Product>
LW_INLINE void far_rows(const std::int8_t* rows, std::size_t stride, const std::int64_t* positions,
                        std::size_t n_positions, std::size_t n, std::int32_t unbias, std::int32_t* out,
                        const Product& product) {
  constexpr std::size_t kBytes = 4 * kLanes;
  constexpr std::size_t kTogether = 4;  // rows whose chains hide each other's latency
  constexpr std::size_t kAhead = 8;
  const auto at = [&](std::size_t i) {
    return rows + static_cast<std::size_t>(positions[i < n_positions ? i : n_positions - 1]) * stride;
  };
  const auto prefetch = [&](std::size_t i) {
    if (i >= n_positions) return;
    for (std::size_t byte = 0; byte < n; byte += kBytes) LW_PREFETCH(at(i) + byte);
  };
  for (std::size_t i = 0; i < kAhead; ++i) prefetch(i);
  for (std::size_t i = 0; i < n_positions; i += kTogether) {
    const std::int8_t* row[kTogether];
    I32 sum[kTogether];
    for (std::size_t r = 0; r < kTogether; ++r) {
      row[r] = at(i + r);
      prefetch(i + kAhead + r);
      sum[r] = set_i32(0);
    }
    for (std::size_t byte = 0; byte < n; byte += kBytes) {
      for (std::size_t r = 0; r < kTogether; ++r) sum[r] = product(sum[r], row[r] + byte, byte);
    }
    std::int32_t total[kTogether];
    sum4(sum, total);
    for (std::size_t r = 0; r < kTogether && i + r < n_positions; ++r) out[i + r] = total[r] - unbias;
  }
}

}  // namespace
}  // namespace lw::LW_ISA
