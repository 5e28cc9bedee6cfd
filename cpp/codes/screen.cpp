// The first pass over byte codes: integer products a few dimensions at a time, and a lower bound that drops candidates.
//
// One candidate per lane and four dimensions per 32-bit word, so a step is a run of byte products without a single
// shuffle. Groups of sixteen candidates without a survivor are not read on.
#include <cstring>

#include "../isa/isa.h"
#include "check.h"

namespace lw::LW_ISA {
namespace {

constexpr std::size_t kTogether = 4;  // groups whose chains hide each other's latency

struct Range {
  std::size_t begin, end;  // quads
};

template <std::size_t G>
LW_INLINE void accumulate(const CodeFront& front, const CodeQuery& query, const Range& range, std::int32_t step_sum,
                          const std::size_t* group, const std::size_t* slot, std::int32_t (*products)[kLanes]) {
  I32 sum[G];
  const std::int8_t* codes[G];
  const I32 unbias = set_i32(-kCodeBias * step_sum);
  for (std::size_t g = 0; g < G; ++g) {
    sum[g] = add(load_i32(products[slot[g]]), unbias);
    codes[g] = front.codes + group[g] * front.n_quads * kLanes * 4;
  }
  for (std::size_t j = range.begin; j < range.end; ++j) {
    std::int32_t q;
    std::memcpy(&q, query.codes + 4 * j, sizeof(q));
    for (std::size_t g = 0; g < G; ++g) sum[g] = dot4(sum[g], codes[g] + j * kLanes * 4, q);
  }
  for (std::size_t g = 0; g < G; ++g) store(products[slot[g]], sum[g]);
}

}  // namespace

void screen_codes(const CodeFront& front, std::size_t n_groups, const CodeQuery& query, float limit,
                  std::uint16_t* alive, float* estimates, std::uint64_t* quads_read) {
  const F32 scale = set(-query.scale);
  const F32 residual_weight = set(-query.residual_weight);
  const F32 highest = set(limit);
  for (std::size_t first = 0; first < n_groups; first += kTogether) {
    const std::size_t last = first + kTogether < n_groups ? first + kTogether : n_groups;
    std::int32_t products[kTogether][kLanes] = {};
    std::size_t begin = 0;
    for (std::size_t step = 0; step < front.n_steps; ++step) {
      std::size_t group[kTogether];
      std::size_t slot[kTogether];
      std::size_t n = 0;
      for (std::size_t g = first; g < last; ++g) {
        if (alive[g] == 0) continue;
        group[n] = g;
        slot[n++] = g - first;
        if (step > 0) *quads_read += count(alive[g]) * (front.ends[step] - begin);
      }
      if (n == 0) break;
      const Range range{begin, front.ends[step]};
      switch (n) {
        case 1:
          accumulate<1>(front, query, range, query.sums[step], group, slot, products);
          break;
        case 2:
          accumulate<2>(front, query, range, query.sums[step], group, slot, products);
          break;
        case 3:
          accumulate<3>(front, query, range, query.sums[step], group, slot, products);
          break;
        default:
          accumulate<4>(front, query, range, query.sums[step], group, slot, products);
      }
      begin = range.end;
      const F32 tail_weight = set(-query.tail_weights[step]);
      for (std::size_t i = 0; i < n; ++i) {
        std::uint16_t& mask = alive[group[i]];
        F32 estimate;
        mask &= Stored(front, group[i], step)
                    .below(highest, products[slot[i]], scale, residual_weight, tail_weight, estimate);
        if (mask != 0) store(estimates + group[i] * kLanes, estimate);
      }
    }
  }
}

}  // namespace lw::LW_ISA
