// The first pass over byte codes: integer products a few dimensions at a time, and a lower bound that drops candidates.
//
// One candidate per lane and four dimensions per 32-bit word, so a step is a run of byte products without a single
// shuffle. A step reads its own plane, and of it only the groups of sixteen candidates that have a survivor: they are
// asked for ahead, as soon as they are known.
#include <cstring>

#include "../isa/isa.h"
#include "check.h"

namespace lw::LW_ISA {
namespace {

constexpr std::size_t kTogether = 4;  // groups whose chains hide each other's latency
constexpr std::size_t kLine = 64;
constexpr std::size_t kAhead = 8192;  // bytes: what the next groups will read

// What a step is asked, the same for all groups.
struct Step {
  const CodeFront& front;
  std::size_t index;
  std::size_t n_quads;
  const std::int8_t* query;
  std::int32_t shift;
  I32 unbias;
  F32 limit, scale, residual_weight, tail_weight;
};

// The step's products of G groups, on top of those of the steps before, and which candidates they leave.
template <std::size_t G>
LW_INLINE void screen(const Step& step, const std::uint32_t* groups, std::int32_t (*products)[kLanes],
                      std::uint16_t* masks, F32* estimates) {
  I32 sum[G];
  const std::int8_t* at[G];
  for (std::size_t g = 0; g < G; ++g) {
    sum[g] = step.index == 0 ? step.unbias : add(shift_left(load_i32(products[groups[g]]), step.shift), step.unbias);
    at[g] = step.front.codes[step.index] + groups[g] * step.n_quads * kLanes * 4;
  }
  for (std::size_t j = 0; j < step.n_quads; ++j) {
    std::int32_t q;
    std::memcpy(&q, step.query + 4 * j, sizeof(q));
    for (std::size_t g = 0; g < G; ++g) {
      LW_PREFETCH_FAR(at[g] + j * kLanes * 4 + kAhead);
      sum[g] = dot4(sum[g], at[g] + j * kLanes * 4, q);
    }
  }
  for (std::size_t g = 0; g < G; ++g) store(products[groups[g]], sum[g]);
  if (step.index < step.front.first_look) return;
  for (std::size_t g = 0; g < G; ++g) {
    masks[g] = Stored(step.front, groups[g], step.index)
                   .below(step.limit, sum[g], step.scale, step.residual_weight, step.tail_weight, estimates[g]);
  }
}

}  // namespace

void screen_codes(const CodeFront& front, std::size_t n_groups, const CodeQuery& query, float limit,
                  std::uint16_t* alive, float* estimates, std::uint64_t* quads_read) {
  std::int32_t products[kScreenGroups][kLanes];
  std::uint32_t groups[kScreenGroups];
  std::size_t n = 0;
  for (std::size_t g = 0; g < n_groups; ++g) {
    groups[n] = static_cast<std::uint32_t>(g);
    n += alive[g] != 0 ? 1 : 0;
  }
  std::size_t begin = 0;
  for (std::size_t index = 0; index < front.n_steps; ++index) {
    const Step step{front,
                    index,
                    front.ends[index] - begin,
                    query.codes + 4 * begin,
                    query.shifts[index],
                    set_i32(-kCodeBias * query.sums[index]),
                    set(limit),
                    set(-query.scales[index]),
                    set(-query.residual_weight),
                    set(-query.tail_weights[index])};
    const bool last = index + 1 == front.n_steps;
    const std::size_t next_quads = last ? 0 : front.ends[index + 1] - front.ends[index];
    const std::size_t next_bytes = next_quads * kLanes * 4;
    std::size_t kept = 0;
    for (std::size_t first = 0; first < n; first += kTogether) {
      const std::size_t m = first + kTogether < n ? kTogether : n - first;
      const std::uint32_t* const some = groups + first;
      std::uint16_t masks[kTogether] = {0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF};
      F32 estimate[kTogether];
      switch (m) {
        case 1:
          screen<1>(step, some, products, masks, estimate);
          break;
        case 2:
          screen<2>(step, some, products, masks, estimate);
          break;
        case 3:
          screen<3>(step, some, products, masks, estimate);
          break;
        default:
          screen<4>(step, some, products, masks, estimate);
      }
      for (std::size_t i = 0; i < m; ++i) {
        const std::uint32_t group = some[i];
        const std::uint16_t mask = alive[group] &= masks[i];
        if (mask == 0) continue;
        groups[kept++] = group;  // never ahead of what is still to be read
        if (last) {
          store(estimates + group * kLanes, estimate[i]);
          continue;
        }
        if (index >= front.first_look) *quads_read += count(mask) * next_quads;
        for (std::size_t b = 0; b < next_bytes; b += kLine) {
          LW_PREFETCH_FAR(front.codes[index + 1] + group * next_bytes + b);
        }
        LW_PREFETCH(front.tails + (index + 1) * front.tail_stride + group * kLanes);
      }
    }
    n = kept;
    begin = front.ends[index];
  }
}

}  // namespace lw::LW_ISA
