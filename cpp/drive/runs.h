// What scans of codes and of bits share: runs of positions, and which of a run's candidates are alive.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "store.h"

namespace lw {

// Positions that one call of a screening kernel looks at.
inline constexpr std::size_t kRun = kScreenGroups * kLanes;

inline std::size_t n_groups(std::size_t n_positions) { return (n_positions + kLanes - 1) / kLanes; }

// visit(at, n) for every run of n positions from `at` on.
template <class Visit>
void for_each_run(const Range* ranges, std::size_t n_ranges, const Visit& visit) {
  for (std::size_t r = 0; r < n_ranges; ++r) {
    const auto begin = static_cast<std::size_t>(ranges[r].begin);
    const auto size = static_cast<std::size_t>(ranges[r].size);
    for (std::size_t at = 0; at < size; at += kRun) visit(begin + at, std::min(kRun, size - at));
  }
}

// Fills a run's masks with the candidates that the request allows. Returns their number.
inline std::size_t allow(const Store& store, const Request& request, std::size_t at, std::size_t n,
                         std::uint16_t* alive) {
  if (request.allowed == nullptr) {
    std::fill_n(alive, n_groups(n), std::uint16_t{0xFFFF});
    if (n % kLanes != 0) alive[n / kLanes] = static_cast<std::uint16_t>((1u << n % kLanes) - 1);
    return n;
  }
  std::size_t n_candidates = 0;
  for (std::size_t first = 0; first < n; first += 64) {
    const std::uint64_t mask = allowed_mask(store, request, at + first, std::min<std::size_t>(64, n - first));
    n_candidates += static_cast<std::size_t>(std::popcount(mask));
    for (std::size_t i = 0; i < 64 && first + i < n; i += kLanes) {
      alive[(first + i) / kLanes] = static_cast<std::uint16_t>(mask >> i);
    }
  }
  return n_candidates;
}

// visit(offset) for every candidate of a run that is alive.
template <class Visit>
void for_each_alive(const std::uint16_t* alive, std::size_t n_groups, const Visit& visit) {
  for (std::size_t first = 0; first < n_groups; first += 4) {
    std::uint64_t mask = 0;
    for (std::size_t g = first; g < std::min(first + 4, n_groups); ++g) {
      mask |= static_cast<std::uint64_t>(alive[g]) << ((g - first) * kLanes);
    }
    for (; mask != 0; mask &= mask - 1) {
      visit(static_cast<std::uint32_t>(first * kLanes) + static_cast<std::uint32_t>(std::countr_zero(mask)));
    }
  }
}

}  // namespace lw
