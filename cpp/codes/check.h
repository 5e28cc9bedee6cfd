// Which candidates of a group a step leaves: what follows the products.
#pragma once

#include "../isa/isa.h"

namespace lw::LW_ISA {
namespace {

// What is stored beside the codes of a group, for the bound of one step.
struct Stored {
  F32 base, residual, tail;

  LW_INLINE Stored(const CodeFront& front, std::size_t group, std::size_t step)
      : base(load(front.base + group * kLanes)),
        residual(load_bf16(front.residuals + group * kLanes)),
        tail(load_bf16(front.tails + step * front.tail_stride + group * kLanes)) {}

  // The candidates whose lower bound is below the limit. scale and weights are negative.
  LW_INLINE std::uint16_t below(F32 limit, const std::int32_t* products, F32 scale, F32 residual_weight,
                                F32 tail_weight, F32& estimate) const {
    estimate = fma(scale, to_f32(load_i32(products)), base);
    const F32 lower = fma(tail_weight, tail, fma(residual_weight, residual, estimate));
    return static_cast<std::uint16_t>(bits(greater(limit, lower)));
  }
};

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
  const Stored stored(front, group, step);
  const bool last = step + 1 == front.n_steps;
  const std::uint32_t next_quads = last ? 0 : front.ends[step + 1] - front.ends[step];
  std::uint32_t any = 0;
  for (std::size_t q = 0; q < queries.n; ++q) {
    F32 estimate;
    std::uint16_t& mask = alive[q * kScreenGroups + group];
    mask &= stored.below(set(queries.limits[q]), products[q], set(queries.scale[q]), set(queries.residual_weight[q]),
                         set(-queries.tail_weights[q][step]), estimate);
    if (mask != 0) store(estimates + (q * kScreenGroups + group) * kLanes, estimate);
    if (!last) quads_read[q] += count(mask) * next_quads;
    any |= mask;
  }
  return any != 0;
}

}  // namespace
}  // namespace lw::LW_ISA
