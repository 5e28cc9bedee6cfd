// Early-terminated distance: one step of dimensions for a block, then the survivors (ADSampling; Gao & Long 2023).
//
// One candidate per lane, so a sum is one chain over the dimensions in order and no lane ever waits for another. Groups
// of sixteen candidates without a survivor are not read: what the scan saves is memory traffic.
#include "../isa/isa.h"

namespace lw::LW_ISA {
namespace {

// Up to four groups share one pass, so that four chains hide each other's latency.
template <int G>
LW_INLINE void accumulate(const float* block, std::size_t width, const float* query, std::size_t begin, std::size_t end,
                          float* partial, const std::size_t* group) {
  F32 sum[G];
  for (int g = 0; g < G; ++g) sum[g] = load(partial + group[g]);
  for (std::size_t d = begin; d < end; ++d) {
    const F32 q = set(query[d]);
    for (int g = 0; g < G; ++g) {
      const F32 difference = sub(q, load(block + d * width + group[g]));
      sum[g] = fma(difference, difference, sum[g]);
    }
  }
  for (int g = 0; g < G; ++g) store(partial + group[g], sum[g]);
}

}  // namespace

std::uint64_t prune(const float* block, std::size_t width, const float* query, std::size_t begin, std::size_t end,
                    float* partial, const float* norms, float offset, float scale, std::uint64_t alive) {
  std::size_t group[kBlock / kLanes];
  int n_groups = 0;
  for (std::size_t first = 0; first < width; first += kLanes) {
    if ((alive >> first & 0xFFFF) != 0) group[n_groups++] = first;
  }
  switch (n_groups) {
    case 0:
      return 0;
    case 1:
      accumulate<1>(block, width, query, begin, end, partial, group);
      break;
    case 2:
      accumulate<2>(block, width, query, begin, end, partial, group);
      break;
    case 3:
      accumulate<3>(block, width, query, begin, end, partial, group);
      break;
    default:
      accumulate<4>(block, width, query, begin, end, partial, group);
  }
  std::uint64_t survivors = 0;
  for (int g = 0; g < n_groups; ++g) {
    const F32 limit = mul(set(scale), add(set(offset), load(norms + group[g])));
    const std::uint64_t below = bits(greater(limit, load(partial + group[g])));
    survivors |= below << group[g];
  }
  return survivors & alive;
}

}  // namespace lw::LW_ISA
