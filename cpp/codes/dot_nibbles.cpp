// Products of whole rows of four-bit codes with the query's byte codes: two codes a byte, split by a mask and a shift.
#include "far_rows.h"

namespace lw::LW_ISA {

void dot_nibbles(const std::int8_t* query, std::int32_t query_sum, const std::int8_t* rows, std::size_t stride,
                 const std::int64_t* positions, std::size_t n_positions, std::size_t n, std::int32_t* out) {
  far_rows(rows, stride, positions, n_positions, n / 2, 8 * query_sum, out,
           [&](I32 sum, const std::int8_t* row, std::size_t byte) { return dot_nibbles4(sum, row, query + 2 * byte); });
}

}  // namespace lw::LW_ISA
