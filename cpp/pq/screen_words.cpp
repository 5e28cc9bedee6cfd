// The first pass over codes of a byte each: what a code word adds to a product stands in a table of 256 floats.
//
// Sixteen candidates lie side by side and each lane reads the entry of its own code, so that a sum is one chain over
// the sub-spaces in order.
#include "../isa/isa.h"

namespace lw::LW_ISA {
namespace {

constexpr std::size_t kWords = 256;
constexpr std::size_t kAhead = 1024;

}  // namespace

void screen_words(const BitRows& rows, std::size_t n_groups, const float* tables, float limit, std::uint16_t* alive,
                  float* estimates) {
  const F32 highest = set(limit);
  for (std::size_t g = 0; g < n_groups; ++g) {
    if (alive[g] == 0) continue;
    const std::uint8_t* const codes = rows.bits + g * rows.n_bytes * kLanes;
    F32 product = set(0.0f);
    for (std::size_t j = 0; j < rows.n_bytes; ++j) {
      LW_PREFETCH(codes + j * kLanes + kAhead);
      product = add(product, gather(tables + j * kWords, codes + j * kLanes));
    }
    const std::size_t at = g * kLanes;
    const F32 part = sub(set(0.0f), product);
    const F32 estimate = fma(load_bf16(rows.factors + at), part, load(rows.base + at));
    alive[g] &= static_cast<std::uint16_t>(bits(greater(highest, estimate)));
    if (alive[g] != 0) store(estimates + at, estimate);
  }
}

}  // namespace lw::LW_ISA
