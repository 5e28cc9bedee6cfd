// The first pass over byte codes for several queries at once: each group's codes are read once for all of them.
//
// Four queries share a pass over a group, so that a load of codes feeds four products. Sums are integers: the order in
// which they are added up cannot change them, and the answers are those of screen_codes.
#include <cstring>

#include "../isa/isa.h"
#include "check.h"

namespace lw::LW_ISA {
namespace {

// Adds the step's products of one group with Q queries.
template <std::size_t Q>
LW_INLINE void accumulate(const std::int8_t* codes, const CodeQuery* queries, std::size_t begin, std::size_t end,
                          std::size_t step, std::int32_t (*products)[kLanes]) {
  I32 sum[Q];
  for (std::size_t q = 0; q < Q; ++q) {
    const I32 before = shift_left(load_i32(products[q]), queries[q].shifts[step]);
    sum[q] = add(before, set_i32(-kCodeBias * queries[q].sums[step]));
  }
  for (std::size_t j = begin; j < end; ++j) {
    for (std::size_t q = 0; q < Q; ++q) {
      std::int32_t four;
      std::memcpy(&four, queries[q].codes + 4 * j, sizeof(four));
      sum[q] = dot4(sum[q], codes + (j - begin) * kLanes * 4, four);
    }
  }
  for (std::size_t q = 0; q < Q; ++q) store(products[q], sum[q]);
}

}  // namespace

void screen_tile(const CodeFront& front, std::size_t n_groups, const CodeQuery* queries, std::size_t n_queries,
                 const float* limits, std::uint16_t* alive, float* estimates, std::uint64_t* quads_read) {
  constexpr std::size_t kTogether = 4;
  const CheckedQueries checked(front, queries, n_queries, limits);
  for (std::size_t g = 0; g < n_groups; ++g) {
    std::int32_t products[kScreenQueries][kLanes] = {};
    std::size_t begin = 0;
    for (std::size_t step = 0; step < front.n_steps; ++step) {
      const std::size_t end = front.ends[step];
      const std::int8_t* const codes = front.codes[step] + g * (end - begin) * kLanes * 4;
      std::size_t q = 0;
      for (; q + kTogether <= n_queries; q += kTogether) {
        accumulate<kTogether>(codes, queries + q, begin, end, step, products + q);
      }
      for (; q < n_queries; ++q) accumulate<1>(codes, queries + q, begin, end, step, products + q);
      begin = end;
      if (step >= front.first_look &&
          !check(front, g, step, checked, 0, n_queries, products, alive, estimates, quads_read)) {
        break;
      }
    }
  }
}

}  // namespace lw::LW_ISA
