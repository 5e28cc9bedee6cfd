// What follows the products with decoded words: estimates, and which of them are below a limit.
#pragma once

#include "../isa/isa.h"

namespace lw::LW_ISA {
namespace {

// base - factor * (step * product) of one group's candidates, the same for every way to the product.
LW_INLINE F32 value_of(F32 base, F32 factor, F32 negative_step, I32 product) {
  return fma(factor, mul(negative_step, to_f32(product)), base);
}

// For queries [first, last) and one group, whose products those are; alive and estimates are screen_decoded's.
LW_INLINE void estimate(const DecodedRows& rows, std::size_t group, const DecodedQueries& queries,
                        std::size_t n_queries, std::size_t first, std::size_t last,
                        const std::int32_t (*products)[kLanes], std::uint16_t* alive, float* estimates) {
  const F32 base = load(rows.base + group * kLanes);
  const F32 factor = load_bf16(rows.factors + group * kLanes);
  // Nothing in this loop depends on what a candidate turns out to be: a branch would be guessed wrong too often.
  for (std::size_t q = first; q < last; ++q) {
    const I32 product = add(load_i32(products[q - first]), set_i32(-queries.totals[q]));
    const F32 value = value_of(base, factor, set(-queries.steps[q]), product);
    alive[q * kScreenGroups + group] &= static_cast<std::uint16_t>(bits(greater(set(queries.limits[q]), value)));
    store(estimates + (group * n_queries + q) * kLanes, value);
  }
}

}  // namespace
}  // namespace lw::LW_ISA
