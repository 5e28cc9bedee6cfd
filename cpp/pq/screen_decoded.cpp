// The first pass over product codes for several queries at once: rows that were decoded for all of them meet each.
//
// Four queries share a pass over a group, so that a load of coordinates feeds four products. Sums are integers: the
// order in which they are added up cannot change them.
#include <cstring>

#include "../isa/isa.h"
#include "estimate.h"

namespace lw::LW_ISA {
namespace {

// The products of one group with Q queries.
template <std::size_t Q>
LW_INLINE void multiply(const std::int8_t* codes, const std::int8_t* queries, std::size_t n_quads,
                        std::int32_t (*products)[kLanes]) {
  I32 sum[Q];
  for (std::size_t q = 0; q < Q; ++q) sum[q] = set_i32(0);
  for (std::size_t j = 0; j < n_quads; ++j) {
    for (std::size_t q = 0; q < Q; ++q) {
      std::int32_t four;
      std::memcpy(&four, queries + 4 * (q * n_quads + j), sizeof(four));
      sum[q] = dot4_positive(sum[q], codes + j * kLanes * 4, four);
    }
  }
  for (std::size_t q = 0; q < Q; ++q) store(products[q], sum[q]);
}

}  // namespace

void screen_decoded(const DecodedRows& rows, std::size_t n_groups, const DecodedQueries& queries, std::size_t n_queries,
                    std::uint16_t* alive, float* estimates) {
  constexpr std::size_t kTogether = 4;
  std::int32_t products[kTogether][kLanes];
  for (std::size_t g = 0; g < n_groups; ++g) {
    const std::int8_t* const codes = rows.codes + g * rows.n_quads * kLanes * 4;
    std::size_t q = 0;
    for (; q + kTogether <= n_queries; q += kTogether) {
      multiply<kTogether>(codes, queries.codes + 4 * q * rows.n_quads, rows.n_quads, products);
      estimate(rows, g, queries, n_queries, q, q + kTogether, products, alive, estimates);
    }
    for (; q < n_queries; ++q) {
      multiply<1>(codes, queries.codes + 4 * q * rows.n_quads, rows.n_quads, products);
      estimate(rows, g, queries, n_queries, q, q + 1, products, alive, estimates);
    }
  }
}

}  // namespace lw::LW_ISA
