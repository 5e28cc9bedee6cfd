// Rows added up in double precision, in their order: the sum of a cluster.
//
// Every dimension is a chain of its own, so the compiler's vectors of them cannot change a bit.
#include "../isa/isa.h"

namespace lw::LW_ISA {

void add_rows(const float* rows, const std::uint32_t* ids, std::size_t n, std::size_t dim, const double* weights,
              double* sum) {
  constexpr std::size_t kAhead = 4;
  constexpr std::size_t kLine = 64 / sizeof(float);
  for (std::size_t m = 0; m < n; ++m) {
    if (m + kAhead < n) {
      const float* const next = rows + static_cast<std::size_t>(ids[m + kAhead]) * dim;
      for (std::size_t d = 0; d < dim; d += kLine) LW_PREFETCH(next + d);
    }
    const float* const row = rows + static_cast<std::size_t>(ids[m]) * dim;
    if (weights == nullptr) {
      for (std::size_t d = 0; d < dim; ++d) sum[d] += static_cast<double>(row[d]);
    } else {
      const double weight = weights[ids[m]];
      for (std::size_t d = 0; d < dim; ++d) sum[d] += weight * static_cast<double>(row[d]);
    }
  }
}

}  // namespace lw::LW_ISA
