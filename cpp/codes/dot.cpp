// Products of whole rows of byte codes with the query's: the second pass, on the candidates that the first one left.
#include "far_rows.h"

namespace lw::LW_ISA {

void dot_codes(const std::int8_t* query, std::int32_t query_sum, const std::int8_t* rows, std::size_t stride,
               const std::int64_t* positions, std::size_t n_positions, std::size_t n, std::int32_t* out) {
  far_rows(rows, stride, positions, n_positions, n, kCodeBias * query_sum, out,
           [&](I32 sum, const std::int8_t* row, std::size_t byte) { return dot4(sum, row, query + byte); });
}

}  // namespace lw::LW_ISA
