// Products of whole rows of two-bit codes with the query's byte codes: four codes a byte, split by masks and shifts.
#include "far_rows.h"

namespace lw::LW_ISA {

void dot_crumbs(const std::int8_t* query, std::int32_t query_sum, const std::int8_t* rows, std::size_t stride,
                const std::int64_t* positions, std::size_t n_positions, std::size_t n, std::int32_t* out) {
  far_rows(rows, stride, positions, n_positions, n / 4, 2 * query_sum, out,
           [&](I32 sum, const std::int8_t* row, std::size_t byte) { return dot_crumbs4(sum, row, query + 4 * byte); });
}

}  // namespace lw::LW_ISA
