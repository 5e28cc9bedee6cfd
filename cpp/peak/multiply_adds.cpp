// As many multiply-adds as registers alone allow: what the products of all others are measured against.
#include "../isa/isa.h"

namespace lw::LW_ISA {

void multiply_adds(std::size_t n, const float* x, const float* y, float* out) {
  constexpr int kChains = kTilePoints * kTilePanels;
  const F32 a = load(x);
  const F32 b = load(y);
  // Chains that began alike would be one to a compiler.
  F32 sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = set(static_cast<float>(i));
  LW_UNROLL_4
  for (std::size_t done = 0; done < n; done += kChains) {
    for (int i = 0; i < kChains; ++i) sums[i] = fma(a, b, sums[i]);
  }
  F32 total = set(0.0f);
  for (int i = 0; i < kChains; ++i) total = add(total, sub(sums[i], set(static_cast<float>(i))));
  store(out, total);
}

}  // namespace lw::LW_ISA
