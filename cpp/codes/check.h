// Which candidates of a group a step leaves to each of several queries: what follows the products of a tile.
#pragma once

#include "../isa/isa.h"

namespace lw::LW_ISA {
namespace {

// What check reads of its queries, side by side and with the signs that a fused multiply-add wants.
struct CheckedQueries {
  std::size_t n;
  const float* limits;
  float scale[kScreenQueries];
  float residual_weight[kScreenQueries];
  const float* tail_weights[kScreenQueries];

  CheckedQueries(const CodeQuery* queries, std::size_t n_queries, const float* bounds) : n(n_queries), limits(bounds) {
    for (std::size_t q = 0; q < n; ++q) {
      scale[q] = -queries[q].scale;
      residual_weight[q] = -queries[q].residual_weight;
      tail_weights[q] = queries[q].tail_weights;
    }
  }
};

// alive, estimates and quads_read are those of screen_tile. Returns whether any query has a candidate left.
LW_INLINE bool check(const CodeFront& front, std::size_t group, std::size_t step, const CheckedQueries& queries,
                     const std::int32_t (*products)[kLanes], std::uint16_t* alive, float* estimates,
                     std::uint64_t* quads_read) {
  const std::size_t at = group * kLanes;
  const F32 base = load(front.base + at);
  const F32 residual = load_bf16(front.residuals + at);
  const F32 tail = load_bf16(front.tails + step * front.tail_stride + at);
  const bool last = step + 1 == front.n_steps;
  const std::uint32_t next_quads = last ? 0 : front.ends[step + 1] - front.ends[step];
  std::uint32_t any = 0;
  for (std::size_t q = 0; q < queries.n; ++q) {
    const F32 estimate = fma(set(queries.scale[q]), to_f32(load_i32(products[q])), base);
    const F32 coded = fma(set(queries.residual_weight[q]), residual, estimate);
    const F32 lower = fma(set(-queries.tail_weights[q][step]), tail, coded);
    std::uint16_t& mask = alive[q * kScreenGroups + group];
    mask &= static_cast<std::uint16_t>(bits(greater(set(queries.limits[q]), lower)));
    if (mask != 0) store(estimates + (q * kScreenGroups + group) * kLanes, estimate);
    if (!last) quads_read[q] += count(mask) * next_quads;
    any |= mask;
  }
  return any != 0;
}

}  // namespace
}  // namespace lw::LW_ISA
