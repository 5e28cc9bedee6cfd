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
  LW_INLINE std::uint16_t below(F32 limit, I32 products, F32 scale, F32 residual_weight, F32 tail_weight,
                                F32& estimate) const {
    estimate = fma(scale, to_f32(products), base);
    const F32 lower = fma(tail_weight, tail, fma(residual_weight, residual, estimate));
    return static_cast<std::uint16_t>(bits(greater(limit, lower)));
  }
};

// What check reads of its queries, side by side and with the signs that a fused multiply-add wants.
struct CheckedQueries {
  std::size_t n;
  const CodeQuery* queries;
  const float* limits;
  bool shifted = false;  // any of them, at any step
  float last_scale[kScreenQueries];
  float residual_weight[kScreenQueries];
  float last_tail_weight[kScreenQueries];

  CheckedQueries(const CodeFront& front, const CodeQuery* some, std::size_t n_queries, const float* bounds)
      : n(n_queries), queries(some), limits(bounds) {
    for (std::size_t q = 0; q < n; ++q) {
      for (std::size_t step = 1; step < front.n_steps; ++step) shifted |= queries[q].shifts[step] > 0;
      last_scale[q] = -queries[q].scales[front.n_steps - 1];
      residual_weight[q] = -queries[q].residual_weight;
      last_tail_weight[q] = -queries[q].tail_weights[front.n_steps - 1];
    }
  }
};

// What a step leaves of a group to queries [first, last), whose products those are: alive, estimates and quads_read are
// screen_tile's. Returns whether any query has a candidate left and a step to come.
LW_INLINE bool check(const CodeFront& front, std::size_t group, std::size_t step, const CheckedQueries& queries,
                     std::size_t first, std::size_t last, const std::int32_t (*products)[kLanes], std::uint16_t* alive,
                     float* estimates, std::uint64_t* quads_read) {
  const Stored stored(front, group, step);
  F32 estimate;
  if (step + 1 == front.n_steps) {
    // Nothing in this loop depends on what a candidate turns out to be: a branch would be guessed wrong too often.
    for (std::size_t q = first; q < last; ++q) {
      alive[q * kScreenGroups + group] &=
          stored.below(set(queries.limits[q]), load_i32(products[q - first]), set(queries.last_scale[q]),
                       set(queries.residual_weight[q]), set(queries.last_tail_weight[q]), estimate);
      store(estimates + (group * kScreenQueries + q) * kLanes, estimate);
    }
    return false;
  }
  const std::uint32_t next_quads = front.ends[step + 1] - front.ends[step];
  std::uint32_t any = 0;
  for (std::size_t q = first; q < last; ++q) {
    std::uint16_t& mask = alive[q * kScreenGroups + group];
    mask &= stored.below(set(queries.limits[q]), load_i32(products[q - first]), set(-queries.queries[q].scales[step]),
                         set(queries.residual_weight[q]), set(-queries.queries[q].tail_weights[step]), estimate);
    quads_read[q] += count(mask) * next_quads;
    any |= mask;
  }
  return any != 0;
}

}  // namespace
}  // namespace lw::LW_ISA
