// As many products of codes as registers alone allow: what those of all others are measured against.
#include <cstring>

#include "../isa/isa.h"

namespace lw::LW_ISA {

void multiply_add_codes(std::size_t n, const std::int8_t* codes, const std::int8_t* query, std::int32_t* out) {
  constexpr int kChains = kTilePoints * kTilePanels;
  std::int32_t four;
  std::memcpy(&four, query, sizeof(four));
  // Chains that began alike would be one to a compiler.
  constexpr std::int32_t kBegun = kChains * (kChains - 1) / 2;
  I32 sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = set_i32(i);
  LW_UNROLL_4
  for (std::size_t done = 0; done < n; done += kChains) {
    for (int i = 0; i < kChains; ++i) sums[i] = dot4(sums[i], codes, four);
  }
  const auto bias = static_cast<std::uint32_t>(kCodeBias * (query[0] + query[1] + query[2] + query[3]));
  I32 total = set_i32(static_cast<std::int32_t>(0u - bias * static_cast<std::uint32_t>(n)) - kBegun);
  for (int i = 0; i < kChains; ++i) total = add(total, sums[i]);
  store(out, total);
}

}  // namespace lw::LW_ISA
