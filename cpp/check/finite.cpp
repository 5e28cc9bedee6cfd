// Finds NaN and infinities: x - x is zero for a finite x and NaN for any other, and a NaN in a sum stays.
#include "../isa/isa.h"

namespace lw::LW_ISA {

bool all_finite(const float* x, std::size_t n, float scale) {
  constexpr std::size_t kChains = 4;
  const F32 factor = set(scale);
  F32 sum_of[kChains];
  for (F32& chain : sum_of) chain = set(0.0f);
  std::size_t i = 0;
  for (; i + kChains * kLanes <= n; i += kChains * kLanes) {
    for (std::size_t c = 0; c < kChains; ++c) {
      const F32 v = mul(load(x + i + c * kLanes), factor);
      sum_of[c] = add(sum_of[c], sub(v, v));
    }
  }
  for (; i < n; i += kLanes) {
    const F32 v = mul(load_first(x + i, n - i < kLanes ? n - i : kLanes), factor);
    sum_of[0] = add(sum_of[0], sub(v, v));
  }
  return sum(add(add(sum_of[0], sum_of[1]), add(sum_of[2], sum_of[3]))) == 0.0f;
}

}  // namespace lw::LW_ISA
